package switchover

import (
	"fmt"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

const (
	// resultPatience is how long after the switchover members may take to say how it went.
	resultPatience = 5 * time.Second
	// leftPatience is how long one may that the switchover was made without, if it is about to make it: others that are as well take a moment. One
	// that cannot, for want of a disk or a clock, must not hold up each release for longer.
	leftPatience = time.Second
)

// resultsOf are how members fared with a release, and how long after the switchover those may take that did not make it yet. A member that the
// switchover was made without is asked again only if it answers and has the release: it may be away, or lack the release, for hours.
func resultsOf(members []release.Member, without []string, answers map[string]Answer, number uint64) (results []history.Result, patience time.Duration) {
	for _, m := range members {
		a := answers[m.Name]
		r := resultOf(m.Name, a, number)
		switch left := slices.Contains(without, m.Name); {
		case r.Switched:
		case !left:
			patience = resultPatience
		case left:
			r.Why = "the switchover was made without it: " + r.Why
			if a.Err == nil && a.Confirmation.Serving != 0 && a.Confirmation.Confirms.Staged == number {
				patience = max(patience, leftPatience)
			}
		}
		results = append(results, r)
	}
	return results, patience
}

func resultOf(name string, a Answer, number uint64) history.Result {
	r := history.Result{Member: name, Mirrored: history.SpanOf(a.Confirmation.Mirrored, number), Compiled: history.SpanOf(a.Confirmation.Compiled, number)}
	switch c := a.Confirmation; {
	case a.Err != nil:
		r.Why = "it gave no answer: " + a.Err.Error()
	case c.Serving == number:
		r.Switched = true
		late, made := c.Switched.Late(number)
		r.Lateness, r.Joined = late, !made
	case c.Serving == 0:
		r.Why = "it is silent" + join(c.Silent)
	default:
		r.Why = fmt.Sprintf("it answers from release %d", c.Serving)
	}
	return r
}

func join(reasons []status.Reason) string {
	text := ""
	for _, r := range reasons {
		text += ": " + r.String()
	}
	return text
}
