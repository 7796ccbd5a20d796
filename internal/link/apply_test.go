package link

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// A new address in the subnet of the old one is the container's, whether or not its kernel
// lets a subnet's second address go with the first.
func TestApplyWithinSubnet(t *testing.T) {
	for _, promote := range []string{"0", "1"} {
		h := kerneltest.New(t)
		h.Veth("eth0", "far")
		h.IP("addr add 10.1.0.5/16 dev eth0")
		h.IP("route add default via 10.1.0.1")
		err := h.NS.Do(func() error {
			set := func(where string) error {
				return os.WriteFile("/proc/sys/net/ipv4/conf/"+where+"/promote_secondaries", []byte(promote), 0)
			}
			return errors.Join(set("all"), set("eth0"))
		})
		if err != nil {
			t.Fatal(err)
		}
		c, err := OpenContainer(h.Path())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		addr, gateway := netip.MustParsePrefix, netip.MustParseAddr("10.1.0.1")
		l, err := c.links.h.LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		was, err := c.Apply(&Inside{Name: "eth0", Index: l.Attrs().Index}, Change{
			Remove: addr("10.1.0.5/16"), Add: addr("10.1.0.6/16"), OldGateway: gateway, Gateway: gateway,
			Routes: []lan.Route{{Dst: addr("10.9.0.0/24"), NextHop: netip.MustParseAddr("10.1.0.9")}},
		})
		if err != nil || !was {
			t.Errorf("promote_secondaries=%s: %v, default route was through the gateway: %v", promote, err, was)
		}
		out := h.IP("addr show eth0") + h.IP("route")
		for _, want := range []string{"inet 10.1.0.6/16", "default via 10.1.0.1", "10.9.0.0/24 via 10.1.0.9"} {
			if !strings.Contains(out, want) {
				t.Errorf("promote_secondaries=%s: no %q in\n%s", promote, want, out)
			}
		}
		if strings.Contains(out, "10.1.0.5") {
			t.Errorf("promote_secondaries=%s: the old address is there still:\n%s", promote, out)
		}
	}
}

// A gateway where there was none is the container's way out, unless it has another.
func TestApplyFirstGateway(t *testing.T) {
	for _, other := range []bool{false, true} {
		h := kerneltest.New(t)
		h.Veth("eth0", "far")
		h.IP("addr add 10.1.0.5/16 dev eth0")
		if other {
			h.Veth("eth1", "far1")
			h.IP("addr add 10.2.0.5/16 dev eth1")
			h.IP("route add default via 10.2.0.1")
		}
		c, err := OpenContainer(h.Path())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		l, err := c.links.h.LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		addr := netip.MustParsePrefix("10.1.0.5/16")
		if _, err := c.Apply(&Inside{Name: "eth0", Index: l.Attrs().Index}, Change{Remove: addr, Add: addr, Gateway: netip.MustParseAddr("10.1.0.1")}); err != nil {
			t.Error(err)
		}
		if out := h.IP("route"); strings.Contains(out, "default via 10.1.0.1") == other {
			t.Errorf("with another way out: %v:\n%s", other, out)
		}
	}
}
