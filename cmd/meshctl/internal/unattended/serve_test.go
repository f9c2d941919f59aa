package unattended

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/enrol"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/hometest"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/keys"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/releasing"
	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/switchover"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/mesh"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// logBuffer is a log that a test reads while it is written.
type logBuffer struct {
	guard sync.Mutex
	b     bytes.Buffer
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.guard.Lock()
	defer l.guard.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) String() string {
	l.guard.Lock()
	defer l.guard.Unlock()
	return l.b.String()
}

// served is a dir that is being served.
type served struct {
	t    *testing.T
	dir  string
	url  string
	log  *logBuffer
	stop func() error

	server *Server
}

func serve(t *testing.T, dir string, clock home.Clock, renew time.Duration) *served {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	hometest.Check(t, err)
	s := &served{t: t, dir: dir, url: "https://" + listener.Addr().String(), log: &logBuffer{}}
	nobody := func(_ context.Context, members []release.Member) map[string]switchover.Answer {
		answers := map[string]switchover.Answer{}
		for _, m := range members {
			answers[m.Name] = switchover.Answer{Err: errors.New("it is not there")}
		}
		return answers
	}
	driver := switchover.NewDriver(home.At(dir, clock), nobody, mesh.Policy{Renew: renew, Absent: mesh.Absent{After: time.Hour}}, s.logger())
	server := &Server{Home: home.At(dir, clock), Mesh: driver.State, Log: s.logger(), Ask: nobody}
	s.server = server
	server.Page = func(refuses func(*x509.Certificate) string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if why := refuses(r.TLS.PeerCertificates[0]); why != "" {
				http.Error(w, why, http.StatusForbidden)
				return
			}
			if now, err := server.Status(r.Context()); err != nil || len(now.Members) == 0 {
				http.Error(w, fmt.Sprint(now, err), http.StatusInternalServerError)
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { driver.Run(ctx) }()
	go func() { ended <- server.Run(ctx, listener) }()
	s.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() { s.stop() })
	return s
}

func (s *served) logger() *slog.Logger { return slog.New(slog.NewTextHandler(s.log, nil)) }

func (s *served) get(config *tls.Config, path string) (int, error) {
	s.t.Helper()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}, Timeout: 5 * time.Second}
	response, err := client.Get(s.url + path)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	return response.StatusCode, err
}

func TestMembersMirrorFromServe(t *testing.T) {
	dir := hometest.New(t, time.Now, "tyo")
	hometest.MustRelease(t, dir, time.Now, 1, releasing.Options{Now: true})
	s := serve(t, dir, time.Now, 50*time.Minute)
	bundle := hometest.Bundle(dir, "tyo")
	root, err := os.ReadFile(filepath.Join(bundle, "root.json"))
	hometest.Check(t, err)
	mem, err := release.NewMemory(root)
	hometest.Check(t, err)
	d, err := depot.Create(t.TempDir())
	hometest.Check(t, err)
	defer d.Close()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: hometest.TLS(t, bundle)}}
	view, _, changed, err := hometest.Mirror(t.Context(), depot.Source{Client: client, URL: s.url}, d, mem)
	hometest.Check(t, err)
	if !changed || view.Manifest.Current.Number != 1 {
		t.Fatalf("mirrored %v", view)
	}
}

func TestStrangersAndRemovedMembersAreRefusedAndNamed(t *testing.T) {
	dir := hometest.New(t, time.Now, "osa", "tyo")
	s := serve(t, dir, time.Now, 50*time.Minute)
	const path = "/" + release.TimestampName
	tyo := hometest.TLS(t, hometest.Bundle(dir, "tyo"))
	if code, err := s.get(tyo, path); code != 200 {
		t.Fatalf("a member got %d, %v", code, err)
	}
	own, err := enrol.Identity(home.At(dir, time.Now), s.logger())
	hometest.Check(t, err)
	if code, err := s.get(own.Config(), path); code != 200 {
		t.Fatalf("this host got %d, %v", code, err)
	}

	nobody := tyo.Clone()
	nobody.Certificates = nil
	if code, err := s.get(nobody, path); err == nil {
		t.Errorf("without a certificate: %d", code)
	}
	other := hometest.TLS(t, hometest.Bundle(hometest.New(t, time.Now, "tyo"), "tyo"))
	other.RootCAs = tyo.RootCAs
	if code, err := s.get(other, path); err == nil {
		t.Errorf("with a certificate of another mesh: %d", code)
	}
	old := tyo.Clone()
	old.MaxVersion = tls.VersionTLS12
	if code, err := s.get(old, path); err == nil {
		t.Errorf("with TLS 1.2: %d", code)
	}
	hometest.WaitFor(t, "refused handshakes in the log", func() bool { return strings.Count(s.log.String(), "TLS handshake error") == 3 })

	h := hometest.Begin(t, dir, time.Now)
	hometest.Check(t, enrol.RemoveMember(t.Context(), h, "tyo"))
	h.Close()
	for _, refused := range []string{CertificatePath, "/blobs/sha256/" + strings.Repeat("0", 64)} {
		if code, err := s.get(tyo, refused); code != 403 {
			t.Errorf("a removed member got %s: %d, %v", refused, code, err)
		}
	}
	if code, err := s.get(tyo, path); code != 200 { // so that it learns of it
		t.Errorf("a removed member did not get the metadata: %d, %v", code, err)
	}
	if !strings.Contains(s.log.String(), `refused: not a member of this mesh" name=tyo`) {
		t.Errorf("not named: %s", s.log)
	}
	if code, _ := s.get(hometest.TLS(t, hometest.Bundle(dir, "osa")), path); code != 200 {
		t.Errorf("the member that stayed got %d", code)
	}
}

