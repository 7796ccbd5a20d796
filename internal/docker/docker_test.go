package docker

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/lan"
)

const (
	netID = "0728abe9c17d70ab23b8625cdae245a7a901035be7a6384c612b784fe2d7f926"
	epID  = "9cdc103d277c20f1163763f68e5ee12c2fe270d186a36eb39baf421230edf042"
)

// lanNetwork is a network create as 28 sends it, with room for one thing more
// in the options, in the IPv4 data and in the request.
func lanNetwork(options, data, more string) string {
	return `{"NetworkID":"` + netID + `","IPv4Data":[` + data + `],"IPv6Data":[],"Options":{` +
		`"com.docker.network.enable_ipv4":true,"com.docker.network.enable_ipv6":false,` + options + `}` + more + `}`
}

const (
	parentOnly = `"com.docker.network.generic":{"parent":"eth1.100"}`
	pool       = `{"AddressSpace":"local","AuxAddresses":{"host":"192.168.11.9/16"},"Gateway":"192.168.0.1/16","Pool":"192.168.0.0/16"}`
)

func TestActivation(t *testing.T) {
	d := newDoor(newHost().verbs())
	for method, want := range map[string]map[string]any{
		"Plugin.Activate":                    {"Implements": []any{"NetworkDriver", "IpamDriver"}},
		"IpamDriver.GetCapabilities":         {"RequiresMACAddress": false, "RequiresRequestReplay": false},
		"IpamDriver.GetDefaultAddressSpaces": {"LocalDefaultAddressSpace": "lanyard", "GlobalDefaultAddressSpace": "lanyard"},
		"NetworkDriver.GetCapabilities": {
			"Scope": "local", "ConnectivityScope": "global", "GwAllocChecker": true,
		},
	} {
		for _, body := range []string{"", "{}", "null"} {
			status, got := d.ask(t, "POST", method, body)
			if diff := cmp.Diff(want, got); status != 200 || diff != "" {
				t.Errorf("%s with body %q: status %d (-want +got)\n%s", method, body, status, diff)
			}
		}
	}
}

