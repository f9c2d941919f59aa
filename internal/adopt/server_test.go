package adopt

import (
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/corefiles"
)

const secret = "c2VjcmV0IHRoYXQgbm9ib2R5IGtub3dzIGhlcmUhISE="

// configurations are of three servers with the same zones.
var configurations = map[string]string{
	"knot.conf": `# a comment
server:
    listen: [ 0.0.0.0@5353, 198.51.100.21@5353 ]
key:
  - id: xfr.example
    algorithm: hmac-sha256
    secret: ` + secret + `
remote:
  - id: mesh
    address: 198.51.100.1@53
    key: xfr.example
  - id: up
    address: [ "198.51.100.9", 2001:db8::9@5300 ]
    key: xfr.example
acl:
  - id: out
    address: 198.51.100.1
    key: xfr.example
    action: transfer
template:
  - id: default
    storage: DIR
    file: "%s.db"
    acl: out
zone:
  - domain: example.org
    notify: mesh
  - domain: example.net
    master: up
  - domain: signed.example
    dnssec-signing: on
  - domain: closed.example
    acl: []
    template: closed
template:
  - id: closed
    storage: DIR
`,
	"nsd.conf": `server:
	ip-address: 0.0.0.0@5353
	ip-address: 198.51.100.21@5353
	zonesdir: "DIR"   # where zones are
key:
	name: "xfr.example"
	algorithm: hmac-sha256
	secret: "` + secret + `"
pattern:
	name: out
	provide-xfr: 198.51.100.1 xfr.example
zone:
	name: "example.org"
	zonefile: "%s.db"
	include-pattern: out
	notify: 198.51.100.1 xfr.example
zone: name: example.net include-pattern: out
	request-xfr: AXFR 198.51.100.9 xfr.example
	request-xfr: 2001:db8::9@5300 xfr.example
zone:
	name: signed.example
	include-pattern: out
	zonefile: signed.example.db
zone:
	name: closed.example
	zonefile: closed.example.zone
`,
	"named.conf": `// comments of
/* all three
   kinds */
options {
	directory "DIR";  # this one too
	listen-on port 5353 { any; 198.51.100.21; };
	allow-transfer { none; };
};
key "xfr.example" { algorithm "hmac-sha256"; secret "` + secret + `"; };
acl out { !192.0.2.1; key xfr.example; };
primaries up port 53 { 198.51.100.9 key xfr.example; 2001:db8::9 port 5300 key "xfr.example"; };
zone "." { type hint; file "/usr/share/dns/root.hints"; };
zone "example.org" IN { type master; file "example.org.db"; allow-transfer { out; }; };
zone "example.net" { type secondary; primaries { up; }; allow-transfer { key xfr.example; }; };
zone "signed.example" { type primary; file "signed.example.db"; dnssec-policy default; allow-transfer { out; }; };
zone "closed.example" { type primary; file "closed.example.zone"; };
`,
}

