package main

import (
	"bytes"
	"io"
	"slices"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/test/zonegen"
)

// TestAnswersAsOthersDo is a slice of what the program does.
func TestAnswersAsOthersDo(t *testing.T) {
	need := []string{"dnssec-keygen", "dnssec-signzone", "sqlite3"}
	for _, p := range peers {
		need = append(need, p.command)
	}
	testenv.Need(t, need...)
	o := options{seed: 2026, flavours: zonegen.Flavours, zones: 30, queries: 2500, batch: 30, wire: 0.2, steps: 3, shrink: 1,
		bin: testenv.Build(t, "cmd/coredns", "cmd/meshctl")}
	var out bytes.Buffer
	failed, err := run(o, &out, io.Discard)
	t.Logf("\n%s", &out)
	if err != nil || failed > 0 {
		t.Fatalf("%d differences that nothing explains, %v", failed, err)
	}
}

// A zone whose origin was loaded, and so is in lower case, has its servers still.
func TestOriginInLowerCaseHasNS(t *testing.T) {
	s := zonegen.Source{Origin: "g.test.", Lines: []string{"G.test. 60 IN SOA ns mail 1 1 1 1 1", "G.test. 60 IN NS ns.test."}}
	if !hasNS(s) {
		t.Error("a zone with servers is said to have none")
	}
	if s.Lines[1] = "a.G.test. 60 IN NS ns.test."; hasNS(s) {
		t.Error("the servers of a delegation are taken for those of the zone")
	}
}

// What is left of the elements is what the condition needs, wherever it is.
func TestShrink(t *testing.T) {
	all := make([]int, 100)
	for i := range all {
		all[i] = i
	}
	for _, need := range [][]int{{}, {0}, {99}, {3, 4, 50}, {0, 33, 66, 99}, all} {
		got := shrink(all, func(some []int) bool {
			return !slices.ContainsFunc(need, func(n int) bool { return !slices.Contains(some, n) })
		})
		if !slices.Equal(got, need) {
			t.Errorf("%v, want %v", got, need)
		}
	}
}

// The majority is the largest group of equal answers, or all groups of that size.
func TestMajority(t *testing.T) {
	for _, c := range []struct {
		forms []string
		want  []int
	}{
		{[]string{"a", "a", "a", "a"}, []int{0}},
		{[]string{"b", "a", "a", "a"}, []int{1}},
		{[]string{"a", "b", "b", "c"}, []int{1}},
		{[]string{"a", "b", "b", "a"}, []int{0, 1}},
		{[]string{"a", "b", "c", "d"}, []int{0, 1, 2, 3}},
	} {
		if got := majority(c.forms); !slices.Equal(got, c.want) {
			t.Errorf("%v: %v, want %v", c.forms, got, c.want)
		}
	}
}
