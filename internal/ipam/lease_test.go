package ipam_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/e2e/dhcpserver"
	"github.com/lanyard-net/lanyard/internal/ipam"
)

// A container's life with addresses of both families, with each server.
func TestLeasedContainer(t *testing.T) {
	withEach(t, func(t *testing.T, kind dhcpserver.Kind) {
		s := newSite(t, kind, nil)
		s.network("n1", true, true)
		web := s.run("n1", "web")
		for i, v6 := range []bool{false, true} {
			l := web.lease(v6)
			if l.State != ipam.LeaseBound || l.Address != web.addrs[i].Addr() || l.Container != "web" {
				t.Errorf("lease of %s: %+v", web.addrs[i], l)
			}
			if _, err := s.RenewLease(ctx, l.ID); err != nil {
				t.Error(err)
			}
		}
		old := web.addrs
		web.stop()
		web = s.run("n1", "web")
		if web.addrs[0] != old[0] || web.addrs[1] != old[1] {
			t.Errorf("after a restart %s, was %s", web.addrs, old)
		}
	})
}

// The address that somebody has is the one that is said to be declined, and not the one
// that the container had before, or has in the end.
func TestDeclined(t *testing.T) {
	t.Parallel()
	s := newSite(t, dhcpserver.Kea, nil) // which gives the first address that it thinks is free
	theirs := s.squat(addr("10.9.0.100"))
	s.network("n1", true, false)
	web := s.run("n1", "web")
	if web.addrs[0].Addr() != addr("10.9.0.101") {
		t.Errorf("got %s", web.addrs[0])
	}
	got := s.told(ipam.EventDeclined)
	if len(got) != 1 || got[0].Address != addr("10.9.0.100") || got[0].Server != addr("10.9.0.1") || !strings.Contains(got[0].Text, theirs) {
		t.Errorf("events: %+v", got)
	}
}

// A user's host name comes later than the address, and goes with the network's domain. The
// server is told of it when the container can ask, however long that takes.
func TestHostnameOption(t *testing.T) {
	t.Parallel()
	s := newSite(t, dhcpserver.Dnsmasq, nil)
	s.network("n1", true, true, "dhcp_domain=site.example", "dhcp_vendor_class=ours", "dhcp_user_class=front,web")
	s.opts.Hostname, s.late = "shop", 3*time.Second
	web := s.run("n1", "web")
	for _, v6 := range []bool{false, true} {
		l := web.lease(v6)
		if l.Hostname != "shop" || l.FQDN != "shop.site.example" || l.VendorClass != "ours" || !slices.Equal(l.UserClass, []string{"front", "web"}) || (l.IAID == 1) != v6 {
			t.Errorf("told %+v", l)
		}
	}
	s.within(20*time.Second, "the server is told", func() bool {
		all, err := s.server.Leases(ctx)
		return err == nil && len(all) == 2 && all[0].Host == "shop" && all[1].Host == "shop"
	})
	web.stop()
	s.opts.Hostname, s.late = "", 0
	web = s.run("n1", "web")
	if l := web.lease(false); l.Hostname != "web" || l.FQDN != "web.site.example" {
		t.Errorf("told %q and %q after a restart without the option", l.Hostname, l.FQDN)
	}
}

// move6 moves the pool of DHCPv6 addresses to another subnet.
func move6(c *dhcpserver.Config) {
	c.Addrs = []netip.Prefix{prefix("10.9.0.1/24"), prefix("fd00:a::1/64")}
	c.V6 = &dhcpserver.Pool{Subnet: prefix("fd00:a::/64"), From: addr("fd00:a::100"), To: addr("fd00:a::1ff")}
}

