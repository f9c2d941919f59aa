package main

import (
	"debug/buildinfo"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coredns/caddy"

	"github.com/coredns-anycast/coredns-anycast/internal/directives"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// A directive without its plugin would be refused only by the Corefile that uses it, and a plugin without its place in
// the order never be called.
func TestDirectivesAreThePluginsCompiledIn(t *testing.T) {
	var want []string
	for _, d := range directives.Shipped {
		want = append(want, "dns."+d)
	}
	slices.Sort(want)
	got := slices.Sorted(slices.Values(caddy.ListPlugins()["others"]))
	if !slices.Equal(got, want) {
		t.Errorf("compiled in:\n%v\nin the order:\n%v", got, want)
	}
}

// Where our plugins stand decides what they see, and what sees them.
func TestPlaceOfOurPlugins(t *testing.T) {
	at := func(name string) int { return slices.Index(directives.Shipped, name) }
	if at("sharedunicast") != at("shed")+1 || at("prometheus") != at("sharedunicast")+1 {
		t.Error("sharedunicast is not between shed and prometheus")
	}
	if at("meshsync") < at("transfer") || at("file") != at("meshsync")+1 {
		t.Error("meshsync is not just before file, after transfer")
	}
}

// docs/deploy/own-coredns.md names them all, in order.
func TestDocumentNamesThePlugins(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(testenv.Top(t), "docs/deploy/own-coredns.md"))
	lab.Must(t, err)
	if want := "`" + strings.Join(directives.Shipped, "`, `") + "`."; !strings.Contains(strings.Join(strings.Fields(string(page)), " "), want) {
		t.Errorf("docs/deploy/own-coredns.md does not say %s", want)
	}
}

// What build.sh relies on: the variable of the version, the list of plugins, and that the go:debug line is heeded.
func TestBinary(t *testing.T) {
	binary := filepath.Join(t.TempDir(), "coredns")
	run := func(command string, args ...string) string {
		out, err := exec.Command(command, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s %v: %v\n%s", command, args, err, out)
		}
		return string(out)
	}
	run("go", "build", "-ldflags", "-X main.version=9.8.7", "-o", binary, ".")
	if out := run(binary, "-version"); !strings.HasPrefix(out, "coredns-anycast-9.8.7 (CoreDNS 1.") {
		t.Errorf("-version says %s", out)
	}
	listed := strings.Fields(run(binary, "-plugins"))
	for _, name := range directives.Shipped {
		if !slices.Contains(listed, "dns."+name) && !slices.Contains(listed, name) {
			t.Errorf("-plugins does not list %s", name)
		}
	}
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range info.Settings {
		if s.Key == "DefaultGODEBUG" && strings.Contains(s.Value, "multipathtcp=0") {
			return
		}
	}
	t.Error("MPTCP is not off")
}
