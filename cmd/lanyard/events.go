package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"slices"
	"strconv"
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
	var since, until string
	var filters []string
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Say what happened to addresses, leases, links, networks and hosts",
		Long: "Say what happened, the oldest first: a line for each event, with the time, what it was, the\n" +
			"address, the container and its network, and more in words. It is\n\n" +
			"lease-acquired     a server granted an address\n" +
			"lease-reused       no server confirmed a lease that had not ended, so it was used without\n" +
			"lease-renewed      a server granted more time\n" +
			"lease-changed      a running container has another address, gateway, MTU or routes\n" +
			"lease-unanswered   no server answers; said again after 5 minutes, not at each attempt\n" +
			"lease-declined     a server gave an address that somebody uses, and was told so\n" +
			"lease-lost         a running container had to give its address up\n" +
			"lease-released     given back to the server\n" +
			"lease-expired      ended while no container had it\n" +
			"address-conflict   another device uses a container's address\n" +
			"address-in-use     another device uses an address that is nobody's; it is not handed out\n" +
			"address-free       nobody answers for such an address any more\n" +
			"pool-nearly-full   less than a tenth of a pool is free (looked at every 5 s)\n" +
			"pool-full          nothing of it is free\n" +
			"pool-has-room      it is neither any more\n" +
			"network-created    and network-removed\n" +
			"endpoint-joined    a container has its link\n" +
			"endpoint-left      it has given it back, or has ended\n" +
			"parent-lost        a network's parent is not there, and its containers have no link\n" +
			"parent-back        the running containers have their links again\n" +
			"parent-down        a network's parent was set down, or has no carrier\n" +
			"parent-up          it carries again\n" +
			"link-failed        a running container's link could not be made again; it is tried again\n" +
			"stray-removed      the link of a container that has ended, in a process that Docker has forgotten\n" +
			"repaired           a step of lanyard repair, or of the repair of a damaged state file\n" +
			"host-silent        another host has not been heard of for 30 s\n" +
			"host-back          it is heard of again\n" +
			"host-forgotten     this host has forgotten another one, by policy (lanyard host policy)\n" +
			"store-away         etcd cannot be asked, and no new address is given out without it\n" +
			"store-back         it can again\n\n" +
			"--filter is as Docker's: type=lease (the word before the dash), event=lease-lost, and container=,\n" +
			"network= (names or the beginning of IDs), address= and request=. Of filters with the same key one\n" +
			"has to fit, of those with different keys each.\n\n" +
			"The daemon remembers the last 4096 since it started. With --follow those that come are shown\n" +
			"too, until ^C; when the daemon stops, the command fails.",
		Example: "  lanyard events --since 1h\n  lanyard events --follow --since 0s\n" +
			"  lanyard events --filter type=lease --filter type=address --filter network=lan\n" +
			"  lanyard events --since 2026-11-29T08:00:00Z --until 30m\n" +
			"  lanyard events -f --json | jq -r 'select(.what == \"lease-changed\") | .container'",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			wanted, err := parseFilters(filters)
			if err != nil {
				return &usageError{err.Error(), cmd}
			}
			now := time.Now()
			start, err := moment(since, now)
			if err != nil {
				return &usageError{"--since " + err.Error(), cmd}
			}
			end, err := moment(until, now)
			switch {
			case err != nil:
				return &usageError{"--until " + err.Error(), cmd}
			case follow && until != "":
				return &usageError{"--until is a moment that has been, and --follow waits for what comes", cmd}
			}
			client, out, names := g.client(cmd), cmd.OutOrStdout(), &nameBook{again: true}
			last := uint64(0)
			show := func(ctx context.Context, e ipam.Event) error {
				if last != 0 && e.Seq > last+1 {
					fmt.Fprintf(cmd.ErrOrStderr(), "lanyard: %d events came faster than they were read, and are not shown\n", e.Seq-last-1)
				}
				last = e.Seq
				if e.Time.Before(start) || until != "" && e.Time.After(end) {
					return nil
				}
				e.Container = names.container(ctx, e.Container, e.Endpoint)
				named := &namedEvent{e, names.network(ctx, e.Network)}
				if !wanted.fit(named) {
					return nil
				}
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
			err = client.Follow(ctx, 0, func(e ipam.Event) error { return show(ctx, e) })
			if errors.Is(err, context.Canceled) {
				return nil
			}
			return explain(err)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&asJSON, "json", false, "print JSON: an object a line")
	f.BoolVarP(&follow, "follow", "f", false, "show those that come, too, until ^C")
	f.StringVar(&since, "since", "", "only those of the last 10m, or so, or since a time such as 2026-11-29T08:00:00Z; with --follow, 0s shows none that were")
	f.StringVar(&until, "until", "", "only those before that: so long ago, or a time")
	f.StringArrayVar(&filters, "filter", nil, "only those that fit, such as type=lease or container=web; may be given again")
	words := []cobra.Completion{"container=", "network=", "address=", "request="}
	for _, kind := range ipam.EventKinds() {
		words = append(words, "event="+kind)
		if word := "type=" + eventType(kind); !slices.Contains(words, word) {
			words = append(words, word)
		}
	}
	if err := cmd.RegisterFlagCompletionFunc("filter", cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveNoSpace)); err != nil {
		panic(err) // the flag is defined just above
	}
	return cmd
}

