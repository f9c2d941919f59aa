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
	text, name, origin, z := exampleZone, "example.org.zone", "", &storyZone{}
	if from != "" {
		var err error
		if origin, name, err = splitSource(from); err != nil {
			return nil, err
		}
		data, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		text, z.source = string(data), name
		if origin != "" {
			z.source = origin + "=" + name
		}
	}
	return z, z.read(text, name, origin)
}

// splitSource takes FILE or NAME=FILE apart and makes the file's path absolute.
func splitSource(from string) (origin, file string, err error) {
	if before, after, ok := strings.Cut(from, "="); ok {
		origin, from = dns.Fqdn(before), after
	}
	file, err = filepath.Abs(from)
	return origin, file, err
}

func (z *storyZone) read(text, name, origin string) error {
	parser := dns.NewZoneParser(strings.NewReader(text), origin, name)
	parser.SetIncludeAllowed(true)
	var rest []dns.RR
	for rr, ok := parser.Next(); ok; rr, ok = parser.Next() {
		switch {
		case signature(rr):
			z.unsigned = true
		case rr.Header().Rrtype == dns.TypeSOA && z.origin == "":
			z.origin, z.records = dns.CanonicalName(rr.Header().Name), []dns.RR{rr}
		default:
			rest = append(rest, rr)
		}
	}
	if err := parser.Err(); err != nil {
		return err
	}
	if z.origin == "" {
		return errors.New(name + ": no SOA record, so no zone")
	}
	z.records = append(z.records, rest...)
	return nil
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
	fmt.Fprintln(&text, soa.String())
	for _, rr := range z.records[1:] {
		fmt.Fprintln(&text, rr.String())
	}
	path := filepath.Join(dir, fmt.Sprintf("%srelease-%d.zone", z.origin, release))
	return path, os.WriteFile(path, []byte(text.String()), 0o600)
}
