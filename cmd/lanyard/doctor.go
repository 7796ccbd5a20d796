package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/lanyard-net/lanyard/internal/control"
	"github.com/lanyard-net/lanyard/internal/doctor"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/plan"
)

// The exit codes of doctor, by the worst that it found.
const (
	exitWarning = 3
	exitFinding = 4
)

// verdictError ends a command with an exit code, and says nothing more.
type verdictError int

func (e verdictError) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func newDoctor(g *globals) *cobra.Command {
	var asJSON, quiet bool
	var pluginSocket, stateDir string
	cmd := &cobra.Command{
		Use:   "doctor [PARENT|NETWORK|CONTAINER]",
		Short: "Find out what keeps containers from the LAN",
		Long: "Find out what keeps containers from the LAN, from the kernel's modules up to what answers on the\n" +
			"wire: of all macvlan and ipvlan networks of this host, also those of Docker's built-in drivers, or\n" +
			"of one parent, network or container. The parent may be a VLAN that is not there yet (eth1.300): it\n" +
			"is looked whether it reaches this host.\n\n" +
			"It takes some 4 seconds, 9 at most, makes no link on the host, and is safe beside running\n" +
			"containers. On each wire it sends a few ARP requests, a router solicitation and a DHCPDISCOVER,\n" +
			"also from a MAC address that the LAN does not know, and listens; a container of each network pings\n" +
			"its gateway. It needs root, and says what it could not look at without.\n\n" +
			"Each finding has a code, which stays the same; \"lanyard explain CODE\" tells more. The exit code is\n" +
			"0 where nothing is wrong, 3 where something is to be looked after (warning), 4 where something does\n" +
			"not work (failure).",
		Example: "  lanyard doctor\n  lanyard doctor eth1.100\n  lanyard doctor web\n  lanyard doctor --json | jq -r '.findings[] | select(.verdict==\"failure\") | .code'",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 1 {
				return &usageError{"\"lanyard doctor\" takes one parent, network or container", cmd}
			}
			return nil
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return completeNetworks(g, cmd), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			links, err := link.New()
			if err != nil {
				return err
			}
			defer links.Close()
			c := doctor.Config{Links: links, Client: thisVersion(), PluginSocket: pluginSocket, StateDir: stateDir, Target: strings.Join(args, "")}
			var work errgroup.Group
			work.Go(func() error { c.Daemon = askDaemon(cmd.Context(), g.client(cmd)); return nil })
			work.Go(func() error { c.Engine = askEngine(cmd.Context()); return nil })
			work.Wait()
			if _, ok := terminalWidth(cmd.ErrOrStderr()); ok && !asJSON {
				c.Progress = func(what string) { fmt.Fprintf(cmd.ErrOrStderr(), "%s ...\n", what) }
			}
			r, err := doctor.Run(cmd.Context(), c)
			if err != nil {
				return err
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), r)
			} else {
				err = printReport(cmd.OutOrStdout(), r, quiet)
			}
			switch {
			case err != nil:
				return err
			case r.Verdict == doctor.Failure:
				return verdictError(exitFinding)
			case r.Verdict == doctor.Warning:
				return verdictError(exitWarning)
			}
			return nil
		},
	}
	cmd.Flags().BoolVarP(&quiet, "quiet", "q", false, "print only what is not as it should be")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringVar(&pluginSocket, "plugin-socket", defaultPluginSocket, "where Docker reaches lanyard")
	cmd.Flags().StringVar(&stateDir, "state-dir", defaultStateDir, "the folder of the daemon's state")
	return cmd
}

// askDaemon asks the daemon for all that a doctor wants to know of it.
func askDaemon(ctx context.Context, c *control.Client) (d doctor.Daemon) {
	slow, cancelSlow := context.WithTimeout(ctx, 2*patience)
	defer cancelSlow()
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if d.Version, d.Err = c.Version(ctx); d.Err != nil {
		return doctor.Daemon{Err: d.Err}
	}
	var work errgroup.Group
	work.Go(func() (err error) { d.Networks, err = c.Networks(ctx); return err })
	work.Go(func() (err error) { d.Endpoints, err = c.Endpoints(ctx, ""); return err })
	work.Go(func() (err error) { d.Pools, err = c.Pools(ctx); return err })
	work.Go(func() (err error) { d.Leases, err = c.Leases(ctx, ""); return err })
	work.Go(func() error {
		all, err := c.Addresses(ctx, "", "")
		for _, a := range all {
			if a.State == ipam.StateConflict || a.Rival != "" {
				d.Conflicts = append(d.Conflicts, a)
			}
		}
		return err
	})
	work.Go(func() error {
		if hosts, err := c.Hosts(ctx); err == nil { // an error where no addresses are shared
			d.Hosts = &hosts
		}
		return nil
	})
	work.Go(func() error {
		// It asks Docker for each container.
		r, err := c.Repair(slow, true)
		if d.RepairErr = err; err == nil {
			d.Steps, d.Notes = r.Steps, r.Notes
		}
		return nil
	})
	d.Err = work.Wait()
	return d
}

