package main

import (
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/sidecar/bgp"
	"github.com/coredns-anycast/coredns-anycast/sidecar/clock"
	"github.com/coredns-anycast/coredns-anycast/sidecar/mirror"
)

// metric is one family: its name, what it means, and its labels.
type metric struct {
	*prometheus.Desc
	kind prometheus.ValueType
}

func gauge(name, help string, labels ...string) metric {
	return metric{prometheus.NewDesc(name, help, labels, nil), prometheus.GaugeValue}
}

func counter(name, help string, labels ...string) metric {
	return metric{prometheus.NewDesc(name, help, labels, nil), prometheus.CounterValue}
}

// The metrics. Those that mean what chrony_exporter's or node_exporter's mean have their names, so that dashboards fit.
var (
	mInfo           = gauge("anycast_sidecar_build_info", "1, with the version of the sidecar and the node's name.", "version", "node")
	mAnnounced      = gauge("anycast_announced", "Whether a router has been told of the route, in a session that is up.")
	mWanted         = gauge("anycast_announce_wanted", "Whether the route is to be announced.")
	mFault          = gauge("anycast_route_fault", "Whether the routes are not as decided; status and log say why.")
	mReason         = gauge("anycast_reason", "Whether this reason holds now.", "code")
	mSince          = gauge("anycast_route_last_change_timestamp_seconds", "When the decision to announce or not last changed.")
	mChanges        = counter("anycast_route_changes_total", "Changes of the decision, by what it became.", "to")
	mProbeUp        = gauge("anycast_probe_up", "Whether every question of the last round to this address over this transport was answered rightly.", "address", "network")
	mProbeDuration  = gauge("anycast_probe_duration_seconds", "Slowest answer of the last round.", "address", "network")
	mProbeFaults    = counter("anycast_probe_faults_total", "What was wrong with answers, by code.", "code")
	mSession        = gauge("anycast_bgp_session_up", "Whether the BGP session is established.", "neighbor")
	mSessionDown    = gauge("anycast_bgp_session_down_reason", "1 for the reason why the session is down; none while it is up.", "neighbor", "code")
	mNotifications  = counter("anycast_bgp_notifications_total", "NOTIFICATION messages, by which way they went.", "neighbor", "direction")
	mPrefixes       = gauge("anycast_bgp_announced_prefixes", "Prefixes that this neighbor has been sent.", "neighbor")
	mBFD            = gauge("anycast_bfd_session_up", "Whether the BFD session beside the BGP session is up.", "neighbor")
	mIGP            = gauge("anycast_igp_announced_addresses", "Addresses that are up for the IGP to advertise.", "interface")
	mClockState     = gauge("anycast_clock_state", "1 for the state that the clock is in.", "state")
	mClockBound     = gauge("anycast_clock_error_bound_seconds", "By how much the clock may be wrong now; absent while that is unknown.")
	mServerAgrees   = gauge("anycast_ntp_server_agrees", "Whether what this NTP server said agrees with the majority.", "server")
	mServerOffset   = gauge("anycast_ntp_server_offset_seconds", "By how much the clock is off, as this NTP server says.", "server")
	mServerDistance = gauge("anycast_ntp_server_distance_seconds", "By how much this NTP server may be wrong: its root distance.", "server")
	mMeshsync       = gauge("anycast_meshsync_up", "Whether the plugin meshsync says how it is.")
	mMirrorUp       = gauge("anycast_mirror_up", "Whether the last look at the repository went well.")
	mMirrorZones    = counter("anycast_mirror_zones_total", "Zones that were fetched, by how: made of a delta or of packs, or whole; and those that failed.", "how")
	mMirrorBytes    = counter("anycast_mirror_zone_bytes_total", "Bytes of the files that zones were made of.")
	mRepository     = gauge("anycast_mirror_repository_state", "1 for the state that a repository is in.", "url", "state")
	mRepositoryTime = gauge("anycast_mirror_repository_timestamp_version", "Version of the timestamp that was last verified of a repository.", "url")
	mRepositoryHeld = gauge("anycast_mirror_repository_held", "Whether the repository holds a request of this node until there is something new; if not, it is polled.", "url")
	mMirrorHears    = gauge("anycast_mirror_hears_seconds", "How long this node takes to hear of what is published, as it tells distribution hosts.")
	mMirrorGood     = gauge("anycast_mirror_last_success_timestamp_seconds", "When the repository was last verified and mirrored.")
)

// collector makes metrics of the status at each scrape, so that the two cannot differ.
type collector struct{ s *sidecar }

