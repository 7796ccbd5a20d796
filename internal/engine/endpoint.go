package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/netns"
	"github.com/lanyard-net/lanyard/internal/store"
)

// AddEndpoint takes an endpoint in. It returns what we chose for it. The same request
// again gets the same answer. It does not wait for the disk, as Join does: nothing is in
// the kernel yet, and a crash in between costs no more than this start. Where it chooses
// an address it may wait for the wire as RequestAddress of package ipam does.
func (e *Engine) AddEndpoint(ctx context.Context, r EndpointRequest) (g EndpointGrant, err error) {
	if err := lan.CheckID("endpoint id", r.EndpointID); err != nil {
		return g, err
	}
	n, err := e.network(r.NetworkID)
	if err != nil {
		return g, err
	}
	n.use.RLock()
	defer n.use.RUnlock()
	if n, err = e.network(r.NetworkID); err != nil {
		return g, err // deleted while we waited
	}
	rec := lan.Endpoint{
		ID: r.EndpointID, NetworkID: r.NetworkID, IPv4: r.IPv4, IPv6: r.IPv6,
		IfName: r.Options.IfName, Created: time.Now().UTC(),
	}
	if rec.IfName == "" {
		rec.IfName = n.rec.IfName
	}
	if rec.MAC, err = checkMAC(n, r.MAC); err != nil {
		return g, err
	}
	for _, addr := range []netip.Prefix{r.IPv4, r.IPv6} {
		if err := checkAddress(n, addr); err != nil {
			return g, err
		}
	}
	if o := &r.Options; !n.rec.Own && (len(o.IP) > 0 || o.Identity != "" || o.ClientID != "" || o.VendorClass != "" || o.UserClass != nil) {
		return g, lan.Refusef(lan.ErrInvalid, "driver options ip, identity, dhcp_client_id, dhcp_vendor_class and dhcp_user_class are for networks with --ipam-driver null and -o subnet= or -o source=dhcp, "+
			"where lanyard chooses the address after it knows them; try: --ip")
	}
	if r.Options.Hostname != "" && !n.rec.Leases() {
		return g, lan.Refusef(lan.ErrInvalid, "driver option hostname is what DHCP servers are told, and this network asks none; try: docker run --hostname")
	}
	var ops []store.Op
	if n.rec.Own {
		var undo func()
		if ops, undo, err = e.give(ctx, n, &rec, r); err != nil {
			return g, err
		}
		defer func() {
			if err != nil {
				undo()
			}
		}()
		g.IPv4, g.IPv6 = rec.IPv4, rec.IPv6
	}
	if n.rec.Leases() {
		if err := e.takeLeases(ctx, n, &rec, r); err != nil {
			return g, err
		}
	}

	mac, again, err := e.reserve(n, rec, ops)
	if err != nil {
		return g, err
	}
	if !again && r.Published > 0 {
		e.log.WarnContext(ctx, "ports cannot be published on a LAN network: the container's own address has them all", "endpoint", rec.ID, "ports", r.Published)
	}
	if r.MAC == "" {
		g.MAC = mac
	} else if e.ipam.MACSeen(n.rec.Key, mac) && !again {
		e.log.WarnContext(ctx, "the container's MAC address was seen on the wire: if another device has it, neither can be reached", "endpoint", rec.ID, "mac", mac)
	}
	return g, nil
}

