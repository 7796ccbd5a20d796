package acd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
)

// A neighbour that uses the address's old MAC at this moment takes the new one at
// once. One that does not know the address learns nothing: arp_accept is off.
func TestAnnounce(t *testing.T) {
	l := newLAN(t)
	c := l.macvlan()
	theMAC := mac(t, l.room, "probe")
	for _, addr := range []string{free4, free6} {
		for _, given := range []string{"", "02:00:00:00:00:42"} {
			l.far.IP("neigh replace %s lladdr 02:00:00:00:00:99 dev eth0 nud reachable", addr)
			m, want := net.HardwareAddr(nil), theMAC
			if given != "" {
				m, want = net.HardwareAddr{2, 0, 0, 0, 0, 0x42}, given
			}
			if err := Announce(c, m, netip.MustParseAddr(addr)); err != nil {
				t.Fatal(err)
			}
			if out := l.far.IP("neigh show %s dev eth0", addr); !strings.Contains(out, "lladdr "+want) {
				t.Errorf("after the announcement of %s at %s: %s", addr, want, out)
			}
		}
	}
	for _, addr := range []string{"10.0.0.60", "fd00::60"} {
		if err := Announce(c, nil, netip.MustParseAddr(addr)); err != nil {
			t.Fatal(err)
		}
		if out := l.far.IP("neigh show"); strings.Contains(out, addr) {
			t.Errorf("a stranger to %s learnt it:\n%s", addr, out)
		}
	}
}

func TestAnnounceErrors(t *testing.T) {
	l := newLAN(t)
	c := l.macvlan()
	addr := netip.MustParseAddr(free4)
	group := net.HardwareAddr{1, 0, 0x5e, 0, 0, 1}
	for what, try := range map[string]func() error{
		"no address":     func() error { return Announce(c, nil, netip.Addr{}) },
		"group address":  func() error { return Announce(c, nil, netip.MustParseAddr("ff02::1")) },
		"group MAC":      func() error { return Announce(c, group, addr) },
		"short MAC":      func() error { return Announce(c, group[:2], addr) },
		"no link":        func() error { return Announce(Link{NS: c.NS, Index: 4711}, nil, addr) },
		"no Ethernet":    func() error { return Announce(Link{NS: c.NS, Index: 1}, nil, addr) },
		"all links":      func() error { return Announce(Link{NS: c.NS}, nil, addr) },
		"mapped, a link": func() error { return Announce(Link{NS: c.NS, Index: -1}, nil, netip.MustParseAddr("::ffff:10.0.0.1")) },
	} {
		if err := try(); err == nil {
			t.Errorf("%s: announced", what)
		}
	}
	l.room.IP("link set probe down")
	if err := Announce(c, nil, addr); !errors.Is(err, unix.ENETDOWN) {
		t.Errorf("on a link that is down: %v", err)
	}
}

func addrs(s ...string) []netip.Addr {
	var out []netip.Addr
	for _, a := range s {
		out = append(out, netip.MustParseAddr(a))
	}
	return out
}

func TestEar(t *testing.T) {
	l := newLAN(t)
	box := kerneltest.New(t)
	for _, c := range []struct {
		name                     string
		sent, others, want, left []netip.Addr
	}{
		{name: "nothing", want: addrs(free4, free6), left: addrs(free4, free6)},
		{name: "nothing wanted"},
		{name: "both", sent: addrs(free4, free6), want: addrs(free6, "::ffff:"+free4)},
		{name: "one, twice", sent: addrs(free4, free4), want: addrs(free4, free6), left: addrs(free6)},
		{name: "another", sent: addrs(far4, far6), want: addrs(free6), left: addrs(free6)},
		{name: "by another host", others: addrs(free4, free6), want: addrs(free4, free6), left: addrs(free4, free6)},
	} {
		t.Run(c.name, func(t *testing.T) {
			ear, err := NewEar(box.NS)
			if err != nil {
				t.Fatal(err)
			}
			defer ear.Close()
			// The link comes after the ear, as a container's does, and is busy otherwise.
			l.host.IP("link add c link eth1 type macvlan mode bridge")
			l.host.IP("link set c netns %s", box.Path())
			box.IP("link set c name eth0 up")
			defer box.IP("link del eth0")
			eth0 := at(t, box, "eth0")
			busy := raw(t, eth0, 0)
			m, err := busy.MAC()
			if err != nil {
				t.Fatal(err)
			}
			probe6, err := solicitation(m, netip.MustParseAddr(free6), nonceOf(bytes.Repeat([]byte{1}, 6)))
			if err != nil {
				t.Fatal(err)
			}
			for _, frame := range [][]byte{arpRequest(m, netip.IPv4Unspecified(), netip.MustParseAddr(free4)), probe6, []byte("no frame at all")} {
				if err := busy.Send(frame); err != nil {
					t.Fatal(err)
				}
			}
			for _, a := range c.sent {
				if err := Announce(eth0, nil, a); err != nil {
					t.Fatal(err)
				}
			}
			for _, a := range c.others {
				if err := Announce(at(t, l.far, "eth0"), nil, a); err != nil {
					t.Fatal(err)
				}
			}
			start := time.Now() // before the time that is given, which is not to seem shorter
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			if missing := ear.Announced(ctx, c.want); !slices.Equal(missing, c.left) {
				t.Errorf("missing %v, want %v", missing, c.left)
			}
			if took := time.Since(start); len(c.left) > 0 && took < 200*time.Millisecond || len(c.left) == 0 && took >= 200*time.Millisecond {
				t.Errorf("it took %v to find %v missing", took, c.left)
			}
		})
	}
}

