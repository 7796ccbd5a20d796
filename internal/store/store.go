// Package store keeps networks, endpoints, pools, addresses and leases on disk, in one bbolt
// file.
//
// Changes reach the disk in the order in which they are asked for. Those that come
// at the same time share one transaction, and so one pair of fsyncs.
package store

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// version is the format of the records. A file of a newer one is refused.
const version = 1

// File is the name of the state file in its folder.
const File = "lanyard.db"

var (
	bucketMeta      = []byte("meta")
	bucketNetworks  = []byte("networks")
	bucketEndpoints = []byte("endpoints")
	bucketPools     = []byte("pools")
	bucketAddresses = []byte("addresses")
	bucketLeases    = []byte("leases")

	keyVersion = []byte("version")
	keySalt    = []byte("salt")
)

const saltLen = 16

// ErrLocked comes when another process has the file open.
var ErrLocked = errors.New("state file is in use by another process")

// DB is the open state file. Its methods may be called at the same time.
type DB struct {
	// FailPoint, for tests, is called where a crash makes a difference: see
	// FailPoints. Set it before the first write; nil calls nothing.
	FailPoint func(point string)

	bolt   *bbolt.DB
	writes *prometheus.HistogramVec
	salt   []byte
	damage *Damage

	mu      sync.Mutex // guards what follows
	waiting []*write
	busy    bool // a goroutine is committing
	idle    sync.Cond
	coming  int           // writes that Expect announced
	none    chan struct{} // closed when there are none any more; nil if nobody waits
}

type write struct {
	ops  []Op
	done chan error
}

// Op is one change. Use the functions below to make one.
type Op struct {
	bucket []byte
	key    string
	record any    // nil deletes
	json   []byte // of the record
}

// PutNetwork writes a network's record.
func PutNetwork(n *Network) Op { return Op{bucket: bucketNetworks, key: n.ID, record: n} }

// DeleteNetwork removes a network's record.
func DeleteNetwork(id string) Op { return Op{bucket: bucketNetworks, key: id} }

// PutEndpoint writes an endpoint's record.
func PutEndpoint(e *lan.Endpoint) Op { return Op{bucket: bucketEndpoints, key: e.ID, record: e} }

// DeleteEndpoint removes an endpoint's record.
func DeleteEndpoint(id string) Op { return Op{bucket: bucketEndpoints, key: id} }

// PutPool writes a pool's record.
func PutPool(p *Pool) Op { return Op{bucket: bucketPools, key: p.ID, record: p} }

// DeletePool removes a pool's record.
func DeletePool(id string) Op { return Op{bucket: bucketPools, key: id} }

// PutAddress writes an address's record.
func PutAddress(a *Address) Op {
	return Op{bucket: bucketAddresses, key: addressKey(a.Space, a.Addr), record: a}
}

// DeleteAddress removes an address's record.
func DeleteAddress(space string, addr netip.Addr) Op {
	return Op{bucket: bucketAddresses, key: addressKey(space, addr)}
}

// PutCluster writes which cluster this host is in.
func PutCluster(c *Cluster) Op { return Op{bucket: bucketMeta, key: "cluster", record: c} }

// DeleteCluster says that this host is in no cluster.
func DeleteCluster() Op { return Op{bucket: bucketMeta, key: "cluster"} }

// Cluster is the record of the cluster that this host is in.
type Cluster struct {
	// Salt is what the hosts of the cluster have alike.
	Salt []byte `json:"salt"`
}

// Cluster is which cluster this host is in; nil: it was in none.
func (db *DB) Cluster() (*Cluster, error) {
	var c *Cluster
	err := db.bolt.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketMeta).Get([]byte("cluster"))
		if v == nil {
			return nil
		}
		c = new(Cluster)
		return json.Unmarshal(v, c)
	})
	if err != nil {
		return nil, fmt.Errorf("read state: cluster: %w", err)
	}
	return c, nil
}

// PutLease writes a lease's record.
func PutLease(l *Lease) Op { return Op{bucket: bucketLeases, key: l.ID, record: l} }

// DeleteLease removes a lease's record.
func DeleteLease(id string) Op { return Op{bucket: bucketLeases, key: id} }

func addressKey(space string, addr netip.Addr) string {
	return space + "\x00" + string(addr.AsSlice())
}

