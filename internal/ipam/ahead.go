package ipam

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/pool"
	"github.com/lanyard-net/lanyard/internal/store"
)

// A pool of a shared space may have addresses that are claimed ahead (lease_ahead): the
// cluster's store has them as this host's and held, the state file too, and they are handed out
// without asking it. That one was handed out is told a moment later, together with others.
//
// An address is let go on disk before it is in the cluster's store, and is on disk as handed out
// before Docker hears of it: whenever the daemon is killed, what the state file has as held is
// nobody's.

const (
	// aheadEvery is how often addresses are claimed ahead at most, so that many are in one
	// request.
	aheadEvery = time.Second
	// tellAfter is how long the store is not told that a held address was handed out.
	tellAfter = time.Second
)

// hold is an address that is claimed ahead. It is taken in the set, and may be in its pool's
// stock.
type hold struct {
	pool string // ID
	// since, owner and name are of who had it, where it was somebody's.
	since       time.Time
	owner, name string
	// leaving says that it is about to be let go, and is not handed out. fresh says that it was
	// just given back: until that is on disk only who had it may have it, since they come after
	// that.
	leaving, fresh bool
}

// aheadOf is how many addresses are claimed ahead for a pool, by its options. The caller holds
// mu.
func (m *Manager) aheadOf(p *place) int {
	n := cmp.Or(p.rec.Policy.LeaseAhead, p.rec.LeaseAhead)
	if n == 0 || p.space.segment == "" || p.rec.Source == lan.SourceDHCP || m.cluster.Drained() {
		return 0
	}
	return int(min(uint64(n), (p.run.Size()+3)/4))
}

// holdsOf are the addresses that are held for a pool and not about to leave, those that rested
// longest first. The caller holds mu.
func (sp *space) holdsOf(p *place) (list []netip.Addr) {
	for addr, h := range sp.ahead {
		if h.pool == p.rec.ID && !h.leaving {
			list = append(list, addr)
		}
	}
	slices.SortFunc(list, func(a, b netip.Addr) int {
		return cmp.Or(sp.ahead[a].since.Compare(sp.ahead[b].since), a.Compare(b))
	})
	return list
}

// storeAway reports whether the cluster's store is known to be away.
func (m *Manager) storeAway() bool {
	_, down := m.cluster.Up()
	return down != nil
}

// keepAhead holds an address, which is claimed. The caller holds mu.
func (m *Manager) keepAhead(sp *space, addr netip.Addr, h *hold) {
	h.leaving, h.fresh = false, false
	sp.set.Take(addr)
	sp.ahead[addr] = h
	for _, p := range m.placesIn(sp) {
		for _, r := range p.stock {
			r.held = r.held || r.addr == addr
		}
	}
	written := m.db.Begin(store.PutAddress(&store.Address{
		Space: sp.key, Addr: addr, State: store.Held, Pool: h.pool, Owner: h.owner, Name: h.name, Source: SourcePool, Since: h.since,
	}))
	go func() {
		if err := <-written; err != nil {
			m.log.Error("address held ahead is not written", "address", addr, "err", err)
		}
	}()
}

// unkeep ends that an address is held, which leaves it taken in the set; nil: it was not. probed
// says that the wire was silent about it. What becomes of its record and its claim is for the
// caller. The caller holds mu.
func (m *Manager) unkeep(sp *space, addr netip.Addr) (h *hold, probed bool) {
	if h = sp.ahead[addr]; h == nil {
		return nil, false
	}
	r := m.unstock(sp, addr)
	delete(sp.ahead, addr)
	return h, r != nil && !r.at.IsZero()
}

// unhold makes an address that was held what it was, in memory and on disk. The caller holds
// mu.
func (m *Manager) unhold(sp *space, addr netip.Addr) {
	h, _ := m.unkeep(sp, addr)
	switch {
	case h == nil:
		return
	case sp.held(addr):
	case h.since.IsZero():
		sp.set.Forget(addr)
	default:
		sp.set.Free(addr, pool.Idle{Since: h.since, Owner: h.owner})
	}
	m.db.Begin(store.DeleteAddress(sp.key, addr))
}

