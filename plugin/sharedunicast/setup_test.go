package sharedunicast

import (
	"fmt"
	"net/netip"
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
	full, err := parseText("sharedunicast 192.0.2.53 {\n rrl 100 slip 3\n rrl_allow 192.0.2.0/24 2001:db8::1\n cookies f require\n ede off\n zoneversion off\n padding off\n report_channel agent.Example\n fastpath off\n}")
	if err != nil {
		t.Fatal(err)
	}
	want := settings{rate: 100, slip: 3, allow: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::1/128")},
		cookies: "f", require: true, reportTo: "agent.example."}
	if !full.settings.same(want) || !full.chain {
		t.Errorf("%+v", full)
	}
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
		{"rrl without rate", "sharedunicast 192.0.2.1 {\n rrl\n}", "Corefile:2 .*RATE"},
		{"rrl of zero", "sharedunicast 192.0.2.1 {\n rrl 0\n}", "Corefile:2 .*'0' is no number from 1 to 100000"},
		{"rrl twice", "sharedunicast 192.0.2.1 {\n rrl 5\n rrl 6\n}", "Corefile:3 .*rrl twice"},
		{"slip", "sharedunicast 192.0.2.1 {\n rrl 5 slip 11\n}", "Corefile:2 .*slip: '11' is no number from 0 to 10"},
		{"slip's name", "sharedunicast 192.0.2.1 {\n rrl 5 slop 1\n}", "Corefile:2 .*RATE slip N"},
		{"allowed prefix", "sharedunicast 192.0.2.1 {\n rrl_allow 192.0.2.1/24\n}", "Corefile:2 .*neither an address nor a prefix"},
		{"no allowed prefix", "sharedunicast 192.0.2.1 {\n rrl_allow\n}", "Corefile:2 .*at least one prefix"},
		{"cookies", "sharedunicast 192.0.2.1 {\n cookies\n}", "Corefile:2 .*file of secrets"},
		{"cookies' word", "sharedunicast 192.0.2.1 {\n cookies a b\n}", "Corefile:2 .*'require'"},
		{"fastpath", "sharedunicast 192.0.2.1 {\n fastpath maybe\n}", "Corefile:2 .*on or off"},
		{"collector", "sharedunicast 192.0.2.1 {\n dnstap /run/tap.sock\n}", "Corefile:2 .*neither unix:///PATH nor tcp"},
		{"collector's name", "sharedunicast 192.0.2.1 {\n dnstap tcp://host:6000\n}", "Corefile:2 .*neither unix:///PATH nor tcp"},
		{"sample", "sharedunicast 192.0.2.1 {\n dnstap unix:///s sample 0\n}", "Corefile:2 .*sample: '0' is no number"},
		{"agent domain", "sharedunicast 192.0.2.1 {\n report_channel .\n}", "Corefile:2 .*no domain"},
		{"statistics of nobody", "sharedunicast 192.0.2.1 {\n stats /tmp\n}", "Corefile:2 .*name of the service"},
		{"service elsewhere", "sharedunicast 192.0.2.1 {\n stats /tmp ../x\n}", "Corefile:2 .*no name of letters"},
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
