package dhcp

import (
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

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/packet"
)

// Config says where a wire is, as in package acd.
type Config struct {
	// Probe sends, and hears broadcasts, which nearly all servers answer with, since we
	// ask for it; and siblings in bridge mode. A server of the parent's own host is not
	// reached from it, no more than the host is from a container.
	Probe packet.Link
	// Tap is the parent, which hears what comes for MAC addresses that no link has yet.
	// It is listened to while somebody waits for an answer. Index 0 is none; equal to
	// Probe, the one socket hears all.
	Tap packet.Link
	// Below is the link that the parent is a VLAN of, and VLAN its ID there; Below is the
	// parent itself, and VLAN 0, if it is none. Answers with another tag come there: a
	// switch port is set wrong then, and the error says so. Index 0 is none.
	Below packet.Link
	VLAN  uint16
	// Mark is that of what is sent (SO_MARK); 0 is none.
	Mark uint32
}

// Wire is one Ethernet segment, on which DHCPv4 servers are asked for any client. Its
// methods may be called at the same time. An idle lease costs it nothing.
type Wire struct {
	conf Config
	pair *packet.Pair // entered by each exchange

	mu        sync.Mutex           // guards what follows
	exchanges map[key4]*exchange4  // those under way; each has a key at a time
	heard     map[sight4]time.Time // whom servers answered since the first exchange of those under way; at most maxSights
}

// sight4 is that a server answered a client.
type sight4 struct {
	from netip.Addr
	mac  [macLen4]byte
}

// maxSights bounds what a flood can have us remember.
const maxSights = 512

// Open opens the sockets of a wire; it starts nothing. The namespaces have to stay open
// until the wire is closed. The probe link must be Ethernet; it may be down, but then
// messages are not sent.
func Open(c Config) (*Wire, error) {
	w := &Wire{conf: c, exchanges: map[key4]*exchange4{}, heard: map[sight4]time.Time{}}
	var err error
	if w.pair, err = packet.OpenPair(packet.PairConfig{
		Probe: c.Probe, Tap: c.Tap, MaxFrame: maxFrame, Hear: w.hear,
		ListenProbe: func(l packet.Link) (*packet.Socket, error) { return packet.Listen(l, filter4(), false) },
		// What leaves through the parent is of interest where a sibling is the server and
		// answers a MAC that no link has.
		ListenTap: func(l packet.Link) (*packet.Socket, error) { return packet.Listen(l, filter4(), true) },
	}); err != nil {
		return nil, err
	}
	_, err = w.pair.Probe.MAC()
	if err == nil && c.Mark != 0 {
		err = w.pair.Probe.Mark(c.Mark)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("probe link: %w", err), w.Close())
	}
	return w, nil
}

// Close ends Run and all that is under way, and closes the sockets. It may be called at
// any time; only the first call does something.
func (w *Wire) Close() error { return w.pair.Close() }

// Run reads what servers say until ctx ends or the wire is closed, and returns nil then;
// the wire is closed in any case. packet.ErrLinkGone is the probe link or the tapped
// parent that was removed or moved away. It may be called once.
func (w *Wire) Run(ctx context.Context) error { return w.pair.Run(ctx) }

// hear passes an answer on to the exchange that it is for, and notes that there was one.
// It never blocks.
func (w *Wire) hear(frame []byte) {
	a, ok := parse4(frame)
	if !ok {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.exchanges) == 0 {
		return
	}
	s := sight4{a.from, a.key.mac}
	if _, known := w.heard[s]; known || len(w.heard) < maxSights {
		w.heard[s] = time.Now()
	}
	if x := w.exchanges[a.key]; x != nil {
		x.offer(a)
	}
}

// Acquire gets a lease: DHCPDISCOVER, the first offer that can be taken, DHCPREQUEST,
// until ctx's deadline (RFC 2131 section 3.1). With RapidCommit one round trip may do
// (RFC 4039). The lease's times count from Asked.
//
// The errors are *SilenceError when ctx's deadline came, with all that was heard;
// *NakError instead where servers were refusing the address to the end; what ended ctx
// otherwise; ErrClosed; and what the kernel says of sending. It needs Run, and waits for
// it to start. Hundreds may be under way at the same time.
//
// Where Ask.Refuse refuses what a server has bound to the client in one round trip, that
// is declined.
func (w *Wire) Acquire(ctx context.Context, a Ask) (*lan.Lease, error) {
	x, err := w.begin(ctx, &a)
	if err != nil {
		return nil, err
	}
	defer w.end(x)
	return x.acquire(ctx)
}

// Reboot asks to have Ask.Addr again (INIT-REBOOT, RFC 2131 section 3.2), which any
// server that knows the client may grant, until ctx's deadline. A DHCPNAK from an allowed
// server is a *NakError at once. The other errors, and what else there is to know, are
// Acquire's.
func (w *Wire) Reboot(ctx context.Context, a Ask) (*lan.Lease, error) {
	if !a.Addr.Is4() {
		return nil, errors.New("no IPv4 address to ask for")
	}
	x, err := w.begin(ctx, &a)
	if err != nil {
		return nil, err
	}
	defer w.end(x)
	return x.reboot(ctx)
}

