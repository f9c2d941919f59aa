package meshsync

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// imageCache keeps large zones compiled, so that a restarted node answers without compiling them anew. A file is named
// after the digest of the zone's text and the image's format, and used only if its checksum is right (zone.FromImage);
// whoever can write a right one into the node's own directory could as well write its state, and is trusted. It is read
// into memory and not mapped: there it takes the same room, a disk that fails cannot fail an answer, and nothing has to
// outlive the answers that refer to it. What goes wrong costs time only, and is logged.
type imageCache struct {
	dir  string
	from int // octets of an image from which it is kept
	sync.Mutex
}

// cacheFrom is the size in octets from which a zone's image is kept: below, compiling takes no time worth a file.
const cacheFrom = 1 << 20

func cacheName(text release.Digest) string {
	return fmt.Sprintf("%x-%d.zone", text[:], zone.FormatVersion)
}

// load returns the zone that was compiled from a text, nil if it is not there or not as it was written.
func (c *imageCache) load(text release.Digest) *zone.Zone {
	path := filepath.Join(c.dir, cacheName(text))
	z, err := readImage(path, text)
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

// update keeps the large zones of a release, and of the others only those that are in use.
func (c *imageCache) update(zones, others map[release.Digest]*zone.Zone) {
	c.Lock()
	defer c.Unlock()
	keep := map[string]bool{}
	for digest := range others {
		keep[cacheName(digest)] = true
	}
	for digest, z := range zones {
		if z.ImageSize() < c.from {
			continue
		}
		keep[cacheName(digest)] = true
		if err := c.store(digest, z); err != nil {
			log.Warningf("zone %s is not kept compiled: %v", z.Origin(), err)
		}
	}
	entries, err := os.ReadDir(c.dir)
	if err != nil {
		return // it is made with the first file
	}
	for _, e := range entries {
		if !keep[e.Name()] && (strings.HasSuffix(e.Name(), ".zone") || strings.HasPrefix(e.Name(), ".new-")) {
			os.Remove(filepath.Join(c.dir, e.Name()))
		}
	}
}

// store writes a compiled zone beside its place and moves it there when it is whole.
func (c *imageCache) store(digest release.Digest, z *zone.Zone) error {
	path := filepath.Join(c.dir, cacheName(digest))
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(c.dir, ".new-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = z.WriteImage(f, digest)
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
