package ipam

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/acd"
	"github.com/lanyard-net/lanyard/internal/dhcp"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/pool"
	"github.com/lanyard-net/lanyard/internal/store"
)

// SourceServer is the source of an address that a DHCP server gave.
const SourceServer = "dhcp"

const (
	// confirmFor is how long servers are asked to confirm a lease that has not ended,
	// before it is used without.
	confirmFor = 2500 * time.Millisecond
	// declines is how many addresses in use by others a server may give in a row, as far as
	// the time for an answer allows: one that has forgotten its leases gives those of all
	// containers first.
	declines = 64
	// declinesTold is how many of them an error names.
	declinesTold = 8
)

// lease is a DHCP lease, and the one whom it is for. It is guarded by Manager.mu, but for
// space, and ID and V6 of rec, which never change.
type lease struct {
	rec   store.Lease
	space *space
	// endpoint has it, "" for none; told is the address that Docker knows, where it is
	// another.
	endpoint string
	told     netip.Addr
	// work is that of whoever talks to servers about it; nil while nobody does.
	work *work
	// trouble is what keeps it from being renewed, nil if nothing does.
	trouble *trouble
	// retell is set until the server is told the host name that the user wants.
	retell bool
	// leaving is set while a rival is looked at.
	leaving bool
}

// work is under way until done is closed; stop ends it soon.
type work struct {
	done chan struct{}
	stop context.CancelCauseFunc
}

// trouble is that servers do not give what a lease is to have.
type trouble struct {
	what   string
	tries  int
	warned time.Time
}

// clock is what tells the time of leases: CLOCK_BOOTTIME, and which boot it counts from.
type clock struct{ boot string }

func newClock() clock {
	// Without it a lease counts by the wall's clock, as after a reboot.
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return clock{strings.TrimSpace(string(id))}
}

func (clock) now() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return time.Duration(time.Now().UnixNano()) // no such kernel
	}
	return time.Duration(ts.Nano())
}

// at is when a lease was granted, on this boot's clock; before the boot it is negative.
func (c clock) at(rec *store.Lease) time.Duration {
	if rec.Boot == c.boot && c.boot != "" {
		return rec.At
	}
	return c.now() - max(time.Since(rec.Granted), 0)
}

// left is how much of a lease's time is left.
func (c clock) left(rec *store.Lease) time.Duration {
	if rec.Lease.Life == lan.Infinite {
		return lan.Infinite
	}
	return c.at(rec) + rec.Lease.Life - c.now()
}

func (c clock) times(rec *store.Lease) dhcp.Times { return dhcp.TimesOf(c.at(rec), &rec.Lease) }

// granted notes what a server granted.
func (c clock) granted(rec *store.Lease, l *lan.Lease) {
	ago := time.Duration(0)
	if !l.Asked.IsZero() {
		ago = time.Since(l.Asked)
	}
	rec.Lease, rec.Fallback = *l, !l.Server.IsValid()
	rec.Granted, rec.Boot, rec.At = time.Now().UTC().Add(-ago), c.boot, c.now()-ago
}

// place puts a lease's address where it is looked for. The caller holds mu.
func (m *Manager) place(l *lease) {
	if addr := l.rec.Lease.Addr.Addr(); addr.IsValid() {
		l.space.leases[addr] = l
		l.space.set.Take(addr)
	}
}

// displace takes a lease's address away from it: nobody of ours has it. The caller holds
// mu.
func (m *Manager) displace(l *lease) {
	addr := l.rec.Lease.Addr.Addr()
	if !addr.IsValid() || l.space.leases[addr] != l {
		return
	}
	delete(l.space.leases, addr)
	if l.space.users[addr] == nil && l.space.handed[addr].IsZero() {
		l.space.set.Forget(addr)
	}
}

// leaseWant is who a lease is for.
type leaseWant struct {
	addr  netip.Addr // zero: any
	owner string     // "" if that is not certain
	name  string     // the container's name, "" if it is not known
	mac   net.HardwareAddr
	opts  lan.EndpointOptions
}

// requestLease is RequestAddress for a pool whose addresses a DHCP server gives.
func (m *Manager) requestLease(ctx context.Context, p *place, r lan.AddressRequest) (netip.Prefix, error) {
	w := leaseWant{addr: r.Addr, name: r.Name}
	if r.Name != "" {
		w.owner = "name " + r.Name
	}
	l, err := m.lease(ctx, p, w)
	if err != nil {
		return netip.Prefix{}, err
	}
	m.mu.Lock()
	rec := l.rec
	m.mu.Unlock()
	if err := m.db.Write(store.PutLease(&rec)); err != nil {
		m.giveUp(l)
		return netip.Prefix{}, err
	}
	return rec.Lease.Addr, nil
}

