package main

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lanyard-net/lanyard/internal/control"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// namedAddress is an address with the names that Docker knows: Container is filled in
// where the daemon has none.
type namedAddress struct {
	ipam.AddressState
	NetworkName string `json:"network_name,omitempty"`
}

// addressStates are the words that --state takes.
var addressStates = []string{
	ipam.StateUsed, ipam.StateStarting, ipam.StateResting, ipam.StateIdle, ipam.StateHeld, ipam.StateReserved, ipam.StateGateway, ipam.StateHost, ipam.StateConflict,
}

// where are the flags that say which addresses are meant.
type where struct{ pool, network string }

func (w *where) addTo(g *globals, cmd *cobra.Command, pool, network string) {
	cmd.Flags().StringVar(&w.pool, "pool", "", pool)
	cmd.Flags().StringVar(&w.network, "network", "", network)
	complete(cmd, "pool", func(cmd *cobra.Command) []cobra.Completion { return completePools(g, cmd) })
	complete(cmd, "network", func(cmd *cobra.Command) []cobra.Completion { return completeNetworks(g, cmd) })
}

// complete lets a flag's values be completed.
func complete(cmd *cobra.Command, flag string, values func(*cobra.Command) []cobra.Completion) {
	f := func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return values(cmd), cobra.ShellCompDirectiveNoFileComp
	}
	if err := cmd.RegisterFlagCompletionFunc(flag, f); err != nil {
		panic(err) // the caller has defined the flag
	}
}

// find finds the pools that the flags name, and the id of the network that they do;
// none and "" where they name none.
func (w *where) find(cmd *cobra.Command, c *control.Client) (pools []ipam.PoolState, network string, err error) {
	if cmd.Flags().Changed("pool") {
		if pools, err = findPools(cmd.Context(), c, w.pool); err != nil {
			return nil, "", err
		}
	}
	if cmd.Flags().Changed("network") {
		if w.network == "" {
			return nil, "", lan.Refusef(lan.ErrInvalid, "--network is empty; try: lanyard network ls")
		}
		n, err := findNetwork(cmd.Context(), c, w.network)
		if err != nil {
			return nil, "", err
		}
		network = n.ID
	}
	return pools, network, nil
}

// list asks for the addresses that are meant.
func (w *where) list(cmd *cobra.Command, c *control.Client) ([]ipam.AddressState, error) {
	pools, network, err := w.find(cmd, c)
	if err != nil {
		return nil, err
	}
	all, err := c.Addresses(cmd.Context(), "", network)
	if err != nil || pools == nil {
		return all, err
	}
	return slices.DeleteFunc(all, func(a ipam.AddressState) bool {
		return !slices.ContainsFunc(pools, func(p ipam.PoolState) bool { return control.InPool(&p, &a) })
	}), nil
}

// of is what says to the daemon where an address is: a pool's or a network's id, "" to
// let it find out.
func (w *where) of(cmd *cobra.Command, c *control.Client, addr netip.Addr) (string, error) {
	if cmd.Flags().Changed("pool") && cmd.Flags().Changed("network") {
		return "", &usageError{"--pool and --network say the same: one of them is enough", cmd}
	}
	pools, network, err := w.find(cmd, c)
	switch {
	case err != nil:
		return "", err
	case network != "":
		all, err := c.Pools(cmd.Context())
		if err != nil {
			return "", err
		}
		if pools, err = poolsOf(all, network, w.network); err != nil {
			return "", err
		}
	case pools == nil:
		return "", nil
	}
	id, wire := "", ""
	var subnets []string
	for _, p := range pools {
		switch {
		case !p.Subnet.Contains(addr):
			subnets = append(subnets, p.Subnet.String())
		case id == "":
			id, wire = p.ID, p.Wire
		case wire != p.Wire:
			return "", lan.Refusef(lan.ErrConflict, "%q is a pool on %s and a network on %s; try: --network", w.pool, wire, p.Wire)
		}
	}
	if id == "" {
		return "", lan.Refusef(lan.ErrInvalid, "address %s is not in %s", addr, strings.Join(subnets, " or "))
	}
	return id, nil
}