func (c collector) Describe(chan<- *prometheus.Desc) {} // unchecked: which are there depends on the configuration

func (c collector) Collect(out chan<- prometheus.Metric) {
	send := func(m metric, v float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(m.Desc, m.kind, v, labels...)
	}
	doc := c.s.status()
	send(mInfo, 1, version, doc.Node)
	send(mAnnounced, truth(doc.Announced))
	send(mWanted, truth(doc.Wanted))
	send(mSince, stamp(doc.Since))
	send(mFault, truth(doc.Fault != ""))
	for _, code := range append([]string{NotTold, StillTold}, gate.Codes...) {
		held := false
		for _, r := range doc.Why {
			held = held || r.Code == code
		}
		send(mReason, truth(held), code)
	}
	c.probes(send)
	for _, session := range doc.Sessions {
		send(mSession, truth(session.State == bgp.Established), session.Neighbor)
		for _, code := range bgp.Troubles {
			send(mSessionDown, truth(session.Down.Code == code), session.Neighbor, code)
		}
		send(mNotifications, float64(session.NotificationsSent), session.Neighbor, "sent")
		send(mNotifications, float64(session.NotificationsReceived), session.Neighbor, "received")
		send(mPrefixes, float64(len(session.Announced)), session.Neighbor)
		if session.BFD != "" {
			send(mBFD, truth(session.BFD == bgp.BFDUp), session.Neighbor)
		}
	}
	if doc.IGP != nil {
		send(mIGP, float64(len(doc.IGP.Announced)), doc.IGP.Interface)
	}
	for _, state := range []string{clock.Synchronised, clock.Holdover, clock.Unknown} {
		send(mClockState, truth(doc.Clock.State == state), state)
	}
	if bound, err := c.s.clock.Bound(); err == nil {
		send(mClockBound, bound.Seconds())
	}
	said := c.s.clock.Said()
	for _, v := range said.Metrics {
		send(gauge(v.Name, v.Help), v.Value)
	}
	for _, server := range said.Servers {
		send(mServerAgrees, truth(server.Agrees), server.Name)
		if server.Fault == "" {
			send(mServerOffset, server.Offset.Seconds(), server.Name)
			send(mServerDistance, server.Distance.Seconds(), server.Name)
		}
	}
	if c.s.cfg().Meshsync != "" {
		send(mMeshsync, truth(doc.Meshsync != nil))
	}
	if doc.Mirror != nil {
		send(mMirrorUp, truth(doc.Mirror.LastError == "" && !doc.Mirror.LastGood.IsZero()))
		send(mMirrorZones, float64(doc.Mirror.Deltas), "delta")
		send(mMirrorZones, float64(doc.Mirror.DeltasFailed), "delta_failed")
		send(mMirrorZones, float64(doc.Mirror.Wholes), "whole")
		send(mMirrorBytes, float64(doc.Mirror.ZoneBytes))
		send(mMirrorGood, stamp(doc.Mirror.LastGood))
		send(mMirrorHears, c.s.mirror.Hears().Seconds())
		for _, r := range doc.Mirror.Repositories {
			for _, state := range mirror.RepositoryStates {
				send(mRepository, truth(r.State == state), r.URL, state)
			}
			send(mRepositoryTime, float64(r.Timestamp), r.URL)
			send(mRepositoryHeld, truth(r.Held), r.URL)
		}
	}
}

// probes sums the last round by address and transport: zones would be too many labels.
func (c collector) probes(send func(metric, float64, ...string)) {
	c.s.mu.Lock()
	defer c.s.mu.Unlock()
	type target struct{ address, network string }
	var targets []target
	up, slowest := map[target]bool{}, map[target]time.Duration{}
	for _, p := range c.s.probes {
		t := target{p.Address, p.Network}
		if !slices.Contains(targets, t) {
			targets, up[t] = append(targets, t), true
		}
		up[t] = up[t] && p.Up
		slowest[t] = max(slowest[t], p.Latency)
	}
	for _, t := range targets {
		send(mProbeUp, truth(up[t]), t.address, t.network)
		send(mProbeDuration, slowest[t].Seconds(), t.address, t.network)
	}
	for code, n := range c.s.failures {
		send(mProbeFaults, float64(n), code)
	}
	send(mChanges, float64(c.s.changes[true]), "announced")
	send(mChanges, float64(c.s.changes[false]), "withdrawn")
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func stamp(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixNano()) / 1e9
}

func metricsHandler(s *sidecar) http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collector{s}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}
