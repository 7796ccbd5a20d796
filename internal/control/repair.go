package control

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// repairFor is above what a repair may take.
const repairFor = 5 * time.Minute

// Repair is what was to be repaired, in order.
type Repair struct {
	Steps []engine.Step `json:"steps"`
	// Notes say what an operator should know beside.
	Notes []string `json:"notes,omitempty"`
}

// repairRoute is POST /v1/repair.
func repairRoute(src Source, handle func(string, func(*http.Request) (any, error))) {
	handle("POST /v1/repair", func(r *http.Request) (any, error) {
		dry := false
		if text := r.URL.Query().Get("dry_run"); text != "" {
			var err error
			if dry, err = strconv.ParseBool(text); err != nil {
				return nil, lan.Refusef(lan.ErrInvalid, "dry_run %q is neither true nor false", clip(text))
			}
		}
		// Once begun it goes to its end, whoever hangs up.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), repairFor)
		defer cancel()
		done := src.Repair(ctx, dry)
		done.Steps = orEmpty(done.Steps)
		return done, nil
	})
}

// Repair compares what Docker, the records and the kernel have, and mends what does not fit;
// with dry it only says what it would do. It blocks for as long as that takes.
func (c *Client) Repair(ctx context.Context, dry bool) (*Repair, error) {
	ctx, cancel := context.WithTimeout(ctx, repairFor+5*time.Second)
	defer cancel()
	var done Repair
	if err := c.send(ctx, &c.patient, http.MethodPost, "repair"+query("dry_run", strconv.FormatBool(dry)), nil, c.decodeInto(&done)); err != nil {
		return nil, err
	}
	return &done, nil
}
