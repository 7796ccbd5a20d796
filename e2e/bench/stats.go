package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// series is what one driver took for one thing, in the order in which it was
// measured. Pairs are taken next to each other: entry i of both drivers' series
// belongs together.
type series []time.Duration

// quantile is the value below which the part q of the values is, between two
// values by their distance.
func quantile(values []float64, q float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	at := q * float64(len(sorted)-1)
	i := int(at)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (at-float64(i))*(sorted[i+1]-sorted[i])
}

func (s series) floats() []float64 {
	f := make([]float64, len(s))
	for i, d := range s {
		f[i] = float64(d)
	}
	return f
}

// ms is a quantile in milliseconds, as the table prints it.
func (s series) ms(q float64) string {
	return fmt.Sprintf("%.1f", quantile(s.floats(), q)/float64(time.Millisecond))
}

// cell is the median and the spread, as the table prints them.
func (s series) cell() string { return fmt.Sprintf("%s (%s, %s)", s.ms(0.5), s.ms(0.1), s.ms(0.9)) }

// estimate is what two medians come to, with the interval that holds 95 of 100 of
// those of pairs drawn again (percentile bootstrap).
type estimate struct{ median, low, high float64 }

func estimateOf(ours, theirs series, of func(ours, theirs float64) float64) estimate {
	const draws = 2000
	random := rand.New(rand.NewPCG(1, 2)) // the same figures give the same interval
	a, b := ours.floats(), theirs.floats()
	drawn := make([]float64, draws)
	da, db := make([]float64, len(a)), make([]float64, len(a))
	for i := range drawn {
		for k := range a {
			j := random.IntN(len(a))
			da[k], db[k] = a[j], b[j]
		}
		drawn[i] = of(quantile(da, 0.5), quantile(db, 0.5))
	}
	return estimate{
		median: of(quantile(a, 0.5), quantile(b, 0.5)),
		low:    quantile(drawn, 0.025), high: quantile(drawn, 0.975),
	}
}

// against is the verdict on an estimate that was to be at most wanted.
func (e estimate) against(wanted float64) string {
	switch {
	case e.median <= wanted:
		return "reached"
	case e.low <= wanted:
		return "**not reached**, by less than this run can tell"
	}
	return "**not reached**"
}

// ratio is that of two medians.
type ratio struct{ estimate }

func ratioOf(ours, theirs series) ratio {
	return ratio{estimateOf(ours, theirs, func(a, b float64) float64 { return a / b })}
}

func (r ratio) String() string { return fmt.Sprintf("%.3f (%.3f to %.3f)", r.median, r.low, r.high) }

// difference is that of two medians, in milliseconds.
type difference struct{ estimate }

func differenceOf(ours, theirs series) difference {
	return difference{estimateOf(ours, theirs, func(a, b float64) float64 { return (a - b) / float64(time.Millisecond) })}
}

func (d difference) String() string {
	return fmt.Sprintf("%+.1f (%+.1f to %+.1f)", d.median, d.low, d.high)
}
