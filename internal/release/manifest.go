package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Formats of a manifest. A reader takes all. In OldFormat a switchover that is set is made, unless a later manifest moves it; in later
// ones it is proposed until it is committed, and then made. In ManifestFormat zones have roots, and packs. A host goes on to a
// format when it knows that all members read it, and never back.
const (
	ManifestFormat = 3
	ProposalFormat = 2
	OldFormat      = 1
)

// Bounds of a manifest.
const (
	MaxZones     = 100_000
	MaxMembers   = 100_000
	MaxOperators = 1_000
	MaxDeltas    = 4        // of a zone
	MaxPacks     = 32       // of a zone, and MaxEarlier before those
	MaxPackBytes = 64 << 20 // of a pack that is unpacked
	MaxKeys      = 2        // of a member: one that is replaced, and the one that replaces it
	MinEpsilonMS = 1
	MaxEpsilonMS = 10_000
	// DefaultEpsilonMS is the clock error that members must keep when nothing else is said.
	DefaultEpsilonMS = 100
)

// Manifest is what the mesh as a whole is to answer from, and who the mesh is: the one signed statement of a
// repository. Its encoding is canonical: one line of JSON, keys in the order below, no blanks, a final newline.
//
//	{"format":3,"mesh":"jp","epsilon_ms":100,
//	 "current":{"number":7,"switchover":"2026-11-22T10:00:00Z","zones":[
//	   {"origin":"example.org.","serial":2026112201,"sha256":"9f86…","length":48213,
//	    "blob":{"sha256":"60303a…","length":11876},"root":"1b2c…",
//	    "packs":[{"from":"77aa…","length":812,"blob":{"sha256":"0f9d…","length":402}}]}]},
//	 "next":{"number":8,"switchover":"2026-11-22T11:00:00Z","decide":"2026-11-22T10:59:55Z","committed":true,"zones":[…]},
//	 "members":[{"name":"fra","admin":"https://198.51.100.7:8443","keys":["5d41…"]}]}
//
// (broken into lines here only). current is absent until a first release became current; next is absent when nothing is
// staged. In ManifestFormat a release of more than 64 zones has "tree" in place of "zones", at its end: see NodeName. A manifest whose
// encoding is not exactly this is refused.
type Manifest struct {
	Format    int      `json:"format"`            // ManifestFormat, or one before
	Mesh      string   `json:"mesh"`              // name of the mesh: letters, digits, "-", at most 63
	EpsilonMS int      `json:"epsilon_ms"`        // ε, the clock error in milliseconds that members must keep
	Current   *Release `json:"current,omitempty"` // what is answered from until Next's switchover
	Next      *Release `json:"next,omitempty"`    // what is staged, and what follows from its switchover on
	Members   []Member `json:"members"`           // by name, each once
	// Operators are the people and programs that nodes let in by certificates of the role operator or observer: by name, each
	// once, and none of them a member's. While it is absent, such a certificate of the mesh's authority is enough; an empty
	// list lets nobody in. From the first replacement of its key on, the distribution host is in the list too, under its name.
	Operators []Operator `json:"operators,omitzero"`
}

// Release is an immutable, numbered set of zones. Only its switchover may change, and only while it is next.
type Release struct {
	Number uint64 `json:"number"` // from 1; never used twice
	// Switchover is the instant at which the mesh moves to this release, UTC, whole microseconds. For a current
	// release the instant at which it became so; zero for a next one that is staged and not yet scheduled.
	Switchover time.Time `json:"switchover,omitzero"`
	// Of a next release with a switchover: from Decide on, before it, members that know of no commit ask each other.
	Decide    time.Time `json:"decide,omitzero"`
	Committed bool      `json:"committed,omitempty"` // the switchover is made, and never taken back
	Presumed  bool      `json:"presumed,omitempty"`  // nobody is known to have taken the commit, and it is to count as taken: no member finds it void any more
	Without   []string  `json:"without,omitempty"`   // members that it does not wait for, sorted: they follow when it is current
	// Zones are by origin in byte order, each once. They are nil where they are in a tree, as those of a large release are that was read or
	// published; Len, All and Zone are of both. A list that is in a manifest is not changed any more.
	Zones    []Zone    `json:"zones,omitzero"`
	Override *Override `json:"override,omitempty"` // if checks had errors against zones of it

	tree *tree // of the zones, if Zones is nil; see grown
}

