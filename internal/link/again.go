package link

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// Shape is what a link in a container is like, beyond what its endpoint's record says: what
// the engine chose, and what was changed in the container since. The kernel forgets it with
// the link.
type Shape struct {
	// Name is the link's name in its container.
	Name string
	// MTU in bytes.
	MTU int

	addrs   []netlink.Addr  // that the record does not have
	routes  []netlink.Route // by the link, those to gateways last
	sysctls []sysctl        // of the link, that are not what a new link in the container has
}

// sysctl is a setting of a link, in its namespace's /proc/sys/net/FAMILY/conf/LINK/KEY.
type sysctl struct{ family, key, value string }

// Shape reads the shape of an endpoint's link. What routers advertised is left out, since it
// comes again, and what host access put there, which the engine does again.
func (c *Container) Shape(in *Inside, e *lan.Endpoint) (*Shape, error) {
	h := c.links.h
	link, err := h.LinkByIndex(in.Index)
	if err != nil {
		return nil, fmt.Errorf("link %s: %w", in.Name, err)
	}
	s := &Shape{Name: in.Name, MTU: link.Attrs().MTU}
	addrs, err := c.links.addrs(link)
	if err != nil {
		return nil, fmt.Errorf("addresses of %s: %w", in.Name, err)
	}
	for _, a := range addrs {
		addr := addrOf(a.IP)
		if addr == e.IPv4.Addr() || addr == e.IPv6.Addr() || addr.IsLinkLocalUnicast() || a.Flags&unix.IFA_F_PERMANENT == 0 || a.Flags&unix.IFA_F_SECONDARY != 0 && addr.Is6() {
			continue
		}
		a.LinkIndex, a.ValidLft, a.PreferedLft = 0, 0, 0
		s.addrs = append(s.addrs, a)
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := retried(func() ([]netlink.Route, error) {
			return h.RouteListFiltered(family, &netlink.Route{LinkIndex: in.Index}, netlink.RT_FILTER_OIF)
		})
		if err != nil {
			return nil, fmt.Errorf("routes of %s: %w", in.Name, err)
		}
		for _, r := range routes {
			if p := r.Protocol; p != unix.RTPROT_KERNEL && p != unix.RTPROT_RA && p != protoHost {
				s.routes = append(s.routes, r)
			}
		}
	}
	slices.SortStableFunc(s.routes, byGateway)
	s.sysctls, err = c.sysctls(in.Name)
	return s, err
}

