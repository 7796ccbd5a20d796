package doctor

import (
	"cmp"
	"errors"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
)

// sight is what was seen of a host before anything is judged.
type sight struct {
	Config
	nets  []*network
	wires []*wire
}

// network is a macvlan or ipvlan network, of lanyard's or of a built-in driver.
type network struct {
	id, name string
	ours     bool
	driver   string
	kind     lan.Kind
	mode     lan.Mode
	spec     lan.ParentSpec
	link     string // the kernel's link that carries it, where the daemon says it
	subnets  []subnet
	ipv6     lan.IPv6Mode
	mtu      int
	// internal has no gateway; isolated has no parent either.
	internal, isolated bool
	hostAccess         bool
	dhcp               bool // a DHCPv4 server is to give the addresses
	problem, note      string
	endpoints          []*endpoint
}

func (n *network) String() string { return "network " + n.name }

func (n *network) l3() bool { return n.mode == lan.ModeL3 || n.mode == lan.ModeL3S }

type subnet struct {
	pool    netip.Prefix // the zero Prefix where only a DHCP server knows it
	gives   netip.Prefix // what is handed out of it; the zero Prefix for nothing or all
	gateway netip.Addr
}

// endpoint is a container's place on a network.
type endpoint struct {
	net       *network
	id        string
	container string // its name, or the endpoint's short id
	mac       string
	addrs     []netip.Prefix
	sandbox   string
	running   bool
	record    *lan.Endpoint // nil for a built-in driver's
}

func (e *endpoint) String() string { return "container " + e.container + " on " + e.net.name }

// wire is a parent, with the VLAN tags on it, and the networks there.
type wire struct {
	text string // "eth1, VLAN 802.1Q:100"
	// layers are the parent and what it stands on, the base last; those of a VLAN that is yet to be made begin
	// with what it would be made on. Empty where there is no such link: then err says so.
	layers []link.Layer
	made   bool // the parent is there
	tags   []lan.Tag
	err    error
	nets   []*network
	// heard is what came of listening and asking; nil where nobody could.
	heard *heard
}

func (w *wire) String() string { return w.text }

func (w *wire) base() link.Layer { return w.layers[len(w.layers)-1] }

// parentName is what to type for the parent.
func (w *wire) parentName() string {
	name := w.layers[0].Name
	if !w.made {
		name = w.base().Name + "." + lan.TagIDs(w.tags)
	}
	return name
}

// has reports whether one of the wire's networks is so.
func (w *wire) has(is func(*network) bool) bool { return slices.ContainsFunc(w.nets, is) }

// names are the networks of a wire, in words.
func names(nets []*network) string {
	var list []string
	for _, n := range nets {
		list = append(list, n.name)
	}
	return some(list)
}

// see gathers what there is of what the target means.
func see(c Config) (*sight, error) {
	s := &sight{Config: c, nets: networks(c)}
	var asked *wire
	if t := c.Target; t != "" {
		parent, err := lookWire(c.Links, lan.ParentSpec{Name: t}, "")
		switch byName, byContainer := s.named(t), s.container(t); {
		case byContainer != nil:
			s.nets = byContainer
		case byName != nil:
			s.nets = byName
		case err == nil:
			asked = parent
		default:
			return nil, refuse(t, s.everyName())
		}
	}
	byText := map[string]*wire{}
	for _, n := range s.nets {
		if n.isolated {
			continue
		}
		w, err := lookWire(c.Links, n.spec, n.link)
		if err != nil {
			w = &wire{text: n.spec.String(), err: err}
		}
		if had, ok := byText[w.text]; ok {
			w = had
		}
		byText[w.text] = w
		w.nets = append(w.nets, n)
	}
	if asked != nil {
		w := cmp.Or(byText[asked.text], asked)
		byText = map[string]*wire{w.text: w}
		s.nets = w.nets
	}
	for _, text := range slices.Sorted(maps.Keys(byText)) {
		s.wires = append(s.wires, byText[text])
	}
	return s, nil
}

// lookWire finds the wire that a parent's name means. link is the kernel's link where that is known.
func lookWire(links *link.Links, spec lan.ParentSpec, name string) (*wire, error) {
	if name != "" {
		spec = lan.ParentSpec{Name: name}
	}
	p, err := links.Find(spec)
	if err != nil {
		return nil, err
	}
	w := &wire{text: link.WireText(p.Key), tags: p.Tags, made: len(p.Make) == 0}
	if w.layers, err = links.Layers(p.On()); err != nil {
		return nil, err
	}
	return w, nil
}

// named are the networks with a name, or an ID that begins so.
func (s *sight) named(t string) []*network {
	is := func(n *network) bool { return n.name == t || n.id == t }
	if !slices.ContainsFunc(s.nets, is) && len(t) >= 4 {
		is = func(n *network) bool { return strings.HasPrefix(n.id, t) }
	}
	var list []*network
	for _, n := range s.nets {
		if is(n) {
			list = append(list, n)
		}
	}
	return list
}

