package refresh

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
)

// TestManyZonesOneByOne: files of a directory that come one by one cost a step each, not a look at all zones; those below another source's are
// found all the same.
func TestManyZonesOneByOne(t *testing.T) {
	g := &Group{Servers: []string{"p"}}
	s := New(Config{Transfers: 1, Zones: []Zones{{[]string{"example."}, g}}, Directories: []Directory{{Path: "/z"}}}, nil)
	now := instant.Instant{Wall: epoch, Mono: 1}
	s.Begin(now)
	r := s.Decide(now).Actions[0].Round
	s.Finished(now, r, Found{Good: true, New: true, Record: r.Record})
	looks := 0
	for i := range 1000 {
		name := fmt.Sprintf("z%d.example.", i)
		if err := s.Claim(name, DirectoryOwner("/z")); err != nil {
			t.Fatal(err)
		}
		s.Filed(now, Found{Good: true, New: true, Record: Record{Origin: name, Owner: DirectoryOwner("/z")}})
		was := s.nesting.found
		d := s.Decide(now)
		if s.nesting.found != was {
			looks++
		}
		if d.Wait > nestingSpacing {
			t.Fatalf("it waits %v with zones that were not looked at", d.Wait)
		}
		now = instant.Instant{Wall: now.Wall.Add(time.Millisecond), Mono: now.Mono.Add(time.Millisecond)}
	}
	if looks > 2 {
		t.Errorf("%d looks at all zones within a second", looks)
	}
	now.Mono = now.Mono.Add(nestingSpacing)
	if d := s.Decide(now); len(d.Actions) != 1 || d.Actions[0].Do != Judge || len(d.Actions[0].Children) != 1000 {
		t.Errorf("%d actions", len(d.Actions))
	}
}

// TestFailingOfMany: those that fail, or are expired, are found among zones that are well.
func TestFailingOfMany(t *testing.T) {
	g := &Group{Servers: []string{"p"}}
	names := []string{"c.example.", "a.example.", "b.example.", "d.example."}
	s := New(Config{Transfers: len(names), Zones: []Zones{{names, g}}}, nil)
	now := instant.Instant{Wall: epoch, Mono: 1}
	s.Begin(now)
	rounds := map[string]*Round{}
	for _, a := range s.Decide(now).Actions {
		if a.Do == Start {
			rounds[a.Round.Record.Origin] = a.Round
		}
	}
	if len(rounds) != len(names) {
		t.Fatalf("%d rounds", len(rounds))
	}
	for name, r := range rounds {
		rec := r.Record
		rec.Serial, rec.Expire, rec.Contact = 1, 1000, now.Wall.Time()
		if name == "b.example." {
			rec.Expire = 10
		}
		s.Finished(now, r, Found{Good: true, New: true, Record: rec, Noted: rec.Contact})
	}
	if failing := s.Failing(now); len(failing) != 0 {
		t.Errorf("all are well, and these fail: %+v", failing)
	}
	s.zones["a.example."].err = "refused"
	s.zones["c.example."].err, s.zones["c.example."].unkept = "the disk is full", true // which Faults says
	now = instant.Instant{Wall: now.Wall.Add(time.Minute), Mono: now.Mono.Add(time.Minute)}
	failing := s.Failing(now)
	if len(failing) != 2 || failing[0].Zone != "a.example." || failing[0].Error != "refused" || failing[1].Zone != "b.example." || !failing[1].Expired {
		t.Errorf("%+v", failing)
	}
	for _, z := range s.Status(now) {
		if i := slices.IndexFunc(failing, func(f Status) bool { return f.Zone == z.Zone }); (i >= 0) != (z.Error != "" || z.Expired) {
			t.Errorf("of %+v the two are not of one mind", z)
		}
	}
	s.follow("0.example.", zonesOwner, g)
	s.withdraw(s.zones["d.example."])
	var order []string
	for _, z := range s.Status(now) {
		order = append(order, z.Zone)
	}
	if want := []string{"0.example.", "a.example.", "b.example.", "c.example."}; !slices.Equal(order, want) {
		t.Errorf("zones %v, want %v", order, want)
	}
}
