package home

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// What the protocol asks of a publication is decided by internal/mesh. This file tells it what is in force, and makes of its
// decision the manifest and the lease that are signed.

// MeshOf is what is in force, as the protocol sees it.
func MeshOf(s State, v release.View) mesh.State {
	m := v.Manifest
	state := mesh.State{Mesh: m.Mesh, Version: v.Versions.Timestamp, Expires: instant.WallOf(v.LeaseExpires), Epsilon: m.Epsilon(),
		Limit: instant.WallOf(earliest(v.Expires.Root, v.Expires.Targets, v.Expires.Snapshot)), Ledger: s.Ledger}
	for _, member := range m.Members {
		state.Members = append(state.Members, member.Name)
	}
	if c := m.Current; c != nil {
		state.Current = mesh.Release{Ref: refOf(c), Signed: SignedFirst(c)}
	}
	if n := m.Next; n != nil {
		state.Next = mesh.Switchover{Ref: refOf(n), Signed: SignedFirst(n), Decide: instant.WallOf(n.Decide),
			Committed: n.Committed || m.Format == release.OldFormat && !n.Switchover.IsZero(), Presumed: n.Presumed, Without: n.Without}
	}
	return state
}

func refOf(r *release.Release) status.Ref {
	return status.Ref{Number: r.Number, At: instant.WallOf(r.Switchover)}
}

func earliest(times ...time.Time) time.Time { return slices.MinFunc(times, time.Time.Compare) }

// SignedFirst is the first end of a signature in a release's zones; 0 if none is signed.
func SignedFirst(r *release.Release) instant.Wall {
	_, ends := r.SignedUntil()
	return instant.WallOf(ends)
}

// SignedUntil is the zone that is answered, or about to be, of which signatures end first, and when; zero if none is signed.
func SignedUntil(m release.Manifest) (origin string, ends time.Time) {
	for r := range m.Releases() {
		if zone, first := r.SignedUntil(); !first.IsZero() && (ends.IsZero() || first.Before(ends)) {
			origin, ends = zone, first
		}
	}
	return origin, ends
}

// Mesh is what is in force, as the protocol sees it.
func (w *Writer) Mesh() mesh.State { return MeshOf(w.state, w.view) }

// Host is a decider that knows what is in force, and nothing of members: for an operator's orders.
func (w *Writer) Host() *mesh.Host {
	h := mesh.NewHost(mesh.Policy{Lease: w.state.Lease()})
	h.Read(w.Mesh())
	return h
}

// Carry signs what the protocol has decided and puts it in force, unless that is not decided by end; a zero end never
// comes. An event without a name is not put on record. change, nil for none, changes what the protocol does not see: releases that are new, members and operators.
//
// How long something new takes is kept (Home.Publishing), also where that was too long.
func (w *Writer) Carry(ctx context.Context, next mesh.State, end time.Time, change func(m *release.Manifest), event Event) (err error) {
	defer func() { w.home.makeRoom(err) }()
	began, mem, content := time.Now(), w.state.Published, false
	if next.Version != w.Mesh().Version {
		if mem, content, err = w.sign(ctx, next, change); err != nil {
			return err
		}
	}
	state := w.state
	if event.Event != "" {
		state = state.note(event, w.Now())
	}
	state.Ledger, state.Published, state.Departed = next.Ledger, mem, departed(w.state, w.view, next)
	limited := ctx
	if !end.IsZero() {
		left := end.Sub(w.Now())
		if left <= 0 {
			w.took(began, content)
			return ErrTooLate
		}
		var cancel context.CancelFunc
		limited, cancel = context.WithTimeoutCause(ctx, left, ErrTooLate)
		defer cancel()
	}
	was := w.Mesh()
	if err := w.commitBy(ctx, limited, state); err != nil {
		if errors.Is(err, ErrTooLate) {
			w.took(began, content)
		}
		return err
	}
	w.took(began, content)
	if content && (was.Current.Number != next.Current.Number || was.Next.Number != next.Next.Number || w.manyUncollected()) {
		return w.collect() // not between a proposal and its commit: there may be much
	}
	if content && w.home.collecting.TryLock() { // in a bucket another may collect meanwhile, for minutes, and lists what is there
		w.home.known.Published(w.view)
		w.home.collecting.Unlock()
	}
	return nil
}

// collectEvery is how many publications of something new there may be without a release until what they have left is removed: each new certificate, for
// one, makes a manifest.
const collectEvery = 64

// manyUncollected reports whether there were so many, by whatever process, and no switchover is under way.
func (w *Writer) manyUncollected() bool {
	next := w.view.Manifest.Next
	return w.view.Versions.Targets%collectEvery == 0 && (next == nil || next.Switchover.IsZero())
}

// took has it kept how long a publication took that began then. Where only the lease is new, fewer signatures are made, so that does not count.
func (w *Writer) took(began time.Time, content bool) {
	if content {
		w.home.takes(w.beginning+time.Since(began)-w.storing, w.waited)
	}
}

// departed are the members that have left, as they were members last, for as long as the protocol waits for them.
func departed(s State, v release.View, next mesh.State) (all []release.Member) {
	for _, m := range slices.Concat(s.Departed, v.Manifest.Members) {
		if slices.ContainsFunc(next.Leaving, func(l mesh.Leaving) bool { return l.Member == m.Name }) {
			all = append(slices.DeleteFunc(all, func(o release.Member) bool { return o.Name == m.Name }), m)
		}
	}
	return all
}

// manifestOf is m with what the protocol has decided, and what is new.
func manifestOf(m release.Manifest, next mesh.State, change func(m *release.Manifest)) (release.Manifest, error) {
	if change != nil {
		change(&m)
	}
	if next.Next.Decide != 0 { // only a proposal is what members of the version before cannot read
		m.Format = max(m.Format, release.ProposalFormat)
	}
	known := map[uint64]release.Release{}
	for r := range m.Releases() {
		known[r.Number] = *r
	}
	m.Current, m.Next = nil, nil
	if c := next.Current; c.Number != 0 {
		r := known[c.Number].Withdrawn()
		r.Switchover = c.At.Time()
		m.Current = &r
	}
	if n := next.Next; n.Number != 0 {
		r := known[n.Number].Withdrawn()
		r.Switchover, r.Decide, r.Committed, r.Presumed, r.Without = n.At.Time(), n.Decide.Time(), n.Committed && m.Format != release.OldFormat, n.Presumed, n.Without
		m.Next = &r
	}
	for _, r := range []*release.Release{m.Current, m.Next} {
		if r != nil && r.Number == 0 {
			return m, fmt.Errorf("the protocol names a release that is not published")
		}
	}
	return m, nil
}

// Refused is err with the hint of an order that the protocol has refused.
func Refused(err error) error {
	refused := new(mesh.RefusedError)
	if errors.As(err, &refused) && refused.Hint != "" {
		return &hint.Error{Err: err, Hint: refused.Hint}
	}
	return err
}
