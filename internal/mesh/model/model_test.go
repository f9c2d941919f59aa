package model

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// right are the searches that must find nothing. Those that are large are made where FULL is set.
var right = []struct {
	name  string
	flags []string
	large bool
}{
	{name: "no fault"},
	{name: "three releases", flags: []string{"RELEASES=3"}},
	{name: "one fault", flags: []string{"FAULTS=1", "TWOPHASE"}},
	{name: "two faults", flags: []string{"FAULTS=2"}},
	{name: "absent", flags: []string{"FAULTS=1", "ABSENT"}},
	{name: "absent lease", flags: []string{"FAULTS=1", "ABSENT", "LAPSE"}},
	{name: "absent lease, faults until the end", flags: []string{"FAULTS=1", "ABSENT", "LAPSE", "STORM"}, large: true},
	{name: "cancel", flags: []string{"FAULTS=1", "CANCELS=1"}},
	{name: "force", flags: []string{"FORCES=1"}},
	{name: "strike", flags: []string{"FAULTS=1", "CHANGES=1"}},
	{name: "add and strike", flags: []string{"MEMBERS=3", "CHANGES=2"}},
	{name: "two hosts", flags: []string{"HOSTS=2", "TWO"}},

	{name: "three proposals", flags: []string{"PROPOSALS=3", "FAULTS=1"}, large: true},
	{name: "three of all", flags: []string{"PROPOSALS=3", "RELEASES=3", "CANCELS=1"}, large: true},
	{name: "two faults and cancel", flags: []string{"FAULTS=2", "CANCELS=1", "TWOPHASE"}, large: true},
	{name: "two absent", flags: []string{"FAULTS=2", "ABSENT"}, large: true},
	{name: "force with a fault", flags: []string{"FAULTS=1", "FORCES=1"}, large: true},
	{name: "force without one", flags: []string{"FAULTS=1", "FORCES=1", "ABSENT"}, large: true},
	{name: "strike one that is away", flags: []string{"FAULTS=1", "ABSENT", "CHANGES=1"}, large: true},
	{name: "add and strike with a fault", flags: []string{"FAULTS=1", "MEMBERS=3", "CHANGES=2"}, large: true},
	{name: "two hosts, one fault", flags: []string{"HOSTS=2", "TWO", "FAULTS=1"}, large: true},
}

// weakened are the protocol with one rule broken. Each search has the bounds of one that finds nothing otherwise.
var weakened = []struct{ form, of, broken string }{
	{"COMMIT", "no fault", "a host commits what not all have promised"},
	{"PROMISE", "no fault", "a node answers from the release before after T, though it promised not to"},
	{"REJOIN", "no fault", "a node that declined takes a commit that no other has taken"},
	{"UNANIMOUS", "no fault", "a node finds a proposal void though not all have declined"},
	{"SETTLE", "no fault", "a switchover is put on record that nobody has taken"},
	{"EARLY", "no fault", "a switchover is put on record before T"},
	{"REFUSED", "no fault", "a host takes a commit back when one has declined"},
	{"DECLINE", "no fault", "a node that has taken the commit declines"},
	{"REUSE", "no fault", "two proposals have the same instant"},
	{"SAID", "one fault", "a promise is said before it is durable"},
	{"UNDER", "one fault", "a view that is older than the promise is accepted"},
	{"DURABLE", "one fault", "a node answers from a release before it holds that durably"},
	{"ASK", "two faults", "members ask each other only when they hold the proposal themselves"},
	{"CANCEL", "cancel", "what is committed is withdrawn"},
	{"WITHOUT", "absent", "a member that is not waited for takes the commit by itself"},
	{"KNOWS", "absent", "a member that is not waited for, and can be asked, need not know"},
	{"PRESUME", "absent", "a commit is presumed taken without a word to members before, and others may find it void yet"},
	{"PRESUMES", "absent", "a commit is presumed taken before all who can be asked hold to it"},
	{"PRESUMED", "absent", "a member finds void what is presumed taken"},
	{"PRESUMED_ALL", "two absent", "a commit is presumed taken though one that is not waited for may find it void yet"},
	{"LAPSED", "absent lease", "a lease that names an earlier proposal counts as ended at that one's instant"},
	{"FORCE", "force", "a commit is forced on a member that has not promised"},
	{"FIRST", "absent", "one that is not waited for finds a proposal void that it heard of late"},
	{"NOBODY", "force", "a commit that waits for nobody counts as declined by all"},
	{"CHANGE", "strike", "a proposal stays when the members change"},
	{"CHANGE_COMMITTED", "strike", "the members change while a switchover is committed"},
	{"LEAVING", "strike", "a proposal is made before a member that was removed knows"},
	{"STRUCK_SAID", "strike", "a node says that it was removed before that is durable"},
	{"STRUCK", "add and strike", "the word of a node that is not yet a member is taken for one about its removal"},
	{"STRANGER", "add and strike", "a node that is no member takes part"},
	{"STORE", "two hosts", "a write lands though the state is not the one that was read"},
}