// spend hands out an address that is held. The caller holds mu.
func (m *Manager) spend(p *place, addr netip.Addr, w want, source string) (g *grant, probed bool) {
	sp := p.space
	h, probed := m.unkeep(sp, addr)
	g = m.granted(p, addr, w, source)
	g.hold = h
	m.tellSoon(sp, addr)
	return g, probed
}

// tellSoon has the store told a moment later that an address is not only held. The caller holds mu.
func (m *Manager) tellSoon(sp *space, addr netip.Addr) {
	m.after(tellAfter, func(context.Context) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.owe(sp, addr)
	})
}

// pickAhead chooses of what is held for a pool: what is somebody's who may come back for it only
// after the grace period, or for them. Those that were probed go first. The caller holds mu.
func (m *Manager) pickAhead(p *place, w want, free func(netip.Addr) bool) (best netip.Addr) {
	sp := p.space
	rested := m.rested(p)
	for _, addr := range sp.holdsOf(p) {
		h := sp.ahead[addr]
		if !free(addr) || h.fresh || h.owner != "" && h.owner != w.owner && h.since.After(rested) {
			continue
		}
		if !best.IsValid() {
			best = addr
		}
		if slices.ContainsFunc(p.stock, func(r *ready) bool { return r.addr == addr && !r.at.IsZero() }) {
			return addr
		}
	}
	return best
}

// stays has an address that is given back held instead, while the store is away and the pool has
// less than it wants: so that a container that starts again and again does not use up what is
// held. It returns what is to be written; nil: it is let go as ever. The caller holds mu.
func (m *Manager) stays(sp *space, rec *store.Address, since time.Time) *store.Op {
	p := m.pools[rec.Pool]
	if p == nil || p.space != sp || !m.storeAway() || sp.reserved[rec.Addr] != nil || len(sp.holdsOf(p)) >= m.aheadOf(p) {
		return nil
	}
	if c, known := sp.claims[rec.Addr]; known && !m.mine(sp, c.Addr) {
		return nil
	}
	sp.ahead[rec.Addr] = &hold{pool: p.rec.ID, since: since, owner: rec.Owner, name: rec.Name, fresh: true}
	sp.set.Take(rec.Addr)
	rec.State, rec.Since, rec.Reservation = store.Held, since, nil
	m.settleHold(sp, rec.Addr, sp.ahead[rec.Addr])
	op := store.PutAddress(rec)
	return &op
}

// settleHold ends that a hold is fresh, once it is on disk. The caller holds mu.
func (m *Manager) settleHold(sp *space, addr netip.Addr, h *hold) {
	m.after(time.Second, func(context.Context) {
		rec, err := m.db.Address(sp.key, addr)
		m.mu.Lock()
		defer m.mu.Unlock()
		switch {
		case sp.ahead[addr] != h:
		case err != nil || rec == nil || rec.State != store.Held:
			m.settleHold(sp, addr, h)
		default:
			h.fresh = false
			if _, known := sp.claims[addr]; known {
				m.apply(sp, addr)
			}
			m.ring()
		}
	})
}

// adopt holds an address that the store has as held by this host, which does not know of it: it
// was killed, or did not hear the answer. False: it wants no more. The caller holds mu.
func (m *Manager) adopt(sp *space, c cluster.Claim) bool {
	for _, p := range m.placesIn(sp) {
		if p.run.Contains(c.Addr) && len(sp.holdsOf(p)) < m.aheadOf(p) {
			h := &hold{pool: p.rec.ID, owner: c.Owner, name: c.Name}
			if c.Owner != "" {
				h.since = m.steady()
			}
			m.keepAhead(sp, c.Addr, h)
			return true
		}
	}
	return false
}

// owes reports whether the store is to be told something of an address that is claimed for this
// host: that it is free, or in use. The caller holds mu.
func (m *Manager) owes(sp *space, addr netip.Addr) bool {
	switch {
	case !m.mine(sp, addr) || sp.asking[addr]:
		return false
	case sp.held(addr):
		return sp.claims[addr].Held
	}
	return sp.ahead[addr] == nil
}

