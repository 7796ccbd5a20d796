package dhcp

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/packet"
)

// lab6 is a Docker host whose eth1 is on one wire with the eth0 of a server, and the
// host's probe link.
type lab6 struct {
	t                  *testing.T
	host, server, room *kerneltest.Host
	probe              packet.Link
}

const server6, moved6 = "fd00:1::1", "fd00:2::1"

func newLab6(t *testing.T, kind string) *lab6 {
	t.Helper()
	l := &lab6{t: t, host: kerneltest.New(t), server: kerneltest.New(t), room: kerneltest.New(t)}
	l.host.IP("link add eth1 type veth peer name eth0 netns %s", l.server.Path())
	l.host.IP("link set eth1 up")
	l.addServer()
	l.host.IP("link add probe link eth1 netns %s type %s", l.room.Path(), kind)
	l.room.IP("link set probe up")
	l.probe = linkAt6(t, l.room, "probe")
	return l
}

// newSiblings6 is a lab whose server is in a container on the same parent.
func newSiblings6(t *testing.T, kind string) *lab6 {
	t.Helper()
	l := newLab6(t, kind)
	l.server = kerneltest.New(t)
	l.host.IP("link add eth0 link eth1 netns %s type %s", l.server.Path(), kind)
	l.addServer()
	return l
}

// addServer gives the server's link its addresses.
func (l *lab6) addServer() {
	l.t.Helper()
	l.server.IP("link set lo up")
	l.do(l.server, func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/eth0/accept_dad", []byte("0"), 0o644) })
	l.server.IP("link set eth0 up")
	l.server.IP("addr add %s/64 dev eth0 nodad", server6)
	l.server.IP("addr add %s/64 dev eth0 nodad", moved6)
}

func linkAt6(t *testing.T, h *kerneltest.Host, name string) packet.Link {
	t.Helper()
	var i *net.Interface
	if err := h.NS.Do(func() (err error) {
		i, err = net.InterfaceByName(name)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return packet.Link{NS: h.NS, Index: i.Index}
}

func (l *lab6) do(h *kerneltest.Host, fn func() error) {
	l.t.Helper()
	if err := h.NS.Do(fn); err != nil {
		l.t.Fatal(err)
	}
}

// wire opens a wire on the probe link and runs it until the test ends.
func (l *lab6) wire() *Wire6 { return l.wireOf(Config{Probe: l.probe}) }

func (l *lab6) wireOf(c Config) *Wire6 {
	l.t.Helper()
	w, err := Open6(c)
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- w.Run(ctx) }()
	l.t.Cleanup(func() {
		stop()
		if err := <-ran; err != nil {
			l.t.Errorf("Run: %v", err)
		}
	})
	return w
}

// await waits until the process has printed something.
func (p *program) await(t *testing.T, what string) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); !strings.Contains(p.said(), what); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s did not say %q:\n%s", p.cmd.Path, what, p.said())
		}
	}
}

// dnsmasq starts the server with a range such as fd00:1::100,fd00:1::1ff,64,10m.
func (l *lab6) dnsmasq(pool string, more ...string) *program {
	l.t.Helper()
	dir := l.t.TempDir()
	args := append([]string{"--no-daemon", "--port=0", "--conf-file=/dev/null", "--user=root", "--interface=eth0", "--log-dhcp",
		"--dhcp-duid=2495,ab:cd:ef",
		"--dhcp-leasefile=" + filepath.Join(dir, "leases"), "--dhcp-range=" + pool}, more...)
	p := start(l.t, l.server, dir, "/usr/sbin/dnsmasq", args...)
	p.await(l.t, "DHCPv6, IP range")
	return p
}

// kea starts the server with a pool such as fd00:1::100 - fd00:1::1ff; more are settings.
func (l *lab6) kea(pool, more string) *program {
	l.t.Helper()
	dir := l.t.TempDir()
	conf := filepath.Join(dir, "kea.json")
	text := fmt.Sprintf(`{"Dhcp6": {
		"interfaces-config": {"interfaces": ["eth0"]},
		"lease-database": {"type": "memfile", "persist": false},
		"server-id": {"type": "EN", "enterprise-id": 2495, "identifier": "0123456789abcdef", "persist": false},
		"preferred-lifetime": 3000, "valid-lifetime": 4000, "renew-timer": 1000, "rebind-timer": 2000,
		"option-data": [
			{"name": "dns-servers", "data": "fd00:1::53, fd00:1::54"},
			{"name": "domain-search", "data": "example.org, lab.example.org"},
			{"name": "sntp-servers", "data": "fd00:1::123"}
		],
		"subnet6": [{"id": 1, "rapid-commit": true, "subnet": "%s::/64", "interface": "eth0", "pools": [{"pool": %q}]}] %s,
		"loggers": [{"name": "kea-dhcp6", "severity": "DEBUG", "debuglevel": 40, "output_options": [{"output": "stdout", "flush": true}]}]
	}}`, strings.Split(pool, "::")[0], pool, more)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		l.t.Fatal(err)
	}
	p := start(l.t, l.server, dir, "/usr/sbin/kea-dhcp6", "-c", conf)
	p.await(l.t, "DHCP6_STARTED")
	return p
}

// client6 is the nth container.
func client6(n int) Client {
	duid := binary.BigEndian.AppendUint32([]byte{0, 4, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, uint32(n))
	return Client{DUID: duid, IAID: uint32(0x1000 + n)}
}

var subnet6 = netip.MustParsePrefix("fd00:1::/64")

func ask6(n int) Ask { return Ask{Client: client6(n), Subnet: subnet6} }

func within6(t *testing.T, d time.Duration) context.Context {
	ctx, stop := context.WithTimeout(context.Background(), d)
	t.Cleanup(stop)
	return ctx
}

// acquire gets a lease, or fails the test.
func acquire6(t *testing.T, w *Wire6, a Ask) *lan.Lease {
	t.Helper()
	l, err := w.Acquire(within6(t, 5*time.Second), a)
	if err != nil {
		t.Fatal(err)
	}
	return l
}
