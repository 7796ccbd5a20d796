// Package lan holds the words of lanyard: networks, endpoints, parents, and
// the options that a user may type. It parses and checks; it does no I/O, has
// no clock and logs nothing.
package lan

import (
	"crypto/sha256"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// Kind is the kernel's link type of the interfaces that a network gives to
// its containers.
type Kind string

// The link types, by the name that the kernel gives them (IFLA_INFO_KIND).
const (
	Macvlan Kind = "macvlan"
	Ipvlan  Kind = "ipvlan"
)

// Mode is how the children of one parent treat each other's frames:
// IFLA_MACVLAN_MODE for macvlan, IFLA_IPVLAN_MODE for ipvlan.
type Mode string

// The modes of macvlan, then those of ipvlan.
const (
	ModeBridge   Mode = "bridge"
	ModePrivate  Mode = "private"
	ModeVepa     Mode = "vepa"
	ModePassthru Mode = "passthru"

	ModeL2  Mode = "l2"
	ModeL3  Mode = "l3"
	ModeL3S Mode = "l3s"
)

// Flag is IFLA_IPVLAN_FLAGS: how ipvlan slaves of one parent reach each other.
type Flag string

// The flags of ipvlan.
const (
	FlagBridge  Flag = "bridge"
	FlagPrivate Flag = "private"
	FlagVepa    Flag = "vepa"
)

// GatewayPolicy says where an L2 network's default route comes from.
type GatewayPolicy string

// The gateway policies.
const (
	// GatewayAuto uses the gateway that the IPAM driver reports: the user's
	// --gateway, or the one that it allocates.
	GatewayAuto GatewayPolicy = "auto"
	// GatewayNone gives no default route at all, whatever the IPAM reports.
	GatewayNone GatewayPolicy = "none"
)

// Subnet is one address pool of a network.
type Subnet struct {
	// Pool is the subnet. 0.0.0.0/0 and ::/0 stand for "no pool", which is
	// what Docker's null IPAM driver reports.
	Pool netip.Prefix `json:"pool"`
	// Gateway is the router in this subnet; the zero Addr means none.
	Gateway netip.Addr `json:"gateway,omitzero"`
	// Range is the part that containers get addresses from; the zero Prefix
	// means all of it. Only a subnet that is an option of the network has one.
	Range netip.Prefix `json:"range,omitzero"`
	// Aux are addresses that containers do not get (--aux-address).
	Aux []netip.Addr `json:"aux,omitempty"`
	// Leased reports that lanyard's own IPAM driver gives out the addresses.
	Leased bool `json:"leased,omitempty"`
	// Source says who chooses the addresses. Docker does not tell the network what it
	// told the IPAM driver, so it is filled in when the network is given its pools.
	Source Source `json:"source,omitempty"`
}

// SameAs reports whether q is the same subnet as s, whoever chooses its addresses.
func (s Subnet) SameAs(q Subnet) bool {
	return s.Pool == q.Pool && s.Gateway == q.Gateway && s.Range == q.Range && s.Leased == q.Leased && slices.Equal(s.Aux, q.Aux)
}

// Network is one Docker network of ours, as its options and its IPAM data say.
type Network struct {
	ID     string     `json:"id"`
	Kind   Kind       `json:"kind"`
	Mode   Mode       `json:"mode"`
	Flag   Flag       `json:"flag,omitempty"` // ipvlan only
	Parent ParentSpec `json:"parent"`
	// Internal networks have no default route. A network without a parent is
	// always internal.
	Internal bool `json:"internal,omitempty"`
	// HostAccess lets the host and the containers reach each other.
	HostAccess bool `json:"host_access,omitempty"`
	// HostAuto asks for addresses of the host's own from the network's pools, and HostAddrs
	// are those that it has, one of a family at most. They are for host access.
	HostAuto  bool         `json:"host_auto,omitempty"`
	HostAddrs []netip.Addr `json:"host_addresses,omitempty"`
	// AntiSpoof keeps each container to its own MAC address and addresses.
	AntiSpoof bool `json:"antispoof,omitempty"`
	// MTU in bytes of the containers' links; 0 takes the parent's.
	MTU int `json:"mtu,omitempty"`
	// IfName is the wanted name of the link inside the container; "" leaves
	// it to the engine (eth0, eth1, ...).
	IfName  string        `json:"ifname,omitempty"`
	Gateway GatewayPolicy `json:"gateway,omitempty"`
	IPv4    []Subnet      `json:"ipv4,omitempty"`
	IPv6    []Subnet      `json:"ipv6,omitempty"`
	// Own reports that the subnets are options of the network (-o subnet=), and
	// addresses are chosen when an endpoint is made; Docker's IPAM driver is null.
	Own      bool     `json:"own,omitempty"`
	IPv6Mode IPv6Mode `json:"ipv6_mode,omitempty"`
	Policy
	// DHCP is for subnets whose addresses a DHCP server gives.
	DHCP DHCP `json:"dhcp,omitzero"`
	// Announce is how often a new address is announced; the zero value means 3
	// times, a second apart.
	Announce Announcement `json:"announce,omitzero"`
	Created  time.Time    `json:"created"`
}

// Announcement is how gratuitous ARP (RFC 5227 section 2.3) and unsolicited
// neighbour advertisements (RFC 4861 section 7.2.6) are sent.
type Announcement struct {
	// Count is the number of messages, and -1 none at all.
	Count int `json:"count,omitempty"`
	// Every is the time between them.
	Every time.Duration `json:"every,omitempty"`
}

// Messages are the number and the interval that a means.
func (a Announcement) Messages() (count int, every time.Duration) {
	count, every = a.Count, a.Every
	if count == 0 {
		count = 3
	}
	if every == 0 {
		every = time.Second
	}
	return max(count, 0), every
}

// HostPrefixes are HostAddrs with the length of their subnets.
func (n *Network) HostPrefixes() (list []netip.Prefix) {
	for _, a := range n.HostAddrs {
		if s, ok := n.SubnetOf(a); ok {
			list = append(list, netip.PrefixFrom(a, s.Pool.Bits()))
		}
	}
	return list
}

// L3 reports whether the kernel routes between this network's containers and
// the parent (ipvlan l3 and l3s): no ARP, no gateway, no multicast.
func (n *Network) L3() bool { return n.Mode == ModeL3 || n.Mode == ModeL3S }

// Manages reports whether lanyard chooses addresses of the network: as Docker's IPAM
// driver, or because the subnets are options.
func (n *Network) Manages() bool {
	leased := func(s Subnet) bool { return s.Leased }
	return n.Own || slices.ContainsFunc(n.IPv4, leased) || slices.ContainsFunc(n.IPv6, leased)
}

// Leases reports whether a DHCP server gives addresses of the network.
func (n *Network) Leases() bool { return FromDHCP(n.IPv4) || FromDHCP(n.IPv6) }

// SetSource notes who chooses the addresses of a subnet, counted through IPv4 and IPv6.
func (n *Network) SetSource(i int, source Source) {
	if i < len(n.IPv4) {
		n.IPv4[i].Source = source
		return
	}
	n.IPv6[i-len(n.IPv4)].Source = source
}

// IPv6From is the IPv6 mode, where the user named none as the source of the addresses asks
// for.
func (n *Network) IPv6From() IPv6Mode {
	if n.IPv6Mode == "" && FromDHCP(n.IPv6) {
		return IPv6DHCP
	}
	return n.IPv6Mode
}

// Isolated reports whether the network has no parent of the user's and lives
// on a dummy link instead.
func (n *Network) Isolated() bool { return n.Parent.Name == "" }

// DummyName is the name of the dummy link that stands in for the parent of an
// isolated network: the same that Docker's built-in drivers use.
func (n *Network) DummyName() string {
	prefix := "dm-"
	if n.Kind == Ipvlan {
		prefix = "di-"
	}
	return prefix + Short(n.ID)
}

// SameAs reports whether m asks for the same network as n: all but the time
// of creation is equal.
func (n *Network) SameAs(m *Network) bool {
	return n.ID == m.ID && n.Kind == m.Kind && n.Mode == m.Mode && n.Flag == m.Flag &&
		n.Parent.SameAs(m.Parent) && n.Internal == m.Internal && n.HostAccess == m.HostAccess && n.HostAuto == m.HostAuto &&
		(n.HostAuto || slices.Equal(n.HostAddrs, m.HostAddrs)) && n.AntiSpoof == m.AntiSpoof && n.MTU == m.MTU &&
		n.IfName == m.IfName && n.Gateway == m.Gateway &&
		n.Own == m.Own && n.IPv6Mode == m.IPv6Mode && n.Policy == m.Policy && n.DHCP.SameAs(&m.DHCP) && n.Announce == m.Announce &&
		slices.EqualFunc(n.IPv4, m.IPv4, Subnet.SameAs) && slices.EqualFunc(n.IPv6, m.IPv6, Subnet.SameAs)
}

// Subnets are the network's subnets of addr's family.
func (n *Network) Subnets(addr netip.Addr) []Subnet {
	if addr.Is6() {
		return n.IPv6
	}
	return n.IPv4
}

// SubnetOf is the narrowest of the network's subnets that holds addr.
func (n *Network) SubnetOf(addr netip.Addr) (best Subnet, ok bool) {
	for _, s := range n.Subnets(addr) {
		if s.Pool.Contains(addr) && (!ok || s.Pool.Bits() > best.Pool.Bits()) {
			best, ok = s, true
		}
	}
	return best, ok
}

// Endpoint is one container's place on one network.
type Endpoint struct {
	ID        string `json:"id"`
	NetworkID string `json:"network_id"`
	// MAC is the link's hardware address in colon form; "" for ipvlan, whose
	// links have the parent's.
	MAC string `json:"mac,omitempty"`
	// IPv4 and IPv6 are the addresses with their prefix lengths, as Docker
	// gave them; the zero Prefix means none of that family.
	IPv4 netip.Prefix `json:"ipv4,omitzero"`
	IPv6 netip.Prefix `json:"ipv6,omitzero"`
	// IfName is the wanted name inside the container, if the user gave one.
	IfName string `json:"ifname,omitempty"`
	// Leases are the DHCP leases behind the addresses, by their records' IDs.
	Leases []string `json:"leases,omitempty"`
	// Told4 and Told6 are the addresses that Docker knows, where those that the
	// container has are others by now.
	Told4 netip.Prefix `json:"told4,omitzero"`
	Told6 netip.Prefix `json:"told6,omitzero"`
	// Redo are changes of leases that the container may not have heeded yet, the oldest
	// first.
	Redo []LeaseChange `json:"redo,omitempty"`
	// Sandbox is the path of the container's network namespace; "" until
	// Join. It need not exist yet when Join is answered (engines before 28).
	Sandbox string `json:"sandbox,omitempty"`
	// ParentIndex is the index of the parent that the link was made on; 0: not known.
	ParentIndex int `json:"parent_index,omitempty"`
	// Link is the link's name in the container; "" while it is not known.
	Link    string    `json:"link,omitempty"`
	Created time.Time `json:"created"`
}

// Addrs are the endpoint's addresses, of each family that it has one of.
func (e *Endpoint) Addrs() (addrs []netip.Prefix) {
	for _, p := range []netip.Prefix{e.IPv4, e.IPv6} {
		if p.IsValid() {
			addrs = append(addrs, p)
		}
	}
	return addrs
}

// LinkName is the link's name in the host's namespace, before Docker moves it
// into the container and after it comes back. It follows from the ID alone, so
// that a record of the endpoint is enough to find what a crash left behind.
func (e *Endpoint) LinkName() string { return LinkPrefix + Short(e.ID) }

// LinkPrefix is what the name of every endpoint's link begins with.
const LinkPrefix = "ly-"

// Short is the 12 characters of an ID that Docker shows.
func Short(id string) string {
	if len(id) > 12 {
		return id[:12]
	}
	return id
}

// CheckID refuses an ID that Docker would not make. IDs become names of links
// and keys of records, so only letters, digits, '-' and '_' may pass.
func CheckID(what, id string) error {
	if id == "" {
		return Refusef(ErrInvalid, "%s is missing", what)
	}
	if len(id) > 128 {
		return Refusef(ErrInvalid, "%s has %d characters, 128 at most", what, len(id))
	}
	for i := range len(id) {
		c := id[i]
		alnum := c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !alnum && (i == 0 || c != '-' && c != '_') {
			return Refusef(ErrInvalid, "%s %q: only letters, digits, '-' and '_' may stand in it", what, id)
		}
	}
	return nil
}

// ParseMAC reads a user's MAC address for one container: 48 bits, unicast and
// not all zero.
func ParseMAC(s string) (net.HardwareAddr, error) {
	mac, err := net.ParseMAC(s)
	if err != nil || len(mac) != 6 {
		return nil, Refusef(ErrInvalid, "MAC address %q: want six bytes such as 02:42:ac:11:00:02", s)
	}
	if mac[0]&1 != 0 {
		return nil, Refusef(ErrInvalid, "MAC address %s is a group (multicast) address: the first byte must be even", s)
	}
	if slices.Max(mac) == 0 {
		return nil, Refusef(ErrInvalid, "MAC address %s is all zero", s)
	}
	return mac, nil
}

// LocalMAC is the MAC address that follows from seed: unicast and locally administered
// (IEEE 802c).
func LocalMAC(seed []byte) net.HardwareAddr {
	sum := sha256.Sum256(seed)
	mac := net.HardwareAddr(sum[:6])
	mac[0] = mac[0]&^1 | 2
	return mac
}

// CheckIfName refuses a name that the kernel would not take for a link
// (dev_valid_name: 1 to 15 bytes, no white space, '/' or ':').
func CheckIfName(name string) error {
	switch {
	case name == "":
		return Refusef(ErrInvalid, "interface name is empty")
	case len(name) > 15:
		return Refusef(ErrInvalid, "interface name %q has %d characters, the kernel takes 15", name, len(name))
	case name == "." || name == ".." || strings.ContainsAny(name, "/:%") || strings.ContainsFunc(name, notPrintable) || strings.IndexByte(name, latin1Space) >= 0:
		return Refusef(ErrInvalid, "interface name %q: '/', ':', '%%' and white space may not stand in it", name)
	case name == "lo" || name == "all" || name == "default":
		return Refusef(ErrInvalid, "interface name %q is taken in every network namespace", name)
	}
	return nil
}

// latin1Space is the one byte above ASCII that the kernel takes for white
// space (lib/ctype.c); in UTF-8 it is a part of letters such as U+00E0.
const latin1Space = 0xa0

func notPrintable(r rune) bool { return r <= ' ' || r == 0x7f }
