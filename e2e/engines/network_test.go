//go:build lab

package engines

import (
	"os"
	"strings"
	"testing"
)

func TestNullIPAM(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh("docker network create -d lanyard --ipam-driver null -o parent=eth1 raw")
		out := u.sh("docker run --rm --network raw busybox:lab ip addr show eth0")
		if !strings.Contains(out, "link/ether") || strings.Contains(out, "inet ") {
			u.t.Errorf("want a link without an address:\n%s", out)
		}
		u.sh(run + "--name c1 --network raw --cap-add NET_ADMIN busybox:lab")
		u.sh("docker exec c1 ip addr add 10.99.0.1/24 dev eth0 && docker restart -t 0 c1")
	})
}

func TestFamilies(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh("docker network create -d lanyard --ipv6 --subnet 192.168.0.0/16 --gateway 192.168.0.1 --subnet fd00:1::/64 --gateway fd00:1::1 -o parent=eth1 dual")
		u.sh(run + "--name c1 --network dual --ip 192.168.1.9 --ip6 fd00:1::9 busybox:lab")
		u.says("docker exec c1 ip addr show eth0", "192.168.1.9/16", "fd00:1::9/64")
		u.says("docker exec c1 ip route", "default via 192.168.0.1")
		u.says("docker exec c1 ip -6 route", "default via fd00:1::1")
		u.says("docker run --rm --network dual busybox:lab ping -6 -c1 -W3 fd00:1::9", "1 packets received")
		if u.engine == "20.10" {
			return // IPv6 alone: from 28 on
		}
		u.sh("docker network create -d lanyard --ipv4=false --ipv6 --subnet fd00:2::/64 -o parent=eth1 six")
		out := u.says("docker run --rm --network six busybox:lab ip addr show eth0", "fd00:2::")
		if strings.Contains(out, "inet ") {
			u.t.Errorf("an IPv4 address:\n%s", out)
		}
	})
}

func TestSeveralSubnets(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh("docker network create -d lanyard --ipv6 --subnet 172.28.100.0/24 --subnet 172.28.102.0/24 --gateway 172.28.102.254 " +
			"--subnet 2001:db8:abc2::/64 --subnet 2001:db8:abc4::/64 --gateway 2001:db8:abc4::254 -o parent=eth1 multi")
		u.sh(run + "--name c1 --network multi --ip 172.28.100.20 --ip6 2001:db8:abc2::20 busybox:lab")
		u.sh(run + "--name c3 --network multi --ip 172.28.102.20 --ip6 2001:db8:abc4::20 busybox:lab")
		// A gateway that nobody named is the first address, on every engine.
		u.says("docker inspect c1 --format '{{json .NetworkSettings.Networks.multi}}'", `"Gateway":"172.28.100.1"`, `"IPv6Gateway":"2001:db8:abc2::1"`)
		u.says("docker inspect c3 --format '{{json .NetworkSettings.Networks.multi}}'", `"Gateway":"172.28.102.254"`, `"IPv6Gateway":"2001:db8:abc4::254"`)
		u.says("docker exec c3 ip route", "default via 172.28.102.254 dev eth0")
		u.says("docker exec c3 ip -6 route", "default via 2001:db8:abc4::254 dev eth0")
		u.says("docker run --rm --network multi --ip 172.28.100.21 busybox:lab ping -c1 -W2 172.28.100.20", "1 packets received")
	})
}

// A network made of a configuration, as management pages make them.
func TestConfigFrom(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh("docker network create --config-only --subnet 192.168.0.0/16 --ip-range 192.168.11.0/24 --gateway 192.168.0.1 -o parent=eth1 -o macvlan_mode=private config")
		u.sh("docker network create -d lanyard --config-from config lan")
		u.says("docker run --rm --network lan busybox:lab ip addr show eth0", "inet 192.168.11.")
		u.says("lanyard network ls", "private", "eth1", "192.168.0.0/16")
		u.sh("docker network rm lan && docker network rm config")
		u.sh("docker network create --config-only --subnet 10.62.0.0/24 -o parent=eth1 -o macvlan_mod=private config")
		u.fails("docker network create -d lanyard --config-from config lan", "did you mean macvlan_mode?")
		u.sh("docker network rm config")
	})
}

