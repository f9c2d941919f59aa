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
		"@ 60 NSEC a.example.net. SOA", "example.net. 60 DNSKEY 257 3 15 AAAA", "child.example.net. 60 DS 1 15 2 00",
		"example.net. 60 RRSIG SOA 15 2 60 20300101000000 20200101000000 1 example.net. AAAA"}, "\n") + "\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	z, err := readZone("example.net=" + file)
	if err != nil {
		t.Fatal(err)
	}
	if !z.unsigned || len(z.records) != 3 || z.records[2].Header().Rrtype != dns.TypeDS || z.origin != "example.net." {
		t.Errorf("read as %+v", z)
	}
	if got := z.serial(2); got != 0 {
		t.Errorf("the serial after the highest is %d, want 0 (RFC 1982)", got)
	}
}
