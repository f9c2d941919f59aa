package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/eventlog"
	"github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/sysclock"
	"github.com/coredns-anycast/coredns-anycast/sidecar/admin"
	"github.com/coredns-anycast/coredns-anycast/sidecar/bgp"
	"github.com/coredns-anycast/coredns-anycast/sidecar/clock"
	"github.com/coredns-anycast/coredns-anycast/sidecar/config"
	"github.com/coredns-anycast/coredns-anycast/sidecar/igp"
	"github.com/coredns-anycast/coredns-anycast/sidecar/mirror"
	"github.com/coredns-anycast/coredns-anycast/sidecar/probe"
)

const (
	clockInterval = time.Second
	// withdrawWithin bounds the wait for routers to be told; closing the sessions withdraws in any case.
	withdrawWithin = 3 * time.Second
	// endWithin bounds all of withdraw: what waits for nothing can hang.
	endWithin = withdrawWithin + 2*time.Second
)

// closers end what was started, the last first.
type closers []func()

func (c *closers) add(f func()) { *c = append(*c, f) }

func (c closers) close() {
	for i := len(c) - 1; i >= 0; i-- {
		c[i]()
	}
}

// errRestart is the cause of an end that a new process follows at once.
var errRestart = errors.New("the process is told to end for a restart")

// untilSignal ends ctx with SIGTERM or SIGINT, and with SIGQUIT, of which the cause is errRestart. After release the next signal
// ends the process.
func untilSignal(parent context.Context) (ctx context.Context, release func()) {
	ctx, cancel := context.WithCancelCause(parent)
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGQUIT)
	go func() {
		if <-signals == syscall.SIGQUIT {
			cancel(errRestart)
		}
		cancel(nil)
	}()
	return ctx, func() { signal.Stop(signals) }
}

// run starts everything, of the configuration c that was read at path, and returns when ctx has ended and the routes are
// withdrawn, or left to the routers where the cause is errRestart and they keep them. stopping is called when the
// shutdown begins, so that a second signal ends the process at once.
func run(ctx context.Context, path string, c *config.Config, stopping func()) error {
	reloads := make(chan os.Signal, 1)
	signal.Notify(reloads, syscall.SIGHUP) // before anything else: by default it would end the process
	log := eventlog.New(os.Stderr, c.Log)
	log.Info("anycast-sidecar starts", "version", version, "node", c.Node, "policy", c.Failure.Policy.String())
	for _, warning := range warnings(c) {
		log.Warn(warning)
	}
	var started closers
	defer func() { started.close() }()
	background, cancel := context.WithCancel(context.Background())
	started.add(cancel)

	s, err := newSidecar(c, log)
	if err != nil {
		return err
	}
	s.path = path
	var loops sync.WaitGroup
	started.add(loops.Wait)
	started.add(cancel)
	loops.Go(func() { s.clock.Run(background, clockInterval) })
	loops.Go(func() { s.tend(background) })
	if err := s.serve(&started); err != nil {
		return err
	}
	if s.mirror != nil {
		loops.Go(func() { s.mirror.Run(background) })
		loops.Go(func() { s.mirror.AskMembers(background, s.asks) })
	}
	if c.BGP != nil {
		if err := s.startBGP(); err != nil {
			return err
		}
	}
	if c.IGP != nil {
		if err := s.startIGP(); err != nil {
			return err
		}
	}
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGUSR1, syscall.SIGUSR2)
	go s.obey(signals)
	go s.reloadOn(background, reloads, path)
	speaker := s.speaker // which no lock guards that the control loop may hang with
	hung := func(what string) func() { return func() { endHung(what, speaker) } }
	watching, unwatch := context.WithCancel(background)
	defer unwatch()
	go s.watchdog.watch(watching, func() time.Duration { return longestRound(s.cfg().Probe) }, hung("the control loop hangs"))
	s.control(ctx)
	stopping()
	s.watchdog.manager.tell("STOPPING=1")
	if context.Cause(ctx) == errRestart && s.keepRoutes() {
		return nil
	}
	s.leave()
	unwatch()
	late := time.AfterFunc(endWithin, hung("the withdrawal hangs"))
	defer late.Stop()
	return s.withdraw()
}

