package pool

import (
	"cmp"
	"encoding/binary"
	"iter"
	"math"
	"math/bits"
	"net/netip"
	"slices"
)

// num is an address as a number, of 32 bits (IPv4) or 128.
type num struct{ hi, lo uint64 }

func numOf(a netip.Addr) num {
	b := a.As16()
	n := num{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
	if a.Is4() {
		n = num{lo: n.lo & math.MaxUint32}
	}
	return n
}

func (n num) addr(v4 bool) netip.Addr {
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], n.hi)
	binary.BigEndian.PutUint64(b[8:], n.lo)
	if v4 {
		return netip.AddrFrom4([4]byte(b[12:]))
	}
	return netip.AddrFrom16(b)
}

func (n num) compare(m num) int {
	if n.hi != m.hi {
		return cmp.Compare(n.hi, m.hi)
	}
	return cmp.Compare(n.lo, m.lo)
}

// next is n+1; after the last number comes 0.
func (n num) next() num {
	lo, carry := bits.Add64(n.lo, 1, 0)
	return num{n.hi + carry, lo}
}

// plus is n+d; after the last number comes 0.
func (n num) plus(d uint64) num {
	lo, carry := bits.Add64(n.lo, d, 0)
	return num{n.hi + carry, lo}
}

// prev is n-1; before 0 is the last number.
func (n num) prev() num {
	lo, borrow := bits.Sub64(n.lo, 1, 0)
	return num{n.hi - borrow, lo}
}

// A bitmap keeps numbers in chunks of 256: chunk is the number of n's, bit is n's place in it.
func (n num) chunk() num       { return num{n.hi >> 8, n.hi<<56 | n.lo>>8} }
func (n num) bit() uint8       { return uint8(n.lo) }
func (n num) at(bit uint8) num { return num{n.hi<<8 | n.lo>>56, n.lo<<8 | uint64(bit)} }

// span is a run of numbers, both ends included; none when first is above last.
type span struct{ first, last num }

var nothing = span{first: num{lo: 1}}

func (s span) empty() bool     { return s.first.compare(s.last) > 0 }
func (s span) has(n num) bool  { return s.first.compare(n) <= 0 && n.compare(s.last) <= 0 }
func (s span) chunks() span    { return span{s.first.chunk(), s.last.chunk()} }
func (s span) from(n num) span { return span{n, s.last} }

// size is how many numbers s has, math.MaxUint64 if there are more.
func (s span) size() uint64 {
	lo, borrow := bits.Sub64(s.last.lo, s.first.lo, 0)
	hi, _ := bits.Sub64(s.last.hi, s.first.hi, borrow)
	switch {
	case s.empty():
		return 0
	case hi > 0 || lo == math.MaxUint64:
		return math.MaxUint64
	}
	return lo + 1
}

// chunk is 256 bits.
type chunk [4]uint64

var fullChunk = chunk{math.MaxUint64, math.MaxUint64, math.MaxUint64, math.MaxUint64}

func (c chunk) not() chunk { return chunk{^c[0], ^c[1], ^c[2], ^c[3]} }

// within is what of c, the chunk of number k, is in s, which it touches.
func (c chunk) within(k num, s span) chunk {
	if first := s.first.bit(); k == s.first.chunk() {
		clear(c[:first/64])
		c[first/64] &= math.MaxUint64 << (first % 64)
	}
	if last := s.last.bit(); k == s.last.chunk() {
		c[last/64] &= math.MaxUint64 >> (63 - last%64)
		clear(c[last/64+1:])
	}
	return c
}

func (c chunk) lowest() (bit uint8, ok bool) {
	for i, word := range c {
		if word != 0 {
			return uint8(i*64 + bits.TrailingZeros64(word)), true
		}
	}
	return 0, false
}

// bitmap is a set of numbers. A number costs a bit where they are dense, and some 100
// bytes where each is alone in its chunk. The zero bitmap is empty.
type bitmap struct {
	// chunks by number; an empty one is not there. Chunks are values and without
	// pointers, so that the garbage collector need not look at them.
	chunks map[num]chunk
	// full are the numbers of the chunks that are full. It is a bitmap too, and nil
	// before the first, so that a gap is found in steps of 256, 65536 and so on.
	full *bitmap
}

func (b *bitmap) has(n num) bool {
	bit := n.bit()
	return b.chunks[n.chunk()][bit/64]>>(bit%64)&1 != 0
}

// add puts n into b and reports whether it was not there.
func (b *bitmap) add(n num) bool {
	k, bit := n.chunk(), n.bit()
	c := b.chunks[k]
	if c[bit/64]>>(bit%64)&1 != 0 {
		return false
	}
	if b.chunks == nil {
		b.chunks = map[num]chunk{}
	}
	c[bit/64] |= 1 << (bit % 64)
	b.chunks[k] = c
	if c == fullChunk {
		if b.full == nil {
			b.full = new(bitmap)
		}
		b.full.add(k)
	}
	return true
}

// remove takes n out of b, if it is there.
func (b *bitmap) remove(n num) {
	k, bit := n.chunk(), n.bit()
	c := b.chunks[k]
	if c == fullChunk {
		b.full.remove(k)
	}
	c[bit/64] &^= 1 << (bit % 64)
	if c == (chunk{}) {
		delete(b.chunks, k)
		return
	}
	b.chunks[k] = c
}

// gap is the lowest number of s that is not in b, which may be nil.
func (b *bitmap) gap(s span) (num, bool) {
	if b == nil || s.empty() {
		return s.first, !s.empty()
	}
	k := s.first.chunk()
	if bit, ok := b.chunks[k].not().within(k, s).lowest(); ok {
		return k.at(bit), true
	}
	k, ok := b.full.gap(s.chunks().from(k.next()))
	if !ok {
		return num{}, false
	}
	bit, ok := b.chunks[k].not().within(k, s).lowest()
	return k.at(bit), ok
}

// touching are the numbers of the chunks that have a number in s, in no order.
func (b *bitmap) touching(s span) iter.Seq[num] {
	return func(yield func(num) bool) {
		if s.empty() {
			return
		}
		ks := s.chunks()
		if ks.size() > uint64(len(b.chunks)) {
			for k := range b.chunks {
				if ks.has(k) && !yield(k) {
					return
				}
			}
			return
		}
		for k := ks.first; ks.has(k); k = k.next() {
			if _, ok := b.chunks[k]; ok && !yield(k) {
				return
			}
		}
	}
}

// all are the numbers of s that are in b, in order.
func (b *bitmap) all(s span) iter.Seq[num] {
	return func(yield func(num) bool) {
		for _, k := range slices.SortedFunc(b.touching(s), num.compare) {
			for i, word := range b.chunks[k].within(k, s) {
				for ; word != 0; word &= word - 1 {
					if !yield(k.at(uint8(i*64 + bits.TrailingZeros64(word)))) {
						return
					}
				}
			}
		}
	}
}

// count is how many numbers of s are in b.
func (b *bitmap) count(s span) (total uint64) {
	for k := range b.touching(s) {
		for _, word := range b.chunks[k].within(k, s) {
			total += uint64(bits.OnesCount64(word))
		}
	}
	return total
}
