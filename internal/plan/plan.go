// Package plan is what networks all hosts are to have: definitions as an operator writes them, in the words of a Compose
// file's networks, checked; what of them a host is to have; and where two differ. It does no I/O.
package plan

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"path"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// The names of IPAM drivers in definitions, and of the driver itself. A host replaces lanyard by
// the name that its Docker has for it.
const (
	Driver   = "lanyard"
	NullIPAM = "null"
)

// Network is the definition of a network. Its fields are a Compose file's, but for Parent and
// Hosts.
type Network struct {
	Name   string `json:"name" yaml:"-"`
	Driver string `json:"driver,omitempty" yaml:"driver,omitempty"`
	// Parent are rules of which a host takes the first that fits it. Without any the network
	// is isolated.
	Parent Rules `json:"parent,omitempty" yaml:"parent,omitempty"`
	// Hosts are patterns (path.Match) of the names of those that are to have it, all where there
	// are none.
	Hosts      Words             `json:"hosts,omitempty" yaml:"hosts,omitempty"`
	DriverOpts map[string]string `json:"driver_opts,omitempty" yaml:"driver_opts,omitempty"`
	IPAM       IPAM              `json:"ipam,omitzero" yaml:"ipam,omitempty"`
	Internal   bool              `json:"internal,omitempty" yaml:"internal,omitempty"`
	Attachable bool              `json:"attachable,omitempty" yaml:"attachable,omitempty"`
	EnableIPv4 *bool             `json:"enable_ipv4,omitempty" yaml:"enable_ipv4,omitempty"`
	EnableIPv6 bool              `json:"enable_ipv6,omitempty" yaml:"enable_ipv6,omitempty"`
	Labels     map[string]string `json:"labels,omitempty" yaml:"labels,omitempty"`
}

// IPAM is where a network's addresses come from.
type IPAM struct {
	// Driver is lanyard or null; Check fills it in.
	Driver  string            `json:"driver,omitempty" yaml:"driver,omitempty"`
	Config  []Subnet          `json:"config,omitempty" yaml:"config,omitempty"`
	Options map[string]string `json:"options,omitempty" yaml:"options,omitempty"`
}

// Subnet is a pool, as text.
type Subnet struct {
	Subnet  string            `json:"subnet,omitempty" yaml:"subnet,omitempty"`
	IPRange string            `json:"ip_range,omitempty" yaml:"ip_range,omitempty"`
	Gateway string            `json:"gateway,omitempty" yaml:"gateway,omitempty"`
	Aux     map[string]string `json:"aux_addresses,omitempty" yaml:"aux_addresses,omitempty"`
}

// Rule says which link of a host is a network's parent, by one of its fields.
type Rule struct {
	// Name is a link, an altname, or link.VID, as with -o parent.
	Name string `json:"name,omitempty" yaml:"name,omitempty"`
	// MAC is a link's hardware address, the permanent one where the kernel knows it.
	MAC string `json:"mac,omitempty" yaml:"mac,omitempty"`
	// PCI is the address of a device on its bus, such as 0000:03:00.0.
	PCI string `json:"pci,omitempty" yaml:"pci,omitempty"`
	// Route is an address: the link that packets to it leave by.
	Route string `json:"route,omitempty" yaml:"route,omitempty"`
	// Hosts are patterns of those that it is for, all where there are none.
	Hosts Words `json:"hosts,omitempty" yaml:"hosts,omitempty"`
}

// String is the rule as it is typed: a name, or mac=52:54:00:12:34:56.
func (r Rule) String() string {
	text := r.Name
	for key, value := range map[string]string{"mac": r.MAC, "pci": r.PCI, "route": r.Route} {
		if value != "" {
			text = key + "=" + value
		}
	}
	if len(r.Hosts) > 0 {
		text = strings.Join(r.Hosts, "|") + ":" + text
	}
	return text
}

// ParseRule reads what String writes, but for hosts.
func ParseRule(text string) (Rule, error) {
	key, value, ok := strings.Cut(text, "=")
	r := Rule{}
	switch {
	case !ok:
		r.Name = text
	case key == "name":
		r.Name = value
	case key == "mac":
		r.MAC = value
	case key == "pci":
		r.PCI = value
	case key == "route":
		r.Route = value
	default:
		return r, lan.Refusef(lan.ErrInvalid, "parent %q: a rule is LINK, mac=ADDRESS, pci=ADDRESS or route=ADDRESS", text)
	}
	return r, r.check()
}

