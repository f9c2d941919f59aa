package releasing_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonecheck"
)

// TestWhatWasKeptIsTheZoneThatIsAnswered: what a release is compared with is what was published, not what was received last.
func TestWhatWasKeptIsTheZoneThatIsAnswered(t *testing.T) {
	l := releasing.NewLately()
	z, _ := releasing.Load(t.Context(), hometest.ManyNames(t, 1, 10))
	text := release.DigestOf([]byte("text"))
	l.Keep([]releasing.Source{{Zone: z, Content: text}}, release.Manifest{})
	if l.Zone(text) != nil {
		t.Error("a zone is kept that no release has")
	}
	l.Keep([]releasing.Source{{Zone: z, Content: text}}, release.Manifest{Current: &release.Release{Zones: []release.Zone{{Origin: z.Origin(), SHA256: text}}}})
	if l.Zone(text) != z || l.Memo(z) == l.Memo(z) {
		t.Error("the zone is not kept, or the memo of a small one is")
	}
	var none *releasing.Lately
	if none.Zone(text) != (*zone.Zone)(nil) || none.Memo(z) == nil {
		t.Error("without a Lately")
	}
}

// TestALargeZoneIsJudgedWholeOnceADayBesideReleases, and the checks that follow go on from there.
func TestALargeZoneIsJudgedWholeOnceADayBesideReleases(t *testing.T) {
	l := releasing.NewLately()
	z, _ := releasing.Load(t.Context(), hometest.ManyNames(t, 1, 20_000))
	if l.Memo(z) != l.Memo(z) {
		t.Fatal("the zone is not large")
	}
	began := hometest.Start
	first := l.Memo(z).Check(nil, z, zonecheck.DefaultPolicy(), began, time.Hour)
	var found []zone.Finding
	told := 0
	daily := func(ctx context.Context, now time.Time) bool {
		var ran sync.WaitGroup
		started := false
		l.Daily(ctx, now, func(f func()) { started = true; ran.Go(f) }, func(f []zone.Finding) { found = f; told++ })
		ran.Wait()
		return started
	}
	if daily(t.Context(), began.Add(time.Hour)) {
		t.Error("it was judged an hour ago")
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if now := began.Add(21 * time.Hour); !daily(ended, now) || told > 0 || l.Memo(z).Whole() != began {
		t.Errorf("it was not judged to its end: %v", l.Memo(z).Whole())
	}
	now := began.Add(22 * time.Hour)
	if !daily(t.Context(), now) || told != 1 || !slices.Equal(found, first) || l.Memo(z).Whole() != now {
		t.Errorf("judged at %v: %v, not %v", l.Memo(z).Whole(), found, first)
	}
	if again := l.Memo(z).Check(nil, z, zonecheck.DefaultPolicy(), now.Add(5*time.Hour), time.Hour); !slices.Equal(again, first) || l.Memo(z).Whole() != now {
		t.Errorf("all was judged at %v: %v", l.Memo(z).Whole(), again)
	}
}
