// Package reference is the reference scenario: two Docker hosts on a trunk, a network
// on VLAN 100 and one on VLAN 200 on each, two containers a network; who reaches whom,
// and what the frames on the trunk look like.
package reference

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/lanyard-net/lanyard/e2e/uml"
)

// Config says how the scenario's networks are made.
type Config struct {
	// Driver is Docker's name of the driver: lanyard, or a built-in one to compare.
	Driver string
	// Options are further flags of docker network create.
	Options string
}

// vlans are the VLANs of the scenario. Both have the same subnet, and the same range of
// it on a host: their containers have the same addresses.
var vlans = []int{100, 200}

// ranges are the third bytes of the nodes' --ip-range.
var ranges = []int{11, 10}

// Container is a container of the scenario, or the LAN node.
type Container struct {
	Name string
	Node *uml.Node
	VLAN int
	Addr string
	MAC  string
	// Own is an address that nobody else has, on either VLAN, and that everyone has a
	// route to on its own link: who is not reached by it is not on the same wire.
	Own string
	// enter is the command that puts another into the container's network
	// namespace; "" for a node itself.
	enter string
}

// Check is one thing that must hold.
type Check struct {
	What      string
	OK        bool
	Want, Got string
}

// Scenario is the scenario on a lab.
type Scenario struct {
	Config
	Lab        *uml.Lab
	Hosts      []*uml.Node
	LAN        *uml.Node // nil where the lab has none
	Containers []*Container
	say        func(string, ...any)
}

// Network is the name of a VLAN's network.
func Network(id int) string { return fmt.Sprintf("macvlan%d", id) }

