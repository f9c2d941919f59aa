package hosts

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// kills is how often hosts are killed in TestHostsAreKilledAtEveryStep, at the least.
const kills = 200

// TestHostsAreKilledAtEveryStep kills one host at each of its requests to S3, in each thing that it does, and lets another
// take over: a node that never forgets sees nothing twice and nothing go back, no promise is shortened, no release that was
// acknowledged is lost, and the next release gets through. The rest of the kills hit hosts that serve, at random.
func TestHostsAreKilledAtEveryStep(t *testing.T) {
	w := newWorld(t, 6)
	w.watch()
	killed := 0
	for i, job := range []string{"release", "lease", "member", "schedule", "lease", "release"} {
		a, b := w.hosts[i%2], w.hosts[1-i%2]
		for n := 1; ; n++ {
			done := w.kill(a, n, job)
			if i >= 4 { // the next one may have another thing to do, and finds two things undone
				if !w.kill(b, 1+n%4, "lease") {
					killed++
				}
			}
			w.releases(b)
			if done {
				t.Logf("%s: killed at each of %d requests", job, n-1)
				break
			}
			killed++
		}
	}
	w.killServing(kills - killed)
}

// kill runs a job that is killed at its n-th request.
func (w *world) kill(h *host, n int, job string) (done bool) {
	w.t.Helper()
	var p *process
	switch job {
	case "release":
		if p, done = h.killed(n, w.nextZone()...); done {
			w.ack(p, w.serial)
		}
	case "lease":
		_, done = h.killed(n, "lease", "--for", fmt.Sprint(time.Hour+time.Duration(n)*time.Minute)) // a new promise
	case "member":
		_, done = h.killed(n, "member", "add", fmt.Sprintf("n%d", n), "--admin", fmt.Sprintf("127.0.0.1:%d", n))
	case "schedule":
		_, done = h.killed(n, "schedule", "--force", "--wait", "0s", "--no-wait")
	}
	w.check()
	return done
}

// killServing kills four hosts that serve, n times together, while releases come from two others.
func (w *world) killServing(n int) {
	w.t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	serving := w.hosts[2:]
	running := make([]*process, len(serving))
	held := make([]chan struct{}, len(serving))
	start := func(i int) {
		held[i] = serving[i].arm(1 + random.IntN(10))
		running[i] = serving[i].start("serve", "--listen", "127.0.0.1:0", "--renew", "1s")
	}
	for i := range serving {
		start(i)
	}
	w.t.Logf("%d kills of hosts that serve", n)
	for killed := 0; killed < n; {
		w.releases(w.hosts[killed%2])
		for i, h := range serving {
			select {
			case <-held[i]:
				lab.Must(w.t, running[i].Process.Kill())
				h.release <- false
				running[i].wait(w.t)
				killed++
				start(i)
			case err := <-running[i].ended:
				w.t.Fatalf("a host that serves has ended: %v: %s", err, &running[i].log)
			default: // another round
			}
		}
	}
	for i, h := range serving {
		lab.Must(w.t, running[i].Process.Kill())
		h.release <- false
	}
}

// TestAHostThatStoodStillDoesNoHarm: at each of its requests a host is stopped, and its request delayed, until another has
// published twice. What it does when it goes on is refused, or done on what is in force then.
func TestAHostThatStoodStillDoesNoHarm(t *testing.T) {
	w := newWorld(t, 2)
	w.watch()
	zombie, other := w.hosts[0], w.hosts[1]
	for _, job := range []string{"release", "lease"} {
		for n, done := 1, false; !done; n++ {
			held := zombie.arm(n)
			args := []string{"lease"}
			if job == "release" {
				args = w.nextZone()
			}
			serial := w.serial
			p := zombie.start(args...)
			var err error
			select {
			case <-held:
				lab.Must(t, p.Process.Signal(syscall.SIGSTOP))
				w.releases(other)
				lab.Must(t, other.start("lease").wait(t))
				w.releases(other)
				zombie.line.release <- true
				lab.Must(t, p.Process.Signal(syscall.SIGCONT))
				err = p.wait(t)
			case err = <-p.ended:
				done = true
				t.Logf("%s: %d requests", job, n-1)
			}
			if err != nil {
				t.Fatalf("%s, stopped at request %d: %v: %s", job, n, err, &p.log)
			}
			if job == "release" {
				w.ack(p, serial)
			}
			w.check()
		}
	}
}

// TestAServerThatIsAwayIsWaitedFor: hosts that serve say that the lease cannot be kept, and go on once it can.
func TestAServerThatIsAwayIsWaitedFor(t *testing.T) {
	w := newWorld(t, 2)
	p := w.hosts[0].start("serve", "--listen", "127.0.0.1:0", "--renew", "1s")
	await(t, p, "lease renewed")
	w.server.Stop()
	await(t, p, "the lease cannot be kept")
	w.server.Start()
	await(t, p, "the lease can be kept again")
	w.releases(w.hosts[1])
}

func await(t *testing.T, p *process, what string) {
	t.Helper()
	for end := time.Now().Add(2 * patience); !strings.Contains(p.log.String(), what); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("still waiting for %q: %s", what, &p.log)
		}
	}
}

// TestASecondMeshDoesNotTakeABucketThatHasOne, and its keys stay what they are.
func TestASecondMeshDoesNotTakeABucketThatHasOne(t *testing.T) {
	w := newWorld(t, 1)
	h := &host{t: t, home: t.TempDir() + "/other", line: w.hosts[0].line}
	err := h.start("init", "--repository", w.server.URL("mesh")).wait(t)
	if err == nil || !strings.Contains(err.Error(), "holds a mesh already") || !strings.Contains(err.Error(), "copy the home") {
		t.Fatalf("got %v", err)
	}
	w.releases(w.hosts[0])
}
