package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/control"
	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
)

// site is a host with eth1 on a switch, and others on the switch's other ports. The switch is a bridge, so it is one as far
// as MAC addresses and MTUs go.
type site struct {
	t        *testing.T
	host, sw *kerneltest.Host
	router   *kerneltest.Host
	conf     Config
	root     string
	ports    int
	network  *engine.NetworkState
	hostMAC  string
	ends     []end // of links that are to be up before anything is asked
}

type end struct {
	h    *kerneltest.Host
	name string
}

// settle waits until the kernel has made the links usable, which it does once a second at most; what is sent before is
// lost.
func (s *site) settle() {
	s.t.Helper()
	for _, e := range s.ends {
		for end := time.Now().Add(10 * time.Second); strings.Fields(e.h.IP("-br link show %s", e.name))[1] != "UP"; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				s.t.Fatal(e.h.IP("link show"))
			}
		}
	}
	s.ends = nil
}

const (
	subnetText  = "192.168.7.0/24"
	gatewayText = "192.168.7.1"
)

// newSite has a router that is the gateway, and a macvlan network of lanyard's on eth1.
func newSite(t *testing.T) *site {
	t.Parallel() // they mostly wait
	s := &site{t: t, host: kerneltest.New(t), sw: kerneltest.New(t), root: t.TempDir()}
	kerneltest.Need(t, "bridge")
	s.sw.IP("link add br0 type bridge")
	s.sw.IP("link set br0 up")
	s.plug(s.host, "eth1")
	s.hostMAC = s.mac(s.host, "eth1")
	s.router = s.device(gatewayText + "/24")
	links, err := link.NewAt(s.host.NS)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(links.Close)
	s.network = &engine.NetworkState{Network: lan.Network{
		ID: "0123456789abcdef", Kind: lan.Macvlan, Mode: lan.ModeBridge, Parent: lan.ParentSpec{Name: "eth1"},
		IPv4: []lan.Subnet{{Pool: netip.MustParsePrefix(subnetText), Gateway: netip.MustParseAddr(gatewayText)}},
	}, ParentLink: "eth1"}
	s.conf = Config{Links: links, NS: s.host.NS, Root: s.root, Listen: 1200 * time.Millisecond, Clock: func() (bool, error) { return true, nil },
		Engine: Engine{Version: "28.5.2", Where: "unix:///var/run/docker.sock", Networks: []EngineNetwork{{ID: s.network.ID, Name: "lan", Driver: "lanyard", Ours: true}}}}
	return s
}

// plug connects a namespace with a port of the switch.
func (s *site) plug(h *kerneltest.Host, name string) (port string) {
	s.ports++
	port = fmt.Sprintf("p%d", s.ports)
	h.Veth(name, port)
	h.IP("link set %s netns %s", port, s.sw.Path())
	s.sw.IP("link set %s master br0 up", port)
	s.ends = append(s.ends, end{h, name}, end{s.sw, port})
	return port
}

// device is something else on the LAN.
func (s *site) device(addrs ...string) *kerneltest.Host {
	h := kerneltest.New(s.t)
	s.plug(h, "eth0")
	for _, a := range addrs {
		h.IP("addr add %s dev eth0 nodad", a)
	}
	return h
}

