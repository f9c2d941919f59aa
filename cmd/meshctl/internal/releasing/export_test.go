package releasing

import (
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonecheck"
)

// What the tests of package releasing_test see of the inside: they make whole meshes, with a package that imports this one.
var (
	RunCommand = runCommand
	Store      = store
	BoundRoots = boundRoots
)

const MaxCommandOutput = maxCommandOutput

// SetDuePacks has a test make new bases more often.
func SetDuePacks(t testing.TB, packs int) {
	was := duePacks
	duePacks = packs
	t.Cleanup(func() { duePacks = was })
}

func (l *Lately) Memo(z *zone.Zone) *zonecheck.Memo { return l.memo(z) }
