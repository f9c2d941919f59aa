package main

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/enrol"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/number"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/usage"
)

func (c *cli) initCommand() *cobra.Command {
	var o enrol.InitOptions
	var ifNone bool
	cmd := c.withJSON(&cobra.Command{
		Use:   "init",
		Short: "Make a mesh: keys, certificates, and a repository without a release",
		Long: `Make a mesh: keys, certificates, and a repository without a release. The repository is a directory of the home, or with
--repository in a bucket, where any number of distribution hosts publish by turns: each has a copy of this home.

  --repository 's3://BUCKET/PREFIX?endpoint=https://HOST:PORT&region=REGION&path-style=true'

All but the bucket may be left out. Credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, from
~/.aws/credentials and AWS_PROFILE, or from the machine's role; AWS_CA_BUNDLE names certificates to trust.`,
		Args: cobra.NoArgs,
		RunE: c.runs(func(cmd *cobra.Command, _ []string) error {
			w, err := enrol.Init(cmd.Context(), c.home(), o, rand.Reader)
			if ifNone && errors.Is(err, home.ErrMade) {
				c.progress("%s holds a mesh already: nothing is done", c.dir)
				return nil
			}
			if err != nil {
				return err
			}
			defer w.Close()
			facts := struct {
				Mesh string `json:"mesh"`
				Home string `json:"home"`
			}{o.Mesh, c.dir}
			return c.print(facts, func() { c.sayInit(o) })
		}),
	})
	f := cmd.Flags()
	f.StringVar(&o.Mesh, "mesh", "mesh", "name of the mesh")
	o.Epsilon, o.Lease = release.DefaultEpsilonMS*time.Millisecond, 24*time.Hour
	f.Var(number.Duration(&o.Epsilon, time.Millisecond, 10*time.Second), "epsilon", "clock error that members must keep")
	f.Var(number.Duration(&o.Lease, time.Second, home.MaxLease), "lease", "how long nodes may answer without hearing from here")
	f.StringVar(&o.Bucket, "repository", "", "URL of a bucket to publish in, beginning with s3:// (default: a directory of the home)")
	f.StringSliceVar(&o.Shared, "shared", nil, "the shared-unicast addresses; with --url, bundles of nodes hold their configurations")
	f.StringSliceVar(&o.URLs, "url", nil, "where nodes find the repository: of \"meshctl serve\", a web server or a bucket")
	f.BoolVar(&o.Encrypt, "encrypt", false, "keep the keys under a passphrase, asked for or in the file that $MESHCTL_PASSPHRASE_FILE names; otherwise files of mode 0600")
	f.StringVar(&o.CA, "ca", "", "certificate authority of your own (PEM); otherwise one is made")
	f.StringVar(&o.CAKey, "ca-key", "", "its key (PEM)")
	f.BoolVar(&ifNone, "if-none", false, "do nothing where the home holds a mesh already, whatever the other flags say")
	f.StringSliceVar(&o.SANs, "san", []string{"localhost", "127.0.0.1", "::1"}, "names and addresses under which members reach \"meshctl serve\"")
	return cmd
}

func (c *cli) sayInit(o enrol.InitOptions) {
	c.say("mesh %s made in %s", o.Mesh, c.dir)
	if len(o.Shared) > 0 && len(o.URLs) > 0 {
		c.say("configurations of nodes are made from %s/templates", c.dir)
	} else {
		c.say("bundles of nodes hold no configurations: these take --shared and --url")
	}
	c.say("keys: %s/keys (the root key is needed for new keys only: keep it offline)", c.dir)
	c.say("%s/keys/override.pem is a second person's, for releases that checks refuse: hand it over, and remove it here", c.dir)
	c.say("next: meshctl member add NAME --admin HOST:PORT")
}

func (c *cli) memberCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "member",
		Short: "Who is in the mesh",
		Args:  usage.Commands,
		RunE: func(*cobra.Command, []string) error {
			return fmt.Errorf("member: add, update, bundle, list, remove, renew, drain or undrain?")
		},
	}
	cmd.AddCommand(c.memberAddCommand(), c.memberUpdateCommand(), c.memberBundleCommand(), c.memberListCommand(), c.memberRemoveCommand(), c.memberRenewCommand(), c.memberDrainCommand(), c.memberUndrainCommand())
	return cmd
}

func (c *cli) memberAddCommand() *cobra.Command {
	var n enrol.NewMember
	cmd := c.withJSON(&cobra.Command{
		Use:   "add NAME --admin HOST:PORT",
		Short: "Take a node into the mesh, and write the bundle that it is given",
		Long: `Take a node into the mesh, and write the bundle that it is given: certificate, key, CA and root, and if init was told
--shared and --url a Corefile and a sidecar configuration, made from the files in HOME/templates. The node unpacks it and
starts two processes: anycast-sidecar run sidecar.yaml, and coredns -conf Corefile.`,
		Args: usage.One,
		RunE: c.runs(func(cmd *cobra.Command, args []string) error {
			if err := c.settle(cmd.Context()); err != nil {
				return err
			}
			return c.ordering(cmd.Context(), func(w *home.Writer) error {
				n.Name = args[0]
				dir, err := enrol.AddMember(cmd.Context(), w, n)
				if err != nil {
					return err
				}
				c.doubt(n.Name)
				facts := struct {
					Name   string `json:"name"`
					Bundle string `json:"bundle"` // directory; with ".tar" after it, the same as a file
				}{n.Name, dir}
				return c.print(facts, func() {
					c.say("%s is a member; give it %s, or the same as %s.tar, and nobody else: its key is in it", n.Name, dir, dir)
					at := cmp.Or(n.At, "/etc/mesh")
					c.say("next, on %s, with the shared addresses on its lo: tar -C %s -xf %s.tar; anycast-sidecar check %s/sidecar.yaml --corefile %s/Corefile; and start both programs", n.Name, at, n.Name, at, at)
				})
			})
		}),
	})
	memberFlags(cmd.Flags(), &n)
	_ = cmd.MarkFlagRequired("admin")
	return cmd
}

