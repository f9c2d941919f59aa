package depot

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// manyZones are so many zones that share a text.
func (h *host) manyZones(n int, serial uint32) []release.Zone {
	one := h.zone("example.", serial, 100)
	zones := make([]release.Zone, n)
	for i := range zones {
		zones[i] = one
		zones[i].Origin = fmt.Sprintf("z%06d.example.", i)
	}
	return zones
}

// withNext stages a release of which every so-manieth zone is another than in the current one.
func (h *host) withNext(number uint64, every int) []release.Zone {
	zones := h.m.Current.List()
	for i := every / 2; i < len(zones); i += every {
		was := zones[i].Origin
		zones[i] = h.zone(was, uint32(number), 100)
	}
	h.m.Next = &release.Release{Number: number, Zones: zones}
	return zones
}

// put publishes the manifest, and returns the files.
func (h *host) put() []release.File {
	h.t.Helper()
	files, mem, err := release.Publish(h.mem, h.m, h.keys.Signers(), ends())
	check(h.t, err)
	check(h.t, publish(h.dir, files))
	h.mem = mem
	return files
}

// lying serves a repository, but for what it lies about, and notes what it was asked for.
type lying struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string
	lie   func(w http.ResponseWriter, name string) bool
}

func newLying(h *host) *lying {
	l := &lying{}
	l.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		name := strings.TrimPrefix(r.URL.Path, "/")
		l.mu.Lock()
		l.asked = append(l.asked, name)
		lie := l.lie
		l.mu.Unlock()
		if lie == nil || !lie(w, name) {
			h.dir.Handler().ServeHTTP(w, r)
		}
	}))
	h.t.Cleanup(l.Close)
	return l
}

// nodes are how many nodes of trees were asked for since the last call.
func (l *lying) nodes() (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range l.asked {
		if release.IsNode(name) {
			n++
		}
	}
	l.asked = nil
	return n
}

func (l *lying) lies(lie func(w http.ResponseWriter, name string) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lie = lie
}

// TestTreesAreMirrored: what a release changes of its tree is fetched, several nodes at a time; what is damaged in the depot is fetched anew, by a look
// that reads all through and by a process that has just started, and nothing else is.
func TestTreesAreMirrored(t *testing.T) {
	h := newHost(t)
	h.m.Current = &release.Release{Number: 1, Switchover: testNow, Zones: h.manyZones(2000, 1)}
	all := h.put()
	server, dir, known, mem := newLying(h), newDir(t), new(Known), h.root()
	take := func(deep bool) {
		t.Helper()
		source := Source{Client: server.Client(), URL: server.URL, Deep: deep, Known: known}
		_, next, _, err := Look(t.Context(), source.Client, source.URL, mem, dir).Take(t.Context(), source, dir, mem)
		check(t, err)
		mem = next
	}
	verified := func() release.View {
		t.Helper()
		view, _, err := release.Verify(dir, h.root())
		check(t, err)
		return view
	}
	take(false)
	if n := server.nodes(); n != len(all)-4 {
		t.Fatalf("%d nodes were asked for, there are %d", n, len(all)-4)
	}
	h.withNext(2, 1000)
	fresh := h.put()
	take(false)
	if n := server.nodes(); n != len(fresh)-4 || n > 8 || verified().Manifest.Next.Len() != 2000 {
		t.Fatalf("%d nodes were asked for, %d are new", n, len(fresh)-4)
	}
	for _, cold := range []bool{false, true} {
		for n, damage := range []func(path string) error{
			os.Remove,
			func(path string) error { return os.Truncate(path, 0) },
			func(path string) error { return os.WriteFile(path, []byte("[]\n"), 0o644) },
			func(path string) error { os.Remove(path); return syscall.Mkfifo(path, 0o644) },
		} {
			check(t, damage(filepath.Join(dir.Path(), fresh[n%(len(fresh)-4)].Name)))
			if _, _, err := release.Verify(dir, h.root()); err == nil {
				t.Fatal("the damage was not seen")
			}
			if cold {
				data, err := mem.Encode()
				check(t, err)
				mem, err = release.ParseMemory(data)
				check(t, err)
				known = new(Known)
			}
			take(!cold)
			if n := server.nodes(); n != 1 {
				t.Errorf("cold %v: %d nodes were asked for, one was damaged", cold, n)
			}
			verified()
		}
	}
}

