// Package pool keeps the addresses of one wire: which are taken, which were free from
// when, and which one to hand out next. It does no I/O, has no clock and logs nothing.
package pool

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"time"
)

// Range is a run of addresses of one family, both ends included. The zero Range is empty.
type Range struct{ First, Last netip.Addr }

// RangeOf is what a pool may hand out of subnet: all of it, or the part that is in sub
// unless that is the zero Prefix. Left out are the addresses that stand for no single
// host: the first and the last of an IPv4 subnet, unless it is a /31 or a /32 (RFC
// 3021), and the first of an IPv6 subnet, which means any router (RFC 4291, 2.6.1),
// unless it is a /127 or a /128 (RFC 6164). The first and the last of a sub that ends
// elsewhere than subnet does are as good as any other. Bits of the host's part do not
// count in either prefix.
func RangeOf(subnet, sub netip.Prefix) (Range, error) {
	if sub == (netip.Prefix{}) {
		sub = subnet
	}
	for _, p := range []netip.Prefix{subnet, sub} {
		if !p.IsValid() || p.Addr().Is4In6() {
			return Range{}, fmt.Errorf("range of %s: %s is no IPv4 or IPv6 prefix", subnet, p)
		}
	}
	subnet, sub = subnet.Masked(), sub.Masked()
	if sub.Bits() < subnet.Bits() || !subnet.Contains(sub.Addr()) {
		return Range{}, fmt.Errorf("range of %s: %s is not within it", subnet, sub)
	}
	r := Range{sub.Addr(), last(sub)}
	if subnet.Bits() < subnet.Addr().BitLen()-1 {
		if r.First == subnet.Addr() {
			r.First = r.First.Next()
		}
		if r.Last.Is4() && r.Last == last(subnet) {
			r.Last = r.Last.Prev()
		}
	}
	if r.Size() == 0 {
		return Range{}, fmt.Errorf("range of %s: %s holds no address for a host", subnet, sub)
	}
	return r, nil
}

// last is the last address of p.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// Contains reports whether a is in r.
func (r Range) Contains(a netip.Addr) bool {
	return a.IsValid() && r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0
}

// Size is the number of addresses in r, math.MaxUint64 if there are more.
func (r Range) Size() uint64 { return r.span().size() }

func (r Range) span() span {
	if !r.First.IsValid() {
		return nothing
	}
	return span{numOf(r.First), numOf(r.Last)}
}

// Idle says of an address that was used and is free now since when it is, and who may
// come back for it: "" is nobody.
type Idle struct {
	Since time.Time
	Owner string
}

// Set is what is known of the addresses of one wire, of both families. An address is new
// (never used), taken, or idle (it was used and is free now); it is new unless a method
// was called to make it something else. A Set does not lock: two calls at the same time
// are the caller's to prevent, those of a View of it included. Addresses must be valid
// and have no zone.
type Set struct{ v4, v6 family }

// family is the part of a Set that is of one address family.
type family struct {
	is4   bool
	used  bitmap // taken or idle
	idle  bitmap // the keys of rests, for their order
	rests map[num]*rest
	// owned are the rests that have an owner, by that owner, in the order of older.
	owned map[string][]*rest
	views []*View
}

// rest is the time for which an address is idle.
type rest struct {
	Idle
	n    num
	over bool // queues may hold it for a while yet
}

// older orders rests by when they began, then by address.
func older(a, b *rest) int {
	if c := a.Since.Compare(b.Since); c != 0 {
		return c
	}
	return a.n.compare(b.n)
}

// NewSet is a Set in which every address is new.
func NewSet() *Set {
	return &Set{
		v4: family{is4: true, rests: map[num]*rest{}, owned: map[string][]*rest{}},
		v6: family{rests: map[num]*rest{}, owned: map[string][]*rest{}},
	}
}

func (s *Set) family(a netip.Addr) *family {
	if a.Is4() {
		return &s.v4
	}
	return &s.v6
}

