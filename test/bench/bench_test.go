package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

var binaries = testenv.Binaries{Commands: map[string]string{"coredns": "cmd/coredns", "stock": "test/bench/stock", "anycast-sidecar": "sidecar", "meshctl": "cmd/meshctl"}}

func TestMain(m *testing.M) { binaries.Main(m) }

// TestEveryRowIsPrinted runs the bench on a small zone, once. What the figures are is not looked at.
func TestEveryRowIsPrinted(t *testing.T) {
	testenv.Need(t, "kzonesign", "knotd", "nsd", "named", "dnsperf", "taskset", "go")
	bin := binaries.Dir(t)
	var out, log bytes.Buffer
	b := &bench{names: 2000, rounds: 1, seconds: 1, rate: 1000, bin: bin, short: true, out: &out, log: &log, part: "serving,signed,compiling,zones,lookups,releases"}
	if err := b.run(); err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	printed(t, out.String(), []string{
		"2000 names +ours +target +BIND .* +Knot .* +NSD .* +file .*",
		"memory of a node that serves .* " + aFigure + " MiB .* MiB .* MiB .* MiB .* MiB",
		"most memory while loading .* " + aFigure + " MiB .* MiB .* MiB .* MiB .* MiB",
		"first answer from zone text, one core .* " + aFigure + " s .* s .* s .* s .* s",
		"first answer from the compiled cache .* " + aFigure + " s",
		"processor time of an answered query .* " + aFigure + " µs .* µs .* µs .* µs .* µs",
		"with metrics, RRL and cookies, to that without .* " + aFigure,
		"through the chain .* " + aFigure + " µs .* µs",
		"both cores, to one .* " + aFigure,
		"one query at a time: median .* " + aFigure + " µs .* µs .* µs .* µs .* µs",
		"one query at a time: p99 .* " + aFigure + " µs .* µs .* µs .* µs .* µs",
		"TCP, one query by each connection .* " + aFigure + " µs .* µs .* µs .* µs .* µs",
		"TCP, 100 queries at once by each connection .* " + aFigure + " µs .* µs .* µs .* µs .* µs",
		"signed, NSEC3 with opt-out, DO: processor time of a query .* " + aFigure + " µs .* µs .* µs .* µs",
		"the same, names that do not exist .* " + aFigure + " µs .* µs .* µs .* µs",
		"p99 of answers, quiet",
		"p99 while the next release is compiled and swapped in",
		"ratio of the two",
		"processor time of a query among 10 zones +" + aFigure + " µs",
		"among 200 zones +" + aFigure + " µs",
		"ratio of the two +" + aFigure,
		"lookup and packet, mixed queries, .* " + aFigure + " ns",
		"its allocations +" + aFigure,
		"NSEC3 denial, not cached, 1,000,000 names .* " + aFigure + " ns",
		"100 of 1,000,000 names with NSEC3 changed, the next zone is made +" + aFigure + " ms",
		"lookup in 10 of 100,000 zones, to that among 10 +" + aFigure,
		"in any of 100,000 zones, none of them in the processor's cache +" + aFigure,
		"100 of 1,000,000 names changed: processor of a node, by packs +" + aFigure + " ms",
		"by the text, as with the formats before +" + aFigure + " ms",
		"a start from the compiled cache and the packs since +" + aFigure + " s",
	})
}

// aFigure is what a row has for one.
const aFigure = `\S*\d\S*`

// printed compares the table with patterns of its rows.
func printed(t *testing.T, table string, patterns []string) {
	t.Helper()
	t.Log("\n" + table)
	lines := strings.Split(strings.TrimSpace(table), "\n")
	for i, want := range patterns {
		if i >= len(lines) || !regexp.MustCompile("^"+want).MatchString(lines[i]) || strings.Contains(lines[i], "NaN") {
			t.Errorf("no line %d like %q in\n%s", i, want, table)
		}
	}
}

