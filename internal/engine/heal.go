package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/netns"
	"github.com/lanyard-net/lanyard/internal/store"
)

const (
	// ownersTurn is how long whoever made a sub-interface that has gone may take to make it
	// again, before we do.
	ownersTurn = 10 * time.Second
	// healRest is how often at most the parents are looked at.
	healRest = 20 * time.Millisecond
	// addrRest is how often at most host access heeds changes of the host's addresses.
	addrRest = 100 * time.Millisecond
	// announceRest is how often at most a parent that comes up has its containers announced.
	announceRest = 5 * time.Second
	// atOnce is how many containers get their links back at the same time. The kernel makes
	// one link after the other, and the rest of it is system calls.
	atOnce = 8
	// relinkRetry is when a link that could not be made again is tried again, doubled each
	// time up to relinkRetryMax.
	relinkRetry    = 10 * time.Second
	relinkRetryMax = 5 * time.Minute
)

// watchParents rings for each change of a link that a network stands on, or of any link while
// a network has no parent, until ctx ends.
func (e *Engine) watchParents(ctx context.Context) {
	for ctx.Err() == nil {
		err := e.links.Watch(ctx, func(index int) {
			if index == 0 || e.concerns(index) {
				e.ring()
			}
		})
		if err != nil {
			e.log.WarnContext(ctx, "changes of parents were missed, and are looked for", "err", err)
			pause(ctx, time.Second)
		}
	}
}

// watchAddrs rings for each change of the host's addresses, which containers with host access
// are told, until ctx ends.
func (e *Engine) watchAddrs(ctx context.Context) {
	for ctx.Err() == nil {
		err := e.links.WatchAddrs(ctx, func() {
			select {
			case e.addrBell <- struct{}{}:
			default: // it rang already
			}
		})
		if err != nil {
			e.log.WarnContext(ctx, "changes of the host's addresses were missed, and are looked for", "err", err)
			pause(ctx, time.Second)
		}
	}
}

// ring makes Run look at the parents soon. It never blocks.
func (e *Engine) ring() {
	select {
	case e.bell <- struct{}{}:
	default: // it rang already
	}
}

// concerns reports whether a change of a link may be one of a network's parent.
func (e *Engine) concerns(index int) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, n := range e.networks {
		if n.parent == nil || n.parent.Index == index || n.parent.Below == index {
			return true
		}
	}
	return false
}

// heal looks at the parents of all networks: it notes those that have gone, makes those that
// are back carry their containers again, and lets containers heed other changes.
func (e *Engine) heal() {
	e.making.Lock()
	defer e.making.Unlock()
	e.mu.Lock()
	nets := make([]*network, 0, len(e.networks))
	for _, n := range e.networks {
		if !n.rec.Making {
			nets = append(nets, n)
		}
	}
	e.mu.Unlock()
	for _, n := range nets {
		if err := e.standAgain(n); err != nil {
			e.log.Debug("network has no parent", "network", n.rec.ID, "err", err)
		}
	}
}

// standAgain is ensureParent for a network that nobody waits for. The caller holds making.
func (e *Engine) standAgain(n *network) error {
	if e.lookAtParent(n) {
		e.relink(n)
		return nil
	}
	e.mu.Lock()
	since := time.Since(n.lost)
	wait := n.theirs && since < ownersTurn
	e.mu.Unlock()
	if wait {
		plan, err := e.look(n)
		if err == nil && len(plan.Make) > 0 {
			time.AfterFunc(ownersTurn-since, e.ring)
			return nil
		}
	}
	return e.ensureParent(n)
}

// lookAtParent reports whether a network's parent is there, and lets its containers heed what
// has changed of it. The caller holds making.
func (e *Engine) lookAtParent(n *network) (there bool) {
	e.mu.Lock()
	old := n.parent
	e.mu.Unlock()
	if old == nil {
		return false
	}
	now, err := e.links.ParentAt(old.Index)
	if errors.Is(err, link.ErrParentGone) {
		e.lose(n, old)
		return false
	}
	if err != nil {
		e.log.Warn("parent cannot be looked at", "parent", old.Name, "err", err)
		return true
	}
	if now.Mine && now.BelowMTU > old.BelowMTU && now.MTU == old.BelowMTU {
		// The kernel lowers a VLAN with what it is on, and does not raise it again.
		if err := e.links.SetMTU(now, now.BelowMTU); err != nil {
			e.log.Warn("sub-interface keeps its low MTU", "err", err)
		} else {
			now.MTU = now.BelowMTU
		}
	}
	e.mu.Lock()
	n.parent = now
	e.mu.Unlock()
	e.changed(n, old, now)
	return true
}

