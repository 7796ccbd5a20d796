package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/control"
	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/topology"
)

// namedNetwork is a network with the name that Docker knows, on a host.
type namedNetwork struct {
	whereabouts
	topology.NamedNetwork
}

// nameNetwork adds the name that Docker knows.
func nameNetwork(n engine.NetworkState, names map[string]string) namedNetwork {
	return namedNetwork{NamedNetwork: topology.NamedNetwork{NetworkState: n, Name: names[n.ID]}}
}

// listing are the flags of all "ls" commands.
type listing struct{ json, quiet, whole bool }

func (l *listing) addTo(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&l.json, "json", false, "print JSON")
	cmd.Flags().BoolVarP(&l.quiet, "quiet", "q", false, "print only the ids")
	cmd.Flags().BoolVar(&l.whole, "no-trunc", false, "do not cut ids short")
}

func newNetworkLs(g *globals) *cobra.Command {
	var l listing
	var host string
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the networks",
		Long: "List the networks that the daemon serves, and those of all hosts where hosts share addresses. The\n" +
			"names come from Docker; they are left out (-) where Docker does not answer.",
		Example: "  lanyard network ls\n  lanyard network ls --host node2\n  lanyard network ls --json | jq -r '.[].parent_link'",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			own, err := g.client(cmd).Networks(cmd.Context())
			if err != nil {
				return explain(err)
			}
			named, unnamed := dockerNetworks(cmd.Context())
			names := namesOf(named)
			list := make([]namedNetwork, len(own))
			for i, n := range own {
				list[i] = nameNetwork(n, names)
			}
			list, shared, err := withOthers(cmd.Context(), g.client(cmd), cluster.SeenNetworks, list, host, cmd.ErrOrStderr())
			if err != nil {
				return explain(err)
			}
			if err := l.printNetworks(cmd.OutOrStdout(), list, shared); err != nil || l.json || l.quiet {
				return err
			}
			for _, n := range list {
				if n.Problem != "" {
					fmt.Fprintf(cmd.ErrOrStderr(), "lanyard: network %s%s: %s\n", lan.Short(n.ID), onHost(&n.whereabouts), n.Problem)
				}
			}
			for _, n := range own {
				if unnamed == nil && names[n.ID] == "" {
					fmt.Fprintf(cmd.ErrOrStderr(), "lanyard: network %s: Docker has it no more; try: lanyard network rm %s\n", lan.Short(n.ID), lan.Short(n.ID))
				}
			}
			return nil
		},
	}
	l.addTo(cmd)
	hostFlag(g, cmd, &host)
	return cmd
}

// onHost names a host in a sentence, if it is to be named.
func onHost(w *whereabouts) string {
	if w.Host == "" {
		return ""
	}
	return " on " + w.Host
}

func (l *listing) printNetworks(out io.Writer, all []namedNetwork, shared bool) error {
	if l.quiet {
		for _, n := range all {
			fmt.Fprintln(out, shorten(n.ID, l.whole))
		}
		return nil
	}
	if l.json {
		return printJSON(out, all)
	}
	rows := [][]string{{"NETWORK ID", "NAME", "KIND", "MODE", "PARENT", "VLAN", "SUBNETS", "ENDPOINTS"}}
	for _, n := range all {
		rows = append(rows, []string{
			shorten(n.ID, l.whole), or(n.Name), string(n.Kind), mode(&n.Network), parent(&n.NetworkState), or(tags(n.Tags)),
			or(pools(&n.Network)), strconv.Itoa(n.Endpoints),
		})
	}
	if shared {
		rows = withHosts(rows, all)
	}
	return printTable(out, rows)
}

// withHosts puts a column of hosts in front of a table.
func withHosts[T any, P located[T]](rows [][]string, all []T) [][]string {
	rows[0] = append([]string{"HOST"}, rows[0]...)
	for i := range all {
		rows[i+1] = append([]string{P(&all[i]).where().hostText()}, rows[i+1]...)
	}
	return rows
}

// mode is the network's mode, with the flag if that is not the usual one.
func mode(n *lan.Network) string {
	if n.Flag != "" && n.Flag != lan.FlagBridge {
		return string(n.Mode) + "," + string(n.Flag)
	}
	return string(n.Mode)
}

// parent is the link that carries the network, or the one that was asked for.
func parent(n *engine.NetworkState) string {
	if n.ParentLink != "" {
		return n.ParentLink
	}
	return or(n.Parent.String())
}

// tags prints VLAN tags, the outer one first.
func tags(list []lan.Tag) string {
	words := make([]string, len(list))
	for i, t := range list {
		words[i] = strconv.Itoa(int(t.ID))
	}
	return strings.Join(words, ".")
}

