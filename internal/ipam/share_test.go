package ipam

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// join makes the host one of a cluster's.
func (b *bench) join(run context.Context, log *slog.Logger) (c *cluster.Cluster, leave func()) {
	b.t.Helper()
	c, err := cluster.New(cluster.Config{Endpoints: b.etcd, Prefix: "/lanyard", Host: "id-" + b.name, Name: b.name}, nil, log)
	if err != nil {
		b.t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- c.Run(run, func([]byte) error { return nil }) }()
	return c, func() {
		if err := <-done; err != nil {
			b.t.Error(err)
		}
	}
}

// hostsThatShare are hosts that share the addresses of a subnet on VLAN 100.
func hostsThatShare(t testing.TB, subnetText string, p lan.Policy, etcds ...[]string) []*bench {
	t.Helper()
	var hosts []*bench
	for i, etcd := range etcds {
		b := &bench{t: t, host: kerneltest.New(t), dir: t.TempDir(), nets: map[string]*lan.Network{}, keys: map[string]string{}, etcd: etcd, name: fmt.Sprintf("host%d", i)}
		b.host.Veth("eth1", "lan0")
		b.start()
		t.Cleanup(func() {
			b.end()
			if t.Failed() {
				t.Logf("%s:\n%s", b.name, b.log)
			}
		})
		b.mustNetwork("n1", fmt.Sprintf("eth%d|802.1Q:100", i), p, subnet{pool: subnetText, gateway: "auto"})
		hosts = append(hosts, b)
	}
	for _, b := range hosts {
		b.synced()
	}
	return hosts
}

// synced waits until the host knows all claims.
func (b *bench) synced() {
	b.t.Helper()
	b.await("the claims are known", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		for _, sp := range b.spaces {
			if sp.segment != "" {
				select {
				case <-sp.synced:
					return true
				default:
				}
			}
		}
		return false
	})
}

func (b *bench) await(what string, so func() bool) {
	b.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("%s: not within 20 s: %s", b.name, what)
		}
	}
}

// pool is the ID of the only pool.
func (b *bench) pool() string { return b.Pools()[0].ID }

// keyOfPool is the ID of the only pool. The caller holds mu.
func (b *bench) keyOfPool() string {
	for id := range b.pools {
		return id
	}
	return ""
}

// claims are all claims of VLAN 100, as etcd has them.
func (b *bench) claims() map[string]cluster.Claim {
	b.t.Helper()
	all := map[string]cluster.Claim{}
	list, _, err := b.cluster.Claims(ctx, "802.1Q:100")
	if err != nil {
		b.t.Fatal(err)
	}
	for _, c := range list {
		all[c.Addr.String()] = c
	}
	return all
}

// settled waits until etcd has for this host what the host has.
func (b *bench) settled() {
	b.t.Helper()
	why := ""
	b.await("etcd and the host agree", func() bool {
		if _, down := b.cluster.Up(); down != nil {
			return false
		}
		have := b.claims()
		b.mu.Lock()
		defer b.mu.Unlock()
		why = ""
		for _, sp := range b.spaces {
			if sp.segment == "" {
				continue
			}
			for addr := range sp.ahead {
				if c := have[addr.String()]; !c.Held || c.Host != "id-"+b.name || sp.ahead[addr].leaving {
					why += fmt.Sprintf("%s is held, and the claim is %+v; ", addr, c)
				}
				delete(have, addr.String())
			}
			for addr := range sp.handed {
				if c := have[addr.String()]; c.State != cluster.Taken || c.Host != "id-"+b.name || c.Held {
					why += fmt.Sprintf("%s is handed out, and the claim is %+v; ", addr, c)
				}
				delete(have, addr.String())
			}
		}
		for addr, c := range have {
			if c.State == cluster.Taken && c.Host == "id-"+b.name {
				why += fmt.Sprintf("%s is claimed and not handed out; ", addr)
			}
		}
		return why == ""
	})
	if why != "" {
		b.t.Error(why)
	}
}

var noACD = lan.Policy{NoACD: true}

