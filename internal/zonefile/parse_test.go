package zonefile

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"testing/iotest"
	"unicode/utf16"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/rdatatest"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

const head = "$ORIGIN example.\n$TTL 300\n@ SOA ns mail 1 2 3 4 5\n@ NS ns.test.\n"

// TestFormsOfText compares what is written as people write it with the canonical text.
func TestFormsOfText(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"relative, absolute, @ and inherited owners": {
			"a A 192.0.2.1\n  AAAA 2001:db8::1\nb.example. A 192.0.2.2\n@ MX 1 a\n\tMX 2 c.test.\n",
			"example. 300 IN MX 1 a.example.|example. 300 IN MX 2 c.test.|a.example. 300 IN A 192.0.2.1|" +
				"a.example. 300 IN AAAA 2001:db8::1|b.example. 300 IN A 192.0.2.2"},
		"TTL and class in either order, BIND's units, lower case": {
			"a 60 IN A 192.0.2.1\nb in 1h30m a 192.0.2.2\nc IN A 192.0.2.3\nd 1W A 192.0.2.4\nIN A 192.0.2.5\n",
			"a.example. 60 IN A 192.0.2.1|b.example. 5400 IN A 192.0.2.2|c.example. 300 IN A 192.0.2.3|d.example. 604800 IN A 192.0.2.4|" +
				"in.example. 300 IN A 192.0.2.5"},
		"$TTL and $ORIGIN from there on": {
			"$TTL 1m\n$ORIGIN sub\nb A 192.0.2.1\n$ORIGIN example.\nc A 192.0.2.2 ; comment\n",
			"c.example. 60 IN A 192.0.2.2|b.sub.example. 60 IN A 192.0.2.1"},
		"parentheses, comments and empty lines in them": {
			"a ( ; one\n\n  TXT ; two )\n \"x;y)\" ; three\n z\n) ; four\nb A ( 192.0.2.1 )\n",
			`a.example. 300 IN TXT "x;y)" "z"|b.example. 300 IN A 192.0.2.1`},
		"quotes, escapes, line ends of Windows": {
			"a TXT \"q\\\"uote\" un\\ quoted \"\" \"\\200\\;\" \\\"\r\na\\.b A 192.0.2.1\r\n\\$x A 192.0.2.2\n\\(y A 192.0.2.3\n",
			`\$x.example. 300 IN A 192.0.2.2|\(y.example. 300 IN A 192.0.2.3|a.example. 300 IN TXT "q\"uote" "un quoted" "" "\200;" "\""|` +
				`a\.b.example. 300 IN A 192.0.2.1`},
		"generic types and RDATA": {
			"a TYPE65280 \\# 3 aabb cc\nb A \\# 4 c0000201\nc TYPE1 192.0.2.3\nd CLASS1 A 192.0.2.4\ne TYPE65281 \\# 0\n",
			`a.example. 300 IN TYPE65280 \# 3 AABBCC|b.example. 300 IN A 192.0.2.1|c.example. 300 IN A 192.0.2.3|` +
				`d.example. 300 IN A 192.0.2.4|e.example. 300 IN TYPE65281 \# 0`},
		"$GENERATE": {
			"$GENERATE 8-12/2 h$ 60 A 192.0.2.$\n$GENERATE 1-1 ${0,3}-${15,2,x}-\\$-$$-${-1} TXT \"n$\"\n$GENERATE 18-18 ${0,5,n} CNAME h$\n",
			`001-10-$-$-0.example. 300 IN TXT "n1"|h8.example. 60 IN A 192.0.2.8|h10.example. 60 IN A 192.0.2.10|h12.example. 60 IN A 192.0.2.12|` +
				`2.1.0.example. 300 IN CNAME h18.example.`},
		"quotes within a word": {
			"a HTTPS 1 . alpn=\"h2,h3\" port=53\nb TXT \"x\"\"y\"\n",
			`a.example. 300 IN HTTPS 1 . alpn="h2,h3" port="53"|b.example. 300 IN TXT "x" "y"`},
		"owners fold, RDATA does not": {
			"A.B TXT \"Case\"\na.B TXT \"Case\"\nc CNAME Other.Example.\n",
			`a.b.example. 300 IN TXT "Case"|c.example. 300 IN CNAME Other.Example.`},
	} {
		t.Run(name, func(t *testing.T) {
			z, found := Parse(strings.NewReader(head+c.text), Options{})
			if z == nil {
				t.Fatal(found)
			}
			var lines []string
			for line := range strings.Lines(written(t, z)) {
				line = strings.Join(strings.Fields(line), " ")
				if !strings.Contains(line, " SOA ") && !strings.Contains(line, " NS ") {
					lines = append(lines, line)
				}
			}
			want := strings.Split(c.want, "|")
			if name == "$GENERATE" || name == "$TTL and $ORIGIN from there on" {
				slices.Sort(lines)
				slices.Sort(want) // the order is internal/zone's business
			}
			if got := strings.Join(lines, "|"); got != strings.Join(want, "|") {
				t.Errorf("got  %s\nwant %s", got, strings.Join(want, "|"))
			}
		})
	}
}

