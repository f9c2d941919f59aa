package home

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/keys"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// releaseYears is how long the release key's word lasts; a root's is keys.RootYears. The lease is the operator's choice.
const releaseYears = 1

// WarnBefore is how long before the end of the root's or the release key's word it is time to act.
const WarnBefore = 90 * 24 * time.Hour

// Publish signs m with a new lease, and puts it in force.
func (w *Writer) Publish(ctx context.Context, m release.Manifest, event Event) error {
	return w.PublishBefore(ctx, time.Time{}, m, event)
}

// ErrTooLate says that a publication was given up, since its time had come before it was decided.
var ErrTooLate = errors.New("it could not be published in time")

// PublishBefore is Publish, unless the time has come when all is signed, which takes seconds for 100,000 zones, or before it
// is decided, which takes as long as a bucket is out of reach. A zero time never comes.
func (w *Writer) PublishBefore(ctx context.Context, end time.Time, m release.Manifest, event Event) error {
	by, err := w.signers(ctx, keys.Release, keys.Lease)
	if err != nil {
		return err
	}
	e := ends(w.Now(), w.state.Lease(), w.view.Expires.Root, m)
	_, mem, err := release.Publish(w.state.Published, m, by, e)
	if err != nil {
		return err
	}
	promised := w.promised(mem, m).note(event, w.Now())
	if !end.IsZero() {
		left := end.Sub(w.Now())
		if left <= 0 {
			return ErrTooLate
		}
		limited, cancel := context.WithTimeoutCause(ctx, left, ErrTooLate)
		defer cancel()
		ctx = limited
	}
	if err := w.commit(ctx, promised); err != nil {
		return err
	}
	return w.collect()
}

// promised is the state that lets the lease leave which mem holds.
func (w *Writer) promised(mem release.Memory, m release.Manifest) State {
	view, _, err := release.Restore(mem)
	if err != nil {
		panic(fmt.Sprintf("what was verified a moment ago does not verify: %v", err))
	}
	s := w.state.promise(m, view.LeaseExpires, w.Now())
	for r := range m.Releases() {
		s.Highest = max(s.Highest, r.Number)
	}
	s.Published = mem
	return s
}

// Renew renews the lease for d, or for its usual length if d is 0, and puts a switchover that has passed on record if the
// release key is at hand: an emergency lease needs the lease key only. It returns when the lease ends, which is no later
// than the word of any other role.
func (w *Writer) Renew(ctx context.Context, d time.Duration) (time.Time, error) {
	if d == 0 {
		d = w.state.Lease()
	}
	if err := CheckLease(d); err != nil {
		return time.Time{}, err
	}
	folded, err := w.Settle(ctx)
	if err != nil && !errors.Is(err, keys.ErrAway) || folded && d == w.state.Lease() {
		return w.view.LeaseExpires, err
	}
	by, err := w.signers(ctx, keys.Lease)
	if err != nil {
		return time.Time{}, err
	}
	until := w.view.Expires
	until.Timestamp = w.Now().Add(d)
	until = capped(until, w.Now(), w.view.Manifest)
	_, mem, err := release.Renew(w.state.Published, by.Lease, until.Timestamp)
	if err != nil {
		return time.Time{}, err
	}
	err = w.commit(ctx, w.promised(mem, w.view.Manifest))
	return w.view.LeaseExpires, err
}

// MaxLease bounds a lease: what is beyond the release key's word would be cut anyway.
const MaxLease = 365 * 24 * time.Hour

// CheckLease refuses a length that no lease may have.
func CheckLease(d time.Duration) error {
	if d < time.Second || d > MaxLease {
		return fmt.Errorf("a lease is 1s to %v, not %v", MaxLease, d)
	}
	return nil
}

// Settle makes the next release the current one once its switchover has passed by the clock of every member, and
// reports whether it did. Members have switched by themselves; this only tidies, so that another release can be next.
func (w *Writer) Settle(ctx context.Context) (bool, error) {
	next := w.view.Manifest.Next
	if !Settled(w.view.Manifest, w.Now()) {
		return false, nil
	}
	m := w.view.Manifest
	m.Current, m.Next = next, nil
	err := w.Publish(ctx, m, Event{Event: "settled", Number: next.Number, Switchover: next.Switchover})
	return err == nil, err
}

// signers opens the keys of the kinds named that the root in force names; the others stay nil.
func (w *Writer) signers(ctx context.Context, kinds ...string) (release.Signers, error) {
	t, err := w.Trust()
	if err != nil {
		return release.Signers{}, err
	}
	return w.Keys().Signers(ctx, t, kinds...)
}
