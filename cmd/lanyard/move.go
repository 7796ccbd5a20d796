package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/plan"
)

// The built-in drivers that networks come from and go back to.
const (
	builtInMacvlan = string(lan.Macvlan)
	builtInIpvlan  = string(lan.Ipvlan)
)

// isBuiltIn reports whether a driver is one of Docker's own two.
func isBuiltIn(driver string) bool { return driver == builtInMacvlan || driver == builtInIpvlan }

// move is a network that changes its driver and keeps its name, and all that is on it. It is what
// is on disk while it is under way.
type move struct {
	From       plan.Request    `json:"from"`
	To         plan.Request    `json:"to"`
	Containers []member        `json:"containers"`
	Shims      []link.Homemade `json:"shims,omitempty"`
	// ShimParent is the link that they are on.
	ShimParent string   `json:"shim_parent,omitempty"`
	Notes      []string `json:"notes,omitempty"`
}

// member is a container that is on a network, or is to be when it starts.
type member struct {
	ID      string   `json:"id"`
	Name    string   `json:"name"`
	Running bool     `json:"running"`
	Project string   `json:"project,omitempty"` // of Docker Compose
	On      endpoint `json:"endpoint"`
}

// endpoint is how a container is connected, in Docker's words.
type endpoint struct {
	IPAMConfig *ipamConfig       `json:",omitempty"`
	Links      []string          `json:",omitempty"`
	Aliases    []string          `json:",omitempty"`
	DriverOpts map[string]string `json:",omitempty"`
	GwPriority int               `json:",omitempty"`
}

type ipamConfig struct {
	IPv4Address  string   `json:",omitempty"`
	IPv6Address  string   `json:",omitempty"`
	LinkLocalIPs []string `json:",omitempty"`
}

// dockerNet is a network as Docker shows it.
type dockerNet struct {
	plan.Request
	Ingress    bool
	ConfigOnly bool
	ConfigFrom struct{ Network string }
}

// planner looks at what there is and says how it is to move. It changes nothing.
type planner struct {
	api    *engineAPI
	driver string // lanyard's name in Docker
	back   bool
	links  *link.Links // nil: the engine is on another host, or links cannot be looked at
}

