package unattended

import (
	"bytes"
	"os"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/internal/receive"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// TestALargeZoneIsReleasedAsItWasReceived: by what is in memory, whatever has become of the file since, and if its text is not written yet,
// with the same record, text and pack as if it had been read; and no more is kept than the current and the next release have.
func TestALargeZoneIsReleasedAsItWasReceived(t *testing.T) {
	now := hometest.Start
	dir := hometest.New(t, hometest.At(now), "tyo")
	c := cycleAt(dir, &now)
	path := t.TempDir() + "/example.org.zone"
	var texts [][]byte
	var first release.Digest
	for serial := uint32(1); serial <= 4; serial++ {
		z, found := releasing.Load(t.Context(), hometest.ManyNames(t, serial, 30_000))
		if z == nil || z.ImageSize() < receive.LargeImage {
			t.Fatal("not large", found)
		}
		var text bytes.Buffer
		hometest.Check(t, zonefile.Write(&text, z))
		texts = append(texts, text.Bytes())
		hometest.Check(t, os.WriteFile(path, text.Bytes(), 0o600))
		u := receive.Update{Origin: z.Origin(), Serial: serial, How: receive.IXFR, Path: path, SHA256: release.DigestOf(text.Bytes()).String(), Zone: z}
		if serial == 4 {
			u.SHA256 = "" // the text is not written yet
		}
		c.received(u)
		switch serial {
		case 2:
			hometest.Check(t, os.WriteFile(path, []byte("something else"), 0o600))
		case 3:
			hometest.Check(t, os.Remove(path))
		}
		made := c.releases(t)
		if made == nil || len(made.Release.Zones) != 1 {
			t.Fatalf("release %d: %+v", serial, made)
		}
		if again := c.releases(t); again != nil || len(c.pending) > 0 {
			t.Errorf("release %d is made, and once more: %+v, pending %v", serial, again, c.pending)
		}
		signed := made.Release.Zones[0]
		if got := hometest.TextOf(t, dir, signed); !bytes.Equal(got, text.Bytes()) || signed.SHA256 != release.DigestOf(text.Bytes()) {
			t.Fatalf("release %d has another text, of %d octets", serial, len(got))
		}
		if serial == 1 {
			first = z.Root()
		}
		if want := serial > 1; signed.Root != z.Root() || (len(signed.Packs) == 1) != want || want && signed.Packs[0].From != first {
			t.Fatalf("release %d has the packs %v", serial, signed.Packs)
		}
		if changes := made.Changes; len(changes) != 1 || serial > 1 && (changes[0].Added != 151 || changes[0].Removed != 151) {
			t.Errorf("release %d: %+v", serial, changes)
		}
	}
	for i, kept := range []bool{true, false, false, true} { // of the current release, and the next
		if got := c.lately.Zone(release.DigestOf(texts[i])) != nil; got != kept {
			t.Errorf("the zone of release %d is kept: %v", i+1, got)
		}
	}
}
