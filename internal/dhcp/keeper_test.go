package dhcp

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// kept is a keeper in a bubble, with a server that answers or does not.
type kept struct {
	*Keeper
	mu      sync.Mutex
	said    []string
	answers func(s Stage) (*lan.Lease, bool)
	start   time.Time
}

func (k *kept) now() time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	return time.Since(k.start)
}

// lines is what was due.
func (k *kept) lines() []string {
	synctest.Wait()
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.said)
}

func keep(t *testing.T, answers func(Stage) (*lan.Lease, bool)) *kept {
	t.Helper()
	k := &kept{answers: answers, start: time.Now()}
	k.Keeper = NewKeeper(KeeperConfig{Now: k.now, Workers: 4, Do: func(_ context.Context, id string, s Stage) (Times, bool) {
		line := fmt.Sprintf("%s %s at %s", id, s, k.now().Round(time.Second))
		k.mu.Lock()
		k.said = append(k.said, line)
		k.mu.Unlock()
		l, ok := k.answers(s)
		if !ok {
			return Times{}, false
		}
		return TimesOf(k.now(), l), true
	}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = k.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
	return k
}

// count is how often a stage was due.
func (k *kept) count(s Stage) (n int) {
	for _, line := range k.lines() {
		var id, stage string
		fmt.Sscan(line, &id, &stage)
		if stage == s.String() {
			n++
		}
	}
	return n
}

func hour() *lan.Lease {
	return &lan.Lease{Renew: 30 * time.Minute, Rebind: 52*time.Minute + 30*time.Second, Life: time.Hour}
}

// A server that answers is asked once in half the lease's time.
func TestKeeperRenews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, func(Stage) (*lan.Lease, bool) { return hour(), true })
		k.Hold("a", TimesOf(0, hour()))
		time.Sleep(24 * time.Hour)
		if n := k.count(Renewing); n < 47 || n > 52 {
			t.Errorf("%d renewals in a day: %v", n, k.lines())
		}
		if n := k.count(Rebinding) + k.count(Ended); n > 0 {
			t.Errorf("%d times more than renewing: %v", n, k.lines())
		}
	})
}

// A server that is silent is asked more and more often, then all are, until the lease
// ends; after that a new lease is asked for at least once a minute.
func TestKeeperSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, func(Stage) (*lan.Lease, bool) { return nil, false })
		k.Hold("a", TimesOf(0, hour()))
		time.Sleep(time.Hour - time.Second)
		renew, rebind, ended := k.count(Renewing), k.count(Rebinding), k.count(Ended)
		if renew < 4 || renew > 12 || rebind < 3 || rebind > 9 || ended != 0 {
			t.Errorf("%d renewals, %d rebindings, %d ends before the end: %v", renew, rebind, ended, k.lines())
		}
		time.Sleep(10*time.Minute + time.Second)
		if n := k.count(Ended); n < 10 || n > 20 {
			t.Errorf("%d attempts at a new lease in ten minutes: %v", n, k.lines())
		}
	})
}

// A lease of ten seconds is renewed in time, ten thousand times.
func TestKeeperShort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		short := &lan.Lease{Renew: 5 * time.Second, Rebind: 8750 * time.Millisecond, Life: 10 * time.Second}
		k := keep(t, func(Stage) (*lan.Lease, bool) { return short, true })
		k.Hold("a", TimesOf(0, short))
		time.Sleep(50000 * time.Second)
		if r, n := k.count(Renewing), k.count(Rebinding)+k.count(Ended); r < 10000 || n > 0 {
			t.Errorf("%d renewals, %d others", r, n)
		}
	})
}

// While the machine sleeps timers stand still; the clock does not. What is over then is
// seen at once after.
func TestKeeperAfterSuspend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, func(Stage) (*lan.Lease, bool) { return hour(), true })
		k.Hold("a", TimesOf(0, hour()))
		time.Sleep(time.Minute)
		k.mu.Lock()
		k.start = k.start.Add(-2 * time.Hour)
		k.mu.Unlock()
		time.Sleep(nap + time.Second)
		if k.count(Ended) != 1 {
			t.Errorf("not seen within %s: %v", nap, k.lines())
		}
	})
}

func TestKeeperInfinite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := keep(t, func(Stage) (*lan.Lease, bool) { return nil, false })
		k.Hold("a", TimesOf(0, &lan.Lease{Renew: lan.Infinite, Rebind: lan.Infinite, Life: lan.Infinite}))
		time.Sleep(100 * time.Hour)
		if len(k.lines()) > 0 {
			t.Errorf("a lease that does not end: %v", k.lines())
		}
		if !k.Hurry("a") {
			t.Error("cannot be hurried")
		}
		time.Sleep(time.Second)
		if len(k.lines()) != 1 {
			t.Errorf("hurried: %v", k.lines())
		}
		k.Drop("a")
		if k.Hurry("a") || k.Len() != 0 {
			t.Error("it is kept still")
		}
	})
}

// What costs nothing while it is idle: ten thousand leases.
func TestKeeperOfMany(t *testing.T) {
	k := NewKeeper(KeeperConfig{Now: newTestClock(), Workers: 64, Do: func(context.Context, string, Stage) (Times, bool) { return Times{}, false }})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = k.Run(ctx) }()
	defer func() { cancel(); <-done }()
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	for i := range 10000 {
		k.Hold(fmt.Sprintf("%012x", i), TimesOf(0, hour()))
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	t.Logf("%d bytes a lease", (after.HeapAlloc-before.HeapAlloc)/10000)
	if used := after.HeapAlloc - before.HeapAlloc; used > 5<<20 {
		t.Errorf("10,000 leases take %d bytes", used)
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines, %d before", n, goroutines)
	}
}

func newTestClock() func() time.Duration {
	start := time.Now()
	return func() time.Duration { return time.Since(start) }
}
