package host

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// RootChange is what the next root is to say differently; what is zero stays.
type RootChange struct {
	Add       []ed25519.PublicKey // root keys that are added
	Drop      []string            // root keys that go, by the beginning of their ids
	Threshold int                 // how many root keys must sign from then on
	Release   ed25519.PublicKey
	Lease     ed25519.PublicKey
	Expires   time.Time
}

// Trust is what the root in force says.
func (h *Host) Trust() (release.Trust, error) { return release.TrustOf(h.Root()) }

// DraftRoot drafts the root that follows, without a signature.
func (h *Host) DraftRoot(c RootChange) ([]byte, error) {
	t, err := h.Trust()
	if err != nil {
		return nil, err
	}
	for _, id := range c.Drop {
		i := slices.IndexFunc(t.Root, func(k ed25519.PublicKey) bool { return id != "" && strings.HasPrefix(release.KeyID(k), id) })
		if i < 0 {
			return nil, hint("meshctl keys list shows them", "no root key %q", id)
		}
		t.Root = slices.Delete(slices.Clone(t.Root), i, i+1)
	}
	t.Root = append(slices.Clone(t.Root), c.Add...)
	if c.Threshold != 0 {
		t.Threshold = c.Threshold
	}
	if c.Release != nil {
		t.Release = c.Release
	}
	if c.Lease != nil {
		t.Lease = c.Lease
	}
	t.Expires = h.clock().AddDate(rootYears, 0, 0)
	if !c.Expires.IsZero() {
		t.Expires = c.Expires
	}
	return release.DraftRoot(h.Root(), t)
}

// SignDraft signs a draft with every root key in a home's keys that the draft names or the root before it named, and
// returns their files. It needs the keys only, not the mesh: the home may be a directory on a machine without a network.
func SignDraft(home string, draft []byte) ([]byte, []string, error) {
	keys, err := Keys(home, rootKey)
	if err != nil {
		return nil, nil, err
	}
	var files []string
	for _, k := range keys {
		by, err := k.open()
		if err != nil {
			return nil, nil, err
		}
		if draft, err = release.SignRoot(draft, by); err != nil {
			return nil, nil, err
		}
		files = append(files, k.File)
	}
	if len(files) == 0 {
		return nil, nil, hint("bring it, or sign where it is: meshctl keys sign", "root %w: %s", errKeyAway, home+"/"+keysDir)
	}
	return draft, files, nil
}

// PublishRoot puts a root in force that enough have signed, and signs what lies below it anew. Nodes follow by themselves.
func (h *Host) PublishRoot(draft []byte) error {
	if err := release.Lacks(h.Root(), draft); err != nil {
		return hint("meshctl keys sign adds signatures", "the draft is not good to follow the root in force: %v", err)
	}
	next, err := release.TrustOf(draft)
	if err != nil {
		return err
	}
	was, err := h.Trust()
	if err != nil {
		return err
	}
	kinds := []string{leaseKey}
	if !next.Release.Equal(was.Release) {
		kinds = append(kinds, releaseKey)
	}
	by, err := signersUnder(h.home, next, kinds...)
	if err != nil {
		return err
	}
	until := h.view.Expires
	e := ends(h.clock(), h.state.Lease(), next.Expires, h.view.Manifest)
	if len(kinds) == 1 { // the release key's word stays
		e.Targets, e.Snapshot = until.Targets, until.Snapshot
		e.Timestamp = e.Earliest()
	}
	_, mem, err := release.Rotate(h.state.Published, draft, by, e)
	if err != nil {
		return err
	}
	event := Event{Event: "root replaced", Detail: fmt.Sprintf("version %d", next.Version)}
	return h.commit(context.Background(), h.promised(mem, h.view.Manifest).note(event, h.clock()))
}

// RotateKey makes a new key of a kind and puts it in the place of the old one: of all root keys at hand, or of the one that
// signs releases or leases. It needs as many root keys at hand as must sign.
func (h *Host) RotateKey(kind string, encrypt bool, random io.Reader) (Key, error) {
	t, err := h.Trust()
	if err != nil {
		return Key{}, err
	}
	made, err := NewKey(h.home, kind, encrypt, random)
	if err != nil {
		return Key{}, err
	}
	var c RootChange
	switch kind {
	case releaseKey:
		c.Release = made.Public
	case leaseKey:
		c.Lease = made.Public
	default:
		if len(t.Root) != 1 {
			return Key{}, hint("say which goes: meshctl keys draft --add PUBLIC --drop ID, keys sign, keys publish", "there are %d root keys", len(t.Root))
		}
		c.Add, c.Drop = []ed25519.PublicKey{made.Public}, []string{release.KeyID(t.Root[0])}
	}
	draft, err := h.DraftRoot(c)
	if err == nil {
		draft, _, err = SignDraft(h.home, draft)
	}
	if err != nil {
		return made, err
	}
	return made, h.PublishRoot(draft)
}
