// Package beside does work that nobody waits for beside the answers of the same process. plugin/meshsync and internal/receive call it.
package beside

import "context"

// By how much the nice value of a thread is higher that has stepped back. A processor that others keep busy gives it a tenth with
// Behind, and a thirtieth with FarBehind (sched(7)): so what is to be ready in time is ready in a flood, and what has time takes little
// from that.
const (
	Behind    = 10
	FarBehind = 15
)

// turn is whose turn it is in Run.
var turn = make(chan struct{}, 1)

// Run does work far behind all others, when nothing else is done by Run in this process, so that two pieces of it do not take memory at once.
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
	StepBack(FarBehind)
	work()
	return true
}
