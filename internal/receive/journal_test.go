package receive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/primarytest"
	"github.com/coredns-anycast/coredns-anycast/internal/refresh"
	"github.com/coredns-anycast/coredns-anycast/internal/xfr"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// versions are zones, each of serial one above the one before.
func versions(t testing.TB, n int) (list []*zone.Zone) {
	for serial := range uint32(n) {
		list = append(list, primarytest.Parsed(t, "example.org.", primarytest.ZoneText("example.org.", serial+1, 300, int(serial))))
	}
	return list
}

// journaled is a store that holds the last of some versions, of which it has the text of the first, and the records after each.
func journaled(t testing.TB, list []*zone.Zone) (*store, []record) {
	dir := t.TempDir()
	s, err := openStore(filepath.Join(dir, "zones"), filepath.Join(dir, "state"))
	if err != nil {
		t.Fatal(err)
	}
	rec := record{Origin: "example.org.", Owner: "zones", From: "192.0.2.1:53", How: AXFR, Contact: time.Unix(1e9, 0).UTC()}
	if _, err := s.put(&rec, list[0], ""); err != nil {
		t.Fatal(err)
	}
	rec.Journal = newJournal() // as if it were large
	if err := s.note(rec); err != nil {
		t.Fatal(err)
	}
	after := []record{rec}
	for i, z := range list[1:] {
		d := zone.Difference(list[i], z, 1<<20)
		rec.How, rec.Contact = IXFR, rec.Contact.Add(time.Hour)
		if err := s.add(&rec, z, d); err != nil {
			t.Fatal(err)
		}
		after = append(after, rec)
	}
	return s, after
}

// recovered is what a store holds after a start: nil if nothing.
func recovered(t *testing.T, s *store) (*zone.Zone, record) {
	t.Helper()
	list, err := s.records()
	if err != nil || len(list) > 1 {
		t.Fatal(list, err)
	}
	if len(list) == 0 {
		return nil, record{}
	}
	rec := list[0]
	_, whole, err := s.recover(&rec)
	if err != nil {
		t.Fatal(err)
	}
	if !whole {
		return nil, record{}
	}
	if rec.Journal.Steps > 0 {
		t.Errorf("steps are left: %+v", rec.Journal)
	}
	z, err := s.load(rec)
	if err != nil {
		t.Fatal(err)
	}
	return z, rec
}

// TestAJournalIsWhatBecameOfAText: what is held is the zone after its steps, in the run and after a start.
func TestAJournalIsWhatBecameOfAText(t *testing.T) {
	t.Parallel()
	list := versions(t, 4)
	s, after := journaled(t, list)
	for i, rec := range after {
		z, err := s.load(rec)
		if err != nil || rec.Serial != uint32(i+1) {
			t.Fatal(rec, err)
		}
		primarytest.SameZone(t, z, list[i])
	}
	z, rec := recovered(t, s)
	primarytest.SameZone(t, z, list[3])
	if rec.Serial != 4 || !rec.Contact.Equal(after[3].Contact) || rec.SHA256 == after[0].SHA256 || rec.How != IXFR {
		t.Errorf("%+v", rec)
	}
}

