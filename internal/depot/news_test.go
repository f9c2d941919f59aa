package depot

import (
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// telling is a server of a host's repository that holds requests, and counts those that were not answered with news.
type telling struct {
	*host
	url    string
	asked  []string
	meddle func(n *News)  // with what is told; nil: nobody does
	has    release.Digest // the manifest that who asks has
}

func newTelling(t *testing.T) *telling {
	h := &telling{host: newHost(t)}
	holder := NewHolder(t.Context(), h.dir, 5*time.Millisecond)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(preferHeader) == "" {
			h.asked = append(h.asked, r.URL.Path)
		}
		holder.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	h.url = s.URL
	return h
}

// news asks for what is new to who has a timestamp and roots up to one.
func (h *telling) news(timestamp []byte, root int64) *News {
	h.t.Helper()
	request, err := http.NewRequest(http.MethodGet, h.url+"/"+release.TimestampName, nil)
	check(h.t, err)
	PreferWait(request, TimestampTag(timestamp), 10*time.Millisecond)
	PreferNews(request, root, h.has)
	response, err := http.DefaultClient.Do(request)
	check(h.t, err)
	defer response.Body.Close()
	if !Waits(response) {
		h.t.Error("it is not said that the request was held")
	}
	told, err := ReadNews(response)
	check(h.t, err)
	if told != nil && h.meddle != nil {
		h.meddle(told)
	}
	return told
}

// follow has a node that was told of what is new take it, and reports what it asked for besides.
func (h *telling) follow(n *node, told *News) (asked []string) {
	h.t.Helper()
	h.asked = nil
	found := LookWith(h.t.Context(), http.DefaultClient, h.url, n.mem, n.dir, told)
	check(h.t, found.Err())
	_, mem, _, err := found.Take(h.t.Context(), Source{Client: http.DefaultClient, URL: h.url}, n.dir, n.mem)
	check(h.t, err)
	n.mem = mem
	return slices.DeleteFunc(h.asked, func(path string) bool { return strings.HasPrefix(path, "/blobs/") })
}

// TestNewsNeedNoFurtherQuestion: a look by what was told asks for zones alone, also when the root is another; it takes what a look without would, and
// who has all is told nothing.
func TestNewsNeedNoFurtherQuestion(t *testing.T) {
	h := newTelling(t)
	h.release(1, 1000)
	n := newNode(t, h.host)
	n.mem = h.root()
	root := int64(1)
	for i, change := range []func(){func() {}, func() { h.release(2, 1000) }, h.renew, h.rotate, h.renew, func() { h.rotate(); h.release(3, 1000) }} {
		change()
		told := h.news(n.mem.Timestamp, root)
		if told == nil {
			t.Fatalf("change %d: nothing was told", i)
		}
		if asked := h.follow(n, told); len(asked) > 0 {
			t.Errorf("change %d: who was told all asked for %q", i, asked)
		}
		if root = told.Root; serves(t, n.dir, n.mem) != h.m.Current.Number || n.mem.TimestampVersion(n.mem.Timestamp) != h.mem.TimestampVersion(h.mem.Timestamp) {
			t.Fatalf("change %d: the node has not followed", i)
		}
		if told := h.news(n.mem.Timestamp, root); told != nil {
			t.Fatalf("change %d: who has all was told %v", i, told)
		}
	}
	if root != 3 {
		t.Errorf("root %d, want 3", root)
	}
}

// TestNewsComePacked: in fewer octets, and the same, to who takes that.
func TestNewsComePacked(t *testing.T) {
	h := newTelling(t)
	h.release(1, 1000)
	holder := NewHolder(t.Context(), h.dir, 5*time.Millisecond)
	answer := func(accepts string) (*News, *httptest.ResponseRecorder) {
		r := httptest.NewRequest(http.MethodGet, "/"+release.TimestampName, nil)
		PreferWait(r, `"another"`, time.Second)
		PreferNews(r, 1, release.Digest{})
		if accepts != packedCoding {
			r.Header.Set(acceptHeader, accepts)
		} else if got := r.Header.Get(acceptHeader); got != packedCoding {
			t.Errorf("who asks for news takes %q", got)
		}
		w := httptest.NewRecorder()
		holder.ServeHTTP(w, r)
		told, err := ReadNews(w.Result())
		check(t, err)
		return told, w
	}
	long, plain := answer("gzip")
	short, less := answer(packedCoding)
	if plain.Header().Get(codingHeader) != "" || less.Header().Get(codingHeader) != packedCoding || less.Body.Len() > plain.Body.Len()*3/4 {
		t.Errorf("%d octets in %q, and %d", less.Body.Len(), less.Header().Get(codingHeader), plain.Body.Len())
	}
	if short == nil || !reflect.DeepEqual(short, long) {
		t.Error("other news are told")
	}
}

// TestNewsAreNotBelieved: whatever is told, a node takes what is signed; where that does not do, or not all of it came, it asks as ever.
func TestNewsAreNotBelieved(t *testing.T) {
	for name, meddle := range map[string]func(n *News){
		"nothing":         func(n *News) { n.Files = nil },
		"half of it":      func(n *News) { n.Files = n.Files[:2] },
		"another file":    func(n *News) { n.Files[1].Data = []byte("{}") },
		"an octet":        func(n *News) { n.Files[3].Data[10] ^= 1 },
		"that no root is": func(n *News) { n.Root = 1; n.Files = n.Files[:4] },
		"a root that is not": func(n *News) {
			n.Root = 9
			n.Files = append(n.Files, release.File{Name: release.RootName(3), Data: []byte("{}")})
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newTelling(t)
			h.release(1, 1000)
			n := newNode(t, h.host)
			h.follow(n, nil)
			h.rotate()
			h.release(2, 1000)
			h.meddle = meddle
			if asked := h.follow(n, h.news(n.mem.Timestamp, 1)); len(asked) == 0 {
				t.Error("it asked for nothing")
			}
			if got := serves(t, n.dir, h.root()); got != 2 {
				t.Errorf("release %d, want 2", got)
			}
		})
	}
	t.Run("what was before", func(t *testing.T) {
		h := newTelling(t)
		h.release(1, 1000)
		n := newNode(t, h.host)
		old := h.news(nil, 1)
		h.release(2, 1000)
		h.follow(n, nil)
		h.follow(n, old)
		if got := serves(t, n.dir, h.root()); got != 2 {
			t.Errorf("release %d, want 2", got)
		}
	})
}