// TestNodesOfAHostileMirror are refused by rule, and what the depot holds stays what it was. What does not end is read to its bound.
func TestNodesOfAHostileMirror(t *testing.T) {
	h := newHost(t)
	h.m.Current = &release.Release{Number: 1, Switchover: testNow, Zones: h.manyZones(500, 1)}
	first := h.put()
	server, dir, mem := newLying(h), newDir(t), h.root()
	source := Source{Client: server.Client(), URL: server.URL, Known: new(Known)}
	_, mem, _, err := Look(t.Context(), source.Client, source.URL, mem, dir).Take(t.Context(), source, dir, mem)
	check(t, err)
	h.withNext(2, 100)
	files := h.put()
	node := slices.MaxFunc(files[:len(files)-4], func(a, b release.File) int { return cmp.Compare(len(a.Data), len(b.Data)) })
	endless := func(w http.ResponseWriter, begin string, chunk []byte) {
		for _, err := w.Write([]byte(begin)); err == nil; _, err = w.Write(chunk) {
		}
	}
	forever := func(w http.ResponseWriter, begin string, chunk []byte) {
		w.Header().Set(codingHeader, packedCoding)
		endless(w, begin, chunk)
	}
	inCoding := func(coding string, content ...[]byte) func(w http.ResponseWriter) {
		return func(w http.ResponseWriter) {
			w.Header().Set(codingHeader, coding)
			w.Write(slices.Concat(content...))
		}
	}
	good := packed(node.Data)
	for name, c := range map[string]struct {
		rule release.Rule
		lie  func(w http.ResponseWriter)
	}{
		"packed, another node":   {release.Mismatch, inCoding(packedCoding, packed(first[0].Data))},
		"packed, a part":         {release.Unreadable, inCoding(packedCoding, good[:len(good)-5])},
		"packed, an octet":       {release.Unreadable, inCoding(packedCoding, good[:20], []byte{good[20] ^ 1}, good[21:])},
		"packed, and more":       {release.Unreadable, inCoding(packedCoding, good, []byte("more"))},
		"packed, twice":          {release.Mismatch, inCoding(packedCoding, good, good)},
		"packed, nothing":        {release.Mismatch, inCoding(packedCoding)},
		"not packed, it is said": {release.Unreadable, inCoding(packedCoding, node.Data)},
		"a coding not asked for": {release.Unreadable, inCoding("gzip", good)},
		"packed twice":           {release.Unreadable, inCoding("zstd, zstd", good)},
		"a bomb":                 {release.Oversize, inCoding(packedCoding, packed(make([]byte, 64<<20)))},
		"a large window":         {release.Unreadable, inCoding(packedCoding, []byte("\x28\xb5\x2f\xfd\x00\xff\x01\x00\x00"))},
		"endless blocks of none": {release.Unreadable, func(w http.ResponseWriter) {
			forever(w, "\x28\xb5\x2f\xfd\x00\x58", make([]byte, 3*10_000))
		}},
		"endless frames of none": {release.Unreadable, func(w http.ResponseWriter) {
			forever(w, "", bytes.Repeat([]byte("\x50\x2a\x4d\x18\x00\x00\x00\x00"), 10_000))
		}},
		"nothing":      {release.Missing, func(w http.ResponseWriter) { w.WriteHeader(http.StatusNotFound) }},
		"an error":     {release.Unreadable, func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) }},
		"another node": {release.Mismatch, func(w http.ResponseWriter) { w.Write(first[0].Data) }},
		"a part":       {release.Mismatch, func(w http.ResponseWriter) { w.Write(node.Data[:10]) }},
		"one more":     {release.Mismatch, func(w http.ResponseWriter) { w.Write(append(bytes.Clone(node.Data), 0)) }},
		"endless":      {release.Oversize, func(w http.ResponseWriter) { endless(w, "x", bytes.Repeat([]byte("x"), 1<<20)) }},
	} {
		server.lies(func(w http.ResponseWriter, asked string) bool {
			if asked == node.Name {
				c.lie(w)
			}
			return asked == node.Name
		})
		found := Look(t.Context(), source.Client, source.URL, mem, dir)
		if rule, _ := release.RuleOf(found.Err()); rule != c.rule {
			t.Errorf("%s: %v, want %s", name, found.Err(), c.rule)
		}
		_, after, wrote, err := found.Take(t.Context(), source, dir, mem)
		if err == nil || wrote || !bytes.Equal(after.Timestamp, mem.Timestamp) {
			t.Errorf("%s: wrote %v: %v", name, wrote, err)
		}
		view, _, err := release.Verify(dir, h.root())
		check(t, err)
		if view.Manifest.Current.Number != 1 || view.Manifest.Next != nil {
			t.Errorf("%s: the depot holds %v", name, view)
		}
	}
	server.lies(nil)
	if _, _, _, err := Look(t.Context(), source.Client, source.URL, mem, dir).Take(t.Context(), source, dir, mem); err != nil {
		t.Error(err)
	}
}

