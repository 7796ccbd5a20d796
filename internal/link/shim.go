package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// shimPrefix is what the name of every shim begins with.
const shimPrefix = "lyh-"

// protoHost marks the routes of host access, on both sides (rtm_protocol; ip route shows
// "proto 108"; nobody else is on record for it in rt_protos).
const protoHost = 108

// Shim is a sibling of the containers' links in the host's namespace, by which the host and
// they reach each other: the kernel passes nothing between a parent and its children. It
// answers no ARP request and sends nothing by itself, and has no address but those of
// SetShimAddrs.
type Shim struct {
	Name  string
	Index int
	MAC   net.HardwareAddr
}

// HostPath is how the host reaches an address of a container.
type HostPath struct {
	Addr netip.Addr
	MAC  string     // of the container's link
	From netip.Addr // the host's address that it sees
}

// EnsureShim makes the shim of a parent for networks like n, or finds it. mac is for
// macvlan; an ipvlan link has its parent's.
func (l *Links) EnsureShim(p *Parent, n *lan.Network, mac net.HardwareAddr) (*Shim, error) {
	c := Child{Name: ShimName(p), ParentIndex: p.Index, Kind: n.Kind, Mode: n.Mode, Flag: n.Flag}
	if n.Kind == lan.Macvlan {
		c.MAC = mac
	}
	link, err := l.h.LinkByName(c.Name)
	if err == nil {
		a := link.Attrs()
		same := link.Type() == string(n.Kind) && a.ParentIndex == p.Index && (c.MAC == nil || a.HardwareAddr.String() == c.MAC.String())
		if same && mine(link) && a.Flags&net.FlagUp != 0 {
			return &Shim{c.Name, a.Index, a.HardwareAddr}, nil
		}
		// One of another parent's time, or whose making was cut off.
		if err := l.Delete(c.Name); err != nil {
			return nil, fmt.Errorf("host access: %w", err)
		}
	} else if !isNotFound(err) {
		return nil, fmt.Errorf("shim %s: %w", c.Name, err)
	}
	if err := l.addChild(c); err != nil {
		return nil, fmt.Errorf("shim for host access: %w", explainAdd(err, c))
	}
	if link, err = l.h.LinkByName(c.Name); err == nil {
		err = l.dressShim(link, n.Kind)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("shim %s: %w", c.Name, err), l.Delete(c.Name))
	}
	a := link.Attrs()
	return &Shim{c.Name, a.Index, a.HardwareAddr}, nil
}

// dressShim keeps a shim silent, and sets it up.
func (l *Links) dressShim(link netlink.Link, kind lan.Kind) error {
	name := link.Attrs().Name
	ignore := 8 // the parent alone answers for the host's addresses
	if kind == lan.Ipvlan {
		ignore = 1 // what is asked for those of a shim does not come to the parent
	}
	for _, s := range []struct {
		family, key string
		value       int
	}{
		{"ipv4", "arp_ignore", ignore},
		{"ipv6", "accept_ra", 0},
		{"ipv6", "autoconf", 0},
		{"ipv6", "addr_gen_mode", 1}, // no link-local address, and so no solicitation
		{"ipv6", "forwarding", 0},    // no report of the routers' group
	} {
		err := l.setSysctl(s.family, name, s.key, s.value)
		if s.family == "ipv6" && errors.Is(err, os.ErrNotExist) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s.key, err)
		}
	}
	if err := l.h.LinkSetAlias(link, alias); err != nil {
		return fmt.Errorf("alias: %w", err)
	}
	return l.h.LinkSetUp(link)
}

// SetShimAddrs gives a shim addresses of the host's, which it has alone, without a route; those
// that it was given before and that are not among them go. What others set on it stays.
func (l *Links) SetShimAddrs(s *Shim, addrs []netip.Addr) error {
	link, err := l.h.LinkByIndex(s.Index)
	if err != nil {
		return fmt.Errorf("shim %s: %w", s.Name, err)
	}
	have, err := l.addrs(link)
	if err != nil {
		return fmt.Errorf("addresses of %s: %w", s.Name, err)
	}
	has := map[netip.Addr]bool{}
	for _, a := range have {
		addr := addrOf(a.IP)
		// Nobody else sets this flag for an address alone, with which it means nothing.
		ours := a.Flags&unix.IFA_F_NOPREFIXROUTE != 0
		if ones, _ := a.Mask.Size(); ones != addr.BitLen() {
			ours = false
		}
		if ours && !slices.Contains(addrs, addr) {
			if err := l.h.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return fmt.Errorf("address %s of %s: %w", addr, s.Name, err)
			}
			continue
		}
		has[addr] = true
	}
	for _, addr := range addrs {
		if has[addr] {
			continue
		}
		a := &netlink.Addr{IPNet: ipNet(netip.PrefixFrom(addr, addr.BitLen())), Flags: unix.IFA_F_NOPREFIXROUTE}
		if addr.Is6() {
			a.Flags |= unix.IFA_F_NODAD // the wire was asked
		}
		if err := l.h.AddrAdd(link, a); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("address %s on %s: %w", addr, s.Name, err)
		}
	}
	return nil
}

