package acd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/lanyard-net/lanyard/internal/netns"
	"github.com/lanyard-net/lanyard/internal/packet"
)

// Announce tells everybody on a link's wire that a MAC has an address now, once:
// by an ARP announcement (RFC 5227 2.3) or an unsolicited neighbour advertisement
// (RFC 4861 7.2.6). Neighbours that know the address change to the MAC; others
// learn nothing. Without a MAC it is the link's own.
//
// It does not block. The errors are an address that no host can have, a link that
// is down, gone or not Ethernet, and a full queue.
func Announce(l Link, mac net.HardwareAddr, addr netip.Addr) error {
	if err := announce(l, mac, plain(addr)); err != nil {
		return fmt.Errorf("announce %s: %w", addr, err)
	}
	return nil
}

func announce(l Link, mac net.HardwareAddr, addr netip.Addr) (err error) {
	if !usable(addr) {
		return errUnusable
	}
	if mac != nil && !station(mac) {
		return fmt.Errorf("%s is not one station's MAC", mac)
	}
	p, err := packet.Sender(l)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.Close()) }()
	own, err := p.MAC()
	if err != nil {
		return err
	}
	if mac == nil {
		mac = own
	}
	if addr.Is4() {
		return p.Send(arpRequest(mac, addr, addr))
	}
	frame, err := advertisement(mac, addr)
	if err != nil {
		return err
	}
	return p.Send(frame)
}

// Ear hears what a namespace sends to announce its addresses: engines from Docker
// 28 on do it themselves, and the kernel does if arp_notify or ndisc_notify is set.
//
// It listens on all links of the namespace, also those that are yet to come, and
// keeps the namespace alive. Kernels before 6.15 have one list of such sockets for
// all namespaces, and clone every frame that the machine sends for them: close it
// soon.
type Ear struct{ port *port }

// NewEar begins to listen in a namespace.
func NewEar(ns *netns.NS) (*Ear, error) {
	p, err := listen(Link{NS: ns}, outgoing)
	if err != nil {
		return nil, fmt.Errorf("listen to a namespace: %w", err)
	}
	return &Ear{p}, nil
}

// Announced waits until all the addresses were announced since NewEar, or until ctx
// ends or the ear is closed, and returns those that were not. It may be called once:
// what it has heard is not kept.
func (e *Ear) Announced(ctx context.Context, addrs []netip.Addr) (missing []netip.Addr) {
	missing = slices.Clone(addrs)
	stop := context.AfterFunc(ctx, e.port.Stop)
	defer stop()
	buf := make([]byte, maxFrame)
	for len(missing) > 0 {
		n, err := e.port.Read(buf)
		if err != nil {
			break
		}
		if u, ok := parse(buf[:n]); ok && u.announces {
			missing = slices.DeleteFunc(missing, func(a netip.Addr) bool { return plain(a) == u.Addr })
		}
	}
	return missing
}

// Close ends Announced. It may be called at any time, once.
func (e *Ear) Close() error { return e.port.Close() }
