//go:build lab

// Package engines tests the life of containers with real Docker Engines: each test
// runs on the oldest and on the newest one, or on those that LANYARD_ENGINES names,
// each in a namespace of this machine, with macvlan on a veth pair. What a kernel
// without 802.1Q and ipvlan cannot show is tested in the guests (package scenario).
package engines

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/e2e/dockerd"
	"github.com/lanyard-net/lanyard/e2e/machine"
)

// engine is an engine under test and the host that runs it.
type engine struct {
	name string // 20.10, 28.5
	path []string
	host *dockerd.Host
}

var (
	engines []*engine
	// lanyardBinary is what the hosts run.
	lanyardBinary string
)

func TestMain(m *testing.M) { os.Exit(runAll(m)) }

func runAll(m *testing.M) (code int) {
	ctx, ready := machine.Interruptible()
	dir, err := os.MkdirTemp("/var/tmp", "lanyard-engines")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	end := func() error {
		var errs []error
		for _, e := range engines {
			errs = append(errs, e.host.Close())
		}
		return errors.Join(append(errs, os.RemoveAll(dir))...)
	}
	defer func() {
		if err := end(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	if err := start(ctx, dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ready(end)
	return m.Run()
}

func start(ctx context.Context, dir string) error {
	lanyard := filepath.Join(dir, "lanyard")
	lanyardBinary = lanyard
	flags := []string{"build", "-o", lanyard, "-race", "github.com/lanyard-net/lanyard/cmd/lanyard"}
	if os.Getenv("LANYARD_LOAD") != "" {
		flags = slices.Delete(flags, 3, 4) // what is measured is what users have
	}
	build := exec.Command("go", flags...)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w: %s", err, out)
	}
	say := func(format string, args ...any) { fmt.Printf(format+"\n", args...) }
	if err := machine.Prepare(ctx, say); err != nil {
		return err
	}
	all, err := machine.Chosen(os.Getenv("LANYARD_ENGINES"))
	if err != nil {
		return err
	}
	for _, m := range all {
		if err := machine.PrepareEngine(ctx, m, say); err != nil {
			return fmt.Errorf("engine %s: %w", m.Name, err)
		}
		fmt.Printf("engine %s: Docker %s\n", m.Name, m.Version())
		e := &engine{name: m.Name, path: m.Path}
		h, err := dockerd.New(ctx, dockerd.Config{Dir: filepath.Join(dir, e.name), Path: e.path, Lanyard: lanyard})
		if err != nil {
			return fmt.Errorf("engine %s: %w", e.name, err)
		}
		e.host = h
		engines = append(engines, e)
		if err := h.MakeImage(ctx); err != nil {
			return err
		}
		plugins := filepath.Join(dir, e.name, "cli", "cli-plugins")
		if err := os.MkdirAll(plugins, 0o755); err != nil {
			return err
		}
		if err := os.Symlink(machine.Compose(), filepath.Join(plugins, "docker-compose")); err != nil {
			return err
		}
	}
	return nil
}

// user types commands on a host.
type user struct {
	t      *testing.T
	engine string
	*dockerd.Host
}

// onEach runs a test on each engine, at the same time, and checks after it that nothing
// is left: no container, no network, no link, no record.
func onEach(t *testing.T, test func(u *user)) { on(t, engines, test) }

// onNewest is onEach for what does not depend on the engine.
func onNewest(t *testing.T, test func(u *user)) { on(t, engines[len(engines)-1:], test) }

func on(t *testing.T, engines []*engine, test func(u *user)) {
	for _, e := range engines {
		t.Run(e.name, func(t *testing.T) {
			t.Parallel() // with the other engine; the next test waits for both
			u := &user{t: t, engine: e.name, Host: e.host}
			t.Cleanup(u.leftovers)
			test(u)
		})
	}
}

func (u *user) leftovers() {
	u.t.Helper()
	const remove = `ids=$(docker ps -aq); [ -z "$ids" ] || docker rm -f $ids || exit 1
		nets=$(docker network ls -q --filter type=custom); [ -z "$nets" ] || docker network rm $nets`
	said, err := u.try(remove)
	if err != nil && u.engine == "20.10" && strings.Contains(said, "has active endpoints") && u.sh("lanyard endpoint ls -q") == "" {
		// 20.10 counts a network's endpoints beside them, and puts its count
		// right when it starts ("Fixing inconsistent endpoint_cnt").
		u.t.Logf("the engine miscounts; started again: %s", said)
		u.mustDo(u.StopDockerd())
		u.mustDo(u.StartDockerd(context.Background()))
		said, err = u.try(remove)
	}
	if err != nil && strings.Contains(said, "did not receive an exit event") {
		// Docker that was killed may hold a container for running that is not, for good: the
		// next tests would have it. It goes as operators make it go.
		stuck := u.sh("docker ps -aq --no-trunc")
		u.t.Logf("Docker cannot end what is not there, and forgets it: %s", said)
		folder := filepath.Join(strings.TrimSpace(u.sh("docker info -f '{{.DockerRootDir}}'")), "containers")
		u.mustDo(u.StopDockerd())
		for id := range strings.FieldsSeq(stuck) {
			u.mustDo(os.RemoveAll(filepath.Join(folder, id)))
		}
		u.mustDo(u.StartDockerd(context.Background()))
		said, err = u.try(remove)
	}
	if err != nil {
		u.t.Errorf("removing what the test made: %v\n%s", err, said)
	}
	u.eventually("no link is left", func() string {
		out := u.sh(`ip -br link show | grep -vE '^(lo|eth1@wire|wire@eth1|docker0|docker_gwbridge) ' || true`)
		return out
	})
	if out := u.sh(`lanyard network ls -q; lanyard endpoint ls -q; lanyard pool ls -q`); out != "" {
		u.t.Errorf("records left:\n%s", out)
	}
	if u.t.Failed() {
		for _, path := range []string{u.LanyardLog(), u.DockerdLog()} {
			if log, err := os.ReadFile(path); err == nil {
				u.t.Logf("%s:\n%s", filepath.Base(path), tail(string(log), 40))
			}
		}
	}
}

func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// sh runs a script that must succeed, and returns what it prints.
func (u *user) sh(script string) string {
	u.t.Helper()
	out, err := u.try(script)
	if err != nil {
		u.t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

// fails runs a script that must fail with these words.
func (u *user) fails(script string, words ...string) {
	u.t.Helper()
	out, err := u.try(script)
	if err == nil {
		u.t.Errorf("%s: succeeded\n%s", script, out)
		return
	}
	for _, w := range words {
		if !strings.Contains(out, w) {
			u.t.Errorf("%s: %q does not say %q", script, out, w)
		}
	}
}

func (u *user) try(script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	out, err := u.Sh(ctx, script)
	// A word of 28.5 about the host, not about us.
	out = strings.ReplaceAll(out, "WARNING: IPv4 forwarding is disabled. Networking will not work.\n", "")
	return strings.TrimSpace(out), err
}

// says checks that a script prints these words.
func (u *user) says(script string, words ...string) string {
	u.t.Helper()
	out := u.sh(script)
	for _, w := range words {
		if !strings.Contains(out, w) {
			u.t.Errorf("%s: no %q in\n%s", script, w, out)
		}
	}
	return out
}

// eventually waits until problem returns "".
func (u *user) eventually(what string, problem func() string) {
	u.t.Helper()
	u.within(20*time.Second, what, problem)
}

func (u *user) within(limit time.Duration, what string, problem func() string) {
	u.t.Helper()
	deadline := time.Now().Add(limit)
	for {
		p := problem()
		if p == "" {
			return
		}
		if time.Now().After(deadline) {
			u.t.Errorf("%s: not within %s:\n%s", what, limit, p)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// mustDo fails the test on an error of the host's own.
func (u *user) mustDo(err error) {
	u.t.Helper()
	if err != nil {
		u.t.Fatal(err)
	}
}

// atOnce runs n things at the same time.
func atOnce(n int, do func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { do(i) })
	}
	wg.Wait()
}
