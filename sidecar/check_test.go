package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// bundle makes a mesh and returns the Corefile and the sidecar.yaml that its node gets.
func bundle(t *testing.T) (corefile, sidecar string) {
	t.Helper()
	meshctl, home := filepath.Join(testenv.Build(t, "cmd/meshctl"), "meshctl"), filepath.Join(t.TempDir(), "mesh")
	for _, args := range [][]string{
		{"init", "--mesh", "example", "--shared", "192.0.2.53,2001:db8:53::53", "--url", "https://198.51.100.1:8444/"},
		{"member", "add", "tyo", "--admin", "198.51.100.7:8443", "--as", "64500", "--router", "198.51.100.254,2001:db8:100::fe", "--router-as", "64501"},
	} {
		cmd := exec.Command(meshctl, args...)
		cmd.Env = append(os.Environ(), "MESHCTL_HOME="+home)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("meshctl %s: %v\n%s", args[0], err, out)
		}
	}
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(home, "members", "tyo", name))
		lab.Must(t, err)
		return string(data)
	}
	return read("Corefile"), read("sidecar.yaml")
}

// TestCheckKnowsAForeignBundle: the certificate of another node, the key of another, the authority of another mesh, an address that is
// not the certificate's, and addresses that no interface has are errors, and nothing is said of a bundle that is right.
func TestCheckKnowsAForeignBundle(t *testing.T) {
	meshctl, dir := filepath.Join(testenv.Build(t, "cmd/meshctl"), "meshctl"), t.TempDir()
	at := func(mesh, name string) string { return filepath.Join(dir, mesh, "members", name) }
	for _, mesh := range []string{"jp", "fr"} {
		for _, args := range [][]string{
			{"init", "--mesh", mesh, "--shared", "127.0.0.53", "--url", "https://127.0.0.1:8444/"},
			{"member", "add", "tyo", "--admin", "127.0.0.1:8443", "--at", at(mesh, "tyo")},
			{"member", "add", "osa", "--admin", "127.0.0.1:8445", "--at", at(mesh, "osa")},
			{"member", "add", "fra", "--admin", "198.51.100.8:8443", "--at", at(mesh, "fra")},
		} {
			out, err := exec.Command(meshctl, append(args, "--home", filepath.Join(dir, mesh))...).CombinedOutput()
			if err != nil {
				t.Fatalf("meshctl %s: %v\n%s", args[0], err, out)
			}
		}
	}
	tyo := at("jp", "tyo")
	kept := map[string][]byte{}
	for _, name := range []string{"node.crt", "node.key", "ca.crt", "sidecar.yaml"} {
		data, err := os.ReadFile(filepath.Join(tyo, name))
		lab.Must(t, err)
		kept[name] = data
	}
	for _, c := range []struct {
		from  string
		files []string
		want  string
	}{
		{tyo, nil, ""},
		{at("jp", "osa"), []string{"node.crt", "node.key"}, "\nidentity.certificate is that of osa, and node is tyo: is this another node's bundle?\n"},
		{at("jp", "osa"), []string{"node.key"}, "private key does not match"},
		{at("fr", "tyo"), []string{"ca.crt"}, "\nidentity.certificate is not of the mesh of identity.ca"},
		{at("jp", "osa"), []string{"sidecar.yaml"}, ""}, // all of it is osa's, in another place
	} {
		for _, name := range c.files {
			data, err := os.ReadFile(filepath.Join(c.from, name))
			lab.Must(t, err)
			lab.Must(t, os.WriteFile(filepath.Join(tyo, name), data, 0o600))
		}
		var out bytes.Buffer
		code := execute([]string{"check", filepath.Join(tyo, "sidecar.yaml")}, &out, &out)
		says := out.String()
		wanted := map[bool]int{true: exitDone, false: exitRefused}[c.want == ""]
		if code != wanted || !strings.Contains(says, c.want) || c.want == "" && strings.Contains(says, "identity") || strings.Contains(says, "no interface") {
			t.Errorf("%v of %s: %d\n%s", c.files, c.from, code, says)
		}
		for name, data := range kept {
			lab.Must(t, os.WriteFile(filepath.Join(tyo, name), data, 0o600))
		}
	}
	for _, c := range []struct{ node, from, to, want string }{
		{"tyo", "127.0.0.1:8443", "127.0.0.9:8443", "identity.certificate is not for the address of admin.listen, 127.0.0.9"},
		{"tyo", "127.0.0.53", "192.0.2.53", "\nno interface here has the shared address 192.0.2.53: ip addr add 192.0.2.53/32 dev lo\n"},
		{"fra", "never", "there", "\nno interface here has the address of admin.listen, 198.51.100.8: is this another node's machine, or bundle?\n"},
	} {
		file := filepath.Join(at("jp", c.node), "sidecar.yaml")
		lab.Must(t, os.WriteFile(file, []byte(strings.NewReplacer(c.from, c.to).Replace(lab.Read(t, file))), 0o644))
		var out bytes.Buffer
		if code := execute([]string{"check", file}, &out, &out); code != exitRefused || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: %d\n%s", c.want, code, &out)
		}
		lab.Must(t, os.WriteFile(filepath.Join(tyo, "sidecar.yaml"), kept["sidecar.yaml"], 0o600))
		lab.Must(t, os.Remove(filepath.Join(at("jp", c.node), "node.key")))
		out.Reset()
		if code := execute([]string{"check", file}, &out, &out); code != exitDone || strings.Contains(out.String(), "no interface") {
			t.Errorf("on another machine: %d\n%s", code, &out)
		}
		lab.Must(t, os.WriteFile(filepath.Join(tyo, "node.key"), kept["node.key"], 0o600))
	}
}

