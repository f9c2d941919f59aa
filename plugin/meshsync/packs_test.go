package meshsync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// packed is a zone in several releases, which packs lead through.
type packed struct {
	h      *host
	zones  []*zone.Zone
	signed []release.Zone
}

// newPacked makes so many zones of so many names; each tells its release.
func newPacked(h *host, origin string, releases, names int) *packed {
	h.t.Helper()
	return packedOf(h, origin, releases, names, func(n, i int) string { return fmt.Sprint((n + i) / 100) })
}

// packedOf is newPacked of names that have a text in each release, counted from 0.
func packedOf(h *host, origin string, releases, names int, txt func(n, i int) string) *packed {
	h.t.Helper()
	p := &packed{h: h}
	for i := range releases {
		var text strings.Builder
		text.WriteString(zoneText(origin, uint64(i+1)))
		for n := range names {
			fmt.Fprintf(&text, "n%d.%s 300 IN TXT \"%s\"\n", n, origin, txt(n, i))
		}
		z, found := zonefile.Parse(strings.NewReader(text.String()), zonefile.Options{Origin: origin})
		if z == nil {
			h.t.Fatal(found)
		}
		var canonical bytes.Buffer
		must(h.t, zonefile.Write(&canonical, z))
		signed := h.pack(origin, z.Serial(), canonical.Bytes())
		signed.Root = z.Root()
		if i > 0 {
			signed.Packs = append(slices.Clone(p.signed[i-1].Packs), p.lead(p.zones[i-1], z))
		}
		p.zones, p.signed = append(p.zones, z), append(p.signed, signed)
	}
	return p
}

// lead stores the pack that leads from one zone to another.
func (p *packed) lead(from, to *zone.Zone) release.Pack {
	pack := zone.PackOf(from, to, zone.Difference(from, to, 1<<20))
	c, err := p.h.repo.PutBlob(func(w io.Writer) error { _, err := w.Write(pack.Append(nil)); return err })
	must(p.h.t, err)
	return release.Pack{From: pack.From, Length: c.Length, Blob: c.Blob}
}

// basedOn has later zones be made of the first one: they have no texts.
func (p *packed) basedOn() {
	base := p.signed[0]
	for i := range p.signed[1:] {
		z := &p.signed[i+1]
		p.without(*z)
		z.SHA256, z.Length, z.Blob, z.BaseRoot = base.SHA256, base.Length, base.Blob, base.Root
	}
}

// without takes texts away.
func (p *packed) without(zones ...release.Zone) {
	for _, z := range zones {
		must(p.h.t, os.Remove(p.h.blobPath(z)))
	}
}

func (p *packed) known(i int) known {
	return madeBefore(p.signed[i], p.zones[i])
}

// madeBefore is what is known when one zone of a release that failed is right.
func madeBefore(signed release.Zone, z *zone.Zone) known {
	return known{failed: &compiled{parts: []*part{{leaf: &leaf{signed: []release.Zone{signed}}, made: []*zone.Zone{z}}}}}
}

func (p *packed) compile(signed release.Zone, known known) (*zone.Zone, *compiling, error) {
	busy := &compiling{}
	c, err := compile(p.h.t.Context(), p.h.repo.Path(), release.Release{Number: 1, Zones: []release.Zone{signed}}, known, &imageCache{dir: p.h.t.TempDir()}, busy)
	if err != nil {
		return nil, busy, err
	}
	return c.zones.Get(signed.Origin), busy, nil
}

// TestAZoneIsMadeOfPacks, one or several, without its text: it is the zone that was signed.
func TestAZoneIsMadeOfPacks(t *testing.T) {
	_, h := nodeDir(t)
	p := newPacked(h, "example.org.", 4, 2000)
	p.without(p.signed[1:]...)
	for from := range 3 {
		for to := from + 1; to < 4; to++ {
			z, busy, err := p.compile(p.signed[to], p.known(from))
			if err != nil {
				t.Fatalf("%d to %d: %v", from, to, err)
			}
			if z.Root() != p.zones[to].Root() || z.Serial() != p.zones[to].Serial() {
				t.Errorf("%d to %d: another zone", from, to)
			}
			if busy.records.Load() != int64(z.Len()) || busy.octets.Load() != p.signed[to].Length {
				t.Errorf("%d to %d: %d records and %d octets are shown", from, to, busy.records.Load(), busy.octets.Load())
			}
		}
	}
	if _, _, err := p.compile(p.signed[2], p.known(3)); ruleOf(err) != release.Missing {
		t.Errorf("no pack leads back: %v", err)
	}
}

