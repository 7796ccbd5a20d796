package docker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/request"
)

// host is an engine without a kernel. It prints as its networks and endpoints.
type host struct {
	mu        sync.Mutex
	networks  map[string]*lan.Network
	endpoints map[string]engine.EndpointRequest
	joined    map[string]string // endpoint id -> sandbox
	pools     map[string]lan.PoolRequest
	addresses map[string]string // pool id and address -> who asked
	next      netip.Prefix      // what RequestAddress chooses
}

func newHost() *host {
	return &host{
		networks:  map[string]*lan.Network{},
		endpoints: map[string]engine.EndpointRequest{},
		joined:    map[string]string{},
		pools:     map[string]lan.PoolRequest{},
		addresses: map[string]string{},
	}
}

func (h *host) verbs() Verbs {
	return Verbs{
		CreateNetwork: func(_ context.Context, r lan.NetworkRequest) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			n, err := lan.ParseNetwork(r)
			if err == nil {
				h.networks[n.ID] = n
			}
			return err
		},
		SkipGateway: func(opts map[string]string, internal bool) (bool, bool, error) {
			n, err := lan.ParseOptions(opts, internal)
			if err != nil {
				return false, false, err
			}
			skip := n.Internal || n.L3()
			return skip, skip, nil
		},
		DeleteNetwork: func(_ context.Context, id string) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.networks[id] == nil {
				return lan.Refusef(lan.ErrNotFound, "network %s is not known", lan.Short(id))
			}
			delete(h.networks, id)
			return nil
		},
		AddEndpoint: func(_ context.Context, r engine.EndpointRequest) (engine.EndpointGrant, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.networks[r.NetworkID] == nil {
				return engine.EndpointGrant{}, lan.Refusef(lan.ErrNotFound, "network %s is not known", lan.Short(r.NetworkID))
			}
			h.endpoints[r.EndpointID] = r
			if r.MAC != "" {
				return engine.EndpointGrant{MAC: r.MAC}, nil // the door must not pass it on
			}
			return engine.EndpointGrant{MAC: "02:42:c0:a8:0b:02"}, nil
		},
		DeleteEndpoint: func(_ context.Context, _, id string) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			delete(h.endpoints, id)
			return nil
		},
		EndpointInfo: func(_ context.Context, _, id string) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			if _, ok := h.endpoints[id]; !ok {
				return lan.Refusef(lan.ErrNotFound, "endpoint %s is not known", lan.Short(id))
			}
			return nil
		},
		Join: func(_ context.Context, network, id, sandbox string) (*engine.Attachment, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			r, ok := h.endpoints[id]
			if !ok {
				return nil, lan.Refusef(lan.ErrNotFound, "endpoint %s is not known", lan.Short(id))
			}
			h.joined[id] = sandbox
			a := &engine.Attachment{SrcName: "ly-" + lan.Short(id), DstPrefix: "eth", DstName: r.Options.IfName}
			if n := h.networks[network]; r.IPv4.IsValid() && !n.Internal {
				s, _ := n.SubnetOf(r.IPv4.Addr())
				a.Gateway4 = s.Gateway
			}
			return a, nil
		},
		Leave: func(_ context.Context, _, id string) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			delete(h.joined, id)
			return nil
		},
		EngineStarted: func() {},
		RequestPool: func(_ context.Context, r lan.PoolRequest) (lan.PoolGrant, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			if !r.Subnet.IsValid() {
				r.Subnet = netip.MustParsePrefix("10.250.0.0/24")
			}
			id := fmt.Sprintf("%s,%s#%d", r.Subnet, r.Range, len(h.pools))
			h.pools[id] = r
			return lan.PoolGrant{ID: id, Subnet: r.Subnet}, nil
		},
		ReleasePool: func(_ context.Context, id string) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			delete(h.pools, id)
			return nil
		},
		RequestAddress: func(_ context.Context, r lan.AddressRequest) (netip.Prefix, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			if _, ok := h.pools[r.PoolID]; !ok {
				return netip.Prefix{}, lan.Refusef(lan.ErrNotFound, "pool %s is not known", r.PoolID)
			}
			addr := r.Addr
			if !addr.IsValid() {
				addr = h.next.Addr()
			}
			h.addresses[r.PoolID+" "+addr.String()] = r.Name
			return netip.PrefixFrom(addr, h.pools[r.PoolID].Subnet.Bits()), nil
		},
		ReleaseAddress: func(_ context.Context, pool string, addr netip.Addr) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			delete(h.addresses, pool+" "+addr.String())
			return nil
		},
	}
}

func (h *host) String() string {
	var b strings.Builder
	for _, id := range slices.Sorted(maps.Keys(h.networks)) {
		n := h.networks[id]
		fmt.Fprintf(&b, "network %s %s %s parent=%s", lan.Short(id), n.Kind, n.Mode, n.Parent)
		for _, s := range append(slices.Clone(n.IPv4), n.IPv6...) {
			fmt.Fprintf(&b, " %s", s.Pool)
			if s.Gateway.IsValid() {
				fmt.Fprintf(&b, " via %s", s.Gateway)
			}
		}
		if n.Internal {
			b.WriteString(" internal")
		}
		b.WriteByte('\n')
	}
	for _, id := range slices.Sorted(maps.Keys(h.endpoints)) {
		r := h.endpoints[id]
		fmt.Fprintf(&b, "endpoint %s on %s", lan.Short(id), lan.Short(r.NetworkID))
		for _, p := range []netip.Prefix{r.IPv4, r.IPv6} {
			if p.IsValid() {
				fmt.Fprintf(&b, " %s", p)
			}
		}
		if r.MAC != "" {
			fmt.Fprintf(&b, " mac=%s", r.MAC)
		}
		if r.Options.IfName != "" {
			fmt.Fprintf(&b, " ifname=%s", r.Options.IfName)
		}
		if r.Published != 0 {
			fmt.Fprintf(&b, " published=%d", r.Published)
		}
		if s := h.joined[id]; s != "" {
			fmt.Fprintf(&b, " in %s", s)
		}
		b.WriteByte('\n')
	}
	for _, id := range slices.Sorted(maps.Keys(h.pools)) {
		fmt.Fprintf(&b, "pool %s\n", id)
	}
	for _, id := range slices.Sorted(maps.Keys(h.addresses)) {
		fmt.Fprintf(&b, "address %s for %q\n", id, h.addresses[id])
	}
	return b.String()
}

// door is a handler under test, with its log.
type door struct {
	*Handler
	log *bytes.Buffer
}

func newDoor(v Verbs) *door {
	log := &bytes.Buffer{}
	return &door{New(v, slog.New(request.Logged(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))), log}
}

// ask calls one method and returns the status and the answer. An answer that
// is not a JSON object fails the test.
func (d *door) ask(t testing.TB, verb, method, body string) (int, map[string]any) {
	t.Helper()
	w := httptest.NewRecorder()
	r := httptest.NewRequest(verb, "/", strings.NewReader(body))
	r.URL.Path = "/" + method
	d.ServeHTTP(w, r)
	var answer map[string]any
	if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
		t.Fatalf("%s answered %q, which is not a JSON object: %v", method, w.Body, err)
	}
	return w.Code, answer
}

// user is what docker would print of an answer after "Error response from
// daemon: ", or "" if there is no error.
func user(method string, status int, answer map[string]any) string {
	text, _ := answer["Err"].(string)
	switch {
	case status != http.StatusOK:
		return method + ": " + text
	case text != "":
		return "remote: " + text
	}
	return ""
}
