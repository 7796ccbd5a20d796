//go:build lab

package engines

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/e2e/dhcpserver"
)

// leased is a network whose addresses are lanyard's to give.
const leased = "docker network create -d lanyard --ipam-driver lanyard --subnet 192.168.0.0/16 --ip-range 192.168.11.0/24 --gateway 192.168.0.1 -o parent=eth1 "

// addr is a container's address on a network.
func (u *user) addr(container, network string) string {
	u.t.Helper()
	return u.sh(fmt.Sprintf("docker inspect %s --format '{{(index .NetworkSettings.Networks \"%s\").IPAddress}}'", container, network))
}

// mac is a container's MAC address on its only network.
func (u *user) mac(container string) string {
	u.t.Helper()
	return u.sh(fmt.Sprintf("docker exec %s cat /sys/class/net/eth0/address", container))
}

func TestLeased(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh(leased + "lan")
		u.sh(run + "--name c1 --network lan busybox:lab")
		u.sh(run + "--name c2 --network lan --ip 192.168.11.77 busybox:lab")
		// Which address it is depends on the probes that have ended by then.
		c1 := u.addr("c1", "lan")
		u.says("docker exec c1 ip addr show eth0", "192.168.11.", c1+"/16")
		u.says("docker exec c1 ip route", "default via 192.168.0.1")
		u.says("docker exec c1 ping -c1 -W2 192.168.11.77", "1 packets received")
		u.fails("docker run --rm --network lan --ip 192.168.11.77 busybox:lab true", "address 192.168.11.77 on eth1 is held by")
		u.fails("docker run --rm --network lan --ip 192.168.0.1 busybox:lab true", "address 192.168.0.1 on eth1 is the gateway of network")
		u.says("lanyard pool ls", "192.168.0.0/16,192.168.11.0/24", "lan", "eth1")
		u.says("lanyard pool inspect lan", "192.168.11.77", "c2")
		u.says("lanyard address ls", c1, "c1", "192.168.11.77", "c2")
		const printer = "192.168.11.20"
		u.sh("lanyard address reserve " + printer + " --for printer --note upstairs && lanyard address ls | grep -q upstairs")
		// The same address is not used again at once.
		u.sh("docker rm -f c1")
		u.sh(run + "--name c3 --network lan busybox:lab")
		c3 := u.addr("c3", "lan")
		if !strings.HasPrefix(c3, "192.168.11.") || c3 == c1 || c3 == printer {
			u.t.Errorf("address %s: %s rests and %s is reserved", c3, c1, printer)
		}
		u.fails("lanyard address release "+c3, "is held by")
		u.sh("lanyard address release " + c1 + " && lanyard address release " + printer)
		u.sh(run + "--name c4 --network lan --ip " + c1 + " busybox:lab")
	})
}

// A LAN's subnet is always one that the host has a route to. Engines ask again and again
// for another pool where a plugin chooses such a one; we never choose.
func TestHostsOwnSubnet(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh("ip addr add 192.168.31.9/16 dev eth1")
		defer u.sh("ip addr del 192.168.31.9/16 dev eth1")
		start := time.Now()
		u.fails("docker network create -d lanyard --ipam-driver lanyard -o parent=eth1 no", "a subnet is needed: that of the wire; try: --subnet")
		u.fails("docker network create -d lanyard --ipam-driver lanyard --ipv6 --subnet 192.168.0.0/16 -o parent=eth1 no", "an IPv6 subnet is needed")
		if took := time.Since(start); took > 10*time.Second {
			u.t.Errorf("refused after %s", took)
		}
		u.says("docker network ls -q --filter type=custom | wc -l", "0")
		if out := u.sh("lanyard pool ls -q"); out != "" {
			u.t.Errorf("pools of networks that were refused: %s", out)
		}
		u.sh(strings.Replace(leased, "168.11.0/24", "168.31.8/29", 1) + "lan")
		u.fails("docker run --rm --network lan --ip 192.168.31.9 busybox:lab true", "address 192.168.31.9 on eth1 is this host's own address, on eth1")
		for range 3 {
			u.sh(run + "--network lan busybox:lab")
		}
		if out := u.sh("docker ps -q | xargs docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}'"); strings.Contains(out, "192.168.31.9 ") {
			u.t.Errorf("the host's own address was given: %s", out)
		}
	})
}

