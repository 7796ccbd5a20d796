//go:build lab

package engines

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/e2e/dhcpserver"
)

// wants says what is wrong where a script does not print these words, for eventually.
func (u *user) wants(script string, words ...string) func() string {
	return func() string {
		out, err := u.try(script)
		if err != nil {
			return fmt.Sprint(out, err)
		}
		for _, w := range words {
			if !strings.Contains(out, w) {
				return fmt.Sprintf("no %q in %s", w, out)
			}
		}
		return ""
	}
}

const running = "docker inspect -f '{{.State.Running}} {{.State.Error}}' "

// Whatever ends and starts again, a container has the address that it had, and the server
// is asked for that one.
func TestDHCPRestarts(t *testing.T) {
	onEach(t, func(u *user) {
		s := u.leasing(nil)
		u.sh(fromDHCP + "lan")
		u.sh(run + "--name c1 --restart always --network lan busybox:lab")
		addr, mac := u.addr("c1", "lan"), u.mac("c1")
		same := func(when string) {
			u.t.Helper()
			u.eventually(when+": c1 runs", u.wants(running+"c1", "true"))
			if got := u.addr("c1", "lan"); got != addr || u.mac("c1") != mac {
				u.t.Errorf("%s: c1 has %s at %s, had %s at %s", when, got, u.mac("c1"), addr, mac)
			}
			u.says("docker exec c1 ip addr show eth0", addr+"/16")
			u.says("docker exec c1 ping -c1 -W2 "+siteOwn, "1 packets received")
			u.eventually(when+": the lease is bound", u.wants("lanyard lease ls --json", `"state": "bound"`, addr))
		}
		discovers := func() int { return strings.Count(s.Log(u.t.Context()), "DHCPDISCOVER") }
		before := discovers()
		u.sh("docker restart -t0 c1")
		same("after docker restart")
		u.mustDo(u.KillLanyard())
		u.mustDo(u.StartLanyard(context.Background()))
		same("after lanyard was killed")
		u.sh("docker restart -t0 c1")
		same("after lanyard was killed and docker restart")
		u.mustDo(u.StopDockerd())
		u.mustDo(u.StartDockerd(context.Background()))
		same("after a restart of dockerd")
		u.mustDo(u.KillDockerd())
		u.mustDo(u.KillLanyard())
		u.mustDo(u.StartLanyard(context.Background()))
		u.mustDo(u.StartDockerd(context.Background()))
		same("after both were killed")
		if now := discovers(); now != before {
			u.t.Errorf("%d DHCPDISCOVER for an address that c1 had, want none", now-before)
		}
		u.says("lanyard events --since 5m", "lease")
	})
}

// A host that starts before its DHCP server: containers that are to be restarted come up
// when it answers; others, and those of a docker run that failed, do not.
func TestDHCPServerIsLate(t *testing.T) {
	onEach(t, func(u *user) {
		_, end := u.leasingApart(nil)
		u.sh(fromDHCP + "-o dhcp_timeout=3s -o dhcp_fallback=none lan")
		u.sh(run + "--name always --restart always --network lan busybox:lab && " + run + "--name unless --restart unless-stopped --network lan busybox:lab && " +
			run + "--name never --network lan busybox:lab")
		addr := u.addr("always", "lan")
		u.mustDo(u.StopDockerd())
		end()
		u.mustDo(u.StartDockerd(context.Background()))
		u.eventually("no container starts without a server", u.wants(running+"always", "false", "no lease within"))
		u.fails(run+"--name first --restart always --network lan busybox:lab", "no lease within")
		u.leasing(nil)
		u.within(40*time.Second, "containers come up", func() string {
			return u.wants(running+"always", "true")() + u.wants(running+"unless", "true")()
		})
		u.says(running+"never", "false")
		u.says(running+"first", "false")
		if got := u.addr("always", "lan"); got != addr {
			u.t.Logf("always had %s, has %s from a server that has forgotten it", addr, got)
		}
		u.says("grep 'which had found no DHCP server' "+u.LanyardLog(), "always", "unless")
	})
}

