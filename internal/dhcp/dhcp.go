// Package dhcp asks DHCP servers for addresses on behalf of containers (RFC 2131, RFC
// 8415), and keeps the leases.
//
// A container's lease is acquired before the container has its link, so the messages
// go out of, and come back to, links that all containers of a wire share: the probe
// link of conflict detection, and the parent, which hears what is sent to MAC addresses
// that no link has yet. One socket pair serves all exchanges of a wire; an idle lease
// has no socket and no goroutine. Renewals are sent from the leased address, inside the
// container's namespace, whose kernel resolves and routes.
//
// Nothing that a server sends is taken unchecked: see check.go.
package dhcp

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/packet"
)

// Client is who asks for a lease: what a server knows a container by.
type Client struct {
	// MAC is the container's hardware address (chaddr), or its parent's on ipvlan.
	MAC net.HardwareAddr
	// ID is the client identifier (option 61), its type byte first; empty for none.
	ID []byte
	// DUID and IAID name it to DHCPv6 servers.
	DUID []byte
	IAID uint32
	// Hostname is option 12, and FQDN option 81 (RFC 4702; option 39 of DHCPv6, RFC
	// 4704); "" for none.
	Hostname, FQDN string
	VendorClass    string   // option 60
	UserClass      []string // option 77 (RFC 3004)
}

// Ask is what a client asks for, and what it takes.
type Ask struct {
	Client
	// Addr is the address that the client had or wants (option 50); the zero Addr
	// leaves it to the server.
	Addr netip.Addr
	// Only refuses any address but Addr.
	Only bool
	// Subnet refuses addresses outside of it; the zero Prefix refuses none.
	Subnet netip.Prefix
	// Servers, unless empty, are the only ones whose answers are taken, and Deny are
	// those whose answers are not, by server identifier (of DHCPv6 by the address that
	// they answer from).
	Servers, Deny []netip.Addr
	// RapidCommit asks for a lease in one round trip (RFC 4039; RFC 8415 section
	// 18.2.1).
	RapidCommit bool
	// Refuse says why a lease cannot be had, "" if it can; nil refuses none. It is called
	// for offers that are otherwise in order, and for leases that come without one (in one
	// round trip, or asked for again), perhaps more than once, and must not block.
	Refuse func(*lan.Lease) string
}

// ErrClosed comes when a wire was closed, or its Run has ended.
var ErrClosed = packet.ErrClosed

// NakError comes when a server says that an address is not the client's to use
// (DHCPNAK; NoBinding or NotOnLink of DHCPv6).
type NakError struct {
	Server  netip.Addr
	Message string // the server's words, cleaned; may be ""
}

func (e *NakError) Error() string {
	text := fmt.Sprintf("server %s refuses the address", e.Server)
	if e.Message != "" {
		text += fmt.Sprintf(" (%q)", e.Message)
	}
	return text
}

// SilenceError comes when no answer that could be taken came in time. It tells what was
// sent, and all that was heard.
type SilenceError struct {
	Sent string        // "4 DHCPDISCOVER"
	For  time.Duration // how long was waited
	// Heard are the answers that were not taken, each with the reason, and what was
	// heard of other servers, without repetition and at most a few.
	Heard []string
}

// NoLease is how the text of a SilenceError begins, for those to whom Docker tells no more.
const NoLease = "no lease within"

func (e *SilenceError) Error() string {
	text := fmt.Sprintf(NoLease+" %s: sent %s, ", e.For.Round(100*time.Millisecond), e.Sent)
	if len(e.Heard) == 0 {
		return text + "heard nothing"
	}
	return text + "heard " + strings.Join(e.Heard, "; ")
}
