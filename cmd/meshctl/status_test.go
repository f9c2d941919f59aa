package main

import (
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/host"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// TestABarShowsHowFarLoadingIs, of a node that says so, and is never wider than it is.
func TestABarShowsHowFarLoadingIs(t *testing.T) {
	for want, c := range map[string]status.Compiling{
		"[....................] 0 % loading":   {OfAll: 100},
		"[##########..........] 50 % loading":  {Octets: 50, OfAll: 100},
		"[####################] 100 % loading": {Octets: 150, OfAll: 100},
		"\tloading":                            {Octets: 50},
	} {
		c.Number = 2
		line := memberLine(host.MemberStatus{Confirmation: &status.Confirmation{Serving: 1, Compiling: &c}})
		if !strings.Contains(line, want) {
			t.Errorf("%+v: %q, want %q", c, line, want)
		}
	}
}
