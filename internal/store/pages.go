package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
)

// bbolt trusts what is in a file: of a damaged one it panics, in goroutines of its own too,
// runs in circles or reads what is not there. So a file is read here first, by its format
// (bbolt's internal/common, version 2), in which nothing is believed.

// errDamaged comes of a file that is no state file, or of which something cannot be read.
var errDamaged = errors.New("damaged")

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errDamaged}, args...)...)
}

const (
	boltMagic   = 0xED0CDAED
	boltVersion = 2

	pageHeader = 16 // id uint64, flags uint16, count uint16, overflow uint32
	branchPage = 0x01
	leafPage   = 0x02
	metaPage   = 0x04

	element      = 16 // of a branch and of a leaf alike
	bucketHeader = 16 // root uint64, sequence uint64
	bucketFlag   = 0x01

	maxKey = 4096 // bytes; ours are far shorter
)

var order = binary.NativeEndian

// pages is a file that is read.
type pages struct {
	b    []byte
	size uint64 // of a page, in bytes
	end  uint64 // the first page that is not in use
	root uint64
	seen map[uint64]bool
}

// entry is a key and its value, in a bucket or at the root, where it is a bucket.
type entry struct {
	key, value []byte
	bucket     bool
}

// openPages finds the newest header that is whole.
func openPages(b []byte) (*pages, error) {
	var best *pages
	var newest uint64
	try := func(at uint64) {
		const length = pageHeader + 64
		if at+length > uint64(len(b)) {
			return
		}
		m := b[at+pageHeader:]
		sum := fnv.New64a()
		sum.Write(m[:56])
		size := uint64(order.Uint32(m[8:]))
		if order.Uint32(m) != boltMagic || order.Uint32(m[4:]) != boltVersion || order.Uint64(m[56:]) != sum.Sum64() || size < 1024 || size > 1<<16 {
			return
		}
		if txid := order.Uint64(m[48:]); best == nil || txid > newest {
			newest = txid
			best = &pages{b: b, size: size, end: order.Uint64(m[40:]), root: order.Uint64(m[16:]), seen: map[uint64]bool{}}
		}
	}
	try(0)
	for size := uint64(1024); size <= 1<<16; size <<= 1 {
		try(size) // of the second one, whose place follows from the first
	}
	if best == nil {
		return nil, damaged("it has no header that is whole")
	}
	return best, nil
}

// page is the content of a page behind its header, with its overflow.
func (p *pages) page(id uint64) (content []byte, flags, count uint16, err error) {
	at := id * p.size
	if id < 2 || id >= p.end || at/p.size != id || at+p.size > uint64(len(p.b)) {
		return nil, 0, 0, damaged("page %d is not there", id)
	}
	h := p.b[at:]
	over := uint64(order.Uint32(h[12:]))
	if order.Uint64(h) != id {
		return nil, 0, 0, damaged("page %d says that it is page %d", id, order.Uint64(h))
	}
	if id+over >= p.end || at+(over+1)*p.size > uint64(len(p.b)) {
		return nil, 0, 0, damaged("page %d is longer than the file", id)
	}
	for i := id; i <= id+over; i++ {
		if p.seen[i] {
			return nil, 0, 0, damaged("page %d is in two places", i)
		}
		p.seen[i] = true
	}
	return h[pageHeader : (over+1)*p.size], order.Uint16(h[8:]), order.Uint16(h[10:]), nil
}

// part is length bytes of a page's content from at on.
func part(content []byte, at, length uint64) ([]byte, error) {
	if at > uint64(len(content)) || length > uint64(len(content))-at {
		return nil, damaged("an entry is longer than its page")
	}
	return content[at : at+length : at+length], nil
}

// walk calls each with the entries below a page, in order, which are from the key from on and
// before the key to; nil is no bound. It goes on after what cannot be read, and returns all
// errors; what each returns ends it.
func (p *pages) walk(id uint64, from, to []byte, depth int, each func(entry) error) error {
	if depth > 32 {
		return damaged("page %d is too deep", id)
	}
	content, flags, count, err := p.page(id)
	if err != nil {
		return err
	}
	switch flags {
	case leafPage:
		return leaves(content, count, from, to, each)
	case branchPage:
	default:
		return damaged("page %d is neither a branch nor a leaf", id)
	}
	var errs []error
	type child struct {
		key []byte
		id  uint64
	}
	children := make([]child, 0, count)
	last := from
	for i := range uint64(count) {
		e, err := part(content, i*element, element)
		if err != nil {
			return err
		}
		key, err := keyAt(content, i*element+uint64(order.Uint32(e)), uint64(order.Uint32(e[4:])))
		if err == nil && (last != nil && bytes.Compare(last, key) > 0 || to != nil && bytes.Compare(key, to) >= 0) {
			err = damaged("the keys of page %d are out of order", id)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		last = key
		children = append(children, child{key, order.Uint64(e[8:])})
	}
	if len(children) == 0 {
		errs = append(errs, damaged("page %d is empty", id))
	}
	for i, c := range children {
		until := to
		if i+1 < len(children) {
			until = children[i+1].key
		}
		if err := p.walk(c.id, c.key, until, depth+1, each); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func keyAt(content []byte, at, length uint64) ([]byte, error) {
	if length == 0 || length > maxKey {
		return nil, damaged("a key has %d bytes", length)
	}
	return part(content, at, length)
}

// leaves calls each with the entries of a leaf page.
func leaves(content []byte, count uint16, from, to []byte, each func(entry) error) error {
	var errs []error
	var last []byte
	for i := range uint64(count) {
		at := i * element
		e, err := part(content, at, element)
		if err != nil {
			return errors.Join(append(errs, err)...)
		}
		flags, ksize, vsize := order.Uint32(e), uint64(order.Uint32(e[8:])), uint64(order.Uint32(e[12:]))
		at += uint64(order.Uint32(e[4:]))
		key, err := keyAt(content, at, ksize)
		if err == nil && (last != nil && bytes.Compare(last, key) >= 0 || from != nil && bytes.Compare(key, from) < 0 || to != nil && bytes.Compare(key, to) >= 0) {
			err = damaged("keys are out of order at %.64q", key)
		}
		var value []byte
		if err == nil {
			last = key
			value, err = part(content, at+ksize, vsize)
		}
		if err == nil {
			err = each(entry{key, value, flags&bucketFlag != 0})
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// bucket calls each with the entries of a bucket, whose header is value.
func (p *pages) bucket(value []byte, each func(entry) error) error {
	if len(value) < bucketHeader {
		return damaged("a bucket has no header")
	}
	if root := order.Uint64(value); root != 0 {
		return p.walk(root, nil, nil, 0, each)
	}
	// A small one is in its header's place.
	inline := value[bucketHeader:]
	if len(inline) < pageHeader || order.Uint16(inline[8:]) != leafPage {
		return damaged("a small bucket is no page")
	}
	return leaves(inline[pageHeader:], order.Uint16(inline[10:]), nil, nil, each)
}
