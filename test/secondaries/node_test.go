package secondaries_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/lab/publish"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// Addresses, all in the test's namespace.
const (
	admin  = "127.0.1.1"
	shared = "127.0.53.53"
	secret = "NoTCJU+DMqFWywaPyxSijrDEA/eC3nK0xi3AMEZuPVk="
)

// primary is a node, and what the distribution host does for it.
type primary struct {
	t        *testing.T
	dir, bin string
	repo     *depot.Dir
	keys     release.Keys
	mem      release.Memory
	manifest release.Manifest
	process  *lab.Process
}

// startPrimary starts a node that has no release yet, and tells the secondaries at these addresses.
func startPrimary(t *testing.T, told []string) *primary {
	keys, err := release.GenerateKeys(rand.Reader)
	lab.Must(t, err)
	p := &primary{t: t, dir: t.TempDir(), keys: keys,
		manifest: release.Manifest{Format: release.ManifestFormat, Mesh: "test", EpsilonMS: release.DefaultEpsilonMS}}
	p.repo, err = depot.Create(filepath.Join(p.dir, "repository"))
	lab.Must(t, err)
	files, mem, err := release.Init(p.manifest, keys.Signers(), expiries())
	lab.Must(t, err)
	p.mem = mem
	lab.Must(t, publish.Files(p.repo, files))
	lab.Write(t, filepath.Join(p.dir, "root.json"), string(mem.Root))
	p.bin = testenv.Build(t, "cmd/coredns")
	block := fmt.Sprintf("meshsync %s {\n root %s/root.json\n clock assume 1ms\n", p.dir, p.dir)
	lab.Write(t, filepath.Join(p.dir, "Corefile"), fmt.Sprintf(`. {
	sharedunicast %s {
		admin %s
	}
	%s}
	prometheus %s:9153
	errors
}
. {
	bind %[2]s
	tsig {
		secret mesh. %[5]s
		require AXFR IXFR
	}
	transfer {
		to %[6]s 127.0.0.1
	}
	%[3]s	notify %[6]s key mesh.
	}
	errors
}
`, shared, admin, block, admin, secret, strings.Join(told, " ")))
	p.run()
	return p
}

// run starts the node's process.
func (p *primary) run() {
	p.process = start(p.t, "coredns", filepath.Join(p.bin, "coredns"), "-conf", filepath.Join(p.dir, "Corefile"))
}

func expiries() release.Expiries {
	later := time.Now().Add(24 * time.Hour)
	return release.Expiries{Root: later, Targets: later, Snapshot: later, Timestamp: later}
}

// lead is how long before its instant a switchover is set.
const lead = 100 * time.Millisecond

// release makes the node switch to the next release, of zones in the form of text by origin, and waits until it has.
func (p *primary) release(zones map[string]string) {
	p.t.Helper()
	r := &release.Release{Number: 1}
	for origin, text := range zones {
		r.Zones = append(r.Zones, p.blob(origin, text))
	}
	slices.SortFunc(r.Zones, func(a, b release.Zone) int { return strings.Compare(a.Origin, b.Origin) })
	if p.manifest.Next != nil {
		made := p.manifest.Next.Withdrawn()
		made.Switchover = p.manifest.Next.Switchover
		p.manifest.Current, p.manifest.Next = &made, nil
	}
	if p.manifest.Current == nil {
		r.Switchover = time.Now().Add(-time.Hour).UTC().Truncate(time.Microsecond)
		p.manifest.Current = r
	} else {
		r.Number = p.manifest.Current.Number + 1
		p.manifest.Next = r
		p.publish()
		p.reaches("staged", r.Number, func(s *status.Node) uint64 { return s.Staged })
		next := *r
		next.Switchover = time.Now().Add(lead).UTC().Truncate(time.Microsecond)
		next.Decide, next.Committed = next.Switchover.Add(-time.Microsecond), true
		p.manifest.Next = &next
	}
	p.publish()
	p.reaches("serving", r.Number, func(s *status.Node) uint64 { return s.Serving })
}

func (p *primary) publish() {
	p.t.Helper()
	files, mem, err := release.Publish(p.mem, p.manifest, p.keys.Signers(), expiries())
	lab.Must(p.t, err)
	p.mem = mem
	lab.Must(p.t, publish.Files(p.repo, files))
}

// reaches waits until the node's status says a number.
func (p *primary) reaches(what string, number uint64, of func(*status.Node) uint64) {
	p.t.Helper()
	lab.Eventually(p.t, func() error {
		s, err := p.status()
		if err == nil && of(s) != number {
			err = fmt.Errorf("%s %d, not %d: silent for %v, %+v", what, of(s), number, s.Silent, s.Depot)
		}
		return err
	})
}

// blob stores a zone as canonical text.
func (p *primary) blob(origin, text string) release.Zone {
	p.t.Helper()
	z, found := zonefile.Parse(strings.NewReader(text), zonefile.Options{Origin: origin})
	if z == nil {
		p.t.Fatalf("%s: %v", origin, found)
	}
	var canonical bytes.Buffer
	lab.Must(p.t, zonefile.Write(&canonical, z))
	c, err := p.repo.PutBlob(func(w io.Writer) error { _, err := w.Write(canonical.Bytes()); return err })
	lab.Must(p.t, err)
	return release.Zone{Origin: origin, Serial: z.Serial(), SHA256: c.SHA256, Length: c.Length, Blob: c.Blob}
}

func (p *primary) status() (*status.Node, error) {
	conn, err := net.Dial("unix", filepath.Join(p.dir, "meshsync.sock"))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	s := new(status.Node)
	return s, json.NewDecoder(conn).Decode(s)
}

// counters are those of a metric, by the value of its only label.
func (p *primary) counters(name string) map[string]int {
	p.t.Helper()
	response, err := http.Get("http://" + admin + ":9153/metrics")
	lab.Must(p.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	lab.Must(p.t, err)
	found := map[string]int{}
	for line := range strings.Lines(string(body)) {
		if rest, ok := strings.CutPrefix(line, name+"{"); ok {
			labels, value, _ := strings.Cut(rest, "} ")
			found[strings.Split(labels, `"`)[1]], err = strconv.Atoi(strings.TrimSpace(value))
			lab.Must(p.t, err)
		}
	}
	return found
}
