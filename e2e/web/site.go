// Package web tests the daemon's page in a real browser. The handler is the daemon's; what it
// shows is fixed, so that pictures of it can be compared.
package web

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/lanyard-net/lanyard/internal/control"
	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/topology"
)

// site is what there is: two hosts with a network on each of two VLANs, one whose addresses a DHCP
// server gives, and whatever a test adds.
type site struct {
	now time.Time

	mu        sync.Mutex // guards the rest
	networks  []topology.NamedNetwork
	endpoints []topology.NamedEndpoint
	leases    []ipam.LeaseState
	other     topology.HostInput
	events    []ipam.Event
	news      chan struct{} // is closed when there is an event more
	reads     int           // of the counters
}

func newSite() *site {
	s := &site{now: time.Now(), news: make(chan struct{})}
	network := func(id, name, base, link, subnet string, tags ...uint16) topology.NamedNetwork {
		n := topology.NamedNetwork{Name: name, NetworkState: engine.NetworkState{
			Network: lan.Network{ID: id + "0728abe9c17d70", Kind: lan.Macvlan, Mode: lan.ModeBridge, Parent: lan.ParentSpec{Name: link}},
			Wire:    base, ParentLink: link, ParentMAC: "3c:ec:ef:12:a0:0" + id[:1], Made: len(tags) > 0,
		}}
		for _, t := range tags {
			n.Tags = append(n.Tags, lan.Tag{ID: t, Proto: lan.Dot1Q})
			n.Wire += fmt.Sprintf(", VLAN 802.1Q:%d", t)
		}
		p := netip.MustParsePrefix(subnet)
		n.IPv4 = []lan.Subnet{{Pool: p, Gateway: p.Addr().Next()}}
		if p.Bits() == 0 {
			n.IPv4 = []lan.Subnet{{Pool: p, Source: lan.SourceDHCP}}
		}
		return n
	}
	s.networks = []topology.NamedNetwork{
		network("a1", "office", "eth0", "eth0", "0.0.0.0/0"),
		network("b1", "macvlan100", "eth1", "eth1.100", "192.168.0.0/16", 100),
		network("c1", "macvlan200", "eth1", "eth1.200", "192.168.0.0/16", 200),
		network("d1", "cameras", "eth1", "eth1.300", "10.30.0.0/24", 300),
	}
	s.networks[3].Kind, s.networks[3].Mode = lan.Ipvlan, lan.ModeL2
	for i, name := range []string{"grafana", "homeassistant", "printserver"} {
		s.add(s.networks[0].ID, name, fmt.Sprintf("172.20.0.%d/24", 31+9*i))
	}
	for i, name := range []string{"web", "api", "db", "queue", "mail"} {
		s.add(s.networks[1].ID, name, fmt.Sprintf("192.168.11.%d/16", 2+i))
	}
	for i, name := range []string{"dns1", "dns2", "ntp"} {
		s.add(s.networks[2].ID, name, fmt.Sprintf("192.168.11.%d/16", 2+i))
	}
	s.add(s.networks[3].ID, "frigate", "10.30.0.20/24")
	s.endpoints[7].IPv6 = netip.MustParsePrefix("fd00:1::5/64")
	s.endpoints[6].State = "created"
	for i := range 3 {
		e := &s.endpoints[i]
		left := time.Duration(8+25*i) * time.Minute
		s.leases = append(s.leases, ipam.LeaseState{
			ID: fmt.Sprintf("3f2a%d", i), Address: e.IPv4.Addr(), Endpoint: e.ID, Network: e.NetworkID, State: ipam.LeaseBound, Wire: "eth0",
			Granted: s.now.Add(left - time.Hour), EndsAt: s.now.Add(left), Lease: lan.Lease{Server: netip.MustParseAddr("172.20.0.1")},
		})
	}
	on2 := network("e1", "macvlan100", "eth1", "eth1.100", "192.168.0.0/16", 100)
	s.other = topology.HostInput{Name: "node2", Networks: []topology.NamedNetwork{on2}, Endpoints: []topology.NamedEndpoint{
		endpoint(90, on2.ID, "web-2", "192.168.10.2/16"), endpoint(91, on2.ID, "api-2", "192.168.10.3/16"),
	}}
	s.happen("lease-acquired", "172.20.0.31", s.endpoints[0].ID, "")
	s.happen("lease-renewed", "172.20.0.40", s.endpoints[1].ID, "")
	s.happen("parent-down", "", "", "parent eth1 has no carrier")
	s.happen("parent-up", "", "", "parent eth1 carries again")
	return s
}

func endpoint(i int, network, name, addr string) topology.NamedEndpoint {
	return topology.NamedEndpoint{Container: name, EndpointState: engine.EndpointState{
		Endpoint: lan.Endpoint{
			ID: fmt.Sprintf("ee%06x3d277c20", i), NetworkID: network, MAC: fmt.Sprintf("02:42:c0:a8:%02x:%02x", i>>8&0xff, i&0xff),
			IPv4: netip.MustParsePrefix(addr), Created: time.Date(2026, 11, 29, 9, 0, 0, 0, time.UTC),
		},
		Kind: lan.Macvlan, Mode: lan.ModeBridge, State: "joined",
	}}
}

