// Command anycast-sidecar runs beside a DNS server that answers on a shared-unicast address. It announces the address
// by BGP when the node may be announced, certifies the clock for the plugin meshsync, mirrors the mesh's repository, and
// tells the distribution host what the node confirms.
//
// This package is flags, wiring and shutdown; what it wires lies in the directories below. It may import all of them
// and internal packages, and never a plugin: the two processes know each other by status documents alone.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/internal/directives"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/manpage"
	"github.com/coredns-anycast/coredns-anycast/internal/terminal"
	"github.com/coredns-anycast/coredns-anycast/internal/usage"
	"github.com/coredns-anycast/coredns-anycast/sidecar/config"
	"github.com/coredns-anycast/coredns-anycast/sidecar/corefile"
)

// version is set by the linker.
var version = "devel"

const (
	exitDone    = 0
	exitRefused = 1
	exitUsage   = 2
)

func main() { os.Exit(execute(os.Args[1:], os.Stdout, os.Stderr)) }

// execute executes one command and says how it ended.
func execute(args []string, stdout, stderr io.Writer) int {
	understood := false
	root := command()
	root.PersistentPreRun = func(*cobra.Command, []string) { understood = true } // from here on a failure is no wrong usage
	root.SetArgs(args)
	root.SetOut(terminal.Writer{Writer: stdout})
	root.SetErr(terminal.Writer{Writer: stderr})
	at, err := root.ExecuteC()
	if err == nil {
		return exitDone
	}
	fmt.Fprintln(root.ErrOrStderr(), "anycast-sidecar:", err)
	if understood && !errors.Is(err, errUsage) {
		return exitRefused
	}
	fmt.Fprintf(root.ErrOrStderr(), "hint: %s --help shows what there is\n", at.CommandPath())
	return exitUsage
}

// errUsage is wrapped by errors of the command line that its parser does not find.
var errUsage = errors.New("wrong usage")

func command() *cobra.Command {
	root := &cobra.Command{
		Use:   "anycast-sidecar",
		Short: "Announces an anycast DNS node when it is right to, and only then",
		Long: `Announces an anycast DNS node when it is right to, and only then.

Exit status: 0 done, 1 refused or failed, 2 wrong usage.`,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          usage.Commands,
		RunE:          func(*cobra.Command, []string) error { return fmt.Errorf("%w: which command?", errUsage) },
	}
	root.AddCommand(
		runCommand(),
		checkCommand(),
		reloadCommand(), statusCommand(), drainCommand(), undrainCommand(), prepareCommand(), manpage.Command(),
	)
	return root
}

func checkCommand() *cobra.Command {
	var other, program string
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "Validate a configuration and say what it would announce to whom",
		Long: `Validate a configuration and say what it would announce to whom.

Where the node's certificate, key and authority can be read, they have to be those of this node, and this machine has to have the
node's addresses. Elsewhere these are not judged. Exit status 1 if the node could not be in service.

With --corefile it is also compared with the node's Corefile: shared addresses and the probed port, the node's name, the depot
and the root, the sockets of meshsync and of the clock, and addresses of metrics that collide or lead nowhere. Plugins that this
project's coredns does not have, or refuses beside sharedunicast, are errors; with --coredns, another program is asked for those
that it has. Relative paths of the Corefile are taken from the directory in which this command runs. What arguments a plugin
takes only coredns itself knows.`,
		Args: usage.One,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := config.Load(args[0])
			if err != nil {
				return err
			}
			if other != "" {
				places, err := config.Places(args[0])
				if err != nil {
					return err
				}
				by, err := readBy(cmd.Context(), program)
				if err != nil {
					return err
				}
				if err := corefile.Compare(other, c, places, by); err != nil {
					return err
				}
			}
			describe(cmd.OutOrStdout(), c)
			if elsewhere := misplaced(args[0], c); elsewhere != "" {
				fmt.Fprintln(cmd.OutOrStdout(), "warning:", elsewhere)
			}
			if other != "" {
				fmt.Fprintf(cmd.OutOrStdout(), "%s agrees with it\n", other)
			}
			return wrongHere(c)
		},
	}
	cmd.Flags().StringVar(&other, "corefile", "", "`FILE` of the node's DNS server that has to agree")
	cmd.Flags().StringVar(&program, "coredns", "", "`FILE` of a coredns of your own, which has other plugins")
	return cmd
}

