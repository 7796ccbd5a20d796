package lan

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var byValue = cmp.Options{
	cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}),
	cmpopts.EquateEmpty(),
}

// opts makes a map of "key=value" words.
func opts(words string) map[string]string {
	m := map[string]string{}
	for _, w := range strings.Fields(words) {
		key, value, _ := strings.Cut(w, "=")
		m[key] = value
	}
	return m
}

func TestParseOptions(t *testing.T) {
	macvlan := Network{Kind: Macvlan, Mode: ModeBridge, Gateway: GatewayAuto, Parent: ParentSpec{Name: "eth1"}}
	ipvlan := Network{Kind: Ipvlan, Mode: ModeL2, Flag: FlagBridge, Gateway: GatewayAuto, Parent: ParentSpec{Name: "eth1"}}
	with := func(n Network, change func(*Network)) Network { change(&n); return n }
	for _, tc := range []struct {
		opts string
		want Network
	}{
		{"parent=eth1", macvlan},
		{"parent=eth1 macvlan_mode=bridge", macvlan},
		{"parent=eth1 macvlan_mode=", macvlan},
		{"parent=eth1 macvlan_mode=private", with(macvlan, func(n *Network) { n.Mode = ModePrivate })},
		{"parent=eth1 macvlan_mode=vepa", with(macvlan, func(n *Network) { n.Mode = ModeVepa })},
		{"parent=eth1 macvlan_mode=passthru", with(macvlan, func(n *Network) { n.Mode = ModePassthru })},
		{"parent=eth1 ipvlan_mode=l2", ipvlan},
		{"parent=eth1 ipvlan_mode=l3", with(ipvlan, func(n *Network) { n.Mode = ModeL3 })},
		{"parent=eth1 ipvlan_mode=l3s", with(ipvlan, func(n *Network) { n.Mode = ModeL3S })},
		{"parent=eth1 ipvlan_flag=vepa", with(ipvlan, func(n *Network) { n.Flag = FlagVepa })},
		{"parent=eth1 ipvlan_mode=l3 ipvlan_flag=private", with(ipvlan, func(n *Network) { n.Mode, n.Flag = ModeL3, FlagPrivate })},
		{"parent=eth1.100", with(macvlan, func(n *Network) { n.Parent.Name = "eth1.100" })},
		{"parent=eth1 vlan=100", with(macvlan, func(n *Network) { n.Parent.VLAN = []uint16{100} })},
		{"parent=eth1 vlan=200.100 vlan_protocol=802.1Q", with(macvlan, func(n *Network) {
			n.Parent.VLAN, n.Parent.Proto = []uint16{200, 100}, Dot1Q
		})},
		{"parent=eth1 gateway=none", with(macvlan, func(n *Network) { n.Gateway = GatewayNone })},
		{"parent=eth1 com.docker.network.driver.mtu=9000", with(macvlan, func(n *Network) { n.MTU = 9000 })},
		{"parent=eth1 ifname=lan0", with(macvlan, func(n *Network) { n.IfName = "lan0" })},
		{"parent=eth1 com.docker.network.endpoint.ifname=lan0 ifname=lan0", with(macvlan, func(n *Network) { n.IfName = "lan0" })},
		{"parent=eth1 com.docker.network.enable_ipv6=true com.docker.network.advertise_addr_nmsgs=0", with(macvlan, func(n *Network) { n.Announce.Count = -1 })},
		{"parent=eth1 com.docker.network.advertise_addr_ms=500", with(macvlan, func(n *Network) { n.Announce.Every = 500 * time.Millisecond })},
		{"parent=eth1 acd=off identity=none grace=0s", with(macvlan, func(n *Network) {
			n.Policy = Policy{NoACD: true, Identity: IdentityNone, Grace: -1}
		})},
		{"parent=eth1 acd=on identity=sticky grace=1h ipv6=slaac", with(macvlan, func(n *Network) {
			n.Policy, n.IPv6Mode = Policy{Identity: IdentitySticky, Grace: time.Hour}, IPv6SLAAC
		})},
		{"parent=eth1 subnet=10.1.0.0/16,fd00:1::/64 ip_range=10.1.2.0/24 gateway=10.1.0.1,fd00:1::1 aux_address=10.1.2.3,10.1.2.4", with(macvlan, func(n *Network) {
			n.Own = true
			n.IPv4 = []Subnet{{
				Pool: netip.MustParsePrefix("10.1.0.0/16"), Range: netip.MustParsePrefix("10.1.2.0/24"), Gateway: netip.MustParseAddr("10.1.0.1"),
				Aux: []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("10.1.2.4")},
			}}
			n.IPv6 = []Subnet{{Pool: netip.MustParsePrefix("fd00:1::/64"), Gateway: netip.MustParseAddr("fd00:1::1")}}
		})},
		{"", with(macvlan, func(n *Network) { n.Parent.Name, n.Internal = "", true })},
		{"ipvlan_mode=l3", with(ipvlan, func(n *Network) { n.Parent.Name, n.Internal, n.Mode = "", true, ModeL3 })},
	} {
		got, err := ParseOptions(opts(tc.opts), false)
		if err != nil {
			t.Errorf("%s: %v", tc.opts, err)
			continue
		}
		if diff := cmp.Diff(tc.want, *got, byValue); diff != "" {
			t.Errorf("%s (-want +got)\n%s", tc.opts, diff)
		}
	}
}