// lease gets a lease for somebody, and holds its address for an endpoint to come. The
// caller writes its record, or calls giveUp. It blocks until servers have answered, at
// most for the time that the network allows.
func (m *Manager) lease(ctx context.Context, p *place, w leaseWant) (*lease, error) {
	n, err := m.leasingNetwork(p)
	if err != nil {
		return nil, err
	}
	wire, err := m.servers(ctx, p.space, n, p.rec.Subnet.Addr().Is6())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, n.DHCP.Wait())
	defer cancel()
	l, done, err := m.leaseOf(ctx, p, n, wire, w)
	if err != nil {
		return nil, err
	}
	defer done()
	granted, err := m.obtain(ctx, p, n, wire, l, w.addr)
	if err != nil {
		if silence := (*dhcp.SilenceError)(nil); errors.As(err, &silence) {
			m.silent(n, ask(&l.rec, n, p.rec.Subnet), l.rec.V6)
		}
		err = m.explain(err, n, wire, l.rec.V6)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		if l.rec.State == "" {
			m.forgetLease(l) // it never stood
		}
		l.space.shelve(l)
		return nil, err
	}
	m.displace(l)
	text := ""
	if granted != nil {
		if had := l.rec.Lease.Addr; had.IsValid() && had.Addr() != granted.Addr.Addr() {
			text = "before, it had " + had.Addr().String()
		}
		m.clock.granted(&l.rec, granted)
	}
	m.turn(l, store.LeaseBound)
	l.rec.Pool, l.rec.Network, l.trouble, l.retell = p.rec.ID, n.ID, nil, false
	m.place(l)
	l.space.handed[l.rec.Lease.Addr.Addr()] = time.Now()
	m.keeper.Hold(l.rec.ID, m.due(l))
	what := EventAcquired
	if granted == nil {
		what = EventReused
	}
	m.tell(ctx, l, what, text)
	return l, nil
}

// giveUp undoes lease.
func (m *Manager) giveUp(l *lease) {
	m.mu.Lock()
	delete(l.space.handed, l.rec.Lease.Addr.Addr())
	op := m.rest(l)
	m.mu.Unlock()
	m.write("lease", op)
}

// leasingNetwork is the network of a pool.
func (m *Manager) leasingNetwork(p *place) (*lan.Network, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range p.rec.Networks {
		if n := p.space.nets[id]; n != nil {
			return n, nil
		}
	}
	return nil, lan.Refusef(lan.ErrInvalid, "pool %s: a DHCP server gives its addresses, and it is not known on which wire: no network of lanyard's has it; "+
		"try: docker network create -d lanyard --ipam-driver lanyard --ipam-opt source=dhcp -o parent=eth0", p.rec.ID)
}

// describe fills in what servers are told. The caller holds mu.
func (m *Manager) describe(rec *store.Lease, n *lan.Network, wire *wire, w leaseWant) {
	seed := rec.Owner
	if seed == "" {
		seed = "lease " + rec.ID
	}
	switch {
	case w.mac != nil:
		rec.MAC = w.mac.String()
	case n.Kind == lan.Ipvlan || n.Mode == lan.ModePassthru:
		rec.MAC = wire.parentMAC.String()
	case rec.MAC == "" || rec.MAC == wire.parentMAC.String() || rec.Owner == "":
		// Not what a lease of nobody in particular had in another kind of network, or by the
		// wish of a user for another container.
		what := fmt.Appendf(nil, "%x %s dhcp %s", m.db.Salt(), rec.Space, seed)
		if rec.IAID > 1 { // beside another lease of the container's
			what = fmt.Appendf(what, " %d", rec.IAID)
		}
		rec.MAC = lan.LocalMAC(what).String()
	}
	uuid := sha256.Sum256(fmt.Appendf(nil, "%x %s duid %s", m.db.Salt(), rec.Space, seed))
	rec.DUID = append([]byte{0, 4}, uuid[:16]...) // DUID-UUID, RFC 6355
	rec.ClientID = clientID(rec, firstOf(w.opts.ClientID, n.DHCP.ClientID))
	if w.name != "" {
		rec.Name = w.name
	}
	rec.Hostname = firstOf(w.opts.Hostname, hostname(rec.Name))
	rec.FQDN = fqdn(rec.Hostname, n.DHCP.Domain)
	rec.VendorClass = firstOf(w.opts.VendorClass, n.DHCP.VendorClass)
	if rec.UserClass = w.opts.UserClass; rec.UserClass == nil {
		rec.UserClass = n.DHCP.UserClass
	}
}

func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// hostname makes a host name of a container's: letters, digits and '-'.
func hostname(container string) string {
	name := strings.Trim(strings.Map(func(r rune) rune {
		if r == '_' || r == '.' {
			return '-'
		}
		return r
	}, container), "-")
	if len(name) > 63 {
		name = strings.Trim(name[:63], "-")
	}
	if !lan.IsDomain(name) {
		return ""
	}
	return name
}

