//go:build lab

package engines

import (
	"strings"
	"testing"
	"time"
)

const (
	parentGoes  = "ip link del eth1"
	parentComes = "ip link add eth1 type veth peer name wire && ip link set wire up"
)

// The parent is deleted and made again under running containers, as by a driver's reload.
func TestParentComesBack(t *testing.T) {
	onEach(t, func(u *user) {
		u.t.Cleanup(func() { u.sh("ip link show eth1 || (" + parentComes + " && ip link set eth1 up)") })
		u.sh("docker network create -d lanyard --ipv6 --subnet 192.168.0.0/16 --gateway 192.168.0.1 --subnet fd00:1::/64 -o parent=eth1 lan")
		u.sh("docker network create other")
		u.sh(run + "--name c1 --restart always --network lan busybox:lab && " + run + "--name c2 --network other busybox:lab && docker network connect lan c2")
		// Beside a bridge the link is not eth0.
		look := func(c string) string {
			return u.sh("docker exec " + c + " sh -c 'ip -o -4 addr show scope global; ip -o -6 addr show scope global; ip route; ip -6 route; cat /sys/class/net/eth*/address /sys/class/net/eth*/mtu' | grep -v fe80 | sed 's/^[0-9]*: //' | sort")
		}
		u.eventually("c2's link is known", func() string {
			if out := u.sh("lanyard endpoint ls --json"); !strings.Contains(out, `"link": "eth1"`) && !strings.Contains(out, `"link":"eth1"`) {
				return out
			}
			return ""
		})
		time.Sleep(2 * time.Second) // containers are looked into a second after they start
		before := look("c1") + look("c2")
		same := func(when string) {
			u.t.Helper()
			u.eventually(when, func() string {
				if now := look("c1") + look("c2"); now != before {
					return "now:\n" + now + "before:\n" + before
				}
				return ""
			})
			u.says("docker exec c2 ping -c1 -W2 "+u.addr("c1", "lan"), "1 packets received")
		}
		u.sh(parentGoes)
		u.eventually("its loss is said", func() string {
			if out := u.sh("lanyard events; lanyard network ls"); !strings.Contains(out, "parent-lost") {
				return out
			}
			return ""
		})
		u.says("lanyard network inspect lan", "Problem:", "eth1")
		u.says("docker exec c1 ip link", "lo")
		u.fails(run+"--rm --network lan busybox:lab", "has no parent now", "eth1 is not on this host")
		u.sh(parentComes)
		same("the containers have their links again")
		u.says("lanyard events", "parent-back", "2 of 2 containers")

		// While lanyard is away. What it had seen in containers it has forgotten, but not what
		// it gave them.
		u.mustDo(u.KillLanyard())
		u.sh(parentGoes + " && " + parentComes)
		u.mustDo(u.StartLanyard(ctx))
		same("lanyard was away")

		// And Docker finds what it left there.
		u.sh("docker network disconnect lan c2 && docker network connect lan c2 && docker restart -t0 c1")
		u.says("docker exec c2 ping -c1 -W2 "+u.addr("c1", "lan"), "1 packets received")
		u.sh("docker rm -f c2 && docker network rm other")

		// The parent comes after Docker: what is to run runs.
		u.mustDo(u.StopDockerd())
		u.sh(parentGoes)
		u.mustDo(u.StartDockerd(ctx))
		u.eventually("no container starts without a parent", u.wants(running+"c1", "false", "no parent now"))
		u.sh(parentComes)
		u.within(40*time.Second, "c1 runs", u.wants(running+"c1", "true"))
		u.sh("docker rm -f c1 && docker network rm lan")
	})
}
