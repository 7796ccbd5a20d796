package cluster

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/plan"
)

func network(name, parent string) plan.Network {
	return plan.Network{Name: name, Parent: plan.Rules{{Name: parent}}, IPAM: plan.IPAM{Driver: plan.Driver, Config: []plan.Subnet{{Subnet: "10.0.0.0/24"}}}}
}

func names(c *Cluster) string {
	all, rev := c.Networks()
	if rev == 0 {
		return "unknown"
	}
	return strings.Join(slices.Sorted(maps.Keys(all)), " ")
}

// Definitions are the same on all hosts, one that comes later included, and two operators do not overwrite each other.
func TestDefinitions(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	a, _ := host(t, "a", e.Endpoints...)
	b, stop := host(t, "b", e.Endpoints...)
	up(t, a, b)
	steps, err := a.Define(ctx, []plan.Network{network("x", "eth1"), network("y", "eth2")}, false, true)
	if err != nil || len(steps) != 2 {
		t.Fatalf("dry: %+v, %v", steps, err)
	}
	await(t, "definitions are known", func() bool { return names(b) == "" })
	if _, err := a.Define(ctx, []plan.Network{network("x", "eth1"), network("y", "eth2")}, false, false); err != nil {
		t.Fatal(err)
	}
	await(t, "b has both", func() bool { return names(b) == "x y" })
	all, _ := b.Networks()
	if d := all["x"]; d.By != "a" || d.Changed.IsZero() || d.Revision == 0 || d.Parent[0].Name != "eth1" {
		t.Errorf("x is %+v", d)
	}
	select {
	case <-b.Redefined():
	default:
		t.Error("nobody was told")
	}
	if err := b.Create(ctx, network("x", "eth9")); !errors.Is(err, lan.ErrConflict) || !strings.Contains(err.Error(), "network x is defined already") {
		t.Errorf("created twice: %v", err)
	}
	// Somebody else was quicker.
	have, revs, err := a.definitions(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Define(ctx, []plan.Network{network("x", "eth3")}, false, false); err != nil {
		t.Fatal(err)
	}
	if err := a.take(ctx, plan.Steps(have, []plan.Network{network("x", "eth4")}, false), revs); !errors.Is(err, lan.ErrConflict) {
		t.Errorf("overwritten: %v", err)
	}
	stop()
	if err := a.Undefine(ctx, "y"); err != nil {
		t.Fatal(err)
	}
	if err := a.Undefine(ctx, "y"); !errors.Is(err, lan.ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
	late, _ := host(t, "b", e.Endpoints...)
	await(t, "one that comes later has them", func() bool { return names(late) == "x" })
	if steps, err := a.Define(ctx, nil, true, false); err != nil || len(steps) != 1 || steps[0].Action != plan.Remove {
		t.Errorf("pruned: %+v, %v", steps, err)
	}
	await(t, "none is left", func() bool { return names(late) == "" })
	// More than one request takes.
	var many []plan.Network
	for i := range 130 {
		many = append(many, network(fmt.Sprintf("n%03d", i), "eth1"))
	}
	if _, err := a.Define(ctx, many, false, false); err != nil {
		t.Fatal(err)
	}
	await(t, "130 are there", func() bool { all, _ := late.Networks(); return len(all) == 130 })
}

// What a host shows is seen by the others, costs nothing while it stays as it is, and goes with the host.
func TestSeen(t *testing.T) {
	e := kerneltest.NewEtcd(t, 1)
	a, stop := host(t, "a", e.Endpoints...)
	b, _ := host(t, "b", e.Endpoints...)
	up(t, a, b)
	await(t, "b knows both", func() bool { return len(b.Known()) == 2 && b.HostName("id-a") == "a" && b.HostName("id-b") == "b" })
	see := func(kind Kind) string {
		t.Helper()
		list, err := b.See(ctx, kind)
		if err != nil {
			t.Fatal(err)
		}
		var words []string
		for _, s := range list {
			words = append(words, fmt.Sprintf("%s/%s=%s", s.Name, s.ID, s.Value))
		}
		return strings.Join(words, " ")
	}
	show := func(c *Cluster, items ...Item) int64 {
		t.Helper()
		before := c.Requests.Load()
		if err := c.Show(ctx, items); err != nil {
			t.Fatal(err)
		}
		return c.Requests.Load() - before
	}
	one, two := Item{SeenEndpoints, "e1", []byte(`{"a":1}`)}, Item{SeenLeases, "l1", []byte(`{"b":1}`)}
	show(a, one, two)
	show(b, Item{SeenEndpoints, "e9", []byte("{}")})
	if got := see(SeenEndpoints); got != `a/e1={"a":1} b/e9={}` {
		t.Errorf("endpoints: %s", got)
	}
	if n := show(a, one, two); n != 0 {
		t.Errorf("what has not changed costs %d requests", n)
	}
	two.Value = []byte(`{"b":2}`)
	if n := show(a, two, Item{SeenEndpoints, "e2", []byte("{}")}); n != 1 {
		t.Errorf("a change costs %d requests", n)
	}
	if got := see(SeenEndpoints) + " " + see(SeenLeases); got != `a/e2={} b/e9={} a/l1={"b":2}` {
		t.Errorf("after a change: %s", got)
	}
	// Many, and large ones.
	items := []Item{two}
	for i := range 300 {
		items = append(items, Item{SeenEndpoints, fmt.Sprintf("m%d", i), fmt.Appendf(nil, "%0*d", 9000, i)})
	}
	show(a, items...)
	if list, err := b.See(ctx, SeenEndpoints); err != nil || len(list) != 301 {
		t.Errorf("%d endpoints are seen, %v", len(list), err)
	}
	// Another life of a finds what the first has written.
	stop()
	again, _ := host(t, "a", e.Endpoints...)
	up(t, again)
	show(again, one)
	if got := see(SeenEndpoints) + see(SeenLeases); got != `a/e1={"a":1} b/e9={}` {
		t.Errorf("after a restart: %s", got)
	}
	if _, err := b.See(ctx, "claims"); !errors.Is(err, lan.ErrNotFound) {
		t.Errorf("another kind: %v", err)
	}
	// Forgotten, and there after all.
	await(t, "b knows a", func() bool { h, err := b.host("a"); return err == nil && h.Alive })
	if _, err := b.Forget(ctx, "a", true); err != nil {
		t.Fatal(err)
	}
	await(t, "a is there again", func() bool { h, err := b.host("a"); return err == nil && h.Alive })
	await(t, "and shows what it has", func() bool {
		_ = again.Show(ctx, []Item{one})
		return see(SeenEndpoints) == `a/e1={"a":1} b/e9={}`
	})
}
