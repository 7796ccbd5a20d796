package ipam

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-net/lanyard/internal/acd"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/netns"
	"github.com/lanyard-net/lanyard/internal/pool"
	"github.com/lanyard-net/lanyard/internal/store"
)

// Why an address is the one that it is (store.Address.Source).
const (
	SourceUser        = "user"        // --ip, or the option ip
	SourcePool        = "pool"        // the next one
	SourceIdentity    = "identity"    // the container had it before
	SourceReservation = "reservation" // an operator reserved it for the container
)

// giveUp is how many addresses in use by others are found in a row before a request
// fails.
const giveUp = 16

// RequestAddress hands an address out, and returns when that is on disk. Where
// conflict detection is on and no address is probed ahead it blocks for some 0.5 s for
// each address that it has to look for on the wire.
func (m *Manager) RequestAddress(ctx context.Context, r lan.AddressRequest) (netip.Prefix, error) {
	m.mu.Lock()
	p := m.pools[r.PoolID]
	if p == nil {
		m.mu.Unlock()
		return netip.Prefix{}, lan.Refusef(lan.ErrNotFound, "pool %.200q is not known to lanyard; try: docker network rm, and create the network again", r.PoolID)
	}
	switch {
	case r.Addr.IsValid() && r.Addr.Is4() != p.rec.Subnet.Addr().Is4():
		m.mu.Unlock()
		return netip.Prefix{}, lan.Refusef(lan.ErrInvalid, "address %s is not of the family of subnet %s", r.Addr, p.rec.Subnet)
	case r.Addr.IsValid() && !p.rec.Subnet.Contains(r.Addr) && !r.Gateway:
		m.mu.Unlock()
		return netip.Prefix{}, lan.Refusef(lan.ErrInvalid, "address %s is not in subnet %s", r.Addr, p.rec.Subnet)
	case r.Gateway || r.Addr.IsValid() && len(p.rec.Networks) == 0 && r.Name == "":
		return m.fix(p, r) // lets mu go
	}
	m.mu.Unlock()
	if p.rec.Source == lan.SourceDHCP {
		return m.requestLease(ctx, p, r)
	}

	owner := ""
	if r.Name != "" {
		owner = "name " + r.Name
	}
	come := m.db.Expect()
	defer come()
	g, err := m.grant(ctx, p, want{addr: r.Addr, owner: owner, name: r.Name, slow: come})
	if err != nil {
		return netip.Prefix{}, err
	}
	written := m.db.Begin(store.PutAddress(&g.rec))
	come()
	if err := <-written; err != nil {
		m.takeBack(g)
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(g.rec.Addr, g.bits), nil
}

// fix notes a gateway's or an auxiliary address. They stay with the pool until they
// are released. The caller holds mu, which is let go.
func (m *Manager) fix(p *place, r lan.AddressRequest) (netip.Prefix, error) {
	addr, was := r.Addr, p.rec
	if !addr.IsValid() {
		whole, err := pool.RangeOf(p.rec.Subnet, netip.Prefix{})
		if err != nil {
			m.mu.Unlock()
			return netip.Prefix{}, err
		}
		for addr = whole.First; slices.Contains(p.rec.Aux, addr) && addr != whole.Last; addr = addr.Next() {
		}
	}
	if r.Gateway {
		p.rec.Gateway = addr
	} else if !slices.Contains(p.rec.Aux, addr) {
		if p.space.users[addr] != nil {
			who := m.holder(p.space, addr, nil)
			m.mu.Unlock()
			return netip.Prefix{}, lan.Refusef(lan.ErrConflict, "auxiliary address %s%s is %s", addr, p.space.on(), who)
		}
		p.rec.Aux = append(slices.Clone(p.rec.Aux), addr)
	}
	rec := p.rec
	m.mu.Unlock()
	if err := m.db.Write(store.PutPool(&rec)); err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		p.rec.Gateway, p.rec.Aux = was.Gateway, was.Aux
		return netip.Prefix{}, err
	}
	return netip.PrefixFrom(addr, p.rec.Subnet.Bits()), nil
}

// want is what is asked for.
type want struct {
	addr  netip.Addr // zero: any
	owner string     // who asks, "" if that is not certain
	name  string     // the container's name, "" if it is not known
	slow  func()     // called before the wire is asked, which takes long; may be nil
	firm  bool       // it is to be claimed at once, and not to be one that was claimed ahead
}

