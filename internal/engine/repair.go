package engine

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/netns"
	"github.com/lanyard-net/lanyard/internal/store"
)

// What Docker has of ours, as far as it says so.
type (
	// DockerView is all of it.
	DockerView struct {
		Networks  []DockerNetwork
		Endpoints []DockerEndpoint
		// Incomplete reports that Docker did not say all of Endpoints.
		Incomplete bool
	}
	// DockerNetwork is a network of this driver.
	DockerNetwork struct {
		Name string
		lan.NetworkRequest
		// Pools are what its IPAM driver was asked for, where that is ours.
		Pools []lan.PoolRequest
	}
	// DockerEndpoint is a running container's endpoint on such a network.
	DockerEndpoint struct {
		NetworkID, EndpointID string
		Container             string // its name
		Sandbox               string // the path of its namespace
		MAC                   string
		IPv4, IPv6            netip.Prefix
	}
)

// Step is something that is to be repaired.
type Step struct {
	// Do says what is to be done: one of the constants below.
	Do string `json:"do"`
	// What is the thing that it is done to: a network, a container, a link or an address.
	What string `json:"what"`
	Why  string `json:"why"`
	// Error says why it was not done; "" where it was, or nothing was to be done yet.
	Error string `json:"error,omitempty"`

	do func(context.Context) error
}

// What a Step does.
const (
	AdoptNetwork   = "adopt network"   // take a network in that Docker has and we do not
	AdoptEndpoint  = "adopt endpoint"  // the same of a running container's endpoint
	ForgetNetwork  = "forget network"  // one that Docker has no more
	DropEndpoint   = "drop endpoint"   // one whose container is gone
	RestoreLink    = "restore link"    // one that a running container lacks
	FinishLease    = "finish lease"    // a change that a container has not heeded
	RemoveLink     = "remove link"     // a link, sub-interface or shim of ours that nobody uses
	ReleaseAddress = "release address" // one that no container has
)

// Repair compares Docker's view, ours and the kernel's, and mends what does not fit: what was
// cut off is finished or undone, and what is provably ours and used by nobody is removed. What
// is not ours is never touched. dry only says what would be done. Without Docker's view (nil)
// nothing is adopted or forgotten.
func (e *Engine) Repair(ctx context.Context, w *DockerView, dry bool) []Step {
	var steps []Step
	// Each kind of step may be the ground of the next.
	for _, plan := range []func(*DockerView) []Step{e.planNetworks, e.planEndpoints, e.planStale, e.planInside, e.planLinks, e.planStrays, e.planAddresses} {
		for _, s := range plan(w) {
			if !dry {
				if err := s.do(ctx); err != nil {
					s.Error = err.Error()
					e.log.ErrorContext(ctx, "not repaired", "do", s.Do, "what", s.What, "why", s.Why, "err", err)
				} else {
					e.ipam.Tell(ctx, ipam.Event{What: ipam.EventRepaired, Text: fmt.Sprintf("%s %s: %s", s.Do, s.What, s.Why)})
					e.log.InfoContext(ctx, "repaired", "do", s.Do, "what", s.What, "why", s.Why)
				}
			}
			steps = append(steps, s)
		}
	}
	return steps
}

// planNetworks adopts networks that only Docker has, and forgets those that only we have.
func (e *Engine) planNetworks(w *DockerView) (steps []Step) {
	if w == nil {
		return nil
	}
	docker := map[string]bool{}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, n := range w.Networks {
		docker[n.ID] = true
		if e.networks[n.ID] != nil {
			continue
		}
		steps = append(steps, Step{
			Do: AdoptNetwork, What: n.Name, Why: "Docker has it, and it is not on record here",
			do: func(ctx context.Context) error { return e.adoptNetwork(ctx, n) },
		})
	}
	for id, n := range e.networks {
		if !docker[id] && !n.rec.Making {
			steps = append(steps, Step{
				Do: ForgetNetwork, What: lan.Short(id), Why: "Docker has it no more",
				do: func(ctx context.Context) error { return e.ForgetNetwork(ctx, id) },
			})
		}
	}
	slices.SortStableFunc(steps, func(a, b Step) int { return strings.Compare(a.Do, b.Do) })
	return steps
}

func (e *Engine) adoptNetwork(ctx context.Context, n DockerNetwork) (err error) {
	var pools []string
	defer func() {
		if err != nil {
			for _, id := range pools {
				err = errors.Join(err, e.ipam.ReleasePool(ctx, id))
			}
		}
	}()
	for _, p := range n.Pools {
		g, err := e.ipam.RequestPool(ctx, p)
		if err != nil {
			return err
		}
		pools = append(pools, g.ID)
	}
	return e.CreateNetwork(ctx, n.NetworkRequest)
}

