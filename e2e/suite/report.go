package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

type verdict string

const (
	passed  verdict = "PASS"
	failed  verdict = "FAIL"
	skipped verdict = "SKIP"
)

// result is what one test did in one tier.
type result struct {
	tier      string
	pkg, name string
	verdict   verdict
	took      time.Duration
	output    string // of a test that did not pass
}

// report collects results and prints them as they come, of several runs of go test at a time.
type report struct {
	out   io.Writer
	log   io.Writer // all that tests print; io.Discard by default
	tier  string
	label string // behind the package's name: what a run of it is about
	order []string
	took  map[string]time.Duration

	mu      sync.Mutex // guards what follows, and the writers
	results []result
}

func newReport(out io.Writer) *report {
	return &report{out: out, log: io.Discard, took: map[string]time.Duration{}}
}

func (r *report) begin(tier string) {
	r.tier = tier
	r.order = append(r.order, tier)
}

func (r *report) add(res result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	res.tier = r.tier
	res.pkg += r.label
	r.results = append(r.results, res)
	fmt.Fprintf(r.out, "%s  %-13s %s (%.1fs)\n", res.verdict, res.pkg, res.name, res.took.Seconds())
	switch res.verdict {
	case skipped:
		fmt.Fprintf(r.out, "        %s\n", reason(res.output))
	case failed:
		text := tail(res.output, 120)
		if text != res.output {
			text = tail(brief(res.output), 40) + text
		}
		for line := range strings.Lines(text) {
			fmt.Fprintf(r.out, "        %s", line)
		}
		fmt.Fprintln(r.out)
	}
}

// event is a line of go test -json (go doc test2json).
type event struct {
	Action  string
	Package string
	Test    string
	Elapsed float64
	Output  string
}

// read takes the events of one run of go test; it returns the number of
// failures.
func (r *report) read(in io.Reader) (bad int, err error) {
	began := map[string]*running{}
	failedTests := map[string]bool{}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			r.write(lines.Text() + "\n")
			continue
		}
		// A subtest's words belong to its test.
		test, _, sub := strings.Cut(e.Test, "/")
		key := e.Package + " " + test
		run := began[key]
		if run == nil {
			run = newRunning()
			began[key] = run
		}
		switch e.Action {
		case "output", "build-output":
			run.says(e.Test, e.Output)
			r.write(e.Output)
			continue
		case "pass", "fail", "skip":
		default:
			continue
		}
		run.took = max(run.took, time.Duration(e.Elapsed*float64(time.Second))) // a test's own leaves out parallel subtests
		if sub {
			if e.Action == "pass" {
				delete(run.output, e.Test)
			}
			continue
		}
		delete(began, key)
		res := result{pkg: short(e.Package), name: e.Test, took: run.took, output: run.said()}
		if e.Test == "" {
			// A package fails on its own when it does not build, its TestMain fails,
			// or time runs out, which is said by the test that it met.
			if e.Action == "fail" && !failedTests[e.Package] {
				res.name, res.verdict = "(package)", failed
				for key, run := range began {
					if test, ok := strings.CutPrefix(key, e.Package+" "); ok {
						res.output += test + " did not end:\n" + run.said()
					}
				}
				r.add(res)
				bad++
			}
			continue
		}
		switch e.Action {
		case "pass":
			res.verdict = passed
		case "skip":
			res.verdict = skipped
		case "fail":
			res.verdict = failed
			failedTests[e.Package] = true
			bad++
		}
		r.add(res)
	}
	return bad, lines.Err()
}

// write writes to the log.
func (r *report) write(text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	io.WriteString(r.log, text)
}

// running is a test that has not ended, with what it and those of its subtests that did
// not pass printed.
type running struct {
	took   time.Duration
	order  []string
	output map[string]*strings.Builder
}

func newRunning() *running { return &running{output: map[string]*strings.Builder{}} }

