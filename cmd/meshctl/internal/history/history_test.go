package history_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
)

// A record that another process is writing, or has just removed, hides none of the others.
func TestLastWhileRecordsAreWritten(t *testing.T) {
	dir := hometest.New(t, time.Now)
	for serial := range uint32(3) {
		hometest.MustRelease(t, dir, time.Now, serial+1, releasing.Options{})
	}
	found, err := filepath.Glob(filepath.Join(dir, "*", "history"))
	hometest.Check(t, err)
	if len(found) != 1 {
		t.Fatalf("records are in %v", found)
	}
	hometest.Check(t, os.WriteFile(filepath.Join(found[0], ".tmp-1"), nil, 0o600))
	records, err := history.Last(t.Context(), home.At(dir, time.Now), 2)
	hometest.Check(t, err)
	if len(records) != 2 || records[0].Number != 3 || records[1].Number != 2 {
		t.Errorf("got %+v", records)
	}
}