// TestNodesComePacked: in fewer octets than they have, to who takes that, and as they are to all others and from other servers. They are the same.
func TestNodesComePacked(t *testing.T) {
	h := newHost(t)
	h.m.Current = &release.Release{Number: 1, Switchover: testNow, Zones: h.manyZones(2000, 1)}
	files := h.put()
	var came, are atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := httptest.NewRecorder()
		h.dir.Handler().ServeHTTP(answer, r)
		if name := strings.TrimPrefix(r.URL.Path, "/"); release.IsNode(name) {
			came.Add(int64(answer.Body.Len()))
			info, err := os.Stat(filepath.Join(h.dir.Path(), name))
			check(t, err)
			are.Add(info.Size())
			if length := answer.Header().Get("Content-Length"); length != strconv.Itoa(answer.Body.Len()) {
				t.Errorf("%s: %q octets are announced, %d are sent", name, length, answer.Body.Len())
			}
		}
		maps.Copy(w.Header(), answer.Header())
		w.WriteHeader(answer.Code)
		w.Write(answer.Body.Bytes())
	}))
	defer server.Close()
	static := httptest.NewServer(http.FileServer(http.Dir(h.dir.Path())))
	defer static.Close()
	for _, url := range []string{server.URL, static.URL} {
		dir := newDir(t)
		source := Source{Client: http.DefaultClient, URL: url}
		_, _, _, err := Look(t.Context(), source.Client, source.URL, h.root(), dir).Take(t.Context(), source, dir, h.root())
		check(t, err)
		for _, f := range files {
			if release.IsNode(f.Name) && !bytes.Equal(dir.node(f.Name), f.Data) {
				t.Errorf("%s: %s is another one", url, f.Name)
			}
		}
	}
	if came.Load() == 0 || came.Load() > are.Load()*3/4 {
		t.Errorf("%d octets came for %d", came.Load(), are.Load())
	}
	node := slices.MaxFunc(files[:len(files)-4], func(a, b release.File) int { return cmp.Compare(len(a.Data), len(b.Data)) })
	for accepts, coding := range map[string]string{"": "", "gzip": "", "gzip, ZSTD;q=0.5": packedCoding, "zstd;q=0": "", "zstd; q=0.000": "", "*": "", "zstd": packedCoding} {
		for _, part := range []string{"", "bytes=1-"} {
			r := httptest.NewRequest(http.MethodGet, "/"+node.Name, nil)
			r.Header.Set(acceptHeader, accepts)
			if r.Header.Set("Range", part); part == "" {
				r.Header.Del("Range")
			} else {
				coding = ""
			}
			w := httptest.NewRecorder()
			h.dir.Handler().ServeHTTP(w, r)
			data, err := readContent(w.Result(), release.MaxNodeBytes)
			if want := node.Data[min(1, len(part)):]; err != nil || w.Header().Get(codingHeader) != coding || !bytes.Equal(data, want) {
				t.Errorf("%q, range %q: in %q, %d octets, want %d: %v", accepts, part, w.Header().Get(codingHeader), len(data), len(want), err)
			}
		}
	}
}

// TestALookThatFailsIsGoneOnWith: over a line that is lost after each few nodes, a depot that has nothing comes to a tree which changes all the time,
// since what came stays. What is not as its name says does not.
func TestALookThatFailsIsGoneOnWith(t *testing.T) {
	h := newHost(t)
	h.m.Current = &release.Release{Number: 1, Switchover: testNow, Zones: h.manyZones(500, 1)}
	all := len(h.put()) - 4
	server, dir, mem := newLying(h), newDir(t), h.root()
	source := Source{Client: server.Client(), URL: server.URL, Known: new(Known)}
	var came atomic.Int64
	server.lies(func(w http.ResponseWriter, name string) bool {
		if !release.IsNode(name) {
			return false
		}
		if came.Add(1)%20 == 0 {
			w.Write([]byte("[]\n"))
			return true
		}
		return false
	})
	for looks, asked := 1, 0; ; looks++ {
		found := Look(t.Context(), source.Client, source.URL, mem, dir)
		asked += server.nodes()
		_, next, wrote, err := found.Take(t.Context(), source, dir, mem)
		if err == nil {
			if looks < 3 || asked > all+looks*(atOnce+8) {
				t.Errorf("%d nodes in %d looks, %d are in a tree", asked, looks, all)
			}
			break
		}
		if wrote || looks == 20 {
			t.Fatalf("look %d: wrote %v: %v", looks, wrote, err)
		}
		mem = next
		h.withNext(uint64(looks+1), 400)
		h.put()
	}
	entries, err := dir.List("targets")
	check(t, err)
	for _, e := range entries {
		if name := "targets/" + e.Name; release.IsNode(name) && dir.node(name) == nil {
			t.Errorf("%s is not what its name says", name)
		}
	}
}

