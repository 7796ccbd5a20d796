package plan

import (
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// Label is on the networks that a host has made of definitions; its value is the cluster's Mark.
const Label = "net.lanyard.plan"

// Request is a network as Docker's API is asked for it, and as it says what there is.
type Request struct {
	ID             string `json:"Id,omitempty"`
	Name           string
	Scope          string `json:",omitempty"` // where it is known: "local", or "swarm"
	Driver         string
	Internal       bool
	Attachable     bool
	EnableIPv4     *bool `json:",omitempty"`
	EnableIPv6     bool
	CheckDuplicate bool // engines before 25 allow two networks of one name without it
	Options        map[string]string
	Labels         map[string]string
	IPAM           struct {
		Driver  string
		Options map[string]string
		Config  []Config
	}
}

// Config is a pool in Docker's words.
type Config struct {
	Subnet             string
	IPRange            string            `json:",omitempty"`
	Gateway            string            `json:",omitempty"`
	AuxiliaryAddresses map[string]string `json:",omitempty"`
}

// Request is what Docker is asked for to make the network on a parent ("": none), by the driver
// of that name. mark is the label's value.
func (n *Network) Request(driver, parent, mark string) *Request {
	r := &Request{
		Name: n.Name, Driver: driver, Internal: n.Internal, Attachable: n.Attachable, EnableIPv4: n.EnableIPv4, EnableIPv6: n.EnableIPv6, CheckDuplicate: true,
		Options: maps.Clone(n.DriverOpts), Labels: maps.Clone(n.Labels),
	}
	if r.Labels == nil {
		r.Labels = map[string]string{}
	}
	r.Labels[Label] = mark
	if parent != "" {
		if r.Options == nil {
			r.Options = map[string]string{}
		}
		r.Options[lan.OptParent] = parent
	}
	r.IPAM.Driver, r.IPAM.Options = n.IPAM.Driver, n.IPAM.Options
	if r.IPAM.Driver == Driver {
		r.IPAM.Driver = driver
	}
	for _, s := range n.IPAM.Config {
		r.IPAM.Config = append(r.IPAM.Config, Config{s.Subnet, s.IPRange, s.Gateway, s.Aux})
	}
	return r
}

// IsDriver reports whether Docker's name of a driver is this one, but for the registry and tag that it has as a managed plugin.
func IsDriver(name, driver string) bool { return bare(name) == bare(driver) }

func bare(name string) string {
	name, _, _ = strings.Cut(path.Base(name), ":")
	return name
}

// Made is a network that Docker has as a definition that is like it, with the parent that it has, for
// Differences from n on that parent: what n leaves to Docker is left out.
func (n *Network) Made(r *Request, driver string) *Network {
	is := &Network{
		Name: r.Name, DriverOpts: maps.Clone(r.Options), Internal: r.Internal, Attachable: r.Attachable, EnableIPv6: r.EnableIPv6,
		IPAM: IPAM{Driver: r.IPAM.Driver, Options: r.IPAM.Options},
	}
	if !IsDriver(r.Driver, driver) {
		is.Driver = r.Driver
	}
	if IsDriver(r.IPAM.Driver, driver) {
		is.IPAM.Driver = Driver
	}
	if p := is.DriverOpts[lan.OptParent]; p != "" {
		is.Parent = Rules{{Name: p}}
	}
	delete(is.DriverOpts, lan.OptParent)
	if n.EnableIPv4 != nil {
		is.EnableIPv4 = r.EnableIPv4
		if r.EnableIPv4 == nil { // engines before 28 have no other
			yes := true
			is.EnableIPv4 = &yes
		}
	}
	for key := range n.Labels {
		if value, ok := r.Labels[key]; ok {
			if is.Labels == nil {
				is.Labels = map[string]string{}
			}
			is.Labels[key] = value
		}
	}
	if len(n.IPAM.Config) == 0 {
		return is // what Docker shows is what a driver made up
	}
	for _, c := range r.IPAM.Config {
		s := Subnet{c.Subnet, c.IPRange, c.Gateway, c.AuxiliaryAddresses}
		for _, want := range n.IPAM.Config {
			if want.Subnet == s.Subnet && want.Gateway == "" {
				s.Gateway = ""
			}
		}
		is.IPAM.Config = append(is.IPAM.Config, s)
	}
	return is
}

// On is the definition with this parent in place of its rules, and for all hosts: what a host makes of it.
func (n *Network) On(parent string) *Network {
	on := *n
	on.Parent, on.Hosts = nil, nil
	if parent != "" {
		on.Parent = Rules{{Name: parent}}
	}
	return &on
}

// State is what became of a definition on a host.
type State string

// The states.
const (
	// Ready is a network that is there as it is defined.
	Ready State = "ready"
	// Waiting is one that cannot be made, or looked at, now; Problem says why.
	Waiting State = "waiting"
	// Outdated is one that differs from its definition and that containers are on, so that it cannot be made anew.
	Outdated State = "outdated"
	// Foreign is a network of that name that differs, and that was not made from a definition.
	Foreign State = "foreign"
	// Removing is one that is defined no more and that containers are on.
	Removing State = "removing"
)

// Report is what a host says of a definition.
type Report struct {
	Network string `json:"network"`
	State   State  `json:"state"`
	// Revision is that of the definition which is meant, 0 where there is none.
	Revision int64 `json:"revision,omitempty"`
	// NetworkID is Docker's, and Parent what the rules came to on this host.
	NetworkID string `json:"network_id,omitempty"`
	Parent    string `json:"parent,omitempty"`
	Problem   string `json:"problem,omitempty"`
	// Differences are those of the network that is there, and Containers are on it, or to be on it when they start.
	Differences []string `json:"differences,omitempty"`
	Containers  []string `json:"containers,omitempty"`
}

// Action is what becomes of a definition.
type Action string

// The actions.
const (
	Create Action = "create"
	Change Action = "change"
	Remove Action = "remove"
	Keep   Action = "keep"
)

// Step is one of those that lead from the definitions that there are to those that are wanted.
type Step struct {
	Network string `json:"network"`
	Action  Action `json:"action"`
	// Differences are those of a change.
	Differences []string `json:"differences,omitempty"`
	// To is the definition, nil where it is removed or kept.
	To *Network `json:"-"`
}

// Steps lead from have to want, by name. What want does not have is removed only with prune.
func Steps(have map[string]Network, want []Network, prune bool) (steps []Step) {
	wanted := map[string]bool{}
	for i := range want {
		n := &want[i]
		wanted[n.Name] = true
		old, ok := have[n.Name]
		if !ok {
			steps = append(steps, Step{Network: n.Name, Action: Create, To: n})
		} else if diff := n.Differences(&old); len(diff) > 0 {
			steps = append(steps, Step{Network: n.Name, Action: Change, Differences: diff, To: n})
		} else {
			steps = append(steps, Step{Network: n.Name, Action: Keep})
		}
	}
	if prune {
		for _, name := range slices.Sorted(maps.Keys(have)) {
			if !wanted[name] {
				steps = append(steps, Step{Network: name, Action: Remove})
			}
		}
	}
	return steps
}
