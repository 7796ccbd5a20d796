package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// Host is a host of the cluster.
type Host struct {
	// ID is 16 hexadecimal digits that it made of its state file's salt.
	ID      string `json:"id"`
	Name    string `json:"name"`
	Version string `json:"version"`
	// Since is when it first came.
	Since time.Time `json:"since"`
	// Alive says that it has been heard of less than 30 s ago, and Began since when.
	Alive bool      `json:"alive"`
	Began time.Time `json:"began,omitzero"`
	// Silent is since when it was not heard of, by the clock of another host, and ForgottenIn
	// is in how many seconds it is forgotten at the earliest; 0: it is not.
	Silent      time.Time `json:"silent,omitzero"`
	ForgottenIn float64   `json:"forgotten_in_seconds,omitempty"`
	// Drained says that it gives out no new addresses, because an operator said so.
	Drained bool `json:"drained"`
	// Self says that it is the one that was asked.
	Self bool `json:"self"`
	// Addresses is how many it has, and Held how many it holds ahead besides; Hosts fills
	// them in.
	Addresses int `json:"addresses"`
	Held      int `json:"held"`
}

// record is a host in etcd.
type record struct {
	Name    string    `json:"name"`
	Version string    `json:"version"`
	Since   time.Time `json:"since"`
	Drained bool      `json:"drained,omitempty"`
}

// followHosts keeps the list of hosts until ctx ends or etcd cannot be asked, which it returns.
func (c *Cluster) followHosts(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	keyHosts, keyAlive, keySilent, keyPolicy := c.key("hosts")+"/", c.key("alive")+"/", c.key("silent")+"/", c.key("policy")
	c.Requests.Add(1)
	w, err := c.client.Txn(ctx).Then(clientv3.OpGet(keyHosts, clientv3.WithPrefix()), clientv3.OpGet(keyAlive, clientv3.WithPrefix()),
		clientv3.OpGet(keySilent, clientv3.WithPrefix()), clientv3.OpGet(keyPolicy)).Commit()
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.hosts = map[string]Host{}
	if len(w.Responses[3].GetResponseRange().Kvs) == 0 {
		c.heedPolicy(nil, 0, true)
	}
	was := c.silences
	c.silences = map[string]silent{}
	for _, r := range w.Responses {
		for _, kv := range r.GetResponseRange().Kvs {
			c.heed(kv, false)
		}
	}
	for id, s := range was {
		if now, ok := c.silences[id]; ok && now.rev == s.rev {
			c.silences[id] = s // as seen before etcd was away
		}
	}
	c.mu.Unlock()
	changed := make(chan clientv3.WatchResponse)
	for _, prefix := range []string{keyHosts, keyAlive, keySilent, keyPolicy} {
		ch := c.client.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithPrefix(), clientv3.WithRev(w.Header.Revision+1))
		go func() {
			for r := range ch {
				select {
				case changed <- r:
				case <-ctx.Done():
				}
			}
			select {
			case changed <- clientv3.WatchResponse{Canceled: true}:
			case <-ctx.Done():
			}
		}()
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case r := <-changed:
			if err := r.Err(); err != nil {
				return err
			}
			if r.Canceled {
				return fmt.Errorf("the watch of hosts has ended")
			}
			c.mu.Lock()
			for _, e := range r.Events {
				c.heed(e.Kv, e.Type == clientv3.EventTypeDelete)
			}
			_, there := c.hosts[c.conf.Host]
			c.mu.Unlock()
			if !there {
				return errors.New("this host was forgotten, and says that it is there")
			}
		}
	}
}

