package zonefile

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// oddForms are forms of zone text that BIND accepts (RFC 1035 5.1, 2308 4, 3597 5), after a head that gives $ORIGIN and
// $TTL. The file sub.zone is beside them.
var oddForms = map[string]string{
	"units of $TTL":                 "$TTL 1h30m\na A 192.0.2.1\n$TTL 1W2D\nb A 192.0.2.1\n$TTL 0\nc A 192.0.2.1\n",
	"units of TTL":                  "a 1h A 192.0.2.1\nb 1H30M A 192.0.2.2\nc 2d3s IN A 192.0.2.3\n",
	"TTL and class in either order": "a 60 IN A 192.0.2.1\nb IN 60 A 192.0.2.2\nc in A 192.0.2.3\nd 7 a 192.0.2.4\n",
	"relative $ORIGIN":              "$ORIGIN sub\na A 192.0.2.1\n$ORIGIN deep\n@ A 192.0.2.2\n$ORIGIN example.\nb A 192.0.2.3\n",
	"blank owner":                   "a A 192.0.2.1\n\tAAAA 2001:db8::1\n  TXT x\n$ORIGIN sub\n MX 1 b\nb A 192.0.2.1\n",
	"@ as owner and in RDATA":       "@ MX 10 @\na CNAME @\n$ORIGIN sub\n@ A 192.0.2.1\n",
	"$INCLUDE":                      "a A 192.0.2.1\n$INCLUDE sub.zone\nb A 192.0.2.2\n",
	"$INCLUDE with an origin":       "a A 192.0.2.1\n$INCLUDE sub.zone sub\nb A 192.0.2.2\n MX 1 b\n",
	"$INCLUDE with absolute origin": "$INCLUDE sub.zone sub.example. ; with a comment\n",
	"$INCLUDE in quotes":            "$INCLUDE \"sub.zone\"\n",
	"$GENERATE":                     "$GENERATE 1-3 h$ A 192.0.2.$\n$GENERATE 0-4/2 s$ CNAME h$.test.\n",
	"$GENERATE with modifiers":      "$GENERATE 1-2 h${0,3} A 192.0.2.$\n$GENERATE 10-11 x${0,4,x} A 192.0.2.$\n$GENERATE 10-11 X${0,4,X} TXT \"${5}\"\n$GENERATE 8-9 o${-1,0,o} CNAME $.test.\n",
	"$GENERATE of nibbles":          "$GENERATE 18-19 ${0,7,n} CNAME h$.test.\n$GENERATE 171-171 ${0,3,N}.up CNAME h$.test.\n",
	"$GENERATE with TTL and class":  "$GENERATE 1-2 h$ 77 IN A 192.0.2.$\n$GENERATE 1-2 k$ IN A 192.0.2.$\n",
	"$GENERATE of a literal dollar": "$GENERATE 1-1 h$ TXT \\$5\n$GENERATE 1-1 k$ TXT $$5\n",
	"$GENERATE of RDATA in quotes":  "$GENERATE 1-2 h$ MX \"$ mail\"\n$GENERATE 1-2 k$ TXT \"a $\"\n$GENERATE 1-2 l$ TXT \"\\\"a b\\\" c\"\n",
	"$GENERATE of even nibbles":     "$GENERATE 18-19 ${0,6,n}example CNAME h$.test.\n$GENERATE 1-1 ${0,2,n}up.example CNAME h$.test.\n$GENERATE 300-300 ${0,2,n}.a CNAME h$.test.\n",
	"an owner before $GENERATE":     "a A 192.0.2.1\n$GENERATE 1-2 h$ A 192.0.2.$\n TXT x\n",
	"$INCLUDE beside the file":      "$INCLUDE ./sub.zone\n",
	"NAPTR without quotes":          "a NAPTR 10 10 u E2U+sip !^.*$!sip:x@y! .\nb NAPTR 10 10 \"\" \"\" \"\" b\n",
	"APL without items":             "a APL\nb APL 1:192.0.2.0/24 !1:192.0.2.128/25\n",
	"parentheses":                   "a TXT ( x\n\ty ; comment )\n\n z )\n(b A 192.0.2.1)\nc ( A ) ( 192.0.2.1\n)\n",
	"parentheses around all":        "d ( 60\nIN\nMX\n10\na )\na A 192.0.2.1\n",
	"a parenthesis within a word":   "a TXT x(y)z\n",
	"quoted strings":                "a TXT \"x y\" \"\" \"a;b\" \"(\" \"q\\\"q\"\nb TXT \"\\065\\\\\"\n",
	"quotes without blanks":         "a TXT \"x\"\"y\"z\n",
	"escapes":                       "a\\.b A 192.0.2.1\n\\097\\098 A 192.0.2.2\n\\@ A 192.0.2.3\n\\$x A 192.0.2.4\nsp\\032ce A 192.0.2.5\n\\*.w A 192.0.2.6\n",
	"escapes in RDATA":              "a CNAME x\\.y\nb TXT \\\"un\\ quoted\\;\nc MX 1 \\109ail\n",
	"octets above 127":              "\\200\\255 A 192.0.2.1\na TXT \"\\200\\255\"\n",
	"generic RDATA":                 "a TYPE1 \\# 4 C0000201\nb A \\# 4 c000 0202\nc TYPE65280 \\# 0\nd TYPE65280 \\# 5 ( 0102\n030405 )\ne MX \\# 6 00010262 6200\n",
	"generic class":                 "a CLASS1 A 192.0.2.1\n",
	"known types by number":         "a TYPE15 10 b\nb TYPE28 2001:db8::1\n",
	"case":                          "A a 192.0.2.1\nb iN mX 10 A.eXample.\n",
	"wildcards":                     "* A 192.0.2.1\n*.a.b TXT x\nc.*.d A 192.0.2.2\n",
	"comments and empty lines":      "; comment\n\n   \n\t; more\na A 192.0.2.1;x\n",
	"Windows line ends":             "a A 192.0.2.1\r\nb TXT ( x\r\n y )\r\n",
	"SOA-like numbers":              "a SRV 0 0 5060 b\nb NAPTR 10 10 \"u\" \"E2U+sip\" \"!^.*$!sip:x@y!\" .\nc LOC 52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m\n",
	"SVCB":                          "a HTTPS 1 . alpn=\"h2,h3\" port=443 ipv4hint=192.0.2.1\nb SVCB 0 a\n",
	"CAA, SSHFP, TLSA":              "a CAA 0 issue \"ca.test\"\na SSHFP 1 1 ( 0102030405060708090a0b0c0d0e0f\n 1011121314 )\na TLSA 3 1 1 ( 00112233445566778899aabbccddeeff\n 00112233445566778899aabbccddeeff )\n",
	"DS with blanks":                "a NS ns.test.\na DS 1 13 2 ( 00112233445566778899aabbccddeeff\n 00112233445566778899aabbccddeeff )\n",
	"numbers as owners":             "1 A 192.0.2.1\n1h A 192.0.2.2\n60 60 A 192.0.2.3\n",
	"words as owners":               "in A 192.0.2.1\nmx MX 1 a\na A 192.0.2.2\nTXT TXT TXT\n",
	"names of types in RDATA":       "a CNAME in\nb MX 1 A\na2 TXT IN A\n",
	"the longest label and name":    strings.Repeat("x", 63) + " A 192.0.2.1\n" + strings.Repeat("a.", 123) + "example. A 192.0.2.1\n",
	"IPv6 forms":                    "a AAAA ::1\nb AAAA ::ffff:192.0.2.1\nc AAAA 2001:DB8:0:0:0:0:0:1\n",
	"the same record twice":         "a A 192.0.2.1\na A 192.0.2.1\nA 300 A 192.0.2.1\n",
	"a string of 255":               "a TXT " + strings.Repeat("x", 255) + " \"" + strings.Repeat("y", 255) + "\"\n",
}

