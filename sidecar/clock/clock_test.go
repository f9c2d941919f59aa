package clock

import (
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"math"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/facebook/time/ntp/chrony"
	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

const base = instant.Wall(1_800_000_000_000_000_000)

func at(wall, mono time.Duration) instant.Instant {
	return instant.Instant{Wall: base.Add(wall), Mono: instant.Mono(mono + time.Hour)}
}

// wire has one answer ready.
type wire struct{ answer []byte }

func (w wire) Write(b []byte) (int, error) { return len(b), nil }
func (w wire) Read(b []byte) (int, error)  { return copy(b, w.answer), nil }

// No answer of a chronyd's crashes the reader, and what it takes for a bound is one.
func FuzzChrony(f *testing.F) {
	question := make([]byte, 104)
	binary.BigEndian.PutUint32(question[8:], 1) // the first sequence number
	good := reply(question, 5, 0, 0)
	f.Add(good)
	f.Add(good[:60])
	f.Add(reply(question, 1, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Chrony{}.ask(wire{b}, at(0, 0))
		if err == nil && (r.Sample.Bound <= 0 || r.Sample.Bound > time.Hour || r.Reference == 0) {
			t.Fatalf("%x gives %+v", b, r)
		}
	})
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
	if want := 3500 * time.Microsecond; r.Bound.Round(time.Nanosecond) != want {
		t.Errorf("bound %v, want |correction| + delay/2 + dispersion = %v", r.Bound, want)
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
		{"huge twice", func(t *chrony.Tracking) { t.CurrentCorrection, t.RootDispersion = 1e30, 1e30 }, "not one"},
		{"no number", func(t *chrony.Tracking) { t.RootDelay = math.NaN() }, "not one"},
		{"an interval without end", func(t *chrony.Tracking) {
			t.LastUpdateInterval, t.RefTime = math.Inf(1), base.Time().AddDate(-1, 0, 0)
		}, "late after"},
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
			given := 200 * time.Millisecond
			if c.want == "another question" {
				given = lab.Patience // the answer comes
			}
			lab.Quick(t, "it", given+2*time.Second, func() time.Duration {
				ctx, cancel := context.WithTimeout(context.Background(), given)
				defer cancel()
				began := time.Now()
				r, err := Chrony{conn.LocalAddr().(*net.UDPAddr).AddrPort()}.Poll(ctx)
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Errorf("reading %+v, error %v, want one with %q", r, err, c.want)
				}
				return time.Since(began)
			})
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
			r, err := (&Kernel{adjtimex: func(into *unix.Timex) (int, error) { *into = c.timex; return 5, c.err }}).Poll(t.Context())
			if c.want == "" && (err != nil || r.Sample.Bound != c.bound) {
				t.Errorf("bound %v, error %v, want %v", r.Sample.Bound, err, c.bound)
			}
			if c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
	if _, err := (&Kernel{}).Poll(t.Context()); err != nil {
		t.Logf("this machine's kernel says: %v", err) // either is right; it must not crash
	}
}

// stage is a Keeper whose source says what the test wants, at the times that it wants.
type stage struct {
	*Keeper
	t       *testing.T
	clock   instant.Instant
	reading Reading
	err     error
}

func (s *stage) Poll(context.Context) (Reading, error) { return s.reading, s.err }

func newStage(t *testing.T) *stage {
	s := &stage{t: t}
	s.Keeper = NewKeeper(s, limit, slog.New(slog.DiscardHandler))
	s.now = func() instant.Instant { return s.clock }
	return s
}

// look polls at that time. The source last compared the clock at reference, or says err.
func (s *stage) look(wall, mono time.Duration, reference instant.Wall, err error) {
	s.clock.Wall, s.clock.Mono = at(wall, mono).Wall, at(wall, mono).Mono
	s.err = err
	if s.reading.Reference = reference; err != nil {
		s.reading.Reference = 0
	}
	s.reading.Sample = instant.Sample{At: s.clock, Bound: max(s.reading.Sample.Bound, time.Millisecond), DriftPPM: 50, Source: "chrony"}
	s.poll(s.t.Context(), time.Second)
}

func (s *stage) expect(what, state, reason string) {
	s.t.Helper()
	c := s.Status()
	if c.State != state || !strings.Contains(c.Reason, reason) || (c.Sample.Source == "") != (state == Unknown) {
		s.t.Errorf("%s: %q (%s), sample of %q; want %q (…%s…)", what, c.State, c.Reason, c.Sample.Source, state, reason)
	}
}

var errLost = errors.New("no answer")

// The states of the clock through loss, holdover, a step and recovery.
func TestKeeper(t *testing.T) {
	s := newStage(t)
	s.clock = at(0, 0)
	s.expect("before the first poll", Unknown, "not asked yet")
	s.look(0, 0, 0, errLost)
	s.expect("never certified", Unknown, "no answer")
	s.look(time.Second, time.Second, base, nil)
	s.expect("certified", Synchronised, "")
	s.look(101*time.Second, 101*time.Second, base, errLost)
	s.expect("lost", Holdover, "no answer")
	if bound, err := s.Bound(); err != nil || bound != 6*time.Millisecond || s.Status().Bound != bound {
		t.Errorf("bound after 100 s of holdover %v, %v; want 1ms + 50 ppm of 100 s", bound, err)
	}
	s.look(110*time.Second, 110*time.Second, base, nil)
	s.expect("an answer was lost, and the next one stands by what it said", Synchronised, "")
	s.look(3600*time.Second, 111*time.Second, base, nil)
	s.expect("stepped, and chronyd has not noticed", Unknown, "stepped by")
	s.look(3601*time.Second, 112*time.Second, base, nil)
	s.expect("still", Unknown, "stepped by")
	if _, err := s.Bound(); err == nil {
		t.Error("a bound after a step")
	}
	s.look(3602*time.Second, 113*time.Second, base.Add(3601*time.Second), nil)
	s.expect("chronyd has looked again", Holdover, "stepped by 58m9s and the source has not checked it since; 1 of 3 reference times")
	s.clock = at(3663*time.Second, 114*time.Second)
	s.expect("stepped between two polls", Unknown, "stepped")
}

// Who was lost is not believed at once: distinct reference times count, and the same one again is no evidence (CLOCK-1).
func TestDistinctReferencesEndADoubt(t *testing.T) {
	s := newStage(t)
	second := func(n int) time.Duration { return time.Duration(n) * time.Second }
	look := func(n int, reference int, err error) { s.look(second(n), second(n), base.Add(second(reference)), err) }
	look(0, 0, nil)
	look(1, 0, errLost)
	look(2, 2, nil)
	s.expect("back", Holdover, "until lately no answer; 1 of 3")
	for n := range 10 {
		look(3+n, 2, nil)
	}
	s.expect("the same again", Holdover, "1 of 3")
	look(20, 20, nil)
	s.expect("a second one", Holdover, "2 of 3")
	look(21, 21, errLost)
	look(22, 22, nil)
	s.expect("lost again", Holdover, "1 of 3")
	look(23, 23, nil)
	look(24, 24, nil)
	s.expect("three in a row", Synchronised, "")

	s.reading.Sample.Bound = limit + 1
	look(25, 25, nil)
	if s.expect("too wide", Synchronised, ""); !strings.Contains(s.Fault(), "more than the limit of 100ms") {
		t.Errorf("fault %q", s.Fault())
	}
	s.reading.Sample.Bound = time.Millisecond
	for n, want := range []string{"1 of 3", "1 of 3", "2 of 3", ""} {
		look(26+n, []int{26, 26, 28, 29}[n], nil)
		if got := s.Fault(); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("at %d the fault is %q, want one with %q", 26+n, got, want)
		}
	}
	if bound, err := s.Bound(); err != nil || bound != time.Millisecond {
		t.Errorf("bound %v, %v: a sample counts at once", bound, err)
	}
}

