package depot

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// counter serves what a distribution host does, and counts requests by their method and the directory that they are about. meddle is asked first about
// those for many blobs.
type counter struct {
	*httptest.Server
	mu     sync.Mutex
	asked  map[string]int
	meddle func(w http.ResponseWriter, r *http.Request) bool // whether it has answered; nil: nobody has
}

func newCounter(h *host) *counter {
	c := &counter{asked: map[string]int{}}
	ctx, end := context.WithCancel(context.Background())
	holder := NewHolder(ctx, h.dir, time.Second)
	c.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		kind, _, _ := strings.Cut(r.URL.Path[1:], "/")
		c.asked[r.Method+" "+kind]++
		meddle := c.meddle
		c.mu.Unlock()
		if r.URL.Path[1:] != togetherPath || meddle == nil || !meddle(w, r) {
			holder.ServeHTTP(w, r)
		}
	}))
	h.t.Cleanup(func() {
		end()
		c.Close()
	})
	return c
}

// many publishes so many zones, of which the last is no small one.
func (h *host) many(number uint64, zones int) {
	h.t.Helper()
	r := &release.Release{Number: number, Switchover: testNow}
	for i := range zones - 1 {
		r.Zones = append(r.Zones, h.zone(fmt.Sprintf("z%04d.example.", i), uint32(number), 100))
	}
	r.Zones = append(r.Zones, h.zone("zz.example.", uint32(number), 16*smallBytes))
	h.m.Current = r
	h.put()
}

// TestSmallBlobsComeManyAtATime from a distribution host, as soon as it has said that it gives them so: so a release of very many zones does not take as many
// round trips.
func TestSmallBlobsComeManyAtATime(t *testing.T) {
	h := newHost(t)
	c := newCounter(h)
	known, dir, start, bytes := new(Known), newDir(t), h.root(), int64(0)
	mem := start
	take := func() {
		t.Helper()
		bytes = 0
		var moved Moved
		source := Source{Client: c.Client(), URL: c.URL, Known: known, Note: func(n Note, err error) { check(t, err); bytes += n.Bytes }, Moved: func(m Moved) { moved = m }}
		var err error
		_, mem, _, err = Look(t.Context(), source.Client, source.URL, mem, dir).Take(t.Context(), source, dir, mem)
		check(t, err)
		want := int64(0)
		for _, z := range h.m.Current.Zones {
			want += z.Blob.Length
			check(t, dir.CheckBlob(z.Blob))
		}
		if bytes != want || moved.Left != 0 {
			t.Errorf("%d octets came, and %+v, of %d", bytes, moved, want)
		}
	}
	h.many(1, 10)
	take()
	if c.asked["GET blobs"] != 10 || c.asked["POST v1"] != 0 {
		t.Errorf("before anything is known: %v", c.asked)
	}
	clear(c.asked)
	h.many(2, 60)
	cut := h.m.Current.Zones[7]
	check(t, writeFile(dir, partName(cut.Blob), "a part that came before"))
	take()
	if c.asked["GET blobs"] != 1 || c.asked["POST v1"] != 1 {
		t.Errorf("of 59 small zones and a large one: %v", c.asked)
	}
	if got := serves(t, dir, start); got != 2 {
		t.Errorf("release %d", got)
	}
	entries, err := dir.List(blobDir)
	check(t, err)
	for _, e := range entries {
		if strings.HasPrefix(e.Name, ".") && e.Name != lockName {
			t.Errorf("%s is left", e.Name)
		}
	}
}

func writeFile(d *Dir, name, text string) error { return d.root.WriteFile(name, []byte(text), 0o644) }

