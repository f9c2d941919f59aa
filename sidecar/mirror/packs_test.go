package mirror

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testca"
)

// put publishes a release of one zone with a root, and a pack from the one before if there is one.
func (h *host) put(n uint64, before *release.Zone) release.Zone {
	h.t.Helper()
	store := func(text string) (release.Digest, int64, release.Blob) {
		c, err := h.dir.PutBlob(func(w io.Writer) error { _, err := io.WriteString(w, text); return err })
		lab.Must(h.t, err)
		return c.SHA256, c.Length, c.Blob
	}
	z := release.Zone{Origin: "example.org.", Serial: uint32(n), Root: release.DigestOf([]byte{byte(n)})}
	var text strings.Builder
	for i := range 100 {
		fmt.Fprintf(&text, "%d %x\n", i, release.DigestOf(fmt.Append(nil, n, i)))
	}
	z.SHA256, z.Length, z.Blob = store(text.String())
	if before != nil {
		p := release.Pack{From: before.Root}
		_, p.Length, p.Blob = store(fmt.Sprint("what is new in ", n))
		z.Packs = []release.Pack{p}
	}
	m := release.Manifest{Format: release.ManifestFormat, Mesh: "jp", EpsilonMS: 100,
		Current: &release.Release{Number: n, Switchover: time.Now().UTC().Truncate(time.Microsecond), Zones: []release.Zone{z}}}
	files, mem, err := release.Publish(h.mem, m, h.by, ends())
	lab.Must(h.t, err)
	h.publish(files, mem)
	return z
}

// TestTheTextComesWhereMeshsyncCanMakeNothingOfPacks, once it says so by the code for that; packs do otherwise.
func TestTheTextComesWhereMeshsyncCanMakeNothingOfPacks(t *testing.T) {
	ca := testca.New(t)
	h := newHost(t, ca)
	m := h.mirror(ca, h.url)
	var refused []status.Refused
	m.cfg.Refused = func() []status.Refused { return refused }
	has := func(z release.Zone) bool {
		found, err := filepath.Glob(filepath.Join(m.cfg.Depot, release.BlobName(z.Blob.SHA256)))
		lab.Must(t, err)
		return len(found) == 1
	}
	first := h.put(1, nil)
	lab.Must(t, m.round(t.Context()))
	second := h.put(2, &first)
	for _, code := range []string{"", "format", string(release.Packs)} {
		if code != "" {
			refused = []status.Refused{{Number: 2, Reason: status.Reason{Code: code}}}
		}
		lab.Must(t, m.round(t.Context()))
		if got := has(second); got != (code == string(release.Packs)) {
			t.Fatalf("refused for %q: the text is here: %v", code, got)
		}
	}
	if s := m.Status(); s.Wholes != 2 || s.Deltas != 1 {
		t.Errorf("%d texts and %d by packs", s.Wholes, s.Deltas)
	}
}

// withOneZone is a mirror of a release with one zone, which has come, and the file that it is in.
func withOneZone(t *testing.T) (m *Mirror, file string) {
	ca := testca.New(t)
	h := newHost(t, ca)
	m = h.mirror(ca, h.url)
	z := h.put(1, nil)
	lab.Must(t, m.round(t.Context()))
	return m, filepath.Join(m.cfg.Depot, release.BlobName(z.Blob.SHA256))
}

// spoil puts a file in the place of another that differs from it in one bit.
func spoil(t *testing.T, file string, good []byte) {
	t.Helper()
	bad := slices.Clone(good)
	bad[len(bad)/2] ^= 1
	lab.Must(t, errors.Join(os.Remove(file), os.WriteFile(file, bad, 0o644)))
}

// refuses has meshsync refuse release 1 by a code.
func refuses(m *Mirror, code string) {
	m.cfg.Refused = func() []status.Refused { return []status.Refused{{Number: 1, Reason: status.Reason{Code: code}}} }
}