// A member that comes back under its name gets a key of its own: the certificate that was taken from it stays revoked.
func TestACertificateOfAnEarlierMembershipStaysRevoked(t *testing.T) {
	dir := hometest.New(t, time.Now, "tyo")
	s := serve(t, dir, time.Now, 50*time.Minute)
	const path = "/" + release.TimestampName
	earlier := hometest.TLS(t, hometest.Bundle(dir, "tyo"))
	old := t.TempDir()
	hometest.Check(t, os.CopyFS(old, os.DirFS(hometest.Bundle(dir, "tyo"))))
	h := hometest.Begin(t, dir, time.Now)
	hometest.Check(t, enrol.RemoveMember(t.Context(), h, "tyo"))
	dir, err := enrol.AddMember(t.Context(), h, enrol.NewMember{Name: "tyo", Admin: "127.0.0.1:40000"})
	hometest.Check(t, err)
	h.Close()
	if code, err := s.get(hometest.TLS(t, dir), path); code != 200 {
		t.Errorf("with the new certificate: %d %v", code, err)
	}
	if code, err := s.get(earlier, path); code != 403 || !strings.Contains(s.log.String(), "its certificate was revoked") {
		t.Errorf("with the earlier one: %d %v\n%s", code, err, s.log)
	}

	// A backup may bring the earlier bundle back into the home. Its key is not taken again by that, and the node's key stays.
	current := hometest.TLS(t, dir)
	hometest.Check(t, os.RemoveAll(dir))
	hometest.Check(t, os.CopyFS(dir, os.DirFS(old)))
	h = hometest.Begin(t, filepath.Dir(filepath.Dir(dir)), time.Now)
	if err := enrol.RenewMember(t.Context(), h, "tyo", false); err == nil || !strings.Contains(err.Error(), "was revoked") {
		t.Errorf("a new certificate for the revoked key: %v", err)
	}
	hometest.Check(t, enrol.RenewMember(t.Context(), h, "tyo", true))
	h.Close()
	for i, config := range []*tls.Config{earlier, current, hometest.TLS(t, dir)} {
		if code, err := s.get(config, path); code != []int{403, 200, 200}[i] {
			t.Errorf("certificate %d after the key was made anew: %d %v", i, code, err)
		}
	}
}

// Certificates are renewed in the last third of their life, for the same key, and each member finds its own.
func TestServeRenewsCertificates(t *testing.T) {
	dir := hometest.New(t, time.Now, "osa", "tyo")
	bundle := hometest.Bundle(dir, "tyo")
	before := hometest.TLS(t, bundle).Certificates[0].Leaf
	servesItsCertificate(t, dir, "tyo")
	for _, c := range []struct {
		days    int
		renewed bool
	}{{0, false}, {450, false}, {500, true}} {
		later := hometest.At(time.Now().AddDate(0, 0, c.days))
		h := hometest.Begin(t, dir, later)
		names, err := enrol.RenewDue(t.Context(), h)
		h.Close()
		hometest.Check(t, err)
		want := ""
		if c.renewed {
			want = "distribution-host osa tyo"
		}
		if strings.Join(names, " ") != want {
			t.Fatalf("after %d days %q were renewed, want %q", c.days, names, want)
		}
	}
	after := hometest.TLS(t, bundle).Certificates[0].Leaf
	if !after.NotAfter.After(before.NotAfter) || identity.PinOf(after) != identity.PinOf(before) || len(after.IPAddresses) != 1 {
		t.Errorf("from %v to %v", before.NotAfter, after.NotAfter)
	}
}

// servesItsCertificate reports a member that does not find its newest certificate.
func servesItsCertificate(t *testing.T, dir, name string) {
	t.Helper()
	bundle := hometest.Bundle(dir, name)
	s := serve(t, dir, time.Now, 50*time.Minute)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: hometest.TLS(t, bundle)}}
	response, err := client.Get(s.url + CertificatePath)
	hometest.Check(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	hometest.Check(t, err)
	want, err := os.ReadFile(filepath.Join(bundle, "node.crt"))
	hometest.Check(t, err)
	if response.StatusCode != 200 || !bytes.Equal(body, want) {
		t.Errorf("%s: %s", response.Status, body)
	}
}

