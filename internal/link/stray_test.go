package link

import (
	"fmt"
	"net"
	"testing"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// A link in a namespace that has no path any more is found and removed; what is not ours, and
// what is on another parent, is not.
func TestLinksAbroad(t *testing.T) {
	h, l := host(t)
	p := ensure(t, l, spec("eth1"))
	held, other := kerneltest.New(t), kerneltest.New(t)
	mac, _ := net.ParseMAC("02:00:00:00:00:42")
	if err := l.addChild(Child{Name: "ly-c1", ParentIndex: p.Index, Kind: lan.Macvlan, Mode: lan.ModeBridge, MAC: mac}); err != nil {
		t.Fatal(err)
	}
	h.IP("link set ly-c1 netns %s", held.Path())
	held.IP("link set ly-c1 name eth0")
	held.IP("addr add 10.0.0.2/24 dev eth0")
	held.IP("addr add fd00::2/64 dev eth0 nodad")
	held.IP("link set eth0 up")
	h.IP("link add theirs link eth1 type macvlan mode bridge")
	h.IP("link set theirs netns %s", other.Path())
	list, err := l.LinksAbroad(func(parent int, _ string) bool { return parent == p.Index })
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != 1 || list[0].MAC != mac.String() || fmt.Sprint(list[0].Addrs) != "[10.0.0.2 fd00::2]" {
		t.Fatalf("%+v", list)
	}
	if id, err := l.Nsid(held.Path()); err != nil || id != list[0].Nsid {
		t.Errorf("the namespace at the path is %d, %v; want %d", id, err, list[0].Nsid)
	}
	if none, err := l.LinksAbroad(func(_ int, has string) bool { return has != mac.String() }); err != nil || len(none) != 0 {
		t.Errorf("with another MAC address: %+v, %v", none, err)
	}
	for range 2 { // once more is no error
		if err := l.DeleteAbroad(list[0]); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := held.TryIP("link show eth0"); err == nil {
		t.Errorf("it is still there: %s", out)
	}
	other.IP("link show theirs")
	h.IP("link show eth1")
}
