package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lanyard-net/lanyard/internal/control"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// namedPool is a pool with the names that Docker knows.
type namedPool struct {
	ipam.PoolState
	// NetworkNames are those of Networks, in their order, "" where it is not known.
	NetworkNames []string `json:"network_names"`
}

// inspectedPool is all about a pool.
type inspectedPool struct {
	Pool      namedPool      `json:"pool"`
	Addresses []namedAddress `json:"addresses"`
}

func newPoolLs(g *globals) *cobra.Command {
	var l listing
	cmd := &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the pools of addresses",
		Long: "List the pools: the subnets, or parts of one, that containers get addresses from. ACD says\n" +
			"whether addresses are looked for on the wire before they are given out.\n\n" +
			"The bar shows, from the left, what is used, what is set aside, resting or in conflict, and what\n" +
			"is free. Each has one cell at least if there is any. Where the locale is not UTF-8 the bar is\n" +
			"made of #, + and dots.\n\n" +
			"The addresses of a network that takes them from the site's DHCP servers are no pool of lanyard's:\n" +
			"only the leases that containers have (USED), and those kept for containers that ended (RESTING),\n" +
			"are counted. See: lanyard lease ls.\n\n" +
			"Where hosts share addresses, HELD are those that hosts have claimed ahead (lease_ahead) and not\n" +
			"given out; the column is there where there is any.\n\n" +
			"The control socket has the same figures for Prometheus, at /metrics.",
		Example: "  lanyard pool ls\n  lanyard pool ls --json | jq -r '.[] | select(.source != \"dhcp\" and .free < 10) | .id'\n" +
			"  curl --unix-socket " + defaultControlSocket + " http://lanyard/metrics",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := g.client(cmd).Pools(cmd.Context())
			if err != nil {
				return explain(err)
			}
			out := cmd.OutOrStdout()
			if l.quiet {
				for _, p := range all {
					fmt.Fprintln(out, poolID(p.ID, l.whole))
				}
				return nil
			}
			names := networkNames(cmd.Context())
			if l.json {
				return printJSON(out, namePools(all, names))
			}
			held := slices.ContainsFunc(all, func(p ipam.PoolState) bool { return p.Held > 0 || p.AheadWanted > 0 })
			rows := [][]string{{"POOL", "NETWORK", "WIRE", "SIZE", "USED", "FREE", "RESTING", "CONFLICT", "ACD", "BAR"}}
			if held {
				rows[0] = slices.Insert(rows[0], heldColumn, "HELD")
			}
			for _, p := range all {
				row := poolRow(&p, names, l.whole, utf8Locale())
				if held {
					row = slices.Insert(row, heldColumn, number(p.Held))
				}
				rows = append(rows, row)
			}
			return printTable(out, rows)
		},
	}
	l.addTo(cmd)
	return cmd
}

// heldColumn is where what is held is in the table.
const heldColumn = 6

// poolRow is a pool in columns.
func poolRow(p *ipam.PoolState, names map[string]string, whole, glyphs bool) []string {
	row := []string{poolID(p.ID, whole), or(networksText(p.Networks, names, whole)), or(p.Wire)}
	if p.Source == lan.SourceDHCP {
		return append(row, "-", number(p.Used), "-", number(p.Resting), "-", p.ACD, fromDHCP)
	}
	return append(row, sizeText(p), number(p.Used), freeText(p), number(p.Resting), number(p.Conflicting), p.ACD, bar(p.Counts, glyphs))
}

func newPoolInspect(g *globals) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect POOL|NETWORK...",
		Short: "Show all about pools, and who has their addresses",
		Long: "Show all about pools, and the addresses in them that are not free, conflicts first. A pool is\n" +
			"named by its id, or by a network that has it: a name, an id, or the unique beginning of an id.\n" +
			"Where a network has the name of another one's pool, all of these are shown.",
		Example: "  lanyard pool inspect lan\n  lanyard pool inspect 192.168.0.0/16,192.168.11.0/24\n" +
			"  lanyard pool inspect lan --json | jq '.[].pool.free'",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return &usageError{fmt.Sprintf("%q takes at least one pool or network", cmd.CommandPath()), cmd}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, client := cmd.Context(), g.client(cmd)
			var pools []ipam.PoolState
			for _, word := range args {
				found, err := findPools(ctx, client, word)
				if err != nil {
					return explain(err)
				}
				for _, p := range found {
					if !slices.ContainsFunc(pools, func(q ipam.PoolState) bool { return q.ID == p.ID }) {
						pools = append(pools, p)
					}
				}
			}
			now, names := time.Now(), networkNames(ctx)
			book, list := &nameBook{networks: names}, make([]inspectedPool, len(pools))
			for i, p := range namePools(pools, names) {
				all, err := client.Addresses(ctx, p.ID, "")
				if err != nil {
					return explain(err)
				}
				all = slices.DeleteFunc(all, func(a ipam.AddressState) bool { return isFree(&a) })
				slices.SortStableFunc(all, func(a, b ipam.AddressState) int { return worst(&a) - worst(&b) })
				list[i] = inspectedPool{p, nameAddresses(ctx, all, book)}
			}
			out := cmd.OutOrStdout()
			if asJSON {
				return printJSON(out, list)
			}
			for i, p := range list {
				if i > 0 {
					fmt.Fprintln(out)
				}
				if err := printPool(out, &p, now); err != nil {
					return err
				}
			}
			return nil
		},
		ValidArgsFunction: func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			return completePools(g, cmd), cobra.ShellCompDirectiveNoFileComp
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// findPools are the pools that word means: the one with that id, and those of the network
// that it means.
func findPools(ctx context.Context, c *control.Client, word string) ([]ipam.PoolState, error) {
	if word == "" {
		return nil, lan.Refusef(lan.ErrInvalid, "a pool's id or a network is missing; try: lanyard pool ls")
	}
	all, err := c.Pools(ctx)
	if err != nil {
		return nil, err
	}
	network := ""
	n, err := findNetwork(ctx, c, word)
	if err == nil {
		network = n.ID
	}
	found := slices.DeleteFunc(slices.Clone(all), func(p ipam.PoolState) bool {
		return p.ID != word && poolID(p.ID, false) != word && !slices.Contains(p.Networks, network)
	})
	switch {
	case len(found) > 0:
		return found, nil
	case errors.Is(err, lan.ErrNotFound) && strings.ContainsAny(word, "/.:"):
		return nil, lan.Refusef(lan.ErrNotFound, "pool %q is not known; try: lanyard pool ls", word)
	case err != nil:
		return nil, err
	}
	return poolsOf(all, n.ID, word)
}

