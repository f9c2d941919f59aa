package depot

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// versions are two texts of which share of the lines differ, and the lines by which they do.
func versions(noise *rand.Rand, size int, share float64) (old, new, removed, added []string) {
	for n := range size {
		line := fmt.Sprintf("name%07d.example.\t3600\tIN\tDS\t%d 13 2 %016X%016X\n", n, noise.IntN(1<<16), noise.Uint64(), noise.Uint64())
		if noise.Float64() >= share {
			old, new = append(old, line), append(new, line)
			continue
		}
		switch noise.IntN(3) {
		case 0:
			old, removed = append(old, line), append(removed, line)
		case 1:
			new, added = append(new, line), append(added, line)
		case 2:
			other := strings.Replace(line, "3600", "60", 1)
			old, removed = append(old, line), append(removed, line)
			new, added = append(new, other), append(added, other)
		}
	}
	return old, new, removed, added
}

func delta(t testing.TB, old, new, removed, added []string) []byte {
	t.Helper()
	var b bytes.Buffer
	check(t, WriteDelta(&b, strings.NewReader(strings.Join(old, "")), strings.NewReader(strings.Join(new, "")), removed, added))
	return b.Bytes()
}

func TestADeltaMakesTheNewTextOfTheOld(t *testing.T) {
	for seed := range uint64(300) {
		noise := rand.New(rand.NewPCG(seed, 1))
		old, new, removed, added := versions(noise, noise.IntN(200), noise.Float64())
		var got bytes.Buffer
		check(t, applyDelta(&got, strings.NewReader(strings.Join(old, "")), bytes.NewReader(delta(t, old, new, removed, added))))
		if got.String() != strings.Join(new, "") {
			t.Fatalf("seed %d: got\n%s\nwant\n%s", seed, got.String(), new)
		}
	}
}

func TestADeltaIsNotWrittenOfOtherDifferences(t *testing.T) {
	old, new, removed, added := versions(rand.New(rand.NewPCG(1, 1)), 100, 0.2)
	write := func(removed, added []string) error {
		return WriteDelta(io.Discard, strings.NewReader(strings.Join(old, "")), strings.NewReader(strings.Join(new, "")), removed, added)
	}
	check(t, write(removed, added))
	for i := range added {
		if write(removed, slices.Delete(slices.Clone(added), i, i+1)) == nil {
			t.Fatal("a line that was not told of went unseen")
		}
	}
	for i := range len(removed) + 1 {
		if write(slices.Insert(slices.Clone(removed), i, "no line of it\n"), added) == nil {
			t.Fatal("a line that is not there was not missed")
		}
	}
}

// FuzzDelta: whatever a delta says, applying it ends, and makes no more than both texts have.
func FuzzDelta(f *testing.F) {
	old, new, removed, added := versions(rand.New(rand.NewPCG(1, 1)), 50, 0.2)
	text := strings.Join(old, "")
	f.Add(delta(f, old, new, removed, added))
	for _, s := range []string{"", "delta 1\n", "delta 2\n", "delta 1\n=0\n", "delta 1\n=1099511627775\n", "delta 1\n=99999999999999999999\n", "delta 1\n+x", "delta 1\n\n", "delta 1\n-1\n=1\n+\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, edits []byte) {
		var made bytes.Buffer
		applyDelta(&made, strings.NewReader(text), bytes.NewReader(edits))
		if made.Len() > len(text)+len(edits) {
			t.Fatalf("%d bytes of %d and %d", made.Len(), len(text), len(edits))
		}
	})
}

// deltaHost makes releases whose zones come with deltas.
type deltaHost struct{ *host }

// zoneOf stores lines as a zone.
func (h *deltaHost) zoneOf(serial uint64, lines []string) release.Zone {
	h.t.Helper()
	c, err := h.dir.PutBlob(func(w io.Writer) error {
		b := bufio.NewWriter(w)
		for _, line := range lines {
			b.WriteString(line)
		}
		return b.Flush()
	})
	check(h.t, err)
	return release.Zone{Origin: "example.", Serial: uint32(serial), SHA256: c.SHA256, Length: c.Length, Blob: c.Blob}
}

