//go:build lab

// Package systemd tests the packages and their units on a host whose pid 1 is systemd,
// with Docker's own units: what an operator does from the installation to the removal, a
// reboot and a power loss.
// The tests run in their order on one host, which is never made anew.
//
// LANYARD_ENGINES names the engine (20.10, 28.5); the newest one by default.
package systemd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lanyard-net/lanyard/e2e/dockerd"
	"github.com/lanyard-net/lanyard/e2e/machine"
	"github.com/lanyard-net/lanyard/e2e/uml"
)

var (
	ctx = context.Background()
	lab *uml.Lab
)

// What is installed, where guests see it under the same path: they have a /tmp of their own, and
// this checkout may be in the machine's.
const (
	files    = uml.Home + "/systemd-files"
	checkout = files + "/checkout" // what make install needs
	dist     = files + "/dist"     // what make dist made, a folder for each of versions
)

// versions are those of the packages, the older one first.
var versions = []string{"1.0.0", "1.0.1"}

func TestMain(m *testing.M) { os.Exit(runAll(m)) }

func runAll(m *testing.M) (code int) {
	running, ready := machine.Interruptible()
	if err := start(running); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	end := func() error { return errors.Join(lab.Down(), os.RemoveAll(files)) }
	ready(end)
	defer func() {
		if err := end(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	return m.Run()
}

// builds makes what the host is to install: bin/lanyard, and the packages of all versions.
func builds() error {
	const script = `mkdir -p "$0/bin" && make build && cp bin/lanyard "$0/bin" && cp -r Makefile dist man "$0" || exit
make dist ARCHS=amd64 VERSION=$2 DIST="$1/$2" && make dist ARCHS=amd64 VERSION=$3 DIST="$1/$3" FORMATS="deb rpm"`
	cmd := exec.Command("sh", "-c", script, checkout, dist, versions[0], versions[1])
	cmd.Dir = "../.."
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make: %w: %s", err, out)
	}
	return nil
}

// start boots the host and installs lanyard and Docker there.
func start(ctx context.Context) (err error) {
	chosen, err := machine.Chosen(os.Getenv("LANYARD_ENGINES"))
	if err != nil {
		return err
	}
	engine := chosen[len(chosen)-1]
	if err := os.RemoveAll(files); err != nil {
		return err
	}
	var g errgroup.Group
	g.Go(builds)
	lab, err = uml.Up(ctx, "systemd", []uml.NodeConfig{
		{Name: "host", Engine: engine.Name, Systemd: true}, {Name: "lan", Mem: 256},
	}, func(format string, args ...any) { fmt.Printf(format+"\n", args...) })
	built := g.Wait()
	if err != nil {
		return errors.Join(err, built)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lab.Down())
		}
	}()
	if built != nil {
		return built
	}
	fmt.Printf("engine %s: Docker %s\n", engine.Name, engine.Version())
	if _, err := lab.Node("lan").Must(ctx, "ip link add link eth1 name eth1.100 type vlan id 100 && ip link set eth1.100 up && ip addr add 192.168.0.1/16 dev eth1.100"); err != nil {
		return err
	}
	host := lab.Node("host")
	for _, script := range []string{
		"dpkg -i " + deb(versions[0]), // all that docs/install.md says
		dockerUnits(engine) + "systemctl daemon-reload && systemctl enable --now containerd.service docker.socket docker.service",
		dockerd.ImageScript,
		"sync",
	} {
		if out, err := host.Must(ctx, script); err != nil {
			return fmt.Errorf("%w\n%s", err, out)
		}
	}
	return nil
}

// deb and rpm are the packages of a version.
func deb(version string) string {
	return filepath.Join(dist, version, "lanyard_"+version+"-1_amd64.deb")
}
func rpm(version string) string {
	return filepath.Join(dist, version, "lanyard-"+version+"-1.x86_64.rpm")
}

// dockerUnits is a script that installs the units of the engine's Debian package,
// with the programs where they are unpacked.
func dockerUnits(e machine.Engine) string {
	// The cgroups are made by runc: with systemd's help it needs D-Bus. Docker's
	// own network needs iptables.
	return fmt.Sprintf(`set -e
PATH=%s:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
root=%s
grep -q ^docker: /etc/group || echo docker:x:997: >>/etc/group
for unit in docker.service docker.socket containerd.service; do
	cp $(ls $root/lib/systemd/system/$unit $root/usr/lib/systemd/system/$unit 2>/dev/null | head -n1) /etc/systemd/system/
	mkdir -p /etc/systemd/system/$unit.d
done
printf '[Service]\nEnvironment=PATH=%%s\nExecStart=\nExecStart=%%s\n' $PATH $(command -v containerd) >/etc/systemd/system/containerd.service.d/lab.conf
printf '[Service]\nEnvironment=PATH=%%s\nExecStart=\nExecStart=%%s %%s\n' $PATH $(command -v dockerd) '-H fd:// --containerd=/run/containerd/containerd.sock --exec-opt native.cgroupdriver=cgroupfs --iptables=false --ip6tables=false --bridge=none --userland-proxy=false' >/etc/systemd/system/docker.service.d/lab.conf
`, strings.Join(e.Path, ":"), filepath.Join(e.Path[0], "../.."))
}

