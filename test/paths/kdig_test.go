package paths

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/query"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// kdig asks as an operator does, with a cookie, and returns the status and the cookie of the response. It does not ask again by
// itself.
func kdig(t *testing.T, address, cookie string) (status, given string) {
	t.Helper()
	host, port, err := net.SplitHostPort(address)
	lab.Must(t, err)
	out, err := exec.Command("kdig", "@"+host, "-p", port, "+notcp", "+nobadcookie", "+cookie="+cookie, "www.example.org", "A").CombinedOutput()
	if err != nil {
		t.Fatalf("kdig: %v\n%s", err, out)
	}
	if m := regexp.MustCompile(`status: (\w+)`).FindSubmatch(out); m != nil {
		status = string(m[1])
	}
	if m := regexp.MustCompile(`COOKIE: ([0-9A-Fa-f]+)`).FindSubmatch(out); m != nil {
		given = strings.ToLower(string(m[1]))
	}
	if given == "" {
		t.Fatalf("kdig shows no cookie:\n%s", out)
	}
	return status, given
}

// kdig asks two nodes in turn, while their seed is replaced as the README says, one node after the other: each takes the cookie that
// the other gave, at each step. Whoever only has a cookie of a seed that is gone is told another one.
func TestNodesTakeEachOthersCookiesAcrossARollover(t *testing.T) {
	testenv.Need(t, "kdig")
	before, next := strings.Repeat("0123456789abcdef", 4), strings.Repeat("fedcba9876543210", 4)
	files := []string{write(t, t.TempDir(), "cookies.key", before+"\n"), write(t, t.TempDir(), "cookies.key", before+"\n")}
	nodes := ours(t, "cookies "+files[0]+" require", "fastpath off\n cookies "+files[1]+" require")
	const client = "0102030405060708"
	// put gives a node keys, and waits until it has read them.
	put := func(node int, lines ...string) {
		t.Helper()
		lab.Must(t, os.WriteFile(files[node], []byte(strings.Join(lines, "\n")+"\n"), 0o600))
		keys, err := query.ReadKeys(strings.NewReader(strings.Join(lines, "\n")))
		lab.Must(t, err)
		lab.Eventually(t, func() error {
			for i, key := range keys {
				cookie := cookieOf(query.Keys{key}, client)
				if status, given := kdig(t, nodes[node], cookie); status != "NOERROR" || (given == cookie) != (i == 0) {
					return fmt.Errorf("node %d says %s and %s to %s, of key %d", node, status, given, cookie, i)
				}
			}
			for _, other := range []string{before, next} {
				if strings.Contains(strings.Join(lines, " "), other) {
					continue
				}
				gone, err := query.ReadKeys(strings.NewReader(other))
				lab.Must(t, err)
				if status, _ := kdig(t, nodes[node], cookieOf(gone, client)); status != "BADCOOKIE" {
					return fmt.Errorf("node %d says %s to a cookie of a key that it does not have", node, status)
				}
			}
			return nil
		})
	}
	held := client // what a resolver has that asks the nodes in turn
	inTurn := func(when string) {
		t.Helper()
		for i := range 6 {
			status, given := kdig(t, nodes[i%2], held)
			if want := "NOERROR"; status != want && held != client {
				t.Errorf("%s, node %d says %s to the cookie that it or the other one gave: %s", when, i%2, status, held)
			}
			held = given
		}
	}
	inTurn("with one seed")
	for _, step := range [][]string{{before, next}, {next, before}} {
		for node := range nodes {
			put(node, step...)
			inTurn(fmt.Sprintf("with %.4s in front at node %d", step[0], node))
		}
	}
	old := cookieOf(query.Keys{seedOf(t, before)}, client)
	for node := range nodes {
		put(node, next)
		inTurn(fmt.Sprintf("with the new seed alone at node %d", node))
	}
	if status, given := kdig(t, nodes[0], old); status != "BADCOOKIE" || given == old {
		t.Errorf("%s and %s for a cookie of the seed that is gone", status, given)
	}
}

func seedOf(t *testing.T, line string) query.Key {
	t.Helper()
	keys, err := query.ReadKeys(strings.NewReader(line))
	lab.Must(t, err)
	return keys[0]
}

// cookieOf is the cookie that a node with these keys gives a client on loopback now.
func cookieOf(keys query.Keys, client string) string {
	var first query.Query
	first.Cookie = fromHex(client)
	now := uint32(time.Now().Unix())
	return fmt.Sprintf("%x", first.AppendCookie(nil, query.CookieBad, keys.Secrets(now), netip.MustParseAddr("127.0.0.1"), now)[4:])
}

func fromHex(s string) []byte {
	var b []byte
	fmt.Sscanf(s, "%x", &b)
	return b
}