// TestAJournalThatIsTornOrDamaged: cut anywhere, or with another octet, it counts up to the last step that is whole; and if the record says
// that there were more, nothing counts.
func TestAJournalThatIsTornOrDamaged(t *testing.T) {
	t.Parallel()
	list := versions(t, 3)
	s, after := journaled(t, list)
	whole, err := os.ReadFile(s.journal("example.org."))
	if err != nil || int64(len(whole)) != after[2].Journal.Octets {
		t.Fatal(len(whole), after[2].Journal, err)
	}
	first := int(after[1].Journal.Octets)
	for _, at := range []int{0, 1, 3, 4, stepHead - 1, stepHead, stepHead + 1, first / 2, first - 1, first, first + 1, first + 4, first + stepHead, (first + len(whole)) / 2, len(whole) - 1} {
		want := 0
		if at >= first {
			want = 1
		}
		flipped := bytes.Clone(whole)
		flipped[at] ^= 1
		for how, octets := range map[string][]byte{"cut": whole[:at], "another octet": flipped, "cut, and filled with zeros": append(bytes.Clone(whole[:at]), make([]byte, len(whole)-at)...)} {
			for noted, held := range map[int]bool{0: true, want: true, want + 1: false} {
				rec := after[0]
				put := func() error {
					if _, err := s.put(&rec, list[0], ""); err != nil {
						return err
					}
					rec.Journal.Name = after[0].Journal.Name // the text as it was, again
					if noted > 0 {
						rec = after[noted]
					}
					return s.note(rec)
				}
				if err := put(); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(s.journal("example.org."), octets, 0o644); err != nil {
					t.Fatal(err)
				}
				z, _ := recovered(t, s)
				if (z != nil) != held {
					t.Errorf("%s at %d, with %d steps on record: held %v", how, at, noted, z != nil)
				} else if z != nil {
					primarytest.SameZone(t, z, list[want])
				}
			}
		}
	}
}

// TestAStepAfterATornOne is written over it.
func TestAStepAfterATornOne(t *testing.T) {
	t.Parallel()
	list := versions(t, 3)
	s, after := journaled(t, list[:2])
	rec := after[1]
	f, err := os.OpenFile(s.journal(rec.Origin), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, strings.Repeat("torn", 100_000))
	f.Close()
	if err := s.add(&rec, list[2], zone.Difference(list[1], list[2], 1<<20)); err != nil {
		t.Fatal(err)
	}
	z, _ := recovered(t, s)
	primarytest.SameZone(t, z, list[2])
}

// TestKilledBetweenTextAndRecord: a text is written anew over a journal in three steps: text, record, and the journal goes. After each
// of them what is held is the old zone, the new one, or nothing, which is received anew: never the new text with the old steps.
func TestKilledBetweenTextAndRecord(t *testing.T) {
	t.Parallel()
	list := versions(t, 3)
	s, after := journaled(t, list[:2])
	old := after[1]
	journal, err := os.ReadFile(s.journal(old.Origin))
	if err != nil {
		t.Fatal(err)
	}
	rec := old
	if _, err := s.put(&rec, list[2], ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.journal(old.Origin), journal, 0o644); err != nil { // it is there yet
		t.Fatal(err)
	}
	z, _ := recovered(t, s)
	primarytest.SameZone(t, z, list[2])

	for _, held := range []record{after[0], old} { // the record is the old one, as it was written with the text, or since
		if err := os.WriteFile(s.journal(old.Origin), journal, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := s.note(held); err != nil {
			t.Fatal(err)
		}
		if z, _ := recovered(t, s); z != nil {
			t.Errorf("serial %d is held, of a text that is not on record", z.Serial())
		}
	}

	rec = after[0] // the very same text again has another name: the steps from then count for nothing
	if _, err := s.put(&rec, list[0], ""); err != nil {
		t.Fatal(err)
	}
	rec.Journal = newJournal()
	if err := errors.Join(s.note(rec), os.WriteFile(s.journal(old.Origin), journal, 0o644)); err != nil {
		t.Fatal(err)
	}
	z, _ = recovered(t, s)
	primarytest.SameZone(t, z, list[0])
}

// TestATextIsWrittenBesideItsJournal: steps come while the text of what is held is written; it takes the place of the text that they began
// with, and they are the journal, of any text in between.
func TestATextIsWrittenBesideItsJournal(t *testing.T) {
	t.Parallel()
	list := versions(t, 6)
	for of := range 5 {
		s, after := journaled(t, list[:5])
		rec := after[4]
		w, err := writeZone(t.Context(), s.zones, list[of])
		if err != nil {
			t.Fatal(err)
		}
		if err := s.rebase(&rec, after[of], w); err != nil {
			t.Fatal(err)
		}
		if rec.Journal.Steps != 4-of || rec.SHA256 != w.sha256 || rec.Length != w.length || rec.Journal.Name == after[4].Journal.Name || rec.Serial != 5 {
			t.Errorf("text of serial %d: %+v", of+1, rec)
		}
		z, err := s.load(rec)
		if err != nil {
			t.Fatal(err)
		}
		primarytest.SameZone(t, z, list[4])
		if err := s.add(&rec, list[5], zone.Difference(list[4], list[5], 1<<20)); err != nil {
			t.Fatal(err)
		}
		if left, _ := filepath.Glob(filepath.Join(s.zones, ".*")); len(left) > 0 {
			t.Errorf("%v is left", left)
		}
		z, is := recovered(t, s)
		primarytest.SameZone(t, z, list[5])
		if is.Serial != 6 {
			t.Errorf("%+v", is)
		}
	}
}

// TestATextThatIsNotOfItsJournal takes no place, and nothing changes.
func TestATextThatIsNotOfItsJournal(t *testing.T) {
	t.Parallel()
	list := versions(t, 4)
	s, after := journaled(t, list)
	w, err := writeZone(t.Context(), s.zones, list[1])
	if err != nil {
		t.Fatal(err)
	}
	at, rec := after[1], after[3]
	at.Journal.Link = strings.Repeat("ab", 32)
	if err := s.rebase(&rec, at, w); err == nil || rec != after[3] {
		t.Errorf("%v, %+v", err, rec)
	}
	if left, _ := filepath.Glob(filepath.Join(s.zones, ".*")); len(left) > 0 {
		t.Errorf("%v is left", left)
	}
	z, _ := recovered(t, s)
	primarytest.SameZone(t, z, list[3])
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if w, err := writeZone(ctx, s.zones, list[1]); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %+v", err, w)
	}
	if left, _ := filepath.Glob(filepath.Join(s.zones, ".*")); len(left) > 0 {
		t.Errorf("%v is left of what was given up", left)
	}
}