// The pool is full: who has it.
func TestPoolIsFull(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh("docker network create -d lanyard --ipam-driver lanyard --subnet 10.60.0.0/30 --subnet 10.61.0.0/30 --gateway 10.60.0.1 --gateway 10.61.0.1 -o parent=eth1 tiny")
		u.sh(run + "--name first --network tiny busybox:lab && " + run + "--name second --network tiny busybox:lab")
		// docker gives the subnets in no order.
		first, second := u.addr("first", "tiny"), u.addr("second", "tiny")
		if min(first, second) != "10.60.0.2" || max(first, second) != "10.61.0.2" {
			u.t.Errorf("addresses %s and %s", first, second)
		}
		u.says("docker exec second ip route", "default via "+strings.Replace(second, "0.2", "0.1", 1))
		u.fails("docker run --rm --network tiny busybox:lab true", "pool 10.60.0.0/30 on eth1 is full", first+" by", "pool 10.61.0.0/30 on eth1 is full", "try: lanyard address ls")
		u.sh("docker rm -f first")
		u.sh(run + "--name third --network tiny busybox:lab")
	})
}

// A network made of a configuration, as for Swarm.
func TestConfigFromLeased(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh("docker network create --config-only --ipam-driver lanyard --subnet 10.62.0.0/16 --ip-range 10.62.1.0/24 --gateway 10.62.0.1 -o parent=eth1 config")
		u.sh("docker network create -d lanyard --config-from config made")
		u.sh(run + "--name c1 --network made busybox:lab")
		u.says("docker exec c1 ip addr show eth0", "10.62.1.")
		u.mustDo(u.StopDockerd())
		u.mustDo(u.StartDockerd(u.t.Context()))
		u.sh("docker start c1")
		u.says("docker exec c1 ip addr show eth0", "10.62.1.")
		u.sh("docker rm -f c1 && docker network rm made && docker network rm config")
		if out := u.sh("lanyard pool ls -q"); out != "" {
			u.t.Errorf("pools left: %s", out)
		}
	})
}

// Docker's own address management refuses this; the wire decides here.
func TestOverlappingPools(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh(leased + "lan")
		u.sh("docker network create -d lanyard --ipam-driver lanyard --subnet 192.168.0.0/16 --ip-range 192.168.11.0/28 --gateway 192.168.0.1 --aux-address host=192.168.11.5 -o parent=eth1 lan2")
		var all []string
		for i := range 4 {
			for _, n := range []string{"lan", "lan2"} {
				name := fmt.Sprintf("%s-%d", n, i)
				u.sh(run + "--name " + name + " --network " + n + " busybox:lab")
				all = append(all, u.addr(name, n))
			}
		}
		seen := map[string]bool{"192.168.11.5": true}
		for _, a := range all {
			if seen[a] {
				u.t.Errorf("%s twice or set aside: %v", a, all)
			}
			seen[a] = true
		}
		u.says("docker exec lan-0 ping -c1 -W2 "+u.addr("lan2-3", "lan2"), "1 packets received")
		// Containers started at the same time on both.
		atOnce(10, func(i int) {
			if out, err := u.try(fmt.Sprintf(run+"--name m%d --network %s busybox:lab", i, []string{"lan", "lan2"}[i%2])); err != nil && !strings.Contains(out, "is full") {
				u.t.Error(out, err)
			}
		})
		if twice := u.sh(`docker ps -q | xargs docker inspect --format '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}' | sort | uniq -d`); twice != "" {
			u.t.Errorf("twice: %s", twice)
		}
		// An engine that starts again keeps them, and gives none twice.
		u.sh("docker rm -f $(docker ps -aq --filter name=m)")
		u.mustDo(u.StopDockerd())
		u.mustDo(u.StartDockerd(u.t.Context()))
		u.sh(run + "--name after --network lan busybox:lab")
		if a := u.addr("after", "lan"); seen[a] && !strings.Contains(u.sh("docker ps -q"), "\n") {
			u.t.Errorf("%s is another's", a)
		}
	})
}

// squat puts a device with an address on the wire, until the test ends, and returns its
// MAC address and its place; its link is dhcpserver.ApartLink.
func (u *user) squat(addr string) (mac string, at dhcpserver.Runner) {
	u.t.Helper()
	ctx := context.Background()
	apart, err := dhcpserver.NewApart(ctx, u.Sh, fmt.Sprintf("%s/squatter-%d", u.t.TempDir(), time.Now().UnixNano()), "wire")
	u.mustDo(err)
	u.t.Cleanup(func() { u.closed(apart.Close(ctx)) })
	out, err := apart.Run(ctx, fmt.Sprintf("ip addr add %s dev %s && ip -br link show %[2]s | awk '{print $3}'", addr, dhcpserver.ApartLink))
	u.mustDo(err)
	return strings.TrimSpace(out), apart.Run
}

