package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/link"
	"github.com/lanyard-net/lanyard/internal/plan"
)

const (
	// compareEach is how often what Docker has is compared with what is defined, where anything is; else it is seldom.
	compareEach = 5 * time.Second
	seldom      = 12
	// makePatience is how long Docker may take to make or to remove a network.
	makePatience = time.Minute
)

// maker has this host's Docker have the networks that are defined for all hosts: it makes those that are missing, makes those anew
// that differ and that no container is on, and removes those that it made and that are defined no more. It says
// what became of each.
//
// Docker asks lanyard for each of them, so it is no part of serving Docker.
type maker struct {
	api     *engineAPI
	driver  string // the name under which Docker knows us, without a managed plugin's registry and tag
	cluster *cluster.Cluster
	links   *link.Links
	log     *slog.Logger
	// told rings when a report has changed.
	told chan struct{}

	mu      sync.Mutex
	reports map[string]plan.Report
}

func (m *maker) Run(ctx context.Context) error {
	if m.cluster == nil {
		return nil
	}
	tick := time.NewTicker(compareEach)
	defer tick.Stop()
	for ticks := 0; ; {
		select {
		case <-ctx.Done():
			return nil
		case <-m.cluster.Redefined():
		case <-tick.C:
			if ticks++; ticks%seldom != 0 && len(m.Reports()) == 0 {
				continue
			}
		}
		m.look(ctx)
	}
}

// Reports say what became of each definition on this host.
func (m *maker) Reports() []plan.Report {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.SortedFunc(maps.Values(m.reports), func(a, b plan.Report) int { return strings.Compare(a.Network, b.Network) })
}

func (m *maker) look(ctx context.Context) {
	defined, rev := m.cluster.Networks()
	mark := m.cluster.Mark()
	if rev == 0 || mark == "" {
		return // not known yet, which is not the same as none
	}
	maps.DeleteFunc(defined, func(_ string, d cluster.Definition) bool { return !d.For(m.cluster.Name()) })
	reports := map[string]plan.Report{}
	var there []plan.Request
	err := m.api.get(ctx, "/networks", &there)
	driver := m.driver
	if err == nil && len(defined) > 0 {
		driver, err = m.name(ctx)
	}
	if ctx.Err() != nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(defined)) {
		d := defined[name]
		if err != nil {
			reports[name] = plan.Report{Network: name, Revision: d.Revision, State: plan.Waiting, Problem: "Docker does not say which networks it has: " + err.Error()}
			continue
		}
		reports[name] = m.make(ctx, &d, there, driver, mark)
	}
	for i := range there {
		n := &there[i]
		if _, ok := defined[n.Name]; ok || n.Labels[plan.Label] != mark {
			continue
		}
		r := plan.Report{Network: n.Name, NetworkID: n.ID, State: plan.Removing}
		if m.remove(ctx, n, &r) {
			m.log.Info("network removed, which is defined no more", "network", n.Name)
			continue
		}
		reports[n.Name] = r
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	changed := len(reports) != len(m.reports)
	for name, r := range reports {
		if old, ok := m.reports[name]; ok && reflect.DeepEqual(old, r) {
			continue
		}
		changed = true
		if r.State != plan.Ready {
			m.log.Warn("network is not as it is defined", "network", name, "state", r.State, "why", r.Problem, "differences", strings.Join(r.Differences, "; "), "containers", strings.Join(r.Containers, " "))
		}
	}
	m.reports = reports
	if changed {
		select {
		case m.told <- struct{}{}:
		default: // it is told already
		}
	}
}

// make makes a definition real, and says what became of it.
func (m *maker) make(ctx context.Context, d *cluster.Definition, there []plan.Request, driver, mark string) plan.Report {
	r := plan.Report{Network: d.Name, Revision: d.Revision, State: plan.Ready}
	parents, why := m.parents(&d.Network)
	if len(parents) > 0 {
		r.Parent = parents[0]
	}
	if is := find(there, d.Name, mark); is != nil {
		r.NetworkID = is.ID
		has := is.Options[lan.OptParent]
		if slices.Contains(parents, has) || why != nil {
			r.Parent = has // one that still fits is kept, and so is one while it cannot be said which fits
		}
		r.Differences = d.On(r.Parent).Differences(d.Made(is, driver))
		switch {
		case len(r.Differences) == 0 && why == nil:
			return r
		case len(r.Differences) == 0:
			r.State, r.Problem = plan.Waiting, why.Error()
			return r
		case is.Labels[plan.Label] != mark:
			r.State, r.Problem = plan.Foreign, "a network of this name is there that was not made from the definition; try: docker network rm "+d.Name
			return r
		case why != nil:
			r.State, r.Problem = plan.Outdated, why.Error()
			return r
		}
		r.State = plan.Outdated
		if !m.remove(ctx, is, &r) {
			return r
		}
		m.log.Info("network removed, to be made as it is defined now", "network", d.Name, "differences", strings.Join(r.Differences, "; "))
		r = plan.Report{Network: d.Name, Revision: d.Revision, State: plan.Ready, Parent: r.Parent}
	}
	if why != nil {
		r.State, r.Problem = plan.Waiting, why.Error()
		return r
	}
	id, err := m.create(ctx, d.Request(driver, r.Parent, mark))
	if err != nil {
		r.State, r.Problem = plan.Waiting, err.Error()
		return r
	}
	r.NetworkID = id
	m.log.Info("network made, as it is defined", "network", d.Name, "parent", r.Parent)
	return r
}

