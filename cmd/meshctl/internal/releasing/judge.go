package releasing

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/assemble"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonecheck"
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

// judge checks a zone against the one that is answered now, nil if there is none, of which it is to be told if it cannot be read.
func judge(ctx context.Context, w *home.Writer, c *candidate, old, z *zone.Zone, noOld error, lately *Lately) (found []zone.Finding) {
	if c.zone.SignedUntil = (time.Time{}); c.policy.SignaturesCount() {
		c.zone.SignedUntil = signaturesEnd(z, w.Now())
	}
	memo := lately.memo(z)
	memo.Warn(c.source.Zone != nil) // what was read from text was warned of then
	lately.checks(&checking{z.Origin(), z.Len(), c.nth, c.of, memo, time.Now()})
	found = checkWith(ctx, memo, old, z, c.policy, w.Now(), w.State().Lease())
	if noOld != nil { // no reason to be stuck with it, nor to let anything replace it
		found = append(found, zone.Finding{Zone: z.Origin(), Owner: z.Origin(), Rule: "previous", Severity: zone.Error,
			Detail: fmt.Sprintf("the zone that is answered now cannot be read to compare with: %v", noOld)})
	}
	return found
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
func answered(ctx context.Context, w *home.Writer, z *zone.Zone, as *release.Zone, lately *Lately) (*zone.Zone, error) {
	was := w.View().Manifest.Current.Zone(as.Origin)
	switch {
	case was == nil:
		return nil, nil
	case was.Same(as):
		return z, nil
	}
	if old := lately.Zone(was.Content()); old != nil {
		return old, nil
	}
	return assemble.Released(w.Repository(), *was, until(ctx))
}

// Answered is the zone of a name in the current release of a repository; nil if there is none.
func Answered(ctx context.Context, from depot.Store, current *release.Release, origin string) (*zone.Zone, error) {
	was := current.Zone(origin)
	if was == nil {
		return nil, nil
	}
	return assemble.Released(from, *was, until(ctx))
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
