package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http/httptest"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
)

var day = time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)

// pool makes the state of a pool. Its range is all of its subnet but the ends.
func pool(id, wire, subnet string, networks ...string) ipam.PoolState {
	p := netip.MustParsePrefix(subnet)
	last := p.Addr().As4()
	last[3] |= 0xff >> (p.Bits() - 24)
	return ipam.PoolState{
		ID: id, Networks: networks, Wire: wire, Subnet: p, First: p.Addr().Next(), Last: netip.AddrFrom4(last).Prev(),
		Counts: ipam.Counts{Size: 254, Used: 2, Reserved: 1, Resting: 1, Conflicting: 1, Free: 249}, ACD: "on", Stock: 12, StockWanted: 16,
		Identity: "sticky", Grace: 600, Conflicts: 3, Defended: 1, Created: day,
	}
}

// pools are two of one wire, one of another with the same subnet, and two that no
// network has.
func pools() []ipam.PoolState {
	list := []ipam.PoolState{
		pool("10.0.0.0/24", "eth1", "10.0.0.0/24", "aa11"),
		pool("10.0.1.0/24#2", "eth1", "10.0.1.0/24", "aa11", "aa22"),
		pool("10.0.0.0/24@eth2|802.1Q:7", "eth2, VLAN 802.1Q:7", "10.0.0.0/24", "bb"),
		pool("10.0.9.0/24", "", "10.0.9.0/24"),
		pool("10.0.9.0/24#2", "", "10.0.9.0/24"),
	}
	list[2].Conflicts, list[2].Defended = 1, 0
	return list
}

func addresses() []ipam.AddressState {
	address := func(addr, state, wire, pool, network string) ipam.AddressState {
		return ipam.AddressState{Address: netip.MustParseAddr(addr), State: state, Wire: wire, Pool: pool, Network: network}
	}
	return []ipam.AddressState{
		address("10.0.0.1", ipam.StateGateway, "eth1", "", ""),
		address("10.0.0.2", ipam.StateUsed, "eth1", "10.0.0.0/24", "aa11"),
		address("10.0.0.9", ipam.StateConflict, "eth1", "", ""),
		address("10.0.1.2", ipam.StateUsed, "eth1", "10.0.1.0/24#2", "aa22"),
		address("10.0.1.3", ipam.StateResting, "eth1", "10.0.1.0/24#2", ""),
		address("10.7.0.1", ipam.StateUsed, "eth1", "", "bb"), // of another IPAM driver
		address("10.0.0.2", ipam.StateReserved, "eth2, VLAN 802.1Q:7", "10.0.0.0/24@eth2|802.1Q:7", ""),
		address("10.0.9.2", ipam.StateStarting, "", "10.0.9.0/24#2", ""),
	}
}

func TestPoolsAndAddresses(t *testing.T) {
	c := daemon(t, source())
	ctx := t.Context()
	list, err := c.Pools(ctx)
	if diff := cmp.Diff(pools(), list, byValue); err != nil || diff != "" {
		t.Errorf("pools: %v (-want +got)\n%s", err, diff)
	}
	all, err := c.Addresses(ctx, "", "")
	if diff := cmp.Diff(addresses(), all, byValue); err != nil || diff != "" {
		t.Errorf("addresses: %v (-want +got)\n%s", err, diff)
	}
	for _, tc := range []struct{ pool, network, want string }{
		{"10.0.0.0/24", "", "10.0.0.1 10.0.0.2 10.0.0.9"},
		{"10.0.1.0/24#2", "", "10.0.1.2 10.0.1.3"},
		{"10.0.0.0/24@eth2|802.1Q:7", "", "10.0.0.2"},
		{"10.0.9.0/24", "", ""},
		{"10.0.9.0/24#2", "", "10.0.9.2"},
		{"", "aa11", "10.0.0.1 10.0.0.2 10.0.0.9 10.0.1.3"},
		{"", "aa2", "10.0.1.2 10.0.1.3"},
		{"", "bb", "10.7.0.1 10.0.0.2"},
		{"10.0.0.0/24", "aa11", "10.0.0.1 10.0.0.2 10.0.0.9"},
		{"10.0.0.0/24", "bb", ""},
	} {
		list, err := c.Addresses(ctx, tc.pool, tc.network)
		words := make([]string, len(list))
		for i, a := range list {
			words[i] = a.Address.String()
		}
		if got := strings.Join(words, " "); err != nil || got != tc.want {
			t.Errorf("addresses of pool %q and network %q: %s, %v, want %s", tc.pool, tc.network, got, err, tc.want)
		}
	}
	for _, tc := range []struct {
		err    error
		reason error
		text   string
	}{
		{second(c.Addresses(ctx, "10.0.0.0", "")), lan.ErrNotFound, `pool "10.0.0.0" is not known; try: lanyard pool ls`},
		{second(c.Addresses(ctx, "", "cc")), lan.ErrNotFound, `network "cc" is not known; try: lanyard network ls`},
		{second(c.Addresses(ctx, "", "aa")), lan.ErrConflict, `network "aa" is the beginning of 2 ids`},
	} {
		if !errors.Is(tc.err, tc.reason) || !strings.Contains(tc.err.Error(), tc.text) {
			t.Errorf("%v, want %s", tc.err, tc.text)
		}
	}
}