func TestCreateNetwork(t *testing.T) {
	for _, tc := range []struct {
		name, body string
		user       string // what docker prints; "" for success
		host       string // what is there afterwards
	}{
		{
			name: "engine 28",
			body: lanNetwork(parentOnly, pool, ""),
			host: "network 0728abe9c17d macvlan bridge parent=eth1.100 192.168.0.0/16 via 192.168.0.1\n",
		},
		{
			name: "engine 20.10 does not say that IPv4 is on",
			body: `{"NetworkID":"` + netID + `","IPv4Data":[` + pool + `],"IPv6Data":null,"Options":{"com.docker.network.enable_ipv6":false,` + parentOnly + `}}`,
			host: "network 0728abe9c17d macvlan bridge parent=eth1.100 192.168.0.0/16 via 192.168.0.1\n",
		},
		{
			name: "a newer engine's fields are ignored",
			body: lanNetwork(parentOnly+`,"com.docker.network.new":{"a":[1]}`, pool, `,"Labels":{"a":"b"}`),
			host: "network 0728abe9c17d macvlan bridge parent=eth1.100 192.168.0.0/16 via 192.168.0.1\n",
		},
		{
			name: "no options at all",
			body: lanNetwork(`"com.docker.network.generic":null`, pool, ""),
			host: "network 0728abe9c17d macvlan bridge parent= 192.168.0.0/16 via 192.168.0.1 internal\n",
		},
		{
			name: "internal",
			body: lanNetwork(parentOnly+`,"com.docker.network.internal":true`, pool, ""),
			host: "network 0728abe9c17d macvlan bridge parent=eth1.100 192.168.0.0/16 via 192.168.0.1 internal\n",
		},
		{
			name: "null IPAM driver",
			body: lanNetwork(parentOnly, `{"AddressSpace":"null","Gateway":"0.0.0.0/0","Pool":"0.0.0.0/0"}`, ""),
			host: "network 0728abe9c17d macvlan bridge parent=eth1.100 0.0.0.0/0\n",
		},
		{
			name: "pool with host bits, gateway without length",
			body: lanNetwork(parentOnly, `{"Gateway":"10.0.0.1","Pool":"10.0.0.77/24"}`, ""),
			host: "network 0728abe9c17d macvlan bridge parent=eth1.100 10.0.0.0/24 via 10.0.0.1\n",
		},
		{
			name: "IPv6 only",
			body: `{"NetworkID":"` + netID + `","IPv4Data":[],"IPv6Data":[{"Pool":"fd00:1::/64"}],"Options":{"com.docker.network.enable_ipv4":false,"com.docker.network.enable_ipv6":true,` + parentOnly + `}}`,
			host: "network 0728abe9c17d macvlan bridge parent=eth1.100 fd00:1::/64\n",
		},
		{
			name: "IPv4 without a pool",
			body: lanNetwork(parentOnly, "", ""),
			user: "remote: ipv4 pool is empty",
		},
		{
			name: "unknown option",
			body: lanNetwork(`"com.docker.network.generic":{"macvlan_mod":"bridge"}`, pool, ""),
			user: `remote: unknown network option "macvlan_mod"; did you mean macvlan_mode?`,
		},
		{
			name: "option that is a number",
			body: lanNetwork(`"com.docker.network.generic":{"vlan":100}`, pool, ""),
			user: `remote: network option "vlan": want text, not a number`,
		},
		{
			name: "option that is an object",
			body: lanNetwork(`"com.docker.network.generic":{"parent":{"a":1}}`, pool, ""),
			user: `remote: network option "parent": want text, not an object`,
		},
		{
			name: "options that are a list",
			body: lanNetwork(`"com.docker.network.generic":["parent"]`, pool, ""),
			user: `NetworkDriver.CreateNetwork: Options.com.docker.network.generic: array cannot stand there`,
		},
		{
			name: "switch that is text",
			body: lanNetwork(parentOnly+`,"com.docker.network.internal":"yes"`, pool, ""),
			user: `NetworkDriver.CreateNetwork: Options.com.docker.network.internal: string cannot stand there`,
		},
		{
			name: "pool without length",
			body: lanNetwork(parentOnly, `{"Pool":"192.168.0.0"}`, ""),
			user: `remote: IPv4 pool "192.168.0.0": want an address and a length such as 192.168.0.0/16`,
		},
		{
			name: "pool of the other family",
			body: lanNetwork(parentOnly, `{"Pool":"fd00::/64"}`, ""),
			user: "remote: IPv4 subnet fd00::/64 is not IPv4",
		},
		{
			name: "IPv4 pool in IPv6 clothes",
			body: lanNetwork(parentOnly, `{"Pool":"::ffff:192.168.0.0/112"}`, ""),
			user: "remote: IPv4 pool ::ffff:192.168.0.0 is an IPv4 address written as IPv6; write 192.168.0.0",
		},
		{
			name: "gateway that is no address",
			body: lanNetwork(parentOnly, `{"Pool":"10.0.0.0/24","Gateway":"router"}`, ""),
			user: `remote: IPv4 gateway "router" is not an address`,
		},
		{
			name: "gateway that is a group",
			body: lanNetwork(parentOnly, `{"Pool":"10.0.0.0/24","Gateway":"224.0.0.1/24"}`, ""),
			user: `remote: IPv4 gateway 224.0.0.1 is not the address of a router`,
		},
		{
			name: "no network id",
			body: `{"IPv4Data":[` + pool + `],"Options":{}}`,
			user: "remote: network id is missing",
		},
		{
			name: "network id that is a path",
			body: `{"NetworkID":"../../etc/passwd"}`,
			user: `remote: network id "../../etc/passwd": only letters, digits, '-' and '_' may stand in it`,
		},
		{
			name: "network id that is a number",
			body: `{"NetworkID":7}`,
			user: `NetworkDriver.CreateNetwork: NetworkID: number cannot stand there`,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost()
			status, answer := newDoor(h.verbs()).ask(t, "POST", "NetworkDriver.CreateNetwork", tc.body)
			if diff := cmp.Diff(tc.user, user("NetworkDriver.CreateNetwork", status, answer)); diff != "" {
				t.Errorf("what docker prints (-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(tc.host, h.String()); diff != "" {
				t.Errorf("what is there afterwards (-want +got)\n%s", diff)
			}
		})
	}
}

