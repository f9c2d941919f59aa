// Command plugins writes the manual pages of CoreDNS plugins from their READMEs, which have the form of CoreDNS's: a heading with
// the name, sections, lists, and blocks of code.
//
//	plugins README... -- OUT
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

func main() {
	args := os.Args[1:]
	if len(args) < 3 || args[len(args)-2] != "--" {
		fmt.Fprintln(os.Stderr, "usage: plugins README... -- OUT")
		os.Exit(2)
	}
	for _, readme := range args[:len(args)-2] {
		text, err := os.ReadFile(readme)
		if err == nil {
			name := "coredns-" + filepath.Base(filepath.Dir(readme))
			err = os.WriteFile(filepath.Join(args[len(args)-1], name+".7"), []byte(page(name, string(text))), 0o644)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "plugins:", err)
			os.Exit(1)
		}
	}
}

var (
	code   = regexp.MustCompile("`([^`]*)`")
	strong = regexp.MustCompile(`\*\*([^*]+)\*\*`)
	emph   = regexp.MustCompile(`\*([^* ][^*]*)\*`)
	link   = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
)

// page makes roff of a README's Markdown.
func page(name, text string) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".TH %s 7\n", strings.ToUpper(name))
	verbatim, table := false, false
	for _, line := range strings.Split(text, "\n") {
		fence := strings.HasPrefix(line, "~~~") || strings.HasPrefix(line, "```")
		if row := strings.HasPrefix(line, "|"); row != table && !verbatim {
			table = row
			b.WriteString(map[bool]string{true: ".PP\n.nf\n", false: ".fi\n"}[row])
		}
		switch {
		case fence:
			verbatim = !verbatim
			b.WriteString(map[bool]string{true: ".PP\n.nf\n", false: ".fi\n"}[verbatim])
		case verbatim:
			b.WriteString(escape(line) + "\n")
		case strings.HasPrefix(line, "# "):
		case strings.HasPrefix(line, "### "):
			b.WriteString(".SS " + escape(line[4:]) + "\n")
		case strings.HasPrefix(line, "## "):
			b.WriteString(".SH " + escape(line[3:]) + "\n")
		case strings.HasPrefix(line, "* "):
			b.WriteString(".IP \\(bu 2\n" + inline(line[2:]) + "\n")
		case strings.HasPrefix(line, "  * "):
			b.WriteString(".IP \"  \\(bu\" 4\n" + inline(line[4:]) + "\n")
		case line == "":
			b.WriteString(".PP\n")
		case table && strings.Trim(line, "|-: ") == "":
		default:
			b.WriteString(inline(strings.TrimLeft(line, " ")) + "\n")
		}
	}
	return b.String()
}

// inline makes roff of a line's own marks.
func inline(s string) string {
	s = link.ReplaceAllString(escape(s), "$1")
	var kept []string // code stays as it is
	s = code.ReplaceAllStringFunc(s, func(c string) string {
		kept = append(kept, `\fB`+c[1:len(c)-1]+`\fR`)
		return fmt.Sprintf("\x00%d\x00", len(kept)-1)
	})
	s = emph.ReplaceAllString(strong.ReplaceAllString(s, `\fB$1\fR`), `\fI$1\fR`)
	for i, k := range kept {
		s = strings.Replace(s, fmt.Sprintf("\x00%d\x00", i), k, 1)
	}
	return s
}

// escape has roff print s as it is.
func escape(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`, "\t", "    ").Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}