const included = "i A 192.0.2.100\n$ORIGIN further\ni TXT x\n"

// TestOddFormsAsBINDReadsThem compares with named-compilezone.
func TestOddFormsAsBINDReadsThem(t *testing.T) {
	bind := testenv.Need(t, "named-compilezone")[0]
	for name, text := range oddForms {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write(t, dir, "sub.zone", included)
			write(t, dir, "zone", head+text)
			cmd := exec.Command(bind, "-q", "-i", "none", "-k", "ignore", "-M", "ignore", "-S", "ignore", "-F", "text", "-s", "full", "-o", "out", "example.", "zone")
			cmd.Dir = dir
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("BIND refuses it: %s", out)
			}
			theirs, err := os.ReadFile(filepath.Join(dir, "out"))
			if err != nil {
				t.Fatal(err)
			}
			want, found := Parse(bytes.NewReader(theirs), Options{Origin: "example."})
			if want == nil {
				t.Fatalf("of BIND's %s: %v", theirs, found)
			}
			z, found := Parse(strings.NewReader(head+text), Options{Origin: "example.", Include: os.DirFS(dir)})
			if z == nil {
				t.Fatalf("refused, and not by BIND: %v", found)
			}
			if got := written(t, z); got != written(t, want) {
				t.Errorf("read as\n%s\nand by BIND as\n%s", got, theirs)
			}
		})
	}
}

