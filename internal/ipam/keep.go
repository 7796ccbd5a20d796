package ipam

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lanyard-net/lanyard/internal/acd"
	"github.com/lanyard-net/lanyard/internal/dhcp"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/netns"
	"github.com/lanyard-net/lanyard/internal/packet"
	"github.com/lanyard-net/lanyard/internal/request"
	"github.com/lanyard-net/lanyard/internal/store"
)

const (
	// keepers is how many leases are renewed at the same time.
	keepers = 64
	// tryFor is how long one attempt at a renewal lasts.
	tryFor = 4 * time.Second
	// healEvery is how often a server is looked for where an address is a fallback.
	healEvery = 30 * time.Second
	// warnEvery is how often the same trouble is logged again.
	warnEvery = 5 * time.Minute
	// goodbye is how long a DHCPv6 server's word on a release is waited for.
	goodbye = time.Second
)

// Hooks are what the engine does for the manager.
type Hooks struct {
	// Ready makes a network's parent stand again, and Wire be called for it.
	Ready func(ctx context.Context, networkID string) error
	// Endpoint is an endpoint that stands. It takes the engine's locks, which come before
	// the manager's.
	Endpoint func(id string) (lan.Endpoint, bool)
	// Changed makes a running container heed a change of its lease, and says whether its
	// default route led through the old one.
	Changed func(ctx context.Context, endpoint string, c lan.LeaseChange) (wasDefault bool, err error)
}

// Hook says what the engine does. It is called once, before Run.
func (m *Manager) Hook(h Hooks) { m.ready, m.endpointOf, m.changed = h.Ready, h.Endpoint, h.Changed }

// The wire's two families, one as the other.

// asks reports whether servers of a family can be asked.
func (w *wire) asks(v6 bool) bool { return w != nil && (v6 && w.dhcp6 != nil || !v6 && w.dhcp != nil) }

func (w *wire) acquire(ctx context.Context, v6 bool, a dhcp.Ask) (*lan.Lease, error) {
	if v6 {
		return w.dhcp6.Acquire(ctx, a)
	}
	return w.dhcp.Acquire(ctx, a)
}

func (w *wire) reboot(ctx context.Context, a dhcp.Ask, rec *store.Lease) (*lan.Lease, error) {
	if rec.V6 {
		return w.dhcp6.Reboot(ctx, a, &rec.Lease)
	}
	return w.dhcp.Reboot(ctx, a)
}

// refuse declines an address that a server has just given.
func (m *Manager) refuse(ctx context.Context, w *wire, l *lease, c dhcp.Client, granted *lan.Lease, who string) {
	m.log.WarnContext(ctx, "address that a DHCP server gave is in use, and declined", "address", granted.Addr.Addr(), "by", who, "server", granted.Server, "wire", link.WireText(l.space.key))
	m.decline(ctx, w, l, c, granted, who)
}