// grant is an address that was handed out, in memory.
type grant struct {
	space *space
	rec   store.Address
	bits  int
	was   *pool.Idle // what it was before; nil: new
	hold  *hold      // it was claimed ahead
}

// grant chooses an address, and holds it for the caller to write g.rec or to call
// takeBack.
func (m *Manager) grant(ctx context.Context, p *place, w want) (*grant, error) {
	lost, again := 0, false
	for tries := 0; tries < giveUp && lost < losses; {
		hosts := m.hosts(w.addr.IsValid())
		m.mu.Lock()
		if p.space.segment != "" {
			sp := p.space
			m.mu.Unlock()
			if err := m.mayClaim(ctx, sp); err != nil {
				return nil, err
			}
			m.mu.Lock()
		}
		if m.pools[p.rec.ID] != p {
			m.mu.Unlock()
			return nil, lan.Refusef(lan.ErrNotFound, "pool %s was removed meanwhile", p.rec.ID)
		}
		g, probed, err := m.choose(p, w, hosts)
		if err != nil {
			m.mu.Unlock()
			return nil, err
		}
		if g.space.segment != "" && g.hold == nil {
			g.space.asking[g.rec.Addr] = true
			m.mu.Unlock()
			won, err := m.secure(ctx, g)
			m.mu.Lock()
			if err != nil && !again && !w.firm && errors.Is(err, lan.ErrUnavailable) && m.anyAhead(p) {
				again = true // with what is held
				m.mu.Unlock()
				continue
			}
			if err != nil {
				err = m.spent(p, err)
				m.mu.Unlock()
				m.waitForStore(p)
				return nil, err
			}
			if !won {
				lost++
				p.view.Begin(rand.Uint64()) // away from where the other one picks
				m.mu.Unlock()
				continue
			}
		}
		wire := g.space.wire
		if probed || wire == nil || wire.acd == nil || p.rec.Policy.NoACD {
			short := len(p.stock) < wantStock(p)
			m.mu.Unlock()
			if short {
				m.ring()
			}
			return g, nil
		}
		m.mu.Unlock()
		if w.slow != nil {
			w.slow()
		}
		mac, err := wire.acd.Probe(ctx, g.rec.Addr, acd.Quick())
		if err != nil {
			m.log.WarnContext(ctx, "address not probed", "address", g.rec.Addr, "wire", link.WireText(g.space.key), "err", err)
		}
		if mac == nil {
			m.ring()
			return g, nil
		}
		tries++
		m.takeBack(g)
		m.mu.Lock()
		m.meet(g.space, g.rec.Addr, mac.String(), conflictRetry)
		g.space.conflictsSeen++
		m.tellAddress(ctx, g.space, EventInUse, g.rec.Addr, "by "+mac.String())
		m.mu.Unlock()
		m.log.WarnContext(ctx, "address is in use by another on the wire", "address", g.rec.Addr, "mac", mac.String(), "wire", link.WireText(g.space.key), "asked_by", w.name)
		if w.addr.IsValid() {
			return nil, lan.Refusef(lan.ErrConflict, "address %s is in use%s by %s, which answered just now; try: another address, or -o acd=off", w.addr, g.space.on(), mac)
		}
	}
	if lost == losses {
		return nil, lan.Refusef(lan.ErrConflict, "other hosts took %d addresses of pool %s in a row before this one could; try: again", losses, p.rec.ID)
	}
	return nil, lan.Refusef(lan.ErrConflict, "the wire%s answered for %d addresses of pool %s in a row; try: lanyard pool inspect", p.space.on(), giveUp, p.rec.ID)
}

