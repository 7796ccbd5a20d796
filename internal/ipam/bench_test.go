package ipam

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"


	"github.com/lanyard-net/lanyard/internal/lan"
)

// BenchmarkHandOut is what Docker's request for an address takes until the answer is on
// disk: one alone, and 64 at the same time until all are answered. Before each 64 one
// alone is measured as well: x-of-one is the ratio of the two medians. The pool has been
// in use for a while, and addresses go back outside the measured time.
func BenchmarkHandOut(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			m := newBench(b)
			pool := m.mustNetwork("n1", "eth1", off, subnet{pool: "10.0.0.0/22", gateway: "10.0.0.1"})[0]
			for range 1024 / 64 {
				m.handOut(b, pool, 64)
			}
			var alone, all []time.Duration
			for range b.N {
				if n > 1 {
					alone = append(alone, m.handOut(b, pool, 1))
				}
				all = append(all, m.handOut(b, pool, n))
			}
			b.ReportMetric(float64(median(all)), "ns/op")
			if n > 1 {
				b.ReportMetric(float64(median(all))/float64(median(alone)), "x-of-one")
			}
		})
	}
}

// handOut is how long n requests at the same time take. It takes the addresses back.
func (b *bench) handOut(t testing.TB, pool string, n int) time.Duration {
	t.Helper()
	got, errs := make([]netip.Prefix, n), make([]error, n)
	each := func(do func(i int)) time.Duration {
		var ready, done sync.WaitGroup
		var begun time.Time
		gate := make(chan struct{})
		ready.Add(n)
		for i := range n {
			done.Go(func() {
				ready.Done()
				<-gate
				do(i)
			})
		}
		ready.Wait()
		begun = time.Now()
		close(gate)
		done.Wait()
		return time.Since(begun)
	}
	took := each(func(i int) { got[i], errs[i] = b.RequestAddress(context.Background(), lan.AddressRequest{PoolID: pool}) })
	each(func(i int) {
		if errs[i] == nil {
			errs[i] = b.ReleaseAddress(context.Background(), pool, got[i].Addr())
		}
	})
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	return took
}

func median(of []time.Duration) time.Duration {
	slices.Sort(of)
	return of[len(of)/2]
}
