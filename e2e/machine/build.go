package machine

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
)

// engine29 is a pre-release of Docker 29, built from Go modules, for runs that ask
// for it by name: it is not one of Engines.
func engine29() Engine {
	return Engine{
		Name: "29", suite: "29", built: "29 (moby v2.0.0-beta.24)",
		// The client is sid's. Debian 12's runc fails under this containerd (time
		// namespace).
		Path: []string{root("29") + "/usr/sbin", root("sid") + "/usr/bin"},
	}
}

// programs29 are the programs of engine29, by folder of the module cache.
var programs29 = []struct {
	packages []string
	cgo      string
	flags    []string
}{
	{[]string{"github.com/moby/moby/v2/cmd/dockerd@v2.0.0-beta.24", "github.com/moby/moby/v2/cmd/docker-proxy@v2.0.0-beta.24"}, "0", nil},
	{[]string{"github.com/containerd/containerd/v2/cmd/containerd@v2.4.2", "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2@v2.4.2"}, "0", nil},
	{[]string{"github.com/opencontainers/runc@v1.5.2"}, "1", []string{"-tags", "seccomp netgo osusergo"}}, // its init is C
}

// PrepareEngine brings an engine that Prepare does not: it builds 29, which takes
// some minutes the first time. For the others it does nothing.
func PrepareEngine(ctx context.Context, e Engine, say func(format string, args ...any)) error {
	if e.built == "" {
		return nil
	}
	unlock, err := lock("lock-" + e.Name) // labs of other engines need not wait
	if err != nil {
		return err
	}
	defer unlock()
	to := root(e.suite)
	if _, err := os.Stat(filepath.Join(to, "usr/sbin/dockerd")); err == nil {
		return nil
	}
	if _, err := os.Stat("/usr/include/seccomp.h"); err != nil {
		say("installing package libseccomp-dev")
		if err := run(ctx, "apt-get", "install", "-y", "-q", "--no-install-recommends", "libseccomp-dev", "gcc", "libc6-dev"); err != nil {
			return err
		}
	}
	say("building Docker %s from source: some minutes", e.built)
	work, err := os.MkdirTemp(Cache, "build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(work)
	bin := filepath.Join(work, "usr/sbin")
	for _, p := range programs29 {
		args := append([]string{"install", "-trimpath", "-ldflags", "-s -w"}, p.flags...)
		cmd := exec.CommandContext(ctx, "go", append(args, p.packages...)...)
		cmd.Dir = work // outside of this module
		cmd.Env = append(os.Environ(), "GOBIN="+bin, "GOFLAGS=-mod=mod", "CGO_ENABLED="+p.cgo)
		if out, err := cmd.CombinedOutput(); err != nil {
			return errors.Join(err, errors.New(string(out)))
		}
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.Rename(work, to)
}
