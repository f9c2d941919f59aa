package meshsync

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// large is a follower, not running, that answers from a release of n zones.
func large(b *testing.B, n int) *follower {
	b.Helper()
	p := &part{leaf: new(leaf)}
	for i := range n {
		origin := fmt.Sprintf("z%06d.example.", i)
		z, _ := zonefile.Parse(strings.NewReader(zoneText(origin, 1)), zonefile.Options{Origin: origin})
		p.made, p.signed = append(p.made, z), append(p.signed, release.Zone{Origin: origin, Serial: 1})
	}
	c := &compiled{parts: []*part{p}, fresh: []*part{p}}
	must(b, c.finish(nil, cacheFrom))
	now := machine.now()
	f := &follower{clocks: machine, node: mesh.NewNode(mesh.Durable{Floor: 1}), compiled: map[uint64]*compiled{1: c}}
	f.digest.Store(new(string))
	f.node.Certify(instant.Sample{At: now, Source: "test"})
	f.node.Learn(mesh.View{Lease: 1, Expires: now.Wall.Add(time.Hour), Epsilon: time.Second, Current: status.Ref{Number: 1, At: 1}})
	f.node.Ready(1)
	return f
}

// A process that is put off the processor between its readings of the two clocks is not taken for one whose clock has stepped.
func TestAReadingInTwoPartsIsNoStep(t *testing.T) {
	now, torn := instant.Instant{Wall: instant.Wall(time.Hour), Mono: 1}, 0
	f := &follower{}
	f.clocks.query = func() instant.Instant {
		if torn--; torn >= 0 {
			return instant.Instant{Wall: now.Wall, Mono: now.Mono.Add(time.Second)}
		}
		return now
	}
	if f.answering() != nil {
		t.Error("it answers, and nothing was decided")
	}
	torn = 1
	began := f.clocks.began()
	if began != now {
		t.Errorf("a decision begins at %+v, not %+v", began, now)
	}
	f.active.Store(f.answeringFrom(mesh.Decision{Serve: 1, Until: now.Wall.Add(time.Minute)}.Answering(began)))
	for torn = range 3 {
		if f.answering() == nil {
			t.Errorf("it is silent after %d readings in two parts", torn)
		}
	}
	torn = 100
	if f.answering() != nil {
		t.Error("it answers after a step")
	}
}

// BenchmarkDecision is what the follower does ten times a second: it must not grow with the zones.
func BenchmarkDecision(b *testing.B) {
	for _, n := range []int{1, 10_000} {
		b.Run(fmt.Sprintf("%d zones", n), func(b *testing.B) {
			f := large(b, n)
			b.ReportAllocs()
			for b.Loop() {
				f.act(b.Context(), f.decide(), nil)
			}
		})
	}
}

// BenchmarkServeDNS is an answer without the server around it.
func BenchmarkServeDNS(b *testing.B) {
	f := large(b, 10_000)
	f.act(b.Context(), f.decide(), nil)
	m := &Meshsync{}
	m.follower.Store(f)
	f.active.Load().Until = 1 << 62
	q := new(dns.Msg).SetQuestion("which.z77.example.", dns.TypeTXT)
	b.ReportAllocs()
	for b.Loop() {
		w := &writer{}
		if m.ServeDNS(context.Background(), w, q); w.said == nil || len(w.said.Answer) != 1 {
			b.Fatal("no answer")
		}
	}
}

// However often and in turn two things go wrong in one place, the log gets a line a second of it at most.
func TestFaultsDoNotFloodTheLog(t *testing.T) {
	var f faults
	said := 0
	for i := range 10_000 {
		f.add(placeRepository, status.Fault{File: "a", Rule: []string{"torn", "digest"}[i%2]}, instant.Wall(i))
		if f.places[placeRepository].said.Rule != "" && i%3 == 0 {
			f.clear(placeRepository)
			said++
		}
	}
	if said > 2 {
		t.Errorf("%d lines", said)
	}
	if f.counts["torn"] != 5_000 || f.counts["digest"] != 5_000 {
		t.Errorf("counted %v", f.counts)
	}
}

// The newest fault is shown, and an older one once that is right again.
func TestNewestFaultIsShown(t *testing.T) {
	var f faults
	if f.last() != nil || f.depot().Faults != nil {
		t.Error("a fault out of nothing")
	}
	f.clear(placePromise)
	f.add(placePromise, status.Fault{Rule: notDurable}, 1)
	f.add(placeOf(7), status.Fault{Rule: "digest"}, 2)
	for _, c := range []struct {
		do   func()
		want string
	}{
		{func() {}, "digest"},
		{func() { f.add(placePromise, status.Fault{Rule: notDurable}, 3) }, notDurable},
		{func() { f.clear(placePromise) }, "digest"},
	} {
		if c.do(); f.last().Rule != c.want {
			t.Errorf("shows %v, want %s", f.last(), c.want)
		}
	}
	f.forget(placeOf(7))
	if f.last() != nil {
		t.Errorf("shows %v", f.last())
	}
}
