package home_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
)

// TestAStateFromABackupIsNotPublishedOver: the repository is ahead of it.
func TestAStateFromABackupIsNotPublishedOver(t *testing.T) {
	for name, make := range map[string]func(t *testing.T) (dir, state string){
		"directory": func(t *testing.T) (string, string) {
			dir := hometest.New(t, time.Now, "tyo")
			return dir, filepath.Join(dir, home.StateDir, home.StateName)
		},
		"bucket": func(t *testing.T) (string, string) {
			server, homes := hometest.TwoHomes(t, time.Now)
			return homes[0], filepath.Join(server.Dir, "mesh", home.StateDir, home.StateName)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, state := make(t)
			s, err := home.At(dir, time.Now).Read(t.Context())
			hometest.Check(t, err)
			defer s.Close()
			backup, _, err := s.Records().Read(home.StateName, home.MaxStateBytes)
			hometest.Check(t, err)
			hometest.MustRelease(t, dir, time.Now, 1, releasing.Options{})
			tag, err := s.Records().Tag(home.StateName)
			hometest.Check(t, err)
			_, err = s.Records().Swap(t.Context(), home.StateName, backup, tag)
			hometest.Check(t, err)
			var hinted *hint.Error
			_, err = home.At(dir, time.Now).Begin(t.Context())
			if !errors.As(err, &hinted) || !strings.Contains(err.Error(), "restored from an older copy") {
				t.Errorf("got %v", err)
			}
			hometest.Check(t, os.Remove(state))
			if _, err = home.At(dir, time.Now).Begin(t.Context()); err == nil || !strings.Contains(err.Error(), "is lost") {
				t.Errorf("without a state: %v", err)
			}
		})
	}
}