func (s *site) mac(h *kerneltest.Host, name string) string {
	var mac string
	if err := h.NS.Do(func() error {
		l, err := net.InterfaceByName(name)
		if err == nil {
			mac = l.HardwareAddr.String()
		}
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	return mac
}

// container is one on the network, with an address and the gateway as its default route.
func (s *site) container(addr string) *kerneltest.Host {
	s.t.Helper()
	c := kerneltest.New(s.t)
	s.host.IP("link add child link eth1 type macvlan mode bridge")
	s.host.IP("link set child netns %s name eth0", c.Path())
	c.IP("addr add %s/24 dev eth0", addr)
	c.IP("link set eth0 up")
	c.IP("route add default via %s", gatewayText)
	mac := s.mac(c, "eth0")
	id := fmt.Sprintf("feed%012d", len(s.conf.Daemon.Endpoints))
	s.conf.Daemon.Endpoints = append(s.conf.Daemon.Endpoints, engine.EndpointState{State: "joined", Endpoint: lan.Endpoint{
		ID: id, NetworkID: s.network.ID, MAC: mac, IPv4: netip.MustParsePrefix(addr + "/24"), Sandbox: c.Path(),
	}})
	s.conf.Engine.Networks[0].Containers = append(s.conf.Engine.Networks[0].Containers, EngineContainer{Name: fmt.Sprintf("c%d", len(s.conf.Daemon.Endpoints)), Endpoint: id})
	s.ends = append(s.ends, end{c, "eth0"})
	return c
}

// file is one of the system's, as the doctor finds it.
func (s *site) file(path, text string) {
	s.t.Helper()
	path = filepath.Join(s.root, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) run(target string) *Report {
	s.t.Helper()
	s.settle()
	s.conf.Target = target
	s.conf.Daemon.Networks = []engine.NetworkState{*s.network}
	r, err := Run(s.t.Context(), s.conf)
	if err != nil {
		s.t.Fatal(err)
	}
	return r
}

// want looks for a finding with all the words in it, and shows what there is if it is not there.
func want(t *testing.T, r *Report, code string, v Verdict, words ...string) Finding {
	t.Helper()
	for _, f := range r.Findings {
		text := f.Subject + ": " + f.What + " " + strings.Join(f.Evidence, "; ") + " " + f.Cause + " " + strings.Join(f.Try, "; ")
		if f.Code == code && f.Verdict == v && !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(text, w) }) {
			if v > Note && (f.Cause == "" || len(f.Try) == 0) {
				t.Errorf("%s says no cause, or no way out: %+v", code, f)
			}
			return f
		}
	}
	t.Errorf("no %s of %s with %q in", v, code, words)
	for _, f := range r.Findings {
		t.Logf("%s %s: %s: %s %q", f.Verdict, f.Code, f.Subject, f.What, f.Evidence)
	}
	return Finding{}
}

// none fails for findings that are worse than a note, but those of codes.
func none(t *testing.T, r *Report, but ...string) {
	t.Helper()
	for _, f := range r.Findings {
		if f.Verdict > Note && !slices.Contains(but, f.Code) {
			t.Errorf("found %+v", f)
		}
	}
}

func TestAllIsWell(t *testing.T) {
	s := newSite(t)
	s.file("sys/class/net/eth1/speed", "1000\n")
	s.file("sys/class/net/eth1/duplex", "full\n")
	s.container("192.168.7.20").IP("addr add 2001:db8:7::20/64 dev eth0 nodad")
	s.container("192.168.7.21")
	s.conf.Daemon.Endpoints[0].IPv6 = netip.MustParsePrefix("2001:db8:7::20/64")
	s.network.IPv6 = []lan.Subnet{{Pool: netip.MustParsePrefix("2001:db8:7::/64"), Gateway: netip.MustParseAddr("2001:db8:7::1")}}
	s.router.IP("addr add 2001:db8:7::1/64 dev eth0 nodad")
	dnsmasq(t, s.router, "--dhcp-range=192.168.7.100,192.168.7.120,5m")
	r := s.run("")
	none(t, r)
	want(t, r, "parent", OK, "eth1 is up")
	want(t, r, "mtu", OK, "1500")
	want(t, r, "wire", OK, "heard")
	want(t, r, "gateway", OK, gatewayText, s.mac(s.router, "eth0"))
	want(t, r, "new-mac", OK, "answered", s.hostMAC)
	want(t, r, "duplicate", OK, "3 containers' addresses")
	want(t, r, "dhcp", OK, "one DHCP server", gatewayText)
	want(t, r, "container-link", OK, "c1 on lan", "192.168.7.20/24")
	want(t, r, "container-link", OK, "c2 on lan")
	want(t, r, "default-route", OK, gatewayText)
	want(t, r, "reach", OK, "c1", gatewayText)
	want(t, r, "reach", OK, "c1", "2001:db8:7::1")
	want(t, r, "path-mtu", OK, "1500 bytes")
	want(t, r, "daemon", OK, "1 network", "2 containers")
	want(t, r, "docker", OK, "28.5.2")
	want(t, r, "clock", OK)
	want(t, r, "leftovers", OK)
	if r.Verdict > Note {
		t.Errorf("verdict %s", r.Verdict)
	}
}

func TestParentDown(t *testing.T) {
	s := newSite(t)
	s.settle()
	s.host.IP("link set eth1 down")
	r := s.run("")
	want(t, r, "parent-up", Failure, "eth1 is down", "ip link set eth1 up")
	if r.Verdict != Failure {
		t.Errorf("verdict %s", r.Verdict)
	}
}

func TestNoCarrier(t *testing.T) {
	s := newSite(t)
	s.settle()
	s.sw.IP("link set p1 down")
	want(t, s.run(""), "carrier", Failure, "eth1 has no carrier")
}

func TestParentGone(t *testing.T) {
	s := newSite(t)
	s.network.ParentLink = ""
	s.network.Problem = "parent eth1 is gone"
	s.settle()
	s.host.IP("link set eth1 name eth7")
	r := s.run("")
	want(t, r, "parent", Failure, "eth1 is not on this host", "parent of lan")
}

func TestMemberOfABridge(t *testing.T) {
	s := newSite(t)
	s.host.IP("link add br7 type bridge")
	s.host.IP("link set br7 up")
	s.host.IP("link set eth1 master br7")
	want(t, s.run(""), "member", Failure, "eth1 is a member of br7", "-o parent=br7")
	// The bridge itself is one to use; and then the firewall may see its frames.
	s.network.Parent.Name, s.network.ParentLink = "br7", "br7"
	s.file("proc/sys/net/bridge/bridge-nf-call-iptables", "1\n")
	r := s.run("")
	want(t, r, "bridge-filter", Warning, "br7", "bridge-nf-call-iptables=0")
	want(t, r, "gateway", OK)
	none(t, r, "bridge-filter")
	s.file("proc/sys/net/bridge/bridge-nf-call-iptables", "0\n")
	want(t, s.run(""), "bridge-filter", OK)
}

func TestMemberOfABond(t *testing.T) {
	kerneltest.Need(t, "bond")
	s := newSite(t)
	s.host.IP("link add bond0 type bond mode active-backup")
	s.settle()
	s.host.IP("link set eth1 down")
	s.host.IP("link set eth1 master bond0")
	s.host.IP("link set bond0 up")
	want(t, s.run(""), "member", Failure, "eth1 is a member of bond0", "-o parent=bond0")
}

func TestWiFi(t *testing.T) {
	s := newSite(t)
	s.file("sys/class/net/eth1/wireless/x", "")
	r := s.run("")
	want(t, r, "wifi", Failure, "eth1 is Wi-Fi", "ipvlan_mode=l2")
	s.network.Kind, s.network.Mode = lan.Ipvlan, lan.ModeL2
	want(t, s.run(""), "wifi", Note, "ipvlan works")
}

// What a port of a virtual switch does that knows one MAC address: it learns no other, and what goes to one that it does not
// know does not come out.
func TestSwitchKnowsOneMAC(t *testing.T) {
	s := newSite(t)
	s.container("192.168.7.20")
	s.sw.IP("link set p1 type bridge_slave learning off flood off")
	s.sw.IP("link set p1 type bridge_slave bcast_flood on")
	if err := s.sw.NS.Do(func() error { return bridgeFDB("append", s.hostMAC, "p1") }); err != nil {
		t.Fatal(err)
	}
	r := s.run("")
	want(t, r, "new-mac", Failure, s.hostMAC, "port security")
	want(t, r, "gateway", OK)
	want(t, r, "reach", Failure, "c1", "does not answer")

	for _, c := range []struct{ file, text, word string }{
		{"sys/class/dmi/id/sys_vendor", "VMware, Inc.", "Forged transmits"},
		{"sys/class/dmi/id/sys_vendor", "Microsoft Corporation", "MacAddressSpoofing On"},
		{"sys/class/dmi/id/sys_vendor", "innotek GmbH", "allow-all"},
		{"sys/class/dmi/id/sys_vendor", "QEMU", "MAC filter"},
		{"sys/class/dmi/id/sys_vendor", "Amazon EC2", "ipvlan_mode=l3"},
		{"sys/class/dmi/id/chassis_asset_tag", "7783-7084-3265-9085-8269-3286-77", "Azure"},
		{"sys/hypervisor/type", "xen", "locking-mode=unlocked"},
		{"proc/sys/kernel/osrelease", "5.15.167.4-microsoft-standard-WSL2", "networkingMode"},
	} {
		s.conf.Root = t.TempDir()
		s.root = s.conf.Root
		s.file(c.file, c.text+"\n")
		w := &sight{Config: s.conf}
		if f := w.blame(&wire{layers: []link.Layer{{Name: "eth1"}}}, Finding{}); !strings.Contains(strings.Join(f.Try, "; ")+f.Cause, c.word) {
			t.Errorf("on %s it says %+v, want %q", c.text, f, c.word)
		}
	}
	s.network.Kind, s.network.Mode = lan.Ipvlan, lan.ModeL2
	s.conf.Daemon.Endpoints = nil
	want(t, s.run(""), "new-mac", Note, "ipvlan")
}

func TestGatewaySilent(t *testing.T) {
	s := newSite(t)
	s.container("192.168.7.20")
	s.router.IP("addr flush dev eth0")
	other := s.device("192.168.7.9/24") // somebody is there
	stop := keepTalking(t, other, "192.168.7.99")
	defer stop()
	r := s.run("")
	want(t, r, "gateway", Failure, gatewayText, "no reply")
	want(t, r, "reach", Failure, "neighbour entry of 192.168.7.1: no reply")
	want(t, r, "wire", OK)
}

func TestGatewayDropsPings(t *testing.T) {
	s := newSite(t)
	s.container("192.168.7.20")
	if err := s.router.NS.Do(func() error { return os.WriteFile("/proc/sys/net/ipv4/icmp_echo_ignore_all", []byte("1"), 0o644) }); err != nil {
		t.Fatal(err)
	}
	r := s.run("")
	none(t, r)
	want(t, r, "reach", Note, "but is there")
}

func TestDuplicates(t *testing.T) {
	s := newSite(t)
	s.container("192.168.7.20")
	thief := s.device("192.168.7.20/24")
	second := s.device(gatewayText + "/24")
	s.network.IPv6 = []lan.Subnet{{Pool: netip.MustParsePrefix("2001:db8:7::/64"), Gateway: netip.MustParseAddr("2001:db8:7::1")}}
	s.conf.Daemon.Endpoints[0].IPv6 = netip.MustParsePrefix("2001:db8:7::20/64")
	thief.IP("addr add 2001:db8:7::20/64 dev eth0 nodad")
	s.router.IP("addr add 2001:db8:7::1/64 dev eth0 nodad")
	r := s.run("")
	want(t, r, "duplicate", Failure, "c1 on lan", "2001:db8:7::20", s.mac(thief, "eth0"))
	want(t, r, "gateway", OK, "2001:db8:7::1", s.mac(s.router, "eth0"))
	want(t, r, "duplicate", Failure, "c1 on lan", "192.168.7.20", s.mac(thief, "eth0"))
	want(t, r, "duplicate", Failure, "2 devices answer for the gateway", s.mac(second, "eth0"), s.mac(s.router, "eth0"))
}

func TestDHCPServers(t *testing.T) {
	s := newSite(t)
	dnsmasq(t, s.router, "--dhcp-range=192.168.7.100,192.168.7.120,5m")
	other := s.device("192.168.7.2/24")
	dnsmasq(t, other, "--dhcp-range=192.168.7.150,192.168.7.160,5m")
	s.network.IPv4[0].Source = lan.SourceDHCP
	s.network.IPv4[0].Gateway = netip.Addr{}
	r := s.run("")
	want(t, r, "dhcp", Warning, "2 DHCP servers", "192.168.7.1 ("+s.mac(s.router, "eth0"), "192.168.7.2 ("+s.mac(other, "eth0"))
	// A static pool that the server gives out too.
	s.network.IPv4[0].Source = lan.SourcePool
	s.network.IPv4[0].Gateway = netip.MustParseAddr(gatewayText)
	s.conf.Daemon.Pools = []ipam.PoolState{{ID: "p", Networks: []string{s.network.ID}, Subnet: netip.MustParsePrefix(subnetText),
		First: netip.MustParseAddr("192.168.7.2"), Last: netip.MustParseAddr("192.168.7.254"), Counts: ipam.Counts{Size: 253, Free: 253}}}
	r = s.run("lan")
	want(t, r, "dhcp-pool", Warning, "network lan", "192.168.7.2", "--ip-range")
	want(t, r, "dhcp", Note, "2 DHCP servers")
	want(t, r, "pool", OK, "253")
}

func TestNoDHCPServer(t *testing.T) {
	s := newSite(t)
	s.network.IPv4[0].Source = lan.SourceDHCP
	want(t, s.run(""), "dhcp", Failure, "lan is to have its addresses from one", "2 DHCPDISCOVER")
}

func TestRouters(t *testing.T) {
	s := newSite(t)
	v6 := netip.MustParsePrefix("2001:db8:7::/64")
	s.network.IPv6 = []lan.Subnet{{Pool: v6}}
	s.network.IPv6Mode = lan.IPv6SLAAC
	want(t, s.run(""), "router", Failure, "no router advertises")
	s.router.IP("addr add 2001:db8:9::1/64 dev eth0 nodad")
	dnsmasq(t, s.router, "--enable-ra", "--dhcp-range=2001:db8:9::,ra-only")
	f := want(t, s.run(""), "router", Warning, "other prefixes", "2001:db8:9::/64")
	if len(f.Evidence) != 1 {
		t.Errorf("%+v", f)
	}
	s.network.IPv6[0].Pool = netip.MustParsePrefix("2001:db8:9::/64")
	want(t, s.run(""), "router", OK, "one IPv6 router")
}

func TestPathMTU(t *testing.T) {
	s := newSite(t)
	s.container("192.168.7.20")
	s.router.IP("link set eth0 mtu 1420")
	s.sw.IP("link set p2 mtu 1420")
	r := s.run("")
	want(t, r, "path-mtu", Warning, "1500 bytes", "1420 bytes are answered", "driver.mtu=1420")
	none(t, r, "path-mtu")
}

func TestMTUs(t *testing.T) {
	s := newSite(t)
	s.network.MTU = 9000
	want(t, s.run(""), "mtu", Failure, "network lan", "9000", "ip link set eth1 mtu 9000")
}

func TestLinkSpeed(t *testing.T) {
	s := newSite(t)
	s.file("sys/class/net/eth1/speed", "10\n")
	s.file("sys/class/net/eth1/duplex", "half\n")
	sight, err := see(s.conf)
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{text: "eth1", layers: []link.Layer{{Name: "eth1", Kind: "device"}}}
	if list := sight.checkSpeed(w); len(list) != 1 || list[0].Verdict != Warning || !strings.Contains(list[0].What, "half duplex") {
		t.Errorf("%+v", list)
	}
}

func TestMixedKinds(t *testing.T) {
	s := newSite(t)
	s.conf.Engine.Networks = append(s.conf.Engine.Networks, EngineNetwork{ID: "b", Name: "old", Driver: "ipvlan", Options: map[string]string{"parent": "eth1"}})
	want(t, s.run(""), "mixed", Failure, "macvlan: lan", "ipvlan: old")
}

func TestBuiltInBeside(t *testing.T) {
	s := newSite(t)
	s.conf.Daemon.Pools = []ipam.PoolState{{Networks: []string{s.network.ID}, Subnet: netip.MustParsePrefix(subnetText), First: netip.MustParseAddr("192.168.7.2"), Counts: ipam.Counts{Size: 253, Free: 5}}}
	old := EngineNetwork{ID: "b", Name: "old", Driver: "macvlan", Options: map[string]string{"parent": "eth1"}, Subnets: []string{subnetText}, Ranges: []string{""}, Gateways: []string{gatewayText}}
	s.conf.Engine.Networks = append(s.conf.Engine.Networks, old)
	r := s.run("")
	want(t, r, "built-in", Warning, "lan (lanyard) and old (macvlan)")
	want(t, r, "pool", Warning, "only 5")
	s.conf.Daemon.Pools[0].Free = 0
	s.conf.Daemon.Pools[0].Range = netip.MustParsePrefix("192.168.7.128/25")
	s.conf.Engine.Networks[1].Ranges[0] = "192.168.7.0/25"
	r = s.run("")
	none(t, r, "pool")
	want(t, r, "pool", Failure, "no address of "+subnetText)
}

// What is wrong inside a container.
func TestInside(t *testing.T) {
	s := newSite(t)
	c1, c2, c3, c4 := s.container("192.168.7.21"), s.container("192.168.7.22"), s.container("192.168.7.23"), s.container("192.168.7.24")
	s.settle()
	c1.IP("link del eth0")
	c2.IP("addr del 192.168.7.22/24 dev eth0")
	c3.IP("link set eth0 down")
	c4.IP("route del default")
	r := s.run("")
	want(t, r, "container-link", Failure, "c1 on lan", "not in the container", "docker restart c1")
	want(t, r, "container-link", Failure, "c2 on lan", "192.168.7.22 is not on eth0")
	want(t, r, "container-link", Failure, "c3 on lan", "eth0 is down")
	want(t, r, "default-route", Warning, "c4 on lan", "no default route")
	c4.IP("route add default via 192.168.7.77")
	want(t, s.run("c4"), "default-route", Warning, "via 192.168.7.77, not the network's gateway")
	c4.Vanish()
	s.ends = nil
	want(t, s.run("c4"), "container-link", Failure, "c4 on lan", "namespace is gone")
}

func TestAddressThatTheKernelRefuses(t *testing.T) {
	s := newSite(t)
	s.network.IPv6 = []lan.Subnet{{Pool: netip.MustParsePrefix("2001:db8:7::/64")}}
	c := s.container("192.168.7.20")
	s.device("2001:db8:7::20/64")
	s.settle()
	c.IP("addr add 2001:db8:7::20/64 dev eth0")
	s.conf.Daemon.Endpoints[0].IPv6 = netip.MustParsePrefix("2001:db8:7::20/64")
	for end := time.Now().Add(10 * time.Second); !strings.Contains(c.IP("addr show dev eth0"), "dadfailed"); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the kernel does not notice: ", c.IP("addr show dev eth0"))
		}
	}
	want(t, s.run(""), "duplicate", Failure, "c1 on lan", "2001:db8:7::20", "does not use it")
}

