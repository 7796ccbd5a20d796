package dhcp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/packet"
)

// Frames that are no answers to the client. Each comes before the right answer, which is
// taken; on its own nothing would be.
func TestNoAnswers4(t *testing.T) {
	for name, bad := range map[string]func(f *fake4, m *dhcpv4.DHCPv4) []byte{
		"xid": func(f *fake4, m *dhcpv4.DHCPv4) []byte {
			return f.reply(m, dhcpv4.MessageTypeOffer, withAddr("10.9.0.66"), func(m *dhcpv4.DHCPv4) { m.TransactionID[0]++ })
		},
		"chaddr": func(f *fake4, m *dhcpv4.DHCPv4) []byte {
			return f.reply(m, dhcpv4.MessageTypeOffer, withAddr("10.9.0.66"), func(m *dhcpv4.DHCPv4) {
				m.ClientHWAddr = net.HardwareAddr{2, 0, 0, 0, 0, 99}
			})
		},
		"client id": func(f *fake4, m *dhcpv4.DHCPv4) []byte {
			return f.reply(m, dhcpv4.MessageTypeOffer, withAddr("10.9.0.66"), withOption(optClientID, []byte{1, 2, 3}))
		},
		"a request": func(f *fake4, m *dhcpv4.DHCPv4) []byte {
			return f.reply(m, dhcpv4.MessageTypeOffer, withAddr("10.9.0.66"), func(m *dhcpv4.DHCPv4) { m.OpCode = dhcpv4.OpcodeBootRequest })
		},
		"unasked acknowledgement": func(f *fake4, m *dhcpv4.DHCPv4) []byte {
			if m.MessageType() != dhcpv4.MessageTypeDiscover {
				return nil
			}
			return f.reply(m, dhcpv4.MessageTypeAck, withAddr("10.9.0.66"), withOption(optRapid, []byte{}))
		},
		"VLAN": func(f *fake4, m *dhcpv4.DHCPv4) []byte {
			return slices.Insert(f.reply(m, dhcpv4.MessageTypeOffer, withAddr("10.9.0.66")), 2*macLen4, 0x81, 0, 0, 5)
		},
		"fragment": func(f *fake4, m *dhcpv4.DHCPv4) []byte {
			return header4(f.reply(m, dhcpv4.MessageTypeOffer, withAddr("10.9.0.66")), 6, 0x20)
		},
		"IP length": func(f *fake4, m *dhcpv4.DHCPv4) []byte {
			return header4(f.reply(m, dhcpv4.MessageTypeOffer, withAddr("10.9.0.66")), 2, 0xff)
		},
		"IP header length": func(f *fake4, m *dhcpv4.DHCPv4) []byte {
			return header4(f.reply(m, dhcpv4.MessageTypeOffer, withAddr("10.9.0.66")), 0, 0x4f)
		},
		"IP checksum": func(f *fake4, m *dhcpv4.DHCPv4) []byte {
			b := f.reply(m, dhcpv4.MessageTypeOffer, withAddr("10.9.0.66"))
			b[ethLen4+10]++
			return b
		},
		"UDP length": func(f *fake4, m *dhcpv4.DHCPv4) []byte {
			b := f.reply(m, dhcpv4.MessageTypeOffer, withAddr("10.9.0.66"))
			b[ethLen4+ipLen4+4]++
			return b
		},
		"truncated": func(f *fake4, m *dhcpv4.DHCPv4) []byte {
			return f.frame(f.message(m, dhcpv4.MessageTypeOffer, withAddr("10.9.0.66")).ToBytes()[:250])
		},
		"no end": func(f *fake4, m *dhcpv4.DHCPv4) []byte {
			return f.frame(f.message(m, dhcpv4.MessageTypeOffer, withAddr("10.9.0.66"), withOption(200, make([]byte, 900))).ToBytes()[:900])
		},
		"nothing": func(f *fake4, m *dhcpv4.DHCPv4) []byte { return f.frame(nil) },
		"overload that is cut": func(f *fake4, m *dhcpv4.DHCPv4) []byte {
			b := f.message(m, dhcpv4.MessageTypeOffer, withAddr("10.9.0.66"), withOption(optOverload, []byte{3})).ToBytes()
			copy(b[offSname:], []byte{optMessage, 255, 1})
			return f.frame(b)
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab4(t)
			newFake4(t, l.far, "eth0", func(f *fake4, m *dhcpv4.DHCPv4) [][]byte {
				var frames [][]byte
				if b := bad(f, m); b != nil {
					frames = append(frames, b)
				}
				return append(frames, goodOnly(f, m)...)
			})
			if lease := l.must(Ask{Client: client4(1)}); lease.Addr != prefix4("10.9.0.50/24") {
				t.Errorf("got %s", lease.Addr)
			}
		})
	}
}

