package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/netns"
)

// AddrOwners lists the addresses of this namespace, each with the name of a link
// that has it. Loopback and link-local addresses are left out.
func (l *Links) AddrOwners() (map[netip.Addr]string, error) {
	names := map[int]string{}
	owners := map[netip.Addr]string{}
	addrs, err := l.addrs(nil)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range addrs {
		addr, ok := netip.AddrFromSlice(a.IP)
		if addr = addr.Unmap(); !ok || addr.IsLoopback() || addr.IsLinkLocalUnicast() {
			continue
		}
		if _, ok := names[a.LinkIndex]; !ok {
			names[a.LinkIndex] = fmt.Sprintf("link %d", a.LinkIndex)
			if link, err := l.h.LinkByIndex(a.LinkIndex); err == nil {
				names[a.LinkIndex] = link.Attrs().Name
			}
		}
		owners[addr] = names[a.LinkIndex]
	}
	return owners, nil
}

// addrs are the addresses of a link, or of all (nil).
func (l *Links) addrs(link netlink.Link) ([]netlink.Addr, error) {
	return retried(func() ([]netlink.Addr, error) { return l.h.AddrList(link, unix.AF_UNSPEC) })
}

// retried is a dump, tried again when other changes interrupt it.
func retried[T any](dump func() (T, error)) (T, error) {
	for try := 0; ; try++ {
		v, err := dump()
		if !errors.Is(err, netlink.ErrDumpInterrupted) || try >= 10 {
			return v, err
		}
	}
}

// AddProbe makes a link on a parent for conflict detection, up and without an
// address, in another namespace (room), so that the host's stack does not answer on
// it and it goes when the room does. Give the network's kind, mode and flag: ipvlan's
// belong to the parent. mac is for macvlan only.
func (l *Links) AddProbe(room *netns.NS, parent int, n *lan.Network, mac net.HardwareAddr) (index int, err error) {
	c := Child{Name: fmt.Sprintf("lyp-%x", parent), ParentIndex: parent, Kind: n.Kind, Mode: n.Mode, Flag: n.Flag, NS: room}
	if n.Kind == lan.Macvlan {
		c.Mode, c.MAC = lan.ModeBridge, mac
	}
	inside, err := NewAt(room)
	if err != nil {
		return 0, err
	}
	defer inside.Close()
	if old, err := inside.h.LinkByName(c.Name); err == nil {
		if err := inside.h.LinkDel(old); err != nil {
			return 0, fmt.Errorf("probe link: %w", err)
		}
	}
	if err := l.addChild(c); err != nil {
		return 0, explainAdd(err, c)
	}
	link, err := inside.h.LinkByName(c.Name)
	if err == nil {
		err = inside.h.LinkSetUp(link)
	}
	if err != nil {
		return 0, fmt.Errorf("probe link: %w", err)
	}
	return link.Attrs().Index, nil
}

// DeleteProbe removes a link that AddProbe made.
func (l *Links) DeleteProbe(room *netns.NS, index int) error {
	inside, err := NewAt(room)
	if err != nil {
		return err
	}
	defer inside.Close()
	link, err := inside.h.LinkByIndex(index)
	if isNotFound(err) {
		return nil
	}
	if err == nil {
		err = inside.h.LinkDel(link)
	}
	if err != nil && !isNotFound(err) {
		return fmt.Errorf("probe link: %w", err)
	}
	return nil
}

// Inside is an endpoint's link in its container.
type Inside struct {
	Name  string
	Index int
	MAC   net.HardwareAddr
	MTU   int // bytes
	// Addrs are its addresses with their lengths, link-local ones left out.
	Addrs []netip.Prefix
}

// Container is a container's namespace. Close it when done.
type Container struct {
	NS    *netns.NS
	links *Links
}

// OpenContainer opens the namespace at path.
func OpenContainer(path string) (*Container, error) {
	ns, err := netns.Open(path)
	if err != nil {
		return nil, err
	}
	links, err := NewAt(ns)
	if err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return &Container{NS: ns, links: links}, nil
}

// Close lets the namespace go.
func (c *Container) Close() error {
	c.links.Close()
	return c.NS.Close()
}

