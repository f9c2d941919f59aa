// Package manpage writes the manual page of a command line program from its commands, so that the two cannot differ. It knows
// no program. The sidecar and meshctl import it, for a hidden command that packages are made with.
package manpage

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Command is the hidden command "man" of a program, which prints the page.
func Command() *cobra.Command {
	return &cobra.Command{
		Use:    "man",
		Short:  "Print the manual page",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := io.WriteString(cmd.OutOrStdout(), Page(cmd.Root()))
			return err
		},
	}
}

// Page is the page of a program and all its commands, in section 8, as roff with the macros of man(7).
func Page(root *cobra.Command) string {
	p := new(page)
	p.line(".TH %s 8 \"\" %s", strings.ToUpper(root.Name()), quoted(root.Name()+" "+root.Version))
	p.line(".SH NAME")
	p.line("%s \\- %s", escape(root.Name()), escape(root.Short))
	p.line(".SH SYNOPSIS")
	p.line(".B %s", escape(root.Name()))
	p.line(".I command\n[\\fIoption\\fR ...] [\\fIargument\\fR ...]")
	p.line(".SH DESCRIPTION")
	p.text(root.Long)
	p.flags("Options of all commands:", root.PersistentFlags())
	p.line(".SH COMMANDS")
	p.commands(root)
	return p.String()
}

type page struct{ strings.Builder }

func (p *page) line(format string, args ...any) { fmt.Fprintf(p, format+"\n", args...) }

// commands are those below a command that do something, each with all that its help says.
func (p *page) commands(parent *cobra.Command) {
	for _, c := range parent.Commands() {
		if !c.IsAvailableCommand() || c.Name() == "help" {
			continue
		}
		if c.HasAvailableSubCommands() {
			p.commands(c)
			continue
		}
		p.line(".SS %s", quoted(c.UseLine()))
		if c.Long != "" {
			p.text(c.Long)
		} else {
			p.text(c.Short + ".")
		}
		if c.HasExample() {
			p.text(c.Example)
		}
		p.flags("", c.NonInheritedFlags())
	}
}

// flags lists options.
func (p *page) flags(heading string, flags *pflag.FlagSet) {
	first := true
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden || f.Name == "help" {
			return
		}
		if first && heading != "" {
			p.line(".PP\n%s", escape(heading))
		}
		first = false
		value, usage := pflag.UnquoteUsage(f)
		p.line(".TP\n\\fB%s\\fR %s\n%s", escape("--"+f.Name), italic(value), escape(usage))
	})
}

// text is running text: paragraphs, and blocks that are indented and stay as they are.
func (p *page) text(s string) {
	for _, block := range strings.Split(strings.Trim(s, "\n"), "\n\n") {
		p.line(".PP")
		if indented := strings.HasPrefix(block, " ") || strings.HasPrefix(block, "\t"); indented {
			p.line(".nf\n%s\n.fi", escape(block))
		} else {
			p.line("%s", escape(block))
		}
	}
}

// escape has roff print s as it is.
func escape(s string) string {
	lines := strings.Split(strings.NewReplacer(`\`, `\e`, "-", `\-`, "\t", "    ").Replace(s), "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}

// quoted is s as one argument of a macro.
func quoted(s string) string { return `"` + strings.ReplaceAll(escape(s), `"`, `\(dq`) + `"` }

func italic(s string) string {
	if s == "" {
		return ""
	}
	return `\fI` + escape(s) + `\fR`
}
