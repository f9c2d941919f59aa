package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/config"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/internal/number"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/usage"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonecheck"
)

// findingJSON is a finding as --json prints it.
type findingJSON struct {
	File     string `json:"file"`
	Line     int    `json:"line"`
	Zone     string `json:"zone"`
	Owner    string `json:"owner"`
	Rule     string `json:"rule"`
	Severity string `json:"severity"`
	Detail   string `json:"detail"`
}

// checkOptions are what zone files are judged by.
type checkOptions struct {
	policy   string
	previous []string
	lease    time.Duration
	ignore   []string
	rules    bool
}

func (c *cli) checkCommand() *cobra.Command {
	var o checkOptions
	cmd := c.withJSON(&cobra.Command{
		Use:   "check ZONEFILE...",
		Short: "Say what is wrong with zone files, all of it",
		Long: `Say what is wrong with zone files, all of it: FILE:LINE: ZONE: OWNER: RULE: DETAIL. Beside the syntax, it verifies ZONEMD
and DNSSEC, compares with what the mesh of the home answers now, or with --previous, and looks for numbers, names and servers that make no sense.
The policy is the section "checks" of a configuration; checks.example.yaml shows all of it.

Status 0: no errors, perhaps warnings; 1: an error, or a file that cannot be read; 2: wrong usage.

` + sourceHelp,
		Args: func(cmd *cobra.Command, args []string) error {
			if o.rules {
				return cobra.NoArgs(cmd, args)
			}
			return usage.Some(cmd, args)
		},
		RunE: c.runs(func(cmd *cobra.Command, args []string) error {
			if o.rules {
				return c.listRules()
			}
			return c.check(cmd.Context(), args, o)
		}),
	})
	cmd.Flags().BoolVar(&o.rules, "rules", false, "list the rules that \"checks: rules\" and --ignore can set, and do nothing else")
	ignoreFlag(cmd, &o.ignore)
	cmd.Flags().StringVar(&o.policy, "policy", "", "configuration with the section \"checks\" (default HOME/meshctl.yaml, if it is there)")
	cmd.Flags().StringArrayVar(&o.previous, "previous", nil, "zone file that one of the others is to replace, instead of what is answered now; may be repeated")
	o.lease = 24 * time.Hour
	cmd.Flags().Var(number.Duration(&o.lease, 0, home.MaxLease), "lease", "how long a node may answer from the zone: signatures must last longer")
	return cmd
}

// ignoreFlag gives a command the flag --ignore.
func ignoreFlag(cmd *cobra.Command, rules *[]string) {
	cmd.Flags().StringSliceVar(rules, "ignore", nil, "rules that are warnings here, whatever the policy says; \"meshctl check --rules\" lists them")
}

// sayIgnored says what nobody should overlook.
func (c *cli) sayIgnored(rules []string) {
	if len(rules) > 0 {
		fmt.Fprintf(c.log, "IGNORED, as --ignore says: %s. No release would take what these rules have errors against.\n", strings.Join(rules, ", "))
	}
}

func (c *cli) listRules() error {
	return c.print(zonecheck.Rules, func() {
		for _, r := range zonecheck.Rules {
			fmt.Fprintf(c.out, "%-20s  %-16s  %s\n", r.Name, r.Default, r.Says)
		}
	})
}

