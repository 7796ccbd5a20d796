// Package netns runs functions in other network namespaces.
//
// A namespace belongs to a thread, so every function here locks the goroutine
// to its thread, and throws the thread away when it cannot be brought back.
package netns

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// NS is an open network namespace. Close it when done: as long as it is open
// the kernel keeps the namespace and all its links alive.
type NS struct{ f *os.File }

// Open opens the namespace at a path such as /run/docker/netns/1f2e3d4c5b6a.
func Open(path string) (*NS, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	ns := &NS{f}
	if !isNsfs(int(f.Fd())) {
		return nil, errors.Join(fmt.Errorf("network namespace %s: not a namespace", path), f.Close())
	}
	return ns, nil
}

// Current opens the namespace of the calling thread.
func Current() (*NS, error) {
	return Open(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()))
}

// New makes an empty namespace with its loopback down. The caller's own
// namespace does not change.
func New() (*NS, error) {
	var ns *NS
	err := onThread(func() (bool, error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return true, fmt.Errorf("network namespace: unshare: %w", err)
		}
		var err error
		ns, err = Current()
		return false, err
	})
	return ns, err
}

// Close lets the namespace go.
func (ns *NS) Close() error { return ns.f.Close() }

// Fd is the descriptor, valid until Close.
func (ns *NS) Fd() int { return int(ns.f.Fd()) }

// Do runs fn on a thread of its own that is in the namespace, and returns its
// error. fn must not start goroutines that count on the namespace; a socket
// that it opens stays in the namespace wherever it is used.
func (ns *NS) Do(fn func() error) error {
	return onThread(func() (bool, error) {
		if err := unix.Setns(ns.Fd(), unix.CLONE_NEWNET); err != nil {
			return true, fmt.Errorf("network namespace: setns: %w", err)
		}
		return false, fn()
	})
}

// onThread runs fn on a fresh goroutine locked to its thread. Unless fn says
// that the thread is still clean, the thread ends with the goroutine (a locked
// goroutine that exits takes its thread along).
func onThread(fn func() (clean bool, err error)) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		clean, err := fn()
		if clean {
			runtime.UnlockOSThread()
		}
		done <- err
	}()
	return <-done
}

// Alive reports whether path is a mounted network namespace. A file that is
// there without a mount, as Docker leaves one before and after the container's
// life, is not.
func Alive(path string) bool {
	if !filepath.IsAbs(path) {
		return false
	}
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && uint64(st.Type) == unix.NSFS_MAGIC
}

func isNsfs(fd int) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(fd, &st) == nil && uint64(st.Type) == unix.NSFS_MAGIC
}
