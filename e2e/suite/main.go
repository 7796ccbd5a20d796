// Suite runs every test of lanyard, tier by tier, and prints a line a test and
// what ran where at the end. The last line counts tests:
//
//	N passed, N failed, N skipped
//
// A test that one tier skips because its kernel lacks something counts as
// skipped only if no other tier ran it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lanyard-net/lanyard/e2e/machine"
)

// tier is a part of the suite. run reports what its tests did, and returns an
// error when it could not run them.
type tier struct {
	name, what string
	run        func(ctx context.Context, r *report) error
}

func main() {
	log := flag.String("log", "", "write all that tests print to this `file`")
	only := flag.String("only", "", "run only these `tiers` (comma-separated)")
	list := flag.Bool("list", false, "list the tiers and end")
	flag.Parse()

	tiers := []tier{
		{"lint", "gofmt, go vet, staticcheck, a build for arm64", lint},
		{"unit", "all packages with the race detector; kernel tests in namespaces of this machine's kernel", unit},
		{"guest", "the kernel tests again, in a User-Mode Linux guest that has 802.1Q, 802.1ad, ipvlan, dummy and bonding", guest},
		{"engines", "life of containers on real engines in namespaces of this machine", engines},
		{"web", "the daemon's page in a headless browser, and pictures by the programs that they are for", page},
		{"systemd", "the packages and their units on a real systemd, with a reboot and a power loss", systemd},
		{"lab", "two real Docker hosts and a LAN node on one trunk", labTests},
	}
	if *list {
		for _, t := range tiers {
			fmt.Printf("%-8s %s\n", t.name, t.what)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	out := os.Stdout
	r := newReport(out)
	if *log != "" {
		f, err := os.Create(*log)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		defer f.Close()
		r.log = f
	}
	for _, t := range tiers {
		if *only != "" && !slices.Contains(strings.Split(*only, ","), t.name) {
			continue
		}
		fmt.Fprintf(out, "\n== %s: %s\n", t.name, t.what)
		r.begin(t.name)
		start := time.Now()
		if err := t.run(ctx, r); err != nil {
			r.add(result{pkg: "tier", name: t.name, verdict: failed, output: err.Error() + "\n"})
		}
		r.took[t.name] = time.Since(start)
	}
	if !r.summary() {
		os.Exit(1)
	}
}

// lint runs the checks that need no test binary; each is a test of the report.
func lint(ctx context.Context, r *report) error {
	for _, c := range []struct {
		name string
		args []string
	}{
		{"gofmt", []string{"sh", "-c", `out=$(gofmt -l $(git ls-files '*.go')); test -z "$out" || { echo "not gofmt-ed: $out"; exit 1; }`}},
		{"arm64", []string{"env", "GOARCH=arm64", "CGO_ENABLED=0", "go", "build", "-o", "/dev/null", "./cmd/lanyard"}},
		{"vet", []string{"go", "vet", "./..."}},
		{"vet-lab", []string{"go", "vet", "-tags", "lab", "./e2e/..."}},
		{"staticcheck", []string{"go", "run", "honnef.co/go/tools/cmd/staticcheck@" + staticcheck, "-tags", "lab", "./..."}},
	} {
		start := time.Now()
		out, err := exec.CommandContext(ctx, c.args[0], c.args[1:]...).CombinedOutput()
		res := result{pkg: "lint", name: c.name, verdict: passed, took: time.Since(start)}
		if err != nil {
			res.verdict, res.output = failed, string(out)+err.Error()+"\n"
		}
		r.add(res)
	}
	return ctx.Err()
}

// staticcheck is the version of the linter that the code is clean for.
const staticcheck = "v0.8.2"

func unit(ctx context.Context, r *report) error {
	// The tests of internal/dhcp ask real servers.
	if err := machine.Prepare(ctx, func(format string, args ...any) { fmt.Printf(format+"\n", args...) }); err != nil {
		return err
	}
	return r.goTest(ctx, "-race", "-timeout", "10m", "./...")
}

// engines runs the tests in two halves at the same time, each on hosts of its own: most of what they do is wait.
func engines(ctx context.Context, r *report) error {
	const dir = "e2e/engines"
	tests, err := testsOf(dir)
	if err != nil {
		return err
	}
	var halves [2][]string
	for i, name := range tests {
		halves[i%len(halves)] = append(halves[i%len(halves)], name)
	}
	var g errgroup.Group
	for _, half := range halves {
		g.Go(func() error {
			return r.goTest(ctx, "-count=1", "-tags", "lab", "-timeout", "40m", "-run", "^("+strings.Join(half, "|")+")$", "./"+dir)
		})
	}
	return g.Wait()
}

var testFunc = regexp.MustCompile(`(?m)^func (Test\w+)\(t \*testing\.T\)`)

// testsOf are the tests in a folder, in the order of its files. They are read and not listed by go test, whose
// -list would make the hosts.
func testsOf(dir string) (names []string, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		for _, m := range testFunc.FindAllSubmatch(text, -1) {
			names = append(names, string(m[1]))
		}
	}
	if len(names) == 0 {
		return nil, fmt.Errorf("no tests in %s", dir)
	}
	return names, nil
}

func page(ctx context.Context, r *report) error {
	return r.goTest(ctx, "-count=1", "-tags", "lab", "-timeout", "10m", "./e2e/web")
}

func systemd(ctx context.Context, r *report) error {
	return r.goTest(ctx, "-count=1", "-tags", "lab", "-timeout", "30m", "./e2e/systemd")
}

// newestOnly are the lab's tests in which the engine has no part but to ask for containers:
// with the newest one alone.
const newestOnly = "^(TestIpvlanL3|TestModesDoWhatTheySay|TestPassthruAcross|TestQinQAcross|TestSubInterfacesComeAndGo|TestOtherParents|" +
	"TestReferenceScenarioWithIpvlanL2|TestHostAccess|TestManyNetworksOnOneParent|TestFamiliesAcross|TestIsolated|TestBesideTheBuiltInDrivers|TestSquatter|TestPowerLossInAStorm|TestSharedAddresses|TestDHCP.*|" +
	"TestReferenceScenarioWithDHCP)$|^TestNeighboursLearnAtOnce$/ipvlan"

// labTests runs the scenarios once with each engine. Without -count=1 the second run
// would be the first one's, from go's cache: it does not see which engine TestMain
// asks for.
func labTests(ctx context.Context, r *report) error {
	defer func() { r.label = "" }()
	all := machine.Engines()
	for i, e := range all {
		skip := newestOnly
		if i == len(all)-1 {
			skip = "^$"
		}
		r.label = " " + e.Name
		if err := os.Setenv("LANYARD_ENGINES", e.Name); err != nil {
			return err
		}
		if err := r.goTest(ctx, "-count=1", "-tags", "lab", "-skip", skip, "-timeout", "60m", "./e2e/scenario"); err != nil {
			return err
		}
	}
	return os.Unsetenv("LANYARD_ENGINES")
}

// goTest runs go test and reports what it prints.
func (r *report) goTest(ctx context.Context, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-json"}, args...)...)
	// Its tests are to hear of it too, and to end the hosts that they run.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = time.Minute
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	bad, perr := r.read(out)
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && bad > 0 {
		err = nil // the failures are reported by name
	}
	if err != nil {
		err = fmt.Errorf("go test %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return errors.Join(perr, err)
}
