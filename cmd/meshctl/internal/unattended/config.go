package unattended

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/eventlog"
	"github.com/coredns-anycast/coredns-anycast/internal/fields"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/receive"
	"github.com/coredns-anycast/coredns-anycast/internal/zonecheck"
)

// Config is HOME/meshctl.yaml. meshctl.example.yaml shows every key.
type Config struct {
	Sources  *receive.Config   // nil: nothing is received
	Checks   *zonecheck.Config // how zones are judged
	Releases Releases
	Serve    Serving
}

// Releases say when "meshctl serve" makes releases of what it receives, and how switchovers to them are made.
type Releases struct {
	Every  time.Duration // at most one release in so long
	Absent mesh.Absent   // when publication goes on without a member that was not heard from
	Lead   time.Duration // from proposing the switchover to the switchover; 0: as short as is safe
	Retry  time.Duration // when a zone with errors is judged again though it is the same: signatures come into force
}

// Serving is where "meshctl serve" listens.
type Serving struct {
	Listen  netip.AddrPort // administrative address, mutual TLS
	Access  identity.AccessList
	Metrics netip.AddrPort // loopback, plain HTTP; zero: none
	Log     eventlog.Format
	Renew   time.Duration // how old a lease may get
}

// DefaultConfig holds where there is no configuration.
func DefaultConfig() *Config {
	return &Config{
		Checks:   zonecheck.DefaultConfig(),
		Releases: Releases{Every: 10 * time.Second, Absent: mesh.Absent{After: mesh.DefaultAbsent}, Retry: 10 * time.Minute},
		Serve:    Serving{Listen: netip.MustParseAddrPort("127.0.0.1:8444"), Renew: time.Hour, Log: eventlog.Logfmt},
	}
}

// LoadConfig reads a configuration; the default one, if there is no such file.
func LoadConfig(file string) (*Config, error) {
	data, err := fields.ReadFile(file, home.MaxConfigBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return DefaultConfig(), nil
	}
	if err != nil {
		return nil, err
	}
	return parseConfig(file, data)
}

func parseConfig(file string, data []byte) (*Config, error) {
	r := &fields.Reader{File: file, MaxList: 100_000}
	root, err := r.Document(data)
	if err != nil {
		return nil, err
	}
	c := DefaultConfig()
	r.Mapping(root, "the configuration", fields.Keys{
		"sources":  func(n *yaml.Node) { c.Sources = receive.Section(r, n) },
		"checks":   func(n *yaml.Node) { c.Checks = zonecheck.Section(r, n) },
		"releases": func(n *yaml.Node) { c.Releases.read(r, n) },
		"serve":    func(n *yaml.Node) { c.Serve.read(r, n) },
	})
	return c, r.Err()
}

func (s *Releases) read(r *fields.Reader, n *yaml.Node) {
	r.Mapping(n, "releases", fields.Keys{
		"every":  fields.Parsed(r, &s.Every, fields.DurationIn(time.Second, 24*time.Hour)),
		"absent": fields.Parsed(r, &s.Absent, ParseAbsent),
		"lead":   fields.Parsed(r, &s.Lead, fields.DurationIn(time.Second, time.Hour)),
		"retry":  fields.Parsed(r, &s.Retry, fields.DurationIn(time.Second, 24*time.Hour)),
	})
}

// minAbsent is the shortest time after which publication may go on without a member: a node is started again in less.
const minAbsent = 10 * time.Second

// ParseAbsent reads "10m", or "lease": until the member's lease has surely ended.
func ParseAbsent(text string) (mesh.Absent, error) {
	if text == "lease" {
		return mesh.Absent{After: mesh.DefaultAbsent, Lapse: true}, nil
	}
	d, err := fields.DurationIn(minAbsent, 365*24*time.Hour)(text)
	if err != nil {
		return mesh.Absent{}, fmt.Errorf("%w; or write lease", err)
	}
	return mesh.Absent{After: d}, nil
}

func (s *Serving) read(r *fields.Reader, n *yaml.Node) {
	loopback := func(text string) (netip.AddrPort, error) {
		a, err := fields.Endpoint(text)
		if err == nil && !a.Addr().IsLoopback() {
			err = fmt.Errorf("%s is not a loopback address: metrics are in plain HTTP", a)
		}
		return a, err
	}
	r.Mapping(n, "serve", fields.Keys{
		"listen":  fields.Parsed(r, &s.Listen, fields.Endpoint),
		"access":  fields.Each(r, (*[]netip.Prefix)(&s.Access), fields.Prefix),
		"metrics": fields.Parsed(r, &s.Metrics, loopback),
		"log":     fields.Parsed(r, &s.Log, eventlog.ParseFormat),
		"renew":   fields.Parsed(r, &s.Renew, fields.DurationIn(time.Second, 24*time.Hour)),
	})
}