// Pool is the record of a pool: a subnet, or a part of one, that a network's
// containers get addresses from.
type Pool struct {
	ID string `json:"id"`
	// Space is the allocation domain: the key of the wire (link.Parent.Key), or a
	// name of the pool's own while no network is known to use it.
	Space  string       `json:"space"`
	Subnet netip.Prefix `json:"subnet"`
	Range  netip.Prefix `json:"range,omitzero"`
	// Parent is --ipam-opt parent=.
	Parent   string   `json:"parent,omitempty"`
	Networks []string `json:"networks,omitempty"`
	// Refs is how many times Docker asked for the pool and did not release it;
	// 0 for the pool of a network whose subnets are options.
	Refs    int          `json:"refs,omitempty"`
	Gateway netip.Addr   `json:"gateway,omitzero"`
	Aux     []netip.Addr `json:"aux,omitempty"`
	Policy  lan.Policy   `json:"policy"`
	// LeaseAhead is --ipam-opt lease_ahead=; the policy's goes before it.
	LeaseAhead int `json:"lease_ahead,omitempty"`
	// Source says who chooses the addresses.
	Source  lan.Source `json:"source,omitempty"`
	Created time.Time  `json:"created"`
}

// AddressState is what an address is.
type AddressState string

// The states of an address.
const (
	// Taken is an address that Docker has for an endpoint.
	Taken AddressState = "taken"
	// Idle is an address that was somebody's.
	Idle AddressState = "idle"
	// Reserved is an address that an operator has set aside.
	Reserved AddressState = "reserved"
	// Held is an address that is claimed ahead among the hosts that share it, and nobody's.
	Held AddressState = "held"
)

// Address is the record of an address that is, or was, somebody's.
type Address struct {
	Space string       `json:"space"`
	Addr  netip.Addr   `json:"addr"`
	State AddressState `json:"state"`
	Pool  string       `json:"pool,omitempty"`
	// Owner is who gets the address again, "" for nobody: see package ipam.
	Owner string `json:"owner,omitempty"`
	// Name is the container's name, where it is known.
	Name string `json:"name,omitempty"`
	// Source is why it is this address.
	Source string `json:"source,omitempty"`
	Note   string `json:"note,omitempty"`
	// Since is when the state began.
	Since time.Time `json:"since"`
	// Reservation is what a taken address is again when it is given back.
	Reservation *Address `json:"reservation,omitempty"`
}

// LeaseState is what a lease is.
type LeaseState string

// The states of a lease.
const (
	// LeaseBound is a lease whose address Docker has for an endpoint.
	LeaseBound LeaseState = "bound"
	// LeaseIdle is a lease whose container has ended.
	LeaseIdle LeaseState = "idle"
	// LeaseLost is a lease that ended while its container runs: a new one is asked for.
	LeaseLost LeaseState = "lost"
	// LeasePast is a lease that was given back or has ended, kept to ask for its address
	// again.
	LeasePast LeaseState = "past"
)

// Lease is the record of a DHCP lease, and of who it is for.
type Lease struct {
	ID    string `json:"id"`
	Space string `json:"space"`
	Pool  string `json:"pool"`
	// Network is the ID of the network that had it last.
	Network string     `json:"network"`
	State   LeaseState `json:"state"`
	V6      bool       `json:"v6,omitempty"`
	// Owner is who gets the lease again, "" where that is not certain: see package ipam.
	Owner string `json:"owner,omitempty"`
	// Name is the container's name, where it is known.
	Name string `json:"name,omitempty"`
	// What the server knows the container by.
	MAC         string   `json:"mac"`
	ClientID    []byte   `json:"client_id,omitempty"`
	DUID        []byte   `json:"duid,omitempty"`
	IAID        uint32   `json:"iaid,omitempty"`
	Hostname    string   `json:"hostname,omitempty"`
	FQDN        string   `json:"fqdn,omitempty"`
	VendorClass string   `json:"vendor_class,omitempty"`
	UserClass   []string `json:"user_class,omitempty"`
	// Lease is what was granted last.
	Lease lan.Lease `json:"lease"`
	// Fallback says that no server granted it: the address is of dhcp_fallback.
	Fallback bool `json:"fallback,omitempty"`
	// Granted is when it was granted, by the clock on the wall, and Boot and At the same
	// by a clock that nobody sets: the boot (/proc/sys/kernel/random/boot_id) and the
	// time since then (CLOCK_BOOTTIME).
	Granted time.Time     `json:"granted"`
	Boot    string        `json:"boot"`
	At      time.Duration `json:"at"`
	// Default says that the container's default route led through the lease's gateway
	// when the lease was lost.
	Default bool `json:"default,omitempty"`
	// Since is when the state began.
	Since time.Time `json:"since"`
}

// Network is the record of a network.
type Network struct {
	lan.Network
	// Making is set from before the first kernel object is made for the
	// network until it stands: a crash in between leaves it to be undone.
	Making bool `json:"making,omitempty"`
	// Key is the wire that the parent was when last seen (link.Parent.Key).
	Key string `json:"key"`
}