// Zone is one zone of a release.
type Zone struct {
	Origin string `json:"origin"` // lower case, with the final dot
	Serial uint32 `json:"serial"` // of the SOA
	SHA256 Digest `json:"sha256"` // of the canonical text, zonefile.Write's output: the zone's own, or that of BaseRoot
	Length int64  `json:"length"` // of that text, in bytes
	Blob   Blob   `json:"blob"`   // the file that holds it
	// SignedUntil is when the first of the zone's signatures ends: UTC, whole seconds; zero if it has none that count. No
	// lease goes beyond it.
	SignedUntil time.Time `json:"signed_until,omitzero"`
	// Deltas are shorter ways to the text for who has an older one. Whoever takes none of them misses nothing. Hosts make none any
	// more in ManifestFormat, where there are packs.
	Deltas []Delta `json:"deltas,omitempty"`
	// Root is the zone's, as zone.Zone has it: who has made the zone of an older one compares with that, and need not have the text.
	// It is zero before ManifestFormat, and where it is of no use: the text is as small as a pack.
	Root Digest `json:"root,omitzero"`
	// BaseRoot is the root of an older zone, whose text Blob holds in place of this one's: this one is made of it by packs. It is zero where
	// the text is the zone's own (Whole).
	BaseRoot Digest `json:"base_root,omitzero"`
	// Earlier is a file of the packs before Packs (EncodeEarlier), back to BaseRoot or beyond; zero if there are none.
	Earlier Blob `json:"earlier,omitzero"`
	// Packs lead from older zones to this one, the oldest first: each makes of its From that of the next, and the last one makes Root.
	Packs []Pack `json:"packs,omitempty"`
}

// Pack is a file of the records by which a zone differs from an older one, as zone.Pack has them.
type Pack struct {
	From   Digest `json:"from"`   // root of the older zone
	Length int64  `json:"length"` // of what is packed, in bytes
	Blob   Blob   `json:"blob"`
}

// Delta is a file that makes a zone's text of an older one of the same zone. Package depot has its format.
type Delta struct {
	From Digest `json:"from"` // of the older text
	Blob Blob   `json:"blob"`
}

// Blob is a compressed zone text in the repository.
type Blob struct {
	SHA256 Digest `json:"sha256"` // of the compressed bytes; its name
	Length int64  `json:"length"` // of the compressed bytes
}

// Member is one node of the mesh.
type Member struct {
	Name  string `json:"name"`  // letters, digits, "-", at most 63
	Admin string `json:"admin"` // its sidecar's administrative plane: https://HOST:PORT
	// Keys are the SHA-256 of the public keys (SubjectPublicKeyInfo) that its certificate may have, the newest first; none
	// if its name in a certificate of the mesh's authority is enough. A key that is not there is one that was revoked.
	Keys []Digest `json:"keys,omitempty"`
}

// Operator is who may look at nodes, or drain them, as the role in the certificate has it.
type Operator struct {
	Name string   `json:"name"`
	Keys []Digest `json:"keys"` // as a member's; at least one
}

// Has reports whether a certificate for this member's name may have a public key.
func (m Member) Has(key Digest) bool { return len(m.Keys) == 0 || slices.Contains(m.Keys, key) }

// Withdrawn is r without a switchover.
func (r Release) Withdrawn() Release {
	r.Switchover, r.Decide, r.Committed, r.Presumed, r.Without = time.Time{}, time.Time{}, false, false, nil
	return r
}

// Newest is the number of the release that was made last; 0 if there is none.
func (m Manifest) Newest() uint64 {
	if r := m.Latest(); r != nil {
		return r.Number
	}
	return 0
}

// Releases yields the releases that the manifest names: the current one, if there is one, then the next one.
func (m Manifest) Releases() iter.Seq[*Release] {
	return func(yield func(*Release) bool) {
		if m.Current != nil && !yield(m.Current) {
			return
		}
		if m.Next != nil {
			yield(m.Next)
		}
	}
}

// Latest is the release that was made last and not replaced; nil if there is none.
func (m Manifest) Latest() (latest *Release) {
	for r := range m.Releases() {
		latest = r
	}
	return latest
}

// Zone is the zone of an origin, lower case with the final dot; nil if the release, which may be nil, does not have it.
func (r *Release) Zone(origin string) *Zone {
	if r == nil {
		return nil
	}
	if t := r.grown(); t != nil {
		return t.zone(origin)
	}
	return zoneIn(r.Zones, origin)
}

func zoneIn(zones []Zone, origin string) *Zone {
	i, ok := slices.BinarySearchFunc(zones, origin, func(z Zone, origin string) int { return strings.Compare(z.Origin, origin) })
	if !ok {
		return nil
	}
	return &zones[i]
}

// Len is how many zones the release has, which may be nil.
func (r *Release) Len() int {
	if r == nil {
		return 0
	}
	if t := r.grown(); t != nil {
		return t.ref.Zones
	}
	return len(r.Zones)
}

// All yields the zones in their order. They are not to be changed.
func (r *Release) All() iter.Seq[*Zone] { return r.Beside() }

// List is a copy of all zones in their order.
func (r *Release) List() []Zone {
	all := make([]Zone, 0, r.Len())
	for _, part := range r.Leaves() {
		all = append(all, part...)
	}
	return all
}

// Epsilon is the clock error that members must keep.
func (m Manifest) Epsilon() time.Duration { return time.Duration(m.EpsilonMS) * time.Millisecond }

// Encode is the canonical encoding of a valid manifest. Trees are named in it, and no part of it.
func (m Manifest) Encode() ([]byte, error) {
	data, _, err := m.encode(nil)
	return data, err
}

// encode is Encode, with the manifest as it is then: it has its trees, of which older ones may have parts.
func (m Manifest) encode(older []*tree) ([]byte, Manifest, error) {
	m, err := m.plant(older)
	if err == nil {
		err = m.Validate()
	}
	if err != nil {
		return nil, m, err
	}
	data, err := encodedManifest{m.Format, m.Mesh, m.EpsilonMS, m.Current.encoded(), m.Next.encoded(), m.Members, m.Operators}.line()
	return data, m, err
}

// encodedManifest is a manifest as it is encoded.
type encodedManifest struct {
	Format    int             `json:"format"`
	Mesh      string          `json:"mesh"`
	EpsilonMS int             `json:"epsilon_ms"`
	Current   *encodedRelease `json:"current,omitempty"`
	Next      *encodedRelease `json:"next,omitempty"`
	Members   []Member        `json:"members"`
	Operators []Operator      `json:"operators,omitzero"`
}

// encodedRelease is a release as it is encoded: with zones, or a tree.
type encodedRelease struct {
	Release
	Tree *treeRef `json:"tree,omitempty"`
}

// encoded is r as it is encoded; nil of nil.
func (r *Release) encoded() *encodedRelease {
	if r == nil {
		return nil
	}
	if t := r.grown(); t != nil {
		named := *r
		named.Zones = nil
		return &encodedRelease{named, &t.ref}
	}
	return r.listed()
}

// listed is r with all its zones, and with an empty list, not none, for no zones.
func (r Release) listed() *encodedRelease {
	if r.Zones == nil {
		r.Zones = []Zone{}
	}
	return &encodedRelease{Release: r}
}

// line is the encoding.
func (e encodedManifest) line() ([]byte, error) {
	if e.Members == nil {
		e.Members = []Member{}
	}
	for _, r := range []**encodedRelease{&e.Current, &e.Next} {
		if *r != nil && (*r).Tree == nil {
			*r = (*r).listed()
		}
	}
	return encodeLine(e)
}

// decoded is the manifest. Zones in trees are not known yet.
func (e encodedManifest) decoded() (Manifest, error) {
	m := Manifest{Format: e.Format, Mesh: e.Mesh, EpsilonMS: e.EpsilonMS, Members: e.Members, Operators: e.Operators}
	for _, r := range []struct {
		from *encodedRelease
		to   **Release
	}{{e.Current, &m.Current}, {e.Next, &m.Next}} {
		if r.from == nil {
			continue
		}
		if err := r.from.validateForm(e.Format); err != nil {
			return m, fmt.Errorf("release %d: %w", r.from.Number, err)
		}
		decoded := r.from.Release
		if r.from.Tree != nil {
			decoded.tree = &tree{ref: *r.from.Tree}
		}
		*r.to = &decoded
	}
	return m, nil
}