// TestNewsAreWhatTheAskerDoesNotHave: a lease is told without the manifest that it is for, also where that is more than an answer brings; to who has
// another, or does not say, the manifest is told.
func TestNewsAreWhatTheAskerDoesNotHave(t *testing.T) {
	h := newTelling(t)
	h.release(1, 1000)
	n := newNode(t, h.host)
	n.mem = h.root()
	manifest := func(told *News) string {
		t.Helper()
		if told == nil {
			return "nothing was told"
		}
		for _, f := range told.Files {
			if strings.HasSuffix(f.Name, ".mesh.json") {
				return f.Name
			}
		}
		return ""
	}
	now := func() string { return release.ManifestName(release.DigestOf(h.mem.Manifest)) }
	follow := func(told *News) {
		t.Helper()
		if asked := h.follow(n, told); len(asked) > 0 {
			t.Errorf("it asked for %q", asked)
		}
		h.has = release.DigestOf(n.mem.Manifest)
	}
	told := h.news(nil, 1)
	if got := manifest(told); got != now() {
		t.Errorf("who has nothing: %s", got)
	}
	follow(told)
	for range 2 {
		h.renew()
		if told = h.news(n.mem.Timestamp, 1); manifest(told) != "" {
			t.Errorf("a lease: %s", manifest(told))
		}
		follow(told)
	}
	h.release(2, 1000)
	if told = h.news(n.mem.Timestamp, 1); manifest(told) != now() {
		t.Errorf("a release: %s", manifest(told))
	}
	follow(told)
	for i := range 9000 {
		h.m.Members = append(h.m.Members, release.Member{Name: fmt.Sprintf("m%05d", i), Admin: "https://192.0.2.1:8443", Keys: []release.Digest{{1}}})
	}
	h.release(3, 1000)
	if told = h.news(n.mem.Timestamp, 1); told != nil {
		t.Errorf("a manifest of %d octets is told", len(h.mem.Manifest))
	}
	h.follow(n, nil)
	h.has = release.DigestOf(n.mem.Manifest)
	h.renew()
	if told = h.news(n.mem.Timestamp, 1); manifest(told) != "" {
		t.Errorf("a lease: %s", manifest(told))
	}
	follow(told)
	if got := serves(t, n.dir, n.mem); got != 3 || n.mem.TimestampVersion(n.mem.Timestamp) != h.mem.TimestampVersion(h.mem.Timestamp) {
		t.Errorf("release %d", got)
	}
}

// TestAParameterIsRead of the preference that has it.
func TestAParameterIsRead(t *testing.T) {
	for header, want := range map[string]string{
		"wait=1, news=2; manifest=ab": "ab", "news=2;manifest=\"ab\";x=1": "ab", "NEWS=2 ; x ; Manifest = ab": "ab", "wait=1; manifest=ab, news=2": "", "news=2": "", "": "",
	} {
		if got := parameter([]string{header}, newsToken, manifestParam); got != want {
			t.Errorf("%q: %q", header, got)
		}
	}
}

