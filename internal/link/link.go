// Package link looks at, makes and removes kernel links: the parent, the VLAN
// sub-interfaces and dummies that stand in for one, and the macvlan and ipvlan
// children that containers get.
//
// Each link that it makes carries a mark from the moment it exists: its group
// (IFLA_GROUP, which the kernel sets atomically at creation; an alias would
// need a second step). What does not carry the mark is never changed but for
// being set up, and never removed.
package link

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	vnetns "github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/netns"
)

const (
	// Group is the mark of our links: "lany" in ASCII.
	Group = 0x6c616e79
	// groupTrash marks those of them that are about to be removed, so that
	// one request removes them all.
	groupTrash = Group + 1
)

// alias is what ip link shows on links that last (VLANs, dummies).
const alias = "lanyard"

// Links works on the links of one network namespace. Its methods may be called
// at the same time; each blocks for as long as the kernel's RTNL lock is held
// by others.
type Links struct {
	h  handle
	ns *netns.NS // nil: the process's own
	// sysClass is where the kernel shows devices by name; a name that has a
	// folder "wireless" or "phy80211" there is Wi-Fi.
	sysClass string
}

// New opens the links of the process's own namespace.
func New() (*Links, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink socket: %w", err)
	}
	return &Links{h: newHandle(h), sysClass: "/sys/class/net"}, nil
}

// NewAt opens the links of another namespace, which must stay open meanwhile.
func NewAt(ns *netns.NS) (*Links, error) {
	h, err := netlink.NewHandleAt(vnetns.NsHandle(ns.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("netlink socket in another namespace: %w", err)
	}
	return &Links{h: newHandle(h), ns: ns, sysClass: "/sys/class/net"}, nil
}

// NS is the namespace of the links; nil: the process's own.
func (l *Links) NS() *netns.NS { return l.ns }

// Close closes the netlink socket.
func (l *Links) Close() { l.h.Close() }

// Child is a link that a container is to get.
type Child struct {
	Name        string
	ParentIndex int
	Kind        lan.Kind
	Mode        lan.Mode
	Flag        lan.Flag
	MAC         net.HardwareAddr // macvlan only; nil takes a random one
	MTU         int              // bytes; 0 takes the parent's
	// Alias is set on the link in a second step; "" sets none.
	Alias string
	// NS is the namespace that the link is made in; nil: the one of the Links, in which its
	// parent is.
	NS *netns.NS
}

// ErrParentGone comes when the parent's index names no link any more.
var ErrParentGone = errors.New("parent is gone")

var macvlanModes = map[lan.Mode]netlink.MacvlanMode{
	lan.ModeBridge: netlink.MACVLAN_MODE_BRIDGE, lan.ModePrivate: netlink.MACVLAN_MODE_PRIVATE,
	lan.ModeVepa: netlink.MACVLAN_MODE_VEPA, lan.ModePassthru: netlink.MACVLAN_MODE_PASSTHRU,
}

var ipvlanModes = map[lan.Mode]netlink.IPVlanMode{
	lan.ModeL2: netlink.IPVLAN_MODE_L2, lan.ModeL3: netlink.IPVLAN_MODE_L3, lan.ModeL3S: netlink.IPVLAN_MODE_L3S,
}

var ipvlanFlags = map[lan.Flag]netlink.IPVlanFlag{
	lan.FlagBridge: netlink.IPVLAN_FLAG_BRIDGE, lan.FlagPrivate: netlink.IPVLAN_FLAG_PRIVATE, lan.FlagVepa: netlink.IPVLAN_FLAG_VEPA,
}

// AddChild makes a child, down. A link of ours that has its name is a leaving
// of an earlier try, and is replaced.
//
// The MAC is set in the same request, which makes it NET_ADDR_SET: udev's
// MACAddressPolicy then leaves it alone. Mode and flags of ipvlan belong to the
// parent's port, and a request without them would set L3 for all slaves of the
// parent, so both are always sent.
func (l *Links) AddChild(c Child) error {
	err := l.addChild(c)
	if errors.Is(err, unix.EEXIST) {
		if err := l.Delete(c.Name); err != nil {
			return fmt.Errorf("link %s exists: %w", c.Name, err)
		}
		err = l.addChild(c)
	}
	if errors.Is(err, unix.EINVAL) && c.MTU > 0 {
		if parent, perr := l.h.LinkByIndex(c.ParentIndex); perr == nil && parent.Attrs().MTU < c.MTU {
			a := parent.Attrs()
			return lan.Refusef(lan.ErrConflict, "the network's MTU %d is more than the parent's, which is %d now; try: ip link set %s mtu %d", c.MTU, a.MTU, a.Name, c.MTU)
		}
	}
	if err != nil {
		return explainAdd(err, c)
	}
	if c.Alias == "" {
		return nil
	}
	link, err := l.h.LinkByName(c.Name)
	if err == nil {
		err = l.h.LinkSetAlias(link, c.Alias)
	}
	if err != nil {
		return errors.Join(fmt.Errorf("link %s: alias: %w", c.Name, err), l.Delete(c.Name))
	}
	return nil
}

func (l *Links) addChild(c Child) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = c.Name
	attrs.ParentIndex = c.ParentIndex
	attrs.Group = Group
	attrs.HardwareAddr = c.MAC
	attrs.MTU = c.MTU
	if c.NS != nil {
		attrs.Namespace = netlink.NsFd(c.NS.Fd())
	}
	if c.Kind == lan.Ipvlan {
		mode, ok := ipvlanModes[c.Mode]
		flag, ok2 := ipvlanFlags[c.Flag]
		if !ok || !ok2 {
			return fmt.Errorf("ipvlan mode %q flag %q: %w", c.Mode, c.Flag, lan.ErrInvalid)
		}
		return l.h.LinkAdd(&netlink.IPVlan{LinkAttrs: attrs, Mode: mode, Flag: flag})
	}
	mode, ok := macvlanModes[c.Mode]
	if !ok {
		return fmt.Errorf("macvlan mode %q: %w", c.Mode, lan.ErrInvalid)
	}
	return l.h.LinkAdd(&netlink.Macvlan{LinkAttrs: attrs, Mode: mode})
}

