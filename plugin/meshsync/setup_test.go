package meshsync

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/cache"
	_ "github.com/coredns/coredns/plugin/chaos"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/metrics"
	_ "github.com/coredns/coredns/plugin/ready"
	_ "github.com/coredns/coredns/plugin/root"
	_ "github.com/coredns/coredns/plugin/tsig"
	_ "github.com/coredns/coredns/plugin/whoami"
)

func init() {
	err := dnsserver.SetDirectives([]string{"root", "bind", "ready", "prometheus", "errors", "chaos", "cache", "tsig", "transfer", "meshsync", "whoami"})
	if err != nil {
		panic(err)
	}
}

// validate sets a Corefile up as a start would, short of starting. MESH stands for a directory with a root.json.
func validate(t *testing.T, corefile string) error {
	t.Helper()
	dir, h := nodeDir(t)
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "root.json"), readFile(t, h.root), 0o644))
	text := strings.ReplaceAll(corefile, "MESH", dir)
	return caddy.ValidateAndExecuteDirectives(caddy.CaddyfileInput{Contents: []byte(text), Filepath: "Corefile", ServerTypeName: "dns"}, nil, true)
}

func TestCorefile(t *testing.T) {
	const good = "root MESH/root.json\n clock assume 1ms\n"
	for _, c := range []struct{ name, corefile, err string }{
		{"least", ". {\n meshsync MESH {\n " + good + "}\n}", ""},
		{"all", ". {\n meshsync MESH {\n " + good + " repository MESH/r\n node tyo\n status unix:///run/x.sock\n}\n}", ""},
		{"sidecar", ". {\n meshsync MESH {\n root MESH/root.json\n clock sidecar unix:///run/mesh/sidecar.sock\n}\n}", ""},
		{"relative to plugin root", ". {\n root MESH\n meshsync state {\n root root.json\n clock assume 1ms\n}\n}", ""},
		{"two blocks that agree", "a {\n meshsync MESH {\n " + good + "}\n}\nb {\n meshsync MESH {\n " + good + "}\n}", ""},
		{"several keys", "a b 10.0.0.0/8 {\n meshsync MESH {\n " + good + "}\n}", ""},
		{"secondaries", ". {\n bind 127.0.0.1\n tsig {\n secret k. " + transferSecret + "\n}\n transfer {\n to *\n}\n meshsync MESH {\n " + good +
			" notify 192.0.2.1 [2001:db8::1]:5353 key K\n notify 192.0.2.2\n}\n}", ""},
		{"DNS over TLS", "tls://a {\n meshsync MESH {\n " + good + "}\n}", ""},

		{"no directory", ". {\n meshsync {\n " + good + "}\n}", "Corefile:2 .*one directory"},
		{"two directories", ". {\n meshsync MESH MESH {\n " + good + "}\n}", "Corefile:2 .*one directory"},
		{"no block", ". {\n meshsync MESH\n}", "Corefile:2 .*root is missing"},
		{"no root", ". {\n meshsync MESH {\n clock assume 1ms\n}\n}", "Corefile:4 .*root is missing"},
		{"no clock", ". {\n meshsync MESH {\n root MESH/root.json\n}\n}", "Corefile:4 .*clock is missing"},
		{"isolated without a sidecar", ". {\n meshsync MESH {\n " + good + " isolated silent 1m\n}\n}", "isolated wants clock sidecar"},
		{"isolated for too short a time", ". {\n meshsync MESH {\n " + good + " isolated silent 9s\n}\n}", "Corefile:5 .*isolated silent: \"9s\" is not a duration of 10s or more"},
		{"unknown property", ". {\n meshsync MESH {\n " + good + " floor 7\n}\n}", "Corefile:5 .*unknown property \"floor\".*clock, isolated, node, notify, repository"},
		{"property twice", ". {\n meshsync MESH {\n " + good + " clock assume 2ms\n}\n}", "Corefile:5 .*\"clock\" is given twice"},
		{"property without argument", ". {\n meshsync MESH {\n " + good + " node\n}\n}", "Corefile:5 .*node wants one argument, has 0"},
		{"property with two arguments", ". {\n meshsync MESH {\n " + good + " node a b\n}\n}", "Corefile:5 .*node wants one argument, has 2"},
		{"notify without address", ". {\n meshsync MESH {\n " + good + " notify\n}\n}", "Corefile:5 .*notify wants"},
		{"notify a name", ". {\n meshsync MESH {\n " + good + " notify ns.example.org\n}\n}", "Corefile:5 .*ns.example.org"},
		{"notify port 0", ". {\n meshsync MESH {\n " + good + " notify 192.0.2.1:0\n}\n}", "Corefile:5 .*192.0.2.1:0"},
		{"notify with a key that is not there", ". {\n meshsync MESH {\n " + good + " notify 192.0.2.1 key k\n}\n}", "Corefile:5 .*no key k\\."},
		{"notify with a key and no address", ". {\n meshsync MESH {\n " + good + " notify key k\n}\n}", "Corefile:5 .*key"},
		{"two in a block", ". {\n meshsync MESH {\n " + good + "}\n meshsync MESH {\n " + good + "}\n}", "Corefile:6 .*once in a server block"},
		{"clock alone", ". {\n meshsync MESH {\n root MESH/root.json\n clock\n}\n}", "Corefile:4 .*clock wants"},
		{"clock of a kind there is not", ". {\n meshsync MESH {\n root MESH/root.json\n clock sundial 1ms\n}\n}", "Corefile:4 .*sidecar and assume"},
		{"no duration", ". {\n meshsync MESH {\n root MESH/root.json\n clock assume soon\n}\n}", "Corefile:4 .*\"soon\" is not a duration"},
		{"no time at all", ". {\n meshsync MESH {\n root MESH/root.json\n clock assume 0s\n}\n}", "Corefile:4 .*above 0"},
		{"negative", ". {\n meshsync MESH {\n root MESH/root.json\n clock assume -1ms\n}\n}", "Corefile:4 .*above 0"},
		{"too long", ". {\n meshsync MESH {\n root MESH/root.json\n clock assume 1h\n}\n}", "Corefile:4 .*up to 1m"},
		{"sidecar without scheme", ". {\n meshsync MESH {\n root MESH/root.json\n clock sidecar /run/x.sock\n}\n}", "Corefile:4 .*unix:///absolute"},
		{"status relative", ". {\n meshsync MESH {\n " + good + " status unix://x.sock\n}\n}", "Corefile:5 .*status.*unix:///absolute"},
		{"status too long", ". {\n meshsync MESH {\n " + good + " status unix:///" + strings.Repeat("x", 120) + "\n}\n}", "Corefile:5 .*107 bytes"},
		{"root not there", ". {\n meshsync MESH {\n root MESH/no.json\n clock assume 1ms\n}\n}", "Corefile:.*root: .*/no.json: no such file"},
		{"root of nonsense", ". {\n meshsync MESH {\n root MESH\n clock assume 1ms\n}\n}", "Corefile:.*root: .*not a regular file"},
		{"gRPC", "grpc://a {\n meshsync MESH {\n " + good + "}\n}", "Corefile:.*grpc://a.*echoes"},
		{"gRPC as one of several", "a grpc://b {\n meshsync MESH {\n " + good + "}\n}", "Corefile:.*grpc://b.*echoes"},
		{"blocks with other clocks", "a {\n meshsync MESH {\n " + good + "}\n}\nb {\n meshsync MESH {\n root MESH/root.json\n clock assume 2ms\n}\n}", "Corefile:.*clock is .*2ms.* earlier block"},
		{"blocks with other directories", "a {\n meshsync MESH {\n " + good + "}\n}\nb {\n meshsync MESH/b {\n " + good + "}\n}", "Corefile:.*the directory is .* earlier block"},
		{"unclosed", ". {\n meshsync MESH {\n " + good, "Corefile:.*"},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := validate(t, c.corefile)
			switch {
			case c.err == "" && err != nil:
				t.Error(err)
			case c.err != "" && err == nil:
				t.Error("accepted")
			case c.err != "" && !regexp.MustCompile(c.err).MatchString(err.Error()):
				t.Errorf("error %q, want %s", err, c.err)
			}
		})
	}
}

