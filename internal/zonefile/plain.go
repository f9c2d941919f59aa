package zonefile

import (
	"net/netip"

	"github.com/miekg/dns"
)

// plainOctets are those that stand for themselves, in a word, wherever it is.
var plainOctets = func() (t [256]bool) {
	for c := byte('!'); c <= '~'; c++ {
		t[c] = true
	}
	for _, c := range []byte(`"$();@\`) {
		t[c] = false
	}
	return t
}()

// plainLine reads a line as a large zone consists of: an absolute owner, TTL, IN, one of the commonest types and its
// RDATA, on one line and without escapes. It returns false, and has done nothing, if the line is anything else, or wrong.
func (p *parser) plainLine(f *file, line []byte, number int) bool {
	ownerText, rest := plainWord(line)
	ttlText, rest := plainWord(rest)
	class, rest := plainWord(rest)
	typ, rest := plainWord(rest)
	ttl, ok := plainNumber(ttlText, 1<<31-1)
	if !ok || string(class) != "IN" || p.b.Len() >= p.opts.MaxRecords {
		return false
	}
	rrtype, rdata, ok := p.plainData(typ, rest)
	if !ok {
		return false
	}
	if p.packedLen == 0 || string(ownerText) != p.packed {
		owner, ok := plainName(p.owner[:0], ownerText)
		if p.packedLen = len(owner); !ok {
			p.packedLen = 0
			return false
		}
		p.packed = string(ownerText)
	}
	f.owner = p.packed
	p.follow(ttl)
	p.b.AddWire(p.owner[:p.packedLen], rrtype, ttl, rdata, f.name, number)
	return true
}

// plainData reads a type and what is left of the line, its RDATA, which is good until the next call.
func (p *parser) plainData(typ, text []byte) (rrtype uint16, rdata []byte, ok bool) {
	out := p.rdata[:0]
	word, rest := plainWord(text)
	switch string(typ) {
	case "A":
		rrtype = dns.TypeA
		out, ok = plainIPv4(out, word)
	case "AAAA":
		rrtype = dns.TypeAAAA
		a, err := netip.ParseAddr(string(word))
		full := a.As16()
		out, ok = append(out, full[:]...), err == nil && a.Is6() && a.Zone() == ""
	case "NS":
		rrtype = dns.TypeNS
		out, ok = plainName(out, word)
	case "CNAME":
		rrtype = dns.TypeCNAME
		out, ok = plainName(out, word)
	case "DS":
		rrtype = dns.TypeDS
		out, rest, ok = plainDS(out, text)
	case "RRSIG":
		rrtype = dns.TypeRRSIG
		out, rest, ok = plainRRSIG(out, text)
	case "NSEC":
		rrtype = dns.TypeNSEC
		out, rest, ok = plainNSEC(out, text)
	case "NSEC3":
		rrtype = dns.TypeNSEC3
		out, rest, ok = plainNSEC3(out, text)
	}
	return rrtype, out, ok && string(rest) == "\n"
}

// plainWord cuts off a word and the blanks after it. What is left of a line in the end is its newline; the word is empty
// if there is none that is plain.
func plainWord(b []byte) (word, rest []byte) {
	i := 0
	for i < len(b) && plainOctets[b[i]] {
		i++
	}
	word = b[:i]
	for i < len(b) && (b[i] == '\t' || b[i] == ' ') {
		i++
	}
	if i == len(word) && (i == len(b) || b[i] != '\n') {
		return nil, nil
	}
	return word, b[i:]
}

// plainNumber reads a decimal number of at most limit.
func plainNumber(word []byte, limit uint64) (n uint32, ok bool) {
	if len(word) == 0 || len(word) > 10 {
		return 0, false
	}
	var wide uint64
	for _, c := range word {
		if c < '0' || c > '9' {
			return 0, false
		}
		wide = wide*10 + uint64(c-'0')
	}
	return uint32(wide), wide <= limit
}

// plainName appends an absolute name in wire format.
func plainName(dst, text []byte) ([]byte, bool) {
	start := len(dst)
	for len(text) > 0 {
		at := len(dst)
		dst = append(dst, 0)
		i := 0
		for i < len(text) && text[i] != '.' {
			i++
		}
		if i == 0 || i > 63 || i == len(text) {
			return dst, false
		}
		dst[at] = byte(i)
		dst = append(dst, text[:i]...)
		text = text[i+1:]
	}
	dst = append(dst, 0)
	return dst, len(dst)-start > 1 && len(dst)-start <= 255
}

// plainIPv4 appends an address as RFC 1035 3.4.1 writes it, without leading zeros.
func plainIPv4(dst, text []byte) ([]byte, bool) {
	for i := range 4 {
		n, digits := 0, 0
		for digits < len(text) && digits < 4 && '0' <= text[digits] && text[digits] <= '9' {
			n = n*10 + int(text[digits]-'0')
			digits++
		}
		if digits == 0 || n > 255 || digits > 1 && text[0] == '0' || (i < 3) != (digits < len(text)) || i < 3 && text[digits] != '.' {
			return dst, false
		}
		dst = append(dst, byte(n))
		text = text[min(digits+1, len(text)):]
	}
	return dst, true
}