// poolsOf are the pools of a network, which the user calls word. There must be one.
func poolsOf(all []ipam.PoolState, network, word string) ([]ipam.PoolState, error) {
	var found []ipam.PoolState
	for _, p := range all {
		if slices.Contains(p.Networks, network) {
			found = append(found, p)
		}
	}
	if len(found) == 0 {
		return nil, lan.Refusef(lan.ErrNotFound, "network %s has no pool: another IPAM driver gives out its addresses; try: lanyard endpoint ls --network %s", word, word)
	}
	return found, nil
}

// completePools offers what stands for a pool on the command line: its id, and the names
// of its networks.
func completePools(g *globals, cmd *cobra.Command) []cobra.Completion {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	all, err := g.client(cmd).Pools(ctx)
	if err != nil {
		return nil
	}
	names := networkNames(ctx)
	var out []cobra.Completion
	seen := map[string]bool{}
	for _, p := range all {
		about := number(p.Used) + " of " + sizeText(&p) + " used"
		if p.Source == lan.SourceDHCP {
			about = number(p.Used) + " leased " + fromDHCP
		}
		if p.Wire != "" {
			about += ", on " + p.Wire
		}
		out = append(out, cobra.CompletionWithDesc(poolID(p.ID, false), about))
		for _, id := range p.Networks {
			if name := names[id]; name != "" && !seen[name] {
				seen[name] = true
				out = append(out, cobra.CompletionWithDesc(name, "the network's pools"))
			}
		}
	}
	return out
}

func namePools(all []ipam.PoolState, names map[string]string) []namedPool {
	list := make([]namedPool, len(all))
	for i, p := range all {
		list[i] = namedPool{p, make([]string, len(p.Networks))}
		for k, id := range p.Networks {
			list[i].NetworkNames[k] = names[id]
		}
	}
	return list
}

// poolID is the id of a pool. Those of networks whose subnets are options begin with the
// network's, which is cut short unless all of it is wanted.
func poolID(id string, whole bool) string {
	network, number, ofNetwork := strings.Cut(id, "/")
	if whole || !ofNetwork || strings.ContainsAny(network, ".:@") {
		return id
	}
	return lan.Short(network) + "/" + number
}

// networksText names networks, by the beginning of an id where there is no name.
func networksText(ids []string, names map[string]string, whole bool) string {
	words := make([]string, len(ids))
	for i, id := range ids {
		if words[i] = names[id]; words[i] == "" {
			words[i] = shorten(id, whole)
		}
	}
	return strings.Join(words, ",")
}

// isFree reports whether an address that something is known of goes to anybody.
func isFree(a *ipam.AddressState) bool { return a.State == ipam.StateIdle }

// worst orders addresses by how much they matter to who looks for trouble.
func worst(a *ipam.AddressState) int {
	switch {
	case a.State == ipam.StateConflict:
		return 0
	case a.Rival != "":
		return 1
	}
	return 2
}

