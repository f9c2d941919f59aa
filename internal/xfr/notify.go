package xfr

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/miekg/dns"
)

// NotifyTaker takes NOTIFY messages (RFC 1996), whatever they come by.
type NotifyTaker struct {
	Keys map[string]*Key // by name: those that a message may be signed with
	Now  func() time.Time

	// Notify is told of a zone for which one came, and from whom. key is nil if it was not signed. It returns the RCODE.
	Notify func(origin string, from netip.Addr, key *Key) (rcode int)
}

// Answer takes one message, and returns the response; nil if it deserves none.
func (n *NotifyTaker) Answer(raw []byte, from netip.Addr) []byte {
	if len(raw) < headerSize || raw[2]&0x80 != 0 {
		return nil // a response is never answered
	}
	m := new(dns.Msg)
	if m.Unpack(raw) != nil {
		return n.answer(&dns.Msg{MsgHdr: dns.MsgHdr{Id: binary.BigEndian.Uint16(raw), Opcode: int(raw[2] >> 3 & 0xf)}}, dns.RcodeFormatError, nil, nil)
	}
	switch {
	case m.Opcode != dns.OpcodeNotify:
		return n.answer(m, dns.RcodeRefused, nil, nil) // no queries here
	case len(m.Question) != 1 || m.Question[0].Qtype != dns.TypeSOA || m.Question[0].Qclass != dns.ClassINET:
		return n.answer(m, dns.RcodeFormatError, nil, nil)
	}
	var key *Key
	if sig := m.IsTsig(); sig != nil {
		var code uint16
		if key, code = n.verify(raw, sig); code != dns.RcodeSuccess {
			return n.unverified(m, sig, key, code)
		}
	}
	rcode := n.Notify(dns.CanonicalName(m.Question[0].Name), from, key)
	return n.answer(m, rcode, key, m.IsTsig())
}

// verify checks a signature, and returns its key or what is wrong (RFC 8945 5.2).
func (n *NotifyTaker) verify(raw []byte, sig *dns.TSIG) (*Key, uint16) {
	key := n.Keys[dns.CanonicalName(sig.Hdr.Name)]
	if key == nil || dns.CanonicalName(sig.Algorithm) != key.Algorithm {
		return nil, dns.RcodeBadKey
	}
	if _, err := newVerifier(key, nil, n.Now).message(raw); errors.Is(err, errTime) {
		return key, dns.RcodeBadTime
	} else if err != nil {
		return nil, dns.RcodeBadSig
	}
	return key, dns.RcodeSuccess
}

// answer makes the response, signed if the request was.
func (n *NotifyTaker) answer(m *dns.Msg, rcode int, key *Key, sig *dns.TSIG) []byte {
	reply := new(dns.Msg)
	reply.MsgHdr = dns.MsgHdr{Id: m.Id, Response: true, Opcode: m.Opcode, Authoritative: rcode == dns.RcodeSuccess, Rcode: rcode}
	reply.Question = m.Question
	var mac []byte
	if key != nil {
		mac = macOf(sig)
	}
	wire, _, err := key.sign(reply, mac, n.Now())
	if err != nil {
		return nil
	}
	return wire
}

// unverified is the response to a signature that is wrong: NOTAUTH, and why. It is unsigned, but for the time alone being
// wrong: then it is signed, and says what time it is here (RFC 8945 5.2.3, 5.3.2).
func (n *NotifyTaker) unverified(m *dns.Msg, sig *dns.TSIG, key *Key, code uint16) []byte {
	reply := new(dns.Msg)
	reply.MsgHdr = dns.MsgHdr{Id: m.Id, Response: true, Opcode: m.Opcode, Rcode: dns.RcodeNotAuth}
	reply.Question = m.Question
	said := &dns.TSIG{Hdr: dns.RR_Header{Name: sig.Hdr.Name, Rrtype: dns.TypeTSIG, Class: dns.ClassANY},
		Algorithm: sig.Algorithm, TimeSigned: sig.TimeSigned, Fudge: fudge, OrigId: m.Id, Error: code}
	reply.Extra = []dns.RR{said}
	if code == dns.RcodeBadTime {
		said.OtherLen, said.OtherData = 6, fmt.Sprintf("%012x", n.Now().Unix())
		wire, _, err := dns.TsigGenerate(reply, base64.StdEncoding.EncodeToString(key.Secret), sig.MAC, false)
		if err != nil {
			return nil
		}
		return wire
	}
	wire, err := reply.Pack()
	if err != nil {
		return nil
	}
	return wire
}
