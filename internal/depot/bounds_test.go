package depot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// mirrorBounded is mirror with bounds.
func (n *node) mirrorBounded(s Source) error {
	n.t.Helper()
	n.asked = nil
	s.Client, s.URL = n.server.Client(), n.server.URL
	_, mem, _, err := mirror(context.Background(), s, n.dir, n.mem)
	n.mem = mem
	return err
}

// leaseOf is the version of the lease in the node's depot.
func (n *node) leaseOf(start release.Memory) int64 {
	n.t.Helper()
	view, _, err := release.Verify(n.dir, start)
	check(n.t, err)
	return view.Versions.Timestamp
}

// TestNoLeaseWaitsForALargeZone: while a zone trickles in, the leases that come with it and after it go in at the end of each
// budget; what came of the zone stays, and in the end it is whole.
func TestNoLeaseWaitsForALargeZone(t *testing.T) {
	h := newHost(t)
	h.release(1, 1000)
	n := newNode(t, h)
	start := n.mem
	n.mustMirror(true)
	h.release(2, 1<<20)
	n.meddle = func(w http.ResponseWriter, r *http.Request, good http.Handler) {
		if !strings.HasPrefix(r.URL.Path, "/"+blobDir) {
			good.ServeHTTP(w, r)
			return
		}
		good.ServeHTTP(trickle{w}, r)
	}
	var last int64
	rounds := 0
	whole := h.zonesOf(t)[0].Blob.Length
	var told Moved
	moved := func(now Moved) {
		if now.Number != 2 || now.Came < told.Came || now.Came+now.Left != whole {
			t.Errorf("%+v of %d bytes, after %+v", now, whole, told)
		}
		told = now
	}
	for err := ErrUnfinished; errors.Is(err, ErrUnfinished); rounds++ {
		if err = n.mirrorBounded(Source{Budget: 50 * time.Millisecond, Moved: moved}); err != nil && !errors.Is(err, ErrUnfinished) {
			t.Fatal(err)
		}
		if lease := n.leaseOf(start); lease <= last {
			t.Fatalf("round %d: lease %d, it was %d", rounds, lease, last)
		} else {
			last = lease
		}
		h.renew()
	}
	if told.Left != 0 {
		t.Errorf("the last that was told: %+v", told)
	}
	if rounds < 3 {
		t.Errorf("the zone came in %d rounds: it did not trickle", rounds)
	}
	n.meddle = nil
	n.mustMirror(true)
	if got := serves(t, n.dir, start); got != 2 {
		t.Fatalf("release %d", got)
	}
}

// zonesOf are the zones that the repository names.
func (h *host) zonesOf(t *testing.T) []release.Zone {
	t.Helper()
	view, _, err := release.Verify(h.dir, h.root())
	check(t, err)
	var zones []release.Zone
	for _, z := range new(Known).toSee(view.Manifest, true) {
		zones = append(zones, *z)
	}
	return zones
}

// trickle sends in small pieces, with a pause after each.
type trickle struct{ http.ResponseWriter }

func (w trickle) Write(p []byte) (int, error) {
	for at := 0; at < len(p); at += 1 << 10 {
		if _, err := w.ResponseWriter.Write(p[at:min(at+1<<10, len(p))]); err != nil {
			return at, err
		}
		w.ResponseWriter.(http.Flusher).Flush()
		time.Sleep(2 * time.Millisecond)
	}
	return len(p), nil
}

// TestDownloadsShareAPace: however many there are, they take no more bytes a second together.
func TestDownloadsShareAPace(t *testing.T) {
	const bytesEach, perSecond, readers = 40_000, 400_000, 3
	pace := NewPace(perSecond)
	began := time.Now()
	var all sync.WaitGroup
	for range readers {
		all.Go(func() {
			stall := time.AfterFunc(time.Hour, func() {})
			defer stall.Stop()
			r := &paced{ctx: context.Background(), lively: &lively{bytes.NewReader(make([]byte, bytesEach)), stall}, Bounds: Bounds{pace: pace, crowd: new(crowd)}}
			if n, err := io.Copy(io.Discard, r); n != bytesEach || err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
		})
	}
	all.Wait()
	// Only what is too fast is wrong: a slow machine may take any time.
	if took, least := time.Since(began), time.Second*bytesEach*readers/perSecond; took < least {
		t.Errorf("%d bytes took %v, the pace allows them in %v", bytesEach*readers, took, least)
	}
}

