// Command bench measures a node beside Knot, NSD, BIND and CoreDNS's plugin file on the same machine in the same run, and
// prints a table. What counts are the ratios: absolute figures change with the machine. The server has CPU 0 to itself and
// the client CPU 1, but for the last figure, for which the node has both. It needs Linux and root.
//
//	bench [-names 1000000] [-rounds 3] [-seconds 5] [-part PART,…] -bin DIR
//
// The parts serving, signed, compiling, zones, lookups and releases are about one node. What is called mesh are those about whole
// meshes, each process on all processors and each host in a network namespace of its own: changes of a large zone from its primary to
// the answers (changes), one after the other while clients ask (sustained), for nodes that missed them or join (behind); changes of
// many zones (many) and of a small zone's file (saved). The soak, some 50 minutes, is only done when it is asked for.
//
// DIR has coredns, stock, anycast-sidecar and meshctl (./build.sh bench makes them). A peer that is not installed is left out, and said so.
package main

import (
	"bytes"
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/coredns-anycast/coredns-anycast/internal/number"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
)

func main() {
	b := &bench{out: os.Stdout, log: os.Stderr, names: 1_000_000, rounds: 3, seconds: 5, rate: 10_000, soakSteps: 20,
		nodes: 3, peers: true, zoneCount: 100_000, load: 20_000, sustain: 10 * time.Minute, missed: 40}
	millions := 500
	flag.Var(number.Int(&b.names, 1, 100_000_000), "names", "names of the zone")
	flag.Var(number.Int(&b.rounds, 1, 1000), "rounds", "how often everything is measured; the median counts")
	flag.Var(number.Int(&b.seconds, 1, 3600), "seconds", "how long queries are asked in a round")
	flag.Var(number.Int(&b.rate, 1, 10_000_000), "rate", "queries a second while latency is measured")
	flag.Var(number.Int(&millions, 1, 1_000_000), "queries", "queries of the soak, in millions")
	flag.Var(number.Int(&b.nodes, 1, len(nodeNames)), "nodes", "nodes of the meshes of whole processes")
	flag.BoolVar(&b.peers, "peers", true, "have Knot and NSD follow the large zone beside the mesh; a large one takes much memory")
	flag.Var(number.Int(&b.zoneCount, 20, release.MaxZones), "zones", "zones of the part many")
	flag.Var(number.Int(&b.load, 1, 1_000_000), "load", "queries a second of the part sustained")
	flag.Var(number.Duration(&b.sustain, time.Second, 24*time.Hour), "sustain", "how long the part sustained changes the zone")
	flag.Var(number.Int(&b.missed, 1, 100_000), "missed", "releases that a node misses in the part behind; each takes some seconds")
	flag.StringVar(&b.part, "part", "", "only these: serving, signed, compiling, zones, lookups, releases; mesh, or of it changes, sustained, behind, many, saved; or soak, which is no part of all")
	flag.StringVar(&b.bin, "bin", "bin", "directory of coredns and stock")
	flag.Parse()
	b.soakQueries = millions * 1_000_000
	if err := b.run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type bench struct {
	names, rounds, seconds, rate int
	soakQueries, soakSteps       int // after each step it is looked at memory; after the first it is what it is to stay
	bin, part                    string

	// of whole meshes
	nodes, zoneCount, load, missed int
	peers                          bool
	sustain                        time.Duration

	short    bool // Go's benchmarks too are to be small
	out, log io.Writer

	dir   string
	zones [2]string // files
	known zoneNames
	rows  []row
}

// row is a line of the table.
type row struct {
	what, unit, target string
	ours               float64
	peers              map[string]float64
}

// figures are measured again and again, by server.
type figures map[string][]float64

func (f figures) median(name string) float64 {
	v := slices.Sorted(slices.Values(f[name]))
	if len(v) == 0 {
		return math.NaN()
	}
	return v[len(v)/2]
}

func (b *bench) row(what, unit, target string, f figures) {
	r := row{what: what, unit: unit, target: target, ours: f.median("ours"), peers: map[string]float64{}}
	for name := range f {
		if name != "ours" {
			r.peers[name] = f.median(name)
		}
	}
	b.rows = append(b.rows, r)
}

// note adds a figure of a server.
func (f figures) note(name string, figure float64) { f[name] = append(f[name], figure) }

// lacks notes rows that cannot be measured here, and why.
func (b *bench) lacks(what, why string) {
	fmt.Fprintf(b.log, "%s: %s\n", what, why)
	b.rows = append(b.rows, row{what: what, target: "not measured: " + why, ours: math.NaN()})
}

// ofMesh are the parts that are called mesh, ofNode those about one node.
var (
	ofMesh = []string{"changes", "sustained", "behind", "many", "saved"}
	ofNode = []string{"serving", "signed", "compiling", "zones", "lookups", "releases", "soak"}
)

// knows says if a part was asked for that there is not.
func (b *bench) knows() error {
	for part := range strings.SplitSeq(b.part, ",") {
		if part != "" && part != "mesh" && !slices.Contains(ofMesh, part) && !slices.Contains(ofNode, part) {
			return fmt.Errorf("-part %s: there is no such part", part)
		}
	}
	return nil
}

// wants reports whether one of these parts is to be measured.
func (b *bench) wants(parts ...string) bool {
	asked := strings.Split(b.part, ",")
	return slices.ContainsFunc(parts, func(part string) bool {
		return b.part == "" && part != "soak" || slices.Contains(asked, part) || slices.Contains(asked, "mesh") && slices.Contains(ofMesh, part)
	})
}

func (b *bench) run() (err error) {
	if err := b.knows(); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp("", "bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	os.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	for _, p := range []struct {
		names   []string
		zones   bool // it wants those that prepare writes
		measure func() error
	}{
		{[]string{"serving"}, true, b.serving}, {[]string{"signed"}, true, b.signed}, {[]string{"compiling"}, true, b.compiling}, {[]string{"zones"}, true, b.manyZones},
		{[]string{"lookups"}, false, b.lookups}, {[]string{"releases"}, false, b.releases},
		{[]string{"changes", "sustained", "behind"}, false, b.largeZone}, {[]string{"many"}, false, b.tenOfMany}, {[]string{"saved"}, false, b.savedFile},
		{[]string{"soak"}, true, b.soak},
	} {
		if !b.wants(p.names...) {
			continue
		}
		if p.zones && b.known.hosts == nil {
			if err := b.prepare(); err != nil {
				return err
			}
		}
		if err := p.measure(); err != nil {
			return err
		}
	}
	return b.print()
}

// prepare writes the zones and queries of the parts about one node.
func (b *bench) prepare() (err error) {
	for _, c := range []string{"taskset", "dnsperf"} {
		if _, err := exec.LookPath(c); err != nil {
			return fmt.Errorf("%s is not installed", c)
		}
	}
	for i := range b.zones {
		b.zones[i] = filepath.Join(b.dir, fmt.Sprintf("zone%d", i))
		if b.known, err = b.writeZone(i); err != nil {
			return err
		}
	}
	return b.known.writeQueries(filepath.Join(b.dir, "queries"), inFile)
}

func (b *bench) writeZone(i int) (zoneNames, error) {
	f, err := os.Create(b.zones[i])
	if err != nil {
		return zoneNames{}, err
	}
	defer f.Close()
	return writeZone(f, b.names, uint32(2026112200+i))
}

// serving measures what all servers can be asked for: starting, memory, processor time for a query.
func (b *bench) serving() error {
	m, zones, err := b.mesh("serving")
	if err != nil {
		return err
	}
	if err := m.current(zones[:1]); err != nil {
		return err
	}
	servers := append([]server{ours(m, b.bin, options{}, "GOMAXPROCS=1")}, b.installed(peers(b.zones[0], b.bin))...)
	all, err := questions(b.known, 50_000)
	if err != nil {
		return err
	}
	v, err := b.variants(m)
	if err != nil {
		return err
	}
	f := newServingFigures()
	for round := range b.rounds {
		for _, s := range servers {
			fmt.Fprintf(b.log, "round %d of %d: %s\n", round+1, b.rounds, s.name)
			if err := m.forget(); err != nil {
				return err
			}
			if err := b.serve(s, all, f); err != nil {
				return err
			}
		}
		if err := v.measure(b, round, f.cpu["ours"][round]); err != nil {
			return err
		}
		if err := b.fromCache(m, servers[0], f.cached); err != nil {
			return err
		}
	}
	b.row("memory of a node that serves (PSS)", "MiB", "≤ 150", f.pss)
	b.row("most memory while loading (RSS)", "MiB", "", f.peak)
	b.row("first answer from zone text, one core", "s", "≤ Knot", f.text)
	b.row("first answer from the compiled cache", "s", "≤ 0.3", f.cached)
	b.row("processor time of an answered query", "µs", best, f.cpu)
	v.rows(b, f.cpu)
	b.row("one query at a time: median", "µs", "≤ 1 × the better of NSD and Knot", f.p50)
	b.row("one query at a time: p99", "µs", "≤ 1 × the better of NSD and Knot", f.p99)
	b.row("TCP, one query by each connection", "µs", "≤ 1.2 × the better of NSD and Knot", f.tcp)
	b.row("TCP, 100 queries at once by each connection", "µs", "≤ 1.2 × the better of NSD and Knot", f.pipelined)
	return nil
}

const best = "≤ 0.65 × the better of NSD and Knot"

// installed are the servers that can be started. Of the others it is said that they are left out.
func (b *bench) installed(all []server) (found []server) {
	for _, p := range all {
		if _, err := exec.LookPath(p.command); err != nil {
			fmt.Fprintf(b.log, "%s is not installed (Debian package %s): left out\n", p.name, p.pkg)
			continue
		}
		found = append(found, p)
	}
	return found
}

// servingFigures are what is measured of each server.
type servingFigures struct{ text, cached, pss, peak, cpu, p50, p99, tcp, pipelined figures }

func newServingFigures() *servingFigures {
	return &servingFigures{figures{}, figures{}, figures{}, figures{}, figures{}, figures{}, figures{}, figures{}, figures{}}
}

// variants are nodes with more or less on, to be compared with the plain one.
type variants struct {
	m                  *mesh
	more, chain, cores server
	ratio, slow, scale figures
}

func (b *bench) variants(m *mesh) (*variants, error) {
	secrets, scrape := filepath.Join(b.dir, "secrets"), ""
	port, err := testenv.FreePort()
	if err == nil {
		scrape = fmt.Sprintf("prometheus 127.0.0.1:%d", port)
		err = os.WriteFile(secrets, []byte("00112233445566778899aabbccddeeff\n"), 0o600)
	}
	return &variants{
		m:     m,
		more:  ours(m, b.bin, options{"metrics, RRL, cookies", "rrl 100000\n cookies " + secrets, scrape}, "GOMAXPROCS=1"),
		chain: ours(m, b.bin, options{"chain", "fastpath off", ""}, "GOMAXPROCS=1"),
		cores: ours(m, b.bin, options{"both cores", "", ""}, "GOMAXPROCS=2"),
		ratio: figures{}, slow: figures{}, scale: figures{},
	}, err
}

// measure measures the variants in a round in which the plain node took so many µs for a query.
func (v *variants) measure(b *bench, round int, plain float64) error {
	if err := b.warm(v.m, v.chain); err != nil {
		return err
	}
	for _, s := range []server{v.more, v.chain, v.cores} {
		fmt.Fprintf(b.log, "round %d of %d: %s\n", round+1, b.rounds, s.name)
		cpus, more := "0", []string(nil)
		switch s.name {
		case v.more.name:
			more = []string{"-E", "10:0102030405060708"} // a client's cookie
		case v.cores.name:
			cpus = "0,1"
		}
		each, err := b.cpuOf(s, cpus, "queries", more...)
		if err != nil {
			return err
		}
		switch s.name {
		case v.more.name:
			v.ratio["ours"] = append(v.ratio["ours"], each/plain)
		case v.chain.name:
			v.slow["ours"] = append(v.slow["ours"], each)
		default:
			v.scale["ours"] = append(v.scale["ours"], 2*plain/each)
		}
	}
	return nil
}

// warm has a node keep its zone compiled, so that those started after it do nothing beside answering.
func (b *bench) warm(m *mesh, s server) error {
	r, err := s.start(m.dir, "0,1")
	if err != nil {
		return err
	}
	defer r.stop()
	if b.names < cachedFrom {
		return nil
	}
	return b.waitForCache(m)
}

// rows puts the variants into the table.
func (v *variants) rows(b *bench, cpu figures) {
	v.slow["file"] = cpu["file"]
	b.row("with metrics, RRL and cookies, to that without", "", "≤ 1.08", v.ratio)
	b.row("through the chain (fastpath off)", "µs", "≤ 0.4 × file", v.slow)
	b.row("both cores, to one", "", "≥ 1.8", v.scale)
}

// cpuOf starts a server and returns its processor time for an answer to the queries of a file, in µs.
func (b *bench) cpuOf(s server, cpus, queries string, more ...string) (float64, error) {
	dir, err := os.MkdirTemp(b.dir, "server-")
	if err != nil {
		return 0, err
	}
	r, err := s.start(dir, cpus)
	if err != nil {
		return 0, err
	}
	defer r.stop()
	r.settle()
	client := "1"
	if cpus != "0" {
		client = cpus
	}
	each, err := r.perQuery(filepath.Join(b.dir, queries), b.seconds, client, more...)
	return each * 1e6, err
}

// signed measures what all servers that can serve it make of the zone signed, with NSEC3 and opt-out.
func (b *bench) signed() error {
	if _, err := exec.LookPath("kzonesign"); err != nil {
		fmt.Fprintln(b.log, "kzonesign is not installed (Debian package knot-dnssecutils): no signed zone")
		return nil
	}
	zone, err := b.sign()
	if err != nil {
		return err
	}
	if err := writeTorture(filepath.Join(b.dir, "torture"), 200_000); err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "signed-mesh")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	m, err := newMesh(dir)
	if err != nil {
		return err
	}
	z, err := m.store(zone)
	if err != nil {
		return err
	}
	if err := errors.Join(m.current([]release.Zone{z}), m.forget()); err != nil {
		return err
	}
	servers := []server{ours(m, b.bin, options{}, "GOMAXPROCS=1")}
	for _, p := range b.installed(peers(zone, b.bin)) {
		if p.name != "file" { // it refuses NSEC3
			servers = append(servers, p)
		}
	}
	mix, torture := figures{}, figures{}
	for round := range b.rounds {
		for _, s := range servers {
			fmt.Fprintf(b.log, "round %d of %d, signed: %s\n", round+1, b.rounds, s.name)
			for queries, f := range map[string]figures{"queries": mix, "torture": torture} {
				each, err := b.cpuOf(s, "0", queries, "-D")
				if err != nil {
					return err
				}
				f[s.name] = append(f[s.name], each)
			}
		}
	}
	b.row("signed, NSEC3 with opt-out, DO: processor time of a query", "µs", "≤ 0.7 × the better of NSD and Knot", mix)
	b.row("the same, names that do not exist", "µs", "≤ 0.8 × the better of NSD and Knot", torture)
	return nil
}

