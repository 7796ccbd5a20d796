package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lanyard-net/lanyard/e2e/machine"
	"github.com/lanyard-net/lanyard/e2e/reference"
)

func newDemo() *cobra.Command {
	var engine, driver string
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run the reference scenario and leave the lab up",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return demo(cmd.Context(), engine, driver)
		},
	}
	cmd.Flags().StringVar(&engine, "engine", "20.10", "Docker Engine of the hosts: 20.10 or 28.5")
	cmd.Flags().StringVar(&driver, "driver", "lanyard", "driver of the networks; macvlan is Docker's own, to compare")
	return cmd
}

func demo(ctx context.Context, engine, driver string) error {
	start := time.Now()
	say := progress()
	l, err := up(ctx, engine, say)
	if err != nil {
		return err
	}
	s, err := reference.Create(ctx, l, reference.Config{Driver: driver, Options: "-o macvlan_mode=bridge"}, say)
	if err != nil {
		return err
	}
	capture, err := l.Capture(ctx, "arp or icmp or (vlan and (arp or icmp))")
	if err != nil {
		return err
	}
	reach, err := s.Reach(ctx)
	frames := capture.Stop()
	if err != nil {
		return err
	}
	say("%d frames seen on the trunk", len(frames))
	e, err := machine.EngineNamed(engine)
	if err != nil {
		return err
	}
	fmt.Printf("\n%s\n", topology(s, e.Version()))
	checks := s.Judge(reach)
	fmt.Printf("%s\n", matrix(s, reach, checks))
	checks = append(checks, s.JudgeFrames(frames)...)
	wrong := 0
	for _, c := range checks {
		if !c.OK {
			wrong++
			fmt.Printf("WRONG  %s: want %s, got %s\n", c.What, c.Want, c.Got)
		}
	}
	for _, c := range s.JudgeFrames(frames) {
		if c.OK {
			fmt.Printf("ok     %s\n", c.What)
		}
	}
	fmt.Printf("\nThe hosts stay up. A shell on one:  make lab-shell NODE=1   (docker, lanyard and ip are there)\n")
	fmt.Printf("The LAN node:                        make lab-shell NODE=lan\n")
	fmt.Printf("End them:                            make lab-down\n\n")
	took := time.Since(start).Round(100 * time.Millisecond)
	if wrong > 0 {
		fmt.Printf("FAILED: %d of %d expectations, %s\n", wrong, len(checks), took)
		return exitCode(1)
	}
	fmt.Printf("OK: all %d expectations hold, %s\n", len(checks), took)
	return nil
}

// topology draws hosts, parents, networks and containers.
func topology(s *reference.Scenario, version string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Docker %s, driver %s\n\n", version, s.Driver)
	fmt.Fprintf(&b, "  trunk (802.1Q, VLAN 100 and 200)\n")
	for _, h := range s.Hosts {
		fmt.Fprintf(&b, "   |\n   +-- %s eth1\n", h.Name)
		for i, id := range []int{100, 200} {
			stem := "|"
			if i == 1 {
				stem = " "
			}
			fmt.Fprintf(&b, "   |     +-- eth1.%d -- network %s\n", id, reference.Network(id))
			for _, c := range s.Containers {
				if c.Node == h && c.VLAN == id {
					fmt.Fprintf(&b, "   |     %s      +-- %-4s %-16s %s\n", stem, c.Name, c.Addr, c.MAC)
				}
			}
		}
	}
	if s.LAN != nil {
		fmt.Fprintf(&b, "   |\n   +-- lan eth1.100              192.168.1.1       (no Docker: a machine on VLAN 100)\n")
	}
	return b.String()
}

// matrix draws who reached whom: yes, or a dot for silence; a ! behind what is wrong.
func matrix(s *reference.Scenario, reach map[[2]string]bool, checks []reference.Check) string {
	bad := map[string]bool{}
	for _, c := range checks {
		bad[c.What] = !c.OK
	}
	var b strings.Builder
	fmt.Fprintf(&b, "who reaches whom (rows ping columns; yes, or . for silence; ! marks what should be otherwise)\n\n%-14s", "")
	for _, to := range s.Everyone() {
		fmt.Fprintf(&b, "%-6s", to.Name)
	}
	for _, from := range s.Everyone() {
		where := from.Node.Name
		fmt.Fprintf(&b, "\n%-7s%-7s", where, from.Name)
		for _, to := range s.Everyone() {
			cell := "."
			if from.Name == to.Name {
				cell = "-"
			} else if reach[[2]string{from.Name, to.Name}] {
				cell = "yes"
			}
			if bad[from.Name+" reaches "+to.Name] {
				cell += "!"
			}
			fmt.Fprintf(&b, "%-6s", cell)
		}
	}
	return b.String() + "\n"
}
