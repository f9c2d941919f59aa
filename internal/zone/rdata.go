package zone

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"

	"github.com/miekg/dns"
)

// A layout says where the domain names are in the RDATA of a type.
type layout struct{ offset, names int }

// layouts has the types whose names are folded in the canonical form (RFC 4034 6.2 as changed by RFC 6840 5.1: NSEC is
// not among them). NAPTR and A6, whose names have no fixed offset, are seen to by namesAt. The others have no names: a layout of zero.
var layouts = [dns.TypeRRSIG + 1]layout{
	dns.TypeNS: {0, 1}, dns.TypeMD: {0, 1}, dns.TypeMF: {0, 1}, dns.TypeCNAME: {0, 1}, dns.TypeSOA: {0, 2},
	dns.TypeMB: {0, 1}, dns.TypeMG: {0, 1}, dns.TypeMR: {0, 1}, dns.TypePTR: {0, 1}, dns.TypeMINFO: {0, 2},
	dns.TypeMX: {2, 1}, dns.TypeRP: {0, 2}, dns.TypeAFSDB: {2, 1}, dns.TypeRT: {2, 1}, dns.TypeSIG: {18, 1},
	dns.TypePX: {2, 2}, dns.TypeNXT: {0, 1}, dns.TypeSRV: {6, 1}, dns.TypeKX: {2, 1}, dns.TypeDNAME: {0, 1},
	dns.TypeRRSIG: {18, 1},
}

// typeA6 is the type of RFC 2874, which the dns package has no name for.
const typeA6 = 38

// layoutOf is where the names are in the RDATA of a type; false if there are none, or not at a fixed offset.
func layoutOf(typ uint16) (layout, bool) {
	if int(typ) >= len(layouts) {
		return layout{}, false
	}
	return layouts[typ], layouts[typ].names > 0
}

// namesAt returns the part of the RDATA that consists of names to be folded.
func namesAt(typ uint16, rdata []byte) (from, to int) {
	l, ok := layoutOf(typ)
	switch {
	case typ == dns.TypeNAPTR:
		l = layout{4, 1}
		for range 3 {
			if l.offset < len(rdata) {
				l.offset += 1 + int(rdata[l.offset])
			}
		}
	case typ == typeA6: // the name of the prefix comes after the bits that this does not have (RFC 2874 3.1)
		if len(rdata) == 0 || rdata[0] == 0 || rdata[0] > 128 {
			return 0, 0
		}
		l = layout{1 + 16 - int(rdata[0])/8, 1}
	case !ok:
		return 0, 0
	}
	end := l.offset
	for range l.names {
		n := nameLen(rdata, end)
		if n == 0 {
			return 0, 0
		}
		end += n
	}
	return l.offset, end
}

// nameLen is the length of the name at an offset, 0 if there is none.
func nameLen(b []byte, offset int) int {
	for i := offset; i < len(b); i += 1 + int(b[i]) {
		if b[i] == 0 {
			return i + 1 - offset
		}
		if b[i] > 63 {
			return 0
		}
	}
	return 0
}

// canonical is RDATA in canonical form (RFC 4034 6.2): the argument itself when that is what it has already.
func canonical(typ uint16, rdata []byte) []byte {
	from, to := namesAt(typ, rdata)
	if isFolded(rdata[from:to]) {
		return rdata
	}
	folded := bytes.Clone(rdata)
	copy(folded[from:], appendLower(nil, rdata[from:to]))
	return folded
}

// isFolded reports whether octets have no letter to be folded.
func isFolded(b []byte) bool {
	for ; len(b) >= 8; b = b[8:] {
		if w := binary.LittleEndian.Uint64(b); fold8(w) != w {
			return false
		}
	}
	for _, c := range b {
		if lower(c) != c {
			return false
		}
	}
	return true
}

