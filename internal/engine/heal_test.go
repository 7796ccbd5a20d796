package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// wire makes eth1, and its LAN at the other end, in the peer, with an address of each family
// there.
func (b *bench) wire(peer *kerneltest.Host) {
	b.t.Helper()
	b.host.IP("link add eth1 address 02:00:00:00:00:e1 type veth peer name wire netns %s", peer.Path())
	peer.IP("addr add 192.168.0.1/24 dev wire")
	peer.IP("addr add fd00::1/64 dev wire nodad")
	peer.IP("link set wire up")
}

// healBench is a host whose daemon runs, and the LAN of its eth1.
func healBench(t *testing.T) (b *bench, peer *kerneltest.Host) {
	t.Helper()
	b, peer = newBench(t), kerneltest.New(t)
	b.host.IP("link del eth1")
	b.wire(peer)
	b.runs()
	return b, peer
}

// runs lets the engine run until the end of the test, or until stop is called.
func (b *bench) runs() (stop func()) {
	b.t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	ran := make(chan error, 1)
	e := b.Engine
	go func() { ran <- e.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ran; err != nil {
			b.t.Error(err)
		}
	})
	b.t.Cleanup(stop)
	return stop
}

// within waits until something is so.
func within(t testing.TB, d time.Duration, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !so(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", d, what)
		}
	}
}

// surveyed waits until the containers were looked into.
func (b *bench) surveyed(ids ...string) {
	b.t.Helper()
	within(b.t, 10*time.Second, "containers were looked into", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return !slices.ContainsFunc(ids, func(id string) bool { return b.endpoints[id].shape == nil })
	})
}

// events are the kinds of events that were, in order.
func (b *bench) events() (whats []string) {
	for _, e := range b.ipam.Events(ctx, 0, false) {
		whats = append(whats, e.What)
	}
	return whats
}

// kinds are the networks that a kernel can have, each with its options.
var kinds = map[string][]string{"macvlan": {"parent=eth1"}, "ipvlan": {"parent=eth1", "ipvlan_mode=l2"}}

func lanRequest(id string, opts ...string) lan.NetworkRequest {
	r := request(id, opts...)
	r.WantIPv6 = true
	r.IPv4 = []lan.Subnet{{Pool: netip.MustParsePrefix("192.168.0.0/24"), Gateway: netip.MustParseAddr("192.168.0.1")}}
	r.IPv6 = []lan.Subnet{{Pool: netip.MustParsePrefix("fd00::/64")}}
	return r
}

var operState = regexp.MustCompile(` state [A-Z]+`)

// state is what a container sees of its link: its name, MAC address and MTU, its addresses
// and its routes.
func state(c *kerneltest.Host) string {
	var out strings.Builder
	_ = c.NS.Do(func() error {
		set, err := os.ReadFile("/proc/sys/net/ipv4/conf/eth0/log_martians")
		fmt.Fprintf(&out, "log_martians %s", set)
		return err
	})
	for line := range strings.Lines(c.IP("-o link show") + c.IP("-o addr show scope global") + c.IP("route show") + c.IP("-6 route show")) {
		words := strings.Fields(line)
		if words[0] == "1:" || strings.Contains(line, "fe80") {
			continue
		}
		if strings.HasSuffix(words[0], ":") {
			words = words[1:] // the index is another one
		}
		if name, _, ok := strings.Cut(words[0], "@"); ok {
			words[0] = name
		}
		text := strings.Join(words, " ")
		text, _, _ = strings.Cut(text, " alias ")
		text = operState.ReplaceAllString(text, "") // of a new link it may be unknown yet
		fmt.Fprintln(&out, strings.TrimRight(text, "\\ "))
	}
	return out.String()
}