// TestAPacedDownloadEndsWithItsBudget, however long the rest would take.
func TestAPacedDownloadEndsWithItsBudget(t *testing.T) {
	h := newHost(t)
	h.release(1, 1<<20)
	n := newNode(t, h)
	if err := n.mirrorBounded(Source{Pace: NewPace(10), Budget: 50 * time.Millisecond}); !errors.Is(err, ErrUnfinished) {
		t.Fatal(err)
	}
	check(t, n.mirrorBounded(Source{Pace: NewPace(1 << 40)}))
}

// TestTheDepotStaysWithinItsRoom: a release that does not fit is not fetched, and the reason names the zone and the numbers;
// its metadata goes in, what is answered stays, and a release that fits goes in.
func TestTheDepotStaysWithinItsRoom(t *testing.T) {
	h := newHost(t)
	h.release(1, 400<<10)
	n := newNode(t, h)
	start := n.mem
	small := h.zonesOf(t)[0]
	room := Source{Room: 2*small.Blob.Length + small.Blob.Length/2}
	check(t, n.mirrorBounded(room))
	h.release(2, 4<<20)
	large := h.zonesOf(t)[0]
	for range 2 {
		err := n.mirrorBounded(room)
		if err == nil || !strings.Contains(err.Error(), "that they may: it is not fetched") || !strings.Contains(err.Error(), large.Origin) {
			t.Fatalf("error %v", err)
		}
		if n.askedFor(large.Blob) {
			t.Fatal("what does not fit was asked for")
		}
		if !n.dir.HasBlob(small.Blob) {
			t.Fatal("what was answered from before is gone")
		}
		h.renew()
		if n.leaseOf(start) == 0 {
			t.Fatal("no lease")
		}
	}
	h.release(3, 400<<10)
	check(t, n.mirrorBounded(room))
	if got := serves(t, n.dir, start); got != 3 {
		t.Fatalf("release %d", got)
	}
}

// gated serves a repository, and blobs when as many have been asked for as may be at once.
type gated struct {
	*httptest.Server
	t             testing.TB
	mu            sync.Mutex
	asked         []string // blobs
	waiting, most int
	gate          chan struct{}
}

func newGated(h *host) *gated {
	g := &gated{t: h.t, gate: make(chan struct{})}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		if !strings.HasPrefix(name, blobDir) || g.wait(r, name) {
			h.dir.Handler().ServeHTTP(w, r)
		}
	}))
	h.t.Cleanup(g.Close)
	return g
}

// wait reports whether so many have been asked for.
func (g *gated) wait(r *http.Request, name string) bool {
	g.mu.Lock()
	g.asked = append(g.asked, name)
	g.waiting++
	g.most = max(g.most, g.waiting)
	gate := g.gate
	if g.waiting == atOnce {
		close(gate)
		g.gate, g.waiting = make(chan struct{}), 0
	}
	g.mu.Unlock()
	select {
	case <-gate:
		return true
	case <-r.Context().Done():
	case <-time.After(10 * time.Second):
		g.t.Error("too few are asked for at once")
	}
	return false
}

// again begins anew.
func (g *gated) again() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked, g.waiting = nil, 0
}