// sign has Knot sign the zone, and returns the file.
func (b *bench) sign() (string, error) {
	dir := filepath.Join(b.dir, "sign")
	conf := fmt.Sprintf(`database:
  storage: %[1]q
policy:
  - id: bench
    algorithm: ECDSAP256SHA256
    single-type-signing: on
    rrsig-lifetime: 90d
    nsec3: on
    nsec3-iterations: 0
    nsec3-salt-length: 0
    nsec3-opt-out: on
zone:
  - domain: %[2]q
    storage: %[1]q
    file: %[3]q
    dnssec-signing: on
    dnssec-policy: bench
`, dir, origin, b.zones[0])
	out := filepath.Join(dir, "out")
	if err := errors.Join(os.MkdirAll(out, 0o755), os.WriteFile(filepath.Join(dir, "knot.conf"), []byte(conf), 0o644)); err != nil {
		return "", err
	}
	if said, err := exec.Command("kzonesign", "-c", filepath.Join(dir, "knot.conf"), "-o", out, origin).CombinedOutput(); err != nil {
		return "", fmt.Errorf("kzonesign: %w: %s", err, said)
	}
	files, err := filepath.Glob(filepath.Join(out, "*"))
	if err != nil || len(files) != 1 {
		return "", fmt.Errorf("kzonesign made %v, %w", files, err)
	}
	return files[0], nil
}