func written(t testing.TB, z *zone.Zone) string {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, z); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestEveryErrorHasItsLine: line 5 is the first one after the head.
func TestEveryErrorHasItsLine(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		want string // line: word of the detail, …
	}{
		"each line on its own":           {"a A 1.2.3\nb A 192.0.2.1\nc BLAH x\nd MX x y\n..e A 192.0.2.1\n", "5:no IPv4; 7:BLAH; 8:MX; 9:no domain name"},
		"RDATA missing or too much":      {"a A\nb A 192.0.2.1 192.0.2.2\nc\nd SOA a b 1 2\n", "5:without RDATA; 6:too many; 7:without a type; 8:too soon"},
		"inherits no bad owner":          {"..a A 192.0.2.1\n A 192.0.2.2\n", "5:no domain name; 6:no owner"},
		"directives":                     {"$FOO x\n$TTL x\n$TTL\n$ORIGIN ..\n$INCLUDE f\n$GENERATE 2-1 a A 192.0.2.1\n", "5:directive; 6:TTL; 7:arguments; 8:domain name; 9:not allowed; 10:range"},
		"quotation left open":            {"a TXT \"x\nb A 192.0.2.x\n", "5:quotation; 6:no IPv4"},
		"parenthesis left open":          {"a TXT (\"x\"\nb A 192.0.2.1\n", "5:parenthesis is not closed"},
		"parenthesis too many":           {"a TXT \"x\" )\nb A x\n", "5:closing parenthesis; 6:no IPv4"},
		"last line breaks off":           {"a A 192.0.2.1\nb TXT (", "6:half-written"},
		"escape at the end of a line":    {"a TXT x\\\nb A y\n", "5:backslash; 6:no IPv4"},
		"bad escape":                     {"\\999 A 192.0.2.1\na\\25 A 192.0.2.1\n", "5:no domain name; 6:no domain name"},
		"in the record and in the zone":  {"a A x\nx.test. A 192.0.2.1\nb CH A 192.0.2.1\nc 2147483648 A 192.0.2.1\n", "5:no IPv4; 6:origin; 7:class; 8:TTL"},
		"generated":                      {"$GENERATE 1-3 a$ A 192.0.2.x\n$GENERATE 1-2 ${x} A 192.0.2.1\n$GENERATE 1-2 ${0,1 A 192.0.2.1\n$GENERATE 0-0 ${-1} A 192.0.2.1\n", "5:no IPv4; 6:offset; 7:without }; 8:negative"},
		"octets after a name":            {"a NS \\# 4 00010d02\nb CNAME \\# 2 0000\nc NS \\# 1 00\n", "5:malformed; 6:malformed"},
		"an address of the other family": {"a A 2001:db8::1\nb AAAA 192.0.2.1\nc AAAA fe80::1%eth0\n", "5:no IPv4; 6:no IPv6; 7:no IPv6"},
	} {
		t.Run(name, func(t *testing.T) {
			z, found := Parse(strings.NewReader(head+c.text), Options{File: "f"})
			if z != nil {
				t.Error("the zone is made all the same")
			}
			want := strings.Split(c.want, "; ")
			if len(found) != len(want) {
				t.Fatalf("found %v, want %s", found, c.want)
			}
			for i, w := range want {
				line, word, _ := strings.Cut(w, ":")
				if !strings.HasPrefix(found[i].String(), "f:"+line+": error: ") || !strings.Contains(found[i].Detail, word) {
					t.Errorf("found %v, want %s", found[i], w)
				}
			}
		})
	}
}

