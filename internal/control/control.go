// Package control is the operator's door: what the daemon holds, as JSON over
// HTTP on a unix socket. Handler and Client stand side by side and share their
// types.
//
//	GET /v1/version
//	GET /v1/networks
//	GET /v1/networks/{id or unique prefix}
//	DELETE /v1/networks/{id}, for one that Docker has no more
//	GET /v1/endpoints?network={id or unique prefix}
//	GET /v1/pools
//	GET /v1/addresses?pool={id}&network={id or unique prefix}, either or both
//	POST /v1/addresses/reserve {"pool", "address", "name", "note"}, to set one aside
//	POST /v1/addresses/release {"pool", "address"}, to make one free
//	GET /v1/leases?network={id or unique prefix}
//	GET /v1/leases/{id}
//	POST /v1/leases/{id}/renew, to ask the server for more time now
//	POST /v1/leases/{id}/release, to give one back that no container has
//	GET /v1/events?after={seq}&follow={true or false}
//	GET /v1/hosts, those that share addresses with this one
//	POST /v1/hosts/{name or id}/drain?undo={true or false}, to have one give out no new addresses
//	POST /v1/hosts/{name or id}/forget?force={true or false}, for one that is gone for good
//	GET /v1/definitions, of networks that all hosts are to have, and what the hosts say of them
//	POST /v1/definitions {"networks", "prune", "dry", "create"}, to define networks; answers with the steps
//	DELETE /v1/definitions/{name}
//	GET /v1/seen/{networks, endpoints, leases or reports}, what the other hosts show
//	GET /v1/map, networks and endpoints of all hosts on their parents and VLANs, with names
//	GET /v1/traffic, what the links of this host's endpoints have carried
//	POST /v1/repair?dry_run={true or false}
//	GET /metrics, figures in Prometheus's text format
//
// The id of a pool has slashes in it and the like, so it comes as a query or in
// a body and in no path. A body is one JSON object (see Reservation); a field
// that is not known is refused. Both POST of addresses answer with a Change, and both
// of leases with the lease, which is renewed, or as it was before it was given back.
//
// Events are those after the one with the given seq, as far as they are remembered,
// in a list. With follow=true the answer is a line of JSON for each
// (application/x-ndjson), and those that come are added until the client hangs up or
// the daemon stops.
//
// An error is {"error": text, "code": code}, where the code is one of the
// constants below. Fields are added with time; none is renamed or removed.
package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lanyard-net/lanyard/internal/cluster"
	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// The codes of errors.
const (
	CodeInvalid     = "invalid"
	CodeNotFound    = "not_found"
	CodeConflict    = "conflict"
	CodeUnavailable = "unavailable" // the machine, or the LAN, lacks what is needed now
	CodeInternal    = "internal"
)

// Version says which lanyard answers.
type Version struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go"`
}

// Source is what the handler serves; all fields from NetworkNames on may be nil. The functions
// are those of *engine.Engine, and from Pools on those of *ipam.Manager.
type Source struct {
	Version       Version
	Networks      func() []engine.NetworkState
	Endpoints     func() []engine.EndpointState
	ForgetNetwork func(ctx context.Context, id string) error
	Pools         func() []ipam.PoolState
	Addresses     func() ([]ipam.AddressState, error)
	Reserve       func(pool string, addr netip.Addr, name, note string) error
	Release       func(pool string, addr netip.Addr) error
	Leases        func() []ipam.LeaseState
	Lease         func(id string) (ipam.LeaseState, error)
	RenewLease    func(ctx context.Context, id string) (ipam.LeaseState, error)
	ReleaseLease  func(ctx context.Context, id string) (ipam.LeaseState, error)
	Events        func(ctx context.Context, after uint64, wait bool) []ipam.Event
	EventCounts   func() map[string]uint64
	Repair        func(ctx context.Context, dry bool) Repair
	Traffic       func(ctx context.Context) ([]engine.EndpointTraffic, error)
	// Names says what Docker calls networks and the containers of endpoints, by ID; what it does
	// not say is left out. It may wait for Docker for some seconds.
	Names func(ctx context.Context, networks []engine.NetworkState, endpoints []engine.EndpointState) map[string]string
	// NetworkNames are Docker's names of networks by ID, as far as it says them soon; nil: none are known.
	NetworkNames func(ids []string) map[string]string
	// Collectors have figures of their own for /metrics.
	Collectors []prometheus.Collector
	// Cluster is nil where addresses are not shared.
	Cluster *cluster.Cluster
	// Stopping is closed when the daemon is to stop: answers that wait for something
	// then end. nil means never.
	Stopping <-chan struct{}
}

