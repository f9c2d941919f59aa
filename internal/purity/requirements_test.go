package purity

import (
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// requirementsFile defines the ids of what is asked of the project, and of the invariants of its protocol.
const requirementsFile = "docs/requirements.md"

var (
	heading  = regexp.MustCompile(`(?m)^### ([A-Z]+-(?:\d+|[A-Z])|I\d+)$`)
	folder   = regexp.MustCompile("^\\* `([a-z/]+)` Test")
	testName = regexp.MustCompile(`\bTest\w+`)
	cited    = regexp.MustCompile(`\b[A-Z]{2,}-(?:\d|[A-Z])\b|\bI\d\b`)

	// notIDs look like one.
	notIDs = []string{"SHA-1", "UTF-8"}
)

// definition is the section of an id.
type definition struct {
	text  string   // what is asked
	proof []string // its lines "* `folder` TestThis, TestThat", or the one that names a document
}

// parseRequirements reads the definitions.
func parseRequirements(text string) map[string]definition {
	defined := map[string]definition{}
	at := heading.FindAllStringSubmatchIndex(text, -1)
	for i, m := range at {
		end := len(text)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		body, _, _ := strings.Cut(text[m[1]:end], "\n## ")
		said, after, proven := strings.Cut(body, "\nTests:\n")
		if !proven {
			said, after, _ = strings.Cut(body, "\nDocument: ")
		}
		d := definition{text: strings.TrimSpace(said)}
		for line := range strings.Lines(after) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "Not yet: ") {
				d.proof = append(d.proof, line)
			}
		}
		defined[text[m[2]:m[3]]] = d
	}
	return defined
}

func requirements(t *testing.T) map[string]definition {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(testenv.Top(t), requirementsFile))
	if err != nil {
		t.Fatal(err)
	}
	return parseRequirements(string(data))
}

// TestRequirementsAreProven: each requirement and invariant has a text, and tests that exist or a document.
func TestRequirementsAreProven(t *testing.T) {
	top, defined := testenv.Top(t), requirements(t)
	if len(defined) < 30 {
		t.Fatalf("%s defines %d ids: the test reads it wrongly", requirementsFile, len(defined))
	}
	for id, d := range defined {
		if d.text == "" {
			t.Errorf("%s: it does not say what is asked", id)
		}
		if len(d.proof) == 0 {
			t.Errorf("%s: neither a test nor a document", id)
		}
		for _, line := range d.proof {
			for _, problem := range untested(top, line) {
				t.Errorf("%s: %s", id, problem)
			}
		}
	}
}

// untested names the tests of "* `folder` TestThis, TestThat" that are not there.
func untested(top, line string) (problems []string) {
	names := testName.FindAllString(line, -1)
	in := folder.FindStringSubmatch(line)
	if len(names) == 0 && !strings.HasPrefix(line, "* ") {
		return nil // a document
	}
	if in == nil {
		return []string{"not a folder and its tests: " + line}
	}
	files, _ := filepath.Glob(filepath.Join(top, in[1], "*_test.go"))
	var source strings.Builder
	for _, f := range files {
		data, _ := os.ReadFile(f)
		source.Write(data)
	}
	for _, name := range names {
		if !strings.Contains(source.String(), "func "+name+"(") {
			problems = append(problems, in[1]+" has no "+name)
		}
	}
	return problems
}

// TestEveryCitedIDIsDefined reads all code, tests and documents.
func TestEveryCitedIDIsDefined(t *testing.T) {
	top, defined := testenv.Top(t), requirements(t)
	read := 0
	err := filepath.WalkDir(top, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() && file != top && (name == "bin" || strings.HasPrefix(name, ".")) {
			return fs.SkipDir
		}
		if d.IsDir() || !slices.Contains([]string{".go", ".md", ".yaml", ".sh", ".txt", ".service"}, path.Ext(file)) {
			return nil
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		read++
		for _, id := range undefined(string(data), defined) {
			t.Errorf("%s cites %s, which %s does not define", file, id, requirementsFile)
		}
		return nil
	})
	if err != nil || read < 100 {
		t.Fatalf("%d files read: %v", read, err)
	}
}

func undefined(text string, defined map[string]definition) (ids []string) {
	for _, id := range cited.FindAllString(text, -1) {
		if _, ok := defined[id]; !ok && !slices.Contains(notIDs, id) && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids
}

// TestUndefinedIDsAreSeen: the ids are put together here, since this file is read as well.
func TestUndefinedIDsAreSeen(t *testing.T) {
	defined := requirements(t)
	for _, id := range []string{"FAIL" + "-9", "SYNC" + "-Z", "SPEED" + "-1", "I" + "9"} {
		if got := undefined("so that ("+id+") it is seen; IS-IS, ROUTE-REFRESH and JP-1 are fine", defined); !slices.Equal(got, []string{id}) {
			t.Errorf("of %s: %q", id, got)
		}
	}
}
