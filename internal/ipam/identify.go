package ipam

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/netns"
	"github.com/lanyard-net/lanyard/internal/store"
)

// shelves are where the leases of a space are looked for. Manager.mu guards all but
// looking.
type shelves struct {
	// leases are those whose address nobody else of ours has, by it.
	leases map[netip.Addr]*lease
	// owned are those of who is known.
	owned map[who][]*lease
	// free are those of nobody in particular that nobody has, IPv6 and not: what was given
	// up last is the last.
	free map[bool][]*lease
	// gone are those of nobody in particular whose containers were seen to have gone without
	// a word, in the order in which they came to be.
	gone map[bool][]*lease

	looking sync.Mutex // held while gone is made; taken before Manager.mu
	looked  time.Time  // when that was last
}

// who is somebody who may have leases of a family.
type who struct {
	owner string
	v6    bool
}

func newShelves() shelves {
	return shelves{leases: map[netip.Addr]*lease{}, owned: map[who][]*lease{}, free: map[bool][]*lease{}, gone: map[bool][]*lease{}}
}

// rememberLease makes a lease known. The caller holds mu.
func (m *Manager) rememberLease(l *lease) {
	m.leases[l.rec.ID] = l
	l.space.own(l, l.rec.Owner)
}

// forgetLease forgets a lease that nobody has. The caller holds mu.
func (m *Manager) forgetLease(l *lease) {
	m.displace(l)
	l.space.unshelve(l)
	l.space.own(l, "")
	delete(m.leases, l.rec.ID)
}

// own makes a lease somebody's. The caller holds mu.
func (s *shelves) own(l *lease, owner string) {
	k := who{l.rec.Owner, l.rec.V6}
	if rest := slices.DeleteFunc(s.owned[k], func(x *lease) bool { return x == l }); len(rest) > 0 {
		s.owned[k] = rest
	} else {
		delete(s.owned, k)
	}
	if l.rec.Owner, k.owner = owner, owner; owner != "" {
		s.owned[k] = append(s.owned[k], l)
	}
}

// turn notes what has become of a lease. The caller holds mu.
func (m *Manager) turn(l *lease, s store.LeaseState) {
	l.space.unshelve(l)
	l.rec.State, l.rec.Since = s, time.Now().UTC()
	l.space.shelve(l)
}

// shelve puts a lease where the next to come finds it, if it is nobody's in particular and
// nobody has it. The caller holds mu.
func (s *shelves) shelve(l *lease) {
	if l.rec.Owner != "" || l.rec.State != store.LeaseIdle && l.rec.State != store.LeasePast {
		return
	}
	shelf := s.free[l.rec.V6]
	i, _ := slices.BinarySearchFunc(shelf, l, bySince)
	s.free[l.rec.V6] = slices.Insert(shelf, i, l)
}

func bySince(a, b *lease) int { return a.rec.Since.Compare(b.rec.Since) }

// unshelve takes it from there. The caller holds mu.
func (s *shelves) unshelve(l *lease) {
	for i, x := range slices.Backward(s.free[l.rec.V6]) {
		if x == l {
			s.free[l.rec.V6] = slices.Delete(s.free[l.rec.V6], i, i+1)
			return
		}
	}
}

// leaseOf is the lease that somebody had, or a new one. It begins work on it, which the
// caller ends with done. Where somebody is at work on it already it waits: that ends
// soon, since nobody has the lease.
func (m *Manager) leaseOf(ctx context.Context, p *place, n *lan.Network, wire *wire, w leaseWant) (_ *lease, done func(), err error) {
	if w.owner == "" {
		m.lookAround(p.space)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.identify(p, n, w)
	for l.work != nil {
		if err := m.await(ctx, l); err != nil {
			return nil, nil, err
		}
		l = m.identify(p, n, w)
	}
	if l.rec.State == store.LeaseBound {
		m.vacate(l)
	}
	l.space.unshelve(l)
	m.describe(&l.rec, n, wire, w)
	_, done = m.begin(ctx, l)
	return l, done, nil
}

// identify finds the lease that somebody had, or makes a new one. The caller holds mu.
func (m *Manager) identify(p *place, n *lan.Network, w leaseWant) *lease {
	sp, v6 := p.space, p.rec.Subnet.Addr().Is6()
	iaid := uint32(1)
	if w.owner == "" {
		if l := m.anybodys(sp, v6, w.addr); l != nil {
			return l
		}
	} else {
		var found *lease
		for _, l := range sp.owned[who{w.owner, v6}] {
			switch {
			case !m.mayTake(l): // on another network of this wire
				iaid = max(iaid, l.rec.IAID+1)
			case n.Sticky() && (found == nil || l.rec.Network == n.ID):
				found = l
			}
		}
		if found != nil {
			return found
		}
	}
	id := make([]byte, 6)
	rand.Read(id) // never fails (crypto/rand)
	l := &lease{space: sp, rec: store.Lease{ID: hex.EncodeToString(id), Space: sp.key, Pool: p.rec.ID, V6: v6, Owner: w.owner, IAID: iaid}}
	m.rememberLease(l)
	return l
}

// anybodys is a lease that nobody in particular had; nil if there is none. Nobody says who
// asks: a container that was just stopped is the most likely to be the one that starts, and
// for others any will do. The caller holds mu.
func (m *Manager) anybodys(sp *space, v6 bool, wish netip.Addr) *lease {
	free := sp.free[v6]
	if wish.IsValid() {
		if l := sp.leases[wish]; l != nil && l.rec.Owner == "" && m.mayTake(l) {
			return l
		}
		for _, l := range slices.Backward(free) {
			if l.rec.Lease.Addr.Addr() == wish {
				return l
			}
		}
	}
	for len(sp.gone[v6]) > 0 {
		i := len(sp.gone[v6]) - 1
		l := sp.gone[v6][i]
		if len(free) > 0 && bySince(free[len(free)-1], l) >= 0 {
			break
		}
		sp.gone[v6] = sp.gone[v6][:i]
		if l.rec.State == store.LeaseBound && m.mayTake(l) {
			return l
		}
	}
	if len(free) > 0 {
		return free[len(free)-1]
	}
	return nil
}

// mayTake reports whether a lease may be somebody's who starts: nobody has it. It looks
// whether a container is there that should be. The caller holds mu.
func (m *Manager) mayTake(l *lease) bool {
	if l.rec.State != store.LeaseBound {
		return l.rec.State == store.LeaseIdle || l.rec.State == store.LeasePast
	}
	addr := l.rec.Lease.Addr.Addr()
	u := l.space.users[addr]
	return l.space.handed[addr].IsZero() && (u == nil || u.ended())
}

// sandboxTime is how long engines before 28, which make a container's namespace after they
// had it join, may take for it, many containers started at once included.
const sandboxTime = time.Minute

// ended reports whether a container has gone without a word: its namespace is there no more.
// The caller holds mu.
func (u *user) ended() bool {
	if u.sandbox == "" {
		return false
	}
	if netns.Alive(u.sandbox) {
		u.seen = true
		return false
	}
	return u.seen || time.Since(u.joined) > sandboxTime
}

// vacate takes a lease from a container that has gone without a word. The caller holds mu.
func (m *Manager) vacate(l *lease) {
	l.space.unuse(l.rec.Lease.Addr.Addr())
	l.endpoint = "" // what the engine does when it finds out is not about this lease
	m.keeper.Drop(l.rec.ID)
	m.turn(l, store.LeaseIdle)
}

// lookAround finds the containers with leases of nobody in particular that have gone
// without a word, with a look at each namespace, not under mu, and once a second at most.
func (m *Manager) lookAround(sp *space) {
	sp.looking.Lock()
	defer sp.looking.Unlock()
	if time.Since(sp.looked) < time.Second {
		return
	}
	var all []*lease
	var users []user
	m.mu.Lock()
	for addr, l := range sp.leases {
		if u := sp.users[addr]; u != nil && u.sandbox != "" && l.rec.Owner == "" && l.rec.State == store.LeaseBound {
			all, users = append(all, l), append(users, *u)
		}
	}
	m.mu.Unlock()
	gone := map[bool][]*lease{}
	for i, l := range all {
		if users[i].ended() {
			gone[l.rec.V6] = append(gone[l.rec.V6], l)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, l := range all {
		if u := sp.users[l.rec.Lease.Addr.Addr()]; u != nil && u.sandbox == users[i].sandbox {
			u.seen = u.seen || users[i].seen
		}
	}
	for _, list := range gone {
		slices.SortFunc(list, bySince)
	}
	sp.gone, sp.looked = gone, time.Now()
}
