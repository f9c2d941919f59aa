package primarytest

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// ZoneText makes a zone of a size, with some of the odder types; variant changes some of its records.
func ZoneText(origin string, serial uint32, names, variant int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "$ORIGIN %s\n$TTL 300\n@ SOA ns1 host %d 3600 900 1209600 300\n@ NS ns1\n@ NS ns.example.net.\nodd TYPE65280 \\# 4 C0000201\n"+
		"ns1 A 192.0.2.1\n@ MX 10 Mail.Example.NET.\nwww CNAME ns1\nodd CAA 0 issue \"ca.example.net\"\nsvc SVCB 1 ns1 alpn=dot\n", origin, serial)
	for i := range names {
		address := i % 250
		if i%1000 == 7 {
			address = variant % 250
		}
		if i%2500 == 9 && variant > 0 {
			fmt.Fprintf(&b, "v%d-%d TXT \"added\" \"twice\"\n", variant, i)
			continue
		}
		fmt.Fprintf(&b, "host-%d A 192.0.2.%d\n", i, address)
	}
	return b.String()
}

// Parsed is the zone of a text.
func Parsed(t testing.TB, origin, text string) *zone.Zone {
	t.Helper()
	z, found := zonefile.Parse(strings.NewReader(text), zonefile.Options{Origin: origin})
	if z == nil {
		t.Fatal(found)
	}
	return z
}

// SameZone demands that two zones have equal records.
func SameZone(t testing.TB, got, want *zone.Zone) {
	t.Helper()
	var a, b bytes.Buffer
	if zonefile.Write(&a, got) != nil || zonefile.Write(&b, want) != nil {
		t.Fatal("cannot be written")
	}
	if bytes.Equal(bytes.ToLower(a.Bytes()), bytes.ToLower(b.Bytes())) { // servers may fold the names in RDATA
		return
	}
	t.Errorf("%s: %d records, want %d", got.Origin(), got.Len(), want.Len())
	have := map[string]bool{}
	for _, l := range strings.Split(strings.ToLower(a.String()), "\n") {
		have[l] = true
	}
	shown := 0
	for _, l := range strings.Split(strings.ToLower(b.String()), "\n") {
		if !have[l] && shown < 5 {
			t.Errorf("lacks %s", l)
			shown++
		}
	}
}
