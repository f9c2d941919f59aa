package releasing

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// A large zone that changed is released without its text: the manifest names an older text, its base, and the packs since. A new base is due
// when these weigh half as much as it or are more than duePacks. A process that makes release after release has it written beside then (Lately.Base),
// and the next release names it; one that makes a single release writes the zone's text, and so does the other when packs are as heavy as
// the base or more than mostPacks. So nobody who joins fetches more than twice what the text is.
var duePacks = 512 // a test has fewer

func mostPacks() int { return 2 * duePacks }

// lead is how who has an older zone comes to the one that is released.
type lead struct {
	was   release.Zone   // the zone that is answered now
	root  release.Digest // of the zone that is released
	chain []release.Pack // the last one is from was
	kept  int            // packs of chain that are in the file that was names
	short bool           // chain is not all that leads to was
}

// packShare is which part of a zone's image a pack may be of: what differs by more is made of the text in less time.
const packShare = 8

// packHead is more than what a pack has beside its records.
const packHead = 1 << 10

// leadTo stores the pack from the zone that is answered now to one that is released, and says what leads there. It tries the pack first.
// It is nil if a pack is not worth having.
func leadTo(w *home.Writer, old, z *zone.Zone, difference *zone.Delta) (*lead, error) {
	was := w.View().Manifest.Current.Zone(z.Origin())
	if was == nil || was.Root == (release.Digest{}) || difference == nil || difference.Size() > min(z.ImageSize()/packShare, release.MaxPackBytes-packHead) {
		return nil, nil
	}
	pack := zone.PackOf(old, z, difference)
	if _, err := old.Follow(pack); err != nil || pack.From != was.Root {
		return nil, cmp.Or(err, fmt.Errorf("the zone that is answered now has root %x, and was signed with %s", pack.From, was.Root))
	}
	c, err := w.Repository().PutBlob(func(w io.Writer) error { _, err := w.Write(pack.Append(nil)); return err })
	if err != nil || c.Blob.Length > was.Blob.Length/2 {
		return nil, err
	}
	earlier, err := depot.ReadEarlier(w.Repository(), *was)
	if err != nil {
		earlier = nil // the list is damaged: what it has is given up
	}
	return newLead(*was, earlier, release.Pack{From: was.Root, Length: c.Length, Blob: c.Blob}, pack.To), nil
}

// newLead is the lead to a zone with a root, by a pack from one that earlier packs lead to.
func newLead(was release.Zone, earlier []release.Pack, pack release.Pack, root release.Digest) *lead {
	l := &lead{was: was, root: root}
	var err error
	if l.chain, err = was.Chain(earlier); err != nil {
		l.chain, earlier = was.Packs, nil
	}
	l.kept, l.chain = len(earlier), append(slices.Clip(l.chain), pack)
	l.cut(slices.IndexFunc(l.chain, func(p release.Pack) bool { return p.From == root }) + 1) // what leads in a circle
	return l
}

// cut takes the oldest packs off.
func (l *lead) cut(n int) {
	l.chain, l.kept, l.short = l.chain[n:], max(0, l.kept-n), l.short || n > 0
}

// since is how many of the packs come after a zone with a root; none if it is not on the way.
func (l *lead) since(root release.Digest) int {
	i := slices.IndexFunc(l.chain, func(p release.Pack) bool { return p.From == root })
	if i < 0 {
		return 0
	}
	return len(l.chain) - i
}

// isDue says of a base whether a new one is due, and whether it is of no use any more.
func (l *lead) isDue(base release.Zone) (due, over bool) {
	n := l.since(base.Root)
	if n == 0 {
		return true, true
	}
	octets := int64(0)
	for _, p := range l.chain[len(l.chain)-n:] {
		octets += p.Blob.Length
		over = over || p.Blob.Length >= base.Blob.Length
	}
	return n > duePacks || octets > base.Blob.Length/2, over || n > mostPacks() || octets > base.Blob.Length
}

// base is the text that the zone is released with in place of its own, if there is one to go on with.
func (l *lead) base(w *home.Writer, lately *Lately) (release.Zone, bool) {
	base := l.was.Base()
	if beside, there := lately.base(base.Origin); there && l.since(beside.Root) > 0 && w.Repository().Adopt(beside.Blob) == nil {
		base = beside
	}
	due, over := l.isDue(base)
	if due {
		lately.want(base.Origin)
	}
	return base, !over && (lately != nil || !due)
}

// name has a zone name the packs: the newest in the manifest, and what was before in a file, which is written anew when the others become
// more than most. Those before the base go when they weigh more than it does. Without file there is none.
func (l *lead) name(z *release.Zone, most int, file bool, put func(write func(io.Writer) error) (depot.Content, error)) error {
	l.cut(1 + lastIndex(l.chain, func(p release.Pack) bool { return p.Blob.Length >= z.Blob.Length }))
	named := l.chain[l.kept:]
	switch {
	case len(l.chain) <= most || !file:
		z.Packs, z.Earlier = slices.Clone(l.chain[max(0, len(l.chain)-most):]), release.Blob{}
		return nil
	case len(named) <= most && l.kept > 0 && !l.short:
		z.Packs, z.Earlier = slices.Clone(named), l.was.Earlier
		return nil
	}
	l.trim(z)
	few := max(1, most/2)
	if len(l.chain) <= few {
		z.Packs, z.Earlier = slices.Clone(l.chain), release.Blob{}
		return nil
	}
	before := l.chain[:len(l.chain)-few]
	c, err := put(func(w io.Writer) error { _, err := w.Write(release.EncodeEarlier(before)); return err })
	if err != nil {
		return err
	}
	z.Packs, z.Earlier = slices.Clone(l.chain[len(before):]), c.Blob
	return nil
}

// trim takes off what is farther back than the base, and weighs more or is more than a file may list.
func (l *lead) trim(z *release.Zone) {
	since := 0
	if !z.Whole() {
		since = l.since(z.BaseRoot)
	}
	i, left := len(l.chain)-since, z.Blob.Length
	for i > 0 && len(l.chain)-i < release.MaxEarlier {
		if left -= l.chain[i-1].Blob.Length; left < 0 {
			break
		}
		i--
	}
	l.cut(i)
}

func lastIndex(packs []release.Pack, is func(release.Pack) bool) int {
	for i, p := range slices.Backward(packs) {
		if is(p) {
			return i
		}
	}
	return -1
}

// mostNamed is how many packs of a zone the manifest names before they go into a file, where it has so many zones.
func mostNamed(zones int) int {
	return min(release.MaxPacks, max(4, maxDeltaZones/max(1, zones)))
}
