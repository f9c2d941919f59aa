package differential_test

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// peer is another server that has the same zones.
type peer struct {
	name string
	addr string
	conn net.Conn
}

// zoneFile is a zone as the peers load it.
type zoneFile struct{ origin, path string }

// startPeers starts NSD, Knot and BIND on free ports of 127.0.0.1, and waits until each has every zone. They answer as
// they do by default, except for what would get in the way: rate limits, small UDP sizes, and minimal answers, which are
// made the same as far as they can be.
func startPeers(t *testing.T, zones []zoneFile) []*peer {
	paths := testenv.Need(t, "nsd", "knotd", "named")
	var peers []*peer
	for i, start := range []func(dir, port string, zones []zoneFile) (name, config string, args []string){nsd, knot, bind} {
		dir, port := t.TempDir(), freePort(t)
		name, config, args := start(dir, port, zones)
		file := filepath.Join(dir, name+".conf")
		if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
			t.Fatal(err)
		}
		p := &peer{name: name, addr: "127.0.0.1:" + port}
		p.run(t, dir, exec.Command(paths[i], append(args, file)...))
		peers = append(peers, p)
	}
	for _, p := range peers {
		p.await(t, zones)
	}
	return peers
}

func nsd(dir, port string, zones []zoneFile) (string, string, []string) {
	var c strings.Builder
	fmt.Fprintf(&c, `server:
  ip-address: 127.0.0.1@%s
  server-count: 1
  username: ""
  chroot: ""
  database: ""
  zonesdir: "%[2]s"
  pidfile: "%[2]s/pid"
  xfrdfile: "%[2]s/xfrd"
  xfrdir: "%[2]s"
  zonelistfile: "%[2]s/zonelist"
  cookie-secret-file: "%[2]s/cookie"
  ipv4-edns-size: 4096
  rrl-ratelimit: 0
  rrl-whitelist-ratelimit: 0
  minimal-responses: no
remote-control:
  control-enable: no
`, port, dir)
	for _, z := range zones {
		fmt.Fprintf(&c, "zone:\n  name: %q\n  zonefile: %q\n", z.origin, z.path)
	}
	return "nsd", c.String(), []string{"-d", "-c"}
}

func knot(dir, port string, zones []zoneFile) (string, string, []string) {
	var c strings.Builder
	fmt.Fprintf(&c, `server:
  listen: 127.0.0.1@%s
  rundir: "%[2]s"
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
  udp-max-payload: 4096
database:
  storage: "%[2]s"
log:
  - target: stderr
    any: info
template:
  - id: default
    zonefile-sync: -1
    journal-content: none
    semantic-checks: off
zone:
`, port, dir)
	for _, z := range zones {
		fmt.Fprintf(&c, "  - domain: %q\n    file: %q\n", z.origin, z.path)
	}
	return "knot", c.String(), []string{"-c"}
}

func bind(dir, port string, zones []zoneFile) (string, string, []string) {
	var c strings.Builder
	fmt.Fprintf(&c, `options {
  directory "%[2]s";
  listen-on port %[1]s { 127.0.0.1; };
  listen-on-v6 { none; };
  pid-file none;
  session-keyfile none;
  lock-file none;
  recursion no;
  notify no;
  dnssec-validation no;
  empty-zones-enable no;
  max-udp-size 4096;
  zero-no-soa-ttl no;
  minimal-responses no;
  check-integrity no;
  check-names primary ignore;
  check-sibling no;
};
controls {};
`, port, dir)
	for _, z := range zones {
		fmt.Fprintf(&c, "zone %q { type primary; file %q; };\n", z.origin, z.path)
	}
	return "bind", c.String(), []string{"-f", "-g", "-n", "1", "-c"}
}

func freePort(t *testing.T) string {
	for range 20 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		port := fmt.Sprint(l.Addr().(*net.TCPAddr).Port)
		if u, err := net.ListenPacket("udp", "127.0.0.1:"+port); err == nil {
			u.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return ""
}

// run starts a daemon, which ends with the test; its log is shown if the test failed.
func (p *peer) run(t *testing.T, dir string, cmd *exec.Cmd) {
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Dir, cmd.Stdout, cmd.Stderr = dir, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		ended := make(chan struct{})
		go func() { cmd.Wait(); close(ended) }()
		select {
		case <-ended:
		case <-time.After(10 * time.Second):
			syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			<-ended
		}
		log.Close()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			lines := bytes.Split(text, []byte("\n"))
			t.Logf("last of %s's log:\n%s", p.name, bytes.Join(lines[max(0, len(lines)-15):], []byte("\n")))
		}
	})
}

// await waits until the peer answers for every zone.
func (p *peer) await(t *testing.T, zones []zoneFile) {
	deadline := time.Now().Add(20 * time.Second)
	conn, err := net.Dial("udp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	p.conn = conn
	t.Cleanup(func() { conn.Close() })
	for _, z := range zones {
		q := new(dns.Msg).SetQuestion(z.origin, dns.TypeSOA)
		for {
			m, err := p.ask(q, 200*time.Millisecond)
			if err == nil && m.Authoritative && m.Rcode == dns.RcodeSuccess {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s does not answer for %s: %v %v", p.name, z.origin, m, err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// ask sends a query by UDP and waits for its response.
func (p *peer) ask(q *dns.Msg, timeout time.Duration) (*dns.Msg, error) {
	wire, err := q.Pack()
	if err != nil {
		return nil, err
	}
	if _, err := p.conn.Write(wire); err != nil {
		return nil, err
	}
	buf := make([]byte, 65535)
	p.conn.SetReadDeadline(time.Now().Add(timeout))
	for {
		n, err := p.conn.Read(buf)
		if err != nil {
			return nil, err
		}
		m := new(dns.Msg)
		if err := m.Unpack(buf[:n]); err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		if m.Id == q.Id && len(m.Question) == 1 && strings.EqualFold(m.Question[0].Name, q.Question[0].Name) {
			return m, nil
		}
	}
}