// put publishes a release whose zone is to have the lines new and a delta from the current one, which has old.
func (h *deltaHost) put(number uint64, old, new, removed, added []string) release.Zone {
	h.t.Helper()
	z := h.zoneOf(number, new)
	if h.m.Current != nil {
		c, err := h.dir.PutBlob(func(w io.Writer) error {
			return WriteDelta(w, strings.NewReader(strings.Join(old, "")), strings.NewReader(strings.Join(new, "")), removed, added)
		})
		check(h.t, err)
		z.Deltas = []release.Delta{{From: h.m.Current.Zones[0].SHA256, Blob: c.Blob}}
	}
	h.m.Current = &release.Release{Number: number, Switchover: testNow, Zones: []release.Zone{z}}
	files, mem, err := release.Publish(h.mem, h.m, h.keys.Signers(), ends())
	check(h.t, err)
	check(h.t, publish(h.dir, files))
	h.mem = mem
	return z
}

// two publishes one release, lets a node take it, and publishes the next with a delta.
func two(t testing.TB, size int, share float64, take func(h *host)) (*deltaHost, release.Zone) {
	t.Helper()
	old, new, removed, added := versions(rand.New(rand.NewPCG(7, 7)), size, share)
	h := &deltaHost{newHost(t)}
	h.put(1, nil, old, nil, nil)
	take(h.host)
	return h, h.put(2, old, new, removed, added)
}

// mirrorNotes mirrors and returns what was told of zones.
func (n *node) mirrorNotes() (notes []Note, faults []error, err error) {
	n.asked = nil
	_, mem, _, err := mirror(context.Background(), Source{Client: n.server.Client(), URL: n.server.URL, Note: func(note Note, err error) {
		notes, faults = append(notes, note), append(faults, err)
	}}, n.dir, n.mem)
	n.mem = mem
	return notes, faults, err
}

func (n *node) askedFor(b release.Blob) bool {
	for _, path := range n.asked {
		if path == "/"+release.BlobName(b.SHA256) {
			return true
		}
	}
	return false
}

// TestDeltaMovesLittle is the measure: 0.5 % of a zone changed, less than 1 % of its bytes moved.
func TestDeltaMovesLittle(t *testing.T) {
	moved, whole := moves(t, 100_000)
	t.Logf("100,000 names, 0.5 %% changed: %d bytes moved of %d, %.2f %%", moved, whole, 100*float64(moved)/float64(whole))
	if moved*100 >= whole {
		t.Error("1 % or more")
	}
}

func BenchmarkDeltaOfAMillionNames(b *testing.B) {
	for b.Loop() {
		moved, whole := moves(b, 1_000_000)
		b.ReportMetric(float64(moved), "B-moved")
		b.ReportMetric(float64(whole), "B-blob")
		b.ReportMetric(100*float64(moved)/float64(whole), "%")
	}
}

func moves(t testing.TB, size int) (moved, whole int64) {
	var n *node
	h, z := two(t, size, 0.005, func(h *host) {
		n = newNode(t, h)
		_, _, err := n.mirrorNotes()
		check(t, err)
	})
	notes, faults, err := n.mirrorNotes()
	check(t, err)
	if len(notes) != 1 || !notes[0].Delta || faults[0] != nil || n.askedFor(z.Blob) {
		t.Fatalf("notes %v, faults %v", notes, faults)
	}
	if got := serves(t, n.dir, h.root()); got != 2 {
		t.Fatalf("release %d", got)
	}
	return z.Deltas[0].Blob.Length, z.Blob.Length
}