// TestNewsAreForWhoAsks: others get the timestamp, as do those whose roots are none, or to whom too much is new.
func TestNewsAreForWhoAsks(t *testing.T) {
	h := newTelling(t)
	h.release(1, 1000)
	for _, prefer := range []string{"wait=0", "wait=0, news", "wait=0, news=x", "wait=0, news=0", "news=1"} {
		request, err := http.NewRequest(http.MethodGet, h.url+"/"+release.TimestampName, nil)
		check(t, err)
		request.Header.Set(preferHeader, prefer)
		response, err := http.DefaultClient.Do(request)
		check(t, err)
		if told, err := ReadNews(response); told != nil || err != nil || response.StatusCode != http.StatusOK || response.Header.Get("ETag") != TimestampTag(h.mem.Timestamp) {
			t.Errorf("%s: %v, %v, %v", prefer, told, err, response)
		}
		response.Body.Close()
	}
	for range maxNewsRoots + 1 {
		h.rotate()
	}
	if told := h.news(nil, 1); told != nil {
		t.Errorf("%d files were told", len(told.Files))
	}
	if told := h.news(nil, 2); told == nil || told.Root != maxNewsRoots+2 {
		t.Errorf("%d roots: told %v", maxNewsRoots, told != nil)
	}
}

// slowStore counts how often roots are read, and holds who opens a snapshot until free is closed.
type slowStore struct {
	Store
	roots atomic.Int32
	began chan struct{} // closed when somebody is held
	once  sync.Once
	free  chan struct{} // nil: nobody is held
}

func (s *slowStore) Read(name string, max int64) ([]byte, Tag, error) {
	if strings.HasSuffix(name, ".root.json") {
		s.roots.Add(1)
	}
	return s.Store.Read(name, max)
}

func (s *slowStore) Open(name string) (fs.File, error) {
	if strings.HasSuffix(name, ".snapshot.json") && s.free != nil {
		s.once.Do(func() { close(s.began) })
		<-s.free
	}
	return s.Store.Open(name)
}

// TestWhatCannotBeToldKeepsNobodyWaiting: where too much is new, that is found once and not for each who asks; and while one waits for a repository
// that does not answer, others get the timestamp.
func TestWhatCannotBeToldKeepsNobodyWaiting(t *testing.T) {
	h := newTelling(t)
	h.release(1, 1000)
	for range maxNewsRoots + 1 {
		h.rotate()
	}
	serve := func(repo Store) {
		holder := NewHolder(t.Context(), repo, 5*time.Millisecond)
		holder.look(time.Now()) // as for a request that is held
		s := httptest.NewServer(holder)
		t.Cleanup(s.Close)
		h.url = s.URL
	}
	counts := &slowStore{Store: h.dir}
	serve(counts)
	first := int32(0)
	for i := range 3 {
		if told := h.news(nil, 1); told != nil {
			t.Fatalf("%d files were told", len(told.Files))
		}
		if n := counts.roots.Load(); i == 0 {
			first = n
		} else if n != first {
			t.Errorf("question %d: roots were read %d times, %d for the first one", i+1, n, first)
		}
	}
	if first == 0 {
		t.Error("nothing was read")
	}

	hangs := &slowStore{Store: h.dir, began: make(chan struct{}), free: make(chan struct{})}
	serve(hangs)
	done := make(chan struct{})
	go func() { defer close(done); h.news(nil, 3) }()
	<-hangs.began
	if told := h.news(nil, 3); told != nil {
		t.Errorf("%d files were told", len(told.Files))
	}
	close(hangs.free)
	<-done
	if told := h.news(nil, 3); told == nil {
		t.Error("nothing is told any more")
	}
}

// TestNewsThatDoNotEndAreCutOff, as is an answer without news that does not end.
func TestNewsThatDoNotEndAreCutOff(t *testing.T) {
	for applied, refused := range map[string]bool{"wait=1, news=1": true, "wait=1": false, "": false} {
		read := 0
		body := reader(func(p []byte) (int, error) { read += len(p); return len(p), nil })
		told, err := ReadNews(&http.Response{StatusCode: http.StatusOK, Header: http.Header{appliedHeader: {applied}}, Body: io.NopCloser(body)})
		if told != nil || (err != nil) != refused || read > 4*maxNews {
			t.Errorf("%q: %d octets were read: %v, %v", applied, read, told, err)
		}
	}
}

type reader func(p []byte) (int, error)

func (r reader) Read(p []byte) (int, error) { return r(p) }

// FuzzNews: whatever a server tells, it is read within bounds, and has files of a look only, each once.
func FuzzNews(f *testing.F) {
	h := newHost(f)
	n, err := newsOf(h.dir, 1)
	check(f, err)
	good, err := json.Marshal(n)
	check(f, err)
	f.Add(good)
	for _, s := range []string{"", "{}", `{"root":1}`, `{"root":1,"files":[{"name":"metadata/timestamp.json","data":"e30="},{"name":"metadata/timestamp.json","data":"e30="}]}`,
		`{"root":1,"files":[{"name":"../../etc/passwd","data":""}]}`, `{"root":1,"files":[{"name":"blobs/sha256/` + strings.Repeat("0", 64) + `"}]}`, `{"root":1} 2`, `{"root":1,"more":2}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		told, err := parseNews(data)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		for _, file := range told.Files {
			if seen[file.Name] || !known.MatchString(file.Name) || strings.Contains(file.Name, "blobs") || int64(len(file.Data)) > release.MaxBytes(file.Name) {
				t.Fatalf("%+v", file)
			}
			seen[file.Name] = true
		}
	})
}
