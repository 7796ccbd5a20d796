// Bench measures lanyard beside Docker's built-in macvlan driver on one engine, on
// one parent each of the same kind, turn by turn, and lanyard's addresses beside
// Docker's, and prints tables, with what was wanted beside what was. It fails on no
// figure: they are those of one machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/lanyard-net/lanyard/e2e/dockerd"
	"github.com/lanyard-net/lanyard/e2e/machine"
)

func main() {
	var names []string
	for _, p := range parts {
		names = append(names, p.name)
	}
	engines := flag.String("engines", "20.10,28.5", "Docker `engines` to measure on (20.10, 28.5, 29)")
	only := flag.String("only", strings.Join(names, ","), "measure only these `parts`; the page keeps what it has of the others")
	var p plan
	flag.IntVar(&p.pairs, "pairs", 60, "`pairs` of measurements of one container and of one network")
	flag.IntVar(&p.rounds, "rounds", 30, "pairs of measurements of many containers at once")
	flag.IntVar(&p.many, "many", 50, "how many `containers` at once")
	flag.IntVar(&p.leaseRounds, "lease-rounds", 6, "rounds of measurements of many containers at once with leases")
	flag.IntVar(&p.addressRounds, "address-rounds", 16, "rounds of measurements of a container for each way to get an address")
	file := flag.String("o", "", "write the tables to this `file` as well")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx, *engines, *only, p, *file); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// plan is what is measured, and how often.
type plan struct {
	pairs, rounds, many, addressRounds, leaseRounds int

	drivers, handlers, addresses, leases bool
}

// choose takes the parts of a comma-separated list.
func (p *plan) choose(names string) error {
	for name := range strings.SplitSeq(names, ",") {
		switch name {
		case "drivers":
			p.drivers = true
		case "handlers":
			p.handlers = true
		case "addresses":
			p.addresses = true
		case "dhcp":
			p.leases = true
		default:
			return fmt.Errorf("no part %q: there are drivers, handlers, addresses and dhcp", name)
		}
	}
	return nil
}

func bench(ctx context.Context, names, only string, p plan, file string) error {
	if err := p.choose(only); err != nil {
		return err
	}
	if p.pairs < 2 || p.rounds < 2 || p.many < 1 || p.addressRounds < 2 || p.leaseRounds < 2 {
		return errors.New("want two pairs and two rounds at least")
	}
	begun := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%5.1fs  %s\n", time.Since(begun).Seconds(), fmt.Sprintf(format, args...))
	}
	made := page{head: head(begun, p)}
	onEngines, err := measureEngines(ctx, names, p, say)
	if err != nil {
		return err
	}
	if p.drivers {
		for _, r := range onEngines {
			made.sections = append(made.sections, section{"Docker " + r.engine, r.drivers()})
		}
	}
	if p.handlers {
		say("the handlers without Docker")
		text, err := handlers(ctx)
		if err != nil {
			return err
		}
		made.sections = append(made.sections, section{"The handlers, without Docker", text})
	}
	if p.addresses {
		say("addresses without Docker")
		alone, err := addressesAlone(ctx)
		if err != nil {
			return err
		}
		made.sections = append(made.sections, section{"Addresses", addressesText(onEngines, alone, p)})
	}
	if p.leases {
		say("leases without Docker")
		text, err := leases(ctx, onEngines, p)
		if err != nil {
			return err
		}
		made.sections = append(made.sections, section{"DHCP", text})
	}
	fmt.Print(made)
	if file == "" {
		return nil
	}
	old, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(file, []byte(made.merge(parsePage(string(old))).String()), 0o644)
}

// measureEngines measures what needs a Docker Engine, on each of those named.
func measureEngines(ctx context.Context, names string, p plan, say func(string, ...any)) ([]*results, error) {
	if !p.drivers && !p.addresses && !p.leases {
		return nil, nil
	}
	if err := machine.Prepare(ctx, say); err != nil {
		return nil, err
	}
	engines, err := machine.Chosen(names)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("/var/tmp", "lanyard-bench")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "lanyard")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "github.com/lanyard-net/lanyard/cmd/lanyard")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build: %w: %s", err, out)
	}
	var all []*results
	for _, e := range engines {
		if err := machine.PrepareEngine(ctx, e, say); err != nil {
			return nil, fmt.Errorf("engine %s: %w", e.Name, err)
		}
		say("Docker %s", e.Version())
		r, err := onEngine(ctx, e, filepath.Join(dir, e.Name), binary, p, say)
		if err != nil {
			return nil, fmt.Errorf("engine %s: %w", e.Name, err)
		}
		all = append(all, r)
	}
	return all, nil
}

