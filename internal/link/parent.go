package link

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// Parent is a link that carries networks, as the kernel has it now.
type Parent struct {
	Name  string
	Index int
	MAC   net.HardwareAddr
	MTU   int // bytes
	// Key names the wire: the name of the lowest link and the tags on top of
	// it. The same device under two names, and a sub-interface before and
	// after it is made, have one key.
	Key  string
	Tags []lan.Tag // outer first
	Mine bool      // made by us
	// Below is the index of the link that it is a VLAN of, and VLAN its ID there; its own
	// index and 0 where it is none.
	Below int
	VLAN  uint16
	// BelowMTU is the MTU of the link at Below, in bytes; its own where it is no VLAN.
	BelowMTU int
	// Up reports that somebody wants it up, and Carrier that it does not say that it
	// carries nothing (RFC 2863's operational status, IFLA_OPERSTATE).
	Up, Carrier bool
}

// WireText is a Parent.Key as a user reads it: "eth1, VLAN 802.1Q:100".
func WireText(key string) string { return strings.ReplaceAll(key, "|", ", VLAN ") }

// Plan is what stands between the kernel and a parent that was asked for.
type Plan struct {
	// Key is the key that the parent has, or will have.
	Key  string
	Tags []lan.Tag
	// MTU is the MTU in bytes that the parent has, or will have.
	MTU int
	// Make are the sub-interfaces that are missing, the outermost first.
	Make []SubInterface

	have netlink.Link
}

// SubInterface is a VLAN link that has to be made.
type SubInterface struct {
	Name string // 15 bytes at most
	Alt  string // the name as asked for, where that is longer
	Tag  lan.Tag
}

// Look finds out which link a parent's name means and whether it can carry
// children of this kind. It changes nothing.
//
// A name means the link, or the altname, that is called so; else, with a number
// behind its last dot, the VLAN of that number on the link before the dot. A VLAN
// device is found by its parent and tag, whatever it is called.
func (l *Links) Look(spec lan.ParentSpec, kind lan.Kind) (*Plan, error) {
	p, err := l.Find(spec)
	if err != nil {
		return nil, err
	}
	if err := l.checkBase(p, kind); err != nil {
		return nil, err
	}
	return p, nil
}

// Find is Look for whoever wants to know what a name means, whether that can carry
// children or not.
func (l *Links) Find(spec lan.ParentSpec) (*Plan, error) {
	have, ids, err := l.resolve(spec.Name, lan.MaxTags-len(spec.VLAN))
	if err != nil {
		return nil, err
	}
	asked := spec.Name[:len(spec.Name)-dottedLen(spec.Name, len(ids))]
	ids = append(ids, spec.VLAN...)
	p := &Plan{have: have}
	_, under := l.identity(have)
	if err := checkTags(spec, have, under, len(ids)); err != nil {
		return nil, err
	}
	all, err := l.list()
	if err != nil {
		return nil, err
	}
	for i, id := range ids {
		tag := lan.Tag{ID: id, Proto: spec.ProtoAt(len(under)+i, len(under)+len(ids))}
		asked += fmt.Sprintf(".%d", id)
		if len(p.Make) == 0 {
			next, err := findVLAN(all, p.have, tag, asked, spec.Proto != 0)
			if err != nil {
				return nil, err
			}
			if next != nil {
				p.have = next
				continue
			}
		}
		p.Make = append(p.Make, subInterface(all, asked, tag))
	}
	p.MTU = p.have.Attrs().MTU
	p.Key, p.Tags = l.identity(p.have)
	for _, m := range p.Make {
		p.Key += keyOf(m.Tag)
		p.Tags = append(p.Tags, m.Tag)
	}
	return p, nil
}

// On is the index of the link that is there: the parent, or what the first of Make
// is to be made on.
func (p *Plan) On() int { return p.have.Attrs().Index }

