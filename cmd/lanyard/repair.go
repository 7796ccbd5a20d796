package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/lanyard-net/lanyard/internal/control"
	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/plan"
	"github.com/lanyard-net/lanyard/internal/store"
)

// repairer compares what Docker, the records and the kernel have, for lanyard repair, and by
// itself where the state file was damaged.
type repairer struct {
	api    *engineAPI
	driver string                      // the name under which Docker knows us, without a plugin's registry and tag
	has    func(networkID string) bool // whether a network is on record here
	engine *engine.Engine
	damage *store.Damage
	late   *latecomers
	log    *slog.Logger
}

// repair is what lanyard repair asks of the daemon.
func (r *repairer) repair(ctx context.Context, dry bool) control.Repair {
	view, err := r.view(ctx)
	answer := control.Repair{Steps: r.engine.Repair(ctx, view, dry)}
	if err != nil {
		answer.Notes = append(answer.Notes, fmt.Sprintf("Docker does not say all that it has (%v), so what it did not say was not compared", err))
	}
	if d := r.damage; d != nil {
		answer.Notes = append(answer.Notes, fmt.Sprintf("the state file was damaged when lanyard started, and is kept as %s; %d records were read from it", d.Aside, d.Kept))
	}
	return answer
}

// looks are how often Docker is looked at for what a damaged state file has lost.
const looks = 6

