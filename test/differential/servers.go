package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// maxUDP is the largest response by UDP of all servers, in octets.
const maxUDP = 1232

// A server is a process that answers for the zones.
type server struct {
	name string
	addr string
	dir  string
	cmd  *exec.Cmd
	done chan struct{} // closed when the process has ended
}

// A launcher writes a server's configuration for zones into a directory, and says what to run there.
type launcher struct {
	name    string
	command string
	prepare func(dir, port string, zones []*served) (args []string, err error)
}

// peers are the other servers. They answer as they do by default, except for what would get in the way: rate limits, and
// minimal answers, which are made the same as far as they can be. All send at most maxUDP octets by UDP.
var peers = []launcher{{"nsd", "nsd", nsd}, {"knot", "knotd", knot}, {"bind", "named", bind}, {"pdns", "pdns_server", pdns}}

// coredns is our own server, from a directory of binaries.
func coredns(bin string) launcher {
	return launcher{"coredns", filepath.Join(bin, "meshctl"), func(_, port string, zones []*served) ([]string, error) {
		args := []string{"try", "--listen", "127.0.0.1:" + port}
		for _, z := range zones {
			args = append(args, z.path)
		}
		return args, nil
	}}
}

func nsd(dir, port string, zones []*served) ([]string, error) {
	var c strings.Builder
	fmt.Fprintf(&c, `server:
  ip-address: 127.0.0.1@%s
  server-count: 1
  tcp-count: 200
  username: ""
  chroot: ""
  database: ""
  zonesdir: "%[2]s"
  pidfile: "%[2]s/pid"
  xfrdfile: "%[2]s/xfrd"
  xfrdir: "%[2]s"
  zonelistfile: "%[2]s/zonelist"
  cookie-secret-file: "%[2]s/cookie"
  ipv4-edns-size: %[3]d
  rrl-ratelimit: 0
  rrl-whitelist-ratelimit: 0
  minimal-responses: no
remote-control:
  control-enable: no
`, port, dir, maxUDP)
	for _, z := range zones {
		fmt.Fprintf(&c, "zone:\n  name: %q\n  zonefile: %q\n", z.origin, z.path)
	}
	return []string{"-d", "-c", "conf"}, write(dir, "conf", c.String())
}

func knot(dir, port string, zones []*served) ([]string, error) {
	var c strings.Builder
	fmt.Fprintf(&c, `server:
  listen: 127.0.0.1@%s
  rundir: "%[2]s"
  udp-workers: 1
  tcp-workers: 1
  background-workers: 1
  udp-max-payload: %[3]d
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
`, port, dir, maxUDP)
	for _, z := range zones {
		fmt.Fprintf(&c, "  - domain: %q\n    file: %q\n", z.origin, z.path)
	}
	return []string{"-c", "conf"}, write(dir, "conf", c.String())
}

func bind(dir, port string, zones []*served) ([]string, error) {
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
  answer-cookie no;
  edns-udp-size %[3]d;
  max-udp-size %[3]d;
  zero-no-soa-ttl no;
  minimal-responses no;
  check-integrity no;
  check-names primary ignore;
  check-sibling no;
  version none;
  hostname none;
};
controls {};
`, port, dir, maxUDP)
	for _, z := range zones {
		fmt.Fprintf(&c, "zone %q { type primary; file %q; };\n", z.origin, z.path)
	}
	return []string{"-f", "-g", "-n", "1", "-c", "conf"}, write(dir, "conf", c.String())
}

// pdns serves zones from files, and signed ones as they are: it takes the signatures from the file, and makes the NSEC or
// NSEC3 records anew, the latter from parameters that are in its database.
func pdns(dir, port string, zones []*served) ([]string, error) {
	sql := strings.Builder{}
	sql.WriteString(`CREATE TABLE domainmetadata (id INTEGER PRIMARY KEY, domain VARCHAR(255) COLLATE NOCASE, kind VARCHAR(32) COLLATE NOCASE, content TEXT);
CREATE TABLE cryptokeys (id INTEGER PRIMARY KEY, domain VARCHAR(255) COLLATE NOCASE, flags INT NOT NULL, active BOOL, published BOOL DEFAULT 1, content TEXT);
CREATE TABLE tsigkeys (id INTEGER PRIMARY KEY, name VARCHAR(255) COLLATE NOCASE, algorithm VARCHAR(50) COLLATE NOCASE, secret VARCHAR(255));
`)
	var named strings.Builder
	fmt.Fprintf(&named, "options { directory %q; };\n", dir)
	for _, z := range zones {
		name := strings.TrimSuffix(z.origin, ".")
		if name == "" {
			name = "."
		}
		fmt.Fprintf(&named, "zone %q { type native; file %q; };\n", name, z.path)
		if z.recipe.flavour == "unsigned" {
			continue
		}
		fmt.Fprintf(&sql, "INSERT INTO domainmetadata (domain, kind, content) VALUES ('%s', 'PRESIGNED', '1');\n", name)
		if optOut := map[string]int{"nsec3": 0, "optout": 1}; z.recipe.flavour != "nsec" {
			fmt.Fprintf(&sql, "INSERT INTO domainmetadata (domain, kind, content) VALUES ('%s', 'NSEC3PARAM', '1 %d %d %s');\n",
				name, optOut[z.recipe.flavour], z.recipe.iterations, strings.ToLower(z.recipe.salt))
		}
	}
	sqlite := exec.Command("sqlite3", filepath.Join(dir, "db"))
	sqlite.Stdin = strings.NewReader("BEGIN;\n" + sql.String() + "COMMIT;\n")
	if out, err := sqlite.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("sqlite3: %w: %s", err, out)
	}
	conf := fmt.Sprintf(`launch=bind
