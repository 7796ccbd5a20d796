package acd

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/packet"
)

// lan is a test's network: a Docker host whose eth1 is on one wire with the eth0 of
// another host, the far one, which has addresses.
type lan struct {
	t               *testing.T
	host, far, room *kerneltest.Host
}

const far4, far6, free4, free6 = "10.0.0.5", "fd00::5", "10.0.0.6", "fd00::6"

func newLAN(t *testing.T) *lan {
	t.Helper()
	kerneltest.NoLeaks(t)
	l := &lan{t: t, host: kerneltest.New(t), far: kerneltest.New(t), room: kerneltest.New(t)}
	l.host.IP("link add eth1 type veth peer name eth0 netns %s", l.far.Path())
	l.host.IP("link set eth1 up")
	l.far.IP("link set eth0 up")
	l.use(l.far, "eth0")
	return l
}

// use gives a link the two addresses that are in use.
func (l *lan) use(h *kerneltest.Host, name string) {
	l.t.Helper()
	h.IP("addr add %s/24 dev %s", far4, name)
	h.IP("addr add %s/64 dev %s nodad", far6, name)
}

// child makes a child of a link of the host's, in another namespace, up.
func (l *lan) child(in *kerneltest.Host, name, parent, kind string) Link {
	l.t.Helper()
	l.host.IP("link add %s link %s netns %s type %s", name, parent, in.Path(), kind)
	in.IP("link set %s up", name)
	return at(l.t, in, name)
}

func (l *lan) macvlan() Link { return l.child(l.room, "probe", "eth1", "macvlan mode bridge") }

func at(t testing.TB, h *kerneltest.Host, name string) Link {
	t.Helper()
	return Link{NS: h.NS, Index: iface(t, h, name).Index}
}

func mac(t *testing.T, h *kerneltest.Host, name string) string {
	t.Helper()
	return iface(t, h, name).HardwareAddr.String()
}

func iface(t testing.TB, h *kerneltest.Host, name string) *net.Interface {
	t.Helper()
	var i *net.Interface
	if err := h.NS.Do(func() error {
		var err error
		i, err = net.InterfaceByName(name)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return i
}

// eye notes sightings.
type eye struct {
	mu   sync.Mutex // guards seen
	seen []string
}

func (e *eye) note(s Sighting) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.seen = append(e.seen, s.String())
}

func (e *eye) count(s string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	n := 0
	for _, x := range e.seen {
		if x == s {
			n++
		}
	}
	return n
}

func (e *eye) String() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return strings.Join(e.seen, "\n")
}

// start opens a wire and runs it until the end of the test.
func start(t *testing.T, c Config) *Wire {
	t.Helper()
	w, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	kerneltest.Run(t, w.Run)
	return w
}

// ask probes quickly, seek until there is an answer, which a busy machine may take
// longer for. Both return a MAC.
func ask(t *testing.T, w *Wire, addr string) string  { return probeAt(t, w, addr, Quick()) }
func seek(t *testing.T, w *Wire, addr string) string { return probeAt(t, w, addr, patient()) }

func patient() Timing {
	return Timing{Num: 40, Min: 100 * time.Millisecond, Max: 100 * time.Millisecond, Listen: time.Second}
}

func probeAt(t *testing.T, w *Wire, addr string, pace Timing) string {
	t.Helper()
	got, err := w.Probe(context.Background(), netip.MustParseAddr(addr), pace)
	if err != nil {
		t.Error(err)
	}
	return got.String()
}

// finds fails unless the two addresses are found to be used by a MAC, and two others
// to be free.
func finds(t *testing.T, w *Wire, want string) {
	t.Helper()
	for _, addr := range []string{far4, far6} {
		if got := seek(t, w, addr); got != want {
			t.Errorf("%s is used by %q, want %q", addr, got, want)
		}
	}
	for _, addr := range []string{free4, free6} {
		if got := ask(t, w, addr); got != "" {
			t.Errorf("%s, which is free, is used by %s", addr, got)
		}
	}
}

func read(t *testing.T, h *kerneltest.Host, path string) string {
	t.Helper()
	var b []byte
	if err := h.NS.Do(func() error {
		var err error
		b, err = os.ReadFile(strings.Replace(path, "/proc/", "/proc/thread-self/", 1))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// eventually waits for what the kernel or another goroutine is about to do.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 5 s", what)
		}
	}
}

// raw is a socket that sends what it is given, and gets all frames of a protocol.
func raw(t testing.TB, l Link, protocol uint16) *port {
	t.Helper()
	p, err := packet.Open(l, protocol, func(int) error { return nil })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

// next returns the first frame within d that want takes, nil if there is none.
func next(t *testing.T, p *port, d time.Duration, want func([]byte) bool) []byte {
	t.Helper()
	end := time.Now().Add(d)
	buf := make([]byte, maxFrame)
	for {
		n, err := p.ReadUntil(buf, end)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return nil
		}
		if err != nil {
			t.Fatal(err)
		}
		if want(buf[:n]) {
			return buf[:n]
		}
	}
}

func (l *lan) batch(h *kerneltest.Host, lines string) {
	l.t.Helper()
	file := l.t.TempDir() + "/batch"
	if err := os.WriteFile(file, []byte(lines), 0o600); err != nil {
		l.t.Fatal(err)
	}
	h.IP("-batch %s", file)
}

func set(t *testing.T, h *kerneltest.Host, sysctl, value string) {
	t.Helper()
	if err := h.NS.Do(func() error { return os.WriteFile("/proc/sys/net/"+sysctl, []byte(value), 0) }); err != nil {
		t.Fatal(err)
	}
}
