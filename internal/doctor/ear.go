package doctor

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/acd"
	"github.com/lanyard-net/lanyard/internal/dhcp"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/packet"
)

// A wire is asked by frames that a packet socket sends on its lowest link, with the VLAN tags in them, and heard by the
// same socket: nothing is made for it, and a VLAN can be asked before there is a sub-interface. What is sent there does
// not reach this host's own containers, so whoever answers for an address of theirs is somebody else.

// heard is what came from a wire.
type heard struct {
	// own and fresh are the MAC addresses that were asked from: the host's, and one that the LAN has not seen.
	own, fresh net.HardwareAddr
	gateways   []netip.Addr // that were asked for
	// frames counts what came by tag, "" for none; only what goes to all, and answers.
	frames map[string]int
	// toOwn and toFresh are the MAC addresses that said to have an address, to either.
	toOwn, toFresh map[netip.Addr][]net.HardwareAddr
	offers         []dhcp.Offer
	routers        []router
	// astray are answers that came with another tag than they were asked with: "without a tag".
	astray []string
	// sent says what was asked.
	sent []string
	err  error
}

// router is one that advertises itself.
type router struct {
	from     netip.Addr
	via      net.HardwareAddr
	lifetime time.Duration // as a default router; 0: it is none
	prefixes []netip.Prefix
	slaac    bool // a prefix is for addresses of one's own (A flag)
	managed  bool // M flag: addresses come by DHCPv6
}

// question is what a wire is asked.
type question struct {
	w *wire
	// gateways are asked from both MAC addresses, thrice; addrs of containers from the host's, twice.
	gateways, addrs []netip.Addr
	dhcp, routers   bool
	heard           *heard
}

const (
	ethLen  = 14
	tagLen  = 4
	maxAsk  = 256 // addresses of a wire that are asked for
	maxHear = 2048
)

// allNodes is where routers advertise themselves, and who is asked for an IPv6 address says so (RFC 2464 section 7).
var allNodes = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}

// listen asks wires of one base their questions, and hears what comes for a time. It blocks for that time; the errors
// are the kernel's.
func listen(ctx context.Context, at packet.Link, questions []*question, d time.Duration) error {
	own, err := hardwareOf(at)
	if err != nil {
		return err
	}
	fresh := lan.LocalMAC([]byte("lanyard doctor " + own.String()))
	sock, err := packet.Listen(at, filterFor(fresh), false)
	if err != nil {
		return err
	}
	defer sock.Close()
	if err := sock.Join(fresh); err != nil {
		return err
	}
	if slices.ContainsFunc(questions, func(q *question) bool { return !q.w.made && len(q.w.tags) > 0 }) {
		// Hardware drops what has a tag that no sub-interface is for.
		if err := sock.Promiscuous(); err != nil {
			return err
		}
	}
	if err := sock.Join(allNodes); err != nil {
		return err
	}
	var xid [4]byte
	rand.Read(xid[:])
	counts := map[string]int{}
	for _, q := range questions {
		q.heard = &heard{own: own, fresh: fresh, gateways: q.gateways, frames: counts, toOwn: map[netip.Addr][]net.HardwareAddr{}, toFresh: map[netip.Addr][]net.HardwareAddr{}}
	}
	done := make(chan error, 1)
	go func() { done <- ask(ctx, sock, questions, xid, d) }()
	time.AfterFunc(d, sock.Stop)
	stop := context.AfterFunc(ctx, sock.Stop)
	defer stop()
	buf := make([]byte, maxHear)
	for {
		n, id, err := sock.ReadVLAN(buf)
		if err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				<-done
				return err
			}
			return <-done
		}
		tags, frame := untag(buf[:n], id)
		counts[tags]++
		for _, q := range questions {
			q.hear(tags, frame, xid)
		}
	}
}

func hardwareOf(at packet.Link) (net.HardwareAddr, error) {
	s, err := packet.Sender(at)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.MAC()
}

// untag takes the tags off a frame that the kernel has left, and says all that it had.
func untag(b []byte, outer uint16) (string, []byte) {
	var tags []lan.Tag
	if outer != 0 {
		tags = append(tags, lan.Tag{ID: outer})
	}
	for len(b) >= ethLen+tagLen {
		proto := binary.BigEndian.Uint16(b[12:])
		if proto != unix.ETH_P_8021Q && proto != unix.ETH_P_8021AD {
			break
		}
		if id := binary.BigEndian.Uint16(b[14:]) & 0xfff; id != 0 {
			tags = append(tags, lan.Tag{ID: id})
		}
		b = slices.Concat(b[:12], b[16:])
	}
	return lan.TagIDs(tags), b
}

// tagged puts a wire's tags into a frame.
func (w *wire) tagged(frame []byte) []byte {
	b := slices.Clone(frame[:12])
	for _, t := range w.tags {
		b = binary.BigEndian.AppendUint16(b, uint16(t.Proto))
		b = binary.BigEndian.AppendUint16(b, t.ID)
	}
	return append(b, frame[12:]...)
}

