package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/enrol"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/switchover"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
)

// scheduleJSON is what "schedule --json" prints.
type scheduleJSON struct {
	Number     uint64           `json:"number"`
	Switchover time.Time        `json:"switchover"`
	Forced     []mesh.Missing   `json:"forced_against,omitempty"`
	Postponed  []mesh.Missing   `json:"postponed_for,omitempty"`
	Results    []history.Result `json:"results,omitempty"`
}

type scheduleFlags struct {
	in     time.Duration
	at     string
	mode   string
	force  bool
	cancel bool
	noWait bool
	wait   time.Duration
}

func (c *cli) scheduleCommand() *cobra.Command {
	var f scheduleFlags
	cmd := c.withJSON(&cobra.Command{
		Use:   "schedule [--in DURATION | --at INSTANT]",
		Short: "Set the switchover to the staged release, and see the mesh through it",
		Long: `Set the switchover to the staged release, and see the mesh through it.

Mode confirmed needs every member's word, first that it has the release ready, then, at half the lead, that it holds the
instant; if one lacks, the switchover is postponed to when every lease that does not name it has ended. Mode lease sets
it then at once, and is safe whatever fails.

--force sets it whatever speaks against it: members that do not hold the release or the instant then go on with the old
release until their lease ends, or are silent from the switchover on, so that clients of different nodes may get
different answers for that long.

Refused, unless forced: near a leap second that a member's clock expects, and while a member's clock is not certified or
cannot be right if this host's is.

--cancel takes a switchover back, as long as members can hear of it in time. Each must say that it holds it no more; if one
does not, the switchover stands after all, so that all members make it. Ctrl-C takes nothing back.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			s, err := c.scheduleOf(f)
			if err != nil {
				return err
			}
			return c.runs(func(cmd *cobra.Command, _ []string) error { return c.schedule(cmd.Context(), s, f) })(cmd, args)
		},
	})
	flags := cmd.Flags()
	flags.DurationVar(&f.in, "in", mesh.DefaultLead, "lead: from setting the switchover to the switchover")
	flags.StringVar(&f.at, "at", "", "instant of the switchover, RFC 3339")
	flags.StringVar(&f.mode, "mode", string(mesh.Confirmed), "confirmed or lease")
	flags.BoolVar(&f.force, "force", false, "set it whatever speaks against it; it is put on record")
	flags.BoolVar(&f.noWait, "no-wait", false, "end as soon as the switchover is published, without collecting the members' word for it")
	flags.DurationVar(&f.wait, "wait", 30*time.Second, "how long members may take to have the release ready")
	flags.BoolVar(&f.cancel, "cancel", false, "take back the switchover that is set")
	completeFlag(cmd, "mode", cobra.FixedCompletions([]string{string(mesh.Confirmed), string(mesh.Lease)}, cobra.ShellCompDirectiveNoFileComp))
	cmd.MarkFlagsMutuallyExclusive("in", "at")
	cmd.MarkFlagsMutuallyExclusive("cancel", "at")
	return cmd
}

// scheduleOf reads the flags.
func (c *cli) scheduleOf(f scheduleFlags) (switchover.Schedule, error) {
	s := switchover.Schedule{Home: c.home(), Mode: mesh.Mode(f.mode), Lead: f.in, Force: f.force, Wait: f.wait}
	if s.Mode != mesh.Confirmed && s.Mode != mesh.Lease {
		return s, fmt.Errorf("--mode %q: confirmed or lease", f.mode)
	}
	if f.in < time.Second {
		return s, fmt.Errorf("--in %v: at least 1s, in which members must hear of it and confirm", f.in)
	}
	if f.at == "" {
		return s, nil
	}
	at, err := time.Parse(time.RFC3339, f.at)
	if err != nil {
		return s, fmt.Errorf("--at %q: want an instant such as 2026-11-22T10:00:00Z", f.at)
	}
	s.At = at.UTC()
	return s, nil
}

func (c *cli) schedule(ctx context.Context, s switchover.Schedule, f scheduleFlags) error {
	if _, err := s.Home.View(ctx); err != nil {
		return err
	}
	own, err := enrol.Identity(s.Home, c.logger())
	if err != nil {
		return err
	}
	s.Ask = switchover.Asker(own, c.clock)
	if f.cancel {
		return c.cancel(ctx, s)
	}
	set, err := s.Set(ctx)
	var against *switchover.AgainstError
	if errors.As(err, &against) {
		return &hint.Error{Err: err, Hint: "meshctl status says more; meshctl member remove NAME strikes a member that is lost; --force sets it all the same"}
	}
	if err != nil {
		return err
	}
	facts := scheduleJSON{Number: set.Number, Switchover: set.At, Forced: set.Against}
	c.progress("release %d: switchover set to %s", set.Number, instantOf(set.At))
	for _, m := range set.Against {
		c.progress("forced against: %s", m)
		c.progress("  so %s", consequence(m.Why.Code))
	}
	if f.noWait {
		return c.print(facts, func() {})
	}
	return c.seeThrough(ctx, s, set, facts)
}

// consequence is what may come of a switchover that is forced, in plain words.
func consequence(code string) string {
	switch code {
	case "unreachable":
		return "if it lives and does not hear of the instant, it goes on answering from the old release until its lease ends"
	case mesh.ClockUnknown:
		return "it cannot judge its lease, and is silent until its clock is certified again"
	case mesh.NearSwitchover:
		return "it is silent around the instant, for as long as its clock may be wrong"
	case mesh.ClockDiffers:
		return "it switches when its own clock says so: earlier or later than the others by that much"
	case mesh.LeapSecond:
		return "clocks that are all right may differ by a second at the instant, and so may answers"
	case "too-early":
		return "whoever does not hear of the instant in time answers from the old release beyond it, until its lease ends"
	}
	return "it is silent from the instant on, until it has the release"
}

// cancel takes back the switchover that is set.
func (c *cli) cancel(ctx context.Context, s switchover.Schedule) error {
	r, err := s.Cancel(ctx)
	if err != nil {
		return err
	}
	facts := struct {
		Number    uint64         `json:"number"`
		Cancelled bool           `json:"cancelled"`
		Holding   []mesh.Missing `json:"holding,omitempty"`
	}{r.Switchover.Number, !r.Stands, r.Holding}
	err = c.print(facts, func() { c.sayCancelled(r) })
	if r.Stands {
		return errors.Join(err, &quietError{})
	}
	return err
}

func (c *cli) sayCancelled(r switchover.Cancelled) {
	for _, m := range r.Holding {
		c.say("%s", m)
	}
	switch {
	case r.Stands:
		c.say("so the switchover to release %d at %s stands", r.Switchover.Number, instantOf(r.Switchover.At))
		c.say("it can be undone by a release with a higher number; --force takes it back all the same: who holds it then switches alone")
	case len(r.Holding) > 0:
		c.say("taken back by force: they may answer from release %d from %s on, and the others do not", r.Switchover.Number, instantOf(r.Switchover.At))
	default:
		c.say("the switchover to release %d is taken back: no member holds it", r.Switchover.Number)
	}
}

// seeThrough collects the word of the members, waits for the switchover and says how it went.
func (c *cli) seeThrough(ctx context.Context, s switchover.Schedule, set switchover.Switchover, facts scheduleJSON) error {
	reviewed, err := s.Review(ctx, set)
	if err != nil {
		return err
	}
	if !reviewed.Stands {
		facts.Switchover, facts.Postponed = reviewed.Switchover.At, reviewed.Missing
		return errors.Join(c.print(facts, func() { c.sayPostponed(reviewed) }), &quietError{})
	}
	if len(reviewed.Missing) == 0 {
		c.progress("confirmed by all members")
	}
	for _, m := range reviewed.Missing {
		c.progress("not confirmed by %s", m)
	}
	results, err := s.Await(ctx, set)
	if err != nil {
		return err
	}
	facts.Results = results
	if err := s.Record(ctx, set, results, nil); err != nil {
		return err
	}
	failed := 0
	for _, r := range results {
		if !r.Switched {
			failed++
		}
	}
	if err := c.print(facts, func() { c.sayResults(set, results) }); err != nil {
		return err
	}
	if failed > 0 {
		return &hint.Error{Err: fmt.Errorf("%d of %d members did not switch", failed, len(results)), Hint: "they recover by themselves once they can; meshctl status shows when"}
	}
	return nil
}

// progress says how far it is, unless the output is for a program.
func (c *cli) progress(format string, args ...any) {
	if !c.json {
		c.say(format, args...)
	}
}

func (c *cli) sayPostponed(r switchover.Reviewed) {
	c.say("postponed to %s, when no older lease is left: not confirmed by", instantOf(r.Switchover.At))
	for _, m := range r.Missing {
		c.say("  %s", m)
	}
	c.say("sooner: bring it back, or strike it with meshctl member remove, and run meshctl schedule again")
}

func (c *cli) sayResults(set switchover.Switchover, results []history.Result) {
	for _, r := range results {
		if r.Switched {
			c.say("%s switched to release %d, %d µs after the instant", r.Member, set.Number, r.Lateness.Microseconds())
		} else {
			c.say("%s did not switch: %s", r.Member, r.Why)
		}
	}
	c.say("release %d is current", set.Number)
}
