package sharedunicast

import (
	"github.com/coredns/coredns/plugin"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// refusedTotal counts what this plugin refused; the reasons are the constants below.
var refusedTotal = promauto.NewCounterVec(prometheus.CounterOpts{
	Namespace: plugin.Namespace,
	Subsystem: "sharedunicast",
	Name:      "refused_total",
	Help:      "Counter of requests that were refused, per server, by reason.",
}, []string{"server", "reason"})

// silentDrops counts what was given no answer because the node is silent. Plugin prometheus does not see it.
var silentDrops = promauto.NewCounterVec(prometheus.CounterOpts{
	Namespace: plugin.Namespace,
	Subsystem: "sharedunicast",
	Name:      "silent_drops_total",
	Help:      "Counter of messages given no answer because the node is silent.",
}, []string{"server"})

// shedTotal counts what found no room where messages wait for the chain.
var shedTotal = promauto.NewCounterVec(prometheus.CounterOpts{
	Namespace: plugin.Namespace,
	Subsystem: "sharedunicast",
	Name:      "shed_total",
	Help:      "Counter of messages dropped because too many wait for the chain of plugins.",
}, []string{"server"})

// limitedTotal counts what rate limiting withheld; kinds are kindNames, actions dropped and truncated.
var limitedTotal = promauto.NewCounterVec(prometheus.CounterOpts{
	Namespace: plugin.Namespace,
	Subsystem: "sharedunicast",
	Name:      "rate_limited_total",
	Help:      "Counter of responses that rate limiting dropped or truncated, per server, by kind of response.",
}, []string{"server", "kind", "action"})

// tapDropped counts what a dnstap collector was not told of because it is not there, or too slow.
var tapDropped = promauto.NewCounterVec(prometheus.CounterOpts{
	Namespace: plugin.Namespace,
	Subsystem: "sharedunicast",
	Name:      "dnstap_dropped_total",
	Help:      "Counter of queries that the dnstap collector was not told of, because it is away or too slow.",
}, []string{"server"})

const (
	reasonTransfer         = "transfer"          // AXFR or IXFR on the shared address
	reasonOpcode           = "opcode"            // not a QUERY
	reasonNotAuthoritative = "not_authoritative" // the backend's answer was withheld
	reasonAdministrative   = "administrative"    // not an authenticated transfer, in a transfer-only block
)
