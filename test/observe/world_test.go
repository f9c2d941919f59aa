// Package observe_test runs a mesh on loopback addresses, has a real Prometheus scrape it as deploy/prometheus says, and checks
// that everything in deploy/prometheus and deploy/grafana asks for what the programs really expose. It needs no root.
package observe_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

var binaries = testenv.Binaries{Commands: map[string]string{"coredns": "cmd/coredns", "anycast-sidecar": "sidecar", "meshctl": "cmd/meshctl"}}

func TestMain(m *testing.M) { binaries.Main(m) }

// world is a distribution host and two nodes:
//
//	dist 127.77.0.1    tyo1 127.77.0.7, answers at 127.77.1.7    osa1 127.77.0.8, answers at 127.77.1.8
//
// Nothing answers BGP, but where a picture is made: that a session is down is a metric as well.
type world struct {
	*testing.T
	dir, bin   string
	host       int // port of the distribution host
	metrics    int // port of its metrics
	admin, dns int // ports of the nodes
	prometheus int
	bgp        int // port at which both nodes look for a router
	servers    map[string]*lab.Process
}

var nodes = map[string]string{"tyo1": "7", "osa1": "8"}

// newWorld starts a mesh that answers from release 1.
func newWorld(t *testing.T) *world {
	w := &world{T: t, dir: t.TempDir(), bin: binaries.Dir(t), host: testenv.Port(t), metrics: testenv.Port(t), admin: testenv.Port(t), dns: testenv.Port(t), bgp: testenv.Port(t), servers: map[string]*lab.Process{}}
	w.zones(1, "example.org", "example.net")
	w.meshctl("init", "--mesh", "observe", "--san", "127.77.0.1", "--shared", "127.77.1.7,127.77.1.8", "--url", fmt.Sprintf("https://127.77.0.1:%d/", w.host))
	w.meshctl("operator", "add", "prometheus", "--observer")
	for name, last := range nodes {
		w.meshctl("member", "add", name, "--admin", fmt.Sprintf("127.77.0.%s:%d", last, w.admin))
		w.configure(name, last)
	}
	lab.Write(t, w.path("home/meshctl.yaml"), fmt.Sprintf("releases: {every: 1s}\nserve: {listen: '127.77.0.1:%d', metrics: '127.0.0.1:%d', log: json}\n", w.host, w.metrics))
	w.start("meshctl", "--home", w.path("home"), "serve", "--zones", w.path("zones"))
	for name := range nodes {
		w.start("anycast-sidecar", "run", w.path(name, "sidecar.yaml"))
		w.serve(name)
	}
	w.awaitRelease(1)
	return w
}

// serve starts a node's server.
func (w *world) serve(name string) {
	w.servers[name] = w.start("coredns", "-conf", w.path(name, "Corefile"))
}

func (w *world) path(elements ...string) string {
	return filepath.Join(append([]string{w.dir}, elements...)...)
}

// zones writes zone files, with this serial.
func (w *world) zones(serial int, zones ...string) {
	for _, zone := range zones {
		text := fmt.Sprintf("$ORIGIN %s.\n@ 60 SOA ns.example.com. host.example.com. %d 3600 600 86400 60\n@ 60 NS ns.example.com.\n@ 60 NS ns.example.edu.\nwww 60 A 192.0.2.1\n", zone, serial)
		lab.Write(w, w.path("new"), text)
		lab.Must(w, os.MkdirAll(w.path("zones"), 0o755))
		lab.Must(w, os.Rename(w.path("new"), w.path("zones", zone+".zone")))
	}
}

// configure writes what a node's programs read. Its identity is in the directory of its bundle.
func (w *world) configure(name, last string) {
	dir, bundle := w.path(name), w.path("home/members", name)
	lab.Must(w, os.MkdirAll(filepath.Join(dir, "node"), 0o755))
	lab.Write(w, filepath.Join(dir, "Corefile"), strings.NewReplacer("DIR", dir, "BUNDLE", bundle, "NAME", name, "LAST", last, "PORT", fmt.Sprint(w.dns)).Replace(`.:PORT {
    sharedunicast 127.77.1.LAST {
        admin 127.77.0.LAST
        rrl 100
    }
    meshsync DIR/node {
        repository DIR/repository
        root BUNDLE/root.json
        node NAME
        clock sidecar unix://DIR/sidecar.sock
        status unix://DIR/meshsync.sock
    }
    prometheus 127.77.0.LAST:9153
    errors
}
`))
	lab.Write(w, filepath.Join(dir, "sidecar.yaml"), strings.NewReplacer("DIR", dir, "BUNDLE", bundle, "NAME", name, "LAST", last,
		"ADMIN", fmt.Sprint(w.admin), "DNS", fmt.Sprint(w.dns), "HOST", fmt.Sprint(w.host), "PEER", fmt.Sprint(w.bgp)).Replace(`node: NAME
shared: [127.77.1.LAST]
socket: unix://DIR/sidecar.sock
meshsync: unix://DIR/meshsync.sock
identity: {certificate: BUNDLE/node.crt, key: BUNDLE/node.key, ca: BUNDLE/ca.crt}
admin: {listen: "127.77.0.LAST:ADMIN"}
dns_metrics: 127.77.0.LAST:9153
log: json
failure: {policy: stop-dns}
clock: {source: assumed, bound: 1ms}
probe: {port: DNS}
bgp:
  as: 64500
  router_id: 127.77.0.LAST
  prefixes: [127.77.1.0/24]
  neighbors:
    - {address: 127.77.0.1, as: 64501, port: PEER, source: 127.77.0.LAST}
mirror: {urls: ["https://127.77.0.1:HOST/"], depot: DIR/repository, root: BUNDLE/root.json, interval: 1s}
`))
}

