package mesh_test

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

// prefix4 and prefix6 are what nodes announce for the shared addresses.
const prefix4, prefix6 = "192.0.2.0/24", "2001:db8:53::/48"

// deployed is a mesh whose nodes run as an operator installs them: from the bundles that meshctl makes, in the places that
// these name, each process with the privileges that it needs. Nodes announce by BGP to a router, from which clients ask:
//
//	dist .1   time .2   tyo .3   osa .4   fra .5   router .6      (198.51.100.0/24, the administrative addresses)
//	                    └── AS 64500, 192.0.2.53 on each ─┘ └ AS 64501, FRR
//
// and the same in IPv6, 2001:db8:100::/64 and 2001:db8:53::53.
type deployed struct {
	*mesh
	router string // its address
}

// six is the IPv6 address of a host that has this IPv4 address: 2001:db8:100::6 of 198.51.100.6.
func six(four string) string { return "2001:db8:100::" + four[strings.LastIndexByte(four, '.')+1:] }

// newDeployed prepares everything but what runs on the nodes, the clocks excepted, and on the distribution host.
func newDeployed(w *world, nodes ...string) *deployed {
	w.t.Helper()
	testenv.Need(w.t, "chronyd", "ip", "/usr/lib/frr/zebra", "/usr/lib/frr/bgpd")
	m := meshOf(w, nodes...)
	d := &deployed{mesh: m, router: fmt.Sprintf("198.51.100.%d", len(nodes)+3)}
	w.lan(append(append([]string{"dist", "time"}, nodes...), "router"))
	w.address("router", "eth0", six(d.router)+"/64")
	m.startTime()
	d.startFRR()
	for _, node := range nodes {
		w.address(node, "lo", shared4+"/32")
		w.address(node, "lo", shared6+"/128")
		w.address(node, "eth0", six(m.admin(node))+"/64")
		m.startClock(node)
	}
	return d
}

// found makes the mesh. Its nodes withdraw when their DNS fails, and come back soon.
func (d *deployed) found() {
	d.t.Helper()
	d.meshctl("init", "--mesh", "test", "--san", "198.51.100.1", "--shared", shared4+","+shared6, "--url", "https://198.51.100.1:8444/")
	template := d.path("home", "templates", "sidecar.yaml")
	d.must(os.WriteFile(template, []byte(strings.NewReplacer("policy: stop-dns", "policy: withdraw, readvertise_delay: 1s",
		"hold_time: 9s}", "hold_time: 9s, ttl_security: 1, password_file: /etc/mesh/bgp-secret}").Replace(readFile(template))), 0o644))
	for _, node := range d.nodes {
		d.meshctl("member", "add", node, "--admin", d.admin(node)+":8443", "--as", "64500", "--router", d.router+","+six(d.router), "--router-as", "64501")
	}
}

// bgpSecret is the password of the sessions (TCP-MD5), which are guarded by GTSM as well.
const bgpSecret = "a-password-of-two-routers"

// unpack puts a node's bundle into a directory, and the password beside it.
func (d *deployed) unpack(node, dir string) {
	d.t.Helper()
	d.must(errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(filepath.Join(dir, "bgp-secret"), []byte(bgpSecret+"\n"), 0o600)))
	f, err := os.Open(d.path("home", "members", node+".tar"))
	d.must(err)
	defer f.Close()
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		d.must(err)
		data, err := io.ReadAll(r)
		d.must(errors.Join(err, os.WriteFile(filepath.Join(dir, h.Name), data, h.FileInfo().Mode())))
	}
}

// startFRR starts the router: sessions with every node, any number of ways to a prefix at once.
func (d *deployed) startFRR() {
	d.must(errors.Join(os.Chmod(d.dir, 0o755), os.Chmod(filepath.Dir(d.dir), 0o755))) // frr gives up root
	conf := "hostname router\nrouter bgp 64501\n bgp router-id " + d.router + "\n no bgp ebgp-requires-policy\n"
	activated := ""
	for _, node := range d.nodes {
		for _, address := range []string{d.admin(node), six(d.admin(node))} {
			conf += strings.ReplaceAll(" neighbor NODE remote-as 64500\n neighbor NODE timers connect 1\n neighbor NODE ttl-security hops 1\n"+
				" neighbor NODE password "+bgpSecret+"\n", "NODE", address)
		}
		activated += "  no neighbor " + d.admin(node) + " activate\n  neighbor " + six(d.admin(node)) + " activate\n"
	}
	conf += " address-family ipv6 unicast\n" + activated + " exit-address-family\n"
	lab.StartFRR(d.t, d.path("frr"), map[string]string{"bgpd": conf}, func(name string, argv ...string) *lab.Process {
		return d.start("router", name, argv...)
	})
}

