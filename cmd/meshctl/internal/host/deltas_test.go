package host

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// manyNames writes a zone of delegations of which those whose number is divided by 200, 0.5 %, tell the serial.
func manyNames(t testing.TB, serial uint32, names int) Source {
	t.Helper()
	text := bytes.NewBufferString(fmt.Sprintf("$ORIGIN example.org.\n$TTL 300\n@ SOA ns1 host %d 7200 3600 1209600 300\n@ NS ns1\n@ NS ns.example.net.\nns1 A 192.0.2.53\n", serial))
	for n := range names {
		tells := uint32(0)
		if n%200 == 0 {
			tells = serial
		}
		digest := release.DigestOf(fmt.Appendf(nil, "%d %d", n, tells))
		fmt.Fprintf(text, "d%d NS ns.d%d\nns.d%d A 192.0.2.%d\nd%d DS %d 13 2 %s\n", n, n, n, n%256, n, n%65536, digest)
	}
	file := filepath.Join(t.TempDir(), "example.org.zone")
	check(t, os.WriteFile(file, text.Bytes(), 0o600))
	return Source{File: file}
}

// TestAReleaseComesWithDeltas: a node that has one release takes the next by a delta, of under 1 % of the zone's bytes when
// 0.5 % changed; and one that was made of a delta takes a third by the next.
func TestAReleaseComesWithDeltas(t *testing.T) {
	home := newHome(t, at(testNow))
	dir, err := depot.Create(t.TempDir())
	check(t, err)
	defer dir.Close()
	var mem release.Memory
	for serial := uint32(1); serial <= 4; serial++ {
		h, err := Open(home, at(testNow))
		check(t, err)
		made, found, err := h.Release([]Source{manyNames(t, (serial+1)/2*2, 10_000)}, ReleaseOptions{}) // the second is as the first, the fourth as the third
		if err != nil {
			t.Fatal(err, found)
		}
		z := made.Release.Zones[0]
		if serial == 1 {
			root, _, err := h.repo.Read(release.RootName(1), 1<<20)
			check(t, err)
			mem, err = release.NewMemory(root)
			check(t, err)
		}
		if want := serial > 2; (len(z.Deltas) == 1) != want {
			t.Fatalf("release %d has %d deltas", serial, len(z.Deltas))
		}
		server := httptest.NewServer(depot.Handler(h.repo))
		var notes []depot.Note
		_, mem, _, err = depot.Mirror(context.Background(), depot.Source{Client: server.Client(), URL: server.URL, Note: func(n depot.Note, err error) {
			check(t, err)
			notes = append(notes, n)
		}}, dir, mem)
		check(t, err)
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
		check(t, err)
		_, err = io.Copy(io.Discard, text)
		check(t, err)
		text.Close()
	}
}
