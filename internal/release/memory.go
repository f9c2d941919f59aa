package release

import (
	"bytes"
	"cmp"
	"slices"
	"strings"
)

// memoryFormat is the only format there is.
const memoryFormat = 1

// MaxStep bounds how far a release number may be above all that were seen, and above Trust.NumbersFrom. So whoever stole the release key
// can raise the numbers by that much with each look of a node, and a new key under a root that has them begin higher undoes what he did,
// also for nodes that saw none of his numbers, or are new. A mesh that makes a release each second takes a hundred years for one step.
const MaxStep = 1 << 32

// maxKnown bounds the releases that a Memory tells apart by content; lower numbers are refused unseen.
const maxKnown = 64

// Memory is what a node must keep durably against rollback and replay: the newest root it trusts, the last state that
// it verified, whole, so that it can start without a repository (Restore), and which releases it has seen, which
// outlives a change of keys (SYNC-G). Make the first with NewMemory; it is a value, and Verify returns the next one.
//
// Its encoding is one line of JSON: {"format":1,"root":BASE64,"timestamp":BASE64,"snapshot":BASE64,"targets":BASE64,
// "manifest":BASE64,"mesh":"jp","current":7,"known":[{"number":7,"digest":"9f86…"}]}
type Memory struct {
	Format    int    `json:"format"`
	Root      []byte `json:"root"`
	Timestamp []byte `json:"timestamp,omitempty"`
	Snapshot  []byte `json:"snapshot,omitempty"`
	Targets   []byte `json:"targets,omitempty"`
	Manifest  []byte `json:"manifest,omitempty"`

	Mesh    string  `json:"mesh,omitempty"`    // whose repository this is; learnt with the first manifest
	Current uint64  `json:"current,omitempty"` // highest number seen as current
	Known   []Known `json:"known,omitempty"`   // releases seen, by number

	chain *chain // what was verified last; nil: nothing. It spares work, and is believed for its own octets only
}

// Known is a release that was seen.
type Known struct {
	Number uint64 `json:"number"`
	Digest Digest `json:"digest"` // of its canonical encoding, but for its switchover: see Release.contentDigest
}

// NewMemory starts from a root that the operator gave: the bytes of root.json.
func NewMemory(root []byte) (Memory, error) {
	if _, err := parseRoot("root.json", root); err != nil {
		return Memory{}, err
	}
	return Memory{Format: memoryFormat, Root: slices.Clone(root)}, nil
}

// ParseMemory reads what Encode wrote. A memory that is torn is an error: forgetting it silently would let a replayed
// repository in.
func ParseMemory(data []byte) (Memory, error) {
	if len(data) > MaxMemoryBytes {
		return Memory{}, refuse("memory", Oversize, "%d bytes, more than %d", len(data), MaxMemoryBytes)
	}
	var m Memory
	if err := decodeStrict(data, &m); err != nil {
		return Memory{}, refuse("memory", Torn, "%v", err)
	}
	if err := m.Validate(); err != nil {
		return Memory{}, err
	}
	return m, nil
}

// Validate says what is wrong with a memory that was decoded as a part of something else.
func (m Memory) Validate() error {
	if m.Format != memoryFormat {
		return refuse("memory", Format, "format %d, this version reads %d", m.Format, memoryFormat)
	}
	if len(m.Known) > maxKnown || !slices.IsSortedFunc(m.Known, byNumber) {
		return refuse("memory", Format, "known must be sorted by number and at most %d", maxKnown)
	}
	if _, err := parseRoot("root", m.Root); err != nil {
		return inMemory(err)
	}
	return nil
}

// Encode is what a node writes to disk.
func (m Memory) Encode() ([]byte, error) { return encodeLine(m) }

// Knowing is m with what another memory of this process has verified: of that, only what is other in m is read and verified by Restore.
func (m Memory) Knowing(other Memory) Memory {
	m.chain = other.chain
	return m
}

// Verified reports whether m holds a verified state, or a root only.
func (m Memory) Verified() bool { return len(m.Timestamp) > 0 }

// Files are those that put what m has verified into a repository; v is Restore(m)'s. The order is that in which they go in.
func (m Memory) Files(v Versions) []File {
	return []File{
		{RootName(v.Root), m.Root},
		{ManifestName(DigestOf(m.Manifest)), m.Manifest},
		{targetsName(v.Targets), m.Targets},
		{snapshotName(v.Snapshot), m.Snapshot},
		{TimestampName, m.Timestamp},
	}
}

// root is the root that m trusts.
func (m Memory) root() (*root, error) {
	if m.chain != nil && bytes.Equal(m.chain.root.data, m.Root) {
		return m.chain.root, nil
	}
	return parseRoot("memory", m.Root)
}

// Trust is what m's root says, as TrustOf reads it.
func (m Memory) Trust() (Trust, error) {
	r, err := m.root()
	if err != nil {
		return Trust{}, err
	}
	return trustOf(r.signed.Signed)
}

// read hands out the remembered files under the names that the chain asks for.
func (m Memory) read(name string, max int64) ([]byte, error) {
	data := map[string][]byte{
		"timestamp.json": m.Timestamp, "snapshot.json": m.Snapshot, "targets.json": m.Targets, manifestTarget: m.Manifest,
	}[kindOf(name)]
	if len(data) == 0 {
		return nil, refuse(name, Missing, "not remembered")
	}
	if int64(len(data)) > max {
		return nil, refuse(name, Oversize, "more than %d bytes", max)
	}
	return data, nil
}

