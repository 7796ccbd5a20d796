// Package engine has the verbs of the driver: create and delete a network,
// add, join, leave and delete an endpoint; their order, their undo, and what is
// restored on start.
//
// Each verb writes what it is about to do, does its kernel steps, and confirms;
// what a crash cuts off is finished or undone by the next start.
package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/store"
)

// Config is what an engine works with. All fields are required. The engine
// closes none of them.
type Config struct {
	DB        *store.DB
	Links     *link.Links
	Addresses *ipam.Manager
	State     store.State // of DB
	Log       *slog.Logger
	// Waits is told of networks on which a container did not start for what comes or goes by
	// itself: the parent, or the link of a container that has gone. It does not block.
	Waits func(networkID string)
}

// Engine holds the networks and endpoints of this host. Its verbs may be called
// at the same time and before Run; each returns when its changes are on disk and
// in the kernel.
type Engine struct {
	db    *store.DB
	links *link.Links
	ipam  *ipam.Manager
	log   *slog.Logger
	trash bin

	greeter  *greeter
	waits    func(networkID string)
	bell     chan struct{} // asks Run to look at the parents; has room for one
	addrBell chan struct{} // asks Run to look at the host's addresses; has room for one
	unseen   *unseen
	strays   strays

	// making is held by whatever makes or removes a network or a parent.
	// Locks are taken in the order network.use, making, endpoint.verb, access, mu.
	making sync.Mutex

	access sync.Mutex // held by whatever changes shims, and routes and neighbours by them

	mu        sync.Mutex // guards the maps and the fields that say so
	networks  map[string]*network
	endpoints map[string]*endpoint
	lingering map[string]time.Time // by wire and MAC address; see lingers

	guards guards
}

// network is a network that stands.
type network struct {
	rec store.Network // never changes

	// use is held for reading by verbs on endpoints and for writing by what
	// removes the network.
	use sync.RWMutex

	parent  *link.Parent // guarded by Engine.mu; nil while there is none
	problem string       // guarded by Engine.mu; why there is none

	lost      time.Time // guarded by Engine.mu; when the parent went
	theirs    bool      // guarded by Engine.mu; it was somebody else's sub-interface
	announced time.Time // guarded by Engine.mu; when its containers were announced last
	owed      bool      // guarded by Engine.mu; they are to be announced once more, later

	noAccess string // guarded by Engine.mu; what keeps the host from its containers
}

// endpoint is an endpoint that stands.
type endpoint struct {
	net *network

	verb sync.Mutex // held by a verb on this endpoint

	rec  lan.Endpoint // guarded by Engine.mu
	left bool         // guarded by Engine.mu; Leave was called after Join
	// touched is guarded by Engine.mu; when it was joined or left last, or we started.
	touched time.Time
	warned  bool   // guarded by Engine.mu; the wish for a name was dealt with
	told    string // guarded by Engine.mu; what its container knows of the host

	shape  *link.Shape // guarded by Engine.mu; what the link in the container is like; nil: not known
	ownMTU int         // guarded by Engine.mu; its MTU in bytes, if it was set in the container

	tries int       // guarded by Engine.mu; how often its link could not be made again
	retry time.Time // guarded by Engine.mu; when that is tried again
}

// Addresses are the manager that the engine works with.
func (e *Engine) Addresses() *ipam.Manager { return e.ipam }

// New takes the state in. It changes nothing and starts nothing.
func New(c Config) (*Engine, error) {
	s := c.State
	e := &Engine{
		db: c.DB, links: c.Links, ipam: c.Addresses, log: c.Log, greeter: newGreeter(), waits: c.Waits,
		bell: make(chan struct{}, 1), addrBell: make(chan struct{}, 1), unseen: newUnseen(),
		networks: map[string]*network{}, endpoints: map[string]*endpoint{}, lingering: map[string]time.Time{},
		guards: guards{on: map[string]*guarded{}},
	}
	e.trash.remove = func(names []string) {
		if err := c.Links.DeleteAll(names); err != nil {
			c.Log.Error("links of removed endpoints stay behind", "links", names, "err", err)
		}
	}
	c.Addresses.Hook(ipam.Hooks{Ready: e.ready, Endpoint: e.endpointRecord, Changed: e.leaseChanged})
	for _, rec := range s.Networks {
		n := &network{rec: *rec}
		e.networks[rec.ID] = n
		if !rec.Making {
			e.ipam.Known(&n.rec.Network, rec.Key)
		}
	}
	for _, rec := range s.Endpoints {
		n := e.networks[rec.NetworkID]
		if n == nil {
			c.Log.Warn("endpoint of an unknown network", "endpoint", rec.ID, "network", rec.NetworkID)
			continue
		}
		e.endpoints[rec.ID] = &endpoint{net: n, rec: *rec, touched: time.Now()}
		if _, err := e.ipam.Assign(&n.rec.Network, n.rec.Key, rec, rec.MAC, true); err != nil {
			return nil, err
		}
	}
	return e, nil
}