func TestParseOptionsRefuses(t *testing.T) {
	for _, tc := range []struct{ opts, want string }{
		{"macvlan_mod=bridge", `unknown network option "macvlan_mod"; did you mean macvlan_mode?`},
		{"Parent=eth1", `unknown network option "Parent"; did you mean parent?`},
		{"parnet=eth1", `unknown network option "parnet"; did you mean parent?`},
		{"mtu=1500", `unknown network option "mtu"; did you mean com.docker.network.driver.mtu?`},
		{"ipvlan-mode=l2", `unknown network option "ipvlan-mode"; did you mean ipvlan_mode?`},
		{"x=y", `unknown network option "x"; known are acd, antispoof, aux_address, com.docker.`},
		{"parent=eth1 macvlan_mode=brdige", "requested macvlan mode 'brdige' is not valid: it is one of bridge, private, vepa, passthru; did you mean bridge?"},
		{"parent=eth1 macvlan_mode=source", "requested macvlan mode 'source' is not valid: it is one of bridge, private, vepa, passthru"},
		{"parent=eth1 ipvlan_mode=l4", "requested ipvlan mode 'l4' is not valid: it is one of l2, l3, l3s"},
		{"parent=eth1 ipvlan_flag=l2", "requested ipvlan flag 'l2' is not valid: it is one of bridge, private, vepa"},
		{"parent=eth1 ipvlan_mode=L2", "requested ipvlan mode 'L2' is not valid: it is one of l2, l3, l3s; did you mean l2?"},
		{"parent=eth1 macvlan_mode=bridge ipvlan_mode=l2", "macvlan_mode makes a macvlan network and ipvlan_mode an ipvlan network: give one of them"},
		{"parent=eth1 macvlan_mode=bridge ipvlan_flag=vepa", "give one of them"},
		{"parent=lo", "loopback interface is not a valid parent"},
		{"parent=a/b", `parent "a/b": '/', ':' and white space may not stand`},
		{"parent=" + strings.Repeat("a", 128), "parent name has 128 characters, 127 at most"},
		{"vlan=100", "a VLAN needs a parent; try: -o parent=eth0 -o vlan=100"},
		{"vlan_protocol=802.1ad", "a VLAN needs a parent"},
		{"parent=eth1 vlan=0", "vlan=0: VLAN id must be between 1 and 4094, not 0"},
		{"parent=eth1 vlan=4095", "VLAN id must be between 1 and 4094, not 4095"},
		{"parent=eth1 vlan=1.2.3", "vlan=1.2.3 has 3 tags, 2 at most (outer.inner)"},
		{"parent=eth1 vlan=200.", `vlan=200.: VLAN id "" is not a number`},
		{"parent=eth1 vlan=-1", `VLAN id "-1" is not a number`},
		{"parent=eth1 vlan_protocol=802.1x", `VLAN protocol "802.1x" is not known: it is 802.1q or 802.1ad`},
		{"parent=eth1 gateway=10.0.0.1", "requested gateway '10.0.0.1' is not valid: it is one of auto, none"},
		{"parent=eth1 subnet=10.1.0.0/16 gateway=10.2.0.1", "gateway=10.2.0.1 is in no subnet of -o subnet="},
		{"parent=eth1 subnet=10.1.0.1/16", "subnet 10.1.0.1/16 has bits behind its length; did you mean 10.1.0.0/16?"},
		{"parent=eth1 subnet=ten", `subnet "ten": want an address and a length`},
		{"parent=eth1 ip_range=10.1.0.0/24", "-o ip_range=10.1.0.0/24 goes with -o subnet="},
		{"parent=eth1 subnet=10.1.0.0/16 ip_range=10.0.0.0/8", "is in no subnet"},
		{"parent=eth1 aux_address=10.1.0.3", "goes with -o subnet="},
		{"parent=eth1 acd=maybe", "requested acd 'maybe' is not valid: it is one of on, off"},
		{"parent=eth1 identity=glue", "requested identity 'glue' is not valid"},
		{"parent=eth1 grace=ten", `grace "ten": want a time such as 10m`},
		{"parent=eth1 ipv6=auto", "requested ipv6 'auto' is not valid: it is one of static, slaac, dhcp, off"},
		{"parent=eth1 source=dhcpv4", "requested source 'dhcpv4' is not valid: it is one of pool, dhcp; did you mean dhcp?"},
		{"parent=eth1 source=dhcp subnet=10.0.0.0/24,10.1.0.0/24", "one subnet of a family"},
		{"parent=eth1 dhcp_server=router", `dhcp_server "router" is not an address of a host`},
		{"parent=eth1 dhcp_timeout=1h", `dhcp_timeout "1h": want a time such as 15s, from 1s to 2m`},
		{"parent=eth1 release=later", "requested release 'later' is not valid: it is one of remove, stop, never"},
		{"parent=eth1 dhcp_fallback=10.0.0.1/24", "dhcp_fallback 10.0.0.1/24 has bits behind its length; did you mean 10.0.0.0/24?"},
		{"parent=eth1 dhcp_domain=-a.b", `dhcp_domain "-a.b" is not a domain name`},
		{"parent=eth1 dhcp_user_class=a,,b", `dhcp_user_class "": want 1 to 128 characters`},
		{"parent=eth1 com.docker.network.advertise_addr_nmsgs=4", "must be in the range 0 to 3"},
		{"parent=eth1 com.docker.network.advertise_addr_ms=99", "must be in the range 100 to 2000"},
		{"parent=eth1 gateway=off", "requested gateway 'off' is not valid: it is one of auto, none"},
		{"parent=eth1 com.docker.network.driver.mtu=67", `MTU "67": want a number of bytes from 68 to 65535`},
		{"parent=eth1 com.docker.network.driver.mtu=jumbo", `MTU "jumbo": want a number`},
		{"parent=eth1 ifname=a/b", `interface name "a/b": '/', ':', '%' and white space may not stand in it`},
		{"parent=eth1 ifname=lan0 com.docker.network.endpoint.ifname=lan1", "interface name given twice"},
	} {
		_, err := ParseOptions(opts(tc.opts), false)
		if err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s:\n got %v\nwant %s", tc.opts, err, tc.want)
		}
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v is not ErrInvalid", tc.opts, err)
		}
	}
}

