package receive

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/primarytest"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/internal/xfr"
)

// zoneDir is a directory of zone files that a Receiver follows.
type zoneDir struct {
	t    *testing.T
	path string
	d    Directory
	dir  string // the Receiver's
}

func newZoneDir(t *testing.T, d Directory) *zoneDir {
	d.Path = filepath.Join(t.TempDir(), "zones")
	if err := os.Mkdir(d.Path, 0o755); err != nil {
		t.Fatal(err)
	}
	if d.Pattern == "" {
		d.Pattern = "*.zone"
	}
	if d.Limit == 0 {
		d.Limit = defaultMassGone
	}
	return &zoneDir{t: t, path: d.Path, d: d, dir: t.TempDir()}
}

func (z *zoneDir) config() *Config {
	c := defaults()
	c.Directories = []Directory{z.d}
	return c
}

func (z *zoneDir) put(name, text string) {
	z.t.Helper()
	temp := filepath.Join(z.path, ".new")
	if err := os.WriteFile(temp, []byte(text), 0o644); err != nil {
		z.t.Fatal(err)
	}
	if err := os.Rename(temp, filepath.Join(z.path, name)); err != nil {
		z.t.Fatal(err)
	}
}

func (z *zoneDir) remove(names ...string) {
	z.t.Helper()
	for _, name := range names {
		if err := os.Remove(filepath.Join(z.path, name)); err != nil {
			z.t.Fatal(err)
		}
	}
}

func (z *zoneDir) fault(r *Receiver, name string) string {
	return r.Faults()[Fault{Source: "directory " + z.path, What: filepath.Join(z.path, name)}]
}

func small(origin string, serial uint32) string {
	return primarytest.ZoneText(origin, serial, 2, int(serial))
}

// Files that come, change and are wrong, while a Receiver runs: each complete one is told of once, and a wrong one leaves
// what was there before and is named until it is right.
func TestFollowsDirectory(t *testing.T) {
	t.Parallel()
	z := newZoneDir(t, Directory{})
	z.put("a.zone", small("a.test.", 1))
	z.put("README", "no zone\n")
	z.put(".hidden.zone", "no zone\n")
	r, told, stop := receiver(t, z.config(), z.dir)
	u := told.next(t)
	if u.Origin != "a.test." || u.How != File || u.Source != filepath.Join(z.path, "a.zone") {
		t.Fatalf("%+v", u)
	}
	onDisk(t, u, small("a.test.", 1))

	z.put("b.zone", small("b.test.", 1))
	if u = told.next(t); u.Origin != "b.test." {
		t.Fatalf("%+v", u)
	}
	z.put("a.zone", small("a.test.", 2))
	if u = told.next(t); u.Origin != "a.test." || u.Serial != 2 {
		t.Fatalf("%+v", u)
	}

	for text, why := range map[string]string{
		strings.TrimSuffix(small("a.test.", 3), "\n") + " (":               "syntax",
		small("a.test.", 3) + "www A 192.0.2.1\n":                          "cname-and-other-data",
		small("a.test.", 1):                                                "serial 1 is not above 2",
		strings.Replace(small("a.test.", 2), "192.0.2.1", "192.0.2.99", 1): "it has changed, and serial 2 has not",
		small("b.test.", 3):                                                "zone b.test. is in b.zone too",
		"$INCLUDE ../outside\n" + small("a.test.", 4):                      "../outside",
	} {
		z.put("a.zone", text)
		lab.WaitFor(t, "the fault is named: "+why, func() bool { return strings.Contains(z.fault(r, "a.zone"), why) })
	}
	z.put("a.zone", small("a.test.", 5))
	if u = told.next(t); u.Origin != "a.test." || u.Serial != 5 {
		t.Fatalf("%+v", u)
	}
	lab.WaitFor(t, "no fault is left", func() bool { return len(r.Faults()) == 0 })

	// Deleted, and kept.
	z.remove("b.zone")
	lab.WaitFor(t, "it is said that a file is gone", func() bool {
		return strings.Contains(r.Faults()[Fault{Source: "directory " + z.path, What: z.path}], "b.test.")
	})
	stop()
	_, told, _ = receiver(t, z.config(), z.dir)
	for _, origin := range []string{"a.test.", "b.test."} {
		if u := told.next(t); u.Origin != origin || u.How != Kept {
			t.Errorf("%+v", u)
		}
	}
}

