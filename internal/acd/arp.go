package acd

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"

	"golang.org/x/sys/unix"
)

const (
	macLen      = 6                  // bytes
	ethLen      = 2*macLen + 2       // bytes of an Ethernet header
	arpLen      = 8 + 2*macLen + 2*4 // bytes of an ARP packet for IPv4 on Ethernet
	arpFixed    = 0x0001_0800_06_04  // hardware type, protocol type and their addresses' lengths
	opRequest   = 1
	opReply     = 2
	offOp       = ethLen + 6
	offSenderHW = ethLen + 8
	offSenderIP = ethLen + 14
	offTargetHW = ethLen + 18
	offTargetIP = ethLen + 24
)

var (
	broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	noMAC     = net.HardwareAddr{0, 0, 0, 0, 0, 0}
)

// arpRequest is a broadcast frame with an ARP request. With the sender 0.0.0.0 it
// is a probe for the target (RFC 5227 2.1.1), with sender and target the same an
// announcement (2.3).
func arpRequest(mac net.HardwareAddr, sender, target netip.Addr) []byte {
	b := ethernet(broadcast, mac, unix.ETH_P_ARP, arpLen)
	b = binary.BigEndian.AppendUint64(b, arpFixed<<16|opRequest)
	b = append(b, mac...)
	b = append(b, sender.AsSlice()...)
	b = append(b, noMAC...)
	return append(b, target.AsSlice()...)
}

// ethernet is an Ethernet header with room for n bytes behind it.
func ethernet(dst, src net.HardwareAddr, proto uint16, n int) []byte {
	b := make([]byte, 0, ethLen+n)
	b = append(b, dst...)
	b = append(b, src...)
	return binary.BigEndian.AppendUint16(b, proto)
}

// parseARP reads what a frame with an ARP packet says of an address. RFC 5227
// 2.1.1: any request or reply is a use of its sender address; a request from
// 0.0.0.0 is a probe for its target address.
//
// The MAC is the packet's sender hardware address, which is the one that
// neighbours would learn. Where that is no station's (clusters that share a group
// MAC say so), it is the frame's source.
func parseARP(b []byte) (use, bool) {
	if len(b) < ethLen+arpLen || binary.BigEndian.Uint16(b[2*macLen:]) != unix.ETH_P_ARP {
		return use{}, false
	}
	fixed := binary.BigEndian.Uint64(b[ethLen:])
	op := fixed & 0xffff
	if fixed>>16 != arpFixed || op != opRequest && op != opReply {
		return use{}, false
	}
	mac := hardware(b[offSenderHW:])
	if !station(mac) {
		mac = source(b)
	}
	if !station(mac) {
		return use{}, false
	}
	sender, target := ipv4(b[offSenderIP:]), ipv4(b[offTargetIP:])
	u := use{Sighting: Sighting{Addr: sender, MAC: bytes.Clone(mac)}}
	if sender.IsUnspecified() {
		u.Addr, u.Probe, u.mark = target, true, bytes.Clone(b[offTargetHW:offTargetIP])
		return u, op == opRequest && usable(target)
	}
	u.announces = sender == target
	return u, usable(sender)
}

func ipv4(b []byte) netip.Addr { return netip.AddrFrom4([4]byte(b)) }

// hardware is the MAC at the head of b, source that of a frame's sender. Both share
// b's bytes.
func hardware(b []byte) net.HardwareAddr { return net.HardwareAddr(b[:macLen:macLen]) }
func source(b []byte) net.HardwareAddr   { return hardware(b[macLen:]) }

// station reports whether a MAC can be one interface's: neither a group nor zero.
func station(mac net.HardwareAddr) bool {
	return len(mac) == macLen && mac[0]&1 == 0 && !bytes.Equal(mac, noMAC)
}
