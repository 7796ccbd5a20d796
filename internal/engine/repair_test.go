package engine

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/store"
)

// done are what steps do to what, and those that failed.
func done(steps []Step) (all, failed []string) {
	for _, s := range steps {
		all = append(all, s.Do+" "+s.What)
		if s.Error != "" {
			failed = append(failed, s.Do+" "+s.What+": "+s.Error)
		}
	}
	return all, failed
}

// repairs wants a dry run to say what a repair then does, and nothing to be left after it.
func (b *bench) repairs(w *DockerView, want ...string) {
	b.t.Helper()
	before := b.host.Links()
	dry, _ := done(b.Repair(ctx, w, true))
	if !slices.Equal(dry, want) {
		b.t.Errorf("dry run: %q, want %q", dry, want)
	}
	if now := b.host.Links(); !slices.Equal(now, before) {
		b.t.Errorf("a dry run made %v of %v", now, before)
	}
	all, failed := done(b.Repair(ctx, w, false))
	if !slices.Equal(all, want) || len(failed) > 0 {
		b.t.Errorf("repair: %q, want %q; failed: %q", all, want, failed)
	}
	if again, _ := done(b.Repair(ctx, w, true)); len(again) > 0 {
		b.t.Errorf("left after a repair: %q", again)
	}
}

// vanish ends a container without a word, and waits until the kernel has ended its namespace.
func (b *bench) vanish(c *kerneltest.Host) {
	b.t.Helper()
	mac := macOf(c, "eth0")
	c.Vanish()
	within(b.t, 20*time.Second, "its namespace has ended", func() bool {
		list, err := b.links.LinksAbroad(func(_ int, has string) bool { return has == mac })
		return err == nil && len(list) == 0
	})
}

func TestRepair(t *testing.T) {
	b, peer := healBench(t)
	if err := b.CreateNetwork(ctx, lanRequest("net1", "parent=eth1")); err != nil {
		t.Fatal(err)
	}
	c := b.onLAN("net1", "ep1", 2)
	b.surveyed("ep1")
	gone := b.onLAN("net1", "ep2", 3)
	b.vanish(gone)
	before := state(c)
	c.IP("link del eth0")
	b.host.IP("link add ly-orphan link eth1 group %d type macvlan mode bridge", link.Group)
	b.host.IP("link add lyh-eth9 link eth1 group %d type macvlan mode bridge", link.Group)
	b.host.IP("link add theirs link eth1 type macvlan mode bridge")
	w := &DockerView{Networks: []DockerNetwork{{Name: "lan", NetworkRequest: lanRequest("net1", "parent=eth1")}}}
	b.repairs(w, "drop endpoint ep2", "restore link ep1", "remove link ly-orphan", "remove link lyh-eth9")
	if got := state(c); got != before {
		t.Errorf("the container has\n%s\nand had\n%s", got, before)
	}
	if !pings(peer, "192.168.0.2") || !slices.Contains(b.host.Links(), "theirs") {
		t.Error("the container is not reached, or another's link is gone")
	}
	b.repairs(nil)
	b.vanish(c)
	b.repairs(nil, "drop endpoint ep1")
	b.repairs(&DockerView{}, "forget network net1")
	if got := b.Networks(); len(got) != 0 {
		t.Errorf("networks %+v", got)
	}
}

