package zonefile

import (
	"bytes"
	"encoding/base32"
	"encoding/base64"
	"encoding/binary"
	"net/netip"
	"strconv"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// plainWriter writes the records that most of a zone is made of straight from wire format. What it writes is what Line says
// of them; it leaves to Line what has anything odd about it.
type plainWriter struct {
	buf   []byte
	owner []byte // in wire format, of the last line
	head  []byte // its name, and a tab; empty if that is not plain
	times [2]moment
}

// moment is an instant of an RRSIG record, and how it is written: a zone has few of them.
type moment struct {
	at   uint32
	text string
}

// line is a record's line with its newline, valid until the next call; false if Line must be asked.
func (p *plainWriter) line(r *zone.WireRecord) ([]byte, bool) {
	if p.owner == nil || !bytes.Equal(p.owner, r.Owner) {
		p.owner = r.Owner
		if name, rest, ok := appendPlainName(p.head[:0], r.Owner); ok && len(rest) == 0 && name[0] != '$' {
			p.head = append(name, '\t')
		} else {
			p.head = p.head[:0]
		}
	}
	if len(p.head) == 0 {
		return nil, false
	}
	b := strconv.AppendUint(append(p.buf[:0], p.head...), uint64(r.TTL), 10)
	b, ok := p.rdata(b, r)
	p.buf = b
	return b, ok
}

// rdata appends what comes after the TTL.
func (p *plainWriter) rdata(b []byte, r *zone.WireRecord) (_ []byte, ok bool) {
	rest := r.Data
	switch r.Type {
	case dns.TypeA:
		address, ok := netip.AddrFromSlice(rest)
		if !ok || !address.Is4() {
			return b, false
		}
		return append(address.AppendTo(append(b, "\tIN\tA\t"...)), '\n'), true
	case dns.TypeAAAA:
		address, ok := netip.AddrFromSlice(rest)
		if !ok || !address.Is6() || address.Is4In6() {
			return b, false
		}
		return append(address.AppendTo(append(b, "\tIN\tAAAA\t"...)), '\n'), true
	case dns.TypeNS:
		if b, rest, ok = appendPlainName(append(b, "\tIN\tNS\t"...), rest); !ok || len(rest) > 0 {
			return b, false
		}
		return append(b, '\n'), true
	case dns.TypeDS:
		if len(rest) < 5 {
			return b, false
		}
		b = appendNumbers(append(b, "\tIN\tDS\t"...), uint32(binary.BigEndian.Uint16(rest)), uint32(rest[2]), uint32(rest[3]))
		return append(appendHex(b, rest[4:]), '\n'), true
	case dns.TypeRRSIG:
		return p.signature(append(b, "\tIN\tRRSIG\t"...), rest)
	case dns.TypeNSEC3:
		return appendNSEC3(append(b, "\tIN\tNSEC3\t"...), rest)
	}
	return b, false
}

// signature appends the RDATA of an RRSIG record (RFC 4034 3.2).
func (p *plainWriter) signature(b, rdata []byte) ([]byte, bool) {
	if len(rdata) < 20 {
		return b, false
	}
	be := binary.BigEndian
	typ, ok := plainType(be.Uint16(rdata))
	if !ok {
		return b, false
	}
	b = append(append(b, typ...), ' ')
	b = appendNumbers(b, uint32(rdata[2]), uint32(rdata[3]), be.Uint32(rdata[4:]))
	b = append(append(b, p.instant(0, be.Uint32(rdata[8:]))...), ' ')
	b = append(append(b, p.instant(1, be.Uint32(rdata[12:]))...), ' ')
	b = appendNumbers(b, uint32(be.Uint16(rdata[16:])))
	b, rest, ok := appendPlainName(b, rdata[18:])
	if !ok || len(rest) == 0 {
		return b, false
	}
	return append(base64.StdEncoding.AppendEncode(append(b, ' '), rest), '\n'), true
}

func (p *plainWriter) instant(i int, at uint32) string {
	if m := &p.times[i]; m.text == "" || m.at != at {
		*m = moment{at, dns.TimeToString(at)}
	}
	return p.times[i].text
}

var base32Hex = base32.HexEncoding.WithPadding(base32.NoPadding)

// appendNSEC3 appends the RDATA of an NSEC3 record (RFC 5155 3.3).
func appendNSEC3(b, rdata []byte) ([]byte, bool) {
	if len(rdata) < 6 || len(rdata) < 6+int(rdata[4]) {
		return b, false
	}
	salt, rest := rdata[5:5+int(rdata[4])], rdata[5+int(rdata[4]):]
	if len(rest) < 1+int(rest[0]) {
		return b, false
	}
	next, bitmap := rest[1:1+int(rest[0])], rest[1+int(rest[0]):]
	b = appendNumbers(b, uint32(rdata[0]), uint32(rdata[1]), uint32(binary.BigEndian.Uint16(rdata[2:])))
	if len(salt) == 0 {
		b = append(b, '-')
	}
	b = append(appendHex(b, salt), ' ')
	b = base32Hex.AppendEncode(b, next)
	return appendBitmap(b, bitmap)
}

// appendBitmap appends the types of a bitmap (RFC 4034 4.1.2), each with a blank before it, and the end of the line.
func appendBitmap(b, bitmap []byte) ([]byte, bool) {
	for last := -1; len(bitmap) > 0; {
		if len(bitmap) < 3 || int(bitmap[0]) <= last || bitmap[1] == 0 || bitmap[1] > 32 || len(bitmap) < 2+int(bitmap[1]) {
			return b, false
		}
		last = int(bitmap[0])
		for i, octet := range bitmap[2 : 2+int(bitmap[1])] {
			for bit := range 8 {
				if octet&(0x80>>bit) == 0 {
					continue
				}
				typ, ok := plainType(uint16(last)<<8 | uint16(8*i+bit))
				if !ok {
					return b, false
				}
				b = append(append(b, ' '), typ...)
			}
		}
		bitmap = bitmap[2+int(bitmap[1]):]
	}
	return append(b, '\n'), true
}

// plainType is a type's mnemonic, if it has one; type 0 has none that is read.
func plainType(typ uint16) (string, bool) {
	name, ok := dns.TypeToString[typ]
	return name, ok && typ != dns.TypeNone
}

// appendNumbers appends numbers, with a blank after each.
func appendNumbers(b []byte, numbers ...uint32) []byte {
	for _, n := range numbers {
		b = append(strconv.AppendUint(b, uint64(n), 10), ' ')
	}
	return b
}

func appendHex(b, octets []byte) []byte {
	const digits = "0123456789ABCDEF"
	for _, c := range octets {
		b = append(b, digits[c>>4], digits[c&15])
	}
	return b
}

// appendPlainName appends the name that wire begins with, if it is made of letters, digits, hyphens and underscores, and
// says what comes after it.
func appendPlainName(b, wire []byte) (_, rest []byte, ok bool) {
	if len(wire) == 0 {
		return b, nil, false
	}
	if wire[0] == 0 {
		return append(b, '.'), wire[1:], true
	}
	for wire[0] != 0 {
		n := int(wire[0])
		if n > 63 || len(wire) < n+2 {
			return b, nil, false
		}
		for _, c := range wire[1 : 1+n] {
			if !plainOctet[c] {
				return b, nil, false
			}
		}
		b = append(append(b, wire[1:1+n]...), '.')
		wire = wire[1+n:]
	}
	return b, wire[1:], true
}

var plainOctet = func() (plain [256]bool) {
	for _, c := range []byte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") {
		plain[c] = true
	}
	return plain
}()
