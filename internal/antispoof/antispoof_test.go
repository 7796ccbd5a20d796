package antispoof_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/antispoof"
	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/packet"
)

var (
	secret  = antispoof.Secret("secret")
	hostMAC = mac("02:00:00:00:00:e1")
	ownMAC  = mac("02:00:00:00:00:02")
	sibMAC  = mac("02:00:00:00:00:03")
	lanMAC  = mac("02:00:00:00:00:fe") // somebody on the LAN
	allMAC  = mac("ff:ff:ff:ff:ff:ff")

	own4, sib4, lan4 = addr("192.168.0.2"), addr("192.168.0.3"), addr("192.168.0.1")
	own6, sib6, lan6 = addr("fd00::2"), addr("fd00::3"), addr("fd00::1")
	ownLL, lanLL     = addr("fe80::ff:fe00:2"), addr("fe80::ff:fe00:fe")
	ownSLAAC         = addr("2001:db8::ff:fe00:2")
	none4, none6     = netip.IPv4Unspecified(), netip.IPv6Unspecified()
)

func mac(s string) net.HardwareAddr { m, _ := net.ParseMAC(s); return m }

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

// frame is something that a container sends.
type frame struct {
	what string
	raw  []byte
	may  bool
	seen []byte // by who gets it; nil: raw
}

func eth(from net.HardwareAddr, kind uint16, payload []byte) []byte {
	b := append(slices.Clone(allMAC), from...)
	return append(binary.BigEndian.AppendUint16(b, kind), payload...)
}

func arp(from, sender net.HardwareAddr, ip netip.Addr) []byte {
	b := []byte{0, 1, 8, 0, 6, 4, 0, 1}
	b = append(append(b, sender...), ip.AsSlice()...)
	b = append(append(b, make([]byte, 6)...), lan4.AsSlice()...)
	return eth(from, unix.ETH_P_ARP, append(b, make([]byte, 18)...))
}

