package meshsync

import (
	"fmt"
	"strings"
	"testing"
	"weak"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// TestWhatALargeReleaseTookIsGivenBack soon after the next one took its place, though the node allocates nothing then.
func TestWhatALargeReleaseTookIsGivenBack(t *testing.T) {
	dir, h := nodeDir(t)
	large := func(number uint64) []release.Zone {
		var text strings.Builder
		text.WriteString(zoneText("example.org.", number))
		filler := strings.Repeat(fmt.Sprintf(" \"%s\"", strings.Repeat(fmt.Sprint(number), 250)), 6)
		for i := range 30_000 {
			fmt.Fprintf(&text, "n%d.example.org. 60 IN TXT \"%d\"%s\n", i, i, filler)
		}
		return []release.Zone{h.blob("example.org.", text.String())}
	}
	h.current(1, large(1))
	n := startNode(t, newConfig(dir, h))
	n.becomes(1)
	first := zoneOf(n)
	h.current(2, large(2))
	n.becomes(2)
	lab.WaitFor(t, "the zone of release 1 has gone", func() bool { return first.Value() == nil })
}

func zoneOf(n *node) weak.Pointer[zone.Zone] { return weak.Make(n.answering().of("example.org.")) }
