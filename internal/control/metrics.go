package control

import (
	"log/slog"
	"net/http"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// The names of what /metrics says. They are a promise, as the fields of the JSON are.
const (
	metricPoolAddresses = "lanyard_pool_addresses"
	metricPoolSize      = "lanyard_pool_size"
	metricPoolStock     = "lanyard_pool_stock"
	metricConflicts     = "lanyard_address_conflicts_total"
	metricDefences      = "lanyard_address_defences_total"
	metricNetworks      = "lanyard_networks"
	metricEndpoints     = "lanyard_endpoints"
)

// Their labels, and what the label state may be.
const (
	labelPool  = "pool"
	labelWire  = "wire"
	labelState = "state"

	stateUsed        = "used"
	stateReserved    = "reserved"
	stateResting     = "resting"
	stateConflicting = "conflicting"
	stateFree        = "free"
)

var (
	descPoolAddresses = prometheus.NewDesc(metricPoolAddresses,
		"Addresses of a pool by state. Reserved are gateways, auxiliary addresses, reservations and the host's own.",
		[]string{labelPool, labelWire, labelState}, nil)
	descPoolSize = prometheus.NewDesc(metricPoolSize,
		"Addresses that a pool can give out, 2^64-1 if there are more.", []string{labelPool, labelWire}, nil)
	descPoolStock = prometheus.NewDesc(metricPoolStock,
		"Addresses of a pool that were probed ahead.", []string{labelPool, labelWire}, nil)
	descConflicts = prometheus.NewDesc(metricConflicts,
		"Conflicts seen on a wire since the daemon started: others that used an address of its pools.", []string{labelWire}, nil)
	descDefences = prometheus.NewDesc(metricDefences,
		"How many times containers' addresses on a wire were defended since the daemon started.", []string{labelWire}, nil)
	descNetworks  = prometheus.NewDesc(metricNetworks, "Networks that the daemon serves.", nil, nil)
	descEndpoints = prometheus.NewDesc(metricEndpoints, "Endpoints: containers' places on networks.", nil, nil)
)

// newMetrics serves figures of src in Prometheus's text format. The registry is its own,
// and turns a panic of a listing into an error, so that the daemon stands.
func newMetrics(src Source, log *slog.Logger) http.Handler {
	r := prometheus.NewRegistry()
	r.MustRegister(figures{src})
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError), ErrorHandling: promhttp.HTTPErrorOnError, DisableCompression: true,
	})
}

// figures are taken at each scrape, those of all pools from one listing.
type figures struct{ src Source }

func (f figures) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descPoolAddresses, descPoolSize, descPoolStock, descConflicts, descDefences, descNetworks, descEndpoints,
	} {
		ch <- d
	}
}

func (f figures) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(n), labels...)
	}
	type events struct{ conflicts, defences uint64 }
	wires := map[string]events{}
	for _, p := range f.src.Pools() {
		id, wire := label(p.ID), label(p.Wire)
		for _, c := range []struct {
			state string
			n     uint64
		}{
			{stateUsed, p.Used}, {stateReserved, p.Reserved}, {stateResting, p.Resting}, {stateConflicting, p.Conflicting}, {stateFree, p.Free},
		} {
			gauge(descPoolAddresses, c.n, id, wire, c.state)
		}
		gauge(descPoolSize, p.Size, id, wire)
		gauge(descPoolStock, uint64(p.Stock), id, wire)
		if wire != "" { // each pool of a wire says the same
			wires[wire] = events{p.Conflicts, p.Defended}
		}
	}
	for wire, n := range wires {
		ch <- prometheus.MustNewConstMetric(descConflicts, prometheus.CounterValue, float64(n.conflicts), wire)
		ch <- prometheus.MustNewConstMetric(descDefences, prometheus.CounterValue, float64(n.defences), wire)
	}
	gauge(descNetworks, uint64(len(f.src.Networks())))
	gauge(descEndpoints, uint64(len(f.src.Endpoints())))
}

// label makes a text one that a label can have: the kernel lets a link's name be any
// bytes.
func label(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }
