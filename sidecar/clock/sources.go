package clock

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/fields"
)

// Options are what a configuration says of the source.
type Options struct {
	Source     string           // the name of a Kind
	Chrony     netip.AddrPort   // of chrony: chronyd's command port
	Servers    []netip.AddrPort // of ntp: at least three, as two cannot outvote a liar
	Interval   time.Duration    // of ntp: from one question to each server to the next
	ClockBound string           // of clockbound: path of the segment
	Bound      time.Duration    // of assumed: the error that is assumed
}

// Defaults are for what a configuration leaves out.
var Defaults = Options{Source: "chrony", Chrony: netip.MustParseAddrPort("127.0.0.1:323"), Interval: 64 * time.Second,
	ClockBound: "/var/run/clockbound/shm0"}

// Kind is everything that a source adds to the sidecar: a new one is a row of Kinds, and a Source.
type Kind struct {
	Name     string
	Keys     func(*fields.Reader, *Options) fields.Keys // of the section clock, that go with this source only
	Required map[string]string                          // those of them that must be there, and what each says
	New      func(Options) Source
	Metrics  []Metric // that it gives besides
}

// Kinds are the sources that there are.
var Kinds = []Kind{
	{Name: "chrony", // chronyd's command protocol over UDP
		Keys: func(r *fields.Reader, o *Options) fields.Keys {
			return fields.Keys{"chrony": fields.Parsed(r, &o.Chrony, fields.Endpoint)}
		},
		New:     func(o Options) Source { return Chrony{Address: o.Chrony} },
		Metrics: metricsOf(tracking)},
	{Name: "kernel", // adjtimex(2), for ntpd and chronyd with rtcsync
		New:     func(Options) Source { return &Kernel{} },
		Metrics: metricsOf(timex)},
	{Name: "ntp", // NTP servers, a majority of which must agree
		Keys: func(r *fields.Reader, o *Options) fields.Keys {
			return fields.Keys{"servers": fields.Each(r, &o.Servers, serverAddress),
				"interval": fields.Parsed(r, &o.Interval, fields.DurationIn(time.Second, 1024*time.Second))}
		},
		Required: map[string]string{"servers": "the NTP servers to ask"},
		New:      func(o Options) Source { return NewNTP(o.Servers, o.Interval) }},
	{Name: "clockbound", // the shared memory of AWS's clockbound
		Keys: func(r *fields.Reader, o *Options) fields.Keys {
			return fields.Keys{"clockbound": fields.Parsed(r, &o.ClockBound, fields.Path)}
		},
		New: func(o Options) Source { return &ClockBound{Path: o.ClockBound} }},
	{Name: "assumed", // the operator's word; never for production
		Keys: func(r *fields.Reader, o *Options) fields.Keys {
			return fields.Keys{"bound": fields.Parsed(r, &o.Bound, fields.DurationIn(time.Microsecond, time.Second))}
		},
		Required: map[string]string{"bound": "the error that is assumed"},
		New:      func(o Options) Source { return Assumed(o.Bound) }},
}

// Named is the source of that name. The error lists those that there are.
func Named(name string) (Kind, error) {
	i := slices.IndexFunc(Kinds, func(k Kind) bool { return k.Name == name })
	if i >= 0 {
		return Kinds[i], nil
	}
	var names []string
	for _, k := range Kinds {
		names = append(names, k.Name)
	}
	last := len(names) - 1
	return Kind{}, fmt.Errorf("%q is no clock source: %s or %s", name, strings.Join(names[:last], ", "), names[last])
}

// Metric is a number that a source gives besides. Where it means what chrony_exporter's or node_exporter's means, its name
// and unit are theirs.
type Metric struct{ Name, Help string }

// Value is a metric as it is now.
type Value struct {
	Metric
	Value float64
}

// measure is a metric, and how it is read from what a source said.
type measure[T any] struct {
	Metric
	of func(T) float64
}

func metricsOf[T any](all []measure[T]) (metrics []Metric) {
	for _, m := range all {
		metrics = append(metrics, m.Metric)
	}
	return metrics
}

func values[T any](all []measure[T], said T) (now []Value) {
	for _, m := range all {
		now = append(now, Value{m.Metric, m.of(said)})
	}
	return now
}

// serverAddress is an address, with a port if it is not NTP's. Names are not taken: a name server's clock must not wait for DNS.
func serverAddress(s string) (netip.AddrPort, error) {
	if a, err := fields.Address(s); err == nil {
		return netip.AddrPortFrom(a, 123), nil
	}
	ap, err := fields.Endpoint(s)
	if err != nil {
		err = fmt.Errorf("%q is no NTP server: write its address, with :port if that is not 123", s)
	}
	return ap, err
}
