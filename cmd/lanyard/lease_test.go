package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-net/lanyard/internal/control"
	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// leasesAt are leases of each kind, as they stand at a time.
func leasesAt(now time.Time) []ipam.LeaseState {
	server := netip.MustParseAddr("192.168.0.1")
	lease := func(id, addr, state, container string) ipam.LeaseState {
		l := ipam.LeaseState{
			ID: id, State: state, Wire: "eth1, VLAN 802.1Q:100", Pool: "dhcp", Network: "aa0728abe9c17d70", Container: container,
			MAC: "02:11:22:33:44:55", ClientID: "ff000000010004c0ffee", Hostname: container, Since: now.Add(-3 * time.Hour),
			Granted: now.Add(-3 * time.Hour), RenewsAt: now.Add(3 * time.Hour), RebindsAt: now.Add(7*time.Hour + 30*time.Minute), EndsAt: now.Add(9 * time.Hour),
			Lease: lan.Lease{Server: server, Gateway: server, Renew: 6 * time.Hour, Rebind: 630 * time.Minute, Life: 12 * time.Hour},
		}
		if addr != "" {
			l.Lease.Addr = netip.MustParsePrefix(addr)
			l.Address = l.Lease.Addr.Addr()
		}
		return l
	}
	web := lease("a1a1a1a1a1a1", "192.168.0.9/24", ipam.LeaseBound, "web")
	web.Endpoint, web.Told = "ee9cdc103d277c20", netip.MustParseAddr("192.168.0.7")
	web.FQDN = "web.example.org"
	web.VendorClass, web.UserClass = "lanyard", []string{"front", "web"}
	web.Lease.Via = "02:aa:aa:aa:aa:aa"
	web.Lease.Routes = []lan.Route{
		{Dst: netip.MustParsePrefix("10.0.0.0/8"), NextHop: netip.MustParseAddr("192.168.0.254")}, {Dst: netip.MustParsePrefix("10.9.0.0/16")},
	}
	web.Lease.MTU = 1400
	web.Lease.DNS = []netip.Addr{server, netip.MustParseAddr("192.168.0.2")}
	web.Lease.Domain, web.Lease.NTP = "example.org", []netip.Addr{server}
	web.Lease.Notes = []string{"route 127.0.0.0/8: of the loopback", "MTU 60: less than 576"}

	late := lease("a2a2a2a2a2a2", "192.168.0.10/24", ipam.LeaseRebinding, "")
	late.Endpoint, late.Problem = "ff9cdc103d277c20", "no lease within 4s: sent 2 DHCPREQUEST, heard nothing"
	late.RenewsAt, late.RebindsAt, late.EndsAt = now.Add(-6*time.Hour), now.Add(-90*time.Second), now.Add(90*time.Minute)

	gone := lease("a3a3a3a3a3a3", "192.168.0.11/24", ipam.LeaseIdle, "db")
	gone.ReleaseAt = now.Add(9*time.Minute + 30*time.Second)

	lost := lease("a4a4a4a4a4a4", "", ipam.LeaseLost, "cache")
	lost.Endpoint, lost.Problem = "dd9cdc103d277c20", "no lease within 10s: sent 4 DHCPDISCOVER, heard nothing"
	lost.Lease, lost.RenewsAt, lost.RebindsAt, lost.EndsAt = lan.Lease{}, time.Time{}, time.Time{}, time.Time{}

	fall := lease("a5a5a5a5a5a5", "192.168.0.200/24", ipam.LeaseFallback, "mail")
	fall.Endpoint, fall.ClientID = "cc9cdc103d277c20", "01021122334455"
	fall.Lease.Server, fall.Lease.Renew, fall.Lease.Rebind, fall.Lease.Life = netip.Addr{}, lan.Infinite, lan.Infinite, lan.Infinite
	fall.RenewsAt, fall.RebindsAt, fall.EndsAt = time.Time{}, time.Time{}, time.Time{}

	past := lease("a6a6a6a6a6a6", "192.168.0.12/24", ipam.LeasePast, "old")
	past.RenewsAt, past.RebindsAt, past.EndsAt = time.Time{}, time.Time{}, time.Time{}

	six := lease("a7a7a7a7a7a7", "fd00:1::9/128", ipam.LeaseBound, "web")
	six.Endpoint, six.ClientID, six.DUID, six.IAID = web.Endpoint, "", "0004c0ffee", 1
	six.Lease.Server, six.Lease.ServerID, six.Lease.Gateway = netip.MustParseAddr("fe80::1"), []byte{0, 3, 0, 1, 2, 0xaa}, netip.Addr{}
	six.Lease.Preferred, six.Lease.Life = 6*time.Hour, 300*time.Hour
	six.EndsAt = now.Add(297 * time.Hour)
	return []ipam.LeaseState{web, late, gone, lost, fall, past, six}
}