// waitPlugins bounds how long a program is waited for that is to list its plugins.
const waitPlugins = 10 * time.Second

// readBy is the program that a Corefile is for: this project's, or one that is asked for its plugins.
func readBy(ctx context.Context, program string) (corefile.Program, error) {
	if program == "" {
		return corefile.Program{Name: directives.This, Directives: directives.Shipped}, nil
	}
	ctx, stop := context.WithTimeout(ctx, waitPlugins)
	defer stop()
	out, err := exec.CommandContext(ctx, program, "-plugins").Output()
	if err != nil {
		return corefile.Program{}, fmt.Errorf("--coredns: %s -plugins: %w", program, err)
	}
	names := strings.Fields(strings.ReplaceAll(string(out), "dns.", ""))
	if !slices.Contains(names, "file") && !slices.Contains(names, "bind") {
		return corefile.Program{}, fmt.Errorf("--coredns: %s -plugins lists neither bind nor file: it is no CoreDNS", program)
	}
	return corefile.Program{Name: program, Directives: names}, nil
}

func runCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "run FILE",
		Short: "Run in the foreground until SIGTERM, which drains for a moment and withdraws; a second one ends it at once",
		Long: `Run in the foreground until SIGTERM, which drains for a moment and withdraws; a second one ends it at once.

SIGQUIT says that a new process follows at once. With bgp.graceful_restart a node that is in service then leaves its routes to the
routers, which keep them for that time at most (RFC 4724). Without it, or for any other node, SIGQUIT is as SIGTERM.

SIGHUP reads FILE again. What changes without the routes is taken at once; sessions of which only attributes change stay up. If
anything else has changed, or FILE has errors, nothing is taken, and the log says what is in the way.`,
		Args: usage.One,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := config.Load(args[0])
			if err != nil {
				return err
			}
			ctx, stop := untilSignal(cmd.Context())
			defer stop()
			return run(ctx, args[0], c, stop)
		},
	}
}

// describe says in words what a configuration means.
func describe(w io.Writer, c *config.Config) {
	fmt.Fprintf(w, "node %s answers on %s\n", c.Node, list(c.Shared))
	describeBGP(w, c)
	describeIGP(w, c)
	fmt.Fprintf(w, "announced once the DNS service has answered %d rounds of the probe; policy %s", c.Probe.Rise, c.Failure.Policy)
	if c.Failure.Policy.String() == "withdraw" {
		fmt.Fprintf(w, ": withdrawn after %d bad rounds, %v apart, and back after %v of good ones", c.Probe.Fall, c.Probe.Interval, c.Failure.ReadvertiseDelay)
		if n := c.Failure.MinAnnouncing; n > 0 {
			fmt.Fprintf(w, "; not before a distribution host has said that %d other nodes remain", n)
		}
	} else {
		fmt.Fprint(w, ": from then on the route stays until the sidecar is stopped")
	}
	fmt.Fprintln(w)
	if d := c.Failure.Degraded; d != nil {
		fmt.Fprintf(w, "while it is not well, a route that is there carries%s\n", strings.TrimPrefix(attributes(d.Communities, d.MED, d.Prepend), ","))
	}
	for _, warning := range slices.Concat(warnings(c), missing(c)) {
		fmt.Fprintln(w, "warning:", warning)
	}
	if c.Identity == nil { // nothing tells whether this is the node's machine
		for _, warning := range absent(c) {
			fmt.Fprintln(w, "warning:", warning)
		}
	}
}

// wrongHere is what of a configuration cannot work where the node's bundle is: certificate and key, and addresses that this machine does
// not have. Without a bundle nothing is wrong: check may run on another machine.
func wrongHere(c *config.Config) error {
	if !hasBundle(c) {
		return nil
	}
	if all := append(foreign(c), absent(c)...); len(all) > 0 {
		return fmt.Errorf("node %s cannot be in service like that:\n%s", c.Node, strings.Join(all, "\n"))
	}
	return nil
}