func TestCreateEndpoint(t *testing.T) {
	for _, tc := range []struct {
		name, iface, options string
		user, host           string
		answer               map[string]any
	}{
		{
			name:    "a MAC address is chosen and answered, the address is not repeated",
			iface:   `{"Address":"192.168.11.2/16","AddressIPv6":"","MacAddress":""}`,
			options: `{"com.docker.network.endpoint.exposedports":[],"com.docker.network.portmap":[]}`,
			answer:  map[string]any{"Interface": map[string]any{"MacAddress": "02:42:c0:a8:0b:02"}},
			host:    "endpoint 9cdc103d277c on 0728abe9c17d 192.168.11.2/16\n",
		},
		{
			name:    "a MAC address that was given is not repeated",
			iface:   `{"Address":"192.168.11.2/16","MacAddress":"02-11-22-33-44-AA"}`,
			options: `{"com.docker.network.endpoint.macaddress":"AhEiM0RV"}`,
			answer:  map[string]any{"Interface": map[string]any{}},
			host:    "endpoint 9cdc103d277c on 0728abe9c17d 192.168.11.2/16 mac=02:11:22:33:44:aa\n",
		},
		{
			name:    "both families, a name for the link, published ports",
			iface:   `{"Address":"10.9.0.3/24","AddressIPv6":"fd00:1::3/64","MacAddress":""}`,
			options: `{"com.docker.network.endpoint.ifname":"lan0","com.docker.network.portmap":[{"Proto":6,"Port":80,"HostPort":8080},{"Proto":17,"Port":53}]}`,
			answer:  map[string]any{"Interface": map[string]any{"MacAddress": "02:42:c0:a8:0b:02"}},
			host:    "endpoint 9cdc103d277c on 0728abe9c17d 10.9.0.3/24 fd00:1::3/64 ifname=lan0 published=2\n",
		},
		{
			name:    "no address: the null IPAM driver",
			iface:   `{}`,
			options: `null`,
			answer:  map[string]any{"Interface": map[string]any{"MacAddress": "02:42:c0:a8:0b:02"}},
			host:    "endpoint 9cdc103d277c on 0728abe9c17d\n",
		},
		{
			name:    "no interface at all",
			iface:   `null`,
			options: `{}`,
			answer:  map[string]any{"Interface": map[string]any{"MacAddress": "02:42:c0:a8:0b:02"}},
			host:    "endpoint 9cdc103d277c on 0728abe9c17d\n",
		},
		{name: "group MAC", iface: `{"MacAddress":"01:00:5e:00:00:01"}`, options: `{}`,
			user: "remote: MAC address 01:00:5e:00:00:01 is a group (multicast) address: the first byte must be even"},
		{name: "eight byte MAC", iface: `{"MacAddress":"02:00:5e:10:00:00:00:01"}`, options: `{}`,
			user: `remote: MAC address "02:00:5e:10:00:00:00:01": want six bytes such as 02:42:ac:11:00:02`},
		{name: "address without length", iface: `{"Address":"192.168.11.2"}`, options: `{}`,
			user: `remote: IPv4 address "192.168.11.2": want an address and a length such as 192.168.11.2/16`},
		{name: "families swapped", iface: `{"AddressIPv6":"192.168.11.2/16"}`, options: `{}`,
			user: "remote: IPv6 address 192.168.11.2/16 is of the other family"},
		{name: "mapped", iface: `{"Address":"::ffff:192.168.11.2/112"}`, options: `{}`,
			user: "remote: IPv4 address ::ffff:192.168.11.2 is an IPv4 address written as IPv6; write 192.168.11.2"},
		{name: "loopback", iface: `{"Address":"127.0.0.1/8"}`, options: `{}`,
			user: "remote: IPv4 address 127.0.0.1/8 cannot be a container's"},
		{name: "unknown driver-opt", iface: `{}`, options: `{"color":"red"}`,
			user: `remote: unknown endpoint option "color"; known are com.docker.network.endpoint.ifname, com.docker.network.endpoint.sysctls, dhcp_client_id, dhcp_user_class, dhcp_vendor_class, hostname, identity, ip, mac_address`},
		{name: "name that is no text", iface: `{}`, options: `{"com.docker.network.endpoint.ifname":["a"]}`,
			user: "remote: option com.docker.network.endpoint.ifname: want text"},
		{name: "options that are text", iface: `{}`, options: `"a"`,
			user: "NetworkDriver.CreateEndpoint: Options: string cannot stand there"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			h := newHost()
			h.networks[netID] = &lan.Network{ID: netID, Kind: lan.Macvlan, Mode: lan.ModeBridge}
			before := h.String()
			body := `{"NetworkID":"` + netID + `","EndpointID":"` + epID + `","Interface":` + tc.iface + `,"Options":` + tc.options + `}`
			status, answer := newDoor(h.verbs()).ask(t, "POST", "NetworkDriver.CreateEndpoint", body)
			if diff := cmp.Diff(tc.user, user("NetworkDriver.CreateEndpoint", status, answer)); diff != "" {
				t.Errorf("what docker prints (-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(tc.answer, answer); tc.user == "" && diff != "" {
				t.Errorf("answer (-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(tc.host, strings.TrimPrefix(h.String(), before)); diff != "" {
				t.Errorf("what is there afterwards (-want +got)\n%s", diff)
			}
		})
	}
}

func TestJoin(t *testing.T) {
	full := &engine.Attachment{
		SrcName: "ly-9cdc103d277c", DstPrefix: "eth", DstName: "lan0",
		Gateway4: netip.MustParseAddr("192.168.0.1"), Gateway6: netip.MustParseAddr("fe80::1"),
		Routes: []lan.Route{
			{Dst: netip.MustParsePrefix("0.0.0.0/0")},
			{Dst: netip.MustParsePrefix("10.0.0.0/8"), NextHop: netip.MustParseAddr("192.168.0.2")},
		},
	}
	for _, tc := range []struct {
		name, sandbox string
		attachment    *engine.Attachment
		user          string
		answer        map[string]any
	}{
		{
			name: "everything", sandbox: "/var/run/docker/netns/14e00f2cdb68", attachment: full,
			answer: map[string]any{
				"InterfaceName": map[string]any{"SrcName": "ly-9cdc103d277c", "DstPrefix": "eth", "DstName": "lan0"},
				"Gateway":       "192.168.0.1", "GatewayIPv6": "fe80::1", "DisableGatewayService": true,
				"StaticRoutes": []any{
					map[string]any{"Destination": "0.0.0.0/0", "RouteType": 1.0},
					map[string]any{"Destination": "10.0.0.0/8", "RouteType": 0.0, "NextHop": "192.168.0.2"},
				},
			},
		},
		{
			name: "nothing but a link", sandbox: "/n", attachment: &engine.Attachment{SrcName: "ly-9cdc103d277c", DstPrefix: "eth"},
			answer: map[string]any{
				"InterfaceName":         map[string]any{"SrcName": "ly-9cdc103d277c", "DstPrefix": "eth"},
				"DisableGatewayService": true,
			},
		},
		{name: "no sandbox", user: `remote: sandbox key "" is not the path of a network namespace`},
		{name: "relative sandbox", sandbox: "etc/passwd", user: `remote: sandbox key "etc/passwd" is not the path of a network namespace`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			v := newHost().verbs()
			v.Join = func(_ context.Context, _, _, sandbox string) (*engine.Attachment, error) {
				if sandbox != tc.sandbox {
					t.Errorf("the verb was given sandbox %q, want %q", sandbox, tc.sandbox)
				}
				return tc.attachment, nil
			}
			body := `{"NetworkID":"` + netID + `","EndpointID":"` + epID + `","SandboxKey":"` + tc.sandbox + `","Options":{}}`
			status, answer := newDoor(v).ask(t, "POST", "NetworkDriver.Join", body)
			if diff := cmp.Diff(tc.user, user("NetworkDriver.Join", status, answer)); diff != "" {
				t.Errorf("what docker prints (-want +got)\n%s", diff)
			}
			if diff := cmp.Diff(tc.answer, answer); tc.user == "" && diff != "" {
				t.Errorf("answer (-want +got)\n%s", diff)
			}
		})
	}
}

