package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/store"
)

func ahead(n int) lan.Policy { return lan.Policy{NoACD: true, LeaseAhead: n} }

// setAhead changes the option lease_ahead of the only network.
func (b *bench) setAhead(n int) {
	b.t.Helper()
	b.mu.Lock()
	p := b.pools[b.keyOfPool()]
	p.rec.Policy.LeaseAhead, b.nets["n1"].LeaseAhead = n, n
	rec := p.rec
	b.mu.Unlock()
	if err := b.db.Write(store.PutPool(&rec)); err != nil {
		b.t.Fatal(err)
	}
	b.ring()
}

// holding waits until a host holds so many addresses, and etcd and the disk agree, and returns
// them.
func (b *bench) holding(n int) (addrs []string) {
	b.t.Helper()
	b.await(fmt.Sprintf("it holds %d addresses", n), func() bool {
		if b.storeAway() {
			return false
		}
		claimed := b.claims()
		b.mu.Lock()
		defer b.mu.Unlock()
		addrs = nil
		for _, sp := range b.spaces {
			for addr, h := range sp.ahead {
				rec, err := b.db.Address(sp.key, addr)
				if err != nil {
					b.t.Fatal(err)
				}
				if c := claimed[addr.String()]; !c.Held || c.Host != "id-"+b.name || h.leaving || rec == nil || rec.State != store.Held {
					return false
				}
				addrs = append(addrs, addr.String())
			}
		}
		for _, c := range claimed {
			if c.Held && c.Host == "id-"+b.name && !slices.Contains(addrs, c.Addr.String()) {
				return false
			}
		}
		return len(addrs) == n
	})
	slices.Sort(addrs)
	return addrs
}

// cutOff is etcd away, as the host knows when it has asked for something: for an address that
// it does not hold.
func (b *bench) cutOff(proxy *kerneltest.Proxy, held []string) {
	b.t.Helper()
	proxy.Set(kerneltest.Cut)
	addr := held[0]
	for slices.Contains(held, addr) {
		addr = netip.MustParseAddr(addr).Next().String()
	}
	if _, err := b.ask(b.pool(), addr, ""); !errors.Is(err, lan.ErrUnavailable) || !b.storeAway() {
		b.t.Fatalf("with etcd cut off %s is refused by: %v", addr, err)
	}
}

// killed starts the host anew on what a kill -9 of now would leave on disk.
func (b *bench) killed() {
	b.t.Helper()
	text, err := os.ReadFile(filepath.Join(b.dir, store.File))
	if err != nil {
		b.t.Fatal(err)
	}
	b.end()
	b.dir = b.t.TempDir()
	if err := os.WriteFile(filepath.Join(b.dir, store.File), text, 0o600); err != nil {
		b.t.Fatal(err)
	}
	b.start()
}

// oneAhead is two hosts that share a subnet, of which the first reaches etcd by a proxy, and holds so many addresses.
func oneAhead(t *testing.T, n int) (a, b *bench, proxy *kerneltest.Proxy, held []string) {
	t.Helper()
	e := kerneltest.NewEtcd(t, 1)
	proxy = kerneltest.NewProxy(t, e.Endpoints[0])
	hosts := hostsThatShare(t, "10.9.0.0/26", noACD, []string{proxy.Addr}, e.Endpoints)
	hosts[0].setAhead(n)
	return hosts[0], hosts[1], proxy, hosts[0].holding(n)
}

