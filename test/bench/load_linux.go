package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A load asks at a constant rate in its turns, and does not wait for answers. When an answer came is the kernel's word (SO_TIMESTAMPNS),
// so that it does not matter when the bench itself gets a processor.
type load struct {
	fd      int
	queries [][]byte
	judge   func(question int, sent, got int64, answer []byte)
	sent    [1 << 16]atomic.Int64 // nanoseconds since the epoch, by message ID; 0: nothing is asked
	late    atomic.Int64          // questions that were put more than a millisecond after their time: whoever asks had no processor; since the last call of window
	lapsed  atomic.Int64          // without an answer in all the time that their ID was not used again, since the last call of window
	paused  atomic.Bool
	ended   atomic.Bool
	running sync.WaitGroup

	mu    sync.Mutex
	took  []float64 // seconds, of each answer since the last call of window
	spare []float64
}

// loadQuestions is how many questions a load asks in turn: as many message IDs are a multiple of it.
const loadQuestions = 1 << 14

// turns are when a load asks, since a time: so many questions a second in each of its turns, and nothing in those of the others.
type turns struct {
	since     time.Time
	rate      int
	length    time.Duration
	mine, all int // which of how many loads it is
}

// always is the one turn of a load that is alone.
func always(rate int) turns { return turns{time.Now(), rate, time.Second, 0, 1} }

// due is when a question is put.
func (t turns) due(n int) time.Time {
	each := max(1, int(float64(t.rate)*t.length.Seconds())) // questions of a turn
	turn := n/each*t.all + t.mine
	return t.since.Add(time.Duration(turn)*t.length + time.Duration(n%each)*t.length/time.Duration(each))
}

// startLoad puts these questions, loadQuestions of them, one after the other to an address until stop, in its turns. judge, unless it
// is nil, is given each answer: to which question, and when, in nanoseconds since the epoch, it was put and answered. A network namespace
// is that of the thread that calls.
func startLoad(to unix.SockaddrInet4, when turns, questions [][]byte, judge func(question int, sent, got int64, answer []byte)) (*load, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	l := &load{fd: fd, queries: questions, judge: judge}
	timeout := unix.Timeval{Usec: 100_000}
	for _, err := range []error{
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
		unix.Connect(fd, &to),
	} {
		if err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("the client's socket: %w", err)
		}
	}
	// The thread that asks keeps a goroutine's place. The runtime would else allow one goroutine at a time while all have one CPU (onCPU).
	runtime.GOMAXPROCS(runtime.NumCPU() + 2)
	l.running.Go(func() { l.ask(when) })
	l.running.Go(l.hear)
	return l, nil
}

// stop ends it, once.
func (l *load) stop() {
	if l.ended.Swap(true) {
		return
	}
	l.running.Wait()
	unix.Close(l.fd)
}

// rest has no more questions put, waits for what may still come, and returns how many questions have no answer that are not counted
// in window.
func (l *load) rest(patience time.Duration) (unanswered int) {
	l.paused.Store(true)
	time.Sleep(patience)
	for i := range l.sent {
		if l.sent[i].Swap(0) != 0 {
			unanswered++
		}
	}
	return unanswered
}

// ask puts the questions. Its system calls are hidden from Go's scheduler, which would have the thread wait for other goroutines when it comes
// back from one.
func (l *load) ask(when turns) {
	runtime.LockOSThread()
	for n := 0; !l.ended.Load() && !l.paused.Load(); n++ {
		due := when.due(n)
		wait := time.Until(due)
		if wait < -time.Millisecond {
			l.late.Add(1)
		}
		for ; wait > longWait && !l.ended.Load() && !l.paused.Load(); wait = time.Until(due) {
			time.Sleep(longWait / 2) // it is the turn of another
		}
		for ; wait > 0 && wait <= longWait; wait = time.Until(due) {
			pause := unix.NsecToTimespec(int64(wait))
			unix.RawSyscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&pause)), 0, 0)
		}
		if wait > 0 {
			break
		}
		q := l.queries[n%len(l.queries)]
		id := uint16(n)
		binary.BigEndian.PutUint16(q, id)
		if l.sent[id].Swap(time.Now().UnixNano()) != 0 {
			l.lapsed.Add(1)
		}
		unix.RawSyscall(unix.SYS_WRITE, uintptr(l.fd), uintptr(unsafe.Pointer(&q[0])), uintptr(len(q)))
	}
}

// longWait is from when on a thread that asks lets others have its place in Go's scheduler.
const longWait = 100 * time.Millisecond

func (l *load) hear() {
	buf, oob := make([]byte, 4096), make([]byte, 128)
	for !l.ended.Load() {
		n, oobn, _, _, err := unix.Recvmsg(l.fd, buf, oob, 0)
		if err != nil || n < 12 {
			continue
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(messages) == 0 || len(messages[0].Data) < 16 {
			continue
		}
		at := int64(binary.NativeEndian.Uint64(messages[0].Data))*int64(time.Second) + int64(binary.NativeEndian.Uint64(messages[0].Data[8:]))
		if sent := l.sent[binary.BigEndian.Uint16(buf)].Swap(0); sent != 0 {
			l.mu.Lock()
			l.took = append(l.took, float64(at-sent)/1e9)
			l.mu.Unlock()
			if l.judge != nil {
				l.judge(int(binary.BigEndian.Uint16(buf))%loadQuestions, sent, at, buf[:n])
			}
		}
	}
}

// window returns how long answers took since the last call, in seconds, in order: infinity for a question without an answer. The
// next call overwrites them.
func (l *load) window() []float64 {
	l.mu.Lock()
	taken := l.took
	l.took, l.spare = l.spare[:0], taken
	l.late.Store(0)
	l.mu.Unlock()
	for range l.lapsed.Swap(0) {
		taken = append(taken, math.Inf(1))
	}
	slices.Sort(taken)
	return taken
}

// p99 is the 99th percentile of what is in order; infinity if there is nothing.
func p99(sorted []float64) float64 {
	if len(sorted) == 0 {
		return math.Inf(1)
	}
	return sorted[len(sorted)*99/100]
}
