package main

import (
	"encoding/binary"
	"errors"
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

// sustained changes the large zone again and again while one node is asked steadily, and looks at every answer. The node waits for what in
// production runs on other machines. So in turns with it a server is asked that follows nothing (bystander), and waits for the same programs: by how
// much more the node's answers are late, following is why.
func (b *bench) sustained(m *large) error {
	if err := m.forgoZONEMD(); err != nil {
		return err
	}
	if err := errors.Join(m.prepareBystander(), m.startBystander()); err != nil {
		return err
	}
	defer m.stop(bystander)
	node, beside, err := m.ask(m.nodes[0])
	if err != nil {
		return err
	}
	defer beside.stop()
	defer node.stop()
	m.group()
	if err := m.groups.settle(map[string]float64{m.nodes[0]: 1}); err != nil { // it is busy answering
		return err
	}
	fmt.Fprintln(b.log, "queries, and no changes")
	node.window()
	beside.window()
	idle, err := m.groups.rest(min(4*turnTime, b.sustain))
	if err != nil {
		return err
	}
	t := tail{quiet: p99(node.window()), ofBystander: [2]float64{p99(beside.window())}}
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
	t.ofBystander[1] = p99(beside.window())
	beside.stop()
	lost, late := node.rest(lostAfter), node.late.Load()
	during := node.window()
	asked := len(during) + lost
	for _, took := range during {
		if took > lostAfter.Seconds() {
			lost++
		}
	}
	t.meanwhile = p99(during)
	fmt.Fprintf(b.log, "%d questions were put more than 1 ms late, of %d\n", late, asked)
	if _, err := m.recorded(serial); err != nil {
		return err
	}
	made, err := m.history(changes + 2)
	if err != nil {
		return err
	}
	wrong := node.asked.wrong(made, m)
	if beside.asked.odd > 0 {
		return fmt.Errorf("%d wrong answers of the server that follows nothing", beside.asked.odd)
	}
	made = slices.DeleteFunc(made, func(r madeRelease) bool { return r.Switchover.Before(began) })
	each := func(names ...string) float64 { // of those that are not asked: what questions cost the other differs from one release to the next by more
		used := 0.0
		for _, name := range names {
			used += after[name] - before[name] - idle[name]*ended.Sub(began).Seconds()
		}
		return used / float64(len(names)) / max(1, float64(len(made)))
	}
	b.one(fmt.Sprintf("releases made of %d changes, one every %v", changes, releaseEvery), "", fmt.Sprint(changes), float64(len(made)))
	b.one(fmt.Sprintf("of %d queries meanwhile, %d a second in half of the time, without an answer", asked, b.load), "", "0", float64(lost))
	b.one("wrongly answered", "", "0", float64(wrong))
	b.tails(t)
	if others := m.nodes[1:]; len(others) > 0 {
		b.one("processor of a node that is not asked, for each release", "s", "", each(others...))
	}
	b.one("processor of the distribution host, for each release", "s", "", each("host"))
	return nil
}

// tail are 99th percentiles, in seconds: of the node that follows, and of the bystander, before and meanwhile.
type tail struct {
	quiet, meanwhile float64
	ofBystander      [2]float64
}

func (b *bench) tails(t tail) {
	b.one("p99 of answers before, quiet", "µs", "", t.quiet*1e6)
	b.one("p99 meanwhile", "µs", "", t.meanwhile*1e6)
	b.one("ratio of the two", "", "≤ 1.5", t.meanwhile/t.quiet)
	b.one("p99 of a server that follows nothing, in turns with it, quiet", "µs", "", t.ofBystander[0]*1e6)
	b.one("… meanwhile", "µs", "", t.ofBystander[1]*1e6)
	b.one("p99 meanwhile, to that of the server that follows nothing", "", "≤ 1.5", t.meanwhile/t.ofBystander[1])
}

// one adds a row of ours alone.
func (b *bench) one(what, unit, target string, figure float64) {
	b.row(what, unit, target, figures{"ours": {figure}})
}

// turnTime is how long one of two servers is asked, at the most, before the other is.
const turnTime = 10 * time.Second

// asking is a load, and what is learnt by it.
type asking struct {
	*load
	asked *asked
}

// ask starts to ask a node and the bystander in turns.
func (m *large) ask(name string) (node, beside asking, err error) {
	when := turns{time.Now(), m.b.load, min(turnTime, m.b.sustain/6), 0, 2}
	for _, a := range []struct {
		*asking
		host string
	}{{&node, name}, {&beside, bystander}} {
		if a.asked, err = m.asks(); err != nil {
			break
		}
		err = m.places[a.host].Do(func() (err error) {
			a.load, err = startLoad(unix.SockaddrInet4{Port: 53, Addr: [4]byte{192, 0, 2, 53}}, when, a.asked.packed, a.asked.judge)
			return err
		})
		if err != nil {
			break
		}
		when.mine++
	}
	if err != nil && node.load != nil {
		node.stop()
	}
	return node, beside, err
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
