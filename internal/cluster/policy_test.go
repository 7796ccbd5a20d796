package cluster

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
)

// quick is a host whose silences are counted more often, and may be short.
func quick(c *Cluster) { c.leastSilence, c.leastCount = 0, 50*time.Millisecond }

// dead is a host of the cluster that is gone without a word, with n addresses.
func dead(t *testing.T, e *kerneltest.Etcd, of *Cluster, name string, n int) {
	t.Helper()
	p := kerneltest.NewProxy(t, e.Endpoints[0])
	c, stop := host(t, name, p.Addr)
	up(t, c)
	for i := range n {
		addr := netip.AddrFrom4([4]byte{10, 9, name[len(name)-1], byte(i + 1)})
		done, err := c.Change(ctx, []Change{{Claim: claim(c, addr.String(), Taken)}})
		if err != nil || !done[0].Won {
			t.Fatal(done, err)
		}
	}
	await(t, name+" is known", func() bool { h, err := of.host(name); return err == nil && h.Alive })
	stop()
	await(t, name+" is silent", func() bool { h, err := of.host(name); return err == nil && !h.Alive })
}

// A host that is silent is forgotten when that was counted for as long as the policy says, not
// before, and by exactly one of the others.
func TestForgetAfter(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	var mu sync.Mutex
	var forgotten []string
	var hosts []*Cluster
	for i := range 3 {
		c, _ := hostWith(t, fmt.Sprintf("live%d", i), func(c *Cluster) {
			quick(c)
			c.OnForgotten(func(h Host) {
				mu.Lock()
				defer mu.Unlock()
				forgotten = append(forgotten, fmt.Sprintf("%s %d", h.Name, h.Addresses))
			})
		}, e.Endpoints...)
		hosts = append(hosts, c)
	}
	up(t, hosts...)
	dead(t, e, hosts[0], "dead1", 3)
	await(t, "it is shown since when it is silent", func() bool {
		for _, h := range hosts[1].Hosts(ctx).Hosts {
			if h.Name == "dead1" && !h.Silent.IsZero() && h.ForgottenIn == 0 && h.Addresses == 3 {
				return true
			}
		}
		return false
	})
	time.Sleep(time.Second) // the policy is: never
	if _, err := hosts[2].host("dead1"); err != nil {
		t.Fatal(err)
	}
	after := 2 * time.Second
	start := time.Now()
	if err := hosts[0].SetPolicy(ctx, Policy{ForgetAfter: after}); err != nil {
		t.Fatal(err)
	}
	await(t, "it is shown when it is forgotten", func() bool {
		all := hosts[2].Hosts(ctx)
		for _, h := range all.Hosts {
			if h.Name == "dead1" && h.ForgottenIn > 0 && all.ForgetAfter == after.Seconds() {
				return true
			}
		}
		return false
	})
	for _, c := range hosts {
		await(t, c.conf.Name+" has forgotten it", func() bool { _, err := c.host("dead1"); return err != nil })
	}
	if took := time.Since(start); took < after {
		t.Errorf("it was forgotten after %s, the policy is %s", took, after)
	}
	if n := len(hosts[0].Hosts(ctx).Hosts); n != 3 {
		t.Errorf("%d hosts are left", n)
	}
	err := hosts[0].eachClaim(ctx, func(c Claim) {
		if c.State != Idle || c.Owner != "name web" {
			t.Errorf("%s is %+v", c.Addr, c)
		}
	})
	if err != nil {
		t.Error(err)
	}
	time.Sleep(300 * time.Millisecond)
	mu.Lock()
	defer mu.Unlock()
	if len(forgotten) != 1 || forgotten[0] != "dead1 3" {
		t.Errorf("forgotten: %v", forgotten)
	}
}

// A host that comes back in time is not forgotten, and its silence counts anew; so does nothing
// that passes while nobody can ask etcd. A count survives those who counted.
func TestForgetAfterNotYet(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	p := kerneltest.NewProxy(t, e.Endpoints[0])
	a, _ := hostWith(t, "a", quick, p.Addr)
	up(t, a)
	dead(t, e, a, "dead1", 1)
	if err := a.SetPolicy(ctx, Policy{ForgetAfter: time.Hour}); err != nil {
		t.Fatal(err)
	}
	counted := func(c *Cluster) time.Duration {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.silences["id-dead1"].Counted
	}
	// By sixtieths of an hour nothing is counted within a test: it is told by hand.
	set := func(d time.Duration) {
		a.mu.Lock()
		s, rev := a.silences["id-dead1"], a.policyRev
		a.mu.Unlock()
		s.Counted = d
		if err := a.putSilence(ctx, "id-dead1", &s.silence, s.rev, rev); err != nil {
			t.Fatal(err)
		}
		await(t, "it is counted", func() bool { return counted(a) == d })
	}
	await(t, "it is known to be silent", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.silences["id-dead1"].rev != 0 && a.policy.ForgetAfter == time.Hour
	})
	set(59 * time.Minute)
	b, stopB := hostWith(t, "b", quick, e.Endpoints...)
	up(t, b)
	await(t, "another host knows of it", func() bool { return counted(b) == 59*time.Minute })
	back, stop := host(t, "dead1", e.Endpoints...)
	up(t, back)
	await(t, "its silence is over", func() bool { return counted(a) == 0 })
	stop()
	await(t, "it is silent again, and counts from nothing", func() bool {
		h, err := a.host("dead1")
		a.mu.Lock()
		defer a.mu.Unlock()
		return err == nil && !h.Alive && a.silences["id-dead1"].rev != 0 && a.silences["id-dead1"].Counted == 0
	})
	stopB()
	// A count of who did not see the last one is refused.
	a.mu.Lock()
	s, rev := a.silences["id-dead1"], a.policyRev
	a.mu.Unlock()
	set(30 * time.Minute)
	s.Counted = 2 * time.Hour
	if err := a.putSilence(ctx, "id-dead1", &s.silence, s.rev, rev); err != nil || counted(a) != 30*time.Minute {
		t.Errorf("counted %s, %v", counted(a), err)
	}
	// With etcd away nothing is counted; what was is there when it is back.
	p.Set(kerneltest.Cut)
	time.Sleep(500 * time.Millisecond)
	p.Set(kerneltest.Pass)
	up(t, a)
	if d := counted(a); d != 30*time.Minute {
		t.Errorf("counted %s", d)
	}
	if _, err := a.host("dead1"); err != nil {
		t.Error(err)
	}
}

// A policy of less than an hour is refused.
func TestForgetAfterRefused(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	a, _ := host(t, "a", e.Endpoints...)
	up(t, a)
	if err := a.SetPolicy(ctx, Policy{ForgetAfter: 59 * time.Minute}); err == nil || !strings.Contains(err.Error(), "an hour") && !strings.Contains(err.Error(), "1h") {
		t.Errorf("%v", err)
	}
	for _, after := range []time.Duration{72 * time.Hour, 0} {
		if err := a.SetPolicy(ctx, Policy{ForgetAfter: after}); err != nil {
			t.Error(err)
		}
		await(t, "the policy is known", func() bool { return a.Policy().ForgetAfter == after })
	}
}
