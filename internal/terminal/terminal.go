// Package terminal writes text that others have said, for people who read it at a terminal. The commands of meshctl and of
// anycast-sidecar write through it.
package terminal

import (
	"bytes"
	"io"
	"strings"
	"unicode"
)

// Writer writes text without what would steer a terminal: nodes' words are printed, and a node may have been taken over.
type Writer struct{ io.Writer }

// Write implements io.Writer. Lines and tabulators stay as they are.
func (w Writer) Write(text []byte) (int, error) {
	_, err := w.Writer.Write(bytes.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return '?'
		}
		return r
	}, text))
	return len(text), err
}

// Width is how wide the words of commands are, in columns: what every terminal has.
const Width = 80

// Wrap is a line that begins with a label, broken at blanks so that it is no wider than Width where that can be; what follows the
// first line is indented by so many columns.
func Wrap(label, text string, indent int) string {
	var out strings.Builder
	out.WriteString(label)
	column := len([]rune(label))
	for i, word := range strings.Fields(text) {
		switch n := len([]rune(word)); {
		case i == 0:
			column += n
		case column+1+n > Width:
			out.WriteString("\n" + strings.Repeat(" ", indent))
			column = indent + n
		default:
			out.WriteByte(' ')
			column += 1 + n
		}
		out.WriteString(word)
	}
	return out.String()
}