// ways are the nodes to which the router's table sends what is for the shared address of a family.
func (d *deployed) ways(prefix string, address func(node string) string) map[string]bool {
	d.t.Helper()
	type hop struct{ Gateway string }
	var routes []struct {
		hop
		NextHops []hop
	}
	family := map[string]string{prefix4: "-4", prefix6: "-6"}[prefix]
	if out := strings.TrimSpace(d.mustRun("router", "ip", "-j", family, "route", "show", prefix)); out != "" {
		d.must(json.Unmarshal([]byte(out), &routes))
	}
	ways := map[string]bool{}
	for _, r := range routes {
		for _, h := range append(r.NextHops, r.hop) {
			for _, node := range d.nodes {
				if address(node) == h.Gateway {
					ways[node] = true
				}
			}
		}
	}
	return ways
}

// awaitWays waits until the router has a way to exactly these nodes, in both families.
func (d *deployed) awaitWays(nodes ...string) {
	d.t.Helper()
	want := map[string]bool{}
	for _, node := range nodes {
		want[node] = true
	}
	d.eventually(60*time.Second, fmt.Sprintf("the router has ways to %v", nodes), func() (bool, string) {
		four := d.ways(prefix4, d.admin)
		sixes := d.ways(prefix6, func(node string) string { return six(d.admin(node)) })
		return maps.Equal(four, want) && maps.Equal(sixes, want), fmt.Sprint(four, sixes)
	})
}

// awaitAnswer waits until a client at the host is answered from a release, through the shared address.
func (d *deployed) awaitAnswer(host string, release uint64) {
	d.t.Helper()
	want := fmt.Sprintf("%q", fmt.Sprint(release))
	d.eventually(60*time.Second, fmt.Sprintf("%s is answered from release %d", host, release), func() (bool, string) {
		r := d.ask(host, "udp", shared4, "release.example.org.", dns.TypeTXT)
		if r == nil || len(r.Answer) != 1 {
			return false, fmt.Sprint(r)
		}
		return r.Authoritative && strings.HasSuffix(r.Answer[0].String(), want), r.Answer[0].String()
	})
}

// sidecar is what the sidecar of a node says of itself.
func (d *deployed) sidecar(node string) (s status.Sidecar, err error) {
	var doc struct {
		Sidecar *status.Sidecar `json:"sidecar"`
	}
	doc.Sidecar = &s
	return s, socket.Read(d.t.Context(), d.path(node, "sidecar.sock"), &doc)
}

// privileges are the lines of /proc/PID/status that say what a process may do.
type privileges struct {
	uid, gid                                          string // real, effective, saved, of the file system
	inheritable, permitted, effective, bound, ambient uint64
	noNewPrivileges, filtered                         bool
}

const (
	capNetBindService = 1 << 10
	capNetAdmin       = 1 << 12
)

func (w *world) privileges(pid int) privileges {
	w.t.Helper()
	var p privileges
	caps := map[string]*uint64{"CapInh": &p.inheritable, "CapPrm": &p.permitted, "CapEff": &p.effective, "CapBnd": &p.bound, "CapAmb": &p.ambient}
	for line := range strings.Lines(readFile(fmt.Sprintf("/proc/%d/status", pid))) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.Join(strings.Fields(value), " ")
		switch key {
		case "Uid":
			p.uid = value
		case "Gid":
			p.gid = value
		case "NoNewPrivs":
			p.noNewPrivileges = value == "1"
		case "Seccomp":
			p.filtered = value == "2"
		default:
			if set := caps[key]; set != nil {
				_, err := fmt.Sscanf(value, "%x", set)
				w.must(err)
			}
		}
	}
	return p
}

// only are the privileges of a process that has one set of capabilities, and no way to more.
func only(uid, gid int, capabilities uint64) privileges {
	four := func(id int) string { return strings.TrimSpace(strings.Repeat(fmt.Sprint(id)+" ", 4)) }
	return privileges{uid: four(uid), gid: four(gid), inheritable: capabilities, permitted: capabilities, effective: capabilities,
		bound: capabilities, ambient: capabilities, noNewPrivileges: true, filtered: true}
}

// kill ends a process that is not the test's own child.
func (w *world) kill(pid int, sig syscall.Signal) {
	w.t.Helper()
	w.must(syscall.Kill(pid, sig))
}
