package release

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
)

// TimestampName is the one file of a repository that is replaced; it goes in last.
const TimestampName = "metadata/timestamp.json"

// Bounds on what is read, in bytes. A file beyond its bound is refused unread.
const (
	maxRootBytes      = 64 << 10
	maxTimestampBytes = 16 << 10
	maxSnapshotBytes  = 16 << 10
	maxTargetsBytes   = 16 << 10
	MaxManifestBytes  = 64 << 20
	MaxMemoryBytes    = 96 << 20 // a Memory holds a manifest in base64 and the metadata
	// MaxZoneBytes bounds the text of a zone, and so what unpacking a blob may write.
	MaxZoneBytes = 64 << 30
	maxRootSteps = 256 // root versions taken in one Verify
)

// RootName is where version v of the root lies.
func RootName(v int64) string { return fmt.Sprintf("metadata/%d.root.json", v) }

func snapshotName(v int64) string { return fmt.Sprintf("metadata/%d.snapshot.json", v) }
func targetsName(v int64) string  { return fmt.Sprintf("metadata/%d.targets.json", v) }

// ManifestName is where the manifest with digest d lies.
func ManifestName(d Digest) string { return "targets/" + d.String() + "." + manifestTarget }

// BlobName is where the blob whose compressed bytes have digest d lies.
func BlobName(d Digest) string { return "blobs/sha256/" + d.String() }

// MaxBytes bounds the file of metadata or the manifest with this name; what is longer is refused unread.
func MaxBytes(name string) int64 {
	switch kindOf(name) {
	case "root.json":
		return maxRootBytes
	case manifestTarget:
		return MaxManifestBytes
	case nodeFile:
		return MaxNodeBytes
	}
	return maxTargetsBytes
}

// manifestTarget is the only target of a repository.
const manifestTarget = "mesh.json"

// File is one file to be put into a repository. The order in which files are handed out is the order in which they go
// in: whoever stops half-way leaves the old state in force.
type File struct {
	Name string `json:"name"`
	Data []byte `json:"data"`
}

// Replaces reports whether the file may replace an older one. All others are written once: a file of that name that
// is there already with other content is a second writer's.
func (f File) Replaces() bool { return f.Name == TimestampName }

// IsNamedByContent reports whether the name of a node of a tree or of a manifest is that of its content. Nothing else can have been written there, so what
// is there in its place is damaged.
func (f File) IsNamedByContent() bool {
	d := DigestOf(f.Data)
	return f.Name == NodeName(d) || f.Name == ManifestName(d)
}

// Digest is a SHA-256. Its text form is 64 lower-case hexadecimal digits.
type Digest [sha256.Size]byte

// DigestOf is the digest of data.
func DigestOf(data []byte) Digest { return sha256.Sum256(data) }

// String is the text form.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText writes the text form.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads the text form.
func (d *Digest) UnmarshalText(text []byte) error {
	if len(text) != hex.EncodedLen(len(d)) {
		return fmt.Errorf("a SHA-256 is 64 hexadecimal digits, not %d", len(text))
	}
	var got Digest
	if _, err := hex.Decode(got[:], text); err != nil {
		return fmt.Errorf("not a SHA-256: %w", err)
	}
	*d = got
	return nil
}
