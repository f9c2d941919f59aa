package mirror

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testca"
)

// other is another member's administrative plane, as far as members ask each other: what it holds, and the metadata it has.
func other(t *testing.T, ca *testca.CA, name string, dir *depot.Dir, held *status.Held) (admin string, asked chan string) {
	t.Helper()
	asked = make(chan string, 100)
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+PromisePath, func(w http.ResponseWriter, r *http.Request) {
		asked <- r.FormValue("lease")
		json.NewEncoder(w).Encode(held)
	})
	mux.Handle("GET "+RepositoryPath, http.StripPrefix("/v1/repository", dir.Metadata()))
	s := httptest.NewUnstartedServer(mux)
	s.TLS = ca.Identity(name, time.Hour).Load(t).Config()
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL, asked
}

// members publishes who they are.
func (h *host) members(all ...release.Member) {
	h.t.Helper()
	m := release.Manifest{Format: release.ManifestFormat, Mesh: "jp", EpsilonMS: 100, Members: all}
	files, mem, err := release.Publish(h.mem, m, h.by, ends())
	lab.Must(h.t, err)
	h.publish(files, mem)
}

// A member whose repository is stale learns from the one that asks it what is newer, and from those that it asks itself.
func TestNewerMetadataOfAMember(t *testing.T) {
	for name, learns := range map[string]func(m *Mirror, held *status.Held){
		"it is asked": func(m *Mirror, held *status.Held) { m.Asked("osa1", held.Lease) },
		"it asks": func(m *Mirror, held *status.Held) {
			ctx, cancel := context.WithCancel(context.Background())
			t.Cleanup(cancel)
			go m.AskMembers(ctx, func() bool { return true })
		},
	} {
		t.Run(name, func(t *testing.T) {
			ca := testca.New(t)
			h := newHost(t, ca)
			held := &status.Held{Version: status.Version, Node: "osa1"}
			admin, asked := other(t, ca, "osa1", h.dir, held)
			h.members(release.Member{Name: "osa1", Admin: admin}, release.Member{Name: "tyo1", Admin: "https://127.0.0.1:1"})
			stale := h.copy(ca)
			m := h.mirror(ca, stale)
			m.cfg.Node = "tyo1"
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			go func() { m.Run(ctx); close(ended) }()
			defer func() { cancel(); <-ended }()
			lab.WaitFor(t, "what the stale repository has", func() bool { return m.Status().LastError == "" && m.IsMember("osa1", release.Digest{}) })
			root, before := h.mem.Root, lease(t, m, h.mem.Root)
			h.renew()
			held.Lease = h.timestamp()
			learns(m, held)
			lab.WaitFor(t, "the newer lease of the member", func() bool { return lease(t, m, root) > before })
			if name == "it asks" && <-asked == "" {
				t.Error("the member was not told which lease this one has")
			}
			if m.IsMember("nobody", release.Digest{}) {
				t.Error("a stranger is a member")
			}
		})
	}
}

// TestAMemberWithANewKeyIsAskedAnew: what a member with a revoked key holds does not count; when it has the key that the manifest names,
// it does, though the connection to it would be kept.
func TestAMemberWithANewKeyIsAskedAnew(t *testing.T) {
	ca := testca.New(t)
	now := ca.Identity("osa1", time.Hour)
	own, next := now.Load(t), ca.Identity("osa1", time.Hour)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		json.NewEncoder(w).Encode(status.Held{Version: status.Version, Node: "osa1"})
	}))
	s.TLS = own.Config().Clone()
	s.TLS.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return own.Config(), nil }
	s.StartTLS()
	t.Cleanup(s.Close)
	client := newClient(ca.Identity("tyo1", time.Hour).Load(t).Transport(newTransport()))
	defer client.CloseIdleConnections()
	member := release.Member{Name: "osa1", Admin: s.URL, Keys: []release.Digest{identity.PinOf(next.Load(t).Certificate())}}
	if _, err := askMember(t.Context(), client, member, 1); err == nil {
		t.Fatal("a member is heard with a key that is not its own")
	}
	lab.Must(t, os.Rename(next.Key, now.Key))
	lab.Must(t, os.Rename(next.Certificate, now.Certificate))
	lab.WaitFor(t, "the member with its new key", func() bool { _, err := askMember(t.Context(), client, member, 1); return err == nil })
}

// While no switchover is known and a repository is reached, this node looks seldom whether it has to ask others, since each look wakes it; at once
// when either begins.
func TestMembersAreNoConcernAtRest(t *testing.T) {
	calm := membersCalm
	t.Cleanup(func() { membersCalm = calm })
	membersCalm = time.Hour
	ca := testca.New(t)
	h := newHost(t, ca)
	admin, asked := other(t, ca, "osa1", h.dir, &status.Held{Version: status.Version, Node: "osa1"})
	m := h.mirror(ca, h.copy(ca))
	m.cfg.Node = "tyo1"
	view := release.View{Manifest: release.Manifest{Format: release.ManifestFormat, Members: []release.Member{{Name: "osa1", Admin: admin}, {Name: "tyo1"}}}}
	m.learnt(view)
	looks := make(chan struct{}, 100)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		m.AskMembers(ctx, func() bool { looks <- struct{}{}; return false })
		close(ended)
	}()
	defer func() { cancel(); <-ended }()
	time.Sleep(8 * membersEvery)
	if n := len(looks); n > 4 { // two at the start
		t.Errorf("it looks %d times in %v", n, 8*membersEvery)
	}
	for len(looks) > 0 {
		<-looks
	}
	next := &release.Release{Number: 2, Switchover: time.Now().Add(time.Hour), Decide: time.Now()}
	view.Manifest.Next = next
	m.learnt(view)
	began := time.Now()
	select {
	case <-asked:
		t.Logf("asked after %v", time.Since(began))
	case <-time.After(lab.Patience):
		t.Error("nobody was asked of a switchover that is undecided")
	}
	for range 8 { // as often as ever
		select {
		case <-asked:
		case <-time.After(lab.Patience):
			t.Fatal("the member is asked no more")
		}
	}
	view.Manifest.Next = nil
	m.learnt(view)
	m.rounded(round{})
	if wait := m.untilAsked(false); wait != membersEvery {
		t.Errorf("while no repository is reached it looks every %v", wait)
	}
}
