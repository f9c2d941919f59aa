//go:build linux

package main

import (
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// terminal tells the story: steps with a number, under each the command that was given, what was seen, and a check
// with the requirements that it meets.
type terminal struct {
	out    io.Writer
	colour bool
	step   int
}

func newTerminal(out *os.File) *terminal {
	info, err := out.Stat()
	isTerminal := err == nil && info.Mode()&os.ModeCharDevice != 0
	return &terminal{out: out, colour: isTerminal && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"}
}

const (
	bold  = "1"
	dim   = "2"
	red   = "31"
	green = "32"
	cyan  = "36"
)

func (t *terminal) paint(code, text string) string {
	if !t.colour {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// title opens the story.
func (t *terminal) title(text, under string) {
	fmt.Fprintf(t.out, "\n  %s\n  %s\n", t.paint(bold, text), t.paint(dim, under))
}

// end closes it.
func (t *terminal) end(text string) { fmt.Fprintf(t.out, "\n  %s\n", t.paint(bold, text)) }

// begin opens a step.
func (t *terminal) begin(title string) {
	t.step++
	fmt.Fprintf(t.out, "\n%s  %s\n", t.paint(cyan, fmt.Sprintf("%2d", t.step)), t.paint(bold, title))
}

// command shows a command that a reader could give as well; an empty argument is left out.
func (t *terminal) command(args ...string) {
	args = slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == "" })
	fmt.Fprintf(t.out, "    %s\n", t.paint(dim, "$ "+strings.Join(args, " ")))
}

// say shows what was seen, as it is but for digests, of which the beginning is enough.
func (t *terminal) say(format string, args ...any) {
	for line := range strings.Lines(digests.ReplaceAllString(fmt.Sprintf(format, args...), "$1…")) {
		fmt.Fprintf(t.out, "      %s\n", strings.TrimRight(line, "\n"))
	}
}

var digests = regexp.MustCompile(`\b([0-9a-f]{8})[0-9a-f]{56}\b`)

// column is where the requirements of a check stand.
const column = 84

// picture shows a drawing.
func (t *terminal) picture(text string) {
	fmt.Fprintln(t.out, strings.ReplaceAll(text, "\n", "\n      "))
}

// check shows what was seen and is as it should be, with the requirements that it meets.
func (t *terminal) check(requirements, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	if requirements != "" {
		text = fmt.Sprintf("%-*s", column, text) + "  " + t.paint(dim, requirements)
	}
	fmt.Fprintf(t.out, "    %s %s\n", t.paint(green, "✓"), text)
}

// fail shows what was not as it should be.
func (t *terminal) fail(err error) {
	fmt.Fprintf(t.out, "    %s %s\n", t.paint(red, "✗"), strings.ReplaceAll(err.Error(), "\n", "\n      "))
}

// log shows the end of a process's log.
func (t *terminal) log(p *lab.Process, lines int) {
	text := lab.Tail(p.Log, lines)
	if text == "" {
		return
	}
	fmt.Fprintf(t.out, "\n    %s\n", t.paint(bold, p.Name+" wrote last:"))
	for line := range strings.Lines(text) {
		fmt.Fprintf(t.out, "      %s\n", t.paint(dim, strings.TrimRight(line, "\n")))
	}
}
