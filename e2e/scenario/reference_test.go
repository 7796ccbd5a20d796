//go:build lab

package scenario

import (
	"fmt"
	"strings"
	"testing"

	"github.com/lanyard-net/lanyard/e2e/reference"
	"github.com/lanyard-net/lanyard/e2e/uml"
)

// judge runs the scenario's pings with a look at the trunk.
func judge(t *testing.T, s *reference.Scenario, when string) {
	t.Helper()
	c, err := lab.Capture(ctx, "arp or icmp or (vlan and (arp or icmp))")
	if err != nil {
		t.Fatal(err)
	}
	reach, err := s.Reach(ctx)
	frames := c.Stop()
	if err != nil {
		t.Fatal(err)
	}
	for _, check := range append(s.Judge(reach), s.JudgeFrames(frames)...) {
		if !check.OK {
			t.Errorf("%s: %s: want %s, got %s", when, check.What, check.Want, check.Got)
		}
	}
}

func scene(t *testing.T, options string) *reference.Scenario {
	t.Helper()
	s, err := reference.Create(ctx, lab, reference.Config{Driver: "lanyard", Options: options}, t.Logf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Remove(ctx); err != nil {
			t.Error(err)
		}
	})
	return s
}

// The reference scenario, and the same after everything that can end has ended once:
// lanyard, dockerd, the power.
func TestReferenceScenario(t *testing.T) {
	o := operate(t)
	s := scene(t, "-o macvlan_mode=bridge")
	judge(t, s, "at first")
	o.both(func(h host) {
		h.says("ip -d link show eth1.100", "802.1Q id 100", "UP", "alias lanyard")
		h.says("lanyard network ls", "macvlan100", "eth1.100", "macvlan200", "eth1.200", "192.168.0.0/16")
		h.says("lanyard endpoint ls", "192.168.1")
		h.says("lanyard pool ls", "macvlan100", "macvlan200", "eth1, VLAN 802.1Q:100", "eth1, VLAN 802.1Q:200")
		h.sh("docker update --restart=always $(docker ps -q)")
		if err := h.RestartLanyard(ctx, "KILL"); err != nil {
			t.Error(err)
		}
	})
	judge(t, s, "after lanyard was killed")
	back := func(h host) {
		eventually(t, h.Name+": four containers run", func() string {
			r, err := h.Run(ctx, "docker ps -q | wc -l")
			if err != nil || strings.TrimSpace(r.Stdout) != "4" {
				return fmt.Sprint(r.Out(), err)
			}
			return ""
		})
	}
	if err := o.two.PowerOff(); err != nil {
		t.Error(err)
	}
	if err := o.one.RestartDockerd(ctx, "KILL"); err != nil {
		t.Error(err)
	}
	back(o.one)
	if err := o.two.Boot(ctx); err != nil {
		t.Error(err)
	}
	back(o.two)
	judge(t, s, "after dockerd was killed on one host and the other lost its power")
}

func TestReferenceScenarioWithIpvlanL2(t *testing.T) {
	operate(t)
	s := scene(t, "-o ipvlan_mode=l2")
	judge(t, s, "ipvlan l2")
	macs := map[string]bool{}
	for _, c := range s.Containers {
		macs[c.MAC] = true
	}
	if len(macs) != 2 {
		t.Errorf("%d MAC addresses for two parents' containers: %v", len(macs), macs)
	}
}

// Where the kernel routes: within a host at once, across hosts after a route on
// each, and never an ARP request for a container.
func TestIpvlanL3(t *testing.T) {
	for _, mode := range []string{"l3", "l3s"} {
		t.Run(mode, func(t *testing.T) {
			o := operate(t)
			o.both(func(h host) {
				h.create("routed", fmt.Sprintf("--subnet 10.1.%d.0/24 -o parent=eth1.100 -o ipvlan_mode=%s", h.Index, mode))
				h.run("c1", "routed", fmt.Sprintf("--ip 10.1.%d.11", h.Index))
				h.run("c2", "routed", fmt.Sprintf("--ip 10.1.%d.12", h.Index))
				h.says("docker exec c1 ip route", "default dev eth0")
				h.wantReach("c1", fmt.Sprintf("10.1.%d.12", h.Index), true)
			})
			o.one.wantReach("c1", "10.1.2.11", false)
			c, err := lab.Capture(ctx, "vlan and arp")
			if err != nil {
				t.Fatal(err)
			}
			o.both(func(h host) {
				h.sh("ip addr add 10.9.0.%d/24 dev eth1.100", h.Index)
			})
			o.both(func(h host) {
				h.sh("ip route add 10.1.%[1]d.0/24 via 10.9.0.%[1]d", 3-h.Index)
			})
			o.one.wantReach("c1", "10.1.2.11", true)
			o.two.wantReach("c2", "10.1.1.12", true)
			for _, line := range c.Stop() {
				if strings.Contains(line, "who-has 10.1.") {
					t.Errorf("ARP for a container: %s", line)
				}
			}
			// While the host itself has an address on it, the sub-interface stays.
			o.one.sh("docker rm -f c1 c2 && docker network rm routed && ip link show eth1.100")
			o.one.sh("ip link del eth1.100")
			o.two.sh("ip addr flush dev eth1.100")
		})
	}
}