// Every row of the table is read by its own name, and none is there twice.
func TestOptionTable(t *testing.T) {
	seen := map[string]bool{}
	for _, o := range Options() {
		key := string(o.Scope) + " " + o.Name
		if seen[key] {
			t.Errorf("%s stands twice in the table", key)
		}
		seen[key] = true
		if o.Doc == "" || o.Values == "" || o.Default == "" || o.Kinds == "" {
			t.Errorf("%s: the row has a gap: %+v", key, o)
		}
		var err error
		if o.Scope == OnNetwork {
			_, err = ParseOptions(map[string]string{o.Name: ""}, false)
		} else {
			_, err = ParseEndpointOptions(map[string]any{o.Name: ""})
		}
		if err != nil {
			t.Errorf("%s with an empty value: %v", key, err)
		}
	}
}

func TestParseNetwork(t *testing.T) {
	sub := func(pool, gw string) Subnet {
		s := Subnet{Pool: netip.MustParsePrefix(pool)}
		if gw != "" {
			s.Gateway = netip.MustParseAddr(gw)
		}
		return s
	}
	for _, tc := range []struct {
		name string
		r    NetworkRequest
		want string // "" for success
	}{
		{"dual stack", NetworkRequest{ID: "n", WantIPv4: true, WantIPv6: true,
			IPv4: []Subnet{sub("10.0.0.0/24", "10.0.0.1")}, IPv6: []Subnet{sub("fd00::/64", "fd00::1")}}, ""},
		{"null IPAM", NetworkRequest{ID: "n", WantIPv4: true, IPv4: []Subnet{sub("0.0.0.0/0", "")}}, ""},
		{"link-local gateway", NetworkRequest{ID: "n", WantIPv6: true, IPv6: []Subnet{sub("fd00::/64", "fe80::1")}}, ""},
		{"no id", NetworkRequest{}, "network id is missing"},
		{"no IPv4 pool", NetworkRequest{ID: "n", WantIPv4: true}, "ipv4 pool is empty"},
		{"no IPv6 pool", NetworkRequest{ID: "n", WantIPv6: true}, "ipv6 pool is empty"},
		{"wrong family", NetworkRequest{ID: "n", WantIPv4: true, IPv4: []Subnet{sub("fd00::/64", "")}}, "IPv4 subnet fd00::/64 is not IPv4"},
		{"wrong gateway", NetworkRequest{ID: "n", WantIPv6: true, IPv6: []Subnet{sub("fd00::/64", "10.0.0.1")}}, "IPv6 subnet fd00::/64: gateway 10.0.0.1 is not IPv6"},
		{"slaac with a subnet", NetworkRequest{ID: "n", WantIPv6: true, IPv6: []Subnet{sub("fd00::/64", "")},
			Options: map[string]string{"parent": "eth1", "ipv6": "slaac"}}, "ipv6=slaac takes addresses from routers"},
		{"slaac without a wire", NetworkRequest{ID: "n", Options: map[string]string{"ipv6": "slaac"}}, "needs a router on the wire"},
		{"static without a subnet", NetworkRequest{ID: "n", Options: map[string]string{"ipv6": "static"}}, "ipv6=static needs a subnet"},
		{"off with a subnet", NetworkRequest{ID: "n", WantIPv6: true, IPv6: []Subnet{sub("fd00::/64", "")},
			Options: map[string]string{"ipv6": "off"}}, "ipv6=off, and the network has IPv6 subnet"},
		{"subnets of two minds", NetworkRequest{ID: "n", WantIPv4: true, IPv4: []Subnet{sub("10.0.0.0/24", "")},
			Options: map[string]string{"subnet": "10.1.0.0/16"}}, "-o subnet= is for --ipam-driver null"},
		{"small MTU with IPv6", NetworkRequest{ID: "n", WantIPv6: true, IPv6: []Subnet{sub("fd00::/64", "")},
			Options: map[string]string{"com.docker.network.driver.mtu": "1279"}}, "MTU 1279 is below 1280"},
	} {
		n, err := ParseNetwork(tc.r)
		switch {
		case tc.want == "" && err != nil:
			t.Errorf("%s: %v", tc.name, err)
		case tc.want == "":
			if diff := cmp.Diff(tc.r.IPv4, n.IPv4, byValue); diff != "" {
				t.Errorf("%s: IPv4 (-want +got)\n%s", tc.name, diff)
			}
			if !n.SameAs(n) {
				t.Errorf("%s: a network is not the same as itself", tc.name)
			}
		case err == nil || !strings.Contains(err.Error(), tc.want):
			t.Errorf("%s: %v, want %s", tc.name, err, tc.want)
		}
	}
}

