package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/control"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// namedLease is a lease with the names that Docker knows: Container is filled in where
// the daemon has none.
type namedLease struct {
	whereabouts
	ipam.LeaseState
	NetworkName string `json:"network_name,omitempty"`
}

// leaseStates are the words that --state takes.
var leaseStates = []string{
	ipam.LeaseBound, ipam.LeaseRenewing, ipam.LeaseRebinding, ipam.LeaseFallback, ipam.LeaseStarting, ipam.LeaseIdle, ipam.LeaseLost, ipam.LeasePast,
}

func newLeaseLs(g *globals) *cobra.Command {
	var l listing
	var all bool
	var network, state, host string
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the leases of DHCP servers",
		Long: "List the leases that containers have, or had, from DHCP servers, on all hosts where hosts share\n" +
			"addresses (what is past is this host's alone). A lease is\n\n" +
			"bound      a running container's; renewing or rebinding while the server, or any server, is\n" +
			"           asked for more time: it should answer long before the lease ends\n" +
			"fallback   no server answered, so the address is one of the network's dhcp_fallback\n" +
			"starting   granted, and Docker has not connected the container yet\n" +
			"idle       a container's that has ended; it gets it again if it comes back in time\n" +
			"lost       ended, or taken back by the server, under a running container, which has no\n" +
			"           address now; another is asked for\n" +
			"past       given back or ended; remembered to ask for the same address again. These are left\n" +
			"           out without --all or --state past\n\n" +
			"RENEWS and ENDS are when the server is asked for more time, and when the address is gone if\n" +
			"none is granted. What keeps a lease from being renewed is said on standard error.",
		Example: "  lanyard lease ls\n  lanyard lease ls --network lan --all\n" +
			"  lanyard lease ls --json | jq -r '.[] | select(.problem) | .container'",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("state") && !slices.Contains(leaseStates, state) {
				return &usageError{fmt.Sprintf("state %q: it is one of %s", state, words(leaseStates)), cmd}
			}
			ctx, client := cmd.Context(), g.client(cmd)
			on, err := networkAnywhere(cmd, client, network)
			if err != nil {
				return explain(err)
			}
			own, err := client.Leases(ctx, on.id)
			if err != nil {
				return explain(err)
			}
			if on.id == "" && on.word != "" {
				own = nil // it is on other hosts
			}
			list, shared, err := withOthers(ctx, client, cluster.SeenLeases, nameLeases(ctx, own), host, cmd.ErrOrStderr())
			if err != nil {
				return explain(err)
			}
			list = slices.DeleteFunc(list, func(l namedLease) bool {
				if l.other && !on.is(l.Network, l.NetworkName) {
					return true
				}
				if state != "" {
					return l.State != state
				}
				return l.State == ipam.LeasePast && !all
			})
			out := cmd.OutOrStdout()
			if l.quiet {
				for _, l := range list {
					fmt.Fprintln(out, l.ID)
				}
				return nil
			}
			if l.json {
				return printJSON(out, list)
			}
			if err := printLeases(out, list, l.whole, shared, time.Now()); err != nil {
				return err
			}
			for _, l := range list {
				if l.Problem != "" {
					fmt.Fprintf(cmd.ErrOrStderr(), "lanyard: lease %s of %s%s: %s\n", l.ID, whose(&l), onHost(&l.whereabouts), l.Problem)
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&l.json, "json", false, "print JSON")
	cmd.Flags().BoolVarP(&l.quiet, "quiet", "q", false, "print only the ids")
	cmd.Flags().BoolVar(&l.whole, "no-trunc", false, "do not cut ids short, and show the host names that servers are told")
	cmd.Flags().BoolVarP(&all, "all", "a", false, "those too that were given back or have ended")
	networkFlag(g, cmd, &network)
	hostFlag(g, cmd, &host)
	cmd.Flags().StringVar(&state, "state", "", "only those that are "+words(leaseStates))
	complete(cmd, "state", func(*cobra.Command) []cobra.Completion { return leaseStates })
	return cmd
}

// whichLease says what a lease is named by.
const whichLease = "\n\nA lease is named by its id or the beginning of that, by its address, or by its container's name,\n" +
	"which means all that the container has: of both families, on all networks.\n\n"

func newLeaseInspect(g *globals) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect LEASE",
		Short: "Show all about a lease",
		Long: "Show all about a lease: who has it, which server granted it and until when, what the server was\n" +
			"told, and what it said." + whichLease +
			"Address, gateway, routes and MTU are set in the container. DNS servers, domain, search list and\n" +
			"NTP servers are only shown: Docker gives a plugin no way to set them in a container. What to\n" +
			"type for docker run is shown beside them. With --json it is a list.",
		Example: "  lanyard lease inspect 192.168.0.9\n  lanyard lease inspect web --json | jq '.[].lease.dns'",
		Args:    oneArg("lease"),
		RunE: func(cmd *cobra.Command, args []string) error {
			list, err := findLeases(cmd, g.client(cmd), args[0], anyLease)
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), list)
			}
			for i := range list {
				if i > 0 {
					fmt.Fprintln(cmd.OutOrStdout())
				}
				printLease(cmd.OutOrStdout(), &list[i], time.Now())
			}
			return nil
		},
		ValidArgsFunction: completeLeases(g, anyLease),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newLeaseRenew(g *globals) *cobra.Command {
	return leaseVerb(g, "renew", func(l *ipam.LeaseState) bool { return l.Endpoint != "" }, renew, &cobra.Command{
		Short: "Ask the server for more time now",
		Long: "Ask the server of a running container's lease for more time now, and say what came of it. The\n" +
			"daemon does so by itself when half of the time is over; by hand it shows that the server\n" +
			"answers, and brings what was changed there into the container: gateway, routes and MTU." + whichLease +
			"A server that does not answer changes nothing: the container keeps its address until the lease\n" +
			"ends. One that refuses takes the address back at once, and the container gets another one if a\n" +
			"server grants it: its connections end. Where there is no lease, because it was lost or its\n" +
			"address is a fallback, a new one is asked for. It may take as long as the network's dhcp_timeout.\n" +
			"A container that has no address in the end is a failure. With --json a list is printed.",
		Example: "  lanyard lease renew web\n  lanyard lease renew 192.168.0.9 --json",
	})
}

