package meshsync

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/coredns-anycast/coredns-anycast/internal/socket"
)

// followers are this process's, by directory. They outlive Corefile reloads: the instance that comes takes hold of what
// the instance that goes is still using, so no query is lost and nothing is compiled anew.
var followers = struct {
	sync.Mutex
	byDir map[string]*held
	epoch int // counts restarts begun; tells the holders of an instance that failed to start
}{byDir: map[string]*held{}}

// held is a follower, who holds it, and how it is set up now.
type held struct {
	follower *follower
	holders  map[*Meshsync]int // with the epoch in which they took hold
	setup    setup
	stop     func() // stops following the clock
	shown    *shown
}

// shown is the status on its two sockets.
type shown struct{ whole, brief *socket.Server }

// show shows how a follower is, at path and in brief beside it.
func show(path string, f *follower) (*shown, error) {
	whole, err := socket.Serve(path, func() any { return f.said().whole() })
	if err != nil {
		return nil, err
	}
	brief, err := socket.Serve(socket.Brief(path), func() any { return f.said().Brief() })
	if err != nil {
		return nil, errors.Join(err, whole.Close())
	}
	return &shown{whole, brief}, nil
}

func (s *shown) close() {
	s.brief.Close()
	s.whole.Close()
}

// setup is what may change with a reload: who certifies the clock, where the status is shown, the Corefile's digest.
type setup struct {
	clock  clockConfig
	status string
	digest string
}

func (c config) setup() setup { return setup{c.clock, c.status, c.digest} }

// acquire takes hold of the follower of m's directory, starting it if m is the first.
func acquire(m *Meshsync) error {
	followers.Lock()
	defer followers.Unlock()
	h := followers.byDir[m.config.dir]
	if h == nil {
		if len(followers.byDir) > 0 {
			return errors.New("the directory cannot change in a reload: restart the process")
		}
		var err error
		if h, err = start(m.config); err != nil {
			return err
		}
		followers.byDir[m.config.dir] = h
	}
	if err := h.admit(m.config); err != nil {
		return err
	}
	if err := h.apply(m.config.setup()); err != nil {
		return err
	}
	h.holders[m] = followers.epoch
	h.arrangeTransfers()
	m.follower.Store(h.follower)
	return nil
}

// admit refuses a reload that would have the follower be another.
func (h *held) admit(c config) error {
	old := h.follower.config
	if old.repository != c.repository || old.root != c.root || old.node != c.node || old.hold != c.hold {
		return errors.New("repository, root, node and isolated cannot change in a reload: restart the process")
	}
	return nil
}

func start(c config) (*held, error) {
	hearRefusals()
	f, err := newFollower(c, machine)
	if err != nil {
		return nil, err
	}
	h := &held{follower: f, holders: map[*Meshsync]int{}, stop: func() {}}
	if err := h.apply(c.setup()); err != nil {
		f.close()
		return nil, err
	}
	return h, nil
}

// apply starts the clock's follower and the status sockets anew if they are to be others.
func (h *held) apply(s setup) error {
	f := h.follower
	if h.setup.status != s.status {
		shown, err := show(s.status, f)
		if err != nil {
			return fmt.Errorf("status socket: %w", err)
		}
		if h.shown != nil {
			h.shown.close()
		}
		h.shown = shown
	}
	if h.setup.clock != s.clock {
		h.stop()
		h.stop = f.followClock(s.clock)
	}
	f.digest.Store(&s.digest)
	h.setup = s
	return nil
}

// followClock fetches samples as c says until the function returned is called.
func (f *follower) followClock(c clockConfig) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	done.Go(func() { c.certify(ctx, f.clocks.now, f.words, &f.pace) })
	f.assumed.Store(c.assumed())
	if c.assumed() {
		log.Warningf("the clock is %s", c)
	}
	return func() {
		cancel()
		done.Wait()
	}
}

// restarting begins a new epoch: whoever takes hold from now on belongs to the instance that is being started.
func restarting() error {
	followers.Lock()
	defer followers.Unlock()
	followers.epoch++
	return nil
}

// restartFailed lets go of what the instance that failed to start took hold of, which nobody tells it, and sets up what
// m holds as m wants it. If m has let go already, the new instance did start, and keeps what it has.
func restartFailed(m *Meshsync) error {
	followers.Lock()
	defer followers.Unlock()
	h := followers.byDir[m.config.dir]
	if h == nil {
		return nil
	}
	mine, holds := h.holders[m]
	if !holds {
		return nil
	}
	for holder, epoch := range h.holders {
		if epoch > mine {
			delete(h.holders, holder)
		}
	}
	h.arrangeTransfers()
	return h.apply(m.config.setup())
}

// letGo lets m go of its follower; the last one to do so stops it.
func letGo(m *Meshsync) error {
	followers.Lock()
	defer followers.Unlock()
	h := followers.byDir[m.config.dir]
	if h == nil {
		return nil
	}
	mine := h.holders[m]
	delete(h.holders, m)
	for _, epoch := range h.holders {
		if epoch > mine { // m's instance goes since a reload succeeded
			refused.Store(nil)
		}
	}
	h.arrangeTransfers()
	return dropUnheld(m.config.dir, h)
}

// dropUnheld stops a follower that nobody holds.
func dropUnheld(dir string, h *held) error {
	if len(h.holders) > 0 {
		return nil
	}
	delete(followers.byDir, dir)
	h.stop()
	h.shown.close()
	return h.follower.close()
}