// TestModel searches the protocol.
func TestModel(t *testing.T) {
	full := os.Getenv("FULL") != ""
	for _, r := range right {
		if r.large && !full {
			continue
		}
		t.Run(r.name, func(t *testing.T) {
			out := search(t, r.flags, "-O1")
			if !strings.Contains(out, "errors: 0") || strings.Contains(out, "not completed") || strings.Contains(out, "too small") {
				t.Fatalf("not all was searched, or something was found:\n%s", out)
			}
			t.Logf("%s states, %s steps", number(t, out, `(\d+) states, stored`), number(t, out, `(\d+) transitions`))
		})
	}
}

// TestWeakened breaks one rule after the other: each must be found, where FULL is set by the shortest history.
func TestWeakened(t *testing.T) {
	for _, w := range weakened {
		t.Run(w.form, func(t *testing.T) {
			i := slices.IndexFunc(right, func(r struct {
				name  string
				flags []string
				large bool
			}) bool {
				return r.name == w.of
			})
			if i < 0 {
				t.Fatalf("there is no search %q", w.of)
			}
			flags, how := append(slices.Clone(right[i].flags), "WEAKEN_"+w.form), []string{"-O0"}
			// Of stale writes the longer histories lead to a state that makes no sense, before one is found that two nodes differ in.
			if os.Getenv("FULL") != "" || w.form == "STORE" {
				flags, how = append(flags, "SHORTEST"), append(how, "-DBFS")
			}
			out := search(t, flags, how...)
			if !strings.Contains(out, "assertion violated") || strings.Contains(out, "array index") {
				t.Fatalf("nothing was found though %s:\n%s", w.broken, out)
			}
			t.Logf("%s: found after %s steps, %s states", w.broken, number(t, out, `at depth (\d+)`), number(t, out, `(\d+) states, stored`))
		})
	}
}

// search has Spin make a program that searches the model, and runs it.
func search(t *testing.T, flags []string, how ...string) string {
	t.Helper()
	commands := testenv.Need(t, "spin", "gcc")
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	dir := t.TempDir()
	model, err := filepath.Abs("switchover.pml")
	if err != nil {
		t.Fatal(err)
	}
	spin := []string{"-a"}
	for _, f := range flags {
		spin = append(spin, "-D"+f)
	}
	run(ctx, t, dir, commands[0], append(spin, model)...)
	run(ctx, t, dir, commands[1], append(how, "-w", "-DSAFETY", "-DNOREDUCE", "-DMEMLIM=8000", "-o", "pan", "pan.c")...)
	return run(ctx, t, dir, filepath.Join(dir, "pan"), "-m1000000", "-w22")
}

func run(ctx context.Context, t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return string(out)
}

func number(t *testing.T, out, pattern string) string {
	t.Helper()
	found := regexp.MustCompile(pattern).FindStringSubmatch(out)
	if found == nil {
		t.Fatalf("no %s in:\n%s", pattern, out)
	}
	return found[1]
}
