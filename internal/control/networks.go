package control

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/plan"
)

// maxDefinitions bounds what is read of a request that defines networks, in bytes.
const maxDefinitions = 8 << 20

// Definitions are the networks that all hosts are to have.
type Definitions struct {
	Networks []cluster.Definition `json:"networks"`
	// Reports are what hosts say of them, by network and host.
	Reports []HostReport `json:"reports"`
	// Hosts are those that there are.
	Hosts []cluster.Host `json:"hosts"`
}

// HostReport is what a host says of a definition.
type HostReport struct {
	Host string `json:"host"`
	// Alive is whether the host is known to be there; else it is what it said last.
	Alive bool `json:"alive"`
	plan.Report
}

// Define is a request that defines networks.
type Define struct {
	Networks []plan.Network `json:"networks"`
	// Prune removes those that it does not have; Dry only says what would be done; Create takes one that is not
	// defined yet.
	Prune  bool `json:"prune,omitempty"`
	Dry    bool `json:"dry,omitempty"`
	Create bool `json:"create,omitempty"`
}

// Seen is what the other hosts show of a kind.
type Seen struct {
	// Self is the name of the host that was asked, "" where it shares nothing; its own is not among Items.
	Self string `json:"self"`
	// Problem says why etcd cannot be asked; then there are no Items.
	Problem string     `json:"problem,omitempty"`
	Items   []SeenItem `json:"items"`
}

// SeenItem is something that a host shows: a network, an endpoint or a lease, as its own daemon
// and Docker say it.
type SeenItem struct {
	Host  string          `json:"host"`
	Alive bool            `json:"alive"`
	Value json.RawMessage `json:"value"`
}

// networkRoutes are the routes of networks that all hosts are to have, and of what hosts show each other.
func networkRoutes(src Source, handle func(string, func(*http.Request) (any, error))) {
	handle("GET /v1/definitions", shared(src, func(r *http.Request) (any, error) { return definitions(r.Context(), src.Cluster) }))
	handle("POST /v1/definitions", shared(src, func(r *http.Request) (any, error) {
		var d Define
		dec := json.NewDecoder(http.MaxBytesReader(nil, r.Body, maxDefinitions))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&d); err != nil {
			return nil, lan.Refusef(lan.ErrInvalid, "body: %v", err)
		}
		seen := map[string]bool{}
		for i := range d.Networks {
			if err := d.Networks[i].Check(); err != nil {
				return nil, err
			}
			if seen[d.Networks[i].Name] {
				return nil, lan.Refusef(lan.ErrInvalid, "network %s is there twice", d.Networks[i].Name)
			}
			seen[d.Networks[i].Name] = true
		}
		// Once begun it goes to its end, whoever hangs up.
		ctx := context.WithoutCancel(r.Context())
		if !d.Create {
			steps, err := src.Cluster.Define(ctx, d.Networks, d.Prune, d.Dry)
			return orEmpty(steps), err
		}
		if len(d.Networks) != 1 || d.Prune || d.Dry {
			return nil, lan.Refusef(lan.ErrInvalid, "create is for one network, and neither for prune nor for dry")
		}
		return []plan.Step{{Network: d.Networks[0].Name, Action: plan.Create}}, src.Cluster.Create(ctx, d.Networks[0])
	}))
	handle("DELETE /v1/definitions/{name}", shared(src, func(r *http.Request) (any, error) {
		return struct{}{}, src.Cluster.Undefine(context.WithoutCancel(r.Context()), r.PathValue("name"))
	}))
	handle("GET /v1/seen/{kind}", func(r *http.Request) (any, error) {
		if src.Cluster == nil {
			return Seen{Items: []SeenItem{}}, nil
		}
		self := src.Cluster.Self()
		s := Seen{Self: src.Cluster.HostName(self), Items: []SeenItem{}}
		list, err := src.Cluster.See(r.Context(), cluster.Kind(r.PathValue("kind")))
		if err != nil {
			if lan.Reason(err) != lan.ErrUnavailable {
				return nil, err
			}
			s.Problem = err.Error()
			return s, nil
		}
		for _, i := range list {
			if i.Host != self {
				s.Items = append(s.Items, SeenItem{i.Name, i.Alive, i.Value})
			}
		}
		return s, nil
	})
}

// definitions are all definitions, and what hosts say of them.
func definitions(ctx context.Context, c *cluster.Cluster) (*Definitions, error) {
	shown, err := c.See(ctx, cluster.SeenReports)
	if err != nil {
		return nil, err
	}
	all, err := c.Definitions(ctx)
	if err != nil {
		return nil, err
	}
	d := &Definitions{Networks: orEmpty(all), Reports: make([]HostReport, 0, len(shown)), Hosts: c.Known()}
	for _, s := range shown {
		r := HostReport{Host: s.Name, Alive: s.Alive}
		if err := json.Unmarshal(s.Value, &r.Report); err != nil {
			return nil, fmt.Errorf("report of host %s: %w", s.Name, err)
		}
		d.Reports = append(d.Reports, r)
	}
	slices.SortFunc(d.Reports, func(a, b HostReport) int {
		return cmp.Or(strings.Compare(a.Network, b.Network), strings.Compare(a.Host, b.Host))
	})
	return d, nil
}

// Definitions are the networks that all hosts are to have, and what the hosts say of them.
func (c *Client) Definitions(ctx context.Context) (d Definitions, err error) {
	return d, c.get(ctx, "definitions", &d)
}

// Define defines networks, and returns what that changes.
func (c *Client) Define(ctx context.Context, d Define) (steps []plan.Step, err error) {
	b, err := json.Marshal(d)
	if err != nil {
		return nil, err
	}
	return steps, c.do(ctx, http.MethodPost, "definitions", bytes.NewReader(b), &steps)
}

// Undefine removes a definition. Hosts remove the network once no container is on it.
func (c *Client) Undefine(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, "definitions/"+url.PathEscape(name), nil, new(struct{}))
}

// Seen is what the other hosts show of a kind.
func (c *Client) Seen(ctx context.Context, kind cluster.Kind) (s Seen, err error) {
	return s, c.get(ctx, "seen/"+string(kind), &s)
}
