package mesh_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/identity"
	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// outageLease is short enough to see its end, and long enough that half of it is not missed on a busy machine.
const outageLease = 20 * time.Second

// newServedMesh is a mesh with a distribution host whose process the test has in hand.
func newServedMesh(t *testing.T, lease, renew string, nodes ...string) (m *mesh, serve *lab.Process) {
	m = meshOf(newWorld(t), nodes...)
	m.machines()
	m.startTime()
	m.init("--lease", lease)
	m.world.write("home/meshctl.yaml", "serve: {listen: '198.51.100.1:8443', access: [198.51.100.0/24], metrics: '127.0.0.1:9155', renew: "+renew+"}\n")
	serve = m.start("dist", "serve", m.bin+"/meshctl", "--home", m.path("home"), "serve")
	for _, node := range nodes {
		m.startNode(node)
	}
	m.number++
	m.meshctl("release", "--now", m.write("example.org.zone", zoneText(m.number)))
	for _, node := range nodes {
		m.awaitServing(node, m.number)
		m.awaitSidecar(node, "synchronised, and its clock good enough", goodClock) // to answer, any clock will do that is known
	}
	return m, serve
}

// TestCRoot: in May 2024 C-root stopped getting zones, and nobody was told for days. Here the distribution host cannot
// sign any more, then stands still without a word: once half the lease is over every alarm there is has fired, and nodes
// answer until the lease ends, and not after it (FAIL-4, SYNC-F).
func TestCRoot(t *testing.T) {
	m, serve := newServedMesh(t, outageLease.String(), "2s", "tyo", "osa")

	// It is alive and cannot publish. Everybody says so while nodes answer, and it passes.
	key := m.path("home", "keys", "lease.pem")
	m.must(os.Rename(key, key+".away"))
	m.allAlarms(true)
	m.eventually(30*time.Second, "serve says why, and raises the alarm", func() (bool, string) {
		log := readFile(serve.Log)
		return strings.Contains(log, "the lease cannot be kept") && strings.Contains(log, "lease-not-renewed"), lab.Tail(serve.Log, 3)
	})
	m.eventually(30*time.Second, "its metrics have the alarm", func() (bool, string) {
		said := m.get("dist", "http://127.0.0.1:9155/metrics")
		return strings.Contains(said, `meshctl_alarms{code="lease-not-renewed"} 1`), said
	})
	m.must(os.Rename(key+".away", key))
	m.allAlarms(false)
	for _, node := range m.nodes {
		m.awaitServing(node, m.number)
	}

	// It stands still. Its metrics and its log are silent too: the alarms of others are what is left.
	loads := map[string]*lab.Load{}
	serve.Signal(syscall.SIGSTOP)
	m.top.Cleanup(func() { serve.Signal(syscall.SIGCONT) })
	for _, node := range m.nodes {
		loads[node] = m.load(node, shared4, 5*time.Millisecond)
	}
	m.allAlarms(true)
	ends := map[string]time.Time{}
	bounds := map[string]time.Duration{}
	for _, node := range m.nodes {
		n, _ := m.status(node)
		ends[node], bounds[node] = n.LeaseExpires.Time(), n.Clock.Bound
		if n.Serving != m.number || time.Until(ends[node]) < 0 {
			t.Errorf("%s has the alarm, and yet serves %d until %v", node, n.Serving, ends[node])
		}
	}
	for _, node := range m.nodes {
		m.awaitSilent(node, "lease-ended")
		if !strings.Contains(readFile(m.coredn[node].Log), "silent: lease-ended") {
			t.Errorf("%s does not log that it is silent", node)
		}
	}
	m.eventually(30*time.Second, "status says that the lease has ended", func() (bool, string) {
		out := m.meshctl("status")
		return strings.Contains(out, "ENDED") && strings.Count(out, "SILENT") == len(m.nodes), out
	})
	for node, l := range loads {
		m.silentFromThere(node, l.End(), ends[node], bounds[node])
	}
	serve.Signal(syscall.SIGCONT)
	for _, node := range m.nodes {
		m.awaitServing(node, m.number)
	}
	m.allAlarms(false)
}

