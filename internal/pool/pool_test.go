package pool

import (
	"fmt"
	"math"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestRangeOf(t *testing.T) {
	for _, tc := range []struct{ subnet, sub, want string }{
		{"0.0.0.0/0", "", "0.0.0.1-255.255.255.254"},
		{"10.0.0.0/8", "", "10.0.0.1-10.255.255.254"},
		{"10.1.2.3/8", "10.9.9.9/16", "10.9.0.0-10.9.255.255"},
		{"192.168.0.0/16", "192.168.0.0/24", "192.168.0.1-192.168.0.255"},
		{"192.168.0.0/16", "192.168.7.0/24", "192.168.7.0-192.168.7.255"},
		{"192.168.0.0/16", "192.168.255.0/24", "192.168.255.0-192.168.255.254"},
		{"192.168.0.0/16", "192.168.0.0/16", "192.168.0.1-192.168.255.254"},
		{"192.168.0.0/24", "192.168.0.0/31", "192.168.0.1-192.168.0.1"},
		{"192.168.0.0/24", "192.168.0.9/32", "192.168.0.9-192.168.0.9"},
		{"192.168.0.0/24", "192.168.0.0/32", "192.168.0.0/32 holds no address"},
		{"192.168.0.0/24", "192.168.0.255/32", "192.168.0.255/32 holds no address"},
		{"10.0.0.0/30", "", "10.0.0.1-10.0.0.2"},
		{"10.0.0.0/31", "", "10.0.0.0-10.0.0.1"},
		{"10.0.0.7/32", "", "10.0.0.7-10.0.0.7"},
		{"255.255.255.255/32", "", "255.255.255.255-255.255.255.255"},
		{"10.0.0.0/31", "10.0.0.1/32", "10.0.0.1-10.0.0.1"},
		{"10.0.0.0/16", "10.1.0.0/24", "10.1.0.0/24 is not within it"},
		{"10.0.0.0/16", "10.0.0.0/8", "10.0.0.0/8 is not within it"},
		{"10.0.0.0/16", "fd00::/64", "fd00::/64 is not within it"},
		{"::/0", "10.0.0.0/8", "10.0.0.0/8 is not within it"},
		{"::/0", "", "::1-ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"},
		{"fd00::/64", "", "fd00::1-fd00::ffff:ffff:ffff:ffff"},
		{"fd00::/64", "fd00::/120", "fd00::1-fd00::ff"},
		{"fd00::/64", "fd00::8:0/112", "fd00::8:0-fd00::8:ffff"},
		{"fd00::/64", "fd00::/128", "fd00::/128 holds no address"},
		{"fd00::/126", "", "fd00::1-fd00::3"},
		{"fd00::/127", "", "fd00::-fd00::1"},
		{"fd00::/128", "", "fd00::-fd00::"},
		{"::ffff:10.0.0.0/104", "", "is no IPv4 or IPv6 prefix"},
		{"10.0.0.0/8", "::ffff:10.0.0.0/104", "is no IPv4 or IPv6 prefix"},
		{"::/0", "::ffff:10.0.0.0/104", "is no IPv4 or IPv6 prefix"},
		{"", "", "is no IPv4 or IPv6 prefix"},
		{"", "10.0.0.0/8", "is no IPv4 or IPv6 prefix"},
	} {
		r, err := RangeOf(prefix(tc.subnet), prefix(tc.sub))
		got := text(r)
		if err != nil {
			got = err.Error()
		}
		if got != tc.want && (err == nil || !strings.Contains(got, tc.want)) {
			t.Errorf("range of %q in %q: %s, want %s", tc.sub, tc.subnet, got, tc.want)
		}
	}
	bad := netip.PrefixFrom(netip.MustParseAddr("10.0.0.0"), 33)
	if r, err := RangeOf(prefix("10.0.0.0/8"), bad); err == nil {
		t.Errorf("range of a prefix of 33 bits: %s", text(r))
	}
}

// prefix reads a prefix, in the case of one of IPv4 in IPv6 too, which netip prints
// but does not read.
func prefix(s string) netip.Prefix {
	if s == "" {
		return netip.Prefix{}
	}
	if rest, ok := strings.CutPrefix(s, "::ffff:"); ok {
		p := netip.MustParsePrefix(rest[:strings.IndexByte(rest, '/')] + "/32")
		return netip.PrefixFrom(netip.AddrFrom16(p.Addr().As16()), 104)
	}
	return netip.MustParsePrefix(s)
}

func text(r Range) string { return r.First.String() + "-" + r.Last.String() }

func between(first, last string) Range {
	return Range{netip.MustParseAddr(first), netip.MustParseAddr(last)}
}

func TestRange(t *testing.T) {
	r := between("10.0.0.1", "10.0.1.2")
	for in, want := range map[string]bool{
		"10.0.0.0": false, "10.0.0.1": true, "10.0.0.255": true, "10.0.1.2": true, "10.0.1.3": false,
		"::ffff:10.0.0.1": false, "::a00:1": false,
	} {
		if got := r.Contains(netip.MustParseAddr(in)); got != want {
			t.Errorf("%s contains %s: %t", text(r), in, got)
		}
	}
	if r.Contains(netip.Addr{}) || (Range{}).Contains(netip.Addr{}) {
		t.Error("a range contains the zero address")
	}
	for in, want := range map[Range]uint64{
		{}:                                    0,
		r:                                     258,
		between("10.0.0.2", "10.0.0.1"):       0,
		between("10.0.0.1", "10.0.0.1"):       1,
		between("0.0.0.0", "255.255.255.255"): 1 << 32,
		between("fd00::1", "fd00::ffff:ffff:ffff"):  1<<48 - 1,
		between("fd00::1", "fd00:0:0:1::"):          math.MaxUint64,
		between("fd00::2", "fd00:0:0:1::"):          math.MaxUint64,
		between("fd00::3", "fd00:0:0:1::"):          math.MaxUint64 - 1,
		between("fd00::ffff", "fd00:0:0:1::2"):      math.MaxUint64 - 0xfffb,
		between("::", "ffff:ffff:ffff:ffff::"):      math.MaxUint64,
		between("fd00:0:0:1::", "fd00::"):           0,
		between("fd00:0:0:1::", "fd00::ffff"):       0,
		between("fd00::ff", "fd00::100"):            2,
		between("ffff:ffff::", "ffff:ffff:0:1::"):   math.MaxUint64,
		between("fd00::", "fd00::ffff:0:ffff:ffff"): 0xffff0000ffffffff + 1,
	} {
		if got := in.Size(); got != want {
			t.Errorf("%s has %d addresses, want %d", text(in), got, want)
		}
	}
}

// at is n seconds after some time.
func at(n int) time.Time { return time.Date(2026, 11, 24, 12, 0, n, 0, time.UTC) }

func TestPickOrder(t *testing.T) {
	const a, b, c, d = "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"
	all := between(a, d)
	for _, tc := range []struct {
		name   string
		r      Range
		taken  string // of the range
		idle   string // address@when/owner, in the order of being freed
		rested int
		skip   string
		want   string // what comes, until nothing does
	}{
		{"nothing was used", all, "", "", 0, "", "1 2 3 4"},
		{"the lowest first", all, "1 3", "", 0, "", "2 4"},
		{"new before rested", all, "", "1@1 2@2", 9, "", "3 4 1 2"},
		{"rested longest first", all, "", "1@4 2@2 3@3 4@1", 9, "", "4 2 3 1"},
		{"rested at the same time", all, "", "4@1 2@1 3@1 1@1", 9, "", "1 2 3 4"},
		{"rested just now", all, "1 2", "3@5/web 4@6/web", 5, "", "3"},
		{"rested, then without an owner", all, "", "1@1 2@7 3@2/web 4@6", 5, "", "1 3 4 2"},
		{"owned and not rested", all, "1", "2@6/web 3@7/db 4@8/web", 5, "", ""},
		{"without an owner, not rested", all, "1 2", "3@7 4@6", 5, "", "4 3"},
		{"owned by all", all, "", "1@4/a 2@3/b 3@2/c 4@1/d", 9, "", "4 3 2 1"},
		{"skipped", all, "", "1@1 2@2", 9, "1 3", "4 2"},
		{"skipped, all of them", all, "", "1@1/web 2@2 3@3", 2, "1 2 3 4", ""},
		{"skipped for one not rested", all, "1 2", "3@1 4@9", 2, "3", "4"},
		{".0 after the other new ones", between("10.0.0.0", "10.0.0.3"), "", "2@1", 9, "", "1 3 0 2"},
		{".0 was used before", between("10.0.0.0", "10.0.0.3"), "1", "0@1 2@2", 9, "", "3 0 2"},
		{".0 is skipped", between("10.0.0.0", "10.0.0.2"), "", "2@1", 9, "0", "1 2"},
		{".0 of a /31", between("10.0.0.0", "10.0.0.1"), "", "", 9, "", "0 1"},
		{".0 alone", between("10.0.0.0", "10.0.0.0"), "", "", 9, "", "0"},
		{".0 in the middle", between("10.0.0.255", "10.0.1.1"), "", "", 9, "", "255 0 1"},
		{"IPv6 has no .0", between("fd00::100", "fd00::102"), "", "", 9, "", "0 1 2"},
		{"no range", Range{}, "", "", 9, "", ""},
		{"a range without an end", Range{First: netip.MustParseAddr(a)}, "", "", 9, "", ""},
		{"the last addresses", between("255.255.255.254", "255.255.255.255"), "", "", 9, "254 255", ""},
		{"the last addresses of all", between("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffe", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"), "", "", 9, "255", "254"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			addr := func(last string) netip.Addr {
				for a := tc.r.First; ; a = a.Next() {
					if !tc.r.Contains(a) {
						t.Fatalf("%s has no %s", text(tc.r), last)
					}
					if name(a) == last {
						return a
					}
				}
			}
			s := NewSet()
			early := s.View(tc.r)
			for last := range strings.FieldsSeq(tc.taken) {
				s.Take(addr(last))
			}
			for idle := range strings.FieldsSeq(tc.idle) {
				idle, owner, _ := strings.Cut(idle, "/")
				last, when, _ := strings.Cut(idle, "@")
				s.Take(addr(last))
				s.Free(addr(last), Idle{at(int(when[0] - '0')), owner})
			}
			skip := func(a netip.Addr) bool { return slices.Contains(strings.Fields(tc.skip), name(a)) }
			late := s.View(tc.r)
			var got []string
			for v := early; ; {
				a, ok := v.Pick(at(tc.rested), skip)
				if !ok {
					break
				}
				got = append(got, name(a))
				if v == early { // which view is asked makes no difference
					v = late
				} else {
					v = early
				}
			}
			if got := strings.Join(got, " "); got != tc.want {
				t.Errorf("picked %q, want %q", got, tc.want)
			}
			if a, ok := late.Pick(at(tc.rested), skip); ok {
				t.Errorf("picked %s after all", a)
			}
		})
	}
}

