package clock

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/facebook/time/ntp/chrony"
	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
)

const base = instant.Wall(1_800_000_000_000_000_000)

func at(wall, mono time.Duration) instant.Instant {
	return instant.Instant{Wall: base.Add(wall), Mono: instant.Mono(mono + time.Hour)}
}

// What chronyd says of itself, and what may be made of it.
func TestChronyJudged(t *testing.T) {
	good := func() chrony.Tracking {
		return chrony.Tracking{RefID: 0xc6336401, Stratum: 3, RefTime: base.Time().Add(-10 * time.Second), LastUpdateInterval: 64,
			CurrentCorrection: -0.001, RootDelay: 0.004, RootDispersion: 0.0005}
	}
	r, err := judge(good(), at(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if want := 3500 * time.Microsecond; r.Sample.Bound.Round(time.Nanosecond) != want {
		t.Errorf("bound %v, want |correction| + delay/2 + dispersion = %v", r.Sample.Bound, want)
	}
	for _, c := range []struct {
		name  string
		spoil func(*chrony.Tracking)
		want  string
	}{
		{"leap 3", func(t *chrony.Tracking) { t.LeapStatus = 3 }, "not synchronised"},
		{"stratum 0", func(t *chrony.Tracking) { t.Stratum = 0 }, "stratum 0"},
		{"stratum 16", func(t *chrony.Tracking) { t.Stratum = 16 }, "stratum 16"},
		{"local", func(t *chrony.Tracking) { t.RefID = refIDLocal }, "its own clock"},
		{"future", func(t *chrony.Tracking) { t.RefTime = base.Time().Add(time.Minute) }, "in the future"},
		{"servers gone", func(t *chrony.Tracking) { t.RefTime = base.Time().Add(-513 * time.Second) }, "8m33s ago, and is late after 8m32s"},
		{"never", func(t *chrony.Tracking) { t.RefTime = time.Unix(0, 0) }, "ago"},
		{"bound 0", func(t *chrony.Tracking) { t.CurrentCorrection, t.RootDelay, t.RootDispersion = 0, 0, 0 }, "not one"},
		{"huge", func(t *chrony.Tracking) { t.RootDispersion = 1e30 }, "not one"},
	} {
		t.Run(c.name, func(t *testing.T) {
			tracking := good()
			c.spoil(&tracking)
			if r, err := judge(tracking, at(0, 0)); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("reading %+v, error %v, want one with %q", r, err, c.want)
			}
		})
	}
	burst := good()
	burst.LastUpdateInterval, burst.RefTime = 2, base.Time().Add(-100*time.Second)
	if _, err := judge(burst, at(0, 0)); err != nil {
		t.Errorf("between the first burst and the first regular poll: %v", err)
	}
}

// A chronyd that hangs, and something that answers nonsense, are reasons and not crashes or delays.
func TestChronyFakes(t *testing.T) {
	for name, c := range map[string]struct {
		answer func([]byte) []byte
		want   string
	}{
		"hangs":        {nil, "does not answer"},
		"garbage":      {func([]byte) []byte { return []byte("hello") }, "does not answer"},
		"empty":        {func([]byte) []byte { return nil }, "does not answer"},
		"echo":         {func(q []byte) []byte { return q }, "does not answer"},
		"unauthorised": {func(q []byte) []byte { return reply(q, 1, 2, 0) }, "does not answer"},
		"null reply":   {func(q []byte) []byte { return reply(q, 1, 0, 0) }, ""},
		"other answer": {func(q []byte) []byte { return reply(q, 5, 0, 1) }, "another question"},
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			go func() {
				b := make([]byte, 2048)
				for {
					n, from, err := conn.ReadFromUDP(b)
					if err != nil {
						return
					}
					if c.answer != nil {
						conn.WriteToUDP(c.answer(b[:n]), from)
					}
				}
			}()
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			began := time.Now()
			r, err := Chrony{conn.LocalAddr().(*net.UDPAddr).AddrPort()}.Poll(ctx)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("reading %+v, error %v, want one with %q", r, err, c.want)
			}
			if time.Since(began) > 2*time.Second {
				t.Errorf("took %v", time.Since(began))
			}
		})
	}
	if _, err := (Chrony{netip.MustParseAddrPort("127.0.0.1:1")}).Poll(t.Context()); err == nil {
		t.Error("nobody listens, and that is no error")
	}
}

