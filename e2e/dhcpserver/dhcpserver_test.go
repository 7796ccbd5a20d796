package dhcpserver

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
)

var ctx = context.Background()

// lan is a server's namespace and a client's, with a wire between them: "srv" and "cli".
type lan struct {
	t           *testing.T
	dir         string
	srv, cli    Runner
	client      *kerneltest.Host
	server      *kerneltest.Host
	leaseScript string
}

func newLAN(t *testing.T) *lan {
	t.Helper()
	server, client := kerneltest.New(t), kerneltest.New(t)
	for _, h := range []*kerneltest.Host{server, client} {
		// Nobody else is there, and the kernel's question takes 2 s.
		if out, err := Nsenter(h.Path())(ctx, "echo 0 >/proc/sys/net/ipv6/conf/default/dad_transmits"); err != nil {
			t.Fatal(err, out)
		}
	}
	server.Veth("srv", "cli")
	server.IP("link set cli netns %s", client.Path())
	client.IP("link set cli up")
	client.IP("link set lo up")
	l := &lan{t: t, dir: t.TempDir(), srv: Nsenter(server.Path()), cli: Nsenter(client.Path()), client: client, server: server}
	// The ping learns the server's MAC, which a release must have at once: its address goes.
	l.leaseScript = filepath.Join(l.dir, "script")
	script := "#!/bin/sh\nip addr flush dev $interface scope global\n[ $1 = bound ] || exit 0\nip addr add $ip/$mask dev $interface\n/bin/busybox ping -c1 -W1 $serverid\nenv\nkill -TERM $PPID\n"
	if err := os.WriteFile(l.leaseScript, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return l
}

func (l *lan) start(c Config) *Server {
	l.t.Helper()
	s, err := Start(ctx, l.srv, filepath.Join(l.dir, "server"), c)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		if l.t.Failed() {
			l.t.Log(s.Log(ctx))
		}
		if err := s.Close(ctx); err != nil {
			l.t.Error(err)
		}
		// Processes that only wait to be reaped have no files.
		if out, _ := l.srv(ctx, "ls -l /proc/[0-9]*/fd 2>/dev/null | grep "+l.dir); out != "" {
			l.t.Errorf("left:\n%s", out)
		}
	})
	return s
}

// udhcpc gets a lease and returns what it was told.
func (l *lan) udhcpc(flags string) string {
	l.t.Helper()
	out, err := l.cli(ctx, "/bin/busybox udhcpc -f -n -t 10 -T 1 -i cli -s "+l.leaseScript+" "+flags)
	if err != nil {
		l.t.Fatalf("udhcpc %s: %v\n%s", flags, err, out)
	}
	return out
}

func (l *lan) leases(s *Server, want ...Lease) {
	l.t.Helper()
	got, err := s.Leases(ctx)
	if err != nil {
		l.t.Fatal(err)
	}
	for i := range got {
		if d := time.Until(got[i].Expires); d < 5*time.Second || d > 2*time.Hour {
			l.t.Errorf("lease %v expires in %s", got[i], d)
		}
		got[i].Expires = time.Time{}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		l.t.Errorf("leases:\n%+v\nwant\n%+v", got, want)
	}
}

func addrs(words ...string) []netip.Addr {
	var list []netip.Addr
	for _, w := range words {
		list = append(list, netip.MustParseAddr(w))
	}
	return list
}

func pool(subnet, from, to string) *Pool {
	return &Pool{Subnet: netip.MustParsePrefix(subnet), From: netip.MustParseAddr(from), To: netip.MustParseAddr(to)}
}

const mac = "52:54:00:12:34:56"

func everything(k Kind) Config {
	return Config{
		Kind: k, Link: "srv", Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.1/24"), netip.MustParsePrefix("2001:db8::1/64")},
		V4: pool("192.0.2.0/24", "192.0.2.100", "192.0.2.109"), V6: pool("2001:db8::/64", "2001:db8::100", "2001:db8::1ff"),
		Renew: 10 * time.Minute, Rebind: 20 * time.Minute, Authoritative: true, NoPing: true, RapidCommit: true, RA: k == Dnsmasq,
		Reservations: []Reservation{
			{MAC: mac, Addr: netip.MustParseAddr("192.0.2.9"), Host: "printer"},
			{ClientID: "ff0102030405", Addr: netip.MustParseAddr("192.0.2.10")},
			{ClientID: "00030001525400123456", Addr: netip.MustParseAddr("2001:db8::9")},
		},
		Routers: addrs("192.0.2.254"), DNS: addrs("192.0.2.53", "2001:db8::53"), NTP: addrs("192.0.2.123"), MTU: 1400, Domain: "lan.example",
		Search: []string{"a.example", "b.example"}, Routes: []Route{{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParseAddr("192.0.2.7")}},
	}
}