// moment is the time that --since or --until means: so long ago, or a time. "" is the zero Time.
func moment(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	for _, form := range []string{time.RFC3339Nano, "2006-01-02T15:04:05", "2006-01-02T15:04", time.DateTime, time.DateOnly} {
		if t, err := time.ParseInLocation(form, text, time.Local); err == nil {
			return t, nil
		}
	}
	if seconds, err := strconv.ParseFloat(text, 64); err == nil && seconds >= 0 {
		return time.Unix(0, int64(seconds*1e9)), nil
	}
	return time.Time{}, fmt.Errorf("%s: it is how long ago, such as 10m, or a time such as 2026-11-29T08:00:00Z", text)
}

// eventFilters are what --filter wants, by key.
type eventFilters map[string][]string

// eventType is the type of an event, by its kind: the word before the dash.
func eventType(what string) string {
	kind, _, _ := strings.Cut(what, "-")
	return kind
}

func parseFilters(texts []string) (eventFilters, error) {
	f := eventFilters{}
	for _, t := range texts {
		key, value, ok := strings.Cut(t, "=")
		if !ok || value == "" {
			return nil, fmt.Errorf("--filter %s: it is KEY=VALUE, such as type=lease", t)
		}
		known := func(is func(kind string) string) bool {
			return slices.ContainsFunc(ipam.EventKinds(), func(kind string) bool { return is(kind) == value })
		}
		switch key {
		case "type":
			ok = known(eventType)
		case "event":
			ok = known(func(kind string) string { return kind })
		case "container", "network", "address", "request":
		default:
			return nil, fmt.Errorf("--filter %s: the keys are type, event, container, network, address and request", t)
		}
		if !ok {
			return nil, fmt.Errorf("--filter %s: there is no such %s", t, key)
		}
		f[key] = append(f[key], value)
	}
	return f, nil
}

// fit reports whether an event is wanted.
func (f eventFilters) fit(e *namedEvent) bool {
	for key, values := range f {
		if !slices.ContainsFunc(values, func(v string) bool {
			switch key {
			case "type":
				return eventType(e.What) == v
			case "event":
				return e.What == v
			case "container":
				return e.Container == v || strings.HasPrefix(e.Endpoint, v)
			case "network":
				return e.NetworkName == v || strings.HasPrefix(e.Network, v)
			case "address":
				return addrText(e.Address) == v
			}
			return e.Request == v
		}) {
			return false
		}
	}
	return true
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
