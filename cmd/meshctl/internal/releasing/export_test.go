package releasing

import (
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonecheck"
)

// What the tests of package releasing_test see of the inside: they make whole meshes, with a package that imports this one.
var (
	RunCommand = runCommand
	Store      = store
	Before     = before
	BoundRoots = boundRoots
)

const MaxCommandOutput = maxCommandOutput

func (l *Lately) Memo(z *zone.Zone) *zonecheck.Memo { return l.memo(z) }