// missing are the files that a configuration names and that cannot be read here. They are no errors of check, which may
// run on another machine; run fails on them.
func missing(c *config.Config) []string {
	files := map[string]string{}
	if i := c.Identity; i != nil {
		files["identity.certificate"], files["identity.key"], files["identity.ca"] = i.Certificate, i.Key, i.CA
	}
	if c.Mirror != nil {
		files["mirror.root"] = c.Mirror.Root
		for url, ca := range c.Mirror.CA {
			if ca != config.SystemCA {
				files["ca of "+url] = ca
			}
		}
	}
	if c.BGP != nil {
		for _, n := range c.BGP.Neighbors {
			if n.PasswordFile != "" {
				files["password_file of "+n.Address.String()] = n.PasswordFile
			}
		}
	}
	var all []string
	for _, key := range slices.Sorted(maps.Keys(files)) {
		if f, err := os.Open(files[key]); err != nil {
			all = append(all, fmt.Sprintf("%s: %v", key, err))
		} else {
			f.Close()
		}
	}
	return all
}

// foreign says what of the node's certificate is another's: of another node, role, address, key or mesh than the configuration is for.
func foreign(c *config.Config) (all []string) {
	own, err := identity.Load(identity.Files{Certificate: c.Identity.Certificate, Key: c.Identity.Key, CA: c.Identity.CA}, slog.New(slog.DiscardHandler))
	if err != nil {
		return []string{err.Error()}
	}
	leaf := own.Certificate()
	if err := own.Vouched(); err != nil {
		all = append(all, fmt.Sprintf("identity.certificate is not of the mesh of identity.ca, so no member will take it: %v", err))
	}
	if role := identity.RoleOf(leaf); role != identity.Node {
		all = append(all, fmt.Sprintf("identity.certificate is that of %s, whose role is %q: a node needs the one in its own bundle", leaf.Subject.CommonName, role))
	} else if leaf.Subject.CommonName != c.Node {
		all = append(all, fmt.Sprintf("identity.certificate is that of %s, and node is %s: is this another node's bundle?", leaf.Subject.CommonName, c.Node))
	} else if c.Admin != nil && !c.Admin.Listen.Addr().IsUnspecified() && leaf.VerifyHostname(c.Admin.Listen.Addr().Unmap().String()) != nil {
		all = append(all, fmt.Sprintf("identity.certificate is not for the address of admin.listen, %s: members will not connect; meshctl member update %s --admin %s makes another", c.Admin.Listen.Addr(), c.Node, c.Admin.Listen))
	}
	return all
}

// hasBundle reports whether the certificate that a configuration names, with key and authority, can be read here.
func hasBundle(c *config.Config) bool {
	if c.Identity == nil {
		return false
	}
	for _, file := range []string{c.Identity.Certificate, c.Identity.Key, c.Identity.CA} {
		f, err := os.Open(file)
		if err != nil {
			return false
		}
		f.Close()
	}
	return true
}

// absent are the addresses of the node that no interface here has: shared ones, and that of its administrative plane.
func absent(c *config.Config) (all []string) {
	here, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	has := func(a netip.Addr) bool {
		return a.Is4() && a.IsLoopback() || slices.ContainsFunc(here, func(at net.Addr) bool {
			p, err := netip.ParsePrefix(at.String())
			return err == nil && p.Addr().Unmap() == a.Unmap()
		})
	}
	if c.Admin != nil {
		if a := c.Admin.Listen.Addr().Unmap().WithZone(""); !a.IsUnspecified() && !has(a) {
			all = append(all, fmt.Sprintf("no interface here has the address of admin.listen, %s: is this another node's machine, or bundle?", a))
		}
	}
	for _, a := range c.Shared {
		if !has(a) {
			all = append(all, fmt.Sprintf("no interface here has the shared address %s: ip addr add %s dev lo", a, netip.PrefixFrom(a, a.BitLen())))
		}
	}
	return all
}

// misplaced says that a bundle was unpacked elsewhere than it was made for.
func misplaced(file string, c *config.Config) string {
	if c.Identity == nil {
		return ""
	}
	want := c.Identity.Certificate
	beside := filepath.Join(filepath.Dir(file), filepath.Base(want))
	if _, err := os.Stat(want); err == nil || filepath.Dir(want) == filepath.Dir(beside) {
		return ""
	}
	if _, err := os.Stat(beside); err != nil {
		return ""
	}
	return fmt.Sprintf("the bundle was made for %s, and is in %s: unpack it there, or make it for here: meshctl member update %s --at DIR",
		filepath.Dir(want), filepath.Dir(beside), c.Node)
}

