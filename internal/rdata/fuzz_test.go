package rdata

import (
	"bytes"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/rdatatest"
)

// FuzzPlainlyGood: what is taken at a glance is what the whole judgement takes.
func FuzzPlainlyGood(f *testing.F) {
	types := []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeNS, dns.TypeCNAME, dns.TypeRRSIG, dns.TypeDS}
	r := rand.New(rand.NewPCG(1, 1))
	for _, typ := range types {
		whole := rdatatest.Random(r, typ)
		for cut := range len(whole) + 1 {
			f.Add(typ, whole[:cut])
		}
		if !plainlyGood(typ, whole) {
			f.Errorf("%s %x is not taken at a glance", TypeString(typ), whole)
		}
	}
	f.Fuzz(func(t *testing.T, typ uint16, octets []byte) {
		for _, typ := range append(types, typ) {
			if plainlyGood(typ, octets) {
				if err := checkFields(typ, octets); err != nil {
					t.Errorf("%s %x is taken, and wrong: %v", TypeString(typ), octets, err)
				}
			}
		}
	})
}

// dnsPackageIsWrong has what the dns package makes of text otherwise than the RFC and BIND, by type; an empty type is of all.
var dnsPackageIsWrong = map[string]*regexp.Regexp{
	"":         regexp.MustCompile(`\\([0-9]{0,2}([^0-9]|$)|2[6-9]|25[6-9]|[3-9])`), // octets that are none (RFC 1035 5.1)
	"ISDN":     regexp.MustCompile(`.`),                                             // always has a second string
	"NSEC3":    regexp.MustCompile(`^\s*(\S+\s+){4}(\S{1,31}|\S{33,})(\s|$)`),       // takes each hash for one of 20 octets
	"NXT":      regexp.MustCompile(`.`),                                             // has the bit map of NSEC
	"AMTRELAY": regexp.MustCompile(` 1 [0-9]+ `),                                    // drops the relay where D is set (RFC 8777 4.2.2)
	"APL":      regexp.MustCompile(`/`),                                             // clears host bits, which BIND keeps
	"LOC":      regexp.MustCompile(`.`),                                             // rounds thousandths, and knows no ranges (RFC 1876 3)
	"RRSIG":    regexp.MustCompile(`(^| )([3-9]|2[2-9]|21[1-9]|210[6-9])[0-9]{10,12}( |$)`),
	"SIG":      regexp.MustCompile(`(^| )([3-9]|2[2-9]|21[1-9]|210[6-9])[0-9]{10,12}( |$)`),
	"TXT":      regexp.MustCompile(`.{256}`), // cuts long strings up
	"SPF":      regexp.MustCompile(`.{256}`),
	"AVC":      regexp.MustCompile(`.{256}`),
	"NINFO":    regexp.MustCompile(`.{256}`),
	"RESINFO":  regexp.MustCompile(`.{256}`),
}

