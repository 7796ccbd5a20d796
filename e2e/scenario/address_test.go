//go:build lab

package scenario

import (
	"fmt"
	"strings"
	"testing"
)

// leased are the flags of a network on a VLAN whose addresses are lanyard's to give: the
// same subnet everywhere, and a range for each host.
func (h host) leased(vlan int, flags string) string {
	return fmt.Sprintf("--ipam-driver lanyard --subnet 192.168.0.0/16 --ip-range 192.168.%d.0/24 -o parent=eth1.%d %s", 10+h.Index, vlan, flags)
}

func (h host) addr(name, network string) string {
	h.t.Helper()
	return strings.TrimSpace(h.sh("docker inspect %s --format '{{(index .NetworkSettings.Networks %q).IPAddress}}'", name, network))
}

// onVLAN makes the LAN node a device on a VLAN with these addresses, until the test
// ends, and returns its MAC address.
func (o *operator) onVLAN(vlan int, addrs ...string) (mac string) {
	o.Helper()
	o.Cleanup(func() { o.lan.sh("ip link del eth1.%d", vlan) })
	o.lan.sh("ip link add link eth1 name eth1.%[1]d type vlan id %[1]d && ip link set eth1.%[1]d up", vlan)
	for _, a := range addrs {
		o.lan.sh("ip addr add %s dev eth1.%d", a, vlan)
	}
	return strings.TrimSpace(o.lan.sh("cat /sys/class/net/eth1/address"))
}

// A device on one VLAN has addresses of both hosts' ranges, before and after they are
// handed out.
func TestSquatter(t *testing.T) {
	for _, kind := range []string{"-o macvlan_mode=bridge", "-o ipvlan_mode=l2"} {
		t.Run(kind, func(t *testing.T) {
			o := operate(t)
			mac := o.onVLAN(100, "192.168.11.1/16", "192.168.12.1/16")
			o.both(func(h host) {
				first := fmt.Sprintf("192.168.%d.1", 10+h.Index)
				h.create("squatted", h.leased(100, kind))
				h.run("c1", "squatted", "")
				if got := h.addr("c1", "squatted"); got == first {
					h.t.Errorf("%s: c1 has %s, which a device on VLAN 100 has", h.Name, got)
				}
				if h.Name == o.two.Name {
					return
				}
				h.create("quiet", h.leased(200, kind))
				h.sh("docker run --rm --network quiet --ip %s busybox:lab true", first)
				h.fails("docker run --rm --network squatted --ip "+first+" busybox:lab true", "address "+first+" is in use on eth1, VLAN 802.1Q:100 by "+mac)
				h.says("lanyard pool inspect squatted", first, mac, "conflict")
				h.says("lanyard address ls --state conflict", first, mac)
				h.says("grep 'in use by another on the wire' /run/lab/lanyard.log", "mac="+mac)
			})
			addr := o.one.addr("c1", "squatted")
			o.two.wantReach("c1", addr, true)
			// The device takes the address of a container on the first host, and tells
			// everybody.
			o.lan.sh("ip addr add %[1]s/16 dev eth1.100 && ip neigh flush all; for i in 1 2 3; do busybox arping -U -c 1 -I eth1.100 %[1]s; done >/dev/null", addr)
			eventually(t, "the conflict is told", func() string {
				if out := o.one.sh("grep 'address conflict' /run/lab/lanyard.log || true"); !strings.Contains(out, mac) {
					return "log: " + out
				}
				return ""
			})
			o.one.says("lanyard address ls --state conflict", addr, mac)
			own := strings.TrimSpace(o.one.sh("docker exec c1 cat /sys/class/net/eth0/address"))
			eventually(t, "the address is defended", func() string {
				out := o.two.sh("nsenter -t $(docker inspect c1 --format '{{.State.Pid}}') -n ip neigh show %s", addr)
				if !strings.Contains(out, own) {
					return "the other host's container knows " + out + ", want " + own
				}
				return ""
			})
		})
	}
}

// A container moves to the other host with its address: a neighbour that has just talked
// to it reaches it there within a second.
func TestNeighboursLearnAtOnce(t *testing.T) {
	for _, kind := range []string{"-o macvlan_mode=bridge", "-o ipvlan_mode=l2"} {
		t.Run(kind, func(t *testing.T) {
			o := operate(t)
			o.onVLAN(100, "192.168.1.1/16", "fd00:1::1/64")
			o.both(func(h host) { h.create("lan", h.leased(100, "--ipv6 --subnet fd00:1::/64 "+kind)) })
			const move = "--ip 192.168.77.7 --ip6 fd00:1::77"
			o.one.run("mover", "lan", move)
			o.lan.sh("for a in 192.168.77.7 fd00:1::77; do busybox ping -c1 -W3 $a >/dev/null || exit 1; done")
			old := o.lan.sh("ip neigh show 192.168.77.7; ip neigh show fd00:1::77")
			o.one.sh("docker rm -f mover")
			o.two.run("mover", "lan", move)
			// Ten pings, a tenth of a second apart: one of them must be answered.
			o.lan.sh("for a in 192.168.77.7 fd00:1::77; do ip neigh show $a; busybox ping -c 10 -i 0.1 -W 1 $a >pings; cat pings; grep -q seq= pings || exit 1; done")
			if now := o.lan.sh("ip neigh show 192.168.77.7; ip neigh show fd00:1::77"); macsOf(now) == macsOf(old) {
				t.Errorf("the neighbour knows the same MAC address as before: %s", now)
			}
		})
	}
}

// macsOf are the MAC addresses in what ip neigh prints.
func macsOf(neighbours string) string {
	var macs []string
	for line := range strings.Lines(neighbours) {
		f := strings.Fields(line)
		for i := range f {
			if f[i] == "lladdr" && i+1 < len(f) {
				macs = append(macs, f[i+1])
			}
		}
	}
	return strings.Join(macs, " ")
}