// utc makes local times those of UTC.
func utc(t *testing.T) {
	local := time.Local
	time.Local = time.UTC
	t.Cleanup(func() { time.Local = local })
}

func named(all []ipam.LeaseState) []namedLease {
	list := make([]namedLease, len(all))
	for i, l := range all {
		list[i] = namedLease{LeaseState: l, NetworkName: "lan"}
	}
	return list
}

func TestPrintLeases(t *testing.T) {
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	list := named(leasesAt(now))
	list[6].NetworkName, list[6].ClientID = "", ""
	var b strings.Builder
	if err := printLeases(&b, list, false, false, now); err != nil {
		t.Fatal(err)
	}
	want := `
LEASE          ADDRESS         STATE       CONTAINER      NETWORK        WIRE                    SERVER        RENEWS   ENDS     MAC
a1a1a1a1a1a1   192.168.0.9     bound       web            lan            eth1, VLAN 802.1Q:100   192.168.0.1   in 3h    in 9h    02:11:22:33:44:55
a2a2a2a2a2a2   192.168.0.10    rebinding   ff9cdc103d27   lan            eth1, VLAN 802.1Q:100   192.168.0.1   6h ago   in 2h    02:11:22:33:44:55
a3a3a3a3a3a3   192.168.0.11    idle        db             lan            eth1, VLAN 802.1Q:100   192.168.0.1   -        in 9h    02:11:22:33:44:55
a4a4a4a4a4a4   -               lost        cache          lan            eth1, VLAN 802.1Q:100   -             -        -        02:11:22:33:44:55
a5a5a5a5a5a5   192.168.0.200   fallback    mail           lan            eth1, VLAN 802.1Q:100   -             -        never    02:11:22:33:44:55
a6a6a6a6a6a6   192.168.0.12    past        old            lan            eth1, VLAN 802.1Q:100   192.168.0.1   -        -        02:11:22:33:44:55
a7a7a7a7a7a7   fd00:1::9       bound       web            aa0728abe9c1   eth1, VLAN 802.1Q:100   fe80::1       in 3h    in 12d   02:11:22:33:44:55
`
	if diff := cmp.Diff(want, "\n"+b.String()); diff != "" {
		t.Errorf("leases (-want +got)\n%s", diff)
	}
	b.Reset()
	if err := printLeases(&b, list[:1], true, false, now); err != nil || !regexp.MustCompile(`MAC +HOSTNAME\n.* web\n$`).MatchString(b.String()) {
		t.Errorf("all of them: %v\n%s", err, b.String())
	}
}