// TestNothingButWhatIsSignedComesTogether: whatever is answered to who asks for many blobs, what was signed comes, by itself if need be.
func TestNothingButWhatIsSignedComesTogether(t *testing.T) {
	for name, lie := range map[string]func(w http.ResponseWriter, good []byte){
		"nothing":      func(w http.ResponseWriter, _ []byte) {},
		"no such path": func(w http.ResponseWriter, _ []byte) { w.WriteHeader(http.StatusNotFound) },
		"words": func(w http.ResponseWriter, _ []byte) {
			io.WriteString(w, strings.Repeat("not what you asked for ", 1000))
		},
		"nothing there":  func(w http.ResponseWriter, _ []byte) { io.WriteString(w, strings.Repeat("-\n", 1000)) },
		"long":           func(w http.ResponseWriter, _ []byte) { io.WriteString(w, "9999999999999999999\n") },
		"negative":       func(w http.ResponseWriter, _ []byte) { io.WriteString(w, "-7\n0123456") },
		"truncated":      func(w http.ResponseWriter, good []byte) { w.Write(good[:len(good)/2]) },
		"cut off":        func(w http.ResponseWriter, good []byte) { w.Write(good[:len(good)/2]); panic(http.ErrAbortHandler) },
		"followed":       func(w http.ResponseWriter, good []byte) { w.Write(append(good, good...)) },
		"corrupted":      func(w http.ResponseWriter, good []byte) { good[len(good)/2] ^= 1; w.Write(good) },
		"last corrupted": func(w http.ResponseWriter, good []byte) { good[len(good)-1] ^= 1; w.Write(good) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			c := newCounter(h)
			h.many(1, 20)
			c.meddle = func(w http.ResponseWriter, r *http.Request) bool {
				recorded := httptest.NewRecorder()
				NewHolder(t.Context(), h.dir, time.Second).ServeHTTP(recorded, r)
				lie(w, recorded.Body.Bytes())
				return true
			}
			dir, mem, known := newDir(t), h.root(), &Known{offers: map[string]offer{c.URL: {made: true}}}
			source := Source{Client: c.Client(), URL: c.URL, Known: known}
			_, _, _, err := Look(t.Context(), source.Client, source.URL, mem, dir).Take(t.Context(), source, dir, mem)
			check(t, err)
			for _, z := range h.m.Current.Zones {
				check(t, dir.CheckBlob(z.Blob))
			}
			if n := c.asked["POST v1"]; n < 1 || n > 2 { // the client itself asks again where the connection is closed before an answer
				t.Errorf("%v", c.asked)
			}
		})
	}
}

// TestABudgetEndsBlobsThatComeTogether: what came whole stays, and where nothing does they are asked for by themselves, of which parts stay.
func TestABudgetEndsBlobsThatComeTogether(t *testing.T) {
	h := newHost(t)
	c := newCounter(h)
	h.many(1, 40)
	c.meddle = func(w http.ResponseWriter, r *http.Request) bool {
		recorded := httptest.NewRecorder()
		NewHolder(t.Context(), h.dir, time.Second).ServeHTTP(recorded, r)
		trickle{w}.Write(recorded.Body.Bytes())
		return true
	}
	dir, mem, known, rounds := newDir(t), h.root(), &Known{offers: map[string]offer{c.URL: {made: true}}}, 0
	for err := ErrUnfinished; err != nil; rounds++ {
		source := Source{Client: c.Client(), URL: c.URL, Known: known, Budget: time.Nanosecond}
		_, mem, _, err = Look(t.Context(), source.Client, source.URL, mem, dir).Take(t.Context(), source, dir, mem)
		if err != nil && !errors.Is(err, ErrUnfinished) {
			t.Fatal(err)
		}
		if rounds > 200 {
			t.Fatal("it does not come to an end")
		}
	}
	for _, z := range h.m.Current.Zones {
		check(t, dir.CheckBlob(z.Blob))
	}
	if rounds == 1 {
		t.Error("the budget did not end it")
	}
}

// TestBlobsThatComeTogetherKilledAtAnyStep: what has its name is whole, and the rest comes when that is repeated.
func TestBlobsThatComeTogetherKilledAtAnyStep(t *testing.T) {
	killedAtAnyStep(t, 2, serves, func(dir *Dir) *host {
		h := newHost(t)
		h.many(1, 2)
		check(t, mirrorJob(dir.Path(), h.dir.Path()))
		h.many(2, 5)
		return h
	})
}

