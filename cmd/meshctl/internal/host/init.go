package host

import (
	"crypto/ed25519"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

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
	CA      string        // file: a certificate authority of the operator's own; "": one is made
	CAKey   string        // file: its key
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
	h, err := lock(home, clock)
	if err != nil {
		return nil, err
	}
	if err := h.init(manifest, o, random); err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

func (h *Host) init(manifest release.Manifest, o InitOptions, random io.Reader) error {
	if h.taken() {
		return hint("choose another --home", "%s holds a mesh already", h.home)
	}
	keys, err := release.GenerateKeys(random)
	if err != nil {
		return err
	}
	now := h.clock()
	e := ends(now, o.Lease, now.AddDate(rootYears, 0, 0))
	files, mem, err := release.Init(manifest, keys.Signers(), e)
	if err != nil {
		return err
	}
	if err := h.writeKeys(keys); err != nil {
		return err
	}
	if err := h.makeAuthority(o); err != nil {
		return err
	}
	if err := h.writeTemplates(o); err != nil {
		return err
	}
	if h.mem, err = release.NewMemory(mem.Root); err != nil {
		return err
	}
	if err := h.writeMemory(h.mem); err != nil {
		return err
	}
	h.state = State{Format: stateFormat, LeaseSeconds: int64(o.Lease / time.Second)}
	if err := h.commit(h.promised(mem, manifest), files); err != nil {
		return err
	}
	return h.note(Event{Event: "init", Detail: "mesh " + o.Mesh})
}

// taken reports whether the home holds a mesh: one that was decided, even if its init was killed after that, or if some
// of its state was lost since. Its keys must not be overwritten.
func (h *Host) taken() bool {
	for _, name := range []string{journalName, stateName} {
		if _, err := os.Lstat(h.path(stateDir, name)); err == nil {
			return true
		}
	}
	mem, err := readMemory(h.home)
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	return err != nil || mem.Verified()
}

func (h *Host) writeKeys(keys release.Keys) error {
	for _, k := range []struct {
		name string
		key  ed25519.PrivateKey
	}{{"root", keys.Root}, {"release", keys.Release}, {"lease", keys.Lease}} {
		data, err := release.EncodeKey(k.key)
		if err != nil {
			return err
		}
		if err := depot.WriteFile(h.path(keysDir), k.name+".pem", data, 0o600); err != nil {
			return err
		}
	}
	return nil
}
