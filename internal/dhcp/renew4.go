package dhcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/packet"
)

// Renew asks for a running lease again from inside the container that has the address:
// its server (RENEWING), or whichever (REBINDING, rebind; RFC 2131 section 4.4.5). in is
// the container's link in its namespace, which is entered to open sockets and not kept.
// It blocks until there is an answer or ctx ends, and sends again meanwhile. The new
// lease's times count from its Asked.
//
// The errors are *NakError at once when a server that may be listened to says that the
// address is not the client's any more; *SilenceError at ctx's deadline; what ended ctx
// otherwise; packet.ErrLinkGone; and what the kernel says of the address (it is not the
// container's: EADDRNOTAVAIL) and, if nothing could be sent at all, of sending.
func Renew(ctx context.Context, in packet.Link, a Ask, l *lan.Lease, rebind bool) (*lan.Lease, error) {
	a.Addr, a.Only = l.Addr.Addr(), true
	if !a.Addr.Is4() || !l.Server.Is4() || len(a.MAC) != macLen4 {
		return nil, errors.New("not a DHCPv4 lease")
	}
	to := everyone4
	if !rebind {
		// RENEWING is between the client and its server, though another may answer where
		// it has taken that one's place.
		to = l.Server
	}
	// Answers are heard below the container's own stack. A socket that is bound to the
	// leased address would not hear a DHCPNAK, which is broadcast; one that hears
	// broadcasts might keep answers from a DHCP client of the container's own; and
	// neither would know where a frame came from.
	ear, err := packet.Listen(in, filter4(), false)
	if errors.Is(err, unix.ENODEV) {
		err = packet.ErrLinkGone
	}
	if err != nil {
		return nil, err
	}
	out, err := dial4(in, a.Addr)
	if err != nil {
		return nil, errors.Join(err, ear.Close())
	}
	x := newExchange4(&a)
	x.key = key4{xid: xid4(), mac: [macLen4]byte(a.MAC)}
	var unsent error
	x.send = func(m *dhcpv4.DHCPv4) error {
		if _, err := out.WriteToUDPAddrPort(m.ToBytes(), netip.AddrPortFrom(to, serverPort4)); err != nil {
			unsent = err
			x.note("sending to %s: %v", to, errors.Unwrap(err))
			return unix.EAGAIN // a route or neighbour may come back
		}
		return nil
	}
	gone := make(chan struct{})
	x.closed = gone
	heard := make(chan error, 1)
	go func() {
		defer close(gone)
		heard <- listen4(ear, x)
	}()

	m := ask4(&a.Client, dhcpv4.MessageTypeRequest)
	m.ClientIPAddr = a.Addr.AsSlice()
	renewed, err := x.again(ctx, m)
	ear.Stop()
	<-gone
	broken := <-heard
	if errors.Is(err, ErrClosed) && broken != nil {
		err = broken
	}
	var silence *SilenceError
	if errors.As(err, &silence) && x.requests == 0 && unsent != nil {
		err = fmt.Errorf("send to %s: %w", to, unsent)
	}
	// What was heard counts, whatever comes of closing.
	_, _ = out.Close(), ear.Close()
	return renewed, err
}

// listen4 passes on the answers to an exchange until the socket is stopped.
func listen4(p *packet.Socket, x *exchange4) error {
	buf := make([]byte, maxFrame)
	for {
		n, err := p.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			return err
		}
		if a, ok := parse4(buf[:n]); ok && a.key == x.key {
			x.offer(a)
		}
	}
}

// dial4 opens a UDP socket of a DHCP client's in a link's namespace, which sends from an
// address. What it gets is not read; it is there so that the kernel has somebody at the
// port.
func dial4(in packet.Link, from netip.Addr) (*net.UDPConn, error) {
	var conn *net.UDPConn
	open := func() error {
		link, err := net.InterfaceByIndex(in.Index)
		if err != nil {
			return fmt.Errorf("link: %w", packet.ErrLinkGone)
		}
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		if err != nil {
			return os.NewSyscallError("UDP socket", err)
		}
		file := os.NewFile(uintptr(fd), "DHCP client")
		defer file.Close()
		err = errors.Join(
			os.NewSyscallError("address reuse", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)),
			os.NewSyscallError("broadcast", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BROADCAST, 1)),
			os.NewSyscallError("bind to link", unix.SetsockoptString(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, link.Name)),
		)
		if err == nil {
			err = os.NewSyscallError("bind to address", unix.Bind(fd, &unix.SockaddrInet4{Port: clientPort4, Addr: from.As4()}))
		}
		if err != nil {
			return err
		}
		c, err := net.FilePacketConn(file)
		if err != nil {
			return err
		}
		conn = c.(*net.UDPConn)
		return nil
	}
	if in.NS == nil {
		err := open()
		return conn, err
	}
	err := in.NS.Do(open)
	return conn, err
}