// mesh makes a mesh that has both zones.
func (b *bench) mesh(name string) (*mesh, [2]release.Zone, error) {
	var zones [2]release.Zone
	dir := filepath.Join(b.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, zones, err
	}
	m, err := newMesh(dir)
	for i := range zones {
		if err == nil {
			zones[i], err = m.store(b.zones[i])
		}
	}
	if err == nil {
		err = m.forget()
	}
	return m, zones, err
}

// serve starts a server, has it answer for a while, and stops it.
func (b *bench) serve(s server, all [][]byte, f *servingFigures) error {
	dir, err := os.MkdirTemp(b.dir, "server-")
	if err != nil {
		return err
	}
	r, err := s.start(dir, "0")
	if err != nil {
		return err
	}
	defer r.stop()
	note := func(f figures, v float64) { f[s.name] = append(f[s.name], v) }
	note(f.text, r.took.Seconds())
	r.settle() // what is freed after loading counts as free
	now, most := r.memory()
	note(f.pss, now/(1<<20))
	note(f.peak, most/(1<<20))
	each, err := r.perQuery(filepath.Join(b.dir, "queries"), b.seconds, "1")
	if err != nil {
		return err
	}
	note(f.cpu, each*1e6)
	p50, p99, err := r.latency(all, b.seconds)
	if err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	note(f.p50, p50*1e6)
	note(f.p99, p99*1e6)
	for queries, figures := range map[int]figures{1: f.tcp, 100: f.pipelined} {
		if each, err = r.perStream(all, queries, b.seconds); err != nil {
			return fmt.Errorf("%s: TCP: %w", s.name, err)
		}
		note(figures, each*1e6)
	}
	return nil
}

