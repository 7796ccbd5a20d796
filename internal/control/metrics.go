package control

import (
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/lanyard-net/lanyard/internal/engine"
	"github.com/lanyard-net/lanyard/internal/ipam"
	"github.com/lanyard-net/lanyard/internal/lan"
)

// The names of what /metrics says. They are a promise, as the fields of the JSON are.
const (
	metricPoolAddresses    = "lanyard_pool_addresses"
	metricPoolSize         = "lanyard_pool_size"
	metricPoolStock        = "lanyard_pool_stock"
	metricPoolAhead        = "lanyard_pool_ahead"
	metricConflicts        = "lanyard_address_conflicts_total"
	metricDefences         = "lanyard_address_defences_total"
	metricNetworks         = "lanyard_networks"
	metricEndpoints        = "lanyard_endpoints"
	metricLeases           = "lanyard_leases"
	metricLeaseEnds        = "lanyard_lease_ends_seconds"
	metricLeaseLeft        = "lanyard_lease_left_seconds"
	metricEvents           = "lanyard_events_total"
	metricBuild            = "lanyard_build_info"
	metricNetworkInfo      = "lanyard_network_info"
	metricNetworkParent    = "lanyard_network_parent_present"
	metricNetworkTrouble   = "lanyard_network_problem"
	metricNetworkEndpoints = "lanyard_network_endpoints"
	metricStoreUp          = "lanyard_store_up"
	metricStoreRequests    = "lanyard_store_requests_total"
)

// Their labels, and what the label state may be.
const (
	labelPool    = "pool"
	labelWire    = "wire"
	labelState   = "state"
	labelWhat    = "what"
	labelNetwork = "network"

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
	descEvents = prometheus.NewDesc(metricEvents,
		"Events since the daemon started, by what they are of, as lanyard events says it.", []string{labelWhat}, nil)
	descLeaseLeft = prometheus.NewDesc(metricLeaseLeft,
		"DHCP leases that containers have now, by the time that each has left. A histogram of now, and not of what has been: it is not to be used with rate.", nil, nil)
	descBuild       = prometheus.NewDesc(metricBuild, "1, and which lanyard this is.", []string{"version", "commit", "goversion"}, nil)
	descNetworkInfo = prometheus.NewDesc(metricNetworkInfo,
		"1 for each network, with its name as Docker says it, which may be empty where Docker does not answer. Join it with the others by network, the beginning of its ID.",
		[]string{labelNetwork, "name", "kind", "mode", "parent"}, nil)
	descNetworkParent = prometheus.NewDesc(metricNetworkParent,
		"1 where a network's parent is there, and 0 where it is gone and its containers have no link.", []string{labelNetwork}, nil)
	descNetworkTrouble = prometheus.NewDesc(metricNetworkTrouble,
		"1 where a network has a problem, as lanyard network ls says it: its parent is gone, down or has no carrier, or host access is not complete.", []string{labelNetwork}, nil)
	descNetworkEndpoints = prometheus.NewDesc(metricNetworkEndpoints,
		"Endpoints of a network by state: created, joined (a container has its link) or left.", []string{labelNetwork, labelState}, nil)
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
	r.MustRegister(Figures(src))
	r.MustRegister(src.Collectors...)
	return promhttp.HandlerFor(r, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelError), ErrorHandling: promhttp.HTTPErrorOnError, DisableCompression: true,
	})
}

// Figures are what /metrics says of src, without its Collectors.
func Figures(src Source) prometheus.Collector { return figures{src} }

// figures are taken at each scrape, those of all pools from one listing.
type figures struct{ src Source }

func (f figures) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descBuild, descNetworks, descNetworkInfo, descNetworkParent, descNetworkTrouble, descEndpoints, descNetworkEndpoints,
		descPoolSize, descPoolAddresses, descPoolStock, descPoolAhead, descConflicts, descDefences,
		descLeases, descLeaseEnds, descLeaseLeft, descEvents, descStoreUp, descStoreRequests,
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
	v := f.src.Version
	gauge(descBuild, 1, v.Version, v.Commit, v.Go)
	f.collectNetworks(gauge)
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

// collectNetworks says what networks there are, and what is on them, in figures alone: an ID is
// one of few networks, and never of an endpoint.
func (f figures) collectNetworks(gauge func(d *prometheus.Desc, n uint64, labels ...string)) {
	networks, endpoints := f.src.Networks(), f.src.Endpoints()
	gauge(descNetworks, uint64(len(networks)))
	gauge(descEndpoints, uint64(len(endpoints)))
	ids := make([]string, 0, len(networks))
	for i := range networks {
		ids = append(ids, networks[i].ID)
	}
	names := map[string]string{}
	if f.src.NetworkNames != nil && len(ids) > 0 {
		names = f.src.NetworkNames(ids)
	}
	count := map[string]map[string]uint64{}
	for i := range networks {
		n := &networks[i]
		id := lan.Short(n.ID)
		gauge(descNetworkInfo, 1, id, label(names[n.ID]), string(n.Kind), string(n.Mode), label(parentText(n)))
		gauge(descNetworkParent, is(n.ParentLink != ""), id)
		gauge(descNetworkTrouble, is(n.Problem != ""), id)
		count[n.ID] = map[string]uint64{"created": 0, "joined": 0, "left": 0}
	}
	for i := range endpoints {
		if of := count[endpoints[i].NetworkID]; of != nil {
			of[endpoints[i].State]++
		}
	}
	for id, of := range count {
		for state, n := range of {
			gauge(descNetworkEndpoints, n, lan.Short(id), state)
		}
	}
}

func parentText(n *engine.NetworkState) string {
	if n.Isolated() {
		return n.DummyName()
	}
	return n.Parent.String()
}

func is(so bool) uint64 {
	if so {
		return 1
	}
	return 0
}

// leaseLeft are the bounds of the times that leases have left, in seconds.
var leaseLeft = []float64{0, 60, 300, 900, 3600, 4 * 3600, 12 * 3600, 24 * 3600, 7 * 24 * 3600}

func (f figures) collectLeases(ch chan<- prometheus.Metric) {
	type kind struct{ wire, state string }
	leases := map[kind]int{}
	var ends time.Time
	var have uint64
	var sum float64
	buckets := map[float64]uint64{}
	for _, b := range leaseLeft {
		buckets[b] = 0
	}
	for _, l := range f.src.Leases() {
		leases[kind{label(l.Wire), l.State}]++
		switch l.State {
		case ipam.LeaseBound, ipam.LeaseStarting, ipam.LeaseRenewing, ipam.LeaseRebinding:
			if l.EndsAt.IsZero() {
				continue // it never ends
			}
			if ends.IsZero() || l.EndsAt.Before(ends) {
				ends = l.EndsAt
			}
			left := time.Until(l.EndsAt).Seconds()
			have++
			sum += left
			for _, b := range leaseLeft {
				if left <= b {
					buckets[b]++
				}
			}
		}
	}
	for k, n := range leases {
		ch <- prometheus.MustNewConstMetric(descLeases, prometheus.GaugeValue, float64(n), k.wire, k.state)
	}
	if !ends.IsZero() {
		ch <- prometheus.MustNewConstMetric(descLeaseEnds, prometheus.GaugeValue, time.Until(ends).Seconds())
	}
	ch <- prometheus.MustNewConstHistogram(descLeaseLeft, have, sum, buckets)
	for what, n := range f.src.EventCounts() {
		ch <- prometheus.MustNewConstMetric(descEvents, prometheus.CounterValue, float64(n), what)
	}
}

// label makes a text one that a label can have: the kernel lets a link's name be any
// bytes.
func label(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }
