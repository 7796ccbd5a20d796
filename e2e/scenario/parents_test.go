//go:build lab

package scenario

import (
	"fmt"
	"strings"
	"testing"
)

func TestSubInterfacesComeAndGo(t *testing.T) {
	o := operate(t)
	h := o.one
	h.sh("ip link set eth1 down")
	h.create("n1", "--subnet 10.1.0.0/24 -o parent=eth1.100")
	h.says("ip link show eth1", ",UP")
	h.create("n2", "--subnet 10.2.0.0/24 -o parent=eth1 -o vlan=100")
	h.create("n3", "--subnet 10.3.0.0/24 -o parent=eth1.100 -o macvlan_mode=private")
	if out := h.sh("ip -br link show type vlan"); strings.Count(out, "eth1.100") != 1 || strings.Contains(out, "\n") {
		t.Errorf("want one sub-interface:\n%s", out)
	}
	h.sh("docker network rm n1 n3 && ip link show eth1.100")
	h.sh("docker network rm n2")
	h.fails("ip link show eth1.100", "does not exist")

	// What was there before is used, and stays.
	h.sh("ip link add link eth1 name eth1.20 type vlan id 20; ip link add link eth1 name storage type vlan id 30; ip link add link eth1 name eth1.40 type vlan id 41")
	h.create("n1", "--subnet 10.1.0.0/24 -o parent=eth1.20")
	h.create("n2", "--subnet 10.2.0.0/24 -o parent=eth1.30")
	h.says("lanyard network ls", "storage")
	h.fails("docker network create -d lanyard --subnet 10.3.0.0/24 -o parent=eth1.40 n3", "its VLAN id is 41")
	h.sh("docker network rm n1 n2 && ip link show eth1.20 && ip link show storage && ip link del eth1.20 && ip link del storage && ip link del eth1.40")
}

func TestOtherParents(t *testing.T) {
	o := operate(t)
	o.both(func(h host) {
		// A bridge over a VLAN, a bond over nothing, a second name, a long name.
		h.sh(`ip link add link eth1 name up50 type vlan id 50 && ip link set up50 up
ip link add br0 type bridge && ip link set up50 master br0 && ip link set br0 up
ip link add bond0 type bond mode active-backup && ip link set bond0 up
ip link property add dev eth1 altname uplink-to-the-core-switch`)
		h.create("onbridge", "--subnet 10.5.0.0/16 -o parent=br0")
		h.run("c1", "onbridge", fmt.Sprintf("--ip 10.5.%d.1", h.Index))
		h.create("onbond", "--subnet 10.6.0.0/16 -o parent=bond0.60")
		h.create("long", "--subnet 10.7.0.0/16 -o parent=uplink-to-the-core-switch.70")
		h.run("c2", "long", fmt.Sprintf("--ip 10.7.%d.1", h.Index))
		h.says("ip link show uplink-to-the-core-switch.70", "@eth1")
		// The same wire under another name is one parent.
		h.fails("docker network create -d lanyard --subnet 10.8.0.0/16 -o parent=eth1.70 -o ipvlan_mode=l2 x", "macvlan network "+h.sh("docker network ls -q --filter name=long"))
		h.fails("docker network create -d lanyard --subnet 10.8.0.0/16 -o parent=up50 x", "port of bridge br0", "-o parent=br0")
		h.fails("docker network create -d lanyard --subnet 10.8.0.0/16 -o parent=lo x", "loopback")
		h.fails("docker network create -d lanyard --subnet 10.8.0.0/16 -o parent=eth7.9 x", "eth7 is not on this host")
	})
	o.one.wantReach("c1", "10.5.2.1", true)
	o.one.wantReach("c2", "10.7.2.1", true)
	o.both(func(h host) {
		h.sh(`docker rm -f c1 c2 && docker network rm onbridge onbond long
ip link del br0; ip link del up50; ip link del bond0; ip link property del dev eth1 altname uplink-to-the-core-switch`)
	})
}

func TestManyNetworksOnOneParent(t *testing.T) {
	o := operate(t)
	h := o.one
	for _, kind := range []string{"macvlan_mode=bridge", "ipvlan_mode=l2", "ipvlan_mode=l3s"} {
		for i := range 3 {
			h.create(fmt.Sprintf("n%d", i), fmt.Sprintf("--subnet 10.%d.0.0/24 -o parent=eth1.100 -o %s", i+1, kind))
		}
		if strings.Contains(kind, "l3") { // each network brings a default route
			h.run("c0", "n0", "")
			h.run("c1", "n2", "")
		} else {
			h.runOn("c0", "n0", "n1", "n2")
		}
		other := "ipvlan_mode=l3"
		h.fails("docker network create -d lanyard --subnet 10.9.0.0/24 -o parent=eth1.100 -o "+other+" x", "network "+h.sh("docker network ls -q --filter name=n0"))
		h.sh("docker rm -f $(docker ps -q) && docker network rm n0 n1 n2")
	}
}