// fromCache starts our node again on what it kept when it ran.
func (b *bench) fromCache(m *mesh, s server, cached figures) error {
	if err := m.forget(); err != nil {
		return err
	}
	for range 2 {
		r, err := s.start(m.dir, "0")
		if err != nil {
			return err
		}
		if b.names >= cachedFrom {
			err = b.waitForCache(m)
		}
		r.stop()
		if err != nil {
			return err
		}
		cached["last"] = []float64{r.took.Seconds()}
	}
	cached["ours"] = append(cached["ours"], cached["last"]...)
	delete(cached, "last")
	return nil
}

// cachedFrom is the number of names from which a zone is surely large enough to be kept compiled.
const cachedFrom = 100_000

func (b *bench) waitForCache(m *mesh) error {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if kept, _ := filepath.Glob(m.path("node/cache/*.zone")); len(kept) > 0 {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New("the node keeps no compiled zone")
		}
	}
}

// compiling measures the latency of answers in quiet, and while the next release is compiled and swapped in.
func (b *bench) compiling() error {
	m, zones, err := b.mesh("compiling")
	if err != nil {
		return err
	}
	if err := m.current(zones[:1]); err != nil {
		return err
	}
	r, err := ours(m, b.bin, options{}).start(m.dir, "0,1")
	if err != nil {
		return err
	}
	defer r.stop()
	all, err := questions(b.known, loadQuestions)
	if err != nil {
		return err
	}
	l, err := startLoad(unix.SockaddrInet4{Port: r.port, Addr: [4]byte{127, 0, 0, 1}}, always(b.rate), all, nil)
	if err != nil {
		return err
	}
	defer l.stop()
	quiet, busy, ratio := figures{}, figures{}, figures{}
	for i := range 2*b.rounds - 1 {
		fmt.Fprintf(b.log, "round %d of %d: a release while queries are answered\n", i+1, 2*b.rounds-1)
		os.RemoveAll(m.path("node/cache"))
		l.window()
		time.Sleep(time.Duration(b.seconds) * time.Second)
		q := p99(l.window())
		if err := b.switchOver(m, zones[(i+1)%2]); err != nil {
			return err
		}
		c := p99(l.window())
		quiet["ours"] = append(quiet["ours"], q*1e6)
		busy["ours"] = append(busy["ours"], c*1e6)
		ratio["ours"] = append(ratio["ours"], c/q)
	}
	b.row("p99 of answers, quiet", "µs", "", quiet)
	b.row("p99 while the next release is compiled and swapped in", "µs", "", busy)
	b.row("ratio of the two", "", "≤ 1.5", ratio)
	return nil
}

