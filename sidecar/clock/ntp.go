package clock

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/sysclock"
)

// NTP asks several servers how wrong this machine's clock is, whoever steers it (RFC 5905, as a client of SNTP). It
// believes what a majority of all of them can be right about together. Their answers are not signed: for NTS, have chronyd
// ask and take source chrony.
type NTP struct {
	servers  []*server
	interval time.Duration // from one round to the next, and from one that failed; both longer once a server asks for that
	retry    time.Duration
	due      instant.Mono
	reading  Reading // of the last round
	err      error
}

// Server is what came of asking one server. True time is wrong by Offset ± Distance from the clock's, if Fault is empty.
type Server struct {
	Name             string
	Offset, Distance time.Duration
	Agrees           bool   // with the majority
	Fault            string // why nothing can be made of what it says
}

type server struct {
	address netip.AddrPort
	refused string // its kiss code, after which it is never asked again (RFC 5905 7.4)
}

const (
	// What failed is tried again soon, but at no pace that a public server would refuse.
	ntpRetry    = 16 * time.Second
	ntpSlowest  = 1024 * time.Second // the longest interval that a server's wish leads to
	ntpResend   = 400 * time.Millisecond
	maxDistance = time.Second    // MAXDIST (RFC 5905 7.3): who is further from the root is no help
	maxAge      = 24 * time.Hour // NTP.MAXAGE (RFC 1305): how long ago a server may have been set
)

// NewNTP asks servers every interval.
func NewNTP(servers []netip.AddrPort, interval time.Duration) *NTP {
	n := &NTP{interval: interval, retry: min(interval, ntpRetry)}
	for _, s := range servers {
		n.servers = append(n.servers, &server{address: s})
	}
	return n
}

// Poll gives the last round's reading, which ages by itself, until the next one is due.
func (n *NTP) Poll(ctx context.Context) (Reading, error) {
	if now := sysclock.Now().Mono; now >= n.due {
		n.reading, n.err = n.round(ctx)
		pause := n.interval
		if n.err != nil {
			pause = n.retry
		}
		n.due = now.Add(pause)
	}
	return n.reading, n.err
}

// round asks every server at once and judges what they say together.
func (n *NTP) round(ctx context.Context) (Reading, error) {
	answers := make([]answer, len(n.servers))
	var all sync.WaitGroup
	for i, s := range n.servers {
		all.Go(func() { answers[i] = s.ask(ctx) })
	}
	all.Wait()
	for i, a := range answers {
		switch a.kiss {
		case "RATE":
			n.interval, n.retry = slower(n.interval), slower(n.retry)
		case "DENY", "RSTR":
			n.servers[i].refused = a.kiss
		}
	}
	return majority(answers, sysclock.Now())
}

func slower(d time.Duration) time.Duration { return max(d, min(2*d, ntpSlowest)) }

// majority finds by how much the clock may be wrong at now, if more than half of all servers are right.
func majority(answers []answer, now instant.Instant) (Reading, error) {
	var all []interval
	said := make([]Server, len(answers))
	for i, a := range answers {
		said[i] = Server{Name: a.name, Offset: a.offset, Distance: a.distance, Fault: a.fault}
		if a.fault != "" {
			continue
		}
		distance, ok, why := instant.Sample{At: a.at, Bound: a.distance, DriftPPM: slewPPM, Source: "ntp"}.Error(now)
		if said[i].Distance = distance; !ok {
			said[i].Fault = why
			continue
		}
		all = append(all, interval{a.offset - distance, a.offset + distance})
	}
	r := Reading{Servers: said}
	truth, ok := agreement(all, len(answers)/2+1)
	if !ok {
		return r, fmt.Errorf("no majority of the %d NTP servers agrees: %s", len(said), list(said))
	}
	leaps, agree := 0, 0
	for i := range said {
		said[i].Agrees = said[i].Fault == "" && truth.meets(said[i].Offset, said[i].Distance)
		if said[i].Agrees {
			agree++
			leaps += answers[i].leap
		}
	}
	if agree < len(said) {
		odd := slices.DeleteFunc(slices.Clone(said), func(s Server) bool { return s.Agrees })
		r.Note = fmt.Sprintf("%d of %d NTP servers agree, not: %s", agree, len(said), list(odd))
	}
	r.Reference, r.Leap = now.Wall, 2*leaps > agree
	r.Sample = instant.Sample{At: now, Bound: max(truth.low.Abs(), truth.high.Abs()), DriftPPM: slewPPM, Source: "ntp"}
	return r, nil
}

