package home

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"io"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/keys"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Trust is what the root in force says.
func (w *Writer) Trust() (release.Trust, error) { return w.state.Published.Trust() }

// PublishRoot puts a root in force that enough have signed, and signs what lies below it anew. Nodes follow by themselves. Where it has
// release numbers begin higher, the release that is answered from goes on under the first of them.
func (w *Writer) PublishRoot(ctx context.Context, draft []byte) error {
	if w.damaged != nil {
		return w.damaged
	}
	if err := release.Lacks(w.Root(), draft); err != nil {
		return hint.Errorf("meshctl keys sign adds signatures", "the draft is not good to follow the root in force: %v", err)
	}
	next, err := release.TrustOf(draft)
	if err != nil {
		return err
	}
	was, err := w.Trust()
	if err != nil {
		return err
	}
	renumbers := next.NumbersFrom != was.NumbersFrom
	if renumbers {
		if err := w.mayRenumber(next.NumbersFrom); err != nil {
			return err
		}
	}
	kinds := []string{keys.Lease}
	if renumbers || !next.Release.Equal(was.Release) {
		kinds = append(kinds, keys.Release)
	}
	by, err := w.Keys().Signers(ctx, next, kinds...)
	if err != nil {
		return err
	}
	year := w.Now().AddDate(releaseYears, 0, 0)
	e := release.Expiries{Root: next.Expires, Targets: year, Snapshot: year}
	if len(kinds) == 1 { // the release key's word stays
		e.Targets, e.Snapshot = w.view.Expires.Targets, w.view.Expires.Snapshot
	}
	in := w.Mesh()
	in.Limit = instant.WallOf(earliest(e.Root, e.Targets, e.Snapshot))
	e.Timestamp = in.Granted(instant.WallOf(w.Now()), w.state.Lease()).Expires.Time()
	_, mem, err := release.Rotate(w.state.Published, draft, by, e)
	if err != nil {
		return err
	}
	event := Event{Event: "root replaced", Detail: fmt.Sprintf("version %d", next.Version)}
	if renumbers {
		event.Detail += fmt.Sprintf(", release numbers begin at %d", next.NumbersFrom)
	}
	return w.commit(ctx, w.promised(mem).note(event, w.Now()))
}

// Unused is an error if the release number is one that was used, or is not above all that were.
func (w *Writer) Unused(number uint64) error {
	if number <= w.state.Highest {
		return fmt.Errorf("release numbers cannot begin at %d: numbers up to %d were used here", number, w.state.Highest)
	}
	return nil
}

// mayRenumber refuses numbers that were used, and what is committed for an instant that is yet to come: members that have not heard of
// the new number switch to the old one.
func (w *Writer) mayRenumber(from uint64) error {
	if err := w.Unused(from); err != nil {
		return err
	}
	if next := w.view.Manifest.Next; next != nil && next.Committed && w.Now().Before(next.Switchover) {
		return hint.Errorf("run it again after that", "the switchover to release %d at %v is committed", next.Number, instant.WallOf(next.Switchover))
	}
	return nil
}

// RotateKey makes a new key of a kind and puts it in the place of the old one: of all root keys at hand, or of the one that
// signs releases or leases. It needs as many root keys at hand as must sign. Release numbers begin at from after that; 0: as before.
func (w *Writer) RotateKey(ctx context.Context, kind string, from uint64, encrypt bool, random io.Reader) (keys.Key, error) {
	if w.damaged != nil {
		return keys.Key{}, w.damaged
	}
	if from > 0 {
		if err := w.mayRenumber(from); err != nil {
			return keys.Key{}, err
		}
	}
	t, err := w.Trust()
	if err != nil {
		return keys.Key{}, err
	}
	made, err := w.Keys().New(ctx, kind, encrypt, random)
	if err != nil {
		return keys.Key{}, err
	}
	c := keys.RootChange{NumbersFrom: from}
	switch kind {
	case keys.Release:
		c.Release = made.Public
	case keys.Lease:
		c.Lease = made.Public
	default:
		if len(t.Root) != 1 {
			return keys.Key{}, hint.Errorf("say which goes: meshctl keys draft --add PUBLIC --drop ID, keys sign, keys publish", "there are %d root keys", len(t.Root))
		}
		c.Add, c.Drop = []ed25519.PublicKey{made.Public}, []string{release.KeyID(t.Root[0])}
	}
	draft, err := c.Draft(w.Root(), w.Now())
	if err == nil {
		draft, _, err = w.Keys().SignDraft(ctx, draft)
	}
	if err != nil {
		return made, err
	}
	return made, w.PublishRoot(ctx, draft)
}