// Three hosts hand out a whole subnet at once: no address twice, none left, and one that is
// given back anywhere is had by anybody.
func TestSharedPool(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	hosts := hostsThatShare(t, "10.9.0.0/24", noACD, e.Endpoints, e.Endpoints, e.Endpoints)
	var mu sync.Mutex
	who := map[string]string{}
	var all sync.WaitGroup
	for _, b := range hosts {
		for range 4 {
			all.Go(func() {
				for {
					addr, err := b.ask(b.pool(), "", "")
					if err != nil {
						if !strings.Contains(err.Error(), "is full") {
							t.Error(err)
						}
						return
					}
					mu.Lock()
					if other := who[addr]; other != "" {
						t.Errorf("%s is given to %s and to %s", addr, other, b.name)
					}
					who[addr] = b.name
					mu.Unlock()
				}
			})
		}
	}
	all.Wait()
	if len(who) != 253 {
		t.Errorf("%d addresses were handed out of 253", len(who))
	}
	for _, b := range hosts {
		if p := b.Pools()[0]; p.Free != 0 || p.Used != 253 {
			t.Errorf("%s: %+v", b.name, p.Counts)
		}
		b.settled()
	}
	addr := "10.9.0.77"
	for _, b := range hosts {
		if b.name == who[addr] {
			b.give(b.pool(), addr)
		}
	}
	for _, b := range hosts {
		if b.name == who[addr] {
			continue
		}
		b.await("it is free", func() bool {
			got, err := b.ask(b.pool(), "", "")
			if err == nil && got != addr {
				t.Fatalf("%s was given", got)
			}
			return err == nil
		})
		break
	}
	for _, b := range hosts {
		_, err := b.ask(b.pool(), "10.9.0.78", "")
		wantErr(t, err, "10.9.0.78", "held")
		if b.name != who["10.9.0.78"] {
			wantErr(t, err, "on host "+who["10.9.0.78"])
		}
	}
}

// What a hand-out costs etcd.
func TestSharedCost(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	hosts := hostsThatShare(t, "10.9.0.0/16", noACD, e.Endpoints, e.Endpoints)
	b := hosts[0]
	was := b.cluster.Requests.Load()
	time.Sleep(3 * time.Second)
	if n := b.cluster.Requests.Load() - was; n > 2 {
		t.Errorf("a host that does nothing sent %d requests in 3 s", n)
	}
	was = b.cluster.Requests.Load()
	var last string
	for i := range 50 {
		last = b.mustAsk(b.pool(), "", fmt.Sprintf("c%d", i))
	}
	if n := b.cluster.Requests.Load() - was; n > 52 { // some for being alive
		t.Errorf("50 hand-outs took %d requests", n)
	}
	b.give(b.pool(), last)
	b.settled()
	was = b.cluster.Requests.Load()
	if got := b.mustAsk(b.pool(), "", "c49"); got != last {
		t.Errorf("%s, was %s", got, last)
	}
	if n := b.cluster.Requests.Load() - was; n > 2 {
		t.Errorf("the same address again took %d requests", n)
	}
}

// Three hosts at once hand out many addresses of a large subnet, LANYARD_CLUSTER_ADDRESSES of
// them, none of them twice, and each costs one request and seldom more.
func TestSharedReach(t *testing.T) {
	count := 1500
	if text := os.Getenv("LANYARD_CLUSTER_ADDRESSES"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		count = n
	}
	e := kerneltest.NewEtcd(t, 3)
	hosts := hostsThatShare(t, "10.16.0.0/16", noACD, e.Endpoints, e.Endpoints, e.Endpoints)
	var mu sync.Mutex
	who := map[string]string{}
	var was int64
	for _, b := range hosts {
		was += b.cluster.Requests.Load()
	}
	start := time.Now()
	var all sync.WaitGroup
	for _, b := range hosts {
		for range 8 {
			all.Go(func() {
				for {
					mu.Lock()
					if count == 0 {
						mu.Unlock()
						return
					}
					count--
					mu.Unlock()
					addr, err := b.ask(b.pool(), "", "")
					mu.Lock()
					if err != nil || who[addr] != "" {
						t.Errorf("%s: %v, and it is %s's", addr, err, who[addr])
					}
					who[addr] = b.name
					mu.Unlock()
				}
			})
		}
	}
	all.Wait()
	took := time.Since(start)
	var is int64
	for _, b := range hosts {
		is += b.cluster.Requests.Load()
	}
	t.Logf("%d addresses by three hosts in %s: %.0f a second, %.3f requests each", len(who), took.Round(time.Millisecond), float64(len(who))/took.Seconds(), float64(is-was)/float64(len(who)))
	if more := is - was - int64(len(who)); more > int64(len(who))/20+20 {
		t.Errorf("%d requests more than addresses", more)
	}
	for _, b := range hosts {
		b.settled()
	}
}