func TestParseEndpointOptions(t *testing.T) {
	for _, tc := range []struct {
		opts map[string]any
		name string
		err  string
	}{
		{nil, "", ""},
		{map[string]any{"com.docker.network.endpoint.ifname": "lan0"}, "lan0", ""},
		{map[string]any{"com.docker.network.endpoint.ifname": ""}, "", ""},
		{map[string]any{"com.docker.network.portmap": []any{}, "com.docker.network.endpoint.exposedports": nil}, "", ""},
		{map[string]any{"com.docker.network.endpoint.ifname": 7.0}, "", "option com.docker.network.endpoint.ifname: want text"},
		{map[string]any{"com.docker.network.endpoint.ifname": "lo"}, "", `interface name "lo" is taken`},
		{map[string]any{"ifname": "lan0"}, "", `unknown endpoint option "ifname"; did you mean com.docker.network.endpoint.ifname?`},
		{map[string]any{"identity": "web", "ip": "10.0.0.5,fd00::5"}, "", ""},
		{map[string]any{"identity": "a b"}, "", `identity "a b"`},
		{map[string]any{"mac_address": "02:42:0a:00:00:07"}, "", ""},
		{map[string]any{"mac_address": "03:42:0a:00:00:07"}, "", "group (multicast)"},
		{map[string]any{"mac_address": 7}, "", "option mac_address: want text"},
		{map[string]any{"ip": "10.0.0.5,10.0.0.6"}, "", "one address of a family"},
		{map[string]any{"ip": "10.0.0.0/8"}, "", `ip "10.0.0.0/8" is not an address of a host`},
		{map[string]any{"nothing": "x"}, "", `unknown endpoint option "nothing"; known are`},
	} {
		got, err := ParseEndpointOptions(tc.opts)
		if tc.err == "" && (err != nil || got.IfName != tc.name) {
			t.Errorf("%v: %+v, %v; want %q", tc.opts, got, err, tc.name)
		}
		if tc.err != "" && (err == nil || !strings.Contains(err.Error(), tc.err)) {
			t.Errorf("%v: %v, want %s", tc.opts, err, tc.err)
		}
	}
}

