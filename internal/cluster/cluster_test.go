package cluster

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/lan"
)

var ctx = context.Background()

// host is a host of a cluster that runs until the test ends, or stop is called.
func host(t testing.TB, name string, endpoints ...string) (c *Cluster, stop func()) {
	t.Helper()
	return hostWith(t, name, func(*Cluster) {}, endpoints...)
}

// hostWith is host, with something done to it before it runs.
func hostWith(t testing.TB, name string, with func(*Cluster), endpoints ...string) (c *Cluster, stop func()) {
	t.Helper()
	log := &kerneltest.Log{}
	c, err := New(Config{Endpoints: endpoints, Prefix: "/lanyard", Host: "id-" + name, Name: name, Version: "1.2.3"}, nil, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	with(c)
	run, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- c.Run(run, func([]byte) error { return nil }) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("%s:\n%s", name, log)
		}
	})
	t.Cleanup(stop)
	return c, stop
}

func up(t testing.TB, hosts ...*Cluster) {
	t.Helper()
	for _, c := range hosts {
		await(t, c.conf.Name+" is up", func() bool { _, why := c.Up(); return why == nil })
	}
}

func await(t testing.TB, what string, so func() bool) {
	t.Helper()
	const limit = alive*time.Second + 15*time.Second // a host of which etcd was too slow to hear that it stops is alive for so long
	for deadline := time.Now().Add(limit); !so(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}

func claim(c *Cluster, addr string, s State) Claim {
	return Claim{Segment: "802.1Q:100", Addr: netip.MustParseAddr(addr), State: s, Host: c.Self(), Owner: "name web", Since: time.Now().UTC()}
}

func change(t testing.TB, c *Cluster, cl Claim, was int64) Done {
	t.Helper()
	done, err := c.Change(ctx, []Change{{cl, was}})
	if err != nil {
		t.Fatal(err)
	}
	return done[0]
}

func TestClaims(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	a, _ := host(t, "a", e.Endpoints...)
	b, _ := host(t, "b", e.Endpoints...)
	up(t, a, b)
	if string(a.Salt()) != string(b.Salt()) || len(a.Salt()) != 32 {
		t.Error("two hosts have two salts")
	}
	var mu sync.Mutex
	seen := map[netip.Addr]Claim{}
	var first []Claim
	follow, end := context.WithCancel(ctx)
	followed := make(chan error, 1)
	go func() {
		followed <- b.Follow(follow, "802.1Q:100", func(list []Claim, _ int64) {
			mu.Lock()
			defer mu.Unlock()
			first = append([]Claim{}, list...)
		}, func(list []Claim) {
			mu.Lock()
			defer mu.Unlock()
			for _, c := range list {
				seen[c.Addr] = c
			}
		})
	}()
	await(t, "it is followed", func() bool { mu.Lock(); defer mu.Unlock(); return first != nil })
	won := change(t, a, claim(a, "192.168.0.5", Taken), 0)
	lost := change(t, b, claim(b, "192.168.0.5", Taken), 0)
	if !won.Won || lost.Won || lost.Host != "id-a" || lost.Owner != "name web" || lost.Rev != won.Rev {
		t.Errorf("won %+v, lost %+v", won, lost)
	}
	// Nor with the revision of another state of it.
	idle := change(t, a, claim(a, "192.168.0.5", Idle), won.Rev)
	if late := change(t, a, claim(a, "192.168.0.5", Taken), won.Rev); !idle.Won || late.Won || late.State != Idle {
		t.Errorf("idle %+v, late %+v", idle, late)
	}
	if took := change(t, b, claim(b, "192.168.0.5", Taken), idle.Rev); !took.Won || took.Host != "id-b" {
		t.Errorf("taken over: %+v", took)
	}
	other := claim(a, "192.168.0.5", Taken)
	other.Segment = "802.1Q:200"
	if d := change(t, a, other, 0); !d.Won {
		t.Errorf("the same address on another segment: %+v", d)
	}
	await(t, "the last one is seen", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return seen[netip.MustParseAddr("192.168.0.5")].Host == "id-b"
	})
	gone := claim(b, "192.168.0.5", "")
	if d := change(t, b, gone, seen[gone.Addr].Rev); !d.Won {
		t.Errorf("removed: %+v", d)
	}
	await(t, "it is gone", func() bool { mu.Lock(); defer mu.Unlock(); return seen[gone.Addr].State == "" })
	if list, err := a.Look(ctx, []Change{{Claim: gone}}); err != nil || list[0].State != "" || list[0].Was() != 0 {
		t.Errorf("looked at: %+v, %v", list, err)
	}
	end()
	if err := <-followed; !errors.Is(err, context.Canceled) {
		t.Errorf("the end of Follow: %v", err)
	}
}