// TestSmallZonesAreFetchedTogether, each file once. One that does not come is said by its zone, and is all that is asked for again.
func TestSmallZonesAreFetchedTogether(t *testing.T) {
	h := newHost(t)
	zones := h.zones(10*atOnce, 1, 100)
	h.m.Current = &release.Release{Number: 1, Switchover: testNow, Zones: zones}
	h.put()
	server, mem, notes, moved := newGated(h), h.root(), Note{}, Moved{}
	source := Source{Client: server.Client(), URL: server.URL, Moved: func(m Moved) { moved = m }, Note: func(n Note, err error) {
		check(t, err)
		notes.Zone, notes.Bytes = n.Zone, notes.Bytes+n.Bytes
	}}
	take := func(dir *Dir) error {
		_, _, _, err := Look(t.Context(), source.Client, source.URL, mem, dir).Take(t.Context(), source, dir, mem)
		return err
	}
	dir := newDir(t)
	check(t, take(dir))
	serves(t, dir, mem)
	bytes := int64(0)
	for _, z := range zones {
		bytes += z.Blob.Length
	}
	if want := (Note{zones[len(zones)-1].Origin, false, bytes}); len(server.asked) != len(zones) || server.most != atOnce || notes != want || moved != (Moved{1, bytes, 0}) {
		t.Errorf("%d were asked for, %d at once, and %+v came, %+v", len(server.asked), server.most, notes, moved)
	}
	open := newLying(h)
	lost := release.BlobName(zones[len(zones)-1].Blob.SHA256)
	open.lies(func(w http.ResponseWriter, name string) bool {
		if name == lost {
			w.WriteHeader(http.StatusNotFound)
		}
		return name == lost
	})
	source.Client, source.URL, dir = open.Client(), open.URL, newDir(t)
	if err := take(dir); err == nil || !strings.Contains(err.Error(), lost) {
		t.Errorf("error %v", err)
	}
	for _, z := range zones[:len(zones)-1] {
		if !dir.HasBlob(z.Blob) {
			t.Errorf("%s is not there", z.Origin)
		}
	}
	open.lies(nil)
	open.asked = nil
	check(t, take(dir))
	if got := slices.DeleteFunc(open.asked, func(name string) bool { return !strings.HasPrefix(name, blobDir) }); !slices.Equal(got, []string{lost}) {
		t.Errorf("asked for again: %v", got)
	}
}

// TestBlobsOfAZoneAreFetchedSeveralAtATime, in their order, each once, and no more at once than there are connections: the server
// answers when so many have been asked for. One that does not come ends it, and what came stays.
func TestBlobsOfAZoneAreFetchedSeveralAtATime(t *testing.T) {
	h := newHost(t)
	var blobs []release.Blob
	var total int64
	for serial := range uint32(3 * atOnce) {
		blobs = append(blobs, h.zone("example.", serial, 100).Blob)
		total += blobs[serial].Length
	}
	lost := release.BlobName(blobs[2*atOnce].SHA256)
	check(t, os.Rename(filepath.Join(h.dir.Path(), lost), filepath.Join(h.dir.Path(), "lost")))
	server := newGated(h)
	dir := newDir(t)
	var moved []Moved
	get := &getter{Source: Source{Known: new(Known), Client: server.Client(), URL: server.URL, Moved: func(m Moved) { moved = append(moved, m) }}, dir: dir, left: 7}
	err := get.fetch(t.Context(), "example.", append(blobs, blobs[0], blobs[1])...)
	if err == nil || !strings.Contains(err.Error(), lost) {
		t.Fatalf("error %v", err)
	}
	for _, b := range blobs[:atOnce] {
		if !slices.Contains(server.asked[:atOnce], release.BlobName(b.SHA256)) || !dir.HasBlob(b) {
			t.Errorf("the first that are asked for are %v", server.asked[:atOnce])
		}
	}
	check(t, os.Rename(filepath.Join(h.dir.Path(), "lost"), filepath.Join(h.dir.Path(), lost)))
	for _, b := range blobs[atOnce : len(blobs)-atOnce] { // as many are left as are asked for at once
		check(t, os.RemoveAll(filepath.Join(dir.Path(), partName(b))))
		if !dir.HasBlob(b) {
			check(t, os.Link(filepath.Join(h.dir.Path(), release.BlobName(b.SHA256)), filepath.Join(dir.Path(), release.BlobName(b.SHA256))))
		}
	}
	for _, b := range blobs[len(blobs)-atOnce:] {
		check(t, os.RemoveAll(filepath.Join(dir.Path(), partName(b))))
		check(t, dir.Remove(release.BlobName(b.SHA256)))
	}
	server.again()
	moved = nil
	check(t, get.fetch(t.Context(), "example.", append(blobs, blobs...)...))
	if len(server.asked) != atOnce || server.most != atOnce {
		t.Errorf("%d were asked for, %d at once", len(server.asked), server.most)
	}
	for _, b := range blobs {
		check(t, dir.CheckBlob(b))
	}
	if last := moved[len(moved)-1]; last.Left != 7 || last.Came == 0 || last.Came >= total {
		t.Errorf("it ends with %+v", last)
	}
}