// A container that moves to another host has its address again, and the MAC address that goes
// with it.
func TestSharedIdentity(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	hosts := hostsThatShare(t, "10.9.0.0/24", noACD, e.Endpoints, e.Endpoints)
	a, b := hosts[0], hosts[1]
	addr := a.mustAsk(a.pool(), "", "web")
	if other := b.mustAsk(b.pool(), "", "web"); other == addr {
		t.Fatal("two containers of one name have one address")
	} else {
		b.give(b.pool(), other)
		if _, err := b.ask(b.pool(), addr, "web"); err == nil {
			t.Fatal("it is given while it is in use elsewhere")
		}
	}
	a.give(a.pool(), addr)
	a.settled()
	b.settled()
	b.await("it is known that it was given back", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		_, idle := b.spaces["eth1|802.1Q:100"].set.IdleAt(netip.MustParseAddr(addr))
		return idle
	})
	if got := b.mustAsk(b.pool(), "", "web"); got != addr {
		t.Errorf("after the move it is %s, was %s", got, addr)
	}
	saltA, wireA := a.Seed("eth0|802.1Q:100")
	saltB, wireB := b.Seed("eth1|802.1Q:100")
	if string(saltA) != string(saltB) || wireA != wireB {
		t.Errorf("MAC addresses would differ: %s %s", wireA, wireB)
	}
	if _, other := a.Seed("eth0|802.1Q:200"); other == wireA {
		t.Error("two VLANs have one seed")
	}
}

// The addresses of a host that is gone stay its own until it is forgotten.
func TestSharedHostGone(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	hosts := hostsThatShare(t, "10.9.0.0/29", noACD, e.Endpoints, e.Endpoints)
	a, b := hosts[0], hosts[1]
	addr := a.mustAsk(a.pool(), "", "web")
	for range 3 {
		a.mustAsk(a.pool(), "", "")
	}
	a.end()
	a.end = func() {}
	b.mustAsk(b.pool(), "", "")
	_, err := b.ask(b.pool(), "", "")
	wantErr(t, err, "is full")
	b.await("it is silent", func() bool {
		return slices.ContainsFunc(b.cluster.Hosts(ctx).Hosts, func(h cluster.Host) bool { return h.Name == "host0" && !h.Alive && h.Addresses == 4 })
	})
	if _, err := b.cluster.Forget(ctx, "host0", false); err != nil {
		t.Fatal(err)
	}
	b.await("web's address is free", func() bool {
		got, err := b.ask(b.pool(), "", "web")
		if err == nil && got != addr {
			t.Fatalf("web has %s, was %s", got, addr)
		}
		return err == nil
	})
	// It was not gone after all.
	a.start()
	a.synced()
	if err := a.ReleaseAddress(ctx, a.pool(), netip.MustParseAddr(addr)); err != nil {
		t.Error(err)
	}
	a.await("the other three are claimed again", func() bool {
		n := 0
		for _, c := range a.claims() {
			if c.State == cluster.Taken && c.Host == "id-host0" {
				n++
			}
		}
		return n == 3
	})
	if c := b.claims()[addr]; c.Host != "id-host1" || c.State != cluster.Taken {
		t.Errorf("the address that web has elsewhere: %+v", c)
	}
}