func TestPrintLease(t *testing.T) {
	utc(t)
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	list := named(leasesAt(now))
	for i, want := range map[int]string{
		0: `
Lease:        a1a1a1a1a1a1
Address:      192.168.0.9/24
State:        bound, since 3h
Container:    web
Network:      lan (aa0728abe9c1)
Endpoint:     ee9cdc103d277c20
Pool:         dhcp
Wire:         eth1, VLAN 802.1Q:100
Docker says:  192.168.0.7, which it was told when the container started: docker inspect, and Docker's own DNS, say that one still
Server:       192.168.0.1, heard from 02:aa:aa:aa:aa:aa
Granted:      12h, 3h ago (2026-11-25T09:00:00Z)
Renews:       in 3h (2026-11-25T15:00:00Z)
Rebinds:      in 7h30m (2026-11-25T19:30:00Z), asking any server
Ends:         in 9h (2026-11-25T21:00:00Z)
MAC:          02:11:22:33:44:55
Client ID:    ff:00:00:00:01:00:04:c0:ff:ee (RFC 4361)
Host name:    web
FQDN:         web.example.org
Vendor class: lanyard
User class:   front, web
Gateway:      192.168.0.1
Route:        10.0.0.0/8 via 192.168.0.254
Route:        10.9.0.0/16 on the link
MTU:          1400
DNS:          192.168.0.1, 192.168.0.2
Domain:       example.org
NTP:          192.168.0.1
Not set:      DNS servers, domain and NTP servers: Docker gives a plugin no way to set that in a container; try: docker run --dns 192.168.0.1 --dns 192.168.0.2 --dns-search example.org
Not taken:    route 127.0.0.0/8: of the loopback
Not taken:    MTU 60: less than 576
`,
		2: `
Lease:        a3a3a3a3a3a3
Address:      192.168.0.11/24
State:        idle, since 3h
Container:    db
Network:      lan (aa0728abe9c1)
Pool:         dhcp
Wire:         eth1, VLAN 802.1Q:100
Server:       192.168.0.1
Granted:      12h, 3h ago (2026-11-25T09:00:00Z)
Ends:         in 9h (2026-11-25T21:00:00Z)
Given back:   in 9m30s (2026-11-25T12:09:30Z), unless the container comes back
MAC:          02:11:22:33:44:55
Client ID:    ff:00:00:00:01:00:04:c0:ff:ee (RFC 4361)
Host name:    db
Gateway:      192.168.0.1
`,
		3: `
Lease:        a4a4a4a4a4a4
Address:      -, no more: the container has no address now
State:        lost, since 3h
Problem:      no lease within 10s: sent 4 DHCPDISCOVER, heard nothing
Container:    cache
Network:      lan (aa0728abe9c1)
Endpoint:     dd9cdc103d277c20
Pool:         dhcp
Wire:         eth1, VLAN 802.1Q:100
MAC:          02:11:22:33:44:55
Client ID:    ff:00:00:00:01:00:04:c0:ff:ee (RFC 4361)
Host name:    cache
`,
		4: `
Lease:        a5a5a5a5a5a5
Address:      192.168.0.200/24
State:        fallback, since 3h
Container:    mail
Network:      lan (aa0728abe9c1)
Endpoint:     cc9cdc103d277c20
Pool:         dhcp
Wire:         eth1, VLAN 802.1Q:100
Server:       none answered: the address is one of the network's dhcp_fallback, until a server answers
Ends:         never
MAC:          02:11:22:33:44:55
Client ID:    01:02:11:22:33:44:55 (the MAC address 02:11:22:33:44:55)
Host name:    mail
Gateway:      192.168.0.1
`,
		5: `
Lease:        a6a6a6a6a6a6
Address:      192.168.0.12/24, no more
State:        past, since 3h
Container:    old
Network:      lan (aa0728abe9c1)
Pool:         dhcp
Wire:         eth1, VLAN 802.1Q:100
Server:       192.168.0.1
Granted:      12h, 3h ago (2026-11-25T09:00:00Z)
MAC:          02:11:22:33:44:55
Client ID:    ff:00:00:00:01:00:04:c0:ff:ee (RFC 4361)
Host name:    old
Gateway:      192.168.0.1
`,
		6: `
Lease:        a7a7a7a7a7a7
Address:      fd00:1::9/128
State:        bound, since 3h
Container:    web
Network:      lan (aa0728abe9c1)
Endpoint:     ee9cdc103d277c20
Pool:         dhcp
Wire:         eth1, VLAN 802.1Q:100
Server:       fe80::1
Server DUID:  00:03:00:01:02:aa
Granted:      12d12h, 3h ago (2026-11-25T09:00:00Z)
Preferred:    6h of that
Renews:       in 3h (2026-11-25T15:00:00Z)
Rebinds:      in 7h30m (2026-11-25T19:30:00Z), asking any server
Ends:         in 12d9h (2026-12-07T21:00:00Z)
MAC:          02:11:22:33:44:55
DUID:         00:04:c0:ff:ee
IAID:         1
Host name:    web
`,
	} {
		var b strings.Builder
		printLease(&b, &list[i], now)
		if diff := cmp.Diff(want, "\n"+b.String()); diff != "" {
			t.Errorf("lease %s (-want +got)\n%s", list[i].ID, diff)
		}
	}
}

