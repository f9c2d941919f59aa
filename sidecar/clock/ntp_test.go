package clock

import (
	"encoding/binary"
	"math/rand"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/sysclock"
)

// agreement against its definition, over small intervals: every point that at least most of them hold is in it, and its
// ends are such points.
func TestAgreement(t *testing.T) {
	random := rand.New(rand.NewSource(1))
	for range 20_000 {
		all := make([]interval, random.Intn(6))
		for i := range all {
			low := time.Duration(random.Intn(12))
			all[i] = interval{low, low + time.Duration(random.Intn(6))}
		}
		most := len(all)/2 + 1
		var want interval
		found := false
		for point := time.Duration(0); point < 20; point++ {
			held := 0
			for _, i := range all {
				if i.low <= point && point <= i.high {
					held++
				}
			}
			if held < most {
				continue
			}
			if !found {
				want.low, found = point, true
			}
			want.high = point
		}
		if got, ok := agreement(all, most); ok != found || ok && got != want {
			t.Fatalf("%v, at least %d: %v, %v; want %v, %v", all, most, got, ok, want, found)
		}
	}
}

// As long as fewer than half lie, whatever they say, the truth is in the interval.
func TestMinorityOfLiarsCannotMoveTheTruth(t *testing.T) {
	random := rand.New(rand.NewSource(2))
	ms := func(n int) time.Duration { return time.Duration(random.Intn(2*n+1)-n) * time.Millisecond }
	for range 20_000 {
		n := 3 + random.Intn(5)
		truth := ms(300)
		var all []interval
		for i := range n {
			offset, distance := ms(400), time.Duration(random.Intn(50))*time.Millisecond
			if i >= (n-1)/2 { // right: the truth is within the distance
				offset = truth + time.Duration(random.Int63n(int64(2*distance)+1)) - distance
			}
			all = append(all, interval{offset - distance, offset + distance})
		}
		if got, ok := agreement(all, n/2+1); !ok || truth < got.low || truth > got.high {
			t.Fatalf("the truth is %v, and %v say %v, %v", truth, all, got, ok)
		}
	}
}

// Timestamps are read in the era that is nearest, so 2036 and a clock that is 60 years off are no trouble.
func TestTimestamp(t *testing.T) {
	for _, year := range []int{1971, 2026, 2036, 2037, 2100} {
		for _, off := range []time.Duration{0, time.Nanosecond * 250, -time.Hour, 60 * 8766 * time.Hour, -60 * 8766 * time.Hour} {
			now := time.Date(year, 2, 7, 6, 28, 15, 999_000_000, time.UTC)
			there := now.Add(off)
			var b [8]byte
			binary.BigEndian.PutUint32(b[:], uint32(there.Unix()+2_208_988_800))
			binary.BigEndian.PutUint32(b[4:], uint32(uint64(there.Nanosecond())<<32/1e9))
			got := timestamp(b[:], instant.Instant{Wall: instant.WallOf(now)})
			if diff := got.Sub(instant.WallOf(there)); diff.Abs() > 2 {
				t.Errorf("%v read at %v is %v", there, now, got)
			}
		}
	}
}

// The bound of one measurement is |offset| + root distance, which holds half of all delay there was.
func TestMeasurement(t *testing.T) {
	q := question{cookie: 1, sent: at(0, 0)}
	now := at(80*time.Millisecond, 80*time.Millisecond)
	packet := func(received, sent time.Duration) []byte {
		b := honestly(q.packet())
		put := func(at int, w instant.Wall) {
			when := w.Time()
			binary.BigEndian.PutUint32(b[at:], uint32(when.Unix()+2_208_988_800))
			binary.BigEndian.PutUint32(b[at+4:], uint32(uint64(when.Nanosecond())<<32/1e9))
		}
		put(16, base.Add(-time.Minute))
		put(32, base.Add(received))
		put(40, base.Add(sent))
		return b
	}
	// 10 ms there, 20 ms in the server, 50 ms back; its clock is 5 ms ahead.
	var a answer
	if err := q.read(packet(15*time.Millisecond, 35*time.Millisecond), now, &a); err != nil || a.fault != "" {
		t.Fatal(err, a.fault)
	}
	if got, want := a.offset.Round(time.Microsecond), -15*time.Millisecond; got != want { // 5 ms − (50−10)/2 ms
		t.Errorf("offset %v, want %v", got, want)
	}
	// (root delay 976 µs + delay 60 ms)/2 + root dispersion 976 µs + precision
	if got, want := a.distance.Round(10*time.Microsecond), 31460*time.Microsecond; got != want {
		t.Errorf("distance %v, want %v", got, want)
	}
	if truth := 5 * time.Millisecond; truth < a.offset-a.distance || truth > a.offset+a.distance {
		t.Errorf("the truth is not in %v ± %v", a.offset, a.distance)
	}
	var stepped answer
	q.read(packet(15*time.Millisecond, 35*time.Millisecond), at(1080*time.Millisecond, 80*time.Millisecond), &stepped)
	if !strings.Contains(stepped.fault, "while the clock stepped") {
		t.Errorf("asked while the clock stepped: %q", stepped.fault)
	}
}

