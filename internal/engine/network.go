package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/store"
)

// SkipGateway says for which families the engine need not set a gateway address
// aside for a network with these options: those whose containers would get no
// default gateway in any case.
func (e *Engine) SkipGateway(opts map[string]string, internal bool) (v4, v6 bool, err error) {
	n, err := lan.ParseOptions(opts, internal)
	if err != nil {
		return false, false, err
	}
	skip := n.Internal || n.L3() || n.Gateway == lan.GatewayNone
	return skip, skip, nil
}

// CreateNetwork makes the network, or answers nil if the same one is there. When
// it fails nothing of the network is left.
func (e *Engine) CreateNetwork(ctx context.Context, r lan.NetworkRequest) (err error) {
	asked, err := lan.ParseNetwork(r)
	if err != nil {
		return err
	}
	e.making.Lock()
	defer e.making.Unlock()

	if old, err := e.network(r.ID); err == nil {
		if !old.rec.SameAs(asked) {
			return lan.Refusef(lan.ErrConflict, "network %s exists with other options", lan.Short(r.ID))
		}
		ops, undo, err := e.ipam.Bind(ctx, &old.rec.Network, old.rec.Key)
		if err != nil {
			return err
		}
		if err := e.db.Write(ops...); err != nil {
			undo()
			return err
		}
		return e.ensureParent(old)
	}
	asked.Created = time.Now().UTC()
	n := &network{rec: store.Network{Network: *asked}}
	plan, err := e.look(n)
	if err != nil {
		return err
	}
	n.rec.Key = plan.Key
	probe, err := e.checkSharing(n)
	if err != nil {
		return err
	}
	if n.rec.MTU > plan.MTU && !n.rec.Isolated() {
		return lan.Refusef(lan.ErrInvalid, "MTU %d is more than the parent's: %s has %d; try: ip link set %s mtu %d", n.rec.MTU, n.rec.Parent, plan.MTU, n.rec.Parent.Name, n.rec.MTU)
	}

	if probe {
		// What is left of conflict detection for a network that has just gone.
		e.ipam.Unused(n.rec.Key, true)
	}
	pools, unbind, err := e.ipam.Bind(ctx, &n.rec.Network, n.rec.Key)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			unbind()
		}
	}()
	if n.rec.Making = n.rec.Isolated() || len(plan.Make) > 0; n.rec.Making {
		if err := e.db.Write(store.PutNetwork(&n.rec)); err != nil {
			return err
		}
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, e.unmake(n))
		}
	}()
	if n.parent, err = e.carryOut(n, plan); err != nil {
		return err
	}
	if probe && !n.parent.Mine {
		made, err := e.links.Probe(n.parent.Index, n.rec.Kind, n.rec.Mode)
		if err != nil {
			return fmt.Errorf("parent %s: %w", n.parent.Name, err)
		}
		if made != "" {
			e.trash.put(made)
		}
	}
	if err := e.guardParent(n, n.parent); err != nil {
		return err
	}
	if n.rec.HostAuto || len(n.rec.HostAddrs) > 0 {
		// The wire is asked for them.
		e.ipam.Wire(&n.rec.Network, n.rec.Key, n.parent)
		if err := e.ipam.HostAddresses(ctx, &n.rec.Network); err != nil {
			if probe {
				e.ipam.Unwire(n.rec.Key)
			}
			return err
		}
	}
	if n.rec.HostAccess {
		e.access.Lock()
		_, err = e.shim(n, n.parent)
		e.access.Unlock()
		if err != nil {
			return err
		}
	}
	made := n.rec.Making
	n.rec.Making = false
	if err := e.db.Write(append(pools, store.PutNetwork(&n.rec))...); err != nil {
		n.rec.Making = made
		return err
	}
	e.mu.Lock()
	e.networks[n.rec.ID] = n
	e.mu.Unlock()
	e.ipam.Wire(&n.rec.Network, n.rec.Key, n.parent)
	e.tellOf(ctx, ipam.EventNetworkCreated, n, "", strings.TrimSpace(fmt.Sprintf("%s %s on %s", n.rec.Kind, n.rec.Mode, n.parent.Name)))
	e.log.InfoContext(ctx, "network created", "network", n.rec.ID, "kind", n.rec.Kind, "mode", n.rec.Mode, "parent", n.parent.Name, "made", n.parent.Mine)
	if n.rec.Isolated() {
		e.log.InfoContext(ctx, "network has no parent: it is isolated on a dummy link", "network", n.rec.ID, "link", n.parent.Name)
	}
	return nil
}

