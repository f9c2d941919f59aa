package releasing_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// TestZonesThatAreBuiltTogether are found fault with in the order of their files, as if one came after the other, and what is released of each can be
// read. Nothing is released while a file is no zone, or a zone is in two.
func TestZonesThatAreBuiltTogether(t *testing.T) {
	meshDir := hometest.New(t, hometest.At(hometest.Start))
	dir := t.TempDir()
	const count = 75
	write := func(i int, text string) releasing.Source {
		file := filepath.Join(dir, fmt.Sprintf("%02d.zone", i))
		hometest.Check(t, os.WriteFile(file, []byte(text), 0o644))
		return releasing.Source{File: file}
	}
	text := func(i int) string {
		return strings.ReplaceAll(string(hometest.ZoneText(1)), "example.org", fmt.Sprintf("z%02d.example", i))
	}
	var sources []releasing.Source
	for i := range count {
		switch {
		case i%20 == 5:
			sources = append(sources, write(i, "no zone\n"))
		case i%20 == 9:
			sources = append(sources, write(i, text(i-1)))
		case i == 40: // no small one
			sources = append(sources, write(i, text(i)+strings.Repeat("; comment\n", 10_000)))
		default:
			sources = append(sources, write(i, text(i)))
		}
	}
	make := func() (found []zone.Finding, made *releasing.Made, err error) {
		err = home.At(meshDir, hometest.At(hometest.Start)).Write(t.Context(), func(w *home.Writer) error {
			made, found, err = releasing.Make(t.Context(), w, sources, releasing.Options{})
			return err
		})
		return found, made, err
	}
	found, _, err := make()
	if blocked := new(releasing.BlockedError); !errors.As(err, &blocked) {
		t.Fatalf("error %v", err)
	}
	var faults []string
	for _, f := range found {
		if f.Severity == zone.Error {
			faults = append(faults, fmt.Sprintf("%s %s", filepath.Base(f.File), f.Detail))
		}
	}
	for i, want := range []string{"05", "09", "25", "29", "45", "49", "65", "69"} {
		if i >= len(faults) || !strings.HasPrefix(faults[i], want+".zone ") || want[1] == '9' && !strings.HasSuffix(faults[i], want[:1]+"8.zone has this zone too") {
			t.Fatalf("found %q", faults)
		}
	}
	for i := range count {
		if i%20 == 5 || i%20 == 9 {
			sources[i] = write(i, text(i))
		}
	}
	found, made, err := make()
	hometest.Check(t, err)
	if made.Release.Len() != count || len(made.Added) != count || zone.HasErrors(found) {
		t.Fatalf("%d zones, %v", made.Release.Len(), found)
	}
	repo, err := depot.Open(filepath.Join(meshDir, "repository"))
	hometest.Check(t, err)
	defer repo.Close()
	for z := range made.Release.All() {
		hometest.Check(t, repo.CheckBlob(z.Blob))
	}
	for i := range count {
		if want := fmt.Sprintf("z%02d.example.", i); made.Release.Zone(want) == nil || made.Changes[i].Origin != want || sources[i].Content != made.Release.Zone(want).Content() {
			t.Errorf("%s: %+v", want, made.Changes[i])
		}
	}
}
