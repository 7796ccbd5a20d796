package kerneltest

import (
	"context"
	"errors"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

// NoLeaks fails a test that ends with more goroutines or descriptors than it began with.
func NoLeaks(t testing.TB) {
	t.Helper()
	// The runtime's poller has descriptors of its own, from the first file that needs it on.
	if r, w, err := os.Pipe(); err == nil {
		_ = errors.Join(r.Close(), w.Close())
	}
	descriptors := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	fds, routines := descriptors(), runtime.NumGoroutine()
	t.Cleanup(func() {
		for end := time.Now().Add(2 * time.Second); descriptors() > fds || runtime.NumGoroutine() > routines; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				stacks := make([]byte, 1<<16)
				t.Errorf("%d descriptors, %d before; %d goroutines, %d before:\n%s", descriptors(), fds,
					runtime.NumGoroutine(), routines, stacks[:runtime.Stack(stacks, true)])
				return
			}
		}
	})
}

// Run runs something in the background until the end of the test, and fails the test if it
// returns an error then.
func Run(t testing.TB, run func(context.Context) error) {
	t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ran; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

// WantError fails a test whose error is not of a kind, or does not say all of some words.
func WantError(t testing.TB, err, reason error, words ...string) {
	t.Helper()
	if !errors.Is(err, reason) {
		t.Errorf("error %v; want one that is %q", err, reason)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
}

// Log is text that many may write and read at the same time, as a daemon's log. The zero
// Log is empty.
type Log struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *Log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *Log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
