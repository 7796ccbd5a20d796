package main

import (
	"context"
	"maps"
	"sync"
	"time"
)

// namesAgain is how long Docker is left alone that has not said a network's name.
const namesAgain = 30 * time.Second

// namer knows what Docker calls networks, for /metrics. A network never has another name, so
// Docker is asked only for one that is new, and seldom where it does not answer.
type namer struct {
	api *engineAPI

	mu    sync.Mutex // guards what follows, and is held while Docker is asked
	names map[string]string
	next  time.Time
}

// of are the names of networks by ID. It blocks for as long as the API's patience where one is new.
func (n *namer) of(ids []string) map[string]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	known := map[string]string{}
	all := true
	for _, id := range ids {
		name, ok := n.names[id]
		known[id], all = name, all && ok
	}
	if all || time.Now().Before(n.next) {
		n.names = known // those of networks that are gone are forgotten
		return known
	}
	n.next = time.Now().Add(namesAgain)
	said := n.api.networkNames(context.Background())
	n.names = map[string]string{}
	for _, id := range ids {
		if name, ok := said[id]; ok {
			n.names[id], known[id] = name, name
			n.next = time.Time{}
		}
	}
	return maps.Clone(known)
}