// TestALookLeavesWhatCameWhileItGoesOn: of a large tree most is in the depot while a server keeps the last node back, so that a process that is killed then asks
// for the rest alone.
func TestALookLeavesWhatCameWhileItGoesOn(t *testing.T) {
	h := newHost(t)
	h.m.Current = &release.Release{Number: 1, Switchover: testNow, Zones: h.manyZones(4000, 1)}
	files := h.put()
	all, last := len(files)-4, files[len(files)-5].Name
	server, dir, killed, held := newLying(h), newDir(t), make(chan struct{}), atomic.Bool{}
	server.lies(func(w http.ResponseWriter, name string) bool {
		if name == last && !held.Swap(true) {
			<-killed
		}
		return false
	})
	defer close(killed)
	ctx, kill := context.WithCancel(t.Context())
	defer kill()
	ended := make(chan *Found)
	apart := mustOpen(t, dir.Path())
	go func() { ended <- Look(ctx, server.Client(), server.URL, h.root(), apart) }()
	for end := time.Now().Add(time.Minute); len(nodesIn(t, dir)) < all/keepNodes*keepNodes-keepNodes; time.Sleep(10 * time.Millisecond) {
		select {
		case found := <-ended:
			t.Fatalf("the look is over: %v", found.Err())
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("%d nodes of %d are there", len(nodesIn(t, dir)), all)
		}
	}
	left := newDir(t) // as it is then
	for name := range nodesIn(t, dir) {
		data, err := fs.ReadFile(dir, name)
		check(t, err)
		check(t, os.WriteFile(filepath.Join(left.Path(), name), data, 0o644))
	}
	there := len(nodesIn(t, left))
	kill()
	<-ended
	server.nodes()
	source, mem := Source{Client: server.Client(), URL: server.URL}, h.root()
	_, _, _, err := Look(t.Context(), source.Client, source.URL, mem, left).Take(t.Context(), source, left, mem)
	check(t, err)
	if n := server.nodes(); n != all-there {
		t.Errorf("%d nodes were asked for, and %d of %d were there", n, there, all)
	}
}

// TestLooksThatFailForLongLeaveNoMoreAndMore: what they leave goes in time, but for what is needed and what is young; and beyond a bound they leave nothing,
// also where nothing was verified yet.
func TestLooksThatFailForLongLeaveNoMoreAndMore(t *testing.T) {
	h := newHost(t)
	h.m.Current = &release.Release{Number: 1, Switchover: testNow, Zones: h.manyZones(300, 1)}
	h.put()
	server, dir, known, start := newLying(h), newDir(t), new(Known), h.root()
	source := Source{Client: server.Client(), URL: server.URL, Known: known}
	_, mem, _, err := Look(t.Context(), source.Client, source.URL, start, dir).Take(t.Context(), source, dir, start)
	check(t, err)
	needed := nodesIn(t, dir)
	fail := func(mem release.Memory, d *Dir) {
		t.Helper()
		files := h.put()
		lost := files[len(files)-5].Name // a leaf that is new
		server.lies(func(w http.ResponseWriter, name string) bool {
			if name == lost {
				w.WriteHeader(http.StatusNotFound)
			}
			return name == lost
		})
		found := Look(t.Context(), source.Client, source.URL, mem, d)
		if _, _, _, err := found.Take(t.Context(), source, d, mem); ruleOf(err) != release.Missing {
			t.Fatalf("a node is not there: %v", err)
		}
	}
	for number := uint64(2); number < 6; number++ {
		h.withNext(number, 20)
		fail(mem, dir)
	}
	left := nodesIn(t, dir)
	if len(left) < len(needed)+8 {
		t.Fatalf("%d nodes are left, of a tree of %d", len(left), len(needed))
	}
	for name := range left {
		check(t, os.Chtimes(filepath.Join(dir.Path(), name), time.Time{}, time.Now().Add(-2*nodeGrace)))
	}
	h.withNext(6, 20)
	fail(mem, dir)
	if n := len(nodesIn(t, dir)); n < len(left) {
		t.Errorf("%d nodes are left: they go before it is time", n)
	}
	known.due = time.Now()
	h.withNext(7, 20)
	fail(mem, dir)
	after := nodesIn(t, dir)
	for name := range after {
		if !needed[name] && left[name] {
			t.Errorf("%s is left of a look of long ago", name)
		}
	}
	for name := range needed {
		if !after[name] {
			t.Fatalf("%s was needed", name)
		}
	}
	if len(after) == len(needed) {
		t.Error("what the last looks have left is gone")
	}
	if _, _, err := release.Verify(dir, start); err != nil {
		t.Error(err)
	}

	full := newDir(t)
	huge := filepath.Join(full.Path(), release.NodeName(release.Digest{1}))
	check(t, os.WriteFile(huge, nil, 0o644))
	check(t, os.Truncate(huge, maxNodes))
	h.withNext(8, 20)
	if fail(start, full); len(nodesIn(t, full)) != 1 {
		t.Errorf("%d nodes are left where there are too many", len(nodesIn(t, full))-1)
	}
	check(t, os.Truncate(huge, maxNodes-1))
	h.withNext(9, 20)
	if fail(start, full); len(nodesIn(t, full)) == 1 {
		t.Error("nothing is left")
	}
}