// TestWhoAsksForManyBlobs gets small ones that are there, and no more at a time than is said.
func TestWhoAsksForManyBlobs(t *testing.T) {
	h := newHost(t)
	h.many(1, 3)
	holder := NewHolder(t.Context(), h.dir, time.Second)
	ask := func(method, body string) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		holder.ServeHTTP(w, httptest.NewRequest(method, "/"+togetherPath, strings.NewReader(body)))
		return w
	}
	first, second, large := h.m.Current.Zones[0].Blob, h.m.Current.Zones[1].Blob, h.m.Current.Zones[2].Blob
	var want bytes.Buffer
	for _, d := range []release.Digest{first.SHA256, {}, large.SHA256, second.SHA256} {
		data, _, err := h.dir.Read(release.BlobName(d), smallBytes)
		if err != nil {
			want.WriteString("-\n")
			continue
		}
		fmt.Fprintf(&want, "%d\n%s", len(data), data)
	}
	if w := ask(http.MethodPost, fmt.Sprintf("%s\n%s\n%s\n%s\n", first.SHA256, release.Digest{}, large.SHA256, second.SHA256)); w.Code != 200 || !bytes.Equal(w.Body.Bytes(), want.Bytes()) {
		t.Errorf("%d: %q", w.Code, w.Body)
	}
	most := strings.Repeat(first.SHA256.String()+"\n", maxTogether)
	if w := ask(http.MethodPost, most); w.Code != 200 {
		t.Errorf("%d: %.100q", w.Code, w.Body)
	}
	for what, body := range map[string]string{"too many": most + "\n", "a path": "../../etc/passwd\n", "too long": strings.Repeat("0", 1<<20)} {
		if w := ask(http.MethodPost, body); w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d", what, w.Code)
		}
	}
	if w := ask(http.MethodGet, ""); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != http.MethodPost {
		t.Errorf("GET: %d, %v", w.Code, w.Header())
	}
	w := httptest.NewRecorder()
	h.dir.Metadata().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/"+togetherPath, strings.NewReader(most)))
	if w.Code == 200 {
		t.Error("a node gives blobs to others")
	}
}

// FuzzBlobsTogether: whatever a host answers, only a blob that was asked for is taken, and no more memory than that of what was asked for.
func FuzzBlobsTogether(f *testing.F) {
	texts := [][]byte{[]byte("one"), []byte("two\n"), []byte("-\n")}
	f.Add([]byte("3\none4\ntwo\n2\n-\n"))
	f.Add([]byte("-\n4\ntwo\n-\n"))
	f.Add([]byte("3\ntwo999999999999\n"))
	f.Fuzz(func(t *testing.T, answer []byte) {
		in := bufio.NewReaderSize(bytes.NewReader(answer), 64)
		for _, text := range texts {
			data, err := readOne(in, release.Blob{SHA256: release.DigestOf(text), Length: int64(len(text))})
			if err != nil {
				return
			}
			if data != nil && !bytes.Equal(data, text) {
				t.Fatalf("%q is taken for %q", data, text)
			}
		}
		if digests, err := parseDigests(answer); err == nil && len(digests) > maxTogether {
			t.Fatalf("%d digests", len(digests))
		}
	})
}

// TestAnOfferThatComesToNothing is not taken up again soon, though it is made with each blob: each time might take as long as a server may send nothing.
func TestAnOfferThatComesToNothing(t *testing.T) {
	for name, answer := range map[string]func(w http.ResponseWriter){
		"refused": func(w http.ResponseWriter) { w.WriteHeader(http.StatusForbidden) },
		"empty":   func(w http.ResponseWriter) { io.WriteString(w, strings.Repeat("-\n", maxTogether)) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			c := newCounter(h)
			h.many(1, 2*togetherZones)
			c.meddle = func(w http.ResponseWriter, _ *http.Request) bool {
				answer(w)
				return true
			}
			dir, mem, known := newDir(t), h.root(), &Known{offers: map[string]offer{c.URL: {made: true}}}
			source := Source{Client: c.Client(), URL: c.URL, Known: known}
			began := time.Now()
			_, _, _, err := Look(t.Context(), source.Client, source.URL, mem, dir).Take(t.Context(), source, dir, mem)
			check(t, err)
			o := known.offers[c.URL]
			if n := c.asked["POST v1"]; n != 1 && time.Since(began) < refusedLeast || !o.made || o.from.Before(began.Add(refusedLeast)) {
				t.Errorf("asked %d times, %+v", n, o)
			}
			o.from = time.Now()
			known.offers[c.URL] = o
			if !known.offering(c.URL) {
				t.Error("it is never taken up again")
			}
		})
	}
	known := new(Known)
	known.refused("https://host", time.Hour)
	if o := known.offers["https://host"]; o.made || time.Until(o.from) < 99*time.Hour {
		t.Errorf("%+v", o)
	}
}