// TestOneFaultIsSaidOnce: a bad SOA is not missed besides, a text in UTF-16 is not judged line by line, and a directory is no file.
func TestOneFaultIsSaidOnce(t *testing.T) {
	const good = "$ORIGIN example.org.\n$TTL 300\n@ SOA ns1 host 7 7200 3600 1209600 300\n@ NS ns1\nns1 A 192.0.2.53\n"
	wide := func(order binary.ByteOrder) string {
		var b bytes.Buffer
		binary.Write(&b, order, utf16.Encode([]rune(mark+good)))
		return b.String()
	}
	for text, want := range map[string]string{
		strings.Replace(good, "host 7 ", "host 7x ", 1): "7x is no number",
		wide(binary.LittleEndian):                       "UTF-16",
		wide(binary.BigEndian):                          "UTF-16",
	} {
		z, found := Parse(strings.NewReader(text), Options{File: "a", Origin: "example.org."})
		if z != nil || len(found) != 1 || found[0].Severity != zone.Error || !strings.Contains(found[0].Detail, want) {
			t.Errorf("%v, want %s", found, want)
		}
	}
	if z, found := Parse(strings.NewReader(strings.Replace(good, "@ SOA", "; SOA", 1)), Options{Origin: "example.org."}); z != nil || len(found) != 1 || found[0].Rule != "soa" {
		t.Errorf("without SOA: %v", found)
	}
	if z, found, err := ReadFile(t.TempDir(), Options{}); z != nil || found != nil || err == nil || !strings.Contains(err.Error(), "it is a directory") {
		t.Errorf("a directory: %v, %v", found, err)
	}
}

func TestOriginIsTheSOAsOwner(t *testing.T) {
	z, found := Parse(strings.NewReader("Example. 60 SOA ns mail 1 2 3 4 5\n NS ns\nns A 192.0.2.1\n"), Options{})
	if z == nil || z.Origin() != "example." || !strings.Contains(written(t, z), "ns.example.\t60\tIN\tA\t192.0.2.1") {
		t.Error(found)
	}
	if z, found := Parse(strings.NewReader("@ 60 SOA ns mail 1 2 3 4 5\n NS ns\n"), Options{}); z != nil || !strings.Contains(found[0].Detail, "$ORIGIN") {
		t.Error(found)
	}
	if z, found := Parse(strings.NewReader("@ 60 SOA ns mail 1 2 3 4 5\n NS ns.test.\n"), Options{Origin: "Example"}); z == nil || z.Origin() != "example." {
		t.Error(found)
	}
	if z, found := Parse(strings.NewReader(head), Options{Origin: "other."}); z != nil || found[len(found)-1].Rule == "" {
		t.Error(found)
	}
}

func TestTTLComesFromTheSOAIfNothingElseHasOne(t *testing.T) {
	z, found := Parse(strings.NewReader("example. SOA ns mail 1 2 3 4 77\n NS ns.test.\n"), Options{})
	if z == nil || !strings.Contains(written(t, z), "example.\t77\tIN\tNS") {
		t.Error(found)
	}
	if z, found := Parse(strings.NewReader("example. NS ns.test.\nexample. SOA ns mail 1 2 3 4 77\n"), Options{}); z != nil || found[0].Line != 1 {
		t.Error(found)
	}
}

func TestInclude(t *testing.T) {
	files := fstest.MapFS{
		"a":        {Data: []byte("x A 192.0.2.1\n$ORIGIN elsewhere.example.\n$INCLUDE dir/b y\nz A 192.0.2.3\n")},
		"dir/b":    {Data: []byte("@ A 192.0.2.2\n")},
		"circle":   {Data: []byte("$INCLUDE circle\n")},
		"fan":      {Data: []byte(strings.Repeat("$INCLUDE fan2\n", 100))},
		"fan2":     {Data: []byte(strings.Repeat("$INCLUDE empty\n", 100))},
		"empty":    {Data: []byte("")},
		"bad":      {Data: []byte("; first\nq A x\n")},
		"halfdone": {Data: []byte("q TXT (\n")},
	}
	z, found := Parse(strings.NewReader(head+"$INCLUDE a\nafter A 192.0.2.4\n A 192.0.2.5\n"), Options{Include: files})
	if z == nil {
		t.Fatal(found)
	}
	for _, want := range []string{"x.example.", "y.elsewhere.example.", "z.elsewhere.example.", "after.example."} {
		if !strings.Contains(written(t, z), "\n"+want+"\t300\tIN\tA\t") {
			t.Errorf("no %s in\n%s", want, written(t, z))
		}
	}
	for include, want := range map[string]string{"circle": "goes deeper", "fan": "1000 files", "nx": "nx", "../a": "../a is not allowed: only files below /zones", "/a": "/a is not allowed: only files below /zones",
		"/zones/../a": "/a is not allowed", "/zonesx/a": "not allowed", "/zones": "not allowed",
		"bad": "no IPv4", "halfdone": "half-written"} {
		z, found := Parse(strings.NewReader(head+"$INCLUDE "+include+"\n"), Options{File: "f", Include: files, IncludeDir: "/zones/"})
		if z != nil || !strings.Contains(fmt.Sprint(found), want) {
			t.Errorf("%s: %v, want %s", include, found, want)
		}
	}
	if z, found := Parse(strings.NewReader(head+"$INCLUDE /zones/dir/b y\n"), Options{Include: files, IncludeDir: "/zones"}); z == nil || z.Len() != 3 {
		t.Errorf("an absolute path below the directory: %v", found)
	}
	_, found = Parse(strings.NewReader(head+"$INCLUDE bad\n"), Options{File: "f", Include: files})
	if len(found) != 1 || found[0].File != "bad" || found[0].Line != 2 {
		t.Errorf("an error in an included file: %v", found)
	}
}

