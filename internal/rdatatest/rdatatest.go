// Package rdatatest makes random RDATA of every type, for tests. It says what RDATA is in words of its own, so that it is no
// mirror of internal/rdata: what it makes is right by the types' RFCs, and what BIND, Knot and NSD take.
package rdatatest

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// shapes has the parts of each type's RDATA: a number for so many octets, n for a name, s for a character-string, s+ for
// one or more and s? for one or none, h for 1 to 40 octets, h? for as many or none, l for 20, t for a type bit map, and words for what
// made has.
var shapes = map[uint16]string{
	dns.TypeA: "4", dns.TypeNS: "n", dns.TypeMD: "n", dns.TypeMF: "n", dns.TypeCNAME: "n", dns.TypeSOA: "n n 4 4 4 4 4", dns.TypeMB: "n",
	dns.TypeMG: "n", dns.TypeMR: "n", dns.TypeNULL: "h?", 11: "4 protocol ports", dns.TypePTR: "n", dns.TypeHINFO: "s s", dns.TypeMINFO: "n n", dns.TypeMX: "2 n",
	dns.TypeTXT: "s+", dns.TypeRP: "n n", dns.TypeAFSDB: "2 n", dns.TypeX25: "digits", dns.TypeISDN: "s s?", dns.TypeRT: "2 n", 22: "l",
	dns.TypeNSAPPTR: "n", dns.TypeSIG: "type 1 1 4 4 4 2 n h", dns.TypeKEY: "one 1 1 1 h", dns.TypePX: "2 n n", dns.TypeGPOS: "angle angle angle",
	dns.TypeAAAA: "16", dns.TypeLOC: "loc", dns.TypeNXT: "n nxt", dns.TypeEID: "h", dns.TypeNIMLOC: "h", dns.TypeSRV: "2 2 2 n", dns.TypeATMA: "atma",
	dns.TypeNAPTR: "2 2 s s regexp n", dns.TypeKX: "2 n", dns.TypeCERT: "2 2 1 h", 38: "a6", dns.TypeDNAME: "n", 40: "1 1 1 h?", dns.TypeAPL: "apl",
	dns.TypeDS: "2 1 sha256 32", dns.TypeSSHFP: "1 1 h", dns.TypeIPSECKEY: "ipseckey", dns.TypeRRSIG: "type 1 1 4 4 4 2 n h", dns.TypeNSEC: "n t",
	dns.TypeDNSKEY: "2 three 1 h", dns.TypeDHCID: "h", dns.TypeNSEC3: "one 1 2 s hash t", dns.TypeNSEC3PARAM: "one 1 2 s", dns.TypeTLSA: "1 1 1 h",
	dns.TypeSMIMEA: "1 1 1 h", dns.TypeHIP: "hip", dns.TypeNINFO: "s+", dns.TypeRKEY: "none none 1 1 h", dns.TypeTALINK: "n n", dns.TypeCDS: "2 1 sha256 32",
	dns.TypeCDNSKEY: "2 three 1 h", dns.TypeOPENPGPKEY: "h", dns.TypeCSYNC: "4 2 t", dns.TypeZONEMD: "4 high high 20", dns.TypeSVCB: "service",
	dns.TypeHTTPS: "service", 66: "type one 2 n", 67: "h", 68: "h", dns.TypeSPF: "s+", dns.TypeUINFO: "s", dns.TypeUID: "4", dns.TypeGID: "4",
	dns.TypeUNSPEC: "h", dns.TypeNID: "2 8", dns.TypeL32: "2 4", dns.TypeL64: "2 8", dns.TypeLP: "2 n", dns.TypeEUI48: "6", dns.TypeEUI64: "8",
	dns.TypeURI: "2 2 h", dns.TypeCAA: "1 tag h?", dns.TypeAVC: "s+", 259: "4 4 1 s h?", dns.TypeAMTRELAY: "1 relay", dns.TypeRESINFO: "s+", 262: "s+",
	263: "s+", 264: "8", dns.TypeTA: "2 1 sha256 32", dns.TypeDLV: "2 1 sha256 32",
	20000: "h?", 65280: "h?", 65534: "h",
}