// A parent that another driver of Docker's has is found busy at network create.
func TestBesideTheBuiltInDrivers(t *testing.T) {
	o := operate(t)
	h := o.one
	h.sh("ip link add link eth1 name eth1.90 type vlan id 90 && ip link set eth1.90 up")
	h.sh("docker network create -d ipvlan --subnet 10.1.0.0/24 -o parent=eth1.90 theirs && docker run -d --name c1 --network theirs busybox:lab")
	for _, mode := range []string{"macvlan_mode=bridge", "ipvlan_mode=l3"} {
		h.fails("docker network create -d lanyard --subnet 10.2.0.0/24 -o parent=eth1.90 -o "+mode+" ours", "parent eth1.90", "busy")
	}
	// Their mode is what it was.
	h.says("nsenter -t $(docker inspect c1 --format '{{.State.Pid}}') -n ip -d link show eth0", "mode l2")
	h.sh("docker rm -f c1 && docker network rm theirs")
	// macvlan and macvlan share.
	h.sh("docker network create -d macvlan --subnet 10.1.0.0/24 -o parent=eth1.90 theirs && docker run -d --name c1 --network theirs --ip 10.1.0.9 busybox:lab")
	h.create("ours", "--subnet 10.1.1.0/24 -o parent=eth1.90")
	h.run("c2", "ours", "")
	h.sh("docker rm -f c1 c2 && docker network rm theirs ours && ip link show eth1.90 && ip link del eth1.90")
}

func TestIsolated(t *testing.T) {
	o := operate(t)
	h := o.one
	for _, c := range []struct{ name, options, link string }{
		{"mac", "", "dm-"}, {"l2", "-o ipvlan_mode=l2", "di-"}, {"l3", "-o ipvlan_mode=l3 --subnet 10.32.0.0/24", "di-"},
	} {
		h.create(c.name, "--subnet 10.31.0.0/24 "+c.options)
		id := h.sh("docker network ls -q --no-trunc --filter name=^%s$", c.name)
		h.says("ip link show "+c.link+id[:12], ",UP")
		h.says("lanyard network inspect "+c.name, "isolated network on a dummy link")
		h.run("c1", c.name, "--ip 10.31.0.7")
		flags := ""
		if c.name == "l3" {
			flags = "--ip 10.32.0.7"
		}
		// By name, where the kernel has what Docker's DNS needs in containers.
		h.says(fmt.Sprintf("whom=c1; modinfo iptable_nat >/dev/null 2>&1 || whom=10.31.0.7; docker run --rm --network %s %s busybox:lab sh -c \"ping -c2 -W2 $whom; ip route\"", c.name, flags),
			"10.31.0.7", "2 packets received")
		h.fails("docker exec c1 ping -c1 -W1 8.8.8.8", "Network is unreachable")
		h.sh("docker rm -f c1 && docker network rm %s", c.name)
		h.fails("ip link show "+c.link+id[:12], "does not exist")
	}
}

func TestFamiliesAcross(t *testing.T) {
	o := operate(t)
	for _, kind := range []string{"macvlan_mode=bridge", "ipvlan_mode=l2"} {
		o.both(func(h host) {
			h.create("dual", fmt.Sprintf("--ipv6 --subnet 192.168.0.0/16 --ip-range 192.168.%[1]d.0/24 --subnet fd00:1::/64 -o parent=eth1.100 -o %[2]s", h.Index, kind))
			h.run("c1", "dual", fmt.Sprintf("--ip 192.168.%[1]d.9 --ip6 fd00:1::%[1]d:9", h.Index))
		})
		o.one.wantReach("c1", "192.168.2.9", true)
		o.one.says("docker exec c1 ping -6 -c 3 -W 3 fd00:1::2:9", "3 packets received")
		o.both(func(h host) { h.sh("docker rm -f c1 && docker network rm dual") })
	}
}

// The built-in drivers' column of README.md: an engine that changes it fails here, and
// the page is to be changed.
func TestWhatTheBuiltInDriversDo(t *testing.T) {
	o := operate(t)
	h := o.one
	busy := func(network string) {
		t.Helper()
		h.fails("docker run --rm --network "+network+" busybox:lab true", "device or resource busy")
	}
	create := func(driver, subnet, options, name string) string {
		return fmt.Sprintf("docker network create -d %s --subnet 10.%s.0.0/24 -o %s %s", driver, subnet, options, name)
	}
	// The VLAN of a sub-interface that is there is not looked at.
	h.sh("ip link add link eth1 name eth1.40 type vlan id 41")
	h.sh("%s", create("macvlan", "1", "parent=eth1.40", "wrong"))
	// Two kinds on one parent are taken, and only one of them works.
	h.sh("%s", create("macvlan", "2", "parent=eth1.50", "mac"))
	h.sh("%s", create("ipvlan", "3", "parent=eth1.50", "ip"))
	h.run("c1", "mac", "")
	busy("ip")
	h.fails(create("ipvlan", "4", "parent=eth1.50", "ip2"), "already using parent interface eth1.50")
	// So is a bridge's port.
	h.sh("ip link add br0 type bridge && ip link add link eth1 name up60 type vlan id 60 && ip link set up60 master br0 up")
	h.sh("%s", create("macvlan", "5", "parent=up60", "port"))
	busy("port")
	// A base that is down.
	h.sh("ip link set eth1 down")
	h.fails(create("macvlan", "6", "parent=eth1.70", "down"), "network is down")
	h.sh("ip link set eth1 up; docker rm -f c1; docker network rm wrong mac ip port; ip link del eth1.40; ip link del up60; ip link del br0; ip link del eth1.70 || true")
}
