// Package beside does work that nobody waits for beside the answers of the same process. plugin/meshsync, internal/receive and "meshctl serve" call it.
package beside

import "context"

// turn is whose turn it is in Run.
var turn = make(chan struct{}, 1)

// Run does work in a thread that steps back, when nothing else is done by Run in this process, so that two pieces of it do not take memory at once.
// It must be called by a goroutine that ends with it. It returns false without having done anything if ctx ends before.
func Run(ctx context.Context, work func()) bool {
	select {
	case turn <- struct{}{}:
	case <-ctx.Done():
		return false
	}
	defer func() { <-turn }()
	if ctx.Err() != nil {
		return false
	}
	StepBack()
	work()
	return true
}
