package history_test

import (
	"fmt"
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

// Records are kept by how many there are, not by their numbers: those may leap, after the theft of a release key.
func TestRecordsAreKeptThoughNumbersLeap(t *testing.T) {
	dir := hometest.New(t, time.Now)
	hometest.MustRelease(t, dir, time.Now, 1, releasing.Options{})
	found, err := filepath.Glob(filepath.Join(dir, "*", "history"))
	hometest.Check(t, err)
	for number := range history.KeepRecords - 2 {
		hometest.Check(t, os.WriteFile(filepath.Join(found[0], fmt.Sprintf("%020d.json", number+2)), fmt.Appendf(nil, `{"number":%d}`, number+2), 0o600))
	}
	w := hometest.Begin(t, dir, time.Now)
	defer w.Close()
	for i, oldest := range []uint64{1, 2, 3} {
		hometest.Check(t, history.Remember(t.Context(), w, 1e15+uint64(i), func(*history.Record) {}))
		records, err := history.Last(t.Context(), home.At(dir, time.Now), 2*history.KeepRecords)
		hometest.Check(t, err)
		if len(records) != history.KeepRecords || records[0].Number != 1e15+uint64(i) || records[len(records)-1].Number != oldest {
			t.Errorf("%d records, from %d to %d", len(records), records[len(records)-1].Number, records[0].Number)
		}
	}
}
