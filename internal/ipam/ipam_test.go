package ipam

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

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/store"
)

var ctx = context.Background()

// bench is a manager on a host of its own, whose link eth1 has a wire to the LAN.
type bench struct {
	*Manager
	t    testing.TB
	host *kerneltest.Host
	dir  string
	log  *kerneltest.Log
	end  func()
	nets map[string]*lan.Network
	keys map[string]string
	// etcd are the members that the addresses are shared by; nil: they are not shared.
	etcd []string
	name string
	// wall is its clock on the wall; nil: this machine's.
	wall func() time.Time
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{t: t, host: kerneltest.New(t), dir: t.TempDir(), nets: map[string]*lan.Network{}, keys: map[string]string{}}
	b.host.Veth("eth1", "lan0")
	b.start()
	t.Cleanup(func() { b.end() })
	return b
}

// start is a daemon that starts on what is on disk.
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
	state, err := db.Load()
	if err != nil {
		b.t.Fatal(err)
	}
	b.log = &kerneltest.Log{}
	log := slog.New(slog.NewTextHandler(b.log, nil))
	run, cancel := context.WithCancel(ctx)
	leave := func() {}
	var shared *cluster.Cluster
	if b.etcd != nil {
		shared, leave = b.join(run, log)
	}
	m, err := New(Config{DB: db, Links: links, Log: log, Cluster: shared, wall: b.wall}, state)
	if err != nil {
		b.t.Fatal(err)
	}
	for id, n := range b.nets {
		m.Known(n, b.keys[id])
	}
	done := make(chan error)
	go func() { done <- m.Run(run) }()
	b.Manager = m
	b.end = func() {
		cancel()
		if err := <-done; err != nil {
			b.t.Error(err)
		}
		leave()
		links.Close()
		if err := db.Close(); err != nil {
			b.t.Error(err)
		}
	}
}

func (b *bench) restart() {
	b.t.Helper()
	b.end()
	b.start()
}

// subnet is what Docker says of one: a subnet, a range, a gateway ("auto" lets us
// choose, "" asks for none), and auxiliary addresses.
type subnet struct {
	pool, rng, gateway string
	aux                []string
	options            map[string]string
}

// request asks for a pool and its fixed addresses as Docker does.
func (b *bench) request(s subnet) (string, lan.Subnet, error) {
	b.t.Helper()
	r := lan.PoolRequest{Subnet: netip.MustParsePrefix(s.pool), Options: s.options}
	r.V6 = r.Subnet.Addr().Is6()
	if s.rng != "" {
		r.Range = netip.MustParsePrefix(s.rng)
	}
	g, err := b.RequestPool(ctx, r)
	if err != nil {
		return "", lan.Subnet{}, err
	}
	id := g.ID
	out := lan.Subnet{Pool: g.Subnet, Leased: true}
	if s.gateway != "" {
		q := lan.AddressRequest{PoolID: id, Gateway: true}
		if s.gateway != "auto" {
			q.Addr = netip.MustParseAddr(s.gateway)
		}
		gw, err := b.RequestAddress(ctx, q)
		if err != nil {
			return "", out, err
		}
		out.Gateway = gw.Addr()
	}
	for _, a := range s.aux {
		addr := netip.MustParseAddr(a)
		if _, err := b.RequestAddress(ctx, lan.AddressRequest{PoolID: id, Addr: addr}); err != nil {
			return "", out, err
		}
		out.Aux = append(out.Aux, addr)
	}
	slices.SortFunc(out.Aux, netip.Addr.Compare)
	return id, out, nil
}

