package dhcp

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/packet"
)

// lab4 is a test's network: a Docker host whose eth1 is on one wire with the eth0 of
// another host, where servers are, and a room with a probe link on it.
type lab4 struct {
	t               testing.TB
	host, far, room *kerneltest.Host
	kind            string // of links on eth1
	probe, tap      packet.Link
	wire            *Wire
}

const farAddr = "10.9.0.1"

// The kinds of links on a parent.
const (
	macvlan = "macvlan mode bridge"
	ipvlan  = "ipvlan mode l2"
)

func newLab4(t testing.TB) *lab4 { return newLabOf4(t, macvlan) }

func newLabOf4(t testing.TB, kind string) *lab4 {
	t.Helper()
	l := bareLab4(t)
	l.kind = kind
	l.host.IP("link add probe link eth1 netns %s type %s", l.room.Path(), kind)
	l.room.IP("link set probe up")
	l.probe = link4(t, l.room, "probe")
	l.wire = run4(t, Config{Probe: l.probe, Tap: l.tap})
	return l
}

// newVLANLab4 has its probe link on VLAN 100 of eth1, and eth0.100 on the far host.
func newVLANLab4(t testing.TB) *lab4 {
	t.Helper()
	kerneltest.Need(t, "vlan")
	l := bareLab4(t)
	l.host.IP("link add eth1.100 link eth1 type vlan id 100")
	l.host.IP("link set eth1.100 up")
	l.host.IP("link add probe link eth1.100 netns %s type %s", l.room.Path(), macvlan)
	l.room.IP("link set probe up")
	l.far.IP("link add eth0.100 link eth0 type vlan id 100")
	l.far.IP("link set eth0.100 up")
	l.probe, l.tap = link4(t, l.room, "probe"), link4(t, l.host, "eth1.100")
	l.wire = run4(t, Config{Probe: l.probe, Tap: l.tap, Below: link4(t, l.host, "eth1"), VLAN: 100})
	return l
}

// bareLab4 has neither a probe link nor a wire.
func bareLab4(t testing.TB) *lab4 {
	t.Helper()
	kerneltest.NoLeaks(t)
	l := &lab4{t: t, host: kerneltest.New(t), far: kerneltest.New(t), room: kerneltest.New(t)}
	l.host.IP("link add eth1 type veth peer name eth0 netns %s", l.far.Path())
	l.host.IP("link set eth1 up")
	l.far.IP("link set eth0 up")
	l.far.IP("addr add %s/24 dev eth0", farAddr)
	l.tap = link4(t, l.host, "eth1")
	return l
}

// siblings4 is a lab whose servers are in a container on the same parent.
func siblings4(t testing.TB, kind string) *lab4 {
	t.Helper()
	l := newLabOf4(t, kind)
	l.far.IP("addr flush dev eth0")
	l.far = kerneltest.New(t)
	l.host.IP("link add eth0 link eth1 netns %s type %s", l.far.Path(), kind)
	l.far.IP("link set eth0 up")
	l.far.IP("addr add %s/24 dev eth0", farAddr)
	return l
}

func link4(t testing.TB, h *kerneltest.Host, name string) packet.Link {
	t.Helper()
	l := packet.Link{NS: h.NS}
	if err := h.NS.Do(func() error {
		i, err := net.InterfaceByName(name)
		if err == nil {
			l.Index = i.Index
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return l
}

// run4 opens a wire and runs it until the end of the test.
func run4(t testing.TB, c Config) *Wire {
	t.Helper()
	w, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	kerneltest.Run(t, w.Run)
	return w
}

// client4 is the nth client.
func client4(n int) Client {
	return Client{MAC: net.HardwareAddr{0x02, 0x42, 0, 0, byte(n >> 8), byte(n)}, ID: []byte{0xff, 0, 0, 0, 1, 0, 4, byte(n >> 8), byte(n)}}
}

// client is the nth client, with the MAC address that its link will have.
func (l *lab4) client(n int) Client {
	l.t.Helper()
	c := client4(n)
	if l.kind == ipvlan {
		c.MAC = mac4(l.t, strings.Fields(l.host.IP("-br link show eth1"))[2])
	}
	return c
}

func (l *lab4) acquire(a Ask) (*lan.Lease, error) {
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	return l.wire.Acquire(ctx, a)
}

// must is a lease that has to come.
func (l *lab4) must(a Ask) *lan.Lease {
	l.t.Helper()
	lease, err := l.acquire(a)
	if err != nil {
		l.t.Fatalf("acquire for %s: %v", a.MAC, err)
	}
	return lease
}

func (l *lab4) reboot(a Ask) (*lan.Lease, error) {
	ctx, stop := context.WithTimeout(context.Background(), 5*time.Second)
	defer stop()
	return l.wire.Reboot(ctx, a)
}

// container makes a container's link as it is after a lease was had.
func (l *lab4) container(c Client, lease *lan.Lease) packet.Link {
	l.t.Helper()
	box := kerneltest.New(l.t)
	l.host.IP("link add c0 link eth1 netns %s address %s type %s", box.Path(), c.MAC, l.kind)
	box.IP("link set c0 up")
	box.IP("addr add %s dev c0", lease.Addr)
	return link4(l.t, box, "c0")
}

func renew4(in packet.Link, a Ask, l *lan.Lease, rebind bool, wait time.Duration) (*lan.Lease, error) {
	ctx, stop := context.WithTimeout(context.Background(), wait)
	defer stop()
	return Renew(ctx, in, a, l, rebind)
}

// program is a server that runs.
type program struct {
	t   testing.TB
	dir string // of its files
	cmd *exec.Cmd
	out kerneltest.Log
}

func (p *program) said() string { return p.out.String() }

func (p *program) stop() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

// start runs a program in a host's namespace until it is stopped or the test ends. A test
// fails where it is not installed.
func start(t testing.TB, h *kerneltest.Host, dir, path string, args ...string) *program {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v; try: apt-get install dnsmasq-base kea-dhcp4-server kea-dhcp6-server", err)
	}
	p := &program{t: t, dir: dir, cmd: exec.Command(path, args...)}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	p.cmd.Env = append(os.Environ(), "KEA_PIDFILE_DIR="+dir, "KEA_LOCKFILE_DIR=none", "KEA_LOGGER_DESTINATION=stdout",
		"KEA_DHCP_DATA_DIR="+dir, "KEA_LOG_FILE_DIR="+dir)
	if err := h.NS.Do(p.cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			t.Logf("%s said:\n%s", path, p.said())
		}
	})
	return p
}

