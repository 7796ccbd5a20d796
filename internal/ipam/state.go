package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/store"
)

// PoolState is a pool as it stands now, for operators.
type PoolState struct {
	ID       string   `json:"id"`
	Networks []string `json:"networks"`
	// Source says who chooses the addresses. Where a DHCP server does, nothing is handed
	// out: First and Last are not valid, and of the Counts only Used and Resting are told,
	// of leases.
	Source lan.Source `json:"source,omitempty"`
	// Wire is the parent and its VLAN, "" while no network has the pool.
	Wire   string       `json:"wire,omitempty"`
	Subnet netip.Prefix `json:"subnet"`
	Range  netip.Prefix `json:"range,omitzero"`
	// First and Last are the ends of what is handed out.
	First   netip.Addr   `json:"first"`
	Last    netip.Addr   `json:"last"`
	Gateway netip.Addr   `json:"gateway,omitzero"`
	Aux     []netip.Addr `json:"aux,omitempty"`
	Counts
	// ACD is "on" or "off", and Note why it is off, or what is waited for.
	ACD  string `json:"acd"`
	Note string `json:"note,omitempty"`
	// Stock is how many addresses are probed ahead, of StockWanted.
	Stock       int `json:"stock"`
	StockWanted int `json:"stock_wanted"`
	// Ahead is how many addresses this host has claimed ahead, of AheadWanted (lease_ahead).
	Ahead       int    `json:"ahead,omitempty"`
	AheadWanted int    `json:"ahead_wanted,omitempty"`
	Identity    string `json:"identity"`
	// Grace in seconds.
	Grace float64 `json:"grace_seconds"`
	// Conflicts and Defended count events on the wire since the daemon started.
	Conflicts uint64    `json:"conflicts_total"`
	Defended  uint64    `json:"defended_total"`
	Created   time.Time `json:"created"`
}

// Counts are how many of a pool's addresses are what. Size is capped at 2^64-1.
type Counts struct {
	Size uint64 `json:"size"`
	Used uint64 `json:"used"`
	// Reserved are gateways, auxiliary addresses, reservations and this host's own.
	Reserved    uint64 `json:"reserved"`
	Resting     uint64 `json:"resting"`
	Conflicting uint64 `json:"conflicting"`
	// Held are those that hosts have claimed ahead, this one and others, and not given out.
	Held uint64 `json:"held,omitempty"`
	Free uint64 `json:"free"`
}

// Address states, for operators.
const (
	StateUsed     = "used"
	StateStarting = "starting" // handed out, and no endpoint yet
	StateResting  = "resting"  // kept for who had it
	StateIdle     = "idle"     // free, and it was somebody's
	StateHeld     = "held"     // claimed ahead by a host, and nobody's
	StateReserved = "reserved"
	StateGateway  = "gateway"
	StateHost     = "host"
	StateConflict = "conflict"
)

// AddressState is an address as it stands now, for operators.
type AddressState struct {
	Address netip.Addr `json:"address"`
	State   string     `json:"state"`
	Wire    string     `json:"wire"`
	// Pool and Network are IDs, "" where there is none.
	Pool     string `json:"pool,omitempty"`
	Network  string `json:"network,omitempty"`
	Endpoint string `json:"endpoint,omitempty"`
	// Container is its name, where the engine says it (29 and newer) or an operator.
	Container string `json:"container,omitempty"`
	// Host is the name of the host that has it, where that is another one of the cluster.
	Host string `json:"host,omitempty"`
	MAC  string `json:"mac,omitempty"`
	// Source is why it is this address: user, pool, identity, reservation, ipam for
	// another IPAM driver's.
	Source string    `json:"source,omitempty"`
	Since  time.Time `json:"since,omitzero"`
	// Until is when a resting address goes to others, or a conflicting one is asked
	// for again.
	Until time.Time `json:"until,omitzero"`
	// Rival is the MAC address of another device that uses a container's address.
	Rival string `json:"rival,omitempty"`
	Note  string `json:"note,omitempty"`
}

