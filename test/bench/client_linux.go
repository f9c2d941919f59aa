package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// questions are messages to be asked, of the mix that dnsperf asks.
func questions(names zoneNames, n int) (all [][]byte, err error) {
	r := rand.New(rand.NewPCG(11, 12))
	for range n {
		name, qtype := names.query(r)
		q, err := new(dns.Msg).SetQuestion(name, dns.StringToType[qtype]).SetEdns0(1232, false).Pack()
		if err != nil {
			return nil, err
		}
		all = append(all, q)
	}
	return all, nil
}

// onCPU runs f while all threads of this process have only this CPU. Go's threads would otherwise keep the server's CPU from
// falling asleep, and answers come faster by chance.
func onCPU(cpu int, f func() error) error {
	var before, only unix.CPUSet
	only.Set(cpu)
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return err
	}
	if err := pinThreads("self", &only); err != nil {
		return err
	}
	return errors.Join(f(), pinThreads("self", &before))
}

// pinThreads gives all threads of a process, and those that they start, these CPUs.
func pinThreads(pid string, to *unix.CPUSet) error {
	return eachThread(pid, func(id int) error { return unix.SchedSetaffinity(id, to) })
}

// eachThread calls f for each thread of a process, more than once, since one may have been started meanwhile.
func eachThread(pid string, f func(id int) error) error {
	for range 2 {
		threads, err := os.ReadDir("/proc/" + pid + "/task")
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it has ended
		} else if err != nil {
			return err
		}
		for _, t := range threads {
			id, err := strconv.Atoi(t.Name())
			if err != nil {
				return err
			}
			if err := f(id); err != nil && err != unix.ESRCH {
				return err
			}
		}
	}
	return nil
}

// latency asks one question at a time for a while, and returns the median and the 99th percentile of the time to the answer,
// in seconds.
func (r *running) latency(all [][]byte, seconds int) (p50, p99 float64, err error) {
	var took []float64
	err = onCPU(1, func() error {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		timeout := unix.Timeval{Sec: 1}
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout); err != nil {
			return err
		}
		if err := unix.Connect(fd, &unix.SockaddrInet4{Port: r.port, Addr: [4]byte{127, 0, 0, 1}}); err != nil {
			return err
		}
		buffer := make([]byte, 4096)
		for end, i := time.Now().Add(time.Duration(seconds)*time.Second), 0; time.Now().Before(end); i++ {
			began := time.Now()
			if _, err := unix.Write(fd, all[i%len(all)]); err != nil {
				return err
			}
			if _, err := unix.Read(fd, buffer); err != nil {
				continue // a lost one says nothing of the others
			}
			took = append(took, time.Since(began).Seconds())
		}
		return nil
	})
	if err != nil || len(took) == 0 {
		return 0, 0, fmt.Errorf("latency: %d answers, %w", len(took), err)
	}
	slices.Sort(took)
	return took[len(took)/2], took[len(took)*99/100], nil
}

// perStream asks by TCP for a while, so many queries by each connection and all of them at once, and returns the server's
// processor time for an answer in seconds.
func (r *running) perStream(all [][]byte, queries, seconds int) (float64, error) {
	before, answered := r.cpu(), 0
	err := onCPU(1, func() error {
		for end, i := time.Now().Add(time.Duration(seconds)*time.Second), 0; time.Now().Before(end); i += queries {
			if err := r.converse(all, i, queries); err != nil {
				return err
			}
			answered += queries
		}
		return nil
	})
	return (r.cpu() - before).Seconds() / max(float64(answered), 1), err
}

// converse asks so many questions at once by a connection of their own.
func (r *running) converse(all [][]byte, first, queries int) error {
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", r.port))
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.(*net.TCPConn).SetLinger(0) // closed by a reset, its port is free at once: there are not enough of them otherwise
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	var ask []byte
	for i := range queries {
		q := all[(first+i)%len(all)]
		ask = append(binary.BigEndian.AppendUint16(ask, uint16(len(q))), q...)
	}
	if _, err := conn.Write(ask); err != nil {
		return err
	}
	var buffer [1 << 16]byte
	for range queries {
		if _, err := io.ReadFull(conn, buffer[:2]); err != nil {
			return err
		}
		if _, err := io.ReadFull(conn, buffer[:binary.BigEndian.Uint16(buffer[:])]); err != nil {
			return err
		}
	}
	return nil
}
