// Command meshctl is the distribution host's command: it makes a mesh, takes zone files into signed releases, moves the
// mesh to them at one instant, and serves the repository to members.
//
//	meshctl init                      keys, certificates and a repository
//	meshctl adopt FILE                what a mesh makes of another server's configuration
//	meshctl member add NAME --admin HOST:PORT
//	meshctl member drain NAME...      take members out of service; --for upgrade: one after the other, and back
//	meshctl set, member update        change what these were told, and make bundles anew
//	meshctl check ZONEFILE...         what is wrong with zone files
//	meshctl keys list                 which keys speak for the mesh, and which are at hand
//	meshctl receive                   take zones in from primaries and directories
//	meshctl override REQUEST          sign, as a second person, that a release goes out in spite of errors
//	meshctl release ZONEFILE...       check, sign and publish them as the next release
//	meshctl schedule                  propose the switchover once all members have the release, and commit it
//	meshctl pause, resume             have "meshctl serve" make no release and propose no switchover in between
//	meshctl lease                     renew the permission to answer
//	meshctl serve                     all of it, unattended, and the repository for members
//	meshctl status                    the mesh as the distribution host sees it
//	meshctl history                   the last releases, and how they went
//	meshctl which-node ADDRESS...     which node answers here
//	meshctl recover COPY...           bring a home from a backup up to what nodes have verified
//	meshctl try ZONEFILE...           answer from zone files at once, on this machine
//
// A signal ends what a command waits for, and a second one the process. Nothing is lost by either: see package home.
//
// Exit status: 0 done, 1 refused or failed, 2 wrong usage. What it does is in the packages below internal; this one has the words.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/enrol"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/switchover"
	"github.com/coredns-anycast/coredns-anycast/internal/manpage"
	"github.com/coredns-anycast/coredns-anycast/internal/terminal"
	"github.com/coredns-anycast/coredns-anycast/internal/usage"
)

// version is set by build.sh.
var version = "dev"

const (
	exitDone    = 0
	exitRefused = 1
	exitUsage   = 2
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// run executes one command and says how it ended.
func run(args []string, stdout, stderr io.Writer) int {
	ends := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it: the terminal may go
		ends = append(ends, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), ends...)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process, whatever it does
	return runUntil(ctx, args, stdout, stderr)
}

// runUntil is run, until ctx ends.
func runUntil(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	stderr = terminal.Writer{Writer: stderr}
	c := &cli{out: terminal.Writer{Writer: stdout}, log: stderr, clock: time.Now}
	command := c.command()
	command.SetArgs(args)
	command.SetOut(stdout)
	command.SetErr(stderr)
	at, err := command.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	var quiet *quietError
	if !errors.As(err, &quiet) {
		fmt.Fprintln(stderr, "meshctl:", err)
	}
	var hinted *hint.Error
	switch {
	case errors.As(err, &hinted):
		fmt.Fprintln(stderr, "hint:", hinted.Hint)
	case c.started && errors.Is(err, fs.ErrPermission):
		fmt.Fprintln(stderr, "hint: give the command as the user that the home belongs to, for example: runuser -u meshctl -- "+at.CommandPath())
	}
	if !c.started {
		fmt.Fprintf(stderr, "hint: %s --help shows what there is\n", at.CommandPath())
		return exitUsage
	}
	return exitRefused
}

// quietError ends a command with status 1 after it has said why itself.
type quietError struct{}

func (*quietError) Error() string { return "refused" }

// cli is what all commands share.
type cli struct {
	out     io.Writer
	log     io.Writer
	clock   home.Clock
	dir     string     // of the home
	opened  *home.Home // see home
	json    bool
	lines   bool // JSON is one document a line
	started bool // the command line was understood
}

