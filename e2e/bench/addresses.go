package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/lanyard-net/lanyard/internal/control"
)

// ways are how a container gets its address: each is a network on a parent of its own.
var ways = []struct{ name, title, create string }{
	{"acd-on", "lanyard's addresses, detection on", "-d lanyard --ipam-driver lanyard"},
	{"acd-off", "the same, off", "-d lanyard --ipam-driver lanyard -o acd=off"},
	{"docker-ipam", "lanyard, Docker's addresses", "-d lanyard"},
	{"built-in", "built-in macvlan", "-d macvlan"},
}

// addressRow is a line of the table: what a command took each way.
type addressRow struct {
	what  string
	times []series // by way
}

// mostSlower is what conflict detection may cost a docker run, in milliseconds.
const mostSlower = 50

// measureAddresses measures docker run each way.
func (b *run) measureAddresses(ctx context.Context) error {
	script := "set -e\n"
	for i, w := range ways {
		script += fmt.Sprintf("ip link add i%[1]d type veth peer name j%[1]d; ip link set i%[1]d up; ip link set j%[1]d up\n"+
			"docker network create %[2]s --subnet 10.7%[1]d.0.0/16 -o parent=i%[1]d %[3]s >/dev/null\n", i, w.create, w.name)
	}
	if err := b.sh(ctx, script); err != nil {
		return err
	}
	client := control.NewClient(fmt.Sprintf("/proc/%d/root/run/lanyard/control.sock", b.h.LanyardPid()))
	defer client.Close()
	b.say("docker run, %d ways to get an address", len(ways))
	networks := make([]string, len(ways))
	for i, w := range ways {
		networks[i] = w.name
	}
	var err error
	b.asked, err = b.dockerRun(ctx, networks, func() error { return warm(ctx, client) })
	return err
}

// dockerRun measures docker run on networks, each as often, in an order drawn anew each
// time; before comes before each round.
func (b *run) dockerRun(ctx context.Context, networks []string, before func() error) ([]addressRow, error) {
	commands := []struct{ what, timed, after string }{
		{"`docker run --rm`, to its exit", "docker run --rm --network WAY busybox:lab true", ""},
		{"`docker run -d`", "docker run -d --name c1 --network WAY busybox:lab", "docker rm -f c1"},
	}
	rows := make([]addressRow, len(commands))
	for c := range rows {
		rows[c] = addressRow{commands[c].what, make([]series, len(networks))}
	}
	for k := range b.addressRounds + 1 { // the first does not count
		if err := before(); err != nil {
			return nil, err
		}
		for c, cmd := range commands {
			for _, i := range rand.Perm(len(networks)) {
				start := time.Now()
				err := b.sh(ctx, strings.ReplaceAll(cmd.timed, "WAY", networks[i]))
				took := time.Since(start)
				if err := errors.Join(err, b.sh(ctx, cmd.after)); err != nil {
					return nil, fmt.Errorf("%s: %s: %w", cmd.what, networks[i], err)
				}
				if k > 0 {
					rows[c].times[i] = append(rows[c].times[i], took)
				}
			}
		}
	}
	return rows, nil
}

