package main

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/lanyard-net/lanyard/internal/engine"
)

const (
	// namesFor is how long Docker is asked for a name that it does not say: an endpoint is there before its
	// container is listed.
	namesFor = time.Minute
	// namesAgain is when it is asked for all names again, since containers may be renamed.
	namesAgain = 30 * time.Second
)

// namer knows what Docker calls networks and containers. It asks when somebody wants to know and
// something is new. Its methods may be called at the same time.
type namer struct {
	api *engineAPI

	mu      sync.Mutex           // guards the rest, and is held while Docker is asked
	known   map[string]string    // by the IDs of networks and endpoints
	unnamed map[string]time.Time // since when a name is not known
	asked   time.Time            // when Docker last answered, or did not
	took    time.Duration        // and how long that took
}

func newNamer(api *engineAPI) *namer {
	return &namer{api: api, known: map[string]string{}, unnamed: map[string]time.Time{}}
}

// names are the names of these networks and containers, as far as Docker says them. It blocks while
// Docker is asked, which is not again for a while where that takes long.
func (n *namer) names(ctx context.Context, networks []engine.NetworkState, endpoints []engine.EndpointState) map[string]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	there := map[string]bool{}
	now := time.Now()
	ask := now.Sub(n.asked) > namesAgain && len(networks) > 0
	want := func(id string) {
		there[id] = true
		if n.known[id] != "" {
			return
		}
		if n.unnamed[id].IsZero() {
			n.unnamed[id] = now
		}
		ask = ask || now.Sub(n.unnamed[id]) < namesFor
	}
	for _, x := range networks {
		want(x.ID)
	}
	for _, x := range endpoints {
		if x.State != "left" {
			want(x.ID)
		}
	}
	maps.DeleteFunc(n.known, func(id, _ string) bool { return !there[id] })
	maps.DeleteFunc(n.unnamed, func(id string, _ time.Time) bool { return !there[id] || n.known[id] != "" })
	if ask && now.Sub(n.asked) > 5*n.took {
		n.ask(ctx, there)
	}
	return maps.Clone(n.known)
}

// ofNetworks are the names of networks, as names has them. Docker is asked again after a while only,
// since who wants them comes by every few seconds and can do without.
func (n *namer) ofNetworks(ids []string) map[string]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	there, ask := map[string]bool{}, false
	for _, id := range ids {
		there[id] = true
		ask = ask || n.known[id] == ""
	}
	if ask && time.Since(n.asked) > namesAgain {
		n.ask(context.Background(), there)
	}
	known := map[string]string{}
	for _, id := range ids {
		known[id] = n.known[id]
	}
	return known
}

// ask asks Docker for the names of what is there. n.mu is held.
func (n *namer) ask(ctx context.Context, there map[string]bool) {
	start := time.Now()
	for _, names := range []map[string]string{n.api.networkNames(ctx), n.api.containerNames(ctx)} {
		for id, name := range names {
			if there[id] {
				n.known[id] = name
			}
		}
	}
	n.asked, n.took = time.Now(), time.Since(start)
}
