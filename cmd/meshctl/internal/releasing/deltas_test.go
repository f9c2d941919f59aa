package releasing_test

import (
	"context"
	"fmt"
	"io"
	"net/http/httptest"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/internal/assemble"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// TestAReleaseComesWithDeltas while members read a format before, and with packs when they do not: a node that has one release takes
// the next by less than 1 % of the zone's bytes when 0.5 % changed; and one that took that takes a third by the next.
func TestAReleaseComesWithDeltas(t *testing.T) {
	for _, format := range []int{release.ProposalFormat, release.ManifestFormat} {
		t.Run(fmt.Sprint("format ", format), func(t *testing.T) { comesInLittle(t, format) })
	}
}

func comesInLittle(t *testing.T, format int) {
	meshDir := hometest.New(t, hometest.At(hometest.Start))
	hometest.InFormat(t, meshDir, hometest.At(hometest.Start), format)
	dir, err := depot.Create(t.TempDir())
	hometest.Check(t, err)
	defer dir.Close()
	var mem release.Memory
	for serial := uint32(1); serial <= 4; serial++ {
		h := hometest.Begin(t, meshDir, hometest.At(hometest.Start))
		made, found, err := releasing.Make(t.Context(), h, []releasing.Source{hometest.ManyNames(t, (serial+1)/2*2, 10_000)}, releasing.Options{}) // the second is as the first, the fourth as the third
		if err != nil {
			t.Fatal(err, found)
		}
		z := made.Release.Zones[0]
		if serial == 1 {
			root, _, err := h.Repository().Read(release.RootName(1), 1<<20)
			hometest.Check(t, err)
			mem, err = release.NewMemory(root)
			hometest.Check(t, err)
		}
		packs, deltas := 0, 0
		switch {
		case serial > 2 && format == release.ManifestFormat:
			packs = 1
		case serial > 2:
			deltas = 1
		}
		if len(z.Deltas) != deltas || len(z.Packs) != packs || (z.Root == release.Digest{}) != (format < release.ManifestFormat) {
			t.Fatalf("release %d has %d deltas, %d packs, and root %s", serial, len(z.Deltas), len(z.Packs), z.Root)
		}
		server := httptest.NewServer(depot.Handler(h.Repository()))
		var notes []depot.Note
		_, mem, _, err = hometest.Mirror(context.Background(), depot.Source{Client: server.Client(), URL: server.URL, Note: func(n depot.Note, err error) {
			hometest.Check(t, err)
			notes = append(notes, n)
		}}, dir, mem)
		hometest.Check(t, err)
		server.Close()
		h.Close()
		if serial%2 == 0 && len(notes) != 0 || serial%2 == 1 && (len(notes) != 1 || notes[0].Delta != (serial > 1)) {
			t.Fatalf("release %d: %v", serial, notes)
		}
		if serial == 3 {
			t.Logf("%d bytes moved of %d, %.2f %%", notes[0].Bytes, z.Blob.Length, 100*float64(notes[0].Bytes)/float64(z.Blob.Length))
			if notes[0].Bytes*100 >= z.Blob.Length {
				t.Error("1 % or more")
			}
		}
		if packs > 0 {
			got, err := assemble.Zone(dir, dir.Way(z), z, assemble.Start{Zone: func(release.Digest) *zone.Zone { return nil }, Base: func(z release.Zone) (*zone.Zone, error) { return zoneOf(t, dir, z), nil }})
			if err != nil || got.Root() != z.Root || got.Serial() != z.Serial {
				t.Fatalf("release %d: %v", serial, err)
			}
		} else if got := zoneOf(t, dir, z); got.Serial() != z.Serial {
			t.Fatalf("release %d: serial %d", serial, got.Serial())
		}
	}
}

// zoneOf reads the text of a zone to its end.
func zoneOf(t *testing.T, dir *depot.Dir, z release.Zone) *zone.Zone {
	t.Helper()
	text, err := dir.OpenBlob(z)
	hometest.Check(t, err)
	defer text.Close()
	got, found := zonefile.Parse(text, zonefile.Options{})
	_, err = io.Copy(io.Discard, text)
	hometest.Check(t, err)
	if got == nil {
		t.Fatal(found)
	}
	return got
}

// TestPacksLeadFromEachReleaseBefore to the one that is made: from the one that is answered, after those to that.
func TestPacksLeadFromEachReleaseBefore(t *testing.T) {
	meshDir := hometest.New(t, hometest.At(hometest.Start))
	var roots []release.Digest
	for serial := uint32(1); serial <= 4; serial++ {
		h := hometest.Begin(t, meshDir, hometest.At(hometest.Start))
		made, found, err := releasing.Make(t.Context(), h, []releasing.Source{hometest.ManyNames(t, serial, 2000)}, releasing.Options{})
		h.Close()
		if err != nil {
			t.Fatal(err, found)
		}
		z := made.Release.Zones[0]
		if len(z.Packs) != len(roots) {
			t.Fatalf("release %d: %d packs", serial, len(z.Packs))
		}
		for n, p := range z.Packs {
			if p.From != roots[n] {
				t.Fatalf("release %d: pack %d is from %s", serial, n, p.From)
			}
		}
		roots = append(roots, z.Root)
	}
}

// TestRootsAreOfTheLargestZones where a manifest has no room for all.
func TestRootsAreOfTheLargestZones(t *testing.T) {
	var zones []release.Zone
	for i := range 100 {
		zones = append(zones, release.Zone{Origin: fmt.Sprintf("z%02d.", i), Root: release.Digest{1}, Blob: release.Blob{Length: int64(i) << 10}, Packs: []release.Pack{{}}})
	}
	bounded := func(zones []release.Zone, most int) []release.Zone {
		was := &release.Release{Zones: zones}
		is, err := was.With(1, releasing.BoundRoots(was, most), nil)
		hometest.Check(t, err)
		return is.Zones
	}
	for most, least := range map[int]int{100: 4, 96: 4, 95: 8, 68: 32, 36: 64, 10: 128} { // KiB
		for i, z := range bounded(zones, most) {
			if want := i >= least; (z.Root != release.Digest{}) != want || (len(z.Packs) > 0) != want {
				t.Errorf("%d of 100: the zone of %d KiB has root %s", most, i, z.Root)
			}
		}
	}
	led := bounded([]release.Zone{{Origin: "a.", Root: release.Digest{1}, BaseRoot: release.Digest{2}, Blob: release.Blob{Length: 5 << 10}},
		{Origin: "b.", Root: release.Digest{3}, Blob: release.Blob{Length: 6 << 10}}}, 1)
	if led[0].Root == (release.Digest{}) || led[1].Root != (release.Digest{}) {
		t.Errorf("%+v: the one that is known by its root alone has none, or the other has", led)
	}
}