// manyZones measures processor time for a query where there are ten small zones and where there are very many, all of them
// asked alike.
func (b *bench) manyZones() error {
	const few = 10
	many := b.names / 10
	cpu := figures{}
	for _, count := range []int{few, many} {
		dir := filepath.Join(b.dir, fmt.Sprintf("zones%d", count))
		m, queries, err := b.smallZones(dir, count)
		if err != nil {
			return err
		}
		r, err := ours(m, b.bin, options{}, "GOMAXPROCS=1").start(dir, "0")
		if err != nil {
			return err
		}
		for round := range b.rounds {
			fmt.Fprintf(b.log, "round %d of %d: %d zones\n", round+1, b.rounds, count)
			each, err := r.perQuery(queries, b.seconds, "1")
			if err != nil {
				r.stop()
				return err
			}
			cpu[fmt.Sprint(count)] = append(cpu[fmt.Sprint(count)], each*1e6)
		}
		r.stop()
	}
	one, all := cpu.median(fmt.Sprint(few)), cpu.median(fmt.Sprint(many))
	b.row(fmt.Sprintf("processor time of a query among %d zones", few), "µs", "", figures{"ours": {one}})
	b.row(fmt.Sprintf("among %d zones", many), "µs", "", figures{"ours": {all}})
	b.row("ratio of the two", "", "≤ 1.5", figures{"ours": {all / one}})
	return nil
}

