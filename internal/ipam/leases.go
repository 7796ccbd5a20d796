package ipam

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-net/lanyard/internal/dhcp"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/store"
)

// LeasesOf are leases by their IDs, as they were granted last.
func (m *Manager) LeasesOf(ids []string) (list []lan.Lease) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		if l := m.leases[id]; l != nil {
			list = append(list, l.rec.Lease)
		}
	}
	return list
}

// LeaseMAC is the MAC address that servers know an endpoint by, "" without a lease.
func (m *Manager) LeaseMAC(ids []string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	mac := ""
	for _, id := range ids {
		if l := m.leases[id]; l != nil && (mac == "" || !l.rec.V6) {
			mac = l.rec.MAC
		}
	}
	return mac
}

// LeaseIDs are the IDs of the leases behind an endpoint's addresses. mac is the user's
// choice, "" for none. With --ipam-driver lanyard an address is leased before it is known:
// the server is then asked for the same address for it, and where it gives another one the
// endpoint is refused. hostname is what the user wants servers to be told, "" for what they
// were.
func (m *Manager) LeaseIDs(ctx context.Context, n *lan.Network, key string, v4, v6 netip.Prefix, mac, hostname string) (ids []string, err error) {
	for _, p := range []netip.Prefix{v4, v6} {
		if s, ok := n.SubnetOf(p.Addr()); !p.IsValid() || !ok || s.Source != lan.SourceDHCP {
			continue
		}
		m.mu.Lock()
		l := m.space(key).leases[p.Addr()]
		if l == nil {
			m.mu.Unlock()
			return nil, lan.Refusef(lan.ErrConflict, "address %s: its DHCP lease is gone; try: start the container again", p.Addr())
		}
		other := mac != "" && l.rec.MAC != mac && l.endpoint == ""
		if hostname != "" && l.rec.Hostname != hostname {
			l.rec.Hostname, l.rec.FQDN, l.retell = hostname, fqdn(hostname, n.DHCP.Domain), true
		}
		m.mu.Unlock()
		if other {
			if err := m.rehome(ctx, n, l, mac); err != nil {
				return nil, err
			}
		}
		ids = append(ids, l.rec.ID)
	}
	return ids, nil
}

// rehome asks for the same address for another MAC address.
func (m *Manager) rehome(ctx context.Context, n *lan.Network, l *lease, mac string) error {
	m.mu.Lock()
	if err := m.await(ctx, l); err != nil {
		m.mu.Unlock()
		return err
	}
	owner := cmp.Or(l.rec.Owner, "mac "+mac)
	if l.rec.V6 {
		defer m.mu.Unlock()
		l.rec.MAC = mac
		l.space.own(l, owner)
		return nil // DHCPv6 servers go by DUID
	}
	ctx, done := m.begin(ctx, l)
	defer done()
	old := l.rec
	m.mu.Unlock()
	wire, err := m.servers(ctx, l.space, n, false)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, n.DHCP.Wait())
	defer cancel()
	now := old
	now.MAC = mac
	a := ask(&now, n, netip.Prefix{})
	a.Addr = old.Lease.Addr.Addr()
	// Servers go by the client identifier first: with the lease still there they give
	// the same address, unless the MAC address has one of its own.
	granted, err := m.discover(ctx, n, wire, l, a)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l.rec.MAC = mac
	l.space.own(l, owner)
	delete(l.space.handed, old.Lease.Addr.Addr())
	m.displace(l)
	m.clock.granted(&l.rec, granted)
	m.place(l)
	l.space.handed[granted.Addr.Addr()] = time.Now()
	if granted.Addr == old.Lease.Addr {
		rec := l.rec
		m.db.Begin(store.PutLease(&rec))
		return nil
	}
	delete(l.space.handed, granted.Addr.Addr())
	m.db.Begin(m.rest(l))
	m.later(func(ctx context.Context) { m.dismiss(ctx, wire, &old) })
	hint := "docker network create with --ipam-driver null -o source=dhcp, where lanyard asks the server when it knows the MAC address"
	if l.rec.Name != "" {
		hint = "docker start " + l.rec.Name + ", now that the address is known; or a network with --ipam-driver null -o source=dhcp, where it is known at once"
	}
	return lan.Refusef(lan.ErrConflict, "the DHCP server gives MAC address %s the address %s, and Docker, which says the MAC address too late, has %s already; try: %s",
		mac, granted.Addr.Addr(), old.Lease.Addr.Addr(), hint)
}

