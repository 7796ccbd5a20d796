package control

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
)

var byValue = cmp.Options{cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{}), cmpopts.EquateEmpty()}

func network(id string) engine.NetworkState {
	return engine.NetworkState{
		Network: lan.Network{
			ID: id, Kind: lan.Macvlan, Mode: lan.ModeBridge, Parent: lan.ParentSpec{Name: "eth1", VLAN: []uint16{100}},
			IPv4:    []lan.Subnet{{Pool: netip.MustParsePrefix("192.168.0.0/16"), Gateway: netip.MustParseAddr("192.168.0.1")}},
			Created: time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC),
		},
		ParentLink: "eth1.100", Tags: []lan.Tag{{ID: 100, Proto: lan.Dot1Q}}, Made: true, Endpoints: 1,
	}
}

func endpoint(id, network string) engine.EndpointState {
	return engine.EndpointState{
		Endpoint: lan.Endpoint{ID: id, NetworkID: network, MAC: "02:42:c0:a8:0b:02", IPv4: netip.MustParsePrefix("192.168.11.2/16")},
		Kind:     lan.Macvlan, Mode: lan.ModeBridge, Parent: "eth1.100", State: "joined",
	}
}

func source() Source {
	src := Source{
		Version: Version{Version: "1.2.3", Commit: "abc", Go: "go1.26"},
		Networks: func() []engine.NetworkState {
			return []engine.NetworkState{network("aa11"), network("aa22"), network("bb")}
		},
		Endpoints: func() []engine.EndpointState {
			return []engine.EndpointState{endpoint("e1", "aa11"), endpoint("e2", "bb")}
		},
		ForgetNetwork: func(_ context.Context, id string) error {
			switch id {
			case "bb":
				return nil
			case "gone":
				return lan.Refusef(lan.ErrUnavailable, "parent eth9 is gone")
			}
			return lan.Refusef(lan.ErrConflict, "network %s has a container on it", id)
		},
		Pools:     pools,
		Addresses: func() ([]ipam.AddressState, error) { return addresses(), nil },
		Reserve:   func(string, netip.Addr, string, string) error { return nil },
		Release:   func(string, netip.Addr) error { return nil },
	}
	leasesOf(&src)
	return src
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// daemon serves src on a socket and returns a client of it.
func daemon(t *testing.T, src Source) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "c.sock")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: NewHandler(src, quiet)}
	done := make(chan error, 1)
	go func() { done <- s.Serve(l) }()
	c := NewClient(socket)
	t.Cleanup(func() { c.Close(); s.Close(); <-done })
	return c
}

func TestClientAndHandler(t *testing.T) {
	src := source()
	c := daemon(t, src)
	ctx := t.Context()
	if v, err := c.Version(ctx); err != nil || v != src.Version {
		t.Errorf("version is %+v, %v", v, err)
	}
	nets, err := c.Networks(ctx)
	if diff := cmp.Diff(src.Networks(), nets, byValue); err != nil || diff != "" {
		t.Errorf("networks: %v (-want +got)\n%s", err, diff)
	}
	for _, id := range []string{"bb", "b"} {
		n, err := c.Network(ctx, id)
		if err != nil {
			t.Errorf("network %s: %v", id, err)
		} else if diff := cmp.Diff(network("bb"), *n, byValue); diff != "" {
			t.Errorf("network %s (-want +got)\n%s", id, diff)
		}
	}
	all, err := c.Endpoints(ctx, "")
	if diff := cmp.Diff(src.Endpoints(), all, byValue); err != nil || diff != "" {
		t.Errorf("endpoints: %v (-want +got)\n%s", err, diff)
	}
	if err := c.ForgetNetwork(ctx, "bb"); err != nil {
		t.Error(err)
	}
	some, err := c.Endpoints(ctx, "aa1")
	if diff := cmp.Diff(src.Endpoints()[:1], some, byValue); err != nil || diff != "" {
		t.Errorf("endpoints of aa1: %v (-want +got)\n%s", err, diff)
	}
}

