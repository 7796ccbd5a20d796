package ipam

import (
	"context"
	"net/netip"
	"time"

	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/request"
)

// What events are of.
const (
	EventAcquired   = "lease-acquired"   // a server granted an address
	EventReused     = "lease-reused"     // no server confirmed a lease that had not ended
	EventRenewed    = "lease-renewed"    // a server granted more time
	EventChanged    = "lease-changed"    // a running container has another address, gateway, MTU or routes
	EventUnanswered = "lease-unanswered" // no server answers
	EventDeclined   = "lease-declined"   // a server gave an address that somebody uses
	EventLost       = "lease-lost"       // a running container had to give its address up
	EventReleased   = "lease-released"   // given back to the server
	EventExpired    = "lease-expired"    // ended while nobody had it

	EventParentLost = "parent-lost" // a network's parent is not there, and its containers have no link
	EventParentBack = "parent-back" // its containers have their links again
	EventParentDown = "parent-down" // a network's parent was set down, or has no carrier
	EventParentUp   = "parent-up"   // it carries again

	EventConflict = "address-conflict" // another device uses a container's address
	EventInUse    = "address-in-use"   // another device uses an address that is nobody's; it is not handed out
	EventFree     = "address-free"     // nobody answers for it any more

	EventPoolLow  = "pool-nearly-full" // less than a tenth of a pool is free
	EventPoolFull = "pool-full"        // nothing of it is free
	EventPoolRoom = "pool-has-room"    // it is neither any more

	EventNetworkCreated = "network-created"
	EventNetworkRemoved = "network-removed"
	EventEndpointJoined = "endpoint-joined" // a container has its link
	EventEndpointLeft   = "endpoint-left"   // it has given it back, or has ended
	EventLinkFailed     = "link-failed"     // a running container's link could not be made again
	EventStrayRemoved   = "stray-removed"   // the link of a container that has ended, from a process that an engine has forgotten
	EventRepaired       = "repaired"        // what did not fit together does again: after damage, or lanyard repair

	EventHostForgotten = "host-forgotten" // by policy, by this host: it was silent for long enough
	EventHostSilent    = "host-silent"    // another host has not been heard of for 30 s
	EventHostBack      = "host-back"      // it is heard of again
	EventStoreAway     = "store-away"     // etcd cannot be asked
	EventStoreBack     = "store-back"     // it can again
)

// EventKinds are all of them.
func EventKinds() []string {
	return []string{
		EventAcquired, EventReused, EventRenewed, EventChanged, EventUnanswered, EventDeclined, EventLost, EventReleased, EventExpired,
		EventParentLost, EventParentBack, EventParentDown, EventParentUp,
		EventConflict, EventInUse, EventFree, EventPoolLow, EventPoolFull, EventPoolRoom,
		EventNetworkCreated, EventNetworkRemoved, EventEndpointJoined, EventEndpointLeft, EventLinkFailed, EventStrayRemoved, EventRepaired,
		EventHostForgotten, EventHostSilent, EventHostBack, EventStoreAway, EventStoreBack,
	}
}

// Event is something that happened to an address, a pool, a network or its parent, a container's link, or another host.
type Event struct {
	// Seq counts from 1 when the daemon starts.
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	What string    `json:"what"`
	// Request is what the lines of the log about the same request of Docker's have, too; "" for what no request led to.
	Request string `json:"request,omitempty"`
	// Wire, Network, Endpoint, Container and Lease say whose address it is; "" where that
	// is not known.
	Wire      string `json:"wire,omitempty"`
	Network   string `json:"network,omitempty"`
	Endpoint  string `json:"endpoint,omitempty"`
	Container string `json:"container,omitempty"`
	Lease     string `json:"lease,omitempty"`
	// Pool is the ID of the pool that it is about.
	Pool string `json:"pool,omitempty"`
	// Address is the one that it is about, and Server the server's.
	Address netip.Addr `json:"address,omitzero"`
	Server  netip.Addr `json:"server,omitzero"`
	// Text says more, in words.
	Text string `json:"text,omitempty"`
}

// keptEvents is how many events are remembered.
const keptEvents = 4096

// journal remembers the last events. It is guarded by Manager.mu.
type journal struct {
	last   uint64
	events []Event       // the last of them at last % keptEvents
	more   chan struct{} // closed when there is another
	counts map[string]uint64
}

// tell notes an event of a lease. The caller holds mu.
func (m *Manager) tell(ctx context.Context, l *lease, what, text string) {
	e := m.event(l, what, text)
	e.Request = request.ID(ctx)
	m.journal.add(e)
}

// event is one of a lease as it stands. The caller holds mu.
func (m *Manager) event(l *lease, what, text string) Event {
	return Event{
		What: what, Wire: link.WireText(l.space.key), Network: l.rec.Network, Endpoint: l.endpoint, Container: l.rec.Name, Lease: l.rec.ID,
		Address: l.rec.Lease.Addr.Addr(), Server: l.rec.Lease.Server, Text: text,
	}
}

// tellAddress notes an event of an address, and whose it is. The caller holds mu.
func (m *Manager) tellAddress(ctx context.Context, sp *space, what string, addr netip.Addr, text string) {
	e := Event{What: what, Request: request.ID(ctx), Wire: link.WireText(sp.key), Address: addr, Text: text}
	if u := sp.users[addr]; u != nil {
		e.Network, e.Endpoint = u.network, u.endpoint
	}
	m.journal.add(e)
}

// Tell notes an event; its Seq and Time are filled in, and its Request from ctx.
func (m *Manager) Tell(ctx context.Context, e Event) {
	e.Request = request.ID(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.journal.add(e)
}

func (j *journal) add(e Event) {
	j.last++
	e.Seq, e.Time = j.last, time.Now().UTC()
	if j.counts == nil {
		j.counts = map[string]uint64{}
	}
	j.counts[e.What]++
	if len(j.events) < keptEvents {
		j.events = append(j.events, e)
	} else {
		j.events[(j.last-1)%keptEvents] = e
	}
	if j.more != nil {
		close(j.more)
		j.more = nil
	}
}

// Events are the events after one, oldest first, as far as they are remembered; 0 is
// before all. With wait it blocks until there is one, or ctx ends.
func (m *Manager) Events(ctx context.Context, after uint64, wait bool) []Event {
	for {
		m.mu.Lock()
		j := &m.journal
		var list []Event
		for seq := max(after+1, j.last-min(j.last, uint64(len(j.events)))+1); seq <= j.last; seq++ {
			list = append(list, j.events[(seq-1)%keptEvents])
		}
		if len(list) > 0 || !wait {
			m.mu.Unlock()
			return list
		}
		if j.more == nil {
			j.more = make(chan struct{})
		}
		more := j.more
		m.mu.Unlock()
		select {
		case <-more:
		case <-ctx.Done():
			return nil
		}
	}
}

// EventCounts are how many events of each kind there were since the daemon started, those
// that are not remembered any more included.
func (m *Manager) EventCounts() map[string]uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	counts := make(map[string]uint64, len(m.journal.counts))
	for _, what := range EventKinds() {
		counts[what] = m.journal.counts[what]
	}
	return counts
}
