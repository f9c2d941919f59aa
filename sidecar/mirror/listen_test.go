package mirror

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testca"
)

// holder is another server of the host's repository, which holds requests.
func (h *host) holder(ca *testca.CA, down *atomic.Bool) string {
	ctx, end := context.WithCancel(context.Background())
	url := serve(h.t, ca, depot.NewHolder(ctx, h.dir, 10*time.Millisecond), down)
	h.t.Cleanup(end)
	return url
}

// run runs the mirror until the test ends.
func run(t *testing.T, m *Mirror) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { m.Run(ctx); close(ended) }()
	t.Cleanup(func() { cancel(); <-ended })
}

func held(m *Mirror, url string) func() bool {
	return func() bool {
		return slices.ContainsFunc(m.Status().Repositories, func(r status.Repository) bool { return r.URL == url && r.Held })
	}
}

// TestNewsComeInARoundTrip: where a request is held, what is published is in the depot long before the next look is due, again and
// again; and the node says that it hears at once, or soon while the host is away.
func TestNewsComeInARoundTrip(t *testing.T) {
	ca := testca.New(t)
	h := newHost(t, ca)
	down := new(atomic.Bool)
	url := h.holder(ca, down)
	m := h.mirror(ca, url) // looks every hour
	root := h.mem.Root
	if m.Hears() < time.Hour {
		t.Errorf("it hears after %v, and no request is held", m.Hears())
	}
	run(t, m)
	lab.WaitFor(t, "a request is held", held(m, url))
	for n := range uint64(5) {
		if n%2 == 0 {
			h.release(n + 1)
		} else {
			h.renew()
		}
		lab.WaitFor(t, "what was published", func() bool { return lease(t, m, root) == h.timestamp() })
		if m.Hears() >= time.Minute {
			t.Fatalf("it hears after %v", m.Hears())
		}
	}
	down.Store(true)
	h.renew() // which answers the request that is held; the next one fails
	lab.WaitFor(t, "no request is held", func() bool { return !held(m, url)() })
	if m.Hears() >= time.Minute {
		t.Errorf("it hears after %v, and asks again in a moment", m.Hears())
	}
	down.Store(false)
	lab.WaitFor(t, "the newest again", func() bool { return held(m, url)() && lease(t, m, root) == h.timestamp() })
}

// TestALostRequestIsMadeAgain: a host that is started again, by itself or behind a proxy, does not have a node say that it hears as late as its next
// look, in an hour: it asks again within seconds, and says so until it does. The lead of a switchover is no less than twice that.
func TestALostRequestIsMadeAgain(t *testing.T) {
	for name, lose := range map[string]func(h *lossy){
		"the host ends":          func(h *lossy) { h.end(); h.away.Store(true) },
		"a proxy finds it away":  func(h *lossy) { h.away.Store(true); h.server.CloseClientConnections() },
		"it ends before news do": func(h *lossy) { h.away.Store(true); h.renew() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newLossy(t)
			m := h.mirror(h.ca, h.server.URL)
			root := h.mem.Root
			run(t, m)
			lab.WaitFor(t, "a request is held", held(m, h.server.URL))
			var late atomic.Int64
			go func() {
				for t.Context().Err() == nil {
					late.Store(max(late.Load(), int64(m.Hears())))
					time.Sleep(time.Millisecond)
				}
			}()
			for range 2 {
				lose(h)
				lab.WaitFor(t, "the request is lost", func() bool { return !held(m, h.server.URL)() })
				h.begin()
				for _, when := range []string{"meanwhile", "then"} {
					h.renew()
					lab.WaitFor(t, "what was published "+when, func() bool { return lease(t, m, root) == h.timestamp() })
					lab.WaitFor(t, "a request is held again", held(m, h.server.URL))
				}
			}
			if got := time.Duration(late.Load()); got >= time.Minute {
				t.Errorf("it said that it hears after up to %v", got)
			}
		})
	}
}

// lossy is a host that holds requests and can be away.
type lossy struct {
	*host
	ca     *testca.CA
	away   atomic.Bool
	server *httptest.Server
	holder atomic.Pointer[depot.Holder]
	end    context.CancelFunc // of those that are held
}

