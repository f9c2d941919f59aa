package beside

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
)

// TestOneAtATime: two pieces of work are never done at once, each is done once, and none after ctx has ended.
func TestOneAtATime(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var doing, done atomic.Int32
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			ran := Run(ctx, func() {
				if n := doing.Add(1); n > 1 {
					t.Errorf("%d at once", n)
				}
				done.Add(1)
				doing.Add(-1)
			})
			if !ran {
				t.Error("it was not done")
			}
		})
	}
	all.Wait()
	if done.Load() != 20 {
		t.Errorf("%d were done", done.Load())
	}
	begun, end := make(chan bool), make(chan bool)
	all.Go(func() { Run(context.Background(), func() { close(begun); <-end }) })
	<-begun
	all.Go(func() {
		if Run(ctx, func() { t.Error("done after the end") }) {
			t.Error("it says that it was done")
		}
	})
	cancel()
	close(end)
	all.Wait()
}