func (r *running) says(test, text string) {
	b := r.output[test]
	if b == nil {
		b = &strings.Builder{}
		r.order, r.output[test] = append(r.order, test), b
	}
	b.WriteString(text)
}

func (r *running) said() string {
	var all strings.Builder
	for _, test := range r.order {
		if b := r.output[test]; b != nil {
			all.WriteString(b.String())
			delete(r.output, test)
		}
	}
	return all.String()
}

func short(pkg string) string {
	return pkg[strings.LastIndexByte(pkg, '/')+1:]
}

// reason is what a skipped test said.
func reason(output string) string {
	var words []string
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "===") && !strings.HasPrefix(line, "---") {
			words = append(words, line)
		}
	}
	text := strings.Join(words, " ")
	if _, after, ok := strings.Cut(text, ".go:"); ok {
		_, text, _ = strings.Cut(after, ": ")
	}
	return text
}

// tail is the last n lines of text.
func tail(text string, n int) string {
	lines := strings.SplitAfter(text, "\n")
	if len(lines) > n {
		lines = append([]string{"...\n"}, lines[len(lines)-n:]...)
	}
	return strings.Join(lines, "")
}

// remark begins what a test says, or what go says of it.
var remark = regexp.MustCompile(`^(\s+\w+\.go:\d+: |\s*--- FAIL|panic: |fatal error: |WARNING: DATA RACE)`)

// brief leaves of each remark of a failed test its first lines, so that a log which the
// test added does not bury why it failed. What has no remarks stays as it is.
func brief(output string) string {
	var short strings.Builder
	n := 0 // lines left of this remark
	for line := range strings.Lines(output) {
		if remark.MatchString(line) {
			n = 4
		}
		if n > 0 {
			short.WriteString(line)
			n--
		}
	}
	return cmp.Or(short.String(), output)
}

// summary prints what ran where, and the count; it reports whether nothing
// failed and something passed.
func (r *report) summary() bool {
	fmt.Fprintf(r.out, "\n== summary\n")
	best := map[string]result{}
	for _, res := range r.results {
		key := res.pkg + "." + res.name
		if old, ok := best[key]; !ok || rank(res.verdict) > rank(old.verdict) {
			best[key] = res
		}
	}
	total := map[verdict]int{}
	var not []result
	for _, res := range best {
		total[res.verdict]++
		if res.verdict != passed {
			not = append(not, res)
		}
	}
	slices.SortFunc(not, func(a, b result) int {
		return cmp.Or(cmp.Compare(a.verdict, b.verdict), cmp.Compare(a.pkg+a.name, b.pkg+b.name))
	})
	for _, res := range not {
		fmt.Fprintf(r.out, "%s  %s %s", res.verdict, res.pkg, res.name)
		if res.verdict == skipped {
			fmt.Fprintf(r.out, ": %s", reason(res.output))
		}
		fmt.Fprintln(r.out)
	}
	// Once more where a reader of the end finds it.
	for _, res := range not {
		if res.verdict == failed {
			fmt.Fprintf(r.out, "\n%s %s:\n%s", res.pkg, res.name, tail(brief(res.output), 40))
		}
	}
	fmt.Fprintln(r.out)
	for _, tier := range r.order {
		n := map[verdict]int{}
		for _, res := range r.results {
			if res.tier == tier {
				n[res.verdict]++
			}
		}
		fmt.Fprintf(r.out, "%-8s %4d passed %4d failed %4d skipped  in %s\n", tier, n[passed], n[failed], n[skipped], r.took[tier].Round(time.Second))
	}
	fmt.Fprintf(r.out, "%d passed, %d failed, %d skipped\n", total[passed], total[failed], total[skipped])
	return total[failed] == 0 && total[passed] > 0
}

// rank orders what a test did in several tiers: a failure in one is a failure, and
// a pass in one makes up for a skip in another.
func rank(v verdict) int {
	return slices.Index([]verdict{skipped, passed, failed}, v)
}
