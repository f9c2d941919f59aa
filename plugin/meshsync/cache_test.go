package meshsync

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// cached makes a node that keeps every zone compiled, lets it answer from release 1, and ends it.
func cached(t *testing.T) (c config, h *host, file string) {
	t.Helper()
	dir, h := nodeDir(t)
	c = newConfig(dir, h)
	c.cacheFrom = 1
	zones := h.zones(1)
	h.current(1, zones)
	n := startNode(t, c)
	n.becomes(1)
	n.close()
	return c, h, filepath.Join(dir, "cache", cacheName(zones[0].SHA256))
}

// A restarted node needs no zone text: it answers from what it compiled before, even if the text is gone.
func TestRestartFromTheCache(t *testing.T) {
	c, h, _ := cached(t)
	must(t, os.RemoveAll(h.path("blobs")))
	startNode(t, c).becomes(1)
}

// Whatever became of the file, the zone is compiled anew and kept anew.
func TestDamagedCacheIsMadeAnew(t *testing.T) {
	for name, damage := range map[string]func(path string) error{
		"empty":   func(path string) error { return os.Truncate(path, 0) },
		"torn":    func(path string) error { return os.Truncate(path, 100) },
		"endless": func(path string) error { return os.Truncate(path, 8<<40) },
		"gone":    os.Remove,
		"a pipe":  func(path string) error { return firstError(os.Remove(path), fifo(path)) },
		"a link":  func(path string) error { return firstError(os.Rename(path, path+".aside"), link(path)) },
		"a directory": func(path string) error {
			return firstError(os.Remove(path), os.Mkdir(path, 0o755), os.WriteFile(filepath.Join(path, "file"), nil, 0o644))
		},
		"flipped": func(path string) error { return flip(path, 200) },
	} {
		t.Run(name, func(t *testing.T) {
			c, h, file := cached(t)
			must(t, damage(file))
			n := startNode(t, c)
			n.becomes(1)
			n.close()
			must(t, os.RemoveAll(h.path("blobs")))
			startNode(t, c).becomes(1)
		})
	}
}

func flip(path string, at int) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	b[at] ^= 1
	return os.WriteFile(path, b, 0o644)
}

// The cache holds what may be answered from, and nothing else of ours.
func TestCacheIsSwept(t *testing.T) {
	c, h, old := cached(t)
	dir := filepath.Dir(old)
	must(t, os.WriteFile(filepath.Join(dir, ".new-1"), nil, 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "note"), nil, 0o644))
	h.current(2, h.zones(2))
	n := startNode(t, c)
	n.becomes(2)
	n = n.restart() // the first may have answered from release 1 while it compiled release 2
	n.becomes(2)
	n.close()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if len(names) != 2 || names[1] != "note" && names[0] != "note" || strings.Contains(strings.Join(names, " "), filepath.Base(old)) {
		t.Errorf("the cache holds %v", names)
	}
}
