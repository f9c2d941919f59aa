// Package assemble makes a zone of one that is at hand and of the packs that a depot has, without the zone's text. What it makes has the
// root that was signed, or is refused. It imports depot, release, zone and zonefile; meshsync calls it, and meshctl where it reads what was released.
package assemble

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// Start is where a way may begin.
type Start struct {
	Zone func(root release.Digest) *zone.Zone        // one that is at hand; nil: there is none with this root
	Base func(text release.Zone) (*zone.Zone, error) // reads one whose text is in the depot; nil: none is read
	Step func(done, of int) (goOn bool)              // is told before each pack; nil: nobody
}

// Zone makes a zone by the packs of a way: from the newest one at hand on it, or from the text that it begins with. It takes time and
// memory for what changed since. Errors are *release.Error: with the rule Missing there is no way here, or it was given up, and with the
// rule Packs there is one and it does not lead to the zone that was signed.
func Zone(repo fs.FS, way depot.Way, signed release.Zone, from Start) (*zone.Zone, error) {
	if signed.Root == (release.Digest{}) {
		return nil, missing(signed)
	}
	z, err := made(repo, way, signed, from)
	if rule, ok := release.RuleOf(err); err == nil || ok && rule == release.Missing || errors.Is(err, context.Canceled) {
		return z, err
	}
	return nil, &release.Error{File: release.BlobName(signed.Blob.SHA256), Rule: release.Packs, Detail: fmt.Sprintf("zone %s: %v", signed.Origin, err)}
}

func made(repo fs.FS, way depot.Way, signed release.Zone, from Start) (*zone.Zone, error) {
	z, packs, err := begin(way, signed, from)
	if err != nil {
		return nil, err
	}
	for i, p := range packs {
		if from.Step != nil && !from.Step(i, len(packs)) {
			return nil, missing(signed)
		}
		to := signed.Root
		if i+1 < len(packs) {
			to = packs[i+1].From
		}
		if z, err = step(repo, z, p, to); err != nil {
			return nil, err
		}
	}
	if root := z.Root(); root != signed.Root { // there were no packs
		return nil, fmt.Errorf("the text of the way is of a zone with root %x, and %s was signed", root, signed.Root)
	}
	return z, nil
}

// Released makes a zone that a repository has, as its manifest or a way in a depot has it: of its text, or of that of an older zone and
// packs. It ends when goOn, which is told the number of records read, says so.
func Released(repo fs.FS, signed release.Zone, goOn func(records int) bool) (*zone.Zone, error) {
	var way depot.Way
	var unknown error
	if dir, ok := repo.(*depot.Dir); ok {
		way = dir.Way(signed)
	} else if !signed.Whole() {
		way, unknown = depot.Released(repo, signed)
	}
	if signed.Whole() {
		z, err := readText(repo, signed, goOn)
		if rule, _ := release.RuleOf(err); rule != release.Missing || way.Base.Origin == "" {
			return z, err
		}
	}
	if unknown != nil {
		return nil, unknown
	}
	return Led(repo, way, signed, goOn)
}

// Led makes a zone of the text that a way begins with, and the packs of that.
func Led(repo fs.FS, way depot.Way, signed release.Zone, goOn func(records int) bool) (*zone.Zone, error) {
	return Zone(repo, way, signed, Start{
		Zone: func(release.Digest) *zone.Zone { return nil },
		Base: func(base release.Zone) (*zone.Zone, error) { return readText(repo, base, goOn) },
		Step: func(int, int) bool { return goOn(0) },
	})
}

// readText reads a zone of its text.
func readText(repo fs.FS, of release.Zone, goOn func(records int) bool) (*zone.Zone, error) {
	open := func() (io.ReadCloser, error) { return depot.OpenBlob(repo, of) }
	if dir, ok := repo.(*depot.Dir); ok {
		open = func() (io.ReadCloser, error) { return dir.OpenBlob(of) }
	}
	text, err := open()
	if err != nil {
		return nil, err
	}
	defer text.Close()
	z, found := zonefile.Parse(text, zonefile.Options{Origin: of.Origin, File: of.Origin, Progress: goOn})
	if z == nil {
		return nil, errors.New(found[0].String())
	}
	return z, nil
}

func missing(z release.Zone) error {
	return &release.Error{File: release.BlobName(z.Blob.SHA256), Rule: release.Missing, Detail: "no such file, and no packs, for zone " + z.Origin}
}

// begin is where to begin, and what is to be applied from there on.
func begin(way depot.Way, signed release.Zone, from Start) (*zone.Zone, []release.Pack, error) {
	if z := from.Zone(signed.Root); z != nil {
		return z, nil, nil
	}
	for i, p := range slices.Backward(way.Packs) {
		if z := from.Zone(p.From); z != nil {
			return z, way.Packs[i:], nil
		}
	}
	if way.Base.Origin == "" || from.Base == nil {
		return nil, nil, missing(signed)
	}
	if way.Base.Length > signed.Length*baseShare+baseLeast {
		return nil, nil, fmt.Errorf("the text that the packs begin with has %d octets, and that of the zone has %d", way.Base.Length, signed.Length)
	}
	packs := way.Packs
	if i := slices.IndexFunc(packs, func(p release.Pack) bool { return p.From == way.Base.Root }); i > 0 {
		packs = packs[i:]
	}
	z, err := from.Base(way.Base)
	return z, packs, err
}

// Bounds of the text that a way begins with, of which nobody signed the length: so many times that of the zone, and so many octets.
// Packs that take more out of a text weigh more than what is left, and are not taken.
const (
	baseShare = 8
	baseLeast = 1 << 20
)

// step applies a pack that is to make a zone with a root.
func step(repo fs.FS, z *zone.Zone, p release.Pack, to release.Digest) (*zone.Zone, error) {
	data, err := depot.ReadPack(repo, z.Origin(), p)
	if err != nil {
		return nil, err
	}
	pack, err := zone.ParsePack(data)
	if err != nil {
		return nil, err
	}
	if pack.To != to {
		return nil, fmt.Errorf("%w: the pack makes root %x, and %s was signed", zone.ErrPack, pack.To, to)
	}
	return z.Follow(pack)
}
