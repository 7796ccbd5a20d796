package doctor

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
)

// dnsmasq serves a device's eth0 until the test ends.
func dnsmasq(t *testing.T, h *kerneltest.Host, args ...string) {
	t.Helper()
	path, err := exec.LookPath("dnsmasq")
	if err != nil {
		t.Fatalf("%v; try: apt-get install dnsmasq-base", err)
	}
	dir := t.TempDir()
	h.IP("link set lo up")
	args = append([]string{"--no-daemon", "--conf-file=/dev/null", "--port=0", "--interface=eth0", "--bind-interfaces", "--no-ping", "--dhcp-authoritative", "--log-dhcp",
		"--dhcp-leasefile=" + filepath.Join(dir, "leases"), "--pid-file=" + filepath.Join(dir, "pid")}, args...)
	cmd := exec.Command(path, args...)
	var out buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := h.NS.Do(cmd.Start); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { cmd.Wait(); close(done) }()
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		<-done
	})
	for end := time.Now().Add(10 * time.Second); !strings.Contains(out.String(), "DHCP, ") && !strings.Contains(out.String(), "router advertisement"); time.Sleep(10 * time.Millisecond) {
		select {
		case <-done:
			t.Fatalf("dnsmasq ended: %s", out.String())
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("dnsmasq does not begin: %s", out.String())
		}
	}
}

// buffer is what a program prints.
type buffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// keepTalking has a device send to an address until stop is called.
func keepTalking(t *testing.T, h *kerneltest.Host, addr string) (stop func()) {
	quit, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			h.Talk(addr)
			select {
			case <-quit:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	}()
	return func() { close(quit); <-done }
}

// bridgeFDB runs bridge(8) in the calling thread's namespace.
func bridgeFDB(what, mac, port string) error {
	return exec.Command("bridge", "fdb", what, mac, "dev", port, "master", "static").Run()
}
