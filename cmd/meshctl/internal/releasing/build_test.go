package releasing_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
)

func TestTheFirstReleaseIsStagedWhereThereAreMembers(t *testing.T) {
	meshDir := hometest.New(t, hometest.At(hometest.Start), "tyo")
	if made := hometest.MustRelease(t, meshDir, hometest.At(hometest.Start), 1, releasing.Options{}); made.Current || made.Release.Number != 1 {
		t.Fatalf("made %+v", made)
	}
	view := hometest.NewNode(t, meshDir).Verify()
	if view.Manifest.Current != nil || view.Manifest.Next.Number != 1 {
		t.Fatalf("published %v", view)
	}
	lonely := hometest.New(t, hometest.At(hometest.Start))
	if made := hometest.MustRelease(t, lonely, hometest.At(hometest.Start), 1, releasing.Options{}); !made.Current {
		t.Fatal("staged, where nobody would ever confirm it")
	}
}

func TestAReleaseThatIsTakenBackIsFollowedByAHigherNumber(t *testing.T) {
	meshDir := hometest.New(t, hometest.At(hometest.Start), "tyo")
	hometest.MustRelease(t, meshDir, hometest.At(hometest.Start), 1, releasing.Options{})
	made := hometest.MustRelease(t, meshDir, hometest.At(hometest.Start), 2, releasing.Options{})
	if made.Release.Number != 2 || made.Replaced != 1 {
		t.Fatalf("made %+v", made)
	}
}

func TestNowIsRefusedWhereMembersAnswer(t *testing.T) {
	meshDir := hometest.New(t, hometest.At(hometest.Start), "tyo")
	hometest.MustRelease(t, meshDir, hometest.At(hometest.Start), 1, releasing.Options{Now: true})
	h := hometest.Begin(t, meshDir, hometest.At(hometest.Start))
	defer h.Close()
	if _, _, err := releasing.Make(t.Context(), h, []releasing.Source{hometest.ZoneFile(t, 2)}, releasing.Options{Now: true}); err == nil {
		t.Fatal("members were made to answer differently")
	}
}

// TestAReleaseWithoutARecordIsPublished, once, and whoever made it is told both.
func TestAReleaseWithoutARecordIsPublished(t *testing.T) {
	meshDir := hometest.New(t, hometest.At(hometest.Start))
	hometest.Check(t, os.WriteFile(filepath.Join(meshDir, "state", "history"), nil, 0o600)) // where the directory of records is to be
	err := home.At(meshDir, hometest.At(hometest.Start)).Write(t.Context(), func(w *home.Writer) error {
		_, _, err := releasing.Make(t.Context(), w, []releasing.Source{hometest.ZoneFile(t, 1)}, releasing.Options{})
		return err
	})
	if err == nil || !strings.Contains(err.Error(), "release 1 is published, but its record could not be written: ") {
		t.Errorf("got %v", err)
	}
	if current := hometest.NewNode(t, meshDir).Verify().Manifest.Current; current == nil || current.Number != 1 {
		t.Errorf("published: %+v", current)
	}
}

// TestTheStepsOfAReleaseAreTimed: the clock goes on by a second whenever it is asked, and no second is lost or counted twice
// between the first step and the last, also where zones are built at the same time.
func TestTheStepsOfAReleaseAreTimed(t *testing.T) {
	for zones := 1; zones <= 3; zones++ {
		meshDir := hometest.New(t, hometest.At(hometest.Start))
		var seconds atomic.Int64
		h := hometest.Begin(t, meshDir, func() time.Time { return hometest.Start.Add(time.Duration(seconds.Add(1)) * time.Second) })
		sources := []releasing.Source{hometest.ZoneFile(t, 1)}
		for i := 1; i < zones; i++ {
			other := filepath.Join(t.TempDir(), "other.zone")
			hometest.Check(t, os.WriteFile(other, []byte(strings.ReplaceAll(string(hometest.ZoneText(1)), "example.org", fmt.Sprintf("example%d.com", i))), 0o600))
			sources = append(sources, releasing.Source{File: other})
		}
		_, found, err := releasing.Make(t.Context(), h, sources, releasing.Options{})
		hometest.Check(t, err)
		hometest.Check(t, h.Close())
		records, err := history.Last(t.Context(), home.At(meshDir, time.Now), 1)
		hometest.Check(t, err)
		var names []string
		built := records[0].Made.Sub(records[0].Began).Seconds() - 1 // that was the last look at the clock
		for _, s := range records[0].Timing {
			names = append(names, s.Name)
			if s.Name != "signed and published" {
				built -= s.Seconds
			}
			if s.Seconds <= 0 || zones == 1 && s.Seconds < 1 {
				t.Errorf("of %d zones: %s took %v s", zones, s.Name, s.Seconds)
			}
		}
		if got := strings.Join(names, ", "); got != "read, stored, zones before read, compared, checked, delta made, signed and published" {
			t.Errorf("the steps are %s: %v", got, found)
		}
		if math.Abs(built) > 1e-6 {
			t.Errorf("of %d zones: %v s are in no step, or in two: %v", zones, built, records[0].Timing)
		}
		for _, s := range records[0].Timing[:4] { // one look at the clock
			if zones == 1 && s.Seconds != 1 {
				t.Errorf("%s of a zone: %v s, want 1", s.Name, s.Seconds)
			}
		}
	}
}
