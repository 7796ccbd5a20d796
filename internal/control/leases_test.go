package control

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// lease makes the state of a lease of one hour.
func lease(id, addr, state, wire, network, container string) ipam.LeaseState {
	a := netip.MustParseAddr(addr)
	l := ipam.LeaseState{
		ID: id, Address: a, State: state, Wire: wire, Pool: "dhcp", Network: network, Container: container, MAC: "02:42:c0:a8:0b:02",
		Lease: lan.Lease{
			Addr: netip.PrefixFrom(a, 24), Server: netip.MustParseAddr("192.168.0.1"), Gateway: netip.MustParseAddr("192.168.0.1"),
			DNS: []netip.Addr{netip.MustParseAddr("192.168.0.1")}, Renew: 30 * time.Minute, Rebind: 52 * time.Minute, Life: time.Hour,
		},
		Since: day,
	}
	switch state {
	case ipam.LeaseBound, ipam.LeaseRenewing:
		l.Endpoint = "e" + id
		l.Granted, l.RenewsAt, l.RebindsAt, l.EndsAt = day, day.Add(30*time.Minute), day.Add(52*time.Minute), day.Add(time.Hour)
	case ipam.LeasePast, ipam.LeaseIdle:
		l.Granted = day
	}
	return l
}

func leases() []ipam.LeaseState {
	return []ipam.LeaseState{
		lease("aaa1", "192.168.0.7", ipam.LeaseBound, "eth1", "aa11", "web"),
		lease("aaa2", "192.168.0.8", ipam.LeaseIdle, "eth1", "aa11", "db"),
		lease("bbb1", "192.168.0.7", ipam.LeaseRenewing, "eth2, VLAN 802.1Q:7", "bb", ""),
		lease("bbb2", "192.168.0.9", ipam.LeasePast, "eth2, VLAN 802.1Q:7", "", "old"),
	}
}

// leasesOf is a source's leases.
func leasesOf(src *Source) {
	src.Leases = leases
	src.Lease = func(id string) (ipam.LeaseState, error) {
		for _, l := range leases() {
			if l.ID == id {
				return l, nil
			}
		}
		return ipam.LeaseState{}, lan.Refusef(lan.ErrNotFound, "no lease %.64q is known", id)
	}
	src.RenewLease = func(ctx context.Context, id string) (ipam.LeaseState, error) {
		l, err := src.Lease(id)
		switch {
		case err != nil:
			return l, err
		case l.State == ipam.LeaseIdle:
			return l, lan.Refusef(lan.ErrUnavailable, "lease %s was not renewed: no server answers", l.ID)
		}
		if _, ends := ctx.Deadline(); !ends {
			return l, errors.New("a renewal must end")
		}
		l.EndsAt = l.EndsAt.Add(time.Hour)
		return l, nil
	}
	src.ReleaseLease = func(_ context.Context, id string) (ipam.LeaseState, error) {
		l, err := src.Lease(id)
		if err == nil && l.Endpoint != "" {
			err = lan.Refusef(lan.ErrConflict, "lease %s is a running container's", l.ID)
		}
		return l, err
	}
	src.Events = func(_ context.Context, after uint64, _ bool) []ipam.Event { return events()[min(after, 2):] } // and none to wait for
	src.EventCounts = func() map[string]uint64 {
		return map[string]uint64{ipam.EventAcquired: 7, ipam.EventRenewed: 2000, ipam.EventLost: 0}
	}
}

func events() []ipam.Event {
	return []ipam.Event{
		{Seq: 1, Time: day, What: ipam.EventAcquired, Wire: "eth1", Network: "aa11", Container: "web", Lease: "aaa1",
			Address: netip.MustParseAddr("192.168.0.7"), Server: netip.MustParseAddr("192.168.0.1")},
		{Seq: 2, Time: day.Add(time.Hour), What: ipam.EventLost, Wire: "eth1", Lease: "aaa1", Text: "the lease has ended"},
	}
}

