//go:build linux

package main

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

//go:embed example.org.zone
var exampleZone string

// storyZone is one zone, of which each release has the next serial.
type storyZone struct {
	origin   string
	records  []dns.RR // the SOA first
	unsigned bool     // signatures were left out: they do not survive a new serial
	source   string   // FILE or NAME=FILE that it was read from, absolute; "" for the built-in one
}

// readZone reads the zone that the story is told with, FILE or NAME=FILE as meshctl takes it; the built-in one when
// that is empty.
func readZone(from string) (*storyZone, error) {
	if from == "" {
		parsed, found := zonefile.Parse(strings.NewReader(exampleZone), zonefile.Options{File: "example.org.zone"})
		return storyOf(parsed, found, "")
	}
	origin, name, err := splitSource(from)
	if err != nil {
		return nil, err
	}
	parsed, found, err := zonefile.ReadFile(name, zonefile.Options{Origin: origin})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	source := name
	if origin != "" {
		source = origin + "=" + name
	}
	return storyOf(parsed, found, source)
}

// splitSource takes FILE or NAME=FILE apart and makes the file's path absolute.
func splitSource(from string) (origin, file string, err error) {
	if before, after, ok := strings.Cut(from, "="); ok {
		origin, from = dns.Fqdn(before), after
	}
	file, err = filepath.Abs(from)
	return origin, file, err
}

// storyOf takes the records of a zone, or says what is wrong with it.
func storyOf(parsed *zone.Zone, found []zone.Finding, source string) (*storyZone, error) {
	if parsed == nil {
		var errs []error
		for _, f := range found {
			if f.Severity == zone.Error {
				errs = append(errs, errors.New(f.String()))
			}
		}
		return nil, errors.Join(errs...)
	}
	z := &storyZone{origin: parsed.Origin(), source: source}
	for rr := range parsed.Records() {
		if signature(rr) {
			z.unsigned = true
			continue
		}
		z.records = append(z.records, rr)
	}
	return z, nil
}

// signature reports whether a record is one that only a signer can make for a zone with another serial.
func signature(rr dns.RR) bool {
	switch rr.Header().Rrtype {
	case dns.TypeRRSIG, dns.TypeNSEC, dns.TypeNSEC3, dns.TypeNSEC3PARAM, dns.TypeDNSKEY, dns.TypeZONEMD, dns.TypeCDS, dns.TypeCDNSKEY:
		return true
	}
	return false
}

func (z *storyZone) soa() *dns.SOA { return z.records[0].(*dns.SOA) }

// serial is that of release number n: what the zone had, plus one for each release after the first.
func (z *storyZone) serial(release uint64) uint32 { return z.soa().Serial + uint32(release-1) }

// write writes the zone as it is in a release and returns it as `meshctl release` takes it. The first release is the
// reader's file itself, so that what is wrong with it has its lines.
func (z *storyZone) write(dir string, release uint64) (string, error) {
	if release == 1 && z.source != "" && !z.unsigned {
		return z.source, nil
	}
	soa := *z.soa()
	soa.Serial = z.serial(release)
	var text strings.Builder
	for _, rr := range append([]dns.RR{&soa}, z.records[1:]...) {
		fmt.Fprintln(&text, zonefile.Line(rr))
	}
	path := filepath.Join(dir, fmt.Sprintf("%srelease-%d.zone", z.origin, release))
	return path, os.WriteFile(path, []byte(text.String()), 0o600)
}