func TestLeaseWords(t *testing.T) {
	utc(t)
	now := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	list := named(leasesAt(now))
	moved := list[0]
	moved.Address = netip.MustParseAddr("192.168.0.30")
	forever := list[0]
	forever.EndsAt = time.Time{}
	for _, tc := range []struct {
		was, now namedLease
		want     string
	}{
		{list[0], list[0], "container web keeps 192.168.0.9, says server 192.168.0.1; it ends in 9h (2026-11-25T21:00:00Z)"},
		{list[0], forever, "container web keeps 192.168.0.9, says server 192.168.0.1; it does not end"},
		{list[0], moved, "container web has 192.168.0.30 now, and 192.168.0.9 no more, says server 192.168.0.1; it ends in 9h (2026-11-25T21:00:00Z)"},
		{list[3], list[0], "container web has 192.168.0.9 now, says server 192.168.0.1; it ends in 9h (2026-11-25T21:00:00Z)"},
	} {
		if got := renewed(&tc.was, &tc.now, now); got != tc.want {
			t.Errorf("renewed: %s\nwant %s", got, tc.want)
		}
	}
	nameless := list[2]
	nameless.Container = ""
	for _, tc := range []struct {
		was  namedLease
		want string
	}{
		{list[2], "192.168.0.11 is given back to server 192.168.0.1; it was container db's"},
		{nameless, "192.168.0.11 is given back to server 192.168.0.1"},
		{list[5], "192.168.0.12 is forgotten: no server had to be told; it was container old's"},
		{list[3], "lease a4a4a4a4a4a4 is forgotten: no server had to be told; it was container cache's"},
	} {
		if got := givenBack(&tc.was); got != tc.want {
			t.Errorf("released: %s\nwant %s", got, tc.want)
		}
	}
	for _, tc := range []struct {
		l    lan.Lease
		want string
	}{
		{lan.Lease{}, ""},
		{lan.Lease{NTP: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}, "NTP servers: Docker gives a plugin no way to set that in a container"},
		{lan.Lease{Domain: "a.org", Search: []string{"b.org", "c.org"}},
			"domain and search list: Docker gives a plugin no way to set that in a container; try: docker run --dns-search b.org --dns-search c.org"},
		{lan.Lease{Hostname: "pc7"}, "host name: Docker gives a plugin no way to set that in a container; try: docker run --hostname pc7"},
	} {
		if got := notSet(&tc.l); got != tc.want {
			t.Errorf("not set: %s\nwant %s", got, tc.want)
		}
	}
	for digits, want := range map[string]string{
		"": "", "00776562": `00:77:65:62 ("web")`, "0277": "02:77", "zz": "zz", "01": "01", "00": `00 ("")`,
	} {
		if got := clientID(digits); got != want {
			t.Errorf("client id %q is %s, want %s", digits, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0s", 59*time.Second + 600*time.Millisecond: "1m", 61 * time.Minute: "1h1m", 47*time.Hour + 59*time.Minute: "47h59m",
		48 * time.Hour: "2d", 51 * time.Hour: "2d3h", 12*24*time.Hour + 59*time.Minute: "12d",
	} {
		if got := finely(d); got != want {
			t.Errorf("%v is %s, want %s", d, got, want)
		}
	}
}

func TestPrintEvent(t *testing.T) {
	utc(t)
	at := time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC)
	addr := netip.MustParseAddr
	for _, tc := range []struct {
		e    namedEvent
		want string
	}{
		{namedEvent{ipam.Event{Time: at, What: ipam.EventAcquired, Container: "web", Network: "aa0728abe9c17d70", Address: addr("192.168.0.9"), Server: addr("192.168.0.1")}, "lan"},
			"2026-11-25 12:00:00  lease-acquired    192.168.0.9      web/lan               server 192.168.0.1"},
		{namedEvent{ipam.Event{Time: at, What: ipam.EventUnanswered, Endpoint: "ee9cdc103d277c20", Network: "aa0728abe9c17d70", Text: "heard nothing", Server: addr("192.168.0.1")}, ""},
			"2026-11-25 12:00:00  lease-unanswered  -                ee9cdc103d27/aa0728abe9c1  heard nothing"},
		{namedEvent{ipam.Event{Time: at, What: ipam.EventExpired, Address: addr("fd00:1::9")}, ""},
			"2026-11-25 12:00:00  lease-expired     fd00:1::9        -"},
	} {
		var b strings.Builder
		if err := printEvent(&b, &tc.e); err != nil || b.String() != tc.want+"\n" {
			t.Errorf("event: %v\n%swant\n%s", err, b.String(), tc.want)
		}
	}
}

// What is told of a network and a pool of DHCP's, and of containers with another address
// than Docker thinks.
func TestPrintFromDHCP(t *testing.T) {
	p := ipam.PoolState{
		ID: "dhcp", Networks: []string{"aa0728abe9c17d70"}, Source: lan.SourceDHCP, Wire: "eth1", Subnet: netip.MustParsePrefix("0.0.0.0/0"),
		Counts: ipam.Counts{Used: 2, Resting: 1}, ACD: "on", Note: "each address is looked for", Identity: "sticky", Grace: 600,
		Created: time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC),
	}
	names := map[string]string{"aa0728abe9c17d70": "lan"}
	want := []string{"dhcp", "lan", "eth1", "-", "2", "-", "1", "-", "on", "from DHCP"}
	if diff := cmp.Diff(want, poolRow(&p, names, false, true)); diff != "" {
		t.Errorf("pool (-want +got)\n%s", diff)
	}
	utc(t)
	var b strings.Builder
	if err := printPool(&b, &inspectedPool{Pool: namePools([]ipam.PoolState{p}, names)[0]}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(`
Pool:         dhcp
Network:      lan (aa0728abe9c1)
Wire:         eth1
Subnet:       from DHCP
Identity:     sticky
Grace:        10m
ACD:          on
Note:         each address is looked for
Created:      2026-11-25T12:00:00Z
Leases:       2 used, 1 kept for containers that ended; try: lanyard lease ls
`, "\n"+b.String()); diff != "" {
		t.Errorf("pool (-want +got)\n%s", diff)
	}

	any4, any6, some := netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0"), netip.MustParsePrefix("192.168.0.0/24")
	for _, tc := range []struct {
		subnets []lan.Subnet
		ls      string
		lines   []string
	}{
		{[]lan.Subnet{{Pool: any4, Source: lan.SourceDHCP}}, "from DHCP", []string{"from DHCP"}},
		{[]lan.Subnet{{Pool: any4, Source: lan.SourceDHCP}, {Pool: any6, Source: lan.SourceDHCP}}, "from DHCP", []string{"from DHCP", "from DHCP"}},
		{[]lan.Subnet{{Pool: some, Source: lan.SourceDHCP, Gateway: netip.MustParseAddr("192.168.0.1")}}, "192.168.0.0/24",
			[]string{"192.168.0.0/24, addresses from DHCP, gateway 192.168.0.1"}},
		{[]lan.Subnet{{Pool: any4}}, "", []string{"none (null IPAM)"}},
		{[]lan.Subnet{{Pool: some}}, "192.168.0.0/24", []string{"192.168.0.0/24"}},
	} {
		if got := pools(&lan.Network{IPv4: tc.subnets}); got != tc.ls {
			t.Errorf("subnets %v are listed as %s, want %s", tc.subnets, got, tc.ls)
		}
		var lines []string
		printSubnets(func(_, value string) { lines = append(lines, value) }, "", tc.subnets)
		if diff := cmp.Diff(tc.lines, lines); diff != "" {
			t.Errorf("subnets (-want +got)\n%s", diff)
		}
	}

	n := &lan.Network{IPv4: []lan.Subnet{{Pool: any4, Source: lan.SourceDHCP}}, DHCP: lan.DHCP{
		Timeout: 30 * time.Second, Release: lan.ReleaseStop, Servers: []netip.Addr{netip.MustParseAddr("192.168.0.1")}, ClientID: lan.ClientIDMAC,
	}}
	var lines []string
	printDHCP(func(key, value string) {
		if value != "" {
			lines = append(lines, key+": "+value)
		}
	}, n)
	if diff := cmp.Diff([]string{"DHCP: waited for up to 30s, given back when the container ends", "Servers: 192.168.0.1", "Client ID: mac"}, lines); diff != "" {
		t.Errorf("network (-want +got)\n%s", diff)
	}

	has, told := netip.MustParsePrefix("192.168.0.9/24"), netip.MustParsePrefix("192.168.0.7/24")
	for _, tc := range []struct {
		has, told netip.Prefix
		want      string
	}{
		{has, netip.Prefix{}, "192.168.0.9/24"}, {has, told, "192.168.0.9/24 (Docker: 192.168.0.7)"}, {has, has, "192.168.0.9/24"},
		{netip.Prefix{}, told, "none (Docker: 192.168.0.7)"}, {netip.Prefix{}, netip.Prefix{}, ""},
	} {
		if got := addressText(tc.has, tc.told); got != tc.want {
			t.Errorf("%s, told %s: %s, want %s", tc.has, tc.told, got, tc.want)
		}
	}
}

// fakeDaemon answers on a socket for a daemon with leases, and for nobody's Docker.
func fakeDaemon(t *testing.T, src control.Source) {
	t.Helper()
	t.Setenv(envSocket, answers(t, control.NewHandler(src, slog.New(slog.NewTextHandler(io.Discard, nil)))))
	t.Setenv("DOCKER_HOST", "unix://"+filepath.Join(t.TempDir(), "docker.sock"))
}

// answers has a handler answer on a socket, and returns the path.
func answers(t *testing.T, h http.Handler) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
	return socket
}

