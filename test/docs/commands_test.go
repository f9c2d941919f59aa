// Package docs does what the documents say: it gives the commands of a page to a shell, in order, and compares what they
// print with what the page shows. A block that cannot be run says so in a comment: <!-- not run: REASON -->.
package docs

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// private makes a machine of one's own of the shell: /tmp, /run and the checkout are as they were when it has ended.
const private = `set -e
top=$1
mount -t tmpfs none /run
mkdir -p /run/top /run/upper /run/work
mount -t overlay none -o lowerdir="$top",upperdir=/run/upper,workdir=/run/work /run/top
mount -t tmpfs -o mode=1777 none /tmp
ip link set lo up
cd /run/top
set +e
unset MESHCTL_HOME CI
`

// privateShell is a root shell on a machine of its own, in a copy of the checkout.
func privateShell(t *testing.T) *shell {
	t.Helper()
	s := startShell(t, "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "bash")
	s.must(strings.Replace(private, "$1", "'"+testenv.Top(t)+"'", 1))
	return s
}

// TestFirstHour follows the README, and docs/start.md, from a checkout on.
func TestFirstHour(t *testing.T) {
	testenv.Root(t)
	testenv.Need(t, "ip", "unshare", "dig", "/usr/lib/frr/zebra", "/usr/lib/frr/bgpd")
	for _, name := range []string{"README.md", "docs/start.md"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := privateShell(t)
			follow(t, name, map[string]*shell{"": s})
			if name == "README.md" {
				quiet(t, s)
			}
		})
	}
}

// quiet wants the programs that were started, and are well, to have logged nothing above INFO, but for the clock that is taken on trust.
func quiet(t *testing.T, s *shell) {
	t.Helper()
	loud, _, _ := s.give(`grep -hE 'level=(WARN|ERROR)|\[(WARNING|ERROR)\]' *.log | grep -v 'clock.source assumed'; true`)
	if loud = strings.TrimSpace(loud); loud != "" {
		t.Errorf("a start in which all is well logs\n%s", loud)
	}
}

// follow gives the commands of a page to the shells of the machines that it names.
func follow(t *testing.T, name string, shells map[string]*shell) {
	t.Helper()
	blocks, problems := parse(lab.Read(t, filepath.Join(testenv.Top(t), name)))
	for _, p := range problems {
		t.Errorf("%s, %s", name, p)
	}
	for _, b := range blocks {
		if !b.commands() {
			continue
		}
		s := shells[b.machine]
		if s == nil {
			t.Fatalf("%s, line %d: there is no machine %q", name, b.line, b.machine)
		}
		s.t = t
		printed, failed, code := s.give(b.text)
		t.Logf("line %d:\n%s", b.line, printed)
		switch {
		case b.mark == "exit status 1" && code != 1:
			t.Fatalf("%s, line %d: no exit status 1, but %d of %s\n%s", name, b.line, code, failed, printed)
		case b.mark == "" && failed != "":
			t.Fatalf("%s, line %d: exit status %d of %s\n%s%s", name, b.line, code, failed, printed, logs(s))
		case b.shown != nil && !like(b.shown.text, printed):
			t.Errorf("%s, line %d: what it shows\n%sand what was printed\n%s%s", name, b.line, b.shown.text, printed, logs(s))
		}
	}
}

// logs are the ends of those that the page wrote where the shell is.
func logs(s *shell) string {
	out, _, _ := s.give("tail -n 30 *.log */*.log /tmp/*.log 2>/dev/null")
	return "\nlogs:\n" + out
}

