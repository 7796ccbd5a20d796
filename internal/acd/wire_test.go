package acd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
)

func TestNobodyThere(t *testing.T) {
	l := newLAN(t)
	w := start(t, Config{Probe: l.macvlan()})
	for _, addr := range []string{free4, free6} {
		start := time.Now()
		if got := ask(t, w, addr); got != "" {
			t.Errorf("%s is used by %s", addr, got)
		}
		if took := time.Since(start); took < 400*time.Millisecond || took > 2*time.Second {
			t.Errorf("%s took %v, want some 400 ms", addr, took)
		}
	}
}

func TestFarHost(t *testing.T) {
	l := newLAN(t)
	w := start(t, Config{Probe: l.macvlan()})
	for _, addr := range []string{far4, far6} {
		start := time.Now()
		seek(t, w, addr)
		if took := time.Since(start); took > time.Second {
			t.Errorf("%s: the answer took %v", addr, took)
		}
	}
	finds(t, w, mac(t, l.far, "eth0"))
	if out := l.far.IP("neigh show"); strings.Contains(out, mac(t, l.room, "probe")) {
		t.Errorf("the probes left a trace on the far host:\n%s", out)
	}
	// What the far host knows already stays as it is, even if the probe's MAC asks
	// for that very address.
	l.far.IP("neigh replace %s lladdr 02:00:00:00:00:99 dev eth0 nud stale", free4)
	l.far.IP("neigh replace %s lladdr 02:00:00:00:00:99 dev eth0 nud stale", free6)
	ask(t, w, free4)
	ask(t, w, free6)
	out := l.far.IP("neigh show dev eth0")
	for _, want := range []string{free4 + " lladdr 02:00:00:00:00:99 STALE", free6 + " lladdr 02:00:00:00:00:99 STALE"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q on the far host after a probe:\n%s", want, out)
		}
	}
}

// IPv6 may be off where we probe.
func TestRoomWithoutIPv6(t *testing.T) {
	l := newLAN(t)
	probe := l.macvlan()
	set(t, l.room, "ipv6/conf/probe/disable_ipv6", "1")
	finds(t, start(t, Config{Probe: probe}), mac(t, l.far, "eth0"))
}

func TestSibling(t *testing.T) {
	l := newLAN(t)
	l.far.IP("addr flush dev eth0")
	sib := kerneltest.New(t)
	l.child(sib, "sib", "eth1", "macvlan mode bridge")
	l.use(sib, "sib")
	finds(t, start(t, Config{Probe: l.macvlan()}), mac(t, sib, "sib"))
}

// The limits that the package's comment names: the host itself, siblings in other
// modes, and children when the parent is where probes go out.
func TestWhomAProbeDoesNotReach(t *testing.T) {
	l := newLAN(t)
	l.far.IP("addr flush dev eth0")
	l.host.IP("addr add 10.0.0.7/24 dev eth1")
	for mode, addr := range map[string]string{"private": "10.0.0.8", "vepa": "10.0.0.9", "bridge": "10.0.0.10"} {
		sib := kerneltest.New(t)
		l.child(sib, "sib", "eth1", "macvlan mode "+mode)
		sib.IP("addr add %s/24 dev sib", addr)
	}
	child := start(t, Config{Probe: l.macvlan()})
	for _, addr := range []string{"10.0.0.7", "10.0.0.8", "10.0.0.9"} {
		if got := ask(t, child, addr); got != "" {
			t.Errorf("%s was found by a probe from a child: say so in the package's comment", addr)
		}
	}
	parent := start(t, Config{Probe: at(t, l.host, "eth1")})
	for _, addr := range []string{"10.0.0.7", "10.0.0.8", "10.0.0.9", "10.0.0.10"} {
		if got := ask(t, parent, addr); got != "" {
			t.Errorf("%s was found by a probe from the parent: say so in the package's comment", addr)
		}
	}
}

