package dhcp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// fake6 is a server that does as a script says.
type fake6 struct {
	conn *net.UDPConn
	mu   sync.Mutex // guards seen
	seen []*dhcpv6.Message
}

// script6 gives the answers to a message. The nil script is a server as it should be.
type script6 func(m *dhcpv6.Message) [][]byte

func (l *lab6) fake(script script6) *fake6 {
	l.t.Helper()
	if script == nil {
		script = good6
	}
	f := &fake6{}
	l.do(l.server, func() error {
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		f.conn, err = net.ListenMulticastUDP("udp6", ifi, &net.UDPAddr{IP: group6.Addr().AsSlice(), Port: serverPort6})
		return err
	})
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1<<16)
		for {
			n, from, err := f.conn.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			m, err := dhcpv6.MessageFromBytes(buf[:n])
			if err != nil {
				l.t.Errorf("a client's message: %v", err)
				continue
			}
			f.mu.Lock()
			f.seen = append(f.seen, m)
			f.mu.Unlock()
			for _, reply := range script(m) {
				f.conn.WriteToUDPAddrPort(reply, from)
			}
		}
	}()
	l.t.Cleanup(func() { f.conn.Close(); <-done })
	return f
}

// count is how many messages of a kind were seen.
func (f *fake6) count(kind string) int { return len(f.all(kind)) }

func (f *fake6) all(kind string) (all []*dhcpv6.Message) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.seen {
		if m.MessageType.String() == kind {
			all = append(all, m)
		}
	}
	return all
}

// The parts of messages, right or wrong.

func cat6(parts ...[]byte) []byte { return slices.Concat(parts...) }

func opt6(code dhcpv6.OptionCode, data ...[]byte) []byte {
	all := cat6(data...)
	head := binary.BigEndian.AppendUint16(nil, uint16(code))
	return append(binary.BigEndian.AppendUint16(head, uint16(len(all))), all...)
}

func u32(n ...uint32) (b []byte) {
	for _, n := range n {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return b
}

func addrOpt6(addr string, preferred, valid uint32, options ...[]byte) []byte {
	a := netip.MustParseAddr(addr).As16()
	return opt6(dhcpv6.OptionIAAddr, a[:], u32(preferred, valid), cat6(options...))
}

func iaOpt6(id, t1, t2 uint32, options ...[]byte) []byte {
	return opt6(dhcpv6.OptionIANA, u32(id, t1, t2), cat6(options...))
}

func statusOpt6(code uint16, text string) []byte {
	return opt6(dhcpv6.OptionStatusCode, binary.BigEndian.AppendUint16(nil, code), []byte(text))
}

var (
	fakeID6  = []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 1}
	otherID6 = []byte{0, 3, 0, 1, 2, 0, 0, 0, 0, 2}
)

// iaid is that of a client's message.
func iaidOf6(m *dhcpv6.Message) uint32 {
	return binary.BigEndian.Uint32(m.Options.OneIANA().IaId[:])
}

// answerTo6 is the header of the answer to a message.
func answerTo6(m *dhcpv6.Message) []byte {
	kind := dhcpv6.MessageTypeReply
	if m.MessageType == dhcpv6.MessageTypeSolicit {
		kind = dhcpv6.MessageTypeAdvertise
	}
	return append([]byte{byte(kind)}, m.TransactionID[:]...)
}

// with6 is an answer by a server with some options.
func with6(m *dhcpv6.Message, server []byte, options ...[]byte) []byte {
	return cat6(answerTo6(m), opt6(dhcpv6.OptionClientID, m.Options.ClientID().ToBytes()),
		opt6(dhcpv6.OptionServerID, server), cat6(options...))
}

// good6 gives each IAID its address.
func good6(m *dhcpv6.Message) [][]byte {
	id := iaidOf6(m)
	return [][]byte{with6(m, fakeID6, iaOpt6(id, 100, 200, addrOpt6(fmt.Sprintf("fd00:1::%x", id), 300, 400)))}
}