// atSteps has something done at each step of what is stored. Such a test is not parallel, since storeStep is everybody's.
func atSteps(t *testing.T, do func()) {
	busy := false
	storeStep = func() {
		if !busy {
			busy = true
			do()
			busy = false
		}
	}
	t.Cleanup(func() { storeStep = func() {} })
}

// TestALookAtAZoneThatIsBeingWritten changes nothing: to judge what lies below it, it is read while its text, or the one that its journal
// begins with, takes the place of another.
func TestALookAtAZoneThatIsBeingWritten(t *testing.T) {
	list := versions(t, 4)
	for what, change := range map[string]func(*store, []record, *record) (*zone.Zone, error){
		"text": func(s *store, _ []record, rec *record) (*zone.Zone, error) {
			_, err := s.put(rec, list[3], "")
			return list[3], err
		},
		"journal": func(s *store, after []record, rec *record) (*zone.Zone, error) {
			w, err := writeZone(t.Context(), s.zones, list[1])
			return list[2], errors.Join(err, s.rebase(rec, after[1], w))
		},
	} {
		s, after := journaled(t, list[:3])
		r, err := New(following(netip.AddrPort{}, nil, "example.org."), Options{Zones: s.zones, State: s.state})
		if err != nil {
			t.Fatal(err)
		}
		r.ended = func() bool { return true }
		looks := 0
		atSteps(t, func() {
			looks++
			r.judgeNesting(t.Context(), refresh.Action{Do: refresh.Judge, Record: after[2], Owner: "zones", Children: []string{"sub.example.org."}}, nil)
		})
		rec := after[2]
		want, err := change(s, after, &rec)
		if err != nil || looks < 5 {
			t.Fatalf("%s: %v after %d looks", what, err, looks)
		}
		z, is := recovered(t, s)
		if z == nil || is.Serial != rec.Serial {
			t.Fatalf("%s: nothing is held of what was written, or serial %d", what, is.Serial)
		}
		primarytest.SameZone(t, z, want)
	}
}

