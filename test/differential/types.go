package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/rdata"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/test/zonegen"
)

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
	if !zonegen.IsRare(typ) || typ == dns.TypeSVCB || typ == dns.TypeHTTPS { // whose targets are looked at
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