// header4 changes a byte of the IP header, and makes the checksum right.
func header4(b []byte, at int, value byte) []byte {
	ip := b[ethLen4:]
	ip[at] = value
	binary.BigEndian.PutUint16(ip[10:], 0)
	binary.BigEndian.PutUint16(ip[10:], sum(0, ip[:min(int(ip[0]&0xf)*4, len(ip))]))
	return b
}

// What is odd and still right.
func TestOddAnswers4(t *testing.T) {
	for name, odd := range map[string]func(f *fake4, m *dhcpv4.DHCPv4) []byte{
		"no UDP checksum": func(f *fake4, m *dhcpv4.DHCPv4) []byte {
			b := f.good(m)
			b[ethLen4+ipLen4+6], b[ethLen4+ipLen4+7] = 0, 0
			return b
		},
		"UDP checksum left to hardware": func(f *fake4, m *dhcpv4.DHCPv4) []byte {
			b := f.good(m)
			b[ethLen4+ipLen4+6]++
			return b
		},
		"priority tag": func(f *fake4, m *dhcpv4.DHCPv4) []byte { return slices.Insert(f.good(m), 2*macLen4, 0x81, 0, 0xe0, 0) },
		"IP options": func(f *fake4, m *dhcpv4.DHCPv4) []byte {
			b := slices.Insert(f.good(m), ethLen4+ipLen4, 1, 1, 1, 0)
			binary.BigEndian.PutUint16(b[ethLen4+2:], uint16(len(b)-ethLen4))
			return header4(b, 0, 0x46)
		},
		"trailing bytes": func(f *fake4, m *dhcpv4.DHCPv4) []byte { return append(f.good(m), make([]byte, 40)...) },
		"don't fragment": func(f *fake4, m *dhcpv4.DHCPv4) []byte { return header4(f.good(m), 6, 0x40) },
		"to the client's MAC": func(f *fake4, m *dhcpv4.DHCPv4) []byte {
			b := f.good(m)
			copy(b, m.ClientHWAddr)
			copy(b[ethLen4+16:], m.YourIPAddr)
			return header4(b, 8, 64)
		},
		"options in other fields": func(f *fake4, m *dhcpv4.DHCPv4) []byte {
			b := f.message(m, dhcpv4.MessageTypeOffer+dhcpv4.MessageType(3*flag(m.MessageType() == dhcpv4.MessageTypeRequest)),
				withOption(optOverload, []byte{3}), withOption(optLife, []byte{0, 0}), withOption(optServer, nil)).ToBytes()
			copy(b[offFile:], []byte{optLife, 2, 14, 16, 255})
			copy(b[offSname:], []byte{0, optServer, 4, 10, 9, 0, 1, 255})
			return f.frame(b)
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab4(t)
			newFake4(t, l.far, "eth0", func(f *fake4, m *dhcpv4.DHCPv4) [][]byte { return [][]byte{odd(f, m)} })
			lease := l.must(Ask{Client: client4(1)})
			if lease.Addr != prefix4("10.9.0.50/24") || lease.Life != time.Hour || lease.Server != addr4(fakeAddr) {
				t.Errorf("got %+v", lease)
			}
		})
	}
}

// A sibling that answers to the client's MAC, whatever it was asked to do: the frame
// leaves through the parent, as no child has that MAC.
func TestSiblingUnicast4(t *testing.T) {
	l := siblings4(t, macvlan)
	newFake4(t, l.far, "eth0", func(f *fake4, m *dhcpv4.DHCPv4) [][]byte {
		b := f.good(m)
		copy(b, m.ClientHWAddr)
		return [][]byte{b}
	})
	l.must(Ask{Client: client4(1)})
}

