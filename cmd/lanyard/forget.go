package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lanyard-net/lanyard/internal/lan"
)

func newNetworkRm(g *globals) *cobra.Command {
	var force bool
	d := defining{}
	cmd := &cobra.Command{
		Use:     "rm NETWORK...",
		Aliases: []string{"remove"},
		Short:   "Remove definitions for all hosts, and forget networks that Docker has no more",
		Long: "Remove networks that are defined for all hosts (lanyard network apply): each host removes its own\n" +
			"once no container is on it.\n\n" +
			"Of others, forget networks that Docker has no more, and remove the sub-interfaces that only they used.\n" +
			"\"docker network rm\" does this as well, but not while the daemon is stopped: Docker then removes\n" +
			"the network all the same. A network that Docker still has, or that has a container on it, is\n" +
			"refused.",
		Example: "  lanyard network rm macvlan100\n  lanyard network rm 0728abe9c17d\n  lanyard network rm --force 0728abe9c17d",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return &usageError{fmt.Sprintf("%q takes at least one network", cmd.CommandPath()), cmd}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, client := cmd.Context(), g.client(cmd)
			args, err := d.undefine(cmd, client, args, force)
			if err != nil || len(args) == 0 {
				return err
			}
			there, err := dockerNetworks(ctx)
			if err != nil && !force {
				return fmt.Errorf("whether Docker still has the network is not known: %w; try: --force, if you know that it has not", err)
			}
			names := namesOf(there)
			for _, word := range args {
				n, err := findNetwork(ctx, client, word)
				if err != nil {
					return explain(err)
				}
				if name := names[n.ID]; name != "" {
					return lan.Refusef(lan.ErrConflict, "Docker still has network %s; try: docker network rm %s", lan.Short(n.ID), name)
				}
				if err := client.ForgetNetwork(ctx, n.ID); err != nil {
					return explain(err)
				}
				fmt.Fprintln(cmd.OutOrStdout(), lan.Short(n.ID))
			}
			return nil
		},
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			words, _ := completeDefinitions(g)(cmd, nil, "")
			return append(words, completeNetworks(g, cmd)...), cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "even if Docker does not answer, or etcd")
	cmd.Flags().DurationVar(&d.wait, "timeout", defineFor, "how long hosts are waited for; 0s does not wait")
	return cmd
}
