package link

import (
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/lanyard-net/lanyard/internal/lan"
)

// filterName and filterPriority tell our filter from others. It is asked first.
const (
	filterName     = "lanyard-antispoof"
	filterPriority = 1
	filterHandle   = 1
)

// Filter has a link's egress go through a program of the type sched_cls (cls_bpf on clsact), in
// place of one that was given earlier, between two frames. Others' filters stay.
func (l *Links) Filter(index, program int) error {
	err := l.h.QdiscAdd(clsact(index))
	switch {
	case err == nil:
	case errors.Is(err, unix.EEXIST):
		// To a qdisc ingress, which has clsact's place, the egress is the ingress.
		if ingress, err := l.hasIngress(index); err != nil || ingress {
			return errors.Join(err, lan.Refusef(lan.ErrConflict, "the qdisc ingress of %s stands in the way of clsact, which does what it does and more; try: tc qdisc show dev %[1]s, and replace it", l.nameOf(index)))
		}
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("this kernel has no qdisc clsact (sch_ingress); try: modprobe sch_ingress: %w", err)
	default:
		return fmt.Errorf("qdisc clsact on %s: %w", l.nameOf(index), err)
	}
	err = l.h.FilterReplace(&netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: index, Parent: netlink.HANDLE_MIN_EGRESS, Handle: filterHandle, Priority: filterPriority, Protocol: unix.ETH_P_ALL,
		},
		Fd: program, Name: filterName, DirectAction: true,
	})
	if err != nil {
		return fmt.Errorf("filter on the egress of %s (cls_bpf); try: modprobe cls_bpf: %w", l.nameOf(index), err)
	}
	return nil
}

// clsact is the qdisc of a link that filters are on.
func clsact(index int) *netlink.Clsact {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
}

func isOurFilter(f netlink.Filter) bool {
	b, ok := f.(*netlink.BpfFilter)
	return ok && b.Name == filterName
}

// hasIngress reports whether a link has a qdisc ingress.
func (l *Links) hasIngress(index int) (bool, error) {
	link, err := l.h.LinkByIndex(index)
	if err != nil {
		return false, fmt.Errorf("link %d: %w", index, err)
	}
	qdiscs, err := retried(func() ([]netlink.Qdisc, error) { return l.h.QdiscList(link) })
	return slices.ContainsFunc(qdiscs, func(q netlink.Qdisc) bool { return q.Type() == "ingress" }), err
}

// Filtered reports whether a link has a filter of ours.
func (l *Links) Filtered(index int) (bool, error) {
	filters, err := l.filters(index, netlink.HANDLE_MIN_EGRESS)
	return slices.ContainsFunc(filters, isOurFilter), err
}

// MACsOn are the MAC addresses of the links in this namespace that are on a parent.
func (l *Links) MACsOn(parent int) (macs []net.HardwareAddr, err error) {
	links, err := l.list()
	for _, link := range links {
		if a := link.Attrs(); a.ParentIndex == parent && a.NetNsID < 0 {
			macs = append(macs, a.HardwareAddr)
		}
	}
	return macs, err
}

// Unfilter undoes Filter. The qdisc goes with its last filter. A link that is not there is success.
func (l *Links) Unfilter(index int) error {
	out, err := l.filters(index, netlink.HANDLE_MIN_EGRESS)
	if err != nil {
		return err
	}
	others := 0
	for _, f := range out {
		if !isOurFilter(f) {
			others++
			continue
		}
		if err := l.h.FilterDel(f); err != nil && !isNoFilter(err) {
			return fmt.Errorf("filter on the egress of %s: %w", l.nameOf(index), err)
		}
	}
	in, err := l.filters(index, netlink.HANDLE_MIN_INGRESS)
	if err != nil || others+len(in) > 0 || len(out) == 0 {
		return err
	}
	err = l.h.QdiscDel(clsact(index))
	if err != nil && !isNoFilter(err) {
		return fmt.Errorf("qdisc clsact on %s: %w", l.nameOf(index), err)
	}
	return nil
}

// filters are those of a link's ingress or egress; none where it has no clsact.
func (l *Links) filters(index int, parent uint32) ([]netlink.Filter, error) {
	link, err := l.h.LinkByIndex(index)
	if isNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("link %d: %w", index, err)
	}
	filters, err := retried(func() ([]netlink.Filter, error) { return l.h.FilterList(link, parent) })
	if err != nil && !isNoFilter(err) {
		return nil, fmt.Errorf("filters of %s: %w", link.Attrs().Name, err)
	}
	return filters, nil
}

func isNoFilter(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV)
}

// Filter is Links.Filter in the container.
func (c *Container) Filter(in *Inside, program int) error { return c.links.Filter(in.Index, program) }

// Filtered is Links.Filtered in the container.
func (c *Container) Filtered(in *Inside) (bool, error) { return c.links.Filtered(in.Index) }

// Unfilter is Links.Unfilter in the container.
func (c *Container) Unfilter(in *Inside) error { return c.links.Unfilter(in.Index) }
