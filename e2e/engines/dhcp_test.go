//go:build lab

package engines

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/e2e/dhcpserver"
)

// The site's DHCP server is a machine of its own on the wire, 10.77.0.1, which leases
// 10.77.0.100 to 10.77.0.199.
const (
	site     = "10.77.0.0/16"
	siteOwn  = "10.77.0.1"
	fromDHCP = "docker network create -d lanyard --ipam-driver lanyard --ipam-opt source=dhcp -o parent=eth1 "
	nullDHCP = "docker network create -d lanyard --ipam-driver null -o source=dhcp -o parent=eth1 "
)

// leasing is a DHCP server on the wire.
func (u *user) leasing(change func(*dhcpserver.Config)) *dhcpserver.Server {
	u.t.Helper()
	s, _ := u.leasingApart(change)
	return s
}

// leasingApart is leasing for a server that ends before its test.
func (u *user) leasingApart(change func(*dhcpserver.Config)) (s *dhcpserver.Server, end func()) {
	u.t.Helper()
	ctx := context.Background() // also for what comes after the test
	dir := fmt.Sprintf("%s/dhcp-%d", u.t.TempDir(), time.Now().UnixNano())
	apart, err := dhcpserver.NewApart(ctx, u.Sh, dir, "wire")
	u.mustDo(err)
	ended := false
	end = func() {
		if ended {
			return
		}
		ended = true
		if s != nil {
			u.closed(s.Close(ctx))
		}
		u.closed(apart.Close(ctx))
	}
	u.t.Cleanup(func() {
		if u.t.Failed() && s != nil && !ended {
			u.t.Logf("the DHCP server's log:\n%s", tail(s.Log(ctx), 40))
		}
		end()
	})
	s, err = dhcpserver.Start(ctx, apart.Run, dir+"/server", siteConfig(change))
	u.mustDo(err)
	return s, end
}

func (u *user) closed(err error) {
	if err != nil {
		u.t.Error(err)
	}
}

// metrics are what lanyard tells Prometheus.
func (u *user) metrics() string {
	u.t.Helper()
	c := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", fmt.Sprintf("/proc/%d/root/run/lanyard/control.sock", u.LanyardPid()))
	}}}
	defer c.CloseIdleConnections()
	r, err := c.Get("http://lanyard/metrics")
	u.mustDo(err)
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	u.mustDo(err)
	return string(text)
}

func siteConfig(change func(*dhcpserver.Config)) dhcpserver.Config {
	c := dhcpserver.Config{
		Kind: dhcpserver.Dnsmasq, Link: dhcpserver.ApartLink, Addrs: []netip.Prefix{netip.MustParsePrefix(siteOwn + "/16")}, NoPing: true, Authoritative: true,
		V4:      &dhcpserver.Pool{Subnet: netip.MustParsePrefix(site), From: netip.MustParseAddr("10.77.0.100"), To: netip.MustParseAddr("10.77.0.199")},
		Routers: []netip.Addr{netip.MustParseAddr(siteOwn)}, DNS: []netip.Addr{netip.MustParseAddr("10.77.0.53")}, Domain: "site.example",
	}
	if change != nil {
		change(&c)
	}
	return c
}

// shortLeases are of 12 s, which dnsmasq does not give.
func shortLeases(c *dhcpserver.Config) {
	c.Kind, c.LeaseTime, c.Renew, c.Rebind = dhcpserver.Kea, 12*time.Second, 3*time.Second, 6*time.Second
}

// leasesOn are the leases that the server has of an address.
func leasesOn(s *dhcpserver.Server, u *user, addr string) []dhcpserver.Lease {
	u.t.Helper()
	all, err := s.Leases(u.t.Context())
	u.mustDo(err)
	return slices.DeleteFunc(all, func(l dhcpserver.Lease) bool { return l.Addr.String() != addr })
}

