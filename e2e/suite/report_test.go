package main

import (
	"strings"
	"testing"
)

const stream = `{"Action":"output","Package":"x/link","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"pass","Package":"x/link","Test":"TestA","Elapsed":0.1}
{"Action":"output","Package":"x/link","Test":"TestB","Output":"    b_test.go:7: this kernel has no vlan\n"}
{"Action":"skip","Package":"x/link","Test":"TestB","Elapsed":0}
{"Action":"output","Package":"x/link","Test":"TestC/other","Output":"    c_test.go:8: fine\n"}
{"Action":"pass","Package":"x/link","Test":"TestC/other","Elapsed":0}
{"Action":"output","Package":"x/link","Test":"TestC/sub","Output":"    c_test.go:9: broken\n"}
{"Action":"fail","Package":"x/link","Test":"TestC/sub","Elapsed":0}
{"Action":"fail","Package":"x/link","Test":"TestC","Elapsed":0}
{"Action":"fail","Package":"x/link","Elapsed":1}
{"Action":"output","Package":"x/nobuild","Output":"syntax error\n"}
{"Action":"fail","Package":"x/nobuild","Elapsed":1}
{"Action":"output","Package":"x/slow","Test":"TestD","Output":"panic: test timed out after 20m0s\n"}
{"Action":"fail","Package":"x/slow","Elapsed":1200}
`

func TestReportCountsTests(t *testing.T) {
	var out strings.Builder
	r := newReport(&out)
	r.begin("unit")
	if bad, err := r.read(strings.NewReader(stream)); err != nil || bad != 3 {
		t.Fatalf("read: %d failures, %v", bad, err)
	}
	r.begin("guest")
	r.read(strings.NewReader(`{"Action":"pass","Package":"x/link","Test":"TestB","Elapsed":0}`))
	r.read(strings.NewReader(`{"Action":"skip","Package":"x/link","Test":"TestA","Elapsed":0}`))
	if r.summary() {
		t.Error("a suite with failures is green")
	}
	for _, want := range []string{
		"PASS  link          TestA", "SKIP  link          TestB", "this kernel has no vlan\n", "FAIL  link          TestC", "c_test.go:9: broken",
		"FAIL  nobuild       (package)", "syntax error", "TestD did not end:", "timed out after 20m0s", "2 passed, 3 failed, 0 skipped\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, &out)
		}
	}
	if strings.Contains(out.String(), "c_test.go:8") {
		t.Errorf("what passes is told with what does not:\n%s", &out)
	}
}

func TestEmptySuiteIsNotGreen(t *testing.T) {
	r := newReport(&strings.Builder{})
	if r.summary() {
		t.Error("green without a test")
	}
}

func TestEndSaysWhy(t *testing.T) {
	var out strings.Builder
	r := newReport(&out)
	r.begin("unit")
	r.add(result{pkg: "link", name: "TestA", verdict: failed, output: "=== RUN   TestA\n    a_test.go:7: the reason\n" +
		"    a_test.go:9: a log:\n" + strings.Repeat("        a line of it\n", 200) + "--- FAIL: TestA (1.00s)\n"})
	r.summary()
	_, end, _ := strings.Cut(out.String(), "== summary")
	if !strings.Contains(end, "the reason") || strings.Count(end, "a line of it") != 3 {
		t.Errorf("the end does not say why, or says too much:\n%s", end)
	}
}
