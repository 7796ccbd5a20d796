package ipam

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/pool"
	"github.com/lanyard-net/lanyard/internal/store"
)

const (
	// pendingFor is how long a pool may wait for its network: the engine creates
	// it in the same breath, but may try again for some 15 s when we are away.
	pendingFor = 30 * time.Second
	// waitForPool is how long a request waits for another network with the same
	// subnet to come to stand.
	waitForPool = 10 * time.Second
)

// RequestPool makes a pool. Until the network is created it is not known which wire it
// is for, unless --ipam-opt parent= says so; then the same request again is answered
// with the same pool. Two pools with the same subnet cannot be told apart when their
// networks come, so the second one waits until the first one's has: it blocks for up
// to 10 s, then refuses.
//
// Where a DHCP server is the source no subnet is needed; one that is given is a check of
// what servers offer.
func (m *Manager) RequestPool(ctx context.Context, r lan.PoolRequest) (lan.PoolGrant, error) {
	opts, err := lan.ParsePoolOptions(r.Options)
	if err != nil {
		return lan.PoolGrant{}, err
	}
	spec, source := opts.Parent, opts.Source
	if opts.LeaseAhead > 0 && m.cluster == nil {
		return lan.PoolGrant{}, (&lan.Network{Policy: lan.Policy{LeaseAhead: opts.LeaseAhead}}).CheckLeaseAhead(false)
	}
	if source == lan.SourceDHCP && !r.Subnet.IsValid() {
		r.Subnet = lan.AnySubnet(r.V6)
	}
	run, err := checkPool(&r, source)
	if err != nil {
		return lan.PoolGrant{}, err
	}
	key := ""
	if spec.Name != "" {
		// As for ipvlan, which more links can carry.
		plan, err := m.links.Look(spec, lan.Ipvlan)
		if err != nil {
			return lan.PoolGrant{}, fmt.Errorf("--ipam-opt parent=%s: %w", spec.Name, err)
		}
		key = plan.Key
	}
	m.mu.Lock()
	p, err := m.admit(ctx, r, source, key)
	if err != nil {
		m.mu.Unlock()
		return lan.PoolGrant{}, err
	}
	fresh := p == nil
	if fresh {
		p = &place{run: run, rec: store.Pool{
			ID: m.newID(r, source, key), Subnet: r.Subnet, Range: r.Range, Parent: spec.Name, Source: source, LeaseAhead: opts.LeaseAhead, Refs: 1, Created: time.Now().UTC(),
		}}
		m.pools[p.rec.ID] = p
		if key == "" {
			key = private(p.rec.ID)
		}
		m.settle(p, key)
	}
	rec := p.rec
	m.mu.Unlock()
	if err := m.db.Write(store.PutPool(&rec)); err != nil {
		if fresh {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.drop(p)
		}
		return lan.PoolGrant{}, err
	}
	return lan.PoolGrant{ID: rec.ID, Subnet: r.Subnet, NoGateway: source == lan.SourceDHCP}, nil
}

// checkPool refuses a pool that nobody could be given an address of.
func checkPool(r *lan.PoolRequest, source lan.Source) (pool.Range, error) {
	if source == lan.SourceDHCP {
		if r.Range.IsValid() {
			return pool.Range{}, lan.Refusef(lan.ErrInvalid, "--ip-range %s is for lanyard's own choice, and the DHCP server chooses; leave it out", r.Range)
		}
		if r.Subnet == lan.AnySubnet(r.V6) {
			return pool.Range{}, nil
		}
	}
	if !r.Subnet.IsValid() {
		if r.V6 {
			return pool.Range{}, lan.Refusef(lan.ErrInvalid, "an IPv6 subnet is needed: the wire has it, and lanyard does not make one up; "+
				"try: --subnet fd00:1::/64, --ipam-opt source=dhcp, or -o ipv6=slaac without --ipv6")
		}
		return pool.Range{}, lan.Refusef(lan.ErrInvalid, "a subnet is needed: that of the wire; try: --subnet 192.168.0.0/16, or --ipam-opt source=dhcp for addresses of the site's DHCP server")
	}
	if r.V6 == r.Subnet.Addr().Is4() {
		return pool.Range{}, lan.Refusef(lan.ErrInvalid, "subnet %s is of the other family", r.Subnet)
	}
	if a := r.Subnet.Addr(); r.Subnet.Bits() == 0 || a.IsMulticast() || a.IsLoopback() || a.IsUnspecified() {
		return pool.Range{}, lan.Refusef(lan.ErrInvalid, "subnet %s is not one of hosts on a wire", r.Subnet)
	}
	run, err := pool.RangeOf(r.Subnet, r.Range)
	switch {
	case err != nil:
		return run, lan.Refusef(lan.ErrInvalid, "%v", err)
	case source == lan.SourceDHCP:
		return pool.Range{}, nil // nothing is picked of it
	}
	return run, nil
}

