package cluster

import (
	"context"
	"encoding/json"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// How long a host is silent no wall clock says, which may be set, and differs from host to host.
// Silence is counted in etcd, in the record silent/ID: a host that has seen that record unchanged
// for a while, by its own monotonic clock, adds that while to it, by a transaction that compares the
// record's revision and that the host is still not alive. So each while is counted once, lies between
// two revisions of the record, and what is counted is never more than what has passed. It is less
// where nobody was there to count. A host that is back removes the record.

const (
	// leastSilence is the shortest time after which hosts are forgotten by policy.
	leastSilence = time.Hour
	// leastCount is how long a while is at least; else it is a sixtieth of the policy's time.
	leastCount = 10 * time.Second
)

// Policy is what an operator wants of all hosts.
type Policy struct {
	// ForgetAfter is how long a host is silent before another one forgets it; 0: never. In JSON
	// it is in seconds.
	ForgetAfter time.Duration
}

// policyJSON is a policy as it is written.
type policyJSON struct {
	ForgetAfter float64 `json:"forget_after_seconds"`
}

// MarshalJSON is for json.Marshal.
func (p Policy) MarshalJSON() ([]byte, error) {
	return json.Marshal(policyJSON{p.ForgetAfter.Seconds()})
}

// UnmarshalJSON is for json.Unmarshal.
func (p *Policy) UnmarshalJSON(text []byte) error {
	var in policyJSON
	if err := json.Unmarshal(text, &in); err != nil {
		return err
	}
	p.ForgetAfter = time.Duration(in.ForgetAfter * float64(time.Second))
	return nil
}

// silence is the record of a host that is not alive.
type silence struct {
	// Since is when it began, by the clock of who saw it, for people.
	Since time.Time `json:"since"`
	// Counted is how much of it was counted.
	Counted time.Duration `json:"counted_ns"`
	// By is the host that is about to forget it.
	By string `json:"by,omitempty"`
}

// silent is what is known here of a host's silence.
type silent struct {
	silence
	rev int64
	at  time.Time // when this host saw it so, by its monotonic clock
}

// OnForgotten sets what is called with a host that this one has forgotten by policy. Call it
// before Run; forgotten must not block.
func (c *Cluster) OnForgotten(forgotten func(Host)) { c.forgotten = forgotten }

// Policy is the policy that all hosts have; as it was, where etcd cannot be asked.
func (c *Cluster) Policy() Policy {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.policy
}

// SetPolicy changes it for all hosts.
func (c *Cluster) SetPolicy(ctx context.Context, p Policy) error {
	if p.ForgetAfter != 0 && p.ForgetAfter < c.leastSilence {
		return lan.Refusef(lan.ErrInvalid, "hosts are forgotten after %s of silence at the earliest, and not after %s: a host that boots or whose daemon is updated is silent as well; try: 72h, or never",
			c.leastSilence, p.ForgetAfter)
	}
	value, err := json.Marshal(p)
	if err != nil {
		return err
	}
	return c.ask(ctx, func(ctx context.Context) error {
		_, err := c.client.Put(ctx, c.key("policy"), string(value))
		return err
	})
}

// heedPolicy takes in what is new of the policy. The caller holds mu.
func (c *Cluster) heedPolicy(value []byte, rev int64, gone bool) {
	var p Policy
	if gone {
		rev = 0
	} else {
		if err := json.Unmarshal(value, &p); err != nil {
			c.log.Error("policy cannot be read: no host is forgotten by it", "err", err)
		}
	}
	if c.policyRev != rev {
		c.policyAt = time.Now()
	}
	c.policy, c.policyRev = p, rev
}

// heedSilence takes in what is new of a host's silence. The caller holds mu.
func (c *Cluster) heedSilence(id string, value []byte, rev int64, gone bool) {
	delete(c.silences, id)
	s := silent{rev: rev, at: time.Now()}
	if gone {
		return
	}
	if err := json.Unmarshal(value, &s.silence); err != nil {
		c.log.Warn("record of a silent host cannot be read", "host", id, "err", err)
	}
	c.silences[id] = s
}

// while is how long a silence is watched before it is counted.
func (c *Cluster) while(p Policy) time.Duration { return max(p.ForgetAfter/60, c.leastCount) }

// waited is how long a silence was seen unchanged here, under this policy. The caller holds mu.
func (c *Cluster) waited(s silent) time.Duration {
	return min(time.Since(s.at), time.Since(c.policyAt))
}

// watchSilence notes, counts and ends the silences of other hosts until ctx ends. Errors are
// seen by those who follow the hosts.
func (c *Cluster) watchSilence(ctx context.Context) {
	for ctx.Err() == nil {
		sleep(ctx, min(c.leastCount, time.Second))
		c.mu.Lock()
		var hosts []Host
		for _, h := range c.hosts {
			if !h.Alive && !h.Self && h.Name != "" {
				hosts = append(hosts, h)
			}
		}
		c.mu.Unlock()
		for _, h := range hosts {
			if err := c.silent(ctx, h); err != nil {
				break
			}
		}
	}
}

// silent does what is to be done about a host that is not alive.
func (c *Cluster) silent(ctx context.Context, h Host) error {
	c.mu.Lock()
	s, known := c.silences[h.ID]
	p, policyRev := c.policy, c.policyRev
	by := c.hosts[s.By]
	waited := c.waited(s)
	c.mu.Unlock()
	switch {
	case !known:
		return c.putSilence(ctx, h.ID, &silence{Since: time.Now().UTC()}, 0, policyRev)
	case p.ForgetAfter == 0:
		return nil
	case s.Counted < p.ForgetAfter && waited >= c.while(p):
		s.Counted += waited
		return c.putSilence(ctx, h.ID, &s.silence, s.rev, policyRev)
	case s.Counted < p.ForgetAfter, by.Alive && !by.Self:
		return nil
	}
	s.By = c.conf.Host
	if err := c.putSilence(ctx, h.ID, &s.silence, s.rev, policyRev); err != nil {
		return err
	}
	c.mu.Lock()
	now := c.silences[h.ID]
	c.mu.Unlock()
	if now.By != c.conf.Host {
		return nil // another one does it
	}
	h, err := c.free(ctx, h)
	if err != nil {
		return err
	}
	gone := false
	err = c.ask(ctx, func(ctx context.Context) error {
		w, err := c.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(c.key("silent", h.ID)), "=", now.rev), clientv3.Compare(clientv3.CreateRevision(c.key("alive", h.ID)), "=", 0)).
			Then(c.recordsOf(h.ID)...).Commit()
		gone = err == nil && w.Succeeded
		return err
	})
	if err != nil || !gone {
		return err
	}
	c.log.Warn("host is forgotten, by policy: it was silent for long enough", "host", h.Name, "id", h.ID, "since", s.Since, "forget_after", p.ForgetAfter, "addresses", h.Addresses, "held", h.Held)
	if c.forgotten != nil {
		c.forgotten(h)
	}
	return nil
}