func TestIpvlan(t *testing.T) {
	kerneltest.Need(t, "ipvlan")
	for _, flag := range []string{"bridge", "private", "vepa"} {
		t.Run(flag, func(t *testing.T) {
			l := newLAN(t)
			probe := l.child(l.room, "probe", "eth1", "ipvlan mode l2 "+flag)
			tap := at(t, l.host, "eth1")
			deaf := start(t, Config{Probe: probe})
			if got := ask(t, deaf, far4); got != "" {
				t.Errorf("the answer came without a tap, from %s", got)
			}
			w := start(t, Config{Probe: probe, Tap: tap})
			finds(t, w, mac(t, l.far, "eth0"))

			l.far.IP("addr flush dev eth0")
			sib := kerneltest.New(t)
			l.child(sib, "sib", "eth1", "ipvlan mode l2 "+flag)
			l.use(sib, "sib")
			if flag == "vepa" { // its answer goes to the wire, to the parent's MAC
				if got := ask(t, w, far4); got != "" {
					t.Errorf("%s was found on a vepa sibling: say so in the package's comment", far4)
				}
				return
			}
			finds(t, w, mac(t, l.host, "eth1"))
		})
	}
}

// The host's own address cannot be found from an ipvlan slave either.
func TestIpvlanHost(t *testing.T) {
	kerneltest.Need(t, "ipvlan")
	l := newLAN(t)
	l.host.IP("addr add 10.0.0.7/24 dev eth1")
	w := start(t, Config{Probe: l.child(l.room, "probe", "eth1", "ipvlan mode l2"), Tap: at(t, l.host, "eth1")})
	if got := ask(t, w, "10.0.0.7"); got != "" {
		t.Errorf("the host's address was found: say so in the package's comment")
	}
}

func TestVLANParent(t *testing.T) {
	kerneltest.Need(t, "vlan")
	l := newLAN(t)
	l.host.IP("link add link eth1 name eth1.100 up type vlan id 100")
	l.far.IP("link add link eth0 name eth0.100 up type vlan id 100")
	l.far.IP("addr flush dev eth0")
	l.use(l.far, "eth0.100")
	w := start(t, Config{Probe: l.child(l.room, "probe", "eth1.100", "macvlan mode bridge")})
	finds(t, w, mac(t, l.far, "eth0.100"))
	// Nothing of it is on the untagged wire, if the far host does not itself answer
	// there for all that it has.
	set(t, l.far, "ipv4/conf/all/arp_ignore", "1")
	untagged := start(t, Config{Probe: l.child(l.room, "probe2", "eth1", "macvlan mode bridge"), Tap: at(t, l.host, "eth1")})
	for _, addr := range []string{far4, far6} {
		if got := ask(t, untagged, addr); got != "" {
			t.Errorf("%s of VLAN 100 was found without a tag, at %s", addr, got)
		}
	}
	kerneltest.Need(t, "ipvlan")
	l.host.IP("link add link eth1 name eth1.200 up type vlan id 200")
	l.far.IP("link add link eth0 name eth0.200 up type vlan id 200")
	l.far.IP("link del eth0.100")
	l.use(l.far, "eth0.200")
	w = start(t, Config{Probe: l.child(l.room, "probe3", "eth1.200", "ipvlan mode l2"), Tap: at(t, l.host, "eth1.200")})
	finds(t, w, mac(t, l.far, "eth0.200"))
}

// In passthru mode the parent is the only way out, and has its only child's MAC.
func TestPassthru(t *testing.T) {
	l := newLAN(t)
	box := kerneltest.New(t)
	l.host.IP("link add c link eth1 netns %s address 02:00:00:00:00:77 type macvlan mode passthru", box.Path())
	box.IP("link set c up")
	box.IP("addr add 10.0.0.77/24 dev c")
	parent := at(t, l.host, "eth1")
	var e eye
	w := start(t, Config{Probe: parent, Tap: parent, Seen: e.note})
	finds(t, w, mac(t, l.far, "eth0"))
	// It hears without probes too, and not what the child sends.
	if err := Announce(at(t, box, "c"), nil, netip.MustParseAddr("10.0.0.77")); err != nil {
		t.Error(err)
	}
	if err := Announce(at(t, l.far, "eth0"), nil, netip.MustParseAddr("10.0.0.50")); err != nil {
		t.Error(err)
	}
	eventually(t, "a sighting", func() bool { return e.count("10.0.0.50 used by "+mac(t, l.far, "eth0")) == 1 })
	if strings.Contains(e.String(), "10.0.0.77") {
		t.Errorf("our own was seen:\n%s", &e)
	}
}