// explainAdd says what the kernel meant. The causes are those of macvlan_newlink,
// ipvlan_link_new and netdev_rx_handler_register.
func explainAdd(err error, c Child) error {
	switch {
	case errors.Is(err, unix.ENODEV):
		return ErrParentGone
	case errors.Is(err, unix.EBUSY):
		other := lan.Ipvlan
		if c.Kind == lan.Ipvlan {
			other = lan.Macvlan
		}
		return lan.Refusef(lan.ErrConflict, "parent is busy: it carries %s links that lanyard did not make, or is a port of "+
			"a bridge, a bond or Open vSwitch; try: ip -d link show, docker network ls", other)
	case errors.Is(err, unix.EOPNOTSUPP):
		return lan.Refusef(lan.ErrUnavailable, "this kernel has no %s; try: modprobe %s", c.Kind, c.Kind)
	case errors.Is(err, unix.EINVAL) && c.Kind == lan.Macvlan:
		return lan.Refusef(lan.ErrConflict, "the kernel refuses a macvlan link in %s mode on this parent: another macvlan link on it "+
			"is, or would be, in passthru mode, which takes the parent for itself", c.Mode)
	}
	return fmt.Errorf("%s link %s: %w", c.Kind, c.Name, err)
}

// Probe finds out whether the kernel would take a child of this kind on the
// parent, by making one. It returns the name of what it made, for the caller to
// delete when there is time; "" if it made none. An ipvlan parent is probed with
// macvlan, because an ipvlan slave would set the mode of slaves that are there; so
// do not probe a parent on which ipvlan links of ours exist.
func (l *Links) Probe(parentIndex int, kind lan.Kind, mode lan.Mode) (made string, err error) {
	c := Child{Name: fmt.Sprintf("lyp-%x", parentIndex), ParentIndex: parentIndex, Kind: lan.Macvlan, Mode: mode}
	if kind == lan.Ipvlan {
		c.Mode = lan.ModePrivate
	}
	err = l.addChild(c)
	switch {
	case err == nil:
		return c.Name, nil
	case errors.Is(err, unix.EEXIST):
		return c.Name, nil // the last probe of this parent is still there
	case kind == lan.Ipvlan && errors.Is(err, unix.EOPNOTSUPP):
		return "", nil // no macvlan in this kernel: nothing to probe with
	}
	c.Kind = kind // for the words of the error
	return "", explainAdd(err, c)
}