// decline tells a server that an address that it granted is somebody else's.
func (m *Manager) decline(ctx context.Context, w *wire, l *lease, c dhcp.Client, granted *lan.Lease, who string) {
	var err error
	if l.rec.V6 {
		short, cancel := context.WithTimeout(ctx, goodbye)
		defer cancel()
		err = w.dhcp6.Decline(short, c, granted)
	} else {
		err = w.dhcp.Decline(c, granted, "address in use")
	}
	if err != nil {
		m.log.WarnContext(ctx, "address not declined", "address", granted.Addr.Addr(), "err", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.event(l, EventDeclined, who)
	e.Request, e.Address, e.Server = request.ID(ctx), granted.Addr.Addr(), granted.Server
	m.journal.add(e)
}

// dismiss gives a lease back to its server.
func (m *Manager) dismiss(ctx context.Context, w *wire, rec *store.Lease) {
	if rec.Fallback || !w.asks(rec.V6) {
		return
	}
	var err error
	defer func(start time.Time) { m.exchanged(askRelease, rec.V6, start, err) }(time.Now())
	if rec.V6 {
		short, cancel := context.WithTimeout(ctx, goodbye)
		defer cancel()
		err = w.dhcp6.Release(short, client(rec), &rec.Lease)
	} else {
		err = w.dhcp.Release(client(rec), &rec.Lease)
	}
	if err != nil {
		m.log.WarnContext(ctx, "lease not released: it runs out by itself", "address", rec.Lease.Addr.Addr(), "err", err)
	}
}

// due are the times of a lease. The caller holds mu.
func (m *Manager) due(l *lease) dhcp.Times {
	t := m.clock.times(&l.rec)
	if l.rec.Fallback {
		t.Renew = m.clock.now() + healEvery
	}
	return t
}

// hold has the keeper keep a lease, unless its container has ended.
func (m *Manager) hold(l *lease, t dhcp.Times) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l.endpoint != "" && t != (dhcp.Times{}) {
		m.keeper.Hold(l.rec.ID, t)
	}
}

// errEnded comes when the container that has a lease has ended.
var errEnded = errors.New("the container has ended")

// begin makes the caller the one who talks to servers about a lease, until it calls done,
// which takes mu. ctx ends too when the container that has the lease does. The caller
// holds mu, and nobody is at work on the lease.
func (m *Manager) begin(ctx context.Context, l *lease) (_ context.Context, done func()) {
	ctx, stop := context.WithCancelCause(ctx)
	l.work = &work{make(chan struct{}), stop}
	return ctx, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		stop(nil)
		close(l.work.done)
		l.work = nil
	}
}

// await waits until nobody is at work on a lease. The caller holds mu, which is let go
// meanwhile.
func (m *Manager) await(ctx context.Context, l *lease) error {
	for l.work != nil {
		w := l.work
		m.mu.Unlock()
		select {
		case <-w.done:
		case <-ctx.Done():
		}
		m.mu.Lock()
		if ctx.Err() != nil {
			return lan.Refusef(lan.ErrUnavailable, "lease %s is still being asked for; try: again", l.rec.ID)
		}
	}
	return nil
}

// keep does what is due for a lease. The keeper calls it.
func (m *Manager) keep(ctx context.Context, id string, s dhcp.Stage) (dhcp.Times, bool) {
	m.mu.Lock()
	l := m.leases[id]
	if l == nil || l.work != nil || l.endpoint == "" {
		m.mu.Unlock()
		return dhcp.Times{}, false
	}
	ctx, done := m.begin(ctx, l)
	m.mu.Unlock()
	defer done()
	t, _ := m.again(ctx, l, s) // which notes its error
	return t, t != dhcp.Times{}
}

// networkOf is the network that a lease is, or was last, for; nil where that is gone. The
// caller holds mu.
func (m *Manager) networkOf(l *lease) *lan.Network { return l.space.nets[l.rec.Network] }

// again asks for more time or, where the address is lost or no server gave it, for a new
// one. t says when the lease is due then; the zero Times leave that as it is. The caller
// has begun work on the lease.
func (m *Manager) again(ctx context.Context, l *lease, s dhcp.Stage) (t dhcp.Times, err error) {
	m.mu.Lock()
	rec, endpoint, n := l.rec, l.endpoint, m.networkOf(l)
	m.mu.Unlock()
	switch {
	case n == nil:
		err = fmt.Errorf("network %s is not known any more", lan.Short(rec.Network))
	case s == dhcp.Ended || rec.State == store.LeaseLost || rec.Fallback:
		return m.startAgain(ctx, l, n, "the lease has ended")
	default:
		try, cancel := context.WithTimeout(ctx, tryFor)
		defer cancel()
		start, operation := time.Now(), askRenew
		if s == dhcp.Rebinding {
			operation = askRebind
		}
		var granted *lan.Lease
		granted, err = m.extend(try, &rec, l.space, endpoint, n, s == dhcp.Rebinding)
		if m.exchanged(operation, rec.V6, start, err); err == nil {
			return m.renewed(ctx, l, granted), nil
		}
	}
	if nak := (*dhcp.NakError)(nil); errors.As(err, &nak) {
		return m.startAgain(ctx, l, n, err.Error())
	}
	m.unanswered(ctx, l, err)
	return t, err
}

