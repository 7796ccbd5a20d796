package lan

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Identity says whether a container that comes back gets the address that it had.
type Identity string

// The identities.
const (
	// IdentitySticky keeps an address for who had it until somebody else needs
	// it, and within the grace period even then.
	IdentitySticky Identity = "sticky"
	// IdentityNone gives every container the address that was not used for the
	// longest time.
	IdentityNone Identity = "none"
)

// IPv6Mode says where a container's IPv6 address comes from.
type IPv6Mode string

// The IPv6 modes. The zero value leaves it to the engine: static where the
// network has an IPv6 subnet, off where it has none.
const (
	IPv6Static IPv6Mode = "static" // from the subnet alone; router advertisements are ignored
	IPv6SLAAC  IPv6Mode = "slaac"  // from router advertisements (RFC 4862)
	IPv6DHCP   IPv6Mode = "dhcp"   // from a DHCPv6 server; routers say the rest
	IPv6Off    IPv6Mode = "off"    // none, and no router advertisement is taken
)

// DefaultGrace is how long the address of a removed container is kept for it.
const DefaultGrace = 10 * time.Minute

// Policy is how a network's addresses are handed out. The zero value is the default.
type Policy struct {
	// Identity is sticky unless it is IdentityNone.
	Identity Identity `json:"identity,omitempty"`
	// NoACD turns address conflict detection off.
	NoACD bool `json:"no_acd,omitempty"`
	// Grace is how long the address of a removed container goes to nobody else;
	// 0 means DefaultGrace, and less than 0 no time.
	Grace time.Duration `json:"grace,omitempty"`
	// LeaseAhead is how many addresses of a pool that hosts share are claimed ahead.
	LeaseAhead int `json:"lease_ahead,omitempty"`
}

// Sticky reports whether a container that comes back gets the address that it had.
func (p Policy) Sticky() bool { return p.Identity != IdentityNone }

// GraceTime is the time that Grace means.
func (p Policy) GraceTime() time.Duration {
	if p.Grace == 0 {
		return DefaultGrace
	}
	return max(p.Grace, 0)
}

// PoolRequest is what Docker says of a subnet that a network is to have.
type PoolRequest struct {
	Subnet netip.Prefix
	// Range is --ip-range, the zero Prefix where there is none.
	Range netip.Prefix
	V6    bool
	// Options are the --ipam-opt ones.
	Options map[string]string
}

// PoolGrant is a pool that stands.
type PoolGrant struct {
	ID string
	// Subnet is the one that was asked for; 0.0.0.0/0 or ::/0 where only a DHCP server
	// knows it.
	Subnet netip.Prefix
	// NoGateway says that the network's gateway is for the DHCP server to say.
	NoGateway bool
}

// AddressRequest asks for an address of a pool.
type AddressRequest struct {
	PoolID string
	// Addr is the one that the user wants (--ip, --gateway, --aux-address); the
	// zero Addr leaves the choice to us.
	Addr netip.Addr
	// Gateway says that it is for the network's gateway.
	Gateway bool
	// Name is the container's (engines from 29 on), else "".
	Name string
}

// The --ipam-opt options.
const (
	OptIPAMParent = "parent" // which wire a pool is for
	OptIPAMSource = "source" // pool or dhcp
)

// PoolOptions are the --ipam-opt options of a pool.
type PoolOptions struct {
	// Parent is the wire that it is for, if that is said.
	Parent ParentSpec
	Source Source
	// LeaseAhead is as in Policy.
	LeaseAhead int
}

// ParsePoolOptions reads the --ipam-opt options of a pool.
func ParsePoolOptions(opts map[string]string) (o PoolOptions, err error) {
	for key, value := range opts {
		switch {
		case key == OptIPAMParent:
			if err := checkParentName(value); err != nil {
				return o, err
			}
			o.Parent.Name = value
		case key == OptIPAMSource:
			if o.Source, err = parseSource(value); err != nil {
				return o, err
			}
		case key == OptLeaseAhead:
			if o.LeaseAhead, err = parseLeaseAhead(value); err != nil {
				return o, err
			}
		case strings.HasPrefix(key, engineKey):
		default:
			return o, Refusef(ErrInvalid, "unknown --ipam-opt %q: there are %s=LINK, %s=dhcp and %s=N; all others are options of the driver, -o %s",
				key, OptIPAMParent, OptIPAMSource, OptLeaseAhead, key)
		}
	}
	if o.LeaseAhead > 0 && o.Source == SourceDHCP {
		return o, Refusef(ErrInvalid, "%s is for addresses that lanyard chooses, and the DHCP server chooses; leave one of them out", OptLeaseAhead)
	}
	return o, nil
}

// maxLeaseAhead is how many addresses of a pool are claimed ahead at most.
const maxLeaseAhead = 256

// parseLeaseAhead reads how many addresses are to be claimed ahead.
func parseLeaseAhead(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > maxLeaseAhead {
		return 0, Refusef(ErrInvalid, "%s=%s: want a number of addresses from 0 to %d", OptLeaseAhead, text, maxLeaseAhead)
	}
	return n, nil
}

// CheckLeaseAhead refuses addresses that are claimed ahead where none are shared with other
// hosts. The subnets have their sources by now; shared says that this host shares any.
func (n *Network) CheckLeaseAhead(shared bool) error {
	pool := func(s Subnet) bool { return s.Source == SourcePool && (n.Own || s.Leased) }
	switch {
	case n.LeaseAhead == 0:
		return nil
	case !shared:
		return Refusef(ErrInvalid, "%s is for addresses that hosts share in etcd, and this host shares none; try: lanyard daemon --store etcd://HOST, or leave it out", OptLeaseAhead)
	case n.Isolated():
		return Refusef(ErrInvalid, "%s is for addresses that hosts share, and a network without a parent shares none; try: -o parent=eth0", OptLeaseAhead)
	case !slices.ContainsFunc(n.IPv4, pool) && !slices.ContainsFunc(n.IPv6, pool):
		return Refusef(ErrInvalid, "%s is for addresses that lanyard chooses; try: --ipam-driver lanyard --subnet, or -o subnet=", OptLeaseAhead)
	}
	return nil
}

// parseSource reads pool or dhcp.
func parseSource(text string) (Source, error) {
	var s Source
	err := setWord(OptIPAMSource, text, &s, "pool", SourceDHCP)
	if s == "pool" {
		s = SourcePool
	}
	return s, err
}

// splitList splits what a user typed with commas.
func splitList(s string) []string {
	parts := strings.Split(s, ",")
	for i := range parts {
		parts[i] = strings.TrimSpace(parts[i])
	}
	return parts
}
