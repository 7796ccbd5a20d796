// Package acd finds out whether an address is in use on a wire before we give it
// away, and tells the wire when we have: IPv4 by RFC 5227 (address conflict
// detection), IPv6 by duplicate address detection (RFC 4862 5.4), announcements by
// gratuitous ARP and unsolicited neighbour advertisements.
//
// Where to probe from: a frame sent on a parent does not reach the parent's own
// children, and a child's frame does not reach the host's stack. So a probe goes
// out of a child that has no address: a macvlan link in bridge mode, or an ipvlan
// slave in l2 mode. It reaches the wire and the siblings in the same mode. It does
// not find the host's own addresses, nor, unless the switch sends frames back where
// they came from, macvlan siblings in private and vepa mode and IPv4 addresses of
// ipvlan siblings with the vepa flag; nor ipvlan slaves in l3 and l3s mode, which
// do without ARP. Those the caller has to know.
//
// A host with several links may answer on each for all its addresses (Linux does,
// for IPv4, unless arp_ignore is set). Then it is found on wires where it does not
// use the address; a container there could not use it either.
package acd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/packet"
)

// Link is a network interface in a namespace.
type Link = packet.Link

type port = packet.Socket

// Config says where a wire is. Its functions are called by the readers, for every
// frame of interest, perhaps at the same time: they must not block.
type Config struct {
	// Probe is where probes go out and the wire's broadcasts come in: a link
	// without addresses in a namespace of its own. On a parent in passthru mode,
	// which can have no second child, it is the parent itself.
	Probe Link
	// Tap is the parent in the host's namespace, for an ipvlan Probe: its slaves
	// share the parent's MAC and are told apart by address, so an answer to a
	// probe, which comes to 0.0.0.0, goes to the parent's own stack. It is
	// listened to while probes are under way. Optional: Index 0 is none.
	Tap Link
	// Ours reports whether the address rightly belongs to a container of ours
	// with this MAC; that is no conflict and no sighting. Optional.
	Ours func(addr netip.Addr, mac net.HardwareAddr) bool
	// Mark is 6 bytes that all have in their probes who agree elsewhere on who may use which address: their
	// probes are no conflict and no sighting. They are in a place that everybody else ignores, ARP's target hardware
	// address (which RFC 5227 2.1.1 would have zero) and the nonce (RFC 7527). nil: there are none. Optional.
	Mark func() []byte
	// Seen gets each use of an address by somebody else, whether a probe asked
	// for it or not. Any host can send it as many as it likes. Optional.
	Seen func(Sighting)
}

// Sighting is a use of an address.
type Sighting struct {
	Addr  netip.Addr
	MAC   net.HardwareAddr // the receiver's to keep
	Probe bool             // the other side only asks whether it may use it
}

func (s Sighting) String() string {
	if s.Probe {
		return fmt.Sprintf("%s probed for by %s", s.Addr, s.MAC)
	}
	return fmt.Sprintf("%s used by %s", s.Addr, s.MAC)
}

// Timing is the pace of a probe. The zero value sends nothing and returns at once.
type Timing struct {
	Wait     time.Duration // the first probe goes out after a random time up to this
	Num      int           // probes
	Min, Max time.Duration // from one probe to the next, random in between
	Listen   time.Duration // after the last probe
}

// Standard is the pace of RFC 5227 1.1, which takes 4 to 7 s.
func Standard() Timing {
	return Timing{Wait: time.Second, Num: 3, Min: time.Second, Max: 2 * time.Second, Listen: 2 * time.Second}
}

// Quick is for when somebody waits. It takes 0.4 s, and misses a host that needs
// longer to answer (one that sleeps, or is behind a switch port that has only just
// come up).
func Quick() Timing {
	const gap = 100 * time.Millisecond
	return Timing{Num: 3, Min: gap, Max: gap, Listen: 2 * gap}
}

var (
	// ErrClosed comes when a wire was closed, or its Run has ended.
	ErrClosed = packet.ErrClosed
	// ErrLinkGone comes from Run when the probe link or the tapped parent was
	// removed or moved away.
	ErrLinkGone = packet.ErrLinkGone

	errUnusable = errors.New("no host can have this address")
)