func (r *Rule) check() error {
	given := 0
	for _, text := range []string{r.Name, r.MAC, r.PCI, r.Route} {
		if text != "" {
			given++
		}
	}
	if given != 1 {
		return lan.Refusef(lan.ErrInvalid, "a rule of parent has one of name, mac, pci and route, and this one has %d", given)
	}
	if r.MAC != "" {
		mac, err := lan.ParseMAC(r.MAC)
		if err != nil {
			return fmt.Errorf("parent mac=%s: %w", r.MAC, err)
		}
		r.MAC = mac.String()
	}
	if r.Route != "" {
		if _, err := netip.ParseAddr(r.Route); err != nil {
			return lan.Refusef(lan.ErrInvalid, "parent route=%s: it is an address that packets leave for, such as the gateway's", r.Route)
		}
	}
	return checkHosts(r.Hosts)
}

// Rules are rules; in YAML also a single one, and a name alone.
type Rules []Rule

// UnmarshalYAML implements yaml.Unmarshaler.
func (rs *Rules) UnmarshalYAML(node *yaml.Node) error {
	each := []*yaml.Node{node}
	if node.Kind == yaml.SequenceNode {
		each = node.Content
	}
	for _, n := range each {
		var r Rule
		var err error
		switch n.Kind {
		case yaml.ScalarNode:
			r, err = ParseRule(n.Value)
		case yaml.MappingNode:
			for i := 0; i < len(n.Content); i += 2 {
				if key := n.Content[i].Value; !slices.Contains([]string{"name", "mac", "pci", "route", "hosts"}, key) {
					return fmt.Errorf("line %d: there is no %s in a rule of parent: there are name, mac, pci, route and hosts", n.Content[i].Line, key)
				}
			}
			if err = n.Decode(&r); err == nil {
				err = r.check()
			}
		default:
			return fmt.Errorf("line %d: a rule of parent is a link's name, or one of name, mac, pci and route", n.Line)
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", n.Line, err)
		}
		*rs = append(*rs, r)
	}
	return nil
}

// Words are words; in YAML also a single one.
type Words []string

// UnmarshalYAML implements yaml.Unmarshaler.
func (w *Words) UnmarshalYAML(node *yaml.Node) error {
	if node.Kind == yaml.ScalarNode {
		*w = Words{node.Value}
		return nil
	}
	return node.Decode((*[]string)(w))
}

func checkHosts(patterns []string) error {
	for _, p := range patterns {
		if _, err := path.Match(p, ""); err != nil || p == "" {
			return lan.Refusef(lan.ErrInvalid, "hosts: %q is not a host's name, nor a pattern such as node*", p)
		}
	}
	return nil
}

// forHost reports whether patterns mean a host; none mean all.
func forHost(patterns []string, host string) bool {
	return len(patterns) == 0 || slices.ContainsFunc(patterns, func(p string) bool {
		ok, _ := path.Match(p, host) // checked when it was read
		return ok
	})
}

// For reports whether a host of this name is to have the network.
func (n *Network) For(host string) bool { return forHost(n.Hosts, host) }

// RulesFor are the rules of Parent that are for a host, in order.
func (n *Network) RulesFor(host string) Rules {
	return slices.DeleteFunc(slices.Clone(n.Parent), func(r Rule) bool { return !forHost(r.Hosts, host) })
}

// file is what a file has.
type file struct {
	Networks map[string]*Network `yaml:"networks"`
}

// Read reads definitions and checks them; they are returned by name. Errors name the line, or
// the network.
func Read(r io.Reader) ([]Network, error) {
	d := yaml.NewDecoder(r)
	d.KnownFields(true)
	var f file
	if err := d.Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return nil, lan.Refusef(lan.ErrInvalid, "%s", yamlText(err))
	}
	if err := d.Decode(new(file)); !errors.Is(err, io.EOF) {
		return nil, lan.Refusef(lan.ErrInvalid, "it has a second document (---); one is read")
	}
	if len(f.Networks) == 0 {
		return nil, lan.Refusef(lan.ErrInvalid, "it defines no networks; try:\nnetworks:\n  lan:\n    parent: eth1.100\n    ipam:\n      config:\n        - subnet: 192.168.0.0/16")
	}
	list := make([]Network, 0, len(f.Networks))
	for _, name := range slices.Sorted(maps.Keys(f.Networks)) {
		n := f.Networks[name]
		if n == nil {
			n = &Network{}
		}
		n.Name = name
		if err := n.Check(); err != nil {
			return nil, err
		}
		list = append(list, *n)
	}
	return list, nil
}

