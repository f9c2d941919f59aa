package unattended

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// TestStatusReadsHowFarServeIs: a check that waits for the test is seen through the socket as long as it lasts, with what it
// has done; without a serve there is nothing, and no error.
func TestStatusReadsHowFarServeIs(t *testing.T) {
	now := hometest.Start
	dir := hometest.New(t, hometest.At(now), "tyo")
	alarm := status.Reason{Code: AlarmHeld, Detail: "a. has errors"}
	read := func() []status.Progress {
		t.Helper()
		work, err := ReadWork(t.Context(), home.At(dir, time.Now))
		hometest.Check(t, err)
		if work == nil {
			return nil
		}
		if len(work.Alarms) != 1 || work.Alarms[0] != alarm {
			t.Errorf("alarms %v", work.Alarms)
		}
		return work.Progress
	}
	if work := read(); work != nil {
		t.Errorf("nothing runs: %+v", work)
	}
	c := cycleAt(dir, &now)
	s, err := ServeWork(home.At(dir, time.Now), c.Work, func() []status.Reason { return []status.Reason{alarm} })
	hometest.Check(t, err)
	defer s.Close()
	gate := filepath.Join(t.TempDir(), "gate")
	hometest.Check(t, syscall.Mkfifo(gate, 0o600))
	hometest.Configure(t, dir, fmt.Sprintf("checks:\n  command: [/bin/sh, -c, 'read line <%s']\n  command_timeout: 1m\n", gate))
	c.receives(t, hometest.NamesZone(t, "a.", 1, 100))
	c.receives(t, hometest.NamesZone(t, "b.", 1, 200))
	done := make(chan *releasing.Made)
	go func() {
		made, _ := c.release(t.Context())
		done <- made
	}()
	for _, want := range []status.Progress{
		{What: "checking", Subject: "a.", Done: 103, Of: 103, Unit: "records", Zone: 1, OfZones: 2},
		{What: "checking", Subject: "b.", Done: 203, Of: 203, Unit: "records", Zone: 2, OfZones: 2},
	} {
		hometest.WaitFor(t, want.String(), func() bool {
			work := read()
			if len(work) != 1 || work[0].Began == 0 {
				return false
			}
			work[0].Began, work[0].Seconds = 0, 0
			return work[0] == want
		})
		hometest.Check(t, os.WriteFile(gate, []byte("go\n"), 0))
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

// TestAServeThatIsGoneIsSaid: one that was killed leaves its socket, on which nobody answers. One that stopped leaves nothing, and is missed
// only where sources are configured.
func TestAServeThatIsGoneIsSaid(t *testing.T) {
	h := home.At(hometest.New(t, time.Now, "tyo"), time.Now)
	gone := func(sources bool) string {
		t.Helper()
		work, err := ReadWork(t.Context(), h)
		hometest.Check(t, err)
		if work != nil {
			t.Fatalf("nothing runs: %+v", work)
		}
		r, is := NotServing(h, sources)
		if is != (r.Code != "") || is && AlarmOf(r).Do == "" {
			t.Errorf("%v, %+v", is, AlarmOf(r))
		}
		return r.Code
	}
	expect := func(what string, manual, sources string) {
		t.Helper()
		if got := gone(false); got != manual {
			t.Errorf("%s: %q, want %q", what, got, manual)
		}
		if got := gone(true); got != sources {
			t.Errorf("%s, with sources: %q, want %q", what, got, sources)
		}
	}
	expect("none ran", "", AlarmNoServe)
	s, err := ServeWork(h, func() []status.Progress { return nil }, func() []status.Reason { return nil })
	hometest.Check(t, err)
	if work, err := ReadWork(t.Context(), h); err != nil || work == nil {
		t.Fatalf("one runs: %v, %v", work, err)
	}
	s.Close()
	expect("it was stopped", "", AlarmNoServe)
	t.Chdir(h.Path()) // the path of a unix socket is short
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: workSocket, Net: "unix"})
	hometest.Check(t, err)
	l.SetUnlinkOnClose(false)
	l.Close()
	expect("it was killed", AlarmServeEnded, AlarmServeEnded)
	if AlarmOf(status.Reason{Code: AlarmServeEnded}).Level != LevelError {
		t.Error("a killed serve is no error")
	}
}
