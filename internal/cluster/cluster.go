// Package cluster is what hosts that share an address plan agree on, in etcd: who has which
// address (claims), and which hosts there are.
//
// A host's own networks, endpoints and leases are not here but in its state file (package
// store): a host goes on without etcd, and only gives out no new address. A claim is changed
// by a transaction that compares its revision, so that what two hosts believe never matters.
// Claims have no time to live: those of a host that is gone stay until somebody says that it is
// gone for good (Forget), because its containers may still be running.
//
// Keys, below the prefix: format, salt, policy, hosts/ID, alive/ID (with a time to live), silent/ID, claims/SEGMENT/ADDRESS,
// networks/NAME (definitions of networks that all hosts are to have), and seen/KIND/ID/... (what a host shows the others, for operators).
package cluster

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	"github.com/lanyard-net/lanyard/internal/lan"
)

const (
	// format is that of the records. A cluster with another one is refused.
	format = "1"
	// patience is how long a request may take: Docker waits for it.
	patience = 2 * time.Second
	// alive is how long a host counts as alive that does not say so, in seconds. It says so
	// three times as often.
	alive = 30
	// again is how often etcd is asked whether it is back.
	again = time.Second
)

// NoNewAddress is in the text of an error about etcd, for those to whom Docker tells no more.
const NoNewAddress = "no new address is given out without it"

var errNotYet = errors.New("it has not answered yet")

// Cluster is the hosts' common store, as one of them sees it. Its methods may be called at the
// same time. Errors that say that etcd cannot be reached wrap lan.ErrUnavailable.
type Cluster struct {
	conf Config
	log  *slog.Logger
	with clientv3.Config
	// forgotten, which may be nil, is told of hosts that this one has forgotten by policy.
	forgotten func(Host)
	// leastSilence and leastCount are the constants, but for tests.
	leastSilence, leastCount time.Duration
	// before says that this host was one of the cluster's before; Run's.
	before bool
	// client is made by Run, and there when down is nil.
	client *clientv3.Client
	// took is how long the requests took that somebody waited for.
	took *prometheus.HistogramVec
	// Requests counts what etcd was asked for.
	Requests atomic.Int64
	// life counts how often this host has registered.
	life atomic.Int64
	// shown are the sums of what Show has written, in the life shownIn; nil where that is not known. Show's own.
	shown   map[string][sha256.Size]byte
	shownIn int64
	// redefined rings when networks has changed.
	redefined chan struct{}
	// heard is closed when etcd has answered once, or has not.
	heard chan struct{}

	mu    sync.Mutex // guards what follows
	down  error      // why etcd cannot be asked; nil: it can, for all that is known
	since time.Time  // when that began
	salt  []byte
	hosts map[string]Host
	// networks are the definitions as they stood at networksRev, which is 0 as long as they are not known.
	networks    map[string]Definition
	networksRev int64
	// silences are of hosts that are not alive, by ID; policyRev is the policy's revision, and
	// policyAt when it was seen here.
	silences  map[string]silent
	policy    Policy
	policyRev int64
	policyAt  time.Time
	// drained says that this host is to give out no new addresses.
	drained bool
	// member says that etcd was seen to be the cluster that this host belongs to.
	member bool
}

// New checks what is configured. It does not connect: Run does, and closes what it opened. salt
// is that of the cluster, where it is known from before.
func New(conf Config, salt []byte, log *slog.Logger) (*Cluster, error) {
	tls, err := conf.tls()
	if err != nil {
		return nil, err
	}
	password, err := conf.password()
	if err != nil {
		return nil, err
	}
	c := &Cluster{conf: conf, log: log, salt: salt, before: salt != nil, hosts: map[string]Host{}, silences: map[string]silent{}, leastSilence: leastSilence, leastCount: leastCount, heard: make(chan struct{}), down: errNotYet, since: time.Now(),
		redefined: make(chan struct{}, 1),
		took: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "lanyard_etcd_request_duration_seconds",
			Help:    "How long etcd took for what the daemon waited for, by result: ok or failed. What is not asked because etcd is known to be away is not among them.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2},
		}, []string{"result"}),
	}
	c.with = clientv3.Config{
		Endpoints: conf.Endpoints, DialTimeout: patience, TLS: tls, Username: conf.User, Password: password, Logger: zap.NewNop(),
		DialKeepAliveTime: 5 * time.Second, DialKeepAliveTimeout: 3 * time.Second,
		BackoffWaitBetween: 100 * time.Millisecond,
		DialOptions:        []grpc.DialOption{grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second})},
	}
	return c, nil
}

// connect makes the client. With a user it asks etcd at once.
func (c *Cluster) connect() error {
	if c.client != nil {
		return nil
	}
	client, err := clientv3.New(c.with)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.client = client
	return nil
}

// Metrics are the figures of what etcd was asked for.
func (c *Cluster) Metrics() prometheus.Collector { return c.took }