// TestEveryBlockIsRunOrSaysWhyNot: of the pages that tell users what to type, by the language of each block.
func TestEveryBlockIsRunOrSaysWhyNot(t *testing.T) {
	top := testenv.Top(t)
	names, err := filepath.Glob(filepath.Join(top, "docs/operate/*.md"))
	lab.Must(t, err)
	for _, file := range names {
		if name := strings.TrimSuffix(filepath.Base(file), ".md"); !slices.Contains(pagesOfOperation, name) {
			t.Errorf("TestOperation does not follow %s", file)
		}
	}
	for _, name := range []string{"README.md", "docs/start.md", "docs/migrate.md"} {
		names = append(names, filepath.Join(top, name))
	}
	for _, name := range names {
		_, problems := parse(lab.Read(t, name))
		for _, p := range problems {
			t.Errorf("%s, %s", name, p)
		}
	}
}

// TestLike: what differs from run to run is let through, and nothing else is.
func TestLike(t *testing.T) {
	for _, c := range []struct {
		shown, printed string
		same           bool
	}{
		{"fra1 +561 µs\n", "fra1  +1.2 ms\n", true},
		{"until 2026-12-01T03:12:11Z, 23h59m49s left\n", "until 2031-01-01T00:00:00.1Z, 24h0m0s left\n", true},
		{"serving 1\n", "serving 2\n", false},
		{"via 198.51.100.7\n", "via 198.51.100.8\n", false},
		{"a\n…\n", "a\nb\nc\n", true},
		{"a\n…\nc\n", "a\nb\n", false},
		{"made by … on …\n", "made by me on vm\n", true},
		{"a\n", "a\nb\n", false},
	} {
		if like(c.shown, c.printed) != c.same {
			t.Errorf("%q and %q: not %v", c.shown, c.printed, c.same)
		}
	}
}

// network is a router with a distribution host and two nodes, as in docs/start.md.
const network = `
for m in router host tyo1 fra1; do ip netns add $m; ip -n $m link set lo up; done
ip -n router link add lan type bridge
ip -n router addr add 198.51.100.254/24 dev lan
ip -n router link set lan up
for m in host:1 tyo1:7 fra1:8; do
  ip link add eth0 netns ${m%:*} type veth peer name ${m%:*} netns router
  ip -n ${m%:*} addr add 198.51.100.${m#*:}/24 dev eth0
  ip -n ${m%:*} link set eth0 up
  ip -n router link set ${m%:*} master lan up
done
`

// operate is a mesh as the pages in docs/operate have it: each machine has directories of its own where the programs keep
// theirs, the distribution host releases by command, and both nodes answer and are announced.
const operate = `
./build.sh
export PATH=/run/top/bin:$PATH MESHCTL_HOME=/srv/mesh
` + network + `
mkdir -m 777 /tmp/frr && touch /tmp/frr/zebra.conf
printf 'router bgp 64501\n bgp router-id 198.51.100.254\n no bgp ebgp-requires-policy\n neighbor 198.51.100.7 remote-as 64500\n neighbor 198.51.100.8 remote-as 64500\n' >/tmp/frr/bgpd.conf
for d in zebra bgpd; do
  ip netns exec router /usr/lib/frr/$d -d -f /tmp/frr/$d.conf -i /tmp/frr/$d.pid -z /tmp/frr/zserv.api --vty_socket /tmp/frr
  sleep 1
done
mount -t tmpfs none /srv
mkdir -p /srv/zones && cp cmd/demo/example.org.zone /srv/zones
meshctl init --mesh example --san 198.51.100.1 --shared 192.0.2.53 --url https://198.51.100.1:8444/
sed -i 's/source: chrony}/source: assumed, bound: 1ms}/' /srv/mesh/templates/sidecar.yaml
for m in tyo1:7 fra1:8; do
  meshctl member add ${m%:*} --admin 198.51.100.${m#*:}:8443 --as 64500 --router 198.51.100.254 --router-as 64501
done
cd /srv
printf 'serve: {listen: "198.51.100.1:8444", metrics: "127.0.0.1:9155"}\n' >/srv/mesh/meshctl.yaml
ip netns exec host meshctl serve 2>/tmp/serve.log &
meshctl release --now /srv/zones/example.org.zone
`