// LeaseState is a lease as it stands now, for operators.
type LeaseState struct {
	ID      string     `json:"id"`
	Address netip.Addr `json:"address,omitzero"`
	// State is bound, starting (no endpoint yet), idle, lost, past; renewing and rebinding
	// while a bound one has passed T1 or T2; fallback where no server gave the address.
	State string `json:"state"`
	Wire  string `json:"wire"`
	// Network, Endpoint and Pool are IDs.
	Pool      string `json:"pool"`
	Network   string `json:"network,omitempty"`
	Endpoint  string `json:"endpoint,omitempty"`
	Container string `json:"container,omitempty"`
	// Told is what Docker knows as the container's address, where that is another one.
	Told     netip.Addr `json:"told,omitzero"`
	MAC      string     `json:"mac"`
	ClientID string     `json:"client_id,omitempty"` // hex
	DUID     string     `json:"duid,omitempty"`      // hex
	IAID     uint32     `json:"iaid,omitempty"`      // of DHCPv6
	Hostname string     `json:"hostname,omitempty"`
	FQDN     string     `json:"fqdn,omitempty"`
	// VendorClass and UserClass are what servers are told besides.
	VendorClass string    `json:"vendor_class,omitempty"`
	UserClass   []string  `json:"user_class,omitempty"`
	Lease       lan.Lease `json:"lease"`
	Granted     time.Time `json:"granted,omitzero"`
	RenewsAt    time.Time `json:"renews_at,omitzero"`
	RebindsAt   time.Time `json:"rebinds_at,omitzero"`
	EndsAt      time.Time `json:"ends_at,omitzero"`
	// ReleaseAt is when an idle lease is given back.
	ReleaseAt time.Time `json:"release_at,omitzero"`
	Since     time.Time `json:"since"`
	// Problem is what keeps the lease from being renewed.
	Problem string `json:"problem,omitempty"`
}

// States of leases, for operators.
const (
	LeaseBound     = string(store.LeaseBound)
	LeaseIdle      = string(store.LeaseIdle)
	LeaseLost      = string(store.LeaseLost)
	LeasePast      = string(store.LeasePast)
	LeaseStarting  = "starting"
	LeaseRenewing  = "renewing"
	LeaseRebinding = "rebinding"
	LeaseFallback  = "fallback"
)

// Leases lists all leases, by wire and address.
func (m *Manager) Leases() []LeaseState {
	m.mu.Lock()
	list := make([]LeaseState, 0, len(m.leases))
	for _, l := range m.leases {
		if l.rec.State != "" {
			list = append(list, m.leaseState(l))
		}
	}
	m.mu.Unlock()
	slices.SortFunc(list, func(a, b LeaseState) int {
		if c := strings.Compare(a.Wire, b.Wire); c != 0 {
			return c
		}
		if c := a.Address.Compare(b.Address); c != 0 {
			return c
		}
		return strings.Compare(a.ID, b.ID)
	})
	return list
}

// leaseState is the state of one lease. The caller holds mu.
func (m *Manager) leaseState(l *lease) LeaseState {
	r := &l.rec
	s := LeaseState{
		ID: r.ID, Address: r.Lease.Addr.Addr(), State: string(r.State), Wire: link.WireText(l.space.key), Pool: r.Pool, Endpoint: l.endpoint,
		Container: r.Name, MAC: r.MAC, ClientID: hex.EncodeToString(r.ClientID), Hostname: r.Hostname, FQDN: r.FQDN, VendorClass: r.VendorClass, UserClass: r.UserClass,
		Lease: r.Lease, Granted: r.Granted, Since: r.Since,
	}
	if l.trouble != nil {
		s.Problem = l.trouble.what
	}
	if r.V6 {
		s.ClientID, s.DUID, s.IAID = "", hex.EncodeToString(r.DUID), r.IAID
	}
	if l.endpoint != "" {
		s.Told = l.told
	}
	now, wall, times := m.clock.now(), time.Now(), m.clock.times(r)
	at := func(t time.Duration) time.Time {
		if t == lan.Infinite {
			return time.Time{}
		}
		return wall.Add(t - now).UTC()
	}
	switch r.State {
	case store.LeaseBound, store.LeaseIdle:
		s.RenewsAt, s.RebindsAt, s.EndsAt = at(times.Renew), at(times.Rebind), at(times.End)
	}
	n := m.networkOf(l)
	if n != nil {
		s.Network = n.ID
	}
	switch {
	case r.State == store.LeaseIdle && n != nil && n.DHCP.When() == lan.ReleaseRemove:
		s.ReleaseAt = r.Since.Add(n.GraceTime())
	case r.State != store.LeaseBound:
	case r.Fallback:
		s.State = LeaseFallback
	case l.endpoint == "":
		s.State = LeaseStarting
	case now >= times.Rebind:
		s.State = LeaseRebinding
	case now >= times.Renew:
		s.State = LeaseRenewing
	}
	return s
}

