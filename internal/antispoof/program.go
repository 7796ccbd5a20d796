package antispoof

import (
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// What a program of cls_bpf in direct action returns (linux/pkt_cls.h).
const (
	actPass = -1 // TC_ACT_UNSPEC: the next filter decides
	actDrop = 2  // TC_ACT_SHOT
)

// Offsets in struct __sk_buff (linux/bpf.h).
const (
	skbMark        = 8
	skbVLANPresent = 20
)

// Offsets in a frame.
const (
	ethSource = 6
	ethLen    = 14

	arpType       = ethLen
	arpSenderMAC  = ethLen + 8
	arpSenderIP   = ethLen + 14
	ip4Source     = ethLen + 12
	ip6NextHeader = ethLen + 6
	ip6Source     = ethLen + 8
	ip6Len        = 40
	ndpTarget     = 8 // in a neighbour advertisement
)

// Of IPv6's next headers and ICMPv6's types, those that matter.
const (
	routerAdvertisement    = 134
	neighbourAdvertisement = 136
	redirect               = 137
)

// maxHeaders is how many extension headers may stand before what a packet is about.
const maxHeaders = 4

// Offsets on the programs' stacks.
const (
	onStackEth  = -8  // source MAC address and EtherType
	onStackAddr = -24 // an address
	onStackTmp  = -32
	onStackPair = -56 // a key of pairs
)

// ctx holds struct __sk_buff all along.
const ctx = asm.R6

func load(name string, p asm.Instructions) (*ebpf.Program, error) {
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: name, Type: ebpf.SchedCLS, Instructions: p, License: "BSD"})
	if err != nil {
		return nil, fmt.Errorf("eBPF program %s: %w", name, err)
	}
	return prog, nil
}

// builder writes a program. Labels that several places jump to: pass and drop.
type builder struct {
	asm.Instructions
	label string // of the next instruction
	count int
}

func (b *builder) add(is ...asm.Instruction) {
	for _, i := range is {
		if b.label != "" {
			i, b.label = i.WithSymbol(b.label), ""
		}
		b.Instructions = append(b.Instructions, i)
	}
}

// unique makes a label.
func (b *builder) unique(name string) string {
	b.count++
	return fmt.Sprintf("%s%d", name, b.count)
}

// at gives the next instruction a label.
func (b *builder) at(label string) {
	if b.label != "" {
		b.add(asm.Mov.Reg(ctx, ctx))
	}
	b.label = label
}

// load copies n bytes of the frame, from an offset or the one in a register, to the stack.
// A frame that is shorter is dropped. R0 to R5 are lost.
func (b *builder) load(from, n, to int32) {
	b.add(asm.Mov.Imm(asm.R2, from))
	b.loadR2(n, to)
}

func (b *builder) loadR2(n, to int32) {
	b.add(
		asm.Mov.Reg(asm.R1, ctx),
		asm.Mov.Reg(asm.R3, asm.RFP), asm.Add.Imm(asm.R3, to),
		asm.Mov.Imm(asm.R4, n),
		asm.FnSkbLoadBytes.Call(),
		asm.JNE.Imm(asm.R0, 0, "drop"),
	)
}

// unless jumps where what is on the stack is not these 2, 4 or 8 bytes.
func (b *builder) unless(at int16, is []byte, label string) {
	size, want := asm.Half, uint64(0)
	switch len(is) {
	case 2:
		want = uint64(binary.NativeEndian.Uint16(is))
	case 4:
		size, want = asm.Word, uint64(binary.NativeEndian.Uint32(is))
	case 8:
		size, want = asm.DWord, binary.NativeEndian.Uint64(is)
	}
	b.add(asm.LoadMem(asm.R1, asm.RFP, at, size), asm.LoadImm(asm.R2, int64(want), asm.DWord), asm.JNE.Reg(asm.R1, asm.R2, label))
}

// unlessType jumps where the frame's EtherType is another one.
func (b *builder) unlessType(t uint16, label string) {
	b.unless(onStackEth+6, binary.BigEndian.AppendUint16(nil, t), label)
}

// unlessMAC jumps where what is on the stack is not this MAC address.
func (b *builder) unlessMAC(at int16, mac []byte, label string) {
	b.unless(at, mac[:4], label)
	b.unless(at+4, mac[4:], label)
}

