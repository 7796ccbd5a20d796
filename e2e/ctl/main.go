// Labctl brings the lab up and down, runs the demonstration, and opens shells on its
// hosts.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/lanyard-net/lanyard/e2e/machine"
	"github.com/lanyard-net/lanyard/e2e/uml"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd := &cobra.Command{
		Use:           "labctl",
		Short:         "The lab of real Docker hosts on this machine",
		SilenceErrors: true, SilenceUsage: true,
	}
	cmd.AddCommand(newPrepare(), newDemo(), newUp(), newDown(), newStatus(), newShell(), newExec())
	err := cmd.ExecuteContext(ctx)
	var code exitCode
	switch {
	case errors.As(err, &code):
		os.Exit(int(code))
	case err != nil:
		fmt.Fprintln(os.Stderr, "labctl:", err)
		os.Exit(1)
	}
}

// exitCode ends labctl with the exit code of what it ran.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// progress prints steps with the seconds since it was made.
func progress() func(format string, args ...any) {
	start := time.Now()
	return func(format string, args ...any) {
		fmt.Printf("%5.1fs  %s\n", time.Since(start).Seconds(), fmt.Sprintf(format, args...))
	}
}

func newPrepare() *cobra.Command {
	return &cobra.Command{
		Use:   "prepare",
		Short: "Install packages and download the engines, if they are missing",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := machine.Prepare(cmd.Context(), progress()); err != nil {
				return err
			}
			for _, e := range machine.Engines() {
				fmt.Printf("engine %s: Docker %s\n", e.Name, e.Version())
			}
			return nil
		},
	}
}

// labName is the lab that the subcommands work on.
const labName = "demo"

// hosts are the nodes of the demonstration.
func hosts(engine string) []uml.NodeConfig {
	return []uml.NodeConfig{{Name: "node-1", Engine: engine}, {Name: "node-2", Engine: engine}, {Name: "lan", Mem: 256}}
}

func newUp() *cobra.Command {
	var engine string
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Boot two Docker hosts with lanyard, and a LAN node, on one trunk",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := up(cmd.Context(), engine, progress())
			return err
		},
	}
	cmd.Flags().StringVar(&engine, "engine", "20.10", "Docker Engine of the hosts: 20.10 or 28.5")
	return cmd
}

// up boots the lab with the lanyard of this checkout on its Docker hosts.
func up(ctx context.Context, engine string, say func(string, ...any)) (_ *uml.Lab, err error) {
	if _, err := machine.EngineNamed(engine); err != nil {
		return nil, err
	}
	l, err := uml.Up(ctx, labName, hosts(engine), say)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Down())
		}
	}()
	binary, err := l.InstallPackage(ctx, "cmd/lanyard")
	if err != nil {
		return nil, err
	}
	say("starting lanyard and Docker %s", engine)
	err = l.Each(func(n *uml.Node) error {
		if n.Engine == "" {
			return nil
		}
		if err := n.StartLanyard(ctx, binary, "--log-level", "debug"); err != nil {
			return err
		}
		return n.StartDockerd(ctx)
	})
	return l, err
}

func newDown() *cobra.Command {
	return &cobra.Command{
		Use:   "down",
		Short: "End the lab and remove all that it made",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			l, err := uml.Open(labName)
			if err != nil {
				fmt.Println("no lab runs")
				return nil
			}
			return l.Down()
		},
	}
}

func newStatus() *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "List the lab's nodes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := uml.Open(labName)
			if err != nil {
				return err
			}
			for _, n := range l.Nodes {
				out, err := n.Must(cmd.Context(), "uptime -p")
				if err != nil {
					out = "off"
				}
				fmt.Printf("%-8s %s\n", n.Name, out)
			}
			return nil
		},
	}
}

// node finds a node by name, or by number ("1" is node-1).
func node(name string) (*uml.Node, error) {
	l, err := uml.Open(labName)
	if err != nil {
		return nil, fmt.Errorf("%w; try: make demo", err)
	}
	if n := l.Node(name); n != nil {
		return n, nil
	}
	if n := l.Node("node-" + name); n != nil {
		return n, nil
	}
	return nil, fmt.Errorf("no node %q; there are node-1, node-2 and lan", name)
}

func newExec() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "exec NODE COMMAND...",
		Short:   "Run a shell command on a node",
		Example: "  labctl exec node-1 docker ps\n  labctl exec lan 'ip -br addr; ip -d link show eth1.100'",
		Args:    cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := node(args[0])
			if err != nil {
				return err
			}
			code, err := n.Stream(cmd.Context(), strings.Join(args[1:], " "), os.Stdin, os.Stdout, os.Stderr)
			if err == nil && code != 0 {
				err = exitCode(code)
			}
			return err
		},
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

func newShell() *cobra.Command {
	return &cobra.Command{
		Use:   "shell NODE",
		Short: "Open a shell on a node",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := node(args[0])
			if err != nil {
				return err
			}
			script := "export PS1='" + n.Name + "# '; exec sh -i"
			if rows, cols, ok := size(); ok {
				// script gives the shell a terminal in the guest; ours only passes keys on.
				script = fmt.Sprintf("export TERM=%q PS1='%s# '; exec script -qfc 'stty rows %d cols %d; exec bash --norc -i' /dev/null", os.Getenv("TERM"), n.Name, rows, cols)
				if restore, err := raw(); err == nil {
					defer restore()
				}
			}
			_, err = n.Stream(cmd.Context(), script, os.Stdin, os.Stdout, os.Stderr)
			return err
		},
	}
}

// size is the terminal's; ok is false where there is none.
func size() (rows, cols int, ok bool) {
	cmd := exec.Command("stty", "size")
	cmd.Stdin = os.Stdin
	out, err := cmd.Output()
	if err != nil {
		return 0, 0, false
	}
	n, err := fmt.Sscan(string(out), &rows, &cols)
	return rows, cols, err == nil && n == 2
}

// raw makes the terminal pass every key on, until restore.
func raw() (restore func(), err error) {
	stty := func(args ...string) (string, error) {
		cmd := exec.Command("stty", args...)
		cmd.Stdin = os.Stdin
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	before, err := stty("-g")
	if err != nil {
		return nil, err
	}
	if _, err := stty("raw", "-echo"); err != nil {
		return nil, err
	}
	return func() { stty(before) }, nil
}
