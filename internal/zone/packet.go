package zone

import (
	"encoding/binary"

	"github.com/miekg/dns"
)

// Request is what the response to a query takes from the request.
type Request struct {
	Query
	ID               uint16
	RecursionDesired bool
	OPT              []byte // the OPT record for the response, wire format; nil for none
}

const (
	messageHead   = 12        // octets of a message's header (RFC 1035 4.1.1)
	maxMessage    = 65535     // octets of a message
	pointer       = 0xc0      // first octet of a compression pointer (RFC 1035 4.1.4)
	maxPointer    = 1<<14 - 1 // furthest offset that a pointer can have
	flagResponse  = 1 << 15   // QR
	flagAuthority = 1 << 10   // AA
	flagTruncated = 1 << 9    // TC
	flagRecursion = 1 << 8    // RD
	placeCount    = 256       // see packet.places
	maxKnown      = 192       // of which so many are used: the others end a search
)

// packet is a message being written. Its methods append to the message and return it.
type packet struct {
	start    int    // of the message in what is appended to
	question []byte // its name; nothing if that is not valid
	name     search
	places   [placeCount]uint16      // offsets of names in the message, by their hash or as far behind it as others are there
	taken    [placeCount / 64]uint64 // which of the places mean something
	known    int                     // how many
}

// AppendTo appends the response to a request as a message of at most limit octets, and reports whether it is truncated.
// RRsets are put in or left out whole and with their signatures (RFC 2181 9, RFC 4035 3.1.1). Optional addresses that find
// no room are left out without a word; what else does not, truncates (RFC 9471 2.1). All names that may be (RFC 3597 4)
// are compressed, without regard to case. The header and the question are there whatever the limit is.
func (a *Answer) AppendTo(dst []byte, r *Request, limit int) (response []byte, truncated bool) {
	if a.room == nil {
		a.room = &room{}
	}
	p := &a.room.packet
	limit = min(limit, maxMessage) - len(r.OPT) + len(dst)
	buf := p.begin(dst, r, &a.room.search)
	buf, answers, whole := p.section(buf, a.Answer, limit)
	authority, required, optional := 0, 0, 0
	if whole {
		buf, authority, whole = p.section(buf, a.Authority, limit)
	}
	if whole {
		buf, required, whole = p.section(buf, a.Additional[:a.Required], limit)
	}
	if whole {
		buf, optional, _ = p.section(buf, a.Additional[a.Required:], limit)
	}
	additional := required + optional
	if len(r.OPT) > 0 {
		buf = append(buf, r.OPT...)
		additional++
	}
	head := buf[p.start:]
	binary.BigEndian.PutUint16(head[2:], a.flags(r, !whole))
	binary.BigEndian.PutUint16(head[6:], uint16(answers))
	binary.BigEndian.PutUint16(head[8:], uint16(authority))
	binary.BigEndian.PutUint16(head[10:], uint16(additional))
	p.question, p.name.name = nil, nil
	return buf, !whole
}

// flags are the second 16 bits of the header. RD is the request's (RFC 1035 4.1.1), CD and AD are clear (RFC 4035 3.1.6).
func (a *Answer) flags(r *Request, truncated bool) uint16 {
	flags := flagResponse | uint16(a.Rcode)&15
	if a.Authoritative {
		flags |= flagAuthority
	}
	if truncated {
		flags |= flagTruncated
	}
	if r.RecursionDesired {
		flags |= flagRecursion
	}
	return flags
}