func TestGwAllocCheck(t *testing.T) {
	for options, want := range map[string]map[string]any{
		`{"com.docker.network.generic":{"parent":"eth1","ipvlan_mode":"l3"}}`:                 {"SkipIPv4": true, "SkipIPv6": true},
		`{"com.docker.network.generic":{"parent":"eth1"}}`:                                    {"SkipIPv4": false, "SkipIPv6": false},
		`{"com.docker.network.generic":{"parent":"eth1"},"com.docker.network.internal":true}`: {"SkipIPv4": true, "SkipIPv6": true},
		`{"com.docker.network.generic":{"parent":1}}`:                                         {"Err": `network option "parent": want text, not a number`},
	} {
		_, got := newDoor(newHost().verbs()).ask(t, "POST", "NetworkDriver.GwAllocCheck", `{"Options":`+options+`}`)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", options, diff)
		}
	}
}

func TestNothingToDo(t *testing.T) {
	ids := `{"NetworkID":"` + netID + `","EndpointID":"` + epID + `","Options":{"com.docker.network.portmap":[]}}`
	for method, body := range map[string]string{
		"NetworkDriver.ProgramExternalConnectivity": ids,
		"NetworkDriver.RevokeExternalConnectivity":  ids,
		"NetworkDriver.FreeNetwork":                 ids,
		"NetworkDriver.DiscoverNew":                 `{"DiscoveryType":1,"DiscoveryData":{"Address":"10.0.0.1","BindAddress":"","Self":true}}`,
		"NetworkDriver.DiscoverDelete":              `{"DiscoveryType":1,"DiscoveryData":{"Address":"10.0.0.1","Self":false}}`,
	} {
		status, answer := newDoor(newHost().verbs()).ask(t, "POST", method, body)
		if status != 200 || len(answer) != 0 {
			t.Errorf("%s answered %d %v, want 200 and nothing", method, status, answer)
		}
	}
}

