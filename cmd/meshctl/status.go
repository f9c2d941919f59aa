package main

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/enrol"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/switchover"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/unattended"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/number"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/terminal"
)

func (c *cli) statusCommand() *cobra.Command {
	var watch, check bool
	every := time.Second
	cmd := c.withJSON(&cobra.Command{
		Use:   "status",
		Short: "The mesh as the distribution host sees it: releases, lease, alarms, members, drift",
		Long: `The mesh as the distribution host sees it: releases, lease, alarms, and each member: what it answers from, what it has
ready, what it is fetching or compiling and how far it is with that, how wrong its clock may be, whether it is announced, and
why not; and what differs between members. Beside that, how far "meshctl serve" on this host is with receiving and checking.

With --watch, again and again until Ctrl-C; with --json too, one document a line. Each alarm and each reason that a member gives comes
with what to do about it; docs/reference/codes.md lists them all.

Status 0, whatever it shows; with --check 1 while an alarm of level "error" is on, which is printed as "ALARM", and not as "warning".`,
		Args: cobra.NoArgs,
		RunE: c.runs(func(cmd *cobra.Command, _ []string) error {
			if _, err := c.home().View(cmd.Context()); err != nil && !release.OfZones(err) {
				return err
			}
			own, err := enrol.Identity(c.home(), c.logger())
			if err != nil {
				return err
			}
			ask := switchover.Asker(own)
			if !watch {
				s, err := c.status(cmd.Context(), ask)
				if err == nil && check && slices.ContainsFunc(s.Alarms, func(a unattended.Alarm) bool { return a.Level == unattended.LevelError }) {
					return &quietError{}
				}
				return err
			}
			return c.watchStatus(cmd.Context(), ask, every)
		}),
	})
	cmd.Flags().BoolVar(&watch, "watch", false, "show it again and again")
	cmd.Flags().BoolVar(&check, "check", false, "end with status 1 while an alarm of level error is on")
	cmd.MarkFlagsMutuallyExclusive("watch", "check")
	cmd.Flags().Var(number.Duration(&every, 100*time.Millisecond, time.Hour), "every", "how often, with --watch")
	return cmd
}

func (c *cli) status(ctx context.Context, ask switchover.Ask) (unattended.Status, error) {
	state, view, damaged := c.home().Published(ctx)
	if damaged != nil && !release.OfZones(damaged) {
		return unattended.Status{}, damaged
	}
	work, err := unattended.ReadWork(ctx, c.home())
	if err != nil {
		c.logger().Warn("meshctl serve does not say how far it is", "error", err)
	}
	policy, unjudged, sources := mesh.Policy{Absent: mesh.Absent{After: mesh.DefaultAbsent}}, "", false
	if config, err := c.config(""); err != nil {
		c.logger().Warn("no release can be made", "error", err)
	} else {
		sources = config.Sources != nil
		policy.Absent, unjudged = config.Releases.Absent, config.Checks.Unjudged()
	}
	s := unattended.StatusOf(ctx, state, view, enrol.Removed(c.home(), view.Manifest, c.clock()), policy, work, ask, c.clock)
	s.Unjudged = unjudged
	if work == nil && damaged != nil {
		s.Alarms = slices.Insert(s.Alarms, 0, unattended.AlarmOf(unattended.Damaged(damaged)))
	}
	if work == nil && err == nil {
		if r, is := unattended.NotServing(c.home(), sources); is {
			s.Alarms = slices.Insert(s.Alarms, 0, unattended.AlarmOf(r))
		}
	}
	return s, c.print(s, func() { c.sayStatus(s) })
}

// clearScreen moves to the top and clears (ECMA-48 CUP, ED).
const clearScreen = "\x1b[H\x1b[2J"

func (c *cli) watchStatus(ctx context.Context, ask switchover.Ask, every time.Duration) error {
	out, _ := c.out.(terminal.Writer)
	file, ok := out.Writer.(*os.File)
	c.lines = true
	clears := ok && !c.json && term.IsTerminal(int(file.Fd()))
	for ctx.Err() == nil {
		if clears {
			fmt.Fprint(file, clearScreen)
		}
		if _, err := c.status(ctx, ask); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(every):
		}
	}
	return nil
}

