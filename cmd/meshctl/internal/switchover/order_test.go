package switchover

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// Members are asked before an order, and what they say of this host's state and clock forbids it. Members that give no answer forbid nothing.
func TestAnOrderAsksMembersFirst(t *testing.T) {
	w := newWorld(t)
	h := home.At(w.dir, time.Now)
	for _, c := range []struct {
		name, refused string
		lies          func(c *status.Confirmation)
	}{
		{"all is well", "", nil},
		{"they have a newer lease", "restored from an older copy", func(c *status.Confirmation) { c.Lease = 99 }},
		{"their clocks differ", "differ from this host's", func(c *status.Confirmation) { c.At = c.At.Add(time.Hour) }},
	} {
		for _, m := range w.members {
			m.lies = c.lies
		}
		err := MayOrder(t.Context(), h, w.ask)
		if (err == nil) != (c.refused == "") || err != nil && !strings.Contains(err.Error(), c.refused) {
			t.Errorf("%s: %v", c.name, err)
		}
		if _, err := w.driver.Round(t.Context()); err != nil {
			t.Fatal(err)
		}
		if why := w.driver.Forbidden(); (why == nil) != (c.refused == "") {
			t.Errorf("%s: after a round: %v", c.name, why)
		}
	}
	for _, m := range w.members {
		m.lies, m.lost = nil, errors.New("no route")
	}
	if err := MayOrder(t.Context(), h, w.ask); err != nil {
		t.Errorf("no member is reached: %v", err)
	}
	hangs := func(ctx context.Context, members []release.Member) map[string]Answer {
		<-ctx.Done()
		return w.ask(ctx, members)
	}
	if err := MayOrder(t.Context(), h, hangs); err != nil {
		t.Errorf("they hang: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := MayOrder(ctx, h, w.ask); !errors.Is(err, context.Canceled) {
		t.Errorf("the operator went away: %v", err)
	}
}

// What another host publishes while members are asked, and they hear, is no sign of a state that was restored.
func TestAPublicationMeanwhileForbidsNoOrder(t *testing.T) {
	w := newWorld(t)
	h := home.At(w.dir, time.Now)
	ask := func(ctx context.Context, members []release.Member) map[string]Answer {
		hometest.Check(t, h.Write(ctx, func(o *home.Writer) error {
			_, err := o.Renew(ctx, 0)
			return err
		}))
		return w.ask(ctx, members)
	}
	before := w.view().Versions.Timestamp
	if err := MayOrder(t.Context(), h, ask); err != nil {
		t.Error(err)
	}
	if w.view().Versions.Timestamp == before {
		t.Error("nothing was published")
	}
}

// A home without members has nobody to ask.
func TestAnOrderToAMeshWithoutMembersAsksNobody(t *testing.T) {
	ask := func(context.Context, []release.Member) map[string]Answer {
		t.Error("somebody is asked")
		return nil
	}
	if err := MayOrder(t.Context(), home.At(hometest.New(t, time.Now), time.Now), ask); err != nil {
		t.Error(err)
	}
	if d := (&Driver{state: DriverState{Decision: mesh.HostDecision{Alarms: []status.Reason{{Code: mesh.MembersAway}}}}}); d.Forbidden() != nil {
		t.Error("a member that is away forbids publication")
	}
}
