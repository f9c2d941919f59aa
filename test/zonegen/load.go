package zonegen

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// A Zone is a Source as servers load it, signed.
type Zone struct {
	Source
	Path   string // of its file
	Image  *zone.Zone
	owners []string
	rare   []dns.Question // for each record of a rare type
}

func dnsName(wire []byte) string {
	name, _, err := dns.UnpackDomainName(wire, 0)
	if err != nil {
		return "." // owners are valid
	}
	return name
}

// Load signs a zone, writes it to its file and compiles it.
func (s *Source) Load(dir string, i int) (*Zone, error) {
	text, err := s.sign(dir)
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", s.Origin, err, s.Text())
	}
	z := &Zone{Source: *s, Path: filepath.Join(dir, fmt.Sprintf("zone%d", i))}
	if err := os.WriteFile(z.Path, text, 0o644); err != nil {
		return nil, err
	}
	var found []zone.Finding
	z.Image, found = zonefile.Parse(bytes.NewReader(text), zonefile.Options{File: z.Path})
	if z.Image == nil {
		return nil, fmt.Errorf("the zone %s is refused: %v\n%s", z.Origin, found, s.Text())
	}
	z.Origin = z.Image.Origin()
	z.owners = ownersOf(z.Origin, z.Image.Records())
	for r := range z.Image.WireRecords() {
		if IsRare(r.Type) {
			z.rare = append(z.rare, dns.Question{Name: dnsName(r.Owner), Qtype: r.Type, Qclass: dns.ClassINET})
		}
	}
	return z, nil
}