// heed takes in what is new of a host, or of the policy. The caller holds mu.
func (c *Cluster) heed(kv *mvccpb.KeyValue, gone bool) {
	key, value := string(kv.Key), kv.Value
	id := key[strings.LastIndexByte(key, '/')+1:]
	switch {
	case key == c.key("policy"):
		c.heedPolicy(value, kv.ModRevision, gone)
		return
	case strings.HasPrefix(key, c.key("silent")+"/"):
		if c.silences[id].rev < kv.ModRevision {
			c.heedSilence(id, value, kv.ModRevision, gone)
		}
		return
	}
	h := c.hosts[id]
	h.ID, h.Self = id, id == c.conf.Host
	if strings.HasPrefix(key, c.key("alive")) {
		if _, known := c.hosts[id]; gone && !known {
			return // it was forgotten
		}
		h.Alive, h.Began = !gone, time.Time{}
		_ = json.Unmarshal(value, &h.Began) // a time that cannot be read is not shown
		c.hosts[id] = h
		return
	}
	if gone {
		delete(c.hosts, id)
		return
	}
	var r record
	if err := json.Unmarshal(value, &r); err != nil {
		c.log.Warn("record of a host cannot be read", "key", key, "err", err)
		return
	}
	h.Name, h.Version, h.Since, h.Drained = r.Name, r.Version, r.Since, r.Drained
	c.hosts[id] = h
	if h.Self && c.drained != h.Drained {
		c.drained = h.Drained
		c.log.Info("an operator said whether this host gives out new addresses", "drained", h.Drained)
	}
}

// Drained says whether this host is to give out no new addresses.
func (c *Cluster) Drained() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drained
}

// HostName is the name of a host, its ID where it is not known.
func (c *Cluster) HostName(id string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.hosts[id]; h.Name != "" {
		return h.Name
	}
	return id
}

// Hosts are all hosts, as one of them sees them.
type Hosts struct {
	// Etcd names the members that are asked, and Prefix begins the keys.
	Etcd   string `json:"etcd"`
	Prefix string `json:"prefix"`
	// Problem says why etcd cannot be asked, since when: then the list is as it was, without
	// how many addresses each has.
	Problem string    `json:"problem,omitempty"`
	Since   time.Time `json:"since,omitzero"`
	// ForgetAfter is the policy's, in seconds; 0: never.
	ForgetAfter float64 `json:"forget_after_seconds"`
	Hosts       []Host  `json:"hosts"`
}

// Alive says of each host but this one, by name, whether it has been heard of less than 30 s ago, as
// far as is known here. It asks nobody.
func (c *Cluster) Alive() map[string]bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	alive := map[string]bool{}
	for id, h := range c.hosts {
		if id != c.conf.Host && h.Name != "" {
			alive[h.Name] = alive[h.Name] || h.Alive
		}
	}
	return alive
}

// Hosts lists the hosts by name, with how many addresses each has. It reads all claims.
func (c *Cluster) Hosts(ctx context.Context) Hosts {
	all := Hosts{Etcd: c.conf.Where(), Prefix: c.conf.Prefix}
	type counts struct{ used, held int }
	count := map[string]counts{}
	err := c.eachClaim(ctx, func(cl Claim) {
		n := count[cl.Host]
		switch {
		case cl.State != Taken:
			return
		case cl.Held:
			n.held++
		default:
			n.used++
		}
		count[cl.Host] = n
	})
	if err != nil {
		count = nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down != nil {
		all.Problem, all.Since = reason(c.down), c.since
	} else if err != nil {
		all.Problem = err.Error()
	}
	list := make([]Host, 0, len(c.hosts))
	for id, h := range c.hosts {
		h.Addresses, h.Held = count[id].used, count[id].held
		c.tellSilence(&h)
		delete(count, id)
		list = append(list, h)
	}
	for id, n := range count { // of one whose record was lost
		list = append(list, Host{ID: id, Addresses: n.used, Held: n.held})
	}
	slices.SortFunc(list, byName)
	all.Hosts, all.ForgetAfter = list, c.policy.ForgetAfter.Seconds()
	return all
}

// Known are the hosts by name, without how many addresses they have. It asks nobody.
func (c *Cluster) Known() []Host {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.SortedFunc(maps.Values(c.hosts), byName)
}

func byName(a, b Host) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.ID, b.ID)) }

