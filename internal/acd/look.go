package acd

import (
	"net"
	"net/netip"

	"github.com/mdlayher/ndp"
)

// Ask is a frame that asks a wire who has an address, and changes nobody's cache: an ARP probe (RFC 5227 section 2.1.1),
// which is answered to the MAC address, or a solicitation of duplicate address detection (RFC 4862 section 5.4.2), which is
// answered to all nodes. For whoever sends frames of its own. The error is an address that no host can have.
func Ask(mac net.HardwareAddr, addr netip.Addr) ([]byte, error) {
	if addr.Is4() {
		return arpRequest(mac, netip.IPv4Unspecified(), addr), nil
	}
	return solicitation(mac, addr, ndp.NewNonce())
}

// AskRouters is a frame that asks routers to advertise themselves (RFC 4861 section 4.1): from no address, so that they
// answer to all nodes.
func AskRouters(mac net.HardwareAddr) ([]byte, error) {
	return ndpFrame(mac, netip.IPv6Unspecified(), netip.IPv6LinkLocalAllRouters(), &ndp.RouterSolicitation{})
}

// Said reads what a frame with an ARP packet or an NDP message says of who has an address; false for any other frame, and for
// a probe, which only asks.
func Said(frame []byte) (Sighting, bool) {
	u, ok := parseARP(frame)
	if !ok {
		u, ok = parseNDP(frame)
	}
	return u.Sighting, ok && !u.Probe
}
