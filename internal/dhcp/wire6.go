package dhcp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/packet"
)

// The ports of RFC 8415 section 7.2.
const (
	clientPort6 = 546
	serverPort6 = 547
)

// group6 is where all servers and relays of a link listen (section 7.1).
var group6 = netip.AddrPortFrom(netip.MustParseAddr("ff02::1:2"), serverPort6)

const (
	// inbox6 is how many answers wait for an exchange; more are lost, as on a wire.
	inbox6 = 16
	// queue6 is how many bytes of answers wait for the reader.
	queue6 = 1 << 20
	// addressWait is how long an exchange waits for the link to have an address to send
	// from. It takes ms, but where the parent has no carrier yet.
	addressWait = 3 * time.Second
	lookEvery   = 10 * time.Millisecond
)

// Wire6 asks the DHCPv6 servers of a wire (RFC 8415) on behalf of all containers on it,
// from one UDP socket on the probe link: servers know a client by its DUID and the IAID,
// not by where it asks from, so that the whole life of a lease is asked for from there.
// Its methods may be called at the same time.
type Wire6 struct {
	conf Config
	conn *net.UDPConn
	name string // of the link

	started chan struct{} // closed when Run reads
	done    chan struct{} // closed by Close

	mu        sync.Mutex // guards what follows
	exchanges map[dhcpv6.TransactionID]*exchange6
	closed    bool
	gone      error // why it was closed, if not by Close
}

// exchange6 is one message, sent as often as it takes, and what comes back.
type exchange6 struct {
	xid   dhcpv6.TransactionID
	inbox chan datagram6
}

type datagram6 struct {
	from   netip.Addr
	data   []byte
	astray string // where it came instead of here; "": it came here
}

// Open6 opens the socket of a wire on its probe link, a macvlan or ipvlan child that is
// up, in a namespace that is the probe links' alone: it turns IPv6 on on the link, for a
// link-local address without duplicate address detection (which takes 1 to 2 s; the
// address is made of a MAC that is the link's own, and on ipvlan of a number that is),
// and without heed to router advertisements. On a link in the process's own namespace it
// changes nothing.
//
// It does not wait for the address: the first message does. It fails where there is no
// IPv6: the kernel has none, or the link's MTU is below 1280. The namespace has to stay
// open until the wire is closed. Where several wires are on one link, the last one
// hears the answers. The tap is not used.
func Open6(c Config) (*Wire6, error) {
	l := c.Probe
	var fd int
	var name string
	open := func() error {
		ifi, err := net.InterfaceByIndex(l.Index)
		if err != nil {
			return err
		}
		name = ifi.Name
		if l.NS != nil {
			if err := prepare6(name); err != nil {
				return err
			}
		}
		fd, err = socket6(l.Index, name)
		return err
	}
	do := func(fn func() error) error { return fn() }
	if l.NS != nil {
		do = l.NS.Do
	}
	if err := do(open); err != nil {
		return nil, fmt.Errorf("DHCPv6 on link %d: %w", l.Index, err)
	}
	file := os.NewFile(uintptr(fd), "DHCPv6 socket")
	defer file.Close()
	conn, err := net.FilePacketConn(file)
	if err != nil {
		return nil, fmt.Errorf("DHCPv6 on %s: %w", name, err)
	}
	return &Wire6{
		conf: c, conn: conn.(*net.UDPConn), name: name, started: make(chan struct{}), done: make(chan struct{}),
		exchanges: map[dhcpv6.TransactionID]*exchange6{},
	}, nil
}

// prepare6 lets a link have a link-local address, at once and nothing else, in the
// namespace of the calling thread. See ip-sysctl in the kernel's documentation.
func prepare6(name string) error {
	dir := filepath.Join("/proc/sys/net/ipv6/conf", name)
	if _, err := os.Stat(dir); err != nil {
		return fmt.Errorf("no IPv6 on %s: the kernel has none, or the link's MTU is below 1280 (%w)", name, err)
	}
	changed := false
	for _, s := range []struct{ key, value string }{
		{"accept_ra", "0"}, {"autoconf", "0"}, {"accept_dad", "0"}, {"dad_transmits", "0"}, {"addr_gen_mode", "0"},
	} {
		now, err := setSysctl6(dir, s.key, s.value)
		if err != nil {
			return err
		}
		changed = changed || now
	}
	// An address that the link got before is still being looked for on the wire; a new
	// one is not.
	if changed {
		if _, err := setSysctl6(dir, "disable_ipv6", "1"); err != nil {
			return err
		}
	}
	_, err := setSysctl6(dir, "disable_ipv6", "0")
	return err
}