// fromDHCP stands for what only a site's DHCP server knows.
const fromDHCP = "from DHCP"

// pools are the subnets of both families; Docker's null IPAM driver has none.
func pools(n *lan.Network) string {
	var words []string
	for _, list := range [][]lan.Subnet{n.IPv4, n.IPv6} {
		for _, s := range list {
			if s.Pool.Bits() != 0 {
				words = append(words, s.Pool.String())
			} else if s.Source == lan.SourceDHCP && !slices.Contains(words, fromDHCP) {
				words = append(words, fromDHCP)
			}
		}
	}
	return strings.Join(words, ",")
}

func newNetworkInspect(g *globals) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect NETWORK",
		Short: "Show all about one network",
		Long: "Show all that the daemon knows of one network of this host: a name, an id, or the unique beginning\n" +
			"of an id. Where hosts share addresses, the endpoints of all networks of that name are shown.",
		Example: "  lanyard network inspect lan\n  lanyard network inspect --json 0728abe9c17d",
		Args:    oneArg("network"),
		RunE: func(cmd *cobra.Command, args []string) error {
			client := g.client(cmd)
			n, err := findNetwork(cmd.Context(), client, args[0])
			if err != nil {
				return explain(err)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), n)
			}
			own, err := client.Endpoints(cmd.Context(), n.ID)
			if err != nil {
				return explain(err)
			}
			endpoints, shared, err := withOthers(cmd.Context(), client, cluster.SeenEndpoints, nameEndpoints(cmd.Context(), own), "", cmd.ErrOrStderr())
			if err != nil {
				return explain(err)
			}
			endpoints = slices.DeleteFunc(endpoints, func(e namedEndpoint) bool { return e.NetworkID != n.ID && (n.Name == "" || e.NetworkName != n.Name) })
			return printNetwork(cmd.OutOrStdout(), n, endpoints, shared)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return completeNetworks(g, cmd), cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// completeNetworks offers what stands for a network on the command line: its
// name, or its id where Docker does not answer.
func completeNetworks(g *globals, cmd *cobra.Command) []cobra.Completion {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	all, err := g.client(cmd).Networks(ctx)
	if err != nil {
		return nil
	}
	names := networkNames(ctx)
	var out []cobra.Completion
	for _, n := range all {
		about := fmt.Sprintf("%s %s on %s", n.Kind, mode(&n.Network), parent(&n))
		if names[n.ID] != "" {
			out = append(out, cobra.CompletionWithDesc(names[n.ID], about))
		}
		out = append(out, cobra.CompletionWithDesc(lan.Short(n.ID), about))
	}
	return out
}

// networkFlag is the flag that leaves only what is a network's.
func networkFlag(g *globals, cmd *cobra.Command, word *string) {
	cmd.Flags().StringVar(word, "network", "", "only those of this network (a name, an id or the beginning of an id)")
	complete(cmd, "network", func(cmd *cobra.Command) []cobra.Completion { return completeNetworks(g, cmd) })
}

// networkID is the id of the network that networkFlag names, "" where it names none.
func networkID(cmd *cobra.Command, c *control.Client, word string) (string, error) {
	if !cmd.Flags().Changed("network") {
		return "", nil
	}
	n, err := findNetwork(cmd.Context(), c, word)
	if err != nil {
		return "", err
	}
	return n.ID, nil
}

// findNetwork is the network that word means, as docker would take it: an id,
// else a name, else the unique beginning of an id.
func findNetwork(ctx context.Context, c *control.Client, word string) (*namedNetwork, error) {
	if word == "" {
		// It would be the name of any network that Docker does not know.
		return nil, lan.Refusef(lan.ErrInvalid, "the network's name is empty; try: lanyard network ls")
	}
	all, err := c.Networks(ctx)
	if err != nil {
		return nil, err
	}
	named, _ := dockerNetworks(ctx) // without names an id will do
	names := namesOf(named)
	for _, want := range []func(*engine.NetworkState) bool{
		func(n *engine.NetworkState) bool { return n.ID == word },
		func(n *engine.NetworkState) bool { return names[n.ID] == word },
	} {
		for i := range all {
			if want(&all[i]) {
				n := nameNetwork(all[i], names)
				return &n, nil
			}
		}
	}
	for _, d := range named {
		if d.Name == word {
			return nil, lan.Refusef(lan.ErrNotFound, "network %q is one of Docker's %s driver, not of lanyard; try: lanyard network ls", word, d.Driver)
		}
	}
	n, err := c.Network(ctx, word)
	if err != nil {
		return nil, err
	}
	found := nameNetwork(*n, names)
	return &found, nil
}

