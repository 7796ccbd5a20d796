package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// State is what a claimed address is.
type State string

// The states of a claim. One without a state is none: the address is new.
const (
	// Taken is an address that a host has given out.
	Taken State = "taken"
	// Idle is an address that was somebody's.
	Idle State = "idle"
	// Reserved is an address that an operator has set aside.
	Reserved State = "reserved"
)

// MaxChanges is how many claims are changed by one request at most: etcd takes 128 operations.
const MaxChanges = 40

// Claim is who has, or had, an address of a segment: a broadcast domain that several hosts are
// on.
type Claim struct {
	Segment string     `json:"-"`
	Addr    netip.Addr `json:"-"`
	// Rev is the revision of etcd at which it became so.
	Rev   int64 `json:"-"`
	State State `json:"state,omitempty"`
	// Host is the ID of who took it, also when it is idle.
	Host string `json:"host,omitempty"`
	// Held says that it is taken ahead, and in use by nobody: its host gives it out when it likes.
	Held bool `json:"held,omitempty"`
	// Owner is who gets the address again, "" for nobody; Name is the container's name, where
	// it is known.
	Owner string `json:"owner,omitempty"`
	Name  string `json:"name,omitempty"`
	// Source is why it is this address.
	Source string `json:"source,omitempty"`
	// Since is when the state began, by the clock of who wrote it.
	Since time.Time `json:"since,omitzero"`
	// Reserved is what a taken or reserved address is set aside for.
	Reserved *Reservation `json:"reserved,omitempty"`
}

// Reservation is for whom an address is set aside, "" for nobody, and why.
type Reservation struct {
	Name string `json:"name,omitempty"`
	Note string `json:"note,omitempty"`
}

// Was is the revision that a change of the claim compares with: 0 where there is none.
func (c *Claim) Was() int64 {
	if c.State == "" {
		return 0
	}
	return c.Rev
}

func (c *Cluster) claimKey(segment string, addr netip.Addr) string {
	return c.segmentKey(segment) + addr.String()
}

// parseClaim reads a claim. Of one that is gone there is only the key.
func (c *Cluster) parseClaim(kv *mvccpb.KeyValue, gone bool) (Claim, error) {
	cl := Claim{Rev: kv.ModRevision}
	rest := strings.TrimPrefix(string(kv.Key), c.key("claims")+"/")
	segment, addr, _ := strings.Cut(rest, "/")
	var err error
	if cl.Segment, err = url.PathUnescape(segment); err != nil {
		return cl, fmt.Errorf("key %s: %w", kv.Key, err)
	}
	if cl.Addr, err = netip.ParseAddr(addr); err != nil {
		return cl, fmt.Errorf("key %s: %w", kv.Key, err)
	}
	if gone {
		return cl, nil
	}
	if err := json.Unmarshal(kv.Value, &cl); err != nil {
		return cl, fmt.Errorf("key %s: %w", kv.Key, err)
	}
	if cl.State != Taken && cl.State != Idle && cl.State != Reserved {
		return cl, fmt.Errorf("key %s: state %q: a newer lanyard wrote it", kv.Key, cl.State)
	}
	return cl, nil
}

// Change is a claim as it is to be (without a state: to be gone), if it still is as the caller
// knows it: Was is what Claim.Was said then.
type Change struct {
	Claim
	Was int64
}

// Done is what became of a change: the claim as it stands now, and whether it was made.
type Done struct {
	Claim
	Won bool
}

// Change makes changes of up to MaxChanges claims, each by itself, in one request. An error
// means that it is not known which were made.
func (c *Cluster) Change(ctx context.Context, list []Change) ([]Done, error) {
	ops := make([]clientv3.Op, 0, len(list))
	for _, ch := range list {
		key := c.claimKey(ch.Segment, ch.Addr)
		then := clientv3.OpDelete(key)
		if ch.State != "" {
			value, err := json.Marshal(ch.Claim)
			if err != nil {
				return nil, fmt.Errorf("claim of %s: %w", ch.Addr, err)
			}
			then = clientv3.OpPut(key, string(value))
		}
		ops = append(ops, clientv3.OpTxn([]clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(key), "=", ch.Was)}, []clientv3.Op{then}, []clientv3.Op{clientv3.OpGet(key)}))
	}
	w, err := c.txn(ctx, ops)
	if err != nil {
		return nil, err
	}
	done := make([]Done, len(list))
	for i, r := range w.Responses {
		t := r.GetResponseTxn()
		if t.Succeeded {
			done[i] = Done{list[i].Claim, true}
			done[i].Rev = w.Header.Revision
			continue
		}
		if done[i].Claim, err = c.claimAt(list[i].Segment, list[i].Addr, w.Header.Revision, t.Responses[0]); err != nil {
			return nil, err
		}
	}
	return done, nil
}