// Self is the ID of this host.
func (c *Cluster) Self() string { return c.conf.Host }

// Name is the name of this host.
func (c *Cluster) Name() string { return c.conf.Name }

// Where names the etcd that this is, without secrets.
func (c *Cluster) Where() string { return c.conf.Where() }

// Salt is 32 random bytes that all hosts have alike, nil as long as this host was never one of
// the cluster's.
func (c *Cluster) Salt() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.salt
}

// Up says since when etcd cannot be asked and why; nil: it can, for all that is known.
func (c *Cluster) Up() (since time.Time, why error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.since, c.down
}

// Heard is closed as soon as Up has an answer of etcd's, or there is none: within seconds of
// Run.
func (c *Cluster) Heard() <-chan struct{} { return c.heard }

func (c *Cluster) unavailable(why error) error {
	return lan.Refusef(lan.ErrUnavailable, "etcd at %s cannot be used (%s), and "+NoNewAddress+"; running containers go on; try: lanyard host ls", c.conf.Where(), reason(why))
}

// reason is an error of the client in a user's words.
func reason(err error) string {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer"
	case errors.Is(err, rpctypes.ErrNoLeader), errors.Is(err, rpctypes.ErrTimeoutDueToLeaderFail):
		return "it has no leader"
	}
	text := err.Error()
	if _, after, ok := strings.Cut(text, "desc = "); ok {
		text = after
	}
	return strings.Trim(text, `"`)
}

// ask has etcd asked something, within patience. While etcd is known to be away it is not
// asked.
func (c *Cluster) ask(ctx context.Context, do func(ctx context.Context) error) error {
	c.mu.Lock()
	down := c.down
	c.mu.Unlock()
	if down != nil {
		return c.unavailable(down)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c.Requests.Add(1)
	start := time.Now()
	err := do(ctx)
	if err == nil {
		c.took.WithLabelValues("ok").Observe(time.Since(start).Seconds())
		return nil
	}
	c.took.WithLabelValues("failed").Observe(time.Since(start).Seconds())
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	c.lose(err)
	return c.unavailable(err)
}

// lose notes that etcd cannot be asked.
func (c *Cluster) lose(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down == nil || errors.Is(c.down, errNotYet) {
		if errors.Is(c.down, errNotYet) {
			close(c.heard)
		}
		c.since = time.Now()
		c.log.Warn("etcd cannot be used: no new addresses until it can; running containers go on", "etcd", c.conf.Where(), "err", reason(err))
	}
	c.down = err
}

// find notes that etcd answers.
func (c *Cluster) find() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down == nil || !c.member {
		return
	}
	what := "etcd is back"
	if errors.Is(c.down, errNotYet) {
		close(c.heard)
		what = "addresses are shared with other hosts"
	}
	c.log.Info(what, "etcd", c.conf.Where(), "after", time.Since(c.since).Round(time.Millisecond))
	c.down, c.since = nil, time.Time{}
}

