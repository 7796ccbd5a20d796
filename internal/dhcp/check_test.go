package dhcp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// replyOf is an offer of 10.9.0.50 with options that replace those of a plain one; nil
// takes one away.
func replyOf(addr string, change map[uint8][]byte) *reply4 {
	r := &reply4{
		kind: dhcpv4.MessageTypeOffer, from: addr4("10.9.0.1"), via: net.HardwareAddr{2, 0, 0, 0, 0, 1}, yiaddr: addr4(addr),
		options: dhcpv4.Options{optMask: {255, 255, 255, 0}, optLife: number4(3600), optServer: {10, 9, 0, 1}},
	}
	for code, value := range change {
		if r.options[code] = value; value == nil {
			delete(r.options, code)
		}
	}
	r.server, _ = r.addr(optServer)
	return r
}

func TestRefusals4(t *testing.T) {
	lan9 := netip.MustParsePrefix("10.9.0.0/24")
	for _, c := range []struct {
		addr   string
		change map[uint8][]byte
		ask    Ask
		want   string
	}{
		{addr: "10.9.0.50"},
		{addr: "0.0.0.0", want: "no address"},
		{addr: "0.1.2.3", want: "reserved address"},
		{addr: "127.0.0.5", want: "loopback address"},
		{addr: "224.0.0.1", want: "multicast address"},
		{addr: "169.254.1.1", want: "link-local address"},
		{addr: "240.0.0.1", want: "reserved address"},
		{addr: "255.255.255.255", want: "broadcast address"},
		{addr: "10.9.0.0", want: "network address of 10.9.0.0/24"},
		{addr: "10.9.0.255", want: "broadcast address of 10.9.0.0/24"},
		{addr: "10.9.0.0", change: map[uint8][]byte{optMask: {255, 255, 255, 254}}},
		{addr: "10.9.0.0", change: map[uint8][]byte{optMask: {255, 255, 255, 255}}},
		{addr: "10.9.0.4", change: map[uint8][]byte{optMask: {255, 255, 255, 252}}, want: "network address of 10.9.0.4/30"},
		{addr: "10.9.0.50", change: map[uint8][]byte{optMask: nil}, want: "no subnet mask"},
		{addr: "10.9.0.50", change: map[uint8][]byte{optMask: nil}, ask: Ask{Subnet: lan9}},
		{addr: "10.9.0.0", change: map[uint8][]byte{optMask: nil}, ask: Ask{Subnet: lan9}, want: "network address of 10.9.0.0/24"},
		{addr: "10.9.0.50", change: map[uint8][]byte{optMask: {255, 255}}, want: "malformed subnet mask"},
		{addr: "10.9.0.50", change: map[uint8][]byte{optMask: {0, 0, 0, 0}}, want: "subnet mask 0.0.0.0"},
		{addr: "10.9.0.50", change: map[uint8][]byte{optMask: {255, 0, 255, 0}}, want: "subnet mask 255.0.255.0"},
		{addr: "10.9.0.50", change: map[uint8][]byte{optMask: {0, 255, 255, 255}}, want: "subnet mask 0.255.255.255"},
		{addr: "10.8.0.50", ask: Ask{Subnet: lan9}, want: "outside of 10.9.0.0/24"},
		{addr: "10.9.0.50", change: map[uint8][]byte{optServer: nil}, want: "no server identifier"},
		{addr: "10.9.0.50", change: map[uint8][]byte{optServer: {10, 9, 0, 1, 10, 9, 0, 1}}, want: "no server identifier"},
		{addr: "10.9.0.50", change: map[uint8][]byte{optServer: {0, 0, 0, 0}}, want: "server identifier 0.0.0.0 is no host's"},
		{addr: "10.9.0.50", change: map[uint8][]byte{optServer: {255, 255, 255, 255}}, want: "server identifier 255.255.255.255 is no host's"},
		{addr: "10.9.0.50", change: map[uint8][]byte{optServer: {224, 0, 0, 1}}, want: "server identifier 224.0.0.1 is no host's"},
		{addr: "10.9.0.50", change: map[uint8][]byte{optServer: {127, 0, 0, 1}}, want: "server identifier 127.0.0.1 is no host's"},
		{addr: "10.9.0.50", change: map[uint8][]byte{optServer: {169, 254, 169, 254}}}, // as in clouds
		{addr: "10.9.0.50", ask: Ask{Deny: []netip.Addr{addr4("10.9.0.1")}}, want: "server is denied"},
		{addr: "10.9.0.50", ask: Ask{Servers: []netip.Addr{addr4("10.9.0.2")}}, want: "server is not one of those that are allowed"},
		{addr: "10.9.0.50", ask: Ask{Servers: []netip.Addr{addr4("10.9.0.2"), addr4("10.9.0.1")}}},
		{addr: "10.9.0.50", change: map[uint8][]byte{optLife: nil}, want: "no lease time"},
		{addr: "10.9.0.50", change: map[uint8][]byte{optLife: {0, 0, 0, 0}}, want: "no lease time"},
		{addr: "10.9.0.50", change: map[uint8][]byte{optLife: {14, 16}}, want: "no lease time"},
		{addr: "10.9.0.50", ask: Ask{Addr: addr4("10.9.0.51"), Only: true}, want: "only 10.9.0.51 will do"},
		{addr: "10.9.0.50", ask: Ask{Addr: addr4("10.9.0.51")}},
	} {
		l, why := check4(replyOf(c.addr, c.change), &c.ask)
		if why != c.want || (l != nil) != (why == "") {
			t.Errorf("%s %v: %q, want %q", c.addr, c.change, why, c.want)
		}
	}
}