// nodesIn are the nodes of trees that lie in a depot.
func nodesIn(t testing.TB, d *Dir) map[string]bool {
	t.Helper()
	entries, err := d.List("targets")
	check(t, err)
	all := map[string]bool{}
	for _, e := range entries {
		if name := "targets/" + e.Name; release.IsNode(name) {
			all[name] = true
		}
	}
	return all
}

// TestNodesOfARunThatFailedAreLookedAtAgain: a run gives some nodes of a new tree their names, and then fails, or the power does, which loses or damages some of
// them. The depot holds the old release until the next run, and then the new one, whole.
func TestNodesOfARunThatFailedAreLookedAtAgain(t *testing.T) {
	for what, lose := range map[string]func(path string) error{
		"nothing": func(string) error { return nil },
		"names":   os.Remove,
		"content": func(path string) error { return os.Truncate(path, 0) },
		"pages": func(path string) error {
			data, err := os.ReadFile(path)
			if err == nil {
				clear(data[len(data)/2:])
				err = os.WriteFile(path, data, 0o644)
			}
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			h := newHost(t)
			h.m.Current = &release.Release{Number: 1, Switchover: testNow, Zones: h.manyZones(300, 1)}
			h.put()
			server, dir, mem := newLying(h), newDir(t), h.root()
			source := Source{Client: server.Client(), URL: server.URL, Known: new(Known)}
			take := func() error {
				_, next, _, err := Look(t.Context(), source.Client, source.URL, mem, dir).Take(t.Context(), source, dir, mem)
				mem = next
				return err
			}
			check(t, take())
			for number := uint64(2); number < 5; number++ {
				zones := h.withNext(number, 30)
				var fresh []string
				for _, f := range h.put() {
					if release.IsNode(f.Name) {
						fresh = append(fresh, f.Name)
					}
				}
				before, mem2 := h.m.Next.Number-1, mem
				in := filepath.Join(dir.Path(), fresh[len(fresh)/2])
				check(t, os.MkdirAll(filepath.Join(in, "in the way"), 0o755))
				if err := take(); err == nil {
					t.Fatal("a node had no place, and nobody has noticed")
				}
				if view, _, err := release.Verify(dir, h.root()); err != nil || view.Manifest.Newest() != before {
					t.Fatalf("after the run that failed: %v, %v", view, err)
				}
				mem = mem2
				check(t, os.RemoveAll(in))
				came := 0
				for i, name := range fresh {
					if path := filepath.Join(dir.Path(), name); dir.node(name) != nil {
						if came++; i%2 == 0 {
							check(t, lose(path))
						}
					}
				}
				if came == 0 {
					t.Fatal("no node had its name when the run failed")
				}
				check(t, take())
				view, _, err := release.Verify(dir, h.root())
				check(t, err)
				if view.Manifest.Newest() != number || !slices.EqualFunc(view.Manifest.Next.List(), zones, func(a, b release.Zone) bool { return a.Content() == b.Content() }) {
					t.Fatalf("release %d: the depot holds %v", number, view)
				}
			}
		})
	}
}

// TestNodesStayForAWhile: who reads a tree while newer releases come finds it whole for as long as an hour.
func TestNodesStayForAWhile(t *testing.T) {
	h, known := newHost(t), new(Known)
	h.m.Current = &release.Release{Number: 1, Switchover: testNow, Zones: h.manyZones(300, 1)}
	collect := func(known *Known) {
		t.Helper()
		view, mem, err := release.Restore(h.mem, h.dir)
		check(t, err)
		h.mem = mem
		check(t, known.Collect(h.dir, view))
	}
	h.put()
	collect(known)
	read := h.m
	for number := uint64(2); number < 6; number++ {
		h.withNext(number, 50)
		next := *h.m.Next
		next.Switchover = h.m.Current.Switchover.Add(time.Second)
		h.m.Current, h.m.Next = &next, nil
		h.put()
		collect(known)
	}
	collect(new(Known)) // of another process
	for name := range read.Nodes() {
		if h.dir.node(name) == nil {
			t.Fatalf("%s is gone", name)
		}
	}
	want := map[string]bool{}
	view, _, err := release.Restore(h.mem, h.dir)
	check(t, err)
	for _, m := range known.kept.manifests {
		for name := range m.Nodes() {
			want[name] = true
		}
	}
	if len(known.kept.manifests) != 2 || view.Manifest.Current.Number != 5 {
		t.Fatalf("%d manifests are kept", len(known.kept.manifests))
	}
	for name := range h.nodes() {
		check(t, os.Chtimes(filepath.Join(h.dir.Path(), name), time.Time{}, time.Now().Add(-nodeGrace)))
	}
	collect(known)
	if len(h.nodes()) == len(want) {
		t.Error("nodes go one by one")
	}
	known.swept = time.Now().Add(-sweepEvery)
	collect(known)
	if left := h.nodes(); !maps.Equal(left, want) {
		t.Errorf("%d nodes are left, %d are needed", len(left), len(want))
	}
}

