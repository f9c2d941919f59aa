package meshsync

import (
	"slices"

	"github.com/coredns/coredns/plugin"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// A node is one mesh's member, so the gauges carry no label for it.
var (
	activeRelease = gauge("active_release", "Number of the release answered from; 0 while silent.")
	stagedRelease = gauge("staged_release", "Highest number of a release verified, compiled and ready.")
	floorRelease  = gauge("floor_release", "Lowest number of a release that may still be answered from.")
	leaseExpiry   = gauge("lease_expiry_timestamp_seconds", "End of the lease, seconds since the epoch; 0 while there is none.")
	clockBound    = gauge("clock_error_bound_seconds", "Bound of the clock's error; -1 while it is unknown.")
	silentReason  = promauto.NewGaugeVec(prometheus.GaugeOpts{Namespace: plugin.Namespace, Subsystem: "meshsync",
		Name: "silent", Help: "Whether the node is silent for this reason."}, []string{"reason"})
	switchovers = promauto.NewCounter(prometheus.CounterOpts{Namespace: plugin.Namespace, Subsystem: "meshsync",
		Name: "switchovers_total", Help: "Counter of releases that became active."})
	switchoverLateness = promauto.NewHistogram(prometheus.HistogramOpts{Namespace: plugin.Namespace, Subsystem: "meshsync",
		Name: "switchover_lateness_seconds", Help: "Histogram of the time from the switchover's instant to the swap.",
		Buckets: prometheus.ExponentialBuckets(10e-6, 4, 10)})
	silentDrops = promauto.NewCounterVec(prometheus.CounterOpts{Namespace: plugin.Namespace, Subsystem: "meshsync",
		Name: "silent_drops_total", Help: "Counter of queries given no answer because the node is silent."}, []string{"server"})
	transfers = promauto.NewCounterVec(prometheus.CounterOpts{Namespace: plugin.Namespace, Subsystem: "meshsync",
		Name: "transfers_total", Help: "Counter of zone transfers begun, by what was sent."}, []string{"type"})
	notifies = promauto.NewCounterVec(prometheus.CounterOpts{Namespace: plugin.Namespace, Subsystem: "meshsync",
		Name: "notifies_total", Help: "Counter of zones that a secondary was to be told of, by what came of it."}, []string{"result"})
	depotFaults = promauto.NewCounterVec(prometheus.CounterOpts{Namespace: plugin.Namespace, Subsystem: "meshsync",
		Name: "depot_faults_total", Help: "Counter of looks at the repository that were refused, by the rule that it broke."}, []string{"rule"})
)

// init has each series there from the start: the increase from nothing to the first event is one that Prometheus does not see.
func init() {
	for _, rule := range []release.Rule{release.Missing, release.Unreadable, release.Torn, release.Oversize, release.Length, release.Mismatch, release.Signature,
		release.Rollback, release.Replay, release.Format, release.NumberReused, release.NumberTooFar, release.WrongMesh, release.Packs, mesh.NotDurable, mesh.OldView, mesh.TakenBack} {
		depotFaults.WithLabelValues(string(rule))
	}
	depotFaults.WithLabelValues(StateLost)
	for _, kind := range []string{"axfr", "ixfr", "fallback", "current"} {
		transfers.WithLabelValues(kind)
	}
	for _, result := range []string{"acknowledged", "refused", "unanswered"} {
		notifies.WithLabelValues(result)
	}
}

func gauge(name, help string) prometheus.Gauge {
	return promauto.NewGauge(prometheus.GaugeOpts{Namespace: plugin.Namespace, Subsystem: "meshsync", Name: name, Help: help})
}

// observe shows the state in the gauges.
func observe(n *status.Node) {
	activeRelease.Set(float64(n.Serving))
	stagedRelease.Set(float64(n.Staged))
	floorRelease.Set(float64(n.Floor))
	leaseExpiry.Set(float64(n.LeaseExpires) / 1e9)
	bound := -1.0
	if n.Clock.Known {
		bound = n.Clock.Bound.Seconds()
	}
	clockBound.Set(bound) // once: what is set in between could be scraped
	for _, code := range append([]string{StateLost}, mesh.SilentCodes...) {
		held := 0.0
		if slices.ContainsFunc(n.Silent, func(r status.Reason) bool { return r.Code == code }) {
			held = 1
		}
		silentReason.WithLabelValues(code).Set(held)
	}
}