// planEndpoints adopts endpoints of running containers that only Docker has.
func (e *Engine) planEndpoints(w *DockerView) (steps []Step) {
	if w == nil {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, d := range w.Endpoints {
		if e.endpoints[d.EndpointID] == nil && d.Sandbox != "" {
			steps = append(steps, Step{
				Do: AdoptEndpoint, What: d.Container, Why: "it runs with endpoint " + lan.Short(d.EndpointID) + ", which is not on record here",
				do: func(ctx context.Context) error { return e.adoptEndpoint(ctx, d) },
			})
		}
	}
	return steps
}

// adoptEndpoint takes the endpoint of a container in that has its link already.
func (e *Engine) adoptEndpoint(ctx context.Context, d DockerEndpoint) error {
	n, err := e.network(d.NetworkID)
	if err != nil {
		return err
	}
	if n.rec.Leases() {
		return lan.Refusef(lan.ErrConflict, "its DHCP lease is not on record, so nobody renews it; try: docker restart %s", d.Container)
	}
	rec := lan.Endpoint{ID: d.EndpointID, NetworkID: d.NetworkID, IPv4: d.IPv4, IPv6: d.IPv6, IfName: n.rec.IfName, Created: time.Now().UTC()}
	if n.rec.Kind == lan.Macvlan {
		if rec.MAC, err = checkMAC(n, d.MAC); err != nil {
			return err
		}
	}
	for _, addr := range []netip.Prefix{d.IPv4, d.IPv6} {
		if err := checkAddress(n, addr); err != nil {
			return err
		}
	}
	// Nobody is asked whether they have its addresses: it does.
	n.use.RLock()
	_, _, err = e.reserve(n, rec, nil)
	n.use.RUnlock()
	if err != nil {
		return err
	}
	ep, err := e.hold(d.NetworkID, d.EndpointID)
	if err != nil {
		return err
	}
	defer e.letGo(ep)
	e.mu.Lock()
	ep.touched = time.Now()
	rec = ep.rec
	rec.Sandbox, rec.Link = d.Sandbox, "eth0" // or what the survey finds
	if ep.net.parent != nil {
		rec.ParentIndex = ep.net.parent.Index
	}
	ep.rec = rec
	e.mu.Unlock()
	e.ipam.Joined(ep.net.rec.Key, &rec)
	e.unseen.add(rec.Sandbox)
	return e.db.Write(store.PutEndpoint(&rec))
}

// planStale drops endpoints whose container is gone.
func (e *Engine) planStale(*DockerView) (steps []Step) {
	for _, ep := range e.endpointsThat(func(*endpoint) bool { return true }) {
		if e.stale(ep, neverJoined) {
			steps = append(steps, Step{
				Do: DropEndpoint, What: lan.Short(ep.rec.ID), Why: "its container is gone",
				do: func(context.Context) error { e.drop(ep); return nil },
			})
		}
	}
	return steps
}

// planInside looks into containers for links that they lack, and for changes of leases that
// they have not heeded.
func (e *Engine) planInside(*DockerView) (steps []Step) {
	for _, ep := range e.endpointsThat((*endpoint).inside) {
		e.mu.Lock()
		rec, parent := ep.rec, ep.net.parent
		e.mu.Unlock()
		if !netns.Alive(rec.Sandbox) || e.links.Exists(rec.LinkName()) {
			continue
		}
		if len(rec.Redo) > 0 {
			steps = append(steps, Step{
				Do: FinishLease, What: lan.Short(rec.ID), Why: "its container has not heeded a change of its lease",
				do: func(context.Context) error { return e.finish(ep) },
			})
		}
		has, err := link.HasLink(&rec)
		if has || err != nil {
			continue
		}
		why := "its container has no link"
		if parent == nil {
			why += ", and the network has no parent"
		}
		steps = append(steps, Step{
			Do: RestoreLink, What: lan.Short(rec.ID), Why: why,
			do: func(context.Context) error { return e.remake(ep) },
		})
	}
	return steps
}

func (e *Engine) finish(ep *endpoint) error {
	ep.verb.Lock()
	defer ep.verb.Unlock()
	_, done, err := e.redo(ep)
	if err == nil && !done {
		err = errors.New("its link is not found, or down")
	}
	return err
}

// remake makes the link of an endpoint that has none.
func (e *Engine) remake(ep *endpoint) error {
	e.making.Lock()
	defer e.making.Unlock()
	if err := e.ensureParent(ep.net); err != nil {
		return err
	}
	e.mu.Lock()
	parent, lacks := ep.net.parent, ep.rec.ParentIndex
	ep.rec.ParentIndex = -1 // as if it had gone with another parent
	e.mu.Unlock()
	made, err := e.relinkOne(ep.net, ep, parent)
	if !made {
		e.mu.Lock()
		if ep.rec.ParentIndex == -1 {
			ep.rec.ParentIndex = lacks
		}
		e.mu.Unlock()
		if err == nil {
			err = errors.New("its container has ended")
		}
	}
	return err
}

// planLinks removes links of ours that nobody uses.
func (e *Engine) planLinks(*DockerView) (steps []Step) {
	remove := func(name, why string, do func() error) {
		steps = append(steps, Step{Do: RemoveLink, What: name, Why: why, do: func(context.Context) error { return do() }})
	}
	if children, err := e.links.Mine(); err == nil {
		for _, name := range e.orphans(children) {
			remove(name, "it belongs to no endpoint", func() error { return e.links.Delete(name) })
		}
	}
	e.access.Lock()
	want := map[string]bool{}
	for _, s := range e.hostSides() {
		want[link.ShimName(s.parent)] = true
	}
	e.access.Unlock()
	if shims, err := e.links.Shims(); err == nil {
		for _, name := range shims {
			if !want[name] {
				remove(name, "no network with host access is on its parent", func() error { return e.links.Delete(name) })
			}
		}
	}
	for _, p := range e.idleParents() {
		remove(p.Name, "no network is on it", func() error {
			e.making.Lock()
			defer e.making.Unlock()
			return e.release(p.Index)
		})
	}
	return steps
}

// planAddresses takes back addresses that no endpoint came for.
func (e *Engine) planAddresses(*DockerView) (steps []Step) {
	for _, o := range e.ipam.Orphans() {
		steps = append(steps, Step{
			Do: ReleaseAddress, What: o.String(), Why: "no container came for it",
			do: func(context.Context) error {
				if err := e.ipam.TakeBack(o); err != nil {
					return fmt.Errorf("it stays held: %w", err)
				}
				return nil
			},
		})
	}
	return steps
}
