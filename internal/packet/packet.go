// Package packet has link-level sockets (packet(7)): what a link hears before the
// kernel's own stack does, and frames that are sent as they are.
package packet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/netns"
)

// Link is a network interface in a namespace.
type Link struct {
	NS    *netns.NS // nil: the process's own
	Index int
}

// ErrLinkGone comes when the link was removed or moved away.
var ErrLinkGone = errors.New("link is gone")

const macLen = 6

// queue is how many bytes of frames, with the kernel's overhead of some 800 bytes
// each, wait for us at most. The default of 208 KiB is less than what a few hundred
// probes may bring back.
const queue = 1 << 20

// Socket is a packet socket on a link, in the runtime's poller. It stays in the
// link's namespace wherever it is used, and its methods may be called at the same
// time. After Close they return os.ErrClosed.
type Socket struct {
	file    *os.File
	raw     syscall.RawConn
	stopped atomic.Bool
}

// Listen opens a socket that gets the frames of a link that a filter lets pass, until it
// is closed; index 0 is all links of the namespace. What the namespace itself sends is
// left out unless outgoing is set (and on kernels before 4.20, where the filter has to
// do it).
//
// It is for ETH_P_ALL: only such sockets see what the rx_handler of a macvlan or
// ipvlan parent takes for a child, and what a namespace sends.
func Listen(l Link, program []bpf.Instruction, outgoing bool) (*Socket, error) {
	filter, err := assemble(program)
	if err != nil {
		return nil, err
	}
	return Open(l, unix.ETH_P_ALL, func(fd int) error {
		if !outgoing {
			err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1)
			if err != nil && !errors.Is(err, unix.ENOPROTOOPT) { // before 4.20; the filter does it
				return os.NewSyscallError("ignore outgoing", err)
			}
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, queue); err != nil {
			return os.NewSyscallError("receive buffer", err)
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_AUXDATA, 1); err != nil {
			return os.NewSyscallError("auxiliary data", err) // for ReadVLAN
		}
		program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
		return os.NewSyscallError("filter", unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &program))
	})
}

func assemble(program []bpf.Instruction) ([]unix.SockFilter, error) {
	raw, err := bpf.Assemble(program)
	if err != nil {
		return nil, fmt.Errorf("packet filter: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, r := range raw {
		filter[i] = unix.SockFilter{Code: r.Op, Jt: r.Jt, Jf: r.Jf, K: r.K}
	}
	return filter, nil
}

// Sender opens a socket that gets nothing.
func Sender(l Link) (*Socket, error) { return Open(l, 0, func(int) error { return nil }) }

// Open opens a packet socket and binds it once prepare is through, so that it never
// gets a frame that it should not.
func Open(l Link, protocol uint16, prepare func(fd int) error) (*Socket, error) {
	fd := -1
	err := inside(l.NS, func() error {
		var err error
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return os.NewSyscallError("packet socket", err)
	})
	if err != nil {
		return nil, err
	}
	p := &Socket{file: os.NewFile(uintptr(fd), "packet socket")}
	if err = prepare(fd); err == nil {
		err = os.NewSyscallError("bind", unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: networkOrder(protocol), Ifindex: l.Index}))
	}
	if err == nil {
		p.raw, err = p.file.SyscallConn()
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

// Close closes the socket. It takes an RCU grace period of the kernel's, some 20 ms.
func (p *Socket) Close() error { return p.file.Close() }

// Read waits for a frame. It returns ErrLinkGone when the link is gone for good; one
// that is only down may come up again, and the socket with it. After Stop it returns
// os.ErrDeadlineExceeded.
func (p *Socket) Read(buf []byte) (int, error) {
	for {
		n, err := p.file.Read(buf)
		if !errors.Is(err, unix.ENETDOWN) && (!errors.Is(err, os.ErrDeadlineExceeded) || p.stopped.Load()) {
			return n, err
		}
		// The kernel says when a link goes down, but not when one that is down goes
		// away, so from then on we look.
		if _, err := p.name(); err != nil {
			return 0, err
		}
		p.file.SetReadDeadline(time.Now().Add(lookAgain))
		if p.stopped.Load() { // it set another deadline just before
			return 0, os.ErrDeadlineExceeded
		}
	}
}

// ReadVLAN waits for a frame until Stop, and says which VLAN it came on by its outer tag,
// which the kernel has taken off; 0 is none. The socket is one of Listen's. A link that
// goes down ends it.
func (p *Socket) ReadVLAN(buf []byte) (n int, id uint16, err error) {
	var control [64]byte // has room for one tpacket_auxdata
	var used int
	if rerr := p.raw.Read(func(fd uintptr) bool {
		n, used, _, _, err = unix.Recvmsg(int(fd), buf, control[:], 0)
		return !errors.Is(err, unix.EAGAIN)
	}); rerr != nil {
		err = rerr
	}
	if err != nil {
		return 0, 0, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:used])
	for _, m := range messages {
		var a unix.TpacketAuxdata
		if m.Header.Type != unix.PACKET_AUXDATA {
			continue
		}
		if _, err = binary.Decode(m.Data, binary.NativeEndian, &a); err == nil && a.Status&unix.TP_STATUS_VLAN_VALID != 0 {
			id = a.Vlan_tci & 0xfff
		}
	}
	return n, id, err
}