// Two hosts want one address at the same time.
func TestTwoProbe(t *testing.T) {
	l := newLAN(t)
	other := kerneltest.New(t)
	l.far.IP("link add probe link eth0 netns %s type macvlan mode bridge", other.Path())
	other.IP("link set probe up")
	here := start(t, Config{Probe: l.macvlan()})
	there := start(t, Config{Probe: at(t, other, "probe")})
	for _, addr := range []string{free4, free6} {
		got := make([]string, 2)
		var both sync.WaitGroup
		for i, w := range []*Wire{here, there} {
			both.Go(func() { got[i] = ask(t, w, addr) })
		}
		both.Wait()
		if got[0] != mac(t, other, "probe") && got[1] != mac(t, l.room, "probe") {
			t.Errorf("%s: one saw %q, the other %q", addr, got[0], got[1])
		}
	}
	// Two on one wire do not see each other.
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			for _, addr := range []string{free4, free6} {
				if got := ask(t, here, addr); got != "" {
					t.Errorf("our own probe for %s, from %s, was taken for another's", addr, got)
				}
			}
		})
	}
	both.Wait()
}

// Two hosts that agree elsewhere on who may have an address ask for it at the same time, and see each other's probes for what they
// are; one that is not of them sees both, and its probe is seen.
func TestTwoProbeTogether(t *testing.T) {
	l := newLAN(t)
	other, third := kerneltest.New(t), kerneltest.New(t)
	for _, h := range []*kerneltest.Host{other, third} {
		l.far.IP("link add probe link eth0 netns %s type macvlan mode bridge", h.Path())
		h.IP("link set probe up")
	}
	mark := func() []byte { return []byte{2, 1, 2, 3, 4, 5} }
	var e eye
	here := start(t, Config{Probe: l.macvlan(), Mark: mark, Seen: e.note})
	there := start(t, Config{Probe: at(t, other, "probe"), Mark: mark, Seen: e.note})
	stranger := start(t, Config{Probe: at(t, third, "probe")})
	atOnce := func(addr string, wires ...*Wire) []string {
		got := make([]string, len(wires))
		var each sync.WaitGroup
		for i, w := range wires {
			each.Go(func() { got[i] = ask(t, w, addr) })
		}
		each.Wait()
		return got
	}
	for _, addr := range []string{free4, free6} {
		if got := atOnce(addr, here, there); got[0] != "" || got[1] != "" || strings.Contains(e.String(), addr) {
			t.Errorf("%s: they saw %q, %s", addr, got, &e)
		}
	}
	for _, addr := range []string{free4, free6} {
		if got := atOnce(addr, here, stranger); got[0] != mac(t, third, "probe") && got[1] != mac(t, l.room, "probe") {
			t.Errorf("%s: one saw %q, the stranger %q", addr, got[0], got[1])
		}
	}
}

// A host that does DAD in the kernel, and wants the address that we ask for.
func TestKernelProbes(t *testing.T) {
	l := newLAN(t)
	var e eye
	w := start(t, Config{Probe: l.macvlan(), Seen: e.note})
	got := make(chan string, 1)
	go func() {
		mac, _ := w.Probe(context.Background(), netip.MustParseAddr(free6), Timing{Num: 1, Listen: 5 * time.Second})
		got <- mac.String()
	}()
	time.Sleep(50 * time.Millisecond) // it sends its probe: the kernel's own comes after
	l.far.IP("addr add %s/64 dev eth0", free6)
	if got := <-got; got != mac(t, l.far, "eth0") {
		t.Errorf("used by %q, want the far host", got)
	}
	if want := free6 + " probed for by " + mac(t, l.far, "eth0"); e.count(want) == 0 {
		t.Errorf("no %q in\n%s", want, &e)
	}
}