// serve4 is start, and waits until the program says that it is ready.
func serve4(t testing.TB, h *kerneltest.Host, dir, ready, path string, args ...string) *program {
	t.Helper()
	p := start(t, h, dir, path, args...)
	soon4(t, path+" is ready", func() bool { return strings.Contains(p.said(), ready) })
	return p
}

const range4 = "--dhcp-range=10.9.0.100,10.9.0.199,255.255.255.0,1h"

// dnsmasq runs one on the far host's eth0, which does not ping first.
func (l *lab4) dnsmasq(args ...string) *program {
	l.t.Helper()
	return dnsmasq4(l.t, l.far, "eth0", append([]string{"--no-ping"}, args...)...)
}

func dnsmasq4(t testing.TB, h *kerneltest.Host, link string, args ...string) *program {
	t.Helper()
	dir := t.TempDir()
	return serve4(t, h, dir, "DHCP, IP range", "/usr/sbin/dnsmasq", append([]string{
		"--conf-file=/dev/null", "--keep-in-foreground", "--log-facility=-", "--log-dhcp", "--user=root", "--pid-file=", "--port=0",
		"--bind-interfaces", "--interface=" + link, "--except-interface=lo", "--dhcp-authoritative", "--dhcp-leasefile=" + dir + "/leases"}, args...)...)
}

// leases is a dnsmasq's lease file.
func (p *program) leases() string {
	b, err := os.ReadFile(filepath.Join(p.dir, "leases"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		p.t.Fatal(err)
	}
	return string(b)
}

type object4 = map[string]any

// kea runs one on the far host's eth0 with a subnet's settings.
func (l *lab4) kea(subnet object4, more object4) *program {
	l.t.Helper()
	dir := l.t.TempDir()
	for key, value := range (object4{"id": 1, "subnet": "10.9.0.0/24", "pools": []object4{{"pool": "10.9.0.100 - 10.9.0.199"}},
		"option-data": []object4{{"name": "routers", "data": farAddr}}}) {
		if _, ok := subnet[key]; !ok {
			subnet[key] = value
		}
	}
	conf := object4{
		"interfaces-config": object4{"interfaces": []string{"eth0"}, "dhcp-socket-type": "raw"},
		"lease-database":    object4{"type": "memfile", "persist": false},
		"valid-lifetime":    3600,
		"authoritative":     true,
		"subnet4":           []object4{subnet},
		"loggers":           []object4{{"name": "kea-dhcp4", "severity": "INFO", "output_options": []object4{{"output": "stdout", "flush": true}}}},
	}
	for key, value := range more {
		conf[key] = value
	}
	text, err := json.Marshal(object4{"Dhcp4": conf})
	if err != nil {
		l.t.Fatal(err)
	}
	file := filepath.Join(dir, "kea.conf")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		l.t.Fatal(err)
	}
	return serve4(l.t, l.far, dir, "DHCP4_STARTED", "/usr/sbin/kea-dhcp4", "-c", file)
}

// soon4 waits for what another process is about to do.
func soon4(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

func addr4(s string) netip.Addr { return netip.MustParseAddr(s) }

func prefix4(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// within4 is a context that ends after some time.
func within4(t testing.TB, d time.Duration) context.Context {
	ctx, stop := context.WithTimeout(context.Background(), d)
	t.Cleanup(stop)
	return ctx
}

func mac4(t testing.TB, s string) net.HardwareAddr {
	t.Helper()
	mac, err := net.ParseMAC(s)
	if err != nil {
		t.Fatal(err)
	}
	return mac
}
