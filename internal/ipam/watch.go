package ipam

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lanyard-net/lanyard/internal/acd"
	"github.com/lanyard-net/lanyard/internal/dhcp"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/netns"
	"github.com/lanyard-net/lanyard/internal/packet"
	"github.com/lanyard-net/lanyard/internal/pool"
)

const (
	// stockSize is how many addresses of a pool are probed ahead, or a quarter of a
	// small pool.
	stockSize = 16
	// stockAge is when an address in the stock is probed again. It is listened for
	// all the time.
	stockAge = 5 * time.Minute
	// conflictRetry is when an address that another uses is probed again, doubled
	// each time up to conflictRetryMax.
	conflictRetry    = 5 * time.Minute
	conflictRetryMax = time.Hour
	// rivalRetry is the same for an address that another only probed for.
	rivalRetry = time.Minute
	// maxConflicts bounds what a talkative wire can make us remember.
	maxConflicts = 4096
	// maxSeen bounds the MAC addresses that are remembered of a wire.
	maxSeen = 4096
	// oursFor is how long a MAC address counts as ours after its container left.
	oursFor = 2 * time.Minute
	// seenFor is how long a MAC address counts as somebody's on the wire.
	seenFor = time.Hour
	// orphanAfter is how long an address may be handed out without an endpoint: the
	// engine makes one in the same breath.
	orphanAfter = 5 * time.Minute
	// orphanLeast is how much of that there is left after a start, whenever it was handed
	// out: a daemon that is started again and again frees what it must all the same.
	orphanLeast = 2 * time.Minute
	// forgetAfter is how long an address remembers who had it where no pool has it
	// any more.
	forgetAfter = 30 * 24 * time.Hour
	// wireRetry is when what could not be opened on a wire is tried again at the earliest.
	wireRetry = time.Minute
	// defendInterval is RFC 5227's DEFEND_INTERVAL.
	defendInterval = 10 * time.Second
)

// ready is an address in a pool's stock: taken in the set, and probed if at is set.
type ready struct {
	addr   netip.Addr
	was    *pool.Idle // nil: it was new
	at     time.Time  // when the wire was last silent about it; zero: not asked to the end
	asking bool
	held   bool // it is claimed ahead, and stays so when it leaves the stock
}

// giveBack makes the address what it was. The caller takes r out of the stock.
func (r *ready) giveBack(sp *space) {
	switch {
	case r.held:
	case r.was != nil:
		sp.set.Free(r.addr, *r.was)
	default:
		sp.set.Forget(r.addr)
	}
}

// wire is conflict detection on a parent.
type wire struct {
	acd     *acd.Wire   // nil while it is off or cannot be
	dhcp    *dhcp.Wire  // nil where no network asks DHCP servers, or while it cannot be
	dhcp6   *dhcp.Wire6 // the same of DHCPv6
	problem string      // why
	tried   needs       // what was to be opened
	// parentMAC is what ipvlan and passthru links have.
	parentMAC net.HardwareAddr
	parent    int // index
	probe     int // index in the room; 0: there is no probe link
	started   bool
	since     time.Time // when listening began
	stop      context.CancelFunc
}

// watchedSince is watchedFor of an address that rests since t. Where that was heard of with all
// claims it is not known when it began. The caller holds mu.
func (m *Manager) watchedSince(sp *space, t time.Time) bool {
	return t.After(sp.syncedAt) && sp.watchedFor(m.now(sp).Sub(t))
}

// watchedFor reports whether the wire has been listened to for so long, and that is so short a
// time that an address which was ours before need not be probed.
func (s *space) watchedFor(d time.Duration) bool {
	return s.wire != nil && s.wire.acd != nil && s.wire.started && -time.Second < d && d < min(time.Minute, time.Since(s.wire.since))
}

// needs are what the networks of a wire want of it.
type needs struct{ acd, dhcp, dhcp6 bool }

func (a needs) and(b needs) needs { return needs{a.acd || b.acd, a.dhcp || b.dhcp, a.dhcp6 || b.dhcp6} }

