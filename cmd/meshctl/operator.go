package main

import (
	"cmp"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/enrol"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/usage"
)

func (c *cli) operatorCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "operator",
		Short: "Who may look at nodes, and drain them",
		Args:  usage.Commands,
		RunE:  func(*cobra.Command, []string) error { return fmt.Errorf("operator: add, list, remove or renew?") },
	}
	cmd.AddCommand(c.operatorAddCommand(), c.operatorListCommand(),
		&cobra.Command{
			Use:   "remove NAME",
			Short: "Revoke a certificate: nodes refuse it as soon as their mirrors see that",
			Args:  usage.One,
			RunE: c.runs(func(cmd *cobra.Command, args []string) error {
				return c.ordering(cmd.Context(), func(w *home.Writer) error {
					if err := enrol.RemoveOperator(cmd.Context(), w, args[0]); err != nil {
						return err
					}
					c.say("%s is let in no more", args[0])
					return nil
				})
			}),
		},
		&cobra.Command{
			Use:   "renew NAME",
			Short: "Make a new certificate for the same key, to be handed over again",
			Args:  usage.One,
			RunE: c.runs(func(cmd *cobra.Command, args []string) error {
				return c.ordering(cmd.Context(), func(w *home.Writer) error {
					if err := enrol.RenewOperator(cmd.Context(), w, args[0]); err != nil {
						return err
					}
					c.say("%s has a new certificate: hand over operator.crt of %s/operators/%s", args[0], c.dir, args[0])
					return nil
				})
			}),
		})
	return cmd
}

func (c *cli) operatorAddCommand() *cobra.Command {
	var observer bool
	cmd := &cobra.Command{
		Use:   "add NAME [--observer]",
		Short: "Make a certificate for somebody who drains nodes, or only looks",
		Long: `Make a certificate for somebody who drains nodes (anycast-sidecar drain --node HOST:PORT --identity DIR, for 90 days), or
with --observer only looks: at status, confirmations and metrics (for two years). The bundle has operator.crt, operator.key and
ca.crt. From the first one on, nodes let in nobody with these roles who is not in "meshctl operator list".`,
		Args: usage.One,
		RunE: c.runs(func(cmd *cobra.Command, args []string) error {
			return c.ordering(cmd.Context(), func(w *home.Writer) error {
				role := map[bool]string{false: identity.Operator, true: identity.Observer}[observer]
				dir, err := enrol.AddOperator(cmd.Context(), w, args[0], role)
				if err != nil {
					return err
				}
				c.say("%s is an %s; hand over %s, or the same as %s.tar, to nobody else: the key is in it", args[0], role, dir, dir)
				return nil
			})
		}),
	}
	cmd.Flags().BoolVar(&observer, "observer", false, "reads, and drains nothing")
	return cmd
}

func (c *cli) operatorListCommand() *cobra.Command {
	return c.withJSON(&cobra.Command{
		Use:   "list",
		Short: "All operators and observers, and when their certificates end",
		Args:  cobra.NoArgs,
		RunE: c.runs(func(cmd *cobra.Command, _ []string) error {
			view, err := c.home().View(cmd.Context())
			if err != nil {
				return err
			}
			all := enrol.Operators(c.home(), view.Manifest)
			return c.print(all, func() {
				w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
				for _, o := range all {
					fmt.Fprintf(w, "%s\t%s\t%s\n", o.Name, cmp.Or(o.Role, "-"), c.operatorEnds(o))
				}
				w.Flush()
			})
		}),
	})
}

func (c *cli) operatorEnds(o enrol.Operator) string {
	if o.Ends.IsZero() {
		return "certificate not made here"
	}
	words := "certificate until " + secondOf(o.Ends)[:len("2006-01-02")]
	if !c.clock().Before(o.Ends) {
		words += ", which is over: meshctl operator renew"
	}
	return words
}
