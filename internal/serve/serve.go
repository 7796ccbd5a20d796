// Package serve puts an http.Handler on a unix socket: one of our own, or one
// that systemd hands over.
package serve

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"golang.org/x/sys/unix"
)

// ErrInUse comes when something answers on the socket that was asked for.
var ErrInUse = errors.New("something answers on it already")

// maxPath is the longest path that a unix socket can be bound to
// (sizeof(sun_path) less the closing zero).
const maxPath = 107

// Inherited are the sockets that systemd hands over, by FileDescriptorName.
// Only the given names may come, each once. The environment by which systemd
// announces them is taken away, so a second call finds none.
func Inherited(names ...string) (map[string]net.Listener, error) {
	out := map[string]net.Listener{}
	for _, f := range activation.Files(true) {
		l, err := net.FileListener(f)
		f.Close()
		switch {
		case err != nil:
			return nil, fmt.Errorf("socket %q from systemd: %w", f.Name(), err)
		case out[f.Name()] != nil:
			return nil, fmt.Errorf("socket %q from systemd: came twice", f.Name())
		}
		known := false
		for _, name := range names {
			known = known || name == f.Name()
		}
		if !known {
			return nil, fmt.Errorf("socket %q from systemd: the name is not known; try: FileDescriptorName=%s", f.Name(), names[0])
		}
		out[f.Name()] = l
	}
	return out, nil
}

// Listen binds a socket that only its owner may open, and makes its folder
// where that is missing. A socket that a dead process left behind is replaced;
// for one on which something answers it returns ErrInUse. The file goes when
// the listener is closed.
//
// It changes the process's umask for a moment: call it while nobody else makes
// files.
func Listen(path string) (net.Listener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("socket %s: the path has %d characters, the kernel takes %d", path, len(path), maxPath)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	if err := removeStale(path); err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	old := unix.Umask(0o177)
	l, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("socket %s: %w", path, err)
	}
	return l, nil
}

// removeStale removes a socket file on which nobody listens.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket == 0 {
		return errors.New("there is a file that is no socket; move it away")
	}
	c, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		c.Close()
		return ErrInUse
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(path)
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case errors.Is(err, syscall.EAGAIN): // its queue is full
		return ErrInUse
	}
	return err
}

// HTTP serves one handler on one socket. All fields but Idle are required.
type HTTP struct {
	Name     string
	Listener net.Listener
	Handler  http.Handler
	Log      *slog.Logger
	// Idle is how long a connection may be idle; 0: for ever, as Docker wants it. Docker keeps its connection,
	// and a request that it sends while we close the idle end is lost and comes again without a body.
	Idle time.Duration
}

// String is the name, for logs.
func (h *HTTP) String() string { return h.Name }

// grace is how long a request may still take once we are to stop.
const grace = 10 * time.Second

// Run serves until ctx ends, then answers the requests that have come and
// returns nil. It closes the listener. It may be called once.
func (h *HTTP) Run(ctx context.Context) error {
	server := &http.Server{
		Handler:           h.Handler,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       cmp.Or(h.Idle, -1),
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(h.Log.Handler(), slog.LevelWarn),
	}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		err := server.Shutdown(last)
		if err != nil {
			err = errors.Join(err, server.Close())
		}
		stopped <- err
	})
	err := server.Serve(h.Listener)
	if stop() { // ctx has not ended: the listener failed
		return fmt.Errorf("%s: %w", h.Name, err)
	}
	if err := <-stopped; err != nil {
		return fmt.Errorf("%s: stop: %w", h.Name, err)
	}
	return nil
}