// validateForm checks that zones are where their format and their number have them.
func (e *encodedRelease) validateForm(format int) error {
	switch {
	case e.Tree == nil && format >= ManifestFormat && len(e.Zones) > inlineZones:
		return fmt.Errorf("%d zones in the manifest itself, more than %d", len(e.Zones), inlineZones)
	case e.Tree == nil:
		return nil
	case format < ManifestFormat:
		return fmt.Errorf("a tree is of format %d", ManifestFormat)
	case e.Zones != nil:
		return errors.New("zones, and a tree of them")
	}
	return e.Tree.validate()
}

func encodeLine(v any) ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// ParseManifest reads a canonical encoding, and the zones of its trees from a repository, but for what other manifests have
// too; anything else is an error.
func ParseManifest(data []byte, repo fs.FS, others ...Manifest) (Manifest, error) {
	m, err := parseManifest(data)
	if err != nil {
		return Manifest{}, err
	}
	var known []*tree
	for _, o := range others {
		known = append(known, o.trees()...)
	}
	if m, err = m.load(sourceOf(repo), known); err != nil {
		return Manifest{}, err
	}
	return m, nil
}

// parseManifest reads a canonical encoding. Zones in trees are not known yet.
func parseManifest(data []byte) (Manifest, error) {
	if len(data) > MaxManifestBytes {
		return Manifest{}, fmt.Errorf("%d bytes, more than %d", len(data), MaxManifestBytes)
	}
	var e encodedManifest
	if err := decodeStrict(data, &e); err != nil {
		return Manifest{}, err
	}
	m, err := e.decoded()
	if err != nil {
		return Manifest{}, err
	}
	if err := m.Validate(); err != nil {
		return Manifest{}, err
	}
	if canonical, err := e.line(); err != nil || !bytes.Equal(canonical, data) {
		return Manifest{}, errNotCanonical
	}
	return m, nil
}

func decodeStrict(data []byte, into any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("something follows the JSON value")
	}
	return nil
}

// Validate says which rule of the format m breaks, the first it finds.
func (m Manifest) Validate() error {
	if m.Format < OldFormat || m.Format > ManifestFormat {
		return fmt.Errorf("format %d, this version reads %d to %d", m.Format, OldFormat, ManifestFormat)
	}
	if !ValidName(m.Mesh) {
		return fmt.Errorf("mesh %q: a name is 1 to 63 lower-case letters, digits and \"-\"", m.Mesh)
	}
	if m.EpsilonMS < MinEpsilonMS || m.EpsilonMS > MaxEpsilonMS {
		return fmt.Errorf("epsilon_ms %d: must be %d to %d", m.EpsilonMS, MinEpsilonMS, MaxEpsilonMS)
	}
	if err := validMembers(m.Members); err != nil {
		return err
	}
	if err := m.validOperators(); err != nil {
		return err
	}
	if err := m.Current.validate("current"); err != nil {
		return err
	}
	if err := m.Next.validate("next"); err != nil {
		return err
	}
	if err := m.Current.validNoProposal("current"); err != nil {
		return err
	}
	if err := m.validOrder(); err != nil {
		return err
	}
	if err := m.validRoots(); err != nil {
		return err
	}
	return m.validProposal()
}

// validNoProposal refuses what only a proposed switchover has.
func (r *Release) validNoProposal(which string) error {
	if r != nil && (!r.Decide.IsZero() || r.Committed || r.Presumed || len(r.Without) > 0) {
		return fmt.Errorf("%s: decide, committed, presumed and without are of a next release with a switchover", which)
	}
	return nil
}