// give chooses the addresses of an endpoint whose network's subnets are options, or
// finds those that it has.
func (e *Engine) give(ctx context.Context, n *network, rec *lan.Endpoint, r EndpointRequest) (ops []store.Op, undo func(), err error) {
	e.mu.Lock()
	old := e.endpoints[rec.ID]
	if old != nil && old.net == n {
		rec.IPv4, rec.IPv6 = told(&old.rec)
		e.mu.Unlock()
		return nil, func() {}, nil
	}
	e.mu.Unlock()
	owner := ""
	switch {
	case r.Options.Identity != "":
		owner = "id " + r.Options.Identity
	case rec.MAC != "":
		owner = "mac " + rec.MAC
	}
	asked := r.Options.IP
	for _, p := range []netip.Prefix{r.IPv4, r.IPv6} {
		if p.IsValid() {
			asked = append(asked, p.Addr())
		}
	}
	var mac net.HardwareAddr
	if rec.MAC != "" {
		if mac, err = net.ParseMAC(rec.MAC); err != nil {
			return nil, nil, err
		}
	}
	addrs, ops, undo, err := e.ipam.Give(ctx, &n.rec.Network, asked, owner, mac, r.Options)
	if err != nil {
		return nil, nil, err
	}
	for _, p := range addrs {
		if p.Addr().Is4() {
			rec.IPv4 = p
		} else {
			rec.IPv6 = p
		}
	}
	return ops, undo, nil
}

// reserve puts an endpoint among those that stand, unless another one stands against
// it, and returns its MAC address. again reports that the same endpoint is there. ops go
// to the disk with its record.
func (e *Engine) reserve(n *network, rec lan.Endpoint, ops []store.Op) (mac string, again bool, err error) {
	e.dropStale(n, rec)
	e.mu.Lock()
	defer e.mu.Unlock()
	if old := e.endpoints[rec.ID]; old != nil {
		v4, v6 := told(&old.rec)
		same := old.net == n && v4 == rec.IPv4 && v6 == rec.IPv6 && old.rec.IfName == rec.IfName &&
			(rec.MAC == "" || old.rec.MAC == rec.MAC)
		if !same {
			return "", false, lan.Refusef(lan.ErrConflict, "endpoint %s exists with other properties", lan.Short(rec.ID))
		}
		return old.rec.MAC, true, nil
	}
	for _, old := range e.endpoints {
		if err := clash(n, rec, old); err != nil {
			return "", false, err
		}
	}
	if rec.MAC == "" && n.rec.Kind == lan.Macvlan {
		rec.MAC = e.chooseMAC(n, rec)
	}
	onWire := rec.MAC
	if onWire == "" && n.parent != nil {
		onWire = n.parent.MAC.String()
	}
	more, err := e.ipam.Assign(&n.rec.Network, n.rec.Key, &rec, onWire, false)
	if err != nil {
		return "", false, err
	}
	e.endpoints[rec.ID] = &endpoint{net: n, rec: rec}
	// Here, so that what Join writes comes later.
	e.db.Begin(append(append(ops, more...), store.PutEndpoint(&rec))...)
	return rec.MAC, false, nil
}

// clash refuses an endpoint that cannot be beside old.
func clash(n *network, rec lan.Endpoint, old *endpoint) error {
	if old.net.rec.Key != n.rec.Key {
		return nil
	}
	if n.rec.Mode == lan.ModePassthru {
		return lan.Refusef(lan.ErrConflict, "mode passthru takes one endpoint, and parent %s has one: %s", n.rec.Parent, lan.Short(old.rec.ID))
	}
	if rec.MAC != "" && rec.MAC == old.rec.MAC {
		return lan.Refusef(lan.ErrConflict, "MAC address %s is in use on parent %s by endpoint %s", rec.MAC, n.rec.Parent, lan.Short(old.rec.ID))
	}
	for _, pair := range [][2]netip.Prefix{{rec.IPv4, old.rec.IPv4}, {rec.IPv6, old.rec.IPv6}} {
		if pair[0].IsValid() && pair[0].Addr() == pair[1].Addr() {
			return lan.Refusef(lan.ErrConflict, "address %s is in use on parent %s by endpoint %s of network %s", pair[0].Addr(), n.rec.Parent, lan.Short(old.rec.ID), lan.Short(old.net.rec.ID))
		}
	}
	return nil
}

// betweenVerbs is how long the engine may take from AddEndpoint to Join when
// nothing is wrong, many containers started at once included.
const betweenVerbs = 10 * time.Second

