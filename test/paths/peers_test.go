package paths

import (
	"encoding/hex"
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

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// named and knot serve example.org with the options given, and return their address.
func named(t *testing.T, options string) string {
	t.Helper()
	testenv.Need(t, "named")
	dir, p := t.TempDir(), port(t)
	write(t, dir, "zone", zoneText("example.org."))
	conf := write(t, dir, "named.conf", fmt.Sprintf(`options {
  directory "%[1]s"; pid-file "%[1]s/pid"; session-keyfile "%[1]s/key"; managed-keys-directory "%[1]s";
  listen-on port %[2]d { 127.0.0.1; }; listen-on-v6 { none; };
  recursion no; notify no; minimal-responses no; %[3]s
};
controls { };
zone "example.org" { type primary; file "%[1]s/zone"; };
`, dir, p, options))
	return process(t, p, "named", "-g", "-n", "1", "-c", conf)
}

func knot(t *testing.T, module, parameters string) string {
	t.Helper()
	testenv.Need(t, "knotd")
	dir, p := t.TempDir(), port(t)
	zone := write(t, dir, "zone", zoneText("example.org."))
	conf := write(t, dir, "knot.conf", fmt.Sprintf(`server:
  rundir: "%[1]s"
  listen: 127.0.0.1@%[2]d
  user: root:root
database:
  storage: "%[1]s/db"
mod-%[4]s:
  - id: it
%[5]s
zone:
  - domain: example.org
    file: "%[3]s"
    storage: "%[1]s"
    zonefile-load: whole
    journal-content: none
    module: mod-%[4]s/it
`, dir, p, zone, module, parameters))
	return process(t, p, "knotd", "-c", conf)
}

func write(t *testing.T, dir, name, text string) string {
	t.Helper()
	file := filepath.Join(dir, name)
	lab.Must(t, os.WriteFile(file, []byte(text), 0o644))
	return file
}

// process runs a server until the test ends, and waits for its first answer.
func process(t *testing.T, p int, command string, args ...string) string {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	out, err := os.Create(log)
	lab.Must(t, err)
	defer out.Close()
	cmd := exec.Command(command, args...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	lab.Must(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	address := fmt.Sprintf("127.0.0.1:%d", p)
	lab.Eventually(t, func() error {
		_, _, err := (&dns.Client{Net: "tcp"}).Exchange(new(dns.Msg).SetQuestion("example.org.", dns.TypeSOA), address)
		if err != nil {
			said, _ := os.ReadFile(log)
			return fmt.Errorf("%s: %w\n%s", command, err, said[max(0, len(said)-1000):])
		}
		return nil
	})
	return address
}

// ours is a node that serves example.org at as many addresses as there are sets of properties of sharedunicast.
func ours(t *testing.T, properties ...string) (addresses []string) {
	t.Helper()
	m := newMesh(t)
	m.current(1, m.zone("example.org.", zoneText("example.org.")))
	corefile := ""
	for _, lines := range properties {
		p := port(t)
		corefile += fmt.Sprintf(".:%d {\n sharedunicast 127.0.0.1 {\n %s\n }\n %s }\n", p, lines, m.block())
		addresses = append(addresses, fmt.Sprintf("127.0.0.1:%d", p))
	}
	start(t, corefile)
	for _, address := range addresses {
		lab.Eventually(t, func() error {
			_, _, err := (&dns.Client{Net: "tcp"}).Exchange(new(dns.Msg).SetQuestion("example.org.", dns.TypeSOA), address)
			return err
		})
	}
	return addresses
}

// outcomes is how many queries were answered, how many truncated, and how many not answered.
type outcomes struct{ answered, truncated, dropped int }

// flood asks as often as there are names, in one burst, from one address, and counts what comes.
func flood(t *testing.T, address string, names []string, cookie string) (o outcomes) {
	t.Helper()
	conn, err := net.Dial("udp", address)
	lab.Must(t, err)
	defer conn.Close()
	c := &dns.Conn{Conn: conn, UDPSize: 4096}
	for i, name := range names {
		q := new(dns.Msg).SetQuestion(name, dns.TypeA).SetEdns0(1232, false)
		q.Id = uint16(i)
		if cookie != "" {
			q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: cookie}}
		}
		lab.Must(t, c.WriteMsg(q))
	}
	for range names {
		conn.SetReadDeadline(time.Now().Add(3 * time.Second)) // what has not come by then was dropped
		m, err := c.ReadMsg()
		if err != nil {
			break
		}
		if m.Truncated {
			o.truncated++
		} else if m.Rcode != dns.RcodeBadCookie {
			o.answered++
		}
	}
	o.dropped = len(names) - o.answered - o.truncated
	return o
}

func repeat(n int, name func(int) string) (all []string) {
	for i := range n {
		all = append(all, name(i))
	}
	return all
}

// Of equal responses to one prefix so many leave in a second, of the others every second one as a truncated one: here, at
// BIND and at Knot. Equal are responses for one name, and all that say that a name does not exist. Names that do exist are
// not equal, nor are other kinds of responses.
func TestRateLimitingIsThatOfOthers(t *testing.T) {
	const rate, asked = 20, 200
	limit := fmt.Sprintf("rrl %d slip 2", rate)
	both := ours(t, limit, "fastpath off\n "+limit)
	servers := map[string]string{
		"ours":                    both[0],
		"ours, through the chain": both[1],
		"BIND":                    named(t, fmt.Sprintf("rate-limit { responses-per-second %d; slip 2; window 1; };", rate)),
		"Knot":                    knot(t, "rrl", fmt.Sprintf("    rate-limit: %d\n    slip: 2", rate)),
	}
	for who, address := range servers {
		t.Run(who, func(t *testing.T) {
			for what, name := range map[string]func(int) string{
				"one name":                 func(int) string { return "www.example.org." },
				"names that do not exist":  func(i int) string { return fmt.Sprintf("x%d.example.org.", i) },
				"names below a delegation": func(i int) string { return fmt.Sprintf("x%d.sub.example.org.", i) },
			} {
				if who == "Knot" && what == "names below a delegation" {
					continue // Knot goes by the name that was asked for
				}
				o := flood(t, address, repeat(asked, name), "")
				// BIND counts the second begun, Knot four times the rate at first; what follows is limited by all.
				if o.answered < rate/2 || o.answered > 5*rate {
					t.Errorf("%s: %d of %d were answered at a rate of %d", what, o.answered, asked, rate)
				}
				// Knot throws dice for each.
				if limited := asked - o.answered; o.truncated < limited/4 || o.truncated > limited*3/4 {
					t.Errorf("%s: of %d limited ones %d were truncated, want a half", what, limited, o.truncated)
				}
			}
		})
	}
}

// Who gets nothing more for one name gets answers for others, and another prefix is not limited with it.
func TestRateLimitingIsForOneThing(t *testing.T) {
	for _, path := range []string{"on", "off"} {
		t.Run("fastpath "+path, func(t *testing.T) {
			addresses := ours(t, "fastpath "+path+"\n rrl 10 slip 0", "fastpath "+path+"\n rrl 10\n rrl_allow 127.0.0.0/24")
			address, allowed := addresses[0], addresses[1]
			if o := flood(t, address, repeat(100, func(int) string { return "www.example.org." }), ""); o.answered < 10 || o.answered > 40 || o.truncated > 0 {
				t.Errorf("%+v", o)
			}
			for _, name := range []string{"ns.example.org.", "example.org.", "none.example.org."} {
				if _, err := dns.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), address); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
			dialer := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.IPv4(127, 0, 9, 1)}}
			if _, _, err := (&dns.Client{Dialer: &dialer}).Exchange(new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA), address); err != nil {
				t.Errorf("another prefix: %v", err)
			}
			if _, _, err := (&dns.Client{Net: "tcp"}).Exchange(new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA), address); err != nil {
				t.Errorf("over TCP: %v", err)
			}
			if o := flood(t, allowed, repeat(100, func(int) string { return "www.example.org." }), ""); o.answered != 100 {
				t.Errorf("allowed: %+v", o)
			}
		})
	}
}

