// Package antispoof makes the programs (eBPF, of the type sched_cls) that keep a container
// to its own MAC address and its own addresses.
//
// Two of them work together. A child's is on the egress of the link in the container: it
// looks at all that the container sends, to the LAN and to its siblings, and drops what
// has another sender than the container in its Ethernet, ARP, IPv4 or IPv6 header or its neighbour
// advertisements. A container with CAP_NET_ADMIN could take it off. So it also puts a
// token into the mark (SO_MARK) of what it lets pass, one for each pair of MAC address and address,
// and a port's, on the egress of the parent in the host's namespace, lets nothing of
// a child's leave the host but what has the token of its pair. What a container could
// learn of tokens are those of its own pairs.
//
// The parent of ipvlan links has no port: they have its MAC address, and so has the host.
package antispoof

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Own is what a container may send from.
type Own struct {
	MAC net.HardwareAddr
	// Addrs are its addresses. Those of IPv6 that it makes of its MAC address, link-local ones and others,
	// are its own as well.
	Addrs []netip.Addr
	// Shared says that the MAC address is the parent's (ipvlan).
	Shared bool
}

// Secret is what tokens are made of, which no container may know.
type Secret []byte

// Daemon is the token of the daemon's own frames, which it sends for containers that have
// no link yet.
func (s Secret) Daemon() uint32 { return s.token([]byte("daemon")) }

func (s Secret) token(of []byte) uint32 {
	h := hmac.New(sha256.New, s)
	h.Write([]byte("antispoof "))
	h.Write(of)
	return max(1, binary.NativeEndian.Uint32(h.Sum(nil))) // 0 is no mark
}

// A port's maps have a MAC address as 8 bytes, and a pair as that and an address of 16.
const (
	macKeyLen = 8
	pairLen   = macKeyLen + 16
)

// sender is an address that a container may send from, and those that it stands for.
type sender struct {
	addr netip.Addr
	// mask is which of its bits count, for IPv6; all where it is zero.
	mask [16]byte
}

// senders are all addresses that a container may send from: its own ones, those that it makes of its MAC
// address, and none (RFC 5227 2.1.1, RFC 4862 5.4.2).
func (o Own) senders() []sender {
	all := []sender{{addr: netip.IPv4Unspecified()}, {addr: netip.IPv6Unspecified()}}
	for _, a := range o.Addrs {
		if a = a.Unmap(); a.IsValid() && !a.IsUnspecified() {
			all = append(all, sender{addr: a.WithZone("")})
		}
	}
	var id, mask [16]byte
	m := o.MAC
	if o.Shared {
		// The kernel puts the number of the slave in the middle (addrconf_ifid_eui48).
		copy(id[8:], []byte{m[0], m[1], m[2], 0, 0, m[3], m[4], m[5]})
		copy(mask[8:], []byte{0xff, 0xff, 0xff, 0, 0, 0xff, 0xff, 0xff})
	} else {
		copy(id[8:], []byte{m[0] ^ 2, m[1], m[2], 0xff, 0xfe, m[3], m[4], m[5]}) // RFC 4291 A
		copy(mask[8:], []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	}
	return append(all, sender{addr: netip.AddrFrom16(id), mask: mask})
}

// pair is a sender as a port's map has it: the MAC address and the address.
func (o Own) pair(s sender) []byte {
	addr := s.addr.As16()
	return append(macKey(o.MAC), addr[:]...)
}

// macKey is a MAC address as a port's maps have it.
func macKey(mac net.HardwareAddr) []byte { return append(mac[:6:6], 0, 0) }

var errMAC = errors.New("not an Ethernet address")

// Child is the program for the link in a container. The caller closes it; on a link it
// stays for as long as that.
func Child(o Own, s Secret) (*ebpf.Program, error) {
	if len(o.MAC) != 6 {
		return nil, errMAC
	}
	return load("lanyard_child", childProgram(o, s))
}

// Port is a parent's program and what it goes by. Its methods may be called at the same time.
type Port struct {
	secret  Secret
	program *ebpf.Program
	pairs   *ebpf.Map // pair to token; 0: any mark will do
	exempt  *ebpf.Map // MAC address

	mu   sync.Mutex      // guards what follows
	free map[string]bool // what is in exempt
}

// maxPairs is how many senders a parent can have: some five for each container.
const maxPairs = 1 << 18

// NewPort loads a program that lets nothing pass but what has the daemon's token, VLAN tags
// (which is that of the parent's sub-interfaces), or what it is told. The caller closes the port; on a parent
// the program stays as it is then.
func NewPort(s Secret) (p *Port, err error) {
	p = &Port{secret: s, free: map[string]bool{}}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	// Before 5.11 maps count as locked memory. It may fail where there is no need for it.
	_ = unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY})
	if p.pairs, err = newMap("lanyard_pairs", pairLen, 4); err != nil {
		return nil, err
	}
	if p.exempt, err = newMap("lanyard_exempt", macKeyLen, 1); err != nil {
		return nil, err
	}
	p.program, err = load("lanyard_port", portProgram(s.Daemon(), p.pairs.FD(), p.exempt.FD()))
	return p, err
}

