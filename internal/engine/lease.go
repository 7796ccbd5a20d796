package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/lanyard-net/lanyard/internal/ipam"
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

// leaseChanged makes a container heed a change of its lease, and notes it: its endpoint has
// the new address from then on, while Docker goes on with the one that it was told.
func (e *Engine) leaseChanged(_ context.Context, c ipam.LeaseChange) (wasDefault bool, err error) {
	e.mu.Lock()
	ep := e.endpoints[c.Endpoint]
	e.mu.Unlock()
	if ep == nil {
		return false, lan.Refusef(lan.ErrNotFound, "endpoint %s has gone", lan.Short(c.Endpoint))
	}
	ep.net.use.RLock()
	defer ep.net.use.RUnlock()
	ep.verb.Lock()
	defer ep.verb.Unlock()
	e.mu.Lock()
	rec := ep.rec
	gone := e.endpoints[c.Endpoint] != ep || ep.left
	e.mu.Unlock()
	if gone {
		return false, lan.Refusef(lan.ErrNotFound, "endpoint %s has gone", lan.Short(c.Endpoint))
	}
	before := rec
	v6 := c.Old != nil && c.Old.Addr.Addr().Is6() || c.New != nil && c.New.Addr.Addr().Is6()
	now, toldAs := &rec.IPv4, &rec.Told4
	if v6 {
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
	err = e.db.Write(store.PutEndpoint(&rec))
	e.mu.Lock()
	ep.rec = rec
	e.mu.Unlock()
	if !netns.Alive(rec.Sandbox) {
		return false, err
	}
	change := link.Change{Default: c.Default, MTU: e.mtu(ep.net, c.New)}
	if c.Old != nil {
		change.Remove, change.OldGateway, change.OldRoutes = c.Old.Addr, gatewayOf(ep.net, c.Old), c.Old.Routes
	}
	if c.New != nil {
		change.Add, change.Gateway, change.Routes = c.New.Addr, gatewayOf(ep.net, c.New), c.New.Routes
	}
	if ep.net.rec.Internal || ep.net.rec.Gateway == lan.GatewayNone {
		change.OldGateway, change.Gateway = netip.Addr{}, netip.Addr{}
	}
	if ep.net.rec.Internal {
		change.OldRoutes, change.Routes = nil, nil
	}
	found, aerr := link.WithInside(&before, func(c *link.Container, in *link.Inside) (err error) {
		wasDefault, err = c.Apply(in, change)
		return err
	})
	if aerr == nil && !found {
		aerr = fmt.Errorf("link of endpoint %s not found in its container, or down", lan.Short(rec.ID))
	}
	if ep.net.rec.HostAccess {
		e.syncHost()
	}
	if aerr == nil && c.New != nil && (c.Old == nil || c.Old.Addr != c.New.Addr) && !ep.net.rec.L3() {
		e.announceLater(ep.net, rec, c.New.Addr.Addr())
	}
	return wasDefault, errors.Join(err, aerr)
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
	e.greeter.run(func(ctx context.Context) {
		if err := announceAll(ctx, n, &rec, []netip.Addr{addr}); err != nil {
			e.log.Debug("new address not announced", "endpoint", rec.ID, "err", err)
		}
	})
}
