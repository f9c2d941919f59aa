// Package terminal writes text that others have said, for people who read it at a terminal. The commands of meshctl and of
// anycast-sidecar write through it.
package terminal

import (
	"bytes"
	"io"
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