// nodes are the nodes of trees that lie in the repository.
func (h *host) nodes() map[string]bool { return nodesIn(h.t, h.dir) }

// TestWhatWasCollectedIsNotTakenForThere: metadata comes alone (from a member) for a while, and with it what a zone was made of goes; then the
// zone is again what it was.
func TestWhatWasCollectedIsNotTakenForThere(t *testing.T) {
	h := newHost(t)
	zones := h.manyZones(100, 1)
	zones[30] = h.zone(zones[30].Origin, 7, 100)
	h.m.Current = &release.Release{Number: 1, Switchover: testNow, Zones: zones}
	h.put()
	server, dir, mem := newLying(h), newDir(t), h.root()
	source := Source{Client: server.Client(), URL: server.URL, Known: new(Known)}
	take := func(metadata bool) {
		t.Helper()
		source.Metadata = metadata
		_, next, _, err := Look(t.Context(), source.Client, source.URL, mem, dir).Take(t.Context(), source, dir, mem)
		check(t, err)
		mem = next
	}
	take(false)
	for number := uint64(2); number < 5; number++ {
		other := slices.Clone(zones)
		other[30] = h.zone(zones[30].Origin, uint32(number)+7, 100)
		h.m.Current = &release.Release{Number: number, Switchover: testNow.Add(time.Duration(number) * time.Second), Zones: other}
		h.put()
		take(true)
	}
	if dir.HasBlob(zones[30].Blob) {
		t.Fatal("nothing was collected")
	}
	h.m.Current = &release.Release{Number: 5, Switchover: testNow.Add(time.Hour), Zones: zones}
	h.put()
	take(false)
	serves(t, dir, h.root())
}

// TestFewManifestsAreRemembered: each may name 100,000 zones.
func TestFewManifestsAreRemembered(t *testing.T) {
	dir, known := newDir(t), new(Known)
	for number := uint64(1); number < 10; number++ {
		m := release.Manifest{Current: &release.Release{Number: number}}
		all := known.lately(dir, m)
		if want := min(int(number), 3); len(all) != want || len(known.lately(dir, m)) != want || all[want-1].Newest() != number || all[0].Newest() != number-uint64(want)+1 {
			t.Fatalf("release %d: %d manifests", number, len(all))
		}
	}
}

// busy is a store in which another writer puts a blob while it is listed, which takes a while.
type busy struct {
	*Dir
	put func()
}

func (b busy) Grace() time.Duration { return 20 * time.Millisecond }

func (b busy) List(dir string) ([]Entry, error) {
	if dir == "targets" {
		b.put()
		time.Sleep(2 * b.Grace())
	}
	return b.Dir.List(dir)
}

// TestWhatIsPutWhileFilesAreListedStays, however long that takes.
func TestWhatIsPutWhileFilesAreListedStays(t *testing.T) {
	h := newHost(t)
	h.release(1, 100)
	view, _, err := release.Restore(h.mem, h.dir)
	check(t, err)
	var put Content
	store := busy{h.dir, func() {
		var err error
		put, err = h.dir.PutBlob(text("other.", 1, 100))
		check(t, err)
	}}
	check(t, new(Known).Collect(store, view))
	if !h.dir.HasBlob(put.Blob) {
		t.Error("it was removed, though it is young")
	}
}

