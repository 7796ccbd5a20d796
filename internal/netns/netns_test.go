package netns

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

func TestNewIsEmptyAndApart(t *testing.T) {
	ns, err := New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var inside []net.Interface
	if err := ns.Do(func() error {
		var err error
		inside, err = net.Interfaces()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	for _, i := range inside {
		if i.Flags&net.FlagUp != 0 {
			t.Errorf("new namespace has %s up", i.Name)
		}
	}
	// The caller's thread is where it was: both descriptors name one file.
	here, err := Current()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	if sameFile(t, here, ns) {
		t.Error("the caller was moved into the new namespace")
	}
}

func TestAlive(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		"/proc/self/ns/net": true,
		plain:               false,
		"/no/such/path":     false,
		"":                  false,
		"proc/self/ns/net":  false,
	} {
		if got := Alive(path); got != want {
			t.Errorf("Alive(%q) = %v, want %v", path, got, want)
		}
	}
	if _, err := Open(plain); err == nil {
		t.Error("Open took a plain file for a namespace")
	}
}

func sameFile(t *testing.T, a, b *NS) bool {
	t.Helper()
	x, err := a.f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	y, err := b.f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return os.SameFile(x, y)
}
