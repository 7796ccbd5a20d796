// Package topology is the picture of what is where: the LAN, each host's parents, their VLANs,
// the networks on these and the containers on those. Build makes a Map of what daemons say;
// Text, SVG, Mermaid and Dot write it. It does no I/O but to the writer that it is given.
//
// Names come from containers and from other hosts. Each writer makes them harmless in its own
// format; a Map has them as they are.
package topology

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// Map is all that there is, from the LAN down.
type Map struct {
	// Self is the name of the host that was asked, "" where hosts share nothing.
	Self string `json:"self,omitempty"`
	// Problem says why the other hosts cannot be seen.
	Problem string `json:"problem,omitempty"`
	Hosts   []Host `json:"hosts"`
}

// Host is a Docker host.
type Host struct {
	// Name is "" where hosts share nothing.
	Name string `json:"name,omitempty"`
	// Silent says that the host is not known to be there, and that this is what it showed last.
	Silent  bool     `json:"silent,omitempty"`
	Parents []Parent `json:"parents"`
	// Conflicts are the addresses of its pools that other devices use.
	Conflicts []Conflict `json:"conflicts,omitempty"`
}

// Conflict is an address that a device on the wire uses, and that is a container's or could
// have been one's.
type Conflict struct {
	Address netip.Addr `json:"address"`
	Wire    string     `json:"wire,omitempty"`
	// MAC is the other device's, "" where it is not known.
	MAC string `json:"mac,omitempty"`
	// Container has the address, too; "" where none has.
	Container string    `json:"container,omitempty"`
	Since     time.Time `json:"since,omitzero"`
}

// Parent is a link of the host that is on the LAN.
type Parent struct {
	Name string `json:"name"`
	MAC  string `json:"mac,omitempty"`
	// Isolated says that it is a dummy, which leads nowhere.
	Isolated bool   `json:"isolated,omitempty"`
	VLANs    []VLAN `json:"vlans"`
}

// VLAN is a wire: what is on a parent with the same tags.
type VLAN struct {
	// Tags are the VLAN ids, the outer one first; there are none on the untagged wire.
	Tags []lan.Tag `json:"tags,omitempty"`
	// Link is the sub-interface, and Made whether lanyard made it.
	Link string `json:"link,omitempty"`
	Made bool   `json:"made,omitempty"`
	// Color is the wire's in a picture, from 1 to 7, and 0 of the untagged one. The same tags have the same one.
	Color    int       `json:"color"`
	Networks []Network `json:"networks"`
}

// Network is one of Docker's networks.
type Network struct {
	ID string `json:"id"`
	// Name is "" where Docker does not say it.
	Name     string       `json:"name,omitempty"`
	Kind     lan.Kind     `json:"kind"`
	Mode     lan.Mode     `json:"mode"`
	Subnets  []string     `json:"subnets"`
	Gateways []netip.Addr `json:"gateways,omitempty"`
	Problem  string       `json:"problem,omitempty"`
	// Endpoints are by address.
	Endpoints []Endpoint `json:"endpoints"`
}

// Endpoint is a container's place on a network.
type Endpoint struct {
	ID string `json:"id"`
	// Name is the container's, "" where nobody says it.
	Name string `json:"name,omitempty"`
	// State is "created", "joined" or "left".
	State     string    `json:"state"`
	MAC       string    `json:"mac,omitempty"`
	Addresses []Address `json:"addresses"`
	// Problem is what keeps it from being reached.
	Problem string    `json:"problem,omitempty"`
	Created time.Time `json:"created,omitzero"`
}

// Address is one that a container has.
type Address struct {
	Address netip.Prefix `json:"address"`
	// From is "dhcp" or "slaac", and "" for one that was given out here.
	From string `json:"from,omitempty"`
	// Told is what Docker knows in its place, if that is another one.
	Told netip.Addr `json:"told,omitzero"`
	// Rival is the MAC address of another device that uses it.
	Rival string `json:"rival,omitempty"`
	Lease *Lease `json:"lease,omitempty"`
}

// Lease is what a DHCP server granted.
type Lease struct {
	ID     string     `json:"id"`
	State  string     `json:"state"`
	Server netip.Addr `json:"server,omitzero"`
	// Granted and Ends are the zero time where that is not known.
	Granted time.Time `json:"granted,omitzero"`
	Ends    time.Time `json:"ends,omitzero"`
	Problem string    `json:"problem,omitempty"`
}

// From is where an address is from.
const (
	FromDHCP  = "dhcp"
	FromSLAAC = "slaac"
)

// NamedNetwork is a network as its daemon says it, with the name that Docker knows. Hosts show
// each other these.
type NamedNetwork struct {
	engine.NetworkState
	Name string `json:"name,omitempty"`
}

// NamedEndpoint is an endpoint with the names of its container and its network.
type NamedEndpoint struct {
	engine.EndpointState
	Container   string `json:"container,omitempty"`
	NetworkName string `json:"network_name,omitempty"`
}

