package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/socket"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// shared is the address that all nodes answer on.
const shared = "192.0.2.53"

// hostAddress is the distribution host's.
const hostAddress = "198.51.100.1"

// lan is a mesh of whole processes on a switch, each host in a network namespace of its own:
//
//	dist .1   tyo .2   osa .3   …          (198.51.100.0/24)
//	          └── 192.0.2.53 on each node ──┘
//
// The nodes are configured as they are shipped, but that they take this machine's clock for good (they all read the same), so that
// no time server has to run, and that no router hears of them.
type lan struct {
	b       *bench
	dir     string
	places  map[string]*lab.Place
	address map[string]string // of a host
	nodes   []string
	running map[string]*lab.Process // by host and program
}

// nodeNames are those of nodes, in the order in which they are taken.
var nodeNames = []string{"tyo", "osa", "fra", "nyc", "sao"}

// lans counts them: namespaces have names.
var lans atomic.Int32

// newLAN makes the hosts, and a home for the distribution host that has the nodes for members.
func (b *bench) newLAN(name string, nodes []string, others ...string) (*lan, error) {
	l := &lan{b: b, dir: filepath.Join(b.dir, name), nodes: nodes, places: map[string]*lab.Place{}, address: map[string]string{}, running: map[string]*lab.Process{}}
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return nil, err
	}
	if err := adopt(); err != nil {
		return nil, err
	}
	number := lans.Add(1)
	for i, host := range slices.Concat([]string{"switch", "dist"}, nodes, others) {
		place, err := lab.NewPlace(host, fmt.Sprintf("bench%d-%d-%s", os.Getpid(), number, host))
		if err == nil {
			l.places[host], l.address[host] = place, fmt.Sprintf("198.51.100.%d", i)
			err = l.join(host)
		}
		if err != nil {
			l.end()
			return nil, err
		}
	}
	for _, node := range append(slices.Clone(nodes), others...) {
		if err := l.places[node].Address("lo", netip.MustParsePrefix(shared+"/32")); err != nil {
			l.end()
			return nil, err
		}
	}
	if err := l.enrol(); err != nil {
		l.end()
		return nil, err
	}
	return l, nil
}

// join plugs a host into the switch.
func (l *lan) join(host string) error {
	if host == "switch" {
		return l.places[host].Bridge()
	}
	if err := l.places["switch"].Plug(host, l.places[host]); err != nil {
		return err
	}
	return l.places[host].Address("eth0", netip.MustParsePrefix(l.address[host]+"/24"))
}

func (l *lan) enrol() error {
	if _, err := l.meshctl("init", "--mesh", "bench", "--san", hostAddress); err != nil {
		return err
	}
	for _, node := range l.nodes {
		if err := l.member(node); err != nil {
			return err
		}
	}
	return nil
}

func (l *lan) member(node string) error {
	_, err := l.meshctl("member", "add", node, "--admin", l.address[node]+":8443")
	return err
}

func (l *lan) path(elements ...string) string {
	return filepath.Join(append([]string{l.dir}, elements...)...)
}

// end ends all that runs, and removes the hosts.
func (l *lan) end() {
	for _, p := range l.running {
		p.Kill()
	}
	for host, place := range l.places {
		if err := place.Close(); err != nil {
			fmt.Fprintf(l.b.log, "%s: %v\n", host, err)
		}
	}
}

// meshctl gives a command at the distribution host, and returns what it said.
func (l *lan) meshctl(args ...string) (string, error) {
	argv := append([]string{filepath.Join(l.b.bin, "meshctl"), "--home", l.path("home")}, args...)
	return lab.Command{Argv: argv, At: l.places["dist"].Do}.Run(context.Background())
}

// start starts a program at a host.
func (l *lan) start(host, program string, argv ...string) error {
	name := host + "/" + program
	p, err := lab.Command{Name: name, Argv: argv, Log: l.path(host + "-" + program + ".log"), At: l.places[host].Do}.Start()
	if err != nil {
		return err
	}
	fmt.Fprintf(l.b.log, "%s is process %d\n", name, p.Pid())
	l.running[name] = p
	return nil
}

// stop ends the programs of a host.
func (l *lan) stop(host string) {
	for name, p := range l.running {
		if strings.HasPrefix(name, host+"/") {
			p.Stop()
			delete(l.running, name)
		}
	}
}

