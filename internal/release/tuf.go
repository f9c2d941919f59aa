package release

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"
)

// Everything that knows The Update Framework's types is in this file (reading), and in make.go and root.go (writing).

// root is a verified root: it says which keys speak for which role.
type root struct {
	data        []byte
	signed      *metadata.Metadata[metadata.RootType]
	numbersFrom uint64 // see Trust
}

func (r *root) version() int64     { return r.signed.Signed.Version }
func (r *root) expires() time.Time { return r.signed.Signed.Expires }

// signed is one role's verified word.
type signed struct {
	data    []byte
	version int64
	expires time.Time
	digest  Digest // of what was signed; blanks and signatures around it may differ
}

// chain is one verified state of a repository.
type chain struct {
	root                         *root
	timestamp, snapshot, targets signed
	manifestData                 []byte
	parsed                       *parsed // the manifest
}

// readFile takes a file of a repository by its name.
type readFile func(name string, max int64) ([]byte, error)

// parseRoot takes a root on trust: it must only be whole, and signed by itself.
func parseRoot(name string, data []byte) (*root, error) {
	if err := checkRoot(name, data); err != nil {
		return nil, err
	}
	trusted, err := trustedmetadata.New(data)
	if err != nil {
		return nil, refuseTUF(name, err)
	}
	from, err := numbersFrom(trusted.Root.Signed)
	if err != nil {
		return nil, refuse(name, Format, "%v", err)
	}
	return &root{data: data, signed: trusted.Root, numbersFrom: from}, nil
}

// trusting is what the library verifies other files with, under r: a root that was judged is not judged anew for each of them.
func (r *root) trusting() *trustedmetadata.TrustedMetadata {
	return &trustedmetadata.TrustedMetadata{
		Root:    r.signed,
		Targets: map[string]*metadata.Metadata[metadata.TargetsType]{},
		RefTime: time.Time{}, // nothing has expired yet at the zero time: expiry is not judged here
	}
}

// next takes the root that follows r, signed by r and by itself.
func (r *root) next(name string, data []byte) (*root, error) {
	if err := checkRoot(name, data); err != nil {
		return nil, err
	}
	signed, err := r.trusting().UpdateRoot(data)
	if err != nil {
		return nil, refuseTUF(name, err)
	}
	from, err := numbersFrom(signed.Signed)
	switch {
	case err != nil:
		return nil, refuse(name, Format, "%v", err)
	case from < r.numbersFrom:
		return nil, refuse(name, Rollback, "release numbers begin at %d, and root %d said %d", from, r.version(), r.numbersFrom)
	}
	return &root{data: data, signed: signed, numbersFrom: from}, nil
}

// checkRoot makes sure of what the library takes for granted, before it sees the file: every role and key that it will
// follow a pointer to is there, and every key is one that ed25519 accepts.
func checkRoot(name string, data []byte) error {
	if len(data) > maxRootBytes {
		return refuse(name, Oversize, "more than %d bytes", maxRootBytes)
	}
	parsed, err := metadata.Root().FromBytes(data)
	if err != nil {
		return refuseTUF(name, err)
	}
	if parsed.Signed.Version < 1 || !parsed.Signed.ConsistentSnapshot {
		return refuse(name, Format, "needs a version of 1 or more and consistent snapshots")
	}
	for _, role := range []string{metadata.ROOT, metadata.TARGETS, metadata.SNAPSHOT, metadata.TIMESTAMP} {
		r := parsed.Signed.Roles[role]
		if r == nil || r.Threshold < 1 || r.Threshold > len(r.KeyIDs) {
			return refuse(name, Format, "role %s: needs a threshold between 1 and its number of keys", role)
		}
		for _, id := range r.KeyIDs {
			if !isEd25519(parsed.Signed.Keys[id]) {
				return refuse(name, Format, "role %s: key %.8s is not an ed25519 key of this file", role, id)
			}
		}
	}
	return nil
}

func isEd25519(k *metadata.Key) bool {
	if k == nil || k.Type != metadata.KeyTypeEd25519 || k.Scheme != metadata.KeySchemeEd25519 {
		return false
	}
	public, err := hex.DecodeString(k.Value.PublicKey)
	return err == nil && len(public) == 32
}

// parsed is a manifest that ParseManifest has read, by the digest of its octets. It is never changed.
type parsed struct {
	digest Digest
	read   Manifest
}

// manifest is the manifest, whose releases are the caller's to change, but not their lists.
func (p *parsed) manifest() Manifest {
	m := p.read
	for _, r := range []**Release{&m.Current, &m.Next} {
		if *r != nil {
			copied := **r
			*r = &copied
		}
	}
	return m
}