func (c *cli) memberBundleCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "bundle NAME",
		Short: "Write a member's bundle to standard output, as a tar file; ITS PRIVATE KEY IS IN IT",
		Long: `Write a member's bundle to standard output, as a tar file: what lies in HOME/members/NAME.tar. ITS PRIVATE KEY IS IN IT: give it to the
node NAME, and to nobody else.`,
		Args: usage.One,
		RunE: c.runs(func(cmd *cobra.Command, args []string) error {
			if err := notATerminal(cmd.OutOrStdout()); err != nil {
				return err
			}
			if !home.There(c.dir) {
				_, err := c.home().View(cmd.Context())
				return err
			}
			bundle, err := enrol.Bundle(c.home(), args[0])
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(bundle)
			return err
		}),
	}
}

func (c *cli) memberListCommand() *cobra.Command {
	type listed struct {
		release.Member
		CertificateEnds time.Time `json:"certificate_ends,omitzero"`
	}
	return c.withJSON(&cobra.Command{
		Use:   "list",
		Short: "All members, and when their certificates end",
		Args:  cobra.NoArgs,
		RunE: c.runs(func(cmd *cobra.Command, _ []string) error {
			view, err := c.home().View(cmd.Context())
			if err != nil {
				return err
			}
			members := []listed{}
			for _, m := range view.Manifest.Members {
				members = append(members, listed{m, enrol.CertificateEnds(c.home(), m.Name)})
			}
			return c.print(members, func() {
				w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
				for _, m := range members {
					fmt.Fprintf(w, "%s\t%s\t%s\n", m.Name, m.Admin, c.certificateWords(m.CertificateEnds))
				}
				w.Flush()
			})
		}),
	})
}

// certificateWords says when a certificate ends, and loudly if that is soon.
func (c *cli) certificateWords(ends time.Time) string {
	if ends.IsZero() {
		return "certificate not made here"
	}
	left := ends.Sub(c.clock())
	words := "certificate until " + ends.UTC().Format(time.DateOnly)
	if left < home.WarnBefore {
		words += fmt.Sprintf(", %d days left: meshctl member renew", int(left.Hours()/24))
	}
	return words
}

func (c *cli) memberRenewCommand() *cobra.Command {
	type renewed struct {
		Name            string    `json:"name"`
		CertificateEnds time.Time `json:"certificate_ends"`
	}
	var newKey bool
	cmd := c.withJSON(&cobra.Command{
		Use:   "renew NAME...",
		Short: "Make members new certificates, which they fetch from \"meshctl serve\" and take without a restart",
		Long: `Make members new certificates, which they fetch from "meshctl serve" and take without a restart; serve itself does so for
certificates in the last third of their life. With --new-key the key is new too, and the node must be given node.crt and
node.key from its bundle; the old key is taken until the next renewal.`,
		Args: usage.Some,
		RunE: c.runs(func(cmd *cobra.Command, args []string) error {
			done := []renewed{}
			err := c.ordering(cmd.Context(), func(w *home.Writer) error {
				for _, name := range args[len(done):] {
					if err := enrol.RenewMember(cmd.Context(), w, name, newKey); err != nil {
						return err
					}
					done = append(done, renewed{name, enrol.CertificateEnds(c.home(), name)})
				}
				return nil
			})
			return errors.Join(c.print(done, func() {
				for _, r := range done {
					c.say("%s: %s", r.Name, c.certificateWords(r.CertificateEnds))
				}
			}), err)
		}),
	})
	cmd.ValidArgsFunction = c.members()
	cmd.Flags().BoolVar(&newKey, "new-key", false, "a new key too: the old one may be known to others")
	return cmd
}

func (c *cli) memberRemoveCommand() *cobra.Command {
	cmd := c.withJSON(&cobra.Command{
		Use:   "remove NAME",
		Short: "Strike a node from the mesh: it is served no zones any more, and falls silent when it hears of that",
		Args:  usage.One,
		RunE: c.runs(func(cmd *cobra.Command, args []string) error {
			if err := c.settle(cmd.Context()); err != nil {
				return err
			}
			return c.ordering(cmd.Context(), func(w *home.Writer) error {
				if err := enrol.RemoveMember(cmd.Context(), w, args[0]); err != nil {
					return err
				}
				facts := struct {
					Name         string    `json:"name"`
					LeaseExpires time.Time `json:"lease_expires"` // of the lease that it holds, at the latest
				}{args[0], w.View().LeaseExpires}
				return c.print(facts, func() {
					c.say("%s is no member any more, and falls silent when it hears of that; the lease it holds lasts until %s at the latest", args[0], secondOf(facts.LeaseExpires))
					c.say("the next switchover waits until it has said so, or was away for as long as a member may be")
					c.say("its route stays with policy stop-dns, and clients with it: stop its sidecar, which takes the route away; meshctl status on this host says for a week whether it is there")
				})
			})
		}),
	})
	cmd.ValidArgsFunction = c.member()
	return cmd
}
