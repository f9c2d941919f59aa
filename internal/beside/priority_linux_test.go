package beside

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// TestStepBack: the thread steps back, no other one does, and it is gone with its goroutine; but the first thread of a
// process cannot end, and then is at rest for ever.
func TestStepBack(t *testing.T) {
	p, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		t.Fatal(err)
	}
	back := min(20-p+behind, 19)
	before := threadsAt(t, back)
	stepped, end := make(chan int), make(chan struct{})
	go func() {
		StepBack()
		stepped <- unix.Gettid()
		<-end
	}()
	tid := strconv.Itoa(<-stepped)
	if now := threadsAt(t, back); len(now) != len(before)+1 || !slices.Contains(now, tid) {
		t.Errorf("threads %v stepped back, %v before, not %s alone", now, before, tid)
	}
	close(end)
	lab.Eventually(t, func() error {
		if now := threadsAt(t, back); slices.Contains(now, tid) && tid != strconv.Itoa(os.Getpid()) {
			return fmt.Errorf("%s among %v", tid, now)
		}
		return nil
	})
}

// threadsAt are this process's threads of a nice value.
func threadsAt(t *testing.T, nice int) (tids []string) {
	stats, err := filepath.Glob("/proc/self/task/*/stat")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range stats {
		b, _ := os.ReadFile(name) // a thread may have ended
		_, rest, _ := strings.Cut(string(b), ") ")
		if f := strings.Fields(rest); len(f) > 16 && f[16] == strconv.Itoa(nice) { // field 19 of proc_pid_stat(5)
			tids = append(tids, filepath.Base(filepath.Dir(name)))
		}
	}
	return tids
}
