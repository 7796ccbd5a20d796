package dhcp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// The pace of messages. Those of section 7.6 are for hosts that start at the same time
// after a power failure, and for nobody who waits: the first SOLICIT there goes out after
// up to a second, and no ADVERTISE is taken before another one.
const (
	firstWait6 = 500 * time.Millisecond // when somebody waits
	renewWait6 = 2 * time.Second        // when nobody does
	mostWait6  = 2 * time.Minute        // below SOL_MAX_RT (1 h), REQ_MAX_RT, REN_MAX_RT and REB_MAX_RT

	// requestTime6 is how long a server that advertised an address is asked for it,
	// before others are.
	requestTime6 = 4 * time.Second
	// nakTime6 is how long is waited for another server's word when one says that an
	// address is not the client's: it need not be the one that knows.
	nakTime6 = 300 * time.Millisecond
	// goodbyeTime6 is how long is waited for the answer to a RELEASE or DECLINE, and
	// goodbyes6 how often it is sent.
	goodbyeTime6 = time.Second
	goodbyes6    = 3

	maxOffers6 = 16
)

func hurried6() *pace6 { return &pace6{next: firstWait6, most: mostWait6} }

// Acquire asks for an address, until ctx ends: SOLICIT, ADVERTISE, REQUEST and REPLY
// (RFC 8415 section 18.2.1 and 18.2.2), or two messages where the server goes along with
// a rapid commit. The first ADVERTISE that may be taken is. Of those that came already
// it is the one with the highest preference. A server that does not stand by what it
// advertised is asked again only if no other advertises.
//
// It needs Run, and waits for it to start. The errors are SilenceError at ctx's
// deadline, ctx's cause where it was cancelled, ErrClosed, a client that cannot be, and
// what the kernel says of sending, as where the link has no address for 3 s.
func (w *Wire6) Acquire(ctx context.Context, a Ask) (*lan.Lease, error) {
	t := newTally6()
	l, err := w.acquire(ctx, &a, t)
	return l, t.explain(ctx, w, err)
}

func (w *Wire6) acquire(ctx context.Context, a *Ask, t *tally6) (*lan.Lease, error) {
	if err := checkClient(&a.Client); err != nil {
		return nil, err
	}
	s := &solicitation6{ask: a, tally: t, fickle: map[string]bool{}}
	pace := hurried6()
	for {
		m := &message6{kind: dhcpv6.MessageTypeSolicit, client: &a.Client, addr: a.Addr, rapid: a.RapidCommit}
		if err := w.converse(ctx, m, pace, t, s.take, s.due); err != nil {
			return nil, err
		}
		if s.unwanted != nil { // it is ours by now, and we will not have it
			w.abandon(&a.Client, s.unwanted)
			s.unwanted = nil
			continue
		}
		if s.lease != nil {
			s.lease.Asked = pace.first
			return s.lease, nil
		}
		offer := s.best()
		l, err := w.request(ctx, a, offer.lease, t)
		switch {
		case l != nil:
			return l, nil
		case err != nil && !errors.Is(err, errUntaken):
			return nil, err
		case ctx.Err() != nil:
			return nil, errUntaken
		}
		s.failed(offer)
	}
}

// request asks a server for what it advertised. It returns nil and no error when the
// server does not grant it.
func (w *Wire6) request(ctx context.Context, a *Ask, offer *lan.Lease, t *tally6) (*lan.Lease, error) {
	inner, stop := context.WithTimeout(ctx, requestTime6)
	defer stop()
	m := &message6{kind: dhcpv6.MessageTypeRequest, client: &a.Client, server: offer.ServerID, addr: offer.Addr.Addr()}
	pace := hurried6()
	var got *lan.Lease
	err := w.converse(inner, m, pace, t, func(r *answer6) bool {
		l, no := reply6(r, a, offer.Addr.Addr())
		switch {
		case no == nil && bytes.Equal(l.ServerID, offer.ServerID):
			got, l.Asked = l, pace.first
			return true
		case no == nil:
			t.hear(fmt.Sprintf("server %s: it was not asked", r.from))
			return false
		}
		t.hear(no.of(r))
		server, _ := r.identity(a)
		if !bytes.Equal(server, offer.ServerID) || r.kind != dhcpv6.MessageTypeReply {
			return false
		}
		if unwanted := r.granted(a); unwanted != nil {
			w.abandon(&a.Client, unwanted)
		}
		return true
	}, nil)
	return got, err
}

// reply6 is the lease in a REPLY.
func reply6(r *answer6, a *Ask, want netip.Addr) (*lan.Lease, *refusal6) {
	if r.kind != dhcpv6.MessageTypeReply {
		return nil, &refusal6{reason: "an ADVERTISE that was not asked for", whole: true}
	}
	return r.lease(a, want)
}

// granted is the address that a reply binds to the client, taken or not.
func (a *answer6) granted(ask *Ask) *lan.Lease {
	l, _ := a.lease(&Ask{Client: ask.Client}, ask.Addr)
	return l
}