func TestHosts(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	a, _ := host(t, "a", e.Endpoints...)
	b, stopB := host(t, "b", e.Endpoints...)
	up(t, a, b)
	for _, addr := range []string{"10.0.0.1", "10.0.0.2"} {
		change(t, b, claim(b, addr, Taken), 0)
	}
	change(t, a, claim(a, "10.0.0.3", Taken), 0)
	of := func(name string) Host {
		for _, h := range a.Hosts(ctx).Hosts {
			if h.Name == name {
				return h
			}
		}
		return Host{}
	}
	await(t, "both are alive", func() bool { return of("a").Alive && of("b").Alive })
	if h := of("b"); h.Addresses != 2 || h.Self || h.Version != "1.2.3" || !of("a").Self {
		t.Errorf("b: %+v", h)
	}
	if _, err := a.Drain(ctx, "b", true); err != nil {
		t.Fatal(err)
	}
	await(t, "b knows that it is drained", b.Drained)
	if _, err := a.Forget(ctx, "b", false); !errors.Is(err, lan.ErrConflict) {
		t.Errorf("a host that is alive is forgotten: %v", err)
	}
	if _, err := a.Forget(ctx, "c", false); !errors.Is(err, lan.ErrNotFound) {
		t.Errorf("an unknown host: %v", err)
	}
	stopB()
	await(t, "b is silent", func() bool { return !of("b").Alive })
	if h := of("b"); h.Addresses != 2 || !h.Drained {
		t.Errorf("b, silent: %+v", h)
	}
	h, err := a.Forget(ctx, "b", false)
	if err != nil || h.Addresses != 2 {
		t.Fatalf("forgotten: %+v, %v", h, err)
	}
	await(t, "b is on the list no more", func() bool { return len(a.Hosts(ctx).Hosts) == 1 })
	list, err := a.Look(ctx, []Change{{Claim: claim(a, "10.0.0.1", Taken)}, {Claim: claim(a, "10.0.0.3", Taken)}})
	if err != nil || list[0].State != Idle || list[0].Owner != "name web" || list[1].State != Taken {
		t.Errorf("after it: %+v, %v", list, err)
	}
}

// Without etcd it is said at once, and after it is back all is well.
func TestEtcdAway(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	p := kerneltest.NewProxy(t, e.Endpoints[0])
	p.Set(kerneltest.Cut)
	a, _ := host(t, "a", p.Addr)
	try := func() error {
		_, err := a.Change(ctx, []Change{{claim(a, "10.0.0.1", Taken), 0}})
		return err
	}
	if err := try(); !errors.Is(err, lan.ErrUnavailable) || !strings.Contains(err.Error(), p.Addr) {
		t.Errorf("before etcd was ever there: %v", err)
	}
	p.Set(kerneltest.Pass)
	up(t, a)
	if err := try(); err != nil {
		t.Error(err)
	}
	for _, mode := range []int32{kerneltest.Cut, kerneltest.Hang, kerneltest.LoseReplies} {
		p.Set(mode)
		start := time.Now()
		if err := try(); !errors.Is(err, lan.ErrUnavailable) {
			t.Errorf("mode %d: %v", mode, err)
		}
		if took := time.Since(start); took > patience+time.Second {
			t.Errorf("mode %d: it took %s", mode, took)
		}
		start = time.Now()
		if err := try(); !errors.Is(err, lan.ErrUnavailable) || time.Since(start) > 100*time.Millisecond {
			t.Errorf("mode %d, again: %v after %s", mode, err, time.Since(start))
		}
		p.Set(kerneltest.Pass)
		up(t, a)
		if err := try(); err != nil {
			t.Errorf("after mode %d: %v", mode, err)
		}
	}
}