// The server is silent: an address of a range of the network's own, or the last lease, and
// back to the server when it answers.
func TestDHCPFallback(t *testing.T) {
	onNewest(t, func(u *user) {
		_, end := u.leasingApart(nil)
		u.sh(fromDHCP + "--subnet 10.77.0.0/16 -o dhcp_timeout=4s -o dhcp_fallback=10.77.9.0/24 lan")
		u.sh(run + "--name c1 --network lan busybox:lab")
		had := u.addr("c1", "lan")
		end()
		u.sh("docker restart -t0 c1")
		if got := u.addr("c1", "lan"); got != had {
			u.t.Errorf("c1 had a lease of %s that has not ended, and has %s", had, got)
		}
		u.says("grep 'no DHCP server confirms a lease' "+u.LanyardLog(), had)
		u.sh(run + "--name c2 --network lan busybox:lab")
		fall := u.addr("c2", "lan")
		if !strings.HasPrefix(fall, "10.77.9.") {
			u.t.Errorf("c2 has %s, want one of dhcp_fallback", fall)
		}
		u.says("lanyard lease ls", fall, "fallback")
		u.says("docker exec c2 ping -c1 -W2 "+had, "1 packets received")
		u.leasing(nil)
		u.within(50*time.Second, "c2 gets a lease", func() string {
			out := u.sh("docker exec c2 ip addr show eth0; docker exec c2 ip route; lanyard lease ls")
			if !strings.Contains(out, "inet 10.77.0.1") || strings.Contains(out, fall) || strings.Contains(out, "fallback") || !strings.Contains(out, "default via "+siteOwn) {
				return out
			}
			return ""
		})
		u.says("docker exec c2 ping -c1 -W2 "+siteOwn, "1 packets received")
	})
}

// A server that is down when leases are to be renewed: the address stays to the lease's
// end, goes then, and comes back with the server.
func TestDHCPServerDown(t *testing.T) {
	onNewest(t, func(u *user) {
		s := u.leasing(shortLeases)
		u.sh(fromDHCP + "-o dhcp_timeout=3s lan")
		u.sh(run + "--name c1 --network lan busybox:lab")
		addr := u.addr("c1", "lan")
		u.mustDo(s.Stop(u.t.Context()))
		stopped := time.Now()
		u.within(15*time.Second, "a warning", u.wants("grep 'DHCP lease not renewed' "+u.LanyardLog(), addr))
		if time.Since(stopped) < 9*time.Second {
			u.says("docker exec c1 ip addr show eth0", addr+"/16")
			u.says("lanyard lease ls", addr)
		}
		u.within(25*time.Second, "the address goes with the lease", func() string {
			if out := u.sh("docker exec c1 ip addr show eth0"); strings.Contains(out, addr) {
				return out
			}
			return ""
		})
		u.says("lanyard lease ls", "lost")
		u.mustDo(s.Start(u.t.Context()))
		u.within(40*time.Second, "an address again", u.wants("docker exec c1 sh -c 'ip addr show eth0; ip route; ping -c1 -W1 "+siteOwn+"'", "inet 10.77.0.", "default via "+siteOwn, "1 packets received"))
		u.says("lanyard lease ls", "bound")
		u.says("lanyard events --since 5m", "lost")
	})
}