func ip4(from net.HardwareAddr, src netip.Addr) []byte {
	b := make([]byte, 46)
	b[0], b[8], b[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(b[2:], 46)
	copy(b[12:], src.AsSlice())
	copy(b[16:], lan4.AsSlice())
	return eth(from, unix.ETH_P_IP, b)
}

// ip6 is a packet whose headers each begin with the kind of the next, the last with an ICMPv6 type.
func ip6(from net.HardwareAddr, src netip.Addr, next byte, payload ...[]byte) []byte {
	b := make([]byte, 8)
	all := bytes.Join(payload, nil)
	b[0], b[6], b[7] = 0x60, next, 255
	binary.BigEndian.PutUint16(b[4:], uint16(len(all)))
	b = append(append(b, src.AsSlice()...), addr("ff02::1").AsSlice()...)
	return eth(from, unix.ETH_P_IPV6, append(b, all...))
}

// icmp is an ICMPv6 message, of a type whose body has an address.
func icmp(kind byte, target netip.Addr) []byte {
	return append([]byte{kind, 0, 0, 0, 0, 0, 0, 0}, target.AsSlice()...)
}

// header is an extension header of 8 bytes.
func header(next byte) []byte { return []byte{next, 0, 1, 4, 0, 0, 0, 0} }

const (
	hopByHop, routing, fragment, icmpv6, destination = 0, 43, 44, 58, 60
	solicitation, advertisement, ra, rs, redirect    = 135, 136, 134, 133, 137
	report                                           = 143
)

// own and forged are what the container sends.
func own() []frame {
	var all []frame
	add := func(what string, raw []byte) { all = append(all, frame{what: what, raw: raw, may: true}) }
	add("IPv4", ip4(ownMAC, own4))
	add("ARP request", arp(ownMAC, ownMAC, own4))
	add("ARP probe", arp(ownMAC, ownMAC, none4))
	add("IPv6", ip6(ownMAC, own6, 17, make([]byte, 8)))
	add("IPv6, link-local", ip6(ownMAC, ownLL, icmpv6, icmp(128, own6)))
	add("IPv6, SLAAC", ip6(ownMAC, ownSLAAC, 6, make([]byte, 20)))
	add("duplicate address detection", ip6(ownMAC, none6, icmpv6, icmp(solicitation, own6)))
	add("neighbour solicitation", ip6(ownMAC, own6, icmpv6, icmp(solicitation, lan6)))
	add("neighbour advertisement", ip6(ownMAC, own6, icmpv6, icmp(advertisement, own6)))
	add("neighbour advertisement, link-local", ip6(ownMAC, ownLL, icmpv6, icmp(advertisement, ownLL)))
	add("router solicitation", ip6(ownMAC, ownLL, icmpv6, icmp(rs, none6)))
	add("report of a group", ip6(ownMAC, ownLL, hopByHop, header(icmpv6), icmp(report, none6)))
	add("fragment", ip6(ownMAC, own6, fragment, header(17), make([]byte, 16)))
	return all
}

func forged() []frame {
	var all []frame
	add := func(what string, raw []byte) { all = append(all, frame{what: what, raw: raw}) }
	for _, who := range []struct {
		name string
		mac  net.HardwareAddr
		ip4  netip.Addr
		ip6  netip.Addr
	}{{"a sibling", sibMAC, sib4, sib6}, {"somebody on the LAN", lanMAC, lan4, lan6}} {
		add("IPv4 as "+who.name, ip4(who.mac, who.ip4))
		add("ARP as "+who.name, arp(who.mac, who.mac, who.ip4))
		add("IPv6 as "+who.name, ip6(who.mac, who.ip6, 17, make([]byte, 8)))
		add("IPv4 with the MAC address of "+who.name, ip4(who.mac, own4))
		add("IPv4 with the address of "+who.name, ip4(ownMAC, who.ip4))
		add("ARP for the address of "+who.name, arp(ownMAC, ownMAC, who.ip4))
		add("ARP for the MAC address of "+who.name, arp(ownMAC, who.mac, own4))
		add("IPv6 with the address of "+who.name, ip6(ownMAC, who.ip6, 17, make([]byte, 8)))
		add("advertisement for "+who.name, ip6(ownMAC, own6, icmpv6, icmp(advertisement, who.ip6)))
		add("advertisement for "+who.name+" behind options", ip6(ownMAC, own6, destination, header(icmpv6), icmp(advertisement, who.ip6)))
	}
	add("IPv4 without an address", ip4(ownMAC, none4))
	add("IPv6 with a router's address", ip6(ownMAC, lanLL, icmpv6, icmp(128, own6)))
	add("advertisement for no address", ip6(ownMAC, own6, icmpv6, icmp(advertisement, none6)))
	add("router advertisement", ip6(ownMAC, ownLL, icmpv6, icmp(ra, none6)))
	add("router advertisement behind headers", ip6(ownMAC, ownLL, hopByHop, header(routing), header(destination), header(icmpv6), icmp(ra, none6)))
	add("redirect", ip6(ownMAC, ownLL, icmpv6, icmp(redirect, lan6)))
	add("more headers than are looked at", ip6(ownMAC, own6, hopByHop, header(destination), header(destination), header(destination), header(destination), header(17), make([]byte, 8)))
	untagged := ip4(ownMAC, own4)
	untagged[len(untagged)-1] = 1
	all = append(all, frame{what: "tagged", raw: eth(ownMAC, unix.ETH_P_8021Q, append([]byte{0, 100, 8, 0}, untagged[14:]...)), seen: untagged})
	add("another protocol", eth(ownMAC, 0x88cc, make([]byte, 46)))
	add("ARP for other links", eth(ownMAC, unix.ETH_P_ARP, append([]byte{0, 6, 8, 0, 6, 4, 0, 1}, make([]byte, 38)...)))
	add("a frame that is cut off", eth(ownMAC, unix.ETH_P_IP, []byte{0x45, 0, 0, 20}))
	return all
}

// lab is a host with a container on its eth1, and the LAN at the other end.
type lab struct {
	host, lan, container *kerneltest.Host
	links                *link.Links // the host's
	inside               *link.Container
	eth0                 *link.Inside
	eth1                 int
}

func newLab(t *testing.T, child string, mac net.HardwareAddr) *lab {
	t.Helper()
	l := &lab{host: kerneltest.New(t), lan: kerneltest.New(t), container: kerneltest.New(t)}
	l.host.IP("link add eth1 address %s type veth peer name wire netns %s", hostMAC, l.lan.Path())
	for _, h := range []*kerneltest.Host{l.lan, l.container, l.host} {
		_ = h.NS.Do(func() error { // nobody speaks but us
			return os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("1"), 0o644)
		})
	}
	l.lan.IP("link set wire up")
	l.host.IP("link set eth1 up")
	address := ""
	if mac != nil {
		address = "address " + mac.String()
	}
	l.host.IP("link add link eth1 name eth0 %s netns %s type %s", address, l.container.Path(), child)
	l.container.IP("link set eth0 up")
	var err error
	if l.links, err = link.NewAt(l.host.NS); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.links.Close)
	if l.inside, err = link.OpenContainer(l.container.Path()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.inside.Close() })
	l.eth0 = &link.Inside{Index: index(t, l.container, "eth0")}
	l.eth1 = index(t, l.host, "eth1")
	return l
}