// ahead has what is held for the pools of a space be what is wanted: it lets addresses go, and
// returns what is to be done to claim some. hosts are this host's own addresses; nil: they were
// not looked for, and none is claimed. The caller holds mu.
func (m *Manager) ahead(sp *space, hosts map[netip.Addr]string) (todo []func(context.Context)) {
	up := !m.storeAway()
	for addr, h := range sp.ahead {
		p := m.pools[h.pool]
		switch c := sp.claims[addr]; {
		case h.leaving || h.fresh:
		case p == nil || p.space != sp || sp.held(addr) || !m.available(sp, addr, hosts):
			todo = append(todo, m.leave(sp, addr, h))
		case up && m.mine(sp, addr) && (!c.Held || c.Owner != h.owner):
			todo = append(todo, m.leave(sp, addr, h)) // it was somebody's while the store was away: all are to know
		}
	}
	select {
	case <-sp.synced:
	default:
		up = false
	}
	var wanted []claimAhead
	for _, p := range m.placesIn(sp) {
		has, wants := sp.holdsOf(p), m.aheadOf(p)
		if wants == 0 && len(has) == 0 {
			continue
		}
		// Where a pool becomes full, others need them more.
		free := m.freeFor(p)
		if up && 4*free < len(has) {
			wants = min(wants, len(has)/2)
		}
		for _, addr := range has[min(len(has), wants):] {
			if h := sp.ahead[addr]; !h.fresh {
				todo = append(todo, m.leave(sp, addr, h))
			}
		}
		wants = min(wants, (len(has)+free)/3)
		if up && hosts != nil && !sp.claiming && time.Since(sp.claimed) >= aheadEvery {
			for n := wants - len(has); n > 0 && len(wanted) < cluster.MaxChanges; n-- {
				c, ok := m.chooseAhead(p, hosts)
				if !ok {
					break
				}
				sp.asking[c.addr] = true
				wanted = append(wanted, c)
			}
		}
	}
	if len(wanted) > 0 {
		sp.claiming = true
		todo = append(todo, func(ctx context.Context) { m.claimAhead(ctx, sp, wanted) })
	}
	return todo
}

// freeFor is how many addresses of a pool nobody has, or will be given, up to a million. The caller holds
// mu.
func (m *Manager) freeFor(p *place) int {
	sp := p.space
	taken, _ := sp.set.Count(p.run)
	free := int(min(p.run.Size()-taken, 1_000_000))
	aside := map[netip.Addr]bool{}
	for addr := range sp.reserved {
		aside[addr] = true
	}
	for addr := range sp.conflicts {
		aside[addr] = true
	}
	for _, q := range m.placesIn(sp) {
		for _, addr := range append([]netip.Addr{q.rec.Gateway}, q.rec.Aux...) {
			aside[addr] = true
		}
	}
	for addr := range aside {
		if addr.IsValid() && p.run.Contains(addr) && !sp.set.Taken(addr) {
			free--
		}
	}
	return max(free, 0)
}

// leave has a held address let go: on disk first. The caller holds mu.
func (m *Manager) leave(sp *space, addr netip.Addr, h *hold) func(context.Context) {
	h.leaving = true
	written := m.db.Begin(store.DeleteAddress(sp.key, addr))
	return func(context.Context) {
		err := <-written
		m.mu.Lock()
		defer m.mu.Unlock()
		switch {
		case sp.ahead[addr] != h || !h.leaving: // somebody has it
		case err != nil:
			h.leaving = false
			m.log.Error("address held ahead is not let go", "address", addr, "err", err)
		default:
			m.unhold(sp, addr)
			m.owe(sp, addr)
		}
	}
}

// claimAhead is an address that is to be claimed ahead.
type claimAhead struct {
	place *place
	addr  netip.Addr
	was   *pool.Idle // what it was; nil: new, or in the stock
	stock *ready     // nil: it is in none
}