// Pools lists all pools, oldest first.
func (m *Manager) Pools() []PoolState {
	hosts := m.hosts(true)
	m.mu.Lock()
	defer m.mu.Unlock()
	states := make([]PoolState, 0, len(m.pools))
	places := make([]*place, 0, len(m.pools))
	for _, p := range m.pools {
		places = append(places, p)
	}
	slices.SortFunc(places, func(a, b *place) int { return byAge(&a.rec, &b.rec) })
	for _, p := range places {
		s := PoolState{
			ID: p.rec.ID, Networks: slices.Clone(p.rec.Networks), Source: p.rec.Source, Subnet: p.rec.Subnet, Range: p.rec.Range, First: p.run.First, Last: p.run.Last,
			Gateway: p.rec.Gateway, Aux: p.rec.Aux, Counts: m.count(p, hosts), StockWanted: wantStock(p), Identity: string(lan.IdentityNone),
			Grace: p.rec.Policy.GraceTime().Seconds(), Conflicts: p.space.conflictsSeen, Defended: p.space.defended, Created: p.rec.Created,
		}
		if s.Networks == nil {
			s.Networks = []string{}
		}
		if p.rec.Policy.Sticky() {
			s.Identity = string(lan.IdentitySticky)
		}
		if !p.space.private() {
			s.Wire = link.WireText(p.space.key)
		}
		for _, r := range p.stock {
			if !r.at.IsZero() {
				s.Stock++
			}
		}
		s.Ahead, s.AheadWanted = len(p.space.holdsOf(p)), m.aheadOf(p)
		s.ACD, s.Note = m.acdState(p, s)
		states = append(states, s)
	}
	return states
}

// acdState says whether conflict detection is on for a pool, and what to know of it.
// The caller holds mu.
func (m *Manager) acdState(p *place, s PoolState) (state, note string) {
	w := p.space.wire
	switch {
	case p.space.private():
		return "off", "no network of lanyard's has this pool: it is not known which wire it is for; try: --ipam-opt parent=LINK"
	case p.rec.Policy.NoACD:
		return "off", "turned off with -o acd=off"
	case w == nil:
		return "off", "there is nobody on the wire to ask: ipvlan l3, an isolated network, or a parent that is gone"
	case w.acd == nil:
		return "off", w.problem
	case p.rec.Source == lan.SourceDHCP:
		note = "each address that a server gives is looked for on the wire, and declined where somebody has it"
	case s.Stock < s.StockWanted:
		asking := 0
		for _, r := range p.stock {
			if r.asking {
				asking++
			}
		}
		if asking > 0 {
			note = fmt.Sprintf("%d addresses are being probed, some 7 s each; a container that starts meanwhile may wait 0.4 s for its own", asking)
		}
	}
	return "on", note
}

// count counts a pool's addresses. The caller holds mu.
func (m *Manager) count(p *place, hosts map[netip.Addr]string) Counts {
	sp := p.space
	c := Counts{Size: p.run.Size()}
	if p.rec.Source == lan.SourceDHCP {
		for _, l := range m.leases {
			switch {
			case l.rec.Pool != p.rec.ID:
			case l.rec.State == store.LeaseBound:
				c.Used++
			case l.rec.State == store.LeaseIdle:
				c.Resting++
			}
		}
		return c
	}
	for addr := range sp.users {
		if p.run.Contains(addr) {
			c.Used++
		}
	}
	for addr := range sp.handed {
		if p.run.Contains(addr) {
			c.Used++
		}
	}
	for addr := range sp.claims {
		if claim, is := m.foreign(sp, addr); !is || !p.run.Contains(addr) || sp.held(addr) {
			continue
		} else if claim.Held {
			c.Held++
		} else {
			c.Used++
		}
	}
	for addr := range sp.ahead {
		if p.run.Contains(addr) {
			c.Held++
		}
	}
	idle := uint64(0)
	rested := m.rested(p)
	for _, i := range sp.set.AllIdle(p.run) {
		idle++
		if i.Since.After(rested) && i.Owner != "" {
			c.Resting++
		}
	}
	aside := map[netip.Addr]bool{}
	for addr := range sp.reserved {
		aside[addr] = true
	}
	for addr := range hosts {
		aside[addr] = true
	}
	for _, q := range m.placesIn(sp) {
		if q.rec.Gateway.IsValid() && !q.rec.Subnet.IsSingleIP() {
			aside[q.rec.Gateway] = true
		}
		for _, addr := range q.rec.Aux {
			aside[addr] = true
		}
	}
	for _, n := range sp.nets {
		for _, addr := range n.HostAddrs {
			aside[addr] = true
		}
		for _, s := range n.Subnets(p.run.First) {
			if s.Gateway.IsValid() && !s.Pool.IsSingleIP() {
				aside[s.Gateway] = true
			}
			for _, addr := range s.Aux {
				aside[addr] = true
			}
		}
	}
	for addr := range aside {
		if p.run.Contains(addr) && sp.users[addr] == nil {
			if _, ok := sp.handed[addr]; !ok {
				c.Reserved++
			}
		}
	}
	for addr := range sp.conflicts {
		if p.run.Contains(addr) && !aside[addr] {
			c.Conflicting++
		}
	}
	if gone := c.Used + c.Reserved + c.Conflicting + c.Resting + c.Held; gone < c.Size {
		c.Free = c.Size - gone
	}
	return c
}

