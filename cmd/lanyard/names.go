package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// Docker knows what the daemon does not: the names. Only the command line asks
// for them, and it does without where Docker does not answer. The daemon's tasks that ask Docker (latecomers, repairer,
// maker, shower) are no part of serving it.

const (
	// patience is how long Docker may take to name things.
	patience = 2 * time.Second
	// daemonPatience is how long it may take to answer the daemon, which nobody waits for: a
	// container's own answer waits for what Docker does with it now.
	daemonPatience = 10 * time.Second
)

// engineAPI is a Docker engine's HTTP API.
type engineAPI struct {
	http     http.Client
	base     string
	patience time.Duration
	where    string // as DOCKER_HOST has it
}

// errGone is Docker's answer for what it has no more.
var errGone = errors.New("docker has it no more")

// dockerAPI is the engine that DOCKER_HOST names, or the local one, whose answers to get are
// waited for with that patience. All calls fail for hosts that only the docker command
// reaches (ssh, TLS).
func dockerAPI(patience time.Duration) *engineAPI {
	host := os.Getenv("DOCKER_HOST")
	if host == "" {
		host = "unix:///var/run/docker.sock"
	}
	scheme, addr, _ := strings.Cut(host, "://")
	switch {
	case scheme == "unix":
		dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", addr)
		}
		return &engineAPI{http.Client{Transport: &http.Transport{DialContext: dial}}, "http://docker", patience, host}
	case (scheme == "tcp" || scheme == "http") && os.Getenv("DOCKER_TLS_VERIFY") == "":
		return &engineAPI{http.Client{}, "http://" + strings.TrimSuffix(addr, "/"), patience, host}
	}
	return &engineAPI{where: host}
}

// send asks the engine for something; the caller closes the answer's body.
func (a *engineAPI) send(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	if a.base == "" {
		return nil, fmt.Errorf("docker host %s: only the docker command reaches it", a.where)
	}
	r, err := http.NewRequestWithContext(ctx, method, a.base+path, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	return a.http.Do(r)
}

func (a *engineAPI) get(ctx context.Context, path string, into any) error {
	ctx, cancel := context.WithTimeout(ctx, a.patience)
	defer cancel()
	w, err := a.send(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	defer w.Body.Close()
	if w.StatusCode == http.StatusNotFound {
		return errGone
	}
	if w.StatusCode != http.StatusOK {
		return fmt.Errorf("docker answered %s", w.Status)
	}
	return json.NewDecoder(io.LimitReader(w.Body, 256<<20)).Decode(into)
}

// change asks the engine for a change, with a body as JSON where it is not nil, and reads the answer into into where that is
// not nil. An error has the engine's words.
func (a *engineAPI) change(ctx context.Context, method, path string, body, into any) error {
	var sent io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		sent = bytes.NewReader(b)
	}
	w, err := a.send(ctx, method, path, sent)
	if err != nil {
		return err
	}
	defer w.Body.Close()
	answer := io.LimitReader(w.Body, 1<<20)
	switch {
	case w.StatusCode == http.StatusNotFound:
		return errGone
	case w.StatusCode < http.StatusBadRequest: // 304 is what is so already
		if into == nil {
			return nil
		}
		return json.NewDecoder(answer).Decode(into)
	}
	var said struct{ Message string }
	if err := json.NewDecoder(answer).Decode(&said); err != nil || said.Message == "" {
		said.Message = w.Status
	}
	return fmt.Errorf("docker: %s", said.Message)
}

// dockerNetwork is a network as Docker lists it.
type dockerNetwork struct{ ID, Name, Driver string }

// dockerNetworks are all networks of the engine.
func dockerNetworks(ctx context.Context) ([]dockerNetwork, error) {
	var list []dockerNetwork
	err := dockerAPI(patience).get(ctx, "/networks", &list)
	return list, err
}

// networkNames maps the ids of networks to their names; it is empty if the engine
// does not answer.
func networkNames(ctx context.Context) map[string]string {
	return dockerAPI(patience).networkNames(ctx)
}

func (a *engineAPI) networkNames(ctx context.Context) map[string]string {
	var list []dockerNetwork
	if err := a.get(ctx, "/networks", &list); err != nil {
		return nil
	}
	return namesOf(list)
}

func namesOf(list []dockerNetwork) map[string]string {
	names := map[string]string{}
	for _, n := range list {
		names[n.ID] = n.Name
	}
	return names
}

// containerNames maps the ids of endpoints to the names of their containers.
func containerNames(ctx context.Context) map[string]string {
	return dockerAPI(patience).containerNames(ctx)
}

func (a *engineAPI) containerNames(ctx context.Context) map[string]string {
	var list []struct {
		Names           []string
		NetworkSettings struct {
			Networks map[string]*struct{ EndpointID string }
		}
	}
	names := map[string]string{}
	if err := a.get(ctx, "/containers/json", &list); err != nil {
		return names
	}
	for _, c := range list {
		for _, n := range c.NetworkSettings.Networks {
			if n != nil && n.EndpointID != "" && len(c.Names) > 0 {
				names[n.EndpointID] = strings.TrimPrefix(c.Names[0], "/")
			}
		}
	}
	return names
}

// nameBook knows the names that Docker gives. It asks for all of a kind when one is wanted:
// once or, where again is set, for each that is new to it.
type nameBook struct {
	networks, containers map[string]string
	again                bool
}

// network is a network's name, "" where Docker does not say it.
func (b *nameBook) network(ctx context.Context, id string) string {
	return b.look(ctx, &b.networks, id, networkNames)
}

// container is the name of the container with an endpoint: what the daemon knows, or else
// what Docker says.
func (b *nameBook) container(ctx context.Context, known, endpoint string) string {
	if known != "" {
		return known
	}
	return b.look(ctx, &b.containers, endpoint, containerNames)
}

func (b *nameBook) look(ctx context.Context, names *map[string]string, id string, ask func(context.Context) map[string]string) string {
	if _, ok := (*names)[id]; id == "" || ok || *names != nil && !b.again {
		return (*names)[id]
	}
	if *names == nil {
		*names = map[string]string{}
	}
	(*names)[id] = "" // is not asked for twice
	maps.Copy(*names, ask(ctx))
	return (*names)[id]
}
