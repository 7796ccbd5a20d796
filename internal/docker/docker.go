// Package docker is the door that Docker knocks at: the network and IPAM driver
// halves of its plugin protocol, as an http.Handler. It decodes a request, checks the
// shape of it, calls one verb of the engine and encodes the answer.
//
// How errors look to a user decides their shape. Whatever a verb or a value
// that the user typed gives rise to is answered with status 200 and
// {"Err": text} ("Error" from the IPAM half), which docker prints as "remote: text". Only a call that is no
// call of the protocol at all (an unknown method, a body that is not JSON) is
// answered with a 4xx status, and a bug of ours with 500; docker prints these
// as "NetworkDriver.Method: text". It retries neither.
package docker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/lan"
	"github.com/lanyard-net/lanyard/internal/request"
)

// Verbs are what the door calls; all are required. They are the methods of
// *engine.Engine and *ipam.Manager by the same names, whose contracts hold.
type Verbs struct {
	CreateNetwork  func(context.Context, lan.NetworkRequest) error
	SkipGateway    func(opts map[string]string, internal bool) (v4, v6 bool, err error)
	DeleteNetwork  func(ctx context.Context, id string) error
	AddEndpoint    func(context.Context, engine.EndpointRequest) (engine.EndpointGrant, error)
	DeleteEndpoint func(ctx context.Context, networkID, endpointID string) error
	EndpointInfo   func(ctx context.Context, networkID, endpointID string) error
	Join           func(ctx context.Context, networkID, endpointID, sandbox string) (*engine.Attachment, error)
	Leave          func(ctx context.Context, networkID, endpointID string) error

	EngineStarted func()

	RequestPool    func(context.Context, lan.PoolRequest) (lan.PoolGrant, error)
	ReleasePool    func(ctx context.Context, id string) error
	RequestAddress func(context.Context, lan.AddressRequest) (netip.Prefix, error)
	ReleaseAddress func(ctx context.Context, poolID string, addr netip.Addr) error
}

// VerbsOf are the verbs of an engine and of its address manager.
func VerbsOf(e *engine.Engine) Verbs {
	m := e.Addresses()
	return Verbs{
		CreateNetwork:  e.CreateNetwork,
		SkipGateway:    e.SkipGateway,
		DeleteNetwork:  e.DeleteNetwork,
		AddEndpoint:    e.AddEndpoint,
		DeleteEndpoint: e.DeleteEndpoint,
		EndpointInfo:   e.EndpointInfo,
		Join:           e.Join,
		Leave:          e.Leave,
		EngineStarted:  e.EngineStarted,

		RequestPool:    m.RequestPool,
		ReleasePool:    m.ReleasePool,
		RequestAddress: m.RequestAddress,
		ReleaseAddress: m.ReleaseAddress,
	}
}

// The keys of our log lines.
const (
	keyMethod   = "method"
	keyNetwork  = "network"
	keyEndpoint = "endpoint"
	keyPool     = "pool"
	keyAddress  = "address"
	keyTook     = "took"
	keyStatus   = "status"
	keyErr      = "err"
	keyStack    = "stack"
)

// maxBody is far above what Docker sends: the longest request seen has 1 kB,
// and a container with a thousand published ports makes about 100 kB.
const maxBody = 1 << 20

// mediaType is what Docker asks for; it does not look at the answer's.
const mediaType = "application/vnd.docker.plugins.v1.2+json"

// Handler serves Docker's plugin protocol. Make it with New.
type Handler struct {
	verbs   Verbs
	log     *slog.Logger
	methods map[string]method
	threads threads
	calls   *prometheus.HistogramVec
}

// What became of a call.
const (
	resultOK      = "ok"
	resultRefused = "refused"
	resultFailed  = "failed"
)

// Metrics are the figures of the calls that were answered.
func (h *Handler) Metrics() prometheus.Collector { return h.calls }

// method decodes the body of a call and carries it out. The ids are for the
// log, and as complete as the body was.
type method func(ctx context.Context, body []byte) (ids, any, error)

