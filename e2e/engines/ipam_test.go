//go:build lab

package engines

import (
	"strings"
	"testing"
)

// leased is a network whose addresses are lanyard's to give.
const leased = "docker network create -d lanyard --ipam-driver lanyard --subnet 192.168.0.0/16 --ip-range 192.168.11.0/24 --gateway 192.168.0.1 -o parent=eth1 "

func TestLeased(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh(leased + "lan")
		u.sh(run + "--name c1 --network lan busybox:lab")
		u.sh(run + "--name c2 --network lan --ip 192.168.11.77 busybox:lab")
		u.says("docker exec c1 ip addr show eth0", "192.168.11.1/16")
		u.says("docker exec c1 ip route", "default via 192.168.0.1")
		u.says("docker exec c1 ping -c1 -W2 192.168.11.77", "1 packets received")
		u.fails("docker run --rm --network lan --ip 192.168.11.77 busybox:lab true", "address 192.168.11.77 on eth1 is held by")
		u.fails("docker run --rm --network lan --ip 192.168.0.1 busybox:lab true", "is the gateway of")
		// The same address is not used again at once.
		u.sh("docker rm -f c1")
		u.sh(run + "--name c3 --network lan busybox:lab")
		if out := u.sh("docker exec c3 ip addr show eth0"); strings.Contains(out, "192.168.11.1/16") {
			t.Errorf("the address of a removed container at once:\n%s", out)
		}
		t.Log(u.sh("cat " + u.LanyardLog() + " | grep -v DEBUG | tail -30"))
	})
}
