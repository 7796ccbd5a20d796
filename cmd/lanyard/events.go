package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// namedEvent is an event with the names that Docker knows: Container is filled in where
// the daemon has none.
type namedEvent struct {
	ipam.Event
	NetworkName string `json:"network_name,omitempty"`
}

func newEvents(g *globals) *cobra.Command {
	var asJSON, follow bool
	var since time.Duration
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Say what happened to containers' DHCP leases, and to parents",
		Long: "Say what happened to containers' DHCP leases and to the parents of networks, the oldest first: a\n" +
			"line for each, with the time, what it was, the address, the container and its network, and more\n" +
			"in words. It is\n\n" +
			"lease-acquired     a server granted an address\n" +
			"lease-reused       no server confirmed a lease that had not ended, so it was used without\n" +
			"lease-renewed      a server granted more time\n" +
			"lease-changed      a running container has another address, gateway, MTU or routes\n" +
			"lease-unanswered   no server answers; said again after 5 minutes, not at each attempt\n" +
			"lease-declined     a server gave an address that somebody uses, and was told so\n" +
			"lease-lost         a running container had to give its address up\n" +
			"lease-released     given back to the server\n" +
			"lease-expired      ended while no container had it\n" +
			"parent-lost        a network's parent is not there, and its containers have no link\n" +
			"parent-back        the running containers have their links again\n" +
			"parent-down        a network's parent was set down, or has no carrier\n" +
			"parent-up          it carries again\n" +
			"host-forgotten     this host has forgotten another one, by policy (lanyard host policy)\n\n" +
			"The daemon remembers the last 1024 since it started. With --follow those that come are shown\n" +
			"too, until ^C; when the daemon stops, the command fails.",
		Example: "  lanyard events --since 1h\n  lanyard events --follow --since 0s\n" +
			"  lanyard events -f --json | jq -r 'select(.what == \"lease-changed\") | .container'",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if since < 0 {
				return &usageError{fmt.Sprintf("--since %s: it is how long ago, such as 10m", since), cmd}
			}
			start := time.Time{}
			if cmd.Flags().Changed("since") {
				start = time.Now().Add(-since)
			}
			client, out, names := g.client(cmd), cmd.OutOrStdout(), &nameBook{again: true}
			last := uint64(0)
			show := func(ctx context.Context, e ipam.Event) error {
				if last != 0 && e.Seq > last+1 {
					fmt.Fprintf(cmd.ErrOrStderr(), "lanyard: %d events came faster than they were read, and are not shown\n", e.Seq-last-1)
				}
				last = e.Seq
				if e.Time.Before(start) {
					return nil
				}
				e.Container = names.container(ctx, e.Container, e.Endpoint)
				named := &namedEvent{e, names.network(ctx, e.Network)}
				if asJSON {
					return json.NewEncoder(out).Encode(named)
				}
				return printEvent(out, named)
			}
			if !follow {
				list, err := client.Events(cmd.Context(), 0)
				if err != nil {
					return explain(err)
				}
				for _, e := range list {
					if err := show(cmd.Context(), e); err != nil {
						return err
					}
				}
				return nil
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
			defer stop()
			err := client.Follow(ctx, 0, func(e ipam.Event) error { return show(ctx, e) })
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return explain(err)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: an object a line")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "show those that come, too, until ^C")
	cmd.Flags().DurationVar(&since, "since", 0, "only those of the last 10m, or so; with --follow, 0s shows none that were")
	return cmd
}

// printEvent prints an event as a line, whose columns are wide enough for most.
func printEvent(out io.Writer, e *namedEvent) error {
	var who []string
	for _, w := range []struct{ name, id string }{{e.Container, e.Endpoint}, {e.NetworkName, e.Network}} {
		if w.name == "" {
			w.name = lan.Short(w.id)
		}
		if w.name != "" {
			who = append(who, w.name)
		}
	}
	text := e.Text
	if text == "" && e.Server.IsValid() {
		text = "server " + e.Server.String()
	}
	line := fmt.Sprintf("%s  %-16s  %-15s  %-20s  %s", e.Time.Local().Format(time.DateTime), e.What, addrText(e.Address), or(strings.Join(who, "/")), text)
	_, err := fmt.Fprintln(out, strings.TrimRight(line, " "))
	return err
}