func TestNearest(t *testing.T) {
	words := []string{"bridge", "private", "vepa", "passthru", "com.docker.network.driver.mtu"}
	for word, want := range map[string]string{
		"brige":                       "bridge",
		"BRIDGE":                      "bridge",
		"passthrou":                   "passthru",
		"mtu":                         "com.docker.network.driver.mtu",
		"driver":                      "",
		"":                            "",
		"x":                           "",
		strings.Repeat("bridge", 100): "",
	} {
		if got := Nearest(word, words); got != want {
			t.Errorf("Nearest(%q) is %q, want %q", word, got, want)
		}
	}
	if got := Nearest("bridge", nil); got != "" {
		t.Errorf("Nearest of nothing is %q", got)
	}
}

// What a user typed may be long; what we answer may not.
func TestLongRefusal(t *testing.T) {
	long := strings.Repeat("é", 100_000)
	for _, o := range []map[string]string{{long: ""}, {"vlan": long, "parent": "eth1"}, {"macvlan_mode": long}} {
		if _, err := ParseOptions(o, false); err == nil || len(err.Error()) > 1100 || !errors.Is(err, ErrInvalid) {
			t.Errorf("refusal of %d characters: %.80v", len(err.Error()), err)
		}
	}
}

func TestCheckDHCP(t *testing.T) {
	for _, tc := range []struct{ opts, want string }{
		{"parent=eth1 source=dhcp", ""},
		{"parent=eth1 source=dhcp ipv6=dhcp", ""},
		{"parent=eth1 source=dhcp subnet=10.0.0.0/24,fd00::/64 ipv6=slaac", ""},
		{"parent=eth1 source=dhcp ipvlan_mode=l2", ""},
		{"parent=eth1 source=dhcp subnet=10.0.0.0/24 dhcp_fallback=10.0.0.240/28", ""},
		{"parent=eth1 source=dhcp dhcp_server=10.0.0.1,fe80::1 dhcp_deny=10.0.0.2", ""},
		{"parent=eth1 dhcp_server=10.0.0.1", "are for networks whose addresses a DHCP server gives; try: --ipam-driver lanyard --ipam-opt source=dhcp"},
		{"parent=eth1 ipv6=dhcp", "ipv6=dhcp goes with -o source=dhcp"},
		{"parent=eth1 source=dhcp ipvlan_mode=l3", "DHCP needs broadcast, and ipvlan mode l3 has none"},
		{"parent=eth1 source=dhcp ipvlan_mode=l2 dhcp_client_id=mac", "servers could not tell them apart"},
		{"parent=eth1 source=dhcp macvlan_mode=passthru ipv6=dhcp", "DHCPv6 is not there for mode passthru"},
		{"parent=eth1 source=dhcp dhcp_fallback=10.0.0.240/28", "is in no IPv4 subnet of the network"},
		{"source=dhcp", "DHCP needs a wire"},
	} {
		n, err := ParseOptions(opts(tc.opts), false)
		if err != nil {
			t.Errorf("%s: %v", tc.opts, err)
			continue
		}
		switch err := n.CheckDHCP(); {
		case tc.want == "" && err != nil:
			t.Errorf("%s: %v", tc.opts, err)
		case tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want) || !errors.Is(err, ErrInvalid)):
			t.Errorf("%s:\n got %v\nwant %s", tc.opts, err, tc.want)
		}
	}
}

