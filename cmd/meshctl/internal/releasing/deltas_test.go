package releasing_test

import (
	"context"
	"io"
	"net/http/httptest"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// TestAReleaseComesWithDeltas: a node that has one release takes the next by a delta, of under 1 % of the zone's bytes when
// 0.5 % changed; and one that was made of a delta takes a third by the next.
func TestAReleaseComesWithDeltas(t *testing.T) {
	meshDir := hometest.New(t, hometest.At(hometest.Start))
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
		if want := serial > 2; (len(z.Deltas) == 1) != want {
			t.Fatalf("release %d has %d deltas", serial, len(z.Deltas))
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
		text, err := dir.OpenBlob(z)
		hometest.Check(t, err)
		_, err = io.Copy(io.Discard, text)
		hometest.Check(t, err)
		text.Close()
	}
}
