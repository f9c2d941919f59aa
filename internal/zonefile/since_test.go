package zonefile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

func always(int) bool { return true }

// canonicalText is what Write writes of the zone of a text.
func canonicalText(t testing.TB, text string) (*zone.Zone, string) {
	z, found := Parse(strings.NewReader(text), Options{Origin: "example."})
	if z == nil {
		t.Fatal(found)
	}
	var b bytes.Buffer
	if err := Write(&b, z); err != nil {
		t.Fatal(err)
	}
	return z, b.String()
}

// sinceText is a zone with some of everything, of a version.
func sinceText(r *rand.Rand, serial int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "example. 60 SOA ns mail %d 1 1 1 60\nexample. 60 NS ns.Test.\n", serial)
	for i := range 60 {
		if r.IntN(10) == 0 {
			continue
		}
		n := r.IntN(2)
		fmt.Fprintf(&b, "h%d %d A 192.0.2.%d\nh%d 60 MX 1 %s.example.\nh%d 60 TXT \"x;y\" \"%d\"\n", i, 60+n, n, i, []string{"mail", "Mail"}[n], i, n)
		fmt.Fprintf(&b, "\\001x%d 60 TYPE65280 \\# 1 0%d\n\\$a%d 60 NS a\\.b%d\n", i, n, i, n)
		fmt.Fprintf(&b, "h%d 60 RRSIG A 13 2 60 20330518033320 20231114221320 %d example. AAAA\n", i, n)
	}
	return b.String()
}

// TestSinceMakesTheZoneOfTheText: what Since says makes of one version's zone that of another version's text.
func TestSinceMakesTheZoneOfTheText(t *testing.T) {
	r := rand.New(rand.NewPCG(20, 26))
	old, _ := canonicalText(t, sinceText(r, 1))
	for i := range 50 {
		want, text := canonicalText(t, sinceText(r, 2+i))
		d := Since(old, strings.NewReader(text), 1<<20, always)
		if d == nil {
			t.Fatalf("version %d: nothing of\n%s", 2+i, text)
		}
		made, found := old.Apply(d)
		if made == nil || made.Root() != want.Root() {
			t.Fatalf("version %d: %v", 2+i, found)
		}
		if best := zone.Difference(old, want, 1<<20); d.Size() != best.Size() {
			t.Errorf("version %d: %d octets, and %d are enough", 2+i, d.Size(), best.Size())
		}
		old = made
	}
}

// TestSinceLeavesOtherTextToParse: what does not stand for itself line by line, breaks off, or differs by too much.
func TestSinceLeavesOtherTextToParse(t *testing.T) {
	r := rand.New(rand.NewPCG(20, 27))
	old, text := canonicalText(t, sinceText(r, 1))
	other := "a.example.\t60\tIN\tA\t192.0.2.1\n"
	for _, more := range []string{"$TTL 60\n", "a.example. A 192.0.2.1\n", " 60 IN A 192.0.2.1\n", "; comment\n", "\n", "a.example. 60 CH A 192.0.2.1\n",
		"a.example. 60 IN TXT (\n", other[:len(other)-1], "a.example. 60 IN A 192.0.2\n", "a..example. 60 IN A 192.0.2.1\n", "a\x00.example. 60 IN A 192.0.2.1\n"} {
		for _, all := range []string{text + more, more + text} {
			if all == other[:len(other)-1]+text {
				continue
			}
			if d := Since(old, strings.NewReader(all), 1<<20, always); d != nil {
				t.Errorf("%q: %v", more, d)
			}
		}
	}
	if d := Since(old, strings.NewReader(text+other), 40, always); d == nil || d.Added.Len() != 1 || len(d.Removed) > 0 {
		t.Errorf("another record: %v", d)
	}
	if Since(old, strings.NewReader(text+other), 10, always) != nil || Since(old, strings.NewReader(""), 1000, always) != nil {
		t.Error("the limit is not kept to")
	}
	if d := Since(old, io.MultiReader(strings.NewReader(text), iotest.ErrReader(errors.New("torn"))), 1<<20, always); d != nil {
		t.Error("a text that could not be read to its end")
	}
	many := strings.Repeat(text, 1<<13/strings.Count(text, "\n"))
	if d := Since(old, strings.NewReader(many), 1<<30, func(int) bool { return false }); d != nil {
		t.Error("it is not ended")
	}
}

// FuzzSince: where Since and Apply make a zone of a text, it is that which Parse makes.
func FuzzSince(f *testing.F) {
	old, text := canonicalText(f, strings.Join(strings.SplitAfter(sinceText(rand.New(rand.NewPCG(20, 28)), 1), "\n")[:20], ""))
	lines := strings.SplitAfter(text, "\n")
	f.Add(text)
	for i := range lines {
		f.Add(strings.Join(lines[:i], "") + strings.Join(lines[min(len(lines), i+1):], ""))
		f.Add(text + lines[i])
		f.Add(strings.Join(lines[i:], "") + strings.Join(lines[:i], "") + "new." + lines[i])
		f.Add(strings.ReplaceAll(text, "example.\t", "Example.\t") + "@ 60 IN A 192.0.2.1\nb 60 IN NS c\n" + lines[i])
	}
	f.Fuzz(func(t *testing.T, text string) {
		d := Since(old, strings.NewReader(text), 1<<20, always)
		if d == nil {
			return
		}
		made, _ := old.Apply(d)
		if made == nil {
			return
		}
		want, found := Parse(strings.NewReader(text), Options{Origin: "example."})
		if want == nil || want.Root() != made.Root() {
			t.Fatalf("not what is parsed: %v", found)
		}
	})
}
