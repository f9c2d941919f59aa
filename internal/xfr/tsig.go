package xfr

import (
	"crypto/hmac"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// Key is a TSIG key (RFC 8945). It prints as its name alone.
type Key struct {
	Name      string // fully qualified, lower case
	Algorithm string // dns.HmacSHA256, dns.HmacSHA384, dns.HmacSHA512 or dns.HmacSHA1
	Secret    []byte `json:"-" yaml:"-"`
}

func (k *Key) String() string       { return k.Name }
func (k *Key) GoString() string     { return k.Name }
func (k *Key) LogValue() slog.Value { return slog.StringValue(k.Name) }

// algorithms are those that RFC 8945 6 says to use, and HMAC-SHA1, which it says not to: some primaries have no other.
var algorithms = map[string]func() hash.Hash{dns.HmacSHA1: sha1.New, dns.HmacSHA256: sha256.New, dns.HmacSHA384: sha512.New384, dns.HmacSHA512: sha512.New}

func (k *Key) hash() hash.Hash { return hmac.New(algorithms[k.Algorithm], k.Secret) }

// ParseAlgorithm reads the name of an algorithm of a Key.
func ParseAlgorithm(s string) (string, error) {
	name := dns.CanonicalName(s)
	if algorithms[name] == nil {
		return "", fmt.Errorf("%q is no algorithm: hmac-sha256, hmac-sha384 or hmac-sha512; hmac-sha1 where nothing better can be had", s)
	}
	return name, nil
}

// ParseSecret reads a secret in base64, of 16 octets at least. Errors do not show it.
func ParseSecret(s string) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) == 0 {
		return nil, errors.New("a secret is base64")
	}
	if len(b) < 16 {
		return nil, fmt.Errorf("a secret of %d octets: want 16 at least, 32 are usual", len(b))
	}
	return b, nil
}

// ReadSecret reads a secret in base64 from a file that only its owner may read.
func ReadSecret(name string) ([]byte, error) {
	if err := private(name); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	b, err := ParseSecret(strings.TrimSpace(string(data)))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return b, nil
}

const maxSecretBytes = 1 << 14

// private demands a small regular file that only its owner may read.
func private(name string) error {
	info, err := os.Stat(name)
	switch {
	case err != nil:
		return err
	case !info.Mode().IsRegular() || info.Size() > maxSecretBytes:
		return fmt.Errorf("%s is not a file of a secret", name)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s has mode %04o, and others may read it: chmod 600", name, info.Mode().Perm())
	}
	return nil
}

// fudge is how far the clocks of both ends may differ, in seconds (RFC 8945 10).
const fudge = 300

// sign packs a request or a response, signed. A response is given the MAC of its request. Without a key it only packs.
func (k *Key) sign(m *dns.Msg, requestMAC []byte, now time.Time) (wire, mac []byte, err error) {
	if k == nil {
		wire, err = m.Pack()
		return wire, nil, err
	}
	m.SetTsig(k.Name, k.Algorithm, fudge, now.Unix())
	wire, text, err := dns.TsigGenerate(m, base64.StdEncoding.EncodeToString(k.Secret), hex.EncodeToString(requestMAC), false)
	if err != nil {
		return nil, nil, err
	}
	mac, err = hex.DecodeString(text)
	return wire, mac, err
}

// maxUnsigned is how many messages may come between two that are signed (RFC 8945 5.3.1).
const maxUnsigned = 99

// verifier checks the signatures of all messages that answer one request, or of a request. BIND and NSD sign some of the
// messages of a transfer, Knot each; the first one must be signed, and the last one (end).
type verifier struct {
	key      *Key
	now      func() time.Time
	sum      hash.Hash // over what the next signature covers: the MAC before, and messages that came unsigned since
	later    bool      // the first message is past
	unsigned int
}

// newVerifier begins with the request's MAC. Without a key nothing may be signed.
func newVerifier(key *Key, requestMAC []byte, now func() time.Time) *verifier {
	v := &verifier{key: key, now: now}
	if key != nil {
		v.begin(requestMAC)
	}
	return v
}

func (v *verifier) begin(mac []byte) {
	v.sum = v.key.hash()
	if len(mac) > 0 {
		v.sum.Write(binary.BigEndian.AppendUint16(nil, uint16(len(mac))))
		v.sum.Write(mac)
	}
	v.unsigned = 0
}

// message checks one message, and returns it without its TSIG record.
func (v *verifier) message(raw []byte) ([]byte, error) {
	bare, sig, err := splitTSIG(raw)
	switch {
	case err != nil:
		return nil, err
	case v.key == nil && sig != nil:
		return nil, fmt.Errorf("signed with key %s, and none is agreed", sig.Hdr.Name)
	case v.key == nil:
		return bare, nil
	case sig != nil:
		return bare, v.signed(bare, sig)
	case !v.later:
		return nil, fmt.Errorf("not signed with key %s (RFC 8945 5.3)%s", v.key, rcodeNote(raw))
	}
	if v.unsigned++; v.unsigned > maxUnsigned {
		return nil, fmt.Errorf("more than %d messages without a signature (RFC 8945 5.3.1)", maxUnsigned)
	}
	v.sum.Write(raw)
	return bare, nil
}

