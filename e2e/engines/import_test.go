//go:build lab

package engines

import (
	"fmt"
	"strings"
	"testing"
)

// There and back again: containers on a network of Docker's own driver are lanyard's, and Docker's
// again, with their addresses, aliases and, on the way there, MAC addresses, and reach each other each time.
func TestImport(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh("docker network create -d macvlan --subnet 10.91.0.0/24 --ip-range 10.91.0.128/25 --gateway 10.91.0.1 --aux-address printer=10.91.0.130 " +
			"--label com.example.who=me -o parent=eth1 lan")
		u.sh("ip link add far type veth peer name farther && ip link set far up && ip link set farther up")
		u.sh("docker network create -d macvlan --internal --subnet 10.92.0.0/24 -o parent=far inside")
		u.sh(run + "--name c1 --network lan --network-alias web busybox:lab")
		u.sh(run + "--name c2 --network lan --ip 10.91.0.20 busybox:lab && docker network connect inside c2")
		u.sh("docker create --name c3 --network lan --ip 10.91.0.30 busybox:lab")
		u.sh(run + "--name c4 --network inside busybox:lab")
		was := u.sh("docker network inspect lan --format '{{json .IPAM.Config}} {{json .Labels}} {{.Internal}}'")
		addrs := map[string]string{}
		for _, c := range []string{"c1 lan", "c2 lan", "c2 inside", "c4 inside"} {
			name, network, _ := strings.Cut(c, " ")
			addrs[c] = u.addr(name, network)
		}
		macOf := func() string {
			return u.sh("docker inspect c1 --format '{{.NetworkSettings.Networks.lan.MacAddress}}'")
		}
		firstMAC := macOf()
		stands := func(driver string) {
			u.t.Helper()
			for _, n := range []string{"lan", "inside"} {
				if got := u.sh("docker network inspect " + n + " --format '{{.Driver}}'"); got != driver {
					u.t.Errorf("network %s is of driver %s, want %s", n, got, driver)
				}
			}
			if is := u.sh("docker network inspect lan --format '{{json .IPAM.Config}} {{json .Labels}} {{.Internal}}'"); is != was {
				u.t.Errorf("network lan is\n%s\nit was\n%s", is, was)
			}
			for c, addr := range addrs {
				name, network, _ := strings.Cut(c, " ")
				if got := u.addr(name, network); got != addr {
					u.t.Errorf("container %s has %s on %s, it had %s", name, got, network, addr)
				}
			}
			u.says("docker exec c2 ping -c1 -W2 "+addrs["c1 lan"], "1 packets received")
			u.says("docker exec c2 ping -c1 -W2 web", "1 packets received")
			u.says("docker exec c4 ping -c1 -W2 "+addrs["c2 inside"], "1 packets received")
			// Docker lets none be chosen on the way back.
			if is := macOf(); driver == "lanyard" && is != firstMAC {
				u.t.Errorf("c1 has MAC address %s, it had %s", is, firstMAC)
			}
		}
		plan := u.says("lanyard import", "# network lan: macvlan to lanyard, 3 containers", "docker network disconnect lan c1", "docker network rm lan",
			"docker network create -d lanyard --ipam-driver lanyard --subnet 10.91.0.0/24 --ip-range 10.91.0.128/25 --gateway 10.91.0.1 --aux-address printer=10.91.0.130 --label com.example.who=me",
			"docker network connect --ip 10.91.0.20 --driver-opt mac_address=", "--alias web", "docker network connect --ip 10.91.0.30 lan c3", "nothing was done")
		stands("macvlan")
		u.says("lanyard import --apply", "network lan is lanyard's now, with 3 containers", "network inside is lanyard's now, with 2 containers")
		stands("lanyard")
		u.says("lanyard endpoint ls", addrs["c1 lan"], addrs["c2 lan"])
		u.says("docker start c3 && docker inspect c3 --format '{{.NetworkSettings.Networks.lan.IPAddress}}'", "10.91.0.30")
		u.sh("docker restart -t 0 c1 && docker kill c3")
		stands("lanyard")
		u.says("lanyard import", "# there is no network to move")
		u.says("lanyard import --back --apply lan inside", "network lan is macvlan's now, with 3 containers")
		stands("macvlan")
		if again := u.sh("lanyard import"); len(again) < len(plan)/2 {
			u.t.Errorf("after the way back there is not the same to move:\n%s", again)
		}

		backMAC := macOf()
		// The commands, as they are printed, do the same.
		u.sh("lanyard import lan | sh -e && lanyard import inside | sh -e")
		firstMAC = backMAC
		stands("lanyard")
		u.sh("docker rm -f c1 c2 c3 c4 && docker network rm inside lan && ip link del far")
	})
}