// Calls that are none of the protocol's, for every method.
func TestMalformedCalls(t *testing.T) {
	deep := strings.Repeat(`{"Options":`, 20000) + "1" + strings.Repeat("}", 20000)
	calls := 0
	for method := range New(newHost().verbs(), nil).methods {
		noBody := method == "Plugin.Activate" || strings.Contains(method, ".Get")
		for _, tc := range []struct {
			verb, body string
			status     int
			text       string
		}{
			{"GET", "{}", 405, "is called with POST, not GET"},
			{"POST", strings.Repeat(" ", maxBody+1), 413, "longer than 1048576 bytes"},
			{"POST", "", 400, "request body is empty"},
			{"POST", "x=y", 400, "not JSON"},
			{"POST", "{} {}", 400, "not JSON"},
			{"POST", `{"NetworkID":`, 400, "not JSON"},
			{"POST", "[1]", 400, "request body: array cannot stand there"},
			{"POST", deep, 400, "exceeded max depth"},
		} {
			if noBody && tc.status == 400 {
				continue
			}
			calls++
			d := newDoor(newHost().verbs())
			status, answer := d.ask(t, tc.verb, method, tc.body)
			text, _ := answer["Err"].(string)
			if status != tc.status || !strings.Contains(text, tc.text) {
				t.Errorf("%s %s with %.20q: %d %q, want %d and %q", tc.verb, method, tc.body, status, text, tc.status, tc.text)
			}
			if !strings.Contains(d.log.String(), "level=WARN msg=refused") {
				t.Errorf("%s %s with %.20q left no line in the log:\n%s", tc.verb, method, tc.body, d.log)
			}
		}
	}
	if calls < 100 {
		t.Errorf("only %d calls tried", calls)
	}
	d := newDoor(newHost().verbs())
	if status, answer := d.ask(t, "POST", "NetworkDriver.Nonsense", "{}"); status != 404 || answer["Err"] != `method "NetworkDriver.Nonsense" is not known` {
		t.Errorf("unknown method: %d %v", status, answer)
	}
}