// ask sends the questions of all wires, spread over the first half of the time.
func ask(ctx context.Context, sock *packet.Socket, questions []*question, xid [4]byte, d time.Duration) error {
	const rounds = 3
	for round := range rounds {
		for _, q := range questions {
			for _, frame := range q.frames(round, xid) {
				if err := sock.Send(q.w.tagged(frame)); errors.Is(err, unix.ENOBUFS) || errors.Is(err, unix.EAGAIN) {
					time.Sleep(time.Millisecond) // the queue is full: this one is lost
				} else if err != nil {
					return err
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(d / 2 / rounds):
		}
	}
	return nil
}

// frames are those of a round.
func (q *question) frames(round int, xid [4]byte) (list [][]byte) {
	h := q.heard
	add := func(frame []byte, err error) {
		if err == nil {
			list = append(list, frame)
		}
	}
	for _, a := range q.gateways {
		add(acd.Ask(h.own, a))
		if a.Is4() { // an answer of IPv6 goes to all
			add(acd.Ask(h.fresh, a))
		}
	}
	if round < 2 {
		for _, a := range q.addrs {
			add(acd.Ask(h.own, a))
		}
		if q.dhcp {
			add(dhcp.Discover(h.fresh, xid))
		}
		if q.routers {
			add(acd.AskRouters(h.own))
		}
	}
	if round == 0 {
		if len(q.gateways) > 0 {
			h.sent = append(h.sent, fmt.Sprintf("who has %s, from %s (this host) and %s (new)", addrTexts(q.gateways), h.own, h.fresh))
		}
		if q.dhcp {
			h.sent = append(h.sent, "DHCPDISCOVER")
		}
		if q.routers {
			h.sent = append(h.sent, "router solicitation")
		}
	}
	return list
}

func addrTexts(addrs []netip.Addr) string {
	var list []string
	for _, a := range addrs {
		list = append(list, a.String())
	}
	return some(list)
}

// hear takes in a frame that came with tags.
func (q *question) hear(tags string, frame []byte, xid [4]byte) {
	h := q.heard
	mine := tags == lan.TagIDs(q.w.tags)
	if s, ok := acd.Said(frame); ok && (slices.Contains(q.gateways, s.Addr) || slices.Contains(q.addrs, s.Addr)) {
		to := h.toOwn
		if dst := net.HardwareAddr(frame[:6]); slices.Equal(dst, h.fresh) {
			to = h.toFresh
		}
		has := func(m net.HardwareAddr) bool { return slices.Equal(m, s.MAC) }
		switch {
		case mine && !slices.ContainsFunc(to[s.Addr], has):
			to[s.Addr] = append(to[s.Addr], s.MAC)
		case !mine && (slices.Equal(frame[:6], h.own) || slices.Equal(frame[:6], h.fresh)):
			h.stray(tags, "the answer of "+s.Addr.String())
		}
	}
	if o, ok := dhcp.Offered(frame, h.fresh, xid); ok && q.dhcp {
		same := func(p dhcp.Offer) bool { return p.Server == o.Server && slices.Equal(p.Via, o.Via) }
		if mine && !slices.ContainsFunc(h.offers, same) {
			h.offers = append(h.offers, o)
		}
	}
	if r, ok := advertised(frame); ok && mine && !slices.ContainsFunc(h.routers, func(p router) bool { return p.from == r.from }) {
		h.routers = append(h.routers, r)
	}
}

func (h *heard) stray(tags, what string) {
	where := "with tag " + tags
	if tags == "" {
		where = "without a tag"
	}
	if text := what + " came " + where; !slices.Contains(h.astray, text) && len(h.astray) < 4 {
		h.astray = append(h.astray, text)
	}
}

// filterFor lets pass what goes to all or to a group, what goes to a MAC address, and ARP.
func filterFor(mac net.HardwareAddr) []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 1, SkipTrue: 6},
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_ARP, SkipTrue: 4},
		bpf.LoadAbsolute{Off: 0, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: binary.BigEndian.Uint32(mac), SkipTrue: 3},
		bpf.LoadAbsolute{Off: 4, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(binary.BigEndian.Uint16(mac[4:])), SkipTrue: 1},
		bpf.RetConstant{Val: maxHear},
		bpf.RetConstant{Val: 0},
	}
}

// Where things are in an IPv6 packet.
const (
	ipv6Len    = 40
	offNext    = ethLen + 6
	offHops    = ethLen + 7
	offSource  = ethLen + 8
	offMessage = ethLen + ipv6Len
)

// advertised reads a router's advertisement.
func advertised(b []byte) (r router, ok bool) {
	if len(b) < offMessage || binary.BigEndian.Uint16(b[12:]) != unix.ETH_P_IPV6 || b[offNext] != unix.IPPROTO_ICMPV6 || b[offHops] != ndp.HopLimit {
		return r, false
	}
	length := int(binary.BigEndian.Uint16(b[ethLen+4:]))
	if length > len(b)-offMessage {
		return r, false
	}
	m, err := ndp.ParseMessage(b[offMessage : offMessage+length])
	if err != nil {
		return r, false
	}
	ra, ok := m.(*ndp.RouterAdvertisement)
	if !ok {
		return r, false
	}
	r = router{from: netip.AddrFrom16([16]byte(b[offSource:])), via: slices.Clone(net.HardwareAddr(b[6:12])), lifetime: ra.RouterLifetime, managed: ra.ManagedConfiguration}
	if !r.from.IsLinkLocalUnicast() {
		return r, false // RFC 4861 section 6.1.2
	}
	for _, o := range ra.Options {
		p, ok := o.(*ndp.PrefixInformation)
		if !ok {
			continue
		}
		if len(r.prefixes) < 16 {
			r.prefixes = append(r.prefixes, netip.PrefixFrom(p.Prefix, int(p.PrefixLength)).Masked())
		}
		r.slaac = r.slaac || p.AutonomousAddressConfiguration
	}
	return r, true
}
