package link

import (
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Homemade is a macvlan or ipvlan link on the host that somebody made beside the containers' links, so
// that the host reaches them.
type Homemade struct {
	Name   string         `json:"name"`
	Kind   string         `json:"kind"`
	Mode   string         `json:"mode"`
	MAC    string         `json:"mac"`
	Addrs  []netip.Prefix `json:"addresses"`
	Routes []netip.Prefix `json:"routes"`
}

// Homemade lists those on a parent that are not lanyard's: links with an address or a route of their own.
// Routes are those that somebody set, without the ones that the kernel makes of addresses. A parent that is not there has none.
func (l *Links) Homemade(parent string) ([]Homemade, error) {
	on, err := l.h.LinkByName(parent)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	all, err := l.list()
	if err != nil {
		return nil, err
	}
	var list []Homemade
	for _, one := range all {
		a := one.Attrs()
		if a.ParentIndex != on.Attrs().Index || a.NetNsID >= 0 || mine(one) || isShim(one) {
			continue
		}
		h := Homemade{Name: a.Name, Kind: one.Type(), MAC: a.HardwareAddr.String()}
		switch v := one.(type) {
		case *netlink.Macvlan:
			h.Mode = nameOf(macvlanModes, v.Mode)
		case *netlink.IPVlan:
			h.Mode = nameOf(ipvlanModes, v.Mode)
		default:
			continue
		}
		addrs, err := retried(func() ([]netlink.Addr, error) { return l.h.AddrList(one, unix.AF_UNSPEC) })
		if err != nil {
			return nil, err
		}
		for _, addr := range addrs {
			if p, ok := netip.AddrFromSlice(addr.IP); ok && !p.Unmap().IsLinkLocalUnicast() {
				ones, _ := addr.Mask.Size()
				h.Addrs = append(h.Addrs, netip.PrefixFrom(p.Unmap(), ones))
			}
		}
		for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
			routes, err := retried(func() ([]netlink.Route, error) {
				return l.h.RouteListFiltered(family, &netlink.Route{LinkIndex: a.Index}, netlink.RT_FILTER_OIF)
			})
			if err != nil {
				return nil, err
			}
			for _, r := range routes {
				if r.Dst == nil || r.Protocol == unix.RTPROT_KERNEL || r.Dst.IP.IsMulticast() {
					continue
				}
				p, _ := netip.AddrFromSlice(r.Dst.IP)
				ones, _ := r.Dst.Mask.Size()
				h.Routes = append(h.Routes, netip.PrefixFrom(p.Unmap(), ones))
			}
		}
		if len(h.Addrs) > 0 || len(h.Routes) > 0 {
			list = append(list, h)
		}
	}
	return list, nil
}

// nameOf is the name of a mode.
func nameOf[K ~string, V comparable](names map[K]V, mode V) string {
	for name, m := range names {
		if m == mode {
			return string(name)
		}
	}
	return ""
}

// Has reports whether any link here has this name, be it ours or not.
func (l *Links) Has(name string) bool {
	_, err := l.h.LinkByName(name)
	return err == nil
}