// onEngine measures on one engine.
func onEngine(ctx context.Context, e machine.Engine, dir, binary string, p plan, say func(string, ...any)) (_ *results, err error) {
	h, err := dockerd.New(ctx, dockerd.Config{Dir: dir, Path: e.Path, Lanyard: binary})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	if err := h.MakeImage(ctx); err != nil {
		return nil, err
	}
	// As an installed one runs, not as the tests run it.
	if err := errors.Join(h.StopLanyard(), h.StartLanyard(ctx, "--log-level", "info")); err != nil {
		return nil, err
	}
	b := &run{h: h, plan: p, say: say, results: &results{engine: e.Version()}}
	if p.drivers {
		if err := b.measureDrivers(ctx); err != nil {
			return nil, err
		}
	}
	if p.addresses {
		if err := b.measureAddresses(ctx); err != nil {
			return nil, err
		}
	}
	if p.leases {
		if err := b.measureLeases(ctx); err != nil {
			return nil, err
		}
	}
	return b.results, nil
}

// handlers runs the Go benchmarks of Docker's door.
func handlers(ctx context.Context) (string, error) {
	rows, _, err := goBench(ctx, "docker", ".", "300x", 5)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(handlersText)
	for _, r := range rows {
		user := "-"
		if r.of["user-ns/op"] > 0 {
			user = fmt.Sprintf("%.2f ms", r.of["user-ns/op"]/1e6)
		}
		fmt.Fprintf(&b, "| `%s` | %.2f ms | %s |\n", r.name, r.of["ns/op"]/1e6, user)
	}
	return strings.TrimSpace(b.String()), nil
}

const handlersText = "`go test -bench . ./internal/docker`, medians of five runs. The calls go over a unix socket to the real handlers, the records\n" +
	"to a real file, the links into a real kernel. `BenchmarkContainer` is all that Docker asks of lanyard for one\n" +
	"`docker run --rm`. The last column is processor time outside the kernel, that of the benchmark's own HTTP client included.\n\n" +
	"| benchmark | time | of it our own part |\n|---|---|---|\n"

// head names the machine.
func head(begun time.Time, p plan) string {
	sh := func(script string) string {
		out, err := exec.Command("sh", "-c", script).Output()
		if err != nil {
			return "unknown"
		}
		return strings.TrimSpace(string(out))
	}
	var b strings.Builder
	fmt.Fprintf(&b, "<!-- written by: make bench -->\n# Benchmarks\n\n")
	fmt.Fprintf(&b, "lanyard beside Docker's built-in `macvlan` driver: one engine, one parent each (veth pairs), macvlan in bridge mode, turn by\n"+
		"turn in one run, each first as often as the other. `make bench` makes the figures anew and writes this page.\n\n")
	fmt.Fprintf(&b, "| | |\n|---|---|\n| date | %s |\n| lanyard | %s |\n| machine | %s, %s cores, %s |\n| system | %s, Linux %s |\n\n",
		begun.UTC().Format(time.DateOnly), sh("git describe --tags --always --dirty"),
		sh("sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1"), sh("nproc"), sh("awk '/MemTotal/ {printf \"%.0f GiB\", $2/1048576}' /proc/meminfo"),
		sh(". /etc/os-release; echo $PRETTY_NAME"), sh("uname -r"))
	fmt.Fprintf(&b, "Times in milliseconds: the median, and in brackets the tenth and the ninetieth of a hundred. The ratio is lanyard's median to\n"+
		"the built-in driver's; in brackets the interval that holds 95 of 100 resampled ratios. %d pairs of one container or network,\n%d rounds of %d containers.", p.pairs, p.rounds, p.many)
	return b.String()
}
