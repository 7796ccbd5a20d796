package control

import (
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// The names of what /metrics says. They are a promise, as the fields of the JSON are.
const (
	metricPoolAddresses = "lanyard_pool_addresses"
	metricPoolSize      = "lanyard_pool_size"
	metricPoolStock     = "lanyard_pool_stock"
	metricPoolAhead     = "lanyard_pool_ahead"
	metricConflicts     = "lanyard_address_conflicts_total"
	metricDefences      = "lanyard_address_defences_total"
	metricNetworks      = "lanyard_networks"
	metricEndpoints     = "lanyard_endpoints"
	metricLeases        = "lanyard_leases"
	metricLeaseEvents   = "lanyard_lease_events_total"
	metricLeaseEnds     = "lanyard_lease_ends_seconds"
	metricStoreUp       = "lanyard_store_up"
	metricStoreRequests = "lanyard_store_requests_total"
)

// Their labels, and what the label state may be.
const (
	labelPool  = "pool"
	labelWire  = "wire"
	labelState = "state"
	labelWhat  = "what"

	stateUsed        = "used"
	stateReserved    = "reserved"
	stateResting     = "resting"
	stateConflicting = "conflicting"
	stateHeld        = "held"
	stateFree        = "free"
)

var (
	descPoolAddresses = prometheus.NewDesc(metricPoolAddresses,
		"Addresses of a pool by state. Reserved are gateways, auxiliary addresses, reservations and the host's own, held those that hosts claimed ahead. "+
			"Where a DHCP server has the pool there are used and resting alone, and no size.",
		[]string{labelPool, labelWire, labelState}, nil)
	descPoolSize = prometheus.NewDesc(metricPoolSize,
		"Addresses that a pool can give out, 2^64-1 if there are more.", []string{labelPool, labelWire}, nil)
	descPoolStock = prometheus.NewDesc(metricPoolStock,
		"Addresses of a pool that were probed ahead.", []string{labelPool, labelWire}, nil)
	descPoolAhead = prometheus.NewDesc(metricPoolAhead,
		"Addresses of a pool that this host claimed ahead, to give them out while etcd is away.", []string{labelPool, labelWire}, nil)
	descConflicts = prometheus.NewDesc(metricConflicts,
		"Conflicts seen on a wire since the daemon started: others that used an address of its pools.", []string{labelWire}, nil)
	descDefences = prometheus.NewDesc(metricDefences,
		"How many times containers' addresses on a wire were defended since the daemon started.", []string{labelWire}, nil)
	descNetworks  = prometheus.NewDesc(metricNetworks, "Networks that the daemon serves.", nil, nil)
	descEndpoints = prometheus.NewDesc(metricEndpoints, "Endpoints: containers' places on networks.", nil, nil)
	descLeases    = prometheus.NewDesc(metricLeases,
		"DHCP leases on a wire by state, as lanyard lease ls says it.", []string{labelWire, labelState}, nil)
	descLeaseEvents = prometheus.NewDesc(metricLeaseEvents,
		"What happened to DHCP leases since the daemon started, as lanyard events says it.", []string{labelWhat}, nil)
	descLeaseEnds = prometheus.NewDesc(metricLeaseEnds,
		"The time left of the DHCP lease that ends first, of those that containers have.", nil, nil)
	descStoreUp = prometheus.NewDesc(metricStoreUp,
		"1 where the store that hosts share their addresses by can be asked, and 0 where it cannot.", nil, nil)
	descStoreRequests = prometheus.NewDesc(metricStoreRequests,
		"What that store was asked for since the daemon started.", nil, nil)
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
		descPoolAddresses, descPoolSize, descPoolStock, descPoolAhead, descConflicts, descDefences, descNetworks, descEndpoints,
		descLeases, descLeaseEvents, descLeaseEnds, descStoreUp, descStoreRequests,
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
		gauge(descPoolAddresses, p.Used, id, wire, stateUsed)
		gauge(descPoolAddresses, p.Resting, id, wire, stateResting)
		if p.Source != lan.SourceDHCP { // whose server alone knows what is free
			gauge(descPoolAddresses, p.Reserved, id, wire, stateReserved)
			gauge(descPoolAddresses, p.Conflicting, id, wire, stateConflicting)
			gauge(descPoolAddresses, p.Free, id, wire, stateFree)
			gauge(descPoolSize, p.Size, id, wire)
			gauge(descPoolStock, uint64(p.Stock), id, wire)
			if f.src.Cluster != nil {
				gauge(descPoolAddresses, p.Held, id, wire, stateHeld)
				gauge(descPoolAhead, uint64(p.Ahead), id, wire)
			}
		}
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
	f.collectLeases(ch)
	if c := f.src.Cluster; c != nil {
		up := uint64(1)
		if _, down := c.Up(); down != nil {
			up = 0
		}
		gauge(descStoreUp, up)
		ch <- prometheus.MustNewConstMetric(descStoreRequests, prometheus.CounterValue, float64(c.Requests.Load()))
	}
}

func (f figures) collectLeases(ch chan<- prometheus.Metric) {
	type kind struct{ wire, state string }
	leases := map[kind]int{}
	var ends time.Time
	for _, l := range f.src.Leases() {
		leases[kind{label(l.Wire), l.State}]++
		switch l.State {
		case ipam.LeaseBound, ipam.LeaseStarting, ipam.LeaseRenewing, ipam.LeaseRebinding:
			if !l.EndsAt.IsZero() && (ends.IsZero() || l.EndsAt.Before(ends)) {
				ends = l.EndsAt
			}
		}
	}
	for k, n := range leases {
		ch <- prometheus.MustNewConstMetric(descLeases, prometheus.GaugeValue, float64(n), k.wire, k.state)
	}
	if !ends.IsZero() {
		ch <- prometheus.MustNewConstMetric(descLeaseEnds, prometheus.GaugeValue, time.Until(ends).Seconds())
	}
	for what, n := range f.src.EventCounts() {
		ch <- prometheus.MustNewConstMetric(descLeaseEvents, prometheus.CounterValue, float64(n), what)
	}
}

// label makes a text one that a label can have: the kernel lets a link's name be any
// bytes.
func label(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }
