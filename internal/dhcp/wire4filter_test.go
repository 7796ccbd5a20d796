package dhcp

import (
	"context"
	"net"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
)

// A bridge keeps from those who listen on it what is not for its own MAC address, as
// hardware does and veth links do not, unless it is told otherwise. Kea answers to the MAC
// address that it was asked from, broadcast flag or not.
func TestParentFilters4(t *testing.T) {
	eachIn4(t, bareLab4, func(t *testing.T, l *lab4, s server4) {
		kerneltest.Need(t, "bridge")
		s.start(l, 100, 199)
		l.host.IP("link add br1 type bridge")
		l.host.IP("link set eth1 master br1")
		l.host.IP("link set br1 up")
		parent := link4(t, l.host, "br1")
		l.wire = run4(t, Config{Probe: parent, Tap: parent})
		l.must(Ask{Client: client4(1)})
		if listens := l.host.IP("-d link show br1"); !strings.Contains(listens, "promiscuity 0") {
			t.Errorf("br1 still hears what is for others:\n%s", listens)
		}
	})
}

// lets reports whether a link lets pass what is for a MAC address.
func lets(t *testing.T, h *kerneltest.Host, link string, mac net.HardwareAddr) bool {
	t.Helper()
	var out []byte
	if err := h.NS.Do(func() (err error) {
		out, err = exec.Command("bridge", "fdb", "show", "dev", link).CombinedOutput()
		return err
	}); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	return strings.Contains(string(out), mac.String()+" self")
}

// The parent lets answers pass as long as somebody waits for one, whatever the end.
func TestAnswersPass4(t *testing.T) {
	t.Run("macvlan", func(t *testing.T) {
		answersPass(t, newLab4(t), "eth0", "eth1")
	})
	t.Run("passthru", func(t *testing.T) {
		l := bareLab4(t)
		l.probe = l.tap
		l.wire = run4(t, Config{Probe: l.tap, Tap: l.tap})
		answersPass(t, l, "eth0", "eth1")
	})
	// The hardware is the VLAN's parent.
	t.Run("VLAN", func(t *testing.T) {
		answersPass(t, newVLANLab4(t), "eth0.100", "eth1.100", "eth1")
	})
}

// answersPass has a wire's clients wait for a server on the far host's link, and looks at
// the parent and what that is on.
func answersPass(t *testing.T, l *lab4, far string, parents ...string) {
	one, two, answered := client4(1), client4(2), client4(3)
	pass := func(c Client, want bool) {
		t.Helper()
		all := func() bool {
			return !slices.ContainsFunc(parents, func(p string) bool { return lets(t, l.host, p, c.MAC) != want })
		}
		for end := time.Now().Add(2 * time.Second); !all(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("answers to %s pass: not %t on all of %s", c.MAC, want, parents)
			}
		}
	}
	asked := false
	newFake4(t, l.far, far, func(f *fake4, m *dhcpv4.DHCPv4) [][]byte {
		if m.ClientHWAddr.String() != answered.MAC.String() {
			return nil
		}
		if !asked && !lets(t, l.host, parents[0], answered.MAC) {
			t.Error("asked before an answer could pass")
		}
		asked = true // what comes again may come after the exchange
		return goodOnly(f, m)
	})
	ask := func(w *Wire, c Client) (stop func() error) {
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- second(w.Acquire(ctx, Ask{Client: c})) }()
		return func() error { cancel(); return <-ended }
	}

	stop1 := ask(l.wire, one)
	pass(one, true)
	again := ask(l.wire, one) // asked for twice, it is to pass until nobody asks
	stop2 := ask(l.wire, two)
	pass(two, true)
	stop1()
	pass(one, true)
	again()
	pass(one, false)
	pass(two, true)
	l.must(Ask{Client: answered})
	pass(answered, false)
	if _, err := l.wire.Acquire(within4(t, 20*time.Millisecond), Ask{Client: one}); err == nil {
		t.Error("a lease from nobody")
	}
	pass(one, false)
	pass(two, true)
	stop2()
	pass(two, false)

	// What is for the parent passes anyway: ipvlan's clients have its MAC address.
	own := client4(4)
	own.MAC = mac4(t, strings.Fields(l.host.IP("-br link show %s", parents[0]))[2])
	stop := ask(l.wire, own)
	soon4(t, "it is asked for", func() bool { n, _ := l.wire.pair.Underway(); return n == 1 })
	pass(own, false)
	stop()

	// A wire that ends.
	w, err := Open(Config{Probe: l.probe, Tap: l.tap})
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- w.Run(context.Background()) }()
	stop = ask(w, one)
	pass(one, true)
	w.Close()
	pass(one, false)
	if err := stop(); err == nil {
		t.Error("a lease from a closed wire")
	}
	if err := <-ran; err != nil {
		t.Error(err)
	}
}
