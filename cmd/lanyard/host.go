package main

import (
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/lanyard-net/lanyard/internal/cluster"
)

func newHostLs(g *globals) *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the hosts that share addresses",
		Long: "List the hosts whose daemons have the same store (lanyard daemon --store etcd://...). A host is\n\n" +
			"alive      heard of less than 30 s ago\n" +
			"draining   alive, and gives out no new addresses, because an operator said so\n" +
			"silent     not heard of: it is off, its daemon is stopped, or it is cut off from etcd. Its\n" +
			"           containers may be running, so its addresses stay its own; see: lanyard host forget\n\n" +
			"SINCE is when it became alive or silent. FORGOTTEN is when a silent host is forgotten by policy, at the\n" +
			"earliest; see: lanyard host policy.\n\n" +
			"HELD are the addresses that it has claimed ahead (-o lease_ahead=N) and not given out.\n\n" +
			"The host that was asked has a star. Where etcd cannot be asked the list is as it was, and\n" +
			"standard error says why.",
		Example: "  lanyard host ls\n  lanyard host ls --json | jq -r '.hosts[] | select(.alive | not) | .name'",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := g.client(cmd).Hosts(cmd.Context())
			if err != nil {
				return explain(err)
			}
			out := cmd.OutOrStdout()
			if all.Problem != "" {
				fmt.Fprintf(cmd.ErrOrStderr(), "lanyard: etcd at %s cannot be used since %s: %s\n", all.Etcd, all.Since.Local().Format(time.DateTime), all.Problem)
			}
			switch {
			case l.quiet:
				for _, h := range all.Hosts {
					fmt.Fprintln(out, shorten(h.ID, l.whole))
				}
				return nil
			case l.json:
				return printJSON(out, all)
			}
			rows := [][]string{{"ID", "HOST", "STATE", "ADDRESSES", "HELD", "SINCE", "FORGOTTEN", "VERSION"}}
			for _, h := range all.Hosts {
				name, count, held := h.Name, strconv.Itoa(h.Addresses), strconv.Itoa(h.Held)
				if h.Self {
					name += " *"
				}
				if all.Problem != "" {
					count, held = "-", "-"
				}
				since, forgotten := h.Began, "-"
				switch {
				case h.Alive:
				case h.ForgottenIn > 0:
					since, forgotten = h.Silent, "in "+rough(time.Duration(h.ForgottenIn*float64(time.Second)))
				default:
					since, forgotten = h.Silent, "never"
				}
				rows = append(rows, []string{shorten(h.ID, l.whole), or(name), hostState(&h), count, held, ago(since, time.Now()), forgotten, or(h.Version)})
			}
			return printTable(out, rows)
		},
	}
	l.addTo(cmd)
	return cmd
}

func hostState(h *cluster.Host) string {
	switch {
	case !h.Alive:
		return "silent"
	case h.Drained:
		return "draining"
	}
	return "alive"
}

func newHostDrain(g *globals) *cobra.Command {
	var undo, asJSON bool
	cmd := &cobra.Command{
		Use:   "drain HOST",
		Short: "Have a host give out no new addresses",
		Long: "Have a host give out no new addresses that it shares with others, before it is taken out. It\n" +
			"keeps those that it has, and its containers run on; stop them, and start them elsewhere: where\n" +
			"the engine says who they are (29 and newer, or identity=) they have their addresses again.\n" +
			"A host is named by its name, its id, or the beginning of its id.",
		Example:           "  lanyard host drain node2\n  lanyard host drain --undo node2",
		Args:              oneArg("host"),
		ValidArgsFunction: completeHosts(g),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := g.client(cmd).DrainHost(cmd.Context(), args[0], undo)
			switch {
			case err != nil:
				return explain(err)
			case asJSON:
				return printJSON(cmd.OutOrStdout(), h)
			case undo:
				fmt.Fprintf(cmd.OutOrStdout(), "%s gives out addresses again\n", h.Name)
			default:
				fmt.Fprintf(cmd.OutOrStdout(), "%s gives out no new addresses\n", h.Name)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&undo, "undo", false, "have it give out addresses again")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: the host")
	return cmd
}

func newHostForget(g *globals) *cobra.Command {
	var force, asJSON bool
	cmd := &cobra.Command{
		Use:   "forget HOST",
		Short: "Make the addresses of a host free that is gone for good",
		Long: "Make the addresses of a host free that is gone for good. Until then they are nobody else's,\n" +
			"because its containers may be running where nobody but the LAN sees them. A container that starts\n" +
			"elsewhere under the same name has its address again, if the engine says who it is. Addresses are\n" +
			"looked for on the wire before they are given out, so that a host that was not gone after all is\n" +
			"noticed, as long as conflict detection is on.\n\n" +
			"A host that is only cut off from etcd goes on to give out what it has claimed ahead (lease_ahead):\n" +
			"after this the others give out the same. Have it off before.\n\n" +
			"A host that is alive is refused, unless --force is given.",
		Example:           "  lanyard host forget node2",
		Args:              oneArg("host"),
		ValidArgsFunction: completeHosts(g),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := g.client(cmd).ForgetHost(cmd.Context(), args[0], force)
			switch {
			case err != nil:
				return explain(err)
			case asJSON:
				return printJSON(cmd.OutOrStdout(), h)
			}
			held := ""
			if h.Held > 0 {
				held = fmt.Sprintf(", and %d that it held ahead", h.Held)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s is forgotten; %d addresses are free%s\n", h.Name, h.Addresses, held)
			return nil
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "forget it although it is alive")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: the host, and how many addresses are free")
	return cmd
}

// completeHosts completes the names of hosts.
func completeHosts(g *globals) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		all, err := g.client(cmd).Hosts(cmd.Context())
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var words []cobra.Completion
		for _, h := range all.Hosts {
			words = append(words, cobra.CompletionWithDesc(h.Name, fmt.Sprintf("%s, %d addresses", hostState(&h), h.Addresses)))
		}
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

func newHostPolicy(g *globals) *cobra.Command {
	var after string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Show or change after how long hosts forget one that is silent",
		Long: "Show or change after how long hosts forget one that is silent, as lanyard host forget does. It is for\n" +
			"all hosts that share addresses, an hour at least, and never unless it is changed. A host that is\n" +
			"silent may be running its containers, stopped or cut off from etcd: this is for sites where one\n" +
			"that is silent for so long is off, or is known to have been taken out.\n\n" +
			"Silence is counted by the other hosts as they see it, in etcd, by no clock that can be set: what\n" +
			"passes while none of them runs or can ask etcd is not counted, nor what passed under the policy\n" +
			"never. One host does it, and says so in its log and in lanyard events.",
		Example: "  lanyard host policy\n  lanyard host policy --forget-after 72h\n  lanyard host policy --forget-after never",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var p cluster.Policy
			var err error
			if cmd.Flags().Changed("forget-after") {
				p, err = g.client(cmd).SetPolicy(cmd.Context(), after)
			} else {
				p, err = g.client(cmd).Policy(cmd.Context())
			}
			switch {
			case err != nil:
				return explain(err)
			case asJSON:
				return printJSON(cmd.OutOrStdout(), p)
			case p.ForgetAfter == 0:
				fmt.Fprintln(cmd.OutOrStdout(), "a host that is silent is never forgotten, unless somebody types: lanyard host forget")
			default:
				fmt.Fprintf(cmd.OutOrStdout(), "a host that is silent for %s is forgotten\n", duration(p.ForgetAfter))
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&after, "forget-after", "", "a time such as 72h, an hour at least, or never")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON: the policy")
	return cmd
}