// Take makes a taken. It returns false if it is already.
func (s *Set) Take(a netip.Addr) bool { return s.family(a).take(numOf(a)) }

func (f *family) take(n num) bool { return f.used.add(n) || f.wake(n) }

// wake ends n's rest, which leaves it taken. It returns false if n is not idle.
func (f *family) wake(n num) bool {
	r, ok := f.rests[n]
	if !ok {
		return false
	}
	delete(f.rests, n)
	f.idle.remove(n)
	if list := f.owned[r.Owner]; len(list) == 1 {
		delete(f.owned, r.Owner)
	} else if i, ok := slices.BinarySearchFunc(list, r, older); ok {
		f.owned[r.Owner] = slices.Delete(list, i, i+1)
	}
	r.over = true
	for _, v := range f.views {
		if v.span.has(n) {
			v.queue(r).drop()
		}
	}
	return true
}

// Free makes a taken address idle. It returns false if a is not taken. Calls need not
// come in the order of i.Since, of which only the wall clock counts, as it is all that
// outlives the process.
func (s *Set) Free(a netip.Addr, i Idle) bool {
	f, n := s.family(a), numOf(a)
	if !f.taken(n) {
		return false
	}
	i.Since = i.Since.Round(0) // times with and without a monotonic clock have no common order
	r := &rest{Idle: i, n: n}
	f.rests[n] = r
	f.idle.add(n)
	if list := f.owned[i.Owner]; i.Owner != "" {
		at, _ := slices.BinarySearchFunc(list, r, older)
		f.owned[i.Owner] = slices.Insert(list, at, r)
	}
	for _, v := range f.views {
		if v.span.has(n) {
			v.queue(r).add(r)
		}
	}
	return true
}

// Forget makes a new, whatever it was.
func (s *Set) Forget(a netip.Addr) {
	f, n := s.family(a), numOf(a)
	f.wake(n)
	f.used.remove(n)
}

// Taken reports whether a is taken.
func (s *Set) Taken(a netip.Addr) bool { return s.family(a).taken(numOf(a)) }

func (f *family) taken(n num) bool { return f.used.has(n) && !f.idle.has(n) }

// IdleAt is what Free was told of a, if a is idle. Since is without its monotonic clock.
func (s *Set) IdleAt(a netip.Addr) (Idle, bool) {
	if r, ok := s.family(a).rests[numOf(a)]; ok {
		return r.Idle, true
	}
	return Idle{}, false
}

// LastOf is the idle address in r that owner may come back for, the one freed last if
// there are several, and the highest of those freed at the same time. The owner "" has
// none. It costs by the idle addresses of this owner.
func (s *Set) LastOf(owner string, r Range) (netip.Addr, bool) {
	f, in := s.family(r.First), r.span()
	for _, rest := range slices.Backward(f.owned[owner]) {
		if in.has(rest.n) {
			return rest.n.addr(f.is4), true
		}
	}
	return netip.Addr{}, false
}

// Count is how many addresses of r are taken and how many are idle.
func (s *Set) Count(r Range) (taken, idle uint64) {
	f, in := s.family(r.First), r.span()
	idle = f.idle.count(in)
	return f.used.count(in) - idle, idle
}

// AllTaken are the taken addresses of r, in order. The Set may change in the meantime.
func (s *Set) AllTaken(r Range) iter.Seq[netip.Addr] {
	f, in := s.family(r.First), r.span()
	return func(yield func(netip.Addr) bool) {
		for n := range f.used.all(in) {
			if f.taken(n) && !yield(n.addr(f.is4)) {
				return
			}
		}
	}
}

// AllIdle are the idle addresses of r, in order. The Set may change in the meantime.
func (s *Set) AllIdle(r Range) iter.Seq2[netip.Addr, Idle] {
	f, in := s.family(r.First), r.span()
	return func(yield func(netip.Addr, Idle) bool) {
		for n := range f.idle.all(in) {
			if r, ok := f.rests[n]; ok && !yield(n.addr(f.is4), r.Idle) {
				return
			}
		}
	}
}