// fqdn puts a network's domain behind a host name; "" without one or the other.
func fqdn(host, domain string) string {
	if host == "" || domain == "" {
		return ""
	}
	name, _, _ := strings.Cut(host, ".")
	return name + "." + domain
}

// clientID is option 61: what RFC 4361 makes of IAID and DUID, the MAC address with its
// hardware type (RFC 2132 section 9.14), or what the user says.
func clientID(rec *store.Lease, mode string) []byte {
	switch mode {
	case lan.ClientIDNone:
		return nil
	case lan.ClientIDMAC:
		mac, _ := net.ParseMAC(rec.MAC) // ours
		return append([]byte{1}, mac...)
	case lan.ClientIDAuto, "auto":
		return append(binary.BigEndian.AppendUint32([]byte{255}, rec.IAID), rec.DUID...)
	}
	if b, err := hex.DecodeString(strings.ReplaceAll(mode, ":", "")); err == nil && len(b) > 1 && strings.Contains(mode, ":") {
		return b
	}
	return append([]byte{0}, mode...)
}

// client is who a lease is for, as servers know it.
func client(rec *store.Lease) dhcp.Client {
	mac, _ := net.ParseMAC(rec.MAC) // ours
	return dhcp.Client{
		MAC: mac, ID: rec.ClientID, DUID: rec.DUID, IAID: rec.IAID, Hostname: rec.Hostname, FQDN: rec.FQDN,
		VendorClass: rec.VendorClass, UserClass: rec.UserClass,
	}
}

// ask is what servers are asked for a lease.
func ask(rec *store.Lease, n *lan.Network, subnet netip.Prefix) dhcp.Ask {
	a := dhcp.Ask{Client: client(rec), Servers: ofFamily(n.DHCP.Servers, rec.V6), Deny: ofFamily(n.DHCP.Deny, rec.V6), RapidCommit: n.DHCP.RapidCommit}
	if subnet.Bits() > 0 {
		a.Subnet = subnet
	}
	return a
}

// ofFamily are the addresses of one family.
func ofFamily(addrs []netip.Addr, v6 bool) (some []netip.Addr) {
	for _, a := range addrs {
		if a.Is6() == v6 {
			some = append(some, a)
		}
	}
	return some
}

// obtain gets an address from servers: the one that the lease had, confirmed, or a new
// one. It returns nil where the lease is used without a word from any server. The caller
// has begun work on the lease.
func (m *Manager) obtain(ctx context.Context, p *place, n *lan.Network, wire *wire, l *lease, wish netip.Addr) (*lan.Lease, error) {
	m.mu.Lock()
	rec := l.rec
	m.mu.Unlock()
	a := ask(&rec, n, p.rec.Subnet)
	had := rec.Lease.Addr.Addr()
	if wish.IsValid() {
		a.Addr, a.Only = wish, true
	} else if had.IsValid() {
		a.Addr = had
	}
	left := m.clock.left(&rec)
	if rec.State != store.LeasePast && rec.State != "" && had.IsValid() && a.Addr == had && left > 0 && !rec.Fallback && (a.Subnet == netip.Prefix{} || a.Subnet.Contains(had)) {
		brief, cancel := context.WithTimeout(ctx, confirmFor)
		start := time.Now()
		granted, err := wire.reboot(brief, a, &rec)
		m.exchanged(askConfirm, rec.V6, start, err)
		cancel()
		var nak *dhcp.NakError
		var silence *dhcp.SilenceError
		switch {
		case err == nil:
			// A DHCPv6 server may replace an address.
			who := m.clear(ctx, n, wire, l, granted, granted.Addr.Addr() == had)
			if who == "" {
				return granted, nil
			}
			m.refuse(ctx, wire, l, a.Client, granted, who)
			a.Addr = wish
		case errors.As(err, &nak):
			a.Addr = wish
		case errors.As(err, &silence) && !n.DHCP.NoLastLease && m.clock.left(&rec) > time.Second:
			m.log.WarnContext(ctx, "no DHCP server confirms a lease that has not ended: it is used until it ends", "address", had, "left", left.Round(time.Second), "wire", link.WireText(l.space.key), "err", err)
			return nil, nil
		case !errors.As(err, &silence):
			return nil, err
		}
	}
	granted, err := m.discover(ctx, n, wire, l, a)
	var silence *dhcp.SilenceError
	if errors.As(err, &silence) && n.DHCP.Fallback.IsValid() && !l.rec.V6 && !wish.IsValid() {
		if fall := m.fallback(p, n, l); fall != nil {
			m.log.WarnContext(ctx, "no DHCP server answers: the address is one of dhcp_fallback", "address", fall.Addr, "wire", link.WireText(l.space.key), "err", err)
			return fall, nil
		}
	}
	return granted, err
}

