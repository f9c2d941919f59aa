package lab

import (
	"os"
	"path/filepath"
)

// Chronyd writes a configuration for chronyd, and returns what runs it, by the path of its program: in the foreground, and
// without touching any clock (-x). What it needs of files is in the directory and has its name.
func Chronyd(t T, program, dir, name, config string) []string {
	t.Helper()
	pid := filepath.Join(dir, name+".pid")
	os.Remove(pid) // of one that was killed
	file := Write(t, filepath.Join(dir, name+".conf"), config+"\npidfile "+pid+"\n")
	argv := []string{program, "-x", "-U", "-d", "-f", file}
	if os.Geteuid() == 0 {
		argv = append(argv, "-u", "root") // else it would give up root, and with it the directory
	}
	return argv
}
