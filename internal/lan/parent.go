package lan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// VLANProto is the EtherType of a VLAN tag (IFLA_VLAN_PROTOCOL).
type VLANProto uint16

// The tag protocols that the kernel has.
const (
	Dot1Q  VLANProto = 0x8100 // 802.1Q, the customer tag
	Dot1AD VLANProto = 0x88a8 // 802.1ad, the service (outer) tag of QinQ
)

// String is the name that iproute2 prints: "802.1Q" or "802.1ad".
func (p VLANProto) String() string {
	switch p {
	case Dot1Q:
		return "802.1Q"
	case Dot1AD:
		return "802.1ad"
	}
	return fmt.Sprintf("%#04x", uint16(p))
}

// ParseVLANProto reads "802.1q" or "802.1ad" in any case.
func ParseVLANProto(s string) (VLANProto, error) {
	switch strings.ToLower(s) {
	case "802.1q":
		return Dot1Q, nil
	case "802.1ad":
		return Dot1AD, nil
	}
	return 0, Refusef(ErrInvalid, "VLAN protocol %q is not known: it is 802.1q or 802.1ad", s)
}

// MaxTags is how many VLAN tags a parent may carry: one, or two for QinQ.
const MaxTags = 2

// ParentSpec is the parent that a user asked for, as typed. Which links it
// means is for the kernel to say: a dot may be part of a link's name.
type ParentSpec struct {
	// Name is -o parent: a link, an altname, or link.VID or link.OUTER.INNER.
	// "" asks for an isolated network on a dummy link.
	Name string `json:"name,omitempty"`
	// VLAN is -o vlan, the outer tag first; further tags on top of Name.
	VLAN []uint16 `json:"vlan,omitempty"`
	// Proto is -o vlan_protocol, the outer tag's protocol; 0 means 802.1Q for
	// a single tag and 802.1ad for the outer of two.
	Proto VLANProto `json:"proto,omitempty"`
}

// SameAs reports whether q is the same request as p, letter by letter.
func (p ParentSpec) SameAs(q ParentSpec) bool {
	return p.Name == q.Name && p.Proto == q.Proto && slices.Equal(p.VLAN, q.VLAN)
}

// String is the sub-interface's name in the field's notation: eth1.200.100.
func (p ParentSpec) String() string {
	var b strings.Builder
	b.WriteString(p.Name)
	for _, id := range p.VLAN {
		fmt.Fprintf(&b, ".%d", id)
	}
	return b.String()
}

// Tag is one VLAN tag.
type Tag struct {
	ID    uint16    `json:"id"`
	Proto VLANProto `json:"proto"`
}

// String is the tag as a user reads it: "100", or "200 (802.1ad)" where the
// protocol is not the usual one.
func (t Tag) String() string {
	if t.Proto == Dot1Q {
		return strconv.Itoa(int(t.ID))
	}
	return fmt.Sprintf("%d (%s)", t.ID, t.Proto)
}

// TagIDs are the IDs of a stack of tags, the outer one first: "100", "200.100"; "" for none.
func TagIDs(tags []Tag) string {
	ids := make([]string, len(tags))
	for i, t := range tags {
		ids[i] = strconv.Itoa(int(t.ID))
	}
	return strings.Join(ids, ".")
}

// ProtoAt is the protocol of tag i of n tags that are to be made, the outer
// one being 0.
func (p ParentSpec) ProtoAt(i, n int) VLANProto {
	switch {
	case i > 0:
		return Dot1Q
	case p.Proto != 0:
		return p.Proto
	case n > 1:
		return Dot1AD
	}
	return Dot1Q
}

// ParseVID reads a VLAN identifier, 1 to 4094 (IEEE 802.1Q: 0 is a priority
// tag, 4095 is reserved).
func ParseVID(s string) (uint16, error) {
	id, err := strconv.ParseUint(s, 10, 32)
	if err != nil {
		return 0, Refusef(ErrInvalid, "VLAN id %q is not a number", s)
	}
	if id < 1 || id > 4094 {
		return 0, Refusef(ErrInvalid, "VLAN id must be between 1 and 4094, not %s", s)
	}
	return uint16(id), nil
}

// ParseVLAN reads -o vlan: "100", or "200.100" for QinQ.
func ParseVLAN(s string) ([]uint16, error) {
	parts := strings.Split(s, ".")
	if len(parts) > MaxTags {
		return nil, Refusef(ErrInvalid, "vlan=%s has %d tags, %d at most (outer.inner)", s, len(parts), MaxTags)
	}
	ids := make([]uint16, 0, len(parts))
	for _, part := range parts {
		id, err := ParseVID(part)
		if err != nil {
			return nil, Refusef(ErrInvalid, "vlan=%s: %v", s, err)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// SplitVLAN splits "eth1.100" at its last dot. It does not look whether the
// tag is a good one; ok is false where there is no dot with text on both
// sides of it.
func SplitVLAN(name string) (base, tag string, ok bool) {
	i := strings.LastIndexByte(name, '.')
	if i <= 0 || i == len(name)-1 {
		return name, "", false
	}
	return name[:i], name[i+1:], true
}

// checkParentName refuses what can be neither a link's name nor an altname
// (ALTIFNAMSIZ: 127 bytes).
func checkParentName(name string) error {
	switch {
	case name == "lo":
		return Refusef(ErrInvalid, "loopback interface is not a valid parent: it has no wire; try: -o parent=eth0, or leave parent out for an isolated network")
	case len(name) > 127:
		return Refusef(ErrInvalid, "parent name has %d characters, 127 at most", len(name))
	case name == "." || name == ".." || strings.ContainsAny(name, "/:") || strings.ContainsFunc(name, notPrintable):
		return Refusef(ErrInvalid, "parent %q: '/', ':' and white space may not stand in an interface's name", name)
	}
	return nil
}
