package lan

import (
	"cmp"
	"errors"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// Scope is where an option is typed.
type Scope string

// The scopes.
const (
	OnNetwork  Scope = "network"  // docker network create -o KEY=VALUE
	OnEndpoint Scope = "endpoint" // docker run --network name=N,driver-opt=KEY=VALUE
)

// Option is a row of the option table: what a user may type, what it means,
// and how it is read. docs/options.md is generated from the table.
type Option struct {
	Name    string
	Scope   Scope
	Kinds   string // "macvlan", "ipvlan" or "both"
	Values  string
	Default string
	Doc     string
	network func(*Network, string) error // nil: the engine's business, accepted as it is
}

// Names of options that more than the table needs.
const (
	OptParent      = "parent"
	OptMacvlanMode = "macvlan_mode"
	OptIpvlanMode  = "ipvlan_mode"
	OptIpvlanFlag  = "ipvlan_flag"
	OptIfName      = "com.docker.network.endpoint.ifname"
	optSubnet      = "subnet"
	OptIP          = "ip"
	OptIdentity    = "identity"
	OptMAC         = "mac_address"
	OptHostname    = "hostname"
	OptClientID    = "dhcp_client_id"
	OptVendorClass = "dhcp_vendor_class"
	OptUserClass   = "dhcp_user_class"
	optSource      = "source"
	optIPv6        = "ipv6"
	optHostAddress = "host_address"
	OptLeaseAhead  = "lease_ahead"
)

// Options is the table of all options.
func Options() []Option {
	return []Option{
		{
			Name: OptParent, Scope: OnNetwork, Kinds: "both", Values: "link, link.VID, link.OUTER.INNER, altname", Default: "none",
			Doc: "The host's interface whose wire the containers share. A missing VLAN sub-interface is made, and removed " +
				"with the last network that uses it. Left out, the network is isolated on a dummy link.",
			network: func(n *Network, v string) error { n.Parent.Name = v; return checkParentName(v) },
		},
		{
			Name: "vlan", Scope: OnNetwork, Kinds: "both", Values: "1-4094, or OUTER.INNER", Default: "none",
			Doc: "VLAN tags on top of `parent`, the same as writing them behind its name: `-o parent=eth1 -o vlan=100`.",
			network: func(n *Network, v string) (err error) {
				n.Parent.VLAN, err = ParseVLAN(v)
				return err
			},
		},
		{
			Name: "vlan_protocol", Scope: OnNetwork, Kinds: "both", Values: "802.1q, 802.1ad", Default: "802.1q; 802.1ad for the outer of two tags",
			Doc: "Protocol of the outer VLAN tag of a sub-interface that lanyard makes.",
			network: func(n *Network, v string) (err error) {
				n.Parent.Proto, err = ParseVLANProto(v)
				return err
			},
		},
		{
			Name: OptMacvlanMode, Scope: OnNetwork, Kinds: "macvlan", Values: "bridge, private, vepa, passthru", Default: "bridge",
			Doc: "How containers of one parent reach each other: directly (bridge), not at all (private), by a switch that " +
				"reflects (vepa); passthru gives the parent to one container alone.",
			network: func(n *Network, v string) error {
				return setWord(OptMacvlanMode, v, &n.Mode, ModeBridge, ModePrivate, ModeVepa, ModePassthru)
			},
		},
		{
			Name: OptIpvlanMode, Scope: OnNetwork, Kinds: "ipvlan", Values: "l2, l3, l3s", Default: "l2",
			Doc: "Makes the network ipvlan: all containers have the parent's MAC address. l2 switches; l3 and l3s route, " +
				"without ARP, broadcast or gateway.",
			network: func(n *Network, v string) error {
				return setWord(OptIpvlanMode, v, &n.Mode, ModeL2, ModeL3, ModeL3S)
			},
		},
		{
			Name: OptIpvlanFlag, Scope: OnNetwork, Kinds: "ipvlan", Values: "bridge, private, vepa", Default: "bridge",
			Doc: "How ipvlan containers of one parent reach each other. Makes the network ipvlan.",
			network: func(n *Network, v string) error {
				return setWord(OptIpvlanFlag, v, &n.Flag, FlagBridge, FlagPrivate, FlagVepa)
			},
		},
		{
			Name: "gateway", Scope: OnNetwork, Kinds: "both", Values: "auto, none; with `subnet`: addresses", Default: "auto",
			Doc: "auto uses `--gateway`, or the address that the IPAM driver sets aside; none gives the containers no default " +
				"route (Docker from 26.1 on then answers no outside names in them). With the option `subnet`, the gateways of the subnets.",
			network: setGateway,
		},
		{
			Name: "host_access", Scope: OnNetwork, Kinds: "both", Values: "true, false", Default: "false",
			Doc: "Lets the host and the containers reach each other, which macvlan and ipvlan do not: by a link of the host's (a shim) that has " +
				"no address and a host route for each container. For macvlan bridge and ipvlan l2; docs/host-access.md.",
			network: func(n *Network, v string) error {
				return setSwitch("host_access", v, &n.HostAccess, "true", "false")
			},
		},
		{
			Name: optHostAddress, Scope: OnNetwork, Kinds: "both", Values: "auto, ADDRESS[,ADDRESS]", Default: "none",
			Doc: "Host access (which it turns on) with an address of the host's own on the network, one of each family: taken from the " +
				"network's pools (auto; with lanyard's IPAM driver or `subnet`), or this one. With Docker's own IPAM driver it is to be an " +
				"`--aux-address` as well.",
			network: setHostAddress,
		},
		{
			Name: "antispoof", Scope: OnNetwork, Kinds: "both", Values: "true, false", Default: "false",
			Doc: "Keeps each container to its own MAC address and addresses: what it sends with another sender is dropped, in Ethernet, ARP, " +
				"IPv4, IPv6 and neighbour discovery. docs/antispoof.md says what that can and cannot see. Not for passthru.",
			network: func(n *Network, v string) error {
				return setSwitch("antispoof", v, &n.AntiSpoof, "true", "false")
			},
		},
		{
			Name: optSubnet, Scope: OnNetwork, Kinds: "both", Values: "PREFIX[,PREFIX...], IPv4 or IPv6", Default: "the IPAM driver's",
			Doc: "For `--ipam-driver null`: lanyard chooses the address when it knows the container's MAC address and options. " +
				"This is the shape for identity on engines before 29.",
			network: func(n *Network, v string) error {
				for _, text := range splitList(v) {
					p, err := parsePrefix("subnet", text)
					if err != nil {
						return err
					}
					n.addOwn(Subnet{Pool: p})
				}
				return nil
			},
		},
		{
			Name: "ip_range", Scope: OnNetwork, Kinds: "both", Values: "PREFIX[,PREFIX...]", Default: "all of `subnet`",
			Doc: "With `subnet`: the parts that containers get addresses from, the same as `--ip-range`.",
			network: func(n *Network, v string) error {
				return n.eachOwn("ip_range", v, func(s *Subnet, text string) (bool, error) {
					p, err := parsePrefix("ip_range", text)
					if err != nil || !s.Pool.Contains(p.Addr()) || p.Bits() < s.Pool.Bits() {
						return false, err
					}
					s.Range = p
					return true, nil
				})
			},
		},
		{
			Name: "aux_address", Scope: OnNetwork, Kinds: "both", Values: "ADDRESS[,ADDRESS...]", Default: "none",
			Doc: "With `subnet`: addresses that no container gets, the same as `--aux-address`.",
			network: func(n *Network, v string) error {
				return n.eachOwn("aux_address", v, func(s *Subnet, text string) (bool, error) {
					a, err := parseAddr("aux_address", text)
					if err != nil || !s.Pool.Contains(a) {
						return false, err
					}
					s.Aux = append(s.Aux, a)
					return true, nil
				})
			},
		},
		{
			Name: "acd", Scope: OnNetwork, Kinds: "both", Values: "on, off", Default: "on",
			Doc: "Address conflict detection (RFC 5227, RFC 4862): an address that some device on the wire uses is not given to a " +
				"container. Only for addresses that lanyard chooses; there is none on ipvlan l3 and on isolated networks.",
			network: func(n *Network, v string) error {
				var on bool
				err := setSwitch("acd", v, &on, "on", "off")
				n.NoACD = err == nil && !on
				return err
			},
		},
		{
			Name: "identity", Scope: OnNetwork, Kinds: "both", Values: "sticky, none", Default: "sticky",
			Doc: "sticky gives a container that comes back the address, and with it the MAC address, that it had, if it can be " +
				"told for certain that it is the same: docs/engines.md says when. none does not.",
			network: func(n *Network, v string) error {
				return setWord("identity", v, &n.Identity, IdentitySticky, IdentityNone)
			},
		},
		{
			Name: "grace", Scope: OnNetwork, Kinds: "both", Values: "0s to 720h", Default: "10m",
			Doc: "How long the address of a removed container is kept for it, and goes to nobody else even if the pool is full.",
			network: func(n *Network, v string) error {
				d, err := time.ParseDuration(v)
				if err != nil || d < 0 || d > 720*time.Hour {
					return Refusef(ErrInvalid, "grace %q: want a time such as 10m, from 0s to 720h", v)
				}
				if n.Grace = d; d == 0 {
					n.Grace = -1
				}
				return nil
			},
		},
		{
			Name: OptLeaseAhead, Scope: OnNetwork, Kinds: "both", Values: "0 to 256", Default: "0",
			Doc: "Where hosts share addresses (docs/cluster.md): how many addresses of each pool this host claims ahead, to give them out while " +
				"etcd cannot be asked; never more than a quarter of the pool. With `--ipam-driver lanyard` it may be an `--ipam-opt` as well.",
			network: func(n *Network, v string) (err error) {
				n.LeaseAhead, err = parseLeaseAhead(v)
				return err
			},
		},
		{
			Name: optIPv6, Scope: OnNetwork, Kinds: "both", Values: "static, slaac, dhcp, off", Default: "static with an IPv6 subnet, else off",
			Doc: "static takes the address from the subnet and ignores router advertisements; slaac lets the container make its " +
				"own from router advertisements (RFC 4862), without `--ipv6`; dhcp is for DHCPv6 with `--ipam-driver null`; off gives none. Not given, the engine's habit holds: " +
				"as static or off, but router advertisements are heeded where there is an IPv6 subnet.",
			network: func(n *Network, v string) error {
				return setWord("ipv6", v, &n.IPv6Mode, IPv6Static, IPv6SLAAC, IPv6DHCP, IPv6Off)
			},
		},
		{
			Name: optSource, Scope: OnNetwork, Kinds: "both", Values: "dhcp", Default: "Docker's IPAM driver",
			Doc: "For `--ipam-driver null`: addresses come from the site's DHCP server, which is asked when lanyard knows the " +
				"container's MAC address and options. `subnet` may be given as a check. With `--ipam-driver lanyard` it is `--ipam-opt source=dhcp`.",
			network: func(*Network, string) error { return nil }, // read before all others
		},
		{
			Name: "dhcp_server", Scope: OnNetwork, Kinds: "both", Values: "ADDRESS[,ADDRESS...]", Default: "any",
			Doc: "With DHCP: the only servers whose answers are taken, by server identifier (of DHCPv6 by the address that they answer from).",
			network: func(n *Network, v string) (err error) {
				n.DHCP.Servers, err = parseAddrs("dhcp_server", v)
				return err
			},
		},
		{
			Name: "dhcp_deny", Scope: OnNetwork, Kinds: "both", Values: "ADDRESS[,ADDRESS...]", Default: "none",
			Doc: "With DHCP: servers whose answers are not taken.",
			network: func(n *Network, v string) (err error) {
				n.DHCP.Deny, err = parseAddrs("dhcp_deny", v)
				return err
			},
		},
		{
			Name: "dhcp_timeout", Scope: OnNetwork, Kinds: "both", Values: "1s to 2m", Default: "10s",
			Doc: "With DHCP: how long a container that starts waits for a lease.",
			network: func(n *Network, v string) error {
				d, err := time.ParseDuration(v)
				if err != nil || d < time.Second || d > 2*time.Minute {
					return Refusef(ErrInvalid, "dhcp_timeout %q: want a time such as 15s, from 1s to 2m", v)
				}
				n.DHCP.Timeout = d
				return nil
			},
		},
		{
			Name: "dhcp_fallback", Scope: OnNetwork, Kinds: "both", Values: "lease, none, PREFIX", Default: "lease",
			Doc: "With DHCP, when no server answers: lease takes the container's last lease if it has not ended; none takes nothing; " +
				"a prefix of the network's subnet, which must be given, takes an address of it as well, until a server answers.",
			network: func(n *Network, v string) (err error) {
				switch v {
				case "lease":
				case "none":
					n.DHCP.NoLastLease = true
				default:
					n.DHCP.Fallback, err = parsePrefix("dhcp_fallback", v)
				}
				return err
			},
		},
		{
			Name: "release", Scope: OnNetwork, Kinds: "both", Values: "remove, stop, never", Default: "remove",
			Doc: "With DHCP: when the lease is given back. stop is when the container ends; remove is when it has not come back within `grace` " +
				"(Docker tells a plugin that a container has ended, not that it was removed); never lets the lease run out.",
			network: func(n *Network, v string) error {
				return setWord("release", v, &n.DHCP.Release, ReleaseRemove, ReleaseStop, ReleaseNever)
			},
		},
		{
			Name: OptClientID, Scope: OnNetwork, Kinds: "both", Values: "auto, mac, none", Default: "auto",
			Doc: "With DHCP: the client identifier (option 61). auto follows from who the container is and stays with it (RFC 4361); mac is " +
				"the MAC address; none lets servers go by the MAC address.",
			network: func(n *Network, v string) error {
				var word string
				if err := setWord(OptClientID, v, &word, "auto", ClientIDMAC, ClientIDNone); err != nil {
					return err
				}
				if word != "auto" {
					n.DHCP.ClientID = word
				}
				return nil
			},
		},
		{
			Name: OptVendorClass, Scope: OnNetwork, Kinds: "both", Values: "1 to 128 characters", Default: "none",
			Doc: "With DHCP: the vendor class (option 60).",
			network: func(n *Network, v string) error {
				n.DHCP.VendorClass = v
				return checkClass(OptVendorClass, v)
			},
		},
		{
			Name: OptUserClass, Scope: OnNetwork, Kinds: "both", Values: "CLASS[,CLASS...]", Default: "none",
			Doc: "With DHCP: the user classes (option 77, RFC 3004).",
			network: func(n *Network, v string) error {
				n.DHCP.UserClass = splitList(v)
				return checkClass(OptUserClass, n.DHCP.UserClass...)
			},
		},
		{
			Name: "dhcp_domain", Scope: OnNetwork, Kinds: "both", Values: "a domain name", Default: "none",
			Doc: "With DHCP: the server is asked to register the container's name in this domain (option 81, RFC 4702).",
			network: func(n *Network, v string) error {
				if n.DHCP.Domain = strings.TrimSuffix(v, "."); !IsDomain(n.DHCP.Domain) {
					return Refusef(ErrInvalid, "dhcp_domain %q is not a domain name", v)
				}
				return nil
			},
		},
		{
			Name: "dhcp_rapid_commit", Scope: OnNetwork, Kinds: "both", Values: "on, off", Default: "off",
			Doc: "With DHCP: asks for a lease in one round trip (RFC 4039). Each server that hears it sets an address aside, so it is for wires with one.",
			network: func(n *Network, v string) error {
				return setSwitch("dhcp_rapid_commit", v, &n.DHCP.RapidCommit, "on", "off")
			},
		},
		{
			Name: "com.docker.network.driver.mtu", Scope: OnNetwork, Kinds: "both", Values: "68 to the parent's MTU", Default: "the parent's",
			Doc:     "MTU of the containers' links in bytes; at least 1280 with IPv6.",
			network: setMTU,
		},
		{
			Name: "ifname", Scope: OnNetwork, Kinds: "both", Values: "1 to 15 characters", Default: "the engine's eth0, eth1, ...",
			Doc:     "Name of the link inside the containers of this network. Engines before 29 ignore it; lanyard then warns.",
			network: setIfName,
		},
		{
			Name: OptIfName, Scope: OnNetwork, Kinds: "both", Values: "1 to 15 characters", Default: "the engine's eth0, eth1, ...",
			Doc:     "The same as `ifname`.",
			network: setIfName,
		},
		{
			Name: "com.docker.network.enable_ipv4", Scope: OnNetwork, Kinds: "both", Values: "true, false", Default: "true",
			Doc: "Read by the engine (28 and newer).",
		},
		{
			Name: "com.docker.network.enable_ipv6", Scope: OnNetwork, Kinds: "both", Values: "true, false", Default: "false",
			Doc: "Read by the engine (28 and newer); `--ipv6` on all.",
		},
		{
			Name: "com.docker.network.advertise_addr_nmsgs", Scope: OnNetwork, Kinds: "both", Values: "0-3", Default: "3",
			Doc: "Number of gratuitous ARP or neighbour advertisement messages when a container starts; the engine's from 28 on, ours before.",
			network: func(n *Network, v string) error {
				count, err := strconv.Atoi(v)
				if err != nil || count < 0 || count > 3 {
					return Refusef(ErrInvalid, "com.docker.network.advertise_addr_nmsgs %q must be in the range 0 to 3", v)
				}
				if n.Announce.Count = count; count == 0 {
					n.Announce.Count = -1
				}
				return nil
			},
		},
		{
			Name: "com.docker.network.advertise_addr_ms", Scope: OnNetwork, Kinds: "both", Values: "100-2000", Default: "1000",
			Doc: "Milliseconds between them.",
			network: func(n *Network, v string) error {
				ms, err := strconv.Atoi(v)
				if err != nil || ms < 100 || ms > 2000 {
					return Refusef(ErrInvalid, "com.docker.network.advertise_addr_ms %q must be in the range 100 to 2000", v)
				}
				n.Announce.Every = time.Duration(ms) * time.Millisecond
				return nil
			},
		},
		{
			Name: OptIfName, Scope: OnEndpoint, Kinds: "both", Values: "1 to 15 characters", Default: "the network's `ifname`",
			Doc: "Name of the link inside this container. Engines before 29 ignore it; lanyard then warns.",
		},
		{
			Name: OptIP, Scope: OnEndpoint, Kinds: "both", Values: "ADDRESS[,ADDRESS]", Default: "lanyard chooses",
			Doc: "With the network's option `subnet`: the address of this container, IPv4, IPv6 or both. (Docker drops `--ip` there.)",
		},
		{
			Name: OptIdentity, Scope: OnEndpoint, Kinds: "both", Values: "1 to 128 characters", Default: "the user's MAC address, if any",
			Doc: "With the network's option `subnet` or `source`: who this container is. The same word gets the same address again.",
		},
		{
			Name: OptMAC, Scope: OnEndpoint, Kinds: "macvlan", Values: "MAC address", Default: "`--mac-address`, or the same one for the same address",
			Doc: "The MAC address of the link, for `docker network connect`, which has no flag for it.",
		},
		{
			Name: OptHostname, Scope: OnEndpoint, Kinds: "both", Values: "a host name", Default: "the container's name, where the engine says it (29 and newer)",
			Doc: "With DHCP: the name that the server is told (option 12).",
		},
		{
			Name: OptClientID, Scope: OnEndpoint, Kinds: "both", Values: "auto, mac, none, hex digits with colons, or text", Default: "the network's",
			Doc: "With the network's option `source`: the client identifier (option 61) of this container.",
		},
		{
			Name: OptVendorClass, Scope: OnEndpoint, Kinds: "both", Values: "1 to 128 characters", Default: "the network's",
			Doc: "With the network's option `source`: the vendor class (option 60).",
		},
		{
			Name: OptUserClass, Scope: OnEndpoint, Kinds: "both", Values: "CLASS[,CLASS...]", Default: "the network's",
			Doc: "With the network's option `source`: the user classes (option 77).",
		},
		{
			Name: "com.docker.network.endpoint.sysctls", Scope: OnEndpoint, Kinds: "both", Values: "NAME=VALUE,...", Default: "none",
			Doc: "Read by the engine (27 and newer): sysctls of the link.",
		},
	}
}

// setSwitch reads an option of two words.
func setSwitch(option, v string, to *bool, yes, no string) error {
	var word string
	err := setWord(option, v, &word, yes, no)
	*to = word == yes
	return err
}

// setGateway reads auto, none, or the gateways of the subnets that are options.
func setGateway(n *Network, v string) error {
	if !n.Own || v == string(GatewayAuto) || v == string(GatewayNone) {
		return setWord("gateway", v, &n.Gateway, GatewayAuto, GatewayNone)
	}
	return n.eachOwn("gateway", v, func(s *Subnet, text string) (bool, error) {
		a, err := parseAddr("gateway", text)
		if err != nil || !s.Pool.Contains(a) || s.Gateway.IsValid() {
			return false, err
		}
		s.Gateway = a
		return true, nil
	})
}

// setSource makes a DHCP server the source of the subnets that are options, or of one
// that only it knows where there are none.
func (n *Network) setSource(source, ipv6 string) error {
	if source == "" {
		return nil
	}
	what, err := parseSource(source)
	if err != nil || what == SourcePool {
		return err
	}
	n.Own = true
	if len(n.IPv4) == 0 {
		n.IPv4 = []Subnet{{Pool: AnySubnet(false)}}
	}
	if len(n.IPv6) == 0 && ipv6 == string(IPv6DHCP) {
		n.IPv6 = []Subnet{{Pool: AnySubnet(true)}}
	}
	for _, subnets := range [][]Subnet{n.IPv4, n.IPv6} {
		if len(subnets) > 1 {
			return Refusef(ErrInvalid, "-o source=dhcp takes one subnet of a family, as a check of what servers offer")
		}
		for i := range subnets {
			subnets[i].Source = SourceDHCP
		}
	}
	return nil
}

// CheckDHCP refuses what DHCP cannot do, and options that are for DHCP alone. The subnets
// have their sources by now.
func (n *Network) CheckDHCP() error {
	if !n.Leases() {
		if !n.DHCP.IsZero() {
			return Refusef(ErrInvalid, "options dhcp_... and release are for networks whose addresses a DHCP server gives; try: --ipam-driver lanyard --ipam-opt source=dhcp")
		}
		if n.IPv6Mode == IPv6DHCP {
			return Refusef(ErrInvalid, "ipv6=dhcp goes with -o source=dhcp; with Docker's IPAM driver lanyard it is: --ipv6 --ipam-opt source=dhcp")
		}
		return nil
	}
	f := n.DHCP.Fallback
	switch {
	case len(n.IPv4) > 1 || len(n.IPv6) > 1:
		return Refusef(ErrInvalid, "with DHCP a network has one subnet of a family, as a check of what servers offer, or none")
	case n.Kind == Ipvlan && (n.DHCP.ClientID == ClientIDMAC || n.DHCP.ClientID == ClientIDNone):
		return Refusef(ErrInvalid, "dhcp_client_id=%s: ipvlan containers all have their parent's MAC address, so servers could not tell them apart", n.DHCP.ClientID)
	case n.L3():
		return Refusef(ErrInvalid, "DHCP needs broadcast, and ipvlan mode %s has none; try: -o ipvlan_mode=l2, or macvlan", n.Mode)
	case n.Isolated():
		return Refusef(ErrInvalid, "DHCP needs a wire, and a network without a parent has none; try: -o parent=eth0")
	case n.Mode == ModePassthru && FromDHCP(n.IPv6):
		return Refusef(ErrInvalid, "DHCPv6 is not there for mode passthru: its messages would leave the host's own stack; try: -o ipv6=slaac")
	case f.IsValid() && !slices.ContainsFunc(n.IPv4, func(s Subnet) bool {
		return s.Pool.Bits() > 0 && s.Pool.Contains(f.Addr()) && f.Bits() >= s.Pool.Bits()
	}):
		return Refusef(ErrInvalid, "dhcp_fallback=%s is in no IPv4 subnet of the network, which says the length and the gateway; try: --subnet and --gateway", f)
	}
	return nil
}

// addOwn adds a subnet that is an option.
func (n *Network) addOwn(s Subnet) {
	n.Own = true
	if s.Pool.Addr().Is4() {
		n.IPv4 = append(n.IPv4, s)
	} else {
		n.IPv6 = append(n.IPv6, s)
	}
}

// eachOwn gives each text of a list to the first subnet that is an option and takes it.
func (n *Network) eachOwn(option, list string, give func(s *Subnet, text string) (taken bool, err error)) error {
	if !n.Own {
		return Refusef(ErrInvalid, "-o %s=%s goes with -o subnet=; try: -o subnet=192.168.0.0/16, with --ipam-driver null", option, list)
	}
next:
	for _, text := range splitList(list) {
		for _, subnets := range [][]Subnet{n.IPv4, n.IPv6} {
			for i := range subnets {
				taken, err := give(&subnets[i], text)
				if err != nil {
					return err
				}
				if taken {
					continue next
				}
			}
		}
		return Refusef(ErrInvalid, "-o %s=%s is in no subnet of -o subnet=", option, text)
	}
	return nil
}

func parsePrefix(option, text string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4In6() || p.Bits() == 0 {
		return netip.Prefix{}, Refusef(ErrInvalid, "%s %q: want an address and a length such as 192.168.0.0/16", option, text)
	}
	if p != p.Masked() {
		return netip.Prefix{}, Refusef(ErrInvalid, "%s %s has bits behind its length; did you mean %s?", option, text, p.Masked())
	}
	return p, nil
}

func parseAddr(option, text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || a.Zone() != "" || a.Is4In6() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
		return netip.Addr{}, Refusef(ErrInvalid, "%s %q is not an address of a host", option, text)
	}
	return a, nil
}

