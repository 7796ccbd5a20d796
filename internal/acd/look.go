package acd

import (
	"net"
	"net/netip"
)

// Ask is a broadcast frame that asks who has an IPv4 address: an ARP probe (RFC 5227 section 2.1.1), which changes
// nobody's cache. For whoever sends frames of its own.
func Ask(mac net.HardwareAddr, addr netip.Addr) []byte {
	return arpRequest(mac, netip.IPv4Unspecified(), addr)
}

// Said reads what a frame with an ARP packet says of who has an address; false for any other frame, and for a probe, which
// only asks.
func Said(frame []byte) (Sighting, bool) {
	u, ok := parseARP(frame)
	return u.Sighting, ok && !u.Probe
}
