package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/enrol"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/usage"
)

func (c *cli) hostCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "host",
		Short: "This distribution host's own certificate",
		Args:  usage.Commands,
		RunE:  func(*cobra.Command, []string) error { return fmt.Errorf("host: renew?") },
	}
	cmd.AddCommand(c.hostRenewCommand())
	return cmd
}

func (c *cli) hostRenewCommand() *cobra.Command {
	var newKey bool
	cmd := &cobra.Command{
		Use:   "renew [--new-key]",
		Short: "Make this host a new certificate, which \"meshctl serve\" takes without a restart",
		Long: `Make this host a new certificate, which "meshctl serve" takes without a restart, a second later; serve itself does so in the last
third of the certificate's life. With --new-key the key is new too, and nodes refuse the old one as soon as they have the manifest
that says so. Copy pki/host.crt and pki/host.key of the home to all other distribution hosts then: nodes refuse them until they have
them. As from the first operator on, nodes let in no operator or observer after that who is not in "meshctl operator list".`,
		Args: cobra.NoArgs,
		RunE: c.runs(func(cmd *cobra.Command, _ []string) error {
			return c.ordering(cmd.Context(), func(w *home.Writer) error {
				if err := enrol.RenewHost(cmd.Context(), w, newKey); err != nil {
					return err
				}
				c.say("this host has a new certificate; meshctl serve takes it without a restart")
				if newKey {
					c.say("nodes refuse the old key as soon as their mirrors see that; other distribution hosts need pki/host.crt and pki/host.key of %s", c.dir)
				}
				return nil
			})
		}),
	}
	cmd.Flags().BoolVar(&newKey, "new-key", false, "a new key too: the old one may be known to others")
	return cmd
}
