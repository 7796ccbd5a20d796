package ipam_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/e2e/dhcpserver"
	"github.com/lanyard-net/lanyard/internal/ipam"
)

// Containers that come back have their addresses again: of engines that say names and of
// those that do not, whether they were stopped or went with their engine without a word.
func TestComesBack(t *testing.T) {
	for _, names := range []bool{true, false} {
		t.Run(map[bool]string{true: "named", false: "nameless"}[names], func(t *testing.T) {
			t.Parallel()
			s := newSite(t, dhcpserver.Dnsmasq, nil)
			s.network("n1", true, true, "release=stop")
			s.network("n2", true, false, "release=never")
			run := func(network, name string) *box {
				if !names {
					name = ""
				}
				return s.run(network, name)
			}
			mail, web, db := run("n2", "mail"), run("n1", "web"), run("n1", "db")
			mail.stop() // of longer ago than the others' end, but later than their start
			time.Sleep(20 * time.Millisecond)
			other := run("n1", "other")
			for _, b := range []*box{web, db, other} {
				b.crash()
			}
			time.Sleep(1100 * time.Millisecond) // what was seen of sandboxes is old by then
			had := map[netip.Addr]bool{}
			for _, b := range []*box{web, db, other} {
				had[b.addrs[0].Addr()], had[b.addrs[1].Addr()] = true, true
			}
			before := len(s.Leases())
			for _, name := range []string{"other", "db", "web"} {
				b := run("n1", name)
				if names {
					old := map[string]*box{"other": other, "db": db, "web": web}[name]
					if b.addrs[0] != old.addrs[0] || b.addrs[1] != old.addrs[1] {
						t.Errorf("%s has %s, and had %s", name, b.addrs, old.addrs)
					}
				}
				delete(had, b.addrs[1].Addr())
				delete(had, b.addrs[0].Addr())
			}
			// Without names the one that was stopped last is thought to be the first to come.
			if left := len(had); names && left > 0 || !names && left > 1 {
				t.Errorf("addresses that are nobody's now: %v", had)
			}
			if now := len(s.Leases()); now != before {
				t.Errorf("%d leases, %d before", now, before)
			}
			// What the engine finds out later takes nothing from anybody.
			s.within(5*time.Second, "the engine has cleaned up", func() bool { return len(s.engine.Endpoints()) == 3 })
			if log := s.server.Log(ctx); strings.Contains(log, "DHCPRELEASE") {
				t.Error("a lease of a container that runs was given back")
			}
			for _, l := range s.Leases() {
				if l.State == ipam.LeaseBound && l.Endpoint == "" {
					t.Errorf("nobody has %+v", l)
				}
			}
		})
	}
}

// One container on two networks of a wire has an address of its own on each.
func TestTwoNetworksOfAWire(t *testing.T) {
	t.Parallel()
	for _, kind := range []dhcpserver.Kind{dhcpserver.Dnsmasq, dhcpserver.Kea} {
		s := newSite(t, kind, nil)
		s.network("n1", true, true)
		s.network("n2", true, true)
		one, two := s.run("n1", "web"), s.run("n2", "web")
		for i := range 2 {
			if one.addrs[i] == two.addrs[i] {
				t.Errorf("%s: %s twice", kind, one.addrs[i])
			}
		}
		if got := s.told(ipam.EventDeclined); len(got) > 0 {
			t.Errorf("%s: declined: %+v", kind, got)
		}
		one.stop()
		two.stop()
		for _, old := range []*box{two, one} {
			if now := s.run(old.network, "web"); now.addrs[0] != old.addrs[0] || now.addrs[1] != old.addrs[1] {
				t.Errorf("%s: on %s it has %s, and had %s", kind, old.network, now.addrs, old.addrs)
			}
		}
	}
}

