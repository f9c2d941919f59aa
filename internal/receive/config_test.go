package receive

import (
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/miekg/dns"
	"go.yaml.in/yaml/v3"

	"github.com/coredns-anycast/coredns-anycast/internal/fields"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/internal/xfr"
)

// parseConfig reads the section of a file that has no other.
func parseConfig(file string, data []byte) (c *Config, err error) {
	r := &fields.Reader{File: file, MaxList: 1000}
	root, err := r.Document(data)
	if err != nil {
		return nil, err
	}
	r.Mapping(root, "the configuration", fields.Keys{"sources": func(n *yaml.Node) { c = Section(r, n) }}, "sources")
	if err := r.Err(); err != nil {
		return nil, err
	}
	return c, nil
}

// The shipped example is a configuration, and means what its comments say.
func TestExampleLoads(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(testenv.Top(t), "sources.example.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := parseConfig("sources.example.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	servers := c.Zones[0].Primaries.Servers
	if len(servers) != 2 || servers[0].Address.String() != "198.51.100.21:53" || servers[0].Key.Name != "xfr.example." || servers[1].TLS == nil {
		t.Errorf("primaries %+v", servers)
	}
	if g := c.Catalogs[0]; g.Members != g.Primaries || g.Groups["signed"] == nil || g.Limit != 10 {
		t.Errorf("catalog %+v", g)
	}
	want := defaults()
	if c.Limits != want.Limits || c.Timers != want.Timers || c.Transfers != 10 || c.Notify.Rate != 1000 || c.Directories[0].Withdraw {
		t.Errorf("the example does not show the defaults: %+v", c)
	}
}

// The example shows every key that the parser knows.
func TestExampleShowsEveryKey(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(testenv.Top(t), "sources.example.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^ *(?:# |- )*([a-z_0-9]+):`).FindAllStringSubmatch(string(data), -1) {
		shown[m[1]] = true
	}
	_, err = parseConfig("x", []byte("sources: {z: 1, keys: [{z: 1}], primaries: [{z: 1, servers: [{z: 1, address: 192.0.2.1, tls: {z: 1}}]}], zones: [{z: 1}],\n"+
		" catalogs: [{z: 1, groups: [{z: 1}]}], directories: [{z: 1}], notify: {z: 1}, limits: {z: 1}, timers: {z: 1}}\n"))
	sections := regexp.MustCompile(`it may hold (.*)`).FindAllStringSubmatch(err.Error(), -1)
	if len(sections) != 12 {
		t.Fatalf("%d sections said what they may hold, want 12:\n%v", len(sections), err)
	}
	for _, m := range sections {
		for _, k := range strings.Split(m[1], ", ") {
			if !shown[k] {
				t.Errorf("the example does not show %q", k)
			}
		}
	}
}

const goodSecret = "c2VjcmV0IHRoYXQgeW91IHdpbGwgcmVwbGFjZSE="

// Each bad file gives exactly these lines, and never shows a secret.
func TestConfigErrors(t *testing.T) {
	hidden := "  primaries: [{name: h, servers: [{address: 192.0.2.1, no_key: true}]}]\n"
	for _, c := range []struct {
		name, file string
		want       []string
	}{
		{"nothing", "sources: {}\n", []string{"x.yaml:1:10: sources: nothing to receive"}},
		{"no mapping", "sources: 1\n", []string{"x.yaml:1:10: sources: want a mapping of catalogs, directories, keys,"}},
		{"another section", "source: {}\n", []string{`x.yaml:1:1: unknown key "source"`, `x.yaml:1:1: the configuration lacks "sources"`}},
		{"every error at once", "sources:\n  zones: [{names: [a..b], primaries: none}]\n" +
			"  keys: [{name: k, algorithm: hmac-md5, secret: c2hvcnQ=}, {name: k, secret: '!'}, {name: l}]\n" +
			"  primaries: [{name: p, servers: [{address: x, key: m}, {address: 192.0.2.1, source: '2001:db8::1', tls: {certificate: /c}}]}]\n", []string{
			`x.yaml:2:20: "a..b" is not a domain name`, `x.yaml:2:38: no primaries named "none"`,
			`x.yaml:3:31: "hmac-md5" is no algorithm`, `x.yaml:3:49: a secret of 5 octets`, `x.yaml:3:60: key k. twice`, `x.yaml:3:78: a secret is base64`,
			`x.yaml:3:84: key l.: want either secret or secret_file`,
			`x.yaml:4:45: "x" is not address:port`, `x.yaml:4:53: no key m among keys`, `x.yaml:4:86: server 192.0.2.1:853: source 2001:db8::1 is of the other family`,
			`x.yaml:4:106: tls: want ca, pins or both`, `x.yaml:4:106: tls: certificate and key go together`}},
		{"primaries that may be anybody", "sources:\n  keys: [{name: k, secret: " + goodSecret + "}]\n  primaries: [{name: p, servers: [{address: 192.0.2.1}, {address: 192.0.2.2, no_key: false},\n" +
			"    {address: 192.0.2.3, no_key: true, key: k}, {address: 192.0.2.4, no_key: true}, {address: 192.0.2.5, key: k}]}]\n  zones: [{names: [a], primaries: p}]\n",
			[]string{"x.yaml:3:35: server 192.0.2.1: want key or tls, or no_key: true", "x.yaml:3:57: server 192.0.2.2: want key or tls, or no_key: true",
				"x.yaml:4:34: server 192.0.2.3: no_key, and a key or tls as well"}},
		{"files of secrets", "sources:\n" + hidden + "  zones: [{names: [a], primaries: h}]\n  keys: [{name: a, secret_file: k}]\n",
			[]string{`x.yaml:4:33: "k" is not an absolute path`}},
		{"a zone twice", "sources:\n" + hidden + "  zones: [{names: [a, b], primaries: h}, {names: [A.], primaries: h}]\n  catalogs: [{name: b, primaries: h}]\n",
			[]string{"x.yaml:3:51: zone a. is named in line 3 already", "x.yaml:4:21: zone b. is named in line 3 already"}},
		{"directories", "sources:\n  directories: [{path: zones}, {path: /z, pattern: '*.*'}, {path: /z, deleted: no, origin: soa}, {path: /y, withdraw_limit: 5}]\n",
			[]string{`x.yaml:2:24: "zones" is not an absolute path`, `x.yaml:2:52: "*.*" is not a pattern`, `x.yaml:2:80: "no": want keep or withdraw`,
				"x.yaml:2:125: directory: withdraw_limit goes with deleted: withdraw"}},
		{"timers and limits", "sources:\n" + hidden + "  zones: [{names: [a], primaries: h}]\n  timers: {min_refresh: 2h, max_refresh: 1h}\n  limits: {octets: 5, stall: 1ms}\n  notify: {listen: ['0.0.0.0:53']}\n",
			[]string{"x.yaml:4:11: timers: a least value above the greatest", `x.yaml:5:20: "5": want a number from 1024`, "x.yaml:5:30: 1ms is out of range", "x.yaml:6:21: 0.0.0.0 is the wildcard"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parseConfig("x.yaml", []byte(c.file))
			var got fields.Errors
			if !errors.As(err, &got) {
				t.Fatalf("error %v", err)
			}
			if len(got) != len(c.want) {
				t.Fatalf("%d errors, want %d:\n%v", len(got), len(c.want), err)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("no %q in\n%v", w, err)
				}
			}
			if strings.Contains(err.Error(), "c2hvcnQ") {
				t.Errorf("it shows a secret: %v", err)
			}
		})
	}
}