// Run makes this host one of the cluster's and keeps it so until ctx ends; it returns nil then.
// joined is called with the cluster's salt before anything else. What keeps this host from it, be it that etcd does not answer
// or that what is there is another cluster, Up says; Run goes on trying.
func (c *Cluster) Run(ctx context.Context, joined func(salt []byte) error) (err error) {
	var looking sync.WaitGroup
	defer func() {
		looking.Wait()
		if c.client != nil {
			err = errors.Join(err, c.client.Close())
		}
	}()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	looking.Go(func() {
		for ctx.Err() == nil {
			sleep(ctx, again)
			c.probe(ctx)
		}
	})
	for ctx.Err() == nil {
		err := c.connect()
		if err == nil {
			err = c.join(ctx, joined)
		}
		if err == nil {
			err = c.stay(ctx)
		}
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			c.lose(err)
		}
		sleep(ctx, again)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

func (c *Cluster) key(parts ...string) string {
	return strings.TrimRight(c.conf.Prefix, "/") + "/" + strings.Join(parts, "/")
}

// join checks that this is a cluster of ours, or makes it one.
func (c *Cluster) join(ctx context.Context, joined func(salt []byte) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	fresh := make([]byte, 32)
	rand.Read(fresh) // never fails (crypto/rand)
	keyFormat, keySalt := c.key("format"), c.key("salt")
	c.Requests.Add(1)
	w, err := c.client.Txn(ctx).
		If(clientv3.Compare(clientv3.CreateRevision(keySalt), "=", 0)).
		Then(clientv3.OpPut(keyFormat, format), clientv3.OpPut(keySalt, hex.EncodeToString(fresh)), clientv3.OpGet(keyFormat), clientv3.OpGet(keySalt)).
		Else(clientv3.OpGet(keyFormat), clientv3.OpGet(keySalt)).
		Commit()
	if err != nil {
		return err
	}
	got := w.Responses[len(w.Responses)-2:]
	values := make([]string, 2)
	for i, r := range got {
		if kvs := r.GetResponseRange().Kvs; len(kvs) > 0 {
			values[i] = string(kvs[0].Value)
		}
	}
	if values[0] != format {
		return fmt.Errorf("the records at prefix %s are of format %q, this lanyard knows format %s; try: a newer lanyard, or another prefix", c.conf.Prefix, values[0], format)
	}
	salt, err := hex.DecodeString(values[1])
	if err != nil || len(salt) != 32 {
		return fmt.Errorf("key %s is not what lanyard wrote", keySalt)
	}
	c.mu.Lock()
	was := c.salt
	c.mu.Unlock()
	if len(was) > 0 && hex.EncodeToString(was) != values[1] {
		return fmt.Errorf("prefix %s is another plan than the one that this host shares; try: the etcd of before, or lanyard store migrate --to local, and then --to this one", c.conf.Prefix)
	}
	if err := joined(salt); err != nil {
		return err
	}
	c.mu.Lock()
	c.salt, c.member = salt, true
	c.mu.Unlock()
	return nil
}

// stay says that this host is alive, and follows which others there are, until etcd cannot be
// asked, which it returns, or ctx ends.
func (c *Cluster) stay(ctx context.Context) error {
	stopping := ctx.Done()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	lease, err := c.register(ctx)
	if err != nil {
		return err
	}
	defer func() {
		// A host that stops on purpose is not alive from then on. Where it is etcd that went away it is not waited for long.
		wait := patience / 4
		select {
		case <-stopping:
			if _, why := c.Up(); why == nil {
				wait = patience
			}
		default:
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wait)
		defer cancel()
		_, _ = c.client.Revoke(ctx, lease) // else it ends by itself
	}()
	kept, err := c.client.KeepAlive(ctx, lease)
	if err != nil {
		return err
	}
	c.life.Add(1)
	c.find()
	followed := make(chan error, 2)
	go func() { followed <- c.followHosts(ctx) }()
	go func() { followed <- c.followNetworks(ctx) }()
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() { c.watchSilence(ctx) })
	for {
		select {
		case _, ok := <-kept:
			if !ok {
				return errors.New("it does not answer any more")
			}
			c.Requests.Add(1)
		case err := <-followed:
			return err
		case <-ctx.Done():
			return nil
		}
	}
}

// register writes this host's records.
func (c *Cluster) register(ctx context.Context) (clientv3.LeaseID, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c.Requests.Add(3)
	lease, err := c.client.Grant(ctx, alive)
	if err != nil {
		return 0, err
	}
	now := time.Now().UTC()
	host := record{Name: c.conf.Name, Version: c.conf.Version, Since: now}
	keyHost := c.key("hosts", c.conf.Host)
	old, err := c.client.Get(ctx, keyHost)
	if err != nil {
		return 0, err
	}
	beats, err := c.client.Get(ctx, c.key("alive", c.conf.Host), clientv3.WithCountOnly())
	if err != nil {
		return 0, err
	}
	if len(old.Kvs) == 0 && c.before {
		c.log.Warn("this host was forgotten by the others: what it had may have been given to them; what is in use here and free is claimed again")
	}
	c.before = true
	for {
		var is record
		was := int64(0)
		if len(old.Kvs) > 0 {
			was = old.Kvs[0].ModRevision
			if err := json.Unmarshal(old.Kvs[0].Value, &is); err != nil {
				return 0, fmt.Errorf("key %s: %w", keyHost, err)
			}
			host.Since, host.Drained = is.Since, is.Drained
			if is.Name != c.conf.Name && beats.Count > 0 {
				return 0, fmt.Errorf("host %s, which is alive, has the state file of this one; try: stop lanyard here, and remove the copy", is.Name)
			}
		}
		c.mu.Lock()
		c.drained = host.Drained
		c.mu.Unlock()
		value, err := json.Marshal(host)
		if err != nil {
			return 0, err
		}
		beat, err := json.Marshal(now)
		if err != nil {
			return 0, err
		}
		c.Requests.Add(1)
		w, err := c.client.Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(keyHost), "=", was)).
			Then(clientv3.OpPut(keyHost, string(value)), clientv3.OpPut(c.key("alive", c.conf.Host), string(beat), clientv3.WithLease(lease.ID)), clientv3.OpDelete(c.key("silent", c.conf.Host))).
			Else(clientv3.OpGet(keyHost)).Commit()
		if err != nil {
			return 0, err
		}
		if w.Succeeded {
			return lease.ID, nil
		}
		old = (*clientv3.GetResponse)(w.Responses[0].GetResponseRange())
	}
}

// probe finds out whether etcd answers again.
func (c *Cluster) probe(ctx context.Context) {
	c.mu.Lock()
	idle := c.down == nil || c.client == nil
	c.mu.Unlock()
	if idle {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	c.Requests.Add(1)
	if _, err := c.client.Get(ctx, c.key("format")); err == nil {
		c.find()
	}
}