const cookieSecret, oldSecret = "00112233445566778899aabbccddeeff", "ffeeddccbbaa99887766554433221100"

// A cookie that one node gives is good at all that have the secret, of whatever make, and a wrong one is at none: RFC 9018
// is for the anycast case.
func TestCookiesOfOthers(t *testing.T) {
	secrets := func(lines ...string) string {
		return write(t, t.TempDir(), "secrets", strings.Join(lines, "\n")+"\n")
	}
	nodes := ours(t, "cookies "+secrets(cookieSecret)+" require", "cookies "+secrets(oldSecret, cookieSecret)+" require",
		"fastpath off\n cookies "+secrets(cookieSecret, oldSecret)+" require")
	servers := map[string]string{
		"ours":           nodes[0],
		"ours, rolled":   nodes[1],
		"ours, by chain": nodes[2],
		"BIND":           named(t, fmt.Sprintf("cookie-algorithm siphash24; cookie-secret \"%s\"; require-server-cookie yes;", cookieSecret)),
		"Knot":           knot(t, "cookies", "    secret: 0x"+cookieSecret),
	}
	ask := func(who, cookie string) (rcode int, given string) {
		t.Helper()
		q := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA).SetEdns0(1232, false)
		q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: cookie}}
		m, err := dns.Exchange(q, servers[who])
		if err != nil {
			t.Fatalf("%s: %v", who, err)
		}
		for _, o := range m.IsEdns0().Option {
			if c, ok := o.(*dns.EDNS0_COOKIE); ok {
				given = c.Cookie
			}
		}
		return m.Rcode, given
	}
	const client = "0102030405060708"
	for giver := range servers {
		rcode, cookie := ask(giver, client)
		if rcode != dns.RcodeBadCookie || len(cookie) != 48 || !strings.HasPrefix(cookie, client) {
			t.Errorf("%s, without a server's cookie: %s, %s", giver, dns.RcodeToString[rcode], cookie)
			continue
		}
		for taker := range servers {
			// What the rolled one gives is good where the new secret is known.
			want := dns.RcodeSuccess
			if giver == "ours, rolled" && taker != giver && taker != "ours, by chain" {
				want = dns.RcodeBadCookie
			}
			if rcode, _ := ask(taker, cookie); rcode != want {
				t.Errorf("%s gives %s to %s: %s, want %s", giver, cookie, taker, dns.RcodeToString[rcode], dns.RcodeToString[want])
			}
		}
		wrong, _ := hex.DecodeString(cookie)
		wrong[20] ^= 1
		if rcode, _ := ask(giver, hex.EncodeToString(wrong)); rcode != dns.RcodeBadCookie {
			t.Errorf("%s, a wrong cookie: %s", giver, dns.RcodeToString[rcode])
		}
	}
}