// TestAnAnswerThatDoesNotEnd is not waited for: all that was asked for has come.
func TestAnAnswerThatDoesNotEnd(t *testing.T) {
	h := newHost(t)
	c := newCounter(h)
	h.many(1, 20)
	c.meddle = func(w http.ResponseWriter, r *http.Request) bool {
		NewHolder(t.Context(), h.dir, time.Second).ServeHTTP(w, r)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		return true
	}
	ctx, cancel := context.WithTimeout(t.Context(), stallAfter)
	defer cancel()
	dir, mem, known := newDir(t), h.root(), &Known{offers: map[string]offer{c.URL: {made: true}}}
	source := Source{Client: c.Client(), URL: c.URL, Known: known}
	_, _, _, err := Look(ctx, source.Client, source.URL, mem, dir).Take(ctx, source, dir, mem)
	check(t, err)
	if ctx.Err() != nil || c.asked["POST v1"] != 1 || !known.offering(c.URL) {
		t.Errorf("%v, %v", ctx.Err(), c.asked)
	}
}

// TestNamesThatAreNotOnDisk are an error, also of blobs that came together: they would be gone after a power cut. The next look goes on with that.
func TestNamesThatAreNotOnDisk(t *testing.T) {
	h := newHost(t)
	c := newCounter(h)
	h.m.Current = &release.Release{Number: 1, Switchover: testNow}
	for i := range 20 {
		h.m.Current.Zones = append(h.m.Current.Zones, h.zone(fmt.Sprintf("z%04d.example.", i), 1, 100))
	}
	h.put()
	dir, mem, known := newDir(t), h.root(), &Known{offers: map[string]offer{c.URL: {made: true}}}
	take := func() (err error) {
		source := Source{Client: c.Client(), URL: c.URL, Known: known}
		_, mem, _, err = Look(t.Context(), source.Client, source.URL, mem, dir).Take(t.Context(), source, dir, mem)
		return err
	}
	failed := 0
	var mu sync.Mutex
	step = func(name string) {
		mu.Lock()
		defer mu.Unlock()
		if name != "sync directory" || failed == 2 { // when they come, and when all have come
			_ = dir.root.Rename("away", blobDir)
			return
		}
		failed++
		_ = dir.root.Rename(blobDir, "away") // it cannot be opened then
	}
	defer func() { step = func(string) {} }()
	if err := take(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	synced := 0
	step = func(name string) {
		if name == "sync directory" {
			synced++
		}
	}
	check(t, take())
	if synced == 0 || !known.named {
		t.Error("the names are not on disk")
	}
	for _, z := range h.m.Current.Zones {
		check(t, dir.CheckBlob(z.Blob))
	}
	synced = 0
	if check(t, take()); synced > 0 {
		t.Errorf("%d directories are synced though nothing came", synced)
	}
}

// TestWhatAFailedLookRemoves may be of a release that could not be installed: what is left to be got of that is found out anew.
func TestWhatAFailedLookRemoves(t *testing.T) {
	h := newHost(t)
	h.release(1, 100)
	came := h.zone("example.org.", 2, 100) // of a release that is not installed
	known := &Known{due: time.Now(), rest: &rest{}}
	known.lookFailed(h.dir, h.mem)
	if h.dir.HasBlob(came.Blob) {
		t.Fatal("it is not removed")
	}
	if known.rest != nil {
		t.Error("nothing is left to be got, as far as it knows")
	}
}