// host is the host with a name, an ID, or an ID that begins so.
func (c *Cluster) host(name string) (Host, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var found []Host
	for _, h := range c.hosts {
		if h.ID == name || h.Name == name {
			found = append(found, h)
		}
	}
	if len(found) == 0 && len(name) >= 4 {
		for _, h := range c.hosts {
			if strings.HasPrefix(h.ID, name) {
				found = append(found, h)
			}
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Host{}, lan.Refusef(lan.ErrNotFound, "no host %q is known; try: lanyard host ls", name)
	}
	return Host{}, lan.Refusef(lan.ErrConflict, "%d hosts are %q; try: lanyard host ls, and the ID of one", len(found), name)
}

// Drain has a host give out no new addresses, or do so again. It keeps those that it has.
func (c *Cluster) Drain(ctx context.Context, name string, on bool) (Host, error) {
	h, err := c.host(name)
	if err != nil {
		return Host{}, err
	}
	for {
		done := false
		err := c.ask(ctx, func(ctx context.Context) error {
			key := c.key("hosts", h.ID)
			got, err := c.client.Get(ctx, key)
			if err != nil {
				return err
			}
			if len(got.Kvs) == 0 {
				return nil
			}
			var r record
			if err := json.Unmarshal(got.Kvs[0].Value, &r); err != nil {
				return err
			}
			r.Drained = on
			value, err := json.Marshal(r)
			if err != nil {
				return err
			}
			w, err := c.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", got.Kvs[0].ModRevision)).Then(clientv3.OpPut(key, string(value))).Commit()
			done = err == nil && w.Succeeded
			return err
		})
		if err != nil || done {
			h.Drained = on
			return h, err
		}
	}
}

// Forget says that a host is gone for good: its addresses are free, for who had them first, and
// it is on the list no more. One that is alive is refused, unless force is set. It returns how
// many addresses it had, and how many it held.
func (c *Cluster) Forget(ctx context.Context, name string, force bool) (h Host, err error) {
	if h, err = c.host(name); err != nil {
		return h, err
	}
	if h.Alive && !force {
		return h, lan.Refusef(lan.ErrConflict, "host %s is alive, and its containers use its addresses; try: lanyard host drain %s, stop its containers, or --force if it is known to be off", h.Name, h.Name)
	}
	if h, err = c.free(ctx, h); err != nil {
		return h, err
	}
	return h, c.ask(ctx, func(ctx context.Context) error {
		_, err := c.client.Txn(ctx).Then(append(c.recordsOf(h.ID), clientv3.OpDelete(c.key("alive", h.ID)))...).Commit()
		return err
	})
}

// recordsOf deletes what there is of a host beside its claims and its sign of life.
func (c *Cluster) recordsOf(id string) []clientv3.Op {
	ops := []clientv3.Op{clientv3.OpDelete(c.key("hosts", id)), clientv3.OpDelete(c.key("silent", id))}
	for _, kind := range kinds {
		ops = append(ops, clientv3.OpDelete(c.seenKey(kind, id), clientv3.WithPrefix()))
	}
	return ops
}

// free makes the addresses of a host free, and returns it with how many it had and held.
func (c *Cluster) free(ctx context.Context, h Host) (Host, error) {
	var its []Change
	held := map[string]bool{}
	h.Addresses, h.Held = 0, 0
	err := c.eachClaim(ctx, func(cl Claim) {
		if cl.Host == h.ID && cl.State == Taken {
			was := cl.Rev
			if cl.State = Idle; cl.Held {
				held[cl.Segment+" "+cl.Addr.String()] = true
				if cl.Owner == "" {
					cl.State = "" // it was nobody's
				}
			}
			cl.Held, cl.Since = false, time.Now().UTC()
			its = append(its, Change{Claim: cl, Was: was})
		}
	})
	if err != nil {
		return h, err
	}
	for part := range slices.Chunk(its, MaxChanges) {
		done, err := c.Change(ctx, part)
		if err != nil {
			return h, err
		}
		for _, d := range done {
			switch {
			case !d.Won:
			case held[d.Segment+" "+d.Addr.String()]:
				h.Held++
			default:
				h.Addresses++
			}
		}
	}
	return h, nil
}
