// Package eventlog makes the logs of the sidecar and of "meshctl serve": one event, one line, in the form that an operator
// chose. It knows no event. The sidecar and meshctl import it, and their configurations name its forms.
package eventlog

import (
	"fmt"
	"io"
	"log/slog"
)

// Format is the form of a log's lines.
type Format string

// The forms: key=value pairs, and a JSON object for each line.
const (
	Logfmt Format = "logfmt"
	JSON   Format = "json"
)

// ParseFormat reads a Format as configurations have it.
func ParseFormat(s string) (Format, error) {
	switch f := Format(s); f {
	case Logfmt, JSON:
		return f, nil
	}
	return "", fmt.Errorf("%q is neither logfmt nor json", s)
}

// New makes a log that writes to w. The zero Format is Logfmt.
func New(w io.Writer, f Format) *slog.Logger {
	if f == JSON {
		return slog.New(slog.NewJSONHandler(w, nil))
	}
	return slog.New(slog.NewTextHandler(w, nil))
}