func printPool(out io.Writer, p *inspectedPool, now time.Time) error {
	line := func(key, value string) {
		if value != "" {
			fmt.Fprintf(out, "%-14s%s\n", key+":", value)
		}
	}
	s := &p.Pool
	line("Pool", s.ID)
	for i, id := range s.Networks {
		name := s.NetworkNames[i]
		if name == "" {
			line("Network", lan.Short(id))
			continue
		}
		line("Network", name+" ("+lan.Short(id)+")")
	}
	if len(s.Networks) == 0 {
		line("Network", "none of lanyard's")
	}
	line("Wire", s.Wire)
	printSubnets(line, "Subnet", []lan.Subnet{{Pool: s.Subnet, Source: s.Source}})
	if s.Range.IsValid() {
		line("Range", s.Range.String())
	}
	if s.Source != lan.SourceDHCP {
		line("Gives out", s.First.String()+" to "+s.Last.String())
	}
	if s.Gateway.IsValid() {
		line("Gateway", s.Gateway.String())
	}
	words := make([]string, len(s.Aux))
	for i, addr := range s.Aux {
		words[i] = addr.String()
	}
	line("Auxiliary", strings.Join(words, ", "))
	line("Identity", s.Identity)
	line("Grace", duration(time.Duration(s.Grace*float64(time.Second))))
	acd := s.ACD
	if s.StockWanted > 0 {
		acd += fmt.Sprintf(", %d of %d addresses probed ahead", s.Stock, s.StockWanted)
	}
	line("ACD", acd)
	if s.Ahead > 0 || s.AheadWanted > 0 {
		line("Ahead", fmt.Sprintf("%d of %d addresses claimed ahead by this host", s.Ahead, s.AheadWanted))
	}
	line("Note", s.Note)
	if s.Conflicts > 0 || s.Defended > 0 {
		line("Conflicts", fmt.Sprintf("%d seen on the wire since the daemon started, %d times defended", s.Conflicts, s.Defended))
	}
	line("Created", s.Created.Local().Format(time.RFC3339))
	if s.Source == lan.SourceDHCP {
		line("Leases", fmt.Sprintf("%d used, %d kept for containers that ended; try: lanyard lease ls", s.Used, s.Resting))
		return printPoolAddresses(out, p.Addresses, now)
	}
	held := ""
	if s.Held > 0 {
		held = fmt.Sprintf("%d held ahead, ", s.Held)
	}
	line("Addresses", fmt.Sprintf("%s: %d used, %d set aside, %d resting, %d conflicting, %s%s free",
		sizeText(&s.PoolState), s.Used, s.Reserved, s.Resting, s.Conflicting, held, freeText(&s.PoolState)))
	fmt.Fprintf(out, "%-14s%s\n", "", bar(s.Counts, utf8Locale()))
	return printPoolAddresses(out, p.Addresses, now)
}

// printPoolAddresses prints a pool's addresses, if there are any, below what is said of it.
func printPoolAddresses(out io.Writer, all []namedAddress, now time.Time) error {
	if len(all) == 0 {
		return nil
	}
	fmt.Fprintln(out)
	return printAddresses(out, all, nil, false, now)
}

// Bars have 20 cells, drawn for used, not to be had, and free.
const barCells = 20

var (
	barGlyphs = [3]string{"█", "▒", "░"}
	barASCII  = [3]string{"#", "+", "."}
)

// bar draws how full a pool is: what is used, what is set aside, resting or in conflict,
// and what is free. What there is any of has one cell at least.
func bar(c ipam.Counts, glyphs bool) string {
	parts := [3]float64{float64(c.Used), float64(c.Reserved) + float64(c.Resting) + float64(c.Conflicting) + float64(c.Held), float64(c.Free)}
	total, most := 0.0, 2
	for i, n := range parts {
		total += n
		if n > parts[most] {
			most = i
		}
	}
	var cells [3]int
	left := barCells
	for i, n := range parts {
		if i == most {
			continue
		}
		if n > 0 {
			cells[i] = max(1, int(math.Round(n/total*barCells)))
		}
		left -= cells[i]
	}
	cells[most] = left // a third at least, so never none
	drawn := barASCII
	if glyphs {
		drawn = barGlyphs
	}
	var b strings.Builder
	for i, n := range cells {
		b.WriteString(strings.Repeat(drawn[i], n))
	}
	return b.String()
}

// many is what numbers are written as powers from.
const many = 1_000_000

// number writes a number as people can read it: large powers of two as such, and what
// has more digits than anybody counts as the power that it is near.
func number(n uint64) string {
	power := bits.Len64(n) - 1
	switch {
	case n > many && n&(n-1) == 0:
		return "2^" + strconv.Itoa(power)
	case n < 1e12:
		return strconv.FormatUint(n, 10)
	}
	near := math.Log2(float64(n))
	if whole := math.Round(near); math.Abs(near-whole) < 0.01 {
		return "~2^" + strconv.Itoa(int(whole))
	}
	return fmt.Sprintf("~2^%.1f", near)
}

// sizeText is the size of a pool. It is written for what is meant by it: that of an IPv6
// subnet as a whole, though its first address is a router's.
func sizeText(p *ipam.PoolState) string {
	of := p.Subnet
	if p.Range.IsValid() {
		of = p.Range
	}
	if of.Addr().Is6() && p.Size > many {
		return "2^" + strconv.Itoa(of.Addr().BitLen()-of.Bits())
	}
	return number(p.Size)
}

// freeText is how many addresses of a pool are free.
func freeText(p *ipam.PoolState) string {
	if p.Size == math.MaxUint64 && p.Free > math.MaxUint64/1024*1023 {
		return "~" + sizeText(p)
	}
	return number(p.Free)
}
