package pool

import (
	"container/heap"
	"net/netip"
	"slices"
	"time"
)

// View is what a pool picks from: the addresses of a Set that are in its range. Views
// may overlap; what is taken through one, or from the Set, is taken for all. Each costs
// every change of an idle address in its range a little.
type View struct {
	family *family
	span   span
	// zero is set if the first address ends in .0, which looks like a network's.
	zero bool
	// start is where the search for a new address begins.
	start        num
	owned, loose queue // the idle addresses with and without an owner
}

// View is a view of r. Close it when the pool goes.
func (s *Set) View(r Range) *View {
	f := s.family(r.First)
	v := &View{family: f, span: r.span()}
	v.start = v.span.first
	v.zero = f.is4 && v.span.size() > 2 && byte(v.span.first.lo) == 0
	for n := range f.idle.all(v.span) {
		r := f.rests[n]
		q := v.queue(r)
		q.rests = append(q.rests, r)
	}
	heap.Init(&v.owned)
	heap.Init(&v.loose)
	f.views = append(f.views, v)
	return v
}

// Begin has v pick new addresses from its at-th on, modulo its size, and from its first after the last: hosts
// that share a range and begin at different places seldom pick the same address.
func (v *View) Begin(at uint64) {
	if n := v.span.size(); n > 0 {
		v.start = v.span.first.plus(at % n)
	}
}

// Close ends v: Pick finds nothing from then on. It may be called twice.
func (v *View) Close() {
	f := v.family
	f.views = slices.DeleteFunc(f.views, func(other *View) bool { return other == v })
	*v = View{family: f, span: nothing, start: nothing.first}
}

// Pick takes an address of v's range:
//
//   - the lowest new one, from where v begins, though a first address that ends in .0 only after the others,
//     if there are more than two, because some take it for a network's;
//   - else the idle one that was freed longest ago, if that was at rested or before;
//   - else the idle one without an owner that was freed longest ago: nobody can come
//     back for it, so that its rest is a courtesy only.
//
// Of addresses freed at the same time the lowest comes first. If there is none, Pick
// returns false and changes nothing.
//
// Where skip is not nil it is asked for each candidate, in this order, and one for which
// it returns true is left as it is. It must not change the Set, and must end by itself:
// nothing else stops a skip that refuses all of an IPv6 subnet.
func (v *View) Pick(rested time.Time, skip func(netip.Addr) bool) (netip.Addr, bool) {
	n, ok := v.pickNew(skip)
	if !ok {
		n, ok = v.pickIdle(rested, skip)
	}
	if !ok {
		return netip.Addr{}, false
	}
	v.family.take(n)
	return n.addr(v.family.is4), true
}

func (v *View) refused(n num, skip func(netip.Addr) bool) bool {
	return skip != nil && skip(n.addr(v.family.is4))
}

func (v *View) pickNew(skip func(netip.Addr) bool) (num, bool) {
	first := v.span.first
	parts := []span{v.span}
	if v.start != first {
		parts = []span{v.span.from(v.start), {first, v.start.prev()}}
	}
	if v.zero {
		last := len(parts) - 1
		parts[last].first = first.next()
		parts = append(parts, span{first, first})
	}
	for _, part := range parts {
		for {
			n, ok := v.family.used.gap(part)
			if !ok {
				break
			}
			if !v.refused(n, skip) {
				return n, true
			}
			if n == part.last { // where what is next may be 0
				break
			}
			part.first = n.next()
		}
	}
	return num{}, false
}

func (v *View) pickIdle(rested time.Time, skip func(netip.Addr) bool) (num, bool) {
	var aside []*rest
	defer func() {
		for _, r := range aside {
			heap.Push(v.queue(r), r)
		}
	}()
	for {
		r, owned := v.loose.top(), v.owned.top()
		if owned != nil && !owned.Since.After(rested) && (r == nil || older(owned, r) < 0) {
			r = owned
		}
		if r == nil {
			return num{}, false
		}
		if !v.refused(r.n, skip) {
			return r.n, true
		}
		heap.Pop(v.queue(r))
		aside = append(aside, r)
	}
}

// queue is the one of v's queues that r belongs in.
func (v *View) queue(r *rest) *queue {
	if r.Owner == "" {
		return &v.loose
	}
	return &v.owned
}

// queue is a heap of rests, the oldest on top. Those that are over stay in it until they
// come to the top or are more than the others.
type queue struct {
	rests []*rest
	over  int
}

func (q *queue) add(r *rest) { heap.Push(q, r) }

// drop counts one that is over.
func (q *queue) drop() {
	q.over++
	if q.over > len(q.rests)/2 {
		q.rests = slices.DeleteFunc(q.rests, func(r *rest) bool { return r.over })
		q.over = 0
		heap.Init(q)
	}
}

// top is the oldest that is not over, nil if there is none.
func (q *queue) top() *rest {
	for len(q.rests) > 0 {
		if r := q.rests[0]; !r.over {
			return r
		}
		heap.Pop(q)
		q.over--
	}
	return nil
}

// The methods of heap.Interface.
func (q *queue) Len() int           { return len(q.rests) }
func (q *queue) Less(i, j int) bool { return older(q.rests[i], q.rests[j]) < 0 }
func (q *queue) Swap(i, j int)      { q.rests[i], q.rests[j] = q.rests[j], q.rests[i] }
func (q *queue) Push(r any)         { q.rests = append(q.rests, r.(*rest)) }
func (q *queue) Pop() any {
	last := len(q.rests) - 1
	r := q.rests[last]
	q.rests[last] = nil
	q.rests = q.rests[:last]
	return r
}
