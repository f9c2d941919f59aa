//go:build linux

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

func TestEachReleaseRaisesTheSerialAndKeepsTheRest(t *testing.T) {
	z, err := readZone("")
	if err != nil {
		t.Fatal(err)
	}
	var sizes []int
	for number := uint64(1); number <= 3; number++ { // the built-in zone has no file, so each is written
		path, err := z.write(t.TempDir(), number)
		if err != nil {
			t.Fatal(err)
		}
		again, err := readZone(path)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := again.soa().Serial, z.soa().Serial+uint32(number)-1; got != want {
			t.Errorf("release %d has serial %d, want %d", number, got, want)
		}
		sizes = append(sizes, len(again.records))
	}
	if z.origin != "example.org." || sizes[0] < 10 || sizes[0] != sizes[2] {
		t.Errorf("zone %s of %v records", z.origin, sizes)
	}
}

func TestASignedZoneIsToldUnsigned(t *testing.T) {
	file := filepath.Join(t.TempDir(), "zone")
	text := strings.Join([]string{
		"Example.NET. 60 SOA ns.example.org. hostmaster 4294967295 1 1 1 1", "example.net. 60 NS ns.example.org.",
		"@ 60 NSEC child.example.net. SOA", "example.net. 60 DNSKEY 257 3 15 AAAA", "child.example.net. 60 DS 1 15 2 00",
		"child.example.net. 60 NS ns.example.org.", "child 60 NSEC @ NS DS",
		"example.net. 60 RRSIG SOA 15 2 60 20300101000000 20200101000000 1 example.net. AAAA"}, "\n") + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	z, err := readZone("example.net=" + file)
	if err != nil {
		t.Fatal(err)
	}
	if !z.unsigned || len(z.records) != 4 || z.records[3].Header().Rrtype != dns.TypeDS || z.origin != "example.net." {
		t.Errorf("read as %+v", z)
	}
	if got := z.serial(2); got != 0 {
		t.Errorf("the serial after the highest is %d, want 0 (RFC 1982)", got)
	}
}

// TestARelativeZoneIsTold: a file as other servers take it, whose name gives the origin, and whose types are of any kind.
func TestARelativeZoneIsTold(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db.example.net")
	text := "$TTL 60\n@ SOA ns mail 1 7200 3600 1209600 300\n@ NS ns\nns A 192.0.2.1\nr AMTRELAY 10 1 1 192.0.2.1\nw WALLET BTC x\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	z, err := readZone(file)
	if err != nil || z.origin != "example.net." || len(z.records) != 5 {
		t.Fatalf("%+v, %v", z, err)
	}
	path, err := z.write(t.TempDir(), 2)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := readZone(path); err != nil || again.soa().Serial != 2 || len(again.records) != 5 {
		t.Errorf("%+v, %v", again, err)
	}
	if _, err := readZone(filepath.Join(t.TempDir(), "missing")); err == nil {
		t.Error("a file that is not there is read")
	}
}
