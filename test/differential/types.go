package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/rdata"
	"github.com/coredns-anycast/coredns-anycast/internal/rdatatest"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// rareTypes are the types whose RDATA is made at random, written in the generic form (RFC 3597 5) and compared octet by octet.
// The others have a place in zones that hangs on their meaning, or are refused by BIND: MD and MF.
var rareTypes = slices.DeleteFunc(rdatatest.Types(), func(typ uint16) bool {
	switch typ {
	case dns.TypeA, dns.TypeAAAA, dns.TypeNS, dns.TypeMD, dns.TypeMF, dns.TypeCNAME, dns.TypeSOA, dns.TypeDNAME, dns.TypeDS, dns.TypeRRSIG, dns.TypeNSEC,
		dns.TypeNSEC3, dns.TypeNSEC3PARAM, dns.TypeDNSKEY, dns.TypeCDNSKEY, dns.TypeCDS, dns.TypeZONEMD, dns.TypeSIG, dns.TypeKEY, dns.TypeNXT,
		dns.TypePTR, dns.TypeMX, dns.TypeAFSDB, dns.TypeSRV, // PowerDNS 4.7 does not read these in the generic form
		dns.TypeNSAPPTR: // whose names BIND folds before it signs them, and RFC 4034 6.2 does not
		return true
	}
	return false
})

func isRare(typ uint16) bool { return slices.Contains(rareTypes, typ) }

// restore puts the records of rare types back into a signed zone as they were, since BIND's signer writes them in forms that
// not all others read, and their types where records list types. Lines have the form "owner TTL IN type RDATA".
func restore(signed []byte, lines []string) []byte {
	var b bytes.Buffer
	for line := range bytes.Lines(signed) {
		f := bytes.Fields(line)
		if len(f) < 5 {
			b.Write(line)
			continue
		}
		switch typ, _ := rdata.TypeOf(string(f[3])); {
		case isRare(typ):
			continue
		case typ == dns.TypeRRSIG || typ == dns.TypeNSEC || typ == dns.TypeNSEC3:
			from, to := 4, 5 // of an RRSIG record the type covered
			if typ == dns.TypeNSEC {
				from, to = 5, len(f)
			} else if typ == dns.TypeNSEC3 {
				from, to = 9, len(f)
			}
			for i := from; i < to; i++ {
				if listed, ok := rdata.TypeOf(string(f[i])); ok && isRare(listed) {
					f[i] = fmt.Appendf(nil, "TYPE%d", listed)
				}
			}
			b.Write(bytes.Join(f, []byte(" ")))
			b.WriteByte('\n')
		default:
			b.Write(line)
		}
	}
	for _, line := range lines {
		if f := strings.Fields(line); len(f) > 3 {
			if typ, _ := rdata.TypeOf(f[3]); isRare(typ) {
				b.WriteString(line + "\n")
			}
		}
	}
	return b.Bytes()
}

// unpackExact is dns.Msg.Unpack, but for records of rare types, which the dns package might read as it likes: they come in the
// generic form, with names expanded, and folded as in canonical form (RFC 4034 6.2), which some servers do.
func unpackExact(wire []byte) (*dns.Msg, error) {
	m := new(dns.Msg)
	if len(wire) < 12 {
		return m, m.Unpack(wire)
	}
	at := 12
	for range binary.BigEndian.Uint16(wire[4:]) {
		var err error
		if _, at, err = rdata.ExpandName(nil, wire, at); err != nil || at+4 > len(wire) {
			return nil, errors.New("a message that ends in its question")
		}
		at += 4
	}
	head := bytes.Clone(wire[:at])
	copy(head[6:12], make([]byte, 6))
	if err := m.Unpack(head); err != nil {
		return nil, err
	}
	for i, section := range []*[]dns.RR{&m.Answer, &m.Ns, &m.Extra} {
		for range binary.BigEndian.Uint16(wire[6+2*i:]) {
			rr, next, err := unpackRecord(wire, at)
			if err != nil {
				return nil, err
			}
			*section = append(*section, rr)
			at = next
		}
	}
	if opt := m.IsEdns0(); opt != nil {
		m.Rcode |= opt.ExtendedRcode()
	}
	return m, nil
}

func unpackRecord(wire []byte, at int) (dns.RR, int, error) {
	owner, next, err := rdata.ExpandName(nil, wire, at)
	if err != nil || next+10 > len(wire) {
		return nil, 0, errors.New("a message that ends in a record")
	}
	typ := binary.BigEndian.Uint16(wire[next:])
	if !isRare(typ) || typ == dns.TypeSVCB || typ == dns.TypeHTTPS { // whose targets are looked at
		return dns.UnpackRR(wire, at)
	}
	end := next + 10 + int(binary.BigEndian.Uint16(wire[next+8:]))
	octets, err := rdata.Unpack(typ, wire, next+10, end)
	if err != nil {
		return nil, 0, err
	}
	name, _, err := dns.UnpackDomainName(owner, 0)
	h := dns.RR_Header{Name: name, Rrtype: typ, Class: binary.BigEndian.Uint16(wire[next+2:]), Ttl: binary.BigEndian.Uint32(wire[next+4:]),
		Rdlength: uint16(len(octets))}
	return &dns.RFC3597{Hdr: h, Rdata: hex.EncodeToString(zone.Canonical(typ, octets))}, end, err
}
