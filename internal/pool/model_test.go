package pool

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// The ranges of the model: those that overlap, those that begin and end at and off the
// edges of a chunk, and the last of each family. They are small: the model goes through
// them address by address.
var ranges = []Range{
	between("10.0.0.0", "10.0.0.4"),
	between("10.0.0.3", "10.0.0.9"),
	between("10.0.0.250", "10.0.1.5"),
	between("10.0.1.0", "10.0.1.1"),
	between("10.0.1.0", "10.0.1.255"),
	between("10.0.0.1", "10.0.3.254"),
	between("255.255.255.253", "255.255.255.255"),
	between("fd00::1", "fd00::9"),
	between("fd00::5", "fd00::103"),
	between("fd00::fe", "fd00::203"),
	between("ffff:ffff:ffff:ffff:ffff:ffff:ffff:fffc", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
}

var owners = []string{"", "", "web", "db"}

// model is a Set as one would write it if it could be slow.
type model struct {
	taken map[netip.Addr]bool
	idle  map[netip.Addr]Idle
}

func addrs(r Range) (list []netip.Addr) {
	for a := r.First; r.Contains(a); a = a.Next() {
		list = append(list, a)
	}
	return list
}

// resting are the idle addresses of r, those freed first first.
func (m *model) resting(r Range) (list []netip.Addr) {
	for a := range m.idle {
		if r.Contains(a) {
			list = append(list, a)
		}
	}
	slices.SortFunc(list, func(a, b netip.Addr) int {
		return cmp.Or(m.idle[a].Since.Compare(m.idle[b].Since), a.Compare(b))
	})
	return list
}

// candidates are what Pick may take of r, in its order.
func (m *model) candidates(r Range, rested time.Time) (list []netip.Addr) {
	for _, a := range addrs(r) {
		if _, idle := m.idle[a]; !idle && !m.taken[a] {
			list = append(list, a)
		}
	}
	if r.Size() > 2 && r.First.Is4() && r.First.As4()[3] == 0 && len(list) > 0 && list[0] == r.First {
		list = append(list[1:], r.First)
	}
	resting := m.resting(r)
	for _, a := range resting {
		if !m.idle[a].Since.After(rested) {
			list = append(list, a)
		}
	}
	for _, a := range resting {
		if m.idle[a].Since.After(rested) && m.idle[a].Owner == "" {
			list = append(list, a)
		}
	}
	return list
}

func (m *model) lastOf(owner string, r Range) (netip.Addr, bool) {
	for _, a := range slices.Backward(m.resting(r)) {
		if owner != "" && m.idle[a].Owner == owner {
			return a, true
		}
	}
	return netip.Addr{}, false
}

// twin is a Set with its model, to which the same is done.
type twin struct {
	model
	set   *Set
	views []*View
	of    []Range // of each view
}

func newTwin() *twin {
	return &twin{model: model{map[netip.Addr]bool{}, map[netip.Addr]Idle{}}, set: NewSet()}
}

// tester is what testing.T and rapid.T have in common here.
type tester interface {
	Helper()
	Fatalf(format string, args ...any)
}

// step does one thing that choose chooses, of which choose(what, n) is 0 to n-1.
func (w *twin) step(t tester, choose func(what string, n int) int) {
	t.Helper()
	r := ranges[choose("range", len(ranges))]
	anyOf := func() netip.Addr { return nth(r.First, choose("address", int(r.Size()))) }
	switch choose("operation", 10) {
	case 0:
		w.take(t, anyOf())
	case 1: // all of a range, so that some become full
		for _, a := range addrs(r) {
			w.take(t, a)
		}
	case 2, 3:
		w.free(t, anyOf(), Idle{at(choose("when", 9)), owners[choose("owner", len(owners))]})
	case 4: // some of a range
		i, each := Idle{at(choose("when", 9)), owners[choose("owner", len(owners))]}, 1+choose("each", 7)
		for n, a := range addrs(r) {
			if n%each == 0 {
				w.free(t, a, i)
			}
		}
	case 5:
		a := anyOf()
		w.set.Forget(a)
		delete(w.taken, a)
		delete(w.idle, a)
	case 6:
		w.views, w.of = append(w.views, w.set.View(r)), append(w.of, r)
	case 7:
		if len(w.views) > 0 {
			i := choose("view", len(w.views))
			w.views[i].Close()
			if a, ok := w.views[i].Pick(at(9), nil); ok {
				t.Fatalf("picked %s from a closed view", a)
			}
			w.views, w.of = slices.Delete(w.views, i, i+1), slices.Delete(w.of, i, i+1)
		}
	default:
		if len(w.views) > 0 {
			i := choose("view", len(w.views))
			w.pick(t, w.views[i], w.of[i], at(choose("rested", 10)-1), choose("kept", 5))
		}
	}
}

func (w *twin) take(t tester, a netip.Addr) {
	t.Helper()
	if got := w.set.Take(a); got == w.taken[a] {
		t.Fatalf("take %s is %t", a, got)
	}
	w.taken[a] = true
	delete(w.idle, a)
}

func (w *twin) free(t tester, a netip.Addr, i Idle) {
	t.Helper()
	if got := w.set.Free(a, i); got != w.taken[a] {
		t.Fatalf("free %s is %t", a, got)
	}
	if w.taken[a] {
		delete(w.taken, a)
		w.idle[a] = i
	}
}

// pick has skip refuse every address but each kept-th; 0 is no skip.
func (w *twin) pick(t tester, v *View, r Range, rested time.Time, kept int) {
	t.Helper()
	var skip func(netip.Addr) bool
	var asked, wantAsked []netip.Addr
	refuse := func(a netip.Addr) bool { return kept > 0 && numOf(a).lo%uint64(kept) != 0 }
	if kept > 0 {
		skip = func(a netip.Addr) bool {
			asked = append(asked, a)
			return refuse(a)
		}
	}
	var want netip.Addr
	for _, a := range w.candidates(r, rested) {
		if kept > 0 {
			wantAsked = append(wantAsked, a)
		}
		if !refuse(a) {
			want = a
			break
		}
	}
	got, ok := v.Pick(rested, skip)
	if got != want || ok != want.IsValid() {
		t.Fatalf("picked %s, %t of %s; want %s", got, ok, text(r), want)
	}
	if !slices.Equal(asked, wantAsked) {
		t.Fatalf("pick of %s asked for %s, want %s", text(r), asked, wantAsked)
	}
	if ok && w.taken[got] {
		t.Fatalf("picked %s, which is taken", got)
	}
	if ok {
		w.taken[got] = true
		delete(w.idle, got)
	}
}

// check compares all that the Set says with the model.
func (w *twin) check(t tester) {
	t.Helper()
	for _, r := range ranges {
		var taken, idle []netip.Addr
		for _, a := range addrs(r) {
			i, is := w.set.IdleAt(a)
			if want, wanted := w.idle[a]; i != want || is != wanted {
				t.Fatalf("%s is idle: %v, %t; want %v, %t", a, i, is, want, wanted)
			}
			if got := w.set.Taken(a); got != w.taken[a] {
				t.Fatalf("%s is taken: %t", a, got)
			}
			if w.taken[a] {
				taken = append(taken, a)
			} else if is {
				idle = append(idle, a)
			}
		}
		if got := slices.Collect(w.set.AllTaken(r)); !slices.Equal(got, taken) {
			t.Fatalf("taken of %s: %s, want %s", text(r), got, taken)
		}
		var got []netip.Addr
		for a, i := range w.set.AllIdle(r) {
			got = append(got, a)
			if i != w.idle[a] {
				t.Fatalf("%s is idle: %v, want %v", a, i, w.idle[a])
			}
		}
		if !slices.Equal(got, idle) {
			t.Fatalf("idle of %s: %s, want %s", text(r), got, idle)
		}
		for range w.set.AllTaken(r) {
			break // panics if it goes on
		}
		for range w.set.AllIdle(r) {
			break
		}
		if nt, ni := w.set.Count(r); nt != uint64(len(taken)) || ni != uint64(len(idle)) {
			t.Fatalf("count of %s: %d and %d, want %d and %d", text(r), nt, ni, len(taken), len(idle))
		}
		for _, owner := range owners {
			got, ok := w.set.LastOf(owner, r)
			if want, is := w.lastOf(owner, r); got != want || ok != is {
				t.Fatalf("last of %q in %s: %s, %t; want %s, %t", owner, text(r), got, ok, want, is)
			}
		}
	}
	w.checkInside(t)
}

// checkInside holds the Set to what its fields say of each other.
func (w *twin) checkInside(t tester) {
	t.Helper()
	for _, f := range []*family{&w.set.v4, &w.set.v6} {
		whole := span{last: numOf(netip.MustParseAddr("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"))}
		keys := slices.SortedFunc(maps.Keys(f.rests), num.compare)
		if idle := slices.Collect(f.idle.all(whole)); !slices.Equal(idle, keys) {
			t.Fatalf("idle: %v, of which there is a rest: %v", idle, keys)
		}
		owned := 0
		for owner, list := range f.owned {
			owned += len(list)
			for _, r := range list {
				if owner == "" || r.Owner != owner || f.rests[r.n] != r {
					t.Fatalf("%v is a rest of %q", r, owner)
				}
			}
		}
		for _, r := range f.rests {
			if r.Owner == "" {
				owned++
			}
		}
		if owned != len(f.rests) {
			t.Fatalf("%d rests, of which %d by owner", len(f.rests), owned)
		}
		for _, v := range f.views {
			alive := 0
			for _, q := range []*queue{&v.owned, &v.loose} {
				over := 0
				for i, r := range q.rests {
					if up := q.rests[max(0, i-1)/2]; older(up, r) > 0 {
						t.Fatalf("%v is queued below %v", r, up)
					}
					if r.over {
						over++
					} else if f.rests[r.n] != r || v.queue(r) != q || !v.span.has(r.n) {
						t.Fatalf("%v is queued", r)
					}
				}
				if over != q.over || over > len(q.rests)/2 {
					t.Fatalf("%d of %d are over, %d were counted", over, len(q.rests), q.over)
				}
				alive += len(q.rests) - over
			}
			if want := f.idle.count(v.span); uint64(alive) != want {
				t.Fatalf("%d are queued, %d are idle", alive, want)
			}
		}
		for _, b := range []*bitmap{&f.used, &f.idle} {
			for ; b != nil; b = b.full {
				for k, c := range b.chunks {
					if c == (chunk{}) || (c == fullChunk) != (b.full != nil && b.full.has(k)) {
						t.Fatalf("chunk %v is %x", k, c)
					}
				}
			}
		}
	}
}

func TestModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newTwin()
		choose := func(what string, n int) int { return rapid.IntRange(0, n-1).Draw(t, what) }
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			w.step(t, choose)
			w.check(t)
		}
	})
}

func FuzzSet(f *testing.F) {
	f.Add([]byte{0, 6, 0, 8, 0, 9, 0, 0, 8, 0, 9, 2, 0, 2, 0, 1, 2, 3, 9, 0, 0, 0})
	f.Add([]byte{5, 6, 4, 1, 4, 4, 3, 1, 2, 5, 9, 0, 9, 0, 5, 9, 0, 2, 3, 0, 7, 0})
	f.Add([]byte{10, 1, 10, 6, 10, 4, 3, 2, 1, 0, 8, 0, 0, 1, 10, 8, 0, 9, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		w := newTwin()
		choose := func(_ string, n int) int {
			if len(in) == 0 {
				return 0
			}
			i := int(in[0])
			if in = in[1:]; n > 256 && len(in) > 0 {
				i = i<<8 | int(in[0])
				in = in[1:]
			}
			return i % n
		}
		for steps := 0; len(in) > 0 && steps < 100; steps++ {
			w.step(t, choose)
		}
		w.check(t)
	})
}