// A DHCPv6 server that replaces an address while its container is away: Docker is told the
// new one, and it is looked for on the wire as any other.
func TestReplacedWhileAway6(t *testing.T) {
	withEach(t, func(t *testing.T, kind dhcpserver.Kind) {
		s := newSite(t, kind, nil)
		s.network("n1", false, true)
		web := s.run("n1", "web")
		old := web.addrs[0].Addr()
		web.stop()
		s.reconfigure(move6)
		first := addr("fd00:a::100")
		theirs := ""
		if kind == dhcpserver.Kea { // the first one that it gives
			theirs = s.squat(first)
		}
		web = s.run("n1", "web")
		now := web.addrs[0].Addr()
		if !prefix("fd00:a::/64").Contains(now) || kind == dhcpserver.Kea && now == first {
			t.Errorf("got %s", now)
		}
		if l := web.lease(true); l.Address != now || l.Told.IsValid() || l.State != ipam.LeaseBound {
			t.Errorf("lease %+v", l)
		}
		if !slices.ContainsFunc(must(s.server.Leases(ctx)), func(l dhcpserver.Lease) bool { return l.Addr == now && !l.Declined }) {
			t.Errorf("the server has no lease of %s", now)
		}
		got := s.told(ipam.EventAcquired)
		if len(got) != 2 || got[1].Address != now || !strings.Contains(got[1].Text, old.String()) {
			t.Errorf("acquired: %+v", got)
		}
		declined := s.told(ipam.EventDeclined)
		if kind == dhcpserver.Kea && (len(declined) != 1 || declined[0].Address != first || !strings.Contains(declined[0].Text, theirs)) {
			t.Errorf("declined: %+v", declined)
		}
		// Nobody of ours has the old one any more.
		for _, a := range must(s.Addresses()) {
			if a.Address == old {
				t.Errorf("address %+v", a)
			}
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A device that takes a leased address later, and does not let go when that is defended:
// the container has another address within 30 s, and is no rival of its own then.
func TestRivalled(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name string
		kind dhcpserver.Kind
		v6   bool
	}{{"web", dhcpserver.Dnsmasq, false}, {"", dhcpserver.Kea, false}, {"web", dhcpserver.Dnsmasq, true}, {"", dhcpserver.Kea, true}} {
		t.Run(string(tc.kind)+map[bool]string{true: "6"}[tc.v6], func(t *testing.T) {
			t.Parallel()
			s := newSite(t, tc.kind, nil)
			s.network("n1", true, true)
			web := s.run("n1", tc.name)
			old := web.lease(tc.v6)
			begun := time.Now()
			theirs := s.squat(old.Address)
			s.within(30*time.Second, "another address", func() bool {
				l := web.lease(tc.v6)
				return l.State == ipam.LeaseBound && l.Address != old.Address && web.has(l.Address) && !web.has(old.Address)
			})
			t.Logf("left after %s", time.Since(begun).Round(100*time.Millisecond))
			l := web.lease(tc.v6)
			if l.Told != old.Address {
				t.Errorf("Docker was told %s, and it is said to be %s", old.Address, l.Told)
			}
			if log := s.server.Log(ctx); !strings.Contains(log, "DECLINE") {
				t.Error("the server heard of no DECLINE")
			}
			if _, err := s.RenewLease(ctx, l.ID); err != nil {
				t.Errorf("renewal: %v", err)
			}
			if !tc.v6 { // of DHCPv6 it announces its address, and has no route
				web.Talk("10.9.0.1")
			}
			time.Sleep(3 * time.Second)
			for _, want := range []struct {
				what, text string
				addr       netip.Addr
			}{{ipam.EventLost, theirs, old.Address}, {ipam.EventDeclined, theirs, old.Address}, {ipam.EventChanged, "address", l.Address}} {
				if got := s.told(want.what); len(got) != 1 || got[0].Address != want.addr || !strings.Contains(got[0].Text, want.text) {
					t.Errorf("%s: %+v", want.what, got)
				}
			}
			if log := s.log.String(); strings.Count(log, "address conflict: another device") != 1 {
				t.Error("another conflict")
			}
		})
	}
}