func describeBGP(w io.Writer, c *config.Config) {
	if c.BGP == nil {
		return
	}
	fmt.Fprintf(w, "announces as AS %d, router id %s:\n", c.BGP.AS, c.BGP.RouterID)
	if t := c.BGP.GracefulRestart; t > 0 {
		fmt.Fprintf(w, "  routers keep the routes for %v at most when the sidecar restarts or dies (RFC 4724)\n", t)
	}
	for _, p := range c.BGP.Prefixes {
		for _, n := range c.BGP.Neighbors {
			if !n.Carries(p) {
				continue
			}
			hop := "this side of the session"
			if a := n.NextHop(p); a.IsValid() {
				hop = a.String()
			}
			fmt.Fprintf(w, "  %s to %s (AS %d), next hop %s%s\n", p, n.Address, n.AS, hop, attributes(c.BGP.Attributes[p].Communities, cmp.Or(n.MED, c.BGP.Attributes[p].MED), 0)+attributes(n.Communities, nil, n.Prepend))
		}
	}
}

// attributes is what a route carries besides.
func attributes(communities []config.Community, med *uint32, prepend uint8) string {
	s := ""
	for _, c := range communities {
		s += ", community " + c.Text
	}
	if med != nil {
		s += fmt.Sprintf(", MED %d", *med)
	}
	if prepend > 0 {
		s += fmt.Sprintf(", prepended %d times", prepend)
	}
	return s
}

func describeIGP(w io.Writer, c *config.Config) {
	switch {
	case c.IGP != nil:
		fmt.Fprintf(w, "announces by the IGP: brings %s up on %s for %v at a time\n", list(c.Shared), c.IGP.Interface, c.IGP.Lifetime)
	case c.BGP == nil:
		fmt.Fprintln(w, "announces nothing: there is neither a bgp nor an igp section")
	}
}

// warnings are what is allowed and probably not meant. They are also logged at start.
func warnings(c *config.Config) []string {
	var all []string
	if c.Clock.Source == "assumed" {
		all = append(all, fmt.Sprintf("clock.source assumed: the clock is taken to be right within %v, and nobody checks: not for production", c.Clock.Bound))
	}
	if c.BGP != nil {
		for _, p := range c.BGP.Prefixes {
			all = append(all, oddPrefix(p, c)...)
		}
		for _, n := range c.BGP.Neighbors {
			if n.Passive && c.BGP.GracefulRestart > 0 {
				all = append(all, fmt.Sprintf("neighbor %s is passive: it keeps the routes through a restart only if it connects again within %v",
					n.Address, c.BGP.GracefulRestart))
			}
		}
	}
	if c.Meshsync != "" && c.Socket == "" {
		all = append(all, "meshsync without socket: the plugin cannot ask this sidecar for the clock")
	}
	if c.Control != "" && c.State == "" {
		all = append(all, "control without state: a restart of the sidecar ends a drain")
	}
	if c.Mirror != nil && c.Meshsync == "" {
		all = append(all, "mirror without meshsync: nothing here reads the depot")
	}
	return all
}

// oddPrefix says what is unusual about a prefix.
func oddPrefix(p netip.Prefix, c *config.Config) (all []string) {
	longest, shortest := 48, 16
	if p.Addr().Is4() {
		longest, shortest = 24, 8
	}
	if p.Bits() > longest {
		all = append(all, fmt.Sprintf("prefix %s is longer than /%d: most networks will not accept it from another one", p, longest))
	}
	if p.Bits() < shortest {
		all = append(all, fmt.Sprintf("prefix %s is shorter than /%d: nobody has so many addresses", p, shortest))
	}
	own := map[netip.Addr]string{}
	for _, n := range c.BGP.Neighbors {
		own[n.Address], own[n.Source], own[n.NextHop4], own[n.NextHop6] = "the neighbor", "the source", "the next hop", "the next hop"
	}
	if c.Admin != nil {
		own[c.Admin.Listen.Addr()] = "admin.listen"
	}
	for _, a := range slices.SortedFunc(maps.Keys(own), netip.Addr.Compare) {
		if p.Contains(a) {
			all = append(all, fmt.Sprintf("prefix %s holds %s %s: from elsewhere, that leads to the nearest node of the mesh", p, own[a], a))
		}
	}
	return all
}

func list[T fmt.Stringer](all []T) string {
	s := ""
	for i, one := range all {
		switch {
		case i > 0 && i == len(all)-1:
			s += " and "
		case i > 0:
			s += ", "
		}
		s += one.String()
	}
	return s
}
