package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/host"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

const sourceHelp = `A zone's origin is the owner of its SOA, or said as NAME=FILE. $INCLUDE reaches files beside the zone file.`

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

func (c *cli) checkCommand() *cobra.Command {
	return c.withJSON(&cobra.Command{
		Use:   "check ZONEFILE...",
		Short: "Say what is wrong with zone files, all of it",
		Long: "Say what is wrong with zone files, all of it: FILE:LINE: ZONE: OWNER: RULE: DETAIL. Status 1 if one of it is an error.\n\n" +
			sourceHelp,
		Args: cobra.MinimumNArgs(1),
		RunE: c.runs(func(_ *cobra.Command, args []string) error {
			var found []zone.Finding
			for _, s := range sources(args) {
				z, findings := host.Load(s)
				found = append(found, findings...)
				if z != nil && !c.json {
					c.say("%s: %s serial %d, %d records", s.File, z.Origin(), z.Serial(), z.Len())
				}
			}
			if err := c.print(findingsJSON(found), func() { printFindings(c.out, found) }); err != nil {
				return err
			}
			if zone.HasErrors(found) {
				return &quietError{}
			}
			return nil
		}),
	})
}

func sources(args []string) []host.Source {
	list := make([]host.Source, len(args))
	for i, arg := range args {
		list[i] = host.ParseSource(arg)
	}
	return list
}

func printFindings(w io.Writer, found []zone.Finding) {
	for _, f := range found {
		fmt.Fprintln(w, findingLine(f))
	}
}

// findingLine is FILE:LINE: ZONE: OWNER: RULE: DETAIL. Only a warning says what it is; "-" stands for what is unknown.
func findingLine(f zone.Finding) string {
	known := func(s string) string {
		if s == "" {
			return "-"
		}
		return s
	}
	line := fmt.Sprintf("%s:%d: %s: %s: %s: %s", f.File, f.Line, known(f.Zone), known(f.Owner), f.Rule, f.Detail)
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

// madeJSON is a release as --json prints it.
type madeJSON struct {
	Number    uint64        `json:"number"`
	Current   bool          `json:"current"`
	Replaced  uint64        `json:"replaced,omitempty"`
	Zones     int           `json:"zones"`
	Added     []string      `json:"added"`
	Changed   []string      `json:"changed"`
	Same      []string      `json:"same"`
	Withdrawn []string      `json:"withdrawn"`
	Findings  []findingJSON `json:"findings"`
}

func (c *cli) releaseCommand() *cobra.Command {
	var o host.ReleaseOptions
	cmd := c.withJSON(&cobra.Command{
		Use:   "release ZONEFILE...",
		Short: "Check zone files, sign them and publish them as the next release",
		Long: `Check zone files, sign them and publish them as the next release, staged: members take it and have it ready, and answer
from it after the switchover that "meshctl schedule" sets. A release is the zones of the files named, and with --keep
the others of the release before. If one file has an error, nothing is published.

` + sourceHelp,
		Args: cobra.MinimumNArgs(1),
		RunE: c.runs(func(_ *cobra.Command, args []string) error {
			return c.writing(func(h *host.Host) error { return c.release(h, sources(args), o) })
		}),
	})
	cmd.Flags().BoolVar(&o.Keep, "keep", false, "keep the zones of the release before that no file names")
	cmd.Flags().BoolVar(&o.Now, "now", false, "make it current at once: for a mesh that answers from nothing yet, or has no members")
	return cmd
}

func (c *cli) release(h *host.Host, from []host.Source, o host.ReleaseOptions) error {
	made, found, err := h.Release(from, o)
	if err != nil {
		return err
	}
	if !c.json || made == nil {
		printFindings(c.log, found)
	}
	if made == nil {
		return &host.HintError{Err: fmt.Errorf("nothing was published"), Hint: "correct the zone files and run this again"}
	}
	facts := madeJSON{made.Release.Number, made.Current, made.Replaced, len(made.Release.Zones),
		list(made.Added), list(made.Changed), list(made.Same), list(made.Withdrawn), findingsJSON(found)}
	return c.print(facts, func() { c.sayMade(made) })
}

func list(names []string) []string { return append([]string{}, names...) }

func (c *cli) sayMade(made *host.Made) {
	if made.Replaced != 0 {
		c.say("release %d is taken back: it was staged and never switched to", made.Replaced)
	}
	for _, kind := range []struct {
		what  string
		zones []string
	}{{"added", made.Added}, {"changed", made.Changed}, {"withdrawn", made.Withdrawn}} {
		for _, z := range kind.zones {
			c.say("%s %s", kind.what, z)
		}
	}
	number, zones := made.Release.Number, len(made.Release.Zones)
	if made.Current {
		c.say("release %d published, %d zones, current since %s", number, zones, instantOf(made.Release.Switchover))
		return
	}
	c.say("release %d published, %d zones, staged; next: meshctl schedule", number, zones)
}