// Answers that are not taken, and what is said of them.
var refused6 = []struct {
	name  string
	reply script6
	want  string
}{
	{"no addresses", func(m *dhcpv6.Message) [][]byte {
		return [][]byte{with6(m, fakeID6, iaOpt6(iaidOf6(m), 0, 0, statusOpt6(2, "pool is \x1b[31mempty\xff")))}
	}, `advertises no address: NoAddrsAvail ("pool is ?[31mempty?")`},
	{"status of the message", func(m *dhcpv6.Message) [][]byte {
		return [][]byte{with6(m, fakeID6, statusOpt6(5, strings.Repeat("x", 300)))}
	}, `UseMulticast ("` + strings.Repeat("x", 200) + `")`},
	{"unknown status", func(m *dhcpv6.Message) [][]byte {
		return [][]byte{with6(m, fakeID6, statusOpt6(999, ""))}
	}, `no address: status 999`},
	{"status of the address", inIA6(func() []byte { return addrOpt6("fd00:1::5", 1, 2, statusOpt6(1, "")) }), "fd00:1::5: UnspecFail"},
	{"no IA", func(m *dhcpv6.Message) [][]byte { return [][]byte{with6(m, fakeID6)} }, "advertises no address"},
	{"other IAID", func(m *dhcpv6.Message) [][]byte {
		return [][]byte{with6(m, fakeID6, iaOpt6(iaidOf6(m)+1, 0, 0, addrOpt6("fd00:1::5", 300, 400)))}
	}, "no address for this client's IAID"},
	{"other client", func(m *dhcpv6.Message) [][]byte {
		return [][]byte{cat6(answerTo6(m), opt6(1, otherID6), opt6(2, fakeID6), iaOpt6(iaidOf6(m), 0, 0, addrOpt6("fd00:1::5", 300, 400)))}
	}, "it is for another client"},
	{"no client", func(m *dhcpv6.Message) [][]byte { return [][]byte{cat6(answerTo6(m), opt6(2, fakeID6))} }, "no client identifier"},
	{"no server", func(m *dhcpv6.Message) [][]byte {
		return [][]byte{cat6(answerTo6(m), opt6(1, m.Options.ClientID().ToBytes()))}
	}, "no server identifier"},
	{"long server", func(m *dhcpv6.Message) [][]byte { return [][]byte{with6(m, make([]byte, 131))} }, "server identifier has 131 bytes"},
	{"short server", func(m *dhcpv6.Message) [][]byte { return [][]byte{with6(m, nil)} }, "server identifier has 0 bytes"},
	{"T1 after T2", func(m *dhcpv6.Message) [][]byte {
		return [][]byte{with6(m, fakeID6, iaOpt6(iaidOf6(m), 200, 100, addrOpt6("fd00:1::5", 300, 400)))}
	}, "T1 (200 s) is after T2 (100 s)"},
	{"ended", inIA6(func() []byte { return addrOpt6("fd00:1::5", 0, 0) }), "fd00:1::5: it is valid for 0 s"},
	{"preferred", inIA6(func() []byte { return addrOpt6("fd00:1::5", 401, 400) }), "preferred for longer (401 s) than valid (400 s)"},
	{"multicast", inIA6(func() []byte { return addrOpt6("ff02::1", 300, 400) }), "ff02::1: no host can have it"},
	{"loopback", inIA6(func() []byte { return addrOpt6("::1", 300, 400) }), "::1: no host can have it"},
	{"unspecified", inIA6(func() []byte { return addrOpt6("::", 300, 400) }), ":: no host can have it"},
	{"mapped", inIA6(func() []byte { return addrOpt6("::ffff:10.0.0.1", 300, 400) }), "::ffff:10.0.0.1: no host can have it"},
	{"link-local", inIA6(func() []byte { return addrOpt6("fe80::1", 300, 400) }), "fe80::1: it is link-local"},
	{"elsewhere", inIA6(func() []byte { return addrOpt6("fd00:2::1", 300, 400) }), "fd00:2::1: outside of fd00:1::/64"},
	{"anycast", inIA6(func() []byte { return addrOpt6("fd00:1::", 300, 400) }), "the address of all routers of fd00:1::/64"},
	{"short IA", func(m *dhcpv6.Message) [][]byte { return [][]byte{with6(m, fakeID6, opt6(3, make([]byte, 11)))} }, "a broken IA_NA: too short"},
	{"short address", inIA6(func() []byte { return opt6(5, make([]byte, 23)) }), "a broken IA address: too short"},
	{"cut option", func(m *dhcpv6.Message) [][]byte { return [][]byte{with6(m, fakeID6, []byte{0, 3, 0, 50, 1})} }, "a broken answer"},
	{"many options", func(m *dhcpv6.Message) [][]byte {
		return [][]byte{with6(m, fakeID6, slices.Repeat(opt6(99), 300))}
	}, "a broken answer from fe80"},
	{"many nested options", func(m *dhcpv6.Message) [][]byte {
		return [][]byte{with6(m, fakeID6, iaOpt6(iaidOf6(m), 0, 0, slices.Repeat(addrOpt6("fd00:1::5", 300, 400), 65)))}
	}, "a broken IA_NA: too many options"},
	{"reply", func(m *dhcpv6.Message) [][]byte {
		r := good6(m)[0]
		r[0] = byte(dhcpv6.MessageTypeReply)
		return [][]byte{r}
	}, "a REPLY that was not asked for"},
	{"header alone", func(m *dhcpv6.Message) [][]byte { return [][]byte{answerTo6(m)} }, "no client identifier"},
}