// ShimName is the name of a parent's shim: lyh-eth1.100, where that fits.
func ShimName(p *Parent) string {
	if name := shimPrefix + p.Name; len(name) <= 15 {
		return name
	}
	return fmt.Sprintf("%s%x", shimPrefix, p.Index)
}

// FindShim is the shim of a parent; nil if there is none.
func (l *Links) FindShim(p *Parent) (*Shim, error) {
	link, err := l.h.LinkByName(ShimName(p))
	if isNotFound(err) || err == nil && !mine(link) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("shim of %s: %w", p.Name, err)
	}
	a := link.Attrs()
	return &Shim{a.Name, a.Index, a.HardwareAddr}, nil
}

// Shims lists the names of all shims.
func (l *Links) Shims() ([]string, error) {
	links, err := l.list()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, link := range links {
		if isShim(link) {
			names = append(names, link.Attrs().Name)
		}
	}
	return names, nil
}

func isShim(link netlink.Link) bool {
	t := link.Type()
	return mine(link) && (t == "macvlan" || t == "ipvlan") && strings.HasPrefix(link.Attrs().Name, shimPrefix)
}

// HostPaths lists what AddHostPath made on a shim, by address. Of what is there by half the
// missing half is zero.
func (l *Links) HostPaths(s *Shim) (map[netip.Addr]HostPath, error) {
	paths := map[netip.Addr]HostPath{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := retried(func() ([]netlink.Route, error) {
			return l.h.RouteListFiltered(family, &netlink.Route{LinkIndex: s.Index, Protocol: protoHost}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
		})
		if err != nil {
			return nil, fmt.Errorf("routes of %s: %w", s.Name, err)
		}
		for _, r := range routes {
			if r.Dst == nil {
				continue
			}
			addr := addrOf(r.Dst.IP)
			p := paths[addr]
			p.Addr, p.From = addr, addrOf(r.Src)
			paths[addr] = p
		}
		neighbours, err := retried(func() ([]netlink.Neigh, error) { return l.h.NeighList(s.Index, family) })
		if err != nil {
			return nil, fmt.Errorf("neighbours of %s: %w", s.Name, err)
		}
		for _, n := range neighbours {
			if n.State&netlink.NUD_PERMANENT == 0 {
				continue
			}
			addr := addrOf(n.IP)
			p := paths[addr]
			p.Addr, p.MAC = addr, n.HardwareAddr.String()
			paths[addr] = p
		}
	}
	return paths, nil
}

// AddHostPath lets the host reach an address by a shim, or changes how it does. It refuses
// with lan.ErrConflict where the host has another route to that very address.
func (l *Links) AddHostPath(s *Shim, p HostPath) error {
	mac, err := net.ParseMAC(p.MAC)
	if err != nil {
		return fmt.Errorf("host access to %s: %w", p.Addr, err)
	}
	route := hostRoute(s.Index, p.Addr)
	route.Src = p.From.AsSlice()
	err = l.h.RouteAdd(route)
	if errors.Is(err, unix.EEXIST) {
		there, lerr := retried(func() ([]netlink.Route, error) {
			return l.h.RouteListFiltered(familyOf(p.Addr), &netlink.Route{Dst: route.Dst}, netlink.RT_FILTER_DST)
		})
		if lerr != nil {
			return fmt.Errorf("host access to %s: %w", p.Addr, lerr)
		}
		for _, r := range there {
			if r.LinkIndex != s.Index || r.Protocol != protoHost {
				return lan.Refusef(lan.ErrConflict, "the host has another route to %s, by %s, and that one stays; try: ip route show %s", p.Addr, l.nameOf(r.LinkIndex), p.Addr)
			}
		}
		err = l.h.RouteReplace(route)
	}
	if err != nil {
		return fmt.Errorf("route to %s: %w", p.Addr, err)
	}
	if err := l.h.NeighSet(permanent(s.Index, p.Addr, mac)); err != nil {
		return errors.Join(fmt.Errorf("neighbour %s on %s: %w", p.Addr, s.Name, err), gone(l.h.RouteDel(route)))
	}
	return nil
}

// RemoveHostPath undoes AddHostPath, where it was done.
func (l *Links) RemoveHostPath(s *Shim, addr netip.Addr) error {
	return errors.Join(gone(l.h.RouteDel(hostRoute(s.Index, addr))), gone(l.h.NeighDel(permanent(s.Index, addr, nil))))
}

func (l *Links) nameOf(index int) string {
	if link, err := l.h.LinkByIndex(index); err == nil {
		return link.Attrs().Name
	}
	return fmt.Sprintf("link %d", index)
}

// HostAddrs lists the addresses of a parent that its containers can reach the host by:
// neither link-local, nor on the way in or out.
func (l *Links) HostAddrs(p *Parent) ([]netip.Prefix, error) {
	link, err := l.h.LinkByIndex(p.Index)
	if err != nil {
		return nil, fmt.Errorf("parent %s: %w", p.Name, err)
	}
	addrs, err := l.addrs(link)
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", p.Name, err)
	}
	var list []netip.Prefix
	for _, a := range addrs {
		addr := addrOf(a.IP)
		if a.Scope != int(netlink.SCOPE_UNIVERSE) || addr.IsLinkLocalUnicast() || a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED|unix.IFA_F_DEPRECATED) != 0 {
			continue
		}
		ones, _ := a.Mask.Size()
		list = append(list, netip.PrefixFrom(addr, ones))
	}
	return list, nil
}

