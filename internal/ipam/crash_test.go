package ipam

import (
	"bufio"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/store"
)

// victim is the environment variable that makes the test binary hand out addresses
// from the state folder that it names until it is killed.
const victim = "LANYARD_TEST_VICTIM"

// failAt is the environment variable that makes the victim kill itself: "POINT/N" at
// the Nth time that a fail point of the store is reached.
const failAt = "LANYARD_TEST_FAIL_AT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(victim); dir != "" {
		handOutUntilKilled(dir)
	}
	flag.Parse()
	if err := flag.Set("test.parallel", "6"); err != nil { // those that run side by side wait for servers
		panic(err)
	}
	os.Exit(m.Run())
}

// handOutUntilKilled prints what Docker would have been told: "+ POOL ADDRESS" after
// each answer of RequestAddress, "- POOL ADDRESS" before each ReleaseAddress.
func handOutUntilKilled(dir string) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	db, err := store.Open(dir)
	fail(err)
	if point, count, ok := strings.Cut(os.Getenv(failAt), "/"); ok {
		left, err := strconv.Atoi(count)
		fail(err)
		db.FailPoint = func(reached string) { // by one goroutine, the one that commits
			if reached != point {
				return
			}
			if left--; left == 0 {
				fail(syscall.Kill(os.Getpid(), syscall.SIGKILL))
				select {}
			}
		}
	}
	state, err := db.Load()
	fail(err)
	links, err := link.New()
	fail(err)
	m, err := New(Config{DB: db, Links: links, Log: slog.New(slog.DiscardHandler)}, state)
	fail(err)
	var mu sync.Mutex
	out := func(sign, pool, addr string) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Printf("%s %s %s\n", sign, pool, addr) // one write: whole or not at all
	}
	for i := range 8 {
		go func() {
			pool := state.Pools[i%len(state.Pools)].ID
			var mine []string
			for n := 0; ; n++ {
				if len(mine) > 4 {
					addr := mine[0]
					mine = mine[1:]
					out("-", pool, addr)
					fail(m.ReleaseAddress(ctx, pool, netip.MustParseAddr(addr)))
				}
				name := ""
				if n%2 == 0 {
					name = fmt.Sprintf("c%d-%d", i, n%5)
				}
				p, err := m.RequestAddress(ctx, lan.AddressRequest{PoolID: pool, Name: name})
				fail(err)
				out("+", pool, p.Addr().String())
				mine = append(mine, p.Addr().String())
			}
		}()
	}
	select {}
}

// Killed at any instant: what Docker was told is held, nothing is given twice, and what
// is held beyond that is at most what was under way.
func TestKilledAtAnyInstant(t *testing.T) {
	b := newBench(t)
	grace := lan.Policy{NoACD: true, Grace: -1}
	b.mustNetwork("n1", "eth1", grace, subnet{pool: "10.0.0.0/24", rng: "10.0.0.0/25"})
	b.mustNetwork("n2", "eth1", grace, subnet{pool: "10.0.0.0/24", rng: "10.0.0.64/26"})
	held := map[string]bool{} // what Docker has
	told := 0
	// First at each fail point of a commit, early and late, then at any instant.
	var points []string
	for _, p := range store.FailPoints() {
		for _, n := range []int{1, 2, 9, 40} {
			points = append(points, fmt.Sprintf("%s/%d", p, n))
		}
	}
	for round := range len(points) + 20 {
		b.end()
		cmd := exec.Command(os.Args[0], "-test.run=^$")
		cmd.Env = append(os.Environ(), victim+"="+b.dir)
		if round < len(points) {
			cmd.Env = append(cmd.Env, failAt+"="+points[round])
		}
		cmd.Stderr = os.Stderr
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if round >= len(points) {
			time.AfterFunc(50*time.Millisecond+rand.N(150*time.Millisecond), func() { cmd.Process.Kill() })
		}
		between := map[string]bool{} // asked to be released, and perhaps not
		lines := bufio.NewScanner(pipe)
		for lines.Scan() {
			var sign, pool, addr string
			if n, err := fmt.Sscan(lines.Text(), &sign, &pool, &addr); n != 3 || err != nil {
				break // cut off
			}
			told++
			switch {
			case sign == "-":
				delete(held, addr)
				between[addr] = true
			case held[addr]:
				t.Fatalf("round %d: %s given twice", round, addr)
			default:
				held[addr] = true
				delete(between, addr)
			}
		}
		cmd.Wait()
		b.start()
		extra := 0
		b.mu.Lock()
		sp := b.spaces["eth1"]
		for addr := range held {
			if !sp.set.Taken(netip.MustParseAddr(addr)) {
				t.Errorf("round %d: Docker has %s, and it is not held", round, addr)
			}
		}
		for addr := range sp.handed {
			if !held[addr.String()] {
				extra++ // an answer that did not get out, or a release that did not get in
			}
		}
		b.mu.Unlock()
		if extra > 8 {
			t.Errorf("round %d: %d addresses are held that nobody has; 8 requests were under way", round, extra)
		}
		// Docker gives back what it has, and the rest is taken back as orphans are.
		for addr := range held {
			b.give(b.Pools()[0].ID, addr)
		}
		clear(held)
		b.mu.Lock()
		for addr := range sp.handed {
			sp.handed[addr] = time.Now().Add(-2 * orphanAfter)
		}
		b.mu.Unlock()
		b.sweep()
		b.mu.Lock()
		if n := len(sp.handed); n != 0 {
			t.Errorf("round %d: %d addresses are lost", round, n)
		}
		b.mu.Unlock()
	}
	if told < 200 {
		t.Errorf("%d answers only: the victim was hardly at work", told)
	}
	if out := b.log.String(); strings.Contains(out, "level=ERROR") {
		t.Error(out)
	}
}
