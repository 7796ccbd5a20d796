package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/netns"
)

// Abroad is a child of ours in another namespace than this one. It is found without a path to
// that namespace: this one has a number (nsid) for each that a link of its was ever moved to,
// as long as that lasts, whoever keeps it.
type Abroad struct {
	ParentIndex int
	MAC         string
	Addrs       []netip.Addr
	Nsid        int
	index       int
}

// LinksAbroad lists our children in other namespaces whose parent's index and MAC address are
// wanted. It asks about each namespace that a link of this one's was moved to, which takes
// some 0.1 ms each. Kernels before 5.0 cannot do it: errors.ErrUnsupported.
func (l *Links) LinksAbroad(wanted func(parent int, mac string) bool) (list []Abroad, err error) {
	ids, err := l.nsids()
	if err != nil {
		return nil, fmt.Errorf("other namespaces: %w", err)
	}
	// It may have one for itself: a link came back to it.
	own, err := l.ownNsid()
	if err != nil {
		return nil, fmt.Errorf("this namespace's number: %w", err)
	}
	for _, id := range ids {
		if id == own {
			continue
		}
		links, err := l.linksIn(id)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			continue // it has just ended
		}
		if err != nil {
			return nil, fmt.Errorf("links of namespace %d: %w", id, err)
		}
		var addrs map[int][]netip.Addr
		for _, link := range links {
			a := link.Attrs()
			if t := link.Type(); t != "macvlan" && t != "ipvlan" || !mine(link) || !wanted(a.ParentIndex, a.HardwareAddr.String()) {
				continue
			}
			if addrs == nil {
				if addrs, err = l.addrsIn(id); err != nil {
					return nil, fmt.Errorf("addresses of namespace %d: %w", id, err)
				}
			}
			list = append(list, Abroad{ParentIndex: a.ParentIndex, MAC: a.HardwareAddr.String(), Addrs: addrs[a.Index], Nsid: id, index: a.Index})
		}
	}
	return list, nil
}

// DeleteAbroad removes a link that LinksAbroad found.
func (l *Links) DeleteAbroad(a Abroad) error {
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(a.index)
	req.AddData(msg)
	req.AddData(nl.NewRtAttr(unix.IFLA_TARGET_NETNSID, nl.Uint32Attr(uint32(a.Nsid))))
	_, err := l.execute(req, 0)
	if errors.Is(err, unix.EINVAL) {
		return nil // the namespace has ended
	}
	return gone(err)
}

// Nsid is the number that this namespace has for the one at a path; -1 if it has none.
func (l *Links) Nsid(path string) (int, error) {
	ns, err := netns.Open(path)
	if err != nil {
		return -1, err
	}
	defer ns.Close()
	return l.h.GetNetNsIdByFd(ns.Fd())
}

// execute asks the kernel by a socket of its own, which checks what is asked strictly: without
// that some dumps are of this namespace, whichever was asked for (before 4.20: all).
func (l *Links) execute(req *nl.NetlinkRequest, answer uint16) (msgs [][]byte, err error) {
	err = l.inside(func() error {
		s, err := nl.Subscribe(unix.NETLINK_ROUTE)
		if err != nil {
			return err
		}
		defer s.Close()
		if err := unix.SetsockoptInt(s.GetFd(), unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1); err != nil {
			return errors.ErrUnsupported
		}
		req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_ROUTE: {Socket: s}}
		msgs, err = req.Execute(unix.NETLINK_ROUTE, answer)
		return err
	})
	return msgs, err
}

// ownNsid is the number that this namespace has for itself; -1 if it has none.
func (l *Links) ownNsid() (int, error) {
	if l.ns != nil {
		return l.h.GetNetNsIdByFd(l.ns.Fd())
	}
	ns, err := netns.Current()
	if err != nil {
		return -1, err
	}
	defer ns.Close()
	return l.h.GetNetNsIdByFd(ns.Fd())
}

