package dhcp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/lanyard-net/lanyard/internal/kerneltest"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/packet"
)

// realServers6 are what containers meet, with a pool of addresses from one to another.
var realServers6 = []struct {
	name  string
	start func(l *lab6, from, to string) *program
	// What it prints.
	released, declined, renewed, rebound string
	// Whether a client whose address is no more is given another.
	replaces bool
}{
	{
		"dnsmasq", func(l *lab6, from, to string) *program {
			return l.dnsmasq(from+","+to+",64,10m", "--dhcp-option=option6:dns-server,[fd00:1::53],[fd00:1::54]",
				"--dhcp-option=option6:domain-search,example.org,lab.example.org", "--dhcp-option=option6:ntp-server,[fd00:1::123]")
		},
		"DHCPRELEASE", "DHCPDECLINE", "DHCPRENEW", "DHCPREBIND", false,
	},
	{
		"kea", func(l *lab6, from, to string) *program { return l.kea(from+" - "+to, "") },
		"DHCP6_RELEASE_NA ", "DHCP6_DECLINE_LEASE ", "DHCP6_LEASE_RENEW", "DHCP6_LEASE_RENEW", true,
	},
}

// eachServer6 runs a test with a wire to each server.
func eachServer6(t *testing.T, test func(t *testing.T, l *lab6, w *Wire6, server int)) {
	t.Parallel()
	for i, s := range realServers6 {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			l := newLab6(t, macvlan)
			test(t, l, l.wire(), i)
		})
	}
}

func TestAcquire6(t *testing.T) {
	eachServer6(t, func(t *testing.T, l *lab6, w *Wire6, server int) {
		realServers6[server].start(l, "fd00:1::100", "fd00:1::1ff")
		begin := time.Now()
		got := acquire6(t, w, ask6(1))
		t.Logf("took %v: %+v", time.Since(begin), got)
		if a := got.Addr; a.Bits() != 64 || a.Addr().Less(netip.MustParseAddr("fd00:1::100")) || netip.MustParseAddr("fd00:1::1ff").Less(a.Addr()) {
			t.Errorf("address %s, want one of the pool", a)
		}
		if !got.Server.IsLinkLocalUnicast() || got.Server.Zone() != "" || len(got.ServerID) == 0 {
			t.Errorf("server %s, %x", got.Server, got.ServerID)
		}
		want := "[fd00:1::53 fd00:1::54] [fd00:1::123] [example.org lab.example.org]"
		if text := fmt.Sprint(got.DNS, got.NTP, got.Search); text != want {
			t.Errorf("got %s, want %s", text, want)
		}
		if got.Renew <= 0 || got.Renew > got.Rebind || got.Rebind > got.Life || got.Preferred > got.Life || got.Life < 10*time.Minute {
			t.Errorf("times %v %v %v %v", got.Renew, got.Rebind, got.Preferred, got.Life)
		}
		if got.Asked.Before(begin) || got.Asked.After(time.Now()) || len(got.Notes) > 0 {
			t.Errorf("asked at %v, notes %q", got.Asked, got.Notes)
		}
		a := ask6(2)
		a.Subnet = netip.Prefix{}
		if got := acquire6(t, w, a); got.Addr.Bits() != 128 {
			t.Errorf("%s without a subnet, want /128", got.Addr)
		}
		if again := acquire6(t, w, ask6(1)); again.Addr != got.Addr {
			t.Errorf("the same client gets %s, and got %s", again.Addr, got.Addr)
		}
		// Another IAID is another lease.
		a = ask6(1)
		a.IAID++
		if other := acquire6(t, w, a); other.Addr == got.Addr {
			t.Errorf("%s for two IAIDs", other.Addr)
		}
	})
}