// network makes a network on a wire, and returns its pools' IDs.
func (b *bench) network(id, key string, p lan.Policy, subnets ...subnet) (ids []string, err error) {
	b.t.Helper()
	n := &lan.Network{ID: id, Kind: lan.Macvlan, Mode: lan.ModeBridge, Parent: lan.ParentSpec{Name: "eth1"}, Policy: p}
	for _, s := range subnets {
		pool, sn, err := b.request(s)
		if err != nil {
			return nil, err
		}
		ids = append(ids, pool)
		if sn.Pool.Addr().Is4() {
			n.IPv4 = append(n.IPv4, sn)
		} else {
			n.IPv6 = append(n.IPv6, sn)
		}
	}
	ops, _, err := b.Bind(b.t.Context(), n, key)
	if err != nil {
		return nil, err
	}
	if err := b.db.Write(ops...); err != nil {
		b.t.Fatal(err)
	}
	b.nets[id], b.keys[id] = n, key
	return ids, nil
}

func (b *bench) mustNetwork(id, key string, p lan.Policy, subnets ...subnet) []string {
	b.t.Helper()
	ids, err := b.network(id, key, p, subnets...)
	if err != nil {
		b.t.Fatal(err)
	}
	return ids
}

// ask asks for an address: of an address, for a name.
func (b *bench) ask(pool, addr, name string) (string, error) {
	r := lan.AddressRequest{PoolID: pool, Name: name}
	if addr != "" {
		r.Addr = netip.MustParseAddr(addr)
	}
	p, err := b.RequestAddress(ctx, r)
	return p.Addr().String(), err
}

func (b *bench) mustAsk(pool, addr, name string) string {
	b.t.Helper()
	got, err := b.ask(pool, addr, name)
	if err != nil {
		b.t.Fatal(err)
	}
	return got
}

func (b *bench) give(pool, addr string) {
	b.t.Helper()
	if err := b.ReleaseAddress(ctx, pool, netip.MustParseAddr(addr)); err != nil {
		b.t.Fatal(err)
	}
}

func wantErr(t testing.TB, err error, words ...string) {
	t.Helper()
	for _, w := range words {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("error %v does not say %q", err, w)
		}
	}
}

var off = lan.Policy{NoACD: true}

// The commands of the reference scenario: one subnet and range, twice on one host.
func TestOneSubnetOnTwoWires(t *testing.T) {
	b := newBench(t)
	s := subnet{pool: "192.168.0.0/16", rng: "192.168.11.0/24", gateway: "192.168.0.1"}
	one := b.mustNetwork("macvlan100", "eth1|802.1Q:100", off, s)[0]
	two := b.mustNetwork("macvlan200", "eth1|802.1Q:200", off, s)[0]
	if one == two {
		t.Fatalf("one pool for both: %s", one)
	}
	for range 2 {
		for i := 1; i <= 3; i++ {
			want := fmt.Sprintf("192.168.11.%d", i)
			for _, pool := range []string{one, two} {
				if got := b.mustAsk(pool, "", ""); got != want {
					t.Errorf("pool %s gave %s, want %s", pool, got, want)
				}
			}
		}
		for i := 1; i <= 3; i++ {
			for _, pool := range []string{one, two} {
				b.give(pool, fmt.Sprintf("192.168.11.%d", i))
				b.mustForget(pool, fmt.Sprintf("192.168.11.%d", i))
			}
		}
		b.restart()
	}
}

// mustForget is an operator who wants an address to be as if it was never used.
func (b *bench) mustForget(pool, addr string) {
	b.t.Helper()
	if err := b.Release(pool, netip.MustParseAddr(addr)); err != nil {
		b.t.Fatal(err)
	}
}

// Two networks on one wire, whose pools overlap, share the addresses.
func TestOneWireSharesAddresses(t *testing.T) {
	b := newBench(t)
	one := b.mustNetwork("n1", "eth1", off, subnet{pool: "10.0.0.0/24", rng: "10.0.0.0/29", gateway: "10.0.0.1"})[0]
	two := b.mustNetwork("n2", "eth1", off, subnet{pool: "10.0.0.0/28", gateway: "10.0.0.14", aux: []string{"10.0.0.3"}})[0]
	seen := map[string]string{}
	for _, pool := range []string{one, two} {
		for {
			addr, err := b.ask(pool, "", "")
			if err != nil {
				wantErr(t, err, "is full")
				break
			}
			if old, ok := seen[addr]; ok {
				t.Errorf("%s given by %s and by %s", addr, old, pool)
			}
			seen[addr] = pool
		}
	}
	for _, fixed := range []string{"10.0.0.1", "10.0.0.3", "10.0.0.14"} {
		if seen[fixed] != "" {
			t.Errorf("%s was given to a container", fixed)
		}
	}
	// 10.0.0.0 is the network's of both, 10.0.0.15 the second one's broadcast address.
	if len(seen) != 14-3 {
		t.Errorf("%d addresses given, want 11: %v", len(seen), seen)
	}
}