// TestAllZonesAreLookedAtInATenthOfTheTime while meshsync refuses a release: of a hundred thousand zones each look takes seconds, and a release may
// be refused for minutes, until all of its zones are made.
func TestAllZonesAreLookedAtInATenthOfTheTime(t *testing.T) {
	m, file := withOneZone(t)
	refuses(m, "missing")
	lab.Must(t, os.Remove(file))
	for _, due := range []time.Time{time.Now().Add(time.Hour), time.Now()} {
		m.found, m.search = wrongs{refused: true}, due
		lab.Must(t, m.round(t.Context()))
		_, err := os.Stat(file)
		if searched := m.search.After(due); searched != (err == nil) || searched != time.Now().After(due) {
			t.Errorf("due in %v: all were looked at: %v, and the file: %v", time.Until(due), searched, err)
		}
	}
}

// TestADamagedFileIsMendedOnceAReleaseIsRefusedForIt, and not only when all are read through again, which may be in an hour.
func TestADamagedFileIsMendedOnceAReleaseIsRefusedForIt(t *testing.T) {
	m, file := withOneZone(t)
	good, err := os.ReadFile(file)
	lab.Must(t, err)
	for _, code := range ofDamage {
		refuses(m, code)
		m.read, m.found = time.Now().Add(time.Hour), wrongs{}
		spoil(t, file, good)
		lab.Must(t, m.round(t.Context()))
		if now, err := os.ReadFile(file); err != nil || !bytes.Equal(now, good) {
			t.Errorf("refused for %q: %v, and the file is as it should be: %v", code, err, bytes.Equal(now, good))
		}
	}
}

// TestWhatIsWrongAnewIsLookedForAtOnce: another kind of it, or the same once nothing was wrong meanwhile.
func TestWhatIsWrongAnewIsLookedForAtOnce(t *testing.T) {
	var refused []status.Refused
	m := &Mirror{cfg: Config{Refused: func() []status.Refused { return refused }}}
	now := time.Now()
	for i, step := range []struct {
		code string // "": none is refused
		want wrongs
	}{
		{"missing", wrongs{refused: true}},
		{"missing", wrongs{}},
		{"digest", wrongs{refused: true, damaged: true}},
		{"digest", wrongs{}},
		{"packs", wrongs{refused: true, packs: true}},
		{"", wrongs{}},
		{"packs", wrongs{refused: true, packs: true}},
		{"packs", wrongs{}},
	} {
		refused = nil
		if step.code != "" {
			refused = []status.Refused{{Number: 1, Reason: status.Reason{Code: step.code}}}
		}
		got := m.wrong(now)
		if got != step.want {
			t.Errorf("step %d, refused for %q: looked at for %+v", i, step.code, got)
		}
		if got != (wrongs{}) {
			m.found, m.search = got, now.Add(time.Hour)
		}
	}
}

