package dhcp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// The pace of an exchange. RFC 2131 section 4.1 has a client begin with 4 s; but here a
// person waits for a container, and on a LAN what is not answered in half a second was
// lost, or the server is slow (dnsmasq pings an address for 3 s) and knows a message of
// the same transaction when it hears it again.
const (
	firstGap    = 500 * time.Millisecond
	maxGap      = 16 * time.Second
	requestTime = 4 * time.Second        // until a server that made an offer is given up
	firstPause  = 200 * time.Millisecond // after a DHCPNAK
	maxPause    = 2 * time.Second
)

const (
	patience   = 2  // messages without an answer, until answers are looked for elsewhere
	maxAnswers = 16 // wait for an exchange; what comes beyond is lost, as on a wire
	maxHeard   = 8  // lines of a SilenceError
	maxLog     = 64 // lines that are told apart
)

// exchange4 is a client's asking, from its first message until it has a lease or an
// error. Its methods but offer are for one goroutine.
type exchange4 struct {
	ask     *Ask
	send    func(*dhcpv4.DHCPv4) error
	decline func(*lan.Lease, string)
	rekey   func(*exchange4)                           // gives it a new key
	others  func(net.HardwareAddr, time.Time) []string // who else was answered; nil: unknown
	seek    func()                                     // looks for answers elsewhere; nil: nowhere
	found   func()                                     // ends that; nil: nothing to end
	closed  <-chan struct{}
	answers chan answer4
	key     key4

	began               time.Time
	asked               time.Time // when the message that waits for an answer was first sent
	discovers, requests int       // sent
	log                 []string  // answers that were not taken
	nak                 *NakError
	nakAt               time.Time
}

func newExchange4(a *Ask) *exchange4 {
	return &exchange4{ask: a, answers: make(chan answer4, maxAnswers), began: time.Now()}
}

// offer takes an answer from a reader, unless too many wait already. It never blocks.
func (x *exchange4) offer(a answer4) {
	if len(x.answers) == cap(x.answers) {
		return
	}
	a.body = bytes.Clone(a.body)
	select {
	case x.answers <- a:
	default:
	}
}

// begin starts with a new transaction ID; what came for the last one is forgotten.
func (x *exchange4) begin() {
	x.rekey(x)
	for {
		select {
		case <-x.answers:
		default:
			return
		}
	}
}

func (x *exchange4) acquire(ctx context.Context) (*lan.Lease, error) {
	for pause := firstPause; ; {
		x.begin()
		l, bound, err := x.discover(ctx)
		if err != nil || bound {
			return l, err
		}
		granted, nak, err := x.request(ctx, l)
		if err != nil || granted != nil {
			return granted, err
		}
		if nak {
			// Whatever else it says meanwhile is about what was refused.
			for end := time.Now().Add(pause); ; {
				if r, err := x.next(ctx, end); err != nil {
					return nil, err
				} else if r == nil {
					break
				}
			}
			pause = min(2*pause, maxPause)
		}
	}
}

// discover waits for an offer that can be taken, or for what is bound already.
func (x *exchange4) discover(ctx context.Context) (l *lan.Lease, bound bool, err error) {
	m := ask4(&x.ask.Client, dhcpv4.MessageTypeDiscover)
	if x.ask.Addr.Is4() {
		m.Options[optAddr] = x.ask.Addr.AsSlice()
	}
	if x.ask.RapidCommit {
		m.Options[optRapid] = nil
	}
	_, err = x.transact(ctx, m, &x.discovers, 0, func(r *reply4) bool {
		_, rapid := r.options[optRapid]
		switch {
		case r.kind == dhcpv4.MessageTypeOffer:
			l = x.lease(r, "offered", true)
		case r.kind == dhcpv4.MessageTypeAck && rapid && x.ask.RapidCommit:
			l = x.lease(r, "granted", true)
			bound = l != nil
		case r.kind == dhcpv4.MessageTypeNak:
			x.refused(r)
		}
		return l != nil
	})
	return l, bound, err
}

// request asks for what a server has offered. Without a lease, refusal or error the
// server is silent.
func (x *exchange4) request(ctx context.Context, offer *lan.Lease) (l *lan.Lease, nak bool, err error) {
	m := ask4(&x.ask.Client, dhcpv4.MessageTypeRequest)
	m.Options[optAddr] = offer.Addr.Addr().AsSlice()
	m.Options[optServer] = offer.Server.AsSlice()
	answered, err := x.transact(ctx, m, &x.requests, requestTime, func(r *reply4) bool {
		switch {
		case r.kind != dhcpv4.MessageTypeAck && r.kind != dhcpv4.MessageTypeNak:
		case r.server != offer.Server:
			x.note("server %s answered for %s", r.name(), offer.Server)
		case r.kind == dhcpv4.MessageTypeNak:
			nak = true
			x.refused(r)
		case r.yiaddr != offer.Addr.Addr():
			x.note("server %s granted %s after it had offered %s", r.name(), r.yiaddr, offer.Addr.Addr())
		default:
			l = x.lease(r, "granted", false)
		}
		return nak || l != nil
	})
	if err == nil && !answered {
		x.nak = nil
		x.note("server %s offered %s, and did not answer the request for it", offer.Server, offer.Addr.Addr())
	}
	return l, nak, err
}

func (x *exchange4) reboot(ctx context.Context) (*lan.Lease, error) {
	x.begin()
	m := ask4(&x.ask.Client, dhcpv4.MessageTypeRequest)
	m.Options[optAddr] = x.ask.Addr.AsSlice()
	return x.again(ctx, m)
}

