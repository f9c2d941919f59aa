package mesh

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Every block of the deciders is a mark: a decision that some test must have come to. It is named by its function and its first
// line, and the compiler counts how often it was reached, so that the deciders know nothing of it.

// rules are the functions of the protocol itself. Histories of internal/sim must reach each of their blocks.
var rules = []string{"promise", "first", "state", "advance", "late", "asking", "anySays", "allSay", "due", "durableFor", "lapse", "until", "judge", "confirms",
	"LapsedBy", "Owed", "withdrawn", "Asked", "propose", "excused", "excusable", "carry", "sooner", "back", "declines", "takes",
	"settle", "deciding", "void", "behind", "renew", "mark", "count", "measure"}

// undrawn are the blocks of the rules that are for what no history has.
var undrawn = []string{
	"if h.policy.Manual {", // operators who propose all switchovers
	"if m == nil {",        // an answer of one that was not asked
}

// rare is the seed of a history in which members hold to it that a commit counts as taken (Presumed), as one in some ten thousand has it.
const rare = "18773"

// TestMarks wants each block of the deciders reached by this package's tests. With FULL=1 it also wants each block of the rules
// reached by 4,000 histories, and tells which of the others are not.
func TestMarks(t *testing.T) {
	if os.Getenv(insideMutant) != "" {
		t.Skip("this is run by a test")
	}
	if testing.Short() {
		t.Skip("it runs the tests of the package again")
	}
	dir := t.TempDir()
	profile := filepath.Join(dir, "profile")
	if out, ok := run(t, 2*time.Minute, "go", "test", "-vet=off", "-count=1", "-short", "-covermode=count", "-coverprofile="+profile, "."); !ok {
		t.Fatal(out)
	}
	for _, m := range unreached(t, profile) {
		t.Errorf("no test reaches %s", m)
	}
	if os.Getenv("FULL") == "" {
		return
	}
	const module = "github.com/coredns-anycast/coredns-anycast/internal/"
	sim, counts := filepath.Join(dir, "sim"), filepath.Join(dir, "counts")
	if err := os.Mkdir(counts, 0o700); err != nil {
		t.Fatal(err)
	}
	if out, ok := run(t, 5*time.Minute, "go", "build", "-cover", "-covermode=count", "-coverpkg="+module+"mesh,"+module+"sim/cmd", "-o", sim, "../sim/cmd"); !ok {
		t.Fatal(out)
	}
	out, _ := run(t, 10*time.Minute, "env", "GOCOVERDIR="+counts, sim, "-seeds", "4000", "-keep-going") // what goes wrong is told by others
	t.Log(out)
	out, _ = run(t, time.Minute, "env", "GOCOVERDIR="+counts, sim, "-from", rare, "-seeds", "1")
	t.Log(out)
	if out, ok := run(t, time.Minute, "go", "tool", "covdata", "textfmt", "-i="+counts, "-o="+profile); !ok {
		t.Fatal(out)
	}
	for _, m := range unreached(t, profile) {
		if slices.Contains(rules, m.function) && !slices.Contains(undrawn, m.text) {
			t.Errorf("no history reaches %s", m)
		} else {
			t.Logf("no history reaches %s, which is none of the rules", m)
		}
	}
}

// block is a block of the deciders.
type block struct {
	file, function, text string
	line                 int
}

func (m block) String() string {
	return fmt.Sprintf("%s:%d, in %s: %s", m.file, m.line, m.function, m.text)
}

// unreached are the blocks of the deciders that a profile has as not reached.
func unreached(t *testing.T, profile string) (all []block) {
	data, err := os.ReadFile(profile)
	if err != nil {
		t.Fatal(err)
	}
	reached := map[string]bool{} // by place; a block may be told of more than once
	for _, line := range strings.Split(string(data), "\n") {
		place, count, ok := strings.Cut(line, " ")
		if ok && strings.Contains(place, "/internal/mesh/") {
			reached[place] = reached[place] || !strings.HasSuffix(count, " 0")
		}
	}
	if len(reached) < 200 {
		t.Fatalf("only %d blocks are in the profile", len(reached))
	}
	for place, was := range reached {
		file, at, _ := strings.Cut(filepath.Base(place), ":")
		var m block
		if _, err := fmt.Sscanf(at, "%d.", &m.line); err != nil {
			t.Fatal(place, err)
		}
		if !was {
			m.file, m.function, m.text = file, functionAt(t, file, m.line), textAt(t, file, m.line)
			all = append(all, m)
		}
	}
	slices.SortFunc(all, func(a, b block) int { return strings.Compare(a.file, b.file)*1_000_000 + a.line - b.line })
	return all
}

func functionAt(t *testing.T, file string, line int) string {
	positions := token.NewFileSet()
	parsed, err := parser.ParseFile(positions, file, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range parsed.Decls {
		if f, ok := d.(*ast.FuncDecl); ok && positions.Position(f.Pos()).Line <= line && line <= positions.Position(f.End()).Line {
			return f.Name.Name
		}
	}
	return "no function"
}

func textAt(t *testing.T, file string, line int) string {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(strings.Split(string(data), "\n")[line-1])
}