// The two files of a bundle agree, and each difference between them is found, with its place, and with all others.
func TestCheckComparesWithTheCorefile(t *testing.T) {
	corefile, sidecar := bundle(t)
	dir := t.TempDir()
	t.Chdir(dir)
	check := func(corefile, sidecar string) (int, string) {
		t.Helper()
		lab.Must(t, os.WriteFile("Corefile", []byte(corefile), 0o644))
		lab.Must(t, os.WriteFile("sidecar.yaml", []byte(sidecar), 0o644))
		var out bytes.Buffer
		return execute([]string{"check", "sidecar.yaml", "--corefile", "Corefile"}, &out, &out), out.String()
	}
	if code, says := check(corefile, sidecar); code != exitDone || !strings.Contains(says, "Corefile agrees with it\n") {
		t.Fatalf("the bundle as made: %d\n%s", code, says)
	}
	lab.Must(t, os.WriteFile("node.crt", nil, 0o644))
	if code, says := check(corefile, sidecar); code != exitDone || !strings.Contains(says, "warning: the bundle was made for /etc/mesh, and is in .: unpack it there, or make it for here: meshctl member update tyo --at DIR\n") {
		t.Errorf("unpacked elsewhere: %d\n%s", code, says)
	}
	lab.Must(t, os.Remove("node.crt"))
	if _, says := check(corefile, sidecar); strings.Contains(says, "was made for") {
		t.Errorf("checked where the bundle is not:\n%s", says)
	}
	plain := strings.NewReplacer("sharedunicast 192", "bind 192", " {\n        admin 198.51.100.7\n        cookies /etc/mesh/cookies.key\n    }\n", "\n")
	if code, says := check(plain.Replace(corefile), sidecar); code != exitDone {
		t.Errorf("bind instead of sharedunicast: %d\n%s", code, says)
	}
	all := corefile
	var wants []string
	for _, c := range []struct{ from, to, want string }{
		{"sharedunicast 192.0.2.53 ", "sharedunicast 192.0.2.54 ", "Corefile:3: sharedunicast answers on 192.0.2.54, which the sidecar neither announces nor probes: it is not in shared at sidecar.yaml:3:9"},
		{"sharedunicast 192.0.2.53 ", "sharedunicast 192.0.2.54 ", "sidecar.yaml:3:9: the sidecar announces and probes 192.0.2.53, which no sharedunicast of Corefile has"},
		{"    meshsync /var/lib/mesh ", "    meshsync /srv/mesh ", "Corefile:7: the depot is /srv/mesh/repository, and /var/lib/mesh/repository in mirror.depot at sidecar.yaml:"},
		{"root /etc/mesh/root.json", "root /etc/other/root.json", "Corefile:8: the mesh's trusted root is /etc/other/root.json, and /etc/mesh/root.json in mirror.root at sidecar.yaml:"},
		{"node tyo", "node osa", "Corefile:9: the node's name is osa, and tyo in node at sidecar.yaml:2:7"},
		{"clock sidecar unix:///run/mesh/sidecar.sock", "clock sidecar unix:///run/x.sock", "Corefile:10: the socket on which meshsync reads the clock is unix:///run/x.sock, and unix:///run/mesh/sidecar.sock in socket at sidecar.yaml:4:"},
		{"status unix:///run/mesh/meshsync.sock", "status unix:///run/y.sock", "Corefile:11: the socket of meshsync's status is unix:///run/y.sock, and unix:///run/mesh/meshsync.sock in meshsync at sidecar.yaml:7:"},
		{"prometheus 127.0.0.1:9153", "prometheus :9154", "Corefile:14: prometheus listens on 127.0.0.1:9154, and so does the sidecar: metrics at sidecar.yaml:"},
		{"prometheus 127.0.0.1:9153", "prometheus :9154", "the sidecar reads metrics of the DNS server at 127.0.0.1:9153, where no prometheus of Corefile tells them"},
		{"    errors\n", "    errors\n    health 198.51.100.7:8443\n", "Corefile:17: health listens on 198.51.100.7:8443, and so does the sidecar: admin.listen at sidecar.yaml:"},
		{"\n. {", "\n.:5300 tls://.:53 {", "the sidecar probes 2001:db8:53::53 at port 53, where no server block of Corefile answers by dns://"},
	} {
		if !strings.Contains(corefile, c.from) {
			t.Fatalf("no %q in\n%s", c.from, corefile)
		}
		if code, says := check(strings.Replace(corefile, c.from, c.to, 1), sidecar); code != exitRefused || !strings.Contains(says, c.want) {
			t.Errorf("%s: %d\n%swant %s", c.to, code, says, c.want)
		}
		all, wants = strings.Replace(all, c.from, c.to, 1), append(wants, c.want)
	}
	code, says := check(all, sidecar)
	for _, want := range wants {
		if code != exitRefused || !strings.Contains(says, want) {
			t.Errorf("all at once: %d\n%swant %s", code, says, want)
		}
	}
	if code, says := check(". {\n errors\n}\n", sidecar); code != exitRefused || !strings.Contains(says, "no server block of Corefile has meshsync") {
		t.Errorf("without meshsync: %d\n%s", code, says)
	}
	if code, says := check(". {\n bind 127.0.0.1\n}\n", sidecar); !strings.Contains(says, "192.0.2.53, which no server block of Corefile listens on") {
		t.Errorf("without the shared address: %d\n%s", code, says)
	}
	if code, says := check(". {\n sharedunicast x\n", sidecar); code != exitRefused || !strings.Contains(says, "Corefile:") {
		t.Errorf("broken: %d\n%s", code, says)
	}
}