// MACBusy is in the text of AwaitMAC's error when it has waited in vain, for those to whom
// Docker tells no more.
const MACBusy = "is still that of another link on the parent"

// NotFetched is in what Docker says when it did not find a link that it was to move into a
// container: it went with its parent just before.
const NotFetched = "failed to add interface " + lan.LinkPrefix

// AwaitMAC waits until a macvlan link can be set up, which the kernel refuses while another one
// on the parent has its MAC address and is up (macvlan_open): the one of a container that has
// gone, until the kernel has taken its namespace apart. The link is down before and after.
func (l *Links) AwaitMAC(name string, patience time.Duration) error {
	link, err := l.h.LinkByName(name)
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	// It is to say nothing here. In the container it has settings of its own.
	if err := l.setSysctl("ipv6", name, "disable_ipv6", 1); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("link %s: disable_ipv6: %w", name, err)
	}
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := l.h.LinkSetUp(link)
		switch {
		case err == nil:
			return l.h.LinkSetDown(link)
		case !errors.Is(err, unix.EADDRINUSE):
			return fmt.Errorf("set %s up: %w", name, err)
		case time.Now().After(end):
			return lan.Refusef(lan.ErrConflict, "MAC address %s "+MACBusy+", of a container that has gone %s ago or more; try: again in a moment",
				link.Attrs().HardwareAddr, patience)
		}
	}
}

// Exists reports whether a link of ours has this name here.
func (l *Links) Exists(name string) bool {
	link, err := l.h.LinkByName(name)
	return err == nil && ours(link)
}

// Delete removes a link that is ours by a record of its name. A link that is not there is success;
// one that is not ours is an error and stays.
func (l *Links) Delete(name string) error {
	link, err := l.h.LinkByName(name)
	if isNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	if !ours(link) {
		return lan.Refusef(lan.ErrConflict, "link %s was not made by lanyard", name)
	}
	if err := l.h.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete link %s: %w", name, err)
	}
	return nil
}

// DeleteAll removes links of ours by name. The kernel waits for an RCU grace
// period for each request that deletes (some 16 ms, with the RTNL lock held), so
// more than one link are put into one group, and that group is deleted. Links
// that are not there, or not ours, are left out.
func (l *Links) DeleteAll(names []string) error {
	if len(names) == 1 {
		return l.Delete(names[0])
	}
	var errs []error
	marked := 0
	for _, name := range names {
		link, err := l.h.LinkByName(name)
		if isNotFound(err) {
			continue
		}
		if err == nil && ours(link) {
			if err = l.h.LinkSetGroup(link, groupTrash); err == nil {
				marked++
				continue
			}
		}
		if err != nil && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, fmt.Errorf("link %s: %w", name, err))
		}
	}
	if marked > 0 {
		errs = append(errs, l.emptyTrash())
	}
	return errors.Join(errs...)
}

// emptyTrash removes all links in the trash group with one request
// (rtnl_group_dellink).
func (l *Links) emptyTrash() error {
	err := l.deleteGroup(groupTrash)
	if err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete links: %w", err)
	}
	return nil
}

// Mine lists the names of the children of ours that are in this namespace,
// which is to say not in a container; shims are not among them. Links in the trash are removed on the way.
func (l *Links) Mine() ([]string, error) {
	links, err := l.list()
	if err != nil {
		return nil, err
	}
	var names []string
	trash := false
	for _, link := range links {
		a := link.Attrs()
		trash = trash || a.Group == groupTrash
		if a.Group == Group && (link.Type() == "macvlan" || link.Type() == "ipvlan") && !isShim(link) {
			names = append(names, a.Name)
		}
	}
	if trash {
		return names, l.emptyTrash()
	}
	return names, nil
}

