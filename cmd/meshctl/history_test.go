package main

import (
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
)

// TestTimingShowsWhoMissed: a member that made the switchover has its instant, and one that did not has a row that says why,
// also if it could not be asked for anything.
func TestTimingShowsWhoMissed(t *testing.T) {
	began := time.Date(2026, 11, 23, 9, 0, 0, 0, time.UTC)
	ready := &history.Span{Began: began.Add(time.Second), Done: began.Add(2 * time.Second)}
	var out strings.Builder
	c := &cli{out: &out}
	c.sayTiming(history.Record{Number: 7, Began: began, Switchover: began.Add(12 * time.Second), Results: []history.Result{
		{Member: "fra1", Switched: true, Lateness: 3 * time.Millisecond, Compiled: ready},
		{Member: "osa1", Why: "it is silent: no-lease: the lease has ended", Compiled: ready},
		{Member: "tyo1", Why: "it gave no answer: connection refused"},
	}})
	for _, want := range []string{
		"   +12.003 s  fra1 answers from it\n",
		"    +2.000 s  osa1 is ready\n",
		"     never    osa1 MISSED the switchover: it is silent: no-lease: the lease has ended\n",
		"     never    tyo1 MISSED the switchover: it gave no answer: connection refused\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	if strings.Contains(out.String(), "osa1 answers") || strings.Contains(out.String(), "fra1 MISSED") {
		t.Errorf("\n%s", out.String())
	}
}

// TestNoSwitchHasNoLateness: who answers from a release and made no switch at its instant, since it came later or had just started,
// is not said to have switched 0 µs late.
func TestNoSwitchHasNoLateness(t *testing.T) {
	words := resultsWords([]history.Result{{Member: "fra", Switched: true, Lateness: 3 * time.Microsecond}, {Member: "tyo", Switched: true, Joined: true}})
	if words != ": fra +3 µs, tyo answers from it, and made no switch at the instant" {
		t.Error(words)
	}
	_, moments := (&history.Record{Results: []history.Result{{Member: "tyo", Switched: true, Joined: true}}}).Moments()
	if len(moments) != 0 {
		t.Errorf("%v", moments)
	}
}