// checkTags refuses tags that cannot go on top of have, which carries those under
// it already, and an outer protocol that have does not have.
func checkTags(spec lan.ParentSpec, have netlink.Link, under []lan.Tag, more int) error {
	name := have.Attrs().Name
	switch {
	case len(under) == 0 && more > 0:
		return nil
	case len(under)+more > lan.MaxTags && more > 0:
		return lan.Refusef(lan.ErrInvalid, "parent %s: %s carries %d VLAN tags, and lanyard goes up to %d", spec, name, len(under), lan.MaxTags)
	case more == 0 && spec.Proto != 0 && (len(under) == 0 || under[0].Proto != spec.Proto):
		return lan.Refusef(lan.ErrInvalid, "vlan_protocol=%s: parent %s is there and is no %s VLAN", spec.Proto, spec.Name, spec.Proto)
	case more > 0:
		if want := spec.ProtoAt(0, len(under)+more); under[0].Proto != want {
			return outerMismatch(name, under[0].Proto, want)
		}
	}
	return nil
}

func outerMismatch(name string, is, want lan.VLANProto) error {
	return lan.Refusef(lan.ErrConflict, "%s exists with %s, and the outer tag is to be %s (of two tags it is 802.1ad unless told otherwise); try: -o vlan_protocol=%s to stack on it",
		name, is, want, strings.ToLower(is.String()))
}

// dottedLen is the length of the last n dotted parts of name, dots included.
func dottedLen(name string, n int) int {
	rest := name
	for range n {
		rest, _, _ = lan.SplitVLAN(rest)
	}
	return len(name) - len(rest)
}

// resolve finds the longest front of name that is a link, and the VLAN ids that
// are left behind it, tags at most.
func (l *Links) resolve(name string, tags int) (netlink.Link, []uint16, error) {
	link, err := l.h.LinkByName(name)
	if err == nil {
		return link, nil, l.checkName(link, name)
	}
	if !isNotFound(err) {
		return nil, nil, fmt.Errorf("parent %s: %w", name, err)
	}
	base, tag, ok := lan.SplitVLAN(name)
	if !ok {
		return nil, nil, l.missing(name, "parent %s is not on this host", name)
	}
	if tags == 0 {
		return nil, nil, l.missing(name, "parent %s is not on this host, and lanyard makes at most %d VLAN tags", name, lan.MaxTags)
	}
	if strings.Trim(tag, "0123456789") != "" {
		return nil, nil, l.missing(name, "parent %s is not on this host, and %q is not a VLAN id (a VLAN sub-interface is called like eth0.10)", name, tag)
	}
	link, ids, err := l.resolve(base, tags-1)
	if err != nil {
		if errors.Is(err, lan.ErrUnavailable) {
			return nil, nil, fmt.Errorf("parent %s: %w", name, err)
		}
		return nil, nil, err
	}
	id, err := lan.ParseVID(tag)
	if err != nil {
		return nil, nil, fmt.Errorf("parent %s: %w", name, err)
	}
	return link, append(ids, id), nil
}

// missing refuses a parent that is not there, and names those that are.
func (l *Links) missing(name, format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	links, err := l.list()
	if err != nil {
		return err
	}
	var names []string
	for _, link := range links {
		a := link.Attrs()
		if a.Flags&net.FlagLoopback == 0 && a.EncapType == "ether" && link.Type() != "veth" && !mine(link) {
			names = append(names, a.Name)
		}
	}
	slices.Sort(names)
	switch near := lan.Nearest(name, names); {
	case near != "":
		text += fmt.Sprintf("; did you mean %s?", near)
	case len(names) > 0 && len(names) <= 12:
		text += "; it has " + strings.Join(names, ", ")
	}
	return lan.Refusef(lan.ErrUnavailable, "%s; try: ip link show", text)
}

// checkName refuses a link whose dotted name promises a VLAN that it is not on:
// its containers would be on another wire than the name says.
func (l *Links) checkName(link netlink.Link, name string) error {
	base, tag, ok := lan.SplitVLAN(name)
	if !ok {
		return nil
	}
	id, err := lan.ParseVID(tag)
	if err != nil {
		return nil // a dot in a name, no more
	}
	if v, ok := link.(*netlink.Vlan); ok {
		if v.VlanId != int(id) {
			return lan.Refusef(lan.ErrConflict, "parent %s exists, but its VLAN id is %d; try: -o parent=%s -o vlan=%d, or rename it", name, v.VlanId, base, id)
		}
		under, err := l.h.LinkByName(base)
		if err != nil || !lowerIsHere(link) {
			return nil // its base goes by another name
		}
		if under.Attrs().Index != v.ParentIndex {
			on := "another link"
			if lower, err := l.h.LinkByIndex(v.ParentIndex); err == nil {
				on = lower.Attrs().Name
			}
			return lan.Refusef(lan.ErrConflict, "parent %s exists, but it is VLAN %d on %s, not on %s; try: -o parent=%s -o vlan=%d, or rename it", name, id, on, base, base, id)
		}
		return l.checkName(under, base)
	}
	if link.Type() == "bridge" {
		// The appliance's way: br0.5 is a bridge whose port is eth0.5.
		all, err := l.list()
		if err != nil {
			return err
		}
		for _, port := range all {
			if v, ok := port.(*netlink.Vlan); ok && v.MasterIndex == link.Attrs().Index && v.VlanId == int(id) {
				return nil
			}
		}
	}
	return lan.Refusef(lan.ErrConflict, "parent %s exists, but it is a %s link without a VLAN id, and its name says VLAN %d; "+
		"try: ip link property add dev %s altname NAME, and -o parent=NAME", name, link.Type(), id, name)
}

