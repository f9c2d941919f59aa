// Package plugincfg tests the other way to a CoreDNS with our plugins: stock CoreDNS with two lines added to plugin.cfg,
// by the commands that the section "Building" of plugin/sharedunicast/README.md and docs/deploy/own-coredns.md give.
package plugincfg

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"

	"github.com/miekg/dns"
)

const module = "github.com/coredns-anycast/coredns-anycast"

func TestStockCoreDNSWithTwoLinesMore(t *testing.T) {
	if !testenv.CI() && os.Getenv("FULL") != "1" {
		t.Skip("compiles all of CoreDNS, which takes minutes; set FULL=1 or CI=true to run it")
	}
	top := testenv.Top(t)
	src := copyCoreDNS(t, top)
	lab.Must(t, os.Symlink(top, filepath.Join(filepath.Dir(src), "coredns-anycast")))
	run(t, src, "bash", "-euxc", commands(t, top))

	binary := filepath.Join(src, "coredns")
	listed := strings.Fields(run(t, src, binary, "-plugins"))
	for _, name := range []string{"sharedunicast", "meshsync"} {
		if !slices.Contains(listed, name) {
			t.Errorf("-plugins does not list %s", name)
		}
	}
	order, err := os.ReadFile(filepath.Join(src, "core/dnsserver/zdirectives.go"))
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`(?s)"shed",\s+"sharedunicast",\s+"prometheus",.*"dynupdate",.*"meshsync",\s+"file",`).Match(order) {
		t.Errorf("order of directives:\n%s", order)
	}
	serves(t, binary)
}

// copyCoreDNS copies the CoreDNS that go.mod names out of the module cache.
func copyCoreDNS(t *testing.T, top string) string {
	t.Helper()
	dir := strings.TrimSpace(run(t, top, "go", "list", "-m", "-f", "{{.Dir}}", "github.com/coredns/coredns"))
	src := filepath.Join(t.TempDir(), "coredns")
	if err := os.CopyFS(src, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	// The module cache is read-only.
	err := filepath.WalkDir(src, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Chmod(path, 0o755)
		}
		return os.Chmod(path, 0o644)
	})
	if err != nil {
		t.Fatal(err)
	}
	return src
}

// Both documents say the same, of the CoreDNS that go.mod names.
func TestREADMEsAgree(t *testing.T) {
	top := testenv.Top(t)
	version := strings.TrimSpace(run(t, top, "go", "list", "-m", "-f", "{{.Version}}", "github.com/coredns/coredns"))
	for _, name := range []string{"docs/deploy/own-coredns.md", "plugin/sharedunicast/README.md"} {
		text, err := os.ReadFile(filepath.Join(top, name))
		lab.Must(t, err)
		if !strings.Contains(string(text), "CoreDNS "+version+" ") {
			t.Errorf("%s does not name CoreDNS %s", name, version)
		}
	}
	commands(t, top)
}

// commands are those that the documents give, word by word.
func commands(t *testing.T, top string) (found string) {
	t.Helper()
	for _, name := range []string{"docs/deploy/own-coredns.md", "plugin/sharedunicast/README.md"} {
		text, err := os.ReadFile(filepath.Join(top, name))
		lab.Must(t, err)
		block := regexp.MustCompile("(?s)\n(?:```|~~~)[a-z ]*\n(sed -i[^`~]*plugin.cfg\n.*?)(?:```|~~~)").FindStringSubmatch(string(text))
		if block == nil {
			t.Fatalf("%s has no commands to build CoreDNS with", name)
		}
		if found != "" && block[1] != found {
			t.Fatalf("%s says\n%s\nand docs/deploy/own-coredns.md\n%s", name, block[1], found)
		}
		found = block[1]
	}
	return found
}

// serves starts the binary with sharedunicast in front of file, and asks.
func serves(t *testing.T, binary string) {
	t.Helper()
	dir := t.TempDir()
	port := testenv.Port(t)
	server := fmt.Sprintf("127.0.0.1:%d", port)
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("db", "@ 60 IN SOA ns admin 1 60 60 60 60\n@ 60 IN NS ns\nns 60 IN A 192.0.2.53\n")
	write("Corefile", fmt.Sprintf("example.org:%d {\n sharedunicast 127.0.0.1\n file db\n}\n", port))

	cmd := exec.Command(binary)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()

	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		answer, err := dns.Exchange(new(dns.Msg).SetQuestion("ns.example.org.", dns.TypeA), server)
		if err == nil && answer.Authoritative && len(answer.Answer) == 1 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("answer %v, %v", answer, err)
		}
	}
}

func run(t *testing.T, dir, command string, args ...string) string {
	t.Helper()
	cmd := exec.Command(command, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v\n%s", command, args, err, out)
	}
	return string(out)
}