func TestLeases(t *testing.T) {
	c := daemon(t, source())
	ctx := t.Context()
	all, err := c.Leases(ctx, "")
	if diff := cmp.Diff(leases(), all, byValue); err != nil || diff != "" {
		t.Errorf("leases: %v (-want +got)\n%s", err, diff)
	}
	some, err := c.Leases(ctx, "aa1")
	if diff := cmp.Diff(leases()[:2], some, byValue); err != nil || diff != "" {
		t.Errorf("leases of aa1: %v (-want +got)\n%s", err, diff)
	}
	one, err := c.Lease(ctx, "aaa2")
	if diff := cmp.Diff(&leases()[1], one, byValue); err != nil || diff != "" {
		t.Errorf("lease: %v (-want +got)\n%s", err, diff)
	}
	renewed, err := c.RenewLease(ctx, "aaa1")
	if err != nil || renewed.ID != "aaa1" || renewed.EndsAt != day.Add(2*time.Hour) {
		t.Errorf("renewed is %+v, %v", renewed, err)
	}
	released, err := c.ReleaseLease(ctx, "aaa2")
	if diff := cmp.Diff(&leases()[1], released, byValue); err != nil || diff != "" {
		t.Errorf("released: %v (-want +got)\n%s", err, diff)
	}
	for _, tc := range []struct {
		err    error
		reason error
		text   string
	}{
		{second(c.Leases(ctx, "cc")), lan.ErrNotFound, `network "cc" is not known`},
		{second(c.Lease(ctx, "../leases")), lan.ErrNotFound, `no lease "../leases" is known`},
		{second(c.Lease(ctx, "a/b%2F? c")), lan.ErrNotFound, `no lease "a/b%2F? c" is known`},
		{second(c.RenewLease(ctx, "aaa2")), lan.ErrUnavailable, "lease aaa2 was not renewed: no server answers"},
		{second(c.ReleaseLease(ctx, "aaa1")), lan.ErrConflict, "lease aaa1 is a running container's"},
	} {
		if !errors.Is(tc.err, tc.reason) || !strings.Contains(tc.err.Error(), tc.text) {
			t.Errorf("%v, want %s", tc.err, tc.text)
		}
	}
}

