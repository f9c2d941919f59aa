package purity

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// unbounded is a flag that takes any number of its type: as a method of a set of flags, or of package flag. An AS number has 32 bits.
var unbounded = regexp.MustCompile(`\b\w+(\(\))?\.((Int|Int8|Int16|Int32|Int64|Uint|Uint8|Uint16|Uint64|Float32|Float64|Duration|Count)(VarP?|P)|(Int|Uint64|Float64|Duration|Uint|Int64))\((&[\w.]+, )?"`)

// TestNumbersOfCommandLinesAreBounded: no program takes a number other than by internal/number.
func TestNumbersOfCommandLinesAreBounded(t *testing.T) {
	for _, line := range []string{`cmd.Flags().IntVar(&limit, "last", 20, "x")`, `flag.Uint64("seeds", 1000, "x")`, `f.DurationVar(&o.Lease, "lease", 1, "x")`} {
		if !unbounded.MatchString(line) {
			t.Errorf("%s is not found", line)
		}
	}
	top, files := testenv.Top(t), 0
	err := filepath.WalkDir(top, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return err
		}
		files++
		data, err := os.ReadFile(file)
		for _, found := range unbounded.FindAllString(string(data), -1) {
			t.Errorf("%s: %s…: use internal/number", file, found)
		}
		return err
	})
	if err != nil || files < 100 {
		t.Errorf("%d files read, %v", files, err)
	}
}