// With a new key the old one serves until the next renewal, since the bundle must be carried to the node.
func TestAMemberGetsANewKey(t *testing.T) {
	dir := hometest.New(t, time.Now, "tyo")
	s := serve(t, dir, time.Now, 50*time.Minute)
	const path = "/" + release.TimestampName
	var had []*tls.Config
	for i, want := range []string{"200", "200 200", "403 200 200"} {
		if i > 0 {
			h := hometest.Begin(t, dir, time.Now)
			hometest.Check(t, enrol.RenewMember(t.Context(), h, "tyo", true))
			h.Close()
		}
		had = append(had, hometest.TLS(t, hometest.Bundle(dir, "tyo")))
		var codes []string
		for _, config := range had {
			code, err := s.get(config, path)
			hometest.Check(t, err)
			codes = append(codes, fmt.Sprint(code))
		}
		if got := strings.Join(codes, " "); got != want {
			t.Errorf("after %d new keys the keys get %s, want %s", i, got, want)
		}
	}
}

// The page is for operators and observers who are listed, and for this host: no member sees it, and no operator the repository.
func TestThePageIsForOperatorsAndObservers(t *testing.T) {
	dir := hometest.New(t, time.Now, "tyo")
	w := hometest.Begin(t, dir, time.Now)
	certificates := map[string]*tls.Config{"member": hometest.TLS(t, hometest.Bundle(dir, "tyo"))}
	for name, role := range map[string]string{"noc": identity.Operator, "screen": identity.Observer, "gone": identity.Operator} {
		bundle, err := enrol.AddOperator(t.Context(), w, name, role)
		hometest.Check(t, err)
		certificates[name] = certificates["member"].Clone()
		pair, err := tls.LoadX509KeyPair(filepath.Join(bundle, "operator.crt"), filepath.Join(bundle, "operator.key"))
		hometest.Check(t, err)
		certificates[name].Certificates = []tls.Certificate{pair}
	}
	hometest.Check(t, enrol.RemoveOperator(t.Context(), w, "gone"))
	w.Close()
	s := serve(t, dir, time.Now, 50*time.Minute)
	own, err := enrol.Identity(home.At(dir, time.Now), s.logger())
	hometest.Check(t, err)
	certificates["host"] = own.Config()
	for name, want := range map[string][2]int{"member": {403, 200}, "noc": {200, 403}, "screen": {200, 403}, "gone": {403, 403}, "host": {200, 200}} {
		for i, path := range []string{"/", "/" + release.TimestampName} {
			if code, err := s.get(certificates[name], path); code != want[i] {
				t.Errorf("%s: %s got %d, %v; want %d", path, name, code, err, want[i])
			}
		}
		if code, err := s.get(certificates[name], "/page/events"); code != want[0] {
			t.Errorf("/page/events: %s got %d, %v", name, code, err)
		}
	}
}

func TestARemovedMemberIsRefusedOnTheConnectionItHas(t *testing.T) {
	dir := hometest.New(t, time.Now, "tyo")
	s := serve(t, dir, time.Now, 50*time.Minute)
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: hometest.TLS(t, hometest.Bundle(dir, "tyo"))}}
	for i, want := range []int{200, 403} {
		if i == 1 {
			h := hometest.Begin(t, dir, time.Now)
			hometest.Check(t, enrol.RemoveMember(t.Context(), h, "tyo"))
			h.Close()
		}
		response, err := client.Get(s.url + CertificatePath)
		hometest.Check(t, err)
		io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if response.StatusCode != want {
			t.Fatalf("request %d: %d, want %d", i, response.StatusCode, want)
		}
	}
}

func TestServeRenewsTheLease(t *testing.T) {
	var guard sync.Mutex
	now := hometest.Start
	clock := func() time.Time { guard.Lock(); defer guard.Unlock(); return now }
	dir := hometest.New(t, clock, "tyo")
	hometest.MustRelease(t, dir, clock, 1, releasing.Options{})
	serve(t, dir, clock, 10*time.Minute)
	for _, test := range []struct{ after, lease time.Duration }{{0, time.Hour}, {11 * time.Minute, 71 * time.Minute}, {22 * time.Minute, 82 * time.Minute}} {
		guard.Lock()
		now = hometest.Start.Add(test.after)
		guard.Unlock()
		hometest.WaitFor(t, fmt.Sprintf("%+v", test), func() bool {
			v, err := home.At(dir, time.Now).View(t.Context())
			hometest.Check(t, err)
			return v.LeaseExpires.Equal(hometest.Start.Add(test.lease))
		})
	}
}

