package refresh

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
)

// TestRoundsAreSpread: over a thousand zones and many rounds of one, within an eighth, and neither all at one time.
func TestRoundsAreSpread(t *testing.T) {
	c := Config{Spread: 7, Timers: Timers{MinRefresh: 30 * time.Second, MaxRefresh: 24 * time.Hour, MinRetry: 10 * time.Second, MaxRetry: 6 * time.Hour}}
	rec := Record{Refresh: 3600, Retry: 900, Expire: 1209600}
	now := instant.Instant{Wall: epoch, Mono: 1}
	tenths := map[int]int{} // of the eighth
	for i := range 1000 {
		z := &followed{origin: fmt.Sprintf("z%d.test.", i), rec: rec, loaded: true, rounds: uint64(i % 3)}
		wait := z.wait(c, now)
		if wait > time.Hour || wait < time.Hour*7/8 {
			t.Fatalf("%s waits %v", z.origin, wait)
		}
		tenths[int((time.Hour-wait)*10/(time.Hour/8+1))]++
	}
	for i := range 10 {
		if tenths[i] < 50 {
			t.Errorf("%d of a thousand in tenth %d", tenths[i], i)
		}
	}
	z := &followed{origin: "z.test.", rec: rec, loaded: true}
	first := z.wait(c, now)
	if z.rounds++; z.wait(c, now) == first {
		t.Error("a zone waits equally long each time")
	}
}

// TestHowAZoneIsWrittenIsTakenOver also from a round that confirms nothing: it may have cut the journal before what came could not be kept.
func TestHowAZoneIsWrittenIsTakenOver(t *testing.T) {
	const origin = "example."
	held := Record{Origin: origin, SHA256: "text", Length: 100, Journal: Journal{Name: "one", Steps: 9, Octets: 900, Link: "link"},
		Serial: 5, How: IXFR, From: "p", Expire: 1209600, Contact: epoch.Time()}
	s := New(Config{Transfers: 1, Zones: []Zones{{[]string{origin}, &Group{Servers: []string{"p"}}}}}, []Record{held})
	now := instant.Instant{Wall: epoch, Mono: 1}
	s.Begin(now)
	round := func() *Round {
		t.Helper()
		for _, a := range s.Decide(now).Actions {
			if a.Do == Start {
				return a.Round
			}
		}
		t.Fatal("no round begins")
		return nil
	}
	r := round()
	r.Record.SHA256, r.Record.Length, r.Record.Journal = "another text", 110, Journal{Name: "two", Steps: 1, Octets: 100, Link: "other"}
	r.SOA(6)
	if !r.Came(6) {
		t.Fatal("serial 6 is not to be kept")
	}
	r.NotKept(errors.New("the disk is full"))
	s.Finished(now, r, Found{Record: r.Record, Problems: r.Problems()})
	want := held
	want.SHA256, want.Length, want.Journal = r.Record.SHA256, r.Record.Length, r.Record.Journal
	if got, ok := s.Held(origin); !ok || got != want {
		t.Errorf("held is %+v", got)
	}
	now = instant.Instant{Wall: now.Wall.Add(time.Hour), Mono: now.Mono.Add(time.Hour)}
	if r := round(); r.Record.Journal != want.Journal || r.Record.SHA256 != want.SHA256 {
		t.Errorf("the next round begins with %+v", r.Record)
	}
}
