package refresh

import (
	"container/heap"
	"encoding/binary"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
)

// notifySpacing is the least time between two rounds of a zone that NOTIFY messages make: a storm of them is one round.
const notifySpacing = time.Second

// start begins the rounds that are due, and says how long it is to the next one.
func (s *Secondary) start(now instant.Instant) time.Duration {
	for {
		z, wait := s.next(now.Mono)
		if z == nil {
			return wait
		}
		z.leave().running++
		s.running++
		z.running, z.began = true, now
		z.rounds++
		r := &Round{Record: z.rec, Held: z.loaded, Group: z.group, Noted: z.noted, Reset: z.reset}
		if !z.loaded {
			r.Record = Record{}
		}
		r.Record.Origin, r.Record.Owner, r.Record.Unique, r.Record.Catalog = z.origin, z.owner, z.unique, z.catalog != nil
		s.act(Action{Do: Start, Origin: z.origin, Round: r})
	}
}

// plan sets when a zone is asked for next.
func (s *Secondary) plan(z *followed, at instant.Mono) {
	z.due = at
	if z.group != nil && !z.running {
		z.leave()
		heap.Push(s.line(z.group), z)
	}
}

// Found is what a round found, or a file.
type Found struct {
	Good     bool              // what is held now was confirmed
	New      bool              // it has new content
	Record   Record            // of what is held now, and how it is written: that a round may change also where nothing is confirmed
	Noted    time.Time         // its Contact as it is on disk
	Reset    bool              // the zone began anew with it
	Problems string            // what went wrong; with Good, a warning
	Odd      []string          // what of new content was not taken as it came
	Members  map[string]Member // of a catalog with new content

	unkept bool // something newer came, which cannot be written
}

// Finished says what a round of a zone found. It reports whether that counts: it does not if the zone was withdrawn meanwhile, or is to
// begin anew since.
func (s *Secondary) Finished(now instant.Instant, r *Round, f Found) bool {
	z := s.zones[r.Record.Origin]
	s.running--
	s.line(r.Group).running--
	z.running = false
	if z.gone {
		s.withdraw(z)
		s.reconcile(now) // it may be listed again
		return false
	}
	f.unkept = r.unkept
	counts := r.Reset || !z.reset
	if counts {
		s.judge(now, z, f)
	}
	if s.config.Once && !z.again {
		return counts
	}
	next := now.Mono.Add(z.wait(s.config, now))
	if z.again {
		z.again, next = false, z.began.Mono.Add(notifySpacing)
	}
	s.plan(z, next)
	return counts
}

// judge takes what was found into the zone's state.
func (s *Secondary) judge(now instant.Instant, z *followed, f Found) {
	z.warning, z.err, z.unkept = "", "", f.unkept
	s.Fault(Fault{HostDisk, z.origin}, "")
	if !f.Good {
		z.failures++
		z.err = f.Problems
		z.rec.SHA256, z.rec.Length, z.rec.Journal = f.Record.SHA256, f.Record.Length, f.Record.Journal
		if z.unkept {
			s.Fault(Fault{HostDisk, z.origin}, z.err)
		}
		s.say(Warn, "not received", "zone", z.origin, "error", z.err, "failures", z.failures)
		if z.loaded && !z.expired && z.left(now) <= 0 {
			z.expired = true
			s.say(Error, "EXPIRED: no primary has confirmed this zone for as long as its SOA allows; what is released stays released",
				"zone", z.origin, "since", z.rec.Contact, "expire_seconds", z.rec.Expire)
		}
		return
	}
	if z.warning = f.Problems; z.warning != "" {
		s.say(Warn, "a primary failed", "zone", z.origin, "error", z.warning)
	}
	if f.New {
		if z.odd = strings.Join(f.Odd, "; "); z.odd != "" {
			s.say(Warn, "received, and not as it came", "zone", z.origin, "what", z.odd)
		}
	}
	z.warning = joined(z.warning, z.odd)
	if z.expired {
		s.say(Info, "confirmed again after it had expired", "zone", z.origin)
	}
	z.failures, z.expired, z.reset = 0, false, false
	z.rec, z.loaded, z.noted, z.confirmed = f.Record, true, f.Noted, now
	switch {
	case !f.New:
	case z.catalog != nil:
		s.list(z.origin, f.Members)
		s.reconcile(now)
	case s.nesting.children[z.origin] != nil && !slices.Contains(s.nesting.due, z.origin):
		s.nesting.due = append(s.nesting.due, z.origin)
	}
}

// joined is what is said of several things.
func joined(said ...string) string {
	var list []string
	for _, what := range said {
		if what != "" {
			list = append(list, what)
		}
	}
	return strings.Join(list, "; ")
}

// contact is when a primary last confirmed what is held, by the wall clock as it is now: it may have stepped since.
func (z *followed) contact(now instant.Instant) time.Time {
	if z.confirmed == (instant.Instant{}) {
		return z.rec.Contact
	}
	if step := now.Wall.Sub(z.confirmed.Wall) - now.Mono.Sub(z.confirmed.Mono); step.Abs() > instant.StepTolerance {
		return z.rec.Contact.Add(step)
	}
	return z.rec.Contact
}

// expires is when a zone is too old without contact, in wall time (RFC 1035 3.3.13).
func (z *followed) expires(now instant.Instant) time.Time { return z.contact(now).Add(z.rec.expire()) }

// left is how long it is until then.
func (z *followed) left(now instant.Instant) time.Duration {
	return z.expires(now).Sub(now.Wall.Time())
}

// wait is how long it is to the next round: the SOA's refresh after a good one, and its retry, doubled each time, after a
// bad one; never later than when the zone expires, so that this is said in time.
func (z *followed) wait(c Config, now instant.Instant) time.Duration {
	t := c.Timers
	refresh, retry := t.MinRefresh, t.MinRetry
	if z.loaded {
		refresh = min(max(time.Duration(z.rec.Refresh)*time.Second, t.MinRefresh), t.MaxRefresh)
		retry = min(max(time.Duration(z.rec.Retry)*time.Second, t.MinRetry), t.MaxRetry)
	}
	wait := refresh
	switch {
	case z.unkept: // the primary is well
		wait = t.MinRetry
	case z.failures > 0:
		wait = min(retry<<min(z.failures-1, 10), max(retry, refresh))
	}
	wait -= z.spread(c.Spread, wait/8)
	if left := z.left(now); z.loaded && z.failures > 0 && !z.expired && left > 0 {
		wait = min(wait, left)
	}
	return wait
}

// spread is a part of most, another for each zone and each round of it.
func (z *followed) spread(seed uint64, most time.Duration) time.Duration {
	if seed == 0 {
		return 0
	}
	h := fnv.New64a()
	h.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64([]byte(z.origin), seed), z.rounds))
	return time.Duration(h.Sum64() % uint64(most+1))
}

// Notified takes a NOTIFY that whoever may has sent of a zone (RFC 1996): it is asked for at once, or once more if that is under way. The
// serial that may come with it is a hint to anybody who can forge one, and ignored.
func (s *Secondary) Notified(now instant.Instant, origin string) {
	z := s.zones[origin]
	switch next := z.began.Mono.Add(notifySpacing); {
	case z.running:
		z.again = true
	case now.Mono < next:
		s.plan(z, next)
	default:
		s.plan(z, now.Mono)
	}
}

// Group is whom a zone is asked of, nil if nobody is.
func (s *Secondary) Group(origin string) *Group {
	if z := s.zones[origin]; z != nil {
		return z.group
	}
	return nil
}