// put is a configuration with its zone files beside it.
func put(t testing.TB, name, text string) string {
	t.Helper()
	dir := t.TempDir()
	for _, file := range []string{"example.org.db", "signed.example.db", "closed.example.zone"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(corefiles.ZoneText), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(text, "DIR", dir)), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestServersAsHiddenPrimaries: each server stays, and its zones come from it by the key that may transfer them; what nobody may
// transfer is said. A byte order mark before the file is nothing of it.
func TestServersAsHiddenPrimaries(t *testing.T) {
	for name, text := range configurations {
		f, _ := FormatOf(name)
		plan, err := f.Read(put(t, name, "\uFEFF"+text), Options{})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := strings.Join(plan.Names(), " "); got != "example.net. example.org. signed.example." {
			t.Errorf("%s: %s", name, got)
		}
		want := Primaries{"198.51.100.21", []Server{{netip.MustParseAddrPort("198.51.100.21:5353"), "xfr.example."}}}
		if len(plan.Primaries) != 1 || plan.Primaries[0].Name != want.Name || plan.Primaries[0].Servers[0] != want.Servers[0] {
			t.Errorf("%s: %+v", name, plan.Primaries)
		}
		if len(plan.Keys) != 1 || plan.Keys[0] != (Key{"xfr.example.", "hmac-sha256", secret}) {
			t.Errorf("%s: keys %d", name, len(plan.Keys))
		}
		saidOf(t, name, plan, "closed.example.", Refused, "nobody may transfer it: add ")
	}
}

// TestServersWhole: each server goes, with its files and its primaries. A zone that it signs stays.
func TestServersWhole(t *testing.T) {
	for name, text := range configurations {
		f, _ := FormatOf(name)
		plan, err := f.Read(put(t, name, text), Options{Whole: true})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		names := "closed.example. example.net. example.org."
		if name == "nsd.conf" { // which signs nothing
			names += " signed.example."
		} else {
			saidOf(t, name, plan, "signed.example.", Refused, "signs or changes it")
		}
		if got := strings.Join(plan.Names(), " "); got != names {
			t.Errorf("%s: %s", name, got)
		}
		if len(plan.Primaries) != 1 || len(plan.Primaries[0].Servers) != 2 || plan.Primaries[0].Servers[1] != (Server{netip.MustParseAddrPort("[2001:db8::9]:5300"), "xfr.example."}) {
			t.Errorf("%s: %+v", name, plan.Primaries)
		}
	}
}

func saidOf(t *testing.T, name string, p *Plan, what string, fate Fate, says string) {
	t.Helper()
	for _, part := range p.Parts {
		if part.What == what && part.Fate == fate && strings.Contains(part.Says, says) {
			return
		}
	}
	t.Errorf("%s: it is not said of %s that it is %s: %s\n%+v", name, what, fate, says, p.Parts)
}

// TestServersSpeakOfEverything: every line of a configuration that says something has a part, or is in one's block.
func TestServersSpeakOfEverything(t *testing.T) {
	for name, text := range configurations {
		for _, whole := range []bool{false, true} {
			f, _ := FormatOf(name)
			plan, err := f.Read(put(t, name, text), Options{Whole: whole})
			if err != nil {
				t.Fatal(err)
			}
			lines := map[int]bool{}
			for _, p := range plan.Parts {
				lines[p.Line] = true
				if strings.Contains(p.Says, secret) || p.Says == "" {
					t.Errorf("%s: %+v", name, p)
				}
			}
			for i, line := range strings.Split(text, "\n") {
				word, _, _ := strings.Cut(strings.Trim(line, " \t-"), " ")
				switch word {
				case "", "#", "//", "/*", "kinds", "};", "id:", "name:", "algorithm:", "secret:", "address:", "key:", "action:", "storage:", "file:", "zonefile:",
					"domain:", "template:", "include-pattern:", "remote:", "acl:", "server:", "zone:", "options":
					continue // of an item that has a part, or says what the item has
				}
				if !lines[i+1] {
					t.Errorf("%s: nothing is said of line %d: %s", name, i+1, line)
				}
			}
		}
	}
}

// TestWhatIsNotTheFileIsNotCopied: a server that signs a zone, or changes it, does so also where options, a view, a template or an access list
// say it, in any of the words that it takes for yes. The file of such a zone is not what clients are answered, and is not copied.
func TestWhatIsNotTheFileIsNotCopied(t *testing.T) {
	const zone = "zone \"example.org\" { type primary; file \"DIR/example.org.db\"; %s };"
	for _, c := range []struct {
		name, text string
		copied     bool
	}{
		{"named.conf", zone, true},
		{"named.conf", "options { dnssec-policy default; };" + zone, false},
		{"named.conf", "options { dnssec-policy default; }; " + strings.ReplaceAll(zone, "%s", "dnssec-policy none;"), true},
		{"named.conf", "options { allow-update { key k; }; };" + zone, false},
		{"named.conf", "options { allow-update { none; }; };" + zone, true},
		{"named.conf", "view v { dnssec-policy \"default\"; " + zone + " };", false},
		{"named.conf", "options { dnssec-policy default; }; view v { dnssec-policy none; " + zone + " };", true},
		{"named.conf", strings.ReplaceAll(zone, "%s", "update-policy local;"), false},
		{"named.conf", strings.ReplaceAll(zone, "%s", "inline-signing yes;"), false},
		{"named.conf", strings.ReplaceAll(zone, "%s", "inline-signing false;"), true},
		{"knot.conf", "zone:\n  - domain: example.org\n    file: DIR/example.org.db\n", true},
		{"knot.conf", "zone:\n  - domain: example.org\n    file: DIR/example.org.db\n    dnssec-signing: true\n", false},
		{"knot.conf", "template:\n  - id: default\n    dnssec-signing: on\nzone:\n  - domain: example.org\n    file: DIR/example.org.db\n", false},
		{"knot.conf", "acl:\n  - id: u\n    action: [transfer, update]\nzone:\n  - domain: example.org\n    file: DIR/example.org.db\n    acl: u\n", false},
		{"knot.conf", "acl:\n  - id: u\n    action: update\n    deny: true\nzone:\n  - domain: example.org\n    file: DIR/example.org.db\n    acl: u\n", true},
	} {
		f, _ := FormatOf(c.name)
		plan, err := f.Read(put(t, c.name, strings.ReplaceAll(c.text, "%s", "")), Options{Whole: true})
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		if c.copied != (len(plan.Zones) == 1) {
			t.Errorf("%s\ncopied: %v, want %v: %+v", c.text, len(plan.Zones) == 1, c.copied, plan.Parts)
		}
		if !c.copied {
			saidOf(t, c.name, plan, "example.org.", Refused, "signs or changes it")
		}
	}
}

// TestTransferOverTLSOnly: who may have a zone over TLS alone does not get it as the others are got.
func TestTransferOverTLSOnly(t *testing.T) {
	for transport, fate := range map[string]Fate{"transport tls": Refused, "port 5353 transport tcp": Changed, "": Changed} {
		text := "options { listen-on { 192.0.2.1; }; };\nzone a.example { type primary; file a; allow-transfer " + transport + " { any; }; };"
		plan, err := Named(put(t, "named.conf", text), Options{})
		if err != nil {
			t.Fatal(err)
		}
		saidOf(t, "named.conf", plan, "a.example.", fate, map[Fate]string{Refused: "over TLS only", Changed: "without a key"}[fate])
	}
}

// TestIncludes: a file is found where the server would find it, and a pattern names all that match.
func TestIncludes(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(strings.ReplaceAll(text, "DIR", dir)), 0o644)); err != nil {
			t.Fatal(err)
		}
		return path
	}
	write("zones/a.conf", "zone a.example { type primary; file \"a\"; };")
	write("zones/b.conf", "zone b.example { type primary; file \"b\"; };")
	write("knot/main.conf", "include: list.conf\n")
	write("knot/list.conf", "zone:\n  - domain: a.example\n  - domain: b.example\n")
	for name, text := range map[string]string{
		"named.conf":    "include \"DIR/zones/*.conf\";",
		"named.conf.2":  "options { directory \"DIR/zones\"; }; include \"a.conf\"; include \"b.conf\";",
		"named.conf.3":  "options { directory \"zones\"; }; view v { include \"*.conf\"; };",
		"knot.conf":     "include: knot/main.conf\n",
		"knot.conf.all": "include: \"DIR/knot/[l]*.conf\"\n",
	} {
		f, _ := FormatOf(name)
		plan, err := f.Read(write(name, text), Options{Primary: netip.MustParseAddr("192.0.2.1")})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := len(plan.Names()) + plan.Count(Refused); got != 2 {
			t.Errorf("%s: %+v", name, plan.Parts)
		}
	}
}