func TestMissingIDs(t *testing.T) {
	for _, method := range []string{
		"CreateEndpoint", "EndpointOperInfo", "DeleteEndpoint", "Join", "Leave",
		"ProgramExternalConnectivity", "RevokeExternalConnectivity",
	} {
		for body, want := range map[string]string{
			`{}`:                            "network id is missing",
			`null`:                          "network id is missing",
			`{"NetworkID":"` + netID + `"}`: "endpoint id is missing",
			`{"NetworkID":"` + netID + `","EndpointID":"a/b"}`: `endpoint id "a/b": only letters, digits, '-' and '_' may stand in it`,
			`{"NetworkID":"` + strings.Repeat("a", 129) + `"}`: "network id has 129 characters, 128 at most",
		} {
			status, answer := newDoor(Verbs{}).ask(t, "POST", "NetworkDriver."+method, body)
			if got := user(method, status, answer); got != "remote: "+want {
				t.Errorf("%s %s: docker prints %q, want %q", method, body, got, "remote: "+want)
			}
		}
	}
}

func TestLog(t *testing.T) {
	body := `{"NetworkID":"` + netID + `","EndpointID":"` + epID + `"}`
	v := newHost().verbs()
	for _, tc := range []struct {
		name   string
		err    error
		status int
		answer map[string]any
		log    string
	}{
		{"done", nil, 200, map[string]any{}, "level=DEBUG msg=answered method=NetworkDriver.Leave took="},
		{"refused", lan.Refusef(lan.ErrConflict, "no"), 200, map[string]any{"Err": "no"}, "level=WARN msg=refused method=NetworkDriver.Leave took="},
		{"failed", errors.New("disk full"), 200, map[string]any{"Err": "disk full"}, "level=ERROR msg=failed method=NetworkDriver.Leave took="},
	} {
		v.Leave = func(context.Context, string, string) error { return tc.err }
		d := newDoor(v)
		status, answer := d.ask(t, "POST", "NetworkDriver.Leave", body)
		if diff := cmp.Diff(tc.answer, answer); status != tc.status || diff != "" {
			t.Errorf("%s: status %d (-want +got)\n%s", tc.name, status, diff)
		}
		for _, want := range []string{tc.log, "network=0728abe9c17d endpoint=9cdc103d277c"} {
			if !strings.Contains(d.log.String(), want) {
				t.Errorf("%s: %q is not in the log:\n%s", tc.name, want, d.log)
			}
		}
	}
}

func TestPanicIsAnswered(t *testing.T) {
	v := newHost().verbs()
	v.Leave = func(context.Context, string, string) error { panic("boom") }
	d := newDoor(v)
	status, answer := d.ask(t, "POST", "NetworkDriver.Leave", `{"NetworkID":"`+netID+`","EndpointID":"`+epID+`"}`)
	id := requestIDs(d.log.String())[0]
	want := map[string]any{"Err": "internal error; the log of lanyard has the details (request=" + id + ")"}
	if diff := cmp.Diff(want, answer); status != 500 || diff != "" {
		t.Errorf("status %d (-want +got)\n%s", status, diff)
	}
	for _, want := range []string{"level=ERROR msg=panic method=NetworkDriver.Leave err=boom", "docker_test.go"} {
		if !strings.Contains(d.log.String(), want) {
			t.Errorf("%q is not in the log:\n%s", want, d.log)
		}
	}
	if status, _ := d.ask(t, "POST", "Plugin.Activate", ""); status != 200 {
		t.Errorf("after the panic: status %d", status)
	}
}

// A verb that has begun is not cut short when Docker hangs up.
func TestHangUp(t *testing.T) {
	v := newHost().verbs()
	v.Leave = func(ctx context.Context, _, _ string) error { return ctx.Err() }
	d := newDoor(v)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r, err := http.NewRequestWithContext(ctx, "POST", "/NetworkDriver.Leave", strings.NewReader(`{"NetworkID":"a","EndpointID":"b"}`))
	if err != nil {
		t.Fatal(err)
	}
	w := &discard{}
	d.ServeHTTP(w, r)
	if got := string(w.body); got != "{}\n" {
		t.Errorf("answered %q", got)
	}
}

type discard struct{ body []byte }

func (*discard) Header() http.Header           { return http.Header{} }
func (*discard) WriteHeader(int)               {}
func (d *discard) Write(b []byte) (int, error) { d.body = append(d.body, b...); return len(b), nil }
