package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/coredns-anycast/coredns-anycast/sidecar/bgp"
	"github.com/coredns-anycast/coredns-anycast/sidecar/config"
)

const (
	// exitHung is the exit code of a process that ended itself since it hung.
	exitHung = 3
	// watchdogLooks is at how many looks in a row nothing must have moved, after half of the time in which there was none, since each look wakes
	// the process. They are counted, not timed: a process that was stopped as a whole, or a machine, finds itself where it was and not hung.
	watchdogLooks = 8
	// lastWords bounds the time for them: what hangs may be the very writing of the log.
	lastWords = 100 * time.Millisecond
	// maxStacks bounds what is said of the goroutines, in octets.
	maxStacks = 64 << 10
)

// watchdog ends the process when the control loop makes no round: sessions end with it, and routes with them, while GoBGP
// would go on to announce what nobody keeps right. It also tells the service manager of rounds, so that a process that
// hangs as a whole is ended too.
type watchdog struct {
	rounds   atomic.Uint64
	last     atomic.Int64 // when the last one was, by time.Since(programBegan)
	manager  manager
	notified time.Time // when the manager was told last; zero until the process is ready
}

// longestRound is how long the control loop may be between two calls of round: the wait for the next one, the word of
// meshsync and a recheck of it or an answer, and a second for a machine that is busy.
func longestRound(p config.Probe) time.Duration { return p.Interval + 2*p.Timeout + time.Second }

// round says that the control loop has got somewhere. It alone calls it.
func (w *watchdog) round() {
	w.rounds.Add(1)
	w.last.Store(int64(time.Since(programBegan)))
	if w.manager.watchdog > 0 && !w.notified.IsZero() && time.Since(w.notified) >= w.manager.watchdog/4 {
		w.notified = time.Now()
		w.manager.tell("WATCHDOG=1")
	}
}

// ready says, once, that the routes are as decided for the first time. The control loop alone calls it.
func (w *watchdog) ready() {
	if w.notified.IsZero() {
		w.notified = time.Now()
		w.manager.tell("READY=1")
	}
}

// programBegan is where the time of rounds begins. Time in which the machine slept does not count.
var programBegan = time.Now()

// watch calls hung when there has been no round for longest, or an eighth more, until ctx ends. longest may change.
func (w *watchdog) watch(ctx context.Context, longest func() time.Duration, hung func()) {
	s := silence{rounds: w.rounds.Load()}
	for {
		most, now := longest(), time.Since(programBegan)
		wait := s.wait(now, time.Duration(w.last.Load()), most)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if s.look(now+wait, time.Since(programBegan), time.Duration(w.last.Load()), most, w.rounds.Load()) {
			hung()
			return
		}
	}
}

// silence is what the looks of a watchdog have found. Its times are by time.Since(programBegan).
type silence struct {
	rounds uint64        // that there had been at the last look
	looks  int           // in time, since the last round, that found none for long
	began  time.Duration // when a look came late: the time without a round counts from there
}

// still is how long it is without a round, after one at last.
func (s *silence) still(now, last time.Duration) time.Duration { return now - max(last, s.began) }

// wait is how long it is to the next look.
func (s *silence) wait(now, last, most time.Duration) time.Duration {
	return max(most/2-s.still(now, last), most/watchdogLooks)
}

// look is a look that was due, and comes now. It reports whether nothing moves. Where it comes late the process stood still, or got no
// processor, and what is watched with it: the look says nothing, and gives that as long again as at first. It takes nothing back, or a loop
// that hangs on a busy machine were never found.
func (s *silence) look(due, now, last, most time.Duration, rounds uint64) (hung bool) {
	switch {
	case rounds != s.rounds:
		s.rounds, s.looks = rounds, 0
	case now-due > most/watchdogLooks:
		s.began = now
	case s.still(now, last) >= most/2:
		s.looks++
	}
	return s.looks > watchdogLooks/2
}

// endHung ends the process, which cannot be trusted to do anything else. Routers that would keep its routes (RFC 4724) are told
// not to, where what hangs is not that too.
func endHung(what string, speaker *bgp.Speaker) {
	said, told := make(chan struct{}), make(chan struct{})
	go func() {
		if speaker != nil {
			speaker.Abandon()
		}
		close(told)
	}()
	go func() {
		stacks := make([]byte, maxStacks)
		fmt.Fprintf(os.Stderr, "%s: ending the process, which ends its sessions and their routes\n%s\n", what, stacks[:runtime.Stack(stacks, true)])
		close(said)
	}()
	late := time.After(lastWords)
	for range 2 {
		select {
		case <-said:
			said = nil
		case <-told:
			told = nil
		case <-late:
			os.Exit(exitHung)
		}
	}
	os.Exit(exitHung)
}

// manager is the service manager, as sd_notify(3) speaks to it: a datagram socket named by the environment. The zero value
// is none.
type manager struct {
	conn     *net.UnixConn
	watchdog time.Duration // how long it waits for a WATCHDOG=1; 0: it does not
}

// findManager looks into the environment. What is wrong there is said and costs nothing but the manager.
func findManager(log *slog.Logger) manager {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return manager{}
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"}) // "@" begins an abstract one
	if err != nil {
		log.Warn("the service manager is not told how this process is", "error", err)
		return manager{}
	}
	m := manager{conn: conn}
	if pid := os.Getenv("WATCHDOG_PID"); pid == "" || pid == strconv.Itoa(os.Getpid()) {
		usec, _ := strconv.ParseUint(os.Getenv("WATCHDOG_USEC"), 10, 40)
		m.watchdog = time.Duration(usec) * time.Microsecond
	}
	return m
}

// tell does not wait for a manager that does not listen.
func (m manager) tell(state string) {
	if m.conn != nil {
		m.conn.SetWriteDeadline(time.Now().Add(10 * time.Millisecond))
		m.conn.Write([]byte(state))
	}
}
