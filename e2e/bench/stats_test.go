package main

import (
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	values := []float64{4, 1, 3, 2}
	for q, want := range map[float64]float64{0: 1, 0.5: 2.5, 1: 4, 0.25: 1.75} {
		if got := quantile(values, q); got != want {
			t.Errorf("quantile %v: %v, want %v", q, got, want)
		}
	}
	if values[0] != 4 {
		t.Error("the values were sorted in place")
	}
}

func TestEstimates(t *testing.T) {
	slow, fast := make(series, 50), make(series, 50)
	for i := range slow {
		slow[i] = time.Duration(200+i%7) * time.Millisecond
		fast[i] = time.Duration(100+i%5) * time.Millisecond
	}
	r := ratioOf(fast, slow)
	if r.median < 0.48 || r.median > 0.52 || r.low > r.median || r.high < r.median || r.high > 0.53 {
		t.Errorf("half the time is ratio %v", r)
	}
	if same := ratioOf(slow, slow); same != (ratio{estimate{1, 1, 1}}) {
		t.Errorf("a series against itself: %v", same)
	}
	if d := differenceOf(slow, fast); d.median != 101 || d.low < 99 || d.low > d.median || d.high < d.median || d.high > 103 {
		t.Errorf("200 to 206 ms less 100 to 104 ms is %v", d)
	}
}

func TestVerdict(t *testing.T) {
	e := estimate{median: 1.02, low: 0.98, high: 1.05}
	for wanted, want := range map[float64]string{1.02: "reached", 1: "**not reached**, by less than this run can tell", 0.97: "**not reached**"} {
		if got := e.against(wanted); got != want {
			t.Errorf("against %v: %s, want %s", wanted, got, want)
		}
	}
}
