package depot

import "os"

// probeBytes is what a probe writes: a block, which a file system that is full has no room for.
const probeBytes = 4096

// Writable returns why nothing can be written in dir: it writes a small file there, to the disk, and removes it. The error
// names dir and has the errno. Sweep and the next start remove what a crash left of it.
func Writable(dir string) error {
	f, err := os.CreateTemp(dir, tempPrefix+"probe-*")
	if err != nil {
		return WithoutTemp(err)
	}
	_, err = f.Write(make([]byte, probeBytes))
	if err == nil {
		err = f.Sync()
	}
	for _, e := range []error{f.Close(), os.Remove(f.Name())} {
		if err == nil {
			err = e
		}
	}
	return WithoutTemp(err)
}
