package host

import (
	"crypto/ed25519"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/bucket"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// InitOptions describe a new mesh.
type InitOptions struct {
	Mesh    string        // its name
	Epsilon time.Duration // ε, the clock error that members must keep; whole milliseconds
	Lease   time.Duration // length of a lease; whole seconds
	SANs    []string      // names and addresses under which members reach this host
	Shared  []string      // the shared-unicast addresses, for the nodes' configurations
	URLs    []string      // where nodes find the repository, for the same
	Encrypt bool          // keys lie under a passphrase
	CA      string        // file: a certificate authority of the operator's own; "": one is made
	CAKey   string        // file: its key
	Bucket  string        // URL of a bucket to publish in; empty: a directory of the home
}

// Init makes a home: keys, certificates, and a repository that names no release yet. random yields key material. The
// home must not hold a mesh.
func Init(home string, o InitOptions, random io.Reader, clock Clock) (*Host, error) {
	if err := checkLease(o.Lease); err != nil {
		return nil, err
	}
	manifest := release.Manifest{Format: release.ManifestFormat, Mesh: o.Mesh, EpsilonMS: int(o.Epsilon / time.Millisecond)}
	if err := manifest.Validate(); err != nil {
		return nil, err
	}
	for dir, mode := range map[string]os.FileMode{".": 0o755, keysDir: 0o700, pkiDir: 0o700, stateDir: 0o700, nodesDir: 0o700} {
		if err := os.MkdirAll(filepath.Join(home, dir), mode); err != nil {
			return nil, err
		}
	}
	if err := makeRepository(home, o.Bucket); err != nil {
		return nil, err
	}
	s, err := openForWriting(home)
	if err != nil {
		return nil, err
	}
	h := &Host{storage: s, home: home, clock: clock}
	if err := h.init(manifest, o, random); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// makeRepository makes HOME/repository, unless it is there: a directory, or a file that names a bucket.
func makeRepository(home, url string) error {
	name := filepath.Join(home, repoDir)
	if url == "" {
		if info, err := os.Stat(name); err == nil && !info.IsDir() {
			return hint("choose another --home, or say --repository", "%s names a bucket", name)
		}
		repo, err := depot.Create(name)
		if err != nil {
			return err
		}
		return repo.Close()
	}
	b, err := bucket.Open(url)
	if err != nil {
		return err
	}
	defer b.Close()
	if old, err := depot.ReadFile(home, repoDir, maxURLBytes); err == nil && string(old) != url+"\n" || err != nil && !errors.Is(err, fs.ErrNotExist) {
		return hint("choose another --home", "%s is there already", name)
	}
	if err := b.Below(stateDir).Prove(); err != nil {
		return err
	}
	return depot.WriteFile(home, repoDir, []byte(url+"\n"), 0o644)
}

func (h *Host) init(manifest release.Manifest, o InitOptions, random io.Reader) error {
	if err := h.free(); err != nil {
		return err
	}
	keys, err := release.GenerateKeys(random)
	if err != nil {
		return err
	}
	now := h.clock()
	e := ends(now, o.Lease, now.AddDate(rootYears, 0, 0), manifest)
	_, mem, err := release.Init(manifest, keys.Signers(), e)
	if err != nil {
		return err
	}
	if err := h.writeKeys(keys, o.Encrypt); err != nil {
		return err
	}
	if err := h.makeAuthority(o); err != nil {
		return err
	}
	if err := h.writeTemplates(o); err != nil {
		return err
	}
	h.state = State{Format: stateFormat, LeaseSeconds: int64(o.Lease / time.Second)}
	state := h.promised(mem, manifest).note(Event{Event: "init", Detail: "mesh " + o.Mesh}, now)
	data, err := state.encode()
	if err != nil {
		return err
	}
	step("decide")
	if err := h.records.Create(stateName, data); err != nil {
		return err
	}
	return h.load()
}

// free is an error if there is a mesh already, even if its init was killed after it was decided, or if its state was
// lost since: its keys must not be overwritten.
func (h *Host) free() error {
	for name, store := range map[string]depot.Store{stateName: h.records, release.TimestampName: h.repo} {
		_, err := store.Tag(name)
		if err == nil {
			return hint("choose another --home or --repository; for another host of this mesh, copy the home", "%s holds a mesh already", h.home)
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (h *Host) writeKeys(keys release.Keys, encrypt bool) error {
	seal := sealer{encrypt: encrypt}
	for _, k := range []struct {
		kind string
		key  ed25519.PrivateKey
	}{{rootKey, keys.Root}, {releaseKey, keys.Release}, {leaseKey, keys.Lease}, {secondKey, keys.Override}} {
		data, err := seal.encode(k.key)
		if err != nil {
			return err
		}
		if err := depot.WriteFile(h.path(keysDir), k.kind+".pem", data, 0o600); err != nil {
			return err
		}
	}
	public, err := PublicPEM(keys.Override.Public().(ed25519.PublicKey))
	if err != nil {
		return err
	}
	return depot.WriteFile(h.path(keysDir), overridePublic, public, 0o644)
}