// checkBase refuses what cannot carry children: the plan's link where it is the
// parent itself, or where sub-interfaces are to be made on it.
func (l *Links) checkBase(p *Plan, kind lan.Kind) error {
	a := p.have.Attrs()
	if a.Flags&net.FlagLoopback != 0 {
		return lan.Refusef(lan.ErrInvalid, "loopback interface is not a valid %s parent link", kind)
	}
	if a.EncapType != "ether" && (kind == lan.Macvlan || len(p.Make) > 0) {
		return lan.Refusef(lan.ErrInvalid, "parent %s is not Ethernet but %s: nothing with a MAC address can be on it", a.Name, a.EncapType)
	}
	if kind == lan.Macvlan {
		// A VLAN on Wi-Fi is Wi-Fi.
		for link := p.have; ; {
			if name := link.Attrs().Name; l.isWireless(name) {
				return lan.Refusef(lan.ErrInvalid, "parent %s is wireless: an access point drops frames from any MAC address but the one that joined it, "+
					"so macvlan cannot work; try: -o ipvlan_mode=l2", name)
			}
			if link.Type() != "vlan" || !lowerIsHere(link) {
				break
			}
			lower, err := l.h.LinkByIndex(link.Attrs().ParentIndex)
			if err != nil {
				break
			}
			link = lower
		}
	}
	if a.MasterIndex == 0 {
		return nil
	}
	master, err := l.h.LinkByIndex(a.MasterIndex)
	if err != nil {
		return fmt.Errorf("master of parent %s: %w", a.Name, err)
	}
	m := master.Attrs().Name
	switch kind := master.Type(); {
	case kind == "vrf":
		return nil
	case kind == "bond" || kind == "team":
		return lan.Refusef(lan.ErrConflict, "parent %s is a member of %s %s, which takes all its frames; try: -o parent=%s", a.Name, kind, m, withTags(m, p))
	case len(p.Make) > 0:
		return nil // VLANs are told apart before a bridge sees the frame
	case kind == "openvswitch":
		return lan.Refusef(lan.ErrConflict, "parent %s is a port of an Open vSwitch bridge, which takes all its frames; try: -o parent=BRIDGE, the bridge that ovs-vsctl iface-to-br %s names", a.Name, a.Name)
	default:
		return lan.Refusef(lan.ErrConflict, "parent %s is a port of %s %s, which takes all its frames; try: -o parent=%s", a.Name, kind, m, m)
	}
}

func withTags(name string, p *Plan) string {
	for _, m := range p.Make {
		name += fmt.Sprintf(".%d", m.Tag.ID)
	}
	return name
}

// findVLAN finds the VLAN device with this tag on base; nil if there is none.
func findVLAN(all []netlink.Link, base netlink.Link, tag lan.Tag, asked string, protoAsked bool) (netlink.Link, error) {
	for _, link := range all {
		v, ok := link.(*netlink.Vlan)
		if !ok || v.ParentIndex != base.Attrs().Index || !lowerIsHere(link) || v.VlanId != int(tag.ID) {
			continue
		}
		proto := lan.VLANProto(v.VlanProtocol)
		if proto == tag.Proto {
			return link, nil
		}
		if !protoAsked && v.Name == asked {
			return nil, outerMismatch(v.Name, proto, tag.Proto)
		}
	}
	return nil, nil
}

