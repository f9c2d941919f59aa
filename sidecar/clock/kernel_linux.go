package clock

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/sysclock"
)

// Kernel asks the kernel, whom ntpd, and chronyd with rtcsync, keep informed.
type Kernel struct {
	adjtimex func(*unix.Timex) (int, error) // nil is the real one; tests put another
	compared falls
}

// falls finds out when a bound was last made anew, by what only grows until it is.
type falls struct {
	last time.Duration
	when instant.Wall
}

// at is the time of the last fall, or of the first look.
func (f *falls) at(now instant.Wall, bound time.Duration) instant.Wall {
	if f.when == 0 || bound < f.last {
		f.when = now
	}
	f.last = bound
	return f.when
}

// phaseLimit is the largest error that the kernel counts (NTP_PHASE_LIMIT): beyond it, it knows nothing. Without news
// the error grows by 500 ppm until it is there.
const phaseLimit = 16 * time.Second

// Poll judges by maxerror alone, which a step sets to the limit and an update makes fall: the state that adjtimex returns, and STA_UNSYNC, also say "not synchronised" where
// chronyd keeps the time well but does not steer the hardware clock.
func (k *Kernel) Poll(context.Context) (Reading, error) {
	call := k.adjtimex
	if call == nil {
		call = unix.Adjtimex
	}
	at := sysclock.Now()
	var t unix.Timex // modes 0: reads, and needs no privilege
	state, err := call(&t)
	if errors.Is(err, unix.EPERM) {
		return Reading{}, fmt.Errorf("adjtimex is forbidden here (a sandbox): use another clock source")
	} else if err != nil {
		return Reading{}, fmt.Errorf("adjtimex: %w", err)
	}
	maxError, offset := micro(t.Maxerror), offsetOf(t)
	r := Reading{
		Sample:    instant.Sample{At: at, Bound: maxError + offset.Abs(), DriftPPM: driftPPM, Source: "kernel"},
		Reference: k.compared.at(at.Wall, maxError),
		Leap:      t.Status&(unix.STA_INS|unix.STA_DEL) != 0,
		Metrics:   values(timex, kernelSaid{t, state}),
	}
	switch {
	case maxError <= 0:
		return r, fmt.Errorf("the kernel was told a maximum error of 0, as systemd-timesyncd does: that is no bound; use chrony or ntpd")
	case maxError >= phaseLimit:
		return r, fmt.Errorf("the kernel's clock is not synchronised: maximum error %v", maxError)
	}
	return r, nil
}

// kernelSaid is what adjtimex gives.
type kernelSaid struct {
	unix.Timex
	state int
}

// timex is what the kernel says besides, as node_exporter has it.
var timex = []measure[kernelSaid]{
	{Metric{"node_timex_maxerror_seconds", "Maximum error that the kernel was told."}, func(k kernelSaid) float64 { return micro(k.Maxerror).Seconds() }},
	{Metric{"node_timex_estimated_error_seconds", "Estimated error that the kernel was told."}, func(k kernelSaid) float64 { return micro(k.Esterror).Seconds() }},
	{Metric{"node_timex_offset_seconds", "Offset that the kernel is still slewing."}, func(k kernelSaid) float64 { return offsetOf(k.Timex).Seconds() }},
	{Metric{"node_timex_sync_status", "Whether the kernel was told that the clock is synchronised."}, func(k kernelSaid) float64 { return truth(k.state != unix.TIME_ERROR) }},
	{Metric{"node_timex_tai_offset_seconds", "Seconds between TAI and UTC that the kernel was told."}, func(k kernelSaid) float64 { return float64(k.Tai) }},
}

func micro(n int64) time.Duration { return time.Duration(n) * time.Microsecond }

// offsetOf is what the kernel is still slewing.
func offsetOf(t unix.Timex) time.Duration {
	if t.Status&unix.STA_NANO != 0 {
		return time.Duration(t.Offset)
	}
	return micro(t.Offset)
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