// Ten thousand frames at once for each message, the right one among them.
func TestFlood4(t *testing.T) {
	for name, flood := range map[string]func(f *fake4, m *dhcpv4.DHCPv4, i int) []byte{
		"for others": func(f *fake4, m *dhcpv4.DHCPv4, i int) []byte {
			return f.reply(m, dhcpv4.MessageTypeOffer, func(m *dhcpv4.DHCPv4) {
				m.ClientHWAddr = net.HardwareAddr{2, 1, 0, 0, byte(i >> 8), byte(i)}
				m.TransactionID = [4]byte{9, 9, byte(i >> 8), byte(i)}
			})
		},
		"bad offers": func(f *fake4, m *dhcpv4.DHCPv4, i int) []byte {
			return f.reply(m, dhcpv4.MessageTypeOffer, withAddr(fmt.Sprintf("127.0.%d.%d", i>>8&255, i&255)))
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab4(t)
			floods := 0
			newFake4(t, l.far, "eth0", func(f *fake4, m *dhcpv4.DHCPv4) [][]byte {
				var frames [][]byte
				if floods++; floods == 1 {
					for i := range 10_000 {
						frames = append(frames, flood(f, m, i))
					}
				}
				return append(frames, goodOnly(f, m)...)
			})
			begin := time.Now()
			l.must(Ask{Client: client4(1)})
			t.Logf("acquired in %v", time.Since(begin).Round(time.Millisecond))
			l.wire.mu.Lock()
			defer l.wire.mu.Unlock()
			if len(l.wire.heard) > maxSights || len(l.wire.exchanges) > 0 {
				t.Errorf("%d remembered, %d exchanges", len(l.wire.heard), len(l.wire.exchanges))
			}
		})
	}
}