// choose takes an address in memory; probed says that it need not be probed. The
// caller holds mu.
func (m *Manager) choose(p *place, w want, hosts map[netip.Addr]string) (g *grant, probed bool, err error) {
	if w.addr.IsValid() {
		return m.chooseThis(p, w, hosts)
	}
	places := m.family(p)
	sp := p.space
	if w.name != "" {
		for addr, r := range sp.reserved {
			for _, q := range places {
				if r.Name == w.name && q.rec.Subnet.Contains(addr) && !sp.set.Taken(addr) {
					return m.take(q, addr, w, SourceReservation), false, nil
				}
			}
		}
	}
	free := func(addr netip.Addr) bool { return m.available(sp, addr, hosts) && !sp.claimsAhead(addr) }
	// While the store is away nothing can be claimed, and what is held is better than nothing.
	away := !w.firm && sp.segment != "" && m.storeAway() && m.anyAhead(p)
	if w.owner != "" && p.rec.Policy.Sticky() {
		for _, q := range places {
			for _, addr := range sp.holdsOf(q) {
				if !w.firm && sp.ahead[addr].owner == w.owner && free(addr) {
					since := sp.ahead[addr].since
					g, probed := m.spend(q, addr, w, SourceIdentity)
					return g, probed || m.watchedSince(sp, since), nil
				}
			}
			if i := slices.IndexFunc(q.stock, func(r *ready) bool { return r.was != nil && r.was.Owner == w.owner && !r.held }); i >= 0 && free(q.stock[i].addr) && !away {
				r := q.unstock(i)
				return m.take(q, r.addr, w, SourceIdentity), !r.at.IsZero(), nil
			}
			if addr, ok := sp.set.LastOf(w.owner, subnetRun(q)); ok && free(addr) && (!away || m.untold(sp, addr)) {
				i, _ := sp.set.IdleAt(addr)
				return m.take(q, addr, w, SourceIdentity), m.watchedSince(sp, i.Since), nil
			}
		}
	}
	for _, q := range places {
		if addr := m.pickAhead(q, w, free); !w.firm && addr.IsValid() {
			g, probed := m.spend(q, addr, w, SourcePool)
			return g, probed, nil
		}
	}
	// One that is being probed is next in line as well: it is asked for again, quickly.
	for _, q := range places {
		for _, probed := range []bool{true, false} {
			for i, r := range q.stock {
				if r.held || r.at.IsZero() == probed || !free(r.addr) {
					continue
				}
				q.unstock(i)
				return m.take(q, r.addr, w, SourcePool), probed, nil
			}
		}
	}
	for range 2 {
		for _, q := range places {
			rested := m.rested(q)
			was := idleOf(sp)
			if addr, ok := q.view.Pick(rested, func(a netip.Addr) bool { was.note(a); return !free(a) }); ok {
				g := m.granted(q, addr, w, SourcePool)
				g.was = was.of(addr)
				return g, false, nil
			}
		}
		// The last addresses may be in a stock, or in the middle of a probe.
		if !m.emptyStocks(sp) {
			break
		}
	}
	return nil, false, m.exhausted(places, hosts)
}

// subnetRun is all of a pool's subnet, because a user's --ip may be outside the range.
func subnetRun(p *place) pool.Range {
	if run, err := pool.RangeOf(p.rec.Subnet, netip.Prefix{}); err == nil {
		return run
	}
	return p.run
}

// noted remembers what the last idle candidates were.
type noted struct {
	sp   *space
	addr netip.Addr
	was  *pool.Idle
}

func idleOf(sp *space) *noted { return &noted{sp: sp} }

func (n *noted) note(a netip.Addr) {
	n.addr, n.was = a, nil
	if i, ok := n.sp.set.IdleAt(a); ok {
		n.was = &i
	}
}

func (n *noted) of(a netip.Addr) *pool.Idle {
	if n.addr == a {
		return n.was
	}
	return nil
}

// chooseThis takes the address that the user wants, or says who has it. The caller
// holds mu.
func (m *Manager) chooseThis(p *place, w want, hosts map[netip.Addr]string) (*grant, bool, error) {
	sp := p.space
	whole := subnetRun(p)
	if !whole.Contains(w.addr) {
		return nil, false, lan.Refusef(lan.ErrInvalid, "address %s is the network's or the broadcast address of subnet %s", w.addr, p.rec.Subnet)
	}
	r := m.unstock(sp, w.addr)
	probed := r != nil && !r.at.IsZero()
	c := sp.conflicts[w.addr]
	delete(sp.conflicts, w.addr) // to be asked again, because the user wants it
	who := ""
	// Engines before 29 do not say who asks: --ip is then word enough.
	if r := sp.reserved[w.addr]; r == nil || r.Name == "" || w.name != "" && r.Name != w.name || sp.set.Taken(w.addr) {
		who = m.holder(sp, w.addr, hosts)
	}
	if c != nil && (p.rec.Policy.NoACD || sp.wire == nil) {
		sp.conflicts[w.addr] = c
	}
	if who != "" {
		return nil, false, lan.Refusef(lan.ErrConflict, "address %s%s is %s", w.addr, sp.on(), who)
	}
	if sp.ahead[w.addr] != nil && !w.firm {
		g, _ := m.spend(p, w.addr, w, SourceUser)
		return g, probed, nil
	}
	m.unhold(sp, w.addr)
	if i, ok := sp.set.IdleAt(w.addr); ok {
		probed = probed || m.watchedSince(sp, i.Since) && c == nil
	}
	return m.take(p, w.addr, w, SourceUser), probed, nil
}

