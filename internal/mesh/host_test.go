package mesh

import (
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// A lease that names a switchover which was found void lasts to its end, also where an operator has made a later one shorter:
// who holds it answers from the release before all that time.
func TestLapsedByVoid(t *testing.T) {
	const minute = instant.Wall(time.Minute)
	now, first, second := 100*minute, status.Ref{Number: 2, At: 110 * minute}, status.Ref{Number: 2, At: 120 * minute}
	s := State{Current: Release{Ref: status.Ref{Number: 1}}, Next: Switchover{Ref: first}}
	s = s.Granted(now, time.Hour).withdrawn().Granted(now+minute, 5*time.Minute)
	s.Next.Ref = second
	s = s.Granted(now+2*minute, time.Hour)
	if got, want := s.LapsedBy(second), now+60*minute; got != want {
		t.Errorf("all that does not know of the second switchover has ended by %v, not %v", want, got)
	}
}
