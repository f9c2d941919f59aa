package query

import "github.com/miekg/dns"

// Message is a request as the dns package has it, with what that of a plain query refers to in the same piece of memory.
type Message struct {
	dns.Msg
	question [1]dns.Question
	extra    [1]dns.RR
	opt      dns.OPT
}

// Bits of a header's flags that mean nothing in a query.
const (
	flagAA    = 1 << 10
	flagRA    = 1 << 7
	flagZ     = 1 << 6
	flagAD    = 1 << 5
	flagCD    = 1 << 4
	rcodeMask = 15
)

// Unpack does what dns.Msg.Unpack does with a message, which Parse has read with that Verdict. For a plain query without options it
// takes less time.
func (m *Message) Unpack(b []byte, q *Query, v Verdict) error {
	if v != Plain || q.optAt > 0 && len(b) > q.optAt+optHead {
		return m.Msg.Unpack(b)
	}
	name, _, err := dns.UnpackDomainName(q.Name, 0)
	if err != nil {
		return err
	}
	m.MsgHdr = dns.MsgHdr{Id: q.ID, Opcode: dns.OpcodeQuery, Authoritative: q.Flags&flagAA != 0, RecursionDesired: q.RecursionDesired(),
		RecursionAvailable: q.Flags&flagRA != 0, Zero: q.Flags&flagZ != 0, AuthenticatedData: q.Flags&flagAD != 0,
		CheckingDisabled: q.Flags&flagCD != 0, Rcode: int(q.Flags & rcodeMask)}
	m.question[0] = dns.Question{Name: name, Qtype: q.Type, Qclass: q.Class}
	m.Question = m.question[:]
	if q.optAt > 0 {
		o := b[q.optAt:]
		m.opt.Hdr = dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT, Class: uint16(o[3])<<8 | uint16(o[4]),
			Ttl: uint32(o[5])<<24 | uint32(o[6])<<16 | uint32(o[7])<<8 | uint32(o[8])}
		m.extra[0] = &m.opt
		m.Extra = m.extra[:]
		m.Rcode |= m.opt.ExtendedRcode()
	}
	return nil
}
