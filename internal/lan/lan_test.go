package lan

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCheckID(t *testing.T) {
	for _, good := range []string{"0728abe9c17d", "a", "A-b_c", strings.Repeat("f", 128)} {
		if err := CheckID("network id", good); err != nil {
			t.Error(err)
		}
	}
	for _, bad := range []string{"", ".", "..", "a/b", "a b", "a\x00", "-a", "_a", "é", strings.Repeat("f", 129)} {
		if err := CheckID("network id", bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("CheckID(%q) is %v", bad, err)
		}
	}
}

func TestParseMAC(t *testing.T) {
	for in, want := range map[string]string{
		"02:42:ac:11:00:02": "02:42:ac:11:00:02",
		"02-42-AC-11-00-02": "02:42:ac:11:00:02",
		"0242.ac11.0002":    "02:42:ac:11:00:02",
	} {
		if got, err := ParseMAC(in); err != nil || got.String() != want {
			t.Errorf("ParseMAC(%q) is %v, %v", in, got, err)
		}
	}
	for in, want := range map[string]string{
		"":                        "want six bytes",
		"02:42:ac:11:00":          "want six bytes",
		"02:42:ac:11:00:02:00:00": "want six bytes",
		"01:42:ac:11:00:02":       "is a group (multicast) address",
		"ff:ff:ff:ff:ff:ff":       "is a group (multicast) address",
		"00:00:00:00:00:00":       "is all zero",
	} {
		if got, err := ParseMAC(in); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("ParseMAC(%q) is %v, %v; want %s", in, got, err, want)
		}
	}
}

func TestCheckIfName(t *testing.T) {
	for _, good := range []string{"eth0", "lan-0.100", "a", "123456789012345", "µ"} {
		if err := CheckIfName(good); err != nil {
			t.Error(err)
		}
	}
	// "à" ends in the byte a0, which the kernel takes for white space.
	for _, bad := range []string{"", "1234567890123456", ".", "..", "a/b", "a:b", "a%d", "a b", "a\tb", "a\x00", "\x7f", "à", "lo", "all", "default"} {
		if err := CheckIfName(bad); !errors.Is(err, ErrInvalid) {
			t.Errorf("CheckIfName(%q) is %v", bad, err)
		}
	}
}

func TestParent(t *testing.T) {
	for _, tc := range []struct {
		p      ParentSpec
		name   string
		protos string // of the tags, if n are made
		n      int
	}{
		{ParentSpec{Name: "eth1"}, "eth1", "", 0},
		{ParentSpec{Name: "eth1", VLAN: []uint16{100}}, "eth1.100", "802.1Q", 1},
		{ParentSpec{Name: "eth1", VLAN: []uint16{100}, Proto: Dot1AD}, "eth1.100", "802.1ad", 1},
		{ParentSpec{Name: "eth1", VLAN: []uint16{200, 100}}, "eth1.200.100", "802.1ad 802.1Q", 2},
		{ParentSpec{Name: "eth1", VLAN: []uint16{200, 100}, Proto: Dot1Q}, "eth1.200.100", "802.1Q 802.1Q", 2},
	} {
		if got := tc.p.String(); got != tc.name {
			t.Errorf("%+v prints %q, want %q", tc.p, got, tc.name)
		}
		var protos []string
		for i := range tc.n {
			protos = append(protos, tc.p.ProtoAt(i, tc.n).String())
		}
		if got := strings.Join(protos, " "); got != tc.protos {
			t.Errorf("%s: tags %q, want %q", tc.name, got, tc.protos)
		}
	}
	for tag, want := range map[Tag]string{{100, Dot1Q}: "100", {200, Dot1AD}: "200 (802.1ad)", {1, 0x9100}: "1 (0x9100)"} {
		if got := tag.String(); got != want {
			t.Errorf("tag prints %q, want %q", got, want)
		}
	}
}

func TestSplitVLAN(t *testing.T) {
	for in, want := range map[string]string{
		"eth1":         `"eth1" "" false`,
		"eth1.100":     `"eth1" "100" true`,
		"eth1.200.100": `"eth1.200" "100" true`,
		".100":         `".100" "" false`,
		"eth1.":        `"eth1." "" false`,
		"":             `"" "" false`,
	} {
		base, tag, ok := SplitVLAN(in)
		if got := fmt.Sprintf("%q %q %t", base, tag, ok); got != want {
			t.Errorf("SplitVLAN(%q) is %s, want %s", in, got, want)
		}
	}
}

func TestSubnetOf(t *testing.T) {
	n := Network{
		IPv4: []Subnet{{Pool: netip.MustParsePrefix("10.0.0.0/8")}, {Pool: netip.MustParsePrefix("10.1.0.0/16")}, {Pool: netip.MustParsePrefix("10.0.0.0/12")}},
		IPv6: []Subnet{{Pool: netip.MustParsePrefix("fd00::/64")}},
	}
	for addr, want := range map[string]string{
		"10.1.2.3": "10.1.0.0/16", "10.2.0.1": "10.0.0.0/12", "10.200.0.1": "10.0.0.0/8", "fd00::5": "fd00::/64",
		"192.168.0.1": "", "fd01::1": "",
	} {
		s, ok := n.SubnetOf(netip.MustParseAddr(addr))
		if ok != (want != "") || ok && s.Pool.String() != want {
			t.Errorf("subnet of %s is %v, %t; want %q", addr, s.Pool, ok, want)
		}
	}
}

