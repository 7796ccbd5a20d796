package cluster

import (
	"context"
	"crypto/sha256"
	"maps"
	"slices"
	"strings"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// Kind is what a host shows the others, for operators: nothing that it decides by.
type Kind string

// The kinds.
const (
	SeenNetworks  Kind = "networks"
	SeenEndpoints Kind = "endpoints"
	SeenLeases    Kind = "leases"
	// SeenReports are what hosts say of definitions.
	SeenReports Kind = "reports"
)

var kinds = []Kind{SeenNetworks, SeenEndpoints, SeenLeases, SeenReports}

// Item is something that a host shows; its value is JSON.
type Item struct {
	Kind  Kind
	ID    string
	Value []byte
}

// Seen is what hosts show of a kind.
type Seen struct {
	// Host is the one that shows it, Name its name, and Alive whether it is known to be there.
	Host, Name string
	Alive      bool
	Item
}

const (
	// maxShown is how many items are written by one request at most, and maxShownSize how large they are in all, in bytes:
	// etcd takes 128, and 1.5 MB.
	maxShown     = 100
	maxShownSize = 1 << 20
)

func (c *Cluster) seenKey(kind Kind, host string) string {
	return c.key("seen", string(kind), host) + "/"
}

// Show has the other hosts see all these items of this host, and none besides. What has not changed since it was last shown costs
// nothing. One caller at a time.
func (c *Cluster) Show(ctx context.Context, items []Item) error {
	if c.shown == nil || c.shownIn != c.life.Load() {
		// After a while without etcd, or of being forgotten.
		life := c.life.Load()
		shown := map[string][sha256.Size]byte{}
		for _, kind := range kinds {
			if _, err := c.read(ctx, c.seenKey(kind, c.conf.Host), func(kv *mvccpb.KeyValue) { shown[string(kv.Key)] = sha256.Sum256(kv.Value) }); err != nil {
				return err
			}
		}
		c.shown, c.shownIn = shown, life
	}
	want := map[string][]byte{}
	for _, i := range items {
		want[c.seenKey(i.Kind, c.conf.Host)+i.ID] = i.Value
	}
	var ops []clientv3.Op
	size := 0
	write := func() error {
		if len(ops) == 0 {
			return nil
		}
		if _, err := c.txn(ctx, ops); err != nil {
			c.shown = nil // it is not known what was written
			return err
		}
		ops, size = nil, 0
		return nil
	}
	for _, key := range slices.Sorted(maps.Keys(want)) {
		sum := sha256.Sum256(want[key])
		if old, ok := c.shown[key]; ok && old == sum {
			continue
		}
		if len(ops) == maxShown || size+len(want[key]) > maxShownSize {
			if err := write(); err != nil {
				return err
			}
		}
		ops, size = append(ops, clientv3.OpPut(key, string(want[key]))), size+len(want[key])
		c.shown[key] = sum
	}
	for _, key := range slices.Sorted(maps.Keys(c.shown)) {
		if _, ok := want[key]; ok {
			continue
		}
		if len(ops) == maxShown {
			if err := write(); err != nil {
				return err
			}
		}
		ops = append(ops, clientv3.OpDelete(key))
		delete(c.shown, key)
	}
	return write()
}

// See reads what the hosts show of a kind, by host.
func (c *Cluster) See(ctx context.Context, kind Kind) (list []Seen, err error) {
	if !slices.Contains(kinds, kind) {
		return nil, lan.Refusef(lan.ErrNotFound, "hosts do not show %q", kind)
	}
	prefix := c.key("seen", string(kind)) + "/"
	_, err = c.read(ctx, prefix, func(kv *mvccpb.KeyValue) {
		host, id, _ := strings.Cut(strings.TrimPrefix(string(kv.Key), prefix), "/")
		list = append(list, Seen{Host: host, Item: Item{kind, id, kv.Value}})
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range list {
		h := c.hosts[list[i].Host]
		list[i].Name, list[i].Alive = h.Name, h.Alive
		if h.Name == "" {
			list[i].Name = list[i].Host
		}
	}
	return list, err
}
