package meshsync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
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
			_, err := compile(ctx, h.repo.Path(), r, known{}, &imageCache{dir: t.TempDir()}, busy)
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
	lab.Eventually(t, func() error {
		if n := runtime.NumGoroutine(); n > before {
			return fmt.Errorf("%d goroutines, %d before", n, before)
		}
		return nil
	})
}

// TestCompilingIsShown while it lasts, in the status document, and given up when nobody wants the release any more.
func TestCompilingIsShown(t *testing.T) {
	h, n := answeringNode(t)
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
		c, err := compile(t.Context(), h.repo.Path(), r, known{}, &imageCache{dir: t.TempDir()}, &compiling{})
		if err == nil || !strings.Contains(err.Error(), "zone z11.example.") {
			t.Fatal(err)
		}
		n := 0
		for _, z := range r.Zones {
			if c.of(z.Origin) != nil {
				n++
			}
		}
		if n < 11 {
			t.Errorf("only %d zones before the 12th are kept", n)
		}
	}
}

// TestWhatIsRightOfAReleaseIsMadeOnce: of a release whose zones come one after the other, what is there is made, and is not made again when more of
// them have come, in a tree or without.
func TestWhatIsRightOfAReleaseIsMadeOnce(t *testing.T) {
	_, h := nodeDir(t)
	var origins []string
	for i := range 300 {
		origins = append(origins, fmt.Sprintf("z%03d.example.", i))
	}
	flat := release.Release{Number: 1, Zones: h.zones(1, origins...)}
	grown, err := (&release.Release{}).With(1, flat.Zones, nil)
	must(t, err)
	for what, r := range map[string]release.Release{"a list": flat, "a tree": grown} {
		var before known
		made := map[string]*zone.Zone{}
		for _, lost := range []int{250, 120, 120, 299, -1} {
			path := ""
			if lost >= 0 {
				path = h.blobPath(flat.Zones[lost])
				must(t, os.Rename(path, path+"-away"))
			}
			busy := &compiling{of: r.Len(), ofAll: r.Octets()}
			c, err := compile(t.Context(), h.repo.Path(), r, before, &imageCache{dir: t.TempDir()}, busy)
			if lost >= 0 {
				must(t, os.Rename(path+"-away", path))
			}
			if known := len(made); (err == nil) != (lost < 0 || made[origins[lost]] != nil) {
				t.Fatalf("%s, without %d, when %d are made: %v", what, lost, known, err)
			}
			for _, origin := range origins {
				z := c.of(origin)
				if z == nil && made[origin] != nil || made[origin] != nil && z != made[origin] {
					t.Fatalf("%s, without %d: %s is made again", what, lost, origin)
				}
				if z != nil {
					made[origin] = z
				}
			}
			if len(made) < lost || err == nil && (int(busy.zones.Load()) != len(origins) || busy.octets.Load() != r.Octets() || c.zones.Len() != len(origins)) {
				t.Errorf("%s: %d zones are made, %d are said to be of %d octets", what, len(made), busy.zones.Load(), busy.octets.Load())
			}
			before = known{failed: c}
		}
	}
}

// TestALargeZoneIsMadeOfTheOneBefore, if it differs in a little: it is the zone of its text all the same, and shares with the
// one before what did not change. What is not the text that was signed, or no zone, is refused as ever.
func TestALargeZoneIsMadeOfTheOneBefore(t *testing.T) {
	_, h := nodeDir(t)
	first := manyRecords(40_000)
	second := bytes.Replace(bytes.Replace(first, []byte(" 1 3600"), []byte(" 2 3600"), 1), []byte("d77.example.org."), []byte("new.example.org."), 1)
	third := bytes.Replace(bytes.Replace(second, []byte(" 2 3600"), []byte(" 3 3600"), 1), []byte("\t300\tIN\tNS\tns5"), []byte("\t600\tIN\tNS\tns5"), -1)
	releases := []release.Release{}
	for i, text := range [][]byte{first, second, third} {
		z, found := zonefile.Parse(bytes.NewReader(text), zonefile.Options{})
		if z == nil {
			t.Fatal(found)
		}
		var b bytes.Buffer
		must(t, zonefile.Write(&b, z))
		text = b.Bytes()
		releases = append(releases, release.Release{Number: uint64(i + 1), Zones: []release.Zone{h.pack("example.org.", uint32(i+1), text)}})
	}
	make := func(r release.Release, before known) (*zone.Zone, *compiling) {
		busy := &compiling{}
		c, err := compile(t.Context(), h.repo.Path(), r, before, &imageCache{dir: t.TempDir()}, busy)
		if err != nil {
			t.Fatal(err)
		}
		return c.zones.Get("example.org."), busy
	}
	image := func(z *zone.Zone) []byte {
		var b bytes.Buffer
		must(t, z.WriteImage(&b, release.Digest{}))
		return b.Bytes()
	}
	before := known{}
	for i, r := range releases {
		fresh, _ := make(r, known{})
		z, busy := make(r, before)
		if z.Root() != fresh.Root() || z.Serial() != fresh.Serial() || z.Len() != fresh.Len() {
			t.Errorf("release %d: another zone", r.Number)
		}
		if built := bytes.Equal(image(z), image(fresh)); built != (i != 1) { // the third one differs by too much
			t.Errorf("release %d: built anew is %v", r.Number, built)
		}
		if n := busy.records.Load(); n != int64(z.Len()) || busy.octets.Load() != r.Zones[0].Length {
			t.Errorf("release %d: %d records and %d octets are shown", r.Number, n, busy.octets.Load())
		}
		before = madeBefore(r.Zones[0], z)
	}
	for _, wrong := range []string{"other.org.\t300\tIN\tNS\tns.test.\n", "d5.example.org.\t300\tIN\tCNAME\td6.example.org.\n"} {
		r := release.Release{Number: 9, Zones: []release.Zone{h.pack("example.org.", 3, append(bytes.Clone(third), wrong...))}}
		if _, err := compile(t.Context(), h.repo.Path(), r, before, &imageCache{dir: t.TempDir()}, &compiling{}); err == nil {
			t.Errorf("%q is served", wrong)
		}
	}
	torn := releases[1]
	torn.Zones = slices.Clone(torn.Zones)
	torn.Zones[0].SHA256[3]++
	if _, err := compile(t.Context(), h.repo.Path(), torn, before, &imageCache{dir: t.TempDir()}, &compiling{}); err == nil {
		t.Error("a text that is not the one that was signed is served")
	}
}
