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
			"Docker; they are left out (-) where Docker does not answer.\n\n" +
			"Where a DHCP server has given a running container another address, the one that Docker knows\n" +
			"is shown beside it: docker inspect has that until the container is started again.",
		Example: "  lanyard endpoint ls\n  lanyard endpoint ls --network lan --json",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, client := cmd.Context(), g.client(cmd)
			id, err := networkID(cmd, client, network)
			if err != nil {
				return explain(err)
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
	networkFlag(g, cmd, &network)
	return cmd
}