// What a server says by right but cannot be taken is in the error.
func TestSilenceSays4(t *testing.T) {
	for name, c := range map[string]struct {
		ask    func(*Ask)
		script func(f *fake4, m *dhcpv4.DHCPv4) [][]byte
		want   []string
	}{
		"nothing": {script: func(*fake4, *dhcpv4.DHCPv4) [][]byte { return nil }},
		"bad address": {
			script: func(f *fake4, m *dhcpv4.DHCPv4) [][]byte {
				return [][]byte{f.reply(m, dhcpv4.MessageTypeOffer, withAddr("127.0.0.5"))}
			},
			want: []string{"server 10.9.0.1 offered 127.0.0.5: loopback address"},
		},
		"denied": {
			ask: func(a *Ask) { a.Deny = []netip.Addr{addr4(fakeAddr)} }, script: goodOnly,
			want: []string{"server 10.9.0.1 offered 10.9.0.50: server is denied"},
		},
		"not allowed": {
			ask: func(a *Ask) { a.Servers = []netip.Addr{addr4("10.9.0.2")} }, script: goodOnly,
			want: []string{"server 10.9.0.1 offered 10.9.0.50: server is not one of those that are allowed"},
		},
		"refused by the caller": {
			ask: func(a *Ask) { a.Refuse = func(l *lan.Lease) string { return "used by " + l.Via[:0] + "the host" } }, script: goodOnly,
			want: []string{"server 10.9.0.1 offered 10.9.0.50: used by the host"},
		},
		"others are answered": {
			script: func(f *fake4, m *dhcpv4.DHCPv4) [][]byte {
				var frames [][]byte
				for i := range byte(3) {
					frames = append(frames, f.reply(m, dhcpv4.MessageTypeOffer, func(m *dhcpv4.DHCPv4) { m.ClientHWAddr = net.HardwareAddr{2, 0, 0, 0, 1, i} }))
				}
				return frames
			},
			want: []string{"server 10.9.0.1 answered 3 others"},
		},
		"malformed": {
			script: func(f *fake4, m *dhcpv4.DHCPv4) [][]byte {
				return [][]byte{f.frame(f.message(m, dhcpv4.MessageTypeOffer, withOption(200, make([]byte, 900))).ToBytes()[:900])}
			},
			want: []string{"server 10.9.0.1 sent a malformed message"},
		},
		"offers and then silence": {
			script: func(f *fake4, m *dhcpv4.DHCPv4) [][]byte {
				if m.MessageType() == dhcpv4.MessageTypeDiscover {
					return goodOnly(f, m)
				}
				return [][]byte{f.reply(m, dhcpv4.MessageTypeAck, withAddr("10.9.0.51")), f.reply(m, dhcpv4.MessageTypeAck, withOption(optServer, []byte{10, 9, 0, 3}))}
			},
			want: []string{"server 10.9.0.1 granted 10.9.0.51 after it had offered 10.9.0.50", "server 10.9.0.3 answered for 10.9.0.1"},
		},
		"many": {
			script: func(f *fake4, m *dhcpv4.DHCPv4) [][]byte {
				var frames [][]byte
				for i := range 10 {
					frames = append(frames, f.reply(m, dhcpv4.MessageTypeOffer, withAddr(fmt.Sprintf("127.0.0.%d", i))))
				}
				return frames
			},
			want: []string{
				"server 10.9.0.1 offered 127.0.0.0: loopback address", "server 10.9.0.1 offered 127.0.0.1: loopback address",
				"server 10.9.0.1 offered 127.0.0.2: loopback address", "server 10.9.0.1 offered 127.0.0.3: loopback address",
				"server 10.9.0.1 offered 127.0.0.4: loopback address", "server 10.9.0.1 offered 127.0.0.5: loopback address",
				"server 10.9.0.1 offered 127.0.0.6: loopback address", "and 3 more",
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab4(t)
			newFake4(t, l.far, "eth0", c.script)
			a := Ask{Client: client4(1)}
			if c.ask != nil {
				c.ask(&a)
			}
			_, err := l.wire.Acquire(within4(t, 200*time.Millisecond), a)
			var silence *SilenceError
			if !errors.As(err, &silence) {
				t.Fatalf("got %v", err)
			}
			if !slices.Equal(silence.Heard, c.want) {
				t.Errorf("heard\n\t%s\nwant\n\t%s", strings.Join(silence.Heard, "\n\t"), strings.Join(c.want, "\n\t"))
			}
			if !strings.HasPrefix(err.Error(), "no lease within 200ms: sent 1 DHCPDISCOVER") {
				t.Error(err)
			}
		})
	}
}

// The switch port is set wrong: answers come, and not on our VLAN.
func TestAnswersAstray4(t *testing.T) {
	on20 := func(b []byte) []byte { return slices.Insert(b, 2*macLen4, 0x81, 0, 0, 20) }
	silent := func(t *testing.T, l *lab4, want ...string) {
		t.Helper()
		_, err := l.wire.Acquire(within4(t, 2500*time.Millisecond), Ask{Client: client4(1)})
		var silence *SilenceError
		if !errors.As(err, &silence) || !slices.Equal(silence.Heard, want) {
			t.Errorf("%v, want that %q was heard", err, want)
		}
	}
	t.Run("from untagged", func(t *testing.T) {
		l := newLab4(t)
		l.wire = run4(t, Config{Probe: l.probe, Tap: l.tap, Below: l.tap})
		newFake4(t, l.far, "eth0", func(f *fake4, m *dhcpv4.DHCPv4) [][]byte { return [][]byte{on20(f.good(m))} })
		silent(t, l, "server 10.9.0.1 answered on VLAN 20, not untagged")
	})
	t.Run("from a VLAN", func(t *testing.T) {
		l := newVLANLab4(t)
		newFake4(t, l.far, "eth0", func(f *fake4, m *dhcpv4.DHCPv4) [][]byte { return [][]byte{f.good(m), on20(f.good(m))} })
		silent(t, l, "server 10.9.0.1 answered untagged, not on VLAN 100", "server 10.9.0.1 answered on VLAN 20, not on VLAN 100")
	})
	// One that is late is all that is heard.
	t.Run("on the right VLAN", func(t *testing.T) {
		l := newVLANLab4(t)
		newFake4(t, l.far, "eth0.100", func(f *fake4, m *dhcpv4.DHCPv4) [][]byte {
			if f.count(dhcpv4.MessageTypeDiscover) <= patience {
				return nil
			}
			return goodOnly(f, m)
		})
		l.must(Ask{Client: client4(1)})
	})
}

