//go:build linux

package sidecar

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// family is one IP version: the shared address and its prefix, and the two links of the router, to the node and to the
// other node of the mesh.
type family struct {
	name                 string
	version              int
	shared, prefix       string
	node, router         string
	other, routerToOther string
}

var families = []family{
	{"IPv4", 4, shared4, prefix4, node4, router4, "198.51.101.7", "198.51.101.1"},
	{"IPv6", 6, shared6, prefix6, node6, router6, "2001:db8:101::7", "2001:db8:101::1"},
}

// protection is how the router guards its sessions.
type protection struct {
	password    string
	ttlSecurity bool
	bfd         bool
	internal    bool // one AS for all
	multihop    bool // the session is not between the ends of a link
}

// router is a kind of routing daemon. conf gives its configuration, run starts it, and hop looks into its table: the next
// hop of a prefix, or nothing.
type router struct {
	name string
	bfd  bool // it speaks BFD
	run  func(w *world, f family, p protection) *process
	hop  func(w *world, f family) string
}

var routers = []router{
	{"FRR", true, runFRR, kernelHop},
	{"BIRD", true, runBIRD, kernelHop},
	{"OpenBGPD", false, runOpenBGPD, openBGPDHop}, // its portable version has no way into the kernel's table
	{"GoBGP", false, runGoBGP, goBGPHop},          // nor has GoBGP without zebra
}

func (p protection) as() int {
	if p.internal {
		return 64501
	}
	return 64500
}

// addOther makes a second node, linked to the router by a link of its own.
func (w *world) addOther() {
	w.other = strings.TrimSuffix(w.node, "node") + "other"
	w.link(w.other, "up0", w.router, "down1")
	for _, f := range families {
		bits := map[int]string{4: "/24", 6: "/64"}[f.version]
		for _, end := range [][3]string{{w.other, "up0", f.other + bits}, {w.router, "down1", f.routerToOther + bits},
			{w.other, "lo", netip.PrefixFrom(netip.MustParseAddr(f.shared), map[int]int{4: 32, 6: 128}[f.version]).String()}} {
			w.ip(append([]string{"-n", end[0], "addr", "add", end[2], "dev", end[1]}, map[int][]string{6: {"nodad"}}[f.version]...)...)
		}
	}
}

func kernelHop(w *world, f family) string { return w.kernelHop(f, f.prefix) }

func (w *world) kernelHop(f family, prefix string) string {
	_, dst, err := net.ParseCIDR(prefix)
	if err != nil {
		w.t.Fatal(err)
	}
	routes, err := w.places[w.router].Links.RouteListFiltered(map[int]int{4: unix.AF_INET, 6: unix.AF_INET6}[f.version],
		&netlink.Route{Dst: dst}, netlink.RT_FILTER_DST)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, r := range routes {
		if r.Gw != nil {
			return r.Gw.String()
		}
		for _, hop := range r.MultiPath {
			return hop.Gw.String()
		}
	}
	return ""
}

// frrDaemons starts zebra and others of FRR in ns, each with its configuration.
func (w *world) frrDaemons(ns string, conf map[string]string) *process {
	w.t.Helper()
	for name := range conf {
		testenv.Need(w.t, filepath.Join(lab.FRRDir, name))
	}
	return &process{w.t, lab.StartFRR(w.t, filepath.Join(w.dir, "frr-"+ns), conf, func(name string, argv ...string) *lab.Process {
		return w.startOne(ns, name+"-"+ns, argv...)
	})}
}

func runFRR(w *world, f family, p protection) *process {
	conf := fmt.Sprintf("hostname bgpd\nrouter bgp 64501\n bgp router-id %s\n no bgp ebgp-requires-policy\n no bgp default ipv4-unicast\n no bgp network import-check\n", router4)
	activate := ""
	for _, peer := range []string{f.node, f.other} {
		conf += fmt.Sprintf(" neighbor %[1]s remote-as %d\n neighbor %[1]s timers connect 1\n", peer, p.as())
		if p.password != "" {
			conf += fmt.Sprintf(" neighbor %s password %s\n", peer, p.password)
		}
		if p.ttlSecurity {
			conf += fmt.Sprintf(" neighbor %s ttl-security hops 1\n", peer)
		}
		if p.multihop {
			conf += fmt.Sprintf(" neighbor %s ebgp-multihop 2\n", peer)
		}
		if p.bfd {
			conf += fmt.Sprintf(" neighbor %s bfd profile fast\n", peer)
		}
		activate += fmt.Sprintf("  neighbor %s activate\n", peer)
	}
	conf += fmt.Sprintf(" address-family ipv%d unicast\n%s exit-address-family\n", f.version, activate)
	daemons := map[string]string{"bgpd": conf}
	if p.bfd {
		daemons["bfdd"] = "bfd\n profile fast\n  transmit-interval 100\n  receive-interval 100\n  detect-multiplier 3\n"
	}
	return w.frrDaemons(w.router, daemons)
}

