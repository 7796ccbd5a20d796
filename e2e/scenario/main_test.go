//go:build lab

// Package scenario tests two Docker hosts and a LAN node on one VLAN trunk: what
// crosses the wire, and what a kernel with 802.1Q, 802.1ad and ipvlan can show.
//
// LANYARD_ENGINES names the engine (20.10, 28.5); the oldest one by default.
package scenario

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/e2e/machine"
	"github.com/lanyard-net/lanyard/e2e/uml"
)

var (
	ctx = context.Background()
	lab *uml.Lab
)

func TestMain(m *testing.M) { os.Exit(runAll(m)) }

func runAll(m *testing.M) (code int) {
	running, ready := machine.Interruptible()
	if err := start(running); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ready(lab.Down)
	defer func() {
		if err := lab.Down(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	return m.Run()
}

func start(ctx context.Context) (err error) {
	chosen, err := machine.Chosen(os.Getenv("LANYARD_ENGINES"))
	if err != nil {
		return err
	}
	engine := chosen[0]
	lab, err = uml.Up(ctx, "scenario", []uml.NodeConfig{
		{Name: "node-1", Engine: engine.Name}, {Name: "node-2", Engine: engine.Name}, {Name: "lan", Mem: 512},
	}, func(format string, args ...any) { fmt.Printf(format+"\n", args...) })
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lab.Down())
		}
	}()
	fmt.Printf("engine %s: Docker %s\n", engine.Name, engine.Version())
	binary, err := lab.InstallPackage(ctx, "cmd/lanyard")
	if err != nil {
		return err
	}
	return lab.Each(func(n *uml.Node) error {
		if n.Engine == "" {
			return nil
		}
		return errors.Join(n.StartLanyard(ctx, binary, "--log-level", "debug"), n.StartDockerd(ctx))
	})
}

// operator types commands on the hosts.
type operator struct {
	*testing.T
	one, two, lan host
}

// host is a node as a test uses it.
type host struct {
	*uml.Node
	t *testing.T
}

// operate gives a test the hosts, and checks after it that nothing is left on them.
func operate(t *testing.T) *operator {
	t.Helper()
	o := &operator{T: t, one: host{lab.Node("node-1"), t}, two: host{lab.Node("node-2"), t}, lan: host{lab.Node("lan"), t}}
	t.Cleanup(func() {
		if t.Failed() {
			for _, h := range []host{o.one, o.two} {
				t.Logf("%s: lanyard's log:\n%s", h.Name, tail(h.sh("grep -v DEBUG /run/lab/lanyard.log || true"), 15))
			}
		}
		o.both(func(h host) {
			out := h.sh(`ids=$(docker ps -aq); [ -z "$ids" ] || docker rm -f $ids >/dev/null
nets=$(docker network ls -q --filter type=custom); [ -z "$nets" ] || docker network rm $nets >/dev/null
for i in $(seq 30); do
	left=$(ip -br link show | grep -vE '^(lo|eth0|eth1|docker0|docker_gwbridge|sit0|tunl0) ' || true)
	[ -z "$left" ] && break
	sleep 0.2
done
echo $left
lanyard network ls -q; lanyard endpoint ls -q`)
			if out != "" {
				t.Errorf("%s: left behind: %s", h.Name, out)
			}
		})
	})
	return o
}

// both does something on both Docker hosts, one after the other (uml.Lab.Each says why).
func (o *operator) both(do func(h host)) {
	o.Helper()
	do(o.one)
	do(o.two)
}

// sh runs a script that must succeed, and returns what it prints.
func (h host) sh(format string, args ...any) string {
	h.t.Helper()
	out, err := h.Must(ctx, fmt.Sprintf(format, args...))
	if err != nil {
		h.t.Error(err)
	}
	return out
}

// says is sh for a script that must print these words.
func (h host) says(script string, words ...string) string {
	h.t.Helper()
	out := h.sh("%s", script)
	for _, w := range words {
		if !strings.Contains(out, w) {
			h.t.Errorf("%s: %s: no %q in\n%s", h.Name, script, w, out)
		}
	}
	return out
}

// fails runs a script that must fail with these words.
func (h host) fails(script string, words ...string) {
	h.t.Helper()
	r, err := h.Run(ctx, script)
	if err != nil || r.Code == 0 {
		h.t.Errorf("%s: %s: want a failure, got %v\n%s", h.Name, script, err, r.Out())
		return
	}
	for _, w := range words {
		if !strings.Contains(r.Out(), w) {
			h.t.Errorf("%s: %s: %q does not say %q", h.Name, script, r.Out(), w)
		}
	}
}

// create makes a network; run a container on one that sleeps.
func (h host) create(name, flags string) {
	h.t.Helper()
	h.sh("docker network create -d lanyard %s %s", flags, name)
}

func (h host) run(name, network, flags string) {
	h.t.Helper()
	h.sh("docker run -d --stop-signal=SIGKILL --name %s --network %s %s busybox:lab", name, network, flags)
}

// runOn is run on several networks: the name of each, and its flags behind it.
func (h host) runOn(name string, networks ...string) {
	h.t.Helper()
	script := fmt.Sprintf("set -e\ndocker create --stop-signal=SIGKILL --name %s --network %s busybox:lab\n", name, networks[0])
	for _, n := range networks[1:] {
		network, flags, _ := strings.Cut(n, " ")
		script += fmt.Sprintf("docker network connect %s %s %s\n", flags, network, name)
	}
	h.sh("%sdocker start %s", script, name)
}

// in is a command in the network namespace of a container, with the host's programs: a
// docker exec takes a guest some seconds.
func in(name, command string) string {
	return fmt.Sprintf("nsenter -t $(docker inspect %s --format '{{.State.Pid}}') -n %s", name, command)
}

// reaches reports whether a container gets an answer from an address.
func (h host) reaches(name, addr string) bool {
	h.t.Helper()
	r, err := h.Run(ctx, in(name, "busybox ping -q -c 3 -i 0.3 -W 2 "+addr))
	if err != nil {
		h.t.Fatal(err)
	}
	return r.Code == 0
}

func (h host) wantReach(name, addr string, want bool) {
	h.t.Helper()
	if got := h.reaches(name, addr); got != want {
		h.t.Errorf("%s: %s reaches %s: %v, want %v", h.Name, name, addr, got, want)
	}
}

// eventually waits until problem returns "".
func eventually(t *testing.T, what string, problem func() string) {
	t.Helper()
	deadline := time.Now().Add(60 * time.Second)
	for {
		p := problem()
		if p == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%s: not within a minute: %s", what, p)
			return
		}
		time.Sleep(300 * time.Millisecond)
	}
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}
