package main

import (
	"time"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/number"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

func (c *cli) leaseCommand() *cobra.Command {
	var length time.Duration
	cmd := c.withJSON(&cobra.Command{
		Use:   "lease",
		Short: "Renew the permission to answer; needs the lease key",
		Long:  `Renew the permission to answer. A lease ends no later than the word of the root and the release key.`,
		Args:  cobra.NoArgs,
		RunE: c.runs(func(cmd *cobra.Command, _ []string) error {
			if _, err := c.home().View(cmd.Context()); err != nil && !release.OfZones(err) { // a lease needs no zones
				return err
			}
			if err := c.mayOrder(cmd.Context()); err != nil {
				return err
			}
			c.warnRoot()
			return c.home().WriteLease(cmd.Context(), func(w *home.Writer) error {
				until, err := w.Renew(cmd.Context(), length)
				if err != nil {
					return err
				}
				facts := struct {
					Expires time.Time `json:"lease_expires"`
				}{until}
				return c.print(facts, func() { c.say("lease renewed until %s; %s", secondOf(until), w.View()) })
			})
		}),
	})
	cmd.Flags().Var(number.Duration(&length, 0, home.MaxLease), "for", "length of this lease (default: as given to init)")
	return cmd
}
