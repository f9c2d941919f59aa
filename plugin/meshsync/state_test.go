package meshsync

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// served makes a node that has answered from release 1 and holds the switchover to release 2, and ends it.
func served(t *testing.T) (config, *host) {
	t.Helper()
	h, n := answeringNode(t)
	h.stage(2, h.zones(2))
	h.schedule(time.Hour)
	n.waits("confirmation", func(s *status.Node) bool { return s.Confirms.Scheduled != nil })
	n.close()
	return n.config, h
}

// A node that is upgraded goes on from what the version before has promised.
func TestPromiseOfTheVersionBefore(t *testing.T) {
	config, h := served(t)
	at := h.manifest.Next.Switchover.UnixNano()
	must(t, os.WriteFile(filepath.Join(config.dir, "state", promiseFile), fmt.Appendf(nil, "{\"floor\":1,\"scheduled\":{\"number\":2,\"at_ns\":%d}}\n", at), 0o640))
	n := startNode(t, config)
	n.becomes(1)
	want := status.Promise{Number: 2, At: instant.Wall(at), State: status.Committed}
	n.waits("what was promised", func(s *status.Node) bool { return s.Promise == want })
}

// Who does not know what it answered from must not guess (SYNC-G): with any damage to the state a node is silent, whatever comes, and
// says by status and metrics which file it is, and what to do. It writes nothing; once the file is right, a start is as any other.
func TestDamagedStateIsSilence(t *testing.T) {
	put := func(data string) func(string) error {
		return func(path string) error { return os.WriteFile(path, []byte(data), 0o640) }
	}
	half := func(path string) error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		return os.Truncate(path, info.Size()/2)
	}
	for _, c := range []struct {
		name, file string
		damage     func(path string) error
	}{
		{"empty", promiseFile, put("")},
		{"torn", promiseFile, half},
		{"zeros", promiseFile, put("\x00\x00\x00\x00")},
		{"null", promiseFile, put("null\n")},
		{"without a floor", promiseFile, put("{}\n")},
		{"two values", promiseFile, put("{\"floor\":1}\n{\"floor\":2}\n")},
		{"another key", promiseFile, put("{\"floor\":1,\"ceiling\":2}\n")},
		{"negative", promiseFile, put("{\"floor\":-1}\n")},
		{"a switchover below the floor", promiseFile, put("{\"floor\":3,\"scheduled\":{\"number\":2,\"at_ns\":5}}\n")},
		{"a proposal below the floor", promiseFile, put("{\"floor\":3,\"promise\":{\"number\":2,\"at_ns\":5,\"state\":\"proposed\"}}\n")},
		{"a promise in no state", promiseFile, put("{\"floor\":1,\"promise\":{\"number\":2,\"at_ns\":5,\"state\":\"hoped\"}}\n")},
		{"a switchover without an instant", promiseFile, put("{\"floor\":1,\"scheduled\":{\"number\":2}}\n")},
		{"oversize", promiseFile, put(strings.Repeat(" ", 5000))},
		{"gone", promiseFile, os.Remove},
		{"a directory", promiseFile, func(path string) error { return firstError(os.Remove(path), mkdir(path)) }},
		{"a pipe", promiseFile, func(path string) error { return firstError(os.Remove(path), fifo(path)) }},
		{"a link", promiseFile, func(path string) error { return firstError(os.Rename(path, path+".aside"), link(path)) }},
		{"empty", memoryFile, put("")},
		{"torn", memoryFile, half},
		{"no root", memoryFile, put("{\"format\":1,\"root\":\"\"}\n")},
		{"gone", memoryFile, os.Remove},
		{"a pipe", memoryFile, func(path string) error { return firstError(os.Remove(path), fifo(path)) }},
		{"a bit flipped in the manifest", memoryFile, func(path string) error { return editMemory(path, "manifest") }},
		{"a bit flipped in the timestamp", memoryFile, func(path string) error { return editMemory(path, "timestamp") }},
	} {
		t.Run(c.file+" "+c.name, func(t *testing.T) {
			t.Parallel()
			conf, h := served(t)
			dir := filepath.Join(conf.dir, "state")
			must(t, os.CopyFS(dir+".good", os.DirFS(dir)))
			must(t, c.damage(filepath.Join(dir, c.file)))
			before := listing(t, dir)
			n := startNode(t, conf)
			lost := func(s *status.Node) bool {
				return len(s.Silent) == 1 && s.Silent[0].Code == StateLost && strings.Contains(s.Silent[0].Detail, c.file) &&
					strings.Contains(s.Silent[0].Detail, "restore the file") && s.Depot.LastFault.File == c.file && s.Depot.LastFault.Rule == StateLost && s.Clock.Known
			}
			n.waits("it says what is lost", lost)
			h.current(7, h.zones(7))
			for range 20 { // decisions
				last := n.status()
				n.waits("another decision", func(s *status.Node) bool { return s != last })
				if got := n.which(); got != 0 || !lost(n.status()) || n.Ready() {
					t.Fatalf("answers from %d: %+v", got, n.status())
				}
			}
			if _, err := newFollower(conf, machine); err == nil || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) {
				t.Errorf("a second process: %v", err)
			}
			n.close()
			if after := listing(t, dir); after != before {
				t.Errorf("something was written:\n%s, before\n%s", after, before)
			}
			must(t, os.RemoveAll(dir))
			must(t, os.Rename(dir+".good", dir))
			startNode(t, conf).becomes(7)
		})
	}
}