// inIA6 is an answer with a thing in the IA.
func inIA6(thing func() []byte) script6 {
	return func(m *dhcpv6.Message) [][]byte {
		return [][]byte{with6(m, fakeID6, iaOpt6(iaidOf6(m), 100, 200, thing()))}
	}
}

func TestRefused6(t *testing.T) {
	t.Parallel()
	l := newLab6(t, macvlan)
	// One server for all rows: the row is the client's IAID.
	l.fake(func(m *dhcpv6.Message) [][]byte {
		replies := refused6[iaidOf6(m)].reply(m)
		// Messages that are for nobody are not even heard.
		return append([][]byte{{}, {2}, {2, 1, 2, 3}, {13, 1, 2, 3}}, replies...)
	})
	w := l.wire()
	var wg sync.WaitGroup
	for i, row := range refused6 {
		wg.Go(func() {
			a := ask6(i)
			a.IAID = uint32(i)
			got, err := w.Acquire(within6(t, 300*time.Millisecond), a)
			var silence *SilenceError
			if !errors.As(err, &silence) || len(silence.Heard) != 1 {
				t.Errorf("%s: got %v, %v", row.name, got, err)
			} else if text := silence.Heard[0]; !strings.Contains(text, row.want) || !strings.Contains(text, "fe80::") {
				t.Errorf("%s: heard\n%s\nwant\n%s", row.name, text, row.want)
			}
		})
	}
	wg.Wait()
	quiet6(t, w)
}

func TestOnlySomeServers6(t *testing.T) {
	t.Parallel()
	l := newLab6(t, macvlan)
	l.fake(nil)
	w := l.wire()
	got := acquire6(t, w, ask6(1))
	for _, c := range []struct {
		ask  func(a *Ask)
		want string
	}{
		{func(a *Ask) { a.Servers = []netip.Addr{netip.MustParseAddr("fe80::5")} }, "not one of the network's servers"},
		{func(a *Ask) { a.Deny = []netip.Addr{got.Server.WithZone("eth0")} }, "the server is denied"},
		{func(a *Ask) { a.Addr, a.Only = netip.MustParseAddr("fd00:1::5"), true }, "fd00:1::1001: not the address that was asked for"},
		{func(a *Ask) { a.Refuse = func(l *lan.Lease) string { return "taken: " + l.Addr.String() } }, "fd00:1::1001: taken: fd00:1::1001/64"},
	} {
		a := ask6(1)
		c.ask(&a)
		if got, err := w.Acquire(within6(t, 100*time.Millisecond), a); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, %v; want %q", got, err, c.want)
		}
	}
	a := ask6(1)
	a.Servers = []netip.Addr{got.Server}
	acquire6(t, w, a)
}