// A network with the name of another one's pool is not hidden by that.
func TestNetworkNamedAsPool(t *testing.T) {
	src := leaseSource()
	src.Pools = func() []ipam.PoolState {
		p := ipam.PoolState{ID: "dhcp", Networks: []string{"aa0728abe9c17d70"}, Source: lan.SourceDHCP, Wire: "eth1", Subnet: netip.MustParsePrefix("0.0.0.0/0")}
		q := p
		q.ID, q.Networks, q.Wire = "dhcp#2", []string{"bb"}, "eth2"
		return []ipam.PoolState{p, q}
	}
	src.Addresses = func() ([]ipam.AddressState, error) { return nil, nil }
	fakeDaemon(t, src)
	t.Setenv("DOCKER_HOST", "unix://"+answers(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, `[{"Id": "aa0728abe9c17d70", "Name": "lan", "Driver": "lanyard"}, {"Id": "bb", "Name": "dhcp", "Driver": "lanyard"}]`)
	})))
	for _, tc := range []struct {
		line string
		code int
		want string
	}{
		{"pool inspect dhcp", 0, `(?s)^Pool: +dhcp\nNetwork: +lan .*\n\nPool: +dhcp#2\nNetwork: +dhcp \(bb\)`},
		{"pool inspect dhcp#2", 0, `^Pool: +dhcp#2\n`},
		{"pool inspect lan", 0, `^Pool: +dhcp\n`},
		{"pool inspect lan dhcp", 0, `(?s)^Pool: +dhcp\n.*\n\nPool: +dhcp#2\n`},
		{"pool inspect none", 1, `^lanyard: network "none" is not known`},
		{"pool inspect 10.0.0.0/8", 1, `^lanyard: pool "10.0.0.0/8" is not known`},
		{"address reserve 10.0.0.9 --pool dhcp", 1, `^lanyard: "dhcp" is a pool on eth1 and a network on eth2; try: --network\n$`},
	} {
		var out bytes.Buffer
		if code := run(strings.Split(tc.line, " "), &out, &out); code != tc.code || !regexp.MustCompile(tc.want).MatchString(out.String()) {
			t.Errorf("lanyard %s exits %d\n%swant %d\n%s", tc.line, code, out.String(), tc.code, tc.want)
		}
	}
}

