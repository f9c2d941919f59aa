package purity

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// requirements are the ids of what RFC 3258 and the .JP deployment ask for.
const requirements = `HOST-1 HOST-2 HOST-3 HOST-4 DELIV-1 DELIV-2 DELIV-3 XFER-1 SYNC-A SYNC-B SYNC-C SYNC-D SYNC-E SYNC-F SYNC-G
	SYNC-H CLOCK-1 FAIL-1 FAIL-2 FAIL-3 FAIL-4 ROUTE-1 ROUTE-2 ROUTE-3 ROUTE-4 ROUTE-5 PLACE-1 ADMIN-1 DRIFT-1 DRIFT-2 JP-1`

var (
	quoted   = regexp.MustCompile("`([a-z/]+)`")
	testName = regexp.MustCompile(`\bTest\w+`)
)

// TestRequirementsTable: ARCHITECTURE.md has a line for every requirement, and each names a test that exists, or a
// document, or says what is not there yet.
func TestRequirementsTable(t *testing.T) {
	top := testenv.Top(t)
	data, err := os.ReadFile(filepath.Join(top, "ARCHITECTURE.md"))
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string][]string{}
	for _, line := range strings.Split(string(data), "\n") {
		if cells := strings.Split(line, "|"); len(cells) == 5 {
			rows[strings.TrimSpace(cells[1])] = cells[2:4]
		}
	}
	for _, id := range strings.Fields(requirements) {
		row, ok := rows[id]
		if !ok || strings.TrimSpace(row[0]+row[1]) == "" {
			t.Errorf("%s: no line, or an empty one", id)
			continue
		}
		for _, clause := range strings.Split(row[0], ";") {
			for _, problem := range untested(top, clause) {
				t.Errorf("%s: %s", id, problem)
			}
		}
	}
}

// untested names the tests of "`folder` TestThis, TestThat" that are not there.
func untested(top, clause string) (problems []string) {
	names := testName.FindAllString(clause, -1)
	folder := quoted.FindStringSubmatch(clause)
	if len(names) == 0 {
		return nil
	}
	if folder == nil {
		return []string{"a test without a folder: " + clause}
	}
	files, _ := filepath.Glob(filepath.Join(top, folder[1], "*_test.go"))
	var source strings.Builder
	for _, f := range files {
		data, _ := os.ReadFile(f)
		source.Write(data)
	}
	for _, name := range names {
		if !strings.Contains(source.String(), "func "+name+"(") {
			problems = append(problems, folder[1]+" has no "+name)
		}
	}
	return problems
}