func TestNaks4(t *testing.T) {
	nak := func(f *fake4, m *dhcpv4.DHCPv4) [][]byte {
		if m.MessageType() == dhcpv4.MessageTypeDiscover {
			return goodOnly(f, m)
		}
		return [][]byte{f.reply(m, dhcpv4.MessageTypeNak, withOption(optMessage, []byte("go\x1b away\n\x00")))}
	}
	t.Run("to the end", func(t *testing.T) {
		l := newLab4(t)
		f := newFake4(t, l.far, "eth0", nak)
		_, err := l.wire.Acquire(within4(t, time.Second), Ask{Client: client4(1)})
		var refused *NakError
		if !errors.As(err, &refused) || err.Error() != `server 10.9.0.1 refuses the address ("go? away")` {
			t.Error(err)
		}
		// After 0, 0.2, 0.6, and it would be 1.4 s.
		if n := f.count(dhcpv4.MessageTypeRequest); n != 3 {
			t.Errorf("%d requests in 1 s", n)
		}
	})
	t.Run("once", func(t *testing.T) {
		l := newLab4(t)
		f := newFake4(t, l.far, "eth0", func(f *fake4, m *dhcpv4.DHCPv4) [][]byte {
			if f.count(dhcpv4.MessageTypeRequest) == 1 {
				return nak(f, m)
			}
			return goodOnly(f, m)
		})
		l.must(Ask{Client: client4(1)})
		if f.count(dhcpv4.MessageTypeRequest) != 2 {
			t.Error("not asked twice")
		}
	})
	t.Run("from another", func(t *testing.T) {
		l := newLab4(t)
		newFake4(t, l.far, "eth0", func(f *fake4, m *dhcpv4.DHCPv4) [][]byte {
			return append([][]byte{f.reply(m, dhcpv4.MessageTypeNak, withOption(optServer, []byte{10, 9, 0, 66}))}, goodOnly(f, m)...)
		})
		l.must(Ask{Client: client4(1)})
		// A reboot is for any server to refuse, but one that is not listened to.
		a := Ask{Client: client4(1), Addr: addr4("10.9.0.50"), Deny: []netip.Addr{addr4("10.9.0.66")}}
		if _, err := l.reboot(a); err != nil {
			t.Error(err)
		}
		a.Deny = nil
		_, err := l.reboot(a)
		var refused *NakError
		if !errors.As(err, &refused) || refused.Server != addr4("10.9.0.66") {
			t.Error(err)
		}
	})
}

// What a client's messages have in them.
func TestMessages4(t *testing.T) {
	l := newLab4(t)
	f := newFake4(t, l.far, "eth0", goodOnly)
	c := client4(1)
	c.Hostname, c.FQDN, c.VendorClass, c.UserClass = "web", "web.example.org", "lanyard", []string{"a", "bc"}
	lease := l.must(Ask{Client: c, Addr: addr4("10.9.0.40"), RapidCommit: true})
	if _, err := l.reboot(Ask{Client: c, Addr: addr4("10.9.0.50")}); err != nil {
		t.Fatal(err)
	}
	if err := l.wire.Decline(c, lease, "in use"); err != nil {
		t.Fatal(err)
	}
	if err := l.wire.Release(c, lease); err != nil {
		t.Fatal(err)
	}
	soon4(t, "a release", func() bool { return f.count(dhcpv4.MessageTypeRelease) == 1 })
	f.mu.Lock()
	defer f.mu.Unlock()
	var got []string
	for _, m := range f.seen {
		line := fmt.Sprintf("%s %x %s", m.MessageType(), m.Flags, m.ClientIPAddr)
		for code := range 256 {
			if v, ok := m.Options[uint8(code)]; ok && code != optKind {
				line += fmt.Sprintf(" %d=%x", code, v)
			}
		}
		got = append(got, line)
	}
	want := []string{
		"DISCOVER 8000 0.0.0.0 12=776562 50=0a090028" + asks + " 77=0161026263 80= 81=05000003776562076578616d706c65036f726700",
		"REQUEST 8000 0.0.0.0 12=776562 50=0a090032 54=0a090001" + asks + " 77=0161026263 81=05000003776562076578616d706c65036f726700",
		"REQUEST 8000 0.0.0.0 12=776562 50=0a090032" + asks + " 77=0161026263 81=05000003776562076578616d706c65036f726700",
		"DECLINE 0 0.0.0.0 50=0a090032 54=0a090001 56=696e20757365 61=ff0000000100040001",
		"RELEASE 0 10.9.0.50 54=0a090001 61=ff0000000100040001",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("messages (-want +got):\n%s", diff)
	}
}