// TestWholeMeshes runs the parts about whole meshes: small ones, and beside each other, since they mostly wait.
func TestWholeMeshes(t *testing.T) {
	testenv.Root(t)
	testenv.Need(t, "knotd", "nsd")
	bin := binaries.Dir(t)
	for _, c := range []struct {
		parts string
		rows  []string
	}{
		{"changes,sustained,behind", []string{
			"2000 names +ours +target +Knot .* +NSD .*",
			`memory of a node that follows it \(PSS\) +` + aFigure + " MiB .* MiB .* MiB",
			"… of it coredns +" + aFigure + " MiB",
			`memory of the distribution host \(PSS\) +` + aFigure + " MiB",
			`memory of a node that follows it \(PSS\), after 0\.5 % changed +` + aFigure + " MiB .* MiB .* MiB",
			"… of it coredns, after 0.5 % changed +" + aFigure + " MiB",
			`memory of the distribution host \(PSS\), after 0\.5 % changed +` + aFigure + " MiB",
			"100 names of a signed zone changed, by IXFR: processor of a node +" + aFigure + " s .* Knot +" + aFigure + " s .* s ",
			"… of it coredns +" + aFigure + " s",
			"… of the distribution host, with ZONEMD +" + aFigure + " s",
			"… of the distribution host, without ZONEMD +" + aFigure + " s",
			"… of a node, without ZONEMD +" + aFigure + " s .* s .* s ",
			"last octet of the IXFR to ready on all nodes +" + aFigure + " s",
			"… to answered by all nodes +" + aFigure + " s",
			"given to the primary, to answered by all +" + aFigure + " s .* s .* s ",
			`0\.5 % \(10 names\) changed: processor of a node +` + aFigure + " s .* s .* s ",
			"… of the distribution host +" + aFigure + " s",
			`last octet of the IXFR to ready on all nodes, 0\.5 % +` + aFigure + " s",
			`given to the primary, to answered by all, 0\.5 % +` + aFigure + " s .* s .* s ",
			"releases made of 2 changes, one every 3s +[12] +2",
			`of \d+ queries meanwhile, 500 a second in half of the time, without an answer +0 `,
			"wrongly answered +0 +0",
			"p99 of answers before, quiet +" + aFigure + " µs",
			"p99 meanwhile +" + aFigure + " µs",
			"ratio of the two +" + aFigure,
			"p99 of a server that follows nothing, in turns with it, quiet +" + aFigure + " µs",
			"… meanwhile +" + aFigure + " µs",
			"p99 meanwhile, to that of the server that follows nothing +" + aFigure,
			"processor of a node that is not asked, for each release +" + aFigure + " s",
			"processor of the distribution host, for each release +" + aFigure + " s",
			"octets to a node 2 releases behind +" + aFigure + " kB",
			"… the packs it missed +" + aFigure + " kB",
			"… the text +" + aFigure + " kB",
			"… to the smaller of the two +" + aFigure,
			"octets to a node that joins, to those of the text +" + aFigure,
		}},
		{"many", []string{
			"2000 names .*",
			"10 of 50 zones changed: processor of the distribution host +" + aFigure + " s",
			"… of a node +" + aFigure + " s",
			"… octets to a node +" + aFigure + " kB",
			"… files saved to answered by all nodes +" + aFigure + " s",
		}},
		{"saved", []string{
			"2000 names .*",
			"9 records of a small zone, file saved to answered by all nodes +" + aFigure + " s",
		}},
	} {
		t.Run(c.parts, func(t *testing.T) {
			t.Parallel()
			var out, log bytes.Buffer
			b := &bench{names: 2000, rounds: 1, seconds: 1, bin: bin, part: c.parts, nodes: 2, peers: true, zoneCount: 50, load: 500,
				sustain: 5 * time.Second, missed: 2, out: &out, log: &log}
			if err := b.run(); err != nil {
				t.Fatalf("%v\n%s", err, log.String())
			}
			t.Log("\n" + log.String())
			printed(t, out.String(), c.rows)
		})
	}
}

func TestAPartThatThereIsNot(t *testing.T) {
	b := &bench{part: "serving,changed"}
	if err := b.run(); err == nil || !strings.Contains(err.Error(), "changed") {
		t.Error(err)
	}
}

// What a group has used has that of a child that was waited for in it, and of one whose parent has ended.
func TestSpentHasThatOfChildren(t *testing.T) {
	lab.Must(t, adopt())
	const busy = "i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done"
	for name, script := range map[string]string{
		"of its own": busy + "; exec sleep 600",
		"a child":    "(" + busy + "); exec sleep 600",
		"an orphan":  "( (" + busy + ") & ); exec sleep 600",
	} {
		p := lab.Start(t, lab.Command{Argv: []string{"sh", "-c", script}, Log: filepath.Join(t.TempDir(), "log")})
		running, own := 0, 0
		lab.WaitFor(t, name+" has ended", func() bool {
			if lab.Read(t, fmt.Sprintf("/proc/%d/comm", p.Pid())) != "sleep\n" {
				return false // it may start more
			}
			stats, _ := filepath.Glob("/proc/[0-9]*/stat")
			running, own = 0, 0
			for _, stat := range stats {
				text, _ := os.ReadFile(stat)
				f := strings.Fields(string(text))
				if len(f) < 5 || f[4] != strconv.Itoa(p.Pid()) {
					continue
				}
				if f[2] != "Z" {
					running++
				} else if f[3] == strconv.Itoa(os.Getpid()) {
					own++
				}
			}
			return running == 1
		})
		used, _, err := groups{"it": {p}}.spent()
		if lab.Must(t, err); used["it"] < 0.02 {
			t.Errorf("%s: %v s", name, used["it"])
		}
		if name == "an orphan" && own != 1 { // another parent may wait for it at any time
			t.Errorf("%s: %d of these have this process for their parent", name, own)
		}
	}
}

