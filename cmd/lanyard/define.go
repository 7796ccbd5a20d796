package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/control"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/plan"
)

const (
	// defineFor is how long hosts are waited for, unless a flag says otherwise.
	defineFor = 30 * time.Second
	// defineAgain is how often they are asked.
	defineAgain = 500 * time.Millisecond
)

var (
	errNotDefined = errors.New("not all is as it is defined; try: lanyard network diff")
	errDiffers    = errors.New("not all is as it is defined")
)

// defined is what a command that defines networks prints with --json.
type defined struct {
	Steps   []plan.Step          `json:"steps"`
	Reports []control.HostReport `json:"reports"`
	// Silent are the hosts that are to have them when they are back.
	Silent []string `json:"silent"`
}

// defining are the flags of all commands that define networks.
type defining struct {
	json bool
	wait time.Duration
}

func (d *defining) addTo(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&d.json, "json", false, "print JSON")
	cmd.Flags().DurationVar(&d.wait, "timeout", defineFor, "how long hosts are waited for; 0s does not wait")
}

func newNetworkApply(g *globals) *cobra.Command {
	var d defining
	var file string
	var prune, dry bool
	cmd := &cobra.Command{
		Use:   "apply -f FILE",
		Short: "Define networks once, for all hosts",
		Long: "Define networks once: all hosts that share addresses make them in their own Docker, each on its own\n" +
			"parent. A host that joins later, or is silent now, makes them when it comes. The file has the words\n" +
			"of a Compose file's networks, and parent and hosts besides; docs/cluster.md has all of them:\n\n" +
			"  networks:\n" +
			"    macvlan100:\n" +
			"      parent: [eth1.100, {mac: '52:54:00:12:34:56', hosts: node2}]\n" +
			"      ipam:\n" +
			"        config:\n" +
			"          - subnet: 192.168.0.0/16\n" +
			"            gateway: 192.168.0.1\n\n" +
			"Definitions that the file does not have stay, unless --prune is given. A network that differs from\n" +
			"its definition is made anew once no container is on it; one of that name that was made by hand\n" +
			"is taken as it is where it does not differ, and left alone where it does.\n\n" +
			"The exit code is 1 where a host that is alive does not have all of them in time.",
		Example: "  lanyard network apply -f networks.yaml\n  lanyard network apply -f networks.yaml --prune --dry-run\n" +
			"  lanyard network export | sed s/eth1/bond0/ | lanyard network apply -f -",
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				return &usageError{"which file is missing: -f FILE, or -f - for standard input", cmd}
			}
			want, err := readDefinitions(cmd, file)
			if err != nil {
				return err
			}
			steps, err := g.client(cmd).Define(cmd.Context(), control.Define{Networks: want, Prune: prune, Dry: dry})
			if err != nil {
				return explain(err)
			}
			if dry {
				d.wait = 0
			}
			return d.follow(cmd, g.client(cmd), steps, dry)
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "the file with the definitions, - for standard input")
	cmd.Flags().BoolVar(&prune, "prune", false, "remove definitions that the file does not have")
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would be changed, and change nothing")
	d.addTo(cmd)
	return cmd
}

