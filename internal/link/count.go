package link

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// handle is a netlink handle that counts what the kernel refuses to change.
type handle struct {
	*netlink.Handle
	refused *prometheus.CounterVec
}

func newHandle(h *netlink.Handle) handle {
	return handle{h, prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "lanyard_kernel_errors_total",
		Help: "Changes of links, addresses, routes, neighbours and filters on the host that the kernel refused since the daemon started, by operation and errno. " +
			"EEXIST, ENODEV and EADDRINUSE happen where containers end and start at once, and are dealt with.",
	}, []string{"operation", "errno"})}
}

// Metrics are the figures of what the kernel has refused.
func (l *Links) Metrics() prometheus.Collector { return l.h.refused }

// did counts an operation that failed, and returns its error.
func (h handle) did(operation string, err error) error {
	if err == nil {
		return nil
	}
	name := "other"
	if errno := unix.Errno(0); errors.As(err, &errno) && unix.ErrnoName(errno) != "" {
		name = unix.ErrnoName(errno)
	}
	h.refused.WithLabelValues(operation, name).Inc()
	return err
}

func (h handle) LinkAdd(l netlink.Link) error { return h.did("link add", h.Handle.LinkAdd(l)) }

func (h handle) LinkDel(l netlink.Link) error { return h.did("link delete", h.Handle.LinkDel(l)) }

func (h handle) LinkSetUp(l netlink.Link) error { return h.did("link up", h.Handle.LinkSetUp(l)) }

func (h handle) LinkSetDown(l netlink.Link) error { return h.did("link down", h.Handle.LinkSetDown(l)) }

func (h handle) LinkSetAlias(l netlink.Link, name string) error {
	return h.did("link alias", h.Handle.LinkSetAlias(l, name))
}

func (h handle) LinkSetGroup(l netlink.Link, group int) error {
	return h.did("link group", h.Handle.LinkSetGroup(l, group))
}

func (h handle) LinkSetMTU(l netlink.Link, mtu int) error {
	return h.did("link mtu", h.Handle.LinkSetMTU(l, mtu))
}

func (h handle) AddrAdd(l netlink.Link, a *netlink.Addr) error {
	return h.did("address add", h.Handle.AddrAdd(l, a))
}

func (h handle) AddrDel(l netlink.Link, a *netlink.Addr) error {
	return h.did("address delete", h.Handle.AddrDel(l, a))
}

func (h handle) RouteAdd(r *netlink.Route) error { return h.did("route add", h.Handle.RouteAdd(r)) }

func (h handle) RouteReplace(r *netlink.Route) error {
	return h.did("route replace", h.Handle.RouteReplace(r))
}

func (h handle) RouteDel(r *netlink.Route) error { return h.did("route delete", h.Handle.RouteDel(r)) }

func (h handle) NeighSet(n *netlink.Neigh) error { return h.did("neighbour set", h.Handle.NeighSet(n)) }

func (h handle) NeighDel(n *netlink.Neigh) error {
	return h.did("neighbour delete", h.Handle.NeighDel(n))
}

func (h handle) QdiscAdd(q netlink.Qdisc) error { return h.did("qdisc add", h.Handle.QdiscAdd(q)) }

func (h handle) QdiscDel(q netlink.Qdisc) error { return h.did("qdisc delete", h.Handle.QdiscDel(q)) }

func (h handle) FilterReplace(f netlink.Filter) error {
	return h.did("filter replace", h.Handle.FilterReplace(f))
}

func (h handle) FilterDel(f netlink.Filter) error {
	return h.did("filter delete", h.Handle.FilterDel(f))
}
