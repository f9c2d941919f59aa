package releasing_test

import (
	"testing"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// TestWhatWasKeptIsTheZoneThatIsAnswered: what a release is compared with is what was published, not what was received last.
func TestWhatWasKeptIsTheZoneThatIsAnswered(t *testing.T) {
	l := releasing.NewLately()
	z, _ := releasing.Load(t.Context(), hometest.ManyNames(t, 1, 10))
	text := release.DigestOf([]byte("text"))
	l.Keep([]releasing.Source{{Zone: z, Text: text}}, release.Manifest{})
	if l.Zone(text) != nil {
		t.Error("a zone is kept that no release has")
	}
	l.Keep([]releasing.Source{{Zone: z, Text: text}}, release.Manifest{Current: &release.Release{Zones: []release.Zone{{Origin: z.Origin(), SHA256: text}}}})
	if l.Zone(text) != z || l.Memo(z) == l.Memo(z) {
		t.Error("the zone is not kept, or the memo of a small one is")
	}
	var none *releasing.Lately
	if none.Zone(text) != (*zone.Zone)(nil) || none.Memo(z) == nil {
		t.Error("without a Lately")
	}
}
