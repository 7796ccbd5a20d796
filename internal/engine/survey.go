package engine

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/netns"
	"github.com/lanyard-net/lanyard/internal/store"
)

// likelyName is what Docker will call a container's link, unless the container has others
// that we do not know.
func (e *Engine) likelyName(rec lan.Endpoint, sandbox string) string {
	if rec.IfName != "" {
		return rec.IfName
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	others := 0
	for _, ep := range e.endpoints {
		if ep.rec.ID != rec.ID && ep.rec.Sandbox == sandbox && !ep.left {
			others++
		}
	}
	return fmt.Sprintf("eth%d", others)
}

const (
	// surveyRest is how long a container is given to get its links before it is looked into.
	surveyRest = time.Second
	// surveyEvery is how often all are looked into again, for what was changed in them.
	surveyEvery = 10 * time.Minute
)

// unseen are the sandboxes that are to be looked into.
type unseen struct {
	mu    sync.Mutex           // guards what follows
	since map[string]time.Time // by path; when somebody asked
	more  chan struct{}        // has room for one
}

func newUnseen() *unseen { return &unseen{since: map[string]time.Time{}, more: make(chan struct{}, 1)} }

func (u *unseen) add(sandbox string) {
	if sandbox == "" {
		return
	}
	u.mu.Lock()
	u.since[sandbox] = time.Now()
	u.mu.Unlock()
	u.wake()
}

// wake has those that are there looked into. It never blocks.
func (u *unseen) wake() {
	select {
	case u.more <- struct{}{}:
	default: // it was said already
	}
}

// take are those that are there, each with when it was asked for.
func (u *unseen) take() map[string]time.Time {
	u.mu.Lock()
	defer u.mu.Unlock()
	all := u.since
	u.since = map[string]time.Time{}
	return all
}

// keep puts one back, to be looked into again.
func (u *unseen) keep(sandbox string, since time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if _, ok := u.since[sandbox]; !ok {
		u.since[sandbox] = since
	}
}

// survey looks into containers a while after they start or lose a network, and all now and
// then, so that what their links are like is known when the kernel takes them away. It goes
// on until ctx ends.
func (e *Engine) survey(ctx context.Context) {
	var all time.Time
	for {
		if time.Since(all) > surveyEvery {
			all = time.Now()
			e.mu.Lock()
			for _, ep := range e.endpoints {
				if !ep.left {
					e.unseen.add(ep.rec.Sandbox)
				}
			}
			e.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-e.unseen.more:
		case <-time.After(surveyEvery):
			continue
		}
		if !pause(ctx, surveyRest) {
			return
		}
		e.surveyNow()
	}
}

// surveyNow looks into the containers that are unseen.
func (e *Engine) surveyNow() {
	asked := e.unseen.take()
	eps := e.endpointsThat(func(ep *endpoint) bool {
		_, ok := asked[ep.rec.Sandbox]
		return ok && !ep.left
	})
	again := false
	for _, ep := range eps {
		if sandbox, ok := e.surveyOne(ep); !ok && time.Since(asked[sandbox]) < startTime {
			e.unseen.keep(sandbox, asked[sandbox])
			again = true
		}
	}
	if again {
		time.AfterFunc(surveyRest, e.unseen.wake)
	}
}

// surveyOne notes what an endpoint's link is like. It reports false where it is not up yet.
func (e *Engine) surveyOne(ep *endpoint) (sandbox string, ok bool) {
	ep.verb.Lock()
	defer ep.verb.Unlock()
	e.mu.Lock()
	rec, parent := ep.rec, ep.net.parent
	gone := e.endpoints[rec.ID] != ep || ep.left
	e.mu.Unlock()
	if gone || parent == nil || !netns.Alive(rec.Sandbox) {
		return rec.Sandbox, gone
	}
	if _, _, err := e.redo(ep); err != nil {
		e.log.Error("change of a lease not heeded by its container", "endpoint", lan.Short(rec.ID), "err", err)
	}
	if _, err := e.guardInside(ep, false); err != nil && netns.Alive(rec.Sandbox) {
		e.log.Error("antispoof: a container has no filter on its link; nothing of it leaves the host", "endpoint", lan.Short(rec.ID), "err", err)
	}
	e.mu.Lock()
	rec = ep.rec
	e.mu.Unlock()
	var shape *link.Shape
	found, err := link.WithInside(&rec, func(c *link.Container, in *link.Inside) (err error) {
		shape, err = c.Shape(in, &rec)
		return err
	})
	if err != nil || !found {
		if err != nil && netns.Alive(rec.Sandbox) {
			e.log.Debug("container not looked into", "endpoint", rec.ID, "err", err)
		}
		return rec.Sandbox, false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	ep.shape, ep.ownMTU = shape, 0
	if shape.MTU != mtuOn(ep.net, e.ipam.LeasesOf(rec.Leases), parent) {
		ep.ownMTU = shape.MTU
	}
	if rec.Link != shape.Name || rec.ParentIndex == 0 {
		ep.rec.Link = shape.Name
		if rec.ParentIndex == 0 {
			ep.rec.ParentIndex = parent.Index // a record of before there was the field
		}
		rec = ep.rec
		e.db.Begin(store.PutEndpoint(&rec))
	}
	return rec.Sandbox, true
}