func TestSightings(t *testing.T) {
	l := newLAN(t)
	var e eye
	ours := netip.MustParseAddr("10.0.0.51")
	theMAC := mac(t, l.far, "eth0")
	start(t, Config{Probe: l.macvlan(), Seen: e.note, Ours: func(a netip.Addr, m net.HardwareAddr) bool {
		return a == ours && m.String() == theMAC
	}})
	far := at(t, l.far, "eth0")
	for _, addr := range []string{"10.0.0.50", "10.0.0.51", "fd00::50"} {
		if err := Announce(far, nil, netip.MustParseAddr(addr)); err != nil {
			t.Error(err)
		}
	}
	// The same address from another MAC is not ours.
	other := net.HardwareAddr{2, 0, 0, 0, 0, 0x51}
	if err := Announce(far, other, ours); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"10.0.0.50 used by " + theMAC, "fd00::50 used by " + theMAC, "10.0.0.51 used by 02:00:00:00:00:51"} {
		eventually(t, want, func() bool { return e.count(want) == 1 })
	}
	if n := e.count("10.0.0.51 used by " + theMAC); n > 0 {
		t.Errorf("what is ours was seen:\n%s", &e)
	}
	// A resolution says who asks.
	l.far.IP("neigh flush all")
	l.far.NS.Do(func() error {
		c, err := net.Dial("udp4", "10.0.0.200:9")
		if err == nil {
			c.Write([]byte("x"))
			c.Close()
		}
		return err
	})
	want := far4 + " used by " + theMAC
	eventually(t, want, func() bool { return e.count(want) > 0 })
}

func TestOursIsNoConflict(t *testing.T) {
	l := newLAN(t)
	theMAC := mac(t, l.far, "eth0")
	w := start(t, Config{Probe: l.macvlan(), Ours: func(_ netip.Addr, m net.HardwareAddr) bool { return m.String() == theMAC }})
	for _, addr := range []string{far4, far6} {
		if got := ask(t, w, addr); got != "" {
			t.Errorf("%s, which is ours, is used by %s", addr, got)
		}
	}
}

func TestManyAtOnce(t *testing.T) {
	l := newLAN(t)
	var e eye
	w := start(t, Config{Probe: l.macvlan(), Seen: e.note})
	var batch strings.Builder
	for i := range 50 {
		fmt.Fprintf(&batch, "addr add 10.0.1.%d/16 dev eth0\naddr add fd00::1:%x/64 dev eth0 nodad\n", i+1, i+1)
	}
	l.batch(l.far, batch.String())
	theMAC := mac(t, l.far, "eth0")
	start := time.Now()
	var all sync.WaitGroup
	for i := range 100 {
		for _, addr := range []string{fmt.Sprintf("10.0.1.%d", i+1), fmt.Sprintf("fd00::1:%x", i+1)} {
			all.Go(func() {
				pace, want := Quick(), ""
				if i < 50 {
					pace, want = patient(), theMAC
				}
				if got := probeAt(t, w, addr, pace); got != want {
					t.Errorf("%s is used by %q, want %q", addr, got, want)
				}
			})
		}
	}
	all.Wait()
	took := time.Since(start)
	t.Logf("200 probes, half of them IPv6, half of them answered, took %v", took)
	if took > 3*time.Second {
		t.Errorf("200 probes took %v; one takes 0.4 s", took)
	}
	if len(w.probes) > 0 {
		t.Errorf("probes left behind: %v", w.probes)
	}
}

