package main

import (
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

var (
	// ordered is a command line in a document, to the end of its code.
	ordered = regexp.MustCompile("\\bmeshctl ([a-z][^`#|;&>\n]*)")
	flagged = regexp.MustCompile(`^--([a-z-]+)`)
)

// TestDocumentsNameWhatThereIs: every command, and every flag of one, that a document gives is one of meshctl's.
func TestDocumentsNameWhatThereIs(t *testing.T) {
	root := (&cli{out: io.Discard, log: io.Discard, clock: time.Now}).command()
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	seen := 0
	for _, name := range documents(t) {
		data, err := os.ReadFile(filepath.Join(testenv.Top(t), name))
		if err != nil {
			t.Fatal(err)
		}
		text := strings.ReplaceAll(string(data), "\\\n", " ")
		for _, m := range ordered.FindAllStringSubmatch(text, -1) {
			for _, problem := range unknownTo(root, strings.Fields(m[1])) {
				t.Errorf("%s: %q: %s", name, m[0], problem)
			}
			seen++
		}
	}
	if seen < 40 {
		t.Errorf("only %d commands were found: the test reads the documents wrongly", seen)
	}
}

// documents are those that speak to users: all but the changes, which name what is gone.
func documents(t *testing.T) (names []string) {
	t.Helper()
	top := testenv.Top(t)
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/*/*.md", "plugin/*/README.md", "sidecar/*/README.md"} {
		found, err := filepath.Glob(filepath.Join(top, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range found {
			if name, _ := filepath.Rel(top, file); name != "CHANGELOG.md" {
				names = append(names, name)
			}
		}
	}
	return names
}

// unknownTo is what of a command line is no command or no flag of meshctl.
func unknownTo(root *cobra.Command, words []string) (problems []string) {
	cmd := root
	for i, word := range words { // a command may be the end of a sentence
		words[i] = strings.TrimRight(word, ".,:;)\"")
	}
	for len(words) > 0 {
		next, _, err := cmd.Find(words[:1])
		if err != nil || next == cmd {
			break
		}
		cmd, words = next, words[1:]
	}
	if cmd == root {
		return []string{"no such command"}
	}
	cmd.InitDefaultHelpFlag()
	for _, word := range words {
		if flag := flagged.FindStringSubmatch(word); flag != nil && cmd.Flag(flag[1]) == nil {
			problems = append(problems, "no such flag: "+word)
		}
	}
	return problems
}