// node makes the shell the node's, starts both programs, and waits until the node is announced.
const node = `
ip addr add 192.0.2.53/32 dev lo
mkdir -p /run/etc /run/mesh && mount -t tmpfs none /run/mesh && mount -t tmpfs none /run/etc && mkdir /run/etc/upper /run/etc/work
mount -t overlay none -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work /etc
mkdir -p /etc/mesh && tar -C /etc/mesh -xf /srv/mesh/members/$1.tar
mount -t tmpfs none /var/lib && mkdir /var/lib/mesh && cd /tmp
anycast-sidecar run /etc/mesh/sidecar.yaml 2>/tmp/sidecar-$1.log &
coredns -conf /etc/mesh/Corefile >/tmp/coredns-$1.log 2>&1 &
for i in $(seq 120); do anycast-sidecar status /etc/mesh/sidecar.yaml 2>/dev/null | grep -q ': announced' && break; sleep 0.5; done
anycast-sidecar status /etc/mesh/sidecar.yaml | grep ': announced'
`

// pagesOfOperation are in an order in which each leaves the mesh as the next one wants it.
var pagesOfOperation = []string{"silence", "reload", "drain", "checks", "releases", "add-node", "node-down", "operators", "mesh-page", "sources", "alarms", "alerts", "keys",
	"backup", "hosts", "upgrade"}

// TestOperation follows the pages in docs/operate, in a mesh of two nodes.
func TestOperation(t *testing.T) {
	testenv.Root(t)
	testenv.Need(t, "ip", "unshare", "nsenter", "dig", "curl", "openssl", "/usr/lib/frr/zebra", "/usr/lib/frr/bgpd")
	all := privateShell(t)
	all.must(operate)
	shells := map[string]*shell{"": all}
	for _, name := range []string{"host", "tyo1", "fra1"} {
		s := startShell(t, "nsenter", "--net", "--mount", "--pid", "--target", all.inner(), "ip", "netns", "exec", name, "unshare", "--mount", "bash")
		s.must("export MESHCTL_HOME=/srv/mesh PATH=/run/top/bin:$PATH; cd /srv")
		if name != "host" {
			s.must(strings.ReplaceAll(node, "$1", name))
		}
		shells[name] = s
	}
	for _, name := range pagesOfOperation {
		if !t.Run(name, func(t *testing.T) { follow(t, "docs/operate/"+name+".md", shells) }) {
			break
		}
	}
	t.Run("metrics", func(t *testing.T) { metricsAreDocumented(t, shells) })
}

// told is a metric in what a program tells: one of ours, or one that a source of the clock gives.
var told = regexp.MustCompile(`(?m)^# TYPE ((?:anycast|meshctl|chrony|node_timex|coredns_meshsync|coredns_sharedunicast)_\S+) (\S+)$`)

// metricsAreDocumented compares docs/reference/metrics.md with what the three programs tell when they have been used.
func metricsAreDocumented(t *testing.T, shells map[string]*shell) {
	page := lab.Read(t, filepath.Join(testenv.Top(t), "docs/reference/metrics.md"))
	for _, at := range []struct {
		machine string
		port    int
		least   int
	}{{"host", 9155, 10}, {"tyo1", 9154, 15}, {"tyo1", 9153, 8}} {
		s := shells[at.machine]
		s.t = t
		found := told.FindAllStringSubmatch(s.must(fmt.Sprintf("exec 8<>/dev/tcp/127.0.0.1/%d; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&8; cat <&8; exec 8>&-", at.port)), -1)
		if len(found) < at.least {
			t.Errorf("%s, port %d: %d metrics: the test reads them wrongly", at.machine, at.port, len(found))
		}
		for _, m := range found {
			if row := fmt.Sprintf("| `%s` | %s |", m[1], m[2]); !strings.Contains(page, row) {
				t.Errorf("docs/reference/metrics.md does not have %s", row)
			}
		}
	}
}