// reply makes an answer of chronyd to question q: its kind (5 is tracking), status, and how far its sequence is off.
func reply(q []byte, kind uint16, status uint16, off byte) []byte {
	a := make([]byte, 28+76)
	a[0], a[1] = 6, 2
	copy(a[4:6], q[4:6])
	a[6], a[7] = byte(kind>>8), byte(kind)
	a[8], a[9] = byte(status>>8), byte(status)
	copy(a[16:20], q[8:12])
	a[19] += off
	return a
}

// The kernel is judged by its maximum error, not by the state that adjtimex returns.
func TestKernelJudged(t *testing.T) {
	for _, c := range []struct {
		name  string
		timex unix.Timex
		err   error
		bound time.Duration
		want  string
	}{
		{"synchronised", unix.Timex{Maxerror: 2500}, nil, 2500 * time.Microsecond, ""},
		{"state 5 and STA_UNSYNC", unix.Timex{Maxerror: 2500, Status: unix.STA_UNSYNC}, nil, 2500 * time.Microsecond, ""},
		{"offset in µs", unix.Timex{Maxerror: 1000, Offset: -300}, nil, 1300 * time.Microsecond, ""},
		{"offset in ns", unix.Timex{Maxerror: 1000, Offset: -300, Status: unix.STA_NANO}, nil, 1000*time.Microsecond + 300, ""},
		{"timesyncd", unix.Timex{Maxerror: 0}, nil, 0, "systemd-timesyncd"},
		{"unsynchronised", unix.Timex{Maxerror: 16_000_000}, nil, 0, "not synchronised"},
		{"sandbox", unix.Timex{}, unix.EPERM, 0, "forbidden"},
		{"failure", unix.Timex{}, unix.ENOSYS, 0, "adjtimex"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := Kernel{func(into *unix.Timex) (int, error) { *into = c.timex; return 5, c.err }}.Poll(t.Context())
			if c.want == "" && (err != nil || r.Sample.Bound != c.bound) {
				t.Errorf("bound %v, error %v, want %v", r.Sample.Bound, err, c.bound)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
	if _, err := (Kernel{}).Poll(t.Context()); err != nil {
		t.Logf("this machine's kernel says: %v", err) // either is right; it must not crash
	}
}

// script is a Source that says what the test wants.
type script struct {
	reading Reading
	err     error
}

func (s *script) Poll(context.Context) (Reading, error) { return s.reading, s.err }

// The states of the clock through loss, holdover, a step and recovery.
func TestKeeper(t *testing.T) {
	s := &script{}
	k := NewKeeper(s)
	var now instant.Instant
	k.now = func() instant.Instant { return now }
	poll := func(wall, mono time.Duration, reference instant.Wall, err error) {
		now = at(wall, mono)
		s.err = err
		s.reading = Reading{Sample: instant.Sample{At: now, Bound: time.Millisecond, DriftPPM: 50, Source: "chrony"}, Reference: reference}
		k.poll(t.Context(), time.Second)
	}
	expect := func(what, state, reason string) {
		t.Helper()
		c := k.Status()
		if c.State != state || !strings.Contains(c.Reason, reason) || (c.Sample.Source == "") != (state == Unknown) {
			t.Errorf("%s: %q (%s), sample of %q; want %q (…%s…)", what, c.State, c.Reason, c.Sample.Source, state, reason)
		}
	}
	lost := errors.New("no answer")

	now = at(0, 0)
	expect("before the first poll", Unknown, "not asked yet")
	poll(0, 0, 0, lost)
	expect("never certified", Unknown, "no answer")
	poll(time.Second, time.Second, base, nil)
	expect("certified", Synchronised, "")
	poll(101*time.Second, 101*time.Second, base, lost)
	expect("lost", Holdover, "no answer")
	if bound, err := k.Bound(); err != nil || bound != 6*time.Millisecond {
		t.Errorf("bound after 100 s of holdover %v, %v; want 1ms + 50 ppm of 100 s", bound, err)
	}
	poll(110*time.Second, 110*time.Second, base, nil)
	expect("back", Synchronised, "")
	poll(3600*time.Second, 111*time.Second, base, nil)
	expect("stepped, and chronyd has not noticed", Unknown, "stepped by")
	poll(3601*time.Second, 112*time.Second, base, nil)
	expect("still", Unknown, "stepped by")
	if _, err := k.Bound(); err == nil {
		t.Error("a bound after a step")
	}
	poll(3602*time.Second, 113*time.Second, base.Add(3601*time.Second), nil)
	expect("chronyd has looked again", Synchronised, "")
	now = at(3663*time.Second, 114*time.Second)
	expect("stepped between two polls", Unknown, "stepped")
}