func readDefinitions(cmd *cobra.Command, file string) ([]plan.Network, error) {
	in := cmd.InOrStdin()
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	list, err := plan.Read(in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return list, nil
}

// follow says what was changed, and then what becomes of it on the hosts.
func (d *defining) follow(cmd *cobra.Command, c *control.Client, steps []plan.Step, dry bool) error {
	out := cmd.OutOrStdout()
	done := defined{Steps: steps, Reports: []control.HostReport{}, Silent: []string{}}
	if !d.json {
		printSteps(out, steps, dry)
	}
	if d.wait <= 0 {
		if d.json {
			return printJSON(out, done)
		}
		return nil
	}
	names := make([]string, len(steps))
	for i, s := range steps {
		names[i] = s.Network
	}
	all, pending, err := await(cmd.Context(), c, names, d.wait, cmd.ErrOrStderr())
	if err != nil {
		return explain(err)
	}
	done.Reports = only(all.Reports, func(r *control.HostReport) bool { return slices.Contains(names, r.Network) })
	done.Silent = silent(&all)
	if d.json {
		err = printJSON(out, done)
	} else if len(done.Reports) > 0 {
		fmt.Fprintln(out)
		err = printReports(out, done.Reports)
	}
	if err != nil {
		return err
	}
	for _, name := range done.Silent {
		fmt.Fprintf(cmd.ErrOrStderr(), "lanyard: host %s is silent; it heeds this when it is back\n", name)
	}
	for _, p := range pending {
		fmt.Fprintf(cmd.ErrOrStderr(), "lanyard: host %s has not said in %s what became of network %s\n", p.Host, d.wait, p.Network)
	}
	if len(pending) > 0 || slices.ContainsFunc(done.Reports, func(r control.HostReport) bool { return r.Alive && r.State != plan.Ready }) {
		return errNotDefined
	}
	return nil
}

// await waits until all hosts that are alive have said what became of networks, and it is what is defined, for some time. It
// returns what all say then, and who has said nothing.
func await(ctx context.Context, c *control.Client, names []string, wait time.Duration, progress io.Writer) (all control.Definitions, pending []control.HostReport, err error) {
	start := time.Now()
	said := map[string]bool{}
	for {
		if all, err = c.Definitions(ctx); err != nil {
			return all, nil, err
		}
		var open []control.HostReport
		if pending, open = unsaid(&all, names); len(pending)+len(open) == 0 || time.Since(start) > wait {
			return all, pending, nil
		}
		if time.Since(start) > 2*time.Second {
			for _, p := range append(pending, open...) {
				text := fmt.Sprintf("waiting for %s on %s", p.Network, p.Host)
				if p.Problem != "" {
					text += ": " + p.Problem
				}
				if !said[text] {
					said[text] = true
					fmt.Fprintln(progress, text)
				}
			}
		}
		// A network that containers are on, or that is somebody's, is not waited for.
		if len(pending) == 0 && !slices.ContainsFunc(open, func(r control.HostReport) bool { return r.State == plan.Waiting }) {
			return all, nil, nil
		}
		select {
		case <-ctx.Done():
			return all, pending, ctx.Err()
		case <-time.After(defineAgain):
		}
	}
}

// unsaid are the hosts that are alive and have not said what became of a network as it is defined now (pending), and
// those that have said that it is not so (open).
func unsaid(all *control.Definitions, names []string) (pending, open []control.HostReport) {
	for _, h := range all.Hosts {
		if !h.Alive {
			continue
		}
		for _, name := range names {
			i := slices.IndexFunc(all.Reports, func(r control.HostReport) bool { return r.Host == h.Name && r.Network == name })
			var says *control.HostReport
			if i >= 0 {
				says = &all.Reports[i]
			}
			revision := int64(0)
			for _, d := range all.Networks {
				if d.Name == name && d.For(h.Name) {
					revision = d.Revision
				}
			}
			switch {
			case says == nil && revision == 0: // it has none, and is to have none
			case says == nil || says.Revision != revision:
				pending = append(pending, control.HostReport{Host: h.Name, Report: plan.Report{Network: name}})
			case says.State != plan.Ready:
				open = append(open, *says)
			}
		}
	}
	return pending, open
}

// silent are the names of the hosts that are not alive.
func silent(all *control.Definitions) []string {
	names := []string{}
	for _, h := range all.Hosts {
		if !h.Alive {
			names = append(names, h.Name)
		}
	}
	return names
}

// stepWords are what a step does, and what it would do.
var stepWords = map[plan.Action][2]string{
	plan.Create: {"defined", "would be defined"}, plan.Change: {"changed", "would be changed"},
	plan.Remove: {"no more defined", "would be defined no more"}, plan.Keep: {"as it was", "as it is"},
}

func printSteps(out io.Writer, steps []plan.Step, dry bool) {
	for _, s := range steps {
		word := stepWords[s.Action][0]
		if dry {
			word = stepWords[s.Action][1]
		}
		fmt.Fprintf(out, "%s: %s\n", s.Network, word)
		for _, d := range s.Differences {
			fmt.Fprintln(out, "  "+d)
		}
	}
}

func printReports(out io.Writer, all []control.HostReport) error {
	rows := [][]string{{"NETWORK", "HOST", "STATE", "PARENT", "ID"}}
	for _, r := range all {
		host := r.Host
		if !r.Alive {
			host += " (silent)"
		}
		rows = append(rows, []string{r.Network, host, string(r.State), or(r.Parent), or(lan.Short(r.NetworkID))})
	}
	if err := printTable(out, rows); err != nil {
		return err
	}
	for _, r := range all {
		if r.Problem == "" && len(r.Differences) == 0 {
			continue
		}
		fmt.Fprintf(out, "\n%s on %s is %s", r.Network, r.Host, r.State)
		if r.Problem != "" {
			fmt.Fprintf(out, ": %s", r.Problem)
		}
		if len(r.Containers) > 0 {
			fmt.Fprintf(out, " (%s)", words(r.Containers))
		}
		fmt.Fprintln(out)
		for _, d := range r.Differences {
			fmt.Fprintln(out, "  "+d)
		}
	}
	return nil
}

func newNetworkDiff(g *globals) *cobra.Command {
	var asJSON bool
	var file string
	cmd := &cobra.Command{
		Use:   "diff [-f FILE]",
		Short: "Compare what hosts have with what is defined for all",
		Long: "Compare the networks that hosts have with what is defined for all of them, and with -f also the\n" +
			"definitions with those of a file. On a host a network is\n\n" +
			"ready      as it is defined\n" +
			"waiting    not there yet; what for is said\n" +
			"outdated   otherwise than it is defined; it is made anew once no container is on it, nor is to be\n" +
			"           on it when it starts\n" +
			"foreign    otherwise, and made by hand, so it is left alone\n" +
			"removing   defined no more; it goes once no container is on it\n\n" +
			"The exit code is 0 where all is as it is defined, and 1 otherwise.",
		Example: "  lanyard network diff\n  lanyard network diff -f networks.yaml\n  lanyard network diff --json | jq -r '.reports[] | select(.state != \"ready\")'",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			out := cmd.OutOrStdout()
			done := defined{Steps: []plan.Step{}, Silent: []string{}}
			if file != "" {
				want, err := readDefinitions(cmd, file)
				if err != nil {
					return err
				}
				if done.Steps, err = g.client(cmd).Define(cmd.Context(), control.Define{Networks: want, Prune: true, Dry: true}); err != nil {
					return explain(err)
				}
			}
			all, err := g.client(cmd).Definitions(cmd.Context())
			if err != nil {
				return explain(err)
			}
			done.Reports = all.Reports
			names := make([]string, len(all.Networks))
			for i, d := range all.Networks {
				names[i] = d.Name
			}
			pending, open := unsaid(&all, names)
			for _, p := range pending {
				p.State, p.Alive, p.Problem = plan.Waiting, true, "the host has not said yet what became of it"
				done.Reports = append(only(done.Reports, func(r *control.HostReport) bool { return r.Host != p.Host || r.Network != p.Network }), p)
			}
			done.Silent = silent(&all)
			changes := only(done.Steps, func(s *plan.Step) bool { return s.Action != plan.Keep })
			switch {
			case asJSON:
				err = printJSON(out, done)
			case len(all.Networks)+len(done.Reports)+len(changes) == 0:
				fmt.Fprintln(out, "No networks are defined; try: lanyard network apply --help")
			default:
				printSteps(out, changes, true)
				if len(changes) > 0 {
					fmt.Fprintln(out)
				}
				err = printReports(out, done.Reports)
			}
			if err != nil {
				return err
			}
			if len(changes)+len(pending)+len(open) > 0 || slices.ContainsFunc(done.Reports, func(r control.HostReport) bool { return r.State == plan.Removing }) {
				return errDiffers
			}
			return nil
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "a file with definitions, - for standard input")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func newNetworkExport(g *globals) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "export [NETWORK...]",
		Short:   "Print what is defined for all hosts, as apply reads it",
		Long:    "Print the definitions that all hosts have, or some of them, as \"lanyard network apply\" reads them. With\n--json it is also said when and on which host each was changed.",
		Example: "  lanyard network export > networks.yaml\n  lanyard network export macvlan100",
		RunE: func(cmd *cobra.Command, args []string) error {
			all, err := g.client(cmd).Definitions(cmd.Context())
			if err != nil {
				return explain(err)
			}
			some := all.Networks[:0:0]
			var list []plan.Network
			for _, d := range all.Networks {
				if len(args) == 0 || slices.Contains(args, d.Name) {
					list, some = append(list, d.Network), append(some, d)
				}
			}
			for _, name := range args {
				if !slices.ContainsFunc(list, func(n plan.Network) bool { return n.Name == name }) {
					return lan.Refusef(lan.ErrNotFound, "no network %q is defined; try: lanyard network export", name)
				}
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), some)
			}
			text, err := plan.Write(list)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(text)
			return err
		},
		ValidArgsFunction: completeDefinitions(g),
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// completeDefinitions completes the names of definitions.
func completeDefinitions(g *globals) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		all, err := g.client(cmd).Definitions(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var words []cobra.Completion
		for _, d := range all.Networks {
			words = append(words, cobra.CompletionWithDesc(d.Name, "defined for all hosts"))
		}
		return words, cobra.ShellCompDirectiveNoFileComp
	}
}

