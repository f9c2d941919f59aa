package zonefile

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Bounds of $GENERATE: a line of it makes many records.
const (
	maxGenerated      = 1 << 20 // records so made in one zone
	maxGeneratedEntry = 1024    // octets of one of them as text
)

// generate makes the records of BIND's $GENERATE start-stop[/step] owner [TTL] [class] type RDATA, in whose words $
// stands for the number, ${offset,width,base} for the number plus offset, padded and in base d, o, x, X, n or N, and \$
// or $$ for a dollar. RDATA in quotes is text of its own, so a character-string takes quotes within it. Who inherits the owner
// afterwards has that from before.
func (p *parser) generate(f *file, e *entry) error {
	start, stop, step, err := parseRange(e.tokens[1].Text)
	if err != nil {
		return err
	}
	owner := f.owner
	defer func() { f.owner = owner }()
	for n := start; n <= stop; n += step {
		if p.generated++; p.generated > maxGenerated {
			p.stopped = true
			return fmt.Errorf("more than %d generated records: %w", maxGenerated, errFatal)
		}
		made, err := generated(e, n)
		if err != nil {
			return err
		}
		if err := p.record(f, made); err != nil {
			return err
		}
	}
	return nil
}

// generated is the entry that $GENERATE makes of a number.
func generated(e *entry, n int64) (*entry, error) {
	s := scanner{entry: entry{line: e.line}}
	size := 0
	for _, t := range e.tokens[2:] {
		text, err := expand(t.Text, n)
		if err != nil {
			return nil, err
		}
		if size += len(text); size > maxGeneratedEntry {
			return nil, fmt.Errorf("a generated record of more than %d octets", maxGeneratedEntry)
		}
		if !t.Quoted {
			s.entry.tokens = append(s.entry.tokens, token{Text: text})
		} else if err := s.split(strings.ReplaceAll(text, `\"`, `"`) + "\n"); err != nil {
			return nil, err
		}
	}
	if s.depth > 0 || len(s.entry.tokens) == 0 {
		return nil, errors.New("$GENERATE makes no whole record")
	}
	return &s.entry, nil
}

// parseRange reads start-stop[/step], all of at most 2147483647.
func parseRange(text string) (start, stop, step int64, err error) {
	span, stepText, stepped := strings.Cut(text, "/")
	from, to, ok := strings.Cut(span, "-")
	step = 1
	var errs [3]error
	start, errs[0] = strconv.ParseInt(from, 10, 32)
	stop, errs[1] = strconv.ParseInt(to, 10, 32)
	if stepped {
		step, errs[2] = strconv.ParseInt(stepText, 10, 32)
	}
	if !ok || errors.Join(errs[:]...) != nil || start < 0 || stop < start || step < 1 {
		return 0, 0, 0, fmt.Errorf("%s is no range start-stop/step", text)
	}
	return start, stop, step, nil
}

// expand puts a number into a word.
func expand(text string, n int64) (string, error) {
	if !strings.Contains(text, "$") {
		return text, nil
	}
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		rest := text[i:]
		switch {
		case strings.HasPrefix(rest, `\$`), strings.HasPrefix(rest, "$$"):
			b.WriteByte('$')
			i++
		case text[i] == '\\' && len(rest) > 1:
			b.WriteString(rest[:2])
			i++
		case strings.HasPrefix(rest, "${"):
			modifier, _, closed := strings.Cut(rest[2:], "}")
			if !closed {
				return "", fmt.Errorf("%s: { without }", text)
			}
			number, err := modify(modifier, n)
			if err != nil {
				return "", err
			}
			b.WriteString(number)
			i += len("${}") + len(modifier) - 1
		case text[i] == '$':
			b.WriteString(strconv.FormatInt(n, 10))
		default:
			b.WriteByte(text[i])
		}
	}
	return b.String(), nil
}

// modify applies offset[,width[,base]] to a number.
func modify(modifier string, n int64) (string, error) {
	fields := append(strings.Split(modifier, ","), "0", "d")
	if len(fields) == 4 { // width and base left out, or base
		fields[2] = "d"
	}
	offset, err1 := strconv.ParseInt(fields[0], 10, 32)
	width, err2 := strconv.ParseUint(fields[1], 10, 8)
	if n += offset; len(fields) > 5 || err1 != nil || err2 != nil || n < 0 {
		return "", fmt.Errorf("{%s} is no offset,width,base of a number that is not negative", modifier)
	}
	switch base := fields[2]; base {
	case "d", "o", "x", "X":
		return fmt.Sprintf("%0*"+base, int(width), n), nil
	case "n", "N":
		return nibbles(n, int(width), base), nil
	}
	return "", fmt.Errorf("{%s}: the base is d, o, x, X, n or N", modifier)
}

// nibbles writes hexadecimal digits, the lowest first, each a label; the width counts the dots, so that an even one ends with
// a dot.
func nibbles(n int64, width int, base string) string {
	digits := "0123456789abcdef"
	if base == "N" {
		digits = "0123456789ABCDEF"
	}
	var out []byte
	for {
		out = append(out, digits[n&15])
		if n >>= 4; n > 0 || len(out) < width {
			out = append(out, '.')
		}
		if n == 0 && len(out) >= width {
			return string(out)
		}
	}
}
