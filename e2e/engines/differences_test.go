//go:build lab

package engines

import (
	"os"
	"strings"
	"testing"
)

// What docs/engines.md says of the engines' own macvlan driver and of Docker itself:
// an engine that changes it fails here, and the page is to be changed.

func TestBuiltInMacvlan(t *testing.T) {
	onEach(t, func(u *user) {
		create := "docker network create -d macvlan -o parent=eth1 "
		u.sh(create + "--subnet 10.50.0.0/24 first")
		u.sh(run + "--name c1 --network first busybox:lab")
		before := mac(u, "c1")
		u.sh("docker restart -t 0 c1")
		if same := mac(u, "c1") == before; same != (u.engine == "20.10") {
			u.t.Errorf("the same MAC after a restart: %v", same)
		}
		// No gateway was named.
		gateway := strings.Contains(u.sh("docker exec c1 ip route"), "default via 10.50.0.1")
		if gateway != (u.engine != "29") {
			u.t.Errorf("default route by the subnet's first address: %v", gateway)
		}
		if u.engine == "20.10" {
			u.fails(create+"--subnet 10.51.0.0/24 second", "already using parent interface eth1")
		} else {
			u.sh(create + "--subnet 10.51.0.0/24 second")
			u.sh("docker run --rm --network second busybox:lab true && docker network rm second")
		}
		u.sh("docker rm -f c1 && docker network rm first")

		u.sh(create + "--subnet 10.52.0.0/24 -o macvlan_mod=bridge -o com.docker.network.driver.mtu=1400 ignored")
		name := " lan8@"
		if u.engine == "20.10" {
			name = " eth0@"
		}
		u.says("docker run --rm --network name=ignored,driver-opt=com.docker.network.endpoint.ifname=lan8 busybox:lab ip link show", "mtu 1500", name)
	})
}

func TestOneSubnetTwice(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh("docker network create -d lanyard --subnet 10.57.0.0/24 -o parent=eth1 first")
		u.fails("docker network create -d lanyard --subnet 10.57.0.0/24 -o parent=eth1 second", "Pool overlaps with other one on this address space")
	})
}

// A network without a gateway: whether Docker keeps the first address for one.
func TestFirstAddress(t *testing.T) {
	onEach(t, func(u *user) {
		first := "10.61.0.1"
		if u.engine == "20.10" {
			first = "10.61.0.2"
		}
		for _, flags := range []string{"--internal", "-o gateway=none"} {
			u.sh("docker network create -d lanyard --subnet 10.61.0.0/24 -o parent=eth1 " + flags + " closed")
			u.says("docker run --rm --network closed busybox:lab ip addr show eth0", first+"/24")
			u.sh("docker network rm closed")
		}
	})
}

// A new address is announced three times, a second apart: by the engine where it does
// (28 and newer), by lanyard where it does not, and never by both.
func TestAnnouncement(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh(network + "lan")
		before, err := os.ReadFile(u.LanyardLog())
		u.mustDo(err)
		for _, how := range []struct {
			flags string
			want  int
		}{{"", 3}, {"-o com.docker.network.advertise_addr_nmsgs=0 ", 0}, {"-o com.docker.network.advertise_addr_nmsgs=2 -o com.docker.network.advertise_addr_ms=100 ", 2}} {
			u.sh("docker network rm lan && " + strings.Replace(network, "-o parent", how.flags+"-o parent", 1) + "lan")
			out := u.sh(`tcpdump -i wire -n -l --immediate-mode arp >seen 2>started &
for i in $(seq 100); do grep -q "listening on" started && break; sleep 0.1; done
docker run --rm --network lan --ip 192.168.11.77 busybox:lab sleep 3.5
kill -INT $!; wait; cat seen; rm seen started`)
			if n := strings.Count(out, "who-has 192.168.11.77 tell 192.168.11.77") + strings.Count(out, "Announcement 192.168.11.77"); n != how.want {
				u.t.Errorf("%q: announced %d times, want %d:\n%s", how.flags, n, how.want, out)
			}
		}
		log, err := os.ReadFile(u.LanyardLog())
		u.mustDo(err)
		if ours := strings.Contains(string(log[len(before):]), "addresses announced"); ours != (u.engine == "20.10") {
			u.t.Errorf("lanyard announces addresses itself: %v", ours)
		}
	})
}