// askEngine asks Docker what it is, and for its macvlan and ipvlan networks with their containers.
func askEngine(ctx context.Context) (e doctor.Engine) {
	ctx, cancel := context.WithTimeout(ctx, 2*patience)
	defer cancel()
	api := dockerAPI(patience)
	e.Where = api.where
	var version struct{ Version string }
	if e.Err = api.get(ctx, "/version", &version); e.Err != nil {
		return e
	}
	e.Version = version.Version
	var info struct {
		OperatingSystem string
		SecurityOptions []string
		Plugins         struct{ Network []string }
	}
	if e.Partial = api.get(ctx, "/info", &info); e.Partial != nil {
		return e
	}
	e.System = info.OperatingSystem
	e.Rootless = slices.Contains(info.SecurityOptions, "name=rootless")
	e.Plugin = slices.ContainsFunc(info.Plugins.Network, func(p string) bool { return plan.IsDriver(p, defaultDriver) && strings.Contains(p, ":") })
	var list []dockerNet
	if e.Partial = api.get(ctx, "/networks", &list); e.Partial != nil {
		return e
	}
	for _, n := range list {
		ours := plan.IsDriver(n.Driver, defaultDriver)
		if !ours && !isBuiltIn(n.Driver) || n.ConfigOnly {
			continue
		}
		d := doctor.EngineNetwork{ID: n.ID, Name: n.Name, Driver: n.Driver, Ours: ours, Scope: n.Scope, Options: n.Options}
		for _, c := range n.IPAM.Config {
			d.Subnets = append(d.Subnets, c.Subnet)
			d.Ranges = append(d.Ranges, c.IPRange)
			d.Gateways = append(d.Gateways, c.Gateway)
		}
		e.Networks = append(e.Networks, d)
	}
	e.Partial = api.containersOf(ctx, e.Networks)
	return e
}

// containersOf fills in the running containers of networks.
func (a *engineAPI) containersOf(ctx context.Context, networks []doctor.EngineNetwork) error {
	var list []struct {
		ID              string
		Names           []string
		NetworkSettings struct {
			Networks map[string]*struct {
				NetworkID, EndpointID, MacAddress string
				IPAddress, GlobalIPv6Address      string
				IPPrefixLen, GlobalIPv6PrefixLen  int
			}
		}
	}
	if err := a.get(ctx, "/containers/json", &list); err != nil {
		return err
	}
	for _, c := range list {
		var is struct {
			NetworkSettings struct{ SandboxKey string }
		}
		for _, n := range c.NetworkSettings.Networks {
			if n == nil || len(c.Names) == 0 {
				continue
			}
			i := slices.IndexFunc(networks, func(d doctor.EngineNetwork) bool { return d.ID == n.NetworkID })
			if i < 0 {
				continue
			}
			if is.NetworkSettings.SandboxKey == "" && !networks[i].Ours { // the daemon says it of ours
				if err := a.get(ctx, "/containers/"+c.ID+"/json", &is); err != nil && !errors.Is(err, errGone) {
					return err
				}
			}
			k := doctor.EngineContainer{Name: strings.TrimPrefix(c.Names[0], "/"), Endpoint: n.EndpointID, MAC: n.MacAddress, Sandbox: is.NetworkSettings.SandboxKey}
			if n.IPAddress != "" {
				k.IPv4 = fmt.Sprintf("%s/%d", n.IPAddress, n.IPPrefixLen)
			}
			if n.GlobalIPv6Address != "" {
				k.IPv6 = fmt.Sprintf("%s/%d", n.GlobalIPv6Address, n.GlobalIPv6PrefixLen)
			}
			networks[i].Containers = append(networks[i].Containers, k)
		}
	}
	return nil
}

// verdictWords are what stands before a finding.
var verdictWords = map[doctor.Verdict]string{doctor.OK: "ok", doctor.Note: "note", doctor.Warning: "WARNING", doctor.Failure: "FAILURE"}

// printReport prints findings by subject: those that are as they should be in a line each, the others with all that is
// known.
func printReport(w io.Writer, r *doctor.Report, quiet bool) error {
	width := 0
	for _, f := range r.Findings {
		width = max(width, len(f.Code))
	}
	subject := ""
	for _, f := range r.Findings {
		if quiet && f.Verdict < doctor.Warning {
			continue
		}
		if f.Subject != subject {
			if subject != "" {
				fmt.Fprintln(w)
			}
			subject = f.Subject
			fmt.Fprintln(w, subject)
		}
		fmt.Fprintf(w, "  %-7s  %-*s  %s\n", verdictWords[f.Verdict], width, f.Code, f.What)
		if f.Verdict == doctor.OK {
			continue
		}
		for i, e := range f.Evidence {
			detail(w, "seen", e, i == 0)
		}
		if f.Cause != "" {
			detail(w, "cause", f.Cause, true)
		}
		for i, t := range f.Try {
			detail(w, "try", t, i == 0)
		}
	}
	if subject != "" {
		fmt.Fprintln(w)
	}
	if os.Geteuid() != 0 {
		fmt.Fprintln(w, "Not all was looked at: only root may look into the wire, the containers and the daemon.")
	}
	_, err := fmt.Fprintf(w, "%s, %s, %s; %.1f s\n", counted(r.Count(doctor.Failure), "failure"), counted(r.Count(doctor.Warning), "warning"),
		counted(r.Count(doctor.OK)+r.Count(doctor.Note), "other finding"), r.Seconds)
	return err
}

