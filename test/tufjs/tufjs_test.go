package tufjs

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

const zoneText = `$TTL 300
example.org. SOA ns1 host %d 7200 3600 1209600 300
example.org. NS ns1.example.org.
example.org. NS ns.example.net.
ns1.example.org. A 192.0.2.53
`

// TestAnotherClientVerifies has tuf-js read what meshctl publishes (DELIV-3).
func TestAnotherClientVerifies(t *testing.T) {
	installed := install(t)
	meshctl := filepath.Join(testenv.Build(t, "cmd/meshctl"), "meshctl")
	t.Run("follows", func(t *testing.T) { follows(&client{t: t, installed: installed}, newMesh(t, meshctl)) })
	t.Run("refuses", func(t *testing.T) {
		refuses(&client{t: t, installed: installed}, newMesh(t, meshctl), newMesh(t, meshctl))
	})
}

// follows starts from the root that nodes are given, and follows releases, leases and new keys as a node does: what
// tuf-js accepts is what our own verification accepts.
func follows(c *client, m *mesh) {
	c.trust(m)
	first := c.accepts(m)
	m.release(1)
	c.accepts(m)
	m.run("lease")
	leased := c.accepts(m)
	if first.Root != 1 || leased.Timestamp != first.Timestamp+2 {
		c.t.Errorf("after a release and a lease: %+v, and %+v before", leased, first)
	}

	old := m.read(release.TimestampName)
	m.run("keys", "rotate", "lease")
	m.run("keys", "rotate", "release", "--numbers-from", "9007199254740993") // a field that TUF does not know, and no number of JavaScript
	m.run("keys", "rotate", "root")
	m.release(2)
	if now := c.accepts(m); now.Root != 4 {
		c.t.Errorf("three keys were replaced, and tuf-js is at root %d", now.Root)
	}
	c.refuses(m, "an old lease, by a key that was taken away", func(dir string) {
		write(c.t, filepath.Join(dir, release.TimestampName), old)
	})
}

// refuses changes one thing at a time in a copy of the repository: what is to be refused by everybody.
func refuses(c *client, m, stranger *mesh) {
	c.trust(m)
	m.release(1)
	before := m.read(release.TimestampName)
	m.release(2)
	for range 9 { // its versions are ahead
		stranger.run("lease")
	}
	stranger.release(1)

	damage := func(pattern, old, new string) func(dir string) {
		return func(dir string) {
			changed := 0
			for _, name := range glob(c.t, dir, pattern) {
				data := readFile(c.t, name)
				write(c.t, name, bytes.Replace(data, []byte(old), []byte(new), 1))
				changed += bytes.Count(data, []byte(old))
			}
			if changed == 0 {
				c.t.Fatalf("no %q in %s", old, pattern)
			}
		}
	}
	c.refuses(m, "another manifest of the same length", damage("targets/*.mesh.json", `"mesh":"jp"`, `"mesh":"jq"`))
	c.refuses(m, "a longer lease", damage("metadata/timestamp.json", `"expires":"20`, `"expires":"21`))
	c.refuses(m, "a snapshot that says more", damage("metadata/*.snapshot.json", `"expires":"20`, `"expires":"21`))
	c.refuses(m, "targets that say more", damage("metadata/*.targets.json", `"expires":"20`, `"expires":"21`))
	c.refuses(m, "no manifest", func(dir string) {
		for _, name := range glob(c.t, dir, "targets/*.mesh.json") {
			if err := os.Remove(name); err != nil {
				c.t.Fatal(err)
			}
		}
	})
	c.refuses(m, "another mesh", func(dir string) {
		if err := errors.Join(os.RemoveAll(dir), os.CopyFS(dir, os.DirFS(stranger.repository()))); err != nil {
			c.t.Fatal(err)
		}
	})
	c.accepts(m)
	c.refuses(m, "a lease from before", func(dir string) { write(c.t, filepath.Join(dir, release.TimestampName), before) })
}

// mesh is a distribution host's home.
type mesh struct {
	t             *testing.T
	meshctl, home string
}

func newMesh(t *testing.T, meshctl string) *mesh {
	m := &mesh{t, meshctl, filepath.Join(t.TempDir(), "home")}
	m.run("init", "--mesh", "jp")
	return m
}