// keepRoutes ends the sessions so that routers keep the routes until the next process speaks, and reports whether it did. It does
// so for a node that is in service now, and for no other.
func (s *sidecar) keepRoutes() bool {
	ctx, cancel := context.WithTimeout(context.Background(), longestRound(s.cfg().Probe))
	defer cancel()
	s.look(ctx)
	s.decide()
	s.mu.Lock()
	d, applied := s.decision, s.applied
	s.mu.Unlock()
	var why error
	switch bad := slices.IndexFunc(d.Why, func(r status.Reason) bool { return r.Code == gate.ProbeFailing }); {
	case ctx.Err() != nil:
		why = errors.New("nobody knows how DNS is")
	case s.speaker == nil:
		why = errors.New("nothing is announced by BGP")
	case !d.Remains || !applied:
		why = fmt.Errorf("the node is not in service: %s", words(d.Why))
	case bad >= 0:
		why = fmt.Errorf("DNS is not good: %s", d.Why[bad])
	default:
		ctx, cancel := context.WithTimeout(context.Background(), withdrawWithin)
		defer cancel()
		why = s.speaker.Keep(ctx)
	}
	if why != nil {
		s.log.Info("the routes go, though the process ends for a restart", "why", why)
		return false
	}
	if s.announcer != nil {
		s.set(s.announcer.Set(false))
	}
	s.log.Info("sessions closed; routers keep the routes until the next process speaks", "for", s.cfg().BGP.GracefulRestart)
	return true
}

func newSidecar(c *config.Config, log *slog.Logger) (*sidecar, error) {
	source, err := clock.Named(c.Clock.Source)
	if err != nil {
		return nil, err
	}
	s := &sidecar{
		log:    log,
		gate:   gate.New(gateConfig(c)),
		prober: probe.New(probeConfig(c)),
		clock:  clock.NewKeeper(source.New(c.Clock.Options), c.Clock.Limit, log),
		orders: make(chan order),
		since:  time.Now().UTC(),
		began:  sysclock.Now().Mono,
	}
	s.conf.Store(c)
	s.watchdog.manager = findManager(log)
	if least, w := longestRound(c.Probe), s.watchdog.manager.watchdog; w > 0 && w < 2*least {
		log.Warn("WatchdogSec is short: a busy machine could be taken for a hang", "watchdog", w, "want at least", 2*least)
	}
	s.remember()
	s.decision, s.applied = s.gate.Decide(sysclock.Now().Mono), true
	if c.Identity != nil {
		node, err := identity.Load(identity.Files{Certificate: c.Identity.Certificate, Key: c.Identity.Key, CA: c.Identity.CA}, log)
		if err != nil {
			return nil, err
		}
		s.identity = node
	}
	if c.Mirror != nil {
		s.mirror = mirror.New(mirror.Config{Node: c.Node, URLs: c.Mirror.URLs, CA: c.Mirror.CA, Depot: c.Mirror.Depot, Root: c.Mirror.Root,
			Interval: c.Mirror.Interval, Bandwidth: c.Mirror.Bandwidth, Disk: c.Mirror.Disk, Identity: s.identity, Refused: s.refused, Damaged: s.damaged}, log)
	}
	return s, nil
}

func gateConfig(c *config.Config) gate.Config {
	return gate.Config{Policy: c.Failure.Policy, Rise: c.Probe.Rise, Fall: c.Probe.Fall,
		ReadvertiseDelay: c.Failure.ReadvertiseDelay, Flaps: c.Failure.Flaps, MinAnnouncing: c.Failure.MinAnnouncing,
		Degrade: c.Failure.Degraded != nil, DegradeSlow: c.Failure.Degraded != nil && c.Failure.Degraded.Slow}
}

