package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// configurations are the blocks of a page in a router's language.
func configurations(t *testing.T, page, language string) (texts []string) {
	t.Helper()
	blocks, _ := parse(lab.Read(t, filepath.Join(testenv.Top(t), page)))
	for _, b := range blocks {
		if b.language == language {
			texts = append(texts, b.text)
		}
	}
	if len(texts) == 0 {
		t.Fatalf("%s has no configuration for %s", page, language)
	}
	return texts
}

// routers are those for which docs/routes/bgp.md has a configuration: how each judges one, runs by it, and tells from whom it
// has the prefix of the shared address.
var routers = []struct{ language, file, judge, run, look string }{
	{"frr", "bgpd.conf", "/usr/lib/frr/bgpd -C -f bgpd.conf",
		"mkdir -m 777 run && touch zebra.conf && chmod 644 *.conf\n" +
			"/usr/lib/frr/zebra -d -f $PWD/zebra.conf -i $PWD/run/zebra.pid -z $PWD/run/zserv.api --vty_socket $PWD/run\n" +
			"for i in $(seq 100); do [ -e run/zserv.api ] && break; sleep 0.1; done\n" +
			"/usr/lib/frr/bgpd -d -f $PWD/bgpd.conf -i $PWD/run/bgpd.pid -z $PWD/run/zserv.api --vty_socket $PWD/run\n",
		"vtysh --vty_socket $PWD/run -c 'show bgp ipv4 unicast'"},
	{"bird", "bird.conf", "bird -p -c bird.conf", "bird -c bird.conf -s bird.ctl -P bird.pid\n", "birdc -s bird.ctl show route"},
	{"openbgpd", "bgpd.conf", "/usr/sbin/bgpd -n -f bgpd.conf", "mkdir -p /run/openbgpd\n/usr/sbin/bgpd -f bgpd.conf\n", "bgpctl show rib"},
}

// TestRouters has each router run by the configuration in docs/routes/bgp.md, as it stands there, and take the route of both nodes.
func TestRouters(t *testing.T) {
	testenv.Root(t)
	testenv.Need(t, "ip", "unshare", "/usr/lib/frr/zebra", "/usr/lib/frr/bgpd", "vtysh", "bird", "birdc", "/usr/sbin/bgpd", "bgpctl")
	for _, r := range routers {
		t.Run(r.language, func(t *testing.T) {
			t.Parallel()
			s := privateShell(t)
			s.must("./build.sh\nexport PATH=/run/top/bin:$PATH")
			s.must(network + "mkdir -m 755 /tmp/r && cd /tmp/r\n")
			s.must(fmt.Sprintf("cat >%s <<'=== conf'\n%s=== conf\nchmod 600 %[1]s\n", r.file, configurations(t, "docs/routes/bgp.md", r.language)[0]))
			s.must(r.judge)
			s.must(announcers)
			s.must("cat >run.sh <<'=== run'\n" + r.run + "=== run\nip netns exec router bash -e run.sh\n")
			printed, failed, _ := s.give("for i in $(seq 240); do ip netns exec router " + r.look +
				" >seen 2>&1; grep -q 198.51.100.7 seen && grep -q 198.51.100.8 seen && break; sleep 0.25; done; cat seen; grep -q 198.51.100.7 seen; grep -q 198.51.100.8 seen; grep -q 192.0.2.0/24 seen")
			if failed != "" {
				t.Fatalf("the router does not have the route of both nodes:\n%s\n%s", printed, logs(s))
			}
		})
	}
}

// announcers are two nodes with a DNS server that is CoreDNS's file, and a sidecar with the section bgp of docs/routes/bgp.md.
const announcers = `
for m in tyo1:7 fra1:8; do
  n=${m%:*} a=198.51.100.${m#*:}
  ip -n $n addr add 192.0.2.53/32 dev lo
  printf '.:53 {\n bind 192.0.2.53\n file /run/top/cmd/demo/example.org.zone example.org\n}\n' >$n.Corefile
  cat >$n.yaml <<END
node: $n
shared: [192.0.2.53]
socket: unix:///tmp/r/$n.sock
clock: {source: assumed, bound: 1ms}
probe: {interval: 200ms, rise: 2, zones: [example.org]}
bgp:
  as: 64500
  router_id: $a
  prefixes: ["192.0.2.0/24"]
  neighbors:
    - {address: "198.51.100.254", as: 64501, hold_time: 9s}
END
  ip netns exec $n coredns -conf $n.Corefile >$n-coredns.log 2>&1 &
  ip netns exec $n anycast-sidecar run $n.yaml 2>$n-sidecar.log &
done
`

// TestIGPConfigurations has the daemons judge the configurations in docs/routes/igp.md. test/sidecar runs such.
func TestIGPConfigurations(t *testing.T) {
	testenv.Need(t, "bird", "/usr/lib/frr/ospfd")
	dir := t.TempDir()
	lab.Must(t, os.Chmod(dir, 0o755))
	for i, text := range configurations(t, "docs/routes/igp.md", "bird") {
		lab.Run(t, "", "bird", "-p", "-c", lab.Write(t, filepath.Join(dir, fmt.Sprintf("bird%d.conf", i)), text))
	}
	for i, text := range configurations(t, "docs/routes/igp.md", "frr") {
		lab.Run(t, "", "/usr/lib/frr/ospfd", "-C", "-f", lab.Write(t, filepath.Join(dir, fmt.Sprintf("ospfd%d.conf", i)), text))
	}
}