// A host that was copied with its state file is none of the cluster's, as long as the other one
// is alive; one that was forgotten although it is alive is on the list again.
func TestCopiedHost(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	a, stop := host(t, "a", e.Endpoints...)
	up(t, a)
	log := &kerneltest.Log{}
	c, err := New(Config{Endpoints: e.Endpoints, Prefix: "/lanyard", Host: "id-a", Name: "copy"}, nil, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	run, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- c.Run(run, func([]byte) error { return nil }) }()
	end := sync.OnceFunc(func() { cancel(); <-done })
	defer end()
	await(t, "it is said", func() bool { return strings.Contains(log.String(), "has the state file of this one") })
	if _, err := c.Change(ctx, []Change{{claim(c, "10.0.0.1", Taken), 0}}); !errors.Is(err, lan.ErrUnavailable) {
		t.Errorf("the copy claims an address: %v", err)
	}
	end()
	b, _ := host(t, "b", e.Endpoints...)
	up(t, b)
	await(t, "b knows a", func() bool { return b.HostName("id-a") == "a" })
	if _, err := b.Forget(ctx, "a", true); err != nil {
		t.Fatal(err)
	}
	await(t, "a is there again", func() bool {
		for _, h := range b.Hosts(ctx).Hosts {
			if h.Name == "a" && h.Alive {
				return true
			}
		}
		return false
	})
	stop()
}

func TestAnotherFormat(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	a, stop := host(t, "a", e.Endpoints...)
	up(t, a)
	if _, err := a.client.Put(ctx, a.key("format"), "2"); err != nil {
		t.Fatal(err)
	}
	stop()
	for _, tc := range []struct {
		prefix string
		salt   []byte
		want   string
	}{{"/lanyard", nil, `format "2"`}, {"/other", make([]byte, 32), "another plan"}} {
		c, err := New(Config{Endpoints: e.Endpoints, Prefix: tc.prefix, Host: "x", Name: "x"}, tc.salt, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		run, cancel := context.WithCancel(ctx)
		done := make(chan error, 1)
		go func() { done <- c.Run(run, func([]byte) error { return nil }) }()
		await(t, tc.want, func() bool { _, down := c.Up(); return down != nil && strings.Contains(down.Error(), tc.want) })
		if _, err := c.Change(ctx, []Change{{claim(c, "10.0.0.1", Taken), 0}}); !errors.Is(err, lan.ErrUnavailable) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.prefix, err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"etcd://h", "h:2379 /lanyard"},
		{"etcd://h1:1,h2/site/a/?user=u&password-file=/p", "h1:1,h2:2379 /site/a u"},
		{"etcd://[fd00::1]:5,fd00::2?ca=/c&cert=/x&key=/y", "[fd00::1]:5,[fd00::2]:2379 /lanyard tls"},
		{"etcd://h?tls=on", "h:2379 /lanyard tls"},
	} {
		conf, err := Parse(c.text)
		got := strings.Join(conf.Endpoints, ",") + " " + conf.Prefix
		if conf.User != "" {
			got += " " + conf.User
		}
		if conf.TLS {
			got += " tls"
		}
		if err != nil || got != c.want {
			t.Errorf("%s: %q, %v; want %q", c.text, got, err, c.want)
		}
	}
	for _, text := range []string{"", "http://h", "etcd://", "etcd://u:p@h", "etcd://h?cert=/x", "etcd://h?user=u", "etcd://h?tls=maybe", "etcd://h?color=red", "etcd://h,,g"} {
		if conf, err := Parse(text); err == nil {
			t.Errorf("%s: taken as %+v", text, conf)
		}
	}
}
