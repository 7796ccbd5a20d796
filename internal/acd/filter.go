package acd

import (
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/packet"
)

// maxFrame is how much of a frame we read, in bytes: the longest that Ethernet
// without jumbo frames has.
const maxFrame = 1514

// way is which frames of a link a socket gets, by the skb's pkt_type.
type way struct {
	test bpf.JumpTest
	kind uint32
	icmp uint32 // lowest ICMPv6 type of interest; typeNA is the highest
}

var (
	// incoming: all that comes in. PACKET_IGNORE_OUTGOING says the same more
	// cheaply, but kernels before 4.20 lack it.
	incoming = way{bpf.JumpNotEqual, unix.PACKET_OUTGOING, typeNS}
	// direct: what comes in for the link's own MAC. The rest comes to the probe
	// link too.
	direct = way{bpf.JumpEqual, unix.PACKET_HOST, typeNS}
	// outgoing: what the namespace sends to announce an address.
	outgoing = way{bpf.JumpEqual, unix.PACKET_OUTGOING, typeNA}
)

// filter lets ARP for IPv4 on Ethernet pass, and neighbour solicitations and
// advertisements that have not passed a router.
//
// A frame with a VLAN tag belongs to another wire, but a socket for ETH_P_ALL gets
// it with the tag beside it (the kernel takes it off before the taps look), and so
// does a macvlan link if no VLAN link takes it first. A tag with id 0 holds only a
// priority and is no VLAN (802.1Q 9.6).
func (w way) filter() []bpf.Instruction {
	return []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: w.test, Val: w.kind, SkipFalse: 20},
		bpf.LoadExtension{Num: bpf.ExtVLANTagPresent},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 3},
		bpf.LoadExtension{Num: bpf.ExtVLANTag},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: 0xfff},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 15},

		bpf.LoadAbsolute{Off: 2 * macLen, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IPV6, SkipTrue: 5},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_ARP, SkipTrue: 12},
		bpf.LoadAbsolute{Off: ethLen, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: arpFixed >> 16, SkipTrue: 10},
		bpf.LoadAbsolute{Off: ethLen + 4, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: arpFixed & 0xffff, SkipTrue: 7, SkipFalse: 8},

		bpf.LoadAbsolute{Off: offNext, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_ICMPV6, SkipTrue: 6},
		bpf.LoadAbsolute{Off: offHops, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: hopLimit, SkipTrue: 4},
		bpf.LoadAbsolute{Off: offICMP, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpGreaterThan, Val: typeNA, SkipTrue: 2},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: w.icmp, SkipTrue: 1},

		bpf.RetConstant{Val: maxFrame},
		bpf.RetConstant{Val: 0},
	}
}

// listen opens a socket that gets the frames of a link that w lets pass.
func listen(l Link, w way) (*port, error) { return packet.Listen(l, w.filter(), w == outgoing) }
