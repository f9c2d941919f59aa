package refresh

import (
	"fmt"
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