func newMap(name string, key, value uint32) (*ebpf.Map, error) {
	const noPrealloc = 1 // BPF_F_NO_PREALLOC
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: name, Type: ebpf.Hash, KeySize: key, ValueSize: value, MaxEntries: maxPairs, Flags: noPrealloc})
	if err != nil {
		return nil, fmt.Errorf("eBPF map: %w", err)
	}
	return m, nil
}

// FD is the program's file descriptor, which Close closes.
func (p *Port) FD() int { return p.program.FD() }

// Close lets program and maps go, from what they are not on.
func (p *Port) Close() {
	for _, m := range []*ebpf.Map{p.pairs, p.exempt} {
		if m != nil {
			m.Close()
		}
	}
	if p.program != nil {
		p.program.Close()
	}
}

// Exempt makes these the MAC addresses that may send anything: the parent's own, those of the host's
// other links on it, and of containers that are not kept to anything.
func (p *Port) Exempt(macs []net.HardwareAddr) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	want := map[string]bool{}
	for _, mac := range macs {
		if len(mac) != 6 {
			continue
		}
		key := string(macKey(mac))
		if want[key] = true; !p.free[key] {
			errs = append(errs, put(p.exempt, []byte(key), []byte{1}))
		}
	}
	for key := range p.free {
		if !want[key] {
			errs = append(errs, ignoreMissing(p.exempt.Delete([]byte(key))))
		}
	}
	p.free = want
	return errors.Join(errs...)
}

// Put lets a container send. Until its link has the child's program, early says that marks
// are not looked at.
func (p *Port) Put(o Own, early bool) error {
	if len(o.MAC) != 6 {
		return errMAC
	}
	var errs []error
	for _, s := range o.senders() {
		key := o.pair(s)
		var token uint32
		if !early {
			token = p.secret.token(key)
		}
		errs = append(errs, put(p.pairs, key, binary.NativeEndian.AppendUint32(nil, token)))
	}
	return errors.Join(errs...)
}

// Drop undoes Put, but for what keep may still send from; keep may be nil.
func (p *Port) Drop(o Own, keep *Own) error {
	if len(o.MAC) != 6 {
		return errMAC
	}
	kept := map[string]bool{}
	if keep != nil && len(keep.MAC) == 6 {
		for _, s := range keep.senders() {
			kept[string(keep.pair(s))] = true
		}
	}
	var errs []error
	for _, s := range o.senders() {
		if key := o.pair(s); !kept[string(key)] {
			errs = append(errs, ignoreMissing(p.pairs.Delete(key)))
		}
	}
	return errors.Join(errs...)
}

// put sets a key of a map. The kernel gets memory for the elements of a map in the background, and says
// that it has none until then.
func put(m *ebpf.Map, key, value []byte) (err error) {
	for range 100 {
		if err = m.Put(key, value); !errors.Is(err, unix.ENOMEM) {
			return err
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

func ignoreMissing(err error) error {
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return nil
	}
	return err
}