// A device has an address that the server gives, before a container gets it and after.
func TestDHCPSquatter(t *testing.T) {
	onNewest(t, func(u *user) {
		const reserved, client = "10.77.0.50", "02:00:00:00:77:01"
		u.leasing(func(c *dhcpserver.Config) {
			c.Kind = dhcpserver.Kea
			c.Reservations = []dhcpserver.Reservation{{MAC: client, Addr: netip.MustParseAddr(reserved)}}
		})
		mac, _ := u.squat(reserved + "/16")
		u.sh(nullDHCP + "lan")
		u.sh(run + "--name c1 --network lan --mac-address " + client + " busybox:lab")
		addr := u.addr("c1", "lan")
		if addr == reserved {
			u.t.Errorf("c1 has an address that %s has", mac)
		}
		u.says("grep 'in use, and declined' "+u.LanyardLog(), reserved, mac)
		u.says("lanyard events --since 5m", "lease-declined")
		start := time.Now()
		_, rival := u.squat(addr + "/16")
		_, err := rival(u.t.Context(), "busybox arping -U -c 3 -I "+dhcpserver.ApartLink+" "+addr+" || true")
		u.mustDo(err)
		u.within(30*time.Second, "the address is left", func() string {
			out := u.sh("docker exec c1 ip addr show eth0")
			if strings.Contains(out, "inet "+addr+"/") || !strings.Contains(out, "inet 10.77.0.") {
				return out
			}
			return ""
		})
		u.t.Logf("left after %s", time.Since(start).Round(time.Millisecond))
		u.says("docker exec c1 ping -c1 -W2 "+siteOwn, "1 packets received")
	})
}

// A second server, which nobody asked for.
func TestDHCPRogue(t *testing.T) {
	onNewest(t, func(u *user) {
		u.leasing(nil)
		u.leasing(func(c *dhcpserver.Config) {
			c.Addrs = []netip.Prefix{netip.MustParsePrefix("10.77.0.66/16")}
			c.V4.From, c.V4.To = netip.MustParseAddr("10.77.66.100"), netip.MustParseAddr("10.77.66.199")
			c.Routers = []netip.Addr{netip.MustParseAddr("10.77.0.66")}
		})
		u.sh(fromDHCP + "-o dhcp_server=" + siteOwn + " pinned && " + fromDHCP + "-o dhcp_deny=" + siteOwn + " other")
		for i := range 4 {
			u.sh(fmt.Sprintf(run+"--name p%d --network pinned busybox:lab && "+run+"--name o%[1]d --network other busybox:lab", i))
			if p, o := u.addr(fmt.Sprint("p", i), "pinned"), u.addr(fmt.Sprint("o", i), "other"); !strings.HasPrefix(p, "10.77.0.1") || !strings.HasPrefix(o, "10.77.66.1") {
				u.t.Errorf("addresses %s and %s, want one of each server", p, o)
			}
		}
	})
}

// The server is on the same parent as the container: in another container it works, on the
// host itself the reason is told.
func TestDHCPServerBeside(t *testing.T) {
	onNewest(t, func(u *user) {
		for _, kind := range []dhcpserver.Kind{dhcpserver.Dnsmasq, dhcpserver.Kea} {
			u.sh("docker network create -d lanyard --ipam-driver lanyard --subnet 10.77.0.0/16 --ip-range 10.77.5.0/24 --gateway 10.77.0.254 -o parent=eth1 static")
			u.sh(run + "--name server --network static --ip " + siteOwn + " busybox:lab")
			inside := dhcpserver.Inside(u.Sh, "nsenter -t $(docker inspect -f '{{.State.Pid}}' server) -n")
			s, err := dhcpserver.Start(u.t.Context(), inside, u.t.TempDir()+"/"+string(kind), siteConfig(func(c *dhcpserver.Config) {
				c.Kind, c.Link, c.Addrs = kind, "eth0", nil
			}))
			u.mustDo(err)
			u.sh(fromDHCP + "lan")
			start := time.Now()
			u.sh(run + "--name c1 --network lan busybox:lab")
			u.t.Logf("%s in a container: docker run takes %s", kind, time.Since(start).Round(time.Millisecond))
			u.says("docker exec c1 ping -c1 -W2 "+siteOwn, "1 packets received")
			if got := leasesOn(s, u, u.addr("c1", "lan")); len(got) != 1 {
				u.t.Errorf("%s: the server's leases: %+v", kind, got)
			}
			u.says("lanyard lease renew "+u.addr("c1", "lan"), u.addr("c1", "lan"))
			u.sh("docker rm -f c1 && docker network rm lan")
			u.mustDo(s.Close(context.Background()))
			u.sh("docker rm -f server && docker network rm static")
		}
		own, err := dhcpserver.Start(u.t.Context(), u.Sh, u.t.TempDir()+"/own", siteConfig(func(c *dhcpserver.Config) { c.Link = "eth1" }))
		u.mustDo(err)
		u.t.Cleanup(func() { // before the server's folder goes with the subtest
			u.closed(own.Close(context.Background()))
			u.sh("ip addr flush dev eth1 scope global")
		})
		u.sh(fromDHCP + "-o dhcp_timeout=3s lan")
		u.fails("docker run --rm --network lan busybox:lab true", "A DHCP server runs on this host", "run it in a container on this parent")
	})
}

