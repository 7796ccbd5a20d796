package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/control"
	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/topology"
)

// namedEndpoint is an endpoint with the names that Docker knows, on a host.
type namedEndpoint struct {
	whereabouts
	topology.NamedEndpoint
}

func newEndpointLs(g *globals) *cobra.Command {
	var l listing
	var network, host string
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the endpoints",
		Long: "List the endpoints: one for each container on each network, on all hosts where hosts share\n" +
			"addresses. The containers' names come from Docker; they are left out (-) where Docker does not\n" +
			"answer. What other hosts have is seen some seconds later.\n\n" +
			"Where a DHCP server has given a running container another address, the one that Docker knows\n" +
			"is shown beside it: docker inspect has that until the container is started again.",
		Example: "  lanyard endpoint ls\n  lanyard endpoint ls --network lan --json\n  lanyard endpoint ls --host node2",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, client := cmd.Context(), g.client(cmd)
			on, err := networkAnywhere(cmd, client, network)
			if err != nil {
				return explain(err)
			}
			own, err := client.Endpoints(ctx, "")
			if err != nil {
				return explain(err)
			}
			named := []namedEndpoint{}
			if l.quiet {
				for _, e := range own {
					named = append(named, namedEndpoint{NamedEndpoint: topology.NamedEndpoint{EndpointState: e}})
				}
			} else {
				named = nameEndpoints(ctx, own)
			}
			all, shared, err := withOthers(ctx, client, cluster.SeenEndpoints, named, host, cmd.ErrOrStderr())
			if err != nil {
				return explain(err)
			}
			all = slices.DeleteFunc(all, func(e namedEndpoint) bool { return !on.is(e.NetworkID, e.NetworkName) })
			out := cmd.OutOrStdout()
			switch {
			case l.quiet:
				for _, e := range all {
					fmt.Fprintln(out, shorten(e.ID, l.whole))
				}
				return nil
			case l.json:
				return printJSON(out, all)
			}
			return printEndpoints(out, all, true, l.whole, shared)
		},
	}
	l.addTo(cmd)
	networkFlag(g, cmd, &network)
	hostFlag(g, cmd, &host)
	return cmd
}

// nameEndpoints adds the names that Docker knows.
func nameEndpoints(ctx context.Context, all []engine.EndpointState) []namedEndpoint {
	list := make([]namedEndpoint, len(all))
	if len(all) == 0 {
		return list
	}
	containers, networks := containerNames(ctx), networkNames(ctx)
	for i, e := range all {
		list[i].NamedEndpoint = topology.NamedEndpoint{EndpointState: e, Container: containers[e.ID], NetworkName: networks[e.NetworkID]}
	}
	return list
}

// wantedNetwork is the network that --network means, on all hosts: by its name, and on this one by its ID.
type wantedNetwork struct{ word, id string }

// is reports whether a network is meant; all are where none is named.
func (w wantedNetwork) is(id, name string) bool {
	return w.word == "" || id == w.id || name == w.word || w.id == "" && len(w.word) >= 4 && strings.HasPrefix(id, w.word)
}

// networkAnywhere is the network that networkFlag names, which may be another host's.
func networkAnywhere(cmd *cobra.Command, c *control.Client, word string) (wantedNetwork, error) {
	id, err := networkID(cmd, c, word)
	if err == nil {
		return wantedNetwork{word, id}, nil
	}
	if lan.Reason(err) != lan.ErrNotFound {
		return wantedNetwork{}, err
	}
	others, _, failed := withOthers(cmd.Context(), c, cluster.SeenNetworks, []namedNetwork{}, "", cmd.ErrOrStderr())
	if failed != nil {
		return wantedNetwork{}, failed
	}
	on := wantedNetwork{word: word}
	if !slices.ContainsFunc(others, func(n namedNetwork) bool { return on.is(n.ID, n.Name) }) {
		return wantedNetwork{}, err
	}
	return on, nil
}