// TestServeGoesOnWithADamagedTree: it is started with a file damaged that names zones. Leases are renewed, and members let in; an alarm names the
// file, until it is there again, and then releases are made as before.
func TestServeGoesOnWithADamagedTree(t *testing.T) {
	var guard sync.Mutex
	now := hometest.Start
	clock := func() time.Time { guard.Lock(); defer guard.Unlock(); return now }
	dir := hometest.New(t, clock, "tyo")
	hometest.ManyZones(t, dir, clock)
	view, err := home.At(dir, clock).View(t.Context())
	hometest.Check(t, err)
	name := slices.Collect(view.Manifest.Nodes())[3]
	file := filepath.Join(dir, "repository", name)
	data, err := os.ReadFile(file)
	hometest.Check(t, err)
	hometest.Check(t, os.WriteFile(file, data[1:], 0o600))
	s := serve(t, dir, clock, 10*time.Minute)
	damaged := func() bool {
		return slices.ContainsFunc(s.server.Alarms(), func(r status.Reason) bool {
			return r.Code == AlarmDamaged && strings.Contains(r.Detail, name) && AlarmOf(r).Level == LevelError
		})
	}
	hometest.WaitFor(t, "the alarm", damaged)
	guard.Lock()
	now = hometest.Start.Add(11 * time.Minute)
	guard.Unlock()
	hometest.WaitFor(t, "a lease", func() bool {
		v, err := home.At(dir, clock).View(t.Context())
		if !release.OfZones(err) {
			t.Fatal(err)
		}
		return v.LeaseExpires.Equal(hometest.Start.Add(71 * time.Minute))
	})
	if code, err := s.get(hometest.TLS(t, hometest.Bundle(dir, "tyo")), "/"+release.TimestampName); err != nil || code != http.StatusOK {
		t.Errorf("a member is answered %d, %v", code, err)
	}
	hometest.Check(t, os.WriteFile(file, data, 0o600))
	hometest.WaitFor(t, "the end of the alarm", func() bool { return !damaged() })
	hometest.MustRelease(t, dir, clock, 2, releasing.Options{Keep: true})
}

func TestServeEndsWhenItIsTold(t *testing.T) {
	s := serve(t, hometest.New(t, time.Now), time.Now, 50*time.Minute)
	hometest.Check(t, s.stop())
	if _, err := net.Dial("tcp", strings.TrimPrefix(s.url, "https://")); err == nil {
		t.Fatal("it still listens")
	}
}

func TestServeRenewsALeaseThatIsShorterThanItsAgeMayBe(t *testing.T) {
	dir := hometest.New(t, time.Now)
	before := hometest.Promised(t, dir)
	later := hometest.At(time.Now().Add(45 * time.Minute)) // of the hour that a lease lasts
	s := serve(t, dir, later, 2*time.Hour)
	hometest.WaitFor(t, "a lease before the old one ends", func() bool { return hometest.Promised(t, dir).After(before) })
	s.stop()
}

func TestAnEmergencyLeaseNeedsTheLeaseKeyOnly(t *testing.T) {
	dir := hometest.New(t, hometest.At(hometest.Start), "tyo")
	hometest.MustRelease(t, dir, hometest.At(hometest.Start), 1, releasing.Options{})
	h := hometest.Begin(t, dir, hometest.At(hometest.Start))
	hometest.SetSwitchover(t, h, hometest.Start.Add(time.Minute))
	h.Close()
	hometest.Check(t, os.Remove(filepath.Join(dir, keys.Dir, "release.pem")))
	hometest.Check(t, os.Remove(filepath.Join(dir, keys.Dir, "root.pem")))
	later := hometest.At(hometest.Start.Add(time.Hour)) // the switchover has passed, and cannot be put on record
	h = hometest.Begin(t, dir, later)
	until, err := h.Renew(t.Context(), 0)
	hometest.Check(t, err)
	h.Close()
	if !until.Equal(hometest.Start.Add(2*time.Hour)) || !hometest.NewNode(t, dir).Verify().LeaseExpires.Equal(until) {
		t.Fatalf("until %v", until)
	}
	h = hometest.Begin(t, dir, later)
	defer h.Close()
	driver := switchover.NewDriver(home.At(dir, later), func(context.Context, []release.Member) map[string]switchover.Answer { return nil }, mesh.Policy{Renew: 10 * time.Minute}, nil)
	if r, err := driver.Round(t.Context()); err != nil || r.Decision.Publish != nil {
		t.Fatalf("serve would publish without end: %v, %+v", err, r.Decision)
	}
	if _, err := enrol.AddOperator(t.Context(), h, "noc", identity.Operator); err == nil || !strings.Contains(err.Error(), "release key is not there") {
		t.Fatalf("got %v", err)
	}
}
