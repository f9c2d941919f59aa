package config

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/docs"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// TestReference: docs/reference/meshctl.yaml.md has every key, and the example files say what each means.
func TestReference(t *testing.T) {
	top := testenv.Top(t)
	var examples []string
	for _, name := range []string{"meshctl.example.yaml", "sources.example.yaml", "checks.example.yaml"} {
		data, err := os.ReadFile(filepath.Join(top, name))
		if err != nil {
			t.Fatal(err)
		}
		examples = append(examples, string(data))
	}
	text, undocumented := docs.Keys(func(data []byte) error { _, err := Parse("", data); return err }, examples...)
	for _, key := range undocumented {
		t.Errorf("no example file shows %s", key)
	}
	docs.Page(t, top, "meshctl.yaml.md", "meshctl.yaml: every key", text)
}