// ReadUntil waits for a frame until a time, and returns os.ErrDeadlineExceeded then.
// It is not for a socket that Read or Stop is used on.
func (p *Socket) ReadUntil(buf []byte, end time.Time) (int, error) {
	p.file.SetReadDeadline(end)
	return p.file.Read(buf)
}

// lookAgain is how long a link may be gone before we see it.
const lookAgain = time.Second

// Stop ends Read, for good.
func (p *Socket) Stop() {
	p.stopped.Store(true)
	p.file.SetReadDeadline(time.Unix(1, 0))
}

// Send sends a frame at once or not at all: ENOBUFS and EAGAIN are a full queue,
// ENETDOWN and ENXIO a link that is down or gone.
func (p *Socket) Send(frame []byte) error {
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

// Mark sets the mark (SO_MARK) of what is sent from now on.
func (p *Socket) Mark(mark uint32) error {
	return p.control(func(fd int) error {
		return os.NewSyscallError("mark", unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_MARK, int(mark)))
	})
}

// MAC is the link's hardware address as it is now, which need not be the one it had when the
// socket was opened.
func (p *Socket) MAC() (net.HardwareAddr, error) {
	sa, err := p.name()
	switch {
	case err != nil:
		return nil, err
	case sa.Hatype != unix.ARPHRD_ETHER || sa.Halen != macLen:
		return nil, errors.New("not an Ethernet link")
	}
	return net.HardwareAddr(sa.Addr[:macLen]), nil
}

// Join and Leave have the link take frames for a MAC other than its own, a group's or one
// that no link has: hardware keeps those from it. They are counted, and Close leaves all.
// Both wait for the kernel's RTNL lock.
func (p *Socket) Join(mac net.HardwareAddr) error {
	return p.membership(unix.PACKET_ADD_MEMBERSHIP, mac)
}

func (p *Socket) Leave(mac net.HardwareAddr) error {
	return p.membership(unix.PACKET_DROP_MEMBERSHIP, mac)
}

// Promiscuous has the link take all frames that come, until Close. It waits for the kernel's
// RTNL lock.
func (p *Socket) Promiscuous() error {
	sa, err := p.name()
	if err != nil {
		return err
	}
	m := unix.PacketMreq{Ifindex: int32(sa.Ifindex), Type: unix.PACKET_MR_PROMISC}
	return p.control(func(fd int) error {
		return os.NewSyscallError("promiscuous mode", unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &m))
	})
}

func (p *Socket) membership(what int, mac net.HardwareAddr) error {
	sa, err := p.name()
	if err != nil {
		return err
	}
	if bytes.Equal(sa.Addr[:macLen], mac) {
		return nil // as a second one it would have some links go promiscuous
	}
	m := unix.PacketMreq{Ifindex: int32(sa.Ifindex), Type: unix.PACKET_MR_UNICAST, Alen: macLen}
	if copy(m.Address[:], mac); mac[0]&1 != 0 {
		m.Type = unix.PACKET_MR_MULTICAST
	}
	return p.control(func(fd int) error {
		return os.NewSyscallError("membership", unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, what, &m))
	})
}

// name is what the socket is bound to, ErrLinkGone if that is gone.
func (p *Socket) name() (*unix.SockaddrLinklayer, error) {
	var sa unix.Sockaddr
	err := p.control(func(fd int) error {
		var err error
		sa, err = unix.Getsockname(fd)
		return os.NewSyscallError("getsockname", err)
	})
	if err != nil {
		return nil, err
	}
	link := sa.(*unix.SockaddrLinklayer)
	if link.Ifindex <= 0 || link.Halen == 0 {
		return nil, ErrLinkGone
	}
	return link, nil
}

func (p *Socket) control(fn func(fd int) error) error {
	var err error
	if closed := p.raw.Control(func(fd uintptr) { err = fn(int(fd)) }); closed != nil {
		return os.ErrClosed
	}
	return err
}
