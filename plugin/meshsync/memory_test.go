package meshsync

import (
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// TestWhatALargeReleaseTookIsGivenBack soon after the next one took its place, though the node allocates nothing then, and that is so though
// the large zones of the next one are still being written to the disk, by who knows those before too.
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
	var writes sync.RWMutex
	before := cacheStep
	t.Cleanup(func() { cacheStep = before })
	cacheStep = func() { writes.RLock(); writes.RUnlock() } //nolint:staticcheck // it goes on
	h.current(1, large(1))
	n := startNode(t, newConfig(dir, h))
	n.becomes(1)
	gone := make(chan struct{}) // a weak pointer that is looked at keeps what it points to through the collection that runs
	runtime.AddCleanup(n.answering().of("example.org."), func(gone chan struct{}) { close(gone) }, gone)
	writes.Lock()
	h.current(2, large(2))
	n.becomes(2)
	// Release 1 was let go of by then. A collection that had begun with that would find it in use.
	lab.WaitFor(t, "no collection is under way", func() bool { return !n.f.collector.busy.Load() })
	writes.Unlock()
	select {
	case <-gone:
	case <-time.After(lab.Patience):
		t.Error("the zone of release 1 is still there")
	}
}
