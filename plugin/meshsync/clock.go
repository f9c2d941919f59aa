package meshsync

import (
	"context"
	"fmt"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// clockConfig says who certifies the clock: the sidecar at socket, or the operator's word that it is never wrong by
// more than assume.
type clockConfig struct {
	socket string
	assume time.Duration
}

func (c clockConfig) assumed() bool { return c.socket == "" }

func (c clockConfig) String() string {
	if c.assumed() {
		return fmt.Sprintf("assumed to be right within %v: for tests and demonstrations only", c.assume)
	}
	return "certified by the sidecar at " + c.socket
}

// certifyEvery is how often a newer sample is fetched. Between two the last one ages by itself, and goes on doing so
// when the sidecar is gone (FAIL-4).
const certifyEvery = 250 * time.Millisecond

// certify sends samples until ctx ends. now reads the machine's clocks.
func (c clockConfig) certify(ctx context.Context, now func() instant.Instant, samples chan<- instant.Sample) {
	ticker := time.NewTicker(certifyEvery)
	defer ticker.Stop()
	var last instant.Sample
	for {
		if s, ok := c.sample(ctx, now); ok && s != last {
			select {
			case samples <- s:
				last = s
			case <-ctx.Done():
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// sample is the newest certified reading. A sidecar that has none yet, or is not there, takes nothing away from the one
// before.
func (c clockConfig) sample(ctx context.Context, now func() instant.Instant) (instant.Sample, bool) {
	if c.assumed() {
		return instant.Sample{At: now(), Bound: c.assume, Source: "assumed"}, true
	}
	var said status.Clock
	if err := socket.Read(ctx, c.socket, &said); err != nil || !sane(said.Sample) {
		return instant.Sample{}, false
	}
	return said.Sample, true
}

// sane reports whether a sample can be one. An error that is negative, now or with time, would make anything look right.
func sane(s instant.Sample) bool {
	return s.Source != "" && s.Bound >= 0 && s.Bound <= time.Hour && s.DriftPPM >= 0 && s.DriftPPM <= 1_000_000
}
