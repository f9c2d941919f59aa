// Package hometest makes homes of meshes for the tests of the packages beside it, with releases of small zones, and follows
// what they publish as a node does. It may import packages home, enrol and releasing, whose own tests that use it are of
// another package (home_test, …). Only tests import it.
package hometest

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/enrol"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/internal/assemble"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// Start is when the clocks of most tests stand.
var Start = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// At is a clock that stands still.
func At(t time.Time) home.Clock { return func() time.Time { return t } }

// Check ends the test if there is an error.
func Check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Options are those of the meshes made here.
var Options = enrol.InitOptions{Mesh: "jp", Epsilon: 100 * time.Millisecond, Lease: time.Hour, SANs: []string{"127.0.0.1"}}

// Init makes a mesh by Options in a directory.
func Init(dir string, clock home.Clock) (*home.Writer, error) { return InitWith(dir, Options, clock) }

// InitWith makes a mesh by other options.
func InitWith(dir string, o enrol.InitOptions, clock home.Clock) (*home.Writer, error) {
	return enrol.Init(context.Background(), home.At(dir, clock), o, rand.Reader)
}

// New makes a mesh with members, and returns its home's directory.
func New(t testing.TB, clock home.Clock, members ...string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "mesh")
	w, err := Init(dir, clock)
	Check(t, err)
	defer w.Close()
	for i, name := range members {
		_, err := enrol.AddMember(t.Context(), w, enrol.NewMember{Name: name, Admin: fmt.Sprintf("127.0.0.1:%d", 40000+i)})
		Check(t, err)
	}
	return dir
}

// TwoHomes makes a mesh in a bucket, with the member tyo, and two hosts of it.
func TwoHomes(t *testing.T, clock home.Clock) (server *testenv.S3, dirs [2]string) {
	t.Helper()
	server = testenv.StartS3(t)
	o := Options
	o.Bucket = server.URL("mesh")
	dirs = [2]string{filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")}
	w, err := InitWith(dirs[0], o, clock)
	Check(t, err)
	_, err = enrol.AddMember(t.Context(), w, enrol.NewMember{Name: "tyo", Admin: "127.0.0.1:40000"})
	Check(t, err)
	Check(t, w.Close())
	Check(t, os.CopyFS(dirs[1], os.DirFS(dirs[0])))
	return server, dirs
}

// Begin opens a home for writing. The test closes it.
func Begin(t testing.TB, dir string, clock home.Clock) *home.Writer {
	t.Helper()
	w, err := home.At(dir, clock).Begin(t.Context())
	Check(t, err)
	return w
}

// Bundle is the directory that a member is given.
func Bundle(dir, member string) string { return filepath.Join(dir, "members", member) }

// ZoneFile writes a zone whose one address tells the serial.
func ZoneFile(t testing.TB, serial uint32) releasing.Source {
	t.Helper()
	file := filepath.Join(t.TempDir(), "example.org.zone")
	Check(t, os.WriteFile(file, ZoneText(serial), 0o600))
	return releasing.Source{File: file}
}

// ZoneText is what ZoneFile writes.
func ZoneText(serial uint32) []byte {
	return fmt.Appendf(nil, "$ORIGIN example.org.\n$TTL 300\n@ SOA ns1 host %d 7200 3600 1209600 300\n@ NS ns1\n@ NS ns.example.net.\nns1 A 192.0.2.53\nwww A 192.0.2.%d\n", serial, serial%256)
}

// NamesZone writes a zone with so many names below its origin.
func NamesZone(t testing.TB, origin string, serial, names int) releasing.Source {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "$ORIGIN %s\n$TTL 300\n@ SOA ns1 host %d 7200 3600 1209600 300\n@ NS ns.example.net.\n@ NS ns2.example.net.\n", origin, serial)
	for i := range names {
		fmt.Fprintf(&b, "n%d A 192.0.2.%d\n", i, i%256)
	}
	file := filepath.Join(t.TempDir(), strings.TrimSuffix(origin, ".")+".zone")
	Check(t, os.WriteFile(file, []byte(b.String()), 0o600))
	return releasing.Source{File: file}
}

// ManyNames writes a zone of delegations of which those whose number is divided by 200, 0.5 %, tell the serial.
func ManyNames(t testing.TB, serial uint32, names int) releasing.Source {
	t.Helper()
	text := fmt.Appendf(nil, "$ORIGIN example.org.\n$TTL 300\n@ SOA ns1 host %d 7200 3600 1209600 300\n@ NS ns1\n@ NS ns.example.net.\nns1 A 192.0.2.53\n", serial)
	for n := range names {
		tells := uint32(0)
		if n%200 == 0 {
			tells = serial
		}
		digest := release.DigestOf(fmt.Appendf(nil, "%d %d", n, tells))
		text = fmt.Appendf(text, "d%d NS ns.d%d\nns.d%d A 192.0.2.%d\nd%d DS %d 13 2 %s\n", n, n, n, n%256, n, n%65536, digest)
	}
	file := filepath.Join(t.TempDir(), "example.org.zone")
	Check(t, os.WriteFile(file, text, 0o600))
	return releasing.Source{File: file}
}

// Configure writes the configuration of a home.
func Configure(t testing.TB, dir, text string) {
	t.Helper()
	Check(t, os.WriteFile(filepath.Join(dir, home.ConfigName), []byte(text), 0o600))
}

// InFormat has a mesh without releases publish in a format of manifests before, as one does whose members are not known to read another.
func InFormat(t testing.TB, dir string, clock home.Clock, format int) {
	t.Helper()
	w := Begin(t, dir, clock)
	defer w.Close()
	m := w.View().Manifest
	if m.Format == format {
		return
	}
	m.Format, m.EpsilonMS = format, m.EpsilonMS+1 // something must change
	Check(t, w.Publish(t.Context(), m, home.Event{Event: "changed"}))
}

