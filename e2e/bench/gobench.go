package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// benchmark is a Go benchmark's figures: the medians, by unit ("ns/op").
type benchmark struct {
	name string
	of   map[string]float64
}

// goBench runs benchmarks of a package of ours, and returns what they printed as well.
func goBench(ctx context.Context, pkg, pattern, benchtime string, count int) ([]benchmark, string, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-run", "^$", "-bench", pattern, "-benchtime", benchtime, "-count", strconv.Itoa(count),
		"github.com/lanyard-net/lanyard/internal/"+pkg)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w: %s", cmd, err, out)
	}
	rows, err := readBenchmarks(string(out))
	return rows, string(out), err
}

// readBenchmarks reads what go test -bench prints: the medians of each benchmark.
func readBenchmarks(out string) ([]benchmark, error) {
	var names []string
	all := map[string]map[string][]float64{}
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 4 || !strings.HasPrefix(f[0], "Benchmark") {
			continue
		}
		name, _, _ := strings.Cut(f[0], "-")
		if !slices.Contains(names, name) {
			names = append(names, name)
			all[name] = map[string][]float64{}
		}
		for i := 2; i+1 < len(f); i += 2 {
			value, err := strconv.ParseFloat(f[i], 64)
			if err != nil {
				return nil, fmt.Errorf("benchmark line %q: %w", line, err)
			}
			all[name][f[i+1]] = append(all[name][f[i+1]], value)
		}
	}
	if len(names) == 0 {
		return nil, errors.New("no benchmark ran")
	}
	rows := make([]benchmark, len(names))
	for i, name := range names {
		rows[i] = benchmark{name, map[string]float64{}}
		for unit, values := range all[name] {
			rows[i].of[unit] = quantile(values, 0.5)
		}
	}
	return rows, nil
}

// figure is one of a benchmark's.
func figure(rows []benchmark, name, unit string) (float64, error) {
	for _, r := range rows {
		if value, ok := r.of[unit]; ok && r.name == name {
			return value, nil
		}
	}
	return 0, fmt.Errorf("no %s of %s was measured", unit, name)
}