func TestWhoHasIt(t *testing.T) {
	b := newBench(t)
	b.host.IP("addr add 10.0.0.9/24 dev eth1")
	s := subnet{pool: "10.0.0.0/24", gateway: "10.0.0.254", aux: []string{"10.0.0.7"}}
	pool := b.mustNetwork("net123456789abc", "eth1", off, s)[0]
	held := b.mustAsk(pool, "10.0.0.5", "web")
	if err := b.Reserve(pool, netip.MustParseAddr("10.0.0.6"), "db", "printer's old one"); err != nil {
		t.Fatal(err)
	}
	for addr, words := range map[string][]string{
		held:         {"address 10.0.0.5 on eth1 is held for container web"},
		"10.0.0.254": {"is the gateway of network net123456789"},
		"10.0.0.7":   {"is an auxiliary address of network net123456789"},
		"10.0.0.9":   {"is this host's own address, on eth1"},
		"10.0.0.255": {"is the network's or the broadcast address of subnet 10.0.0.0/24"},
		"10.0.1.1":   {"address 10.0.1.1 is not in subnet 10.0.0.0/24"},
		"fd00::1":    {"is not of the family of subnet"},
	} {
		_, err := b.ask(pool, addr, "other")
		wantErr(t, err, words...)
	}
	_, err := b.ask(pool, "10.0.0.6", "other")
	wantErr(t, err, "is reserved for container db (printer's old one)")
	if got := b.mustAsk(pool, "", "db"); got != "10.0.0.6" {
		t.Errorf("db got %s, not what is reserved for it", got)
	}
	for range 100 {
		if got := b.mustAsk(pool, "", ""); slices.Contains([]string{"10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.0.9", "10.0.0.254"}, got) {
			t.Errorf("%s was given", got)
		}
	}
	// A container that is known is named with its endpoint.
	n := b.nets["net123456789abc"]
	e := &lan.Endpoint{ID: "ep1", NetworkID: n.ID, IPv4: netip.MustParsePrefix("10.0.0.5/24"), MAC: "02:00:00:00:00:05"}
	if _, err := b.Assign(n, "eth1", e, e.MAC, false); err != nil {
		t.Fatal(err)
	}
	_, err = b.ask(pool, "10.0.0.5", "")
	wantErr(t, err, "is held by container web (endpoint ep1 of network net123456789)")
	wantErr(t, b.Release(pool, netip.MustParseAddr("10.0.0.5")), "is held by container web", "try: docker rm")
}

// A container whose records are lost is heard on the wire before it is taken in again: that is no conflict. One that is heard there with
// its address is.
func TestHeardBeforeItWasKnown(t *testing.T) {
	b := newBench(t)
	b.mustNetwork("n1", "eth1", off, subnet{pool: "10.0.0.0/24"})
	n := b.nets["n1"]
	heard := func(addr, mac string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.meet(b.space("eth1"), netip.MustParseAddr(addr), mac, time.Minute)
	}
	heard("10.0.0.5", "02:00:00:00:00:05")
	heard("10.0.0.6", "02:00:00:00:00:66")
	for i, want := range []string{"", "used by 02:00:00:00:00:66 on the wire"} {
		e := &lan.Endpoint{ID: fmt.Sprintf("ep%d", i), NetworkID: n.ID, IPv4: netip.MustParsePrefix(fmt.Sprintf("10.0.0.%d/24", 5+i)), MAC: fmt.Sprintf("02:00:00:00:00:0%d", 5+i)}
		_, err := b.Assign(n, "eth1", e, e.MAC, false)
		if want == "" && err != nil {
			t.Error(err)
		} else if want != "" {
			wantErr(t, err, want)
		}
	}
}

