package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/enrol"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/switchover"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/unattended"
	"github.com/coredns-anycast/coredns-anycast/internal/number"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/terminal"
)

func (c *cli) statusCommand() *cobra.Command {
	var watch bool
	every := time.Second
	cmd := c.withJSON(&cobra.Command{
		Use:   "status",
		Short: "The mesh as the distribution host sees it: releases, lease, alarms, members, drift",
		Long: `The mesh as the distribution host sees it: releases, lease, alarms, and each member: what it answers from, what it has
ready, what it is fetching or compiling and how far it is with that, how wrong its clock may be, whether it is announced, and
why not; and what differs between members. Beside that, how far "meshctl serve" on this host is with receiving and checking.

With --watch, again and again until Ctrl-C; with --json too, one document a line.`,
		Args: cobra.NoArgs,
		RunE: c.runs(func(cmd *cobra.Command, _ []string) error {
			if _, err := c.home().View(cmd.Context()); err != nil {
				return err
			}
			own, err := enrol.Identity(c.home(), c.logger())
			if err != nil {
				return err
			}
			ask := switchover.Asker(own)
			if !watch {
				return c.status(cmd.Context(), ask)
			}
			return c.watchStatus(cmd.Context(), ask, every)
		}),
	})
	cmd.Flags().BoolVar(&watch, "watch", false, "show it again and again")
	cmd.Flags().Var(number.Duration(&every, 100*time.Millisecond, time.Hour), "every", "how often, with --watch")
	return cmd
}

func (c *cli) status(ctx context.Context, ask switchover.Ask) error {
	state, err := c.home().State(ctx)
	if err != nil {
		return err
	}
	view, _, err := release.Restore(state.Published)
	if err != nil {
		return err
	}
	s := unattended.StatusOf(ctx, state, view, ask, c.clock())
	switch work, err := unattended.ReadWork(ctx, c.home()); {
	case err != nil:
		c.logger().Warn("meshctl serve does not say how far it is", "error", err)
	case work != nil: // it knows of what it receives, checks and switches, beside what is published
		s.Work, s.Alarms = work.Progress, work.Alarms
	}
	config, err := c.config("")
	if err != nil {
		c.logger().Warn("no release can be made", "error", err)
	} else {
		s.Unjudged = config.Checks.Unjudged()
	}
	return c.print(s, func() { c.sayStatus(s) })
}

// clearScreen moves to the top and clears (ECMA-48 CUP, ED).
const clearScreen = "\x1b[H\x1b[2J"

func (c *cli) watchStatus(ctx context.Context, ask switchover.Ask, every time.Duration) error {
	out, _ := c.out.(terminal.Writer)
	file, ok := out.Writer.(*os.File)
	clears := ok && !c.json && term.IsTerminal(int(file.Fd()))
	for ctx.Err() == nil {
		if clears {
			fmt.Fprint(file, clearScreen)
		}
		if err := c.status(ctx, ask); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(every):
		}
	}
	return nil
}

func (c *cli) sayStatus(s unattended.Status) {
	c.say("mesh %s, clock error at most %d ms", s.Mesh, s.EpsilonMS)
	c.say("current  %s", releaseLine(s.Current))
	c.say("next     %s", nextLine(s.Next))
	left := s.LeaseExpires.Sub(s.At).Round(time.Second)
	if left > 0 {
		c.say("lease    until %s, %v left", secondOf(s.LeaseExpires), left)
	} else {
		c.say("lease    ENDED at %s: all nodes are silent; renew it with: meshctl lease", secondOf(s.LeaseExpires))
	}
	if s.Paused != "" {
		c.say("paused   %s; go on with: meshctl resume", s.Paused)
	}
	for _, p := range s.Work {
		c.say("here     %s%s", bar(p.Share()), &p)
	}
	for _, a := range s.Alarms {
		c.say("ALARM    %s", a)
	}
	w := tabwriter.NewWriter(c.out, 0, 0, 2, ' ', 0)
	for _, m := range s.Members {
		fmt.Fprintf(w, "%s\t%s\n", m.Name, memberLine(m))
	}
	w.Flush()
	for _, d := range s.Drift {
		c.say("DRIFT    %s differs: %s", d.What, driftWords(d))
	}
	if s.Unjudged != "" {
		c.say("warning  checks do not judge %s", s.Unjudged)
	}
}

// driftWords says who has what, the value that most have first.
func driftWords(d unattended.Drift) string {
	values := slices.SortedFunc(maps.Keys(d.Values), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(d.Values[b]), len(d.Values[a])), strings.Compare(a, b))
	})
	var words []string
	for _, v := range values {
		words = append(words, fmt.Sprintf("%s on %s", v[:min(12, len(v))], strings.Join(d.Values[v], ", ")))
	}
	return strings.Join(words, "; ")
}

func releaseLine(r *unattended.ReleaseStatus) string {
	if r == nil {
		return "none"
	}
	line := fmt.Sprintf("release %d, %d zones", r.Number, len(r.Zones))
	if r.Switchover.IsZero() {
		return line
	}
	return line + ", switchover " + instantOf(r.Switchover)
}

// nextLine says of the release that is staged how far its switchover is.
func nextLine(r *unattended.ReleaseStatus) string {
	line := releaseLine(r)
	switch {
	case r == nil:
	case r.Switchover.IsZero():
		line += ", staged, no switchover proposed"
	case r.Committed:
		line += ", committed"
	default:
		line += ", proposed"
	}
	if r != nil && len(r.Without) > 0 {
		line += ", without " + strings.Join(r.Without, ", ")
	}
	return line
}

// bar draws how much is done; nothing where that is not known.
func bar(share float64, ok bool) string {
	if !ok {
		return ""
	}
	done := int(share * barWidth)
	return fmt.Sprintf("[%s%s] %d %% ", strings.Repeat("#", done), strings.Repeat(".", barWidth-done), int(share*100))
}

const barWidth = 20

// memberLine sums up what a member said, in columns.
func memberLine(m unattended.MemberStatus) string {
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
		why = append(why, bar(n.Compiling.Share())+n.Compiling.String())
	}
	if n.Transferring != nil {
		why = append(why, bar(n.Transferring.Share())+n.Transferring.String())
	}
	for _, r := range slices.Concat(n.Silent, n.Warnings) {
		why = append(why, r.String())
	}
	for _, r := range n.Why {
		why = append(why, r.String())
	}
	if n.MirrorError != "" {
		why = append(why, "mirror: "+strings.ReplaceAll(n.MirrorError, "\n", "; "))
	}
	if n.LastFault != nil {
		why = append(why, fmt.Sprintf("%s: %s: %s", n.LastFault.File, n.LastFault.Rule, n.LastFault.Detail))
	}
	return strings.Join(append(columns, strings.Join(why, "; ")), "\t")
}
