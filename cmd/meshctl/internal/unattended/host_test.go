package unattended

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/enrol"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/sidecar/admin"
	"github.com/coredns-anycast/coredns-anycast/sidecar/mirror"
)

// follower is the part of a node's sidecar that a distribution host meets: its mirror, and its administrative plane.
type follower struct {
	*mirror.Mirror
	url string
}

// impostor is a server with a certificate that the distribution host has, or had: it has no repository, and says that ghost remains.
func impostor(t *testing.T, config *tls.Config) string {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != RemainingPath {
			http.NotFound(w, r)
			return
		}
		json.NewEncoder(w).Encode(status.Remaining{Version: status.Version, Members: []string{"ghost"}})
	}))
	s.TLS = config
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.URL
}

// follow has member tyo follow what is served from dir, and at other URLs.
func follow(t *testing.T, s *served, others ...string) follower {
	t.Helper()
	bundle := hometest.Bundle(s.dir, "tyo")
	in := func(name string) string { return filepath.Join(bundle, name) }
	own, err := identity.Load(identity.Files{Certificate: in("node.crt"), Key: in("node.key"), CA: in("ca.crt")}, s.logger())
	hometest.Check(t, err)
	m := mirror.New(mirror.Config{Node: "tyo", URLs: append([]string{s.url}, others...), Depot: t.TempDir(), Root: in("root.json"),
		Interval: 200 * time.Millisecond, Identity: own}, s.logger())
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { defer close(ended); m.Run(ctx) }()
	t.Cleanup(func() { stop(); <-ended })
	at := testenv.Local(t)
	plane, err := admin.Serve(at, []netip.Addr{netip.MustParseAddr("192.0.2.53")}, func() identity.AccessList { return nil }, own, admin.Sidecar{
		Status:  func(context.Context) (any, error) { return map[string]int{"version": 1}, nil },
		Metrics: http.NotFoundHandler(),
		Refuses: m.Refuses,
		Drained: func(context.Context) (status.Drained, error) { return status.Drained{}, nil },
	}, s.logger())
	hometest.Check(t, err)
	t.Cleanup(func() { plane.Close() })
	return follower{m, "https://" + at.String()}
}

// A stolen certificate of the distribution host is good for nothing once the host has a new key: nodes refuse it as a client and
// as a server that says who remains, and the host itself does. The host that runs goes on with the new one, the second time too,
// when nodes know which key was its before.
func TestTheHostGetsANewKey(t *testing.T) {
	dir := hometest.New(t, time.Now, "tyo")
	s := serve(t, dir, time.Now, 50*time.Minute)
	snapshot := func() *tls.Config {
		own, err := enrol.Identity(home.At(dir, time.Now), s.logger())
		hometest.Check(t, err)
		return own.Config()
	}
	code := func(url, path string, as *tls.Config) int {
		at := served{t: t, url: url}
		code, err := at.get(as, path)
		if err != nil {
			t.Logf("%s%s: %v", url, path, err)
		}
		return code
	}
	old := snapshot()
	node := follow(t, s, impostor(t, old.Clone()))
	remains := func() string {
		who, err := node.Remaining(t.Context())
		return fmt.Sprint(who, err)
	}
	if got := remains(); got != "[ghost] <nil>" {
		t.Errorf("before, %s remain", got)
	}
	hometest.WaitFor(t, "the first certificate is let in", func() bool { return code(node.url, "/v1/status", old) == 200 })
	for range 2 {
		w := hometest.Begin(t, dir, time.Now)
		hometest.Check(t, enrol.RenewHost(t.Context(), w, true))
		w.Close()
		now := snapshot()
		if identity.PinOf(now.Certificates[0].Leaf) == identity.PinOf(old.Certificates[0].Leaf) {
			t.Fatal("the key is the old one")
		}
		hometest.WaitFor(t, "nodes refuse the old key", func() bool { return code(node.url, "/v1/status", old) == 403 })
		hometest.WaitFor(t, "nodes take the new key", func() bool { return code(node.url, "/v1/status", now) == 200 })
		hometest.WaitFor(t, "the host serves with the new key", func() bool {
			c, err := tls.Dial("tcp", strings.TrimPrefix(s.url, "https://"), now)
			if err != nil {
				return false
			}
			defer c.Close()
			return identity.PinOf(c.ConnectionState().PeerCertificates[0]) == identity.PinOf(now.Certificates[0].Leaf)
		})
		for _, path := range []string{"/", "/" + release.TimestampName} {
			if got, want := [2]int{code(s.url, path, old), code(s.url, path, now)}, [2]int{403, 200}; got != want {
				t.Errorf("%s with the old and the new key: %v, want %v", path, got, want)
			}
		}
		old = now
	}
	if got := remains(); got != "[] <nil>" { // by the word of the host, which is believed with the new key
		t.Errorf("after, %s remain", got)
	}
	w := hometest.Begin(t, dir, time.Now)
	hometest.Check(t, enrol.RenewHost(t.Context(), w, false))
	if all := enrol.Operators(home.At(dir, time.Now), w.View().Manifest); len(all) != 0 {
		t.Errorf("the host is no operator: %v", all)
	}
	w.Close()
	if got := code(node.url, "/v1/status", snapshot()); got != 200 {
		t.Errorf("a new certificate for the same key: %d", got)
	}
}