// dropStale removes endpoints that stand against rec only in our records:
// engines that were killed do not always tell us of the end of a container.
func (e *Engine) dropStale(n *network, rec lan.Endpoint) {
	e.mu.Lock()
	var against []*endpoint
	for _, old := range e.endpoints {
		if old.rec.ID != rec.ID && clash(n, rec, old) != nil {
			against = append(against, old)
		}
	}
	e.mu.Unlock()
	for _, old := range against {
		if e.stale(old, betweenVerbs) {
			e.drop(old)
		}
	}
}

// checkMAC refuses a MAC address that the user may not choose, and returns it in
// one spelling.
func checkMAC(n *network, s string) (string, error) {
	if s == "" {
		return "", nil
	}
	if n.rec.Kind == lan.Ipvlan {
		return "", lan.Refusef(lan.ErrInvalid, "ipvlan interfaces do not support custom mac address assignment: all have their parent's; try: a macvlan network")
	}
	mac, err := lan.ParseMAC(s)
	if err != nil {
		return "", err
	}
	return mac.String(), nil
}

// checkAddress refuses an address that no subnet of the network holds. Without
// pools (Docker's null IPAM) any is good.
func checkAddress(n *network, p netip.Prefix) error {
	if !p.IsValid() {
		return nil
	}
	if _, ok := n.rec.SubnetOf(p.Addr()); !ok {
		return lan.Refusef(lan.ErrInvalid, "address %s is in no subnet of network %s", p.Addr(), lan.Short(n.rec.ID))
	}
	return nil
}

// chooseMAC makes an endpoint's MAC address: locally administered, and the same
// for the same address (the IPv4 one, where there are both) on the same wire of this host, or of all hosts of a cluster, so that a container that
// comes back with its address is known to its neighbours. A passthru link has
// its parent's. The caller holds mu.
func (e *Engine) chooseMAC(n *network, rec lan.Endpoint) string {
	if n.rec.Mode == lan.ModePassthru && n.parent != nil {
		return n.parent.MAC.String()
	}
	if mac := e.ipam.LeaseMAC(rec.Leases); mac != "" {
		return mac // the one that the server knows
	}
	seed := rec.ID
	if rec.IPv4.IsValid() {
		seed = rec.IPv4.Addr().String()
	} else if rec.IPv6.IsValid() {
		seed = rec.IPv6.Addr().String()
	}
	salt, wire := e.ipam.Seed(n.rec.Key)
	for try := 0; ; try++ {
		mac := lan.LocalMAC(fmt.Appendf(nil, "%x %s %s %d", salt, wire, seed, try))
		if !e.hasMAC(n.rec.Key, mac.String()) && (try > 2 || !e.ipam.MACSeen(n.rec.Key, mac.String())) {
			return mac.String()
		}
	}
}

func (e *Engine) hasMAC(key, mac string) bool {
	for _, ep := range e.endpoints {
		if ep.rec.MAC == mac && ep.net.rec.Key == key {
			return true
		}
	}
	return false
}

// Join makes the endpoint's link and says how the container is to use it. The
// same request again gets the same answer.
func (e *Engine) Join(ctx context.Context, networkID, endpointID, sandbox string) (*Attachment, error) {
	if !filepath.IsAbs(sandbox) || len(sandbox) > 4096 {
		return nil, lan.Refusef(lan.ErrInvalid, "sandbox key %.64q is not an absolute path", sandbox)
	}
	a, err := e.join(ctx, networkID, endpointID, sandbox)
	if !errors.Is(err, link.ErrParentGone) {
		return a, err
	}
	n, err := e.network(networkID)
	if err != nil {
		return nil, err
	}
	e.making.Lock()
	err = e.ensureParent(n)
	e.making.Unlock()
	if err != nil {
		if errors.Is(err, lan.ErrUnavailable) {
			e.waits(networkID)
			err = fmt.Errorf(NoParent+": %w", err)
		}
		return nil, err
	}
	return e.join(ctx, networkID, endpointID, sandbox)
}

