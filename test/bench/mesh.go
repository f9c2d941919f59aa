package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/lab/publish"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// mesh is a distribution host without members: it stages releases for one node, and sets switchovers.
type mesh struct {
	dir      string // with repository, root.json, and node, the node's own
	address  string // that the node answers on
	repo     *depot.Dir
	keys     release.Keys
	mem      release.Memory
	manifest release.Manifest
	ends     release.Expiries
}

func newMesh(dir string) (*mesh, error) {
	keys, err := release.GenerateKeys(rand.Reader)
	if err != nil {
		return nil, err
	}
	repo, err := depot.Create(filepath.Join(dir, "repository"))
	if err != nil {
		return nil, err
	}
	day := time.Now().Add(24 * time.Hour)
	m := &mesh{dir: dir, address: "127.0.0.1", repo: repo, keys: keys, ends: release.Expiries{Root: day, Targets: day, Snapshot: day, Timestamp: day},
		manifest: release.Manifest{Format: release.ManifestFormat, Mesh: "bench", EpsilonMS: release.DefaultEpsilonMS}}
	files, mem, err := release.Init(m.manifest, keys.Signers(), m.ends)
	if err != nil {
		return nil, err
	}
	m.mem = mem
	if err := os.WriteFile(m.path("root.json"), mem.Root, 0o644); err != nil {
		return nil, err
	}
	return m, publish.Files(repo, files)
}

func (m *mesh) path(name string) string { return filepath.Join(m.dir, name) }

// store makes a blob of a zone file.
func (m *mesh) store(file string) (release.Zone, error) {
	f, err := os.Open(file)
	if err != nil {
		return release.Zone{}, err
	}
	defer f.Close()
	z, found := zonefile.Parse(f, zonefile.Options{Origin: origin, File: file})
	if z == nil {
		return release.Zone{}, fmt.Errorf("%v", found)
	}
	c, err := m.repo.PutBlob(func(w io.Writer) error { return zonefile.Write(w, z) })
	return release.Zone{Origin: origin, Serial: z.Serial(), SHA256: c.SHA256, Length: c.Length, Blob: c.Blob}, err
}

func (m *mesh) publish() error {
	files, mem, err := release.Publish(m.mem, m.manifest, m.keys.Signers(), m.ends)
	if err != nil {
		return err
	}
	m.mem = mem
	return publish.Files(m.repo, files)
}

// current makes the first release, answered from at once.
func (m *mesh) current(zones []release.Zone) error {
	m.manifest.Current = &release.Release{Number: 1, Zones: zones, Switchover: time.Now().Add(-time.Hour).UTC().Truncate(time.Microsecond)}
	return m.publish()
}

// next stages the following release.
func (m *mesh) next(z release.Zone) error {
	if m.manifest.Next != nil {
		made := m.manifest.Next.Withdrawn()
		made.Switchover = m.manifest.Next.Switchover
		m.manifest.Current = &made
	}
	m.manifest.Next = &release.Release{Number: m.manifest.Current.Number + 1, Zones: []release.Zone{z}}
	return m.publish()
}

// schedule sets the switchover to it.
func (m *mesh) schedule(ahead time.Duration) error {
	next := *m.manifest.Next
	next.Switchover = time.Now().Add(ahead).UTC().Truncate(time.Microsecond)
	next.Decide, next.Committed = next.Switchover.Add(-time.Microsecond), true
	m.manifest.Next = &next
	return m.publish()
}

// corefile is the node's, with properties of sharedunicast and plugins in front of meshsync. Its clock is the machine's, as the
// distribution host's is.
func (m *mesh) corefile(port int, o options) (string, error) {
	text := fmt.Sprintf(`.:%d {
    sharedunicast %s {
        %s
    }
    %s
    meshsync %s {
        repository %s
        root %s
        clock assume 1ms
        status unix://%s
    }
    errors
}
`, port, m.address, o.properties, o.plugins, m.path("node"), m.path("repository"), m.path("root.json"), m.path("status.sock"))
	return m.path("Corefile"), os.WriteFile(m.path("Corefile"), []byte(text), 0o644)
}

// options are what is on in a node beside answering.
type options struct{ name, properties, plugins string }

// forget lets the node start as if it never had: without state and compiled zones.
func (m *mesh) forget() error {
	if err := os.RemoveAll(m.path("node")); err != nil {
		return err
	}
	return os.Mkdir(m.path("node"), 0o755)
}

// waits for the node's status to be as wanted.
func (m *mesh) waits(what string, is func(status.Node) bool) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	for {
		var s status.Node
		err := socket.Read(ctx, m.path("status.sock"), &s)
		if err == nil && is(s) {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("the node came not %s: %w", what, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
