package config

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/gate"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// The shipped example is a configuration, and means what its comments say.
func TestExampleLoads(t *testing.T) {
	c, err := Load(filepath.Join(testenv.Top(t), "sidecar.example.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Node != "tyo1" || len(c.Shared) != 2 || c.Failure.Policy != gate.StopDNS || c.Probe.Interval != time.Second {
		t.Errorf("the example reads as %+v", c)
	}
	n := c.BGP.Neighbors[0]
	for _, p := range c.BGP.Prefixes {
		if !n.Carries(p) {
			t.Errorf("the example does not announce %s to %s", p, n.Address)
		}
	}
	if got, want := n.NextHop(c.BGP.Prefixes[1]), netip.MustParseAddr("2001:db8:100::7"); got != want {
		t.Errorf("IPv6 next hop %s, want %s", got, want)
	}
}

// Every key that is commented out in the example is one that the parser knows: the example lists them all.
func TestExampleShowsEveryKey(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(testenv.Top(t), "sidecar.example.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	key := regexp.MustCompile(`(?m)^ *(?:# *|- )*([a-z_0-9]+):`)
	shown := map[string]bool{}
	for _, m := range key.FindAllStringSubmatch(string(data), -1) {
		shown[m[1]] = true
	}
	_, err = Parse("x", []byte("nonsense: 1\nidentity: {z: 1}\nadmin: {z: 1}\nfailure: {z: 1, flaps: {z: 1}, degraded: {z: 1}}\nclock: {z: 1}\nprobe: {z: 1}\n"+
		"bgp: {z: 1, prefixes: [{z: 1}], neighbors: [{z: 1}]}\nigp: {z: 1}\ndrain: {z: 1}\nmirror: {z: 1}\n"))
	may := regexp.MustCompile(`it may hold (.*)`)
	sections := may.FindAllStringSubmatch(err.Error(), -1)
	if len(sections) != 14 {
		t.Fatalf("%d sections said what they may hold, want 14:\n%v", len(sections), err)
	}
	for _, m := range sections {
		for _, k := range strings.Split(m[1], ", ") {
			if !shown[k] {
				t.Errorf("the example does not show %q", k)
			}
		}
	}
}

const small = "node: a\nshared: [192.0.2.53]\nprobe: {zones: [Example.ORG]}\n"

// withMesh is a node of a mesh that follows these repositories.
func withMesh(urls, failure string) string {
	return "socket: unix:///run/a\nmeshsync: unix:///run/b\nidentity: {certificate: /c, key: /k, ca: /ca}\nadmin: {listen: '198.51.100.7:8443'}\n" +
		"mirror: {urls: " + urls + ", depot: /d, root: /r}\nfailure: " + failure + "\n"
}

// A node of a mesh asks how many others remain, unless it is told not to; one that stands alone cannot.
func TestWhoAsksBeforeItLeaves(t *testing.T) {
	const host, cdn = "['https://dist.example/']", "[{url: 'https://cdn.example/', ca: system}]"
	for _, c := range []struct {
		text string
		want int
	}{
		{small, 0}, {small + withMesh(host, "{policy: withdraw}"), 1}, {small + withMesh(host, "{min_announcing: 0}"), 0},
		{small + withMesh(host, "{min_announcing: 3}"), 3}, {small + withMesh(cdn, "{policy: withdraw}"), 0},
	} {
		got, err := Parse("x.yaml", []byte(c.text))
		if err != nil {
			t.Fatal(err)
		}
		if got.Failure.MinAnnouncing != c.want {
			t.Errorf("min_announcing %d, want %d of\n%s", got.Failure.MinAnnouncing, c.want, c.text)
		}
	}
}

func TestDefaults(t *testing.T) {
	c, err := Parse("x.yaml", []byte(small))
	if err != nil {
		t.Fatal(err)
	}
	if c.Probe.Zones[0] != "example.org." {
		t.Errorf("zone %q, want it fully qualified and in lower case", c.Probe.Zones[0])
	}
	if c.Clock.Source != "chrony" || c.Clock.Chrony.Port() != 323 || c.Failure.Policy != gate.StopDNS || c.BGP != nil {
		t.Errorf("defaults %+v", c)
	}
}

// NTP servers are addresses, with NTP's port unless another is given.
func TestNTPServers(t *testing.T) {
	c, err := Parse("x.yaml", []byte(small+"clock: {source: ntp, servers: [192.0.2.1, '[2001:db8::1]:1123', '2001:db8::2'], interval: 32s}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(c.Clock.Servers); got != "[192.0.2.1:123 [2001:db8::1]:1123 [2001:db8::2]:123]" || c.Clock.Interval != 32*time.Second {
		t.Errorf("servers %s every %v", got, c.Clock.Interval)
	}
}

// Communities of every kind are told apart, and well-known ones have their number.
func TestCommunities(t *testing.T) {
	c, err := Parse("x.yaml", []byte(small+"bgp:\n  as: 4200000000\n  origin_as: 64511\n"+`  router_id: 198.51.100.7
  prefixes: [192.0.2.0/24]
  neighbors: [{address: 198.51.100.1, as: 2, med: 0, communities: [no-export, "64501:100", "4200000000:1:2", "rt:64501:100000", "soo:4200000000:1"]}]
`))
	if err != nil {
		t.Fatal(err)
	}
	n := c.BGP.Neighbors[0]
	for kind, want := range map[CommunityKind][]string{Standard: {"65535:65281", "64501:100"}, Large: {"4200000000:1:2"},
		Extended: {"rt:64501:100000", "soo:4200000000:1"}} {
		if got := n.CommunitiesOf(kind); !slices.Equal(got, want) {
			t.Errorf("kind %d: %q, want %q", kind, got, want)
		}
	}
	if n.MED == nil || *n.MED != 0 || c.BGP.OriginAS != 64511 {
		t.Errorf("MED %v, origin AS %d", n.MED, c.BGP.OriginAS)
	}
}

// A prefix may have attributes of its own, and a node that is not well too.
func TestPrefixAttributes(t *testing.T) {
	c, err := Parse("x.yaml", []byte(small+"failure: {degraded: {med: 1000, prepend: 3, communities: [\"64501:666\"], slow: true}}\nbgp:\n  as: 64500\n"+
		"  router_id: 198.51.100.7\n  prefixes: [{prefix: 192.0.2.0/24, communities: [no-export, '64501:1:2'], med: 5}, 192.0.0.0/16]\n"+
		"  neighbors: [{address: 198.51.100.1, as: 64501}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	a, d := c.BGP.Attributes[netip.MustParsePrefix("192.0.2.0/24")], c.Failure.Degraded
	if len(c.BGP.Prefixes) != 2 || len(c.BGP.Attributes) != 1 || *a.MED != 5 || len(OfKind(a.Communities, Standard)) != 1 || len(OfKind(a.Communities, Large)) != 1 {
		t.Errorf("%v, %+v", c.BGP.Prefixes, a)
	}
	if *d.MED != 1000 || d.Prepend != 3 || !d.Slow || len(d.Communities) != 1 {
		t.Errorf("degraded %+v", d)
	}
}

const bgpTail = "  router_id: 198.51.100.7\n  prefixes: [192.0.2.0/24]\n  neighbors: [{address: 198.51.100.1, as: 64501}]\n"

// Each bad file gives exactly these lines, so a rule that also fires elsewhere, or at the wrong place, is seen.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		name, file string
		want       []string
	}{
		{"empty", "", []string{"x.yaml:1:1: the file is empty"}},
		{"not YAML", "node: [", []string{"x.yaml:2:1: did not find expected node content"}},
		{"list not closed", "node: a\nshared: [192.0.2.53\nprobe: 1\n", []string{"x.yaml:2:1: did not find expected ',' or ']'"}},
		{"mapping not closed", "node: a\nprobe: {rise: 1\nbgp: 1\n", []string{"x.yaml:2:1: did not find expected ',' or '}'"}},
		{"element among keys", "node: a\nprobe:\n  rise: 1\n  - b\n", []string{"x.yaml:3:1: did not find expected key"}},
		{"address without quotes", "node: a\nshared: [::1]\n", []string{"x.yaml:2:1: did not find expected node content"}},
		{"key too far right", "node: a\n  shared: b\n", []string{"x.yaml:2:1: mapping values are not allowed"}},
		{"two documents", small + "---\nnode: b\n", []string{"x.yaml:4:1: a second document"}},
		{"a list", "[1]", []string{`x.yaml:1:1: the configuration: want a mapping`}},
		{"unknown key", small + "nod: b\n", []string{`x.yaml:4:1: unknown key "nod" in the configuration: it may hold admin, bgp,`}},
		{"key twice", small + "node: b\n", []string{`x.yaml:4:1: key "node" twice in the configuration`}},
		{"every error at once", "node: A_\nshared: [0.0.0.0, fe80::1%eth0, x]\nprobe: {rise: 0, fall: 101, zones: [a..b]}\n", []string{
			`x.yaml:1:7: "A_" is not a node's name`, `x.yaml:2:10: 0.0.0.0 is the wildcard`, `x.yaml:2:19: fe80::1%eth0: an address with a zone`,
			`x.yaml:2:33: "x" is not an IP address`, `x.yaml:3:15: 0 is out of range: 1 to 100`, `x.yaml:3:24: 101 is out of range`,
			`x.yaml:3:37: "a..b" is not a domain name`, `x.yaml:1:1: nothing tells which zones`}},
		{"alias", "node: &n a\nshared: [*n]\n", []string{"x.yaml:1:7: an anchor", "x.yaml:2:10: an alias"}},
		{"tag", "node: !!str a\nshared: [192.0.2.53]\n", []string{"x.yaml:1:7: a tag"}},
		{"address twice", "node: a\nshared: [192.0.2.53, 192.0.2.53]\nprobe: {zones: [a]}\n", []string{"x.yaml:2:22: 192.0.2.53 twice"}},
		{"mapped address", "node: a\nshared: ['::ffff:192.0.2.53']\nprobe: {zones: [a]}\n", []string{"x.yaml:2:10: ::ffff:192.0.2.53: write the IPv4 address 192.0.2.53"}},
		{"assumed without bound", small + "clock: {source: assumed}\n", []string{`x.yaml:4:8: clock: source assumed lacks "bound"`}},
		{"bound that is measured", small + "clock: {source: kernel, bound: 1ms}\n", []string{`x.yaml:4:32: clock: "bound" goes with source assumed`}},
		{"ntp without servers", small + "clock: {source: ntp}\n", []string{`x.yaml:4:8: clock: source ntp lacks "servers"`}},
		{"two servers", small + "clock: {source: ntp, servers: [192.0.2.1, 192.0.2.2]}\n", []string{`x.yaml:4:31: clock: 2 NTP servers: a majority that outvotes a liar takes 3`}},
		{"one server twice", small + "clock: {source: ntp, servers: [192.0.2.1, '192.0.2.1:123', 192.0.2.2, 192.0.2.3]}\n", []string{"x.yaml:4:43: 192.0.2.1:123 twice"}},
		{"a server's name", small + "clock: {source: ntp, servers: [time.example.net, 192.0.2.1, 192.0.2.2], interval: 500ms}\n",
			[]string{`x.yaml:4:32: "time.example.net" is no NTP server: write its address`, `x.yaml:4:83: 500ms is out of range: 1s to 17m4s`}},
		{"keys of another source", small + "clock: {source: chrony, servers: [192.0.2.1, 192.0.2.2, 192.0.2.3], interval: 1m, clockbound: /a}\n", []string{
			`x.yaml:4:34: clock: "servers" goes with source ntp, and the source is chrony`, `x.yaml:4:79: clock: "interval" goes with source ntp`,
			`x.yaml:4:95: clock: "clockbound" goes with source clockbound`}},
		{"metrics for nobody", small + "dns_metrics: 127.0.0.1:9153\n", []string{`x.yaml:4:14: dns_metrics needs "admin"`}},
		{"metrics of another machine", small + "dns_metrics: 192.0.2.1:9153\n", []string{`x.yaml:4:14: 192.0.2.1:9153 is not a loopback address`, `x.yaml:4:14: dns_metrics needs "admin"`}},
		{"prefixes with attributes", small + "bgp:\n  as: 64500\n  router_id: 198.51.100.7\n  prefixes: [192.0.2.0/24, {prefix: 192.0.2.0/24, med: 1}, {med: 2}, {prefix: 192.0.2.0/25, communities: ['rt:1:2']}]\n" +
			"  neighbors: [{address: 198.51.100.1, as: 64501}]\n", []string{"x.yaml:7:28: 192.0.2.0/24 twice", `x.yaml:7:60: prefix lacks "prefix"`,
			"x.yaml:7:106: prefix 192.0.2.0/25: extended communities are given to neighbors"}},
		{"degraded by nothing", small + "failure: {degraded: {slow: true}}\n", []string{"x.yaml:4:21: degraded: nothing makes the route worse"}},
		{"clock source", small + "clock: {source: ntpd}\n", []string{`x.yaml:4:17: "ntpd" is no clock source: chrony, kernel, ntp, clockbound or assumed`}},
		{"duration without unit", small + "failure: {readvertise_delay: 30}\n", []string{`x.yaml:4:30: "30" is not a duration`}},
		{"a budget that does nothing", small + "failure: {readvertise_delay: 10m, flaps: {most: 3, window: 5m}}\n",
			[]string{"x.yaml:4:42: failure: flaps: window 5m0s is below readvertise_delay 10m0s"}},
		{"budgets out of bounds", small + "failure: {flaps: {most: 101, window: 1s}, min_announcing: 1001}\n",
			[]string{"x.yaml:4:25: 101", "x.yaml:4:38: 1s", "x.yaml:4:59: 1001"}},
		{"nobody to ask", small + "failure: {min_announcing: 2}\n", []string{"x.yaml:4:27: failure: min_announcing 2: a distribution host counts"}},
		{"a bucket to ask", small + withMesh("[{url: 'https://cdn.example/', ca: system}]", "{min_announcing: 1}"), []string{"failure: min_announcing 1: a distribution host counts"}},
		{"policy", small + "failure: {policy: none}\n", []string{`x.yaml:4:19: "none" is no failure policy`}},
		{"metrics for all", small + "metrics: 198.51.100.7:9154\n", []string{"x.yaml:4:10: 198.51.100.7:9154 is not a loopback address"}},
		{"admin without identity", small + "admin: {listen: 198.51.100.7:8443}\n", []string{`x.yaml:4:8: admin needs "identity"`}},
		{"admin on the shared address", small + "admin: {listen: 192.0.2.53:8443}\nidentity: {certificate: /c, key: /k, ca: /a}\n",
			[]string{"x.yaml:4:8: admin.listen is the shared address 192.0.2.53"}},
		{"admin on the wildcard", small + "admin: {listen: '[::]:8443'}\nidentity: {certificate: /c, key: /k, ca: /a}\n",
			[]string{"x.yaml:4:17: :: is the wildcard"}},
		{"sockets are one", small + "socket: unix:///run/a\nmeshsync: unix:///run/a\n", []string{"x.yaml:5:11: meshsync and socket are one path"}},
		{"relative socket", small + "socket: run/a\n", []string{`x.yaml:4:9: "run/a" is not a unix socket`}},
		{"repository without a CA", small + "mirror: {urls: [{url: 'https://d/'}], depot: /d, root: /r}\nidentity: {certificate: /c, key: /k, ca: /a}\n",
			[]string{`x.yaml:4:17: the repository lacks "ca"`}},
		{"repository's CA", small + "mirror: {urls: [{url: 'https://d/', ca: any}, 'https://e/', 'https://e/'], depot: /d, root: /r}\nidentity: {certificate: /c, key: /k, ca: /a}\n",
			[]string{`x.yaml:4:41: "any" is not an absolute path`, "x.yaml:4:61: https://e/ twice"}},
		{"plain repository", small + "mirror: {urls: ['http://d/'], depot: d, root: /r}\nidentity: {certificate: /c, key: /k, ca: /a}\n",
			[]string{`x.yaml:4:17: "http://d/" is not a repository`, `x.yaml:4:38: "d" is not an absolute path`}},
		{"bounds of the mirror", small + "mirror: {urls: ['https://d/'], depot: /d, root: /r, bandwidth: 10MB, disk: 1kB}\nidentity: {certificate: /c, key: /k, ca: /a}\n",
			[]string{`x.yaml:4:64: "10MB": want a whole number of kB, MB, GB or TB, such as 10MB/s`, "x.yaml:4:76: 1kB is out of range"}},
		{"more than there is", small + "mirror: {urls: ['https://d/'], depot: /d, root: /r, bandwidth: 1.5MB/s, disk: 2147483647TB}\nidentity: {certificate: /c, key: /k, ca: /a}\n",
			[]string{`x.yaml:4:64: "1.5MB/s": want`, "x.yaml:4:79: 2147483647TB is out of range"}},
		{"timeout past interval", "node: a\nshared: [192.0.2.53]\nprobe: {zones: [a], timeout: 2s}\n", []string{"x.yaml:3:8: probe: timeout 2s is above interval 1s"}},
		{"prefix without shared address", small + "bgp:\n  as: 1\n  router_id: 198.51.100.7\n  prefixes: [192.0.2.0/24, 203.0.113.0/24]\n  neighbors: [{address: 198.51.100.1, as: 2}]\n",
			[]string{"x.yaml:5:3: prefix 203.0.113.0/24 contains no shared address"}},
		{"shared address in no prefix", "node: a\nshared: [192.0.2.53, 203.0.113.1]\nprobe: {zones: [a]}\nbgp:\n  as: 1\n" + bgpTail,
			[]string{"x.yaml:2:9: shared address 203.0.113.1 is in no prefix"}},
		{"host bits", small + "bgp:\n  as: 1\n  router_id: 198.51.100.7\n  prefixes: [192.0.2.53/24]\n  neighbors: [{address: 198.51.100.1, as: 2}]\n",
			[]string{"x.yaml:7:14: 192.0.2.53/24 has bits set past its length: write 192.0.2.0/24"}},
		{"family reaches nobody", "node: a\nshared: [192.0.2.53, '2001:db8::53']\nprobe: {zones: [a]}\nbgp:\n  as: 1\n  router_id: 198.51.100.7\n" +
			"  prefixes: [192.0.2.0/24, '2001:db8::/48']\n  neighbors: [{address: 198.51.100.1, as: 2}]\n",
			[]string{"x.yaml:7:28: bgp: prefix 2001:db8::/48 reaches no neighbor"}},
		{"neighbour rules", small + "bgp:\n  neighbors:\n  - {address: 198.51.100.1, as: 1, multihop: 2}\n  - {address: 198.51.100.1, as: 0, source: '2001:db8::1', hold_time: 3500ms, passive: true}\n" +
			"  - {address: 192.0.2.53, as: 3, next_hop: [fe80::1, 10.0.0.1, 10.0.0.2]}\n  as: 1\n  router_id: '2001:db8::7'\n  prefixes: [192.0.2.0/24]\n",
			[]string{"x.yaml:5:3: neighbor is the shared address", "x.yaml:6:5: neighbor 198.51.100.1: a session inside one AS",
				"x.yaml:7:5: neighbor 198.51.100.1: passive needs bgp.listen", "x.yaml:7:5: neighbor 198.51.100.1 twice",
				"x.yaml:7:33: 0 is out of range", "x.yaml:7:44: neighbor 198.51.100.1: source 2001:db8::1 is of the other family",
				"x.yaml:7:70: neighbor 198.51.100.1: hold_time 3.5s: BGP counts whole seconds", "x.yaml:8:45: next hop fe80::1 is link-local",
				"x.yaml:8:64: a second next hop of one family", "x.yaml:10:14: bgp: router_id 2001:db8::7: want the form of an IPv4"}},
		{"protection and attributes", small + "bgp:\n  as: 1\n  router_id: 198.51.100.7\n  prefixes: [192.0.2.0/24]\n  neighbors:\n" +
			"  - {address: 198.51.100.1, as: 2, ttl_security: 1, multihop: 2}\n  - {address: 198.51.100.2, as: 2, bfd: 300ms, multihop: 2}\n" +
			"  - {address: 198.51.100.3, as: 1, prepend: 1}\n  - {address: 198.51.100.4, as: 2, bfd: 300ms, ttl_security: 2, prepend: 17}\n",
			[]string{"x.yaml:9:50: neighbor 198.51.100.1: ttl_security and multihop", "x.yaml:10:41: neighbor 198.51.100.2: bfd is for",
				"x.yaml:11:5: neighbor 198.51.100.3: a session inside one AS prepends nothing", "x.yaml:12:41: neighbor 198.51.100.4: bfd is for",
				"x.yaml:12:74: 17 is out of range: 1 to 16"}},
		{"numbers and neighbours that cannot be", small + "bgp:\n  as: 23456\n  origin_as: 65535\n  router_id: 198.51.100.7\n  prefixes: [192.0.2.0/24]\n  neighbors:\n" +
			"  - {address: 198.51.100.1, as: 4294967295, next_hop: [198.51.100.1]}\n  - {address: 'fe80::1', as: 2, next_hop: [198.51.100.7]}\n  - {address: '2001:db8:1::1', as: 2}\n",
			[]string{"x.yaml:5:7: 23456 stands for", "x.yaml:6:14: 65535 is nobody's", "x.yaml:10:33: 4294967295 is out of range",
				"x.yaml:10:55: neighbor 198.51.100.1: the next hop is the router itself", "x.yaml:11:15: neighbor: address fe80::1 is link-local",
				"x.yaml:12:5: neighbor 2001:db8:1::1 gets none of bgp.prefixes"}},
		{"communities", small + "bgp:\n  as: 1\n  router_id: 198.51.100.7\n  prefixes: [192.0.2.0/24]\n  neighbors:\n  - address: 198.51.100.1\n    as: 2\n" +
			"    communities: ['65535:0', '65536:1', '1:65536', 'rt:65536:65536', 'rt:1:2:3', '1:2:4294967296', '01:2', 'no-such', '-1:2', '1:2', '1:2']\n",
			[]string{"x.yaml:11:19: 65535:0 is GRACEFUL_SHUTDOWN", `x.yaml:11:30: "65536:1" is not`, `x.yaml:11:41: "1:65536" is not`, `x.yaml:11:52: "rt:65536:65536"`,
				`x.yaml:11:70: "rt:1:2:3"`, `x.yaml:11:82: "1:2:4294967296"`, `x.yaml:11:100: "01:2"`, `x.yaml:11:108: "no-such"`, `x.yaml:11:119: "-1:2"`, "x.yaml:11:134: {0 1:2} twice"}},
		{"graceful restart out of bounds", small + "bgp:\n  as: 1\n  graceful_restart: 121s\n" + bgpTail, []string{"x.yaml:6:21: 2m1s is out of range: 5s to 2m0s"}},
		{"graceful restart", "node: a\nshared: [192.0.2.53]\nprobe: {zones: [a], interval: 10s}\nbgp:\n  as: 1\n  graceful_restart: 20500ms\n  router_id: 198.51.100.7\n  prefixes: [192.0.2.0/24]\n" +
			"  neighbors: [{address: 198.51.100.1, as: 2, bfd: 300ms}]\n",
			[]string{"x.yaml:5:3: bgp: graceful_restart 20.5s is below 35s", "x.yaml:6:21: bgp: graceful_restart 20.5s: BGP counts whole seconds",
				"x.yaml:9:15: neighbor 198.51.100.1: bfd takes the route away as soon as the sidecar ends"}},
		{"IGP", small + "igp: {interface: lo, lifetime: 2500ms}\n", []string{"x.yaml:4:32: igp: lifetime 2.5s: the kernel counts",
			"x.yaml:4:6: igp: lifetime 2.5s is below 3s"}},
		{"IGP's interface", small + "igp: {interface: 'a/b'}\n", []string{`x.yaml:4:18: "a/b" is not an interface's name`}},
		{"default route", small + "bgp:\n  as: 1\n  router_id: 198.51.100.7\n  prefixes: [0.0.0.0/0]\n  neighbors: [{address: 198.51.100.1, as: 2}]\n",
			[]string{"x.yaml:7:14: 0.0.0.0/0 is the default route"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("x.yaml", []byte(c.file))
			var got Errors
			if !errors.As(err, &got) {
				t.Fatalf("error %v, want Errors", err)
			}
			if len(got) != len(c.want) {
				t.Fatalf("%d errors, want %d:\n%v", len(got), len(c.want), err)
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("no %q in\n%v", w, err)
				}
			}
		})
	}
}

// Whatever the bytes, the parser says yes or says where: it does not crash.
func FuzzParse(f *testing.F) {
	f.Add([]byte(small))
	f.Add([]byte("bgp: {neighbors: [{}]}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("x", data)
		if (c == nil) == (err == nil) {
			t.Fatalf("config %v with error %v", c, err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "x:") {
			t.Fatalf("error without a place: %v", err)
		}
	})
}
