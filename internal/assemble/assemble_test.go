package assemble

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// world is a depot in which there are the text of the first of four zones, and packs from each to the next.
type world struct {
	t      *testing.T
	dir    *depot.Dir
	zones  []*zone.Zone
	signed []release.Zone
	packs  []release.Pack
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newWorld(t *testing.T) *world {
	w := &world{t: t}
	var err error
	w.dir, err = depot.Create(t.TempDir())
	must(t, err)
	t.Cleanup(func() { w.dir.Close() })
	for i := range 4 {
		var text strings.Builder
		fmt.Fprintf(&text, "example. 60 IN SOA ns.example. host.example. %d 1 1 1 60\nexample. 60 IN NS ns.example.\nns.example. 60 IN A 192.0.2.1\n", i+1)
		for n := range 300 {
			fmt.Fprintf(&text, "n%d.example. 60 IN TXT %d\n", n, (n+i)/50)
		}
		z, found := zonefile.Parse(strings.NewReader(text.String()), zonefile.Options{})
		if z == nil {
			t.Fatal(found)
		}
		c, err := w.dir.PutBlob(func(w io.Writer) error { return zonefile.Write(w, z) })
		must(t, err)
		w.zones = append(w.zones, z)
		w.signed = append(w.signed, release.Zone{Origin: "example.", Serial: z.Serial(), SHA256: c.SHA256, Length: c.Length, Blob: c.Blob, Root: z.Root()})
		if i > 0 {
			must(t, w.dir.Remove(release.BlobName(c.Blob.SHA256)))
			w.packs = append(w.packs, w.pack(w.zones[i-1], z))
		}
	}
	return w
}

func (w *world) pack(from, to *zone.Zone) release.Pack {
	p := zone.PackOf(from, to, zone.Difference(from, to, 1<<20))
	c, err := w.dir.PutBlob(func(w io.Writer) error { _, err := w.Write(p.Append(nil)); return err })
	must(w.t, err)
	return release.Pack{From: p.From, Length: c.Length, Blob: c.Blob}
}

// way writes down the way to the last zone.
func (w *world) way(way depot.Way) {
	data, err := json.Marshal(way)
	must(w.t, err)
	must(w.t, os.WriteFile(filepath.Join(w.dir.Path(), "blobs/sha256/way-"+w.signed[3].Root.String()), data, 0o600))
}

// last makes the last zone, with some at hand; read says whether the text was read.
func (w *world) last(at ...int) (z *zone.Zone, read bool, err error) {
	z, err = Zone(w.dir, w.dir.Way(w.signed[3]), w.signed[3], Start{
		Zone: func(root release.Digest) *zone.Zone {
			i := slices.IndexFunc(at, func(i int) bool { return w.zones[i].Root() == root })
			if i < 0 {
				return nil
			}
			return w.zones[at[i]]
		},
		Base: func(base release.Zone) (*zone.Zone, error) {
			read = true
			text, err := w.dir.OpenBlob(base)
			if err != nil {
				return nil, err
			}
			defer text.Close()
			z, found := zonefile.Parse(text, zonefile.Options{Origin: base.Origin})
			if z == nil {
				return nil, errors.New(found[0].String())
			}
			return z, nil
		},
	})
	return z, read, err
}

// TestAZoneIsMadeOfTheNearestAtHand: what it is made of is read only if there is nothing nearer.
func TestAZoneIsMadeOfTheNearestAtHand(t *testing.T) {
	w := newWorld(t)
	w.way(depot.Way{Base: w.signed[0], Packs: w.packs})
	for _, at := range [][]int{nil, {0}, {1}, {0, 2}, {2, 1, 0}, {3}} {
		z, read, err := w.last(at...)
		must(t, err)
		if z.Root() != w.signed[3].Root || read != (at == nil) {
			t.Errorf("of %v: the text was read: %v", at, read)
		}
	}
	must(t, w.dir.Remove(release.BlobName(w.packs[1].Blob.SHA256)))
	if _, _, err := w.last(2); err != nil {
		t.Errorf("a pack is asked for that is not needed: %v", err)
	}
	if _, _, err := w.last(1); ruleOf(err) != release.Missing {
		t.Errorf("a pack that is not there: %v", err)
	}
}

func ruleOf(err error) release.Rule {
	rule, _ := release.RuleOf(err)
	return rule
}

// TestAWayThatLeadsElsewhereIsRefused: nobody signed it.
func TestAWayThatLeadsElsewhereIsRefused(t *testing.T) {
	w := newWorld(t)
	other := w.signed[0]
	other.Length = 8*w.signed[3].Length + 2<<20
	short := w.signed[0]
	short.Length--
	for name, way := range map[string]depot.Way{
		"one is left out":    {Base: w.signed[0], Packs: []release.Pack{w.packs[0], w.packs[2]}},
		"in another order":   {Base: w.signed[0], Packs: []release.Pack{w.packs[1], w.packs[0], w.packs[2]}},
		"the last is absent": {Base: w.signed[0], Packs: w.packs[:2]},
		"no packs":           {Base: w.signed[0]},
		"a text too long":    {Base: other, Packs: w.packs},
		"another text":       {Base: short, Packs: w.packs},
		"a longer pack":      {Base: w.signed[0], Packs: []release.Pack{{From: w.packs[0].From, Length: 1, Blob: w.packs[0].Blob}, w.packs[1], w.packs[2]}},
	} {
		w.way(way)
		if z, _, err := w.last(); ruleOf(err) != release.Packs {
			t.Errorf("%s: %v, %v", name, z != nil, err)
		}
	}
	w.way(depot.Way{Packs: w.packs})
	if _, _, err := w.last(); ruleOf(err) != release.Missing {
		t.Errorf("nothing to begin with: %v", err)
	}
}

// TestAZoneIsReadAsItWasReleased: of its text, of a way in a depot, or of a base and packs that the manifest names; and one that a way
// leads through of a part of it.
func TestAZoneIsReadAsItWasReleased(t *testing.T) {
	w := newWorld(t)
	on := func(int) bool { return true }
	if _, err := Released(w.dir, w.signed[3], on); ruleOf(err) != release.Missing {
		t.Errorf("nothing is there: %v", err)
	}
	based := w.signed[3]
	based.SHA256, based.Length, based.Blob, based.BaseRoot, based.Packs = w.signed[0].SHA256, w.signed[0].Length, w.signed[0].Blob, w.signed[0].Root, w.packs
	listed := based
	list, err := w.dir.PutBlob(func(to io.Writer) error { _, err := to.Write(release.EncodeEarlier(w.packs[:2])); return err })
	must(t, err)
	listed.Earlier, listed.Packs = list.Blob, w.packs[2:]
	elsewhere := struct{ fs.FS }{w.dir} // as in a bucket
	for name, read := range map[string]func() (*zone.Zone, error){
		"a base":           func() (*zone.Zone, error) { return Released(w.dir, based, on) },
		"a list":           func() (*zone.Zone, error) { return Released(w.dir, listed, on) },
		"a base elsewhere": func() (*zone.Zone, error) { return Released(elsewhere, based, on) },
		"a list elsewhere": func() (*zone.Zone, error) { return Released(elsewhere, listed, on) },
		"a part of the way": func() (*zone.Zone, error) {
			return Led(w.dir, depot.Way{Base: w.signed[0], Packs: w.packs}, w.signed[3], on)
		},
	} {
		if z, err := read(); err != nil || z.Root() != w.signed[3].Root {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, repo := range []fs.FS{w.dir, elsewhere} {
		if z, err := Released(repo, w.signed[0], on); err != nil || z.Root() != w.signed[0].Root {
			t.Errorf("by its text: %v", err)
		}
		if _, err := Released(repo, based, func(int) bool { return false }); err == nil {
			t.Error("it is not given up")
		}
	}
	if z, err := Led(w.dir, depot.Way{Base: w.signed[0], Packs: w.packs[:2]}, w.signed[2], on); err != nil || z.Root() != w.signed[2].Root {
		t.Errorf("through which it leads: %v", err)
	}
	w.way(depot.Way{Base: w.signed[0], Packs: w.packs})
	if z, err := Released(w.dir, w.signed[3], on); err != nil || z.Root() != w.signed[3].Root {
		t.Errorf("by a way: %v", err)
	}
	must(t, w.dir.Remove(release.BlobName(list.Blob.SHA256)))
	if _, err := Released(elsewhere, listed, on); ruleOf(err) != release.Missing {
		t.Errorf("without the list: %v", err)
	}
}
