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

// story zone: one zone, of which each release has the next serial.
type storyZone struct {
	origin   string
	records  []dns.RR // the SOA first
	unsigned bool     // signatures were left out: they do not survive a new serial
	name     string   // of the file it came from; "" for the built-in one
}

// readZone reads the zone that the story is told with; the built-in one when file is empty.
func readZone(file string) (*storyZone, error) {
	text, name := exampleZone, "example.org.zone"
	if file != "" {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		text, name = string(data), file
	}
	parser := dns.NewZoneParser(strings.NewReader(text), "", name)
	parser.SetIncludeAllowed(true)
	z := &storyZone{name: file}
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
		return nil, err
	}
	if z.origin == "" {
		return nil, errors.New(name + ": no SOA record, so no zone")
	}
	z.records = append(z.records, rest...)
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

// write writes the zone as it is in a release, for `meshctl release`.
func (z *storyZone) write(dir string, release uint64) (string, error) {
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
