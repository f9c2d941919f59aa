package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"reflect"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/usage"
	"github.com/coredns-anycast/coredns-anycast/sidecar/admin"
	"github.com/coredns-anycast/coredns-anycast/sidecar/bgp"
	"github.com/coredns-anycast/coredns-anycast/sidecar/config"
	"github.com/coredns-anycast/coredns-anycast/sidecar/probe"
)

// reloadOn reads the configuration at path again with each signal, until ctx ends.
func (s *sidecar) reloadOn(ctx context.Context, signals <-chan os.Signal, path string) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
			s.reloadFile(path)
		}
	}
}

// reloadFile reads the configuration again, and logs what came of it.
func (s *sidecar) reloadFile(path string) error {
	next, err := config.Load(path)
	if err == nil {
		err = s.reload(next)
	}
	var all config.Errors
	switch {
	case errors.As(err, &all):
		for _, one := range all {
			s.log.Error("the configuration is not taken", "error", one)
		}
	case err != nil:
		s.log.Error("the configuration is not taken", "error", err)
	default:
		s.log.Info("configuration taken", "file", path)
		for _, warning := range warnings(next) {
			s.log.Warn(warning)
		}
	}
	return err
}

func reloadCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "reload FILE",
		Short: "Have the sidecar here take its configuration FILE as it is now, and say what is in the way",
		Args:  usage.One,
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := new(orders).plane(args)
			if err != nil {
				return err
			}
			var d status.Drained
			if err := p.ask(cmd.Context(), http.MethodPost, "/v1/reload", nil, &d); err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s taken; %s\n", d.Node, args[0], progress(d))
			return nil
		},
	}
}

// reloaded is reloadFile as an order.
func (s *sidecar) reloaded(context.Context) (status.Drained, error) {
	if err := s.reloadFile(s.path); err != nil {
		return status.Drained{}, fmt.Errorf("%w: %w", admin.ErrOrder, err)
	}
	return s.drained(), nil
}

// reload takes a configuration, all of it or nothing. The control loop does it between two rounds, and decides anew.
func (s *sidecar) reload(next *config.Config) error {
	old := s.cfg()
	if keys := needRestart(old, next); len(keys) > 0 {
		return fmt.Errorf("these take a restart, and nothing else is taken without them: %s", strings.Join(keys, ", "))
	}
	var speak bgp.Config
	if next.BGP != nil {
		var err error
		if speak, err = bgpConfig(next); err != nil {
			return err
		}
	}
	var fault error
	if err := s.tell(func() {
		if s.speaker != nil {
			if fault = s.speaker.Reconfigure(speak); fault != nil {
				return
			}
		}
		s.conf.Store(next)
		s.gate.Configure(gateConfig(next))
		s.prober = probe.New(probeConfig(next))
	}); err != nil {
		return err
	}
	if fault != nil {
		return fault
	}
	s.clock.SetLimit(next.Clock.Limit)
	if s.mirror != nil {
		s.mirror.SetInterval(next.Mirror.Interval)
	}
	return nil
}

// needRestart names the keys that have changed and are in use by what is started once: sockets and listeners, who the node is,
// what else it reads and writes.
func needRestart(old, next *config.Config) (keys []string) {
	changed := func(key string, a, b any) {
		if !reflect.DeepEqual(a, b) {
			keys = append(keys, key)
		}
	}
	for _, k := range []struct {
		key  string
		a, b any
	}{
		{"node", old.Node, next.Node}, {"shared", old.Shared, next.Shared}, {"socket", old.Socket, next.Socket},
		{"control", old.Control, next.Control}, {"state", old.State, next.State}, {"meshsync", old.Meshsync, next.Meshsync},
		{"identity", old.Identity, next.Identity}, {"admin.listen", listens(old), listens(next)}, {"metrics", old.Metrics, next.Metrics},
		{"dns_metrics", old.DNSMetrics, next.DNSMetrics}, {"log", old.Log, next.Log}, {"clock, but for limit", old.Clock.Options, next.Clock.Options}, {"igp", old.IGP, next.IGP},
	} {
		changed(k.key, k.a, k.b)
	}
	if old.BGP == nil || next.BGP == nil {
		changed("bgp", old.BGP == nil, next.BGP == nil)
	} else {
		a, b := *old.BGP, *next.BGP
		changed("bgp.as", a.AS, b.AS)
		changed("bgp.origin_as", a.OriginAS, b.OriginAS)
		changed("bgp.router_id", a.RouterID, b.RouterID)
		changed("bgp.listen", a.Listen, b.Listen)
		changed("bgp.port", a.Port, b.Port)
		changed("bgp.graceful_restart", a.GracefulRestart, b.GracefulRestart)
	}
	if old.Mirror == nil || next.Mirror == nil {
		changed("mirror", old.Mirror == nil, next.Mirror == nil)
	} else {
		a, b := *old.Mirror, *next.Mirror
		a.Interval = b.Interval
		changed("mirror, but for interval", a, b)
	}
	return keys
}

// listens is where the administrative plane does, zero if there is none.
func listens(c *config.Config) (at netip.AddrPort) {
	if c.Admin != nil {
		at = c.Admin.Listen
	}
	return at
}
