package home_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

// unpack is what an archive holds, by name; it is read to its end, where its checksum is.
func unpack(t *testing.T, data []byte) map[string][]byte {
	t.Helper()
	packed, err := gzip.NewReader(bytes.NewReader(data))
	hometest.Check(t, err)
	files := map[string][]byte{}
	for r := tar.NewReader(packed); ; {
		head, err := r.Next()
		if err == io.EOF {
			break
		}
		hometest.Check(t, err)
		text, err := io.ReadAll(r)
		hometest.Check(t, err)
		files[head.Name] = text
	}
	_, err = io.Copy(io.Discard, packed)
	hometest.Check(t, err)
	return files
}

// TestABackupIsRestoredAndGoesOn: it is written while another command publishes, and has what that one published, whole. The home is lost
// after a further release, is unpacked, brought up, and makes releases that those nodes take that had verified the further one.
func TestABackupIsRestoredAndGoesOn(t *testing.T) {
	clock := hometest.At(hometest.Start)
	dir := hometest.New(t, clock, "tyo")
	hometest.MustRelease(t, dir, clock, 1, releasing.Options{Now: true})
	member := newFollower(t, dir)
	hometest.Check(t, member.follows(dir))
	file := filepath.Join(t.TempDir(), "mesh.tar.gz")

	other := hometest.Begin(t, dir, clock)
	ended := make(chan error, 1)
	go func() {
		_, err := home.At(dir, clock).Backup(t.Context(), file, home.BackupOptions{})
		ended <- err
	}()
	made, found, err := releasing.Make(t.Context(), other, []releasing.Source{hometest.ZoneFile(t, 2)}, releasing.Options{})
	if err != nil || made == nil {
		t.Fatal(err, found)
	}
	state, err := os.ReadFile(filepath.Join(dir, home.StateDir, home.StateName))
	hometest.Check(t, err)
	hometest.Check(t, other.Close())
	hometest.Check(t, <-ended)
	data, err := os.ReadFile(file)
	hometest.Check(t, err)
	if files := unpack(t, data); !bytes.Equal(files["state/state.json"], state) {
		t.Error("the archive does not have the state that the other command left")
	}

	last := hometest.MustRelease(t, dir, clock, 3, releasing.Options{})
	hometest.Check(t, member.follows(dir))
	hometest.Check(t, os.RemoveAll(dir))
	hometest.Check(t, os.Mkdir(dir, 0o755))
	if out, err := exec.Command("tar", "-C", dir, "-xzf", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if text := hometest.TextOf(t, dir, made.Release.Zones[0]); len(text) == 0 {
		t.Error("the text of the zone is not there")
	}
	_, err = home.At(dir, clock).Recover(t.Context(), []string{member.dir.Path()}, 0)
	hometest.Check(t, err)
	if next := hometest.MustRelease(t, dir, clock, 4, releasing.Options{}); next.Release.Number != last.Release.Number+1 {
		t.Errorf("release %d after %d", next.Release.Number, last.Release.Number)
	}
	hometest.Check(t, member.follows(dir))
}

// TestABackupWritesItsTextsWithoutTheLock: others publish while the archive goes out, however slowly it is read.
func TestABackupWritesItsTextsWithoutTheLock(t *testing.T) {
	clock := hometest.At(hometest.Start)
	dir := hometest.New(t, clock)
	hometest.MustRelease(t, dir, clock, 1, releasing.Options{Now: true})
	before := hometest.NewNode(t, dir).Verify()
	var archive bytes.Buffer
	published := false
	_, err := home.At(dir, clock).Archive(t.Context(), writer(func(p []byte) (int, error) {
		if !published {
			published = true
			hometest.MustRelease(t, dir, clock, 2, releasing.Options{})
		}
		return archive.Write(p)
	}), false)
	hometest.Check(t, err)
	restored := t.TempDir()
	for name, data := range unpack(t, archive.Bytes()) {
		if strings.HasSuffix(name, "/") {
			continue
		}
		hometest.Check(t, os.MkdirAll(filepath.Join(restored, filepath.Dir(name)), 0o700))
		hometest.Check(t, os.WriteFile(filepath.Join(restored, name), data, 0o600))
	}
	if after := hometest.NewNode(t, restored).Verify(); after.Versions != before.Versions {
		t.Errorf("restored %+v, it was %+v", after.Versions, before.Versions)
	}
}

type writer func(p []byte) (int, error)

func (w writer) Write(p []byte) (int, error) { return w(p) }

// TestABackupThatLostATextFails: a zone's text that is published goes while the archive is written.
func TestABackupThatLostATextFails(t *testing.T) {
	clock := hometest.At(hometest.Start)
	dir := hometest.New(t, clock)
	made := hometest.MustRelease(t, dir, clock, 1, releasing.Options{Now: true})
	text := filepath.Join(dir, home.RepoDir, release.BlobName(made.Release.Zones[0].Blob.SHA256))
	_, err := home.At(dir, clock).Archive(t.Context(), writer(func(p []byte) (int, error) {
		os.Remove(text)
		return len(p), nil
	}), false)
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("got %v", err)
	}
}

