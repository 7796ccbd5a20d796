package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/netns"
	"github.com/lanyard-net/lanyard/internal/store"
)

// bench is a host with eth1 and an engine on it, as Docker would use it.
type bench struct {
	*Engine
	t    testing.TB
	host *kerneltest.Host
	dir  string
	db   *store.DB
	log  *strings.Builder
}

var ctx = context.Background()

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{t: t, host: kerneltest.New(t), dir: t.TempDir()}
	b.host.Veth("eth1", "wire")
	b.start()
	t.Cleanup(func() {
		b.trash.wait()
		b.invariants()
		b.db.Close()
	})
	return b
}

// start opens the state and restores, as a daemon that starts.
func (b *bench) start() {
	b.t.Helper()
	db, err := store.Open(b.dir)
	if err != nil {
		b.t.Fatal(err)
	}
	links, err := link.NewAt(b.host.NS)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(links.Close)
	b.log = &strings.Builder{}
	log := slog.New(slog.NewTextHandler(b.log, nil))
	state, err := db.Load()
	if err != nil {
		b.t.Fatal(err)
	}
	addresses, err := ipam.New(ipam.Config{DB: db, Links: links, Log: log}, state)
	if err != nil {
		b.t.Fatal(err)
	}
	e, err := New(Config{DB: db, Links: links, Addresses: addresses, State: state, Log: log, Waits: func(string) {}})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(e.greeter.end) // it works on the links
	e.restore()
	b.db, b.Engine = db, e
}

// restart ends the daemon without a word and starts it again.
func (b *bench) restart() {
	b.t.Helper()
	b.trash.wait()
	if err := b.db.Close(); err != nil {
		b.t.Fatal(err)
	}
	b.start()
}

// invariants compares memory, disk and kernel.
func (b *bench) invariants() {
	b.t.Helper()
	if err := b.db.Write(); err != nil { // after all that was begun
		b.t.Fatal(err)
	}
	s, err := b.db.Load()
	if err != nil {
		b.t.Fatal(err)
	}
	if len(s.Networks) != len(b.networks) || len(s.Endpoints) != len(b.endpoints) {
		b.t.Errorf("on disk %d networks, %d endpoints; in memory %d, %d", len(s.Networks), len(s.Endpoints), len(b.networks), len(b.endpoints))
	}
	for _, e := range s.Endpoints {
		if ep := b.endpoints[e.ID]; ep == nil {
			b.t.Errorf("endpoint %s is on disk only", e.ID)
		} else if d := cmp.Diff(*e, ep.rec, cmpopts.EquateComparable(netip.Prefix{})); d != "" {
			b.t.Errorf("endpoint on disk and in memory:\n%s", d)
		}
	}
	mine, err := b.links.Mine()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, name := range mine {
		if !slices.ContainsFunc(s.Endpoints, func(e *lan.Endpoint) bool { return e.LinkName() == name }) {
			b.t.Errorf("link %s belongs to no endpoint", name)
		}
	}
	parents, err := b.links.OurParents()
	if err != nil {
		b.t.Fatal(err)
	}
	used := b.inUse()
	for _, p := range parents {
		if !used[p.Index] {
			b.t.Errorf("parent %s belongs to no network", p.Name)
		}
	}
}

var subnet = lan.Subnet{Pool: netip.MustParsePrefix("192.168.0.0/16"), Gateway: netip.MustParseAddr("192.168.0.1")}

func request(id string, opts ...string) lan.NetworkRequest {
	r := lan.NetworkRequest{ID: id, Options: map[string]string{}, WantIPv4: true, IPv4: []lan.Subnet{subnet}}
	for _, o := range opts {
		k, v, _ := strings.Cut(o, "=")
		r.Options[k] = v
	}
	if r.Options["subnet"] != "" {
		r.IPv4 = []lan.Subnet{{Pool: netip.MustParsePrefix("0.0.0.0/0")}} // as Docker's null IPAM driver says
	}
	return r
}

