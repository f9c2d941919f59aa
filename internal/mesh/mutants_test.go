package mesh

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// mutant is one deliberate defect of testdata/mutants.txt.
type mutant struct{ file, what, old, new string }

// TestMutants makes each deliberate defect and wants it found: by the tests of this package or, where they do not, by histories of
// internal/sim. The ordinary run takes some of them; with FULL=1 it takes all, and also says in how many of a hundred histories
// each is seen (docs/proof.md). The compiler reads the defect in the place of the file (go help build: -overlay), so no source is touched.
func TestMutants(t *testing.T) {
	if os.Getenv(insideMutant) != "" {
		t.Skip("this is a mutant")
	}
	all, full := readMutants(t), os.Getenv("FULL") != ""
	if len(all) < 40 {
		t.Fatalf("only %d mutants", len(all))
	}
	const slice = 30 // the ordinary run takes one of so many
	for i, m := range all {
		overlay := m.overlay(t)
		if overlay == "" {
			continue
		}
		if !full && (testing.Short() || i%slice != 0) {
			continue
		}
		t.Run(m.what, func(t *testing.T) {
			t.Parallel()
			found := m.tests(t, overlay)
			if found == "" || full {
				found = strings.TrimPrefix(found+"; "+m.histories(t, overlay), "; ")
			}
			if found == "" {
				t.Fatalf("nothing finds it: %s: %s", m.file, m.what)
			}
			t.Logf("found by %s", found)
		})
	}
}

// insideMutant is set in the environment of the tests that are to find a mutant.
const insideMutant = "MUTANT"

func readMutants(t *testing.T) (all []mutant) {
	data, err := os.ReadFile("testdata/mutants.txt")
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range strings.Split(strings.TrimSpace(string(data)), "\n\n") {
		var m mutant
		for i, line := range strings.Split(block, "\n") {
			switch {
			case strings.HasPrefix(line, "#"):
			case i == 0:
				m.file, m.what, _ = strings.Cut(line, ": ")
			case strings.HasPrefix(line, "- "):
				m.old += "\n" + line[2:]
			case strings.HasPrefix(line, "+ "):
				m.new += "\n" + line[2:]
			default:
				t.Fatalf("mutants.txt: what is %q?", line)
			}
		}
		if m.old, m.new = strings.TrimPrefix(m.old, "\n"), strings.TrimPrefix(m.new, "\n"); m.file != "" {
			all = append(all, m)
		}
	}
	return all
}

// overlay writes the file with the defect, and the file that has the compiler read it, whose name it gives; empty if the text to
// change is not there.
func (m mutant) overlay(t *testing.T) string {
	source, err := os.ReadFile(m.file)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(source, []byte(m.old)); n != 1 || m.old == m.new {
		t.Errorf("%s: %s: its text is %d times in the file:\n%s", m.file, m.what, n, m.old)
		return ""
	}
	here, err := filepath.Abs(m.file)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	changed, overlay := filepath.Join(dir, m.file), filepath.Join(dir, "overlay.json")
	replace, _ := json.Marshal(map[string]map[string]string{"Replace": {here: changed}})
	if err := os.WriteFile(changed, bytes.Replace(source, []byte(m.old), []byte(m.new), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(overlay, replace, 0o600); err != nil {
		t.Fatal(err)
	}
	return overlay
}

// tests are the tests of this package that find the mutant; empty if none.
func (m mutant) tests(t *testing.T, overlay string) string {
	out, ok := run(t, time.Minute, "go", "test", "-overlay", overlay, "-vet=off", "-count=1", "-short", "-timeout=50s", ".")
	switch {
	case ok:
		return ""
	case strings.Contains(out, "[build failed]"):
		t.Fatalf("%s: %s: %s", m.file, m.what, out)
	}
	var names []string
	for _, found := range regexp.MustCompile(`(?m)^ *--- FAIL: (\S+)`).FindAllStringSubmatch(out, -1) {
		names = append(names, found[1])
	}
	if len(names) == 0 {
		return "tests that do not end"
	}
	return strings.Join(names, " ")
}

// histories are how many of the simulated histories go wrong; empty if none.
func (m mutant) histories(t *testing.T, overlay string) string {
	sim := filepath.Join(t.TempDir(), "sim")
	if out, ok := run(t, 5*time.Minute, "go", "build", "-overlay", overlay, "-o", sim, "../sim/cmd"); !ok {
		t.Fatalf("%s: %s: %s", m.file, m.what, out)
	}
	out, ok := run(t, time.Minute, sim, "-seeds", "100", "-keep-going")
	wrong := regexp.MustCompile(`: (\d+) wrong map(\[.*?\])`).FindStringSubmatch(out)
	switch {
	case ok:
		return ""
	case wrong == nil:
		return "histories that do not end"
	}
	return fmt.Sprintf("%s of 100 histories %s", wrong[1], wrong[2])
}

// run runs a command, and reports whether it went well.
func run(t *testing.T, limit time.Duration, name string, args ...string) (out string, ok bool) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), insideMutant+"=1")
	cmd.WaitDelay = time.Second
	b, err := cmd.CombinedOutput()
	return string(b), err == nil
}