func TestTimes4(t *testing.T) {
	for _, c := range []struct {
		life, renew, rebind uint32 // 0 is not there
		want                [3]time.Duration
	}{
		{3600, 0, 0, [3]time.Duration{time.Hour, 30 * time.Minute, 52*time.Minute + 30*time.Second}},
		{3600, 600, 1200, [3]time.Duration{time.Hour, 10 * time.Minute, 20 * time.Minute}},
		{3600, 600, 0, [3]time.Duration{time.Hour, 10 * time.Minute, 52*time.Minute + 30*time.Second}},
		{3600, 1200, 1200, [3]time.Duration{time.Hour, 30 * time.Minute, 52*time.Minute + 30*time.Second}},
		{3600, 600, 3600, [3]time.Duration{time.Hour, 30 * time.Minute, 52*time.Minute + 30*time.Second}},
		{3600, 1, 2, [3]time.Duration{time.Hour, 30 * time.Minute, 52*time.Minute + 30*time.Second}},
		{16, 8, 14, [3]time.Duration{16 * time.Second, 8 * time.Second, 14 * time.Second}},
		{1<<32 - 1, 0, 0, [3]time.Duration{lan.Infinite, lan.Infinite, lan.Infinite}},
		{1<<32 - 1, 600, 1200, [3]time.Duration{lan.Infinite, 10 * time.Minute, 20 * time.Minute}},
		{1<<32 - 1, 1<<32 - 1, 1<<32 - 1, [3]time.Duration{lan.Infinite, lan.Infinite, lan.Infinite}},
		{1<<32 - 2, 0, 0, [3]time.Duration{(1<<32 - 2) * time.Second, (1<<31 - 1) * time.Second, (1<<32 - 2) * time.Second / 8 * 7}},
	} {
		change := map[uint8][]byte{optLife: number4(c.life)}
		if c.renew > 0 {
			change[optRenew] = number4(c.renew)
		}
		if c.rebind > 0 {
			change[optRebind] = number4(c.rebind)
		}
		l, why := check4(replyOf("10.9.0.50", change), &Ask{})
		if why != "" {
			t.Fatal(why)
		}
		if got := [3]time.Duration{l.Life, l.Renew, l.Rebind}; got != c.want {
			t.Errorf("%d, %d, %d s: %v, want %v", c.life, c.renew, c.rebind, got, c.want)
		}
	}
}

