package sharedunicast

import (
	"os"
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
	replace := strings.NewReplacer(
		"tls://example.org", "tls://example.org:"+freePort(t),
		"example.org {", "example.org:"+freePort(t)+" {",
		"cert.pem", cert, "key.pem", key, "db.example.org", zoneFile(t))
	examples := regexp.MustCompile("(?s)~~~ corefile\n(.*?)~~~").FindAllStringSubmatch(string(readme), -1)
	if len(examples) < 2 {
		t.Fatalf("found %d examples", len(examples))
	}
	for _, example := range examples {
		text := replace.Replace(example[1])
		t.Run("", func(t *testing.T) { start(t, text) })
	}
}
