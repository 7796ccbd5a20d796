package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/lanyard-net/lanyard/e2e/uml"
	"github.com/lanyard-net/lanyard/internal/kerneltest"
)

// kernelPackages are those whose tests work on a kernel, and which of those run here: ""
// is all.
var kernelPackages = []struct{ name, run string }{
	{"netns", ""},
	{"link", ""},
	{"acd", ""},
	{"antispoof", ""},
	// What needs a kernel with everything, and the life of a lease, in a minute. All of it
	// takes over three, and floods and short waits come out wrong where a frame takes half
	// a millisecond.
	{"dhcp", "Ipvlan|TestAnswers|Sibling|Life"},
	{"engine", ""},
	// What a kernel without 802.1Q, bonding and ipvlan cannot show.
	{"doctor", "VLAN|Bond|Modules|Mixed"},
}

// guest runs the kernel tests in a guest whose kernel has everything: there a skip is
// a failure.
func guest(ctx context.Context, r *report) (err error) {
	l, err := uml.Up(ctx, "kernel", []uml.NodeConfig{{Name: "kernel", Mem: 512}}, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Down()) }()
	tmp, err := os.MkdirTemp("", "lanyard-guest")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	for _, p := range kernelPackages {
		pkg := "github.com/lanyard-net/lanyard/internal/" + p.name
		binary := filepath.Join(tmp, p.name+".test")
		build := exec.CommandContext(ctx, "go", "test", "-c", "-o", binary, pkg)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("build tests of %s: %w: %s", p.name, err, out)
		}
		if binary, err = l.Install(binary); err != nil {
			return err
		}
		if err := r.inGuest(ctx, l.Nodes[0], pkg, binary, p.run); err != nil {
			return err
		}
	}
	return nil
}

// inGuest runs those tests of a binary in a guest that a pattern takes, and reports what
// they print.
func (r *report) inGuest(ctx context.Context, n *uml.Node, pkg, binary, pattern string) error {
	convert := exec.CommandContext(ctx, "go", "tool", "test2json", "-t", "-p", pkg)
	in, err := convert.StdinPipe()
	if err != nil {
		return err
	}
	out, err := convert.StdoutPipe()
	if err != nil {
		return err
	}
	if err := convert.Start(); err != nil {
		return err
	}
	ran := make(chan error, 1)
	go func() {
		code, err := n.Stream(ctx, kerneltest.FullKernel+"=1 "+binary+" -test.v=test2json -test.timeout 10m -test.run '"+pattern+"'", nil, in, in)
		if err == nil && code > 1 {
			err = fmt.Errorf("tests of %s ended with exit code %d", pkg, code)
		}
		io.WriteString(in, "\n")
		ran <- errors.Join(err, in.Close())
	}()
	_, rerr := r.read(out)
	return errors.Join(<-ran, rerr, convert.Wait())
}
