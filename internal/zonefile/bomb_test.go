package zonefile

import (
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// counted counts what is read of a reader.
type counted struct {
	r io.Reader
	n int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// TestTenGigabytes in one line, one entry or one quotation are refused after the first megabytes, and take no more memory.
func TestTenGigabytes(t *testing.T) {
	const most = 32 << 20
	for name, c := range map[string]struct{ begin, more, want string }{
		"a line":            {"a TXT ", "x", "a line of more than"},
		"a comment":         {"; ", "x", "a line of more than"},
		"a quotation":       {"a TXT \"", "x", "a line of more than"},
		"a parenthesis":     {"a TXT (\n", "x\n", "an entry of more than"},
		"only parentheses":  {"a TXT ", "(", "a line of more than"},
		"a plain line":      {"a.example.\t300\tIN\tA\t", "1", "a line of more than"},
		"NUL octets":        {"a TXT ", "\x00", "a line of more than"},
		"lines that fail":   {"", "?\n", "an entry without a type"},
		"lines of a record": {"", "a.test. 300 IN A 192.0.2.1\n", "not at or below"},
	} {
		for _, readers := range []int{1, 3} {
			t.Run(fmt.Sprintf("%s, %d readers", name, readers), func(t *testing.T) {
				text := &counted{r: io.LimitReader(io.MultiReader(strings.NewReader(head+c.begin), endlessly([]byte(c.more)...)), 10<<30)}
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				z, found := Parse(text, Options{Parallel: readers, MaxRecords: 100_000})
				runtime.ReadMemStats(&after)
				if z != nil || len(found) > zone.MaxFindings+1 || !strings.Contains(fmt.Sprint(found), c.want) {
					t.Errorf("%d findings: %.300v", len(found), found)
				}
				if used := after.TotalAlloc - before.TotalAlloc; text.n > most || used > 4*most {
					t.Errorf("%d octets were read, %d taken", text.n, used)
				}
			})
		}
	}
}

// TestGenerateBombs: one line of text can ask for very much.
func TestGenerateBombs(t *testing.T) {
	for text, want := range map[string]string{
		strings.Repeat("$GENERATE 0-65535 a$ A 192.0.2.1\n", 17):         "more than 1048576 generated records",
		"$GENERATE 0-2147483648 a$ A 192.0.2.1\n":                        "is no range",
		"$GENERATE 0-1/0 a$ A 192.0.2.1\n":                               "is no range",
		"$GENERATE 2147483647-2147483647 a${2147483647,255,x} TXT x\n":   "domain name",
		"$GENERATE 0-1 a${0,256} A 192.0.2.1\n":                          "offset,width,base",
		"$GENERATE 0-1 a${99999999999999999999} A 192.0.2.1\n":           "offset,width,base",
		"$GENERATE 0-1 $GENERATE 0-1 b$ A 192.0.2.1\n":                   "no type",
		"$GENERATE 0-1 $INCLUDE f$\n":                                    "is no type",
		"$GENERATE 0-1 a$ TXT " + strings.Repeat("${0,255} ", 61) + "\n": "more than 1024 octets",
		"$GENERATE 0-1 a$ TXT " + strings.Repeat("$ ", 70) + "\n":        "arguments",
	} {
		z, found := Parse(strings.NewReader(head+text), Options{Include: fstest.MapFS{}})
		if z != nil || len(found) > 2 || !strings.Contains(fmt.Sprint(found), want) {
			t.Errorf("%.60s: %.300v, want %s", text, found, want)
		}
	}
}

// TestIncludeOpensRegularFilesOnly: to open a pipe would hang.
func TestIncludeOpensRegularFilesOnly(t *testing.T) {
	files := fstest.MapFS{"pipe": {Mode: fs.ModeNamedPipe}, "device": {Mode: fs.ModeDevice}, "directory": {Mode: fs.ModeDir}}
	for name := range files {
		z, found := Parse(strings.NewReader(head+"$INCLUDE "+name+"\n"), Options{Include: files})
		if z != nil || len(found) != 1 || found[0].Line != 5 || !strings.Contains(found[0].Detail, "no regular file") {
			t.Errorf("%s: %v", name, found)
		}
	}
}
