package release

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"
)

// View is what a verified repository says.
type View struct {
	Manifest Manifest
	Digest   Digest // of the manifest's encoding
	// LeaseExpires is when the permission to answer from this manifest ends: the earliest of Expires. Whether that
	// has come is judged by internal/mesh.
	LeaseExpires time.Time
	Expires      Expiries
	Versions     Versions
}

// Expiries is when the word of each role ends: UTC, whole seconds.
type Expiries struct {
	Root, Targets, Snapshot, Timestamp time.Time
}

// Earliest is the first of them: the end of the lease.
func (e Expiries) Earliest() time.Time {
	first := e.Timestamp
	for _, t := range []time.Time{e.Snapshot, e.Targets, e.Root} {
		if t.Before(first) {
			first = t
		}
	}
	return first
}

// Versions counts what each role has said, from 1.
type Versions struct {
	Root, Targets, Snapshot, Timestamp int64
}

// Verify judges a repository against what the node remembers. Keep the returned Memory durably, also when err is set:
// then it may still hold a newer root, without which a revoked key would come back. Errors are *Error.
//
// A nil error means that every byte of the view was signed, under a root that descends from mem's, by the roles that
// may say it, and that nothing in it contradicts what mem has seen. It says nothing about expiry.
func Verify(repo fs.FS, mem Memory) (View, Memory, error) {
	trusted, mem, err := walkRoots(repo, mem)
	if err != nil {
		return View{}, mem, err
	}
	from := sourceOf(repo)
	c, next, err := accept(trusted, mem, from.read, from)
	if err != nil {
		return View{}, mem, err
	}
	return c.view(), next, nil
}

// accept verifies a state under a trusted root and against what mem has seen; the Memory is that after it. Without a source of nodes zones in
// trees stay unknown, unless mem knows them.
func accept(trusted *root, mem Memory, read readFile, nodes *source) (*chain, Memory, error) {
	seen, err := recall(trusted, mem)
	if err != nil {
		return nil, mem, err
	}
	if seen != nil {
		mem.chain = seen
	}
	c, err := trusted.chain(read, mem.chain)
	if err != nil {
		return nil, mem, err
	}
	if err := seen.allows(c); err != nil {
		return nil, mem, err
	}
	if nodes != nil {
		if c, err = c.whole(nodes, mem.chain); err != nil {
			return nil, mem, err
		}
	}
	next, err := mem.remember(c)
	return c, next, err
}

// Restore verifies what mem itself holds, so that a node whose repository is gone or broken can start from what it
// last verified. It fails with Missing when mem holds no more than a root. The Memory is mem; with it, its manifest need
// not be read again.
//
// Zones in trees that mem does not know, see Knowing, are read from the repository, which may be nil if mem has come from Verify in this
// process. Where that fails, the error is one of OfZones, and the view that comes with it has all but these zones: SignedUntil and Octets are
// then of those whose files can be read.
func Restore(mem Memory, repo fs.FS) (View, Memory, error) {
	before := mem.chain
	last, mem, err := recollect(mem)
	if err != nil {
		return View{}, mem, err
	}
	from := sourceOf(repo)
	c, err := mem.chain.whole(from, before)
	if err != nil {
		last.Manifest = last.Manifest.partly(from)
		return last, mem, err
	}
	mem.chain = c
	return c.view(), mem, nil
}

// recollect is Restore without the zones of trees.
func recollect(mem Memory) (View, Memory, error) {
	trusted, err := mem.root()
	if err != nil {
		return View{}, mem, err
	}
	if !mem.Verified() {
		return View{}, mem, refuse("memory", Missing, "nothing was verified yet")
	}
	c, err := trusted.chain(mem.read, mem.chain)
	if err != nil {
		return View{}, mem, inMemory(err)
	}
	mem.chain = c
	return c.view(), mem, nil
}

