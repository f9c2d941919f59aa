package config

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
)

// The three examples are one configuration when they are put together.
func TestExampleConfiguration(t *testing.T) {
	var all []byte
	for _, name := range []string{"meshctl", "checks"} {
		data, err := os.ReadFile("../../../../" + name + ".example.yaml")
		if err != nil {
			t.Fatal(err)
		}
		all = append(append(all, data...), '\n')
	}
	c, err := Parse("meshctl.yaml", all)
	if err != nil {
		t.Fatal(err)
	}
	if c.Sources != nil || c.Releases.Every != 3*time.Second || c.Serve.Metrics.Port() != 9155 || c.Releases.Absent.After != 10*time.Minute {
		t.Errorf("got %+v", c)
	}
	if d, err := LoadIfThere("/nonexistent/meshctl.yaml"); err != nil || d.Releases.Absent.After != mesh.DefaultAbsent || d.Releases.Lead != 0 {
		t.Errorf("without a file: %+v, %v", d, err)
	}
}

// Every error of a configuration is named at once, with its place.
func TestConfigurationErrors(t *testing.T) {
	_, err := Parse("meshctl.yaml", []byte(`releases: {every: 0s, absent: never, lead: 1d}
serve:
  listen: everywhere
  access: [everybody]
  metrics: 198.51.100.1:9155
more: 1
`))
	if err == nil {
		t.Fatal("accepted")
	}
	for _, want := range []string{"meshctl.yaml:1:", "or write lease", "meshctl.yaml:3:11", "meshctl.yaml:4:12", "not a loopback address", "more"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in:\n%v", want, err)
		}
	}
}

// A member whose lease is waited for is waited for no less long than others while it answers.
func TestAbsent(t *testing.T) {
	for text, want := range map[string]mesh.Absent{
		"lease": {After: mesh.DefaultAbsent, Lapse: true},
		"30m":   {After: 30 * time.Minute},
	} {
		if got, err := ParseAbsent(text); err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0s", "1s", "never", "9000h"} {
		if got, err := ParseAbsent(text); err == nil {
			t.Errorf("%q: %+v", text, got)
		}
	}
}
