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
	inGo   = regexp.MustCompile("`([\\w./-]+\\.go)`")
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

// TestFilesThatPagesNameAreThere: each file of Go that a document names has that path, or one that ends so.
func TestFilesThatPagesNameAreThere(t *testing.T) {
	top, there := testenv.Top(t), map[string]bool{}
	err := filepath.WalkDir(top, func(file string, d fs.DirEntry, err error) error {
		for name, _ := filepath.Rel(top, file); filepath.Ext(name) == ".go"; _, name, _ = strings.Cut(name, "/") {
			there[name] = true
		}
		return err
	})
	if err != nil || len(there) < 1000 {
		t.Fatalf("%d paths: %v", len(there), err)
	}
	for name, text := range pages(t) {
		for _, m := range inGo.FindAllStringSubmatch(text, -1) {
			if !there[m[1]] {
				t.Errorf("%s: there is no %s", name, m[1])
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

// TestTheFirstPageSaysWhatOperatorsAskFirst: what the product does not do, which ports there are, what to back up, and what happens when
// a node is down.
func TestTheFirstPageSaysWhatOperatorsAskFirst(t *testing.T) {
	readme := pages(t)["README.md"]
	for from, want := range map[string][]string{
		"**What it does not do:**":   {"does not sign zones", "no resolver", "not the only name server"},
		"\n## Ports\n":               {"| 53 UDP, TCP |", "| 8443 TCP |", "| 8444 TCP |", "| 179 TCP |", "docs/reference/ports.md"},
		"\n## What to back up\n":     {"`meshctl backup FILE`", "Nodes need no backup", "docs/operate/backup.md", "docs/operate/keys.md"},
		"\n## When a node is down\n": {"Nothing needs to be done at once", "`absent`", "`meshctl member remove NAME`", "docs/operate/node-down.md"},
	} {
		_, text, there := strings.Cut(readme, from)
		text, _, _ = strings.Cut(text, "\n## ")
		text = strings.Join(strings.Fields(text), " ")
		if !there {
			t.Errorf("no %q", strings.TrimSpace(from))
		}
		for _, one := range want {
			if !strings.Contains(text, one) {
				t.Errorf("%s: nothing of %q", strings.TrimSpace(from), one)
			}
		}
	}
}