// Each mode on a VLAN of its own. One container of a host is on all of them, since each
// takes a guest some seconds to start.
func TestModesDoWhatTheySay(t *testing.T) {
	o := operate(t)
	modes := []struct {
		options      string
		within, over bool // reach within a host, over the wire
	}{
		{"-o macvlan_mode=bridge", true, true},
		{"-o macvlan_mode=private", false, true},
		{"-o macvlan_mode=vepa", false, true}, // the segment reflects nothing
		{"-o ipvlan_mode=l2", true, true},
		{"-o ipvlan_mode=l2 -o ipvlan_flag=private", false, true},
		{"-o ipvlan_mode=l2 -o ipvlan_flag=vepa", false, true},
	}
	addr := func(mode int, h host, k int) string { return fmt.Sprintf("10.%d.%d.%d", mode+1, h.Index, k) }
	run := func(h host, k int) {
		var networks []string
		for i := range modes {
			networks = append(networks, fmt.Sprintf("n%d --ip %s", i, addr(i, h, k)))
		}
		h.runOn(fmt.Sprintf("c%d", k), networks...)
	}
	o.both(func(h host) {
		for i, c := range modes {
			h.create(fmt.Sprintf("n%d", i), fmt.Sprintf("--subnet 10.%d.0.0/16 -o parent=eth1.%d %s", i+1, 100+i, c.options))
		}
		run(h, 1)
	})
	run(o.one, 2)
	for i, c := range modes {
		t.Run(c.options, func(t *testing.T) {
			one, two := host{o.one.Node, t}, host{o.two.Node, t}
			one.wantReach("c2", addr(i, one, 1), c.within)
			one.wantReach("c1", addr(i, two, 1), c.over)
			two.wantReach("c1", addr(i, one, 2), c.over)
		})
	}
}

func TestPassthruAcross(t *testing.T) {
	o := operate(t)
	o.both(func(h host) {
		h.create("through", "--subnet 192.168.0.0/16 -o parent=eth1.300 -o macvlan_mode=passthru")
		h.run("c1", "through", fmt.Sprintf("--ip 192.168.%d.1", h.Index))
		h.fails("docker run --rm --network through busybox:lab true", "passthru takes one endpoint")
	})
	o.one.wantReach("c1", "192.168.2.1", true)
	o.one.sh("docker restart -t 0 c1")
	o.two.wantReach("c1", "192.168.1.1", true)
}

func TestQinQAcross(t *testing.T) {
	o := operate(t)
	c, err := lab.Capture(ctx, "ether proto 0x88a8 or vlan")
	if err != nil {
		t.Fatal(err)
	}
	o.both(func(h host) {
		h.create("double", "--subnet 192.168.0.0/16 -o "+map[string]string{"node-1": "parent=eth1.200.100", "node-2": "parent=eth1 -o vlan=200.100"}[h.Name])
		h.says("ip -d link show eth1.200", "802.1ad id 200")
		h.says("ip -d link show eth1.200.100", "802.1Q id 100")
		h.run("c1", "double", fmt.Sprintf("--ip 192.168.%d.1", h.Index))
	})
	o.one.wantReach("c1", "192.168.2.1", true)
	seen := false
	for _, line := range c.Stop() {
		if strings.Contains(line, "192.168.") {
			seen = true
			if tags := strings.Join(uml.Tags(line), "."); tags != "200.100" || !strings.Contains(line, "802.1Q-QinQ") {
				t.Errorf("tags %s, want an outer 802.1ad 200 and an inner 100: %s", tags, line)
			}
		}
	}
	if !seen {
		t.Error("no frame seen")
	}
	// Another pair of tags beside it, with an outer tag of 802.1Q.
	o.both(func(h host) {
		h.create("plain", "--subnet 10.7.0.0/16 -o parent=eth1 -o vlan=300.100 -o vlan_protocol=802.1q")
		h.says("ip -d link show eth1.300", "802.1Q id 300")
		h.run("c2", "plain", fmt.Sprintf("--ip 10.7.%d.1", h.Index))
	})
	o.one.wantReach("c2", "10.7.2.1", true)
}