// FuzzParse compares the reading of text with that of the dns package, which has been written by others: what both take must be the
// same octets, but for what the dns package is known to get wrong. What is read must also be right as octets.
func FuzzParse(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, typ := range rdatatest.Types() {
		rr := unpacked(typ, rdatatest.Random(r, typ))
		if rr == nil {
			continue
		}
		_, text, _ := strings.Cut(rr.String(), "IN\t"+dns.Type(typ).String()+"\t")
		f.Add(typ, text)
	}
	for text, typ := range map[string]uint16{"192.0.2.1": dns.TypeA, "192.0.2.01": dns.TypeA, "1.2.3": dns.TypeA, "256.0.0.1": dns.TypeA, "+1.2.3.4": dns.TypeA,
		"::1": dns.TypeAAAA, "2001:DB8::": dns.TypeAAAA, "::ffff:192.0.2.1": dns.TypeAAAA, "fe80::1%eth0": dns.TypeAAAA, "1:2:3:4:5:6:7:8": dns.TypeAAAA,
		"ns": dns.TypeNS, "@": dns.TypeNS, ".": dns.TypeNS, "a..b": dns.TypeNS, `\097\.b`: dns.TypeNS, `\300`: dns.TypeNS, `x.y`: dns.TypeCNAME, `\@`: dns.TypeCNAME,
		"1 . alpn=h2,h3 port=1": dns.TypeHTTPS, `"a" b "c d"`: dns.TypeTXT, `10 1 "x"`: dns.TypeURI, `0 issue "x"`: dns.TypeCAA, "1 2 3 A== ": dns.TypeDNSKEY} {
		f.Add(typ, text)
	}
	f.Fuzz(func(t *testing.T, typ uint16, text string) {
		tokens, ok := split(text)
		if !ok || len(tokens) == 0 {
			return
		}
		ours, err := Parse(typ, tokens, "example.")
		if err != nil {
			return
		}
		if err := Check(typ, ours); err != nil && tokens[0].Text != `\#` {
			t.Errorf("%s %s is read as %x, which is wrong: %v", TypeString(typ), text, ours, err)
		}
		name := TypeString(typ)
		for _, of := range []string{"", name} {
			if known := dnsPackageIsWrong[of]; known != nil && known.MatchString(text) {
				return
			}
		}
		zp := dns.NewZoneParser(strings.NewReader(". 0 IN "+dns.Type(typ).String()+" "+text+"\n"), "example.", "")
		rr, ok := zp.Next()
		if !ok {
			return
		}
		if theirs := packed(rr); theirs != nil && !bytes.Equal(ours, theirs) {
			t.Errorf("%s %s: %x, and the dns package says %x", name, text, ours, theirs)
		}
	})
}

// split makes words of text without comments, parentheses and new lines, as internal/zonefile does.
func split(text string) (tokens []Token, ok bool) {
	if strings.ContainsAny(text, "();\n\r\x00") {
		return nil, false
	}
	for i := 0; i < len(text); {
		quoted := text[i] == '"'
		stops := " \t\""
		switch {
		case text[i] == ' ' || text[i] == '\t':
			i++
			continue
		case quoted:
			stops = `"`
			i++
		}
		end := i
		for end < len(text) && !strings.ContainsRune(stops, rune(text[end])) {
			if text[end] == '\\' {
				end++
			}
			end++
		}
		if end > len(text) || quoted && end == len(text) {
			return nil, false
		}
		tokens = append(tokens, Token{Text: text[i:end], Quoted: quoted, Glued: quoted && i > 1 && !strings.ContainsRune(" \t\"", rune(text[i-2]))})
		if i = end; quoted {
			i++
		}
	}
	return tokens, true
}

func unpacked(typ uint16, octets []byte) dns.RR {
	h := dns.RR_Header{Name: ".", Rrtype: typ, Class: dns.ClassINET, Rdlength: uint16(len(octets))}
	rr, _, err := dns.UnpackRRWithHeader(h, octets, 0)
	if err != nil {
		return nil
	}
	return rr
}

// packed is RDATA as the dns package packs it, nil if it cannot.
func packed(rr dns.RR) []byte {
	buf := make([]byte, 1<<17)
	end, err := dns.PackRR(rr, buf, 0, nil, false)
	if err != nil {
		return nil
	}
	return slices.Clone(buf[11:end])
}

// FuzzUnpack: a message from anybody makes no more of its RDATA than names that are expanded.
func FuzzUnpack(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 1))
	for _, typ := range rdatatest.Types() {
		f.Add(typ, rdatatest.Random(r, typ), 0)
	}
	f.Add(dns.TypeMX, []byte("\x03com\x00\x00\x0a\x04mail\xc0\x00"), 5)
	f.Fuzz(func(t *testing.T, typ uint16, message []byte, at int) {
		if at < 0 || at > len(message) || len(message) > maxLength {
			return
		}
		octets, err := Unpack(typ, message, at, len(message))
		if err != nil || Check(typ, octets) != nil {
			return
		}
		if again, err := Unpack(typ, octets, 0, len(octets)); err != nil || !bytes.Equal(octets, again) {
			t.Errorf("%x, and unpacked again %x, %v", octets, again, err)
		}
	})
}