// twoWires are leasesAt, and those of one container that has one address on two wires, of
// which one lease was lost.
func twoWires(now time.Time) []ipam.LeaseState {
	all := leasesAt(now)
	for _, id := range []string{"a8a8a8a8a8a8", "a8a8a8a8a8a9"} {
		l := all[0]
		l.ID, l.Container, l.Address, l.Endpoint = id, "twins", netip.MustParseAddr("192.168.0.13"), id
		all = append(all, l)
	}
	all[len(all)-2].State = ipam.LeaseLost
	return all
}

func leaseSource() control.Source {
	find := func(id string) (ipam.LeaseState, error) {
		for _, l := range twoWires(time.Now()) {
			if l.ID == id {
				return l, nil
			}
		}
		return ipam.LeaseState{}, lan.Refusef(lan.ErrNotFound, "no lease %q is known; try: lanyard lease ls", id)
	}
	return control.Source{
		Networks: func() []engine.NetworkState {
			return []engine.NetworkState{{Network: lan.Network{ID: "aa0728abe9c17d70"}}, {Network: lan.Network{ID: "bb"}}}
		},
		Leases: func() []ipam.LeaseState { return twoWires(time.Now()) },
		Lease:  find,
		RenewLease: func(_ context.Context, id string) (ipam.LeaseState, error) {
			l, err := find(id)
			switch {
			case err != nil:
			case l.State == ipam.LeaseRebinding, l.State == ipam.LeaseLost:
				err = lan.Refusef(lan.ErrUnavailable, "lease %s was not renewed: no server answers", l.ID)
			case l.Address.Is6():
				time.Sleep(patience + 200*time.Millisecond)
			}
			return l, err
		},
		ReleaseLease: func(_ context.Context, id string) (ipam.LeaseState, error) {
			l, err := find(id)
			if err == nil && l.Endpoint != "" {
				err = lan.Refusef(lan.ErrConflict, "lease %s of %s is a running container's; try: docker stop, then this again", l.ID, l.Address)
			}
			return l, err
		},
		Events: func(_ context.Context, after uint64, _ bool) []ipam.Event {
			old := ipam.Event{Seq: 1, Time: time.Now().Add(-2 * time.Hour), What: ipam.EventAcquired, Container: "web", Address: netip.MustParseAddr("192.168.0.9")}
			late := ipam.Event{Seq: 5, Time: time.Now().Add(-time.Minute), What: ipam.EventRenewed, Container: "web", Network: "aa0728abe9c17d70"}
			return []ipam.Event{old, late}[min(after, 2):]
		},
	}
}