// admit finds the pool that a request with a parent means, if it is there, and waits
// for its turn with one that has none. The caller holds mu, which is let go meanwhile.
func (m *Manager) admit(ctx context.Context, r lan.PoolRequest, source lan.Source, key string) (*place, error) {
	if key != "" {
		for _, p := range m.pools {
			if p.rec.Space == key && p.rec.Parent != "" && p.rec.Subnet == r.Subnet && p.rec.Range == r.Range && p.rec.Source == source {
				p.rec.Refs++
				return p, nil
			}
		}
		return nil, nil
	}
	end := time.NewTimer(waitForPool)
	defer end.Stop()
	for {
		p := m.pendingLike(r.Subnet)
		if p == nil {
			return nil, nil
		}
		moved := m.moved
		m.mu.Unlock()
		late := false
		select {
		case <-moved:
		case <-ctx.Done():
			late = true
		case <-end.C:
			late = true
		}
		m.mu.Lock()
		if late {
			return nil, lan.Refusef(lan.ErrConflict, "subnet %s was asked for %s ago, and no network of lanyard's has it yet, so that the two could not be told apart; "+
				"try: again in a moment, or --ipam-opt parent=LINK", r.Subnet, time.Since(p.rec.Created).Round(time.Second))
		}
	}
}

// pendingLike is a pool with this subnet whose network is about to be created. The
// caller holds mu.
func (m *Manager) pendingLike(subnet netip.Prefix) *place {
	for _, p := range m.pools {
		if p.pending() && p.rec.Subnet == subnet {
			return p
		}
	}
	return nil
}

// pending reports whether a pool may still be claimed by a network.
func (p *place) pending() bool {
	return p.space.private() && len(p.space.handed) == 0 && time.Since(p.rec.Created) < pendingFor
}

// newID names a pool after what was asked for, and numbers those that are alike. The
// caller holds mu.
func (m *Manager) newID(r lan.PoolRequest, source lan.Source, key string) string {
	base := r.Subnet.String()
	if source == lan.SourceDHCP {
		base = "dhcp"
		if r.V6 {
			base = "dhcpv6"
		}
		if r.Subnet.Bits() > 0 {
			base += "," + r.Subnet.String()
		}
	}
	if r.Range.IsValid() {
		base += "," + r.Range.String()
	}
	if key != "" {
		base += "@" + strings.ReplaceAll(key, "|", ":") // no quoting in a shell
	}
	for i := 1; ; i++ {
		id := base
		if i > 1 {
			id = fmt.Sprintf("%s#%d", base, i)
		}
		if m.pools[id] == nil {
			return id
		}
	}
}

// ReleasePool lets a pool go, and with the last one who asked for it the pool. What it
// gave out and was not given back rests. A pool that is not there is success.
func (m *Manager) ReleasePool(_ context.Context, id string) error {
	m.mu.Lock()
	p := m.pools[id]
	if p == nil {
		m.mu.Unlock()
		return nil
	}
	if p.rec.Refs > 1 {
		p.rec.Refs--
		rec := p.rec
		m.mu.Unlock()
		return m.db.Write(store.PutPool(&rec))
	}
	ops := m.leavePool(p)
	m.drop(p)
	m.mu.Unlock()
	return m.db.Write(ops...)
}

// leavePool is what is to be written when a pool goes. The caller holds mu.
func (m *Manager) leavePool(p *place) []store.Op {
	ops := []store.Op{store.DeletePool(p.rec.ID)}
	if p.space.private() {
		for addr := range p.space.handed {
			ops = append(ops, store.DeleteAddress(p.space.key, addr))
		}
		for addr := range p.space.set.AllIdle(p.run) {
			ops = append(ops, store.DeleteAddress(p.space.key, addr))
		}
	}
	return ops
}