func TestBounds(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for name, c := range map[string]struct {
		text string
		opts Options
		want string
	}{
		"line":       {head + "; " + long + "\n", Options{MaxEntry: 4000}, "5: error: a line of more than 4000 octets"},
		"entry":      {head + "a TXT (" + strings.Repeat("\nx", 3000) + ")\n", Options{MaxEntry: 4000}, "5: error: an entry of more than 4000 octets"},
		"records":    {head + "a A 192.0.2.1\n", Options{MaxRecords: 2}, "5: error: more than 2 records"},
		"$GENERATE":  {head + "$GENERATE 0-2000000000 a$ A 192.0.2.1\n", Options{}, "5: error: more than 1048576 generated records"},
		"its record": {head + "$GENERATE 0-9 a$ TXT " + strings.Repeat("${0,255}", 20) + "\n", Options{}, "more than 1024 octets"},
	} {
		t.Run(name, func(t *testing.T) {
			z, found := Parse(strings.NewReader(c.text), c.opts)
			if z != nil || len(found) != 1 || !strings.Contains(found[0].String(), c.want) {
				t.Errorf("%v, want %s", found, c.want)
			}
		})
	}
	endless := io.MultiReader(strings.NewReader(head+"a TXT "), endlessly('x'))
	if z, found := Parse(endless, Options{}); z != nil || len(found) != 1 {
		t.Errorf("a line without end: %v", found)
	}
	errorsOnly := io.MultiReader(strings.NewReader(head), endlessly('?', '\n'))
	if z, found := Parse(errorsOnly, Options{}); z != nil || len(found) != zone.MaxFindings {
		t.Errorf("errors without end: %d findings", len(found))
	}
	broken := io.MultiReader(strings.NewReader(head+"a A 192.0.2.1\nb "), iotest.ErrReader(errors.New("disk on fire")))
	if z, found := Parse(broken, Options{}); z != nil || len(found) != 1 || !strings.Contains(found[0].Detail, "disk on fire") {
		t.Errorf("a read error: %v", found)
	}
}

// endlessly yields its octets over and over.
func endlessly(b ...byte) io.Reader { return &repeater{b: b} }

type repeater struct {
	b []byte
	i int
}

func (r *repeater) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = r.b[r.i%len(r.b)]
		r.i++
	}
	return len(p), nil
}

// TestEveryPrefixOfAZoneIsRefusedOrWarnedOf: what breaks off anywhere but at the ends of lines, where it cannot be told, is no zone, or
// one whose last line has no end, which is said: other servers take such, and editors make them.
func TestEveryPrefixOfAZoneIsRefusedOrWarnedOf(t *testing.T) {
	whole := head + "a TXT ( \"x\"\n \"y\" )\nb A 192.0.2.1\n"
	for i := range whole {
		z, found := Parse(strings.NewReader(whole[:i]), Options{})
		warned := slices.ContainsFunc(found, func(f zone.Finding) bool {
			return f.Rule == "no-final-newline" && f.Line == strings.Count(whole[:i], "\n")+1
		})
		if torn := !strings.HasSuffix(whole[:i], "\n"); z != nil && torn != warned {
			t.Errorf("taken with %v: %q", found, whole[:i])
		}
	}
}

// TestWhatIsWrittenReadsBack writes random RDATA of every type, and some that no text form has.
func TestWhatIsWrittenReadsBack(t *testing.T) {
	for seed := range uint64(5) {
		writeEveryType(t, rand.New(rand.NewPCG(1, seed)))
	}
}

