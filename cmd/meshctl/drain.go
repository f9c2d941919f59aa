package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/enrol"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/rolling"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/switchover"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/number"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/terminal"
	"github.com/coredns-anycast/coredns-anycast/internal/usage"
)

// What members can be drained for.
const (
	forUpgrade = "upgrade"
	forRestart = "restart"
)

// drainFlags are what "member drain" is told.
type drainFlags struct {
	all       bool
	purpose   string
	run       string
	why       string
	remain    int
	wait      time.Duration
	back      time.Duration
	remainSet bool // --remain was given
	waitSet   bool // --wait was given
}

func (c *cli) memberDrainCommand() *cobra.Command {
	f := drainFlags{back: 15 * time.Minute}
	cmd := &cobra.Command{
		Use:   "drain {NAME... | --all}",
		Short: "Take members out of service, or see a rolling upgrade of them through",
		Long: `Take members out of service, one after the other: their routes are made unattractive, then withdrawn. They stay out until
"meshctl member undrain".

With --for upgrade each is brought back before the next one goes: it is drained; when its routes are gone COMMAND is run, or somebody
upgrades it by hand meanwhile; when both of its programs are of another version and it answers from the current release it is
brought back into service; and when it is announced as it was before, and counts as in service, it is the next one's turn. --for
restart is the same for a change that leaves the version as it is, and needs COMMAND. COMMAND is run by /bin/sh on this host, with
$MEMBER and $ADMIN, the member's name and the address and port of its administrative plane. A drained member has no route, so routers
that keep routes through a restart (bgp.graceful_restart) keep none of it: its clients are at other nodes. A sidecar alone can be
restarted without a drain then.

No member is drained, and one that was is brought back, when fewer than --remain others are in service. At the first member that
does not come back in time this ends with status 1, and says what is left to do. Ctrl-C brings a member back as long as its routes
are not gone; after that it stays drained, since nobody here knows how far its upgrade is.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			f.remainSet, f.waitSet = cmd.Flags().Changed("remain"), cmd.Flags().Changed("wait")
			if err := f.check(args); err != nil {
				return err
			}
			return c.runs(func(cmd *cobra.Command, args []string) error { return c.drainMembers(cmd.Context(), args, f) })(cmd, args)
		},
	}
	cmd.ValidArgsFunction = c.members()
	flags := cmd.Flags()
	flags.BoolVar(&f.all, "all", false, "all members, in the order of meshctl member list")
	flags.StringVar(&f.purpose, "for", "", "upgrade or restart: bring each back before the next one goes")
	flags.StringVar(&f.run, "run", "", "`COMMAND` that changes a member, with --for")
	flags.StringVar(&f.why, "why", "", "words for the status and the log of the member")
	flags.Var(number.Int(&f.remain, 0, release.MaxMembers), "remain", "how many other members must be in service (default: half of all, and one at least)")
	flags.Var(number.Duration(&f.wait, 0, 24*time.Hour), "wait", "how long routes stay, announced as the worst of ways (default: drain.wait of the member)")
	flags.Var(number.Duration(&f.back, time.Second, 7*24*time.Hour), "return", "how long a member may take to come back, with --for")
	completeFlag(cmd, "for", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return []string{forUpgrade, forRestart}, cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

// check says what is wrong with the command line.
func (f drainFlags) check(names []string) error {
	switch {
	case f.all == (len(names) > 0):
		return errors.New("which members? Give names, or --all")
	case f.purpose != "" && f.purpose != forUpgrade && f.purpose != forRestart:
		return fmt.Errorf("--for %q: upgrade or restart", f.purpose)
	case f.purpose == "" && f.run != "":
		return errors.New("--run is for members that are brought back: give --for too")
	case f.purpose == forRestart && f.run == "":
		return errors.New("--for restart needs --run: that somebody restarted a member by hand cannot be told")
	}
	return nil
}

// pick finds members by name, in the order of the names; all of them where there are none.
func pick(members []release.Member, names []string) (picked []release.Member, err error) {
	if len(names) == 0 {
		return members, nil
	}
	var faults []error
	for _, name := range names {
		i := slices.IndexFunc(members, func(m release.Member) bool { return m.Name == name })
		switch {
		case i < 0:
			faults = append(faults, fmt.Errorf("no member is called %q", name))
		case slices.ContainsFunc(picked, func(m release.Member) bool { return m.Name == name }):
			faults = append(faults, fmt.Errorf("%s is named twice", name))
		default:
			picked = append(picked, members[i])
		}
	}
	return picked, errors.Join(faults...)
}

// How long routes may take to go once they are to, and how often a member is looked at.
const (
	withdrawWithin = time.Minute
	lookEvery      = time.Second
)

func (c *cli) drainMembers(ctx context.Context, names []string, f drainFlags) error {
	view, err := c.home().View(ctx)
	if err != nil {
		return err
	}
	all := view.Manifest.Members
	members, err := pick(all, names)
	if err != nil {
		return err
	}
	own, err := enrol.Identity(c.home(), c.logger())
	if err != nil {
		return err
	}
	if f.purpose != "" {
		release, err := c.onlyRoll()
		if err != nil {
			return err
		}
		defer release()
	}
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGPIPE) // nobody hears what is said: as after Ctrl-C
	defer stop()
	if !f.remainSet {
		f.remain = max(1, (len(all)+1)/2)
	}
	o := rolling.Order{Leave: f.purpose == "", Another: f.purpose == forUpgrade, Remain: f.remain,
		Withdraw: withdrawWithin, Return: f.back, Every: lookEvery}
	err = rolling.Roll(ctx, c.rollOf(own, f), o, members)
	var stopped *rolling.StoppedError
	if errors.As(err, &stopped) {
		return &hint.Error{Err: err, Hint: f.next(stopped)}
	}
	return err
}

// onlyRoll keeps two rolls of one home apart, which could change one member at a time. It is over with the process, whatever ends that.
func (c *cli) onlyRoll() (release func(), err error) {
	dir, err := os.Open(c.home().Path())
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(dir.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return func() { dir.Close() }, nil
	}
	dir.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, hint.Errorf("wait for it, or end it; members that are to be out of service at once: without --for",
			"another \"meshctl member drain --for\" runs on this host")
	}
	return nil, err
}

// next is what to do after a roll has stopped.
func (f drainFlags) next(s *rolling.StoppedError) string {
	again := "meshctl member drain " + strings.Join(s.Left, " ")
	if f.purpose == "" {
		return "left: " + again
	}
	others := s.Left[1:]
	if s.Drained {
		if len(others) == 0 {
			return fmt.Sprintf("when %s is good: meshctl member undrain %s; it was the last one", s.Member, s.Member)
		}
		return fmt.Sprintf("when %s is good: meshctl member undrain %s; then go on with: meshctl member drain %s --for %s", s.Member, s.Member, strings.Join(others, " "), f.purpose)
	}
	return fmt.Sprintf("left: %s; look at %s first (meshctl status), and leave it out if it is done", again+" --for "+f.purpose, s.Member)
}

// rollOf is the mesh as a roll sees it.
func (c *cli) rollOf(own *identity.Identity, f drainFlags) rolling.Mesh {
	ask := switchover.Asker(own)
	order := status.DrainOrder{Who: orderer(), Why: cmp.Or(f.why, f.purpose)}
	if f.waitSet {
		order.Wait = f.wait.String()
	}
	m := rolling.Mesh{
		Remaining: func(ctx context.Context) (names []string, current uint64, err error) {
			view, err := c.home().View(ctx)
			if err != nil {
				return nil, 0, err
			}
			for name, a := range ask(ctx, view.Manifest.Members) {
				if a.Err == nil && a.Confirmation.Remains {
					names = append(names, name)
				}
			}
			slices.Sort(names)
			if view.Manifest.Current != nil {
				current = view.Manifest.Current.Number
			}
			return names, current, nil
		},
		Look: func(ctx context.Context, m release.Member) (status.Sidecar, error) {
			return switchover.Look(ctx, own, m)
		},
		Drain: func(ctx context.Context, m release.Member) (time.Duration, error) {
			d, err := switchover.Drain(ctx, own, m, order, false)
			if err == nil && d.Warning != "" {
				err = errors.New(d.Warning)
			}
			return time.Duration(d.LeftSeconds * float64(time.Second)), err
		},
		Undrain: func(ctx context.Context, m release.Member) error {
			_, err := switchover.Drain(ctx, own, m, status.DrainOrder{Who: order.Who}, true)
			return err
		},
		Say: c.say,
	}
	if f.run != "" {
		m.Change = func(ctx context.Context, member release.Member) error { return c.change(ctx, f.run, member) }
	}
	return m
}

// changeEnds is how long the command has to end after Ctrl-C, and what it has left running to end too.
const changeEnds = 10 * time.Second

// change runs the operator's command for a member. What it says is shown. It has no terminal, so that what would ask there fails and does not
// wait; what it leaves running, such as the master of ssh's ControlPersist, is not waited for.
func (c *cli) change(ctx context.Context, command string, m release.Member) error {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-c", command)
	cmd.Env = append(os.Environ(), "MEMBER="+m.Name, "ADMIN="+strings.TrimPrefix(m.Admin, "https://"))
	cmd.Stdout, cmd.Stderr = terminal.Writer{Writer: c.log}, terminal.Writer{Writer: c.log}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // Ctrl-C is handed on once, below
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = changeEnds
	if err := cmd.Run(); !errors.Is(err, exec.ErrWaitDelay) {
		return err
	}
	return ctx.Err()
}

// orderer is who gives an order here, behind sudo as well.
func orderer() string {
	if who := os.Getenv("SUDO_USER"); who != "" {
		return who
	}
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return "somebody"
}

func (c *cli) memberUndrainCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "undrain NAME...",
		Short: "Bring members back into service",
		Long:  "Bring members back into service. Each is announced once its service is good: meshctl status shows it.",
		Args:  usage.Some,
		RunE: c.runs(func(cmd *cobra.Command, args []string) error {
			view, err := c.home().View(cmd.Context())
			if err != nil {
				return err
			}
			members, err := pick(view.Manifest.Members, args)
			if err != nil {
				return err
			}
			own, err := enrol.Identity(c.home(), c.logger())
			if err != nil {
				return err
			}
			var faults []error
			for _, m := range members {
				if _, err := switchover.Drain(cmd.Context(), own, m, status.DrainOrder{Who: orderer()}, true); err != nil {
					faults = append(faults, fmt.Errorf("%s: %w", m.Name, err))
				} else {
					c.say("%s: not drained any more", m.Name)
				}
			}
			return errors.Join(faults...)
		}),
	}
	cmd.ValidArgsFunction = c.members()
	return cmd
}