func needsOf(n *lan.Network) (s needs) {
	if n.L3() || n.Isolated() || !n.Manages() {
		return s
	}
	return needs{acd: !n.NoACD, dhcp: lan.FromDHCP(n.IPv4), dhcp6: lan.FromDHCP(n.IPv6)}
}

func (w *wire) has(s needs) bool {
	return (w.acd != nil || !s.acd) && (w.dhcp != nil || !s.dhcp) && (w.dhcp6 != nil || !s.dhcp6)
}

// open reports whether anything is there that reads.
func (w *wire) open() bool { return w.acd != nil || w.dhcp != nil || w.dhcp6 != nil }

// Wire begins conflict detection, and makes ready to ask DHCP servers, for a network on a
// parent whose addresses are ours to give, unless both are under way there. What keeps it
// from being so is logged, and shown by Pools.
func (m *Manager) Wire(n *lan.Network, key string, parent *link.Parent) {
	m.wiring.Lock()
	defer m.wiring.Unlock()
	want := needsOf(n)
	if want == (needs{}) {
		return
	}
	m.mu.Lock()
	sp := m.space(key)
	for _, other := range sp.nets {
		want = want.and(needsOf(other))
	}
	// Where only a part could be opened, that is not ended each time that somebody asks.
	if w := sp.wire; w != nil && w.parent == parent.Index && bytes.Equal(w.parentMAC, parent.MAC) && (w.has(want) || w.open() && w.tried == w.tried.and(want) && time.Since(w.since) < wireRetry) {
		m.mu.Unlock()
		return
	}
	var was string // the MAC address of those that have the parent's
	if sp.wire != nil {
		was = sp.wire.parentMAC.String()
	}
	m.mu.Unlock()
	m.Unwire(key)
	w, err := m.openWire(sp, n, parent, want)
	if err != nil {
		m.log.Warn("conflict detection or DHCP cannot be", "wire", link.WireText(key), "err", err)
		w.problem = err.Error()
	}
	w.tried, w.parentMAC = want, parent.MAC
	m.mu.Lock()
	defer m.mu.Unlock()
	sp.wire = w
	for addr, u := range sp.users {
		if u.mac == "" || u.mac == was {
			sp.unuse(addr) // of ipvlan, known since before the parent was
			u.mac = parent.MAC.String()
			sp.use(addr, u)
		}
	}
	m.ring()
}

// openWire opens what can be opened, and says what cannot.
func (m *Manager) openWire(sp *space, n *lan.Network, parent *link.Parent, want needs) (w *wire, err error) {
	w = &wire{parent: parent.Index, since: time.Now()}
	self := packet.Link{NS: m.links.NS(), Index: parent.Index}
	probe, tap := self, self
	if n.Mode != lan.ModePassthru {
		room, err := m.openRoom()
		if err != nil {
			return w, err
		}
		if w.probe, err = m.links.AddProbe(room, parent.Index, n, m.ProbeMAC(sp.key)); err != nil {
			return w, err
		}
		probe = packet.Link{NS: room, Index: w.probe}
	}
	var errs []error
	if want.acd {
		c := acd.Config{
			Probe: probe,
			Ours:  func(addr netip.Addr, mac net.HardwareAddr) bool { return m.isOurs(sp, addr, mac) },
			Mark:  func() []byte { return m.probeMark(sp) },
			Seen:  func(s acd.Sighting) { m.sighted(sp, s) },
		}
		if n.Kind == lan.Ipvlan || n.Mode == lan.ModePassthru {
			c.Tap = tap
		}
		if w.acd, err = acd.Open(c); err != nil {
			errs = append(errs, fmt.Errorf("conflict detection: %w", err))
		}
	}
	conf := dhcp.Config{Probe: probe, Tap: tap, Below: packet.Link{NS: m.links.NS(), Index: parent.Below}, VLAN: parent.VLAN, Mark: m.mark}
	if want.dhcp {
		if w.dhcp, err = dhcp.Open(conf); err != nil {
			errs = append(errs, fmt.Errorf("DHCP: %w", err))
		}
	}
	if want.dhcp6 {
		if w.dhcp6, err = dhcp.Open6(conf); err != nil {
			errs = append(errs, err)
		}
	}
	if !w.open() {
		errs = append(errs, m.dropProbe(w))
		w.probe = 0
	}
	return w, errors.Join(errs...)
}

