package main

import (
	"crypto/rand"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/host"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

func (c *cli) initCommand() *cobra.Command {
	var o host.InitOptions
	cmd := &cobra.Command{
		Use:   "init",
		Short: "Make a mesh: keys, certificates, and a repository without a release",
		Args:  cobra.NoArgs,
		RunE: c.runs(func(*cobra.Command, []string) error {
			h, err := host.Init(c.home, o, rand.Reader, c.clock)
			if err != nil {
				return err
			}
			defer h.Close()
			c.say("mesh %s made in %s", o.Mesh, c.home)
			c.say("keys: %s/keys (the root key is needed for new keys only: keep it offline)", c.home)
			c.say("next: meshctl member add NAME --admin HOST:PORT")
			return nil
		}),
	}
	f := cmd.Flags()
	f.StringVar(&o.Mesh, "mesh", "mesh", "name of the mesh")
	f.DurationVar(&o.Epsilon, "epsilon", release.DefaultEpsilonMS*time.Millisecond, "clock error that members must keep")
	f.DurationVar(&o.Lease, "lease", 24*time.Hour, "how long nodes may answer without hearing from here")
	f.StringSliceVar(&o.SANs, "san", []string{"localhost", "127.0.0.1", "::1"}, "names and addresses under which members reach \"meshctl serve\"")
	return cmd
}

func (c *cli) memberCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "member",
		Short: "Who is in the mesh",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return fmt.Errorf("member: add, list or remove?") },
	}
	cmd.AddCommand(c.memberAddCommand(), c.memberListCommand(), c.memberRemoveCommand())
	return cmd
}

func (c *cli) memberAddCommand() *cobra.Command {
	var admin string
	cmd := &cobra.Command{
		Use:   "add NAME --admin HOST:PORT",
		Short: "Take a node into the mesh, and write the directory that it is given",
		Args:  cobra.ExactArgs(1),
		RunE: c.runs(func(_ *cobra.Command, args []string) error {
			return c.writing(func(h *host.Host) error {
				dir, err := h.AddMember(args[0], admin)
				if err != nil {
					return err
				}
				c.say("%s is a member; give it %s: root.json, ca.crt, node.crt, node.key", args[0], dir)
				return nil
			})
		}),
	}
	cmd.Flags().StringVar(&admin, "admin", "", "HOST:PORT of its sidecar's administrative plane")
	_ = cmd.MarkFlagRequired("admin")
	return cmd
}

func (c *cli) memberListCommand() *cobra.Command {
	return c.withJSON(&cobra.Command{
		Use:   "list",
		Short: "All members",
		Args:  cobra.NoArgs,
		RunE: c.runs(func(*cobra.Command, []string) error {
			view, err := host.Read(c.home)
			if err != nil {
				return err
			}
			members := view.Manifest.Members
			return c.print(members, func() {
				w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
				for _, m := range members {
					fmt.Fprintf(w, "%s\t%s\n", m.Name, m.Admin)
				}
				w.Flush()
			})
		}),
	})
}

func (c *cli) memberRemoveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME",
		Short: "Strike a node from the mesh: it is served no more, and no switchover waits for it",
		Args:  cobra.ExactArgs(1),
		RunE: c.runs(func(_ *cobra.Command, args []string) error {
			return c.writing(func(h *host.Host) error {
				if err := h.RemoveMember(args[0]); err != nil {
					return err
				}
				c.say("%s is no member any more; the lease it holds lasts until %s at the latest", args[0], secondOf(h.View().LeaseExpires))
				return nil
			})
		}),
	}
}
