package sharedunicast

import (
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// Every Corefile in the README is started, on a free port and with files that exist.
func TestReadmeExamplesStart(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the examples' addresses need Linux's freebind")
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, section := range []string{"Name", "Description", "Syntax", "Metrics", "Examples", "Bugs"} {
		if !strings.Contains(string(readme), "\n## "+section+"\n") {
			t.Errorf("README has no section %s", section)
		}
	}
	cert, key := certificate(t)
	secrets := filepath.Join(t.TempDir(), "secrets")
	if err := os.WriteFile(secrets, []byte("# the one in use, and the one before\n00112233445566778899aabbccddeeff\nffeeddccbbaa99887766554433221100\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	replace := strings.NewReplacer(
		"tls://example.org", "tls://example.org:"+freePort(t),
		"example.org {", "example.org:"+freePort(t)+" {",
		"cert.pem", cert, "key.pem", key, "db.example.org", zoneFile(t), "cookies.key", secrets, "/var/lib/mesh/state/stats", filepath.Join(t.TempDir(), "stats"))
	examples := regexp.MustCompile("(?s)~~~ corefile\n(.*?)~~~").FindAllStringSubmatch(string(readme), -1)
	if len(examples) < 2 {
		t.Fatalf("found %d examples", len(examples))
	}
	for _, property := range []string{"admin", "cookies", "dnstap", "ede", "fastpath", "padding", "report_channel", "rrl", "rrl_allow", "stats", "zoneversion"} {
		if !regexp.MustCompile(`(?ms)~~~ corefile\n[^~]*^ +` + property + ` `).Match(readme) {
			t.Errorf("no example has property %s", property)
		}
	}
	for _, example := range examples {
		text := replace.Replace(example[1])
		t.Run("", func(t *testing.T) { start(t, text) })
	}
}