// end says whether the last message was signed, without which those before it count for nothing.
func (v *verifier) end() error {
	if v.unsigned > 0 {
		return errors.New("the last message is not signed (RFC 8945 5.3.1)")
	}
	return nil
}

var errTime = errors.New("BADTIME")

// macOf is the MAC of a signature that was verified.
func macOf(sig *dns.TSIG) []byte {
	mac, _ := hex.DecodeString(sig.MAC)
	return mac
}

func (v *verifier) signed(bare []byte, sig *dns.TSIG) error {
	if dns.CanonicalName(sig.Hdr.Name) != v.key.Name || dns.CanonicalName(sig.Algorithm) != v.key.Algorithm {
		return fmt.Errorf("signed with key %s, %s; the key agreed on is %s, %s", sig.Hdr.Name, sig.Algorithm, v.key, v.key.Algorithm)
	}
	if sig.Error == dns.RcodeBadKey || sig.Error == dns.RcodeBadSig { // these come without a MAC
		return fmt.Errorf("the other end says %s: it has another secret, name or algorithm for key %s", dns.RcodeToString[int(sig.Error)], v.key)
	}
	v.sum.Write(bare)
	v.sum.Write(variables(sig, v.later))
	mac, err := hex.DecodeString(sig.MAC)
	if err != nil || !hmac.Equal(mac, v.sum.Sum(nil)) { // a truncated MAC is none either (RFC 8945 5.2.2.1 leaves it to policy)
		return fmt.Errorf("the signature with key %s is wrong (BADSIG)", v.key)
	}
	v.later = true
	v.begin(mac)
	if sig.Error != dns.RcodeSuccess {
		return fmt.Errorf("the other end says %s: are both clocks right?", dns.RcodeToString[int(sig.Error)])
	}
	if off := v.now().Unix() - int64(sig.TimeSigned); max(off, -off) > int64(sig.Fudge) {
		return fmt.Errorf("%w: signed %d s ago by the other end's clock, and %d s are allowed: are both clocks right?", errTime, off, sig.Fudge)
	}
	return nil
}

// variables are the TSIG record's part of what is signed: all of them, or from the second message on the timers (RFC
// 8945 4.3.3, 5.3.1).
func variables(sig *dns.TSIG, timersOnly bool) []byte {
	var b []byte
	if !timersOnly {
		b = appendName(b, sig.Hdr.Name)
		b = binary.BigEndian.AppendUint16(b, dns.ClassANY)
		b = binary.BigEndian.AppendUint32(b, 0) // TTL
		b = appendName(b, sig.Algorithm)
	}
	b = binary.BigEndian.AppendUint16(b, uint16(sig.TimeSigned>>32))
	b = binary.BigEndian.AppendUint32(b, uint32(sig.TimeSigned))
	b = binary.BigEndian.AppendUint16(b, sig.Fudge)
	if timersOnly {
		return b
	}
	other, _ := hex.DecodeString(sig.OtherData)
	b = binary.BigEndian.AppendUint16(b, sig.Error)
	b = binary.BigEndian.AppendUint16(b, uint16(len(other)))
	return append(b, other...)
}

// appendName appends a name in canonical wire format.
func appendName(b []byte, name string) []byte {
	var room [256]byte
	n, _ := dns.PackDomainName(dns.CanonicalName(name), room[:], 0, nil, false) // names here were unpacked, or checked
	return append(b, room[:n]...)
}

// splitTSIG takes a message apart into what was signed and its TSIG record, nil if it has none. A TSIG record anywhere but
// at the end is an error (RFC 8945 5.1).
func splitTSIG(raw []byte) ([]byte, *dns.TSIG, error) {
	last, end, err := lastRecord(raw)
	if err != nil {
		return nil, nil, err
	}
	if end != len(raw) {
		return nil, nil, fmt.Errorf("%d octets after the message's end", len(raw)-end)
	}
	if last == 0 || binary.BigEndian.Uint16(raw[10:]) == 0 {
		return raw, nil, nil
	}
	if typ, err := recordType(raw, last); err != nil || typ != dns.TypeTSIG {
		return raw, nil, err
	}
	rr, _, err := dns.UnpackRR(raw, last)
	if err != nil {
		return nil, nil, fmt.Errorf("TSIG record: %w", err)
	}
	sig, ok := rr.(*dns.TSIG)
	if !ok || sig.Hdr.Class != dns.ClassANY || sig.Hdr.Ttl != 0 {
		return nil, nil, errors.New("malformed TSIG record")
	}
	bare := append([]byte(nil), raw[:last]...)
	binary.BigEndian.PutUint16(bare, sig.OrigId)
	binary.BigEndian.PutUint16(bare[10:], binary.BigEndian.Uint16(bare[10:])-1)
	return bare, sig, nil
}
