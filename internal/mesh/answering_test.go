package mesh

import (
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// What is answered from between two decisions goes by the clock that does not step, and ends when the two do not run alike.
func TestAnswering(t *testing.T) {
	began := instant.Instant{Wall: epoch, Mono: instant.Mono(time.Hour)}
	at := func(d time.Duration) instant.Wall { return epoch.Add(d) }
	switches := Decision{Serve: 1, Until: at(time.Second), Then: status.Ref{Number: 2}, Lapse: at(3 * time.Second)}
	for name, c := range map[string]struct {
		d          Decision
		mono, wall time.Duration // since it was decided
		want       uint64
	}{
		"silence":                        {Decision{}, 0, 0, 0},
		"at once":                        {switches, 0, 0, 1},
		"before the instant":             {switches, time.Second - 1, time.Second - 1, 1},
		"at the instant":                 {switches, time.Second, time.Second, 2},
		"until the lease ends":           {switches, 3*time.Second - 1, 3*time.Second - 1, 2},
		"the lease has ended":            {switches, 3 * time.Second, 3 * time.Second, 0},
		"the clock steps past it":        {switches, time.Second / 2, time.Second, 0},
		"the clock steps back":           {switches, time.Second, time.Second / 2, 0},
		"it steps back after":            {switches, 2 * time.Second, time.Second, 0},
		"hardly a step, and not past it": {switches, time.Second - 1, time.Second + 9*time.Millisecond, 1},
		"hardly a step, and past it":     {switches, time.Second, time.Second - 9*time.Millisecond, 2},
		"nothing follows":                {Decision{Serve: 1, Until: at(time.Second)}, time.Second, time.Second, 0},
		"nothing is decided for long":    {Decision{Serve: 1, Until: at(time.Hour)}, Stall, Stall, 0},
		"not yet for long":               {Decision{Serve: 1, Until: at(time.Hour)}, Stall - 1, Stall - 1, 1},
		"nor after a switchover": {Decision{Serve: 1, Until: at(time.Second), Then: status.Ref{Number: 2}, Lapse: at(time.Hour)},
			Stall, Stall, 0},
		"nor a switchover after that": {Decision{Serve: 1, Until: at(Stall), Then: status.Ref{Number: 2}, Lapse: at(time.Hour)}, Stall, Stall, 0},
	} {
		got := uint64(0)
		if on := c.d.Answering(began).On(instant.Instant{Wall: began.Wall.Add(c.wall), Mono: began.Mono.Add(c.mono)}); on != nil {
			got = on.Number
		}
		if got != c.want {
			t.Errorf("%s: it answers from %d, not %d", name, got, c.want)
		}
	}
	if later := switches.Answering(began).On(instant.Instant{Wall: at(time.Second), Mono: began.Mono.Add(time.Second)}).On(began); later.Number != 2 {
		t.Error("what follows goes back")
	}
}