// listing is what lies in a directory: names, and kinds, sizes and times of what is there.
func listing(t *testing.T, dir string) (text string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		info, err := e.Info()
		must(t, err)
		if e.Name() != promiseFile && e.Name() != memoryFile {
			continue // the lock
		}
		text += fmt.Sprintln(e.Name(), info.Mode(), info.Size(), info.ModTime())
	}
	return text
}

// editMemory flips a bit of what is remembered, in the middle of a field, so that it is still JSON and base64.
func editMemory(path, field string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var m map[string]any
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	text := []byte(m[field].(string))
	i := len(text) / 2
	text[i] = map[bool]byte{true: 'B', false: 'A'}[text[i] == 'A']
	m[field] = string(text)
	if data, err = json.Marshal(m); err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o640)
}

// What crashed between the first promise and the first memory starts afresh: nothing was promised.
func TestCrashBeforeTheFirstMemory(t *testing.T) {
	dir, h := nodeDir(t)
	h.current(1, h.zones(1))
	must(t, os.MkdirAll(filepath.Join(dir, "state"), 0o750))
	must(t, os.WriteFile(filepath.Join(dir, "state", promiseFile), []byte("{\"floor\":0}\n"), 0o640))
	startNode(t, newConfig(dir, h)).becomes(1)
}

func TestLeftoversOfCrashesAreRemoved(t *testing.T) {
	conf, _ := served(t)
	left := filepath.Join(conf.dir, "state", ".tmp-0123")
	must(t, os.WriteFile(left, []byte("x"), 0o640))
	startNode(t, conf).becomes(1)
	if _, err := os.Stat(left); err == nil {
		t.Error("it is still there")
	}
}

func TestSecondProcessOnTheSameDirectoryIsRefused(t *testing.T) {
	dir, h := nodeDir(t)
	n := startNode(t, newConfig(dir, h))
	_, err := newFollower(n.config, machine)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprint(os.Getpid())) || !strings.Contains(err.Error(), dir) {
		t.Errorf("error %v", err)
	}
}

// The disk fills up under a node that answers. It goes on and takes a newer lease, confirms no switchover, and is silent
// from it on until there is room for its floor (SYNC-F, SYNC-G).
func TestDiskFull(t *testing.T) {
	dir, h := nodeDir(t)
	disk := smallDisk(t)
	h.current(1, h.zones(1))
	conf := newConfig(dir, h)
	conf.dir = disk
	n := startNode(t, conf)
	n.becomes(1)
	full := filepath.Join(disk, "full")
	fill(t, full)

	h.renew(2 * time.Hour)
	n.faulty(notDurable)
	n.waits("the newer lease", func(s *status.Node) bool { return s.LeaseExpires.Time().Equal(h.leaseEnd()) })
	n.becomes(1)

	h.stage(2, h.zones(2))
	at := h.schedule(time.Second)
	n.keeps(1, time.Until(at)-200*time.Millisecond)
	if s := n.status(); s.Confirms.Scheduled != nil {
		t.Errorf("it confirms %+v, which it cannot promise", s.Confirms)
	}
	n.silentFor(mesh.NotDurable) // it has release 2 and knows that 1 is over, and its floor is not on disk
	if tries := n.status().Depot.Faults[notDurable]; tries > 100 {
		t.Errorf("%d tries to write", tries)
	}
	must(t, os.Remove(full))
	n.becomes(2)
	n.sound()
	n.restart().becomes(2)
}

// With the floor alone refused by the disk, a node is silent rather than without a floor.
func TestPromiseThatCannotBeWritten(t *testing.T) {
	dir, h := nodeDir(t)
	n := startNode(t, newConfig(dir, h))
	n.silentFor(mesh.NoView)
	promise := filepath.Join(dir, "state", promiseFile)
	must(t, os.Remove(promise))
	must(t, mkdir(promise)) // a file cannot be renamed over it
	h.current(1, h.zones(1))
	n.silentFor(mesh.NotDurable)
	n.faulty(notDurable)
	n.triesAgain(notDurable, writeRetry, 1)
	must(t, os.Remove(promise))
	n.becomes(1)
	n.sound()
}