func TestLinksComeBackWithTheirParent(t *testing.T) {
	for kind, opts := range kinds {
		for _, away := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, lanyard away %t", kind, away), func(t *testing.T) {
				if kind == "ipvlan" {
					kerneltest.Need(t, "ipvlan")
				}
				b, peer := newBench(t), kerneltest.New(t)
				b.host.IP("link del eth1")
				b.wire(peer)
				stop := b.runs()
				if err := b.CreateNetwork(ctx, lanRequest("net1", append(opts, "com.docker.network.driver.mtu=1400")...)); err != nil {
					t.Fatal(err)
				}
				c, d := b.onLAN("net1", "ep1", 2), b.onLAN("net1", "ep2", 3)
				// What Docker does for a gateway, and what a container may do.
				c.IP("route add default via 192.168.0.1")
				c.IP("addr add 192.168.0.77/32 dev eth0")
				c.IP("route add 10.9.0.0/16 via 192.168.0.3 metric 7")
				c.IP("-6 route add default via fd00::1")
				if err := c.NS.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/conf/eth0/log_martians", []byte("1"), 0o644) }); err != nil {
					t.Fatal(err)
				}
				d.IP("link set eth0 down")
				d.IP("link set eth0 name lan7")
				d.IP("link set lan7 mtu 1300 up")
				d.IP("addr replace fd00::3/64 dev lan7 nodad")
				b.unseen.add(c.Path())
				b.unseen.add(d.Path())
				within(t, 10*time.Second, "lan7 is known", func() bool { return b.Endpoints()[1].Link == "lan7" })
				before, before2 := state(c), state(d)
				if away {
					stop()
				}
				b.host.IP("link del eth1")
				if got := state(c); strings.Contains(got, "eth0") {
					t.Fatalf("the link is there without its parent:\n%s", got)
				}
				if away {
					b.wire(peer)
					b.restart()
					b.runs()
				} else {
					within(t, 5*time.Second, "its loss is said", func() bool { return slices.Contains(b.events(), ipam.EventParentLost) })
					if got := b.Networks()[0].Problem; !strings.Contains(got, "eth1") {
						t.Errorf("problem %q", got)
					}
					b.wire(peer)
				}
				within(t, 5*time.Second, "it is back", func() bool { return slices.Contains(b.events(), ipam.EventParentBack) })
				if away {
					// Nobody could tell us what was changed in the containers.
					if got := state(c); !strings.Contains(got, "eth0") || !strings.Contains(got, "mtu 1400") || !strings.Contains(got, "default via 192.168.0.1 dev eth0") {
						t.Errorf("now:\n%s\nbefore:\n%s", got, before)
					}
					if got := state(d); !strings.Contains(got, "lan7") {
						t.Errorf("now:\n%s\nbefore:\n%s", got, before2)
					}
				} else {
					// That it has a carrier follows its parent's a moment later.
					within(t, 5*time.Second, "the first is as before:\n"+before, func() bool { return state(c) == before })
					within(t, 5*time.Second, "the second is as before:\n"+before2, func() bool { return state(d) == before2 })
				}
				for _, addr := range []string{"192.168.0.2", "fd00::2", "192.168.0.3"} {
					if !pings(peer, addr) {
						t.Errorf("the LAN does not reach %s", addr)
					}
				}
				if !pings(c, "192.168.0.3") || !pings(d, "fd00::2") {
					t.Error("the containers do not reach each other")
				}
				if got := b.Networks()[0].Problem; got != "" {
					t.Errorf("problem %q", got)
				}
			})
		}
	}
}