// allAlarms waits until every place that is to raise the alarm of a lease that is not renewed has done so, or has ended it.
func (m *mesh) allAlarms(on bool) {
	m.t.Helper()
	m.eventually(60*time.Second, "meshctl status has the alarm of this host and of each node, or none of them has it", func() (bool, string) {
		out := m.meshctl("status")
		n := strings.Count(out, "lease-not-renewed")
		return on && n == 1+len(m.nodes) || !on && n == 0, out
	})
	for _, node := range m.nodes {
		m.await(node, node+" warns that its lease is not renewed, or does not", func(n status.Node) bool {
			return on == (len(n.Warnings) == 1 && n.Warnings[0].Code == "lease-not-renewed")
		})
		if on && !strings.Contains(readFile(m.coredn[node].Log), "lease-not-renewed") {
			m.errorf("%s does not log it", node)
		}
		if said := m.get(node, "http://127.0.0.1:9153/metrics"); !strings.Contains(said, "coredns_meshsync_lease_expiry_timestamp_seconds 1") {
			m.errorf("metrics of %s have no lease: %.200s", node, said)
		}
	}
}

// silentFromThere checks what became of questions around the end of a lease, the clock being wrong by e at the most: each
// was answered that was sent in time, but for what takes a busy machine to get to it, and none that was sent later.
func (m *mesh) silentFromThere(node string, answers []lab.Sample, end time.Time, e time.Duration) {
	var last, firstLost time.Time
	late, early := 0, 0
	for _, a := range answers {
		switch {
		case !a.Answered():
			if firstLost.IsZero() {
				firstLost = a.Sent
			}
			if a.Sent.Before(end.Add(-e - time.Second)) {
				early++
			}
		default:
			last = a.Sent
			if a.Sent.After(end.Add(e)) {
				late++
			}
		}
	}
	m.t.Logf("%s: the lease ended at %v ± %v; last answered question %v before, first without an answer %v before", node, end, e, end.Sub(last), end.Sub(firstLost))
	if late > 0 || early > 0 || last.IsZero() || firstLost.IsZero() {
		m.errorf("%s: of %d questions %d were answered after the end of the lease, %d were lost before", node, len(answers), late, early)
	}
}

// get fetches a page from within a host.
func (m *mesh) get(host, url string) string {
	client := http.Client{Timeout: 5 * time.Second, Transport: m.transport(host, nil)}
	r, err := client.Get(url)
	if err != nil {
		return err.Error()
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err.Error()
	}
	return r.Status + "\n" + string(body)
}

// transport makes every connection from within a host, as whom the configuration says.
func (m *mesh) transport(host string, config *tls.Config) *http.Transport {
	return &http.Transport{TLSClientConfig: config, DisableKeepAlives: true, Dial: func(network, address string) (conn net.Conn, err error) {
		m.within(host, func() { conn, err = net.DialTimeout(network, address, 3*time.Second) })
		return conn, err
	}}
}