// detail prints a line of a finding, broken to fit a terminal.
func detail(w io.Writer, head, text string, first bool) {
	const indent = 11
	if !first {
		head = ""
	} else {
		head += ":"
	}
	for i, line := range wrap(text, 100-indent-7) {
		if i > 0 {
			head = ""
		}
		fmt.Fprintf(w, "%*s%-7s%s\n", indent, "", head, line)
	}
}

// wrap breaks a text into lines of at most width characters, where it has spaces.
func wrap(text string, width int) (lines []string) {
	line := ""
	for _, word := range strings.Fields(text) {
		switch {
		case line == "":
			line = word
		case len(line)+1+len(word) > width:
			lines, line = append(lines, line), word
		default:
			line += " " + word
		}
	}
	return append(lines, line)
}

func newExplain() *cobra.Command {
	var asJSON, list bool
	cmd := &cobra.Command{
		Use:   "explain [MESSAGE|CODE]",
		Short: "Say what is behind an error message of Docker's, or a code of doctor's",
		Long: "Say what is behind an error message, and what to do: one of Docker's, of its built-in macvlan and\n" +
			"ipvlan drivers, of the kernel or of a DHCP client; with whatever stands around it in a log. Or of a\n" +
			"code that \"lanyard doctor\" has found. Without an argument it reads standard input, and tells each\n" +
			"message that it knows once. One that it does not know is an error. It asks no daemon.",
		Example: "  lanyard explain \"failed to create the macvlan port: device or resource busy\"\n" +
			"  lanyard explain new-mac\n  journalctl -u docker -n 200 | lanyard explain\n  lanyard explain --list",
		Args: cobra.ArbitraryArgs,
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) (codes []cobra.Completion, _ cobra.ShellCompDirective) {
			for _, c := range doctor.Codes() {
				codes = append(codes, cobra.CompletionWithDesc(c.Name, c.Title))
			}
			return codes, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			out := cmd.OutOrStdout()
			if list {
				return printExplainList(out, asJSON)
			}
			text := strings.Join(args, " ")
			if len(args) == 0 {
				b, err := io.ReadAll(io.LimitReader(cmd.InOrStdin(), 64<<20))
				if err != nil {
					return err
				}
				text = string(b)
			}
			if strings.TrimSpace(text) == "" {
				return &usageError{"there is no message to explain", cmd}
			}
			if c, ok := doctor.CodeOf(strings.TrimSpace(text)); ok {
				if asJSON {
					return printJSON(out, c)
				}
				return printCode(out, c)
			}
			messages := doctor.Explain(text)
			if len(messages) == 0 {
				return unknownMessage(text)
			}
			if asJSON {
				return printJSON(out, messages)
			}
			for i, m := range messages {
				if i > 0 {
					fmt.Fprintln(out)
				}
				if err := printMessage(out, m); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().BoolVarP(&list, "list", "l", false, "list all messages and codes that are known")
	return cmd
}

func unknownMessage(text string) error {
	text = strings.Join(strings.Fields(text), " ")
	if near := doctor.NearestCode(text); near != "" && !strings.Contains(text, " ") {
		return lan.Refusef(lan.ErrNotFound, "%q is no code; did you mean %s?", text, near)
	}
	if len(text) > 60 {
		text = text[:60] + "..."
	}
	return lan.Refusef(lan.ErrNotFound, "nothing is known of %q; try: lanyard doctor, lanyard explain --list", text)
}

func printExplainList(w io.Writer, asJSON bool) error {
	if asJSON {
		return printJSON(w, struct {
			Codes    []doctor.Code    `json:"codes"`
			Messages []doctor.Message `json:"messages"`
		}{doctor.Codes(), doctor.Messages()})
	}
	rows := [][]string{{"CODE", "WHAT DOCTOR LOOKS AT"}}
	for _, c := range doctor.Codes() {
		rows = append(rows, []string{c.Name, c.Title})
	}
	if err := printTable(w, rows); err != nil {
		return err
	}
	fmt.Fprintln(w, "\nMESSAGE")
	for _, m := range doctor.Messages() {
		fmt.Fprintln(w, m.Example)
	}
	return nil
}

func printCode(w io.Writer, c doctor.Code) error {
	fmt.Fprintf(w, "%s: %s\n", c.Name, c.Title)
	detail(w, "cause", c.Means, true)
	for i, t := range c.Do {
		detail(w, "try", t, i == 0)
	}
	return nil
}

func printMessage(w io.Writer, m doctor.Message) error {
	fmt.Fprintln(w, m.Example)
	detail(w, "cause", m.Means, true)
	if m.With != "" {
		detail(w, "here", m.With, true)
	}
	for i, t := range m.Do {
		detail(w, "try", t, i == 0)
	}
	if len(m.Codes) > 0 {
		detail(w, "codes", strings.Join(m.Codes, ", "), true)
	}
	return nil
}