// validProposal checks how far the next release's switchover is decided.
func (m Manifest) validProposal() error {
	next := m.Next
	if next == nil || next.Switchover.IsZero() || m.Format == OldFormat {
		return next.validNoProposal("next")
	}
	if !validInstant(next.Decide) || !next.Decide.Before(next.Switchover) || next.Decide.IsZero() {
		return fmt.Errorf("next: decide %s must be UTC, whole microseconds, before the switchover", next.Decide)
	}
	if next.Presumed && !next.Committed {
		return errors.New("next: presumed is of a switchover that is committed")
	}
	for i, name := range next.Without {
		if i > 0 && name <= next.Without[i-1] {
			return fmt.Errorf("next: without: %s: must be sorted by name, each once", name)
		}
		if _, member := slices.BinarySearchFunc(m.Members, name, func(m Member, name string) int { return strings.Compare(m.Name, name) }); !member {
			return fmt.Errorf("next: without: %s is no member", name)
		}
	}
	return nil
}

// validRoots refuses what readers of a format before do not know.
func (m Manifest) validRoots() error {
	if m.Format >= ManifestFormat {
		return nil
	}
	for r := range m.Releases() {
		for i := range r.Zones {
			if z := &r.Zones[i]; z.Root != (Digest{}) || z.BaseRoot != (Digest{}) || z.Earlier != (Blob{}) || len(z.Packs) > 0 {
				return fmt.Errorf("release %d: zone %q: root, base_root, earlier and packs are of format %d", r.Number, z.Origin, ManifestFormat)
			}
		}
	}
	return nil
}

// validOrder checks current against next.
func (m Manifest) validOrder() error {
	if m.Current != nil && m.Current.Switchover.IsZero() {
		return errors.New("current: switchover is missing")
	}
	if m.Current == nil || m.Next == nil {
		return nil
	}
	if m.Next.Number <= m.Current.Number {
		return fmt.Errorf("next: number %d must be above the current %d", m.Next.Number, m.Current.Number)
	}
	if !m.Next.Switchover.IsZero() && !m.Next.Switchover.After(m.Current.Switchover) {
		return errors.New("next: switchover must come after the current release's")
	}
	return nil
}

func validMembers(members []Member) error {
	if len(members) > MaxMembers {
		return fmt.Errorf("%d members, more than %d", len(members), MaxMembers)
	}
	for i, m := range members {
		if !ValidName(m.Name) {
			return fmt.Errorf("member %q: a name is 1 to 63 lower-case letters, digits and \"-\"", m.Name)
		}
		if !validAdmin(m.Admin) {
			return fmt.Errorf("member %s: admin %q must be https://HOST:PORT", m.Name, m.Admin)
		}
		if len(m.Keys) > MaxKeys || len(m.Keys) == 2 && m.Keys[0] == m.Keys[1] {
			return fmt.Errorf("member %s: at most %d keys, each once", m.Name, MaxKeys)
		}
		if i > 0 && m.Name <= members[i-1].Name {
			return fmt.Errorf("member %s: must be sorted by name, each once", m.Name)
		}
	}
	return nil
}

func (m Manifest) validOperators() error {
	if len(m.Operators) > MaxOperators {
		return fmt.Errorf("%d operators, more than %d", len(m.Operators), MaxOperators)
	}
	for i, o := range m.Operators {
		if !ValidName(o.Name) {
			return fmt.Errorf("operator %q: a name is 1 to 63 lower-case letters, digits and \"-\"", o.Name)
		}
		if len(o.Keys) < 1 || len(o.Keys) > MaxKeys || len(o.Keys) == 2 && o.Keys[0] == o.Keys[1] {
			return fmt.Errorf("operator %s: 1 to %d keys, each once", o.Name, MaxKeys)
		}
		if i > 0 && o.Name <= m.Operators[i-1].Name {
			return fmt.Errorf("operator %s: must be sorted by name, each once", o.Name)
		}
		if _, member := slices.BinarySearchFunc(m.Members, o.Name, func(m Member, name string) int { return strings.Compare(m.Name, name) }); member {
			return fmt.Errorf("operator %s: a member has that name", o.Name)
		}
	}
	return nil
}

func (r *Release) validate(which string) error {
	if r == nil {
		return nil
	}
	if r.Number < 1 {
		return fmt.Errorf("%s: number must be 1 or more", which)
	}
	if !validInstant(r.Switchover) {
		return fmt.Errorf("%s: switchover %s must be UTC, whole microseconds, between 2000 and 2200", which, r.Switchover)
	}
	if r.grown() == nil { // those of a tree were checked with it
		if len(r.Zones) > MaxZones {
			return fmt.Errorf("%s: %d zones, more than %d", which, len(r.Zones), MaxZones)
		}
		if err := validZones(r.Zones); err != nil {
			return fmt.Errorf("%s: %w", which, err)
		}
	}
	if err := r.validateOverride(); err != nil {
		return fmt.Errorf("%s: override: %w", which, err)
	}
	return nil
}