// A server that advertises and then does not grant, or is silent, does not keep a
// container from the one that does.
func TestFickleServer6(t *testing.T) {
	t.Parallel()
	l := newLab6(t, macvlan)
	f := l.fake(func(m *dhcpv6.Message) [][]byte {
		id := iaidOf6(m)
		theirs := iaOpt6(id, 100, 200, addrOpt6("fd00:1::bad", 300, 400))
		if m.MessageType == dhcpv6.MessageTypeSolicit {
			return [][]byte{
				with6(m, otherID6, theirs, opt6(7, []byte{255})),
				with6(m, fakeID6, iaOpt6(id, 100, 200, addrOpt6("fd00:1::c", 300, 400))),
			}
		}
		if string(m.Options.ServerID().ToBytes()) == string(otherID6) {
			return [][]byte{with6(m, otherID6, iaOpt6(id, 0, 0, statusOpt6(2, "")))}
		}
		return [][]byte{with6(m, fakeID6, iaOpt6(id, 100, 200, addrOpt6("fd00:1::c", 300, 400)))}
	})
	w := l.wire()
	begin := time.Now()
	got := acquire6(t, w, ask6(1))
	if got.Addr.Addr() != netip.MustParseAddr("fd00:1::c") || time.Since(begin) > 2*time.Second {
		t.Errorf("got %+v after %v", got, time.Since(begin))
	}
	if n := f.count("SOLICIT"); n > 2 {
		t.Errorf("%d SOLICIT", n)
	}
}

// One whose REQUEST is refused each time is not asked all the time.
func TestRefusedRequest6(t *testing.T) {
	t.Parallel()
	l := newLab6(t, macvlan)
	f := l.fake(func(m *dhcpv6.Message) [][]byte {
		if m.MessageType == dhcpv6.MessageTypeSolicit {
			return good6(m)
		}
		return [][]byte{with6(m, fakeID6, iaOpt6(iaidOf6(m), 0, 0, statusOpt6(2, "gone")))}
	})
	w := l.wire()
	_, err := w.Acquire(within6(t, 1200*time.Millisecond), ask6(1))
	if err == nil || !strings.Contains(err.Error(), `grants no address: NoAddrsAvail ("gone")`) {
		t.Errorf("got %v", err)
	}
	if n := f.count("REQUEST"); n < 1 || n > 3 {
		t.Errorf("%d REQUEST", n)
	}
}

// Messages are sent again, with the time since the first, and are the same exchange.
func TestElapsed6(t *testing.T) {
	t.Parallel()
	l := newLab6(t, macvlan)
	var mu sync.Mutex // guards n
	n := map[dhcpv6.MessageType]int{}
	f := l.fake(func(m *dhcpv6.Message) [][]byte {
		mu.Lock()
		defer mu.Unlock()
		if n[m.MessageType]++; n[m.MessageType] < 2 {
			return nil
		}
		return good6(m)
	})
	w := l.wire()
	a := ask6(1)
	a.Addr = netip.MustParseAddr("fd00:1::7")
	got := acquire6(t, w, a)
	if _, err := w.Reboot(within6(t, 2*time.Second), ask6(1), got); err != nil {
		t.Error(err)
	}
	for _, kind := range []string{"SOLICIT", "REQUEST", "REBIND"} {
		all := f.all(kind)
		if len(all) != 2 {
			t.Errorf("%d %s, want 2", len(all), kind)
			continue
		}
		first, second := all[0], all[1]
		if e := second.Options.ElapsedTime(); first.TransactionID != second.TransactionID || first.Options.ElapsedTime() != 0 ||
			e < 400*time.Millisecond || e > time.Second {
			t.Errorf("%s: elapsed %v, %v", kind, first.Options.ElapsedTime(), e)
		}
		if hint := first.Options.OneIANA().Options.OneAddress(); hint == nil {
			t.Errorf("%s asks for no address", kind)
		}
	}
}

