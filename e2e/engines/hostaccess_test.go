//go:build lab

package engines

import (
	"fmt"
	"strings"
	"testing"
)

// The host and a container reach each other through all of its life, and nothing stays.
func TestHostAccess(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh("ip addr add 192.168.0.9/16 dev eth1 && ip addr add fd00:1::99/64 dev eth1 nodad")
		u.t.Cleanup(func() { u.sh("ip addr flush dev eth1") })
		const subnets = "--ipv6 --subnet 192.168.0.0/16 --subnet fd00:1::/64 -o parent=eth1 "
		u.sh("docker network create -d lanyard " + subnets + "-o host_access=true lan")
		u.says("lanyard network inspect lan", "Host access:", "yes")
		u.sh(run + "--name c1 --restart=always --network lan --ip 192.168.0.50 --ip6 fd00:1::50 busybox:lab")
		both := func(when string) {
			u.t.Helper()
			for _, script := range []string{
				"busybox ping -c1 -W2 192.168.0.50", "busybox ping -6 -c1 -W2 fd00:1::50",
				"docker exec c1 ping -c1 -W2 192.168.0.9", "docker exec c1 ping -6 -c1 -W2 fd00:1::99",
			} {
				u.eventually(when+": "+script, func() string {
					if out, err := u.try(script); err != nil {
						return out
					}
					return ""
				})
			}
		}
		both("at first")
		u.sh("docker restart -t 0 c1")
		both("after docker restart")
		u.mustDo(u.KillLanyard())
		both("while lanyard is away")
		u.mustDo(u.StartLanyard(ctx))
		both("after lanyard was killed")
		if out := u.sh("lanyard network inspect lan"); strings.Contains(out, "Problem") {
			u.t.Error(out)
		}
		u.mustDo(u.KillDockerd())
		u.mustDo(u.StartDockerd(ctx))
		both("after dockerd was killed")
		u.sh("docker network disconnect -f lan c1")
		u.fails("busybox ping -c1 -W1 192.168.0.50")
		if out := u.sh("ip route show proto 108; ip -6 route show proto 108; ip neigh show nud permanent dev lyh-eth1"); out != "" {
			u.t.Errorf("left of a container that was disconnected:\n%s", out)
		}
		u.sh("docker rm -f c1 && docker network rm lan")
		u.fails("ip link show lyh-eth1", "does not exist")
		u.fails("docker network create -d lanyard --subnet 10.9.0.0/24 -o parent=eth1 -o macvlan_mode=private -o host_access=true x", "macvlan_mode=bridge")
	})
}

// The host has an address of its own on the network, from the pool or as the user says; no
// container gets it, with whatever IPAM driver.
func TestHostAddress(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh("docker network create -d lanyard --ipam-driver lanyard --subnet 10.6.0.0/29 -o parent=eth1 -o host_address=auto pooled")
		u.sh("docker network create -d lanyard --subnet 10.7.0.0/29 --aux-address host=10.7.0.2 -o parent=eth1 -o host_address=10.7.0.2 chosen")
		u.fails("docker network create -d lanyard --subnet 10.8.0.0/29 -o parent=eth1 -o host_address=10.8.0.2 x", "try: --aux-address host=10.8.0.2")
		u.says("lanyard network inspect chosen", "yes, as 10.7.0.2")
		_, rest, _ := strings.Cut(u.sh("lanyard network inspect pooled"), "yes, as ")
		own, _, _ := strings.Cut(rest, "\n")
		for _, c := range []struct{ network, host string }{{"pooled", own}, {"chosen", "10.7.0.2"}} {
			// All that there are: six of a /29, less gateway and host.
			for i := range 4 {
				u.sh(fmt.Sprintf(run+"--name %s-%d --network %[1]s busybox:lab", c.network, i))
			}
			u.fails(run + "--rm --network " + c.network + " busybox:lab")
			u.fails(run + "--rm --network " + c.network + " --ip " + c.host + " busybox:lab")
			addr := u.addr(c.network+"-2", c.network)
			u.eventually("the container reaches the host", u.wants("docker exec "+c.network+"-2 ping -c1 -W2 "+c.host, "1 packets received"))
			u.says("busybox ping -c1 -W2 "+addr, "1 packets received")
			u.says("ip route get "+addr, "src "+c.host+" ")
		}
		u.says("lanyard address ls", own)
		u.sh("docker rm -f $(docker ps -aq) && docker network rm pooled chosen")
		u.fails("ip link show lyh-eth1", "does not exist")
		u.says("lanyard repair 2>&1", "Nothing to repair")
	})
}
