// Package kerneltest gives tests a real kernel to work on: a fresh network
// namespace each, and a word on what this kernel has.
package kerneltest

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/netns"
)

// FullKernel is the environment variable that tells tests that the kernel ought
// to have everything: what would be skipped fails then.
const FullKernel = "LANYARD_FULL_KERNEL"

// Host is a network namespace of a test's own.
type Host struct {
	NS *netns.NS
	t  testing.TB
}

// New makes a namespace that ends with the test. Without the rights to make one
// the test is skipped, or fails where the kernel ought to have everything.
func New(t testing.TB) *Host {
	t.Helper()
	if os.Geteuid() != 0 {
		skip(t, "not root")
	}
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Close() })
	return &Host{NS: ns, t: t}
}

// Veth makes a pair of veth links, the wire of a test, both up.
func (h *Host) Veth(a, b string) {
	h.t.Helper()
	h.IP("link add %s type veth peer name %s", a, b)
	h.IP("link set %s up", a)
	h.IP("link set %s up", b)
}

// IP runs ip(8) in the namespace and returns what it prints; a failure ends the
// test.
func (h *Host) IP(format string, args ...any) string {
	h.t.Helper()
	out, err := h.TryIP(format, args...)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// TryIP is IP for commands that may fail.
func (h *Host) TryIP(format string, args ...any) (string, error) {
	return h.try("ip", fmt.Sprintf(format, args...))
}

// TC is IP for tc(8).
func (h *Host) TC(format string, args ...any) string {
	h.t.Helper()
	out, err := h.try("tc", fmt.Sprintf(format, args...))
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

func (h *Host) try(command, line string) (string, error) {
	var out []byte
	err := h.NS.Do(func() error {
		var err error
		out, err = exec.Command(command, strings.Fields(line)...).CombinedOutput()
		return err
	})
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", command, line, err, out)
	}
	return string(out), nil
}

// Talk sends a datagram to an address, for which the kernel asks the wire who has it.
// It does not wait for anything.
func (h *Host) Talk(addr string) {
	h.t.Helper()
	err := h.NS.Do(func() error {
		c, err := net.Dial("udp", net.JoinHostPort(addr, "9"))
		if err != nil {
			return err
		}
		defer c.Close()
		_, err = c.Write([]byte("x"))
		return err
	})
	if err != nil {
		h.t.Fatalf("talk to %s: %v", addr, err)
	}
}

// Links lists the names of all links in the namespace but the loopback.
func (h *Host) Links() []string {
	h.t.Helper()
	var names []string
	for line := range strings.Lines(h.IP("-br link show")) {
		name, _, _ := strings.Cut(strings.Fields(line)[0], "@")
		if name != "lo" {
			names = append(names, name)
		}
	}
	return names
}

// Vanish lets go of the namespace, which ends if nobody else has it open. Its path is none
// from then on: the descriptor stays taken, so that no other namespace's has its number.
func (h *Host) Vanish() {
	h.t.Helper()
	null, err := os.Open(os.DevNull)
	if err != nil {
		h.t.Fatal(err)
	}
	defer null.Close()
	if err := unix.Dup3(int(null.Fd()), h.NS.Fd(), unix.O_CLOEXEC); err != nil {
		h.t.Fatal(err)
	}
}

// Path is a path by which the namespace can be opened while the test runs.
func (h *Host) Path() string {
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), h.NS.Fd())
}

// Features that kernels lack, and the command that makes one to see.
var probes = map[string]string{
	"vlan":   "link add link v0 name p0 type vlan id 2",
	"qinq":   "link add link v0 name p0 type vlan proto 802.1ad id 2",
	"ipvlan": "link add link v0 name p0 type ipvlan mode l2",
	"dummy":  "link add p0 type dummy",
	"bond":   "link add p0 type bond",
	"bridge": "link add p0 type bridge",
	"vrf":    "link add p0 type vrf table 10",
}

var (
	probeMu sync.Mutex // guards probed
	probed  = map[string]error{}
)

// Need skips the test where the kernel lacks one of the features; where it ought
// to have everything, that fails.
func Need(t testing.TB, features ...string) {
	t.Helper()
	for _, f := range features {
		if err := probe(t, f); err != nil {
			skip(t, fmt.Sprintf("this kernel has no %s (%v)", f, err))
		}
	}
}

func probe(t testing.TB, feature string) error {
	probeMu.Lock()
	defer probeMu.Unlock()
	if err, ok := probed[feature]; ok {
		return err
	}
	line, ok := probes[feature]
	if !ok {
		t.Fatalf("no probe for kernel feature %q", feature)
	}
	h := New(t)
	h.Veth("v0", "v1")
	_, err := h.TryIP("%s", line)
	probed[feature] = err
	return err
}

func skip(t testing.TB, why string) {
	t.Helper()
	if os.Getenv(FullKernel) != "" {
		t.Fatalf("%s, and %s is set", why, FullKernel)
	}
	t.Skip(why)
}