// name is the driver's name in Docker's requests: that of a managed plugin has a tag at least.
func (m *maker) name(ctx context.Context) (string, error) {
	var plugins []struct {
		Name    string
		Enabled bool
	}
	if err := m.api.get(ctx, "/plugins", &plugins); err != nil {
		return "", err
	}
	for _, p := range plugins {
		if p.Enabled && plan.IsDriver(p.Name, m.driver) {
			return p.Name, nil
		}
	}
	return m.driver, nil
}

// find is the network of that name, the one that was made from a definition where there are two.
func find(there []plan.Request, name, mark string) (found *plan.Request) {
	for i := range there {
		if n := &there[i]; n.Name == name && (found == nil || n.Labels[plan.Label] == mark) {
			found = n
		}
	}
	return found
}

// parents are the links of this host that the rules of a network mean, the first rule's first, none where it is to have
// none; or why there is none.
func (m *maker) parents(n *plan.Network) (names []string, err error) {
	if len(n.Parent) == 0 {
		return nil, nil
	}
	rules := n.RulesFor(m.cluster.Name())
	if len(rules) == 0 {
		return nil, lan.Refusef(lan.ErrUnavailable, "no rule of parent is for this host")
	}
	for _, r := range rules {
		name, failed := m.parent(n, r)
		if failed != nil {
			err = errors.Join(err, failed)
			continue
		}
		names = append(names, name)
	}
	if len(names) > 0 {
		return names, nil
	}
	return nil, errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
}

// parent is the link that a rule means, if the network can be on it.
func (m *maker) parent(n *plan.Network, r plan.Rule) (name string, err error) {
	switch {
	case r.MAC != "":
		mac, parsed := lan.ParseMAC(r.MAC)
		if parsed != nil {
			return "", parsed
		}
		name, err = m.links.ByMAC(mac)
	case r.PCI != "":
		name, err = m.links.ByDevice(r.PCI)
	case r.Route != "":
		to, parsed := netip.ParseAddr(r.Route)
		if parsed != nil {
			return "", fmt.Errorf("route=%s: %w", r.Route, parsed)
		}
		name, err = m.links.ByRoute(to)
	default:
		name = r.Name
	}
	if err != nil {
		return "", err
	}
	opts := maps.Clone(n.DriverOpts)
	if opts == nil {
		opts = map[string]string{}
	}
	opts[lan.OptParent] = name
	is, err := lan.ParseOptions(opts, n.Internal)
	if err != nil {
		return "", err
	}
	_, err = m.links.Look(is.Parent, is.Kind)
	return name, err
}

// containersOn are the names of the containers that are on a network, or are to be on it when they start: those would not find it if
// it were made anew.
func (m *maker) containersOn(ctx context.Context, id string) (names []string, err error) {
	var list []struct {
		ID    string
		Names []string
	}
	if err := m.api.get(ctx, "/containers/json?all=1&filters="+url.QueryEscape(fmt.Sprintf(`{"network":[%q]}`, id)), &list); err != nil {
		return nil, err
	}
	for _, c := range list {
		names = append(names, strings.TrimPrefix(cmp.Or(strings.Join(c.Names[:min(1, len(c.Names))], ""), lan.Short(c.ID)), "/"))
	}
	slices.Sort(names)
	return names, nil
}

// remove removes a network that no container is on, or says in the report why not.
func (m *maker) remove(ctx context.Context, n *plan.Request, r *plan.Report) bool {
	var err error
	if r.Containers, err = m.containersOn(ctx, n.ID); err != nil {
		r.Problem = "Docker does not say which containers are on it: " + err.Error()
		return false
	}
	if len(r.Containers) > 0 {
		r.Problem = "containers are on it, or are to be when they start; it goes once they are removed or disconnected"
		return false
	}
	if err := m.call(ctx, http.MethodDelete, "/networks/"+n.ID, nil, nil); err != nil && !errors.Is(err, errGone) {
		r.Problem = err.Error()
		return false
	}
	return true
}

func (m *maker) create(ctx context.Context, r *plan.Request) (id string, err error) {
	var made struct{ ID string }
	return made.ID, m.call(ctx, http.MethodPost, "/networks/create", r, &made)
}

// call asks Docker for a change.
func (m *maker) call(ctx context.Context, method, path string, body, into any) error {
	ctx, cancel := context.WithTimeout(ctx, makePatience)
	defer cancel()
	return m.api.change(ctx, method, path, body, into)
}