// A bound that grows in holdover is a fault once it is above the limit.
func TestHoldoverGrows(t *testing.T) {
	s := newStage(t)
	s.look(0, 0, base, nil)
	s.look(1900*time.Second, 1900*time.Second, base, errLost)
	if s.expect("half an hour", Holdover, "no answer"); s.Fault() != "" {
		t.Errorf("fault %q within the limit", s.Fault())
	}
	s.look(2000*time.Second, 2000*time.Second, base, errLost)
	if got := s.Fault(); !strings.Contains(got, "its error may be 101ms, more than the limit of 100ms") {
		t.Errorf("fault %q after 2000 s at 50 ppm", got)
	}
	s.expect("a day", Holdover, "no answer")
}

// A step that is noticed with an answer, or with none, is not healed by a comparison that may have been before it.
func TestComparisonBeforeAStepDoesNotCount(t *testing.T) {
	for name, err := range map[string]error{"with an answer": nil, "without one": errLost} {
		t.Run(name, func(t *testing.T) {
			s := newStage(t)
			s.look(0, 0, base, nil)
			s.look(61*time.Second, time.Second, base+1, err)
			s.look(62*time.Second, 2*time.Second, base+1, nil)
			s.expect("compared just before it, or just after: who knows", Unknown, "stepped by 1m0s")
			s.look(63*time.Second, 3*time.Second, base+2, nil)
			s.expect("compared after it", Holdover, "1 of 3")
		})
	}
}