// TestCertificates: strangers, a removed member, expired certificates, and whoever comes by the shared address, read
// nothing from the distribution host and from a node's administrative plane; and they are named in the log (DELIV-1, 2).
func TestCertificates(t *testing.T) {
	m, serve := newServedMesh(t, "1h", "10m", "tyo", "osa")
	m.mustRun("dist", m.bin+"/meshctl", "--home", m.path("other"), "init", "--mesh", "other", "--san", "198.51.100.1")
	m.mustRun("dist", m.bin+"/meshctl", "--home", m.path("other"), "member", "add", "stranger", "--admin", "198.51.100.9:8443")
	member := func(home, name string) tls.Certificate { return m.pair(home, "members", name, "node") }
	removed := member("home", "osa")
	m.meshctl("member", "remove", "osa")

	blobs, err := filepath.Glob(m.path("home", "repository", "blobs", "sha256", "*"))
	if err != nil || len(blobs) == 0 {
		t.Fatal(blobs, err)
	}
	// A removed member still gets the metadata, so that it learns that it was removed, and no zones.
	host, admin := "https://198.51.100.1:8443/blobs/sha256/"+filepath.Base(blobs[0]), "https://"+m.admin("tyo")+":8443/v1/status"
	for _, c := range []struct {
		who         string
		certificate *tls.Certificate
		hostSays    string // "" is no answer at all
		adminSays   string
		logged      [2]string // by the distribution host, and the node's sidecar
	}{
		{"a member, at its own node", ptr(member("home", "tyo")), "200", "200", [2]string{}},
		{"the distribution host", ptr(m.pair("home", "pki", "", "host")), "200", "200", [2]string{}},
		{"a removed member", &removed, "403", "403", [2]string{`not a member of this mesh" name=osa`, `reads nothing here" name=osa`}},
		{"a stranger", ptr(member("other", "stranger")), "", "", [2]string{`certificate refused" name=stranger`, `certificate refused" name=stranger`}},
		{"an expired host", ptr(m.expired("late-host", identity.Host)), "", "", [2]string{`certificate refused" name=late-host`, `certificate refused" name=late-host`}},
		{"an expired member", ptr(m.expired("tyo", identity.Node)), "", "", [2]string{`certificate refused" name=tyo`, `certificate refused" name=tyo`}},
		{"nobody", nil, "", "", [2]string{"didn't provide a certificate", ""}},
	} {
		for i, url := range []string{host, admin} {
			said := m.readAs(c.certificate, url)
			want := []string{c.hostSays, c.adminSays}[i]
			if want == "" && !strings.HasPrefix(said, "error: ") || !strings.HasPrefix(said, want) {
				t.Errorf("%s at %s: %.100q, want %q", c.who, url, said, want)
			}
			log := []string{serve.Log, m.side["tyo"].Log}[i]
			m.eventually(10*time.Second, c.who+" is named in "+log, func() (bool, string) {
				return strings.Contains(readFile(log), c.logged[i]), lab.Tail(log, 3)
			})
		}
	}
	m.within("dist", func() { // a certificate would not help: nothing is read
		from := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}, Timeout: 3 * time.Second}
		conn, err := from.Dial("tcp", "198.51.100.1:8443")
		m.must(err)
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(3 * time.Second))
		if n, err := conn.Read(make([]byte, 1)); n > 0 || err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("an address out of the access list: %d octets, %v", n, err)
		}
	})
	m.eventually(10*time.Second, "that address is named in "+serve.Log, func() (bool, string) {
		return strings.Contains(readFile(serve.Log), "access list\" remote=127.0.0.1"), lab.Tail(serve.Log, 3)
	})
	for _, address := range []string{shared4, shared6} {
		for _, port := range []string{"8443", "8444", "8181", "9153"} {
			m.within("tyo", func() {
				conn, err := net.DialTimeout("tcp", net.JoinHostPort(address, port), 3*time.Second)
				if err == nil {
					conn.Close()
					t.Errorf("port %s answers on the shared address %s", port, address)
				}
			})
		}
	}
}