// operator types commands on the host.
type operator struct {
	t *testing.T
	*uml.Node
	lan *uml.Node
}

// operate gives a test the host, and checks after it that the daemon was refused
// nothing and warned of nothing but of what is expected.
func operate(t *testing.T, expected ...string) *operator {
	t.Helper()
	o := &operator{t, lab.Node("host"), lab.Node("lan")}
	since := o.sh("date +%%s")
	t.Cleanup(func() {
		log := o.sh("journalctl -o cat --no-pager --since=@%s -u lanyard.service -u lanyard.socket", since)
		for line := range strings.Lines(log) {
			if strings.Contains(line, "status=9/KILL") || strings.Contains(line, "result 'signal'") {
				continue // the test's own doing
			}
			if slices.ContainsFunc(expected, func(w string) bool { return strings.Contains(line, w) }) {
				continue
			}
			for _, word := range []string{"level=WARN", "level=ERROR", "not permitted", "denied", "read-only", "status=", "SIGSYS", "Failed"} {
				if strings.Contains(line, word) {
					t.Errorf("lanyard's journal: %s", strings.TrimSpace(line))
					break
				}
			}
		}
		if t.Failed() {
			t.Logf("journal:\n%s", o.sh("journalctl --no-pager --since=@%s -u 'lanyard*' -u 'docker*' | grep -v level=info | tail -n 40", since))
		}
	})
	return o
}

// sh runs a script that must succeed, and returns what it prints.
func (o *operator) sh(format string, args ...any) string {
	o.t.Helper()
	out, err := o.Must(ctx, fmt.Sprintf(format, args...))
	if err != nil {
		o.t.Fatal(err)
	}
	return out
}

// says is sh for a script that must print these words.
func (o *operator) says(script string, words ...string) string {
	o.t.Helper()
	out := o.sh("%s", script)
	for _, w := range words {
		if !strings.Contains(out, w) {
			o.t.Errorf("%s: no %q in\n%s", script, w, out)
		}
	}
	return out
}

// fails runs a script that must fail with these words.
func (o *operator) fails(script string, words ...string) {
	o.t.Helper()
	r, err := o.Run(ctx, script)
	if err != nil || r.Code == 0 {
		o.t.Errorf("%s: want a failure, got %v\n%s", script, err, r.Out())
		return
	}
	for _, w := range words {
		if !strings.Contains(r.Out(), w) {
			o.t.Errorf("%s: %q does not say %q", script, r.Out(), w)
		}
	}
}

// active checks the state of units, as systemctl is-active prints it.
func (o *operator) active(units, want string) {
	o.t.Helper()
	r, err := o.Run(ctx, "systemctl is-active "+units)
	if err != nil {
		o.t.Fatal(err)
	}
	if got := strings.Join(strings.Fields(r.Out()), " "); got != want {
		o.t.Errorf("%s: %s, want %s", units, got, want)
	}
}

// eventually waits until problem returns "".
func (o *operator) eventually(what string, problem func() string) {
	o.t.Helper()
	o.within(time.Minute, what, problem)
}

// within waits until problem returns "".
func (o *operator) within(limit time.Duration, what string, problem func() string) {
	o.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		p := problem()
		if p == "" {
			return
		}
		if time.Now().After(deadline) {
			o.t.Errorf("%s: not within %s: %s", what, limit, p)
			return
		}
		time.Sleep(300 * time.Millisecond)
	}
}

// onLAN waits until a container that nobody started is up, has its address and MAC
// and is reached from the LAN.
func (o *operator) onLAN(name, addr, mac string) {
	o.t.Helper()
	o.eventually(name+" is on the LAN", func() string {
		r, err := o.Run(ctx, "docker exec "+name+" ip addr show eth0")
		if err != nil || !strings.Contains(r.Out(), addr) || !strings.Contains(r.Out(), mac) {
			return fmt.Sprint(r.Out(), err)
		}
		r, err = o.lan.Run(ctx, "ip neigh flush dev eth1.100; busybox ping -c 1 -W 2 "+addr)
		if err != nil || r.Code != 0 {
			return fmt.Sprint(r.Out(), err)
		}
		return ""
	})
}