// A device on the wire has an address of the pool.
func TestConflictOnTheWire(t *testing.T) {
	onEach(t, func(u *user) {
		mac, _ := u.squat("192.168.21.1/16")
		u.sh(strings.Replace(leased, "168.11", "168.21", 1) + "lan")
		u.sh(run + "--name c1 --network lan busybox:lab")
		if got := u.addr("c1", "lan"); got == "192.168.21.1" || !strings.HasPrefix(got, "192.168.21.") {
			u.t.Errorf("address %s, and %s has .1", got, mac)
		}
		u.fails("docker run --rm --network lan --ip 192.168.21.1 busybox:lab true", "address 192.168.21.1 is in use on eth1 by "+mac)
		u.says("lanyard pool inspect lan", mac, "192.168.21.1")
		u.sh("docker rm -f c1 && docker network rm lan")
		u.sh(strings.Replace(strings.Replace(leased, "168.11", "168.21", 1), "-o parent", "-o acd=off -o parent", 1) + "lan")
		u.sh("docker run --rm --network lan --ip 192.168.21.1 busybox:lab true")
	})
}

// With conflict detection on, a container starts as fast as without, from the stock.
func TestStockIsFast(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh(leased + "lan")
		u.eventually("stock", func() string {
			if out := u.sh("lanyard pool inspect lan"); !strings.Contains(out, "16 of 16") {
				return out
			}
			return ""
		})
		start := time.Now()
		u.sh("docker run --rm --network lan busybox:lab true")
		u.t.Logf("docker run --rm from the stock: %s", time.Since(start))
	})
}

// A container that comes back has what it had, where it is certain that it is the same.
func TestIdentity(t *testing.T) {
	onEach(t, func(u *user) {
		had := func(name, network string) string { return u.addr(name, network) + " " + u.mac(name) }
		same := func(what, want, name, network string) {
			u.t.Helper()
			if got := had(name, network); got != want {
				u.t.Errorf("%s: had %s, has %s", what, want, got)
			}
		}
		// By the container's name: from 29 on.
		u.sh(leased + "lan")
		u.sh(run + "--name filler --network lan busybox:lab")
		u.sh(run + "--name web --network lan busybox:lab")
		web := had("web", "lan")
		u.sh("docker rm -f web")
		u.sh(run + "--name other --network lan busybox:lab")
		if got := had("other", "lan"); got == web {
			u.t.Errorf("another container has at once what web had: %s", got)
		}
		u.sh(run + "--name web --network lan busybox:lab")
		if got := had("web", "lan"); (got == web) != (u.engine == "29") {
			u.t.Errorf("by name: had %s, has %s", web, got)
		}
		if u.engine == "29" {
			u.sh("docker restart -t 0 web")
			same("restart", web, "web", "lan")
			u.mustDo(u.KillLanyard())
			u.mustDo(u.StartLanyard(u.t.Context(), "--log-level", "debug"))
			u.sh("docker restart -t 0 web")
			same("lanyard killed", web, "web", "lan")
			u.sh("docker rm -f $(docker ps -aq) && docker network rm lan && " + leased + "lan")
			u.sh(run + "--name web --network lan busybox:lab")
			same("network made anew", web, "web", "lan")
		}
		// Always: --ip.
		u.sh(run + "--name fixed --network lan --ip 192.168.11.99 busybox:lab")
		fixed := had("fixed", "lan")
		u.sh("docker restart -t 0 fixed")
		same("--ip, restart", fixed, "fixed", "lan")
		u.sh("docker rm -f fixed && " + run + "--name fixed --network lan --ip 192.168.11.99 busybox:lab")
		same("--ip, rm and run", fixed, "fixed", "lan")

		// On every engine: a network whose subnets are options, by a driver option or
		// the user's MAC address.
		const own = "docker network create -d lanyard --ipam-driver null -o subnet=10.7.0.0/16,fd00:7::/64 -o ip_range=10.7.1.0/24 -o gateway=10.7.0.1 -o parent=eth1 own"
		u.sh(own)
		start := func(name, flags string) {
			u.t.Helper()
			u.sh(run + "--name " + name + " --network " + flags + " busybox:lab")
		}
		start("ca", "name=own,driver-opt=identity=alice")
		start("cb", "own --mac-address 02:00:00:00:00:0b")
		start("cc", "name=own,driver-opt=ip=10.7.9.9")
		start("cd", "own")
		u.says("docker exec ca ip addr show eth0", "10.7.1.1/16", "fd00:7::1/64")
		u.says("docker exec cc ip addr show eth0", "10.7.9.9/16")
		u.says("docker exec cd ip route", "default via 10.7.0.1")
		u.says("docker exec cd ping -c1 -W2 10.7.1.1", "1 packets received")
		a, b, c := had("ca", "own"), had("cb", "own"), had("cc", "own")
		u.sh("docker restart -t 0 ca cb cc cd")
		same("identity, restart", a, "ca", "own")
		same("MAC address, restart", b, "cb", "own")
		same("ip, restart", c, "cc", "own")
		u.sh("docker rm -f ca cb cc cd && docker network rm own && " + own)
		start("cb", "own --mac-address 02:00:00:00:00:0b")
		start("cd", "own")
		start("ca", "name=own,driver-opt=identity=alice")
		same("identity, network made anew", a, "ca", "own")
		same("MAC address, network made anew", b, "cb", "own")
		u.fails("docker run --rm --network name=own,driver-opt=ip=10.8.0.1 busybox:lab true", "address 10.8.0.1 is in no subnet of network")
		u.fails("docker run --rm --network name=lan,driver-opt=identity=x busybox:lab true", "driver options ip, identity", "are for networks with --ipam-driver null and -o subnet=")
	})
}