// look plans the parent of a network. An isolated network's plan is a dummy of
// its own.
func (e *Engine) look(n *network) (*link.Plan, error) {
	if n.rec.Isolated() {
		return &link.Plan{Key: n.rec.DummyName()}, nil
	}
	return e.links.Look(n.rec.Parent, n.rec.Kind)
}

func (e *Engine) carryOut(n *network, p *link.Plan) (*link.Parent, error) {
	if n.rec.Isolated() {
		return e.links.EnsureDummy(n.rec.DummyName(), n.rec.MTU)
	}
	return e.links.Ensure(p)
}

// unmake undoes a network that did not come to stand. The caller holds making.
func (e *Engine) unmake(n *network) error {
	var errs []error
	if n.rec.HostAccess {
		e.syncHost() // the shim would look like somebody's use
	}
	if hasPort(n) {
		e.unguardParent(n.rec.Key)
	}
	if n.parent != nil {
		errs = append(errs, e.release(n.parent.Index))
	}
	if n.rec.Making {
		errs = append(errs, e.db.Write(store.DeleteNetwork(n.rec.ID)))
	}
	return errors.Join(errs...)
}

// checkSharing refuses a network that cannot be on its parent together with
// those that are there. It reports whether the parent is new to us, so that the
// kernel should be asked as well. The caller holds making.
func (e *Engine) checkSharing(n *network) (fresh bool, err error) {
	others := e.onParent(n)
	for _, o := range others {
		r, id := &n.rec, lan.Short(o.ID)
		switch {
		case o.Kind != r.Kind:
			return false, lan.Refusef(lan.ErrConflict, "parent %s is used by %s network %s, and the kernel gives a parent to macvlan or to ipvlan, not to both; "+
				"try: %s, or another VLAN", r.Parent, o.Kind, id, kindHint(o))
		case o.Mode == lan.ModePassthru:
			return false, lan.Refusef(lan.ErrConflict, "parent %s is used by macvlan network %s in mode passthru, which takes it for itself", r.Parent, id)
		case r.Mode == lan.ModePassthru:
			return false, lan.Refusef(lan.ErrConflict, "cannot use mode passthru, which takes the parent for itself: macvlan network %s is on parent %s already", id, r.Parent)
		case r.Kind == lan.Ipvlan && (o.Mode != r.Mode || o.Flag != r.Flag):
			return false, lan.Refusef(lan.ErrConflict, "parent %s is used by ipvlan network %s in mode %s, flag %s; mode and flag belong to the parent, so mode %s, flag %s "+
				"would change that network's too; try: %s, or another VLAN", r.Parent, id, o.Mode, o.Flag, r.Mode, r.Flag, kindHint(o))
		}
	}
	return len(others) == 0, nil
}

// onParent lists the other networks on a network's parent, oldest first, so that the
// same refusal names the same one.
func (e *Engine) onParent(n *network) []*store.Network {
	e.mu.Lock()
	defer e.mu.Unlock()
	var others []*store.Network
	for _, other := range e.networks {
		if o := &other.rec; o.Key == n.rec.Key && o.ID != n.rec.ID {
			others = append(others, o)
		}
	}
	slices.SortFunc(others, func(a, b *store.Network) int {
		return cmp.Or(a.Created.Compare(b.Created), strings.Compare(a.ID, b.ID))
	})
	return others
}

// kindHint is what to type to get what o has.
func kindHint(o *store.Network) string {
	if o.Kind == lan.Macvlan {
		return fmt.Sprintf("-o macvlan_mode=%s", o.Mode)
	}
	return fmt.Sprintf("-o ipvlan_mode=%s -o ipvlan_flag=%s", o.Mode, o.Flag)
}

// ensureParent finds or makes the parent of a network that stands, and gives its running
// containers the links that they lost with an earlier one. The caller holds making.
func (e *Engine) ensureParent(n *network) error {
	if e.lookAtParent(n) {
		return nil
	}
	parent, err := e.findParent(n)
	if err == nil {
		// A network that is to keep its containers to their addresses does so or does not stand.
		if err = e.guardParent(n, parent); err != nil {
			parent = nil
		}
	}
	e.mu.Lock()
	n.parent, n.problem = parent, ""
	if err != nil {
		n.problem = err.Error()
	}
	first := n.lost.IsZero()
	e.mu.Unlock()
	if err != nil {
		if first {
			e.lose(n, nil)
		}
		return err
	}
	e.relink(n)
	e.ipam.Wire(&n.rec.Network, n.rec.Key, parent)
	if n.rec.HostAccess && !first {
		e.syncHost()
	}
	return nil
}