// name is the last byte of a.
func name(a netip.Addr) string {
	b := a.AsSlice()
	return netip.AddrFrom4([4]byte{3: b[len(b)-1]}).String()[len("0.0.0."):]
}

func TestClosedView(t *testing.T) {
	s, r := NewSet(), between("10.0.0.1", "10.0.0.9")
	s.Take(r.Last)
	s.Free(r.Last, Idle{Since: at(1)})
	v, other := s.View(r), s.View(r)
	v.Close()
	v.Close()
	if a, ok := v.Pick(at(9), nil); ok {
		t.Errorf("picked %s from a closed view", a)
	}
	s.Take(r.Last)
	s.Free(r.Last, Idle{Since: at(2)})
	if len(v.loose.rests) > 0 {
		t.Error("a closed view fills up")
	}
	if a, ok := other.Pick(at(9), nil); a != r.First || !ok {
		t.Errorf("picked %s, %t from the other view", a, ok)
	}
}

// Addresses of both families whose numbers are alike are not mistaken for each other,
// nor is IPv4 in IPv6 for IPv4.
func TestFamilies(t *testing.T) {
	alike := []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("::a00:1"), netip.MustParseAddr("::ffff:10.0.0.1")}
	s := NewSet()
	for i, a := range alike {
		if s.Taken(a) || !s.Take(a) || !s.Taken(a) {
			t.Errorf("%s is not new", a)
		}
		if got := slices.Collect(s.AllTaken(Range{a, a})); !slices.Equal(got, alike[i:i+1]) {
			t.Errorf("%s came back as %s", a, got)
		}
	}
}