// take hands out an address that is not taken. The caller holds mu.
func (m *Manager) take(p *place, addr netip.Addr, w want, source string) *grant {
	var was *pool.Idle
	if i, ok := p.space.set.IdleAt(addr); ok {
		was = &i
	}
	p.space.set.Take(addr)
	g := m.granted(p, addr, w, source)
	g.was = was
	return g
}

// granted is the grant of an address that the set has as taken. The caller holds mu.
func (m *Manager) granted(p *place, addr netip.Addr, w want, source string) *grant {
	sp := p.space
	sp.handed[addr] = time.Now()
	g := &grant{space: sp, bits: p.rec.Subnet.Bits(), rec: store.Address{
		Space: sp.key, Addr: addr, State: store.Taken, Pool: p.rec.ID, Owner: w.owner, Name: w.name, Source: source, Since: m.wall().UTC(),
	}}
	g.rec.Reservation = sp.reserved[addr]
	return g
}

// takeBack undoes a grant.
func (m *Manager) takeBack(g *grant) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(g.space.handed, g.rec.Addr)
	if g.hold != nil {
		m.keepAhead(g.space, g.rec.Addr, g.hold)
		if _, known := g.space.claims[g.rec.Addr]; !known {
			return
		}
	} else if g.was != nil {
		g.space.set.Free(g.rec.Addr, *g.was)
	} else {
		g.space.set.Forget(g.rec.Addr)
	}
	if g.space.segment != "" {
		m.apply(g.space, g.rec.Addr)
	}
}

// available reports whether an address that is not taken may be given to anybody. The
// caller holds mu.
func (m *Manager) available(sp *space, addr netip.Addr, hosts map[netip.Addr]string) bool {
	_, host := hosts[addr]
	fixed, _ := m.fixed(sp, addr)
	return !host && sp.reserved[addr] == nil && sp.conflicts[addr] == nil && fixed == ""
}

// exhausted says why there is no address, and who holds them. The caller holds mu.
func (m *Manager) exhausted(places []*place, hosts map[netip.Addr]string) error {
	var b strings.Builder
	sp := places[0].space
	for i, p := range places {
		if i > 0 {
			b.WriteString("; ")
		}
		s := m.count(p, hosts)
		fmt.Fprintf(&b, "pool %s%s is full: of %d addresses %d are held", p.rec.ID, sp.on(), s.Size, s.Used)
		for _, part := range []struct {
			n    uint64
			what string
		}{{s.Reserved, "set aside"}, {s.Resting, "kept for containers that may come back"}, {s.Conflicting, "used by others on the wire"}} {
			if part.n > 0 {
				fmt.Fprintf(&b, ", %d %s", part.n, part.what)
			}
		}
	}
	var who []string
	for addr := range sp.set.AllTaken(places[0].run) {
		if len(who) == 3 {
			who = append(who, "...")
			break
		}
		if u := sp.users[addr]; u != nil {
			name := m.nameOf(sp, addr)
			if name == "" {
				name = "endpoint " + lan.Short(u.endpoint)
			}
			who = append(who, fmt.Sprintf("%s by %s", addr, name))
		}
	}
	if len(who) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(who, ", "))
	}
	b.WriteString("; try: lanyard address ls, lanyard address release, a second --subnet, or a wider --ip-range")
	return lan.Refusef(lan.ErrConflict, "%s", b.String())
}

// ReleaseAddress takes an address back, and returns when that is on disk. One that is
// not held is success: engines release gateways that they were only told of, and more
// than once. While an endpoint of ours has the address it stays held.
func (m *Manager) ReleaseAddress(_ context.Context, poolID string, addr netip.Addr) error {
	m.mu.Lock()
	p := m.pools[poolID]
	if p == nil {
		m.mu.Unlock()
		return nil
	}
	sp := p.space
	u, held := sp.users[addr], sp.handed[addr]
	switch i := slices.Index(p.rec.Aux, addr); {
	case u != nil:
		u.released = true
		m.mu.Unlock()
		return nil
	case !held.IsZero():
		m.mu.Unlock()
		return m.free(sp, addr)
	case p.rec.Gateway == addr:
		p.rec.Gateway = netip.Addr{}
	case i >= 0:
		p.rec.Aux = slices.Delete(slices.Clone(p.rec.Aux), i, i+1)
	default:
		m.mu.Unlock()
		return nil
	}
	rec := p.rec
	m.mu.Unlock()
	return m.db.Write(store.PutPool(&rec))
}