// changed lets the containers of a network heed what is new of its parent.
func (e *Engine) changed(n *network, old, now *link.Parent) {
	works := func(p *link.Parent) bool { return p.Up && p.Carrier }
	say := false
	switch {
	case works(old) && !works(now):
		what := "has no carrier"
		if !now.Up {
			what = "was set down"
		}
		e.tell(ipam.EventParentDown, n, now.Name+" "+what)
	case !works(old) && works(now):
		e.tell(ipam.EventParentUp, n, now.Name)
		e.ipam.Wire(&n.rec.Network, n.rec.Key, now) // what reads on it may have ended
		say = true
	}
	if old.Name != now.Name {
		e.log.Warn("parent has another name: its containers go on, and a network is found by the old name when lanyard starts", "network", n.rec.ID, "was", old.Name, "is", now.Name)
	}
	otherMAC := old.MAC.String() != now.MAC.String()
	if otherMAC {
		e.log.Info("parent has another MAC address", "parent", now.Name, "was", old.MAC, "is", now.MAC)
		say = say || n.rec.Kind == lan.Ipvlan // theirs, too
		e.ipam.Wire(&n.rec.Network, n.rec.Key, now)
	}
	if err := e.guardParent(n, now); err != nil {
		e.log.Error("antispoof does not know which links of the host are on the parent now", "parent", now.Name, "err", err)
	}
	if otherMAC && n.rec.Kind == lan.Ipvlan {
		e.guardAgain(n)
	}
	if now.MTU > old.MTU {
		e.raise(n, old.MTU)
	}
	if n.rec.HostAccess && (say || otherMAC) {
		e.syncHost()
	}
	if e.announceNow(n, say, otherMAC, works(now)) {
		for _, ep := range e.joined(n) {
			e.announceAgain(ep)
		}
	}
}

// announceNow reports whether a network's containers are to be announced now, say being
// whether its parent gives a reason to. A parent that goes up and down has them announced
// once in announceRest; what comes in between is made up for after it. A new MAC address
// cannot wait for that.
func (e *Engine) announceNow(n *network, say, otherMAC, works bool) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	say = works && (say || n.owed)
	n.owed = false
	rest := announceRest - time.Since(n.announced)
	switch {
	case !say:
		return false
	case rest > 0 && !otherMAC:
		n.owed = true
		time.AfterFunc(rest, e.ring)
		return false
	}
	n.announced = time.Now()
	return true
}

// raise lets the containers whose MTU the kernel had lowered to their parent's have the
// higher one, as far as the network and the lease say so.
func (e *Engine) raise(n *network, was int) {
	var all errgroup.Group
	all.SetLimit(atOnce)
	for _, ep := range e.joined(n) {
		all.Go(func() error {
			ep.verb.Lock()
			defer ep.verb.Unlock()
			e.mu.Lock()
			rec, parent := ep.rec, n.parent
			e.mu.Unlock()
			if parent == nil || !netns.Alive(rec.Sandbox) {
				return nil
			}
			_, err := link.WithInside(&rec, func(c *link.Container, in *link.Inside) error {
				if in.MTU != was {
					return nil
				}
				return c.SetMTU(in, mtuOn(n, e.ipam.LeasesOf(rec.Leases), parent))
			})
			if err != nil {
				e.log.Warn("container keeps a low MTU", "endpoint", rec.ID, "err", err)
			}
			return nil
		})
	}
	_ = all.Wait() // what fails is logged
}

// joined are the endpoints of a network that are in containers.
func (e *Engine) joined(n *network) []*endpoint {
	return e.endpointsThat(func(ep *endpoint) bool { return ep.net == n && ep.inside() })
}

// lose notes that a network's parent has gone, and its containers' links with it. old is the
// parent; nil: it is not there when lanyard starts. The caller holds making.
func (e *Engine) lose(n *network, old *link.Parent) {
	name := n.rec.Parent.String()
	if old != nil {
		name = old.Name
	}
	e.mu.Lock()
	n.parent = nil
	n.lost = time.Now()
	n.theirs = old != nil && !old.Mine && old.VLAN != 0
	e.mu.Unlock()
	count := len(e.joined(n))
	e.log.Warn("parent is not there; its containers get their links when it is", "parent", name, "network", n.rec.ID, "containers", count)
	e.tell(ipam.EventParentLost, n, fmt.Sprintf("%s: %s", name, containers(count)))
	e.waits(n.rec.ID) // Docker may have been about to fetch a link
}

func containers(n int) string {
	if n == 1 {
		return "1 container"
	}
	return fmt.Sprintf("%d containers", n)
}

// tell notes an event of a network's parent.
func (e *Engine) tell(what string, n *network, text string) {
	e.ipam.Tell(context.Background(), ipam.Event{What: what, Wire: link.WireText(n.rec.Key), Network: n.rec.ID, Text: text})
}

// tellOf notes an event of an endpoint of a network.
func (e *Engine) tellOf(ctx context.Context, what string, n *network, endpoint, text string) {
	e.ipam.Tell(ctx, ipam.Event{What: what, Wire: link.WireText(n.rec.Key), Network: n.rec.ID, Endpoint: endpoint, Text: text})
}