// Files of secrets are opened by who receives, and by nobody else; all that cannot be used are named, each with its place.
func TestSecretFiles(t *testing.T) {
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"open.key": 0o644, "empty.key": 0o600, "good.key": 0o600} {
		data := map[string]string{"good.key": goodSecret + "\n"}[name]
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), mode); err != nil {
			t.Fatal(err)
		}
	}
	text := "sources:\n  directories: [{path: /z}]\n  keys:\n"
	for _, name := range []string{"open", "empty", "none", "good"} {
		text += fmt.Sprintf("    - {name: %s, secret_file: %s/%s.key}\n", name, dir, name)
	}
	c, err := parseConfig("x.yaml", []byte(text))
	if err != nil {
		t.Fatalf("files were opened: %v", err)
	}
	_, err = New(c, Options{Zones: t.TempDir(), State: t.TempDir()})
	var got fields.Errors
	if !errors.As(err, &got) || len(got) != 3 {
		t.Fatalf("error %v", err)
	}
	for i, want := range []string{"x.yaml:4:33: key open.: .*mode 0644, and others may read it: chmod 600", "x.yaml:5:34: key empty.: .*a secret is base64", "x.yaml:6:33: key none.: .*no such file"} {
		if !regexp.MustCompile(want).MatchString(got[i]) {
			t.Errorf("%q, want %q", got[i], want)
		}
	}
	c.secrets = c.secrets[3:]
	if _, err := New(c, Options{Zones: t.TempDir(), State: t.TempDir()}); err != nil || base64.StdEncoding.EncodeToString(c.secrets[0].key.Secret) != goodSecret {
		t.Errorf("secret %q, %v", c.secrets[0].key.Secret, err)
	}
}

// A key shows its name and nothing else, however it is printed.
func TestKeysAreNotShown(t *testing.T) {
	k := &xfr.Key{Name: "xfr.example.", Algorithm: dns.HmacSHA256, Secret: []byte("the secret")}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		for _, v := range []any{k, xfr.Primary{Key: k}, &Group{Servers: []xfr.Primary{{Key: k}}}} {
			if s := fmt.Sprintf(verb, v); strings.Contains(s, "the secret") || strings.Contains(s, "116, 104, 101") || strings.Contains(s, "0x74, 0x68") || strings.Contains(s, "116 104 101") {
				t.Errorf("%s shows %s", verb, s)
			}
		}
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("sources: {keys: [{name: a, secret: " + goodSecret + "}], primaries: [{name: h, servers: [{address: 192.0.2.1, key: a}]}], zones: [{names: [a], primaries: h}]}"))
	f.Add([]byte("sources: {directories: [{path: /z}]}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parseConfig("x", data)
		if (c == nil) == (err == nil) {
			t.Fatalf("config %v with error %v", c, err)
		}
	})
}