// networks are those that can be meant, by name: of the built-in drivers or, to go back, of lanyard's.
func (p *planner) networks(ctx context.Context) ([]dockerNet, error) {
	var all, list []dockerNet
	if err := p.api.get(ctx, "/networks", &all); err != nil {
		return nil, err
	}
	for _, n := range all {
		if p.meant(&n) {
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b dockerNet) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

func (p *planner) meant(n *dockerNet) bool {
	if p.back {
		return plan.IsDriver(n.Driver, p.driver)
	}
	return isBuiltIn(n.Driver)
}

// plan says how a network moves. An error says why it does not.
func (p *planner) plan(ctx context.Context, n *dockerNet) (*move, error) {
	switch {
	case n.Scope == "swarm" || n.Ingress:
		return nil, errors.New("it is a network of Docker Swarm's, which services have; lanyard's networks are local to each node; try: docs/swarm.md, and docker service update")
	case n.ConfigOnly:
		return nil, errors.New("it is config-only: a template, on which no container can be; try: docker network create --config-only anew, with lanyard's options")
	case n.ConfigFrom.Network != "":
		return nil, fmt.Errorf("it is made from config-only network %s; try: docker network create without --config-from", n.ConfigFrom.Network)
	case n.Labels[plan.Label] != "":
		return nil, fmt.Errorf("it is defined for all hosts; try: lanyard network rm %s, and docker network create", n.Name)
	}
	var same []plan.Request
	if err := p.api.get(ctx, "/networks?filters="+url.QueryEscape(fmt.Sprintf(`{"name":[%q]}`, n.Name)), &same); err != nil {
		return nil, err
	}
	if same = slices.DeleteFunc(same, func(o plan.Request) bool { return o.Name != n.Name }); len(same) > 1 {
		return nil, fmt.Errorf("%d networks have its name; try: docker network rm of the others, by ID", len(same))
	}
	m := &move{From: n.Request, To: n.Request}
	m.To.ID, m.To.Scope, m.To.CheckDuplicate = "", "", true
	m.From.Scope, m.From.CheckDuplicate = "", true
	m.To.Options, m.To.IPAM.Options = map[string]string{}, nil
	for i := range m.From.IPAM.Config {
		c := &m.From.IPAM.Config[i]
		c.Gateway = gatewayText(c.Gateway)
	}
	m.To.IPAM.Config = slices.Clone(m.From.IPAM.Config)
	turn := p.forth
	if p.back {
		turn = p.backwards
	}
	kept, err := turn(m)
	if err != nil {
		return nil, err
	}
	m.Containers, err = p.members(ctx, m, kept)
	if err != nil {
		return nil, err
	}
	m.note()
	return m, nil
}

// gatewayText is a gateway without its length; "" for one that stands for none.
func gatewayText(text string) string {
	text, _, _ = strings.Cut(text, "/")
	if addr, err := netip.ParseAddr(text); err != nil || addr.IsUnspecified() {
		return ""
	}
	return text
}

// forth fills in what the network is as lanyard's. It returns the kind of links.
func (p *planner) forth(m *move) (lan.Kind, error) {
	kind := lan.Kind(m.From.Driver)
	m.To.Driver = p.driver
	heeded := []string{lan.OptParent, lan.OptMacvlanMode}
	if kind == lan.Ipvlan {
		heeded = []string{lan.OptParent, lan.OptIpvlanMode, lan.OptIpvlanFlag}
		m.To.Options[lan.OptIpvlanMode] = string(lan.ModeL2)
	}
	for _, key := range slices.Sorted(maps.Keys(m.From.Options)) {
		switch value := m.From.Options[key]; {
		case !slices.Contains(heeded, key):
			m.Notes = append(m.Notes, fmt.Sprintf("option %s=%s is left out: Docker's driver does not read it", key, value))
		case value == "" || key == lan.OptParent && strings.HasPrefix(value, "dm-"): // the dummy that Docker made
		default:
			m.To.Options[key] = value
		}
	}
	switch m.From.IPAM.Driver {
	case "default":
		m.To.IPAM.Driver = p.driver
	case "null":
		return "", errors.New("it has Docker's null IPAM driver, and so no addresses to keep; try: docker network create -d lanyard, and docker network connect")
	default:
		m.Notes = append(m.Notes, fmt.Sprintf("IPAM driver %s stays: only Docker's own is replaced", m.From.IPAM.Driver))
		m.To.IPAM.Options = m.From.IPAM.Options
	}
	n, err := lan.ParseOptions(m.To.Options, m.To.Internal)
	if err != nil {
		return "", err
	}
	return kind, p.shims(m, n)
}

// shims looks for what somebody made for the host to reach the containers, which host access replaces.
func (p *planner) shims(m *move, n *lan.Network) error {
	if p.links == nil || n.Isolated() {
		return nil
	}
	all, err := p.links.Homemade(n.Parent.String())
	if err != nil {
		return err
	}
	var subnets []netip.Prefix
	for _, c := range m.To.IPAM.Config {
		if s, err := netip.ParsePrefix(c.Subnet); err == nil {
			subnets = append(subnets, s)
		}
	}
	var own []string
	for _, h := range all {
		into := slices.ContainsFunc(append(slices.Clone(h.Addrs), h.Routes...), func(to netip.Prefix) bool {
			return slices.ContainsFunc(subnets, func(s netip.Prefix) bool { return s.Contains(to.Addr()) })
		})
		switch {
		case !into:
			continue
		case m.To.Internal || !(n.Kind == lan.Macvlan && n.Mode == lan.ModeBridge || n.Kind == lan.Ipvlan && n.Mode == lan.ModeL2):
			m.Notes = append(m.Notes, fmt.Sprintf("link %s of the host stays: lanyard has host access with macvlan bridge and ipvlan l2, on networks that are not internal", h.Name))
			continue
		}
		m.Shims, m.ShimParent = append(m.Shims, h), n.Parent.String()
		for _, a := range h.Addrs {
			fits := slices.ContainsFunc(subnets, func(s netip.Prefix) bool { return s.Contains(a.Addr()) }) &&
				!slices.ContainsFunc(own, func(o string) bool { return strings.Contains(o, ":") == a.Addr().Is6() })
			if fits {
				own = append(own, a.Addr().String())
				continue
			}
			m.Notes = append(m.Notes, fmt.Sprintf("address %s of link %s is given up: the host keeps one of each family, in the network's subnet", a, h.Name))
		}
	}
	if len(m.Shims) > 0 {
		m.To.Options["host_access"] = "true"
		m.Notes = append(m.Notes, fmt.Sprintf("what makes link %s at boot is to be taken out by hand (a script, /etc/network/interfaces, a .netdev file)", m.Shims[0].Name))
	}
	if len(own) > 0 {
		m.To.Options["host_address"] = strings.Join(own, ",")
	}
	return nil
}

// backwards fills in what the network is as the built-in driver's.
func (p *planner) backwards(m *move) (lan.Kind, error) {
	n, err := lan.ParseOptions(m.From.Options, m.From.Internal)
	if err != nil {
		return "", err
	}
	parent := n.Parent.String()
	switch {
	case n.Leases() || m.From.Options["source"] == string(lan.SourceDHCP) || m.From.IPAM.Options["source"] == string(lan.SourceDHCP):
		return "", errors.New("a DHCP server gives its addresses, which no built-in driver does; try: a network with --subnet, and docker network connect --ip")
	case m.From.IPAM.Driver == "null":
		return "", errors.New("its subnets are lanyard's options (-o subnet=), with Docker's null IPAM driver; try: docker network create -d " + string(n.Kind) + " --subnet, and docker network connect --ip")
	case n.Parent.Proto != 0 || strings.Count(parent, ".") > 1:
		return "", fmt.Errorf("the built-in driver makes one tag of 802.1Q, and parent %s has more; try: make the sub-interface by other means first", parent)
	}
	m.To.Driver = string(n.Kind)
	if parent != "" {
		m.To.Options[lan.OptParent] = parent
	}
	if n.Kind == lan.Ipvlan {
		m.To.Options[lan.OptIpvlanMode] = string(n.Mode)
		if n.Flag != "" && n.Flag != lan.FlagBridge {
			m.To.Options[lan.OptIpvlanFlag] = string(n.Flag)
		}
	} else {
		m.To.Options[lan.OptMacvlanMode] = string(n.Mode)
	}
	for _, key := range slices.Sorted(maps.Keys(m.From.Options)) {
		if _, kept := m.To.Options[key]; !kept && key != "vlan" && key != lan.OptParent {
			m.Notes = append(m.Notes, fmt.Sprintf("option %s=%s is left out: the built-in driver does not read it", key, m.From.Options[key]))
		}
	}
	if plan.IsDriver(m.From.IPAM.Driver, p.driver) {
		m.To.IPAM.Driver = "default"
	} else {
		m.To.IPAM.Options = m.From.IPAM.Options
	}
	return n.Kind, nil
}

// members are the containers of a network. An error is one that cannot be moved.
func (p *planner) members(ctx context.Context, m *move, kind lan.Kind) ([]member, error) {
	var list []struct{ ID string }
	filter := fmt.Sprintf(`{"network":[%q,%q]}`, m.From.ID, m.From.Name)
	if err := p.api.get(ctx, "/containers/json?all=1&filters="+url.QueryEscape(filter), &list); err != nil {
		return nil, err
	}
	run, routed := 0, 0 // how many run, and have a gateway
	members := []member{}
	for _, one := range list {
		c, err := p.api.container(ctx, one.ID)
		if errors.Is(err, errGone) {
			continue
		}
		if err != nil {
			return nil, err
		}
		on := c.on(&m.From)
		name := strings.TrimPrefix(c.Name, "/")
		switch {
		case on == nil:
			continue
		case c.Config.Labels["com.docker.swarm.service.id"] != "":
			return nil, fmt.Errorf("container %s is a service's of Docker Swarm; try: docker service update", name)
		case c.State.Status == "paused" || c.State.Status == "restarting" || c.State.Status == "removing" || c.State.Status == "dead":
			return nil, fmt.Errorf("container %s is %s, and can be moved only while it runs or is stopped; try: docker unpause or docker stop %s", name, c.State.Status, name)
		case c.HostConfig.NetworkMode == m.From.ID:
			return nil, fmt.Errorf("container %s was made for the network by its ID, which changes; try: docker rm, and docker run --network %s", name, m.From.Name)
		}
		e, err := m.endpointOf(c.ID, name, on)
		if err != nil {
			return nil, err
		}
		switch {
		case kind != lan.Macvlan || on.MacAddress == "" || m.To.Options[lan.OptMacvlanMode] == string(lan.ModePassthru):
		case p.back:
			m.Notes = append(m.Notes, fmt.Sprintf("container %s gets another MAC address than %s: Docker lets none be chosen for a network that is connected", name, on.MacAddress))
		default:
			if e.DriverOpts == nil {
				e.DriverOpts = map[string]string{}
			}
			e.DriverOpts[lan.OptMAC] = on.MacAddress
		}
		if c.State.Running {
			run++
			if on.Gateway != "" {
				routed++
			}
		}
		members = append(members, member{c.ID, name, c.State.Running, c.Config.Labels["com.docker.compose.project"], e})
	}
	if !p.back && run > 0 && routed == 0 {
		m.noGateway()
	}
	slices.SortFunc(members, func(a, b member) int { return strings.Compare(a.Name, b.Name) })
	return members, nil
}

// noGateway is for networks whose containers have no default route: newer engines name no gateway where the user
// names none, and a container may have the first address.
func (m *move) noGateway() {
	n, err := lan.ParseOptions(m.To.Options, m.To.Internal)
	if err != nil || n.L3() || m.To.Internal || n.Isolated() || slices.ContainsFunc(m.To.IPAM.Config, func(c plan.Config) bool { return c.Gateway != "" }) {
		return
	}
	m.To.Options["gateway"] = string(lan.GatewayNone)
	m.Notes = append(m.Notes, "its containers have no gateway, and get none")
}

// endpointOf is how a container is to be connected so that all stays as it is.
func (m *move) endpointOf(id, name string, on *connection) (endpoint, error) {
	e := endpoint{Links: on.Links, GwPriority: on.GwPriority}
	for _, alias := range on.Aliases {
		if alias != lan.Short(id) { // Docker adds it by itself
			e.Aliases = append(e.Aliases, alias)
		}
	}
	at := ipamConfig{}
	if on.IPAMConfig != nil {
		at = *on.IPAMConfig
	}
	if on.IPAddress != "" {
		at.IPv4Address = on.IPAddress
	}
	if on.GlobalIPv6Address != "" {
		at.IPv6Address = on.GlobalIPv6Address
	}
	if at.IPv4Address != "" || at.IPv6Address != "" || len(at.LinkLocalIPs) > 0 {
		e.IPAMConfig = &at
	}
	mine := []string{lan.OptIP, lan.OptIdentity, lan.OptMAC, lan.OptHostname, lan.OptClientID, lan.OptVendorClass, lan.OptUserClass}
	for key, value := range on.DriverOpts {
		if isBuiltIn(m.To.Driver) && slices.Contains(mine, key) {
			if key != lan.OptMAC { // of which more is said
				m.Notes = append(m.Notes, fmt.Sprintf("driver option %s of container %s is left out: it is lanyard's", key, name))
			}
			continue
		}
		if e.DriverOpts == nil {
			e.DriverOpts = map[string]string{}
		}
		e.DriverOpts[key] = value
	}
	if isBuiltIn(m.To.Driver) {
		return e, nil
	}
	options := map[string]any{}
	for key, value := range e.DriverOpts {
		options[key] = value
	}
	if _, err := lan.ParseEndpointOptions(options); err != nil {
		return e, fmt.Errorf("container %s: %w", name, err)
	}
	return e, nil
}

// note says what a reader of the commands would want to know.
func (m *move) note() {
	projects := map[string]bool{}
	for _, c := range m.Containers {
		if c.Project != "" {
			projects[c.Project] = true
		}
	}
	if p := m.From.Labels["com.docker.compose.project"]; p != "" {
		m.Notes = append(m.Notes, fmt.Sprintf("Compose project %s made the network, and finds it again by its name and labels; in its file change \"driver: %s\" to \"driver: %s\", and then docker compose up -d --force-recreate", p, m.From.Driver, m.To.Driver))
	} else if len(projects) > 0 {
		m.Notes = append(m.Notes, fmt.Sprintf("containers of Compose project %s are on it; docker compose up finds it by its name", strings.Join(slices.Sorted(maps.Keys(projects)), ", ")))
	}
}

// dockerContainer is a container as Docker shows it.
type dockerContainer struct {
	ID, Name string
	State    struct {
		Status  string
		Running bool
	}
	Config struct {
		Labels     map[string]string
		MacAddress string
	}
	HostConfig      struct{ NetworkMode string }
	NetworkSettings struct{ Networks map[string]*connection }
}

// connection is a container's place on a network, as Docker shows it.
type connection struct {
	endpoint
	NetworkID         string
	MacAddress        string
	Gateway           string
	IPAddress         string
	GlobalIPv6Address string
}

func (a *engineAPI) container(ctx context.Context, id string) (*dockerContainer, error) {
	c := &dockerContainer{}
	return c, a.get(ctx, "/containers/"+id+"/json", c)
}

// on is the container's place on a network; nil where it has none. One that never ran knows the
// network's name alone.
func (c *dockerContainer) on(n *plan.Request) *connection {
	for name, on := range c.NetworkSettings.Networks {
		if on != nil && (on.NetworkID == n.ID && n.ID != "" || on.NetworkID == "" && name == n.Name) {
			return on
		}
	}
	return nil
}