// MustRelease makes a release of the zone that ZoneFile writes.
func MustRelease(t testing.TB, dir string, clock home.Clock, serial uint32, o releasing.Options) *releasing.Made {
	t.Helper()
	w := Begin(t, dir, clock)
	defer w.Close()
	made, found, err := releasing.Make(t.Context(), w, []releasing.Source{ZoneFile(t, serial)}, o)
	Check(t, err)
	if made == nil {
		t.Fatalf("nothing was published: %v", found)
	}
	return made
}

// ManyZones makes a release of 71 zones, the one of ZoneFile among them, and has it answered.
func ManyZones(t testing.TB, dir string, clock home.Clock) *releasing.Made {
	t.Helper()
	sources := []releasing.Source{ZoneFile(t, 1)}
	file := filepath.Join(t.TempDir(), "zone")
	Check(t, os.WriteFile(file, []byte("@ 300 SOA ns1 host 1 7200 3600 1209600 300\n@ 300 NS ns1\n@ 300 NS ns.example.net.\nns1 300 A 192.0.2.53\n"), 0o600))
	for i := range 70 {
		sources = append(sources, releasing.Source{Origin: fmt.Sprintf("z%d.example.", i), File: file})
	}
	w := Begin(t, dir, clock)
	defer w.Close()
	made, found, err := releasing.Make(t.Context(), w, sources, releasing.Options{Now: true})
	Check(t, err)
	if made == nil || w.View().Manifest.Current.Len() != len(sources) {
		t.Fatalf("no release of many zones: %v", found)
	}
	return made
}

// SetSwitchover commits the switchover of the staged release, whatever its members say.
func SetSwitchover(t testing.TB, w *home.Writer, at time.Time) {
	t.Helper()
	next := w.Mesh()
	next.Next.At, next.Next.Decide, next.Next.Committed = instant.WallOf(at), instant.WallOf(at)-instant.Wall(time.Microsecond), true
	next = next.Granted(instant.WallOf(w.Now()), w.State().Lease())
	Check(t, w.Carry(t.Context(), next, time.Time{}, nil, home.Event{Event: mesh.EventCommitted, Number: next.Next.Number, Switchover: at}))
}

// Promised is the latest end of all leases that the disk admits to.
func Promised(t testing.TB, dir string) time.Time {
	t.Helper()
	state, err := home.At(dir, time.Now).State(t.Context())
	Check(t, err)
	return mesh.State{Ledger: state.Ledger}.LapsedBy(status.Ref{}).Time()
}

// HasError reports whether a rule found an error.
func HasError(found []zone.Finding, rule string) bool {
	return slices.ContainsFunc(found, func(f zone.Finding) bool { return f.Rule == rule && f.Severity == zone.Error })
}

// Node verifies what is published in a directory, as a member that forgets nothing would.
type Node struct {
	t   testing.TB
	dir string
	mem release.Memory
}

// NewNode is a node that knows the first root.
func NewNode(t testing.TB, dir string) *Node {
	t.Helper()
	repository := filepath.Join(dir, "repository")
	root, err := os.ReadFile(filepath.Join(repository, release.RootName(1)))
	Check(t, err)
	mem, err := release.NewMemory(root)
	Check(t, err)
	return &Node{t, repository, mem}
}

// Verify is what is published, which has all that it names.
func (n *Node) Verify() release.View {
	n.t.Helper()
	repo, err := depot.Open(n.dir)
	Check(n.t, err)
	defer repo.Close()
	view, mem, err := release.Verify(repo, n.mem)
	Check(n.t, err)
	n.mem = mem
	for r := range view.Manifest.Releases() {
		for z := range r.All() {
			Check(n.t, repo.CheckBlob(z.Blob))
			earlier, err := depot.ReadEarlier(repo, *z)
			Check(n.t, err)
			chain, err := z.Chain(earlier)
			Check(n.t, err)
			for _, p := range chain {
				Check(n.t, repo.CheckBlob(p.Blob))
			}
		}
	}
	return view
}

// TextOf is the text of a zone that is published.
func TextOf(t testing.TB, dir string, z release.Zone) []byte {
	t.Helper()
	r, err := home.At(dir, time.Now).Read(t.Context())
	Check(t, err)
	defer r.Close()
	if !z.Whole() {
		made, err := assemble.Released(r.Repository(), z, func(int) bool { return true })
		Check(t, err)
		var text bytes.Buffer
		Check(t, zonefile.Write(&text, made))
		return text.Bytes()
	}
	text, err := depot.OpenBlob(r.Repository(), z)
	Check(t, err)
	defer text.Close()
	all, err := io.ReadAll(text)
	Check(t, err)
	return all
}

// TLS is the configuration that a member makes of the directory it was given.
func TLS(t testing.TB, dir string) *tls.Config {
	t.Helper()
	own, err := tls.LoadX509KeyPair(filepath.Join(dir, "node.crt"), filepath.Join(dir, "node.key"))
	Check(t, err)
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	Check(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(ca)
	return &tls.Config{Certificates: []tls.Certificate{own}, RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert}
}

// WaitFor waits until something holds.
func WaitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still waiting for: %s", what)
		}
	}
}

// Mirror has a member's depot take what a repository has.
func Mirror(ctx context.Context, from depot.Source, d *depot.Dir, mem release.Memory) (release.View, release.Memory, bool, error) {
	return depot.Look(ctx, from.Client, from.URL, mem, d).Take(ctx, from, d, mem)
}
