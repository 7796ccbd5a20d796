package engine

import (
	"net/netip"
	"testing"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/link"
)

// trafficBy is the traffic of an endpoint, and whether there is any said of it.
func (b *bench) trafficBy(id string) (link.Traffic, bool) {
	b.t.Helper()
	list, err := b.Traffic(ctx)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, t := range list {
		if t.Endpoint == id {
			return t.Traffic, true
		}
	}
	return link.Traffic{}, false
}

// What one container sends another receives, and it is counted for each as the container sees
// it, whatever its link is called there.
func TestTraffic(t *testing.T) {
	b := newBench(t)
	b.create("net1", "parent=eth1")
	run := func(id, addr string) *kerneltest.Host {
		b.add("net1", id, addr)
		return b.enter("net1", id, netip.MustParsePrefix(addr))
	}
	one, two := run("ep1", "192.168.11.2/16"), run("ep2", "192.168.11.3/16")
	two.IP("link set eth0 name lan")
	before, _ := b.trafficBy("ep1")
	was, _ := b.trafficBy("ep2")
	if !pings(one, "192.168.11.3") {
		t.Fatal("the containers do not reach each other")
	}
	now, _ := b.trafficBy("ep1")
	is, _ := b.trafficBy("ep2")
	if sent, got := now.TxPackets-before.TxPackets, is.RxPackets-was.RxPackets; sent < 3 || got < 3 {
		t.Errorf("3 pings: %d packets sent, %d received", sent, got)
	}
	if sent, got := now.TxBytes-before.TxBytes, is.RxBytes-was.RxBytes; sent < 3*84 || got < 3*84 {
		t.Errorf("3 pings: %d bytes sent, %d received", sent, got)
	}
	if now.RxPackets == before.RxPackets || is.TxPackets == was.TxPackets {
		t.Error("the answers are not counted")
	}
	b.stop("net1", "ep1", one)
	if _, ok := b.trafficBy("ep1"); ok {
		t.Error("a container that has gone has traffic")
	}
	if _, ok := b.trafficBy("ep2"); !ok {
		t.Error("the other one has none any more")
	}
}

// BenchmarkTraffic is a look at the counters of one container.
func BenchmarkTraffic(t *testing.B) {
	b := newBench(t)
	b.create("net1", "parent=eth1")
	p := netip.MustParsePrefix("192.168.11.2/16")
	b.add("net1", "ep1", p.String())
	b.enter("net1", "ep1", p)
	for t.Loop() {
		if _, ok := b.trafficBy("ep1"); !ok {
			t.Fatal("no traffic")
		}
	}
}