// The monotonic clock counts for nothing: an address freed before and one after a step
// of the clock, or a restart, are of one order.
func TestWallClock(t *testing.T) {
	s, r := NewSet(), between("10.0.0.1", "10.0.0.1")
	now := time.Now()
	s.Take(r.First)
	s.Free(r.First, Idle{Since: now, Owner: "web"})
	if i, ok := s.IdleAt(r.First); !ok || i != (Idle{now.Round(0), "web"}) {
		t.Errorf("idle is %v, %t; want %v", i, ok, now)
	}
	if a, ok := s.View(r).Pick(now, nil); !ok || a != r.First {
		t.Errorf("picked %s, %t of what has rested until now", a, ok)
	}
}

// What is full is found again when it is no longer, at each level of the bitmap.
func TestGaps(t *testing.T) {
	for _, subnet := range []string{"10.0.0.0/8", "fd00::/104"} {
		s, all := NewSet(), rangeOf(t, subnet)
		v := s.View(all)
		fill(s, all.First, 3<<16)
		last := nth(all.First, 3<<16-1)
		for _, hole := range []int{0, 254, 255, 256, 65534, 65535, 131071} {
			a := nth(all.First, hole)
			s.Forget(a)
			if taken, _ := s.Count(all); taken != 3<<16-1 || s.Taken(a) {
				t.Errorf("%d taken without %s", taken, a)
			}
			if got, ok := v.Pick(at(0), nil); got != a || !ok {
				t.Errorf("picked %s, %t; want %s", got, ok, a)
			}
		}
		for _, want := range []netip.Addr{last.Next(), last.Next().Next()} {
			if got, ok := v.Pick(at(0), nil); got != want || !ok {
				t.Errorf("picked %s, %t; want %s", got, ok, want)
			}
		}
		if a, ok := s.View(Range{all.First, last}).Pick(at(9), nil); ok {
			t.Errorf("picked %s of a full range", a)
		}
		for a := range s.AllTaken(all) {
			s.Forget(a)
		}
		if taken, idle := s.Count(all); taken+idle > 0 {
			t.Errorf("%d taken and %d idle after all was forgotten", taken, idle)
		}
		for _, f := range []*family{&s.v4, &s.v6} {
			for b := &f.used; b != nil; b = b.full {
				if len(b.chunks) > 0 {
					t.Errorf("%d chunks are left of nothing", len(b.chunks))
				}
			}
		}
	}
}