// discover asks for a new address until one is given that nobody uses.
func (m *Manager) discover(ctx context.Context, n *lan.Network, wire *wire, l *lease, a dhcp.Ask) (*lan.Lease, error) {
	var used []string
	for range declines {
		start := time.Now()
		granted, err := wire.acquire(ctx, l.rec.V6, a)
		m.exchanged(askAcquire, l.rec.V6, start, err)
		if err != nil {
			if len(used) > 0 {
				err = fmt.Errorf("%w; before, the server gave %s", err, strings.Join(used, ", "))
			}
			return nil, err
		}
		for _, note := range granted.Notes {
			m.log.InfoContext(ctx, "DHCP server said what was not taken", "server", granted.Server, "note", note, "wire", link.WireText(l.space.key))
		}
		who := m.clear(ctx, n, wire, l, granted, false)
		if who == "" {
			return granted, nil
		}
		m.refuse(ctx, wire, l, a.Client, granted, who)
		if a.Only {
			return nil, lan.Refusef(lan.ErrConflict, "address %s%s is %s", granted.Addr.Addr(), l.space.on(), who)
		}
		if len(used) < declinesTold {
			used = append(used, fmt.Sprintf("%s, which is %s", granted.Addr.Addr(), who))
		}
		a.Addr = netip.Addr{}
	}
	return nil, lan.Refusef(lan.ErrConflict, "DHCP server gave %d addresses in a row that are in use, among them %s", declines, strings.Join(used, ", "))
}

// Pace of the look for others that use an address which a server has given: servers look
// themselves, containers start one after another, and a conflict that shows later is dealt
// with too.
func brief() acd.Timing {
	const gap = 40 * time.Millisecond
	return acd.Timing{Num: 2, Min: gap, Max: gap, Listen: 2 * gap}
}

// clear says who uses an address that a server has given, "" if nobody does. again says
// that the container had it before.
func (m *Manager) clear(ctx context.Context, n *lan.Network, wire *wire, l *lease, granted *lan.Lease, again bool) string {
	addr := granted.Addr.Addr()
	hosts := m.hosts(true)
	m.mu.Lock()
	who, probed := m.inUse(l, addr, hosts), again && l.space.watchedFor(time.Since(l.rec.Since))
	m.mu.Unlock()
	if who != "" || n.NoACD || wire.acd == nil || probed {
		return who
	}
	mac, err := wire.acd.Probe(ctx, addr, brief())
	if err != nil {
		m.log.WarnContext(ctx, "address not probed", "address", addr, "wire", link.WireText(l.space.key), "err", err)
	}
	if mac == nil {
		return ""
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l.space.conflictsSeen++
	return "used by " + mac.String() + " on the wire"
}

// inUse is holder for an address that a server has given to a lease. The caller holds mu.
func (m *Manager) inUse(l *lease, addr netip.Addr, hosts map[netip.Addr]string) string {
	if other := l.space.leases[addr]; other != nil && other != l {
		if other.work != nil || !m.mayTake(other) {
			return m.holder(l.space, addr, hosts)
		}
		// Of a container that is gone: the server has given it to this one.
		m.vacate(other)
		m.past(other)
		rec := other.rec
		m.db.Begin(store.PutLease(&rec))
		return ""
	}
	if on, ok := hosts[addr]; ok {
		return "this host's own address, on " + on
	}
	if l.space.leases[addr] == l {
		return "" // it has it already
	}
	m.unstock(l.space, addr)
	return m.holder(l.space, addr, hosts)
}

// fallback takes an address of the network's own range, where no server answers; nil if
// there is none.
func (m *Manager) fallback(p *place, n *lan.Network, l *lease) *lan.Lease {
	run, err := pool.RangeOf(p.rec.Subnet, n.DHCP.Fallback)
	if err != nil {
		return nil
	}
	hosts := m.hosts(false)
	m.mu.Lock()
	defer m.mu.Unlock()
	addr := l.rec.Lease.Addr.Addr()
	if !l.rec.Fallback || !run.Contains(addr) || m.inUse(l, addr, hosts) != "" {
		v := l.space.set.View(run)
		defer v.Close()
		var ok bool
		if addr, ok = v.Pick(time.Now(), func(a netip.Addr) bool { return !m.available(l.space, a, hosts) }); !ok {
			return nil
		}
	}
	l.rec.Fallback = true
	gateway := netip.Addr{}
	if s, ok := n.SubnetOf(addr); ok {
		gateway = s.Gateway
	}
	return &lan.Lease{Addr: netip.PrefixFrom(addr, p.rec.Subnet.Bits()), Gateway: gateway, Renew: lan.Infinite, Rebind: lan.Infinite, Life: lan.Infinite}
}