// houseKeeping is how often Run looks for what was left behind.
const houseKeeping = time.Minute

// Run restores what the kernel lost while we were away, then keeps house until
// ctx ends. What cannot be restored is logged and tried again when it is needed.
func (e *Engine) Run(ctx context.Context) error {
	var watching sync.WaitGroup
	defer watching.Wait()
	watching.Go(func() { e.watchParents(ctx) }) // before we look
	watching.Go(func() { e.watchAddrs(ctx) })
	e.restore()
	watching.Go(func() { e.survey(ctx) })
	defer e.trash.wait()
	defer e.greeter.end()
	tick := time.NewTicker(houseKeeping)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			e.heal()
			e.sweep()
		case <-e.bell:
			e.heal()
			pause(ctx, healRest) // one change of a link comes in several messages
		case <-e.addrBell:
			if e.hasHostAccess() {
				e.syncHost()
			}
			pause(ctx, addrRest)
		}
	}
}

// NoNetwork is in the text of an error about a network that is not on record, for those to
// whom Docker tells no more.
const NoNetwork = "is not known to lanyard"

// network finds a network that stands.
func (e *Engine) network(id string) (*network, error) {
	if err := lan.CheckID("network id", id); err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	n := e.networks[id]
	if n == nil || n.rec.Making {
		return nil, lan.Refusef(lan.ErrNotFound, "network %s "+NoNetwork+"; try: lanyard repair, which takes it in, or docker network rm, and create it again", lan.Short(id))
	}
	return n, nil
}

// endpoint finds an endpoint of a network, both of which stand.
func (e *Engine) endpoint(networkID, id string) (*endpoint, error) {
	if err := lan.CheckID("endpoint id", id); err != nil {
		return nil, err
	}
	n, err := e.network(networkID)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	ep := e.endpoints[id]
	if ep == nil || ep.net != n {
		return nil, lan.Refusef(lan.ErrNotFound, "endpoint %s is not known to lanyard on network %s", lan.Short(id), lan.Short(networkID))
	}
	return ep, nil
}

// endpointsThat are the endpoints of which something is so. The caller does not hold mu,
// which so is called under.
func (e *Engine) endpointsThat(so func(*endpoint) bool) (eps []*endpoint) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, ep := range e.endpoints {
		if so(ep) {
			eps = append(eps, ep)
		}
	}
	return eps
}

// inside reports whether a container was given the endpoint's link and did not give it back.
// The caller holds Engine.mu.
func (ep *endpoint) inside() bool { return ep.rec.Sandbox != "" && !ep.left }

// EndpointInfo answers for an endpoint that is there, else lan.ErrNotFound. The
// engine calls it last when a container starts, so it is where a wish for an
// interface name that the engine did not heed is noticed and logged.
func (e *Engine) EndpointInfo(ctx context.Context, networkID, endpointID string) error {
	ep, err := e.endpoint(networkID, endpointID)
	if err != nil {
		return err
	}
	e.mu.Lock()
	rec, look := ep.rec, !ep.warned && ep.rec.IfName != "" && ep.rec.Sandbox != ""
	ep.warned = ep.warned || look
	e.mu.Unlock()
	if !look {
		return nil
	}
	if e.links.Exists(rec.LinkName()) {
		// Engines before 28 move the link later.
		e.log.WarnContext(ctx, "this engine (older than 28) does not heed the interface name", "ifname", rec.IfName, "endpoint", rec.ID)
		return nil
	}
	name, err := link.NameInside(rec.Sandbox, rec.MAC, rec.IPv4.Addr().AsSlice())
	switch {
	case err != nil:
		e.log.DebugContext(ctx, "interface name not checked", "endpoint", rec.ID, "err", err)
	case name != "" && name != rec.IfName:
		e.log.WarnContext(ctx, "this engine (older than 29) does not heed the interface name", "ifname", rec.IfName, "name", name, "endpoint", rec.ID)
	}
	return nil
}