// free lets an address rest that was handed out and has no endpoint.
func (m *Manager) free(sp *space, addr netip.Addr) error {
	op, err := m.letGo(sp, addr)
	if err != nil || op == nil {
		return err
	}
	return m.db.Write(*op)
}

// letGo makes an address that was handed out idle, in memory, and returns what is to be
// written; nil if it was not handed out.
func (m *Manager) letGo(sp *space, addr netip.Addr) (*store.Op, error) {
	rec, err := m.db.Address(sp.key, addr)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := sp.handed[addr]; !ok {
		return nil, nil
	}
	delete(sp.handed, addr)
	if l := sp.leases[addr]; l != nil {
		op := m.rest(l)
		return &op, nil
	}
	now := m.now(sp).UTC()
	var op store.Op
	if sp.segment != "" && rec != nil {
		// The claim remembers who had it.
		sp.set.Free(addr, pool.Idle{Since: now, Owner: rec.Owner})
		if op := m.stays(sp, rec, now); op != nil {
			return op, nil
		}
		if sp.reserved[addr] != nil {
			sp.set.Forget(addr)
		}
		m.owe(sp, addr)
		m.ring()
		op = store.DeleteAddress(sp.key, addr)
		return &op, nil
	}
	switch r := sp.reserved[addr]; {
	case r != nil:
		sp.set.Forget(addr)
		op = store.PutAddress(r)
	case rec == nil:
		// An endpoint of a network with another IPAM driver had it.
		sp.set.Forget(addr)
		if m.cluster != nil && m.owes(sp, addr) {
			m.owe(sp, addr) // it was claimed ahead before that
		}
		return nil, nil
	default:
		rec.State, rec.Since = store.Idle, now
		sp.set.Free(addr, pool.Idle{Since: now, Owner: rec.Owner})
		op = store.PutAddress(rec)
	}
	m.ring()
	return &op, nil
}

// Give chooses the addresses of an endpoint on a network whose subnets are options: one
// of each family that it has subnets of. asked are those that the user wants, owner is
// who the container is, "" if that is not certain, and mac is its MAC address, where the
// user says one. It returns what is to be written before Docker hears of them; undo takes
// them back. Where it asks a DHCP server it blocks as lease does.
func (m *Manager) Give(ctx context.Context, n *lan.Network, asked []netip.Addr, owner string, mac net.HardwareAddr, opts lan.EndpointOptions) (addrs []netip.Prefix, ops []store.Op, undo func(), err error) {
	var grants []*grant
	var leases []*lease
	back := func() {
		for _, g := range grants {
			m.takeBack(g)
		}
		for _, l := range leases {
			m.giveUp(l)
		}
	}
	defer func() {
		if err != nil {
			back()
		}
	}()
	for _, a := range asked {
		if _, ok := n.SubnetOf(a); !ok {
			return nil, nil, nil, lan.Refusef(lan.ErrInvalid, "address %s is in no subnet of network %s", a, lan.Short(n.ID))
		}
	}
	for _, subnets := range [][]lan.Subnet{n.IPv4, n.IPv6} {
		if len(subnets) == 0 {
			continue
		}
		w := want{owner: owner}
		at := 0
		for _, a := range asked {
			if i := slices.IndexFunc(subnets, func(s lan.Subnet) bool { return s.Pool.Contains(a) }); i >= 0 {
				w.addr, at = a, i
			}
		}
		m.mu.Lock()
		p := m.ownPlace(n.ID, subnets[at].Pool)
		m.mu.Unlock()
		if p == nil {
			return nil, nil, nil, lan.Refusef(lan.ErrNotFound, "subnet %s of network %s has no pool", subnets[at].Pool, lan.Short(n.ID))
		}
		if p.rec.Source == lan.SourceDHCP {
			l, err := m.lease(ctx, p, leaseWant{addr: w.addr, owner: owner, mac: mac, opts: opts})
			if err != nil {
				return nil, nil, nil, err
			}
			m.mu.Lock()
			rec := l.rec
			m.mu.Unlock()
			leases = append(leases, l)
			addrs = append(addrs, rec.Lease.Addr)
			ops = append(ops, store.PutLease(&rec))
			continue
		}
		g, err := m.grant(ctx, p, w)
		if err != nil {
			return nil, nil, nil, err
		}
		grants = append(grants, g)
		addrs = append(addrs, netip.PrefixFrom(g.rec.Addr, g.bits))
		ops = append(ops, store.PutAddress(&g.rec))
	}
	return addrs, ops, back, nil
}

