package keys

import (
	"context"
	"crypto/ed25519"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// Put writes the keys of a new mesh, as they are or encrypted under a passphrase that is asked for once, and the public half
// of the key that overrides are signed with.
func (r Ring) Put(ctx context.Context, keys release.Keys, encrypt bool) error {
	seal := sealer{encrypt: encrypt}
	for _, k := range []struct {
		kind string
		key  ed25519.PrivateKey
	}{{Root, keys.Root}, {Release, keys.Release}, {Lease, keys.Lease}, {Override, keys.Override}} {
		data, err := seal.encode(ctx, k.key)
		if err != nil {
			return err
		}
		if err := depot.WriteFile(r.dir, k.kind+".pem", data, 0o600); err != nil {
			return err
		}
	}
	public, err := PublicPEM(keys.Override.Public().(ed25519.PublicKey))
	if err != nil {
		return err
	}
	return depot.WriteFile(r.dir, overridePublic, public, 0o644)
}
