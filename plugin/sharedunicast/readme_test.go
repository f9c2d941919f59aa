package sharedunicast

import (
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// Every Corefile in the README is started, on addresses and a port that are there, and with files that exist, and answers.
// Each property of the syntax is in one of them.
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
	port := freePort(t)
	replace := strings.NewReplacer(
		"tls://example.org", "tls://example.org:"+freePort(t),
		"example.org {", "example.org:"+port+" {", "192.0.2.53", "127.0.53.1", "2001:db8::53", "::1",
		"cert.pem", cert, "key.pem", key, "db.example.org", zoneFile(t), "cookies.key", secrets, "/var/lib/mesh/state/stats", filepath.Join(t.TempDir(), "stats"))
	examples := regexp.MustCompile("(?s)~~~ corefile\n(.*?)~~~").FindAllStringSubmatch(string(readme), -1)
	if len(examples) < 2 {
		t.Fatalf("found %d examples", len(examples))
	}
	syntax := regexp.MustCompile(`(?s)~~~ txt\nsharedunicast [^\n]*\{\n(.*?)\n\}`).FindStringSubmatch(string(readme))
	if syntax == nil {
		t.Fatal("found no syntax")
	}
	for line := range strings.Lines(syntax[1]) {
		property := strings.Fields(line)[0]
		if !regexp.MustCompile(`(?ms)~~~ corefile\n[^~]*^ +` + property + ` `).Match(readme) {
			t.Errorf("no example has property %s", property)
		}
	}
	for _, example := range examples {
		text := replace.Replace(example[1])
		t.Run("", func(t *testing.T) {
			start(t, text)
			for _, network := range []string{"udp", "tcp"} {
				if m := mustAsk(t, network, "127.0.53.1:"+port, "www.example.org.", dns.TypeA, dns.RcodeSuccess); !m.Authoritative || len(m.Answer) != 1 {
					t.Errorf("over %s: %v", network, m)
				}
			}
		})
	}
}
