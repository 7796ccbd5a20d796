package control

import (
	"context"
	"net/netip"
	"testing"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/topology"
)

// The picture has the names that Docker says, and who else uses an address.
func TestMap(t *testing.T) {
	src := source()
	src.Names = func(_ context.Context, networks []engine.NetworkState, endpoints []engine.EndpointState) map[string]string {
		return map[string]string{networks[0].ID: "lan", endpoints[0].ID: "web"}
	}
	src.Addresses = func() ([]ipam.AddressState, error) {
		return []ipam.AddressState{{Address: netip.MustParseAddr("192.168.11.2"), Endpoint: "e1", Rival: "52:54:00:00:00:01"}}, nil
	}
	m, err := daemon(t, src).Map(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if m.Self != "" || len(m.Hosts) != 1 || len(m.Hosts[0].Parents) != 1 || m.Summary() != "3 networks, 2 containers" {
		t.Fatalf("map: %+v", m)
	}
	v := m.Hosts[0].Parents[0].VLANs[0]
	if v.Link != "eth1.100" || !v.Made || v.Tags[0].ID != 100 {
		t.Errorf("VLAN: %+v", v)
	}
	if err := m.Only([]string{"web"}); err != nil {
		t.Fatal(err)
	}
	n := m.Hosts[0].Parents[0].VLANs[0].Networks[0]
	if n.Name != "lan" || n.Endpoints[0].Problem != "192.168.11.2 is used by 52:54:00:00:00:01, too" {
		t.Errorf("network: %+v", n)
	}
}

// What another host shows is read, also if it is of a newer version; what is no network is said.
func TestTake(t *testing.T) {
	var h topology.HostInput
	for kind, value := range map[cluster.Kind]string{
		cluster.SeenNetworks:  `{"id":"aa","name":"lan","parent":{"name":"eth1"},"new":{}}`,
		cluster.SeenEndpoints: `{"id":"e1","network_id":"aa","container":"web","ipv4":"10.0.0.2/24"}`,
		cluster.SeenLeases:    `{"id":"3f2a","endpoint":"e1","address":"10.0.0.2","network_name":"lan"}`,
	} {
		if err := take(&h, kind, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
	e := topology.Build([]topology.HostInput{h}).Hosts[0].Parents[0].VLANs[0].Networks[0].Endpoints[0]
	if e.Name != "web" || e.Addresses[0].Lease.ID != "3f2a" {
		t.Errorf("endpoint: %+v", e)
	}
	if err := take(&h, cluster.SeenNetworks, []byte(`{"id":7}`)); err == nil {
		t.Error("a network with a number for an id is no error")
	}
}

func TestTrafficRoute(t *testing.T) {
	src := source()
	src.Traffic = func(context.Context) ([]engine.EndpointTraffic, error) {
		return []engine.EndpointTraffic{{Endpoint: "e1", Traffic: link.Traffic{RxBytes: 7}}}, nil
	}
	var got Traffic
	if err := daemon(t, src).get(t.Context(), "traffic", &got); err != nil || got.Taken.IsZero() || len(got.Items) != 1 || got.Items[0].RxBytes != 7 {
		t.Errorf("%+v, %v", got, err)
	}
}
