package unattended

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"sync"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/switchover"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// RemainingPath is where a member that is about to withdraw its route finds out who remains (FAIL-4).
const RemainingPath = "/v1/remaining"

// roll calls the members: which of them are announced and good by their own word? A call counts for those who wait for it when
// it begins, since a member asks once it has said of itself that it is bad: so of two that go bad at one moment, at least one
// sees the other. There is one call at a time, however many wait for the next. It decides nothing and remembers nothing, so
// that any number of hosts may each have theirs.
type roll struct {
	ctx     context.Context // of all calls: whoever asked for one may have gone, and others wait for it too
	ask     switchover.Ask
	members func() []release.Member

	mu      sync.Mutex
	calling bool
	next    *call // that has not begun; nil while nobody waits for it
}

type call struct {
	done    chan struct{}
	remains []string // once done is closed
}

// remaining waits for a call that begins from now on.
func (r *roll) remaining(ctx context.Context) ([]string, error) {
	r.mu.Lock()
	if r.next == nil {
		r.next = &call{done: make(chan struct{})}
	}
	mine := r.next
	if !r.calling {
		r.calling = true
		go r.run()
	}
	r.mu.Unlock()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-mine.done:
		return mine.remains, nil
	}
}

// run calls until nobody waits.
func (r *roll) run() {
	for {
		r.mu.Lock()
		now := r.next
		r.next = nil
		r.calling = now != nil
		r.mu.Unlock()
		if now == nil {
			return
		}
		now.remains = r.call()
		close(now.done)
	}
}

// call asks every member. It ends by itself, since each has switchover.AskTimeout to answer.
func (r *roll) call() []string {
	remains := []string{}
	for name, a := range r.ask(r.ctx, r.members()) {
		if a.Err == nil && a.Confirmation.Remains {
			remains = append(remains, name)
		}
	}
	slices.Sort(remains)
	return remains
}

func (r *roll) serve(w http.ResponseWriter, request *http.Request) {
	members, err := r.remaining(request.Context())
	if err != nil {
		return // whoever asked has gone
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	json.NewEncoder(w).Encode(status.Remaining{Version: status.Version, Members: members})
}
