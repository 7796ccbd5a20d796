package topology

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
)

var update = flag.Bool("update", false, "write the golden files anew")

var noon = time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)

func network(id, name, wire, link, subnet string, tags ...lan.Tag) NamedNetwork {
	n := NamedNetwork{Name: name, NetworkState: engine.NetworkState{
		Network: lan.Network{ID: id, Kind: lan.Macvlan, Mode: lan.ModeBridge, Parent: lan.ParentSpec{Name: link}, Created: noon},
		Wire:    wire, ParentLink: link, ParentMAC: "02:00:00:00:00:01", Tags: tags, Made: len(tags) > 0,
	}}
	if subnet != "" {
		p := netip.MustParsePrefix(subnet)
		n.IPv4 = []lan.Subnet{{Pool: p, Gateway: p.Addr().Next()}}
	}
	return n
}

func endpoint(id, network, name, addr, state string) NamedEndpoint {
	e := NamedEndpoint{Container: name, EndpointState: engine.EndpointState{
		Endpoint: lan.Endpoint{ID: id, NetworkID: network, MAC: "02:11:22:33:44:" + id[len(id)-2:], Created: noon},
		Kind:     lan.Macvlan, Mode: lan.ModeBridge, State: state,
	}}
	if addr != "" {
		e.IPv4 = netip.MustParsePrefix(addr)
	}
	return e
}

// site has one of everything, in an order that the picture does not have.
func site() []HostInput {
	tag := func(id uint16) lan.Tag { return lan.Tag{ID: id, Proto: lan.Dot1Q} }
	leased := network("cc0728abe9c17d70", "office", "eth1", "eth1", "")
	leased.IPv4 = []lan.Subnet{{Pool: netip.MustParsePrefix("0.0.0.0/0"), Source: lan.SourceDHCP}}
	alone := network("dd0728abe9c17d70", "lab", "", "", "10.9.0.0/24")
	alone.Parent.Name, alone.ParentMAC = "", ""
	broken := network("ee0728abe9c17d70", "cameras", "eth2, VLAN 802.1ad:200, VLAN 802.1Q:7", "eth2.200.7", "10.7.0.0/16", lan.Tag{ID: 200, Proto: lan.Dot1AD}, tag(7))
	broken.Problem = "parent eth2.200.7 has no carrier"
	six := endpoint("e00000000000a6", "aa0728abe9c17d70", "dns", "192.168.11.3/16", "joined")
	six.IPv6, six.SLAAC = netip.MustParsePrefix("fd00:1::3/64"), []netip.Prefix{netip.MustParsePrefix("2001:db8::3/64")}
	moved := endpoint("e00000000000b1", "cc0728abe9c17d70", "printer", "172.20.0.9/24", "joined")
	moved.Told4 = netip.MustParsePrefix("172.20.0.8/24")
	return []HostInput{
		{
			Name: "node2", Silent: true,
			Networks:  []NamedNetwork{network("aa9999abe9c17d70", "macvlan100", "", "eth1.100", "192.168.0.0/16", tag(100))},
			Endpoints: []NamedEndpoint{endpoint("e00000000000c1", "aa9999abe9c17d70", "a2", "192.168.10.2/16", "joined")},
		},
		{
			Name:     "node1",
			Networks: []NamedNetwork{broken, alone, network("aa0728abe9c17d70", "macvlan100", "eth1, VLAN 802.1Q:100", "eth1.100", "192.168.0.0/16", tag(100)), leased},
			Endpoints: []NamedEndpoint{
				endpoint("e00000000000a9", "aa0728abe9c17d70", "web", "192.168.11.20/16", "joined"),
				six,
				endpoint("e00000000000a7", "aa0728abe9c17d70", "", "192.168.11.4/16", "created"),
				endpoint("e00000000000a8", "aa0728abe9c17d70", "old", "192.168.11.5/16", "left"),
				moved,
				endpoint("e00000000000b2", "cc0728abe9c17d70", "scanner", "", "joined"),
			},
			Leases: []ipam.LeaseState{
				{ID: "3f2a", Endpoint: "e00000000000b1", Address: netip.MustParseAddr("172.20.0.9"), State: ipam.LeaseBound, EndsAt: noon.Add(time.Hour),
					Granted: noon, Lease: lan.Lease{Server: netip.MustParseAddr("172.20.0.1")}},
				{ID: "77aa", Endpoint: "e00000000000b2", State: ipam.LeaseLost, Problem: "no DHCP server gives it an address"},
			},
			Addresses: []ipam.AddressState{
				{Address: netip.MustParseAddr("192.168.11.20"), Endpoint: "e00000000000a9", Rival: "52:54:00:00:00:99"},
				{Address: netip.MustParseAddr("192.168.11.9"), State: ipam.StateConflict, MAC: "52:54:00:00:00:98"},
				{Address: netip.MustParseAddr("192.168.11.4"), Endpoint: "e00000000000a7", Container: "queue"},
			},
		},
	}
}