// nsids are the numbers of the other namespaces that this one knows (RTM_GETNSID).
func (l *Links) nsids() (ids []int, err error) {
	msgs, err := retried(func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(unix.RTM_GETNSID, unix.NLM_F_DUMP)
		req.AddData(nl.NewRtGenMsg())
		return l.execute(req, unix.RTM_NEWNSID)
	})
	if err != nil {
		return nil, err
	}
	for _, m := range msgs {
		attrs, err := nl.ParseRouteAttr(m[nl.DeserializeRtGenMsg(m).Len():])
		if err != nil {
			return nil, err
		}
		for _, a := range attrs {
			if a.Attr.Type == netlink.NETNSA_NSID && len(a.Value) == 4 {
				if id := int(int32(binary.NativeEndian.Uint32(a.Value))); id >= 0 {
					ids = append(ids, id)
				}
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// dumpIn is a dump of what another namespace has; of is the attribute by which that is named.
// A kernel that does not know it would tell of this one, so each message is to have it.
func (l *Links) dumpIn(id int, what uint16, header nl.NetlinkRequestData, of int, answer uint16, size int) (msgs [][]byte, err error) {
	msgs, err = retried(func() ([][]byte, error) {
		req := nl.NewNetlinkRequest(int(what), unix.NLM_F_DUMP)
		req.AddData(header)
		req.AddData(nl.NewRtAttr(of, nl.Uint32Attr(uint32(id))))
		return l.execute(req, answer)
	})
	if err != nil {
		return nil, err
	}
	for _, m := range msgs {
		if len(m) < size {
			return nil, unix.EBADMSG
		}
		attrs, err := nl.ParseRouteAttr(m[size:])
		if err != nil {
			return nil, err
		}
		if _, ok := attrOf(attrs, of); !ok {
			return nil, errors.ErrUnsupported
		}
	}
	return msgs, nil
}

func attrOf(attrs []syscall.NetlinkRouteAttr, kind int) ([]byte, bool) {
	i := slices.IndexFunc(attrs, func(a syscall.NetlinkRouteAttr) bool { return int(a.Attr.Type) == kind })
	if i < 0 {
		return nil, false
	}
	return attrs[i].Value, true
}

func (l *Links) linksIn(id int) (links []netlink.Link, err error) {
	msgs, err := l.dumpIn(id, unix.RTM_GETLINK, nl.NewIfInfomsg(unix.AF_UNSPEC), unix.IFLA_TARGET_NETNSID, unix.RTM_NEWLINK, unix.SizeofIfInfomsg)
	for _, m := range msgs {
		link, err := netlink.LinkDeserialize(nil, m)
		if err != nil {
			return nil, err
		}
		links = append(links, link)
	}
	return links, err
}

// addrsIn are the addresses of the links of another namespace, link-local ones left out.
func (l *Links) addrsIn(id int) (map[int][]netip.Addr, error) {
	msgs, err := l.dumpIn(id, unix.RTM_GETADDR, nl.NewIfAddrmsg(unix.AF_UNSPEC), unix.IFA_TARGET_NETNSID, unix.RTM_NEWADDR, unix.SizeofIfAddrmsg)
	if err != nil {
		return nil, err
	}
	all := map[int][]netip.Addr{}
	for _, m := range msgs {
		attrs, err := nl.ParseRouteAttr(m[unix.SizeofIfAddrmsg:])
		if err != nil {
			return nil, err
		}
		value, ok := attrOf(attrs, unix.IFA_LOCAL)
		if !ok {
			value, _ = attrOf(attrs, unix.IFA_ADDRESS)
		}
		if addr := addrOf(value); addr.IsValid() && !addr.IsLinkLocalUnicast() {
			index := int(nl.DeserializeIfAddrmsg(m).Index)
			all[index] = append(all[index], addr)
		}
	}
	return all, nil
}
