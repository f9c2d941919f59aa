package terminal

import (
	"strings"
	"testing"
)

// TestLinesAreBroken at blanks, none wider than a terminal, and what follows is indented.
func TestLinesAreBroken(t *testing.T) {
	text := strings.Repeat("grün words ", 40) + strings.Repeat("x", 100)
	lines := strings.Split(Wrap("label    ", text, 11), "\n")
	if len(lines) < 6 || !strings.HasPrefix(lines[0], "label    grün") {
		t.Fatalf("%q", lines)
	}
	for i, line := range lines {
		if n := len([]rune(line)); n > Width && !strings.Contains(line, "xxx") || n < 70 && i < len(lines)-2 {
			t.Errorf("%d columns: %q", n, line)
		}
		if i > 0 && !strings.HasPrefix(line, strings.Repeat(" ", 11)+line[11:12]) {
			t.Errorf("%q is not indented", line)
		}
	}
	if again := strings.Join(strings.Fields(strings.Join(lines, " ")), " "); again != "label "+text {
		t.Error("words are lost")
	}
}
