package ipam

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/pool"
	"github.com/lanyard-net/lanyard/internal/store"
)

// A space whose wire other hosts are on as well is shared: its addresses are claimed in the
// cluster's store, which has the last word. What is here of the claims is what that has said
// last, and serves to choose well; a claim that is lost is chosen again. The state file has the
// addresses that are this host's, as it has without a cluster.

const (
	// claimFor is how long a hand-out waits for the cluster's store in all.
	claimFor = 5 * time.Second
	// followAgain is when the claims are followed again after an error.
	followAgain = time.Second
	// losses is how many claims in a row may be lost to other hosts.
	losses = 64
)

// sharing is what a shared space has besides. Manager.mu guards it.
type sharing struct {
	// segment is the wire's name in the cluster, "" where the space is not shared.
	segment string
	// claims are as the store has said last. One without a state was there.
	claims map[netip.Addr]cluster.Claim
	// owed are claims of ours that are to be let go, or that the store is to be told more of.
	owed map[netip.Addr]*debt
	// asking are addresses that were chosen, and that the store has not been heard about.
	asking map[netip.Addr]bool
	// ahead are addresses that are claimed ahead; claiming says that the store is being asked
	// for more, and claimed is when it was last.
	ahead     map[netip.Addr]*hold
	claiming  bool
	claimed   time.Time
	following bool
	// synced is closed when all claims are known, and syncedAt is when that was last, by steady.
	synced   chan struct{}
	syncedAt time.Time
}

// debt is a claim of ours that the store is to be told something of: what that is, what is here
// says then.
type debt struct {
	// busy says that the store has been told, and has not answered: the claim may be gone.
	busy bool
}

func newSharing() sharing {
	return sharing{claims: map[netip.Addr]cluster.Claim{}, owed: map[netip.Addr]*debt{}, asking: map[netip.Addr]bool{}, ahead: map[netip.Addr]*hold{}, synced: make(chan struct{})}
}

// Segment is the name that a wire has on all hosts of a cluster: its VLAN tags, whatever its
// device is called, or "untagged". Two wires of one host with the same tags are one segment,
// and share their addresses, which is safe: none is given twice.
func Segment(key string) string {
	if _, tags, ok := strings.Cut(key, "|"); ok {
		return tags
	}
	return "untagged"
}

// steady is a time that goes on evenly whatever becomes of the clock on the wall, by which it began. How
// long an address of a shared space rests is measured by it.
func (m *Manager) steady() time.Time { return m.began.Add(m.clock.now() - m.beganTime) }

// now is the time by which the addresses of a space rest. Those of a space that is not shared rest
// across restarts, by the clock on the wall. The caller holds mu.
func (m *Manager) now(sp *space) time.Time {
	if sp.segment != "" {
		return m.steady()
	}
	return m.wall()
}

// rested is the time before which an address of a pool was given back that goes to others. The
// caller holds mu.
func (m *Manager) rested(p *place) time.Time { return m.now(p.space).Add(-p.rec.Policy.GraceTime()) }

// enter notes that a network is on a wire. The caller holds mu.
func (m *Manager) enter(n *lan.Network, key string) {
	sp := m.space(key)
	sp.nets[n.ID] = n
	if !n.Isolated() {
		m.share(sp)
	}
}

// share makes a space one that is shared, if there is a cluster. The caller holds mu.
func (m *Manager) share(sp *space) {
	if m.cluster == nil || sp.private() || sp.segment != "" {
		return
	}
	sp.segment = Segment(sp.key)
	m.ring()
}

// Seed is what MAC addresses on a wire are made of: the same on all hosts of a cluster, so that
// a container that moves keeps the one of its address.
func (m *Manager) Seed(key string) (salt []byte, wire string) {
	m.mu.Lock()
	shared := m.spaces[key] != nil && m.spaces[key].segment != ""
	m.mu.Unlock()
	if shared {
		if salt := m.cluster.Salt(); salt != nil {
			return salt, Segment(key)
		}
	}
	return m.db.Salt(), key
}

