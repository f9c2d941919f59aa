package docs

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// mostCommands is what a migration from CoreDNS may take, by the page.
const mostCommands = 14

// oldCorefile is that of the server that is replaced.
const oldCorefile = `example.org example.net {
    root /etc/coredns/zones
    file db.example.org example.org
    file net.txt example.net {
        reload 30s
    }
    any
    loadbalance
    prometheus 198.51.100.20:9153
    errors
}
`

// oldNet is a zone without its origin, in a file whose name does not give it.
const oldNet = `$TTL 300
@    SOA ns1.example.org. hostmaster.example.org. 7 7200 3600 1209600 300
     NS  ns1.example.org.
     NS  ns.example.com.
www  A   203.0.113.81
     A   203.0.113.82
     TYPE65280 \# 2 abcd
a.b  TXT "two labels" "two texts"
_sip._udp SRV 1 2 5060 www
alias DNAME example.org.
`

// old are the machines that there are before the migration: the network, the router, CoreDNS on one and three other servers on
// another; and clocks that chronyd keeps. Namespaces have no sshd and no systemd: ssh and scp go from one to another, and systemctl
// starts what a unit of deploy/systemd starts.
const old = `
./build.sh
export PATH=/run/top/bin:$PATH
` + network + `
for m in old:20 primary:21; do
  ip netns add ${m%:*}; ip -n ${m%:*} link set lo up
  ip link add eth0 netns ${m%:*} type veth peer name ${m%:*} netns router
  ip -n ${m%:*} addr add 198.51.100.${m#*:}/24 dev eth0
  ip -n ${m%:*} link set eth0 up
  ip -n router link set ${m%:*} master lan up
done
ip -n primary addr add 198.51.100.22/24 dev eth0
ip -n primary addr add 198.51.100.23/24 dev eth0
mkdir -m 777 /tmp/frr && touch /tmp/frr/zebra.conf
printf 'router bgp 64501\n bgp router-id 198.51.100.254\n no bgp ebgp-requires-policy\n neighbor 198.51.100.7 remote-as 64500\n neighbor 198.51.100.8 remote-as 64500\n' >/tmp/frr/bgpd.conf
for d in zebra bgpd; do
  ip netns exec router /usr/lib/frr/$d -d -f /tmp/frr/$d.conf -i /tmp/frr/$d.pid -z /tmp/frr/zserv.api --vty_socket /tmp/frr
  for i in $(seq 100); do [ -e /tmp/frr/zserv.api ] && break; sleep 0.1; done
done
mkdir -p /run/etc && mount -t tmpfs none /run/etc && mkdir /run/etc/upper /run/etc/work
mount -t overlay none -o lowerdir=/etc,upperdir=/run/etc/upper,workdir=/run/etc/work /etc
mount -t tmpfs none /srv && mount -t tmpfs none /var/lib && mkdir -p /etc/mesh /var/lib/mesh /run/mesh /etc/coredns /etc/knot /etc/nsd /etc/bind /srv/primary
cp cmd/demo/example.org.zone /srv/primary/example.org.zone
id=64990
for u in meshctl coredns anycast-sidecar; do
  getent passwd $u >/dev/null || echo $u:x:$id:$id::/:/bin/false >>/etc/passwd
  getent group $u >/dev/null || echo $u:x:$id: >>/etc/group
  id=$((id+1))
done
getent group mesh >/dev/null || echo mesh:x:64999: >>/etc/group
mkdir /run/remote
cat >/run/remote/ssh <<'END'
#!/bin/sh -e
machine=${1#root@}; shift
exec nsenter --net --mount --target "$(cat /run/remote/$machine)" sh -c "$*"
END
cat >/run/remote/scp <<'END'
#!/bin/bash -e
set -o pipefail
[ "$1" = -r ]
dir=${2#*:}
/run/remote/ssh "${2%%:*}" tar -C "$(dirname "$dir")" -c "$(basename "$dir")" | tar -C "$3" -x
END
cat >/run/remote/systemctl <<'END'
#!/bin/sh -e
[ "$1 $2" = "enable --now" ]; shift 2
for unit; do
  command=$(sed -n 's:^ExecStart=/usr/local/bin/::p' /run/top/deploy/systemd/$unit.service)
  [ -n "$command" ]
  setsid $command </dev/null >/tmp/$unit-$MACHINE.log 2>&1 &
done
END
chmod 755 /run/remote/*
`