func TestStateDirectoryThatCannotBeWritten(t *testing.T) {
	dir, h := nodeDir(t)
	disk := smallDisk(t)
	conf := newConfig(dir, h)
	conf.dir = disk
	remount(t, disk, "ro")
	_, err := newFollower(conf, machine)
	if err == nil || !strings.Contains(err.Error(), "read-only") || !strings.Contains(err.Error(), disk) {
		t.Errorf("error %v", err)
	}
	remount(t, disk, "rw")
	h.current(1, h.zones(1))
	startNode(t, conf).becomes(1)
}

// fill takes all the room that the disk of path has.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	block := make([]byte, 1024)
	for err == nil {
		_, err = f.Write(block)
	}
}

// crashChild, set to a node's directory, makes the test binary be that node until it is killed.
const crashChild = "MESHSYNC_TEST_NODE"

func TestMain(m *testing.M) {
	if top := os.Getenv(crashChild); top != "" {
		beNode(top)
	}
	if dir := os.Getenv(cacheChild); dir != "" {
		writeCache(dir, os.Getenv(cacheChild+"_STEP"))
	}
	os.Exit(m.Run())
}

// beNode runs a node and writes a line for each release that it answers from, and each switchover confirmed.
func beNode(top string) {
	f, err := newFollower(config{dir: filepath.Join(top, "tyo"), repository: filepath.Join(top, "repository"),
		root: filepath.Join(top, "root.json"), node: "tyo"}, machine)
	if err != nil {
		fmt.Println("error:", err)
		os.Exit(1)
	}
	f.followClock(clockConfig{assume: time.Millisecond})
	var said string
	for {
		var number uint64
		if a := f.answering(); a != nil {
			number = uint64(a.zones.All()[0].Serial())
		}
		line := fmt.Sprintln("answers", number)
		if s := f.shown.Load().Confirms.Scheduled; s != nil {
			line += fmt.Sprintln("confirms", s.Number, int64(s.At))
		}
		if line != said {
			os.Stdout.WriteString(line)
			said = line
		}
	}
}

// TestFloorSurvivesKilling kills a node at random points of a life full of switchovers. It never answers from less than
// it has answered from before, and never forgets a switchover that it confirmed (SYNC-G).
func TestFloorSurvivesKilling(t *testing.T) {
	top := t.TempDir()
	h := newHost(t, top)
	h.current(1, h.zones(1))
	random := rand.New(rand.NewPCG(1, uint64(time.Now().UnixNano())))
	lives := 25
	if testing.Short() {
		lives = 10
	}
	var floor uint64
	next := uint64(1)
	for range lives {
		child, said := startChild(t, top)
		time.Sleep(time.Duration(random.IntN(80)) * time.Millisecond)
		if n := h.manifest.Next; n != nil && time.Now().After(n.Switchover) {
			made := n.Withdrawn()
			made.Switchover = n.Switchover
			h.manifest.Current = &made
		}
		next++
		h.stage(next, h.zones(next))
		time.Sleep(time.Duration(random.IntN(60)) * time.Millisecond)
		at := instant.WallOf(h.schedule(time.Duration(20+random.IntN(100)) * time.Millisecond))
		time.Sleep(time.Duration(random.IntN(160)) * time.Millisecond)
		must(t, child.Process.Kill())
		child.Wait()
		floor = judge(t, said.String(), floor)
		if strings.Contains(said.String(), fmt.Sprintln("confirms", next, int64(at))) {
			promises(t, filepath.Join(top, "tyo", "state"), status.Ref{Number: next, At: at})
		}
	}
	if floor < uint64(lives)/4 {
		t.Errorf("it got no further than release %d", floor)
	}
}

func startChild(t *testing.T, top string) (*exec.Cmd, *strings.Builder) {
	t.Helper()
	said := &strings.Builder{}
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), crashChild+"="+top)
	child.Stdout = said
	must(t, child.Start())
	return child, said
}

// judge reads what one life said, and returns the highest release that it answered from.
func judge(t *testing.T, said string, floor uint64) uint64 {
	t.Helper()
	for line := range strings.Lines(said) {
		var number uint64
		if strings.HasPrefix(line, "error") {
			t.Fatal(said)
		}
		if _, err := fmt.Sscanf(line, "answers %d\n", &number); err != nil || number == 0 {
			continue
		}
		if number < floor {
			t.Fatalf("answers from %d after %d:\n%s", number, floor, said)
		}
		floor = number
	}
	return floor
}

// promises checks that a switchover which was confirmed is on disk, or what came of it.
func promises(t *testing.T, dir string, confirmed status.Ref) {
	t.Helper()
	d, err := (&state{dir: dir}).readPromise()
	must(t, err)
	if d.Floor < confirmed.Number && d.Promise.Ref() != confirmed {
		t.Fatalf("%+v was confirmed, on disk is floor %d, switchover %+v", confirmed, d.Floor, d.Promise)
	}
}
