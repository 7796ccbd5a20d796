package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/plan"
)

// Definition is a network that all hosts are to have.
type Definition struct {
	plan.Network
	// Revision is the one of etcd at which it became so.
	Revision int64 `json:"revision,omitempty"`
	// Changed is when, by the clock of the host named By.
	Changed time.Time `json:"changed"`
	By      string    `json:"by"`
}

// maxSteps is how many definitions are changed by one request at most: etcd takes 128 operations.
const maxSteps = 60

// followNetworks keeps the definitions until ctx ends or etcd cannot be asked, which it returns.
func (c *Cluster) followNetworks(ctx context.Context) error {
	all := map[string]Definition{}
	heed := func(kv *mvccpb.KeyValue, gone bool) {
		name := strings.TrimPrefix(string(kv.Key), c.key("networks")+"/")
		if gone {
			delete(all, name)
			return
		}
		d, err := parseDefinition(kv)
		if err != nil {
			// It stays as it was: what cannot be read is not gone.
			c.log.Error("definition of a network cannot be read; a newer lanyard may have written it", "err", err)
			return
		}
		all[name] = d
	}
	tell := func(rev int64) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.networks = maps.Clone(all)
		c.networksRev = rev
		select {
		case c.redefined <- struct{}{}:
		default: // it is told already
		}
	}
	prefix := c.key("networks") + "/"
	rev, err := c.read(ctx, prefix, func(kv *mvccpb.KeyValue) { heed(kv, false) })
	if err != nil {
		return err
	}
	tell(rev)
	return c.watch(ctx, prefix, rev, func(events []*clientv3.Event) {
		for _, e := range events {
			heed(e.Kv, e.Type == clientv3.EventTypeDelete)
			rev = e.Kv.ModRevision
		}
		tell(rev)
	})
}

func parseDefinition(kv *mvccpb.KeyValue) (d Definition, err error) {
	if err := json.Unmarshal(kv.Value, &d); err != nil {
		return d, fmt.Errorf("key %s: %w", kv.Key, err)
	}
	d.Revision = kv.ModRevision
	return d, nil
}

// Networks are the definitions by name, as they stood at a revision; 0 as long as they are not known. The map is the
// caller's.
func (c *Cluster) Networks() (all map[string]Definition, rev int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.networks), c.networksRev
}

// Redefined gets a value when definitions have changed, or have become known. One listens.
func (c *Cluster) Redefined() <-chan struct{} { return c.redefined }

// Mark tells this cluster's networks from another's: 16 hexadecimal digits, "" as long as it is not known.
func (c *Cluster) Mark() string {
	salt := c.Salt()
	if salt == nil {
		return ""
	}
	return fmt.Sprintf("%x", salt[:8])
}

// Define makes the definitions be as want says, and with prune removes those that it does not have; with dry it
// only says what it would do. Definitions that somebody else has changed meanwhile are not overwritten: then it is an error, and
// some of more than 60 may have been made.
func (c *Cluster) Define(ctx context.Context, want []plan.Network, prune, dry bool) ([]plan.Step, error) {
	have, revs, err := c.definitions(ctx)
	if err != nil {
		return nil, err
	}
	steps := plan.Steps(have, want, prune)
	if dry {
		return steps, nil
	}
	return steps, c.take(ctx, steps, revs)
}

// Create makes a definition that there is none of yet.
func (c *Cluster) Create(ctx context.Context, n plan.Network) error {
	return c.take(ctx, []plan.Step{{Network: n.Name, Action: plan.Create, To: &n}}, nil)
}

// Undefine removes a definition.
func (c *Cluster) Undefine(ctx context.Context, name string) error {
	have, revs, err := c.definitions(ctx)
	if err != nil {
		return err
	}
	if _, ok := have[name]; !ok {
		return lan.Refusef(lan.ErrNotFound, "no network %q is defined; try: lanyard network diff", name)
	}
	return c.take(ctx, []plan.Step{{Network: name, Action: plan.Remove}}, revs)
}

// Definitions reads the definitions as they stand, by name.
func (c *Cluster) Definitions(ctx context.Context) (list []Definition, err error) {
	var unread error
	_, err = c.read(ctx, c.key("networks")+"/", func(kv *mvccpb.KeyValue) {
		d, err := parseDefinition(kv)
		if err != nil {
			unread = err
			return
		}
		list = append(list, d)
	})
	if err == nil {
		err = unread
	}
	return list, err
}

// definitions reads the definitions as they stand, and the revisions of their keys.
func (c *Cluster) definitions(ctx context.Context) (map[string]plan.Network, map[string]int64, error) {
	have, revs := map[string]plan.Network{}, map[string]int64{}
	list, err := c.Definitions(ctx)
	for _, d := range list {
		have[d.Name], revs[d.Name] = d.Network, d.Revision
	}
	return have, revs, err
}

// take takes steps, if the keys still have these revisions, 0 where there is none.
func (c *Cluster) take(ctx context.Context, steps []plan.Step, revs map[string]int64) error {
	steps = slices.DeleteFunc(slices.Clone(steps), func(s plan.Step) bool { return s.Action == plan.Keep })
	for part := range slices.Chunk(steps, maxSteps) {
		var ifs []clientv3.Cmp
		var thens []clientv3.Op
		for _, s := range part {
			key := c.key("networks", s.Network)
			ifs = append(ifs, clientv3.Compare(clientv3.ModRevision(key), "=", revs[s.Network]))
			if s.Action == plan.Remove {
				thens = append(thens, clientv3.OpDelete(key))
				continue
			}
			value, err := json.Marshal(Definition{Network: *s.To, Changed: time.Now().UTC(), By: c.conf.Name})
			if err != nil {
				return fmt.Errorf("definition of %s: %w", s.Network, err)
			}
			thens = append(thens, clientv3.OpPut(key, string(value)))
		}
		made := false
		err := c.ask(ctx, func(ctx context.Context) error {
			w, err := c.client.Txn(ctx).If(ifs...).Then(thens...).Commit()
			made = err == nil && w.Succeeded
			return err
		})
		if err != nil {
			return err
		}
		if !made {
			names := make([]string, len(part))
			for i, s := range part {
				names[i] = s.Network
			}
			if len(part) == 1 && part[0].Action == plan.Create {
				return lan.Refusef(lan.ErrConflict, "network %s is defined already; try: lanyard network export %s", names[0], names[0])
			}
			return lan.Refusef(lan.ErrConflict, "somebody else has changed definitions among %s in this moment; try: again", strings.Join(names, ", "))
		}
	}
	return nil
}