// The commands, as they are typed.
func TestLeaseCommands(t *testing.T) {
	fakeDaemon(t, leaseSource())
	for _, tc := range []struct {
		line        string
		code        int
		out, errout string // patterns, "" for nothing at all
	}{
		{"lease ls", 0, `(?s)^LEASE .*\na1a1a1a1a1a1 +192.168.0.9 +bound +web +aa0728abe9c1 .*in 3h +in 9h.*a7a7`,
			`^lanyard: lease a2a2a2a2a2a2 of endpoint ff9cdc103d27: no lease within 4s: .*\nlanyard: lease a4a4a4a4a4a4 of container cache: .*\n$`},
		{"lease ls -q", 0, `^a1a1a1a1a1a1\na2a2a2a2a2a2\na3a3a3a3a3a3\na4a4a4a4a4a4\na5a5a5a5a5a5\na7a7a7a7a7a7\na8a8a8a8a8a8\na8a8a8a8a8a9\n$`, ""},
		{"lease ls -q --all", 0, `\na6a6a6a6a6a6\n`, ""},
		{"lease ls -q --state past", 0, `^a6a6a6a6a6a6\n$`, ""},
		{"lease ls -q --state idle --network aa07", 0, `^a3a3a3a3a3a3\n$`, ""},
		{"lease ls -q --network bb", 0, "", ""},
		{"lease ls --network cc", 1, "", `^lanyard: network "cc" is not known`},
		{"lease ls --json --state lost", 0, `(?s)^\[\n  \{\n    "id": "a4a4a4a4a4a4",\n    "state": "lost",.*"a8a8a8a8a8a8".*\]\n$`, ""},
		{"lease inspect 192.168.0.11", 0, `(?s)^Lease: +a3a3a3a3a3a3\n.*\nGiven back: +in 9m`, ""},
		{"lease inspect a3a3", 0, `^Lease: +a3a3a3a3a3a3\n`, ""},
		{"lease inspect web", 0, `(?s)^Lease: +a1a1a1a1a1a1\n.*\n\nLease: +a7a7a7a7a7a7\n.*\nIAID: +1\n`, ""},
		{"lease inspect web --json", 0, `(?s)^\[\n  \{.*"told": "192.168.0.7".*"duid": "0004c0ffee".*"iaid": 1.*\]\n$`, ""},
		{"lease inspect nobody", 1, "", `^lanyard: no lease "nobody" is known; try: lanyard lease ls\n$`},
		{"lease inspect 192.168.0.13", 1, "", `^lanyard: 2 leases are "192.168.0.13"; try: lanyard lease ls, and the id of one\n$`},
		{"lease inspect a8a8a8a8a8a", 1, "", `^lanyard: 2 leases are "a8a8a8a8a8a"`},
		{"lease renew 192.168.0.9", 0, `^container web keeps 192.168.0.9, says server 192.168.0.1; it ends in 9h .*\n$`, ""},
		{"lease renew web", 0, `^container web keeps 192.168.0.9, .*\ncontainer web keeps fd00:1::9, says server fe80::1; it ends in 12d.*\n$`, `^asking DHCP server fe80::1 for more time ...\n$`},
		{"lease renew a1a1a1a1a1a1 --json", 0, `(?s)^\[\n  \{.*"id": "a1a1a1a1a1a1".*\]\n$`, ""},
		{"lease renew 192.168.0.10", 1, "", `^lanyard: lease a2a2a2a2a2a2 was not renewed: no server answers\n$`},
		{"lease renew cache", 1, "", `^lanyard: lease a4a4a4a4a4a4 was not renewed: no server answers\n$`},
		{"lease renew twins", 1, `^container twins keeps 192.168.0.13, .*\n$`, `^lanyard: lease a8a8a8a8a8a8 was not renewed: no server answers\n$`},
		{"lease release db", 0, `^192.168.0.11 is given back to server 192.168.0.1; it was container db's\n$`, ""},
		{"lease release 192.168.0.12 --json", 0, `(?s)^\[\n  \{.*"state": "past"`, ""},
		{"lease release web", 1, "", `(?s)^lanyard: lease a1a1a1a1a1a1 .*\nlanyard: lease a7a7a7a7a7a7 .* is a running container's; try: docker stop, then this again\n$`},
		{"events", 0, `^.* lease-acquired .* web\n.* lease-renewed +- +web/aa0728abe9c1\n$`, `^lanyard: 3 events came faster than they were read, and are not shown\n$`},
		{"events --since 1h", 0, `^\S+ \S+  lease-renewed .*\n$`, "3 events"},
		{"events --since 0s", 0, "", "3 events"},
		{"events --filter event=lease-acquired", 0, `^.* lease-acquired .* web\n$`, "3 events"},
		{"events --filter type=lease --filter network=aa07", 0, `^\S+ \S+  lease-renewed .*\n$`, "3 events"},
		{"events --filter type=parent --filter type=host", 0, "", "3 events"},
		{"events --filter event=lease-renewed --filter event=lease-acquired --filter container=nobody", 0, "", "3 events"},
		{"events --until 1h", 0, `^.* lease-acquired .* web\n$`, "3 events"},
		{"events --since 2020-01-01 --until 2020-01-01T12:00:00Z", 0, "", "3 events"},
		{"events --json", 0, `^\{"seq":1,.*\}\n\{"seq":5,.*\}\n$`, "3 events"},
		{"events -f --since 1h", 1, `^\S+ \S+  lease-renewed .*\n$`, `(?m)^lanyard: control socket .*: daemon has stopped; try: the same again when it is back$`},
		{"__complete lease inspect ", 0, `(?s)^web\tthe container's leases\n192.168.0.9\tcontainer web, bound\n.*\na4a4a4a4a4a4\tcontainer cache, lost\n`, "."},
		{"__complete lease renew ", 0, `^web\t.*\n192.168.0.9\t.*\n192.168.0.10\tendpoint ff9cdc103d27, rebinding\ncache\t.*\na4a4`, "."},
		{"__complete lease release ", 0, `^db\t.*\n192.168.0.11\tcontainer db, idle\nold\t.*\n192.168.0.12\tcontainer old, past\n:4\n$`, "."},
		{"__complete lease release web ", 0, `^:4\n$`, "."},
		{"__complete lease ls --state ", 0, `^bound\nrenewing\n`, "."},
	} {
		var out, errout bytes.Buffer
		args := strings.Split(tc.line, " ") // the last may be empty
		code := run(args, &out, &errout)
		matches := func(pattern, text string) bool {
			if pattern == "" {
				return text == ""
			}
			return regexp.MustCompile(pattern).MatchString(text)
		}
		if code != tc.code || !matches(tc.out, out.String()) || !matches(tc.errout, errout.String()) {
			t.Errorf("lanyard %s exits %d\n%s%s\nwant %d\n%s\n%s", tc.line, code, out.String(), errout.String(), tc.code, tc.out, tc.errout)
		}
	}
}

