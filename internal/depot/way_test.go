package depot

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// packHost makes releases of a zone of which a name in twenty changes from one to the next, with packs.
type packHost struct {
	*host
	noise *rand.Rand
	names []string
	zone  *zone.Zone
	packs int // that a zone has at most
}

func newPackHost(t testing.TB, names int) *packHost {
	h := &packHost{host: newHost(t), noise: rand.New(rand.NewPCG(5, 5)), names: make([]string, names), packs: release.MaxPacks}
	for i := range h.names {
		h.names[i] = fmt.Sprintf("%016x", h.noise.Uint64())
	}
	return h
}

// make makes the release of a number current, but does not publish it.
func (h *packHost) make(number uint64) release.Zone {
	h.t.Helper()
	for range len(h.names) / 20 {
		h.names[h.noise.IntN(len(h.names))] = fmt.Sprintf("%016x", h.noise.Uint64())
	}
	var text strings.Builder
	fmt.Fprintf(&text, "example. 60 IN SOA ns.example. host.example. %d 1 1 1 60\nexample. 60 IN NS ns.example.\nns.example. 60 IN A 192.0.2.1\n", number)
	for i, name := range h.names {
		fmt.Fprintf(&text, "n%d.example. 60 IN TXT %s\n", i, name)
	}
	z, found := zonefile.Parse(strings.NewReader(text.String()), zonefile.Options{})
	if z == nil {
		h.t.Fatal(found)
	}
	c, err := h.dir.PutBlob(func(w io.Writer) error { return zonefile.Write(w, z) })
	check(h.t, err)
	signed := release.Zone{Origin: "example.", Serial: z.Serial(), SHA256: c.SHA256, Length: c.Length, Blob: c.Blob, Root: z.Root()}
	if h.zone != nil {
		pack := zone.PackOf(h.zone, z, zone.Difference(h.zone, z, 1<<20))
		c, err := h.dir.PutBlob(func(w io.Writer) error { _, err := w.Write(pack.Append(nil)); return err })
		check(h.t, err)
		was := h.m.Current.Zones[0].Packs
		signed.Packs = append(was[max(0, len(was)-h.packs+1):len(was):len(was)], release.Pack{From: pack.From, Length: c.Length, Blob: c.Blob})
	}
	h.zone = z
	h.m.Current = &release.Release{Number: number, Switchover: testNow, Zones: []release.Zone{signed}}
	return signed
}

func (h *packHost) release(number uint64) release.Zone {
	h.t.Helper()
	z := h.make(number)
	files, mem, err := release.Publish(h.mem, h.m, h.keys.Signers(), ends())
	check(h.t, err)
	check(h.t, publish(h.dir, files))
	h.mem = mem
	return z
}

// made is the number of the release whose zone a depot has, by its text or by packs: nothing that is not as it was signed.
func made(t testing.TB, d *Dir, mem release.Memory) uint64 {
	t.Helper()
	view, _, err := release.Verify(d, mem)
	check(t, err)
	if view.Manifest.Current == nil {
		return 0
	}
	signed := view.Manifest.Current.Zones[0]
	if there, err := d.hasText(signed, false); there || err != nil {
		return serves(t, d, mem)
	}
	w := d.Way(signed)
	r, err := d.OpenBlob(w.Base)
	check(t, err)
	defer r.Close()
	z, found := zonefile.Parse(r, zonefile.Options{})
	if z == nil {
		t.Fatal(found)
	}
	for _, p := range w.Packs {
		data, err := d.ReadPack(p)
		check(t, err)
		pack, err := zone.ParsePack(data)
		check(t, err)
		z, err = z.Follow(pack)
		check(t, err)
	}
	if z.Root() != signed.Root {
		t.Fatal("another zone")
	}
	return view.Manifest.Current.Number
}

func (n *node) files() (names map[string]int64) {
	n.t.Helper()
	entries, err := n.dir.List(blobDir)
	check(n.t, err)
	names = map[string]int64{}
	for _, e := range entries {
		names[e.Name] = e.Size
	}
	return names
}