// setSysctl6 sets a sysctl that has another value; /proc/sys may be read-only.
func setSysctl6(dir, key, value string) (changed bool, err error) {
	path := filepath.Join(dir, key)
	old, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(old)) == value {
		return false, nil
	}
	if err == nil {
		err = os.WriteFile(path, []byte(value), 0o644)
	}
	if errors.Is(err, os.ErrNotExist) && key != "disable_ipv6" {
		return false, nil // addr_gen_mode is of 4.5
	}
	return err == nil, err
}

// socket6 opens the socket in the namespace of the calling thread. It is bound to the
// link before it has a port, so that those of other links are no obstacle.
func socket6(index int, name string) (int, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_UDP)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	set := func(level, option, value int) {
		if err == nil {
			err = os.NewSyscallError("setsockopt", unix.SetsockoptInt(fd, level, option, value))
		}
	}
	set(unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	set(unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, queue6)
	set(unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1)
	set(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, index)
	set(unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 0)
	if err == nil {
		err = os.NewSyscallError("bind to link", unix.BindToDevice(fd, name))
	}
	if err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrInet6{Port: clientPort6}))
	}
	if err != nil {
		return -1, errors.Join(err, unix.Close(fd))
	}
	return fd, nil
}

// Close ends Run and all exchanges, and closes the socket. It may be called at any time;
// only the first call does something.
func (w *Wire6) Close() error { return w.close(nil) }

func (w *Wire6) close(why error) error {
	w.mu.Lock()
	closed := w.closed
	if !closed {
		w.closed, w.gone = true, why
		close(w.done)
	}
	w.mu.Unlock()
	if closed {
		return nil
	}
	return w.conn.Close()
}

// Run reads what servers answer until ctx ends or the wire is closed, and returns nil
// then, and packet.ErrLinkGone a second after the link is gone at the latest; the wire is
// closed in any case. It may be called once.
func (w *Wire6) Run(ctx context.Context) error {
	read := make(chan error, 1)
	go func() { read <- w.read() }()
	close(w.started)
	w.watch(ctx)
	err := errors.Join(w.Close(), <-read)
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(w.gone, err)
}

// watch waits for ctx to end, the wire to be closed, or the link to be gone. The kernel
// does not tell a UDP socket of that, so it looks.
func (w *Wire6) watch(ctx context.Context) {
	look := time.NewTicker(time.Second)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.done:
			return
		case <-look.C:
			if w.linkGone() {
				_ = w.close(packet.ErrLinkGone) // which is what Run returns
			}
		}
	}
}

// read hands answers to the exchanges that they are for. It waits for none of them.
func (w *Wire6) read() error {
	buf := make([]byte, maxReply)
	for {
		n, _, flags, from, err := w.conn.ReadMsgUDPAddrPort(buf, nil)
		switch {
		case errors.Is(err, net.ErrClosed):
			return nil
		case errors.Is(err, unix.ENETDOWN): // said once, when the link goes down
			continue
		case err != nil:
			return errors.Join(fmt.Errorf("DHCPv6 on %s: %w", w.name, err), w.Close())
		case flags&unix.MSG_TRUNC == 0:
			w.hear(datagram6{from: from.Addr().WithZone(""), data: buf[:n]})
		}
	}
}

func (w *Wire6) hear(d datagram6) {
	xid, ok := xid6(d.data)
	if !ok {
		return
	}
	w.mu.Lock()
	x := w.exchanges[xid]
	w.mu.Unlock()
	if x == nil || len(x.inbox) == cap(x.inbox) {
		return
	}
	d.data = bytes.Clone(d.data)
	select {
	case x.inbox <- d:
	default:
	}
}

// seek has answers that went astray told of until stop is called, if it is not nil. They
// come from the probe link's own parent, whatever exchange they are for.
func (w *Wire6) seek(t *tally6) (stop func()) {
	stop, err := w.conf.astray(anyVLAN6(), func(frame []byte, where string) {
		if d, ok := unwrap6(frame); ok {
			d.astray = where
			w.hear(d)
		}
	})
	if err != nil {
		t.hear(fmt.Sprintf("answers on other VLANs cannot be heard: %v", err))
	}
	return stop
}

// begin makes an exchange known to the reader, until end.
func (w *Wire6) begin(ctx context.Context) (*exchange6, error) {
	select {
	case <-w.started:
	case <-w.done:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, ErrClosed
	}
	x := &exchange6{inbox: make(chan datagram6, inbox6)}
	for {
		r := rand.Uint32()
		x.xid = dhcpv6.TransactionID{byte(r), byte(r >> 8), byte(r >> 16)}
		if w.exchanges[x.xid] == nil {
			break
		}
	}
	w.exchanges[x.xid] = x
	return x, nil
}