// Wire is one Ethernet segment, as heard from one link. Its methods may be called
// at the same time.
type Wire struct {
	conf  Config
	pair  *packet.Pair // entered by each probe
	port  *port        // on the probe link
	nonce *ndp.Nonce   // of all our solicitations, so that late loops are known too

	mu     sync.Mutex // guards what follows
	probes map[netip.Addr][]*probe
	mac    net.HardwareAddr // the probe link's when the last probe began
}

// probe is a Probe under way.
type probe struct {
	addr   netip.Addr
	frame  []byte
	group  net.HardwareAddr      // to listen to meanwhile; nil: none
	answer chan net.HardwareAddr // has room for one
}

// use is what a frame says of an address.
type use struct {
	Sighting
	announces bool       // to everybody
	nonce     *ndp.Nonce // of an IPv6 probe; nil: none
	mark      []byte     // of an IPv4 probe, all zero for none
}

// Open opens the sockets of a wire; it starts nothing. The namespaces have to stay
// open until the wire is closed. The probe link must be Ethernet; it may be down,
// but then a Probe fails.
func Open(c Config) (*Wire, error) {
	w := &Wire{conf: c, nonce: ndp.NewNonce(), probes: map[netip.Addr][]*probe{}}
	var err error
	if w.pair, err = packet.OpenPair(packet.PairConfig{
		Probe: c.Probe, Tap: c.Tap, MaxFrame: maxFrame, Hear: w.hear,
		ListenProbe: func(l Link) (*port, error) { return listen(l, incoming) },
		ListenTap:   func(l Link) (*port, error) { return listen(l, direct) },
	}); err != nil {
		return nil, err
	}
	w.port = w.pair.Probe
	if w.mac, err = w.port.MAC(); err == nil {
		err = w.port.Join(groupMAC(allNodes()))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("probe link: %w", err), w.Close())
	}
	return w, nil
}

// Close ends Run and all probes, and closes the sockets. It may be called at any
// time; only the first call does something.
func (w *Wire) Close() error { return w.pair.Close() }

// Run reads what the wire says until ctx ends or the wire is closed, and returns
// nil then; the wire is closed in any case. It may be called once.
func (w *Wire) Run(ctx context.Context) error { return w.pair.Run(ctx) }

// hear passes on what a frame says of an address.
func (w *Wire) hear(frame []byte) {
	u, ok := parse(frame)
	if !ok || u.Probe && w.sent(u) || w.conf.Ours != nil && w.conf.Ours(u.Addr, u.MAC) {
		return
	}
	w.mu.Lock()
	for _, p := range w.probes[u.Addr] {
		select {
		case p.answer <- u.MAC:
		default: // it has one already
		}
	}
	w.mu.Unlock()
	if w.conf.Seen != nil {
		u.MAC = slices.Clone(u.MAC)
		w.conf.Seen(u.Sighting)
	}
}

// mark is what our probes have beside all others; nil: nothing.
func (w *Wire) mark() []byte {
	if w.conf.Mark == nil {
		return nil
	}
	if mark := w.conf.Mark(); len(mark) == macLen {
		return mark
	}
	return nil
}

func parse(frame []byte) (use, bool) {
	if u, ok := parseARP(frame); ok {
		return u, true
	}
	return parseNDP(frame)
}

