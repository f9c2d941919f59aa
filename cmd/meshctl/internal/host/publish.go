package host

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// How long the word of each role lasts. The lease is the operator's choice.
const (
	rootYears    = 10
	releaseYears = 1
)

// WarnBefore is how long before the end of the root's or the release key's word it is time to act.
const WarnBefore = 90 * 24 * time.Hour

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
		if _, ended := signedUntil(release.Manifest{Current: c}); !ended.After(now) {
			m.Current = nil
		}
	}
	e.Timestamp = e.Earliest()
	if _, signed := signedUntil(m); !signed.IsZero() && signed.Before(e.Timestamp) {
		e.Timestamp = signed
	}
	return e
}

// publish signs m with a new lease, and puts it in force.
func (h *Host) publish(m release.Manifest, event Event) error {
	return h.publishBefore(time.Time{}, m, event)
}

// errTooLate says that a publication was given up, since its time had come before it was decided.
var errTooLate = errors.New("it could not be published in time")

// publishBefore is publish, unless the time has come when all is signed, which takes seconds for 100,000 zones, or before it
// is decided, which takes as long as a bucket is out of reach. A zero time never comes.
func (h *Host) publishBefore(end time.Time, m release.Manifest, event Event) error {
	keys, err := h.signers(releaseKey, leaseKey)
	if err != nil {
		return err
	}
	e := ends(h.clock(), h.state.Lease(), h.view.Expires.Root, m)
	_, mem, err := release.Publish(h.state.Published, m, keys, e)
	if err != nil {
		return err
	}
	promised := h.promised(mem, m).note(event, h.clock())
	ctx := context.Background()
	if !end.IsZero() {
		left := end.Sub(h.clock())
		if left <= 0 {
			return errTooLate
		}
		limited, cancel := context.WithTimeoutCause(ctx, left, errTooLate)
		defer cancel()
		ctx = limited
	}
	if err := h.commit(ctx, promised); err != nil {
		return err
	}
	return h.collect()
}

// promised is the state that lets the lease leave which mem holds.
func (h *Host) promised(mem release.Memory, m release.Manifest) State {
	view, _, err := release.Restore(mem)
	if err != nil {
		panic(fmt.Sprintf("what was verified a moment ago does not verify: %v", err))
	}
	s := h.state.promise(m, view.LeaseExpires, h.clock())
	for _, r := range []*release.Release{m.Current, m.Next} {
		if r != nil {
			s.Highest = max(s.Highest, r.Number)
		}
	}
	s.Published = mem
	return s
}

// Lease renews the lease for d, or for its usual length if d is 0, and puts a switchover that has passed on record if the
// release key is at hand: an emergency lease needs the lease key only. It returns when the lease ends, which is no later
// than the word of any other role.
func (h *Host) Lease(d time.Duration) (time.Time, error) {
	if d == 0 {
		d = h.state.Lease()
	}
	if err := checkLease(d); err != nil {
		return time.Time{}, err
	}
	folded, err := h.Settle()
	if err != nil && !errors.Is(err, errKeyAway) || folded && d == h.state.Lease() {
		return h.view.LeaseExpires, err
	}
	keys, err := h.signers(leaseKey)
	if err != nil {
		return time.Time{}, err
	}
	until := h.view.Expires
	until.Timestamp = h.clock().Add(d)
	until = capped(until, h.clock(), h.view.Manifest)
	_, mem, err := release.Renew(h.state.Published, keys.Lease, until.Timestamp)
	if err != nil {
		return time.Time{}, err
	}
	err = h.commit(context.Background(), h.promised(mem, h.view.Manifest))
	return h.view.LeaseExpires, err
}

// MaxLease bounds a lease: what is beyond the release key's word would be cut anyway.
const MaxLease = 365 * 24 * time.Hour

func checkLease(d time.Duration) error {
	if d < time.Second || d > MaxLease {
		return fmt.Errorf("a lease is 1s to %v, not %v", MaxLease, d)
	}
	return nil
}

// Settle makes the next release the current one once its switchover has passed by the clock of every member, and
// reports whether it did. Members have switched by themselves; this only tidies, so that another release can be next.
func (h *Host) Settle() (bool, error) {
	next := h.view.Manifest.Next
	if !Settled(h.view.Manifest, h.clock()) {
		return false, nil
	}
	m := h.view.Manifest
	m.Current, m.Next = next, nil
	err := h.publish(m, Event{Event: "settled", Number: next.Number, Switchover: next.Switchover})
	return err == nil, err
}

// Settled reports whether the next release's switchover has passed for everyone: this host and a member may each be
// wrong by ε, and a member that reads of a current release whose instant lies ahead is silent until then.
func Settled(m release.Manifest, now time.Time) bool {
	return m.Next != nil && !m.Next.Switchover.IsZero() && now.After(m.Next.Switchover.Add(2*m.Epsilon()))
}
