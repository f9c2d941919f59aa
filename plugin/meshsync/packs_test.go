package meshsync

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"testing"

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
	p := &packed{h: h}
	for i := range releases {
		var text strings.Builder
		text.WriteString(zoneText(origin, uint64(i+1)))
		for n := range names {
			fmt.Fprintf(&text, "n%d.%s 300 IN TXT \"%d\"\n", n, origin, (n+i)/100)
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

// without takes texts away.
func (p *packed) without(zones ...release.Zone) {
	for _, z := range zones {
		must(p.h.t, os.Remove(p.h.blobPath(z)))
	}
}

func (p *packed) known(i int) map[release.Digest]*zone.Zone {
	return map[release.Digest]*zone.Zone{p.signed[i].SHA256: p.zones[i]}
}

func (p *packed) compile(signed release.Zone, known map[release.Digest]*zone.Zone) (*zone.Zone, *compiling, error) {
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
}