// TestCheckFindsWhatCoreDNSRefuses: a directive that coredns does not have, or refuses beside sharedunicast, is an error with its place,
// and the real coredns refuses that Corefile as well. Another program is asked for what it has.
func TestCheckFindsWhatCoreDNSRefuses(t *testing.T) {
	corefile, sidecar := bundle(t)
	coredns := filepath.Join(testenv.Build(t, "cmd/coredns"), "coredns")
	t.Chdir(t.TempDir())
	lab.Must(t, os.WriteFile("sidecar.yaml", []byte(sidecar), 0o644))
	check := func(text string, more ...string) (int, string) {
		t.Helper()
		lab.Must(t, os.WriteFile("Corefile", []byte(text), 0o644))
		var out bytes.Buffer
		return execute(append([]string{"check", "sidecar.yaml", "--corefile", "Corefile"}, more...), &out, &out), out.String()
	}
	if code, says := check(corefile, "--coredns", coredns); code != exitDone {
		t.Fatalf("the bundle as made: %d\n%s", code, says)
	}
	const other = "example.org:5300 {\n    bind 127.0.0.1\n    unheardof x {\n  y\n }\n    whoami\n}\n"
	for _, c := range []struct{ text, want, by string }{
		{strings.Replace(corefile, "    errors\n", "    errors\n    cache 30\n", 1), "has no plugin cache, and starts by no Corefile that names one: a cached answer outlives a switchover", "Unknown directive 'cache'"},
		{strings.Replace(corefile, "    errors\n", "    errors\n    minimal\n", 1), "minimal cannot be in a server block with sharedunicast: it takes", "minimal cannot be in a server block with sharedunicast"},
		{other + corefile, "Corefile:3: coredns, as this project builds it, has no plugin unheardof", "Unknown directive 'unheardof'"},
		{"example.net:5300 {\n    forward . 192.0.2.1\n}\n(gone) {\n    rewrite x y\n}\n" + corefile, "Corefile:2: coredns, as this project builds it, has no plugin forward", "Unknown directive 'forward'"},
	} {
		code, says := check(c.text)
		if code != exitRefused || !strings.Contains(says, c.want) || !strings.Contains(says, "Corefile:") || strings.Contains(says, "rewrite") || strings.Contains(says, "plugin y") {
			t.Errorf("%d\n%swant %s", code, says, c.want)
		}
		if code, says := check(c.text, "--coredns", coredns); code != exitRefused || strings.Contains(says, "this project") {
			t.Errorf("asked itself: %d\n%s", code, says)
		}
		if out, err := exec.Command(coredns, "-conf", "Corefile").CombinedOutput(); err == nil || !strings.Contains(string(out), c.by) {
			t.Errorf("coredns: %v\n%swant %s", err, out, c.by)
		}
	}
	lab.Must(t, os.WriteFile("own", []byte("#!/bin/sh\necho dns.unheardof\nexec "+coredns+" \"$@\"\n"), 0o755))
	if code, says := check(other+corefile, "--coredns", "./own"); code != exitDone {
		t.Errorf("a plugin of somebody else's: %d\n%s", code, says)
	}
	for _, program := range []string{"/bin/false", "/bin/true", "/none"} {
		if code, says := check(corefile, "--coredns", program); code != exitRefused || !strings.Contains(says, "--coredns: "+program) {
			t.Errorf("%s: %d\n%s", program, code, says)
		}
	}
}