// Frames that are not for us, or for nobody, among which the one that counts is
// still seen.
func TestHostileFrames(t *testing.T) {
	l := newLAN(t)
	var e eye
	w := start(t, Config{Probe: l.macvlan(), Tap: at(t, l.host, "eth1"), Seen: e.note})
	far := raw(t, at(t, l.far, "eth0"), 0)
	good := arpRequest(net.HardwareAddr{2, 0, 0, 0, 0, 1}, netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.1"))
	tagged := func(tag ...byte) []byte {
		return append(append(append([]byte{}, good[:12]...), tag...), good[12:]...)
	}
	change := func(at int, to ...byte) []byte {
		b := append([]byte{}, good...)
		copy(b[at:], to)
		return b
	}
	bad := [][]byte{
		good[:14], good[:20], good[:41],
		tagged(0x81, 0, 0, 100), tagged(0x81, 0, 0, 100, 0x81, 0, 0, 100), tagged(0x88, 0xa8, 0, 5, 0x81, 0, 0, 6),
		change(14, 0, 6), change(16, 0x86, 0xdd), change(18, 8), change(19, 16), change(20, 0, 3), change(20, 0xff, 0xff),
		change(6, 1, 0, 0, 0, 0, 1, 8, 6, 0, 1, 8, 0, 6, 4, 0, 1, 1), // group MACs as source and sender
	}
	flood := func() {
		for i := range 20000 {
			b := bad[i%len(bad)]
			if err := far.Send(b); err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EAGAIN) {
				t.Errorf("%x: %v", b, err)
				return
			}
		}
	}
	var floods sync.WaitGroup
	floods.Go(flood)
	if got := seek(t, w, far4); got != mac(t, l.far, "eth0") {
		t.Errorf("in a flood %s is used by %q", far4, got)
	}
	floods.Wait()
	// What is good still comes through, once the kernel's queues have room again. A
	// priority is no VLAN.
	for what, b := range map[string][]byte{
		"10.0.0.2": change(28, 10, 0, 0, 2),
		"10.0.0.3": append(append(change(28)[:12], 0x81, 0, 0xe0, 0), change(28, 10, 0, 0, 3)[12:]...),
	} {
		eventually(t, what, func() bool {
			if err := far.Send(b); err != nil {
				t.Fatal(err)
			}
			return e.count(what+" used by 02:00:00:00:00:01") > 0
		})
	}
	if strings.Contains(e.String(), "10.0.0.1 ") {
		t.Errorf("bad frames count:\n%s", &e)
	}
}

// A flood of frames that all count, faster than we read: they are lost, not kept.
func TestFlood(t *testing.T) {
	l := newLAN(t)
	var seen atomic.Int32
	over := make(chan struct{})
	w := start(t, Config{Probe: l.macvlan(), Seen: func(Sighting) {
		seen.Add(1)
		<-over
	}})
	far := raw(t, at(t, l.far, "eth0"), 0)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	for i := range 50000 {
		a := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
		far.Send(arpRequest(net.HardwareAddr{2, 0, 0, 0, 0, byte(i)}, a, a))
	}
	close(over)
	if got := seek(t, w, far4); got != mac(t, l.far, "eth0") {
		t.Errorf("after a flood %s is used by %q", far4, got)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if n := seen.Load(); n < 100 || n > 5000 {
		t.Errorf("%d of 50000 frames waited", n)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("a flood left %d bytes", grown)
	}
}

func TestEnds(t *testing.T) {
	l := newLAN(t)
	probe := l.macvlan()
	long := Timing{Num: 1, Listen: time.Minute}
	addr := netip.MustParseAddr(free4)
	background := context.Background()

	w, err := Open(Config{Probe: probe, Tap: at(t, l.host, "eth1")})
	if err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"0.0.0.0", "255.255.255.255", "224.0.0.1", "ff02::1", "::", "127.0.0.1", "::1"} {
		w := start(t, Config{Probe: probe})
		if _, err := w.Probe(background, netip.MustParseAddr(bad), Quick()); err == nil {
			t.Errorf("probed for %s", bad)
		}
	}
	// Before Run a probe waits.
	ctx, cancel := context.WithTimeout(background, 50*time.Millisecond)
	if _, err := w.Probe(ctx, addr, Quick()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without Run: %v", err)
	}
	cancel()
	ran := make(chan error, 1)
	go func() { ran <- w.Run(background) }()
	ctx, cancel = context.WithTimeout(background, 50*time.Millisecond)
	if _, err := w.Probe(ctx, addr, long); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("when ctx ends: %v", err)
	}
	cancel()
	probed := make(chan error, 1)
	go func() {
		_, err := w.Probe(background, addr, long)
		probed <- err
	}()
	eventually(t, "a probe", func() bool { n, _ := w.pair.Underway(); return n == 1 })
	for range 2 {
		if err := w.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	}
	if err := <-probed; !errors.Is(err, ErrClosed) {
		t.Errorf("Probe when the wire was closed: %v", err)
	}
	if err := <-ran; err != nil {
		t.Errorf("Run when the wire was closed: %v", err)
	}
	if _, err := w.Probe(background, addr, long); !errors.Is(err, ErrClosed) {
		t.Errorf("Probe on a closed wire: %v", err)
	}
	for what, c := range map[string]Config{
		"no link":     {Probe: Link{NS: l.room.NS, Index: 4711}},
		"no Ethernet": {Probe: Link{NS: l.room.NS, Index: 1}},
	} {
		if _, err := Open(c); err == nil {
			t.Errorf("opened a wire on %s", what)
		}
	}
}

