// Package paths tests what leaves a shared address by every path that a query can take through CoreDNS with our plugins:
// sharedunicast in front, meshsync behind, and what an operator puts in between.
package paths

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/chaos"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/log"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/nsid"
	_ "github.com/coredns/coredns/plugin/tls"
	_ "github.com/coredns/coredns/plugin/tsig"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/lab/publish"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
	_ "github.com/coredns-anycast/coredns-anycast/plugin/meshsync"
	_ "github.com/coredns-anycast/coredns-anycast/plugin/sharedunicast"
)

func TestMain(m *testing.M) {
	directives := slices.DeleteFunc(slices.Clone(dnsserver.Directives), func(d string) bool { return d == "sharedunicast" || d == "meshsync" })
	directives = slices.Insert(directives, slices.Index(directives, "prometheus"), "sharedunicast")
	directives = slices.Insert(directives, slices.Index(directives, "file"), "meshsync")
	if err := dnsserver.SetDirectives(directives); err != nil {
		panic(err)
	}
	caddy.Quiet, dnsserver.Quiet = true, true
	os.Exit(m.Run())
}

// mesh is a distribution host, and the directory of one node.
type mesh struct {
	t        testing.TB
	dir      string
	repo     *depot.Dir
	keys     release.Keys
	mem      release.Memory
	manifest release.Manifest
	ends     release.Expiries
}

// newMesh makes a mesh that has published nothing yet.
func newMesh(t testing.TB) *mesh {
	t.Helper()
	keys, err := release.GenerateKeys(rand.Reader)
	lab.Must(t, err)
	day := time.Now().Add(24 * time.Hour)
	m := &mesh{t: t, dir: t.TempDir(), keys: keys, ends: release.Expiries{Root: day, Targets: day, Snapshot: day, Timestamp: day},
		manifest: release.Manifest{Format: release.ManifestFormat, Mesh: "paths", EpsilonMS: release.DefaultEpsilonMS}}
	m.repo, err = depot.Create(m.path("repository"))
	lab.Must(t, err)
	files, mem, err := release.Init(m.manifest, keys.Signers(), m.ends)
	lab.Must(t, err)
	m.mem = mem
	lab.Must(t, os.WriteFile(m.path("root.json"), mem.Root, 0o644))
	lab.Must(t, os.Mkdir(m.path("node"), 0o755))
	lab.Must(t, publish.Files(m.repo, files))
	return m
}

func (m *mesh) path(name string) string { return filepath.Join(m.dir, name) }

// zone packs a zone's text.
func (m *mesh) zone(origin, text string) release.Zone {
	m.t.Helper()
	z, found := zonefile.Parse(strings.NewReader(text), zonefile.Options{Origin: origin})
	if z == nil {
		m.t.Fatal(found)
	}
	var canonical bytes.Buffer
	lab.Must(m.t, zonefile.Write(&canonical, z))
	c, err := m.repo.PutBlob(func(w io.Writer) error { _, err := w.Write(canonical.Bytes()); return err })
	lab.Must(m.t, err)
	return release.Zone{Origin: z.Origin(), Serial: z.Serial(), SHA256: c.SHA256, Length: c.Length, Blob: c.Blob}
}

// current makes a release of zones the one that is answered from.
func (m *mesh) current(number uint64, zones ...release.Zone) {
	m.t.Helper()
	slices.SortFunc(zones, func(a, b release.Zone) int { return strings.Compare(a.Origin, b.Origin) })
	m.manifest.Current = &release.Release{Number: number, Zones: zones, Switchover: time.Now().Add(-time.Hour).UTC().Truncate(time.Microsecond)}
	m.publish()
}

// switchOver has the node switch to a release as a mesh does: it is staged, then a time is set.
func (m *mesh) switchOver(number uint64, zones ...release.Zone) {
	m.t.Helper()
	if m.manifest.Next != nil {
		last := *m.manifest.Next
		last.Decide, last.Committed = time.Time{}, false
		m.manifest.Current = &last
	}
	m.manifest.Next = &release.Release{Number: number, Zones: zones}
	m.publish()
	lab.Eventually(m.t, func() error {
		var s status.Node
		err := socket.Read(context.Background(), m.path("s.sock"), &s)
		if err == nil && s.Staged < number {
			err = fmt.Errorf("release %d is not staged", number)
		}
		return err
	})
	next := *m.manifest.Next
	next.Switchover = time.Now().Add(2 * time.Second).UTC().Truncate(time.Microsecond)
	next.Decide, next.Committed = next.Switchover.Add(-time.Microsecond), true
	m.manifest.Next = &next
	m.publish()
}

func (m *mesh) publish() {
	m.t.Helper()
	files, mem, err := release.Publish(m.mem, m.manifest, m.keys.Signers(), m.ends)
	lab.Must(m.t, err)
	m.mem = mem
	lab.Must(m.t, publish.Files(m.repo, files))
}

// block is the directive meshsync of a server block.
func (m *mesh) block() string {
	return fmt.Sprintf("meshsync %s {\n repository %s\n root %s\n clock assume 1ms\n status unix://%s\n node tyo1\n}\n",
		m.path("node"), m.path("repository"), m.path("root.json"), m.path("s.sock"))
}

// start runs a Corefile in this process until the test ends. It returns a function that reloads with another.
func start(t testing.TB, corefile string) (reload func(corefile string) error) {
	t.Helper()
	input := func(s string) caddy.Input {
		return caddy.CaddyfileInput{Contents: []byte(s), Filepath: "Corefile", ServerTypeName: "dns"}
	}
	inst, err := caddy.Start(input(corefile))
	if err != nil {
		t.Fatalf("starting: %v\n%s", err, corefile)
	}
	t.Cleanup(func() {
		inst.ShutdownCallbacks()
		inst.Stop()
	})
	return func(corefile string) error {
		next, err := inst.Restart(input(corefile))
		inst = next
		return err
	}
}

func port(t testing.TB) int { return testenv.Port(t) }

// zoneText is a small zone.
func zoneText(origin string) string {
	return fmt.Sprintf(`$ORIGIN %s
@    3600 IN SOA ns host 7 3600 600 864000 60
@    3600 IN NS  ns
ns   3600 IN A   192.0.2.53
www  3600 IN A   192.0.2.80
sub  3600 IN NS  ns.sub
ns.sub 3600 IN A 192.0.2.81
`, origin)
}
