package clock

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/sysclock"
)

// ClockBound reads the memory that AWS's daemon clockbound shares with its clients, by layout 1 or 2 (docs/PROTOCOL.md of
// github.com/aws/clock-bound). In the order of the machine's octets:
//
//	 0  u32 0x414D5A4E, u32 0x43420200      magic
//	 8  u32 size of the segment             72 in layout 1, 80 in layout 2
//	12  u16 layout, u16 generation          odd while the daemon writes, 0 before it ever has
//	16  i64 s, i64 ns                       CLOCK_MONOTONIC_COARSE when the bound was made
//	32  i64 s, i64 ns                       after which it says nothing
//	48  i64 ns                              the bound
//	    layout 1: 56 u32 drift in ppb, 60 u32 reserved, 64 i32 status
//	    layout 2: 56 u64 disruption marker, 64 u32 drift in ppb, 68 i32 status, 72 u8 whether disruptions are noticed
//
// It is read, not mapped, so that a file that shrinks cannot end the process. A disruption (a virtual machine that was
// moved) is noticed by the daemon, which asks the hypervisor once a second.
type ClockBound struct {
	Path     string
	compared falls
}

const (
	cbMagic0, cbMagic1 = 0x414D5A4E, 0x43420200
	cbSize1, cbSize2   = 72, 80
	cbTries            = 20 // of a reader that a writer disturbs each time

	// After that long without news, clockbound's own client calls the clock free running.
	cbFresh = 60 * time.Second
)

// Status words of a segment.
const (
	cbUnknown = iota
	cbSynchronized
	cbFreeRunning
	cbDisrupted
)

func (c *ClockBound) Poll(ctx context.Context) (Reading, error) {
	f, err := os.OpenFile(c.Path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return Reading{}, fmt.Errorf("clockbound: %w (does it run?)", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return Reading{}, fmt.Errorf("clockbound: %s is no regular file", c.Path)
	}
	b, err := snapshot(f)
	if err != nil {
		return Reading{}, fmt.Errorf("clockbound: %s: %w", c.Path, err)
	}
	sample, bound, err := segment(b, sysclock.Now())
	if err != nil {
		return Reading{}, fmt.Errorf("clockbound: %w", err)
	}
	return Reading{Sample: sample, Reference: c.compared.at(sample.At.Wall, bound)}, nil
}

// snapshot is a segment that nobody was writing: two readings in a row are equal, and their generation is even.
func snapshot(f io.ReaderAt) ([]byte, error) {
	var last []byte
	for range cbTries {
		b := make([]byte, cbSize2)
		n, err := f.ReadAt(b, 0)
		if err != nil && err != io.EOF {
			return nil, err
		}
		b = b[:n]
		if n < cbSize1 {
			return nil, fmt.Errorf("%d octets are no segment", n)
		}
		if generation := binary.NativeEndian.Uint16(b[14:]); generation%2 == 0 && bytes.Equal(b, last) {
			return b, nil
		}
		last = b
	}
	return nil, errors.New("it is being written all the time")
}

// segment makes a sample of a snapshot. bound is as the daemon wrote it, before any drift.
func segment(b []byte, now instant.Instant) (s instant.Sample, bound time.Duration, err error) {
	u32, i64 := binary.NativeEndian.Uint32, func(b []byte) int64 { return int64(binary.NativeEndian.Uint64(b)) }
	layout, generation := binary.NativeEndian.Uint16(b[12:]), binary.NativeEndian.Uint16(b[14:])
	size, driftAt, stateAt := cbSize1, 56, 64
	if layout == 2 {
		size, driftAt, stateAt = cbSize2, 64, 68
	}
	switch {
	case u32(b) != cbMagic0 || u32(b[4:]) != cbMagic1:
		return s, 0, errors.New("this is not a segment of clockbound's")
	case layout != 1 && layout != 2:
		return s, 0, fmt.Errorf("its layout is %d, and 1 and 2 are known: clockbound 3 writes layout 2 to /var/run/clockbound/shm0", layout)
	case len(b) < size || u32(b[8:]) < uint32(size):
		return s, 0, fmt.Errorf("a segment of layout %d has %d octets, and says %d: it lacks some", layout, len(b), u32(b[8:]))
	case generation == 0:
		return s, 0, errors.New("it has written nothing yet")
	}
	drift, state := u32(b[driftAt:]), int32(u32(b[stateAt:]))
	awake := now.Mono - instant.Mono(now.Suspended) // CLOCK_MONOTONIC
	made, err1 := timespec(i64(b[16:]), i64(b[24:]))
	void, err2 := timespec(i64(b[32:]), i64(b[40:]))
	bound = time.Duration(i64(b[48:]))
	age := awake.Sub(made)
	switch {
	case err1 != nil || err2 != nil || drift >= 1e9 || bound <= 0 || bound > time.Hour:
		return s, 0, errors.New("the segment holds what cannot be")
	case state == cbUnknown:
		return s, 0, errors.New("its state is unknown: its chronyd is not synchronised")
	case state == cbFreeRunning:
		return s, 0, errors.New("its clock runs free: its chronyd has lost its servers")
	case state == cbDisrupted:
		return s, 0, errors.New("its clock was disrupted (a virtual machine that was moved), and is not bounded")
	case state != cbSynchronized:
		return s, 0, fmt.Errorf("its state is %d, which means nothing", state)
	case age < -time.Millisecond:
		return s, 0, fmt.Errorf("its bound is of the future: not of this boot")
	case awake >= void || age > cbFresh:
		return s, 0, fmt.Errorf("it has written nothing for %v", age.Round(time.Second))
	}
	ppm := max(driftPPM, int64(drift)/1000+1)
	return instant.Sample{At: now, Bound: bound + age.Abs()/1_000_000*time.Duration(ppm), DriftPPM: ppm, Source: "clockbound"}, bound, nil
}

func timespec(s, ns int64) (instant.Mono, error) {
	if s < 0 || s > 1<<32 || ns < 0 || ns >= 1e9 {
		return 0, errors.New("not a timespec")
	}
	return instant.Mono(s*1e9 + ns), nil
}