// NoParent is how an error of Join begins when the network's parent is not there, for those to
// whom Docker tells no more.
const NoParent = "the network has no parent now"

// Has reports whether a network is on record.
func (e *Engine) Has(networkID string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.networks[networkID] != nil
}

// Stands reports whether a network's parent is there.
func (e *Engine) Stands(networkID string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.networks[networkID]
	return n != nil && n.parent != nil
}

// join is Join for a parent that is there; link.ErrParentGone if it is not.
func (e *Engine) join(ctx context.Context, networkID, endpointID, sandbox string) (*Attachment, error) {
	ep, err := e.hold(networkID, endpointID)
	if err != nil {
		return nil, err
	}
	defer e.letGo(ep)
	e.mu.Lock()
	before, left, parent := ep.rec, ep.left, ep.net.parent
	e.mu.Unlock()
	if before.Sandbox != "" && !left {
		if e.links.Exists(before.LinkName()) && before.Sandbox == sandbox {
			return attachment(ep.net, before, e.ipam.LeasesOf(before.Leases)), nil
		}
		if netns.Alive(before.Sandbox) {
			return nil, lan.Refusef(lan.ErrConflict, "endpoint %s is in sandbox %s already", lan.Short(endpointID), before.Sandbox)
		}
	}
	if parent == nil {
		return nil, link.ErrParentGone
	}

	after := before
	after.Sandbox, after.ParentIndex, after.Link = sandbox, parent.Index, e.likelyName(before, sandbox)
	// A link of no record is found by its mark after a crash, so the disk and the
	// kernel may work at the same time.
	written := e.db.Begin(store.PutEndpoint(&after))
	leases := e.ipam.LeasesOf(before.Leases)
	err = e.guard(ep.net, &before, nil, true)
	if err == nil {
		err = e.addLink(ep.net, before, leases, parent)
	}
	if err == nil && e.lingers(ep.net, before.MAC) {
		if err = e.links.AwaitMAC(before.LinkName(), strayRest); errors.Is(err, lan.ErrConflict) {
			e.removeStrays(ctx, []lan.Endpoint{after})
			err = e.links.AwaitMAC(before.LinkName(), macPatience)
		}
		if err != nil {
			e.waits(networkID)
		}
	}
	werr := <-written
	switch {
	case err == nil && werr == nil:
	case err == nil:
		e.trash.put(before.LinkName())
		return nil, werr
	case werr == nil:
		e.trash.put(before.LinkName()) // it may be there
		return nil, errors.Join(err, e.db.Write(store.PutEndpoint(&before)))
	default:
		e.trash.put(before.LinkName())
		return nil, errors.Join(err, werr)
	}
	e.mu.Lock()
	ep.rec, ep.left, ep.warned, ep.told = after, false, false, ""
	ep.shape, ep.ownMTU, ep.touched = nil, 0, time.Now()
	e.mu.Unlock()
	e.unseen.add(sandbox)
	e.tellMoved(ctx, ipam.EventEndpointJoined, ep, &after)
	e.ipam.Joined(ep.net.rec.Key, &after)
	e.openHost(ep, after, false)
	e.greet(ctx, ep, after)
	return attachment(ep.net, after, leases), nil
}

// hold finds an endpoint and keeps other verbs off it, and its network's removal,
// until letGo.
func (e *Engine) hold(networkID, endpointID string) (*endpoint, error) {
	ep, err := e.endpoint(networkID, endpointID)
	if err != nil {
		return nil, err
	}
	ep.net.use.RLock()
	ep.verb.Lock()
	// It may have been deleted while we waited.
	if again, err := e.endpoint(networkID, endpointID); err != nil || again != ep {
		e.letGo(ep)
		if err == nil {
			err = lan.Refusef(lan.ErrConflict, "endpoint %s was made anew meanwhile", lan.Short(endpointID))
		}
		return nil, err
	}
	return ep, nil
}

func (e *Engine) letGo(ep *endpoint) {
	ep.verb.Unlock()
	ep.net.use.RUnlock()
}

