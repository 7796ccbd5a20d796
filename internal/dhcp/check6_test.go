package dhcp

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// request6 is a client's message, which an answer can be made to.
func request6(kind dhcpv6.MessageType, c *Client) *dhcpv6.Message {
	raw := (&message6{kind: kind, client: c, server: fakeID6}).encode(dhcpv6.TransactionID{1, 2, 3}, 0)
	m, err := dhcpv6.MessageFromBytes(raw)
	if err != nil {
		panic(err)
	}
	return m
}

var from6 = netip.MustParseAddr("fe80::1")

func lease6(t *testing.T, a Ask, options ...[]byte) (*lan.Lease, *refusal6) {
	t.Helper()
	r, err := parse6(from6, with6(request6(dhcpv6.MessageTypeRequest, &a.Client), fakeID6, options...))
	if err != nil {
		t.Fatal(err)
	}
	return r.lease(&a, a.Addr)
}

func TestTimes6(t *testing.T) {
	const s, never = time.Second, lan.Infinite
	for _, c := range []struct {
		t1, t2, preferred, valid uint32
		want                     string
	}{
		{100, 200, 300, 400, "1m40s 3m20s 5m0s 6m40s"},
		{0, 0, 1000, 2000, fmt.Sprint(500*s, 800*s, 1000*s, 2000*s)},
		{0, 0, 0, 2000, fmt.Sprint(1000*s, 1600*s, 0*s, 2000*s)},               // deprecated
		{0, 0xffffffff, 1000, 2000, fmt.Sprint(500*s, 1600*s, 1000*s, 2000*s)}, // T2 after the end
		{5000, 6000, 1000, 2000, fmt.Sprint(1000*s, 1600*s, 1000*s, 2000*s)},
		{200, 0, 1000, 2000, fmt.Sprint(200*s, 800*s, 1000*s, 2000*s)},
		{900, 0, 1000, 2000, fmt.Sprint(900*s, 900*s, 1000*s, 2000*s)}, // T1 after what T2 would be
		{0, 0, 0xffffffff, 0xffffffff, fmt.Sprint(never, never, never, never)},
		{100, 200, 0xffffffff, 0xffffffff, fmt.Sprint(100*s, 200*s, never, never)},
		{0xffffffff, 0xffffffff, 100, 200, fmt.Sprint(100*s, 160*s, 100*s, 200*s)},
		{0, 0, 4e9, 4e9, fmt.Sprint(2e9*s, 3.2e9*s, 4e9*s, 4e9*s)},
		{1, 1, 3000, 4000, fmt.Sprint(30*s, 30*s, 3000*s, 4000*s)}, // a storm
		{1, 2, 10, 10, fmt.Sprint(5*s, 5*s, 10*s, 10*s)},
	} {
		a := ask6(1)
		l, no := lease6(t, a, iaOpt6(a.IAID, c.t1, c.t2, addrOpt6("fd00:1::5", c.preferred, c.valid)))
		if no != nil {
			t.Errorf("%+v: %s", c, no.reason)
			continue
		}
		got := fmt.Sprint(l.Renew, l.Rebind, l.Preferred, l.Life)
		if got = strings.TrimSpace(got); strings.ReplaceAll(got, " ", "") != strings.ReplaceAll(c.want, " ", "") {
			t.Errorf("%d %d %d %d: got %s, want %s", c.t1, c.t2, c.preferred, c.valid, got, c.want)
		}
	}
}

func TestChoice6(t *testing.T) {
	a := ask6(1)
	good, old := addrOpt6("fd00:1::5", 300, 400), addrOpt6("fd00:1::4", 0, 400)
	for _, c := range []struct {
		name    string
		want    string // that the client wishes
		options [][]byte
		got     string
	}{
		{"first", "", [][]byte{iaOpt6(a.IAID, 0, 0, good, addrOpt6("fd00:1::6", 300, 400))}, "fd00:1::5"},
		{"not deprecated", "", [][]byte{iaOpt6(a.IAID, 0, 0, old, good)}, "fd00:1::5"},
		{"wished", "fd00:1::4", [][]byte{iaOpt6(a.IAID, 0, 0, good, old)}, "fd00:1::4"},
		{"second IA", "", [][]byte{iaOpt6(a.IAID+1, 0, 0, old), iaOpt6(a.IAID, 0, 0, good)}, "fd00:1::5"},
		{"IA twice", "", [][]byte{iaOpt6(a.IAID, 9, 5, old), iaOpt6(a.IAID, 0, 0, good)}, "fd00:1::5"},
		{"bad and good", "", [][]byte{iaOpt6(a.IAID, 0, 0, addrOpt6("ff02::1", 1, 1), good)}, "fd00:1::5"},
		{"after too many", "", [][]byte{iaOpt6(a.IAID, 0, 0, slices.Repeat(addrOpt6("ff02::1", 1, 1), maxAddrs), good)}, ""},
		{"after too many IAs", "", [][]byte{slices.Repeat(iaOpt6(9, 0, 0), maxIAs), iaOpt6(a.IAID, 0, 0, good)}, ""},
	} {
		a := a
		if c.want != "" {
			a.Addr = netip.MustParseAddr(c.want)
		}
		l, no := lease6(t, a, c.options...)
		switch {
		case no != nil && c.got != "":
			t.Errorf("%s: %s", c.name, no.reason)
		case no == nil && l.Addr.Addr().String() != c.got:
			t.Errorf("%s: got %s, want %q", c.name, l.Addr, c.got)
		}
	}
}