func (c *cli) command() *cobra.Command {
	root := &cobra.Command{
		Use:           "meshctl",
		Short:         "The distribution host of an anycast mesh: check, sign, publish and schedule releases of zones",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          usage.Commands,
		Long: `The distribution host of an anycast mesh: check, sign, publish and schedule releases of zones.

Exit status: 0 done, 1 refused or failed, 2 wrong usage.`,
		RunE: func(*cobra.Command, []string) error { return errors.New("which command?") },
	}
	root.PersistentFlags().StringVar(&c.dir, "home", defaultHome(), "directory of keys, certificates, repository and state ($MESHCTL_HOME; without either, /srv/mesh if a mesh is there and none in mesh)")
	root.AddCommand(c.initCommand(), c.adoptCommand(), c.setCommand(), c.memberCommand(), c.operatorCommand(), c.hostCommand(), c.checkCommand(), c.overrideCommand(), c.releaseCommand(), c.scheduleCommand(), c.pauseCommand(), c.resumeCommand(),
		c.leaseCommand(), c.keysCommand(), c.receiveCommand(), c.serveCommand(), c.statusCommand(), c.tryCommand(), c.whichNodeCommand(), c.historyCommand(), c.backupCommand(), c.recoverCommand(), manpage.Command())
	return root
}

// home is the one that the command line names.
func (c *cli) home() *home.Home {
	if c.opened == nil {
		c.opened = home.At(c.dir, c.clock)
	}
	return c.opened
}

// servedHome is where packages and units have the home.
const servedHome = "/srv/mesh"

func defaultHome() string { return homeFor(os.Getenv("MESHCTL_HOME"), "mesh", servedHome) }

// homeFor is the home of a command that names none: what the environment says, or the one in this directory, or else that of
// the machine, if there is one.
func homeFor(said, here, served string) string {
	if said == "" && !home.There(here) && home.There(served) {
		return served
	}
	return cmp.Or(said, here)
}

// runs wraps what a command does: from here on a failure is no wrong usage.
func (c *cli) runs(do func(cmd *cobra.Command, args []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c.started = true
		return do(cmd, args)
	}
}

// withJSON adds --json to a command that prints facts.
func (c *cli) withJSON(cmd *cobra.Command) *cobra.Command {
	cmd.Flags().BoolVar(&c.json, "json", false, "print JSON")
	return cmd
}

// warnRoot warns root in the home of another user, before it makes files there that are root's: meshctl serve of that user could
// neither read nor replace some of them.
func (c *cli) warnRoot() {
	info, err := os.Stat(c.dir)
	if err != nil || os.Geteuid() != 0 {
		return
	}
	of, ok := info.Sys().(*syscall.Stat_t)
	if !ok || of.Uid == 0 {
		return
	}
	name := strconv.FormatUint(uint64(of.Uid), 10)
	if u, err := user.LookupId(name); err == nil {
		name = u.Username
	}
	fmt.Fprintf(c.log, "warning: %s belongs to %[2]s, and files that root makes in it are root's: meshctl serve of %[2]s may fail on them. Give commands as runuser -u %[2]s -- meshctl; "+
		"afterwards chown -R --from=root %[2]s: %[1]s\n", c.dir, name)
}

// writing runs do with the home open for writing; it says nothing before it has published.
func (c *cli) writing(ctx context.Context, do func(w *home.Writer) error) error {
	c.warnRoot()
	return c.home().Write(ctx, do)
}

// ordering is writing for what publishes something by an operator's order: members are asked first, since what they say may forbid it.
func (c *cli) ordering(ctx context.Context, do func(w *home.Writer) error) error {
	if _, err := c.home().View(ctx); err != nil {
		return err
	}
	if err := c.mayOrder(ctx); err != nil {
		return err
	}
	return c.writing(ctx, do)
}

// mayOrder asks members whether something may be published.
func (c *cli) mayOrder(ctx context.Context) error {
	own, err := enrol.Identity(c.home(), c.logger())
	if err != nil {
		c.progress("members cannot be asked whether this host's state and clock are right: %v", err)
		return nil
	}
	return switchover.MayOrder(ctx, c.home(), switchover.Asker(own))
}

// print prints facts as JSON, or as words does.
func (c *cli) print(facts any, words func()) error {
	if !c.json {
		words()
		return nil
	}
	enc := json.NewEncoder(c.out)
	if !c.lines {
		enc.SetIndent("", "  ")
	}
	enc.SetEscapeHTML(false)
	return enc.Encode(facts)
}

// logger is for what happens beside the facts that a command prints.
func (c *cli) logger() *slog.Logger { return slog.New(slog.NewTextHandler(c.log, nil)) }

func (c *cli) say(format string, args ...any) { fmt.Fprintf(c.out, format+"\n", args...) }

// instantOf is t as people and scripts read it: UTC, microseconds.
func instantOf(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000Z") }

// second is t without what nobody reads.
func secondOf(t time.Time) string { return t.UTC().Format(time.RFC3339) }
