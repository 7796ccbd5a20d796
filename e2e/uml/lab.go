// Package uml is the lab: Docker hosts that are User-Mode Linux guests, each with a
// kernel of its own that has 802.1Q, 802.1ad, macvlan and ipvlan, on one Ethernet
// segment that carries tagged frames as it gets them.
//
// All of a lab is in one network namespace of the machine, and in one folder. It
// ends only what it started, by pid and start time.
package uml

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"

	"github.com/lanyard-net/lanyard/e2e/machine"
	"github.com/lanyard-net/lanyard/e2e/uml/agent/wire"
	"github.com/lanyard-net/lanyard/internal/netns"
)

// Home is where labs are, a folder each.
const Home = "/var/lib/lanyard-lab"

//go:embed init.sh
var initScript []byte

//go:embed systemd.sh
var systemdScript []byte

// NodeConfig is what a node is made of.
type NodeConfig struct {
	Name string
	// Engine is the Docker Engine that StartDockerd starts (machine.EngineNamed);
	// "" for a node without one.
	Engine string
	// Mem is the guest's memory in MiB; 0 means 1024.
	Mem int
	// Systemd makes systemd the guest's pid 1, and lets all that is written to its
	// file system outlast a boot. Such a node's daemons are systemd's: not for
	// StartLanyard and StartDockerd.
	Systemd bool
}

// Lab is a running lab.
type Lab struct {
	Name  string
	Nodes []*Node

	dir   string
	agent string // the agent's binary
	ns    *netns.NS
	cli   net.Listener // for command lines of docker; nil in a lab that Open found
	say   func(format string, args ...any)
	trace io.WriteCloser // gets a line for each script that ran; nil

	mu sync.Mutex // guards the record on disk and what nodes have in it
}

// record is what is kept on disk of a lab.
type record struct {
	Agent string
	Nodes []*Node
}

// Up makes a lab and boots its nodes. LANYARD_LAB_TRACE names a file that gets a line for each
// script that runs on a node, with the time it takes. A lab of that name that runs is
// ended first. lab is nil on an error, and nothing is left.
func Up(ctx context.Context, name string, nodes []NodeConfig, say func(format string, args ...any)) (_ *Lab, err error) {
	if say == nil {
		say = func(string, ...any) {}
	}
	if err := machine.Prepare(ctx, say); err != nil {
		return nil, err
	}
	if old, err := Open(name); err == nil {
		if err := old.Down(); err != nil {
			return nil, err
		}
	}
	l := &Lab{Name: name, dir: filepath.Join(Home, name), say: say}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Down())
		}
	}()
	if path := os.Getenv("LANYARD_LAB_TRACE"); path != "" {
		if l.trace, err = os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(filepath.Join(l.dir, "bin"), 0o755); err != nil {
		return nil, err
	}
	if l.agent, err = l.InstallPackage(ctx, "e2e/uml/agent"); err != nil {
		return nil, err
	}
	if err := l.makeSegment(ctx); err != nil {
		return nil, err
	}
	for i, c := range nodes {
		n := &Node{NodeConfig: c, Index: i + 1, lab: l}
		l.Nodes = append(l.Nodes, n)
		if err := n.create(ctx); err != nil {
			return nil, err
		}
	}
	if err := l.save(func() {}); err != nil {
		return nil, err
	}
	if l.cli, err = l.serveCLI(); err != nil {
		return nil, err
	}
	say("booting %d nodes", len(nodes))
	return l, l.Each(func(n *Node) error { return n.Boot(ctx) })
}

// Open finds a lab that runs.
func Open(name string) (*Lab, error) {
	l := &Lab{Name: name, dir: filepath.Join(Home, name), say: func(string, ...any) {}}
	text, err := os.ReadFile(filepath.Join(l.dir, "lab.json"))
	if err != nil {
		return nil, fmt.Errorf("no lab %q runs: %w", name, err)
	}
	var r record
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("lab %q: %w", name, err)
	}
	l.agent, l.Nodes = r.Agent, r.Nodes
	for _, n := range l.Nodes {
		n.lab = l
	}
	if l.ns, err = netns.Open(l.nsPath()); err != nil {
		l.ns = nil // half gone: Down still works
	}
	return l, nil
}