// With etcd away a host gives out exactly what it has claimed ahead, across a kill, and nobody
// else is given any of it; with etcd back it claims as many again.
func TestSharedAhead(t *testing.T) {
	a, b, proxy, held := oneAhead(t, 6)
	if p := a.Pools()[0]; p.Ahead != 6 || p.AheadWanted != 6 || p.Held != 6 || p.Free != p.Size-6-p.Reserved {
		t.Errorf("the pool is %+v", p)
	}
	b.await("the other host shows what is held", func() bool {
		list, err := b.Addresses()
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, s := range list {
			if s.State == StateHeld && s.Host == "host0" && strings.Contains(s.Note, "claimed ahead") && slices.Contains(held, s.Address.String()) {
				n++
			}
		}
		return n == 6 && b.Pools()[0].Held == 6
	})
	_, err := b.ask(b.pool(), held[0], "")
	wantErr(t, err, held[0], "claimed ahead", "host0")

	a.cutOff(proxy, held)
	mine := map[string]bool{}
	take := func(n int) {
		for range n {
			addr := a.mustAsk(a.pool(), "", fmt.Sprintf("c%d", len(mine)))
			if mine[addr] || !slices.Contains(held, addr) {
				t.Errorf("%s is given out: the addresses held are %v, given were %v", addr, held, mine)
			}
			mine[addr] = true
		}
	}
	take(2)
	a.killed()
	take(2)
	a.restart()
	take(2)
	_, err = a.ask(a.pool(), "", "more")
	wantErr(t, err, "claimed ahead", "are given out", "etcd", "no new address")
	if !errors.Is(err, lan.ErrUnavailable) {
		t.Errorf("%v is not ErrUnavailable", err)
	}
	theirs := 0
	for {
		addr, err := b.ask(b.pool(), "", "")
		if err != nil {
			wantErr(t, err, "is full")
			break
		}
		if theirs++; slices.Contains(held, addr) {
			t.Errorf("%s is given out by both", addr)
		}
		if theirs == 30 {
			break
		}
	}

	proxy.Set(kerneltest.Pass)
	if now := a.holding(6); slices.ContainsFunc(now, func(addr string) bool { return mine[addr] }) {
		t.Errorf("%v are held, and %v given out", now, mine)
	}
	a.settled()
	claims := a.claims()
	for addr := range mine {
		if c := claims[addr]; c.Held || !strings.HasPrefix(c.Name, "c") || c.Owner != "name "+c.Name {
			t.Errorf("etcd was told of %s: %+v", addr, c)
		}
	}
}

// What is held is given out without a request, one that was given out is told together with
// others, and as many are claimed again in one.
func TestSharedAheadCost(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	a := hostsThatShare(t, "10.9.0.0/24", noACD, e.Endpoints)[0]
	a.setAhead(32)
	a.holding(32)
	time.Sleep(aheadEvery)
	was := a.cluster.Requests.Load()
	for i := range 30 {
		a.mustAsk(a.pool(), "", fmt.Sprintf("c%d", i))
	}
	a.await("as many are claimed again", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		for _, sp := range a.spaces {
			told := 0
			for addr := range sp.handed {
				if c := sp.claims[addr]; a.mine(sp, addr) && !c.Held {
					told++
				}
			}
			if len(sp.ahead) == 32 && told == 30 {
				return true
			}
		}
		return false
	})
	if n := a.cluster.Requests.Load() - was; n > 8 {
		t.Errorf("30 hand-outs took %d requests", n)
	}
	a.settled()
}

// A container that starts again and again while etcd is away does not use up what is held, and
// has its address each time; one without a name has what another gave back.
func TestSharedAheadAgain(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	proxy := kerneltest.NewProxy(t, e.Endpoints[0])
	a := hostsThatShare(t, "10.9.0.0/24", noACD, []string{proxy.Addr})[0]
	a.setAhead(2)
	held := a.holding(2)
	a.cutOff(proxy, held)
	web := a.mustAsk(a.pool(), "", "web")
	for range 5 {
		a.give(a.pool(), web)
		if got := a.mustAsk(a.pool(), "", "web"); got != web {
			t.Fatalf("web has %s, had %s", got, web)
		}
	}
	other := a.mustAsk(a.pool(), "", "")
	for range 3 {
		a.give(a.pool(), other)
		a.await("what was given back is given out", func() bool {
			got, err := a.ask(a.pool(), "", "")
			if err == nil && got != other {
				t.Fatalf("%s is given out, and %s is free", got, other)
			}
			return err == nil
		})
	}
	a.give(a.pool(), web)
	_, err := a.ask(a.pool(), "", "new")
	wantErr(t, err, "etcd") // web's rests
	a.killed()
	if got := a.mustAsk(a.pool(), "", "web"); got != web {
		t.Errorf("web has %s after the restart, had %s", got, web)
	}
	a.give(a.pool(), web)
	proxy.Set(kerneltest.Pass)
	a.holding(2)
	a.settled()
	a.await("web's address rests for it, for all hosts", func() bool {
		c := a.claims()[web]
		return c.State == cluster.Idle && c.Owner == "name web"
	})
}