// ^C ends events --follow, and is no failure.
func TestEventsInterrupted(t *testing.T) {
	src := leaseSource()
	src.Events = func(ctx context.Context, after uint64, wait bool) []ipam.Event {
		switch {
		case wait && after == 2:
			<-ctx.Done()
			return nil
		case wait:
			return []ipam.Event{{Seq: 2, Time: time.Now(), What: ipam.EventLost}}
		}
		return []ipam.Event{{Seq: 1, Time: time.Now(), What: ipam.EventAcquired}}
	}
	fakeDaemon(t, src)
	out, w := io.Pipe()
	var errout bytes.Buffer
	var code int
	var running sync.WaitGroup
	running.Go(func() {
		code = run([]string{"events", "-f", "--json"}, w, &errout)
		w.Close()
	})
	b := make([]byte, 4096)
	var got string
	for {
		n, err := out.Read(b)
		got += string(b[:n])
		if err != nil {
			break
		}
		if strings.Contains(got, ipam.EventLost) {
			if err := syscall.Kill(syscall.Getpid(), syscall.SIGINT); err != nil {
				t.Fatal(err)
			}
		}
	}
	running.Wait()
	if code != 0 || strings.Count(got, "\n") != 2 || errout.Len() > 0 {
		t.Errorf("exits %d\n%s%s", code, got, errout.String())
	}
}