// Addresses lists what is known of single addresses: those in use, resting, set aside
// or in conflict, by wire and in order.
func (m *Manager) Addresses() ([]AddressState, error) {
	keys := m.keys()
	slices.Sort(keys)
	var list []AddressState
	hosts := m.hosts(true)
	for _, key := range keys {
		records, err := m.db.Addresses(key)
		if err != nil {
			return nil, err
		}
		m.mu.Lock()
		if sp := m.spaces[key]; sp != nil {
			list = append(list, m.addressesOf(sp, records, hosts)...)
		}
		m.mu.Unlock()
	}
	return list, nil
}

// addressesOf is Addresses for one space. The caller holds mu.
func (m *Manager) addressesOf(sp *space, records []*store.Address, hosts map[netip.Addr]string) []AddressState {
	states := map[netip.Addr]*AddressState{}
	at := func(addr netip.Addr) *AddressState {
		s := states[addr]
		if s == nil {
			s = &AddressState{Address: addr, Wire: link.WireText(sp.key)}
			if sp.private() {
				s.Wire = ""
			}
			states[addr] = s
		}
		return s
	}
	for id, n := range sp.nets {
		for _, addr := range n.HostAddrs {
			s := at(addr)
			s.State, s.Network, s.Note = StateHost, id, "this host's own, for host access"
		}
	}
	for _, p := range m.placesIn(sp) {
		for on := range hosts {
			if p.rec.Subnet.Bits() > 0 && p.rec.Subnet.Contains(on) {
				s := at(on)
				s.State, s.Note = StateHost, "this host's own, on "+hosts[on]
			}
		}
		if p.rec.Gateway.IsValid() && !p.rec.Subnet.IsSingleIP() {
			at(p.rec.Gateway).State = StateGateway
		}
		for _, addr := range p.rec.Aux {
			s := at(addr)
			s.State, s.Note = StateReserved, "auxiliary address"
		}
	}
	for _, a := range records {
		s := at(a.Addr)
		s.Pool, s.Container, s.Source, s.Since = a.Pool, a.Name, a.Source, a.Since
		if a.Reservation != nil {
			s.Note = reservedText(a.Reservation)
		}
		switch a.State {
		case store.Taken:
			s.State = StateStarting
		case store.Reserved:
			s.State, s.Note = StateReserved, reservedText(a)
		case store.Held:
			s.State, s.Note = StateHeld, "claimed ahead by this host, and not given out"
		case store.Idle:
			s.State = StateIdle
			if a.Owner != "" {
				s.Note = "goes back to who had it, unless another needs it first"
			}
			if p := m.pools[a.Pool]; p != nil && a.Owner != "" {
				if until := a.Since.Add(p.rec.Policy.GraceTime()); time.Now().Before(until) {
					s.State, s.Until = StateResting, until
					s.Note = "kept for who had it"
				}
			}
		}
	}
	for addr, l := range sp.leases {
		s := at(addr)
		s.State, s.Pool, s.Container, s.MAC, s.Source, s.Since = StateStarting, l.rec.Pool, l.rec.Name, l.rec.MAC, SourceServer, l.rec.Since
		if l.rec.State == store.LeaseIdle {
			s.State, s.Until, s.Note = StateResting, m.leaseState(l).ReleaseAt, "its DHCP lease is kept for who had it"
		}
	}
	for addr, c := range sp.claims {
		if sp.held(addr) || sp.ahead[addr] != nil {
			continue
		}
		switch s := at(addr); c.State {
		case cluster.Taken:
			if c.Host != m.cluster.Self() {
				s.State, s.Container, s.Source, s.Since, s.Host = StateUsed, c.Name, c.Source, c.Since, m.cluster.HostName(c.Host)
				s.Note = "on host " + s.Host
			}
			if c.Host != m.cluster.Self() && c.Held {
				s.State, s.Note = StateHeld, "claimed ahead by host "+s.Host+", and not given out"
			}
		case cluster.Reserved:
			s.State, s.Container, s.Source, s.Since, s.Note = StateReserved, c.Reserved.Name, SourceReservation, c.Since, reservedText(sp.reserved[addr])
		case cluster.Idle:
			s.State, s.Container, s.Source, s.Since = StateIdle, c.Name, c.Source, c.Since
			if c.Owner != "" {
				s.Note = "goes back to who had it, unless another needs it first"
			}
		default:
			delete(states, addr)
		}
	}
	for addr, c := range sp.conflicts {
		s := at(addr)
		s.State, s.MAC, s.Since, s.Until = StateConflict, c.mac, c.first, c.retry
		s.Note = "used by " + c.mac + ", which is not a container of lanyard's here"
	}
	for addr, u := range sp.users {
		s := at(addr)
		s.State, s.Network, s.Endpoint, s.MAC = StateUsed, u.network, u.endpoint, u.mac
		if s.Source == "" {
			s.Source = "ipam"
		}
		if u.rival != nil {
			s.Rival = u.rival.mac
			s.Note = fmt.Sprintf("conflict: %s uses it as well, last seen %s", u.rival.mac, u.rival.last.Local().Format(time.TimeOnly))
		}
	}
	list := make([]AddressState, 0, len(states))
	for _, addr := range sortedAddrs(states) {
		list = append(list, *states[addr])
	}
	return list
}