// again asks for an address that the client has or had, of whichever server.
func (x *exchange4) again(ctx context.Context, m *dhcpv4.DHCPv4) (l *lan.Lease, err error) {
	var nak *NakError
	_, err = x.transact(ctx, m, &x.requests, 0, func(r *reply4) bool {
		switch {
		case r.kind == dhcpv4.MessageTypeNak:
			nak = x.refused(r)
		case r.kind != dhcpv4.MessageTypeAck:
		case r.yiaddr != x.ask.Addr:
			x.note("server %s granted %s, not %s", r.name(), r.yiaddr, x.ask.Addr)
		default:
			l = x.lease(r, "granted", true)
		}
		return l != nil || nak != nil
	})
	if nak != nil {
		return nil, nak
	}
	return l, err
}

// lease is the one that a server offers or has granted, nil if it cannot be taken. The
// ask's own refusal is asked for once for each: of an offer, not again when it is granted.
func (x *exchange4) lease(r *reply4, did string, first bool) *lan.Lease {
	l, why := check4(r, x.ask)
	if why == "" && first && x.ask.Refuse != nil {
		why = x.ask.Refuse(l)
		if why != "" && r.kind == dhcpv4.MessageTypeAck && x.decline != nil {
			x.decline(l, why)
		}
	}
	if why != "" {
		x.note("server %s %s %s: %s", r.name(), did, r.yiaddr, why)
		return nil
	}
	// Which of the messages of one transaction is answered cannot be known: the first is
	// the safe one to count from.
	l.Asked = x.asked
	return l
}

// refused notes a DHCPNAK. It is nil if it is from a server that is not listened to.
func (x *exchange4) refused(r *reply4) *NakError {
	text := cleaned(string(r.options[optMessage]))
	line := fmt.Sprintf("server %s refused", r.name())
	if text != "" {
		line += ": " + text
	}
	if why := serverRefused(r.server, x.ask); why != "" {
		x.note("%s (%s)", line, why)
		return nil
	}
	x.note("%s", line)
	x.nak, x.nakAt = &NakError{Server: r.server, Message: text}, time.Now()
	return x.nak
}

// transact sends a message at the pace until take takes an answer or limit is over; 0 is
// no limit.
func (x *exchange4) transact(ctx context.Context, m *dhcpv4.DHCPv4, sent *int, limit time.Duration, take func(*reply4) bool) (bool, error) {
	m.TransactionID = x.key.xid
	x.asked = time.Now()
	for gap := firstGap; ; gap = min(2*gap, maxGap) {
		if *sent == patience && x.seek != nil && x.found == nil {
			x.seek()
		}
		m.NumSeconds = uint16(min(time.Since(x.began)/time.Second, 0xffff))
		switch err := x.send(m); {
		case err == nil:
			*sent++
		case !lost(err):
			return false, fmt.Errorf("DHCP%s: %w", m.MessageType(), err)
		}
		until := time.Now().Add(gap + time.Duration((rand.Float64()-0.5)/5*float64(gap)))
		last := limit > 0 && until.Sub(x.asked) >= limit
		if last {
			until = x.asked.Add(limit)
		}
		for {
			r, err := x.next(ctx, until)
			if err != nil {
				return false, err
			}
			if r == nil {
				break
			}
			if take(r) {
				return true, nil
			}
		}
		if last {
			return false, nil
		}
	}
}

// next waits for an answer to the client until a time, and returns nil then.
func (x *exchange4) next(ctx context.Context, until time.Time) (*reply4, error) {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	for {
		select {
		case a := <-x.answers:
			if r := x.read(a); r != nil {
				return r, nil
			}
		case <-timer.C:
			return nil, nil
		case <-ctx.Done():
			return nil, x.over(ctx)
		case <-x.closed:
			return nil, ErrClosed
		}
	}
}

// read decodes an answer. It is nil if it is none to this client: a server that sends a
// client identifier back sends the client's (RFC 6842).
func (x *exchange4) read(a answer4) *reply4 {
	if a.astray != "" {
		x.note("server %s answered %s", a.from, a.astray)
		return nil
	}
	r, err := decode4(a)
	if err != nil {
		x.note("server %s sent a malformed message", a.from)
		return nil
	}
	if id, ok := r.options[optClientID]; ok && !bytes.Equal(id, x.ask.ID) {
		x.note("server %s answered another client identifier", r.name())
		return nil
	}
	return r
}

// note keeps a line of what was heard, once.
func (x *exchange4) note(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if len(x.log) < maxLog && !slices.Contains(x.log, line) {
		x.log = append(x.log, line)
	}
}

// over is the error of an exchange whose ctx has ended.
func (x *exchange4) over(ctx context.Context) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return context.Cause(ctx)
	}
	if x.nak != nil && time.Since(x.nakAt) < 2*maxPause {
		return x.nak
	}
	heard := x.log
	if x.others != nil {
		heard = slices.Concat(heard, x.others(x.ask.MAC, x.began))
	}
	if len(heard) > maxHeard {
		heard = append(heard[:maxHeard-1:maxHeard-1], fmt.Sprintf("and %d more", len(heard)-maxHeard+1))
	}
	var sent []string
	if x.discovers > 0 || x.requests == 0 {
		sent = append(sent, fmt.Sprintf("%d DHCPDISCOVER", x.discovers))
	}
	if x.requests > 0 {
		sent = append(sent, fmt.Sprintf("%d DHCPREQUEST", x.requests))
	}
	return &SilenceError{Sent: strings.Join(sent, " and "), For: time.Since(x.began), Heard: heard}
}