func probeConfig(c *config.Config) probe.Config {
	return probe.Config{Addresses: c.Shared, Port: c.Probe.Port, Slow: c.Probe.Slow, Timeout: c.Probe.Timeout}
}

// serve opens the socket and the listeners that the configuration names.
func (s *sidecar) serve(started *closers) error {
	if s.cfg().Socket != "" {
		server, err := socket.Serve(s.cfg().Socket, func() any { return s.socketDocument() })
		if err != nil {
			return fmt.Errorf("socket: %w", err)
		}
		started.add(func() { server.Close() })
	}
	metrics := metricsHandler(s)
	plane := s.plane(metrics)
	if s.cfg().Control != "" {
		server, err := admin.ServeControl(s.cfg().Control, plane, s.log)
		if err != nil {
			return fmt.Errorf("control: %w", err)
		}
		started.add(func() { server.Close() })
	}
	if s.cfg().Admin != nil {
		server, err := admin.Serve(s.cfg().Admin.Listen, s.cfg().Shared, s.access, s.identity, plane, s.log)
		if err != nil {
			return fmt.Errorf("admin: %w", err)
		}
		started.add(func() { server.Close() })
	}
	if s.cfg().Metrics.IsValid() {
		server, err := admin.ServeMetrics(s.cfg().Metrics, metrics, s.log)
		if err != nil {
			return fmt.Errorf("metrics: %w", err)
		}
		started.add(func() { server.Close() })
	}
	return nil
}

func (s *sidecar) plane(metrics http.Handler) admin.Sidecar {
	var refuses func(role, name string, key release.Digest) string
	if s.mirror != nil {
		refuses = s.mirror.Refuses
	}
	var dns http.Handler
	if s.cfg().DNSMetrics.IsValid() {
		dns = admin.MetricsOf(s.cfg().DNSMetrics)
	}
	plane := admin.Sidecar{
		DNSMetrics:    dns,
		Refuses:       refuses,
		Status:        func(context.Context) (any, error) { return s.status(), nil },
		Confirmations: func(ctx context.Context) (any, error) { return s.confirmation(ctx) },
		Metrics:       metrics,
		Drain:         s.drain,
		Undrain:       s.undrain,
		Reload:        s.reloaded,
		Drained:       func(context.Context) (status.Drained, error) { return s.drained(), nil },
	}
	if s.mirror != nil && s.cfg().Meshsync != "" {
		plane.Promise, plane.Asked, plane.Repository = s.promise, s.mirror.Asked, http.HandlerFunc(s.serveMetadata)
		plane.Member, plane.Members = s.mirror.IsMember, s.mirror.Members
	}
	return plane
}

// access is who may connect to the administrative plane: the addresses of the configuration and those of the other members,
// who ask each other. An empty list lets every address.
func (s *sidecar) access() identity.AccessList {
	list := identity.AccessList(s.cfg().Admin.Access)
	if len(list) > 0 && s.mirror != nil {
		list = slices.Concat(list, s.mirror.Addresses())
	}
	return list
}

// serveMetadata serves the verified metadata of the depot to other members.
func (s *sidecar) serveMetadata(w http.ResponseWriter, r *http.Request) {
	dir, err := depot.Open(s.cfg().Mirror.Depot)
	if err != nil {
		http.Error(w, "there is no depot yet", http.StatusNotFound)
		return
	}
	defer dir.Close()
	dir.Metadata().ServeHTTP(w, r)
}

func (s *sidecar) startBGP() error {
	cfg, err := bgpConfig(s.cfg())
	if err != nil {
		return err
	}
	speaker, err := bgp.Start(cfg, s.log)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.speaker = speaker
	s.mu.Unlock()
	return nil
}

