package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/enrol"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/usage"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonecheck"
)

// tryLease is how long a throwaway mesh answers: nobody renews it.
const tryLease = 30 * 24 * time.Hour

func (c *cli) tryCommand() *cobra.Command {
	var listen, coredns string
	var ignore []string
	cmd := &cobra.Command{
		Use:   "try ZONEFILE...",
		Short: "Answer from zone files at once: a mesh of one node that is gone when you press Ctrl-C",
		Long: `Answer from zone files at once: keys, a signed repository and a Corefile in a temporary directory, and coredns in the
foreground. Everything is removed at the end. The machine's clock is taken on its word, which suits one machine only.

Any zone that is fit now is answered from. For an old or odd one there is --ignore RULE: --ignore rrsig-expired, for example.

` + sourceHelp,
		Args: usage.Some,
		RunE: c.runs(func(cmd *cobra.Command, args []string) error {
			return c.try(cmd.Context(), sources(args), ignore, listen, coredns)
		}),
	}
	ignoreFlag(cmd, &ignore)
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:5300", "address and port to answer on")
	cmd.Flags().StringVar(&coredns, "coredns", "", "the coredns to run (default: the one beside meshctl, then the one in PATH)")
	return cmd
}

func (c *cli) try(ctx context.Context, from []releasing.Source, ignore []string, listen, coredns string) error {
	address, port, err := net.SplitHostPort(listen)
	if err != nil || net.ParseIP(address) == nil {
		return &hint.Error{Err: fmt.Errorf("--listen %q is not ADDRESS:PORT", listen), Hint: "for example --listen 127.0.0.1:5300"}
	}
	if err := zonecheck.DefaultConfig().Ignore(ignore...); err != nil {
		return err
	}
	if coredns, err = findCoreDNS(coredns); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "meshctl-try-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := c.tryMesh(ctx, dir, from, ignore); err != nil {
		return err
	}
	corefile := fmt.Sprintf(tryCorefile, port, address, dir)
	if err := depot.WriteFile(dir, "Corefile", []byte(corefile), 0o600); err != nil {
		return err
	}
	fmt.Fprintf(c.log, "answering on %s; try: dig @%s -p %s %s SOA\n", listen, address, port, c.firstOrigin(ctx, dir))
	return foreground(exec.Command(coredns, "-conf", filepath.Join(dir, "Corefile")))
}

// tryCorefile takes the port, the address and the directory. The server key is the root, so that every zone of the
// release is answered and everything else refused.
const tryCorefile = `.:%[1]s {
    sharedunicast %[2]s
    meshsync %[3]s/node {
        repository %[3]s/repository
        root %[3]s/root.json
        clock assume 1ms
        status unix://%[3]s/meshsync.sock
    }
    errors
}
`

// tryConfig is how zones are judged: nobody renews the lease, so signatures need not outlast it.
func tryConfig(ignore []string) []byte {
	var b strings.Builder
	b.WriteString("checks:\n  on_error: hold-release\n  rules:\n    rrsig-ends: ignore\n")
	for _, rule := range slices.Compact(slices.Sorted(slices.Values(ignore))) {
		if rule != "rrsig-ends" {
			fmt.Fprintf(&b, "    %s: warning\n", rule)
		}
	}
	return []byte(b.String())
}

// tryMesh makes a mesh without members, whose first release is current at once.
func (c *cli) tryMesh(ctx context.Context, dir string, from []releasing.Source, ignore []string) error {
	o := enrol.InitOptions{Mesh: "try", Epsilon: 100 * time.Millisecond, Lease: tryLease}
	w, err := enrol.Init(ctx, home.At(dir, c.clock), o, rand.Reader)
	if err != nil {
		return err
	}
	defer w.Close()
	if err := depot.WriteFile(dir, home.ConfigName, tryConfig(ignore), 0o600); err != nil {
		return err
	}
	c.sayIgnored(ignore)
	_, found, err := releasing.Make(ctx, w, from, releasing.Options{})
	for i, f := range found { // the configuration is in a directory that goes
		if said, _, set := strings.Cut(f.Detail, " (set by "); set && f.Severity == zone.Error && zonecheck.IsRule(f.Rule) {
			found[i].Detail = said + fmt.Sprintf(" (--ignore %s has it answered all the same)", f.Rule)
		}
	}
	printFindings(c.log, found)
	if err != nil {
		return err
	}
	if w.View().Manifest.Current == nil {
		return &hint.Error{Err: errors.New("nothing is answered"), Hint: "correct the zone files and run this again"}
	}
	return depot.WriteFile(dir, "root.json", w.Root(), 0o644)
}

func (c *cli) firstOrigin(ctx context.Context, dir string) string {
	view, err := home.At(dir, c.clock).View(ctx)
	if err != nil {
		return "."
	}
	for z := range view.Manifest.Current.All() {
		return z.Origin
	}
	return "."
}

func findCoreDNS(named string) (string, error) {
	if named != "" {
		return exec.LookPath(named)
	}
	if self, err := os.Executable(); err == nil {
		if beside, err := exec.LookPath(filepath.Join(filepath.Dir(self), "coredns")); err == nil {
			return beside, nil
		}
	}
	found, err := exec.LookPath("coredns")
	if err != nil {
		return "", &hint.Error{Err: errors.New("there is no coredns beside meshctl or in PATH"), Hint: "build it with ./build.sh, or name one with --coredns PATH"}
	}
	return found, nil
}

// foreground runs a command on this terminal and hands on the signals that would end it. Its end by such a signal is
// no failure.
func foreground(cmd *exec.Cmd) error {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = childAttributes()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	runtime.LockOSThread() // the child is told when the thread that started it ends
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	asked := false
	for {
		select {
		case s := <-signals:
			asked = true
			_ = cmd.Process.Signal(s) // it may have ended just now
		case err := <-ended:
			if asked || err == nil {
				return nil
			}
			return fmt.Errorf("coredns ended: %w", err)
		}
	}
}
