package zonecheck

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// Memo remembers what was found when a zone was checked last, so that the next version is checked in proportion to what changed.
// What a change can have an effect on is judged anew, and what hangs on the time; the findings are those of the whole check. All of a zone
// is judged once a day, after a change of its keys, of how it denies existence, or of a good part of it. For then it is remembered too
// which signatures verified: whether one does hangs on the key, the signed octets and the signature alone, of which it has the SHA-256. A
// Memo is of one zone, lives no longer than the process, and takes some 100 octets a signature. It serves one check at a time.
type Memo struct {
	judged *judged // last; nil: nothing, or it was not judged to its end

	mu   sync.Mutex
	last map[proof]struct{} // of the last check
	now  map[proof]struct{} // of the check that runs

	warns   bool         // see Warn
	stop    func() bool  // see StopIf; nil: never
	records atomic.Int64 // whose content the check that runs has seen
}

// Records is how many of the zone's records (zone.Zone.Len) the check that runs, or ran last, has done. It may be asked
// at any time.
func (m *Memo) Records() int { return int(m.records.Load()) }

// StopIf has the checks of m end early once stop says so: what they found then is not all, and counts for nothing. It is asked
// by one goroutine.
func (m *Memo) StopIf(stop func() bool) { m.stop = stop }

// Warn has the checks of m find, or not, what a Builder warns of too (zone.Zone.Warnings): for zones that were not read from text, with
// which that was found.
func (m *Memo) Warn(warn bool) { m.warns = warn }

func (m *Memo) stops() bool { return m != nil && m.stop != nil && m.stop() }

// proof stands for a key, octets, and a signature of the key on them that is right.
type proof [sha256.Size]byte

// Check says what is wrong with z, which is to replace old at now; old is nil if there is nothing to replace. lease is
// how long a node may go on answering from z once it has it: signatures must outlast it. Findings come in a fixed order,
// at most maxPerRule of each rule and then how many more there are. What the last check has shown of signatures is known.
func (m *Memo) Check(old, z *zone.Zone, p Policy, now time.Time, lease time.Duration) []zone.Finding {
	return m.check(old, z, p, now, lease, wholeAfter)
}

// Whole is when all of the zone was judged last; zero if it never was, or not to its end.
func (m *Memo) Whole() time.Time {
	if m.judged == nil {
		return time.Time{}
	}
	return m.judged.whole
}

// Daily returns what judges all of the zone that was checked last once more, for now, without m, which may check other versions meanwhile;
// nil if there is no such zone, or that was done less than 20 hours ago. It gives the findings, and a Memo to go on with: so no check
// that somebody waits for takes the time for all. No signature is remembered. If stop says so, it ends early, and all it gives counts for nothing.
func (m *Memo) Daily(now time.Time) func(stop func() bool) (*Memo, []zone.Finding) {
	last := m.judged
	if last == nil || now.Sub(last.whole) < dailyAfter {
		return nil
	}
	return func(stop func() bool) (*Memo, []zone.Finding) {
		next := &Memo{judged: last, warns: last.warns, stop: stop, last: map[proof]struct{}{}}
		found := next.check(nil, last.zone, last.policy, now, last.lease, 0)
		return next, found
	}
}

// check is Check that judges all if that was done longer ago than so.
func (m *Memo) check(old, z *zone.Zone, p Policy, now time.Time, lease, after time.Duration) []zone.Finding {
	m.records.Store(0)
	m.now = map[proof]struct{}{}
	j := m.judged.again(m, old, z, p, now, lease)
	if j != nil {
		maps.Copy(m.last, m.now)
		m.records.Store(int64(z.Len()))
	}
	if j == nil || now.Sub(j.whole) > after {
		partly := j
		m.records.Store(0)
		m.now = make(map[proof]struct{}, len(m.last))
		j = whole(m, old, z, p, now, lease)
		m.last = m.now
		j.compare(partly, m)
	}
	m.judged = nil
	if m.now = nil; !m.stops() {
		m.judged = j
	}
	return p.Apply(j.found.all())
}

// did counts the records of a batch.
func (m *Memo) did(b *batch) {
	n := 0
	for _, o := range b.owners {
		for i := range o.sets {
			n += o.sets[i].Data.Len() + o.sets[i].Sigs.Len()
		}
	}
	m.records.Add(int64(n))
}

// proofOf is what a memo keeps. The lengths keep the parts apart.
func proofOf(key, data, signature []byte) proof {
	h := sha256.New()
	var lengths [16]byte
	binary.BigEndian.PutUint64(lengths[:], uint64(len(key)))
	binary.BigEndian.PutUint64(lengths[8:], uint64(len(data)))
	h.Write(lengths[:])
	h.Write(key)
	h.Write(data)
	h.Write(signature)
	return proof(h.Sum(nil))
}

// verify reports whether a signature is right: as was shown before, or as is shown now.
func (m *Memo) verify(k *key, data, signature []byte) bool {
	if m == nil {
		return k.verify(data, signature)
	}
	p := proofOf(k.rdata, data, signature)
	if _, known := m.last[p]; !known && !k.verify(data, signature) {
		return false
	}
	m.mu.Lock()
	m.now[p] = struct{}{}
	m.mu.Unlock()
	return true
}