// New makes the handler. Requests may come at the same time, as Docker sends
// them; the verbs see to the order.
func New(v Verbs, log *slog.Logger) *Handler {
	h := &Handler{verbs: v, log: log, threads: threads{known: map[string][]*thread{}, addrs: map[string][]string{}}}
	h.calls = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "lanyard_docker_call_duration_seconds",
		Help:    "How long calls of Docker's took, by method of the plugin protocol and by result: ok, refused (with the reason told to the user) or failed.",
		Buckets: []float64{.001, .005, .025, .1, .5, 1, 2.5, 5, 10, 30, 60},
	}, []string{"method", "result"})
	h.methods = map[string]method{
		"Plugin.Activate":                           constant(activation{Implements: []string{"NetworkDriver", "IpamDriver"}}),
		"NetworkDriver.GetCapabilities":             h.getCapabilities,
		"NetworkDriver.GwAllocCheck":                call(h.gwAllocCheck),
		"NetworkDriver.AllocateNetwork":             call(h.allocateNetwork),
		"NetworkDriver.FreeNetwork":                 call(h.nothingOfNetwork),
		"NetworkDriver.CreateNetwork":               call(h.createNetwork),
		"NetworkDriver.DeleteNetwork":               call(h.deleteNetwork),
		"NetworkDriver.CreateEndpoint":              call(h.createEndpoint),
		"NetworkDriver.EndpointOperInfo":            call(h.endpointInfo),
		"NetworkDriver.DeleteEndpoint":              call(h.deleteEndpoint),
		"NetworkDriver.Join":                        call(h.join),
		"NetworkDriver.Leave":                       call(h.leave),
		"NetworkDriver.ProgramExternalConnectivity": call(h.nothingOfEndpoint),
		"NetworkDriver.RevokeExternalConnectivity":  call(h.nothingOfEndpoint),
		"NetworkDriver.DiscoverNew":                 call(h.discovered),
		"NetworkDriver.DiscoverDelete":              call(h.discovered),
		"IpamDriver.GetCapabilities":                constant(ipamCapabilities{}),
		"IpamDriver.GetDefaultAddressSpaces":        constant(addressSpaces{LocalDefaultAddressSpace: addressSpace, GlobalDefaultAddressSpace: addressSpace}),
		"IpamDriver.RequestPool":                    call(h.requestPool),
		"IpamDriver.ReleasePool":                    call(h.releasePool),
		"IpamDriver.RequestAddress":                 call(h.requestAddress),
		"IpamDriver.ReleaseAddress":                 call(h.releaseAddress),
	}
	return h
}

// call makes a method of a function of a decoded request.
func call[Q idsOf](f func(context.Context, Q) (any, error)) method {
	return func(ctx context.Context, body []byte) (ids, any, error) {
		var q Q
		if err := decode(body, &q); err != nil {
			return q.which(), nil, err
		}
		answer, err := f(ctx, q)
		return q.which(), answer, err
	}
}

// constant makes a method that has no request and always the same answer.
func constant(answer any) method {
	return func(context.Context, []byte) (ids, any, error) { return ids{}, answer, nil }
}

// malformed is the error of a call that Docker would not make.
type malformed struct {
	status int
	text   string
}

func (e *malformed) Error() string { return e.text }

func malformedf(status int, format string, args ...any) error {
	return &malformed{status, fmt.Sprintf(format, args...)}
}

