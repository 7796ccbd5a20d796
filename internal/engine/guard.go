package engine

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/cilium/ebpf"

	"github.com/lanyard-net/lanyard/internal/antispoof"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/netns"
)

// guards are the ports of package antispoof that are on parents.
type guards struct {
	mu sync.Mutex // held while ports are changed; guards what follows
	on map[string]*guarded
}

// guarded is a parent with a port.
type guarded struct {
	index int
	port  *antispoof.Port
}

func (e *Engine) secret() antispoof.Secret { return e.db.Salt() }

// hasPort reports whether what a network's containers send is looked at on the parent, too.
// ipvlan links send with its MAC address, as the host does, and from an isolated network nothing leaves the host.
func hasPort(n *network) bool {
	return n.rec.AntiSpoof && n.rec.Kind == lan.Macvlan && !n.rec.Isolated()
}

// ownOf is what an endpoint may send from.
func ownOf(n *network, rec *lan.Endpoint, parent *link.Parent) (o antispoof.Own, err error) {
	if o.Shared = n.rec.Kind == lan.Ipvlan; o.Shared {
		o.MAC = parent.MAC
	} else if o.MAC, err = net.ParseMAC(rec.MAC); err != nil {
		return o, fmt.Errorf("endpoint record: %w", err)
	}
	for _, p := range rec.Addrs() {
		o.Addrs = append(o.Addrs, p.Addr())
	}
	return o, nil
}

// program is the one for an endpoint's link. The caller closes it.
func (e *Engine) program(n *network, rec *lan.Endpoint, parent *link.Parent) (*ebpf.Program, error) {
	own, err := ownOf(n, rec, parent)
	if err != nil {
		return nil, err
	}
	return antispoof.Child(own, e.secret())
}

// guardParent puts a port on a network's parent if the network wants one and it has none, and
// tells it of all containers. n need not stand yet.
func (e *Engine) guardParent(n *network, parent *link.Parent) error {
	if !hasPort(n) {
		return nil
	}
	g := &e.guards
	g.mu.Lock()
	defer g.mu.Unlock()
	old := g.on[n.rec.Key]
	if old != nil && old.index == parent.Index {
		return e.exempt(n.rec.Key, parent)
	}
	port, err := antispoof.NewPort(e.secret())
	if err != nil {
		return fmt.Errorf("antispoof: %w", err)
	}
	g.on[n.rec.Key] = &guarded{parent.Index, port}
	err = e.exempt(n.rec.Key, parent)
	for _, ep := range e.endpointsThat(func(ep *endpoint) bool { return ep.net.rec.Key == n.rec.Key && hasPort(ep.net) && ep.inside() }) {
		e.mu.Lock()
		rec := ep.rec
		e.mu.Unlock()
		own, oerr := ownOf(ep.net, &rec, parent)
		if oerr == nil {
			// Its link may not have its program when it has just started.
			oerr = port.Put(own, time.Since(rec.Created) < startTime)
		}
		err = errors.Join(err, oerr)
	}
	if err == nil {
		err = e.links.Filter(parent.Index, port.FD())
	}
	if err != nil {
		delete(g.on, n.rec.Key)
		port.Close()
		if old != nil {
			g.on[n.rec.Key] = old
		}
		return fmt.Errorf("antispoof: %w", err)
	}
	if old != nil {
		old.port.Close() // it went with its parent
	}
	return nil
}

// unguardParent takes the port off a parent on which no network wants one any more.
func (e *Engine) unguardParent(key string) {
	g := &e.guards
	g.mu.Lock()
	defer g.mu.Unlock()
	on := g.on[key]
	e.mu.Lock()
	wanted := false
	for _, n := range e.networks {
		wanted = wanted || n.rec.Key == key && hasPort(n)
	}
	e.mu.Unlock()
	if on == nil || wanted {
		return
	}
	if err := e.links.Unfilter(on.index); err != nil {
		e.log.Error("filter stays on the parent", "wire", link.WireText(key), "err", err)
	}
	on.port.Close()
	delete(g.on, key)
}

// exempt tells a parent's port who may send anything: the host, by the parent and by other links of its own
// on it, and the containers of networks without antispoof. The caller holds guards.mu.
func (e *Engine) exempt(key string, parent *link.Parent) error {
	macs, err := e.links.MACsOn(parent.Index)
	if err != nil {
		return err
	}
	macs = append(macs, parent.MAC, e.ipam.ProbeMAC(key))
	guarded := map[string]bool{}
	for _, ep := range e.endpointsThat(func(ep *endpoint) bool { return ep.net.rec.Key == key }) {
		e.mu.Lock()
		mac := ep.rec.MAC
		e.mu.Unlock()
		if hasPort(ep.net) {
			guarded[mac] = true // its link may be in the host's namespace still
		} else if mac, err := net.ParseMAC(mac); err == nil {
			macs = append(macs, mac)
		}
	}
	free := macs[:0]
	for _, mac := range macs {
		if !guarded[mac.String()] {
			free = append(free, mac)
		}
	}
	return e.guards.on[key].port.Exempt(free)
}