// Who hangs up does not end a renewal, and a daemon that stops does.
func TestRenewalStands(t *testing.T) {
	src := source()
	stop, began, ended := make(chan struct{}), make(chan struct{}), make(chan error, 1)
	src.Stopping = stop
	src.RenewLease = func(ctx context.Context, _ string) (ipam.LeaseState, error) {
		close(began)
		<-ctx.Done()
		ended <- ctx.Err()
		return ipam.LeaseState{}, ctx.Err()
	}
	c := daemon(t, src)
	ctx, hangUp := context.WithCancel(t.Context())
	go func() { <-began; hangUp() }()
	if _, err := c.RenewLease(ctx, "web"); !errors.Is(err, context.Canceled) {
		t.Errorf("renewal: %v", err)
	}
	select {
	case err := <-ended:
		t.Errorf("renewal ended with its client: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(stop)
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("renewal ended: %v", err)
	}
}

// The words on the wire are a promise.
func TestWireOfLeases(t *testing.T) {
	empty := source()
	empty.Leases = func() []ipam.LeaseState { return nil }
	empty.Events = func(context.Context, uint64, bool) []ipam.Event { return nil }
	broken := source()
	broken.Events = func(context.Context, uint64, bool) []ipam.Event { panic("boom") }
	db := `{"id":"aaa2","address":"192.168.0.8","state":"idle","wire":"eth1","pool":"dhcp","network":"aa11","container":"db",` +
		`"mac":"02:42:c0:a8:0b:02","lease":{"addr":"192.168.0.8/24","server":"192.168.0.1","gateway":"192.168.0.1","dns":["192.168.0.1"],` +
		`"renew":1800000000000,"rebind":3120000000000,"life":3600000000000},"granted":"2026-11-24T00:00:00Z","since":"2026-11-24T00:00:00Z"}`
	first := `{"seq":1,"time":"2026-11-24T00:00:00Z","what":"lease-acquired","wire":"eth1","network":"aa11","container":"web","lease":"aaa1",` +
		`"address":"192.168.0.7","server":"192.168.0.1"}`
	last := `{"seq":2,"time":"2026-11-24T01:00:00Z","what":"lease-lost","wire":"eth1","lease":"aaa1","text":"the lease has ended"}`
	for _, tc := range []struct {
		src          Source
		method, path string
		status       int
		want         string
	}{
		{empty, "GET", "/v1/leases", 200, `[]`},
		{source(), "GET", "/v1/leases?network=", 400, `{"error":"network id is missing","code":"invalid"}`},
		{source(), "GET", "/v1/leases/aaa2", 200, db},
		{source(), "GET", "/v1/leases/none", 404, `{"error":"no lease \"none\" is known","code":"not_found"}`},
		{source(), "POST", "/v1/leases/aaa2/release", 200, db},
		{source(), "POST", "/v1/leases/aaa2/renew", 503, `{"error":"lease aaa2 was not renewed: no server answers","code":"unavailable"}`},
		{source(), "GET", "/v1/leases/aaa2/renew", 404, `{"error":"GET /v1/leases/aaa2/renew is not part of this API","code":"not_found"}`},
		{source(), "POST", "/v1/leases/aaa2", 404, `{"error":"POST /v1/leases/aaa2 is not part of this API","code":"not_found"}`},
		{empty, "GET", "/v1/events", 200, `[]`},
		{source(), "GET", "/v1/events", 200, "[" + first + "," + last + "]"},
		{source(), "GET", "/v1/events?after=1&follow=false", 200, "[" + last + "]"},
		{source(), "GET", "/v1/events?after=1&follow=true", 200, last},
		{empty, "GET", "/v1/events?follow=1", 200, ""},
		{source(), "GET", "/v1/events?after=-1", 400, `{"error":"after \"-1\" is not the seq of an event","code":"invalid"}`},
		{source(), "GET", "/v1/events?after=", 400, `{"error":"after \"\" is not the seq of an event","code":"invalid"}`},
		{source(), "GET", "/v1/events?follow=on", 400, `{"error":"follow \"on\" is neither true nor false","code":"invalid"}`},
		{broken, "GET", "/v1/events", 500, `{"error":"internal error; the log of lanyard has the details","code":"internal"}`},
		{broken, "GET", "/v1/events?follow=true", 500, `{"error":"internal error; the log of lanyard has the details","code":"internal"}`},
	} {
		w := httptest.NewRecorder()
		NewHandler(tc.src, quiet).ServeHTTP(w, httptest.NewRequest(tc.method, tc.path, nil))
		if got := strings.TrimSpace(w.Body.String()); w.Code != tc.status || got != tc.want {
			t.Errorf("%s %s answered %d\n%s\nwant %d\n%s", tc.method, tc.path, w.Code, got, tc.status, tc.want)
		}
	}
}

// diary is a source of events that a test adds to.
type diary struct {
	mu   sync.Mutex
	list []ipam.Event
	more chan struct{}
}

func (d *diary) add(what string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.list = append(d.list, ipam.Event{Seq: uint64(len(d.list) + 1), Time: day, What: what})
	close(d.more)
	d.more = make(chan struct{})
}

func (d *diary) events(ctx context.Context, after uint64, wait bool) []ipam.Event {
	for {
		d.mu.Lock()
		list, more := append([]ipam.Event{}, d.list[min(after, uint64(len(d.list))):]...), d.more
		d.mu.Unlock()
		if len(list) > 0 || !wait {
			return list
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil
		}
	}
}

func TestFollow(t *testing.T) {
	d := &diary{more: make(chan struct{})}
	d.add("one")
	d.add("two")
	src, stop := source(), make(chan struct{})
	src.Events, src.Stopping = d.events, stop
	c := daemon(t, src)
	list, err := c.Events(t.Context(), 1)
	if err != nil || len(list) != 1 || list[0].What != "two" {
		t.Errorf("events after the first: %v, %v", list, err)
	}

	// Those that there are, and each that comes, at once.
	var seen []string
	err = c.Follow(t.Context(), 1, func(e ipam.Event) error {
		switch seen = append(seen, e.What); len(seen) {
		case 1:
			d.add("three")
		case 2:
			d.add("four")
		case 3:
			close(stop)
		}
		return nil
	})
	if got := strings.Join(seen, " "); !errors.Is(err, ErrStopped) || got != "two three four" {
		t.Errorf("followed %s, %v", got, err)
	}

	// Who hangs up is let go, and so is who has heard enough.
	src.Stopping = nil
	gone := make(chan struct{})
	src.Events = func(ctx context.Context, after uint64, wait bool) []ipam.Event {
		list := d.events(ctx, after, wait)
		if wait && ctx.Err() != nil {
			close(gone)
		}
		return list
	}
	c = daemon(t, src)
	ctx, hangUp := context.WithCancel(t.Context())
	if err := c.Follow(ctx, 3, func(ipam.Event) error { hangUp(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("followed: %v", err)
	}
	<-gone
	gone = make(chan struct{})
	enough := errors.New("enough")
	if err := c.Follow(t.Context(), 0, func(ipam.Event) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("followed: %v", err)
	}
	<-gone
}

// Whatever is asked of leases and events, the answer is JSON.
func FuzzLeases(f *testing.F) {
	for _, path := range []string{"aaa2", "fd00::9", "web", "", "..", "a/b", "%", "\xff", "\x00"} {
		f.Add(path, "network=aa11")
		f.Add(path, "after=1&follow=true")
		f.Add(path, "follow=x&after=18446744073709551615")
	}
	f.Fuzz(func(t *testing.T, id, query string) {
		h := NewHandler(source(), quiet)
		for _, r := range [][2]string{
			{"GET", "/v1/leases"}, {"GET", "/v1/leases/" + url.PathEscape(id)}, {"POST", "/v1/leases/" + url.PathEscape(id) + "/renew"},
			{"POST", "/v1/leases/" + url.PathEscape(id) + "/release"}, {"GET", "/v1/events"},
		} {
			req := httptest.NewRequest(r[0], r[1], nil)
			req.URL.RawQuery = query
			w := httptest.NewRecorder()
			h.ServeHTTP(w, req)
			if w.Code == 301 || w.Code == 307 { // a path with dots in it is cleaned
				continue
			}
			if w.Code == 500 || w.Header().Get("Content-Type") == "" {
				t.Errorf("%s %s?%s answered %d %s", r[0], r[1], query, w.Code, w.Body)
			}
			for lines := bufio.NewScanner(w.Body); lines.Scan(); {
				if !json.Valid(lines.Bytes()) {
					t.Errorf("%s %s?%s answered %s", r[0], r[1], query, lines.Bytes())
				}
			}
		}
	})
}
