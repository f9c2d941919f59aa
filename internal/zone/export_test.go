package zone

import "github.com/miekg/dns"

// Image is the image of a zone, without the checksum that a compiled zone has.
func Image(z *Zone) []byte { return z.image }

// Open makes a zone of an image that need not be as it was made.
func Open(b []byte) (*Zone, error) { return open(b) }

// Hash is one NSEC3 hash without additional iterations.
func Hash(name []byte, salt string) [20]byte { return (&nsec3Params{salt: salt}).hash(name) }

// Record is a resource record and where it was read.
type Record struct {
	RR   dns.RR
	Line int
	File string
}

// New makes a zone of records. It returns every finding, up to MaxFindings, and no zone if one of them is an Error.
// The origin is the SOA's owner if it is empty.
func New(origin string, records []Record) (*Zone, []Finding) {
	b := NewBuilder()
	for _, r := range records {
		b.Add(r.RR, r.File, r.Line)
	}
	return b.Build(origin)
}
