// Ipambench measures the picking of addresses: lanyard's, and that of Docker's default
// IPAM driver in the version that go.mod names, turn by turn in one process. Nothing is
// written to the disk: Docker's driver does not, and lanyard's pick is measured without
// what follows it (BenchmarkHandOut in internal/ipam has all of it).
//
// It is a module of its own, so that lanyard's has no need of Docker's code.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"time"

	"github.com/moby/moby/v2/daemon/libnetwork/ipamapi"
	"github.com/moby/moby/v2/daemon/libnetwork/ipams/defaultipam"

	"github.com/lanyard-net/lanyard/internal/pool"
)

const (
	million = 1_000_000
	// picks is how many addresses are picked in a measurement of one.
	picks = 5000
	// gaps is how many addresses are given back to make gaps.
	gaps = 10_000
	// all16 is how many addresses a /16 has for hosts.
	all16 = 1<<16 - 2
)

// picker is an IPAM of one pool. It panics when something is refused that should not be.
type picker interface {
	// next takes an address.
	next() netip.Addr
	// back gives one back.
	back(netip.Addr)
}

// lanyard is internal/pool as internal/ipam uses it: what was given back is remembered,
// and goes to others after those that nobody had yet.
type lanyard struct {
	set  *pool.Set
	view *pool.View
}

func newLanyard(subnet netip.Prefix) picker {
	r, err := pool.RangeOf(subnet, netip.Prefix{})
	if err != nil {
		panic(err)
	}
	s := pool.NewSet()
	return &lanyard{s, s.View(r)}
}

func (l *lanyard) next() netip.Addr {
	a, ok := l.view.Pick(time.Now(), nil)
	if !ok {
		panic("lanyard: no address")
	}
	return a
}

func (l *lanyard) back(a netip.Addr) {
	if !l.set.Free(a, pool.Idle{Since: time.Now()}) {
		panic("lanyard: not taken: " + a.String())
	}
}

// docker is Docker's default IPAM driver as dockerd uses it for a container without
// --ip: the next address after the one given last.
type docker struct {
	a  *defaultipam.Allocator
	id string
}

func newDocker(subnet netip.Prefix) picker {
	a, err := defaultipam.NewAllocator(nil, nil)
	if err != nil {
		panic(err)
	}
	space, _, err := a.GetDefaultAddressSpaces()
	if err != nil {
		panic(err)
	}
	p, err := a.RequestPool(ipamapi.PoolRequest{AddressSpace: space, Pool: subnet.String()})
	if err != nil {
		panic(err)
	}
	return &docker{a, p.PoolID}
}

func (d *docker) next() netip.Addr {
	n, _, err := d.a.RequestAddress(d.id, nil, nil)
	if err != nil {
		panic(err)
	}
	a, _ := netip.AddrFromSlice(n.IP)
	return a.Unmap()
}

func (d *docker) back(a netip.Addr) {
	if err := d.a.ReleaseAddress(d.id, net.IP(a.AsSlice())); err != nil {
		panic(err)
	}
}

// Row is what was measured, in the unit that it names.
type Row struct {
	What    string  `json:"what"`
	Unit    string  `json:"unit"`
	Lanyard float64 `json:"lanyard"`
	Docker  float64 `json:"docker"`
	// Wanted is what lanyard's figure should be less than; 0: nothing was set.
	Wanted float64 `json:"wanted,omitempty"`
}

var net8, net16 = netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("10.1.0.0/16")

// measures are what is measured, each on a fresh IPAM.
var measures = []struct {
	what, unit string
	wanted     float64
	of         func(newPicker func(netip.Prefix) picker) float64
}{
	{"the next address, 1,000,000 of a /8 taken in a row", "µs", 2, func(newPicker func(netip.Prefix) picker) float64 {
		p := newPicker(net8)
		take(p, million)
		return timeNext(p)
	}},
	{"the next address, 1,000,000 of a /8 taken with 10,000 gaps", "µs", 2, func(newPicker func(netip.Prefix) picker) float64 {
		p := newPicker(net8)
		all := take(p, million+gaps)
		for _, a := range shuffled(all)[:gaps] {
			p.back(a)
		}
		return timeNext(p)
	}},
	{"a /16 filled", "ms", 0, func(newPicker func(netip.Prefix) picker) float64 {
		p := newPicker(net16)
		return timed(func() { take(p, all16) }).Seconds() * 1e3
	}},
	{"a full /16 freed, in no order", "ms", 0, func(newPicker func(netip.Prefix) picker) float64 {
		p := newPicker(net16)
		all := shuffled(take(p, all16))
		return timed(func() {
			for _, a := range all {
				p.back(a)
			}
		}).Seconds() * 1e3
	}},
	{"memory of an address taken, 1,000,000 of a /8 in a row", "bytes", 8, func(newPicker func(netip.Prefix) picker) float64 {
		return heap(func() picker {
			p := newPicker(net8)
			for range million {
				p.next()
			}
			return p
		}) / million
	}},
	{"memory of an address given back, a /16 of them", "bytes", 0, func(newPicker func(netip.Prefix) picker) float64 {
		return heap(func() picker {
			p := newPicker(net16)
			for _, a := range take(p, all16) {
				p.back(a)
			}
			return p
		}) / all16
	}},
}

func take(p picker, n int) []netip.Addr {
	all := make([]netip.Addr, n)
	for i := range all {
		all[i] = p.next()
	}
	return all
}

func shuffled(all []netip.Addr) []netip.Addr {
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(all), func(i, k int) { all[i], all[k] = all[k], all[i] })
	return all
}

// timeNext is what one of the next addresses takes, in µs.
func timeNext(p picker) float64 {
	return timed(func() {
		for range picks {
			p.next()
		}
	}).Seconds() * 1e6 / picks
}

func timed(do func()) time.Duration {
	runtime.GC()
	begun := time.Now()
	do()
	return time.Since(begun)
}

// heap is how many bytes of the heap what do makes takes.
func heap(do func() picker) float64 {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	p := do()
	runtime.GC()
	runtime.ReadMemStats(&after)
	runtime.KeepAlive(p)
	return float64(after.HeapAlloc) - float64(before.HeapAlloc)
}

func main() {
	asJSON := flag.Bool("json", false, "print JSON")
	n := flag.Int("n", 7, "how many `times` each is measured; the median is shown")
	flag.Parse()
	rows := []Row{}
	for _, m := range measures {
		var got [2][]float64
		for k := range 2 * *n {
			i := (k + k/2) % 2 // who is first changes
			got[i] = append(got[i], m.of([]func(netip.Prefix) picker{newLanyard, newDocker}[i]))
		}
		rows = append(rows, Row{m.what, m.unit, median(got[0]), median(got[1]), m.wanted})
	}
	if *asJSON {
		if err := json.NewEncoder(os.Stdout).Encode(rows); err != nil {
			fmt.Fprintln(os.Stderr, "ipambench:", err)
			os.Exit(1)
		}
		return
	}
	fmt.Printf("%-60s %10s %10s\n", "", "lanyard", "Docker")
	for _, r := range rows {
		fmt.Printf("%-60s %10.3f %10.3f %s\n", r.What, r.Lanyard, r.Docker, r.Unit)
	}
}

func median(of []float64) float64 {
	slices.Sort(of)
	return of[len(of)/2]
}
