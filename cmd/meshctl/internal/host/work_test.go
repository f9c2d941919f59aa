package host

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// TestStatusReadsHowFarServeIs: a check that waits for the test is seen through the socket as long as it lasts, with what it
// has done; without a serve there is nothing, and no error.
func TestStatusReadsHowFarServeIs(t *testing.T) {
	now := testNow
	home := newHome(t, at(now), "tyo")
	read := func() []status.Progress {
		t.Helper()
		work, err := ReadWork(t.Context(), home)
		check(t, err)
		return work
	}
	if work := read(); work != nil {
		t.Errorf("nothing runs: %+v", work)
	}
	c := cycleAt(home, &now)
	s, err := ServeWork(home, c.Work)
	check(t, err)
	defer s.Close()
	gate := filepath.Join(t.TempDir(), "gate")
	check(t, syscall.Mkfifo(gate, 0o600))
	configure(t, home, fmt.Sprintf("checks:\n  command: [/bin/sh, -c, 'read line <%s']\n  command_timeout: 1m\n", gate))
	c.receives(t, namesZone(t, "a.", 1, 100))
	c.receives(t, namesZone(t, "b.", 1, 200))
	done := make(chan *Made)
	go func() {
		made, _ := c.release()
		done <- made
	}()
	for _, want := range []status.Progress{
		{What: "checking", Subject: "a.", Done: 103, Of: 103, Unit: "records", Zone: 1, OfZones: 2},
		{What: "checking", Subject: "b.", Done: 203, Of: 203, Unit: "records", Zone: 2, OfZones: 2},
	} {
		waitFor(t, want.String(), func() bool {
			work := read()
			if len(work) != 1 || work[0].Began == 0 {
				return false
			}
			work[0].Began, work[0].Seconds = 0, 0
			return work[0] == want
		})
		check(t, os.WriteFile(gate, []byte("go\n"), 0))
	}
	select {
	case made := <-done:
		if made == nil {
			t.Fatal("no release")
		}
	case <-time.After(time.Minute):
		t.Fatal("the release does not end")
	}
	if work := read(); len(work) != 0 {
		t.Errorf("it is done: %+v", work)
	}
}
