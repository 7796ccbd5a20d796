package dhcp

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/packet"
)

// server4 is one of the real servers, with what a test needs to know of its ways.
type server4 struct {
	name string
	// start runs it with the addresses from 10.9.0.<from> to <to>.
	start func(l *lab4, from, to int) *program
	// released and declined are what it says of an address, %s.
	released, declined string
}

func servers4() []server4 {
	return []server4{{
		"dnsmasq",
		func(l *lab4, from, to int) *program {
			return l.dnsmasq(fmt.Sprintf("--dhcp-range=10.9.0.%d,10.9.0.%d,255.255.255.0,1h", from, to))
		},
		"DHCPRELEASE(eth0) %s", "DHCPDECLINE(eth0) %s",
	}, {
		"kea",
		func(l *lab4, from, to int) *program {
			return l.kea(object4{"pools": []object4{{"pool": fmt.Sprintf("10.9.0.%d - 10.9.0.%d", from, to)}}}, nil)
		},
		"address %s was released properly", "DHCP4_DECLINE_LEASE Received DHCPDECLINE for addr %s",
	}}
}

// each4 runs a test against each of the real servers.
func each4(t *testing.T, test func(t *testing.T, l *lab4, s server4)) { eachIn4(t, newLab4, test) }

func eachIn4(t *testing.T, lab func(testing.TB) *lab4, test func(t *testing.T, l *lab4, s server4)) {
	for _, s := range servers4() {
		t.Run(s.name, func(t *testing.T) { test(t, lab(t), s) })
	}
}

func TestLife4(t *testing.T) {
	each4(t, func(t *testing.T, l *lab4, s server4) {
		p := s.start(l, 100, 199)
		a := Ask{Client: client4(1), Subnet: prefix4("10.9.0.0/24")}
		begin := time.Now()
		lease := l.must(a)
		t.Logf("acquired in %v", time.Since(begin).Round(100*time.Microsecond))
		want := &lan.Lease{
			Addr: lease.Addr, Server: addr4(farAddr), Via: lease.Via, Gateway: addr4(farAddr),
			Renew: 30 * time.Minute, Rebind: 52*time.Minute + 30*time.Second, Life: time.Hour,
		}
		if diff := cmp.Diff(want, lease, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.IgnoreFields(lan.Lease{}, "Asked")); diff != "" {
			t.Errorf("lease (-want +got):\n%s", diff)
		}
		if !prefix4("10.9.0.0/24").Contains(lease.Addr.Addr()) || lease.Addr.Bits() != 24 {
			t.Errorf("address %s", lease.Addr)
		}
		if via := l.far.IP("-br link show eth0"); !strings.Contains(via, lease.Via) {
			t.Errorf("answered by %s, want that of\n%s", lease.Via, via)
		}
		if lease.Asked.Before(begin) || lease.Asked.After(time.Now()) {
			t.Errorf("asked at %v, began at %v", lease.Asked, begin)
		}
		if again := l.must(a); again.Addr != lease.Addr {
			t.Errorf("%s at first, then %s", lease.Addr, again.Addr)
		}

		a.Addr = lease.Addr.Addr()
		begin = time.Now()
		same, err := l.reboot(a)
		if err != nil || same.Addr != lease.Addr {
			t.Fatalf("reboot: %v %v", same, err)
		}
		t.Logf("rebooted in %v", time.Since(begin).Round(100*time.Microsecond))

		box := l.container(a.Client, lease)
		for _, rebind := range []bool{false, true} {
			begin := time.Now()
			renewed, err := renew4(box, a, lease, rebind, 5*time.Second)
			if err != nil {
				t.Fatalf("renew, rebind %t: %v", rebind, err)
			}
			t.Logf("renewed in %v, rebind %t", time.Since(begin).Round(100*time.Microsecond), rebind)
			// dnsmasq has clients that began together renew at different times.
			if diff := cmp.Diff(lease, renewed, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.IgnoreFields(lan.Lease{}, "Asked", "Renew", "Rebind")); diff != "" {
				t.Errorf("renewed, rebind %t (-had +got):\n%s", rebind, diff)
			}
		}

		if err := l.wire.Release(a.Client, lease); err != nil {
			t.Fatal(err)
		}
		soon4(t, "the server sees the release", func() bool { return strings.Contains(p.said(), fmt.Sprintf(s.released, a.Addr)) })
		if s.name == "dnsmasq" && strings.Contains(p.leases(), a.Addr.String()) {
			t.Errorf("released, and in the lease file:\n%s", p.leases())
		}
	})
}

