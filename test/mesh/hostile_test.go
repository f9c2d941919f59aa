package mesh_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// kinds are the files of a repository, by what the node's host in this test is called whose network spoils them.
var kinds = map[string]*regexp.Regexp{
	"timestamp": regexp.MustCompile(`^metadata/timestamp\.json$`),
	"snapshot":  regexp.MustCompile(`^metadata/\d+\.snapshot\.json$`),
	"targets":   regexp.MustCompile(`^metadata/\d+\.targets\.json$`),
	"root":      regexp.MustCompile(`^metadata/\d+\.root\.json$`),
	"manifest":  regexp.MustCompile(`^targets/[0-9a-f]+\.mesh\.json$`),
	"blob":      regexp.MustCompile(`^blobs/sha256/[0-9a-f]+$`),
}

// fault is what a hostile network does to a file of the spoiled kind.
type fault struct {
	name  string
	harms bool // the file does not get through
	send  func(n *network, w http.ResponseWriter, r *http.Request, data []byte)
}

var networkFaults = []fault{
	{"truncated", true, func(_ *network, w http.ResponseWriter, _ *http.Request, data []byte) { w.Write(data[:len(data)/2]) }},
	{"cut off", true, func(_ *network, w http.ResponseWriter, _ *http.Request, data []byte) {
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		w.Write(data[:len(data)/2])
		panic(http.ErrAbortHandler)
	}},
	{"corrupt", true, func(_ *network, w http.ResponseWriter, _ *http.Request, data []byte) {
		data[len(data)/2] ^= 1
		w.Write(data)
	}},
	{"replayed", true, func(n *network, w http.ResponseWriter, _ *http.Request, _ []byte) { w.Write(n.fileOf(n.old)) }},
	{"of another mesh", true, func(n *network, w http.ResponseWriter, _ *http.Request, _ []byte) { w.Write(n.fileOf(n.other)) }},
	{"stalled", true, func(_ *network, _ http.ResponseWriter, r *http.Request, _ []byte) { <-r.Context().Done() }},
	{"delayed", false, func(_ *network, w http.ResponseWriter, r *http.Request, data []byte) {
		flush := http.NewResponseController(w).Flush
		for part := range 10 { // what passes for a line here
			w.Write(data[len(data)*part/10 : len(data)*(part+1)/10])
			flush()
			select {
			case <-r.Context().Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}},
}

// network is what lies between the repository and one node: a server with a certificate that the node trusts, which hands
// out the repository's files but for one kind.
type network struct {
	kind       string
	repository *depot.Dir
	old, other string // directories: the repository as it was, and that of another mesh

	mu    sync.Mutex
	fault *fault
}

func (n *network) set(f *fault) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.fault = f
}

// fileOf is a file of the spoiled kind from another directory.
func (n *network) fileOf(dir string) (data []byte) {
	filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if name, _ := filepath.Rel(dir, path); err == nil && kinds[n.kind].MatchString(name) {
			data, _ = os.ReadFile(path)
		}
		return nil
	})
	return data
}

func (n *network) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	f := n.fault
	n.mu.Unlock()
	name := strings.TrimPrefix(r.URL.Path, "/")
	if f == nil || !kinds[n.kind].MatchString(name) {
		n.repository.Handler().ServeHTTP(w, r)
		return
	}
	data, err := depot.ReadFile(n.repository.Path(), name, 64<<20)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	f.send(n, w, r, data)
}

// between puts a network between the repository and a node, and has the node go through it.
func (m *mesh) between(node string, port int) *network {
	m.t.Helper()
	repository, err := depot.Open(m.path("home", "repository"))
	m.must(err)
	n := &network{kind: node, repository: repository, old: m.path("old"), other: m.path("other", "repository")}
	server := &http.Server{Handler: n, TLSConfig: &tls.Config{Certificates: []tls.Certificate{m.pair("home", "pki", "", "host")}}}
	address := net.JoinHostPort("198.51.100.1", strconv.Itoa(port))
	var listener net.Listener
	m.within("dist", func() {
		listener, err = net.Listen("tcp", address)
		m.must(err)
	})
	go server.ServeTLS(listener, "", "")
	m.top.Cleanup(func() { server.Close(); repository.Close() })
	m.side[node].Kill()
	config := m.path(node, "sidecar.yaml")
	m.must(os.WriteFile(config, []byte(strings.Replace(readFile(config), "https://198.51.100.1:8443/", "https://"+address+"/", 1)), 0o644))
	m.startSidecar(node)
	return n
}