func TestServers(t *testing.T) {
	for _, k := range []Kind{Dnsmasq, Kea} {
		t.Run(string(k), func(t *testing.T) {
			t.Parallel()
			l := newLAN(t)
			s := l.start(everything(k))
			pool := netip.MustParseAddr("192.0.2.100")
			if k == Dnsmasq { // chooses by a hash
				s.c.Lines = []string{"dhcp-sequential-ip"}
				if err := s.Reconfigure(ctx, s.c); err != nil {
					t.Fatal(err)
				}
			}

			// What the client is told.
			l.client.IP("link set cli address 52:54:00:00:00:01")
			out := l.udhcpc("-O 121 -O mtu -O ntpsrv -O search -O domain -O timezone -x hostname:c1")
			for _, want := range []string{
				"ip=192.0.2.100", "mask=24", "router=192.0.2.254", "dns=192.0.2.53", "ntpsrv=192.0.2.123", "mtu=1400", "domain=lan.example",
				"search=a.example b.example", "staticroutes=10.0.0.0/8 192.0.2.7", "lease=3600", "serverid=192.0.2.1",
			} {
				if !strings.Contains(out, want+"\n") {
					t.Errorf("no %s in\n%s", want, out)
				}
			}
			first := Lease{Addr: pool, MAC: "52:54:00:00:00:01", ClientID: "01525400000001", Host: "c1"}
			if k == Kea {
				first.Host = "c1.lan.example"
			}
			got, err := s.Leases(ctx)
			if err != nil || len(got) != 1 {
				t.Fatalf("leases %v, %v", got, err)
			}
			if k == Kea {
				first.Host = got[0].Host // with or without its domain
			}
			l.leases(s, first)

			// Reservations by MAC and by client id.
			l.client.IP("link set cli address %s", mac)
			l.udhcpc("")
			reserved := Lease{Addr: netip.MustParseAddr("192.0.2.9"), MAC: mac, ClientID: "01525400123456", Host: "printer"}
			l.client.IP("link set cli address 52:54:00:00:00:02")
			l.udhcpc("-C -x 0x3d:ff0102030405")
			byID := Lease{Addr: netip.MustParseAddr("192.0.2.10"), MAC: "52:54:00:00:00:02", ClientID: "ff0102030405"}
			if k == Kea {
				if got, err := s.Leases(ctx); err == nil && len(got) > 0 {
					reserved.Host = got[0].Host
				}
			}
			l.leases(s, reserved, byID, first)

			// Leases outlast a kill and an administrator's change.
			if err := s.Kill(ctx); err != nil {
				t.Fatal(err)
			}
			if err := s.Start(ctx); err != nil {
				t.Fatal(err)
			}
			l.leases(s, reserved, byID, first)
			moved := s.c
			moved.V4 = &Pool{moved.V4.Subnet, netip.MustParseAddr("192.0.2.200"), netip.MustParseAddr("192.0.2.209")}
			moved.Reservations = nil
			if err := s.Reconfigure(ctx, moved); err != nil {
				t.Fatal(err)
			}
			l.client.IP("link set cli address 52:54:00:00:00:03")
			if out := l.udhcpc("-R"); !strings.Contains(out, "ip=192.0.2.200") { // and releases it
				t.Errorf("after the move:\n%s", out)
			}
			time.Sleep(100 * time.Millisecond)
			l.leases(s, reserved, byID, first)
			if err := s.Forget(ctx); err != nil {
				t.Fatal(err)
			}
			l.leases(s)
		})
	}
}

func TestServersV6(t *testing.T) {
	for _, k := range []Kind{Dnsmasq, Kea} {
		t.Run(string(k), func(t *testing.T) {
			t.Parallel()
			l := newLAN(t)
			c := everything(k)
			c.V4 = nil
			s := l.start(c)
			duid := []byte{0, 3, 0, 1, 0x52, 0x54, 0, 0x12, 0x34, 0x56}
			reply := l.solicit(duid, 77)
			got, err := s.Leases(ctx)
			if err != nil || len(got) != 1 {
				t.Fatalf("leases %v, %v; reply % x", got, err, reply)
			}
			want := Lease{Addr: netip.MustParseAddr("2001:db8::9"), ClientID: "00030001525400123456", IAID: 77, MAC: got[0].MAC}
			l.leases(s, want)
			if err := s.Restart(ctx); err != nil {
				t.Fatal(err)
			}
			l.leases(s, want)
		})
	}
}