// book is a source of which a reservation can be seen.
func book() (Source, *[]ipam.AddressState) {
	src, list := source(), addresses()
	src.Addresses = func() ([]ipam.AddressState, error) { return append([]ipam.AddressState{}, list...), nil }
	src.Reserve = func(pool string, addr netip.Addr, name, note string) error {
		list = append(list, ipam.AddressState{Address: addr, State: ipam.StateReserved, Wire: "eth1", Pool: pool, Container: name, Note: note})
		return nil
	}
	src.Release = func(pool string, addr netip.Addr) error {
		for i, a := range list {
			if a.Address == addr && a.Pool == pool {
				list = append(list[:i], list[i+1:]...)
				return nil
			}
		}
		return lan.Refusef(lan.ErrNotFound, "address %s is free", addr)
	}
	return src, &list
}

func TestReserveAndRelease(t *testing.T) {
	src, list := book()
	c := daemon(t, src)
	addr := netip.MustParseAddr("10.0.0.20")
	reserved := ipam.AddressState{Address: addr, State: ipam.StateReserved, Wire: "eth1", Pool: "10.0.0.0/24", Container: "web", Note: "the printer's"}
	got, err := c.Reserve(t.Context(), Reservation{Pool: "10.0.0.0/24", Address: "10.0.0.20", Name: "web", Note: "the printer's"})
	if diff := cmp.Diff(&Change{Address: addr, Now: &reserved}, got, byValue); err != nil || diff != "" {
		t.Errorf("reserve: %v (-want +got)\n%s", err, diff)
	}
	got, err = c.Release(t.Context(), "10.0.0.0/24", "10.0.0.20")
	if diff := cmp.Diff(&Change{Address: addr, Was: &reserved}, got, byValue); err != nil || diff != "" {
		t.Errorf("release: %v (-want +got)\n%s", err, diff)
	}
	if _, err := c.Release(t.Context(), "10.0.0.0/24", "10.0.0.20"); !errors.Is(err, lan.ErrNotFound) || err.Error() != "address 10.0.0.20 is free" {
		t.Errorf("second release: %v", err)
	}
	if len(*list) != len(addresses()) {
		t.Errorf("addresses are %v", *list)
	}
}