func newLossy(t *testing.T) *lossy {
	ca := testca.New(t)
	h := &lossy{host: newHost(t, ca), ca: ca}
	h.begin()
	h.server = serving(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.holder.Load().ServeHTTP(w, r) }), &h.away)
	return h
}

// begin has it serve, and hold requests.
func (h *lossy) begin() {
	ctx, end := context.WithCancel(context.Background())
	h.t.Cleanup(end)
	h.holder.Store(depot.NewHolder(ctx, h.dir, 10*time.Millisecond))
	h.end = end
	h.away.Store(false)
}

// TestWhoIsReliedOn: what a node says of how soon it hears is what the hosts that it asks can be relied on for, by their answers.
func TestWhoIsReliedOn(t *testing.T) {
	const soon, later = time.Second, time.Hour + 6*time.Minute
	lost := hearing{relied: true, within: soon}
	for name, test := range map[string]struct {
		all   []hearing // of repositories; a look at each was good
		unfit bool      // but for the last
		want  time.Duration
	}{
		"none":                               {nil, false, later},
		"none is held":                       {[]hearing{{}, {}}, false, later},
		"one is held":                        {[]hearing{{held: true, relied: true}, {}}, false, notice},
		"one is held by who misled":          {[]hearing{{held: true}, {}}, false, later},
		"one was lost":                       {[]hearing{lost}, false, soon + notice},
		"one was lost, another is looked at": {[]hearing{lost, {}}, false, soon + notice},
		"one was lost for long":              {[]hearing{{relied: true, within: soon, long: true}}, false, soon + notice},
		"and another is looked at":           {[]hearing{{relied: true, within: soon, long: true}, {}}, false, later},
		"and another cannot be":              {[]hearing{{relied: true, within: soon, long: true}, {}}, true, soon + notice},
		"and another is held":                {[]hearing{{relied: true, within: soon, long: true}, {held: true, relied: true}}, false, notice},
		"all were lost for long":             {[]hearing{{relied: true, within: 2 * soon, long: true}, {relied: true, within: soon, long: true}}, false, soon + notice},
		"it is asked after the next look":    {[]hearing{{relied: true, within: 2 * time.Hour}}, false, later},
	} {
		m := &Mirror{interval: time.Hour}
		for _, h := range test.all {
			m.repositories = append(m.repositories, &repository{hearing: h, last: &depot.Found{}})
		}
		if test.unfit {
			m.repositories[len(m.repositories)-1].err = errNotLookedAt
		}
		if got := m.Hears(); got != test.want {
			t.Errorf("%s: it hears after %v, want %v", name, got, test.want)
		}
	}
}

