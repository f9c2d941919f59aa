// Package config reads the configuration of a distribution host, HOME/meshctl.yaml, the same for every command: the whole
// file is judged, whichever section a command needs, and all that breaks a rule is said at once as FILE:LINE:COLUMN: RULE.
// What the sections "sources" and "checks" may hold is said by internal/receive and internal/zonecheck. Files that it names
// are for those to open who need them. It imports no package beside it; those and cmd/meshctl call it.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/coredns-anycast/coredns-anycast/internal/eventlog"
	"github.com/coredns-anycast/coredns-anycast/internal/fields"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/receive"
	"github.com/coredns-anycast/coredns-anycast/internal/zonecheck"
)

// Config is a configuration. meshctl.example.yaml shows every key.
type Config struct {
	File string // where it is from, or would be

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

const (
	maxBytes = 16 << 20
	maxList  = 100_000 // elements of a list
)

// Default holds where there is no such file.
func Default(file string) *Config {
	c := &Config{
		File:     file,
		Checks:   zonecheck.DefaultConfig(),
		Releases: Releases{Every: 3 * time.Second, Absent: mesh.Absent{After: mesh.DefaultAbsent}, Retry: 10 * time.Minute},
		Serve:    Serving{Listen: netip.MustParseAddrPort("127.0.0.1:8444"), Renew: time.Hour, Log: eventlog.Logfmt},
	}
	c.Checks.Policy.File = file
	return c
}

// LoadIfThere is Load, or the default configuration if there is no such file.
func LoadIfThere(file string) (*Config, error) {
	c, err := Load(file)
	if errors.Is(err, fs.ErrNotExist) {
		c = Default(file)
		c.Checks.Policy.NoFile = true
		return c, nil
	}
	return c, err
}

// Load reads a configuration. The error is of type fields.Errors if the file could be read.
func Load(file string) (*Config, error) {
	data, err := fields.ReadFile(file, maxBytes)
	if err != nil {
		return nil, err
	}
	return Parse(file, data)
}

// Parse is Load of what is read already; file is the name that errors carry.
func Parse(file string, data []byte) (*Config, error) {
	r := &fields.Reader{File: file, MaxList: maxList}
	root, err := r.Document(data)
	if err != nil {
		return nil, err
	}
	c := Default(file)
	r.Mapping(root, "the configuration", fields.Keys{
		"sources":  func(n *yaml.Node) { c.Sources = receive.Section(r, n) },
		"checks":   func(n *yaml.Node) { c.Checks = zonecheck.Section(r, n) },
		"releases": func(n *yaml.Node) { c.Releases.read(r, n) },
		"serve":    func(n *yaml.Node) { c.Serve.read(r, n) },
	})
	if err := r.Err(); err != nil {
		return nil, err
	}
	return c, nil
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