// subInterface names a VLAN link that is to be made: as asked for, where the
// kernel takes that and nothing else is called so; else a short name of ours,
// with the long one as altname.
func subInterface(all []netlink.Link, asked string, tag lan.Tag) SubInterface {
	taken := slices.ContainsFunc(all, func(link netlink.Link) bool {
		return link.Attrs().Name == asked || slices.Contains(link.Attrs().AltNames, asked)
	})
	if len(asked) <= 15 && !taken {
		return SubInterface{Name: asked, Tag: tag}
	}
	h := fnv.New32a()
	fmt.Fprintf(h, "%s %s", asked, tag.Proto)
	s := SubInterface{Name: fmt.Sprintf("ly%08x", h.Sum32()), Tag: tag}
	if !taken {
		s.Alt = asked
	}
	return s
}

// identity is the key and the tags of a link: down through VLANs to what they
// stand on, and through macvlan and ipvlan, whose children the kernel puts on the
// lowest link in any case.
func (l *Links) identity(link netlink.Link) (key string, tags []lan.Tag) {
	a := link.Attrs()
	switch link.Type() {
	case "vlan", "macvlan", "ipvlan":
		if !lowerIsHere(link) {
			break
		}
		lower, err := l.h.LinkByIndex(a.ParentIndex)
		if err != nil {
			break
		}
		key, tags = l.identity(lower)
		if v, ok := link.(*netlink.Vlan); ok {
			tag := lan.Tag{ID: uint16(v.VlanId), Proto: lan.VLANProto(v.VlanProtocol)}
			key, tags = key+keyOf(tag), append(tags, tag)
		}
		return key, tags
	}
	return a.Name, nil
}

func keyOf(t lan.Tag) string { return fmt.Sprintf("|%s:%d", t.Proto, t.ID) }

// lowerIsHere reports whether a stacked link's ParentIndex is an index of this
// namespace: a link that was moved here keeps the index of where it came from.
func lowerIsHere(link netlink.Link) bool {
	a := link.Attrs()
	return a.ParentIndex > 0 && a.NetNsID < 0
}

// Ensure carries a plan out: makes what is missing, and sets the parent and all
// that it stands on up. When it fails it removes what it made.
//
// A link that it makes takes no IPv6 configuration from routers on the VLAN: the
// host is not meant to be a member there.
func (l *Links) Ensure(p *Plan) (_ *Parent, err error) {
	var made []string
	defer func() {
		if err != nil {
			for _, name := range slices.Backward(made) {
				err = errors.Join(err, l.Delete(name))
			}
		}
	}()
	if err := l.raise(p.have); err != nil {
		return nil, err
	}
	link := p.have
	for _, m := range p.Make {
		lower := link.Attrs()
		if err := l.makeVLAN(lower, m); err != nil {
			return nil, err
		}
		made = append(made, m.Name)
		if link, err = l.h.LinkByName(m.Name); err != nil {
			return nil, fmt.Errorf("sub-interface %s: %w", m.Name, err)
		}
		if m.Alt != "" {
			if err := l.h.LinkAddAltName(link, m.Alt); err != nil {
				return nil, fmt.Errorf("altname %s of %s: %w", m.Alt, m.Name, err)
			}
		}
		if err := l.dress(link); err != nil {
			return nil, err
		}
	}
	return l.parent(link)
}

func (l *Links) makeVLAN(lower *netlink.LinkAttrs, m SubInterface) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = m.Name
	attrs.ParentIndex = lower.Index
	attrs.Group = Group
	err := l.h.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: int(m.Tag.ID), VlanProtocol: netlink.VlanProtocol(m.Tag.Proto)})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EOPNOTSUPP):
		return lan.Refusef(lan.ErrUnavailable, "sub-interface %s: this kernel, or the driver of %s, has no %s VLANs; try: modprobe 8021q", m.Name, lower.Name, m.Tag.Proto)
	case errors.Is(err, unix.ENETDOWN):
		return lan.Refusef(lan.ErrUnavailable, "sub-interface %s: %s does not come up", m.Name, lower.Name)
	}
	return fmt.Errorf("sub-interface %s on %s: %w", m.Name, lower.Name, err)
}

// dress gives a link of ours that lasts what it cannot have at creation, and
// sets it up.
func (l *Links) dress(link netlink.Link) error {
	name := link.Attrs().Name
	if err := l.h.LinkSetAlias(link, alias); err != nil {
		return fmt.Errorf("alias of %s: %w", name, err)
	}
	if err := l.setSysctl("ipv6", name, "accept_ra", 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%s: accept_ra: %w", name, err)
	}
	return l.raise(link)
}

