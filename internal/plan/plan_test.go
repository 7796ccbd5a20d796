package plan

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-net/lanyard/internal/lan"
)

const two = `
networks:
  macvlan100:
    parent:
      - eth1.100
      - mac: 52:54:00:AA:00:01
        hosts: node1
      - {route: 192.168.0.1, hosts: [node*, edge]}
    driver_opts:
      vlan_protocol: 802.1q
      host_access: true
    ipam:
      config:
        - subnet: 192.168.0.0/16
          gateway: 192.168.0.1
          aux_addresses: {printer: 192.168.0.9}
        - subnet: fd00:1::/64
    labels: {team: infra}
  leased:
    parent: bond0
    hosts: node2
    driver_opts: {vlan: 200, source: dhcp}
`

func read(t *testing.T, text string) []Network {
	t.Helper()
	list, err := Read(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestRead(t *testing.T) {
	list := read(t, two)
	if len(list) != 2 || list[0].Name != "leased" || list[1].Name != "macvlan100" {
		t.Fatalf("read %+v", list)
	}
	n := list[1]
	if n.IPAM.Driver != Driver || !n.EnableIPv6 || n.DriverOpts["host_access"] != "true" {
		t.Errorf("macvlan100 is %+v", n)
	}
	if list[0].IPAM.Driver != NullIPAM || list[0].DriverOpts["vlan"] != "200" {
		t.Errorf("leased is %+v", list[0])
	}
	for host, want := range map[string]string{"node1": "eth1.100, node1:mac=52:54:00:aa:00:01, node*|edge:route=192.168.0.1", "edge": "eth1.100, node*|edge:route=192.168.0.1", "x": "eth1.100"} {
		var words []string
		for _, r := range n.RulesFor(host) {
			words = append(words, r.String())
		}
		if got := strings.Join(words, ", "); got != want {
			t.Errorf("rules for %s: %s, want %s", host, got, want)
		}
	}
	if list[0].For("node1") || !list[0].For("node2") || !n.For("node1") {
		t.Error("hosts are not heeded")
	}
	text, err := Write(list)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(list, read(t, string(text))); diff != "" {
		t.Errorf("written and read again (-before +after):\n%s\n%s", diff, text)
	}
}

func TestReadWrong(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "defines no networks",
		"networks: {}":                        "defines no networks",
		"services: {web: {}}":                 "line 1: there is no services here",
		"networks: {a: {}}":                   "network a: it has no subnet",
		"networks: {a: {prent: x}}":           "there is no prent here",
		"networks: {a: {parent: [{nme: x}]}}": "line 1: there is no nme in a rule of parent",
		"networks: {a: {parent: [{name: x, mac: '02:00:00:00:00:01'}]}}":                                          "this one has 2",
		"networks: {a: {parent: [{hosts: x}]}}":                                                                   "this one has 0",
		"networks: {a: {parent: mac=zz}}":                                                                         "line 1: parent mac=zz",
		"networks: {a: {parent: route=here}}":                                                                     "it is an address",
		"networks: {a: {parent: mcc=1}}":                                                                          "a rule is LINK, mac=ADDRESS",
		"networks: {a: {parent: x, driver_opts: {parent: y}}}":                                                    "leave one of them out",
		"networks: {a: {hosts: '[', driver_opts: {source: dhcp}, parent: x}}":                                     "hosts: \"[\"",
		"networks: {a: {driver: macvlan}}":                                                                        "driver macvlan: what is defined here is lanyard's",
		"networks: {a: {ipam: {driver: default, config: [{subnet: 10.0.0.0/24}]}}}":                               "same addresses on each host",
		"networks: {a: {ipam: {driver: 'null', config: [{subnet: 10.0.0.0/24}]}}}":                                "driver_opts: {subnet: 10.0.0.0/24}",
		"networks: {a: {parent: x, ipam: {config: [{subnet: 10.0.0.1/24}]}}}":                                     "has host bits; try: 10.0.0.0/24",
		"networks: {a: {parent: x, ipam: {config: [{subnet: 10.0.0.0/24, gateway: 10.1.0.1}]}}}":                  "gateway \"10.1.0.1\" is no address of subnet 10.0.0.0/24",
		"networks: {a: {parent: x, ipam: {config: [{subnet: 10.0.0.0/24, ip_range: 10.0.0.0/8}]}}}":               "ip_range \"10.0.0.0/8\" is no part",
		"networks: {a: {parent: x, ipam: {config: [{subnet: 10.0.0.0/24}, {subnet: 10.0.0.0/25}]}}}":              "overlap",
		"networks: {a: {parent: x, driver_opts: {macvlan_mod: bridge}, ipam: {config: [{subnet: 10.0.0.0/24}]}}}": "network a: unknown network option",
		"networks: {bridge: {}}":                                                                                  "of its own",
		"networks: {-a: {}}":                                                                                      "a name begins",
		"networks: {a: {}, a: {}}":                                                                                "already defined",
		"networks: {a: {ipam: {options: {x: y}}}}":                                                                "unknown --ipam-opt",
		"networks: {a: {parent: x, driver_opts: [a]}}":                                                            "cannot unmarshal",
		"networks: {a: {driver_opts: {source: dhcp}}}\n---\nnetworks: {}":                                         "",
	} {
		_, err := Read(strings.NewReader(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\ngives %v, want %q", text, err, want)
		}
		if err != nil && !errors.Is(err, lan.ErrInvalid) {
			t.Errorf("%s\ngives %v, which is not said to be invalid", text, err)
		}
	}
}

func TestSteps(t *testing.T) {
	have := map[string]Network{}
	for _, n := range read(t, two) {
		have[n.Name] = n
	}
	changed := strings.NewReplacer("gateway: 192.168.0.1", "gateway: 192.168.0.2", "labels: {team: infra}", "internal: false", "eth1.100", "eth1.101").Replace(two)
	want := read(t, changed)
	steps := Steps(have, want, true)
	if len(steps) != 2 || steps[0].Action != Keep || steps[1].Action != Change {
		t.Fatalf("steps are %+v", steps)
	}
	if got, want := steps[1].Differences, []string{
		"ipam.config[192.168.0.0/16].gateway: 192.168.0.1, is to be 192.168.0.2",
		"parent: eth1.100, node1:mac=52:54:00:aa:00:01, node*|edge:route=192.168.0.1, is to be eth1.101, node1:mac=52:54:00:aa:00:01, node*|edge:route=192.168.0.1",
		"labels.team: infra, is to go",
	}; !slices.Equal(got, want) {
		t.Errorf("differences %q, want %q", got, want)
	}
	if steps := Steps(have, want[:1], false); len(steps) != 1 {
		t.Errorf("without prune: %+v", steps)
	}
	if steps := Steps(have, want[:1], true); len(steps) != 2 || steps[1].Action != Remove || steps[1].Network != "macvlan100" {
		t.Errorf("with prune: %+v", steps)
	}
	if steps := Steps(nil, want, true); len(steps) != 2 || steps[0].Action != Create || steps[0].To.Name != "leased" {
		t.Errorf("from nothing: %+v", steps)
	}
}

// What Docker says of a network that was made of a definition is the definition; what somebody has changed is seen.
func TestMade(t *testing.T) {
	n := read(t, two)[1]
	on := n.On("eth1.100")
	r := n.Request("lanyard", "eth1.100", "0123")
	if r.Options[lan.OptParent] != "eth1.100" || r.Labels[Label] != "0123" || r.IPAM.Driver != "lanyard" || n.DriverOpts[lan.OptParent] != "" {
		t.Errorf("request %+v", r)
	}
	if diff := on.Differences(n.Made(r, "lanyard")); len(diff) > 0 {
		t.Errorf("as asked for: %q", diff)
	}
	r.Driver, r.IPAM.Driver = "lanyard:latest", "lanyard:latest"
	r.IPAM.Config[1].Gateway = "fd00:1::1" // chosen by Docker
	r.Labels["com.example"] = "somebody's"
	if diff := on.Differences(n.Made(r, "lanyard")); len(diff) > 0 {
		t.Errorf("as Docker would say it: %q", diff)
	}
	r.Options[lan.OptParent] = "eth2"
	r.Driver, r.Internal = "macvlan", true
	r.IPAM.Config = r.IPAM.Config[:1]
	if got, want := on.Differences(n.Made(r, "lanyard")), []string{
		"ipam.config[fd00:1::/64]: not there, is to be defined", "parent: eth2, is to be eth1.100", "driver: macvlan, is to go", "internal: true, is to go",
	}; !slices.Equal(got, want) {
		t.Errorf("differences %q, want %q", got, want)
	}
}

// The example that the documentation names is one.
func TestExample(t *testing.T) {
	text, err := os.ReadFile("../../dist/networks.yaml")
	if err != nil {
		t.Fatal(err)
	}
	list := read(t, string(text))
	var rules []string
	for _, r := range list[1].Parent {
		rules = append(rules, r.String())
	}
	if got, want := strings.Join(rules, " "), "edge*|node9:bond0 mac=52:54:00:12:34:56 pci=0000:03:00.0 route=192.168.99.1 eth1"; got != want {
		t.Errorf("rules %s, want %s", got, want)
	}
}