// serve starts the distribution host.
func (l *lan) serve(args ...string) error {
	return l.start("dist", "serve", append([]string{filepath.Join(l.b.bin, "meshctl"), "--home", l.path("home"), "serve"}, args...)...)
}

// startNode starts a node that is a member.
func (l *lan) startNode(node string) error {
	bundle, dir := l.path("home", "members", node), l.path(node)
	corefile := fmt.Sprintf(`. {
    sharedunicast %s {
        admin %s
    }
    meshsync %[3]s/mesh {
        root %[4]s/root.json
        node %[5]s
        clock sidecar unix://%[3]s/sidecar.sock
        status unix://%[3]s/meshsync.sock
    }
    nsid %[5]s
    prometheus 127.0.0.1:9153
    reload
    errors
}
`, shared, l.address[node], dir, bundle, node)
	sidecar := fmt.Sprintf(`node: %[1]s
shared: [%[2]s]
state: %[3]s/sidecar
socket: unix://%[3]s/sidecar.sock
meshsync: unix://%[3]s/meshsync.sock
identity: {certificate: %[4]s/node.crt, key: %[4]s/node.key, ca: %[4]s/ca.crt}
admin: {listen: "%[5]s:8443"}
clock: {source: assumed, bound: %[6]v}
mirror: {urls: ["https://%[7]s:8443/"], depot: %[3]s/mesh/repository, root: %[4]s/root.json}
`, node, shared, dir, bundle, l.address[node], clockBound, hostAddress)
	err := os.MkdirAll(filepath.Join(dir, "mesh"), 0o755)
	for name, text := range map[string]string{"Corefile": corefile, "sidecar.yaml": sidecar} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	if err != nil {
		return err
	}
	return errors.Join(l.start(node, "sidecar", filepath.Join(l.b.bin, "anycast-sidecar"), "run", filepath.Join(dir, "sidecar.yaml")),
		l.start(node, "coredns", filepath.Join(l.b.bin, "coredns"), "-conf", filepath.Join(dir, "Corefile")))
}

// programs are those of a node.
func (l *lan) programs(node string) []*lab.Process {
	return []*lab.Process{l.running[node+"/coredns"], l.running[node+"/sidecar"]}
}

// clockBound is how wrong the nodes take their clocks to be.
const clockBound = time.Millisecond

// node is what a node says of itself.
func (l *lan) node(node string) (n status.Node, err error) {
	err = socket.Read(context.Background(), l.path(node, "meshsync.sock"), &n)
	return n, err
}

// logs are the last lines of all that was logged.
func (l *lan) logs() string {
	var all strings.Builder
	files, _ := filepath.Glob(l.path("*.log"))
	for _, file := range files {
		fmt.Fprintf(&all, "── %s\n%s\n", filepath.Base(file), lab.Tail(file, 10))
	}
	return all.String()
}

// until waits until what holds.
func (l *lan) until(limit time.Duration, what string, holds func() (bool, string)) error {
	return l.look(limit, lookEvery, what, holds)
}

// look is until, with the time between two looks.
func (l *lan) look(limit, every time.Duration, what string, holds func() (bool, string)) error {
	end := time.Now().Add(limit)
	for {
		ok, saw := holds()
		if ok {
			return nil
		}
		for name, p := range l.running {
			if !p.Alive() {
				return fmt.Errorf("%s: %s has ended: %v\n%s", what, name, p.Wait(), l.logs())
			}
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: not within %v; %s\n%s", what, limit, saw, l.logs())
		}
		time.Sleep(every)
	}
}

// lookEvery is the time between two looks at what is waited for.
const lookEvery = 20 * time.Millisecond

// where a zone is asked for: a host, an address and port there, and the time between two questions.
type where struct {
	host, at string
	every    time.Duration
}

// atNode is where a node answers. It is asked seldom, since each question wakes it up, which is counted as its time: fifty a second were
// half of what a release cost it.
func atNode(node string) where { return where{node, shared + ":53", 500 * time.Millisecond} }