func (b *bench) create(id string, opts ...string) {
	b.t.Helper()
	if err := b.CreateNetwork(ctx, request(id, opts...)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bench) add(network, id, addr string) string {
	b.t.Helper()
	g, err := b.AddEndpoint(ctx, EndpointRequest{NetworkID: network, EndpointID: id, IPv4: netip.MustParsePrefix(addr)})
	if err != nil {
		b.t.Fatal(err)
	}
	return g.MAC
}

// sandbox is a container: joins, and takes the link as Docker does.
func (b *bench) run(network, id, addr string) *kerneltest.Host {
	b.t.Helper()
	b.add(network, id, addr)
	return b.enter(network, id)
}

// stop ends the container as Docker does.
func (b *bench) stop(network, id string, c *kerneltest.Host) {
	b.t.Helper()
	if err := b.Leave(ctx, network, id); err != nil {
		b.t.Error(err)
	}
	c.IP("link set eth0 down")
	c.IP("link set eth0 name ly-%s", lan.Short(id))
	c.IP("link set ly-%s netns %s", lan.Short(id), b.host.Path())
	if err := b.DeleteEndpoint(ctx, network, id); err != nil {
		b.t.Error(err)
	}
}

func TestLifeOfAContainer(t *testing.T) {
	b := newBench(t)
	b.create("net1", "parent=eth1", "com.docker.network.driver.mtu=1400")
	for range 2 {
		c := b.run("net1", "ep1", "192.168.11.2/16")
		out := c.IP("-d link show eth0")
		if !strings.Contains(out, "macvlan mode bridge") || !strings.Contains(out, "mtu 1400") {
			t.Errorf("%s", out)
		}
		b.restart() // the daemon's end is not the container's
		if got := b.Endpoints(); len(got) != 1 || got[0].State != "joined" {
			t.Errorf("after a restart: %+v", got)
		}
		b.stop("net1", "ep1", c)
		b.trash.wait()
	}
	if err := b.DeleteNetwork(ctx, "net1"); err != nil {
		t.Fatal(err)
	}
	if got := b.host.Links(); len(got) != 2 {
		t.Errorf("links left: %v", got)
	}
}

func TestSameAddressSameMAC(t *testing.T) {
	b := newBench(t)
	b.create("net1", "parent=eth1")
	first := b.add("net1", "ep1", "192.168.11.2/16")
	other := b.add("net1", "ep2", "192.168.11.3/16")
	if first == other || first[1] != '2' && first[1] != '6' && first[1] != 'a' && first[1] != 'e' {
		t.Errorf("MACs %s and %s: want two that are locally administered", first, other)
	}
	if err := b.DeleteNetwork(ctx, "net1"); err != nil {
		t.Fatal(err)
	}
	b.restart()
	b.create("net2", "parent=eth1")
	if again := b.add("net2", "ep3", "192.168.11.2/16"); again != first {
		t.Errorf("the container came back with MAC %s, had %s", again, first)
	}
}

func TestRepeatedCallsGetTheSameAnswer(t *testing.T) {
	b := newBench(t)
	for range 2 {
		b.create("net1", "parent=eth1")
	}
	kerneltest.WantError(t, b.CreateNetwork(ctx, request("net1", "parent=eth1", "macvlan_mode=vepa")), lan.ErrConflict, "other options")
	if mac := b.add("net1", "ep1", "192.168.11.2/16"); mac != b.add("net1", "ep1", "192.168.11.2/16") {
		t.Error("another MAC the second time")
	}
	_, err := b.AddEndpoint(ctx, EndpointRequest{NetworkID: "net1", EndpointID: "ep1", IPv4: netip.MustParsePrefix("192.168.11.3/16")})
	kerneltest.WantError(t, err, lan.ErrConflict, "other properties")
	first, err := b.Join(ctx, "net1", "ep1", "/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.Join(ctx, "net1", "ep1", "/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(first, again, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); d != "" {
		t.Errorf("second join:\n%s", d)
	}
	_, err = b.Join(ctx, "net1", "ep1", "/proc/1/ns/net")
	kerneltest.WantError(t, err, lan.ErrConflict, "in sandbox /proc/self/ns/net already")
}

func TestCallsInTheWrongOrder(t *testing.T) {
	b := newBench(t)
	b.create("net1", "parent=eth1")
	b.create("net2", "parent=eth1")
	b.add("net1", "ep1", "192.168.11.2/16")
	for name, err := range map[string]error{
		"delete unknown network":      b.DeleteNetwork(ctx, "nope"),
		"delete unknown endpoint":     b.DeleteEndpoint(ctx, "net1", "nope"),
		"delete on another network":   b.DeleteEndpoint(ctx, "net2", "ep1"),
		"leave unknown endpoint":      b.Leave(ctx, "net1", "nope"),
		"info on unknown network":     b.EndpointInfo(ctx, "nope", "ep1"),
		"join unknown endpoint":       second(b.Join(ctx, "net1", "nope", "/x")),
		"endpoint of unknown network": second(b.AddEndpoint(ctx, EndpointRequest{NetworkID: "nope", EndpointID: "e"})),
	} {
		if !errors.Is(err, lan.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, err := range map[string]error{
		"path in network id":  b.DeleteNetwork(ctx, "../net1"),
		"path in endpoint id": b.DeleteEndpoint(ctx, "net1", "ep/1"),
		"relative sandbox":    second(b.Join(ctx, "net1", "ep1", "x/y")),
		"no endpoint id":      second(b.AddEndpoint(ctx, EndpointRequest{NetworkID: "net1"})),
	} {
		if !errors.Is(err, lan.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := b.Leave(ctx, "net1", "ep1"); err != nil {
		t.Error(err)
	}
	if err := b.DeleteEndpoint(ctx, "net1", "ep1"); err != nil {
		t.Error(err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestSharingAParent(t *testing.T) {
	for _, c := range []struct {
		name          string
		first, second []string
		want          []string // nil: both may be
	}{
		{"two macvlan", []string{"parent=eth1"}, []string{"parent=eth1", "macvlan_mode=private"}, nil},
		{"two ipvlan", []string{"parent=eth1", "ipvlan_mode=l2"}, []string{"parent=eth1", "ipvlan_mode=l2"}, nil},
		{"macvlan, ipvlan", []string{"parent=eth1"}, []string{"parent=eth1", "ipvlan_mode=l2"}, []string{"macvlan network aaaaaaaaaaaa", "-o macvlan_mode=bridge"}},
		{"ipvlan, macvlan", []string{"parent=eth1", "ipvlan_mode=l3"}, []string{"parent=eth1"}, []string{"ipvlan network aaaaaaaaaaaa", "-o ipvlan_mode=l3"}},
		{"ipvlan modes", []string{"parent=eth1", "ipvlan_mode=l3"}, []string{"parent=eth1", "ipvlan_mode=l2"}, []string{"ipvlan network aaaaaaaaaaaa in mode l3"}},
		{"ipvlan flags", []string{"parent=eth1", "ipvlan_flag=vepa"}, []string{"parent=eth1", "ipvlan_mode=l2"}, []string{"flag vepa"}},
		{"passthru first", []string{"parent=eth1", "macvlan_mode=passthru"}, []string{"parent=eth1"}, []string{"aaaaaaaaaaaa in mode passthru"}},
		{"passthru second", []string{"parent=eth1"}, []string{"parent=eth1", "macvlan_mode=passthru"}, []string{"cannot use mode passthru", "macvlan network aaaaaaaaaaaa"}},
		{"two names", []string{"parent=eth1"}, []string{"parent=uplink", "ipvlan_mode=l2"}, []string{"macvlan network aaaaaaaaaaaa"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t)
			b.host.IP("link property add dev eth1 altname uplink")
			b.create(strings.Repeat("a", 64), c.first...)
			err := b.CreateNetwork(ctx, request(strings.Repeat("b", 64), c.second...))
			if c.want == nil && err != nil {
				t.Fatal(err)
			}
			if c.want != nil {
				kerneltest.WantError(t, err, lan.ErrConflict, c.want...)
				// When the first is gone, the second may be.
				if err := b.DeleteNetwork(ctx, strings.Repeat("a", 64)); err != nil {
					t.Fatal(err)
				}
				b.create(strings.Repeat("b", 64), c.second...)
			}
		})
	}
}

func TestParentTakenByOthers(t *testing.T) {
	b := newBench(t)
	b.host.IP("link add theirs link eth1 type macvlan mode passthru")
	kerneltest.WantError(t, b.CreateNetwork(ctx, request("net1", "parent=eth1")), lan.ErrConflict, "parent eth1", "passthru")
	if len(b.Networks()) != 0 {
		t.Error("the refused network is there")
	}
}

func TestPassthruTakesOne(t *testing.T) {
	b := newBench(t)
	b.create("net1", "parent=eth1", "macvlan_mode=passthru")
	c := b.run("net1", "ep1", "192.168.11.2/16")
	parent := b.host.IP("-br link show eth1")
	if mac := b.Endpoints()[0].MAC; !strings.Contains(parent, mac) {
		t.Errorf("the container has MAC %s, the parent %s", mac, parent)
	}
	_, err := b.AddEndpoint(ctx, EndpointRequest{NetworkID: "net1", EndpointID: "ep2", IPv4: netip.MustParsePrefix("192.168.11.3/16")})
	kerneltest.WantError(t, err, lan.ErrConflict, "passthru takes one endpoint", "ep1")
	b.stop("net1", "ep1", c)
	b.run("net1", "ep2", "192.168.11.3/16")
}

func TestBadRequests(t *testing.T) {
	b := newBench(t)
	b.create("net1", "parent=eth1")
	b.create("net2", "parent=wire", "ipvlan_mode=l2")
	b.add("net1", "ep1", "192.168.11.2/16")
	mac := b.Endpoints()[0].MAC
	for _, c := range []struct {
		r      EndpointRequest
		reason error
		words  string
	}{
		{EndpointRequest{NetworkID: "net1", MAC: "01:00:5e:00:00:01"}, lan.ErrInvalid, "multicast"},
		{EndpointRequest{NetworkID: "net1", MAC: "00:00:00:00:00:00"}, lan.ErrInvalid, "zero"},
		{EndpointRequest{NetworkID: "net1", MAC: "02:00:00:00:00:00:00:01"}, lan.ErrInvalid, "six bytes"},
		{EndpointRequest{NetworkID: "net1", MAC: strings.ToUpper(mac)}, lan.ErrConflict, "in use on parent eth1 by endpoint ep1"},
		{EndpointRequest{NetworkID: "net2", MAC: "02:00:00:00:00:01"}, lan.ErrInvalid, "ipvlan interfaces do not support custom mac"},
		{EndpointRequest{NetworkID: "net1", IPv4: netip.MustParsePrefix("192.168.11.2/16")}, lan.ErrConflict, "192.168.11.2 is in use on parent eth1 by endpoint ep1 of network net1"},
		{EndpointRequest{NetworkID: "net1", IPv4: netip.MustParsePrefix("10.0.0.2/16")}, lan.ErrInvalid, "no subnet"},
		{EndpointRequest{NetworkID: "net1", IPv6: netip.MustParsePrefix("fd00::2/64")}, lan.ErrInvalid, "no subnet"},
	} {
		c.r.EndpointID = "ep9"
		_, err := b.AddEndpoint(ctx, c.r)
		kerneltest.WantError(t, err, c.reason, c.words)
	}
	for _, opts := range [][]string{
		{"parent=eth9"}, {"parent=eth1", "com.docker.network.driver.mtu=9000"}, {"parent=lo"}, {"parent=eth1", "x=y"},
		{"parent=eth1.5000"}, {"parent=eth1", "vlan=0"},
	} {
		if err := b.CreateNetwork(ctx, request("net9", opts...)); lan.Reason(err) == nil {
			t.Errorf("%v: %v", opts, err)
		}
	}
	if len(b.Networks()) != 2 || len(b.Endpoints()) != 1 {
		t.Error("something changed")
	}
}

func TestRoutesPerMode(t *testing.T) {
	p := netip.MustParsePrefix
	a := netip.MustParseAddr
	v6 := lan.Subnet{Pool: p("fd00::/64"), Gateway: a("fd00::1")}
	both := lan.Endpoint{IPv4: p("192.168.11.2/16"), IPv6: p("fd00::2/64")}
	for _, c := range []struct {
		name string
		net  lan.Network
		ep   lan.Endpoint
		want Attachment
	}{
		{"macvlan", lan.Network{Mode: lan.ModeBridge}, both, Attachment{Gateway4: a("192.168.0.1"), Gateway6: a("fd00::1")}},
		{"v4 only", lan.Network{Mode: lan.ModeBridge}, lan.Endpoint{IPv4: both.IPv4}, Attachment{Gateway4: a("192.168.0.1")}},
		{"internal", lan.Network{Mode: lan.ModeBridge, Internal: true}, both, Attachment{}},
		{"no gateway wanted", lan.Network{Mode: lan.ModeBridge, Gateway: lan.GatewayNone}, both, Attachment{}},
		{"ipvlan l2", lan.Network{Mode: lan.ModeL2}, both, Attachment{Gateway4: a("192.168.0.1"), Gateway6: a("fd00::1")}},
		{"ipvlan l3", lan.Network{Mode: lan.ModeL3}, both, Attachment{Routes: []lan.Route{{Dst: p("0.0.0.0/0")}, {Dst: p("::/0")}}}},
		{"ipvlan l3s, v6 only", lan.Network{Mode: lan.ModeL3S}, lan.Endpoint{IPv6: both.IPv6}, Attachment{Routes: []lan.Route{{Dst: p("::/0")}}}},
		{"ipvlan l3 internal", lan.Network{Mode: lan.ModeL3, Internal: true}, both, Attachment{}},
		{"ipvlan l3 internal, two subnets", lan.Network{Mode: lan.ModeL3, Internal: true, IPv4: []lan.Subnet{{Pool: p("10.1.0.0/24")}}}, both,
			Attachment{Routes: []lan.Route{{Dst: p("10.1.0.0/24")}}}},
		{"gateway off the link", lan.Network{Mode: lan.ModeBridge}, lan.Endpoint{IPv4: p("192.168.11.2/32")},
			Attachment{Gateway4: a("192.168.0.1"), Routes: []lan.Route{{Dst: p("192.168.0.1/32")}}}},
		{"is the gateway", lan.Network{Mode: lan.ModeBridge}, lan.Endpoint{IPv4: p("192.168.0.1/16")}, Attachment{}},
		{"narrowest subnet", lan.Network{Mode: lan.ModeBridge, IPv4: []lan.Subnet{{Pool: p("192.168.11.0/24"), Gateway: a("192.168.11.1")}}},
			lan.Endpoint{IPv4: p("192.168.11.2/24")}, Attachment{Gateway4: a("192.168.11.1")}},
		{"named", lan.Network{Mode: lan.ModeBridge}, lan.Endpoint{IfName: "lan7"}, Attachment{DstName: "lan7"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.net.IPv4 = append(c.net.IPv4, subnet)
			c.net.IPv6 = append(c.net.IPv6, v6)
			c.ep.ID = "0123456789abcdef"
			c.want.SrcName, c.want.DstPrefix = "ly-0123456789ab", "eth"
			got := attachment(&network{rec: store.Network{Network: c.net}}, c.ep, nil)
			if d := cmp.Diff(&c.want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); d != "" {
				t.Errorf("(-want +got):\n%s", d)
			}
		})
	}
}

// The gateway of an address is its own subnet's, when a network has several.
func TestSeveralSubnets(t *testing.T) {
	n := lan.Network{Mode: lan.ModeBridge, IPv4: []lan.Subnet{subnet, {Pool: netip.MustParsePrefix("10.1.0.0/24"), Gateway: netip.MustParseAddr("10.1.0.254")}}}
	got := attachment(&network{rec: store.Network{Network: n}}, lan.Endpoint{IPv4: netip.MustParsePrefix("10.1.0.7/24")}, nil)
	if got.Gateway4 != netip.MustParseAddr("10.1.0.254") {
		t.Errorf("gateway %s", got.Gateway4)
	}
}

func TestParentComesBack(t *testing.T) {
	b := newBench(t)
	b.create("net1", "parent=eth1")
	b.host.IP("link del eth1")
	b.add("net1", "ep1", "192.168.11.2/16")
	_, err := b.Join(ctx, "net1", "ep1", "/proc/self/ns/net")
	kerneltest.WantError(t, err, lan.ErrUnavailable, "eth1 is not on this host")
	if s := b.Networks()[0]; s.Problem == "" {
		t.Error("the network's state says nothing of it")
	}
	b.host.Veth("eth1", "wire")
	if _, err := b.Join(ctx, "net1", "ep1", "/proc/self/ns/net"); err != nil {
		t.Fatal(err)
	}
	if s := b.Networks()[0]; s.Problem != "" || s.ParentLink != "eth1" {
		t.Errorf("state %+v", s)
	}
}

// Docker was killed and says nothing of the end of its containers.
func TestContainersThatVanish(t *testing.T) {
	b := newBench(t)
	b.create("net1", "parent=eth1")
	b.create("net2", "parent=wire", "macvlan_mode=passthru")
	c1, c2 := b.run("net1", "ep1", "192.168.11.2/16"), b.run("net2", "ep2", "192.168.11.2/16")
	c1.Vanish()
	c2.Vanish()
	// The same addresses come again.
	b.add("net1", "ep3", "192.168.11.2/16")
	b.add("net2", "ep4", "192.168.11.2/16")
	if got := b.Endpoints(); len(got) != 2 {
		t.Errorf("endpoints: %+v", got)
	}
	// And those that do not come again are swept.
	c3 := b.run("net1", "ep5", "192.168.11.5/16")
	c3.Vanish()
	b.sweep()
	if got := b.Endpoints(); len(got) != 2 {
		t.Errorf("endpoints after a sweep: %+v", got)
	}
}

// A container with CAP_NET_ADMIN takes our mark off its link.
func TestMarkTakenOff(t *testing.T) {
	b := newBench(t)
	b.create("net1", "parent=eth1")
	for _, ids := range [][]string{{"ep1"}, {"ep2", "ep3"}} { // alone, and several at once
		inside := map[string]*kerneltest.Host{}
		for i, id := range ids {
			inside[id] = b.run("net1", id, fmt.Sprintf("192.168.11.%d/16", 2+i))
			inside[id].IP("link set eth0 group 0")
		}
		for _, id := range ids {
			b.stop("net1", id, inside[id])
		}
		b.trash.wait()
		if got := b.host.Links(); slices.ContainsFunc(got, func(name string) bool { return strings.HasPrefix(name, "ly-") }) {
			t.Errorf("links left: %v", got)
		}
	}
}

// Docker removed a network while lanyard was away, and will not say so.
func TestForgetNetwork(t *testing.T) {
	b := newBench(t)
	b.create("net1", "parent=eth1")
	c := b.run("net1", "ep1", "192.168.11.2/16")
	kerneltest.WantError(t, b.ForgetNetwork(ctx, "net1"), lan.ErrConflict, "has a container on it", "ep1")
	c.Vanish()
	if err := b.ForgetNetwork(ctx, "net1"); err != nil {
		t.Fatal(err)
	}
	if len(b.Networks())+len(b.Endpoints()) != 0 {
		t.Errorf("left: %+v %+v", b.Networks(), b.Endpoints())
	}
	kerneltest.WantError(t, b.ForgetNetwork(ctx, "net1"), lan.ErrNotFound)
}

func TestCrashLeavesNothing(t *testing.T) {
	b := newBench(t)
	b.create("net1", "parent=eth1")
	b.add("net1", "ep1", "192.168.11.2/16")
	if _, err := b.Join(ctx, "net1", "ep1", "/no/such/sandbox"); err != nil {
		t.Fatal(err)
	}
	// A link whose endpoint's record went before the crash, and a network whose
	// making was cut off.
	b.host.IP("link add ly-orphan link eth1 group %d type macvlan mode bridge", link.Group)
	b.host.IP("link add theirs link eth1 type macvlan mode bridge")
	cut := &store.Network{Network: lan.Network{ID: "cut", Kind: lan.Macvlan, Mode: lan.ModeBridge, Parent: lan.ParentSpec{Name: "eth1.100"}}, Making: true, Key: "eth1|802.1Q:100"}
	if err := b.db.Write(store.PutNetwork(cut)); err != nil {
		t.Fatal(err)
	}
	b.restart()
	b.trash.wait()
	if got := b.host.Links(); slices.Contains(got, "ly-orphan") || !slices.Contains(got, "theirs") || !slices.Contains(got, "ly-ep1") {
		t.Errorf("links: %v", got)
	}
	if got := b.Networks(); len(got) != 1 {
		t.Errorf("networks: %+v", got)
	}
	kerneltest.WantError(t, b.DeleteNetwork(ctx, "cut"), lan.ErrNotFound)
}

func TestVLANNetworks(t *testing.T) {
	kerneltest.Need(t, "vlan", "dummy", "qinq")
	b := newBench(t)
	b.create("net1", "parent=eth1.100")
	b.create("net2", "parent=eth1", "vlan=100")
	b.create("net3", "parent=eth1.200.100")
	b.create("net4")
	b.create("net5", "ipvlan_mode=l3")
	kerneltest.WantError(t, b.CreateNetwork(ctx, request("net6", "parent=eth1", "vlan=100", "ipvlan_mode=l2")), lan.ErrConflict, "net1")
	c := b.run("net1", "ep1", "192.168.11.2/16")

	// Reboot: the kernel's part is gone.
	for _, name := range []string{"eth1.100", "eth1.200", "dm-net4", "di-net5"} {
		b.host.IP("link del %s", name)
	}
	c.Vanish()
	b.restart()
	for _, name := range []string{"eth1.100", "eth1.200", "eth1.200.100", "dm-net4", "di-net5"} {
		if !strings.Contains(b.host.IP("link show %s", name), "UP") {
			t.Errorf("%s is down after the restart", name)
		}
	}
	for _, id := range []string{"net1", "net3", "net4", "net5"} {
		if err := b.DeleteNetwork(ctx, id); err != nil {
			t.Error(err)
		}
	}
	b.host.IP("link show eth1.100") // net2 is on it
	if err := b.DeleteNetwork(ctx, "net2"); err != nil {
		t.Error(err)
	}
	if got := b.host.Links(); len(got) != 2 {
		t.Errorf("links left: %v", got)
	}
}

// A network that fails at its last step takes its sub-interface along.
func TestFailedCreateUndoesItself(t *testing.T) {
	kerneltest.Need(t, "vlan")
	b := newBench(t)
	b.db.Close() // the disk is gone
	if err := b.CreateNetwork(ctx, request("net1", "parent=eth1.100")); err == nil {
		t.Error("created without a disk")
	}
	if got := b.host.Links(); len(got) != 2 {
		t.Errorf("links left: %v", got)
	}
	b.start()
}

func TestInterfaceNameIsChecked(t *testing.T) {
	b := newBench(t)
	b.create("net1", "parent=eth1", "ifname=lan7")
	b.run("net1", "ep1", "192.168.11.2/16") // calls it eth0
	for range 2 {
		if err := b.EndpointInfo(ctx, "net1", "ep1"); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(b.log.String(), "does not heed the interface name"); n != 1 {
		t.Errorf("%d warnings, want one:\n%s", n, b.log)
	}
}

// Many containers come and go at once.
func TestStorm(t *testing.T) {
	b := newBench(t)
	b.create("net1", "parent=eth1")
	b.create("net2", "parent=eth1")
	var wg sync.WaitGroup
	for w := range 16 {
		wg.Go(func() {
			network := fmt.Sprintf("net%d", w%2+1)
			for i := range 5 {
				id, addr := fmt.Sprintf("ep%dx%d", w, i), fmt.Sprintf("192.168.%d.%d/16", w+1, i+1)
				if _, err := b.AddEndpoint(ctx, EndpointRequest{NetworkID: network, EndpointID: id, IPv4: netip.MustParsePrefix(addr)}); err != nil {
					t.Error(err)
					return
				}
				if _, err := b.Join(ctx, network, id, "/proc/self/ns/net"); err != nil {
					t.Error(err)
					return
				}
				if err := errors.Join(b.EndpointInfo(ctx, network, id), b.Leave(ctx, network, id), b.DeleteEndpoint(ctx, network, id)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		for range 5 {
			b.sweep()
			b.Networks()
			b.Endpoints()
			time.Sleep(time.Millisecond)
		}
	})
	wg.Wait()
	b.trash.wait()
	if got := b.host.Links(); len(got) != 2 {
		t.Errorf("links left: %v", got)
	}
	if err := errors.Join(b.DeleteNetwork(ctx, "net1"), b.DeleteNetwork(ctx, "net2")); err != nil {
		t.Error(err)
	}
}

// put writes an endpoint's record.
func (b *bench) put(rec lan.Endpoint) {
	b.t.Helper()
	if err := b.db.Write(store.PutEndpoint(&rec)); err != nil {
		b.t.Fatal(err)
	}
}

// A container crashes, and the kernel has not taken its namespace apart when it starts again
// with its address, and so its MAC address.
func TestStartWhileTheOldLinkLingers(t *testing.T) {
	b := newBench(t)
	b.create("net1", "parent=eth1")
	old := b.run("net1", "ep1", "192.168.11.2/16")
	open, err := netns.Open(old.Path())
	if err != nil {
		t.Fatal(err)
	}
	old.Vanish()
	b.add("net1", "ep2", "192.168.11.2/16")
	time.AfterFunc(500*time.Millisecond, func() { open.Close() })
	c := b.enter("net1", "ep2", netip.MustParsePrefix("192.168.11.2/16"))
	if got := state(c); !strings.Contains(got, "192.168.11.2/16") {
		t.Error(got)
	}
}

// Docker is killed before it takes a link that it asked for.
func TestLinkThatDockerNeverTook(t *testing.T) {
	b := newBench(t)
	b.create("net1", "parent=eth1")
	b.add("net1", "ep1", "192.168.11.2/16")
	if _, err := b.Join(ctx, "net1", "ep1", "/run/docker/netns/none"); err != nil {
		t.Fatal(err)
	}
	b.sweep()
	if got := b.Endpoints(); len(got) != 1 {
		t.Fatalf("swept while Docker may yet take it: %+v", got)
	}
	b.mu.Lock()
	b.endpoints["ep1"].touched = time.Now().Add(-startTime - time.Second)
	b.mu.Unlock()
	b.sweep()
	b.trash.wait()
	if got := b.Endpoints(); len(got) != 0 || b.links.Exists("ly-ep1") {
		t.Errorf("left: %+v, %v", got, b.host.Links())
	}
}