// TestWhatAnswersShow: a server is relied on for what its answers have shown, and no longer.
func TestWhatAnswersShow(t *testing.T) {
	const answered, lost, doubt, sure = true, false, true, false
	kept := func(l *listening) { l.kept(true) }
	would := func(l *listening) { l.kept(false) }
	missed := func(answered, doubt bool) func(*listening) { return func(l *listening) { l.missed(answered, doubt) } }
	plain := func(l *listening) {
		if !l.refused() {
			l.missed(false, true)
		}
	}
	for name, test := range map[string]struct {
		looked string // "never", "before" or "since" the first request that came to nothing, or "in vain"
		so     []func(*listening)
		want   bool
	}{
		"it is not there yet":                    {"never", []func(*listening){missed(lost, sure)}, true},
		"it is there, and answers none":          {"before", []func(*listening){missed(lost, sure)}, false},
		"it cannot be looked at":                 {"in vain", []func(*listening){missed(lost, sure)}, true},
		"it holds none":                          {"before", []func(*listening){plain}, false},
		"it held none, and is away":              {"in vain", []func(*listening){plain, missed(lost, sure)}, false},
		"it holds none for a moment":             {"before", []func(*listening){would, plain}, true},
		"it holds none any more":                 {"before", []func(*listening){kept, plain, plain}, false},
		"it held none, and holds again":          {"before", []func(*listening){kept, plain, plain, would, plain}, true},
		"one is lost":                            {"before", []func(*listening){would, missed(lost, sure)}, true},
		"all are lost, and it is away":           {"in vain", []func(*listening){kept, missed(lost, sure), missed(lost, sure), missed(lost, sure)}, true},
		"all are lost, and it is there":          {"since", []func(*listening){kept, missed(lost, sure), missed(lost, sure)}, false},
		"it lets go of one":                      {"before", []func(*listening){would, missed(answered, sure)}, true},
		"it answers one too early":               {"before", []func(*listening){would, missed(answered, doubt)}, true},
		"it answers all too early":               {"before", []func(*listening){would, missed(answered, doubt), would, missed(answered, doubt)}, false},
		"it is deaf again and again":             {"before", []func(*listening){would, missed(lost, doubt), would, missed(lost, doubt)}, false},
		"it was deaf again and again, and holds": {"before", []func(*listening){missed(lost, doubt), would, missed(lost, doubt), would, kept, missed(lost, sure)}, true},
	} {
		l := listening{retry: holdRetry}
		for _, f := range test.so {
			f(&l)
		}
		r := &repository{}
		switch test.looked {
		case "before":
			r.last, r.good, r.took = &depot.Found{}, time.Now(), time.Hour
		case "since":
			r.last, r.good = &depot.Found{}, time.Now().Add(time.Second)
		case "in vain":
			r.last, r.err, r.good = &depot.Found{}, errNotLookedAt, time.Now().Add(time.Second)
		}
		if got := new(Mirror).relied(r, &l); got != test.want {
			t.Errorf("%s: relied on is %v", name, got)
		}
	}
}

// TestWhatSpeaksAgainstAServer: with an interval of an hour, a node behind what drops still connections would else say all the time that it hears at once
// or soon, and be asked to switch within seconds again and again. A host that is away, or is started again, is answered for by the next request.
func TestWhatSpeaksAgainstAServer(t *testing.T) {
	const held, news = true, true
	for name, test := range map[string]struct {
		held, news   bool
		wait, lasted time.Duration
		err          error
		want         bool
	}{
		"one that is held has no answer":     {!held, !news, holdFor, holdFor + holdSlack, errNotAnswered, true},
		"nor when there is something":        {!held, !news, holdFor, deafAfter, errDeaf, true},
		"one that is not held has no answer": {!held, !news, 0, holdSlack, errNotAnswered, false},
		"it is reset":                        {!held, !news, holdFor, holdFor / 2, io.ErrUnexpectedEOF, false},
		"it is let go of":                    {held, !news, holdFor, holdFor / 3, nil, false},
		"it is answered at once":             {held, !news, holdFor, holdRetry / 2, nil, true},
		"what it tells is not found":         {held, news, holdFor, holdFor, nil, true},
		"it is not held":                     {!held, !news, holdFor, 0, nil, true},
	} {
		if got := worthless(test.held, test.news, test.wait, test.lasted, test.err); got != test.want {
			t.Errorf("%s: it speaks against the server: %v", name, got)
		}
	}
}

// TestALongRoundIsNoDoubt: what a server has told of is waited for until the round that takes it has ended, in which ten million names may be read
// through. One that tells of what is not there is found out by the next.
func TestALongRoundIsNoDoubt(t *testing.T) {
	const slack = 5 * time.Millisecond
	comes := func(m *Mirror) { m.known.tag = "new"; close(m.knownNew) }
	next := func(m *Mirror) { m.ends++ }
	for name, test := range map[string]struct {
		under bool              // a round is, when it is asked
		then  []func(m *Mirror) // one after the other, each long after the one before
		want  bool
	}{
		"none is under way":        {false, nil, false},
		"one brings it":            {true, []func(*Mirror){comes}, true},
		"the one after it does":    {true, []func(*Mirror){next, comes}, true},
		"one ends without it":      {true, []func(*Mirror){func(m *Mirror) { m.rounding = false }}, false},
		"so does the one after it": {true, []func(*Mirror){next, next}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m := &Mirror{knownNew: make(chan struct{}), known: known{tag: "old"}, rounding: test.under}
			came := make(chan bool, 1)
			go func() { came <- m.comes(t.Context(), "old", slack) }()
			for _, then := range test.then {
				time.Sleep(20 * slack)
				m.mu.Lock()
				then(m)
				m.mu.Unlock()
			}
			select {
			case got := <-came:
				if got != test.want {
					t.Errorf("it comes: %v", got)
				}
			case <-time.After(lab.Patience):
				t.Error("it is waited for without end")
			}
		})
	}
	// Rounds say when they begin and end.
	ca := testca.New(t)
	h := newHost(t, ca)
	var under atomic.Bool
	var m *Mirror
	m = h.mirror(ca, serve(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, is := m.roundsSoFar(); is {
			under.Store(true)
		}
		h.dir.Handler().ServeHTTP(w, r)
	}), new(atomic.Bool)))
	lab.Must(t, m.round(t.Context()))
	if ended, is := m.roundsSoFar(); ended != 1 || is || !under.Load() {
		t.Errorf("%d rounds have ended, one is under way: %v, one was: %v", ended, is, under.Load())
	}
}

