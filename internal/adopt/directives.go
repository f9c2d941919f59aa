package adopt

import (
	"cmp"
	"slices"
	"strings"
	"unicode"

	"github.com/coredns/caddy/caddyfile"
)

// directive is one directive of a server block.
type directive struct {
	line
	args  []string
	props []line // in its braces
	body  bool   // it has braces
	after int    // of others at the same place, in the order in which they were read
}

// line is one line of a Corefile, as far as it is one directive's or property's.
type line struct {
	name  string
	words []string // behind the name
	file  string
	at    int
}

// directives are those of a server block, in the order of the file.
func directives(path string, sb caddyfile.ServerBlock) (all []directive) {
	for _, tokens := range sb.Tokens {
		begin, nesting := 0, 0
		for i, t := range tokens {
			if i > begin && nesting == 0 && newLine(tokens[i-1], t) {
				all = append(all, directiveOf(path, tokens[begin:i]))
				begin = i
			}
			switch t.Text {
			case "{":
				nesting++
			case "}":
				nesting--
			}
		}
		if begin < len(tokens) {
			all = append(all, directiveOf(path, tokens[begin:]))
		}
	}
	slices.SortStableFunc(all, func(a, b directive) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.at, b.at), cmp.Compare(a.name, b.name))
	})
	return all
}

// newLine is what CoreDNS takes for the end of a line between two tokens.
func newLine(before, t caddyfile.Token) bool {
	return before.File != t.File || before.Line+strings.Count(before.Text, "\n") < t.Line
}

// directiveOf reads the tokens of one directive.
func directiveOf(path string, tokens []caddyfile.Token) directive {
	d := directive{line: lineOf(path, tokens[:1])}
	i := 1
	for ; i < len(tokens) && tokens[i].Text != "{"; i++ {
		d.args = append(d.args, tokens[i].Text)
	}
	if i == len(tokens) {
		return d
	}
	d.body = true
	rest := tokens[i+1:]
	if n := len(rest); n > 0 && rest[n-1].Text == "}" {
		rest = rest[:n-1]
	}
	begin := 0
	for i := range rest {
		if i > begin && newLine(rest[i-1], rest[i]) {
			d.props = append(d.props, lineOf(path, rest[begin:i]))
			begin = i
		}
	}
	if begin < len(rest) {
		d.props = append(d.props, lineOf(path, rest[begin:]))
	}
	return d
}

func lineOf(path string, tokens []caddyfile.Token) line {
	l := line{name: tokens[0].Text, file: cmp.Or(tokens[0].File, path), at: tokens[0].Line}
	for _, t := range tokens[1:] {
		l.words = append(l.words, t.Text)
	}
	return l
}

// text is a directive as a Corefile has it, in the lines of a template.
func (d directive) text() string {
	var b strings.Builder
	b.WriteString(quote(d.name))
	for _, a := range d.args {
		b.WriteString(" " + quote(a))
	}
	if d.body {
		b.WriteString(" {\n")
		for _, p := range d.props {
			b.WriteString("    " + quote(p.name))
			for _, w := range p.words {
				b.WriteString(" " + quote(w))
			}
			b.WriteString("\n")
		}
		b.WriteString("}")
	}
	return strings.ReplaceAll(b.String(), "{{", `{{"{{"}}`)
}

// quote writes a word so that CoreDNS reads it as one.
func quote(word string) string {
	if word != "" && word[0] != '"' && !strings.ContainsRune(word, '#') && !strings.ContainsFunc(word, unicode.IsSpace) {
		return word
	}
	return `"` + strings.ReplaceAll(word, `"`, `\"`) + `"`
}