// sent reports whether a probe is one of our own that the wire brought back, or has our mark. On
// ipvlan, where all slaves have one MAC, only the nonce can tell.
func (w *Wire) sent(u use) bool {
	mark := w.mark()
	if u.nonce != nil {
		return u.nonce.Equal(w.nonce) || mark != nil && u.nonce.Equal(nonceOf(mark))
	}
	if mark != nil && bytes.Equal(u.mark, mark) {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Equal(u.MAC, w.mac)
}

// Probe asks the wire whether anybody uses addr, and returns the MAC of who does;
// nil if nobody answered. Whoever else probes for the address at the same time
// counts as a user (RFC 5227 2.1.1). It leaves no trace in the caches of others.
//
// It takes the whole time of t, or less when there is an answer. It needs Run, and
// waits for it to start. The errors are that ctx has ended, ErrClosed, an address
// that no host can have, and what the kernel says of sending (ENETDOWN).
//
// Hundreds may be under way at the same time. Two for the same address on one wire
// do not see each other. For IPv6 it waits for the kernel's RTNL lock.
func (w *Wire) Probe(ctx context.Context, addr netip.Addr, t Timing) (net.HardwareAddr, error) {
	addr = plain(addr)
	mac, err := w.probe(ctx, addr, t)
	if errors.Is(err, os.ErrClosed) {
		err = ErrClosed
	}
	if err != nil {
		return nil, fmt.Errorf("probe for %s: %w", addr, err)
	}
	return mac, nil
}

func (w *Wire) probe(ctx context.Context, addr netip.Addr, t Timing) (net.HardwareAddr, error) {
	if err := w.pair.Await(ctx); err != nil {
		return nil, err
	}
	p, err := w.begin(addr)
	if err != nil {
		return nil, err
	}
	defer w.end(p)

	// A queue that is full loses a frame, as a wire may: one that goes out is enough.
	var lost error
	went := false
	pause := between(0, t.Wait)
	for i := range t.Num {
		if mac, err := w.await(ctx, p, pause); mac != nil || err != nil {
			return mac, err
		}
		err := w.port.Send(p.frame)
		switch {
		case err == nil:
			went = true
		case errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN):
			lost = err
		default:
			return nil, err
		}
		pause = between(t.Min, t.Max)
		if i == t.Num-1 {
			pause = t.Listen
		}
	}
	mac, err := w.await(ctx, p, pause)
	if mac == nil && err == nil && !went {
		return nil, lost
	}
	return mac, err
}

// await waits some time for an answer to a probe.
func (w *Wire) await(ctx context.Context, p *probe, d time.Duration) (net.HardwareAddr, error) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case mac := <-p.answer:
		return mac, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-w.pair.Done():
		return nil, ErrClosed
	case <-timer.C:
	}
	select {
	case mac := <-p.answer: // it came as the time was over
		return mac, nil
	default:
		return nil, nil
	}
}

// begin makes a probe known to the readers, from before its first frame until end.
func (w *Wire) begin(addr netip.Addr) (*probe, error) {
	if !usable(addr) {
		return nil, errUnusable
	}
	mac, err := w.port.MAC()
	if err != nil {
		return nil, err
	}
	p := &probe{addr: addr, answer: make(chan net.HardwareAddr, 1)}
	mark := w.mark()
	if addr.Is4() {
		p.frame = arpRequest(mac, netip.IPv4Unspecified(), addr)
		copy(p.frame[offTargetHW:], mark)
	} else {
		nonce := w.nonce
		if mark != nil {
			nonce = nonceOf(mark)
		}
		if p.frame, err = solicitation(mac, addr, nonce); err != nil {
			return nil, err
		}
		// To hear others that probe for it. We send no MLD report for the group, so a
		// switch that goes by them may keep those from us, but not a user's answer,
		// which goes to ff02::1.
		p.group = hardware(p.frame)
		if err := w.port.Join(p.group); err != nil {
			return nil, err
		}
	}
	if err := w.enter(p, mac); err != nil {
		w.leave(p)
		return nil, err
	}
	return p, nil
}

// enter adds a probe to those under way. The first opens the tap.
func (w *Wire) enter(p *probe, mac net.HardwareAddr) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.pair.Enter(nil); err != nil {
		return err
	}
	w.mac = mac
	w.probes[p.addr] = append(w.probes[p.addr], p)
	return nil
}

// end takes a probe away. The last closes the tap.
func (w *Wire) end(p *probe) {
	w.mu.Lock()
	rest := slices.DeleteFunc(w.probes[p.addr], func(x *probe) bool { return x == p })
	if len(rest) == 0 {
		delete(w.probes, p.addr)
	} else {
		w.probes[p.addr] = rest
	}
	w.pair.Leave(nil)
	w.mu.Unlock()
	w.leave(p)
}

// leave gives back the group of a probe. It fails only where the link or the socket
// is gone, and with them the membership.
func (w *Wire) leave(p *probe) {
	if p.group != nil {
		_ = w.port.Leave(p.group)
	}
}

// plain is an address as frames have it: IPv4 not mapped, no zone.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// usable reports whether an interface can have the address.
func usable(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLoopback() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

// between is a random time from min to max.
func between(min, max time.Duration) time.Duration {
	if max <= min {
		return min
	}
	return min + rand.N(max-min+1)
}