// Reservations are of lanyard's own pools, whatever DHCP servers give on other wires.
func TestReserveBesideDHCP(t *testing.T) {
	b := newBench(t)
	dhcp := map[string]string{"source": "dhcp"}
	b.mustNetwork("leased", "eth1|802.1Q:7", off, subnet{pool: "0.0.0.0/0", options: dhcp})
	own := b.mustNetwork("own", "eth1", off, subnet{pool: "10.0.0.0/24"})[0]
	addr := netip.MustParseAddr("10.0.0.9")
	if err := b.Reserve("", addr, "web", ""); err != nil {
		t.Fatal(err)
	}
	if got := b.mustAsk(own, "", "web"); got != "10.0.0.9" {
		t.Errorf("got %s", got)
	}
	wantErr(t, b.Reserve("", netip.MustParseAddr("10.1.0.9"), "web", ""), "address 10.1.0.9 on eth1, VLAN 802.1Q:7 is the DHCP server's to give", "try: a reservation there")
}

func TestSmallPools(t *testing.T) {
	for _, tc := range []struct {
		pool, gateway string
		want          []string
	}{
		{"10.0.0.0/30", "auto", []string{"10.0.0.2"}},
		{"10.0.0.0/30", "", []string{"10.0.0.1", "10.0.0.2"}},
		{"10.0.0.0/31", "auto", []string{"10.0.0.1"}},
		{"10.0.0.4/31", "", []string{"10.0.0.4", "10.0.0.5"}},
		{"10.0.0.9/32", "auto", []string{"10.0.0.9"}},
		{"10.0.0.9/32", "", []string{"10.0.0.9"}},
		{"fd00::/127", "auto", []string{"fd00::1"}},
		{"fd00::/127", "", []string{"fd00::", "fd00::1"}},
		{"fd00::7/128", "auto", []string{"fd00::7"}},
		{"fd00::/126", "auto", []string{"fd00::2", "fd00::3"}},
	} {
		t.Run(tc.pool+tc.gateway, func(t *testing.T) {
			b := newBench(t)
			pool := b.mustNetwork("n", "eth1", off, subnet{pool: tc.pool, gateway: tc.gateway})[0]
			var got []string
			for {
				addr, err := b.ask(pool, "", "")
				if err != nil {
					wantErr(t, err, "is full")
					break
				}
				got = append(got, addr)
			}
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v", got, tc.want)
			}
		})
	}
	b := newBench(t)
	pool := b.mustNetwork("n", "eth1", off, subnet{pool: "fd00:1::/64", gateway: "auto"})[0]
	if got := b.mustAsk(pool, "", ""); got != "fd00:1::2" {
		t.Errorf("of a /64: %s", got)
	}
}

// When the first subnet is full the next one gives, under the first one's name: an
// engine asks for no other.
func TestSeveralSubnets(t *testing.T) {
	b := newBench(t)
	pools := b.mustNetwork("n", "eth1", off, subnet{pool: "10.0.0.0/30", gateway: "10.0.0.1"}, subnet{pool: "10.0.1.0/30", gateway: "10.0.1.1"}, subnet{pool: "fd00::/126"})
	if a, c := b.mustAsk(pools[0], "", ""), b.mustAsk(pools[0], "", ""); a != "10.0.0.2" || c != "10.0.1.2" {
		t.Errorf("got %s and %s", a, c)
	}
	_, err := b.ask(pools[0], "", "")
	wantErr(t, err, "pool 10.0.0.0/30 on eth1 is full: of 2 addresses 1 are held, 1 set aside; pool 10.0.1.0/30 on eth1 is full")
	b.give(pools[0], "10.0.1.2")
	if got := b.mustAsk(pools[0], "", ""); got != "10.0.1.2" {
		t.Errorf("got %s", got)
	}
}