// clock keeps that of a machine: by nobody's word on the distribution host, and by that one's on nodes. No clock is set.
const clock = `
printf '%s\ncmdport 323\nbindcmdaddress 127.0.0.1\npidfile /tmp/chronyd-$1.pid\nbindcmdaddress /\n' "$2" >/tmp/chronyd-$1.conf
ip netns exec $1 chronyd -x -d -u root -f /tmp/chronyd-$1.conf >/tmp/chronyd-$1.log 2>&1 &
`

// hidden are the three servers, by the addresses and files that the page gives them.
func hidden(s *shell) {
	for i, kind := range []string{"knotd", "nsd", "named"} {
		file := []string{"/etc/knot/knot.conf", "/etc/nsd/nsd.conf", "/etc/bind/named.conf"}[i]
		server := &lab.NameServer{Kind: kind, Dir: "/srv/primary/" + kind, Listen: []netip.AddrPort{netip.MustParseAddrPort(fmt.Sprintf("198.51.100.%d:53", 21+i))},
			Keys: []lab.TSIG{{Name: "xfr.example", Algorithm: "hmac-sha256", Secret: "c2VjcmV0IHRoYXQgbm9ib2R5IGtub3dzIGhlcmUhISE="}}}
		z := lab.ServedZone{Origin: "example.org", File: "/srv/primary/example.org.zone"}
		run := map[string]string{"knotd": "knotd -c", "nsd": "nsd -d -c", "named": "named -f -g -n 1 -c"}[kind]
		switch kind {
		case "knotd":
			server.Rest = "acl:\n  - id: out\n    address: 198.51.100.1\n    key: xfr.example\n    action: transfer\n"
			z.More = "    acl: out\n    zonefile-sync: -1\n"
		case "nsd":
			z.More = "  provide-xfr: 198.51.100.1 xfr.example\n"
		case "named":
			z.More = "allow-transfer { key xfr.example; }; notify no; "
		}
		server.Zones = []lab.ServedZone{z}
		s.must(fmt.Sprintf("mkdir -p %s\ncat >%s <<'END'\n%s\nEND\nip netns exec primary %s %s >/tmp/%s.log 2>&1 &", server.Dir, file, server.Config(), run, file, kind))
	}
	s.must(`for a in 21 22 23; do
  for i in $(seq 60); do ip netns exec host dig +short +time=1 +tries=1 @198.51.100.$a example.org SOA | grep -q hostmaster && break; sleep 0.5; done
done`)
}