// solicit asks for an address with rapid commit (RFC 8415) and returns the reply.
func (l *lan) solicit(duid []byte, iaid uint32) []byte {
	l.t.Helper()
	option := func(b []byte, code int, data []byte) []byte {
		b = binary.BigEndian.AppendUint16(b, uint16(code))
		return append(binary.BigEndian.AppendUint16(b, uint16(len(data))), data...)
	}
	m := option([]byte{1, 1, 2, 3}, 1, duid)
	m = option(m, 3, append(binary.BigEndian.AppendUint32(nil, iaid), make([]byte, 8)...))
	m = option(option(m, 14, nil), 8, []byte{0, 0})
	if out, err := l.cli(ctx, "for i in $(seq 100); do [ -n \"$(ip -6 addr show dev cli tentative)\" ] || break; sleep 0.05; done"); err != nil {
		l.t.Fatal(err, out)
	}
	var reply []byte
	if err := l.client.NS.Do(func() error {
		conn, err := net.ListenUDP("udp6", &net.UDPAddr{Port: 546})
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := conn.WriteToUDP(m, &net.UDPAddr{IP: net.ParseIP("ff02::1:2"), Port: 547, Zone: "cli"}); err != nil {
			return err
		}
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		reply = make([]byte, 1500)
		n, _, err := conn.ReadFromUDP(reply)
		reply = reply[:n]
		return err
	}); err != nil {
		l.t.Fatal(err)
	}
	if reply[0] != 7 {
		l.t.Errorf("answer of type %d, want 7: a reply", reply[0])
	}
	return reply
}

// A server behind a router with a relay agent, in a namespace apart.
func TestRelay(t *testing.T) {
	l := newLAN(t)
	router := l.server // its link srv is the clients'
	router.Veth("uplink", "wire")
	router.IP("addr add 192.0.2.1/24 dev srv")
	router.IP("addr add 198.51.100.1/24 dev uplink")
	a, err := NewApart(ctx, l.srv, filepath.Join(l.dir, "apart"), "wire")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := a.Close(ctx); err != nil {
			t.Error(err)
		}
		if links := fmt.Sprint(router.Links()); links != "[srv wire uplink]" {
			t.Errorf("links left: %v", links)
		}
	}()
	s, err := Start(ctx, a.Run, filepath.Join(l.dir, "server"), Config{
		Kind: Kea, Link: ApartLink, Addrs: []netip.Prefix{netip.MustParsePrefix("198.51.100.2/24")},
		V4: pool("192.0.2.0/24", "192.0.2.100", "192.0.2.109"), LeaseTime: 20 * time.Second, Renew: 5 * time.Second, Rebind: 10 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			t.Log(s.Log(ctx))
		}
		if err := s.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	if out, err := a.Run(ctx, "ip route add 192.0.2.0/24 via 198.51.100.1"); err != nil {
		t.Fatal(err, out)
	}
	r, err := StartRelay(ctx, l.srv, filepath.Join(l.dir, "relay"), RelayConfig{Down: "srv", Up: "uplink", Server: netip.MustParseAddr("198.51.100.2")})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if t.Failed() {
			t.Log(r.Log(ctx))
		}
		if err := r.Close(ctx); err != nil {
			t.Error(err)
		}
	}()
	if out := l.udhcpc(""); !strings.Contains(out, "ip=192.0.2.100\n") || !strings.Contains(out, "lease=20\n") {
		t.Errorf("by the relay:\n%s", out)
	}
	if got, err := s.Leases(ctx); err != nil || len(got) != 1 {
		t.Errorf("leases %v, %v", got, err)
	}
}

func TestRefuses(t *testing.T) {
	for _, tt := range []struct {
		c    Config
		want string
	}{
		{Config{Kind: Dnsmasq}, "no pool"},
		{Config{Kind: "isc", V4: &Pool{}}, "no such kind"},
		{Config{Kind: Dnsmasq, V4: &Pool{}, LeaseTime: 10 * time.Second}, "try: kea"},
		{Config{Kind: Kea, V4: &Pool{}, LeaseTime: 10 * time.Second, Renew: 10 * time.Second}, "renewal after"},
	} {
		if _, err := Start(ctx, Nsenter("/proc/self/ns/net"), filepath.Join(t.TempDir(), "x"), tt.c); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%+v: %v, want %q", tt.c, err, tt.want)
		}
	}
}

func TestParseKea(t *testing.T) {
	const text = `address,hwaddr,client_id,valid_lifetime,expire,subnet_id,fqdn_fwd,fqdn_rev,hostname,state,user_context
192.0.2.100,52:54:00:00:00:01,01:52:54:00:00:00:01,10,1000,1,0,0,a,0,
192.0.2.101,52:54:00:00:00:02,,10,1000,1,0,0,,0,
192.0.2.100,52:54:00:00:00:01,01:52:54:00:00:00:01,10,1010,1,0,0,b,0,
192.0.2.101,52:54:00:00:00:02,,0,1000,1,0,0,,0,
192.0.2.102,,,86400,1000,1,0,0,,1,
192.0.2.103,52:54`
	got, err := parseKea(text)
	if err != nil || len(got) != 2 {
		t.Fatalf("%v, %v", got, err)
	}
	for _, l := range got {
		if l.Declined != (l.Addr.String() == "192.0.2.102") || !l.Declined && (l.Host != "b" || l.Expires.Unix() != 1010 || l.ClientID != "01525400000001") {
			t.Errorf("%+v", l)
		}
	}
}