// drop forgets a pool. The caller holds mu.
func (m *Manager) drop(p *place) {
	delete(m.pools, p.rec.ID)
	m.unsettle(p)
	m.announceMove()
	m.ring()
}

// Bind gives a network that is about to stand on a wire its pools: those that Docker
// asked for a moment ago, and new ones for subnets that are options. It returns what is
// to be written with the network's record; undo takes it back when that fails. A
// network that has its pools already keeps them, unless Docker asked for new ones.
func (m *Manager) Bind(ctx context.Context, n *lan.Network, key string) (ops []store.Op, undo func(), err error) {
	hosts := m.hosts(true)
	m.mu.Lock()
	defer m.mu.Unlock()
	type move struct {
		p   *place
		was store.Pool
		old *place // that p takes the place of
	}
	var moves []move
	back := func() {
		for _, mv := range slices.Backward(moves) {
			if mv.was.ID == "" {
				m.drop(mv.p)
				continue
			}
			mv.p.rec = mv.was
			m.settle(mv.p, mv.was.Space)
		}
		if sp := m.spaces[key]; sp != nil {
			delete(sp.nets, n.ID)
		}
	}
	undo = func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		back()
	}
	defer func() {
		if err != nil {
			back()
		}
	}()
	for i, s := range slices.Concat(n.IPv4, n.IPv6) {
		var mv move
		switch {
		case n.Own:
			if mv.p, err = m.ownPool(n, key, i, s); err != nil {
				return nil, nil, err
			}
			if mv.p == nil {
				continue
			}
		case s.Leased:
			if mv.p, mv.old, err = m.claim(n, key, s); err != nil {
				return nil, nil, err
			}
			if mv.p == nil {
				continue
			}
			mv.was = mv.p.rec
		default:
			continue
		}
		mv.p.rec.Networks = append(slices.Clone(mv.p.rec.Networks), n.ID)
		mv.p.rec.Policy = n.Policy
		n.SetSource(i, mv.p.rec.Source)
		if mv.p.rec.Space != key {
			m.settle(mv.p, key)
		}
		moves = append(moves, mv)
		if err := m.checkFixed(ctx, mv.p, s, hosts); err != nil {
			return nil, nil, err
		}
	}
	if err := n.CheckDHCP(); err != nil {
		return nil, nil, err
	}
	if err := n.CheckLeaseAhead(m.cluster != nil); err != nil {
		return nil, nil, err
	}
	for _, mv := range moves {
		rec := mv.p.rec
		ops = append(ops, store.PutPool(&rec))
		if mv.old != nil {
			ops = append(ops, m.leavePool(mv.old)...)
			m.drop(mv.old)
		}
	}
	m.enter(n, key)
	m.announceMove()
	m.ring()
	return ops, undo, nil
}

// Known makes a network known that stands since before.
func (m *Manager) Known(n *lan.Network, key string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.enter(n, key)
}

// ownPool makes the pool of a subnet that is an option; nil if it is there. The caller
// holds mu.
func (m *Manager) ownPool(n *lan.Network, key string, i int, s lan.Subnet) (*place, error) {
	id := fmt.Sprintf("%s/%d", n.ID, i)
	if m.pools[id] != nil {
		return nil, nil
	}
	run, err := checkPool(&lan.PoolRequest{Subnet: s.Pool, Range: s.Range, V6: s.Pool.Addr().Is6()}, s.Source)
	if err != nil {
		return nil, err
	}
	p := &place{run: run, rec: store.Pool{ID: id, Subnet: s.Pool, Range: s.Range, Gateway: s.Gateway, Aux: s.Aux, Source: s.Source, Created: time.Now().UTC()}}
	m.pools[id] = p
	m.settle(p, key)
	return p, nil
}