// close ends all that reads.
func (w *wire) close() error {
	var errs []error
	if w.acd != nil {
		errs = append(errs, w.acd.Close())
	}
	if w.dhcp != nil {
		errs = append(errs, w.dhcp.Close())
	}
	if w.dhcp6 != nil {
		errs = append(errs, w.dhcp6.Close())
	}
	return errors.Join(errs...)
}

// run reads what the wire says until ctx ends, or a link is gone.
func (w *wire) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	if w.acd != nil {
		g.Go(func() error { return w.acd.Run(ctx) })
	}
	if w.dhcp != nil {
		g.Go(func() error { return w.dhcp.Run(ctx) })
	}
	if w.dhcp6 != nil {
		g.Go(func() error { return w.dhcp6.Run(ctx) })
	}
	return g.Wait()
}

// dropProbe removes a wire's probe link.
func (m *Manager) dropProbe(w *wire) error {
	if w.probe == 0 {
		return nil
	}
	return m.links.DeleteProbe(m.room, w.probe)
}

// openRoom makes the namespace of the probe links, which goes with this process.
func (m *Manager) openRoom() (*netns.NS, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.room == nil {
		room, err := netns.New()
		if err != nil {
			return nil, err
		}
		m.room = room
	}
	return m.room, nil
}

// ProbeMAC is the MAC address of a wire's probe link: the same each time, so that the
// switch has to learn one only.
func (m *Manager) ProbeMAC(key string) net.HardwareAddr {
	return lan.LocalMAC(fmt.Appendf(nil, "%x %s probe", m.db.Salt(), key))
}

// probeMark is what hosts that share the addresses of a wire have in their probes, so that they do not take each other's for
// conflicts: who may have an address is for the cluster to say. nil where they are not shared.
func (m *Manager) probeMark(sp *space) []byte {
	m.mu.Lock()
	shared := sp.segment != ""
	m.mu.Unlock()
	if !shared {
		return nil
	}
	salt := m.cluster.Salt()
	if salt == nil {
		return nil // this host has never been one of the cluster's
	}
	return lan.LocalMAC(fmt.Appendf(nil, "%x probe", salt))
}

// Unwire ends conflict detection on a wire, and removes its probe link.
func (m *Manager) Unwire(key string) {
	m.mu.Lock()
	sp := m.spaces[key]
	if sp == nil || sp.wire == nil {
		m.mu.Unlock()
		return
	}
	w := sp.wire
	sp.wire = nil
	m.emptyStocks(sp)
	m.mu.Unlock()
	if w.stop != nil {
		w.stop()
	}
	if err := w.close(); err != nil {
		m.log.Warn("conflict detection not closed", "wire", link.WireText(key), "err", err)
	}
	if err := m.dropProbe(w); err != nil {
		m.log.Warn("probe link not removed", "wire", link.WireText(key), "err", err)
	}
}

