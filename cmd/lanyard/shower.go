package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/topology"
)

// showEach is how often the other hosts are shown what has changed.
const showEach = 3 * time.Second

// shower shows the other hosts which networks, endpoints and leases this one has, with the names that Docker knows, and what became of
// the definitions. Nothing is decided by it: it is for operators.
type shower struct {
	names     *namer
	cluster   *cluster.Cluster
	engine    *engine.Engine
	addresses *ipam.Manager
	maker     *maker
	log       *slog.Logger
}

func (s *shower) Run(ctx context.Context) error {
	if s.cluster == nil {
		return nil
	}
	tick := time.NewTicker(showEach)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.maker.told:
		case <-tick.C:
		}
		if _, why := s.cluster.Up(); why != nil {
			continue
		}
		if err := s.cluster.Show(ctx, s.items(ctx)); err != nil && ctx.Err() == nil {
			s.log.Debug("other hosts do not see what has changed here", "err", err)
		}
	}
}

// items are all that is to be seen.
func (s *shower) items(ctx context.Context) (items []cluster.Item) {
	networks, endpoints, leases := s.engine.Networks(), s.engine.Endpoints(), s.addresses.Leases()
	names := s.names.names(ctx, networks, endpoints)
	add := func(kind cluster.Kind, id string, v any) {
		b, err := json.Marshal(v)
		if err != nil {
			s.log.Error("cannot be shown to other hosts", "kind", kind, "id", id, "err", err)
			return
		}
		items = append(items, cluster.Item{Kind: kind, ID: id, Value: b})
	}
	for _, n := range networks {
		add(cluster.SeenNetworks, n.ID, topology.NamedNetwork{NetworkState: n, Name: names[n.ID]})
	}
	for _, e := range endpoints {
		add(cluster.SeenEndpoints, e.ID, topology.NamedEndpoint{EndpointState: e, Container: names[e.ID], NetworkName: names[e.NetworkID]})
	}
	for _, l := range leases {
		if l.State == ipam.LeasePast {
			continue // nobody has it
		}
		if l.Container == "" {
			l.Container = names[l.Endpoint]
		}
		add(cluster.SeenLeases, l.ID, namedLease{LeaseState: l, NetworkName: names[l.Network]})
	}
	for _, r := range s.maker.Reports() {
		add(cluster.SeenReports, r.Network, r)
	}
	return items
}