// HostAddresses gives the host its addresses on a network that has its pools and its wire:
// those that the user wants (HostAddrs), or one of each family. From then on they are the
// network's, and go with it. It asks the wire whether anybody has them, which takes less than
// a second each.
func (m *Manager) HostAddresses(ctx context.Context, n *lan.Network) error {
	m.mu.Lock()
	asked := n.HostAddrs
	n.HostAddrs = nil // so that nobody has them
	m.mu.Unlock()
	has := slices.Clone(asked)
	var grants []*grant
	defer func() {
		m.mu.Lock()
		n.HostAddrs = has
		m.mu.Unlock()
		for _, g := range grants {
			m.takeBack(g)
		}
	}()
	for _, s := range slices.Concat(n.IPv4, n.IPv6) {
		i := slices.IndexFunc(asked, s.Pool.Contains)
		w := want{name: "the host", firm: true}
		switch {
		case i >= 0:
			w.addr = asked[i]
		case !n.HostAuto || slices.ContainsFunc(has, func(a netip.Addr) bool { return a.Is4() == s.Pool.Addr().Is4() }):
			continue
		}
		m.mu.Lock()
		p := m.ownPlace(n.ID, s.Pool)
		m.mu.Unlock()
		if p == nil || slices.Contains(s.Aux, w.addr) {
			continue // set aside by Docker, or by the user
		}
		if p.rec.Source == lan.SourceDHCP {
			return lan.Refusef(lan.ErrInvalid, "the addresses in %s are a DHCP server's to give; try: -o host_access=true alone, with an address on the parent", s.Pool)
		}
		g, err := m.grant(ctx, p, w)
		if err != nil {
			return fmt.Errorf("address for the host: %w", err)
		}
		grants = append(grants, g)
		if i < 0 {
			has = append(has, g.rec.Addr)
		}
	}
	return nil
}

// ownPlace is the pool of a subnet that is an option of a network. The caller holds mu.
func (m *Manager) ownPlace(networkID string, subnet netip.Prefix) *place {
	for _, p := range m.pools {
		if p.rec.Subnet == subnet && slices.Contains(p.rec.Networks, networkID) {
			return p
		}
	}
	return nil
}

// Assign makes an endpoint known that is to have its addresses, or says who has one of
// them. It does not block. mac is the link's, or its parent's where it has none of its
// own. again is for endpoints that stand since before.
func (m *Manager) Assign(n *lan.Network, key string, e *lan.Endpoint, mac string, again bool) (ops []store.Op, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	sp := m.space(key)
	for _, p := range e.Addrs() {
		addr := p.Addr()
		if again {
			continue
		}
		if u := sp.users[addr]; u != nil && u.endpoint != e.ID {
			return nil, lan.Refusef(lan.ErrConflict, "address %s%s is %s", addr, sp.on(), m.holder(sp, addr, nil))
		}
		_, handed := sp.handed[addr]
		subnet, _ := n.SubnetOf(addr)
		managed := subnet.Leased || n.Own
		if handed != managed && sp.users[addr] == nil {
			if handed {
				return nil, lan.Refusef(lan.ErrConflict, "address %s%s is %s", addr, sp.on(), m.holder(sp, addr, nil))
			}
			m.unstock(sp, addr)
			if h, _ := m.unkeep(sp, addr); h != nil {
				if m.tellSoon(sp, addr); !managed {
					ops = append(ops, store.DeleteAddress(sp.key, addr))
				}
			}
			if managed && subnet.Source == lan.SourceDHCP {
				return nil, lan.Refusef(lan.ErrConflict, "address %s%s: its DHCP lease is gone; try: start the container again", addr, sp.on())
			}
			if managed {
				// Handed out so long ago that it was taken back, or by one whose records are lost. Then
				// its container may have been heard before it was known.
				if c := sp.conflicts[addr]; c != nil && c.mac == mac {
					delete(sp.conflicts, addr)
				}
				if who := m.holder(sp, addr, nil); who != "" {
					return nil, lan.Refusef(lan.ErrConflict, "address %s%s is %s", addr, sp.on(), who)
				}
				ops = append(ops, store.PutAddress(&store.Address{
					Space: sp.key, Addr: addr, State: store.Taken, Source: SourcePool, Since: time.Now().UTC(),
				}))
				if sp.segment != "" {
					m.after(time.Second, func(ctx context.Context) { m.reclaim(ctx, sp, []netip.Addr{addr}) })
				}
			}
		}
	}
	for _, id := range e.Leases {
		l := m.leases[id]
		if l == nil || l.rec.State == store.LeasePast {
			continue
		}
		l.rec.Network, l.told = n.ID, toldOf(e, l.rec.V6)
		if l.endpoint = e.ID; again {
			if l.rec.State == store.LeaseIdle {
				m.turn(l, store.LeaseBound)
			}
			m.keeper.Hold(id, m.due(l))
		}
	}
	for _, p := range e.Addrs() {
		sp.set.Take(p.Addr())
		delete(sp.handed, p.Addr())
		sp.use(p.Addr(), &user{endpoint: e.ID, network: n.ID, mac: mac, sandbox: e.Sandbox})
	}
	return ops, nil
}