// Reserve sets an address aside on the wire of a pool: nobody gets it but the container
// with the given name, where the engine says names, or with --ip where it does not.
// Without a name nobody at all does. An address that is held is refused.
func (m *Manager) Reserve(poolID string, addr netip.Addr, name, note string) error {
	if len(name) > 128 || len(note) > 200 {
		return lan.Refusef(lan.ErrInvalid, "a name has 128 characters at most, and a note 200")
	}
	hosts := m.hosts(true)
	m.mu.Lock()
	p, err := m.placeOf(poolID, addr)
	if err != nil {
		m.mu.Unlock()
		return err
	}
	if p.rec.Source == lan.SourceDHCP {
		m.mu.Unlock()
		return lan.Refusef(lan.ErrInvalid, "address %s%s is the DHCP server's to give; try: a reservation there, for the container's MAC address or client id (lanyard lease inspect)", addr, p.space.on())
	}
	sp := p.space
	old := sp.reserved[addr]
	if old == nil {
		m.unstock(sp, addr)
		c := sp.conflicts[addr]
		delete(sp.conflicts, addr)
		if who := m.holder(sp, addr, hosts); who != "" {
			if c != nil {
				sp.conflicts[addr] = c
			}
			m.mu.Unlock()
			return lan.Refusef(lan.ErrConflict, "address %s%s is %s", addr, sp.on(), who)
		}
		m.unhold(sp, addr) // its claim becomes that of the reservation
	}
	r := &store.Address{
		Space: sp.key, Addr: addr, State: store.Reserved, Pool: p.rec.ID, Name: name, Note: note, Source: SourceReservation, Since: time.Now().UTC(),
	}
	if sp.segment != "" {
		m.mu.Unlock()
		err := m.db.Write() // it may have been held until now
		if err == nil {
			err = m.reserveShared(sp, addr, r)
		}
		if err != nil {
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.owes(sp, addr) {
				m.owe(sp, addr) // it may have been claimed ahead
			}
		}
		return err
	}
	sp.reserved[addr] = r
	taken := sp.set.Taken(addr)
	if !taken {
		sp.set.Forget(addr)
	}
	m.mu.Unlock()
	rec := r
	if taken {
		// The record is of who has it, until it is given back. It may be on its
		// way to the disk.
		if err := m.db.Write(); err != nil {
			return err
		}
		held, err := m.db.Address(r.Space, addr)
		if err != nil {
			return err
		}
		if held != nil && held.State == store.Taken {
			held.Reservation, rec = r, held
		}
	}
	if err := m.db.Write(store.PutAddress(rec)); err != nil {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(sp.reserved, addr)
		if old != nil {
			sp.reserved[addr] = old
		}
		return err
	}
	return nil
}