func TestErrors(t *testing.T) {
	c := daemon(t, source())
	ctx := t.Context()
	for _, tc := range []struct {
		name   string
		err    error
		reason error
		text   string
	}{
		{"unknown", second(c.Network(ctx, "cc")), lan.ErrNotFound, `network "cc" is not known; try: lanyard network ls`},
		{"path", second(c.Network(ctx, "../version")), lan.ErrNotFound, `network "../version" is not known`},
		{"ambiguous", second(c.Network(ctx, "aa")), lan.ErrConflict, `network "aa" is the beginning of 2 ids, among them aa11 and aa22; give more of it`},
		{"unavailable", c.ForgetNetwork(ctx, "gone"), lan.ErrUnavailable, "parent eth9 is gone"},
		{"forget", c.ForgetNetwork(ctx, "aa11"), lan.ErrConflict, "network aa11 has a container on it"},
		{"endpoints of unknown", second(c.Endpoints(ctx, "cc")), lan.ErrNotFound, `network "cc" is not known`},
	} {
		if !errors.Is(tc.err, tc.reason) || !strings.Contains(tc.err.Error(), tc.text) {
			t.Errorf("%s: %v, want %s", tc.name, tc.err, tc.text)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// The words on the wire are a promise.
func TestWire(t *testing.T) {
	empty := Source{
		Networks:  func() []engine.NetworkState { return nil },
		Endpoints: func() []engine.EndpointState { panic("boom") },
	}
	for _, tc := range []struct {
		src          Source
		method, path string
		status       int
		body         string
	}{
		{source(), "GET", "/v1/version", 200, `{"version":"1.2.3","commit":"abc","go":"go1.26"}`},
		{source(), "GET", "/v1/networks/bb", 200, `{"id":"bb","kind":"macvlan","mode":"bridge","parent":{"name":"eth1","vlan":[100]},` +
			`"ipv4":[{"pool":"192.168.0.0/16","gateway":"192.168.0.1"}],"created":"2026-11-24T00:00:00Z",` +
			`"parent_link":"eth1.100","tags":[{"id":100,"proto":33024}],"made":true,"endpoints":1}`},
		{source(), "GET", "/v1/endpoints?network=bb", 200, `[{"id":"e2","network_id":"bb","mac":"02:42:c0:a8:0b:02","ipv4":"192.168.11.2/16",` +
			`"created":"0001-01-01T00:00:00Z","kind":"macvlan","mode":"bridge","parent":"eth1.100","state":"joined"}]`},
		{empty, "GET", "/v1/networks", 200, `[]`},
		{source(), "GET", "/v1/endpoints?network=", 400, `{"error":"network id is missing","code":"invalid"}`},
		{source(), "GET", "/v1/networks/cc", 404, `{"error":"network \"cc\" is not known; try: lanyard network ls","code":"not_found"}`},
		{source(), "GET", "/v1/networks/aa", 409, `{"error":"network \"aa\" is the beginning of 2 ids, among them aa11 and aa22; give more of it","code":"conflict"}`},
		{source(), "DELETE", "/v1/networks/bb", 200, `{}`},
		{source(), "POST", "/v1/networks", 404, `{"error":"POST /v1/networks is not part of this API","code":"not_found"}`},
		{source(), "GET", "/v2/networks", 404, `{"error":"GET /v2/networks is not part of this API","code":"not_found"}`},
		{empty, "GET", "/v1/endpoints", 500, `{"error":"internal error; the log of lanyard has the details","code":"internal"}`},
	} {
		w := httptest.NewRecorder()
		NewHandler(tc.src, quiet).ServeHTTP(w, httptest.NewRequest(tc.method, tc.path, nil))
		if got := strings.TrimSpace(w.Body.String()); w.Code != tc.status || got != tc.body {
			t.Errorf("%s %s answered %d\n%s\nwant %d\n%s", tc.method, tc.path, w.Code, got, tc.status, tc.body)
		}
	}
}

func TestNobodyThere(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for _, socket := range []string{filepath.Join(dir, "none.sock"), stale} {
		if _, err := NewClient(socket).Version(t.Context()); !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), socket) {
			t.Errorf("%s: %v", socket, err)
		}
	}
	// Who is stopped before it answers.
	short, err := net.Listen("unix", filepath.Join(dir, "short.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer short.Close()
	go func() {
		for c, err := short.Accept(); err == nil; c, err = short.Accept() {
			c.Close()
		}
	}()
	if _, err := NewClient(short.Addr().String()).Version(t.Context()); !errors.Is(err, ErrStopped) {
		t.Errorf("a daemon that ends before its answer: %v", err)
	}
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := NewClient(plain).Version(t.Context()); err == nil {
		t.Error("a plain file answered")
	}
}