// TestWhatIsCollectedByWhatIsKnown is what is collected by looking at all that there is, over a random history of releases with packs, deltas that zones
// share, and zones that have come back to files that they had.
func TestWhatIsCollectedByWhatIsKnown(t *testing.T) {
	for seed := range uint64(6) {
		r := rand.New(rand.NewPCG(seed, 1))
		h, known := newHost(t), new(Known)
		zones := make([]release.Zone, []int{10, 100}[seed%2])
		for i := range zones {
			zones[i] = h.zone(fmt.Sprintf("z%06d.example.", i), 1, 100)
		}
		h.m.Current = &release.Release{Number: 1, Switchover: testNow, Zones: zones}
		h.put()
		for number := uint64(2); number < 14; number++ {
			view, mem, err := release.Restore(h.mem, h.dir)
			check(t, err)
			h.mem = mem
			check(t, known.Collect(h.dir, view))
			there := h.allFiles()
			check(t, new(Known).Collect(h.dir, view))
			if left := h.allFiles(); !slices.Equal(there, left) {
				t.Fatalf("seed %d, release %d: %v were left, %v are needed", seed, number, there, left)
			}
			for k := range h.m.Releases() {
				for z := range k.All() {
					for _, p := range z.Packs {
						check(t, h.dir.CheckBlob(p.Blob))
					}
					for _, d := range z.Deltas {
						check(t, h.dir.CheckBlob(d.Blob))
					}
					check(t, h.dir.CheckBlob(z.Blob))
				}
			}
			switch what := r.IntN(4); {
			case h.m.Next != nil && what < 3:
				next := *h.m.Next
				next.Switchover = h.m.Current.Switchover.Add(time.Second)
				h.m.Current, h.m.Next = &next, nil
			default:
				h.change(r, number+100)
			}
			h.put()
		}
	}
}

// change stages a release in which a few zones have changed, have come and have gone; some by packs.
func (h *host) change(r *rand.Rand, number uint64) {
	zones := h.m.Current.List()
	if i := r.IntN(len(zones)); len(zones) > 5 {
		zones = slices.Delete(zones, i, i+1)
	}
	for _, i := range r.Perm(len(zones))[:3] { // what is stored is published, or only a sweep would find it
		was := zones[i]
		zones[i] = h.zone(was.Origin, uint32(number), 200*r.IntN(3)+100)
		if from := release.DigestOf(fmt.Append(nil, number)); r.IntN(2) == 0 && !slices.ContainsFunc(was.Packs, func(p release.Pack) bool { return p.From == from }) {
			c, err := h.dir.PutBlob(func(w io.Writer) error { _, err := io.WriteString(w, was.Origin+"p"); return err })
			check(h.t, err)
			zones[i].Root = release.DigestOf(fmt.Append(nil, number, i))
			zones[i].Packs = append(slices.Clone(was.Packs[max(0, len(was.Packs)-3):]), release.Pack{From: from, Length: c.Length, Blob: c.Blob})
		} else if r.IntN(2) == 0 {
			c, err := h.dir.PutBlob(func(w io.Writer) error { _, err := io.WriteString(w, deltaHead+"-1\n=1\n"); return err })
			check(h.t, err)
			zones[i].Deltas = []release.Delta{{From: was.SHA256, Blob: c.Blob}}
		}
		if r.IntN(3) == 0 {
			zones[r.IntN(len(zones))].Serial++ // one that shares its files
		}
	}
	h.m.Next = &release.Release{Number: number, Zones: zones}
}

func (h *host) allFiles() (all []string) {
	for _, dir := range []string{"metadata", "targets", blobDir} {
		entries, err := h.dir.List(dir)
		check(h.t, err)
		for _, e := range entries {
			all = append(all, dir+"/"+e.Name)
		}
	}
	return all
}

// counted counts the octets that a server sends and receives.
type counted struct {
	net.Listener
	octets *atomic.Int64
}

func (c counted) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	return countedConn{conn, c.octets}, err
}

type countedConn struct {
	net.Conn
	octets *atomic.Int64
}

func (c countedConn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.octets.Add(int64(n))
	return n, err
}

// BenchmarkAMirrorTakesTenZones is what a node's mirror does, and what is sent to it, for a release in which ten of many zones change: it is
// staged, proposed, committed and made current, which are four publications. "cpu-s/op" is the processor time of the mirror, "server-cpu-s/op" that of the
// server's process, and "first-cpu-s" that of the mirror for the first release after its start, which is none of the others.
func BenchmarkAMirrorTakesTenZones(b *testing.B) {
	for _, n := range []int{10_000, release.MaxZones} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { benchmarkMirror(b, n) })
	}
}