// relink makes the links of a network's running containers again that went with an earlier
// parent. The caller holds making.
func (e *Engine) relink(n *network) {
	e.mu.Lock()
	parent := n.parent
	e.mu.Unlock()
	lost := e.endpointsThat(func(ep *endpoint) bool {
		on := ep.rec.ParentIndex
		return ep.net == n && ep.inside() && on != 0 && on != parent.Index && time.Now().After(ep.retry)
	})
	if len(lost) == 0 {
		return
	}
	start := time.Now()
	var made, ended atomic.Int64
	var all errgroup.Group
	all.SetLimit(atOnce)
	for _, ep := range lost {
		all.Go(func() error {
			switch ok, err := e.relinkOne(n, ep, parent); {
			case err != nil:
				e.tellOf(context.Background(), ipam.EventLinkFailed, n, ep.rec.ID, err.Error())
				e.log.Error("container has no link", "endpoint", ep.rec.ID, "network", n.rec.ID, "again_in", e.relinkLater(ep), "err", err)
			case ok:
				made.Add(1)
			default:
				ended.Add(1)
			}
			return nil
		})
	}
	_ = all.Wait() // what fails is logged
	took := time.Since(start).Round(time.Millisecond)
	want := len(lost) - int(ended.Load())
	if want == 0 {
		return
	}
	e.log.Info("links made again in running containers", "network", n.rec.ID, "parent", parent.Name, "links", made.Load(), "of", want, "took", took)
	e.tell(ipam.EventParentBack, n, fmt.Sprintf("%s: %d of %s got their links back, in %s", parent.Name, made.Load(), containers(want), took))
}

// relinkLater says when a link that could not be made is to be tried again, and has Run do so.
func (e *Engine) relinkLater(ep *endpoint) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	wait := min(relinkRetry<<min(ep.tries, 10), relinkRetryMax)
	ep.tries++
	ep.retry = time.Now().Add(wait)
	time.AfterFunc(wait+time.Second, e.ring)
	return wait
}

// relinkOne makes an endpoint's link again in its container. It reports false where the
// container has ended.
func (e *Engine) relinkOne(n *network, ep *endpoint, parent *link.Parent) (bool, error) {
	ep.verb.Lock()
	defer ep.verb.Unlock()
	e.mu.Lock()
	rec, shape, ownMTU := ep.rec, ep.shape, ep.ownMTU
	gone := e.endpoints[rec.ID] != ep || ep.left
	e.mu.Unlock()
	if gone || rec.ParentIndex == parent.Index || !netns.Alive(rec.Sandbox) || e.links.Exists(rec.LinkName()) {
		return false, nil
	}
	c, err := link.OpenContainer(rec.Sandbox)
	if err != nil {
		return false, err
	}
	defer c.Close()
	leases := e.ipam.LeasesOf(rec.Leases)
	child, err := childOf(n, rec, parent)
	if err != nil {
		return false, err
	}
	a := attachment(n, rec, leases)
	again := link.Again{Child: child, Name: rec.Link, Addrs: rec.Addrs(), Routes: a.Routes, IPv6: n.rec.IPv6From(), Shape: shape}
	if again.Name == "" {
		again.Name = rec.IfName // engines before 29 do not heed it, but it is a name
	}
	again.MTU = mtuOn(n, leases, parent)
	if shape != nil {
		again.Name = shape.Name
		if ownMTU > 0 {
			again.MTU = min(ownMTU, parent.MTU)
		}
	}
	for _, gw := range []netip.Addr{a.Gateway4, a.Gateway6} {
		if gw.IsValid() {
			again.Routes = append(again.Routes, lan.Route{Dst: lan.AnySubnet(gw.Is6()), NextHop: gw})
		}
	}
	if n.rec.AntiSpoof {
		program, err := e.program(n, &rec, parent)
		if err != nil {
			return false, err
		}
		defer program.Close()
		again.Filter = program.FD()
	}
	var in *link.Inside
	err = e.pastTrash(func() error {
		in, err = e.links.AddAgain(c, again)
		return err
	})
	if err != nil {
		if !netns.Alive(rec.Sandbox) {
			return false, nil //nolint:nilerr // it has just ended
		}
		return false, fmt.Errorf("parent %s: %w", parent.Name, err)
	}
	if rec.Link != "" && in.Name != rec.Link {
		e.log.Warn("container's link has another name now, since its own is taken", "endpoint", rec.ID, "was", rec.Link, "is", in.Name)
	}
	rec.ParentIndex, rec.Link = parent.Index, in.Name
	// A crash before it is written costs no more than that the link is made once more.
	e.db.Begin(store.PutEndpoint(&rec))
	e.mu.Lock()
	ep.rec, ep.told, ep.tries, ep.retry = rec, "", 0, time.Time{}
	e.mu.Unlock()
	e.announceAgain(ep)
	return true, nil
}

// announceAgain announces an endpoint's addresses in the background.
func (e *Engine) announceAgain(ep *endpoint) {
	if ep.net.rec.L3() {
		return
	}
	e.mu.Lock()
	rec := ep.rec
	e.mu.Unlock()
	for _, p := range rec.Addrs() {
		e.announceLater(ep.net, rec, p.Addr())
	}
}