// Types are all types that records can have which are in IANA's registry, and some that nobody knows.
func Types() []uint16 { return slices.Sorted(maps.Keys(shapes)) }

// Random makes RDATA of a type of Types, without compressed names.
func Random(r *rand.Rand, typ uint16) []byte {
	var out []byte
	for part := range strings.FieldsSeq(shapes[typ]) {
		if n, err := strconv.Atoi(part); err == nil {
			out = append(out, octets(r, n)...)
			continue
		}
		if _, ok := made[part]; !ok {
			panic(fmt.Sprintf("no part %s", part))
		}
		out = append(out, made[part](r)...)
	}
	return out
}

// made makes the parts that have names.
var made = map[string]func(r *rand.Rand) []byte{
	"n": Name,
	"s": func(r *rand.Rand) []byte { return short(octets(r, r.IntN(20))) },
	"s+": func(r *rand.Rand) []byte {
		return slices.Concat(short(octets(r, r.IntN(256))), short(octets(r, r.IntN(20))))
	},
	"s?":       func(r *rand.Rand) []byte { return slices.Repeat(short(octets(r, r.IntN(20))), r.IntN(2)) },
	"h":        func(r *rand.Rand) []byte { return octets(r, 1+r.IntN(40)) },
	"h?":       func(r *rand.Rand) []byte { return octets(r, r.IntN(40)) },
	"l":        func(r *rand.Rand) []byte { return octets(r, 20) },
	"t":        bitmap,
	"type":     func(r *rand.Rand) []byte { return binary.BigEndian.AppendUint16(nil, uint16(1+r.IntN(40))) },
	"none":     func(*rand.Rand) []byte { return []byte{0} },
	"one":      func(*rand.Rand) []byte { return []byte{1} },
	"three":    func(*rand.Rand) []byte { return []byte{3} },
	"sha256":   func(*rand.Rand) []byte { return []byte{2} },
	"high":     func(r *rand.Rand) []byte { return []byte{byte(240 + r.IntN(16))} },
	"protocol": func(r *rand.Rand) []byte { return []byte{[]byte{6, 17}[r.IntN(2)]} },
	"ports": func(r *rand.Rand) []byte {
		return append(octets(r, r.IntN(30)), 0x10)
	},
	"digits": func(r *rand.Rand) []byte { return short(fmt.Appendf(nil, "%d", 1000+r.IntN(1e9))) },
	"angle":  func(r *rand.Rand) []byte { return short(fmt.Appendf(nil, "%d.%d", r.IntN(180)-90, r.IntN(100))) },
	"tag":    func(r *rand.Rand) []byte { return short(fmt.Appendf(nil, "issue%d", r.IntN(100))) },
	"regexp": func(r *rand.Rand) []byte { return short(fmt.Appendf(nil, "!^.*$!sip:%d@example.com!", r.IntN(1000))) },
	"hash":   func(r *rand.Rand) []byte { return short(octets(r, 20)) },
	"nxt":    func(r *rand.Rand) []byte { return append([]byte{byte(r.IntN(128))}, octets(r, r.IntN(8))...) },
	"loc":    location,
	"atma":   atma,
	"a6":     a6,
	"apl":    prefixes,
	"relay": func(r *rand.Rand) []byte {
		kind := r.IntN(4)
		return append([]byte{byte(r.IntN(2)<<7 | kind)}, gateway(r, kind)...)
	},
	"ipseckey": func(r *rand.Rand) []byte {
		kind := r.IntN(4)
		return slices.Concat([]byte{byte(r.IntN(256)), byte(kind), 2}, gateway(r, kind), octets(r, 1+r.IntN(40)))
	},
	"hip": func(r *rand.Rand) []byte {
		return slices.Concat([]byte{16, 2, 0, 30}, octets(r, 46), Name(r), Name(r))
	},
	"service": service,
}

// octets are random, often of few bits.
func octets(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.IntN(256)) >> r.IntN(4)
	}
	return b
}

func short(b []byte) []byte { return append([]byte{byte(len(b))}, b...) }

// Name makes a name in wire format of any octets but the quotation mark, which NSD 4.6 does not escape in names.
func Name(r *rand.Rand) []byte {
	var out []byte
	for range r.IntN(4) {
		out = append(out, short(bytes.ReplaceAll(octets(r, 1+r.IntN(20)), []byte{'"'}, []byte{'Q'}))...)
	}
	return append(out, 0)
}

