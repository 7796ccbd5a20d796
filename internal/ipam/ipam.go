// Package ipam hands out addresses: it is lanyard's half of Docker's IPAM driver
// protocol, and what chooses addresses for networks whose subnets are options.
//
// An address belongs to a space, the allocation domain of one wire (a parent and its
// VLAN): two networks on one wire never get the same address, and two wires may have
// the same subnet. Docker's IPAM calls name no network and no parent, so a pool is in
// a space of its own from RequestPool until the network that it was asked for is
// created, and is moved to the network's wire then.
//
// What Docker was told is on disk first. Addresses probed ahead (the stock) and
// conflicts are in memory alone: they are found out again.
package ipam

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/dhcp"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/netns"
	"github.com/lanyard-net/lanyard/internal/pool"
	"github.com/lanyard-net/lanyard/internal/store"
)

// Config is what a Manager works with. All fields are required; it closes none.
type Config struct {
	DB    *store.DB
	Links *link.Links
	Log   *slog.Logger
	// Silent is told that a container did not start on a network since no DHCP server
	// answered; see Answered. It must not block. It may be nil.
	Silent func(networkID string)
	// Mark is that of the frames (SO_MARK) which are sent for containers; 0 is none.
	Mark uint32
	// Cluster is where the addresses are shared with other hosts; nil: they are not.
	Cluster *cluster.Cluster
	// wall is the clock on the wall; nil: time.Now.
	wall func() time.Time
}

// Manager holds the pools and addresses of this host. Its methods may be called at
// the same time, and before Run.
type Manager struct {
	db    *store.DB
	links *link.Links
	log   *slog.Logger
	// bell wakes Run.
	bell chan struct{}
	mark uint32
	// cluster is nil where there is one host only.
	cluster *cluster.Cluster
	// wall is the clock on the wall, which may be set at any time: for people, and for what
	// outlives the process. began is what it said when the process began, and so much on clock.
	wall      func() time.Time
	began     time.Time
	beganTime time.Duration
	// debts wakes payDebts.
	debts chan struct{}
	// wiring is held while a wire is opened.
	wiring sync.Mutex

	mu     sync.Mutex // guards what follows and all that hangs on it
	pools  map[string]*place
	spaces map[string]*space
	// moved is closed, and made anew, when a pool is bound or released.
	moved chan struct{}
	// paid is closed, and made anew, when claims were let go.
	paid chan struct{}
	// room holds the probe links; nil until the first one.
	room *netns.NS
	// late is what must not be done under mu, or not yet.
	late []late
	// leases are those of DHCP servers, by ID.
	leases    map[string]*lease
	journal   journal
	exchanges *prometheus.HistogramVec
	// silences are what was asked where no server answered.
	silences map[wanting]dhcp.Ask
	// Lives of leases; see Hooks for what is the engine's.
	clock      clock
	keeper     *dhcp.Keeper
	ready      func(ctx context.Context, networkID string) error
	endpointOf func(id string) (lan.Endpoint, bool)
	changed    func(ctx context.Context, endpoint string, c lan.LeaseChange) (wasDefault bool, err error)
	onSilence  func(networkID string)

	hostMu   sync.Mutex // guards what follows
	hostRead time.Time
	hostHas  map[netip.Addr]string
}

// place is a pool that stands.
type place struct {
	rec   store.Pool
	space *space
	run   pool.Range
	view  *pool.View
	stock []*ready
}

// space is an allocation domain.
type space struct {
	key   string
	set   *pool.Set
	nets  map[string]*lan.Network
	users map[netip.Addr]*user
	// handed are the addresses that Docker has and no endpoint of ours, by when
	// they came to be so.
	handed map[netip.Addr]time.Time
	shelves
	sharing
	reserved  map[netip.Addr]*store.Address
	conflicts map[netip.Addr]*conflict
	// macs are the MAC addresses of users, each with how many addresses have it.
	macs map[string]int
	// ours are MAC addresses that containers had until a moment ago.
	ours map[string]time.Time
	// seen are MAC addresses of others on the wire.
	seen map[string]time.Time
	wire *wire
	// Events since the start: addresses that were about to be handed out, or were a
	// container's, and that another was found to use; announcements in defence.
	conflictsSeen, defended uint64
}