// abandon tells a server that an address that it has just granted is not used. It does
// not wait: where the message is lost the lease runs out by itself.
func (w *Wire6) abandon(c *Client, l *lan.Lease) {
	x, err := w.begin(context.Background())
	if err != nil {
		return
	}
	defer w.end(x)
	_ = w.send(farewell6(dhcpv6.MessageTypeRelease, c, l).encode(x.xid, 0))
}

// solicitation6 gathers what servers advertise.
type solicitation6 struct {
	ask    *Ask
	tally  *tally6
	fickle map[string]bool // the DUIDs of servers that did not stand by what they advertised

	offers   []offer6
	lease    *lan.Lease // of a rapid commit
	unwanted *lan.Lease // committed too, and refused
}

type offer6 struct {
	lease      *lan.Lease
	preference int
}

func (s *solicitation6) take(r *answer6) bool {
	_, rapid := r.options.one(dhcpv6.OptionRapidCommit)
	if r.kind == dhcpv6.MessageTypeReply && (!s.ask.RapidCommit || !rapid) { // section 18.2.1
		s.tally.hear(fmt.Sprintf("server %s: a REPLY that was not asked for", r.from))
		return false
	}
	l, no := r.lease(s.ask, s.ask.Addr)
	switch {
	case no != nil:
		s.tally.hear(no.of(r))
		if r.kind == dhcpv6.MessageTypeReply {
			s.unwanted = r.granted(s.ask)
		}
		return s.unwanted != nil
	case r.kind == dhcpv6.MessageTypeReply:
		s.lease = l
		return true
	}
	s.offers = slices.DeleteFunc(s.offers, func(o offer6) bool { return bytes.Equal(o.lease.ServerID, l.ServerID) })
	if len(s.offers) < maxOffers6 {
		s.offers = append(s.offers, offer6{l, r.preference()})
	}
	return !s.fickle[string(l.ServerID)]
}

// due ends the wait for an offer of a server that stands by it.
func (s *solicitation6) due() bool { return len(s.offers) > 0 }

// best takes the best offer out: of a server that did not fail yet, then by preference,
// then the one that came first.
func (s *solicitation6) best() offer6 {
	first := 0
	for i, o := range s.offers {
		b := s.offers[first]
		if f, g := s.fickle[string(o.lease.ServerID)], s.fickle[string(b.lease.ServerID)]; f != g {
			if g {
				first = i
			}
		} else if o.preference > b.preference {
			first = i
		}
	}
	best := s.offers[first]
	s.offers = slices.Delete(s.offers, first, first+1)
	return best
}

func (s *solicitation6) failed(o offer6) {
	if len(s.fickle) < maxOffers6 {
		s.fickle[string(o.lease.ServerID)] = true
	}
}

// Reboot asks whether the address that a container had is still its own, and extends the
// lease, until ctx ends. A CONFIRM would only be asked whether the address is one of the
// link's, so it is a REBIND (section 18.2.5), which any server may answer.
//
// The errors are those of Acquire, and NakError where a server says NoBinding or
// NotOnLink, or that the address is valid no more, and within 0.3 s none says otherwise;
// from the one that granted the lease, at once, and NoAddrsAvail too (which is how
// dnsmasq says that the address is none of its own). The lease may be of another
// address, where the server replaces the one there was, unless a.Only is set.
func (w *Wire6) Reboot(ctx context.Context, a Ask, l *lan.Lease) (*lan.Lease, error) {
	return w.extend(ctx, a, l, true, hurried6())
}

// Renew extends a lease, until ctx ends: it asks the server that granted it (RENEW,
// section 18.2.4), or any (REBIND, section 18.2.5). It is as Reboot, but in less of a hurry:
// where no answer comes it asks again after 2 s, 6 s, 14 s and so on.
func (w *Wire6) Renew(ctx context.Context, a Ask, l *lan.Lease, rebind bool) (*lan.Lease, error) {
	return w.extend(ctx, a, l, rebind, &pace6{next: renewWait6, most: mostWait6})
}

func (w *Wire6) extend(ctx context.Context, a Ask, l *lan.Lease, rebind bool, pace *pace6) (*lan.Lease, error) {
	t := newTally6()
	a.Addr = l.Addr.Addr()
	m := &message6{kind: dhcpv6.MessageTypeRebind, client: &a.Client, addr: a.Addr}
	if !rebind {
		if len(l.ServerID) == 0 {
			return nil, errors.New("renew: the lease is of no DHCPv6 server")
		}
		m.kind, m.server = dhcpv6.MessageTypeRenew, l.ServerID
	}
	got, err := w.extended(ctx, &a, l, m, pace, t)
	return got, t.explain(ctx, w, err)
}

