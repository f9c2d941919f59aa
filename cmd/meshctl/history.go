package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/internal/number"
)

func (c *cli) historyCommand() *cobra.Command {
	limit := 20
	var timing bool
	cmd := c.withJSON(&cobra.Command{
		Use:   "history",
		Short: "The last releases: who made them, what changed, how each node switched",
		Args:  cobra.NoArgs,
		RunE: c.runs(func(cmd *cobra.Command, _ []string) error {
			view, err := c.home().View(cmd.Context()) // before the records: a release that is made meanwhile is no gap
			if err != nil {
				return err
			}
			records, err := history.Last(cmd.Context(), c.home(), limit)
			if err != nil {
				return err
			}
			return c.print(records, func() {
				above := uint64(0)
				if latest := view.Manifest.Latest(); latest != nil {
					above = latest.Number + 1
				}
				for _, r := range records {
					c.sayUnrecorded(r.Number, above)
					c.sayRecord(r, timing)
					above = r.Number
				}
				if len(records) == 0 {
					c.sayUnrecorded(0, above)
				}
			})
		}),
	})
	cmd.Flags().Var(number.Int(&limit, 1, history.KeepRecords), "last", "how many releases")
	cmd.Flags().BoolVar(&timing, "timing", false, "how long each step took, and when it was after the zones had come")
	return cmd
}

// sayUnrecorded says that releases between two, of which the higher is shown already, have no record in this home.
func (c *cli) sayUnrecorded(below, above uint64) {
	const why = "no record here; it was made after the backup that this home was restored from, or elsewhere"
	switch {
	case above <= below+1:
	case above == below+2:
		c.say("release %d: %s", below+1, why)
	default:
		c.say("releases %d to %d: %s", below+1, above-1, strings.Replace(why, "it was", "they were", 1))
	}
}

func (c *cli) sayRecord(r history.Record, timing bool) {
	c.say("release %d, made %s by %s", r.Number, secondOf(r.Made), r.By)
	for _, z := range r.Zones {
		serial := fmt.Sprintf("serial %d", z.To)
		if z.From != 0 {
			serial = fmt.Sprintf("serial %d → %d", z.From, z.To)
		}
		c.say("  %s %s, records: %d added, %d removed", z.Origin, serial, z.Added, z.Removed)
	}
	for _, origin := range r.Withdrawn {
		c.say("  %s withdrawn", origin)
	}
	for _, held := range r.Held {
		c.say("  %s HELD BACK at serial %d", held.Origin, held.Serial)
	}
	if r.Override != nil {
		c.say("  OVERRIDDEN by %s: %s", r.Override.Who, r.Override.Why)
	}
	if len(r.Results) > 0 || !r.Switchover.IsZero() {
		c.say("  switchover %s%s", instantOf(r.Switchover), resultsWords(r.Results))
	} else {
		c.say("  not switched to, as far as is known here")
	}
	if timing {
		c.sayTiming(r)
	}
}

func (c *cli) sayTiming(r history.Record) {
	for _, s := range r.Timing {
		c.say("  %8.3f s  %s", s.Seconds, s.Name)
	}
	from, moments := r.Moments()
	for _, m := range moments {
		c.say("  %+8.3f s  %s", m.At.Sub(from).Seconds(), m.What)
	}
	for _, m := range r.Missed() {
		c.say("  %8s    %s MISSED the switchover: %s", "never", m.Member, m.Why)
	}
}

func resultsWords(results []history.Result) string {
	var words []string
	for _, r := range results {
		switch {
		case r.Joined:
			words = append(words, r.Member+" answers from it, and made no switch at the instant")
		case r.Switched:
			words = append(words, fmt.Sprintf("%s +%d µs", r.Member, r.Lateness.Microseconds()))
		default:
			words = append(words, r.Member+" MISSED: "+r.Why)
		}
	}
	if len(words) == 0 {
		return ""
	}
	return ": " + strings.Join(words, ", ")
}
