package ipam

import (
	"net"
	"slices"
	"testing"

	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/store"
)

// What servers are told is what is known now, and nothing from before.
func TestDescribe(t *testing.T) {
	b := newBench(t)
	n := &lan.Network{ID: "n1", Kind: lan.Macvlan, DHCP: lan.DHCP{Domain: "site.example", VendorClass: "ours", UserClass: []string{"all"}}}
	rec := &store.Lease{ID: "1", Space: "eth1", IAID: 1}
	for _, tc := range []struct {
		w                 leaseWant
		host, fqdn, class string
		user              []string
	}{
		{leaseWant{opts: lan.EndpointOptions{Hostname: "shop.old.example", VendorClass: "theirs", UserClass: []string{"one"}}}, "shop.old.example", "shop.site.example", "theirs", []string{"one"}},
		{leaseWant{}, "", "", "ours", []string{"all"}},
		{leaseWant{name: "web_1"}, "web-1", "web-1.site.example", "ours", []string{"all"}},
		{leaseWant{name: "_"}, "", "", "ours", []string{"all"}},
	} {
		b.describe(rec, n, &wire{}, tc.w)
		if rec.Hostname != tc.host || rec.FQDN != tc.fqdn || rec.VendorClass != tc.class || !slices.Equal(rec.UserClass, tc.user) {
			t.Errorf("%+v: told %q, %q, %q, %q", tc.w, rec.Hostname, rec.FQDN, rec.VendorClass, rec.UserClass)
		}
	}
}

// A lease that was on an ipvlan or passthru network, where clients have the parent's MAC
// address, or was of a container with a MAC address of the user's, has its own again in a
// macvlan of its own; somebody's keeps what the user said.
func TestDescribeMAC(t *testing.T) {
	b := newBench(t)
	mac := func(s string) net.HardwareAddr {
		m, err := net.ParseMAC(s)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	w := &wire{parentMAC: mac("02:00:00:00:00:01")}
	bridge, passthru := &lan.Network{Kind: lan.Macvlan, Mode: lan.ModeBridge}, &lan.Network{Kind: lan.Macvlan, Mode: lan.ModePassthru}
	for _, owner := range []string{"", "name web"} {
		rec := &store.Lease{ID: "1", Space: "eth1", IAID: 1, Owner: owner}
		b.describe(rec, bridge, w, leaseWant{})
		own := rec.MAC
		b.describe(rec, passthru, w, leaseWant{})
		if rec.MAC != w.parentMAC.String() {
			t.Errorf("passthru: %s", rec.MAC)
		}
		b.describe(rec, bridge, w, leaseWant{})
		if rec.MAC != own || own == w.parentMAC.String() {
			t.Errorf("owner %q: %s after passthru, had %s", owner, rec.MAC, own)
		}
		b.describe(rec, bridge, w, leaseWant{mac: mac("02:00:00:00:00:77")})
		b.describe(rec, bridge, w, leaseWant{})
		if kept := rec.MAC == "02:00:00:00:00:77"; kept != (owner != "") {
			t.Errorf("owner %q: %s after the user's", owner, rec.MAC)
		}
	}
}