// save writes the record after a change of it.
func (l *Lab) save(change func()) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	change()
	text, err := json.MarshalIndent(record{l.agent, l.Nodes}, "", "  ")
	if err != nil {
		return err
	}
	path := filepath.Join(l.dir, "lab.json")
	if err := os.WriteFile(path+".new", text, 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// Down ends the lab: guests, namespace, folder.
func (l *Lab) Down() error {
	errs := []error{l.Each(func(n *Node) error { return n.PowerOff() })}
	if l.cli != nil {
		errs = append(errs, l.cli.Close())
		l.cli = nil
	}
	if l.trace != nil {
		errs = append(errs, l.trace.Close())
		l.trace = nil
	}
	if l.ns != nil {
		errs = append(errs, l.ns.Close())
		l.ns = nil
	}
	if _, err := os.Stat(l.nsPath()); err == nil {
		errs = append(errs, run(context.Background(), "ip", "netns", "del", l.nsName()))
	}
	return errors.Join(append(errs, os.RemoveAll(l.dir))...)
}

// Each does something on all nodes, one after the other: guests that work at the same time
// get less done than in turn where the machine is itself a guest without nested paging
// (three docker runs took 16 s on one host alone, and 54 s on two at once).
func (l *Lab) Each(do func(n *Node) error) error {
	errs := make([]error, len(l.Nodes))
	for i, n := range l.Nodes {
		if err := do(n); err != nil {
			errs[i] = fmt.Errorf("%s: %w", n.Name, err)
		}
	}
	return errors.Join(errs...)
}

// AtOnce does something on all nodes at the same time.
func (l *Lab) AtOnce(do func(n *Node) error) error {
	errs := make([]error, len(l.Nodes))
	var wg sync.WaitGroup
	for i, n := range l.Nodes {
		wg.Go(func() {
			if err := do(n); err != nil {
				errs[i] = fmt.Errorf("%s: %w", n.Name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Node is the node of that name; nil if there is none.
func (l *Lab) Node(name string) *Node {
	for _, n := range l.Nodes {
		if n.Name == name {
			return n
		}
	}
	return nil
}

func (l *Lab) nsName() string { return "lanyard-" + l.Name }
func (l *Lab) nsPath() string { return "/var/run/netns/" + l.nsName() }

// makeSegment makes the namespace and its two bridges: seg, which floods tagged
// frames as they are, and mgmt, over which the agents are reached.
func (l *Lab) makeSegment(ctx context.Context) (err error) {
	if _, err := os.Stat(l.nsPath()); err == nil {
		if err := run(ctx, "ip", "netns", "del", l.nsName()); err != nil {
			return err
		}
	}
	if err := run(ctx, "ip", "netns", "add", l.nsName()); err != nil {
		return err
	}
	if l.ns, err = netns.Open(l.nsPath()); err != nil {
		return err
	}
	return l.inNS(ctx, `set -e
sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1
for key in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e "$key" ] || echo 0 >"$key"; done
ip link set lo up
for br in seg mgmt; do
	ip link add $br type bridge stp_state 0 mcast_snooping 0 forward_delay 0
	ip link set $br up
done
ip addr add `+gateway+`/24 dev mgmt`)
}

// The management network, in the lab's namespace alone.
const (
	gateway = wire.Gateway
	subnet  = "10.99.0."
)

// inNS runs a script in the lab's namespace on the machine.
func (l *Lab) inNS(ctx context.Context, script string) error {
	return run(ctx, "nsenter", "--net="+l.nsPath(), "sh", "-c", script)
}

// Install copies a file to where guests find it, under a name that is new for each
// content: hostfs may show a guest an old content under an old name. It returns the
// path, which is the same on the machine and in the guests.
func (l *Lab) Install(file string) (string, error) {
	in, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer in.Close()
	h := sha256.New()
	if _, err := io.Copy(h, in); err != nil {
		return "", err
	}
	to := filepath.Join(l.dir, "bin", fmt.Sprintf("%x", h.Sum(nil)[:6]), filepath.Base(file))
	if _, err := os.Stat(to); err == nil {
		return to, nil
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return "", err
	}
	return to, run(context.Background(), "cp", file, to)
}

// module is the path of this module.
const module = "github.com/lanyard-net/lanyard/"

// InstallPackage builds a package of this module (cmd/lanyard) into a static binary
// and installs it.
func (l *Lab) InstallPackage(ctx context.Context, pkg string) (string, error) {
	tmp, err := os.MkdirTemp("", "lanyard-lab")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	out := filepath.Join(tmp, filepath.Base(pkg))
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", out, module+pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := output(cmd); err != nil {
		return "", err
	}
	return l.Install(out)
}

func run(ctx context.Context, args ...string) error {
	return output(exec.CommandContext(ctx, args[0], args[1:]...))
}

func output(cmd *exec.Cmd) error {
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