func index(t *testing.T, h *kerneltest.Host, name string) (n int) {
	t.Helper()
	if err := h.NS.Do(func() error {
		i, err := net.InterfaceByName(name)
		if err == nil {
			n = i.Index
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return n
}

// guard puts a child's program on the container's link.
func (l *lab) guard(t *testing.T, o antispoof.Own) {
	t.Helper()
	p, err := antispoof.Child(o, secret)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := l.inside.Filter(l.eth0, p.FD()); err != nil {
		t.Fatal(err)
	}
}

// port puts a port on the parent.
func (l *lab) port(t *testing.T) *antispoof.Port {
	t.Helper()
	p, err := antispoof.NewPort(secret)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	if err := l.links.Filter(l.eth1, p.FD()); err != nil {
		t.Fatal(err)
	}
	return p
}

// undo takes the child's program off, as a container with CAP_NET_ADMIN can.
func (l *lab) undo(t *testing.T) {
	t.Helper()
	if err := l.inside.Unfilter(l.eth0); err != nil {
		t.Fatal(err)
	}
	if on, err := l.inside.Filtered(l.eth0); err != nil || on {
		t.Fatal("filter still there", err)
	}
}

// check sends frames by a link and compares which come to the wire of a host with what the frames may.
func check(t *testing.T, from, at packet.Link, mark uint32, frames []frame) {
	t.Helper()
	ear, err := packet.Listen(at, []bpf.Instruction{bpf.RetConstant{Val: 2000}}, false)
	if err != nil {
		t.Fatal(err)
	}
	defer ear.Close()
	s, err := packet.Sender(from)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Mark(mark); err != nil {
		t.Fatal(err)
	}
	for _, f := range frames {
		// A filter that drops says ENOBUFS.
		if err := s.Send(f.raw); err != nil && f.may {
			t.Errorf("%s: %v", f.what, err)
		}
	}
	came := map[string]bool{}
	buf := make([]byte, 2000)
	for end := time.Now().Add(300 * time.Millisecond); ; {
		n, err := ear.ReadUntil(buf, end)
		if err != nil {
			break
		}
		came[string(buf[:n])] = true
	}
	for _, f := range frames {
		if f.seen == nil {
			f.seen = f.raw
		}
		if came[string(f.seen)] != f.may {
			t.Errorf("%s: came %v, may %v", f.what, came[string(f.seen)], f.may)
		}
	}
}

// none are frames none of which may come, all all may.
func none(frames []frame) []frame { return every(frames, false) }

func every(frames []frame, may bool) (out []frame) {
	for _, f := range frames {
		f.may = may
		out = append(out, f)
	}
	return out
}

func (l *lab) wire(t *testing.T) packet.Link {
	return packet.Link{NS: l.lan.NS, Index: index(t, l.lan, "wire")}
}

func (l *lab) out() packet.Link { return packet.Link{NS: l.container.NS, Index: l.eth0.Index} }

var me = antispoof.Own{MAC: ownMAC, Addrs: []netip.Addr{own4, own6}}

// A container cannot send as anybody else, to the LAN and to its siblings.
func TestContainerThatTries(t *testing.T) {
	l := newLab(t, "macvlan mode bridge", ownMAC)
	sibling := kerneltest.New(t)
	l.host.IP("link add link eth1 name sib address %s netns %s type macvlan mode bridge", sibMAC, sibling.Path())
	sibling.IP("link set sib up")
	all := append(own(), forged()...)
	check(t, l.out(), l.wire(t), 0, every(all[:len(all)-1], true)) // what it is about
	l.guard(t, me)
	p := l.port(t)
	if err := p.Put(me, false); err != nil {
		t.Fatal(err)
	}
	check(t, l.out(), l.wire(t), 0, all)
	check(t, l.out(), packet.Link{NS: sibling.NS, Index: index(t, sibling, "sib")}, 0, all)
	check(t, l.out(), l.wire(t), 4711, all)
}

// With CAP_NET_ADMIN it can take its program off, and then nothing that is told apart from the
// host's leaves the host, whatever it knows.
func TestContainerThatUndoesIt(t *testing.T) {
	l := newLab(t, "macvlan mode bridge", ownMAC)
	l.guard(t, me)
	p := l.port(t)
	if err := p.Put(me, false); err != nil {
		t.Fatal(err)
	}
	if err := p.Exempt([]net.HardwareAddr{hostMAC}); err != nil {
		t.Fatal(err)
	}
	token := l.learn(t, ip4(ownMAC, own4))
	if token == 0 || l.learn(t, ip6(ownMAC, own6, 17, make([]byte, 8))) == token {
		t.Fatalf("token %#x", token)
	}
	l.undo(t)
	all := append(own(), forged()...)
	check(t, l.out(), l.wire(t), 0, none(all))
	check(t, l.out(), l.wire(t), 1, none(all))
	learnt := none(all)
	for i := range learnt {
		learnt[i].may = slices.Contains([]string{"IPv4", "ARP request"}, learnt[i].what) // of the pair that it was learnt of
	}
	for i := range learnt {
		// Its own address for its own MAC address, and nothing of what the child's program alone can see.
		if learnt[i].what == "ARP for the MAC address of a sibling" || learnt[i].what == "ARP for the MAC address of somebody on the LAN" || learnt[i].what == "a frame that is cut off" {
			learnt[i].may = strings.HasPrefix(learnt[i].what, "ARP")
		}
	}
	check(t, l.out(), l.wire(t), token, learnt)
	// Docs say so: the host's own MAC address is not told from it.
	check(t, l.out(), l.wire(t), 0, []frame{{what: "IPv4 as the host", raw: ip4(hostMAC, lan4), may: true}})
	// A second link of its own making has no program.
	l.container.IP("link add link eth0 name more address 02:00:00:00:00:77 type macvlan mode bridge")
	l.container.IP("link set more up")
	more := packet.Link{NS: l.container.NS, Index: index(t, l.container, "more")}
	check(t, more, l.wire(t), token, []frame{{what: "from a second link", raw: ip4(mac("02:00:00:00:00:77"), own4), may: false}})
}

// learn is the mark of a frame after the child's program, found out with a filter as any
// container can set one (SKF_AD_MARK).
func (l *lab) learn(t *testing.T, frame []byte) (mark uint32) {
	t.Helper()
	for bit := range 32 {
		ear, err := packet.Listen(l.out(), []bpf.Instruction{
			bpf.LoadExtension{Num: 20}, // SKF_AD_MARK
			bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 1 << bit, SkipFalse: 1},
			bpf.RetConstant{Val: 2000}, bpf.RetConstant{},
		}, true)
		if err != nil {
			t.Fatal(err)
		}
		s, err := packet.Sender(l.out())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Send(frame); err != nil {
			t.Fatal(err)
		}
		if _, err := ear.ReadUntil(make([]byte, 2000), time.Now().Add(30*time.Millisecond)); err == nil {
			mark |= 1 << bit
		}
		s.Close()
		ear.Close()
	}
	return mark
}

// What a port goes by changes while it is there.
func TestPort(t *testing.T) {
	l := newLab(t, "macvlan mode bridge", ownMAC)
	p := l.port(t)
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	all := append(own(), forged()...)
	check(t, l.out(), l.wire(t), 0, none(all))
	// A container that starts has no program of its own yet, and can send as itself.
	ok(p.Put(me, true))
	early := own()
	early = append(early, frame{what: "IPv4 as a sibling", raw: ip4(sibMAC, sib4), may: false}, frame{what: "IPv4 with the address of a sibling", raw: ip4(ownMAC, sib4), may: false})
	check(t, l.out(), l.wire(t), 0, early)
	// The lease's address changes.
	now := antispoof.Own{MAC: ownMAC, Addrs: []netip.Addr{sib4, own6}}
	ok(p.Put(now, true))
	ok(p.Drop(me, &now))
	check(t, l.out(), l.wire(t), 0, []frame{
		{what: "the old address", raw: ip4(ownMAC, own4), may: false}, {what: "the new address", raw: ip4(ownMAC, sib4), may: true},
		{what: "IPv6", raw: ip6(ownMAC, own6, 17, make([]byte, 8)), may: true}, {what: "ARP probe", raw: arp(ownMAC, ownMAC, none4), may: true},
	})
	ok(p.Put(now, false))
	check(t, l.out(), l.wire(t), 0, none(all))
	ok(p.Drop(now, nil))
	ok(p.Exempt([]net.HardwareAddr{ownMAC, lanMAC}))
	check(t, l.out(), l.wire(t), 0, []frame{{what: "exempt", raw: ip4(ownMAC, sib4), may: true}, {what: "exempt", raw: arp(lanMAC, lanMAC, lan4), may: true}, {what: "not", raw: ip4(sibMAC, sib4), may: false}})
	ok(p.Exempt([]net.HardwareAddr{sibMAC}))
	check(t, l.out(), l.wire(t), 0, []frame{{what: "exempt", raw: ip4(sibMAC, sib4), may: true}, {what: "no more", raw: ip4(ownMAC, sib4), may: false}})
	check(t, l.out(), l.wire(t), secret.Daemon(), every(all[:len(all)-1], true))
	// Closed, it stays on the parent; taken off, nothing of it stays.
	p.Close()
	check(t, l.out(), l.wire(t), 0, []frame{{what: "exempt", raw: ip4(sibMAC, sib4), may: true}, {what: "no more", raw: ip4(ownMAC, sib4), may: false}})
	ok(l.links.Unfilter(l.eth1))
	check(t, l.out(), l.wire(t), 0, every(all[:len(all)-1], true))
	if out := qdiscs(t, l.host); strings.Contains(out, "clsact") {
		t.Error(out)
	}
}

func qdiscs(t *testing.T, h *kerneltest.Host) string {
	t.Helper()
	return h.TC("qdisc show") + h.TC("filter show dev eth1 egress")
}

// Filters of others are asked after ours, and outlast it.
func TestOthersFilters(t *testing.T) {
	l := newLab(t, "macvlan mode bridge", ownMAC)
	l.host.TC("qdisc add dev eth1 clsact")
	theirs, err := antispoof.Child(antispoof.Own{MAC: ownMAC, Addrs: []netip.Addr{own4}}, secret)
	if err != nil {
		t.Fatal(err)
	}
	l.others(t, theirs.FD())
	p := l.port(t)
	if err := p.Put(me, true); err != nil {
		t.Fatal(err)
	}
	check(t, l.out(), l.wire(t), 0, []frame{
		{what: "both let it pass", raw: ip4(ownMAC, own4), may: true},
		{what: "ours does not", raw: arp(ownMAC, ownMAC, sib4)},
		{what: "theirs does not", raw: ip6(ownMAC, own6, 17, make([]byte, 8))},
	})
	if err := l.links.Unfilter(l.eth1); err != nil {
		t.Fatal(err)
	}
	check(t, l.out(), l.wire(t), 0, []frame{{what: "IPv4", raw: ip4(ownMAC, own4), may: true}, {what: "theirs does not", raw: ip6(ownMAC, own6, 17, make([]byte, 8))}})
}

// others puts a filter of somebody else's on the parent.
func (l *lab) others(t *testing.T, program int) {
	t.Helper()
	h, err := netlink.NewHandleAt(netns.NsHandle(l.host.NS.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.FilterAdd(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: l.eth1, Parent: netlink.HANDLE_MIN_EGRESS, Handle: 1, Priority: 7, Protocol: unix.ETH_P_ALL},
		Fd:          program, Name: "theirs", DirectAction: true,
	}); err != nil {
		t.Fatal(err)
	}
}

// ipvlan links have their parent's MAC address, and IPv6 addresses with the slave's number.
func TestSharedMAC(t *testing.T) {
	kerneltest.Need(t, "ipvlan")
	for _, mode := range []string{"l2", "l3", "l3s"} {
		t.Run(mode, func(t *testing.T) {
			l := newLab(t, "ipvlan mode "+mode, nil)
			o := antispoof.Own{MAC: hostMAC, Addrs: []netip.Addr{own4, own6}, Shared: true}
			l.guard(t, o)
			frames := []frame{
				{what: "IPv4", raw: ip4(hostMAC, own4), may: true}, {what: "ARP request", raw: arp(hostMAC, hostMAC, own4), may: true},
				{what: "link-local", raw: ip6(hostMAC, addr("fe80::200:0:100:e1"), 17, make([]byte, 8)), may: true},
				{what: "IPv4 with the address of a sibling", raw: ip4(hostMAC, sib4), may: false}, {what: "ARP for a sibling's address", raw: arp(hostMAC, hostMAC, sib4), may: false},
				{what: "another MAC address", raw: ip4(lanMAC, own4), may: false},
				{what: "a router's address", raw: ip6(hostMAC, lanLL, icmpv6, icmp(128, own6)), may: false},
				{what: "the host's link-local address", raw: ip6(hostMAC, addr("fe80::ff:fe00:e1"), icmpv6, icmp(128, own6)), may: false},
			}
			if mode != "l2" {
				// The kernel routes what comes out: that it is stopped before is what there is to see.
				frames = none(frames)
			}
			check(t, l.out(), l.wire(t), 0, frames)
		})
	}
}

// The programs pass the kernel's verifier with as many addresses as a container can have.
func TestManyAddresses(t *testing.T) {
	o := antispoof.Own{MAC: ownMAC}
	for i := range 64 {
		o.Addrs = append(o.Addrs, addr(fmt.Sprintf("10.0.0.%d", i+1)), addr(fmt.Sprintf("fd00::%x", i+1)))
	}
	if os.Geteuid() != 0 {
		t.Skip("not root")
	}
	p, err := antispoof.Child(o, secret)
	if err != nil {
		t.Fatal(err)
	}
	p.Close()
}