// TestMigration follows docs/migrate.md, with a CoreDNS that serves zone files, a Knot, an NSD and a BIND. Afterwards each node answers every
// question about the zones of that CoreDNS as it does.
func TestMigration(t *testing.T) {
	testenv.Root(t)
	testenv.Need(t, "ip", "unshare", "nsenter", "dig", "chronyd", "knotd", "nsd", "named", "/usr/lib/frr/zebra", "/usr/lib/frr/bgpd")
	t.Parallel()
	countCommands(t)
	all := privateShell(t)
	all.must(old)
	hidden(all)
	shells := map[string]*shell{"": all}
	for _, name := range []string{"old", "host", "tyo1", "fra1", "router"} {
		s := startShell(t, "nsenter", "--net", "--mount", "--pid", "--target", all.inner(), "ip", "netns", "exec", name, "unshare", "--mount", "bash")
		s.must("export MACHINE=" + name + " PATH=/run/remote:/run/top/bin:$PATH; cd /\nfor a in $(ip -4 -o addr show dev eth0 2>/dev/null | sed 's:.* inet \\([^/]*\\)/.*:\\1:'); do echo $$ >/run/remote/$a; done")
		source := "server 198.51.100.1 iburst minpoll 0 maxpoll 0"
		switch name {
		case "old":
			s.must("mount -t tmpfs none /etc/coredns; mkdir /etc/coredns/zones; cp /run/top/cmd/demo/example.org.zone /etc/coredns/zones/db.example.org")
			s.must(fmt.Sprintf("cat >/etc/coredns/Corefile <<'END'\n%s\nEND\ncat >/etc/coredns/zones/net.txt <<'END'\n%s\nEND", oldCorefile, oldNet))
			s.must("coredns -conf /etc/coredns/Corefile >/tmp/old.log 2>&1 &")
			continue
		case "host":
			source = "local stratum 8\nallow"
		case "tyo1", "fra1":
			s.must("for d in /etc/mesh /var/lib/mesh /run/mesh; do mount -t tmpfs none $d; done")
		}
		if name != "router" {
			all.must(strings.NewReplacer("$1", name, "$2", source).Replace(clock))
		}
		shells[name] = s
	}
	follow(t, "docs/migrate.md", shells)
	for _, node := range []string{"tyo1", "fra1"} {
		sameAnswers(t, shells[node])
		if got, want := shells[node].must("stat -c '%U:%G %a' /etc/mesh/node.key /etc/mesh/node.crt /etc/mesh/cookies.key /etc/mesh/root.json"), "anycast-sidecar:mesh 600\nanycast-sidecar:mesh 644\ncoredns:mesh 600\nroot:mesh 644"; strings.TrimSpace(got) != want {
			t.Errorf("%s: the bundle's files are of\n%s\nwant\n%s", node, got, want)
		}
	}
}

// countCommands counts those of the page's way from CoreDNS.
func countCommands(t *testing.T) {
	page := lab.Read(t, filepath.Join(testenv.Top(t), "docs/migrate.md"))
	_, way, _ := strings.Cut(page, "\n## From CoreDNS ")
	way, _, _ = strings.Cut(way, "\n## ")
	blocks, _ := parse(way)
	n := 0
	for _, b := range blocks {
		if b.language == "sh" {
			n += strings.Count(b.text, "\n")
		}
	}
	if n < 5 || n > mostCommands {
		t.Errorf("the way from CoreDNS has %d commands, of %d", n, mostCommands)
	}
}

// sameAnswers asks a node and the old server for every RRset of the zones.
func sameAnswers(t *testing.T, s *shell) {
	s.t = t
	questions := questionsOf(t, "example.org.", lab.Read(t, filepath.Join(testenv.Top(t), "cmd/demo/example.org.zone")))
	questions = append(questions, questionsOf(t, "example.net.", oldNet)...)
	s.must("cat >/tmp/questions <<'END'\n" + strings.Join(questions, "\n") + "\nEND")
	s.must("for i in $(seq 240); do dig +short +time=1 +tries=1 @192.0.2.53 example.net SOA | grep -q hostmaster && break; sleep 0.5; done")
	ask := "dig +norecurse +noall +answer +time=5 @%s -f /tmp/questions | sed 's/[[:space:]]\\+/ /g' | sort"
	want, got := s.must(fmt.Sprintf(ask, "198.51.100.20")), s.must(fmt.Sprintf(ask, "192.0.2.53"))
	if got != want || strings.Count(want, "\n") < len(questions)-2 {
		t.Errorf("the node answers\n%s\nand the old server\n%s\nto\n%s", got, want, strings.Join(questions, "\n"))
	}
}

var typeOf = regexp.MustCompile(`^(\S*)\s+(SOA|NS|MX|TXT|AAAA|A|CNAME|SRV|DNAME|TYPE\d+)\s`)

// questionsOf are names and types of all RRsets of a zone file, but for those at and below delegations.
func questionsOf(t *testing.T, origin, text string) (all []string) {
	t.Helper()
	owner := "@"
	for _, line := range strings.Split(text, "\n") {
		m := typeOf.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if m[1] != "" {
			owner = m[1]
		}
		name := strings.TrimPrefix(owner+"."+origin, "@.")
		if q := strings.Replace(name, "*", "any", 1) + " " + m[2]; !strings.Contains(name, "child.") && !slices.Contains(all, q) {
			all = append(all, q)
		}
	}
	if len(all) < 6 {
		t.Fatalf("%s: only %d questions", origin, len(all))
	}
	return all
}