// putSilence writes the record of a host's silence, if that is as it was at revision was (0: not
// there), the host is on the list and not alive, and the policy is the one that is known here. What
// is there then is taken in.
func (c *Cluster) putSilence(ctx context.Context, id string, s *silence, was, policyRev int64) error {
	value, err := json.Marshal(s)
	if err != nil {
		return err
	}
	key := c.key("silent", id)
	return c.ask(ctx, func(ctx context.Context) error {
		w, err := c.client.Txn(ctx).If(
			clientv3.Compare(clientv3.ModRevision(key), "=", was), clientv3.Compare(clientv3.CreateRevision(c.key("alive", id)), "=", 0),
			clientv3.Compare(clientv3.CreateRevision(c.key("hosts", id)), ">", 0), clientv3.Compare(clientv3.ModRevision(c.key("policy")), "=", policyRev),
		).Then(clientv3.OpPut(key, string(value)), clientv3.OpGet(key)).Else(clientv3.OpGet(key)).Commit()
		if err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		kvs := w.Responses[len(w.Responses)-1].GetResponseRange().Kvs
		switch old, known := c.silences[id]; {
		case len(kvs) == 0:
			delete(c.silences, id)
		case !known || old.rev < kvs[0].ModRevision:
			c.heedSilence(id, kvs[0].Value, kvs[0].ModRevision, false)
		}
		return nil
	})
}

// tellSilence says of a host what is known of its silence. The caller holds mu.
func (c *Cluster) tellSilence(h *Host) {
	s, known := c.silences[h.ID]
	if h.Alive || !known {
		return
	}
	h.Silent = s.Since
	if after := c.policy.ForgetAfter; after > 0 {
		left := max(after-s.Counted-min(c.waited(s), c.while(c.policy)), time.Second)
		h.ForgottenIn = left.Round(time.Second).Seconds()
	}
}
