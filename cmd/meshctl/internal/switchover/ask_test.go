package switchover

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/enrol"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/internal/instant"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// shout answers with a status line that has so many octets.
func shout(w http.ResponseWriter, octets int) {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		fmt.Fprintf(conn, "HTTP/1.1 500 %s\r\nContent-Length: 0\r\n\r\n", strings.Repeat("x", octets))
		conn.Close()
	}
}

// kinds are members by how they answer.
var kinds = map[string]func(w http.ResponseWriter){
	"good": func(w http.ResponseWriter) {
		json.NewEncoder(w).Encode(status.Confirmation{Version: status.Version, Node: "good", At: instant.WallOf(time.Now().Add(-time.Minute)), Serving: 7})
	},
	"impostor": func(w http.ResponseWriter) { // with the certificate of another member of that address
		json.NewEncoder(w).Encode(status.Confirmation{Version: status.Version, Node: "impostor"})
	},
	"liar": func(w http.ResponseWriter) {
		json.NewEncoder(w).Encode(status.Confirmation{Version: status.Version, Node: "good"})
	},
	"boaster": func(w http.ResponseWriter) {
		json.NewEncoder(w).Encode(status.Confirmation{Version: status.Version, Node: "boaster", Hears: 365 * 24 * time.Hour})
	},
	"talker": func(w http.ResponseWriter) { // 16 times as much memory would be taken
		json.NewEncoder(w).Encode(status.Confirmation{Version: status.Version, Node: "talker", Refused: make([]status.Refused, maxWord/8)})
	},
	"shouter": func(w http.ResponseWriter) { shout(w, 50_000) },
	"roarer":  func(w http.ResponseWriter) { shout(w, 2<<20) },
	"garbage": func(w http.ResponseWriter) { w.Write([]byte("<html>")) },
	"dead": func(w http.ResponseWriter) {
		w.WriteHeader(http.StatusServiceUnavailable)
		json.NewEncoder(w).Encode(status.Confirmation{Version: status.Version, Node: "dead", Announced: true, Untold: -1,
			Why: []status.Reason{{Code: gate.RouteStays}, {Code: gate.ProbeDead, Detail: "connection refused"}}})
	},
	"broken": func(w http.ResponseWriter) { w.WriteHeader(500) },
	"away":   func(w http.ResponseWriter) { w.Header().Set("Location", "https://127.0.0.1:1/"); w.WriteHeader(302) },
	"endless": func(w http.ResponseWriter) {
		for {
			if _, err := w.Write(bytes.Repeat([]byte(" "), 1<<20)); err != nil {
				return
			}
		}
	},
}

// TestMembersAreAskedOverMutualTLS asks real servers, one of each kind.
func TestMembersAreAskedOverMutualTLS(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mesh")
	h, err := hometest.InitWith(dir, enrol.InitOptions{Mesh: "jp", Epsilon: time.Millisecond, Lease: time.Hour}, time.Now)
	hometest.Check(t, err)
	defer h.Close()
	for name, answer := range kinds {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.TLS.PeerCertificates[0].Subject.CommonName != enrol.HostName || r.URL.Path != "/v1/confirmations" {
				t.Errorf("%s was asked for %s by %s", name, r.URL.Path, r.TLS.PeerCertificates[0].Subject)
			}
			answer(w)
		}))
		defer server.Close()
		bundle, err := enrol.AddMember(t.Context(), h, enrol.NewMember{Name: name, Admin: server.Listener.Addr().String()})
		hometest.Check(t, err)
		if name == "impostor" {
			bundle, err = enrol.AddMember(t.Context(), h, enrol.NewMember{Name: "other", Admin: "127.0.0.1:2"})
			hometest.Check(t, err)
		}
		server.TLS = hometest.TLS(t, bundle)
		server.StartTLS()
	}
	_, err = enrol.AddMember(t.Context(), h, enrol.NewMember{Name: "nobody", Admin: "127.0.0.1:1"})
	hometest.Check(t, err)
	own, err := enrol.Identity(home.At(dir, time.Now), slog.New(slog.DiscardHandler))
	hometest.Check(t, err)
	got := Asker(own)(t.Context(), h.View().Manifest.Members)
	if len(got) != 14 {
		t.Fatalf("%d answers", len(got))
	}
	for name, a := range got {
		if (a.Err == nil) != (name == "good" || name == "boaster") {
			t.Errorf("%s: %+v", name, a)
		}
		if a.Err != nil && len(a.Err.Error()) > status.MaxText {
			t.Errorf("%s: an error of %d octets", name, len(a.Err.Error()))
		}
	}
	if c := got["boaster"].Confirmation; c.Hears != 0 || len(c.Warnings) != 1 || c.Warnings[0].Code != status.Implausible {
		t.Errorf("a member that hears within a year: %+v", c)
	}
	if err := got["talker"].Err; err == nil || !strings.Contains(err.Error(), "says more than") {
		t.Errorf("a member that says too much: %v", err)
	}
	unwell := new(UnwellError)
	if err := got["dead"].Err; !errors.As(err, &unwell) || !unwell.Said.Announced || unwell.Said.Untold != 0 || !strings.Contains(err.Error(), "probe-dead: connection refused") {
		t.Errorf("a member whose DNS server is dead: %v", err)
	}
	if got["good"].Confirmation.Serving != 7 {
		t.Errorf("good said %+v", got["good"])
	}
}

// TestMembersThatHangHoldUpNoOther: more hang than are asked at a time, and their names are the first. A round ends when nobody else can have a turn.
// From the third one on who answers is asked in each, and who hangs no more is asked in one of the next.
func TestMembersThatHangHoldUpNoOther(t *testing.T) {
	var members []release.Member
	for i := range 2*askAtOnce + 6 {
		members = append(members, release.Member{Name: fmt.Sprintf("a%03d", i)})
	}
	const back = "a007"
	members = append(members, release.Member{Name: "b1"}, release.Member{Name: "b2"})
	var isBack bool
	var hanging atomic.Int64
	var end context.CancelFunc
	asking := &turns{last: map[string]turn{}, one: func(ctx context.Context, m release.Member) (status.Confirmation, error) {
		if m.Name >= "b" || isBack && m.Name == back {
			return status.Confirmation{Node: m.Name}, nil
		}
		if hanging.Add(1) == askAtOnce {
			end()
		}
		<-ctx.Done()
		return status.Confirmation{}, context.Cause(ctx)
	}}
	round := func() map[string]Answer {
		t.Helper()
		var ctx context.Context
		ctx, end = context.WithCancel(t.Context())
		defer end()
		hanging.Store(0)
		answers := asking.ask(ctx, members)
		if len(answers) != len(members) {
			t.Fatalf("%d answers", len(answers))
		}
		return answers
	}
	round() // that they hang is not known before
	round()
	for range 3 {
		if a := round(); a["b1"].Err != nil || a["b2"].Err != nil {
			t.Fatalf("who answers was not asked: %v, %v", a["b1"].Err, a["b2"].Err)
		}
	}
	isBack = true
	for range 3 {
		if round()[back].Err == nil {
			return
		}
	}
	t.Error("who is back was not asked")
}