bind-config=%[2]s/named.conf
bind-dnssec-db=%[2]s/db
local-address=127.0.0.1
local-port=%[1]s
socket-dir=%[2]s
8bit-dns=yes
any-to-tcp=no
cache-ttl=0
query-cache-ttl=0
negquery-cache-ttl=0
dname-processing=yes
distributor-threads=1
max-tcp-connections=200
security-poll-suffix=
udp-truncation-threshold=%[3]d
zone-cache-refresh-interval=0
`, port, dir, maxUDP)
	return []string{"--config-dir=" + dir, "--daemon=no", "--guardian=no"}, errors.Join(write(dir, "named.conf", named.String()), write(dir, "pdns.conf", conf))
}

func write(dir, name, text string) error {
	return os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)
}

// start starts a server in a directory of its own. Whoever gets one must stop it.
func (l *launcher) start(dir string, zones []*served) (*server, error) {
	path, err := testenv.Look(l.command)
	if err != nil {
		return nil, fmt.Errorf("%s: %w (./build.sh daemons installs it as root on Debian)", l.command, err)
	}
	dir = filepath.Join(dir, l.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	free, err := testenv.FreePort()
	if err != nil {
		return nil, err
	}
	port := strconv.Itoa(free)
	args, err := l.prepare(dir, port, zones)
	if err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s := &server{name: l.name, addr: "127.0.0.1:" + port, dir: dir, cmd: exec.Command(path, args...), done: make(chan struct{})}
	s.cmd.Dir, s.cmd.Stdout, s.cmd.Stderr = dir, log, log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { s.cmd.Wait(); close(s.done) }()
	return s, nil
}

// stop ends the process.
func (s *server) stop() {
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(10 * time.Second):
		s.cmd.Process.Kill()
		<-s.done
	}
}

// await waits until the server answers for every zone, for so long.
func (s *server) await(zones []*served, patience time.Duration) error {
	c := client{server: s}
	defer c.close()
	deadline := time.Now().Add(patience)
	for _, z := range zones {
		q := question{msg: new(dns.Msg).SetQuestion(z.origin, dns.TypeSOA)}
		for {
			m, err := c.ask(q, 200*time.Millisecond)
			if err == nil && m.Authoritative && m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0 && strings.EqualFold(m.Answer[0].Header().Name, z.origin) {
				break
			}
			select {
			case <-s.done:
				return fmt.Errorf("%s ended: %s", s.name, s.log())
			default:
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%s does not answer for %s: %v %v\n%s", s.name, z.origin, m, err, s.log())
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return nil
}

// log is the end of what the server complained of.
func (s *server) log() string {
	text, _ := os.ReadFile(filepath.Join(s.dir, "log"))
	lines := slices.DeleteFunc(bytes.Split(text, []byte("\n")), func(line []byte) bool {
		return bytes.Contains(line, []byte("loaded serial")) || bytes.Contains(line, []byte("warning")) || bytes.Contains(line, []byte("info"))
	})
	return string(bytes.Join(lines[max(0, len(lines)-15):], []byte("\n")))
}

// A client asks one server, one question at a time.
type client struct {
	server   *server
	udp, tcp *dns.Conn
}

func (c *client) close() {
	for _, conn := range []*dns.Conn{c.udp, c.tcp} {
		if conn != nil {
			conn.Close()
		}
	}
	c.udp, c.tcp = nil, nil
}

// send sends a question. A connection that the server has closed since it was used last is made anew.
func (c *client) send(q question) error {
	conn, network := &c.udp, "udp"
	if q.tcp {
		conn, network = &c.tcp, "tcp"
	}
	var err error
	for range 2 {
		if *conn == nil {
			raw, err := net.Dial(network, c.server.addr)
			if err != nil {
				return err
			}
			*conn = &dns.Conn{Conn: raw, UDPSize: dns.MaxMsgSize}
		}
		if err = (*conn).WriteMsg(q.msg); err == nil {
			return nil
		}
		(*conn).Close()
		*conn = nil
	}
	return err
}

// receive waits for the response to what was sent last.
func (c *client) receive(q question, timeout time.Duration) (*dns.Msg, error) {
	conn := c.udp
	if q.tcp {
		conn = c.tcp
	}
	conn.SetReadDeadline(time.Now().Add(timeout))
	for {
		m, err := conn.ReadMsg()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.server.name, err)
		}
		if m.Id == q.msg.Id {
			return m, nil
		}
	}
}

// ask sends a question and waits for its response.
func (c *client) ask(q question, timeout time.Duration) (*dns.Msg, error) {
	for attempt := 0; ; attempt++ {
		if err := c.send(q); err != nil {
			return nil, err
		}
		m, err := c.receive(q, timeout)
		var net net.Error
		if err == nil || attempt == 2 || !q.tcp || errors.As(err, &net) && net.Timeout() {
			return m, err
		}
		c.close() // the server closed the connection when it was idle
	}
}
