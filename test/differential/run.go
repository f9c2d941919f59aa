package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/coredns-anycast/coredns-anycast/test/zonegen"
)

type options struct {
	seed     uint64
	flavours []string
	zones    int // of each flavour
	queries  int // of each flavour
	batch    int
	wire     float64
	steps    int // by which zone.Apply makes each zone
	shrink   int
	bin      string
}

// A tally counts what came of the questions of one flavour.
type tally struct {
	zones, queries, wire, split, tied int
	explained                         map[string]int
	failed                            []failure
	unexplained                       int
	steps                             steps
}

// A failure is a difference that nothing explains, and where it was found.
type failure struct {
	verdict
	zones []zonegen.Source
}

// run compares, reports to out, says to progress how far it is, and returns the number of differences that nothing explains.
func run(o options, out, progress io.Writer) (failed int, err error) {
	dir, err := os.MkdirTemp("", "differential-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	for _, flavour := range o.flavours {
		if !slices.Contains(zonegen.Flavours, flavour) {
			return 0, fmt.Errorf("no flavour %q: %v", flavour, zonegen.Flavours)
		}
		began := time.Now()
		t, err := o.flavour(dir, flavour, progress)
		t.report(out, flavour, time.Since(began))
		if err != nil {
			return failed, err
		}
		failed += t.unexplained
		for i := range min(o.shrink, len(t.failed)) {
			if err := o.reproduce(dir, out, &t.failed[i]); err != nil {
				return failed, err
			}
		}
	}
	return failed, nil
}

// flavour compares over all batches of one flavour, and returns what it found also where it could not go on. The zones of the next batch are signed while one is asked about.
func (o *options) flavour(dir, flavour string, progress io.Writer) (*tally, error) {
	t := &tally{explained: map[string]int{}}
	type prepared struct {
		u   *universe
		err error
	}
	batches := make(chan prepared, 1)
	count := (o.zones + o.batch - 1) / o.batch
	go func() {
		defer close(batches)
		for i := range count {
			u, err := o.prepare(dir, zonegen.Generate(o.seed*1000003+uint64(i), flavour, min(o.batch, o.zones-i*o.batch)))
			batches <- prepared{u, err}
			if err != nil {
				return
			}
		}
	}()
	defer func() {
		for range batches { // let it end
		}
	}()
	for i := 0; ; i++ {
		p, ok := <-batches
		if !ok {
			return t, nil
		}
		if p.err != nil {
			return t, p.err
		}
		if err := o.ask(p.u, t, (o.queries+count-1)/count, o.seed^uint64(i)<<32); err != nil {
			return t, err
		}
		fmt.Fprintf(progress, "%s: %d of %d batches, %d questions, %d unexplained\n", flavour, i+1, count, t.queries, t.unexplained)
	}
}

// ask puts questions about a batch to the servers, many at a time.
func (o *options) ask(u *universe, t *tally, queries int, seed uint64) error {
	defer u.stop()
	launchers := peers
	if o.wire > 0 {
		launchers = append(slices.Clone(peers), coredns(o.bin))
	}
	if err := u.start(launchers, 2*time.Minute); err != nil {
		return err
	}
	t.zones += len(u.zones)
	t.steps.add(u.steps)
	const workers = 16
	var wg sync.WaitGroup
	var mu sync.Mutex
	for worker := range workers {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(worker)))
			clients := u.clients()
			defer closeAll(clients)
			for i := worker; i < queries; i += workers {
				q := newQuestion(r, u.zones[i*len(u.zones)/queries])
				q.wire = r.Float64() < o.wire
				v := u.judge(clients, q)
				mu.Lock()
				t.count(u, &v)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return nil
}

// clients makes a client for each server.
func (u *universe) clients() []*client {
	var clients []*client
	for _, s := range u.servers {
		clients = append(clients, &client{server: s})
	}
	return clients
}

func closeAll(clients []*client) {
	for _, c := range clients {
		c.close()
	}
}

// kept is how many failures of a flavour are kept to be shown.
const kept = 20

func (t *tally) count(u *universe, v *verdict) {
	t.queries++
	if v.question.wire {
		t.wire++
	}
	if v.split {
		t.split++
	}
	if len(v.majority) > 1 {
		t.tied++
	}
	for _, rfc := range v.explained {
		t.explained[rfc]++
	}
	if !v.differs && v.err == nil {
		return
	}
	if t.unexplained++; len(t.failed) < kept {
		f := failure{verdict: *v}
		for _, z := range u.zones {
			f.zones = append(f.zones, z.Source)
		}
		t.failed = append(t.failed, f)
	}
}

func (t *tally) report(out io.Writer, flavour string, took time.Duration) {
	fmt.Fprintf(out, "%-8s %d zones, %d questions (%d to coredns) in %v: the others differ among themselves in %d, with no majority in %d; unexplained: %d\n",
		flavour, t.zones, t.queries, t.wire, took.Round(time.Second), t.split, t.tied, t.unexplained)
	fmt.Fprintf(out, "         zone.Apply made them in %d steps that left another image than a Builder makes, and %d that left the same; %d versions that were drawn are no zones\n", t.steps.inPlace, t.steps.anew, t.steps.refused)
	for _, d := range deviations {
		if n := t.explained[d.rfc]; n > 0 {
			fmt.Fprintf(out, "         %7d × %s\n", n, d.rfc)
		}
	}
	for i := range t.failed {
		fmt.Fprintf(out, "\nUNEXPLAINED %s", t.failed[i].difference())
	}
}