func TestPoolsThatCannotBe(t *testing.T) {
	b := newBench(t)
	for _, tc := range []struct {
		r    lan.PoolRequest
		want string
	}{
		{lan.PoolRequest{}, "a subnet is needed: that of the wire; try: --subnet"},
		{lan.PoolRequest{V6: true}, "an IPv6 subnet is needed"},
		{lan.PoolRequest{Subnet: netip.MustParsePrefix("10.0.0.0/8"), V6: true}, "of the other family"},
		{lan.PoolRequest{Subnet: netip.MustParsePrefix("0.0.0.0/0")}, "is not one of hosts on a wire"},
		{lan.PoolRequest{Subnet: netip.MustParsePrefix("224.0.0.0/8")}, "is not one of hosts on a wire"},
		{lan.PoolRequest{Subnet: netip.MustParsePrefix("127.0.0.0/8")}, "is not one of hosts on a wire"},
		{lan.PoolRequest{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Range: netip.MustParsePrefix("10.0.1.0/28")}, "10.0.1.0/28"},
		{lan.PoolRequest{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Options: map[string]string{"acd": "off"}}, `unknown --ipam-opt "acd"`},
		{lan.PoolRequest{Subnet: netip.MustParsePrefix("10.0.0.0/24"), Options: map[string]string{"parent": "eth7"}}, "--ipam-opt parent=eth7: parent eth7 is not on this host"},
	} {
		_, err := b.RequestPool(ctx, tc.r)
		wantErr(t, err, tc.want)
	}
	if len(b.Pools()) != 0 {
		t.Errorf("left: %+v", b.Pools())
	}
	_, err := b.ask("nothing", "", "")
	wantErr(t, err, "is not known to lanyard")
	if err := b.ReleasePool(ctx, "nothing"); err != nil {
		t.Error(err)
	}
	if err := b.ReleaseAddress(ctx, "nothing", netip.MustParseAddr("10.0.0.1")); err != nil {
		t.Error(err)
	}
}

