//go:build lab

package scenario

import "testing"

// What doctor says on a trunk: of a VLAN that is on it, of one that is not, of another host that has taken a container's
// address, and of both kinds on one parent.
func TestDoctor(t *testing.T) {
	o := operate(t)
	o.onVLAN(100, "10.77.0.1/24")
	h := o.one
	h.create("lan", "--subnet 10.77.0.0/24 --gateway 10.77.0.1 -o parent=eth1.100")
	h.run("c1", "lan", "--ip 10.77.0.50")
	h.says("lanyard doctor lan; echo exit code $?", "eth1, VLAN 802.1Q:100", "the VLAN is on the trunk", "the gateway 10.77.0.1 answers",
		"an answer to a MAC address that the LAN did not know comes back", "nobody else answers for 1 container's address",
		"container c1 on lan", "its gateway 10.77.0.1 answers", "packets of 1500 bytes reach its gateway", "0 failures, 0 warnings", "exit code 0")
	// One that no switch port has, heard beside one that is there.
	said := h.says("busybox ping -q -i 0.2 -w 8 -I eth1.100 10.77.0.99 >/dev/null 2>&1 & lanyard doctor eth1.300; echo exit code $?; wait",
		"nothing with tag 300 was heard", "heard on eth1", "let the port of eth1 carry VLAN 300 tagged", "exit code 4")
	t.Log(said)
	// The other host takes the container's address.
	mac := o.two.sh("ip link add link eth1 name eth1.100 type vlan id 100 && ip addr add 10.77.0.50/24 dev eth1.100 && ip link set eth1.100 up && cat /sys/class/net/eth1.100/address")
	h.says("lanyard doctor c1; echo exit code $?", "another device has its address 10.77.0.50", mac[:17], "exit code 4")
	o.two.sh("ip link del eth1.100")
	// Docker's own ipvlan driver on the same parent.
	h.sh("docker network create -d ipvlan --subnet 10.78.0.0/24 -o parent=eth1.100 other")
	h.says("lanyard doctor eth1.100; echo exit code $?", "macvlan and ipvlan networks share the parent", "ipvlan: other", "exit code 4")
}