// HostInput is what is known of a host. Addresses and Leases may be left out.
type HostInput struct {
	Name      string
	Silent    bool
	Networks  []NamedNetwork
	Endpoints []NamedEndpoint
	Leases    []ipam.LeaseState
	Addresses []ipam.AddressState
}

// Build makes the picture of hosts. Self and Problem are the caller's to fill in.
func Build(hosts []HostInput) *Map {
	m := &Map{Hosts: make([]Host, 0, len(hosts))}
	for i := range hosts {
		m.Hosts = append(m.Hosts, buildHost(&hosts[i]))
	}
	slices.SortStableFunc(m.Hosts, func(a, b Host) int { return strings.Compare(a.Name, b.Name) })
	return m
}

func buildHost(in *HostInput) Host {
	h := Host{Name: in.Name, Silent: in.Silent, Parents: []Parent{}}
	on := endpointsOf(in)
	for _, a := range in.Addresses {
		c := Conflict{Address: a.Address, Wire: a.Wire, MAC: a.MAC, Since: a.Since}
		if a.Rival != "" {
			c.MAC, c.Container = a.Rival, cmp.Or(a.Container, lan.Short(a.Endpoint))
		}
		if a.Rival != "" || a.State == ipam.StateConflict {
			h.Conflicts = append(h.Conflicts, c)
		}
	}
	for i := range in.Networks {
		n := &in.Networks[i]
		p := h.parent(n)
		v := p.vlan(n)
		v.Networks = append(v.Networks, buildNetwork(n, on[n.ID]))
	}
	slices.SortStableFunc(h.Parents, func(a, b Parent) int {
		if a.Isolated != b.Isolated {
			if a.Isolated {
				return 1
			}
			return -1
		}
		return strings.Compare(a.Name, b.Name)
	})
	for _, p := range h.Parents {
		slices.SortStableFunc(p.VLANs, func(a, b VLAN) int {
			return slices.CompareFunc(a.Tags, b.Tags, func(x, y lan.Tag) int { return cmp.Compare(x.ID, y.ID) })
		})
		for _, v := range p.VLANs {
			slices.SortStableFunc(v.Networks, func(a, b Network) int { return strings.Compare(a.title(), b.title()) })
		}
	}
	return h
}

// parent is the host's parent that a network is on, which is added if need be.
func (h *Host) parent(n *NamedNetwork) *Parent {
	name, _, _ := strings.Cut(n.Wire, ", ")
	switch {
	case n.Isolated():
		name = n.DummyName()
	case name == "": // of an older lanyard
		name = n.Parent.Name
	}
	i := slices.IndexFunc(h.Parents, func(p Parent) bool { return p.Name == name })
	if i < 0 {
		i = len(h.Parents)
		h.Parents = append(h.Parents, Parent{Name: name, Isolated: n.Isolated(), VLANs: []VLAN{}})
	}
	p := &h.Parents[i]
	if p.MAC == "" || len(n.Tags) == 0 && n.ParentMAC != "" {
		p.MAC = n.ParentMAC // sub-interfaces have it as well, unless somebody changed it
	}
	return p
}

func (p *Parent) vlan(n *NamedNetwork) *VLAN {
	i := slices.IndexFunc(p.VLANs, func(v VLAN) bool { return slices.Equal(v.Tags, n.Tags) })
	if i < 0 {
		i = len(p.VLANs)
		p.VLANs = append(p.VLANs, VLAN{Tags: n.Tags, Color: tagColor(n.Tags), Networks: []Network{}})
	}
	v := &p.VLANs[i]
	if v.Link == "" && n.ParentLink != p.Name {
		v.Link, v.Made = n.ParentLink, n.Made
	}
	return v
}

func buildNetwork(n *NamedNetwork, endpoints []Endpoint) Network {
	out := Network{ID: n.ID, Name: n.Name, Kind: n.Kind, Mode: n.Mode, Subnets: []string{}, Problem: n.Problem, Endpoints: endpoints}
	if out.Endpoints == nil {
		out.Endpoints = []Endpoint{}
	}
	for _, list := range [][]lan.Subnet{n.IPv4, n.IPv6} {
		for _, s := range list {
			switch {
			case s.Pool.Bits() != 0:
				out.Subnets = append(out.Subnets, s.Pool.String())
			case s.Source == lan.SourceDHCP && !slices.Contains(out.Subnets, "DHCP"):
				out.Subnets = append(out.Subnets, "DHCP")
			}
			if s.Gateway.IsValid() {
				out.Gateways = append(out.Gateways, s.Gateway)
			}
		}
	}
	return out
}