// kindOf strips directory and version or digest: metadata/3.snapshot.json is a snapshot.json.
func kindOf(name string) string {
	base := name[strings.LastIndexByte(name, '/')+1:]
	if before, kind, ok := strings.Cut(base, "."); ok && before != "timestamp" {
		return kind
	}
	return base
}

// remember is m after c was verified, or the reason why c contradicts m.
func (m Memory) remember(c *chain) (Memory, error) {
	name, manifest := ManifestName(c.parsed.digest), c.parsed.manifest()
	if m.Mesh != "" && manifest.Mesh != m.Mesh {
		return m, refuse(name, WrongMesh, "mesh %q, this node belongs to %q", manifest.Mesh, m.Mesh)
	}
	if m.chain == nil || m.chain.parsed != c.parsed { // otherwise it was learnt before
		known, err := m.learn(name, manifest, c.root.numbersFrom)
		if err != nil {
			return m, err
		}
		m.Known = known
	}
	m.chain = c
	if r := manifest.Current; r != nil {
		m.Current = r.Number
	}
	m.Mesh = manifest.Mesh
	m.Root, m.Timestamp, m.Snapshot, m.Targets, m.Manifest =
		c.root.data, c.timestamp.data, c.snapshot.data, c.targets.data, c.manifestData
	return m, nil
}

// learn checks the releases of a manifest against those seen, and adds them. A number that was passed over is not
// taken later: numbers only rise, and a cancelled release is followed by a higher one.
func (m Memory) learn(name string, manifest Manifest, from uint64) ([]Known, error) {
	if manifest.Current == nil && m.Current > 0 {
		return nil, refuse(name, Rollback, "no current release, after number %d was current", m.Current)
	}
	if manifest.Current != nil && manifest.Current.Number < m.Current {
		return nil, refuse(name, Rollback, "current release %d, after number %d was current", manifest.Current.Number, m.Current)
	}
	known := slices.Clone(m.Known)
	for r := range manifest.Releases() {
		if err := m.near(name, r.Number, from); err != nil {
			return nil, err
		}
		seen, digest, err := learnOne(name, m.Known, r)
		if err != nil {
			return nil, err
		}
		if seen < len(m.Known) {
			known[seen].Digest = digest
		} else {
			known = append(known, Known{r.Number, digest})
		}
	}
	slices.SortFunc(known, byNumber)
	return prune(known, manifest.Current), nil
}

// near refuses a number that is too far above those that were seen, and above where numbers begin.
func (m Memory) near(name string, number, from uint64) error {
	highest := max(m.Current, from)
	if n := len(m.Known); n > 0 {
		highest = max(highest, m.Known[n-1].Number)
	}
	if number > highest && number-highest > MaxStep {
		return refuse(name, NumberTooFar, "release %d, after number %d: a step may be %d", number, highest, uint64(MaxStep))
	}
	return nil
}

// learnOne is the digest of r, and which of those known r is; it is after all of them if it was not seen.
func learnOne(name string, known []Known, r *Release) (int, Digest, error) {
	digest, err := contentDigest(r.encoded())
	if err != nil {
		return 0, digest, refuse(name, Format, "%v", err)
	}
	i, seen := slices.BinarySearchFunc(known, Known{Number: r.Number}, byNumber)
	switch {
	case seen && known[i].Digest != digest && !r.wasSeenAs(known[i].Digest):
		return 0, digest, refuse(name, NumberReused, "release %d was seen with other zones", r.Number)
	case !seen && i < len(known):
		return 0, digest, refuse(name, Rollback, "release %d is new, after number %d was seen", r.Number, known[len(known)-1].Number)
	}
	return i, digest, nil
}

// Contradicts reports whether m knows a release of the same number, and with other zones.
func (m Memory) Contradicts(r *Release) bool {
	_, _, err := learnOne("", m.Known, r)
	rule, _ := RuleOf(err)
	return rule == NumberReused
}

// prune forgets what is below the current release, and cancelled releases in the middle when there are too many.
func prune(known []Known, current *Release) []Known {
	if current != nil {
		known = slices.DeleteFunc(known, func(k Known) bool { return k.Number < current.Number })
	}
	if extra := len(known) - maxKnown; extra > 0 {
		known = slices.Delete(known, 1, 1+extra)
	}
	return known
}

func byNumber(a, b Known) int { return cmp.Compare(a.Number, b.Number) }

// contentDigest covers what may never change about a release: number and zones, which may be named by the root of their tree.
func contentDigest(e *encodedRelease) (Digest, error) {
	r := *e
	r.Release = r.Withdrawn()
	line, err := encodeLine(r)
	if err != nil {
		return Digest{}, err
	}
	return DigestOf(line), nil
}

// wasSeenAs reports whether r has a digest when its zones are in the other form: in a list, as in the formats before ManifestFormat, or in a tree. A
// release keeps its number when the format goes on.
func (r *Release) wasSeenAs(digest Digest) bool {
	var other *encodedRelease
	switch t := r.grown(); {
	case t != nil && t.root != nil:
		list := *r
		list.Zones = r.List()
		other = list.listed()
	case t == nil && len(r.Zones) > inlineZones:
		t, err := grow(r.Zones, nil)
		if err != nil {
			return false
		}
		other = r.listed()
		other.Zones, other.Tree = nil, &t.ref
	default:
		return false
	}
	d, err := contentDigest(other)
	return err == nil && d == digest
}