// What the kernel announces by itself counts too.
func TestEarHearsTheKernel(t *testing.T) {
	l := newLAN(t)
	box := kerneltest.New(t)
	ear, err := NewEar(box.NS)
	if err != nil {
		t.Fatal(err)
	}
	defer ear.Close()
	l.host.IP("link add c link eth1 netns %s type macvlan mode bridge", box.Path())
	set(t, box, "ipv4/conf/c/arp_notify", "1")
	set(t, box, "ipv6/conf/c/ndisc_notify", "1")
	box.IP("addr add %s/24 dev c", free4)
	box.IP("addr add %s/64 dev c nodad", free6)
	box.IP("link set c up")
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if missing := ear.Announced(ctx, addrs(free4, free6)); len(missing) > 0 {
		t.Errorf("missing %v", missing)
	}
}

func TestEarClose(t *testing.T) {
	kerneltest.NoLeaks(t)
	ear, err := NewEar(kerneltest.New(t).NS)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(50*time.Millisecond, func() { ear.Close() })
	if missing := ear.Announced(context.Background(), addrs(free4)); len(missing) != 1 {
		t.Errorf("missing %v", missing)
	}
}

// The frames that go out, as a capture shows them, and their pace.
func TestWhatAProbeSends(t *testing.T) {
	l := newLAN(t)
	w := start(t, Config{Probe: l.macvlan()})
	set(t, l.room, "ipv6/conf/probe/disable_ipv6", "1") // it sends by itself
	far := raw(t, at(t, l.far, "eth0"), unix.ETH_P_ALL)
	m, err := w.port.MAC()
	if err != nil {
		t.Fatal(err)
	}
	h := fmt.Sprintf("%x", []byte(m))
	for addr, want := range map[string]string{
		"10.0.0.6": "ffffffffffff" + h + "0806" + "0001080006040001" + h + "00000000" + "000000000000" + "0a000006",
		"fd00::6": "3333ff000006" + h + "86dd" + "6000000000203aff" + strings.Repeat("00", 16) + "ff0200000000000000000001ff000006" +
			"8700xxxx00000000" + "fd000000000000000000000000000006" + "0e01" + w.nonce.String(),
	} {
		start := time.Now()
		done := make(chan error, 1)
		go func() {
			_, err := w.Probe(context.Background(), netip.MustParseAddr(addr), Quick())
			done <- err
		}()
		for i := range 4 {
			got := next(t, far, 300*time.Millisecond, func(b []byte) bool { return bytes.Equal(source(b), m) })
			if i == 3 {
				if got != nil {
					t.Errorf("a fourth frame: %x", got)
				}
				break
			}
			hex := fmt.Sprintf("%x", got)
			if strings.Contains(want, "x") && len(hex) > 116 {
				hex = hex[:112] + "xxxx" + hex[116:]
			}
			if hex != want {
				t.Errorf("frame %d for %s:\n%s, want\n%s", i, addr, hex, want)
			}
			if at := time.Since(start); at < time.Duration(i)*100*time.Millisecond {
				t.Errorf("frame %d came after %v", i, at)
			}
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// Why the sockets are what they are: on the kernel that runs the test, only
// ETH_P_ALL sees what a parent's rx_handler takes.
func TestWhatSocketsSee(t *testing.T) {
	l := newLAN(t)
	l.macvlan()
	toChild := iface(t, l.room, "probe").HardwareAddr
	parent := at(t, l.host, "eth1")
	far := raw(t, at(t, l.far, "eth0"), 0)
	arp, all := raw(t, parent, unix.ETH_P_ARP), raw(t, parent, unix.ETH_P_ALL)
	filtered, err := listen(parent, incoming)
	if err != nil {
		t.Fatal(err)
	}
	defer filtered.Close()
	m, err := far.MAC()
	if err != nil {
		t.Fatal(err)
	}
	frame := arpRequest(m, netip.MustParseAddr(far4), netip.MustParseAddr(far4))
	copy(frame, toChild)
	if err := far.Send(frame); err != nil {
		t.Fatal(err)
	}
	same := func(b []byte) bool { return bytes.Equal(b, frame) }
	if next(t, all, time.Second, same) == nil {
		t.Error("a socket for ETH_P_ALL on the parent does not see a child's frame")
	}
	if next(t, filtered, time.Second, same) == nil {
		t.Error("our socket on the parent does not see a child's frame")
	}
	if next(t, arp, 100*time.Millisecond, same) != nil {
		t.Error("a socket for ETH_P_ARP on the parent sees a child's frame: no need for ETH_P_ALL")
	}
	// What a child sends goes out of the parent too.
	sent := arpRequest(toChild, netip.MustParseAddr(free4), netip.MustParseAddr(free4))
	same = func(b []byte) bool { return bytes.Equal(b, sent) }
	if err := Announce(at(t, l.room, "probe"), nil, netip.MustParseAddr(free4)); err != nil {
		t.Fatal(err)
	}
	if next(t, all, time.Second, same) == nil {
		t.Error("a socket for ETH_P_ALL on the parent does not see what a child sends: no need to ignore it")
	}
	if next(t, filtered, 100*time.Millisecond, same) != nil {
		t.Error("our socket on the parent sees what a child sends")
	}
}
