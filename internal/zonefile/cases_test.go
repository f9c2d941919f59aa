package zonefile

import (
	"encoding/hex"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/rdata"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// TestCases has zones that were once refused, or served with other data than they have, and what BIND, Knot and NSD make of them.
func TestCases(t *testing.T) {
	for file, want := range map[string][]string{
		"01-signed-23-days.zone": nil,
		"02-svcb-genericform.zone": {"_dns.ex.test. SVCB 000103646f68076578616d706c650000010003026832000700102f646e732d71756572797b3f646e737d00080000",
			"x1.ex.test. SVCB 000103646f68076578616d706c650000010003026832"},
		"03-amtrelay-d1.zone": {"r1.ex.test. AMTRELAY 0a81c0000201", "r2.ex.test. AMTRELAY 0a8220010db8000000000000000000000001",
			"r3.ex.test. AMTRELAY 0a830572656c6179076578616d706c6500"},
		"03b-amtrelay-generic.zone": {"r1.ex.test. AMTRELAY 0a81c0000201"},
		"04-loc-thousandths.zone":   {"hq.ex.test. LOC 000016138b3c9e12810c43c900989 5b8"},
		"05-caa-long.zone":          {"ex.test. CAA 00056973737565" + hex.EncodeToString([]byte("ca.example; accounturi=https://acme.example/acct/"))},
		"05b-uri-long.zone":         {"_x._tcp.ex.test. URI 000a0001" + hex.EncodeToString([]byte("https://example.com/ppp"))},
		"06-dnskey-mnemonic.zone":   {"k.ex.test. DNSKEY 0101030f"},
		"07-svcb-empty-lists.zone":  {"error 7", "error 8", "error 9", "error 10"},
		"09-csync-order.zone":       {"ex.test. CSYNC 00000001000300046000 0008"},
		"12-no-newline.zone":        {"warning no-final-newline"},
	} {
		t.Run(file, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", "cases", file))
			if err != nil {
				t.Fatal(err)
			}
			z, found := Parse(strings.NewReader(string(text)), Options{File: file})
			var got []string
			for _, f := range found {
				if f.Severity == zone.Error {
					got = append(got, "error "+strings.Split(f.String(), ":")[1])
				} else {
					got = append(got, "warning "+f.Rule)
				}
			}
			if z != nil {
				for r := range z.WireRecords() {
					got = append(got, zone.NameString(r.Owner)+" "+rdata.TypeString(r.Type)+" "+hex.EncodeToString(r.Data))
				}
			}
			for _, w := range want {
				fields := strings.SplitN(w, " ", 3)
				if len(fields) == 3 {
					fields[2] = strings.ReplaceAll(fields[2], " ", "")
				}
				if !slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, strings.Join(fields, " ")) }) {
					t.Errorf("no %s in %q", w, got)
				}
			}
			if (z == nil) != (file == "07-svcb-empty-lists.zone") {
				t.Errorf("zone %v: %v", z != nil, found)
			}
		})
	}
}