func TestManyAtOnce6(t *testing.T) {
	eachServer6(t, func(t *testing.T, l *lab6, w *Wire6, server int) {
		realServers6[server].start(l, "fd00:1::100", "fd00:1::1ff")
		const n = 30
		var wg sync.WaitGroup
		leases := make([]*lan.Lease, n)
		begin := time.Now()
		for i := range leases {
			wg.Go(func() {
				var err error
				if leases[i], err = w.Acquire(within6(t, 10*time.Second), ask6(i)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		t.Logf("took %v", time.Since(begin))
		seen := map[netip.Addr]bool{}
		for _, l := range leases {
			if l != nil && seen[l.Addr.Addr()] {
				t.Errorf("%s given twice", l.Addr)
			} else if l != nil {
				seen[l.Addr.Addr()] = true
			}
		}
		quiet6(t, w)
	})
}

// quiet6 fails where an exchange was left behind.
func quiet6(t *testing.T, w *Wire6) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if n := len(w.exchanges); n > 0 {
		t.Errorf("%d exchanges are left", n)
	}
}

func TestWishedAddress6(t *testing.T) {
	eachServer6(t, func(t *testing.T, l *lab6, w *Wire6, server int) {
		realServers6[server].start(l, "fd00:1::100", "fd00:1::1ff")
		a := ask6(1)
		a.Addr, a.Only = netip.MustParseAddr("fd00:1::155"), true
		if got := acquire6(t, w, a); got.Addr.Addr() != a.Addr {
			t.Errorf("got %s, want %s", got.Addr, a.Addr)
		}
		// It is taken now.
		b := ask6(2)
		b.Addr, b.Only = a.Addr, true
		got, err := w.Acquire(within6(t, 300*time.Millisecond), b)
		var silence *SilenceError
		if !errors.As(err, &silence) || !strings.Contains(err.Error(), "not the address that was asked for") {
			t.Errorf("got %v, %v", got, err)
		}
		b.Only = false
		if got := acquire6(t, w, b); got.Addr.Addr() == a.Addr {
			t.Errorf("%s given twice", got.Addr)
		}
	})
}

func TestLife6(t *testing.T) {
	eachServer6(t, func(t *testing.T, l *lab6, w *Wire6, server int) {
		s := realServers6[server]
		p := s.start(l, "fd00:1::100", "fd00:1::1ff")
		ctx := within6(t, 10*time.Second)
		got := acquire6(t, w, ask6(1))
		for _, rebind := range []bool{false, true} {
			begin := time.Now()
			again, err := w.Renew(ctx, ask6(1), got, rebind)
			if err != nil {
				t.Fatal(err)
			}
			if again.Addr != got.Addr || again.Life != got.Life || again.Asked.Before(begin) || len(again.ServerID) == 0 {
				t.Errorf("renewed as %+v", again)
			}
		}
		p.await(t, s.renewed)
		p.await(t, s.rebound)
		if again, err := w.Reboot(ctx, ask6(1), got); err != nil || again.Addr != got.Addr {
			t.Errorf("reboot: %v, %v", again, err)
		}
		begin := time.Now()
		if err := w.Release(ctx, client6(1), got); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took > 900*time.Millisecond {
			t.Errorf("release took %v with a server that answers", took)
		}
		p.await(t, s.released)
		// Somebody else can have it now.
		a := ask6(2)
		a.Addr, a.Only = got.Addr.Addr(), true
		got = acquire6(t, w, a)
		if err := w.Decline(ctx, a.Client, got); err != nil {
			t.Error(err)
		}
		p.await(t, s.declined)
		if s.name == "dnsmasq" { // it gives it to whoever asks for it
			return
		}
		a.Client = client6(3)
		if got, err := w.Acquire(within6(t, 200*time.Millisecond), a); err == nil {
			t.Errorf("%s given after it was declined", got.Addr)
		}
		quiet6(t, w)
	})
}

// A lease of a server that has forgotten it.
func TestServerForgets6(t *testing.T) {
	eachServer6(t, func(t *testing.T, l *lab6, w *Wire6, server int) {
		s := realServers6[server]
		p := s.start(l, "fd00:1::100", "fd00:1::1ff")
		old := acquire6(t, w, ask6(1))
		p.stop()
		p = s.start(l, "fd00:1::100", "fd00:1::1ff")
		// It grants it anew, whoever asks.
		for _, extend := range []func() (*lan.Lease, error){
			func() (*lan.Lease, error) { return w.Renew(within6(t, time.Second), ask6(1), old, true) },
			func() (*lan.Lease, error) { return w.Reboot(within6(t, time.Second), ask6(1), old) },
		} {
			if again, err := extend(); err != nil || again.Addr != old.Addr {
				t.Errorf("got %+v, %v", again, err)
			}
		}
		p.stop()
		// The site has moved.
		s.start(l, "fd00:2::100", "fd00:2::1ff")
		a := ask6(1)
		a.Subnet = netip.Prefix{}
		for _, rebind := range []bool{true, false} {
			extend := func() (*lan.Lease, error) { return w.Renew(within6(t, time.Second), a, old, rebind) }
			a.Only = false
			var nak *NakError
			if got, err := extend(); s.replaces && (err != nil || got.Addr.Addr() != netip.MustParseAddr("fd00:2::100")) {
				t.Errorf("rebind=%v: got %+v, %v; want another address", rebind, got, err)
			} else if !s.replaces && !errors.As(err, &nak) {
				t.Errorf("rebind=%v: got %+v, %v; want a refusal", rebind, got, err)
			}
			a.Only = true
			if got, err := extend(); !errors.As(err, &nak) || !nak.Server.IsLinkLocalUnicast() || nak.Message == "" {
				t.Errorf("rebind=%v: got %+v, %v; want a refusal", rebind, got, err)
			}
		}
		begin := time.Now()
		if got, err := w.Reboot(within6(t, time.Second), a, old); err == nil || time.Since(begin) > 900*time.Millisecond {
			t.Errorf("reboot: got %+v, %v after %v", got, err, time.Since(begin))
		}
	})
}

func TestRapidCommit6(t *testing.T) {
	t.Parallel()
	l := newLab6(t, macvlan)
	p := l.kea("fd00:1::100 - fd00:1::1ff", "")
	w := l.wire()
	a := ask6(1)
	a.RapidCommit = true
	got := acquire6(t, w, a)
	if strings.Contains(p.said(), "DHCP6_LEASE_ADVERT ") || got.Asked.IsZero() {
		t.Errorf("got %+v after an ADVERTISE", got)
	}
	// One that is refused goes back.
	a = ask6(2)
	a.RapidCommit, a.Refuse = true, func(*lan.Lease) string { return "a test refuses it" }
	_, err := w.Acquire(within6(t, 200*time.Millisecond), a)
	if err == nil || !strings.Contains(err.Error(), "a test refuses it") {
		t.Errorf("got %v", err)
	}
	p.await(t, "DHCP6_RELEASE_NA ")
	// A client that does not ask for it gets it in four messages.
	acquire6(t, w, ask6(3))
	p.await(t, "DHCP6_LEASE_ADVERT ")
}

func TestSilence6(t *testing.T) {
	t.Parallel()
	l := newLab6(t, macvlan)
	w := l.wire()
	_, err := w.Acquire(within6(t, 1800*time.Millisecond), ask6(1))
	var silence *SilenceError
	if !errors.As(err, &silence) || silence.Sent != "3 SOLICIT" || len(silence.Heard) > 0 {
		t.Errorf("got %v, want silence after 3 SOLICIT", err)
	}
	old := &lan.Lease{Addr: netip.MustParsePrefix("fd00:1::5/128"), ServerID: []byte{0, 1, 2, 3}}
	_, err = w.Reboot(within6(t, 100*time.Millisecond), ask6(1), old)
	if !errors.As(err, &silence) || silence.Sent != "1 REBIND" {
		t.Errorf("reboot: got %v, want silence", err)
	}
	_, err = w.Renew(within6(t, 100*time.Millisecond), ask6(1), old, false)
	if !errors.As(err, &silence) || silence.Sent != "1 RENEW" {
		t.Errorf("renew: got %v, want silence", err)
	}
	begin := time.Now()
	if err := w.Release(context.Background(), client6(1), old); err != nil || time.Since(begin) > 2*time.Second {
		t.Errorf("release: %v after %v", err, time.Since(begin))
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	why := errors.New("the test has enough")
	time.AfterFunc(50*time.Millisecond, func() { cancel(why) })
	if _, err := w.Acquire(ctx, ask6(1)); err != why {
		t.Errorf("cancelled: got %v", err)
	}
	quiet6(t, w)
}

// What servers go by: names and classes.
func TestDnsmasqSeesClient6(t *testing.T) {
	t.Parallel()
	l := newLab6(t, macvlan)
	p := l.dnsmasq("fd00:1::100,fd00:1::1ff,64,10m", "--domain=example.org", "--dhcp-vendorclass=set:ours,lanyard",
		"--dhcp-userclass=set:web,front", "--dhcp-option=tag:ours,option6:dns-server,[fd00:1::77]",
		"--dhcp-option=tag:web,option6:ntp-server,[fd00:1::78]")
	w := l.wire()
	a := ask6(1)
	a.FQDN, a.VendorClass, a.UserClass = "web-1.example.org", "lanyard-container", []string{"front", "x"}
	got := acquire6(t, w, a)
	if text := fmt.Sprint(got.DNS, got.NTP); text != "[fd00:1::77] [fd00:1::78]" {
		t.Errorf("got %s: the classes were not seen", text)
	}
	p.await(t, "web-1")
	a = ask6(2)
	a.FQDN = "short"
	acquire6(t, w, a)
	p.await(t, "short")
}

func TestKeaSeesClient6(t *testing.T) {
	t.Parallel()
	l := newLab6(t, macvlan)
	l.kea("fd00:1::100 - fd00:1::1ff", `, "client-classes": [{
		"name": "ours",
		"test": "vendor-class[*].data == 'lanyard' and substring(option[15].hex, 2, 5) == 'front' and option[39].exists",
		"option-data": [{"name": "dns-servers", "data": "fd00:1::77"}]
	}]`)
	w := l.wire()
	a := ask6(1)
	a.FQDN, a.VendorClass, a.UserClass = "web-1.example.org", "lanyard", []string{"front", "x"}
	if got := acquire6(t, w, a); fmt.Sprint(got.DNS) != "[fd00:1::77]" {
		t.Errorf("DNS %s: the classes were not seen", got.DNS)
	}
}

// Servers that answer where a switch port is set wrong.
func TestAnswersAstray6(t *testing.T) {
	t.Parallel()
	l := newLab6(t, macvlan)
	raw, err := packet.Sender(linkAt6(t, l.server, "eth0"))
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	below := linkAt6(t, l.host, "eth1")
	l.fake(func(m *dhcpv6.Message) [][]byte {
		for _, message := range append(good6(m), []byte{7}) {
			udp := binary.BigEndian.AppendUint16(nil, serverPort6)
			udp = binary.BigEndian.AppendUint16(udp, clientPort6)
			udp = binary.BigEndian.AppendUint16(udp, uint16(udpLen6+len(message)))
			udp = append(append(udp, 0, 0), message...)
			from, to := netip.MustParseAddr("fe80::1").As16(), netip.MustParseAddr("fe80::2").As16()
			head := binary.BigEndian.AppendUint16([]byte{0x60, 0, 0, 0}, uint16(len(udp)))
			frame := cat6([]byte{255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 0x81, 0, 0, 20, 0x86, 0xdd}, head, []byte{17, 64}, from[:], to[:], udp)
			for _, cut := range []int{0, len(message)} {
				if err := raw.Send(frame[:len(frame)-cut]); err != nil {
					t.Error(err)
				}
			}
		}
		return nil
	})
	w := l.wireOf(Config{Probe: l.probe, Below: below})
	_, err = w.Acquire(within6(t, 2500*time.Millisecond), ask6(1))
	var silence *SilenceError
	if !errors.As(err, &silence) || len(silence.Heard) != 1 || !strings.HasPrefix(silence.Heard[0], "server fe80::1 answered on VLAN 20, not untagged") {
		t.Errorf("%v, want that an answer on VLAN 20 was heard", err)
	}
	quiet6(t, w)
}

func TestNoIPv6(t *testing.T) {
	t.Parallel()
	l := newLab6(t, macvlan)
	l.room.IP("link set probe mtu 1200")
	_, err := Open6(Config{Probe: l.probe})
	if err == nil || !strings.Contains(err.Error(), "no IPv6 on probe") {
		t.Errorf("got %v", err)
	}
}

// A link that has IPv6 turned off, a forgotten address and no carrier is made usable.
func TestLinkComesUp6(t *testing.T) {
	t.Parallel()
	l := newLab6(t, macvlan)
	l.do(l.room, func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/probe/disable_ipv6", []byte("1"), 0o644) })
	l.dnsmasq("fd00:1::100,fd00:1::1ff,64,10m")
	l.host.IP("link set eth1 down")
	w := l.wire()
	up := make(chan error, 1)
	go func() {
		time.Sleep(300 * time.Millisecond)
		_, err := l.host.TryIP("link set eth1 up")
		up <- err
	}()
	acquire6(t, w, ask6(1))
	if err := <-up; err != nil {
		t.Error(err)
	}
}

func TestNoAddress6(t *testing.T) {
	t.Parallel()
	l := newLab6(t, macvlan)
	w := l.wire()
	l.room.IP("-6 addr flush dev probe")
	_, err := w.Acquire(within6(t, 200*time.Millisecond), ask6(1))
	if !errors.Is(err, errNoAddress) {
		t.Errorf("got %v", err)
	}
}

func TestLinkGoes6(t *testing.T) {
	t.Parallel()
	l := newLab6(t, macvlan)
	w, err := Open6(Config{Probe: l.probe})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- w.Run(ctx) }()
	defer stop()
	l.room.IP("link del probe")
	_, err = w.Acquire(within6(t, 5*time.Second), ask6(1))
	if !errors.Is(err, packet.ErrLinkGone) {
		t.Fatalf("Acquire: %v", err)
	}
	if err := <-ran; !errors.Is(err, packet.ErrLinkGone) {
		t.Errorf("Run: %v", err)
	}
	if _, err = w.Acquire(context.Background(), ask6(1)); !errors.Is(err, ErrClosed) {
		t.Errorf("after: %v", err)
	}
}

// A wire that nobody asks anything of notices too, whether its link is removed or moved.
func TestLinkGoesIdle6(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"link del probe", "link set probe netns %s"} {
		l := newLab6(t, macvlan)
		w, err := Open6(Config{Probe: l.probe})
		if err != nil {
			t.Fatal(err)
		}
		ran := make(chan error, 1)
		go func() { ran <- w.Run(t.Context()) }()
		if strings.Contains(how, "%") {
			how = fmt.Sprintf(how, l.host.Path())
		}
		l.room.IP("%s", how)
		select {
		case err := <-ran:
			if !errors.Is(err, packet.ErrLinkGone) {
				t.Errorf("ip %s: %v", how, err)
			}
		case <-time.After(3 * time.Second):
			t.Errorf("ip %s: not noticed", how)
			w.Close()
		}
	}
}

func TestCloseEndsExchanges6(t *testing.T) {
	t.Parallel()
	l := newLab6(t, macvlan)
	w := l.wire()
	time.AfterFunc(100*time.Millisecond, func() { w.Close() })
	if _, err := w.Acquire(context.Background(), ask6(1)); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// Two wires share the room, and neither hears the other's answers.
func TestTwoWires6(t *testing.T) {
	t.Parallel()
	l := newLab6(t, macvlan)
	l.dnsmasq("fd00:1::100,fd00:1::1ff,64,10m")
	w := l.wire()
	other := newLab6(t, macvlan)
	other.host.IP("link add probe2 link eth1 netns %s type %s", l.room.Path(), macvlan)
	l.room.IP("link set probe2 up")
	other.probe = linkAt6(t, l.room, "probe2")
	other.kea("fd00:1::200 - fd00:1::2ff", "")
	w2 := other.wire()
	if a, b := acquire6(t, w, ask6(1)), acquire6(t, w2, ask6(1)); a.Addr == b.Addr || slices.Equal(a.ServerID, b.ServerID) {
		t.Errorf("%+v and %+v", a, b)
	}
}

// The server is a container on the same parent.
func TestSiblingServer6(t *testing.T) { siblingServes6(t, macvlan) }

func TestIpvlanSiblingServer6(t *testing.T) {
	kerneltest.Need(t, "ipvlan")
	siblingServes6(t, ipvlan)
}

func siblingServes6(t *testing.T, kind string) {
	t.Parallel()
	for _, s := range realServers6 {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			l := newSiblings6(t, kind)
			p := s.start(l, "fd00:1::100", "fd00:1::1ff")
			w := l.wire()
			got := acquire6(t, w, ask6(1))
			if took := time.Since(got.Asked); took > firstWait6 {
				t.Errorf("not at the first try, in %v", took)
			}
			if again, err := w.Renew(within6(t, 5*time.Second), ask6(1), got, false); err != nil || again.Addr != got.Addr {
				t.Errorf("renewed as %v, %v", again, err)
			}
			if err := w.Release(within6(t, 5*time.Second), client6(1), got); err != nil {
				t.Error(err)
			}
			p.await(t, s.released)
		})
	}
}

func TestIpvlan6(t *testing.T) {
	kerneltest.Need(t, "ipvlan")
	t.Parallel()
	l := newLab6(t, ipvlan)
	f := l.fake(nil)
	w := l.wire()
	got := acquire6(t, w, ask6(1))
	again, err := w.Renew(within6(t, 5*time.Second), ask6(1), got, false)
	if err != nil || again.Addr != got.Addr {
		t.Errorf("renewed as %v, %v", again, err)
	}
	if err := w.Release(within6(t, 5*time.Second), client6(1), got); err != nil || f.count("RELEASE") != 1 {
		t.Errorf("release: %v, %d seen", err, f.count("RELEASE"))
	}
}