func (m *mesh) run(args ...string) {
	m.t.Helper()
	if out, err := exec.Command(m.meshctl, append(args, "--home", m.home)...).CombinedOutput(); err != nil {
		m.t.Fatalf("meshctl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// release makes a zone's serial current.
func (m *mesh) release(serial int) {
	m.t.Helper()
	file := filepath.Join(m.t.TempDir(), "example.org.zone")
	write(m.t, file, fmt.Appendf(nil, zoneText, serial))
	m.run("release", file)
}

func (m *mesh) repository() string { return filepath.Join(m.home, "repository") }

func (m *mesh) read(name string) []byte {
	m.t.Helper()
	return readFile(m.t, filepath.Join(m.repository(), name))
}

// installed is tuf-js, and what runs it.
type installed struct {
	node string
	dir  string // with its node_modules
}

// install gets the pinned tuf-js, whose packages package-lock.json names by digest. npm is the one thing that may be
// missing everywhere: Debian's draws in hundreds of packages.
func install(t *testing.T) installed {
	npm, err := testenv.Look("npm")
	if err != nil {
		t.Skip("npm is not installed: tuf-js does not verify the repository")
	}
	i := installed{node: testenv.Need(t, "node")[0], dir: t.TempDir()}
	if err := os.CopyFS(i.dir, os.DirFS("testdata")); err != nil {
		t.Fatal(err)
	}
	ci := exec.Command(npm, "ci", "--ignore-scripts", "--engine-strict", "--no-audit", "--no-fund")
	ci.Dir = i.dir
	if out, err := ci.CombinedOutput(); err != nil {
		testenv.Missing(t, "tuf-js could not be installed: %v\n%s", err, out)
	}
	return i
}

// client is a tuf-js that has verified something.
type client struct {
	t *testing.T
	installed
	metadata string         // directory of what it trusts
	ours     release.Memory // what our own verification remembers beside it
}

// trust starts anew from the mesh's first root.
func (c *client) trust(m *mesh) {
	c.t.Helper()
	root := m.read(release.RootName(1))
	c.metadata = c.t.TempDir()
	write(c.t, filepath.Join(c.metadata, "root.json"), root)
	var err error
	if c.ours, err = release.NewMemory(root); err != nil {
		c.t.Fatal(err)
	}
}

// accepted is what follow.js prints.
type accepted struct {
	Root, Timestamp int64
	Manifest        []byte
}

// accepts follows a repository with tuf-js and with our own verification, which must come to the same.
func (c *client) accepts(m *mesh) accepted {
	c.t.Helper()
	out, err := c.follow(m.repository(), c.metadata)
	if err != nil {
		c.t.Fatalf("tuf-js refuses what is published: %v\n%s", err, out)
	}
	var got accepted
	if err := json.Unmarshal(out, &got); err != nil {
		c.t.Fatalf("%v: %s", err, out)
	}
	repo, err := depot.Open(m.repository())
	if err != nil {
		c.t.Fatal(err)
	}
	defer repo.Close()
	view, memory, err := release.Verify(repo, c.ours)
	if err != nil {
		c.t.Fatal(err)
	}
	c.ours = memory
	if !bytes.Equal(got.Manifest, memory.Manifest) || got.Root != view.Versions.Root || got.Timestamp != view.Versions.Timestamp {
		c.t.Fatalf("tuf-js is at root %d, timestamp %d, manifest\n%s\nand we at root %d, timestamp %d, manifest\n%s", got.Root, got.Timestamp,
			got.Manifest, view.Versions.Root, view.Versions.Timestamp, memory.Manifest)
	}
	return got
}

// refuses follows a copy of a repository in which something was changed. What tuf-js has verified stays as it was.
func (c *client) refuses(m *mesh, what string, change func(dir string)) {
	c.t.Helper()
	repository, metadata := filepath.Join(c.t.TempDir(), "repository"), filepath.Join(c.t.TempDir(), "metadata")
	for dir, from := range map[string]string{repository: m.repository(), metadata: c.metadata} {
		if err := os.CopyFS(dir, os.DirFS(from)); err != nil {
			c.t.Fatal(err)
		}
	}
	change(repository)
	out, err := c.follow(repository, metadata)
	if err == nil {
		c.t.Errorf("%s: tuf-js accepts it: %s", what, out)
		return
	}
	c.t.Logf("%s: %s", what, bytes.TrimSpace(out))
}

// follow runs follow.js against a repository on loopback; what it printed comes back, and what it said against it.
func (c *client) follow(repository, metadata string) ([]byte, error) {
	server := httptest.NewServer(http.FileServer(http.Dir(repository)))
	defer server.Close()
	cmd := exec.Command(c.node, "follow.js", metadata, server.URL)
	cmd.Dir = c.dir
	return cmd.CombinedOutput()
}

func glob(t *testing.T, dir, pattern string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(names) == 0 {
		t.Fatalf("no %s in %s: %v", pattern, dir, err)
	}
	return names
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
