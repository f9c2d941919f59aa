package receive

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// ordered gives an order to withdraw zones.
func (z *zoneDir) ordered(zones ...string) (id string) {
	z.t.Helper()
	id, err := PlaceOrder(filepath.Join(z.dir, "state"), zones, time.Now().Add(time.Hour))
	if err != nil {
		z.t.Fatal(err)
	}
	return id
}

// answered waits for what became of an order.
func (z *zoneDir) answered(id, want string) {
	z.t.Helper()
	var fates []Fate
	lab.WaitFor(z.t, "the order is answered", func() bool {
		f, known, err := Answer(filepath.Join(z.dir, "state"), id)
		if err != nil {
			z.t.Fatal(err)
		}
		fates = f
		return known
	})
	if got := fmt.Sprint(fates); got != strings.ReplaceAll(want, "DIR", z.path) {
		z.t.Errorf("answered %s, want %s", got, want)
	}
}

// An order to withdraw what is gone is taken by a Receiver that runs; what is there is refused, and nothing else goes.
func TestOrdersWhileItRuns(t *testing.T) {
	t.Parallel()
	z := newZoneDir(t, Directory{})
	for _, name := range []string{"a", "b", "c"} {
		z.put(name+".zone", small(name+".test.", 1))
	}
	r, told, _ := receiver(t, z.config(), z.dir)
	for range 3 {
		told.next(t)
	}
	z.remove("a.zone", "b.zone")
	lab.WaitFor(t, "that files are gone is seen", func() bool { return strings.Contains(z.fault(r, ""), "a.test. b.test.") })
	z.answered(z.ordered("a.test.", "c.test."), "[{a.test. true } {c.test. false it is there, in directory DIR, last from DIR/c.zone: delete its file first}]")
	if u := told.next(t); u.Origin != "a.test." || u.How != Withdrawn {
		t.Errorf("%+v", u)
	}
	if fault := z.fault(r, ""); !strings.HasSuffix(fault, "(deleted: keep): b.test.") {
		t.Error(fault)
	}
	z.answered(z.ordered(), "[{b.test. false its file is gone from directory DIR}]")
	if left, _ := os.ReadDir(filepath.Join(z.dir, "state", ordersDir)); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

// A Receiver that is killed before it takes an order, or before it has answered one that it has carried out, loses nothing, and does nothing
// twice: the next one, whatever it runs for, answers.
func TestOrdersOutliveAKill(t *testing.T) {
	t.Parallel()
	z := newZoneDir(t, Directory{})
	z.put("a.zone", small("a.test.", 1))
	z.put("b.zone", small("b.test.", 1))
	round(t, z.config(), z.dir, RefreshOptions{})
	z.remove("a.zone", "b.zone")
	id := z.ordered("a.test.")
	file := orderPath(filepath.Join(z.dir, "state"), id)
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got := round(t, z.config(), z.dir, RefreshOptions{})
	if len(got.zones) != 1 || got.zones[0].Zone != "b.test." {
		t.Fatalf("%+v", got)
	}
	// What a kill leaves between the withdrawal and the answer: the zone is withdrawn, and the order as it was given.
	if err := os.WriteFile(file, before, 0o644); err != nil {
		t.Fatal(err)
	}
	record := record{Origin: "a.test.", Owner: "directory " + z.path, From: filepath.Join(z.path, "a.zone"), How: File, Serial: 1, Withdrawn: true}
	if err := (&store{filepath.Join(z.dir, "zones"), filepath.Join(z.dir, "state")}).note(record); err != nil {
		t.Fatal(err)
	}
	if got := round(t, z.config(), z.dir, RefreshOptions{}); len(got.zones) != 1 || got.zones[0].Zone != "b.test." {
		t.Fatalf("%+v", got)
	}
	z.answered(id, "[{a.test. true }]")
}

// What is no order is said, and changes nothing; answers that nobody has waited for, and what killed commands left, go in the end.
func TestOrdersThatAreNone(t *testing.T) {
	t.Parallel()
	z := newZoneDir(t, Directory{})
	z.put("a.zone", small("a.test.", 1))
	round(t, z.config(), z.dir, RefreshOptions{})
	z.remove("a.zone")
	dir := filepath.Join(z.dir, "state", ordersDir)
	long, old := time.Now().Add(time.Hour).UTC().Format(time.RFC3339), time.Now().Add(-2*answerKept)
	for name, text := range map[string]string{
		"torn.json": `{"version": 1, "zones": ["a.te`, "later.json": `{"version": 2, "zones": ["a.test."], "until": "` + long + `"}`,
		"name.json": `{"version": 1, "zones": ["a..test."], "until": "` + long + `"}`, "late.json": `{"version": 1, "zones": ["a.test."], "until": "2026-01-01T00:00:00Z"}`,
		"said.json": `{"version": 1, "answered": "2026-01-01T00:00:00Z"}`, ".tmp-1": "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(filepath.Join(dir, name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	if got := round(t, z.config(), z.dir, RefreshOptions{}); len(got.zones) != 1 || len(got.updates) != 1 || got.updates[0].How != Kept {
		t.Errorf("%+v", got)
	}
	z.answered("late", "[{a.test. false the order was not carried out in its time, and is too old now: give it again}]")
	for _, gone := range []string{"said.json", ".tmp-1"} {
		if _, err := os.Stat(filepath.Join(dir, gone)); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", gone, err)
		}
	}
	for _, bad := range []string{"torn", "later", "name"} {
		if _, err := readOrder(filepath.Join(z.dir, "state"), bad); err == nil || !strings.Contains(err.Error(), bad+".json: ") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}
