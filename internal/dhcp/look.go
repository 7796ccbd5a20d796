package dhcp

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Offer is what a DHCPv4 server offers to somebody who looks which servers there are.
type Offer struct {
	// Server is its identifier, or where the packet came from if it names none, and Via the MAC address that the
	// frame came from.
	Server netip.Addr
	Via    net.HardwareAddr
	// Addr is what it offers, in a subnet of Bits (0: it does not say), and Router the gateway that goes with it; the zero
	// Addr for none.
	Addr   netip.Addr
	Bits   int
	Router netip.Addr
}

// Discover is a broadcast frame that asks all DHCPv4 servers of a wire for an offer, which comes as a broadcast. Nothing is
// leased by it. The transaction is told apart by xid, which Offered wants back.
func Discover(mac net.HardwareAddr, xid [4]byte) ([]byte, error) {
	m, err := dhcpv4.NewDiscovery(mac, dhcpv4.WithBroadcast(true), dhcpv4.WithTransactionID(xid),
		dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(maxMessage4)))
	if err != nil {
		return nil, fmt.Errorf("DHCPDISCOVER: %w", err)
	}
	return frame4(mac, everyMAC, netip.AddrPortFrom(netip.IPv4Unspecified(), clientPort4), netip.AddrPortFrom(everyone4, serverPort4), m.ToBytes())
}

// Offered reads an offer in answer to a Discover of a MAC address; false for any other frame.
func Offered(frame []byte, mac net.HardwareAddr, xid [4]byte) (o Offer, ok bool) {
	a, ok := parse4(frame)
	if !ok || a.key.xid != xid || len(mac) != macLen4 || a.key.mac != [macLen4]byte(mac) {
		return o, false
	}
	r, err := decode4(a)
	if err != nil || r.kind != dhcpv4.MessageTypeOffer {
		return o, false
	}
	o = Offer{Server: r.server, Via: r.via, Addr: r.yiaddr}
	if !o.Server.IsValid() {
		o.Server = r.from
	}
	if mask := r.options[optMask]; len(mask) == 4 {
		o.Bits, _ = net.IPMask(mask).Size()
	}
	if b := r.options[optRouter]; len(b) >= 4 {
		o.Router = netip.AddrFrom4([4]byte(b))
	}
	return o, true
}
