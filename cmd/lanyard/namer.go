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
// something is new. Its method may be called at the same time.
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
		for _, names := range []map[string]string{n.api.networkNames(ctx), n.api.containerNames(ctx)} {
			for id, name := range names {
				if there[id] {
					n.known[id] = name
				}
			}
		}
		n.asked, n.took = time.Now(), time.Since(now)
	}
	return maps.Clone(n.known)
}