// Addresses are claimed ahead where hosts share them, and nowhere else.
func TestLeaseAhead(t *testing.T) {
	parse := func(opts map[string]string) (*Network, error) {
		return ParseNetwork(NetworkRequest{ID: "n1", Options: opts})
	}
	for _, text := range []string{"-1", "257", "many", "1.5"} {
		if _, err := parse(map[string]string{"parent": "eth1", "subnet": "10.0.0.0/24", "lease_ahead": text}); err == nil || !strings.Contains(err.Error(), "0 to 256") {
			t.Errorf("%s: %v", text, err)
		}
		if _, err := ParsePoolOptions(map[string]string{"lease_ahead": text}); err == nil || !strings.Contains(err.Error(), "0 to 256") {
			t.Errorf("--ipam-opt %s: %v", text, err)
		}
	}
	if o, err := ParsePoolOptions(map[string]string{"lease_ahead": "16", "parent": "eth1"}); err != nil || o.LeaseAhead != 16 || o.Parent.Name != "eth1" {
		t.Errorf("%+v, %v", o, err)
	}
	if _, err := ParsePoolOptions(map[string]string{"lease_ahead": "16", "source": "dhcp"}); err == nil {
		t.Error("a DHCP server's addresses are claimed ahead")
	}
	for _, c := range []struct {
		opts   map[string]string
		shared bool
		says   string
	}{
		{map[string]string{"parent": "eth1", "subnet": "10.0.0.0/24"}, true, ""},
		{map[string]string{"parent": "eth1", "subnet": "10.0.0.0/24"}, false, "--store etcd://"},
		{map[string]string{"subnet": "10.0.0.0/24"}, true, "without a parent"},
		{map[string]string{"parent": "eth1", "source": "dhcp"}, true, "addresses that lanyard chooses"},
		{map[string]string{"parent": "eth1"}, true, "addresses that lanyard chooses"},
	} {
		c.opts["lease_ahead"] = "16"
		n, err := parse(c.opts)
		if err != nil || n.LeaseAhead != 16 {
			t.Errorf("%v: %+v, %v", c.opts, n, err)
			continue
		}
		if err := n.CheckLeaseAhead(c.shared); (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v, shared %v: %v", c.opts, c.shared, err)
		}
	}
}
