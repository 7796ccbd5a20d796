package link

import (
	"bytes"
	"errors"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// ByMAC is the name of the link with a hardware address: its permanent one (IFLA_PERM_ADDRESS), or the one that it has. What is
// made on top of a link (a VLAN, a child) is not meant. Where a bond or a bridge has taken the link, that is returned.
func (l *Links) ByMAC(mac net.HardwareAddr) (string, error) {
	return l.only("has MAC address "+mac.String(), func(link netlink.Link) bool {
		a := link.Attrs()
		return bytes.Equal(a.PermHWAddr, mac) || bytes.Equal(a.HardwareAddr, mac)
	})
}

// ByDevice is the name of the link whose device has this address on its bus, such as 0000:03:00.0, or lies behind one that has. Where a
// bond or a bridge has taken the link, that is returned.
func (l *Links) ByDevice(address string) (string, error) {
	address = strings.TrimPrefix(address, "pci-")
	return l.only("is the device "+address, func(link netlink.Link) bool {
		device, err := filepath.EvalSymlinks(filepath.Join(l.sysClass, link.Attrs().Name, "device"))
		return err == nil && slices.Contains(strings.Split(device, "/"), address)
	})
}

// only is the name of the one link that is so, or of its master.
func (l *Links) only(how string, so func(netlink.Link) bool) (string, error) {
	all, err := l.list()
	if err != nil {
		return "", err
	}
	var names []string
	for _, link := range all {
		if slices.Contains([]string{"vlan", "macvlan", "ipvlan", "macvtap", "ipvtap"}, link.Type()) || mine(link) || !so(link) {
			continue
		}
		if name := top(all, link); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	switch len(names) {
	case 1:
		return names[0], nil
	case 0:
		return "", lan.Refusef(lan.ErrUnavailable, "no link of this host %s; try: ip -details link show", how)
	}
	return "", lan.Refusef(lan.ErrConflict, "%s: each %s; try a rule by name", strings.Join(names, ", "), how)
}

// top is the name of the bond, team or bridge that has taken a link, and so on, or its own.
func top(all []netlink.Link, link netlink.Link) string {
	for range all { // a loop there cannot be
		i := slices.IndexFunc(all, func(m netlink.Link) bool { return m.Attrs().Index == link.Attrs().MasterIndex })
		if i < 0 || all[i].Type() == "vrf" {
			break
		}
		link = all[i]
	}
	return link.Attrs().Name
}

// ByRoute is the name of the link that packets to an address leave by. Of a link of ours it is the parent.
func (l *Links) ByRoute(to netip.Addr) (string, error) {
	routes, err := l.h.RouteGet(to.AsSlice())
	if errors.Is(err, unix.ENETUNREACH) || errors.Is(err, unix.EHOSTUNREACH) || err == nil && len(routes) == 0 {
		return "", lan.Refusef(lan.ErrUnavailable, "this host has no route to %s; try: ip route get %s", to, to)
	}
	if err != nil {
		return "", lan.Refusef(lan.ErrUnavailable, "route to %s: %v", to, err)
	}
	link, err := l.h.LinkByIndex(routes[0].LinkIndex)
	if err == nil && ours(link) && link.Attrs().ParentIndex != 0 && link.Type() != "vlan" {
		link, err = l.h.LinkByIndex(link.Attrs().ParentIndex)
	}
	if err != nil {
		return "", lan.Refusef(lan.ErrUnavailable, "link of the route to %s: %v", to, err)
	}
	if link.Attrs().Flags&net.FlagLoopback != 0 {
		return "", lan.Refusef(lan.ErrUnavailable, "%s is an address of this host itself; try one of another, such as the gateway's", to)
	}
	return link.Attrs().Name, nil
}
