package dhcp

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// script4 runs an exchange without a wire: answer makes the answers to each message.
func script4(t *testing.T, a *Ask, answer func(f *fake4, m *dhcpv4.DHCPv4) []byte) (x *exchange4, sent func() []time.Duration) {
	f := &fake4{t: t, mac: net.HardwareAddr{2, 0, 0, 0, 0, 1}}
	x = newExchange4(a)
	x.rekey = func(x *exchange4) { x.key = key4{xid: xid4(), mac: [macLen4]byte(a.MAC)} }
	var at []time.Duration
	x.send = func(m *dhcpv4.DHCPv4) error {
		at = append(at, time.Since(x.began))
		if b := answer(f, m); b != nil {
			got, ok := parse4(b)
			if !ok || got.key != x.key {
				t.Errorf("%v is no answer to %v", got.key, x.key)
			}
			x.offer(got)
		}
		return nil
	}
	return x, func() []time.Duration { return at }
}

// near fails unless times are as wanted, give or take a tenth of the gaps.
func near(t *testing.T, got []time.Duration, want ...time.Duration) {
	t.Helper()
	ok := slices.EqualFunc(got, want, func(a, b time.Duration) bool { return a >= b*9/10 && a <= b*11/10 })
	if !ok {
		t.Errorf("sent at %v, want %v", got, want)
	}
}

const ms = time.Millisecond

func TestPace4(t *testing.T) {
	a := Ask{Client: client4(1)}
	t.Run("silence", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
			defer stop()
			x, sent := script4(t, &a, func(*fake4, *dhcpv4.DHCPv4) []byte { return nil })
			_, err := x.acquire(ctx)
			var silence *SilenceError
			if !errors.As(err, &silence) || err.Error() != "no lease within 10s: sent 5 DHCPDISCOVER, heard nothing" {
				t.Error(err)
			}
			near(t, sent(), 0, 500*ms, 1500*ms, 3500*ms, 7500*ms)
		})
	})
	// A server that made an offer and is gone then is given up after 4 s.
	t.Run("no acknowledgement", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
			defer stop()
			x, sent := script4(t, &a, func(f *fake4, m *dhcpv4.DHCPv4) []byte {
				if m.MessageType() == dhcpv4.MessageTypeDiscover {
					return f.good(m)
				}
				return nil
			})
			_, err := x.acquire(ctx)
			const want = "no lease within 5s: sent 2 DHCPDISCOVER and 6 DHCPREQUEST, heard server 10.9.0.1 offered 10.9.0.50, and did not answer the request for it"
			if err == nil || err.Error() != want {
				t.Error(err)
			}
			near(t, sent(), 0, 0, 500*ms, 1500*ms, 3500*ms, 4000*ms, 4000*ms, 4500*ms)
		})
	})
	t.Run("refusals", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, stop := context.WithTimeout(t.Context(), 6*time.Second)
			defer stop()
			x, sent := script4(t, &a, func(f *fake4, m *dhcpv4.DHCPv4) []byte {
				if m.MessageType() == dhcpv4.MessageTypeDiscover {
					return f.good(m)
				}
				return f.reply(m, dhcpv4.MessageTypeNak)
			})
			_, err := x.acquire(ctx)
			var nak *NakError
			if !errors.As(err, &nak) {
				t.Error(err)
			}
			near(t, sent(), 0, 0, 200*ms, 200*ms, 600*ms, 600*ms, 1400*ms, 1400*ms, 3000*ms, 3000*ms, 5000*ms, 5000*ms)
		})
	})
	// A refusal that is followed by silence is told of, and is not the reason.
	t.Run("a refusal, then silence", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, stop := context.WithTimeout(t.Context(), 10*time.Second)
			defer stop()
			refused := false
			x, _ := script4(t, &a, func(f *fake4, m *dhcpv4.DHCPv4) []byte {
				switch {
				case refused:
					return nil
				case m.MessageType() == dhcpv4.MessageTypeDiscover:
					return f.good(m)
				}
				refused = true
				return f.reply(m, dhcpv4.MessageTypeNak, withOption(optMessage, []byte("wrong network")))
			})
			_, err := x.acquire(ctx)
			var silence *SilenceError
			if !errors.As(err, &silence) || !slices.Equal(silence.Heard, []string{"server 10.9.0.1 refused: wrong network"}) {
				t.Error(err)
			}
		})
	})
}
