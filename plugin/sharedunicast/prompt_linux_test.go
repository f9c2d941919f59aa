package sharedunicast

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// TestReadersHaveShortTurns: each thread of the fast path, which reads a socket, has the shortest turns that there are, no other thread has, and they end with the
// server.
func TestReadersHaveShortTurns(t *testing.T) {
	if !turnsAsAsked() {
		t.Skip("all turns are of one length: Linux is older than 6.12, or sched_setattr(2) is forbidden")
	}
	first := os.Getpid() // a process's first thread cannot end, but rests
	eventually := func(want int, not ...int) {
		t.Helper()
		lab.Eventually(t, func() error {
			found := slices.DeleteFunc(threadsWithShortTurns(t), func(id int) bool { return slices.Contains(not, id) })
			if len(found) != want {
				return fmt.Errorf("threads %v have short turns, want %d", found, want)
			}
			return nil
		})
	}
	eventually(0, first)
	before := threadsWithShortTurns(t)
	t.Run("while it serves", func(t *testing.T) {
		start(t, fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.1\n testwire\n}", freePort(t)))
		eventually(2*udpSockets(), before...) // by UDP and TCP
	})
	eventually(0, first)
}

// turnsAsAsked reports whether a thread gets turns of the length that it asks for.
func turnsAsAsked() bool {
	const length = 2 * shortestTurn
	got := make(chan bool)
	go func() {
		runtime.LockOSThread() // it ends with the goroutine
		attr, err := unix.SchedGetAttr(0, 0)
		if err == nil && attr.Policy == unix.SCHED_NORMAL {
			attr.Runtime = length
			err = unix.SchedSetAttr(0, attr, 0)
		}
		if err == nil {
			attr, err = unix.SchedGetAttr(0, 0)
		}
		got <- err == nil && attr.Runtime == length
	}()
	return <-got
}

// TestReadersKeepWhatWasChosen: a thread that asks for short turns keeps the nice value and the policy that the process was started with (Nice= and
// CPUSchedulingPolicy=, systemd.exec(5)), and asks for nothing where the policy is not the usual one.
func TestReadersKeepWhatWasChosen(t *testing.T) {
	for name, chosen := range map[string]unix.SchedAttr{
		"nice":   {Policy: unix.SCHED_NORMAL, Nice: 19},
		"policy": {Policy: unix.SCHED_BATCH, Nice: 19},
	} {
		var before, after *unix.SchedAttr
		var errs [3]error
		done := make(chan struct{})
		go func() {
			defer close(done)
			runtime.LockOSThread() // it ends with the goroutine
			errs[0] = unix.SchedSetAttr(0, &chosen, 0)
			before, errs[1] = unix.SchedGetAttr(0, 0)
			ownThread()
			after, errs[2] = unix.SchedGetAttr(0, 0)
		}()
		<-done
		if errors.Is(errs[0], unix.EPERM) {
			t.Skip("sched_setattr(2) is forbidden")
		}
		if err := errors.Join(errs[:]...); err != nil {
			t.Fatal(err)
		}
		if chosen.Policy == unix.SCHED_NORMAL {
			before.Runtime = after.Runtime
		}
		if *after != *before || after.Policy != chosen.Policy || after.Nice != chosen.Nice {
			t.Errorf("%s: it was %+v, and is %+v", name, *before, *after)
		}
	}
}

func threadsWithShortTurns(t *testing.T) (found []int) {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		id, err := strconv.Atoi(task.Name())
		if err != nil {
			t.Fatal(err)
		}
		if attr, err := unix.SchedGetAttr(id, 0); err == nil && attr.Runtime == shortestTurn { // a thread may have ended
			found = append(found, id)
		}
	}
	return found
}