// A sub-interface that somebody deletes is made again: ours at once, another's when its
// owner had time to.
func TestSubInterfaceDeleted(t *testing.T) {
	kerneltest.Need(t, "vlan")
	b, peer := healBench(t)
	tag := func() {
		peer.IP("addr flush dev wire") // the same subnet would be on both
		peer.IP("link add link wire name wire.100 type vlan id 100")
		peer.IP("addr add 192.168.0.99/24 dev wire.100")
		peer.IP("link set wire.100 up")
	}
	tag()
	if err := b.CreateNetwork(ctx, lanRequest("net1", "parent=eth1.100")); err != nil {
		t.Fatal(err)
	}
	c := b.onLAN("net1", "ep1", 2)
	b.surveyed("ep1")
	b.host.IP("link del eth1.100")
	within(t, 5*time.Second, "ours is back", func() bool { return slices.Contains(b.events(), ipam.EventParentBack) })
	if !pings(c, "192.168.0.99") {
		t.Error("the container does not reach the VLAN")
	}
	// With all that it is on.
	peer.IP("link del wire")
	b.wire(peer)
	tag()
	within(t, 5*time.Second, "the container reaches its VLAN on another eth1", func() bool { return pings(c, "192.168.0.99") })

	b.host.IP("link add link eth1 name eth1.200 type vlan id 200")
	if err := b.CreateNetwork(ctx, lanRequest("net2", "parent=eth1.200")); err != nil {
		t.Fatal(err)
	}
	d := b.onLAN("net2", "ep2", 2)
	b.host.IP("link del eth1.200")
	time.Sleep(time.Second) // its owner takes a while
	if _, err := b.host.TryIP("link add link eth1 name eth1.200 type vlan id 200"); err != nil {
		t.Fatalf("its owner cannot make it again: %v", err)
	}
	within(t, 5*time.Second, "the container has its link", func() bool { return strings.Contains(state(d), "192.168.0.2/24") })
	b.host.IP("link del eth1.200")
	within(t, 15*time.Second, "it is made since nobody else did", func() bool { return strings.Contains(state(d), "192.168.0.2/24") })
}

// A bond that loses its active port, and one that is taken apart and built anew, with a VLAN
// on it, as its owner does on a change of its configuration.
func TestBond(t *testing.T) {
	kerneltest.Need(t, "bond", "vlan", "bridge")
	b, peer := healBench(t)
	b.host.IP("link del eth1")
	peer.IP("link add lan type bridge")
	for _, port := range []string{"eth1", "eth2"} {
		b.host.IP("link add %s type veth peer name wire-%[1]s netns %s", port, peer.Path())
		peer.IP("link set wire-%s master lan up", port)
	}
	peer.IP("addr add 192.168.0.1/24 dev lan")
	peer.IP("link set lan up")
	peer.IP("link add link lan name lan.100 type vlan id 100")
	peer.IP("addr add 192.168.1.1/24 dev lan.100")
	peer.IP("link set lan.100 up")
	build := func() {
		b.host.IP("link add bond0 type bond mode active-backup miimon 50")
		for _, port := range []string{"eth1", "eth2"} {
			b.host.IP("link set %s down", port)
			b.host.IP("link set %s master bond0", port)
		}
		b.host.IP("link set bond0 up")
	}
	build()
	b.create("plain", "parent=bond0")
	b.create("tagged", "parent=bond0.100")
	b.add("plain", "ep1", "192.168.0.2/24")
	plain := b.enter("plain", "ep1", netip.MustParsePrefix("192.168.0.2/24"))
	b.add("tagged", "ep2", "192.168.1.2/24")
	tagged := b.enter("tagged", "ep2", netip.MustParsePrefix("192.168.1.2/24"))
	b.surveyed("ep1", "ep2")
	reach := func(when string) {
		t.Helper()
		within(t, 5*time.Second, when+": untagged", func() bool { return pings(plain, "192.168.0.1") && pings(peer, "192.168.0.2") })
		within(t, 5*time.Second, when+": tagged", func() bool { return pings(tagged, "192.168.1.1") && pings(peer, "192.168.1.2") })
	}
	reach("at first")
	b.host.IP("link set eth1 down")
	reach("with the other port")
	b.host.IP("link set eth1 up")
	for range 2 {
		b.host.IP("link del bond0")
		time.Sleep(300 * time.Millisecond)
		build()
		reach("on a bond that was built anew")
	}
}