func TestDHCP(t *testing.T) {
	onEach(t, func(u *user) {
		for _, kind := range []dhcpserver.Kind{dhcpserver.Dnsmasq, dhcpserver.Kea} {
			s, end := u.leasingApart(func(c *dhcpserver.Config) { c.Kind = kind })
			u.sh(fromDHCP + "lan")
			before := u.logged()
			u.sh(run + "--name c1 --network lan busybox:lab")
			u.oneRequest(before)
			u.sh(run + "--name c2 --user 1000:1000 --cap-drop ALL --network lan busybox:lab")
			a1, a2 := u.addr("c1", "lan"), u.addr("c2", "lan")
			u.says("docker inspect c1 --format '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.Gateway}} {{.MacAddress}} {{.IPPrefixLen}}{{end}}'", "10.77.0.1", u.mac("c1"), " 16")
			u.says("docker exec c1 ip addr show eth0", a1+"/16")
			u.says("docker exec c1 ip route", "default via 10.77.0.1 dev eth0")
			u.says("docker exec c1 ping -c1 -W2 "+siteOwn, "1 packets received")
			u.says("docker exec c1 ping -c1 -W2 "+a2, "1 packets received")
			got := leasesOn(s, u, a1)
			if len(got) != 1 || got[0].MAC != u.mac("c1") {
				u.t.Errorf("%s: the server's leases of %s: %+v, want one for %s", kind, a1, got, u.mac("c1"))
			}
			if u.engine == "29" && (len(got) != 1 || got[0].Host != "c1") {
				u.t.Errorf("%s: the server does not know the host name: %+v", kind, got)
			}
			u.says("lanyard lease ls", a1, a2, "bound", siteOwn)
			// Both have a link eth0, and one runs as nobody in particular.
			u.says("lanyard lease renew "+a1, a1)
			u.says("lanyard lease renew "+a2, a2)
			u.says("lanyard lease inspect "+a1, "10.77.0.53", "site.example", "--dns", siteOwn)
			u.says("lanyard events --since 1m", "lease-acquired", "lease-renewed", a1, a2)
			if text := u.metrics(); !strings.Contains(text, `lanyard_leases{`) || !strings.Contains(text, `lanyard_events_total{`) {
				u.t.Errorf("metrics without leases:\n%s", text)
			}
			u.sh("docker rm -f c2")
			before = u.logged()
			u.sh("docker rm -f c1")
			u.oneRequest(before)
			u.sh("docker network rm lan")
			u.eventually("released with the network", func() string {
				if all, err := s.Leases(u.t.Context()); err != nil || len(all) > 0 {
					return fmt.Sprint(all, err)
				}
				return ""
			})
			end()
		}
	})
}

// logged is how long lanyard's log is, in bytes.
func (u *user) logged() int {
	u.t.Helper()
	log, err := os.ReadFile(u.LanyardLog())
	u.mustDo(err)
	return len(log)
}

// oneRequest checks that what Docker called since then, and what was logged for it, has one id,
// that no line of before has it, and that the container's events have it.
func (u *user) oneRequest(since int) {
	u.t.Helper()
	log, err := os.ReadFile(u.LanyardLog())
	u.mustDo(err)
	var id string
	for line := range strings.Lines(string(log[since:])) {
		_, its, has := strings.Cut(strings.TrimSpace(line), " request=")
		call := strings.Contains(line, " method=")
		if call && !has {
			u.t.Errorf("a call has no id: %s", line)
		}
		if call && id == "" {
			id = its
		}
		// What was done for an earlier command may end now.
		if has && its != id && (call || !strings.Contains(string(log[:since]), its)) {
			u.t.Errorf("what Docker called for one command has two ids:\n%s", log[since:])
			return
		}
	}
	if id == "" || strings.Contains(string(log[:since]), id) {
		u.t.Errorf("no id, or one that was there before: %q\n%s", id, log[since:])
	}
	u.says("lanyard events --filter request="+id, "endpoint-")
}

// A static network beside a leased one on the same parent: neither gives an address of
// the other's.
func TestDHCPBesideStatic(t *testing.T) {
	onNewest(t, func(u *user) {
		u.leasing(nil)
		u.sh("docker network create -d lanyard --ipam-driver lanyard --subnet 10.77.0.0/16 --ip-range 10.77.0.96/27 --gateway 10.77.0.1 -o parent=eth1 static")
		u.sh(fromDHCP + "--subnet 10.77.0.0/16 lan")
		var all []string
		for i := range 6 {
			for _, n := range []string{"static", "lan"} {
				name := fmt.Sprintf("%s-%d", n, i)
				u.sh(run + "--name " + name + " --network " + n + " busybox:lab")
				all = append(all, u.addr(name, n))
			}
		}
		slices.Sort(all)
		if twice := len(all) - len(slices.Compact(slices.Clone(all))); twice > 0 {
			u.t.Errorf("%d addresses twice: %v", twice, all)
		}
	})
}