// The state file is lost under a running container, and Docker says what there was.
func TestRepairAfterTheStateIsLost(t *testing.T) {
	for _, how := range []string{"docker's addresses", "own subnets"} {
		t.Run(how, func(t *testing.T) {
			b, peer := newBench(t), kerneltest.New(t)
			b.host.IP("link del eth1")
			b.wire(peer)
			stop := b.runs()
			r := lanRequest("net1", "parent=eth1")
			if how == "own subnets" {
				r = request("net1", "parent=eth1", "subnet=192.168.0.0/24", "gateway=192.168.0.1", "acd=off")
				r.IPv4, r.WantIPv4 = nil, false
			}
			if err := b.CreateNetwork(ctx, r); err != nil {
				t.Fatal(err)
			}
			asked, cancel := context.WithTimeout(ctx, 10*time.Second)
			defer cancel()
			g, err := b.AddEndpoint(asked, EndpointRequest{NetworkID: "net1", EndpointID: "ep1", IPv4: netip.MustParsePrefix("192.168.0.2/24")})
			if err != nil {
				t.Fatal(err)
			}
			c := b.enter("net1", "ep1", netip.MustParsePrefix("192.168.0.2/24"))
			stop()
			b.trash.wait()
			b.db.Close()
			if err := os.WriteFile(filepath.Join(b.dir, store.File), []byte("no state"), 0o600); err != nil {
				t.Fatal(err)
			}
			b.start()
			b.runs()
			if d := b.db.Damage(); d == nil || d.Kept != 0 {
				t.Fatalf("damage %+v", d)
			}
			w := &DockerView{
				Networks: []DockerNetwork{{Name: "lan", NetworkRequest: r}},
				Endpoints: []DockerEndpoint{{
					NetworkID: "net1", EndpointID: "ep1", Container: "c1", Sandbox: c.Path(), MAC: g.MAC, IPv4: netip.MustParsePrefix("192.168.0.2/24"),
				}},
			}
			b.repairs(w, "adopt network lan", "adopt endpoint c1")
			if !pings(peer, "192.168.0.2") {
				t.Error("the container lost its link by it")
			}
			_, err = b.AddEndpoint(ctx, EndpointRequest{NetworkID: "net1", EndpointID: "ep2", IPv4: netip.MustParsePrefix("192.168.0.2/24")})
			kerneltest.WantError(t, err, lan.ErrConflict, "192.168.0.2")
			b.surveyed("ep1")
			b.host.IP("link del eth1")
			b.wire(peer)
			within(t, startTime, "its link comes back with its parent", func() bool { return strings.Contains(state(c), "192.168.0.2/24") })
			b.stop("net1", "ep1", c)
			if err := b.DeleteNetwork(ctx, "net1"); err != nil {
				t.Error(err)
			}
		})
	}
}

// Pools that Docker asked for come back under the names that it knows.
func TestRepairPools(t *testing.T) {
	b := newBench(t)
	b.create("other", "parent=eth1")
	c := b.run("other", "ep1", "192.168.11.7/16")
	if err := b.DeleteNetwork(ctx, "other"); err != nil {
		t.Fatal(err)
	}
	subnet := netip.MustParsePrefix("192.168.0.0/24")
	r := request("net1", "parent=eth1")
	r.IPv4 = []lan.Subnet{{Pool: subnet, Gateway: netip.MustParseAddr("192.168.0.1"), Leased: true}}
	w := &DockerView{
		Networks: []DockerNetwork{{Name: "lan", NetworkRequest: r, Pools: []lan.PoolRequest{{Subnet: subnet}}}},
		Endpoints: []DockerEndpoint{{
			NetworkID: "net1", EndpointID: "ep1", Container: "c1", Sandbox: c.Path(), MAC: "02:00:00:00:00:01", IPv4: netip.MustParsePrefix("192.168.0.7/24"),
		}},
	}
	all, failed := done(b.Repair(ctx, w, false))
	if want := []string{"adopt network lan", "adopt endpoint c1", "restore link ep1"}; !slices.Equal(all, want) || len(failed) > 0 {
		t.Errorf("repair: %q, failed %q", all, failed)
	}
	pools := b.ipam.Pools()
	if len(pools) != 1 || pools[0].ID != subnet.String() || pools[0].Used != 1 {
		t.Fatalf("pools %+v", pools)
	}
	if err := b.DeleteEndpoint(ctx, "net1", "ep1"); err != nil {
		t.Error(err)
	}
	if err := b.ipam.ReleaseAddress(ctx, subnet.String(), netip.MustParseAddr("192.168.0.7")); err != nil {
		t.Error(err)
	}
	if err := b.DeleteNetwork(ctx, "net1"); err != nil {
		t.Error(err)
	}
	if err := b.ipam.ReleasePool(ctx, subnet.String()); err != nil {
		t.Error(err)
	}
	if pools := b.ipam.Pools(); len(pools) != 0 {
		t.Errorf("pools %+v", pools)
	}
}
