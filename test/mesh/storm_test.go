package mesh_test

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

const (
	stormFor    = 90 * time.Second // without STORM_FOR
	stormEvery  = 15 * time.Second // between two versions of the zone
	stormSettle = 10 * time.Second // about one switchover, from its proposal to its instant, unless leads are longer
)

// storm is a mesh that runs unattended, and to which one thing happens after the other.
type storm struct {
	*judged
	random *rand.Rand
	kinds  []int // of faults that are still to come before one comes again
}

// TestStorm runs five nodes and the distribution host, unattended, on a directory of zones that changes all the time, with
// clients that ask every node. One fault after the other strikes: processes are killed or stand still, links are cut both
// ways or one way, disks are full or read-only, files are damaged, clocks are wrong. No answer is of a release that it is not
// the time of, whatever happens (I1, I2); no node is silent that no fault touched (I4, I5); once all is well every node
// answers from the newest release within a minute, or two leads where these are longer, by itself, and so it does from the next (I6).
//
// STORM_FOR is how long things go wrong, STORM_SEED what the faults are drawn by. By hand:
//
//	STORM_FOR=30m go test -count=1 -v -timeout 1h -run 'TestStorm$' ./test/mesh
func TestStorm(t *testing.T) {
	t.Parallel()
	length, seed := stormSettings(t)
	s := newStorm(t, seed)
	version, stop := s.publish()
	defer stop()
	defer s.watch()()
	for _, node := range s.nodes {
		s.awaitAnswers(node, 1, s.begun)
	}
	for end := time.Now().Add(length); time.Now().Before(end); {
		s.strike()
	}
	healed := time.Now()
	stop()
	for _, last := range []uint64{*version, *version + 1} { // the next one is put after all nodes have the one before
		s.put(last)
		for _, node := range s.nodes {
			s.awaitAnswers(node, last, healed)
		}
		healed = time.Now()
	}
	s.judge()
}

func stormSettings(t *testing.T) (length time.Duration, seed uint64) {
	length, seed = stormFor, uint64(time.Now().UnixNano())
	var err error
	if v := os.Getenv("STORM_FOR"); v != "" {
		length, err = time.ParseDuration(v)
		lab.Must(t, err)
	}
	if v := os.Getenv("STORM_SEED"); v != "" {
		seed, err = strconv.ParseUint(v, 10, 64)
		lab.Must(t, err)
	}
	return length, seed
}

// newStorm starts the mesh, and clients that ask its nodes from when these answer for the first time.
func newStorm(t *testing.T, seed uint64) *storm {
	testenv.Need(t, "chronyd", "nft")
	m := meshOf(newWorld(t), "tyo", "osa", "fra", "nyc", "lim")
	s := &storm{judged: newJudged(m), random: rand.New(rand.NewPCG(seed, 0))}
	t.Cleanup(func() { t.Logf("STORM_SEED=%d", seed) })
	m.machines()
	m.startTime()
	m.init("--lease", "1h")
	m.world.write("home/meshctl.yaml", "releases: {every: 1s}\nserve: {listen: '198.51.100.1:8443', access: [198.51.100.0/24], renew: 1m}\n")
	s.put(1)
	s.startServe()
	for _, node := range m.nodes {
		m.configure(node)
		s.mountDisks(node)
		m.startClock(node)
		m.startSidecar(node)
		m.startCoreDNS(node)
	}
	for _, node := range m.nodes {
		m.awaitServing(node, 1)
	}
	s.ask()
	return s
}

func (s *storm) startServe() {
	s.serve = s.start("dist", "serve", s.bin+"/meshctl", "--home", s.path("home"), "serve", "--zones", s.path("zones"))
}

// put makes that version of the zone the one to release.
func (s *storm) put(version uint64) {
	s.must(s.putFile(version))
}

func (s *storm) putFile(version uint64) error {
	if err := os.MkdirAll(s.path("zones"), 0o755); err != nil {
		return err
	}
	whole := s.path("zone.new")
	if err := os.WriteFile(whole, []byte(zoneText(version)), 0o644); err != nil {
		return err
	}
	return os.Rename(whole, s.path("zones", "example.org.zone"))
}

// publish puts a new version of the zone again and again, until stop is called. version is the newest one by then.
func (s *storm) publish() (version *uint64, stop func()) {
	version = new(uint64)
	*version = 1
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(stormEvery):
			}
			*version++
			if err := s.putFile(*version); err != nil {
				s.errorf("%v", err)
			}
		}
	}()
	return version, func() { cancel(); <-done }
}

// strike makes one fault, lifts it, and waits until it is over.
func (s *storm) strike() {
	f := s.draw()
	length := time.Duration(500+s.random.IntN(7500)) * time.Millisecond
	pause := time.Duration(s.random.IntN(3000)) * time.Millisecond
	t := s.touches(f.nodes...)
	s.say("%s, for %v", f.what, length)
	f.strike()
	time.Sleep(length)
	f.lift()
	lifted := time.Now()
	s.say("lifted: %s", f.what)
	for _, node := range f.nodes {
		s.awaitAnswers(node, 1, lifted)
	}
	if took := time.Since(lifted); took > time.Second {
		s.say("%v answer after %v", f.nodes, took)
	}
	time.Sleep(stormSettle)
	time.Sleep(time.Until(s.planned.last().Add(time.Second))) // a switchover that the others make, or have made, without it
	t.ends()
	time.Sleep(pause)
}