// Create makes the networks and containers. The lab's nodes with an engine are the
// hosts; lanyard must run on them where it is the driver.
func Create(ctx context.Context, l *uml.Lab, c Config, say func(string, ...any)) (*Scenario, error) {
	s := &Scenario{Config: c, Lab: l, say: say}
	for _, n := range l.Nodes {
		if n.Engine != "" && len(s.Hosts) < len(ranges) {
			s.Hosts = append(s.Hosts, n)
		} else if n.Engine == "" {
			s.LAN = n
		}
	}
	say("creating networks on VLAN 100 and 200, and two containers on each, on %d hosts", len(s.Hosts))
	err := l.Each(func(n *uml.Node) error {
		i := slices.Index(s.Hosts, n)
		if i < 0 {
			return nil
		}
		script := "set -e\n"
		for _, v := range vlans {
			script += fmt.Sprintf("docker network create -d %s --ipam-driver lanyard --subnet 192.168.0.0/16 --ip-range 192.168.%d.0/24 %s -o parent=eth1.%d %s >/dev/null\n",
				c.Driver, ranges[i], c.Options, v, Network(v))
		}
		for _, v := range vlans {
			for k := range 2 {
				script += fmt.Sprintf("docker run -d --stop-signal=SIGKILL --name %s --network %s busybox:lab >/dev/null\n", name(v, i, k), Network(v))
			}
		}
		_, err := n.Must(ctx, script)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := s.refresh(ctx); err != nil {
		return nil, err
	}
	if s.LAN == nil {
		return s, nil
	}
	// The LAN node is a machine on VLAN 100 only, that would talk to VLAN 200 if it
	// could.
	_, err = s.LAN.Must(ctx, `set -e
ip link show eth1.100 >/dev/null 2>&1 || ip link add link eth1 name eth1.100 type vlan id 100
ip link set eth1.100 up
ip addr replace 192.168.1.1/16 dev eth1.100`)
	return s, err
}

// name is a container's: a for VLAN 100, b for VLAN 200; the host's number; the
// container's.
func name(vlan, host, k int) string {
	return fmt.Sprintf("%c%d%d", 'a'+vlan/100-1, host+1, k+1)
}

// refresh finds the containers as they are now: after a restart they have other
// processes.
func (s *Scenario) refresh(ctx context.Context) error {
	s.Containers = nil
	found := make([][]*Container, len(s.Hosts))
	err := s.Lab.Each(func(n *uml.Node) error {
		i := slices.Index(s.Hosts, n)
		if i < 0 {
			return nil
		}
		out, err := n.Must(ctx, `docker inspect $(docker ps -q) --format '{{.Name}} {{.State.Pid}} {{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}' | sort |
while read name pid addr; do echo "$name $pid $addr $(nsenter -t $pid -n ip -o link show dev eth0 | sed 's/.*link.ether //; s/ .*//')"; done`)
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			f := strings.Fields(line)
			if len(f) != 4 {
				return fmt.Errorf("container %q", line)
			}
			c := &Container{Name: strings.TrimPrefix(f[0], "/"), Node: n, Addr: f[2], MAC: f[3], enter: "nsenter -t " + f[1] + " -n "}
			c.VLAN = 100 * int(c.Name[0]-'a'+1)
			found[i] = append(found[i], c)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.Containers = slices.Concat(found...)
	for i, c := range s.Containers {
		c.Own = fmt.Sprintf("10.255.0.%d", i+1)
	}
	if want := len(s.Hosts) * 4; len(s.Containers) != want {
		return fmt.Errorf("%d containers run, want %d", len(s.Containers), want)
	}
	return nil
}

// Everyone is the containers, and the LAN node where there is one.
func (s *Scenario) Everyone() []*Container {
	all := slices.Clone(s.Containers)
	if s.LAN != nil {
		all = append(all, &Container{Name: "lan", Node: s.LAN, VLAN: 100, Addr: "192.168.1.1", Own: "10.255.0.254"})
	}
	return all
}

// Reach has every one ping every other, all at once, and says who reached whom. Each
// has to ask by ARP anew. Those of one VLAN are pinged by the address that Docker gave
// them, and that one must be answered by the right MAC address, because the other VLAN
// has the same addresses; everyone is pinged by an address of its own. Who does not answer
// is asked six times in three seconds.
func (s *Scenario) Reach(ctx context.Context) (map[[2]string]bool, error) {
	if err := s.refresh(ctx); err != nil {
		return nil, err
	}
	s.say("pinging from each to each")
	found := make([]map[[2]string]bool, len(s.Lab.Nodes))
	err := s.Lab.AtOnce(func(n *uml.Node) error {
		prepare, script := "", ""
		for _, from := range s.Everyone() {
			if from.Node != n {
				continue
			}
			dev := "eth0"
			if from.enter == "" {
				dev = "eth1.100"
			}
			prepare += fmt.Sprintf("%s ip -batch - <<EOF\naddr replace %s/32 dev %s\nroute replace 10.255.0.0/24 dev %[3]s src %[2]s\nneigh flush all\nEOF\n", from.enter, from.Own, dev)
			addrs := ""
			for _, to := range s.Everyone() {
				if to.Name == from.Name {
					continue
				}
				addrs += " " + to.Own
				if to.VLAN == from.VLAN {
					addrs += " " + to.Addr
				}
			}
			// fping's exit code is of those that do not answer.
			script += fmt.Sprintf("{ %s sh -c 'fping -a -q -i 5 -t 500 -B 1 -r 5 %s; ip neigh show' 2>&1 | sed 's/^/%s /'; } &\n", from.enter, addrs, from.Name)
		}
		if _, err := n.Must(ctx, "set -e\n"+prepare); err != nil {
			return err
		}
		out, err := n.Must(ctx, script+"wait")
		if err != nil {
			return err
		}
		found[n.Index-1] = s.reached(out)
		return nil
	})
	reach := map[[2]string]bool{}
	for _, f := range found {
		maps.Copy(reach, f)
	}
	return reach, err
}

// reached reads who was reached: lines of a name and what fping and ip neigh say there.
func (s *Scenario) reached(out string) map[[2]string]bool {
	answers, neighbours := map[[2]string]bool{}, map[[2]string]string{}
	for line := range strings.Lines(out) {
		switch f := strings.Fields(line); {
		case len(f) == 2:
			answers[[2]string{f[0], f[1]}] = true
		case len(f) > 5 && f[4] == "lladdr":
			neighbours[[2]string{f[0], f[1]}] = f[5]
		}
	}
	reach := map[[2]string]bool{}
	for _, from := range s.Everyone() {
		if !strings.Contains("\n"+out, "\n"+from.Name+" ") {
			continue // another node's, or nothing was said: not tried
		}
		for _, to := range s.Everyone() {
			got := answers[[2]string{from.Name, to.Own}]
			if to.VLAN == from.VLAN {
				got = got && answers[[2]string{from.Name, to.Addr}] && (to.MAC == "" || neighbours[[2]string{from.Name, to.Addr}] == to.MAC)
			}
			reach[[2]string{from.Name, to.Name}] = got
		}
	}
	return reach
}

// Judge holds who reached whom against what should be: those of one VLAN reach each
// other, others do not.
func (s *Scenario) Judge(reach map[[2]string]bool) []Check {
	word := map[bool]string{true: "yes", false: "no"}
	var checks []Check
	for _, from := range s.Everyone() {
		for _, to := range s.Everyone() {
			if from.Name == to.Name {
				continue
			}
			got, tried := reach[[2]string{from.Name, to.Name}]
			c := Check{What: from.Name + " reaches " + to.Name, Want: word[from.VLAN == to.VLAN], Got: word[got]}
			if !tried {
				c.Got = "not tried"
			}
			c.OK = c.Want == c.Got
			checks = append(checks, c)
		}
	}
	return checks
}

// JudgeFrames holds the frames on the trunk (tcpdump -e) against what should be:
// what each container sends carries its VLAN's tag and no other, and nobody answers
// for an address across VLANs.
func (s *Scenario) JudgeFrames(lines []string) []Check {
	var checks []Check
	for _, c := range s.Containers {
		check := Check{What: fmt.Sprintf("frames of %s carry tag %d alone", c.Name, c.VLAN), Want: "all", Got: "no frame seen"}
		for _, line := range lines {
			if !strings.Contains(line, " "+c.Own+" > ") && !strings.Contains(line, "tell "+c.Own+",") {
				continue
			}
			check.OK, check.Got = true, "all"
			if strings.Join(uml.Tags(line), ".") != fmt.Sprint(c.VLAN) || !strings.Contains(line, c.MAC+" > ") {
				check.OK, check.Got = false, line
				break
			}
		}
		checks = append(checks, check)
	}
	check := Check{What: "no ARP reply across VLANs", Want: "none", Got: "none", OK: true}
	replies := 0
	for _, line := range lines {
		_, reply, ok := strings.Cut(line, "Reply ")
		if !ok {
			continue
		}
		replies++
		addr, _, _ := strings.Cut(reply, " ")
		i := slices.IndexFunc(s.Everyone(), func(c *Container) bool { return c.Own == addr })
		if i >= 0 && strings.Join(uml.Tags(line), ".") != fmt.Sprint(s.Everyone()[i].VLAN) {
			check.OK, check.Got = false, line
		}
	}
	if replies == 0 {
		check.OK, check.Got = false, "no ARP reply seen at all"
	}
	return append(checks, check)
}

// Remove removes the containers and networks, and the LAN node's place on VLAN 100.
func (s *Scenario) Remove(ctx context.Context) error {
	return s.Lab.Each(func(n *uml.Node) error {
		script := ""
		switch {
		case n == s.LAN:
			script = "ip link del eth1.100"
		case slices.Contains(s.Hosts, n):
			script = `ids=$(docker ps -aq); [ -z "$ids" ] || docker rm -f $ids >/dev/null
docker network rm macvlan100 macvlan200 >/dev/null`
		}
		_, err := n.Must(ctx, script)
		return err
	})
}