func writeEveryType(t *testing.T, r *rand.Rand) {
	b := zone.NewBuilder()
	for line := range strings.Lines("example. 300 SOA ns mail 1 2 3 4 5\nexample. 300 NS Ns.Test.\n") {
		rr, err := dns.NewRR(line)
		if err != nil {
			t.Fatal(err)
		}
		b.Add(rr, "f", 1)
	}
	b.AddWire([]byte("\x04type\x07example\x00"), dns.TypeCSYNC, 1, []byte("\x00\x00\x00\x01\x00\x03\x00\x02\x40\x00"), "f", 2) // a bit map with a zero at its end
	b.AddWire([]byte("\x04type\x07example\x00"), dns.TypeLOC, 1, []byte{1, 2}, "f", 2)
	want := map[string]bool{}
	for _, typ := range rdatatest.Types() {
		if slices.Contains([]uint16{dns.TypeSOA, dns.TypeNSEC3, dns.TypeNSEC, dns.TypeRRSIG}, typ) {
			continue // which must make sense with the rest of the zone
		}
		for i := range 8 {
			owner := fmt.Sprintf("x%d-%d", typ, i)
			octets := rdatatest.Random(r, typ)
			b.AddWire(append(append([]byte{byte(len(owner))}, owner...), "\x07example\x00"...), typ, uint32(i), octets, "f", 3)
			want[fmt.Sprintf("%s.example. %d %x", owner, typ, octets)] = true
		}
	}
	z, found := b.Build("")
	if z == nil {
		t.Fatal(found)
	}
	same(t, z)
	back, _ := Parse(strings.NewReader(written(t, z)), Options{})
	for rec := range back.WireRecords() {
		delete(want, fmt.Sprintf("%s %d %x", zone.NameString(rec.Owner), rec.Type, rec.Data))
	}
	for left := range want {
		t.Errorf("not there, or other octets: %s", left)
	}
}

// same checks that a zone written and read, by lines in any order, is written the same.
func same(t *testing.T, z *zone.Zone) {
	text := written(t, z)
	back, found := Parse(strings.NewReader(text), Options{})
	if back == nil {
		t.Fatalf("%v\n%s", found, text)
	}
	if again := written(t, back); again != text || back.Len() != z.Len() || back.Serial() != z.Serial() {
		t.Errorf("wrote\n%s\nthen\n%s", text, again)
	}
	lines := strings.SplitAfter(text, "\n")
	rand.New(rand.NewPCG(3, 4)).Shuffle(len(lines), func(i, j int) { lines[i], lines[j] = lines[j], lines[i] })
	shuffled, found := Parse(strings.NewReader(strings.Join(lines, "")), Options{})
	if shuffled == nil {
		t.Fatal(found)
	}
	if got := written(t, shuffled); got != text {
		t.Errorf("from lines in another order\n%s\nnot\n%s", got, text)
	}
}

func FuzzParse(f *testing.F) {
	for _, text := range []string{"", "a A 192.0.2.1\n", "a TXT ( \"x\"\n \"y\" )\n", "$GENERATE 1-3 a${0,3,x} TXT \"$\"\n", "$ORIGIN b\n@ MX 1 @\n",
		"$INCLUDE f\n", "a TYPE65280 \\# 3 aabbcc\n", "a HTTPS 1 . alpn=h2 ipv4hint=192.0.2.1\n", "a CAA 0 issue \"x\"\n", "*.w CNAME \\000\\..a\n",
		"a LOC 52 22 23 N 4 53 32 E -2m\n", "a NAPTR 1 2 \"U\" \"x\" \"\" .\n", "a 1w2d IN RRSIG A 13 2 60 20330518033320 20231114221320 1 @ AAAA\n"} {
		f.Add(head + text)
	}
	files := fstest.MapFS{"f": {Data: []byte("inc A 192.0.2.1\n$INCLUDE f\n")}}
	f.Fuzz(func(t *testing.T, text string) {
		z, found := Parse(strings.NewReader(text), Options{Include: files, MaxRecords: 1000, MaxEntry: 10000})
		if len(found) > zone.MaxFindings+1 {
			t.Errorf("%d findings", len(found))
		}
		if (z == nil) != zone.HasErrors(found) {
			t.Errorf("zone %v, findings %v", z, found)
		}
		if z != nil {
			same(t, z)
		}
	})
}

// BenchmarkParse reads delegations with glue, the simple lines of which large zones are made.
func BenchmarkParse(b *testing.B) {
	var text strings.Builder
	text.WriteString(head)
	records := 2
	for i := range 100000 {
		fmt.Fprintf(&text, "d%d.example. 3600 IN NS ns1.d%d.example.\nd%d.example. 3600 IN NS ns2.test.\nns1.d%d.example. 3600 IN A 192.0.2.1\n", i, i, i, i)
		records += 3
	}
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if z, found := Parse(strings.NewReader(text.String()), Options{}); z == nil {
			b.Fatal(found)
		}
	}
	b.ReportMetric(float64(records)*float64(b.N)/b.Elapsed().Seconds(), "RR/s")
}
