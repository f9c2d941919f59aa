package clock

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/facebook/time/ntp/chrony"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/sysclock"
)

// Chrony asks chronyd by its command protocol over UDP.
type Chrony struct {
	Address netip.AddrPort
}

const (
	leapUnsynchronised = 3
	refIDLocal         = 0x7f7f0101 // chronyd's "local": it is its own reference, and says that its error is nothing

	// chronyd goes on saying that all is well long after its servers have gone. An update is late after this many
	// intervals between the last two; the floor keeps the burst at its start from setting the pace.
	staleIntervals = 8
	shortest       = 16 * time.Second
)

// Poll uses a socket of its own, so that a late answer to an earlier question cannot be taken for this one's.
func (c Chrony) Poll(ctx context.Context) (Reading, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "udp", c.Address.String())
	if err != nil {
		return Reading{}, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		conn.SetDeadline(deadline)
	}
	at := sysclock.Now() // before the question: the sample may only look older than it is
	client := &chrony.Client{Connection: conn}
	answer, err := client.Communicate(chrony.NewTrackingPacket())
	if err != nil {
		return Reading{}, fmt.Errorf("chronyd at %s does not answer: %w", c.Address, err)
	}
	tracking, ok := answer.(*chrony.ReplyTracking)
	if !ok {
		return Reading{}, fmt.Errorf("chronyd at %s answered with a %T, not its tracking", c.Address, answer)
	}
	if tracking.Sequence != client.Sequence {
		return Reading{}, fmt.Errorf("chronyd at %s answered another question", c.Address)
	}
	return judge(tracking.Tracking, at)
}

// judge makes a reading of what chronyd says of itself, or says why it cannot be trusted.
func judge(t chrony.Tracking, at instant.Instant) (Reading, error) {
	age := at.Wall.Time().Sub(t.RefTime)
	stale := staleIntervals * max(seconds(t.LastUpdateInterval), shortest)
	switch {
	case t.LeapStatus >= leapUnsynchronised:
		return Reading{}, fmt.Errorf("chronyd is not synchronised")
	case t.Stratum == 0 || t.Stratum >= 16:
		return Reading{}, fmt.Errorf("chronyd says stratum %d: it is not synchronised", t.Stratum)
	case t.RefID == refIDLocal:
		return Reading{}, fmt.Errorf("chronyd follows its own clock (local): nobody knows how wrong that is")
	case age < -time.Second:
		return Reading{}, fmt.Errorf("chronyd's last update is %v in the future", -age.Round(time.Millisecond))
	case age > stale:
		return Reading{}, fmt.Errorf("chronyd heard from its servers %v ago, and is late after %v", age.Round(time.Second), stale)
	}
	bound := seconds(t.CurrentCorrection).Abs() + seconds(t.RootDelay)/2 + seconds(t.RootDispersion)
	if bound <= 0 || bound > time.Hour { // also what is not a number
		return Reading{}, fmt.Errorf("chronyd gives a bound of %v: that is not one", bound)
	}
	return Reading{
		Sample:    instant.Sample{At: at, Bound: bound, DriftPPM: driftPPM, Source: "chrony"},
		Reference: instant.WallOf(t.RefTime),
		Leap:      t.LeapStatus != 0,
		Metrics: map[string]float64{
			"chrony_tracking_system_time_seconds":         t.CurrentCorrection,
			"chrony_tracking_root_delay_seconds":          t.RootDelay,
			"chrony_tracking_root_dispersion_seconds":     t.RootDispersion,
			"chrony_tracking_stratum":                     float64(t.Stratum),
			"chrony_tracking_update_interval_seconds":     t.LastUpdateInterval,
			"chrony_tracking_reference_timestamp_seconds": float64(t.RefTime.UnixNano()) / 1e9,
		},
	}, nil
}

// seconds is s as a Duration, for values that a sane daemon sends.
func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