func TestNoGateway(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh("docker network create -d lanyard --subnet 192.168.0.0/16 -o parent=eth1 -o gateway=none nogw")
		u.sh("docker network create -d lanyard --internal --subnet 10.30.0.0/24 -o parent=eth1 inside")
		for _, net := range []string{"nogw", "inside"} {
			out := u.sh("docker run --rm --network " + net + " busybox:lab ip route")
			if strings.Contains(out, "default") {
				u.t.Errorf("%s has a default route:\n%s", net, out)
			}
			u.fails("docker run --rm --network "+net+" busybox:lab ping -c1 -W1 8.8.8.8", "unreachable")
		}
	})
}

// Docker from 26.1 on answers outside names only where a network has a gateway or
// a default route (docs/decisions.md).
func TestOutsideNames(t *testing.T) {
	onEach(t, func(u *user) {
		if u.engine == "20.10" {
			return // takes no resolver at 127.0.0.1
		}
		stop, err := u.ServeDNS()
		u.mustDo(err)
		defer stop()
		u.sh("docker network create -d lanyard --subnet 192.168.0.0/16 -o parent=eth1 lan")
		u.sh("docker network create -d lanyard --subnet 10.31.0.0/24 -o parent=eth1 -o gateway=none nogw")
		u.sh("docker network create -d lanyard --internal --subnet 10.30.0.0/24 -o parent=eth1 inside")
		u.says("docker run --rm --network lan busybox:lab nslookup test.example", "203.0.113.53")
		for _, net := range []string{"nogw", "inside"} {
			u.fails("docker run --rm --network "+net+" busybox:lab nslookup test.example", "SERVFAIL")
		}
	})
}

func TestMACAndMTUAndName(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh(network + "-o com.docker.network.driver.mtu=1400 -o ifname=lan7 lan")
		u.says("docker run --rm --network lan --mac-address 02:11:22:33:44:55 busybox:lab ip link show", "02:11:22:33:44:55", "mtu 1400")
		names := "docker run --rm --network lan busybox:lab ip link show; docker run --rm --network name=lan,driver-opt=com.docker.network.endpoint.ifname=lan9 busybox:lab ip link show"
		if u.engine == "29" {
			u.says(names, " lan7@", " lan9@")
		} else {
			u.says(names, " eth0@")
			log, err := os.ReadFile(u.LanyardLog())
			u.mustDo(err)
			if !strings.Contains(string(log), "does not heed the interface name") {
				u.t.Error("no warning about the name")
			}
		}
		u.sh(run + "--name c1 --network lan --mac-address 02:11:22:33:44:66 busybox:lab")
		u.fails("docker run --rm --network lan --mac-address 02:11:22:33:44:66 busybox:lab true", "MAC address 02:11:22:33:44:66 is in use")
		u.fails("docker run --rm --network lan --mac-address 01:11:22:33:44:66 busybox:lab true", "multicast")
	})
}

func TestWhatIsRefused(t *testing.T) {
	onEach(t, func(u *user) {
		create := "docker network create -d lanyard --subnet 10.40.0.0/24 "
		u.sh(network + "lan")
		u.fails(create+"-o parent=eth1 -o macvlan_mod=bridge bad", `unknown network option "macvlan_mod"; did you mean macvlan_mode?`)
		u.fails(create+"-o parent=eth1 -o mtu=1400 bad", "did you mean com.docker.network.driver.mtu?")
		u.fails(create+"-o parent=eth1 -o macvlan_mode=brige bad", "did you mean bridge?")
		u.fails(create+"-o parent=eth9 bad", "parent eth9 is not on this host")
		u.fails(create+"-o parent=lo bad", "loopback")
		u.fails(create+"-o parent=eth1 -o ipvlan_mode=l2 bad", "macvlan network "+u.sh("docker network ls -q --filter name=lan"))
		u.fails(create+"-o parent=eth1 -o macvlan_mode=passthru bad", "cannot use mode passthru")
		u.fails(create+"-o parent=eth1 -o com.docker.network.driver.mtu=9000 bad", "more than the parent's")
		u.fails("docker run --rm --network name=lan,driver-opt=colour=blue busybox:lab true", `unknown endpoint option "colour"`)
		u.says("lanyard network ls -q | wc -l", "1")
	})
}

func TestPassthru(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh("docker network create -d lanyard --subnet 192.168.0.0/16 -o parent=eth1 -o macvlan_mode=passthru through")
		for range 2 {
			u.sh(run + "--name c1 --network through busybox:lab")
			got := mac(u, "c1")
			if !strings.Contains(u.sh("ip -o link show eth1"), got) {
				u.t.Errorf("the container's MAC %s is not its parent's", got)
			}
			u.fails("docker run --rm --network through busybox:lab true", "passthru takes one endpoint")
			u.sh("docker rm -f c1")
		}
	})
}
