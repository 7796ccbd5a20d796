package store

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// fill writes n endpoints, with which the file has some pages, and one network.
func fill(t *testing.T, dir string, n int) {
	t.Helper()
	db := open(t, dir)
	ops := []Op{PutNetwork(network("n1", time.Now()))}
	for i := range n {
		ops = append(ops, PutEndpoint(&lan.Endpoint{ID: fmt.Sprintf("e%04d", i), NetworkID: "n1", Sandbox: strings.Repeat("x", 100)}))
	}
	if err := db.Write(ops...); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

// aside are the files that were set aside.
func aside(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, File+".damaged-*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// A record that is no JSON any more is left out, and all others are there.
func TestDamagedRecord(t *testing.T) {
	dir := t.TempDir()
	fill(t, dir, 50)
	db := open(t, dir)
	salt := db.Salt()
	if err := db.bolt.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketEndpoints).Put([]byte("e0007"), []byte("{")) }); err != nil {
		t.Fatal(err)
	}
	db.Close()
	db = open(t, dir)
	d := db.Damage()
	if d == nil || !strings.Contains(d.Why, `"e0007" of endpoints`) || len(aside(t, dir)) != 1 || aside(t, dir)[0] != d.Aside {
		t.Fatalf("damage %+v, set aside %v", d, aside(t, dir))
	}
	s, err := db.Load()
	if err != nil || len(s.Networks) != 1 || len(s.Endpoints) != 49 || !bytes.Equal(db.Salt(), salt) {
		t.Errorf("%d networks, %d endpoints, %v", len(s.Networks), len(s.Endpoints), err)
	}
	db.Close()
	if db := open(t, dir); db.Damage() != nil || len(aside(t, dir)) != 1 {
		t.Errorf("the new file is damaged, too: %+v", db.Damage())
	}
}

// Whatever the disk does to the file, it is opened, and what is read of it is true.
func TestDamagedFile(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	good := t.TempDir()
	fill(t, good, 300)
	whole, err := os.ReadFile(filepath.Join(good, File))
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	best, damaged := 0, 0
	for round := range 150 {
		b := bytes.Clone(whole)
		switch what := round % 5; what {
		case 0:
			b = b[:random.IntN(len(b))]
		case 1: // a page of another time
			at := random.IntN(len(b)/page) * page
			copy(b[at:at+page], b[random.IntN(len(b)/page)*page:])
		case 2: // a page of zeros
			at := random.IntN(len(b)/page) * page
			clear(b[at : at+page])
		case 3:
			for range 64 {
				b[random.IntN(len(b))] ^= byte(1 << random.IntN(8))
			}
		case 4:
			for i := range b[:min(len(b), 4*page)] {
				b[i] = byte(random.Uint32())
			}
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, File), b, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := Open(dir)
		if err != nil {
			if bytes.Contains([]byte(err.Error()), []byte("format is version")) {
				continue // the version is what was hit
			}
			t.Fatalf("round %d: %v", round, err)
		}
		s, err := db.Load()
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if db.Damage() != nil {
			damaged++
			best = max(best, len(s.Endpoints))
			if now, err := os.ReadFile(db.Damage().Aside); err != nil || !bytes.Equal(now, b) {
				t.Errorf("round %d: what was set aside is not what there was: %v", round, err)
			}
		}
		if err := db.Write(PutNetwork(network("n2", time.Now()))); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
		if err := db.Close(); err != nil {
			t.Errorf("round %d: %v", round, err)
		}
	}
	if damaged < 50 || best < 100 {
		t.Errorf("%d files were found damaged, of the best one %d endpoints were read", damaged, best)
	}
}

func TestNoStateFile(t *testing.T) {
	for _, b := range []string{"", "not a state file", strings.Repeat("\x00", 65536)} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, File), []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
		db := open(t, dir)
		if want := len(b) > 0; (db.Damage() != nil) != want || (len(aside(t, dir)) == 1) != want {
			t.Errorf("%.20q: damage %+v", b, db.Damage())
		}
	}
}

// Records of before there were all fields of today.
func TestOldRecords(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	err := db.bolt.Update(func(tx *bbolt.Tx) error {
		return errors.Join(
			tx.Bucket(bucketNetworks).Put([]byte("n1"), []byte(`{"id":"n1","kind":"macvlan","mode":"bridge","parent":{"name":"eth1"},"ipv4":[{"pool":"192.168.0.0/16"}],"created":"2026-11-01T00:00:00Z","key":"eth1"}`)),
			tx.Bucket(bucketEndpoints).Put([]byte("e1"), []byte(`{"id":"e1","network_id":"n1","mac":"02:00:00:00:00:01","ipv4":"192.168.0.2/16","sandbox":"/run/x","created":"2026-11-01T00:00:00Z"}`)))
	})
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	db = open(t, dir)
	s, err := db.Load()
	if err != nil || db.Damage() != nil || len(s.Networks) != 1 || len(s.Endpoints) != 1 || s.Endpoints[0].IPv4 != netip.MustParsePrefix("192.168.0.2/16") {
		t.Errorf("%+v, %v, %+v", s, err, db.Damage())
	}
}

// A full disk refuses what comes, loses nothing of what was, and is got over.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("no small disk: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	db := open(t, dir)
	big := func(i int) Op {
		return PutEndpoint(&lan.Endpoint{ID: fmt.Sprintf("e%04d", i), NetworkID: "n1", Sandbox: strings.Repeat("x", 4000)})
	}
	n := 0
	var err error
	for ; n < 1000; n++ {
		if err = db.Write(big(n)); err != nil {
			break
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("after %d records: %v", n, err)
	}
	s, err := db.Load()
	if err != nil || len(s.Endpoints) != n {
		t.Fatalf("%d records, want %d: %v", len(s.Endpoints), n, err)
	}
	if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT, "size=8m"); err != nil {
		t.Fatal(err)
	}
	if err := db.Write(big(n)); err != nil {
		t.Errorf("with room again: %v", err)
	}
	db.Close()
	db = open(t, dir)
	if s, err := db.Load(); err != nil || len(s.Endpoints) != n+1 || db.Damage() != nil {
		t.Errorf("%d records, want %d: %v, %+v", len(s.Endpoints), n+1, err, db.Damage())
	}
}
