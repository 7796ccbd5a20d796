package lan

import (
	"net/netip"
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

// ParsePoolOptions reads the --ipam-opt options of a pool.
func ParsePoolOptions(opts map[string]string) (spec ParentSpec, source Source, err error) {
	for key, value := range opts {
		switch {
		case key == OptIPAMParent:
			if err := checkParentName(value); err != nil {
				return spec, source, err
			}
			spec.Name = value
		case key == OptIPAMSource:
			if source, err = parseSource(value); err != nil {
				return spec, source, err
			}
		case strings.HasPrefix(key, engineKey):
		default:
			return spec, source, Refusef(ErrInvalid, "unknown --ipam-opt %q: there are %s=LINK and %s=dhcp; all others are options of the driver, -o %s",
				key, OptIPAMParent, OptIPAMSource, key)
		}
	}
	return spec, source, nil
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