// one jumps to found, with the pair's token in R8, where the address on the stack is one of
// these, and goes on otherwise.
func (b *builder) one(o Own, senders []sender, s Secret, found string) {
	for _, a := range senders {
		next := b.unique("next")
		if a.addr.Is4() {
			b.unless(onStackAddr, a.addr.AsSlice(), next)
		} else {
			for half := range 2 {
				is := a.addr.AsSlice()[8*half : 8*half+8]
				if a.mask == ([16]byte{}) {
					b.unless(onStackAddr+8*int16(half), is, next)
					continue
				}
				mask := binary.NativeEndian.Uint64(a.mask[8*half:])
				if mask == 0 {
					continue
				}
				b.add(
					asm.LoadMem(asm.R1, asm.RFP, onStackAddr+8*int16(half), asm.DWord),
					asm.LoadImm(asm.R2, int64(mask), asm.DWord), asm.And.Reg(asm.R1, asm.R2),
					asm.LoadImm(asm.R2, int64(binary.NativeEndian.Uint64(is)), asm.DWord), asm.JNE.Reg(asm.R1, asm.R2, next),
				)
			}
		}
		b.add(asm.LoadImm(asm.R8, int64(s.token(o.pair(a))), asm.DWord), asm.Ja.Label(found))
		b.at(next)
	}
}

// childProgram drops what has another sender than the container, and marks what it lets pass.
func childProgram(o Own, s Secret) asm.Instructions {
	var v4, v6 []sender
	for _, a := range o.senders() {
		if a.addr.Is4() {
			v4 = append(v4, a)
		} else {
			v6 = append(v6, a)
		}
	}
	b := &builder{}
	b.add(
		asm.Mov.Reg(ctx, asm.R1),
		asm.LoadMem(asm.R0, ctx, skbVLANPresent, asm.Word), asm.JNE.Imm(asm.R0, 0, "drop"),
	)
	b.load(ethSource, 8, onStackEth)
	b.unlessMAC(onStackEth, o.MAC, "drop")

	b.unlessType(unix.ETH_P_IP, "arp")
	b.load(ip4Source, 4, onStackAddr)
	b.one(o, v4[1:], s, "pass") // not from 0.0.0.0
	b.add(asm.Ja.Label("drop"))

	b.at("arp")
	b.unlessType(unix.ETH_P_ARP, "ip6")
	b.load(arpType, 8, onStackTmp)
	b.unless(onStackTmp, []byte{0, 1, 8, 0}, "drop") // Ethernet and IPv4, with
	b.unless(onStackTmp+4, []byte{6, 4}, "drop")     // addresses of these lengths
	b.load(arpSenderMAC, 6, onStackTmp)
	b.unlessMAC(onStackTmp, o.MAC, "drop")
	b.load(arpSenderIP, 4, onStackAddr)
	b.one(o, v4, s, "pass")
	b.add(asm.Ja.Label("drop"))

	b.at("ip6")
	b.unlessType(unix.ETH_P_IPV6, "drop")
	b.load(ip6Source, 16, onStackAddr)
	b.one(o, v6, s, "headers")
	b.add(asm.Ja.Label("drop"))
	b.at("headers")
	b.neighbour(o, v6, s)

	b.at("pass")
	if !o.Shared {
		b.add(asm.StoreMem(ctx, skbMark, asm.R8, asm.Word))
	}
	b.end()
	return b.Instructions
}

// neighbour goes on to pass unless an IPv6 packet redirects others (RFC 4861): as a router, or
// by an advertisement of an address that is not the container's. R8 is kept.
func (b *builder) neighbour(o Own, v6 []sender, s Secret) {
	const next, offset = asm.R9, asm.R7
	b.load(ip6NextHeader, 1, onStackTmp)
	b.add(asm.LoadMem(next, asm.RFP, onStackTmp, asm.Byte), asm.Mov.Imm(offset, ethLen+ip6Len))
	for range maxHeaders {
		header := b.unique("header")
		b.add(asm.JEq.Imm(next, unix.IPPROTO_ICMPV6, "icmp"))
		for _, h := range []int32{unix.IPPROTO_HOPOPTS, unix.IPPROTO_ROUTING, unix.IPPROTO_DSTOPTS} {
			b.add(asm.JEq.Imm(next, h, header))
		}
		b.add(asm.Ja.Label("pass")) // of a fragmented one nobody takes it (RFC 6980)
		b.at(header)
		b.add(asm.Mov.Reg(asm.R2, offset))
		b.loadR2(2, onStackTmp)
		b.add(
			asm.LoadMem(next, asm.RFP, onStackTmp, asm.Byte),
			asm.LoadMem(asm.R1, asm.RFP, onStackTmp+1, asm.Byte),
			asm.Add.Imm(asm.R1, 1), asm.LSh.Imm(asm.R1, 3), asm.Add.Reg(offset, asm.R1),
		)
	}
	b.add(asm.Ja.Label("drop"))

	b.at("icmp")
	b.add(asm.Mov.Reg(asm.R2, offset))
	b.loadR2(1, onStackTmp)
	b.add(
		asm.LoadMem(asm.R1, asm.RFP, onStackTmp, asm.Byte),
		asm.JEq.Imm(asm.R1, routerAdvertisement, "drop"), asm.JEq.Imm(asm.R1, redirect, "drop"),
		asm.JNE.Imm(asm.R1, neighbourAdvertisement, "pass"),
		asm.Mov.Reg(asm.R2, offset), asm.Add.Imm(asm.R2, ndpTarget),
	)
	b.loadR2(16, onStackAddr)
	b.add(asm.Mov.Reg(offset, asm.R8)) // the sender's token
	b.one(o, v6[1:], s, "target")
	b.add(asm.Ja.Label("drop"))
	b.at("target")
	b.add(asm.Mov.Reg(asm.R8, offset))
}