// A MAC address of the user's gets what the server has for it.
func TestDHCPReservation(t *testing.T) {
	const mac, reserved = "02:00:00:00:77:01", "10.77.0.50"
	onEach(t, func(u *user) {
		s := u.leasing(func(c *dhcpserver.Config) {
			c.Reservations = []dhcpserver.Reservation{{MAC: mac, Addr: netip.MustParseAddr(reserved)}}
		})
		u.sh(nullDHCP + "lan")
		u.sh(run + "--name c1 --network lan --mac-address " + mac + " busybox:lab")
		if got := u.addr("c1", "lan"); got != reserved {
			u.t.Errorf("address %s, the server has %s for %s", got, reserved, mac)
		}
		u.says("docker inspect c1 --format '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{.Gateway}} {{.MacAddress}}{{end}}'", reserved+" 10.77.0.1 "+mac)
		u.says("docker exec c1 ip route", "default via 10.77.0.1 dev eth0")
		// The same again, after the container was away.
		u.sh("docker restart -t0 c1")
		if got := u.addr("c1", "lan"); got != reserved {
			u.t.Errorf("after a restart: %s", got)
		}
		u.sh(run + "--name c2 --network name=lan,driver-opt=identity=web,driver-opt=hostname=web busybox:lab")
		a := u.addr("c2", "lan")
		if got := leasesOn(s, u, a); len(got) != 1 || got[0].Host != "web" {
			u.t.Errorf("the server's leases of %s: %+v, want host name web", a, got)
		}
		u.sh("docker rm -f c2 && " + run + "--name c3 --network lan busybox:lab && " + run + "--name c4 --network name=lan,driver-opt=identity=web busybox:lab")
		if got := u.addr("c4", "lan"); got != a {
			u.t.Errorf("identity web had %s, and has %s", a, got)
		}
		u.sh("docker rm -f c1 c3 c4 && docker network rm lan")
		// With lanyard's IPAM driver Docker says the MAC address when the address is leased.
		u.sh(fromDHCP + "lan")
		u.fails(run+"--name c5 --network lan --mac-address "+mac+" busybox:lab", "gives MAC address "+mac+" the address "+reserved, "--ipam-driver null -o source=dhcp")
		u.sh("docker rm -f c5; " + run + "--name c6 --network lan --mac-address 02:00:00:00:77:02 busybox:lab")
		if got := leasesOn(s, u, u.addr("c6", "lan")); len(got) != 1 || got[0].MAC != "02:00:00:00:77:02" {
			u.t.Errorf("the server's lease: %+v", got)
		}
	})
}

func TestDHCPSilence(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh(fromDHCP + "-o dhcp_timeout=3s lan")
		start := time.Now()
		u.fails("docker run --rm --network lan busybox:lab true", "DHCP on eth1: no lease within 3s: sent", "DHCPDISCOVER, heard nothing", "try: tcpdump -eni eth1")
		if took := time.Since(start); took > 8*time.Second {
			u.t.Errorf("it took %s", took)
		}
		u.fails("docker network create -d lanyard --ipam-driver lanyard --ipam-opt source=dhcp lan2", "DHCP needs a wire")
		u.fails(fromDHCP+"--subnet 10.0.0.0/24 --ip-range 10.0.0.0/28 lan2", "the DHCP server chooses")
		u.fails("docker network create -d lanyard --ipam-driver lanyard --subnet 10.0.0.0/24 -o dhcp_server=10.0.0.1 -o parent=eth1 lan2", "are for networks whose addresses a DHCP server gives")
	})
}

// What a server changes at a renewal is changed in the container that runs.
func TestDHCPChange(t *testing.T) {
	onNewest(t, func(u *user) {
		s := u.leasing(shortLeases)
		u.sh(fromDHCP + "lan")
		u.sh(run + "--name c1 --network lan busybox:lab")
		first := u.addr("c1", "lan")
		time.Sleep(15 * time.Second)
		u.says("lanyard lease ls", first, "bound")
		u.says("docker exec c1 ip addr show eth0", first+"/16")
		// Another gateway, and a route.
		c := siteConfig(func(c *dhcpserver.Config) {
			shortLeases(c)
			c.Routers = []netip.Addr{netip.MustParseAddr("10.77.0.2")}
			c.MTU = 1400
		})
		u.mustDo(s.Reconfigure(u.t.Context(), c))
		u.eventually("another gateway", func() string {
			if out := u.sh("docker exec c1 ip route"); !strings.Contains(out, "default via 10.77.0.2") || strings.Contains(out, "10.77.0.1 ") {
				return out
			}
			return ""
		})
		u.says("docker exec c1 ip link show eth0", "mtu 1400")
		// The pool moves: the server refuses the address.
		c.V4.From, c.V4.To = netip.MustParseAddr("10.77.1.100"), netip.MustParseAddr("10.77.1.199")
		c.V4.Subnet = netip.MustParsePrefix("10.77.1.0/24")
		c.Addrs = []netip.Prefix{netip.MustParsePrefix("10.77.1.1/24")}
		c.Routers = []netip.Addr{netip.MustParseAddr("10.77.1.1")}
		u.mustDo(s.Reconfigure(u.t.Context(), c))
		u.eventually("another address", func() string {
			out := u.sh("docker exec c1 ip addr show eth0; docker exec c1 ip route")
			if !strings.Contains(out, "inet 10.77.1.1") || strings.Contains(out, first+"/") || !strings.Contains(out, "default via 10.77.1.1") {
				return out
			}
			return ""
		})
		u.says("docker exec c1 ping -c1 -W2 10.77.1.1", "1 packets received")
		u.says("lanyard lease ls", "10.77.1.1")
		u.says("lanyard endpoint ls", "10.77.1.1", first)
		u.sh("docker restart -t0 c1")
		if got := u.addr("c1", "lan"); !strings.HasPrefix(got, "10.77.1.1") {
			u.t.Errorf("after a restart: %s", got)
		}
		u.sh("docker network disconnect lan c1 && docker rm -f c1")
	})
}
