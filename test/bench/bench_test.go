package main

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// TestEveryRowIsPrinted runs the bench on a small zone, once. What the figures are is not looked at.
func TestEveryRowIsPrinted(t *testing.T) {
	testenv.Need(t, "kzonesign", "knotd", "nsd", "named", "dnsperf", "taskset", "go")
	bin := t.TempDir()
	for name, pkg := range map[string]string{"coredns": "../../cmd/coredns", "stock": "./stock"} {
		if out, err := exec.Command("go", "build", "-o", filepath.Join(bin, name), pkg).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	var out, log bytes.Buffer
	b := &bench{names: 2000, rounds: 1, seconds: 1, rate: 1000, bin: bin, short: true, out: &out, log: &log}
	if err := b.run(); err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	t.Log("\n" + out.String())
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	number := `\S*\d\S*`
	for i, want := range []string{
		"2000 names +ours +target +BIND .* +Knot .* +NSD .* +file .*",
		"memory of a node that serves .* " + number + " MiB .* MiB .* MiB .* MiB .* MiB",
		"most memory while loading .* " + number + " MiB .* MiB .* MiB .* MiB .* MiB",
		"first answer from zone text, one core .* " + number + " s .* s .* s .* s .* s",
		"first answer from the compiled cache .* " + number + " s",
		"processor time of an answered query .* " + number + " µs .* µs .* µs .* µs .* µs",
		"with metrics, RRL and cookies, to that without .* " + number,
		"through the chain .* " + number + " µs .* µs",
		"both cores, to one .* " + number,
		"one query at a time: median .* " + number + " µs .* µs .* µs .* µs .* µs",
		"one query at a time: p99 .* " + number + " µs .* µs .* µs .* µs .* µs",
		"TCP, one query by each connection .* " + number + " µs .* µs .* µs .* µs .* µs",
		"TCP, 100 queries at once by each connection .* " + number + " µs .* µs .* µs .* µs .* µs",
		"signed, NSEC3 with opt-out, DO: processor time of a query .* " + number + " µs .* µs .* µs .* µs",
		"the same, names that do not exist .* " + number + " µs .* µs .* µs .* µs",
		"p99 of answers, quiet",
		"p99 while the next release is compiled and swapped in",
		"ratio of the two",
		"processor time of a query among 10 zones +" + number + " µs",
		"among 200 zones +" + number + " µs",
		"ratio of the two +" + number,
		"lookup and packet, mixed queries, .* " + number + " ns",
		"its allocations +" + number,
		"NSEC3 denial, not cached, 1,000,000 names .* " + number + " ns",
		"100 of 1,000,000 names with NSEC3 changed, the next zone is made +" + number + " ms",
		"lookup in 10 of 100,000 zones, to that among 10 +" + number,
		"in any of 100,000 zones, none of them in the processor's cache +" + number,
		"100 of 1,000,000 names changed: processor of a node, by packs +" + number + " ms",
		"by the text, as with the formats before +" + number + " ms",
		"a start from the compiled cache and the packs since +" + number + " s",
	} {
		if i >= len(lines) || !regexp.MustCompile("^"+want).MatchString(lines[i]) || strings.Contains(lines[i], "NaN") {
			t.Errorf("no line %d like %q in\n%s", i, want, out.String())
		}
	}
}

// A soak says what was answered and lost, and what became of memory, threads and descriptors.
func TestSoak(t *testing.T) {
	testenv.Need(t, "dnsperf", "taskset", "go")
	bin := t.TempDir()
	if out, err := exec.Command("go", "build", "-o", filepath.Join(bin, "coredns"), "../../cmd/coredns").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
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