// warm waits until lanyard has as many addresses probed ahead as it wants to.
func warm(ctx context.Context, client *control.Client) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		pools, err := client.Pools(ctx)
		if err != nil {
			return err
		}
		on, full := 0, true
		for _, p := range pools {
			if p.ACD == "on" {
				on++
				full = full && p.Stock == p.StockWanted
			}
		}
		switch {
		case on != 1:
			return fmt.Errorf("%d of %d pools have conflict detection, want one", on, len(pools))
		case full:
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("addresses probed ahead: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// aloneRow is a line of the table of what needs no Docker.
type aloneRow struct{ what, lanyard, docker, wanted string }

// addressesAlone measures what needs no Docker Engine.
func addressesAlone(ctx context.Context) (a alone, err error) {
	root, err := line(ctx, "", "go", "list", "-m", "-f", "{{.Dir}}", "github.com/lanyard-net/lanyard")
	if err != nil {
		return a, err
	}
	dir := filepath.Join(root, "e2e", "ipambench")
	if a.moby, err = line(ctx, dir, "go", "list", "-m", "-f", "{{.Version}}", "github.com/moby/moby/v2"); err != nil {
		return a, err
	}
	cmd := exec.CommandContext(ctx, "go", "run", ".", "-json", "-n", "5")
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return a, fmt.Errorf("%s in %s: %w: %s", cmd, dir, err, stderr.String())
	}
	var picks []struct {
		What, Unit      string
		Lanyard, Docker float64
		Wanted          float64
	}
	if err := json.Unmarshal(out, &picks); err != nil {
		return a, fmt.Errorf("%s: %w", cmd, err)
	}
	for _, p := range picks {
		r := aloneRow{p.What, number(p.Lanyard) + " " + p.Unit, number(p.Docker) + " " + p.Unit, "-"}
		if p.Wanted > 0 {
			r.wanted = fmt.Sprintf("less than %v %s: %s", p.Wanted, p.Unit, verdict(p.Lanyard < p.Wanted))
		}
		a.rows = append(a.rows, r)
	}
	return a, errors.Join(a.handOut(ctx), a.restore(ctx))
}

// alone is what needs no Docker Engine.
type alone struct {
	moby string // the version of Docker's code
	disk string // the file system of the state files
	rows []aloneRow
}

// none stands for what Docker's driver does not do.
const none = "-"

func (a *alone) handOut(ctx context.Context) error {
	const most = 3
	rows, out, err := goBench(ctx, "ipam", "HandOut", "300x", 5)
	if err != nil {
		return err
	}
	one, err1 := figure(rows, "BenchmarkHandOut/1", "ns/op")
	many, err2 := figure(rows, "BenchmarkHandOut/64", "ns/op")
	times, err3 := figure(rows, "BenchmarkHandOut/64", "x-of-one")
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	a.disk = "an unknown file system"
	if m := regexp.MustCompile(`state file in \S+, on (\S+)`).FindStringSubmatch(out); m != nil {
		a.disk = m[1]
	}
	a.rows = append(a.rows,
		aloneRow{"handed out and on disk, one address", fmt.Sprintf("%.2f ms", one/1e6), none, "-"},
		aloneRow{"handed out and on disk, 64 asked for at once", fmt.Sprintf("%.2f ms, %.1f times one", many/1e6, times), none,
			fmt.Sprintf("at most %d times one: %s", most, verdict(times <= most))})
	return nil
}

func (a *alone) restore(ctx context.Context) error {
	rows, _, err := goBench(ctx, "engine", "Restore", "3x", 1)
	if err != nil {
		return err
	}
	for _, r := range []struct{ what, name, wanted string }{
		{"a start with 10,000 endpoints, their containers running", "running", "less than 1 s: "},
		{"a start with 10,000 endpoints, their containers gone", "gone", ""},
	} {
		read, err1 := figure(rows, "BenchmarkRestore/"+r.name, "read-ms")
		kernel, err2 := figure(rows, "BenchmarkRestore/"+r.name, "kernel-ms")
		if err := errors.Join(err1, err2); err != nil {
			return err
		}
		row := aloneRow{r.what, fmt.Sprintf("%.0f ms until it answers, %.0f ms more until all is as it should be", read, kernel), none, "-"}
		if r.wanted != "" {
			row.wanted = r.wanted + verdict(read+kernel < 1000)
		}
		a.rows = append(a.rows, row)
	}
	return nil
}

func verdict(ok bool) string {
	if ok {
		return "reached"
	}
	return "**not reached**"
}

// number is a figure with as many digits as tell something.
func number(f float64) string {
	switch {
	case f < 1:
		return fmt.Sprintf("%.2f", f)
	case f < 10:
		return fmt.Sprintf("%.1f", f)
	}
	return fmt.Sprintf("%.0f", f)
}

// line is the one line that a command prints.
func line(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", cmd, err)
	}
	return strings.TrimSpace(string(out)), nil
}

// addressesText is the chapter.
func addressesText(onEngines []*results, a alone, p plan) string {
	var b strings.Builder
	fmt.Fprintf(&b, "`docker run` on four networks that differ in who chooses the address, a parent each: lanyard with conflict detection on its\n"+
		"wire, lanyard with `-o acd=off`, lanyard's network with Docker's default IPAM driver, and the built-in `macvlan` with it. %d\n"+
		"rounds, the four in an order drawn anew each time; before each round lanyard has as many addresses probed ahead as it wants\n"+
		"to. Differences are those of medians in milliseconds, with the interval that holds 95 of 100 resampled ones.\n", p.addressRounds)
	for _, r := range onEngines {
		fmt.Fprintf(&b, "\n### On Docker %s\n\n|", r.engine)
		for _, w := range ways {
			fmt.Fprintf(&b, " | %s", w.title)
		}
		b.WriteString(" | on less off | wanted | on less built-in |\n|" + strings.Repeat("---|", len(ways)+4) + "\n")
		for _, row := range r.asked {
			fmt.Fprintf(&b, "| %s |", row.what)
			for _, s := range row.times {
				fmt.Fprintf(&b, " %s |", s.cell())
			}
			d := differenceOf(row.times[0], row.times[1])
			fmt.Fprintf(&b, " %s | at most %d: %s | %s |\n", d, mostSlower, d.against(mostSlower), differenceOf(row.times[0], row.times[3]))
		}
	}
	fmt.Fprintf(&b, "\n### Without Docker\n\n"+
		"Medians. The picking is in memory on both sides, turn by turn in one process (`e2e/ipambench`): lanyard's pick alone, and all\n"+
		"of a request to the default IPAM driver of moby %s, which keeps nothing on disk. lanyard remembers who had an\n"+
		"address that was given back. What it answers is on disk first: that is `BenchmarkHandOut`, whose state file is on %s.\n"+
		"Starts are `BenchmarkRestore`: 10 networks with conflict detection.\n\n"+
		"| | lanyard | Docker's default IPAM | wanted |\n|---|---|---|---|\n", a.moby, a.disk)
	for _, r := range a.rows {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", r.what, r.lanyard, r.docker, r.wanted)
	}
	return strings.TrimSpace(b.String())
}
