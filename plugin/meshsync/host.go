package meshsync

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	stdlog "log"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/caddy/caddyfile"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// What a node that answers can tell of the machine under it before that ends it: a Corefile that the next start will refuse, and a
// state directory in which it could not write what it has to write next.

// How often the state directory is tried, and how often what was wrong is looked at again.
const (
	hostEvery = 2 * time.Minute
	hostRetry = 5 * time.Second
)

// refusal is why the Corefile on disk is not the one that runs.
type refusal struct {
	words string
	text  bool // it is no Corefile at all: plugin reload does not begin a reload then, nor when the text before is put back
}

// refused is the last refusal since a reload that succeeded; nil if there was none. It is the process's, as the Corefile is.
var refused atomic.Pointer[refusal]

// refusals are the words with which caddy, CoreDNS and Go log what became of a reload. They give its error to nobody.
var refusals = []struct {
	words string
	text  bool
}{
	{"[ERROR] Restart failed: ", false},
	{"[PANIC] Restart: ", false},
	{"[ERROR] SIGUSR1: loading updated Caddyfile: ", true},
	{"plugin/reload: Corefile parse failed: ", true},
}

// refusalLog is the process's log, which it hears refusals in.
type refusalLog struct{ io.Writer }

func (l refusalLog) Write(line []byte) (int, error) {
	for _, r := range refusals {
		if _, words, found := bytes.Cut(line, []byte(r.words)); found {
			refused.Store(&refusal{strings.TrimSpace(string(words)), r.text})
		}
	}
	return l.Writer.Write(line)
}

// hearRefusals has the log heard from now on.
func hearRefusals() {
	if _, done := stdlog.Writer().(refusalLog); !done {
		stdlog.SetOutput(refusalLog{stdlog.Writer()})
	}
}

// tend looks at the machine at the start and now and then, until ctx ends. It is apart from run, since a disk may hang.
func (f *follower) tend(ctx context.Context) {
	every := cmp.Or(f.config.tend, hostEvery)
	var tried time.Time
	for {
		if f.unwritable.Load() != nil || tried.IsZero() || time.Since(tried) >= every {
			tried = time.Now()
			f.unwritable.Store(reasonOf(status.StateUnwritable, depot.Writable(f.state.dir)))
		}
		if r := refused.Load(); r != nil && r.text && runsAsOnDisk() {
			refused.CompareAndSwap(r, nil)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(every, hostRetry)):
		}
	}
}

// reasonOf is an error as a reason; nil for none.
func reasonOf(code string, err error) *status.Reason {
	if err == nil {
		return nil
	}
	return &status.Reason{Code: code, Detail: err.Error()}
}

// runsAsOnDisk reports whether the Corefile on disk says what the one that runs says.
func runsAsOnDisk() bool {
	instances := caddy.Instances()
	if len(instances) == 0 {
		return false
	}
	runs := instances[0].Caddyfile()
	if runs == nil {
		return false
	}
	disk, err := os.ReadFile(runs.Path())
	if err != nil {
		return false
	}
	now, err := parsed(runs.Path(), disk)
	before, same := parsed(runs.Path(), runs.Body())
	return err == nil && same == nil && bytes.Equal(now, before)
}

// parsed is a Corefile without what means nothing, as plugin reload compares them.
func parsed(path string, text []byte) ([]byte, error) {
	blocks, err := caddyfile.Parse(path, bytes.NewReader(text), nil)
	if err != nil {
		return nil, err
	}
	return json.Marshal(blocks)
}

// hostWarnings are what tend and the log have found, and are logged when they begin and end.
func (f *follower) hostWarnings() (all []status.Reason) {
	if r := refused.Load(); r != nil {
		all = append(all, status.Reason{Code: status.CorefileRefused, Detail: "the Corefile before it goes on, and a restart would fail: " + r.words})
	}
	if r := f.unwritable.Load(); r != nil {
		all = append(all, *r)
	}
	if !sameCodes(all, f.warnedOf) {
		for _, r := range all {
			if !slices.ContainsFunc(f.warnedOf, is(r)) {
				log.Warning(r)
			}
		}
		for _, r := range f.warnedOf {
			if !slices.ContainsFunc(all, is(r)) {
				log.Infof("right again: %s", r.Code)
			}
		}
		f.warnedOf = all
	}
	return all
}

// is reports whether another reason has the code of r.
func is(r status.Reason) func(status.Reason) bool {
	return func(other status.Reason) bool { return other.Code == r.Code }
}
