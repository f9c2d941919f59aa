package switchover

import (
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// What a member says of itself is not signed, and may come of a fault of its, or of who stole its key. It is bounded here, where it comes in, to what
// a member can say that is well, so that a host that reckons with it, or draws it, is held up by none. What is out of bounds counts as not said,
// and is a warning of that member (status.Implausible). Two instants of its clock that contradict each other count as not said, and are no warning: the
// clock was set between them, as that of a machine which begins in 1970 is.
const (
	maxWord = 1 << 20 // octets of a confirmation; that of a member with many sessions has some ten thousand
	maxList = 256     // entries of a list in it, as of sessions
	// maxHears is the longest that a member may say that it needs to hear of something: its mirror looks once in an hour at the least
	// (config.MaxMirrorInterval) and a tenth later, and a round takes minutes at the most.
	maxHears = 75 * time.Minute
	// maxBound is the most by which a clock that is known may be wrong.
	maxBound = 24 * time.Hour
	// maxSpan bounds all other lengths of time, and maxWall all instants (the year 2200), so that none of their sums and differences overflows.
	maxSpan = 10 * 365 * 24 * time.Hour
	maxWall = instant.Wall(7_258_118_400 * int64(time.Second))
	// maxStep is the longest that a release may take to come to a member, or to be compiled there.
	maxStep = 365 * 24 * time.Hour
	// lateSlack is by how much the lateness of a switchover and its two instants may differ.
	lateSlack = time.Second
)

// bounded bounds what a member says.
func bounded(c *status.Confirmation) {
	var faults []string
	implausible := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	if h := c.Hears; h < 0 || h > maxHears {
		implausible("it hears of something new within %v", h)
		c.Hears = 0
	}
	if b := c.Clock.Bound; b < 0 || b > maxBound {
		implausible("its clock is wrong by %v at the most", b)
		c.Clock = status.ClockState{Reason: fmt.Sprintf("it says that its clock is wrong by %v at the most", b)}
	}
	if s := c.Switched; s != nil && !timely(*s) {
		if !sane(s.At) || !sane(s.Done) || s.Done >= s.At {
			implausible("it switched to release %d at %v for %v, %v late", s.Number, s.Done, s.At, s.Lateness)
		}
		c.Switched = nil
	}
	for i, step := range []**status.Step{&c.Mirrored, &c.Compiled} {
		what := []string{"got", "compiled"}[i]
		switch s := *step; {
		case s == nil:
		case !sane(s.Began), !sane(s.Done), s.Bytes < 0:
			implausible("it %s release %d from %v to %v, %d bytes", what, s.Number, s.Began, s.Done, s.Bytes)
			*step = nil
		case s.Done < s.Began, s.Done.Sub(s.Began) > maxStep:
			*step = nil
		}
	}
	if p := c.Compiling; p != nil && (min(p.Zones, p.Of) < 0 || min(p.Records, p.Octets, p.OfAll) < 0 || p.Seconds < 0) {
		implausible("it compiles %d of %d zones, %d records, %d of %d octets", p.Zones, p.Of, p.Records, p.Octets, p.OfAll)
		c.Compiling = nil
	}
	if p := c.Transferring; p != nil && (min(p.Zone, p.OfZones) < 0 || min(p.Done, p.Of) < 0 || p.Seconds < 0) {
		implausible("it has %d of %d %s", p.Done, p.Of, p.Unit)
		c.Transferring = nil
	}
	bound("", reflect.ValueOf(c).Elem(), implausible)
	if len(faults) > 0 {
		c.Warnings = append(c.Warnings, status.Reason{Code: status.Implausible, Detail: status.Cut("what it says of itself cannot be, and counts as not said: " + strings.Join(faults, "; "))})
	}
}

func sane(w instant.Wall) bool { return w >= 0 && w <= maxWall }

// timely reports whether a switchover was made when it can have been: not before its instant, and as late as its instants tell.
func timely(s status.Switched) bool {
	if !sane(s.At) || !sane(s.Done) || s.Lateness < 0 || s.Lateness > maxSpan {
		return false
	}
	late, made := s.Late(s.Number)
	return !made || (late-s.Done.Sub(s.At)).Abs() <= lateSlack
}

// bound bounds all instants, lengths of time, lists and texts in v, which is called name.
func bound(name string, v reflect.Value, implausible func(format string, args ...any)) {
	switch x := v.Addr().Interface().(type) {
	case *instant.Wall:
		if !sane(*x) {
			implausible("%s is %d", name, int64(*x))
			*x = 0
		}
		return
	case *time.Duration:
		if *x < 0 || *x > maxSpan {
			implausible("%s is %v", name, *x)
			*x = 0
		}
		return
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(status.Cut(v.String()))
	case reflect.Slice:
		if n := v.Len(); n > maxList {
			implausible("%s has %d entries", name, n)
			v.Set(reflect.AppendSlice(reflect.MakeSlice(v.Type(), 0, maxList), v.Slice(0, maxList))) // what is left out can be let go of
		}
		for i := range v.Len() {
			bound(name, v.Index(i), implausible)
		}
	case reflect.Pointer:
		if !v.IsNil() {
			bound(name, v.Elem(), implausible)
		}
	case reflect.Struct:
		for i := range v.NumField() {
			field, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("json"), ",")
			bound(strings.TrimPrefix(name+"."+field, "."), v.Field(i), implausible)
		}
	}
}
