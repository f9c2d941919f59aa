// Package docs tests the documents: that links lead somewhere, and that each page has one subject.
package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

var (
	link   = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	fenced = regexp.MustCompile("(?ms)^(```|~~~).*?^(```|~~~)$")
	title  = regexp.MustCompile(`(?m)^#+ (.*)$`)
	noSlug = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// pages are all documents, by their path below the top.
func pages(t *testing.T) map[string]string {
	t.Helper()
	top, found := testenv.Top(t), map[string]string{}
	err := filepath.WalkDir(top, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := d.Name(); d.IsDir() && file != top && (name == "bin" || name == "testdata" || name == "node_modules" || strings.HasPrefix(name, ".")) {
			return fs.SkipDir
		}
		if filepath.Ext(file) == ".md" {
			data, err := os.ReadFile(file)
			if err != nil {
				return err
			}
			name, _ := filepath.Rel(top, file)
			found[name] = string(data)
		}
		return nil
	})
	if err != nil || len(found) < 40 {
		t.Fatalf("%d documents: %v", len(found), err)
	}
	return found
}

// TestLinksLeadSomewhere: each link to a file or a heading of the project has one.
func TestLinksLeadSomewhere(t *testing.T) {
	top, all := testenv.Top(t), pages(t)
	for name, text := range all {
		for _, m := range link.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
			target, heading, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			to := name
			if target != "" {
				to = filepath.Join(filepath.Dir(name), target)
			}
			if _, err := os.Stat(filepath.Join(top, to)); err != nil {
				t.Errorf("%s: there is no %s", name, m[1])
			} else if heading != "" && !hasHeading(all[to], heading) {
				t.Errorf("%s: %s has no heading %q", name, to, heading)
			}
		}
	}
}

func hasHeading(text, slug string) bool {
	for _, m := range title.FindAllStringSubmatch(fenced.ReplaceAllString(text, ""), -1) {
		if strings.ReplaceAll(noSlug.ReplaceAllString(strings.ToLower(m[1]), ""), " ", "-") == slug {
			return true
		}
	}
	return false
}

// TestSizes: the first page and the overview are for readers in a hurry.
func TestSizes(t *testing.T) {
	all := pages(t)
	if n := strings.Count(all["README.md"], "\n"); n > 150 {
		t.Errorf("README.md has %d lines, of 150", n)
	}
	if n := len(all["ARCHITECTURE.md"]); n > 10_000 {
		t.Errorf("ARCHITECTURE.md has %d octets, of 10,000", n)
	}
	for name, text := range all {
		if strings.Count(fenced.ReplaceAllString("\n"+text, ""), "\n# ") != 1 {
			t.Errorf("%s has not one title", name)
		}
	}
}