// Find is the endpoint's link, which is up and has the endpoint's addresses; nil
// while it is not so. One with DHCP leases, whose addresses change, is found by its alias.
func (c *Container) Find(e *lan.Endpoint) (*Inside, error) {
	links, err := c.links.list()
	if err != nil {
		return nil, err
	}
	addrs, err := c.links.addrs(nil)
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, link := range links {
		a := link.Attrs()
		if t := link.Type(); t != "macvlan" && t != "ipvlan" || a.Flags&net.FlagUp == 0 || e.MAC != "" && a.HardwareAddr.String() != e.MAC {
			continue
		}
		in := &Inside{Name: a.Name, Index: a.Index, MAC: a.HardwareAddr, MTU: a.MTU}
		for _, x := range addrs {
			addr, ok := netip.AddrFromSlice(x.IP)
			if !ok || x.LinkIndex != a.Index || addr.Unmap().IsLinkLocalUnicast() {
				continue
			}
			ones, _ := x.Mask.Size()
			in.Addrs = append(in.Addrs, netip.PrefixFrom(addr.Unmap(), ones))
		}
		has := func(p netip.Prefix) bool {
			return !p.IsValid() || slices.ContainsFunc(in.Addrs, func(q netip.Prefix) bool { return q.Addr() == p.Addr() })
		}
		if len(e.Leases) > 0 {
			// The kernel keeps the alias when it moves a link.
			if a.Alias == e.LinkName() {
				return in, nil
			}
			continue
		}
		none := !e.IPv4.IsValid() && !e.IPv6.IsValid() && e.MAC == ""
		if has(e.IPv4) && has(e.IPv6) && !none {
			return in, nil
		}
	}
	return nil, nil
}

// Traffic is what a link has carried since it was made, as its container sees it.
type Traffic struct {
	RxBytes   uint64 `json:"rx_bytes"`
	RxPackets uint64 `json:"rx_packets"`
	TxBytes   uint64 `json:"tx_bytes"`
	TxPackets uint64 `json:"tx_packets"`
}

// Traffic reads the counters of an endpoint's link in its container; found is false while
// there is no such link. Where the link's name is known it asks for that one alone.
func (c *Container) Traffic(e *lan.Endpoint) (t Traffic, found bool, err error) {
	var link netlink.Link
	if e.Link != "" {
		link, err = c.links.h.LinkByName(e.Link)
	}
	if k := kindOf(link); err != nil || k != lan.Macvlan && k != lan.Ipvlan {
		in, err := c.Find(e)
		if err != nil || in == nil {
			return t, false, err
		}
		if link, err = c.links.h.LinkByIndex(in.Index); err != nil {
			return t, false, err
		}
	}
	if s := link.Attrs().Statistics; s != nil {
		t = Traffic{s.RxBytes, s.RxPackets, s.TxBytes, s.TxPackets}
	}
	return t, true, nil
}

// kindOf is the kind of a link, "" of none.
func kindOf(link netlink.Link) lan.Kind {
	if link == nil {
		return ""
	}
	return lan.Kind(link.Type())
}

// HasLink reports whether an endpoint's link is in its container in any state: up or down,
// with its addresses or without.
func HasLink(e *lan.Endpoint) (bool, error) {
	c, err := OpenContainer(e.Sandbox)
	if err != nil {
		return false, err
	}
	defer c.Close()
	links, err := c.links.list()
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(links, func(link netlink.Link) bool {
		a, t := link.Attrs(), link.Type()
		switch {
		case t != "macvlan" && t != "ipvlan":
			return false
		case e.MAC != "":
			return a.HardwareAddr.String() == e.MAC
		}
		return a.Alias == e.LinkName() || a.Name == e.Link
	}), nil
}

// WithInside calls do with an endpoint's link in its container, if Find finds it, and
// reports whether it did. The namespace is open for as long as do takes.
func WithInside(e *lan.Endpoint, do func(*Container, *Inside) error) (found bool, err error) {
	c, err := OpenContainer(e.Sandbox)
	if err != nil {
		return false, err
	}
	defer c.Close()
	in, err := c.Find(e)
	if err != nil || in == nil {
		return false, err
	}
	return true, do(c, in)
}

// SetIPv6 makes a link in the container heed a mode: lan.IPv6SLAAC lets it take
// addresses from router advertisements, lan.IPv6DHCP routes alone, lan.IPv6Static and lan.IPv6Off do not; off
// turns IPv6 off on it. The sysctls are those of ip-sysctl in the kernel's
// documentation.
func (c *Container) SetIPv6(name string, mode lan.IPv6Mode) error {
	type sysctl struct {
		key   string
		value int
	}
	var set []sysctl
	switch mode {
	case lan.IPv6SLAAC:
		// 2: also where the container forwards.
		set = []sysctl{{"accept_ra", 2}, {"autoconf", 1}, {"disable_ipv6", 0}}
	case lan.IPv6DHCP:
		// DHCPv6 says an address and no more: routers say what is on the link and the way out.
		set = []sysctl{{"accept_ra", 2}, {"autoconf", 0}, {"disable_ipv6", 0}}
	case lan.IPv6Static:
		set = []sysctl{{"accept_ra", 0}, {"autoconf", 0}}
	case lan.IPv6Off:
		set = []sysctl{{"accept_ra", 0}, {"autoconf", 0}, {"disable_ipv6", 1}}
	}
	for _, s := range set {
		err := c.links.setSysctl("ipv6", name, s.key, s.value)
		if errors.Is(err, os.ErrNotExist) && mode == lan.IPv6Off {
			continue // a kernel without IPv6
		}
		if err != nil {
			return fmt.Errorf("IPv6 of %s: %w", name, err)
		}
	}
	return nil
}