// TestWhatIsToldIsNotAskedFor: a host whose request is held tells all that is new in its answer, so that a release takes one round trip, and another for
// its zone. A host of the version before, or a server between, that leaves that out is asked for the rest.
func TestWhatIsToldIsNotAskedFor(t *testing.T) {
	for name, tells := range map[string]bool{"a host": true, "one of the version before": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca := testca.New(t)
			h := newHost(t, ca)
			holder := depot.NewHolder(t.Context(), h.dir, 10*time.Millisecond)
			var asked atomic.Int64
			var prefers atomic.Value
			url := serve(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				wait, _, _ := strings.Cut(r.Header.Get("Prefer"), ",")
				if wait != "" {
					prefers.Store(r.Header.Get("Prefer"))
				}
				switch {
				case wait != "" && !tells:
					r.Header.Set("Prefer", wait)
				case wait == "" && (strings.HasPrefix(r.URL.Path, "/metadata/") || strings.HasPrefix(r.URL.Path, "/targets/")):
					asked.Add(1)
				}
				holder.ServeHTTP(w, r)
			}), new(atomic.Bool))
			m := h.mirror(ca, url)
			root := h.mem.Root
			run(t, m)
			lab.WaitFor(t, "a request is held", held(m, url))
			before := asked.Load()
			for n := range uint64(3) {
				h.release(n + 1)
				lab.WaitFor(t, "what was published", func() bool { return lease(t, m, root) == h.timestamp() })
			}
			if got := asked.Load() - before; (got == 0) != tells {
				t.Errorf("%d questions for what was told", got)
			}
			has := "; manifest=" + release.DigestOf(h.mem.Manifest).String()
			lab.WaitFor(t, "it says what manifest it has", func() bool { return strings.HasSuffix(prefers.Load().(string), has) })
			h.renew()
			lab.WaitFor(t, "the lease", func() bool { return lease(t, m, root) == h.timestamp() })
			if got := asked.Load() - before; tells && got > 0 {
				t.Errorf("%d questions for a lease without its manifest", got)
			}
		})
	}
}

