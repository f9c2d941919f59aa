//go:build linux

package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// distribution is the distribution host: meshctl's home, and what serves it to the nodes.
type distribution struct {
	w    *world
	t    *terminal
	home string
}

const (
	cachePort = 8445 // of the cache between the distribution host and osa, at the distribution host's address
	// switchWithin is how soon a switchover comes after its commit, on a busy machine.
	switchWithin = 25 * time.Second
)

// run runs meshctl at the distribution host and shows the command as a reader would give it.
func (d *distribution) run(ctx context.Context, args ...string) (string, error) {
	d.t.command(append([]string{"meshctl"}, args...)...)
	return d.host().run(ctx, append([]string{d.w.binary("meshctl"), "--home", d.home}, args...)...)
}

func (d *distribution) host() *host { return d.w.hosts["dist"] }

// url is where nodes get releases, on the administrative address (DELIV-1).
func (d *distribution) url(port int) string {
	return fmt.Sprintf("https://%s:%d/", d.host().admin, port)
}

// own is who the distribution host is; identityIn is who a member is, by the directory that it was given.
func (d *distribution) own() identity {
	return identity{Certificate: d.home + "/pki/host.crt", Key: d.home + "/pki/host.key", CA: d.home + "/pki/ca.crt"}
}

func identityIn(dir string) identity {
	return identity{Certificate: dir + "/node.crt", Key: dir + "/node.key", CA: dir + "/ca.crt"}
}

// release makes the zone of a release and publishes it.
func (d *distribution) release(ctx context.Context, s *story, number uint64, options ...string) error {
	file, err := s.zone.write(".", number)
	if err != nil {
		return err
	}
	said, err := d.run(ctx, append([]string{"release", file}, options...)...)
	if err != nil {
		return err
	}
	s.t.say("%s", said)
	return nil
}

// schedule has the switchover to the staged release proposed, committed and seen through, and shows what meshctl said.
func (d *distribution) schedule(ctx context.Context, options ...string) error {
	said, err := d.run(ctx, append([]string{"schedule"}, options...)...)
	if err == nil {
		d.t.say("%s", said)
	}
	return err
}

// refusesSchedule checks that a release which a member cannot take is not scheduled.
func (d *distribution) refusesSchedule(ctx context.Context, s *story, number uint64) error {
	said, err := d.run(ctx, "schedule", "--wait", "0s")
	if err == nil {
		return fmt.Errorf("release %d was scheduled though osa cannot take it:\n%s", number, said)
	}
	if ctx.Err() != nil {
		return err
	}
	s.t.say("%s", said)
	if !strings.Contains(said, "osa") {
		return fmt.Errorf("the refusal does not say that it is osa's:\n%s", said)
	}
	s.t.check("SYNC-D FAIL-4", "what a member cannot load is not scheduled; the operator insists:")
	return nil
}