// Who has a good cookie is not limited; who has a wrong one is told the right one in place of a truncated answer.
func TestCookiesExemptFromRateLimiting(t *testing.T) {
	file := write(t, t.TempDir(), "secrets", cookieSecret)
	const limit = "\n rrl 10 slip 1\n cookies "
	for i, address := range ours(t, "fastpath on"+limit+file, "fastpath off"+limit+file) {
		path := []string{"on", "off"}[i]
		q := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA).SetEdns0(1232, false)
		q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}}
		m, err := dns.Exchange(q, address)
		lab.Must(t, err)
		good := m.IsEdns0().Option[0].(*dns.EDNS0_COOKIE).Cookie
		one := repeat(100, func(int) string { return "www.example.org." })
		if o := flood(t, address, one, good); o.answered != 100 {
			t.Errorf("fastpath %s, with a good cookie: %+v", path, o)
		}
		if o := flood(t, address, one, "0102030405060708"); o.answered > 40 || o.truncated > 0 {
			t.Errorf("fastpath %s, with a client's cookie: %+v", path, o)
		}
		if o := flood(t, address, one, ""); o.answered > 40 || o.truncated < 60 {
			t.Errorf("fastpath %s, without a cookie: %+v", path, o)
		}
	}
}

// RFC 7873 5.4: a request without a question gets a server cookie.
func TestCookieWithoutQuestion(t *testing.T) {
	address := ours(t, "cookies "+write(t, t.TempDir(), "secrets", cookieSecret))[0]
	q := new(dns.Msg).SetEdns0(1232, false)
	q.Id = 77
	q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}}
	for _, network := range []string{"udp", "tcp"} {
		m, _, err := (&dns.Client{Net: network}).Exchange(q, address)
		if err != nil || m.Rcode != dns.RcodeSuccess || len(m.Question) > 0 || m.IsEdns0() == nil || len(m.IsEdns0().Option) != 1 {
			t.Errorf("%s: %v, %v", network, m, err)
		}
	}
}

// Secrets are rolled over by a change of the file, without a reload.
func TestSecretsAreRolledOver(t *testing.T) {
	file := write(t, t.TempDir(), "secrets", cookieSecret)
	address := ours(t, "cookies "+file+" require")[0]
	give := func() string {
		q := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA).SetEdns0(1232, false)
		q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}}
		m, err := dns.Exchange(q, address)
		lab.Must(t, err)
		return m.IsEdns0().Option[0].(*dns.EDNS0_COOKIE).Cookie
	}
	good := func(cookie string) bool {
		q := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA).SetEdns0(1232, false)
		q.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: cookie}}
		m, err := dns.Exchange(q, address)
		lab.Must(t, err)
		return m.Rcode == dns.RcodeSuccess
	}
	first := give()
	lab.Must(t, os.WriteFile(file, []byte(oldSecret+"\n"+cookieSecret+"\n"), 0o600))
	lab.Eventually(t, func() error {
		if a, b := give(), give(); a[32:] == first[32:] || b[32:] == first[32:] {
			return fmt.Errorf("the old secret still makes cookies")
		}
		return nil
	})
	if !good(first) {
		t.Error("the old secret's cookie is not good any more")
	}
	lab.Must(t, os.WriteFile(file, []byte(oldSecret+"\n"), 0o600))
	lab.Eventually(t, func() error {
		if good(first) {
			return fmt.Errorf("a secret that is gone is still good")
		}
		return nil
	})
}