// Release makes an address free at once that is resting, reserved, or in conflict: it
// goes back to nobody in particular. One that a container has is refused.
func (m *Manager) Release(poolID string, addr netip.Addr) error {
	m.mu.Lock()
	p, err := m.placeOf(poolID, addr)
	if err != nil {
		m.mu.Unlock()
		return err
	}
	sp := p.space
	if sp.users[addr] != nil || !sp.handed[addr].IsZero() {
		who := m.holder(sp, addr, nil)
		m.mu.Unlock()
		return lan.Refusef(lan.ErrConflict, "address %s%s is %s; try: docker rm", addr, sp.on(), who)
	}
	if c, ok := m.foreign(sp, addr); ok {
		m.mu.Unlock()
		return lan.Refusef(lan.ErrConflict, "address %s%s is %s; try: docker rm there, or lanyard host forget", addr, sp.on(), m.claimText(c))
	}
	if sp.leases[addr] != nil {
		m.mu.Unlock()
		return lan.Refusef(lan.ErrConflict, "address %s%s is leased from a DHCP server; try: lanyard lease release %s", addr, sp.on(), addr)
	}
	m.unstock(sp, addr)
	_, idle := sp.set.IdleAt(addr)
	if !idle && sp.reserved[addr] == nil && sp.conflicts[addr] == nil {
		why := "it is free"
		if what, whose := m.fixed(sp, addr); what != "" {
			why = "it is " + what + " " + whose
		}
		if sp.ahead[addr] != nil {
			why = "it is claimed ahead by this host"
		}
		m.mu.Unlock()
		return lan.Refusef(lan.ErrNotFound, "address %s%s is neither resting, reserved nor in conflict: %s", addr, sp.on(), why)
	}
	if sp.segment != "" {
		delete(sp.conflicts, addr)
		m.mu.Unlock()
		return m.reserveShared(sp, addr, nil)
	}
	delete(sp.reserved, addr)
	delete(sp.conflicts, addr)
	sp.set.Forget(addr)
	m.mu.Unlock()
	return m.db.Write(store.DeleteAddress(sp.key, addr))
}

// placeOf finds the pool with an ID or a network, and an address of it. The caller
// holds mu.
func (m *Manager) placeOf(id string, addr netip.Addr) (*place, error) {
	var found []*place
	for _, p := range m.pools {
		if !p.rec.Subnet.Contains(addr) {
			continue
		}
		named := id == "" || p.rec.ID == id || slices.ContainsFunc(p.rec.Networks, func(n string) bool { return strings.HasPrefix(n, id) })
		if named {
			found = append(found, p)
		}
	}
	// A DHCP server may give any address, but not those of lanyard's own pools.
	if own := slices.DeleteFunc(slices.Clone(found), func(p *place) bool { return p.rec.Source == lan.SourceDHCP }); len(own) > 0 {
		found = own
	}
	if len(found) == 0 {
		return nil, lan.Refusef(lan.ErrNotFound, "address %s is in no pool of lanyard's that is meant; try: lanyard pool ls", addr)
	}
	for _, p := range found[1:] {
		if p.space != found[0].space {
			return nil, lan.Refusef(lan.ErrInvalid, "address %s is in pools of several wires, %s and %s; try: --pool", addr, found[0].rec.ID, p.rec.ID)
		}
	}
	slices.SortFunc(found, func(a, b *place) int { return byAge(&a.rec, &b.rec) })
	return found[0], nil
}

// forget removes idle addresses of long ago.
func (m *Manager) forget(sp *space, list []*store.Address) {
	var ops []store.Op
	m.mu.Lock()
	for _, a := range list {
		if i, ok := sp.set.IdleAt(a.Addr); ok && time.Since(i.Since) > forgetAfter {
			sp.set.Forget(a.Addr)
			ops = append(ops, store.DeleteAddress(a.Space, a.Addr))
		}
	}
	m.mu.Unlock()
	if len(ops) > 0 {
		m.write("addresses of long ago", ops...)
	}
}