// createFlags are those of docker network create, and parent and host.
type createFlags struct {
	driver, ipamDriver          string
	parents, hosts              []string
	subnets, ranges, gateways   []string
	aux, opts, ipamOpts, labels map[string]string
	internal, attachable, ipv6  bool
}

func newNetworkCreate(g *globals) *cobra.Command {
	var d defining
	var f createFlags
	cmd := &cobra.Command{
		Use:   "create NETWORK",
		Short: "Define a network once, for all hosts, by flags",
		Long: "Define a network once, for all hosts that share addresses, with the flags of \"docker network create\".\n" +
			"A network of one host is made by \"docker network create -d lanyard\".\n\n" +
			"--parent may be given several times: each host takes the first that fits it. It is a link, or one of\n" +
			"mac=ADDRESS, pci=ADDRESS, route=ADDRESS (the link that packets to there leave by).",
		Example: "  lanyard network create --subnet 192.168.0.0/16 --gateway 192.168.0.1 -o parent=eth1.100 macvlan100\n" +
			"  lanyard network create --subnet 10.7.0.0/24 --parent route=10.0.0.1 --parent eth0 -o vlan=7 vlan7",
		Args: oneArg("network"),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := f.network(args[0])
			if err != nil {
				return err
			}
			steps, err := g.client(cmd).Define(cmd.Context(), control.Define{Networks: []plan.Network{*n}, Create: true})
			if err != nil {
				return explain(err)
			}
			return d.follow(cmd, g.client(cmd), steps, false)
		},
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	s := cmd.Flags()
	s.StringVarP(&f.driver, "driver", "d", plan.Driver, "the driver; there is one")
	s.StringArrayVar(&f.parents, "parent", nil, "the parent: LINK, mac=ADDRESS, pci=ADDRESS or route=ADDRESS; the first that a host has")
	s.StringArrayVar(&f.hosts, "host", nil, "only for hosts of this name, or that match a pattern such as node*")
	s.StringArrayVar(&f.subnets, "subnet", nil, "subnet in CIDR format")
	s.StringArrayVar(&f.ranges, "ip-range", nil, "the part of a subnet that containers get addresses from")
	s.StringArrayVar(&f.gateways, "gateway", nil, "gateway of a subnet")
	s.StringToStringVar(&f.aux, "aux-address", nil, "addresses that no container gets, NAME=ADDRESS")
	s.StringToStringVarP(&f.opts, "opt", "o", nil, "driver options, as with docker network create")
	s.StringVar(&f.ipamDriver, "ipam-driver", "", "lanyard or null (default: lanyard; null with -o subnet= or -o source=)")
	s.StringToStringVar(&f.ipamOpts, "ipam-opt", nil, "options of the IPAM driver")
	s.StringToStringVar(&f.labels, "label", nil, "labels")
	s.BoolVar(&f.internal, "internal", false, "no way out of the network")
	s.BoolVar(&f.attachable, "attachable", false, "as with docker network create")
	s.BoolVar(&f.ipv6, "ipv6", false, "IPv6; implied by an IPv6 subnet")
	d.addTo(cmd)
	return cmd
}