// What is held is given back when less is wanted, when the host is drained, and when the network
// goes; what a killed host had claimed and not noted is held, as far as it wants any.
func TestSharedAheadGivenBack(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	hosts := hostsThatShare(t, "10.9.0.0/26", noACD, e.Endpoints, e.Endpoints)
	a, b := hosts[0], hosts[1]
	a.setAhead(8)
	a.holding(8)
	a.setAhead(2)
	a.holding(2)
	a.setAhead(200)
	a.holding(16) // a quarter
	if _, err := b.cluster.Drain(ctx, "host0", true); err != nil {
		t.Fatal(err)
	}
	a.holding(0)
	if _, err := b.cluster.Drain(ctx, "host0", false); err != nil {
		t.Fatal(err)
	}
	a.setAhead(3)
	held := a.holding(3)
	free := func() netip.Addr {
		addr := netip.MustParseAddr("10.9.0.2")
		for slices.Contains(held, addr.String()) {
			addr = addr.Next()
		}
		return addr
	}
	end := func() { // only once, also where the test fails
		a.end()
		a.end = func() {}
	}
	claim := cluster.Claim{Segment: "802.1Q:100", Addr: free(), State: cluster.Taken, Held: true, Host: "id-host0", Since: time.Now()}
	end()
	if done, err := b.cluster.Change(ctx, []cluster.Change{{Claim: claim}}); err != nil || !done[0].Won {
		t.Fatal(done, err)
	}
	a.start()
	a.synced()
	if now := a.holding(3); !slices.Equal(held, now) {
		t.Errorf("it held %v before the restart, and holds %v", held, now)
	}
	end()
	claim.Addr = free()
	if done, err := b.cluster.Change(ctx, []cluster.Change{{Claim: claim}}); err != nil || !done[0].Won {
		t.Fatal(done, err)
	}
	a.nets["n1"].LeaseAhead = 4
	db, err := store.Open(a.dir)
	if err != nil {
		t.Fatal(err)
	}
	state, err := db.Load()
	if err != nil {
		t.Fatal(err)
	}
	state.Pools[0].Policy.LeaseAhead = 4
	if err := errors.Join(db.Write(store.PutPool(state.Pools[0])), db.Close()); err != nil {
		t.Fatal(err)
	}
	a.start()
	a.synced()
	if now := a.holding(4); !slices.Contains(now, claim.Addr.String()) || slices.ContainsFunc(held, func(addr string) bool { return !slices.Contains(now, addr) }) {
		t.Errorf("it holds %v: before were %v and %s", now, held, claim.Addr)
	}
	// An operator's reservation takes one.
	if err := a.Reserve("", netip.MustParseAddr(held[0]), "web", ""); err != nil {
		t.Fatal(err)
	}
	if now := a.holding(4); slices.Contains(now, held[0]) {
		t.Errorf("%s is reserved and held", held[0])
	}
	if got := b.mustAsk(b.pool(), "", "web"); got != held[0] {
		t.Errorf("web has %s, reserved is %s", got, held[0])
	}
	web := a.mustAsk(a.pool(), "", "on-a")
	pool := a.pool()
	if err := a.db.Write(a.Unbind("n1")...); err != nil {
		t.Fatal(err)
	}
	if err := a.ReleasePool(ctx, pool); err != nil {
		t.Fatal(err)
	}
	delete(a.nets, "n1")
	a.holding(0)
	if c := a.claims()[web]; c.State != cluster.Taken || c.Held {
		t.Errorf("the address of a container that runs: %+v", c)
	}
}

// A host that is forgotten while it is cut off learns of it: what it held and did not give out
// is not its own any more, and what it gave out and another host too is said.
func TestSharedAheadForgotten(t *testing.T) {
	a, b, proxy, held := oneAhead(t, 4)
	a.cutOff(proxy, held)
	twice := a.mustAsk(a.pool(), "", "web")
	h, err := b.cluster.Forget(ctx, "host0", true)
	if err != nil || h.Held != 4 || h.Addresses != 0 {
		t.Errorf("%+v, %v", h, err)
	}
	for _, addr := range held {
		b.await(addr+" is free", func() bool {
			_, err := b.ask(b.pool(), addr, "other")
			return err == nil
		})
	}
	proxy.Set(kerneltest.Pass)
	a.await("it hears of it", func() bool {
		log := a.log.String()
		return strings.Contains(log, "forgotten by the others") && strings.Contains(log, "address="+twice) && strings.Contains(log, "in use here and on another host") &&
			strings.Count(log, "was held ahead is not this host's any more") == 3
	})
	for _, addr := range a.holding(4) {
		if slices.Contains(held, addr) {
			t.Errorf("%s is held, and another host has it", addr)
		}
	}
	for _, addr := range held {
		if c := b.claims()[addr]; c.Host != "id-host1" || c.Held {
			t.Errorf("%s: %+v", addr, c)
		}
	}
}