// add starts a container.
func (s *site) add(network, name, addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endpoints = append(s.endpoints, endpoint(len(s.endpoints), network, name, addr))
}

// happen adds an event.
func (s *site) happen(what, addr, endpoint, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := ipam.Event{Seq: uint64(len(s.events) + 1), Time: time.Now(), What: what, Endpoint: endpoint, Text: text}
	if addr != "" {
		e.Address = netip.MustParseAddr(addr)
	}
	s.events = append(s.events, e)
	close(s.news)
	s.news = make(chan struct{})
}

// restart is what a daemon that was started anew remembers.
func (s *site) restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = nil
}

func (s *site) eventsAfter(ctx context.Context, after uint64, wait bool) []ipam.Event {
	for {
		s.mu.Lock()
		news, list := s.news, append([]ipam.Event{}, s.events[min(after, uint64(len(s.events))):]...)
		s.mu.Unlock()
		if len(list) > 0 || !wait {
			return list
		}
		select {
		case <-ctx.Done():
			return nil
		case <-news:
		}
	}
}

// traffic grows with each reading.
func (s *site) traffic(context.Context) ([]engine.EndpointTraffic, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads++
	list := make([]engine.EndpointTraffic, len(s.endpoints))
	for i, e := range s.endpoints {
		n := uint64(s.reads) * uint64(1000+(i*7919)%400_000)
		if i%5 == 4 {
			n = 0
		}
		list[i] = engine.EndpointTraffic{Endpoint: e.ID, Traffic: link.Traffic{RxBytes: 3 * n, TxBytes: n}}
	}
	return list, nil
}

func (s *site) pools() []ipam.PoolState {
	pool := func(id, subnet, wire, gateway string, counts ipam.Counts, networks ...string) ipam.PoolState {
		p := ipam.PoolState{ID: id, Subnet: netip.MustParsePrefix(subnet), Wire: wire, Counts: counts, Networks: networks, ACD: "on"}
		if gateway == "" {
			p.Source = lan.SourceDHCP
			return p
		}
		p.Gateway = netip.MustParseAddr(gateway)
		return p
	}
	return []ipam.PoolState{
		pool("dhcp", "0.0.0.0/0", "eth0", "", ipam.Counts{Used: 3, Resting: 1}, s.networks[0].ID),
		pool("p1", "192.168.11.0/24", "eth1, VLAN 802.1Q:100", "192.168.0.1", ipam.Counts{Size: 254, Used: 96, Reserved: 12, Resting: 22, Conflicting: 2, Free: 122}, s.networks[1].ID),
		pool("p2", "192.168.11.0/24", "eth1, VLAN 802.1Q:200", "192.168.0.1", ipam.Counts{Size: 254, Used: 3, Reserved: 2, Resting: 5, Free: 244}, s.networks[2].ID),
		pool("p3", "10.30.0.0/24", "eth1, VLAN 802.1Q:300", "10.30.0.1", ipam.Counts{Size: 254, Used: 231, Reserved: 2, Resting: 4, Free: 17}, s.networks[3].ID),
	}
}

// api is the operator's API over the site. The other host's part of the map is added, which
// else would be in an etcd.
func (s *site) api(stopping <-chan struct{}, log *slog.Logger) http.Handler {
	rival := ipam.AddressState{Address: netip.MustParseAddr("192.168.11.4"), Endpoint: s.endpoints[5].ID, Container: "db", Wire: "eth1, VLAN 802.1Q:100", State: ipam.StateUsed, Rival: "52:54:00:ab:cd:99", Since: s.now}
	squatter := ipam.AddressState{Address: netip.MustParseAddr("192.168.11.77"), Wire: "eth1, VLAN 802.1Q:100", State: ipam.StateConflict, MAC: "00:1b:a9:44:10:7e", Since: s.now}
	addresses := func() ([]ipam.AddressState, error) { return []ipam.AddressState{rival, squatter}, nil }
	src := control.Source{
		Version: control.Version{Version: "1.0.0"}, Pools: s.pools, Addresses: addresses, Leases: func() []ipam.LeaseState { return s.leases },
		Networks:  func() []engine.NetworkState { return nil },
		Endpoints: func() []engine.EndpointState { return nil },
		Events:    s.eventsAfter, EventCounts: func() map[string]uint64 { return nil }, Traffic: s.traffic, Stopping: stopping,
	}
	mux := http.NewServeMux()
	mux.Handle("/", control.NewHandler(src, log))
	mux.HandleFunc("GET /v1/map", func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		own := topology.HostInput{Name: "node1", Networks: s.networks, Endpoints: s.endpoints, Leases: s.leases}
		own.Addresses, _ = addresses()
		m := topology.Build([]topology.HostInput{own, s.other})
		s.mu.Unlock()
		m.Self = "node1"
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(m)
	})
	return mux
}