// equal reports whether two zones have the same encoding.
func (z *Zone) equal(o *Zone) bool {
	return z.Origin == o.Origin && z.Serial == o.Serial && z.SHA256 == o.SHA256 && z.Length == o.Length && z.Blob == o.Blob &&
		z.SignedUntil.Equal(o.SignedUntil) && slices.Equal(z.Deltas, o.Deltas) && z.Root == o.Root && z.BaseRoot == o.BaseRoot && z.Earlier == o.Earlier &&
		slices.Equal(z.Packs, o.Packs)
}

func (z *Zone) validate() error {
	if !validOrigin(z.Origin) {
		return errors.New("an origin is a lower-case domain name with its final dot")
	}
	if z.Length < 1 || z.Length > MaxZoneBytes {
		return fmt.Errorf("length %d must be 1 to %d", z.Length, int64(MaxZoneBytes))
	}
	if !validInstant(z.SignedUntil) {
		return fmt.Errorf("signed_until %s must be UTC, whole microseconds, between 2000 and 2200", z.SignedUntil)
	}
	if z.Blob.Length < 1 || z.Blob.Length > MaxZoneBytes {
		return fmt.Errorf("blob length %d must be 1 to %d", z.Blob.Length, int64(MaxZoneBytes))
	}
	if err := z.validateDeltas(); err != nil {
		return err
	}
	return z.validatePacks()
}

func (z *Zone) validateDeltas() error {
	if len(z.Deltas) > MaxDeltas {
		return fmt.Errorf("%d deltas, more than %d", len(z.Deltas), MaxDeltas)
	}
	for i, d := range z.Deltas {
		switch {
		case !z.Whole():
			return errors.New("a delta to a text that is not the zone's own")
		case d.From == z.SHA256:
			return errors.New("a delta from the text itself")
		case slices.ContainsFunc(z.Deltas[:i], func(other Delta) bool { return other.From == d.From }):
			return fmt.Errorf("two deltas from %s", d.From)
		case d.Blob.Length < 1 || d.Blob.Length >= z.Blob.Length:
			return fmt.Errorf("a delta's length %d must be 1 or more, and less than the blob's %d", d.Blob.Length, z.Blob.Length)
		}
	}
	return nil
}

// validInstant holds for zero ("none") too.
func validInstant(t time.Time) bool {
	if t.IsZero() {
		return true
	}
	_, offset := t.Zone()
	return offset == 0 && t.Equal(t.Truncate(time.Microsecond)) && t.Year() >= 2000 && t.Year() < 2200
}

// validOrigin bounds an origin to what the presentation form of a name can be (RFC 1035 5.1); zonefile judges the name.
func validOrigin(s string) bool {
	const maxPresentation = 1004 // 251 octets written \DDD
	if s == "." {
		return true
	}
	if len(s) > maxPresentation || !strings.HasSuffix(s, ".") || strings.HasPrefix(s, ".") || strings.Contains(s, "..") {
		return false
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' || c >= 'A' && c <= 'Z' {
			return false
		}
	}
	return true
}

// ValidName reports whether s can name a mesh or a member.
func ValidName(s string) bool {
	if len(s) < 1 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
}

// validAdmin wants https://HOST:PORT, HOST a name or an address, IPv6 in brackets.
func validAdmin(s string) bool {
	hostport, ok := strings.CutPrefix(s, "https://")
	colon := strings.LastIndexByte(hostport, ':')
	if !ok || colon < 1 || len(hostport) > 260 {
		return false
	}
	host, port := hostport[:colon], hostport[colon+1:]
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return false
	}
	if v6, bracketed := strings.CutPrefix(host, "["); bracketed {
		v6, closed := strings.CutSuffix(v6, "]")
		return closed && v6 != "" && strings.Trim(v6, "0123456789abcdef:.") == ""
	}
	return strings.Trim(strings.ToLower(host), "abcdefghijklmnopqrstuvwxyz0123456789-.") == ""
}
