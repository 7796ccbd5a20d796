// Command lanyard is a Docker network driver that gives containers their own
// place on the LAN. `lanyard daemon` serves Docker; every other command asks
// the daemon.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
)

// The exit codes.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run carries out one command line and returns the exit code.
func run(args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(context.Background())
	if err == nil {
		return exitOK
	}
	if verdict := verdictError(0); errors.As(err, &verdict) {
		return int(verdict)
	}
	fmt.Fprintf(stderr, "lanyard: %v\n", err)
	if wrong := (*usageError)(nil); errors.As(err, &wrong) {
		return exitUsage
	}
	return exitFailure
}
