package depot

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"unicode"
)

// lockName is the file that a writer holds locked. It stays when the writer ends: the lock is the kernel's, not the
// file's, so a writer that was killed holds nothing.
const lockName = ".lock"

// Lock is the right to write to a directory.
type Lock struct {
	f *os.File
}

// LockedError says who else is writing.
type LockedError struct {
	Dir     string
	PID     int    // 0 when the holder could not be read
	Command string // that it was started by, as far as the system tells; ""
}

func (e *LockedError) Error() string {
	switch {
	case e.PID == 0:
		return fmt.Sprintf("%s is being written by another process", e.Dir)
	case e.Command == "":
		return fmt.Sprintf("%s is being written by process %d", e.Dir, e.PID)
	}
	return fmt.Sprintf("%s is being written by process %d (%s)", e.Dir, e.PID, e.Command)
}

// LockDir takes the right to write to dir, which exists. It does not wait: held by another process, it is a
// *LockedError. On a disk that has become read-only it is had all the same, and what is then written fails: who only goes on with
// what is there, as a node that starts again does, needs no more.
func LockDir(dir string) (*Lock, error) {
	name := filepath.Join(dir, lockName)
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0o644)
	if errors.Is(err, syscall.EROFS) {
		f, err = os.OpenFile(name, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	}
	if err != nil {
		return nil, err
	}
	err = flock(f)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		defer f.Close()
		pid := holder(f)
		return nil, &LockedError{dir, pid, commandOf(pid)}
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	// The pid is for people only, so a failure to write it does not matter.
	if f.Truncate(0) == nil {
		fmt.Fprintf(f, "%d\n", os.Getpid())
	}
	return &Lock{f}, nil
}

// Unlock gives the right back. To close the file is not enough: a process that is being started has a copy of it, for a moment.
func (l *Lock) Unlock() error {
	return errors.Join(syscall.Flock(int(l.f.Fd()), syscall.LOCK_UN), l.f.Close())
}

func flock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err != syscall.EINTR {
			return err
		}
	}
}

func holder(f *os.File) int {
	text, _ := io.ReadAll(io.LimitReader(f, 20))
	pid, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return pid
}

const maxCommand = 100 // octets that are shown of a process's arguments

// commandOf is a process's arguments, on one line; "" where the system does not tell.
func commandOf(pid int) string {
	f, err := os.Open(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	defer f.Close()
	text, _ := io.ReadAll(io.LimitReader(f, maxCommand))
	words := strings.Map(func(r rune) rune {
		if r == 0 || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(text), "?"))
	return strings.TrimSpace(words)
}
