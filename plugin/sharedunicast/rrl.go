package sharedunicast

import (
	"encoding/binary"
	"hash/maphash"
	"math/rand/v2"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/cpu"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// Response rate limiting, as BIND and NSD have it: who asks over and over for the same, with an address that is perhaps not
// its own, gets no more than so many responses a second. Equal are responses of one kind to one prefix for one name: the
// name asked for, that of the delegation, or that of the zone where names may be made up.

// kind is the kind of a response.
type kind uint8

const (
	kindAnswer kind = iota
	kindNoData
	kindNXDOMAIN
	kindReferral
	kindSynthesised // by a wildcard or DNAME
	kindANY
	kindError
	kinds
)

var kindNames = [kinds]string{"answer", "nodata", "nxdomain", "referral", "synthesised", "any", "error"}

// kindOf is the kind of an answer, and how many octets at the end of the name asked for are the name that it counts for.
func kindOf(a *zone.Answer, qtype uint16, name []byte) (kind, int) {
	switch {
	case a.Zone == nil:
		return kindError, 0
	case a.Rcode == dns.RcodeNameError:
		return kindNXDOMAIN, a.Zone.NameLen()
	case a.Rcode != dns.RcodeSuccess:
		return kindError, 0
	case !a.Authoritative && len(a.Authority) > 0:
		return kindReferral, len(a.Authority[0].Owner)
	case a.Synthesised:
		return kindSynthesised, a.Zone.NameLen()
	case len(a.Answer) == 0:
		return kindNoData, len(name)
	case qtype == dns.TypeANY:
		return kindANY, len(name)
	}
	return kindAnswer, len(name)
}

// The table's entries: in the upper bits a tag, which tells apart what shares a set, in the lower ones the time at which
// there would be nothing to be limited any more, in units of 8 µs.
const (
	limitSets  = 1 << 15
	limitWays  = 8 // entries in a line of the processor's cache
	tagBits    = 20
	timeBits   = 64 - tagBits
	timeUnit   = 8 * time.Microsecond
	prefixIPv4 = 24
	prefixIPv6 = 56
)

// A prefix that gets fewer responses in all than it may get of one kind is not counted further: most are such, and their place in
// prefixes is near the processor, while an entry among the sets is waited for. Prefixes that share a place are counted together.
const (
	limitPrefixes = 1 << 15
	slack         = uint32(time.Second / 4 / timeUnit) // how far ahead a prefix may be in all
)

// limiter limits the responses of an address. It has a fixed size, of some 2 MiB, and is used by many threads at a time; of those that
// change an entry at the same moment one may go uncounted.
type limiter struct {
	interval uint64 // between responses, in units
	burst    uint64 // how far ahead of time responses may be, in units: those of a second
	slip     uint32
	allow    []netip.Prefix
	began    time.Time
	seed     maphash.Seed
	mix      uint64 // secret as well

	dropped, truncated [kinds]prometheus.Counter

	_        cpu.CacheLinePad // between what threads read and what they write
	prefixes [limitPrefixes]atomic.Uint32
	sets     [limitSets][limitWays]atomic.Uint64
	limited  atomic.Uint32
	said     atomic.Int64 // when the log last told of it, in seconds
	since    atomic.Uint64
}

func newLimiter(s settings, address string) *limiter {
	l := &limiter{interval: max(1, uint64(time.Second/timeUnit)/uint64(s.rate)), burst: uint64(time.Second / timeUnit),
		slip: uint32(s.slip), allow: s.allow, began: time.Now(), seed: maphash.MakeSeed(), mix: rand.Uint64()}
	for k, name := range kindNames {
		l.dropped[k] = limitedTotal.WithLabelValues(address, name, "dropped")
		l.truncated[k] = limitedTotal.WithLabelValues(address, name, "truncated")
	}
	return l
}

// action is what becomes of a response.
type action uint8

const (
	pass     action = iota
	truncate        // the client is told to ask again over TCP, which it can only if the address is its own
	drop
)

// judge counts a response, and says what becomes of it. The name is in wire format.
func (l *limiter) judge(now time.Time, client netip.Addr, k kind, name []byte) action {
	if !l.over(now, client, k, name) {
		return pass
	}
	for _, p := range l.allow {
		if p.Contains(client) {
			return pass
		}
	}
	l.tell(now, client, k, name)
	if l.slip > 0 && l.limited.Add(1)%l.slip == 0 {
		l.truncated[k].Inc()
		return truncate
	}
	l.dropped[k].Inc()
	return drop
}

// over reports whether there were too many responses of the kind.
func (l *limiter) over(now time.Time, client netip.Addr, k kind, name []byte) bool {
	prefix, at := prefixBits(client), uint64(now.Sub(l.began)/timeUnit)
	if !l.busy(prefix, at) {
		return false
	}
	var key [8 + 1 + 255]byte
	n := 8
	binary.BigEndian.PutUint64(key[:], prefix)
	key[n] = byte(k)
	n++
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		key[n] = c
		n++
	}
	hash := maphash.Bytes(l.seed, key[:n])
	set, tag := &l.sets[hash%limitSets], hash>>timeBits
	oldest, oldestTime := &set[0], uint64(1<<timeBits)
	for i := range set {
		e := &set[i]
		old := e.Load()
		until := old & (1<<timeBits - 1)
		if old>>timeBits == tag && until > 0 {
			until = max(until, at)
			if until-at > l.burst {
				return true
			}
			e.CompareAndSwap(old, tag<<timeBits|(until+l.interval))
			return false
		}
		if until < oldestTime {
			oldest, oldestTime = e, until
		}
	}
	oldest.Store(tag<<timeBits | (at + l.interval))
	return false
}

// busy counts a response to a prefix, and reports whether it gets many in all.
func (l *limiter) busy(prefix, at uint64) bool {
	p := &l.prefixes[(prefix^l.mix)*0x9e3779b97f4a7c15>>(64-15)]
	ahead := p.Load() - uint32(at)
	if ahead > uint32(l.burst) { // it lies behind, in a circle of nine hours
		ahead = 0
	}
	p.Store(uint32(at) + min(ahead+uint32(l.interval), uint32(l.burst)))
	return ahead > slack
}

// prefixBits is the prefix that a client is counted for.
func prefixBits(client netip.Addr) uint64 {
	if client.Is4() {
		four := client.As4()
		return uint64(binary.BigEndian.Uint32(four[:]) >> (32 - prefixIPv4))
	}
	sixteen := client.As16()
	return 6<<prefixIPv6 | binary.BigEndian.Uint64(sixteen[:])>>(64-prefixIPv6)
}

// tellEvery is how many seconds pass at least between two lines of the log that tell of limited clients.
const tellEvery = 10

// tell tells the log of who is limited now, for one client of many.
func (l *limiter) tell(now time.Time, client netip.Addr, k kind, name []byte) {
	l.since.Add(1)
	second, said := now.Unix(), l.said.Load()
	if second-said < tellEvery || !l.said.CompareAndSwap(said, second) {
		return
	}
	about := "whatever was asked"
	if len(name) > 0 {
		about, _, _ = dns.UnpackDomainName(append([]byte(nil), name...), 0)
		about = "for " + strings.ToLower(about)
	}
	n := l.since.Swap(0)
	go logger.Warningf("rate limiting: %s gets too many responses of kind %s, %s; %d responses were limited since this was said last", prefixOf(client), kindNames[k], about, n)
}
