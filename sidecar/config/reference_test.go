package config

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/docs"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// TestReference: docs/reference/sidecar.yaml.md has every key, and the example file says what each means.
func TestReference(t *testing.T) {
	top := testenv.Top(t)
	example, err := os.ReadFile(filepath.Join(top, "sidecar.example.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	text, undocumented := docs.Keys(func(data []byte) error { _, err := Parse("", data); return err }, string(example))
	for _, key := range undocumented {
		t.Errorf("sidecar.example.yaml does not show %s", key)
	}
	docs.Page(t, top, "sidecar.yaml.md", "sidecar.yaml: every key", text)
}