// begin makes an exchange known to the readers. The first one opens the tap.
func (w *Wire) begin(ctx context.Context, a *Ask) (*exchange4, error) {
	if len(a.MAC) != macLen4 {
		return nil, fmt.Errorf("%q is not an Ethernet address", a.MAC)
	}
	x := newExchange4(a)
	switch err := w.pair.Await(ctx); {
	case errors.Is(err, ErrClosed):
		return nil, err
	case err != nil:
		return nil, x.over(ctx)
	}
	x.closed = w.pair.Done()
	x.send = func(m *dhcpv4.DHCPv4) error { return w.broadcast(a.MAC, m) }
	x.decline = func(l *lan.Lease, why string) { _ = w.Decline(a.Client, l, why) } // it runs out by itself too
	x.rekey = w.rekey
	x.others = w.others
	if w.conf.Below.Index != 0 {
		x.seek = func() { w.seek(x) }
	}
	first, err := w.pair.Enter(a.MAC)
	if err != nil {
		return nil, err
	}
	if first {
		w.mu.Lock()
		defer w.mu.Unlock()
		clear(w.heard)
	}
	return x, nil
}

// rekey gives an exchange a new transaction ID, and what came for the old one is no more
// heard.
func (w *Wire) rekey(x *exchange4) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.forget(x)
	for {
		x.key = key4{xid: xid4(), mac: [macLen4]byte(x.ask.MAC)}
		if w.exchanges[x.key] == nil {
			break
		}
	}
	w.exchanges[x.key] = x
}

// forget drops an exchange's key, if it has one. The caller holds mu.
func (w *Wire) forget(x *exchange4) {
	if w.exchanges[x.key] == x {
		delete(w.exchanges, x.key)
	}
}

// end takes an exchange away. The last one closes the tap.
func (w *Wire) end(x *exchange4) {
	w.mu.Lock()
	w.forget(x)
	w.mu.Unlock()
	w.pair.Leave(x.ask.MAC)
	if x.found != nil {
		x.found()
	}
}

// others says which servers have answered other clients since a time.
func (w *Wire) others(mac net.HardwareAddr, since time.Time) []string {
	w.mu.Lock()
	clients := map[netip.Addr]int{}
	for s, at := range w.heard {
		if !at.Before(since) && s.mac != [macLen4]byte(mac) {
			clients[s.from]++
		}
	}
	w.mu.Unlock()
	var lines []string
	for from, n := range clients {
		lines = append(lines, fmt.Sprintf("server %s answered %d others", from, n))
	}
	slices.Sort(lines)
	return lines
}

// seek has answers that went astray told of, until x.found is called.
func (w *Wire) seek(x *exchange4) {
	var err error
	x.found, err = w.conf.astray(anyVLAN4(), func(frame []byte, where string) {
		a, ok := parse4(frame)
		if !ok {
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.exchanges[a.key] == x {
			a.astray = where
			x.offer(a)
		}
	})
	if err != nil {
		x.note("answers on other VLANs cannot be heard: %v", err)
	}
}

// broadcast sends a message to whoever is a server, from a client that has no address
// and no link: answers are to be broadcast too (RFC 2131 section 4.1).
func (w *Wire) broadcast(mac net.HardwareAddr, m *dhcpv4.DHCPv4) error {
	m.SetBroadcast()
	return w.transmit(mac, everyMAC, netip.IPv4Unspecified(), everyone4, m)
}

func (w *Wire) transmit(src, dst net.HardwareAddr, from, to netip.Addr, m *dhcpv4.DHCPv4) error {
	frame, err := frame4(src, dst, netip.AddrPortFrom(from, clientPort4), netip.AddrPortFrom(to, serverPort4), m.ToBytes())
	if err == nil {
		err = w.pair.Probe.Send(frame)
	}
	if errors.Is(err, os.ErrClosed) {
		return ErrClosed
	}
	return err
}

// Decline tells the server that an address which it has leased is in use by somebody
// else, and what was found (RFC 2131 section 4.4.4). One message is broadcast; there is
// no answer to wait for. It does not need Run.
func (w *Wire) Decline(c Client, l *lan.Lease, why string) error {
	m := message4(&c, dhcpv4.MessageTypeDecline)
	m.TransactionID = xid4()
	m.Options[optAddr] = l.Addr.Addr().AsSlice()
	m.Options[optServer] = l.Server.AsSlice()
	if why = cleaned(why); why != "" {
		m.Options[optMessage] = []byte(why)
	}
	return w.endLease(l, "decline", func() error {
		return w.transmit(c.MAC, everyMAC, netip.IPv4Unspecified(), everyone4, m)
	})
}

// Release gives a lease back to its server (RFC 2131 section 4.4.6). One message is sent
// from the leased address, to the MAC address that the last answer came from; there is no
// answer to wait for. It does not need Run, nor the client's link.
func (w *Wire) Release(c Client, l *lan.Lease) error {
	m := message4(&c, dhcpv4.MessageTypeRelease)
	m.TransactionID = xid4()
	m.ClientIPAddr = l.Addr.Addr().AsSlice()
	m.Options[optServer] = l.Server.AsSlice()
	via, err := net.ParseMAC(l.Via)
	if err != nil {
		via = everyMAC // a server takes its packets from those too
	}
	return w.endLease(l, "release", func() error { return w.transmit(c.MAC, via, l.Addr.Addr(), l.Server, m) })
}

func (w *Wire) endLease(l *lan.Lease, verb string, send func() error) error {
	err := errors.New("not a DHCPv4 lease")
	if l.Addr.Addr().Is4() && l.Server.Is4() {
		err = send()
	}
	if err != nil {
		return fmt.Errorf("%s %s: %w", verb, l.Addr.Addr(), err)
	}
	return nil
}

func xid4() (xid [4]byte) {
	for n := rand.Uint32(); xid == [4]byte{}; n = rand.Uint32() {
		xid = [4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}
	}
	return xid
}

// lost reports whether a frame was lost as on a wire, where a second try may do.
func lost(err error) bool { return errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN) }