// TestHostileNetwork: between the repository and six nodes lie networks of which each spoils another kind of file, in every
// way. Nothing wrong is installed or answered, the node says which file it is and what is wrong with it, answers on, and
// catches up when the network is well again (DELIV-3, SYNC-D, FAIL-4).
func TestHostileNetwork(t *testing.T) {
	t.Parallel()
	nodes := []string{"timestamp", "snapshot", "targets", "root", "manifest", "blob"}
	m, _ := newServedMesh(t, "1h", "10m", nodes...)
	other := func(args ...string) {
		m.mustRun("dist", append([]string{m.bin + "/meshctl", "--home", m.path("other")}, args...)...)
	}
	other("init", "--mesh", "other", "--san", "198.51.100.1")
	other("release", "--now", m.world.write("other.zone", zoneText(1000)))
	copyTree(m, m.path("home", "repository"), m.path("old"), nil)
	networks := map[string]*network{}
	for i, node := range nodes {
		networks[node] = m.between(node, 9400+i)
	}
	genuine := map[string][][]byte{}
	for i := range networkFaults {
		f := &networkFaults[i]
		t.Run(f.name, m.sub(func(t *testing.T) { m.tryFault(networks, f, genuine) }))
	}
	m.schedule()
	for _, node := range nodes {
		m.awaitServing(node, m.number)
	}
}

// tryFault publishes a release, of which each node gets one kind of file spoiled, and then whole.
func (m *mesh) tryFault(networks map[string]*network, f *fault, genuine map[string][][]byte) {
	for _, node := range m.nodes {
		m.awaitFresh(node)
	}
	for _, n := range networks {
		n.set(f)
	}
	loads := map[string]*lab.Load{}
	for _, node := range m.nodes {
		loads[node] = m.load(node, shared4, 20*time.Millisecond)
	}
	keep := func() {
		copyTree(m, m.path("home", "repository"), m.path("genuine"), func(name string, data []byte) []byte {
			genuine[name] = append(genuine[name], data)
			return data
		})
	}
	keep()
	m.meshctl("keys", "rotate", "lease") // so that there is a new root too
	keep()
	m.release()
	keep()
	for _, node := range m.nodes {
		if f.harms && m.namesFault(node, f) {
			if n, _ := m.status(node); n.Confirms.Staged >= m.number {
				m.errorf("%s: %s is %s, and yet it has staged release %d", f.name, node, f.name, n.Confirms.Staged)
			}
		} else if !f.harms {
			m.awaitStaged(node, m.number)
		}
		m.onlyGenuine(node, genuine)
	}
	for _, n := range networks {
		n.set(nil)
	}
	for _, l := range loads {
		l.Stop()
	}
	for node, l := range loads {
		answers := l.End()
		for _, a := range answers {
			if !a.Answered() || a.Release != 1 {
				m.fatalf("%s: an answer is lost or from release %d: %+v", node, a.Release, a)
			}
		}
	}
	for _, node := range m.nodes {
		m.awaitStaged(node, m.number)
		m.eventually(30*time.Second, node+" is content again", func() (bool, string) { said := m.mirrorError(node); return said == "", said })
	}
}

// namesFault waits until the node says in its status, and in its log, which kind of file keeps it from following. It reports false if nothing does,
// since a member has given it the new root before it asked its own repository: that is read once, and goes on from there.
func (m *mesh) namesFault(node string, f *fault) bool {
	m.t.Helper()
	part := map[string]string{"manifest": ".mesh.json", "blob": "blobs/sha256/"}[node]
	if part == "" {
		part = node + ".json"
	}
	given := false
	m.eventually(60*time.Second, node+" names the file that is "+f.name, func() (bool, string) {
		given = node == "root" && m.hasNewestRoot(node)
		said := m.mirrorError(node)
		return given || strings.Contains(said, part), said
	})
	m.t.Logf("%s %s: given by a member: %v; %.300s", node, f.name, given, m.mirrorError(node))
	if !given && !strings.Contains(readFile(m.side[node].Log), "cannot be followed") {
		m.errorf("%s does not log it", node)
	}
	return !given
}

// hasNewestRoot reports whether the root that was published last is in the node's depot.
func (m *mesh) hasNewestRoot(node string) bool {
	roots, _ := filepath.Glob(m.path("home", "repository", "metadata", "*.root.json"))
	number := func(file string) int {
		n, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(file), ".root.json"))
		m.must(err)
		return n
	}
	newest := slices.MaxFunc(roots, func(a, b string) int { return number(a) - number(b) })
	_, err := os.Stat(m.path(node, "mesh", "repository", "metadata", filepath.Base(newest)))
	return err == nil
}

// mirrorError is why the node's sidecar cannot follow the repository.
func (m *mesh) mirrorError(node string) string {
	var said struct{ Sidecar status.Sidecar }
	if err := socket.Read(context.Background(), m.path(node, "sidecar.sock"), &said); err != nil || said.Sidecar.Mirror == nil {
		return ""
	}
	return said.Sidecar.Mirror.LastError
}

// onlyGenuine checks that every file that the node installed is one that the distribution host has published.
func (m *mesh) onlyGenuine(node string, genuine map[string][][]byte) {
	m.t.Helper()
	dir := m.path(node, "mesh", "repository")
	m.must(filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		name, _ := filepath.Rel(dir, path)
		known := false
		for _, kind := range kinds {
			known = known || kind.MatchString(name)
		}
		if err != nil || e.IsDir() || !known {
			return nil // what is being replaced this moment may be gone
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		for _, published := range genuine[name] {
			if bytes.Equal(data, published) {
				return nil
			}
		}
		if old, err := os.ReadFile(m.path("old", name)); err != nil || !bytes.Equal(old, data) {
			m.errorf("%s has installed %s, which nobody published", node, name)
		}
		return nil
	}))
}