// Joined notes where an endpoint's addresses live.
func (m *Manager) Joined(key string, e *lan.Endpoint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range e.Leases {
		if l := m.leases[id]; l != nil && l.retell {
			m.retell(l, 2*time.Second)
		}
	}
	for _, p := range e.Addrs() {
		if u := m.space(key).users[p.Addr()]; u != nil && u.endpoint == e.ID {
			u.sandbox, u.joined, u.seen = e.Sandbox, time.Now(), netns.Alive(e.Sandbox)
		}
	}
}

// retell has the server told of another host name once the container's link is up: a while
// from now or, where it is not yet, later. The caller holds mu.
func (m *Manager) retell(l *lease, in time.Duration) {
	m.after(in, func(context.Context) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if l.retell && l.endpoint != "" && in < time.Minute {
			m.keeper.Hurry(l.rec.ID)
			m.retell(l, 2*in)
		}
	})
}

// Leave takes an endpoint's addresses from it. Those that Docker's IPAM driver of ours
// gave it stay held until Docker gives them back; others are free. It returns what is to
// be written with the endpoint's removal.
func (m *Manager) Leave(n *lan.Network, key string, e *lan.Endpoint) (ops []store.Op) {
	if n.Own {
		// The record that Give made may be on its way to the disk.
		m.write("addresses")
	}
	defer func() {
		// Those that have no address now.
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, id := range e.Leases {
			if l := m.leases[id]; l != nil && l.endpoint == e.ID {
				ops = append(ops, m.rest(l))
			}
		}
	}()
	for _, p := range e.Addrs() {
		m.mu.Lock()
		addr, sp := p.Addr(), m.space(key)
		u := sp.users[addr]
		if u == nil || u.endpoint != e.ID {
			m.mu.Unlock()
			continue
		}
		sp.unuse(addr)
		sp.ours[u.mac] = time.Now()
		sp.handed[addr] = time.Now()
		subnet, _ := n.SubnetOf(addr)
		keep := subnet.Leased && subnet.Source == lan.SourcePool && !u.released
		m.mu.Unlock()
		if keep {
			continue
		}
		op, err := m.letGo(sp, addr)
		if err != nil {
			m.log.Error("address stays held", "address", addr, "err", err)
		}
		if op != nil {
			ops = append(ops, *op)
		}
	}
	return ops
}

// MACSeen reports whether somebody else on the wire has this MAC address. Where addresses are
// shared with other hosts nobody counts: it may be the container itself, on the host where it
// was, since the MAC address is made of its address there as well.
func (m *Manager) MACSeen(key, mac string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	sp := m.space(key)
	_, ok := sp.seen[mac]
	return ok && sp.segment == ""
}

// write is db.Write for what only the log can hear of.
func (m *Manager) write(what string, ops ...store.Op) {
	if err := m.db.Write(ops...); err != nil {
		m.log.Error("not written", "what", what, "err", err)
	}
}
