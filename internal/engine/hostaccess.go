package engine

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
)

// hostSide is how the host and the containers of one parent's networks with host access
// reach each other, as it is to be.
type hostSide struct {
	parent *link.Parent
	net    *network // one of them: all have its kind, mode and flag
	eps    []*endpoint
	recs   []lan.Endpoint // of eps
}

// hasHostAccess reports whether a network has host access.
func (e *Engine) hasHostAccess() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, n := range e.networks {
		if n.rec.HostAccess {
			return true
		}
	}
	return false
}

// hostSides are those of all parents that are there. The caller holds access.
func (e *Engine) hostSides() []*hostSide {
	e.mu.Lock()
	defer e.mu.Unlock()
	byKey := map[string]*hostSide{}
	for _, n := range e.networks {
		if n.rec.HostAccess && !n.rec.Making && n.parent != nil && byKey[n.rec.Key] == nil {
			byKey[n.rec.Key] = &hostSide{parent: n.parent, net: n}
		}
	}
	for _, ep := range e.endpoints {
		if s := byKey[ep.net.rec.Key]; s != nil && ep.net.rec.HostAccess && ep.rec.Sandbox != "" && !ep.left {
			s.eps, s.recs = append(s.eps, ep), append(s.recs, ep.rec)
		}
	}
	sides := make([]*hostSide, 0, len(byKey))
	for _, s := range byKey {
		sides = append(sides, s)
	}
	return sides
}

// syncHost brings the host's side of host access in line with the endpoints that stand:
// shims, routes and neighbours, and what containers know of the host. What it cannot do it
// logs, and notes as a problem of the networks.
func (e *Engine) syncHost() {
	e.access.Lock()
	defer e.access.Unlock()
	sides := e.hostSides()
	keep := map[string]bool{}
	for _, s := range sides {
		shim, err := e.shim(s.net, s.parent)
		if err == nil {
			keep[shim.Name] = true
			err = e.syncPaths(s, shim)
		}
		e.noteAccess(s.net.rec.Key, err)
	}
	shims, err := e.links.Shims()
	if err != nil {
		e.log.Error("shims not listed", "err", err)
	}
	for _, name := range shims {
		if !keep[name] {
			if err := e.links.Delete(name); err != nil {
				e.log.Error("shim stays behind", "link", name, "err", err)
			}
		}
	}
}