func (w *Wire6) end(x *exchange6) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.exchanges, x.xid)
}

// errNoAddress comes while a link has no address to send from.
var errNoAddress = errors.New("the link has no usable IPv6 link-local address, or no carrier")

// send sends a message to all servers and relays. A queue that is full loses it, as a
// wire may.
func (w *Wire6) send(message []byte) error {
	_, err := w.conn.WriteToUDPAddrPort(message, group6)
	switch {
	case errors.Is(err, net.ErrClosed):
		return ErrClosed
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EAGAIN):
		return nil
	case err == nil:
		return nil
	case w.linkGone():
		return errors.Join(packet.ErrLinkGone, w.close(packet.ErrLinkGone))
	case errors.Is(err, unix.EADDRNOTAVAIL), errors.Is(err, unix.ENETUNREACH), errors.Is(err, unix.ENETDOWN):
		return fmt.Errorf("%w (%w)", errNoAddress, err)
	}
	return err
}

// linkGone reports whether the link that the socket is bound to was removed or moved
// away. What sending says then is the same as where a link has no address yet.
func (w *Wire6) linkGone() bool {
	raw, err := w.conn.SyscallConn()
	if err != nil {
		return false // closed
	}
	raw.Control(func(fd uintptr) {
		_, err = unix.GetsockoptString(int(fd), unix.SOL_SOCKET, unix.SO_BINDTODEVICE)
	})
	return errors.Is(err, unix.ENODEV)
}

// pace6 says when a message is sent again: after a time that doubles, give or take a
// tenth (section 15). The zero due is now.
type pace6 struct {
	next, most time.Duration
	due        time.Time
	first      time.Time // when the message was sent first; zero: not yet
}

// elapsed is since when the exchange is under way (section 21.9).
func (p *pace6) elapsed(now time.Time) time.Duration {
	if p.first.IsZero() {
		return 0
	}
	return now.Sub(p.first)
}

func (p *pace6) sent(now time.Time) {
	if p.first.IsZero() {
		p.first = now
	}
	p.due = now.Add(p.next + time.Duration((rand.Float64()-0.5)/5*float64(p.next)))
	p.next = min(2*p.next, p.most)
}

// errUntaken comes when an exchange's time is over.
var errUntaken = errors.New("no answer that could be taken")

// converse sends a message at a pace until take takes an answer or time is over:
// errUntaken. due is called before the message is sent again, and may end it too; where
// it is not nil, answers are compared: take gets those that came already too.
func (w *Wire6) converse(ctx context.Context, m *message6, p *pace6, t *tally6, take func(*answer6) bool, due func() bool) error {
	x, err := w.begin(ctx)
	if err != nil {
		return err
	}
	defer w.end(x)
	timer := time.NewTimer(time.Until(p.due))
	defer timer.Stop()
	hear := func(d datagram6) bool {
		if d.astray != "" {
			t.hear(fmt.Sprintf("server %s answered %s", d.from, d.astray))
			return false
		}
		a, err := parse6(d.from, d.data)
		if err != nil {
			t.hear(fmt.Sprintf("a broken answer from %s: %v", d.from, err))
			return false
		}
		return take(a)
	}
	var stuck time.Time // since when there is no address to send from
	var unsent error
	sends, found := 0, func() {}
	defer func() { found() }()
	for {
		select {
		case d := <-x.inbox:
			if !hear(d) {
				continue
			}
			for due != nil && len(x.inbox) > 0 { // one that came too may be better
				hear(<-x.inbox)
			}
			return nil
		case <-timer.C:
			if due != nil && due() {
				return nil
			}
			now := time.Now()
			unsent = w.send(m.encode(x.xid, p.elapsed(now)))
			switch {
			case unsent == nil:
				stuck = time.Time{}
				t.sent(m.kind)
				p.sent(now)
				if sends++; sends == patience && w.conf.Below.Index != 0 {
					if stop := w.seek(t); stop != nil {
						found = stop
					}
				}
				timer.Reset(time.Until(p.due))
			case !errors.Is(unsent, errNoAddress):
				return unsent
			case stuck.IsZero():
				stuck = now
				timer.Reset(lookEvery)
			case now.Sub(stuck) > addressWait:
				return unsent
			default:
				timer.Reset(lookEvery)
			}
		case <-ctx.Done():
			if unsent != nil {
				return unsent
			}
			return errUntaken
		case <-w.done:
			return ErrClosed
		}
	}
}