// With etcd away a host gives out nothing new, takes back what is given back, and lets a
// container that restarts have its own; all is as it should be when etcd is back.
func TestSharedEtcdAway(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	p := kerneltest.NewProxy(t, e.Endpoints[0])
	hosts := hostsThatShare(t, "10.9.0.0/24", noACD, []string{p.Addr}, e.Endpoints)
	a, b := hosts[0], hosts[1]
	web, db := a.mustAsk(a.pool(), "", "web"), a.mustAsk(a.pool(), "", "db")
	p.Set(kerneltest.Cut)
	_, err := a.ask(a.pool(), "", "new")
	wantErr(t, err, "etcd", p.Addr, "no new address")
	if !errors.Is(err, lan.ErrUnavailable) {
		t.Errorf("%v is not ErrUnavailable", err)
	}
	start := time.Now()
	if _, err := a.ask(a.pool(), "", "new"); err == nil || time.Since(start) > time.Second {
		t.Errorf("the second time: %v, after %s", err, time.Since(start))
	}
	a.give(a.pool(), web)
	a.give(a.pool(), db)
	if got := a.mustAsk(a.pool(), "", "web"); got != web {
		t.Errorf("web has %s, had %s", got, web)
	}
	if _, err := b.ask(b.pool(), db, ""); err == nil {
		t.Error("db's address is given elsewhere, while its host is cut off")
	}
	a.restart()
	p.Set(kerneltest.Pass)
	a.settled()
	b.await("db's address is free", func() bool {
		_, err := b.ask(b.pool(), db, "")
		return err == nil
	})
	if c := b.claims()[web]; c.State != cluster.Taken || c.Host != "id-host0" {
		t.Errorf("web's claim: %+v", c)
	}
}

// A crash between the claim and the record leaves a claim that is let go; one between a
// record's removal and the claim's end too.
func TestSharedCrash(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	hosts := hostsThatShare(t, "10.9.0.0/24", noACD, e.Endpoints, e.Endpoints)
	a, b := hosts[0], hosts[1]
	addr := netip.MustParseAddr("10.9.0.50")
	done, err := a.cluster.Change(ctx, []cluster.Change{{Claim: cluster.Claim{
		Segment: "802.1Q:100", Addr: addr, State: cluster.Taken, Host: "id-host0", Since: time.Now(),
	}}})
	if err != nil || !done[0].Won {
		t.Fatal(done, err)
	}
	a.settled()
	b.await("it is free", func() bool {
		_, err := b.ask(b.pool(), addr.String(), "")
		return err == nil
	})
}

// A host that had addresses before it shared them claims them; one that another host has is
// said.
func TestSharedLater(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	hosts := hostsThatShare(t, "10.9.0.0/24", noACD, e.Endpoints)
	b := newBench(t)
	b.name = "late"
	b.mustNetwork("n1", "eth1|802.1Q:100", noACD, subnet{pool: "10.9.0.0/24", gateway: "auto"})
	var had []string
	for i := range 100 {
		had = append(had, b.mustAsk(b.pool(), "", fmt.Sprintf("c%d", i)))
	}
	if err := b.Reserve("", netip.MustParseAddr("10.9.0.200"), "printer", ""); err != nil {
		t.Fatal(err)
	}
	taken := hosts[0].mustAsk(hosts[0].pool(), had[7], "theirs")
	b.etcd = e.Endpoints
	b.restart()
	b.synced()
	n := 0
	b.await("its addresses are claimed", func() bool {
		n = 0
		for _, c := range b.claims() {
			if c.State == cluster.Taken && c.Host == "id-late" {
				n++
			}
		}
		return n == 99
	})
	b.await("the one that another has is said", func() bool {
		return strings.Contains(b.log.String(), "on another host") && strings.Contains(b.log.String(), taken)
	})
	b.await("the reservation is all hosts'", func() bool {
		_, err := hosts[0].ask(hosts[0].pool(), "10.9.0.200", "else")
		return err != nil && strings.Contains(err.Error(), "reserved for container printer")
	})
}

