package clock

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/sysclock"
)

// What one writer writes while another process reads is read whole: here the bound and the drift of a segment say the same
// number, and a reader never sees two.
func TestSegmentIsReadWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "shm0")
	s := shm{layout: 2, generation: 2, void: time.Hour, bound: 1, driftPPB: 1, status: cbSynchronized}
	if err := os.WriteFile(path, s.bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() { // as the daemon does it: odd, then piece by piece, then even
		defer close(done)
		for n := uint32(2); ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			e := binary.NativeEndian
			generation := uint16(n%30_000)*2 + 1
			f.WriteAt(e.AppendUint16(nil, generation), 14)
			f.WriteAt(e.AppendUint64(nil, uint64(n)), 48)
			f.WriteAt(e.AppendUint32(nil, n), 64)
			f.WriteAt(e.AppendUint16(nil, generation+1), 14)
			if n%50 == 0 {
				time.Sleep(100 * time.Microsecond)
			}
		}
	}()
	reader, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	whole, different := 0, map[uint64]bool{}
	for deadline := time.Now().Add(30 * time.Second); (whole < 2000 || len(different) < 100) && time.Now().Before(deadline); {
		b, err := snapshot(reader)
		if err != nil {
			continue // it was disturbed each time
		}
		bound, drift := binary.NativeEndian.Uint64(b[48:]), binary.NativeEndian.Uint32(b[64:])
		if bound != uint64(drift) {
			t.Fatalf("a segment torn between %d and %d", bound, drift)
		}
		whole++
		different[bound] = true
	}
	close(stop)
	<-done
	if whole < 2000 || len(different) < 100 {
		t.Errorf("%d whole segments, %d of them different", whole, len(different))
	}
}

// The bound grows from when it was made, at the rate that the segment gives, or ours if that is faster.
func TestSegmentAges(t *testing.T) {
	s := shm{layout: 2, generation: 2, made: -10 * time.Second, void: time.Hour, bound: time.Millisecond, driftPPB: 100_000, status: cbSynchronized}
	for driftPPB, want := range map[uint32]time.Duration{100_000: time.Millisecond + 1010*time.Microsecond, 1000: time.Millisecond + 500*time.Microsecond} {
		s.driftPPB = driftPPB
		sample, bound, err := segment(s.bytes(), sysclock.Now())
		if err != nil || bound != time.Millisecond || (sample.Bound-want).Abs() > 200*time.Microsecond {
			t.Errorf("%d ppb: %+v, %v, %v; want %v", driftPPB, sample, bound, err, want)
		}
	}
}

// No file crashes the reader, and what it takes for a bound is one.
func FuzzClockBound(f *testing.F) {
	now := instant.Instant{Wall: base, Mono: instant.Mono(time.Hour)}
	for _, layout := range []uint16{1, 2} {
		s := shm{layout: layout, generation: 4, void: time.Hour, bound: time.Millisecond, driftPPB: 1000, status: cbSynchronized}
		b := s.bytes()
		binary.NativeEndian.PutUint64(b[16:], 3599)
		binary.NativeEndian.PutUint64(b[32:], 4000)
		if _, _, err := segment(b, now); err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:72])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		b, err := snapshot(bytes.NewReader(b))
		if err != nil {
			return
		}
		sample, bound, err := segment(b, now)
		if err == nil && (bound <= 0 || sample.Bound < bound || sample.Bound > 2*time.Hour || sample.DriftPPM < driftPPM) {
			t.Fatalf("%x gives %+v, %v", b, sample, bound)
		}
	})
}
