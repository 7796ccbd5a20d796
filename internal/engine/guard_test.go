package engine

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/internal/acd"
	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// claims has a container tell the LAN that it has an address, and reports whether the LAN
// believes it.
func claims(c, peer *kerneltest.Host, mac, addr string) bool {
	peer.IP("neigh replace %s lladdr 02:00:00:00:00:99 dev wire nud stale", addr)
	defer peer.IP("neigh del %s dev wire", addr)
	_ = c.NS.Do(func() error {
		eth0, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		if mac == "" {
			mac = eth0.HardwareAddr.String()
		}
		m, err := net.ParseMAC(mac)
		if err != nil {
			return err
		}
		return acd.Announce(acd.Link{Index: eth0.Index}, m, netip.MustParseAddr(addr)) // ENOBUFS where it is dropped
	})
	time.Sleep(50 * time.Millisecond)
	return strings.Contains(peer.IP("neigh show %s", addr), mac)
}

// inForce waits until a container's program is on its link.
func (b *bench) inForce(c *kerneltest.Host) {
	b.t.Helper()
	within(b.t, 5*time.Second, "the container has its filter", func() bool { return strings.Contains(c.TC("filter show dev eth0 egress"), "lanyard") })
}

// keeps checks that a container reaches the LAN, and cannot send as somebody else.
func (b *bench) keeps(c, peer *kerneltest.Host, addr string) {
	b.t.Helper()
	v6 := strings.Contains(c.IP("addr show dev eth0"), "fd00::")
	if !pings(c, "192.168.0.1") || v6 && !pings(c, "fd00::1") || !pings(peer, addr) {
		b.t.Errorf("container %s and the LAN do not reach each other", addr)
	}
	if !claims(c, peer, "", addr) {
		b.t.Error("it cannot announce its own address")
	}
	for _, a := range []string{"192.168.0.99", "fd00::99"} {
		if claims(c, peer, "", a) {
			b.t.Errorf("the LAN believes that %s has %s", addr, a)
		}
	}
	if claims(c, peer, "02:00:00:00:00:77", addr) {
		b.t.Error("it sends with another MAC address")
	}
}

// silent checks that a container which takes its filter off sends nothing to the LAN, until it
// has it again.
func (b *bench) silent(c, peer *kerneltest.Host, ep, addr string) {
	b.t.Helper()
	b.surveyed(ep)
	c.TC("qdisc del dev eth0 clsact")
	for _, a := range []string{addr, "192.168.0.99", "fd00::99"} {
		if claims(c, peer, "", a) {
			b.t.Errorf("without its filter a container sends as %s", a)
		}
	}
	b.unseen.add(c.Path())
	b.inForce(c)
	b.keeps(c, peer, addr)
}

// What is said of antispoof holds after all that can become of a container and its parent.
func TestAntiSpoof(t *testing.T) {
	b, peer := healBench(t)
	if err := b.CreateNetwork(ctx, lanRequest("net1", "parent=eth1", "antispoof=true")); err != nil {
		t.Fatal(err)
	}
	if err := b.CreateNetwork(ctx, lanRequest("net2", "parent=eth1")); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	c := b.onLAN("net1", "ep1", 2)
	b.inForce(c)
	t.Logf("in force after %s", time.Since(start))
	b.keeps(c, peer, "192.168.0.2")
	d := b.onLAN("net2", "ep2", 3)
	if !pings(d, "192.168.0.1") || !claims(d, peer, "", "192.168.0.99") {
		t.Error("a network without antispoof has it")
	}
	b.host.IP("link add link eth1 name own0 address 02:00:00:00:00:0a type macvlan mode bridge")
	b.host.IP("addr add 192.168.0.10/24 dev own0")
	b.host.IP("link set own0 up")
	within(t, 5*time.Second, "a link of the host's own reaches the LAN", func() bool { return pings(peer, "192.168.0.10") })

	b.silent(c, peer, "ep1", "192.168.0.2")

	b.host.IP("link del eth1")
	b.wire(peer)
	within(t, 5*time.Second, "the container has its link again", func() bool { return pings(peer, "192.168.0.2") })
	b.keeps(c, peer, "192.168.0.2")
	b.host.IP("link set eth1 address 02:00:00:00:00:e7")
	b.host.IP("addr add 192.168.0.20/24 dev eth1")
	within(t, 5*time.Second, "the host reaches the LAN with its new MAC address", func() bool { return pings(peer, "192.168.0.20") })
	b.keeps(c, peer, "192.168.0.2")

	for id, ep := range map[string]string{"net1": "ep1", "net2": "ep2"} {
		if err := b.DeleteEndpoint(ctx, id, ep); err != nil {
			t.Fatal(err)
		}
	}
	if claims(c, peer, "", "192.168.0.2") {
		t.Error("a container that has been taken off goes on to send")
	}
	if err := b.DeleteNetwork(ctx, "net1"); err != nil {
		t.Fatal(err)
	}
	if got := b.host.TC("qdisc show dev eth1"); strings.Contains(got, "clsact") {
		t.Errorf("left on the parent: %s", got)
	}
}