// A step of a host's clock on the wall by a day, forwards or backwards, while it runs and when
// it starts again, neither gives an address twice, nor one that rests for who had it to another
// before its time, nor keeps it for ever.
func TestSharedClockSteps(t *testing.T) {
	for _, by := range []time.Duration{24 * time.Hour, -24 * time.Hour} {
		t.Run(by.String(), func(t *testing.T) {
			e := kerneltest.NewEtcd(t, 1)
			grace := 6 * time.Second
			policy := lan.Policy{NoACD: true, Grace: grace}
			hosts := hostsThatShare(t, "10.9.0.0/29", policy, e.Endpoints, e.Endpoints)
			a, b := hosts[0], hosts[1]
			var step atomic.Int64
			a.wall = func() time.Time { return time.Now().Add(time.Duration(step.Load())) }
			a.restart()
			a.synced()
			web := a.mustAsk(a.pool(), "", "web")
			who := map[string]string{web: "web"}
			for i := range 4 { // all but the gateway
				who[b.mustAsk(b.pool(), "", "")] = fmt.Sprint(i)
			}
			if len(who) != 5 {
				t.Fatalf("addresses are given twice: %v", who)
			}
			full := func() {
				t.Helper()
				for _, x := range hosts {
					x.await("the pool is full, and one address rests", func() bool {
						got, err := x.ask(x.pool(), "", "else")
						if err == nil {
							t.Fatalf("%s gives %s to another while it rests for web", x.name, got)
						}
						return strings.Contains(err.Error(), "is full")
					})
				}
			}
			full()
			step.Store(int64(by))
			full()
			a.give(a.pool(), web)
			full()
			a.settled()
			full()
			b.await("web has its address", func() bool {
				got, err := b.ask(b.pool(), "", "web")
				if err == nil && got != web {
					t.Fatalf("web has %s, had %s", got, web)
				}
				return err == nil
			})
			a.restart() // it begins with the stepped clock
			a.synced()
			full()
			b.give(b.pool(), web)
			step.Store(0) // and steps back
			b.settled()
			full()
			start := time.Now()
			a.restart()
			a.synced()
			full()
			a.await("it rests no more", func() bool {
				got, err := a.ask(a.pool(), "", "else")
				if err == nil && got != web {
					t.Fatalf("%s is given, free is %s", got, web)
				}
				return err == nil
			})
			if took := time.Since(start); took < grace-time.Second {
				t.Errorf("it went to another after %s", took)
			}
			if _, err := b.ask(b.pool(), "", "else"); err == nil {
				t.Error("it is given twice")
			}
		})
	}
}

// Another host takes an address between its choice here and the claim: it is that host's, and
// known to be.
func TestSharedMeanwhile(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	b := hostsThatShare(t, "10.9.0.0/24", noACD, e.Endpoints)[0]
	addr := netip.MustParseAddr("10.9.0.50")
	b.mu.Lock()
	p := b.pools[b.keyOfPool()]
	g, _, err := b.choose(p, want{addr: addr}, nil)
	if err != nil {
		t.Fatal(err)
	}
	sp := g.space
	sp.asking[addr] = true
	b.mu.Unlock()
	theirs := cluster.Claim{Segment: sp.segment, Addr: addr, State: cluster.Taken, Host: "id-other", Since: time.Now()}
	if done, err := b.cluster.Change(ctx, []cluster.Change{{Claim: theirs}}); err != nil || !done[0].Won {
		t.Fatal(done, err)
	}
	b.await("it is heard of", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		_, ok := b.foreign(sp, addr)
		return ok
	})
	if won, err := b.secure(ctx, g); won || err != nil {
		t.Errorf("another host's address is taken: %v, %v", won, err)
	}
	if c := b.claims()[addr.String()]; c.Host != "id-other" {
		t.Errorf("the claim is %+v", c)
	}
	_, err = b.ask(b.pool(), addr.String(), "")
	wantErr(t, err, "held by a container on host")
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, handed := sp.handed[addr]; handed || !sp.set.Taken(addr) {
		t.Errorf("handed out: %v, taken: %v", handed, sp.set.Taken(addr))
	}
}

// A reservation is one on all hosts.
func TestSharedReservation(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	hosts := hostsThatShare(t, "10.9.0.0/24", noACD, e.Endpoints, e.Endpoints)
	a, b := hosts[0], hosts[1]
	addr := netip.MustParseAddr("10.9.0.9")
	if err := a.Reserve("", addr, "web", "as before"); err != nil {
		t.Fatal(err)
	}
	b.await("it is known elsewhere", func() bool {
		_, err := b.ask(b.pool(), addr.String(), "other")
		if err == nil {
			t.Fatal("it is given to another")
		}
		return strings.Contains(err.Error(), "reserved for container web (as before)")
	})
	if got := b.mustAsk(b.pool(), "", "web"); got != addr.String() {
		t.Errorf("web has %s", got)
	}
	b.give(b.pool(), addr.String())
	b.settled()
	a.await("it is reserved again", func() bool { c := a.claims()[addr.String()]; return c.State == cluster.Reserved })
	a.await("that is known", func() bool { return a.Release("", addr) == nil })
	b.await("it is free", func() bool { _, err := b.ask(b.pool(), addr.String(), "other"); return err == nil })
}