// TestAZoneIsMadeOfABaseAndPacks by who has nothing, and of packs alone by who has an older one.
func TestAZoneIsMadeOfABaseAndPacks(t *testing.T) {
	_, h := nodeDir(t)
	p := newPacked(h, "example.org.", 4, 2000)
	p.basedOn()
	all := p.signed[3].Packs
	list, err := h.repo.PutBlob(func(w io.Writer) error { _, err := w.Write(release.EncodeEarlier(all[:2])); return err })
	must(t, err)
	listed := p.signed[3]
	listed.Packs, listed.Earlier = all[2:], list.Blob
	for name, signed := range map[string]release.Zone{"packs": p.signed[3], "a list of them": listed} {
		z, busy, err := p.compile(signed, known{})
		if err != nil || z.Root() != p.zones[3].Root() || z.Serial() != p.zones[3].Serial() {
			t.Fatalf("%s: %v", name, err)
		}
		if busy.records.Load() != int64(z.Len()) || busy.octets.Load() != signed.Length {
			t.Errorf("%s: %d records and %d octets are shown", name, busy.records.Load(), busy.octets.Load())
		}
	}
	p.without(p.signed[0])
	for from := range 3 {
		if z, _, err := p.compile(listed, p.known(from)); err != nil || z.Root() != p.zones[3].Root() {
			t.Errorf("from %d: %v", from, err)
		}
	}
	if _, _, err := p.compile(listed, known{}); ruleOf(err) != release.Missing {
		t.Errorf("without the base: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := compile(ctx, h.repo.Path(), release.Release{Number: 1, Zones: p.signed[3:]}, p.known(0), &imageCache{dir: t.TempDir()}, &compiling{}); !errors.Is(err, context.Canceled) {
		t.Errorf("given up: %v", err)
	}
}

// TestANodeOfABaseAndPacksStartsAgain without its cache, or with it and no base.
func TestANodeOfABaseAndPacksStartsAgain(t *testing.T) {
	dir, h := nodeDir(t)
	c := newConfig(dir, h)
	c.cacheFrom = 1
	p := newPacked(h, "example.org.", 3, 4000)
	p.basedOn()
	h.current(1, p.signed[:1])
	n := startNode(t, c)
	n.becomes(1)
	for i := range 2 {
		h.current(uint64(2+i), p.signed[1+i:2+i])
		n.becomes(uint64(2 + i))
	}
	n.close()
	must(t, os.RemoveAll(filepath.Join(c.dir, "cache")))
	n = startNode(t, c)
	n.becomes(3)
	n = n.restart() // which waits until the cache is written
	n.becomes(3)
	n.close()
	p.without(p.signed[0])
	n = startNode(t, c)
	n.becomes(3)
	if z := n.answering().zones.Get("example.org."); z.Root() != p.signed[2].Root {
		t.Error("another zone")
	}
}

func ruleOf(err error) release.Rule {
	rule, _ := release.RuleOf(err)
	return rule
}

// TestSignedPacksThatLeadElsewhereAreRefused, and the text is taken if it is there: whoever signs may have made a mistake.
func TestSignedPacksThatLeadElsewhereAreRefused(t *testing.T) {
	_, h := nodeDir(t)
	p, other := newPacked(h, "example.org.", 3, 2000), newPacked(h, "example.net.", 3, 2000)
	junk := func(text string) release.Pack {
		c, err := h.repo.PutBlob(func(w io.Writer) error { _, err := io.WriteString(w, text); return err })
		must(t, err)
		return release.Pack{From: p.signed[1].Root, Length: c.Length, Blob: c.Blob}
	}
	swapped := slices.Clone(p.signed[2].Packs)
	swapped[0].Blob, swapped[1].Blob, swapped[0].Length, swapped[1].Length = swapped[1].Blob, swapped[0].Blob, swapped[1].Length, swapped[0].Length
	bomb := p.signed[2].Packs[1]
	bomb.Blob, bomb.Length = junk(strings.Repeat("\x00", 1<<24)).Blob, 1000
	foreign := other.signed[2].Packs[1]
	foreign.From = p.signed[1].Root
	gap := release.Pack{From: p.signed[1].Root, Length: p.signed[2].Packs[0].Length, Blob: p.signed[2].Packs[0].Blob}
	cases := map[string][]release.Pack{
		"in the wrong order": swapped, "a bomb": {bomb}, "of another zone": {foreign}, "to another release": {gap}, "no pack": {junk("no pack")}, "empty": {junk("x")},
	}
	for name, packs := range cases {
		signed := p.signed[2]
		signed.Packs = packs
		known := p.known(1)
		if name == "in the wrong order" {
			known = p.known(0)
		}
		if z, _, err := p.compile(signed, known); err != nil || z.Root() != signed.Root {
			t.Errorf("%s: the text is not taken: %v", name, err)
		}
	}
	wrong := p.signed[2]
	wrong.Root[5]++
	if _, _, err := p.compile(wrong, p.known(1)); ruleOf(err) != release.Format {
		t.Errorf("a root that neither text nor packs have: %v", err)
	}
	p.without(p.signed[2])
	for name, packs := range cases {
		signed := p.signed[2]
		signed.Packs = packs
		known := p.known(1)
		if name == "in the wrong order" {
			known = p.known(0)
		}
		if _, busy, err := p.compile(signed, known); ruleOf(err) != release.Packs {
			t.Errorf("%s: %v", name, err)
		} else if n := busy.records.Load(); n != 0 {
			t.Errorf("%s: %d records are shown", name, n)
		}
	}
	if _, _, err := p.compile(wrong, p.known(1)); ruleOf(err) != release.Packs {
		t.Errorf("a root that packs do not make: %v", err)
	}
	for name, packs := range cases { // by who has nothing, and by who has a zone on the way
		for _, from := range []known{{}, p.known(0), p.known(1)} {
			signed, base := p.signed[2], p.signed[0]
			signed.SHA256, signed.Length, signed.Blob, signed.BaseRoot = base.SHA256, base.Length, base.Blob, base.Root
			if signed.Packs = packs; name != "in the wrong order" {
				signed.Packs = append(p.signed[1].Packs[:1:1], packs...)
			}
			if _, busy, err := p.compile(signed, from); ruleOf(err) != release.Packs {
				t.Errorf("%s, on a base: %v", name, err)
			} else if n := busy.records.Load(); n != 0 {
				t.Errorf("%s, on a base: %d records are shown", name, n)
			}
		}
	}
}

// images are the files of a node's cache.
func images(t *testing.T, c config) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(c.dir, "cache"))
	must(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestTheCacheIsAnImageAndPacks: it is written anew only when there are many packs since, and a node that starts again needs no text.
func TestTheCacheIsAnImageAndPacks(t *testing.T) {
	dir, h := nodeDir(t)
	c := newConfig(dir, h)
	c.cacheFrom = 1
	const releases = 2*maxLog + 3
	p := newPacked(h, "example.org.", releases, 4000)
	h.current(1, p.signed[:1])
	n := startNode(t, c)
	n.becomes(1)
	n = n.restart()
	n.becomes(1)
	p.without(p.signed...)
	of := func(i int) string { return cacheName(p.signed[i].Root) }
	written := 0
	for i := 1; i < releases; i++ {
		signed := p.signed[i]
		signed.Packs = signed.Packs[max(0, len(signed.Packs)-release.MaxPacks):]
		h.current(uint64(i+1), []release.Zone{signed})
		n.becomes(uint64(i + 1))
		if i%3 != 0 {
			continue
		}
		n = n.restart() // which waits until the cache is written
		n.becomes(uint64(i + 1))
		n.close()
		if names := images(t, c); !slices.Contains(names, of(written)) || len(names) > 2 {
			written = slices.IndexFunc(p.signed, func(z release.Zone) bool { return slices.Contains(names, cacheName(z.Root)) })
			if written < 0 || i-written > maxLog {
				t.Fatalf("release %d: the cache has %v", i+1, names)
			}
		}
		n = startNode(t, c)
		n.becomes(uint64(i + 1))
	}
	if written < 2 {
		t.Errorf("the image is still that of release %d", written+1)
	}
}

// TestADamagedImageOrPackIsFound before its first use, and the text is read; then all is as before.
func TestADamagedImageOrPackIsFound(t *testing.T) {
	for name, damage := range map[string]func(image, pack string) error{
		"no image":   func(image, _ string) error { return os.Remove(image) },
		"torn image": func(image, _ string) error { return os.Truncate(image, 1000) },
		"image":      func(image, _ string) error { return flip(image, 5000) },
		"no pack":    func(_, pack string) error { return os.Remove(pack) },
		"torn pack":  func(_, pack string) error { return os.Truncate(pack, 10) },
		"pack":       func(_, pack string) error { return flip(pack, 50) },
		"half written": func(image, _ string) error {
			return os.WriteFile(filepath.Join(filepath.Dir(image), ".new-1"), []byte("half"), 0o600)
		},
		"both": func(image, pack string) error {
			return firstError(os.Truncate(image, 0), os.Truncate(pack, 0))
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, h := nodeDir(t)
			c := newConfig(dir, h)
			c.cacheFrom = 1
			p := newPacked(h, "example.org.", 3, 4000)
			h.current(1, p.signed[:1])
			n := startNode(t, c)
			n.becomes(1)
			n = n.restart()
			h.current(3, p.signed[2:])
			n.becomes(3)
			n.close()
			image := filepath.Join(c.dir, "cache", cacheName(p.signed[0].Root))
			must(t, damage(image, h.path(release.BlobName(p.signed[2].Packs[1].Blob.SHA256))))
			n = startNode(t, c)
			n.becomes(3)
			if z := n.answering().zones.Get("example.org."); z.Root() != p.signed[2].Root {
				t.Error("another zone")
			}
			n = n.restart() // the text is kept compiled
			n.becomes(3)
			n.close()
			p.without(p.signed[2])
			startNode(t, c).becomes(3)
		})
	}
}

