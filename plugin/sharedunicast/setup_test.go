package sharedunicast

import (
	"fmt"
	"strings"
	"testing"

	"github.com/coredns/caddy/caddyfile"
)

func parseText(s string) (*directive, error) {
	d := caddyfile.NewDispenser("Corefile", strings.NewReader(s))
	return parse(&d)
}

func TestDirectiveIsRead(t *testing.T) {
	dir, err := parseText("\nsharedunicast 192.0.2.53 2001:db8::53 {\n admin 198.51.100.7 2001:db8:1::7\n}")
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintln(dir.shared, dir.admin, dir.pos)
	if want := "[192.0.2.53 2001:db8::53] [198.51.100.7 2001:db8:1::7] Corefile:2\n"; got != want {
		t.Errorf("read %s, want %s", got, want)
	}
}

func TestDirectiveErrorsNameFileLineAndRule(t *testing.T) {
	for _, test := range []struct{ name, text, want string }{
		{"no address", "sharedunicast", "Corefile:1 .* at least one shared address"},
		{"only a block", "sharedunicast {\n admin 192.0.2.1\n}", "Corefile:1 .* at least one shared address"},
		{"host name", "sharedunicast a.dns.jp", "Corefile:1 .*'a.dns.jp': not an IP address"},
		{"port", "sharedunicast 192.0.2.1:53", "Corefile:1 .*not an IP address"},
		{"prefix", "sharedunicast 192.0.2.0/24", "Corefile:1 .*not an IP address"},
		{"interface", "sharedunicast lo", "Corefile:1 .*not an IP address"},
		{"wildcard", "sharedunicast 0.0.0.0", "Corefile:1 .*every address"},
		{"wildcard v6", "sharedunicast ::", "Corefile:1 .*every address"},
		{"multicast", "sharedunicast 224.0.0.1", "Corefile:1 .*not a unicast address"},
		{"multicast v6", "sharedunicast ff02::1", "Corefile:1 .*not a unicast address"},
		{"broadcast", "sharedunicast 255.255.255.255", "Corefile:1 .*not a unicast address"},
		{"link-local", "sharedunicast fe80::1", "Corefile:1 .*link-local"},
		{"scoped", "sharedunicast 2001:db8::1%eth0", "Corefile:1 .*link-local"},
		{"other family's form", "sharedunicast ::ffff:192.0.2.1", "Corefile:1 .*IPv4-mapped.*192.0.2.1"},
		{"twice", "sharedunicast 192.0.2.1 192.0.2.1", "Corefile:1 .*given before, as shared"},
		{"twice in other words", "sharedunicast 2001:db8::1 2001:db8:0::1", "Corefile:1 .*given before, as shared"},
		{"admin is shared", "sharedunicast 192.0.2.1 {\n admin 192.0.2.1\n}", "Corefile:2 .*given before, as shared"},
		{"admin without address", "sharedunicast 192.0.2.1 {\n admin\n}", "Corefile:2 .*at least one administrative address"},
		{"admin wildcard", "sharedunicast 192.0.2.1 {\n admin 0.0.0.0\n}", "Corefile:2 .*every address"},
		{"admin twice", "sharedunicast 192.0.2.1 {\n admin 192.0.2.2\n admin 192.0.2.3\n}", "Corefile:3 .*admin twice"},
		{"unknown property", "sharedunicast 192.0.2.1 {\n admn 192.0.2.2\n}", "Corefile:2 .*unknown property 'admn'"},
		{"block in a block", "sharedunicast 192.0.2.1 {\n admin 192.0.2.2 {\n mss 3\n }\n}", "Corefile:3 .*unknown property 'mss'"},
		{"directive twice", "sharedunicast 192.0.2.1\nsharedunicast 192.0.2.2", "Corefile:2 .*twice in one server block"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, err := parseText(test.text)
			if err == nil {
				t.Fatalf("accepted as %+v", dir)
			}
			mustMatch(t, err, test.want)
		})
	}
}