// sysctls are the settings of a link that are not what a new link in the container has. Some
// can only be written, or follow from others, and are left out.
func (c *Container) sysctls(name string) (set []sysctl, err error) {
	err = c.NS.Do(func() error {
		for _, family := range []string{"ipv4", "ipv6"} {
			folder := "/proc/sys/net/" + family + "/conf/"
			keys, err := os.ReadDir(folder + name)
			if errors.Is(err, os.ErrNotExist) {
				continue // a kernel without IPv6
			}
			if err != nil {
				return err
			}
			for _, k := range keys {
				is, err := os.ReadFile(folder + name + "/" + k.Name())
				if err != nil || k.Name() == "mtu" {
					continue
				}
				if fresh, err := os.ReadFile(folder + "default/" + k.Name()); err == nil && string(fresh) != string(is) {
					set = append(set, sysctl{family, k.Name(), strings.TrimSpace(string(is))})
				}
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("sysctls of %s: %w", name, err)
	}
	return set, nil
}

// sysctlsAgain gives a link its settings back, or those that the engine gives a new one.
func (c *Container) sysctlsAgain(name string, a Again) error {
	var set []sysctl
	switch v6 := slices.ContainsFunc(a.Addrs, func(p netip.Prefix) bool { return p.Addr().Is6() }); {
	case a.Shape != nil:
		set = a.Shape.sysctls
	case v6:
		set = []sysctl{{"ipv6", "disable_ipv6", "0"}}
	case a.IPv6 == "":
		set = []sysctl{{"ipv6", "disable_ipv6", "1"}}
	}
	err := c.NS.Do(func() error {
		for _, s := range set {
			err := os.WriteFile("/proc/sys/net/"+s.family+"/conf/"+name+"/"+s.key, []byte(s.value), 0o644)
			if err != nil && !errors.Is(err, os.ErrNotExist) && s.key == "disable_ipv6" {
				return fmt.Errorf("%s of %s in the container: %w", s.key, name, err)
			}
		}
		return nil
	})
	if err != nil || a.IPv6 == "" {
		return err
	}
	return c.SetIPv6(name, a.IPv6)
}

// byGateway puts routes first that need no other route.
func byGateway(a, b netlink.Route) int { return len(a.Gw) - len(b.Gw) }

// Again is a container's link that is to be made anew.
type Again struct {
	// Child is the link: its Name is the one before Docker moved it, and marks it in the
	// container from now on, as its alias.
	Child
	// Name is the one in the container.
	Name string
	// Addrs are the endpoint's addresses, and Routes its routes where Shape is nil.
	Addrs  []netip.Prefix
	Routes []lan.Route
	// IPv6 is its mode; "" leaves it to the kernel.
	IPv6 lan.IPv6Mode
	// Filter is the descriptor of a program for its egress, as in Links.Filter; 0: none.
	Filter int
	// Shape is what the link was like, if that is known.
	Shape *Shape
}

// AddAgain makes a container's link anew, which the kernel took away with its parent: in the
// container, with its name, addresses and routes, and up. When another link has its name by
// now it is called ethN. What was left of an earlier try is replaced; when it fails nothing
// is left. The parent's index is one of the namespace of l. A route that the container has
// otherwise by now is left alone.
func (l *Links) AddAgain(c *Container, a Again) (_ *Inside, err error) {
	name, err := c.freeName(a)
	if err != nil {
		return nil, err
	}
	child := a.Child
	child.NS = c.NS
	if err := l.addChild(child); err != nil {
		return nil, explainAdd(err, child)
	}
	link, err := c.links.h.LinkByName(child.Name)
	if err != nil {
		return nil, fmt.Errorf("link %s in the container: %w", child.Name, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, gone(c.links.h.LinkDel(link)))
		}
	}()
	// The mark comes before the name, so that a leaving has one of the two.
	if err := c.links.h.LinkSetAlias(link, child.Name); err != nil {
		return nil, fmt.Errorf("alias of %s in the container: %w", name, err)
	}
	if err := c.links.h.LinkSetName(link, name); err != nil {
		return nil, fmt.Errorf("name %s in the container: %w", name, err)
	}
	if err := c.sysctlsAgain(name, a); err != nil {
		return nil, err
	}
	if err := c.addrsAgain(link, a); err != nil {
		return nil, err
	}
	if a.Filter != 0 {
		if err := c.links.Filter(link.Attrs().Index, a.Filter); err != nil {
			return nil, err
		}
	}
	if err := c.links.h.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("set %s up in the container: %w", name, err)
	}
	return &Inside{Name: name, Index: link.Attrs().Index, MAC: link.Attrs().HardwareAddr, Addrs: a.Addrs}, c.routesAgain(link.Attrs().Index, a)
}

// addrsAgain gives a link its addresses back.
func (c *Container) addrsAgain(link netlink.Link, a Again) error {
	var addrs []netlink.Addr
	for _, p := range a.Addrs {
		addrs = append(addrs, netlink.Addr{IPNet: ipNet(p)})
	}
	if a.Shape != nil {
		addrs = append(addrs, a.Shape.addrs...)
	}
	for _, addr := range addrs {
		if addr.IP.To4() == nil {
			if a.IPv6 == lan.IPv6Off {
				continue
			}
			addr.Flags |= unix.IFA_F_NODAD // it had it before
		}
		if err := c.links.h.AddrReplace(link, &addr); err != nil {
			return fmt.Errorf("address %s of %s in the container: %w", addr.IPNet, a.Name, err)
		}
	}
	return nil
}

// routesAgain gives a link its routes back.
func (c *Container) routesAgain(index int, a Again) error {
	var routes []netlink.Route
	if a.Shape != nil {
		routes = slices.Clone(a.Shape.routes)
	} else {
		for _, r := range a.Routes {
			k := route(index, r)
			k.Protocol = unix.RTPROT_BOOT
			routes = append(routes, *k)
		}
		slices.SortStableFunc(routes, byGateway)
	}
	for _, r := range routes {
		r.LinkIndex, r.Flags = index, r.Flags&unix.RTNH_F_ONLINK
		if r.Dst != nil && r.Dst.IP.To4() == nil && a.IPv6 == lan.IPv6Off {
			continue
		}
		if err := c.links.h.RouteAdd(&r); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("route %s of %s in the container: %w", r, a.Name, err)
		}
	}
	return nil
}

// freeName is the name that a link can have in the container: its own, unless another one has
// it. It removes what an earlier try has left.
func (c *Container) freeName(a Again) (string, error) {
	links, err := c.links.list()
	if err != nil {
		return "", err
	}
	taken := map[string]bool{}
	for _, link := range links {
		is := link.Attrs()
		sameMAC := len(a.MAC) > 0 && is.HardwareAddr.String() == a.MAC.String()
		if link.Type() == string(a.Kind) && mine(link) && (is.Alias == a.Child.Name || is.Name == a.Child.Name || sameMAC) {
			if err := gone(c.links.h.LinkDel(link)); err != nil {
				return "", fmt.Errorf("link %s in the container, which was cut off: %w", is.Name, err)
			}
			continue
		}
		taken[is.Name] = true
	}
	if a.Name != "" && !taken[a.Name] {
		return a.Name, nil
	}
	for i := 0; ; i++ {
		if name := fmt.Sprintf("eth%d", i); !taken[name] {
			return name, nil
		}
	}
}

// SetMTU sets the MTU of a link in the container, in bytes, if it is another one.
func (c *Container) SetMTU(in *Inside, mtu int) error {
	link, err := c.links.h.LinkByIndex(in.Index)
	if err == nil && link.Attrs().MTU != mtu {
		err = c.links.h.LinkSetMTU(link, mtu)
	}
	if err != nil {
		return fmt.Errorf("MTU of %s in the container: %w", in.Name, err)
	}
	return nil
}
