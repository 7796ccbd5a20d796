//go:build lab

package scenario

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/e2e/dhcpserver"
)

// site is a DHCP server on the LAN node, in a namespace of its own with a link that is
// made so; it leases 10.V.0.100 to 10.V.0.199 and has 10.V.0.1.
func (o *operator) site(kind dhcpserver.Kind, how string, v int) *dhcpserver.Server {
	o.Helper()
	at := func(format string) netip.Addr { return netip.MustParseAddr(fmt.Sprintf(format, v)) }
	c := dhcpserver.Config{
		Kind: kind, Link: fmt.Sprintf("site%d", v), Addrs: []netip.Prefix{netip.PrefixFrom(at("10.%d.0.1"), 16)}, NoPing: true, Authoritative: true,
		V4:      &dhcpserver.Pool{Subnet: netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", v)), From: at("10.%d.0.100"), To: at("10.%d.0.199")},
		Routers: []netip.Addr{at("10.%d.0.1")},
	}
	return o.serve(o.namespace(c.Link, how), c)
}

// namespace is one on the LAN node with a link of this name, until the test ends.
func (o *operator) namespace(link, how string) dhcpserver.Runner {
	o.Helper()
	o.lan.sh("ip netns add %[1]s && ip link add name %[1]s %[2]s && ip link set %[1]s netns %[1]s && ip -n %[1]s link set lo up && ip -n %[1]s link set %[1]s up", link, how)
	o.Cleanup(func() { o.lan.sh("ip netns del %s", link) })
	return dhcpserver.Inside(o.lan.Must, "ip netns exec "+link)
}

func (o *operator) serve(place dhcpserver.Runner, c dhcpserver.Config) *dhcpserver.Server {
	o.Helper()
	s, err := dhcpserver.Start(ctx, place, "/run/lab/dhcp-"+c.Link, c)
	if err != nil {
		o.Fatal(err)
	}
	o.Cleanup(func() {
		if o.Failed() {
			o.Logf("DHCP server on %s:\n%s", c.Link, tail(s.Log(ctx), 30))
		}
		if err := s.Close(context.WithoutCancel(ctx)); err != nil {
			o.Error(err)
		}
	})
	return s
}

func dhcpOn(parent, more string) string {
	return "--ipam-driver lanyard --ipam-opt source=dhcp -o parent=" + parent + " " + more
}

// The reference scenario with the site's DHCP servers: dnsmasq on VLAN 100 for macvlan,
// Kea on VLAN 200 for ipvlan, and after a power loss of both hosts the same addresses.
// These engines do not say with --ipam-driver lanyard which container asks: there two that
// start at once may have one another's.
func TestReferenceScenarioWithDHCP(t *testing.T) {
	o := operate(t)
	servers := []*dhcpserver.Server{o.site(dhcpserver.Dnsmasq, "link eth1 type vlan id 100", 100), o.site(dhcpserver.Kea, "link eth1 type vlan id 200", 200)}
	had := map[string]string{}
	names := []string{"m1", "m2", "i1", "i2"}
	network := func(name string) string { return map[byte]string{'m': "macvlan100", 'i': "ipvlan200"}[name[0]] }
	o.both(func(h host) {
		h.create("macvlan100", dhcpOn("eth1.100", "-o macvlan_mode=bridge"))
		h.create("ipvlan200", "--ipam-driver null -o source=dhcp -o parent=eth1.200 -o ipvlan_mode=l2")
		for _, name := range names {
			n := network(name)
			if name[0] == 'i' {
				n = "name=" + n + ",driver-opt=identity=" + name
			}
			h.run(name, n, "--restart always")
		}
	})
	check := func(when string) {
		t.Helper()
		all, now := map[string]string{}, map[string]string{}
		for _, h := range []host{o.one, o.two} {
			for _, name := range names {
				addr := h.addr(name, network(name))
				key := h.Name + " " + name
				if other := all[addr]; addr == "" || other != "" {
					t.Errorf("%s: %s has %q, which %s has", when, key, addr, other)
				}
				all[addr] = key
				now[key] = addr
				if was := had[key]; was != "" && addr != was && (name[0] == 'i' || addr != had[h.Name+" m1"] && addr != had[h.Name+" m2"]) {
					t.Errorf("%s: %s has %s, had %s", when, key, addr, was)
				}
				want := map[byte]string{'m': "10.100.0.1", 'i': "10.200.0.1"}[name[0]]
				if !strings.HasPrefix(addr, want) {
					t.Errorf("%s: %s has %s, want %s..", when, key, addr, want)
				}
				h.says(in(name, "ip route"), "default via "+want+" dev eth0")
			}
		}
		had = now
		for _, name := range []string{"m1", "i1"} {
			o.one.wantReach(name, had["node-1 "+name[:1]+"2"], true)
			o.one.wantReach(name, had["node-2 "+name[:1]+"1"], true)
			o.one.wantReach(name, had["node-1 "+map[string]string{"m1": "i2", "i1": "m2"}[name]], false)
		}
		for i, s := range servers {
			leases, err := s.Leases(ctx)
			if err != nil || len(leases) != 4 {
				t.Errorf("%s: server %d has leases %+v, %v; want four", when, i+1, leases, err)
			}
		}
	}
	check("at first")
	asked := func() (n int) {
		for _, s := range servers {
			n += strings.Count(s.Log(ctx), "DHCPDISCOVER")
		}
		return n
	}
	before := asked()
	o.both(func(h host) {
		if err := h.PowerOff(); err != nil {
			t.Error(err)
		}
	})
	o.both(func(h host) {
		if err := h.Boot(ctx); err != nil {
			t.Error(err)
		}
		eventually(t, h.Name+": four containers run", func() string {
			r, err := h.Run(ctx, "docker ps -q | wc -l")
			if err != nil || strings.TrimSpace(r.Stdout) != "4" {
				return fmt.Sprint(r.Out(), err)
			}
			return ""
		})
	})
	check("after a power loss of both hosts")
	if now := asked(); now != before {
		t.Errorf("%d lines of DHCPDISCOVER after a power loss, where addresses that are leased were to be asked for", now-before)
	}
	o.both(func(h host) {
		h.says("lanyard lease ls", had[h.Name+" m1"], had[h.Name+" i2"], "bound")
		h.sh("docker rm -f m1 m2 i1 i2 && docker network rm macvlan100 ipvlan200")
	})
	for i, s := range servers {
		eventually(t, fmt.Sprintf("server %d has its addresses back", i+1), func() string {
			if leases, err := s.Leases(ctx); err != nil || len(leases) > 0 {
				return fmt.Sprint(leases, err)
			}
			return ""
		})
	}
}

// Every other way onto the wire: two tags, passthru, macvlan's other modes. One container of a
// host is on all of them.
func TestDHCPOnOtherParents(t *testing.T) {
	o := operate(t)
	o.lan.sh("ip link add link eth1 name outer type vlan proto 802.1ad id 200 && ip link set outer up")
	t.Cleanup(func() { o.lan.sh("ip link del outer") })
	o.site(dhcpserver.Dnsmasq, "link outer type vlan id 100", 20)
	o.site(dhcpserver.Kea, "link eth1 type vlan id 300", 30)
	o.site(dhcpserver.Dnsmasq, "link eth1 type vlan id 310", 31)
	kinds := []struct{ name, flags, server string }{
		{"qinq", dhcpOn("eth1.200.100", ""), "10.20.0.1"},
		{"passthru", dhcpOn("eth1.300", "-o macvlan_mode=passthru"), "10.30.0.1"},
		{"private", dhcpOn("eth1.310", "-o macvlan_mode=private"), "10.31.0.1"},
		{"vepa", dhcpOn("eth1.310", "-o macvlan_mode=vepa"), "10.31.0.1"},
	}
	o.both(func(h host) {
		for _, k := range kinds {
			h.create(k.name, k.flags)
		}
		h.runOn("c1", "qinq", "passthru", "private")
		h.run("c2", "vepa", "")
		on := func(k string) string { return map[bool]string{true: "c2", false: "c1"}[k == "vepa"] }
		for _, k := range kinds {
			addr := h.addr(on(k.name), k.name)
			if !strings.HasPrefix(addr, k.server) {
				h.t.Errorf("%s: %s: the container has %q, want one of server %s", h.Name, k.name, addr, k.server)
			}
			h.wantReach(on(k.name), k.server, true)
			h.says("lanyard lease renew "+addr, "")
		}
		h.sh("docker restart -t0 c1")
		for _, k := range kinds[:3] {
			h.wantReach("c1", k.server, true)
		}
	})
	for _, k := range kinds[:3] {
		o.one.wantReach("c1", o.two.addr("c1", k.name), true)
	}
	o.one.wantReach("c2", o.two.addr("c2", "vepa"), true)
}

// The server is in another network, behind a relay agent: renewals go to it through the
// router that it is.
func TestDHCPBehindRelay(t *testing.T) {
	o := operate(t)
	// The router is the LAN node.
	far := o.namespace("behind", "type veth peer name before")
	o.lan.sh(`ip link add link eth1 name eth1.100 type vlan id 100 && ip link set eth1.100 up && ip addr add 10.40.0.1/16 dev eth1.100
ip link set before up && ip addr add 10.66.0.1/24 dev before
ip -n behind addr add 10.66.0.2/24 dev behind && ip -n behind route add default via 10.66.0.1
sysctl -qw net.ipv4.ip_forward=1`)
	t.Cleanup(func() { o.lan.sh("ip link del eth1.100; sysctl -qw net.ipv4.ip_forward=0") })
	pool := dhcpserver.Pool{Subnet: netip.MustParsePrefix("10.40.0.0/16"), From: netip.MustParseAddr("10.40.0.100"), To: netip.MustParseAddr("10.40.0.199")}
	server := o.serve(far, dhcpserver.Config{Kind: dhcpserver.Kea, Link: "behind", V4: &pool, Routers: []netip.Addr{netip.MustParseAddr("10.40.0.1")}})
	relay, err := dhcpserver.StartRelay(ctx, o.lan.Must, "/run/lab/relay", dhcpserver.RelayConfig{Down: "eth1.100", Up: "before", Server: netip.MustParseAddr("10.66.0.2")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := relay.Close(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	})
	var addrs []string
	kinds := map[string]string{"node-1": "-o macvlan_mode=bridge", "node-2": "-o ipvlan_mode=l2"}
	o.both(func(h host) {
		h.create("n", dhcpOn("eth1.100", kinds[h.Name]))
		h.run("c1", "n", "")
		addr := h.addr("c1", "n")
		addrs = append(addrs, addr)
		h.wantReach("c1", "10.66.0.2", true)
		h.says("lanyard lease renew "+addr, addr)
		h.says("lanyard lease ls", addr, "10.66.0.2")
		h.sh("docker restart -t0 c1")
		if got := h.addr("c1", "n"); got != addr {
			t.Errorf("%s: after a restart %s, before %s", h.Name, got, addr)
		}
	})
	leases, err := server.Leases(ctx)
	for _, l := range leases {
		addrs = slices.DeleteFunc(addrs, func(a string) bool { return a == l.Addr.String() })
	}
	if err != nil || len(addrs) > 0 {
		t.Errorf("the server does not know %v: %+v, %v", addrs, leases, err)
	}
	o.both(func(h host) { h.sh("docker rm -f c1 && docker network rm n") })
	eventually(t, "the server has its addresses back", func() string {
		if leases, err := server.Leases(ctx); err != nil || len(leases) > 0 {
			return fmt.Sprint(leases, err)
		}
		return ""
	})
}

// A lease lasts as long as the server says, whatever is done to the host's clock, and
// also where lanyard is killed between.
func TestDHCPClockSteps(t *testing.T) {
	o := operate(t)
	s := o.serve(o.namespace("site30", "link eth1 type vlan id 300"), dhcpserver.Config{
		Kind: dhcpserver.Kea, Link: "site30", Addrs: []netip.Prefix{netip.MustParsePrefix("10.30.0.1/16")},
		V4:        &dhcpserver.Pool{Subnet: netip.MustParsePrefix("10.30.0.0/16"), From: netip.MustParseAddr("10.30.0.100"), To: netip.MustParseAddr("10.30.0.199")},
		LeaseTime: 16 * time.Second, Renew: 4 * time.Second, Rebind: 8 * time.Second,
	})
	h := o.one
	t.Cleanup(func() { h.sh("date -s @%s", o.two.sh("date +%%s")) })
	lost := func() string { return h.sh("grep -cE 'DHCP lease (lost|not renewed)' /run/lab/lanyard.log || true") }
	before := lost()
	h.create("n", dhcpOn("eth1.300", ""))
	h.run("c1", "n", "")
	addr := h.addr("c1", "n")
	granted := func() int { return strings.Count(s.Log(ctx), "DHCP4_LEASE_") }
	for _, step := range []string{"+ 86400 * 40", "- 86400 * 80"} {
		h.sh("date -s @$(( $(date +%%s) %s ))", step)
		for _, kill := range []bool{false, true} {
			if kill {
				if err := h.RestartLanyard(ctx, "KILL"); err != nil {
					t.Fatal(err)
				}
			}
			so := granted()
			eventually(t, "renewals go on", func() string {
				if now := granted(); now < so+2 {
					return fmt.Sprintf("%d since the clock was set by %s s", now-so, step)
				}
				return ""
			})
			h.says(in("c1", "ip addr show eth0"), addr+"/16")
			h.says("lanyard lease ls", addr, "bound")
		}
	}
	if now := lost(); now != before {
		t.Errorf("leases were lost, or not renewed: %s times, %s before", now, before)
	}
}