// TestOperators: somebody far away drains a node with silence, which outlasts the sidecar, and ends it again; when their
// certificate is revoked nodes know, and still do when the distribution host is gone.
func TestOperators(t *testing.T) {
	m, serve := newServedMesh(t, "1h", "10m", "tyo", "osa")
	m.meshctl("operator", "add", "jane")
	m.meshctl("operator", "add", "grafana", "--observer")
	jane, grafana := ptr(m.pair("home", "operators", "jane", "operator")), ptr(m.pair("home", "operators", "grafana", "operator"))
	admin := m.admin("tyo") + ":8443"
	says := func(who *tls.Certificate, want string) {
		t.Helper()
		m.eventually(20*time.Second, want+" from "+admin, func() (bool, string) {
			said := m.readAs(who, "https://"+admin+"/v1/status")
			return strings.HasPrefix(said, want), said[:min(len(said), 100)]
		})
	}
	order := func(what, who string, args ...string) (string, error) {
		return m.run("dist", append([]string{m.bin + "/anycast-sidecar", what, "--node", admin, "--identity", m.path("home", "operators", who)}, args...)...)
	}
	says(jane, "200")
	says(grafana, "200")
	t.Run("by the page", m.sub(func(*testing.T) { m.testOrdersByThePage(jane, grafana) }))
	if out, err := order("drain", "grafana"); err == nil || !strings.Contains(out, "gives no orders here") {
		t.Errorf("an observer drains: %v %s", err, out)
	}
	out, err := order("drain", "jane", "--wait", "0s", "--silence", "--why", "new fans")
	if err != nil || !strings.Contains(out, "route withdrawn, silent") {
		t.Errorf("drain: %v %s", err, out)
	}
	silent := func(when string) {
		t.Helper()
		m.await("tyo", "tyo is silent for nothing but the drain, "+when, func(n status.Node) bool {
			return n.Serving == 0 && len(n.Silent) == 1 && n.Silent[0].Code == "drained" &&
				strings.Contains(n.Silent[0].Detail, "by jane") && strings.Contains(n.Silent[0].Detail, "new fans")
		})
		if answer := m.ask("tyo", "udp", shared4, "example.org.", dns.TypeSOA); answer != nil {
			t.Errorf("%s: an answer: %v", when, answer)
		}
	}
	silent("when the command has returned")
	m.side["tyo"].Kill()
	silent("without a sidecar")
	m.startSidecar("tyo")
	says(jane, "200")
	silent("with the next sidecar")
	m.coredn["tyo"].Kill()
	m.startCoreDNS("tyo")
	silent("with the next CoreDNS")
	if out, err := order("undrain", "jane"); err != nil {
		t.Errorf("undrain: %v %s", err, out)
	}
	m.awaitServing("tyo", m.number)

	m.meshctl("operator", "remove", "jane")
	says(jane, "403")
	serve.Kill()
	m.side["tyo"].Kill()
	m.startSidecar("tyo")
	says(grafana, "200")
	says(jane, "403")
	if log := readFile(m.side["tyo"].Log); !strings.Contains(log, "no operator of this mesh\" name=jane") {
		t.Errorf("she is not named:\n%s", lab.Tail(m.side["tyo"].Log, 5))
	}
}

func ptr[T any](v T) *T { return &v }

// pair is the certificate in a directory of a home.
func (m *mesh) pair(home, dir, name, file string) tls.Certificate {
	m.t.Helper()
	at := m.path(home, dir, name, file)
	pair, err := tls.LoadX509KeyPair(at+".crt", at+".key")
	m.must(err)
	return pair
}

// expired is a certificate that the mesh's authority made, and that has ended.
func (m *mesh) expired(name, role string) tls.Certificate {
	m.t.Helper()
	ca := m.pair("home", "pki", "", "ca")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	m.must(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name, OrganizationalUnit: []string{role}},
		NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: time.Now().Add(-time.Minute), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.Leaf, key.Public(), ca.PrivateKey)
	m.must(err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// readAs says what a server of the mesh answers to the holder of a certificate that comes from the distribution host's
// place: the status and the body, or the error.
func (m *mesh) readAs(certificate *tls.Certificate, url string) string {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(readFile(m.path("home", "pki", "ca.crt"))))
	config := &tls.Config{RootCAs: pool}
	if certificate != nil { // shown whatever authorities the server names
		config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	r, err := (&http.Client{Timeout: 5 * time.Second, Transport: m.transport("dist", config)}).Get(url)
	if err != nil {
		return "error: " + err.Error()
	}
	defer r.Body.Close()
	body, _ := io.ReadAll(r.Body)
	return r.Status + "\n" + string(body)
}