// A move that cannot be is as if it had never been tried; one that was cut off goes on; a container
// that cannot be connected is said with its command.
func TestImportFails(t *testing.T) {
	onEach(t, func(u *user) {
		create := "docker network create -d macvlan --subnet 10.93.0.0/24 --aux-address printer=10.93.0.130 -o parent=eth1 "
		u.sh(create + "-o macvlan_mode=bridge lan")
		u.sh(run + "--name c1 --network lan busybox:lab && " + run + "--name c2 --network lan busybox:lab")
		a1, a2 := u.addr("c1", "lan"), u.addr("c2", "lan")
		same := func(driver string) {
			u.t.Helper()
			u.says("docker network inspect lan --format '{{.Driver}}'", driver)
			if u.addr("c1", "lan") != a1 || u.addr("c2", "lan") != a2 {
				u.t.Errorf("the addresses are not what they were: %s, %s", u.addr("c1", "lan"), u.addr("c2", "lan"))
			}
			u.says("docker exec c1 ping -c1 -W2 "+a2, "1 packets received")
		}
		u.sh("docker pause c2")
		u.fails("lanyard import --apply lan", "container c2 is paused", "docker unpause", "nothing was done")
		u.sh("docker unpause c2")
		u.fails("lanyard import --apply bridge", "no network bridge of Docker's macvlan or ipvlan driver is there")
		same("macvlan")

		// lanyard refuses the network: a container has what is to be an auxiliary address.
		u.sh("docker network create -d lanyard --ipam-driver lanyard --subnet 10.93.0.0/24 -o parent=eth1 inway && " + run + "--name inway --network inway --ip 10.93.0.130 busybox:lab")
		u.fails("lanyard import --apply lan", "auxiliary address 10.93.0.130", "undoing it", "network lan was not moved, and is as it was")
		same("macvlan")
		u.sh("docker rm -f inway && docker network rm inway")

		// What is noted of a move is what goes on after one that was killed: here, after the network went.
		u.sh(`lanyard import --json lan > /run/plan.json && grep -q '"commands"' /run/plan.json`)
		u.sh("docker network disconnect lan c1")
		u.fails("lanyard import --apply lan --notes /proc/nowhere", "it is where a move is noted that may be cut off")
		u.sh("docker network connect --ip " + a1 + " lan c1")
		u.sh(`sh -c ': >/run/cut.log; lanyard import --apply lan >/run/cut.log 2>&1 & p=$!
			until grep -q "docker network rm lan" /run/cut.log; do :; done; kill -9 $p' || true`)
		if rest := u.sh("lanyard import"); strings.Contains(rest, "begun and cut off") {
			u.says("lanyard import --apply lan", "network lan is lanyard's now")
		}
		same("lanyard")

		// An address that was taken meanwhile.
		u.sh("lanyard import --back --apply lan")
		same("macvlan")
		u.sh("docker stop -t 0 c2 && " + run + fmt.Sprintf("--name c3 --network lan --ip %s busybox:lab", a2))
		u.sh("lanyard import --apply lan")
		u.fails("docker start c2", "")
		u.sh("docker rm -f c3 && docker start c2")
		u.says("docker exec c2 ping -c1 -W2 "+a1, "1 packets received")
	})
}

