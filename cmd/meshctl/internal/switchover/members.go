package switchover

import (
	"context"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/history"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// MemberState is how a member is, as this host knows it from the last round, and how it fared with the releases of which it
// spoke since this process began. Numbers are those of releases; 0 is none.
type MemberState struct {
	Name    string
	Answers bool   // it answered in the last round; what follows is from the last round in which it did
	Serving uint64 // it answers from this release; 0 while it is silent
	Staged  uint64 // the highest release that it has ready

	Published uint64        // the last release that it made ready,
	Latency   time.Duration // how long after the publication, by its clock and this host's,
	Switched  uint64        // the last release that it switched to,
	Lateness  time.Duration // and how long after the instant, by its clock
}

// newest is the last release that was published.
type newest struct {
	number    uint64
	published time.Time // zero: not known
	looked    int       // how often its record was looked for
}

// recordLooks is how many rounds look for a release's record, which is written soon after the release, if at all.
const recordLooks = 5

// follow keeps how members are. It is called in each round.
func (d *Driver) follow(ctx context.Context, m release.Manifest, answers map[string]Answer) {
	if latest := m.Latest(); latest != nil {
		if latest.Number != d.newest.number {
			d.newest = newest{number: latest.Number}
		}
		if d.newest.published.IsZero() && d.newest.looked < recordLooks {
			d.newest.published = d.publishedAt(ctx, latest.Number)
			d.newest.looked++
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	before := map[string]MemberState{}
	for _, s := range d.state.Members {
		before[s.Name] = s
	}
	all := make([]MemberState, 0, len(m.Members))
	for _, one := range m.Members {
		s := before[one.Name]
		s.Name = one.Name
		all = append(all, s.heard(answers[one.Name], d.newest))
	}
	d.state.Members = all
}

// publishedAt is when a release was published, by this process or as its record says; zero if neither knows.
func (d *Driver) publishedAt(ctx context.Context, number uint64) time.Time {
	if at := d.Published(number); !at.IsZero() {
		return at
	}
	last, err := history.Last(ctx, d.Home, 1)
	if err != nil || len(last) == 0 || last[0].Number != number {
		return time.Time{}
	}
	return last[0].Published
}

// heard is the state after an answer.
func (s MemberState) heard(a Answer, n newest) MemberState {
	s.Answers = a.Err == nil
	if !s.Answers {
		return s
	}
	c := a.Confirmation
	s.Serving, s.Staged = c.Serving, c.Confirms.Staged
	if c.Compiled != nil && c.Compiled.Number == n.number && n.number > s.Published && !n.published.IsZero() {
		s.Published, s.Latency = n.number, max(0, c.Compiled.Done.Time().Sub(n.published))
	}
	if c.Switched != nil && c.Switched.Number > s.Switched {
		if late, made := c.Switched.Late(c.Switched.Number); made {
			s.Switched, s.Lateness = c.Switched.Number, late
		}
	}
	return s
}