// TestCheckFindsAnACLAgainstTheProbe: an acl that refuses the shared address, from which the probe asks, is an error at the line that does
// so, and one that lets it in, or is not for the zones that are asked for, is none.
func TestCheckFindsAnACLAgainstTheProbe(t *testing.T) {
	corefile, sidecar := bundle(t)
	t.Chdir(t.TempDir())
	check := func(t *testing.T, text, sidecar string) (int, string) {
		t.Helper()
		lab.Must(t, os.WriteFile("sidecar.yaml", []byte(sidecar), 0o644))
		lab.Must(t, os.WriteFile("Corefile", []byte(text), 0o644))
		var out bytes.Buffer
		return execute([]string{"check", "sidecar.yaml", "--corefile", "Corefile"}, &out, &out), out.String()
	}
	for _, c := range []struct{ name, acl, want string }{
		{"of the walk", "acl {\n allow net 10.0.0.0/8\n block\n}", "Corefile:5: acl blocks questions from 192.0.2.53, from where the sidecar's probe asks, and the route would never be announced: put \"allow net 192.0.2.53\" before this line"},
		{"the other address", "acl {\n allow net 192.0.2.53/32\n block\n}", "Corefile:5: acl blocks questions from 2001:db8:53::53,"},
		{"both let in", "acl {\n allow net 192.0.2.0/24 2001:db8:53::53\n block\n}", ""},
		{"others refused", "acl {\n block net 10.0.0.0/8\n}", ""},
		{"a net of it", "acl {\n DROP type SOA net 192.0.2.0/24\n}", "Corefile:4: acl drops questions from 192.0.2.53,"},
		{"other types", "acl {\n block type ANY AXFR\n}", ""},
		{"every type", "acl {\n filter type * net *\n}", "Corefile:4: acl filters questions from 192.0.2.53,"},
		{"names that are perhaps no zone", "acl internal.example.org {\n block\n}", ""},
		{"the second of two", "acl {\n block net 10.0.0.0/8\n}\nacl {\n block\n}", "Corefile:7: acl blocks questions from 192.0.2.53,"},
		{"let in by the first of two", "acl {\n allow net 192.0.2.53 2001:db8:53::53\n}\nacl {\n block\n}", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			text := strings.Replace("\n"+corefile, "\n. {\n", "\n. {\n"+c.acl+"\n", 1)[1:]
			code, says := check(t, text, sidecar)
			if c.want == "" && code != exitDone || c.want != "" && (code != exitRefused || !strings.Contains(says, c.want)) {
				t.Errorf("%d\n%swant %s", code, says, c.want)
			}
		})
	}
	closed := "example.net {\n sharedunicast 192.0.2.53 2001:db8:53::53\n acl {\n  block\n }\n}\n"
	if code, says := check(t, closed+corefile, sidecar); code != exitRefused || !strings.Contains(says, "Corefile:4: acl blocks") {
		t.Errorf("one of two blocks: %d\n%s", code, says)
	}
	if code, says := check(t, strings.Replace(closed, "acl {", "view v {\n expr true\n }\n acl {", 1)+corefile, sidecar); code != exitDone {
		t.Errorf("a view: %d\n%s", code, says)
	}
}
