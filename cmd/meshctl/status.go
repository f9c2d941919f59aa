package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/host"
)

func (c *cli) statusCommand() *cobra.Command {
	return c.withJSON(&cobra.Command{
		Use:   "status",
		Short: "The mesh as the distribution host sees it: releases, lease, members",
		Args:  cobra.NoArgs,
		RunE: c.runs(func(cmd *cobra.Command, _ []string) error {
			view, err := host.Read(c.home)
			if err != nil {
				return err
			}
			own, err := host.Identity(c.home, c.logger())
			if err != nil {
				return err
			}
			s := host.StatusOf(cmd.Context(), view, host.Asker(own, c.clock), c.clock())
			return c.print(s, func() { c.sayStatus(s) })
		}),
	})
}

func (c *cli) sayStatus(s host.Status) {
	c.say("mesh %s, clock error at most %d ms", s.Mesh, s.EpsilonMS)
	c.say("current  %s", releaseLine(s.Current))
	c.say("next     %s", releaseLine(s.Next))
	left := s.LeaseExpires.Sub(s.At).Round(time.Second)
	if left > 0 {
		c.say("lease    until %s, %v left", secondOf(s.LeaseExpires), left)
	} else {
		c.say("lease    ENDED at %s: all nodes are silent; renew it with: meshctl lease", secondOf(s.LeaseExpires))
	}
	if first := s.RoleExpires.First(); first.Sub(s.At) < host.WarnBefore {
		c.say("WARNING  the keys' word ends at %s, and the lease with it: publish a release", secondOf(first))
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	for _, m := range s.Members {
		fmt.Fprintf(w, "%s\t%s\n", m.Name, memberLine(m))
	}
	w.Flush()
	for _, d := range s.Drift {
		c.say("DRIFT    %s differs: %s", d.What, driftWords(d))
	}
}

// driftWords says who has what, the value that most have first.
func driftWords(d host.Drift) string {
	values := slices.SortedFunc(maps.Keys(d.Values), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(d.Values[b]), len(d.Values[a])), strings.Compare(a, b))
	})
	var words []string
	for _, v := range values {
		words = append(words, fmt.Sprintf("%s on %s", v[:min(12, len(v))], strings.Join(d.Values[v], ", ")))
	}
	return strings.Join(words, "; ")
}

func releaseLine(r *host.ReleaseStatus) string {
	if r == nil {
		return "none"
	}
	line := fmt.Sprintf("release %d, %d zones", r.Number, len(r.Zones))
	if r.Switchover.IsZero() {
		return line + ", staged, no switchover set"
	}
	return line + ", switchover " + instantOf(r.Switchover)
}

// memberLine sums up what a member said, in columns.
func memberLine(m host.MemberStatus) string {
	if m.Confirmation == nil {
		return "unreachable\t" + m.Error
	}
	n := m.Confirmation
	state := fmt.Sprintf("serving %d", n.Serving)
	if n.Serving == 0 {
		state = "SILENT"
	}
	clock := "clock unknown"
	if n.Clock.Known {
		clock = fmt.Sprintf("clock ±%v", n.Clock.Bound.Round(time.Microsecond))
	}
	columns := []string{state, fmt.Sprintf("ready %d", n.Confirms.Staged), clock, "not announced"}
	if n.Announced {
		columns[3] = "announced"
	}
	var why []string
	if n.Compiling != nil {
		why = append(why, n.Compiling.String())
	}
	for _, r := range n.Silent {
		why = append(why, r.String())
	}
	for _, r := range n.Why {
		why = append(why, r.String())
	}
	if n.LastFault != nil {
		why = append(why, fmt.Sprintf("%s: %s: %s", n.LastFault.File, n.LastFault.Rule, n.LastFault.Detail))
	}
	return strings.Join(append(columns, strings.Join(why, "; ")), "\t")
}