// raise sets a link and those it stands on up, where they are down.
func (l *Links) raise(link netlink.Link) error {
	a := link.Attrs()
	if link.Type() == "vlan" && lowerIsHere(link) {
		if lower, err := l.h.LinkByIndex(a.ParentIndex); err == nil {
			if err := l.raise(lower); err != nil {
				return err
			}
		}
	}
	if a.Flags&net.FlagUp != 0 {
		return nil
	}
	if err := l.h.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", a.Name, err)
	}
	return nil
}

// EnsureDummy makes the dummy link that stands in for a parent, or finds it. Its
// MTU is at least mtu bytes.
func (l *Links) EnsureDummy(name string, mtu int) (*Parent, error) {
	link, err := l.h.LinkByName(name)
	if isNotFound(err) {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		attrs.Group = Group
		if mtu > 1500 {
			attrs.MTU = mtu
		}
		err = l.h.LinkAdd(&netlink.Dummy{LinkAttrs: attrs})
		if errors.Is(err, unix.EOPNOTSUPP) {
			return nil, lan.Refusef(lan.ErrUnavailable, "a network without a parent needs a dummy link, and this kernel has none; try: modprobe dummy, or -o parent=eth0")
		}
		if err != nil {
			return nil, fmt.Errorf("dummy link %s: %w", name, err)
		}
		if link, err = l.h.LinkByName(name); err == nil {
			if err = l.dress(link); err != nil {
				return nil, errors.Join(err, l.Delete(name))
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("dummy link %s: %w", name, err)
	}
	if link.Type() != "dummy" || !mine(link) {
		return nil, lan.Refusef(lan.ErrConflict, "link %s is not a dummy that lanyard made", name)
	}
	return l.parent(link)
}

// ParentAt reads the parent with this index; ErrParentGone if there is none.
func (l *Links) ParentAt(index int) (*Parent, error) {
	link, err := l.h.LinkByIndex(index)
	if isNotFound(err) {
		return nil, ErrParentGone
	}
	if err != nil {
		return nil, fmt.Errorf("parent with index %d: %w", index, err)
	}
	return l.parent(link)
}

// SetMTU sets the MTU of a parent of ours, in bytes.
func (l *Links) SetMTU(p *Parent, mtu int) error {
	link, err := l.h.LinkByIndex(p.Index)
	if err == nil {
		err = l.h.LinkSetMTU(link, mtu)
	}
	if err != nil {
		return fmt.Errorf("MTU of %s: %w", p.Name, err)
	}
	return nil
}

func (l *Links) parent(link netlink.Link) (*Parent, error) {
	a := link.Attrs()
	p := &Parent{Name: a.Name, Index: a.Index, MAC: a.HardwareAddr, MTU: a.MTU, Mine: mine(link), Below: a.Index, BelowMTU: a.MTU,
		Up: a.Flags&net.FlagUp != 0, Carrier: a.OperState != netlink.OperDown && a.OperState != netlink.OperLowerLayerDown}
	if v, ok := link.(*netlink.Vlan); ok {
		p.Below, p.VLAN = 0, uint16(v.VlanId)
		if lowerIsHere(link) {
			p.Below = v.ParentIndex
			if lower, err := l.h.LinkByIndex(p.Below); err == nil {
				p.BelowMTU = lower.Attrs().MTU
			}
		}
	}
	p.Key, p.Tags = l.identity(link)
	return p, nil
}

// Release removes a parent that nothing of ours uses any more, and those below
// it, as long as each is a VLAN or dummy that we made and nobody else uses: no
// address on it, no link on top of it here, no child of it in any other
// namespace. inUse reports whether a network still stands on the link with this
// index. It returns the names of links of ours that it left because somebody
// else uses them.
func (l *Links) Release(index int, inUse func(index int) bool) (left []string, err error) {
	for index > 0 {
		link, err := l.h.LinkByIndex(index)
		if isNotFound(err) {
			return left, nil
		}
		if err != nil {
			return left, fmt.Errorf("parent with index %d: %w", index, err)
		}
		a := link.Attrs()
		if t := link.Type(); !mine(link) || t != "vlan" && t != "dummy" || inUse(index) {
			return left, nil
		}
		busy, err := l.foreignUse(link)
		if err != nil {
			return left, err
		}
		if busy {
			return append(left, a.Name), nil
		}
		if err := l.h.LinkDel(link); err != nil && !isNotFound(err) {
			return left, fmt.Errorf("delete %s: %w", a.Name, err)
		}
		index = 0
		if lowerIsHere(link) {
			index = a.ParentIndex
		}
	}
	return left, nil
}

// foreignUse reports whether anything but us uses a link of ours. Children in
// other namespaces cannot be listed, but a passthru macvlan tolerates no other
// child: if the kernel takes one, there is none. It goes with its parent.
func (l *Links) foreignUse(link netlink.Link) (bool, error) {
	a := link.Attrs()
	addrs, err := l.addrs(link)
	if err != nil {
		return false, fmt.Errorf("addresses of %s: %w", a.Name, err)
	}
	for _, addr := range addrs {
		if !addr.IP.IsLinkLocalUnicast() {
			return true, nil
		}
	}
	if a.MasterIndex != 0 {
		return true, nil
	}
	all, err := l.list()
	if err != nil {
		return false, err
	}
	for _, other := range all {
		if o := other.Attrs(); lowerIsHere(other) && o.ParentIndex == a.Index {
			return true, nil
		}
	}
	err = l.addChild(Child{Name: fmt.Sprintf("lyp-%x", a.Index), ParentIndex: a.Index, Kind: lan.Macvlan, Mode: lan.ModePassthru})
	return errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EINVAL), nil
}

// Chain lists the indexes of a link and of the VLANs and the base that it stands
// on.
func (l *Links) Chain(index int) []int {
	var chain []int
	for index > 0 && !slices.Contains(chain, index) {
		chain = append(chain, index)
		link, err := l.h.LinkByIndex(index)
		if err != nil || link.Type() != "vlan" || !lowerIsHere(link) {
			break
		}
		index = link.Attrs().ParentIndex
	}
	return chain
}

// Layer is a link that others stand on.
type Layer struct {
	Name  string
	Index int
	Kind  string // "vlan", "bridge", "bond", "device", as netlink has it
	MAC   net.HardwareAddr
	MTU   int // bytes
	// Up and Carrier are as in Parent.
	Up, Carrier bool
	// Master is the bridge, bond or the like that the link is a member of, and MasterKind what that
	// is; "" for none.
	Master, MasterKind string
	// Received is how many frames the link has taken since it was made.
	Received uint64
}

// Layers are a link and what it stands on: down through VLANs, macvlan and ipvlan to
// the base, which comes last. ErrParentGone comes where there is no such link.
func (l *Links) Layers(index int) (layers []Layer, err error) {
	for {
		link, err := l.h.LinkByIndex(index)
		if isNotFound(err) && len(layers) == 0 {
			return nil, ErrParentGone
		}
		if err != nil {
			return layers, fmt.Errorf("link with index %d: %w", index, err)
		}
		a := link.Attrs()
		p, err := l.parent(link)
		if err != nil {
			return layers, err
		}
		layer := Layer{Name: a.Name, Index: a.Index, Kind: link.Type(), MAC: a.HardwareAddr, MTU: a.MTU, Up: p.Up, Carrier: p.Carrier}
		if a.Statistics != nil {
			layer.Received = a.Statistics.RxPackets
		}
		if a.MasterIndex != 0 {
			if master, err := l.h.LinkByIndex(a.MasterIndex); err == nil {
				layer.Master, layer.MasterKind = master.Attrs().Name, master.Type()
			}
		}
		layers = append(layers, layer)
		if t := link.Type(); t != "vlan" && t != "macvlan" && t != "ipvlan" || !lowerIsHere(link) || len(layers) > 8 {
			return layers, nil
		}
		index = a.ParentIndex
	}
}

// OurParents lists the VLANs and dummies that we made, those on top first.
func (l *Links) OurParents() ([]*Parent, error) {
	links, err := l.list()
	if err != nil {
		return nil, err
	}
	var parents []*Parent
	for _, link := range links {
		if t := link.Type(); mine(link) && (t == "vlan" || t == "dummy") {
			p, err := l.parent(link)
			if err != nil {
				return nil, err
			}
			parents = append(parents, p)
		}
	}
	slices.SortFunc(parents, func(a, b *Parent) int { return len(b.Tags) - len(a.Tags) })
	return parents, nil
}