// compareRdata orders RDATA of one type canonically (RFC 4034 6.3); what differs in letter case only is equal.
func compareRdata(typ uint16, a, b []byte) int {
	i := 0
	for i < len(a) && i < len(b) && a[i] == b[i] {
		i++
	}
	if i == min(len(a), len(b)) || lower(a[i]) == a[i] && lower(b[i]) == b[i] {
		return bytes.Compare(a[i:], b[i:]) // canonical form changes neither of the first octets that differ
	}
	return bytes.Compare(canonical(typ, a), canonical(typ, b))
}

// hostAt is the offset of the host's name in the RDATA of a type that makes for additional section processing: NS (RFC
// 1035 3.3.11), MX (3.3.9), SRV (RFC 2782), SVCB and HTTPS (RFC 9460 4.1). It is -1 for other types.
func hostAt(typ uint16) int {
	switch typ {
	case dns.TypeNS:
		return 0
	case dns.TypeMX, dns.TypeSVCB, dns.TypeHTTPS:
		return 2
	case dns.TypeSRV:
		return 6
	}
	return -1
}

// nameIn is the name at an offset of RDATA, nil if there is none that is valid.
func nameIn(rdata []byte, offset int) []byte {
	if offset < 0 {
		return nil
	}
	n := nameLen(rdata, offset)
	if n == 0 || n > 255 {
		return nil
	}
	return rdata[offset : offset+n]
}

// soaNumbers reads serial and minimum from the RDATA of a SOA (RFC 1035 3.3.13), of at least 20 octets.
func soaNumbers(rdata []byte) (serial, minimum uint32) {
	numbers := rdata[len(rdata)-20:]
	return binary.BigEndian.Uint32(numbers), binary.BigEndian.Uint32(numbers[16:])
}

// unpackRR makes a record of RDATA as the dns package has it. Where that would make other octets of it again, as it does for
// some types, the record comes in the generic form (RFC 3597 5), which is right for every type.
func unpackRR(owner string, typ uint16, ttl uint32, rdata []byte) dns.RR {
	h := dns.RR_Header{Name: owner, Rrtype: typ, Class: dns.ClassINET, Ttl: ttl, Rdlength: uint16(len(rdata))}
	rr, _, err := dns.UnpackRRWithHeader(h, rdata, 0)
	if err == nil && (packsExactly(typ, rdata) || packsTo(rr, rdata)) {
		return rr
	}
	return genericRR(h, rdata)
}

func genericRR(h dns.RR_Header, rdata []byte) dns.RR {
	return &dns.RFC3597{Hdr: h, Rdata: hex.EncodeToString(rdata)}
}

// packsExactly tells of the types that most records have that the dns package packs what it has unpacked. False says nothing.
func packsExactly(typ uint16, rdata []byte) bool {
	switch typ {
	case dns.TypeA, dns.TypeAAAA, dns.TypeNS, dns.TypeCNAME, dns.TypePTR, dns.TypeSOA, dns.TypeMX, dns.TypeTXT, dns.TypeSRV, dns.TypeDS,
		dns.TypeRRSIG, dns.TypeDNSKEY:
		return true
	case dns.TypeNSEC:
		return lastBitsSet(rdata, nameLen(rdata, 0))
	case dns.TypeNSEC3:
		if len(rdata) < 5 || len(rdata) < 6+int(rdata[4]) {
			return false
		}
		next := 5 + int(rdata[4])
		return lastBitsSet(rdata, next+1+int(rdata[next]))
	}
	return false
}

// lastBitsSet reports whether no window of the type bit map that begins at an offset ends with zeros, which the dns package
// would leave out.
func lastBitsSet(rdata []byte, at int) bool {
	for at < len(rdata) {
		if at+2 > len(rdata) {
			return false
		}
		at += 2 + int(rdata[at+1])
		if at > len(rdata) || rdata[at-1] == 0 {
			return false
		}
	}
	return at > 0
}

// packsTo reports whether the dns package makes such RDATA of a record.
func packsTo(rr dns.RR, rdata []byte) bool {
	again := make([]byte, len(rdata)+300)
	end, err := dns.PackRR(rr, again, 0, nil, false)
	return err == nil && bytes.Equal(again[nameLen(again, 0)+10:end], rdata)
}
