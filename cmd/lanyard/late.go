package main

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/dhcp"
	"github.com/lanyard-net/lanyard/internal/docker"
	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/link"
)

const (
	// lookFirst and lookMost are how often a DHCP server or a parent is looked for that
	// containers wait for.
	lookFirst = 2 * time.Second
	lookMost  = 15 * time.Second
	// startsAtOnce is how many containers are started at the same time.
	startsAtOnce = 16
	// startPatience is how long Docker may take to start one.
	startPatience = time.Minute
	// Docker goes on for some time with what lanyard's end cut off, so who was given up for
	// that is looked for each lookBehind until lookBehindFor after our start.
	lookBehind    = 10 * time.Second
	lookBehindFor = 2 * time.Minute
)

// latecomers starts containers whose restart policy wants them to run and that Docker
// gave up since no DHCP server answered, or since the parent was not there: a host that
// boots before the site's server, or whose interface comes late; or since lanyard was killed
// while it was asked. Docker tries once when it starts, and not again.
//
// It is no part of serving Docker, which may be waiting for us.
type latecomers struct {
	api    *engineAPI
	answer func(ctx context.Context, networkID string) bool
	log    *slog.Logger
	silent chan string // network IDs
	socket string      // the plugin socket's name, which Docker says when nobody answers on it
}

// reasons are what Docker says of a container that was given up for what lanyard waits for.
var reasons = []string{dhcp.NoLease, engine.NoParent, engine.NoNetwork, link.MACBusy, link.NotFetched, docker.EmptyBody, cluster.NoNewAddress}

// tell notes that a container did not start on a network. It never blocks.
func (l *latecomers) tell(networkID string) {
	select {
	case l.silent <- networkID:
	default: // many are told already, and all that wait are found
	}
}

func (l *latecomers) Run(ctx context.Context) error {
	networks := map[string]bool{}
	// behind takes those in that Docker gave up while no lanyard ran.
	behind := func() {
		all, _ := l.waiting(ctx) // Docker may not run yet
		for _, c := range all {
			for _, id := range c.networks {
				networks[id] = true
			}
		}
	}
	behind()
	start := time.Now()
	again := time.NewTicker(lookBehind)
	defer again.Stop()
	pause := lookFirst
	for {
		var tick <-chan time.Time
		if len(networks) > 0 {
			tick = time.After(pause)
		}
		select {
		case <-ctx.Done():
			return nil
		case id := <-l.silent:
			if !networks[id] {
				networks[id], pause = true, lookFirst
			}
			continue
		case <-again.C:
			if behind(); time.Since(start) > lookBehindFor {
				again.Stop()
			}
			continue
		case <-tick:
		}
		pause = min(2*pause, lookMost)
		l.look(ctx, networks)
	}
}

// look starts the containers of the networks on which servers answer, and leaves those
// networks in the set that containers wait for.
func (l *latecomers) look(ctx context.Context, networks map[string]bool) {
	waiting, err := l.waiting(ctx)
	if err != nil {
		l.log.Debug("Docker does not say which containers wait for a DHCP server or a parent", "err", err)
		return
	}
	answers := map[string]bool{}
	for id := range networks {
		if !slices.ContainsFunc(waiting, func(w waiter) bool { return slices.Contains(w.networks, id) }) {
			delete(networks, id)
			continue
		}
		answers[id] = l.answer(ctx, id)
	}
	var starts errgroup.Group
	starts.SetLimit(startsAtOnce)
	for _, c := range waiting {
		asked := slices.DeleteFunc(slices.Clone(c.networks), func(id string) bool { _, ok := answers[id]; return !ok })
		if len(asked) == 0 || slices.ContainsFunc(asked, func(id string) bool { return !answers[id] }) {
			continue
		}
		starts.Go(func() error {
			if err := l.start(ctx, c.id); err != nil {
				l.log.Warn("container not started, though what it waited for is there now", "container", c.name, "err", err)
				return nil
			}
			l.log.Info("started: container whose restart policy wants it to run, which had found no DHCP server, no parent or no lanyard", "container", c.name)
			return nil
		})
	}
	_ = starts.Wait() // what fails is logged
}

// waiter is a container that waits for a DHCP server or a parent.
type waiter struct {
	id, name string
	networks []string // all that it is to be on
}

// givenUp reports whether Docker says of a container that it was given up for what lanyard
// waits for.
func (l *latecomers) givenUp(why string) bool {
	return slices.ContainsFunc(append(reasons, l.socket), func(r string) bool { return strings.Contains(why, r) })
}

// waiting are the containers that ran before, are to be restarted, and could not be for
// want of a DHCP server, a parent or lanyard.
func (l *latecomers) waiting(ctx context.Context) ([]waiter, error) {
	var list []struct{ ID string }
	if err := l.api.get(ctx, "/containers/json?all=1&filters="+url.QueryEscape(`{"status":["exited"]}`), &list); err != nil {
		return nil, err
	}
	var waiting []waiter
	for _, c := range list {
		var is struct {
			ID, Name string
			State    struct {
				Error     string
				StartedAt time.Time
			}
			HostConfig      struct{ RestartPolicy struct{ Name string } }
			NetworkSettings struct {
				Networks map[string]*struct{ NetworkID string }
			}
		}
		if err := l.api.get(ctx, "/containers/"+c.ID+"/json", &is); err != nil {
			continue // it has just gone
		}
		if p := is.HostConfig.RestartPolicy.Name; p == "" || p == "no" || is.State.StartedAt.IsZero() || !l.givenUp(is.State.Error) {
			continue
		}
		w := waiter{id: is.ID, name: strings.TrimPrefix(is.Name, "/")}
		for _, n := range is.NetworkSettings.Networks {
			if n != nil {
				w.networks = append(w.networks, n.NetworkID)
			}
		}
		waiting = append(waiting, w)
	}
	return waiting, nil
}

func (l *latecomers) start(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	return l.api.change(ctx, http.MethodPost, "/containers/"+id+"/start", nil, nil)
}
