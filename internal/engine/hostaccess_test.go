package engine

import (
	"errors"
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// accessBench is a host with addresses on eth1, and its LAN at the other end.
func accessBench(t *testing.T) (b *bench, peer *kerneltest.Host) {
	t.Helper()
	b, peer = newBench(t), kerneltest.New(t)
	b.host.IP("link set lo up")
	b.host.IP("addr add 192.168.0.9/24 dev eth1")
	b.host.IP("addr add fd00::9/64 dev eth1 nodad")
	b.host.IP("link set wire netns %s", peer.Path())
	peer.IP("addr add 192.168.0.1/24 dev wire")
	peer.IP("addr add fd00::1/64 dev wire nodad")
	peer.IP("link set wire up")
	return b, peer
}

// onLAN runs a container with an address of each family.
func (b *bench) onLAN(network, id string, n int) *kerneltest.Host {
	b.t.Helper()
	v4, v6 := netip.MustParsePrefix(fmt.Sprintf("192.168.0.%d/24", n)), netip.MustParsePrefix(fmt.Sprintf("fd00::%d/64", n))
	if _, err := b.AddEndpoint(ctx, EndpointRequest{NetworkID: network, EndpointID: id, IPv4: v4, IPv6: v6}); err != nil {
		b.t.Fatal(err)
	}
	return b.enter(network, id, v4, v6)
}

// enter joins an endpoint as Docker does, in a namespace of its own, where the link gets
// these addresses.
func (b *bench) enter(network, id string, addrs ...netip.Prefix) *kerneltest.Host {
	b.t.Helper()
	c := kerneltest.New(b.t)
	a, err := b.Join(ctx, network, id, c.Path())
	if err != nil {
		b.t.Fatal(err)
	}
	b.host.IP("link set %s netns %s", a.SrcName, c.Path())
	c.IP("link set %s name eth0", a.SrcName)
	for _, p := range addrs {
		how := "brd +" // as Docker does
		if p.Addr().Is6() {
			how = "nodad"
		}
		c.IP("addr add %s dev eth0 %s", p, how)
	}
	c.IP("link set eth0 up")
	return c
}

// pings reports whether an address answers within some seconds.
func pings(h *kerneltest.Host, addr string) bool {
	return h.NS.Do(func() error {
		out, err := exec.Command("busybox", "ping", "-c", "3", "-i", "0.2", "-w", "3", addr).CombinedOutput()
		if strings.Contains(string(out), "seq=") {
			return nil
		}
		return errors.Join(err, errors.New(string(out)))
	}) == nil
}

// knows waits until the container was told of the host.
func (b *bench) knows(c *kerneltest.Host, addr string) {
	b.t.Helper()
	for range 100 {
		if strings.Contains(c.IP("neigh show nud permanent"), addr+" ") {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	b.t.Fatalf("the container does not know %s:\n%s", addr, c.IP("neigh show nud all"))
}

func accessRequest(id string, opts ...string) lan.NetworkRequest {
	r := request(id, append(opts, "host_access=true")...)
	r.WantIPv6 = true
	r.IPv4 = []lan.Subnet{{Pool: netip.MustParsePrefix("192.168.0.0/24")}}
	r.IPv6 = []lan.Subnet{{Pool: netip.MustParsePrefix("fd00::/64")}}
	return r
}

var accessKinds = []struct{ name, option string }{{"macvlan", "macvlan_mode=bridge"}, {"ipvlan", "ipvlan_mode=l2"}}

func TestHostAccess(t *testing.T) {
	for _, kind := range accessKinds {
		t.Run(kind.name, func(t *testing.T) {
			if kind.name == "ipvlan" {
				kerneltest.Need(t, kind.name)
			}
			b, peer := accessBench(t)
			const n = "net1"
			if err := b.CreateNetwork(ctx, accessRequest(n, "parent=eth1", kind.option)); err != nil {
				t.Fatal(err)
			}
			c := b.onLAN(n, "ep1", 5)
			b.knows(c, "fd00::9")
			sniffer := sniff(t, peer)
			for _, addr := range []string{"192.168.0.5", "fd00::5"} {
				if !pings(b.host, addr) {
					t.Errorf("the host does not reach %s\n%s%s", addr, b.host.IP("route show"), b.host.IP("neigh show nud all"))
				}
			}
			for _, addr := range []string{"192.168.0.9", "fd00::9"} {
				if !pings(c, addr) {
					t.Errorf("the container does not reach the host's %s\n%s", addr, c.IP("neigh show nud all"))
				}
			}
			for _, line := range sniffer() {
				for _, w := range []string{macOf(b.host, "lyh-eth1") + " >", "192.168.0.9", "fd00::9", "echo"} {
					if strings.Contains(line, w) && (kind.name == "macvlan" || !strings.HasSuffix(w, ">")) {
						t.Errorf("a frame of host access on the LAN: %s", line)
						break
					}
				}
			}
			// The parent alone answers for the host, and the container for itself.
			for _, who := range []struct{ addr, mac string }{{"192.168.0.9", macOf(b.host, "eth1")}, {"192.168.0.5", macOf(c, "eth0")}} {
				answers := arping(peer, who.addr)
				if len(answers) != 1 || answers[0] != who.mac {
					t.Errorf("%s is answered for by %v, want %s alone", who.addr, answers, who.mac)
				}
			}
			for _, addr := range []string{"192.168.0.9", "192.168.0.5", "fd00::9", "fd00::5"} {
				if !pings(peer, addr) {
					t.Errorf("the LAN does not reach %s", addr)
				}
			}
			if out := b.host.IP("addr show dev lyh-eth1"); strings.Contains(out, "inet") {
				t.Errorf("the shim has an address:\n%s", out)
			}

			// A restart, and what somebody took away.
			b.restart()
			if !pings(b.host, "192.168.0.5") {
				t.Error("not after a restart")
			}
			b.host.IP("link del lyh-eth1")
			b.sweep()
			if !pings(b.host, "192.168.0.5") || !pings(c, "fd00::9") {
				t.Error("not after the shim was made again")
			}

			// The host's address changes.
			b.host.IP("addr del 192.168.0.9/24 dev eth1")
			b.host.IP("addr add 192.168.0.8/24 dev eth1")
			b.sweep()
			if out := c.IP("neigh show nud permanent"); strings.Contains(out, "192.168.0.9 ") {
				t.Errorf("the container still knows the old address:\n%s", out)
			}
			if !pings(c, "192.168.0.8") || !pings(b.host, "192.168.0.5") {
				t.Error("not after the host's address changed")
			}

			b.stop(n, "ep1", c)
			if out := b.host.IP("route show proto 108") + b.host.IP("-6 route show proto 108") + b.host.IP("neigh show nud permanent dev lyh-eth1"); out != "" {
				t.Errorf("left behind:\n%s", out)
			}
			if err := b.DeleteNetwork(ctx, n); err != nil {
				t.Fatal(err)
			}
			if out, err := b.host.TryIP("link show lyh-eth1"); err == nil {
				t.Errorf("the shim is still there: %s", out)
			}
		})
	}
}

// Two networks on one parent, one of them without host access; the shim goes with the last
// one that has it.
func TestHostAccessSharesAShim(t *testing.T) {
	b, _ := accessBench(t)
	for _, r := range []lan.NetworkRequest{accessRequest("net1", "parent=eth1"), accessRequest("net2", "parent=eth1"), request("net3", "parent=eth1")} {
		if err := b.CreateNetwork(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	b.onLAN("net1", "ep1", 5)
	b.onLAN("net2", "ep2", 6)
	other := b.run("net3", "ep3", "192.168.0.7/24")
	other.IP("addr add 192.168.0.7/24 dev eth0")
	if !pings(b.host, "192.168.0.5") || !pings(b.host, "192.168.0.6") || pings(b.host, "192.168.0.7") {
		t.Errorf("want the first two reached, and not the third:\n%s", b.host.IP("route show"))
	}
	if err := b.DeleteNetwork(ctx, "net1"); err != nil {
		t.Fatal(err)
	}
	if out := b.host.IP("route show proto 108"); strings.Contains(out, "192.168.0.5") || !strings.Contains(out, "192.168.0.6") {
		t.Errorf("routes after one network was removed:\n%s", out)
	}
	if err := b.DeleteNetwork(ctx, "net2"); err != nil {
		t.Fatal(err)
	}
	if _, err := b.host.TryIP("link show lyh-eth1"); err == nil {
		t.Error("the shim is still there")
	}
}

// A route of somebody else's to a container's address stays, and the network says so.
func TestHostAccessLeavesOthersRoutes(t *testing.T) {
	b, _ := accessBench(t)
	b.host.IP("route add 192.168.0.5/32 dev eth1")
	if err := b.CreateNetwork(ctx, accessRequest("net1", "parent=eth1")); err != nil {
		t.Fatal(err)
	}
	b.onLAN("net1", "ep1", 5)
	problem := b.Networks()[0].Problem
	for _, w := range []string{"host access", "another route to 192.168.0.5", "eth1"} {
		if !strings.Contains(problem, w) {
			t.Errorf("problem %q does not say %q", problem, w)
		}
	}
	if out := b.host.IP("route show 192.168.0.5"); !strings.Contains(out, "dev eth1") {
		t.Errorf("route: %s", out)
	}
	b.host.IP("route del 192.168.0.5/32 dev eth1")
	b.sweep()
	if problem := b.Networks()[0].Problem; problem != "" || !pings(b.host, "192.168.0.5") {
		t.Errorf("after it has gone: %q", problem)
	}
}

// A look between Join and the making of the container's namespace, which engines before 28 do after it, finds no fault.
func TestHostAccessBeforeTheNamespace(t *testing.T) {
	b, _ := accessBench(t)
	if err := b.CreateNetwork(ctx, accessRequest("net1", "parent=eth1")); err != nil {
		t.Fatal(err)
	}
	b.add("net1", "ep1", "192.168.0.5/24")
	if _, err := b.Join(ctx, "net1", "ep1", filepath.Join(t.TempDir(), "netns")); err != nil {
		t.Fatal(err)
	}
	b.sweep()
	if problem := b.Networks()[0].Problem; problem != "" {
		t.Error(problem)
	}
}

// On a VLAN where the host has no address, the one that it would take is told.
func TestHostAccessWithoutAddressOnParent(t *testing.T) {
	for _, kind := range accessKinds {
		t.Run(kind.name, func(t *testing.T) {
			if kind.name == "ipvlan" {
				kerneltest.Need(t, kind.name)
			}
			b, _ := accessBench(t)
			b.host.IP("addr flush dev eth1")
			b.host.Veth("mgmt", "far")
			b.host.IP("addr add 10.9.9.9/24 dev mgmt")
			b.host.IP("route add default via 10.9.9.1 dev mgmt")
			r := accessRequest("net1", "parent=eth1", kind.option)
			r.WantIPv6, r.IPv6 = false, nil
			if err := b.CreateNetwork(ctx, r); err != nil {
				t.Fatal(err)
			}
			b.add("net1", "ep1", "192.168.0.5/24")
			c := b.enter("net1", "ep1", netip.MustParsePrefix("192.168.0.5/24"))
			b.knows(c, "10.9.9.9")
			if !pings(b.host, "192.168.0.5") || !pings(c, "10.9.9.9") {
				t.Errorf("not reached:\n%s%s%s", b.host.IP("route show"), c.IP("route show"), c.IP("neigh show nud all"))
			}
		})
	}
}

// An address that the parent's owner gives it late is heeded when it comes, and so is one that
// it takes away.
func TestHostAccessHeedsAddresses(t *testing.T) {
	b, _ := accessBench(t)
	b.host.IP("addr flush dev eth1")
	if err := b.CreateNetwork(ctx, accessRequest("net1", "parent=eth1")); err != nil {
		t.Fatal(err)
	}
	c := b.onLAN("net1", "ep1", 5)
	stop := b.runs()
	b.host.IP("addr add 192.168.0.9/24 dev eth1")
	b.host.IP("addr add fd00::9/64 dev eth1") // no sooner than its conflict detection lets it be
	b.knows(c, "192.168.0.9")
	b.knows(c, "fd00::9")
	if !pings(b.host, "192.168.0.5") || !pings(b.host, "fd00::5") || !pings(c, "192.168.0.9") || !pings(c, "fd00::9") {
		t.Errorf("not reached:\n%s%s%s", b.host.IP("route show"), b.host.IP("-6 route show"), c.IP("neigh show nud all"))
	}
	b.host.IP("addr del 192.168.0.9/24 dev eth1")
	b.host.IP("addr add 192.168.0.8/24 dev eth1")
	b.knows(c, "192.168.0.8")
	if out := c.IP("neigh show nud permanent"); strings.Contains(out, "192.168.0.9 ") {
		t.Errorf("the container still knows the old address:\n%s", out)
	}
	stop()
	b.stop("net1", "ep1", c)
}

// With an address of the host's own on the network, from its pools or the user's, containers
// see that one; nobody is given it, and it goes with the network.
func TestHostAccessWithAnAddress(t *testing.T) {
	for _, kind := range accessKinds {
		t.Run(kind.name, func(t *testing.T) {
			if kind.name == "ipvlan" {
				kerneltest.Need(t, kind.name)
			}
			b, peer := accessBench(t)
			b.host.IP("addr flush dev eth1")
			b.create("net1", "parent=eth1", kind.option, "subnet=192.168.0.0/24,fd00::/64", "acd=off", "host_address=auto")
			b.create("net2", "parent=eth1", kind.option, "subnet=192.168.0.0/24", "acd=off", "host_address=192.168.0.9")
			own := b.Networks()[0].HostAddrs
			if b.Networks()[0].ID != "net1" {
				own = b.Networks()[1].HostAddrs
			}
			if len(own) != 2 || !own[0].Is4() || !own[1].Is6() {
				t.Fatalf("the host's addresses on net1: %v", own)
			}
			given := func(network, id string) (*kerneltest.Host, []netip.Prefix) {
				t.Helper()
				ep, err := b.AddEndpoint(ctx, EndpointRequest{NetworkID: network, EndpointID: id})
				if err != nil {
					t.Fatal(err)
				}
				var addrs []netip.Prefix
				for _, p := range []netip.Prefix{ep.IPv4, ep.IPv6} {
					if p.IsValid() {
						addrs = append(addrs, p)
					}
				}
				return b.enter(network, id, addrs...), addrs
			}
			reach := func(when string, c *kerneltest.Host, addrs []netip.Prefix, hosts ...netip.Addr) {
				t.Helper()
				for i, a := range addrs {
					b.knows(c, hosts[i].String())
					if !pings(c, hosts[i].String()) {
						t.Errorf("%s: the container does not reach the host's %s\n%s", when, hosts[i], c.IP("neigh show nud all"))
					}
					if out := b.host.IP("route get %s", a.Addr()); !strings.Contains(out, "src "+hosts[i].String()+" ") {
						t.Errorf("%s: the container would see another address than %s: %s", when, hosts[i], out)
					}
					if !pings(b.host, a.Addr().String()) {
						t.Errorf("%s: the host does not reach %s", when, a)
					}
				}
			}
			c1, a1 := given("net1", "ep1")
			c2, a2 := given("net2", "ep2")
			nine := netip.MustParseAddr("192.168.0.9")
			for _, p := range append(a1, a2...) {
				if a := p.Addr(); a == nine || a == own[0] || a == own[1] {
					t.Errorf("a container was given the host's address %s", a)
				}
			}
			reach("at first", c1, a1, own...)
			reach("at first", c2, a2, nine)
			for _, addr := range []netip.Addr{own[0], nine} {
				// Whoever probes for it (RFC 5227 section 2.1.1) hears that it is taken.
				if answers := arping(peer, addr.String(), "-D"); len(answers) == 0 || answers[0] != macOf(b.host, "eth1") {
					t.Errorf("%s is answered for by %v, want %s", addr, answers, macOf(b.host, "eth1"))
				}
				if _, err := b.AddEndpoint(ctx, EndpointRequest{NetworkID: "net2", EndpointID: "ep3", Options: lan.EndpointOptions{IP: []netip.Addr{addr}}}); !errors.Is(err, lan.ErrConflict) {
					t.Errorf("a container asks for the host's %s: %v", addr, err)
				}
			}

			b.restart()
			b.host.IP("link del lyh-eth1")
			b.sweep()
			reach("made again after a restart", c1, a1, own...)
			reach("made again after a restart", c2, a2, nine)

			b.host.IP("addr add 10.7.7.7/32 dev lyh-eth1")
			if err := b.DeleteNetwork(ctx, "net1"); err != nil {
				t.Fatal(err)
			}
			out := b.host.IP("addr show dev lyh-eth1")
			if strings.Contains(out, own[0].String()+"/") || strings.Contains(out, own[1].String()+"/") || !strings.Contains(out, "192.168.0.9/32") || !strings.Contains(out, "10.7.7.7/32") {
				t.Errorf("net1 is gone, net2 is not, and somebody set 10.7.7.7:\n%s", out)
			}
			if err := b.DeleteNetwork(ctx, "net2"); err != nil {
				t.Fatal(err)
			}
			if _, err := b.host.TryIP("link show lyh-eth1"); err == nil {
				t.Error("the shim is still there")
			}
		})
	}
}

func TestHostAccessIsRefused(t *testing.T) {
	b := newBench(t)
	for _, c := range []struct{ options, say string }{
		{"parent=eth1 macvlan_mode=private", "in mode private they do not"},
		{"parent=eth1 macvlan_mode=passthru", "one container alone"},
		{"parent=eth1 ipvlan_mode=l3", "ipvlan_mode=l2"},
		{"parent=eth1 ipvlan_flag=vepa", "in mode vepa they do not"},
		{"", "without a parent"},
		{"parent=eth1 host_access=yes", "one of true, false"},
		{"parent=eth1 host_access=false host_address=auto", "leave one of them out"},
		{"parent=eth1 host_address=auto", "and this network has none"},
		{"parent=eth1 subnet=10.1.0.0/24 gateway=10.1.0.1 host_address=10.1.0.1", "is the gateway"},
		{"parent=eth1 subnet=10.1.0.0/24 host_address=10.2.0.1", "in no subnet"},
		{"parent=eth1 subnet=10.1.0.0/24 host_address=10.1.0.255", "broadcast"},
		{"parent=eth1 subnet=10.1.0.0/24 host_address=10.1.0.7,10.1.0.8", "two addresses of one family"},
		{"parent=eth1 subnet=10.1.0.0/24 host_address=nine", "want auto, or addresses"},
	} {
		opts := append([]string{"host_access=true"}, strings.Fields(c.options)...)
		if err := b.CreateNetwork(ctx, request("net1", opts...)); !errors.Is(err, lan.ErrInvalid) || !strings.Contains(err.Error(), c.say) {
			t.Errorf("%q: %v, want %q", c.options, err, c.say)
		}
	}
}

func macOf(h *kerneltest.Host, link string) string {
	_, rest, _ := strings.Cut(h.IP("link show dev %s", link), "link/ether ")
	mac, _, _ := strings.Cut(rest, " ")
	return mac
}

// arping are the MAC addresses that answer for an address.
func arping(h *kerneltest.Host, addr string, flags ...string) (macs []string) {
	_ = h.NS.Do(func() error {
		out, _ := exec.Command("busybox", slices.Concat([]string{"arping", "-c", "1", "-w", "1", "-I", "wire"}, flags, []string{addr})...).CombinedOutput()
		for line := range strings.Lines(string(out)) {
			if _, rest, ok := strings.Cut(line, "["); ok {
				mac, _, _ := strings.Cut(rest, "]")
				macs = append(macs, mac)
			}
		}
		return nil
	})
	return macs
}

// sniff begins to listen at the LAN's end; what it returns ends that, and returns what was
// heard of ARP, neighbour discovery and pings, a line a frame.
func sniff(t *testing.T, peer *kerneltest.Host) func() []string {
	t.Helper()
	var out strings.Builder
	cmd := exec.Command("tcpdump", "-i", "wire", "-n", "-e", "-l", "--immediate-mode", "arp or icmp or icmp6")
	cmd.Stdout = &out
	if err := peer.NS.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond)
	return func() []string {
		time.Sleep(300 * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return strings.Split(out.String(), "\n")
	}
}
