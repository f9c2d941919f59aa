package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
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
	// quantity is a value, and no DURATION that stands for one.
	quantity = regexp.MustCompile(`^[0-9][0-9a-z.]*$`)
)

// TestDocumentsNameWhatThereIs: every command, and every flag of one, that a document gives is one of meshctl's, and every number one that
// it takes.
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
	for i, word := range words {
		said := flagged.FindStringSubmatch(word)
		if said == nil {
			continue
		}
		flag := cmd.Flag(said[1])
		switch {
		case flag == nil:
			problems = append(problems, "no such flag: "+word)
		case i+1 < len(words) && quantity.MatchString(words[i+1]) && slices.Contains([]string{"duration", "int", "uint", "uint32", "float"}, flag.Value.Type()):
			if err := flag.Value.Set(words[i+1]); err != nil {
				problems = append(problems, fmt.Sprintf("%s %s: %v", word, words[i+1], err))
			}
		}
	}
	return problems
}
