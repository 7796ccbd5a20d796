package serve

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

func get(socket string) (string, error) {
	c := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
	}}
	r, err := c.Get("http://x/")
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	return string(b), err
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "folder", "l.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket has mode %v, %v", info.Mode(), err)
	}
	if _, err := Listen(path); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("second listener on it: %v", err)
	}
	// A process that is killed leaves the file.
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	l.Close()
	if l, err = Listen(path); err != nil {
		t.Fatalf("over a stale socket: %v", err)
	}
	l.Close()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after close the file is still there: %v", err)
	}
}

func TestListenRefuses(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		file:                     "there is a file that is no socket; move it away",
		filepath.Join(file, "s"): "not a directory",
		filepath.Join(dir, strings.Repeat("a", 120)): "the kernel takes 107",
	} {
		if _, err := Listen(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", path, err, want)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file is now %q, %v", b, err)
	}
}

// A request that has come is answered although we are to stop.
func TestStopAnswersFirst(t *testing.T) {
	path := filepath.Join(t.TempDir(), "l.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	h := &HTTP{Name: "test", Listener: l, Log: quiet, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cancel()
		time.Sleep(50 * time.Millisecond)
		io.WriteString(w, "done")
	})}
	end := make(chan error, 1)
	go func() { end <- h.Run(ctx) }()
	if got, err := get(path); got != "done" || err != nil {
		t.Errorf("answer %q, %v", got, err)
	}
	if err := <-end; err != nil {
		t.Errorf("Run: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the end the socket is still there: %v", err)
	}
}

func TestRunFailsWithItsListener(t *testing.T) {
	l, err := Listen(filepath.Join(t.TempDir(), "l.sock"))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	err = (&HTTP{Name: "test", Listener: l, Handler: http.NotFoundHandler(), Log: quiet}).Run(t.Context())
	if err == nil || !strings.HasPrefix(err.Error(), "test: ") {
		t.Errorf("Run: %v", err)
	}
}