// Unused ends conflict detection on a wire that no network is on any more: now, or when
// there is time.
func (m *Manager) Unused(key string, now bool) {
	if now {
		if m.unused(key) {
			m.Unwire(key)
		}
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.later(func(context.Context) {
		if m.unused(key) {
			m.Unwire(key)
		}
	})
}

func (m *Manager) unused(key string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	sp := m.spaces[key]
	return sp == nil || len(sp.nets) == 0
}

// Run keeps the stocks, asks again for addresses in conflict, and takes back what
// nothing stands behind, until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	tick := time.NewTicker(time.Second)
	defer func() {
		tick.Stop()
		for _, key := range m.keys() {
			m.Unwire(key)
		}
		wg.Wait()
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.room != nil {
			m.room.Close()
			m.room = nil
		}
	}()
	wg.Go(func() { _ = m.keeper.Run(ctx) })
	if m.cluster != nil {
		wg.Go(func() { m.payDebts(ctx) })
	}
	swept, looked, seen := time.Now(), time.Time{}, &trends{}
	for {
		for _, do := range m.work(ctx) {
			wg.Go(func() { do(ctx) })
		}
		if time.Since(swept) > time.Minute {
			swept = time.Now()
			m.sweep()
		}
		if time.Since(looked) >= time.Second { // the bell rings for each request
			looked = time.Now()
			m.sweepLeases()
		}
		m.watchTrends(ctx, seen)
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-m.bell:
		}
		tick.Reset(min(m.pace(), trendEvery))
	}
}

// pace is when Run looks again by itself: soon where it listens to a wire, or something is
// left to it.
func (m *Manager) pace() time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.late) > 0 {
		return time.Second
	}
	for _, p := range m.pools {
		if m.aheadOf(p) > 0 {
			return time.Second
		}
	}
	for _, sp := range m.spaces {
		if sp.wire != nil && sp.wire.open() {
			return time.Second
		}
	}
	return time.Minute
}

func (m *Manager) keys() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var keys []string
	for key := range m.spaces {
		keys = append(keys, key)
	}
	return keys
}

// later leaves something to Run. The caller holds mu.
func (m *Manager) later(do func(context.Context)) { m.after(0, do) }

// after is later, a while from now: at its end, or up to a second later. The caller holds
// mu.
func (m *Manager) after(d time.Duration, do func(context.Context)) {
	m.late = append(m.late, late{time.Now().Add(d), do})
	m.ring()
}

// late is work of Run's own.
type late struct {
	at time.Time
	do func(context.Context)
}

// work is what is to be done now.
func (m *Manager) work(ctx context.Context) []func(context.Context) {
	var hosts map[netip.Addr]string
	if m.short() {
		hosts = m.hosts(false)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var todo []func(context.Context)
	now := time.Now()
	m.late = slices.DeleteFunc(m.late, func(l late) bool {
		due := !l.at.After(now)
		if due {
			todo = append(todo, l.do)
		}
		return due
	})
	for _, sp := range m.spaces {
		if sp.segment != "" && !sp.following {
			sp.following = true
			todo = append(todo, func(ctx context.Context) { m.follow(ctx, sp) })
		}
		if sp.segment != "" {
			todo = append(todo, m.ahead(sp, hosts)...)
		}
		forgetMACs(sp)
		w := sp.wire
		if w == nil || !w.open() {
			continue
		}
		if !w.started {
			w.started = true
			var own context.Context
			own, w.stop = context.WithCancel(ctx)
			todo = append(todo, func(context.Context) {
				if err := w.run(own); err != nil && own.Err() == nil {
					m.lost(sp, w, err)
				}
			})
		}
		if w.acd == nil {
			continue
		}
		for _, p := range m.placesIn(sp) {
			if hosts != nil || len(p.stock) >= wantStock(p) {
				todo = append(todo, m.refill(p, w, hosts)...)
			}
		}
		for addr, c := range sp.conflicts {
			if !c.asking && time.Now().After(c.retry) {
				c.asking = true
				todo = append(todo, func(ctx context.Context) { m.askAgain(ctx, sp, w, addr, c) })
			}
		}
	}
	return todo
}

// short reports whether a stock has less than it wants.
func (m *Manager) short() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.pools {
		if len(p.stock) < wantStock(p) || len(p.space.holdsOf(p)) < m.aheadOf(p) {
			return true
		}
	}
	return false
}

// forgetMACs forgets MAC addresses that were ours, or seen, too long ago.
func forgetMACs(sp *space) {
	for mac, at := range sp.ours {
		if time.Since(at) > oursFor {
			delete(sp.ours, mac)
		}
	}
	for mac, at := range sp.seen {
		if time.Since(at) > seenFor {
			delete(sp.seen, mac)
		}
	}
}