// walkRoots takes every newer root there is, each signed by the one before.
func walkRoots(repo fs.FS, mem Memory) (*root, Memory, error) {
	trusted, err := mem.root()
	if err != nil {
		return nil, mem, err
	}
	for range maxRootSteps {
		name := RootName(trusted.version() + 1)
		data, err := read(repo, name, maxRootBytes)
		if rule, ok := RuleOf(err); ok && rule == Missing {
			return trusted, mem, nil
		}
		if err != nil {
			return nil, mem, err
		}
		if trusted, err = trusted.next(name, data); err != nil {
			return nil, mem, err
		}
		mem.Root = data
	}
	return nil, mem, refuse(RootName(trusted.version()), Format, "more than %d roots in a row", maxRootSteps)
}

// recall verifies the remembered chain under the trusted root. It is nil when there is none, and when a newer root has
// since taken the keys away that signed it: versions then start anew (TUF 5.3.11), release numbers do not (Memory).
func recall(trusted *root, mem Memory) (*chain, error) {
	if !mem.Verified() {
		return nil, nil
	}
	c, err := trusted.chain(mem.read, mem.chain)
	if rule, ok := RuleOf(err); ok && rule == Signature {
		return nil, nil
	}
	if err != nil {
		return nil, inMemory(err)
	}
	return c, nil
}

// allows refuses a chain that is older than c, or as old and different.
func (c *chain) allows(newer *chain) error {
	if c == nil {
		return nil
	}
	for _, role := range []struct {
		name       string
		seen, says signed
	}{
		{TimestampName, c.timestamp, newer.timestamp},
		{snapshotName(newer.snapshot.version), c.snapshot, newer.snapshot},
		{targetsName(newer.targets.version), c.targets, newer.targets},
	} {
		if role.says.version < role.seen.version {
			return refuse(role.name, Rollback, "version %d, after version %d was verified", role.says.version, role.seen.version)
		}
		if role.says.version == role.seen.version && role.says.digest != role.seen.digest {
			return refuse(role.name, Replay, "version %d was verified before with other content", role.says.version)
		}
	}
	return nil
}

// read takes a file whole, unless it is longer than max.
func read(repo fs.FS, name string, max int64) ([]byte, error) {
	f, err := repo.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, refuse(name, Missing, "no such file")
	}
	if err != nil {
		return nil, unreadable(name, err)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, unreadable(name, err)
	}
	if int64(len(data)) > max {
		return nil, refuse(name, Oversize, "more than %d bytes", max)
	}
	return data, nil
}

// RuleOf is the rule of an *Error within err.
func RuleOf(err error) (Rule, bool) {
	var e *Error
	if errors.As(err, &e) {
		return e.Rule, true
	}
	return "", false
}

// inMemory marks an error as one of the node's own memory rather than of the repository.
func inMemory(err error) error {
	var e *Error
	if !errors.As(err, &e) {
		return err
	}
	return refuse("memory", e.Rule, "%s: %s", e.File, e.Detail)
}

// view is what a verified chain says.
func (c *chain) view() View {
	v := View{
		Manifest: c.parsed.manifest(),
		Digest:   c.parsed.digest,
		Expires: Expiries{
			Root: c.root.expires(), Targets: c.targets.expires, Snapshot: c.snapshot.expires, Timestamp: c.timestamp.expires,
		},
		Versions: Versions{
			Root: c.root.version(), Targets: c.targets.version, Snapshot: c.snapshot.version, Timestamp: c.timestamp.version,
		},
	}
	v.LeaseExpires = v.Expires.Earliest()
	return v
}

// String names the releases and the lease, for logs.
func (v View) String() string {
	name := func(r *Release) string {
		if r == nil {
			return "none"
		}
		return fmt.Sprint(r.Number)
	}
	return fmt.Sprintf("current %s, next %s, lease until %s",
		name(v.Manifest.Current), name(v.Manifest.Next), v.LeaseExpires.Format(time.RFC3339))
}
