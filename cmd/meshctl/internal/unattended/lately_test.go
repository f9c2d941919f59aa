package unattended

import (
	"bytes"
	"io"
	"os"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/internal/receive"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// TestALargeZoneIsReleasedAsItWasReceived: by what is in memory, whatever has become of the file since, and if its text is not written yet,
// with the same record and pack as if it had been read; and no more is kept than the current and the next release have.
func TestALargeZoneIsReleasedAsItWasReceived(t *testing.T) {
	now := hometest.Start
	dir := hometest.New(t, hometest.At(now), "tyo")
	c := cycleAt(dir, &now)
	path := t.TempDir() + "/example.org.zone"
	var roots []release.Digest
	for serial := uint32(1); serial <= 4; serial++ {
		z, found := releasing.Load(t.Context(), hometest.ManyNames(t, serial, 30_000))
		if z == nil || z.ImageSize() < receive.LargeImage {
			t.Fatal("not large", found)
		}
		var text bytes.Buffer
		hometest.Check(t, zonefile.Write(&text, z))
		roots = append(roots, z.Root())
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
		if got := hometest.TextOf(t, dir, signed); !bytes.Equal(got, text.Bytes()) {
			t.Fatalf("release %d has another text, of %d octets", serial, len(got))
		}
		if led := serial > 1; signed.Root != z.Root() || signed.Whole() == led || (len(signed.Packs) == 1) != led || led && signed.Packs[0].From != roots[0] {
			t.Fatalf("release %d: %+v", serial, signed)
		}
		if changes := made.Changes; len(changes) != 1 || serial > 1 && (changes[0].Added != 151 || changes[0].Removed != 151) {
			t.Errorf("release %d: %+v", serial, changes)
		}
	}
	for i, kept := range []bool{true, false, false, true} { // of the current release, and the next
		if got := c.lately.Zone(roots[i]) != nil; got != kept {
			t.Errorf("the zone of release %d is kept: %v", i+1, got)
		}
	}
	text, err := os.ReadFile(path)
	hometest.Check(t, err)
	for _, root := range []string{roots[3].String(), ""} { // as at a start, and if a version before has kept it
		c.received(receive.Update{Origin: "example.org.", Serial: 4, How: receive.Kept, Path: path, SHA256: release.DigestOf(text).String(), Root: root})
		if again := c.releases(t); again != nil || len(c.pending) > 0 {
			t.Errorf("root %q: released once more: %+v, pending %v", root, again, c.pending)
		}
	}
}

// TestWhatServeWritesBesideIsThereForTheNextRelease, though another command writes meanwhile.
func TestWhatServeWritesBesideIsThereForTheNextRelease(t *testing.T) {
	now := hometest.Start
	dir := hometest.New(t, hometest.At(now), "tyo")
	c := cycleAt(dir, &now)
	content, err := c.putBeside(t.Context())(func(w io.Writer) error {
		hometest.MustRelease(t, dir, hometest.At(now), 1, releasing.Options{Now: true})
		_, err := io.WriteString(w, "a text")
		return err
	})
	hometest.Check(t, err)
	hometest.MustRelease(t, dir, hometest.At(now), 2, releasing.Options{})
	h := hometest.Begin(t, dir, hometest.At(now))
	defer h.Close()
	hometest.Check(t, h.Repository().Adopt(content.Blob))
}
