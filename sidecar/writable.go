package main

import (
	"context"
	"os"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// How often the state directory is tried, and how soon again while nothing can be written there.
const (
	writableEvery = 2 * time.Minute
	writableRetry = 5 * time.Second
)

// tend tries at the start and now and then whether a drain could be written down, until ctx ends.
func (s *sidecar) tend(ctx context.Context) {
	for {
		again := writableEvery
		if !s.tryState() {
			again = writableRetry
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(again):
		}
	}
}

// tryState reports whether the state directory can be written, and says it in status and log when that changes.
func (s *sidecar) tryState() bool {
	dir := s.cfg().State
	if dir == "" {
		return true
	}
	err := os.MkdirAll(dir, 0o750)
	if err == nil {
		err = depot.Writable(dir)
	}
	var why *status.Reason
	if err != nil {
		why = &status.Reason{Code: status.StateUnwritable, Detail: err.Error()}
	}
	s.mu.Lock()
	before := s.unwritable
	s.unwritable = why
	if (before == nil) != (why == nil) {
		s.noted++
	}
	s.mu.Unlock()
	switch {
	case before == nil && why != nil:
		s.log.Warn("the state directory cannot be written", "code", why.Code, "error", err)
	case before != nil && why == nil:
		s.log.Info("the state directory can be written again", "directory", dir)
	}
	return why == nil
}
