package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/config"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/enrol"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/switchover"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/number"
)

// scheduleJSON is what "schedule --json" prints.
type scheduleJSON struct {
	Number     uint64           `json:"number"`
	Switchover time.Time        `json:"switchover"`
	Committed  bool             `json:"committed"`
	Without    []string         `json:"without,omitempty"`
	Forced     []mesh.Missing   `json:"forced_against,omitempty"`
	Results    []history.Result `json:"results,omitempty"`
}

type scheduleFlags struct {
	in     time.Duration
	at     string
	absent absence
	force  bool
	cancel bool
	noWait bool
	wait   time.Duration
}

func (c *cli) scheduleCommand() *cobra.Command {
	var f scheduleFlags
	cmd := c.withJSON(&cobra.Command{
		Use:   "schedule [--in DURATION | --at INSTANT]",
		Short: "Propose the switchover to the staged release, commit it, and see the mesh through it",
		Long: `Propose the switchover to the staged release, commit it, and see the mesh through it.

A switchover is proposed as soon as every member has the release ready, and committed when every member has promised it. A
member that has promised does not answer from the release before after the instant. What is not promised in time is
withdrawn, and proposed again. What is committed is made, and never taken back: it is undone by another release.

A member that was not heard from for as long as --absent says is not waited for. It may go on answering from the release
before until its lease ends, if it lives and clients reach it; with --absent lease the switchover is set after that.

--force proposes and commits against what speaks against it: members that have not promised go on with the release before
until they hear of the switchover or their lease ends, so that clients of different nodes may get different answers for
that long.

--cancel withdraws a switchover that is proposed and not committed yet, which it is shortly before its instant. "meshctl serve"
then proposes none until "meshctl resume", or until this command is given again. Ctrl-C takes nothing back.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			policy, order, err := f.read()
			if err != nil {
				return err
			}
			return c.runs(func(cmd *cobra.Command, _ []string) error { return c.schedule(cmd.Context(), policy, order, f) })(cmd, args)
		},
	})
	flags := cmd.Flags()
	flags.Var(number.Duration(&f.in, 0, 24*time.Hour), "in", "lead: from the proposal to the switchover (default: as short as is safe)")
	flags.StringVar(&f.at, "at", "", "instant of the switchover, RFC 3339")
	flags.Var(&f.absent, "absent", "how long a member may be away before it is not waited for, or lease (default: as configured, or 10m)")
	flags.BoolVar(&f.force, "force", false, "propose and commit it whatever speaks against it; that is put on record")
	flags.BoolVar(&f.noWait, "no-wait", false, "end as soon as the switchover is committed")
	f.wait = 30 * time.Second
	flags.Var(number.Duration(&f.wait, 0, 24*time.Hour), "wait", "how long members may take to have the release ready, and to promise")
	flags.BoolVar(&f.cancel, "cancel", false, "withdraw the switchover that is proposed")
	cmd.MarkFlagsMutuallyExclusive("in", "at")
	cmd.MarkFlagsMutuallyExclusive("cancel", "at")
	return cmd
}

// absence is a flag for when publication goes on without a member, as "releases: absent" is.
type absence struct {
	text  string // "" if nothing was said
	value mesh.Absent
}

// Set takes what a command line says.
func (a *absence) Set(text string) (err error) {
	a.text = text
	a.value, err = config.ParseAbsent(text)
	return err
}

// String is what was said.
func (a *absence) String() string { return a.text }

// Type is what help calls it.
func (*absence) Type() string { return "duration" }

// read reads the flags.
func (f scheduleFlags) read() (p mesh.Policy, o mesh.Order, err error) {
	p.Absent = f.absent.value
	if f.in < 0 {
		return p, o, fmt.Errorf("--in %v: a lead is not negative", f.in)
	}
	p.Lead, o.Force = f.in, f.force
	if f.at == "" {
		return p, o, nil
	}
	at, err := time.Parse(time.RFC3339, f.at)
	if err != nil {
		return p, o, fmt.Errorf("--at %q: want an instant such as 2026-11-22T10:00:00Z", f.at)
	}
	o.At = instant.WallOf(at)
	return p, o, nil
}

// driver is a driver for one command.
func (c *cli) driver(ctx context.Context, p mesh.Policy) (*switchover.Driver, error) {
	if _, err := c.home().View(ctx); err != nil {
		return nil, err
	}
	own, err := enrol.Identity(c.home(), c.logger())
	if err != nil {
		return nil, err
	}
	return switchover.NewDriver(c.home(), switchover.Asker(own), p, nil), nil
}

// settlePatience is how long a command waits for a switchover that has passed to be put on record.
const settlePatience = 5 * time.Second

// settle puts a switchover on record that has passed, so that what the mesh is can be changed.
func (c *cli) settle(ctx context.Context) error {
	view, err := c.home().View(ctx)
	if err != nil || view.Manifest.Next == nil || view.Manifest.Next.Switchover.IsZero() {
		return err
	}
	config, err := c.config("")
	if err != nil {
		return err
	}
	d, err := c.driver(ctx, mesh.Policy{Manual: true, Absent: config.Releases.Absent})
	if err != nil {
		return err
	}
	return d.Settle(ctx, settlePatience)
}

func (c *cli) schedule(ctx context.Context, p mesh.Policy, o mesh.Order, f scheduleFlags) error {
	if f.cancel {
		return c.cancel(ctx)
	}
	if f.absent.text == "" {
		config, err := c.config("")
		if err != nil {
			return err
		}
		p.Absent = config.Releases.Absent
	}
	d, err := c.driver(ctx, p)
	if err != nil {
		return err
	}
	if err := c.resumed(ctx); err != nil {
		return err
	}
	d.Order = o
	seen, err := d.See(ctx, f.wait, f.noWait, c.sayRound)
	var against *switchover.AgainstError
	if errors.As(err, &against) {
		return &hint.Error{Err: err, Hint: "meshctl status says more; --absent 10s goes on without members that are away; meshctl member remove NAME strikes one that is lost; --force goes on all the same"}
	}
	if err != nil && ctx.Err() != nil {
		return c.interrupted(ctx, err)
	}
	if err != nil {
		return err
	}
	return c.saySeen(seen)
}

// leftPatience bounds the look at what a command has left that a signal ended.
const leftPatience = 2 * time.Second

// interrupted adds to the error of a signal what becomes of the switchover, which it does not take back.
func (c *cli) interrupted(ctx context.Context, err error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leftPatience)
	defer cancel()
	view, unknown := c.home().View(ctx)
	if unknown != nil || view.Manifest.Next == nil || view.Manifest.Next.Switchover.IsZero() {
		return err
	}
	next := view.Manifest.Next
	if next.Committed {
		return &hint.Error{Err: err, Hint: fmt.Sprintf("release %d is committed, and is switched to at %s all the same; meshctl status shows how it goes", next.Number, instantOf(next.Switchover))}
	}
	return &hint.Error{Err: err, Hint: fmt.Sprintf("the switchover to release %d at %s stays proposed, and a meshctl serve that runs commits it; take it back with: meshctl schedule --cancel", next.Number, instantOf(next.Switchover))}
}

// resumed ends a pause: who gives an order wants it carried out.
func (c *cli) resumed(ctx context.Context) error {
	return c.writing(ctx, func(w *home.Writer) error {
		if w.State().Paused == "" {
			return nil
		}
		return w.Carry(ctx, w.Host().Resume(w.Instant()), time.Time{}, nil, home.Event{Event: "resumed"})
	})
}

// sayRound says what was published, as it is.
func (c *cli) sayRound(r switchover.Round) {
	if !r.Done {
		return
	}
	next := r.Decision.Publish.Next
	switch r.Decision.Event {
	case mesh.EventProposed:
		c.progress("release %d: switchover proposed for %s", next.Number, instantOf(next.At.Time()))
		for _, m := range r.Decision.Detail {
			c.progress("against it: %s", m)
			c.progress("  so %s", consequence(m.Why.Code))
		}
	case mesh.EventCommitted:
		if len(r.Decision.Detail) == 0 {
			c.progress("promised by all members that are waited for, and committed")
			return
		}
		for _, m := range r.Decision.Detail {
			c.progress("not promised by %s", m)
		}
		c.progress("committed by force")
	case mesh.EventWithdrawn:
		for _, m := range r.Decision.Detail {
			c.progress("not promised by %s", m)
		}
		c.progress("withdrawn; it is proposed again when they can promise")
	}
}

func (c *cli) saySeen(seen switchover.Seen) error {
	failed := 0
	for _, r := range seen.Results {
		if !r.Switched {
			failed++
		}
	}
	facts := scheduleJSON{seen.Number, seen.At, seen.Committed, seen.Without, seen.Forced, seen.Results}
	if err := c.print(facts, func() { c.sayResults(seen) }); err != nil {
		return err
	}
	if failed > 0 {
		return &hint.Error{Err: fmt.Errorf("%d of %d members did not switch", failed, len(seen.Results)), Hint: "they recover by themselves once they can; meshctl status shows when"}
	}
	return nil
}

// consequence is what may come of a switchover that goes on without a member, in plain words.
func consequence(code string) string {
	switch code {
	case mesh.Unreachable:
		return "if it lives and does not hear of the instant, it goes on answering from the old release until its lease ends"
	case mesh.ClockUnknown:
		return "it cannot judge its lease, and is silent until its clock is certified again"
	case mesh.NearSwitchover:
		return "it is silent around the instant, for as long as its clock may be wrong"
	case mesh.ClockDiffers:
		return "it switches when its own clock says so: earlier or later than the others by that much"
	case mesh.LeapSecond:
		return "clocks that are all right may differ by a second at the instant, and so may answers"
	case mesh.TooEarly:
		return "whoever does not hear of the instant in time answers from the old release beyond it, until its lease ends"
	}
	return "it is silent from the instant on, until it has the release"
}

// cancel withdraws the switchover that is proposed.
func (c *cli) cancel(ctx context.Context) error {
	number, err := c.withdraw(ctx, "a switchover was cancelled")
	if err != nil {
		return err
	}
	facts := struct {
		Number    uint64 `json:"number"`
		Cancelled bool   `json:"cancelled"`
	}{number, true}
	return c.print(facts, func() {
		c.say("the switchover to release %d is withdrawn: it was not committed, so no member makes it", number)
		c.say("no other is proposed until: meshctl resume, or meshctl schedule")
	})
}

func (c *cli) pauseCommand() *cobra.Command {
	var why string
	cmd := &cobra.Command{
		Use:   "pause",
		Short: "Have meshctl serve make no release and propose no switchover until meshctl resume",
		Long: `Have "meshctl serve", on all distribution hosts, make no release and propose no switchover until "meshctl resume". Leases are
renewed as before, and what is committed is made.`,
		Args: cobra.NoArgs,
		RunE: c.runs(func(cmd *cobra.Command, _ []string) error {
			err := c.paused(cmd.Context(), why)
			if err == nil {
				c.say("paused; go on with: meshctl resume")
			}
			return err
		}),
	}
	cmd.Flags().StringVar(&why, "why", "paused by an operator", "for the record")
	return cmd
}

func (c *cli) resumeCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "resume",
		Short: "Have meshctl serve go on after a pause or a cancelled switchover",
		Args:  cobra.NoArgs,
		RunE: c.runs(func(cmd *cobra.Command, _ []string) error {
			err := c.resumed(cmd.Context())
			if err == nil {
				c.say("releases are made and switchovers proposed again")
			}
			return err
		}),
	}
}

// progress says how far it is, unless the output is for a program.
func (c *cli) progress(format string, args ...any) {
	if !c.json {
		c.say(format, args...)
	}
}

func (c *cli) sayResults(seen switchover.Seen) {
	if !seen.Settled {
		c.say("release %d is switched to at %s", seen.Number, instantOf(seen.At))
		return
	}
	for _, r := range seen.Results {
		switch {
		case r.Joined:
			c.say("%s answers from release %d, and made no switch at the instant", r.Member, seen.Number)
		case r.Switched:
			c.say("%s switched to release %d, %d µs after the instant", r.Member, seen.Number, r.Lateness.Microseconds())
		default:
			c.say("%s did not switch: %s", r.Member, r.Why)
		}
	}
	if len(seen.Without) > 0 {
		c.say("not waited for: %s", strings.Join(seen.Without, ", "))
	}
	c.say("release %d is current", seen.Number)
}