// shim makes the shim of a parent, or finds it, and lets what comes back in. The caller
// holds access.
func (e *Engine) shim(n *network, parent *link.Parent) (*link.Shim, error) {
	if n.rec.Kind == lan.Ipvlan {
		if err := e.links.LooseReturn(parent); err != nil {
			return nil, err
		}
	}
	mac := lan.LocalMAC(fmt.Appendf(nil, "%x %s shim", e.db.Salt(), n.rec.Key))
	var s *link.Shim
	err := e.pastTrash(func() (err error) {
		s, err = e.links.EnsureShim(parent, &n.rec.Network, mac)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, e.links.SetShimAddrs(s, e.ownAddrs(n))
}

// ownAddrs are the host's own addresses on a network and on the others of its parent.
func (e *Engine) ownAddrs(n *network) []netip.Addr {
	e.mu.Lock()
	defer e.mu.Unlock()
	addrs := slices.Clone(n.rec.HostAddrs)
	for _, other := range e.networks {
		if other != n && other.rec.Key == n.rec.Key {
			addrs = append(addrs, other.rec.HostAddrs...)
		}
	}
	return addrs
}

// syncPaths makes the paths on a shim those of the endpoints. The caller holds access.
func (e *Engine) syncPaths(s *hostSide, shim *link.Shim) error {
	have, err := e.links.HostPaths(shim)
	if err != nil {
		return err
	}
	known, err := e.links.HostAddrs(s.parent)
	if err != nil {
		return err
	}
	want := map[netip.Addr]bool{}
	var errs []error
	for i, ep := range s.eps {
		known := append(ep.net.rec.HostPrefixes(), known...)
		paths, err := e.hostPaths(&s.recs[i], shim, known)
		errs = append(errs, err)
		for _, p := range paths {
			want[p.Addr] = true
			if have[p.Addr] != p {
				errs = append(errs, e.links.AddHostPath(shim, p))
			}
		}
		errs = append(errs, e.tellHost(ep, &s.recs[i], shim, paths, known))
	}
	for addr := range have {
		if !want[addr] {
			errs = append(errs, e.links.RemoveHostPath(shim, addr))
		}
	}
	return errors.Join(errs...)
}

// hostPaths are how the host is to reach an endpoint, whose parent has the addresses known.
func (e *Engine) hostPaths(rec *lan.Endpoint, shim *link.Shim, known []netip.Prefix) (paths []link.HostPath, err error) {
	mac := rec.MAC
	if mac == "" {
		mac = shim.MAC.String() // ipvlan: all have the parent's
	}
	for _, p := range rec.Addrs() {
		from := e.links.HostAddrFor(p.Addr(), known)
		if !from.IsValid() {
			err = errors.Join(err, lan.Refusef(lan.ErrUnavailable, "the host has no address that container %s could see; try: ip addr add, on the parent", p.Addr()))
			continue
		}
		paths = append(paths, link.HostPath{Addr: p.Addr(), MAC: mac, From: from})
	}
	return paths, err
}

// tellHost lets an endpoint's container know the host's addresses, if it does not and its
// link is up. The caller holds access.
func (e *Engine) tellHost(ep *endpoint, rec *lan.Endpoint, shim *link.Shim, paths []link.HostPath, known []netip.Prefix) error {
	var addrs []netip.Addr
	add := func(a netip.Addr) {
		if !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	for _, p := range paths {
		add(p.From)
		for _, k := range known {
			if k.Addr().Is4() == p.Addr.Is4() {
				add(k.Addr())
			}
		}
	}
	told := fmt.Sprint(rec.Sandbox, shim.MAC, addrs)
	e.mu.Lock()
	same := ep.told == told
	e.mu.Unlock()
	if same {
		return nil
	}
	found, err := link.WithInside(rec, func(c *link.Container, in *link.Inside) error {
		return c.KnowHost(in, shim.MAC, addrs)
	})
	if err != nil && e.stale(ep, neverJoined) {
		return nil
	}
	if !found && errors.Is(err, fs.ErrNotExist) {
		return nil // engines before 28 make the namespace after Join; openHost comes when the link is in it
	}
	if err == nil && found {
		e.mu.Lock()
		ep.told = told
		e.mu.Unlock()
	}
	return err
}

// openHost lets the host and one endpoint reach each other: inside false is what can be done
// before the container has its link.
func (e *Engine) openHost(ep *endpoint, rec lan.Endpoint, inside bool) {
	if !ep.net.rec.HostAccess {
		return
	}
	e.access.Lock()
	defer e.access.Unlock()
	e.mu.Lock()
	parent, gone := ep.net.parent, e.endpoints[rec.ID] != ep || ep.left
	e.mu.Unlock()
	if gone || parent == nil {
		return
	}
	err := func() error {
		shim, err := e.shim(ep.net, parent)
		if err != nil {
			return err
		}
		known, err := e.links.HostAddrs(parent)
		if err != nil {
			return err
		}
		known = append(ep.net.rec.HostPrefixes(), known...)
		paths, err := e.hostPaths(&rec, shim, known)
		errs := []error{err}
		if inside {
			return errors.Join(append(errs, e.tellHost(ep, &rec, shim, paths, known))...)
		}
		for _, p := range paths {
			errs = append(errs, e.links.AddHostPath(shim, p))
		}
		return errors.Join(errs...)
	}()
	if err != nil {
		e.noteAccess(ep.net.rec.Key, err)
	}
}

// closeHost undoes openHost on the host, for an endpoint that has been forgotten.
func (e *Engine) closeHost(n *network, rec *lan.Endpoint) {
	if !n.rec.HostAccess {
		return
	}
	e.access.Lock()
	defer e.access.Unlock()
	e.mu.Lock()
	parent := n.parent
	e.mu.Unlock()
	if parent == nil {
		return
	}
	shim, err := e.links.FindShim(parent)
	if err != nil || shim == nil {
		return // and its routes with it
	}
	for _, p := range rec.Addrs() {
		if err := e.links.RemoveHostPath(shim, p.Addr()); err != nil {
			e.log.Warn("host access: path stays until the next look", "address", p.Addr(), "err", err)
		}
	}
}

// noteAccess notes what keeps the host from the containers of a parent's networks; nil
// clears it. It logs what is new.
func (e *Engine) noteAccess(key string, err error) {
	text := ""
	if err != nil {
		text = "host access: " + err.Error()
	}
	e.mu.Lock()
	fresh := false
	for _, n := range e.networks {
		if n.rec.Key == key && n.rec.HostAccess {
			fresh = fresh || n.noAccess != text
			n.noAccess = text
		}
	}
	e.mu.Unlock()
	switch {
	case fresh && err != nil:
		e.log.Warn("host access is not complete", "parent", link.WireText(key), "err", err)
	case fresh:
		e.log.Info("host access is complete again", "parent", link.WireText(key))
	}
}
