package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/internal/adopt"
)

// adoptedJSON is what becomes of a configuration, as --json prints it.
type adoptedJSON struct {
	File  string       `json:"file"`
	Parts []adopt.Part `json:"parts"`
	Zones []string     `json:"zones"`
}

func (c *cli) adoptCommand() *cobra.Command {
	var dir string
	cmd := c.withJSON(&cobra.Command{
		Use:   "adopt COREFILE",
		Short: "Say what a mesh makes of the configuration of a DNS server that it is to replace",
		Long: `Say what a mesh makes of the configuration of a DNS server that it is to replace, part by part:
FILE:LINE: BLOCK: PART: FATE: WHY. A part is "kept" as it is, "changed" into something else, has "no counterpart", or is
"not adopted" until something is done about it. Nothing is written.

Status 1 if the file has errors, or nothing in it is a zone that a mesh could answer.`,
		Args: cobra.ExactArgs(1),
		RunE: c.runs(func(_ *cobra.Command, args []string) error {
			plan, err := adopt.Corefile(args[0], dir)
			if err != nil {
				return err
			}
			facts := adoptedJSON{plan.File, append([]adopt.Part{}, plan.Parts...), plan.Names()}
			if err := c.print(facts, func() { c.sayAdopted(plan) }); err != nil {
				return err
			}
			if plan.Nothing() {
				return errors.New("there is no zone that a mesh could answer")
			}
			return nil
		}),
	})
	cmd.Flags().StringVar(&dir, "dir", "", "where relative paths in it start: the server's working directory (default: where the file is)")
	return cmd
}

// sayAdopted prints a line for each part, and how many there are of each fate.
func (c *cli) sayAdopted(p *adopt.Plan) {
	for _, part := range p.Parts {
		line := fmt.Sprintf("%s:%d: %s: %s: %s", part.File, part.Line, part.Block, part.What, part.Fate)
		if part.Says != "" {
			line += ": " + part.Says
		}
		c.say("%s", line)
	}
	c.say("%d parts: %d kept, %d changed, %d without counterpart, %d not adopted; %d zones", len(p.Parts),
		p.Count(adopt.Kept), p.Count(adopt.Changed), p.Count(adopt.Absent), p.Count(adopt.Refused), len(p.Names()))
}