// smallZones makes a mesh of so many zones with four names each, and queries for all of them.
func (b *bench) smallZones(dir string, count int) (*mesh, string, error) {
	queries := filepath.Join(dir, "queries")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, "", err
	}
	m, err := newMesh(dir)
	if err != nil {
		return nil, "", err
	}
	const text = "@ 300 IN SOA ns hostmaster 1 3600 900 1814400 300\n@ 300 IN NS ns\nns 300 IN A 192.0.2.1\nwww 300 IN A 192.0.2.2\n"
	c, err := m.repo.PutBlob(func(w io.Writer) error { _, err := io.WriteString(w, text); return err })
	if err != nil {
		return nil, "", err
	}
	zones := []release.Zone{{Origin: origin, Serial: 1, SHA256: c.SHA256, Length: c.Length, Blob: c.Blob}}
	for i := range count - 1 {
		z := zones[0]
		z.Origin = fmt.Sprintf("zone%d.example.", i)
		zones = append(zones, z)
	}
	r := rand.New(rand.NewPCG(1, 2))
	var ask bytes.Buffer
	for range 200_000 {
		fmt.Fprintf(&ask, "www.%s A\n", zones[r.IntN(count)].Origin)
	}
	slices.SortFunc(zones, func(a, b release.Zone) int { return strings.Compare(a.Origin, b.Origin) })
	return m, queries, errors.Join(m.current(zones), m.forget(), os.WriteFile(queries, ask.Bytes(), 0o644))
}

// switchOver has a release staged and switched to, and returns when it is answered from.
func (b *bench) switchOver(m *mesh, z release.Zone) error {
	if err := m.next(z); err != nil {
		return err
	}
	number := m.manifest.Next.Number
	if err := m.waits("to stage", func(s status.Node) bool { return s.Staged == number }); err != nil {
		return err
	}
	if err := m.schedule(time.Second); err != nil {
		return err
	}
	return m.waits("to serve", func(s status.Node) bool { return s.Serving == number })
}

var benchLine = regexp.MustCompile(`(?m)^Benchmark(\S+?)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op(?:.*?(\d+) allocs/op)?`)