// ServeHTTP answers one call. It always answers with a JSON object, a panic
// included.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	start := time.Now()
	name := strings.TrimPrefix(r.URL.Path, "/")
	body, err := h.read(w, r, name)
	var q about
	q.read(body)
	thread := h.threads.find(name, &q)
	// A verb that has begun runs to its end even when Docker hangs up: the
	// whole of it can be asked again, half of it would have to be undone.
	ctx := request.With(context.WithoutCancel(r.Context()), thread.id)
	log := h.log.With(keyMethod, clip(name))

	var who ids
	var answer any
	if err == nil {
		who, answer, err = h.run(ctx, name, body, log)
	}
	status, result := http.StatusOK, resultOK
	if err != nil {
		text := err.Error()
		result = resultFailed
		switch bad, gone := (*malformed)(nil), (*crash)(nil); {
		case errors.As(err, &bad):
			status, result = bad.status, resultRefused
		case errors.As(err, &gone):
			status = http.StatusInternalServerError
			text = fmt.Sprintf("internal error; the log of lanyard has the details (request=%s)", thread.id)
		case lan.Reason(err) != nil:
			result = resultRefused
		}
		answer = failure{Err: text}
		if strings.HasPrefix(name, "IpamDriver.") {
			answer = failure{Err: text, Error: text}
		}
	}
	if status == http.StatusMethodNotAllowed {
		w.Header().Set("Allow", http.MethodPost)
	}
	said, rerr := reply(w, status, answer)
	if rerr != nil {
		log.DebugContext(ctx, "answer lost", keyErr, rerr)
	}
	if err == nil {
		var a about
		a.read(said)
		h.threads.went(thread, name, &q, &a)
	}
	took := time.Since(start)
	if method := name; h.methods[name] != nil {
		h.calls.WithLabelValues(method, result).Observe(took.Seconds())
	}

	attrs := []any{keyTook, took.Round(time.Microsecond)}
	if who.NetworkID != "" {
		attrs = append(attrs, keyNetwork, lan.Short(who.NetworkID))
	}
	if who.EndpointID != "" {
		attrs = append(attrs, keyEndpoint, lan.Short(who.EndpointID))
	}
	if who.PoolID != "" {
		attrs = append(attrs, keyPool, clip(who.PoolID))
	}
	if who.Address != "" {
		attrs = append(attrs, keyAddress, clip(who.Address))
	}
	switch result {
	case resultOK:
		log.DebugContext(ctx, "answered", attrs...)
	case resultRefused:
		log.WarnContext(ctx, "refused", append(attrs, keyStatus, status, keyErr, err)...)
	default:
		log.ErrorContext(ctx, "failed", append(attrs, keyStatus, status, keyErr, err)...)
	}
}

// crash is a panic of ours as an error.
type crash struct{ value any }

func (e *crash) Error() string { return fmt.Sprintf("panic: %v", e.value) }

// read reads the body of a call of a method that there is.
func (h *Handler) read(w http.ResponseWriter, r *http.Request, name string) ([]byte, error) {
	if h.methods[name] == nil {
		return nil, malformedf(http.StatusNotFound, "method %q is not known", clip(name))
	}
	if r.Method != http.MethodPost {
		return nil, malformedf(http.StatusMethodNotAllowed, "method %s is called with POST, not %s", name, clip(r.Method))
	}
	long := malformedf(http.StatusRequestEntityTooLarge, "request body is longer than %d bytes", maxBody)
	if r.ContentLength > maxBody {
		return nil, long
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if past := (*http.MaxBytesError)(nil); errors.As(err, &past) {
		return nil, long
	}
	if err != nil {
		return nil, malformedf(http.StatusBadRequest, "request body: %v", err)
	}
	return body, nil
}

// run carries a method out.
func (h *Handler) run(ctx context.Context, name string, body []byte, log *slog.Logger) (who ids, answer any, err error) {
	defer func() {
		if v := recover(); v != nil {
			log.ErrorContext(ctx, "panic", keyErr, v, keyStack, string(debug.Stack()))
			answer, err = nil, &crash{v}
		}
	}()
	return h.methods[name](ctx, body)
}

// clip keeps a foreign word short enough to be shown.
func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}

// reply writes the answer, and returns it as it was written.
func reply(w http.ResponseWriter, status int, answer any) (said []byte, err error) {
	b, err := json.Marshal(answer)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"Err":"internal error: the answer cannot be encoded"}`)
	}
	w.Header().Set("Content-Type", mediaType)
	w.WriteHeader(status)
	if _, werr := w.Write(append(b, '\n')); werr != nil {
		return b, werr
	}
	return b, err
}