// NameInside is the name that a link of ours has inside the namespace at path,
// "" if it is not there. macvlan links are found by MAC, ipvlan links, which all
// have the parent's, by their parent's index and an address.
func NameInside(path string, mac string, addr net.IP) (string, error) {
	ns, err := netns.Open(path)
	if err != nil {
		return "", err
	}
	defer ns.Close()
	inside, err := NewAt(ns)
	if err != nil {
		return "", err
	}
	defer inside.Close()
	links, err := inside.list()
	if err != nil {
		return "", err
	}
	for _, link := range links {
		a := link.Attrs()
		if a.Group != Group {
			continue
		}
		if mac != "" && a.HardwareAddr.String() == mac {
			return a.Name, nil
		}
		if mac == "" && addr != nil {
			addrs, err := inside.addrs(link)
			if err != nil {
				return "", fmt.Errorf("addresses of %s: %w", a.Name, err)
			}
			if slices.ContainsFunc(addrs, func(x netlink.Addr) bool { return x.IP.Equal(addr) }) {
				return a.Name, nil
			}
		}
	}
	return "", nil
}

// list is LinkList, tried again when other changes interrupt the dump.
func (l *Links) list() ([]netlink.Link, error) {
	links, err := retried(l.h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	return links, nil
}

// mine reports whether a link carries our mark.
func mine(link netlink.Link) bool {
	g := link.Attrs().Group
	return g == Group || g == groupTrash
}

// ours reports whether a link that is named by a record of ours is what the record
// means. A child need not have the mark any more: a container that may change its
// links (CAP_NET_ADMIN) can take it off.
func ours(link netlink.Link) bool {
	child := link.Type() == "macvlan" || link.Type() == "ipvlan"
	return mine(link) || child && strings.HasPrefix(link.Attrs().Name, lan.LinkPrefix)
}

func isNotFound(err error) bool {
	var nf netlink.LinkNotFoundError
	return errors.As(err, &nf) || errors.Is(err, unix.ENODEV)
}

// isWireless reports whether a link is a Wi-Fi interface. An access point takes
// frames from one MAC address only, the one that has joined.
func (l *Links) isWireless(name string) bool {
	for _, sub := range []string{"wireless", "phy80211"} {
		if _, err := os.Stat(filepath.Join(l.sysClass, name, sub)); err == nil {
			return true
		}
	}
	return false
}

// setSysctl writes a sysctl of one link in the namespace of l: the kernel shows
// /proc/sys/net of the thread that opens it.
func (l *Links) setSysctl(family, name, key string, value int) error {
	return l.inside(func() error {
		return os.WriteFile("/proc/sys/net/"+family+"/conf/"+name+"/"+key, []byte(strconv.Itoa(value)), 0o644)
	})
}

// deleteGroup removes all links of a group with one request, which
// netlink.Handle cannot make.
func (l *Links) deleteGroup(group uint32) error {
	return l.inside(func() error {
		req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
		req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
		req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(group)))
		_, err := req.Execute(unix.NETLINK_ROUTE, 0)
		return err
	})
}

func (l *Links) inside(fn func() error) error {
	if l.ns == nil {
		return fn()
	}
	return l.ns.Do(fn)
}

// Serves reports whether a program in the namespace receives what comes for a UDP port by
// a link: a socket of any address or of one of the link's, that is bound to no other link.
func (l *Links) Serves(port uint16, v6 bool, index int) (bool, error) {
	family := uint8(unix.AF_INET)
	if v6 {
		family = unix.AF_INET6
	}
	sockets, err := l.h.SocketDiagUDP(family)
	if err != nil {
		return false, fmt.Errorf("UDP sockets: %w", err)
	}
	link, err := l.h.LinkByIndex(index)
	if err != nil {
		return false, fmt.Errorf("link %d: %w", index, err)
	}
	addrs, err := retried(func() ([]netlink.Addr, error) { return l.h.AddrList(link, int(family)) })
	if err != nil {
		return false, fmt.Errorf("addresses of %s: %w", link.Attrs().Name, err)
	}
	for _, s := range sockets {
		if s.ID.SourcePort != port || s.ID.Interface != 0 && int(s.ID.Interface) != index {
			continue
		}
		if s.ID.Source.IsUnspecified() || slices.ContainsFunc(addrs, func(a netlink.Addr) bool { return a.IP.Equal(s.ID.Source) }) {
			return true, nil
		}
	}
	return false, nil
}