// container are the networks of a container with a name, with it alone on them.
func (s *sight) container(t string) []*network {
	var list []*network
	for _, n := range s.nets {
		for _, e := range n.endpoints {
			if e.container == t || e.id == t {
				only := *n
				only.endpoints = []*endpoint{e}
				e.net = &only
				list = append(list, &only)
			}
		}
	}
	return list
}

func (s *sight) everyName() (all []string) {
	for _, n := range s.nets {
		all = append(all, n.name, n.spec.String())
		for _, e := range n.endpoints {
			all = append(all, e.container)
		}
	}
	return all
}

// networks are all macvlan and ipvlan networks that the daemon or Docker knows.
func networks(c Config) (list []*network) {
	docker := map[string]EngineNetwork{}
	for _, d := range c.Engine.Networks {
		docker[d.ID] = d
	}
	known := map[string]bool{}
	for _, n := range c.Daemon.Networks {
		d := docker[n.ID]
		known[n.ID] = true
		net := &network{
			id: n.ID, name: cmp.Or(d.Name, lan.Short(n.ID)), ours: true, driver: "lanyard", kind: n.Kind, mode: n.Mode, spec: n.Parent, link: n.ParentLink, mtu: n.MTU,
			internal: n.Internal || n.Gateway == lan.GatewayNone, isolated: n.Parent.Name == "", hostAccess: n.HostAccess, problem: n.Problem, note: n.Note,
			dhcp: lan.FromDHCP(n.IPv4), ipv6: n.IPv6Mode,
		}
		for _, s := range slices.Concat(n.IPv4, n.IPv6) {
			net.subnets = append(net.subnets, subnet{pool: s.Pool, gateway: s.Gateway})
		}
		for _, p := range c.Daemon.Pools {
			for i, s := range net.subnets {
				if slices.Contains(p.Networks, n.ID) && p.Subnet == s.pool && p.First.IsValid() {
					net.subnets[i].gives = cmp.Or(p.Range, p.Subnet)
				}
			}
		}
		for i := range c.Daemon.Endpoints {
			if e := &c.Daemon.Endpoints[i]; e.NetworkID == n.ID {
				name := lan.Short(e.ID)
				for _, k := range d.Containers {
					if k.Endpoint == e.ID {
						name = k.Name
					}
				}
				net.endpoints = append(net.endpoints, &endpoint{net: net, id: e.ID, container: name, mac: e.MAC, addrs: e.Addrs(), sandbox: e.Sandbox,
					running: e.State == "joined", record: &e.Endpoint})
			}
		}
		list = append(list, net)
	}
	for _, d := range c.Engine.Networks {
		if !known[d.ID] && d.Scope != "swarm" {
			list = append(list, ofEngine(d))
		}
	}
	return list
}

// ofEngine is a network as Docker has it.
func ofEngine(d EngineNetwork) *network {
	n := &network{id: d.ID, name: d.Name, ours: d.Ours, driver: d.Driver, kind: lan.Macvlan}
	o, err := lan.ParseOptions(d.Options, false)
	if err != nil { // one of a built-in driver may have any
		o = &lan.Network{Kind: lan.Macvlan, Parent: lan.ParentSpec{Name: d.Options[lan.OptParent]}}
	}
	n.kind, n.mode, n.spec, n.mtu = o.Kind, o.Mode, o.Parent, o.MTU
	if d.Driver == "ipvlan" {
		n.kind, n.mode = lan.Ipvlan, cmp.Or(lan.Mode(d.Options[lan.OptIpvlanMode]), lan.ModeL2)
	}
	n.isolated = n.spec.Name == ""
	if d.Ours {
		n.problem = "Docker has the network and lanyard's daemon does not say what it knows of it"
	}
	for i, text := range d.Subnets {
		p, err := netip.ParsePrefix(text)
		if err != nil {
			continue
		}
		s := subnet{pool: p.Masked(), gives: p.Masked()}
		if r, err := netip.ParsePrefix(d.Ranges[i]); err == nil {
			s.gives = r.Masked()
		}
		s.gateway, _ = netip.ParseAddr(d.Gateways[i])
		n.subnets = append(n.subnets, s)
	}
	for _, c := range d.Containers {
		e := &endpoint{net: n, id: c.Endpoint, container: c.Name, mac: c.MAC, sandbox: c.Sandbox, running: c.Sandbox != ""}
		for _, text := range []string{c.IPv4, c.IPv6} {
			if p, err := netip.ParsePrefix(text); err == nil {
				e.addrs = append(e.addrs, p)
			}
		}
		n.endpoints = append(n.endpoints, e)
	}
	return n
}

// path is where a file of the system is.
func (c *Config) path(elem ...string) string {
	return filepath.Join(append([]string{cmp.Or(c.Root, "/")}, elem...)...)
}

// text is what a file of the system says, "" where it is not there or not to be read.
func (c *Config) text(elem ...string) string {
	b, err := os.ReadFile(c.path(elem...))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (c *Config) exists(elem ...string) bool {
	_, err := os.Lstat(c.path(elem...))
	return !errors.Is(err, os.ErrNotExist)
}

// wireless reports whether a link is Wi-Fi.
func (c *Config) wireless(name string) bool {
	return c.exists("sys/class/net", name, "wireless") || c.exists("sys/class/net", name, "phy80211")
}
