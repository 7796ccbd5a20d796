package engine

import (
	"context"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/netns"
	"github.com/lanyard-net/lanyard/internal/store"
)

// neverJoined is how long an endpoint may be without a sandbox: the engine joins
// it in the same breath, but may try again for some 15 s when we are away.
const neverJoined = 2 * time.Minute

// restore undoes networks whose making was cut off, makes the parents of all
// others stand again, and sweeps.
func (e *Engine) restore() {
	e.making.Lock()
	e.mu.Lock()
	var stand, cut []*network
	for id, n := range e.networks {
		if n.rec.Making {
			cut = append(cut, n)
			delete(e.networks, id)
			continue
		}
		stand = append(stand, n)
	}
	e.mu.Unlock()
	for _, n := range cut {
		// What was made of it is swept below, as a link of ours without a use.
		if err := e.db.Write(store.DeleteNetwork(n.rec.ID)); err != nil {
			e.log.Error("network that was cut off is still on record", "network", n.rec.ID, "err", err)
			continue
		}
		e.log.Info("undone: network whose creation was cut off", "network", n.rec.ID)
	}
	for _, n := range stand {
		if err := e.ensureParent(n); err != nil {
			e.log.Warn("network has no parent now; tried again when a container starts", "network", n.rec.ID, "err", err)
			continue
		}
		e.log.Info("network restored", "network", n.rec.ID, "parent", n.parent.Name, "made", n.parent.Mine)
	}
	e.making.Unlock()
	e.sweep()
	e.noteAbroad()
}

// sweep removes what nothing stands behind any more: endpoints whose container
// is gone without a word, children of ours in the host's namespace that belong to
// no endpoint, sub-interfaces and dummies of ours that belong to no network.
func (e *Engine) sweep() {
	e.making.Lock()
	defer e.making.Unlock()
	all := e.endpointsThat(func(*endpoint) bool { return true })
	// Many at once share a commit.
	var drops errgroup.Group
	drops.SetLimit(64)
	for _, ep := range all {
		drops.Go(func() error {
			if e.stale(ep, neverJoined) {
				e.drop(ep)
			}
			return nil
		})
	}
	_ = drops.Wait() // drop logs what it cannot do
	e.trash.wait()

	children, err := e.links.Mine()
	if err != nil {
		e.log.Error("links of ours not listed", "err", err)
	}
	for _, name := range e.orphans(children) {
		e.log.Info("removed: link of no endpoint", "link", name)
		e.trash.put(name)
	}
	e.mu.Lock()
	for _, ep := range e.endpoints {
		if len(ep.rec.Redo) > 0 {
			e.unseen.add(ep.rec.Sandbox)
		}
	}
	e.mu.Unlock()
	e.syncHost()
	e.sweepParents()
}

// orphans are those of our links in this namespace that belong to no endpoint.
func (e *Engine) orphans(children []string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	known := map[string]bool{}
	for _, ep := range e.endpoints {
		known[ep.rec.LinkName()] = true
	}
	return slices.DeleteFunc(children, func(name string) bool { return known[name] })
}

// sweepParents removes sub-interfaces and dummies of ours that no network uses. The caller
// holds making.
func (e *Engine) sweepParents() {
	for _, p := range e.idleParents() {
		e.log.Info("removed: parent of no network", "link", p.Name)
		if err := e.release(p.Index); err != nil {
			e.log.Error("parent of no network stays behind", "link", p.Name, "err", err)
		}
	}
}

// idleParents are the sub-interfaces and dummies of ours that no network stands on, or would
// stand on if its parent could be found.
func (e *Engine) idleParents() []*link.Parent {
	parents, err := e.links.OurParents()
	if err != nil {
		e.log.Error("parents of ours not listed", "err", err)
		return nil
	}
	used := e.inUse()
	return slices.DeleteFunc(parents, func(p *link.Parent) bool { return used[p.Index] || e.wanted(p.Key) })
}

// wanted reports whether a network's wire is the one with this key, or leads
// through it.
func (e *Engine) wanted(key string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, n := range e.networks {
		if n.rec.Key == key || strings.HasPrefix(n.rec.Key, key+"|") {
			return true
		}
	}
	return false
}

// stale reports whether an endpoint's container is gone: its sandbox is no namespace any
// more, and its link is not in the host's, or has been there for as long as Docker could take to
// fetch it. An endpoint that no sandbox joined is stale when it is older than unjoined. A verb
// at work on the endpoint proves that it is not.
func (e *Engine) stale(ep *endpoint, unjoined time.Duration) bool {
	if !ep.verb.TryLock() {
		return false
	}
	defer ep.verb.Unlock()
	e.mu.Lock()
	rec, touched := ep.rec, ep.touched
	e.mu.Unlock()
	switch {
	case rec.Sandbox == "":
		return time.Since(rec.Created) > unjoined
	case netns.Alive(rec.Sandbox):
		return false
	}
	return !e.links.Exists(rec.LinkName()) || time.Since(touched) > startTime
}

// drop removes a stale endpoint.
func (e *Engine) drop(ep *endpoint) {
	ep.verb.Lock()
	defer ep.verb.Unlock()
	e.mu.Lock()
	there := e.endpoints[ep.rec.ID] == ep
	e.mu.Unlock()
	if !there {
		return
	}
	if err := e.remove(context.Background(), ep); err != nil {
		e.log.Error("endpoint of a container that is gone stays on record", "endpoint", ep.rec.ID, "err", err)
		return
	}
	e.log.Info("removed: endpoint of a container that is gone", "endpoint", lan.Short(ep.rec.ID), "network", lan.Short(ep.net.rec.ID))
}
