package engine

import (
	"context"
	"errors"
	"net/netip"
	"slices"

	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/netns"
	"github.com/lanyard-net/lanyard/internal/store"
)

// told are the addresses of an endpoint that Docker knows.
func told(rec *lan.Endpoint) (v4, v6 netip.Prefix) {
	v4, v6 = rec.IPv4, rec.IPv6
	if rec.Told4.IsValid() {
		v4 = rec.Told4
	}
	if rec.Told6.IsValid() {
		v6 = rec.Told6
	}
	return v4, v6
}

// takeLeases notes the leases behind an endpoint's addresses. A MAC address that the user
// chose, and that Docker's IPAM calls did not say, may get another address from the server
// than Docker was told.
func (e *Engine) takeLeases(ctx context.Context, n *network, rec *lan.Endpoint, r EndpointRequest) (err error) {
	rec.Leases, err = e.ipam.LeaseIDs(ctx, &n.rec.Network, n.rec.Key, rec.IPv4, rec.IPv6, rec.MAC, r.Options.Hostname)
	return err
}

// ready makes a network's parent stand, for package ipam.
func (e *Engine) ready(_ context.Context, id string) error {
	n, err := e.network(id)
	if err != nil {
		return err
	}
	e.making.Lock()
	defer e.making.Unlock()
	if err := e.ensureParent(n); err != nil {
		return err
	}
	e.mu.Lock()
	parent := n.parent
	e.mu.Unlock()
	if parent != nil {
		e.ipam.Wire(&n.rec.Network, n.rec.Key, parent)
	}
	return nil
}

// endpointRecord is an endpoint that stands, for package ipam.
func (e *Engine) endpointRecord(id string) (lan.Endpoint, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	ep := e.endpoints[id]
	if ep == nil || ep.left {
		return lan.Endpoint{}, false
	}
	return ep.rec, true
}

// maxRedo is how many changes of leases are remembered for a container whose link is not
// found; the oldest go first.
const maxRedo = 16

// leaseChanged makes a container heed a change of its lease, and notes it: its endpoint has
// the new address from then on, while Docker goes on with the one that it was told. What the
// container cannot heed now, since it just starts, or since we are killed, it is made to
// heed later.
func (e *Engine) leaseChanged(_ context.Context, endpoint string, c lan.LeaseChange) (wasDefault bool, err error) {
	e.mu.Lock()
	ep := e.endpoints[endpoint]
	e.mu.Unlock()
	if ep == nil {
		return false, lan.Refusef(lan.ErrNotFound, "endpoint %s has gone", lan.Short(endpoint))
	}
	ep.net.use.RLock()
	defer ep.net.use.RUnlock()
	ep.verb.Lock()
	defer ep.verb.Unlock()
	e.mu.Lock()
	rec, was := ep.rec, ep.rec
	gone := e.endpoints[endpoint] != ep || ep.left
	e.mu.Unlock()
	if gone {
		return false, lan.Refusef(lan.ErrNotFound, "endpoint %s has gone", lan.Short(endpoint))
	}
	now, toldAs := &rec.IPv4, &rec.Told4
	if c.V6() {
		now, toldAs = &rec.IPv6, &rec.Told6
	}
	if !toldAs.IsValid() {
		*toldAs = *now
	}
	*now = netip.Prefix{}
	if c.New != nil {
		*now = c.New.Addr
	}
	if *now == *toldAs {
		*toldAs = netip.Prefix{}
	}
	rec.Redo = append(slices.Clone(rec.Redo), c)
	rec.Redo = rec.Redo[max(0, len(rec.Redo)-maxRedo):]
	err = e.db.Write(store.PutEndpoint(&rec))
	e.mu.Lock()
	ep.rec = rec
	e.mu.Unlock()
	err = errors.Join(err, e.guardChange(ep, &rec, &was))
	wasDefault, done, rerr := e.redo(ep)
	if !done {
		// Docker may be about to set the address up that it was told.
		e.greeter.run(context.Background(), func(ctx context.Context) { e.redoLater(ctx, ep, rec) })
	}
	if ep.net.rec.HostAccess {
		e.syncHost()
	}
	if done && rerr == nil && c.New != nil && (c.Old == nil || c.Old.Addr != c.New.Addr) && !ep.net.rec.L3() {
		e.announceLater(ep.net, rec, c.New.Addr.Addr())
	}
	return wasDefault, errors.Join(err, rerr)
}

