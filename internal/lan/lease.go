package lan

import (
	"net/netip"
	"slices"
	"time"
)

// Source says who chooses the addresses of a subnet.
type Source string

// The sources.
const (
	SourcePool Source = ""     // lanyard, from a pool
	SourceDHCP Source = "dhcp" // the site's DHCP server
)

// FromDHCP reports whether a DHCP server gives addresses of one of the subnets.
func FromDHCP(subnets []Subnet) bool {
	return slices.ContainsFunc(subnets, func(s Subnet) bool { return s.Source == SourceDHCP })
}

// AnySubnet is all addresses of a family: what stands for the subnet that only a DHCP
// server knows, and the destination of a default route.
func AnySubnet(v6 bool) netip.Prefix {
	if v6 {
		return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
}

// Infinite is the lifetime of a lease that does not end (RFC 2131 section 3.3, RFC 8415
// section 7.7).
const Infinite = time.Duration(1<<63 - 1)

// Route is one route of a container. Without a next hop it is on the link.
type Route struct {
	Dst     netip.Prefix `json:"dst"`
	NextHop netip.Addr   `json:"via,omitzero"`
}

// Lease is what a DHCP server granted, checked: nothing in it can harm a container but
// by what a LAN's server may say by right.
type Lease struct {
	// Addr is the address with its subnet's length; of DHCPv6, which has none, with 128.
	Addr netip.Prefix `json:"addr"`
	// Server is the server's identifier (RFC 2132 section 9.7); of DHCPv6 the address
	// that it answered from.
	Server netip.Addr `json:"server,omitzero"`
	// ServerID is a DHCPv6 server's DUID.
	ServerID []byte `json:"server_id,omitempty"`
	// Via is the MAC address that the answer came from: the server's or a relay's.
	Via string `json:"via,omitempty"`
	// Gateway is the first router of the subnet, or of the default route in option 121.
	Gateway netip.Addr `json:"gateway,omitzero"`
	// Routes are the classless static routes (RFC 3442) but the default one.
	Routes []Route `json:"routes,omitempty"`
	// MTU in bytes; 0 where the server says none.
	MTU      int          `json:"mtu,omitempty"`
	DNS      []netip.Addr `json:"dns,omitempty"`
	NTP      []netip.Addr `json:"ntp,omitempty"`
	Domain   string       `json:"domain,omitempty"`
	Search   []string     `json:"search,omitempty"`
	Hostname string       `json:"hostname,omitempty"`
	// Renew (T1), Rebind (T2) and Life are counted from when the request was sent.
	Renew  time.Duration `json:"renew"`
	Rebind time.Duration `json:"rebind"`
	Life   time.Duration `json:"life"`
	// Preferred is how long a DHCPv6 address is to be used for new connections; 0 of
	// DHCPv4.
	Preferred time.Duration `json:"preferred,omitempty"`
	// Asked is when the request that was granted was sent. It is not kept on disk.
	Asked time.Time `json:"-"`
	// Notes say what the server said that was not taken, and why.
	Notes []string `json:"notes,omitempty"`
}

// LeaseChange is news of a lease for the container that has it.
type LeaseChange struct {
	// Old is what the container has, nil where it has nothing any more; New is what it is
	// to have, nil for nothing.
	Old *Lease `json:"old,omitempty"`
	New *Lease `json:"new,omitempty"`
	// Default says that its default route led through a lease that was lost before.
	Default bool `json:"default,omitempty"`
}

// V6 reports whether the lease is one of DHCPv6.
func (c *LeaseChange) V6() bool {
	return c.Old != nil && c.Old.Addr.Addr().Is6() || c.New != nil && c.New.Addr.Addr().Is6()
}

// SameConfig reports whether a container would be set up alike with m as with l: the
// times do not matter.
func (l *Lease) SameConfig(m *Lease) bool {
	return l.Addr == m.Addr && l.Gateway == m.Gateway && l.MTU == m.MTU && slices.Equal(l.Routes, m.Routes)
}

// ReleaseWhen says when a DHCP lease is given back to the server.
type ReleaseWhen string

// The times of release.
const (
	// ReleaseRemove is when the container has not come back within the grace period:
	// Docker tells a plugin that a container has ended, and not that it was removed.
	ReleaseRemove ReleaseWhen = "remove"
	ReleaseStop   ReleaseWhen = "stop"  // when the container ends
	ReleaseNever  ReleaseWhen = "never" // the lease runs out by itself
)

// ClientIDMode says what client identifier (option 61) is sent; any other text is sent
// as it is.
const (
	ClientIDAuto = ""     // RFC 4361: from who the container is
	ClientIDMAC  = "mac"  // type 1 and the MAC address
	ClientIDNone = "none" // none: servers go by the MAC address
)

// DHCP is how a network's containers ask DHCP servers. The zero value is the default.
type DHCP struct {
	// Timeout is how long a container waits for a lease; 0 means DefaultDHCPTimeout.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Release is ReleaseRemove where it is "".
	Release ReleaseWhen `json:"release,omitempty"`
	// Servers, unless empty, are the only servers whose answers are taken, and Deny are
	// those whose answers are not.
	Servers []netip.Addr `json:"servers,omitempty"`
	Deny    []netip.Addr `json:"deny,omitempty"`
	// ClientID is a ClientIDMode, or the identifier of all containers, for a network of one.
	ClientID    string   `json:"client_id,omitempty"`
	VendorClass string   `json:"vendor_class,omitempty"`
	UserClass   []string `json:"user_class,omitempty"`
	// Domain is what is put behind a container's name for option 81; "" sends none.
	Domain      string `json:"domain,omitempty"`
	RapidCommit bool   `json:"rapid_commit,omitempty"`
	// NoLastLease refuses a lease that has not ended where no server confirms it.
	NoLastLease bool `json:"no_last_lease,omitempty"`
	// Fallback is where an address comes from when no server answers; the zero Prefix
	// means nowhere.
	Fallback netip.Prefix `json:"fallback,omitzero"`
}

// DefaultDHCPTimeout is how long a container waits for a lease. dnsmasq takes 3 s of it
// to see whether an address answers a ping.
const DefaultDHCPTimeout = 10 * time.Second

// Wait is the time that Timeout means.
func (d *DHCP) Wait() time.Duration {
	if d.Timeout == 0 {
		return DefaultDHCPTimeout
	}
	return d.Timeout
}

// When is the time of release that Release means.
func (d *DHCP) When() ReleaseWhen {
	if d.Release == "" {
		return ReleaseRemove
	}
	return d.Release
}

// SameAs reports whether q says the same as d.
func (d *DHCP) SameAs(q *DHCP) bool {
	return d.Timeout == q.Timeout && d.Release == q.Release && slices.Equal(d.Servers, q.Servers) && slices.Equal(d.Deny, q.Deny) &&
		d.ClientID == q.ClientID && d.VendorClass == q.VendorClass && slices.Equal(d.UserClass, q.UserClass) && d.Domain == q.Domain &&
		d.RapidCommit == q.RapidCommit && d.NoLastLease == q.NoLastLease && d.Fallback == q.Fallback
}

// IsZero reports whether d says nothing but defaults.
func (d *DHCP) IsZero() bool { return d.SameAs(&DHCP{}) }
