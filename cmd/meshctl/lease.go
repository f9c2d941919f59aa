package main

import (
	"fmt"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/host"
)

func (c *cli) leaseCommand() *cobra.Command {
	var length time.Duration
	cmd := c.withJSON(&cobra.Command{
		Use:   "lease",
		Short: "Renew the permission to answer; needs the lease key",
		Long: `Renew the permission to answer. A lease ends no later than the word of the root and the release key. A switchover that
has passed is put on record first, which needs the release key too.`,
		Args: cobra.NoArgs,
		RunE: c.runs(func(*cobra.Command, []string) error {
			return c.writing(func(h *host.Host) error {
				until, err := h.Lease(length)
				if err != nil {
					return err
				}
				facts := struct {
					Expires time.Time `json:"lease_expires"`
				}{until}
				return c.print(facts, func() { c.say("lease renewed until %s; %s", secondOf(until), h.View()) })
			})
		}),
	})
	cmd.Flags().DurationVar(&length, "for", 0, "length of this lease (default: as given to init)")
	return cmd
}

func (c *cli) serveCommand() *cobra.Command {
	var listen string
	var renew time.Duration
	cmd := &cobra.Command{
		Use:   "serve --listen HOST:PORT",
		Short: "Serve the repository to members over mutual TLS, and renew the lease",
		Args:  cobra.NoArgs,
		RunE: c.runs(func(cmd *cobra.Command, _ []string) error {
			if renew < time.Second {
				return fmt.Errorf("--renew %v: at least 1s", renew)
			}
			if _, err := host.Read(c.home); err != nil {
				return err
			}
			listener, err := net.Listen("tcp", listen)
			if err != nil {
				return err
			}
			logger := c.logger()
			logger.Info("serving", "home", c.home, "url", "https://"+listener.Addr().String())
			server := &host.Server{Home: c.home, Clock: c.clock, Renew: renew, Log: logger}
			return server.Run(cmd.Context(), listener)
		}),
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8444", "administrative address to serve on")
	cmd.Flags().DurationVar(&renew, "renew", time.Hour, "how old a lease may get, at most half its length")
	return cmd
}
