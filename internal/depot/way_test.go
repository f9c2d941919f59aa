package depot

import (
	"bytes"
	"cmp"
	"context"
	"errors"
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
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// packHost makes releases of a zone of which a name in twenty changes from one to the next, with packs.
type packHost struct {
	*host
	noise  *rand.Rand
	names  []string
	zone   *zone.Zone
	packs  int            // that a zone has at most
	change int            // names that change; 0: one in twenty
	base   *release.Zone  // of which later zones are made, without their texts; nil: each has its own
	chain  []release.Pack // that lead to the zone, where it has a base
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
	for range cmp.Or(h.change, len(h.names)/20) {
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
	c, err := Pack(io.Discard, func(w io.Writer) error { return zonefile.Write(w, z) })
	if h.base == nil {
		c, err = h.dir.PutBlob(func(w io.Writer) error { return zonefile.Write(w, z) })
	}
	check(h.t, err)
	signed := release.Zone{Origin: "example.", Serial: z.Serial(), SHA256: c.SHA256, Length: c.Length, Blob: c.Blob, Root: z.Root()}
	if h.base != nil {
		h.lead(&signed, z)
	} else if h.zone != nil {
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

// rebase has later zones be made of the one that was released last.
func (h *packHost) rebase() {
	base := h.m.Current.Zones[0]
	h.base = &base
}

// lead has a zone without a text be made by packs.
func (h *packHost) lead(signed *release.Zone, z *zone.Zone) {
	h.t.Helper()
	pack := zone.PackOf(h.zone, z, zone.Difference(h.zone, z, 1<<20))
	c, err := h.dir.PutBlob(func(w io.Writer) error { _, err := w.Write(pack.Append(nil)); return err })
	check(h.t, err)
	h.chain = append(h.chain, release.Pack{From: pack.From, Length: c.Length, Blob: c.Blob})
	signed.SHA256, signed.Length, signed.Blob, signed.BaseRoot = h.base.SHA256, h.base.Length, h.base.Blob, h.base.Root
	before := max(0, len(h.chain)-h.packs)
	if signed.Packs = h.chain[before:]; before > 0 {
		c, err := h.dir.PutBlob(func(w io.Writer) error { _, err := w.Write(release.EncodeEarlier(h.chain[:before])); return err })
		check(h.t, err)
		signed.Earlier = c.Blob
	}
}

func (h *packHost) release(number uint64) release.Zone {
	h.t.Helper()
	z := h.make(number)
	h.publish()
	return z
}

// publish publishes what was made.
func (h *packHost) publish() {
	h.t.Helper()
	files, mem, err := release.Publish(h.mem, h.m, h.keys.Signers(), ends())
	check(h.t, err)
	check(h.t, publish(h.dir, files))
	h.mem = mem
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
	if there, err := d.hasText(signed, false); signed.Whole() && (there || err != nil) {
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
		data, err := ReadPack(d, "example.", p)
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

// wrongPacks are the ways in which a hostile mirror hands out a pack, of which it has the right one, and the one before: damaged, cut, absent, refused, endless,
// another pack, the right pack of another zone, or what unpacks to very much.
func wrongPacks(t *testing.T) map[string]func(w http.ResponseWriter, data, before []byte) {
	other := newPackHost(t, 700)
	other.release(1)
	foreign, err := fs.ReadFile(other.dir, release.BlobName(other.release(2).Packs[0].Blob.SHA256))
	check(t, err)
	var bomb bytes.Buffer
	_, err = Pack(&bomb, func(w io.Writer) error { _, err := w.Write(make([]byte, 64<<20)); return err })
	check(t, err)
	return map[string]func(w http.ResponseWriter, data, before []byte){
		"corrupted":       func(w http.ResponseWriter, data, _ []byte) { data[len(data)/2] ^= 1; w.Write(data) },
		"truncated":       func(w http.ResponseWriter, data, _ []byte) { w.Write(data[:len(data)/2]) },
		"empty":           func(w http.ResponseWriter, _, _ []byte) {},
		"not here":        func(w http.ResponseWriter, _, _ []byte) { w.WriteHeader(404) },
		"forbidden":       func(w http.ResponseWriter, _, _ []byte) { w.WriteHeader(403) },
		"the one before":  func(w http.ResponseWriter, _, before []byte) { w.Write(before) },
		"of another zone": func(w http.ResponseWriter, _, _ []byte) { w.Write(foreign) },
		"a bomb":          func(w http.ResponseWriter, _, _ []byte) { w.Write(bomb.Bytes()) },
		"endless": func(w http.ResponseWriter, _, _ []byte) {
			for {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		},
	}
}

// handsOut is a mirror that hands a pack out in such a way.
func handsOut(pack, before release.Pack, way func(w http.ResponseWriter, data, before []byte)) func(w http.ResponseWriter, r *http.Request, good http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		if r.URL.Path != "/"+release.BlobName(pack.Blob.SHA256) {
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
		way(w, get(pack.Blob), get(before.Blob))
	}
}

// TestWhateverIsWrongWithAPackTheTextComes, where the zone has one of its own.
func TestWhateverIsWrongWithAPackTheTextComes(t *testing.T) {
	for name, way := range wrongPacks(t) {
		t.Run(name, func(t *testing.T) {
			h := newPackHost(t, 500)
			h.release(1)
			n := newNode(t, h.host)
			n.mustMirror(true)
			h.release(2)
			z := h.release(3)
			n.meddle = handsOut(z.Packs[1], z.Packs[0], way)
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

// TestWhateverIsWrongWithAPackTheBaseComes, where the zone has no text of its own, and that pack does not lead from the base. If it does, the zone is not had; what
// lies there stays, and the zone comes with the right pack.
func TestWhateverIsWrongWithAPackTheBaseComes(t *testing.T) {
	for name, way := range wrongPacks(t) {
		t.Run(name, func(t *testing.T) {
			h := newPackHost(t, 500)
			first := h.release(1)
			h.rebase()
			before, since := newNode(t, h.host), newNode(t, h.host)
			before.mustMirror(true)
			since.mustMirror(true)
			h.release(2)
			h.release(3)
			c, err := h.dir.PutBlob(func(w io.Writer) error { return zonefile.Write(w, h.zone) })
			check(t, err)
			h.base = &release.Zone{SHA256: c.SHA256, Length: c.Length, Blob: c.Blob, Root: h.zone.Root()}
			h.release(4)
			z := h.release(5)
			if len(z.Packs) != 4 || len(z.Since(z.Packs)) != 2 {
				t.Fatalf("packs %v", z.Packs)
			}
			before.meddle, since.meddle = handsOut(z.Packs[1], z.Packs[0], way), handsOut(z.Packs[3], z.Packs[2], way)
			notes, faults, err := before.mirrorNotes()
			check(t, err)
			if len(notes) != 2 || !notes[0].Delta || faults[0] == nil || notes[1].Delta || faults[1] != nil || !before.askedFor(c.Blob) {
				t.Fatalf("notes %v, faults %v, want packs that failed and the base", notes, faults)
			}
			if got := made(t, before.dir, h.root()); got != 5 {
				t.Errorf("release %d", got)
			}
			if _, _, err := since.mirrorNotes(); err == nil || !strings.Contains(err.Error(), release.BlobName(z.Packs[3].Blob.SHA256)) {
				t.Errorf("a pack that is needed is wrong: %v", err)
			}
			if !since.dir.HasBlob(first.Blob) || since.dir.CheckBlob(first.Blob) != nil || since.dir.HasBlob(z.Packs[3].Blob) {
				t.Errorf("files %v", since.files())
			}
			since.meddle = nil
			since.mustMirror(true)
			if got := made(t, since.dir, h.root()); got != 5 {
				t.Errorf("healed: release %d", got)
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
		if _, err := ReadPack(d, "example.", p); ruleOf(err) != rule {
			t.Errorf("%s: %v", rule, err)
		}
	}
	check(t, replace(d.root, release.BlobName(name), junk, 0o644))
	if _, err := ReadPack(d, "example.", release.Pack{Length: 1, Blob: release.Blob{SHA256: name, Length: int64(len(junk))}}); ruleOf(err) != release.Torn {
		t.Errorf("torn: %v", err)
	}
	if data, err := ReadPack(d, "example.", release.Pack{Length: c.Length, Blob: c.Blob}); err != nil || int64(len(data)) != c.Length {
		t.Error(err)
	}
}

func ruleOf(err error) release.Rule {
	rule, _ := release.RuleOf(err)
	return rule
}

// TestADamagedWayIsHealed: whichever file of it is gone or damaged, it is found when all is read through, and comes again.
func TestADamagedWayIsHealed(t *testing.T) {
	for _, whole := range []bool{true, false} {
		t.Run(fmt.Sprintf("whole %v", whole), func(t *testing.T) { damagedWay(t, whole) })
	}
}

func damagedWay(t *testing.T, whole bool) {
	h := newPackHost(t, 500)
	h.release(1)
	n := newNode(t, h.host)
	n.mustMirror(true)
	if h.packs = 1; whole {
		h.packs = release.MaxPacks
	} else {
		h.rebase()
	}
	h.release(2)
	h.release(3)
	n.mustMirror(true)
	want := len(n.files())
	if want != 4 && whole || want != 5 && !whole { // the text, two packs, the way, and the list of the first pack
		t.Fatalf("files %v", n.files())
	}
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
			if got := len(n.files()); !whole && got != want {
				t.Errorf("%s %s: %d files", name, how, got)
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

// TestABaseKilledAtAnyStepLeavesOldOrNewAndCanBeRepeated, with the list of earlier packs, for who joins anew on what it has.
func TestABaseKilledAtAnyStepLeavesOldOrNewAndCanBeRepeated(t *testing.T) {
	killedAtAnyStep(t, 4, made, func(dir *Dir) *host {
		h := newPackHost(t, 100)
		h.release(1)
		check(t, mirrorJob(dir.Path(), h.dir.Path()))
		h.release(2)
		h.rebase()
		h.packs = 1
		for number := range uint64(2) {
			h.release(3 + number)
		}
		return h.host
	})
}

// TestAJoinerTakesTheBaseAndThePacksSince, those of the list among them, and goes on by packs; who is behind takes packs alone as long as
// they are less. What lies there then is just that.
func TestAJoinerTakesTheBaseAndThePacksSince(t *testing.T) {
	h := newPackHost(t, 2000)
	h.release(1)
	h.rebase()
	h.packs = 3
	behind := newNode(t, h.host)
	behind.mustMirror(true)
	for number := range uint64(7) {
		h.release(2 + number)
	}
	z := h.m.Current.Zones[0]
	joiner := newNode(t, h.host)
	for who, n := range map[string]*node{"behind": behind, "joiner": joiner} {
		notes, faults, err := n.mirrorNotes()
		check(t, err)
		want := octets(h.chain)
		if who == "joiner" {
			want += h.base.Blob.Length
		}
		if len(notes) != 1 || faults[0] != nil || notes[0].Delta != (who == "behind") || notes[0].Bytes != want || !n.askedFor(z.Earlier) {
			t.Errorf("%s: notes %v, faults %v, want %d bytes", who, notes, faults, want)
		}
		if got := made(t, n.dir, h.root()); got != 8 {
			t.Errorf("%s has release %d", who, got)
		}
		if files := n.files(); len(files) != 1+7+1+1 { // the base, packs, their list, the way
			t.Errorf("%s: files %v", who, files)
		}
	}
	z = h.release(9)
	notes, _, err := joiner.mirrorNotes()
	check(t, err)
	if len(notes) != 1 || !notes[0].Delta || notes[0].Bytes != z.Packs[2].Blob.Length || made(t, joiner.dir, h.root()) != 9 {
		t.Errorf("the next: %v", notes)
	}
}

// TestWhoIsFarBehindTakesTheSmallerWay: hundreds of packs, or the base and those since, and never more than twice the octets of the smaller.
func TestWhoIsFarBehindTakesTheSmallerWay(t *testing.T) {
	h := newPackHost(t, 1000)
	h.change = 2
	h.release(1)
	h.rebase()
	n := newNode(t, h.host)
	n.mustMirror(true)
	h.packs = 8
	smaller := map[bool]int{}
	for number := uint64(2); number <= 120; number++ {
		z := h.make(number)
		if octets(z.Since(h.chain)) > z.Blob.Length/2 { // as a host does
			c, err := h.dir.PutBlob(func(w io.Writer) error { return zonefile.Write(w, h.zone) })
			check(t, err)
			h.base = &release.Zone{SHA256: c.SHA256, Length: c.Length, Blob: c.Blob, Root: h.zone.Root()}
		}
		if number%10 != 0 {
			continue
		}
		h.publish()
		node := newNode(t, h.host) // as n was at release 1
		check(t, os.CopyFS(filepath.Join(node.dir.Path(), "copy"), os.DirFS(n.dir.Path())))
		node.dir, node.mem = mustOpen(t, filepath.Join(node.dir.Path(), "copy")), n.mem
		notes, faults, err := node.mirrorNotes()
		check(t, err)
		packs, text := octets(h.chain), z.Blob.Length
		if len(notes) != 1 || faults[0] != nil || notes[0].Bytes > 2*min(packs, text) {
			t.Fatalf("release %d: %v, %v; packs have %d bytes, and the text %d", number, notes, faults, packs, text)
		}
		smaller[notes[0].Delta]++
		if got := made(t, node.dir, h.root()); got != number {
			t.Fatalf("release %d, want %d", got, number)
		}
	}
	if smaller[true] == 0 || smaller[false] == 0 {
		t.Errorf("by packs or anew: %v", smaller)
	}
}

func mustOpen(t testing.TB, dir string) *Dir {
	t.Helper()
	d, err := Open(dir)
	check(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

// wrongList is what is wrong with a list of earlier packs.
type wrongList struct {
	serve func(w http.ResponseWriter, data []byte)    // by a hostile mirror
	sign  func(h *packHost) func(d *Dir) release.Blob // by mistake
}

// TestWhateverIsWrongWithTheListOfPacks, who needs none of it goes on; who needs it does not, and keeps what it has.
func TestWhateverIsWrongWithTheListOfPacks(t *testing.T) {
	blob := func(data []byte) func(d *Dir) release.Blob {
		return func(d *Dir) release.Blob {
			c, err := d.PutBlob(func(w io.Writer) error { _, err := w.Write(data); return err })
			check(t, err)
			return c.Blob
		}
	}
	list := func(packs ...release.Pack) func(d *Dir) release.Blob { return blob(release.EncodeEarlier(packs)) }
	for name, wrong := range map[string]wrongList{
		"corrupted": {serve: func(w http.ResponseWriter, data []byte) { data[len(data)/2] ^= 1; w.Write(data) }},
		"truncated": {serve: func(w http.ResponseWriter, data []byte) { w.Write(data[:len(data)/2]) }},
		"not here":  {serve: func(w http.ResponseWriter, _ []byte) { w.WriteHeader(404) }},
		"forbidden": {serve: func(w http.ResponseWriter, _ []byte) { w.WriteHeader(403) }},
		"endless": {serve: func(w http.ResponseWriter, _ []byte) {
			for {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		}},
		"a bomb": {sign: func(*packHost) func(d *Dir) release.Blob { return blob(make([]byte, 16<<20)) }},
		"another zone's": {sign: func(*packHost) func(d *Dir) release.Blob {
			return list(release.Pack{From: release.Digest{1}, Length: 1, Blob: release.Blob{Length: 1}})
		}},
		"in a circle":       {sign: func(h *packHost) func(d *Dir) release.Blob { return list(append(h.chain[:2:2], h.chain[0])...) }},
		"no pack from base": {sign: func(h *packHost) func(d *Dir) release.Blob { return list(h.chain[1]) }},
	} {
		t.Run(name, wrong.mirrored)
	}
}

// mirrored has the list mirrored by a node that needs none of it, and by one that does.
func (wrong wrongList) mirrored(t *testing.T) {
	h := newPackHost(t, 500)
	h.release(1)
	h.rebase()
	h.packs = 2
	near, far := newNode(t, h.host), newNode(t, h.host)
	far.mustMirror(true)
	for number := range uint64(3) {
		h.release(2 + number)
	}
	near.mustMirror(true)
	z := h.make(5)
	if wrong.sign != nil {
		z.Earlier = wrong.sign(h)(h.dir)
		h.m.Current.Zones[0] = z
	}
	h.publish()
	if wrong.serve != nil {
		near.meddle, far.meddle = wrong.meddle(z.Earlier), wrong.meddle(z.Earlier)
	}
	notes, faults, err := near.mirrorNotes()
	check(t, err)
	if last := len(notes) - 1; last < 0 || faults[last] != nil || !notes[last].Delta || (last == 1) != (wrong.serve != nil) {
		t.Errorf("near: notes %v, faults %v", notes, faults)
	}
	if got := made(t, near.dir, h.root()); got != 5 {
		t.Errorf("near: release %d", got)
	}
	before := far.files()
	if _, _, err := far.mirrorNotes(); err == nil || !strings.Contains(err.Error(), "packs that lead to zone example. are not known") {
		t.Errorf("far: %v", err)
	}
	for name := range before {
		if far.files()[name] == 0 {
			t.Errorf("far: %s is gone", name)
		}
	}
	if far.meddle = nil; wrong.sign == nil {
		far.mustMirror(true)
		if got := made(t, far.dir, h.root()); got != 5 {
			t.Errorf("far, healed: release %d", got)
		}
	}
}

// meddle is a mirror that hands the list out so.
func (wrong wrongList) meddle(list release.Blob) func(w http.ResponseWriter, r *http.Request, good http.Handler) {
	return func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		if r.URL.Path != "/"+release.BlobName(list.SHA256) {
			good.ServeHTTP(w, r)
			return
		}
		recorded := httptest.NewRecorder()
		r = r.Clone(r.Context())
		r.Header.Del("Range")
		good.ServeHTTP(recorded, r)
		wrong.serve(w, recorded.Body.Bytes())
	}
}

// TestTheBaseComesWherePacksFromWhatLiesThereAreOfNoUse: whoever reads the depot could make no zone of them.
func TestTheBaseComesWherePacksFromWhatLiesThereAreOfNoUse(t *testing.T) {
	h := newPackHost(t, 500)
	h.release(1)
	n := newNode(t, h.host)
	n.mustMirror(true)
	h.release(2)
	n.mustMirror(true)
	h.rebase()
	z := h.release(3)
	n.mustMirror(true)
	if n.askedFor(z.Blob) || n.dir.Way(z).Base.Blob == z.Blob {
		t.Fatal("the base came at once")
	}
	texts := func() {
		t.Helper()
		n.asked = nil
		_, mem, _, err := mirror(context.Background(), Source{Client: n.server.Client(), URL: n.server.URL, Texts: true}, n.dir, n.mem)
		check(t, err)
		n.mem = mem
		if w := n.dir.Way(z); w.Base.Blob != z.Blob || len(w.Packs) != 1 || made(t, n.dir, h.root()) != 3 {
			t.Errorf("the way is %+v", w)
		}
	}
	texts()
	if !n.askedFor(z.Blob) {
		t.Error("the base did not come")
	}
	check(t, os.WriteFile(filepath.Join(n.dir.Path(), release.BlobName(z.Packs[0].Blob.SHA256)), make([]byte, z.Packs[0].Blob.Length), 0o600))
	texts()
	if n.askedFor(z.Blob) {
		t.Error("the base came for a damaged pack")
	}
}

// TestWhatIsStoredBesideIsKeptForADay, and named by a release then, or not at all.
func TestWhatIsStoredBesideIsKeptForADay(t *testing.T) {
	h := newHost(t)
	put := func(text string) Content {
		t.Helper()
		c, err := h.dir.PutBeside(func(w io.Writer) error { _, err := io.WriteString(w, text); return err })
		check(t, err)
		return c
	}
	named, lost, half := put("named"), put("lost"), filepath.Join(h.dir.Path(), blobDir, ".beside-1")
	check(t, os.WriteFile(half, []byte("half"), 0o600))
	collect := func() {
		t.Helper()
		h.release(h.m.Newest()+1, 100)
		view, _, err := release.Verify(h.dir, h.root())
		check(t, err)
		check(t, new(Known).Collect(h.dir, view))
		check(t, h.dir.Sweep())
	}
	collect()
	check(t, h.dir.Adopt(named.Blob))
	check(t, h.dir.Adopt(named.Blob))
	check(t, h.dir.CheckBlob(named.Blob))
	old := time.Now().Add(-25 * time.Hour)
	check(t, os.Chtimes(filepath.Join(h.dir.Path(), besideName(lost.Blob)), old, old))
	check(t, os.Chtimes(half, old, old))
	collect()
	if err := h.dir.Adopt(lost.Blob); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("adopted after a day: %v", err)
	}
	if _, err := os.Stat(half); err == nil {
		t.Error("what a killed writer left stays for ever")
	}
	damaged := put("damaged")
	check(t, os.WriteFile(filepath.Join(h.dir.Path(), release.BlobName(damaged.Blob.SHA256)), make([]byte, damaged.Blob.Length), 0o600))
	check(t, h.dir.Adopt(damaged.Blob))
	check(t, h.dir.CheckBlob(damaged.Blob)) // and not what lay there before
	short := put("short")
	check(t, os.Truncate(filepath.Join(h.dir.Path(), besideName(short.Blob)), 3))
	if err := h.dir.Adopt(short.Blob); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("adopted though it was cut: %v", err)
	}
}

// TestWhatIsStoredBesideKilledAtAnyStepIsWholeOrNotThere, and is stored once more.
func TestWhatIsStoredBesideKilledAtAnyStepIsWholeOrNotThere(t *testing.T) {
	want, err := Pack(io.Discard, text("example.", 1, 1000))
	check(t, err)
	for n := 1; n < maxSteps; n++ {
		d := newDir(t)
		done := crashed(t, "beside", d.Path(), "", n)
		check(t, d.Sweep())
		if err := d.CheckBlob(want.Blob); done && err != nil || err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("step %d: %v", n, err)
		}
		check(t, crashJobs["beside"](d.Path(), ""))
		check(t, d.CheckBlob(want.Blob))
		if done {
			return
		}
	}
	t.Fatal("never done")
}

// TestPacksOfAListThatCannotBeReadAreKept: which of them are needed is not known.
func TestPacksOfAListThatCannotBeReadAreKept(t *testing.T) {
	h := newPackHost(t, 500)
	h.release(1)
	h.rebase()
	h.packs = 1
	var zones []release.Zone
	for number := range uint64(3) {
		zones = append(zones, h.release(2+number))
	}
	list := func(z release.Zone) string { return filepath.Join(h.dir.Path(), release.BlobName(z.Earlier.SHA256)) }
	collect := func(first bool) {
		t.Helper()
		view, _, err := release.Verify(h.dir, h.root())
		check(t, err)
		check(t, new(Known).Collect(h.dir, view))
		for i, p := range h.chain {
			if got := h.dir.HasBlob(p.Blob); got != (first || i > 0) {
				t.Errorf("pack %d is there: %v", i, got)
			}
		}
	}
	collect(true)
	good, err := os.ReadFile(list(zones[2]))
	check(t, err)
	check(t, os.Remove(list(zones[1])))
	check(t, os.WriteFile(list(zones[2]), make([]byte, len(good)), 0o600))
	collect(true)
	check(t, os.Remove(list(zones[2]))) // as on a node that never had it
	collect(false)                      // the others are named by this release and the one before
}
