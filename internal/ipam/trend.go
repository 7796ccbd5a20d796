package ipam

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
)

const (
	// trendEvery is how often pools and other hosts are looked at for what nobody says.
	trendEvery = 5 * time.Second
	// A pool is nearly full with less than a tenth of it free, and has room again from a seventh
	// on, so that one container more or less is not told each time.
	lowPart, roomPart = 10, 7
)

// trends are what was seen of pools and other hosts last. They are Run's own.
type trends struct {
	looked time.Time
	pools  map[string]string // by ID: EventPoolLow or EventPoolFull; none: it has room
	hosts  map[string]bool   // by name: alive; nil before the first look
	away   bool              // etcd cannot be asked
}

// fill is how full a pool is, as events say it, from how full it was; "" is that it has room.
func fill(c Counts, was string) string {
	most := c.Size - min(c.Reserved, c.Size)
	switch {
	case c.Free == 0:
		return EventPoolFull
	case c.Free < most/lowPart, was != "" && c.Free < most/roomPart:
		return EventPoolLow
	}
	return ""
}

// watchTrends tells of pools that fill up and of hosts that fall silent.
func (m *Manager) watchTrends(ctx context.Context, t *trends) {
	if time.Since(t.looked) < trendEvery {
		return
	}
	t.looked = time.Now()
	hosts := m.hosts(true)
	now := map[string]string{}
	m.mu.Lock()
	for id, p := range m.pools {
		if p.rec.Source == lan.SourceDHCP || p.space.private() {
			continue
		}
		c, was := m.count(p, hosts), t.pools[id]
		is := fill(c, was)
		now[id] = is
		if is == was {
			continue
		}
		e := Event{What: is, Wire: link.WireText(p.space.key), Pool: id, Text: fmt.Sprintf("pool %s: %d of %d addresses are free", id, c.Free, c.Size)}
		if is == "" {
			e.What = EventPoolRoom
		}
		if len(p.rec.Networks) > 0 {
			e.Network = p.rec.Networks[0]
		}
		m.journal.add(e)
	}
	m.mu.Unlock()
	t.pools = now
	if m.cluster != nil {
		m.watchHosts(ctx, t)
	}
}

func (m *Manager) watchHosts(ctx context.Context, t *trends) {
	if _, down := m.cluster.Up(); (down != nil) != t.away {
		t.away = down != nil
		if t.away {
			m.Tell(ctx, Event{What: EventStoreAway, Text: down.Error()})
		} else {
			m.Tell(ctx, Event{What: EventStoreBack, Text: m.cluster.Where()})
		}
	}
	if t.away {
		return // what is known of hosts is old
	}
	alive := m.cluster.Alive()
	for _, name := range slices.Sorted(maps.Keys(alive)) {
		if was, known := t.hosts[name]; known && was != alive[name] {
			what := EventHostSilent
			if alive[name] {
				what = EventHostBack
			}
			m.Tell(ctx, Event{What: what, Text: name})
		}
	}
	t.hosts = alive
}