// network is the definition that the flags say.
func (f *createFlags) network(name string) (*plan.Network, error) {
	n := &plan.Network{
		Name: name, Driver: f.driver, Hosts: f.hosts, DriverOpts: f.opts, Internal: f.internal, Attachable: f.attachable, EnableIPv6: f.ipv6, Labels: f.labels,
		IPAM: plan.IPAM{Driver: f.ipamDriver, Options: f.ipamOpts},
	}
	for _, text := range f.parents {
		r, err := plan.ParseRule(text)
		if err != nil {
			return nil, err
		}
		n.Parent = append(n.Parent, r)
	}
	for _, s := range f.subnets {
		n.IPAM.Config = append(n.IPAM.Config, plan.Subnet{Subnet: s})
	}
	// in is the subnet that has an address.
	in := func(what, text string) (*plan.Subnet, error) {
		addr, err := netip.ParseAddr(text)
		if p, err2 := netip.ParsePrefix(text); err != nil && err2 == nil {
			addr = p.Addr()
		}
		for i := range n.IPAM.Config {
			if p, err := netip.ParsePrefix(n.IPAM.Config[i].Subnet); err == nil && p.Contains(addr) {
				return &n.IPAM.Config[i], nil
			}
		}
		return nil, lan.Refusef(lan.ErrInvalid, "%s %s is in no subnet that was given", what, text)
	}
	for _, text := range f.ranges {
		s, err := in("ip-range", text)
		if err != nil {
			return nil, err
		}
		s.IPRange = text
	}
	for _, text := range f.gateways {
		s, err := in("gateway", text)
		if err != nil {
			return nil, err
		}
		s.Gateway = text
	}
	for _, key := range slices.Sorted(maps.Keys(f.aux)) {
		s, err := in("aux-address", f.aux[key])
		if err != nil {
			return nil, err
		}
		if s.Aux == nil {
			s.Aux = map[string]string{}
		}
		s.Aux[key] = f.aux[key]
	}
	return n, n.Check()
}

// undefine removes the definitions among names, if hosts share any, and waits for the hosts. It returns the other names. Where it
// cannot be said what is defined that is an error, unless force is set.
func (d *defining) undefine(cmd *cobra.Command, c *control.Client, names []string, force bool) (others []string, err error) {
	all, err := c.Definitions(cmd.Context())
	switch reason := lan.Reason(err); {
	case err == nil:
	case reason == lan.ErrNotFound || reason == lan.ErrUnavailable && force:
		return names, nil // hosts share nothing
	case reason == lan.ErrUnavailable:
		return nil, fmt.Errorf("whether the network is defined for all hosts is not known: %w; or --force, if you know that it is not", err)
	default:
		return nil, explain(err)
	}
	var steps []plan.Step
	for _, name := range names {
		if !slices.ContainsFunc(all.Networks, func(n cluster.Definition) bool { return n.Name == name }) {
			others = append(others, name)
			continue
		}
		if err := c.Undefine(cmd.Context(), name); err != nil {
			return nil, err
		}
		steps = append(steps, plan.Step{Network: name, Action: plan.Remove})
	}
	if len(steps) == 0 {
		return others, nil
	}
	return others, d.follow(cmd, c, steps, false)
}
