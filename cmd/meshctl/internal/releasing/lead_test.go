package releasing_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/receive"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// largeWorld is a home that releases versions of a large zone, of which a name and the serial change.
type largeWorld struct {
	t      *testing.T
	dir    string
	zone   *zone.Zone
	lately *releasing.Lately
	node   *hometest.Node
}

func newLargeWorld(t *testing.T) *largeWorld {
	z, found := releasing.Load(t.Context(), hometest.ManyNames(t, 1, 20_000))
	if z == nil || z.ImageSize() < receive.LargeImage {
		t.Fatal("not large", found)
	}
	w := &largeWorld{t: t, dir: hometest.New(t, hometest.At(hometest.Start)), zone: z, lately: releasing.NewLately()}
	w.node = hometest.NewNode(t, w.dir)
	return w
}

// change makes the next version.
func (w *largeWorld) change() {
	w.t.Helper()
	w.zone = nextVersion(w.t, w.zone)
}

// nextVersion is a zone with a name more and another serial.
func nextVersion(t testing.TB, z *zone.Zone) *zone.Zone {
	t.Helper()
	d := &zone.Delta{From: z.Serial(), To: z.Serial() + 1}
	for r := range z.WireRecords() {
		d.Removed = r.AppendTo(d.Removed)
		r.Data = bytes.Clone(r.Data)
		binary.BigEndian.PutUint32(r.Data[len(r.Data)-20:], d.To)
		d.Added = r.AppendTo(d.Added)
		r = zone.WireRecord{Owner: fmt.Appendf(nil, "\x07n%06d%s", d.To, r.Owner), Type: 16, TTL: 60, Data: []byte("\x02hi")}
		d.Added = r.AppendTo(d.Added)
		break
	}
	next, found := z.Apply(d)
	if next == nil {
		t.Fatal(found)
	}
	return next
}

// release makes a release of the zone as a process does that makes one after the other, or as a command by a file.
func (w *largeWorld) release(serve bool) release.Zone {
	w.t.Helper()
	sources, o := []releasing.Source{{Origin: "example.org.", Zone: w.zone}}, releasing.Options{Lately: w.lately}
	if !serve {
		file := filepath.Join(w.t.TempDir(), "zone")
		hometest.Check(w.t, os.WriteFile(file, w.text(), 0o600))
		sources, o = []releasing.Source{{File: file}}, releasing.Options{}
	}
	h := hometest.Begin(w.t, w.dir, hometest.At(hometest.Start))
	defer h.Close()
	made, found, err := releasing.Make(w.t.Context(), h, sources, o)
	if err != nil {
		w.t.Fatal(err, found)
	}
	if serve {
		w.lately.Keep(sources, h.View().Manifest)
	}
	z := made.Release.Zones[0]
	if z.Root != w.zone.Root() || z.Serial != w.zone.Serial() {
		w.t.Fatalf("release %d is of another zone: %+v", made.Release.Number, z)
	}
	return z
}

func (w *largeWorld) text() []byte {
	var b bytes.Buffer
	hometest.Check(w.t, zonefile.Write(&b, w.zone))
	return b.Bytes()
}

// published checks that all is there which the manifest names, and makes the zone.
func (w *largeWorld) published(z release.Zone) {
	w.t.Helper()
	w.node.Verify()
	if got := hometest.TextOf(w.t, w.dir, z); !bytes.Equal(got, w.text()) {
		w.t.Fatalf("serial %d: another zone of %d octets is published", z.Serial, len(got))
	}
}

// beside has what is due written, and reports whether anything was.
func (w *largeWorld) beside() (wrote bool) {
	w.t.Helper()
	put := func(write func(io.Writer) error) (depot.Content, error) {
		r, err := home.At(w.dir, hometest.At(hometest.Start)).Read(w.t.Context())
		hometest.Check(w.t, err)
		defer r.Close()
		return r.Repository().PutBeside(write)
	}
	for range 2 { // what was written is taken in by the next call
		w.lately.Base(w.t.Context(), func(f func()) { wrote = true; f() }, put, func(err error) { w.t.Error(err) })
	}
	return wrote
}

// TestALargeZoneIsReleasedWithoutItsText, by a process that makes release after release and by a command: the manifest names the text of the
// first release, and packs. A release of what is released already changes nothing.
func TestALargeZoneIsReleasedWithoutItsText(t *testing.T) {
	for _, serve := range []bool{true, false} {
		t.Run(fmt.Sprintf("serve %v", serve), func(t *testing.T) {
			w := newLargeWorld(t)
			first := w.release(serve)
			if w.published(first); !first.Whole() || len(first.Packs) > 0 {
				t.Fatalf("the first: %+v", first)
			}
			for n := range 2 {
				w.change()
				z := w.release(serve)
				if w.published(z); z.BaseRoot != first.Root || z.Blob != first.Blob || len(z.Packs) != n+1 || z.Earlier != (release.Blob{}) {
					t.Fatalf("release %d: %+v", n+2, z)
				}
				again := w.release(serve)
				if w.published(again); again.Blob != z.Blob || len(again.Packs) != len(z.Packs) || again.BaseRoot != z.BaseRoot {
					t.Fatalf("release %d, once more: %+v", n+2, again)
				}
			}
		})
	}
}