// A file that is written in place counts when its writer has closed it, however long that takes.
func TestFileBeingWritten(t *testing.T) {
	t.Parallel()
	z := newZoneDir(t, Directory{})
	r, told, _ := receiver(t, z.config(), z.dir)
	lab.WaitFor(t, "it runs", func() bool { return r.Zones() != nil })
	f, err := os.Create(filepath.Join(z.path, "a.zone"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	text := small("a.test.", 1)
	half := strings.Index(text, "host-1")
	f.WriteString(text[:half]) // ends with a newline, and is a zone
	if openForWriting(open(t, f.Name())) {
		lab.WaitFor(t, "it is said that the file is being written", func() bool { return strings.Contains(z.fault(r, "a.zone"), "being written") })
	} else {
		testenv.Missing(t, "this file system grants no leases, so nobody can tell who writes")
	}
	f.WriteString(text[half:])
	f.Close()
	u := told.next(t)
	onDisk(t, u, text)
	select {
	case u := <-told:
		t.Errorf("told of %+v", u)
	default:
	}
	lab.WaitFor(t, "no fault is left", func() bool { return len(r.Faults()) == 0 })
}

func open(t *testing.T, name string) *os.File {
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// A directory that is a link is taken as what it points to, whole, when the link is swapped; an included file counts
// with the one that includes it.
func TestDirectoryThatIsSwapped(t *testing.T) {
	t.Parallel()
	z := newZoneDir(t, Directory{})
	parent := filepath.Dir(z.path)
	version := func(n uint32) string {
		dir := filepath.Join(parent, fmt.Sprint("v", n))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"a.zone": small("a.test.", n), "b.zone": small("b.test.", n) + "$INCLUDE more\n", "more": "more A 192.0.2.1\n"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	point := func(dir string) {
		link := filepath.Join(parent, "link")
		if err := os.Symlink(dir, link); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(link, z.path); err != nil {
			t.Fatal(err)
		}
	}
	os.Remove(z.path)
	point(version(1))
	r, told, _ := receiver(t, z.config(), z.dir)
	both := func(serial uint32) {
		t.Helper()
		seen := map[string]uint32{}
		for range 2 {
			u := told.next(t)
			seen[u.Origin] = u.Serial
		}
		if seen["a.test."] != serial || seen["b.test."] != serial {
			t.Fatalf("told of %v, want both at %d", seen, serial)
		}
	}
	both(1)
	second := version(2)
	point(second)
	both(2)

	// The serial is in the including file, so that another one of the included alone is no new version, but is seen.
	if err := os.WriteFile(filepath.Join(second, "more"), []byte("more A 192.0.2.2\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	lab.WaitFor(t, "it is seen that the included file has changed", func() bool { return strings.Contains(z.fault(r, "b.zone"), "serial 2 has not") })

	os.Remove(z.path)
	lab.WaitFor(t, "it is said that the directory is gone", func() bool {
		return strings.Contains(r.Faults()[Fault{Source: "directory " + z.path, What: z.path}], "no such file")
	})
	for _, s := range r.Zones() {
		if s.Serial == nil || *s.Serial != 2 {
			t.Errorf("%+v", s)
		}
	}
}

// What is no file of the directory is named, and taken once it is one.
func TestFilesThatCannotBeRead(t *testing.T) {
	t.Parallel()
	z := newZoneDir(t, Directory{})
	outside := filepath.Join(t.TempDir(), "outside")
	if err := os.WriteFile(outside, []byte(small("a.test.", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, to := range map[string]string{"out.zone": outside, "nowhere.zone": "nowhere", "in.zone": "data"} {
		if err := os.Symlink(to, filepath.Join(z.path, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(z.path, "dir.zone"), 0o755); err != nil {
		t.Fatal(err)
	}
	z.put("data", small("b.test.", 1))
	r, told, _ := receiver(t, z.config(), z.dir)
	if u := told.next(t); u.Origin != "b.test." {
		t.Errorf("%+v", u)
	}
	for name, why := range map[string]string{"out.zone": "out of the directory", "nowhere.zone": "a link to nowhere", "dir.zone": "not a regular file"} {
		lab.WaitFor(t, name+" is named", func() bool { return strings.Contains(z.fault(r, name), why) })
	}
	z.put("nowhere", small("c.test.", 1))
	if u := told.next(t); u.Origin != "c.test." {
		t.Errorf("%+v", u)
	}
	lab.WaitFor(t, "it is named no more", func() bool { return z.fault(r, "nowhere.zone") == "" })
}

// A file whose name does not fit is not taken, which is said once; and what is wrong with one that fits is said by its line.
func TestNamesThatDoNotFit(t *testing.T) {
	t.Parallel()
	z := newZoneDir(t, Directory{})
	z.put("a.zone", small("a.test.", 1))
	z.put("b.test", small("b.test.", 1))
	z.put("README", "none")
	z.put(".c.zone.swp", "none")
	z.put("bad.zone", "$ORIGIN bad.test.\n@ 300 SOA ns1 host 1 7200 3600 1209600 300\n@ 300 NS ns1\nns1 300 A 192.0.2.300\n")
	z.put("empty.zone", "")
	var log bytes.Buffer
	r, err := New(z.config(), Options{Zones: filepath.Join(z.dir, "zones"), State: filepath.Join(z.dir, "state"), Now: time.Now,
		Log: slog.New(slog.NewTextHandler(&log, nil)), Updated: func(Update) {}})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Refresh(t.Context(), RefreshOptions{}); err != nil {
		t.Fatal(err)
	}
	if said := log.String(); strings.Count(said, `files="README b.test"`) != 1 {
		t.Errorf("the log:\n%s", said)
	}
	for name, want := range map[string]string{
		"bad.zone":   "the zone is refused; line 4: syntax: A: 192.0.2.300 is no IPv4 address",
		"empty.zone": "the zone is refused; soa: no SOA record, and so no origin: is this a whole zone file?",
	} {
		if got := z.fault(r, name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

// One file that is deleted withdraws its zone, where that is wanted; many at once do not, however they go, unless an operator
// says so.
func TestFilesThatAreGone(t *testing.T) {
	t.Parallel()
	z := newZoneDir(t, Directory{Withdraw: true, ByName: true})
	var names []string
	for i := range 20 {
		names = append(names, fmt.Sprintf("z%02d.test.zone", i))
		z.put(names[i], small(strings.TrimSuffix(names[i], "zone"), 1))
	}
	if got := round(t, z.config(), z.dir, RefreshOptions{}); len(got.updates) != 20 || len(got.faults) > 0 {
		t.Fatalf("%+v", got)
	}
	withdrawn := func(got rounded) (n int) {
		for _, u := range got.updates {
			if u.How == Withdrawn {
				n++
			}
		}
		return n
	}
	z.remove(names[:2]...)
	if got := round(t, z.config(), z.dir, RefreshOptions{}); withdrawn(got) != 2 || len(got.zones) != 18 || len(got.faults) > 0 {
		t.Fatalf("%+v", got)
	}
	z.remove(names[2:]...)
	got := round(t, z.config(), z.dir, RefreshOptions{})
	if withdrawn(got) != 0 || len(got.zones) != 18 || !strings.Contains(fmt.Sprint(got.faults), "18 of 18 zones are gone at once") {
		t.Fatalf("%+v", got)
	}
	if got := round(t, z.config(), z.dir, RefreshOptions{Withdraw: true}); withdrawn(got) != 18 || len(got.zones) != 0 || len(got.faults) > 0 {
		t.Fatalf("%+v", got)
	}
	if left, _ := filepath.Glob(filepath.Join(z.dir, "*", "*test*")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// A zone that is configured by name, or in two directories, comes from one place only, and the other is named.
func TestZoneInTwoPlaces(t *testing.T) {
	t.Parallel()
	a, b := newZoneDir(t, Directory{}), newZoneDir(t, Directory{})
	a.put("x.zone", small("x.test.", 1))
	b.put("x.zone", small("x.test.", 2))
	b.put("named.zone", small("named.test.", 2))
	c := a.config()
	c.Directories = append(c.Directories, b.d)
	c.Zones = []Zones{{[]string{"named.test."}, &Group{Servers: []xfr.Primary{{Address: testenv.Local(t)}}}}}
	r, err := New(c, Options{Zones: filepath.Join(a.dir, "zones"), State: filepath.Join(a.dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := r.Refresh(ctx, RefreshOptions{}); err != nil {
		t.Fatal(err)
	}
	faults := fmt.Sprint(r.Faults())
	if !strings.Contains(faults, "zone named.test. comes from zones already") || !strings.Contains(faults, "zone x.test. comes from directory") || len(r.Faults()) != 2 {
		t.Error(faults)
	}
}

// TestRelativeFilesInADirectory: the file's name gives the origin where nothing else does, and $INCLUDE takes an absolute path below
// the directory, and no other.
func TestRelativeFilesInADirectory(t *testing.T) {
	t.Parallel()
	z := newZoneDir(t, Directory{Pattern: "db.*"})
	if err := os.Mkdir(filepath.Join(z.path, "common"), 0o755); err != nil {
		t.Fatal(err)
	}
	z.put("common/hosts", "www A 192.0.2.1\n")
	relative := "$TTL 300\n@ IN SOA ns mail 1 7200 3600 1209600 300\n@ IN NS ns\nns IN A 192.0.2.1\n"
	z.put("db.a.test", relative+"$INCLUDE "+filepath.Join(z.path, "common", "hosts")+"\n")
	z.put("db.b.test", relative+"$INCLUDE /etc/hosts\n")
	r, told, stop := receiver(t, z.config(), z.dir)
	defer stop()
	u := told.next(t)
	if u.Origin != "a.test." || u.Records != 4 {
		t.Errorf("%+v", u)
	}
	want := "$INCLUDE /etc/hosts is not allowed: only files below " + z.path
	lab.WaitFor(t, "the other file's fault is said", func() bool { return strings.Contains(z.fault(r, "db.b.test"), want) })
}

// What is right and cannot be written is this host's fault, under one text, and is taken by itself once it can, though the file does not
// change again.
func TestWhatCannotBeWrittenIsTheHosts(t *testing.T) {
	t.Parallel()
	z := newZoneDir(t, Directory{})
	z.put("a.zone", small("a.test.", 1))
	r, told, _ := receiver(t, z.config(), z.dir)
	told.next(t)
	zones, away := filepath.Join(z.dir, "zones"), filepath.Join(z.dir, "away")
	if err := os.Rename(zones, away); err != nil {
		t.Fatal(err)
	}
	z.put("a.zone", small("a.test.", 2))
	place := Fault{Source: "this host's disk", What: filepath.Join(z.path, "a.zone")}
	lab.WaitFor(t, "the fault is the host's", func() bool { return r.Faults()[place] == "open "+zones+": no such file or directory" })
	if why := z.fault(r, "a.zone"); why != "" {
		t.Errorf("the file is called wrong: %s", why)
	}
	if err := os.Rename(away, zones); err != nil {
		t.Fatal(err)
	}
	if u := told.next(t); u.Serial != 2 {
		t.Errorf("%+v", u)
	}
	lab.WaitFor(t, "the fault is over", func() bool { return len(r.Faults()) == 0 })
}

// TestSomeFilesOfMany: a file that an event is about is read without a look at the others, and what tells of others has all of them looked at.
func TestSomeFilesOfMany(t *testing.T) {
	t.Parallel()
	z, other := newZoneDir(t, Directory{}), newZoneDir(t, Directory{})
	other.put("other.zone", small("other.test.", 1))
	r, told, stop := receiver(t, other.config(), z.dir) // which does not follow z: this test looks at it
	defer stop()
	told.next(t)
	w := newFolder(r, z.d)
	w.plain, w.settle = true, 0
	some := func(want bool, names ...string) {
		t.Helper()
		news := map[string]bool{}
		for _, name := range names {
			news[name] = true
		}
		if got := w.some(t.Context(), news); got && len(news) > 0 { // they may be about to change
			if got = w.some(t.Context(), news); got != want || len(news) > 0 {
				t.Errorf("%v: %v, want %v; left %v", names, got, want, news)
			}
		} else if got != want {
			t.Errorf("%v: %v, want %v", names, got, want)
		}
	}
	z.put("a.zone", small("a.test.", 1))
	z.put("b.zone", small("b.test.", 1))
	some(true, "b.zone")
	if u := told.next(t); u.Origin != "b.test." || w.files["a.zone"] != nil {
		t.Errorf("told of %s, looked at %v", u.Origin, w.files)
	}
	z.put("b.zone", small("b.test.", 2))
	some(true, "b.zone", "gone.zone")
	if u := told.next(t); u.Origin != "b.test." || u.Serial != 2 {
		t.Errorf("told of %s %d", u.Origin, u.Serial)
	}
	z.put("c.zone", small("b.test.", 3))
	some(true, "c.zone")
	if why := r.Faults()[Fault{Source: w.owner, What: filepath.Join(z.path, "c.zone")}]; !strings.Contains(why, "zone b.test. is in b.zone too") {
		t.Errorf("a zone that two files have: %q", why)
	}
	z.put("b.zone", small("d.test.", 1))
	some(false, "b.zone") // c.zone may be taken now
	told.next(t)
	some(true, "c.zone")
	if u := told.next(t); u.Origin != "b.test." || u.Serial != 3 {
		t.Errorf("told of %s %d", u.Origin, u.Serial)
	}
	z.remove("b.zone")
	some(false, "b.zone")
	if err := os.Symlink("a.zone", filepath.Join(z.path, "link.zone")); err != nil {
		t.Fatal(err)
	}
	some(false, "link.zone")
	z.put("part", "part A 192.0.2.1\n")
	z.put("e.zone", small("e.test.", 1)+"$INCLUDE part\n")
	some(false, "e.zone") // part may change by itself
	if told.next(t); w.plain {
		t.Error("a file includes another, and each is taken to change by itself")
	}
}

// looking is a folder that another Receiver than that of its directory has, with events that a test makes.
func looking(t *testing.T, z *zoneDir) (w *folder, told updates, event func(name string)) {
	other := newZoneDir(t, Directory{})
	other.put("other.zone", small("other.test.", 1))
	r, told, _ := receiver(t, other.config(), z.dir)
	told.next(t)
	w = newFolder(r, z.d)
	w.watcher = &fsnotify.Watcher{Events: make(chan fsnotify.Event), Errors: make(chan error)}
	return w, told, func(name string) {
		w.watcher.Events <- fsnotify.Event{Name: filepath.Join(z.path, name), Op: fsnotify.Create}
	}
}

// TestFilesThatAreSavedTogetherSettleTogether: each is looked at when it changes, and not when the one before has settled; until all have, the
// Receiver says so.
func TestFilesThatAreSavedTogetherSettleTogether(t *testing.T) {
	t.Parallel()
	z := newZoneDir(t, Directory{})
	w, told, event := looking(t, z)
	w.plain, w.settle = true, time.Hour
	ctx, cancel := context.WithCancel(t.Context())
	var resting sync.WaitGroup
	defer resting.Wait()
	defer cancel()
	resting.Go(func() { w.rest(ctx, nil) })
	for i, name := range []string{"a.zone", "b.zone", "c.zone"} {
		if z.put(name, small(name[:1]+".test.", 1)); w.r.Settling() != (i > 0) {
			t.Errorf("before %s changes, something settles: %v", name, w.r.Settling())
		}
		event(name)
		lab.WaitFor(t, name+" settles", func() bool { return w.r.settling.Load() == int64(i+1) })
	}
	cancel()
	resting.Wait()
	names := map[string]bool{"a.zone": true, "b.zone": true, "c.zone": true}
	if w.settle = 0; !w.some(t.Context(), names) || len(names) > 0 || w.r.Settling() {
		t.Errorf("%v settle, and it is said: %v", names, w.r.Settling())
	}
	for range 3 {
		told.next(t)
	}
	z.put("a.zone", small("a.test.", 2))
	z.put("d.zone", small("d.test.", 1))
	if _, busy := w.scan(t.Context()); len(busy) != 2 || w.r.settling.Load() != 2 {
		t.Errorf("%v settle, and it is said of %d", busy, w.r.settling.Load())
	}
	z.remove("a.zone")
	z.put("d.zone", small("d.test.", 2))
	if _, busy := w.scan(t.Context()); len(busy) != 1 || w.r.settling.Load() != 1 {
		t.Errorf("%v settle, and it is said of %d", busy, w.r.settling.Load())
	}
}

// TestNothingIsReadBeforeItHasSettled: a file that somebody writes in pieces is not read though others have all files looked at meanwhile.
func TestNothingIsReadBeforeItHasSettled(t *testing.T) {
	t.Parallel()
	z := newZoneDir(t, Directory{})
	w, told, _ := looking(t, z)
	w.plain, w.settle = true, time.Hour
	z.put("a.zone", small("a.test.", 1))
	if settled, busy := w.scan(t.Context()); settled || !slices.Equal(busy, []string{"a.zone"}) || !w.r.Settling() {
		t.Fatalf("settled %v, busy %v", settled, busy)
	}
	names := map[string]bool{"a.zone": true}
	if !w.some(t.Context(), names) || !names["a.zone"] || !w.r.Settling() {
		t.Error("it is read at once")
	}
	w.settle = 0
	if !w.some(t.Context(), names) || names["a.zone"] || w.r.Settling() {
		t.Error("it is not read")
	}
	if u := told.next(t); u.Origin != "a.test." {
		t.Errorf("told of %s", u.Origin)
	}
}

// TestADirectoryIsGoneThroughAtTheBeginning: until then the Receiver says that zones are to come, though one file is written for ever.
func TestADirectoryIsGoneThroughAtTheBeginning(t *testing.T) {
	t.Parallel()
	z := newZoneDir(t, Directory{})
	r, err := New(z.config(), Options{Zones: filepath.Join(t.TempDir(), "zones"), State: filepath.Join(t.TempDir(), "received")})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "b", "c"} {
		z.put(name+".zone", small(name+".test.", 1))
	}
	w := newFolder(r, z.d)
	if _, busy := w.scan(t.Context()); len(busy) != 3 || !r.Beginning() {
		t.Fatalf("%v settle, and it begins: %v", busy, r.Beginning())
	}
	w, told, _ := looking(t, z)
	lab.WaitFor(t, "the receiver's own directory was gone through", func() bool { return !w.r.Beginning() })
	w.r.unread.Store(1)
	w.settle, w.poll = 20*time.Millisecond, 50*time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	serial := uint32(2)
	running.Go(func() {
		for ; ctx.Err() == nil; serial++ {
			z.put("a.zone", small("a.test.", serial))
			time.Sleep(time.Millisecond)
		}
	})
	running.Go(func() { w.watch(ctx, func() {}) })
	lab.WaitFor(t, "the directory was gone through", func() bool { return !w.r.Beginning() })
	seen := map[string]bool{}
	for !seen["b.test."] || !seen["c.test."] {
		seen[told.next(t).Origin] = true
	}
}

// TestWhoeverWritesForLongHasOneFileLookedAt, and nothing else; it is no file that others wait for. When it is written, all are scanned again.
func TestWhoeverWritesForLongHasOneFileLookedAt(t *testing.T) {
	t.Parallel()
	z := newZoneDir(t, Directory{})
	w, told, event := looking(t, z)
	w.settle, w.poll = 0, time.Hour
	f, err := os.Create(filepath.Join(z.path, "a.zone"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if !openForWriting(open(t, f.Name())) {
		testenv.Missing(t, "this file system grants no leases, so nobody can tell who writes")
	}
	scan := func() (bool, []string) { return w.scan(t.Context()) }
	scan()
	settled, busy := scan()
	scan()
	if settled || !slices.Equal(busy, []string{"a.zone"}) || !w.plain {
		t.Fatalf("settled %v, busy %v", settled, busy)
	}
	z.put("b.zone", small("b.test.", 1)) // no event tells of it
	rested := make(chan bool)
	w.settle = time.Millisecond
	go func() { w.rest(t.Context(), busy); close(rested) }()
	z.put("c.zone", small("c.test.", 1))
	event("c.zone")
	if u := told.next(t); u.Origin != "c.test." {
		t.Errorf("told of %s", u.Origin)
	}
	if w.r.Settling() {
		t.Error("a file that is being written is waited for")
	}
	select {
	case <-rested:
		t.Error("all files are scanned while one is being written")
	default:
	}
	if _, err := f.WriteString(small("a.test.", 1)); err != nil {
		t.Fatal(err)
	}
	f.Close()
	if u := told.next(t); u.Origin != "a.test." {
		t.Errorf("told of %s", u.Origin)
	}
	<-rested
	if w.files["b.zone"] != nil {
		t.Error("a file was looked at of which no event told")
	}
}

// TestADirectoryOfManyFiles: files that come, change and are gone in a directory of more than are looked at for each event.
func TestADirectoryOfManyFiles(t *testing.T) {
	t.Parallel()
	z := newZoneDir(t, Directory{Withdraw: true, Limit: 100})
	for i := range manyFiles {
		if err := os.WriteFile(filepath.Join(z.path, fmt.Sprintf("bad%d.zone", i)), []byte("no zone\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	z.put("a.zone", small("a.test.", 1))
	z.put("b.zone", small("b.test.", 1))
	_, told, stop := receiver(t, z.config(), z.dir)
	defer stop()
	want := func(origin string, serial uint32, how How) {
		t.Helper()
		if u := told.next(t); u.Origin != origin || u.Serial != serial || u.How != how {
			t.Errorf("told of %s %d by %s, want %s %d by %s", u.Origin, u.Serial, u.How, origin, serial, how)
		}
	}
	want("a.test.", 1, File)
	want("b.test.", 1, File)
	for serial := uint32(2); serial < 5; serial++ {
		z.put("b.zone", small("b.test.", serial))
		want("b.test.", serial, File)
	}
	z.put("c.zone", small("c.test.", 1))
	want("c.test.", 1, File)
	z.remove("b.zone")
	want("b.test.", 4, Withdrawn)
}

// TestFilesThatAreReadTogether, of which some are no zones, some have the same zone, and one is large: each is told of as if it came alone, a zone is in
// the file whose name comes first, and what is kept is there for the next start.
func TestFilesThatAreReadTogether(t *testing.T) {
	t.Parallel()
	z := newZoneDir(t, Directory{})
	const count = 3*filesAtOnce + 5
	want := map[string]uint32{}
	for i := range count {
		name, origin := fmt.Sprintf("f%03d.zone", i), fmt.Sprintf("z%03d.test.", i)
		switch {
		case i%10 == 3:
			z.put(name, "no zone\n")
		case i%10 == 7: // as the one before
			z.put(name, small(fmt.Sprintf("z%03d.test.", i-1), 9))
		case i == filesAtOnce:
			z.put(name, primarytest.ZoneText(origin, 1, 5000, 1))
			want[origin] = 1
		default:
			z.put(name, small(origin, uint32(1+i%5)))
			want[origin] = uint32(1 + i%5)
		}
	}
	for start := range 2 {
		c := z.config()
		r, err := New(c, Options{Zones: filepath.Join(z.dir, "zones"), State: filepath.Join(z.dir, "state")})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := r.Refresh(ctx, RefreshOptions{}); err != nil {
			t.Fatal(err)
		}
		got := map[string]uint32{}
		for _, s := range r.Zones() {
			if s.Serial != nil {
				got[s.Zone] = *s.Serial
			}
		}
		if !maps.Equal(got, want) {
			t.Errorf("start %d: %v", start, got)
		}
		for i := range count {
			name, why := fmt.Sprintf("f%03d.zone", i), ""
			switch i % 10 {
			case 3:
				why = "no zone"
			case 7:
				why = fmt.Sprintf("zone z%03d.test. is in f%03d.zone too", i-1, i-1)
			}
			if is := z.fault(r, name); (is == "") != (why == "") || i%10 == 7 && is != why {
				t.Errorf("start %d: %s: %q, want %q", start, name, is, why)
			}
		}
		for origin := range want {
			if _, err := os.Stat(r.store.path(origin, false)); err != nil {
				t.Error(err)
			}
		}
		if left, _ := filepath.Glob(filepath.Join(z.dir, "*", ".*")); len(left) > 1 { // the lock
			t.Errorf("left are %v", left)
		}
	}
}
