package home

import (
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// What a publication must keep so that the mesh stays safe is in this file, without disk, network or clock: the ledger of
// leases (Promise, promise, LatestWithout), the cap of a lease (ends, capped, LeaseIsOld), when a switchover has passed (Settled)
// and when a release may be staged (MayRelease). How a switchover's instant is chosen, reviewed and taken back is in package
// switchover.

// Promise is the latest end of all leases that were signed under one schedule. It is durable before the lease leaves.
type Promise struct {
	Number     uint64    `json:"number"`              // the next release that they name; 0 for none
	Switchover time.Time `json:"switchover,omitzero"` // its switchover; zero for none
	Expires    time.Time `json:"expires"`
}

// keepPromises is how long after its end a promise is still remembered, in case this host's clock was ahead.
const keepPromises = 24 * time.Hour

// promise notes that a lease was signed under the schedule of m.
func (s State) promise(m release.Manifest, expires, now time.Time) State {
	made := Promise{Expires: expires}
	if m.Next != nil {
		made.Number, made.Switchover = m.Next.Number, m.Next.Switchover
	}
	kept := slices.DeleteFunc(slices.Clone(s.Promises), func(p Promise) bool {
		if p.Number == made.Number && p.Switchover.Equal(made.Switchover) {
			made.Expires = latest(made.Expires, p.Expires)
			return true
		}
		return p.Expires.Before(now.Add(-keepPromises))
	})
	s.Promises = append(kept, made)
	return s
}

// LatestWithout is E*: the latest end of any lease ever signed that does not name number and switchover. A switchover
// not chosen yet, zero, is named by none.
func (s State) LatestWithout(number uint64, switchover time.Time) time.Time {
	var end time.Time
	for _, p := range s.Promises {
		if switchover.IsZero() || p.Number != number || !p.Switchover.Equal(switchover) {
			end = latest(end, p.Expires)
		}
	}
	return end
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// ends is when what is signed at now for a lease of length d ends; the lease ends with the first role, and with the
// signatures in the zones of m.
func ends(now time.Time, d time.Duration, root time.Time, m release.Manifest) release.Expiries {
	year := now.AddDate(releaseYears, 0, 0)
	e := release.Expiries{Root: root, Targets: year, Snapshot: year, Timestamp: now.Add(d)}
	return capped(e, now, m)
}

// capped ends the lease with whatever it leans on. Signatures that have ended already do not keep a release from members
// that brings new ones.
func capped(e release.Expiries, now time.Time, m release.Manifest) release.Expiries {
	if c := m.Current; c != nil && m.Next != nil {
		if _, ended := SignedUntil(release.Manifest{Current: c}); !ended.After(now) {
			m.Current = nil
		}
	}
	e.Timestamp = e.Earliest()
	if _, signed := SignedUntil(m); !signed.IsZero() && signed.Before(e.Timestamp) {
		e.Timestamp = signed
	}
	return e
}

// LeaseIsOld reports whether a lease of the usual length d, signed at now, would end later by more than age than the one of
// view does, whatever caps it.
func LeaseIsOld(view release.View, d, age time.Duration, now time.Time) bool {
	fresh := view.Expires
	fresh.Timestamp = now.Add(d - age)
	return view.LeaseExpires.Before(capped(fresh, now, view.Manifest).Earliest())
}

// Settled reports whether the next release's switchover has passed for everyone: this host and a member may each be
// wrong by ε, and a member that reads of a current release whose instant lies ahead is silent until then.
func Settled(m release.Manifest, now time.Time) bool {
	return m.Next != nil && !m.Next.Switchover.IsZero() && now.After(m.Next.Switchover.Add(2*m.Epsilon()))
}

// SignedUntil is the zone that is answered, or about to be, of which signatures end first, and when; zero if none is signed.
func SignedUntil(m release.Manifest) (origin string, ends time.Time) {
	for r := range m.Releases() {
		for _, z := range r.Zones {
			if !z.SignedUntil.IsZero() && (ends.IsZero() || z.SignedUntil.Before(ends)) {
				origin, ends = z.Origin, z.SignedUntil
			}
		}
	}
	return origin, ends
}

// MayRelease refuses what the protocol cannot make safe: to stage a release in the place of one that has a switchover, and,
// with atOnce, to make one current where members answer from another.
func MayRelease(m release.Manifest, atOnce bool) error {
	if m.Next != nil && !m.Next.Switchover.IsZero() {
		return hint.Errorf("release again after that", "release %d is set to switch over at %s", m.Next.Number, m.Next.Switchover.Format(time.RFC3339Nano))
	}
	if atOnce && m.Current != nil && len(m.Members) > 0 {
		return hint.Errorf("leave --now out, then set the switchover with: meshctl schedule",
			"members answer from release %d, and would not move to another together", m.Current.Number)
	}
	return nil
}