// TestANewBaseIsWrittenBeside when many packs have come together, and the next release names it. Who is behind finds all packs.
func TestANewBaseIsWrittenBeside(t *testing.T) {
	releasing.SetDuePacks(t, 40)
	w := newLargeWorld(t)
	base, rebased := w.release(true).Root, 0
	var roots []release.Digest
	for n := range 100 {
		roots = append(roots, w.zone.Root())
		w.change()
		z := w.release(true)
		w.beside()
		if z.Whole() {
			t.Fatalf("release %d has a text", n+2)
		}
		if z.BaseRoot != base {
			rebased, base = rebased+1, z.BaseRoot
		}
		if n%25 != 24 {
			continue
		}
		w.published(z)
		repo, err := depot.Open(filepath.Join(w.dir, "repository"))
		hometest.Check(t, err)
		earlier, err := depot.ReadEarlier(repo, z)
		hometest.Check(t, err)
		repo.Close()
		chain, err := z.Chain(earlier)
		hometest.Check(t, err)
		if len(chain) != len(roots) || len(z.Since(chain)) > 45 {
			t.Errorf("release %d: %d packs, %d since the base", n+2, len(chain), len(z.Since(chain)))
		}
		for i, p := range chain {
			if p.From != roots[i] {
				t.Fatalf("release %d: pack %d is from another zone", n+2, i)
			}
		}
	}
	if rebased != 2 {
		t.Errorf("%d new bases", rebased)
	}
	w.backsUp()
}

// backsUp loses a pack that only a list names while an archive is written, which must not seem whole then.
func (w *largeWorld) backsUp() {
	w.t.Helper()
	repo, err := depot.Open(filepath.Join(w.dir, "repository"))
	hometest.Check(w.t, err)
	defer repo.Close()
	z := w.node.Verify().Manifest.Latest().Zones[0]
	earlier, err := depot.ReadEarlier(repo, z)
	hometest.Check(w.t, err)
	lost := release.BlobName(earlier[len(earlier)/2].Blob.SHA256)
	_, err = home.At(w.dir, hometest.At(hometest.Start)).Archive(w.t.Context(), writer(func(p []byte) (int, error) { return len(p), repo.Remove(lost) }), false)
	if err == nil || !strings.Contains(err.Error(), lost) {
		w.t.Errorf("a pack was lost: %v", err)
	}
}

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// TestACommandWritesTheTextWhereABaseIsDue, and a process that makes release after release does where it could not be written beside.
func TestACommandWritesTheTextWhereABaseIsDue(t *testing.T) {
	releasing.SetDuePacks(t, 2)
	for serve, packs := range map[bool]int{true: 4, false: 2} {
		w := newLargeWorld(t)
		w.release(serve)
		for n := range packs + 2 {
			w.change()
			z := w.release(serve)
			if n == packs {
				w.published(z)
			}
			if z.Whole() != (n == packs) || len(z.Packs) != n+1 {
				t.Errorf("serve %v: release %d: %+v", serve, n+2, z)
			}
		}
	}
}

// TestABaseThatIsOfNoUseIsGivenUp: it was lost, or could not be written.
func TestABaseThatIsOfNoUseIsGivenUp(t *testing.T) {
	releasing.SetDuePacks(t, 2)
	w := newLargeWorld(t)
	first := w.release(true)
	for range 3 {
		w.change()
		w.release(true)
	}
	told := 0
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	fails := func(write func(io.Writer) error) (depot.Content, error) { return depot.Content{}, write(io.Discard) }
	for range 2 {
		w.lately.Base(ctx, func(f func()) { f() }, fails, func(error) { told++ })
	}
	w.change()
	if z := w.release(true); told != 1 || z.Blob != first.Blob {
		t.Errorf("told %d times, %+v", told, z)
	}
	if !w.beside() {
		t.Fatal("it is not tried again")
	}
	left, err := filepath.Glob(filepath.Join(w.dir, "repository", "blobs", "sha256", "beside-*"))
	if err != nil || len(left) != 1 {
		t.Fatal(left, err)
	}
	hometest.Check(t, os.Remove(left[0]))
	w.change()
	z := w.release(true)
	if w.published(z); !z.Whole() { // five packs
		t.Errorf("%+v", z)
	}
}

// TestADamagedBaseIsFoundByTheHost before anything is compared with it: a second person would have to let the zone go.
func TestADamagedBaseIsFoundByTheHost(t *testing.T) {
	w := newLargeWorld(t)
	w.release(false)
	w.change()
	z := w.release(false)
	w.change()
	blob := filepath.Join(w.dir, "repository", release.BlobName(z.Blob.SHA256))
	data, err := os.ReadFile(blob)
	hometest.Check(t, err)
	data[len(data)/2] ^= 1
	hometest.Check(t, os.WriteFile(blob, data, 0o600))
	file := filepath.Join(t.TempDir(), "zone")
	hometest.Check(t, os.WriteFile(file, w.text(), 0o600))
	h := hometest.Begin(t, w.dir, hometest.At(hometest.Start))
	defer h.Close()
	_, found, err := releasing.Make(t.Context(), h, []releasing.Source{{File: file}}, releasing.Options{})
	if err == nil || len(found) == 0 || found[len(found)-1].Rule != "previous" {
		t.Errorf("%v, %v", found, err)
	}
}
