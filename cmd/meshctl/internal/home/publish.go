package home

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/keys"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// releaseYears is how long the release key's word lasts; a root's is keys.RootYears. The lease is the operator's choice.
const releaseYears = 1

// WarnBefore is how long before the end of the root's or the release key's word it is time to act.
const WarnBefore = 90 * 24 * time.Hour

// ErrTooLate says that a publication was given up, since its time had come before it was decided.
var ErrTooLate = errors.New("it could not be published in time")

// Publish signs m, in which nothing of releases and members has changed, with a new lease, and puts it in force.
func (w *Writer) Publish(ctx context.Context, m release.Manifest, event Event) error {
	next, err := w.Host().Renew(w.Instant(), 0)
	if err != nil {
		return err
	}
	return w.Carry(ctx, next, time.Time{}, func(now *release.Manifest) { *now = m }, event)
}

// Instant is the time by the home's clock, for the protocol.
func (w *Writer) Instant() instant.Instant { return instant.Instant{Wall: instant.WallOf(w.Now())} }

// sign signs the lease that was decided, and the manifest if its content changes.
func (w *Writer) sign(ctx context.Context, next mesh.State, change func(m *release.Manifest)) (mem release.Memory, content bool, err error) {
	m, err := manifestOf(w.view.Manifest, next, change)
	if err != nil {
		return mem, false, err
	}
	same, err := w.same(m)
	if err != nil {
		return mem, false, err
	}
	until := next.Expires.Time()
	if same {
		by, err := w.signers(ctx, keys.Lease)
		if err != nil {
			return mem, false, err
		}
		_, mem, err := release.Renew(w.state.Published, by.Lease, until)
		return mem, false, err
	}
	if w.damaged != nil {
		return mem, false, w.damaged
	}
	by, err := w.signers(ctx, keys.Release, keys.Lease)
	if err != nil {
		return mem, false, err
	}
	year := w.Now().AddDate(releaseYears, 0, 0)
	files, mem, err := release.Publish(w.state.Published, m, by,
		release.Expiries{Root: w.view.Expires.Root, Targets: year, Snapshot: year, Timestamp: until})
	if err == nil {
		began := time.Now()
		err = w.storeNodes(files)
		w.storing = time.Since(began)
	}
	return mem, true, err
}

// same reports whether a manifest is the one that is published, but for its format: that changes when something else does, so
// that members of the version before go on for as long as nothing is to be switched.
func (w *Writer) same(m release.Manifest) (bool, error) {
	was := w.view.Manifest
	if m.Newest() != was.Newest() || m.Format >= release.ManifestFormat && was.Format < m.Format {
		return false, nil
	}
	m.Format = was.Format
	if was.Format == release.OldFormat && m.Next != nil {
		next := *m.Next
		next.Committed = false
		m.Next = &next
	}
	data, err1 := m.Encode()
	before, err2 := was.Encode()
	if err2 != nil {
		return false, err2
	}
	return err1 == nil && bytes.Equal(data, before), nil
}

// promised is the state that lets the lease leave which mem holds, with nothing else changed.
func (w *Writer) promised(mem release.Memory) State {
	view, _, err := release.Restore(mem, w.repo)
	if err != nil {
		panic(fmt.Sprintf("what was verified a moment ago does not verify: %v", err))
	}
	s := w.state
	s.Published = mem
	s.Ledger = MeshOf(s, view).Recorded(instant.WallOf(w.Now())).Ledger
	return s
}

// Renew renews the lease for d, or for its usual length if d is 0: that needs the lease key only. It returns when the lease
// ends, which is no later than the word of any other role.
func (w *Writer) Renew(ctx context.Context, d time.Duration) (time.Time, error) {
	if d == 0 {
		d = w.state.Lease()
	}
	if err := CheckLease(d); err != nil {
		return time.Time{}, err
	}
	next, err := w.Host().Renew(w.Instant(), d)
	if err != nil {
		return time.Time{}, err
	}
	err = w.Carry(ctx, next, time.Time{}, nil, Event{})
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

// signers opens the keys of the kinds named that the root in force names; the others stay nil.
func (w *Writer) signers(ctx context.Context, kinds ...string) (release.Signers, error) {
	t, err := w.Trust()
	if err != nil {
		return release.Signers{}, err
	}
	return w.Keys().Signers(ctx, t, kinds...)
}
