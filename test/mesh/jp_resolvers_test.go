package mesh_test

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// resolver is a recursive server, on a host of its own name at 127.0.0.1, that knows the root server's address and nothing
// else. Its settings are its own defaults, but that nothing here is signed, and which families it asks over.
type resolver struct {
	host, name string
	needs      []string
	start      func(j *jp, commands []string)
	forget     func(j *jp, commands []string) // what it knows, of servers too
}

var resolvers = []resolver{
	{"unbound", "Unbound", []string{"unbound", "unbound-control"}, startUnbound, func(j *jp, commands []string) {
		for _, what := range [][]string{{"flush_infra", "all"}, {"flush_zone", "."}} {
			j.mustRun("unbound", append([]string{commands[1], "-c", j.path("unbound", "conf")}, what...)...)
		}
	}},
	{"bind", "BIND", []string{"named", "rndc"}, startBIND, func(j *jp, commands []string) {
		j.mustRun("bind", commands[1], "-c", j.path("bind", "rndc.conf"), "flush")
	}},
	{"kresd", "Knot Resolver", []string{"kresd"}, startKresd, func(j *jp, _ []string) { j.kresdControl("cache.clear()") }},
}

func (r resolver) commands(t *testing.T) []string { return testenv.Need(t, r.needs...) }

// startNSD serves one zone on a host.
func (j *jp) startNSD(host string, address pair, origin, text string) *lab.Process {
	binary := testenv.Need(j.t, "nsd")[0]
	server := lab.NameServer{Kind: "nsd", Dir: j.path(host), Zones: []lab.ServedZone{{Origin: origin, File: j.write(host+"/zone", text)}}}
	for _, a := range address {
		server.Listen = append(server.Listen, netip.AddrPortFrom(netip.MustParseAddr(a), 53))
	}
	return j.start(host, "nsd", server.Argv(j.t, binary)...)
}

// rootText delegates the zone, with the addresses of its three servers.
func rootText(root, b pair) string {
	return `. 3600 SOA a.root. hostmaster.root. 1 3600 900 1209600 300
. 3600 NS a.root.
jp. 3600 NS a.dns.jp.
jp. 3600 NS b.dns.jp.
jp. 3600 NS d.dns.jp.
` + addresses("a.root.", root) + addresses("a.dns.jp.", sharedA) + addresses("b.dns.jp.", b) + addresses("d.dns.jp.", sharedD)
}

func addresses(owner string, of pair) string {
	return fmt.Sprintf("%[1]s 3600 A %[2]s\n%[1]s 3600 AAAA %[3]s\n", owner, of[0], of[1])
}

// jpText is the zone, which says which release it is in a name of its own and in any below w.jp.
func jpText(number uint64, b pair) string {
	return fmt.Sprintf(`$ORIGIN jp.
$TTL 3600
@       SOA a.dns hostmaster %[1]d 3600 900 1209600 300
@       NS  a.dns
@       NS  b.dns
@       NS  d.dns
release TXT "%[1]d"
*.w     TXT "%[1]d"
`, number) + addresses("a.dns", sharedA) + addresses("b.dns", b) + addresses("d.dns", sharedD)
}

func startUnbound(j *jp, commands []string) {
	conf := j.write("unbound/conf", fmt.Sprintf(`server:
  interface: 127.0.0.1
  chroot: ""
  username: ""
  directory: %[1]s
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  do-ip6: no
  module-config: iterator
  root-hints: %[2]s
remote-control:
  control-enable: yes
  control-interface: %[1]s/control
  control-use-cert: no
`, j.path("unbound"), j.hints()))
	j.start("unbound", "unbound", commands[0], "-d", "-c", conf)
}

func startBIND(j *jp, commands []string) {
	const key = `key control { algorithm hmac-sha256; secret "MzI1OA=="; };` + "\n"
	conf := j.write("bind/named.conf", fmt.Sprintf(`%soptions {
  directory %q;
  listen-on { 127.0.0.1; };
  listen-on-v6 { none; };
  pid-file none;
  session-keyfile none;
  dnssec-validation no;
};
controls { inet 127.0.0.1 allow { 127.0.0.1; } keys { control; }; };
zone "." { type hint; file %q; };
`, key, j.path("bind"), j.hints()))
	j.write("bind/rndc.conf", key+"options { default-server 127.0.0.1; default-key control; };\n")
	j.start("bind", "named", commands[0], "-g", "-c", conf)
}

func startKresd(j *jp, commands []string) {
	conf := j.write("kresd/conf", fmt.Sprintf(`net.listen('127.0.0.1', 53, {kind = 'dns'})
net.ipv4 = false
modules = { 'hints > iterate' }
modules.unload('ta_update')
modules.unload('ta_signal_query')
trust_anchors.remove('.')
hints.root({ ['a.root.'] = { '%s' } })
cache.size = 10 * MB
`, j.addressRoot()[1]))
	j.start("kresd", "kresd", commands[0], "-n", "-c", conf, j.path("kresd"))
}

// kresdControl has kresd run a line of Lua.
func (j *jp) kresdControl(line string) {
	j.t.Helper()
	found, err := filepath.Glob(j.path("kresd", "control", "*"))
	j.must(err)
	if len(found) != 1 {
		j.fatalf("kresd's control sockets: %v", found)
	}
	conn, err := net.Dial("unix", found[0])
	j.must(err)
	defer conn.Close()
	j.must(conn.SetDeadline(time.Now().Add(10 * time.Second)))
	_, err = conn.Write([]byte(line + "\n"))
	j.must(err)
	said := make([]byte, 1000)
	got := 0
	for !strings.Contains(string(said[2:max(2, got)]), "> ") { // its prompt, before and after
		k, err := conn.Read(said[got:])
		j.must(err)
		got += k
	}
}

// hints is the file that names the root server.
func (j *jp) hints() string {
	path := j.path("hints")
	if _, err := os.Stat(path); err != nil {
		j.write("hints", ". 3600 NS a.root.\n"+addresses("a.root.", j.addressRoot()))
	}
	return path
}