func (w *Wire6) extended(ctx context.Context, a *Ask, l *lan.Lease, m *message6, pace *pace6, t *tally6) (got *lan.Lease, err error) {
	if err := checkClient(&a.Client); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var nak *NakError
	err = w.converse(ctx, m, pace, t, func(r *answer6) bool {
		server, _ := r.identity(a)
		theirs := bytes.Equal(server, l.ServerID)
		x, no := reply6(r, a, a.Addr)
		switch {
		case m.server != nil && !theirs && no == nil:
			t.hear(fmt.Sprintf("server %s: it was not asked", r.from))
			return false
		case no == nil:
			got, x.Asked = x, pace.first
			return true
		}
		t.hear(no.of(r))
		switch {
		case m.server != nil && !theirs:
			return false
		case !no.nak && !(theirs && no.full):
			return false
		}
		if nak == nil {
			nak = &NakError{Server: r.from, Message: no.message}
			time.AfterFunc(nakTime6, stop)
		}
		return theirs
	}, nil)
	if got == nil && nak != nil {
		return nil, nak
	}
	return got, err
}

// Release gives an address back to its server (section 18.2.7). It returns when the
// server has answered, after a second, or when ctx ends. That no answer comes is no
// error: the lease runs out by itself.
func (w *Wire6) Release(ctx context.Context, c Client, l *lan.Lease) error {
	return w.farewell(ctx, dhcpv6.MessageTypeRelease, &c, l)
}

// Decline tells the server that somebody else uses an address (section 18.2.8). It waits
// as Release does.
func (w *Wire6) Decline(ctx context.Context, c Client, l *lan.Lease) error {
	return w.farewell(ctx, dhcpv6.MessageTypeDecline, &c, l)
}

func (w *Wire6) farewell(ctx context.Context, kind dhcpv6.MessageType, c *Client, l *lan.Lease) error {
	if err := checkClient(c); err != nil {
		return err
	}
	if len(l.ServerID) == 0 {
		return fmt.Errorf("%s: the lease is of no DHCPv6 server", strings.ToLower(kind.String()))
	}
	inner, stop := context.WithTimeout(ctx, goodbyeTime6)
	defer stop()
	t := newTally6()
	pace := &pace6{next: goodbyeTime6 / goodbyes6, most: goodbyeTime6 / goodbyes6}
	err := w.converse(inner, farewell6(kind, c, l), pace, t, func(r *answer6) bool {
		// Whatever it says: it will not say anything else when asked again.
		server, no := r.identity(&Ask{Client: *c})
		return no == nil && r.kind == dhcpv6.MessageTypeReply && bytes.Equal(server, l.ServerID)
	}, nil)
	if errors.Is(err, errUntaken) && len(t.kinds) > 0 {
		return nil
	}
	return t.explain(ctx, w, err)
}

func farewell6(kind dhcpv6.MessageType, c *Client, l *lan.Lease) *message6 {
	return &message6{kind: kind, client: c, server: l.ServerID, addr: l.Addr.Addr()}
}

// tally6 notes what was sent and heard, for a SilenceError.
type tally6 struct {
	start time.Time
	kinds []dhcpv6.MessageType // in the order of the first of each
	count map[dhcpv6.MessageType]int
	heard []string
	times map[string]int // how often each was heard
	more  int            // heard besides
}

// maxHeard6 is how many different answers are told.
const maxHeard6 = 8

func newTally6() *tally6 {
	return &tally6{start: time.Now(), count: map[dhcpv6.MessageType]int{}, times: map[string]int{}}
}

func (t *tally6) sent(kind dhcpv6.MessageType) {
	if t.count[kind]++; t.count[kind] == 1 {
		t.kinds = append(t.kinds, kind)
	}
}

func (t *tally6) hear(what string) {
	switch {
	case t.times[what] > 0:
		t.times[what]++
	case len(t.heard) == maxHeard6:
		t.more++
	default:
		t.heard = append(t.heard, what)
		t.times[what] = 1
	}
}

// explain makes the error of a verb of what an exchange ended with.
func (t *tally6) explain(ctx context.Context, w *Wire6, err error) error {
	var nak *NakError
	switch {
	case err == nil || errors.Is(err, ErrClosed) || errors.As(err, &nak):
		return err
	case !errors.Is(err, errUntaken):
		return fmt.Errorf("DHCPv6 on %s: %w", w.name, err)
	case errors.Is(ctx.Err(), context.Canceled):
		return context.Cause(ctx)
	}
	e := &SilenceError{For: time.Since(t.start)}
	var sent []string
	for _, k := range t.kinds {
		sent = append(sent, fmt.Sprintf("%d %s", t.count[k], k))
	}
	e.Sent = strings.Join(sent, ", ")
	for _, what := range t.heard {
		if n := t.times[what]; n > 1 {
			what += fmt.Sprintf(" (%d times)", n)
		}
		e.Heard = append(e.Heard, what)
	}
	if t.more > 0 {
		e.Heard = append(e.Heard, fmt.Sprintf("%d more answers", t.more))
	}
	return e
}
