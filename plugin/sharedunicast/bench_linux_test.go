package sharedunicast

import (
	"encoding/binary"
	"fmt"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/coredns/caddy"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// processorTime is the processor time that the process, or this thread, has taken.
func processorTime(b *testing.B, who int) time.Duration {
	var u unix.Rusage
	lab.Must(b, unix.Getrusage(who, &u))
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// serverTime reports the processor time of all threads but this one, which asks.
func serverTime(b *testing.B, ask func()) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	all, own, n := processorTime(b, unix.RUSAGE_SELF), processorTime(b, unix.RUSAGE_THREAD), 0
	for b.Loop() {
		ask()
		n++
	}
	took := processorTime(b, unix.RUSAGE_SELF) - all - (processorTime(b, unix.RUSAGE_THREAD) - own)
	b.ReportMetric(float64(took.Nanoseconds())/float64(n), "server-ns/op")
}

// benchServer serves at a loopback address, and returns it.
func benchServer(b *testing.B, properties, backend string) *net.UDPAddr {
	b.Helper()
	port := freePort(b)
	inst, err := caddy.Start(input(fmt.Sprintf("example.org:%s {\n sharedunicast 127.0.53.9 {\n %s\n }\n %s\n}\n", port, properties, backend)))
	lab.Must(b, err)
	b.Cleanup(func() {
		inst.ShutdownCallbacks()
		inst.Stop()
	})
	addr, err := net.ResolveUDPAddr("udp", "127.0.53.9:"+port)
	lab.Must(b, err)
	return addr
}

// BenchmarkUDP is what a query by UDP takes of the server's processor time, system calls and all, with 32 on their way: by the loop,
// with all that can be on, through the chain, and through that of plugin file.
func BenchmarkUDP(b *testing.B) {
	for _, c := range []struct{ name, properties, backend string }{
		{"loop", "", "testwire"}, {"limited", "rrl 100000", "testwire"}, {"chain", "fastpath off", "testwire"}, {"file", "", "file " + zoneFile(b)},
	} {
		b.Run(c.name, func(b *testing.B) {
			addr := benchServer(b, c.properties, c.backend)
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
			lab.Must(b, err)
			defer unix.Close(fd)
			lab.Must(b, unix.Connect(fd, &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte(addr.IP.To4())}))
			wire, err := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA).SetEdns0(1232, false).Pack()
			lab.Must(b, err)
			const flight = 32
			for range flight {
				unix.Write(fd, wire)
			}
			buffer := make([]byte, 4096)
			serverTime(b, func() {
				if _, err := unix.Read(fd, buffer); err != nil {
					b.Fatal(err)
				}
				unix.Write(fd, wire)
			})
		})
	}
}

// BenchmarkConnections is what a query by a TCP connection of its own takes of the server's processor time, with 8 connections open: answered
// by a loop, or handed on to the chain.
func BenchmarkConnections(b *testing.B) {
	for name, qtype := range map[string]uint16{"loop": dns.TypeA, "handed-on": dns.TypeAXFR} {
		b.Run(name, func(b *testing.B) { benchConnections(b, qtype) })
	}
}

func benchConnections(b *testing.B, qtype uint16) {
	addr := benchServer(b, "", "testwire")
	wire, err := new(dns.Msg).SetQuestion("www.example.org.", qtype).SetEdns0(1232, false).Pack()
	lab.Must(b, err)
	wire = append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)
	to := &unix.SockaddrInet4{Port: addr.Port, Addr: [4]byte(addr.IP.To4())}
	open := func() int {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		lab.Must(b, err)
		lab.Must(b, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})) // no port waits
		lab.Must(b, unix.Connect(fd, to))
		unix.Write(fd, wire)
		return fd
	}
	var flight [8]int
	for i := range flight {
		flight[i] = open()
	}
	buffer, at := make([]byte, 4096), 0
	serverTime(b, func() {
		if n, err := unix.Read(flight[at], buffer); n == 0 || err != nil {
			b.Fatal(n, err)
		}
		unix.Close(flight[at])
		flight[at] = open()
		at = (at + 1) % len(flight)
	})
	for _, fd := range flight {
		unix.Close(fd)
	}
}
