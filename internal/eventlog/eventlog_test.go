package eventlog

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// An event is one line whatever its values hold, and its reasons have the same words in either form.
func TestOneEventIsOneLine(t *testing.T) {
	why := []status.Reason{{Code: "not-ready", Detail: "two\nlines"}}
	for format, has := range map[Format]string{Logfmt: "not-ready", JSON: `"why":[{"code":"not-ready","detail":"two\nlines"}]`, "": "not-ready"} {
		var out bytes.Buffer
		New(&out, format).Error("withdrawing", "why", why)
		text := out.String()
		if strings.Count(text, "\n") != 1 || !strings.HasSuffix(text, "\n") || !strings.Contains(text, has) {
			t.Errorf("%q: %s", format, text)
		}
		if err := json.Unmarshal(out.Bytes(), &struct{}{}); (err == nil) != (format == JSON) {
			t.Errorf("%q as JSON: %v", format, err)
		}
	}
}

func TestFormats(t *testing.T) {
	for _, s := range []string{"logfmt", "json"} {
		if f, err := ParseFormat(s); err != nil || string(f) != s {
			t.Errorf("%s: %q, %v", s, f, err)
		}
	}
	if _, err := ParseFormat("JSON"); err == nil {
		t.Error("JSON is taken")
	}
}