// findParent looks for the parent of a network, and makes what is missing of it.
func (e *Engine) findParent(n *network) (*link.Parent, error) {
	plan, err := e.look(n)
	if err != nil {
		return nil, err
	}
	if plan.Key != n.rec.Key {
		return nil, lan.Refusef(lan.ErrConflict, "parent %s was %s when the network was created and is %s now; try: docker network rm, and create it again",
			n.rec.Parent, link.WireText(n.rec.Key), link.WireText(plan.Key))
	}
	return e.carryOut(n, plan)
}

// ForgetNetwork is DeleteNetwork for a network that Docker has no more, because it
// removed it while we were away. It refuses with lan.ErrConflict while a container is
// on it.
func (e *Engine) ForgetNetwork(ctx context.Context, id string) error {
	n, err := e.network(id)
	if err != nil {
		return err
	}
	for eid, ep := range e.endpointsOf(n) {
		if !e.stale(ep, neverJoined) {
			return lan.Refusef(lan.ErrConflict, "network %s has a container on it, with endpoint %s; try: lanyard endpoint ls", lan.Short(id), lan.Short(eid))
		}
		e.drop(ep)
	}
	return e.DeleteNetwork(ctx, id)
}

// endpointsOf is the endpoints of a network, by ID.
func (e *Engine) endpointsOf(n *network) map[string]*endpoint {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := map[string]*endpoint{}
	for id, ep := range e.endpoints {
		if ep.net == n {
			all[id] = ep
		}
	}
	return all
}

// DeleteNetwork removes the network, its endpoints, and the links that only it
// used. An error says what stayed behind; the network is gone all the same.
func (e *Engine) DeleteNetwork(ctx context.Context, id string) error {
	n, err := e.network(id)
	if err != nil {
		return err
	}
	n.use.Lock()
	defer n.use.Unlock()
	e.making.Lock()
	defer e.making.Unlock()
	if again, err := e.network(id); err != nil || again != n {
		return err // deleted while we waited
	}

	gone := e.endpointsOf(n)
	ops := []store.Op{store.DeleteNetwork(id)}
	for eid, ep := range gone {
		ops = append(ops, store.DeleteEndpoint(eid))
		ops = append(ops, e.ipam.Leave(&n.rec.Network, n.rec.Key, &ep.rec)...)
	}
	e.ipam.ReleaseLeases(&n.rec.Network, n.rec.Key)
	ops = append(ops, e.ipam.Unbind(id)...)
	if err := e.db.Write(ops...); err != nil {
		return err
	}
	e.mu.Lock()
	parent := n.parent
	delete(e.networks, id)
	for eid := range gone {
		delete(e.endpoints, eid)
	}
	e.mu.Unlock()

	for _, ep := range gone {
		e.trash.put(ep.rec.LinkName())
		e.unguard(n, &ep.rec)
	}
	if n.rec.HostAccess {
		e.syncHost()
	}
	if hasPort(n) {
		e.unguardParent(n.rec.Key)
	}
	if parent != nil {
		// A probe link on a parent of ours would look like somebody's use.
		e.ipam.Unused(n.rec.Key, parent.Mine)
		if err := e.release(parent.Index); err != nil {
			return fmt.Errorf("network %s is gone, its parent is not: %w", lan.Short(id), err)
		}
	}
	e.tellOf(ctx, ipam.EventNetworkRemoved, n, "", "")
	e.log.InfoContext(ctx, "network deleted", "network", id, "endpoints", len(gone))
	return nil
}

// release removes a parent of ours that no network uses any more. The caller
// holds making.
func (e *Engine) release(index int) error {
	if p, err := e.links.ParentAt(index); err != nil || !p.Mine {
		return nil //nolint:nilerr // a parent that is gone needs no removing
	}
	e.trash.wait() // a child in the bin would look like somebody's use
	inUse := e.inUse()
	left, err := e.links.Release(index, func(i int) bool { return inUse[i] })
	for _, name := range left {
		e.log.Warn("sub-interface made by lanyard is used by others now and stays", "link", name)
	}
	return err
}

// inUse is the set of links, by index, that networks stand on.
func (e *Engine) inUse() map[int]bool {
	e.mu.Lock()
	var parents []int
	for _, n := range e.networks {
		if n.parent != nil {
			parents = append(parents, n.parent.Index)
		}
	}
	e.mu.Unlock()
	used := map[int]bool{}
	for _, p := range parents {
		for _, i := range e.links.Chain(p) {
			used[i] = true
		}
	}
	return used
}
