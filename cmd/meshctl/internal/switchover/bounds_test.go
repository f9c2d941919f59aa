package switchover

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/sidecar/config"
)

// wellWord is what a member says that is well, and slow: nothing of it is out of bounds.
func wellWord() status.Confirmation {
	now := instant.WallOf(time.Now())
	return status.Confirmation{Version: status.Version, Node: "tyo", Mesh: "jp", At: now, Serving: 7, Lease: 12, LeaseExpires: now.Add(time.Hour),
		Hears: config.MaxMirrorInterval + config.MaxMirrorInterval/10 + time.Minute, Untold: 300 * 24 * time.Hour,
		Clock:        status.ClockState{Known: true, Bound: 10 * time.Second, Source: "chrony"},
		Switched:     &status.Switched{Number: 7, At: now.Add(-time.Minute), Done: now.Add(-time.Minute + 40*time.Microsecond), Lateness: 40 * time.Microsecond},
		Mirrored:     &status.Step{Number: 7, Began: now.Add(-time.Hour), Done: now, Bytes: 1 << 40},
		Compiled:     &status.Step{Number: 7, Began: now, Done: now},
		Compiling:    &status.Compiling{Number: 8, Zones: 3, Of: 100_000, Records: 5, Seconds: 3600},
		Transferring: &status.Progress{What: "transferring", Done: 5, Unit: "bytes", Began: now, Seconds: 0.1},
		Warnings:     []status.Reason{{Code: status.ClockHoldover, Detail: strings.Repeat("é", status.MaxText/2)}},
		Refused:      []status.Refused{{Number: 8, Reason: status.Reason{Code: "checks", Detail: "a zone"}}},
		Sessions:     []status.Session{{Neighbor: "192.0.2.1", Announced: []string{"198.51.100.1/32"}}}}
}

// TestWhatAMemberSaysIsBounded: what no member says that is well counts as not said, whichever it is, and is a warning of that member. All else is as it
// said it.
func TestWhatAMemberSaysIsBounded(t *testing.T) {
	slow := wellWord()
	var well, said status.Confirmation
	for _, c := range []*status.Confirmation{&well, &said} {
		word, err := json.Marshal(slow)
		hometest.Check(t, err)
		hometest.Check(t, status.Decode(word, c))
	}
	if bounded(&said); !reflect.DeepEqual(said, well) {
		t.Errorf("of what a member says that is well\n%+v\n%+v is left", well, said)
	}
	const least, most = math.MinInt64, math.MaxInt64
	for name, test := range map[string]struct {
		lie  func(c *status.Confirmation)
		said string // in the warning
		left func(c status.Confirmation) bool
	}{
		"it hears in a year":        {func(c *status.Confirmation) { c.Hears = 365 * 24 * time.Hour }, "8760h0m0s", func(c status.Confirmation) bool { return c.Hears == 0 }},
		"it hears in the past":      {func(c *status.Confirmation) { c.Hears = -1 }, "-1ns", func(c status.Confirmation) bool { return c.Hears == 0 }},
		"its clock has no bound":    {func(c *status.Confirmation) { c.Clock.Bound = most }, "clock", func(c status.Confirmation) bool { return !c.Clock.Known && c.Clock.Bound == 0 }},
		"nor at the other end":      {func(c *status.Confirmation) { c.Clock.Bound = least }, "clock", func(c status.Confirmation) bool { return !c.Clock.Known && c.Clock.Reason != "" }},
		"it speaks before 1970":     {func(c *status.Confirmation) { c.At = least }, "at_ns", func(c status.Confirmation) bool { return c.At == 0 }},
		"it speaks in 2262":         {func(c *status.Confirmation) { c.At = most }, "at_ns", func(c status.Confirmation) bool { return c.At == 0 }},
		"its lease ended in 1700":   {func(c *status.Confirmation) { c.LeaseExpires = least }, "lease_expires_ns", func(c status.Confirmation) bool { return c.LeaseExpires == 0 }},
		"it is not told for ever":   {func(c *status.Confirmation) { c.Untold = most }, "untold_ns", func(c status.Confirmation) bool { return c.Untold == 0 }},
		"it switched for ever":      {func(c *status.Confirmation) { c.Switched.Lateness = most }, "switched", func(c status.Confirmation) bool { return c.Switched == nil }},
		"it switched in no time":    {func(c *status.Confirmation) { c.Switched.Lateness = least }, "switched", func(c status.Confirmation) bool { return c.Switched == nil }},
		"it was late, and was not":  {func(c *status.Confirmation) { c.Switched.Lateness = time.Hour }, "switched", func(c status.Confirmation) bool { return c.Switched == nil }},
		"at the ends of time":       {func(c *status.Confirmation) { c.Switched.At, c.Switched.Done = most, least }, "switched", func(c status.Confirmation) bool { return c.Switched == nil }},
		"it got it in 2262":         {func(c *status.Confirmation) { c.Mirrored.Done = most }, "got", func(c status.Confirmation) bool { return c.Mirrored == nil && c.Compiled != nil }},
		"it got less than nothing":  {func(c *status.Confirmation) { c.Mirrored.Bytes = least }, "got", func(c status.Confirmation) bool { return c.Mirrored == nil }},
		"it compiles backwards":     {func(c *status.Confirmation) { c.Compiling.Records = -1 }, "compiles", func(c status.Confirmation) bool { return c.Compiling == nil }},
		"less than nothing comes":   {func(c *status.Confirmation) { c.Transferring.Of = least }, "has 5 of", func(c status.Confirmation) bool { return c.Transferring == nil }},
		"it promises the year 2262": {func(c *status.Confirmation) { c.Promise.At = most }, "promise.at_ns", func(c status.Confirmation) bool { return c.Promise.At == 0 }},
		"it confirms a time before": {func(c *status.Confirmation) { c.Confirms.Scheduled = &status.Ref{Number: 7, At: least} }, "confirms.scheduled.at_ns", func(c status.Confirmation) bool { return c.Confirms.Scheduled.At == 0 }},
		"it refuses all there is":   {func(c *status.Confirmation) { c.Refused = make([]status.Refused, 100_000) }, "refused has 100000", func(c status.Confirmation) bool { return cap(c.Refused) == maxList }},
		"it warns of all there is":  {func(c *status.Confirmation) { c.Warnings = make([]status.Reason, maxList+1) }, "warnings has 257", func(c status.Confirmation) bool { return len(c.Warnings) == maxList+1 }},
		"it announces all there is": {func(c *status.Confirmation) { c.Sessions[0].Announced = make([]string, 1000) }, "sessions.announced has 1000", func(c status.Confirmation) bool { return len(c.Sessions[0].Announced) == maxList }},
	} {
		c := wellWord()
		test.lie(&c)
		bounded(&c)
		if !test.left(c) {
			t.Errorf("%s: %+v", name, c)
		}
		last := c.Warnings[len(c.Warnings)-1]
		if last.Code != status.Implausible || !strings.Contains(last.Detail, test.said) {
			t.Errorf("%s: warned of %v", name, last)
		}
		if again := len(c.Warnings); again <= maxList {
			if bounded(&c); len(c.Warnings) != again {
				t.Errorf("%s: it is not bounded yet: %v", name, c.Warnings)
			}
		}
	}
	// The clock was set meanwhile: at its first start the member's machine was in 1970, or ahead.
	c := wellWord()
	c.Mirrored.Began, c.Compiled.Began = 1, c.Compiled.Done+1
	c.Switched.Done, c.Switched.Lateness = c.Switched.At-1, -1
	if bounded(&c); c.Mirrored != nil || c.Compiled != nil || c.Switched != nil || len(c.Warnings) != 1 {
		t.Errorf("of a clock that was set is left %+v, %+v and %+v, and it is warned of in %v", c.Mirrored, c.Compiled, c.Switched, c.Warnings)
	}
	c = wellWord()
	c.MirrorError = strings.Repeat("é", status.MaxText)
	if bounded(&c); len(c.MirrorError) > status.MaxText || !utf8.ValidString(c.MirrorError) || !strings.HasSuffix(c.MirrorError, "é…") || len(c.Warnings) != 1 {
		t.Errorf("a long text is %d octets, and warned of in %v", len(c.MirrorError), c.Warnings)
	}
}