// portOf is the port on a network's parent, and the parent; nil where one of them is not there. The
// caller holds guards.mu.
func (e *Engine) portOf(n *network) (*guarded, *link.Parent) {
	e.mu.Lock()
	defer e.mu.Unlock()
	on := e.guards.on[n.rec.Key]
	if n.parent == nil {
		on = nil
	}
	return on, n.parent
}

// guard tells the parent's port of an endpoint, whose link need not have its program yet if
// early is set; was is what it had, if that is something else.
func (e *Engine) guard(n *network, rec, was *lan.Endpoint, early bool) error {
	g := &e.guards
	g.mu.Lock()
	defer g.mu.Unlock()
	on, parent := e.portOf(n)
	if on == nil {
		return nil
	}
	if !hasPort(n) {
		return e.exempt(n.rec.Key, parent)
	}
	own, err := ownOf(n, rec, parent)
	if err != nil {
		return err
	}
	err = on.port.Put(own, early)
	if was != nil {
		old, werr := ownOf(n, was, parent)
		if werr == nil {
			werr = on.port.Drop(old, &own)
		}
		err = errors.Join(err, werr)
	}
	return err
}

// unguard undoes guard for an endpoint that stands no more.
func (e *Engine) unguard(n *network, rec *lan.Endpoint) {
	g := &e.guards
	g.mu.Lock()
	defer g.mu.Unlock()
	on, parent := e.portOf(n)
	if on == nil {
		return
	}
	var err error
	if !hasPort(n) {
		err = e.exempt(n.rec.Key, parent)
	} else if own, oerr := ownOf(n, rec, parent); oerr == nil {
		err = on.port.Drop(own, nil)
	}
	if err != nil {
		e.log.Warn("the port of a parent still lets a container's addresses pass that has gone", "endpoint", lan.Short(rec.ID), "err", err)
	}
}

// guardInside puts an endpoint's program on its link in the container, where it is not there or
// always, and then has the port look for its tokens. It reports false where the link is not up.
// The caller holds verb.
func (e *Engine) guardInside(ep *endpoint, always bool) (found bool, err error) {
	e.mu.Lock()
	rec, parent := ep.rec, ep.net.parent
	e.mu.Unlock()
	if !ep.net.rec.AntiSpoof || parent == nil {
		return true, nil
	}
	found, err = link.WithInside(&rec, func(c *link.Container, in *link.Inside) error {
		if !always {
			if on, err := c.Filtered(in); err != nil || on {
				return err
			}
			e.log.Warn("a container had no antispoof filter on its link, and has it again", "endpoint", lan.Short(rec.ID))
		}
		program, err := e.program(ep.net, &rec, parent)
		if err != nil {
			return err
		}
		defer program.Close()
		return c.Filter(in, program.FD())
	})
	if found && netns.Alive(rec.Sandbox) {
		err = errors.Join(err, e.guard(ep.net, &rec, nil, false))
	}
	return found, err
}

// guardStarted is guardInside for a container that has just got its link.
func (e *Engine) guardStarted(ep *endpoint, rec *lan.Endpoint) error {
	ep.verb.Lock()
	defer ep.verb.Unlock()
	e.mu.Lock()
	gone := e.endpoints[rec.ID] != ep || ep.left || ep.rec.Sandbox != rec.Sandbox
	e.mu.Unlock()
	if gone {
		return nil
	}
	_, err := e.guardInside(ep, true)
	return err
}

// guardAgain gives the containers of a network their programs anew, where what they go by has
// changed.
func (e *Engine) guardAgain(n *network) {
	if !n.rec.AntiSpoof {
		return
	}
	for _, ep := range e.joined(n) {
		ep.verb.Lock()
		if _, err := e.guardInside(ep, true); err != nil {
			e.log.Error("antispoof does not know a container's new MAC address", "endpoint", lan.Short(ep.rec.ID), "err", err)
		}
		ep.verb.Unlock()
	}
}

// guardChange lets an endpoint send from the addresses that it has now, in place of those that
// it had. The caller holds verb.
func (e *Engine) guardChange(ep *endpoint, now, was *lan.Endpoint) error {
	if !ep.net.rec.AntiSpoof || was.Sandbox == "" {
		return nil
	}
	if err := e.guard(ep.net, now, was, true); err != nil {
		return err
	}
	_, err := e.guardInside(ep, true)
	return err
}