// A link that goes down and comes back is the same wire; one that goes is its end.
func TestLinkDownAndGone(t *testing.T) {
	l := newLAN(t)
	w, err := Open(Config{Probe: l.macvlan()})
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- w.Run(context.Background()) }()
	l.room.IP("link set probe down")
	if _, err := w.Probe(context.Background(), netip.MustParseAddr(far4), Quick()); !errors.Is(err, unix.ENETDOWN) {
		t.Errorf("Probe on a link that is down: %v", err)
	}
	l.room.IP("link set probe up")
	finds(t, w, mac(t, l.far, "eth0"))
	l.host.IP("link del eth1") // takes its children along
	if err := <-ran; !errors.Is(err, ErrLinkGone) {
		t.Errorf("Run: %v", err)
	}
	if _, err := w.Probe(context.Background(), netip.MustParseAddr(far4), Quick()); !errors.Is(err, ErrClosed) {
		t.Errorf("Probe on a link that is gone: %v", err)
	}
}

// A tap costs nothing while nobody probes.
func TestTapIsOpenForProbesOnly(t *testing.T) {
	l := newLAN(t)
	w := start(t, Config{Probe: l.macvlan(), Tap: at(t, l.host, "eth1")})
	sockets := func() int {
		n := 0
		for line := range strings.Lines(read(t, l.host, "/proc/net/packet")) {
			if f := strings.Fields(line); f[4] == fmt.Sprint(w.conf.Tap.Index) {
				n++
			}
		}
		return n
	}
	for round := range 3 {
		if n := sockets(); n != 0 {
			t.Errorf("round %d: %d sockets on the parent", round, n)
		}
		var probes sync.WaitGroup
		for range 10 {
			probes.Go(func() { ask(t, w, free4) })
		}
		eventually(t, "a tap", func() bool { return sockets() == 1 })
		probes.Wait()
		eventually(t, "the tap's end", func() bool { return sockets() == 0 })
	}
}

// The tap's end is the wire's.
func TestTapGone(t *testing.T) {
	l := newLAN(t)
	l.host.IP("link add t0 type veth peer name t1")
	l.host.IP("link set t0 up")
	w, err := Open(Config{Probe: l.macvlan(), Tap: at(t, l.host, "t0")})
	if err != nil {
		t.Fatal(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- w.Run(context.Background()) }()
	ask(t, w, free4)
	probed := make(chan error, 1)
	go func() {
		_, err := w.Probe(context.Background(), netip.MustParseAddr(free4), Timing{Num: 1, Listen: time.Minute})
		probed <- err
	}()
	eventually(t, "a probe", func() bool { _, tapped := w.pair.Underway(); return tapped })
	l.host.IP("link del t0")
	if err := <-ran; !errors.Is(err, ErrLinkGone) || !strings.Contains(err.Error(), "tap") {
		t.Errorf("Run: %v", err)
	}
	if err := <-probed; !errors.Is(err, ErrClosed) {
		t.Errorf("Probe: %v", err)
	}
}

// The memberships of a wire: ff02::1 always, a solicited-node group while a probe
// needs it.
func TestGroups(t *testing.T) {
	l := newLAN(t)
	w := start(t, Config{Probe: l.macvlan()})
	groups := func() string { return l.room.IP("maddr show dev probe") }
	const node = "33:33:ff:00:00:06"
	if out := groups(); !strings.Contains(out, "33:33:00:00:00:01") || strings.Contains(out, node) {
		t.Errorf("before a probe:\n%s", out)
	}
	var probes sync.WaitGroup
	for range 2 {
		probes.Go(func() { ask(t, w, free6) })
	}
	eventually(t, "membership", func() bool { return strings.Contains(groups(), node) })
	probes.Wait()
	if out := groups(); strings.Contains(out, node) {
		t.Errorf("after the probes:\n%s", out)
	}
}
