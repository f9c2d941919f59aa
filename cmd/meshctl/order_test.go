package main

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/enrol"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/page"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/sidecar/admin"
)

// What an operator orders by the page is carried out as the commands do it, and on record with who ordered it; a drain goes to
// the member's administrative plane, in the operator's name.
func TestOrdersByThePage(t *testing.T) {
	dir := hometest.New(t, time.Now)
	address := testenv.Local(t)
	w := hometest.Begin(t, dir, time.Now)
	_, err := enrol.AddMember(t.Context(), w, enrol.NewMember{Name: "tyo", Admin: address.String()})
	hometest.Check(t, err)
	hometest.Check(t, w.Close())
	drained := member(t, dir, "tyo")
	own, err := enrol.Identity(home.At(dir, time.Now), slog.New(slog.DiscardHandler))
	hometest.Check(t, err)
	o := &orders{c: &cli{out: io.Discard, log: io.Discard, clock: time.Now, dir: dir}, ctx: t.Context(), own: own}
	for _, c := range []struct {
		order       page.Order
		says, fails string
		paused, who string
	}{
		{page.Order{Kind: page.Pause, Why: "a holiday"}, "Publication is paused.", "", "by kim: a holiday", ""},
		{page.Order{Kind: page.Resume}, "Publication goes on.", "", "", ""},
		{page.Order{Kind: page.Cancel}, "", "no switchover is set", "", ""},
		{page.Order{Kind: page.Schedule}, "", "no release is staged", "", ""},
		{page.Order{Kind: page.Drain, Member: "tyo", Why: "new fans"}, "tyo is drained; its routes are withdrawn in 30 s.", "", "", "kim at the distribution host: new fans"},
		{page.Order{Kind: page.Undrain, Member: "tyo"}, "tyo is in service again", "", "", "back by kim at the distribution host"},
		{page.Order{Kind: page.Drain, Member: "osa"}, "", `no member is called "osa"`, "", ""},
		{page.Order{Kind: "format"}, "", "no order", "", ""},
	} {
		c.order.Who = "kim"
		said, err := o.do(t.Context(), c.order)
		if c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)) || c.fails == "" && (err != nil || !strings.HasPrefix(said, c.says)) {
			t.Errorf("%+v: %q, %v", c.order, said, err)
		}
		state, err := o.c.home().State(t.Context())
		hometest.Check(t, err)
		if state.Paused != c.paused {
			t.Errorf("after %+v it is paused: %q", c.order, state.Paused)
		}
		if c.who != "" && *drained != c.who {
			t.Errorf("after %+v the member knows %q", c.order, *drained)
		}
	}
}

// member is the administrative plane of a member's sidecar, and what was ordered there last.
func member(t *testing.T, dir, name string) *string {
	t.Helper()
	bundle := hometest.Bundle(dir, name)
	log := slog.New(slog.DiscardHandler)
	node, err := identity.Load(identity.Files{Certificate: filepath.Join(bundle, "node.crt"), Key: filepath.Join(bundle, "node.key"), CA: filepath.Join(bundle, "ca.crt")}, log)
	hometest.Check(t, err)
	view, err := home.At(dir, time.Now).View(t.Context())
	hometest.Check(t, err)
	address, err := endpoint(strings.TrimPrefix(view.Manifest.Members[0].Admin, "https://"))
	hometest.Check(t, err)
	last := new(string)
	nothing := func(context.Context) (any, error) { return nil, nil }
	s, err := admin.Serve(address, nil, func() identity.AccessList { return nil }, node, admin.Sidecar{Status: nothing, Confirmations: nothing, Metrics: http.NotFoundHandler(),
		Drain: func(_ context.Context, o status.DrainOrder) (status.Drained, error) {
			*last = o.Who + ": " + o.Why
			return status.Drained{Version: status.Version, Node: name, LeftSeconds: 30}, nil
		},
		Undrain: func(_ context.Context, who string) (status.Drained, error) {
			*last = "back by " + who
			return status.Drained{Version: status.Version, Node: name}, nil
		},
		Drained: func(context.Context) (status.Drained, error) { return status.Drained{Version: status.Version}, nil }}, log)
	hometest.Check(t, err)
	t.Cleanup(func() { s.Close() })
	return last
}