// unanswered notes what kept a lease from more time, or from another address. That its
// container has ended, or that we are to end, is not noted.
func (m *Manager) unanswered(ctx context.Context, l *lease, err error) {
	if errors.Is(err, errEnded) || errors.Is(ctx.Err(), context.Canceled) {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if l.trouble == nil {
		l.trouble = &trouble{}
	}
	l.trouble.what = err.Error()
	l.trouble.tries++
	if l.rec.Fallback || time.Since(l.trouble.warned) < warnEvery {
		return
	}
	l.trouble.warned = time.Now()
	m.tell(ctx, l, EventUnanswered, l.trouble.what)
	if l.rec.State == store.LeaseLost {
		m.log.WarnContext(ctx, "container has no address: no DHCP server gives it one", "endpoint", lan.Short(l.endpoint), "wire", link.WireText(l.space.key), "err", err)
		return
	}
	m.log.WarnContext(ctx, "DHCP lease not renewed; the container keeps its address until the lease ends", "address", l.rec.Lease.Addr.Addr(), "server", l.rec.Lease.Server,
		"ends_in", m.clock.left(&l.rec).Round(time.Second), "endpoint", lan.Short(l.endpoint), "wire", link.WireText(l.space.key), "err", err)
}

// extend asks servers for more time: those of DHCP from inside the container, whose
// address it is.
func (m *Manager) extend(ctx context.Context, rec *store.Lease, sp *space, endpoint string, n *lan.Network, rebind bool) (granted *lan.Lease, err error) {
	a := ask(rec, n, netip.Prefix{})
	a.Addr, a.Only = rec.Lease.Addr.Addr(), true
	if rec.V6 {
		w, err := m.servers(ctx, sp, n, true)
		if err != nil {
			return nil, err
		}
		return w.dhcp6.Renew(ctx, a, &rec.Lease, rebind)
	}
	e, ok := m.endpointOf(endpoint)
	if !ok || !netns.Alive(e.Sandbox) {
		return nil, errEnded
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	// A namespace that is kept open keeps its link and MAC address from a container that
	// is started anew.
	go func() {
		for netns.Alive(e.Sandbox) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
		stop(errEnded)
	}()
	found, err := link.WithInside(&e, func(c *link.Container, in *link.Inside) (err error) {
		granted, err = dhcp.Renew(ctx, packet.Link{NS: c.NS, Index: in.Index}, a, &rec.Lease, rebind)
		return err
	})
	if err == nil && !found {
		err = errors.New("the container's link is down, or is not there any more")
	}
	return granted, err
}

// servers is the wire on which DHCP servers are asked for a network. Where there is none
// its parent is made to stand first, which takes the engine's locks.
func (m *Manager) servers(ctx context.Context, sp *space, n *lan.Network, v6 bool) (*wire, error) {
	look := func() (*wire, string) {
		m.mu.Lock()
		defer m.mu.Unlock()
		if sp.wire == nil {
			return nil, "its parent is gone"
		}
		return sp.wire, sp.wire.problem
	}
	w, problem := look()
	if !w.asks(v6) && m.ready != nil && ctx.Err() == nil {
		if err := m.ready(ctx, n.ID); err != nil {
			return nil, err
		}
		w, problem = look()
	}
	if !w.asks(v6) {
		return nil, lan.Refusef(lan.ErrUnavailable, "DHCP servers cannot be asked%s: %s", sp.on(), problem)
	}
	return w, nil
}

// renewed takes in what a server granted for an address that the container has. The caller
// has begun work on the lease.
func (m *Manager) renewed(ctx context.Context, l *lease, granted *lan.Lease) dhcp.Times {
	m.mu.Lock()
	old := l.rec.Lease
	was := l.trouble
	m.clock.granted(&l.rec, granted)
	l.trouble, l.retell = nil, false
	rec, endpoint, times := l.rec, l.endpoint, m.due(l)
	m.tell(ctx, l, EventRenewed, "")
	m.mu.Unlock()
	if was != nil {
		m.log.InfoContext(ctx, "DHCP lease renewed after silence", "address", granted.Addr.Addr(), "server", granted.Server, "attempts", was.tries)
	}
	if endpoint != "" && !old.SameConfig(granted) { // it may have ended meanwhile
		if _, err := m.changed(ctx, endpoint, lan.LeaseChange{Old: &old, New: granted}); err != nil {
			m.log.ErrorContext(ctx, "change of a lease not applied in its container", "endpoint", lan.Short(endpoint), "err", err)
		}
		m.mu.Lock()
		m.tell(ctx, l, EventChanged, changeText(&old, granted))
		m.mu.Unlock()
		m.log.InfoContext(ctx, "DHCP lease changed", "endpoint", lan.Short(endpoint), "change", changeText(&old, granted))
	}
	m.write("lease", store.PutLease(&rec))
	return times
}

// startAgain takes a container's address away, if it has it still, and asks for a new
// one. t is as that of again. The caller has begun work on the lease.
func (m *Manager) startAgain(ctx context.Context, l *lease, n *lan.Network, why string) (t dhcp.Times, err error) {
	m.mu.Lock()
	has := l.rec.State != store.LeaseLost && !l.rec.Fallback
	m.mu.Unlock()
	if has {
		if err := m.lose(ctx, l, why); err != nil {
			return t, err
		}
	}
	granted, err := m.anew(ctx, l, n)
	if err == nil {
		return m.move(ctx, l, granted), nil
	}
	if has {
		err = fmt.Errorf("%s; no other address: %w", why, err)
		t = m.soon() // and not when what was lost would have been due
	}
	m.unanswered(ctx, l, err)
	return t, err
}

// soon is when to try again where a container has no address.
func (m *Manager) soon() dhcp.Times {
	t := m.clock.now() + 2*time.Second
	return dhcp.Times{Renew: t, Rebind: t, End: t}
}

// anew asks servers for an address for a container that runs.
func (m *Manager) anew(ctx context.Context, l *lease, n *lan.Network) (*lan.Lease, error) {
	m.mu.Lock()
	rec, subnet := l.rec, netip.Prefix{}
	if p := m.pools[rec.Pool]; p != nil {
		subnet = p.rec.Subnet
	}
	m.mu.Unlock()
	w, err := m.servers(ctx, l.space, n, rec.V6)
	if err != nil {
		return nil, err
	}
	a := ask(&rec, n, subnet)
	a.Addr = rec.Lease.Addr.Addr()
	ctx, cancel := context.WithTimeout(ctx, n.DHCP.Wait())
	defer cancel()
	return m.discover(ctx, n, w, l, a)
}

// lose takes a lease's address from its container, unless that has ended: errEnded. The
// caller has begun work on the lease.
func (m *Manager) lose(ctx context.Context, l *lease, why string) error {
	m.mu.Lock()
	old, endpoint := l.rec.Lease, l.endpoint
	m.mu.Unlock()
	m.log.WarnContext(ctx, "DHCP lease lost: the container's address is taken away", "address", old.Addr.Addr(), "endpoint", lan.Short(endpoint), "why", why, "wire", link.WireText(l.space.key))
	wasDefault, err := m.changed(ctx, endpoint, lan.LeaseChange{Old: &old})
	m.mu.Lock()
	if l.endpoint == "" || l.endpoint != endpoint {
		m.mu.Unlock()
		return errEnded
	}
	l.space.unuse(old.Addr.Addr())
	m.displace(l)
	m.turn(l, store.LeaseLost)
	l.rec.Default = wasDefault
	l.trouble = nil // that there is no other address is to be said at once
	rec := l.rec
	m.tell(ctx, l, EventLost, why)
	m.mu.Unlock()
	if err != nil {
		m.log.ErrorContext(ctx, "address not taken away", "endpoint", lan.Short(endpoint), "err", err)
	}
	m.write("lease", store.PutLease(&rec))
	return nil
}

// move gives a container the address that a server granted, in place of what it has, if
// it has any, and says when the lease is due. The caller has begun work on the lease.
func (m *Manager) move(ctx context.Context, l *lease, granted *lan.Lease) dhcp.Times {
	m.mu.Lock()
	old, endpoint := l.rec.Lease, l.endpoint
	change := lan.LeaseChange{New: granted, Default: l.rec.Default}
	if l.rec.State != store.LeaseLost {
		change.Old = &old
	}
	m.mu.Unlock()
	_, err := m.changed(ctx, endpoint, change)
	e, _ := m.endpointOf(endpoint)
	m.mu.Lock()
	u := l.space.users[old.Addr.Addr()]
	if u == nil || change.Old == nil {
		// Nobody in particular has a lease of each family, each with a MAC address, of which
		// the link has one; on ipvlan it has its parent's.
		u = &user{endpoint: endpoint, mac: cmp.Or(e.MAC, l.rec.MAC), network: e.NetworkID, sandbox: e.Sandbox}
	} else {
		l.space.unuse(old.Addr.Addr())
		u.rival, u.defended = nil, time.Time{}
	}
	m.displace(l)
	m.clock.granted(&l.rec, granted)
	m.turn(l, store.LeaseBound)
	l.rec.Default, l.trouble = false, nil
	m.place(l)
	if l.endpoint == "" {
		op := m.rest(l) // it ended meanwhile
		m.mu.Unlock()
		m.write("lease", op)
		return dhcp.Times{}
	}
	l.space.use(granted.Addr.Addr(), u)
	l.told = toldOf(&e, l.rec.V6)
	rec, t := l.rec, m.due(l)
	m.tell(ctx, l, EventChanged, changeText(&old, granted))
	m.mu.Unlock()
	if err != nil {
		m.log.ErrorContext(ctx, "new address not set in its container", "address", granted.Addr, "endpoint", lan.Short(endpoint), "err", err)
	}
	m.write("lease", store.PutLease(&rec))
	m.log.InfoContext(ctx, "container has a new address from DHCP", "old", old.Addr, "new", granted.Addr, "server", granted.Server, "endpoint", lan.Short(endpoint))
	return t
}

// toldOf is the address that Docker knows, where it is another than the endpoint's.
func toldOf(e *lan.Endpoint, v6 bool) netip.Addr {
	if v6 {
		return e.Told6.Addr()
	}
	return e.Told4.Addr()
}

// changeText says what a server changed.
func changeText(old, now *lan.Lease) string {
	text := ""
	add := func(what string, a, b any) {
		if text != "" {
			text += ", "
		}
		text += fmt.Sprintf("%s %v to %v", what, a, b)
	}
	if old.Addr != now.Addr {
		add("address", old.Addr, now.Addr)
	}
	if old.Gateway != now.Gateway {
		add("gateway", old.Gateway, now.Gateway)
	}
	if old.MTU != now.MTU {
		add("MTU", old.MTU, now.MTU)
	}
	if len(old.Routes) != len(now.Routes) || !old.SameConfig(&lan.Lease{Addr: old.Addr, Gateway: old.Gateway, MTU: old.MTU, Routes: now.Routes}) {
		add("routes", old.Routes, now.Routes)
	}
	if text == "" {
		return "the same again"
	}
	return text
}

// rest notes that nobody has a lease any more, and returns what is to be written. The
// caller holds mu.
func (m *Manager) rest(l *lease) store.Op {
	m.keeper.Drop(l.rec.ID)
	n := m.networkOf(l)
	was := l.rec.State
	l.endpoint, l.trouble = "", nil
	if l.work != nil {
		l.work.stop(errEnded)
	}
	m.turn(l, store.LeaseIdle)
	switch {
	case was == store.LeaseLost || l.rec.Fallback:
		m.past(l)
	case n != nil && n.DHCP.When() == lan.ReleaseStop:
		m.letOff(l)
	}
	rec := l.rec
	return store.PutLease(&rec)
}

// past makes a lease one that is remembered. The caller holds mu.
func (m *Manager) past(l *lease) {
	l.space.unshelve(l)
	l.rec.State = store.LeasePast
	m.displace(l)
	l.space.shelve(l)
}

// letOff gives an idle lease back, when there is time. The caller holds mu.
func (m *Manager) letOff(l *lease) {
	m.past(l)
	m.tell(context.Background(), l, EventReleased, "")
	rec, w := l.rec, l.space.wire
	m.later(func(ctx context.Context) { m.dismiss(ctx, w, &rec) })
}

// sweepLeases gives back the leases of containers that have not come back, and forgets
// those of long ago.
func (m *Manager) sweepLeases() {
	var ops []store.Op
	m.mu.Lock()
	for id, l := range m.leases {
		if l.work != nil || l.rec.State == "" || l.endpoint != "" {
			continue
		}
		put := func() {
			rec := l.rec
			ops = append(ops, store.PutLease(&rec))
		}
		n := m.networkOf(l)
		switch age := time.Since(l.rec.Since); {
		case l.rec.State == store.LeasePast && age > forgetAfter:
			m.forgetLease(l)
			ops = append(ops, store.DeleteLease(id))
		case l.rec.State == store.LeaseLost:
			m.past(l) // its endpoint went while we were away
			put()
		case l.rec.State != store.LeaseIdle:
		case m.clock.left(&l.rec) <= 0:
			m.past(l)
			m.tell(context.Background(), l, EventExpired, "")
			put()
		case n == nil || n.DHCP.When() == lan.ReleaseRemove && age > n.GraceTime():
			m.letOff(l)
			put()
		}
	}
	m.mu.Unlock()
	if len(ops) > 0 {
		m.write("leases", ops...)
	}
}

// ReleaseLeases gives back the idle leases of a network that is about to go, unless it is
// never to.
func (m *Manager) ReleaseLeases(n *lan.Network, key string) {
	if !n.Leases() || n.DHCP.When() == lan.ReleaseNever {
		return
	}
	var ops []store.Op
	var recs []store.Lease
	m.mu.Lock()
	sp := m.space(key)
	for _, l := range m.leases {
		if l.space == sp && l.rec.State == store.LeaseIdle && l.work == nil && l.rec.Network == n.ID {
			m.past(l)
			m.tell(context.Background(), l, EventReleased, "")
			recs = append(recs, l.rec)
		}
	}
	w := sp.wire
	m.mu.Unlock()
	// Docker waits for this: those of DHCPv6, whose servers answer, go side by side.
	ctx, cancel := context.WithTimeout(context.Background(), 2*goodbye)
	defer cancel()
	var g errgroup.Group
	g.SetLimit(keepers)
	for i := range recs {
		ops = append(ops, store.PutLease(&recs[i]))
		g.Go(func() error { m.dismiss(ctx, w, &recs[i]); return nil })
	}
	_ = g.Wait() // dismiss logs what it cannot do
	if len(ops) > 0 {
		m.write("leases", ops...)
	}
}

// rivalled looks whether another device that was seen with a leased address has it still,
// after it was defended, and if so gives the address up: RFC 2131 section 4.4.1, RFC 5227
// section 2.4 (b). The caller holds mu.
func (m *Manager) rivalled(l *lease) {
	if l.leaving || l.rec.Fallback { // which no server gave, nor will it give another
		return
	}
	l.leaving = true
	m.after(2*time.Second, func(ctx context.Context) {
		m.mu.Lock()
		l.leaving = false
		rec, w, n := l.rec, l.space.wire, m.networkOf(l)
		if l.work != nil || n == nil || w == nil || w.acd == nil || !w.asks(rec.V6) || rec.State != store.LeaseBound || l.endpoint == "" {
			m.mu.Unlock()
			return
		}
		ctx, done := m.begin(ctx, l)
		m.mu.Unlock()
		defer done()
		addr := rec.Lease.Addr.Addr()
		mac, err := w.acd.Probe(ctx, addr, acd.Quick())
		if err != nil || mac == nil {
			return // it has let go
		}
		why := "used by " + mac.String() + " on the wire"
		m.log.WarnContext(ctx, "address conflict: a leased address is given up, and another asked for", "address", addr, "mac", mac.String(), "network", lan.Short(n.ID), "wire", link.WireText(l.space.key))
		if m.lose(ctx, l, why) != nil {
			return
		}
		m.decline(ctx, w, l, client(&rec), &rec.Lease, why)
		m.mu.Lock()
		l.rec.Lease.Addr = netip.Prefix{} // not to be asked for again
		m.mu.Unlock()
		t, err := m.startAgain(ctx, l, n, why)
		if err != nil {
			t = m.soon()
		}
		m.hold(l, t)
	})
}