// TestASlowLineIsSharedByDownloads: each of several at once may come slowly, as long as they do not together.
func TestASlowLineIsSharedByDownloads(t *testing.T) {
	together := &crowd{under: 1, since: time.Now().Add(-2 * time.Second)}
	stall := time.AfterFunc(time.Hour, func() {})
	defer stall.Stop()
	read := func(n int) error {
		r := &paced{ctx: t.Context(), lively: &lively{strings.NewReader(strings.Repeat("x", 5000)), stall}, length: 5000,
			Bounds: Bounds{until: time.Now().Add(-time.Second), crowd: together}}
		_, err := r.Read(make([]byte, n))
		return err
	}
	if err := read(900); !errors.Is(err, errSlow) {
		t.Errorf("one: %v", err)
	}
	together.add(1 << 40)
	if err := read(900); !errors.Is(err, ErrUnfinished) {
		t.Errorf("several: %v", err)
	}
	if err := read(5000); err != nil {
		t.Errorf("one that is whole: %v", err)
	}
}

// TestManySmallFilesFromFarAwayAreNotSlow, though most of the time is that of questions and their ways: the budget ends them, and what
// came stays.
func TestManySmallFilesFromFarAwayAreNotSlow(t *testing.T) {
	h := newHost(t)
	var blobs []release.Blob
	for serial := range uint32(3 * atOnce) {
		blobs = append(blobs, h.zone("example.", serial, 200).Blob)
	}
	asked := atomic.Int32{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		time.Sleep(time.Second) // in which less than 1000 octets come
		data, err := fs.ReadFile(h.dir, strings.TrimPrefix(r.URL.Path, "/"))
		if err != nil {
			t.Error(err)
		}
		for half := range slices.Chunk(data, (len(data)+1)/2) {
			w.Write(half)
			w.(http.Flusher).Flush()
			time.Sleep(5 * time.Millisecond)
		}
	}))
	defer server.Close()
	dir, rounds := newDir(t), 0
	for err := ErrUnfinished; err != nil; rounds++ {
		get := &getter{Source: Source{Known: new(Known), Client: server.Client(), URL: server.URL}, dir: dir, until: time.Now().Add(1500 * time.Millisecond)}
		if err = get.fetch(t.Context(), "example.", blobs...); err != nil && !errors.Is(err, ErrUnfinished) {
			t.Fatal(err)
		}
	}
	for _, b := range blobs {
		check(t, dir.CheckBlob(b))
	}
	if rounds == 1 {
		t.Error("it took no longer than its budget")
	}
	if most := len(blobs) + rounds*atOnce; int(asked.Load()) > most {
		t.Errorf("%d were asked for, there are %d", asked.Load(), len(blobs))
	}
}

// TestABudgetIsForDownloads: where it takes longer than that to find out what is missing, as of very many zones, as long may be spent on getting it.
func TestABudgetIsForDownloads(t *testing.T) {
	h := newHost(t)
	var blobs []release.Blob
	for serial := range uint32(5 * atOnce) {
		blobs = append(blobs, h.zone("example.", serial, 40).Blob)
	}
	server := httptest.NewServer(http.FileServerFS(h.dir))
	defer server.Close()
	get := func(looked time.Duration) (dir *Dir, err error) {
		dir = newDir(t)
		g := &getter{Source: Source{Known: new(Known), Client: server.Client(), URL: server.URL, Budget: time.Nanosecond}, dir: dir, began: time.Now().Add(-looked)}
		return dir, g.fetch(t.Context(), "example.", blobs...)
	}
	dir, err := get(time.Hour)
	check(t, err)
	for _, b := range blobs {
		check(t, dir.CheckBlob(b))
	}
	if _, err := get(0); !errors.Is(err, ErrUnfinished) {
		t.Errorf("without a look it took %v", err)
	}
}