func newAddressLs(g *globals) *cobra.Command {
	var l listing
	var w where
	var state string
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the addresses that something is known of",
		Long: "List the addresses that are used, resting, set aside or in conflict. All others are free.\n\n" +
			"An address is used by a container, or starting until Docker has connected it. One that a\n" +
			"container had is resting: until the time shown it is kept for that container, then it goes to\n" +
			"others too, but after those that nobody had. In conflict is one that a device on the wire uses;\n" +
			"the time shown is when it is looked for again.\n\n" +
			"Held is one that a host has claimed ahead (-o lease_ahead=N, where hosts share addresses): it is\n" +
			"nobody's, and that host's to give out.\n\n" +
			"The names of networks, and on engines before 29 those of containers, come from Docker.",
		Example: "  lanyard address ls --network lan\n  lanyard address ls --state conflict\n" +
			"  lanyard address ls --pool 192.168.0.0/16 --state used -q",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().Changed("state") && !slices.Contains(addressStates, state) {
				return &usageError{fmt.Sprintf("state %q: it is one of %s", state, strings.Join(addressStates, ", ")), cmd}
			}
			ctx, client := cmd.Context(), g.client(cmd)
			all, err := w.list(cmd, client)
			if err != nil {
				return explain(err)
			}
			if state != "" {
				all = slices.DeleteFunc(all, func(a ipam.AddressState) bool {
					return a.State != state && (state != ipam.StateConflict || a.Rival == "")
				})
			}
			out := cmd.OutOrStdout()
			if l.quiet {
				for _, a := range all {
					fmt.Fprintln(out, a.Address)
				}
				return nil
			}
			pools, err := client.Pools(ctx)
			if err != nil {
				return explain(err)
			}
			names := networkNames(ctx)
			named := nameAddresses(ctx, all, &nameBook{networks: names})
			if l.json {
				return printJSON(out, named)
			}
			return printAddresses(out, named, &places{pools, names}, l.whole, time.Now())
		},
	}
	cmd.Flags().BoolVar(&l.json, "json", false, "print JSON")
	cmd.Flags().BoolVarP(&l.quiet, "quiet", "q", false, "print only the addresses")
	cmd.Flags().BoolVar(&l.whole, "no-trunc", false, "do not cut ids short")
	w.addTo(g, cmd, "only those of this pool (an id, or a network's name or id)",
		"only those of this network (a name, an id or the beginning of an id)")
	cmd.Flags().StringVar(&state, "state", "", "only those that are "+strings.Join(addressStates, ", "))
	complete(cmd, "state", func(*cobra.Command) []cobra.Completion { return addressStates })
	return cmd
}

// nameAddresses adds the names that Docker knows.
func nameAddresses(ctx context.Context, all []ipam.AddressState, names *nameBook) []namedAddress {
	list := make([]namedAddress, len(all))
	for i, a := range all {
		a.Container = names.container(ctx, a.Container, a.Endpoint)
		list[i] = namedAddress{a, names.network(ctx, a.Network)}
	}
	return list
}

// places say where an address is, for tables of addresses of several pools.
type places struct {
	pools []ipam.PoolState
	names map[string]string
}