// bitmap makes a type bit map without zeros at the ends of windows, and without meta types.
func bitmap(r *rand.Rand) []byte {
	var out []byte
	for window := range 3 {
		bits := append(octets(r, r.IntN(16)), byte(1+r.IntN(255)))
		if window == 0 {
			bits[0] = bits[0]&0x7f | 0x40 // no type 0, but A
		}
		if window == 2 {
			window = 255
		}
		out = append(append(out, byte(window), byte(len(bits))), bits...)
	}
	for i := 2; i < 2+int(out[1]); i++ {
		if i-2 == int(dns.TypeOPT)/8 {
			out[i] &^= 0x80 >> (dns.TypeOPT % 8)
		}
	}
	if last := 1 + int(out[1]); out[last] == 0 {
		out[last] = 1
	}
	return out
}

func location(r *rand.Rand) []byte {
	size := func() byte { return byte((1+r.IntN(9))<<4 | r.IntN(10)) }
	out := []byte{0, size(), size(), size()}
	out = binary.BigEndian.AppendUint32(out, 1<<31-90*3600_000+r.Uint32N(180*3600_000))
	out = binary.BigEndian.AppendUint32(out, 1<<31-180*3600_000+r.Uint32N(360*3600_000))
	return binary.BigEndian.AppendUint32(out, r.Uint32())
}

func atma(r *rand.Rand) []byte {
	if r.IntN(2) == 0 {
		return fmt.Appendf([]byte{1}, "%d", 1000+r.IntN(1e9))
	}
	return append([]byte{0}, octets(r, 20)...)
}

// a6 makes a suffix whose bits before it are zero, as RFC 2874 3.1 has it.
func a6(r *rand.Rand) []byte {
	n := r.IntN(129)
	suffix := octets(r, 16-n/8)
	if n < 128 {
		suffix[0] &= 0xff >> (n % 8)
	}
	out := append([]byte{byte(n)}, suffix...)
	if n > 0 {
		out = append(out, Name(r)...)
	}
	return out
}

// prefixes makes items of families 1 and 2, without bits beyond their prefixes or zeros at the end.
func prefixes(r *rand.Rand) []byte {
	var out []byte
	for range r.IntN(4) {
		family := 1 + r.IntN(2)
		whole := r.IntN([]int{4, 16}[family-1] + 1)
		part := octets(r, whole)
		if whole > 0 && part[whole-1] == 0 {
			part[whole-1] = 1
		}
		out = append(out, 0, byte(family), byte(8*whole), byte(r.IntN(2)<<7|whole))
		out = append(out, part...)
	}
	return out
}

func gateway(r *rand.Rand, kind int) []byte {
	switch kind {
	case 1:
		return octets(r, 4)
	case 2:
		return octets(r, 16)
	case 3:
		return Name(r)
	}
	return nil
}

// service makes parameters of all kinds.
func service(r *rand.Rand) []byte {
	out := append([]byte{0, byte(1 + r.IntN(255))}, Name(r)...)
	values := []func() []byte{
		func() []byte { return []byte{0, 1, 0, 3} },
		func() []byte { // Knot 3.2 does not write other octets right
			return slices.Concat(short(fmt.Appendf(nil, "h%d\200", r.IntN(1e6))), short([]byte(`h2,\"`)))
		},
		nil,
		func() []byte { return octets(r, 2) },
		func() []byte { return octets(r, 4*(1+r.IntN(3))) },
		func() []byte { return octets(r, 1+r.IntN(40)) },
		func() []byte { return octets(r, 16*(1+r.IntN(3))) },
		func() []byte { return []byte("/dns-query{?dns}") },
		func() []byte { return []byte{} },
	}
	for key, value := range values {
		if value != nil && (key < 4 || r.IntN(2) == 0) {
			v := value()
			out = append(out, 0, byte(key), 0, byte(len(v)))
			out = append(out, v...)
		}
	}
	v := octets(r, r.IntN(30))
	out = append(out, 0xff, byte(r.IntN(255)), 0, byte(len(v)))
	return append(out, v...)
}
