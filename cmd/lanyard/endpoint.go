package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/lanyard-net/lanyard/internal/engine"
)

// namedEndpoint is an endpoint with the names that Docker knows.
type namedEndpoint struct {
	engine.EndpointState
	Container   string `json:"container,omitempty"`
	NetworkName string `json:"network_name,omitempty"`
}

func newEndpointLs(g *globals) *cobra.Command {
	var l listing
	var network string
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the endpoints",
		Long: "List the endpoints: one for each container on each network. The containers' names come from\n" +
			"Docker; they are left out (-) where Docker does not answer.",
		Example: "  lanyard endpoint ls\n  lanyard endpoint ls --network lan --json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, client, id := cmd.Context(), g.client(cmd), ""
			if cmd.Flags().Changed("network") {
				n, err := findNetwork(ctx, client, network)
				if err != nil {
					return explain(err)
				}
				id = n.ID
			}
			all, err := client.Endpoints(ctx, id)
			if err != nil {
				return explain(err)
			}
			out := cmd.OutOrStdout()
			switch {
			case l.quiet:
				for _, e := range all {
					fmt.Fprintln(out, shorten(e.ID, l.whole))
				}
				return nil
			case l.json:
				containers, networks := containerNames(ctx), networkNames(ctx)
				list := make([]namedEndpoint, len(all))
				for i, e := range all {
					list[i] = namedEndpoint{e, containers[e.ID], networks[e.NetworkID]}
				}
				return printJSON(out, list)
			}
			return printEndpoints(ctx, out, all, true, l.whole)
		},
	}
	l.addTo(cmd)
	cmd.Flags().StringVar(&network, "network", "", "only those of this network (a name, an id or the beginning of an id)")
	complete(cmd, "network", func(cmd *cobra.Command) []cobra.Completion { return completeNetworks(g, cmd) })
	return cmd
}
