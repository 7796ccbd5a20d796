package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/control"
	"github.com/lanyard-net/lanyard/internal/docker"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/store"
)

// metric is what /metrics may say, as its description has it.
type metric struct{ name, help, labels string }

// exported are all metrics that a daemon in a cluster exports, in the order of the page: those of
// the process are named by the library that has them.
func exported(t *testing.T) []metric {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	db, err := store.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	links, err := link.New()
	if err != nil {
		t.Fatal(err)
	}
	defer links.Close()
	conf, err := cluster.Parse("etcd://127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	shared, err := cluster.New(conf, nil, log)
	if err != nil {
		t.Fatal(err)
	}
	addresses, err := ipam.New(ipam.Config{DB: db, Links: links, Log: log, Silent: func(string) {}, Cluster: shared}, store.State{})
	if err != nil {
		t.Fatal(err)
	}
	parts := append([]prometheus.Collector{control.Figures(control.Source{})}, collectors(docker.New(docker.Verbs{}, log), db, links, addresses, shared)...)
	var all, process []metric
	for _, c := range parts {
		ch := make(chan *prometheus.Desc, 100)
		c.Describe(ch)
		close(ch)
		for d := range ch {
			m := regexp.MustCompile(`^Desc\{fqName: "(.*)", help: "(.*?)", (?:unit: "[^"]*", )?constLabels: \{\}, variableLabels: \{(.*)\}\}$`).FindStringSubmatch(d.String())
			if m == nil {
				t.Fatalf("description %s", d)
			}
			one := metric{m[1], m[2], strings.ReplaceAll(m[3], ",", ", ")}
			if strings.HasPrefix(one.name, "process_") {
				process = append(process, one)
			} else {
				all = append(all, one)
			}
		}
	}
	return append(all, process...)
}

// kindOf is what Prometheus knows a metric as.
func kindOf(name string) string {
	switch {
	case strings.HasSuffix(name, "_total"):
		return "counter"
	case strings.HasSuffix(name, "_duration_seconds"), name == "lanyard_lease_left_seconds":
		return "histogram"
	}
	return "gauge"
}

// Each metric that the daemon exports is on the page, with the help that Prometheus shows. `make
// docs` writes the table.
func TestMetricsPage(t *testing.T) {
	const begin, end = "<!-- the table is " + generated + " -->\n", "<!-- end of the table -->\n"
	table := "\n| metric | is a | labels | meaning |\n|---|---|---|---|\n"
	for _, m := range exported(t) {
		table += fmt.Sprintf("| `%s` | %s | %s | %s |\n", m.name, kindOf(m.name), m.labels, cell(m.help))
	}
	path := filepath.Join("..", "..", "docs", "metrics.md")
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(page), begin)
	was, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no table between %q and %q", path, begin, end)
	}
	if *update {
		if err := os.WriteFile(path, []byte(before+begin+table+"\n"+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(table+"\n", was); diff != "" {
		t.Errorf("docs/metrics.md is out of date; try: make docs (-want +got)\n%s", diff)
	}
}

// What the dashboard and the alerts ask for is exported, under that name and with these labels.
func TestWhatDashboardAndAlertsAskFor(t *testing.T) {
	all := exported(t)
	dist := filepath.Join("..", "..", "dist")
	dashboard, err := os.ReadFile(filepath.Join(dist, "grafana", "lanyard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		UID    string
		Panels []struct {
			ID      int
			Title   string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(dashboard, &board); err != nil {
		t.Fatal(err)
	}
	ids := map[int]bool{}
	var exprs []string
	for _, p := range board.Panels {
		if ids[p.ID] || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %d %q has the id of another one, or reaches over the edge", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, target := range p.Targets {
			exprs = append(exprs, target.Expr)
		}
	}
	rules, err := os.ReadFile(filepath.Join(dist, "prometheus", "lanyard.rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	exprs = append(exprs, string(rules))
	asked := map[string]bool{}
	for _, expr := range exprs {
		for _, m := range regexp.MustCompile(`\b((?:lanyard|process)_[a-z_]+)(\{[^}]*\})?`).FindAllStringSubmatch(expr, -1) {
			name := m[1]
			if kindOf(strings.TrimSuffix(name, "_count")) == "histogram" || kindOf(strings.TrimSuffix(name, "_bucket")) == "histogram" {
				name = strings.TrimSuffix(strings.TrimSuffix(name, "_count"), "_bucket")
			}
			i := slices.IndexFunc(all, func(have metric) bool { return have.name == name })
			if i < 0 {
				t.Errorf("%s is not exported, and asked for in %s", m[1], firstLine(expr))
				continue
			}
			asked[name] = true
			for _, l := range regexp.MustCompile(`(\w+) *[=!]~?`).FindAllStringSubmatch(m[2], -1) {
				if label := l[1]; label != "job" && label != "instance" && !slices.Contains(strings.Split(all[i].labels, ", "), label) {
					t.Errorf("%s has no label %s, and it is asked for in %s", name, label, firstLine(expr))
				}
			}
		}
		for _, m := range regexp.MustCompile(`what="([^"]*)"`).FindAllStringSubmatch(expr, -1) {
			if !slices.Contains(ipam.EventKinds(), m[1]) {
				t.Errorf("there is no event %s", m[1])
			}
		}
	}
	if len(asked) < 20 {
		t.Errorf("only %d metrics are asked for: the test does not find them", len(asked))
	}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// Prometheus's own tool takes the alerts, each fires where it should and not where not.
func TestAlerts(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not there; make test installs it")
	}
	rules := filepath.Join("..", "..", "dist", "prometheus")
	for _, args := range [][]string{{"check", "rules", "lanyard.rules.yml"}, {"test", "rules", "lanyard.rules.test.yml"}} {
		cmd := exec.Command(promtool, args...)
		cmd.Dir = rules
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	// An alert without a case would never be known to fire.
	alerts, err := os.ReadFile(filepath.Join(rules, "lanyard.rules.yml"))
	if err != nil {
		t.Fatal(err)
	}
	cases, err := os.ReadFile(filepath.Join(rules, "lanyard.rules.test.yml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)- alert: (\w+)$`).FindAllStringSubmatch(string(alerts), -1) {
		if !regexp.MustCompile(`alertname: ` + m[1] + `\s+exp_alerts:\s+- exp_labels`).MatchString(string(cases)) {
			t.Errorf("no case has %s fire", m[1])
		}
	}
}