// TestAServerThatDoesNotHoldIsAskedSeldom: a static one, one that is broken, and such as say that they hold and answer at once, with
// nothing new or with what is no news, cannot make a node busy. Nor is a node misled about how soon it hears.
func TestAServerThatDoesNotHoldIsAskedSeldom(t *testing.T) {
	applied := func(w http.ResponseWriter, r *http.Request) {
		wait, _, _ := strings.Cut(r.Header.Get("Prefer"), ",")
		w.Header().Set("Preference-Applied", wait)
	}
	tells := func(news string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Preference-Applied", r.Header.Get("Prefer"))
			w.Write([]byte(news))
		}
	}
	for name, answer := range map[string]http.HandlerFunc{
		"static":   func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNotModified) },
		"broken":   func(w http.ResponseWriter, r *http.Request) { http.Error(w, "broken", http.StatusBadGateway) },
		"nothing":  func(w http.ResponseWriter, r *http.Request) { applied(w, r); w.WriteHeader(http.StatusNotModified) },
		"no news":  func(w http.ResponseWriter, r *http.Request) { applied(w, r); w.Write([]byte("news")) },
		"no files": tells(`{"root":1,"files":[]}`),
		"no JSON":  tells("news"),
		"much":     tells(strings.Repeat(" ", 4<<20)),
		"cut off":  func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) },
		"endless":  func(w http.ResponseWriter, r *http.Request) { applied(w, r); w.Write(make([]byte, 1<<20)) },
		"redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/elsewhere", http.StatusFound) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca := testca.New(t)
			h := newHost(t, ca)
			var asked, looked atomic.Int64
			url := serve(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Prefer") != "" {
					asked.Add(1)
					answer(w, r)
					return
				}
				if r.URL.Path == "/"+release.TimestampName {
					looked.Add(1)
				}
				h.dir.Handler().ServeHTTP(w, r)
			}), new(atomic.Bool))
			m := h.mirror(ca, url)
			began := time.Now()
			run(t, m)
			lab.WaitFor(t, "it is asked", func() bool { return asked.Load() > 0 })
			time.Sleep(2 * time.Second)
			seconds := int64(time.Since(began)/time.Second) + 1
			if n := asked.Load(); n > 2*seconds+2 {
				t.Errorf("it was asked %d times in %d s", n, seconds)
			}
			if n := looked.Load(); n > 2*seconds+2 {
				t.Errorf("it was looked at %d times in %d s", n, seconds)
			}
			lab.WaitFor(t, "it does not count as held", func() bool { return m.Hears() >= time.Hour })
		})
	}
}

// TestADeafServerIsFoundOut: one that holds a request and never answers it does not count as one that tells at once, once news have
// come another way.
func TestADeafServerIsFoundOut(t *testing.T) {
	ca := testca.New(t)
	h := newHost(t, ca)
	good := h.holder(ca, new(atomic.Bool))
	deaf := serve(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if prefer := r.Header.Get("Prefer"); prefer != "" {
			w.Header().Set("Preference-Applied", prefer)
			if !strings.HasPrefix(prefer, "wait=0") {
				<-r.Context().Done()
				return
			}
		}
		h.dir.Handler().ServeHTTP(w, r)
	}), new(atomic.Bool))
	m := h.mirror(ca, good, deaf)
	run(t, m)
	lab.WaitFor(t, "both hold", func() bool { return held(m, good)() && held(m, deaf)() })
	h.renew()
	lab.WaitFor(t, "the deaf one is found out", func() bool { return !held(m, deaf)() })
	if !held(m, good)() || lease(t, m, h.mem.Root) != h.timestamp() {
		t.Error("the good one is not followed")
	}
}