// TestAStepThatFailsAfterItsJournalWasCut: what is held is as it is written, and the next step follows on that.
func TestAStepThatFailsAfterItsJournalWasCut(t *testing.T) {
	const origin = "example.org."
	dir := t.TempDir()
	r, err := New(following(netip.AddrPort{}, nil, origin), Options{Zones: filepath.Join(dir, "zones"), State: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	rec := record{Origin: origin, Owner: "zones", From: "192.0.2.1:53", How: AXFR, Contact: time.Unix(1e9, 0).UTC()}
	var list []*zone.Zone
	for serial := range uint32(3) {
		list = append(list, primarytest.Parsed(t, origin, primarytest.ZoneText(origin, serial+1, 30_000, int(serial))))
	}
	if _, err := r.store.put(&rec, list[0], ""); err != nil {
		t.Fatal(err)
	}
	if err := r.store.add(&rec, list[1], zone.Difference(list[0], list[1], 1<<20)); err != nil {
		t.Fatal(err)
	}
	w, err := writeZone(t.Context(), r.store.zones, list[1])
	if err != nil {
		t.Fatal(err)
	}
	r.texts[origin] = &writtenText{of: rec, written: &w}

	journal := r.store.journal(origin)
	atSteps(t, func() { // once it was cut, nothing can be written to it
		if _, err := os.Lstat(journal); err != nil {
			os.Mkdir(journal, 0o755)
		}
	})
	keep := func(held record) refresh.Found {
		p := &peer{r: r, round: &refresh.Round{Record: held, Held: true, Group: &refresh.Group{Servers: []string{"p"}}}, image: list[1]}
		found, _ := p.keep(xfr.Primary{}, xfr.Transferred{Zone: list[2], Delta: zone.Difference(list[1], list[2], 1<<20)}, nil, time.Now())
		return found
	}
	found := keep(rec)
	held, _ := r.store.record(fileName(origin) + recordSuffix)
	held.Version = found.Record.Version
	if found.Good || !strings.Contains(found.Problems, journal) || held.SHA256 != w.sha256 || found.Record != held || held.Serial != 2 || !held.Contact.Equal(rec.Contact) {
		t.Fatalf("found %+v, on disk is %+v", found, held)
	}
	storeStep = func() {}
	if err := os.Remove(journal); err != nil {
		t.Fatal(err)
	}
	if found = keep(found.Record); !found.Good || found.Record.Journal.Steps != 1 {
		t.Fatalf("%+v", found)
	}
	z, is := recovered(t, r.store)
	if z == nil || is.Serial != 3 {
		t.Fatalf("serial %d is held", is.Serial)
	}
	primarytest.SameZone(t, z, list[2])
}

// storeChild makes the test binary change what a store has, and kill itself at the step that is said.
const storeChild = "RECEIVE_TEST_STORE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(storeChild); dir != "" {
		if err := changeStore(dir, os.Getenv(storeChild+"_STEP")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// changeStore is what that process does: the text of the third version takes the place of that of the first, of five; a step is added, and
// a whole text comes. It says each serial that is promised.
func changeStore(dir, step string) error {
	left, err := strconv.Atoi(step)
	if err != nil {
		return err
	}
	storeStep = func() {
		if left--; left == 0 {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
	s, err := openStore(filepath.Join(dir, "zones"), filepath.Join(dir, "state"))
	if err != nil {
		return err
	}
	var after []record
	data, err := os.ReadFile(filepath.Join(dir, "after"))
	if err == nil {
		err = json.Unmarshal(data, &after)
	}
	var list []*zone.Zone
	for serial := range uint32(7) {
		z, _ := zonefile.Parse(strings.NewReader(primarytest.ZoneText("example.org.", serial+1, 300, int(serial))), zonefile.Options{Origin: "example.org."})
		list = append(list, z)
	}
	rec := after[4]
	w, err2 := writeZone(context.Background(), s.zones, list[2])
	err = errors.Join(err, err2, s.rebase(&rec, after[2], w))
	fmt.Println(rec.Serial)
	err = errors.Join(err, s.add(&rec, list[5], zone.Difference(list[4], list[5], 1<<20)))
	fmt.Println(rec.Serial)
	_, err2 = s.put(&rec, list[6], "")
	fmt.Println(rec.Serial)
	return errors.Join(err, err2)
}

// TestKilledAtAnyStep: the process dies at each step of writing a text beside, cutting the journal, adding to that, and writing a text over
// it. What is held then is the newest version that was promised, or the one that was about to be.
func TestKilledAtAnyStep(t *testing.T) {
	t.Parallel()
	list := versions(t, 7)
	for step := 1; ; step++ {
		s, after := journaled(t, list[:5])
		dir := filepath.Dir(s.zones)
		data, err := json.Marshal(after)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, "after"), data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), storeChild+"="+dir, storeChild+"_STEP="+strconv.Itoa(step))
		var said, wrong bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &wrong
		err = cmd.Run()
		killed := new(exec.ExitError)
		if err != nil && (!errors.As(err, &killed) || killed.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL) {
			t.Fatalf("step %d: %v: %s", step, err, &wrong)
		}
		promised := 5
		for word := range strings.FieldsSeq(said.String()) {
			promised, _ = strconv.Atoi(word)
		}
		if err := s.sweep(tempPrefix); err != nil {
			t.Fatal(err)
		}
		z, rec := recovered(t, s)
		if z == nil || int(rec.Serial) != promised && int(rec.Serial) != promised+1 {
			t.Fatalf("killed at step %d: serial %d is held, and %d was promised", step, rec.Serial, promised)
		}
		primarytest.SameZone(t, z, list[rec.Serial-1])
		for _, in := range []string{s.zones, s.state} {
			if left, _ := filepath.Glob(filepath.Join(in, ".*")); len(left) > 0 {
				t.Errorf("killed at step %d: %v is left", step, left)
			}
		}
		if err == nil {
			if promised != 7 || step < 15 {
				t.Errorf("done in %d steps, with serial %d", step, promised)
			}
			return
		}
	}
}

// TestALongJournalIsCutBeside: a Receiver writes the text beside when the journal is half as long as it may be, and cuts it when the next change
// comes.
func TestALongJournalIsCutBeside(t *testing.T) {
	t.Parallel()
	const origin = "example.org."
	text := func(serial uint32) string {
		return strings.ReplaceAll(primarytest.ZoneText(origin, serial, 30_000, 0), fmt.Sprintf("%d A 192.0.2.", serial), fmt.Sprintf("%d A 198.51.100.", serial))
	}
	d := primarytest.NewServer(t, "knotd", map[string]string{origin: text(101)})
	dir := t.TempDir()
	c := following(netip.AddrPort{}, []xfr.Primary{primary(d, key256)}, origin)
	c.Timers = refresh.Timers{MinRefresh: 100 * time.Millisecond, MaxRefresh: 100 * time.Millisecond, MinRetry: 100 * time.Millisecond, MaxRetry: 100 * time.Millisecond}
	r, told, stop := receiver(t, c, dir)
	onDisk(t, told.next(t), text(101))
	on := func() record {
		rec, _ := r.store.record(fileName(origin) + recordSuffix)
		return rec
	}
	first, serial := on(), uint32(101)
	for on().SHA256 == first.SHA256 {
		if serial++; serial > 140 {
			t.Fatalf("%d steps, and the record is %+v", serial-101, on())
		}
		d.Reload(origin, text(serial), serial)
		u := told.next(t)
		if u.How != IXFR || u.Serial != serial || u.SHA256 != "" {
			t.Fatalf("it was not a step: %+v", u)
		}
		lab.WaitFor(t, "no text is in the making", func() bool {
			r.mu.Lock()
			defer r.mu.Unlock()
			making := r.texts[origin]
			return making == nil || making.written != nil
		})
	}
	rec := on()
	data, err := os.ReadFile(r.store.path(origin, false))
	if sum := sha256.Sum256(data); err != nil || hex.EncodeToString(sum[:]) != rec.SHA256 || rec.Journal.Name == first.Journal.Name || rec.Journal.Steps > 20 {
		t.Errorf("the text has digest %x: %+v, %v", sum, rec, err)
	}
	stop()
	_, told, _ = receiver(t, c, dir)
	u := told.next(t)
	if u.How != Kept || u.Serial != serial {
		t.Fatalf("%+v", u)
	}
	onDisk(t, u, text(serial))
}

// TestASmallChangeOfALargeZoneIsAStep: a Receiver writes no text for it, tells of the zone all the same, and of the text at its next start; an
// operator who receives once finds the text.
func TestASmallChangeOfALargeZoneIsAStep(t *testing.T) {
	t.Parallel()
	const origin = "example.org."
	text := func(serial uint32) string { return primarytest.ZoneText(origin, serial, 30_000, int(serial)) }
	d := primarytest.NewServer(t, "knotd", map[string]string{origin: text(1)})
	dir := t.TempDir()
	c := following(netip.AddrPort{}, []xfr.Primary{primary(d, key256)}, origin)
	c.Timers = refresh.Timers{MinRefresh: 100 * time.Millisecond, MaxRefresh: 100 * time.Millisecond, MinRetry: 100 * time.Millisecond, MaxRetry: 100 * time.Millisecond}
	r, told, stop := receiver(t, c, dir)
	u := told.next(t)
	onDisk(t, u, text(1))
	for serial := uint32(2); serial <= 4; serial++ {
		d.Reload(origin, text(serial), serial)
		if u = told.next(t); u.How != IXFR || u.Serial != serial || u.SHA256 != "" || u.Length != 0 {
			t.Fatalf("%+v", u)
		}
		primarytest.SameZone(t, u.Zone, primarytest.Parsed(t, origin, text(serial)))
		lab.WaitFor(t, "the status has it", func() bool { s := r.status(t, origin); return s.Serial != nil && *s.Serial == serial })
	}
	if data, err := os.ReadFile(u.Path); err != nil || !strings.Contains(string(data), " 1 3600 900 ") {
		t.Errorf("the text was written: %.200s, %v", data, err)
	}
	stop()
	r, told, stop = receiver(t, c, dir)
	if u = told.next(t); u.How != Kept || u.Serial != 4 {
		t.Fatalf("%+v", u)
	}
	onDisk(t, u, text(4))
	d.Reload(origin, text(5), 5)
	if u = told.next(t); u.How != IXFR || u.Serial != 5 || u.SHA256 != "" {
		t.Fatalf("%+v", u)
	}
	r.WriteText(origin) // an operator wants to look at it
	lab.WaitFor(t, "the text is written", func() bool {
		data, err := os.ReadFile(u.Path)
		return err == nil && strings.Contains(string(data), " 5 3600 900 ")
	})
	stop()
	d.Reload(origin, text(6), 6)
	got := round(t, c, dir, RefreshOptions{})
	last := got.updates[len(got.updates)-1]
	if len(got.updates) != 2 || last.How != IXFR || last.Serial != 6 {
		t.Fatalf("%+v", got.updates)
	}
	onDisk(t, last, text(6))
}

// FuzzJournal: whatever is in a journal, a step of it is one that was linked to the record before.
func FuzzJournal(f *testing.F) {
	rec := record{Origin: "example.org.", SHA256: "text", Journal: refresh.Journal{Name: "name"}}
	list := []string{`{"zone":"example.org.","serial":2,"journal":{"name":"name","steps":1}}` + "\n\x00\x00\x00\x01ab", "\n", ""}
	for _, payload := range list {
		f.Add([]byte(payload), true)
		f.Add([]byte(payload), false)
	}
	f.Fuzz(func(t *testing.T, payload []byte, linked bool) {
		step := packStep(&rec, payload)
		if !linked {
			other := rec
			other.SHA256 = "another text"
			step = packStep(&other, payload)
		}
		next, d, err := nextStep(rec, step)
		if err != nil {
			return
		}
		if !linked || next.Journal.Steps != 1 || next.Origin != rec.Origin || d.Size() > len(payload) || next.Journal.Octets != int64(stepHead+len(payload)) {
			t.Fatalf("%+v, %d octets, linked %v", next, d.Size(), linked)
		}
	})
}
