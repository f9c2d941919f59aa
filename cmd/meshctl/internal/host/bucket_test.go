package host

import (
	"errors"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// twoHomes makes a mesh in a bucket, and two hosts of it.
func twoHomes(t *testing.T, clock Clock) (server *testenv.S3, homes [2]string) {
	t.Helper()
	server = testenv.StartS3(t)
	o := testOptions
	o.Bucket = server.URL("mesh")
	homes = [2]string{filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")}
	h, err := initWith(homes[0], o, clock)
	check(t, err)
	_, err = h.AddMember(NewMember{Name: "tyo", Admin: "127.0.0.1:40000"})
	check(t, err)
	check(t, h.Close())
	check(t, os.CopyFS(homes[1], os.DirFS(homes[0])))
	return server, homes
}

// TestMembersMirrorFromAnyHostOfABucket: what one host publishes, another serves.
func TestMembersMirrorFromAnyHostOfABucket(t *testing.T) {
	_, homes := twoHomes(t, time.Now)
	mustRelease(t, homes[0], time.Now, 1, ReleaseOptions{Now: true})
	s := serve(t, homes[1], time.Now, 50*time.Minute)
	dir := filepath.Join(homes[0], nodesDir, "tyo")
	root, err := os.ReadFile(filepath.Join(dir, "root.json"))
	check(t, err)
	mem, err := release.NewMemory(root)
	check(t, err)
	d, err := depot.Create(t.TempDir())
	check(t, err)
	defer d.Close()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: bundle(t, dir)}}
	for number := range uint64(2) {
		if number > 0 {
			mustRelease(t, homes[0], time.Now, 2, ReleaseOptions{})
		}
		var view release.View
		view, mem, _, err = depot.Mirror(t.Context(), depot.Source{Client: client, URL: s.url}, d, mem)
		check(t, err)
		if view.Manifest.Current.Number != 1 || (number > 0) != (view.Manifest.Next != nil) {
			t.Fatalf("mirrored %v", view)
		}
	}
	check(t, Write(homes[0], time.Now, func(h *Host) error { return h.RemoveMember("tyo") }))
	waitFor(t, "the other host refuses a removed member", func() bool {
		code, _ := s.get(bundle(t, filepath.Join(homes[1], nodesDir, "tyo")), "/"+release.TimestampName)
		return code == 403
	})
}

// TestHostsRenewALeaseOnce: two hosts see at the same time that it is due, and one of them renews it.
func TestHostsRenewALeaseOnce(t *testing.T) {
	now := testNow
	clock := func() time.Time { return now }
	_, homes := twoHomes(t, clock)
	var published [2]*published
	for i, home := range homes {
		published[i] = publishedOf(t, home)
	}
	for range 5 {
		before, err := Read(homes[0])
		check(t, err)
		now = now.Add(31 * time.Minute)
		var both sync.WaitGroup
		for i, home := range homes {
			s := &Server{Home: home, Clock: clock, Renew: 50 * time.Minute, Log: slog.New(slog.DiscardHandler)}
			both.Go(func() {
				if err := s.keepOnce(published[i]); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
		after, err := Read(homes[1])
		check(t, err)
		if after.Versions.Timestamp != before.Versions.Timestamp+1 || !after.LeaseExpires.Equal(now.Add(time.Hour)) {
			t.Errorf("version %d until %v after version %d, at %v", after.Versions.Timestamp, after.LeaseExpires, before.Versions.Timestamp, now)
		}
	}
}

func publishedOf(t *testing.T, home string) *published {
	t.Helper()
	s, err := openStorage(home)
	check(t, err)
	t.Cleanup(func() { s.close() })
	p := &published{storage: s, home: home}
	check(t, p.look())
	return p
}

// TestAHostThatServesCarriesThroughWhatAnotherHasDecided, without anything that is due of its own.
func TestAHostThatServesCarriesThroughWhatAnotherHasDecided(t *testing.T) {
	server, homes := twoHomes(t, time.Now)
	timestamp := filepath.Join(server.Dir, "mesh", release.TimestampName)
	before, err := os.ReadFile(timestamp)
	check(t, err)
	step = func(name string) {
		if name == "publish "+release.TimestampName {
			panic("killed")
		}
	}
	func() {
		defer func() { recover(); step = func(string) {} }()
		mustRelease(t, homes[0], time.Now, 1, ReleaseOptions{})
	}()
	if after, err := os.ReadFile(timestamp); err != nil || string(after) != string(before) {
		t.Fatalf("it was published before it was killed: %v", err)
	}
	serve(t, homes[1], time.Now, 50*time.Minute)
	waitFor(t, "the release is published", func() bool {
		after, err := os.ReadFile(timestamp)
		return err == nil && string(after) != string(before)
	})
}

// TestAStateFromABackupIsNotPublishedOver: the repository is ahead of it.
func TestAStateFromABackupIsNotPublishedOver(t *testing.T) {
	for name, make := range map[string]func(t *testing.T) (home, state string){
		"directory": func(t *testing.T) (string, string) {
			home := newHome(t, time.Now, "tyo")
			return home, filepath.Join(home, stateDir, stateName)
		},
		"bucket": func(t *testing.T) (string, string) {
			server, homes := twoHomes(t, time.Now)
			return homes[0], filepath.Join(server.Dir, "mesh", stateDir, stateName)
		},
	} {
		t.Run(name, func(t *testing.T) {
			home, state := make(t)
			s, err := openStorage(home)
			check(t, err)
			defer s.close()
			backup, _, err := s.records.Read(stateName, maxStateBytes)
			check(t, err)
			mustRelease(t, home, time.Now, 1, ReleaseOptions{})
			tag, err := s.records.Tag(stateName)
			check(t, err)
			_, err = s.records.Swap(t.Context(), stateName, backup, tag)
			check(t, err)
			var hinted *HintError
			_, err = Open(home, time.Now)
			if !errors.As(err, &hinted) || !strings.Contains(err.Error(), "restored from an older copy") {
				t.Errorf("got %v", err)
			}
			check(t, os.Remove(state))
			if _, err = Open(home, time.Now); err == nil || !strings.Contains(err.Error(), "is lost") {
				t.Errorf("without a state: %v", err)
			}
		})
	}
}