// What a crash in the middle of it leaves is replaced.
func TestLinksComeBackAfterACrash(t *testing.T) {
	for name, leave := range map[string]func(h, c *kerneltest.Host, mac string){
		"made": func(h, c *kerneltest.Host, mac string) {
			h.IP("link add ly-ep1 netns %s link eth1 address %s group 1818324601 type macvlan mode bridge", c.Path(), mac)
		},
		"named": func(h, c *kerneltest.Host, mac string) {
			h.IP("link add eth0 netns %s link eth1 address %s group 1818324601 type macvlan mode bridge", c.Path(), mac)
		},
		"all but the record": func(h, c *kerneltest.Host, mac string) {
			h.IP("link add eth0 netns %s link eth1 address %s group 1818324601 type macvlan mode bridge", c.Path(), mac)
			c.IP("addr add 192.168.0.2/24 dev eth0")
			c.IP("link set eth0 up alias ly-ep1")
		},
	} {
		t.Run(name, func(t *testing.T) {
			b, peer := newBench(t), kerneltest.New(t)
			b.host.IP("link del eth1")
			b.wire(peer)
			if err := b.CreateNetwork(ctx, lanRequest("net1", "parent=eth1")); err != nil {
				t.Fatal(err)
			}
			c := b.onLAN("net1", "ep1", 2)
			mac := b.Endpoints()[0].MAC
			b.host.IP("link del eth1")
			b.wire(peer)
			leave(b.host, c, mac)
			b.restart()
			if got := strings.Count(c.IP("-br link show type macvlan"), mac); got != 1 {
				t.Errorf("the container has %d links", got)
			}
			if !pings(peer, "192.168.0.2") || !strings.Contains(state(c), "eth0 inet 192.168.0.2/24") {
				t.Errorf("the container is not reached:\n%s", state(c))
			}
		})
	}
}

// The name was given to another link while the container had none.
func TestLinkComesBackUnderAnotherName(t *testing.T) {
	b, peer := healBench(t)
	if err := b.CreateNetwork(ctx, lanRequest("net1", "parent=eth1")); err != nil {
		t.Fatal(err)
	}
	c := b.onLAN("net1", "ep1", 2)
	b.surveyed("ep1")
	b.host.IP("link del eth1")
	within(t, 5*time.Second, "its loss is said", func() bool { return slices.Contains(b.events(), ipam.EventParentLost) })
	c.IP("link add eth0 type veth peer name other")
	b.wire(peer)
	within(t, 5*time.Second, "it is back", func() bool { return slices.Contains(b.events(), ipam.EventParentBack) })
	if got := state(c); !strings.Contains(got, "eth1 inet 192.168.0.2/24") || b.Endpoints()[0].Link != "eth1" {
		t.Errorf("%s\nendpoint %+v", got, b.Endpoints()[0])
	}
	if !pings(peer, "192.168.0.2") {
		t.Error("the LAN does not reach it")
	}
}

// A container that was stopped, or that takes its own link away, is left alone.
func TestNoLinkForWhoHasNone(t *testing.T) {
	b, peer := healBench(t)
	if err := b.CreateNetwork(ctx, lanRequest("net1", "parent=eth1")); err != nil {
		t.Fatal(err)
	}
	c, d := b.onLAN("net1", "ep1", 2), b.onLAN("net1", "ep2", 3)
	b.onLAN("net1", "ep3", 4)
	c.IP("link del eth0")
	b.host.IP("link set eth1 down")
	b.host.IP("link set eth1 up")
	within(t, 5*time.Second, "the parent is up", func() bool { return slices.Contains(b.events(), ipam.EventParentUp) })
	if got := state(c); strings.Contains(got, "eth0") {
		t.Errorf("the container has its link again:\n%s", got)
	}
	b.host.IP("link del eth1")
	if err := b.Leave(ctx, "net1", "ep2"); err != nil {
		t.Fatal(err)
	}
	b.wire(peer)
	within(t, 5*time.Second, "the others are back", func() bool { return slices.Contains(b.events(), ipam.EventParentBack) })
	if got := state(d); strings.Contains(got, "eth0") {
		t.Errorf("a container that had left has a link:\n%s", got)
	}
	if err := b.DeleteEndpoint(ctx, "net1", "ep2"); err != nil {
		t.Fatal(err)
	}
}

