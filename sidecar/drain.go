package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/fields"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/sysclock"
	"github.com/coredns-anycast/coredns-anycast/sidecar/admin"
	"github.com/coredns-anycast/coredns-anycast/sidecar/config"
)

// drainFile holds the drain, in the state directory. That it is there at all is what keeps the node out of service, so
// that no damage to it announces one; what it holds says who, since when and why:
//
//	{"who":"jane","why":"new fans","since":"2026-11-23T06:00:00Z","silence":true}
const drainFile = "drain.json"

// maxDrainFile is more than an order can make of it, in octets.
const maxDrainFile = 8 << 10

// takeWithin is how long an order may take to be carried out; a control loop that makes no round by then hangs.
const takeWithin = 10 * time.Second

// order is something that the control loop does to the gate before it decides anew; done is closed after that.
type order struct {
	do   func()
	done chan struct{}
}

// tell has the control loop do something, and waits for the decision that follows.
func (s *sidecar) tell(do func()) error {
	o := order{do, make(chan struct{})}
	late := time.After(takeWithin)
	select {
	case s.orders <- o:
	case <-late:
		return errors.New("the control loop takes no orders: it hangs, or the process ends")
	}
	select {
	case <-o.done:
		return nil
	case <-late:
		return errors.New("the control loop does not carry the order out")
	}
}

// drain takes the order, and then looks whether others are in service; the order does not wait for that, nor depend on it.
func (s *sidecar) drain(ctx context.Context, o status.DrainOrder) (status.Drained, error) {
	d, err := s.takeDrain(o)
	if err == nil {
		if d.Alone = s.alone(ctx); d.Alone != "" {
			s.log.Warn("drained, and perhaps the last one", "why", d.Alone)
		}
	}
	return d, err
}

// aloneTimeout is how long distribution hosts have to say who else is in service. Each gives a member that does not answer two seconds.
const aloneTimeout = 3 * time.Second

// alone says that no other member is in service, or that nobody knows; empty if there is one.
func (s *sidecar) alone(ctx context.Context) string {
	if s.mirror == nil {
		return aloneWords(s.cfg().Node, nil, errors.New("the configuration has no mirror"))
	}
	ctx, cancel := context.WithTimeout(ctx, aloneTimeout)
	defer cancel()
	members, err := s.mirror.Remaining(ctx)
	return aloneWords(s.cfg().Node, members, err)
}

// aloneWords puts in words what was heard of the members that remain in service.
func aloneWords(node string, members []string, err error) string {
	switch {
	case err != nil:
		return "whether another node is in service is not known here (" + strings.ReplaceAll(err.Error(), "\n", "; ") + `): see "meshctl status" on a distribution host, or the router's routes`
	case !slices.ContainsFunc(members, func(name string) bool { return name != node }):
		return `no other member is in service: nobody answers on the shared address once this route is gone. "undrain" brings this node back`
	}
	return ""
}

// takeDrain takes the node out of service, whatever the service does: the route is announced as the worst of ways, and
// withdrawn after a while. The DNS service goes on, for queries that are still on their way, unless silence is asked for.
// It takes effect before it is durable, since that is what the operator waits for.
func (s *sidecar) takeDrain(o status.DrainOrder) (status.Drained, error) {
	wait := s.cfg().Drain.Wait
	if o.Wait != "" {
		var err error
		if wait, err = fields.DurationIn(0, config.MaxDrainWait)(o.Wait); err != nil {
			return status.Drained{}, fmt.Errorf("%w: wait: %w", admin.ErrOrder, err)
		}
	}
	if o.Silence && (s.cfg().Meshsync == "" || s.cfg().Socket == "") {
		return status.Drained{}, fmt.Errorf("%w: silence is for meshsync, which this configuration does not name both ways (meshsync and socket)", admin.ErrOrder)
	}
	s.draining.Lock()
	defer s.draining.Unlock()
	d := status.Drain{Who: cmp.Or(o.Who, "somebody here"), Why: o.Why, Since: time.Now().UTC().Truncate(time.Second), Silence: o.Silence}
	if was := s.drained().Drain; was != nil { // said again
		d.Since = was.Since
	}
	s.log.Info("drained", "who", d.Who, "why", d.Why, "wait", wait, "silence", d.Silence)
	err := s.tell(func() { s.setDrain(&d, wait) })
	kept := s.keepDrain(d)
	if err != nil {
		return status.Drained{}, errors.Join(err, kept)
	}
	doc := s.drained()
	if kept != nil {
		s.log.Error("the drain is not durable", "error", kept)
		doc.Warning = "a restart of the sidecar would end this drain: " + kept.Error()
	}
	return doc, nil
}

