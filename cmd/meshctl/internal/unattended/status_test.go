package unattended

import (
	"context"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/switchover"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// What ought to be the same on all members and is not, is named with who has what (DRIFT-1).
func TestDriftIsNamed(t *testing.T) {
	h := home.At(hometest.New(t, time.Now, "fra", "tyo"), time.Now)
	state, err := h.State(t.Context())
	hometest.Check(t, err)
	view, err := h.View(t.Context())
	hometest.Check(t, err)
	digest := map[string]string{"fra": "aa", "tyo": "aa"}
	ask := func(_ context.Context, members []release.Member) map[string]switchover.Answer {
		answers := map[string]switchover.Answer{}
		for _, m := range members {
			answers[m.Name] = switchover.Answer{Confirmation: status.Confirmation{Node: m.Name, Software: "v1", ConfigDigest: digest[m.Name]}}
		}
		return answers
	}
	if d := StatusOf(t.Context(), state, view, ask, time.Now()).Drift; len(d) != 0 {
		t.Errorf("drift of equal members: %+v", d)
	}
	digest["tyo"] = "bb"
	d := StatusOf(t.Context(), state, view, ask, time.Now()).Drift
	if len(d) != 1 || d[0].What != "configuration" || len(d[0].Values["aa"]) != 1 || d[0].Values["bb"][0] != "tyo" {
		t.Errorf("got %+v", d)
	}
}