// TestServersErrors: everything that is wrong is said at once, with its place.
func TestServersErrors(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"knot.conf", "server:\n  listen: 0.0.0.0\nzone:\n  - domain: a..b\n  - domain: c\n    master: x\n    acl: y\n", ":4: zone: domain: \"a..b\" is not a domain name\n:5: zone c.: there is no remote x\n:5: zone c.: there is no acl y\n:1: it says no address on which Knot is reached: give --primary ADDRESS"},
		{"knot.conf", "a: b\nx\n- y: \"z\n", ":1: a: before the first section\n:2: want KEY: VALUE, or SECTION:\n:3: a quotation without its end"},
		{"nsd.conf", "name: x\nserver:\n  \"x\": y\ninclude: nowhere*\nzone:\n name: c\n include-pattern: p\n provide-xfr: x\n request-xfr: a b\n", ":1: name: before the first section\n:3: want ATTRIBUTE: VALUE, or SECTION:\n:4: include: there is no nowhere*\n:7: zone c.: there is no pattern p, or patterns include each other\n:8: provide-xfr: want ADDRESS KEY\n:9: request-xfr: \"a\" is not address:port"},
		{"named.conf", "key k { secret \"?\"; };\nzone a..b { };\nzone c { type secondary; primaries { x; }; };\n", ":1: key k: a secret is base64\n:2: zone: \"a..b\" is not a domain name\n:3: zone c.: \"x\" is no address and no list of primaries"},
		{"nsd.conf", "server:\n ip-address: 192.0.2.1\npattern:\n name: p\n include-pattern: p\n include-pattern: p\n include-pattern: p\nzone:\n name: c\n include-pattern: p\n", ": zone c.: lists or patterns name each other, and are too long together"},
		{"named.conf", "options {\n directory \"x\"\n", ":3: a statement without its semicolon"},
		{"named.conf", "options { /* x", ":1: a comment without its end"},
		{"named.conf", "};", ":1: a } without its {"},
		{"named.conf", "include \"gone\";", ":1: include: there is no "},
	} {
		f, _ := FormatOf(c.name)
		path := put(t, c.name, c.text)
		_, err := f.Read(path, Options{})
		if err == nil {
			t.Errorf("%s: %q is taken", c.name, c.text)
			continue
		}
		got := strings.ReplaceAll(err.Error(), path, "")
		for _, want := range strings.Split(c.want, "\n") {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %q:\n%s\nwant %s", c.name, c.text, got, want)
			}
		}
	}
}