// end writes what pass and drop come to; what is before it goes on to pass.
func (b *builder) end() {
	b.at("out")
	b.add(asm.Mov.Imm(asm.R0, actPass), asm.Return())
	b.at("drop")
	b.add(asm.Mov.Imm(asm.R0, actDrop), asm.Return())
}

// portProgram drops what is no exempt MAC address's and has not its pair's token, and takes
// tokens off.
func portProgram(daemon uint32, pairs, exempt int) asm.Instructions {
	b := &builder{}
	b.add(
		asm.Mov.Reg(ctx, asm.R1),
		asm.LoadMem(asm.R0, ctx, skbVLANPresent, asm.Word), asm.JNE.Imm(asm.R0, 0, "out"),
		asm.LoadMem(asm.R7, ctx, skbMark, asm.Word),
		asm.LoadImm(asm.R1, int64(daemon), asm.DWord), asm.JEq.Reg(asm.R7, asm.R1, "pass"),
	)
	b.load(ethSource, 8, onStackEth)
	b.add(
		// The key is the MAC address and zeros.
		asm.LoadMem(asm.R1, asm.RFP, onStackEth, asm.Word), asm.StoreMem(asm.RFP, onStackPair, asm.R1, asm.Word),
		asm.LoadMem(asm.R1, asm.RFP, onStackEth+4, asm.Half), asm.StoreMem(asm.RFP, onStackPair+4, asm.R1, asm.Half),
		asm.Mov.Imm(asm.R1, 0), asm.StoreMem(asm.RFP, onStackPair+6, asm.R1, asm.Half),
		asm.StoreMem(asm.RFP, onStackPair+8, asm.R1, asm.DWord), asm.StoreMem(asm.RFP, onStackPair+16, asm.R1, asm.DWord),
	)
	b.lookUp(exempt)
	b.add(asm.JNE.Imm(asm.R0, 0, "out"))

	b.unlessType(unix.ETH_P_IP, "arp")
	b.load(ip4Source, 4, onStackPair+8+12)
	b.add(asm.Ja.Label("mapped"))
	b.at("arp")
	b.unlessType(unix.ETH_P_ARP, "ip6")
	b.load(arpSenderIP, 4, onStackPair+8+12)
	b.at("mapped")
	b.add(asm.Mov.Imm(asm.R1, -1), asm.StoreMem(asm.RFP, onStackPair+8+10, asm.R1, asm.Half)) // ::ffff:192.0.2.1
	b.add(asm.Ja.Label("look"))
	b.at("ip6")
	b.unlessType(unix.ETH_P_IPV6, "drop")
	b.load(ip6Source, 16, onStackPair+8)
	b.lookUp(pairs)
	b.add(asm.JNE.Imm(asm.R0, 0, "found"))
	b.add(asm.Mov.Imm(asm.R1, 0), asm.StoreMem(asm.RFP, onStackPair+8, asm.R1, asm.DWord)) // made of the MAC address, in any prefix

	b.at("look")
	b.lookUp(pairs)
	b.add(asm.JEq.Imm(asm.R0, 0, "drop"))
	b.at("found")
	b.add(
		asm.LoadMem(asm.R1, asm.R0, 0, asm.Word), asm.JEq.Imm(asm.R1, 0, "pass"),
		asm.JNE.Reg(asm.R1, asm.R7, "drop"),
	)
	b.at("pass")
	b.add(asm.Mov.Imm(asm.R1, 0), asm.StoreMem(ctx, skbMark, asm.R1, asm.Word))
	b.end()
	return b.Instructions
}

// lookUp looks the key on the stack up; R0 is where the value is, or 0.
func (b *builder) lookUp(m int) {
	b.add(
		asm.LoadMapPtr(asm.R1, m),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, onStackPair),
		asm.FnMapLookupElem.Call(),
	)
}