func write(t testing.TB, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// badZones are what at least one of named-checkzone and kzonecheck refuses, and so do we; or what we refuse alone, with
// the reason.
var badZones = map[string]struct{ text, alone string }{
	"two SOAs":                {text: "@ SOA ns mail 2 2 3 4 5\n"},
	"SOA below the apex":      {text: "a SOA ns mail 2 2 3 4 5\n"},
	"CNAME and A":             {text: "a CNAME b\na A 192.0.2.1\n"},
	"two CNAMEs":              {text: "a CNAME b\na CNAME c\n"},
	"CNAME at the apex":       {text: "@ CNAME b\n"},
	"two DNAMEs":              {text: "a DNAME b\na DNAME c\n"},
	"CNAME and DNAME":         {text: "a DNAME b\na CNAME c\n"},
	"data below a DNAME":      {text: "a DNAME b\nx.a A 192.0.2.1\n"},
	"out of zone":             {text: "a.test. A 192.0.2.1\n", alone: "both drop it with a warning; RFC 1035 5.2: what is outside a zone is no part of its file"},
	"TTL above 2^31":          {text: "a 2147483648 A 192.0.2.1\n", alone: "RFC 2181 8: such a TTL means 0, which nobody intends"},
	"TTL above 2^32":          {text: "a 4294967296 A 192.0.2.1\n"},
	"parenthesis left open":   {text: "a TXT ( x\n"},
	"parenthesis too many":    {text: "a TXT x )\n"},
	"quotation left open":     {text: "a TXT \"x\n"},
	"NUL octets":              {text: "a A 192.0.2.1\x00\n"},
	"NUL octet as owner":      {text: "\x00 A 192.0.2.1\n"},
	"unknown type":            {text: "a FOO bar\n"},
	"unknown directive":       {text: "$FOO bar\n"},
	"bad address":             {text: "a A 192.0.2\n"},
	"address out of range":    {text: "a A 192.0.2.256\n"},
	"bad AAAA":                {text: "a AAAA 2001:db8:::1\n"},
	"label too long":          {text: strings.Repeat("x", 64) + " A 192.0.2.1\n"},
	"name too long":           {text: strings.Repeat("a.", 124) + "example. A 192.0.2.1\n"},
	"empty label":             {text: "a..b A 192.0.2.1\n"},
	"string too long":         {text: "a TXT " + strings.Repeat("x", 256) + "\n"},
	"bad escape":              {text: "\\999 A 192.0.2.1\n"},
	"preference too large":    {text: "a MX 65536 b\n"},
	"RDATA missing":           {text: "a MX 1\n"},
	"RDATA too much":          {text: "a A 192.0.2.1 192.0.2.2\n"},
	"generic RDATA too short": {text: "a TYPE65280 \\# 4 0102\n"},
	"generic TXT torn":        {text: "a TXT \\# 3 056162\n"},
	"generic name torn":       {text: "a MX \\# 4 00010262\n"},
	"generic A too long":      {text: "a A \\# 5 0102030405\n"},
	"missing file":            {text: "$INCLUDE missing\n"},
	"range backwards":         {text: "$GENERATE 3-1 a$ A 192.0.2.$\n"},
	"class CH":                {text: "a CH TXT x\n"},
	"meta type":               {text: "a TYPE255 \\# 0\n"},
	"number after units":      {text: "a 1h30 A 192.0.2.1\n"},
	"HINFO of one string":     {text: "a HINFO x\n"},
	"HINFO of three strings":  {text: "a HINFO x y z\n"},
	"DS torn":                 {text: "a NS ns.test.\na DS \\# 2 0001\n"},
	"DNSKEY without a key":    {text: "a DNSKEY \\# 4 01000308\n"},
	"TLSA without data":       {text: "a TLSA 3 1 1\n"},
	"SSHFP without data":      {text: "a SSHFP 1 1\n"},
	"pointer in SVCB":         {text: "a SVCB \\# 4 0001c000\n"},
	"pointer in LP":           {text: "a TYPE107 \\# 4 000ac000\n"},
	"pointer in NSEC":         {text: "a NSEC \\# 5 c002000140\n"},
	"pointer in HIP":          {text: "a HIP \\# 8 01020001abcdc000\n"},
	"mandatory key missing":   {text: "a HTTPS 1 . mandatory=port alpn=h2\n"},
	"mandatory key twice":     {text: "a HTTPS 1 . mandatory=alpn,alpn alpn=h2\n"},
	"OPT":                     {text: "a TYPE41 \\# 0\n"},
}

// TestWhatPeersRefuseIsRefused: each text follows a zone that is right.
func TestWhatPeersRefuseIsRefused(t *testing.T) {
	peers := testenv.Need(t, "named-checkzone", "kzonecheck")
	for name, c := range badZones {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			write(t, dir, "zone", head+c.text)
			var refuse []string
			for _, args := range [][]string{{peers[0], "-q", "example.", "zone"}, {peers[1], "-o", "example.", "zone"}} {
				cmd := exec.Command(args[0], args[1:]...)
				cmd.Dir = dir
				if cmd.Run() != nil {
					refuse = append(refuse, filepath.Base(args[0]))
				}
			}
			z, found := Parse(strings.NewReader(head+c.text), Options{Origin: "example.", File: "zone", Include: os.DirFS(dir)})
			switch {
			case z != nil:
				t.Errorf("taken; it is refused by %v", refuse)
			case (len(refuse) == 0) != (c.alone != ""):
				t.Errorf("refused by %v, and alone by us because: %s", refuse, c.alone)
			}
			if !slices.ContainsFunc(found, func(f zone.Finding) bool { return f.Severity == zone.Error && f.Line >= 3 }) {
				t.Errorf("no line is named: %v", found)
			}
		})
	}
}