// route is a route of option 121.
func route(dst, hop string) []byte {
	p := netip.MustParsePrefix(dst)
	b := append([]byte{byte(p.Bits())}, p.Addr().AsSlice()[:(p.Bits()+7)/8]...)
	return append(b, addr4(hop).AsSlice()...)
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// What of the options is taken, and what is noted instead.
func TestTaken4(t *testing.T) {
	many := make([][]byte, 0, 200)
	for i := range 200 {
		many = append(many, route(fmt.Sprintf("172.16.%d.0/24", i), "10.9.0.1"))
	}
	dns := make([]byte, 0, 80)
	for i := range byte(20) {
		dns = append(dns, 10, 9, 0, i+1)
	}
	for name, c := range map[string]struct {
		change map[uint8][]byte
		want   lan.Lease
	}{
		"router":           {map[uint8][]byte{optRouter: {10, 9, 0, 1}}, lan.Lease{Gateway: addr4("10.9.0.1")}},
		"router elsewhere": {map[uint8][]byte{optRouter: {10, 8, 0, 1, 10, 9, 0, 1}}, lan.Lease{Gateway: addr4("10.9.0.1"), Notes: []string{"router 10.8.0.1 is not in the subnet"}}},
		"router itself":    {map[uint8][]byte{optRouter: {10, 9, 0, 50}}, lan.Lease{Notes: []string{"router 10.9.0.50 is the client itself"}}},
		"router no host":   {map[uint8][]byte{optRouter: {10, 9, 0, 255, 0, 0, 0, 0}}, lan.Lease{Notes: []string{"router 10.9.0.255 is no host", "router 0.0.0.0 is no host"}}},
		"two routers":      {map[uint8][]byte{optRouter: {10, 9, 0, 1, 10, 9, 0, 2}}, lan.Lease{Gateway: addr4("10.9.0.1"), Notes: []string{"router 10.9.0.2: there is one already"}}},
		"half a router":    {map[uint8][]byte{optRouter: {10, 9, 0}}, lan.Lease{Notes: []string{"malformed router"}}},
		"router of /32": {
			map[uint8][]byte{optMask: {255, 255, 255, 255}, optRouter: {100, 64, 0, 1}},
			lan.Lease{Addr: prefix4("10.9.0.50/32"), Gateway: addr4("100.64.0.1")},
		},
		"routes, not router": {
			map[uint8][]byte{optRouter: {10, 9, 0, 1}, optRoutes: join(route("0.0.0.0/0", "10.9.0.2"), route("192.168.0.0/16", "10.9.0.3"), route("172.16.0.0/12", "0.0.0.0"))},
			lan.Lease{Gateway: addr4("10.9.0.2"), Routes: []lan.Route{{Dst: prefix4("172.16.0.0/12")}, {Dst: prefix4("192.168.0.0/16"), NextHop: addr4("10.9.0.3")}}},
		},
		"no default route": {
			map[uint8][]byte{optRouter: {10, 9, 0, 1}, optRoutes: route("192.168.0.0/16", "10.9.0.3")},
			lan.Lease{Routes: []lan.Route{{Dst: prefix4("192.168.0.0/16"), NextHop: addr4("10.9.0.3")}}},
		},
		"by another route": {
			map[uint8][]byte{optRoutes: join(route("0.0.0.0/0", "100.64.0.1"), route("100.64.0.1/32", "0.0.0.0"))},
			lan.Lease{Gateway: addr4("100.64.0.1"), Routes: []lan.Route{{Dst: prefix4("100.64.0.1/32")}}},
		},
		"routes of /32": {
			map[uint8][]byte{optMask: {255, 255, 255, 255}, optRoutes: join(route("0.0.0.0/0", "100.64.0.1"), route("192.168.0.0/16", "100.64.0.1"), route("192.169.0.0/16", "100.64.0.2"))},
			lan.Lease{
				Addr: prefix4("10.9.0.50/32"), Gateway: addr4("100.64.0.1"), Routes: []lan.Route{{Dst: prefix4("192.168.0.0/16"), NextHop: addr4("100.64.0.1")}},
				Notes: []string{"route to 192.169.0.0/16 by 100.64.0.2 has a next hop that is not on the link"},
			},
		},
		"odd routes": {
			map[uint8][]byte{optRoutes: join(
				route("0.0.0.0/1", "10.9.0.1"), route("127.0.0.0/8", "10.9.0.1"), route("127.1.0.0/16", "10.9.0.1"), route("224.0.0.0/4", "10.9.0.1"), route("0.0.0.0/8", "10.9.0.1"),
				route("240.0.0.0/8", "10.9.0.1"), route("192.168.0.0/16", "10.8.0.1"), route("192.169.0.0/16", "10.9.0.50"), route("192.170.0.0/16", "127.0.0.1"),
				route("0.0.0.0/0", "0.0.0.0"), route("0.0.0.0/1", "10.9.0.2"), []byte{20, 172, 16, 31, 10, 9, 0, 1})},
			lan.Lease{
				Routes: []lan.Route{{Dst: prefix4("0.0.0.0/1"), NextHop: addr4("10.9.0.1")}, {Dst: prefix4("172.16.16.0/20"), NextHop: addr4("10.9.0.1")}},
				Notes: []string{
					"route to 0.0.0.0/0 by the link has no router",
					"route to 127.0.0.0/8 by 10.9.0.1 goes to no host", "route to 127.1.0.0/16 by 10.9.0.1 goes to no host", "route to 224.0.0.0/4 by 10.9.0.1 goes to no host",
					"route to 0.0.0.0/8 by 10.9.0.1 goes to no host", "route to 240.0.0.0/8 by 10.9.0.1 goes to no host",
					"route to 192.168.0.0/16 by 10.8.0.1 has a next hop that is not on the link", "route to 192.169.0.0/16 by 10.9.0.50 has a next hop that is none",
					"route to 192.170.0.0/16 by 127.0.0.1 has a next hop that is none", "route to 0.0.0.0/1 by 10.9.0.2 is there already",
				},
			},
		},
		"malformed routes": {
			map[uint8][]byte{optRouter: {10, 9, 0, 1}, optRoutes: {33, 1, 2, 3, 4, 5, 10, 9, 0, 1}}, lan.Lease{Gateway: addr4("10.9.0.1"), Notes: []string{"malformed classless routes"}},
		},
		"cut routes":       {map[uint8][]byte{optRoutes: {24, 1, 2, 3, 10, 9, 0}}, lan.Lease{Notes: []string{"malformed classless routes"}}},
		"MTU":              {map[uint8][]byte{optMTU: {35, 40}}, lan.Lease{MTU: 9000}},
		"small MTU":        {map[uint8][]byte{optMTU: {0, 68}}, lan.Lease{Notes: []string{"MTU 68 is too small"}}},
		"DNS":              {map[uint8][]byte{optDNS: {10, 9, 0, 1, 224, 0, 0, 1, 127, 0, 0, 53, 10, 9, 0, 1, 8, 8, 8, 8}}, lan.Lease{DNS: []netip.Addr{addr4("10.9.0.1"), addr4("8.8.8.8")}, Notes: []string{"DNS server 224.0.0.1 is no host", "DNS server 127.0.0.53 is no host"}}},
		"NTP":              {map[uint8][]byte{optNTP: {10, 9, 0, 1, 1}}, lan.Lease{Notes: []string{"malformed NTP server"}}},
		"domain":           {map[uint8][]byte{optDomain: []byte("example.org.\x00")}, lan.Lease{Domain: "example.org"}},
		"bad domain":       {map[uint8][]byte{optDomain: []byte("a b\n\x1b[2J")}, lan.Lease{Notes: []string{`domain "a b??[2J" is no name`}}},
		"host name":        {map[uint8][]byte{optHostname: []byte("web_1")}, lan.Lease{Hostname: "web_1"}},
		"bad names":        {map[uint8][]byte{optHostname: []byte("-x"), optDomain: []byte("a..b")}, lan.Lease{Notes: []string{`domain "a..b" is no name`, `host name "-x" is no name`}}},
		"search":           {map[uint8][]byte{optSearch: []byte("\x01a\x07example\x03org\x00\x01b\xc0\x02\xc0\x00\x02c \x00")}, lan.Lease{Search: []string{"a.example.org", "b.example.org"}, Notes: []string{`search domain "c" is no name`}}},
		"search loop":      {map[uint8][]byte{optSearch: []byte("\x01a\xc0\x00")}, lan.Lease{Notes: []string{"malformed search list"}}},
		"search to a loop": {map[uint8][]byte{optSearch: []byte("\xc0\x02\xc0\x00")}, lan.Lease{Notes: []string{"malformed search list"}}},
	} {
		t.Run(name, func(t *testing.T) {
			l, why := check4(replyOf("10.9.0.50", c.change), &Ask{})
			if why != "" {
				t.Fatal(why)
			}
			want := c.want
			want.Server, want.Via, want.Life, want.Renew, want.Rebind = l.Server, l.Via, l.Life, l.Renew, l.Rebind
			if !want.Addr.IsValid() {
				want.Addr = prefix4("10.9.0.50/24")
			}
			if diff := cmp.Diff(&want, l, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
				t.Errorf("lease (-want +got):\n%s", diff)
			}
		})
	}
	l, _ := check4(replyOf("10.9.0.50", map[uint8][]byte{optRoutes: join(many...), optDNS: dns, optSearch: []byte(strings.Repeat("\x01a\x00\x01b\x00", 50)), optMessage: nil}), &Ask{})
	if len(l.Routes) != maxRoutes4 || len(l.DNS) != maxServers || len(l.Search) != 2 {
		t.Errorf("%d routes, %d DNS servers, search %v", len(l.Routes), len(l.DNS), l.Search)
	}
	bad := make([][]byte, 0, 100)
	for i := range 100 {
		bad = append(bad, route(fmt.Sprintf("127.16.%d.0/24", i), "10.9.0.1"))
	}
	if l, _ := check4(replyOf("10.9.0.50", map[uint8][]byte{optRoutes: join(bad...)}), &Ask{}); len(l.Notes) != maxNotes+1 {
		t.Errorf("%d notes", len(l.Notes))
	}
}

// FuzzReply4 has servers say anything.
func FuzzReply4(f *testing.F) {
	m := &dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeBootReply, HWType: 1, ClientHWAddr: net.HardwareAddr{2, 0, 0, 0, 0, 1}, YourIPAddr: net.IP{10, 9, 0, 50},
		Options: dhcpv4.Options{
			optKind: {2}, optServer: {10, 9, 0, 1}, optMask: {255, 255, 255, 0}, optLife: {0, 0, 14, 16}, optRouter: {10, 9, 0, 1}, optDNS: {10, 9, 0, 1},
			optRoutes: join(route("0.0.0.0/0", "10.9.0.1"), route("192.168.0.0/16", "0.0.0.0")), optSearch: []byte("\x01a\x07example\x03org\x00\x01b\xc0\x02"),
			optDomain: []byte("example.org"), optMTU: {5, 0}, optMessage: []byte("hello"), optOverload: {3}, optNTP: {10, 9, 0, 1}, optHostname: []byte("web"),
			optRenew: {0, 0, 1, 0}, optRebind: {0, 0, 2, 0}, optRapid: {},
		},
	}
	body := m.ToBytes()
	copy(body[offFile:], []byte{optMessage, 2, 'h', 'i', 255})
	frame, err := frame4(m.ClientHWAddr, everyMAC, netip.MustParseAddrPort("10.9.0.1:67"), netip.MustParseAddrPort("255.255.255.255:68"), body)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(frame)
	f.Add(body)
	f.Add(body[offCookie+4:])
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, ok := parse4(b); ok {
			checked(t, a)
		}
		// As the message in a frame, which saves finding the checksum.
		if len(b) >= offCookie && len(b) <= maxFrame {
			checked(t, answer4{from: addr4("10.9.0.1"), body: b})
		}
		// As the options of a message in order, which saves finding its fields.
		if len(b) <= maxFrame {
			checked(t, answer4{from: addr4("10.9.0.1"), body: slices.Concat(body[:offCookie+4], b, []byte{255})})
		}
	})
}