// TestANodeTakesPacks, of each release and of several at once, without any text; what they and the text that they begin with are made
// of is kept, and nothing else. When they would take as much as the text, or are not named any more, the text comes.
func TestANodeTakesPacks(t *testing.T) {
	h := newPackHost(t, 2000)
	h.packs = 6
	first := h.release(1)
	n := newNode(t, h.host)
	n.mustMirror(true)
	take := func(number uint64, packs int) {
		t.Helper()
		z := h.m.Current.Zones[0]
		notes, faults, err := n.mirrorNotes()
		check(t, err)
		if len(notes) != 1 || notes[0].Delta != (packs > 0) || faults[0] != nil || n.askedFor(z.Blob) == (packs > 0) {
			t.Fatalf("release %d: notes %v, faults %v", number, notes, faults)
		}
		if packs > 0 && notes[0].Bytes != octets(z.Packs[len(z.Packs)-packs:]) {
			t.Fatalf("release %d: %d bytes", number, notes[0].Bytes)
		}
		if got := made(t, n.dir, h.root()); got != number {
			t.Fatalf("release %d, want %d", got, number)
		}
		h.renew() // everything is read through
		n.mustMirror(true)
	}
	h.release(2)
	take(2, 1)
	for number := range uint64(4) {
		h.release(3 + number)
	}
	take(6, 4)
	files := n.files()
	if files[first.Blob.SHA256.String()] == 0 || len(files) != 1+5+2 { // the first text, five packs, the ways to releases 2 and 6
		t.Errorf("files %v", files)
	}
	for number := range uint64(8) { // of which six are named
		h.release(7 + number)
	}
	take(14, 0)
	taken := 0
	for number := uint64(15); ; number++ { // until the packs weigh as much as the text
		z := h.release(number)
		_, _, err := n.mirrorNotes()
		check(t, err)
		if got := made(t, n.dir, h.root()); got != number {
			t.Fatalf("release %d, want %d", got, number)
		}
		if n.askedFor(z.Blob) {
			break
		}
		taken++
		if size := octets(n.dir.Way(z).Packs); size >= z.Blob.Length {
			t.Fatalf("release %d: packs of %d bytes, and the text has %d", number, size, z.Blob.Length)
		}
	}
	if taken < 5 {
		t.Errorf("a text after %d packs", taken)
	}
	if files := n.files(); files[first.Blob.SHA256.String()] != 0 {
		t.Error("the first text is kept for ever")
	}
}

// TestTheTextComesWherePacksAreOfNoUse: whoever reads the depot could make no zone of them.
func TestTheTextComesWherePacksAreOfNoUse(t *testing.T) {
	h := newPackHost(t, 500)
	h.release(1)
	n := newNode(t, h.host)
	n.mustMirror(true)
	z := h.release(2)
	n.mustMirror(true)
	if n.askedFor(z.Blob) {
		t.Fatal("the text came at once")
	}
	_, mem, _, err := mirror(context.Background(), Source{Client: n.server.Client(), URL: n.server.URL, Texts: true}, n.dir, n.mem)
	check(t, err)
	n.mem = mem
	if !n.askedFor(z.Blob) || serves(t, n.dir, h.root()) != 2 {
		t.Error("the text did not come")
	}
}

// TestWhateverIsWrongWithAPackTheTextComes: damaged, cut, absent, refused, endless, another pack, or the right pack of another zone.
func TestWhateverIsWrongWithAPackTheTextComes(t *testing.T) {
	other := newPackHost(t, 700)
	other.release(1)
	foreign, err := fs.ReadFile(other.dir, release.BlobName(other.release(2).Packs[0].Blob.SHA256))
	check(t, err)
	for name, way := range map[string]func(w http.ResponseWriter, data, before []byte){
		"corrupted":       func(w http.ResponseWriter, data, _ []byte) { data[len(data)/2] ^= 1; w.Write(data) },
		"truncated":       func(w http.ResponseWriter, data, _ []byte) { w.Write(data[:len(data)/2]) },
		"not here":        func(w http.ResponseWriter, _, _ []byte) { w.WriteHeader(404) },
		"forbidden":       func(w http.ResponseWriter, _, _ []byte) { w.WriteHeader(403) },
		"the one before":  func(w http.ResponseWriter, _, before []byte) { w.Write(before) },
		"of another zone": func(w http.ResponseWriter, _, _ []byte) { w.Write(foreign) },
		"endless": func(w http.ResponseWriter, _, _ []byte) {
			for {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newPackHost(t, 500)
			h.release(1)
			n := newNode(t, h.host)
			n.mustMirror(true)
			h.release(2)
			z := h.release(3)
			n.meddle = func(w http.ResponseWriter, r *http.Request, good http.Handler) {
				if r.URL.Path != "/"+release.BlobName(z.Packs[1].Blob.SHA256) {
					good.ServeHTTP(w, r)
					return
				}
				get := func(b release.Blob) []byte {
					recorded := httptest.NewRecorder()
					r := r.Clone(r.Context())
					r.Header.Del("Range")
					r.URL.Path = "/" + release.BlobName(b.SHA256)
					good.ServeHTTP(recorded, r)
					return recorded.Body.Bytes()
				}
				way(w, get(z.Packs[1].Blob), get(z.Packs[0].Blob))
			}
			notes, faults, err := n.mirrorNotes()
			check(t, err)
			if len(notes) != 2 || !notes[0].Delta || faults[0] == nil || notes[1].Delta || faults[1] != nil {
				t.Fatalf("notes %v, faults %v, want packs that failed and the text", notes, faults)
			}
			if got := serves(t, n.dir, h.root()); got != 3 {
				t.Fatalf("release %d", got)
			}
		})
	}
}