func list(servers []Server) string {
	var all []string
	for _, s := range servers {
		what := s.Fault
		if what == "" {
			what = fmt.Sprintf("says that the clock is %v off ± %v", s.Offset.Round(time.Microsecond), s.Distance.Round(time.Microsecond))
		}
		all = append(all, s.Name+" "+what)
	}
	return strings.Join(all, "; ")
}

// interval holds the true offset if whoever says so is right (correctness interval, RFC 5905 11.2.1).
type interval struct{ low, high time.Duration }

func (i interval) meets(offset, distance time.Duration) bool {
	return offset-distance <= i.high && offset+distance >= i.low
}

// agreement is the shortest interval that holds every point that at least most of all hold: the true offset, if at least
// most are right (Marzullo and Owicki 1983). RFC 5905 11.2.1 goes on to the points that the largest number agree on, which
// is sharper, and lets one liar that overlaps move the bound away from the truth.
func agreement(all []interval, most int) (interval, bool) {
	type edge struct {
		at   time.Duration
		step int // 1 at the low end, -1 at the high one
	}
	var edges []edge
	for _, i := range all {
		edges = append(edges, edge{i.low, 1}, edge{i.high, -1})
	}
	slices.SortFunc(edges, func(a, b edge) int {
		if a.at != b.at {
			return int(max(min(a.at-b.at, 1), -1))
		}
		return b.step - a.step // ends are held too: intervals that touch have a point in common
	})
	var found interval
	ok, held := false, 0
	for _, e := range edges {
		before := held
		held += e.step
		if held == most && e.step > 0 && !ok {
			found.low, ok = e.at, true
		}
		if before == most && e.step < 0 {
			found.high = e.at
		}
	}
	return found, ok
}

// answer is what a server said, measured at an instant.
type answer struct {
	name             string
	at               instant.Instant
	offset, distance time.Duration
	leap             int    // 1 if it expects a leap second
	kiss             string // its kiss code, if it gave that instead of the time
	fault            string
}