// Run takes in what a damaged state file has lost, once Docker says what there is, and looks
// again until a look finds nothing more.
func (r *repairer) Run(ctx context.Context) error {
	if r.damage == nil {
		return nil
	}
	r.log.Error("state file was damaged and is set aside; what it lost is taken in from Docker", "aside", r.damage.Aside, "records_read", r.damage.Kept, "why", r.damage.Why)
	done := 0
	for wait := time.Second; ; wait = min(2*wait, lookMost) {
		view, err := r.view(ctx)
		if err != nil {
			r.log.Info("Docker does not say all that it has", "err", err)
		}
		if view != nil {
			steps := r.engine.Repair(ctx, view, false)
			r.log.Info("state repaired after damage", "steps", len(steps))
			for _, n := range view.Networks {
				r.late.tell(n.ID)
			}
			if done++; len(steps) == 0 && err == nil || done == looks {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// view asks Docker what it has of this driver's. With an error it may lack containers, and is
// nil where Docker said nothing.
func (r *repairer) view(ctx context.Context) (*engine.DockerView, error) {
	var list []plan.Request
	if err := r.api.get(ctx, "/networks?filters="+url.QueryEscape(`{"type":{"custom":true}}`), &list); err != nil {
		return nil, err
	}
	v := &engine.DockerView{}
	ours := map[string]bool{}
	for _, n := range list {
		if !r.ours(n.Driver) && !r.has(n.ID) { // a managed plugin may have any name
			continue
		}
		if n.Scope == "swarm" && !r.has(n.ID) {
			// A manager lists all networks of its swarm. This node has those of its tasks alone,
			// and asked for one by its ID Docker says what it has here, if anything.
			id := n.ID
			n = plan.Request{}
			if err := r.api.get(ctx, "/networks/"+id, &n); errors.Is(err, errGone) || err == nil && n.IPAM.Driver == "" {
				continue
			} else if err != nil {
				return nil, err
			}
		}
		ours[n.ID] = true
		d := engine.DockerNetwork{Name: n.Name, NetworkRequest: lan.NetworkRequest{
			ID: n.ID, Options: n.Options, Internal: n.Internal, WantIPv4: n.EnableIPv4 == nil || *n.EnableIPv4, WantIPv6: n.EnableIPv6,
		}}
		leased := n.IPAM.Driver == n.Driver || r.ours(n.IPAM.Driver)
		for _, c := range n.IPAM.Config {
			subnet, err := netip.ParsePrefix(c.Subnet)
			if err != nil || n.IPAM.Driver == "null" {
				continue // its subnets are options
			}
			s := lan.Subnet{Pool: subnet.Masked(), Leased: leased, Gateway: addrIn(c.Gateway)}
			for _, aux := range c.AuxiliaryAddresses {
				if a := addrIn(aux); a.IsValid() {
					s.Aux = append(s.Aux, a)
				}
			}
			slices.SortFunc(s.Aux, netip.Addr.Compare)
			v6 := subnet.Addr().Is6()
			if v6 {
				d.IPv6 = append(d.IPv6, s)
			} else {
				d.IPv4 = append(d.IPv4, s)
			}
			if leased {
				p := lan.PoolRequest{V6: v6, Subnet: s.Pool, Options: n.IPAM.Options}
				p.Range, _ = netip.ParsePrefix(c.IPRange)
				if subnet.Bits() == 0 {
					p.Subnet = netip.Prefix{}
				}
				d.Pools = append(d.Pools, p)
			}
		}
		v.Networks = append(v.Networks, d)
	}
	var err error
	v.Endpoints, err = r.endpoints(ctx, ours)
	v.Incomplete = err != nil
	return v, err
}

// endpoints are those of running containers on our networks, and why some are not said.
func (r *repairer) endpoints(ctx context.Context, ours map[string]bool) (eps []engine.DockerEndpoint, unsaid error) {
	var list []struct{ ID string }
	if err := r.api.get(ctx, "/containers/json", &list); err != nil {
		return nil, err
	}
	for _, c := range list {
		var is struct {
			Name            string
			NetworkSettings struct {
				SandboxKey string
				Networks   map[string]*struct {
					NetworkID, EndpointID, MacAddress string
					IPAddress, GlobalIPv6Address      string
					IPPrefixLen, GlobalIPv6PrefixLen  int
				}
			}
		}
		if err := r.api.get(ctx, "/containers/"+c.ID+"/json", &is); err != nil {
			if !errors.Is(err, errGone) {
				unsaid = errors.Join(unsaid, err)
			}
			continue
		}
		for _, n := range is.NetworkSettings.Networks {
			if n == nil || !ours[n.NetworkID] || n.EndpointID == "" {
				continue
			}
			e := engine.DockerEndpoint{
				NetworkID: n.NetworkID, EndpointID: n.EndpointID, Container: strings.TrimPrefix(is.Name, "/"), Sandbox: is.NetworkSettings.SandboxKey, MAC: n.MacAddress,
			}
			if a := addrIn(n.IPAddress); a.IsValid() {
				e.IPv4 = netip.PrefixFrom(a, n.IPPrefixLen)
			}
			if a := addrIn(n.GlobalIPv6Address); a.IsValid() {
				e.IPv6 = netip.PrefixFrom(a, n.GlobalIPv6PrefixLen)
			}
			eps = append(eps, e)
		}
	}
	return eps, unsaid
}

// addrIn is the address in a text that may have a length; the zero Addr for none.
func addrIn(s string) netip.Addr {
	s, _, _ = strings.Cut(s, "/")
	a, err := netip.ParseAddr(s)
	if err != nil || a.IsUnspecified() {
		return netip.Addr{}
	}
	return a
}

// ours reports whether Docker means us by the name of a driver: lanyard, or that of a managed
// plugin such as registry.example.org/net/lanyard:latest.
func (r *repairer) ours(driver string) bool { return plan.IsDriver(driver, r.driver) }

// driverName is the name that Docker gives the plugin at a socket.
func driverName(socket string) string { return strings.TrimSuffix(filepath.Base(socket), ".sock") }

// errNotRepaired comes when a step could not be done.
var errNotRepaired = errors.New("not all could be repaired")

func newRepair(g *globals) *cobra.Command {
	var dry, asJSON bool
	cmd := &cobra.Command{
		Use:   "repair",
		Short: "Compare what Docker, lanyard and the kernel have, and mend what does not fit",
		Long: "Compare what Docker, lanyard's records and the kernel have, and mend what does not fit. It can\n\n" +
			"adopt network     take a network in that Docker has and lanyard does not\n" +
			"adopt endpoint    the same of a running container's endpoint\n" +
			"forget network    forget one that Docker has no more\n" +
			"drop endpoint     drop one whose container is gone\n" +
			"restore link      give a running container the link that it lacks, as it was\n" +
			"finish lease      let a container heed a change of its DHCP lease\n" +
			"remove link       remove a link, sub-interface or shim of lanyard's that nobody uses\n" +
			"release address   free an address that no container came for\n\n" +
			"What was not made by lanyard is never touched. The daemon does most of this by itself, when it\n" +
			"starts and once a minute; adopting it does by itself after a damaged state file. Nothing to do is\n" +
			"success; what could not be done is an error.",
		Example: "  lanyard repair --dry-run\n  lanyard repair\n  lanyard repair --dry-run --json | jq -r '.steps[].do'",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			done, err := g.client(cmd).Repair(cmd.Context(), dry)
			if err != nil {
				return explain(err)
			}
			out := cmd.OutOrStdout()
			if asJSON {
				err = printJSON(out, done)
			} else {
				err = printRepair(cmd, done, dry)
			}
			if err == nil && slices.ContainsFunc(done.Steps, func(s engine.Step) bool { return s.Error != "" }) {
				return errNotRepaired
			}
			return err
		},
	}
	cmd.Flags().BoolVarP(&dry, "dry-run", "n", false, "say what would be done, and do nothing")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func printRepair(cmd *cobra.Command, done *control.Repair, dry bool) error {
	for _, n := range done.Notes {
		fmt.Fprintln(cmd.ErrOrStderr(), "lanyard: "+n)
	}
	out := cmd.OutOrStdout()
	if len(done.Steps) == 0 {
		_, err := fmt.Fprintln(out, "Nothing to repair.")
		return err
	}
	rows := [][]string{{"DO", "WHAT", "WHY", "RESULT"}}
	for _, s := range done.Steps {
		result := "done"
		switch {
		case dry:
			result = "-"
		case s.Error != "":
			result = "failed: " + s.Error
		}
		rows = append(rows, []string{s.Do, s.What, s.Why, result})
	}
	return printTable(out, rows)
}
