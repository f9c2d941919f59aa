package zonefile

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// outcome is everything that Parse says of a text.
func outcome(t testing.TB, r io.Reader, opts Options) string {
	z, found := Parse(r, opts)
	var b strings.Builder
	for _, f := range found {
		fmt.Fprintf(&b, "%+v\n", f)
	}
	if z != nil {
		b.WriteString(written(t, z))
	}
	return b.String()
}

// inChunks compares reading in small chunks with reading line by line.
func inChunks(t testing.TB, text string, opts Options) {
	t.Helper()
	opts.Parallel = 1
	want := outcome(t, strings.NewReader(text), opts)
	opts.Parallel = 3
	for _, opts.chunk = range []int{16, 61, 256, 4096} {
		if got := outcome(t, strings.NewReader(text), opts); got != want {
			t.Errorf("in chunks of %d octets\n%s\nnot\n%s\nof\n%s", opts.chunk, got, want, text)
		}
	}
}

const absoluteHead = "example.\t300\tIN\tSOA\tns.test. mail.test. 1 2 3 4 5\nexample.\t300\tIN\tNS\tns.test.\n"

func FuzzChunks(f *testing.F) {
	lines := strings.Repeat("a.example. 300 IN A 192.0.2.1\nb.example. 300 IN MX 10 a.example.\n", 8)
	for _, text := range []string{lines, lines + " A 192.0.2.1\n" + lines, "$TTL 5\n" + lines + "c.example. A 192.0.2.1\n" + lines,
		lines + "c TXT ( x\n ; " + strings.Repeat("y", 70) + "\n )\n" + lines, lines + "c.example. 1 IN TXT \"open\n" + lines,
		lines + "c.test. 1 IN A 192.0.2.1\n" + lines, lines + "c.example. 1 IN A 192.0.2.1", lines + "$INCLUDE f\n" + lines,
		lines + "; " + strings.Repeat("z", 600) + "\n" + lines, strings.Repeat("\n", 100) + lines, lines + "@ A 192.0.2.1\n" + lines,
		lines + "example. 1 IN SOA . . 1 2 3 4 5\n" + lines, lines + "d.example. IN A 192.0.2.2\nd.example. 4294967295 IN A 192.0.2.2\n" + lines} {
		f.Add(absoluteHead+text, true)
		f.Add(absoluteHead+text, false)
	}
	f.Fuzz(func(t *testing.T, text string, said bool) {
		opts := Options{MaxRecords: 40, MaxEntry: 500}
		if said {
			opts.Origin = "example."
		}
		inChunks(t, text, opts)
	})
}

// TestChunksOfALargeZone reads the text of a whole zone, canonical, with lines that need those before, or with errors.
func TestChunksOfALargeZone(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	odd := []string{" 9 IN TXT inherited\n", " 9 IN TXT ( in\n herited )\n", "x.test. 1 IN A 192.0.2.1\n", "bad\n", "$TTL 7\n", "$ORIGIN sub.example.\n", "rel 9 IN TXT ( a\n b )\n", "e.example. IN A 192.0.2.3\n",
		"f.example. 1 IN CNAME g.example.\nf.example. 1 IN A 192.0.2.1\n"}
	for round := range 30 {
		kinds := odd
		if round%3 == 0 {
			kinds = odd[:2] // no errors, so that there is a zone to compare
		}
		var text strings.Builder
		text.WriteString(absoluteHead)
		for i := range 400 {
			fmt.Fprintf(&text, "d%d.example.\t%d\tIN\tNS\tns%d.test.\n", i, 100+i%3, i%7)
			if r.IntN(60) == 0 {
				text.WriteString(kinds[r.IntN(len(kinds))])
			}
		}
		inChunks(t, text.String(), Options{})
		inChunks(t, text.String(), Options{MaxRecords: 300})
	}
}

// TestReadErrorInChunks: what the reader says is told with its line, and nothing is left running.
func TestReadErrorInChunks(t *testing.T) {
	before := runtime.NumGoroutine()
	text := absoluteHead + strings.Repeat("a.example. 300 IN A 192.0.2.1\n", 50)
	for _, readers := range []int{1, 3} {
		broken := io.MultiReader(strings.NewReader(text+"b.exam"), iotest.ErrReader(errors.New("disk on fire")))
		z, found := Parse(broken, Options{chunk: 100, Parallel: readers})
		if z != nil || len(found) != 1 || found[0].Line != 53 || !strings.Contains(found[0].Detail, "disk on fire") {
			t.Errorf("%d readers: %v", readers, found)
		}
	}
	noneLeft(t, before)
}

// TestProgressEndsReading at any of its calls, while reading and while the zone is made, and leaves nothing running.
func TestProgressEndsReading(t *testing.T) {
	before := runtime.NumGoroutine()
	var text strings.Builder
	text.WriteString(absoluteHead)
	for i := range 9000 {
		fmt.Fprintf(&text, "d%d.example.\t300\tIN\tNS\tns.test.\n", i)
	}
	for _, readers := range []int{1, 3} {
		calls := 0
		var seen []int
		opts := Options{Parallel: readers, chunk: 1 << 15, Size: int64(text.Len()), Progress: func(n int) bool { calls++; seen = append(seen, n); return true }}
		if z, found := Parse(strings.NewReader(text.String()), opts); z == nil {
			t.Fatal(found)
		}
		if !slices.IsSorted(seen) || seen[len(seen)-1] != 9002 || seen[0] > 5000 {
			t.Errorf("%d readers: progress %v", readers, seen)
		}
		for end := 0; end < calls; end += 3 {
			n := 0
			opts.Progress = func(int) bool { n++; return n <= end }
			z, found := Parse(strings.NewReader(text.String()), opts)
			if z != nil || !zone.HasErrors(found) || found[0].Rule != "ended" {
				t.Errorf("%d readers, ended at call %d of %d: %v", readers, end, calls, found)
			}
		}
	}
	noneLeft(t, before)
}

func noneLeft(t *testing.T, before int) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > before; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}