// Networks lists all networks, oldest first.
func (e *Engine) Networks() []NetworkState {
	e.mu.Lock()
	count := map[*network]int{}
	for _, ep := range e.endpoints {
		count[ep.net]++
	}
	states := make([]NetworkState, 0, len(e.networks))
	parents, keys := map[string]*link.Parent{}, map[string]string{}
	for id, n := range e.networks {
		states = append(states, NetworkState{Network: n.rec.Network, Endpoints: count[n], Wire: link.WireText(n.rec.Key), Problem: cmp.Or(n.problem, n.noAccess)})
		parents[id], keys[id] = n.parent, n.rec.Key
	}
	e.mu.Unlock()
	for i := range states {
		s := &states[i]
		if s.Isolated() {
			s.Note = "no parent: isolated network on a dummy link; its containers reach each other and nothing else"
		}
		parent := parents[s.ID]
		if parent == nil {
			continue
		}
		p, err := e.links.ParentAt(parent.Index)
		switch {
		case err == nil:
			s.ParentLink, s.ParentMAC, s.Tags, s.Made = p.Name, p.MAC.String(), p.Tags, p.Mine
			s.Problem = cmp.Or(s.Problem, parentProblem(p, keys[s.ID]))
		case errors.Is(err, link.ErrParentGone):
			s.Problem = fmt.Sprintf("parent %s is gone; its containers get their links back when it is back", parent.Name)
		default:
			s.Problem = err.Error()
		}
	}
	slices.SortFunc(states, func(a, b NetworkState) int { return a.Created.Compare(b.Created) })
	return states
}

// parentProblem is what is wrong with a parent that is there, and was the wire called key when
// its network was created.
func parentProblem(p *link.Parent, key string) string {
	switch {
	case !p.Up:
		return fmt.Sprintf("parent %s is down; try: ip link set %s up", p.Name, p.Name)
	case !p.Carrier:
		return fmt.Sprintf("parent %s has no carrier; try: ip link show %s, and look at the cable and the switch", p.Name, p.Name)
	case p.Key != key:
		return fmt.Sprintf("parent %s was %s when the network was created: its containers go on, and after a restart of lanyard or of the host it is not found; try: ip link set, to give it its name back",
			link.WireText(p.Key), link.WireText(key))
	}
	return ""
}

// Endpoints lists all endpoints, oldest first.
func (e *Engine) Endpoints() []EndpointState {
	var look []int // at those whose addresses only their containers know
	e.mu.Lock()
	states := make([]EndpointState, 0, len(e.endpoints))
	for _, ep := range e.endpoints {
		n := &ep.net.rec
		s := EndpointState{Endpoint: ep.rec, Kind: n.Kind, Mode: n.Mode, Parent: n.Parent.String(), State: "created"}
		if n.Isolated() {
			s.Parent = n.DummyName()
		}
		switch {
		case ep.left:
			s.State = "left"
		case ep.rec.Sandbox != "":
			s.State = "joined"
			if n.IPv6Mode == lan.IPv6SLAAC {
				look = append(look, len(states))
			}
		}
		states = append(states, s)
	}
	e.mu.Unlock()
	for _, i := range look {
		s := &states[i]
		_, err := link.WithInside(&s.Endpoint, func(_ *link.Container, in *link.Inside) error {
			for _, p := range in.Addrs {
				if p.Addr().Is6() && p.Addr() != s.IPv6.Addr() {
					s.SLAAC = append(s.SLAAC, p)
				}
			}
			return nil
		})
		if err != nil {
			e.log.Debug("container not looked into", "endpoint", s.ID, "err", err)
		}
	}
	slices.SortFunc(states, func(a, b EndpointState) int { return a.Created.Compare(b.Created) })
	return states
}