// A parent that flaps has its containers announced after the last time, too, and not each time.
func TestParentFlaps(t *testing.T) {
	b, peer := healBench(t)
	if err := b.CreateNetwork(ctx, lanRequest("net1", "parent=eth1", "com.docker.network.advertise_addr_nmsgs=1")); err != nil {
		t.Fatal(err)
	}
	b.onLAN("net1", "ep1", 2)
	b.surveyed("ep1")
	const flaps = 6
	heard := sniff(t, peer)
	last := func(what string) func() bool {
		return func() bool { all := b.events(); return len(all) > 0 && all[len(all)-1] == what }
	}
	for range flaps {
		b.host.IP("link set eth1 down")
		within(t, 5*time.Second, "it is down", last(ipam.EventParentDown))
		b.host.IP("link set eth1 up")
		within(t, 5*time.Second, "it is up", last(ipam.EventParentUp))
	}
	// A switch that had forgotten it, or another container's address in a neighbour's table.
	peer.IP("neigh replace 192.168.0.2 lladdr 02:00:00:00:00:99 dev wire nud stale")
	within(t, 2*announceRest, "the LAN is told who has the address", func() bool {
		return !strings.Contains(peer.IP("neigh show 192.168.0.2"), "02:00:00:00:00:99")
	})
	said := 0
	for _, line := range heard() {
		if strings.Contains(line, "192.168.0.2 tell 192.168.0.2") || strings.Contains(line, "Announcement 192.168.0.2") {
			said++
		}
	}
	if per, _ := b.networks["net1"].rec.Announce.Messages(); said == 0 || said > 3*per {
		t.Errorf("announced %d times in %d flaps", said, flaps)
	}
}

// Down and up, another MTU, MAC address and name.
func TestParentChanges(t *testing.T) {
	for kind, opts := range kinds {
		t.Run(kind, func(t *testing.T) {
			if kind == "ipvlan" {
				kerneltest.Need(t, "ipvlan")
			}
			b, peer := healBench(t)
			if err := b.CreateNetwork(ctx, lanRequest("net1", opts...)); err != nil {
				t.Fatal(err)
			}
			c := b.onLAN("net1", "ep1", 2)
			b.surveyed("ep1")
			b.host.IP("link set eth1 down")
			within(t, 5*time.Second, "it is down", func() bool { return slices.Contains(b.events(), ipam.EventParentDown) })
			if got := b.Networks()[0].Problem; !strings.Contains(got, "ip link set eth1 up") {
				t.Errorf("problem %q", got)
			}
			b.host.IP("link set eth1 up")
			within(t, 5*time.Second, "it is up", func() bool { return slices.Contains(b.events(), ipam.EventParentUp) })
			if !pings(peer, "192.168.0.2") {
				t.Error("not reached after down and up")
			}
			b.host.IP("link set eth1 mtu 1400")
			within(t, 5*time.Second, "the kernel lowers the container's MTU", func() bool { return strings.Contains(state(c), "mtu 1400") })
			within(t, 5*time.Second, "we know", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.networks["net1"].parent.MTU == 1400 })
			b.host.IP("link set eth1 mtu 1500")
			within(t, 5*time.Second, "the container has its MTU again", func() bool { return strings.Contains(state(c), "mtu 1500") })
			b.host.IP("link set eth1 address 02:00:00:00:00:77")
			if !pings(peer, "192.168.0.2") {
				t.Error("not reached after another MAC address")
			}
			if kind == "ipvlan" {
				within(t, 5*time.Second, "the LAN knows the new MAC address", func() bool {
					return strings.Contains(peer.IP("neigh show 192.168.0.2"), "02:00:00:00:00:77")
				})
			}
			b.host.IP("link set eth1 down")
			b.host.IP("link set eth1 name lan0")
			b.host.IP("link set lan0 up")
			within(t, 5*time.Second, "it is said", func() bool { return strings.Contains(b.Networks()[0].Problem, "lan0 was eth1") })
			b.onLAN("net1", "ep2", 3)
			if !pings(peer, "192.168.0.2") || !pings(peer, "192.168.0.3") {
				t.Error("not reached under the parent's new name")
			}
			for _, a := range b.ipam.Pools() {
				if a.Conflicts != 0 {
					t.Errorf("our own containers are taken for others: %+v", a)
				}
			}
		})
	}
}

