package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"maps"
	"time"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/ipam"
)

const (
	// showEach is how often the other hosts are shown what has changed.
	showEach = 3 * time.Second
	// namesFor is how long Docker is asked for a name that it does not say: an endpoint is there before its
	// container is listed.
	namesFor = time.Minute
)

// shower shows the other hosts which networks, endpoints and leases this one has, with the names that Docker knows, and what became of
// the definitions. Nothing is decided by it: it is for operators.
type shower struct {
	api       *engineAPI
	cluster   *cluster.Cluster
	engine    *engine.Engine
	addresses *ipam.Manager
	maker     *maker
	log       *slog.Logger

	names   map[string]string    // of networks and containers, by the IDs of networks and endpoints
	unnamed map[string]time.Time // since when a name is not known
}

func (s *shower) Run(ctx context.Context) error {
	if s.cluster == nil {
		return nil
	}
	s.names, s.unnamed = map[string]string{}, map[string]time.Time{}
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
	s.name(ctx, networks, endpoints)
	add := func(kind cluster.Kind, id string, v any) {
		b, err := json.Marshal(v)
		if err != nil {
			s.log.Error("cannot be shown to other hosts", "kind", kind, "id", id, "err", err)
			return
		}
		items = append(items, cluster.Item{Kind: kind, ID: id, Value: b})
	}
	for _, n := range networks {
		add(cluster.SeenNetworks, n.ID, namedNetwork{NetworkState: n, Name: s.names[n.ID]})
	}
	for _, e := range endpoints {
		add(cluster.SeenEndpoints, e.ID, namedEndpoint{EndpointState: e, Container: s.names[e.ID], NetworkName: s.names[e.NetworkID]})
	}
	for _, l := range leases {
		if l.State == ipam.LeasePast {
			continue // nobody has it
		}
		if l.Container == "" {
			l.Container = s.names[l.Endpoint]
		}
		add(cluster.SeenLeases, l.ID, namedLease{LeaseState: l, NetworkName: s.names[l.Network]})
	}
	for _, r := range s.maker.Reports() {
		add(cluster.SeenReports, r.Network, r)
	}
	return items
}

// name finds out the names of what is new.
func (s *shower) name(ctx context.Context, networks []engine.NetworkState, endpoints []engine.EndpointState) {
	there := map[string]bool{}
	ask, now := false, time.Now()
	want := func(id string) {
		there[id] = true
		if s.names[id] != "" {
			return
		}
		if s.unnamed[id].IsZero() {
			s.unnamed[id] = now
		}
		ask = ask || now.Sub(s.unnamed[id]) < namesFor
	}
	for _, n := range networks {
		want(n.ID)
	}
	for _, e := range endpoints {
		if e.State != "left" {
			want(e.ID)
		}
	}
	maps.DeleteFunc(s.names, func(id, _ string) bool { return !there[id] })
	maps.DeleteFunc(s.unnamed, func(id string, _ time.Time) bool { return !there[id] || s.names[id] != "" })
	if !ask {
		return
	}
	for _, names := range []map[string]string{s.api.networkNames(ctx), s.api.containerNames(ctx)} {
		for id, name := range names {
			if there[id] {
				s.names[id] = name
			}
		}
	}
}
