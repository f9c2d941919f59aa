package main

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// A load asks at a constant rate, and does not wait for answers. When an answer came is the kernel's word (SO_TIMESTAMPNS),
// so that it does not matter when the bench itself gets a processor.
type load struct {
	fd      int
	queries [][]byte
	sent    [1 << 16]atomic.Int64 // nanoseconds since the epoch, by message ID; 0: nothing is asked
	ended   atomic.Bool
	running sync.WaitGroup

	mu    sync.Mutex
	took  []float64 // seconds, of each answer since the last call of window
	asked int
}

// startLoad asks so many queries a second until stop.
func startLoad(port, rate int, names zoneNames) (*load, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	l := &load{fd: fd}
	timeout := unix.Timeval{Usec: 100_000}
	for _, err := range []error{
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 8<<20),
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout),
		unix.Connect(fd, &unix.SockaddrInet4{Port: port, Addr: [4]byte{127, 0, 0, 1}}),
	} {
		if err != nil {
			unix.Close(fd)
			return nil, fmt.Errorf("the client's socket: %w", err)
		}
	}
	r := rand.New(rand.NewPCG(5, 6))
	for range 1 << 14 {
		name, qtype := names.query(r)
		q, err := new(dns.Msg).SetQuestion(name, dns.StringToType[qtype]).SetEdns0(1232, false).Pack()
		if err != nil {
			return nil, err
		}
		l.queries = append(l.queries, q)
	}
	l.running.Go(func() { l.ask(rate) })
	l.running.Go(l.hear)
	return l, nil
}

func (l *load) stop() {
	l.ended.Store(true)
	l.running.Wait()
	unix.Close(l.fd)
}

func (l *load) ask(rate int) {
	runtime.LockOSThread()
	began := time.Now()
	for n := 0; !l.ended.Load(); n++ {
		due := began.Add(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
		if wait := time.Until(due); wait > 0 {
			pause := unix.NsecToTimespec(int64(wait))
			unix.Nanosleep(&pause, nil)
		}
		q := l.queries[n%len(l.queries)]
		id := uint16(n)
		binary.BigEndian.PutUint16(q, id)
		l.mu.Lock()
		if l.sent[id].Swap(time.Now().UnixNano()) != 0 {
			l.took = append(l.took, math.Inf(1)) // no answer, in all the time that the ID was not used again
		}
		l.asked++
		l.mu.Unlock()
		unix.Write(l.fd, q)
	}
}

func (l *load) hear() {
	runtime.LockOSThread()
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
		}
	}
}

// window returns the 99th percentile of the answers since the last call, in seconds, and forgets them.
func (l *load) window() (p99 float64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.took) == 0 {
		return math.Inf(1)
	}
	slices.Sort(l.took)
	p99 = l.took[len(l.took)*99/100]
	l.took, l.asked = l.took[:0], 0
	return p99
}
