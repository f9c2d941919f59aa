package unattended

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/switchover"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// MetricsHandler answers /metrics with how the mesh is, as this host knows it without asking members.
func MetricsHandler(s *Server, version string) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), &metrics{s, version})
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	return mux
}

// metrics is collected from the state at each scrape.
type metrics struct {
	server  *Server
	version string
}

var (
	infoDesc      = desc("info", "Always 1; the version of meshctl.", "version")
	leaseDesc     = desc("lease_expiry_timestamp_seconds", "When the lease ends that members have, or are about to.")
	roleDesc      = desc("role_expiry_timestamp_seconds", "When the word of a key ends.", "role")
	releaseDesc   = desc("release", "Number of the release that is current, or staged; 0 is none.", "state")
	switchDesc    = desc("switchover_timestamp_seconds", "Instant that is set for the staged release; 0 is none.")
	membersDesc   = desc("members", "Members of the mesh.")
	zonesDesc     = desc("zones", "Zones in the latest release.")
	alarmDesc     = desc("alarms", "Alarms that hold, by code.", "code")
	receivedDesc  = desc("zones_received_total", "Zones received since the start, by how they came.", "how")
	releasedDesc  = desc("releases_total", "Releases made here since the start.")
	switchedDesc  = desc("switchovers_total", "Switchovers seen through since the start.")
	withdrawnDesc = desc("switchovers_withdrawn_total", "Proposals of a switchover that were withdrawn since the start.")
	heldDesc      = desc("held_requests", "Requests that are held until there is something new.")
	notHeldDesc   = desc("held_requests_refused_total", "Requests that were answered at once since too many are held: their members poll.")

	// Of each member, and of its last release: a label for the number would be a new series for each release.
	memberUpDesc      = desc("member_up", "Whether this member answered when it was asked last.", "member")
	memberReleaseDesc = desc("member_release", "Number of the release that this member answers from, or has ready; 0 is none.", "member", "state")
	publicationDesc   = desc("publication_latency_seconds", "Time from the publication of the release of meshctl_publication_release until this member had it ready.", "member")
	publishedDesc     = desc("publication_release", "Number of the release that meshctl_publication_latency_seconds is about.", "member")
	latenessDesc      = desc("switchover_lateness_seconds", "Time from the switchover's instant until this member answered from the release of meshctl_switchover_release, by its own clock.", "member")
	switchedToDesc    = desc("switchover_release", "Number of the release that meshctl_switchover_lateness_seconds is about.", "member")
)

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("meshctl_"+name, help, labels, nil)
}

// Describe implements prometheus.Collector; none described is an unchecked collector, whose metrics come as they are.
func (m *metrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(out chan<- prometheus.Metric) {
	put := func(d *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, kind, value, labels...)
	}
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		put(d, prometheus.GaugeValue, value, labels...)
	}
	count := func(d *prometheus.Desc, value uint64, labels ...string) {
		put(d, prometheus.CounterValue, float64(value), labels...)
	}
	gauge(infoDesc, 1, m.version)
	p := m.server.known.Load()
	if p == nil {
		return
	}
	_, view := p.get()
	gauge(leaseDesc, unix(view.LeaseExpires))
	gauge(roleDesc, unix(view.Expires.Root), "root")
	gauge(roleDesc, unix(view.Expires.Targets), "release")
	for state, r := range map[string]uint64{"current": number(view.Manifest.Current), "next": number(view.Manifest.Next)} {
		gauge(releaseDesc, float64(r), state)
	}
	if next := view.Manifest.Next; next != nil && !next.Switchover.IsZero() {
		gauge(switchDesc, unix(next.Switchover))
	} else {
		gauge(switchDesc, 0)
	}
	gauge(membersDesc, float64(len(view.Manifest.Members)))
	if latest := view.Manifest.Latest(); latest != nil {
		gauge(zonesDesc, float64(latest.Len()))
	}
	alarms := map[string]int{}
	for _, a := range m.server.alarms(p) {
		alarms[a.Code]++
	}
	for _, code := range AlarmCodes {
		gauge(alarmDesc, float64(alarms[code]), code)
	}
	if h := m.server.holder.Load(); h != nil {
		held, refused := h.Counts()
		gauge(heldDesc, float64(held))
		count(notHeldDesc, refused)
	}
	if m.server.Mesh != nil {
		state := m.server.Mesh()
		count(switchedDesc, state.Switched)
		count(withdrawnDesc, state.Withdrawn)
		memberMetrics(state.Members, gauge)
	}
	if m.server.Cycle == nil {
		return
	}
	cycle := m.server.Cycle()
	for how, n := range cycle.Received {
		count(receivedDesc, n, how)
	}
	count(releasedDesc, cycle.Released)
}

// memberMetrics puts how members are. What is not yet known of one is absent.
func memberMetrics(members []switchover.MemberState, gauge func(d *prometheus.Desc, value float64, labels ...string)) {
	for _, m := range members {
		up := 0.0
		if m.Answers {
			up = 1
		}
		gauge(memberUpDesc, up, m.Name)
		gauge(memberReleaseDesc, float64(m.Serving), m.Name, "serving")
		gauge(memberReleaseDesc, float64(m.Staged), m.Name, "staged")
		if m.Published > 0 {
			gauge(publishedDesc, float64(m.Published), m.Name)
			gauge(publicationDesc, m.Latency.Seconds(), m.Name)
		}
		if m.Switched > 0 {
			gauge(switchedToDesc, float64(m.Switched), m.Name)
			gauge(latenessDesc, m.Lateness.Seconds(), m.Name)
		}
	}
}

func unix(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }

func number(r *release.Release) uint64 {
	if r == nil {
		return 0
	}
	return r.Number
}
