package engine

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"github.com/lanyard-net/lanyard/internal/acd"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/netns"
)

const (
	// startTime is how long a container may take from Join until its link is up,
	// many started at once included.
	startTime = time.Minute
	// engineAnnounces is how soon an engine that announces addresses by itself (28
	// and newer) does so after the link is up.
	engineAnnounces = 500 * time.Millisecond
)

// greeter does for a container what can be done only when the engine has moved its
// link in: it announces the addresses, where the engine does not, sets IPv6 up, and lets
// it know the host.
type greeter struct {
	wg   sync.WaitGroup
	once sync.Once // closes stop
	stop chan struct{}

	mu sync.Mutex
	// announces are the kinds whose addresses the engine was heard announcing.
	announces map[lan.Kind]bool
}

func newGreeter() *greeter {
	return &greeter{stop: make(chan struct{}), announces: map[lan.Kind]bool{}}
}

// engineStarted forgets what is known of the engine: another version may have started.
func (g *greeter) engineStarted() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.announces)
}

// end ends all greetings and waits for them. Once more is no error.
func (g *greeter) end() {
	g.once.Do(func() { close(g.stop) })
	g.wg.Wait()
}

// run does something in the background, with a context that carries what from does and ends when the greeter does.
func (g *greeter) run(from context.Context, do func(context.Context)) {
	g.wg.Go(func() {
		ctx, cancel := context.WithCancel(context.WithoutCancel(from))
		defer cancel()
		go func() {
			select {
			case <-g.stop:
				cancel()
			case <-ctx.Done():
			}
		}()
		do(ctx)
	})
}

// EngineStarted is called when an engine gets to know us, as each does when it starts.
func (e *Engine) EngineStarted() { e.greeter.engineStarted() }

// greet begins to greet a container that was told to join.
func (e *Engine) greet(ctx context.Context, ep *endpoint, rec lan.Endpoint) {
	n := ep.net
	var addrs []netip.Addr
	if count, _ := n.rec.Announce.Messages(); count > 0 && !n.rec.L3() {
		for _, p := range rec.Addrs() {
			addrs = append(addrs, p.Addr())
		}
	}
	g := e.greeter
	g.mu.Lock()
	if g.announces[n.rec.Kind] {
		addrs = nil
	}
	g.mu.Unlock()
	if len(addrs) == 0 && n.rec.IPv6From() == "" && !n.rec.HostAccess && !n.rec.AntiSpoof {
		return
	}
	// Before the link is there, so that nothing that the engine sends is missed.
	// Engines before 28 make the namespace later, and announce nothing.
	var ear *acd.Ear
	if len(addrs) > 0 {
		ns, err := netns.Open(rec.Sandbox)
		if err == nil {
			ear, err = acd.NewEar(ns)
			err = errors.Join(err, ns.Close())
		}
		if err != nil {
			e.log.DebugContext(ctx, "the engine's own announcements are not heard", "endpoint", rec.ID, "err", err)
		}
	}
	g.run(ctx, func(ctx context.Context) {
		ctx, cancel := context.WithTimeout(ctx, startTime)
		defer cancel()
		if err := e.greetNow(ctx, ep, rec, addrs, ear); err != nil && ctx.Err() == nil {
			e.log.WarnContext(ctx, "container not greeted: its address is not announced, or IPv6 not set up", "endpoint", rec.ID, "err", err)
		}
	})
}

// greetNow is greet once the container is told. Nothing here keeps the container's
// namespace open but for moments: as long as one is, its link and with it its MAC address
// are there, and a container that is started anew could not have it.
func (e *Engine) greetNow(ctx context.Context, ep *endpoint, rec lan.Endpoint, addrs []netip.Addr, ear *acd.Ear) error {
	if ear != nil {
		// It costs every frame that this machine sends a little (before 6.15), too.
		defer func() {
			if ear != nil {
				ear.Close()
			}
		}()
	}
	n := ep.net
	up, err := e.awaitLink(ctx, ep, rec)
	if up && err == nil {
		if err := e.guardStarted(ep, &rec); err != nil && netns.Alive(rec.Sandbox) {
			e.log.ErrorContext(ctx, "antispoof: a container has no filter on its link; nothing of it leaves the host", "endpoint", rec.ID, "err", err)
		}
		e.openHost(ep, rec, true)
	}
	if err != nil || !up || len(addrs) == 0 {
		return err
	}
	missing := addrs
	if ear != nil {
		brief, cancel := context.WithTimeout(ctx, engineAnnounces)
		missing = ear.Announced(brief, addrs)
		cancel()
		err := ear.Close()
		if ear = nil; err != nil {
			return err
		}
	}
	if len(missing) == 0 {
		e.greeter.mu.Lock()
		e.greeter.announces[n.rec.Kind] = true
		e.greeter.mu.Unlock()
		return nil
	}
	if err := announceAll(ctx, n, &rec, missing); err != nil {
		return err
	}
	e.log.DebugContext(ctx, "addresses announced", "endpoint", rec.ID, "addresses", missing)
	return nil
}

// announceAll announces addresses as often as the network says, or until the container
// has ended.
func announceAll(ctx context.Context, n *network, rec *lan.Endpoint, addrs []netip.Addr) error {
	count, every := n.rec.Announce.Messages()
	for i := range count {
		if i > 0 && !pause(ctx, every) {
			return ctx.Err()
		}
		if sent, err := announce(rec, addrs); err != nil || !sent {
			return err
		}
	}
	return nil
}

// pause waits, and reports whether ctx still stands.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// awaitLink waits until the engine has set the endpoint's link up in its container, and
// sets its IPv6 up. It reports false where the container has ended meanwhile, or has left.
func (e *Engine) awaitLink(ctx context.Context, ep *endpoint, rec lan.Endpoint) (up bool, err error) {
	n := ep.net
	for there := false; ; {
		e.mu.Lock()
		left := ep.left || e.endpoints[rec.ID] != ep
		e.mu.Unlock()
		if left {
			// An engine that starts anew has another namespace under that path.
			return false, nil
		}
		switch alive := netns.Alive(rec.Sandbox); {
		case alive:
			there = true
			if up, err := setUp(n, &rec); up && err == nil || err != nil && netns.Alive(rec.Sandbox) {
				return up, err
			}
		case there:
			return false, nil
		}
		if !pause(ctx, 25*time.Millisecond) {
			return false, ctx.Err()
		}
	}
}

// setUp sets the IPv6 mode of an endpoint's link, if it is up.
func setUp(n *network, rec *lan.Endpoint) (up bool, err error) {
	return link.WithInside(rec, func(c *link.Container, in *link.Inside) error {
		if n.rec.IPv6From() == "" {
			return nil
		}
		return c.SetIPv6(in.Name, n.rec.IPv6From())
	})
}

// announce sends one announcement for each address from the endpoint's link. It reports
// false where the container has ended.
func announce(rec *lan.Endpoint, addrs []netip.Addr) (sent bool, err error) {
	if !netns.Alive(rec.Sandbox) {
		return false, nil
	}
	return link.WithInside(rec, func(c *link.Container, in *link.Inside) error {
		for _, addr := range addrs {
			if err := acd.Announce(acd.Link{NS: c.NS, Index: in.Index}, in.MAC, addr); err != nil {
				return err
			}
		}
		return nil
	})
}