func benchmarkMirror(b *testing.B, n int) {
	h := newHost(b)
	zones := make([]release.Zone, n)
	for i := range zones {
		zones[i] = release.Zone{Origin: fmt.Sprintf("z%06d.example.org.", i), Serial: 1, SHA256: release.DigestOf(fmt.Append(nil, i)), Length: 200,
			Blob: release.Blob{SHA256: release.DigestOf(fmt.Append(nil, "packed", i)), Length: 1}}
	}
	dir := newDir(b)
	for i := range zones {
		check(b, os.WriteFile(filepath.Join(dir.Path(), release.BlobName(zones[i].Blob.SHA256)), []byte{0}, 0o644))
	}
	h.m.Current = &release.Release{Number: 1, Switchover: testNow, Zones: zones}
	files, mem, err := release.Publish(h.mem, h.m, h.keys.Signers(), ends())
	check(b, err)
	h.mem = mem
	for _, f := range files {
		check(b, os.WriteFile(filepath.Join(h.dir.Path(), f.Name), f.Data, 0o644))
		check(b, os.WriteFile(filepath.Join(dir.Path(), f.Name), f.Data, 0o644))
	}
	server := serveApart(b, h.dir)
	source := Source{Client: server.client, URL: server.url, Known: new(Known)}
	node := h.root()
	take := func() {
		_, next, _, err := Look(b.Context(), source.Client, source.URL, node, dir).Take(b.Context(), source, dir, node)
		check(b, err)
		node = next
	}
	take()
	number := uint64(1)
	once := func() (used time.Duration) {
		number++
		at := h.m.Current.Switchover.Add(time.Second)
		h.withNext(number, n/10)
		for step := range 4 {
			switch step {
			case 1, 2:
				next := *h.m.Next
				next.Switchover, next.Decide, next.Committed = at, at.Add(-time.Millisecond), step == 2
				h.m.Next = &next
			case 3:
				current := h.m.Next.Withdrawn()
				current.Switchover = at
				h.m.Current, h.m.Next = &current, nil
			}
			h.put()
			runtime.GC()
			used -= processorTime()
			take()
			used += processorTime()
		}
		return used
	}
	first := once()
	octets, served := server.used(b)
	b.ResetTimer()
	used := time.Duration(0)
	for range b.N {
		used += once()
	}
	octetsAfter, servedAfter := server.used(b)
	b.ReportMetric(float64(octetsAfter-octets)/float64(b.N), "octets/op")
	b.ReportMetric(used.Seconds()/float64(b.N), "cpu-s/op")
	b.ReportMetric(first.Seconds(), "first-cpu-s")
	b.ReportMetric((servedAfter-served).Seconds()/float64(b.N), "server-cpu-s/op")
}

// apart is a server in a process of its own.
type apart struct {
	client *http.Client
	url    string
	ask    io.Writer
	answer *bufio.Reader
}

// serveApart serves a depot until the benchmark ends.
func serveApart(b *testing.B, dir *Dir) *apart {
	same := httptest.NewTLSServer(nil) // its certificate is that of all such servers
	b.Cleanup(same.Close)
	cmd := exec.Command(os.Args[0])
	cmd.Env, cmd.Stderr = append(os.Environ(), crashJob+"=serve", crashDir+"="+dir.Path()), os.Stderr
	in, err := cmd.StdinPipe()
	check(b, err)
	out, err := cmd.StdoutPipe()
	check(b, err)
	check(b, cmd.Start())
	b.Cleanup(func() { in.Close(); cmd.Wait() })
	a := &apart{same.Client(), "", in, bufio.NewReader(out)}
	_, err = fmt.Fscanln(a.answer, &a.url)
	check(b, err)
	return a
}

// used is how many octets it has sent and received, and its processor time.
func (a *apart) used(b *testing.B) (octets int64, processor time.Duration) {
	_, err := io.WriteString(a.ask, "\n")
	check(b, err)
	_, err = fmt.Fscanln(a.answer, &octets, &processor)
	check(b, err)
	return octets, processor
}

// serveJob is the process of serveApart.
func serveJob(dir, _ string) error {
	d, err := Open(dir)
	if err != nil {
		return err
	}
	var octets atomic.Int64
	server := httptest.NewUnstartedServer(NewHolder(context.Background(), d, time.Minute))
	server.Listener = counted{server.Listener, &octets}
	server.StartTLS()
	fmt.Println(server.URL)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		fmt.Println(octets.Load(), int64(processorTime()))
	}
	return nil
}

// processorTime is what this process has taken.
func processorTime() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestATreeKilledAtAnyStepLeavesOldOrNewAndCanBeRepeated: nodes of the tree are there before what names them.
func TestATreeKilledAtAnyStepLeavesOldOrNewAndCanBeRepeated(t *testing.T) {
	h, first := newHost(t), newDir(t)
	h.m.Current = &release.Release{Number: 1, Switchover: testNow, Zones: h.manyZones(70, 1)}
	h.put()
	check(t, mirrorJob(first.Path(), h.dir.Path()))
	zones := h.m.Current.List()
	zones[30].Serial++
	h.m.Current = &release.Release{Number: 2, Switchover: testNow, Zones: zones}
	h.put()
	killedAtAnyStep(t, 2, serves, func(dir *Dir) *host {
		check(t, os.CopyFS(dir.Path(), os.DirFS(first.Path())))
		return h
	})
}
