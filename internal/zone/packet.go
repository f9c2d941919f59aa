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
)

// packet is a message being written.
type packet struct {
	buf      []byte
	start    int                // of the message in buf
	question []byte             // its name; nothing if that is not valid
	name     search             // the name being written
	places   [placeCount]uint16 // offsets of names in the message, by their hash; each may be one place further
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
	p.begin(dst, r)
	limit = min(limit, maxMessage) - len(r.OPT)
	answers, whole := p.section(a.Answer, limit)
	authority, required, optional := 0, 0, 0
	if whole {
		authority, whole = p.section(a.Authority, limit)
	}
	if whole {
		required, whole = p.section(a.Additional[:a.Required], limit)
	}
	if whole {
		optional, _ = p.section(a.Additional[a.Required:], limit)
	}
	additional := required + optional
	if len(r.OPT) > 0 {
		p.buf = append(p.buf, r.OPT...)
		additional++
	}
	head := p.buf[p.start:]
	binary.BigEndian.PutUint16(head[2:], a.flags(r, !whole))
	binary.BigEndian.PutUint16(head[6:], uint16(answers))
	binary.BigEndian.PutUint16(head[8:], uint16(authority))
	binary.BigEndian.PutUint16(head[10:], uint16(additional))
	response, p.buf, p.question, p.name.name = p.buf, nil, nil, nil
	return response, !whole
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

// begin writes header and question.
func (p *packet) begin(dst []byte, r *Request) {
	p.start, p.question = len(dst), r.Name
	clear(p.places[:])
	dst = binary.BigEndian.AppendUint16(dst, r.ID)
	dst = append(dst, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	p.buf = dst
	if !p.putName(r.Name, true) {
		p.question = nil
	}
	p.buf = binary.BigEndian.AppendUint16(p.buf, r.Type)
	p.buf = binary.BigEndian.AppendUint16(p.buf, r.Class)
}

// section writes RRsets until one finds no room. It returns the number of records written and whether that was all.
func (p *packet) section(sets []RRset, limit int) (records int, whole bool) {
	for i := range sets {
		before := len(p.buf)
		n := p.rrset(&sets[i])
		if len(p.buf)-p.start > limit {
			p.buf = p.buf[:before]
			return records, false
		}
		records += n
	}
	return records, true
}

// rrset writes an RRset and its signatures, and returns the number of records.
func (p *packet) rrset(s *RRset) (records int) {
	at := len(p.buf) - p.start
	p.owner(s.Owner)
	var again []byte // the owner as the records after the first have it; nothing if it has to be written anew
	var room [2]byte
	switch written := p.buf[p.start+at:]; {
	case len(written) == 2:
		again = append(room[:0], written...)
	case len(written) > 2 && at <= maxPointer:
		again = binary.BigEndian.AppendUint16(room[:0], pointer<<8|uint16(at))
	}
	var head [8]byte
	binary.BigEndian.PutUint16(head[:], s.Type)
	head[3] = byte(dns.ClassINET)
	binary.BigEndian.PutUint32(head[4:], s.TTL)
	for rest := []byte(s.Data); len(rest) >= 2; {
		end := 2 + int(binary.BigEndian.Uint16(rest))
		if end > len(rest) {
			break
		}
		p.ownerAgain(records, again, s.Owner)
		p.buf = append(p.buf, head[:]...)
		p.rdata(s.Type, rest[:end])
		rest = rest[end:]
		records++
	}
	binary.BigEndian.PutUint16(head[:], dns.TypeRRSIG)
	binary.BigEndian.PutUint32(head[4:], s.SigTTL)
	for rest := []byte(s.Sigs); len(rest) >= 2; {
		end := 2 + int(binary.BigEndian.Uint16(rest))
		if end > len(rest) {
			break
		}
		p.ownerAgain(records, again, s.Owner)
		p.buf = append(append(p.buf, head[:]...), rest[:end]...)
		rest = rest[end:]
		records++
	}
	if records == 0 {
		p.buf = p.buf[:p.start+at]
	}
	return records
}

// ownerAgain writes the owner of an RRset's records after the first.
func (p *packet) ownerAgain(records int, again, name []byte) {
	switch {
	case records == 0:
	case len(again) > 0:
		p.buf = append(p.buf, again...)
	default:
		p.owner(name)
	}
}

// owner writes an owner. Most are the end of the question's name.
func (p *packet) owner(name []byte) {
	if n := len(name); n > 1 && n <= len(p.question) && &name[n-1] == &p.question[len(p.question)-1] {
		p.buf = binary.BigEndian.AppendUint16(p.buf, pointer<<8|uint16(messageHead+len(p.question)-n))
		return
	}
	p.putName(name, true)
}

// rdata writes RDATA, length first, with the names compressed of the types that allow it (RFC 3597 4). To names in SRV
// and DNAME, later ones can point.
func (p *packet) rdata(typ uint16, data []byte) {
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
	case dns.TypeDNAME:
		names, compress = 1, false
	}
	if names == 0 || len(data) < 2+fixed {
		p.buf = append(p.buf, data...)
		return
	}
	at := len(p.buf)
	p.buf = append(p.buf, data[:2+fixed]...)
	for data = data[2+fixed:]; names > 0; names-- {
		n := nameLen(data, 0)
		if n == 0 || n > 255 {
			break
		}
		p.putName(data[:n], compress)
		data = data[n:]
	}
	p.buf = append(p.buf, data...)
	binary.BigEndian.PutUint16(p.buf[at:], uint16(len(p.buf)-at-2))
}

// putName writes a name, as far as the message does not have it already, or whole, and remembers where what of it is new
// can be found. It writes the root's for what is no valid name, and says so.
func (p *packet) putName(name []byte, compress bool) (valid bool) {
	s := &p.name
	if !s.set(name) { // an image that is not as it was made
		p.buf = append(p.buf, 0)
		return false
	}
	var hashes [maxLabels + 1]uint8
	h := uint64(0)
	for i := s.labels - 1; i >= 0; i-- {
		at := int(s.starts[i])
		h = hashLabel(h, 0, s.folded[at+1:at+1+int(s.folded[at])])
		hashes[i] = uint8(h)
	}
	here := len(p.buf) - p.start
	known, at := s.labels, 0
	for i := range s.labels {
		if at = p.place(hashes[i], s.folded[s.starts[i]:len(s.name)]); at > 0 {
			known = i
			break
		}
	}
	for i := range known {
		if place := here + int(s.starts[i]); place <= maxPointer {
			p.remember(hashes[i], uint16(place))
		}
	}
	if at > 0 && compress {
		p.buf = append(p.buf, s.name[:s.starts[known]]...)
		p.buf = binary.BigEndian.AppendUint16(p.buf, pointer<<8|uint16(at))
		return true
	}
	p.buf = append(p.buf, s.name...)
	return true
}

// place is the offset of a folded name in the message, 0 if it is not known.
func (p *packet) place(hash uint8, name []byte) int {
	for _, i := range [2]uint8{hash, hash ^ 1} {
		if at := int(p.places[i]); at > 0 && p.is(at, name) {
			return at
		}
	}
	return 0
}

// remember keeps the offset of a name, where there is room for it.
func (p *packet) remember(hash uint8, at uint16) {
	if p.places[hash] == 0 {
		p.places[hash] = at
	} else {
		p.places[hash^1] = at
	}
}

// is reports whether the name at an offset of the message is the folded one. The offset may be that of a name which was
// taken back since.
func (p *packet) is(at int, name []byte) bool {
	message := p.buf[p.start:]
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
