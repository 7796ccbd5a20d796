package acd

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/netns"
)

// queue is how many bytes of frames, with the kernel's overhead of some 800 bytes
// each, wait for us at most. The default of 208 KiB is less than what a few hundred
// probes may bring back.
const queue = 1 << 20

// port is a packet socket on a link, in the runtime's poller. It stays in the
// link's namespace wherever it is used, and its methods may be called at the same
// time. After Close they return os.ErrClosed.
type port struct {
	*os.File
	raw     syscall.RawConn
	stopped atomic.Bool
}

// listen opens a socket that gets the frames of a link that w lets pass, until it
// is closed; index 0 is all links of the namespace.
//
// It is for ETH_P_ALL: only such sockets see what the rx_handler of a macvlan or
// ipvlan parent takes for a child, and what a namespace sends.
func listen(l Link, w way) (*port, error) {
	filter, err := w.filter()
	if err != nil {
		return nil, err
	}
	return open(l, unix.ETH_P_ALL, func(fd int) error {
		if w != outgoing {
			err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
			if err != nil && !errors.Is(err, unix.ENOPROTOOPT) { // before 4.20; the filter does it
				return os.NewSyscallError("ignore outgoing", err)
			}
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, queue); err != nil {
			return os.NewSyscallError("receive buffer", err)
		}
		program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		return os.NewSyscallError("filter", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program))
	})
}

// sender opens a socket that gets nothing.
func sender(l Link) (*port, error) { return open(l, 0, func(int) error { return nil }) }

// open opens a packet socket and binds it once prepare is through, so that it never
// gets a frame that it should not.
func open(l Link, protocol uint16, prepare func(fd int) error) (*port, error) {
	fd := -1
	err := inside(l.NS, func() error {
		var err error
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return os.NewSyscallError("packet socket", err)
	})
	if err != nil {
		return nil, err
	}
	p := &port{File: os.NewFile(uintptr(fd), "packet socket")}
	if err = prepare(fd); err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(protocol), Ifindex: l.Index}))
	}
	if err == nil {
		p.raw, err = p.SyscallConn()
	}
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	return p, nil
}

func inside(ns *netns.NS, fn func() error) error {
	if ns == nil {
		return fn()
	}
	return ns.Do(fn)
}

// networkOrder is how sockaddr_ll wants a protocol.
func networkOrder(n uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, n))
}

// read waits for a frame. It returns ErrLinkGone when the link is gone for good; one
// that is only down may come up again, and the socket with it. After stop it returns
// os.ErrDeadlineExceeded.
func (p *port) read(buf []byte) (int, error) {
	for {
		n, err := p.Read(buf)
		if !errors.Is(err, unix.ENETDOWN) && (!errors.Is(err, os.ErrDeadlineExceeded) || p.stopped.Load()) {
			return n, err
		}
		// The kernel says when a link goes down, but not when one that is down goes
		// away, so from then on we look.
		sa, err := p.name()
		if err != nil {
			return 0, err
		}
		if sa.Ifindex <= 0 {
			return 0, ErrLinkGone
		}
		p.SetReadDeadline(time.Now().Add(lookAgain))
		if p.stopped.Load() { // it set another deadline just before
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// lookAgain is how long a link may be gone before we see it.
const lookAgain = time.Second

// stop ends read, for good.
func (p *port) stop() {
	p.stopped.Store(true)
	p.SetReadDeadline(time.Unix(1, 0))
}

// send sends a frame at once or not at all: ENOBUFS and EAGAIN are a full queue,
// ENETDOWN and ENXIO a link that is down or gone.
func (p *port) send(frame []byte) error {
	var err error
	closed := p.raw.Write(func(fd uintptr) bool {
		_, err = unix.Write(int(fd), frame)
		return true
	})
	if closed != nil {
		return os.ErrClosed
	}
	return os.NewSyscallError("send", err)
}

// mac is the link's MAC as it is now, which need not be the one it had when the
// socket was opened.
func (p *port) mac() (net.HardwareAddr, error) {
	sa, err := p.name()
	switch {
	case err != nil:
		return nil, err
	case sa.Ifindex <= 0 || sa.Halen == 0:
		return nil, ErrLinkGone
	case sa.Hatype != unix.ARPHRD_ETHER || sa.Halen != macLen:
		return nil, errors.New("not an Ethernet link")
	}
	return net.HardwareAddr(sa.Addr[:macLen]), nil
}

// join and leave have the link take frames for a group MAC, counted per socket.
// Both wait for the kernel's RTNL lock.
func (p *port) join(group net.HardwareAddr) error {
	return p.membership(unix.PACKET_ADD_MEMBERSHIP, group)
}

func (p *port) leave(group net.HardwareAddr) error {
	return p.membership(unix.PACKET_DROP_MEMBERSHIP, group)
}

func (p *port) membership(what int, group net.HardwareAddr) error {
	sa, err := p.name()
	if err != nil {
		return err
	}
	m := unix.PacketMreq{Ifindex: int32(sa.Ifindex), Type: unix.PACKET_MR_MULTICAST, Alen: macLen}
	copy(m.Address[:], group)
	return p.control(func(fd int) error {
		return os.NewSyscallError("membership", unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, what, &m))
	})
}

// name is what the socket is bound to. An Ifindex of -1 is a link that is gone.
func (p *port) name() (*unix.SockaddrLinklayer, error) {
	var sa unix.Sockaddr
	err := p.control(func(fd int) error {
		var err error
		sa, err = unix.Getsockname(fd)
		return os.NewSyscallError("getsockname", err)
	})
	if err != nil {
		return nil, err
	}
	return sa.(*unix.SockaddrLinklayer), nil
}

func (p *port) control(fn func(fd int) error) error {
	var err error
	if closed := p.raw.Control(func(fd uintptr) { err = fn(int(fd)) }); closed != nil {
		return os.ErrClosed
	}
	return err
}
