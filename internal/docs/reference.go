// Package docs makes the pages of docs/reference from the code, for tests to compare: of commands, of configuration files, of
// metrics, of JSON documents and of check rules. A page that differs fails the test of the package that it is about:
//
//	go test ./internal/docs ./internal/zonecheck ./cmd/meshctl/... ./sidecar/... -run Reference -rewrite
//
// writes them anew. Its own tests are of all documents: that links lead somewhere, and how long the first pages are.
package docs

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

var rewrite = flag.Bool("rewrite", false, "write the pages of docs/reference anew, in place of comparing them")

// T is what is needed of a test.
type T interface {
	Helper()
	Errorf(format string, args ...any)
	Fatal(args ...any)
}

// Generated is the line that every generated page has behind its title.
const Generated = "<!-- Made from the code by a test: see internal/docs. Do not edit. -->"

// Page compares docs/reference/NAME, below top, with what it is to be, or writes it.
func Page(t T, top, name, title, text string) {
	t.Helper()
	file := filepath.Join(top, "docs/reference", name)
	want := "# " + title + "\n\n" + Generated + "\n\n" + strings.Trim(text, "\n") + "\n"
	if *rewrite {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		line := 1
		for i := 0; i < min(len(got), len(want)) && got[i] == want[i]; i++ {
			if got[i] == '\n' {
				line++
			}
		}
		t.Errorf("docs/reference/%s is not what the code says, from line %d on; -rewrite writes it anew", name, line)
	}
}

// Commands tells a command, and all below it, with their flags.
func Commands(root *cobra.Command) string {
	root.InitDefaultCompletionCmd()
	var text strings.Builder
	describe(&text, root)
	return text.String()
}

func describe(text *strings.Builder, c *cobra.Command) {
	if c.Hidden || c.Name() == "help" || c.Parent() != nil && c.Parent().Name() == "completion" {
		return
	}
	fmt.Fprintf(text, "## %s\n\n", c.CommandPath())
	if c.Name() == "completion" {
		fmt.Fprintf(text, "%s. Shells: bash, zsh, fish, powershell. For bash: `source <(%s bash)`.\n\n", c.Short, c.CommandPath())
		return
	}
	said := c.Short + "."
	if c.Long != "" {
		said = c.Long
	}
	c.InitDefaultHelpFlag()
	fmt.Fprintf(text, "%s\n\n```text\n%s\n```\n\n", prose(said), c.UseLine())
	var rows []string
	c.LocalFlags().VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" && f.Name != "version" && !f.Hidden {
			rows = append(rows, flagRow(f))
		}
	})
	if len(rows) > 0 {
		fmt.Fprintf(text, "| flag | meaning | default |\n|---|---|---|\n%s\n", strings.Join(rows, ""))
	}
	for _, below := range c.Commands() {
		describe(text, below)
	}
}

func flagRow(f *pflag.Flag) string {
	kind, usage := pflag.UnquoteUsage(f)
	value := ""
	if f.DefValue != "" && f.DefValue != "[]" && f.DefValue != "false" && f.DefValue != "0" && f.DefValue != "0s" {
		value = "`" + f.DefValue + "`"
	}
	return fmt.Sprintf("| `--%s` | %s | %s |\n", strings.TrimSpace(f.Name+" "+kind), Cell(usage), value)
}

// Cell is text in a cell of a table.
func Cell(text string) string {
	return strings.NewReplacer("|", "\\|", "\n", " ", "<", "&lt;").Replace(text)
}

// prose is help for a terminal, with what stands out there standing out here.
func prose(text string) string {
	var out []string
	code := false
	for _, line := range strings.Split(text, "\n") {
		indented := strings.HasPrefix(line, "  ")
		if indented != code {
			if indented {
				out = append(out, "```text")
			} else {
				out = append(out, "```")
			}
			code = indented
		}
		if !code {
			line = strings.ReplaceAll(line, "<", "&lt;")
		}
		out = append(out, strings.TrimPrefix(line, "  "))
	}
	if code {
		out = append(out, "```")
	}
	return strings.Join(out, "\n")
}
