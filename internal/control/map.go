package control

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/topology"
)

// Traffic is what the endpoints' links have carried since they were made.
type Traffic struct {
	// Taken is when the counters were read: two readings and the time between make a rate.
	Taken time.Time                `json:"taken"`
	Items []engine.EndpointTraffic `json:"items"`
}

// mapRoutes are the routes of the picture of all that there is.
func mapRoutes(src Source, handle func(string, func(*http.Request) (any, error))) {
	handle("GET /v1/map", func(r *http.Request) (any, error) { return src.picture(r.Context()) })
	handle("GET /v1/traffic", func(r *http.Request) (any, error) {
		t := Traffic{Taken: time.Now()}
		list, err := src.Traffic(r.Context())
		t.Items = orEmpty(list)
		return t, err
	})
}

// picture is the picture of this host, and of the others as far as they are seen.
func (src *Source) picture(ctx context.Context) (*topology.Map, error) {
	own, err := src.own(ctx)
	if err != nil {
		return nil, err
	}
	if src.Cluster == nil {
		return topology.Build([]topology.HostInput{own}), nil
	}
	own.Name = src.Cluster.HostName(src.Cluster.Self())
	hosts, err := others(ctx, src.Cluster)
	if err != nil && lan.Reason(err) != lan.ErrUnavailable {
		return nil, err
	}
	m := topology.Build(append(hosts, own))
	m.Self = own.Name
	if err != nil {
		m.Problem = err.Error()
	}
	return m, nil
}

// own is what this host has.
func (src *Source) own(ctx context.Context) (in topology.HostInput, err error) {
	networks, endpoints := src.Networks(), src.Endpoints()
	names := src.Names(ctx, networks, endpoints)
	for _, n := range networks {
		in.Networks = append(in.Networks, topology.NamedNetwork{NetworkState: n, Name: names[n.ID]})
	}
	for _, e := range endpoints {
		in.Endpoints = append(in.Endpoints, topology.NamedEndpoint{EndpointState: e, Container: names[e.ID]})
	}
	in.Leases = src.Leases()
	in.Addresses, err = src.Addresses()
	return in, err
}

// others are the other hosts, and what they show. An error is ErrUnavailable where etcd cannot be
// asked; there are hosts then too, with nothing on them.
func others(ctx context.Context, c *cluster.Cluster) ([]topology.HostInput, error) {
	var hosts []topology.HostInput
	index := map[string]int{}
	for _, h := range c.Known() {
		if h.ID != c.Self() {
			index[h.ID] = len(hosts)
			hosts = append(hosts, topology.HostInput{Name: h.Name, Silent: !h.Alive})
		}
	}
	for _, kind := range []cluster.Kind{cluster.SeenNetworks, cluster.SeenEndpoints, cluster.SeenLeases} {
		list, err := c.See(ctx, kind)
		if err != nil {
			return hosts, err
		}
		for _, s := range list {
			if s.Host == c.Self() {
				continue
			}
			i, ok := index[s.Host]
			if !ok {
				i = len(hosts)
				index[s.Host] = i
				hosts = append(hosts, topology.HostInput{Name: s.Name, Silent: !s.Alive})
			}
			if err := take(&hosts[i], kind, s.Value); err != nil {
				return nil, fmt.Errorf("what host %s shows: %w; another version of lanyard may run there", s.Name, err)
			}
		}
	}
	return hosts, nil
}

// take adds what a host shows.
func take(h *topology.HostInput, kind cluster.Kind, value []byte) error {
	switch kind {
	case cluster.SeenNetworks:
		return add(&h.Networks, value)
	case cluster.SeenEndpoints:
		return add(&h.Endpoints, value)
	}
	return add(&h.Leases, value)
}

func add[T topology.NamedNetwork | topology.NamedEndpoint | ipam.LeaseState](list *[]T, value []byte) error {
	var t T
	if err := json.Unmarshal(value, &t); err != nil {
		return err
	}
	*list = append(*list, t)
	return nil
}

// Map is the picture of all that there is, on all hosts where hosts share addresses.
func (c *Client) Map(ctx context.Context) (*topology.Map, error) {
	var m topology.Map
	if err := c.get(ctx, "map", &m); err != nil {
		return nil, err
	}
	return &m, nil
}
