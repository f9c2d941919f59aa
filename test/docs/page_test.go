package docs

import (
	"fmt"
	"regexp"
	"strings"
)

// block is a fenced block of a page.
type block struct {
	line     int    // of its first line in the page
	language string // the first word behind the fence
	machine  string // the second: where the commands are given; empty: in the one shell of the page
	text     string
	mark     string // the comment on the line before the fence: why it is not run, or how it ends
	shown    *block // for commands: the block of language text that follows at once, which is what they print
}

var (
	fence  = regexp.MustCompile("^(```+|~~~+) *([a-z]*) *([a-z0-9]*)")
	marked = regexp.MustCompile(`^<!-- (not run: .+|exit status 1) -->$`)
)

// parse reads the blocks of a page. Each must say its language, so that no command is taken for a picture.
func parse(page string) (all []*block, problems []string) {
	lines := strings.Split(page, "\n")
	var before *block // commands after which nothing came but empty lines
	mark := ""
	for i := 0; i < len(lines); i++ {
		m := fence.FindStringSubmatch(lines[i])
		if m == nil {
			if found := marked.FindStringSubmatch(lines[i]); found != nil {
				mark = found[1]
			} else if mark = ""; strings.TrimSpace(lines[i]) != "" {
				before = nil
			}
			continue
		}
		b := &block{line: i + 2, language: m[2], machine: m[3], mark: mark}
		start := i + 1
		for i++; i < len(lines) && strings.TrimSpace(lines[i]) != m[1]; i++ {
		}
		b.text = strings.Join(lines[start:min(i, len(lines))], "\n") + "\n"
		switch {
		case b.language == "":
			problems = append(problems, fmt.Sprintf("line %d: a block without a language: sh for commands, text for what they print", b.line))
		case b.language == "text" && before != nil:
			before.shown = b
		}
		all = append(all, b)
		before, mark = nil, ""
		if b.language == "sh" {
			before = b
		}
	}
	return all, problems
}

func (b *block) commands() bool { return b.language == "sh" && !strings.HasPrefix(b.mark, "not run: ") }

// varying is what differs from run to run: instants, durations, and what a page leaves out by "…".
var varying = regexp.MustCompile(`…|\d{4}-\d{2}-\d{2}T[\d:.]+Z|\b(?:\d+h)?(?:\d+m)?\d+(?:\.\d+)? ?(?:µs|ms|s)\b`)

// like reports whether what was printed is what a page shows.
func like(shown, printed string) bool {
	var pattern strings.Builder
	pattern.WriteString("^")
	for line := range strings.Lines(shown) {
		line = strings.TrimRight(line, " \t\n")
		if line == "…" {
			pattern.WriteString("(?:.*\n)*?")
			continue
		}
		at := 0
		for _, v := range varying.FindAllStringIndex(line, -1) {
			pattern.WriteString(words(line[at:v[0]]))
			switch found := line[v[0]:v[1]]; {
			case found == "…":
				pattern.WriteString(".*?")
			case strings.HasSuffix(found, "Z"):
				pattern.WriteString(`\d{4}-\d{2}-\d{2}T[\d:.]+Z`)
			default:
				pattern.WriteString(`(?:\d+h)?(?:\d+m)?[\d.]+ ?(?:µs|ms|s)`)
			}
			at = v[1]
		}
		pattern.WriteString(words(line[at:]) + "[ \t]*\n")
	}
	pattern.WriteString("$")
	if !strings.HasSuffix(printed, "\n") {
		printed += "\n"
	}
	return regexp.MustCompile(pattern.String()).MatchString(printed)
}

var blanks = regexp.MustCompile(`[ \t]+`)

// words is a pattern for text, of which the columns may be wider.
func words(text string) string {
	return blanks.ReplaceAllString(regexp.QuoteMeta(text), `[ \t]+`)
}