func TestHostAccessDoesNotWork(t *testing.T) {
	s := newSite(t)
	s.network.HostAccess = true
	s.container("192.168.7.20")
	want(t, s.run(""), "host-access", Failure, "c1", "no route to 192.168.7.20")
	s.host.IP("addr add 192.168.7.5/24 dev eth1") // by the parent it does not go
	want(t, s.run(""), "host-access", Failure, "does not answer the host at 192.168.7.20")
}

// What the daemon says, told on.
func TestDaemonSays(t *testing.T) {
	s := newSite(t)
	s.network.Problem = "parent eth1 is down"
	s.conf.Client = control.Version{Version: "2"}
	now := time.Now()
	s.conf.Daemon = Daemon{
		Version: control.Version{Version: "1"},
		Pools: []ipam.PoolState{{ID: "p", Networks: []string{s.network.ID}, Wire: "eth1", Subnet: netip.MustParsePrefix(subnetText),
			First: netip.MustParseAddr("192.168.7.2"), Last: netip.MustParseAddr("192.168.7.254"), Counts: ipam.Counts{Size: 253, Free: 200}}},
		Conflicts: []ipam.AddressState{
			{Address: netip.MustParseAddr("10.9.9.9"), State: ipam.StateConflict, MAC: "02:00:00:00:00:09", Wire: "eth1", Since: now},
			{Address: netip.MustParseAddr("192.168.7.30"), State: ipam.StateConflict, MAC: "02:00:00:00:00:01", Wire: "eth1", Since: now},
			{Address: netip.MustParseAddr("192.168.7.31"), State: ipam.StateUsed, Container: "web", Rival: "02:00:00:00:00:02", Wire: "eth1", Network: s.network.ID},
		},
		Leases: []ipam.LeaseState{
			{ID: "l1", Network: s.network.ID, State: ipam.LeaseLost, Address: netip.MustParseAddr("192.168.7.40")},
			{ID: "l2", Network: s.network.ID, State: ipam.LeaseRebinding, Problem: "server 192.168.7.1 does not answer", EndsAt: now.Add(time.Hour)},
			{ID: "l3", Network: s.network.ID, State: ipam.LeaseBound},
			{ID: "l4", Network: s.network.ID, State: ipam.LeaseFallback},
		},
		Steps: []engine.Step{{Do: engine.AdoptNetwork, What: "network x", Why: "Docker has it"}},
		Notes: []string{"the state file was damaged"},
		Hosts: &cluster.Hosts{Etcd: "10.0.0.1:2379", Hosts: []cluster.Host{{Name: "a", Self: true, Alive: true}, {Name: "b", Addresses: 3, Silent: now.Add(-time.Hour)}}},
	}
	s.conf.Clock = func() (bool, error) { return false, nil }
	r := s.run("")
	want(t, r, "network", Failure, "network lan", "parent eth1 is down", "lanyard network inspect lan")
	want(t, r, "daemon", Warning, "daemon is lanyard 1, this command is 2")
	want(t, r, "conflict", Note, "network lan", "1 address", "192.168.7.30 by 02:00:00:00:00:01")
	for _, f := range r.Findings { // what no network gives out is nobody's trouble
		if strings.Contains(f.What+fmt.Sprint(f.Evidence), "10.9.9.9") {
			t.Errorf("%+v", f)
		}
	}
	want(t, r, "conflict", Failure, "192.168.7.31", "02:00:00:00:00:02", "web")
	want(t, r, "lease", Failure, "l1", "192.168.7.40")
	want(t, r, "lease", Warning, "l2", "does not answer")
	want(t, r, "lease", Warning, "l4", "dhcp_fallback")
	want(t, r, "leftovers", Warning, "adopt network network x")
	want(t, r, "store", Warning, "damaged")
	want(t, r, "etcd", Warning, "host b", "3 addresses", "lanyard host forget b")
	want(t, r, "etcd", OK, "2 hosts")
	want(t, r, "clock", Warning, "other hosts share")
	s.conf.Daemon.Hosts.Problem = "context deadline exceeded"
	want(t, s.run(""), "etcd", Failure, "context deadline exceeded", "10.0.0.1:2379")
}

