package ipam

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/lanyard-net/lanyard/internal/dhcp"
)

// What servers are asked for, in figures.
const (
	askAcquire = "acquire" // a new lease
	askConfirm = "confirm" // whether one that has not ended still holds
	askRenew   = "renew"   // more time, of the server that gave it
	askRebind  = "rebind"  // more time, of any
	askRelease = "release"
)

func newExchanges() *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "lanyard_dhcp_exchange_duration_seconds",
		Help: "How long exchanges with DHCP servers took, tries again included, by operation (acquire, confirm, renew, rebind, release), family (4, 6) and result: " +
			"ok, refused by the server, unanswered or failed.",
		Buckets: []float64{.005, .025, .1, .5, 1, 2.5, 5, 10, 30, 60},
	}, []string{"operation", "family", "result"})
}

// Metrics are the figures of what DHCP servers were asked for.
func (m *Manager) Metrics() prometheus.Collector { return m.exchanges }

// exchanged notes how an exchange went that began at start.
func (m *Manager) exchanged(operation string, v6 bool, start time.Time, err error) {
	if errors.Is(err, errEnded) {
		return // its container was gone before anybody was asked
	}
	family, result := "4", "failed"
	if v6 {
		family = "6"
	}
	nak, silence := (*dhcp.NakError)(nil), (*dhcp.SilenceError)(nil)
	switch {
	case err == nil:
		result = "ok"
	case errors.As(err, &nak):
		result = "refused"
	case errors.As(err, &silence):
		result = "unanswered"
	}
	m.exchanges.WithLabelValues(operation, family, result).Observe(time.Since(start).Seconds())
}
