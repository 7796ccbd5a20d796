//go:build lab

package engines

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/lanyard-net/lanyard/e2e/dhcpserver"
	"github.com/lanyard-net/lanyard/e2e/guide"
)

// lan is a LAN with a router, which is its DHCP server as well and has a printer's address, too, and the host's link to
// it, under the name that the page gives it.
func (u *user) lan(link, router, printer, from, to string, reservations ...dhcpserver.Reservation) {
	u.t.Helper()
	u.sh(guide.Images)
	if link != "eth1" {
		u.sh("ip link set eth1 down && ip link set eth1 name " + link + " && ip link set " + link + " up")
	}
	u.t.Cleanup(func() {
		u.sh("ip link set " + link + " down; ip link set " + link + " name eth1; ip addr flush dev eth1; ip link set eth1 up")
	})
	addr := netip.MustParsePrefix(router)
	u.leasing(func(c *dhcpserver.Config) {
		c.Addrs, c.Routers, c.DNS = []netip.Prefix{addr, netip.MustParsePrefix(printer)}, []netip.Addr{addr.Addr()}, []netip.Addr{addr.Addr()}
		c.V4 = &dhcpserver.Pool{Subnet: addr.Masked(), From: netip.MustParseAddr(from), To: netip.MustParseAddr(to)}
		c.Reservations = reservations
	})
}

func (u *user) follow(page string, before map[string]func()) {
	u.t.Helper()
	guide.Follow(u.t, page, before, func(_, script string) (string, error) { return u.try(script) })
}

func TestGuideHomeLab(t *testing.T) {
	onEach(t, func(u *user) {
		u.lan("eth0", "192.168.1.1/24", "192.168.1.240/24", "192.168.1.100", "192.168.1.199")
		u.sh("ip addr add 192.168.1.10/24 dev eth0")
		u.follow("home-lab.md", nil)
	})
}

// The host has three ports more than its own, and each has a station at its other end.
func TestGuideNetworkFunctions(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh(guide.Images)
		for _, n := range []string{"2", "3"} {
			u.sh(fmt.Sprintf("ip link add eth%[1]s type veth peer name wire%[1]s && ip link set eth%[1]s up && ip link set wire%[1]s up", n))
			u.t.Cleanup(func() { u.sh("ip link del eth" + n) })
		}
		apart, err := dhcpserver.NewApart(ctx, u.Sh, u.t.TempDir()+"/station", "wire2")
		u.mustDo(err)
		u.t.Cleanup(func() { u.closed(apart.Close(context.Background())) })
		_, err = apart.Run(ctx, "ip addr add 198.51.100.1/24 dev "+dhcpserver.ApartLink)
		u.mustDo(err)
		u.follow("network-functions.md", nil)
	})
}

// What a reboot with the systemd units is, package systemd tests; here all daemons and containers end at once.
func TestGuideEdgeGateway(t *testing.T) {
	onEach(t, func(u *user) {
		u.lan("eth1", "10.20.0.1/24", "10.20.0.240/24", "10.20.0.100", "10.20.0.199",
			dhcpserver.Reservation{MAC: "02:00:00:00:20:01", Addr: netip.MustParseAddr("10.20.0.50")})
		u.sh("ip addr add 10.20.0.2/24 dev eth1")
		u.follow("edge-gateway.md", map[string]func(){"after a power cut": func() {
			pids := u.sh("docker inspect -f '{{.State.Pid}}' $(docker ps -q)")
			u.mustDo(u.KillDockerd())
			u.mustDo(u.KillLanyard())
			u.sh("kill -KILL " + strings.ReplaceAll(pids, "\n", " "))
			u.mustDo(u.StartLanyard(ctx))
			u.mustDo(u.StartDockerd(ctx))
		}})
	})
}

// Each example is what compose takes, comes up, does what its first lines say, and goes without a trace.
func TestComposeExamples(t *testing.T) {
	onEach(t, func(u *user) {
		u.lan("eth0", "192.168.1.1/24", "192.168.1.240/24", "192.168.1.100", "192.168.1.199")
		u.sh("ip addr add 192.168.1.10/24 dev eth0")
		u.sh("ip link add eth1 type veth peer name wire1 && ip link set eth1 up && ip link set wire1 up")
		u.t.Cleanup(func() { u.sh("ip link del eth1") })
		ping := func(service, addr string) string {
			return "docker compose -f $file exec -T " + service + " ping -c1 -W2 " + addr
		}
		for _, c := range []struct {
			file, script string
			words        []string
		}{
			{file: "host-access.yaml", script: "curl -s http://192.168.1.230; " + ping("worker", "192.168.1.10") + " && " + ping("worker", "web"), words: []string{"Welcome to nginx!", "PING 192.168.1.10", "PING web (192.168.1.230)"}},
			{file: "dhcp.yaml", script: "lanyard lease ls; " + ping("web", "192.168.1.1"), words: []string{"192.168.1.1", "bound", "1 packets received"}},
			{file: "two-networks.yaml", script: "docker compose -f $file exec -T gateway sh -c 'ip -o -4 addr; ip route'", words: []string{"inet 192.168.1.235/24", "inet 10.20.0.5/24", "default via 192.168.1.1"}},
		} {
			file, err := filepath.Abs(filepath.Join("..", "..", "docs", "compose", c.file))
			u.mustDo(err)
			u.sh("docker compose -f " + file + " config -q && docker compose -f " + file + " up -d --pull never")
			u.says("file="+file+"; "+c.script, c.words...)
			u.sh("docker compose -f " + file + " down -t 0")
		}
	})
}