// user is an endpoint that has an address.
type user struct {
	endpoint, network string
	mac               string
	sandbox           string
	joined            time.Time // when the container was told to join; zero: before we started
	seen              bool      // its sandbox was there once
	released          bool      // Docker has given the address back already
	defended          time.Time
	rival             *conflict // the last one that used the address as well
}

// conflict is an address that something on the wire uses which is not ours.
type conflict struct {
	mac         string
	first, last time.Time
	retry       time.Time
	tries       int
	asking      bool
}

// New reads the pools and addresses. It changes nothing and starts nothing. Endpoints
// that stand are made known with Assign.
func New(c Config, s store.State) (*Manager, error) {
	m := &Manager{
		exchanges: newExchanges(),
		db:        c.DB, links: c.Links, log: c.Log, bell: make(chan struct{}, 1), mark: c.Mark, cluster: c.Cluster, debts: make(chan struct{}, 1), paid: make(chan struct{}),
		pools: map[string]*place{}, spaces: map[string]*space{}, moved: make(chan struct{}),
		leases: map[string]*lease{}, silences: map[wanting]dhcp.Ask{}, onSilence: c.Silent, clock: newClock(), endpointOf: func(string) (lan.Endpoint, bool) { return lan.Endpoint{}, false },
	}
	if m.cluster != nil {
		m.cluster.OnForgotten(func(h cluster.Host) {
			m.Tell(context.Background(), Event{What: EventHostForgotten, Text: fmt.Sprintf("%s was silent for long enough (lanyard host policy); %d addresses are free, and %d that it held ahead", h.Name, h.Addresses, h.Held)})
		})
	}
	if m.wall = c.wall; m.wall == nil {
		m.wall = time.Now
	}
	m.began, m.beganTime = m.wall().Round(0), m.clock.now()
	m.keeper = dhcp.NewKeeper(dhcp.KeeperConfig{Now: m.clock.now, Do: m.keep, Workers: keepers})
	now := time.Now()
	for _, a := range s.Addresses {
		sp := m.space(a.Space)
		switch sp.set.Take(a.Addr); a.State {
		case store.Taken:
			sp.handed[a.Addr] = now.Add(-min(max(now.Sub(a.Since), 0), orphanAfter-orphanLeast))
			if a.Reservation != nil {
				sp.reserved[a.Addr] = a.Reservation
			}
		case store.Idle:
			sp.set.Free(a.Addr, pool.Idle{Since: a.Since, Owner: a.Owner})
		case store.Reserved:
			sp.set.Forget(a.Addr)
			sp.reserved[a.Addr] = a
		case store.Held:
			if m.cluster == nil {
				sp.set.Forget(a.Addr)
				continue
			}
			h := &hold{pool: a.Pool, owner: a.Owner, name: a.Name}
			if !a.Since.IsZero() {
				h.since = m.steady() // it rests anew, whatever the clock said then
			}
			sp.ahead[a.Addr] = h
		default:
			return nil, fmt.Errorf("address %s on record is %q: a newer lanyard wrote it", a.Addr, a.State)
		}
	}
	texts := map[string]string{} // that many leases have alike
	for _, rec := range s.Leases {
		for _, text := range []*string{&rec.Space, &rec.Pool, &rec.Network, &rec.Boot, &rec.Lease.Via, &rec.Lease.Domain} {
			if _, ok := texts[*text]; !ok {
				texts[*text] = *text
			}
			*text = texts[*text]
		}
		l := &lease{rec: *rec, space: m.space(rec.Space)}
		m.rememberLease(l)
		l.space.shelve(l)
		if l.rec.State == store.LeaseBound || l.rec.State == store.LeaseIdle {
			m.place(l)
		}
		if l.rec.State == store.LeaseBound {
			l.space.handed[rec.Lease.Addr.Addr()] = now // until its endpoint is known
		}
	}
	for _, rec := range s.Pools {
		run, err := checkPool(&lan.PoolRequest{Subnet: rec.Subnet, Range: rec.Range, V6: rec.Subnet.Addr().Is6()}, rec.Source)
		if err != nil {
			return nil, fmt.Errorf("pool %s on record: %w", rec.ID, err)
		}
		p := &place{rec: *rec, run: run}
		m.pools[rec.ID] = p
		m.settle(p, rec.Space)
	}
	return m, nil
}

// space finds or makes a space. The caller holds mu.
func (m *Manager) space(key string) *space {
	sp := m.spaces[key]
	if sp == nil {
		sp = &space{
			key: key, set: pool.NewSet(), nets: map[string]*lan.Network{}, users: map[netip.Addr]*user{}, handed: map[netip.Addr]time.Time{},
			shelves: newShelves(), sharing: newSharing(), reserved: map[netip.Addr]*store.Address{}, conflicts: map[netip.Addr]*conflict{},
			macs: map[string]int{}, ours: map[string]time.Time{}, seen: map[string]time.Time{},
		}
		m.spaces[key] = sp
	}
	return sp
}

// use gives an address to an endpoint. The caller holds mu.
func (s *space) use(addr netip.Addr, u *user) {
	s.unuse(addr)
	s.users[addr] = u
	s.macs[u.mac]++
}

// unuse takes an address from its endpoint. The caller holds mu.
func (s *space) unuse(addr netip.Addr) {
	u := s.users[addr]
	if u == nil {
		return
	}
	delete(s.users, addr)
	if s.macs[u.mac]--; s.macs[u.mac] == 0 {
		delete(s.macs, u.mac)
	}
}

// has reports whether a MAC address is a container's, or was a moment ago. The caller
// holds mu.
func (s *space) has(mac string) bool {
	_, was := s.ours[mac]
	return was || s.macs[mac] > 0
}

// private is the key of the space that a pool has before its wire is known.
func private(id string) string { return "pool " + id }

func (s *space) private() bool { return strings.HasPrefix(s.key, "pool ") }

// settle puts a pool into a space. The caller holds mu.
func (m *Manager) settle(p *place, key string) {
	m.unsettle(p)
	p.rec.Space, p.space = key, m.space(key)
	if p.rec.Parent != "" {
		m.share(p.space)
	}
	p.view = p.space.set.View(p.run)
	if m.cluster != nil {
		p.view.Begin(rand.Uint64())
	}
}

// unsettle takes a pool out of its space, and its stock back. The caller holds mu.
func (m *Manager) unsettle(p *place) {
	if p.space == nil {
		return
	}
	for _, r := range p.stock {
		r.giveBack(p.space)
	}
	p.stock = nil
	p.view.Close()
	old := p.space
	p.space = nil
	if old.private() {
		delete(m.spaces, old.key)
	}
}

// placesIn are the pools of a space, oldest first. The caller holds mu.
func (m *Manager) placesIn(sp *space) []*place {
	var list []*place
	for _, p := range m.pools {
		if p.space == sp {
			list = append(list, p)
		}
	}
	slices.SortFunc(list, func(a, b *place) int { return byAge(&a.rec, &b.rec) })
	return list
}

func byAge(a, b *store.Pool) int {
	if c := a.Created.Compare(b.Created); c != 0 {
		return c
	}
	return strings.Compare(a.ID, b.ID)
}

// pick is what is chosen from for a request of pool p: it, and after it the other pools
// of its networks that are of its family. The caller holds mu.
func (m *Manager) family(p *place) []*place {
	list := []*place{p}
	for _, q := range m.placesIn(p.space) {
		shares := slices.ContainsFunc(q.rec.Networks, func(id string) bool { return slices.Contains(p.rec.Networks, id) })
		if q != p && shares && q.rec.Subnet.Addr().Is4() == p.rec.Subnet.Addr().Is4() {
			list = append(list, q)
		}
	}
	return list
}

// fixed says what an address is that belongs to a network or a pool itself, and whose;
// "" for one that does not. Every pick asks, so it makes no text. The caller holds mu.
func (m *Manager) fixed(sp *space, addr netip.Addr) (what, whose string) {
	for id, n := range sp.nets {
		if slices.Contains(n.HostAddrs, addr) {
			return "this host's own on network", lan.Short(id)
		}
		subnets := n.Subnets(addr)
		for i := range subnets {
			s := &subnets[i]
			switch {
			case s.Gateway == addr && !s.Pool.IsSingleIP():
				return "the gateway of network", lan.Short(id)
			case slices.Contains(s.Aux, addr):
				return "an auxiliary address of network", lan.Short(id)
			}
		}
	}
	for _, p := range m.pools {
		if p.space != sp || p.rec.Subnet.IsSingleIP() {
			continue
		}
		switch {
		case p.rec.Gateway == addr:
			return "the gateway of pool", p.rec.ID
		case slices.Contains(p.rec.Aux, addr):
			return "an auxiliary address of pool", p.rec.ID
		}
	}
	return "", ""
}

// ring wakes Run.
func (m *Manager) ring() {
	select {
	case m.bell <- struct{}{}:
	default:
	}
}

// announceMove wakes those who wait for a pool to be bound or released. The caller
// holds mu.
func (m *Manager) announceMove() {
	close(m.moved)
	m.moved = make(chan struct{})
}

// on says where a space is.
func (s *space) on() string {
	if s.private() {
		return ""
	}
	return " on " + link.WireText(s.key)
}

// holder says who has an address and why it cannot be had, "" if nobody. The caller
// holds mu.
func (m *Manager) holder(sp *space, addr netip.Addr, hosts map[netip.Addr]string) string {
	if u := sp.users[addr]; u != nil {
		text := "held by endpoint " + lan.Short(u.endpoint) + " of network " + lan.Short(u.network)
		if name := m.nameOf(sp, addr); name != "" {
			text = "held by container " + name + " (" + text[len("held by "):] + ")"
		}
		return text
	}
	if since, ok := sp.handed[addr]; ok {
		who := "a container that is starting or was cut off"
		if name := m.nameOf(sp, addr); name != "" {
			who = "container " + name
		}
		return fmt.Sprintf("held for %s since %s", who, since.Local().Format(time.TimeOnly))
	}
	if c, ok := m.foreign(sp, addr); ok {
		return m.claimText(c)
	}
	if l := sp.leases[addr]; l != nil {
		if l.rec.Name != "" {
			return "kept for container " + l.rec.Name + ", which has a DHCP lease for it"
		}
		return "leased from a DHCP server, for a container that has ended"
	}
	if what, whose := m.fixed(sp, addr); what != "" {
		return what + " " + whose
	}
	if on, ok := hosts[addr]; ok {
		return "this host's own address, on " + on
	}
	if r := sp.reserved[addr]; r != nil {
		return reservedText(r)
	}
	if c := sp.conflicts[addr]; c != nil {
		return fmt.Sprintf("used by %s on the wire, seen %s", c.mac, c.last.Local().Format(time.TimeOnly))
	}
	return ""
}

func reservedText(r *store.Address) string {
	text := "reserved"
	if r.Name != "" {
		text += " for container " + r.Name
	}
	if r.Note != "" {
		text += " (" + r.Note + ")"
	}
	return text
}

// nameOf is the name of the container that has an address, "" if it is not known.
func (m *Manager) nameOf(sp *space, addr netip.Addr) string {
	if l := sp.leases[addr]; l != nil {
		return l.rec.Name
	}
	if a, err := m.db.Address(sp.key, addr); err == nil && a != nil {
		return a.Name
	}
	return ""
}

// hostsFor is how long what was read of this host's addresses is good enough: the
// kernel's list is read under a lock that the removal of links holds for long.
const hostsFor = time.Second

// hosts are this host's own addresses, read less than hostsFor ago, or now. Do not call
// it under mu.
func (m *Manager) hosts(now bool) map[netip.Addr]string {
	m.hostMu.Lock()
	defer m.hostMu.Unlock()
	if !now && time.Since(m.hostRead) < hostsFor {
		return m.hostHas
	}
	owners, err := m.links.AddrOwners()
	if err != nil {
		m.log.Error("this host's addresses not listed", "err", err)
	}
	if err != nil && m.hostHas != nil {
		return m.hostHas
	}
	if owners == nil {
		owners = map[netip.Addr]string{}
	}
	m.hostHas, m.hostRead = owners, time.Now()
	return owners
}

// sortedAddrs are the keys of a map in order.
func sortedAddrs[V any](of map[netip.Addr]V) []netip.Addr {
	return slices.SortedFunc(maps.Keys(of), netip.Addr.Compare)
}
