package engine

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/store"
)

const (
	manyNetworks  = 10
	manyEndpoints = 10_000
)

// BenchmarkRestore is a start with 10,000 endpoints on 10 networks, a parent each, whose
// addresses are from lanyard's IPAM driver: until the state is read (read-ms), before
// which the daemon answers nobody, and until the kernel is as it should be (kernel-ms).
// Conflict detection is on. The containers run on, or are all gone, as after a boot of
// the host.
func BenchmarkRestore(b *testing.B) {
	for _, alive := range []bool{true, false} {
		name := "running"
		if !alive {
			name = "gone"
		}
		b.Run(name, func(b *testing.B) {
			h := kerneltest.New(b)
			for i := range manyNetworks {
				h.Veth(fmt.Sprintf("eth%d", i), fmt.Sprintf("wire%d", i))
			}
			sandbox := h.Path()
			if !alive {
				sandbox = "/run/docker/netns/gone"
			}
			file := manyOnDisk(b, h, sandbox)
			var read, kernel time.Duration
			n := 0
			for b.Loop() {
				b.StopTimer()
				dir := b.TempDir()
				if err := os.WriteFile(filepath.Join(dir, store.File), file, 0o600); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				r, k := benchRestore(b, h, dir, alive)
				read, kernel, n = read+r, kernel+k, n+1
			}
			b.ReportMetric(read.Seconds()*1000/float64(n), "read-ms")
			b.ReportMetric(kernel.Seconds()*1000/float64(n), "kernel-ms")
		})
	}
}

// benchRestore is one start; it ends the daemon outside the timer.
func benchRestore(b *testing.B, h *kerneltest.Host, dir string, alive bool) (read, kernel time.Duration) {
	begun := time.Now()
	e, end := startOn(b, h, dir)
	read = time.Since(begun)
	e.restore()
	kernel = time.Since(begun) - read
	b.StopTimer()
	defer b.StartTimer()
	want := manyEndpoints
	if !alive {
		want = 0
	}
	if got := len(e.endpoints); got != want {
		b.Fatalf("%d endpoints stand, want %d", got, want)
	}
	for id, n := range e.networks {
		if n.parent == nil {
			b.Fatalf("network %s has no parent: %s", id, n.problem)
		}
	}
	for _, p := range e.ipam.Pools() {
		if p.ACD != "on" {
			b.Fatalf("pool %s has no conflict detection: %s", p.ID, p.Note)
		}
	}
	end()
	return read, kernel
}

// startOn is what the daemon does until it answers.
func startOn(b *testing.B, h *kerneltest.Host, dir string) (e *Engine, end func()) {
	b.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	db, err := store.Open(dir)
	if err != nil {
		b.Fatal(err)
	}
	links, err := link.NewAt(h.NS)
	if err != nil {
		b.Fatal(err)
	}
	state, err := db.Load()
	if err != nil {
		b.Fatal(err)
	}
	addresses, err := ipam.New(ipam.Config{DB: db, Links: links, Log: log}, state)
	if err != nil {
		b.Fatal(err)
	}
	e, err = New(Config{DB: db, Links: links, Addresses: addresses, State: state, Log: log})
	if err != nil {
		b.Fatal(err)
	}
	return e, func() {
		e.trash.wait()
		ended, cancel := context.WithCancel(ctx)
		cancel()
		if err := addresses.Run(ended); err != nil { // takes its probe links along
			b.Error(err)
		}
		links.Close()
		if err := db.Close(); err != nil {
			b.Error(err)
		}
	}
}

// manyOnDisk is the state file of a host with many endpoints, all in one sandbox.
func manyOnDisk(b *testing.B, h *kerneltest.Host, sandbox string) []byte {
	b.Helper()
	dir := b.TempDir()
	e, end := startOn(b, h, dir)
	var ops []store.Op
	for i := range manyNetworks {
		id := fmt.Sprintf("%064x", i+1)
		prefix := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, 0}), 16)
		granted, err := e.ipam.RequestPool(ctx, lan.PoolRequest{Subnet: prefix})
		if err != nil {
			b.Fatal(err)
		}
		gw, err := e.ipam.RequestAddress(ctx, lan.AddressRequest{PoolID: granted.ID, Gateway: true})
		if err != nil {
			b.Fatal(err)
		}
		err = e.CreateNetwork(ctx, lan.NetworkRequest{
			ID: id, Options: map[string]string{"parent": fmt.Sprintf("eth%d", i)}, WantIPv4: true,
			IPv4: []lan.Subnet{{Pool: prefix, Gateway: gw.Addr(), Leased: true}},
		})
		if err != nil {
			b.Fatal(err)
		}
		addr, key := gw.Addr(), e.networks[id].rec.Key
		for k := range manyEndpoints / manyNetworks {
			addr = addr.Next()
			eid, now := fmt.Sprintf("%032x%032x", k, i+1), time.Now().UTC()
			ops = append(ops,
				store.PutEndpoint(&lan.Endpoint{
					ID: eid, NetworkID: id, MAC: fmt.Sprintf("02:00:00:%02x:%02x:%02x", i, k>>8, k&0xff),
					IPv4: netip.PrefixFrom(addr, 16), Sandbox: sandbox, Created: now,
				}),
				store.PutAddress(&store.Address{
					Space: key, Addr: addr, State: store.Taken, Pool: granted.ID, Owner: "name web", Name: "web", Source: ipam.SourcePool, Since: now,
				}))
		}
	}
	if err := e.db.Write(ops...); err != nil {
		b.Fatal(err)
	}
	end()
	file, err := os.ReadFile(filepath.Join(dir, store.File))
	if err != nil {
		b.Fatal(err)
	}
	return file
}
