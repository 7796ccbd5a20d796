package ipam

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// How full a pool is said to be: nearly full from a tenth on, and only from a seventh on not any more, so that one
// container more or less is not told each time.
func TestFill(t *testing.T) {
	for _, tc := range []struct {
		size, reserved, free uint64
		was, want            string
	}{
		{254, 4, 250, "", ""},
		{254, 4, 25, "", ""},
		{254, 4, 24, "", EventPoolLow},
		{254, 4, 30, EventPoolLow, EventPoolLow},
		{254, 4, 36, EventPoolLow, ""},
		{254, 4, 1, EventPoolLow, EventPoolLow},
		{254, 4, 0, EventPoolLow, EventPoolFull},
		{254, 4, 1, EventPoolFull, EventPoolLow},
		{254, 4, 200, EventPoolFull, ""},
		{1, 0, 1, "", ""}, // the smallest
		{1, 0, 0, "", EventPoolFull},
		{1<<64 - 1, 1, 1<<64 - 9, "", ""},
	} {
		if got := fill(Counts{Size: tc.size, Reserved: tc.reserved, Free: tc.free}, tc.was); got != tc.want {
			t.Errorf("%d of %d free, %d reserved, after %q: %q, want %q", tc.free, tc.size, tc.reserved, tc.was, got, tc.want)
		}
	}
}

// A pool that fills up is told once, and that it has room again.
func TestPoolEvents(t *testing.T) {
	b := newBench(t)
	id := b.mustNetwork("n1", "eth1", lan.Policy{NoACD: true}, subnet{pool: "10.0.0.0/29", gateway: "auto"})[0]
	seen := &trends{}
	look := func() {
		seen.looked = seen.looked.Add(-trendEvery)
		b.watchTrends(ctx, seen)
		b.watchTrends(ctx, seen) // at once again it looks at nothing
	}
	look()
	for range 5 {
		if _, err := b.RequestAddress(ctx, lan.AddressRequest{PoolID: id}); err != nil {
			t.Fatal(err)
		}
	}
	look()
	look()
	var free []string
	for _, a := range []string{"10.0.0.2", "10.0.0.3"} {
		if err := b.ReleaseAddress(ctx, id, netip.MustParseAddr(a)); err != nil {
			t.Fatal(err)
		}
		look()
	}
	for _, e := range b.Events(ctx, 0, false) {
		if eventPool := e.What == EventPoolLow || e.What == EventPoolFull || e.What == EventPoolRoom; eventPool {
			free = append(free, e.What+" "+e.Network+" "+e.Text)
		}
	}
	want := []string{"pool-full n1 pool 10.0.0.0/29: 0 of 6 addresses are free", "pool-has-room n1 pool 10.0.0.0/29: 1 of 6 addresses are free"}
	if diff := cmp.Diff(want, free); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}
