package link

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// Change is what is to become of a link in a running container.
type Change struct {
	// Remove and Add are addresses; the zero Prefix is none.
	Remove, Add netip.Prefix
	// OldGateway and Gateway are the default gateways before and after. The default
	// route is changed only if it leads through OldGateway on this link, if Default
	// says that it did before a change that left none, or if there was no gateway and the
	// container has no default route.
	OldGateway, Gateway netip.Addr
	Default             bool
	OldRoutes, Routes   []lan.Route
	// MTU in bytes; 0 changes nothing.
	MTU int
}

// Apply changes a link in the container: what is new comes before what is old goes, so
// that traffic goes on. It reports whether the default route led through OldGateway. It
// goes on after an error, and returns all.
func (c *Container) Apply(in *Inside, ch Change) (wasDefault bool, err error) {
	h := c.links.h
	var errs []error
	fail := func(what string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s %s: %w", in.Name, what, err))
		}
	}
	link, err := h.LinkByIndex(in.Index)
	if err != nil {
		return false, fmt.Errorf("link %s: %w", in.Name, err)
	}
	if ch.MTU > 0 && link.Attrs().MTU != ch.MTU {
		fail("MTU", h.LinkSetMTU(link, ch.MTU))
	}
	defaults, err := c.defaults(ch)
	fail("routes", err)
	onLink := slices.DeleteFunc(slices.Clone(defaults), func(r netlink.Route) bool { return r.LinkIndex != in.Index })
	for _, r := range onLink {
		wasDefault = wasDefault || ch.OldGateway.IsValid() && r.Gw.Equal(ch.OldGateway.AsSlice())
	}
	first := ch.Remove.IsValid() && !ch.OldGateway.IsValid() && len(defaults) == 0
	set := func() {
		if ch.Add.IsValid() && ch.Add != ch.Remove {
			addr := &netlink.Addr{IPNet: ipNet(ch.Add)}
			if ch.Add.Addr().Is6() {
				addr.Flags = unix.IFA_F_NODAD // it was looked for already
			}
			fail("address", h.AddrReplace(link, addr))
		}
		for _, r := range ch.Routes {
			fail("route "+r.Dst.String(), h.RouteReplace(route(in.Index, r)))
		}
		if !ch.Gateway.IsValid() || !wasDefault && !ch.Default && !first {
			return
		}
		if ch.Add.IsValid() && !ch.Add.Contains(ch.Gateway) {
			fail("route to gateway", h.RouteReplace(route(in.Index, lan.Route{Dst: netip.PrefixFrom(ch.Gateway, ch.Gateway.BitLen())})))
		}
		fail("default route", h.RouteReplace(route(in.Index, lan.Route{Dst: lan.AnySubnet(ch.Gateway.Is6()), NextHop: ch.Gateway})))
	}
	set()
	for _, r := range ch.OldRoutes {
		if !slices.Contains(ch.Routes, r) {
			fail("old route "+r.Dst.String(), gone(h.RouteDel(route(in.Index, r))))
		}
	}
	if wasDefault && !ch.Gateway.IsValid() {
		for _, r := range onLink {
			if r.Gw.Equal(ch.OldGateway.AsSlice()) {
				fail("old default route", gone(h.RouteDel(&r)))
			}
		}
	}
	if ch.Remove.IsValid() && ch.Add != ch.Remove {
		fail("old address", gone(h.AddrDel(link, &netlink.Addr{IPNet: ipNet(ch.Remove)})))
		// The kernel took the routes along whose source was the address, and, unless it
		// promotes them (sysctl promote_secondaries), the subnet's other addresses.
		set()
	}
	return wasDefault, errors.Join(errs...)
}

// defaults are the container's default routes of the family that a change is about.
func (c *Container) defaults(ch Change) ([]netlink.Route, error) {
	family := netlink.FAMILY_V4
	if ch.Add.Addr().Is6() || ch.Remove.Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	all, err := retried(func() ([]netlink.Route, error) {
		return c.links.h.RouteList(nil, family)
	})
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(all, func(r netlink.Route) bool {
		if r.Dst == nil {
			return false
		}
		ones, _ := r.Dst.Mask.Size()
		return ones > 0
	}), nil
}

// route is a route of the kernel's, marked as DHCP's (RTPROT_DHCP).
func route(index int, r lan.Route) *netlink.Route {
	k := &netlink.Route{LinkIndex: index, Dst: ipNet(r.Dst), Protocol: unix.RTPROT_DHCP}
	if r.NextHop.IsValid() {
		k.Gw = r.NextHop.AsSlice()
	} else {
		k.Scope = netlink.SCOPE_LINK
	}
	return k
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// gone makes success of what was not there.
func gone(err error) error {
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return err
}