// TestWhateverIsWrongWithADeltaTheWholeComes: cut, damaged or absent, refused by a server, or of another old text.
func TestWhateverIsWrongWithADeltaTheWholeComes(t *testing.T) {
	type meddle = func(w http.ResponseWriter, data []byte)
	ways := map[string]meddle{
		"corrupted": func(w http.ResponseWriter, data []byte) { data[len(data)/2] ^= 1; w.Write(data) },
		"truncated": func(w http.ResponseWriter, data []byte) { w.Write(data[:len(data)/2]) },
		"cut off":   func(w http.ResponseWriter, data []byte) { w.Write(data[:len(data)/2]); panic(http.ErrAbortHandler) },
		"not here":  func(w http.ResponseWriter, data []byte) { w.WriteHeader(404) },
		"forbidden": func(w http.ResponseWriter, data []byte) { w.WriteHeader(403) },
	}
	for name, way := range ways {
		t.Run(name, func(t *testing.T) {
			var n *node
			h, z := two(t, 1000, 0.05, func(h *host) { n = newNode(t, h); n.mustMirror(true) })
			n.meddle = func(w http.ResponseWriter, r *http.Request, good http.Handler) {
				if r.URL.Path != "/"+release.BlobName(z.Deltas[0].Blob.SHA256) {
					good.ServeHTTP(w, r)
					return
				}
				recorded := httptest.NewRecorder()
				r.Header.Del("Range")
				good.ServeHTTP(recorded, r)
				way(w, recorded.Body.Bytes())
			}
			wholeComes(t, n, h, z)
		})
	}
}

func wholeComes(t *testing.T, n *node, h *deltaHost, z release.Zone) {
	t.Helper()
	notes, faults, err := n.mirrorNotes()
	check(t, err)
	if len(notes) != 2 || !notes[0].Delta || faults[0] == nil || notes[1].Delta || faults[1] != nil {
		t.Fatalf("notes %v, faults %v, want a delta that failed and the whole", notes, faults)
	}
	check(t, n.dir.CheckBlob(z.Blob))
	if got := serves(t, n.dir, h.root()); got != 2 {
		t.Fatalf("release %d", got)
	}
	entries, err := n.dir.List(blobDir)
	check(t, err)
	for _, e := range entries {
		if isTemp(e.Name) {
			t.Errorf("%s was left", e.Name)
		}
	}
}

// TestASignedDeltaThatMakesOtherContentIsNotTaken: whoever signs a release may have made a mistake, or run out of disk.
func TestASignedDeltaThatMakesOtherContentIsNotTaken(t *testing.T) {
	for name, edits := range map[string]string{
		"no delta":   "$ORIGIN example.\n",
		"of nothing": "\n",
		"version 2":  "delta 2\n=1000\n",
		"too short":  deltaHead + "=999\n",
		"too long":   deltaHead + "=1001\n",
		"same text":  deltaHead + "=1000\n",
		"endless":    deltaHead + strings.Repeat("+"+strings.Repeat("x", 1<<16)+"\n", 100),
		"long line":  deltaHead + "+" + strings.Repeat("x", 2*maxLine) + "\n",
		"half":       deltaHead + "=10",
	} {
		t.Run(name, func(t *testing.T) {
			old, new, _, _ := versions(rand.New(rand.NewPCG(7, 7)), 1000, 0)
			new = append(new, "last.example.\n")
			h := &deltaHost{newHost(t)}
			h.put(1, nil, old, nil, nil)
			n := newNode(t, h.host)
			n.mustMirror(true)
			c, err := h.dir.PutBlob(func(w io.Writer) error { _, err := io.WriteString(w, edits); return err })
			check(t, err)
			z := h.zoneOf(2, new)
			z.Deltas = []release.Delta{{From: h.m.Current.Zones[0].SHA256, Blob: c.Blob}}
			h.m.Current = &release.Release{Number: 2, Switchover: testNow, Zones: []release.Zone{z}}
			files, mem, err := release.Publish(h.mem, h.m, h.keys.Signers(), ends())
			check(t, err)
			check(t, publish(h.dir, files))
			h.mem = mem
			wholeComes(t, n, h, z)
		})
	}
}

