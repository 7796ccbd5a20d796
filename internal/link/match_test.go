package link

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/lanyard-net/lanyard/internal/lan"
)

func TestMatch(t *testing.T) {
	h, l := host(t)
	h.Veth("eth2", "wire2")
	h.IP("link set eth1 address 02:00:00:00:01:01")
	h.IP("link set eth2 address 02:00:00:00:02:02")
	h.IP("addr add 10.1.0.1/24 dev eth1")
	h.IP("addr add fd00:2::1/64 dev eth2 nodad")
	h.IP("link set eth1 up")
	h.IP("link set eth2 up")
	h.IP("link set wire up")
	h.IP("link set wire2 up")
	// On top of eth1, with its MAC address.
	h.IP("link add mv0 link eth1 address 02:00:00:00:01:01 type macvlan mode bridge")
	byMAC := func(text string) (string, error) {
		mac, err := net.ParseMAC(text)
		if err != nil {
			t.Fatal(err)
		}
		return l.ByMAC(mac)
	}
	byRoute := func(text string) (string, error) { return l.ByRoute(netip.MustParseAddr(text)) }
	want := func(got string, err error) func(string, error) {
		return func(name string, reason error) {
			t.Helper()
			if got != name || !errors.Is(err, reason) || (err != nil) != (reason != nil) {
				t.Errorf("got %q, %v; want %q, %v", got, err, name, reason)
			}
		}
	}
	want(byMAC("02:00:00:00:01:01"))("eth1", nil)
	want(byMAC("02:00:00:00:03:03"))("", lan.ErrUnavailable)
	want(byRoute("10.1.0.254"))("eth1", nil)
	want(byRoute("fd00:2::99"))("eth2", nil)
	want(byRoute("10.9.0.1"))("", lan.ErrUnavailable)
	want(byRoute("10.1.0.1"))("", lan.ErrUnavailable)
	h.IP("route add default via 10.1.0.254")
	want(byRoute("10.9.0.1"))("eth1", nil)

	// A host route by a link of ours on eth1.
	p := ensure(t, l, spec("eth1"))
	if err := l.AddChild(Child{Name: lan.LinkPrefix + "shim", ParentIndex: p.Index, Kind: lan.Macvlan, Mode: lan.ModeBridge}); err != nil {
		t.Fatal(err)
	}
	h.IP("link set " + lan.LinkPrefix + "shim up")
	h.IP("route add 10.1.0.77/32 dev " + lan.LinkPrefix + "shim")
	want(byRoute("10.1.0.77"))("eth1", nil)

	// A bridge has taken eth2, and has its MAC address.
	h.IP("link add br0 address 02:00:00:00:02:02 type bridge")
	h.IP("link set eth2 master br0")
	want(byMAC("02:00:00:00:02:02"))("br0", nil)

	// Two links with one address.
	h.Veth("eth3", "wire3")
	h.IP("link set eth3 address 02:00:00:00:01:01")
	want(byMAC("02:00:00:00:01:01"))("", lan.ErrConflict)

	// The devices of this test are in no sysfs, so one is made.
	dir := t.TempDir()
	for name, device := range map[string]string{"eth1": "pci0000:00/0000:00:1c.0/0000:03:00.0", "eth3": "pci0000:00/0000:00:1c.0/0000:04:00.0/virtio1"} {
		at := filepath.Join(dir, "devices", device)
		if err := errors.Join(os.MkdirAll(at, 0o755), os.MkdirAll(filepath.Join(dir, "net", name), 0o755), os.Symlink(at, filepath.Join(dir, "net", name, "device"))); err != nil {
			t.Fatal(err)
		}
	}
	l.sysClass = filepath.Join(dir, "net")
	want(l.ByDevice("0000:03:00.0"))("eth1", nil)
	want(l.ByDevice("pci-0000:04:00.0"))("eth3", nil)
	want(l.ByDevice("0000:05:00.0"))("", lan.ErrUnavailable)
	want(l.ByDevice("0000:00:1c.0"))("", lan.ErrConflict)
}