// bgpConfig is the speaker's part of a configuration, with the passwords that its files hold.
func bgpConfig(c *config.Config) (bgp.Config, error) {
	b := c.BGP
	cfg := bgp.Config{AS: b.AS, Origin: b.OriginAS, RouterID: b.RouterID, Listen: b.Listen, Port: b.Port, DrainPrepend: c.Drain.Prepend,
		GracefulRestart: b.GracefulRestart}
	for _, n := range b.Neighbors {
		password, err := readPassword(n.PasswordFile)
		if err != nil {
			return cfg, fmt.Errorf("neighbor %s: %w", n.Address, err)
		}
		cfg.Neighbors = append(cfg.Neighbors, bgp.Neighbor{Address: n.Address, AS: n.AS, Port: n.Port, Source: n.Source,
			HoldTime: n.HoldTime, Multihop: n.Multihop, TTLSecurity: n.TTLSecurity, BFD: n.BFD, Passive: n.Passive, Password: password,
			MaxPrefixes: n.MaxPrefixes, HoldZero: n.HoldZero,
			NextHop4: n.NextHop4, NextHop6: n.NextHop6, Attributes: attributesOf(n.Communities, n.MED, n.Prepend)})
	}
	cfg.Prefixes = map[netip.Prefix]bgp.Attributes{}
	for p, a := range b.Attributes {
		cfg.Prefixes[p] = attributesOf(a.Communities, a.MED, 0)
	}
	if d := c.Failure.Degraded; d != nil {
		cfg.Degraded = attributesOf(d.Communities, d.MED, d.Prepend)
	}
	return cfg, nil
}

func attributesOf(communities []config.Community, med *uint32, prepend uint8) bgp.Attributes {
	return bgp.Attributes{MED: med, Prepend: prepend, Communities: config.OfKind(communities, config.Standard),
		ExtendedCommunities: config.OfKind(communities, config.Extended), LargeCommunities: config.OfKind(communities, config.Large)}
}

func (s *sidecar) startIGP() error {
	announcer, err := igp.Start(igp.Config{Interface: s.cfg().IGP.Interface, Addresses: s.cfg().Shared, Lifetime: s.cfg().IGP.Lifetime})
	if err != nil {
		return fmt.Errorf("igp: %w", err)
	}
	s.mu.Lock()
	s.announcer = announcer
	s.mu.Unlock()
	return nil
}

// readPassword takes the first line of a file.
func readPassword(file string) (string, error) {
	if file == "" {
		return "", nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("password_file: %w", err)
	}
	line, _, _ := strings.Cut(string(data), "\n")
	switch {
	case line == "":
		return "", fmt.Errorf("password_file %s: its first line is empty", file)
	case strings.ContainsFunc(line, unicode.IsControl): // no router has one, and a session would never come up
		return "", fmt.Errorf("password_file %s: its first line holds a control character: was it written on Windows?", file)
	}
	return line, nil
}

// leave is a short drain, during which all goes on as before (RFC 8326).
func (s *sidecar) leave() {
	s.gate.Stop(sysclock.Now().Mono, s.cfg().Drain.Stop)
	if !s.drained().Announced {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg().Drain.Stop)
	defer cancel()
	s.log.Info("leaving", "for", s.cfg().Drain.Stop)
	s.decide()
	s.control(ctx)
}

// withdraw is the last act: the routes go before the sessions, and both before the process. decide has taken the addresses
// of the IGP down when it returns.
func (s *sidecar) withdraw() error {
	s.gate.Stop(sysclock.Now().Mono, 0)
	s.decide()
	if s.speaker == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), withdrawWithin)
	defer cancel()
	err := s.speaker.Stop(ctx)
	s.mu.Lock()
	s.speaker = nil
	s.mu.Unlock()
	s.log.Info("sessions closed")
	return err
}

// routes is what the decision asks to announce by BGP.
func (s *sidecar) routes(d gate.Decision) bgp.State {
	if !d.Announce {
		return bgp.State{}
	}
	return bgp.State{Prefixes: s.cfg().BGP.Prefixes, Draining: d.Draining, Degraded: d.Degraded}
}

// errNoMeshsync is why a node without the plugin confirms nothing.
var errNoMeshsync = errors.New("this node runs without meshsync: it takes no part in releases")