// claim finds the pool that Docker asked for on behalf of a network; nil where the
// network has one from before. old is the one that it takes the place of: an engine
// makes a network of a configuration anew when it starts. The caller holds mu.
func (m *Manager) claim(n *lan.Network, key string, s lan.Subnet) (p, old *place, err error) {
	var fit []*place
	elsewhere := ""
	for _, q := range m.pools {
		switch {
		case q.rec.Subnet != s.Pool:
		case slices.Contains(q.rec.Networks, n.ID) && q.rec.Space == key:
			old = q
		case q.rec.Parent != "" && q.rec.Space == key && q.rec.Refs > len(q.rec.Networks):
			fit = append(fit, q)
		case q.rec.Parent != "" && q.rec.Refs > len(q.rec.Networks):
			elsewhere = q.rec.Parent
		case q.pending() && sameFixed(&q.rec, s):
			fit = append(fit, q)
		}
	}
	switch {
	case len(fit) == 1:
		return fit[0], old, nil
	case len(fit) > 1:
		return nil, nil, lan.Refusef(lan.ErrConflict, "subnet %s is asked for by %d networks at the same time, and they cannot be told apart; "+
			"try: --ipam-opt parent=%s", s.Pool, len(fit), n.Parent)
	case old != nil:
		return nil, nil, nil
	case elsewhere != "":
		return nil, nil, lan.Refusef(lan.ErrInvalid, "--ipam-opt parent=%s and -o parent=%s are not the same wire", elsewhere, n.Parent)
	}
	return nil, nil, lan.Refusef(lan.ErrNotFound, "the pool with subnet %s is not known to lanyard; try: docker network create again", s.Pool)
}

// sameFixed reports whether a pool has given out what a network says are its gateway
// and auxiliary addresses.
func sameFixed(rec *store.Pool, s lan.Subnet) bool {
	if rec.Gateway.IsValid() && rec.Gateway != s.Gateway {
		return false
	}
	sort := func(list []netip.Addr) []netip.Addr {
		return slices.SortedFunc(slices.Values(list), netip.Addr.Compare)
	}
	return slices.Equal(sort(rec.Aux), sort(s.Aux))
}

// checkFixed refuses auxiliary addresses that a container has. The caller holds mu.
func (m *Manager) checkFixed(ctx context.Context, p *place, s lan.Subnet, hosts map[netip.Addr]string) error {
	for _, addr := range s.Aux {
		// Asked for while a network had this pool, it looked like a container's.
		if _, ok := p.space.handed[addr]; ok && p.rec.Parent != "" && !slices.Contains(p.rec.Aux, addr) {
			delete(p.space.handed, addr)
			p.space.set.Forget(addr)
			p.rec.Aux = append(slices.Clone(p.rec.Aux), addr)
			m.later(func(context.Context) { m.write("auxiliary address", store.DeleteAddress(p.rec.Space, addr)) })
		}
		if u := p.space.users[addr]; u != nil {
			return lan.Refusef(lan.ErrConflict, "auxiliary address %s%s is %s", addr, p.space.on(), m.holder(p.space, addr, nil))
		}
	}
	if on, ok := hosts[s.Gateway]; ok {
		m.log.WarnContext(ctx, "gateway is this host's own address: containers do not reach the host through their parent", "gateway", s.Gateway, "link", on)
	}
	if s.Gateway.IsValid() && !s.Pool.IsSingleIP() {
		if u := p.space.users[s.Gateway]; u != nil {
			m.log.InfoContext(ctx, "gateway is a container", "gateway", s.Gateway, "endpoint", u.endpoint)
		}
	}
	return nil
}

// Unbind takes a network's pools from it, and drops those that nobody else has: the
// engine has released them before, or was away. It returns what is to be written.
func (m *Manager) Unbind(networkID string) []store.Op {
	m.mu.Lock()
	defer m.mu.Unlock()
	var ops []store.Op
	for _, sp := range m.spaces {
		n := sp.nets[networkID]
		delete(sp.nets, networkID)
		if n != nil {
			for _, addr := range n.HostAddrs {
				m.owe(sp, addr)
			}
		}
	}
	delete(m.silences, wanting{networkID, false})
	delete(m.silences, wanting{networkID, true})
	for _, p := range m.pools {
		i := slices.Index(p.rec.Networks, networkID)
		if i < 0 {
			continue
		}
		p.rec.Networks = slices.Delete(slices.Clone(p.rec.Networks), i, i+1)
		if len(p.rec.Networks) == 0 && p.rec.Refs <= 1 {
			ops = append(ops, m.leavePool(p)...)
			m.drop(p)
			continue
		}
		rec := p.rec
		ops = append(ops, store.PutPool(&rec))
	}
	return ops
}