// IPv6 from router advertisements of a real router, or not at all.
func TestIPv6Modes(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh(`cat >radvd.conf <<'E'
interface wire { AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4; prefix 2001:db8:5::/64 { AdvOnLink on; AdvAutonomous on; }; };
E
sysctl -qw net.ipv6.conf.wire.forwarding=1 net.ipv6.conf.wire.disable_ipv6=0
ip -6 addr add 2001:db8:5::1/64 dev wire nodad
radvd -C radvd.conf -p $PWD/radvd.pid -m stderr -n >radvd.log 2>&1 & sleep 0.5`)
		defer u.sh("kill $(cat radvd.pid); ip -6 addr del 2001:db8:5::1/64 dev wire; sysctl -qw net.ipv6.conf.wire.forwarding=0; rm -f radvd.*")
		four := strings.Replace(leased, "-o parent", "%s -o parent", 1)
		u.sh(fmt.Sprintf(four, "-o ipv6=slaac") + "slaac")
		u.sh(run + "--name c6 --network slaac busybox:lab")
		u.eventually("an address from the router", func() string {
			if out := u.sh("docker exec c6 ip -6 addr show eth0"); !strings.Contains(out, "2001:db8:5:") {
				return out + u.sh("cat radvd.log; ip -6 addr show dev wire; docker exec c6 sh -c 'grep . /proc/sys/net/ipv6/conf/eth0/*ra*'")
			}
			return ""
		})
		u.says("docker exec c6 ip -6 route", "default via fe80:")
		u.says("docker exec c6 ping -6 -c1 -W3 2001:db8:5::1", "1 packets received")
		u.says("lanyard endpoint ls", "2001:db8:5:", "(slaac)")
		before := u.sh("docker exec c6 ip -6 addr show eth0 | grep 2001")
		u.sh("docker restart -t 0 c6")
		u.eventually("the address again", func() string { return u.sh("docker exec c6 ip -6 addr show eth0 | grep -q 2001 || echo none") })
		if after := u.sh("docker exec c6 ip -6 addr show eth0 | grep 2001"); strings.Fields(before)[1] != strings.Fields(after)[1] && u.engine == "29" {
			u.t.Errorf("address was %s, is %s", before, after)
		}
		u.sh(fmt.Sprintf(four, "-o ipv6=off") + "off")
		u.sh(run + "--name c7 --network off busybox:lab")
		u.sh("docker network create -d lanyard --ipam-driver lanyard --ipv6 --subnet 192.168.0.0/16 --ip-range 192.168.12.0/24 --subnet fd00:6::/64 -o ipv6=static -o parent=eth1 static")
		u.sh(run + "--name st --network static busybox:lab")
		time.Sleep(6 * time.Second) // two advertisements
		if out := u.sh("docker exec c7 ip -6 addr show eth0; docker exec c7 ip -6 route"); strings.Contains(out, "inet6") || strings.Contains(out, "default") {
			u.t.Errorf("ipv6=off:\n%s", out)
		}
		out := u.says("docker exec st ip -6 addr show eth0", "fd00:6::")
		if strings.Contains(out, "2001:") {
			u.t.Errorf("ipv6=static took an address from the router:\n%s", out)
		}
		u.fails("docker network create -d lanyard -o ipv6=slaac --ipv6 --subnet fd00:8::/64 --subnet 10.8.0.0/16 -o parent=eth1 no", "ipv6=slaac takes addresses from routers")
	})
}