func printNetwork(out io.Writer, n *namedNetwork, endpoints []namedEndpoint, shared bool) error {
	line := func(key, value string) {
		if value != "" {
			fmt.Fprintf(out, "%-14s%s\n", key+":", value)
		}
	}
	line("Network", n.ID)
	line("Name", n.Name)
	line("Kind", string(n.Kind))
	line("Mode", mode(&n.Network))
	made := ""
	if n.Made {
		made = " (made by lanyard)"
	}
	line("Parent", parent(&n.NetworkState)+made)
	line("Asked for", n.Parent.String())
	line("Parent MAC", n.ParentMAC)
	words := make([]string, len(n.Tags))
	for i, t := range n.Tags {
		words[i] = t.String()
	}
	line("VLAN", strings.Join(words, ", "))
	if n.MTU != 0 {
		line("MTU", strconv.Itoa(n.MTU))
	}
	line("Link name", n.IfName)
	if n.Internal {
		line("Internal", "yes")
	}
	if n.HostAccess {
		as := make([]string, len(n.HostAddrs))
		for i, a := range n.HostAddrs {
			as[i] = a.String()
		}
		line("Host access", strings.TrimSuffix("yes, as "+strings.Join(as, ", "), ", as "))
	}
	if n.AntiSpoof {
		line("Antispoof", "yes")
	}
	printSubnets(line, "IPv4 subnet", n.IPv4)
	printSubnets(line, "IPv6 subnet", n.IPv6)
	printDHCP(line, &n.Network)
	line("Created", n.Created.Local().Format(time.RFC3339))
	line("Note", n.Note)
	line("Problem", n.Problem)
	line("Endpoints", strconv.Itoa(len(endpoints)))
	if len(endpoints) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	return printEndpoints(out, endpoints, false, false, shared)
}

func printSubnets(line func(key, value string), key string, list []lan.Subnet) {
	for _, s := range list {
		value := s.Pool.String()
		switch {
		case s.Source == lan.SourceDHCP && s.Pool.Bits() == 0:
			value = fromDHCP
		case s.Source == lan.SourceDHCP:
			value += ", addresses " + fromDHCP
		case s.Pool.Bits() == 0:
			value = "none (null IPAM)"
		}
		if s.Gateway.IsValid() {
			value += ", gateway " + s.Gateway.String()
		}
		line(key, value)
	}
}

// printDHCP says how containers of a network ask DHCP servers.
func printDHCP(line func(key, value string), n *lan.Network) {
	if !n.Leases() {
		return
	}
	d := &n.DHCP
	back := "never given back"
	switch d.When() {
	case lan.ReleaseRemove:
		back = "given back when the container has not come back for " + duration(n.GraceTime())
	case lan.ReleaseStop:
		back = "given back when the container ends"
	}
	line("DHCP", "waited for up to "+duration(d.Wait())+", "+back)
	line("Servers", words(d.Servers))
	line("Refused", words(d.Deny))
	line("Client ID", d.ClientID)
	if d.Fallback.IsValid() {
		line("Fallback", d.Fallback.String()+", where no server answers")
	}
}

// addressText is a container's address, and what Docker knows in its place.
func addressText(has, told netip.Prefix) string {
	text := ""
	if has.IsValid() {
		text = has.String()
	}
	if told.IsValid() && told.Addr() != has.Addr() {
		if text == "" {
			text = "none"
		}
		text += " (Docker: " + told.Addr().String() + ")"
	}
	return text
}

// printEndpoints prints endpoints in columns, with one for their network where there may be several, and one for
// their host where hosts share addresses.
func printEndpoints(out io.Writer, all []namedEndpoint, networks, whole, shared bool) error {
	head := []string{"ENDPOINT ID", "CONTAINER"}
	if networks {
		head = append(head, "NETWORK")
	}
	rows := [][]string{append(head, "KIND", "PARENT", "IPV4", "IPV6", "MAC", "STATE")}
	for _, e := range all {
		row := []string{shorten(e.ID, whole), or(e.Container)}
		if networks {
			name := e.NetworkName
			if name == "" {
				name = shorten(e.NetworkID, whole)
			}
			row = append(row, name)
		}
		v4, v6 := addressText(e.IPv4, e.Told4), addressText(e.IPv6, e.Told6)
		for _, a := range e.SLAAC {
			v6 = strings.TrimSpace(v6 + " " + a.String() + " (slaac)")
		}
		rows = append(rows, append(row, string(e.Kind), or(e.Parent), or(v4), or(v6), or(e.MAC), e.State))
	}
	if shared {
		rows = withHosts(rows, all)
	}
	return printTable(out, rows)
}
