package acd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"
)

const (
	ip6Len   = 40              // bytes of an IPv6 header
	nsLen    = 24              // bytes of the shortest solicitation or advertisement
	hopLimit = 255             // of every message that has not passed a router (RFC 4861 7.1)
	offNext  = ethLen + 6      // IPv6 next header
	offHops  = ethLen + 7      // IPv6 hop limit
	offICMP  = ethLen + ip6Len // ICMPv6 type
	typeNS   = 135             // neighbour solicitation
	typeNA   = 136             // neighbour advertisement
)

// allNodes is ff02::1, to which a probed host answers (RFC 4861 7.2.4).
func allNodes() netip.Addr { return netip.IPv6LinkLocalAllNodes() }

// groupMAC is the Ethernet address of an IPv6 multicast group (RFC 2464 7).
func groupMAC(group netip.Addr) net.HardwareAddr {
	b := group.As16()
	return net.HardwareAddr{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// solicitation is a frame that probes for an address (RFC 4862 5.4.2): from the
// unspecified address to the target's solicited-node group, with a nonce by which
// it is known when the wire brings it back (RFC 7527).
func solicitation(mac net.HardwareAddr, target netip.Addr, nonce *ndp.Nonce) ([]byte, error) {
	group, err := ndp.SolicitedNodeMulticast(target)
	if err != nil {
		return nil, err
	}
	return ndpFrame(mac, netip.IPv6Unspecified(), group, &ndp.NeighborSolicitation{
		TargetAddress: target,
		Options:       []ndp.Option{nonce},
	})
}

// advertisement is a frame that tells all nodes, unasked, that the MAC has the
// address now (RFC 4861 7.2.6).
func advertisement(mac net.HardwareAddr, addr netip.Addr) ([]byte, error) {
	return ndpFrame(mac, addr, allNodes(), &ndp.NeighborAdvertisement{
		Override:      true,
		TargetAddress: addr,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac}},
	})
}

func ndpFrame(mac net.HardwareAddr, src, dst netip.Addr, m ndp.Message) ([]byte, error) {
	body, err := ndp.MarshalMessageChecksum(m, src, dst)
	if err != nil {
		return nil, fmt.Errorf("neighbour discovery message: %w", err)
	}
	b := ethernet(groupMAC(dst), mac, unix.ETH_P_IPV6, ip6Len+len(body))
	b = append(b, 6<<4, 0, 0, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	b = append(b, unix.IPPROTO_ICMPV6, hopLimit)
	b = append(b, src.AsSlice()...)
	b = append(b, dst.AsSlice()...)
	return append(b, body...), nil
}

// parseNDP reads what a frame with a neighbour solicitation or advertisement says
// of an address, if it is valid by RFC 4861 7.1: an advertisement is a use of its
// target, a solicitation from the unspecified address a probe for its target, any
// other a use of its source.
//
// The MAC is that of the message's link-layer address option, else the frame's
// source.
func parseNDP(b []byte) (use, bool) {
	if len(b) < offICMP+nsLen || binary.BigEndian.Uint16(b[2*macLen:]) != unix.ETH_P_IPV6 {
		return use{}, false
	}
	ip := b[ethLen:]
	length := int(binary.BigEndian.Uint16(ip[4:]))
	if ip[0]>>4 != 6 || b[offNext] != unix.IPPROTO_ICMPV6 || b[offHops] != hopLimit || length < nsLen || len(ip) < ip6Len+length {
		return use{}, false
	}
	src, dst, body := ipv6(ip[8:]), ipv6(ip[24:]), ip[ip6Len:ip6Len+length] // without Ethernet's padding
	if body[0] != typeNS && body[0] != typeNA || body[1] != 0 || checksum(ip[8:ip6Len], body) != 0 {
		return use{}, false
	}
	message, err := ndp.ParseMessage(body)
	if err != nil {
		return use{}, false
	}
	var u use
	switch m := message.(type) {
	case *ndp.NeighborAdvertisement:
		if dst.IsMulticast() && m.Solicited {
			return use{}, false
		}
		u.Addr, u.MAC = m.TargetAddress, option(m.Options, ndp.Target)
		u.announces = dst == allNodes()
	case *ndp.NeighborSolicitation:
		mac := option(m.Options, ndp.Source)
		if !src.IsUnspecified() {
			u.Addr, u.MAC = src, mac
			break
		}
		if group, err := ndp.SolicitedNodeMulticast(m.TargetAddress); err != nil || dst != group || mac != nil {
			return use{}, false
		}
		u.Addr, u.Probe, u.nonce = m.TargetAddress, true, nonce(m.Options)
	}
	if !station(u.MAC) {
		u.MAC = source(b)
	}
	u.MAC = bytes.Clone(u.MAC)
	return u, station(u.MAC) && usable(u.Addr) && !u.Addr.Is4In6()
}

// option is the link-layer address that options give, nil if none does.
func option(options []ndp.Option, d ndp.Direction) net.HardwareAddr {
	for _, o := range options {
		if l, ok := o.(*ndp.LinkLayerAddress); ok && l.Direction == d {
			return l.Addr
		}
	}
	return nil
}

func nonce(options []ndp.Option) *ndp.Nonce {
	for _, o := range options {
		if n, ok := o.(*ndp.Nonce); ok {
			return n
		}
	}
	return nil
}

// nonceOf is the nonce of 6 bytes. The library makes random ones alone, and reads others.
func nonceOf(b []byte) *ndp.Nonce {
	body := make([]byte, nsLen, nsLen+8)
	body[0] = typeNS
	body[8] = 0xfd // a target that is no group
	m, err := ndp.ParseMessage(append(append(body, 14, 1), b...))
	if err != nil {
		panic(err) // it is always the same but for the nonce
	}
	return nonce(m.(*ndp.NeighborSolicitation).Options)
}

func ipv6(b []byte) netip.Addr { return netip.AddrFrom16([16]byte(b)) }

// checksum is that of an ICMPv6 message with its pseudo-header (RFC 8200 8.1),
// which is 0 over a message whose checksum is right. addrs are source and
// destination as they stand in the IPv6 header.
func checksum(addrs, body []byte) uint16 {
	sum := uint32(len(body)) + unix.IPPROTO_ICMPV6 // of at most 64 KiB: no overflow
	for _, b := range [][]byte{addrs, body} {
		for i, c := range b {
			if i%2 == 0 {
				sum += uint32(c) << 8
			} else {
				sum += uint32(c)
			}
		}
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}
