package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/test/zonegen"
)

// maxUDP is the largest response by UDP of all servers, in octets.
const maxUDP = 1232

// A server is a process that answers for the zones.
type server struct {
	name string
	addr string
	*lab.Process
}

// A launcher writes a server's configuration for zones into a directory, and says what to run there.
type launcher struct {
	name    string
	command string
	prepare func(dir, port string, zones []*zonegen.Zone) (args []string, err error)
}

// peers are the other servers. They answer as they do by default, except for what would get in the way: rate limits, and
// minimal answers, which are made the same as far as they can be. All send at most maxUDP octets by UDP.
var peers = []launcher{{"nsd", "nsd", nsd}, {"knot", "knotd", knot}, {"bind", "named", bind}, {"pdns", "pdns_server", pdns}}

// coredns is our own server, from a directory of binaries.
func coredns(bin string) launcher {
	return launcher{"coredns", filepath.Join(bin, "meshctl"), func(_, port string, zones []*zonegen.Zone) ([]string, error) {
		args := []string{"try", "--ignore", "ns-without-address", "--listen", "127.0.0.1:" + port} // as check-integrity no for BIND
		for _, z := range zones {
			args = append(args, z.Path)
		}
		return args, nil
	}}
}

// serverOf configures one of the name servers that internal/lab knows.
func serverOf(kind, dir, port string, zones []*zonegen.Zone, options, rest string) ([]string, error) {
	at, err := netip.ParseAddrPort("127.0.0.1:" + port)
	if err != nil {
		return nil, err
	}
	s := lab.NameServer{Kind: kind, Dir: dir, Listen: []netip.AddrPort{at}, Options: options, Rest: rest}
	for _, z := range zones {
		s.Zones = append(s.Zones, lab.ServedZone{Origin: z.Origin, File: z.Path})
	}
	return s.Prepare()
}

func nsd(dir, port string, zones []*zonegen.Zone) ([]string, error) {
	return serverOf("nsd", dir, port, zones, fmt.Sprintf(`  tcp-count: 200
  ipv4-edns-size: %d
  rrl-ratelimit: 0
  rrl-whitelist-ratelimit: 0
  minimal-responses: no
`, maxUDP), "")
}

func knot(dir, port string, zones []*zonegen.Zone) ([]string, error) {
	return serverOf("knotd", dir, port, zones, fmt.Sprintf("  udp-max-payload: %d\n", maxUDP), `template:
  - id: default
    zonefile-sync: -1
    journal-content: none
    semantic-checks: off
`)
}

func bind(dir, port string, zones []*zonegen.Zone) ([]string, error) {
	return serverOf("named", dir, port, zones, fmt.Sprintf(`  notify no;
  answer-cookie no;
  edns-udp-size %[1]d;
  max-udp-size %[1]d;
  zero-no-soa-ttl no;
  minimal-responses no;
  check-integrity no;
  check-names primary ignore;
  check-sibling no;
  version none;
  hostname none;
`, maxUDP), "")
}

// pdns serves zones from files, and signed ones as they are: it takes the signatures from the file, and makes the NSEC or
// NSEC3 records anew, the latter from parameters that are in its database.
func pdns(dir, port string, zones []*zonegen.Zone) ([]string, error) {
	sql := strings.Builder{}
	sql.WriteString(`CREATE TABLE domainmetadata (id INTEGER PRIMARY KEY, domain VARCHAR(255) COLLATE NOCASE, kind VARCHAR(32) COLLATE NOCASE, content TEXT);
CREATE TABLE cryptokeys (id INTEGER PRIMARY KEY, domain VARCHAR(255) COLLATE NOCASE, flags INT NOT NULL, active BOOL, published BOOL DEFAULT 1, content TEXT);
CREATE TABLE tsigkeys (id INTEGER PRIMARY KEY, name VARCHAR(255) COLLATE NOCASE, algorithm VARCHAR(50) COLLATE NOCASE, secret VARCHAR(255));
`)
	var named strings.Builder
	fmt.Fprintf(&named, "options { directory %q; };\n", dir)
	for _, z := range zones {
		name := strings.TrimSuffix(z.Origin, ".")
		if name == "" {
			name = "."
		}
		fmt.Fprintf(&named, "zone %q { type native; file %q; };\n", name, z.Path)
		if z.Recipe.Flavour == "unsigned" {
			continue
		}
		fmt.Fprintf(&sql, "INSERT INTO domainmetadata (domain, kind, content) VALUES ('%s', 'PRESIGNED', '1');\n", name)
		if optOut := map[string]int{"nsec3": 0, "optout": 1}; z.Recipe.Flavour != "nsec" {
			fmt.Fprintf(&sql, "INSERT INTO domainmetadata (domain, kind, content) VALUES ('%s', 'NSEC3PARAM', '1 %d %d %s');\n",
				name, optOut[z.Recipe.Flavour], z.Recipe.Iterations, strings.ToLower(z.Recipe.Salt))
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
func (l *launcher) start(dir string, zones []*zonegen.Zone) (*server, error) {
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
	p, err := lab.Command{Name: l.name, Argv: append([]string{path}, args...), Dir: dir, Log: filepath.Join(dir, "log")}.Start()
	if err != nil {
		return nil, err
	}
	return &server{l.name, "127.0.0.1:" + port, p}, nil
}

// await waits until the server answers for every zone, for so long.
func (s *server) await(zones []*zonegen.Zone, patience time.Duration) error {
	c := client{server: s}
	defer c.close()
	deadline := time.Now().Add(patience)
	for _, z := range zones {
		q := question{msg: new(dns.Msg).SetQuestion(z.Origin, dns.TypeSOA)}
		for {
			m, err := c.ask(q, 200*time.Millisecond)
			if err == nil && m.Authoritative && m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0 && strings.EqualFold(m.Answer[0].Header().Name, z.Origin) {
				break
			}
			select {
			case <-s.Ended():
				return fmt.Errorf("%s ended: %s", s.name, s.complaints())
			default:
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%s does not answer for %s: %v %v\n%s", s.name, z.Origin, m, err, s.complaints())
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return nil
}

// complaints are the end of what the server complained of.
func (s *server) complaints() string {
	text, _ := os.ReadFile(s.Log)
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
		wire, err := conn.ReadMsgHeader(nil)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.server.name, err)
		}
		m, err := unpackExact(wire)
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
