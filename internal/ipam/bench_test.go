package ipam

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// BenchmarkHandOut is what a request for an address takes until the answer is on disk,
// without conflict detection: one alone, and 64 at the same time until all are answered.
// Before each 64 one alone is measured as well, and x-of-one is the ratio of the two.
// All are medians. The pool has no new addresses left, as one that was in use for long;
// what was handed out goes back outside the measured time.
func BenchmarkHandOut(b *testing.B) {
	for _, n := range []int{1, 64} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			onDisk(b)
			m := newBench(b)
			pool := m.mustNetwork("n1", "eth1", off, subnet{pool: "10.0.0.0/22", gateway: "10.0.0.1"})[0]
			c := newCrowd(b, 64)
			for range 1024 / 64 {
				c.handOut(m, pool, 64)
			}
			var alone, all []time.Duration
			for b.Loop() {
				if n > 1 {
					alone = append(alone, c.handOut(m, pool, 1))
				}
				all = append(all, c.handOut(m, pool, n))
			}
			b.ReportMetric(float64(median(all)), "ns/op")
			if n > 1 {
				b.ReportMetric(float64(median(all))/float64(median(alone)), "x-of-one")
			}
		})
	}
}

// crowd are goroutines that ask at the same time. They are there before, as those of
// open connections are.
type crowd struct {
	b    *testing.B
	work []chan func()
	done sync.WaitGroup
}

func newCrowd(b *testing.B, n int) *crowd {
	c := &crowd{b: b}
	for range n {
		work := make(chan func())
		c.work = append(c.work, work)
		go func() {
			for do := range work {
				do()
			}
		}()
	}
	b.Cleanup(func() {
		for _, work := range c.work {
			close(work)
		}
	})
	return c
}

// each is how long n calls at the same time take.
func (c *crowd) each(n int, do func(i int) error) time.Duration {
	c.b.Helper()
	errs := make([]error, n)
	gate := make(chan struct{})
	for i := range n {
		c.done.Add(1)
		c.work[i] <- func() {
			<-gate
			errs[i] = do(i)
			c.done.Done()
		}
	}
	begun := time.Now()
	close(gate)
	c.done.Wait()
	took := time.Since(begun)
	for _, err := range errs {
		if err != nil {
			c.b.Fatal(err)
		}
	}
	return took
}

// handOut is how long n requests at the same time take. It gives the addresses back.
func (c *crowd) handOut(m *bench, pool string, n int) time.Duration {
	c.b.Helper()
	got := make([]netip.Prefix, n)
	took := c.each(n, func(i int) (err error) {
		got[i], err = m.RequestAddress(ctx, lan.AddressRequest{PoolID: pool})
		return err
	})
	c.each(n, func(i int) error { return m.ReleaseAddress(ctx, pool, got[i].Addr()) })
	return took
}

func median(of []time.Duration) time.Duration {
	slices.Sort(of)
	return of[len(of)/2]
}

// onDisk makes temporary folders of b be on a disk, and says which file system it has.
func onDisk(b *testing.B) {
	b.Helper()
	for _, dir := range []string{os.TempDir(), "/var/tmp"} {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			b.Fatal(err)
		}
		if st.Type == unix.TMPFS_MAGIC {
			continue
		}
		names := map[int64]string{unix.EXT4_SUPER_MAGIC: "ext4", unix.XFS_SUPER_MAGIC: "xfs", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.OVERLAYFS_SUPER_MAGIC: "overlayfs"}
		name := names[int64(st.Type)]
		if name == "" {
			name = fmt.Sprintf("%#x", st.Type)
		}
		b.Setenv("TMPDIR", dir)
		b.Logf("state file in %s, on %s", dir, name)
		return
	}
	b.Skip("no folder for temporary files is on a disk; try: TMPDIR=")
}