// addLink makes an endpoint's link on its network's parent.
func (e *Engine) addLink(n *network, rec lan.Endpoint, leases []lan.Lease, parent *link.Parent) error {
	child, err := childOf(n, rec, parent)
	if err != nil {
		return err
	}
	if len(rec.Leases) > 0 {
		child.Alias = rec.LinkName() // its address may change
	}
	child.MTU = n.rec.MTU
	if mtu := mtuOn(n, leases, parent); n.rec.MTU == 0 && mtu < parent.MTU {
		child.MTU = mtu
	}
	if err := e.pastTrash(func() error { return e.links.AddChild(child) }); err != nil {
		return fmt.Errorf("parent %s: %w", parent.Name, err)
	}
	return nil
}

// childOf is an endpoint's link on a parent, but for its MTU.
func childOf(n *network, rec lan.Endpoint, parent *link.Parent) (link.Child, error) {
	c := link.Child{Name: rec.LinkName(), ParentIndex: parent.Index, Kind: n.rec.Kind, Mode: n.rec.Mode, Flag: n.rec.Flag}
	if rec.MAC != "" {
		mac, err := net.ParseMAC(rec.MAC)
		if err != nil {
			return c, fmt.Errorf("endpoint record: %w", err)
		}
		c.MAC = mac
	}
	return c, nil
}

// mtuOn is the MTU of a container's link on a parent, in bytes: what the network says, or
// else the lease, as far as the parent can.
func mtuOn(n *network, leases []lan.Lease, parent *link.Parent) int {
	mtu := parent.MTU
	if n.rec.MTU > 0 {
		return min(n.rec.MTU, mtu)
	}
	for _, l := range leases {
		if l.MTU > 0 {
			mtu = min(mtu, l.MTU)
		}
	}
	return mtu
}

// pastTrash makes a link on a parent, and again if what stood against it may have been a link
// of ours on its way out: the last passthru child, or a probe.
func (e *Engine) pastTrash(add func() error) error {
	err := add()
	if errors.Is(err, lan.ErrConflict) && e.trash.wait() {
		err = add()
	}
	return err
}

// attachment is how a container uses its link. The routes per mode: on a segment
// (macvlan, ipvlan l2) the gateway of the subnet that holds the address; where
// the kernel routes (ipvlan l3 and l3s) a default route on the link and no
// gateway. An internal network has neither; where the kernel routes, its own
// subnets have routes, so that its containers reach each other. Where a DHCP server gave
// the address, it says gateway and routes, unless the user does.
func attachment(n *network, rec lan.Endpoint, leases []lan.Lease) *Attachment {
	a := &Attachment{SrcName: rec.LinkName(), DstPrefix: "eth", DstName: rec.IfName}
	for _, p := range rec.Addrs() {
		subnet, _ := n.rec.SubnetOf(p.Addr())
		gw := subnet.Gateway
		for _, l := range leases {
			if l.Addr == p && !n.rec.Internal {
				gw = gatewayOf(n, &l)
				a.Routes = append(a.Routes, l.Routes...)
			}
		}
		switch {
		case n.rec.L3() && n.rec.Internal:
			for _, s := range n.rec.Subnets(p.Addr()) {
				if s.Pool != subnet.Pool && s.Pool.Bits() > 0 {
					a.Routes = append(a.Routes, lan.Route{Dst: s.Pool})
				}
			}
		case n.rec.L3():
			a.Routes = append(a.Routes, lan.Route{Dst: lan.AnySubnet(p.Addr().Is6())})
		case n.rec.Internal || n.rec.Gateway == lan.GatewayNone || !gw.IsValid() || gw == p.Addr():
		default:
			if !p.Contains(gw) {
				// The engine wants a route to the gateway before it sets it.
				a.Routes = append(a.Routes, lan.Route{Dst: netip.PrefixFrom(gw, gw.BitLen())})
			}
			if gw.Is4() {
				a.Gateway4 = gw
			} else {
				a.Gateway6 = gw
			}
		}
	}
	return a
}