// chooseAhead chooses an address to claim ahead, and takes it in the set: one of the stock that
// was probed, where there is one. The caller holds mu.
func (m *Manager) chooseAhead(p *place, hosts map[netip.Addr]string) (claimAhead, bool) {
	sp := p.space
	free := func(addr netip.Addr) bool {
		return !sp.asking[addr] && sp.owed[addr] == nil && m.available(sp, addr, hosts)
	}
	for _, probed := range []bool{true, false} {
		for _, r := range p.stock {
			if !r.held && r.at.IsZero() != probed && free(r.addr) {
				return claimAhead{place: p, addr: r.addr, stock: r}, true
			}
		}
	}
	was := idleOf(sp)
	rested := m.rested(p)
	addr, ok := p.view.Pick(rested, func(a netip.Addr) bool { was.note(a); return !free(a) })
	return claimAhead{place: p, addr: addr, was: was.of(addr)}, ok
}

// claimAhead claims addresses ahead, in one request.
func (m *Manager) claimAhead(ctx context.Context, sp *space, list []claimAhead) {
	changes := make([]cluster.Change, len(list))
	m.mu.Lock()
	for i, c := range list {
		was := sp.claims[c.addr]
		changes[i] = cluster.Change{Was: was.Was(), Claim: cluster.Claim{
			Segment: sp.segment, Addr: c.addr, State: cluster.Taken, Held: true, Host: m.cluster.Self(), Owner: was.Owner, Name: was.Name, Source: SourcePool, Since: m.wall().UTC(),
		}}
	}
	m.mu.Unlock()
	done, err := m.cluster.Change(ctx, changes)
	m.mu.Lock()
	defer m.mu.Unlock()
	sp.claiming, sp.claimed = false, time.Now()
	for i, c := range list {
		p := c.place
		if len(done) == len(list) {
			m.heed(sp, done[i].Claim, false) // asking: it is left alone
		}
		delete(sp.asking, c.addr)
		inStock := c.stock != nil && slices.Contains(p.stock, c.stock)
		switch {
		case sp.held(c.addr): // chosen meanwhile
			continue
		case m.mine(sp, c.addr) && p.space == sp && m.pools[p.rec.ID] == p && (c.stock == nil || inStock):
			h := &hold{pool: p.rec.ID, owner: changes[i].Owner, name: changes[i].Name}
			idle := c.was
			if inStock {
				idle = c.stock.was
			}
			if idle != nil {
				h.since = idle.Since
			}
			m.keepAhead(sp, c.addr, h)
			continue
		case c.stock == nil && c.was != nil:
			sp.set.Free(c.addr, *c.was)
		case c.stock == nil:
			sp.set.Forget(c.addr)
		}
		if _, known := sp.claims[c.addr]; known {
			m.apply(sp, c.addr)
		}
	}
	if err != nil {
		m.log.DebugContext(ctx, "nothing is claimed ahead", "wire", link.WireText(sp.key), "err", err)
	}
}

// claimsAhead reports whether an address is being claimed ahead. The caller holds mu.
func (sp *space) claimsAhead(addr netip.Addr) bool { return sp.claiming && sp.asking[addr] }

// anyAhead reports whether a request of a pool may have what is claimed ahead. The caller holds
// mu.
func (m *Manager) anyAhead(p *place) bool {
	return slices.ContainsFunc(m.family(p), func(q *place) bool { return m.aheadOf(q) > 0 })
}

// untold reports whether the store has an address as who asks has it, as far as it was told. The
// caller holds mu.
func (m *Manager) untold(sp *space, addr netip.Addr) bool {
	d := sp.owed[addr]
	return m.mine(sp, addr) && (d == nil || !d.busy)
}

// spent says with why nothing can be claimed that what was claimed ahead is handed out. The
// caller holds mu.
func (m *Manager) spent(p *place, why error) error {
	if n := m.aheadOf(p); n > 0 && len(p.space.holdsOf(p)) == 0 {
		return lan.Refusef(lan.ErrUnavailable, "all addresses of pool %s that were claimed ahead (lease_ahead, up to %d) are given out, and %v", p.rec.ID, n, why)
	}
	return why
}