// TestASignedPackThatUnpacksToMoreIsRefused, or to less, or not at all: nothing more is read than was signed.
func TestASignedPackThatUnpacksToMoreIsRefused(t *testing.T) {
	d := newDir(t)
	c, err := d.PutBlob(func(w io.Writer) error { _, err := w.Write(make([]byte, 64<<20)); return err })
	check(t, err)
	junk := []byte("no zstd at all")
	name := release.DigestOf(junk)
	check(t, replace(d.root, release.BlobName(name), junk, 0o644))
	for rule, p := range map[release.Rule]release.Pack{
		release.Oversize: {Length: 1000, Blob: c.Blob},
		release.Length:   {Length: c.Length + 1, Blob: c.Blob},
		release.Mismatch: {Length: c.Length, Blob: release.Blob{SHA256: name, Length: int64(len(junk))}},
		release.Missing:  {Length: 1, Blob: release.Blob{Length: 1}},
	} {
		if rule == release.Mismatch { // on this disk
			check(t, replace(d.root, release.BlobName(name), append(junk[:len(junk)-1:len(junk)-1], 'X'), 0o644))
		}
		if _, err := d.ReadPack(p); ruleOf(err) != rule {
			t.Errorf("%s: %v", rule, err)
		}
	}
	check(t, replace(d.root, release.BlobName(name), junk, 0o644))
	if _, err := d.ReadPack(release.Pack{Length: 1, Blob: release.Blob{SHA256: name, Length: int64(len(junk))}}); ruleOf(err) != release.Torn {
		t.Errorf("torn: %v", err)
	}
	if data, err := d.ReadPack(release.Pack{Length: c.Length, Blob: c.Blob}); err != nil || int64(len(data)) != c.Length {
		t.Error(err)
	}
}

func ruleOf(err error) release.Rule {
	rule, _ := release.RuleOf(err)
	return rule
}

// TestADamagedWayIsHealed: whichever file of it is gone or damaged, it is found when all is read through, and comes again.
func TestADamagedWayIsHealed(t *testing.T) {
	h := newPackHost(t, 500)
	h.release(1)
	n := newNode(t, h.host)
	n.mustMirror(true)
	h.release(2)
	h.release(3)
	n.mustMirror(true)
	for name := range n.files() {
		for how, damage := range map[string]func(string) error{
			"gone":  os.Remove,
			"empty": func(path string) error { return os.Truncate(path, 0) },
			"other": func(path string) error {
				data, err := os.ReadFile(path)
				if err != nil || len(data) == 0 { // it was emptied before, and a text came in its place
					return err
				}
				data[len(data)/2] ^= 0x10
				return os.WriteFile(path, data, 0o600)
			},
		} {
			path := filepath.Join(n.dir.Path(), blobDir, name)
			if _, err := os.Stat(path); err != nil {
				continue // a text came in its place
			}
			check(t, damage(path))
			h.renew()
			_, err := n.mirror()
			check(t, err)
			if got := made(t, n.dir, h.root()); got != 3 {
				t.Fatalf("%s %s: release %d", name, how, got)
			}
		}
	}
}

func TestPacksKilledAtAnyStepLeaveOldOrNewAndCanBeRepeated(t *testing.T) {
	killedAtAnyStep(t, 3, made, func(dir *Dir) *host {
		h := newPackHost(t, 100)
		h.release(1)
		check(t, mirrorJob(dir.Path(), h.dir.Path()))
		h.release(2)
		z := h.release(3)
		check(t, os.Remove(filepath.Join(h.dir.Path(), release.BlobName(z.Blob.SHA256)))) // packs are the only way
		return h.host
	})
}