// lost ends conflict detection on a wire whose links are gone. The engine begins it
// again when the parent is back.
func (m *Manager) lost(sp *space, w *wire, err error) {
	m.mu.Lock()
	still := sp.wire == w
	m.mu.Unlock()
	if !still {
		return
	}
	m.log.Warn("no conflict detection", "wire", link.WireText(sp.key), "err", err)
	m.Unwire(sp.key)
	m.mu.Lock()
	defer m.mu.Unlock()
	if sp.wire == nil {
		sp.wire = &wire{parent: w.parent, parentMAC: w.parentMAC, problem: err.Error()}
	}
}

// wantStock is how many addresses a pool wants probed ahead.
func wantStock(p *place) int {
	if p.rec.Policy.NoACD || len(p.rec.Networks) == 0 || p.space.wire == nil || p.space.wire.acd == nil {
		return 0
	}
	return int(min(stockSize, (p.run.Size()+3)/4))
}

// refill takes addresses into a pool's stock, and returns the probes that are to be
// made. The caller holds mu.
func (m *Manager) refill(p *place, w *wire, hosts map[netip.Addr]string) (todo []func(context.Context)) {
	sp := p.space
	for _, addr := range sp.holdsOf(p) {
		if len(p.stock) < wantStock(p) && !slices.ContainsFunc(p.stock, func(r *ready) bool { return r.addr == addr }) {
			p.stock = append(p.stock, &ready{addr: addr, held: true})
		}
	}
	for len(p.stock) < wantStock(p) {
		was := idleOf(sp)
		rested := m.rested(p)
		addr, ok := p.view.Pick(rested, func(a netip.Addr) bool { was.note(a); return !m.available(sp, a, hosts) })
		if !ok {
			break
		}
		r := &ready{addr: addr, was: was.of(addr)}
		p.stock = append(p.stock, r)
	}
	for _, r := range p.stock {
		if r.asking || !r.at.IsZero() && time.Since(r.at) < stockAge {
			continue
		}
		r.asking = true
		todo = append(todo, func(ctx context.Context) { m.probeStock(ctx, p, w, r) })
	}
	return todo
}

// probeStock probes an address of a stock by the full times of RFC 5227.
func (m *Manager) probeStock(ctx context.Context, p *place, w *wire, r *ready) {
	mac, err := w.acd.Probe(ctx, r.addr, acd.Standard())
	m.mu.Lock()
	defer m.mu.Unlock()
	r.asking = false
	i := slices.Index(p.stock, r)
	if i < 0 {
		return // somebody has it, or the pool is gone
	}
	switch {
	case mac != nil:
		p.unstock(i)
		m.meet(p.space, r.addr, mac.String(), conflictRetry)
		p.space.conflictsSeen++
		m.tellAddress(ctx, p.space, EventInUse, r.addr, "by "+mac.String())
		m.log.WarnContext(ctx, "address is in use by another on the wire, and not handed out", "address", r.addr, "mac", mac.String(), "wire", link.WireText(p.space.key))
		m.ring()
	case err != nil:
		p.unstock(i)
		if ctx.Err() == nil {
			m.log.WarnContext(ctx, "address not probed", "address", r.addr, "wire", link.WireText(p.space.key), "err", err)
		}
	default:
		r.at = time.Now()
	}
}

// emptyStocks gives back all that the pools of a space have probed ahead, or are about
// to, and reports whether there was any. The caller holds mu.
func (m *Manager) emptyStocks(sp *space) bool {
	any := false
	for _, p := range m.placesIn(sp) {
		for _, r := range p.stock {
			any = true
			r.giveBack(sp)
		}
		p.stock = nil
	}
	return any
}

// unstock gives back the address at i of the stock. The caller holds mu.
func (p *place) unstock(i int) *ready {
	r := p.stock[i]
	r.giveBack(p.space)
	p.stock = slices.Delete(p.stock, i, i+1)
	return r
}

// unstock gives one address back that a pool has in its stock; nil if none has. The
// caller holds mu.
func (m *Manager) unstock(sp *space, addr netip.Addr) *ready {
	for _, p := range m.placesIn(sp) {
		if i := slices.IndexFunc(p.stock, func(r *ready) bool { return r.addr == addr }); i >= 0 {
			return p.unstock(i)
		}
	}
	return nil
}

// askAgain probes for an address that another used.
func (m *Manager) askAgain(ctx context.Context, sp *space, w *wire, addr netip.Addr, c *conflict) {
	mac, err := w.acd.Probe(ctx, addr, acd.Standard())
	m.mu.Lock()
	defer m.mu.Unlock()
	c.asking = false
	if sp.conflicts[addr] != c {
		return
	}
	switch {
	case err != nil:
		c.retry = time.Now().Add(conflictRetry)
	case mac == nil:
		delete(sp.conflicts, addr)
		m.tellAddress(ctx, sp, EventFree, addr, "")
		m.log.InfoContext(ctx, "address is free again: nobody answers for it", "address", addr, "mac", c.mac, "wire", link.WireText(sp.key))
	default:
		c.tries++
		c.mac, c.last = mac.String(), time.Now()
		c.retry = c.last.Add(min(conflictRetry<<min(c.tries, 10), conflictRetryMax))
	}
}

// meet notes that somebody else uses an address that is nobody's of ours. The caller
// holds mu.
func (m *Manager) meet(sp *space, addr netip.Addr, mac string, retry time.Duration) {
	now := time.Now()
	if c := sp.conflicts[addr]; c != nil {
		c.mac, c.last = mac, now
		return
	}
	if len(sp.conflicts) >= maxConflicts {
		return // still found out when it is probed
	}
	sp.conflicts[addr] = &conflict{mac: mac, first: now, last: now, retry: now.Add(retry)}
}

// isOurs reports whether a MAC address uses an address by right, or had it a moment
// ago.
func (m *Manager) isOurs(sp *space, addr netip.Addr, mac net.HardwareAddr) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	text := mac.String()
	if u := sp.users[addr]; u != nil && u.mac == text {
		return true
	}
	_, was := sp.ours[text]
	return was || addr.IsLinkLocalUnicast() && sp.has(text)
}

// sighted takes in that somebody else uses an address. It is called for each such frame.
func (m *Manager) sighted(sp *space, s acd.Sighting) {
	m.mu.Lock()
	defer m.mu.Unlock()
	mac, now := s.MAC.String(), time.Now()
	if _, known := sp.seen[mac]; !sp.has(mac) && (known || len(sp.seen) < maxSeen) {
		sp.seen[mac] = now
	}
	u := sp.users[s.Addr]
	if u == nil {
		m.sightedFree(sp, s, mac)
		return
	}
	if s.Probe {
		return // the container answers it by itself
	}
	if u.rival == nil || u.rival.mac != mac || now.Sub(u.rival.last) > time.Minute {
		sp.conflictsSeen++
		m.log.Warn("address conflict: another device uses a container's address", "address", s.Addr, "mac", mac, "container_mac", u.mac,
			"wire", link.WireText(sp.key), "network", lan.Short(u.network), "endpoint", lan.Short(u.endpoint))
		m.tellAddress(context.Background(), sp, EventConflict, s.Addr, "used by "+mac+" as well")
		u.rival = &conflict{mac: mac, first: now}
	}
	u.rival.last = now
	if l := sp.leases[s.Addr]; l != nil {
		m.rivalled(l)
	}
	if now.Sub(u.defended) < defendInterval || u.sandbox == "" {
		return
	}
	u.defended = now
	sp.defended++
	e := lan.Endpoint{ID: u.endpoint, MAC: u.mac, Sandbox: u.sandbox}
	m.later(func(context.Context) { m.defend(e, s.Addr) })
}

// sightedFree is sighted for an address that no endpoint has. The caller holds mu.
func (m *Manager) sightedFree(sp *space, s acd.Sighting, mac string) {
	retry := conflictRetry
	if s.Probe {
		retry = rivalRetry
	}
	if m.unstock(sp, s.Addr) != nil {
		m.meet(sp, s.Addr, mac, retry)
		sp.conflictsSeen++
		m.tellAddress(context.Background(), sp, EventInUse, s.Addr, "by "+mac)
		m.ring()
		return
	}
	for _, p := range m.placesIn(sp) {
		if what, _ := m.fixed(sp, s.Addr); p.run.Contains(s.Addr) && !s.Probe && what == "" && (!sp.set.Taken(s.Addr) || sp.ahead[s.Addr] != nil) {
			m.meet(sp, s.Addr, mac, retry)
			return
		}
	}
}

// defend announces a container's address from its own link (RFC 5227 section 2.4 (c):
// a server's address is kept, and defended at most every DEFEND_INTERVAL).
func (m *Manager) defend(e lan.Endpoint, addr netip.Addr) {
	p := netip.PrefixFrom(addr, addr.BitLen())
	if addr.Is4() {
		e.IPv4 = p
	} else {
		e.IPv6 = p
	}
	if !netns.Alive(e.Sandbox) {
		return // it has just ended
	}
	_, err := link.WithInside(&e, func(c *link.Container, in *link.Inside) error {
		return acd.Announce(acd.Link{NS: c.NS, Index: in.Index}, in.MAC, addr)
	})
	if err != nil {
		m.log.Warn("address not defended", "address", addr, "err", err)
	}
}

// Orphan is an address that Docker has and no endpoint came for.
type Orphan struct {
	sp   *space
	addr netip.Addr
}

// String is the address and its wire.
func (o Orphan) String() string { return o.addr.String() + o.sp.on() }

// Orphans are the addresses that Docker has had for some time and no endpoint came for.
func (m *Manager) Orphans() []Orphan {
	var orphans []Orphan
	m.mu.Lock()
	for _, sp := range m.spaces {
		if sp.private() {
			continue // the network is another driver's: no endpoint will come
		}
		for addr, since := range sp.handed {
			if time.Since(since) > orphanAfter {
				orphans = append(orphans, Orphan{sp, addr})
			}
		}
	}
	m.mu.Unlock()
	return slices.DeleteFunc(orphans, func(o Orphan) bool { return m.others(o.sp, o.addr) })
}

// TakeBack frees an orphan.
func (m *Manager) TakeBack(o Orphan) error { return m.free(o.sp, o.addr) }

// sweep takes back addresses that Docker has and no endpoint came for, and forgets who
// had an address where no pool has it any more.
func (m *Manager) sweep() {
	for _, o := range m.Orphans() {
		if err := m.TakeBack(o); err != nil {
			m.log.Error("address stays held", "address", o.addr, "err", err)
			continue
		}
		m.log.Info("taken back: address that no container came for", "address", o.addr, "wire", link.WireText(o.sp.key))
	}
	m.forgetOld()
}

// others reports whether an address is of a pool that a network of another driver may
// have: no endpoint of ours will ever come for it.
func (m *Manager) others(sp *space, addr netip.Addr) bool {
	rec, err := m.db.Address(sp.key, addr)
	if err != nil || rec == nil {
		return err != nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.pools[rec.Pool]
	return p != nil && p.rec.Refs > len(p.rec.Networks)
}

// forgetOld forgets idle addresses of long ago in spaces without a pool.
func (m *Manager) forgetOld() {
	for _, key := range m.keys() {
		m.mu.Lock()
		sp := m.spaces[key]
		used := sp == nil || len(m.placesIn(sp)) > 0
		m.mu.Unlock()
		if used {
			continue
		}
		list, err := m.db.Addresses(key)
		if err != nil {
			m.log.Error("addresses not read", "err", err)
			continue
		}
		m.forget(sp, list)
	}
}