// answered waits until a zone's serial is answered that is not before serial, and returns when that was.
func (l *lan) answered(limit time.Duration, w where, origin string, serial uint32) (time.Time, error) {
	conn, err := l.places[w.host].Dial(context.Background(), "udp", w.at)
	if err != nil {
		return time.Time{}, err
	}
	defer conn.Close()
	err = l.look(limit, w.every, fmt.Sprintf("%s answers from serial %d of %s", w.host, serial, origin), func() (bool, string) {
		is, err := serialOf(conn, origin)
		return err == nil && int32(is-serial) >= 0, fmt.Sprintf("it is %d, %v", is, err)
	})
	return time.Now(), err
}

// answeredBy is answered for several, by name.
func (l *lan) answeredBy(limit time.Duration, places map[string]where, origin string, serial uint32) (map[string]time.Time, error) {
	type answer struct {
		name string
		at   time.Time
		err  error
	}
	answers := make(chan answer)
	for name, w := range places {
		go func() {
			at, err := l.answered(limit, w, origin, serial)
			answers <- answer{name, at, err}
		}()
	}
	all := map[string]time.Time{}
	var failed error
	for range places {
		a := <-answers
		all[a.name], failed = a.at, errors.Join(failed, a.err)
	}
	return all, failed
}

// serialOf asks for a zone's serial.
func serialOf(conn net.Conn, origin string) (uint32, error) {
	c := &dns.Conn{Conn: conn}
	q := new(dns.Msg).SetQuestion(origin, dns.TypeSOA)
	c.SetDeadline(time.Now().Add(time.Second))
	if err := c.WriteMsg(q); err != nil {
		return 0, err
	}
	for {
		r, err := c.ReadMsg()
		if err != nil {
			return 0, err
		}
		if r.Id != q.Id {
			continue // to a question that was given up
		}
		if len(r.Answer) == 1 {
			if soa, ok := r.Answer[0].(*dns.SOA); ok {
				return soa.Serial, nil
			}
		}
		return 0, fmt.Errorf("no SOA: %s", dns.RcodeToString[r.Rcode])
	}
}

// octets are those that have come to a host.
func (l *lan) octets(host string) (float64, error) {
	var text []byte
	err := l.places[host].Do(func() (err error) { text, err = os.ReadFile("/proc/thread-self/net/dev"); return err })
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "eth0:" {
			return strconv.ParseFloat(f[1], 64)
		}
	}
	return 0, fmt.Errorf("octets received by %s: no eth0 in %q, %w", host, text, err)
}

// madeRelease is what "meshctl history" says of a release.
type madeRelease struct {
	Number     uint64    `json:"number"`
	Switchover time.Time `json:"switchover"`
	Received   []struct {
		How    string    `json:"how"`
		Octets int64     `json:"octets"`
		Whole  time.Time `json:"whole"`
	} `json:"received"`
	Zones []struct {
		To uint32 `json:"to"`
	} `json:"zones"`
	Results []struct {
		Switched bool          `json:"switched"`
		Lateness time.Duration `json:"lateness_ns"`
		Compiled *struct {
			Done time.Time `json:"done"`
		} `json:"compiled"`
	} `json:"results"`
}

// history are the last releases, the latest first.
func (l *lan) history(last int) (all []madeRelease, err error) {
	said, err := l.meshctl("history", "--last", strconv.Itoa(last), "--json")
	if err == nil {
		err = json.Unmarshal([]byte(said), &all)
	}
	return all, err
}

// recorded waits until it is on record how all nodes fared with the release that has a zone's serial, and returns that.
func (l *lan) recorded(serial uint32) (r madeRelease, err error) {
	err = l.until(time.Minute, "the release is on record", func() (bool, string) {
		time.Sleep(historyEvery)
		all, err := l.history(1)
		if err != nil || len(all) == 0 {
			return false, fmt.Sprint(err)
		}
		r = all[0]
		return len(r.Zones) > 0 && r.Zones[0].To == serial && len(r.Results) == len(l.nodes), fmt.Sprintf("%+v", r)
	})
	return r, err
}

// historyEvery is the time between two looks at the history, each of which costs a process.
const historyEvery = 200 * time.Millisecond

// manifest is what the distribution host has published last.
func (l *lan) manifest() (release.Manifest, error) {
	root, err := os.ReadFile(l.path("home", "members", l.nodes[0], "root.json"))
	if err != nil {
		return release.Manifest{}, err
	}
	memory, err := release.NewMemory(root)
	if err != nil {
		return release.Manifest{}, err
	}
	view, _, err := release.Verify(os.DirFS(l.path("home", "repository")), memory)
	return view.Manifest, err
}