// alarmLabels are the words before alarms, by level.
var alarmLabels = map[string]string{unattended.LevelError: "ALARM", unattended.LevelWarning: "warning"}

// labelWidth is how many columns the names of things take at least.
const labelWidth = 9

// line says something under a label, within the width of a terminal.
func (c *cli) line(label, format string, args ...any) {
	c.say("%s", terminal.Wrap(fmt.Sprintf("%-*s", labelWidth, label), fmt.Sprintf(format, args...), labelWidth+2))
}

func (c *cli) sayStatus(s unattended.Status) {
	c.line("mesh", "%s, clock error at most %d ms", s.Mesh, s.EpsilonMS)
	c.line("current", "%s", releaseLine(s.Current))
	c.line("next", "%s", nextLine(s.Next))
	left := s.LeaseExpires.Sub(s.At).Round(time.Second)
	if left > 0 {
		c.line("lease", "until %s, %v left", secondOf(s.LeaseExpires), left)
	} else {
		c.line("lease", "ENDED at %s", secondOf(s.LeaseExpires))
	}
	if s.Paused != "" {
		c.line("paused", "%s; go on with: meshctl resume", s.Paused)
	}
	for _, p := range s.Work {
		c.line("here", "%s%s", bar(p.Share()), &p)
	}
	for i, a := range s.Alarms {
		c.line(alarmLabels[a.Level], "%s", a.Reason)
		if i+1 == len(s.Alarms) || s.Alarms[i+1].Do != a.Do { // what is to be done about several is said once
			c.line("", "to do: %s", a.Do)
		}
	}
	for _, m := range s.Members {
		c.sayMember(m)
	}
	for _, d := range s.Drift {
		c.line("DRIFT", "%s differs: %s", d.What, driftWords(d))
	}
	for _, code := range slices.Sorted(maps.Keys(s.Remedies)) {
		if !slices.ContainsFunc(s.Alarms, func(a unattended.Alarm) bool { return a.Code == code }) { // which has said it
			c.line("to do", "%s: %s", code, s.Remedies[code])
		}
	}
	if s.Unjudged != "" {
		c.line("warning", "checks do not judge %s", s.Unjudged)
	}
}

// sayMember sums up what a member said: in one line how it is, and below it why.
func (c *cli) sayMember(m unattended.MemberStatus) {
	how, why := memberWords(m)
	c.say("%s", terminal.Wrap(fmt.Sprintf("%-*s ", labelWidth-1, m.Name), how, labelWidth+2))
	for _, w := range why {
		c.line("", "%s", w)
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
	line := fmt.Sprintf("release %d, %d zones", r.Number, r.Zones.Len())
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

// memberWords are how a member is, and why.
func memberWords(m unattended.MemberStatus) (how string, why []string) {
	route := map[bool]string{true: "announced", false: "not announced"}[m.Announced]
	n := m.Confirmation
	switch {
	case n == nil && m.Why == nil:
		return "unreachable: " + m.Error, nil
	case n == nil:
		how = "NO ANSWERS, " + route
	default:
		state := fmt.Sprintf("serving %d", n.Serving)
		if n.Serving == 0 {
			state = "SILENT"
		}
		clock := "clock unknown"
		if n.Clock.Known {
			clock = fmt.Sprintf("clock ±%v", n.Clock.Bound.Round(time.Microsecond))
		}
		how = fmt.Sprintf("%s, ready %d, %s, %s", state, n.Confirms.Staged, clock, route)
		if n.Compiling != nil {
			why = append(why, bar(n.Compiling.Share())+n.Compiling.String())
		}
		if n.Transferring != nil {
			why = append(why, bar(n.Transferring.Share())+n.Transferring.String())
		}
	}
	for _, r := range m.Reasons() {
		why = append(why, r.String())
	}
	if n != nil && n.MirrorError != "" {
		why = append(why, "mirror: "+strings.ReplaceAll(n.MirrorError, "\n", "; "))
	}
	return how, why
}
