// Package reference is the reference scenario: two Docker hosts on a trunk, a network
// on VLAN 100 and one on VLAN 200 on each, two containers a network; who reaches whom,
// and what the frames on the trunk look like.
package reference

import (
	"context"
	"fmt"
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

// vlan is a VLAN of the scenario. Docker's own address management refuses one subnet
// twice on a host, so each has its own.
type vlan struct {
	id     int
	prefix string // of the subnet, which is a /16
}

var vlans = []vlan{{100, "192.168"}, {200, "172.20"}}

// ranges are the third bytes of the nodes' --ip-range.
var ranges = []int{11, 10}

// Container is a container of the scenario, or the LAN node.
type Container struct {
	Name string
	Node *uml.Node
	VLAN int
	Addr string
	MAC  string
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
			script += fmt.Sprintf("docker network create -d %[1]s %[2]s --subnet %[3]s.0.0/16 --ip-range %[3]s.%[4]d.0/24 --gateway %[3]s.0.1 -o parent=eth1.%[5]d %[6]s >/dev/null\n",
				c.Driver, c.Options, v.prefix, ranges[i], v.id, Network(v.id))
		}
		script += "pids=\n"
		for _, v := range vlans {
			for k := range 2 {
				script += fmt.Sprintf("docker run -d --stop-signal=SIGKILL --name %s --network %s busybox:lab >/dev/null & pids=\"$pids $!\"\n", name(v.id, i, k), Network(v.id))
			}
		}
		script += "for pid in $pids; do wait $pid; done\n"
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
ip addr replace 192.168.1.1/16 dev eth1.100
ip route replace 172.20.0.0/16 dev eth1.100`)
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
			c.VLAN = vlanOf(c.Addr)
			found[i] = append(found[i], c)
		}
		return nil
	})
	if err != nil {
		return err
	}
	s.Containers = slices.Concat(found...)
	if want := len(s.Hosts) * 4; len(s.Containers) != want {
		return fmt.Errorf("%d containers run, want %d", len(s.Containers), want)
	}
	return nil
}

func vlanOf(addr string) int {
	for _, v := range vlans {
		if strings.HasPrefix(addr, v.prefix+".") {
			return v.id
		}
	}
	return 0
}

// Everyone is the containers, and the LAN node where there is one.
func (s *Scenario) Everyone() []*Container {
	all := slices.Clone(s.Containers)
	if s.LAN != nil {
		all = append(all, &Container{Name: "lan", Node: s.LAN, VLAN: 100, Addr: "192.168.1.1"})
	}
	return all
}

// Reach has every one ping every other, all at once, and says who reached whom. Each
// has to ask by ARP anew; and so that silence between VLANs is not only the want of a
// route, everyone has a route on its own link to the other VLAN's subnet.
func (s *Scenario) Reach(ctx context.Context) (map[[2]string]bool, error) {
	if err := s.refresh(ctx); err != nil {
		return nil, err
	}
	s.say("pinging from each to each")
	reach := map[[2]string]bool{}
	outs := make([]string, len(s.Lab.Nodes))
	err := s.Lab.Each(func(n *uml.Node) (err error) {
		script := ""
		for _, from := range s.Everyone() {
			if from.Node != n {
				continue
			}
			inner := "ip neigh flush all; "
			if from.enter != "" {
				for _, v := range vlans {
					if v.id != from.VLAN {
						inner += fmt.Sprintf("ip route replace %s.0.0/16 dev eth0; ", v.prefix)
					}
				}
			}
			for _, to := range s.Everyone() {
				if to.Name == from.Name {
					continue
				}
				inner += fmt.Sprintf("{ busybox ping -q -c 3 -i 0.3 -W 3 %s >/dev/null 2>&1 && echo %s %s yes || echo %s %s no; } & ", to.Addr, from.Name, to.Name, from.Name, to.Name)
			}
			script += fmt.Sprintf("%s sh -c '%s wait'\n", from.enter, inner)
		}
		outs[n.Index-1], err = n.Must(ctx, script)
		return err
	})
	for line := range strings.Lines(strings.Join(outs, "\n")) {
		if f := strings.Fields(line); len(f) == 3 {
			reach[[2]string{f[0], f[1]}] = f[2] == "yes"
		}
	}
	return reach, err
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
			if !strings.Contains(line, " "+c.Addr+" > ") && !strings.Contains(line, "tell "+c.Addr+",") {
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
		if tags := strings.Join(uml.Tags(line), "."); tags != fmt.Sprint(vlanOf(addr)) {
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
