package release

import (
	"cmp"
	"crypto"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Init makes the first files of a mesh: version 1 of the root, which ties the signers' keys to their roles, and m under
// it. The Memory is that of one who has verified them; its Root is what nodes are given as root.json.
func Init(m Manifest, by Signers, ends Expiries) ([]File, Memory, error) {
	data, err := makeRoot(by, ends.Root)
	if err != nil {
		return nil, Memory{}, fmt.Errorf("root: %w", err)
	}
	prev, err := NewMemory(data)
	if err != nil {
		return nil, Memory{}, err
	}
	files, mem, err := publish(prev, Versions{}, m, by, ends)
	if err != nil {
		return nil, Memory{}, err
	}
	return append([]File{{RootName(1), data}}, files...), mem, nil
}

// Publish makes the files that put m in the place of what prev last verified: nodes of trees of zones, but for those that are there already,
// manifest, targets, snapshot and, last, the timestamp. It signs with the release and the lease key; ends.Root is not used. What it makes has passed Verify
// against prev, so a release number that was taken, for example, is refused here as a node would refuse it.
func Publish(prev Memory, m Manifest, by Signers, ends Expiries) ([]File, Memory, error) {
	last, prev, err := recollect(prev)
	if err != nil {
		return nil, Memory{}, err
	}
	return publish(prev, last.Versions, m, by, ends)
}

// Overtake signs what prev last verified anew, under versions that are above those of another state as well: two hosts, or one that
// was restored from a backup, have published under the same keys, and who has verified either of the two is to accept this.
func Overtake(prev Memory, other Versions, by Signers, ends Expiries) ([]File, Memory, error) {
	last, prev, err := Restore(prev, nil)
	if err != nil {
		return nil, Memory{}, err
	}
	v := last.Versions
	v.Targets, v.Snapshot, v.Timestamp = max(v.Targets, other.Targets), max(v.Snapshot, other.Snapshot), max(v.Timestamp, other.Timestamp)
	return publish(prev, v, last.Manifest, by, ends)
}

// Renew makes the one file that lengthens the lease of what prev last verified. It needs the lease key only.
func Renew(prev Memory, lease crypto.Signer, until time.Time) ([]File, Memory, error) {
	last, prev, err := recollect(prev)
	if err != nil {
		return nil, Memory{}, err
	}
	timestamp, err := makeTimestamp(last.Versions.Timestamp+1, last.Versions.Snapshot, prev.Snapshot, lease, until)
	if err != nil {
		return nil, Memory{}, err
	}
	return verified(prev, []File{timestamp})
}

func publish(prev Memory, last Versions, m Manifest, by Signers, ends Expiries) ([]File, Memory, error) {
	var older []*tree
	if prev.chain != nil {
		older = prev.chain.parsed.read.trees()
	}
	manifest, m, err := m.encode(older)
	var nodes []File
	if err == nil {
		nodes, err = m.fresh(older)
	}
	if err != nil {
		return nil, Memory{}, fmt.Errorf("manifest: %w", err)
	}
	targets, err := makeTargets(last.Targets+1, manifest, by.Release, ends.Targets)
	if err != nil {
		return nil, Memory{}, err
	}
	snapshot, err := makeSnapshot(last.Snapshot+1, last.Targets+1, targets.Data, by.Release, ends.Snapshot)
	if err != nil {
		return nil, Memory{}, err
	}
	timestamp, err := makeTimestamp(last.Timestamp+1, last.Snapshot+1, snapshot.Data, by.Lease, ends.Timestamp)
	if err != nil {
		return nil, Memory{}, err
	}
	return verified(prev, append(nodes, File{ManifestName(DigestOf(manifest)), manifest}, targets, snapshot, timestamp))
}

// verified hands out files that a node which remembers prev accepts, and what it remembers then. What is not among
// the files is taken from prev.
func verified(prev Memory, files []File) ([]File, Memory, error) {
	made := map[string][]byte{}
	for _, f := range files {
		made[f.Name] = f.Data
	}
	trusted, err := prev.root()
	if err != nil {
		return nil, Memory{}, err
	}
	read := func(name string, max int64) ([]byte, error) {
		if data, ok := made[name]; ok {
			return data, nil
		}
		return prev.read(name, max)
	}
	nodes := &source{read: read}
	if len(files) == 1 { // a lease, under which the zones are what they were
		nodes = nil
	}
	_, mem, err := accept(trusted, prev, read, nodes)
	if err != nil {
		return nil, Memory{}, err
	}
	return files, mem, nil
}

func makeRoot(by Signers, ends time.Time) ([]byte, error) {
	root, err1 := publicOf(by.Root)
	content, err2 := publicOf(by.Release)
	lease, err3 := publicOf(by.Lease)
	if err := errors.Join(err1, err2, err3); err != nil {
		return nil, err
	}
	t := Trust{Expires: ends, Threshold: 1, Root: []ed25519.PublicKey{root}, Release: content, Lease: lease}
	if err := t.check(); err != nil {
		return nil, err
	}
	md, err := rootOf(t)
	if err != nil {
		return nil, err
	}
	return sign(md, by.Root)
}

// publicOf is the public half of a signer's key.
func publicOf(by crypto.Signer) (ed25519.PublicKey, error) {
	if by == nil {
		return nil, errNoKey
	}
	key, ok := by.Public().(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("a %T, want an ed25519 key", by.Public())
	}
	return key, nil
}

func makeTargets(version int64, manifest []byte, by crypto.Signer, ends time.Time) (File, error) {
	md := metadata.Targets(ends.UTC().Truncate(time.Second))
	md.Signed.Version = version
	md.Signed.Targets[manifestTarget] = &metadata.TargetFiles{Length: int64(len(manifest)), Hashes: hashes(manifest)}
	data, err := sign(md, by)
	return file(targetsName(version), data, err)
}

func makeSnapshot(version, targetsVersion int64, targets []byte, by crypto.Signer, ends time.Time) (File, error) {
	md := metadata.Snapshot(ends.UTC().Truncate(time.Second))
	md.Signed.Version = version
	md.Signed.Meta["targets.json"] = pin(targetsVersion, targets)
	data, err := sign(md, by)
	return file(snapshotName(version), data, err)
}

func makeTimestamp(version, snapshotVersion int64, snapshot []byte, by crypto.Signer, ends time.Time) (File, error) {
	md := metadata.Timestamp(ends.UTC().Truncate(time.Second))
	md.Signed.Version = version
	md.Signed.Meta["snapshot.json"] = pin(snapshotVersion, snapshot)
	data, err := sign(md, by)
	return file(TimestampName, data, err)
}

func file(name string, data []byte, err error) (File, error) {
	if err != nil {
		return File{}, fmt.Errorf("%s: %w", name, err)
	}
	return File{name, data}, nil
}

func pin(version int64, data []byte) *metadata.MetaFiles {
	return &metadata.MetaFiles{Version: version, Length: int64(len(data)), Hashes: hashes(data)}
}

func hashes(data []byte) metadata.Hashes {
	d := DigestOf(data)
	return metadata.Hashes{"sha256": d[:]}
}

var errNoKey = errors.New("the private key for this is not at hand")

func sign[T metadata.Roles](md *metadata.Metadata[T], by crypto.Signer) ([]byte, error) {
	if by == nil {
		return nil, errNoKey
	}
	s := &signer{Signer: by}
	if _, err := md.Sign(s); err != nil {
		return nil, cmp.Or(s.fault, err)
	}
	return md.ToBytes(false)
}

// signer gives an ed25519 crypto.Signer the interface that the library wants, and keeps the error that the library drops.
type signer struct {
	crypto.Signer
	fault error
}

func (s *signer) SignMessage(message io.Reader, _ ...signature.SignOption) ([]byte, error) {
	data, err := io.ReadAll(message)
	if err != nil {
		return nil, err
	}
	var signed []byte
	signed, s.fault = s.Sign(nil, data, crypto.Hash(0))
	return signed, s.fault
}

func (s *signer) PublicKey(...signature.PublicKeyOption) (crypto.PublicKey, error) {
	return s.Public(), nil
}