// TestALookGoesOnWithWhatTheOneBeforeHasLeft: to find out what is missing of very many zones takes longer than a budget, so each look would do that
// and get little. Who hears that something else is missing has all looked at again, but not all the time.
func TestALookGoesOnWithWhatTheOneBeforeHasLeft(t *testing.T) {
	h := newHost(t)
	zones := h.zones(30*atOnce, 1, 40)
	h.m.Current = &release.Release{Number: 1, Switchover: testNow, Zones: zones}
	h.put()
	server := httptest.NewServer(h.dir.Handler())
	defer server.Close()
	dir, mem, known := newDir(t), h.root(), new(Known)
	take := func() (err error) {
		source := Source{Client: server.Client(), URL: server.URL, Known: known, Budget: time.Nanosecond}
		_, mem, _, err = Look(t.Context(), source.Client, source.URL, mem, dir).Take(t.Context(), source, dir, mem)
		return err
	}
	if err := take(); !errors.Is(err, ErrUnfinished) {
		t.Fatalf("error %v", err)
	}
	there := func() (n int) {
		for _, z := range zones {
			if dir.HasBlob(z.Blob) {
				n++
			}
		}
		return n
	}
	lost := zones[0].Blob
	left := func() int64 {
		sum := int64(0)
		for _, z := range known.rest.zones {
			if dir.HasBlob(z.Blob) {
				t.Fatalf("%s is there, and is to be got", z.Origin)
			}
			sum += z.octets
		}
		if sum != known.rest.left || len(known.rest.zones)+there() != len(zones) {
			t.Fatalf("%d zones of %d octets are left, and %d octets are said to be", len(known.rest.zones), sum, known.rest.left)
		}
		return sum
	}
	before, looked := left(), known.began
	check(t, takeAll(take, left, before))
	if known.rest != nil || there() != len(zones) {
		t.Fatalf("%d are there, of %d", there(), len(zones))
	}
	if known.began != looked {
		t.Error("all zones were looked at again")
	}
	check(t, dir.Remove(release.BlobName(lost.SHA256)))
	known.took = time.Hour
	known.Doubt()
	check(t, take())
	if dir.HasBlob(lost) {
		t.Fatal("all are looked at again, which takes an hour, and was done just now")
	}
	known.took = 0
	known.Doubt()
	for err := ErrUnfinished; err != nil; {
		if err = take(); err != nil && !errors.Is(err, ErrUnfinished) {
			t.Fatal(err)
		}
	}
	if !dir.HasBlob(lost) {
		t.Error("what was lost does not come")
	}
}

// takeAll takes until all has come. Less must be left each time.
func takeAll(take func() error, left func() int64, before int64) error {
	for {
		err := take()
		if !errors.Is(err, ErrUnfinished) {
			return err
		}
		if now := left(); now >= before {
			return fmt.Errorf("%d octets are left after %d", now, before)
		} else {
			before = now
		}
	}
}

// TestWhatIsLeftIsOfOneManifest: what a newer one has is found out anew.
func TestWhatIsLeftIsOfOneManifest(t *testing.T) {
	h := newHost(t)
	zones := func(serial uint32) []release.Zone { return h.zones(12*atOnce, serial, 40) }
	h.m.Current = &release.Release{Number: 1, Switchover: testNow, Zones: zones(1)}
	h.put()
	server := httptest.NewServer(h.dir.Handler())
	defer server.Close()
	dir, start, known := newDir(t), h.root(), new(Known)
	mem := start
	take := func(budget time.Duration) (err error) {
		source := Source{Client: server.Client(), URL: server.URL, Known: known, Budget: budget}
		_, mem, _, err = Look(t.Context(), source.Client, source.URL, mem, dir).Take(t.Context(), source, dir, mem)
		return err
	}
	if err := take(time.Nanosecond); !errors.Is(err, ErrUnfinished) {
		t.Fatalf("error %v", err)
	}
	h.m.Current = &release.Release{Number: 2, Switchover: testNow, Zones: zones(2)}
	h.put()
	check(t, take(0))
	if got := serves(t, dir, start); got != 2 {
		t.Errorf("release %d", got)
	}
}
