//go:build lab

package engines

import (
	"context"
	"strings"
	"testing"

	"github.com/lanyard-net/lanyard/e2e/dhcpserver"
)

// A container that may change its links (CAP_NET_ADMIN) cannot send as somebody else, and
// nothing that it does, or that is done to lanyard and Docker, changes that.
func TestAntiSpoof(t *testing.T) {
	onEach(t, func(u *user) {
		_, lan := u.squat("192.168.0.77/16")
		u.sh("docker network create -d lanyard --subnet 192.168.0.0/16 -o parent=eth1 -o antispoof=true lan")
		u.says("lanyard network inspect lan", "Antispoof:", "yes")
		u.sh(run + "--name c1 --cap-add NET_ADMIN --restart=always --network lan --ip 192.168.0.50 busybox:lab")
		u.sh(run + "--name c2 --network lan --ip 192.168.0.51 busybox:lab")
		// The address of somebody else, in one go, so that a container that starts again is as before.
		as := func(addr, to string) string {
			return "docker exec c1 sh -c 'ip addr add " + addr + "/16 dev eth0; ping -c2 -i0.2 -W1 -I " + addr + " " + to + "; r=$?; ip addr del " + addr + "/16 dev eth0; exit $r'"
		}
		keeps := func(when string) {
			u.t.Helper()
			u.eventually(when+": the LAN is reached", func() string {
				out, _ := u.try("docker exec c1 ping -c1 -W2 192.168.0.77 && docker exec c1 ping -c1 -W2 192.168.0.51 && docker exec c2 ping -c1 -W2 192.168.0.50")
				if strings.Count(out, " 1 packets received") != 3 {
					return out
				}
				return ""
			})
			for _, to := range []string{"192.168.0.77", "192.168.0.51"} {
				u.fails(as("192.168.0.99", to), "0 packets received")
			}
			u.fails("docker exec c1 sh -c 'ip link add link eth0 name more type macvlan; ip addr add 192.168.0.98/16 dev more; ip link set more up; ping -c2 -i0.2 -W1 -I more 192.168.0.77; r=$?; ip link del more; exit $r'", "0 packets received")
			out, err := lan(context.Background(), "ip neigh show dev "+dhcpserver.ApartLink)
			u.mustDo(err)
			if strings.Contains(out, "192.168.0.9") {
				u.t.Errorf("%s: the LAN knows: %s", when, out)
			}
		}
		keeps("at first")
		u.sh("docker restart -t 0 c1")
		keeps("after docker restart")
		u.mustDo(u.KillLanyard())
		keeps("while lanyard is away")
		u.mustDo(u.StartLanyard(ctx))
		keeps("after lanyard was killed")
		u.mustDo(u.KillDockerd())
		u.mustDo(u.StartDockerd(ctx))
		u.eventually("c2 runs again", func() string { out, err := u.try("docker start c2"); return note(out, err) })
		keeps("after dockerd was killed")

		// It takes its filter off: siblings hear what it likes, and the LAN nothing at all.
		u.sh("nsenter -t $(docker inspect -f '{{.State.Pid}}' c1) -n tc qdisc del dev eth0 clsact")
		u.fails("docker exec c1 ping -c2 -i0.2 -W1 192.168.0.77", "0 packets received")
		u.fails(as("192.168.0.99", "192.168.0.77"), "0 packets received")
		u.mustDo(u.KillLanyard())
		u.mustDo(u.StartLanyard(ctx))
		keeps("lanyard has put it back")

		u.sh("docker rm -f c1 c2 && docker network rm lan")
		if out := u.sh("tc qdisc show dev eth1"); strings.Contains(out, "clsact") {
			u.t.Errorf("left on the parent: %s", out)
		}

		u.leasing(nil)
		u.sh(fromDHCP + "-o antispoof=true lan")
		u.sh(run + "--name c1 --cap-add NET_ADMIN --network lan busybox:lab")
		u.eventually("a container with a lease reaches the server", u.wants("docker exec c1 ping -c1 -W2 "+siteOwn, "1 packets received"))
		u.fails(as("10.77.0.66", siteOwn), "0 packets received")
		u.sh("lanyard lease renew c1 && docker restart -t0 c1")
		u.eventually("and after a restart", u.wants("docker exec c1 ping -c1 -W2 "+siteOwn, "1 packets received"))
		u.sh("docker rm -f c1 && docker network rm lan")
	})
}

// note is what a command says when it fails.
func note(out string, err error) string {
	if err == nil {
		return ""
	}
	return out
}