// What servers say when a lease is to be extended.
func TestExtend6(t *testing.T) {
	t.Parallel()
	const had = "fd00:1::5"
	ia := func(options ...[]byte) script6 {
		return func(m *dhcpv6.Message) [][]byte {
			return [][]byte{with6(m, fakeID6, iaOpt6(iaidOf6(m), 0, 0, options...))}
		}
	}
	// Before the one that granted it there is another that does not know it.
	after := func(first, then script6) script6 {
		return func(m *dhcpv6.Message) [][]byte {
			r := first(m)[0]
			i := strings.Index(string(r), string(fakeID6))
			copy(r[i:], otherID6)
			return append([][]byte{r}, then(m)...)
		}
	}
	rows := []struct {
		name   string
		script script6
		want   string // the address, or a part of the error
	}{
		{"extended", ia(addrOpt6(had, 300, 400)), had},
		{"moved", ia(addrOpt6(had, 0, 0), addrOpt6("fd00:1::6", 300, 400)), "fd00:1::6"},
		{"moved, the other way round", ia(addrOpt6("fd00:1::6", 300, 400), addrOpt6(had, 0, 0)), "fd00:1::6"},
		{"one more", ia(addrOpt6("fd00:1::6", 300, 400), addrOpt6(had, 300, 400)), had},
		{"deprecated", ia(addrOpt6(had, 0, 400)), had},
		{"unbound", ia(statusOpt6(3, "who?")), `refuses the address ("who?")`},
		{"off the link", ia(statusOpt6(4, "")), `refuses the address ("NotOnLink")`},
		{"off the link, all of it", func(m *dhcpv6.Message) [][]byte { return [][]byte{with6(m, fakeID6, statusOpt6(4, ""))} }, "refuses the address"},
		{"ended", ia(addrOpt6(had, 0, 0)), "refuses the address"},
		{"ended, and nonsense", ia(addrOpt6(had, 0, 0), addrOpt6("ff02::1", 1, 1)), "refuses the address"},
		{"another ended", ia(addrOpt6("fd00:1::9", 0, 0)), "no lease within"},
		{"failed", ia(statusOpt6(1, "later")), `UnspecFail ("later")`},
		{"another does not know", after(ia(statusOpt6(3, "")), ia(addrOpt6(had, 300, 400))), had},
	}
	for _, rebind := range []bool{false, true} {
		t.Run(fmt.Sprintf("rebind=%v", rebind), func(t *testing.T) {
			t.Parallel()
			l := newLab6(t, macvlan)
			l.fake(func(m *dhcpv6.Message) [][]byte { return rows[iaidOf6(m)].script(m) })
			w := l.wire()
			var wg sync.WaitGroup
			for i, row := range rows {
				wg.Go(func() {
					a := ask6(i)
					a.IAID = uint32(i)
					old := &lan.Lease{Addr: netip.MustParsePrefix(had + "/64"), ServerID: fakeID6}
					got, err := w.Renew(within6(t, 700*time.Millisecond), a, old, rebind)
					var nak *NakError
					switch {
					case err != nil && (!strings.Contains(err.Error(), row.want) || strings.Contains(row.want, "refuses") != errors.As(err, &nak)):
						t.Errorf("%s: %v, want %s", row.name, err, row.want)
					case err == nil && got.Addr.Addr().String() != row.want:
						t.Errorf("%s: %+v, want %s", row.name, got, row.want)
					}
				})
			}
			wg.Wait()
			quiet6(t, w)
		})
	}
}

// A flood of answers, to an exchange and to none, does not keep the others from theirs.
func TestFlood6(t *testing.T) {
	t.Parallel()
	l := newLab6(t, macvlan)
	f := l.fake(func(m *dhcpv6.Message) [][]byte {
		if iaidOf6(m) != 0 {
			return good6(m)
		}
		var flood [][]byte
		for i := range 5000 {
			id := append([]byte{0, 3, 0, 1}, u32(uint32(i))...)
			flood = append(flood, with6(m, id, iaOpt6(0, 0, 0, statusOpt6(2, fmt.Sprint(i))), opt6(99, make([]byte, 1000))))
		}
		return flood
	})
	w := l.wire()
	flooded := make(chan error, 1)
	go func() {
		a := ask6(0)
		a.IAID = 0
		_, err := w.Acquire(within6(t, time.Second), a)
		flooded <- err
	}()
	for f.count("SOLICIT") == 0 {
		time.Sleep(time.Millisecond)
	}
	for i := 1; i <= 5; i++ {
		acquire6(t, w, ask6(i))
	}
	var silence *SilenceError
	if err := <-flooded; !errors.As(err, &silence) || len(silence.Heard) != maxHeard6+1 || !strings.Contains(err.Error(), "more answers") {
		t.Errorf("got %v", err)
	}
}
