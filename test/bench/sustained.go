package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

// releaseEvery is the time between two changes of the zone.
const releaseEvery = 3 * time.Second

// sustained changes the large zone again and again while one node is asked steadily, and looks at every answer: first with all programs on all
// processors, where that node waits for what in production runs on other machines, then with a processor for the node.
func (b *bench) sustained(m *large) error {
	if err := m.forgoZONEMD(); err != nil {
		return err
	}
	if err := b.spell(m, "all programs on all processors", false); err != nil {
		return err
	}
	const apart = "the asked node alone on one processor"
	if ok, err := twoProcessors(); err != nil || !ok {
		b.lacks(apart, "needs processors 0 and 1")
		return err
	}
	return m.apart(m.nodes[0], func() error { return b.spell(m, apart, true) })
}

// spell is one time of changes, with programs placed as it says. A load that is ahead has its turn before all else on its processor.
func (b *bench) spell(m *large, placed string, ahead bool) error {
	asks, err := m.asks()
	if err != nil {
		return err
	}
	var l *load
	err = m.places[m.nodes[0]].Do(func() (err error) {
		l, err = startLoad(unix.SockaddrInet4{Port: 53, Addr: [4]byte{192, 0, 2, 53}}, b.load, ahead, asks.packed, asks.judge)
		return err
	})
	if err != nil {
		return err
	}
	defer l.stop()
	m.group()
	if err := m.groups.settle(map[string]float64{m.nodes[0]: 1}); err != nil { // it is busy answering
		return err
	}
	fmt.Fprintf(b.log, "%s: queries, and no changes\n", placed)
	l.window()
	idle, err := m.groups.rest(min(30*time.Second, b.sustain))
	if err != nil {
		return err
	}
	quiet := p99(l.window())
	before, began, err := m.groups.spent()
	if err != nil {
		return err
	}
	changes, serial, err := b.changeSteadily(m, began)
	if err != nil {
		return err
	}
	after, ended, err := m.groups.spent()
	if err != nil {
		return err
	}
	lost, late := l.rest(lostAfter), l.late.Load()
	during := l.window()
	asked := len(during) + lost
	for _, took := range during {
		if took > lostAfter.Seconds() {
			lost++
		}
	}
	fmt.Fprintf(b.log, "%s: %d questions were put more than 1 ms late, of %d\n", placed, late, asked)
	if _, err := m.recorded(serial); err != nil {
		return err
	}
	made, err := m.history(changes + 2)
	if err != nil {
		return err
	}
	wrong := asks.wrong(made, m)
	made = slices.DeleteFunc(made, func(r madeRelease) bool { return r.Switchover.Before(began) })
	each := func(names ...string) (f figures) { // of those that are not asked: what questions cost the other differs from one release to the next by more
		used := 0.0
		for _, name := range names {
			used += after[name] - before[name] - idle[name]*ended.Sub(began).Seconds()
		}
		return figures{"ours": {used / float64(len(names)) / max(1, float64(len(made)))}}
	}
	one := func(v float64) figures { return figures{"ours": {v}} }
	b.row(fmt.Sprintf("%s: releases made of %d changes, one every %v", placed, changes, releaseEvery), "", fmt.Sprint(changes), one(float64(len(made))))
	b.row(fmt.Sprintf("of %d queries meanwhile, %d a second, without an answer", asked, b.load), "", "0", one(float64(lost)))
	b.row("wrongly answered", "", "0", one(float64(wrong)))
	b.row("p99 of answers before, quiet", "µs", "", one(quiet*1e6))
	b.row("p99 meanwhile", "µs", "", one(p99(during)*1e6))
	b.row("ratio of the two", "", "≤ 1.5", one(p99(during)/quiet))
	if others := m.nodes[1:]; len(others) > 0 {
		b.row("processor of a node that is not asked, for each release", "s", "", each(others...))
	}
	b.row("processor of the distribution host, for each release", "s", "", each("host"))
	return nil
}

// changeSteadily changes the zone for as long as it is to be, and returns how often and the serial that all nodes answer from at the end.
func (b *bench) changeSteadily(m *large, began time.Time) (changes int, serial uint32, err error) {
	fmt.Fprintf(b.log, "a change every %v, for %v\n", releaseEvery, b.sustain)
	for turn := time.NewTicker(releaseEvery); time.Since(began) < b.sustain; <-turn.C {
		if serial, err = m.primary.change(min(100, b.names/20)); err != nil {
			return 0, 0, err
		}
		changes++
	}
	_, err = m.allAnswer(patience(b.names), serial)
	return changes, serial, err
}

// lostAfter is how long an answer may take before it counts as lost.
const lostAfter = 3 * time.Second