// Two networks with one subnet at the same time: the second waits until it is clear
// which pool is the first one's.
func TestOneAtATime(t *testing.T) {
	b := newBench(t)
	_, sn, err := b.request(subnet{pool: "10.0.0.0/24", gateway: "10.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan string)
	go func() {
		g, err := b.RequestPool(ctx, lan.PoolRequest{Subnet: netip.MustParsePrefix("10.0.0.0/24")})
		if err != nil {
			t.Error(err)
		}
		second <- g.ID
	}()
	select {
	case id := <-second:
		t.Fatalf("second pool %s before the first has a network", id)
	case <-time.After(200 * time.Millisecond):
	}
	n := &lan.Network{ID: "n1", IPv4: []lan.Subnet{sn}, Policy: off}
	ops, _, err := b.Bind(t.Context(), n, "eth1")
	if err != nil {
		t.Fatal(err)
	}
	if err := b.db.Write(ops...); err != nil {
		t.Fatal(err)
	}
	id := <-second
	// Its network has another gateway than its pool was asked for: it is not its.
	if _, _, err := b.Bind(t.Context(), &lan.Network{ID: "n2", IPv4: []lan.Subnet{{Pool: sn.Pool, Leased: true, Aux: []netip.Addr{netip.MustParseAddr("10.0.0.9")}}}}, "eth2"); !errors.Is(err, lan.ErrNotFound) {
		t.Errorf("a pool with other addresses was bound: %v", err)
	}
	if err := b.ReleasePool(ctx, id); err != nil {
		t.Fatal(err)
	}
	if got := len(b.Pools()); got != 1 {
		t.Errorf("%d pools, want 1", got)
	}
	if testing.Short() {
		return
	}
	if _, _, err := b.request(subnet{pool: "10.9.0.0/24"}); err != nil {
		t.Fatal(err)
	}
	_, _, err = b.request(subnet{pool: "10.9.0.0/24"})
	wantErr(t, err, "subnet 10.9.0.0/24 was asked for", "--ipam-opt parent=LINK")
}

// With --ipam-opt parent= the wire is known at once: the same pool again is the same.
func TestParentOption(t *testing.T) {
	b := newBench(t)
	opt := map[string]string{"parent": "eth1"}
	s := subnet{pool: "10.0.0.0/24", gateway: "10.0.0.1", options: opt}
	one := b.mustNetwork("n1", "eth1", off, s)[0]
	two := b.mustNetwork("n2", "eth1", off, s)[0]
	if one != two {
		t.Errorf("%s and %s", one, two)
	}
	_, sn, err := b.request(s)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = b.Bind(t.Context(), &lan.Network{ID: "n3", Parent: lan.ParentSpec{Name: "eth2"}, IPv4: []lan.Subnet{sn}}, "eth2")
	wantErr(t, err, "--ipam-opt parent=eth1 and -o parent=eth2 are not the same wire")
	for i := range 3 {
		if got := len(b.Pools()); got != 1 {
			t.Fatalf("after %d releases %d pools", i, got)
		}
		if err := b.ReleasePool(ctx, one); err != nil {
			t.Fatal(err)
		}
	}
	if got := len(b.Pools()); got != 0 {
		t.Errorf("%d pools left", got)
	}
}

func TestIdentity(t *testing.T) {
	b := newBench(t)
	s := subnet{pool: "10.0.0.0/24", rng: "10.0.0.8/29", gateway: "10.0.0.1"}
	pool := b.mustNetwork("n1", "eth1", lan.Policy{NoACD: true, Grace: time.Hour}, s)[0]
	web, db := b.mustAsk(pool, "", "web"), b.mustAsk(pool, "", "db")
	again := func(what string) {
		t.Helper()
		if got := b.mustAsk(pool, "", "web"); got != web {
			t.Errorf("%s: web had %s and got %s", what, web, got)
		}
	}
	b.give(pool, web)
	if other := b.mustAsk(pool, "", "other"); other == web {
		t.Errorf("other got web's address %s", web)
	}
	again("rm and run")
	b.give(pool, web)
	b.restart()
	again("restart of lanyard")
	// The network is made anew, as compose down and up do.
	b.give(pool, web)
	b.give(pool, "10.0.0.1")
	if err := b.ReleasePool(ctx, pool); err != nil {
		t.Fatal(err)
	}
	if err := b.db.Write(b.Unbind("n1")...); err != nil {
		t.Fatal(err)
	}
	delete(b.nets, "n1")
	pool = b.mustNetwork("n2", "eth1", lan.Policy{NoACD: true, Grace: time.Hour}, s)[0]
	again("network made anew")
	// Within the grace period nobody else gets it, even if the pool is full.
	b.give(pool, web)
	for {
		addr, err := b.ask(pool, "", "")
		if err != nil {
			wantErr(t, err, "is full", "1 kept for containers that may come back")
			break
		}
		if addr == web || addr == db {
			t.Errorf("%s was given to another", addr)
		}
	}
	again("a full pool")
	// --ip wins.
	b.give(pool, web)
	if got := b.mustAsk(pool, web, "thief"); got != web {
		t.Errorf("--ip got %s", got)
	}
	b.give(pool, web)
	if _, err := b.ask(pool, "", "web"); err == nil {
		t.Error("web got an address of a full pool, which was another's meanwhile")
	}
}

// Least recently used first, and what nobody can come back for before what somebody can.
func TestOrderOfReuse(t *testing.T) {
	b := newBench(t)
	pool := b.mustNetwork("n1", "eth1", lan.Policy{NoACD: true, Grace: -1}, subnet{pool: "10.0.0.0/29"})[0]
	var all []string
	for range 6 {
		all = append(all, b.mustAsk(pool, "", ""))
	}
	order := []int{3, 0, 5, 1, 4, 2}
	for _, i := range order {
		b.give(pool, all[i])
		time.Sleep(2 * time.Millisecond)
	}
	b.restart()
	for _, i := range order {
		if got := b.mustAsk(pool, "", ""); got != all[i] {
			t.Errorf("got %s, want %s, which was freed longest ago", got, all[i])
		}
	}
}

// Sixty-four at the same time get sixty-four addresses.
func TestManyAtOnce(t *testing.T) {
	b := newBench(t)
	pool := b.mustNetwork("n1", "eth1", off, subnet{pool: "10.0.0.0/24", gateway: "10.0.0.1"})[0]
	var mu sync.Mutex
	seen := map[string]bool{}
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			addr, err := b.ask(pool, "", "")
			mu.Lock()
			defer mu.Unlock()
			if err != nil || seen[addr] {
				t.Errorf("%s twice, or %v", addr, err)
			}
			seen[addr] = true
		})
	}
	wg.Wait()
	b.restart()
	for range 64 {
		if addr := b.mustAsk(pool, "", ""); seen[addr] {
			t.Errorf("%s again after a restart", addr)
		}
	}
}

