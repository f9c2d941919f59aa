package home_test

import (
	"crypto/rand"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/keys"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
)

// TestNumbersBeginHigher while a release is staged: it stays staged, under the second number, and members that verify all of it find
// what it names. While its switchover is committed and yet to come, members that have not heard would go by the old number: it is
// refused, and so after the instant what is committed is what is answered from.
func TestNumbersBeginHigher(t *testing.T) {
	now := hometest.Start
	clock := func() time.Time { return now }
	dir := hometest.New(t, clock, "tyo")
	node := hometest.NewNode(t, dir)
	hometest.MustRelease(t, dir, clock, 1, releasing.Options{Now: true})
	hometest.MustRelease(t, dir, clock, 2, releasing.Options{})
	node.Verify()
	rotate := func(from uint64) error {
		w := hometest.Begin(t, dir, clock)
		defer w.Close()
		_, err := w.RotateKey(t.Context(), keys.Release, from, false, rand.Reader)
		return err
	}
	hometest.Check(t, rotate(100))
	if m := node.Verify().Manifest; m.Current.Number != 100 || m.Next.Number != 101 || m.Current.Zones[0].Serial != 1 || m.Next.Zones[0].Serial != 2 {
		t.Fatalf("%+v %+v", m.Current, m.Next)
	}
	w := hometest.Begin(t, dir, clock)
	hometest.SetSwitchover(t, w, now.Add(time.Minute))
	hometest.Check(t, w.Close())
	made := node.Verify()
	if err := rotate(200); err == nil || !strings.Contains(err.Error(), "the switchover to release 101 at") {
		t.Errorf("a committed switchover is yet to come: %v", err)
	}
	if again := node.Verify(); again.Versions != made.Versions {
		t.Errorf("it was refused, and something was published: %+v", again.Versions)
	}
	now = now.Add(time.Minute)
	hometest.Check(t, rotate(200))
	if m := node.Verify().Manifest; m.Current.Number != 200 || m.Next != nil || m.Current.Zones[0].Serial != 2 || m.Current.Switchover.After(now) {
		t.Errorf("%+v %+v", m.Current, m.Next)
	}
	if made := hometest.MustRelease(t, dir, clock, 3, releasing.Options{}); made.Release.Number != 201 {
		t.Errorf("the release after that is %d", made.Release.Number)
	}
	node.Verify()
}