// HostAddrFor is the host's address that a container with this one is to see: one of the
// parent's (onParent) in its subnet, or any of the parent's, or the one that the host would
// take today. The zero Addr means that the host has none of that family.
func (l *Links) HostAddrFor(addr netip.Addr, onParent []netip.Prefix) netip.Addr {
	var any netip.Addr
	for _, p := range onParent {
		switch {
		case p.Addr().Is4() != addr.Is4():
		case p.Contains(addr):
			return p.Addr()
		case !any.IsValid():
			any = p.Addr()
		}
	}
	if any.IsValid() {
		return any
	}
	routes, err := l.h.RouteGet(addr.AsSlice())
	if err != nil || len(routes) == 0 {
		return netip.Addr{}
	}
	if src := addrOf(routes[0].Src); src.IsValid() && !src.IsLoopback() && !src.IsLinkLocalUnicast() {
		return src
	}
	return netip.Addr{}
}

// LooseReturn lets what comes from the containers of an ipvlan parent in: it arrives on the
// parent, while the way to them is the shim, and a strict rp_filter takes that for forged.
// On a parent of ours it is set to loose; on another one it is refused with what to type.
func (l *Links) LooseReturn(p *Parent) error {
	strict := false
	err := l.inside(func() error {
		var worst int
		for _, name := range []string{"all", p.Name} {
			text, err := os.ReadFile("/proc/sys/net/ipv4/conf/" + name + "/rp_filter")
			if err != nil {
				return err
			}
			worst = max(worst, int(text[0]-'0'))
		}
		strict = worst == 1
		return nil
	})
	if err != nil || !strict {
		return err
	}
	if !p.Mine {
		return lan.Refusef(lan.ErrConflict, "rp_filter of parent %s is strict, so the host would drop what its ipvlan containers send it; try: sysctl -w net.ipv4.conf.%s.rp_filter=2",
			p.Name, strings.ReplaceAll(p.Name, ".", "/"))
	}
	return l.setSysctl("ipv4", p.Name, "rp_filter", 2)
}

// KnowHost lets a container reach the host's addresses by its link: a permanent neighbour
// entry for each, since nobody answers for them there, and a route for those that are not
// on the link. Those of an earlier call that are not among them go.
func (c *Container) KnowHost(in *Inside, mac net.HardwareAddr, addrs []netip.Addr) error {
	h := c.links.h
	var errs []error
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := retried(func() ([]netlink.Route, error) {
			return h.RouteListFiltered(family, &netlink.Route{LinkIndex: in.Index, Protocol: protoHost}, netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
		})
		errs = append(errs, err)
		for _, r := range routes {
			if r.Dst != nil && !slices.Contains(addrs, addrOf(r.Dst.IP)) {
				errs = append(errs, gone(h.RouteDel(&r)))
			}
		}
		neighbours, err := retried(func() ([]netlink.Neigh, error) { return h.NeighList(in.Index, family) })
		errs = append(errs, err)
		for _, n := range neighbours {
			if n.State&netlink.NUD_PERMANENT != 0 && n.HardwareAddr.String() == mac.String() && !slices.Contains(addrs, addrOf(n.IP)) {
				errs = append(errs, gone(h.NeighDel(&n)))
			}
		}
	}
	for _, addr := range addrs {
		if err := h.NeighSet(permanent(in.Index, addr, mac)); err != nil {
			errs = append(errs, fmt.Errorf("neighbour %s on %s: %w", addr, in.Name, err))
			continue
		}
		if !slices.ContainsFunc(in.Addrs, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			if err := h.RouteReplace(hostRoute(in.Index, addr)); err != nil {
				errs = append(errs, fmt.Errorf("route to %s on %s: %w", addr, in.Name, err))
			}
		}
	}
	return errors.Join(errs...)
}

func hostRoute(index int, addr netip.Addr) *netlink.Route {
	r := &netlink.Route{LinkIndex: index, Dst: ipNet(netip.PrefixFrom(addr, addr.BitLen())), Protocol: protoHost}
	if addr.Is4() {
		r.Scope = netlink.SCOPE_LINK
	}
	return r
}

func permanent(index int, addr netip.Addr, mac net.HardwareAddr) *netlink.Neigh {
	return &netlink.Neigh{LinkIndex: index, Family: familyOf(addr), State: netlink.NUD_PERMANENT, IP: addr.AsSlice(), HardwareAddr: mac}
}

func familyOf(addr netip.Addr) int {
	if addr.Is4() {
		return netlink.FAMILY_V4
	}
	return netlink.FAMILY_V6
}

func addrOf(ip net.IP) netip.Addr {
	addr, _ := netip.AddrFromSlice(ip)
	return addr.Unmap()
}
