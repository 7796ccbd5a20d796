package ipam

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
)

// onWire is a bench whose network n1 is on eth1, with conflict detection on.
func onWire(t *testing.T, p lan.Policy, s subnet) (b *bench, pool string) {
	t.Helper()
	b = newBench(t)
	pool = b.mustNetwork("n1", "eth1", p, s)[0]
	b.listen()
	return b, pool
}

// listen begins conflict detection, as the engine does when the parent is there.
func (b *bench) listen() {
	b.t.Helper()
	links, err := link.NewAt(b.host.NS)
	if err != nil {
		b.t.Fatal(err)
	}
	defer links.Close()
	plan, err := links.Look(lan.ParentSpec{Name: "eth1"}, lan.Macvlan)
	if err != nil {
		b.t.Fatal(err)
	}
	parent, err := links.Ensure(plan)
	if err != nil {
		b.t.Fatal(err)
	}
	b.Wire(b.nets["n1"], "eth1", parent)
	if s := b.Pools()[0]; s.ACD != "on" {
		b.t.Fatalf("conflict detection is %s: %s", s.ACD, s.Note)
	}
}

// squat is a device on the LAN with an address, and returns its MAC address. Other end
// of the bench's wire, or with a sibling on eth1 itself.
func (b *bench) squat(link, addr string) (dev *kerneltest.Host, mac string) {
	b.t.Helper()
	dev = kerneltest.New(b.t)
	b.host.IP("link add sq0 link %s type macvlan mode bridge", link)
	b.host.IP("link set sq0 netns %s", dev.Path())
	dev.IP("link set sq0 up")
	dev.IP("addr add %s dev sq0 %s", addr, map[bool]string{true: "nodad"}[strings.Contains(addr, ":")])
	out := dev.IP("-br link show sq0")
	return dev, strings.Fields(out)[2]
}

