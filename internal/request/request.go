// Package request carries the id of what Docker asked for, so that all that is logged and told
// of one container's start can be found by it.
package request

import (
	"context"
	"crypto/rand"
	"log/slog"
	"strings"
)

// Key is the key of the id in a line of the log.
const Key = "request"

type key struct{}

// NewID makes an id: 8 letters and digits, another one each time.
func NewID() string { return strings.ToLower(rand.Text()[:8]) }

// With is a context that carries an id.
func With(ctx context.Context, id string) context.Context { return context.WithValue(ctx, key{}, id) }

// ID is the id that a context carries; "" where it carries none.
func ID(ctx context.Context) string {
	id, _ := ctx.Value(key{}).(string)
	return id
}

// Logged is a handler that adds the id of a line's context to the line, if it has one.
func Logged(h slog.Handler) slog.Handler { return handler{h} }

type handler struct{ slog.Handler }

func (h handler) Handle(ctx context.Context, r slog.Record) error {
	if id := ID(ctx); id != "" {
		r.AddAttrs(slog.String(Key, id))
	}
	return h.Handler.Handle(ctx, r)
}

func (h handler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return handler{h.Handler.WithAttrs(attrs)}
}

func (h handler) WithGroup(name string) slog.Handler { return handler{h.Handler.WithGroup(name)} }