// txn makes a transaction without a condition.
func (c *Cluster) txn(ctx context.Context, ops []clientv3.Op) (w *clientv3.TxnResponse, err error) {
	err = c.ask(ctx, func(ctx context.Context) (err error) {
		w, err = c.client.Txn(ctx).Then(ops...).Commit()
		return err
	})
	return w, err
}

// claimAt is the claim of an address, as a request for its key was answered at a revision.
func (c *Cluster) claimAt(segment string, addr netip.Addr, rev int64, got *etcdserverpb.ResponseOp) (Claim, error) {
	if kvs := got.GetResponseRange().Kvs; len(kvs) > 0 {
		return c.parseClaim(kvs[0], false)
	}
	return Claim{Segment: segment, Addr: addr, Rev: rev}, nil
}

// Look reads the claims that changes are of, up to MaxChanges, as they stand.
func (c *Cluster) Look(ctx context.Context, of []Change) ([]Claim, error) {
	ops := make([]clientv3.Op, len(of))
	for i, ch := range of {
		ops[i] = clientv3.OpGet(c.claimKey(ch.Segment, ch.Addr))
	}
	w, err := c.txn(ctx, ops)
	if err != nil {
		return nil, err
	}
	list := make([]Claim, len(of))
	for i, r := range w.Responses {
		if list[i], err = c.claimAt(of[i].Segment, of[i].Addr, w.Header.Revision, r); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// page is how many keys are read at a time.
const page = 5000

// read calls each for all keys that begin so, in order, as they stood at one revision, which it returns.
func (c *Cluster) read(ctx context.Context, prefix string, each func(*mvccpb.KeyValue)) (rev int64, err error) {
	from, end := prefix, clientv3.GetPrefixRangeEnd(prefix)
	for {
		var w *clientv3.GetResponse
		err := c.ask(ctx, func(ctx context.Context) (err error) {
			opts := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(page), clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend)}
			if rev != 0 {
				opts = append(opts, clientv3.WithRev(rev))
			}
			w, err = c.client.Get(ctx, from, opts...)
			return err
		})
		if err != nil {
			return 0, err
		}
		if rev == 0 {
			rev = w.Header.Revision
		}
		for _, kv := range w.Kvs {
			each(kv)
		}
		if !w.More || len(w.Kvs) == 0 {
			return rev, nil
		}
		from = string(w.Kvs[len(w.Kvs)-1].Key) + "\x00"
	}
}

// readClaims is read of claims.
func (c *Cluster) readClaims(ctx context.Context, prefix string, each func(Claim)) (rev int64, err error) {
	return c.read(ctx, prefix, func(kv *mvccpb.KeyValue) {
		cl, err := c.parseClaim(kv, false)
		if err != nil {
			c.log.Error("claim cannot be read", "err", err)
			return
		}
		each(cl)
	})
}

// eachClaim calls each for all claims there are.
func (c *Cluster) eachClaim(ctx context.Context, each func(Claim)) error {
	_, err := c.readClaims(ctx, c.key("claims")+"/", each)
	return err
}

// Claims reads all claims of a segment, as they stood at a revision.
func (c *Cluster) Claims(ctx context.Context, segment string) (list []Claim, rev int64, err error) {
	rev, err = c.readClaims(ctx, c.segmentKey(segment), func(cl Claim) { list = append(list, cl) })
	return list, rev, err
}

// segmentKey begins the keys of a segment's claims.
func (c *Cluster) segmentKey(segment string) string {
	return c.key("claims", url.PathEscape(segment)) + "/"
}

// Follow calls all with every claim of a segment as it stands and the revision, and then
// changed with those that change, in order, until ctx ends or etcd cannot be asked, which it
// returns. A claim that is gone has no state.
func (c *Cluster) Follow(ctx context.Context, segment string, all func(list []Claim, rev int64), changed func([]Claim)) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	list, rev, err := c.Claims(ctx, segment)
	if err != nil {
		return err
	}
	all(list, rev)
	return c.watch(ctx, c.segmentKey(segment), rev, func(events []*clientv3.Event) {
		batch := make([]Claim, 0, len(events))
		for _, e := range events {
			cl, err := c.parseClaim(e.Kv, e.Type == clientv3.EventTypeDelete)
			if err != nil {
				c.log.Error("claim cannot be read", "err", err)
				continue
			}
			batch = append(batch, cl)
		}
		if len(batch) > 0 {
			changed(batch)
		}
	})
}

// watch calls changed with what changes after a revision of the keys that begin so, in order, until ctx ends or etcd cannot
// be asked, which it returns.
func (c *Cluster) watch(ctx context.Context, prefix string, after int64, changed func([]*clientv3.Event)) error {
	for w := range c.client.Watch(clientv3.WithRequireLeader(ctx), prefix, clientv3.WithPrefix(), clientv3.WithRev(after+1)) {
		if err := w.Err(); err != nil {
			c.lose(err)
			return err
		}
		changed(w.Events)
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("the watch of %s has ended", prefix)
}