func runBIRD(w *world, f family, p protection) *process {
	binary := testenv.Need(w.t, "bird")[0]
	conf := fmt.Sprintf("router id %s;\nprotocol device {}\nprotocol kernel { ipv%d { import none; export all; }; }\n", router4, f.version)
	if p.bfd {
		conf += "protocol bfd { interface \"down*\" { interval 100 ms; multiplier 3; }; }\n"
	}
	for i, peer := range []string{f.node, f.other} {
		local := []string{f.router, f.routerToOther}[i]
		extra := "direct;"
		if p.multihop {
			extra = "multihop 2;"
		}
		if p.password != "" {
			extra += fmt.Sprintf(" password %q;", p.password)
		}
		if p.ttlSecurity {
			extra += " ttl security on;"
		}
		if p.bfd {
			extra += " bfd on;"
		}
		conf += fmt.Sprintf(`protocol bgp peer%d {
  local %s as 64501;
  neighbor %s as %d;
  %s
  hold time 9;
  connect delay time 1;
  error wait time 1, 2;
  ipv%d { import filter { if (65535, 0) ~ bgp_community then bgp_local_pref = 0; accept; }; export none; };
}
`, i, local, peer, p.as(), extra, f.version)
	}
	return w.start(w.router, "bird", binary, "-f", "-c", w.file("bird.conf", conf), "-s", filepath.Join(w.dir, "bird.ctl"))
}

func (w *world) openBGPDSocket() string { return filepath.Join(w.dir, "openbgpd.sock") }

func runOpenBGPD(w *world, f family, p protection) *process {
	binary := testenv.Need(w.t, "/usr/sbin/bgpd", "/usr/sbin/bgpctl")[0] // FRR has a bgpd too
	if err := os.MkdirAll("/run/openbgpd", 0o755); err != nil {          // where it locks itself in
		w.t.Fatal(err)
	}
	conf := fmt.Sprintf("AS 64501\nrouter-id %s\nlisten on %s\nlisten on %s\nsocket %q\nfib-update no\nholdtime min 3\n",
		router4, f.router, f.routerToOther, w.openBGPDSocket())
	for _, peer := range []string{f.node, f.other} {
		conf += fmt.Sprintf("neighbor %s {\n  remote-as %d\n  announce IPv%d unicast\n  announce IPv%d none\n", peer, p.as(), f.version, 10-f.version)
		if p.password != "" {
			conf += "  tcp md5sig password " + p.password + "\n"
		}
		if p.ttlSecurity {
			conf += "  ttl-security yes\n"
		}
		if p.multihop {
			conf += "  multihop 2\n"
		}
		conf += "}\n"
	}
	conf += "allow from any\nmatch from any community GRACEFUL_SHUTDOWN set { localpref 0 }\n"
	path := w.file("openbgpd.conf", conf)
	os.Chmod(path, 0o600) // or it refuses a file with a password
	return w.start(w.router, "openbgpd", binary, "-d", "-f", path)
}

func openBGPDHop(w *world, f family) string {
	out, err := exec.Command("/usr/sbin/bgpctl", "-s", w.openBGPDSocket(), "-j", "show", "rib", "best").Output()
	var table struct {
		Rib []struct {
			Prefix      string
			ExitNexthop string `json:"exit_nexthop"`
			Valid, Best bool
		}
	}
	if err != nil || json.Unmarshal(out, &table) != nil {
		return ""
	}
	for _, r := range table.Rib {
		if r.Prefix == f.prefix && r.Valid && r.Best {
			return r.ExitNexthop
		}
	}
	return ""
}