// Names that we give to links fit into the kernel's 15 characters.
func TestLinkNames(t *testing.T) {
	id := strings.Repeat("0123456789abcdef", 4)
	for _, name := range []string{
		(&Endpoint{ID: id}).LinkName(),
		(&Network{ID: id, Kind: Macvlan}).DummyName(),
		(&Network{ID: id, Kind: Ipvlan}).DummyName(),
	} {
		if err := CheckIfName(name); err != nil {
			t.Error(err)
		}
	}
	if got := (&Endpoint{ID: "short"}).LinkName(); got != "ly-short" {
		t.Errorf("link of a short id is %q", got)
	}
}

// Same means the same wish; a difference in any field but the time is one.
func TestSameAs(t *testing.T) {
	base := func() *Network {
		return &Network{
			ID: "n", Kind: Ipvlan, Mode: ModeL2, Flag: FlagBridge, Gateway: GatewayAuto,
			Parent: ParentSpec{Name: "eth1", VLAN: []uint16{100}, Proto: Dot1Q},
			IPv4:   []Subnet{{Pool: netip.MustParsePrefix("10.0.0.0/24")}},
		}
	}
	later := base()
	later.Created = time.Unix(1, 0)
	if !base().SameAs(later) {
		t.Error("the time of creation makes a difference")
	}
	for i, change := range []func(*Network){
		func(n *Network) { n.ID = "m" },
		func(n *Network) { n.Kind = Macvlan },
		func(n *Network) { n.Mode = ModeL3 },
		func(n *Network) { n.Flag = FlagVepa },
		func(n *Network) { n.Parent.Name = "eth2" },
		func(n *Network) { n.Parent.VLAN = []uint16{101} },
		func(n *Network) { n.Parent.Proto = Dot1AD },
		func(n *Network) { n.Internal = true },
		func(n *Network) { n.MTU = 1400 },
		func(n *Network) { n.IfName = "lan0" },
		func(n *Network) { n.Gateway = GatewayNone },
		func(n *Network) { n.IPv4 = nil },
		func(n *Network) { n.IPv6 = n.IPv4 },
	} {
		n := base()
		change(n)
		if base().SameAs(n) {
			t.Errorf("change %d makes no difference", i)
		}
	}
}

// State outlives the binary that wrote it, so the words on disk stay.
func TestJSON(t *testing.T) {
	n := &Network{
		ID: "n", Kind: Macvlan, Mode: ModeBridge, Parent: ParentSpec{Name: "eth1", VLAN: []uint16{200, 100}, Proto: Dot1AD},
		Gateway: GatewayAuto, IPv4: []Subnet{{Pool: netip.MustParsePrefix("10.0.0.0/24"), Gateway: netip.MustParseAddr("10.0.0.1")}},
	}
	want := `{"id":"n","kind":"macvlan","mode":"bridge","parent":{"name":"eth1","vlan":[200,100],"proto":34984},` +
		`"gateway":"auto","ipv4":[{"pool":"10.0.0.0/24","gateway":"10.0.0.1"}],"created":"0001-01-01T00:00:00Z"}`
	b, err := json.Marshal(n)
	if err != nil || string(b) != want {
		t.Errorf("network is written\n%s %v, want\n%s", b, err, want)
	}
	var back Network
	if err := json.Unmarshal(b, &back); err != nil || !n.SameAs(&back) {
		t.Errorf("read back: %+v, %v", back, err)
	}
	b, err = json.Marshal(Endpoint{ID: "e", NetworkID: "n"})
	if want := `{"id":"e","network_id":"n","created":"0001-01-01T00:00:00Z"}`; err != nil || string(b) != want {
		t.Errorf("endpoint is written %s %v, want %s", b, err, want)
	}
}

func TestReason(t *testing.T) {
	for _, reason := range []error{ErrInvalid, ErrNotFound, ErrConflict, ErrUnavailable} {
		err := fmt.Errorf("network abc: %w", Refusef(reason, "no %s", "way"))
		if err.Error() != "network abc: no way" || Reason(err) != reason {
			t.Errorf("%v has reason %v, want %v", err, Reason(err), reason)
		}
	}
	if err := errors.New("disk full"); Reason(err) != nil || Reason(nil) != nil {
		t.Error("a failure of the machine has a reason")
	}
}

func TestOptionsAreFresh(t *testing.T) {
	a := Options()
	a[0].Name = "changed"
	if slices.ContainsFunc(Options(), func(o Option) bool { return o.Name == "changed" }) {
		t.Error("callers share one table")
	}
}
