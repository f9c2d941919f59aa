package zonecheck

import (
	"fmt"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/docs"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// TestReference: docs/reference/check-rules.md has every rule of judgement.
func TestReference(t *testing.T) {
	var text strings.Builder
	text.WriteString("Each is an error, a warning or nothing as `checks: rules` says. A rule that is not among these says that a zone cannot be served.\n\n")
	text.WriteString("| rule | by default | what it finds |\n|---|---|---|\n")
	for _, r := range Rules {
		fmt.Fprintf(&text, "| `%s` | %s | %s |\n", r.Name, r.Default, docs.Cell(r.Says))
	}
	docs.Page(t, testenv.Top(t), "check-rules.md", "Rules of checks", text.String())
}