// TestAPatchedZoneIsLookedAfter: what a node made is kept as long as what was published would be, serves as the base of the
// next delta, and is made again when it is damaged.
func TestAPatchedZoneIsLookedAfter(t *testing.T) {
	noise := rand.New(rand.NewPCG(3, 3))
	h := &deltaHost{newHost(t)}
	text, _, _, _ := versions(noise, 500, 0)
	h.put(1, nil, text, nil, nil)
	n := newNode(t, h.host)
	n.mustMirror(true)
	var made []release.Zone
	for number := uint64(2); number <= 5; number++ {
		line := fmt.Sprintf("name%d.example.\n", number)
		next := append(text[:len(text):len(text)], line)
		z := h.put(number, text, next, nil, []string{line})
		text, made = next, append(made, z)
		notes, faults, err := n.mirrorNotes()
		check(t, err)
		if len(notes) != 1 || !notes[0].Delta || faults[0] != nil {
			t.Fatalf("release %d: notes %v, faults %v", number, notes, faults)
		}
		h.renew() // everything is read through
		n.mustMirror(true)
		if n.askedFor(z.Blob) {
			t.Fatal("the whole was asked for")
		}
		if got := serves(t, n.dir, h.root()); got != number {
			t.Fatalf("release %d, want %d", got, number)
		}
	}
	for i, want := range []bool{false, false, true, true} {
		if _, err := n.dir.root.Lstat(textName(made[i].SHA256)); (err == nil) != want {
			t.Errorf("release %d: %v, want it kept %v", i+2, err, want)
		}
	}
	last := made[3]
	file := filepath.Join(n.dir.Path(), textName(last.SHA256))
	data, err := fs.ReadFile(n.dir, textName(last.SHA256))
	check(t, err)
	for _, damaged := range [][]byte{append(bytes.Clone(data[:len(data)/2]), make([]byte, 10)...), {}, data[:len(data)-3]} {
		check(t, os.WriteFile(file, damaged, 0o600))
		h.renew()
		n.mustMirror(true)
		if got := serves(t, n.dir, h.root()); got != 5 {
			t.Fatalf("release %d", got)
		}
		if now, err := fs.ReadFile(n.dir, textName(last.SHA256)); err != nil || !bytes.Equal(now, data) {
			t.Fatalf("not made again: %v", err)
		}
	}
}

func TestADeltaKilledAtAnyStepLeavesOldOrNewAndCanBeRepeated(t *testing.T) {
	killedAtAnyStep(t, 2, serves, func(dir *Dir) *host {
		h, z := two(t, 500, 0.05, func(h *host) { check(t, mirrorJob(dir.Path(), h.dir.Path())) })
		check(t, os.Remove(filepath.Join(h.dir.Path(), release.BlobName(z.Blob.SHA256)))) // the delta is the only way
		return h.host
	})
}

// killedAtAnyStep kills a mirror that brings a depot from release 1 to the last at each of its steps, and then repeats it. prepare makes the
// host, and mirrors release 1.
// tear takes from parts of blobs what need not be on disk when the power fails as well: the second half of each is blank.
func tear(t testing.TB, d *Dir) {
	t.Helper()
	entries, err := d.List(blobDir)
	check(t, err)
	for _, e := range entries {
		if !strings.HasPrefix(e.Name, partPrefix) {
			continue
		}
		path := filepath.Join(d.Path(), blobDir, e.Name)
		data, err := os.ReadFile(path)
		check(t, err)
		clear(data[len(data)/2:])
		check(t, os.WriteFile(path, data, 0o644))
	}
}

func killedAtAnyStep(t *testing.T, last uint64, number func(testing.TB, *Dir, release.Memory) uint64, prepare func(dir *Dir) *host) {
	t.Helper()
	for step := 1; step < maxSteps; step++ {
		dir := newDir(t)
		h := prepare(dir)
		done := crashed(t, "mirror", dir.Path(), h.dir.Path(), step)
		if got := number(t, dir, h.root()); got != 1 && got != last || done && got != last {
			t.Fatalf("step %d: release %d", step, got)
		}
		check(t, dir.Sweep())
		tear(t, dir)
		check(t, mirrorJob(dir.Path(), h.dir.Path()))
		if got := number(t, dir, h.root()); got != last {
			t.Fatalf("step %d, repeated: release %d", step, got)
		}
		if done {
			return
		}
	}
	t.Fatal("never done")
}
