package store

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// Damage is what Open found of a state file that cannot be read as a whole.
type Damage struct {
	// Aside is where the file is now.
	Aside string
	// Why says what is wrong with it.
	Why string
	// Kept is the number of records that were read from it, and are in the new file.
	Kept int
}

// raw is a record as it is in a file.
type raw struct{ bucket, key, value []byte }

// keyIn are the keys under which buckets keep their records, by a record.
var keyIn = map[string]func(record []byte) (key string, err error){
	string(bucketNetworks):  keyOf(func(n *Network) string { return n.ID }),
	string(bucketEndpoints): keyOf(func(e *lan.Endpoint) string { return e.ID }),
	string(bucketPools):     keyOf(func(p *Pool) string { return p.ID }),
	string(bucketAddresses): keyOf(func(a *Address) string { return addressKey(a.Space, a.Addr) }),
	string(bucketLeases):    keyOf(func(l *Lease) string { return l.ID }),
}

func keyOf[T any](of func(*T) string) func([]byte) (string, error) {
	return func(record []byte) (string, error) {
		r := new(T)
		err := json.Unmarshal(record, r)
		return of(r), err
	}
}

// buckets are all buckets, in the order in which they are made.
var buckets = [][]byte{bucketMeta, bucketNetworks, bucketEndpoints, bucketPools, bucketAddresses, bucketLeases}

// setAside looks whether a state file can be read as a whole, and if not renames it, and
// makes a new one of what can be read. It returns nil where all is well, or there is no file.
// It is safe to call again after a crash. It waits up to a second for a process that has the
// file open, then returns ErrLocked.
func setAside(path string) (_ *Damage, err error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil //nolint:nilnil // there is no file, and no damage
	}
	if err != nil {
		return nil, err
	}
	defer f.Close() // which lets others in
	if err := lock(f); err != nil {
		return nil, err
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return nil, err
	}
	if len(b) == 0 {
		return nil, nil //nolint:nilnil // bbolt takes it for a new one
	}
	records, why := readAll(b)
	if why == nil {
		return nil, nil //nolint:nilnil // there is no damage
	}
	d := &Damage{Aside: path + ".damaged-" + time.Now().UTC().Format("20060102T150405.000"), Why: why.Error(), Kept: len(records)}
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	if err := writeAll(fresh, records); err != nil {
		return nil, fmt.Errorf("it is damaged, and a new file of what can be read cannot be made: %w", err)
	}
	// The damaged one has a second name before the new one takes the first.
	if err := os.Link(path, d.Aside); err != nil {
		return nil, err
	}
	if err := os.Rename(fresh, path); err != nil {
		return nil, err
	}
	return d, syncDir(filepath.Dir(path))
}

// lock waits until no other process has the file open to write.
func lock(f *os.File) error {
	for end := time.Now().Add(time.Second); ; time.Sleep(20 * time.Millisecond) {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		if time.Now().After(end) {
			return ErrLocked
		}
	}
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// maxReasons is how much of what is wrong with a file is told.
const maxReasons = 5

// readAll reads the records of a state file: all, or those that can be read and an error
// that is errDamaged.
func readAll(b []byte) (records []raw, err error) {
	p, err := openPages(b)
	if err != nil {
		return nil, err
	}
	var errs []error
	found := map[string][]byte{}
	errs = append(errs, p.walk(p.root, nil, nil, 0, func(e entry) error {
		if !e.bucket {
			return damaged("%.64q is no bucket", e.key)
		}
		found[string(e.key)] = e.value
		return nil
	}))
	for _, name := range buckets {
		value, ok := found[string(name)]
		if !ok {
			errs = append(errs, damaged("bucket %s is missing", name))
			continue
		}
		delete(found, string(name))
		errs = append(errs, p.bucket(value, func(e entry) error {
			if err := checkRecord(name, e); err != nil {
				return err
			}
			records = append(records, raw{name, bytes.Clone(e.key), bytes.Clone(e.value)})
			return nil
		}))
	}
	for _, value := range found { // of a newer version, which is refused later
		errs = append(errs, p.bucket(value, func(entry) error { return nil }))
	}
	return records, few(errors.Join(errs...))
}

func checkRecord(bucket []byte, e entry) error {
	if e.bucket {
		return damaged("%.64q of %s is no record", e.key, bucket)
	}
	of := keyIn[string(bucket)]
	if of == nil {
		return nil
	}
	key, err := of(e.value)
	if err == nil && key != string(e.key) {
		err = errors.New("it is another's")
	}
	if err != nil {
		return damaged("record %.64q of %s: %w", e.key, bucket, err)
	}
	return nil
}

// few is an error that says the first of many reasons.
func few(err error) error {
	if err == nil {
		return nil
	}
	if lines := strings.Split(err.Error(), "\n"); len(lines) > maxReasons {
		return damaged("%s, and %d more", strings.Join(lines[:maxReasons], "; "), len(lines)-maxReasons)
	}
	return err
}

// writeAll makes a file of records.
func writeAll(path string, records []raw) (err error) {
	bolt, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second, FreelistType: bbolt.FreelistMapType, NoFreelistSync: true})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bolt.Close()) }()
	return bolt.Update(func(tx *bbolt.Tx) error {
		for _, r := range records {
			b, err := tx.CreateBucketIfNotExists(r.bucket)
			if err == nil {
				err = b.Put(r.key, r.value)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}