// Addresses that nobody came for are taken back, but never those of a network that
// another driver may have: its endpoints we do not see.
func TestOrphans(t *testing.T) {
	b := newBench(t)
	opt := map[string]string{"parent": "eth1"}
	ours := b.mustNetwork("n1", "eth1", off, subnet{pool: "10.0.0.0/24"})[0]
	theirs, _, err := b.request(subnet{pool: "10.1.0.0/24", options: opt})
	if err != nil {
		t.Fatal(err)
	}
	private, _, err := b.request(subnet{pool: "10.2.0.0/24"})
	if err != nil {
		t.Fatal(err)
	}
	var held []string
	for _, pool := range []string{ours, theirs, private} {
		held = append(held, b.mustAsk(pool, "", "web"))
	}
	b.restart()
	b.mu.Lock()
	for _, sp := range b.spaces {
		for addr := range sp.handed {
			sp.handed[addr] = time.Now().Add(-2 * orphanAfter)
		}
	}
	b.mu.Unlock()
	b.sweep()
	for i, pool := range []string{ours, theirs, private} {
		addr := netip.MustParseAddr(held[i])
		b.mu.Lock()
		sp := b.pools[pool].space
		_, kept := sp.handed[addr]
		b.mu.Unlock()
		if want := i > 0; kept != want {
			t.Errorf("%s of pool %s is held: %v, want %v", addr, pool, kept, want)
		}
	}
}

// A daemon that is started again and again takes back what nobody came for all the same: of
// what was handed out long ago, soon after its start.
func TestOrphansOutlastStarts(t *testing.T) {
	b := newBench(t)
	pool := b.mustNetwork("n1", "eth1", off, subnet{pool: "10.0.0.0/24"})[0]
	old, fresh := netip.MustParseAddr(b.mustAsk(pool, "", "a")), netip.MustParseAddr(b.mustAsk(pool, "", "b"))
	rec, err := b.db.Address("eth1", old)
	if err != nil {
		t.Fatal(err)
	}
	rec.Since = rec.Since.Add(-time.Hour)
	if err := b.db.Write(store.PutAddress(rec)); err != nil {
		t.Fatal(err)
	}
	b.restart()
	b.mu.Lock()
	defer b.mu.Unlock()
	sp := b.pools[pool].space
	if left := orphanAfter - time.Since(sp.handed[old]); left > orphanLeast || left < orphanLeast/2 {
		t.Errorf("one of an hour ago is taken back in %s, want %s", left, orphanLeast)
	}
	if left := orphanAfter - time.Since(sp.handed[fresh]); left > orphanAfter || left < orphanAfter/2 {
		t.Errorf("one of now is taken back in %s, want %s", left, orphanAfter)
	}
}