// TestAHostStartsAgain: it lets go of all members at once, who come back, each to one request that is held, and hear again; what was begun
// for them ends with them.
func TestAHostStartsAgain(t *testing.T) {
	const members = 50
	ca := testca.New(t)
	h := newHost(t, ca)
	var now atomic.Pointer[depot.Holder]
	begin := func() (end context.CancelFunc) {
		ctx, end := context.WithCancel(context.Background())
		now.Store(depot.NewHolder(ctx, h.dir, 10*time.Millisecond))
		return end
	}
	end := begin()
	url := serve(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { now.Load().ServeHTTP(w, r) }), new(atomic.Bool))
	newest := func() release.Memory {
		data, _, err := h.dir.Read(release.TimestampName, release.MaxBytes(release.TimestampName))
		lab.Must(t, err)
		return release.Memory{Timestamp: data}
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	var all []*Mirror
	for i := range members {
		m := New(Config{URLs: []string{url}, Interval: time.Second, Identity: ca.Identity(fmt.Sprintf("node%d", i), time.Hour).Load(t)}, slog.New(slog.DiscardHandler))
		all = append(all, m)
		m.knows(newest(), release.View{})
		running.Go(func() { m.listen(ctx, m.repositories[0]) })
		running.Go(func() { // in the place of looks
			for ctx.Err() == nil {
				select {
				case <-ctx.Done():
				case <-m.news:
					m.knows(newest(), release.View{})
				}
			}
		})
	}
	for range 2 {
		lab.WaitFor(t, "a request of each is held", func() bool { held, _ := now.Load().Counts(); return held == members })
		h.renew()
		lab.WaitFor(t, "all have heard", func() bool {
			return !slices.ContainsFunc(all, func(m *Mirror) bool { return m.lastKnown().tag != depot.TimestampTag(newest().Timestamp) })
		})
		end()
		end = begin()
	}
	lab.WaitFor(t, "a request of each is held again", func() bool { held, _ := now.Load().Counts(); return held == members })
	if _, refused := now.Load().Counts(); refused > 0 {
		t.Errorf("%d were refused: a member has more than one", refused)
	}
	cancel()
	running.Wait()
	lab.WaitFor(t, "no request is held", func() bool { held, _ := now.Load().Counts(); return held == 0 })
	lab.WaitFor(t, "what was begun has ended", func() bool {
		stacks := make([]byte, 4<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		return !bytes.Contains(stacks, []byte("mirror.(*Mirror).")) && !bytes.Contains(stacks, []byte("depot.(*Holder)."))
	})
	end()
}

// TestAHostThatStoodStillIsNotSlow: the look that waited for it says nothing of how long the next ones take, so the lead of what comes after
// is no longer than before, and the mesh heals in time (I6).
func TestAHostThatStoodStillIsNotSlow(t *testing.T) {
	ca := testca.New(t)
	h := newHost(t, ca)
	ctx, end := context.WithCancel(context.Background())
	t.Cleanup(end)
	holder, still := depot.NewHolder(ctx, h.dir, 10*time.Millisecond), new(sync.RWMutex)
	url := serve(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		still.RLock()
		still.RUnlock() //nolint:staticcheck // it goes on
		holder.ServeHTTP(w, r)
	}), new(atomic.Bool))
	m := h.mirror(ca, url)
	run(t, m)
	lab.WaitFor(t, "a request is held", held(m, url))
	still.Lock()
	h.renew()
	time.Sleep(hung + time.Second)
	still.Unlock()
	lab.WaitFor(t, "what was published", func() bool { return lease(t, m, h.mem.Root) == h.timestamp() })
	lab.WaitFor(t, "it hears as soon as without that", func() bool { return held(m, url)() && m.Hears() < 2*notice+hung+hung/2 })
}

// TestAHungRoundIsNotUsual: how long a node takes to hear is the 99th percentile of its rounds, without one that hung now and then; where they
// hang often, that is how it is.
func TestAHungRoundIsNotUsual(t *testing.T) {
	const quick, slow, still, hang = 20 * time.Millisecond, time.Second, 7700 * time.Millisecond, 50 * time.Second
	for name, test := range map[string]struct {
		rounds times
		want   time.Duration
	}{
		"none":               {nil, 0},
		"one":                {times{quick}, quick},
		"one that hung":      {times{hang}, 0},
		"one hung":           {append(slices.Repeat(times{quick}, 20), hang), quick},
		"two hung":           {append(append(slices.Repeat(times{quick}, 20), hang, hang), quick), quick},
		"a host that stood":  {append(append(slices.Repeat(times{quick}, 20), still), slices.Repeat(times{quick}, 20)...), quick},
		"slow now and then":  {append(slices.Repeat(times{quick}, 50), slow), slow},
		"slow once in 128":   {append(slices.Repeat(times{quick}, 127), slow), quick},
		"slow twice in 128":  {append(slices.Repeat(times{quick}, 126), slow, slow), slow},
		"always slow":        {slices.Repeat(times{hang}, 4), hang},
		"often hung":         {append(slices.Repeat(times{quick}, 20), hang, hang, hang), hang},
		"long ago often":     {append(slices.Repeat(times{hang}, 20), slices.Repeat(times{quick}, 16)...), quick},
		"the newest decides": {append(slices.Repeat(times{quick}, 110), slices.Repeat(times{slow}, 5)...), slow},
	} {
		if got := test.rounds.usual(); got != test.want {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
	var t128 times
	for range 1000 {
		t128.add(quick)
	}
	if len(t128) != keptTimes {
		t.Errorf("%d are kept", len(t128))
	}
}
