package release

import (
	"crypto"
	"crypto/ed25519"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
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

	// NumbersFrom is where release numbers begin: a node takes one that is up to MaxStep above it, whatever it has seen. It is never
	// lowered, and raised when whoever stole the release key has used numbers up.
	NumbersFrom uint64
}

// MaxNumbersFrom bounds Trust.NumbersFrom: as many numbers are left above it.
const MaxNumbersFrom = 1 << 63

// numbersField is NumbersFrom in a root's JSON, a string of decimal digits; none is 0. The Update Framework has clients sign and keep
// fields that they do not know, so who does not know this one still verifies the root.
const numbersField = "numbers_from"

// numbersFrom reads the field.
func numbersFrom(said metadata.RootType) (uint64, error) {
	field, there := said.UnrecognizedFields[numbersField]
	if !there {
		return 0, nil
	}
	text, _ := field.(string)
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n == 0 || n > MaxNumbersFrom || strconv.FormatUint(n, 10) != text {
		return 0, fmt.Errorf("%s %v: want a number from 1 to %d, as a string", numbersField, field, uint64(MaxNumbersFrom))
	}
	return n, nil
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
	var err1, err2 error
	t.Root, err1 = keysOf(said, metadata.ROOT)
	t.NumbersFrom, err2 = numbersFrom(said)
	return t, errors.Join(err1, err2)
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
	if t.NumbersFrom > MaxNumbersFrom {
		return fmt.Errorf("release numbers that begin at %d: at most %d", t.NumbersFrom, uint64(MaxNumbersFrom))
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
	if t.NumbersFrom < before.numbersFrom {
		return nil, fmt.Errorf("release numbers begin at %d, and no root lowers that", before.numbersFrom)
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
	if t.NumbersFrom > 0 {
		md.Signed.UnrecognizedFields = map[string]any{numbersField: strconv.FormatUint(t.NumbersFrom, 10)}
	}
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
// followers look at, and all that is between if the release key is another one, or release numbers begin higher. Content stays as it
// is, and so does the schedule unless it is renumbered. The keys that sign are those that the new root names.
func Rotate(prev Memory, root []byte, by Signers, ends Expiries) ([]File, Memory, error) {
	before, err := parseRoot("root", prev.Root)
	if err != nil {
		return nil, Memory{}, err
	}
	trusted, err := before.next("root", root)
	if err != nil {
		return nil, Memory{}, err
	}
	last, prev, err := Restore(prev, nil)
	if err != nil {
		return nil, Memory{}, err
	}
	files := []File{{RootName(trusted.version()), root}}
	under := prev
	under.Root = root
	manifest, renumbered := last.Manifest.renumbered(trusted.numbersFrom)
	if renumbered || !trusted.trusts(metadata.TARGETS, before) {
		below, mem, err := publish(under, last.Versions, manifest, by, ends)
		return append(files, below...), mem, err
	}
	timestamp, err := makeTimestamp(last.Versions.Timestamp+1, last.Versions.Snapshot, prev.Snapshot, by.Lease, ends.Earliest())
	if err != nil {
		return nil, Memory{}, err
	}
	below, mem, err := verified(under, []File{timestamp})
	return append(files, below...), mem, err
}

// renumbered is m with release numbers that are from or higher: who has seen any lower one takes these, under a root that says so. The
// zones stay. A switchover that is committed counts as made, and one that is proposed is withdrawn: what members promised was for
// another number.
func (m Manifest) renumbered(from uint64) (Manifest, bool) {
	if newest := m.Newest(); newest == 0 || newest >= from {
		return m, false
	}
	current, next := m.Current, m.Next
	if next != nil && next.Committed {
		made := next.Withdrawn()
		made.Switchover = next.Switchover
		current, next = &made, nil
	}
	m.Current, m.Next = nil, nil
	for _, r := range []struct {
		was *Release
		now **Release
	}{{current, &m.Current}, {next, &m.Next}} {
		if r.was == nil {
			continue
		}
		renumbered := *r.was
		renumbered.Number = from
		*r.now = &renumbered
		from++
	}
	if m.Next != nil {
		*m.Next = m.Next.Withdrawn()
	}
	return m, true
}

// trusts reports whether a role has the same keys as in another root.
func (r *root) trusts(role string, other *root) bool {
	return slices.Equal(r.signed.Signed.Roles[role].KeyIDs, other.signed.Signed.Roles[role].KeyIDs)
}
