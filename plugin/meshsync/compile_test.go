package meshsync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// manyRecords is the canonical text of a zone that takes a while.
func manyRecords(records int) []byte {
	var b bytes.Buffer
	b.WriteString(zoneText("example.org.", 1))
	for i := range records {
		fmt.Fprintf(&b, "d%d.example.org.\t300\tIN\tNS\tns%d.test.\n", i, i%1000)
	}
	return b.Bytes()
}

// TestCompilingEndsWithItsContext, early and late, and leaves nothing running.
func TestCompilingEndsWithItsContext(t *testing.T) {
	_, h := nodeDir(t)
	const records = 200_000
	r := release.Release{Number: 1, Zones: []release.Zone{h.pack("example.org.", 1, manyRecords(records))}}
	before := runtime.NumGoroutine()
	for _, after := range []int64{-1, 1, records / 2} {
		ctx, cancel := context.WithCancel(t.Context())
		busy := &compiling{number: 1, of: 1}
		done := make(chan error, 1)
		go func() {
			_, err := compile(ctx, h.repo.Path(), r, nil, &imageCache{dir: t.TempDir()}, busy)
			done <- err
		}()
		for busy.records.Load() < after {
			runtime.Gosched()
		}
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("ended after %d records: %v", after, err)
		}
	}
	eventually(t, func() error {
		if n := runtime.NumGoroutine(); n > before {
			return fmt.Errorf("%d goroutines, %d before", n, before)
		}
		return nil
	})
}

// TestCompilingIsShown while it lasts, in the status document, and given up when nobody wants the release any more.
func TestCompilingIsShown(t *testing.T) {
	dir, h := nodeDir(t)
	h.current(1, h.zones(1))
	n := startNode(t, newConfig(dir, h))
	n.becomes(1)
	text := bytes.Replace(manyRecords(300_000), []byte(" 1 3600"), []byte(" 2 3600"), 1)
	h.stage(2, []release.Zone{h.pack("example.org.", 2, text)})
	n.waits("to show that release 2 is being compiled", func(s *status.Node) bool {
		return s.Compiling != nil && s.Compiling.Number == 2 && s.Compiling.Of == 1 && s.Compiling.Began != 0 &&
			s.Compiling.OfAll == int64(len(text)) && s.Compiling.Octets > 0 && s.Compiling.Octets <= s.Compiling.OfAll
	})
	h.cancel()
	n.waits("to give it up", func(s *status.Node) bool { return s.Compiling == nil && s.Staged == 1 })
	n.keeps(1, 0)
	h.stage(3, []release.Zone{h.pack("example.org.", 2, text)})
	n.staged(3)
}

// TestTheFirstBadZoneIsTold, whichever of several is found first: nodes must not differ in what they say.
func TestTheFirstBadZoneIsTold(t *testing.T) {
	_, h := nodeDir(t)
	var origins []string
	for i := range 40 {
		origins = append(origins, fmt.Sprintf("z%02d.example.", i))
	}
	r := release.Release{Number: 1, Zones: h.zones(1, origins...)}
	for _, i := range []int{11, 12, 13, 30} {
		must(t, os.Remove(h.blobPath(r.Zones[i])))
	}
	for range 50 {
		c, err := compile(t.Context(), h.repo.Path(), r, nil, &imageCache{dir: t.TempDir()}, &compiling{})
		if err == nil || !strings.Contains(err.Error(), "zone z11.example.") {
			t.Fatal(err)
		}
		if len(c.byDigest) < 11 {
			t.Errorf("only %d zones before the 12th are kept", len(c.byDigest))
		}
	}
}