// lookups runs Go's benchmarks of internal/zone.
func (b *bench) lookups() error {
	args := []string{"test", "-run", "^$", "-bench", "^Benchmark(Answer|Denial|ManyZones|Apply)$/^(mix|million|hash|10|100000|10-of-100000|signed)$"}
	if b.short {
		args = append(args, "-short", "-benchtime", "10x")
	} else {
		args = append(args, "-count", strconv.Itoa(b.rounds))
	}
	fmt.Fprintln(b.log, "go test -bench in internal/zone")
	out, err := exec.Command("go", append(args, "github.com/coredns-anycast/coredns-anycast/internal/zone")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("go test -bench: %w\n%s", err, out)
	}
	ns, allocs := figures{}, figures{}
	for _, f := range benchLine.FindAllSubmatch(out, -1) {
		n, _ := strconv.ParseFloat(string(f[2]), 64)
		ns[string(f[1])] = append(ns[string(f[1])], n)
		if len(f[3]) > 0 {
			n, _ := strconv.ParseFloat(string(f[3]), 64)
			allocs[string(f[1])] = append(allocs[string(f[1])], n)
		}
	}
	one := func(v float64) figures { return figures{"ours": {v}} }
	b.row("lookup and packet, mixed queries, 1,000,000 names", "ns", "≤ 400", one(ns.median("Answer/mix")))
	b.row("its allocations", "", "0", one(allocs.median("Answer/mix")))
	b.row("NSEC3 denial, not cached, 1,000,000 names", "ns", fmt.Sprintf("≤ %.0f: three hashes and 1 µs", 3*ns.median("Denial/hash")+1000), one(ns.median("Denial/million")))
	b.row("100 of 1,000,000 names with NSEC3 changed, the next zone is made", "ms", "≤ 10", one(ns.median("Apply/signed")/1e6))
	b.row("lookup in 10 of 100,000 zones, to that among 10", "", "≤ 1.5", one(ns.median("ManyZones/10-of-100000")/ns.median("ManyZones/10")))
	b.row("in any of 100,000 zones, none of them in the processor's cache", "", "", one(ns.median("ManyZones/100000")/ns.median("ManyZones/10")))
	return nil
}

// releaseLine is a line of BenchmarkALargeRelease.
var releaseLine = regexp.MustCompile(`(?m)^BenchmarkALargeRelease/([a-z]+)(?:-\d+)?\s+\d+\s+([\d.]+) ns/op(?:\s+([\d.]+) cpu-ms/op)?`)

// releases runs Go's benchmark of meshsync that makes releases ready.
func (b *bench) releases() error {
	args := []string{"test", "-run", "^$", "-bench", "^BenchmarkALargeRelease$", "-benchtime", "10x"}
	if b.short {
		args = append(args, "-short")
	}
	fmt.Fprintln(b.log, "go test -bench in plugin/meshsync")
	out, err := exec.Command("go", append(args, "github.com/coredns-anycast/coredns-anycast/plugin/meshsync")...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("go test -bench: %w\n%s", err, out)
	}
	found := map[string]float64{}
	for _, f := range releaseLine.FindAllSubmatch(out, -1) {
		name, figure := string(f[1]), f[3]
		if name == "start" {
			figure = f[2]
		}
		if found[name], err = strconv.ParseFloat(string(figure), 64); err != nil {
			return fmt.Errorf("%s: %w", f[0], err)
		}
	}
	one := func(name string, scale float64) figures { return figures{"ours": {found[name] * scale}} }
	b.row("100 of 1,000,000 names changed: processor of a node, by packs", "ms", "≤ 100", one("packs", 1))
	b.row("by the text, as with the formats before", "ms", "", one("text", 1))
	b.row("a start from the compiled cache and the packs since", "s", "≤ 0.3", one("start", 1e-9))
	return nil
}

// print prints the table: ours, and each peer with the ratio of ours to it.
func (b *bench) print() error {
	var columns []string
	for _, r := range b.rows {
		for name := range r.peers {
			if !slices.Contains(columns, name) {
				columns = append(columns, name)
			}
		}
	}
	slices.SortFunc(columns, cmp.Compare)
	var text bytes.Buffer
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "%d names\tours\ttarget\t%s\n", b.names, strings.Join(columns, " (ours to it)\t")+" (ours to it)")
	for _, r := range b.rows {
		fmt.Fprintf(w, "%s\t%s\t%s", r.what, figure(r.ours, r.unit), r.target)
		for _, name := range columns {
			if v, ok := r.peers[name]; ok {
				fmt.Fprintf(w, "\t%s (%.2f)", figure(v, r.unit), r.ours/v)
			} else {
				fmt.Fprint(w, "\t")
			}
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	_, err := b.out.Write(text.Bytes())
	return err
}

func figure(v float64, unit string) string {
	if math.IsNaN(v) {
		return "–"
	}
	digits := 2
	if v >= 100 || v == math.Trunc(v) {
		digits = 0
	}
	return strings.TrimSpace(fmt.Sprintf("%.*f %s", digits, v, unit))
}
