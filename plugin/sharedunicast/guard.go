package sharedunicast

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/query"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// guard is what an address does beside answering: it limits, gives cookies, and says more than was asked in the OPT record.
// Both paths go by it, so that it does not matter which one a query takes.
type guard struct {
	settings
	limiter  *limiter  // nil: responses are not limited
	jar      *jar      // nil: there are no cookies
	tapper   *tapper   // nil: nobody is told of queries
	recorder *recorder // nil: traffic is not counted
	closed   sync.Once
	agent    []byte // domain for error reports in wire format
}

func newGuard(s settings, address string) (*guard, error) {
	g := &guard{settings: s}
	if s.rate > 0 {
		g.limiter = newLimiter(s, address)
	}
	if s.reportTo != "" {
		name := make([]byte, 255)
		n, err := dns.PackDomainName(s.reportTo, name, 0, nil, false)
		if err != nil {
			return nil, err
		}
		g.agent = name[:n]
	}
	if s.cookies != "" {
		var err error
		if g.jar, err = openJar(s.cookies); err != nil {
			return nil, err
		}
	}
	if s.stats != "" {
		var err error
		if g.recorder, err = openRecorder(s.stats, s.service); err != nil {
			g.close()
			return nil, err
		}
	}
	if s.tap != "" {
		g.tapper = newTapper(s, address)
	}
	return g, nil
}

func (g *guard) close() { g.closed.Do(g.end) }

func (g *guard) end() {
	if g.recorder != nil {
		g.recorder.close()
	}
	if g.tapper != nil {
		g.tapper.close()
	}
	if g.jar != nil {
		g.jar.close()
	}
}

// asked is a query beside its question: who asks, how and when.
type asked struct {
	client  netip.Addr
	stream  bool // by TCP or TLS: the client's address is its own
	secure  bool // by TLS
	now     time.Time
	secrets query.Secrets // of cookies; nil: there are none
	cookie  query.CookieState
}

// look takes note of what a query's cookie is worth.
func (g *guard) look(q *query.Query, a *asked) {
	a.secrets, a.cookie = nil, query.CookieBad
	if g.jar == nil || q.Cookie == nil {
		return
	}
	a.secrets = *g.jar.secrets.Load()
	a.cookie = q.CheckCookie(a.secrets, a.client, uint32(a.now.Unix()))
}

// fate is what becomes of a response.
type fate uint8

const (
	sent      fate = iota
	shortened      // it says no more than to ask again over TCP
	badCookie      // it says no more than to ask again with the cookie that it has (RFC 7873 5.2.3)
	withheld
)

// judge says what becomes of a response to a query by UDP. Who has a good cookie has its own address.
func (g *guard) judge(a *asked, k kind, name []byte) fate {
	if a.stream || a.cookie != query.CookieBad {
		return sent
	}
	if g.require && a.secrets != nil {
		if g.limiter != nil && g.limiter.judge(a.now, a.client, kindError, nil) == drop {
			return withheld
		}
		return badCookie
	}
	if g.limiter == nil {
		return sent
	}
	switch g.limiter.judge(a.now, a.client, k, name) {
	case truncate:
		if a.secrets != nil {
			return badCookie
		}
		return shortened
	case drop:
		return withheld
	}
	return sent
}

// told is what the options of a response hang on, beside the query.
type told struct {
	rcode int
	zone  *zone.Zone // that was asked, nil if none was
}

// appendOptions appends the options of the OPT record of a response. Those of plugins come before them.
func (g *guard) appendOptions(dst []byte, q *query.Query, a *asked, t told) []byte {
	if a.secrets != nil {
		dst = q.AppendCookie(dst, a.cookie, a.secrets, a.client, uint32(a.now.Unix()))
	}
	if g.version && q.Version && t.zone != nil {
		serial := t.zone.Serial()
		dst = append(dst, 0, byte(dns.EDNS0ZONEVERSION), 0, 6, byte(t.zone.Labels()), 0, byte(serial>>24), byte(serial>>16), byte(serial>>8), byte(serial))
	}
	if g.ede && t.rcode == dns.RcodeRefused {
		code := dns.ExtendedErrorCodeNotAuthoritative
		if !q.AsksForData() {
			code = dns.ExtendedErrorCodeProhibited
		}
		dst = append(dst, 0, byte(dns.EDNS0EDE), 0, 2, 0, byte(code))
	}
	if g.agent != nil && !(len(q.Name) >= len(g.agent) && bytes.EqualFold(q.Name[len(q.Name)-len(g.agent):], g.agent)) {
		dst = query.AppendOption(dst, dns.EDNS0REPORTING, g.agent)
	}
	return dst
}

// room is how many octets the options may take.
func (g *guard) room(q *query.Query, a *asked) int {
	n := 0
	if a.secrets != nil {
		n += query.CookieOption
	}
	if g.version && q.Version {
		n += 4 + 6
	}
	if g.agent != nil {
		n += 4 + len(g.agent)
	}
	return n
}

// padded appends a PADDING option to a response whose last record is the OPT record, of so many octets.
func (g *guard) padded(response []byte, start, opt int, q *query.Query, a *asked) []byte {
	n := g.paddingFor(q, a, len(response)-start)
	if n == 0 || opt == 0 {
		return response
	}
	rdlen := response[len(response)-opt+9:]
	binary.BigEndian.PutUint16(rdlen, binary.BigEndian.Uint16(rdlen)+uint16(n))
	response = append(response, 0, dns.EDNS0PADDING, byte((n-4)>>8), byte(n-4))
	return append(response, make([]byte, n-4)...)
}

// padTo is the multiple of octets that a response is padded to (RFC 8467 4.1).
const padTo = 468

// paddingFor is how long the PADDING option of a response is, header and all, that has so many octets without it; 0 without one.
func (g *guard) paddingFor(q *query.Query, a *asked, size int) int {
	if !g.padding || !a.secure || !q.Padding {
		return 0
	}
	n := 4
	if over := (size + n) % padTo; over > 0 {
		n += padTo - over
	}
	if size+n > dns.MaxMsgSize {
		return 0
	}
	return n
}