func runGoBGP(w *world, f family, p protection) *process {
	binary := testenv.Need(w.t, "gobgpd", "gobgp")[0]
	conf := fmt.Sprintf(`[global.config]
  as = 64501
  router-id = %q
  local-address-list = [%q, %q]
[global.apply-policy.config]
  import-policy-list = ["shutdown"]
  default-import-policy = "accept-route"
  default-export-policy = "reject-route"
[[defined-sets.bgp-defined-sets.community-sets]]
  community-set-name = "shutdown"
  community-list = ["65535:0"]
[[policy-definitions]]
  name = "shutdown"
  [[policy-definitions.statements]]
    name = "shutdown"
    [policy-definitions.statements.conditions.bgp-conditions.match-community-set]
      community-set = "shutdown"
    [policy-definitions.statements.actions]
      route-disposition = "accept-route"
      [policy-definitions.statements.actions.bgp-actions]
        set-local-pref = 1
`, router4, f.router, f.routerToOther)
	for _, peer := range []string{f.node, f.other} {
		conf += fmt.Sprintf(`[[neighbors]]
  [neighbors.config]
    neighbor-address = %q
    peer-as = %d
    auth-password = %q
  [neighbors.transport.config]
    passive-mode = true
  [neighbors.ttl-security.config]
    enabled = %v
    ttl-min = 255
  [neighbors.ebgp-multihop.config]
    enabled = %v
    multihop-ttl = 2
  [[neighbors.afi-safis]]
    [neighbors.afi-safis.config]
      afi-safi-name = "ipv%d-unicast"
`, peer, p.as(), p.password, p.ttlSecurity, p.multihop, f.version)
	}
	return w.start(w.router, "gobgpd", binary, "-f", w.file("gobgpd.toml", conf))
}

// rib is the best routes of gobgpd, prefix to next hop, as its monitor tells them when they change: a command for each look
// takes up to a third of a second of a busy machine.
type rib struct {
	once  sync.Once
	mu    sync.Mutex
	hops  map[string]string
	known bool // the monitor is connected, and has told what there was before
}

func goBGPHop(w *world, f family) string {
	w.rib.once.Do(func() { go w.follow(f) })
	w.rib.mu.Lock()
	defer w.rib.mu.Unlock()
	if !w.rib.known {
		return "not known"
	}
	return w.rib.hops[f.prefix]
}

// follow runs the monitor until the test ends, and anew when it ends with gobgpd.
func (w *world) follow(f family) {
	for w.t.Context().Err() == nil {
		cmd := exec.CommandContext(w.t.Context(), "ip", "netns", "exec", w.router, "gobgp", "-j", "monitor", "global", "rib", "--current",
			"-a", fmt.Sprintf("ipv%d", f.version))
		out, err := cmd.StdoutPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			return // goBGPHop goes on to say that nothing is known
		}
		for lines := json.NewDecoder(out); ; {
			var paths []goBGPPath
			if lines.Decode(&paths) != nil {
				break
			}
			w.rib.take(paths)
		}
		w.rib.mu.Lock()
		w.rib.hops, w.rib.known = nil, false
		w.rib.mu.Unlock()
		cmd.Wait()
		time.Sleep(20 * time.Millisecond)
	}
}

type goBGPPath struct {
	NLRI       struct{ Prefix string }
	Attrs      []struct{ Nexthop string }
	Withdrawal bool
}

func (r *rib) take(paths []goBGPPath) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.known {
		r.hops, r.known = map[string]string{}, true
	}
	for _, p := range paths {
		delete(r.hops, p.NLRI.Prefix)
		for _, a := range p.Attrs {
			if a.Nexthop != "" && !p.Withdrawal {
				r.hops[p.NLRI.Prefix] = a.Nexthop
			}
		}
	}
}

// drops counts segments that the kernel of a namespace refused for a reason (nstat's names).
func (w *world) drops(ns string, names ...string) int {
	out, err := exec.Command("ip", "netns", "exec", ns, "cat", "/proc/net/netstat").Output()
	if err != nil {
		w.t.Fatal(err)
	}
	lines, total := strings.Split(string(out), "\n"), 0
	for i := 0; i+1 < len(lines); i += 2 {
		keys, values := strings.Fields(lines[i]), strings.Fields(lines[i+1])
		for j := 1; j < len(keys) && j < len(values); j++ {
			for _, name := range names {
				if keys[j] == name {
					n := 0
					fmt.Sscan(values[j], &n)
					total += n
				}
			}
		}
	}
	return total
}