// A link that somebody made so that the host reaches its containers becomes host access.
func TestImportShim(t *testing.T) {
	onEach(t, func(u *user) {
		u.sh("docker network create -d macvlan --subnet 10.95.0.0/24 --ip-range 10.95.0.128/25 --gateway 10.95.0.1 --aux-address host=10.95.0.9 --aux-address printer=10.95.0.77 -o parent=eth1 lan")
		u.sh(run + "--name c1 --network lan busybox:lab")
		addr := u.addr("c1", "lan")
		u.sh("ip link add macvlan-shim link eth1 type macvlan mode bridge && ip addr add 10.95.0.9/32 dev macvlan-shim && ip link set macvlan-shim up && ip route add 10.95.0.128/25 dev macvlan-shim")
		reached := func() {
			u.t.Helper()
			u.says("/bin/busybox ping -c1 -W2 "+addr, "1 packets received")
			u.says("docker exec c1 ping -c1 -W2 10.95.0.9", "1 packets received")
		}
		reached()
		u.says("lanyard import", "ip link del macvlan-shim", "-o host_access=true", "-o host_address=10.95.0.9", "what makes link macvlan-shim at boot")
		u.says("lanyard import --apply lan", "network lan is lanyard's now")
		if out := u.sh("ip -br link show"); strings.Contains(out, "macvlan-shim") {
			u.t.Errorf("the link is still there:\n%s", out)
		}
		u.eventually("the host reaches the container", func() string {
			out, err := u.try("/bin/busybox ping -c1 -W1 " + addr)
			if err == nil {
				return ""
			}
			return out
		})
		reached()

		// Where the network cannot be made the link is there again.
		u.says("lanyard import --back --apply lan", "network lan is macvlan's now")
		u.sh("ip link add macvlan-shim link eth1 type macvlan mode bridge && ip addr add 10.95.0.9/32 dev macvlan-shim && ip link set macvlan-shim up && ip route add 10.95.0.128/25 dev macvlan-shim")
		u.sh("docker network create -d lanyard --ipam-driver lanyard --subnet 10.95.0.0/24 -o parent=eth1 inway && " + run + "--name inway --network inway --ip 10.95.0.77 busybox:lab")
		u.fails("lanyard import --apply lan", "network lan was not moved, and is as it was")
		reached()
		u.sh("ip link del macvlan-shim && docker rm -f inway && docker network rm inway")
	})
}

// A project of Compose's whose network moves: up finds all as its file says, before and after the file says lanyard.
func TestImportCompose(t *testing.T) {
	onEach(t, func(u *user) {
		const file = `
services:
  web:
    image: busybox:lab
    stop_signal: SIGKILL
    networks: {lan: {ipv4_address: 10.93.0.20}}
networks:
  lan:
    driver: macvlan
    driver_opts: {parent: eth1}
    ipam: {config: [{subnet: 10.93.0.0/24, gateway: 10.93.0.1}]}
`
		write := func(text string) { u.sh("cat >compose.yaml <<'EOF'" + text + "EOF") }
		const up = "docker compose -p moved up -d --pull never 2>&1"
		write(file)
		u.sh(up)
		id := u.sh("docker inspect moved-web-1 --format '{{.Id}}'")
		u.sh("lanyard import --apply moved_lan")
		stands := func(when string) {
			u.t.Helper()
			if got := u.addr("moved-web-1", "moved_lan"); got != "10.93.0.20" {
				u.t.Errorf("%s: web has %s", when, got)
			}
			if got := u.sh("docker network inspect moved_lan --format '{{.Driver}}'"); got != "lanyard" {
				u.t.Errorf("%s: the network is of driver %s", when, got)
			}
		}
		stands("after the move")
		u.sh(up)
		stands("after up with the old file")
		if now := u.sh("docker inspect moved-web-1 --format '{{.Id}}'"); now != id {
			u.t.Error("up has made the container anew")
		}
		write(strings.Replace(strings.Replace(file, "driver: macvlan", "driver: lanyard", 1), "ipam: {config", "ipam: {driver: lanyard, config", 1))
		u.sh(strings.Replace(up, "up -d", "up -d --force-recreate", 1))
		stands("after up --force-recreate with the new file")
		u.sh("docker compose -p moved down -t 0")
		u.sh(up)
		stands("after down and up with the new file")
		u.sh("docker compose -p moved down -t 0 && rm compose.yaml")
	})
}