func TestDecline4(t *testing.T) {
	each4(t, func(t *testing.T, l *lab4, s server4) {
		p := s.start(l, 100, 120)
		a := Ask{Client: client4(1)}
		lease := l.must(a)
		if err := l.wire.Decline(a.Client, lease, "used by 02:00:00:00:00:01"); err != nil {
			t.Fatal(err)
		}
		soon4(t, "the server sees that it is declined", func() bool { return strings.Contains(p.said(), fmt.Sprintf(s.declined, lease.Addr.Addr())) })
		if again := l.must(a); again.Addr == lease.Addr {
			t.Errorf("%s was declined, and given again", lease.Addr)
		}
	})
}

func TestManyAtOnce4(t *testing.T) {
	each4(t, func(t *testing.T, l *lab4, s server4) {
		s.start(l, 100, 199)
		const many = 50
		leases := make([]*lan.Lease, many)
		var all sync.WaitGroup
		begin := time.Now()
		for i := range many {
			all.Go(func() {
				var err error
				if leases[i], err = l.acquire(Ask{Client: client4(i)}); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		t.Logf("%d acquired in %v", many, time.Since(begin).Round(time.Millisecond))
		seen := map[netip.Prefix]bool{}
		for _, lease := range leases {
			if lease == nil || seen[lease.Addr] {
				t.Fatalf("no lease, or one that is another's: %v", lease)
			}
			seen[lease.Addr] = true
		}
	})
}

func TestRequestedAddress4(t *testing.T) {
	each4(t, func(t *testing.T, l *lab4, s server4) {
		s.start(l, 100, 199)
		want := addr4("10.9.0.150")
		if lease := l.must(Ask{Client: client4(1), Addr: want, Only: true}); lease.Addr.Addr() != want {
			t.Errorf("asked for %s, got %s", want, lease.Addr)
		}
		// It is another's now: any will do, or none.
		if lease := l.must(Ask{Client: client4(2), Addr: want}); lease.Addr.Addr() == want {
			t.Errorf("%s was given twice", want)
		}
		_, err := l.wire.Acquire(within4(t, 300*time.Millisecond), Ask{Client: client4(2), Addr: want, Only: true})
		heardOnly(t, err, "only 10.9.0.150 will do")
	})
}

// heardOnly fails unless an error is a silence of which each line has a text.
func heardOnly(t *testing.T, err error, text string) {
	t.Helper()
	var silence *SilenceError
	if !errors.As(err, &silence) || len(silence.Heard) == 0 {
		t.Errorf("got %v, want a silence with %q", err, text)
		return
	}
	for _, line := range silence.Heard {
		if !strings.Contains(line, text) {
			t.Errorf("heard %q, want %q in it", line, text)
		}
	}
}

// A client for which an address is kept, by its MAC address or its identifier.
func TestReservations4(t *testing.T) {
	byMAC, byID := client4(7), client4(8)
	byMAC.ID = nil
	id := "ff:00:00:00:01:00:04:00:08"
	for name, start := range map[string]func(l *lab4){
		"dnsmasq": func(l *lab4) {
			l.dnsmasq(range4, "--dhcp-host="+byMAC.MAC.String()+",10.9.0.77", "--dhcp-host=id:"+id+",10.9.0.78")
		},
		"kea": func(l *lab4) {
			l.kea(object4{"reservations": []object4{
				{"hw-address": byMAC.MAC.String(), "ip-address": "10.9.0.77"}, {"client-id": id, "ip-address": "10.9.0.78"},
			}}, object4{"host-reservation-identifiers": []string{"hw-address", "client-id"}})
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab4(t)
			start(l)
			for want, c := range map[string]Client{"10.9.0.77/24": byMAC, "10.9.0.78/24": byID} {
				if lease := l.must(Ask{Client: c}); lease.Addr != prefix4(want) {
					t.Errorf("%s got %s, want %s", c.MAC, lease.Addr, want)
				}
			}
		})
	}
}

func TestNames4(t *testing.T) {
	l := newLab4(t)
	p := l.dnsmasq(range4, "--domain=example.org", "--dhcp-vendorclass=set:ours,lanyard", "--dhcp-userclass=set:mine,blue", "--dhcp-option=tag:ours,tag:mine,option:ntp-server,10.9.0.9")
	one, two := client4(1), client4(2)
	one.Hostname, one.VendorClass, one.UserClass = "web", "lanyard", []string{"blue", "green"}
	two.Hostname, two.FQDN = "db-short", "db.example.org"
	lease := l.must(Ask{Client: one})
	if len(lease.NTP) != 1 {
		t.Errorf("the classes were not seen: %+v\n%s", lease, p.said())
	}
	if lease.Domain != "example.org" || lease.Hostname != "web" {
		t.Errorf("domain %q, host name %q", lease.Domain, lease.Hostname)
	}
	l.must(Ask{Client: two})
	for _, want := range []string{" web ff:00:00:00:01:00:04:00:01", " db ff:00:00:00:01:00:04:00:02"} {
		if !strings.Contains(p.leases(), want) {
			t.Errorf("no %q in the lease file:\n%s", want, p.leases())
		}
	}
}

func TestPoolMoved4(t *testing.T) {
	each4(t, func(t *testing.T, l *lab4, s server4) {
		p := s.start(l, 100, 120)
		a := Ask{Client: client4(1)}
		lease := l.must(a)
		a.Addr = lease.Addr.Addr()
		box := l.container(a.Client, lease)
		p.stop()
		l.far.IP("addr flush dev eth0")
		l.far.IP("addr add %s/16 dev eth0", farAddr)
		if s.name == "dnsmasq" {
			l.dnsmasq("--dhcp-range=10.9.7.100,10.9.7.120,255.255.255.0,1h", "--dhcp-range=10.9.0.200,10.9.0.210,255.255.255.0,1h")
		} else {
			s.start(l, 200, 210)
		}

		_, err := l.reboot(a)
		var nak *NakError
		if !errors.As(err, &nak) || nak.Server != addr4(farAddr) {
			t.Errorf("reboot: %v, want a refusal", err)
		}
		t.Log(err)
		if s.name == "kea" { // says nothing to who has an address that it does not know
			var silence *SilenceError
			if _, err = renew4(box, a, lease, false, 300*time.Millisecond); !errors.As(err, &silence) {
				t.Errorf("renew: %v, want silence", err)
			}
			return
		}
		if _, err = renew4(box, a, lease, false, 5*time.Second); !errors.As(err, &nak) {
			t.Errorf("renew: %v, want a refusal", err)
		}
	})
}

// The server comes back with another address, which only a rebind finds.
func TestRebind4(t *testing.T) {
	l := newLab4(t)
	p := l.dnsmasq(range4)
	a := Ask{Client: client4(1)}
	lease := l.must(a)
	p.stop()
	l.far.IP("addr flush dev eth0")
	l.far.IP("addr add 10.9.0.2/24 dev eth0")
	box := l.container(a.Client, lease)
	_, err := renew4(box, a, lease, false, 700*time.Millisecond)
	var silence *SilenceError
	if !errors.As(err, &silence) || silence.Sent != "2 DHCPREQUEST" {
		t.Errorf("renew with the server gone: %v", err)
	}
	l.dnsmasq(range4)
	renewed, err := renew4(box, a, lease, true, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if renewed.Addr != lease.Addr || renewed.Server != addr4("10.9.0.2") || !renewed.SameConfig(lease) == (renewed.Gateway == lease.Gateway) {
		t.Errorf("had %+v, got %+v", lease, renewed)
	}
}

func TestRenewFails4(t *testing.T) {
	l := newLab4(t)
	c := client4(1)
	lease := &lan.Lease{Addr: prefix4("10.9.0.50/24"), Server: addr4("10.8.0.1"), Life: time.Hour}
	box := l.container(c, lease)
	// Where there is no route the link is taken for one.
	_, err := renew4(box, Ask{Client: c}, lease, false, 300*time.Millisecond)
	var silence *SilenceError
	if !errors.As(err, &silence) {
		t.Errorf("server that is nowhere: %v", err)
	}
	lease.Addr = prefix4("10.9.0.51/24")
	if _, err := renew4(box, Ask{Client: c}, lease, false, 300*time.Millisecond); err == nil || !strings.Contains(err.Error(), "cannot assign requested address") {
		t.Errorf("address that is not the container's: %v", err)
	}
	lease.Addr = prefix4("10.9.0.50/24")
	if err := box.NS.Do(func() error { return exec.Command("ip", "link", "set", "c0", "down").Run() }); err != nil {
		t.Fatal(err)
	}
	if _, err := renew4(box, Ask{Client: c}, lease, false, 300*time.Millisecond); err == nil || !strings.Contains(err.Error(), "network is unreachable") {
		t.Errorf("link that is down: %v", err)
	}
	if err := box.NS.Do(func() error { return exec.Command("ip", "link", "del", "c0").Run() }); err != nil {
		t.Fatal(err)
	}
	if _, err := renew4(box, Ask{Client: c}, lease, false, 300*time.Millisecond); !errors.Is(err, packet.ErrLinkGone) {
		t.Errorf("link that is gone: %v", err)
	}
}

func TestRapidCommit4(t *testing.T) {
	l := newLab4(t)
	p := l.dnsmasq(range4, "--dhcp-rapid-commit")
	l.must(Ask{Client: client4(1), RapidCommit: true})
	if said := p.said(); strings.Contains(said, "DHCPOFFER") || strings.Contains(said, "DHCPREQUEST") || !strings.Contains(said, "DHCPACK") {
		t.Error("two round trips")
	}
	l.must(Ask{Client: client4(2)})
	if !strings.Contains(p.said(), "DHCPOFFER") {
		t.Error("one round trip, which was not asked for")
	}
	// What cannot be had is declined at once.
	a := Ask{Client: client4(3), RapidCommit: true}
	var refused netip.Addr
	a.Refuse = func(l *lan.Lease) string {
		if refused.IsValid() && l.Addr.Addr() != refused {
			return ""
		}
		refused = l.Addr.Addr()
		return "in use"
	}
	l.must(a)
	if !strings.Contains(p.said(), "DHCPDECLINE(eth0) "+refused.String()) {
		t.Errorf("%s was not declined", refused)
	}
}

// A server that knows nothing of one round trip.
func TestRapidCommitKea4(t *testing.T) {
	l := newLab4(t)
	l.kea(object4{}, nil)
	l.must(Ask{Client: client4(1), RapidCommit: true})
}

// The server is a container on the same parent. What Kea answers, to a MAC address that no
// container has yet, leaves through the parent.
func TestSiblingServer4(t *testing.T) {
	eachIn4(t, func(t testing.TB) *lab4 { return siblings4(t, macvlan) }, siblingServes4)
}

func siblingServes4(t *testing.T, l *lab4, s server4) {
	p := s.start(l, 100, 199)
	a := Ask{Client: l.client(1)}
	lease := l.must(a)
	if took := time.Since(lease.Asked); took > firstGap {
		t.Errorf("not at the first try, in %v", took)
	}
	a.Addr = lease.Addr.Addr()
	if _, err := l.reboot(a); err != nil {
		t.Error(err)
	}
	if _, err := renew4(l.container(a.Client, lease), a, lease, false, 5*time.Second); err != nil {
		t.Error(err)
	}
	if err := l.wire.Release(a.Client, lease); err != nil {
		t.Error(err)
	}
	soon4(t, "the sibling sees the release", func() bool { return strings.Contains(p.said(), fmt.Sprintf(s.released, a.Addr)) })
}

func TestOptions4(t *testing.T) {
	l := newLab4(t)
	l.dnsmasq(range4, "--dhcp-option=121,0.0.0.0/0,10.9.0.254,192.168.50.0/24,10.9.0.253,172.16.0.0/12,0.0.0.0", "--dhcp-option=option:mtu,1400",
		"--dhcp-option=option:dns-server,10.9.0.3,10.9.0.4", "--dhcp-option=option:ntp-server,10.9.0.5",
		"--dhcp-option=option:domain-search,a.example.org,b.example.org,example.org", "--dhcp-option=option:T1,600", "--dhcp-option=option:T2,1200")
	lease := l.must(Ask{Client: client4(1)})
	want := &lan.Lease{
		Addr: lease.Addr, Server: addr4(farAddr), Via: lease.Via, Gateway: addr4("10.9.0.254"),
		Routes: []lan.Route{{Dst: prefix4("172.16.0.0/12")}, {Dst: prefix4("192.168.50.0/24"), NextHop: addr4("10.9.0.253")}},
		MTU:    1400, DNS: []netip.Addr{addr4("10.9.0.3"), addr4("10.9.0.4")}, NTP: []netip.Addr{addr4("10.9.0.5")},
		Search: []string{"a.example.org", "b.example.org", "example.org"},
		Renew:  10 * time.Minute, Rebind: 20 * time.Minute, Life: time.Hour,
	}
	if diff := cmp.Diff(want, lease, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.IgnoreFields(lan.Lease{}, "Asked")); diff != "" {
		t.Errorf("lease (-want +got):\n%s", diff)
	}
}

// Slaves of an ipvlan parent share its MAC address, and are told apart by identifier.
func TestIpvlan4(t *testing.T) {
	kerneltest.Need(t, "ipvlan")
	lab := func(t testing.TB) *lab4 { return newLabOf4(t, ipvlan) }
	eachIn4(t, lab, func(t *testing.T, l *lab4, s server4) {
		s.start(l, 100, 199)
		leases := map[netip.Prefix]bool{}
		var mu sync.Mutex
		var both sync.WaitGroup
		for n := range 2 {
			both.Go(func() {
				lease, err := l.acquire(Ask{Client: l.client(n)})
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				leases[lease.Addr] = true
				mu.Unlock()
			})
		}
		both.Wait()
		if len(leases) != 2 {
			t.Fatalf("two clients have %v", leases)
		}
	})
}

func TestIpvlanSiblingServer4(t *testing.T) {
	kerneltest.Need(t, "ipvlan")
	eachIn4(t, func(t testing.TB) *lab4 { return siblings4(t, ipvlan) }, siblingServes4)
}

// In passthru mode the parent is the only way out.
func TestPassthru4(t *testing.T) {
	l := bareLab4(t)
	l.dnsmasq(range4)
	box := kerneltest.New(t)
	c := client4(1)
	l.host.IP("link add c0 link eth1 netns %s address %s type macvlan mode passthru", box.Path(), c.MAC)
	box.IP("link set c0 up")
	w := run4(t, Config{Probe: l.tap, Tap: l.tap})
	if _, err := w.Acquire(within4(t, 5*time.Second), Ask{Client: c}); err != nil {
		t.Error(err)
	}
}

func BenchmarkAcquire(b *testing.B) {
	for _, at := range []int{1, 50} {
		b.Run(fmt.Sprintf("%dAtOnce", at), func(b *testing.B) {
			l := newLab4(b)
			dir := b.TempDir()
			serve4(b, l.far, dir, "DHCP, IP range", "/usr/sbin/dnsmasq", "--conf-file=/dev/null", "--keep-in-foreground", "--log-facility=-",
				"--user=root", "--pid-file=", "--port=0", "--bind-interfaces", "--interface=eth0", "--dhcp-authoritative",
				"--dhcp-leasefile="+filepath.Join(dir, "leases"), "--no-ping", range4)
			clients := make(chan int, 100)
			for i := range cap(clients) {
				clients <- i
			}
			gate := make(chan struct{}, at)
			var all sync.WaitGroup
			for b.Loop() {
				gate <- struct{}{}
				n := <-clients
				all.Go(func() {
					if _, err := l.acquire(Ask{Client: client4(n)}); err != nil {
						b.Error(err)
					}
					clients <- n
					<-gate
				})
			}
			all.Wait()
		})
	}
}
