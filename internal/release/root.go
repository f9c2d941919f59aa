package release

import (
	"crypto"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Trust is what a root says: which keys speak for the mesh, and until when.
type Trust struct {
	Version   int64
	Expires   time.Time           // UTC, whole seconds
	Threshold int                 // how many of the root keys must sign the next root
	Root      []ed25519.PublicKey // who may say who may speak
	Release   ed25519.PublicKey   // what is answered
	Lease     ed25519.PublicKey   // until when
}

// KeyID is the name of a key in a root: the SHA-256 of its TUF form, in hexadecimal.
func KeyID(key ed25519.PublicKey) string {
	k, err := metadata.KeyFromPublicKey(key)
	if err != nil {
		return ""
	}
	id, err := k.ID()
	if err != nil {
		return ""
	}
	return id
}

// TrustOf reads a root, which a Memory holds.
func TrustOf(data []byte) (Trust, error) {
	r, err := parseRoot("root", data)
	if err != nil {
		return Trust{}, err
	}
	return trustOf(r.signed.Signed)
}

// DraftTrust reads a draft, whoever has signed it so far.
func DraftTrust(draft []byte) (Trust, error) {
	if err := checkRoot("draft", draft); err != nil {
		return Trust{}, err
	}
	md, err := metadata.Root().FromBytes(draft)
	if err != nil {
		return Trust{}, refuseTUF("draft", err)
	}
	return trustOf(md.Signed)
}

// DraftDigest names what a draft says, whoever has signed it so far: those who are to sign it compare it.
func DraftDigest(draft []byte) (Digest, error) {
	if err := checkRoot("draft", draft); err != nil {
		return Digest{}, err
	}
	md, err := metadata.Root().FromBytes(draft)
	if err != nil {
		return Digest{}, refuseTUF("draft", err)
	}
	md.ClearSignatures()
	data, err := md.ToBytes(false)
	return DigestOf(data), err
}

func trustOf(said metadata.RootType) (Trust, error) {
	t := Trust{Version: said.Version, Expires: said.Expires, Threshold: said.Roles[metadata.ROOT].Threshold}
	for role, to := range map[string]*ed25519.PublicKey{metadata.TARGETS: &t.Release, metadata.TIMESTAMP: &t.Lease} {
		keys, err := keysOf(said, role)
		if err != nil {
			return t, err
		}
		*to = keys[0]
	}
	var err error
	t.Root, err = keysOf(said, metadata.ROOT)
	return t, err
}

func keysOf(said metadata.RootType, role string) (keys []ed25519.PublicKey, err error) {
	for _, id := range said.Roles[role].KeyIDs {
		public, err := hex.DecodeString(said.Keys[id].Value.PublicKey)
		if err != nil || len(public) != ed25519.PublicKeySize {
			return nil, refuse("root", Format, "role %s: key %.8s is not an ed25519 key", role, id)
		}
		keys = append(keys, public)
	}
	return keys, nil
}

// maxRootKeys bounds the root keys: more people than that do not meet.
const maxRootKeys = 16

// check refuses a trust that nobody could use, or that gives one key two powers which are apart for a reason.
func (t Trust) check() error {
	if t.Threshold < 1 || t.Threshold > len(t.Root) || len(t.Root) > maxRootKeys {
		return fmt.Errorf("%d of %d root keys: want 1 to all of at most %d", t.Threshold, len(t.Root), maxRootKeys)
	}
	for i, key := range t.Root {
		if slices.ContainsFunc(t.Root[:i], func(k ed25519.PublicKey) bool { return k.Equal(key) }) {
			return errors.New("a root key twice: a threshold counts keys")
		}
		if key.Equal(t.Release) || key.Equal(t.Lease) {
			return errors.New("a root key that signs something else too: it could not be kept offline")
		}
	}
	if t.Release.Equal(t.Lease) {
		return errors.New("the lease key signs releases: it is online, and must not be able to")
	}
	return nil
}

// DraftRoot makes the root that follows prev, of the next version, without a signature. It says what t says.
func DraftRoot(prev []byte, t Trust) ([]byte, error) {
	before, err := parseRoot("root", prev)
	if err != nil {
		return nil, err
	}
	if err := t.check(); err != nil {
		return nil, err
	}
	md, err := rootOf(t)
	if err != nil {
		return nil, err
	}
	md.Signed.Version = before.version() + 1
	return md.ToBytes(false)
}

// rootOf is the unsigned root that says t.
func rootOf(t Trust) (*metadata.Metadata[metadata.RootType], error) {
	md := metadata.Root(t.Expires.UTC().Truncate(time.Second))
	add := func(public ed25519.PublicKey, roles ...string) error {
		key, err := metadata.KeyFromPublicKey(public)
		for _, role := range roles {
			err = errors.Join(err, md.Signed.AddKey(key, role))
		}
		return err
	}
	for _, key := range t.Root {
		if err := add(key, metadata.ROOT); err != nil {
			return nil, err
		}
	}
	md.Signed.Roles[metadata.ROOT].Threshold = t.Threshold
	return md, errors.Join(add(t.Release, metadata.TARGETS, metadata.SNAPSHOT), add(t.Lease, metadata.TIMESTAMP))
}

// SignRoot adds a signature to a draft, or leaves the one that is there.
func SignRoot(draft []byte, by crypto.Signer) ([]byte, error) {
	md, err := metadata.Root().FromBytes(draft)
	if err != nil {
		return nil, refuseTUF("draft", err)
	}
	public, err := publicOf(by)
	if err != nil {
		return nil, err
	}
	id := KeyID(public)
	md.Signatures = slices.DeleteFunc(md.Signatures, func(s metadata.Signature) bool { return s.KeyID == id })
	return sign(md, by)
}

// Lacks says what a draft still lacks to follow prev: signatures, by the threshold of prev and by its own. nil: nothing.
func Lacks(prev, draft []byte) error {
	before, err := parseRoot("root", prev)
	if err != nil {
		return err
	}
	_, err = before.next("draft", draft)
	return err
}

// Rotate makes the files that put a root in force which follows that of prev: the root, a timestamp, since that is what
// followers look at, and all that is between if the release key is another one. Content and schedule stay as they are.
// The keys that sign are those that the new root names.
func Rotate(prev Memory, root []byte, by Signers, ends Expiries) ([]File, Memory, error) {
	before, err := parseRoot("root", prev.Root)
	if err != nil {
		return nil, Memory{}, err
	}
	trusted, err := before.next("root", root)
	if err != nil {
		return nil, Memory{}, err
	}
	last, prev, err := Restore(prev)
	if err != nil {
		return nil, Memory{}, err
	}
	files := []File{{RootName(trusted.version()), root}}
	under := prev
	under.Root = root
	if !trusted.trusts(metadata.TARGETS, before) {
		below, mem, err := publish(under, last.Versions, last.Manifest, by, ends)
		return append(files, below...), mem, err
	}
	timestamp, err := makeTimestamp(last.Versions.Timestamp+1, last.Versions.Snapshot, prev.Snapshot, by.Lease, ends.Earliest())
	if err != nil {
		return nil, Memory{}, err
	}
	below, mem, err := verified(under, []File{timestamp})
	return append(files, below...), mem, err
}

// trusts reports whether a role has the same keys as in another root.
func (r *root) trusts(role string, other *root) bool {
	return slices.Equal(r.signed.Signed.Roles[role].KeyIDs, other.signed.Signed.Roles[role].KeyIDs)
}