// TestABackupKilledAtAnyStepNeverHasTheName of a whole one: there is the archive of before, or the new one, whole.
func TestABackupKilledAtAnyStepNeverHasTheName(t *testing.T) {
	clock := hometest.At(hometest.Start)
	dir := hometest.New(t, clock)
	hometest.MustRelease(t, dir, clock, 1, releasing.Options{Now: true})
	file := dir + ".tar.gz" // see crashJobs
	for _, before := range []string{"", "the archive of before"} {
		whole := 0
		for n := 1; ; n++ {
			os.Remove(file)
			if before != "" {
				hometest.Check(t, os.WriteFile(file, []byte(before), 0o600))
			}
			done := crashed(t, "backup", dir, n)
			data, err := os.ReadFile(file)
			if err != nil && (before != "" || !errors.Is(err, os.ErrNotExist)) {
				t.Fatalf("step %d: %v", n, err)
			}
			if string(data) != before {
				whole++
				if files := unpack(t, data); len(files["state/state.json"]) == 0 || len(files["keys/lease.pem"]) == 0 {
					t.Fatalf("step %d: not whole: %d files", n, len(files))
				}
			}
			if done {
				if n < 20 || whole != 2 { // killed before the directory is on disk, and not killed
					t.Errorf("%d steps, whole after %d of them", n, whole)
				}
				break
			}
		}
	}
}

// TestABackupThatFailsLeavesNothing beside the file, and not the file.
func TestABackupThatFailsLeavesNothing(t *testing.T) {
	clock := hometest.At(hometest.Start)
	dir := hometest.New(t, clock)
	to := t.TempDir()
	for name, make := range map[string]func() (context.Context, func()){
		"a signal": func() (context.Context, func()) {
			ctx, cancel := context.WithCancel(t.Context())
			return ctx, cancel
		},
		"no state": func() (context.Context, func()) {
			return t.Context(), func() { hometest.Check(t, os.Remove(filepath.Join(dir, home.StateDir, home.StateName))) }
		},
	} {
		ctx, fault := make()
		state, err := os.ReadFile(filepath.Join(dir, home.StateDir, home.StateName))
		hometest.Check(t, err)
		fault()
		if _, err := home.At(dir, clock).Backup(ctx, filepath.Join(to, "mesh.tar.gz"), home.BackupOptions{}); err == nil {
			t.Errorf("%s: it is done", name)
		}
		hometest.Check(t, os.WriteFile(filepath.Join(dir, home.StateDir, home.StateName), state, 0o600))
		if left, _ := os.ReadDir(to); len(left) != 0 {
			t.Errorf("%s: %v is left", name, left)
		}
	}
}

// TestWhatIsNotInABackup: private keys if that is said, sockets, locks, and what links lead to, which is said.
func TestWhatIsNotInABackup(t *testing.T) {
	clock := hometest.At(hometest.Start)
	dir := hometest.New(t, clock, "tyo")
	hometest.Check(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	hometest.Check(t, os.Symlink("/etc/hosts", filepath.Join(dir, "link")))
	hometest.Check(t, os.WriteFile(filepath.Join(dir, "keys", "release.command"), []byte("ed25519 00\ntrue\n"), 0o600))
	var archive bytes.Buffer
	made, err := home.At(dir, clock).Archive(t.Context(), &archive, true)
	hometest.Check(t, err)
	files := unpack(t, archive.Bytes())
	for _, name := range []string{"keys/lease.pem", "keys/release.pem", "keys/root.pem", "pipe", "repository/.lock"} {
		if _, there := files[name]; there {
			t.Errorf("%s is in it", name)
		}
	}
	for _, name := range []string{"keys/release.command", "link", "pki/ca.key", "members/tyo/node.key", "state/state.json"} {
		if _, there := files[name]; !there {
			t.Errorf("%s is not in it", name)
		}
	}
	if made.Keys || !slices.Equal(made.Links, []string{"link"}) || made.Bytes != int64(archive.Len()) {
		t.Errorf("%+v", made)
	}

	keys := filepath.Join(t.TempDir(), "keys")
	hometest.Check(t, os.Rename(filepath.Join(dir, "keys"), keys))
	hometest.Check(t, os.Symlink(keys, filepath.Join(dir, "keys")))
	if _, err := home.At(dir, clock).Archive(t.Context(), io.Discard, false); err == nil || !strings.Contains(err.Error(), "keys is a symbolic link") {
		t.Errorf("got %v", err)
	}
}

// TestTheBackupOfAHostOfABucketSaysWhatItLacks: state and repository.
func TestTheBackupOfAHostOfABucketSaysWhatItLacks(t *testing.T) {
	_, homes := hometest.TwoHomes(t, time.Now)
	var archive bytes.Buffer
	made, err := home.At(homes[1], time.Now).Archive(t.Context(), &archive, false)
	hometest.Check(t, err)
	if files := unpack(t, archive.Bytes()); !made.Shared || len(files["repository"]) == 0 || len(files["keys/lease.pem"]) == 0 {
		t.Errorf("%+v", made)
	}
}