// asks is what each asking message has: parameters, size, classes, identifier.
const asks = " 55=017903060f771a2a0c33363a3b 57=05c0 60=6c616e79617264 61=ff0000000100040001"

func TestClosed4(t *testing.T) {
	l := newLab4(t)
	w, err := Open(Config{Probe: l.probe, Tap: l.tap})
	if err != nil {
		t.Fatal(err)
	}
	// It waits for Run, until it is given up.
	why := errors.New("given up")
	ctx, stop := context.WithCancelCause(context.Background())
	stop(why)
	if _, err := w.Acquire(ctx, Ask{Client: client4(1)}); !errors.Is(err, why) {
		t.Error(err)
	}
	ran := make(chan error, 1)
	go func() { ran <- w.Run(context.Background()) }()
	ctx, stop = context.WithCancelCause(context.Background())
	time.AfterFunc(20*time.Millisecond, func() { stop(why) })
	if _, err := w.Acquire(ctx, Ask{Client: client4(1)}); !errors.Is(err, why) {
		t.Error(err)
	}
	time.AfterFunc(20*time.Millisecond, func() { w.Close() })
	if _, err := w.Acquire(context.Background(), Ask{Client: client4(1)}); !errors.Is(err, ErrClosed) {
		t.Error(err)
	}
	if err := <-ran; err != nil {
		t.Error(err)
	}
	for what, err := range map[string]error{
		"close":   w.Close(),
		"acquire": second(w.Acquire(context.Background(), Ask{Client: client4(1)})),
		"reboot":  second(w.Reboot(context.Background(), Ask{Client: client4(1), Addr: addr4("10.9.0.50")})),
		"release": w.Release(client4(1), &lan.Lease{Addr: prefix4("10.9.0.50/24"), Server: addr4("10.9.0.1")}),
	} {
		if what == "close" && err != nil || what != "close" && !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func second(_ *lan.Lease, err error) error { return err }

func TestLinkGone4(t *testing.T) {
	for _, gone := range []string{"probe", "tap"} {
		t.Run(gone, func(t *testing.T) {
			l := newLab4(t)
			l.host.IP("link add tap type veth peer name other")
			l.host.IP("link set tap up")
			l.room.IP("link add probe2 type veth peer name other2")
			l.room.IP("link set probe2 up")
			l.room.IP("link set other2 up")
			w, err := Open(Config{Probe: link4(t, l.room, "probe2"), Tap: link4(t, l.host, "tap")})
			if err != nil {
				t.Fatal(err)
			}
			ran := make(chan error, 1)
			go func() { ran <- w.Run(context.Background()) }()
			deleted := make(chan struct{})
			time.AfterFunc(50*time.Millisecond, func() {
				defer close(deleted)
				if gone == "probe" {
					l.room.IP("link del probe2")
				} else {
					l.host.IP("link del tap")
				}
			})
			_, err = w.Acquire(within4(t, 5*time.Second), Ask{Client: client4(1)})
			if !errors.Is(err, ErrClosed) && !errors.Is(err, unix.ENXIO) && !errors.Is(err, unix.ENETDOWN) {
				t.Errorf("acquire: %v", err)
			}
			<-deleted
			if err := <-ran; !errors.Is(err, packet.ErrLinkGone) {
				t.Errorf("Run: %v", err)
			}
		})
	}
}