// checked fails where a lease has anything in it that it must not have.
func checked(t *testing.T, a answer4) {
	r, err := decode4(a)
	if err != nil {
		return
	}
	asks := []Ask{
		{}, {Subnet: netip.MustParsePrefix("10.9.0.0/16")}, {Only: true, Addr: addr4("10.9.0.50")},
		{Servers: []netip.Addr{addr4("10.9.0.1")}}, {Deny: []netip.Addr{addr4("10.9.0.1")}},
	}
	for i := range asks {
		ask := &asks[i]
		x := newExchange4(ask)
		x.refused(r)
		for _, line := range x.log {
			shown(t, line)
		}
		l, why := check4(r, ask)
		if (l == nil) == (why == "") {
			t.Fatalf("lease %v, reason %q", l, why)
		}
		shown(t, why)
		if l == nil {
			continue
		}
		if len(l.Routes) > maxRoutes4 || len(l.DNS) > maxServers || len(l.NTP) > maxServers || len(l.Search) > maxSearch || len(l.Notes) > maxNotes+1 {
			t.Errorf("too much: %+v", l)
		}
		addr := l.Addr.Addr()
		if !l.Addr.IsValid() || l.Addr.Bits() == 0 || notHost(addr) != "" || atEdge(l.Addr) != "" || ask.Subnet.IsValid() && !ask.Subnet.Contains(addr) {
			t.Errorf("address %s", l.Addr)
		}
		if l.Renew <= 0 || l.Renew > l.Rebind || l.Rebind > l.Life || l.Life == 0 {
			t.Errorf("times %s %s %s", l.Renew, l.Rebind, l.Life)
		}
		if l.MTU != 0 && l.MTU < 576 {
			t.Errorf("MTU %d", l.MTU)
		}
		if l.Gateway.IsValid() && (!isUnicast(l.Gateway) || l.Gateway == addr) {
			t.Errorf("gateway %s", l.Gateway)
		}
		for _, r := range l.Routes {
			if r.Dst != r.Dst.Masked() || r.Dst.Bits() == 0 || notDestination(r.Dst) != "" || r.NextHop.IsValid() && (!isUnicast(r.NextHop) || r.NextHop == addr) {
				t.Errorf("route %+v", r)
			}
		}
		for _, addr := range append(l.DNS[:len(l.DNS):len(l.DNS)], l.NTP...) {
			if !isUnicast(addr) {
				t.Errorf("server %s", addr)
			}
		}
		for _, name := range append(l.Search[:len(l.Search):len(l.Search)], l.Domain, l.Hostname) {
			if name != "" && !isName(name) {
				t.Errorf("name %q", name)
			}
		}
		for _, note := range l.Notes {
			shown(t, note)
		}
	}
}

// shown fails for text that a terminal must not get.
func shown(t *testing.T, s string) {
	t.Helper()
	if len(s) > 5*maxText || strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' }) {
		t.Errorf("text %q", s)
	}
}

func TestSum4(t *testing.T) {
	frame, err := frame4(net.HardwareAddr{2, 0, 0, 0, 0, 1}, everyMAC, netip.MustParseAddrPort("10.9.0.1:67"), netip.MustParseAddrPort("10.9.0.50:68"), make([]byte, 301))
	if err != nil {
		t.Fatal(err)
	}
	ip := frame[ethLen4:]
	pseudo := append(append([]byte{}, ip[12:20]...), 0, 17)
	pseudo = binary.BigEndian.AppendUint16(pseudo, uint16(len(ip)-ipLen4))
	if sum(0, ip[:ipLen4]) != 0 || sum(0, append(pseudo, ip[ipLen4:]...)) != 0 {
		t.Error("checksums are wrong")
	}
}
