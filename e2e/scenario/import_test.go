//go:build lab

package scenario

import "testing"

// Docker's own ipvlan on a VLAN, with IPv6, and a network without a parent, become lanyard's and Docker's again: the
// sub-interface goes and comes with them, and the containers reach the LAN and each other each time.
func TestImport(t *testing.T) {
	o := operate(t)
	o.onVLAN(100, "10.77.0.1/24")
	h := o.one
	h.sh("docker network create -d ipvlan --ipv6 --subnet 10.77.0.0/24 --gateway 10.77.0.1 --subnet fd77::/64 -o parent=eth1.100 lan && docker network create -d macvlan --subnet 10.78.0.0/24 alone")
	h.run("c1", "lan", "--ip 10.77.0.50 --ip6 fd77::50")
	h.run("c2", "lan", "--ip6 fd77::60")
	h.sh("docker network connect --ip 10.78.0.50 alone c1 && docker network connect alone c2")
	addr := h.sh("docker inspect c2 --format '{{.NetworkSettings.Networks.lan.IPAddress}}'")
	stands := func(driver string) {
		t.Helper()
		h.says("docker network inspect lan --format '{{.Driver}} {{.EnableIPv6}}'", driver+" true")
		h.says("docker inspect c2 --format '{{.NetworkSettings.Networks.lan.IPAddress}} {{.NetworkSettings.Networks.lan.GlobalIPv6Address}}'", addr+" fd77::60")
		h.says("docker exec c1 ping -c1 -W2 10.77.0.1", "1 packets received")
		h.says("docker exec c1 ping -c1 -W2 "+addr, "1 packets received")
		h.says("docker exec c2 ping -6 -c1 -W2 fd77::50", "1 packets received")
		h.says("docker exec c2 ping -c1 -W2 10.78.0.50", "1 packets received")
	}
	stands("ipvlan")
	h.says("lanyard import", "-o ipvlan_mode=l2 -o parent=eth1.100 lan", "--subnet 10.78.0.0/24 alone")
	h.says("lanyard import --apply", "network lan is lanyard's now, with 2 containers", "network alone is lanyard's now, with 2 containers")
	stands("lanyard")
	h.says("lanyard network ls", "ipvlan", "eth1.100")
	h.says("lanyard import --back --apply lan alone", "network lan is ipvlan's now", "network alone is macvlan's now")
	stands("ipvlan")
	h.sh("docker rm -f c1 c2 && docker network rm lan alone")
	h.fails("ip link show eth1.100", "does not exist")
}