// cacheChild makes the test binary write the cache of a node's directory anew, and kill itself at the step that is said.
const cacheChild = "MESHSYNC_TEST_CACHE"

// writeCache is what that process does.
func writeCache(dir, step string) {
	left, err := strconv.Atoi(step)
	if err == nil {
		cacheStep = func() {
			if left--; left == 0 {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}
		err = cacheLatest(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// cacheLatest makes the current release of a node's repository of its cache and packs, and keeps that.
func cacheLatest(dir string) error {
	repository := filepath.Join(dir, "repository")
	root, err := os.ReadFile(filepath.Join(dir, "root.json"))
	if err != nil {
		return err
	}
	mem, err := release.NewMemory(root)
	if err != nil {
		return err
	}
	view, _, err := release.Verify(os.DirFS(repository), mem)
	if err != nil {
		return err
	}
	repo, err := depot.Open(repository)
	if err != nil {
		return err
	}
	defer repo.Close()
	cache := &imageCache{dir: filepath.Join(dir, "cache"), from: 1}
	current := *view.Manifest.Current
	c, err := compile(context.Background(), repository, current, known{}, cache, &compiling{})
	if err != nil {
		return err
	}
	if z := c.zones.All()[0]; z.Root() != current.Zones[0].Root {
		return errors.New("another zone")
	}
	cache.update(repo, c, known{})
	return nil
}

// TestTheCacheKilledAtAnyStepIsOfUse: the process dies at each step of replacing an image; what is left makes the zone all the same,
// without its text.
func TestTheCacheKilledAtAnyStepIsOfUse(t *testing.T) {
	top := t.TempDir()
	h := newHost(t, top)
	p := newPacked(h, "example.org.", maxLog+3, 2000)
	h.current(1, p.signed[:1])
	must(t, cacheLatest(top))
	p.without(p.signed...)
	last := p.signed[maxLog+2:]
	h.current(maxLog+3, last)
	images := filepath.Join(top, "cache")
	old := filepath.Join(t.TempDir(), "old")
	must(t, os.CopyFS(old, os.DirFS(images)))
	for step := 1; ; step++ {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), cacheChild+"="+top, cacheChild+"_STEP="+strconv.Itoa(step))
		out, err := cmd.CombinedOutput()
		killed := new(exec.ExitError)
		if err != nil && (!errors.As(err, &killed) || killed.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL) {
			t.Fatalf("step %d: %v: %s", step, err, out)
		}
		must(t, cacheLatest(top)) // of what was left
		entries, err := os.ReadDir(images)
		must(t, err)
		if len(entries) != 1 || entries[0].Name() != cacheName(last[0].Root) {
			t.Fatalf("step %d: %v", step, entries)
		}
		if killed.ProcessState == nil {
			if step < 7 { // create, write, sync, rename, sync, remove
				t.Errorf("done in %d steps", step)
			}
			return
		}
		must(t, os.RemoveAll(images))
		must(t, os.CopyFS(images, os.DirFS(old)))
	}
}
