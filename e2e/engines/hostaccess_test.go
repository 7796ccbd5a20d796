//go:build lab

package engines

import (
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
