package depot

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/release"
)

var testNow = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

// host is a distribution host: it makes releases in a directory.
type host struct {
	t    testing.TB
	dir  *Dir
	keys release.Keys
	mem  release.Memory
	m    release.Manifest
}

func newHost(t testing.TB) *host {
	t.Helper()
	keys, err := release.GenerateKeys(rand.NewChaCha8([32]byte{}))
	check(t, err)
	h := &host{t: t, dir: newDir(t), keys: keys, m: release.Manifest{Format: release.ManifestFormat, Mesh: "jp", EpsilonMS: 100}}
	files, mem, err := release.Init(h.m, keys.Signers(), ends())
	check(t, err)
	check(t, publish(h.dir, files))
	h.mem = mem
	return h
}

func ends() release.Expiries {
	year := testNow.AddDate(1, 0, 0)
	return release.Expiries{Root: year, Targets: year, Snapshot: year, Timestamp: testNow.AddDate(0, 0, 1)}
}

func newDir(t testing.TB) *Dir {
	t.Helper()
	d, err := Create(t.TempDir())
	check(t, err)
	t.Cleanup(func() { d.Close() })
	return d
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// zone stores a zone of about size bytes whose text tells its serial.
// publish puts files into a directory in the order given, each durably before the next.
func publish(d *Dir, files []release.File) error {
	for _, f := range files {
		if err := replace(d.root, f.Name, f.Data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// zones are so many small ones.
func (h *host) zones(n int, serial uint32, size int) (all []release.Zone) {
	h.t.Helper()
	for i := range n {
		all = append(all, h.zone(fmt.Sprintf("z%04d.example.", i), serial, size))
	}
	return all
}

func (h *host) zone(origin string, serial uint32, size int) release.Zone {
	h.t.Helper()
	c, err := h.dir.PutBlob(text(origin, serial, size))
	check(h.t, err)
	return release.Zone{Origin: origin, Serial: serial, SHA256: c.SHA256, Length: c.Length, Blob: c.Blob}
}

func text(origin string, serial uint32, size int) func(io.Writer) error {
	return func(w io.Writer) error {
		noise := rand.New(rand.NewPCG(uint64(serial), 0))
		b := bufio.NewWriter(w)
		for n := 0; n < size; n += 40 {
			fmt.Fprintf(b, "%s %d %016x\n", origin, serial, noise.Uint64())
		}
		return b.Flush()
	}
}

// make returns the files that make number the current release; its zone's serial is the number.
func (h *host) make(number uint64, size int) ([]release.File, release.Memory) {
	h.t.Helper()
	h.m.Current = &release.Release{Number: number, Switchover: testNow, Zones: []release.Zone{h.zone("example.org.", uint32(number), size)}}
	files, mem, err := release.Publish(h.mem, h.m, h.keys.Signers(), ends())
	check(h.t, err)
	return files, mem
}

func (h *host) release(number uint64, size int) {
	h.t.Helper()
	files, mem := h.make(number, size)
	check(h.t, publish(h.dir, files))
	h.mem = mem
}

func (h *host) renew() {
	h.t.Helper()
	files, mem, err := release.Renew(h.mem, h.keys.Lease, testNow.AddDate(0, 0, 2))
	check(h.t, err)
	check(h.t, publish(h.dir, files))
	h.mem = mem
}

// root is what a node starts from.
func (h *host) root() release.Memory {
	h.t.Helper()
	data, err := fs.ReadFile(h.dir, release.RootName(1))
	check(h.t, err)
	mem, err := release.NewMemory(data)
	check(h.t, err)
	return mem
}

// serves checks that a reader with the root alone sees a whole state, and returns its current release's number.
func serves(t testing.TB, d *Dir, mem release.Memory) uint64 {
	t.Helper()
	view, _, err := release.Verify(d, mem)
	check(t, err)
	if view.Manifest.Current == nil {
		return 0
	}
	for _, z := range view.Manifest.Current.Zones {
		r, err := d.OpenBlob(z)
		check(t, err)
		_, err = io.Copy(io.Discard, r)
		check(t, err)
		r.Close()
	}
	return view.Manifest.Current.Number
}

// Crash tests run this test binary again, which ends itself with SIGKILL at the step that crashStep counts.
const (
	crashJob  = "DEPOT_TEST_CRASH_JOB"
	crashDir  = "DEPOT_TEST_CRASH_DIR"
	crashStep = "DEPOT_TEST_CRASH_STEP"
	crashFrom = "DEPOT_TEST_CRASH_FROM"
)

func TestMain(m *testing.M) {
	job := os.Getenv(crashJob)
	if job == "" {
		os.Exit(m.Run())
	}
	at, _ := strconv.Atoi(os.Getenv(crashStep))
	var left atomic.Int64
	left.Store(int64(at))
	step = func(string) {
		if left.Add(-1) == 0 {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	if err := crashJobs[job](os.Getenv(crashDir), os.Getenv(crashFrom)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

var crashJobs = map[string]func(dir, from string) error{
	"serve": serveJob,
	"write": func(dir, from string) error {
		return WriteFile(dir, "floor", bytes.Repeat([]byte("new"), 1000), 0o600)
	},
	"remove": func(dir, _ string) error { return RemoveFile(dir, "floor") },
	"lock": func(dir, _ string) error {
		lock, err := LockDir(dir)
		if err != nil {
			return err
		}
		fmt.Println("locked")
		io.Copy(io.Discard, os.Stdin)
		return lock.Unlock()
	},
	"mirror": mirrorJob,
	"create nodes": func(dir, _ string) error {
		d, err := Open(dir)
		if err != nil {
			return err
		}
		return d.CreateAll(nodeFiles())
	},
	"create all": func(dir, _ string) error {
		d, err := Open(dir)
		if err != nil {
			return err
		}
		return d.CreateAll(manyFiles())
	},
	"beside": func(dir, _ string) error {
		d, err := Open(dir)
		if err != nil {
			return err
		}
		c, err := d.PutBeside(text("example.", 1, 1000))
		if err != nil {
			return err
		}
		return d.Adopt(c.Blob)
	},
}

// crashed runs a job that is killed at its n-th step, and reports whether it got to the end instead.
func crashed(t *testing.T, job, dir, from string, n int) (done bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashJob+"="+job, crashDir+"="+dir, crashFrom+"="+from, crashStep+"="+strconv.Itoa(n))
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

// maxSteps ends a crash test that would never end.
const maxSteps = 200

func TestWriteFileKilledAtAnyStepLeavesOldOrNew(t *testing.T) {
	dir := t.TempDir()
	old, fresh := bytes.Repeat([]byte("old"), 900), bytes.Repeat([]byte("new"), 1000)
	for n := 1; ; n++ {
		check(t, WriteFile(dir, "floor", old, 0o600))
		done := crashed(t, "write", dir, "", n)
		got, err := ReadFile(dir, "floor", 1<<20)
		check(t, err)
		if !bytes.Equal(got, old) && !bytes.Equal(got, fresh) || done && !bytes.Equal(got, fresh) {
			t.Fatalf("step %d: %d bytes, %.9q", n, len(got), got)
		}
		if done {
			if n < 5 {
				t.Fatalf("only %d steps: is anything synced?", n)
			}
			return
		}
	}
}

func TestRemoveFileKilledAtAnyStepLeavesItWholeOrNot(t *testing.T) {
	dir := t.TempDir()
	for n := 1; ; n++ {
		check(t, WriteFile(dir, "floor", []byte("old"), 0o600))
		done := crashed(t, "remove", dir, "", n)
		got, err := ReadFile(dir, "floor", 10)
		if gone := errors.Is(err, fs.ErrNotExist); !gone && string(got) != "old" || done && !gone {
			t.Fatalf("step %d: %q, %v", n, got, err)
		}
		if done {
			if n < 3 {
				t.Fatalf("only %d steps: is anything synced?", n)
			}
			check(t, RemoveFile(dir, "floor"))
			return
		}
	}
}

// manyFiles are some in two directories.
func manyFiles() (files []release.File) {
	for i := range 6 {
		files = append(files, release.File{Name: fmt.Sprintf("%d/file-%d", i%2, i), Data: bytes.Repeat([]byte{byte(i)}, 1000)})
	}
	return files
}

// TestFilesCreatedTogetherAndKilledAtAnyStep are each whole or not there, and are all there when that is repeated.
func TestFilesCreatedTogetherAndKilledAtAnyStep(t *testing.T) {
	for n := 1; ; n++ {
		d := newDir(t)
		done := crashed(t, "create all", d.Path(), "", n)
		for _, repeated := range []bool{false, true} {
			if repeated {
				check(t, d.Sweep())
				check(t, d.CreateAll(manyFiles()))
			}
			for _, f := range manyFiles() {
				got, err := fs.ReadFile(d, f.Name)
				if absent := errors.Is(err, fs.ErrNotExist); !bytes.Equal(got, f.Data) && !absent || absent && (done || repeated) {
					t.Fatalf("step %d: %s has %d bytes: %v", n, f.Name, len(got), err)
				}
			}
		}
		if done {
			if n < 6*4 {
				t.Fatalf("only %d steps: is anything synced?", n)
			}
			return
		}
	}
}

// damagedNodes are nodes of trees in a directory that holds something else in their places.
func damagedNodes(t testing.TB) (*Dir, []release.File) {
	t.Helper()
	d := newDir(t)
	files := nodeFiles()
	for i, damage := range []func(path string) error{
		func(path string) error { return os.WriteFile(path, []byte("[]\n"), 0o644) },
		func(path string) error { return os.WriteFile(path, nil, 0o644) },
		func(path string) error { return os.WriteFile(path, make([]byte, len(files[2].Data)), 0o644) },
		func(path string) error { return os.WriteFile(path, make([]byte, 2*len(files[3].Data)), 0o644) },
		func(path string) error { return syscall.Mkfifo(path, 0o644) },
	} {
		check(t, damage(filepath.Join(d.Path(), files[i].Name)))
	}
	return d, files
}

// nodeFiles are nodes of trees, by their names, and a manifest.
func nodeFiles() (files []release.File) {
	for i := range 6 {
		data := bytes.Repeat([]byte{byte(i)}, 1000)
		files = append(files, release.File{Name: release.NodeName(release.DigestOf(data)), Data: data})
	}
	data := []byte("{}\n")
	return append(files, release.File{Name: release.ManifestName(release.DigestOf(data)), Data: data})
}

// TestWhatIsDamagedIsReplacedByWhatItsNameSays: a node of a tree that is needed again, and what lies there is not what was written. Another file with other
// content is another writer's.
func TestWhatIsDamagedIsReplacedByWhatItsNameSays(t *testing.T) {
	for name, write := range map[string]func(d *Dir, files []release.File) error{
		"together": (*Dir).CreateAll,
		"one by one": func(d *Dir, files []release.File) error {
			for _, f := range files {
				if err := d.Create(f.Name, f.Data); err != nil {
					return err
				}
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			d, files := damagedNodes(t)
			check(t, write(d, files))
			for _, f := range files {
				if there, err := fs.ReadFile(d, f.Name); err != nil || !bytes.Equal(there, f.Data) {
					t.Errorf("%s: %d octets, %v", f.Name, len(there), err)
				}
			}
			files[0].Data = []byte("not what the name says")
			if err := write(d, files); !errors.Is(err, ErrExists) {
				t.Errorf("created again: %v", err)
			}
		})
	}
}

// TestWhatIsDamagedIsReplacedKilledAtAnyStep, and is whole when that is repeated; what is whole stays so.
func TestWhatIsDamagedIsReplacedKilledAtAnyStep(t *testing.T) {
	for n := 1; n < maxSteps; n++ {
		d, files := damagedNodes(t)
		whole := files[5]
		check(t, d.Create(whole.Name, whole.Data))
		done := crashed(t, "create nodes", d.Path(), "", n)
		if there, err := fs.ReadFile(d, whole.Name); err != nil || !bytes.Equal(there, whole.Data) {
			t.Fatalf("step %d: what was whole has %d octets, %v", n, len(there), err)
		}
		check(t, d.Sweep())
		check(t, d.CreateAll(files))
		for _, f := range files {
			if there, err := fs.ReadFile(d, f.Name); err != nil || !bytes.Equal(there, f.Data) {
				t.Fatalf("step %d: %s has %d octets, %v", n, f.Name, len(there), err)
			}
		}
		if done {
			return
		}
	}
	t.Fatal("never done")
}

// TestFilesAreCreatedTogether: each is synced before it has its name, each directory once, and after that. What is there already is
// not written again, and is not replaced.
func TestFilesAreCreatedTogether(t *testing.T) {
	d := newDir(t)
	var mu sync.Mutex
	steps := map[string]int{}
	step = func(name string) {
		mu.Lock()
		defer mu.Unlock()
		if steps[name]++; name == "place" && steps["sync"] < steps["place"] || name == "sync directory" && steps["place"]%len(manyFiles()) != 0 {
			t.Errorf("%s: %v", name, steps)
		}
	}
	defer func() { step = func(string) {} }()
	check(t, d.CreateAll(nil))
	for _, f := range manyFiles()[:2] { // the directories
		check(t, mkdirAll(d.root, path.Dir(f.Name)))
	}
	clear(steps)
	check(t, d.CreateAll(manyFiles()))
	if steps["write"] != 6 || steps["sync directory"] != 2 {
		t.Errorf("%v", steps)
	}
	clear(steps)
	check(t, d.CreateAll(manyFiles()))
	for _, f := range manyFiles() {
		check(t, d.Create(f.Name, f.Data))
	}
	if steps["write"] != 0 || steps["sync directory"] != 2+6 {
		t.Errorf("what is there is written: %v", steps)
	}
	other := manyFiles()
	other[3].Data = []byte("other")
	if err := d.CreateAll(other); !errors.Is(err, ErrExists) {
		t.Errorf("created again: %v", err)
	}
	if err := d.Create(other[3].Name, other[3].Data); !errors.Is(err, ErrExists) || steps["write"] != 0 {
		t.Errorf("created again: %v, %v", err, steps)
	}
}

func TestADirectoryKeepsTheConditionsOfAStore(t *testing.T) {
	d := newDir(t)
	check(t, d.Create("state", []byte("one")))
	check(t, d.Create("state", []byte("one")))
	if err := d.Create("state", []byte("two")); !errors.Is(err, ErrExists) {
		t.Errorf("created again: %v", err)
	}
	_, first, err := d.Read("state", 10)
	check(t, err)
	second, err := d.Swap(t.Context(), "state", []byte("two"), first)
	check(t, err)
	if now, err := d.Tag("state"); err != nil || now != second || now == first {
		t.Errorf("tag %q, %v, after %q and %q", now, err, first, second)
	}
	if _, err := d.Swap(t.Context(), "state", []byte("six"), first); !errors.Is(err, ErrChanged) {
		t.Errorf("swapped what has changed: %v", err)
	}
	if _, err := d.Swap(t.Context(), "absent", nil, first); !errors.Is(err, ErrChanged) {
		t.Errorf("swapped what is not there: %v", err)
	}
	late := errors.New("too late")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(late)
	if _, err := d.Swap(ctx, "state", []byte("six"), second); !errors.Is(err, late) {
		t.Errorf("swapped too late: %v", err)
	}
	if data, _, err := d.Read("state", 10); err != nil || string(data) != "two" {
		t.Errorf("%q, %v", data, err)
	}
	if _, _, err := d.Read("absent", 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("read what is not there: %v", err)
	}
	check(t, d.Remove("state"))
	check(t, d.Remove("state"))
}

// Between fork and exec, a process that this one starts has every file of it open.
func TestUnlockedThoughAProcessIsBeingStarted(t *testing.T) {
	dir := t.TempDir()
	lock, err := LockDir(dir)
	check(t, err)
	copied, err := syscall.Dup(int(lock.f.Fd()))
	check(t, err)
	defer syscall.Close(copied)
	check(t, lock.Unlock())
	again, err := LockDir(dir)
	check(t, err)
	check(t, again.Unlock())
}

func TestTheLockNamesItsHolderAndDiesWithIt(t *testing.T) {
	dir := t.TempDir()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashJob+"=lock", crashDir+"="+dir)
	stdin, err := cmd.StdinPipe()
	check(t, err)
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	if line, _ := bufio.NewReader(stdout).ReadString('\n'); line != "locked\n" {
		t.Fatalf("the holder said %q", line)
	}
	_, err = LockDir(dir)
	var locked *LockedError
	if !errors.As(err, &locked) || locked.PID != cmd.Process.Pid {
		t.Fatalf("want the holder %d, got %v", cmd.Process.Pid, err)
	}
	check(t, cmd.Process.Kill())
	cmd.Wait()
	lock, err := LockDir(dir)
	check(t, err)
	check(t, lock.Unlock())
}

func TestHostileDirectoriesNeitherHangNorEscape(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	check(t, os.WriteFile(outside, []byte("secret"), 0o600))
	for name, plant := range map[string]func(path string) error{
		"pipe":             func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"link outside":     func(path string) error { return os.Symlink(outside, path) },
		"link inside":      func(path string) error { return os.Symlink("1.root.json", path) },
		"link to itself":   func(path string) error { return os.Symlink(filepath.Base(path), path) },
		"link to a device": func(path string) error { return os.Symlink("/dev/zero", path) },
		"directory":        func(path string) error { return os.Mkdir(path, 0o700) },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.release(1, 100)
			for _, file := range []string{release.TimestampName, release.BlobName(h.m.Current.Zones[0].Blob.SHA256)} {
				path := filepath.Join(h.dir.Path(), file)
				check(t, os.Remove(path))
				check(t, plant(path))
			}
			_, _, err := release.Verify(h.dir, h.root())
			if rule, _ := release.RuleOf(err); rule != release.Unreadable {
				t.Errorf("timestamp: %v", err)
			}
			if _, err := h.dir.OpenBlob(h.m.Current.Zones[0]); err == nil {
				t.Error("blob: opened")
			}
			if h.dir.HasBlob(h.m.Current.Zones[0].Blob) {
				t.Error("blob: said to be there")
			}
		})
	}
	d := newDir(t)
	for _, name := range []string{"../secret", "/etc/passwd", "metadata/../../secret", ""} {
		if _, err := d.Open(name); err == nil {
			t.Errorf("%q opened", name)
		}
	}
}

// What cannot be read is said in words for people: not by the names of the system's calls, openat and statat.
func TestWhyAFileCannotBeRead(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "in"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"none": "stat none: no such file or directory", "in": "open in: not a regular file"} {
		if _, err := ReadFile(dir, name, 10); err == nil || strings.TrimPrefix(err.Error(), "l") != want {
			t.Errorf("%s: %v, want %s", name, err, want)
		}
	}
}