// Addresses of both families from servers, by either IPAM driver, and of one family from a
// server beside addresses that routers let the kernel make.
func TestDHCPv6(t *testing.T) {
	onEach(t, func(u *user) {
		both := func(kind dhcpserver.Kind) func(c *dhcpserver.Config) {
			return func(c *dhcpserver.Config) {
				c.Kind, c.RA = kind, kind == dhcpserver.Dnsmasq
				c.Addrs = append(c.Addrs, netip.MustParsePrefix("fd77::1/64"))
				c.V6 = &dhcpserver.Pool{Subnet: netip.MustParsePrefix("fd77::/64"), From: netip.MustParseAddr("fd77::100"), To: netip.MustParseAddr("fd77::1ff")}
			}
		}
		addr6 := func(name, network string) string {
			return u.sh("docker inspect " + name + " --format '{{(index .NetworkSettings.Networks \"" + network + "\").GlobalIPv6Address}}'")
		}
		for _, kind := range []dhcpserver.Kind{dhcpserver.Dnsmasq, dhcpserver.Kea} {
			s, end := u.leasingApart(both(kind))
			u.sh(fromDHCP + "--ipv6 lan && " + nullDHCP + "-o ipv6=dhcp nulled")
			for _, network := range []string{"lan", "nulled"} {
				u.sh(run + "--name c1 --network " + network + " busybox:lab")
				a4, a6 := u.addr("c1", network), addr6("c1", network)
				if !strings.HasPrefix(a4, "10.77.0.1") || !strings.HasPrefix(a6, "fd77::1") {
					u.t.Errorf("%s, %s: addresses %q and %q", kind, network, a4, a6)
				}
				u.says("docker exec c1 ip addr show eth0", a4+"/16", "inet6 "+a6)
				if kind == dhcpserver.Dnsmasq { // DHCPv6 says no route, and Kea is no router
					u.eventually("a route to the server", u.wants("docker exec c1 ping -6 -c1 -W2 fd77::1", "1 packets received"))
				}
				u.says("lanyard lease ls", a4, a6)
				if got := leasesOn(s, u, a6); len(got) != 1 {
					u.t.Errorf("%s: the server's leases of %s: %+v", kind, a6, got)
				}
				u.says("lanyard lease renew "+a6, a6)
				u.sh("docker restart -t0 c1")
				if got4, got6 := u.addr("c1", network), addr6("c1", network); got4 != a4 || got6 != a6 {
					u.t.Errorf("%s, %s: after a restart %s and %s, before %s and %s", kind, network, got4, got6, a4, a6)
				}
				u.sh("docker rm -f c1 && docker network rm " + network)
				u.eventually("released with the network", func() string {
					if all, err := s.Leases(u.t.Context()); err != nil || len(all) > 0 {
						return fmt.Sprint(all, err)
					}
					return ""
				})
			}
			end()
		}
		u.leasing(func(c *dhcpserver.Config) {
			c.Addrs = append(c.Addrs, netip.MustParsePrefix("fd78::1/64"))
			c.Lines = []string{"enable-ra", "dhcp-range=fd78::,ra-only,64,600"}
		})
		u.sh(fromDHCP + "-o ipv6=slaac lan")
		u.sh(run + "--name c1 --network lan busybox:lab")
		u.says("docker exec c1 ip addr show eth0", u.addr("c1", "lan")+"/16")
		u.eventually("an address by SLAAC", u.wants("docker exec c1 ip addr show eth0", "inet6 fd78::"))
	})
}
