package control

import (
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// renewFor is above what a renewal may take: an attempt at it, and the longest
// dhcp_timeout for another address where the server takes the old one back.
const renewFor = 150 * time.Second

// eventFor is how long somebody who follows events may take to read them.
const eventFor = 10 * time.Second

// leaseRoutes are the routes of DHCP leases.
func leaseRoutes(src Source, handle func(string, func(*http.Request) (any, error))) {
	handle("GET /v1/leases", func(r *http.Request) (any, error) {
		if !r.URL.Query().Has("network") {
			return orEmpty(src.Leases()), nil
		}
		n, err := find(src.Networks(), r.URL.Query().Get("network"))
		if err != nil {
			return nil, err
		}
		return slices.DeleteFunc(orEmpty(src.Leases()), func(l ipam.LeaseState) bool { return l.Network != n.ID }), nil
	})
	handle("GET /v1/leases/{id}", func(r *http.Request) (any, error) { return src.Lease(r.PathValue("id")) })
	handle("POST /v1/leases/{id}/renew", func(r *http.Request) (any, error) {
		// Once begun it goes to its end, whoever hangs up.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), renewFor)
		defer cancel()
		ctx, stop := src.untilStop(ctx)
		defer stop()
		return src.RenewLease(ctx, r.PathValue("id"))
	})
	handle("POST /v1/leases/{id}/release", func(r *http.Request) (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), renewFor)
		defer cancel()
		return src.ReleaseLease(ctx, r.PathValue("id"))
	})
}

// untilStop is ctx, which ends too when the daemon is to stop. The caller calls stop.
func (src *Source) untilStop(ctx context.Context) (_ context.Context, stop context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-src.Stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// serveEvents answers GET /v1/events.
func serveEvents(src Source, log *slog.Logger) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		after, follow, err := readEvents(r)
		if err != nil {
			reply(w, log, nil, err)
			return
		}
		ctx, stop := src.untilStop(r.Context())
		defer stop()
		list := func(wait bool) (some []ipam.Event, err error) {
			_, err = guarded(func(*http.Request) (any, error) {
				some = src.Events(ctx, after, wait)
				return nil, nil
			}, r, log)
			return some, err
		}
		some, err := list(false)
		if err != nil || !follow {
			reply(w, log, orEmpty(some), err)
			return
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		w.WriteHeader(http.StatusOK)
		lines, conn := json.NewEncoder(w), http.NewResponseController(w)
		for {
			// Who does not read is let go. A writer that has no deadline is none of net/http's.
			_ = conn.SetWriteDeadline(time.Now().Add(eventFor))
			for _, e := range some {
				after = e.Seq
				err = lines.Encode(e)
			}
			if err == nil {
				err = conn.Flush()
			}
			if err != nil {
				log.Debug("answer lost", keyErr, err)
				return
			}
			// There is none when ctx has ended.
			if some, err = list(true); err != nil || len(some) == 0 {
				return
			}
		}
	}
}

// readEvents reads the query of GET /v1/events.
func readEvents(r *http.Request) (after uint64, follow bool, err error) {
	query := r.URL.Query()
	if query.Has("after") {
		if after, err = strconv.ParseUint(query.Get("after"), 10, 64); err != nil {
			return 0, false, lan.Refusef(lan.ErrInvalid, "after %q is not the seq of an event", clip(query.Get("after")))
		}
	}
	if query.Has("follow") {
		if follow, err = strconv.ParseBool(query.Get("follow")); err != nil {
			return 0, false, lan.Refusef(lan.ErrInvalid, "follow %q is neither true nor false", clip(query.Get("follow")))
		}
	}
	return after, follow, nil
}
