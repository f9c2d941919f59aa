package home_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/enrol"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hint"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/keys"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
)

// The crash tests run this binary again, which ends itself with SIGKILL before the step that crashStep counts.
const (
	crashJob  = "HOST_TEST_CRASH_JOB"
	crashHome = "HOST_TEST_CRASH_HOME"
	crashStep = "HOST_TEST_CRASH_STEP"
)

func TestMain(m *testing.M) {
	job := os.Getenv(crashJob)
	if job == "" {
		os.Exit(m.Run())
	}
	left, _ := strconv.Atoi(os.Getenv(crashStep))
	home.SetStep(func(string) {
		if left--; left == 0 {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	})
	if err := crashJobs[job](os.Getenv(crashHome)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

var crashJobs = map[string]func(dir string) error{
	"init": func(dir string) error {
		h, err := hometest.Init(dir, hometest.At(hometest.Start))
		if err != nil {
			return err
		}
		return h.Close()
	},
	// A longer lease than before, so that the promise is a new one.
	"release": func(dir string) error {
		h, err := home.At(dir, hometest.At(hometest.Start.Add(time.Hour))).Begin(context.Background())
		if err != nil {
			return err
		}
		defer h.Close()
		file := filepath.Join(dir, "crash.zone")
		if _, err := os.Stat(file); err != nil {
			if err := os.WriteFile(file, hometest.ZoneText(2), 0o600); err != nil {
				return err
			}
		}
		_, _, err = releasing.Make(context.Background(), h, []releasing.Source{{File: file}}, releasing.Options{Keep: true})
		return err
	},
	"lease": func(dir string) error {
		h, err := home.At(dir, hometest.At(hometest.Start.Add(time.Hour))).Begin(context.Background())
		if err != nil {
			return err
		}
		defer h.Close()
		_, err = h.Renew(context.Background(), 2*time.Hour)
		return err
	},
	"backup": func(dir string) error {
		_, err := home.At(dir, hometest.At(hometest.Start)).Backup(context.Background(), dir+".tar.gz", home.BackupOptions{Force: true})
		return err
	},
}

// manyZones is a home whose current release has its zones in a tree.
func manyZones(t *testing.T) string {
	t.Helper()
	dir := hometest.New(t, hometest.At(hometest.Start), "tyo")
	hometest.ManyZones(t, dir, hometest.At(hometest.Start))
	return dir
}

// crashed runs a job that is killed before its n-th step, and reports whether it got to the end instead.
func crashed(t *testing.T, job, dir string, n int) (done bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashJob+"="+job, crashHome+"="+dir, crashStep+"="+strconv.Itoa(n))
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return false
	}
	if err != nil {
		t.Fatalf("step %d: %v: %s", n, err, out)
	}
	return true
}

// TestAPublicationKilledAtAnyStepIsCarriedThroughOrNeverWas: whatever step it dies at, members see the old state or the
// new one, no lease is out whose end is not on disk, and the next command goes on without using a number twice. Zones of the one are in the
// manifest, and those of the other in a tree.
func TestAPublicationKilledAtAnyStepIsCarriedThroughOrNeverWas(t *testing.T) {
	few := hometest.New(t, hometest.At(hometest.Start), "tyo")
	hometest.MustRelease(t, few, hometest.At(hometest.Start), 1, releasing.Options{Now: true})
	many := manyZones(t)
	for _, c := range []struct {
		job, start string
		steps      int
	}{{"release", few, 7}, {"lease", few, 3}, {"release", many, 8}, {"lease", many, 3}} {
		job, steps := c.job, c.steps
		for n := 1; ; n++ {
			dir := filepath.Join(t.TempDir(), "mesh")
			hometest.Check(t, os.CopyFS(dir, os.DirFS(c.start)))
			member := hometest.NewNode(t, dir)
			member.Verify()
			done := crashed(t, job, dir, n)
			before := hometest.Promised(t, dir)
			if seen := member.Verify(); seen.LeaseExpires.After(before) {
				t.Fatalf("%s, step %d: a lease until %v is out, only %v is on disk", job, n, seen.LeaseExpires, before)
			}
			made := hometest.MustRelease(t, dir, hometest.At(hometest.Start.Add(2*time.Hour)), 3, releasing.Options{Keep: true})
			view := member.Verify() // refuses a number that it has seen with other content
			if view.Manifest.Next == nil || view.Manifest.Next.Number != made.Release.Number || view.Manifest.Next.List()[0].Serial != 3 {
				t.Fatalf("%s, step %d: next is %+v", job, n, view.Manifest.Next)
			}
			if done {
				if n <= steps {
					t.Fatalf("%s has only %d steps", job, n-1)
				}
				break
			}
		}
	}
}

// TestAReleaseByPacksKilledAtAnyStepIsCarriedThroughOrNeverWas: of a zone that has no text of its own, all that leads to it is there before it is named.
func TestAReleaseByPacksKilledAtAnyStepIsCarriedThroughOrNeverWas(t *testing.T) {
	start := hometest.New(t, hometest.At(hometest.Start), "tyo")
	release := func(dir, file string, after time.Duration) *releasing.Made {
		t.Helper()
		w := hometest.Begin(t, dir, hometest.At(hometest.Start.Add(after)))
		defer w.Close()
		made, found, err := releasing.Make(t.Context(), w, []releasing.Source{{File: file}}, releasing.Options{Keep: true, Now: w.View().Manifest.Current == nil})
		if err != nil {
			t.Fatal(err, found)
		}
		return made
	}
	const names = 9_000
	release(start, hometest.ManyNames(t, 1, names).File, 0)
	third := hometest.ManyNames(t, 3, names).File
	hometest.Check(t, os.Rename(hometest.ManyNames(t, 2, names).File, filepath.Join(start, "crash.zone")))
	for n := 1; ; n++ {
		dir := filepath.Join(t.TempDir(), "mesh")
		hometest.Check(t, os.CopyFS(dir, os.DirFS(start)))
		member := hometest.NewNode(t, dir)
		done := crashed(t, "release", dir, n)
		member.Verify()
		made := release(dir, third, 2*time.Hour)
		next := member.Verify().Manifest.Next
		if next == nil || next.Number != made.Release.Number || next.Zones[0].Serial != 3 || next.Zones[0].Whole() || len(next.Zones[0].Packs) == 0 {
			t.Fatalf("step %d: next is %+v", n, next)
		}
		if text := hometest.TextOf(t, dir, next.Zones[0]); !bytes.Contains(text, []byte(" 3 7200 3600 1209600 300")) {
			t.Fatalf("step %d: the packs lead to a zone of %d octets", n, len(text))
		}
		if done {
			if n <= 7 {
				t.Fatalf("only %d steps", n-1)
			}
			return
		}
	}
}

func TestAnInitKilledAtAnyStepIsCarriedThroughOrCanBeRepeated(t *testing.T) {
	for n := 1; ; n++ {
		dir := filepath.Join(t.TempDir(), "mesh")
		done := crashed(t, "init", dir, n)
		h, err := home.At(dir, hometest.At(hometest.Start)).Begin(context.Background())
		if err != nil {
			h, err = hometest.Init(dir, hometest.At(hometest.Start))
		}
		if err != nil {
			t.Fatalf("step %d: %v", n, err)
		}
		h.Close()
		hometest.NewNode(t, dir).Verify()
		if _, err := enrol.Identity(home.At(dir, time.Now), slog.New(slog.DiscardHandler)); err != nil {
			t.Fatalf("step %d: %v", n, err)
		}
		if done {
			return
		}
	}
}

func TestInitDoesNotOverwriteTheKeysOfAMeshThatLostItsState(t *testing.T) {
	dir := hometest.New(t, hometest.At(hometest.Start))
	key := filepath.Join(dir, keys.Dir, "root.pem")
	before, err := os.ReadFile(key)
	hometest.Check(t, err)
	hometest.Check(t, os.Remove(filepath.Join(dir, home.StateDir, home.StateName)))
	if _, err := home.At(dir, hometest.At(hometest.Start)).Begin(context.Background()); err == nil || strings.Contains(err.Error(), "there is no mesh") {
		t.Errorf("opened: %v", err)
	}
	if _, err := hometest.Init(dir, hometest.At(hometest.Start)); err == nil || !strings.Contains(err.Error(), "holds a mesh already") {
		t.Errorf("made: %v", err)
	}
	if after, _ := os.ReadFile(key); string(after) != string(before) {
		t.Error("the root key was overwritten")
	}
}

// A state of the version before is read, with every lease that may be alive, and replaced by the next publication.
func TestStateOfTheVersionBefore(t *testing.T) {
	dir := hometest.New(t, hometest.At(hometest.Start), "tyo")
	hometest.MustRelease(t, dir, hometest.At(hometest.Start), 1, releasing.Options{Now: true})
	file := filepath.Join(dir, "state", "state.json")
	data, err := os.ReadFile(file)
	hometest.Check(t, err)
	var now struct {
		LeaseSeconds int64           `json:"lease_seconds"`
		Events       json.RawMessage `json:"events"`
		Published    json.RawMessage `json:"published"`
	}
	hometest.Check(t, json.Unmarshal(data, &now))
	lasts := hometest.Start.Add(48 * time.Hour)
	old := fmt.Sprintf(`{"format":2,"highest":7,"lease_seconds":%d,"promises":[{"number":0,"expires":%q}],"events":%s,"published":%s}`,
		now.LeaseSeconds, lasts.Format(time.RFC3339), now.Events, now.Published)
	hometest.Check(t, os.WriteFile(file, []byte(old+"\n"), 0o600))
	if got := hometest.Promised(t, dir); !got.Equal(lasts) {
		t.Errorf("a lease until %v may be alive, the state says %v", lasts, got)
	}
	if made := hometest.MustRelease(t, dir, hometest.At(hometest.Start), 2, releasing.Options{}); made.Release.Number != 8 {
		t.Errorf("release %d", made.Release.Number)
	}
	if got := hometest.Promised(t, dir); !got.Equal(lasts) {
		t.Errorf("after a publication the state says %v", got)
	}
}

func TestALeaseEndsNoLaterThanTheKeysWord(t *testing.T) {
	dir := hometest.New(t, hometest.At(hometest.Start))
	h := hometest.Begin(t, dir, hometest.At(hometest.Start.AddDate(0, 11, 0)))
	defer h.Close()
	until, err := h.Renew(t.Context(), 90*24*time.Hour)
	hometest.Check(t, err)
	if want := hometest.Start.AddDate(1, 0, 0); !until.Equal(want) {
		t.Fatalf("until %v, the release key's word ends %v", until, want)
	}
}

func TestALeaseThatHasEndedIsNotPublished(t *testing.T) {
	dir := hometest.New(t, time.Now)
	h := hometest.Begin(t, dir, time.Now)
	defer h.Close()
	for _, d := range []time.Duration{-time.Hour, time.Millisecond, home.MaxLease + 1} {
		if until, err := h.Renew(t.Context(), d); err == nil || !strings.Contains(err.Error(), "a lease is 1s to") {
			t.Errorf("a lease for %v: until %v, %v", d, until, err)
		}
	}
}

func TestWhatIsKeptSecretIsReadableByTheOwnerOnly(t *testing.T) {
	dir := hometest.New(t, hometest.At(hometest.Start), "tyo")
	for _, file := range []string{"keys/root.pem", "keys/release.pem", "keys/lease.pem", "pki/ca.key", "pki/host.key", "members/tyo/node.key"} {
		info, err := os.Stat(filepath.Join(dir, file))
		hometest.Check(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v", file, info.Mode())
		}
	}
}

// TestASecondWriterIsRefusedByName, once it has waited.
func TestASecondWriterIsRefusedByName(t *testing.T) {
	dir := hometest.New(t, hometest.At(hometest.Start))
	h := hometest.Begin(t, dir, hometest.At(hometest.Start))
	defer h.Close()
	err := home.WaitForLock(t.Context(), filepath.Join(dir, home.RepoDir), time.Second)
	want := fmt.Sprintf("waited for 1s: %s is being written by process %d (%s", filepath.Join(dir, home.RepoDir), os.Getpid(), os.Args[0])
	var hinted *hint.Error
	if !errors.As(err, &hinted) || !strings.HasPrefix(err.Error(), want) {
		t.Fatalf("got %v, want %s", err, want)
	}
}

// TestACommandWaitsForOthersThatWrite: one that takes seconds, and then serve beside it, which writes again and again.
func TestACommandWaitsForOthersThatWrite(t *testing.T) {
	dir := hometest.New(t, time.Now)
	h := hometest.Begin(t, dir, time.Now)
	time.AfterFunc(4*time.Second, func() { h.Close() })
	second, err := home.At(dir, time.Now).Begin(context.Background())
	hometest.Check(t, err)
	if waited := home.Waited(second); waited < time.Second { // of some four, so that it does not count as publication
		t.Errorf("it knows of %v that it waited", waited)
	}
	hometest.Check(t, second.Close())

	ends := make(chan bool)
	var others sync.WaitGroup
	defer others.Wait()
	defer close(ends)
	for range 3 {
		others.Go(func() {
			for {
				select {
				case <-ends:
					return
				default:
				}
				if err := home.At(dir, time.Now).Write(t.Context(), func(h *home.Writer) error {
					_, err := h.Renew(t.Context(), 0)
					return err
				}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 20 {
		hometest.Check(t, home.At(dir, time.Now).Write(t.Context(), func(h *home.Writer) error { return nil }))
	}
}

// TestWaitingForAnotherWriterEndsWithTheContext, with its cause.
func TestWaitingForAnotherWriterEndsWithTheContext(t *testing.T) {
	dir := hometest.New(t, time.Now)
	w := hometest.Begin(t, dir, time.Now)
	defer w.Close()
	interrupted := errors.New("interrupted")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(interrupted)
	if _, err := home.At(dir, time.Now).Begin(ctx); !errors.Is(err, interrupted) {
		t.Errorf("got %v", err)
	}
}

// TestManifestsBetweenTwoReleasesGo with the release after them, though nothing is collected when they are published.
func TestManifestsBetweenTwoReleasesGo(t *testing.T) {
	dir := hometest.New(t, time.Now, "tyo")
	h := home.At(dir, time.Now)
	release := func(serial uint32) {
		hometest.Check(t, h.Write(t.Context(), func(w *home.Writer) error {
			_, _, err := releasing.Make(t.Context(), w, []releasing.Source{hometest.ZoneFile(t, serial)}, releasing.Options{})
			return err
		}))
	}
	release(1)
	for i := range 5 {
		hometest.Check(t, h.Write(t.Context(), func(w *home.Writer) error {
			_, err := enrol.AddMember(t.Context(), w, enrol.NewMember{Name: fmt.Sprintf("m%d", i), Admin: fmt.Sprintf("127.0.0.1:%d", i+2)})
			return err
		}))
	}
	release(2)
	if left := manifestsIn(t, dir); len(left) > 2 {
		t.Errorf("%d manifests: %q", len(left), left)
	}
}

func manifestsIn(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(dir, "repository", "targets", "*.mesh.json"))
	hometest.Check(t, err)
	return all
}

// TestManifestsWithoutAReleaseGo: what many publications leave is removed though no release follows them, whatever process makes which; but not between a
// proposal and its commit.
func TestManifestsWithoutAReleaseGo(t *testing.T) {
	clock := hometest.At(hometest.Start)
	dir := hometest.New(t, clock, "tyo")
	hometest.MustRelease(t, dir, clock, 1, releasing.Options{Now: true})
	h := home.At(dir, clock)
	change := func(i int) {
		t.Helper()
		if i%10 == 0 {
			h = home.At(dir, clock) // another process
		}
		hometest.Check(t, h.Write(t.Context(), func(w *home.Writer) error {
			m := w.View().Manifest
			m.EpsilonMS = 100 + (m.EpsilonMS+1)%100
			return w.Publish(t.Context(), m, home.Event{Event: "changed"})
		}))
	}
	most := 0
	for i := range 70 {
		change(i)
		most = max(most, len(manifestsIn(t, dir)))
	}
	if most > 64+2 {
		t.Errorf("%d manifests at a time", most)
	}
	hometest.MustRelease(t, dir, clock, 2, releasing.Options{})
	w := hometest.Begin(t, dir, clock)
	next := w.Mesh()
	next.Next.At, next.Next.Decide = instant.WallOf(hometest.Start.Add(time.Hour)), instant.WallOf(hometest.Start.Add(time.Minute))
	next.Version++
	hometest.Check(t, w.Carry(t.Context(), next, time.Time{}, nil, home.Event{Event: mesh.EventProposed}))
	hometest.Check(t, w.Close())
	for i := range 70 {
		change(i)
	}
	if n := len(manifestsIn(t, dir)); n < 70 {
		t.Errorf("%d manifests: something was collected while a switchover is under way", n)
	}
}