// A machine that slept has clocks that were set by one that tells seconds: both counted on alike, so no step shows.
func TestSuspend(t *testing.T) {
	s := newStage(t)
	s.look(0, 0, base, nil)
	s.clock.Suspended = 40 * time.Second
	s.look(60*time.Second, 60*time.Second, base, nil)
	s.expect("awake again", Unknown, "the machine was suspended for 40s")
	s.look(61*time.Second, 61*time.Second, base+1, nil)
	s.expect("compared", Holdover, "suspended for 40s and the source has not checked the clock since; 1 of 3")
}

// A leap second that was announced leaves the clock as right as it was; any other step of a second does not.
func TestLeapSecond(t *testing.T) {
	midnight := instant.WallOf(time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)).Sub(base)
	for _, c := range []struct {
		name      string
		announced bool
		at, moved time.Duration
		state     string
	}{
		{"inserted", true, midnight - 500*time.Millisecond, -time.Second, Synchronised},
		{"inserted, noticed late", true, midnight + 10*time.Second, -time.Second, Synchronised},
		{"deleted", true, midnight + 100*time.Millisecond, time.Second, Synchronised},
		{"not announced", false, midnight, -time.Second, Unknown},
		{"in the middle of a month", true, midnight + 14*24*time.Hour, -time.Second, Unknown},
		{"by more than a second", true, midnight, -1100 * time.Millisecond, Unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStage(t)
			s.reading.Leap = c.announced
			s.look(c.at-time.Second-c.moved, 0, base, nil)
			if s.Leap() != c.announced {
				t.Error("the leap second that is announced is not told")
			}
			s.look(c.at, time.Second, base, nil)
			s.expect("after it", c.state, "")
		})
	}
}

// The kernel's maximum error grows until somebody compares the clock anew: that is its reference time.
func TestKernelTellsComparisons(t *testing.T) {
	maxError := int64(0)
	k := &Kernel{adjtimex: func(into *unix.Timex) (int, error) { into.Maxerror = maxError; return 0, nil }}
	var last instant.Wall
	for _, c := range []struct {
		maxError int64
		anew     bool
	}{{1000, true}, {1500, false}, {2000, false}, {900, true}, {900, false}, {1400, false}, {1399, true}} {
		maxError = c.maxError
		time.Sleep(time.Millisecond) // so that two looks are at two times
		r, err := k.Poll(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if anew := r.Reference != last; anew != c.anew {
			t.Errorf("maximum error %d: compared anew %v", c.maxError, anew)
		}
		last = r.Reference
	}
}
