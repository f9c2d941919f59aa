package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/page"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/switchover"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// orders carries out what operators order by the page, as the commands of the same names do.
type orders struct {
	c          *cli
	ctx        context.Context // of serve: a switchover is seen through though whoever ordered it has gone
	own        *identity.Identity
	absent     mesh.Absent
	scheduling atomic.Bool
}

// do carries out one order, and says what came of it.
func (o *orders) do(ctx context.Context, order page.Order) (said string, err error) {
	by := "by " + order.Who
	switch order.Kind {
	case page.Schedule:
		return o.schedule(order)
	case page.Cancel:
		number, err := o.c.withdraw(ctx, "a switchover was cancelled "+by)
		return fmt.Sprintf("The switchover to release %d is withdrawn, and publication is paused.", number), err
	case page.Pause:
		if order.Why != "" {
			by += ": " + order.Why
		}
		return "Publication is paused.", o.c.paused(ctx, by)
	case page.Resume:
		return "Publication goes on.", o.c.resumed(ctx)
	case page.Drain, page.Undrain:
		return o.drain(ctx, order)
	}
	return "", fmt.Errorf("there is no order %q", order.Kind)
}

// orderPatience is how long members may take to have a release ready after its switchover was ordered.
const orderPatience = 30 * time.Second

// endsWithin is how long an order before takes, at most, to hear that what it proposed was cancelled.
const endsWithin = 5 * time.Second

// begins claims the seeing through of a switchover for one order; false: another one has it.
func (o *orders) begins(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, endsWithin)
	defer cancel()
	for !o.scheduling.CompareAndSwap(false, true) {
		if home.Pause(ctx, 100*time.Millisecond) != nil {
			return false
		}
	}
	return true
}

// schedule returns when the switchover is proposed, or why it is not, and sees it through in the background.
func (o *orders) schedule(order page.Order) (string, error) {
	if !o.begins(o.ctx) {
		return "", errors.New("another switchover is being seen through at this moment: cancel it first")
	}
	d, err := o.c.driver(o.ctx, mesh.Policy{Lead: order.Lead, Absent: o.absent})
	if err == nil {
		err = o.c.resumed(o.ctx)
	}
	if err != nil {
		o.scheduling.Store(false)
		return "", err
	}
	proposed, failed := make(chan string, 1), make(chan error, 1)
	go func() {
		defer o.scheduling.Store(false)
		_, err := d.See(o.ctx, orderPatience, false, func(r switchover.Round) {
			if next := r.View.Manifest.Next; next != nil && !next.Switchover.IsZero() {
				select {
				case proposed <- fmt.Sprintf("The switchover to release %d is proposed for %s.", next.Number, instantOf(next.Switchover)):
				default:
				}
			}
		})
		failed <- err
	}()
	select {
	case said := <-proposed:
		return said, nil
	case err := <-failed:
		if err == nil {
			return "The switchover is made.", nil
		}
		return "", &hint.Error{Err: err, Hint: "the members' rows say more; meshctl schedule --force goes on all the same"}
	}
}

func (o *orders) drain(ctx context.Context, order page.Order) (string, error) {
	view, err := o.c.home().View(ctx)
	if err != nil {
		return "", err
	}
	i := slices.IndexFunc(view.Manifest.Members, func(m release.Member) bool { return m.Name == order.Member })
	if i < 0 {
		return "", fmt.Errorf("no member is called %q", order.Member)
	}
	undrain := order.Kind == page.Undrain
	d, err := switchover.Drain(ctx, o.own, view.Manifest.Members[i], status.DrainOrder{Who: order.Who, Why: order.Why}, undrain)
	switch {
	case err != nil:
		return "", err
	case undrain:
		return order.Member + " is in service again, and is announced once its service is good.", nil
	case d.Warning != "":
		return order.Member + " is drained. " + d.Warning, nil
	}
	return fmt.Sprintf("%s is drained; its routes are withdrawn in %.0f s.", order.Member, d.LeftSeconds), nil
}

// withdraw withdraws the switchover that is proposed, and returns its release.
func (c *cli) withdraw(ctx context.Context, why string) (number uint64, err error) {
	err = c.ordering(ctx, func(w *home.Writer) error {
		number = w.Mesh().Next.Number
		next, err := w.Host().Cancel(w.Instant(), why)
		if err != nil {
			return home.Refused(err)
		}
		return w.Carry(ctx, next, time.Time{}, nil, home.Event{Event: "cancelled", Number: number})
	})
	return number, err
}

// paused begins a pause.
func (c *cli) paused(ctx context.Context, why string) error {
	return c.writing(ctx, func(w *home.Writer) error {
		return w.Carry(ctx, w.Host().Pause(w.Instant(), why), time.Time{}, nil, home.Event{Event: "paused", Detail: why})
	})
}
