package sharedunicast

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// TestReadersHaveShortTurns: each thread of the fast path, which reads a socket, has the shortest turns that there are, no other thread has, and they end with the
// server.
func TestReadersHaveShortTurns(t *testing.T) {
	turns := make(chan bool)
	go func() {
		ownThread()
		attr, err := unix.SchedGetAttr(0, 0)
		turns <- err == nil && attr.Runtime == shortestTurn
	}()
	if !<-turns {
		testenv.Missing(t, "turns of a length that a thread asks for (Linux 6.12)")
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
