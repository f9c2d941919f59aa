//go:build linux

// Command anycast-demo shows the whole mesh at work on one machine, on real parts: meshctl on a distribution host, three
// nodes of CoreDNS and sidecar, and routers that speak BGP to them, each in a network namespace of its own. It tells on
// the terminal what it does and sees, and fails when it does not see what it should:
//
//	keys ─► release 1 ─► answers ─► switchover under load ─► a node dies ─► a release is damaged ─► yours to dig
//
// Without root the same story takes place on loopback addresses. `./build.sh demo` builds what it needs and starts it.
//
// The process that is started is a guard: the story is told by a child of it, and when that ends, however it ends, the
// guard removes what it made. Routers are children too, since GoBGP needs a process in the right namespace.
// It decides nothing that a mesh needs, and nothing imports it; it may import what it likes.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// options are what the reader asked for.
type options struct {
	bin      string
	zone     string
	once     bool
	loopback bool
}

// The parts that this program plays, besides the guard's, by its first argument.
const (
	playStory  = "story"
	playRouter = "router"
)

func main() {
	part, args := "", os.Args[1:]
	if len(args) > 0 && (args[0] == playStory || args[0] == playRouter) {
		part, args = args[0], args[1:]
	}
	if part == playRouter {
		exit(runRouter(os.Stdin, os.Stdout, os.Stderr))
	}
	opts := parseOptions(args)
	if part == playStory {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
		defer stop()
		exit(tell(ctx, opts))
	}
	os.Exit(guard(args))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "anycast-demo:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func parseOptions(args []string) options {
	var o options
	flags := flag.NewFlagSet("anycast-demo", flag.ExitOnError)
	flags.Usage = func() {
		fmt.Fprintf(flags.Output(), "anycast-demo shows a mesh of three anycast nodes at work on this machine.\n\nUsage: anycast-demo [OPTION…]\n")
		flags.PrintDefaults()
	}
	flags.StringVar(&o.bin, "bin", filepath.Dir(self()), "`directory` of coredns, anycast-sidecar and meshctl")
	flags.StringVar(&o.zone, "zone", "", "tell the story with the zone of this `file`; NAME=FILE where the file does not say its name")
	flags.BoolVar(&o.once, "once", false, "end after the story; the status is 0 if every step showed what it should")
	flags.BoolVar(&o.loopback, "loopback", os.Geteuid() != 0, "use loopback addresses in place of network namespaces; always so without root")
	flags.Parse(args)
	if flags.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "anycast-demo: %q: only options are understood; see --help\n", flags.Arg(0))
		os.Exit(2)
	}
	o.loopback = o.loopback || os.Geteuid() != 0
	return o
}

// self is the path of this program.
func self() string {
	path, err := os.Executable()
	if err != nil {
		return os.Args[0]
	}
	return path
}

// guard has the story told by a child and removes what that leaves behind. It returns the child's status.
func guard(args []string) int {
	removeLeftovers()
	runtime.LockOSThread() // the child is told when this thread ends
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, unix.SIGTERM, unix.SIGHUP)
	story := exec.Command(self(), append([]string{playStory}, args...)...)
	story.Stdin, story.Stdout, story.Stderr = os.Stdin, os.Stdout, os.Stderr
	story.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGTERM}
	if err := story.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "anycast-demo:", err)
		return 1
	}
	go func() {
		for range signals {
			story.Process.Signal(unix.SIGTERM) // once more than needed when a terminal sent it to both
		}
	}()
	story.Wait()
	if err := cleanUp(story.Process.Pid); err != nil {
		fmt.Fprintln(os.Stderr, "anycast-demo: not removed:", err)
		return 1
	}
	if status := story.ProcessState.ExitCode(); status >= 0 {
		return status
	}
	fmt.Fprintln(os.Stderr, "anycast-demo: the story ended by", story.ProcessState)
	return 1
}

// cleanUp removes what the story of process pid made. Its processes are gone with it.
func cleanUp(pid int) error {
	dirs, _ := filepath.Glob(filepath.Join(os.TempDir(), prefix+strconv.Itoa(pid)+"-*"))
	for _, dir := range dirs {
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
	}
	return lab.RemoveNamespaces(namespacesOf(pid))
}

// removeLeftovers removes what stories made whose guard could not do it: their process is gone, and so is the power, or
// somebody killed both. What belongs to another user stays.
func removeLeftovers() {
	made := regexp.MustCompile("^" + prefix + "([0-9]+)-")
	for _, dir := range []string{lab.NetnsDir, os.TempDir()} {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			match := made.FindStringSubmatch(e.Name())
			info, err := e.Info()
			if match == nil || err != nil || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
				continue
			}
			if pid, err := strconv.Atoi(match[1]); err == nil && !tellsStory(pid) {
				cleanUp(pid)
			}
		}
	}
}

// tellsStory reports whether a process tells a story now: it is neither gone, nor a zombie, nor another one that got
// the number.
func tellsStory(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	args := strings.Split(string(line), "\x00")
	return err == nil && len(args) > 1 && args[1] == playStory
}
