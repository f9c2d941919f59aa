package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/config"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/enrol"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/page"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/switchover"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/unattended"
	"github.com/coredns-anycast/coredns-anycast/internal/eventlog"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/number"
	"github.com/coredns-anycast/coredns-anycast/internal/receive"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
)

func (c *cli) serveCommand() *cobra.Command {
	var file, listen, zones string
	renew := time.Hour
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the mesh: receive, check, release, schedule, serve the repository to members, renew leases and certificates",
		Long: `Run the mesh unattended, as HOME/meshctl.yaml says (meshctl.example.yaml shows every key): receive zones, check them, release
what changed, propose the switchover once all members are ready, commit it when all have promised, and put on record how it went.
Beside that, serve the repository to members over mutual TLS, and renew leases and certificates. Each step is a command too, and
may be given at any time; where there is no section "sources", releases are made, and switchovers proposed, by command alone.

A browser with the certificate of an operator or observer ("meshctl operator add") is shown the mesh at https://LISTEN/.

Several of them may run, on one bucket: they take turns, and over.`,
		Args: cobra.NoArgs,
		RunE: c.runs(func(cmd *cobra.Command, _ []string) error {
			if _, err := c.home().View(cmd.Context()); err != nil && !release.OfZones(err) { // before all that needs one
				return err
			}
			c.warnRoot()
			config, err := c.config(file)
			if err != nil {
				return err
			}
			if zones != "" {
				if config.Sources, err = receive.FromDirectory(zones); err != nil {
					return err
				}
			}
			if cmd.Flags().Changed("renew") {
				config.Serve.Renew = renew
			}
			if config.Serve.Renew < time.Second {
				return fmt.Errorf("--renew %v: at least 1s", renew)
			}
			if listen != "" {
				if config.Serve.Listen, err = endpoint(listen); err != nil {
					return err
				}
			}
			if err := enrol.CheckListen(c.home(), config.Serve.Listen.Addr()); err != nil {
				return err
			}
			if what := config.Checks.Unjudged(); what != "" {
				eventlog.New(c.log, config.Serve.Log).Info("checks do not judge " + what)
			}
			return c.serve(cmd.Context(), config)
		}),
	}
	f := cmd.Flags()
	f.StringVar(&file, "config", "", "configuration (default HOME/meshctl.yaml)")
	f.StringVar(&listen, "listen", "", "administrative address to serve on (default 127.0.0.1:8444)")
	f.StringVar(&zones, "zones", "", "take in the *.zone files of this directory, and nothing else")
	f.Var(number.Duration(&renew, time.Second, 24*time.Hour), "renew", "how old a lease may get, at most a third of its length")
	return cmd
}

// endpoint takes HOST:PORT, HOST being an address or a name of this machine.
func endpoint(listen string) (netip.AddrPort, error) {
	a, err := net.ResolveTCPAddr("tcp", listen)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("--listen: %w", err)
	}
	return a.AddrPort(), nil
}

// shownReleases is how many releases the page shows.
const shownReleases = 20

func (c *cli) serve(ctx context.Context, config *config.Config) error {
	log := eventlog.New(c.log, config.Serve.Log)
	own, err := enrol.Identity(c.home(), log)
	if err != nil {
		return err
	}
	listener, err := socket.ListenTCP(config.Serve.Listen)
	if err != nil {
		return err
	}
	log.Info("serving", "home", c.dir, "url", "https://"+listener.Addr().String(), "receiving", config.Sources != nil)
	ask := switchover.Asker(own)
	driver := switchover.NewDriver(c.home(), ask, mesh.Policy{Renew: config.Serve.Renew, Lead: config.Releases.Lead,
		Absent: config.Releases.Absent, Manual: config.Sources == nil}, log)
	cycle := &unattended.Cycle{Home: c.home(), Driver: driver, Config: config, Log: log}
	server := &unattended.Server{Home: c.home(), Log: log, Cycle: cycle.State, Mesh: driver.State, Ask: ask}
	work, err := unattended.ServeWork(c.home(), cycle.Work, server.Alarms)
	if err != nil {
		log.Warn("meshctl status will not show how far this is", "error", err)
	} else {
		defer work.Close()
	}
	together, ctx := errgroup.WithContext(ctx)
	given := &orders{c: c, ctx: ctx, own: own, absent: config.Releases.Absent}
	server.Page = func(refuses func(*x509.Certificate) string) http.Handler {
		return page.New(ctx, page.Source{Log: log, Refuses: refuses, Do: given.do,
			Status: func(ctx context.Context) (unattended.Status, error) {
				now, err := server.Status(ctx)
				now.Work, now.Unjudged = cycle.Work(), config.Checks.Unjudged()
				return now, err
			},
			History: func(ctx context.Context) ([]history.Record, error) { return history.Last(ctx, c.home(), shownReleases) }})
	}
	together.Go(func() error { return server.Run(ctx, config.Serve.Access.Listener(listener, log)) })
	together.Go(func() error { driver.Run(ctx); return nil })
	if config.Sources != nil {
		together.Go(func() error { return cycle.Run(ctx) })
	}
	if config.Serve.Metrics.IsValid() {
		metrics := &http.Server{Addr: config.Serve.Metrics.String(), Handler: unattended.MetricsHandler(server, version), ReadHeaderTimeout: 5 * time.Second}
		together.Go(func() error { <-ctx.Done(); return metrics.Close() })
		together.Go(func() error {
			if err := metrics.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
				return err
			}
			return nil
		})
	}
	return together.Wait()
}