// What cannot be meant is refused before anything is done.
func TestBodies(t *testing.T) {
	good := `{"pool":"10.0.0.0/24","address":"10.0.0.20","name":"web","note":"a note"}`
	large := `{"address":"10.0.0.20","note":"` + strings.Repeat("x", maxBody) + `"}`
	for _, tc := range []struct{ path, body, want string }{
		{"reserve", good, ""},
		{"reserve", " \n" + good + "\n ", ""},
		{"reserve", `{"address":"fd00:1::9"}`, ""},
		{"release", `{"address":"10.0.0.2","pool":"aa11"}`, ""},
		{"reserve", "", "request body is empty; want a JSON object"},
		{"release", " ", "request body is empty; want a JSON object"},
		{"reserve", "address=10.0.0.20", "request body: invalid character 'a' looking for beginning of value"},
		{"reserve", good[:40], "request body: unexpected EOF"},
		{"reserve", good + good, "request body has something after the JSON object"},
		{"release", `{"address":"10.0.0.2"}]`, "request body has something after the JSON object"},
		{"reserve", `{"address":"10.0.0.20","for":"web"}`, `request body: unknown field "for"`},
		{"release", good, `request body: unknown field "name"`},
		{"reserve", `[]`, "request body: want a JSON object, not a JSON array"},
		{"reserve", `"10.0.0.20"`, "request body: want a JSON object, not a JSON string"},
		{"reserve", `{"address":10}`, `request body: field "address": want text, not a number`},
		{"reserve", "{\"address\":\"10.0.0.20\",\"note\":\"\xff\"}", "request body is not UTF-8"},
		{"reserve", large, "request body has more than 64 kB"},
		{"reserve", `null`, "address is missing"},
		{"release", `{}`, "address is missing"},
		{"reserve", `{"address":"web"}`, `address "web" is not one such as 192.168.11.9 or fd00:1::9`},
		{"reserve", `{"address":"10.0.0.256"}`, `address "10.0.0.256" is not one such as`},
		{"reserve", `{"address":"fe80::1%eth1"}`, `address "fe80::1%eth1" is not one such as`},
		{"reserve", `{"address":"10.0.0.20/24"}`, `address "10.0.0.20/24" has a length; try: 10.0.0.20`},
		{"release", `{"address":"::ffff:10.0.0.2"}`, `address ::ffff:10.0.0.2 is an IPv4 address written as IPv6; try: 10.0.0.2`},
		{"reserve", `{"address":"10.0.0.20","name":"my web"}`, `name "my web" has white space in it`},
		{"reserve", `{"address":"10.0.0.20","name":"web\u001b[2J"}`, `name "web\x1b[2J" is not one line of text`},
		{"reserve", `{"address":"10.0.0.20","note":"a\nb"}`, `note "a\nb" is not one line of text`},
		{"reserve", `{"address":"10.0.0.20","pool":"` + strings.Repeat("1", 513) + `"}`, "pool id has 513 characters, 512 at most"},
	} {
		src, done := source(), 0
		src.Reserve = func(string, netip.Addr, string, string) error { done++; return nil }
		src.Release = func(string, netip.Addr) error { done++; return nil }
		w := httptest.NewRecorder()
		NewHandler(src, quiet).ServeHTTP(w, httptest.NewRequest("POST", "/v1/addresses/"+tc.path, strings.NewReader(tc.body)))
		var e wireError
		e.Error, e.Code = errorOf(t, w.Body.String())
		switch {
		case tc.want == "" && (w.Code != 200 || done != 1):
			t.Errorf("%s %.80s answered %d %s", tc.path, tc.body, w.Code, w.Body)
		case tc.want != "" && (w.Code != 400 || e.Code != CodeInvalid || !strings.HasPrefix(e.Error, tc.want) || done != 0):
			t.Errorf("%s %.80s answered %d %s, and %d were done, want 400 %s", tc.path, tc.body, w.Code, w.Body, done, tc.want)
		}
	}
}