// A queue does not grow with the number of changes, in a view that nobody picks from.
func TestQueuesAreBounded(t *testing.T) {
	s, r := NewSet(), between("10.0.0.1", "10.0.0.9")
	v := s.View(r)
	for i := range 10000 {
		a := nth(r.First, i%9)
		s.Take(a)
		s.Free(a, Idle{Since: at(i), Owner: []string{"", "web"}[i%2]})
	}
	if n := len(v.loose.rests) + len(v.owned.rests); n > 20 {
		t.Errorf("%d entries for 9 addresses", n)
	}
	if n := len(s.v4.owned["web"]); n > 9 {
		t.Errorf("%d entries of one owner for 9 addresses", n)
	}
}

// What is left of a queue after most of it went is in order still.
func TestQueueInOrder(t *testing.T) {
	s, r := NewSet(), between("10.0.0.1", "10.0.0.200")
	v := s.View(r)
	random := rand.New(rand.NewPCG(1, 2))
	for _, n := range random.Perm(200) {
		a := nth(r.First, n)
		s.Take(a)
		s.Free(a, Idle{Since: at(n)})
	}
	gone := random.Perm(200)[:120]
	for _, n := range gone {
		s.Take(nth(r.First, n))
	}
	for n := range 200 {
		if slices.Contains(gone, n) {
			continue
		}
		if got, ok := v.Pick(at(200), nil); got != nth(r.First, n) || !ok {
			t.Fatalf("picked %s, %t; want %s", got, ok, nth(r.First, n))
		}
	}
}

func rangeOf(tb testing.TB, subnet string) Range {
	tb.Helper()
	r, err := RangeOf(netip.MustParsePrefix(subnet), netip.Prefix{})
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// nth is the address n after a.
func nth(a netip.Addr, n int) netip.Addr {
	m := numOf(a)
	m.lo += uint64(n)
	return m.addr(a.Is4())
}

// fill takes n addresses from first on.
func fill(s *Set, first netip.Addr, n int) {
	for a := first; n > 0; n-- {
		s.Take(a)
		a = a.Next()
	}
}

// Wherever a view begins it comes round, and a first address that looks like a network's is last.
func TestBegin(t *testing.T) {
	for _, c := range []struct {
		first, last string
		at          uint64
		want        string
	}{
		{"10.0.0.0", "10.0.0.7", 13, "5 6 7 1 2 3 4 0"},
		{"10.0.0.0", "10.0.0.7", 0, "1 2 3 4 5 6 7 0"},
		{"10.0.0.4", "10.0.0.7", 2, "6 7 4 5"},
		{"10.0.0.4", "10.0.0.4", 99, "4"},
	} {
		v := NewSet().View(Range{netip.MustParseAddr(c.first), netip.MustParseAddr(c.last)})
		v.Begin(c.at)
		var got []string
		for a, ok := v.Pick(time.Time{}, nil); ok; a, ok = v.Pick(time.Time{}, nil) {
			got = append(got, fmt.Sprint(a.As4()[3]))
		}
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%s to %s from %d: %s, want %s", c.first, c.last, c.at, text, c.want)
		}
	}
	// IPv6, where a size does not fit.
	v := NewSet().View(Range{netip.MustParseAddr("fd00::1"), netip.MustParseAddr("fd00::ffff:ffff:ffff:ffff")})
	v.Begin(1<<63 + 4)
	if a, ok := v.Pick(time.Time{}, nil); !ok || a != netip.MustParseAddr("fd00::8000:0:0:5") {
		t.Errorf("IPv6: %s, %v", a, ok)
	}
}
