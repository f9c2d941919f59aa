package lab_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// TestAProcessOutlivesTheThread of the goroutine that started it.
func TestAProcessOutlivesTheThread(t *testing.T) {
	in, tell := io.Pipe()
	log := filepath.Join(t.TempDir(), "log")
	started, thread := make(chan *lab.Process), make(chan int, 1)
	go func() {
		runtime.LockOSThread()
		thread <- unix.Gettid()
		started <- lab.Start(t, lab.Command{Argv: []string{"sh", "-c", "read line"}, In: in, Log: log})
	}()
	p, id := <-started, <-thread
	lab.WaitFor(t, "the thread has ended, or is the first", func() bool {
		_, err := os.Stat("/proc/self/task/" + strconv.Itoa(id))
		return id == os.Getpid() || errors.Is(err, os.ErrNotExist)
	})
	tell.Write([]byte("\n"))
	tell.Close()
	if err := p.Wait(); err != nil {
		t.Errorf("it ended: %v", err)
	}
}