// redo makes an endpoint's container heed the changes of its leases that it has not heeded.
// It reports false where its link is not found, and whether the default route led through a
// lease that the last of them took away. The caller holds verb.
func (e *Engine) redo(ep *endpoint) (wasDefault, done bool, err error) {
	e.mu.Lock()
	rec := ep.rec
	e.mu.Unlock()
	if len(rec.Redo) == 0 {
		return false, true, nil
	}
	if !netns.Alive(rec.Sandbox) {
		return false, false, nil
	}
	done, err = link.WithInside(&rec, func(c *link.Container, in *link.Inside) error {
		var errs []error
		for _, change := range rec.Redo {
			change.Default = change.Default || wasDefault
			was, err := c.Apply(in, e.change(ep.net, change))
			wasDefault = (was || change.Default) && change.New == nil
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	if err != nil || !done {
		return wasDefault, done, err
	}
	rec.Redo = nil
	e.mu.Lock()
	ep.rec = rec
	e.mu.Unlock()
	// A crash before it is written costs no more than that it is done once more.
	e.db.Begin(store.PutEndpoint(&rec))
	return wasDefault, true, nil
}

// redoLater is redo for a container that starts, when its link is up.
func (e *Engine) redoLater(ctx context.Context, ep *endpoint, rec lan.Endpoint) {
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	if up, err := e.awaitLink(ctx, ep, rec); !up || err != nil {
		return // it has ended, or is looked into later
	}
	ep.verb.Lock()
	defer ep.verb.Unlock()
	e.mu.Lock()
	gone := e.endpoints[rec.ID] != ep || ep.left
	e.mu.Unlock()
	if gone {
		return
	}
	if _, _, err := e.redo(ep); err != nil {
		e.log.ErrorContext(ctx, "change of a lease not heeded by its container", "endpoint", lan.Short(rec.ID), "err", err)
	}
}

// change is what a change of a lease makes of a link.
func (e *Engine) change(n *network, c lan.LeaseChange) link.Change {
	to := link.Change{Default: c.Default, MTU: e.mtu(n, c.New)}
	if c.Old != nil {
		to.Remove, to.OldGateway, to.OldRoutes = c.Old.Addr, gatewayOf(n, c.Old), c.Old.Routes
	}
	if c.New != nil {
		to.Add, to.Gateway, to.Routes = c.New.Addr, gatewayOf(n, c.New), c.New.Routes
	}
	if n.rec.Internal || n.rec.Gateway == lan.GatewayNone {
		to.OldGateway, to.Gateway = netip.Addr{}, netip.Addr{}
	}
	if n.rec.Internal {
		to.OldRoutes, to.Routes = nil, nil
	}
	return to
}

// mtu is what a lease asks for, as far as the network leaves it to the server and the
// parent can; 0 changes nothing.
func (e *Engine) mtu(n *network, l *lan.Lease) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	if l == nil || n.rec.MTU != 0 || n.parent == nil {
		return 0
	}
	return mtuOn(n, []lan.Lease{*l}, n.parent)
}

// announceLater announces a running container's new address.
func (e *Engine) announceLater(n *network, rec lan.Endpoint, addr netip.Addr) {
	e.greeter.run(context.Background(), func(ctx context.Context) {
		if err := announceAll(ctx, n, &rec, []netip.Addr{addr}); err != nil {
			e.log.DebugContext(ctx, "new address not announced", "endpoint", rec.ID, "err", err)
		}
	})
}
