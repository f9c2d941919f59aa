package releasing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonecheck"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// candidate is a zone file on its way into a release.
type candidate struct {
	source  Source
	nth, of int          // it is the nth of so many
	zone    release.Zone // zero if the file makes no zone
	policy  zonecheck.Policy
	rules   []string // of the errors against it; empty: it is fine
	change  history.ZoneChange
}

// judge checks a zone against the one that is answered now, which it returns, nil if there is none; and says how they differ: nil if
// that is not worth having.
func judge(ctx context.Context, w *home.Writer, c *candidate, z *zone.Zone, lately *Lately, took *laps) (found []zone.Finding, old *zone.Zone, difference *zone.Delta) {
	old, err := answered(ctx, w, z, c.zone, lately)
	took.lap("zones before read")
	c.change, difference = changeOf(old, z)
	took.lap("compared")
	if c.policy.SignaturesCount() {
		c.zone.SignedUntil = signaturesEnd(z, w.Now())
	}
	memo := lately.memo(z)
	memo.Warn(c.source.Zone != nil) // what was read from text was warned of then
	lately.checks(&checking{z.Origin(), z.Len(), c.nth, c.of, memo, time.Now()})
	found = checkWith(ctx, memo, old, z, c.policy, w.Now(), w.State().Lease())
	took.lap("checked")
	if err != nil { // no reason to be stuck with it, nor to let anything replace it
		found = append(found, zone.Finding{Zone: z.Origin(), Owner: z.Origin(), Rule: "previous", Severity: zone.Error,
			Detail: fmt.Sprintf("the zone that is answered now cannot be read to compare with: %v", err)})
	}
	return found, old, difference
}

// take notes which rules a zone breaks.
func (c *candidate) take(found []zone.Finding) []zone.Finding {
	for i := range found {
		found[i].File = cmp.Or(found[i].File, c.source.File)
		if found[i].Severity == zone.Error {
			c.rules = append(c.rules, found[i].Rule)
		}
	}
	slices.Sort(c.rules)
	c.rules = slices.Compact(c.rules)
	return found
}

// addDeltas stores the ways to a zone, and to its text. They are a convenience: without, nodes take the whole zone.
func addDeltas(w *home.Writer, c *candidate, old, z *zone.Zone, difference *zone.Delta) []zone.Finding {
	var err, noPacks error
	c.zone.Deltas, err = deltas(w, c.zone, difference)
	if c.zone.Root != (release.Digest{}) {
		c.zone.Packs, noPacks = packs(w, c.zone, old, z, difference)
	}
	if err = errors.Join(err, noPacks); err == nil {
		return nil
	}
	return []zone.Finding{{File: c.source.File, Zone: c.zone.Origin, Owner: c.zone.Origin, Rule: "delta", Severity: zone.Warning,
		Detail: fmt.Sprintf("nodes take the whole zone, since there is no delta: %v", err)}}
}

// signaturesEnd is when the first signature of a zone ends; zero if it has none. Its 32 bits are read as the instant that is
// closest to now (RFC 4034 3.1.5).
func signaturesEnd(z *zone.Zone, now time.Time) time.Time {
	first, signed := z.Expires()
	if !signed {
		return time.Time{}
	}
	return now.Add(time.Duration(int32(first-uint32(now.Unix()))) * time.Second).UTC().Truncate(time.Second)
}

// answered is the zone that is answered now where z is to be: z itself if it is the same, nil if none is.
func answered(ctx context.Context, w *home.Writer, z *zone.Zone, as release.Zone, lately *Lately) (*zone.Zone, error) {
	was := w.View().Manifest.Current.Zone(as.Origin)
	switch {
	case was == nil:
		return nil, nil
	case was.SHA256 == as.SHA256:
		return z, nil
	}
	if old := lately.Zone(was.SHA256); old != nil {
		return old, nil
	}
	return readReleased(ctx, w.Repository(), *was)
}

// Answered is the zone of a name in the current release of a repository; nil if there is none.
func Answered(ctx context.Context, from depot.Store, current *release.Release, origin string) (*zone.Zone, error) {
	was := current.Zone(origin)
	if was == nil {
		return nil, nil
	}
	return readReleased(ctx, from, *was)
}

func readReleased(ctx context.Context, from depot.Store, was release.Zone) (*zone.Zone, error) {
	r, err := depot.OpenBlob(from, was)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	old, found := zonefile.Parse(r, zonefile.Options{Progress: until(ctx), Origin: was.Origin, File: was.Origin})
	if old == nil {
		return nil, fmt.Errorf("%v", found[0])
	}
	return old, nil
}

// changeOf counts what turns one zone into another; the old one may be nil. The difference is nil if there is none, or none
// that is worth having.
func changeOf(old, z *zone.Zone) (history.ZoneChange, *zone.Delta) {
	c := history.ZoneChange{Origin: z.Origin(), To: z.Serial()}
	if old == nil {
		c.Added = z.Len()
		return c, nil
	}
	c.From = old.Serial()
	if old == z {
		return c, nil
	}
	d := zone.Difference(old, z, maxDifference)
	if d == nil {
		c.Added, c.Removed = z.Len(), old.Len()
		return c, nil
	}
	c.Added, c.Removed = d.Added.Len(), d.Removed.Len()
	return c, d
}

// maxDifference bounds, in octets, a difference that is counted record by record.
const maxDifference = 256 << 20
