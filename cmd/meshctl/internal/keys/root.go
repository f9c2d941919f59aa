package keys

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"slices"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
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

	NumbersFrom uint64 // where release numbers begin
}

// RootYears is how long the word of a root lasts, unless its draft says otherwise.
const RootYears = 10

// Draft drafts the root that follows root, without a signature.
func (c RootChange) Draft(root []byte, now time.Time) ([]byte, error) {
	t, err := release.TrustOf(root)
	if err != nil {
		return nil, err
	}
	for _, id := range c.Drop {
		i := slices.IndexFunc(t.Root, func(k ed25519.PublicKey) bool { return id != "" && strings.HasPrefix(release.KeyID(k), id) })
		if i < 0 {
			return nil, hint.Errorf("meshctl keys list shows them", "no root key %q", id)
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
	t.NumbersFrom = cmp.Or(c.NumbersFrom, t.NumbersFrom)
	t.Expires = now.AddDate(RootYears, 0, 0)
	if !c.Expires.IsZero() {
		t.Expires = c.Expires
	}
	return release.DraftRoot(root, t)
}

// SignDraft signs a draft with every root key that the draft names or the root before it named, and returns their files. It
// needs the keys only, not the mesh: they may be in a directory on a machine without a network.
func (r Ring) SignDraft(ctx context.Context, draft []byte) ([]byte, []string, error) {
	keys, err := r.Of(Root)
	if err != nil {
		return nil, nil, err
	}
	var files []string
	for _, k := range keys {
		by, err := k.Signer(ctx)
		if err != nil {
			return nil, nil, err
		}
		if draft, err = release.SignRoot(draft, by); err != nil {
			return nil, nil, err
		}
		files = append(files, k.File)
	}
	if len(files) == 0 {
		return nil, nil, hint.Errorf("bring it, or sign where it is: meshctl keys sign", "root %w: %s", ErrAway, r.dir)
	}
	return draft, files, nil
}