// TestNoMemberMakesALeadLong: whatever a member says of how long it needs to hear, the lead is no longer than that of a mesh whose members look once in
// an hour; and no shorter than that of a mesh that says nothing, if what it says cannot be.
func TestNoMemberMakesALeadLong(t *testing.T) {
	lead := func(hears time.Duration) time.Duration {
		now := instant.Instant{Wall: instant.WallOf(time.Now()), Mono: instant.Mono(time.Hour)}
		c := status.Confirmation{Mesh: "jp", At: now.Wall, Clock: status.ClockState{Known: true}, Hears: hears}
		bounded(&c)
		h := mesh.NewHost(mesh.Policy{Lease: time.Hour})
		h.Read(mesh.State{Mesh: "jp", Epsilon: time.Millisecond, Members: []string{"tyo"}})
		h.Asked(words(map[string]Answer{"tyo": {Confirmation: c}}), now, now)
		return h.Lead()
	}
	silent, slow := lead(0), lead(maxHears)
	if slow < 2*maxHears {
		t.Errorf("the lead is %v where a member hears within %v", slow, maxHears)
	}
	for _, lie := range []time.Duration{math.MinInt64, -time.Hour, -1, maxHears + 1, 365 * 24 * time.Hour, math.MaxInt64} {
		if got := lead(lie); got != silent {
			t.Errorf("a member hears within %v, and the lead is %v, not %v", lie, got, silent)
		}
	}
	if got, most := lead(config.MaxMirrorInterval*11/10), 3*time.Hour; got <= silent || got > most {
		t.Errorf("the lead is %v where a member looks once in an hour", got)
	}
}

// FuzzBounded: whatever a member says, what is left of it is in bounds, and of no size that it chooses.
func FuzzBounded(f *testing.F) {
	word, err := json.Marshal(wellWord())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(word)
	for _, field := range []string{"hears_ns", "at_ns", "untold_ns", "lease_expires_ns"} {
		f.Add(fmt.Appendf(nil, `{"version":1,%q:%d,"clock":{"known":true,"bound_ns":%d},"switched":{"number":1,"at_ns":1,"lateness_ns":%d}}`, field, math.MinInt64, math.MaxInt64, math.MinInt64))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var c status.Confirmation
		if len(data) > maxWord || status.Decode(data, &c) != nil {
			return
		}
		bounded(&c)
		if c.Warnings = slices.DeleteFunc(c.Warnings, func(r status.Reason) bool { return r.Code == status.Implausible }); c.Hears < 0 || c.Hears > maxHears {
			t.Errorf("it hears within %v", c.Hears)
		}
		before := len(c.Warnings)
		if bounded(&c); len(c.Warnings) != before {
			t.Errorf("it is not bounded: %v", c.Warnings[before:])
		}
	})
}