// gatewayOf is the gateway of a container with a lease: the network's own, if the user
// named one, else what the server says.
func gatewayOf(n *network, l *lan.Lease) netip.Addr {
	if subnet, _ := n.rec.SubnetOf(l.Addr.Addr()); subnet.Gateway.IsValid() {
		return subnet.Gateway
	}
	return l.Gateway
}

// Leave notes that the container is about to give the link back. The link is
// still in the container, so nothing is done to it.
func (e *Engine) Leave(ctx context.Context, networkID, endpointID string) error {
	ep, err := e.hold(networkID, endpointID)
	if err != nil {
		return err
	}
	defer e.letGo(ep)
	e.mu.Lock()
	rec, inside := ep.rec, ep.inside()
	ep.left, ep.touched = true, time.Now()
	e.mu.Unlock()
	if inside {
		e.tellMoved(ctx, ipam.EventEndpointLeft, ep, &rec)
	}
	e.unseen.add(rec.Sandbox) // its other links may have a default route now
	return nil
}

// DeleteEndpoint removes the endpoint. Its link goes in the background.
func (e *Engine) DeleteEndpoint(ctx context.Context, networkID, endpointID string) error {
	ep, err := e.hold(networkID, endpointID)
	if err != nil {
		return err
	}
	defer e.letGo(ep)
	return e.remove(ctx, ep)
}

// remove removes an endpoint that the caller holds.
func (e *Engine) remove(ctx context.Context, ep *endpoint) error {
	e.mu.Lock()
	rec, inside := ep.rec, ep.inside()
	e.mu.Unlock()
	ops := append(e.ipam.Leave(&ep.net.rec.Network, ep.net.rec.Key, &ep.rec), store.DeleteEndpoint(ep.rec.ID))
	if err := e.db.Write(ops...); err != nil {
		return err
	}
	e.forget(ep)
	if inside {
		e.tellMoved(ctx, ipam.EventEndpointLeft, ep, &rec)
	}
	e.closeHost(ep.net, &ep.rec)
	e.unguard(ep.net, &ep.rec)
	e.trash.put(ep.rec.LinkName())
	return nil
}

// tellMoved notes that a container was given an endpoint's link, or has given it back.
func (e *Engine) tellMoved(ctx context.Context, what string, ep *endpoint, rec *lan.Endpoint) {
	event := ipam.Event{What: what, Wire: link.WireText(ep.net.rec.Key), Network: rec.NetworkID, Endpoint: rec.ID, Text: rec.MAC}
	for i, p := range rec.Addrs() {
		if i == 0 {
			event.Address = p.Addr()
			continue
		}
		event.Text = strings.TrimSpace(event.Text + " " + p.Addr().String())
	}
	e.ipam.Tell(ctx, event)
}

// forget takes an endpoint out of those that stand. A link that Docker did not give back goes
// with its namespace, for which the kernel takes its time.
func (e *Engine) forget(ep *endpoint) {
	kept := ep.rec.Sandbox != "" && !e.links.Exists(ep.rec.LinkName())
	e.mu.Lock()
	delete(e.endpoints, ep.rec.ID)
	if kept && ep.rec.MAC != "" {
		e.lingering[ep.net.rec.Key+" "+ep.rec.MAC] = time.Now()
	}
	e.mu.Unlock()
	if kept {
		e.strayed(ep.rec)
	}
}

const (
	// lingerTime is how long a link may be there after its container has gone.
	lingerTime = time.Minute
	// macPatience is how long a container that starts waits for such a link with its MAC
	// address.
	macPatience = 10 * time.Second
)

// lingers reports whether a link with a MAC address may still be on a network's parent, since
// its container has just gone without giving it back.
func (e *Engine) lingers(n *network, mac string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for who, since := range e.lingering {
		if time.Since(since) > lingerTime {
			delete(e.lingering, who)
		}
	}
	_, ok := e.lingering[n.rec.Key+" "+mac]
	return ok
}