// chain verifies from the timestamp down to the manifest. Nothing is parsed further before the signature or the digest
// above it was checked.
//
// What was verified before, which may be nil, spares work. Files that are the same to the octet, under the same root, were judged
// already: they are read, and compared. And a manifest with the digest of before is not parsed again: it has millions of octets where
// there are many zones.
func (r *root) chain(read readFile, before *chain) (*chain, error) {
	var manifest *parsed
	if before != nil {
		manifest = before.parsed
		if read = once(read); bytes.Equal(before.root.data, r.data) && before.isOf(read) {
			return before, nil
		}
	}
	trusted := r.trusting()
	c := &chain{root: r, parsed: manifest}
	for _, step := range []func(*trustedmetadata.TrustedMetadata, readFile) error{
		c.readTimestamp, c.readSnapshot, c.readTargets, c.readManifest,
	} {
		if err := step(trusted, read); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// whole is c with the zones of all trees. Nodes that were in what was verified before, which may be nil, are not read again.
func (c *chain) whole(nodes *source, before *chain) (*chain, error) {
	if c.parsed.read.isWhole() {
		return c, nil
	}
	var older []*tree
	if before != nil {
		older = before.parsed.read.trees()
	}
	m, err := c.parsed.read.load(nodes, older)
	if err != nil {
		return nil, err
	}
	loaded := *c
	loaded.parsed = &parsed{c.parsed.digest, m}
	return &loaded, nil
}

// isOf reports whether a repository has the files of c, octet by octet.
func (c *chain) isOf(read readFile) bool {
	for _, f := range []struct {
		name string
		max  int64
		data []byte
	}{
		{TimestampName, maxTimestampBytes, c.timestamp.data},
		{snapshotName(c.snapshot.version), maxSnapshotBytes, c.snapshot.data},
		{targetsName(c.targets.version), maxTargetsBytes, c.targets.data},
		{ManifestName(c.parsed.digest), MaxManifestBytes, c.manifestData},
	} {
		if data, err := read(f.name, f.max); err != nil || !bytes.Equal(data, f.data) {
			return false
		}
	}
	return true
}

// once reads each file once, for all who ask for it.
func once(read readFile) readFile {
	type outcome struct {
		data []byte
		err  error
	}
	have := map[string]outcome{}
	return func(name string, max int64) ([]byte, error) {
		o, ok := have[name]
		if !ok {
			o.data, o.err = read(name, max)
			have[name] = o
		}
		return o.data, o.err
	}
}

// TimestampVersion is the version of a timestamp that m's root trusts, and 0 of anything else. Whoever writes a repository
// asks it, so as never to put an older timestamp in the place of a newer one.
func (m Memory) TimestampVersion(data []byte) int64 {
	trusted, err := m.root()
	if err != nil || len(data) > maxTimestampBytes {
		return 0
	}
	md, err := trusted.trusting().UpdateTimestamp(data)
	if err != nil {
		return 0
	}
	return md.Signed.Version
}

// Named is a repository's timestamp and the files that it names, down to the manifest, as they are there. Nothing of them is verified: it is for who
// hands them on to one that verifies them.
func Named(repo fs.FS) (files []File, err error) {
	take := func(name string) ([]byte, error) {
		data, err := read(repo, name, MaxBytes(name))
		files = append(files, File{name, data})
		return data, err
	}
	data, err := take(TimestampName)
	if err != nil {
		return nil, err
	}
	timestamp, err := metadata.Timestamp().FromBytes(data)
	if err != nil {
		return nil, refuseTUF(TimestampName, err)
	}
	want, err := snapshotOf(timestamp.Signed)
	if err != nil {
		return nil, err
	}
	name := snapshotName(want.Version)
	if data, err = take(name); err != nil {
		return nil, err
	}
	snapshot, err := metadata.Snapshot().FromBytes(data)
	if err != nil {
		return nil, refuseTUF(name, err)
	}
	if want, err = targetsOf(name, snapshot.Signed); err != nil {
		return nil, err
	}
	name = targetsName(want.Version)
	if data, err = take(name); err != nil {
		return nil, err
	}
	targets, err := metadata.Targets().FromBytes(data)
	if err != nil {
		return nil, refuseTUF(name, err)
	}
	file, err := manifestOf(name, targets.Signed)
	if err != nil {
		return nil, err
	}
	_, err = take(ManifestName(Digest(file.Hashes["sha256"])))
	return files, err
}

func (c *chain) readTimestamp(trusted *trustedmetadata.TrustedMetadata, read readFile) error {
	data, err := read(TimestampName, maxTimestampBytes)
	if err != nil {
		return err
	}
	md, err := trusted.UpdateTimestamp(data)
	if err != nil {
		return refuseTUF(TimestampName, err)
	}
	c.timestamp, err = word(TimestampName, data, md.Signed, md.Signed.Version, md.Signed.Expires)
	return err
}

func (c *chain) readSnapshot(trusted *trustedmetadata.TrustedMetadata, read readFile) error {
	want, err := snapshotOf(trusted.Timestamp.Signed)
	if err != nil {
		return err
	}
	name := snapshotName(want.Version)
	data, err := readPinned(read, name, maxSnapshotBytes, want.Length)
	if err != nil {
		return err
	}
	md, err := trusted.UpdateSnapshot(data, false)
	if err != nil {
		return refuseTUF(name, err)
	}
	c.snapshot, err = word(name, data, md.Signed, md.Signed.Version, md.Signed.Expires)
	return err
}

func (c *chain) readTargets(trusted *trustedmetadata.TrustedMetadata, read readFile) error {
	want, err := targetsOf(snapshotName(c.snapshot.version), trusted.Snapshot.Signed)
	if err != nil {
		return err
	}
	name := targetsName(want.Version)
	data, err := readPinned(read, name, maxTargetsBytes, want.Length)
	if err != nil {
		return err
	}
	md, err := trusted.UpdateTargets(data)
	if err != nil {
		return refuseTUF(name, err)
	}
	c.targets, err = word(name, data, md.Signed, md.Signed.Version, md.Signed.Expires)
	return err
}

func (c *chain) readManifest(trusted *trustedmetadata.TrustedMetadata, read readFile) error {
	want, err := manifestOf(targetsName(c.targets.version), trusted.Targets[metadata.TARGETS].Signed)
	if err != nil {
		return err
	}
	name := ManifestName(Digest(want.Hashes["sha256"]))
	data, err := readPinned(read, name, MaxManifestBytes, want.Length)
	if err != nil {
		return err
	}
	if err := want.VerifyLengthHashes(data); err != nil {
		return refuseTUF(name, err)
	}
	c.manifestData = data
	if digest := Digest(want.Hashes["sha256"]); c.parsed == nil || c.parsed.digest != digest {
		m, err := parseManifest(data)
		if err != nil {
			return refuse(name, Format, "%v", err)
		}
		c.parsed = &parsed{digest, m}
	}
	return nil
}

// snapshotOf is the snapshot that a timestamp names.
func snapshotOf(timestamp metadata.TimestampType) (*metadata.MetaFiles, error) {
	want := timestamp.Meta["snapshot.json"]
	if !pinned(want) {
		return nil, refuse(TimestampName, Format, "must name snapshot.json by version, length and SHA-256")
	}
	return want, nil
}

// targetsOf is the targets that a snapshot of that name names.
func targetsOf(name string, snapshot metadata.SnapshotType) (*metadata.MetaFiles, error) {
	want := snapshot.Meta["targets.json"]
	if !pinned(want) {
		return nil, refuse(name, Format, "must name targets.json by version, length and SHA-256")
	}
	return want, nil
}

// manifestOf is the manifest that targets of that name name.
func manifestOf(name string, targets metadata.TargetsType) (*metadata.TargetFiles, error) {
	want := targets.Targets[manifestTarget]
	if len(targets.Targets) != 1 || want == nil || len(want.Hashes) != 1 || len(want.Hashes["sha256"]) != len(Digest{}) {
		return nil, refuse(name, Format, "must name mesh.json, by SHA-256, and nothing else")
	}
	return want, nil
}

// pinned reports whether a file is named so that only one content can be it.
func pinned(m *metadata.MetaFiles) bool {
	return m != nil && m.Version >= 1 && m.Length >= 1 && len(m.Hashes) == 1 && len(m.Hashes["sha256"]) == len(Digest{})
}

// readPinned reads a file whose length is known.
func readPinned(read readFile, name string, max, length int64) ([]byte, error) {
	if length > max {
		return nil, refuse(name, Oversize, "%d bytes are announced, at most %d may be", length, max)
	}
	data, err := read(name, max)
	if err != nil {
		return nil, err
	}
	if int64(len(data)) != length {
		return nil, refuse(name, Length, "%d bytes, %d are announced", len(data), length)
	}
	return data, nil
}

// word keeps of a verified file what later comparisons need.
func word(name string, data []byte, said any, version int64, expires time.Time) (signed, error) {
	if version < 1 || !validInstant(expires) || expires.IsZero() {
		return signed{}, refuse(name, Format, "needs a version of 1 or more and an expiry in UTC between 2000 and 2200")
	}
	canonical, err := json.Marshal(said)
	if err != nil {
		return signed{}, refuse(name, Format, "%v", err)
	}
	return signed{data: data, version: version, expires: expires, digest: DigestOf(canonical)}, nil
}

// refuseTUF says in our words what the library found.
func refuseTUF(name string, err error) *Error {
	return refuse(name, ruleOfTUF(err), "%s", strings.TrimSpace(err.Error()))
}

func ruleOfTUF(err error) Rule {
	var (
		syntax   *json.SyntaxError
		unsigned *metadata.ErrUnsignedMetadata
		version  *metadata.ErrBadVersionNumber
		mismatch *metadata.ErrLengthOrHashMismatch
	)
	switch {
	case errors.As(err, &syntax), errors.Is(err, io.ErrUnexpectedEOF):
		return Torn
	case errors.As(err, &unsigned):
		return Signature
	case errors.As(err, &version):
		return Rollback
	case errors.As(err, &mismatch):
		return Mismatch
	}
	return Format
}
