package zone

import (
	"bytes"
	"crypto/sha256"

	"github.com/miekg/dns"
)

// Image is the body of a compiled zone, without the checksum.
func Image(z *Zone) []byte {
	var b bytes.Buffer
	z.writeBody(&b)
	return b.Bytes()
}

// Open makes a zone of a body that need not be as it was written.
func Open(b []byte) (*Zone, error) {
	return readBody(&imageReader{in: bytes.NewReader(b), sum: sha256.New(), left: int64(len(b))})
}

// ApplyInPlace is Apply that does not build anew because so much is loose.
func ApplyInPlace(z *Zone, d *Delta) (*Zone, []Finding) { return z.apply(d, true) }

// InPlace reports whether Apply makes a zone without building it anew.
func InPlace(z *Zone, d *Delta) bool {
	c := &changes{z: z, b: NewBuilder(), inPlace: true}
	c.read(d)
	return !c.b.findings.errors && c.edit() != nil
}

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

// Loose is how many octets of the image are not where a Builder would have put them, or of no use.
func Loose(z *Zone) uint64 { return z.loose }

// Spread counts the nodes that are in their buckets, and the octets of buckets that nothing is in.
func Spread(z *Zone) (nodes, empty int) {
	for i := range ref(z.buckets) {
		rest := z.from(z.bucketsAt + ref(z.bucketSize/unit)*i)[bucketHead:z.bucketSize]
		for len(rest) >= nodeHead && refAt(rest, 0)>>8 > 0 {
			nodes++
			rest = rest[unit*(refAt(rest, 0)>>8):]
		}
		empty += len(rest)
	}
	return nodes, empty
}