// State is all that the file holds, each list but the addresses oldest first.
type State struct {
	Networks  []*Network
	Endpoints []*lan.Endpoint
	Pools     []*Pool
	Addresses []*Address
	Leases    []*Lease
}

// Open opens the state file in a folder, and makes both where they are missing,
// readable by their owner alone. It waits up to a second for another process to
// let the file go, then returns ErrLocked. A file that cannot be read as a whole is set
// aside, and a new one made of what can be read: see Damage.
func Open(dir string) (*DB, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state folder: %w", err)
	}
	path := filepath.Join(dir, File)
	damage, err := setAside(path)
	if errors.Is(err, ErrLocked) {
		return nil, fmt.Errorf("%s: %w; another lanyard daemon runs with this folder", path, ErrLocked)
	}
	if err != nil {
		return nil, fmt.Errorf("state file %s: %w", path, err)
	}
	bolt, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%s: %w; another lanyard daemon runs with this folder", path, ErrLocked)
	}
	if err != nil {
		return nil, fmt.Errorf("state file %s: %w", path, err)
	}
	db := &DB{bolt: bolt, damage: damage, writes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "lanyard_state_write_duration_seconds",
		Help:    "How long transactions of the state file took until they were on disk, by result: ok or failed. Changes that come at the same time share one.",
		Buckets: []float64{.0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5},
	}, []string{"result"})}
	db.idle.L = &db.mu
	if err := db.init(); err != nil {
		return nil, errors.Join(fmt.Errorf("state file %s: %w", path, err), bolt.Close())
	}
	return db, nil
}

func (db *DB) init() error {
	return db.bolt.Update(func(tx *bbolt.Tx) error {
		for _, name := range buckets {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bucketMeta)
		switch v := meta.Get(keyVersion); {
		case v == nil:
			if err := meta.Put(keyVersion, []byte(strconv.Itoa(version))); err != nil {
				return err
			}
		case string(v) != strconv.Itoa(version):
			return fmt.Errorf("its format is version %s, this lanyard knows version %d; try: a newer lanyard", v, version)
		}
		if v := meta.Get(keySalt); len(v) == saltLen {
			db.salt = append([]byte(nil), v...)
			return nil
		}
		db.salt = make([]byte, saltLen)
		rand.Read(db.salt) // never fails (crypto/rand)
		return meta.Put(keySalt, db.salt)
	})
}

// Damage is what Open found of a file that it set aside; nil: it did not.
func (db *DB) Damage() *Damage { return db.damage }

// Metrics are the figures of what was written since Open.
func (db *DB) Metrics() prometheus.Collector { return db.writes }

// Salt is 16 random bytes that this file got when it was made. Read only.
func (db *DB) Salt() []byte { return db.salt }

// Close waits until all changes that were asked for are on disk, and closes the file.
func (db *DB) Close() error {
	db.mu.Lock()
	for db.busy {
		db.idle.Wait()
	}
	db.mu.Unlock()
	return db.bolt.Close()
}

// Load reads everything.
func (db *DB) Load() (State, error) {
	var s State
	err := db.bolt.View(func(tx *bbolt.Tx) error {
		return errors.Join(
			load(tx, bucketNetworks, "network", &s.Networks), load(tx, bucketEndpoints, "endpoint", &s.Endpoints),
			load(tx, bucketPools, "pool", &s.Pools), load(tx, bucketAddresses, "address", &s.Addresses),
			load(tx, bucketLeases, "lease", &s.Leases),
		)
	})
	if err != nil {
		return State{}, fmt.Errorf("read state: %w", err)
	}
	sort.SliceStable(s.Networks, func(i, j int) bool { return s.Networks[i].Created.Before(s.Networks[j].Created) })
	sort.SliceStable(s.Endpoints, func(i, j int) bool { return s.Endpoints[i].Created.Before(s.Endpoints[j].Created) })
	sort.SliceStable(s.Pools, func(i, j int) bool { return s.Pools[i].Created.Before(s.Pools[j].Created) })
	return s, nil
}

// load reads a bucket's records.
func load[T any](tx *bbolt.Tx, bucket []byte, what string, into *[]*T) error {
	return tx.Bucket(bucket).ForEach(func(k, v []byte) error {
		record := new(T)
		if err := json.Unmarshal(v, record); err != nil {
			return fmt.Errorf("%s %s: %w", what, strings.ToValidUTF8(string(k), "?"), err)
		}
		*into = append(*into, record)
		return nil
	})
}