// findLease is the lease with an ID. The caller holds mu.
func (m *Manager) findLease(id string) (*lease, error) {
	if l := m.leases[id]; l != nil && l.rec.State != "" {
		return l, nil
	}
	return nil, lan.Refusef(lan.ErrNotFound, "no lease %.64q is known; try: lanyard lease ls", id)
}

// awaitLease is findLease, and waits until nobody is at work on the lease. The caller holds
// mu, which is let go meanwhile.
func (m *Manager) awaitLease(ctx context.Context, id string) (*lease, error) {
	l, err := m.findLease(id)
	if err == nil {
		err = m.await(ctx, l)
	}
	if err != nil {
		return nil, err
	}
	return m.findLease(id)
}

// Lease is the lease with an ID.
func (m *Manager) Lease(id string) (LeaseState, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l, err := m.findLease(id)
	if err != nil {
		return LeaseState{}, err
	}
	return m.leaseState(l), nil
}

// RenewLease asks the server for more time now, and returns what has come of it. That the
// container has no address any more is an error.
func (m *Manager) RenewLease(ctx context.Context, id string) (LeaseState, error) {
	m.mu.Lock()
	l, err := m.awaitLease(ctx, id)
	if err == nil && l.endpoint == "" {
		err = lan.Refusef(lan.ErrConflict, "lease %s is %s: only a running container's is renewed", id, l.rec.State)
	}
	if err != nil {
		m.mu.Unlock()
		return LeaseState{}, err
	}
	stage := dhcp.Renewing
	if m.clock.now() >= m.clock.times(&l.rec).Rebind {
		stage = dhcp.Rebinding
	}
	work, done := m.begin(ctx, l)
	m.mu.Unlock()
	t, err := m.again(work, l, stage)
	done()
	m.hold(l, t)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		err = m.notRenewed(ctx, l, err)
	}
	return m.leaseState(l), err
}

// notRenewed says why a lease was not renewed, what has come of it, and what to do. The
// caller holds mu.
func (m *Manager) notRenewed(ctx context.Context, l *lease, err error) error {
	switch {
	case l.endpoint == "":
		return lan.Refusef(lan.ErrConflict, "lease %s was not renewed: %v", l.rec.ID, errEnded)
	case errors.Is(ctx.Err(), context.Canceled):
		return lan.Refusef(lan.ErrUnavailable, "lease %s was not renewed: the daemon is about to stop; try: again when it is back", l.rec.ID)
	}
	keeps := "keeps " + l.rec.Lease.Addr.Addr().String()
	switch left := m.clock.left(&l.rec); {
	case l.rec.State == store.LeaseLost:
		keeps = "has no address until a server gives one"
	case l.rec.Fallback:
		keeps += ", which is one of dhcp_fallback"
	case left != lan.Infinite:
		keeps += " until " + time.Now().Add(left).Format(time.DateTime)
	}
	try := "lanyard network ls"
	if n := m.networkOf(l); n != nil {
		try = watching(n, l.rec.V6)
	}
	return lan.Refusef(lan.ErrUnavailable, "lease %s was not renewed: %v; the container %s, and servers are asked again; try: %s", l.rec.ID, err, keeps, try)
}

// ReleaseLease gives a lease back to its server that no container has.
func (m *Manager) ReleaseLease(ctx context.Context, id string) (LeaseState, error) {
	m.mu.Lock()
	l, err := m.awaitLease(ctx, id)
	if err != nil {
		m.mu.Unlock()
		return LeaseState{}, err
	}
	s := m.leaseState(l)
	if l.endpoint != "" || !l.space.handed[s.Address].IsZero() {
		m.mu.Unlock()
		return s, lan.Refusef(lan.ErrConflict, "lease %s of %s is a running container's; try: docker stop, then this again", id, s.Address)
	}
	if l.rec.State == store.LeaseIdle {
		m.letOff(l)
	}
	m.forgetLease(l)
	m.mu.Unlock()
	return s, m.db.Write(store.DeleteLease(id))
}
