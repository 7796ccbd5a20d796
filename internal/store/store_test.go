package store

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"go.etcd.io/bbolt"

	"github.com/lanyard-net/lanyard/internal/lan"
)

func open(t *testing.T, dir string) *DB {
	t.Helper()
	db, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func network(id string, created time.Time) *Network {
	return &Network{
		Network: lan.Network{
			ID: id, Kind: lan.Ipvlan, Mode: lan.ModeL3S, Flag: lan.FlagVepa,
			Parent:   lan.ParentSpec{Name: "eth1", VLAN: []uint16{200, 100}, Proto: lan.Dot1AD},
			Internal: true, MTU: 1400, IfName: "lan0", Gateway: lan.GatewayNone, Created: created,
			IPv4: []lan.Subnet{{Pool: netip.MustParsePrefix("192.168.0.0/16"), Gateway: netip.MustParseAddr("192.168.0.1")}},
			IPv6: []lan.Subnet{{Pool: netip.MustParsePrefix("fd00::/64")}},
		},
		Key: "eth1|802.1ad:200|802.1Q:100",
	}
}

var compare = []cmp.Option{cmpopts.EquateComparable(netip.Prefix{}, netip.Addr{}), cmpopts.EquateEmpty()}

func TestRecordsComeBackAsWritten(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	now := time.Now().UTC().Truncate(time.Second)
	n2, n1 := network("n2", now.Add(time.Second)), network("n1", now)
	e := &lan.Endpoint{
		ID: "e1", NetworkID: "n1", MAC: "02:00:00:00:00:01", IPv4: netip.MustParsePrefix("192.168.11.2/16"),
		IPv6: netip.MustParsePrefix("fd00::2/64"), IfName: "lan7", Sandbox: "/run/docker/netns/x", Created: now,
	}
	pool := &Pool{
		ID: "p1", Space: "eth1", Subnet: netip.MustParsePrefix("192.168.0.0/16"), Range: netip.MustParsePrefix("192.168.11.0/24"), Networks: []string{"n1"},
		Refs: 1, Gateway: netip.MustParseAddr("192.168.0.1"), Aux: []netip.Addr{netip.MustParseAddr("192.168.11.9")},
		Policy: lan.Policy{NoACD: true}, Created: now,
	}
	a := &Address{Space: "eth1", Addr: netip.MustParseAddr("192.168.11.2"), State: Taken, Pool: "p1", Owner: "name web", Name: "web", Since: now}
	other := &Address{Space: "eth1|802.1Q:100", Addr: a.Addr, State: Idle, Since: now}
	gone := &Address{Space: "eth1", Addr: netip.MustParseAddr("fd00::1"), State: Reserved}
	if err := db.Write(PutNetwork(n2), PutNetwork(n1), PutEndpoint(e), PutEndpoint(&lan.Endpoint{ID: "gone"}),
		PutPool(pool), PutPool(&Pool{ID: "gone"}), PutAddress(a), PutAddress(other), PutAddress(gone)); err != nil {
		t.Fatal(err)
	}
	if err := db.Write(DeleteEndpoint("gone"), DeleteNetwork("never"), DeletePool("gone"), DeleteAddress(gone.Space, gone.Addr)); err != nil {
		t.Fatal(err)
	}
	salt := bytes.Clone(db.Salt())
	db.Close()

	db = open(t, dir)
	got, err := db.Load()
	if err != nil {
		t.Fatal(err)
	}
	want := State{Networks: []*Network{n1, n2}, Endpoints: []*lan.Endpoint{e}, Pools: []*Pool{pool}, Addresses: []*Address{a, other}}
	if d := cmp.Diff(want, got, compare...); d != "" {
		t.Errorf("after opening again (-want +got):\n%s", d)
	}
	if one, err := db.Address("eth1", a.Addr); err != nil || cmp.Diff(a, one, compare...) != "" {
		t.Errorf("address: %+v, %v; want %+v", one, err, a)
	}
	if none, err := db.Address("eth1", gone.Addr); err != nil || none != nil {
		t.Errorf("address that was deleted: %+v, %v", none, err)
	}
	if list, err := db.Addresses("eth1"); err != nil || cmp.Diff([]*Address{a}, list, compare...) != "" {
		t.Errorf("addresses of a wire whose name begins another's: %+v, %v", list, err)
	}
	if !bytes.Equal(salt, db.Salt()) || len(salt) != 16 {
		t.Errorf("salt was %x, is %x", salt, db.Salt())
	}
}

func TestOnlyOneProcess(t *testing.T) {
	dir := t.TempDir()
	open(t, dir)
	_, err := Open(dir)
	if !errors.Is(err, ErrLocked) {
		t.Fatalf("second open: %v, want ErrLocked", err)
	}
}

func TestPrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	open(t, dir)
	for path, want := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, File): 0o600} {
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", path, st.Mode().Perm(), want)
		}
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	if err := db.bolt.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketMeta).Put(keyVersion, []byte("99")) }); err != nil {
		t.Fatal(err)
	}
	db.Close()
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "version 99") {
		t.Fatalf("open of a newer file: %v", err)
	}
}

// Many writers at once: each one's records are there when its Write returns.
func TestWritersAtOnce(t *testing.T) {
	db := open(t, t.TempDir())
	const writers = 64
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			id := fmt.Sprintf("e%d", i)
			if err := db.Write(PutEndpoint(&lan.Endpoint{ID: id})); err != nil {
				t.Error(err)
				return
			}
			if err := db.bolt.View(func(tx *bbolt.Tx) error {
				if tx.Bucket(bucketEndpoints).Get([]byte(id)) == nil {
					t.Errorf("%s is not there after Write", id)
				}
				return nil
			}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	s, err := db.Load()
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Endpoints) != writers {
		t.Errorf("%d endpoints, want %d", len(s.Endpoints), writers)
	}
}

// What was begun is on disk after Close, in the order in which it was begun.
func TestBegin(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	for i := range 100 {
		db.Begin(PutEndpoint(&lan.Endpoint{ID: "e", NetworkID: fmt.Sprint(i)}))
	}
	db.Begin(PutEndpoint(&lan.Endpoint{ID: "gone"}))
	db.Begin(DeleteEndpoint("gone"))
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s, err := open(t, dir).Load()
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Endpoints) != 1 || s.Endpoints[0].NetworkID != "99" {
		t.Errorf("endpoints %+v", s.Endpoints)
	}
	if err := <-db.Begin(DeleteEndpoint("e")); err == nil {
		t.Error("a closed file takes changes")
	}
}

func BenchmarkWrite(b *testing.B) {
	db, err := Open(b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := db.Write(PutEndpoint(&lan.Endpoint{ID: "e"})); err != nil {
				b.Error(err)
			}
		}
	})
}
