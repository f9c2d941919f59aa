package switchover

import (
	"fmt"
	"slices"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// resultsOf are how members fared with a release, and whether all are known that the switchover was not made without.
func resultsOf(members []release.Member, without []string, answers map[string]Answer, number uint64) (results []history.Result, all bool) {
	all = true
	for _, m := range members {
		r := resultOf(m.Name, answers[m.Name], number)
		results = append(results, r)
		all = all && (r.Switched || slices.Contains(without, m.Name))
	}
	return results, all
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