func TestEngines(t *testing.T) {
	s := newSite(t)
	for _, c := range []struct {
		e     Engine
		v     Verdict
		words []string
	}{
		{Engine{Err: errors.New("connection refused"), Where: "unix:///x"}, Failure, []string{"unix:///x", "connection refused"}},
		{Engine{Err: unix.EACCES}, Failure, []string{"sudo lanyard doctor"}},
		{Engine{Version: "19.03.15"}, Warning, []string{"older than 20.10"}},
		{Engine{Version: "20.10.24"}, OK, nil},
		{Engine{Version: "29.1.0"}, OK, []string{"pre-release of 29"}},
		{Engine{Version: "28.5.2", System: "Docker Desktop"}, Failure, []string{"virtual machine"}},
		{Engine{Version: "28.5.2", Rootless: true}, Failure, []string{"rootless"}},
	} {
		s.conf.Engine = c.e
		w := &sight{Config: s.conf}
		r := &Report{Findings: w.checkDocker()}
		r.Findings[0].complete()
		want(t, r, "docker", c.v, c.words...)
	}
	s.conf.Daemon = Daemon{Err: fmt.Errorf("socket: %w", control.ErrNotRunning)}
	s.conf.Engine = Engine{Version: "28.5.2", Networks: []EngineNetwork{{ID: "1", Name: "lan", Driver: "lanyard", Ours: true, Options: map[string]string{"parent": "eth1"}}}}
	s.conf.Target = ""
	r, err := Run(t.Context(), s.conf)
	if err != nil {
		t.Fatal(err)
	}
	want(t, r, "daemon", Failure, "not running", "systemctl start lanyard")
	want(t, r, "parent", OK, "eth1 is up") // Docker says what there is
}