// undrain brings the node back into service. What is not gone from the disk would take it out again at the next start, so
// it stays out until it is.
func (s *sidecar) undrain(_ context.Context, who string) (status.Drained, error) {
	s.draining.Lock()
	defer s.draining.Unlock()
	if s.cfg().State != "" {
		if err := depot.RemoveFile(s.cfg().State, drainFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return status.Drained{}, fmt.Errorf("the node stays drained: %w", err)
		}
	}
	s.log.Info("undrained", "who", who)
	if err := s.tell(func() { s.setDrain(nil, 0) }); err != nil {
		return status.Drained{}, err
	}
	return s.drained(), nil
}

// setDrain is for the control loop, or before it runs.
func (s *sidecar) setDrain(d *status.Drain, wait time.Duration) {
	if d == nil {
		s.gate.Undrain()
	} else {
		s.gate.Drain(sysclock.Now().Mono, wait, d.String())
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.drainOf, s.drainFault = d, nil
}

// keepDrain makes a drain durable.
func (s *sidecar) keepDrain(d status.Drain) error {
	if s.cfg().State == "" {
		return errors.New(`the configuration names no directory for it ("state")`)
	}
	data, err := encodeDrain(d)
	if err == nil {
		err = os.MkdirAll(s.cfg().State, 0o750)
	}
	if err != nil {
		return err
	}
	return depot.WriteFile(s.cfg().State, drainFile, data, 0o640)
}

func encodeDrain(d status.Drain) ([]byte, error) {
	line, err := json.Marshal(d)
	return append(line, '\n'), err
}

// remember drains the node as it was when the process before this one ended. A file that cannot be read drains it too,
// and then nobody knows whether meshsync was to be silent.
func (s *sidecar) remember() {
	if s.cfg().State == "" {
		return
	}
	if left, err := filepath.Glob(filepath.Join(s.cfg().State, ".tmp-*")); err == nil {
		for _, name := range left { // of writes that were cut short
			os.Remove(name)
		}
	}
	d, err := readDrain(s.cfg().State)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", filepath.Join(s.cfg().State, drainFile), err)
		d = status.Drain{Who: "an unreadable file", Why: err.Error() + `; if the node is to be in service, "anycast-sidecar undrain"`, Since: time.Now().UTC()}
		s.log.Error("drained, since nobody knows whether this node is", "error", err)
	} else {
		s.log.Info("drained from before", "who", d.Who, "why", d.Why, "since", d.Since, "silence", d.Silence)
	}
	s.setDrain(&d, 0)
	s.drainFault = err
}

// readDrain takes what keepDrain writes, and nothing else.
func readDrain(dir string) (d status.Drain, err error) {
	data, err := depot.ReadFile(dir, drainFile, maxDrainFile)
	if err != nil {
		return d, err
	}
	if err := json.Unmarshal(data, &d); err != nil {
		return d, err
	}
	if again, err := encodeDrain(d); err != nil || !bytes.Equal(again, data) || d.Who == "" || d.Since.IsZero() {
		return d, fmt.Errorf("%.200q is not what a sidecar writes", data)
	}
	return d, nil
}

// drained is how a drain goes.
func (s *sidecar) drained() status.Drained {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := status.Drained{Version: status.Version, Node: s.cfg().Node, Drain: s.drainOf, Why: s.decision.Why,
		Announced: s.decision.Announce || !s.applied, Silent: s.node != nil && s.node.Serving == 0}
	if s.decision.Draining {
		d.LeftSeconds = max(0, s.decision.Wake.Sub(sysclock.Now().Mono).Seconds())
	}
	return d
}

// silence is what meshsync is to know: nothing while nobody does. The route goes first. mu is held.
func (s *sidecar) silence() *status.Silence {
	switch d := s.drainOf; {
	case s.drainFault != nil:
		return nil
	case d != nil && d.Silence && !s.decision.Announce && s.applied:
		return &status.Silence{On: true, Why: d.String()}
	}
	return &status.Silence{}
}

// obey takes orders by signal, for who has nothing else.
func (s *sidecar) obey(signals <-chan os.Signal) {
	for sig := range signals {
		var err error
		if sig == syscall.SIGUSR1 {
			_, err = s.drain(context.Background(), status.DrainOrder{Who: "SIGUSR1"})
		} else {
			_, err = s.undrain(context.Background(), "SIGUSR2")
		}
		if err != nil {
			s.log.Error("the signal was not obeyed", "signal", sig, "error", err)
		}
	}
}