// Whatever comes, the answer is JSON, and what reaches the daemon is an address and text
// of one line.
func FuzzReserve(f *testing.F) {
	for _, body := range []string{
		`{"pool":"10.0.0.0/24","address":"10.0.0.20","name":"web","note":"a note"}`, `{"address":"fd00:1::9"}`, `{"address":"::ffff:10.0.0.2"}`,
		`{"address":1}`, `[]`, `null`, ``, `{"ADDRESS":"10.0.0.1","address":"10.0.0.2"}`, "{\"note\":\"\xff\"}", `{"address":"10.0.0.20","note":"\ud800"}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		src := source()
		src.Reserve = func(_ string, addr netip.Addr, name, note string) error {
			if !addr.IsValid() || addr.Zone() != "" || addr.Is4In6() || strings.ContainsAny(name+note, "\n\x1b") {
				t.Errorf("%q comes as %s %q %q", body, addr, name, note)
			}
			return nil
		}
		w := httptest.NewRecorder()
		NewHandler(src, quiet).ServeHTTP(w, httptest.NewRequest("POST", "/v1/addresses/reserve", bytes.NewReader(body)))
		if !json.Valid(w.Body.Bytes()) || w.Code != 200 && w.Code != 400 {
			t.Errorf("%q answered %d %s", body, w.Code, w.Body)
		}
	})
}

// errorOf is the error of an answer.
func errorOf(t *testing.T, body string) (text, code string) {
	t.Helper()
	var e struct {
		wireError
		Change
	}
	if err := decode(strings.NewReader(body), &e); err != nil {
		t.Fatalf("answer %s: %v", body, err)
	}
	return e.wireError.Error, e.Code
}

// The words on the wire are a promise.
func TestWireOfAddresses(t *testing.T) {
	src := source()
	src.Pools = func() []ipam.PoolState { return pools()[2:3] }
	empty := Source{
		Pools:     func() []ipam.PoolState { return nil },
		Addresses: func() ([]ipam.AddressState, error) { return nil, nil },
		Reserve: func(string, netip.Addr, string, string) error {
			return lan.Refusef(lan.ErrConflict, "address 10.0.0.2 is held by endpoint ee")
		},
		Release: func(string, netip.Addr) error { panic("boom") },
	}
	broken := Source{Pools: empty.Pools, Addresses: func() ([]ipam.AddressState, error) { return nil, errors.New("state file: gone") }}
	for _, tc := range []struct {
		src                Source
		method, path, body string
		status             int
		want               string
	}{
		{src, "GET", "/v1/pools", "", 200, `[{"id":"10.0.0.0/24@eth2|802.1Q:7","networks":["bb"],"wire":"eth2, VLAN 802.1Q:7","subnet":"10.0.0.0/24",` +
			`"first":"10.0.0.1","last":"10.0.0.254","size":254,"used":2,"reserved":1,"resting":1,"conflicting":1,"free":249,"acd":"on",` +
			`"stock":12,"stock_wanted":16,"identity":"sticky","grace_seconds":600,"conflicts_total":1,"defended_total":0,"created":"2026-11-24T00:00:00Z"}]`},
		{src, "GET", "/v1/addresses?pool=10.0.0.0/24%40eth2%7C802.1Q:7", "", 200,
			`[{"address":"10.0.0.2","state":"reserved","wire":"eth2, VLAN 802.1Q:7","pool":"10.0.0.0/24@eth2|802.1Q:7"}]`},
		{empty, "GET", "/v1/pools", "", 200, `[]`},
		{empty, "GET", "/v1/addresses", "", 200, `[]`},
		{empty, "GET", "/v1/addresses?pool=", "", 404, `{"error":"pool \"\" is not known; try: lanyard pool ls","code":"not_found"}`},
		{source(), "GET", "/v1/addresses?network=", "", 400, `{"error":"network id is missing","code":"invalid"}`},
		{broken, "GET", "/v1/addresses", "", 500, `{"error":"state file: gone","code":"internal"}`},
		{source(), "POST", "/v1/addresses/release", `{"address":"10.0.0.2","pool":"bb"}`, 200,
			`{"address":"10.0.0.2","was":{"address":"10.0.0.2","state":"reserved","wire":"eth2, VLAN 802.1Q:7","pool":"10.0.0.0/24@eth2|802.1Q:7"},` +
				`"now":{"address":"10.0.0.2","state":"reserved","wire":"eth2, VLAN 802.1Q:7","pool":"10.0.0.0/24@eth2|802.1Q:7"}}`},
		{empty, "POST", "/v1/addresses/reserve", `{"address":"10.0.0.2"}`, 409, `{"error":"address 10.0.0.2 is held by endpoint ee","code":"conflict"}`},
		{empty, "POST", "/v1/addresses/release", `{"address":"10.0.0.2"}`, 500, `{"error":"internal error; the log of lanyard has the details","code":"internal"}`},
		{source(), "GET", "/v1/addresses/reserve", "", 404, `{"error":"GET /v1/addresses/reserve is not part of this API","code":"not_found"}`},
		{source(), "DELETE", "/v1/addresses", "", 404, `{"error":"DELETE /v1/addresses is not part of this API","code":"not_found"}`},
	} {
		w := httptest.NewRecorder()
		NewHandler(tc.src, quiet).ServeHTTP(w, httptest.NewRequest(tc.method, tc.path, strings.NewReader(tc.body)))
		if got := strings.TrimSpace(w.Body.String()); w.Code != tc.status || got != tc.want {
			t.Errorf("%s %s answered %d\n%s\nwant %d\n%s", tc.method, tc.path, w.Code, got, tc.status, tc.want)
		}
	}
}

// served is a pool whose addresses a DHCP server gives.
func served() ipam.PoolState {
	return ipam.PoolState{
		ID: "dhcp", Networks: []string{"cc"}, Source: lan.SourceDHCP, Wire: "eth3", Subnet: netip.MustParsePrefix("0.0.0.0/0"),
		Counts: ipam.Counts{Used: 2, Resting: 1}, ACD: "on", Identity: "sticky", Grace: 600, Conflicts: 3, Defended: 1, Created: day,
	}
}

// Of a pool whose subnet only a DHCP server knows are the addresses leased in it, and
// those that its networks' containers have.
func TestInServedPool(t *testing.T) {
	p := served()
	for _, tc := range []struct {
		addr, wire, pool, network string
		want                      bool
	}{
		{"192.168.0.7", "eth3", p.ID, "cc", true},
		{"192.168.0.7", "eth3", p.ID, "", true},
		{"192.168.0.7", "eth3", "", "cc", true},
		{"192.168.0.7", "eth3", "", "dd", false},
		{"192.168.0.7", "eth3", "", "", false}, // another pool's gateway
		{"192.168.0.7", "eth1", "", "cc", false},
		{"192.168.0.7", "eth3", "192.168.0.0/24", "cc", false},
		{"fd00::7", "eth3", "", "cc", false},
	} {
		a := ipam.AddressState{Address: netip.MustParseAddr(tc.addr), Wire: tc.wire, Pool: tc.pool, Network: tc.network}
		if got := InPool(&p, &a); got != tc.want {
			t.Errorf("%+v is in the pool: %v", tc, got)
		}
	}
}

func scrape(src Source) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	NewHandler(src, quiet).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	return w
}

func TestMetrics(t *testing.T) {
	listed := 0
	src := source()
	src.Pools = func() []ipam.PoolState { listed++; return append(pools(), served()) }
	src.Leases = func() []ipam.LeaseState {
		list := leases()
		list[0].EndsAt = time.Now().Add(2 * time.Hour)
		list[2].EndsAt = time.Now().Add(time.Hour)
		return list
	}
	src.Networks = func() []engine.NetworkState {
		gone := network("aa22")
		gone.ParentLink, gone.Problem = "", "parent eth1.100 is gone"
		return []engine.NetworkState{network("aa11"), gone, network("bb")}
	}
	src.NetworkNames = func(ids []string) map[string]string { return map[string]string{"aa11": "lan", "bb": "guests"} }
	calls := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "lanyard_docker_call_duration_seconds", Help: "Calls."})
	calls.Observe(1)
	src.Collectors = []prometheus.Collector{calls}
	w := scrape(src)
	if w.Code != 200 || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") || listed != 1 {
		t.Errorf("answered %d %s of %d listings", w.Code, w.Header(), listed)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(w.Body.String()))
	if err != nil {
		t.Fatalf("%v\n%s", err, w.Body)
	}
	got := map[string]float64{}
	for name, f := range families {
		for _, m := range f.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
			}
			value := m.GetGauge().GetValue()
			switch f.GetType() {
			case dto.MetricType_COUNTER:
				value = m.GetCounter().GetValue()
			case dto.MetricType_HISTOGRAM:
				value = float64(m.GetHistogram().GetSampleCount())
				for _, b := range m.GetHistogram().Bucket {
					if name == "lanyard_lease_left_seconds" && (b.GetUpperBound() == 3600 || b.GetUpperBound() == 4*3600) {
						got[fmt.Sprintf("%s{le=%v}", name, b.GetUpperBound())] = float64(b.GetCumulativeCount())
					}
				}
			}
			got[name+"{"+strings.Join(labels, ",")+"}"] = value
		}
	}
	want := map[string]float64{
		`lanyard_build_info{commit="abc",goversion="go1.26",version="1.2.3"}`: 1,
		`lanyard_docker_call_duration_seconds{}`:                              1, // whatever the parts of the daemon have

		`lanyard_networks{}`:                                          3,
		`lanyard_endpoints{}`:                                         2,
		`lanyard_address_conflicts_total{wire="eth1"}`:                3,
		`lanyard_address_conflicts_total{wire="eth2, VLAN 802.1Q:7"}`: 1,
		`lanyard_address_defences_total{wire="eth1"}`:                 1,
		`lanyard_address_defences_total{wire="eth2, VLAN 802.1Q:7"}`:  0,
		`lanyard_address_conflicts_total{wire="eth3"}`:                3,
		`lanyard_address_defences_total{wire="eth3"}`:                 1,

		`lanyard_leases{state="bound",wire="eth1"}`:                   1,
		`lanyard_leases{state="idle",wire="eth1"}`:                    1,
		`lanyard_leases{state="renewing",wire="eth2, VLAN 802.1Q:7"}`: 1,
		`lanyard_leases{state="past",wire="eth2, VLAN 802.1Q:7"}`:     1,
		`lanyard_events_total{what="lease-acquired"}`:                 7,
		`lanyard_events_total{what="lease-renewed"}`:                  2000,
		`lanyard_events_total{what="lease-lost"}`:                     0,

		`lanyard_lease_left_seconds{}`:         2,
		`lanyard_lease_left_seconds{le=3600}`:  1,
		`lanyard_lease_left_seconds{le=14400}`: 2,

		// Of a DHCP server's pool only leases are known.
		`lanyard_pool_addresses{pool="dhcp",state="used",wire="eth3"}`:    2,
		`lanyard_pool_addresses{pool="dhcp",state="resting",wire="eth3"}`: 1,
	}
	for id, name := range map[string]string{"aa11": "lan", "aa22": "", "bb": "guests"} {
		want[fmt.Sprintf("lanyard_network_info{kind=%q,mode=%q,name=%q,network=%q,parent=%q}", "macvlan", "bridge", name, id, "eth1.100")] = 1
		want[fmt.Sprintf("lanyard_network_parent_present{network=%q}", id)] = map[string]float64{"aa11": 1, "bb": 1}[id]
		want[fmt.Sprintf("lanyard_network_problem{network=%q}", id)] = map[string]float64{"aa22": 1}[id]
		for state, n := range map[string]float64{"created": 0, "joined": map[string]float64{"aa11": 1, "bb": 1}[id], "left": 0} {
			want[fmt.Sprintf("lanyard_network_endpoints{network=%q,state=%q}", id, state)] = n
		}
	}
	for _, p := range pools() {
		of := fmt.Sprintf("pool=%q,", p.ID)
		wire := fmt.Sprintf("wire=%q}", p.Wire)
		want["lanyard_pool_size{"+of+wire] = 254
		want["lanyard_pool_stock{"+of+wire] = 12
		for state, n := range map[string]float64{"used": 2, "reserved": 1, "resting": 1, "conflicting": 1, "free": 249} {
			want["lanyard_pool_addresses{"+of+"state=\""+state+"\","+wire] = n
		}
	}
	const ends = "lanyard_lease_ends_seconds{}"
	if got[ends] < 3500 || got[ends] > 3600 {
		t.Errorf("the first lease ends in %f s, want an hour", got[ends])
	}
	delete(got, ends)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("metrics (-want +got)\n%s", diff)
	}
	problems, err := promlint.New(strings.NewReader(w.Body.String())).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
	if promtool, err := exec.LookPath("promtool"); err == nil {
		check := exec.Command(promtool, "check", "metrics")
		check.Stdin = strings.NewReader(w.Body.String())
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("promtool: %v\n%s", err, out)
		}
	}
}

// A name that is no UTF-8 does not spoil a scrape, and a fault in a listing does not
// end the daemon.
func TestMetricsStand(t *testing.T) {
	src := source()
	src.Pools = func() []ipam.PoolState { return []ipam.PoolState{pool("10.0.0.0/24", "eth\xff", "10.0.0.0/24")} }
	if w := scrape(src); w.Code != 200 || !strings.Contains(w.Body.String(), `lanyard_address_conflicts_total{wire="eth`+"\uFFFD"+`"} 3`) {
		t.Errorf("answered %d %s", w.Code, w.Body)
	}
	if w := scrape(src); !strings.Contains(w.Body.String(), "lanyard_lease_ends_seconds -") {
		t.Errorf("a lease that has ended is not seen: %s", w.Body)
	}
	src.Leases = func() []ipam.LeaseState { return leases()[1:2] }
	if w := scrape(src); strings.Contains(w.Body.String(), "lanyard_lease_ends_seconds") {
		t.Errorf("no container has a lease, and it ends: %s", w.Body)
	}
	src.Endpoints = func() []engine.EndpointState { panic("boom") }
	if w := scrape(src); w.Code != 500 {
		t.Errorf("answered %d %s", w.Code, w.Body)
	}
}