func (c *cli) check(ctx context.Context, args []string, o checkOptions) error {
	config, err := c.config(o.policy)
	if err != nil {
		return err
	}
	policy := config.Checks
	if err := policy.Ignore(o.ignore...); err != nil {
		return err
	}
	c.sayIgnored(o.ignore)
	var found []zone.Finding
	judged := false
	before := map[string]*zone.Zone{}
	for _, s := range sources(o.previous) {
		z, findings := releasing.Load(ctx, s)
		if z == nil {
			printFindings(c.log, findings)
			return fmt.Errorf("--previous %s is no zone to compare with", s.File)
		}
		before[z.Origin()] = z
	}
	mesh, current := c.current(ctx)
	if mesh != nil {
		defer mesh.Close()
	}
	for _, s := range sources(args) {
		z, findings := releasing.Load(ctx, s)
		if z != nil {
			judged = true
			if before[z.Origin()] == nil && mesh != nil {
				if before[z.Origin()], err = releasing.Answered(ctx, mesh.Repository(), current, z.Origin()); err != nil {
					c.sayNotCompared(err)
				}
			}
			p := policy.For(z.Origin())
			findings = append(p.Apply(findings), releasing.Check(ctx, before[z.Origin()], z, p, c.clock(), o.lease)...)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		for i := range findings {
			findings[i].File = cmp.Or(findings[i].File, s.File)
		}
		found = append(found, findings...)
		if z != nil && !c.json {
			c.say("%s: %s serial %d, %d records", s.File, z.Origin(), z.Serial(), z.Len())
		}
	}
	if err := c.print(findingsJSON(found), func() { printFindings(c.out, found) }); err != nil {
		return err
	}
	if what := policy.Unjudged(); judged && what != "" {
		fmt.Fprintln(c.log, "not judged: "+what)
	}
	if zone.HasErrors(found) {
		return &quietError{}
	}
	return nil
}

// current is the home and its current release, to compare with what is answered now; nil if there is no home, since zones may be
// checked anywhere.
func (c *cli) current(ctx context.Context) (*home.Reader, *release.Release) {
	if !home.There(c.dir) {
		return nil, nil
	}
	r, err := c.home().Read(ctx)
	if err != nil {
		c.sayNotCompared(err)
		return nil, nil
	}
	_, view, _, err := r.Published()
	if err != nil {
		r.Close()
		c.sayNotCompared(err)
		return nil, nil
	}
	return r, view.Manifest.Current
}

func (c *cli) sayNotCompared(err error) {
	fmt.Fprintf(c.log, "not compared with what is answered now: %v\n", err)
}

// config reads a configuration, or that of the home if none is named: the default one, if that is not there.
func (c *cli) config(file string) (*config.Config, error) {
	if file == "" {
		return config.LoadIfThere(c.home().Path(home.ConfigName))
	}
	return config.Load(file)
}

func (c *cli) overrideCommand() *cobra.Command {
	var key, who, why string
	cmd := &cobra.Command{
		Use:   "override REQUEST --key FILE --who NAME --why REASON > FILE",
		Short: "Sign, as a second person, that zones are released although checks have errors against them",
		Long: `Sign, as a second person, that zones are released although checks have errors against them. A release that was blocked
leaves the request, which names the zones, the digests of their content, and the rules that they break; this prints it,
signed, for "meshctl release --override". It stands for exactly this content and these rules, counts for a day, and is
recorded in the release.

The key is the override key, HOME/keys/override.pem after "meshctl init": give it to a second person, who keeps it away
from the distribution host, which needs override.pub only. This command needs no home, and may run anywhere.`,
		Args: usage.One,
		RunE: c.runs(func(cmd *cobra.Command, args []string) error {
			o, err := releasing.SignOverride(cmd.Context(), args[0], key, who, why, c.clock())
			if err != nil {
				return err
			}
			data, err := o.Encode()
			if err != nil {
				return err
			}
			for _, z := range o.Zones {
				fmt.Fprintf(c.log, "signed: %s sha256 %s may break: %v\n", z.Origin, z.SHA256, z.Rules)
			}
			_, err = c.out.Write(data)
			return err
		}),
	}
	for _, f := range []struct {
		to          *string
		name, usage string
	}{{&key, "key", "the override key: as one in HOME/keys, PEM or ROLE.command"}, {&who, "who", "who signs"}, {&why, "why", "for what reason"}} {
		cmd.Flags().StringVar(f.to, f.name, "", f.usage)
		_ = cmd.MarkFlagRequired(f.name)
	}
	return cmd
}

func sources(args []string) []releasing.Source {
	list := make([]releasing.Source, len(args))
	for i, arg := range args {
		list[i] = releasing.ParseSource(arg)
	}
	return list
}

func printFindings(w io.Writer, found []zone.Finding) {
	for _, f := range found {
		fmt.Fprintln(w, findingLine(f))
	}
}

// findingLine is FILE:LINE: ZONE: OWNER: RULE: DETAIL. Only a warning says what it is. The place is left out where it is none in a file,
// and zone and owner where there is neither; "-" stands for one of these.
func findingLine(f zone.Finding) string {
	line := ""
	switch {
	case f.File != "" && (f.Line > 0 || f.Zone != ""):
		line = fmt.Sprintf("%s:%d: ", f.File, f.Line)
	case f.File != "":
		line = f.File + ": "
	}
	if f.Zone != "" || f.Owner != "" {
		line += fmt.Sprintf("%s: %s: ", cmp.Or(f.Zone, "-"), cmp.Or(f.Owner, "-"))
	}
	line += f.Rule + ": " + f.Detail
	if f.Severity != zone.Error {
		line += " (warning)"
	}
	return line
}

func findingsJSON(found []zone.Finding) []findingJSON {
	list := make([]findingJSON, len(found))
	for i, f := range found {
		list[i] = findingJSON{f.File, f.Line, f.Zone, f.Owner, f.Rule, f.Severity.String(), f.Detail}
	}
	return list
}