// wireError is an error on the wire.
type wireError struct {
	Error string `json:"error"`
	Code  string `json:"code"`
}

const keyErr = "err"

// NewHandler serves src.
func NewHandler(src Source, log *slog.Logger) http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(*http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			answer, err := guarded(f, r, log)
			reply(w, log, answer, err)
		})
	}
	handle("GET /v1/version", func(*http.Request) (any, error) { return src.Version, nil })
	handle("GET /v1/networks", func(*http.Request) (any, error) { return orEmpty(src.Networks()), nil })
	handle("GET /v1/networks/{id}", func(r *http.Request) (any, error) { return find(src.Networks(), r.PathValue("id")) })
	handle("DELETE /v1/networks/{id}", func(r *http.Request) (any, error) {
		// Once begun it goes to its end, whoever hangs up.
		return struct{}{}, src.ForgetNetwork(context.WithoutCancel(r.Context()), r.PathValue("id"))
	})
	handle("GET /v1/endpoints", func(r *http.Request) (any, error) {
		all := orEmpty(src.Endpoints())
		if !r.URL.Query().Has("network") {
			return all, nil
		}
		n, err := find(src.Networks(), r.URL.Query().Get("network"))
		if err != nil {
			return nil, err
		}
		some := []engine.EndpointState{}
		for _, e := range all {
			if e.NetworkID == n.ID {
				some = append(some, e)
			}
		}
		return some, nil
	})
	addressRoutes(src, handle)
	leaseRoutes(src, handle)
	repairRoute(src, handle)
	hostRoutes(src, handle)
	networkRoutes(src, handle)
	mapRoutes(src, handle)
	mux.HandleFunc("GET /v1/events", serveEvents(src, log))
	mux.Handle("GET /metrics", newMetrics(src, log))
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		reply(w, log, nil, lan.Refusef(lan.ErrNotFound, "%s %s is not part of this API", clip(r.Method), clip(r.URL.Path)))
	})
	return mux
}

// orEmpty makes an empty list print as [] and not as null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// guarded turns a panic into an error, so that a fault in a listing leaves the
// daemon standing.
func guarded(f func(*http.Request) (any, error), r *http.Request, log *slog.Logger) (answer any, err error) {
	defer func() {
		if v := recover(); v != nil {
			log.Error("panic", keyErr, v, "stack", string(debug.Stack()))
			answer, err = nil, errors.New("internal error; the log of lanyard has the details")
		}
	}()
	return f(r)
}

// find is the network with the given id or unique prefix of one.
func find(all []engine.NetworkState, id string) (*engine.NetworkState, error) {
	if id == "" {
		return nil, lan.Refusef(lan.ErrInvalid, "network id is missing")
	}
	var found []*engine.NetworkState
	for i := range all {
		if all[i].ID == id {
			return &all[i], nil
		}
		if strings.HasPrefix(all[i].ID, id) {
			found = append(found, &all[i])
		}
	}
	switch len(found) {
	case 0:
		return nil, lan.Refusef(lan.ErrNotFound, "network %q is not known; try: lanyard network ls", clip(id))
	case 1:
		return found[0], nil
	}
	return nil, lan.Refusef(lan.ErrConflict, "network %q is the beginning of %d ids, among them %s and %s; give more of it",
		id, len(found), lan.Short(found[0].ID), lan.Short(found[1].ID))
}

// clip keeps a foreign word short enough to be shown.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}

// statuses are the HTTP status and the code of each reason.
var statuses = []struct {
	reason error
	status int
	code   string
}{
	{lan.ErrInvalid, http.StatusBadRequest, CodeInvalid},
	{lan.ErrNotFound, http.StatusNotFound, CodeNotFound},
	{lan.ErrConflict, http.StatusConflict, CodeConflict},
	{lan.ErrUnavailable, http.StatusServiceUnavailable, CodeUnavailable},
}

func reply(w http.ResponseWriter, log *slog.Logger, answer any, err error) {
	status := http.StatusOK
	if err != nil {
		code := CodeInternal
		status = http.StatusInternalServerError
		for _, s := range statuses {
			if errors.Is(err, s.reason) {
				status, code = s.status, s.code
			}
		}
		answer = wireError{Error: err.Error(), Code: code}
	}
	b, err := json.Marshal(answer)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":"internal error: the answer cannot be encoded","code":"internal"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if _, werr := fmt.Fprintf(w, "%s\n", b); werr != nil || err != nil {
		log.Debug("answer lost", keyErr, errors.Join(err, werr))
	}
}
