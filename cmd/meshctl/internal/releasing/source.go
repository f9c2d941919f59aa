package releasing

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// Source is a zone file, and the origin if it was said; otherwise the origin is the SOA's owner.
type Source struct {
	Origin, File string

	Zone *zone.Zone     // what was read from it already, nil if nothing was
	Text release.Digest // of the zone's canonical text, which the file has unless it was replaced since
}

// ParseSource reads FILE or NAME=FILE.
func ParseSource(arg string) Source {
	if name, file, ok := strings.Cut(arg, "="); ok {
		return Source{Origin: strings.ToLower(strings.TrimSuffix(name, ".")) + ".", File: file}
	}
	return Source{File: arg}
}

// Load reads a zone file and says everything that is wrong with it (SYNC-B). The zone is nil when one finding is an
// error. $INCLUDE reaches the files beside it only.
func Load(s Source) (*zone.Zone, []zone.Finding) {
	if s.Zone != nil {
		return s.Zone, nil
	}
	z, found, err := load(s)
	if err != nil {
		found = append(found, s.finding("unreadable", "%v", err))
	}
	for i := range found {
		found[i].File = cmp.Or(found[i].File, s.File)
	}
	return z, found
}

func load(s Source) (*zone.Zone, []zone.Finding, error) {
	beside, err := os.OpenRoot(filepath.Dir(s.File))
	if err != nil {
		return nil, nil, err
	}
	defer beside.Close()
	f, err := os.Open(s.File)
	if err != nil {
		return nil, nil, errors.Unwrap(err)
	}
	defer f.Close()
	z, found := zonefile.Parse(f, zonefile.Options{Origin: s.Origin, File: s.File, Include: beside.FS()})
	return z, found, nil
}

func (s Source) finding(rule, format string, args ...any) zone.Finding {
	return zone.Finding{File: s.File, Zone: s.Origin, Rule: rule, Severity: zone.Error, Detail: fmt.Sprintf(format, args...)}
}