// The same on a sub-interface, where the program on the parent sees frames without their tag.
func TestAntiSpoofOnAVLAN(t *testing.T) {
	kerneltest.Need(t, "vlan")
	b, peer := healBench(t)
	peer.IP("link set wire down")
	peer.IP("addr flush dev wire")
	peer.IP("link set wire name trunk")
	peer.IP("link set trunk up")
	peer.IP("link add link trunk name wire type vlan id 100")
	peer.IP("link set wire up")
	peer.IP("addr add 192.168.0.1/24 dev wire")
	peer.IP("addr add fd00::1/64 dev wire nodad")
	if err := b.CreateNetwork(ctx, lanRequest("net1", "parent=eth1.100", "antispoof=true")); err != nil {
		t.Fatal(err)
	}
	c := b.onLAN("net1", "ep1", 2)
	b.inForce(c)
	b.keeps(c, peer, "192.168.0.2")
	b.silent(c, peer, "ep1", "192.168.0.2")
	b.host.IP("link del eth1.100") // lanyard's own, which is made again at once
	within(t, 5*time.Second, "the container has its link again", func() bool { return pings(peer, "192.168.0.2") })
	b.keeps(c, peer, "192.168.0.2")
}

// lanyard may be killed at any time.
func TestAntiSpoofGoesOn(t *testing.T) {
	b, peer := newBench(t), kerneltest.New(t)
	b.host.IP("link del eth1")
	b.wire(peer)
	if err := b.CreateNetwork(ctx, lanRequest("net1", "parent=eth1", "antispoof=true")); err != nil {
		t.Fatal(err)
	}
	c := b.onLAN("net1", "ep1", 2)
	b.inForce(c)
	b.restart()
	b.keeps(c, peer, "192.168.0.2")
	d := b.onLAN("net1", "ep2", 3)
	b.inForce(d)
	b.keeps(d, peer, "192.168.0.3")
	b.keeps(c, peer, "192.168.0.2")
	// Containers that are gone leave nothing that others could send from.
	if err := b.DeleteEndpoint(ctx, "net1", "ep2"); err != nil {
		t.Fatal(err)
	}
	b.restart()
	b.keeps(c, peer, "192.168.0.2")
}

// The address of a lease changes while its container runs.
func TestAntiSpoofHeedsLeases(t *testing.T) {
	b, peer := healBench(t)
	b.leased("antispoof=true")
	c := b.enter("net1", "ep1", netip.MustParsePrefix("192.168.0.2/24"))
	c.IP("route add default via 192.168.0.1")
	b.inForce(c)
	if _, err := b.leaseChanged(ctx, "ep1", lan.LeaseChange{Old: leaseOf("192.168.0.2/24"), New: leaseOf("192.168.0.7/24")}); err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, "the LAN reaches the new address", func() bool { return pings(peer, "192.168.0.7") })
	b.keeps(c, peer, "192.168.0.7")
	if claims(c, peer, "", "192.168.0.2") {
		t.Error("it sends from its old address")
	}
}

// ipvlan containers send with their parent's MAC address, whichever that is.
func TestAntiSpoofIpvlan(t *testing.T) {
	kerneltest.Need(t, "ipvlan")
	b, peer := healBench(t)
	if err := b.CreateNetwork(ctx, lanRequest("net1", "parent=eth1", "ipvlan_mode=l2", "antispoof=true")); err != nil {
		t.Fatal(err)
	}
	c := b.onLAN("net1", "ep1", 2)
	b.inForce(c)
	b.keeps(c, peer, "192.168.0.2")
	b.host.IP("link set eth1 address 02:00:00:00:00:e7")
	within(t, 5*time.Second, "the container reaches the LAN with the new MAC address", func() bool { return pings(c, "192.168.0.1") })
	b.keeps(c, peer, "192.168.0.2")
	b.host.IP("link del eth1")
	b.wire(peer)
	within(t, 5*time.Second, "the container has its link again", func() bool { return pings(peer, "192.168.0.2") })
	b.keeps(c, peer, "192.168.0.2")
}

// A parent whose egress cannot be looked at is refused, and nothing is left.
func TestAntiSpoofRefused(t *testing.T) {
	b := newBench(t)
	b.host.TC("qdisc add dev eth1 ingress")
	err := b.CreateNetwork(ctx, request("net1", "parent=eth1", "antispoof=true"))
	if err == nil || !strings.Contains(err.Error(), "tc qdisc show dev eth1") {
		t.Errorf("%v", err)
	}
	if err := b.CreateNetwork(ctx, request("net1", "parent=eth1", "antispoof=true", "macvlan_mode=passthru")); err == nil {
		t.Error("passthru is not refused")
	}
	b.host.TC("qdisc del dev eth1 ingress")
	if err := b.CreateNetwork(ctx, request("net1", "parent=eth1", "antispoof=true")); err != nil {
		t.Fatal(err)
	}
}

// BenchmarkAntiSpoof is the time to put a container's program on its link.
func BenchmarkAntiSpoof(b *testing.B) {
	h := newBench(b)
	if err := h.CreateNetwork(ctx, lanRequest("net1", "parent=eth1", "antispoof=true")); err != nil {
		b.Fatal(err)
	}
	h.onLAN("net1", "ep1", 2)
	ep := h.endpoints["ep1"]
	for b.Loop() {
		ep.verb.Lock()
		found, err := h.guardInside(ep, true)
		ep.verb.Unlock()
		if err != nil || !found {
			b.Fatal(fmt.Sprint(found, err))
		}
	}
}