// asked are the questions of a steady load, and what is learnt of answers.
type asked struct {
	packed [][]byte
	kinds  []kind
	names  []string // of those about what changes

	mu        sync.Mutex
	odd       int // answers that are wrong whatever the release is
	sightings []sighting
}

// kind is what a question must have for an answer.
type kind byte

const (
	referral kind = iota
	answer        // one record
	nothing       // NXDOMAIN
	changing      // a record that says in which version it was made
)

// sighting is an answer about what changes. Times are in nanoseconds since the epoch.
type sighting struct {
	question  int
	version   uint32
	sent, got int64
}

// changingShare is of how many questions one is about what changes.
const changingShare = 8

// asks makes questions of the mix of the other parts, and some about what changes.
func (m *large) asks() (*asked, error) {
	a := &asked{}
	r := rand.New(rand.NewPCG(5, 6))
	host := map[string]bool{}
	for _, name := range m.known.hosts {
		host[name+"."+origin] = true
	}
	for i := range loadQuestions {
		name, qtype := m.known.query(r)
		k := referral
		switch {
		case i%(4*changingShare) == 0:
			name, qtype, k = releaseName, "TXT", changing
		case i%changingShare == 0:
			name, qtype, k = m.watched[r.IntN(len(m.watched))]+"."+origin, "DS", changing
		case strings.HasPrefix(name, "no"): // as no other name does
			k = nothing
		case host[name]:
			k = answer
		}
		q, err := new(dns.Msg).SetQuestion(name, dns.StringToType[qtype]).SetEdns0(1232, false).Pack()
		if err != nil {
			return nil, err
		}
		a.packed, a.kinds, a.names = append(a.packed, q), append(a.kinds, k), append(a.names, name)
	}
	return a, nil
}

// judge notes what an answer shows.
func (a *asked) judge(question int, sent, got int64, message []byte) {
	ok, version := a.reads(question, message)
	a.mu.Lock()
	defer a.mu.Unlock()
	if !ok {
		a.odd++
	} else if a.kinds[question] == changing {
		a.sightings = append(a.sightings, sighting{question, version, sent, got})
	}
}

// reads reports whether an answer is as it must be in every release, and the version that it speaks of.
func (a *asked) reads(question int, message []byte) (ok bool, version uint32) {
	flags, answers, authorities := binary.BigEndian.Uint16(message[2:]), binary.BigEndian.Uint16(message[6:]), binary.BigEndian.Uint16(message[8:])
	rcode, authoritative := int(flags&15), flags&(1<<10) != 0
	switch a.kinds[question] {
	case referral:
		return rcode == dns.RcodeSuccess && !authoritative && answers == 0 && authorities > 0, 0
	case answer:
		return rcode == dns.RcodeSuccess && authoritative && answers == 1, 0
	case nothing:
		return rcode == dns.RcodeNameError && authoritative && answers == 0 && authorities > 0, 0
	}
	r := new(dns.Msg)
	if r.Unpack(message) != nil || r.Rcode != dns.RcodeSuccess || len(r.Answer) != 1 {
		return false, 0
	}
	switch rr := r.Answer[0].(type) {
	case *dns.TXT:
		n, err := strconv.ParseUint(strings.Join(rr.Txt, ""), 10, 32)
		return err == nil, uint32(n)
	case *dns.DS:
		return true, versionOf(rr.Digest)
	}
	return false, 0
}

// wrong counts the answers that no correct mesh gives while it makes these releases, the latest first, of which the oldest was made before.
func (a *asked) wrong(made []madeRelease, m *large) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	var line []since
	for _, r := range slices.Backward(made) {
		if len(r.Zones) > 0 {
			line = append(line, since{r.Switchover.UnixNano(), m.serials[r.Zones[0].To]})
		}
	}
	if len(line) > 0 {
		line[0].at = 0
	}
	n := a.odd
	for _, s := range a.sightings {
		if !explains(line, s, func(version uint32) bool { return m.inForce(a.names[s.question], version) == s.version }) {
			n++
		}
	}
	return n
}

// since is from when a version of the zone was the one to answer from, in nanoseconds since the epoch.
type since struct {
	at      int64
	version uint32
}

// explains reports whether an answer is of a version that was in force when it was given: clocks may be wrong by clockBound.
func explains(line []since, s sighting, is func(version uint32) bool) bool {
	for i, v := range line {
		if s.got >= v.at-clockBound.Nanoseconds() && (i+1 == len(line) || s.sent <= line[i+1].at+clockBound.Nanoseconds()) && is(v.version) {
			return true
		}
	}
	return false
}