// Where a pool becomes full, hosts give up what they hold for those who need it.
func TestSharedAheadFull(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	hosts := hostsThatShare(t, "10.9.0.0/27", ahead(8), e.Endpoints, e.Endpoints, e.Endpoints)
	who := map[string]string{}
	for len(who) < 29 {
		b := hosts[0]
		b.await("an address", func() bool {
			addr, err := b.ask(b.pool(), "", "")
			if err != nil {
				return false
			}
			if who[addr] != "" {
				t.Fatalf("%s is given out twice", addr)
			}
			who[addr] = b.name
			return true
		})
	}
	for _, b := range hosts {
		b.settled()
	}
}

// With conflict detection on, what is held is probed ahead, and an address that something on the
// wire uses is let go.
func TestSharedAheadProbed(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	proxy := kerneltest.NewProxy(t, e.Endpoints[0])
	b := newBench(t)
	b.name, b.etcd = "probing", []string{proxy.Addr}
	b.restart()
	pool := b.mustNetwork("n1", "eth1", lan.Policy{LeaseAhead: 4}, subnet{pool: "10.0.0.0/24", rng: "10.0.0.64/26", gateway: "10.0.0.1"})[0]
	b.listen()
	var held []netip.Addr
	b.await("what is held was probed", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		sp := b.spaces["eth1"]
		held = sortedAddrs(sp.ahead)
		n := 0
		for _, r := range b.pools[pool].stock {
			if r.held && !r.at.IsZero() {
				n++
			}
		}
		return len(held) == 4 && n == 4
	})
	for _, addr := range held {
		if !netip.MustParsePrefix("10.0.0.64/26").Contains(addr) {
			t.Errorf("%s is held, and not in the range", addr)
		}
	}
	dev, mac := b.squat("lan0", held[0].String()+"/24")
	b.cutOff(proxy, []string{held[3].String()})
	dev.Talk("10.0.0.99") // it asks for a neighbour, as every device does
	b.await("the conflict is known", func() bool { return b.Pools()[0].Conflicting == 1 })
	for _, want := range held[1:] {
		start := time.Now()
		if got := b.mustAsk(pool, "", ""); got != want.String() {
			t.Errorf("%s is given out, held is %s, and %s has %s", got, want, mac, held[0])
		}
		if took := time.Since(start); took > 150*time.Millisecond {
			t.Errorf("what was probed ahead took %s", took)
		}
	}
	_, err := b.ask(pool, "", "")
	wantErr(t, err, "etcd")
}

// An address that is held and that Docker's own IPAM driver gives to a container is in use, for
// the other hosts too, and free when the container has gone.
func TestSharedAheadOfAnotherDriver(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	hosts := hostsThatShare(t, "10.9.0.0/26", noACD, e.Endpoints, e.Endpoints)
	a, b := hosts[0], hosts[1]
	a.setAhead(2)
	held := a.holding(2)
	n := &lan.Network{ID: "docker", Kind: lan.Macvlan, Mode: lan.ModeBridge, Parent: lan.ParentSpec{Name: "eth1"}, IPv4: []lan.Subnet{{Pool: netip.MustParsePrefix("10.9.0.0/26")}}}
	if _, _, err := a.Bind(t.Context(), n, a.keys["n1"]); err != nil {
		t.Fatal(err)
	}
	ep := &lan.Endpoint{ID: "ep1", NetworkID: "docker", IPv4: netip.MustParsePrefix(held[0] + "/26"), MAC: "02:00:00:00:00:07"}
	ops, err := a.Assign(n, a.keys["n1"], ep, ep.MAC, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.db.Write(ops...); err != nil {
		t.Fatal(err)
	}
	a.await("etcd has it as in use", func() bool {
		c := a.claims()[held[0]]
		return c.State == cluster.Taken && c.Host == "id-host0" && !c.Held
	})
	if now := a.holding(2); slices.Contains(now, held[0]) {
		t.Errorf("%s is in use and held", held[0])
	}
	if _, err := b.ask(b.pool(), held[0], ""); err == nil {
		t.Error("it is given elsewhere")
	}
	if err := a.db.Write(a.Leave(n, a.keys["n1"], ep)...); err != nil {
		t.Fatal(err)
	}
	b.await("it is free", func() bool {
		_, err := b.ask(b.pool(), held[0], "")
		return err == nil
	})
}