// parseAddrs reads addresses that a user typed with commas.
func parseAddrs(option, list string) (addrs []netip.Addr, err error) {
	for _, text := range splitList(list) {
		a, err := parseAddr(option, text)
		if err != nil {
			return nil, err
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

// checkClass refuses what cannot be a vendor or user class.
func checkClass(option string, classes ...string) error {
	for _, c := range classes {
		if c == "" || len(c) > 128 || !utf8.ValidString(c) {
			return Refusef(ErrInvalid, "%s %q: want 1 to 128 characters", option, c)
		}
	}
	return nil
}

// IsDomain reports whether a name can stand in DNS (RFC 1123 section 2.1).
func IsDomain(name string) bool {
	if len(name) == 0 || len(name) > 253 {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		bad := func(r rune) bool {
			return (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && r != '-'
		}
		if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' || strings.ContainsFunc(label, bad) {
			return false
		}
	}
	return true
}

func setIfName(n *Network, v string) error {
	if n.IfName != "" && n.IfName != v {
		return Refusef(ErrInvalid, "interface name given twice: %q and %q", n.IfName, v)
	}
	n.IfName = v
	return CheckIfName(v)
}

func setHostAddress(n *Network, v string) error {
	n.HostAuto = v == "auto"
	if n.HostAuto {
		return nil
	}
	for _, text := range splitList(v) {
		a, err := netip.ParseAddr(text)
		if err != nil || a.Zone() != "" || a.Is4In6() {
			return Refusef(ErrInvalid, "%s=%s: want auto, or addresses such as 192.168.0.9 or fd00::9", optHostAddress, v)
		}
		if slices.ContainsFunc(n.HostAddrs, func(b netip.Addr) bool { return a.Is4() == b.Is4() }) {
			return Refusef(ErrInvalid, "%s=%s has two addresses of one family; give one of each at most", optHostAddress, v)
		}
		n.HostAddrs = append(n.HostAddrs, a)
	}
	return nil
}

// checkHostAddrs refuses addresses of the host's own that a container could be given, or
// that nobody can have.
func (n *Network) checkHostAddrs() error {
	if n.HostAuto && !n.Manages() {
		return Refusef(ErrInvalid, "%s=auto takes an address from a pool of lanyard's, and this network has none; try: --ipam-driver lanyard, or --aux-address host=ADDRESS -o %[1]s=ADDRESS", optHostAddress)
	}
	for _, a := range n.HostAddrs {
		s, ok := n.SubnetOf(a)
		switch {
		case !ok || s.Pool.Bits() == 0:
			return Refusef(ErrInvalid, "%s=%s is in no subnet of the network; try: --subnet", optHostAddress, a)
		case a == s.Gateway:
			return Refusef(ErrInvalid, "%s=%s is the gateway of the network", optHostAddress, a)
		case !n.Own && !s.Leased && !slices.Contains(s.Aux, a):
			return Refusef(ErrInvalid, "Docker's own IPAM driver could give %s to a container; try: --aux-address host=%[1]s", a)
		}
	}
	return nil
}

func setMTU(n *Network, v string) error {
	mtu, err := strconv.Atoi(v)
	if err != nil || mtu < 68 || mtu > 65535 {
		return Refusef(ErrInvalid, "MTU %q: want a number of bytes from 68 to 65535", v)
	}
	n.MTU = mtu
	return nil
}

// setWord sets dst to value if that is one of the words.
func setWord[T ~string](option, value string, dst *T, words ...T) error {
	if i := slices.Index(words, T(value)); i >= 0 {
		*dst = words[i]
		return nil
	}
	list := make([]string, len(words))
	for i, w := range words {
		list[i] = string(w)
	}
	hint := ""
	if near := Nearest(value, list); near != "" {
		hint = "; did you mean " + near + "?"
	}
	return Refusef(ErrInvalid, "requested %s '%s' is not valid: it is one of %s%s",
		strings.ReplaceAll(option, "_", " "), value, strings.Join(list, ", "), hint)
}

// NetworkRequest is what docker network create says, decoded but not checked.
type NetworkRequest struct {
	ID       string
	Options  map[string]string // -o KEY=VALUE
	Internal bool
	// WantIPv4 and WantIPv6 are what the engine says it enabled.
	WantIPv4, WantIPv6 bool
	IPv4, IPv6         []Subnet
}

// ParseNetwork checks a request and makes the network of it. It looks at
// nothing but the request: whether the parent exists is for the kernel to say.
func ParseNetwork(r NetworkRequest) (*Network, error) {
	if err := CheckID("network id", r.ID); err != nil {
		return nil, err
	}
	n, err := ParseOptions(r.Options, r.Internal)
	if err != nil {
		return nil, err
	}
	n.ID = r.ID
	if err := n.takeSubnets(r); err != nil {
		return nil, err
	}
	for _, s := range n.IPv4 {
		if err := s.check("IPv4", netip.Addr.Is4); err != nil {
			return nil, err
		}
	}
	for _, s := range n.IPv6 {
		if err := s.check("IPv6", isPlain6); err != nil {
			return nil, err
		}
	}
	if err := n.checkHostAddrs(); err != nil {
		return nil, err
	}
	ipv6 := len(n.IPv6) > 0 || n.IPv6Mode == IPv6SLAAC
	switch {
	case n.MTU != 0 && n.MTU < 1280 && ipv6:
		return nil, Refusef(ErrInvalid, "MTU %d is below 1280, the least that IPv6 needs (RFC 8200 section 5)", n.MTU)
	case n.IPv6Mode == IPv6Static && len(n.IPv6) == 0:
		return nil, Refusef(ErrInvalid, "ipv6=static needs a subnet to take addresses from; try: --ipv6 --subnet fd00:1::/64")
	case n.IPv6Mode == IPv6SLAAC && len(n.IPv6) > 0:
		return nil, Refusef(ErrInvalid, "ipv6=slaac takes addresses from routers, and the network has IPv6 subnet %s; leave --ipv6 and that subnet out", n.IPv6[0].Pool)
	case n.IPv6Mode == IPv6Off && len(n.IPv6) > 0:
		return nil, Refusef(ErrInvalid, "ipv6=off, and the network has IPv6 subnet %s; leave one of them out", n.IPv6[0].Pool)
	case n.IPv6Mode == IPv6SLAAC && (n.Isolated() || n.L3()):
		return nil, Refusef(ErrInvalid, "ipv6=slaac needs a router on the wire, and there is none for an isolated network, nor for ipvlan mode l3 or l3s")
	}
	return n, nil
}

// takeSubnets takes in the subnets that the IPAM driver chose, or keeps those of the
// options, with which that driver must be null.
func (n *Network) takeSubnets(r NetworkRequest) error {
	if n.Own {
		for _, s := range slices.Concat(r.IPv4, r.IPv6) {
			if s.Pool.IsValid() && s.Pool.Bits() > 0 {
				return Refusef(ErrInvalid, "-o subnet= is for --ipam-driver null, and the network has subnet %s of another IPAM driver", s.Pool)
			}
		}
		return nil
	}
	if r.WantIPv4 {
		if len(r.IPv4) == 0 {
			return Refusef(ErrInvalid, "ipv4 pool is empty")
		}
		n.IPv4 = r.IPv4
	}
	if r.WantIPv6 {
		if len(r.IPv6) == 0 {
			return Refusef(ErrInvalid, "ipv6 pool is empty")
		}
		n.IPv6 = r.IPv6
	}
	return nil
}

// check refuses a subnet of which a part is not of the family.
func (s Subnet) check(family string, is func(netip.Addr) bool) error {
	if !s.Pool.IsValid() || !is(s.Pool.Addr()) {
		return Refusef(ErrInvalid, "%s subnet %s is not %s", family, s.Pool, family)
	}
	if s.Gateway.IsValid() && !is(s.Gateway) {
		return Refusef(ErrInvalid, "%s subnet %s: gateway %s is not %s", family, s.Pool, s.Gateway, family)
	}
	return nil
}

// isPlain6 leaves out IPv4 in IPv6 clothes (::ffff:192.0.2.1).
func isPlain6(a netip.Addr) bool { return a.Is6() && !a.Is4In6() }

// ParseOptions reads the -o options of a network alone, as GwAllocCheck sends
// them: without an ID and without addresses.
func ParseOptions(opts map[string]string, internal bool) (*Network, error) {
	n := &Network{Internal: internal, Kind: Macvlan, Gateway: GatewayAuto}
	table := map[string]Option{}
	for _, o := range Options() {
		if o.Scope == OnNetwork {
			table[o.Name] = o
		}
	}
	has := func(key string) bool { _, ok := opts[key]; return ok }
	if has(OptIpvlanMode) || has(OptIpvlanFlag) {
		if has(OptMacvlanMode) {
			return nil, Refusef(ErrInvalid, "%s makes a macvlan network and %s an ipvlan network: give one of them", OptMacvlanMode, OptIpvlanMode)
		}
		n.Kind = Ipvlan
	}
	if v := opts[optSubnet]; v != "" {
		// First: others are about its subnets.
		if err := table[optSubnet].network(n, v); err != nil {
			return nil, err
		}
	}
	if err := n.setSource(opts[optSource], opts[optIPv6]); err != nil {
		return nil, err
	}
	for _, key := range slices.Sorted(maps.Keys(opts)) {
		o, ok := table[key]
		if !ok {
			return nil, unknownOption(key, OnNetwork)
		}
		// An empty value leaves the default, as with the built-in drivers.
		if opts[key] == "" || o.network == nil {
			continue
		}
		if key == optSubnet || key == optSource {
			continue // read above
		}
		if err := o.network(n, opts[key]); err != nil {
			return nil, err
		}
	}
	switch n.Kind {
	case Macvlan:
		if n.Mode == "" {
			n.Mode = ModeBridge
		}
	case Ipvlan:
		if n.Mode == "" {
			n.Mode = ModeL2
		}
		if n.Flag == "" {
			n.Flag = FlagBridge
		}
	}
	if n.Parent.Name == "" {
		if len(n.Parent.VLAN) > 0 || n.Parent.Proto != 0 {
			return nil, Refusef(ErrInvalid, "a VLAN needs a parent; try: -o parent=eth0 -o vlan=100")
		}
		n.Internal = true
	}
	if n.AntiSpoof && n.Mode == ModePassthru {
		return nil, Refusef(ErrInvalid, "antispoof is for parents that the host has a part in, and macvlan_mode=passthru gives this one to a single container; try: -o macvlan_mode=bridge")
	}
	if n.HostAuto || len(n.HostAddrs) > 0 {
		if opts["host_access"] == "false" {
			return nil, Refusef(ErrInvalid, "%s is for host access, and host_access=false; leave one of them out", optHostAddress)
		}
		n.HostAccess = true
	}
	if n.HostAccess {
		return n, n.checkHostAccess()
	}
	return n, nil
}

// checkHostAccess refuses host access where there can be none.
func (n *Network) checkHostAccess() error {
	switch {
	case n.Internal:
		return Refusef(ErrInvalid, "host_access is not for an internal network, nor for one without a parent: its containers reach each other and nothing else")
	case n.Mode == ModePassthru:
		return Refusef(ErrInvalid, "host_access needs a second link on the parent, which macvlan_mode=passthru gives to one container alone; try: -o macvlan_mode=bridge")
	case n.L3():
		return Refusef(ErrInvalid, "host_access is for ipvlan_mode=l2; with %s the kernel routes: give the host an address and a route on an ipvlan link of its own", n.Mode)
	case n.Kind == Macvlan && n.Mode != ModeBridge || n.Kind == Ipvlan && n.Flag != FlagBridge:
		return Refusef(ErrInvalid, "host_access needs links of one parent that reach each other, and in mode %s they do not; try: -o macvlan_mode=bridge or -o ipvlan_mode=l2", cmp.Or(string(n.Flag), string(n.Mode)))
	}
	return nil
}

// EndpointOptions are the driver-opts of one container on one network.
type EndpointOptions struct {
	IfName string
	// MAC is the link's address; nil leaves it to Docker's request.
	MAC net.HardwareAddr
	// IP and Identity are for networks whose subnets are options of theirs.
	IP       []netip.Addr
	Identity string
	// What DHCP servers are told of the container; "" and nil leave it to the network.
	Hostname, ClientID, VendorClass string
	UserClass                       []string
}

// engineKey is the prefix of the keys that engines add on their own.
const engineKey = "com.docker.network."

// ParseEndpointOptions reads the driver options of an endpoint. Keys of the
// engine's own (com.docker.network.*) pass, whatever engine adds them; any
// other key that is not in the table is refused.
func ParseEndpointOptions(opts map[string]any) (EndpointOptions, error) {
	var out EndpointOptions
	for _, key := range slices.Sorted(maps.Keys(opts)) {
		text, isText := opts[key].(string)
		ours := slices.Contains([]string{OptIfName, OptIP, OptIdentity, OptMAC, OptHostname, OptClientID, OptVendorClass, OptUserClass}, key)
		switch {
		case ours && !isText:
			return out, Refusef(ErrInvalid, "option %s: want text", key)
		case ours && text == "":
		case key == OptIfName:
			if err := CheckIfName(text); err != nil {
				return out, err
			}
			out.IfName = text
		case key == OptIP:
			for _, one := range splitList(text) {
				a, err := parseAddr("ip", one)
				if err != nil {
					return out, err
				}
				if slices.ContainsFunc(out.IP, func(b netip.Addr) bool { return a.Is4() == b.Is4() }) {
					return out, Refusef(ErrInvalid, "ip=%s: one address of a family", text)
				}
				out.IP = append(out.IP, a)
			}
		case key == OptIdentity:
			if len(text) > 128 || strings.ContainsFunc(text, notPrintable) {
				return out, Refusef(ErrInvalid, "identity %q: want 1 to 128 characters without white space", text)
			}
			out.Identity = text
		case key == OptMAC:
			mac, err := ParseMAC(text)
			if err != nil {
				return out, err
			}
			out.MAC = mac
		case key == OptHostname:
			if out.Hostname = text; !IsDomain(text) {
				return out, Refusef(ErrInvalid, "hostname %q: want letters, digits and '-', at most 63 of them between dots", text)
			}
		case key == OptClientID:
			if out.ClientID = text; len(text) > 255 || strings.ContainsFunc(text, notPrintable) {
				return out, Refusef(ErrInvalid, "%s %q: want 1 to 255 characters without white space", key, text)
			}
		case key == OptVendorClass:
			out.VendorClass = text
			if err := checkClass(key, text); err != nil {
				return out, err
			}
		case key == OptUserClass:
			out.UserClass = splitList(text)
			if err := checkClass(key, out.UserClass...); err != nil {
				return out, err
			}
		case strings.HasPrefix(key, engineKey):
		default:
			return out, unknownOption(key, OnEndpoint)
		}
	}
	return out, nil
}

func unknownOption(key string, scope Scope) error {
	var names []string
	for _, o := range Options() {
		if o.Scope == scope {
			names = append(names, o.Name)
		}
	}
	if near := Nearest(key, names); near != "" {
		return Refusef(ErrInvalid, "unknown %s option %q; did you mean %s?", scope, key, near)
	}
	sort.Strings(names)
	return Refusef(ErrInvalid, "unknown %s option %q; known are %s", scope, key, strings.Join(names, ", "))
}

// Nearest is the word that word was most likely meant to be, or "" if none is
// close: the last part of a dotted name counts as the whole, and up to a third
// of the letters may be wrong.
func Nearest(word string, words []string) string {
	fold := func(s string) string { return strings.ToLower(strings.ReplaceAll(s, "-", "_")) }
	word = fold(word)
	if len(word) > 128 {
		return ""
	}
	best, bestDist := "", len(word)/3+1
	for _, w := range words {
		full := fold(w)
		last := full[strings.LastIndexByte(full, '.')+1:]
		d := min(distance(word, full), distance(word, last))
		if d < bestDist || d == bestDist && best == "" && d <= len(word)/3 {
			best, bestDist = w, d
		}
	}
	return best
}

// distance is the number of single-letter edits from a to b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, diag+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// Reason is the sentinel that err wraps, or nil for a failure of the machine.
func Reason(err error) error {
	for _, r := range []error{ErrInvalid, ErrNotFound, ErrConflict, ErrUnavailable} {
		if errors.Is(err, r) {
			return r
		}
	}
	return nil
}
