package home

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/keys"
	"github.com/coredns-anycast/coredns-anycast/internal/bucket"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// NewMesh describes a mesh that is to be made.
type NewMesh struct {
	Name    string
	Epsilon time.Duration // ε, the clock error that members must keep; whole milliseconds
	Lease   time.Duration // length of a lease; whole seconds
	Encrypt bool          // keys lie under a passphrase
	Bucket  string        // URL of a bucket to publish in; empty: a directory of the home
}

// Create makes a mesh in the home, which must not hold one: keys, and a repository that names no release yet. random yields
// key material. What else belongs to a mesh is made by prepare, before it is decided that there is one.
func (h *Home) Create(ctx context.Context, o NewMesh, random io.Reader, prepare func(h *Home) error) (*Writer, error) {
	if err := CheckLease(o.Lease); err != nil {
		return nil, err
	}
	manifest := release.Manifest{Format: release.ManifestFormat, Mesh: o.Name, EpsilonMS: int(o.Epsilon / time.Millisecond)}
	if err := manifest.Validate(); err != nil {
		return nil, err
	}
	for dir, mode := range map[string]os.FileMode{".": 0o755, keys.Dir: 0o700, stateDir: 0o700} {
		if err := os.MkdirAll(h.Path(dir), mode); err != nil {
			return nil, err
		}
	}
	if err := makeRepository(ctx, h.dir, o.Bucket); err != nil {
		return nil, err
	}
	s, err := h.openForWriting(ctx)
	if err != nil {
		return nil, err
	}
	w := &Writer{home: h, storage: s}
	if err := w.create(ctx, manifest, o, random, prepare); err != nil {
		w.Close()
		return nil, err
	}
	return w, nil
}

// makeRepository makes HOME/repository, unless it is there: a directory, or a file that names a bucket.
func makeRepository(ctx context.Context, home, url string) error {
	name := filepath.Join(home, repoDir)
	if url == "" {
		if info, err := os.Stat(name); err == nil && !info.IsDir() {
			return hint.Errorf("choose another --home, or say --repository", "%s names a bucket", name)
		}
		repo, err := depot.Create(name)
		if err != nil {
			return err
		}
		return repo.Close()
	}
	b, err := bucket.Open(ctx, url)
	if err != nil {
		return err
	}
	defer b.Close()
	if old, err := depot.ReadFile(home, repoDir, maxURLBytes); err == nil && string(old) != url+"\n" || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return hint.Errorf("choose another --home", "%s is there already", name)
	}
	if err := b.Below(stateDir).Prove(); err != nil {
		return err
	}
	return depot.WriteFile(home, repoDir, []byte(url+"\n"), 0o644)
}

func (w *Writer) create(ctx context.Context, manifest release.Manifest, o NewMesh, random io.Reader, prepare func(h *Home) error) error {
	if err := w.free(); err != nil {
		return err
	}
	made, err := release.GenerateKeys(random)
	if err != nil {
		return err
	}
	now := w.Now()
	year := now.AddDate(releaseYears, 0, 0)
	e := release.Expiries{Root: now.AddDate(keys.RootYears, 0, 0), Targets: year, Snapshot: year, Timestamp: earliest(year, now.Add(o.Lease))}
	_, mem, err := release.Init(manifest, made.Signers(), e)
	if err != nil {
		return err
	}
	if err := w.Keys().Put(ctx, made, o.Encrypt); err != nil {
		return err
	}
	if err := prepare(w.home); err != nil {
		return err
	}
	w.state = State{Format: stateFormat, LeaseSeconds: int64(o.Lease / time.Second)}
	state := w.promised(mem).note(Event{Event: "init", Detail: "mesh " + o.Name}, now)
	data, err := state.encode()
	if err != nil {
		return err
	}
	step("decide")
	if err := w.records.Create(stateName, data); err != nil {
		return err
	}
	return w.load(ctx)
}

// ErrMade is wrapped when a mesh is to be made where there is one.
var ErrMade = errors.New("holds a mesh already")

// free is an error if there is a mesh already, even if its init was killed after it was decided, or if its state was
// lost since: its keys must not be overwritten.
func (w *Writer) free() error {
	for name, store := range map[string]depot.Store{stateName: w.records, release.TimestampName: w.repo} {
		_, err := store.Tag(name)
		if err == nil {
			return hint.Errorf("choose another --home or --repository; for another host of this mesh, copy the home", "%s %w", w.home.dir, ErrMade)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}