// Three hosts hand out and take back addresses of a small pool, while etcd's members are
// killed and stopped, and the network between hosts and etcd hangs, is cut, and loses answers.
// LANYARD_CLUSTER_SEED repeats one, LANYARD_CLUSTER_SECONDS makes it longer.
func TestSharedFaults(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("LANYARD_CLUSTER_SEED"); text != "" {
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seed = n
	}
	seconds := 12
	if text := os.Getenv("LANYARD_CLUSTER_SECONDS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			t.Fatal(err)
		}
		seconds = n
	}
	t.Logf("seed %d", seed)
	e := kerneltest.NewEtcd(t, 3)
	var etcds [][]string
	var wires []*kerneltest.Proxy
	for range 3 {
		var own []string
		for _, member := range e.Endpoints {
			p := kerneltest.NewProxy(t, member)
			wires, own = append(wires, p), append(own, p.Addr)
		}
		etcds = append(etcds, own)
	}
	hosts := hostsThatShare(t, "10.9.0.0/27", noACD, etcds...)
	hosts[2].setAhead(4)
	run, stop := context.WithTimeout(ctx, time.Duration(seconds)*time.Second)
	defer stop()
	var mu sync.Mutex
	history := kerneltest.NewHistory()
	refused := 0
	var all sync.WaitGroup
	for i, b := range hosts {
		for j := range 3 {
			client := 3*i + j
			hand := rand.New(rand.NewPCG(seed, uint64(client)))
			all.Go(func() {
				var mine []string
				for run.Err() == nil {
					called := history.Now()
					if len(mine) > 0 && hand.IntN(2) == 0 {
						k := hand.IntN(len(mine))
						addr := mine[k]
						mine = slices.Delete(mine, k, k+1)
						b.give(b.pool(), addr)
						history.Gave(client, b.name, addr, called)
						continue
					}
					name := ""
					if hand.IntN(2) == 0 {
						name = fmt.Sprintf("c%d", hand.IntN(6))
					}
					addr, err := b.ask(b.pool(), "", name)
					if err != nil {
						mu.Lock()
						refused++
						mu.Unlock()
						time.Sleep(10 * time.Millisecond)
						continue
					}
					mine = append(mine, addr)
					history.Took(client, b.name, addr, called)
				}
			})
		}
	}
	faults := map[string]int{}
	random := rand.New(rand.NewPCG(seed, 99))
	for run.Err() == nil {
		time.Sleep(time.Duration(100+random.IntN(400)) * time.Millisecond)
		away := time.Duration(100+random.IntN(1500)) * time.Millisecond
		i := random.IntN(3)
		switch k := random.IntN(5); k {
		case 0:
			faults["member killed"]++
			e.Kill(i)
			time.Sleep(away)
			e.Start(i)
		case 1:
			faults["member stopped"]++
			e.Freeze(i)
			time.Sleep(away)
			e.Thaw(i)
		default:
			what := []int32{kerneltest.Hang, kerneltest.LoseReplies, kerneltest.Cut}[k-2]
			faults[[]string{"", "hang", "replies lost", "cut"}[what]]++
			one := wires[3*i : 3*i+3] // all that one host has
			for _, p := range one {
				p.Set(what)
			}
			time.Sleep(away)
			for _, p := range one {
				p.Set(kerneltest.Pass)
			}
		}
	}
	all.Wait()
	t.Logf("%d hand-outs and returns, %d refused, faults: %v", history.Len(), refused, faults)
	history.Check(t, fmt.Sprintf("LANYARD_CLUSTER_SEED=%d", seed))
	e.Wait()
	for _, b := range hosts {
		b.settled()
	}
	if history.Len() < 100 {
		t.Errorf("only %d hand-outs and returns", history.Len())
	}
}