// The examples of the manual are Corefiles that start, once the paths are ours.
func TestReadme(t *testing.T) {
	blocks := strings.Split(string(readFile(t, "README.md")), "~~~")
	examples := 0
	for _, b := range blocks {
		text, ok := strings.CutPrefix(b, " corefile\n")
		if !ok {
			continue
		}
		examples++
		text = strings.NewReplacer("/etc/mesh", "MESH", "/var/lib/mesh", "MESH").Replace(text)
		if err := validate(t, text); err != nil {
			t.Errorf("%v\n%s", err, text)
		}
	}
	if examples < 3 {
		t.Errorf("%d examples", examples)
	}
}

func TestDefaults(t *testing.T) {
	c := caddy.NewTestController("dns", "meshsync /var/lib/mesh {\n root /etc/mesh/root.json\n clock assume 5ms\n}")
	c.ServerBlockKeys = []string{"dns://Example.ORG.:53", "tls://.:853"}
	conf, err := parseConfig(c)
	must(t, err)
	want := config{dir: "/var/lib/mesh", repository: "/var/lib/mesh/repository", root: "/etc/mesh/root.json",
		clock: clockConfig{assume: 5 * time.Millisecond}, status: "/var/lib/mesh/meshsync.sock", node: hostname()}
	zones := strings.Join(conf.zones, " ")
	conf.zones = nil
	if conf.dir != want.dir || conf.repository != want.repository || conf.root != want.root || conf.clock != want.clock ||
		conf.status != want.status || conf.node != want.node {
		t.Errorf("got %+v, want %+v", conf, want)
	}
	if zones != "example.org. ." {
		t.Errorf("zones %q", zones)
	}
}