// A container that is started anew while no server answers a renewal of its lease: the
// renewal is cut short, and the lease is the container's again.
func TestRestartWhileRenewing(t *testing.T) {
	for _, name := range []string{"web", ""} {
		t.Run("name "+name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, dhcpserver.Dnsmasq, nil)
			s.network("n1", true, true)
			web := s.run("n1", name)
			s.must(s.server.Stop(ctx))
			done := make(chan error)
			for _, v6 := range []bool{false, true} {
				l := web.lease(v6)
				go func() {
					_, err := s.RenewLease(ctx, l.ID)
					done <- err
				}()
			}
			time.Sleep(200 * time.Millisecond)
			begun := time.Now()
			web.stop()
			again := s.run("n1", name)
			for range 2 {
				if err := <-done; err == nil || !strings.Contains(err.Error(), "the container has ended") {
					t.Error(err)
				}
			}
			if again.addrs[0] != web.addrs[0] || again.addrs[1] != web.addrs[1] {
				t.Errorf("it has %s, and had %s", again.addrs, web.addrs)
			}
			if n := len(s.told(ipam.EventReused)); n != 2 {
				t.Errorf("%d leases reused", n)
			}
			t.Logf("took %s", time.Since(begun))
			if got := s.told(ipam.EventUnanswered); len(got) > 0 {
				t.Errorf("unanswered: %+v", got)
			}
		})
	}
}

// An address that the server gives to a container's successor is not given back when the
// first one's time is over.
func TestSuccessor(t *testing.T) {
	t.Parallel()
	s := newSite(t, dhcpserver.Dnsmasq, nil)
	s.network("n1", true, false, "identity=none", "grace=1s")
	web := s.run("n1", "web")
	web.stop()
	now := s.run("n1", "web")
	if now.addrs[0] != web.addrs[0] {
		t.Fatalf("got %s, and had %s", now.addrs, web.addrs) // the server's choice
	}
	time.Sleep(3 * time.Second)
	if log := s.server.Log(ctx); strings.Contains(log, "DHCPRELEASE") {
		t.Error("the address of a container that runs was given back")
	}
	if l := now.lease(false); l.State != ipam.LeaseBound {
		t.Errorf("lease %+v", l)
	}
}

// The parent of a network of DHCPv6 alone is removed and made anew.
func TestParentComesBack6(t *testing.T) {
	t.Parallel()
	s := newSite(t, dhcpserver.Dnsmasq, nil)
	s.network("n1", false, true, "acd=off")
	s.run("n1", "web")
	s.host.IP("link del eth1")
	s.within(5*time.Second, "noticed", func() bool { return strings.Contains(s.log.String(), "link is gone") })
	if _, err := s.tryRun("n1", "db"); err == nil || !strings.Contains(err.Error(), "parent eth1") {
		t.Errorf("without a parent: %v", err)
	}
	s.host.IP("link add eth1 type veth peer name lan0 netns %s", s.far.Path())
	s.host.IP("link set eth1 up")
	s.reconfigure(func(*dhcpserver.Config) {})
	s.run("n1", "db")
}

// A network whose server is gone is removed all the same, and soon.
func TestNetworkGoesWithoutServer(t *testing.T) {
	t.Parallel()
	s := newSite(t, dhcpserver.Dnsmasq, nil)
	s.network("n1", false, true, "acd=off")
	var boxes []*box
	for _, name := range []string{"a", "b", "c", "d"} {
		boxes = append(boxes, s.run("n1", name))
	}
	for _, b := range boxes {
		b.stop()
	}
	s.must(s.server.Stop(ctx))
	begun := time.Now()
	s.must(s.engine.DeleteNetwork(ctx, "n1"))
	if took := time.Since(begun); took > 2500*time.Millisecond {
		t.Errorf("took %s", took)
	}
	if got := s.told(ipam.EventReleased); len(got) != len(boxes) {
		t.Errorf("released: %+v", got)
	}
}

// What cannot be on a wire leaves alone what can: here is no IPv6.
func TestNoIPv6BesideDHCP(t *testing.T) {
	t.Parallel()
	s := newSite(t, dhcpserver.Dnsmasq, nil)
	s.host.IP("link set eth1 mtu 1200")
	s.network("n4", true, false)
	s.run("n4", "web")
	s.network("n6", false, true)
	begun := time.Now()
	for range 2 {
		if _, err := s.tryRun("n6", "db"); err == nil || !strings.Contains(err.Error(), "no IPv6 on lyp-") {
			t.Errorf("without IPv6: %v", err)
		}
		s.run("n4", "")
	}
	if n := strings.Count(s.log.String(), "conflict detection or DHCP cannot be"); n != 1 {
		t.Errorf("tried %d times in %s", n, time.Since(begun))
	}
	if p := s.Pools()[0]; p.ACD != "on" {
		t.Errorf("pool %+v", p)
	}
}