func TestPluginSocket(t *testing.T) {
	s := newSite(t)
	s.conf.PluginSocket = filepath.Join(t.TempDir(), "lanyard.sock")
	want(t, s.run(""), "plugin-socket", Failure, "is not there")
	l, err := net.Listen("unix", s.conf.PluginSocket)
	if err != nil {
		t.Fatal(err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	want(t, s.run(""), "plugin-socket", Failure, "nobody listens", "connection refused")
}

func TestStoreIsFull(t *testing.T) {
	s := newSite(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, 0) })
	s.conf.StateDir = dir
	want(t, s.run(""), "store", Warning, "2 MB are left")
	if err := os.WriteFile(filepath.Join(dir, "full"), make([]byte, 2<<20-64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	want(t, s.run(""), "store", Failure, "is full", "df -h")
	if err := unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	want(t, s.run(""), "store", Failure, "read-only", "findmnt")
}

// The kernel that the tests run on is asked for real; a network that needs what it lacks cannot work.
func TestKernelModules(t *testing.T) {
	s := newSite(t)
	lacks, err := tryKinds()
	if err != nil {
		t.Fatal(err)
	}
	if lacks["macvlan"] != nil {
		t.Errorf("macvlan: %v", lacks["macvlan"])
	}
	r := s.run("")
	if len(lacks) == 0 {
		want(t, r, "kernel-modules", OK, "macvlan, ipvlan, 802.1Q")
		return
	}
	if os.Getenv(kerneltest.FullKernel) != "" {
		t.Fatalf("this kernel ought to have all, and lacks %v", lacks)
	}
	want(t, r, "kernel-modules", Note, "ipvlan", "no network here needs it")
	s.network.Kind, s.network.Mode = lan.Ipvlan, lan.ModeL2
	s.file("etc/os-release", "ID=ubuntu\nID_LIKE=debian\n")
	s.file("proc/sys/kernel/osrelease", "6.8.0-45-generic\n")
	want(t, s.run(""), "kernel-modules", Failure, "networks here need", "linux-modules-extra-6.8.0-45-generic", "modprobe 8021q")
	s.file("lib/modules/6.8.0-47-generic/modules.dep", "")
	want(t, s.run(""), "kernel-modules", Failure, "upgraded since the last boot", "reboot")
}

func TestPackages(t *testing.T) {
	for _, c := range []struct{ osRelease, kernel, word string }{
		{"ID=ubuntu\nID_LIKE=debian", "6.8.0-1013-raspi", "linux-modules-extra-raspi"},
		{"ID=debian", "6.1.0-26-cloud-amd64", "linux-image-amd64"},
		{"ID=debian", "6.12.34+rpt-rpi-v8", "reinstall"},
		{`ID="rocky"` + "\n" + `ID_LIKE="rhel centos fedora"`, "5.14.0-427.el9.x86_64", "kernel-modules-5.14.0-427.el9.x86_64"},
		{"ID=alpine", "6.6.58-0-virt", "linux-lts"},
		{"ID=arch", "6.11.5-arch1-1", "pacman"},
		{"ID=opensuse-leap\nID_LIKE=\"suse opensuse\"", "6.4.0", "kernel-default"},
		{"ID=openwrt", "6.6", "kmod-macvlan"},
		{"", "4.4.302+", "CONFIG_MACVLAN"},
	} {
		if got := packageFor(c.osRelease, c.kernel); !strings.Contains(got, c.word) {
			t.Errorf("%q on %s: %s", c.osRelease, c.kernel, got)
		}
	}
}

func TestTargets(t *testing.T) {
	s := newSite(t)
	s.container("192.168.7.20")
	for target, word := range map[string]string{"lan": "c1 on lan", "c1": "c1 on lan", "0123456789ab": "c1 on lan", "eth1": "c1 on lan"} {
		want(t, s.run(target), "container-link", OK, word)
	}
	r := s.run("c1")
	if i := slices.IndexFunc(r.Findings, func(f Finding) bool { return f.Subject == onHost && f.Verdict < Warning }); i >= 0 {
		t.Errorf("asked for a container, it tells of the host: %+v", r.Findings[i])
	}
	s.conf.Target = "lam"
	if _, err := Run(t.Context(), s.conf); !errors.Is(err, lan.ErrNotFound) || !strings.Contains(err.Error(), "did you mean lan?") {
		t.Errorf("lam: %v", err)
	}
	s.conf.Target = "nothing-like-it"
	if _, err := Run(t.Context(), s.conf); err == nil || !strings.Contains(err.Error(), "is no container, network or parent") {
		t.Errorf("%v", err)
	}
	// A parent without a network yet: its own gateway is asked.
	s.plug(s.host, "eth2")
	s.host.IP("addr add 192.168.7.6/24 dev eth2")
	s.host.IP("route add default via %s dev eth2", gatewayText)
	r = s.run("eth2")
	want(t, r, "gateway", OK, gatewayText)
	want(t, r, "new-mac", OK)
}

// It ends when it is told to, and in any case in time.
func TestEndsEarly(t *testing.T) {
	s := newSite(t)
	s.conf.Listen = time.Minute
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	if _, err := Run(ctx, s.conf); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
}

// It leaves nothing behind, and makes no link where the host is.
func TestLeavesNothing(t *testing.T) {
	s := newSite(t)
	s.container("192.168.7.20")
	before := s.host.Links()
	s.run("")
	if after := s.host.Links(); !slices.Equal(before, after) {
		t.Errorf("links were %v and are %v", before, after)
	}
	if out := s.host.IP("-d link show eth1"); strings.Contains(out, "PROMISC") {
		t.Errorf("eth1 is promiscuous: %s", out)
	}
}

// VLANs on a trunk that carries 100, has 200 untagged, and does not have 300.
func TestVLANs(t *testing.T) {
	kerneltest.Need(t, "vlan")
	s := newSite(t)
	s.settle()
	s.router.IP("addr flush dev eth0")
	for i, id := range []int{100, 200, 300} {
		s.router.IP("link add link eth0 name eth0.%d type vlan id %d", id, id)
		s.router.IP("addr add 192.168.7.%d/24 dev eth0.%d", i+1, id)
		s.router.IP("link set eth0.%d up", id)
		s.router.IP("neigh flush all")
	}
	if err := s.router.NS.Do(func() error { // each VLAN answers for its own address
		return os.WriteFile("/proc/sys/net/ipv4/conf/all/arp_ignore", []byte("1"), 0o644)
	}); err != nil {
		t.Fatal(err)
	}
	s.sw.IP("link set br0 type bridge vlan_filtering 1")
	for _, line := range []string{"p2 vid 100", "p2 vid 200", "p2 vid 300", "p1 vid 100", "p1 vid 200 untagged"} {
		if err := s.sw.NS.Do(func() error {
			return exec.Command("bridge", append([]string{"vlan", "add", "dev"}, strings.Fields(line)...)...).Run()
		}); err != nil {
			t.Fatal(line, err)
		}
	}
	use := func(name, gateway string) {
		s.network.Parent.Name, s.network.ParentLink = name, ""
		s.network.IPv4[0].Gateway = netip.MustParseAddr(gateway)
	}
	// The sub-interface does not exist yet; then it does.
	use("eth1.100", "192.168.7.1")
	r := s.run("")
	want(t, r, "vlan", OK, "is on the trunk")
	want(t, r, "parent", OK, "eth1.100 is made with the first network")
	want(t, r, "new-mac", OK)
	s.host.IP("link add link eth1 name eth1.100 type vlan id 100")
	s.host.IP("link set eth1.100 up")
	s.ends = append(s.ends, end{s.host, "eth1.100"})
	r = s.run("")
	want(t, r, "vlan", OK, "is on the trunk")
	want(t, r, "gateway", OK, "192.168.7.1")
	none(t, r)
	s.host.IP("link set eth1 mtu 1400")
	want(t, s.run(""), "mtu", OK, "1400") // the kernel lowers the VLAN's
	// One that comes without its tag.
	use("eth1.200", "192.168.7.2")
	r = s.run("")
	want(t, r, "vlan", Failure, "eth1, VLAN 802.1Q:200", "the answer of 192.168.7.2 came without a tag", "native VLAN")
	// One that does not come at all, while others do.
	stop := keepTalking(t, s.router, "192.168.7.99")
	defer stop()
	use("eth1.300", "192.168.7.3")
	r = s.run("")
	want(t, r, "vlan", Failure, "nothing with tag 300", "with tag 100", "carry VLAN 300 tagged")
	r = s.run("eth1.300")
	want(t, r, "vlan", Failure, "lanyard doctor eth1.300")
}
