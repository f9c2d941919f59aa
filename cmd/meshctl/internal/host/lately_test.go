package host

import (
	"bytes"
	"io"
	"os"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/receive"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// TestALargeZoneIsReleasedAsItWasReceived: by what is in memory, whatever has become of the file since, with the same record,
// text and delta as if it had been read; and no more is kept than the current and the next release have.
func TestALargeZoneIsReleasedAsItWasReceived(t *testing.T) {
	now := testNow
	home := newHome(t, at(now), "tyo")
	c := cycleAt(home, &now)
	path := t.TempDir() + "/example.org.zone"
	var texts [][]byte
	for serial := uint32(1); serial <= 4; serial++ {
		z, found := Load(manyNames(t, serial, 30_000))
		if z == nil || z.ImageSize() < receive.LargeImage {
			t.Fatal("not large", found)
		}
		var text bytes.Buffer
		check(t, zonefile.Write(&text, z))
		texts = append(texts, text.Bytes())
		check(t, os.WriteFile(path, text.Bytes(), 0o600))
		c.received(receive.Update{Origin: z.Origin(), Serial: serial, How: receive.IXFR, Path: path, SHA256: release.DigestOf(text.Bytes()).String(), Zone: z})
		switch serial {
		case 2:
			check(t, os.WriteFile(path, []byte("something else"), 0o600))
		case 3:
			check(t, os.Remove(path))
		}
		made := c.releases(t)
		if made == nil || len(made.Release.Zones) != 1 {
			t.Fatalf("release %d: %+v", serial, made)
		}
		signed := made.Release.Zones[0]
		if got := textOf(t, home, signed); !bytes.Equal(got, text.Bytes()) || signed.SHA256 != release.DigestOf(text.Bytes()) {
			t.Fatalf("release %d has another text, of %d octets", serial, len(got))
		}
		if want := serial > 1; (len(signed.Deltas) == 1) != want || want && signed.Deltas[0].From != release.DigestOf(texts[0]) {
			t.Fatalf("release %d has the deltas %v", serial, signed.Deltas)
		}
		if changes := made.Changes; len(changes) != 1 || serial > 1 && (changes[0].Added != 151 || changes[0].Removed != 151) {
			t.Errorf("release %d: %+v", serial, changes)
		}
	}
	if n := len(c.lately.zones); n != 2 {
		t.Errorf("%d zones are kept, want those of the current release and the next", n)
	}
	if c.lately.zone(release.DigestOf(texts[0])) == nil || c.lately.zone(release.DigestOf(texts[3])) == nil {
		t.Error("not the right ones")
	}
}

// TestWhatWasKeptIsTheZoneThatIsAnswered: what a release is compared with is what was published, not what was received last.
func TestWhatWasKeptIsTheZoneThatIsAnswered(t *testing.T) {
	l := NewLately()
	z, _ := Load(manyNames(t, 1, 10))
	text := release.DigestOf([]byte("text"))
	l.keep([]Source{{zone: z, text: text}}, release.Manifest{})
	if l.zone(text) != nil {
		t.Error("a zone is kept that no release has")
	}
	l.keep([]Source{{zone: z, text: text}}, release.Manifest{Current: &release.Release{Zones: []release.Zone{{Origin: z.Origin(), SHA256: text}}}})
	if l.zone(text) != z || l.memo(z) == l.memo(z) {
		t.Error("the zone is not kept, or the memo of a small one is")
	}
	var none *Lately
	if none.zone(text) != (*zone.Zone)(nil) || none.memo(z) == nil {
		t.Error("without a Lately")
	}
}

func textOf(t *testing.T, home string, z release.Zone) []byte {
	t.Helper()
	h, err := Open(home, at(testNow))
	check(t, err)
	defer h.Close()
	r, err := depot.OpenBlob(h.repo, z)
	check(t, err)
	defer r.Close()
	text, err := io.ReadAll(r)
	check(t, err)
	return text
}