// held reports whether an address is this host's: a container's, or its own. The caller holds
// mu.
func (sp *space) held(addr netip.Addr) bool {
	if _, ok := sp.handed[addr]; ok || sp.users[addr] != nil {
		return true
	}
	for _, n := range sp.nets {
		if slices.Contains(n.HostAddrs, addr) {
			return true
		}
	}
	return false
}

// unmanaged reports whether an address that is this host's is not lanyard's to give: the host's own, or a
// container's that Docker's IPAM driver gave. The caller holds mu.
func (sp *space) unmanaged(addr netip.Addr) bool {
	u := sp.users[addr]
	if u == nil {
		_, handed := sp.handed[addr]
		return !handed
	}
	n := sp.nets[u.network]
	if n == nil {
		return false
	}
	s, _ := n.SubnetOf(addr)
	return !s.Leased && !n.Own
}

// foreign is the claim of another host that has an address; false if none has. The caller
// holds mu.
func (m *Manager) foreign(sp *space, addr netip.Addr) (cluster.Claim, bool) {
	c := sp.claims[addr]
	return c, c.State == cluster.Taken && c.Host != m.cluster.Self()
}

// mine reports whether an address is claimed for this host. The caller holds mu.
func (m *Manager) mine(sp *space, addr netip.Addr) bool {
	c := sp.claims[addr]
	return c.State == cluster.Taken && c.Host == m.cluster.Self()
}

// mayClaim refuses what needs the cluster where it cannot be had, and waits for a moment
// until the claims of a space are known.
func (m *Manager) mayClaim(ctx context.Context, sp *space) error {
	if m.cluster.Drained() {
		return lan.Refusef(lan.ErrUnavailable, "this host is drained, and gives out no new addresses; try: lanyard host drain --undo %s", m.cluster.HostName(m.cluster.Self()))
	}
	t := time.NewTimer(claimFor / 2)
	defer t.Stop()
	select {
	case <-m.cluster.Heard():
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
	}
	if m.storeAway() {
		return nil // the claim itself says what is wrong, if it is not ours
	}
	select {
	case <-sp.synced:
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
	}
	return nil
}