// Address reads the record of an address, nil if there is none. It sees what Write
// has returned for.
func (db *DB) Address(space string, addr netip.Addr) (*Address, error) {
	var a *Address
	err := db.bolt.View(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketAddresses).Get([]byte(addressKey(space, addr)))
		if v == nil {
			return nil
		}
		a = new(Address)
		return json.Unmarshal(v, a)
	})
	if err != nil {
		return nil, fmt.Errorf("read state: address %s: %w", addr, err)
	}
	return a, nil
}

// Addresses reads the records of all addresses of a space, in their order.
func (db *DB) Addresses(space string) ([]*Address, error) {
	var list []*Address
	prefix := []byte(space + "\x00")
	err := db.bolt.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket(bucketAddresses).Cursor()
		for k, v := c.Seek(prefix); bytes.HasPrefix(k, prefix); k, v = c.Next() {
			a := new(Address)
			if err := json.Unmarshal(v, a); err != nil {
				return fmt.Errorf("address %q: %w", k, err)
			}
			list = append(list, a)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	return list, nil
}

// Write makes the changes, all or none, and returns when they are on disk.
func (db *DB) Write(ops ...Op) error { return <-db.Begin(ops...) }

// Begin is Write that does not wait: what Write would return comes on the channel,
// which need not be received from. The records are read before Begin returns.
func (db *DB) Begin(ops ...Op) (written <-chan error) {
	w := &write{ops: ops, done: make(chan error, 1)}
	for i := range ops {
		if ops[i].record == nil {
			continue
		}
		var err error
		if ops[i].json, err = json.Marshal(ops[i].record); err != nil {
			w.done <- fmt.Errorf("write state: %s %s: %w", ops[i].bucket, ops[i].key, err)
			return w.done
		}
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	db.waiting = append(db.waiting, w)
	if !db.busy {
		db.busy = true
		go db.drain()
	}
	return w.done
}

// Expect announces a write that comes in a moment: a commit that is about to begin
// takes it along. Call come when the write has begun, or when it will not be in a
// moment after all; again does nothing.
func (db *DB) Expect() (come func()) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.coming++
	return sync.OnceFunc(func() {
		db.mu.Lock()
		defer db.mu.Unlock()
		db.coming--
		if db.coming == 0 && db.none != nil {
			close(db.none)
			db.none = nil
		}
	})
}

// gatherFor bounds what a commit waits for writes that are about to come.
const gatherFor = time.Millisecond

// gather waits for the writes that were announced, and lets those run that would
// announce one now, for as long as that brings any.
func (db *DB) gather() {
	var end <-chan time.Time
	for last := -1; ; {
		runtime.Gosched()
		db.mu.Lock()
		n, coming := len(db.waiting), db.coming
		if coming == 0 && n == last {
			db.mu.Unlock()
			return
		}
		last = n
		if coming == 0 {
			db.mu.Unlock()
			continue
		}
		none := make(chan struct{})
		db.none = none
		db.mu.Unlock()
		if end == nil {
			end = time.After(gatherFor)
		}
		select {
		case <-none:
		case <-end:
			return
		}
	}
}

// FailPoints are the points of a commit at which a crash makes a difference: nothing is
// done, all is in the transaction, it is on disk and nobody knows, some know.
func FailPoints() []string { return []string{"begun", "applied", "committed", "half told"} }

func (db *DB) reach(point string) {
	if db.FailPoint != nil {
		db.FailPoint(point)
	}
}

// drain commits what waits until nothing does: one transaction takes all that
// came while the one before it was on its way to the disk.
func (db *DB) drain() {
	for {
		db.gather()
		db.mu.Lock()
		batch := db.waiting
		db.waiting = nil
		if len(batch) == 0 {
			db.busy = false
			db.idle.Broadcast()
			db.mu.Unlock()
			return
		}
		db.mu.Unlock()
		db.reach("begun")
		err := db.commit(batch)
		db.reach("committed")
		for i, w := range batch {
			if i == len(batch)/2 {
				db.reach("half told")
			}
			w.done <- err
		}
	}
}

func (db *DB) commit(batch []*write) error {
	start := time.Now()
	err := db.bolt.Update(func(tx *bbolt.Tx) error {
		for _, w := range batch {
			for _, op := range w.ops {
				if err := op.apply(tx); err != nil {
					return fmt.Errorf("%s %s: %w", op.bucket, op.key, err)
				}
			}
		}
		db.reach("applied")
		return nil
	})
	result := "ok"
	if err != nil {
		result = "failed"
	}
	db.writes.WithLabelValues(result).Observe(time.Since(start).Seconds())
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return nil
}

func (op Op) apply(tx *bbolt.Tx) error {
	b := tx.Bucket(op.bucket)
	if op.record == nil {
		return b.Delete([]byte(op.key))
	}
	return b.Put([]byte(op.key), op.json)
}
