package query

import (
	"bufio"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math/bits"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// Lengths of cookies in octets. Other servers' cookies may be longer (RFC 7873 4), ours are as RFC 9018 4 has them.
const (
	clientCookie = 8
	serverCookie = 16
	minServer    = 8
	maxServer    = 32
)

// CookieOption is how many octets the COOKIE option of a response takes.
const CookieOption = 4 + clientCookie + serverCookie

// Times of a server cookie in seconds (RFC 9018 4.3).
const (
	cookieAge    = 3600 // that it is good
	cookieRenew  = 1800 // after which another one is given
	cookieFuture = 300  // that clocks of nodes may differ
)

// Secret is what server cookies are made with: that of all nodes which share an address, or a client's cookie is good at one
// of them only (RFC 9018 5).
type Secret [16]byte

// Secrets are those that are good at a time. The first one makes cookies, the others have made them, or will elsewhere.
type Secrets []Secret

// Key is what secrets come from: one of 16 octets is a secret, one of 32 is a seed, of which there is a secret for each day, of UTC.
type Key []byte

// Keys are those of a mesh, the one in use first. To roll over by hand the next one is given to all nodes in second place before it
// is put into the first.
type Keys []Key

const seedLen = 32 // octets of a seed

// maxKeys bounds what is read: each costs a hash, or two, for a cookie that is not good.
const maxKeys = 4

// ReadKeys reads one key a line, as 32 or 64 hexadecimal digits. Lines that are empty or begin with # do not count. An error
// names the line and the rule.
func ReadKeys(r io.Reader) (Keys, error) {
	var all Keys
	lines := bufio.NewScanner(io.LimitReader(r, 1<<16))
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		b, err := hex.DecodeString(text)
		if err != nil || len(b) != len(Secret{}) && len(b) != seedLen {
			return nil, fmt.Errorf("line %d: neither a seed of 64 hexadecimal digits nor a secret of 32 (RFC 9018 4)", n)
		}
		all = append(all, b)
	}
	switch {
	case lines.Err() != nil:
		return nil, lines.Err()
	case len(all) == 0:
		return nil, fmt.Errorf("no secret: one a line, as 64 hexadecimal digits for a seed, or 32 for a secret")
	case len(all) > maxKeys:
		return nil, fmt.Errorf("%d secrets: there may be %d, the one in use, those before and the next", len(all), maxKeys)
	}
	return all, nil
}

// day is the seconds for which a secret that is made of a seed makes cookies: RFC 7873 7.2 wants no more than 26 hours.
const day = 24 * 3600

// Secrets are what is good at the time, in seconds since 1970. Near the end and the beginning of a day those of both days are, as
// long as a cookie of the one before is, and as far as the clock of another node may be ahead.
func (k Keys) Secrets(now uint32) Secrets {
	all := make(Secrets, 0, len(k)+1)
	for _, key := range k {
		all = append(all, key.on(now/day))
	}
	for _, key := range k {
		switch since := now % day; {
		case len(key) != seedLen:
		case since < cookieAge+2*cookieFuture:
			all = append(all, key.on(now/day-1))
		case since >= day-2*cookieFuture:
			all = append(all, key.on(now/day+1))
		}
	}
	return all
}

// on is the secret of a day, in days since 1970.
func (k Key) on(day uint32) Secret {
	if len(k) != seedLen {
		return Secret(k)
	}
	h := hmac.New(sha256.New, k)
	h.Write(binary.BigEndian.AppendUint32([]byte("DNS server cookie"), day))
	return Secret(h.Sum(nil)[:len(Secret{})])
}

// CookieState is what a request's server cookie is worth.
type CookieState uint8

const (
	CookieBad CookieState = iota // there is none, or it is not good for this client now
	CookieOld                    // it is good, but another one is due
	CookieGood
)

// CheckCookie says what the request's server cookie is worth for this client at the time, in seconds since 1970.
func (q *Query) CheckCookie(secrets Secrets, client netip.Addr, now uint32) CookieState {
	c := q.Cookie
	if len(c) != clientCookie+serverCookie || c[clientCookie] != 1 {
		return CookieBad
	}
	age := int32(now - binary.BigEndian.Uint32(c[12:]))
	if age > cookieAge || age < -cookieFuture {
		return CookieBad
	}
	for i := range secrets {
		if secrets[i].hash([16]byte(c), client) != binary.LittleEndian.Uint64(c[16:]) {
			continue
		}
		if i > 0 || age > cookieRenew {
			return CookieOld
		}
		return CookieGood
	}
	return CookieBad
}

// HasServerCookie reports whether the request has a server cookie, good or not.
func (q *Query) HasServerCookie() bool { return len(q.Cookie) > clientCookie }

// AppendCookie appends the COOKIE option of the response: the client's cookie, and the server cookie that it came with if
// that is good, or another one.
func (q *Query) AppendCookie(dst []byte, state CookieState, secrets Secrets, client netip.Addr, now uint32) []byte {
	if state == CookieGood {
		return AppendOption(dst, dns.EDNS0COOKIE, q.Cookie)
	}
	var c [16]byte
	copy(c[:], q.Cookie[:clientCookie])
	c[clientCookie] = 1
	binary.BigEndian.PutUint32(c[12:], now)
	dst = append(dst, 0, dns.EDNS0COOKIE, 0, clientCookie+serverCookie)
	return binary.LittleEndian.AppendUint64(append(dst, c[:]...), secrets[0].hash(c, client))
}

// hash is SipHash-2-4 over a client's cookie, the version, reserved octets and time of a server cookie, and the client's
// address (RFC 9018 4.4).
func (s *Secret) hash(c [16]byte, addr netip.Addr) uint64 {
	var in [40]byte
	copy(in[:], c[:])
	n := 16
	if addr.Is4() {
		four := addr.As4()
		n += copy(in[16:], four[:])
	} else {
		sixteen := addr.As16()
		n += copy(in[16:], sixteen[:])
	}
	k0, k1 := binary.LittleEndian.Uint64(s[:]), binary.LittleEndian.Uint64(s[8:])
	h := sip{k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d, k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573}
	in[n|7] = byte(n) // the length, in the last octet of the last word
	for i := 0; i <= n; i += 8 {
		word := binary.LittleEndian.Uint64(in[i:])
		h.v3 ^= word
		h.round()
		h.round()
		h.v0 ^= word
	}
	h.v2 ^= 0xff
	for range 4 {
		h.round()
	}
	return h.v0 ^ h.v1 ^ h.v2 ^ h.v3
}

// sip is the state of SipHash.
type sip struct{ v0, v1, v2, v3 uint64 }

func (h *sip) round() {
	h.v0 += h.v1
	h.v2 += h.v3
	h.v1, h.v3 = bits.RotateLeft64(h.v1, 13)^h.v0, bits.RotateLeft64(h.v3, 16)^h.v2
	h.v0 = bits.RotateLeft64(h.v0, 32)
	h.v2 += h.v1
	h.v0 += h.v3
	h.v1, h.v3 = bits.RotateLeft64(h.v1, 17)^h.v2, bits.RotateLeft64(h.v3, 21)^h.v0
	h.v2 = bits.RotateLeft64(h.v2, 32)
}