// An answer is right if it is of a version that was in force at some time between question and answer, within the clocks' error.
func TestExplains(t *testing.T) {
	line := []since{{0, 1}, {1e9, 2}, {2e9, 3}}
	const ms = 1_000_000
	for _, c := range []struct {
		sent, got int64
		version   uint32
		right     bool
	}{
		{5e8, 5e8 + ms, 1, true},
		{5e8, 5e8 + ms, 2, false},
		{1e9 - 5*ms, 1e9 + 5*ms, 1, true},
		{1e9 - 5*ms, 1e9 + 5*ms, 2, true},
		{1e9 - 5*ms, 1e9 - 3*ms, 2, false},
		{1e9 + 3*ms, 1e9 + 5*ms, 1, false},
		{1e9 + 3*ms, 1e9 + 5*ms, 2, true},
		{2e9 + 3*ms, 2e9 + 5*ms, 2, false},
		{2e9 + 3*ms, 2e9 + 5*ms, 3, true},
		{2e9 + 3*ms, 2e9 + 5*ms, 4, false},
	} {
		s := sighting{version: c.version, sent: c.sent, got: c.got}
		if got := explains(line, s, func(version uint32) bool { return version == s.version }); got != c.right {
			t.Errorf("%+v: %v", c, got)
		}
	}
}

// Two loads ask in turns, each at the whole rate, and never both.
func TestTurns(t *testing.T) {
	began := time.Unix(1000, 0)
	for n, want := range map[int][2]time.Duration{
		0:  {0, 2 * time.Second},
		1:  {100 * time.Millisecond, 2100 * time.Millisecond},
		19: {1900 * time.Millisecond, 3900 * time.Millisecond},
		20: {4 * time.Second, 6 * time.Second},
		45: {8500 * time.Millisecond, 10500 * time.Millisecond},
	} {
		for mine := range 2 {
			if got := (turns{began, 10, 2 * time.Second, mine, 2}).due(n).Sub(began); got != want[mine] {
				t.Errorf("question %d of load %d is due after %v, want %v", n, mine, got, want[mine])
			}
		}
	}
	if got := (turns{began, 10, time.Second, 0, 1}).due(25).Sub(began); got != 2500*time.Millisecond {
		t.Errorf("alone: %v", got)
	}
}

// A record is of the version in which it was changed last.
func TestWhatOfANameIsInForce(t *testing.T) {
	p := &primary{changed: map[string][]uint32{"a.bench.": {2, 5}}}
	for version, want := range map[uint32]uint32{1: 0, 2: 2, 4: 2, 5: 5, 9: 5} {
		if got := p.inForce("a.bench.", version); got != want {
			t.Errorf("in version %d: %d, want %d", version, got, want)
		}
	}
	if got := p.inForce("b.bench.", 7); got != 0 {
		t.Error(got)
	}
	if got := p.inForce(releaseName, 7); got != 7 {
		t.Error(got)
	}
	if got := versionOf(digestOf("a.bench.", 5)); got != 5 {
		t.Error(got)
	}
}

// A soak says what was answered and lost, and what became of memory, threads and descriptors.
func TestSoak(t *testing.T) {
	testenv.Need(t, "dnsperf", "taskset", "go")
	bin := binaries.Dir(t)
	var out, log bytes.Buffer
	b := &bench{names: 2000, part: "soak", soakQueries: 1, soakSteps: 2, bin: bin, out: &out, log: &log} // each step asks the file once
	if err := b.run(); err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	t.Log("\n" + log.String() + out.String())
	for _, want := range []string{`queries answered in the soak +0\.42\d* million`, `queries lost in it +0 `, `memory after the first part of it \(PSS\) +[\d.]+ MiB`,
		`memory at the end, to that +[\d.]+ `, `threads at the end, beside those then +-?\d+ `, `descriptors at the end, beside those then +-?\d+ `} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("no line like %q in\n%s", want, out.String())
		}
	}
}
