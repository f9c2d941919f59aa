package meshsync

import (
	"fmt"
	"maps"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// quiet is how long a place that was logged is left alone when other things are wrong with it.
const quiet = time.Second

// faults counts what was refused, says each once, and shows it until its place is right again.
type faults struct {
	places map[string]*place
	counts map[string]uint64 // by rule

	waiting bool // the process has just started: a repository that has not come yet is nothing to worry about
}

// place is what is wrong somewhere (no rule: nothing), and what was logged of it last.
type place struct {
	status.Fault
	said status.Fault
	when time.Time
	wait bool // it was logged as waited for
}

// placeOf is the place of what keeps a release from being staged.
func placeOf(number uint64) string { return fmt.Sprintf("release %d", number) }

// add counts a fault, and logs it unless that was just done. now is by the wall clock that the node goes by.
func (f *faults) add(where string, fault status.Fault, now instant.Wall) {
	if f.places == nil {
		f.places, f.counts = map[string]*place{}, map[string]uint64{}
	}
	f.counts[fault.Rule]++
	depotFaults.WithLabelValues(fault.Rule).Inc()
	fault.At = now
	p := f.places[where]
	if p == nil {
		p = &place{}
		f.places[where] = p
	}
	p.Fault = fault
	if f.waiting && fault.Rule == string(release.Missing) {
		if !p.wait {
			log.Infof("waiting for %s: %s", fault.File, fault.Detail)
		}
		p.wait = true
		return
	}
	news := p.said.File != fault.File || p.said.Rule != fault.Rule
	if news && time.Since(p.when) >= quiet {
		log.Errorf("refused: %s: %s: %s", fault.File, fault.Rule, fault.Detail)
		p.said, p.when = fault, time.Now()
	}
}

// clear ends what is wrong at a place.
func (f *faults) clear(where string) {
	p := f.places[where]
	if p == nil {
		return
	}
	if p.said.Rule != "" {
		log.Infof("right again: %s", where)
	}
	p.Fault, p.said, p.wait = status.Fault{}, status.Fault{}, false
}

// forget ends a place.
func (f *faults) forget(where string) { delete(f.places, where) }

// last is the newest fault that is not right again, nil if there is none.
func (f *faults) last() *status.Fault {
	var last *status.Fault
	for _, p := range f.places {
		if p.Rule != "" && (last == nil || p.At > last.At) {
			last = &p.Fault
		}
	}
	if last == nil {
		return nil
	}
	shown := *last // a status that was handed out does not change
	return &shown
}

func (f *faults) depot() status.Depot {
	return status.Depot{LastFault: f.last(), Faults: maps.Clone(f.counts)}
}
