package engine

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// leased adds an endpoint as one with a DHCP lease of 192.168.0.2.
func (b *bench) leased(opts ...string) {
	b.t.Helper()
	if err := b.CreateNetwork(ctx, lanRequest("net1", append(opts, "parent=eth1")...)); err != nil {
		b.t.Fatal(err)
	}
	b.add("net1", "ep1", "192.168.0.2/24")
	b.mu.Lock()
	b.endpoints["ep1"].rec.Leases = []string{"lease"}
	b.mu.Unlock()
}

func leaseOf(addr string) *lan.Lease {
	return &lan.Lease{Addr: netip.MustParsePrefix(addr), Gateway: netip.MustParseAddr("192.168.0.1")}
}

// has waits until a container has these addresses, and the default route.
func (b *bench) has(c *kerneltest.Host, what string, addrs ...string) {
	b.t.Helper()
	within(b.t, 10*time.Second, what, func() bool {
		out := c.IP("-o -4 addr show dev eth0")
		if strings.Count(out, " inet ") != len(addrs) || !strings.Contains(c.IP("route"), "default via 192.168.0.1") {
			return false
		}
		for _, a := range addrs {
			if !strings.Contains(out, a+"/") {
				return false
			}
		}
		return true
	})
}

// The server takes the address away, and gives another one, while Docker is about to set the
// first one up in the container.
func TestLeaseChangesWhileAContainerStarts(t *testing.T) {
	b := newBench(t)
	b.leased()
	c := kerneltest.New(t)
	a, err := b.Join(ctx, "net1", "ep1", c.Path())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.leaseChanged(ctx, "ep1", lan.LeaseChange{Old: leaseOf("192.168.0.2/24")}); err != nil {
		t.Error(err)
	}
	b.host.IP("link set %s netns %s", a.SrcName, c.Path())
	c.IP("link set %s name eth0", a.SrcName)
	if _, err := b.leaseChanged(ctx, "ep1", lan.LeaseChange{New: leaseOf("192.168.0.7/24")}); err != nil {
		t.Error(err)
	}
	c.IP("addr add 192.168.0.2/24 dev eth0")
	c.IP("link set eth0 up")
	c.IP("route add default via 192.168.0.1")
	b.has(c, "the container has the new address alone", "192.168.0.7")
	b.settled()
}

// settled waits until no change of a lease is left to do.
func (b *bench) settled() {
	b.t.Helper()
	within(b.t, 5*time.Second, "nothing is left to do", func() bool { return len(b.Endpoints()[0].Redo) == 0 })
}

// lanyard is killed while it changes a container's address.
func TestLeaseChangeCutOff(t *testing.T) {
	for _, set := range []string{"", "192.168.0.7/24"} {
		b := newBench(t)
		b.leased()
		c := b.enter("net1", "ep1", netip.MustParsePrefix("192.168.0.2/24"))
		c.IP("route add default via 192.168.0.1")
		b.mu.Lock()
		alive := b.endpoints["ep1"].rec.Sandbox
		b.endpoints["ep1"].rec.Sandbox = "/nowhere" // so that nothing comes of it
		b.mu.Unlock()
		if _, err := b.leaseChanged(ctx, "ep1", lan.LeaseChange{Old: leaseOf("192.168.0.2/24"), New: leaseOf("192.168.0.7/24")}); err != nil {
			t.Fatal(err)
		}
		b.mu.Lock()
		b.endpoints["ep1"].rec.Sandbox = alive
		rec := b.endpoints["ep1"].rec
		b.mu.Unlock()
		b.put(rec)
		if set != "" {
			c.IP("addr add %s dev eth0", set)
		}
		b.restart()
		b.runs()
		b.has(c, "the container has the new address alone", "192.168.0.7")
		b.settled()
	}
}
