package rdata_test

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/rdata"
	"github.com/coredns-anycast/coredns-anycast/internal/rdatatest"
)

// words splits text at blanks, but for what is in quotes, as zone text is split.
func words(text string) (tokens []rdata.Token) {
	for i := 0; i < len(text); {
		switch {
		case text[i] == ' ':
			i++
		case text[i] == '"':
			end := i + 1
			for end < len(text) && text[end] != '"' {
				if text[end] == '\\' {
					end++
				}
				end++
			}
			end = min(end, len(text))
			tokens = append(tokens, rdata.Token{Text: text[i+1 : end], Quoted: true, Glued: i > 0 && text[i-1] != ' ' && text[i-1] != '"'})
			i = end + 1
		default:
			end := i
			for end < len(text) && text[end] != ' ' && text[end] != '"' {
				if text[end] == '\\' {
					end++
				}
				end++
			}
			end = min(end, len(text))
			tokens = append(tokens, rdata.Token{Text: text[i:end]})
			i = end
		}
	}
	return tokens
}

func typeOf(t testing.TB, word string) uint16 {
	t.Helper()
	typ, ok := rdata.TypeOf(word)
	if !ok {
		t.Fatalf("%s is no type", word)
	}
	return typ
}

// TestForms: text is read as the octets that its RFC says.
func TestForms(t *testing.T) {
	for text, want := range rdatatest.Forms {
		name, rest, _ := strings.Cut(text, " ")
		got, err := rdata.Parse(typeOf(t, name), words(rest), "example.")
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if want := strings.ReplaceAll(want, " ", ""); hex.EncodeToString(got) != want {
			t.Errorf("%s: %x, not %s", text, got, want)
		}
		if err := rdata.Check(typeOf(t, name), got); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestWrongForms: what would say something else than is written is refused, with the reason.
func TestWrongForms(t *testing.T) {
	for text, want := range rdatatest.WrongForms {
		name, rest, _ := strings.Cut(text, " ")
		got, err := rdata.Parse(typeOf(t, name), words(rest), "example.")
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %x, %v; want %q", text, got, err, want)
		}
	}
}

// TestOctetsOfEveryType: RDATA as each type's RFC has it is taken; cut short anywhere or followed by more it is refused, where the type
// says how long it is.
func TestOctetsOfEveryType(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, typ := range rdatatest.Types() {
		for range 50 {
			octets := rdatatest.Random(r, typ)
			if err := rdata.Check(typ, octets); err != nil {
				t.Errorf("%s %x: %v", rdata.TypeString(typ), octets, err)
			}
			message := append([]byte("before"), octets...)
			if got, err := rdata.Unpack(typ, message, 6, len(message)); err != nil || !bytes.Equal(got, octets) {
				t.Errorf("%s %x: unpacked as %x, %v", rdata.TypeString(typ), octets, got, err)
			}
		}
	}
	for text, octets := range map[string]string{"A": "000102", "MX": "0001c000", "NSEC": "016100000100ff", "SOA": "0000", "APL": "00011804c0", "LOC": "00", "SVCB": "0001000003000100",
		"AMTRELAY": "0a81c00002", "DS": "00010d02", "NSEC3": "010000000014", "CAA": "0000", "TXT": "0561", "HIP": "020200022001", "CERT": "0001000203", "NAPTR": "000100020000"} {
		raw, _ := hex.DecodeString(octets)
		if err := rdata.Check(typeOf(t, text), raw); err == nil {
			t.Errorf("%s %s is taken", text, octets)
		}
	}
	for text, octets := range map[string]string{"APL": "00031802ffff", "LOC": "01ff", "NXT": "016100ff", "AMTRELAY": "0a04ffff", "NSEC": "016100" + "00024000",
		"TYPE65280": "", "NULL": "", "ATMA": "ff"} { // what no RFC rules out
		raw, _ := hex.DecodeString(octets)
		if err := rdata.Check(typeOf(t, text), raw); err != nil {
			t.Errorf("%s %s: %v", text, octets, err)
		}
	}
}

// TestCompressedNames are expanded, wherever they may be.
func TestCompressedNames(t *testing.T) {
	message := []byte("\x03com\x00\x07example\xc0\x00" + "\x00\x0a\x04mail\xc0\x05")
	for _, typ := range []uint16{dns.TypeMX, dns.TypeAFSDB, dns.TypeKX} {
		got, err := rdata.Unpack(typ, message, 15, len(message))
		if want := "\x00\x0a\x04mail\x07example\x03com\x00"; err != nil || string(got) != want {
			t.Errorf("%q, %v", got, err)
		}
	}
	for name, raw := range map[string]string{"to itself": "\xc0\x00", "forward": "\xc0\x02\x00", "round": "\x01a\xc0\x00", "cut": "\x01", "cut pointer": "\xc0",
		"long": strings.Repeat("\x01a", 128) + "\x00", "kind": "\x40\x00"} {
		if got, _, err := rdata.ExpandName(nil, []byte(raw), 0); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
}