func TestConfiguration6(t *testing.T) {
	addr := func(s string) []byte { a := netip.MustParseAddr(s).As16(); return a[:] }
	var many [][]byte
	for i := range 20 {
		many = append(many, addr(fmt.Sprintf("fd00::%x", i+1)))
	}
	a := ask6(1)
	base := iaOpt6(a.IAID, 0, 0, addrOpt6("fd00:1::5", 300, 400))
	for _, c := range []struct {
		name   string
		option []byte
		want   string // DNS, NTP, search, notes
	}{
		{"none", nil, "[] [] [] []"},
		{"DNS", opt6(23, addr("2001:db8::1"), addr("2001:db8::1"), addr("fd00::1")), "[2001:db8::1 fd00::1] [] [] []"},
		{"bad DNS", opt6(23, addr("::1"), addr("ff02::1"), addr("fe80::1"), addr("fd00::1")),
			"[fd00::1] [] [] [DNS server ::1: no host can have it DNS server ff02::1: no host can have it DNS server fe80::1: it is link-local]"},
		{"cut DNS", opt6(23, make([]byte, 15)), "[] [] [] [DNS servers: 15 bytes are no addresses]"},
		{"SNTP", opt6(31, addr("fd00::9")), "[] [fd00::9] [] []"},
		{"NTP", cat6(opt6(31, addr("fd00::9")), opt6(56, opt6(2, addr("ff05::1")), opt6(3, []byte("\x03ntp\x00")), opt6(1, addr("fd00::8")))), "[] [fd00::8] [] []"},
		{"broken NTP", opt6(56, []byte{0, 1, 0, 50}), "[] [] [] [NTP servers: unexpected bytes"},
		{"search", opt6(24, []byte("\x07example\x03org\x00\x01a\x00\x01a\x00")), "[] [] [example.org a] []"},
		{"search of a pointer", opt6(24, []byte("\x01a\x00\xc0\x00")), "[] [] [a] [search list: broken label]"},
		{"search of nonsense", opt6(24, []byte("\x03a b\x00")), `[] [] [] [search list: "a b" is no domain name]`},
		{"search of the root", opt6(24, []byte("\x00")), `[] [] [] [search list: "" is no domain name]`},
		{"cut search", opt6(24, []byte("\x03ab")), "[] [] [] [search list: broken label]"},
		{"search without an end", opt6(24, []byte("\x02ab")), "[] [] [] [search list: too short]"},
	} {
		l, no := lease6(t, a, base, c.option)
		if no != nil {
			t.Errorf("%s: %s", c.name, no.reason)
			continue
		}
		got := fmt.Sprint(l.DNS, l.NTP, l.Search, l.Notes)
		if got = strings.ReplaceAll(got, "][", "] ["); got != c.want && !(strings.HasPrefix(c.name, "broken") && strings.HasPrefix(got, "[] [] [] [NTP servers: ")) {
			t.Errorf("%s: got\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
	l, _ := lease6(t, a, base, opt6(23, many...), opt6(24, bytes.Repeat([]byte("\x01a\x00"), 100)))
	if len(l.DNS) != maxServers || len(l.Search) != 1 || len(l.Notes) != 1 {
		t.Errorf("%d DNS servers, search %q, notes %q", len(l.DNS), l.Search, l.Notes)
	}
}

// The codec reads what we write as it was meant.
func TestEncode6(t *testing.T) {
	c := client6(7)
	c.FQDN, c.VendorClass, c.UserClass = "web.example.org", "lanyard", []string{"a", "bc"}
	m := &message6{kind: dhcpv6.MessageTypeSolicit, client: &c, addr: netip.MustParseAddr("fd00::5"), rapid: true}
	got, err := dhcpv6.MessageFromBytes(m.encode(dhcpv6.TransactionID{1, 2, 3}, 100*time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	o := got.Options
	text := fmt.Sprintf("%s %x %x %v %s %d %s %d %q %q", got.MessageType, o.ClientID().ToBytes(), o.OneIANA().IaId,
		o.OneIANA().Options.OneAddress().IPv6Addr, o.ElapsedTime(), o.FQDN().Flags, o.FQDN().DomainName.Labels,
		[]dhcpv6.OptionCode(o.RequestedOptions()), o.UserClasses(), o.VendorClass(noEnterprise))
	want := fmt.Sprintf("SOLICIT %x 00001007 fd00::5 10m55.35s 1 [web.example.org] [23 24 31 56 82] "+
		`["a" "bc"] ["lanyard"]`, c.DUID)
	if got.GetOneOption(dhcpv6.OptionRapidCommit) == nil {
		t.Error("no rapid commit")
	}
	if text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
	// A partial name has no end (RFC 4704 section 4.2).
	if diff := cmp.Diff(append([]byte{1, 3}, "web"...), fqdn6("web")); diff != "" {
		t.Error(diff)
	}
	// What a RELEASE has is who, whose and what.
	raw := (&message6{kind: dhcpv6.MessageTypeRelease, client: &c, server: fakeID6, addr: m.addr}).encode(dhcpv6.TransactionID{}, 0)
	rel, err := dhcpv6.MessageFromBytes(raw)
	if err != nil || len(rel.Options.Options) != 4 {
		t.Errorf("RELEASE %v, %v", rel, err)
	}
}

func TestCheckClient6(t *testing.T) {
	for _, c := range []Client{
		{}, {DUID: make([]byte, 131)}, {DUID: fakeID6, FQDN: "a b"}, {DUID: fakeID6, FQDN: strings.Repeat("a", 64)},
		{DUID: fakeID6, VendorClass: strings.Repeat("x", 2000)}, {DUID: fakeID6, UserClass: slices.Repeat([]string{"xx"}, 2000)},
	} {
		if checkClient(&c) == nil {
			t.Errorf("%.100v is taken", c)
		}
	}
}

func FuzzReply6(f *testing.F) {
	ask := ask6(1)
	m := request6(dhcpv6.MessageTypeRequest, &ask.Client)
	f.Add([]byte{})
	f.Add(good6(m)[0])
	f.Add(with6(m, fakeID6, iaOpt6(ask.IAID, 0, 0, addrOpt6("fd00:1::5", 0xffffffff, 0xffffffff), addrOpt6("fd00:1::6", 0, 0), statusOpt6(0, "fine")),
		opt6(23, make([]byte, 32)), opt6(24, []byte("\x07example\x03org\x00")), opt6(56, opt6(1, make([]byte, 16))), opt6(31, make([]byte, 16)), opt6(7, []byte{9}), opt6(14)))
	for _, row := range refused6 {
		ask := ask6(0)
		for _, r := range row.reply(request6(dhcpv6.MessageTypeSolicit, &ask.Client)) {
			f.Add(r)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parse6(from6, data)
		if err != nil {
			return
		}
		for _, a := range []Ask{ask6(1), ask6(0), {Client: client6(1), Addr: netip.MustParseAddr("fd00:1::5"), Only: true}} {
			l, no := r.lease(&a, a.Addr)
			s := &solicitation6{ask: &a, tally: newTally6(), fickle: map[string]bool{}}
			if s.take(r) && s.lease == nil && s.unwanted == nil {
				s.best()
			}
			if no != nil {
				text := no.of(r)
				if l != nil || len(text) > 1000 || strings.ContainsFunc(text+no.message, func(r rune) bool { return r < ' ' || r > '~' }) {
					t.Fatalf("refused with %q", text)
				}
				continue
			}
			addr := l.Addr.Addr()
			switch {
			case !addr.IsGlobalUnicast() || addr.Is4In6() || a.Only && addr != a.Addr || a.Subnet.IsValid() && !a.Subnet.Contains(addr):
				t.Fatalf("address %s", addr)
			case l.Renew <= 0 || l.Renew > l.Rebind || l.Rebind > l.Life || l.Preferred > l.Life || l.Preferred < 0:
				t.Fatalf("times %v %v %v %v", l.Renew, l.Rebind, l.Preferred, l.Life)
			case len(l.ServerID) < 3 || len(l.ServerID) > maxDUID || l.Server != from6:
				t.Fatalf("server %x", l.ServerID)
			case len(l.DNS) > maxServers || len(l.NTP) > maxServers || len(l.Search) > maxSearch || len(l.Notes) > maxNotes:
				t.Fatalf("%+v", l)
			}
			for _, s := range slices.Concat(l.DNS, l.NTP) {
				if unusable6(s) != "" {
					t.Fatalf("server %s", s)
				}
			}
			for _, name := range l.Search {
				if !lan.IsDomain(name) {
					t.Fatalf("search %q", name)
				}
			}
		}
	})
}