// BenchmarkParentComesBack is the time from an interface's return until the last of 100
// containers has its link, address and routes again.
func BenchmarkParentComesBack(b *testing.B) {
	h, peer := newBench(b), kerneltest.New(b)
	h.host.IP("link del eth1")
	h.wire(peer)
	h.runs()
	if err := h.CreateNetwork(ctx, lanRequest("net1", "parent=eth1")); err != nil {
		b.Fatal(err)
	}
	const count = 100
	for i := range count {
		h.onLAN("net1", fmt.Sprintf("ep%d", i), i+2)
	}
	done := func() (n int) {
		for _, what := range h.events() {
			if what == ipam.EventParentBack {
				n++
			}
		}
		return n
	}
	for i := 0; b.Loop(); i++ {
		b.StopTimer()
		h.host.IP("link del eth1")
		within(b, 10*time.Second, "its loss is noted", func() bool { return len(h.Networks()[0].Problem) > 0 })
		b.StartTimer()
		h.wire(peer)
		for done() <= i {
			time.Sleep(time.Millisecond)
		}
	}
}

// A container that asks for a lease has the network's parent looked for, while somebody
// removes the network.
func TestDeleteWhileAContainerAsks(t *testing.T) {
	for _, deleteFirst := range []bool{true, false} {
		b := newBench(t)
		r := request("net1", "parent=eth1", "source=dhcp", "subnet=192.168.0.0/16", "dhcp_timeout=1s")
		r.IPv4, r.WantIPv4 = nil, false
		if err := b.CreateNetwork(ctx, r); err != nil {
			t.Fatal(err)
		}
		b.host.IP("link del eth1")
		b.ipam.Unwire("eth1") // as when its probe link has gone
		done := make(chan error, 2)
		ask := func() {
			_, err := b.AddEndpoint(ctx, EndpointRequest{NetworkID: "net1", EndpointID: "ep1"})
			if err == nil {
				err = errors.New("an address without a parent")
			} else {
				err = nil
			}
			done <- err
		}
		remove := func() { done <- b.DeleteNetwork(ctx, "net1") }
		order := []func(){ask, remove}
		if deleteFirst {
			order = []func(){remove, ask}
		}
		b.making.Lock()
		for _, do := range order {
			go do()
			time.Sleep(100 * time.Millisecond)
		}
		b.making.Unlock()
		for range order {
			select {
			case err := <-done:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(10 * time.Second):
				t.Fatal("both wait for each other")
			}
		}
	}
}

// The parent has no carrier for a while after it is back, as every card while it negotiates.
func TestParentComesBackWithoutCarrier(t *testing.T) {
	for _, away := range []bool{false, true} {
		b, peer := newBench(t), kerneltest.New(t)
		b.host.IP("link del eth1")
		b.wire(peer)
		stop := b.runs()
		if err := b.CreateNetwork(ctx, lanRequest("net1", "parent=eth1")); err != nil {
			t.Fatal(err)
		}
		c := b.onLAN("net1", "ep1", 2)
		c.IP("route add default via 192.168.0.1")
		if !away {
			c.IP("-6 route add default via fd00::1")
		}
		b.surveyed("ep1")
		before := state(c)
		if away {
			stop()
		}
		b.host.IP("link del eth1")
		b.host.IP("link add eth1 address 02:00:00:00:00:e1 type veth peer name wire netns %s", peer.Path())
		if away {
			b.restart()
			b.runs()
		}
		within(t, 5*time.Second, "it is back", func() bool { return slices.Contains(b.events(), ipam.EventParentBack) })
		time.Sleep(500 * time.Millisecond)
		peer.IP("addr add 192.168.0.1/24 dev wire")
		peer.IP("addr add fd00::1/64 dev wire nodad")
		peer.IP("link set wire up")
		within(t, 5*time.Second, "all is as before", func() bool { return state(c) == before })
		if !pings(c, "192.168.0.1") || !pings(c, "fd00::1") {
			t.Error("the container does not reach its gateway")
		}
	}
}
