package unattended

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/enrol"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/switchover"
	"github.com/coredns-anycast/coredns-anycast/internal/bucket"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// TestMembersMirrorFromAnyHostOfABucket: what one host publishes, another serves.
func TestMembersMirrorFromAnyHostOfABucket(t *testing.T) {
	_, homes := hometest.TwoHomes(t, time.Now)
	hometest.MustRelease(t, homes[0], time.Now, 1, releasing.Options{Now: true})
	s := serve(t, homes[1], time.Now, 50*time.Minute)
	dir := hometest.Bundle(homes[0], "tyo")
	root, err := os.ReadFile(filepath.Join(dir, "root.json"))
	hometest.Check(t, err)
	mem, err := release.NewMemory(root)
	hometest.Check(t, err)
	d, err := depot.Create(t.TempDir())
	hometest.Check(t, err)
	defer d.Close()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: hometest.TLS(t, dir)}}
	for number := range uint64(2) {
		if number > 0 {
			hometest.MustRelease(t, homes[0], time.Now, 2, releasing.Options{})
		}
		var view release.View
		view, mem, _, err = hometest.Mirror(t.Context(), depot.Source{Client: client, URL: s.url}, d, mem)
		hometest.Check(t, err)
		if view.Manifest.Current.Number != 1 || (number > 0) != (view.Manifest.Next != nil) {
			t.Fatalf("mirrored %v", view)
		}
	}
	hometest.Check(t, home.At(homes[0], time.Now).Write(t.Context(), func(h *home.Writer) error { return enrol.RemoveMember(t.Context(), h, "tyo") }))
	hometest.WaitFor(t, "the other host refuses a removed member", func() bool {
		code, _ := s.get(hometest.TLS(t, hometest.Bundle(homes[1], "tyo")), CertificatePath)
		return code == 403
	})
}

// TestHostsRenewALeaseOnce: two hosts see at the same time that it is due, and one of them renews it.
func TestHostsRenewALeaseOnce(t *testing.T) {
	now := hometest.Start
	clock := func() time.Time { return now }
	_, homes := hometest.TwoHomes(t, clock)
	for range 5 {
		before, err := home.At(homes[0], time.Now).View(t.Context())
		hometest.Check(t, err)
		now = now.Add(31 * time.Minute)
		var both sync.WaitGroup
		for _, dir := range homes {
			d := switchover.NewDriver(home.At(dir, clock), func(context.Context, []release.Member) map[string]switchover.Answer { return nil },
				mesh.Policy{Renew: 50 * time.Minute}, nil)
			both.Go(func() {
				if _, err := d.Round(t.Context()); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
		after, err := home.At(homes[1], time.Now).View(t.Context())
		hometest.Check(t, err)
		if after.Versions.Timestamp != before.Versions.Timestamp+1 || !after.LeaseExpires.Equal(now.Add(time.Hour)) {
			t.Errorf("version %d until %v after version %d, at %v", after.Versions.Timestamp, after.LeaseExpires, before.Versions.Timestamp, now)
		}
	}
}

// TestAHostThatServesCarriesThroughWhatAnotherHasDecided, without anything that is due of its own.
func TestAHostThatServesCarriesThroughWhatAnotherHasDecided(t *testing.T) {
	server, homes := hometest.TwoHomes(t, time.Now)
	b, err := bucket.Open(t.Context(), server.URL("mesh"))
	hometest.Check(t, err)
	defer b.Close()
	timestamp := func() ([]byte, depot.Tag) {
		data, tag, err := b.Read(release.TimestampName, release.MaxBytes(release.TimestampName))
		hometest.Check(t, err)
		return data, tag
	}
	before, _ := timestamp()
	hometest.MustRelease(t, homes[0], time.Now, 1, releasing.Options{})
	_, tag := timestamp()
	_, err = b.Swap(t.Context(), release.TimestampName, before, tag) // as if it had been killed before its last step
	hometest.Check(t, err)
	serve(t, homes[1], time.Now, 50*time.Minute)
	hometest.WaitFor(t, "the release is published", func() bool {
		after, _ := timestamp()
		return string(after) != string(before)
	})
}