// TestADamagedFileIsMendedThoughAnotherCannotBeHad: a release to come that comes for hours, or not at all, does not keep a node from mending what it
// answers from. All is read through in a tenth of the time, and not in each round.
func TestADamagedFileIsMendedThoughAnotherCannotBeHad(t *testing.T) {
	ca := testca.New(t)
	for why, room := range map[string]bool{"404 Not Found": false, "it is not fetched": true} {
		h := newHost(t, ca)
		m := h.mirror(ca, h.url)
		z := h.put(1, nil)
		lab.Must(t, m.round(t.Context()))
		other := z
		other.Origin, other.Root = "example.com.", release.DigestOf([]byte("other"))
		c, err := h.dir.PutBlob(func(w io.Writer) error {
			_, err := io.WriteString(w, "it is lost on the server, or there is no room for it")
			return err
		})
		lab.Must(t, err)
		other.SHA256, other.Length, other.Blob = c.SHA256, c.Length, c.Blob
		current := &release.Release{Number: 1, Switchover: time.Now().UTC().Truncate(time.Microsecond), Zones: []release.Zone{z}}
		files, mem, err := release.Publish(h.mem, release.Manifest{Format: release.ManifestFormat, Mesh: "jp", EpsilonMS: 100, Current: current,
			Next: &release.Release{Number: 2, Zones: []release.Zone{other, z}}}, h.by, ends())
		lab.Must(t, err)
		h.publish(files, mem)
		if room {
			m.cfg.Disk = z.Blob.Length + other.Blob.Length - 1
		} else {
			lab.Must(t, h.dir.Remove(release.BlobName(other.Blob.SHA256)))
		}
		file := filepath.Join(m.cfg.Depot, release.BlobName(z.Blob.SHA256))
		good, err := os.ReadFile(file)
		lab.Must(t, err)
		refuses(m, string(release.Mismatch))
		for _, due := range []bool{true, false} {
			spoil(t, file, good)
			if !due {
				m.search = time.Now().Add(time.Hour)
			}
			m.read = time.Time{}
			if err := m.round(t.Context()); err == nil || !strings.Contains(err.Error(), why) {
				t.Fatalf("error %v", err)
			}
			if !m.read.After(time.Now()) {
				t.Error("names are read through again with the next look")
			}
			if now, err := os.ReadFile(file); err != nil || bytes.Equal(now, good) != due {
				t.Errorf("reading through is due: %v; the file is %v, and as it should be: %v", due, err, bytes.Equal(now, good))
			}
			if due && m.found != (wrongs{refused: true, damaged: true}) {
				t.Errorf("it was looked at for %+v", m.found)
			}
		}
	}
}

// TestWhatCouldNotBeMendedIsAskedForAgain in the next round: the server was away for a moment.
func TestWhatCouldNotBeMendedIsAskedForAgain(t *testing.T) {
	ca := testca.New(t)
	h := newHost(t, ca)
	var fails atomic.Bool
	url := serve(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if fails.Load() && release.IsNode(strings.TrimPrefix(r.URL.Path, "/")) {
			http.Error(w, "in a moment", http.StatusServiceUnavailable)
			return
		}
		h.dir.Handler().ServeHTTP(w, r)
	}), new(atomic.Bool))
	m := h.mirror(ca, url)
	z := h.put(1, nil)
	var zones []release.Zone
	for i := range 200 {
		z.Origin, z.Root = fmt.Sprintf("z%03d.example.", i), release.DigestOf(fmt.Append(nil, i))
		zones = append(zones, z)
	}
	files, mem, err := release.Publish(h.mem, release.Manifest{Format: release.ManifestFormat, Mesh: "jp", EpsilonMS: 100,
		Current: &release.Release{Number: 2, Switchover: time.Now().UTC().Truncate(time.Microsecond), Zones: zones}}, h.by, ends())
	lab.Must(t, err)
	h.publish(files, mem)
	lab.Must(t, m.round(t.Context()))
	nodes, err := filepath.Glob(filepath.Join(m.cfg.Depot, "targets", "*"))
	lab.Must(t, err)
	i := slices.IndexFunc(nodes, func(name string) bool { return release.IsNode("targets/" + filepath.Base(name)) })
	if i < 0 {
		t.Fatalf("no nodes among %q", nodes)
	}
	good, err := os.ReadFile(nodes[i])
	lab.Must(t, errors.Join(err, os.WriteFile(nodes[i], good[1:], 0o644)))
	m.cfg.Damaged = func() bool { return true }
	for _, away := range []bool{true, false} {
		fails.Store(away)
		if err := m.round(t.Context()); (err != nil) != away {
			t.Fatalf("the server is away: %v; error %v", away, err)
		}
		if now, err := os.ReadFile(nodes[i]); err != nil || bytes.Equal(now, good) == away || m.search.IsZero() != away {
			t.Errorf("the server is away: %v; the node is %v, and as it should be: %v; it is looked for again at %v", away, err, bytes.Equal(now, good), m.search)
		}
	}
}
