package switchover

import (
	"context"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/sysclock"
)

// orderAsk is how long members are asked before an order.
const orderAsk = time.Second

// MayOrder asks members before an operator's order is carried out, and refuses it if what they say forbids this host to publish anything:
// they have a newer lease than the state knows of, or most of their clocks differ from this host's. Members that give no answer within
// a second forbid nothing, so a mesh of which none can be reached can still be ordered about. What zones there are does not count.
func MayOrder(ctx context.Context, h *home.Home, ask Ask) error {
	_, view, err := h.Published(ctx)
	if err != nil && !release.OfZones(err) {
		return err
	}
	if len(view.Manifest.Members) == 0 {
		return nil
	}
	now := func() instant.Instant {
		return instant.Instant{Wall: instant.WallOf(h.Now()), Mono: sysclock.Now().Mono}
	}
	limited, cancel := context.WithTimeout(ctx, orderAsk)
	defer cancel()
	began := now()
	answers := ask(limited, view.Manifest.Members)
	ended := now()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// What another host has published meanwhile may have reached members: the state is read after they have spoken.
	state, view, err := h.Published(ctx)
	if err != nil && !release.OfZones(err) {
		return err
	}
	host := mesh.NewHost(mesh.Policy{Lease: state.Lease()})
	host.Read(home.MeshOf(state, view))
	host.Asked(words(answers), began, ended)
	_, err = host.Renew(now(), 0)
	return home.Refused(err)
}

// Forbidden is why this host may publish nothing, by what members said in the last round; nil if it may.
func (d *Driver) Forbidden() *status.Reason {
	alarms := d.State().Decision.Alarms
	i := slices.IndexFunc(alarms, func(r status.Reason) bool { return r.Code == mesh.StateRestored || r.Code == mesh.HostClock })
	if i < 0 {
		return nil
	}
	return &alarms[i]
}
