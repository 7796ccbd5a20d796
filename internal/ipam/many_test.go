package ipam

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/store"
)

// withLeases is a manager that starts on what is on disk: a network of DHCP, and containers
// that run, all with leases of a day of which some hours are over. With names their leases
// are theirs, without they are nobody's in particular.
func withLeases(t testing.TB, count int, names bool) *bench {
	t.Helper()
	b := newBench(t)
	b.mustNetwork("n1", "eth1", lan.Policy{}, subnet{pool: "0.0.0.0/0", options: map[string]string{"source": "dhcp"}})
	b.end()
	db, err := store.Open(b.dir)
	if err != nil {
		t.Fatal(err)
	}
	var ops []store.Op
	var endpoints []*lan.Endpoint
	server := netip.MustParseAddr("10.0.0.1")
	for i := range count {
		addr := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 0, byte(1 + i>>8), byte(i)}), 16)
		ago := time.Duration(i) * time.Second
		rec := &store.Lease{
			ID: fmt.Sprintf("%012x", i), Space: "eth1", Pool: "dhcp", Network: "n1", State: store.LeaseBound, IAID: 1,
			Boot: newClock().boot, At: newClock().now() - ago, Granted: time.Now().Add(-ago), Since: time.Now().Add(-ago),
			Lease: lan.Lease{
				Addr: addr, Server: server, Via: "02:00:00:00:00:01", Gateway: server, DNS: []netip.Addr{server}, Domain: "site.example",
				Renew: 12 * time.Hour, Rebind: 21 * time.Hour, Life: 24 * time.Hour,
			},
		}
		w := leaseWant{}
		if names {
			w.name = fmt.Sprintf("container-%d", i)
			rec.Owner = "name " + w.name
		}
		b.describe(rec, b.nets["n1"], &wire{}, w)
		ops = append(ops, store.PutLease(rec))
		endpoints = append(endpoints, &lan.Endpoint{
			ID: fmt.Sprintf("%064x", i), NetworkID: "n1", IPv4: addr, MAC: rec.MAC, Leases: []string{rec.ID},
		})
	}
	if err := db.Write(ops...); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	sandbox := filepath.Join(b.dir, "sandbox") // mounted, as Docker's are
	if err := errors.Join(os.WriteFile(sandbox, nil, 0o600), unix.Mount(b.host.Path(), sandbox, "", unix.MS_BIND, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(sandbox, unix.MNT_DETACH) })
	b.start()
	for _, e := range endpoints {
		e.Sandbox = sandbox
		if _, err := b.Assign(b.nets["n1"], "eth1", e, e.MAC, true); err != nil {
			t.Fatal(err)
		}
	}
	if kept := b.keeper.Len(); kept != count {
		t.Fatalf("%d leases are kept", kept)
	}
	return b
}

// heap is how much memory is in use.
func heap() uint64 {
	var s runtime.MemStats
	for range 3 { // what finalizers let go too
		runtime.GC()
	}
	runtime.ReadMemStats(&s)
	return s.HeapAlloc
}

// A lease that nothing is due for costs memory, and no goroutine or descriptor.
func TestManyLeases(t *testing.T) {
	count := func(leases int) (goroutines, descriptors int, bytes uint64) {
		before := heap()
		b := withLeases(t, leases, true)
		b.listen()
		b.eventually("Run has begun", func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.spaces["eth1"].wire.started
		})
		time.Sleep(100 * time.Millisecond) // goroutines of the beginning
		bytes = heap() - before
		files, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		goroutines, descriptors = runtime.NumGoroutine(), len(files)
		b.end()
		b.end = func() {}
		return goroutines, descriptors, bytes
	}
	g, d, _ := count(1)
	many, descriptors, bytes := count(10_000)
	t.Logf("10000 leases: %d goroutines, %d descriptors, %.1f MB", many, descriptors, float64(bytes)/1e6)
	if many > g {
		t.Errorf("%d goroutines with 10000 leases, %d with one", many, g)
	}
	if descriptors > d+1 { // the namespace of the first manager's host
		t.Errorf("%d descriptors with 10000 leases, %d with one", descriptors, d)
	}
	if bytes > 20e6 {
		t.Errorf("10000 leases take %d bytes, 20 MB at most", bytes)
	}
}

// BenchmarkLeases is what one of ten thousand leases takes in memory, of containers that
// run: that of the manager, its keeper included.
func BenchmarkLeases(b *testing.B) {
	const leases = 10_000
	var bytes []uint64
	for b.Loop() {
		before := heap()
		m := withLeases(b, leases, true)
		bytes = append(bytes, heap()-before)
		m.end()
		m.end = func() {}
	}
	slices.Sort(bytes)
	b.ReportMetric(float64(bytes[len(bytes)/2])/leases, "bytes/lease")
	b.ReportMetric(0, "ns/op") // most of it is the making of what is on disk
}

// BenchmarkIdentify is how long a hundred containers that start at once wait for each to
// know which lease is its own, of ten thousand, before any server is asked: those that had
// one and were stopped, and new ones, of engines that say names and of those that do not.
func BenchmarkIdentify(b *testing.B) {
	const leases, starts = 10_000, 100
	for _, names := range []bool{true, false} {
		for _, back := range []bool{true, false} {
			b.Run(map[bool]string{true: "named", false: "nameless"}[names]+map[bool]string{true: "/back", false: "/new"}[back], func(b *testing.B) {
				m := withLeases(b, leases, names)
				m.mu.Lock()
				p, n := m.pools["dhcp"], m.nets["n1"]
				if back {
					for i := range starts {
						l := m.leases[fmt.Sprintf("%012x", i*50)]
						m.spaces["eth1"].unuse(l.rec.Lease.Addr.Addr())
						m.rest(l)
					}
				}
				m.mu.Unlock()
				crowd := newCrowd(b, starts)
				var took []time.Duration
				for b.Loop() {
					p.space.looked = time.Time{}
					took = append(took, crowd.each(starts, func(i int) error {
						w := leaseWant{}
						if names {
							w.name = fmt.Sprintf("container-%d", i*50)
							if !back {
								w.name = fmt.Sprintf("new-%d", i)
							}
							w.owner = "name " + w.name
						}
						return m.identifyOnly(p, n, w)
					}))
				}
				b.ReportMetric(float64(median(took)), "ns/op")
			})
		}
	}
}

// identifyOnly is a start up to the point where a server is asked, and leaves things as
// they were.
func (b *bench) identifyOnly(p *place, n *lan.Network, w leaseWant) error {
	l, done, err := b.leaseOf(ctx, p, n, &wire{}, w)
	if err != nil {
		return err
	}
	b.mu.Lock()
	if l.rec.State == "" {
		b.forgetLease(l)
	}
	l.space.shelve(l)
	b.mu.Unlock()
	done()
	return nil
}
