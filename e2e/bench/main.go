// Bench measures lanyard beside Docker's built-in macvlan driver on one engine, on
// one parent each of the same kind, turn by turn, and prints a table, with what was
// wanted beside what was. It fails on no figure: they are those of one machine.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
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
	engines := flag.String("engines", "20.10,28.5", "Docker `engines` to measure on (20.10, 28.5, 29)")
	pairs := flag.Int("pairs", 60, "`pairs` of measurements of one container and of one network")
	rounds := flag.Int("rounds", 30, "pairs of measurements of many containers at once")
	many := flag.Int("many", 50, "how many `containers` at once")
	page := flag.String("o", "", "write the table to this `file` as well")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx, *engines, plan{*pairs, *rounds, *many}, *page); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// plan is how often things are measured.
type plan struct{ pairs, rounds, many int }

func bench(ctx context.Context, names string, p plan, page string) error {
	if p.pairs < 2 || p.rounds < 2 || p.many < 1 {
		return errors.New("want two pairs and two rounds at least")
	}
	begun := time.Now()
	say := func(format string, args ...any) {
		fmt.Fprintf(os.Stderr, "%5.1fs  %s\n", time.Since(begun).Seconds(), fmt.Sprintf(format, args...))
	}
	if err := machine.Prepare(ctx, say); err != nil {
		return err
	}
	engines, err := machine.Chosen(names)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("/var/tmp", "lanyard-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "lanyard")
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", binary, "github.com/lanyard-net/lanyard/cmd/lanyard")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w: %s", err, out)
	}
	var text strings.Builder
	head(&text, begun, p)
	for _, e := range engines {
		if err := machine.PrepareEngine(ctx, e, say); err != nil {
			return fmt.Errorf("engine %s: %w", e.Name, err)
		}
		say("Docker %s", e.Version())
		r, err := onEngine(ctx, e, filepath.Join(dir, e.Name), binary, p, say)
		if err != nil {
			return fmt.Errorf("engine %s: %w", e.Name, err)
		}
		r.print(&text, e)
	}
	say("the handlers without Docker")
	if err := handlers(ctx, &text); err != nil {
		return err
	}
	fmt.Print(text.String())
	if page == "" {
		return nil
	}
	return os.WriteFile(page, []byte(text.String()), 0o644)
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
	b := &run{h: h, plan: p, say: say, results: &results{}}
	return b.results, b.all(ctx)
}

// handlers runs the Go benchmarks of Docker's door.
func handlers(ctx context.Context, w io.Writer) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", ".", "-benchtime", "300x", "-count", "5", "github.com/lanyard-net/lanyard/internal/docker")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", cmd, err, out)
	}
	rows, err := readBenchmarks(string(out))
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "\n## The handlers, without Docker\n\n%s", handlersText)
	for _, r := range rows {
		user := "-"
		if r.user > 0 {
			user = fmt.Sprintf("%.2f ms", r.user/1e6)
		}
		fmt.Fprintf(w, "| `%s` | %.2f ms | %s |\n", r.name, r.all/1e6, user)
	}
	return nil
}

const handlersText = "`go test -bench . ./internal/docker`, medians of five runs. The calls go over a unix socket to the real handlers, the records\n" +
	"to a real file, the links into a real kernel. `BenchmarkContainer` is all that Docker asks of lanyard for one\n" +
	"`docker run --rm`. The last column is processor time outside the kernel, that of the benchmark's own HTTP client included.\n\n" +
	"| benchmark | time | of it our own part |\n|---|---|---|\n"

// head names the machine.
func head(w io.Writer, begun time.Time, p plan) {
	sh := func(script string) string {
		out, err := exec.Command("sh", "-c", script).Output()
		if err != nil {
			return "unknown"
		}
		return strings.TrimSpace(string(out))
	}
	fmt.Fprintf(w, "<!-- written by: make bench -->\n# Benchmarks\n\n")
	fmt.Fprintf(w, "lanyard beside Docker's built-in `macvlan` driver: one engine, one parent each (veth pairs), macvlan in bridge mode, turn by\n"+
		"turn in one run, each first as often as the other. `make bench` makes the figures anew and writes this page.\n\n")
	fmt.Fprintf(w, "| | |\n|---|---|\n| date | %s |\n| lanyard | %s |\n| machine | %s, %s cores, %s |\n| system | %s, Linux %s |\n\n",
		begun.UTC().Format(time.DateOnly), sh("git describe --tags --always --dirty"),
		sh("sed -n 's/^model name.*: //p' /proc/cpuinfo | head -1"), sh("nproc"), sh("awk '/MemTotal/ {printf \"%.0f GiB\", $2/1048576}' /proc/meminfo"),
		sh(". /etc/os-release; echo $PRETTY_NAME"), sh("uname -r"))
	fmt.Fprintf(w, "Times in milliseconds: the median, and in brackets the tenth and the ninetieth of a hundred. The ratio is lanyard's median to\n"+
		"the built-in driver's; in brackets the interval that holds 95 of 100 resampled ratios. %d pairs of one container or network,\n%d rounds of %d containers.\n", p.pairs, p.rounds, p.many)
}
