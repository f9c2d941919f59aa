package clock

import (
	"context"
	"fmt"
	"io"
	"math"
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
	longest        = 1 << 17 * time.Second // the longest interval of NTP (RFC 5905 7.2)
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
	return c.ask(conn, sysclock.Now()) // before the question: the sample may only look older than it is
}

// ask puts the question at the instant at.
func (c Chrony) ask(conn io.ReadWriter, at instant.Instant) (Reading, error) {
	client := &chrony.Client{Connection: conn}
	answer, err := client.Communicate(chrony.NewTrackingPacket())
	if err != nil {
		return Reading{}, fmt.Errorf("chronyd at %s does not answer: %w", c.Address, err)
	}
	said, ok := answer.(*chrony.ReplyTracking)
	if !ok {
		return Reading{}, fmt.Errorf("chronyd at %s answered with a %T, not its tracking", c.Address, answer)
	}
	if said.Sequence != client.Sequence {
		return Reading{}, fmt.Errorf("chronyd at %s answered another question", c.Address)
	}
	r := Reading{Reference: instant.WallOf(said.RefTime), Leap: said.LeapStatus != 0, Metrics: values(tracking, said.Tracking)}
	r.Sample, err = judge(said.Tracking, at)
	return r, err
}

// judge makes a sample of what chronyd says of itself, or says why it cannot be trusted.
func judge(t chrony.Tracking, at instant.Instant) (instant.Sample, error) {
	age := at.Wall.Time().Sub(t.RefTime)
	stale := staleIntervals * min(max(seconds(t.LastUpdateInterval), shortest), longest)
	var none instant.Sample
	switch {
	case t.LeapStatus >= leapUnsynchronised:
		return none, fmt.Errorf("chronyd is not synchronised")
	case t.Stratum == 0 || t.Stratum >= 16:
		return none, fmt.Errorf("chronyd says stratum %d: it is not synchronised", t.Stratum)
	case t.RefID == refIDLocal:
		return none, fmt.Errorf("chronyd follows its own clock (local): nobody knows how wrong that is")
	case age < -time.Second:
		return none, fmt.Errorf("chronyd's last update is %v in the future", -age.Round(time.Millisecond))
	case age > stale:
		return none, fmt.Errorf("chronyd heard from its servers %v ago, and is late after %v", age.Round(time.Second), stale)
	}
	bound := math.Abs(t.CurrentCorrection) + max(t.RootDelay, 0)/2 + max(t.RootDispersion, 0)
	if !(bound > 0 && bound <= 3600) { // also what is not a number
		return none, fmt.Errorf("chronyd gives a bound of %v s: that is not one", bound)
	}
	return instant.Sample{At: at, Bound: seconds(bound), DriftPPM: driftPPM, Source: "chrony"}, nil
}

// tracking is what chronyd says besides, as chrony_exporter has it.
var tracking = []measure[chrony.Tracking]{
	{Metric{"chrony_tracking_frequency_ppms", "Rate by which the clock would be wrong if chronyd did not correct it."}, func(t chrony.Tracking) float64 { return t.FreqPPM }},
	{Metric{"chrony_tracking_last_offset_seconds", "Offset estimated at the last update of the clock."}, func(t chrony.Tracking) float64 { return t.LastOffset }},
	{Metric{"chrony_tracking_reference_timestamp_seconds", "When the last measurement from the reference was processed."}, func(t chrony.Tracking) float64 { return float64(t.RefTime.UnixNano()) / 1e9 }},
	{Metric{"chrony_tracking_remote_reference", "Whether chronyd follows another clock than its own."}, func(t chrony.Tracking) float64 { return truth(t.RefID != refIDLocal) }},
	{Metric{"chrony_tracking_residual_frequency_ppms", "Difference between the frequency that the reference suggests and the one in use."}, func(t chrony.Tracking) float64 { return t.ResidFreqPPM }},
	{Metric{"chrony_tracking_rms_offset_seconds", "Long-term average of the offset."}, func(t chrony.Tracking) float64 { return t.RMSOffset }},
	{Metric{"chrony_tracking_root_delay_seconds", "Network delay to the stratum-1 server."}, func(t chrony.Tracking) float64 { return t.RootDelay }},
	{Metric{"chrony_tracking_root_dispersion_seconds", "Dispersion accumulated back to the stratum-1 server."}, func(t chrony.Tracking) float64 { return t.RootDispersion }},
	{Metric{"chrony_tracking_skew_ppms", "Estimated error bound of the frequency."}, func(t chrony.Tracking) float64 { return t.SkewPPM }},
	{Metric{"chrony_tracking_stratum", "Hops to a reference clock."}, func(t chrony.Tracking) float64 { return float64(t.Stratum) }},
	{Metric{"chrony_tracking_system_time_seconds", "The correction that chronyd is still making."}, func(t chrony.Tracking) float64 { return t.CurrentCorrection }},
	{Metric{"chrony_tracking_update_interval_seconds", "Time between the last two updates of the clock."}, func(t chrony.Tracking) float64 { return t.LastUpdateInterval }},
}

// seconds is s as a Duration; what does not fit is the most or the least.
func seconds(s float64) time.Duration {
	return time.Duration(max(min(s*float64(time.Second), math.MaxInt64/2), math.MinInt64/2))
}