// unknownField is how the decoder says that it does not know a field.
var unknownField = regexp.MustCompile(`field (\S+) not found in type \S+`)

// yamlText is an error of the decoder in a user's words.
func yamlText(err error) string {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	text = strings.ReplaceAll(strings.TrimPrefix(text, "unmarshal errors:\n  "), "\n  ", "; ")
	return unknownField.ReplaceAllString(text, "there is no $1 here")
}

// Write is what Read reads, as text.
func Write(list []Network) ([]byte, error) {
	f := file{map[string]*Network{}}
	for i := range list {
		f.Networks[list[i].Name] = &list[i]
	}
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	err := e.Encode(f)
	return b.Bytes(), cmp.Or(err, e.Close())
}

// dockerName is what Docker takes for a network's name.
var dockerName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]*$`)

// Check refuses what no host could make, and fills in what follows from the rest.
func (n *Network) Check() error {
	if err := n.check(); err != nil {
		return fmt.Errorf("network %s: %w", n.Name, err)
	}
	return nil
}

func (n *Network) check() error {
	switch {
	case !dockerName.MatchString(n.Name):
		return lan.Refusef(lan.ErrInvalid, "a name begins with a letter or a digit, and goes on with those, dots, dashes and underscores")
	case slices.Contains([]string{"bridge", "host", "none", "default", "ingress"}, n.Name):
		return lan.Refusef(lan.ErrInvalid, "Docker has a network of that name of its own")
	case n.Driver != "" && n.Driver != Driver:
		return lan.Refusef(lan.ErrInvalid, "driver %s: what is defined here is lanyard's; leave driver out", n.Driver)
	}
	n.Driver = ""
	if p, ok := n.DriverOpts[lan.OptParent]; ok {
		if len(n.Parent) > 0 {
			return lan.Refusef(lan.ErrInvalid, "the parent is in parent and in driver_opts; leave one of them out")
		}
		n.DriverOpts = maps.Clone(n.DriverOpts)
		delete(n.DriverOpts, lan.OptParent)
		if p != "" {
			n.Parent = Rules{{Name: p}}
		}
	}
	for i := range n.Parent {
		if err := n.Parent[i].check(); err != nil {
			return err
		}
	}
	if err := checkHosts(n.Hosts); err != nil {
		return err
	}
	if err := n.checkIPAM(); err != nil {
		return err
	}
	return n.checkOptions()
}

// checkIPAM checks the pools.
func (n *Network) checkIPAM() error {
	own := n.DriverOpts["subnet"] != "" || n.DriverOpts["source"] != ""
	switch n.IPAM.Driver {
	case "":
		n.IPAM.Driver = Driver
		if own && len(n.IPAM.Config) == 0 {
			n.IPAM.Driver = NullIPAM
		}
	case Driver, NullIPAM:
	default:
		return lan.Refusef(lan.ErrInvalid, "ipam driver %s: it would give out the same addresses on each host; leave it out, which means %s, or try: %s", n.IPAM.Driver, Driver, NullIPAM)
	}
	pool, err := lan.ParsePoolOptions(n.IPAM.Options)
	if err != nil {
		return err
	}
	switch {
	case n.IPAM.Driver == NullIPAM && len(n.IPAM.Config) > 0:
		return lan.Refusef(lan.ErrInvalid, "with ipam driver null the subnet is in driver_opts; try: driver_opts: {subnet: %s}", n.IPAM.Config[0].Subnet)
	case n.IPAM.Driver == Driver && len(n.IPAM.Config) == 0 && pool.Source != lan.SourceDHCP:
		return lan.Refusef(lan.ErrInvalid, "it has no subnet; try: ipam: {config: [{subnet: 192.168.0.0/16}]}, or ipam: {options: {source: dhcp}}")
	}
	var all []netip.Prefix
	for i := range n.IPAM.Config {
		p, err := n.IPAM.Config[i].check()
		if err != nil {
			return err
		}
		for _, q := range all {
			if q.Overlaps(p) {
				return lan.Refusef(lan.ErrInvalid, "subnets %s and %s overlap", q, p)
			}
		}
		all = append(all, p)
		n.EnableIPv6 = n.EnableIPv6 || p.Addr().Is6()
	}
	return nil
}

func (s *Subnet) check() (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s.Subnet)
	if err != nil {
		return p, lan.Refusef(lan.ErrInvalid, "subnet %q: it is a prefix such as 192.168.0.0/16", s.Subnet)
	}
	if p != p.Masked() {
		return p, lan.Refusef(lan.ErrInvalid, "subnet %s has host bits; try: %s", p, p.Masked())
	}
	s.Subnet = p.String()
	if s.IPRange != "" {
		r, err := netip.ParsePrefix(s.IPRange)
		if err != nil || r.Bits() < p.Bits() || !p.Contains(r.Addr()) {
			return p, lan.Refusef(lan.ErrInvalid, "ip_range %q is no part of subnet %s", s.IPRange, p)
		}
		s.IPRange = r.Masked().String()
	}
	for what, text := range s.addresses() {
		if a, err := netip.ParseAddr(text); err != nil || !p.Contains(a) {
			return p, lan.Refusef(lan.ErrInvalid, "%s %q is no address of subnet %s", what, text, p)
		}
	}
	return p, nil
}

// addresses are the addresses of a subnet's definition, by what they are.
func (s *Subnet) addresses() map[string]string {
	all := map[string]string{}
	if s.Gateway != "" {
		all["gateway"] = s.Gateway
	}
	for name, text := range s.Aux {
		all["aux_addresses "+name] = text
	}
	return all
}

// checkOptions has package lan check what the driver is to be told.
func (n *Network) checkOptions() error {
	opts := maps.Clone(n.DriverOpts)
	if len(n.Parent) > 0 {
		if opts == nil {
			opts = map[string]string{}
		}
		opts[lan.OptParent] = cmp.Or(n.Parent[0].Name, "eth0")
	}
	options, err := lan.ParsePoolOptions(n.IPAM.Options)
	if err != nil {
		return err
	}
	r := lan.NetworkRequest{ID: strings.Repeat("0", 64), Options: opts, Internal: n.Internal}
	for _, s := range n.IPAM.Config {
		p := netip.MustParsePrefix(s.Subnet)
		pool := lan.Subnet{Pool: p, Leased: true, Source: options.Source}
		if s.Gateway != "" {
			pool.Gateway = netip.MustParseAddr(s.Gateway)
		}
		if p.Addr().Is6() {
			r.IPv6, r.WantIPv6 = append(r.IPv6, pool), true
		} else {
			r.IPv4, r.WantIPv4 = append(r.IPv4, pool), true
		}
	}
	_, err = lan.ParseNetwork(r)
	return err
}

// fields are all that is said of a network, by path, such as ipam.config[10.0.0.0/24].gateway.
func (n *Network) fields() map[string]string {
	c := *n
	c.IPAM.Config = nil
	all := map[string]string{}
	flatten(all, "", c)
	for _, s := range n.IPAM.Config {
		key := "ipam.config[" + s.Subnet + "]"
		all[key] = "defined"
		s.Subnet = ""
		flatten(all, key, s)
	}
	if len(n.Parent) > 0 {
		words := make([]string, len(n.Parent))
		for i, r := range n.Parent {
			words[i] = r.String()
		}
		all["parent"] = strings.Join(words, ", ")
	}
	if len(n.Hosts) > 0 {
		all["hosts"] = strings.Join(n.Hosts, ", ")
	}
	delete(all, "name")
	return all
}

// flatten adds what JSON says of v; lists are left out.
func flatten(all map[string]string, at string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // strings and booleans
	}
	var into map[string]any
	if err := json.Unmarshal(b, &into); err != nil {
		panic(err) // a struct's
	}
	for key, value := range into {
		if at != "" {
			key = at + "." + key
		}
		switch value := value.(type) {
		case map[string]any:
			flatten(all, key, value)
		case []any:
		default:
			all[key] = fmt.Sprint(value)
		}
	}
}

// Differences says what is otherwise in is than in n, a line each: "driver_opts.vlan: 100, is to be 200".
func (n *Network) Differences(is *Network) (list []string) {
	want, have := n.fields(), is.fields()
	for _, key := range slices.Sorted(maps.Keys(want)) {
		switch old, ok := have[key]; {
		case !ok:
			list = append(list, fmt.Sprintf("%s: not there, is to be %s", key, want[key]))
		case old != want[key]:
			list = append(list, fmt.Sprintf("%s: %s, is to be %s", key, old, want[key]))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(have)) {
		if _, ok := want[key]; !ok {
			list = append(list, fmt.Sprintf("%s: %s, is to go", key, have[key]))
		}
	}
	return list
}
