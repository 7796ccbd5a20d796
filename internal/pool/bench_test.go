package pool

import (
	"math/rand/v2"
	"net/netip"
	"runtime"
	"testing"
	"time"
)

const million = 1_000_000

// dense has the first million addresses of r taken.
func dense(r Range) *Set {
	s := NewSet()
	fill(s, r.First, million)
	return s
}

// spread has a million addresses taken, anywhere in the first 1<<24 of r.
func spread(r Range) *Set {
	s := NewSet()
	random := rand.New(rand.NewPCG(1, 2))
	for n := 0; n < million; {
		if s.Take(nth(r.First, random.IntN(1<<24-2))) {
			n++
		}
	}
	return s
}

// BenchmarkPick is one address of a /8 in which a million are taken, and more with each.
func BenchmarkPick(b *testing.B) {
	for _, bc := range []struct {
		name string
		make func(Range) *Set
	}{{"dense", dense}, {"spread", spread}} {
		b.Run(bc.name, func(b *testing.B) {
			r := rangeOf(b, "10.0.0.0/8")
			v := bc.make(r).View(r)
			for b.Loop() {
				if _, ok := v.Pick(time.Time{}, nil); !ok { // all 16 million are taken
					b.StopTimer()
					v = bc.make(r).View(r)
					b.StartTimer()
				}
			}
		})
	}
}

// BenchmarkPickIdle is one address out of a full /16 in which 32768 are idle, and its
// way back.
func BenchmarkPickIdle(b *testing.B) {
	for _, owner := range []string{"", "web"} {
		b.Run("owner="+owner, func(b *testing.B) {
			s, r := NewSet(), rangeOf(b, "10.0.0.0/16")
			v := s.View(r)
			fill(s, r.First, 1<<16-2)
			when := at(0)
			for n := range 1 << 15 {
				when = when.Add(time.Millisecond)
				s.Free(nth(r.First, n), Idle{when, owner})
			}
			for b.Loop() {
				a, ok := v.Pick(when, nil)
				if !ok {
					b.Fatal("nothing is idle")
				}
				when = when.Add(time.Millisecond)
				s.Free(a, Idle{when, owner})
			}
		})
	}
}

// BenchmarkPickSkip is one address out of a full /16 in which all are idle and the
// 65533 that rested longest are refused.
func BenchmarkPickSkip(b *testing.B) {
	s, r := NewSet(), rangeOf(b, "10.0.0.0/16")
	v := s.View(r)
	fill(s, r.First, 1<<16-2)
	for n := range 1<<16 - 2 {
		s.Free(nth(r.First, n), Idle{Since: at(n)})
	}
	for b.Loop() {
		a, _ := v.Pick(at(1<<17), func(a netip.Addr) bool { return a != r.Last })
		s.Free(a, Idle{Since: at(1 << 16)})
	}
}

// BenchmarkCount is a scrape's share: what is taken of a million, and all of them.
func BenchmarkCount(b *testing.B) {
	r := rangeOf(b, "10.0.0.0/8")
	s := dense(r)
	for b.Loop() {
		s.Count(r)
	}
}

// BenchmarkMemory is what an address costs while it is kept, in bytes.
func BenchmarkMemory(b *testing.B) {
	r4, r6 := rangeOf(b, "10.0.0.0/8"), rangeOf(b, "fd00::/64")
	for _, bc := range []struct {
		name string
		make func() *Set
		n    int
	}{
		{"dense", func() *Set { return dense(r4) }, million},
		{"spread", func() *Set { return spread(r4) }, million},
		{"dense6", func() *Set { return dense(r6) }, million},
		{"sparse6", func() *Set { // as from hardware addresses: all alone
			s := NewSet()
			for n := range million / 10 {
				s.Take(nth(r6.First, n<<20))
			}
			return s
		}, million / 10},
		{"idle", func() *Set {
			s := NewSet()
			s.View(r4)
			for n := range 1 << 16 {
				a := nth(r4.First, n)
				s.Take(a)
				s.Free(a, Idle{Since: at(n)})
			}
			return s
		}, 1 << 16},
	} {
		b.Run(bc.name, func(b *testing.B) {
			for b.Loop() {
				b.ReportMetric(float64(heapOf(bc.make))/float64(bc.n), "B/address")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// An address that is taken in a dense pool costs less than a number would.
func TestMemory(t *testing.T) {
	r := rangeOf(t, "10.0.0.0/8")
	if got := float64(heapOf(func() *Set { return dense(r) })) / million; got >= 8 {
		t.Errorf("%.1f bytes an address, want less than 8", got)
	}
}

// heapOf is how many bytes of the heap a Set takes.
func heapOf(newSet func() *Set) int64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	s := newSet()
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(s)
	return int64(after.HeapAlloc) - int64(before.HeapAlloc)
}
