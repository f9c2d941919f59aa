package host

import (
	"crypto/rand"
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

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

var testNow = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// at is a clock that stands still.
func at(t time.Time) Clock { return func() time.Time { return t } }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var testOptions = InitOptions{Mesh: "jp", Epsilon: 100 * time.Millisecond, Lease: time.Hour, SANs: []string{"127.0.0.1"}}

func testInit(home string, clock Clock) (*Host, error) { return initWith(home, testOptions, clock) }

func initWith(home string, o InitOptions, clock Clock) (*Host, error) {
	return Init(home, o, rand.Reader, clock)
}

func newHome(t testing.TB, clock Clock, members ...string) string {
	t.Helper()
	home := filepath.Join(t.TempDir(), "mesh")
	h, err := testInit(home, clock)
	check(t, err)
	defer h.Close()
	for i, name := range members {
		_, err := h.AddMember(NewMember{Name: name, Admin: fmt.Sprintf("127.0.0.1:%d", 40000+i)})
		check(t, err)
	}
	return home
}

// zoneFile writes a zone whose one address tells the serial.
func zoneFile(t testing.TB, serial uint32) Source {
	t.Helper()
	file := filepath.Join(t.TempDir(), "example.org.zone")
	check(t, os.WriteFile(file, zoneText(serial), 0o600))
	return Source{File: file}
}

func zoneText(serial uint32) []byte {
	return fmt.Appendf(nil, "$ORIGIN example.org.\n$TTL 300\n@ SOA ns1 host %d 7200 3600 1209600 300\n@ NS ns1\n@ NS ns.example.net.\nns1 A 192.0.2.53\nwww A 192.0.2.%d\n", serial, serial%256)
}

func mustRelease(t testing.TB, home string, clock Clock, serial uint32, o ReleaseOptions) *Made {
	t.Helper()
	h, err := Open(home, clock)
	check(t, err)
	defer h.Close()
	made, found, err := h.Release([]Source{zoneFile(t, serial)}, o)
	check(t, err)
	if made == nil {
		t.Fatalf("nothing was published: %v", found)
	}
	return made
}

// node verifies what is published, as a member that forgets nothing would.
type node struct {
	t   testing.TB
	dir string
	mem release.Memory
}

func newNode(t testing.TB, home string) *node {
	t.Helper()
	root, err := os.ReadFile(filepath.Join(home, repoDir, release.RootName(1)))
	check(t, err)
	mem, err := release.NewMemory(root)
	check(t, err)
	return &node{t, filepath.Join(home, repoDir), mem}
}

func (n *node) verify() release.View {
	n.t.Helper()
	repo, err := depot.Open(n.dir)
	check(n.t, err)
	defer repo.Close()
	view, mem, err := release.Verify(repo, n.mem)
	check(n.t, err)
	n.mem = mem
	for _, r := range []*release.Release{view.Manifest.Current, view.Manifest.Next} {
		if r == nil {
			continue
		}
		for _, z := range r.Zones {
			check(n.t, repo.CheckBlob(z.Blob))
		}
	}
	return view
}

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
	step = func(string) {
		if left--; left == 0 {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	if err := crashJobs[job](os.Getenv(crashHome)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

var crashJobs = map[string]func(home string) error{
	"init": func(home string) error {
		h, err := testInit(home, at(testNow))
		if err != nil {
			return err
		}
		return h.Close()
	},
	// A longer lease than before, so that the promise is a new one.
	"release": func(home string) error {
		h, err := Open(home, at(testNow.Add(time.Hour)))
		if err != nil {
			return err
		}
		defer h.Close()
		file := filepath.Join(home, "crash.zone")
		if err := os.WriteFile(file, zoneText(2), 0o600); err != nil {
			return err
		}
		_, _, err = h.Release([]Source{{File: file}}, ReleaseOptions{})
		return err
	},
	"lease": func(home string) error {
		h, err := Open(home, at(testNow.Add(time.Hour)))
		if err != nil {
			return err
		}
		defer h.Close()
		_, err = h.Lease(2 * time.Hour)
		return err
	},
}

// crashed runs a job that is killed before its n-th step, and reports whether it got to the end instead.
func crashed(t *testing.T, job, home string, n int) (done bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashJob+"="+job, crashHome+"="+home, crashStep+"="+strconv.Itoa(n))
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

// promised is the latest end of all leases that the disk admits to.
func promised(t *testing.T, home string) time.Time {
	t.Helper()
	s, err := openStorage(home)
	check(t, err)
	defer s.close()
	state, _, err := readState(home, s)
	check(t, err)
	return state.LatestWithout(0, time.Time{})
}

// TestAPublicationKilledAtAnyStepIsCarriedThroughOrNeverWas: whatever step it dies at, members see the old state or the
// new one, no lease is out whose end is not on disk, and the next command goes on without using a number twice.
func TestAPublicationKilledAtAnyStepIsCarriedThroughOrNeverWas(t *testing.T) {
	for job, steps := range map[string]int{"release": 7, "lease": 3} {
		for n := 1; ; n++ {
			home := newHome(t, at(testNow), "tyo")
			mustRelease(t, home, at(testNow), 1, ReleaseOptions{Now: true})
			member := newNode(t, home)
			member.verify()
			done := crashed(t, job, home, n)
			before := promised(t, home)
			if seen := member.verify(); seen.LeaseExpires.After(before) {
				t.Fatalf("%s, step %d: a lease until %v is out, only %v is on disk", job, n, seen.LeaseExpires, before)
			}
			made := mustRelease(t, home, at(testNow.Add(2*time.Hour)), 3, ReleaseOptions{})
			view := member.verify() // refuses a number that it has seen with other content
			if view.Manifest.Next == nil || view.Manifest.Next.Number != made.Release.Number || view.Manifest.Next.Zones[0].Serial != 3 {
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

func TestAnInitKilledAtAnyStepIsCarriedThroughOrCanBeRepeated(t *testing.T) {
	for n := 1; ; n++ {
		home := filepath.Join(t.TempDir(), "mesh")
		done := crashed(t, "init", home, n)
		h, err := Open(home, at(testNow))
		if err != nil {
			h, err = testInit(home, at(testNow))
		}
		if err != nil {
			t.Fatalf("step %d: %v", n, err)
		}
		h.Close()
		newNode(t, home).verify()
		if _, err := Identity(home, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatalf("step %d: %v", n, err)
		}
		if done {
			return
		}
	}
}

func TestInitDoesNotOverwriteTheKeysOfAMeshThatLostItsState(t *testing.T) {
	home := newHome(t, at(testNow))
	key := filepath.Join(home, keysDir, "root.pem")
	before, err := os.ReadFile(key)
	check(t, err)
	check(t, os.Remove(filepath.Join(home, stateDir, stateName)))
	if _, err := Open(home, at(testNow)); err == nil || strings.Contains(err.Error(), "there is no mesh") {
		t.Errorf("opened: %v", err)
	}
	if _, err := testInit(home, at(testNow)); err == nil || !strings.Contains(err.Error(), "holds a mesh already") {
		t.Errorf("made: %v", err)
	}
	if after, _ := os.ReadFile(key); string(after) != string(before) {
		t.Error("the root key was overwritten")
	}
}

func TestTheFirstReleaseIsStagedWhereThereAreMembers(t *testing.T) {
	home := newHome(t, at(testNow), "tyo")
	if made := mustRelease(t, home, at(testNow), 1, ReleaseOptions{}); made.Current || made.Release.Number != 1 {
		t.Fatalf("made %+v", made)
	}
	view := newNode(t, home).verify()
	if view.Manifest.Current != nil || view.Manifest.Next.Number != 1 {
		t.Fatalf("published %v", view)
	}
	lonely := newHome(t, at(testNow))
	if made := mustRelease(t, lonely, at(testNow), 1, ReleaseOptions{}); !made.Current {
		t.Fatal("staged, where nobody would ever confirm it")
	}
}

func TestAReleaseThatIsTakenBackIsFollowedByAHigherNumber(t *testing.T) {
	home := newHome(t, at(testNow), "tyo")
	mustRelease(t, home, at(testNow), 1, ReleaseOptions{})
	made := mustRelease(t, home, at(testNow), 2, ReleaseOptions{})
	if made.Release.Number != 2 || made.Replaced != 1 {
		t.Fatalf("made %+v", made)
	}
}

func TestNowIsRefusedWhereMembersAnswer(t *testing.T) {
	home := newHome(t, at(testNow), "tyo")
	mustRelease(t, home, at(testNow), 1, ReleaseOptions{Now: true})
	h, err := Open(home, at(testNow))
	check(t, err)
	defer h.Close()
	if _, _, err := h.Release([]Source{zoneFile(t, 2)}, ReleaseOptions{Now: true}); err == nil {
		t.Fatal("members were made to answer differently")
	}
}

func TestASwitchoverThatHasPassedForAllIsPutOnRecord(t *testing.T) {
	home := newHome(t, at(testNow), "tyo")
	mustRelease(t, home, at(testNow), 1, ReleaseOptions{})
	h, err := Open(home, at(testNow))
	check(t, err)
	check(t, h.setSwitchover(time.Time{}, testNow.Add(time.Minute), Event{Event: "scheduled"}))
	h.Close()
	for _, test := range []struct {
		after time.Duration
		want  bool
	}{{time.Minute, false}, {time.Minute + 200*time.Millisecond, false}, {time.Minute + 201*time.Millisecond, true}, {2 * time.Minute, false}} {
		h, err := Open(home, at(testNow.Add(test.after)))
		check(t, err)
		got, err := h.Settle()
		check(t, err)
		h.Close()
		if got != test.want {
			t.Errorf("%v after: settled %v", test.after, got)
		}
	}
	view := newNode(t, home).verify()
	if r := view.Manifest.Current; r == nil || !r.Switchover.Equal(testNow.Add(time.Minute)) || view.Manifest.Next != nil {
		t.Fatalf("published %v", view)
	}
}

func TestALeaseEndsNoLaterThanTheKeysWord(t *testing.T) {
	home := newHome(t, at(testNow))
	h, err := Open(home, at(testNow.AddDate(0, 11, 0)))
	check(t, err)
	defer h.Close()
	until, err := h.Lease(90 * 24 * time.Hour)
	check(t, err)
	if want := testNow.AddDate(1, 0, 0); !until.Equal(want) {
		t.Fatalf("until %v, the release key's word ends %v", until, want)
	}
}

func TestALeaseThatHasEndedIsNotPublished(t *testing.T) {
	home := newHome(t, time.Now)
	h, err := Open(home, time.Now)
	check(t, err)
	defer h.Close()
	for _, d := range []time.Duration{-time.Hour, time.Millisecond, MaxLease + 1} {
		if until, err := h.Lease(d); err == nil || !strings.Contains(err.Error(), "a lease is 1s to") {
			t.Errorf("a lease for %v: until %v, %v", d, until, err)
		}
	}
}

func TestAnEmergencyLeaseNeedsTheLeaseKeyOnly(t *testing.T) {
	home := newHome(t, at(testNow), "tyo")
	mustRelease(t, home, at(testNow), 1, ReleaseOptions{})
	h, err := Open(home, at(testNow))
	check(t, err)
	check(t, h.setSwitchover(time.Time{}, testNow.Add(time.Minute), Event{Event: "scheduled"}))
	h.Close()
	check(t, os.Remove(filepath.Join(home, keysDir, "release.pem")))
	check(t, os.Remove(filepath.Join(home, keysDir, "root.pem")))
	later := at(testNow.Add(time.Hour)) // the switchover has passed, and cannot be put on record
	h, err = Open(home, later)
	check(t, err)
	until, err := h.Lease(0)
	check(t, err)
	h.Close()
	if !until.Equal(testNow.Add(2*time.Hour)) || !newNode(t, home).verify().LeaseExpires.Equal(until) {
		t.Fatalf("until %v", until)
	}
	h, err = Open(home, later)
	check(t, err)
	defer h.Close()
	if s := (&Server{Home: home, Clock: later, Renew: 10 * time.Minute}); s.due(h.state, h.view) {
		t.Fatal("serve would renew without end")
	}
	if _, err := h.AddMember(NewMember{Name: "osa", Admin: "127.0.0.1:1"}); err == nil || !strings.Contains(err.Error(), "release key is not there") {
		t.Fatalf("got %v", err)
	}
}

func TestPromisesAreKeptBySchedule(t *testing.T) {
	next := func(number uint64, at time.Time) release.Manifest {
		return release.Manifest{Next: &release.Release{Number: number, Switchover: at}}
	}
	at1, hour := testNow.Add(time.Minute), time.Hour
	var s State
	s = s.promise(release.Manifest{}, testNow.Add(3*hour), testNow)
	s = s.promise(next(2, time.Time{}), testNow.Add(2*hour), testNow)
	s = s.promise(next(2, at1), testNow.Add(9*hour), testNow)
	s = s.promise(next(2, at1), testNow.Add(8*hour), testNow) // shorter: the longer one is out all the same
	for _, test := range []struct {
		number uint64
		at     time.Time
		want   time.Duration
	}{
		{2, at1, 3 * hour},         // all but those that name it
		{2, at1.Add(1), 9 * hour},  // another instant is another switchover
		{3, at1, 9 * hour},         // so is another release
		{2, time.Time{}, 9 * hour}, // an instant to be chosen is named by none
	} {
		if got := s.LatestWithout(test.number, test.at); !got.Equal(testNow.Add(test.want)) {
			t.Errorf("%d at %v: %v, want %v", test.number, test.at, got.Sub(testNow), test.want)
		}
	}
	s = s.promise(release.Manifest{}, testNow.Add(100*hour), testNow.Add(99*hour))
	if len(s.Promises) != 1 {
		t.Errorf("promises that have ended are kept: %v", s.Promises)
	}
}

func TestWhatIsKeptSecretIsReadableByTheOwnerOnly(t *testing.T) {
	home := newHome(t, at(testNow), "tyo")
	for _, file := range []string{"keys/root.pem", "keys/release.pem", "keys/lease.pem", "pki/ca.key", "pki/host.key", "members/tyo/node.key"} {
		info, err := os.Stat(filepath.Join(home, file))
		check(t, err)
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s: mode %v", file, info.Mode())
		}
	}
}

// TestASecondWriterIsRefusedByName, once it has waited.
func TestASecondWriterIsRefusedByName(t *testing.T) {
	home := newHome(t, at(testNow))
	h, err := Open(home, at(testNow))
	check(t, err)
	defer h.Close()
	_, err = waitForLock(filepath.Join(home, repoDir), time.Second)
	want := fmt.Sprintf("waited for 1s: %s is being written by process %d (%s", filepath.Join(home, repoDir), os.Getpid(), os.Args[0])
	var hinted *HintError
	if !errors.As(err, &hinted) || !strings.HasPrefix(err.Error(), want) {
		t.Fatalf("got %v, want %s", err, want)
	}
}

// TestACommandWaitsForOthersThatWrite: one that takes seconds, and then serve beside it, which writes again and again.
func TestACommandWaitsForOthersThatWrite(t *testing.T) {
	home := newHome(t, time.Now)
	h, err := Open(home, time.Now)
	check(t, err)
	time.AfterFunc(4*time.Second, func() { h.Close() })
	second, err := Open(home, time.Now)
	check(t, err)
	check(t, second.Close())

	ends := make(chan bool)
	var others sync.WaitGroup
	for range 3 {
		others.Go(func() {
			for {
				select {
				case <-ends:
					return
				default:
				}
				if err := Write(home, time.Now, func(h *Host) error {
					_, err := h.Lease(0)
					return err
				}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 20 {
		check(t, Write(home, time.Now, func(h *Host) error { return nil }))
	}
	close(ends)
	others.Wait()
}

// TestTheStepsOfAReleaseAreTimed: the clock goes on by a second whenever it is asked, and no second is lost or counted twice
// between the first step and the last.
func TestTheStepsOfAReleaseAreTimed(t *testing.T) {
	home := newHome(t, at(testNow))
	h, err := Open(home, at(testNow))
	check(t, err)
	defer h.Close()
	seconds := 0
	h.clock = func() time.Time { seconds++; return testNow.Add(time.Duration(seconds) * time.Second) }
	other := filepath.Join(t.TempDir(), "other.zone")
	check(t, os.WriteFile(other, []byte(strings.ReplaceAll(string(zoneText(1)), "example.org", "example.com")), 0o600))
	_, found, err := h.Release([]Source{zoneFile(t, 1), {File: other}}, ReleaseOptions{})
	check(t, err)
	records, err := History(home, 1)
	check(t, err)
	var names []string
	for _, s := range records[0].Timing {
		names = append(names, s.Name)
		if s.Seconds < 1 {
			t.Errorf("%s took %v s", s.Name, s.Seconds)
		}
	}
	if got := strings.Join(names, ", "); got != "read, stored, zones before read, compared, checked, delta made, signed and published" {
		t.Errorf("the steps are %s: %v", got, found)
	}
	for _, s := range records[0].Timing[:4] { // one look at the clock a zone
		if s.Seconds != 2 {
			t.Errorf("%s of two zones: %v s, want 2", s.Name, s.Seconds)
		}
	}
}