// networksOf is the network whose container has an address, else the networks of its
// pool, else those of the pools that it is in.
func (p *places) networksOf(a *ipam.AddressState) []string {
	if a.Network != "" {
		return []string{a.Network}
	}
	var ids []string
	for _, q := range p.pools {
		if q.ID == a.Pool {
			return q.Networks
		}
		for _, id := range q.Networks {
			if control.InPool(&q, a) && !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// printAddresses prints addresses in columns, with columns for where they are unless in
// is nil.
func printAddresses(out io.Writer, all []namedAddress, in *places, whole bool, now time.Time) error {
	head := []string{"ADDRESS", "STATE", "CONTAINER"}
	if in != nil {
		head = append(head, "NETWORK", "WIRE")
	}
	rows := [][]string{append(head, "MAC", "SOURCE", "SINCE", "UNTIL", "NOTE")}
	for _, a := range all {
		container := a.Container
		if container == "" {
			container = shorten(a.Endpoint, whole)
		}
		row := []string{a.Address.String(), a.State, or(container)}
		if in != nil {
			row = append(row, or(networksText(in.networksOf(&a.AddressState), in.names, whole)), or(a.Wire))
		}
		rows = append(rows, append(row, or(a.MAC), or(a.Source), ago(a.Since, now), ago(a.Until, now), or(a.Note)))
	}
	return printTable(out, rows)
}

// oneAddress is the argument of a command on an address.
func oneAddress(cmd *cobra.Command, args []string) (netip.Addr, error) {
	addr, err := netip.ParseAddr(args[0])
	if err != nil || addr.Zone() != "" {
		return addr, &usageError{fmt.Sprintf("address %q is not one such as 192.168.11.9 or fd00:1::9", args[0]), cmd}
	}
	return addr.Unmap(), nil
}

func newAddressReserve(g *globals) *cobra.Command {
	var w where
	var q control.Reservation
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "reserve ADDRESS",
		Short: "Set an address aside for one container, or for nobody",
		Long: "Set an address aside: nobody gets it but the container with the given name, whenever that is\n" +
			"connected. Engines from 29 on say the name, so the container gets the address by itself; before,\n" +
			"who starts it says --ip (or -o ip=), and whoever says it gets it. Without --for nobody does.\n\n" +
			"An address that a container has is refused, unless it is reserved already: it may then be\n" +
			"reserved anew, for another name or with another note, and stays with who has it for now. To end\n" +
			"a reservation, release the address.",
		Example: "  lanyard address reserve 192.168.11.9 --for web\n" +
			"  lanyard address reserve 192.168.11.250 --network lan --note \"the printer in room 5\"",
		Args: oneArg("address"),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, err := oneAddress(cmd, args)
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("for") && q.Name == "" {
				return &usageError{"--for is empty: it is the name of a container", cmd}
			}
			client := g.client(cmd)
			if q.Pool, err = w.of(cmd, client, addr); err != nil {
				return explain(err)
			}
			q.Address = addr.String()
			done, err := client.Reserve(cmd.Context(), q)
			if err != nil {
				return explain(err)
			}
			return report(cmd, asJSON, done, reserved(done, &q))
		},
		ValidArgsFunction: completeAddresses(g),
	}
	cmd.Flags().StringVar(&q.Name, "for", "", "the name of the container that is to have it")
	cmd.Flags().StringVar(&q.Note, "note", "", "what it is reserved for, to be shown beside it")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	w.addTo(g, cmd, wherePool, whereNetwork)
	complete(cmd, "for", func(*cobra.Command) []cobra.Completion { return completeContainers() })
	return cmd
}

// What is said of the flags where one wire alone may have an address.
const (
	wherePool    = "which pool's, where several wires have the address (an id, or a network's name or id)"
	whereNetwork = "the same, by a network (a name, an id or the beginning of an id)"
)

// reserved says what was done.
func reserved(c *control.Change, q *control.Reservation) string {
	text := c.Address.String() + on(c.Now) + " is reserved for "
	if q.Name == "" {
		text = c.Address.String() + on(c.Now) + " is reserved, and nobody gets it"
	} else {
		text += "container " + q.Name
	}
	if a := c.Now; a != nil && (a.State == ipam.StateUsed || a.State == ipam.StateStarting) {
		who := a.Container
		if who == "" {
			who = "endpoint " + lan.Short(a.Endpoint)
		}
		text += "; " + who + " has it now, and keeps it until it ends"
	}
	return text
}

func newAddressRelease(g *globals) *cobra.Command {
	var w where
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "release ADDRESS",
		Short: "Make an address free for anybody at once",
		Long: "Make an address free for anybody at once that is resting, reserved or in conflict. What it was\n" +
			"is forgotten: the container that had it, or that it was reserved for, has no claim to it any\n" +
			"more. One that was in conflict is looked for on the wire again before it is given out, unless\n" +
			"that is off. An address that a container has is refused.",
		Example: "  lanyard address release 192.168.11.9\n  lanyard address release 192.168.11.9 --network lan",
		Args:    oneArg("address"),
		RunE: func(cmd *cobra.Command, args []string) error {
			addr, err := oneAddress(cmd, args)
			if err != nil {
				return err
			}
			client := g.client(cmd)
			pool, err := w.of(cmd, client, addr)
			if err != nil {
				return explain(err)
			}
			done, err := client.Release(cmd.Context(), pool, addr.String())
			if err != nil {
				return explain(err)
			}
			return report(cmd, asJSON, done, released(done))
		},
		ValidArgsFunction: completeAddresses(g),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	w.addTo(g, cmd, wherePool, whereNetwork)
	return cmd
}

// released says what was done.
func released(c *control.Change) string {
	text := c.Address.String() + on(c.Was) + " is free"
	if c.Now != nil {
		text = c.Address.String() + on(c.Now) + " is released, and " + c.Now.State + " still"
	}
	if c.Was == nil {
		return text
	}
	switch text += "; it was "; c.Was.State {
	case ipam.StateReserved:
		return text + c.Was.Note // which says so, and for whom
	case ipam.StateConflict:
		return text + "in conflict with " + c.Was.MAC
	case ipam.StateResting, ipam.StateIdle:
		if c.Was.Container != "" {
			return text + "container " + c.Was.Container + "'s"
		}
	}
	return text + c.Was.State
}

// on says on which wire an address is.
func on(a *ipam.AddressState) string {
	if a == nil || a.Wire == "" {
		return ""
	}
	return " on " + a.Wire
}

// report prints what was done.
func report(cmd *cobra.Command, asJSON bool, done *control.Change, text string) error {
	if asJSON {
		return printJSON(cmd.OutOrStdout(), done)
	}
	_, err := fmt.Fprintln(cmd.OutOrStdout(), text)
	return err
}

// completeAddresses offers the addresses that can be reserved or released, of those that
// something is known of.
func completeAddresses(g *globals) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		all, err := g.client(cmd).Addresses(ctx, "", "")
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []cobra.Completion
		for _, a := range all {
			switch {
			case a.State == ipam.StateReserved && a.Source == ipam.SourceReservation, a.State == ipam.StateConflict:
				out = append(out, cobra.CompletionWithDesc(a.Address.String(), a.Note))
			case a.Source == ipam.SourceServer: // lanyard lease release
			case a.State == ipam.StateResting, a.State == ipam.StateIdle:
				out = append(out, cobra.CompletionWithDesc(a.Address.String(), strings.TrimSpace(a.State+" "+a.Container)))
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
}

// completeContainers offers the names of containers that run.
func completeContainers() []cobra.Completion {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var out []cobra.Completion
	for _, name := range containerNames(ctx) {
		out = append(out, name)
	}
	slices.Sort(out)
	return slices.Compact(out)
}