func (b *bench) eventually(what string, ok func() bool) {
	b.t.Helper()
	for range 200 {
		if ok() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	b.t.Fatalf("%s: not within 10 s\n%s", what, b.log)
}

// A device on the wire, or beside us on the same parent, that uses an address of the
// pool: the address is not handed out, and its MAC address is named.
func TestSquatter(t *testing.T) {
	for _, where := range []string{"lan0", "eth1"} {
		for _, family := range []struct{ squat, pool, first string }{
			{"10.0.0.1/24", "10.0.0.0/24", "10.0.0.2"},
			{"fd00::1/64", "fd00::/64", "fd00::2"},
		} {
			t.Run(where+" "+family.squat, func(t *testing.T) {
				b := newBench(t)
				_, mac := b.squat(where, family.squat)
				pool := b.mustNetwork("n1", "eth1", lan.Policy{}, subnet{pool: family.pool})[0]
				b.listen()
				addr, _, _ := strings.Cut(family.squat, "/")
				if got := b.mustAsk(pool, "", "web"); got != family.first {
					t.Errorf("got %s, want %s", got, family.first)
				}
				_, err := b.ask(pool, addr, "web")
				wantErr(t, err, "address "+addr+" is in use on eth1 by "+mac, "try: another address, or -o acd=off")
				list, err := b.Addresses()
				if err != nil || len(list) == 0 || list[0].State != StateConflict || list[0].MAC != mac {
					t.Errorf("addresses: %+v, %v", list, err)
				}
				if s := b.Pools()[0]; s.Conflicting != 1 || s.Conflicts == 0 {
					t.Errorf("pool: %+v", s)
				}
				if !strings.Contains(b.log.String(), mac) {
					t.Errorf("the log does not name %s:\n%s", mac, b.log)
				}
			})
		}
	}
}

// The host's own address on a network is asked for on the wire as a container's is, and
// nobody is given it then.
func TestHostAddresses(t *testing.T) {
	b := newBench(t)
	_, mac := b.squat("lan0", "10.0.0.1/24")
	pool := b.mustNetwork("n1", "eth1", lan.Policy{}, subnet{pool: "10.0.0.0/29"})[0]
	b.listen()
	n := b.nets["n1"]
	set := func(auto bool, addrs ...netip.Addr) {
		b.mu.Lock()
		defer b.mu.Unlock()
		n.HostAddrs, n.HostAuto = addrs, auto
	}
	set(false, netip.MustParseAddr("10.0.0.1"))
	wantErr(t, b.HostAddresses(ctx, n), "address for the host", "is in use on eth1 by "+mac)
	set(true)
	if err := b.HostAddresses(ctx, n); err != nil || fmt.Sprint(n.HostAddrs) != "[10.0.0.2]" {
		t.Fatalf("the host has %v, %v; want 10.0.0.2", n.HostAddrs, err)
	}
	_, err := b.ask(pool, "10.0.0.2", "web")
	wantErr(t, err, "this host's own on network n1")
	for _, want := range []string{"10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"} {
		if got := b.mustAsk(pool, "", want); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	_, err = b.ask(pool, "", "web")
	wantErr(t, err, "is full")
	list, err := b.Addresses()
	if err != nil || !slices.ContainsFunc(list, func(a AddressState) bool { return a.Address == n.HostAddrs[0] && a.State == StateHost }) {
		t.Errorf("the host's is not among %+v, %v", list, err)
	}
	if s := b.Pools()[0]; s.Reserved != 1 || s.Conflicting != 1 || s.Used != 4 || s.Free != 0 {
		t.Errorf("pool: %+v", s)
	}
}

// A conflict is tried again, and the address is free when nobody answers.
func TestSquatterLeaves(t *testing.T) {
	b := newBench(t)
	dev, _ := b.squat("lan0", "10.0.0.1/24")
	pool := b.mustNetwork("n1", "eth1", lan.Policy{}, subnet{pool: "10.0.0.0/30"})[0]
	b.listen()
	if got := b.mustAsk(pool, "", ""); got != "10.0.0.2" {
		t.Fatalf("got %s", got)
	}
	_, err := b.ask(pool, "", "")
	wantErr(t, err, "is full", "1 used by others on the wire")
	dev.IP("link del sq0")
	b.mu.Lock()
	for _, c := range b.spaces["eth1"].conflicts {
		c.retry = time.Now() // and not in five minutes
	}
	b.mu.Unlock()
	b.ring()
	b.eventually("free again", func() bool { return strings.Contains(b.log.String(), "address is free again") })
	if got := b.mustAsk(pool, "", ""); got != "10.0.0.1" {
		t.Errorf("got %s", got)
	}
	if got := b.told(EventInUse, EventFree); len(got) != 2 || got[0].Address != netip.MustParseAddr("10.0.0.1") || got[1].What != EventFree {
		t.Errorf("events %+v", got)
	}
}

// told are the events of these kinds, in order.
func (b *bench) told(kinds ...string) []Event {
	return slices.DeleteFunc(b.Events(ctx, 0, false), func(e Event) bool { return !slices.Contains(kinds, e.What) })
}

// With a stock nobody waits; without one the wait is short, and the first container
// gets the first address all the same.
func TestStock(t *testing.T) {
	b, pool := onWire(t, lan.Policy{}, subnet{pool: "10.0.0.0/24", gateway: "10.0.0.1"})
	start := time.Now()
	if got := b.mustAsk(pool, "", ""); got != "10.0.0.2" {
		t.Errorf("first address is %s", got)
	}
	if took := time.Since(start); took < 200*time.Millisecond || took > 2*time.Second {
		t.Errorf("without a stock it took %s", took)
	}
	if s := b.Pools()[0]; s.Stock != 0 || s.StockWanted != stockSize || !strings.Contains(s.Note, "16 addresses are being probed") {
		t.Errorf("pool says %d of %d, %q", s.Stock, s.StockWanted, s.Note)
	}
	b.eventually("stock", func() bool { return b.Pools()[0].Stock == stockSize })
	for i := 3; i < 3+stockSize; i++ {
		start := time.Now()
		if got, want := b.mustAsk(pool, "", ""), netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}).String(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		if took := time.Since(start); took > 150*time.Millisecond {
			t.Errorf("with a stock it took %s", took)
		}
	}
	// One that is in the stock, by name.
	b.eventually("stock", func() bool { return b.Pools()[0].Stock == stockSize })
	start = time.Now()
	b.mustAsk(pool, "10.0.0.20", "")
	if took := time.Since(start); took > 150*time.Millisecond {
		t.Errorf("--ip of an address in the stock took %s", took)
	}
	// Another pool on the wire gets what this one has probed ahead, before it is full.
	two := b.mustNetwork("n2", "eth1", lan.Policy{}, subnet{pool: "10.0.0.16/29"})[0]
	for range 3 {
		b.mustAsk(two, "", "")
	}
}

// An address in the stock that a device takes meanwhile is not handed out.
func TestStockIsWatched(t *testing.T) {
	b, pool := onWire(t, lan.Policy{}, subnet{pool: "10.0.0.0/24"})
	b.eventually("stock", func() bool { return b.Pools()[0].Stock == stockSize })
	dev, mac := b.squat("lan0", "10.0.0.1/24")
	dev.Talk("10.0.0.99") // it asks for a neighbour, as every device does
	b.eventually("conflict", func() bool { return b.Pools()[0].Conflicting == 1 })
	if got := b.mustAsk(pool, "", ""); got != "10.0.0.2" {
		t.Errorf("got %s, which %s has", got, mac)
	}
	if !b.MACSeen("eth1", mac) || b.MACSeen("eth1", "02:00:00:00:00:01") {
		t.Errorf("the device's MAC address %s is not known, or one that nobody has", mac)
	}
}

// A device that takes a container's address later: it is told, counted and defended.
func TestConflictLater(t *testing.T) {
	b, pool := onWire(t, lan.Policy{}, subnet{pool: "10.0.0.0/24"})
	addr := b.mustAsk(pool, "", "web")
	c := kerneltest.New(t)
	b.host.IP("link add c0 link eth1 type macvlan mode bridge")
	b.host.IP("link set c0 netns %s", c.Path())
	c.IP("link set c0 up")
	c.IP("addr add %s/24 dev c0", addr)
	mac := strings.Fields(c.IP("-br link show c0"))[2]
	e := &lan.Endpoint{ID: "ep1", NetworkID: "n1", IPv4: netip.MustParsePrefix(addr + "/24"), MAC: mac, Sandbox: c.Path()}
	if _, err := b.Assign(b.nets["n1"], "eth1", e, mac, false); err != nil {
		t.Fatal(err)
	}
	// A neighbour that knows the container.
	peer, _ := b.squat("lan0", "10.0.0.200/24")
	peer.Talk(addr)
	b.eventually("peer knows", func() bool { return strings.Contains(peer.IP("neigh show %s", addr), mac) })
	b.host.IP("link add sq1 link lan0 type macvlan mode bridge")
	thief := kerneltest.New(t)
	b.host.IP("link set sq1 netns %s", thief.Path())
	thief.IP("link set sq1 up")
	thief.IP("addr add %s/24 dev sq1", addr)
	theirs := strings.Fields(thief.IP("-br link show sq1"))[2]
	thief.Talk("10.0.0.200")
	b.eventually("told", func() bool {
		return strings.Contains(b.log.String(), "address conflict: another device uses a container's address") && strings.Contains(b.log.String(), theirs)
	})
	b.eventually("defended", func() bool { return strings.Contains(peer.IP("neigh show %s", addr), mac) })
	s := b.Pools()[0]
	if s.Conflicts != 1 || s.Defended == 0 {
		t.Errorf("conflicts %d, defended %d", s.Conflicts, s.Defended)
	}
	list, err := b.Addresses()
	if err != nil || len(list) == 0 || !strings.Contains(list[0].Note, theirs) || list[0].State != StateUsed {
		t.Errorf("addresses: %+v, %v", list, err)
	}
	if got := b.told(EventConflict); len(got) != 1 || got[0].Endpoint != "ep1" || got[0].Network != "n1" || got[0].Address.String() != addr || !strings.Contains(got[0].Text, theirs) {
		t.Errorf("events of the conflict: %+v", got)
	}
	for range 5 {
		thief.IP("neigh flush all")
		thief.Talk("10.0.0.200")
	}
	if s := b.Pools()[0]; s.Defended > 1 {
		t.Errorf("defended %d times within 10 s", s.Defended)
	}
}

// With acd=off nobody is asked.
func TestOff(t *testing.T) {
	b := newBench(t)
	b.squat("lan0", "10.0.0.1/24")
	pool := b.mustNetwork("n1", "eth1", off, subnet{pool: "10.0.0.0/24"})[0]
	start := time.Now()
	if got := b.mustAsk(pool, "", ""); got != "10.0.0.1" || time.Since(start) > 200*time.Millisecond {
		t.Errorf("got %s in %s", got, time.Since(start))
	}
	if s := b.Pools()[0]; s.ACD != "off" || s.Note != "turned off with -o acd=off" {
		t.Errorf("pool says %s, %q", s.ACD, s.Note)
	}
}

// The probe links leave nothing behind, and nothing of the host's is on them.
func TestProbeLinkGoes(t *testing.T) {
	b, _ := onWire(t, lan.Policy{}, subnet{pool: "10.0.0.0/24"})
	for _, name := range b.host.Links() {
		if name != "eth1" && name != "lan0" {
			t.Errorf("link %s in the host's namespace", name)
		}
	}
	b.db.Write(b.Unbind("n1")...)
	b.Unused("eth1", true)
	// The kernel lets nobody beside a passthru link.
	b.host.IP("link add p0 link eth1 type macvlan mode passthru")
	b.host.IP("link del p0")
}
