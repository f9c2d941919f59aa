package main

import (
	"bytes"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

const hiddenSecret = "c2VjcmV0IHRoYXQgbm9ib2R5IGtub3dzIGhlcmUhISE="

const hiddenZone = `$ORIGIN example.org.
$TTL 60
@   SOA ns1 hostmaster 7 3600 900 1209600 300
@   NS ns1
@   NS ns.elsewhere.net.
ns1 A 192.0.2.53
www A 192.0.2.80
`

// hiddenServers are Knot, NSD and BIND, each with a zone that a key may transfer.
func hiddenServers(t *testing.T) (all []*lab.NameServer) {
	t.Helper()
	for _, kind := range []string{"knotd", "nsd", "named"} {
		s := &lab.NameServer{Kind: kind, Dir: t.TempDir(), Listen: []netip.AddrPort{testenv.Local(t)},
			Keys: []lab.TSIG{{Name: "xfr.example", Algorithm: "hmac-sha256", Secret: hiddenSecret}}}
		file := filepath.Join(s.Dir, "example.org.zone")
		lab.Must(t, os.WriteFile(file, []byte(hiddenZone), 0o644))
		z := lab.ServedZone{Origin: "example.org", File: file}
		switch kind {
		case "knotd":
			s.Rest = "acl:\n  - id: out\n    address: 127.0.0.1\n    key: xfr.example\n    action: transfer\n"
			z.More = "    acl: out\n    zonefile-sync: -1\n"
		case "nsd":
			z.More = "  provide-xfr: 127.0.0.1 xfr.example\n"
		case "named":
			s.Rest = "acl out { key xfr.example; };\n"
			z.More = "allow-transfer { out; }; notify no; "
		}
		s.Zones = []lab.ServedZone{z}
		all = append(all, s)
	}
	return all
}

// TestAdoptHiddenPrimaries: a real Knot, NSD and BIND is taken over from the very configuration that it runs by, and its zone comes by its
// key and is in a release, all records as they are there.
func TestAdoptHiddenPrimaries(t *testing.T) {
	for _, s := range hiddenServers(t) {
		t.Run(s.Kind, func(t *testing.T) {
			t.Parallel()
			program := testenv.Need(t, s.Kind)[0]
			lab.Start(t, lab.Command{Name: s.Kind, Dir: s.Dir, Log: filepath.Join(s.Dir, "log"), Argv: s.Argv(t, program)})
			lab.WaitFor(t, s.Kind+" answers", func() bool {
				m, err := dns.Exchange(new(dns.Msg).SetQuestion("example.org.", dns.TypeSOA), s.Listen[0].String())
				return err == nil && m.Authoritative
			})
			home := filepath.Join(t.TempDir(), "mesh")
			meshctl := func(args ...string) string {
				t.Helper()
				var out bytes.Buffer
				if code := run(append([]string{"--home", home}, args...), &out, &out); code != exitDone {
					t.Fatalf("meshctl %s: %d\n%s", strings.Join(args, " "), code, out.String())
				}
				return out.String()
			}
			meshctl("init")
			said := meshctl("adopt", "--write", filepath.Join(s.Dir, s.Kind+".conf"))
			if !strings.Contains(said, fmt.Sprintf("example.org.: changed: from %s at %s, signed with xfr.example.",
				map[string]string{"knotd": "Knot", "nsd": "NSD", "named": "BIND"}[s.Kind], s.Listen[0])) || strings.Contains(said, hiddenSecret) {
				t.Error(said)
			}
			if said := meshctl("receive"); !strings.Contains(said, "received example.org. serial 7 by axfr") {
				t.Error(said)
			}
			received := filepath.Join(home, "zones", "example.org.zone")
			if said := meshctl("release", "--now", received); !strings.Contains(said, "added example.org.\nrelease 1 published, 1 zones, current") {
				t.Error(said)
			}
			if got, want := canonical(t, received), canonical(t, s.Zones[0].File); got != want {
				t.Errorf("received\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// TestAdoptReplacesNothing: a secret that somebody wrote is not replaced by another one, two keys have two files, and a meshctl.yaml that
// only its owner may read stays so.
func TestAdoptReplacesNothing(t *testing.T) {
	dir := t.TempDir()
	home, conf := filepath.Join(dir, "mesh"), filepath.Join(dir, "knot.conf")
	meshctl := func(want int, args ...string) string {
		t.Helper()
		var out bytes.Buffer
		if code := run(append([]string{"--home", home}, args...), &out, &out); code != want {
			t.Fatalf("meshctl %s: %d\n%s", strings.Join(args, " "), code, out.String())
		}
		return out.String()
	}
	text := "server:\n  listen: 192.0.2.1\nkey:\n"
	for _, id := range []string{"a/b", "a_b"} {
		text += fmt.Sprintf("  - id: %s\n    algorithm: hmac-sha256\n    secret: %s\n", id, hiddenSecret)
	}
	text += "acl:\n  - id: one\n    action: transfer\n    key: a/b\n  - id: two\n    action: transfer\n    key: a_b\n" +
		"zone:\n  - domain: example.org\n    acl: one\n  - domain: example.net\n    acl: two\n"
	lab.Must(t, os.WriteFile(conf, []byte(text), 0o644))
	meshctl(exitDone, "init")
	config, key := filepath.Join(home, "meshctl.yaml"), filepath.Join(home, "tsig", "a_b.key")
	lab.Must(t, os.WriteFile(config, []byte("serve: {listen: '127.0.0.1:8444'}\n"), 0o600))
	lab.Must(t, os.MkdirAll(filepath.Dir(key), 0o700))
	lab.Must(t, os.WriteFile(key, []byte("c29tZWJvZHkgZWxzZSdzIHNlY3JldCwgbG9uZw==\n"), 0o600))
	if said := meshctl(exitRefused, "adopt", "--write", conf); !strings.Contains(said, "a_b.key is there, and is not what") {
		t.Error(said)
	}
	if got := lab.Read(t, config); strings.Contains(got, "sources") {
		t.Errorf("adopted by half:\n%s", got)
	}
	lab.Must(t, os.Remove(key))
	meshctl(exitDone, "adopt", "--write", conf)
	for _, name := range []string{"meshctl.yaml", "tsig/a_b.key", "tsig/a%2fb.key"} {
		if info, err := os.Stat(filepath.Join(home, name)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
}

// TestAdoptSaysWhichZonesAreLeft: the closing words name the zones that the mesh does not answer for, and none if all were taken over; a
// kept acl is among what to do.
func TestAdoptSaysWhichZonesAreLeft(t *testing.T) {
	for _, c := range []struct{ text, want, not string }{
		{"example.org {\n file zone\n nosuchplugin\n transfer {\n  to *\n }\n}\n", "2 parts are not adopted:", "does not answer for"},
		{"example.org {\n file zone\n acl {\n  block\n }\n}\nexample.net {\n file gone\n}\n", "until then the mesh does not answer for example.net.\n", "for no zone"},
		{"example.org {\n file zone\n acl {\n  block\n }\n nosuchplugin\n}\n", "first: let the shared address, from which the probe asks, into each acl", "does not answer for"},
	} {
		dir := t.TempDir()
		lab.Must(t, os.WriteFile(filepath.Join(dir, "Corefile"), []byte(c.text), 0o644))
		lab.Must(t, os.WriteFile(filepath.Join(dir, "zone"), []byte(hiddenZone), 0o644))
		var out bytes.Buffer
		home := filepath.Join(dir, "mesh")
		if code := run([]string{"--home", home, "init"}, &out, &out); code != exitDone {
			t.Fatal(out.String())
		}
		code := run([]string{"--home", home, "adopt", "--write", filepath.Join(dir, "Corefile")}, &out, &out)
		if said := out.String() + "\n"; code != exitRefused || !strings.Contains(said, c.want) || strings.Contains(said, c.not) {
			t.Errorf("%d\n%s", code, said)
		}
	}
}

// canonical is a zone file's zone.
func canonical(t *testing.T, file string) string {
	t.Helper()
	z, found, err := zonefile.ReadFile(file, zonefile.Options{})
	lab.Must(t, err)
	if z == nil {
		t.Fatal(found)
	}
	var b bytes.Buffer
	lab.Must(t, zonefile.Write(&b, z))
	return b.String()
}