func (w *world) meshctl(args ...string) {
	w.Helper()
	lab.Run(w, "", append([]string{filepath.Join(w.bin, "meshctl"), "--home", w.path("home")}, args...)...)
}

// start starts one of the mesh's programs; its log is named after it and its last argument's directory.
func (w *world) start(program string, args ...string) *lab.Process {
	w.Helper()
	return lab.Start(w, lab.Command{Argv: append([]string{filepath.Join(w.bin, program)}, args...), Log: w.log(program, args[len(args)-1])})
}

func (w *world) log(program, file string) string {
	return w.path(program + "-" + filepath.Base(filepath.Dir(file)) + ".log")
}

// awaitRelease waits until all nodes answer from a release.
func (w *world) awaitRelease(number uint64) {
	w.Helper()
	for name := range nodes {
		lab.Eventually(w, func() error {
			var s status.Node
			err := socket.Read(w.Context(), w.path(name, "meshsync.sock"), &s)
			if err == nil && s.Serving != number {
				err = fmt.Errorf("%s answers from %d: %v", name, s.Serving, s.Silent)
			}
			return err
		})
	}
}

// ask puts a question to a node, and does not mind what comes.
func (w *world) ask(last, network, name string, qtype uint16) {
	m := new(dns.Msg).SetQuestion(name, qtype)
	c := &dns.Client{Net: network, Timeout: 500 * time.Millisecond}
	_, _, _ = c.Exchange(m, fmt.Sprintf("127.77.1.%s:%d", last, w.dns))
}

// startPrometheus runs Prometheus with the configuration that is shipped: only addresses, files and the interval are this test's.
func (w *world) startPrometheus() {
	w.Helper()
	w.prometheus = testenv.Port(w)
	shipped := filepath.Join(testenv.Top(w), "deploy", "prometheus")
	for _, name := range []string{"alerts.yaml", "recording.yaml"} {
		lab.Write(w, w.path("prometheus", name), lab.Read(w, filepath.Join(shipped, name)))
	}
	text := lab.Read(w, filepath.Join(shipped, "prometheus.example.yaml"))
	for old, mine := range map[string]string{"198.51.100.7:8443": fmt.Sprintf("127.77.0.7:%d", w.admin), "198.51.100.8:8443": fmt.Sprintf("127.77.0.8:%d", w.admin),
		"127.0.0.1:9155": fmt.Sprintf("127.0.0.1:%d", w.metrics), "/etc/prometheus/mesh": w.path("home/operators/prometheus"), "15s": "1s"} {
		if !strings.Contains(text, old) {
			w.Fatalf("prometheus.example.yaml does not name %s", old)
		}
		text = strings.ReplaceAll(text, old, mine)
	}
	lab.Start(w, lab.Command{Argv: []string{"prometheus", "--config.file", lab.Write(w, w.path("prometheus", "prometheus.yaml"), text),
		"--storage.tsdb.path", w.path("tsdb"), "--web.listen-address", fmt.Sprintf("127.0.0.1:%d", w.prometheus), "--log.level", "warn"}, Log: w.path("prometheus.log")})
}

// api is the data of an answer of Prometheus's API.
func (w *world) api(path string, values url.Values, data any) error {
	response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/api/v1/%s?%s", w.prometheus, path, values.Encode()))
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	said := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.Unmarshal(body, &said); err != nil {
		return fmt.Errorf("%s: %w: %.200s", path, err, body)
	}
	if said.Status != "success" {
		return fmt.Errorf("%s: %s", path, said.Error)
	}
	return nil
}

// send sends a message, and waits for no response.
func send(address string, message []byte) error {
	conn, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write(message)
	return err
}