// secure claims an address that was chosen. Where another host has it, or etcd does not answer,
// the grant is taken back; only the second is an error.
func (m *Manager) secure(ctx context.Context, g *grant) (won bool, err error) {
	sp, addr := g.space, g.rec.Addr
	ctx, cancel := context.WithTimeout(ctx, claimFor)
	defer cancel()
	defer func() {
		m.mu.Lock()
		delete(sp.asking, addr)
		m.mu.Unlock()
		if !won {
			m.takeBack(g)
		}
	}()
	m.mu.Lock()
	for sp.owed[addr] != nil && sp.owed[addr].busy {
		paid := m.paid
		m.mu.Unlock()
		select {
		case <-paid:
		case <-ctx.Done():
			return false, lan.Refusef(lan.ErrUnavailable, "etcd at %s has not said yet whether address %s was given back, and "+cluster.NoNewAddress+"; try: again in a moment", m.cluster.Where(), addr)
		}
		m.mu.Lock()
	}
	was := sp.claims[addr]
	if _, theirs := m.foreign(sp, addr); theirs {
		m.mu.Unlock()
		return false, nil // since a moment ago
	}
	if m.mine(sp, addr) && !was.Held && was.Owner == g.rec.Owner && was.Name == g.rec.Name {
		delete(sp.owed, addr) // the store does not know that it was given back
		m.mu.Unlock()
		return true, nil
	}
	delete(sp.owed, addr)
	m.mu.Unlock()
	done, err := m.cluster.Change(ctx, []cluster.Change{{Claim: m.claimOf(sp, &g.rec, was), Was: was.Was()}})
	if err != nil {
		return false, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heed(sp, done[0].Claim, false)
	return done[0].Won, nil
}

// waitForStore notes that a container did not start since the store did not answer.
func (m *Manager) waitForStore(p *place) {
	m.mu.Lock()
	nets := slices.Clone(p.rec.Networks)
	m.mu.Unlock()
	for _, id := range nets {
		if m.onSilence != nil {
			m.onSilence(id)
		}
	}
}

// claimOf is the claim of an address of ours. was is what the store has of it.
func (m *Manager) claimOf(sp *space, rec *store.Address, was cluster.Claim) cluster.Claim {
	return cluster.Claim{
		Segment: sp.segment, Addr: rec.Addr, State: cluster.Taken, Host: m.cluster.Self(), Owner: rec.Owner, Name: rec.Name,
		Source: rec.Source, Since: rec.Since, Reserved: was.Reserved,
	}
}

// reservation is a reservation on record as a claim has it; nil for none.
func reservation(r *store.Address) *cluster.Reservation {
	if r == nil {
		return nil
	}
	return &cluster.Reservation{Name: r.Name, Note: r.Note}
}

// heed takes in what the store says of an address. watched says that it comes by the watch, in
// order. The caller holds mu.
func (m *Manager) heed(sp *space, c cluster.Claim, watched bool) {
	addr := c.Addr
	old, known := sp.claims[addr]
	if known && (old.Rev > c.Rev || old.Rev == c.Rev && c.State != "") {
		return
	}
	if c.State == cluster.Idle {
		// It rests from when that is heard of: what the clock of who gave it back said is another
		// one's. Those that are heard of together rest in the order in which they began.
		c.Since = m.steady().Add(time.Duration(c.Rev))
		if i, ok := sp.set.IdleAt(addr); ok && c.Host == m.cluster.Self() && i.Owner == c.Owner {
			c.Since = i.Since // given back here
		}
	}
	if sp.claims[addr] = c; watched && c.State == "" {
		delete(sp.claims, addr) // nothing older can come any more
	}
	if c.Reserved != nil {
		sp.reserved[addr] = &store.Address{
			Space: sp.key, Addr: addr, State: store.Reserved, Name: c.Reserved.Name, Note: c.Reserved.Note, Source: SourceReservation, Since: c.Since,
		}
	} else if known || c.State != "" {
		delete(sp.reserved, addr)
	}
	m.apply(sp, addr)
}

// apply has an address here be what the store says. The caller holds mu.
func (m *Manager) apply(sp *space, addr netip.Addr) {
	c := sp.claims[addr]
	taken := c.State == cluster.Taken
	if h := sp.ahead[addr]; h != nil && !h.fresh && !m.mine(sp, addr) {
		m.log.Warn("an address that was held ahead is not this host's any more: it was forgotten there", "address", addr, "wire", link.WireText(sp.key))
		m.unhold(sp, addr)
	}
	switch {
	case sp.asking[addr]: // what comes of it says more
	case sp.leases[addr] != nil: // a DHCP server's, which is asked about it
	case sp.held(addr) && taken && c.Host == m.cluster.Self():
		if c.Held {
			m.owe(sp, addr)
		}
	case sp.ahead[addr] != nil:
	case sp.held(addr) && taken:
		m.log.Error("an address is in use here and on another host; it was forgotten there that this host has it", "address", addr,
			"wire", link.WireText(sp.key), "other", m.cluster.HostName(c.Host), "its_container", c.Name)
	case sp.held(addr):
		m.later(func(ctx context.Context) { m.reclaim(ctx, sp, []netip.Addr{addr}) })
	case taken && c.Host == m.cluster.Self():
		if !c.Held || !m.adopt(sp, c) {
			m.owe(sp, addr)
		}
	default:
		m.unstock(sp, addr)
		sp.set.Take(addr)
		switch c.State {
		case cluster.Taken:
			delete(sp.conflicts, addr)
		case cluster.Idle:
			sp.set.Free(addr, pool.Idle{Since: c.Since, Owner: c.Owner})
		default:
			sp.set.Forget(addr)
		}
		m.ring() // a stock may be short now
	}
}

// owe has the store told of a claim of ours what it does not know: that it is free, or in use.
// The caller holds mu.
func (m *Manager) owe(sp *space, addr netip.Addr) {
	if sp.segment == "" || sp.owed[addr] != nil {
		return
	}
	sp.owed[addr] = &debt{}
	select {
	case m.debts <- struct{}{}:
	default:
	}
}

// owedClaims are the claims that the store is to be told of now. The caller holds mu.
func (m *Manager) owedClaims() (sp *space, list []cluster.Change) {
	for _, sp := range m.spaces {
		for addr, d := range sp.owed {
			switch {
			case d.busy:
				continue
			case !m.owes(sp, addr):
				delete(sp.owed, addr)
				continue
			case len(list) == cluster.MaxChanges:
				return sp, list
			}
			was := sp.claims[addr]
			now := was
			if sp.held(addr) {
				rec, err := m.db.Address(sp.key, addr)
				if err == nil && rec == nil && sp.unmanaged(addr) {
					rec = &store.Address{Addr: addr, State: store.Taken, Source: "ipam", Since: m.wall().UTC()}
				}
				if err != nil || rec == nil || rec.State != store.Taken {
					delete(sp.owed, addr)
					m.tellSoon(sp, addr) // it is on its way to the disk
					continue
				}
				d.busy = true
				list = append(list, cluster.Change{Claim: m.claimOf(sp, rec, was), Was: was.Was()})
				continue
			}
			now.State, now.Held, now.Since = "", false, m.wall().UTC()
			if i, ok := sp.set.IdleAt(addr); ok {
				now.State, now.Owner = cluster.Idle, i.Owner
			}
			if was.Reserved != nil {
				now.State, now.Owner, now.Name = cluster.Reserved, "", ""
			}
			d.busy = true
			list = append(list, cluster.Change{Claim: now, Was: was.Was()})
		}
		if len(list) > 0 {
			return sp, list
		}
	}
	return nil, nil
}

// payDebts tells the store what it is owed until ctx ends.
func (m *Manager) payDebts(ctx context.Context) {
	for ctx.Err() == nil {
		if _, down := m.cluster.Up(); down != nil {
			pause(ctx, followAgain)
			continue
		}
		m.mu.Lock()
		sp, list := m.owedClaims()
		m.mu.Unlock()
		if len(list) == 0 {
			select {
			case <-ctx.Done():
			case <-m.debts:
			}
			continue
		}
		done, err := m.cluster.Change(ctx, list)
		now := make([]cluster.Claim, 0, len(list))
		for _, d := range done {
			now = append(now, d.Claim)
		}
		for err != nil && ctx.Err() == nil {
			pause(ctx, followAgain)
			now, err = m.cluster.Look(ctx, list)
		}
		m.mu.Lock()
		for _, c := range now {
			delete(sp.owed, c.Addr)
			m.heed(sp, c, false)
			if m.owes(sp, c.Addr) {
				m.owe(sp, c.Addr) // it did not come through
			}
		}
		close(m.paid)
		m.paid = make(chan struct{})
		m.mu.Unlock()
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// follow keeps the claims of a space until ctx ends.
func (m *Manager) follow(ctx context.Context, sp *space) {
	for ctx.Err() == nil {
		err := m.cluster.Follow(ctx, sp.segment, func(list []cluster.Claim, rev int64) { m.sync(sp, list, rev) }, func(list []cluster.Claim) {
			m.mu.Lock()
			defer m.mu.Unlock()
			for _, c := range list {
				m.heed(sp, c, true)
			}
		})
		if err != nil && ctx.Err() == nil {
			m.log.DebugContext(ctx, "claims are followed again", "segment", sp.segment, "err", err)
		}
		pause(ctx, followAgain)
	}
}

// sync takes in all claims of a space as they stood at a revision, and has claims made that are
// missing: of a host that comes to a cluster, or whose claims were lost.
func (m *Manager) sync(sp *space, list []cluster.Claim, rev int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	there := make(map[netip.Addr]bool, len(list))
	for _, c := range list {
		there[c.Addr] = true
		m.heed(sp, c, true)
	}
	for addr, c := range sp.claims {
		if !there[addr] && c.Rev <= rev {
			m.heed(sp, cluster.Claim{Segment: sp.segment, Addr: addr, Rev: rev}, true)
		}
	}
	for _, addr := range sortedAddrs(sp.ahead) {
		if _, known := sp.claims[addr]; !known {
			m.apply(sp, addr)
		}
	}
	// What the state file remembers of before is no more than that.
	for _, p := range m.placesIn(sp) {
		for addr := range sp.set.AllIdle(subnetRun(p)) {
			if c := sp.claims[addr]; c.State == "" {
				sp.set.Forget(addr)
			}
		}
	}
	var missing []netip.Addr
	want := func(addr netip.Addr) {
		if c := sp.claims[addr]; c.State != cluster.Taken {
			missing = append(missing, addr)
		}
	}
	for addr := range sp.users {
		want(addr)
	}
	for addr := range sp.handed {
		want(addr)
	}
	for _, n := range sp.nets {
		for _, addr := range n.HostAddrs {
			want(addr)
		}
	}
	for addr := range sp.reserved {
		if c := sp.claims[addr]; c.State == "" {
			missing = append(missing, addr)
		}
	}
	if len(missing) > 0 {
		m.later(func(ctx context.Context) { m.reclaim(ctx, sp, missing) })
	}
	sp.syncedAt = m.steady().Add(time.Duration(rev))
	select {
	case <-sp.synced:
	default:
		close(sp.synced)
	}
	m.ring()
}

// reclaim claims addresses that are this host's and are not claimed.
func (m *Manager) reclaim(ctx context.Context, sp *space, addrs []netip.Addr) {
	var list []cluster.Change
	m.mu.Lock()
	for _, addr := range addrs {
		was := sp.claims[addr]
		rec, err := m.db.Address(sp.key, addr)
		switch {
		case err != nil:
			m.log.ErrorContext(ctx, "address is not claimed", "address", addr, "err", err)
			continue
		case was.State == cluster.Taken || sp.leases[addr] != nil || sp.asking[addr]:
			continue
		case sp.held(addr) && rec != nil && rec.State == store.Taken:
		case sp.held(addr) && sp.users[addr] == nil && rec == nil:
			rec = &store.Address{Addr: addr, Name: "the host", Since: m.wall().UTC()}
		case !sp.held(addr) && sp.reserved[addr] != nil && was.State == "":
			r := sp.reserved[addr]
			list = append(list, cluster.Change{Was: was.Was(), Claim: cluster.Claim{
				Segment: sp.segment, Addr: addr, State: cluster.Reserved, Host: m.cluster.Self(), Since: r.Since, Reserved: reservation(r),
			}})
			continue
		default: // Docker's own IPAM driver gave it
			continue
		}
		c := m.claimOf(sp, rec, was)
		if r := sp.reserved[addr]; r != nil {
			c.Reserved = reservation(r)
		}
		list = append(list, cluster.Change{Claim: c, Was: was.Was()})
	}
	m.mu.Unlock()
	for part := range slices.Chunk(list, cluster.MaxChanges) {
		done, err := m.cluster.Change(ctx, part)
		m.mu.Lock()
		for _, d := range done {
			m.heed(sp, d.Claim, false)
		}
		m.mu.Unlock()
		if err != nil {
			return // when the claims are followed again it is seen what is missing
		}
	}
}

// reserveShared is Reserve for an address of a shared space, of which nobody else has it.
func (m *Manager) reserveShared(sp *space, addr netip.Addr, r *store.Address) error {
	ctx, cancel := context.WithTimeout(context.Background(), claimFor)
	defer cancel()
	m.mu.Lock()
	was := sp.claims[addr]
	m.mu.Unlock()
	now := cluster.Claim{Segment: sp.segment, Addr: addr}
	switch {
	case was.State == cluster.Taken && !was.Held:
		now = was
	case r != nil:
		now.State, now.Host, now.Since = cluster.Reserved, m.cluster.Self(), r.Since
	}
	now.Reserved = reservation(r)
	done, err := m.cluster.Change(ctx, []cluster.Change{{Claim: now, Was: was.Was()}})
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.heed(sp, done[0].Claim, false)
	if !done[0].Won {
		return lan.Refusef(lan.ErrConflict, "address %s%s has changed meanwhile: it is %s now; try: again", addr, sp.on(), m.claimText(done[0].Claim))
	}
	return nil
}

// claimText says what a claim is.
func (m *Manager) claimText(c cluster.Claim) string {
	switch c.State {
	case cluster.Taken:
		if c.Held {
			return "claimed ahead (lease_ahead), and not in use, on host " + m.cluster.HostName(c.Host)
		}
		who := "held by a container"
		if c.Name != "" {
			who = "held by container " + c.Name
		}
		return who + " on host " + m.cluster.HostName(c.Host)
	case cluster.Reserved:
		return "reserved"
	}
	return "free"
}
