package engine

import (
	"context"
	"slices"
	"strings"

	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
)

// Traffic reads the counters of all endpoints' links, each in its container, by the endpoints' IDs. It
// blocks for as long as that takes, some tenths of a millisecond for each. A container that
// goes meanwhile is left out.
func (e *Engine) Traffic(ctx context.Context) ([]EndpointTraffic, error) {
	var all []lan.Endpoint
	e.mu.Lock()
	for _, ep := range e.endpoints {
		if ep.rec.Sandbox != "" && !ep.left {
			all = append(all, ep.rec)
		}
	}
	e.mu.Unlock()
	list := make([]EndpointTraffic, 0, len(all))
	for i := range all {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		t, found, err := trafficOf(&all[i])
		if err != nil {
			e.log.Debug("container not looked into", "endpoint", all[i].ID, "err", err)
		}
		if found {
			list = append(list, EndpointTraffic{all[i].ID, t})
		}
	}
	slices.SortFunc(list, func(a, b EndpointTraffic) int { return strings.Compare(a.Endpoint, b.Endpoint) })
	return list, nil
}

func trafficOf(ep *lan.Endpoint) (link.Traffic, bool, error) {
	c, err := link.OpenContainer(ep.Sandbox)
	if err != nil {
		return link.Traffic{}, false, err
	}
	defer c.Close()
	return c.Traffic(ep)
}
