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

// ratio is the ratio of the medians, with the interval that holds 95 of 100 ratios
// of pairs drawn again (percentile bootstrap).
type ratio struct{ median, low, high float64 }

func ratioOf(ours, theirs series) ratio {
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
		drawn[i] = quantile(da, 0.5) / quantile(db, 0.5)
	}
	return ratio{
		median: quantile(a, 0.5) / quantile(b, 0.5),
		low:    quantile(drawn, 0.025), high: quantile(drawn, 0.975),
	}
}

func (r ratio) String() string { return fmt.Sprintf("%.3f (%.3f to %.3f)", r.median, r.low, r.high) }

// against is the verdict on a ratio that was to be at most wanted.
func (r ratio) against(wanted float64) string {
	switch {
	case r.median <= wanted:
		return "reached"
	case r.low <= wanted:
		return "**not reached**, by less than this run can tell"
	}
	return "**not reached**"
}