// What servers say together: the bound holds the offset and what they grew by since they were asked, and who does not agree
// is named.
func TestMajority(t *testing.T) {
	said := func(offset, distance time.Duration) answer {
		return answer{name: "a server", at: at(0, 0), offset: offset, distance: distance, leap: 1}
	}
	all := []answer{said(-15*time.Millisecond, 5*time.Millisecond), said(-16*time.Millisecond, 5*time.Millisecond), said(time.Hour, time.Millisecond)}
	now := at(2*time.Second, 2*time.Second)
	r, err := majority(all, now)
	if err != nil {
		t.Fatal(err)
	}
	// Both hold −20 … −11 ms, and a millisecond more at either end after 2 s at 500 ppm.
	if want := 21 * time.Millisecond; r.Sample.Bound != want || r.Sample.At != now || r.Reference != now.Wall || !r.Leap {
		t.Errorf("%+v, want a bound of %v", r, want)
	}
	if !r.Servers[0].Agrees || !r.Servers[1].Agrees || r.Servers[2].Agrees || r.Servers[0].Distance != 6*time.Millisecond ||
		!strings.Contains(r.Note, "2 of 3 NTP servers agree, not: a server says that the clock is 1h0m0s off ± 2ms") {
		t.Errorf("%+v", r)
	}
	if r, err := majority(all, at(2*time.Second, time.Second)); err == nil || !strings.Contains(err.Error(), "stepped by 1s") {
		t.Errorf("after a step: %+v, %v", r, err)
	}
}

// A server that refuses is never asked again, one that wants rest gets it, and nobody is asked before his time.
func TestKissOfDeath(t *testing.T) {
	var asked atomic.Int64
	counts := func(l lie) lie {
		return func(a, q []byte, n int) []byte { asked.Add(1); return l(a, q, n) }
	}
	n := NewNTP([]netip.AddrPort{liar(t, counts(kiss("DENY")))}, time.Millisecond)
	for range 5 {
		n.Poll(t.Context())
		time.Sleep(2 * time.Millisecond)
	}
	if got := asked.Load(); got != 1 {
		t.Errorf("asked %d times after DENY", got)
	}
	asked.Store(0)
	n = NewNTP([]netip.AddrPort{liar(t, counts(kiss("RATE")))}, 64*time.Second)
	for range 5 {
		n.Poll(t.Context())
	}
	if got := asked.Load(); got != 1 || n.interval != 128*time.Second || n.retry != 32*time.Second {
		t.Errorf("asked %d times after RATE, next in %v", got, n.retry)
	}
	for range 20 {
		n.due = 0
		n.Poll(t.Context())
	}
	if n.interval != ntpSlowest {
		t.Errorf("an interval of %v", n.interval)
	}
}

// Between two rounds the reading stays the same, so it is no new evidence, and ages.
func TestRoundsAreKept(t *testing.T) {
	l := liar(t, func(a, _ []byte, _ int) []byte { a[0] |= 1 << 6; return a })
	n := NewNTP([]netip.AddrPort{l, l, l}, time.Hour)
	first, err := n.Poll(t.Context())
	if err != nil || !first.Leap || first.Sample.DriftPPM != slewPPM {
		t.Fatalf("%+v, %v", first, err)
	}
	if second, err := n.Poll(t.Context()); err != nil || second.Reference != first.Reference || second.Sample != first.Sample {
		t.Errorf("%+v, %v; before %+v", second, err, first)
	}
	if slices.ContainsFunc(first.Servers, func(s Server) bool { return !s.Agrees }) {
		t.Errorf("%+v", first.Servers)
	}
}

// No packet crashes the reader, and what it makes of one is in bounds.
func FuzzNTP(f *testing.F) {
	q := question{cookie: 0x0102030405060708}
	good := honestly(q.packet())
	f.Add(good)
	f.Add(good[:47])
	for _, l := range lies {
		if b := l.lie(slices.Clone(good), q.packet(), 0); b != nil {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		now := sysclock.Now()
		q := q
		q.sent = instant.Instant{Wall: now.Wall.Add(-time.Millisecond), Mono: now.Mono.Add(-time.Millisecond)}
		a := answer{}
		if err := q.read(b, now, &a); err != nil || a.fault != "" {
			return
		}
		if a.distance <= 0 || a.distance > maxDistance || b[0]>>6 == 3 || b[1] == 0 || b[1] > 15 {
			t.Fatalf("%x gives %+v", b, a)
		}
		r, err := majority([]answer{a, a, a}, now)
		if err == nil && (r.Sample.Bound < a.distance || r.Sample.Bound < a.offset.Abs()) {
			t.Fatalf("%x gives %+v, and that a bound of %v", b, a, r.Sample.Bound)
		}
	})
}
