package docs

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/coredns-anycast/coredns-anycast/internal/fields"
)

// Keys tells every key that a configuration file may have: which there are, and what each takes, is found by asking parse; the
// example file says what it means. What cannot be found in an example is told without a meaning, and named in undocumented.
func Keys(parse func(data []byte) error, examples ...string) (text string, undocumented []string) {
	a := asker{parse: parse, said: map[string]example{}}
	for _, e := range examples {
		a.read(e)
	}
	var b strings.Builder
	b.WriteString("`[]` is an element of a list. The value is that of the example file: the default, where the file says so.\n\n")
	b.WriteString("| key | value | takes | meaning |\n|---|---|---|---|\n")
	a.walk("", func(path, takes string) {
		e := a.said[path]
		if e.says == "" && !strings.Contains(takes, "mapping") {
			undocumented = append(undocumented, path)
		}
		if takes == "" {
			takes = "text"
		}
		value := ""
		if e.value != "" {
			value = "`" + Cell(e.value) + "`"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", path, value, Cell(takes), Cell(e.says))
	})
	return b.String(), undocumented
}

type asker struct {
	parse func(data []byte) error
	said  map[string]example
}

// example is what an example file has for a key.
type example struct{ value, says string }

var (
	mapping  = regexp.MustCompile(`want a mapping of (.*)$`)
	anything = regexp.MustCompile(`^[^:]*:\d+:\d+: `)
)

// walk tells every key below path, in the order of their names, and what it takes.
func (a asker) walk(path string, tell func(path, takes string)) {
	for _, name := range a.below(path) {
		at := strings.TrimPrefix(path+"."+name, ".")
		keys, takes := a.ask(at)
		if slices.Contains(names, at) {
			keys, takes = false, "mapping of zones' names to mappings of the keys of checks, but for meshes"
		}
		tell(at, takes)
		switch {
		case keys:
			a.walk(at, tell)
		case strings.HasPrefix(takes, "list"):
			if keys, _ := a.ask(at + "[]"); keys {
				a.walk(at+"[]", tell)
			}
		}
	}
}

// names are mappings of which a user chooses the keys.
var names = []string{"checks.zones"}

// below are the keys that the mapping at path may hold.
func (a asker) below(path string) []string {
	for _, line := range a.errors(path, "0") {
		if m := mapping.FindStringSubmatch(line); m != nil && !strings.Contains(m[1], ":") {
			return strings.Split(m[1], ", ")
		}
	}
	return nil
}

// ask says what the key at path takes, and whether that is a mapping.
func (a asker) ask(path string) (keys bool, takes string) {
	if len(a.below(path)) > 0 {
		return true, "mapping"
	}
	if list := a.errors(path, "{}"); len(list) > 0 && strings.Contains(list[0], "want a list") {
		if keys, takes := a.ask(path + "[]"); keys {
			return false, "list of mappings"
		} else if takes == "" {
			return false, "list of texts"
		} else {
			return false, "list: " + takes
		}
	}
	var all []string
	for _, wrong := range []string{`"\ufffd?"`, "0", "-1", "1ns", "9999999h"} {
		for _, line := range a.errors(path, wrong) {
			if line = describes(line); line != "" && !slices.Contains(all, line) {
				all = append(all, line)
			}
		}
	}
	if len(all) > 1 && (all[0] == "whole number" || all[0] == "duration") && strings.Contains(all[1], " to ") {
		return false, all[0] + ", " + all[1]
	}
	return false, strings.Join(all, "; ")
}

var (
	given   = regexp.MustCompile(`^(?:"?\x{fffd}\?"?|"?-?\d\S*"?|"9999999h\."):? (?:is )?`)
	phrases = []struct {
		error *regexp.Regexp
		says  string
	}{
		{regexp.MustCompile(`out of range: (.*)$`), "$1"},
		{regexp.MustCompile(`^not a duration.*$`), "duration"},
		{regexp.MustCompile(`^not a whole number$`), "whole number"},
		{regexp.MustCompile(`^not an absolute path$`), "absolute path"},
		{regexp.MustCompile(`^not an IP address$`), "IP address"},
		{regexp.MustCompile(`^not a domain name$`), "domain name"},
		{regexp.MustCompile(`^not address:port.*$`), "address:port"},
		{regexp.MustCompile(`^not a prefix: write (.*)$`), "prefix, such as $1"},
		{regexp.MustCompile(`^neither (\S+) nor (\S+)$`), "$1 or $2"},
		{regexp.MustCompile(`^not an? [^:]*: write (.*)$`), "$1"},
		{regexp.MustCompile(`^not (an? [^:]*: .*)$`), "$1"},
		{regexp.MustCompile(`^no [a-z ]+: (.*)$`), "$1"},
		{regexp.MustCompile(`want (.*)$`), "$1"},
	}
)

// describes is what an error about a wrong value says of right ones; empty where it is about other keys.
func describes(line string) string {
	line = given.ReplaceAllString(line, "")
	for _, p := range phrases {
		if m := p.error.FindStringSubmatchIndex(line); m != nil {
			return string(p.error.ExpandString(nil, p.says, line, m))
		}
	}
	return ""
}

// errors are those about the value at path: that of the deepest line of a file that has nothing but the way there.
func (a asker) errors(path, value string) (lines []string) {
	text, column := "", 0
	if path == "" {
		text = value
	}
	parts := strings.Split(path, ".")
	for i, part := range parts {
		if path == "" {
			break
		}
		name, list := strings.CutSuffix(part, "[]")
		text += name + ": "
		if list {
			text += "["
		}
		if i == len(parts)-1 {
			column = len(text) + 1
			text += value
		} else {
			column = len(text) + 1
			text += "{"
		}
	}
	for i := len(parts) - 1; i >= 0; i-- {
		if i < len(parts)-1 {
			text += "}"
		}
		if strings.HasSuffix(parts[i], "[]") {
			text += "]"
		}
	}
	err := a.parse([]byte("{" + text + "}\n"))
	if path == "" {
		err = a.parse([]byte(text + "\n"))
	}
	var all fields.Errors
	if !errors.As(err, &all) {
		return nil
	}
	at := fmt.Sprintf(":1:%d: ", column+1)
	for _, line := range all {
		if path == "" || strings.Contains(line, at) {
			lines = append(lines, anything.ReplaceAllString(line, ""))
		}
	}
	return lines
}

var (
	keyLine = regexp.MustCompile(`^( *)((?:- )*)([a-z_]+|example\.org):(?: +([^# ].*?))?(?: +# (.*))?$`)
	inList  = regexp.MustCompile(`^( *)- (\{.*\})$`)
	remark  = regexp.MustCompile(`^ *# (.*)$`)
	hidden  = regexp.MustCompile(`^( *)# ( *- \{.*|( *(?:- )*[a-z_]+:)(?: .*)?)$`)
	more    = regexp.MustCompile(`^ +# (.*)$`)
)

// read takes what an example file has for each key, those that are commented out as well. A comment goes on in the lines below it.
func (a asker) read(text string) {
	type open struct {
		indent int
		path   string
	}
	var way []open
	last, above := "", "" // the key of the line before; the remark above
	for _, line := range strings.Split(text, "\n") {
		if m := hidden.FindStringSubmatch(line); m != nil {
			line = m[1] + m[2]
		}
		m := keyLine.FindStringSubmatch(line)
		if m == nil {
			if m := inList.FindStringSubmatch(line); m != nil && len(way) > 0 {
				a.flow(way[len(way)-1].path, "["+m[2])
				continue
			}
			if m := remark.FindStringSubmatch(line); m != nil {
				above = strings.TrimSpace(above + " " + m[1])
			} else {
				above = ""
			}
			if m := more.FindStringSubmatch(line); m != nil && last != "" && strings.HasPrefix(line, "          ") {
				e := a.said[last]
				e.says += " " + m[1]
				a.said[last] = e
				a.remarked(last, m[1])
			} else {
				last = ""
			}
			continue
		}
		indent := len(m[1]) + len(m[2])
		for len(way) > 0 && way[len(way)-1].indent >= indent {
			way = way[:len(way)-1]
		}
		path := m[3]
		if path == "example.org" {
			path = "NAME"
		}
		if len(way) > 0 {
			over := way[len(way)-1].path
			if m[2] != "" || strings.HasSuffix(over, "[]") {
				over = strings.TrimSuffix(over, "[]") + "[]"
			}
			path = over + "." + path
		}
		if m[2] != "" && len(way) > 0 { // its brothers come under the same dash
			way[len(way)-1].path = strings.TrimSuffix(way[len(way)-1].path, "[]") + "[]"
		}
		way = append(way, open{indent, path})
		if _, known := a.said[path]; !known {
			e := example{m[4], m[5]}
			if e.says == "" {
				e.says = above
			}
			a.said[path] = e
		}
		last, above = path, ""
		a.flow(path, m[4])
		a.remarked(path, m[5])
	}
}

// remarked takes the keys that the remark on a mapping shows.
func (a asker) remarked(path, remark string) {
	if _, brace, found := strings.Cut(remark, "{"); found {
		a.flow(path, "{"+brace)
	}
}

var inFlow = regexp.MustCompile(`([a-z_]+): ("[^"]*"|\[[^\]]*\]|[^,{}\[\]]+)`)

// flow takes the keys of a mapping, or of a list of one, that stands on one line.
func (a asker) flow(path, value string) {
	switch {
	case strings.HasPrefix(value, "[{"):
		path += "[]"
	case !strings.HasPrefix(value, "{"):
		return
	}
	for _, m := range inFlow.FindAllStringSubmatch(value, -1) {
		if _, known := a.said[path+"."+m[1]]; !known {
			a.said[path+"."+m[1]] = example{m[2], "see " + strings.TrimSuffix(path, "[]")}
		}
	}
}
