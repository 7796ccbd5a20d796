//go:build lab

package engines

import (
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/e2e/dockerd"
)

// swarm is some hosts of one engine whose eth1 are on one wire, in Swarm mode, with lanyard as a managed
// plugin and one etcd. The first host is the manager.
type swarm struct {
	*testing.T
	nodes []*user
	ids   []string // Swarm's, of each node
}

func newSwarm(t *testing.T, e *engine, plugin string, nodes int) *swarm {
	t.Helper()
	s := &swarm{T: t}
	for i := range nodes {
		h, err := dockerd.New(ctx, dockerd.Config{Dir: filepath.Join(t.TempDir(), "host"), Path: e.path, Lanyard: filepath.Join(plugin, "rootfs/lanyard")})
		if err != nil {
			t.Fatal(err)
		}
		n := &user{t: t, engine: e.name, Host: h}
		s.nodes = append(s.nodes, n)
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("node %d:\n%s\n%s", i+1, s.try(n, "lanyard endpoint ls; docker ps -a"), s.try(n, "tail -n 30 "+n.DockerdLog()))
			}
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		})
		n.mustDo(h.MakeImage(ctx))
		n.plug(s.nodes[0], i+1)
		if i == 0 {
			n.etcd("10.98.0.1")
		}
	}
	for i, n := range s.nodes {
		n.mustDo(n.StopLanyard())
		n.sh(fmt.Sprintf("docker plugin create lanyard %s && docker plugin set lanyard flags='--store etcd://10.98.0.1 --host-name node%d' && docker plugin enable lanyard", plugin, i+1))
		if i == 0 {
			n.sh("docker swarm init --advertise-addr 10.98.0.1")
		} else {
			n.sh(fmt.Sprintf("docker swarm join --advertise-addr 10.98.0.%d --token %s 10.98.0.1:2377", i+1, s.nodes[0].sh("docker swarm join-token -q worker")))
		}
		s.ids = append(s.ids, n.sh("docker info -f '{{.Swarm.NodeID}}'"))
	}
	return s
}

func (s *swarm) try(n *user, script string) string {
	out, err := n.try(script)
	if err != nil {
		out += err.Error()
	}
	return out
}

// used is how many addresses containers have, on all nodes.
func (s *swarm) used() string {
	return s.try(s.nodes[0], "lanyard address ls | awk '$2 == \"used\"' | wc -l")
}

// tasks waits until a service called web has so many tasks, spread over the nodes that are given (1 is the
// manager; any, where none is), each with an address of its own, and until no other address is in use. It
// returns the addresses, by node.
func (s *swarm) tasks(when string, count int, on ...int) (addrs map[int][]string) {
	s.Helper()
	s.nodes[0].within(time.Minute, when, func() string {
		addrs = map[int][]string{}
		seen := map[string]bool{}
		for i, n := range s.nodes {
			for line := range strings.Lines(s.try(n, fmt.Sprintf("lanyard endpoint ls --host node%d | grep -F web. || true", i+1))) {
				addr, _, _ := strings.Cut(strings.Fields(line)[6], "/")
				if seen[addr] || !strings.HasPrefix(addr, "10.50.0.") || addr == "10.50.0.254" {
					return line
				}
				seen[addr] = true
				addrs[i+1] = append(addrs[i+1], addr)
			}
		}
		out := s.try(s.nodes[0], "docker service ls; docker service ps --no-trunc web; lanyard address ls")
		if len(seen) != count || s.used() != fmt.Sprint(count) || !strings.Contains(out, fmt.Sprintf(" %d/%[1]d ", count)) {
			return fmt.Sprint(addrs, "\n", out)
		}
		if where := slices.Sorted(maps.Keys(addrs)); len(on) > 0 && !slices.Equal(where, on) {
			return fmt.Sprint(addrs)
		}
		return ""
	})
	if s.Failed() {
		s.FailNow()
	}
	return addrs
}

// reach checks that a task on each node reaches all addresses, and the service by its name.
func (s *swarm) reach(addrs map[int][]string) {
	s.Helper()
	all := strings.Join(slices.Concat(slices.Collect(maps.Values(addrs))...), " ")
	for i := range addrs {
		if out := s.nodes[i-1].sh(fmt.Sprintf(
			`docker exec $(docker ps -q --filter name=web. | head -n1) sh -c 'for a in %s web; do ping -c1 -W2 $a >/dev/null || echo "$a is not reached"; done'`, all)); out != "" {
			s.Errorf("node %d: %s", i, out)
		}
	}
}

// A service's tasks have addresses of one pool on all nodes, wherever Swarm puts them, and none twice. What
// is refused is refused in Docker's words, which docs/swarm.md has.
func TestSwarm(t *testing.T) {
	plugin := buildPlugin(t, "1.0.0")
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			s := newSwarm(t, e, plugin, 3)
			manager := s.nodes[0]
			manager.sh("lanyard host ls | grep -c alive | grep 3")
			manager.fails("docker network create -d lanyard --scope swarm --config-from cfg net", "could not resolve driver lanyard in registry")
			for _, n := range s.nodes {
				n.sh("docker network create --config-only --ipam-driver lanyard:latest --subnet 10.50.0.0/24 --gateway 10.50.0.254 -o parent=eth1 cfg")
			}
			manager.sh("docker network create -d lanyard:latest --scope swarm --config-from cfg --attachable net")
			// The manager tells of a network that no node has made.
			manager.says("lanyard repair --dry-run", "Nothing to repair")
			// A network that is no service's, defined once: by the plugin's name on each node.
			manager.says("lanyard network create --subnet 10.60.0.0/24 --parent eth1 once", "node1", "node2", "node3", "ready")
			s.nodes[1].says("docker network inspect -f '{{.Driver}}' once", "lanyard:latest")
			manager.says("lanyard network rm once", "once: no more defined")
			manager.sh("docker service create -d --name web --replicas 6 --stop-signal SIGKILL --network net busybox:lab")
			s.reach(s.tasks("six tasks run", 6, 1, 2, 3))
			manager.sh("docker service scale -d web=12")
			s.tasks("twelve tasks run", 12, 1, 2, 3)
			manager.sh("docker service scale -d web=4")
			s.tasks("four tasks are left", 4)
			manager.sh("docker node update --availability drain " + s.ids[2])
			s.reach(s.tasks("all have left a node", 4, 1, 2))
			s.nodes[2].eventually("it has no network", func() string { return s.try(s.nodes[2], "lanyard network ls -q --host node3") })
			manager.sh("docker node update --availability active " + s.ids[2])

			manager.mustDo(s.nodes[1].StopDockerd())
			manager.mustDo(s.nodes[1].StartDockerd(ctx))
			s.reach(s.tasks("four tasks run after a node's Docker restarted", 4))

			// A container that is no task. Docker says nothing of its --ip to us.
			s.nodes[2].says("docker run --rm --network net --ip 10.50.0.77 busybox:lab ip -o -4 addr show eth0", "10.50.0.")
			manager.sh("docker service rm web")
			for i, n := range s.nodes {
				n.eventually(fmt.Sprintf("node %d has no network", i+1), func() string {
					return s.try(n, fmt.Sprintf("lanyard endpoint ls -q --host node%d; lanyard network ls -q --host node%[1]d", i+1))
				})
			}
			manager.eventually("no address is in use", func() string { return strings.TrimPrefix(s.used(), "0") })
			manager.sh("docker network rm net")
		})
	}
}