func newLeaseRelease(g *globals) *cobra.Command {
	return leaseVerb(g, "release", func(l *ipam.LeaseState) bool { return l.Endpoint == "" }, release, &cobra.Command{
		Short: "Give a lease back to its server that no container has",
		Long: "Give a lease back to its server at once, and forget it: the container that had it has no claim to\n" +
			"its address any more, and the server may give it to anybody. The daemon does so by itself when\n" +
			"the container has not come back in time, unless the network says otherwise (-o release). The\n" +
			"server is told once, and servers do not answer to that: a message that is lost leaves the\n" +
			"address taken until the lease ends." + whichLease +
			"A lease that a running container has is refused. One that is past is only forgotten. With --json\n" +
			"a list is printed, of the leases as they were.",
		Example: "  lanyard lease release 192.168.0.9\n  lanyard lease ls -q --state idle | xargs -n 1 lanyard lease release",
	})
}

// leaseVerb makes a command that does something to the leases that are wanted of those that
// its argument means. do changes one and says what has become of it.
func leaseVerb(g *globals, name string, wanted func(*ipam.LeaseState) bool, do func(*cobra.Command, *control.Client, *namedLease) (string, error), cmd *cobra.Command) *cobra.Command {
	var asJSON bool
	cmd.Use, cmd.Args, cmd.ValidArgsFunction = name+" LEASE", oneArg("lease"), completeLeases(g, wanted)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		client := g.client(cmd)
		list, err := findLeases(cmd, client, args[0], wanted)
		if err != nil {
			return err
		}
		var done []namedLease
		var failed error // of several the last; the others are said at once
		for _, l := range list {
			text, err := do(cmd, client, &l)
			switch {
			case err != nil && failed != nil:
				fmt.Fprintf(cmd.ErrOrStderr(), "lanyard: %v\n", failed)
				fallthrough
			case err != nil:
				failed = explain(err)
			case asJSON:
				done = append(done, l)
			default:
				fmt.Fprintln(cmd.OutOrStdout(), text)
			}
		}
		if len(done) > 0 {
			if err := printJSON(cmd.OutOrStdout(), done); err != nil {
				return err
			}
		}
		return failed
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// renew renews a lease, and says that it is about it where that takes long.
func renew(cmd *cobra.Command, c *control.Client, l *namedLease) (string, error) {
	was := *l
	var now *ipam.LeaseState
	done := make(chan error, 1)
	go func() {
		var err error
		now, err = c.RenewLease(cmd.Context(), was.ID)
		done <- err
	}()
	slow := time.NewTimer(patience)
	defer slow.Stop()
	for {
		select {
		case err := <-done:
			if err != nil {
				return "", err
			}
			l.LeaseState, l.Container = *now, was.Container
			return renewed(&was, l, time.Now()), nil
		case <-slow.C:
			text := "asking DHCP servers for an address"
			if hasTimes(&was.LeaseState) && was.Lease.Server.IsValid() {
				text = "asking DHCP server " + was.Lease.Server.String() + " for more time"
			}
			fmt.Fprintln(cmd.ErrOrStderr(), text+" ...")
		}
	}
}

// renewed says what came of a renewal.
func renewed(was, now *namedLease, at time.Time) string {
	text := fmt.Sprintf("%s keeps %s", whose(now), now.Address)
	switch {
	case !was.Address.IsValid() || was.State == ipam.LeaseLost:
		text = fmt.Sprintf("%s has %s now", whose(now), now.Address)
	case was.Address != now.Address:
		text = fmt.Sprintf("%s has %s now, and %s no more", whose(now), now.Address, was.Address)
	}
	if now.Lease.Server.IsValid() {
		text += ", says server " + now.Lease.Server.String()
	}
	switch {
	case !hasTimes(&now.LeaseState):
		return text
	case now.EndsAt.IsZero():
		return text + "; it does not end"
	}
	return text + "; it ends " + exact(now.EndsAt, at)
}

// release gives a lease back.
func release(cmd *cobra.Command, c *control.Client, l *namedLease) (string, error) {
	was, err := c.ReleaseLease(cmd.Context(), l.ID)
	if err != nil {
		return "", err
	}
	l.LeaseState = *was
	return givenBack(l), nil
}

// givenBack says what was released.
func givenBack(l *namedLease) string {
	what := "lease " + l.ID
	if l.Address.IsValid() {
		what = l.Address.String()
	}
	who := ""
	if l.Container != "" {
		who = "; it was container " + l.Container + "'s"
	}
	if l.State == ipam.LeaseIdle && l.Lease.Server.IsValid() {
		return fmt.Sprintf("%s is given back to server %s%s", what, l.Lease.Server, who)
	}
	return fmt.Sprintf("%s is forgotten: no server had to be told%s", what, who)
}

func anyLease(*ipam.LeaseState) bool { return true }

// findLeases are the leases that word means: the one with that id, address or beginning of
// an id, or all of a container's. Of several those count that are not past and wanted, if
// any are.
func findLeases(cmd *cobra.Command, c *control.Client, word string, wanted func(*ipam.LeaseState) bool) ([]namedLease, error) {
	if word == "" {
		return nil, lan.Refusef(lan.ErrInvalid, "the lease's name is empty; try: lanyard lease ls")
	}
	all, err := c.Leases(cmd.Context(), "")
	if err != nil {
		return nil, explain(err)
	}
	list := nameLeases(cmd.Context(), all)
	for i, means := range []func(*namedLease) bool{
		func(l *namedLease) bool { return l.ID == word },
		func(l *namedLease) bool { return l.Address.IsValid() && l.Address.String() == word },
		func(l *namedLease) bool { return l.Container == word },
		func(l *namedLease) bool { return len(word) >= 3 && strings.HasPrefix(l.ID, word) },
	} {
		const byName = 2
		found := only(list, means)
		for _, better := range []func(*namedLease) bool{
			func(l *namedLease) bool { return l.State != ipam.LeasePast },
			func(l *namedLease) bool { return i != byName || wanted(&l.LeaseState) },
		} {
			if some := only(found, better); len(some) > 0 {
				found = some
			}
		}
		switch {
		case len(found) > 1 && i != byName:
			return nil, lan.Refusef(lan.ErrConflict, "%d leases are %q; try: lanyard lease ls, and the id of one", len(found), word)
		case len(found) > 0:
			return found, nil
		}
	}
	return nil, lan.Refusef(lan.ErrNotFound, "no lease %q is known; try: lanyard lease ls", word)
}

// only are those of a list for which is holds.
func only[T any](list []T, is func(*T) bool) (some []T) {
	for i := range list {
		if is(&list[i]) {
			some = append(some, list[i])
		}
	}
	return some
}

// nameLeases adds the names that Docker knows.
func nameLeases(ctx context.Context, all []ipam.LeaseState) []namedLease {
	list := make([]namedLease, len(all))
	var names nameBook
	for i, l := range all {
		l.Container = names.container(ctx, l.Container, l.Endpoint)
		list[i] = namedLease{LeaseState: l, NetworkName: names.network(ctx, l.Network)}
	}
	return list
}

// completeLeases offers what stands for a lease on the command line: its address, or its
// id where several wires have that, or it has none; and its container's name.
func completeLeases(g *globals, wanted func(*ipam.LeaseState) bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		all, err := g.client(cmd).Leases(ctx, "")
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		times := map[string]int{}
		for _, l := range all {
			times[l.Address.String()]++
		}
		var out []cobra.Completion
		seen := map[string]bool{"": true}
		for _, l := range nameLeases(ctx, all) {
			if !wanted(&l.LeaseState) {
				continue
			}
			if !seen[l.Container] {
				seen[l.Container] = true
				out = append(out, cobra.CompletionWithDesc(l.Container, "the container's leases"))
			}
			word := l.ID
			if l.Address.IsValid() && times[l.Address.String()] == 1 {
				word = l.Address.String()
			}
			out = append(out, cobra.CompletionWithDesc(word, whose(&l)+", "+l.State))
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}
