package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/adopting"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/internal/adopt"
	"github.com/coredns-anycast/coredns-anycast/internal/fields"
	"github.com/coredns-anycast/coredns-anycast/internal/usage"
)

// adoptedJSON is what becomes of a configuration, as --json prints it.
type adoptedJSON struct {
	File    string             `json:"file"`
	Parts   []adopt.Part       `json:"parts"`
	Zones   []string           `json:"zones"`
	Written []adopting.Written `json:"written"`
}

func (c *cli) adoptCommand() *cobra.Command {
	var format, primary string
	var o adopt.Options
	var write bool
	cmd := c.withJSON(&cobra.Command{
		Use:   "adopt FILE",
		Short: "Take over the configuration of a DNS server, and say part by part what a mesh makes of it",
		Long: `Take over the configuration of a DNS server, and say part by part what a mesh makes of it:
FILE:LINE: BLOCK: PART: FATE: WHY. A part is "kept" as it is, "changed" into something else, has "no counterpart", or is
"not adopted" until something is done about it.

FILE is the Corefile of CoreDNS, or knot.conf, nsd.conf or named.conf. CoreDNS is replaced. The others stay as hidden primaries: their
zones come by transfer, by the key that their access lists name. With --whole they are replaced too: zone files are copied, and
secondary zones come from where they come from now.

Nothing is written without --write. With it, the home has then copies of the zone files in HOME/zonefiles, the secrets of TSIG keys
in files of mode 0600, what was kept in HOME/templates/Corefile, and in HOME/meshctl.yaml where zones come from. A home that
has sources already is left as it is. "meshctl serve" makes the first release of that.

Status 1 if the file has errors, if nothing in it is a zone that a mesh could answer, or if --write left something out as "not adopted",
which is said again at the end.`,
		Args: usage.One,
		RunE: c.runs(func(cmd *cobra.Command, args []string) error {
			f, err := formatOf(args[0], format)
			if err != nil {
				return err
			}
			if primary != "" {
				if o.Primary, err = fields.Address(primary); err != nil {
					return fmt.Errorf("--primary: %w", err)
				}
			}
			plan, err := f.Read(args[0], o)
			if err != nil {
				return err
			}
			facts := adoptedJSON{plan.File, append([]adopt.Part{}, plan.Parts...), plan.Names(), []adopting.Written{}}
			var fault error
			var members int
			if write && !plan.Nothing() {
				view, err := c.home().View(cmd.Context())
				if err != nil {
					return err
				}
				members = len(view.Manifest.Members)
				facts.Written, fault = adopting.Write(c.home(), plan)
			}
			err = c.print(facts, func() { c.sayAdopted(plan, facts.Written) })
			switch {
			case err != nil || fault != nil:
				return errors.Join(fault, err)
			case plan.Nothing():
				return errors.New("there is no zone that a mesh could answer")
			case !c.json:
				if plan.Keeps("acl") {
					c.say("first: let the shared address, from which the probe asks, into each acl; a node that refuses it is not announced. anycast-sidecar check --corefile tells")
				}
				c.sayNext(write, members)
			}
			if n := plan.Count(adopt.Refused); write && n > 0 {
				return c.leftBehind(plan, n)
			}
			return nil
		}),
	})
	cmd.Flags().StringVar(&format, "format", "", "corefile, knot, nsd or named (default: what the file's name begins with)")
	cmd.Flags().StringVar(&primary, "primary", "", "address at which the hidden primary is asked for zones (default: the first that it listens on)")
	cmd.Flags().BoolVar(&o.Whole, "whole", false, "Knot, NSD or BIND is replaced, and is no hidden primary")
	cmd.Flags().StringVar(&o.Dir, "dir", "", "where relative paths in it start: the server's working directory (default: where the file is)")
	cmd.Flags().BoolVar(&write, "write", false, "write what is taken over into the home")
	return cmd
}

// leftBehind says what is not adopted, last, so that nobody takes down a server that alone answers for it.
func (c *cli) leftBehind(p *adopt.Plan, n int) error {
	what := "1 part is not adopted:"
	if n > 1 {
		what = fmt.Sprintf("%d parts are not adopted:", n)
	}
	for _, part := range p.Parts {
		if part.Fate == adopt.Refused {
			what += "\n" + partLine(part)
		}
	}
	do := "do what the lines say, and adopt again"
	if zones := p.Missing(); zones != "" {
		do += "; until then the mesh does not answer for " + zones
	}
	return hint.Errorf(do, "what could be is written; %s", what)
}

// partLine is the line of a part.
func partLine(part adopt.Part) string {
	line := fmt.Sprintf("%s:%d: %s: %s: %s", part.File, part.Line, part.Block, part.What, part.Fate)
	if part.Says != "" {
		line += ": " + part.Says
	}
	return line
}

// formatOf is the format that is named, or else that of the file's name.
func formatOf(path, name string) (adopt.Format, error) {
	if name == "" {
		f, ok := adopt.FormatOf(path)
		if !ok {
			return f, hint.Errorf("--format corefile, knot, nsd or named", "the name of %s does not tell whose configuration it is", path)
		}
		return f, nil
	}
	i := slices.IndexFunc(adopt.Formats, func(f adopt.Format) bool { return f.Name == name })
	if i < 0 {
		return adopt.Format{}, fmt.Errorf("--format %s: want corefile, knot, nsd or named", name)
	}
	return adopt.Formats[i], nil
}

// sayAdopted prints a line for each part, how many there are of each fate, and what was written.
func (c *cli) sayAdopted(p *adopt.Plan, written []adopting.Written) {
	for _, part := range p.Parts {
		c.say("%s", partLine(part))
	}
	c.say("%d parts: %d kept, %d changed, %d without counterpart, %d not adopted; %d zones", len(p.Parts),
		p.Count(adopt.Kept), p.Count(adopt.Changed), p.Count(adopt.Absent), p.Count(adopt.Refused), len(p.Names()))
	for _, w := range written {
		c.say("wrote %s: %s", w.File, w.Says)
	}
}

// sayNext says how it goes on.
func (c *cli) sayNext(written bool, members int) {
	switch {
	case !written:
		c.say("nothing is written; next: the same with --write")
	case members > 0:
		c.say("next: meshctl member update NAME for each of the %d members, whose Corefiles are made anew; meshctl serve makes the first release", members)
	default:
		c.say("next: meshctl member add NAME --admin HOST:PORT; meshctl serve makes the first release")
	}
}
