package meshsync

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// imageCache keeps large zones compiled, so that a restarted node answers without compiling them anew. A file is named after the
// root of the zone, or in a manifest without roots after the digest of its text, and after the image's format. It is used only if its
// checksum is right (zone.FromImage); whoever can write a right one into the node's own directory could as well write its state, and is
// trusted. It is read into memory and not mapped: there it takes the same room, a disk that fails cannot fail an answer, and nothing has to
// outlive the answers that refer to it. What goes wrong costs time only, and is logged.
//
// A zone that was made of another by packs is not written while an older one on its way is there: that, and the packs, which lie in
// the depot, are the log. They are applied when the zone is wanted (assemble), and come to the root that was signed or are refused.
type imageCache struct {
	dir  string
	from int // octets of an image from which it is kept
	sync.Mutex
	stands map[string]string // by the file that a zone would have, the one that it is made of at a start
}

// cacheFrom is the size in octets from which a zone's image is kept: below, compiling takes no time worth a file.
const cacheFrom = 1 << 20

// Bounds of what is applied to an image at a start: packs, and their octets as a part of the image's.
const (
	maxLog   = 16
	logShare = 16
)

func cacheName(of release.Digest) string {
	return fmt.Sprintf("%x-%d.zone", of[:], zone.FormatVersion)
}

// files are the names of the files that are there.
func (c *imageCache) files() map[string]bool {
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return nil // it is made with the first file
	}
	names := make(map[string]bool, len(entries))
	for _, e := range entries {
		names[e.Name()] = true
	}
	return names
}

// load returns the zone of a root or text, nil if it is not there or not as it was written.
func (c *imageCache) load(of release.Digest) *zone.Zone {
	path := filepath.Join(c.dir, cacheName(of))
	z, err := readImage(path, of)
	if err == nil {
		return z
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	log.Warningf("%s: %v; the zone is compiled anew", path, err)
	os.RemoveAll(path) // else it would be in the way of the new one
	return nil
}

// readImage reads a compiled zone from a regular file.
func readImage(path string, text release.Digest) (*zone.Zone, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() { // to open a pipe would hang
		return nil, errors.New("not a regular file")
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return zone.FromImage(f, info.Size(), text)
}

// update keeps what the large zones of a release are made of at a start, and of others only what is in use for those that are known.
func (c *imageCache) update(depot *depot.Dir, is *compiled, others known) {
	c.Lock()
	defer c.Unlock()
	there, stands := c.files(), map[string]string{}
	for text, z := range others.kept(c.from) {
		for _, name := range []string{cacheName(text), cacheName(z.Root())} {
			if on := cmp.Or(c.stands[name], name); there[on] {
				stands[name] = on
			}
		}
	}
	for s, z := range is.kept(c.from) {
		name := cacheName(s.Content())
		if stands[name] = c.before(depot, *s, z, there); stands[name] != "" {
			continue
		}
		stands[name] = name
		if err := c.store(s.Content(), z); err != nil {
			log.Warningf("zone %s is not kept compiled: %v", z.Origin(), err)
		}
	}
	c.stands = stands
	keep := map[string]bool{}
	for _, name := range stands {
		keep[name] = true
	}
	for name := range c.files() {
		if !keep[name] && (strings.HasSuffix(name, ".zone") || strings.HasPrefix(name, ".new-")) {
			cacheStep()
			os.Remove(filepath.Join(c.dir, name))
		}
	}
}

// before is the file from which a few packs lead to a zone, if there is one.
func (c *imageCache) before(depot *depot.Dir, signed release.Zone, z *zone.Zone, there map[string]bool) string {
	if signed.Root == (release.Digest{}) || there[cacheName(signed.Root)] {
		return ""
	}
	packs := depot.Way(signed).Packs
	octets := int64(0)
	for i := range min(maxLog, len(packs)) {
		p := packs[len(packs)-1-i]
		if octets += p.Length; octets > int64(z.ImageSize()/logShare) || depot.CheckBlob(p.Blob) != nil {
			return ""
		}
		if name := cacheName(p.From); there[name] {
			return name
		}
	}
	return ""
}

// cacheStep is called before each system call that changes the cache. A test ends the process in it; otherwise it does nothing.
var cacheStep = func() {}

// store writes a compiled zone beside its place and moves it there when it is whole, durably: what it replaces may be removed then.
func (c *imageCache) store(of release.Digest, z *zone.Zone) error {
	path := filepath.Join(c.dir, cacheName(of))
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	cacheStep()
	f, err := os.CreateTemp(c.dir, ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	cacheStep()
	if err = z.WriteImage(f, of); err == nil {
		cacheStep()
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	cacheStep()
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	cacheStep()
	dir, err := os.Open(c.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}
