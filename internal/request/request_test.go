package request

import (
	"bytes"
	"context"
	"log/slog"
	"strings"
	"testing"
)

// A line has the id of its context, also below groups and beside other attributes; one without has none.
func TestLogged(t *testing.T) {
	var b bytes.Buffer
	log := slog.New(Logged(slog.NewTextHandler(&b, nil))).With("a", 1)
	ctx := With(t.Context(), "3f2a")
	log.InfoContext(ctx, "one")
	log.InfoContext(context.WithoutCancel(ctx), "two")
	log.Info("three")
	for i, line := range strings.Split(strings.TrimSpace(b.String()), "\n") {
		if has := strings.HasSuffix(line, " a=1 request=3f2a"); has != (i < 2) {
			t.Errorf("%s", line)
		}
	}
	if a, b := NewID(), NewID(); a == b || len(a) != 8 || ID(ctx) != "3f2a" || ID(t.Context()) != "" {
		t.Errorf("ids %q and %q, %q", a, b, ID(ctx))
	}
}
