package engine

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/netns"
)

// strayRest is how long after a container's end a stray link of its is looked for, together
// with those of others.
const strayRest = time.Second

// strays are endpoints that have ended and whose link did not come back from the container.
// As a rule it went with the container's namespace. But an engine that is killed while it
// makes or ends a container can forget the container's process (runc init, or the container's
// own), which keeps the namespace, and the link in it goes on to have a MAC address and
// addresses that by all records are free.
type strays struct {
	mu     sync.Mutex
	recs   []lan.Endpoint
	coming bool // somebody looks soon
}

// strayed notes an endpoint that has ended and whose link did not come back.
func (e *Engine) strayed(rec lan.Endpoint) {
	s := &e.strays
	s.mu.Lock()
	defer s.mu.Unlock()
	s.recs = append(s.recs, rec)
	if s.coming {
		return
	}
	s.coming = true
	e.greeter.run(context.Background(), func(ctx context.Context) {
		there := pause(ctx, strayRest)
		s.mu.Lock()
		recs := s.recs
		s.recs, s.coming = nil, false
		s.mu.Unlock()
		if there {
			e.removeStrays(ctx, recs)
		}
	})
}

// removeStrays removes the links that ended endpoints have left in namespaces that are no
// container's. One of a container that stands stays, whatever it has.
func (e *Engine) removeStrays(ctx context.Context, recs []lan.Endpoint) {
	start := time.Now()
	abroad, err := e.links.LinksAbroad(func(parent int, mac string) bool {
		return slices.ContainsFunc(recs, func(r lan.Endpoint) bool { return r.ParentIndex == parent && (r.MAC == "" || r.MAC == mac) })
	})
	if err != nil {
		e.log.DebugContext(ctx, "links of containers that an engine has forgotten are not looked for", "err", err)
		return
	}
	e.log.DebugContext(ctx, "looked for links that ended endpoints have left", "endpoints", len(recs), "took", time.Since(start).Round(time.Microsecond))
	for _, a := range abroad {
		if !slices.ContainsFunc(recs, func(r lan.Endpoint) bool { return has(&r, &a) }) || e.stands(&a) {
			continue
		}
		if err := e.links.DeleteAbroad(a); err != nil {
			e.log.ErrorContext(ctx, "link stays in a process that the engine has forgotten", "mac", a.MAC, "addresses", a.Addrs, "err", err)
			continue
		}
		e.ipam.Tell(ctx, ipam.Event{What: ipam.EventStrayRemoved, Text: fmt.Sprintf("%s %v", a.MAC, a.Addrs)})
		e.log.WarnContext(ctx, "removed: link of a container that has ended, in the namespace of a process that the engine has forgotten", "mac", a.MAC, "addresses", a.Addrs)
	}
}

// abroad are our children in other namespaces that are no endpoint's on record.
func (e *Engine) abroad() (list []link.Abroad, err error) {
	parents := map[int]bool{}
	e.mu.Lock()
	for _, n := range e.networks {
		if n.parent != nil {
			parents[n.parent.Index] = true
		}
	}
	e.mu.Unlock()
	list, err = e.links.LinksAbroad(func(parent int, _ string) bool { return parents[parent] })
	return slices.DeleteFunc(list, func(a link.Abroad) bool { return e.stands(&a) }), err
}

// stands reports whether a link may be that of an endpoint on record. Ask after the link was
// seen: who joined meanwhile is among them.
func (e *Engine) stands(a *link.Abroad) bool {
	eps := e.endpointsThat(func(ep *endpoint) bool { return ep.rec.Sandbox != "" && has(&ep.rec, a) })
	return slices.ContainsFunc(eps, func(ep *endpoint) bool { return e.mayBeIn(ep, a) })
}

// noteAbroad notes, at a start, whose MAC addresses are used by links of no endpoint, so that a
// container that is to have one of them has the link removed. It removes none: of a damaged
// state file the links of running containers may be among them.
func (e *Engine) noteAbroad() {
	list, err := e.abroad()
	if err != nil {
		e.log.Debug("links of containers that an engine has forgotten are not looked for", "err", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, n := range e.networks {
		for _, a := range list {
			if n.rec.Kind == lan.Macvlan && n.parent != nil && n.parent.Index == a.ParentIndex {
				e.lingering[n.rec.Key+" "+a.MAC] = time.Now().Add(24 * time.Hour)
			}
		}
	}
}

// planStrays removes links of ours that are in no container that Docker or we know of.
func (e *Engine) planStrays(w *DockerView) (steps []Step) {
	if w == nil || w.Incomplete {
		return nil
	}
	list, err := e.abroad()
	if err != nil || len(list) == 0 {
		return nil
	}
	// The kernel takes its time to end a namespace.
	time.Sleep(strayRest)
	again, err := e.abroad()
	if err != nil {
		return nil
	}
	list = slices.DeleteFunc(list, func(a link.Abroad) bool {
		return !slices.ContainsFunc(again, func(b link.Abroad) bool { return a.Nsid == b.Nsid && a.MAC == b.MAC })
	})
	docker := map[int]bool{}
	for _, d := range w.Endpoints {
		if !netns.Alive(d.Sandbox) {
			continue
		}
		id, err := e.links.Nsid(d.Sandbox)
		if err != nil {
			return nil
		}
		docker[id] = true
	}
	for _, a := range list {
		if docker[a.Nsid] {
			continue
		}
		what := a.MAC
		if len(a.Addrs) > 0 {
			what += " " + a.Addrs[0].String()
		}
		steps = append(steps, Step{
			Do: RemoveLink, What: what, Why: "it is in a process that Docker has forgotten",
			do: func(context.Context) error { return e.links.DeleteAbroad(a) },
		})
	}
	return steps
}

// has reports whether a link is what a record means: by its MAC address, or, with ipvlan, where
// all have the same, by an address.
func has(rec *lan.Endpoint, a *link.Abroad) bool {
	if rec.ParentIndex != a.ParentIndex {
		return false
	}
	if rec.MAC != "" {
		return rec.MAC == a.MAC
	}
	for _, p := range rec.Addrs() {
		if slices.Contains(a.Addrs, p.Addr()) {
			return true
		}
	}
	return false
}

// mayBeIn reports whether a link is in an endpoint's container, or that is not known.
func (e *Engine) mayBeIn(ep *endpoint, a *link.Abroad) bool {
	e.mu.Lock()
	sandbox := ep.rec.Sandbox
	e.mu.Unlock()
	if !netns.Alive(sandbox) {
		return false
	}
	id, err := e.links.Nsid(sandbox)
	return err != nil || id == a.Nsid
}