// begin writes header and question. The search may be for the question's name already.
func (p *packet) begin(buf []byte, r *Request, s *search) []byte {
	p.start, p.question = len(buf), r.Name
	p.taken, p.known = [placeCount / 64]uint64{}, 0
	buf = append(buf, byte(r.ID>>8), byte(r.ID), 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	if len(r.Name) == 0 || len(s.name) != len(r.Name) || &s.name[0] != &r.Name[0] {
		if s = &p.name; !s.set(r.Name) {
			p.question = nil
			s.setRoot()
		}
	}
	buf = p.putName(buf, s, true)
	return append(buf, byte(r.Type>>8), byte(r.Type), byte(r.Class>>8), byte(r.Class))
}

// section writes RRsets until one finds no room, before the limit. It returns the number of records written and whether
// that was all.
func (p *packet) section(buf []byte, sets []RRset, limit int) (_ []byte, records int, whole bool) {
	for i := range sets {
		more, n := p.rrset(buf, &sets[i])
		if len(more) > limit {
			return more[:len(buf)], records, false
		}
		buf = more
		records += n
	}
	return buf, records, true
}

// rrset writes an RRset and its signatures, and returns the number of records.
func (p *packet) rrset(buf []byte, s *RRset) (_ []byte, records int) {
	at := len(buf)
	buf = p.owner(buf, s.Owner)
	var again [2]byte // the owner as the records after the first have it
	anew := false     // or else they have it written anew
	switch n := len(buf) - at; {
	case n == 2:
		copy(again[:], buf[at:])
	case n > 2 && at-p.start <= maxPointer:
		binary.BigEndian.PutUint16(again[:], pointer<<8|uint16(at-p.start))
	default:
		anew = true
	}
	typ, ttl := s.Type, s.TTL
	for _, data := range [2][]byte{s.Data, s.Sigs} {
		for len(data) >= 2 {
			end := 2 + int(binary.BigEndian.Uint16(data))
			if end > len(data) {
				break
			}
			switch {
			case records == 0:
			case anew:
				buf = p.owner(buf, s.Owner)
			default:
				buf = append(buf, again[0], again[1])
			}
			buf = append(buf, byte(typ>>8), byte(typ), 0, dns.ClassINET, byte(ttl>>24), byte(ttl>>16), byte(ttl>>8), byte(ttl))
			buf = p.rdata(buf, typ, data[:end])
			data = data[end:]
			records++
		}
		typ, ttl = dns.TypeRRSIG, s.SigTTL
	}
	if records == 0 {
		buf = buf[:at]
	}
	return buf, records
}

// owner writes an owner. Most are the end of the question's name.
func (p *packet) owner(buf, name []byte) []byte {
	if n := len(name); n > 1 && n <= len(p.question) && &name[n-1] == &p.question[len(p.question)-1] {
		at := messageHead + len(p.question) - n
		return append(buf, pointer|byte(at>>8), byte(at))
	}
	if !p.name.set(name) {
		p.name.setRoot()
	}
	return p.putName(buf, &p.name, true)
}

// rdata writes RDATA, length first, with the names compressed of the types that allow it (RFC 3597 4). To names in SRV,
// SVCB, HTTPS, DNAME and NSEC, later ones can point.
func (p *packet) rdata(buf []byte, typ uint16, data []byte) []byte {
	fixed, names, compress := 0, 0, true
	switch typ {
	case dns.TypeNS, dns.TypeCNAME, dns.TypePTR, dns.TypeMB, dns.TypeMD, dns.TypeMF, dns.TypeMG, dns.TypeMR:
		names = 1
	case dns.TypeSOA, dns.TypeMINFO:
		names = 2
	case dns.TypeMX:
		fixed, names = 2, 1
	case dns.TypeSRV:
		fixed, names, compress = 6, 1, false
	case dns.TypeSVCB, dns.TypeHTTPS:
		fixed, names, compress = 2, 1, false
	case dns.TypeDNAME, dns.TypeNSEC:
		names, compress = 1, false
	}
	if names == 0 || len(data) < 2+fixed {
		return append(buf, data...)
	}
	at := len(buf)
	buf = append(buf, data[:2+fixed]...)
	for data = data[2+fixed:]; names > 0 && p.name.setFirst(data); names-- {
		buf = p.putName(buf, &p.name, compress)
		data = data[len(p.name.name):]
	}
	buf = append(buf, data...)
	binary.BigEndian.PutUint16(buf[at:], uint16(len(buf)-at-2))
	return buf
}

// putName writes a name, as far as the message does not have it already, or whole, and remembers where what of it is new
// can be found.
func (p *packet) putName(buf []byte, s *search, compress bool) []byte {
	here := len(buf) - p.start
	for i := range s.labels {
		start := int(s.starts[i])
		hash := s.hash(start)
		if at := p.place(buf, hash, s.folded[start:len(s.name)]); at > 0 && compress {
			return append(append(buf, s.name[:start]...), pointer|byte(at>>8), byte(at))
		} else if place := here + start; at == 0 && place <= maxPointer {
			p.remember(hash, uint16(place))
		}
	}
	return append(buf, s.name...)
}

// hash is of the name that begins at an offset of the name.
func (s *search) hash(start int) uint8 {
	b := s.folded[start : start+16]
	return uint8(mix(binary.LittleEndian.Uint64(b)^uint64(len(s.name)-start), binary.LittleEndian.Uint64(b[8:])^0x9e3779b97f4a7c15))
}

// place is the offset of a folded name in the message, 0 if it is not known.
func (p *packet) place(buf []byte, hash uint8, name []byte) int {
	for ; p.taken[hash/64]>>(hash&63)&1 > 0; hash++ {
		if at := int(p.places[hash]); is(buf[p.start:], at, name) {
			return at
		}
	}
	return 0
}

// remember keeps the offset of a name, where there is room for it: some places stay free, at which a search ends.
func (p *packet) remember(hash uint8, at uint16) {
	if p.known == maxKnown {
		return
	}
	for p.taken[hash/64]>>(hash&63)&1 > 0 {
		hash++
	}
	p.places[hash] = at
	p.taken[hash/64] |= 1 << (hash & 63)
	p.known++
}

// is reports whether the name at an offset of a message is the folded one. The offset may be that of a name which was
// taken back since, or is being written.
func is(message []byte, at int, name []byte) bool {
	for i := 0; at < len(message); {
		c := message[at]
		if c >= pointer {
			if at+1 == len(message) {
				return false
			}
			to := int(c&^pointer)<<8 | int(message[at+1])
			if to >= at {
				return false
			}
			at = to
			continue
		}
		end := at + 1 + int(c)
		if i >= len(name) || c != name[i] || end > len(message) {
			return false
		}
		if i++; c == 0 {
			return true
		}
		for at++; at < end; at++ {
			if i >= len(name) || fold[message[at]] != name[i] {
				return false
			}
			i++
		}
	}
	return false
}