// ask sends a question from a port of its own, once more if that is not answered soon, and waits for an answer to it.
func (s *server) ask(ctx context.Context) answer {
	a := answer{name: s.address.String()}
	if s.refused != "" {
		a.fault = fmt.Sprintf("refused to answer (%s) and is asked no more", s.refused)
		return a
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", s.address.String())
	if err != nil {
		a.fault = err.Error()
		return a
	}
	defer conn.Close()
	var odd error
	for _, until := range deadlines(ctx) {
		conn.SetDeadline(until)
		q := newQuestion()
		if _, err := conn.Write(q.packet()); err != nil {
			odd = err
			continue
		}
		if done, err := q.await(conn, &a); done {
			return a
		} else if err != nil {
			odd = err
		}
	}
	a.fault = "gave no answer"
	if odd != nil {
		a.fault += ": " + odd.Error()
	}
	return a
}

// deadlines are those of the two tries.
func deadlines(ctx context.Context) []time.Time {
	first := time.Now().Add(ntpResend)
	end, ok := ctx.Deadline()
	if !ok {
		end = first.Add(ntpResend)
	}
	if end.Before(first) {
		first = end
	}
	return []time.Time{first, end}
}

// await reads until there is an answer to q, or none comes. err is what came instead.
func (q question) await(conn net.Conn, a *answer) (done bool, err error) {
	buffer := make([]byte, 512)
	for {
		n, failed := conn.Read(buffer)
		if failed != nil {
			var timeout net.Error
			if err == nil && !(errors.As(failed, &timeout) && timeout.Timeout()) {
				err = failed
			}
			return false, err
		}
		if err = q.read(buffer[:n], sysclock.Now(), a); err == nil {
			return true, nil
		}
	}
}

// question is one request. Its cookie stands in the transmit timestamp, which says nothing about this machine's clock and
// cannot be guessed by who does not see it.
type question struct {
	cookie uint64
	sent   instant.Instant
}

func newQuestion() question {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return question{binary.BigEndian.Uint64(b[:]) | 1, sysclock.Now()}
}

const (
	ntpPacket    = 48 // octets of a packet without extensions
	ntpVersion   = 4
	ntpClient    = 3
	ntpServer    = 4
	ntpLocal     = 0x7f7f0100 // 127.127.1.0/24: a clock without a reference, of chronyd (local) and ntpd (LOCAL)
	ntpLocalName = 0x4c4f434c // "LOCL"
)

func (q question) packet() []byte {
	b := make([]byte, ntpPacket)
	b[0] = ntpVersion<<3 | ntpClient
	binary.BigEndian.PutUint64(b[40:], q.cookie)
	return b
}

// read makes an answer of b, received at now. An error is for what does not answer q at all; the answer may still come.
func (q question) read(b []byte, now instant.Instant, a *answer) error {
	if len(b) < ntpPacket {
		return fmt.Errorf("a packet of %d octets", len(b))
	}
	if version, mode := b[0]>>3&7, b[0]&7; mode != ntpServer || version < 3 || version > ntpVersion {
		return fmt.Errorf("a packet of version %d and mode %d", version, mode)
	}
	if binary.BigEndian.Uint64(b[24:]) != q.cookie {
		return errors.New("an answer to another question: forged, or sent again")
	}
	if code := b[12:16]; b[1] == 0 && isKissCode(code) {
		a.kiss = string(code)
		a.fault = "answers with kiss code " + a.kiss
		return nil
	}
	if err := q.judge(b, now, a); err != nil {
		a.fault = err.Error()
	}
	return nil
}

// isKissCode tells a word of a server's (RFC 5905 7.4) from the stratum 0 of one that is not synchronised.
func isKissCode(b []byte) bool {
	return !slices.ContainsFunc(b, func(c byte) bool { return c <= ' ' || c > '~' })
}

// judge measures, or says why a server cannot be believed.
func (q question) judge(b []byte, now instant.Instant, a *answer) error {
	leap, stratum, id := b[0]>>6, b[1], binary.BigEndian.Uint32(b[12:])
	received, sent := timestamp(b[32:], now), timestamp(b[40:], now)
	compared := timestamp(b[16:], now)
	age := sent.Sub(compared)
	delay := now.Mono.Sub(q.sent.Mono) - sent.Sub(received)
	moved := now.Wall.Sub(q.sent.Wall) - now.Mono.Sub(q.sent.Mono)
	a.at = now
	a.offset = received.Sub(q.sent.Wall)/2 + sent.Sub(now.Wall)/2
	a.distance = (short(b[4:])+delay.Abs())/2 + short(b[8:]) + precision(int8(b[3]))
	a.leap = int(leap+1) / 2 // 1 and 2
	switch {
	case leap == leapUnsynchronised:
		return errors.New("is not synchronised (leap 3)")
	case stratum == 0 || stratum >= 16:
		return fmt.Errorf("is not synchronised (stratum %d)", stratum)
	case id&^0xff == ntpLocal || id == ntpLocalName:
		return errors.New("follows its own clock (local): nobody knows how wrong that is")
	case received == 0 || sent == 0 || sent < received || delay < -time.Millisecond:
		return errors.New("gives timestamps that cannot be")
	case compared == 0 || age < -time.Second:
		return errors.New("says that its clock was never set, or will be")
	case age > maxAge:
		return fmt.Errorf("had its clock set %v ago, which is too long", age.Round(time.Second))
	case a.distance > maxDistance:
		return fmt.Errorf("may be wrong by %v, more than %v", a.distance.Round(time.Millisecond), maxDistance)
	case moved.Abs() > instant.StepTolerance:
		return errors.New("was asked while the clock stepped")
	}
	return nil
}

// timestamp is the NTP timestamp at b, of the era that is nearest to now (RFC 5905 6); 0 is none.
func timestamp(b []byte, now instant.Instant) instant.Wall {
	const epoch = 2_208_988_800 // from 1900 to 1970, seconds
	seconds, fraction := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	if seconds == 0 && fraction == 0 {
		return 0
	}
	here := int64(now.Wall) / 1e9
	there := here + int64(int32(seconds-uint32(here+epoch)))
	return instant.Wall(there*1e9 + int64(fraction)*1e9>>32)
}

// short is a duration in NTP short format.
func short(b []byte) time.Duration {
	return time.Duration(int64(binary.BigEndian.Uint32(b)) * 1e9 >> 16)
}

// precision is 2^exponent seconds, a second at the most.
func precision(exponent int8) time.Duration {
	return time.Second >> min(max(-int(exponent), 0), 62)
}
