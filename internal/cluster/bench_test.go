package cluster

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
)

// BenchmarkClaim is what a hand-out costs where so many hosts follow the segment, all on one
// machine with a single etcd: one claim at a time, and eight. heard is how many of the changes
// the hosts had heard of, of all that they should, when the last claim was answered.
// LANYARD_SCALE adds a number of hosts.
func BenchmarkClaim(b *testing.B) {
	counts := []int{1, 10, 100}
	if text := os.Getenv("LANYARD_SCALE"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal(err)
		}
		counts = append(counts, n)
	}
	for _, hosts := range counts {
		for _, flight := range []int{1, 8} {
			b.Run(fmt.Sprintf("hosts=%d/flight=%d", hosts, flight), func(b *testing.B) {
				e := kerneltest.NewEtcd(b, 1)
				var all []*Cluster
				var heard, ready atomic.Int64
				ctx, cancel := context.WithCancel(ctx)
				defer cancel()
				for i := range hosts {
					c, _ := host(b, fmt.Sprintf("h%d", i), e.Endpoints...)
					up(b, c)
					all = append(all, c)
					go func() {
						_ = c.Follow(ctx, "802.1Q:100", func([]Claim, int64) { ready.Add(1) }, func(l []Claim) { heard.Add(int64(len(l))) })
					}()
				}
				await(b, "all follow", func() bool { return ready.Load() == int64(hosts) })
				var next atomic.Uint32
				b.SetParallelism(flight) // times GOMAXPROCS
				b.ResetTimer()
				start := time.Now()
				claimOne := func() {
					n := next.Add(1)
					c := all[int(n)%hosts]
					addr := netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)})
					done, err := c.Change(ctx, []Change{{claim(c, addr.String(), Taken), 0}})
					if err != nil || !done[0].Won {
						b.Error(done, err)
					}
				}
				if flight == 1 {
					for b.Loop() {
						claimOne()
					}
				} else {
					b.RunParallel(func(pb *testing.PB) {
						for pb.Next() {
							claimOne()
						}
					})
				}
				n := float64(next.Load())
				b.ReportMetric(n/time.Since(start).Seconds(), "claims/s")
				b.ReportMetric(100*float64(heard.Load())/(n*float64(hosts)), "%heard")
			})
		}
	}
}

// BenchmarkSeen is what operators wait for: 10 hosts show so many endpoints in all, of 600 bytes each, and one reads them all.
// LANYARD_SCALE adds a number to those of each host.
func BenchmarkSeen(b *testing.B) {
	counts := []int{100, 1000}
	if text := os.Getenv("LANYARD_SCALE"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			b.Fatal(err)
		}
		counts = append(counts, n)
	}
	for _, each := range counts {
		b.Run(fmt.Sprintf("endpoints=%d", 10*each), func(b *testing.B) {
			e := kerneltest.NewEtcd(b, 1)
			var all []*Cluster
			items := make([]Item, each)
			for i := range items {
				items[i] = Item{SeenEndpoints, fmt.Sprintf("%064x", i), fmt.Appendf(nil, "%0600d", i)}
			}
			start := time.Now()
			for i := range 10 {
				c, _ := host(b, fmt.Sprintf("h%d", i), e.Endpoints...)
				up(b, c)
				if err := c.Show(ctx, items); err != nil {
					b.Fatal(err)
				}
				all = append(all, c)
			}
			shown := time.Since(start).Seconds()
			before := all[0].Requests.Load()
			for b.Loop() {
				if list, err := all[0].See(ctx, SeenEndpoints); err != nil || len(list) != 10*each {
					b.Fatal(len(list), err)
				}
			}
			b.ReportMetric(float64(all[0].Requests.Load()-before)/float64(b.N), "requests/op")
			b.ReportMetric(shown, "s-to-show")
		})
	}
}
