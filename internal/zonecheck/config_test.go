package zonecheck

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/coredns-anycast/coredns-anycast/internal/fields"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// parseConfig reads the section of a file that has no other.
func parseConfig(file string, data []byte) (*Config, error) {
	r := &fields.Reader{File: file, MaxList: 1000}
	root, err := r.Document(data)
	if err != nil {
		return nil, err
	}
	c := DefaultConfig()
	r.Mapping(root, "the configuration", fields.Keys{"checks": func(n *yaml.Node) { c = Section(r, n) }})
	if err := r.Err(); err != nil {
		return nil, err
	}
	return c, nil
}

// TestExampleIsTheDefault: the shipped example says what holds without it, and with its comments taken away it shows
// every key and is right.
func TestExampleIsTheDefault(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(testenv.Top(t), "checks.example.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseConfig("x", data)
	if err != nil {
		t.Fatal(err)
	}
	want := DefaultConfig()
	want.Policy.File = "x"
	if !reflect.DeepEqual(c, want) {
		t.Errorf("the example is %+v", c)
	}
	all := regexp.MustCompile(`(?m)^  # (  )?((?:meshes|command|zones|  example.org|  - |    ).*)$`).ReplaceAll(data, []byte("  $1$2"))
	c, err = parseConfig("x", all)
	if err != nil {
		t.Fatalf("%v\n%s", err, all)
	}
	if len(c.Policy.Meshes) != 1 || len(c.Policy.Command) != 2 || len(c.Zones["example.org."].Anchors) != 1 {
		t.Errorf("without comments it is %+v", c)
	}
	_, err = parseConfig("x", []byte("checks: {z: 1, zones: {a: {z: 1}}}"))
	for _, m := range regexp.MustCompile(`it may hold (.*)`).FindAllStringSubmatch(err.Error(), -1) {
		for _, key := range strings.Split(m[1], ", ") {
			if !regexp.MustCompile(`(?m)^[ #]*` + key + `:`).Match(data) {
				t.Errorf("the example does not show %s", key)
			}
		}
	}
}

func TestConfig(t *testing.T) {
	c, err := parseConfig("x", []byte(`
checks:
  zones:
    Example.ORG: {dnssec: require, removed: {names: 5}, on_error: hold-zone}
    example.net: {trust_anchors: ["DNSKEY 257 3 13 mdsswUyr3DPW132mOi8V9xESWE8jTo0dxCjjnopKl+GqJxpVXckHAeF+KkxLbxILfDLUT0rAK9iUzy1L53eKGQ=="]}
  zonemd: require
  meshes: [{name: jp, servers: [A.DNS.jp, 192.0.2.53, "2001:db8::53"]}]
`))
	if err != nil {
		t.Fatal(err)
	}
	org, net, other := c.For("example.org."), c.For("example.net."), c.For("test.")
	if org.DNSSEC != Require || org.Removed != (Limit{Most: 5, Few: 20}) || org.Hold != HoldZone || org.ZONEMD != Require || org.Margin != time.Hour {
		t.Errorf("example.org: %+v", org)
	}
	if len(net.Anchors) != 1 || net.DNSSEC != Verify || net.ZONEMD != Require {
		t.Errorf("example.net: %+v", net)
	}
	want := Mesh{"jp", []string{"a.dns.jp."}, []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("2001:db8::53")}}
	if len(other.Meshes) != 1 || !reflect.DeepEqual(other.Meshes[0], want) || other.Hold != HoldZone {
		t.Errorf("others: %+v", other)
	}
}

// Each bad file gives exactly these lines.
func TestConfigErrors(t *testing.T) {
	for _, c := range []struct {
		file string
		want []string
	}{
		{"", []string{"x:1:1: the file is empty"}},
		{"sources: 1\n", []string{`x:1:1: unknown key "sources" in the configuration: it may hold checks`}},
		{"checks:\n  zonemd: perhaps\n  dnssec: must\n  nonsense: 1\n", []string{`x:2:11: "perhaps": want one of ignore, require, verify`,
			`x:3:11: "must"`, `x:4:3: unknown key "nonsense" in checks`}},
		{"checks: {removed: 10}\n", []string{"x:1:19: removed: want a mapping of few, names, percent"}},
		{"checks: {added: {percent: 0, names: -1}}\n", []string{"x:1:27: 0 is out of range", `x:1:37: "-1" is not a whole number`}},
		{"checks: {ttl: {min: 2h, max: 1h}}\n", []string{"x:1:15: ttl: min 2h0m0s is above max 1h0m0s"}},
		{"checks: {signature_margin: 1}\n", []string{`x:1:28: "1" is not a duration`}},
		{"checks: {command: [check]}\n", []string{`x:1:20: "check" is not an absolute path`}},
		{"checks: {command: /bin/check}\n", []string{`x:1:19: want a list`}},
		{"checks: {meshes: [{name: jp}]}\n", []string{`x:1:19: mesh lacks "servers"`}},
		{"checks: {meshes: [{name: jp, servers: [0.0.0.0, 'ff02::1', a..b, 192.0.2.1, 192.0.2.1]}]}\n", []string{`x:1:40: "0.0.0.0" is no unicast address`,
			`x:1:49: "ff02::1" is no unicast address`, `x:1:60: "a..b" is not a domain name`, `x:1:77: 192.0.2.1 twice`}},
		{"checks: {on_error: stop}\n", []string{`x:1:20: "stop": want one of hold-release, hold-zone`}},
		{"checks: {zones: {a: {zones: {}}, a.: {dnssec: off}, b..c: {}}}\n", []string{`x:1:22: unknown key "zones" in zone a.`,
			`x:1:34: zone a. twice`, `x:1:47: "off": want one of`, `x:1:53: "b..c" is not a domain name`}},
		{"checks: {zones: {a: {trust_anchors: [A 192.0.2.1, DS 1, DS]}}}\n", []string{"x:1:38: a trust anchor is a record without its owner",
			"x:1:51: a trust anchor is", "x:1:57: a trust anchor is"}},
		{"checks: {zones: 1}\n", []string{"x:1:17: zones: want a mapping"}},
		{"checks: 1\n", []string{"x:1:9: checks: want a mapping"}},
	} {
		_, err := parseConfig("x", []byte(c.file))
		if err == nil {
			t.Errorf("%q is taken", c.file)
			continue
		}
		got := strings.Split(err.Error(), "\n")
		if len(got) != len(c.want) || slices.ContainsFunc(c.want, func(w string) bool {
			return !slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, w) })
		}) {
			t.Errorf("%q:\ngot  %q\nwant %q", c.file, got, c.want)
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("checks: {zonemd: require, zones: {a: {trust_anchors: [DS 1 13 2 00]}}, meshes: [{name: a, servers: [b]}]}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseConfig("x", data)
		if (c == nil) == (err == nil) {
			t.Fatalf("config %v, error %v", c, err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "x:") {
			t.Fatalf("error without a place: %v", err)
		}
	})
}