// endpointsOf are a host's endpoints by network, each list by address.
func endpointsOf(in *HostInput) map[string][]Endpoint {
	type at struct {
		endpoint string
		address  netip.Addr
	}
	leases, rivals := map[at]*ipam.LeaseState{}, map[at]string{}
	lost := map[string]*ipam.LeaseState{}
	for i := range in.Leases {
		l := &in.Leases[i]
		if l.Endpoint == "" {
			continue
		}
		leases[at{l.Endpoint, l.Address}] = l
		if l.State == ipam.LeaseLost {
			lost[l.Endpoint] = l
		}
	}
	names := map[string]string{}
	for _, a := range in.Addresses {
		if a.Endpoint == "" {
			continue
		}
		names[a.Endpoint] = cmp.Or(names[a.Endpoint], a.Container)
		if a.Rival != "" {
			rivals[at{a.Endpoint, a.Address}] = a.Rival
		}
	}
	on := map[string][]Endpoint{}
	for i := range in.Endpoints {
		e := &in.Endpoints[i]
		out := Endpoint{ID: e.ID, Name: cmp.Or(e.Container, names[e.ID]), State: e.State, MAC: e.MAC, Addresses: []Address{}, Created: e.Created}
		add := func(p netip.Prefix, told netip.Prefix) {
			if !p.IsValid() {
				return
			}
			a := Address{Address: p}
			if told.IsValid() && told.Addr() != p.Addr() {
				a.Told = told.Addr()
			}
			key := at{e.ID, p.Addr()}
			if l := leases[key]; l != nil {
				a.From = FromDHCP
				a.Lease = &Lease{ID: l.ID, State: l.State, Server: l.Lease.Server, Granted: l.Granted, Ends: l.EndsAt, Problem: l.Problem}
				out.Name = cmp.Or(out.Name, l.Container)
			}
			if a.Rival = rivals[key]; a.Rival != "" {
				out.Problem = p.Addr().String() + " is used by " + a.Rival + ", too"
			}
			out.Addresses = append(out.Addresses, a)
		}
		add(e.IPv4, e.Told4)
		add(e.IPv6, e.Told6)
		for _, p := range e.SLAAC {
			out.Addresses = append(out.Addresses, Address{Address: p, From: FromSLAAC})
		}
		if l := lost[e.ID]; l != nil && out.Problem == "" {
			out.Problem = cmp.Or(l.Problem, "has no address: its lease was lost")
		}
		on[e.NetworkID] = append(on[e.NetworkID], out)
	}
	for _, list := range on {
		slices.SortStableFunc(list, func(a, b Endpoint) int {
			return cmp.Or(a.first().Compare(b.first()), strings.Compare(a.title(), b.title()), strings.Compare(a.ID, b.ID))
		})
	}
	return on
}

// first is the endpoint's first address; the zero Addr, which comes before all, if it has none.
func (e *Endpoint) first() netip.Addr {
	if len(e.Addresses) == 0 {
		return netip.Addr{}
	}
	return e.Addresses[0].Address.Addr()
}

// title is what a container is called in a picture.
func (e *Endpoint) title() string { return cmp.Or(e.Name, lan.Short(e.ID)) }

// addresses are the texts of its addresses.
func (e *Endpoint) addresses() []string {
	words := make([]string, 0, len(e.Addresses))
	for _, a := range e.Addresses {
		text := a.Address.Addr().String()
		if a.From != "" {
			text += " (" + a.From + ")"
		}
		words = append(words, text)
	}
	return words
}

// title is what a network is called.
func (n *Network) title() string { return cmp.Or(n.Name, lan.Short(n.ID)) }

// about says what a network is, in a few words.
func (n *Network) about() string {
	words := append([]string{string(n.Kind) + " " + string(n.Mode)}, n.Subnets...)
	for _, g := range n.Gateways {
		words = append(words, "gateway "+g.String())
	}
	return strings.Join(words, ", ")
}

// title is what a wire is called: "untagged", "VLAN 100", "VLAN 200.100".
func (v *VLAN) title() string {
	if len(v.Tags) == 0 {
		return "untagged"
	}
	return "VLAN " + lan.TagIDs(v.Tags)
}

// title is what a host is called, "" where it has no name.
func (h *Host) title() string {
	if h.Silent {
		return h.Name + " (silent)"
	}
	return h.Name
}

// Count is how many networks and endpoints there are.
func (m *Map) Count() (networks, endpoints int) {
	m.each(func(_ *Host, _ *Parent, _ *VLAN, n *Network) {
		networks++
		endpoints += len(n.Endpoints)
	})
	return networks, endpoints
}

// each calls do for all networks, in the order of the picture.
func (m *Map) each(do func(*Host, *Parent, *VLAN, *Network)) {
	for h := range m.Hosts {
		for p := range m.Hosts[h].Parents {
			for v := range m.Hosts[h].Parents[p].VLANs {
				for n := range m.Hosts[h].Parents[p].VLANs[v].Networks {
					host := &m.Hosts[h]
					parent := &host.Parents[p]
					do(host, parent, &parent.VLANs[v], &parent.VLANs[v].Networks[n])
				}
			}
		}
	}
}