var formats = []struct {
	file  string
	write func(*Map, io.Writer) error
}{
	{"map.txt", func(m *Map, w io.Writer) error { return m.Text(w, TextStyle{UTF8: true}) }},
	{"ascii.txt", func(m *Map, w io.Writer) error { return m.Text(w, TextStyle{Width: 60}) }},
	{"color.txt", func(m *Map, w io.Writer) error { return m.Text(w, TextStyle{Color: true, UTF8: true, Width: 100}) }},
	{"map.svg", (*Map).SVG},
	{"map.mmd", (*Map).Mermaid},
	{"map.dot", (*Map).Dot},
	{"map.json", func(m *Map, w io.Writer) error {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(m)
	}},
}

func TestFormats(t *testing.T) {
	for _, f := range formats {
		var b bytes.Buffer
		if err := f.write(Build(site()), &b); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join("testdata", f.file)
		if *update {
			if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), b.String()); diff != "" {
			t.Errorf("%s (-want +got)\n%s", f.file, diff)
		}
	}
}

// Names that are syntax somewhere are names everywhere.
func TestHarmless(t *testing.T) {
	const evil = "<script>alert(1)</script>\"];\n}\\n\x1b[31m&lt;#60;{}|`--\u202eabc"
	in := HostInput{
		Name:      evil,
		Networks:  []NamedNetwork{network("aa0728abe9c17d70", evil, evil, evil, "10.0.0.0/24")},
		Endpoints: []NamedEndpoint{endpoint("e00000000000a9", "aa0728abe9c17d70", evil, "10.0.0.2/24", evil)},
	}
	in.Networks[0].Problem, in.Endpoints[0].MAC = evil, evil
	for _, f := range formats {
		var b bytes.Buffer
		if err := f.write(Build([]HostInput{in}), &b); err != nil {
			t.Fatal(err)
		}
		got := b.String()
		switch filepath.Ext(f.file) {
		case ".txt":
			if strings.ContainsAny(strings.NewReplacer("\x1b[0m", "", "\x1b[1m", "", "\x1b[2m", "", "\x1b[31m!", "!", "\x1b[33m", "", "\x1b[34m", "", "\x1b[36m", "").Replace(got), "\x1b\u202e") {
				t.Errorf("%s: a terminal would obey\n%q", f.file, got)
			}
		case ".svg":
			for d := xml.NewDecoder(strings.NewReader(got)); ; {
				tok, err := d.Token()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatalf("%s: %v", f.file, err)
				}
				if s, ok := tok.(xml.StartElement); ok && s.Name.Local == "script" {
					t.Errorf("%s has a script", f.file)
				}
			}
		case ".mmd":
			if strings.Contains(got, "<script") || strings.Contains(got, "`") || strings.Count(got, `"`)%2 != 0 {
				t.Errorf("%s:\n%s", f.file, got)
			}
		case ".dot":
			out, ok := graphviz(t, got)
			if ok && (!strings.Contains(out, "&lt;script&gt;alert(1)") || strings.Contains(out, "<script")) {
				t.Errorf("%s becomes\n%s", f.file, out)
			}
		}
	}
}

// graphviz draws a graph by the real program, where there is one.
func graphviz(t *testing.T, text string) (string, bool) {
	t.Helper()
	path, err := exec.LookPath("dot")
	if err != nil {
		return "", false // e2e/web has it
	}
	cmd := exec.Command(path, "-Tsvg")
	cmd.Stdin = strings.NewReader(text)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Errorf("dot: %v\n%s", err, stderr.String())
	}
	return string(out), true
}

func TestOnly(t *testing.T) {
	for words, want := range map[string]string{
		"":                              "2 hosts, 5 networks, 7 containers",
		"macvlan100":                    "2 hosts, 2 networks, 5 containers",
		"aa0728":                        "1 network, 4 containers",
		"web":                           "1 network, 1 container",
		"web 172.20.0.8":                "2 networks, 2 containers",
		"2001:db8::3":                   "1 network, 1 container",
		"02:11:22:33:44:A9":             "1 network, 1 container",
		"lab office a2":                 "2 hosts, 3 networks, 3 containers",
		"nothing":                       `"nothing" is no network, container or address that is known; try: lanyard map`,
		"web e0":                        `"e0" is no network, container or address that is known; try: lanyard map`,
		"e00000000000a9 192.168.11.200": `"192.168.11.200" is no network, container or address that is known; try: lanyard map`,
	} {
		m := Build(site())
		got := ""
		if err := m.Only(strings.Fields(words)); err != nil {
			got = err.Error()
		} else {
			got = m.Summary()
		}
		if got != want {
			t.Errorf("%s: %s, want %s", words, got, want)
		}
	}
	m := Build(site())
	if !m.Host("node2") || m.Summary() != "1 network, 1 container" {
		t.Errorf("node2: %s", m.Summary())
	}
	if m.Host("node3") {
		t.Error("node3 is there")
	}
}
