package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

// large is a mesh of whole processes that follows a large signed zone of a Knot, with a Knot and an NSD that follow it as well.
type large struct {
	*lan
	*primary
	peers  map[string]where // secondaries that run, by what they are called
	tells  []string         // hosts that the primary tells of changes
	plain  bool             // the zone has no ZONEMD
	groups groups
	idle   map[string]float64 // seconds of processor a second, by group, as last measured

	bystanderHas uint32 // serial
}

// largeZone measures what changes of a large zone cost whole processes, from its primary to the answers.
func (b *bench) largeZone() error {
	if _, err := exec.LookPath("knotd"); err != nil {
		b.lacks("changes of a large zone from its primary to the answers", "knotd (Debian package knot) is not installed")
		return nil
	}
	m, err := b.newLarge()
	if err != nil {
		return err
	}
	defer m.end()
	if b.wants("changes") {
		if err := b.changes(m); err != nil {
			return err
		}
	}
	for host := range m.peers { // what follows is about the mesh alone
		m.stop(host)
		delete(m.peers, host)
	}
	if b.wants("sustained") {
		if err := b.sustained(m); err != nil {
			return err
		}
	}
	if b.wants("behind") {
		return b.behind(m)
	}
	return nil
}

// newLarge starts all of it, and returns when everybody has the zone.
func (b *bench) newLarge() (*large, error) {
	nodes := nodeNames[:b.nodes]
	l, err := b.newLAN("large", nodes, "primary", "Knot", "NSD", bystander, joiner)
	if err != nil {
		return nil, err
	}
	m := &large{lan: l, peers: map[string]where{}}
	if err := m.begin(); err != nil {
		m.end()
		return nil, err
	}
	return m, nil
}

func (m *large) begin() (err error) {
	fmt.Fprintf(m.b.log, "a zone of %d names is signed by its primary\n", m.b.names)
	peers := m.b.secondaries()
	m.tells = append([]string{"dist"}, peers...)
	if m.primary, err = startPrimary(m.lan, m.b.names, m.tells); err != nil {
		return err
	}
	fmt.Fprintln(m.b.log, "it is followed by the mesh and the other secondaries")
	if err := m.host("3s", "10m"); err != nil {
		return err
	}
	for _, node := range m.nodes {
		if err := m.startNode(node); err != nil {
			return err
		}
	}
	for _, host := range peers {
		if err := m.follow(host); err != nil {
			return err
		}
	}
	m.group()
	_, err = m.allAnswer(patience(m.b.names), 1)
	return err
}

// host starts the distribution host, by its configuration: releases at most every so often, and members waited for so long.
func (m *large) host(every, absent string) error {
	config := fmt.Sprintf(`releases: {every: %s, absent: %s}
serve: {listen: '%[3]s:8443'}
sources:
  keys: [{name: xfr, secret: %s}]
  primaries: [{name: knot, servers: [{address: '%s', key: xfr}]}]
  zones: [{names: [%s], primaries: knot}]
  notify: {listen: ['%[3]s:%[7]d']}
checks:
  zones: {%[6]s: {dnssec: require}}
`, every, absent, hostAddress, xfrSecret, m.primary.address(), strings.TrimSuffix(origin, "."), xfrPort)
	if err := os.WriteFile(m.path("home", "meshctl.yaml"), []byte(config), 0o644); err != nil {
		return err
	}
	return m.serve()
}

// programs are those of the secondaries beside ours.
var programs = map[string]string{"Knot": "knotd", "NSD": "nsd"}

// secondaries are those that can be started. Of the others it is said that they are left out.
func (b *bench) secondaries() (found []string) {
	for _, name := range []string{"Knot", "NSD"} {
		if !b.peers {
			continue
		}
		if _, err := exec.LookPath(programs[name]); err != nil {
			b.lacks(name+" beside the mesh", programs[name]+" is not installed")
			continue
		}
		found = append(found, name)
	}
	return found
}

// follow starts a secondary.
func (m *large) follow(host string) error {
	s := nameServer(m.lan, programs[host], host)
	from := m.lan.address["primary"]
	switch host {
	case "Knot":
		s.Rest = fmt.Sprintf("remote:\n  - id: primary\n    address: %s@%d\n    key: xfr\nacl:\n  - id: notify\n    address: %[1]s\n    key: xfr\n    action: notify\n", from, xfrPort)
		s.Zones = []lab.ServedZone{{Origin: origin, Secondary: true,
			More: "    master: primary\n    acl: notify\n    zonefile-load: none\n    zonefile-sync: -1\n    journal-max-usage: 2G\n"}}
	default:
		s.Zones = []lab.ServedZone{{Origin: strings.TrimSuffix(origin, "."), Secondary: true, More: fmt.Sprintf("  request-xfr: %s@%d xfr\n  allow-notify: %[1]s xfr\n", from, xfrPort)}}
	}
	args, err := s.Prepare()
	if err != nil {
		return err
	}
	m.peers[host] = where{host, fmt.Sprintf("%s:%d", m.lan.address[host], xfrPort), lookEvery}
	return m.start(host, programs[host], append([]string{programs[host]}, args...)...)
}

// group says whose time is counted together.
func (m *large) group() {
	m.groups = groups{"host": {m.running["dist/serve"]}}
	for _, node := range m.nodes {
		m.groups[node] = m.programs(node)
		m.groups[node+"/coredns"] = m.programs(node)[:1]
	}
	for host := range m.peers {
		m.groups[host] = []*lab.Process{m.running[host+"/"+programs[host]]}
	}
}

// allAnswer waits until all nodes and secondaries answer from a serial, and returns when each did.
func (m *large) allAnswer(limit time.Duration, serial uint32) (map[string]time.Time, error) {
	places := map[string]where{}
	for _, node := range m.nodes {
		places[node] = atNode(node)
	}
	for name, w := range m.peers {
		places[name] = w
	}
	return m.answeredBy(limit, places, origin, serial)
}

// forgoZONEMD has the zone go without its ZONEMD record, everywhere.
func (m *large) forgoZONEMD() error {
	if m.plain {
		return nil
	}
	serial, err := m.primary.forgoZONEMD(m.tells)
	if err != nil {
		return err
	}
	m.plain = true
	if _, err = m.allAnswer(patience(m.b.names), serial); err != nil {
		return err
	}
	return m.groups.settle(m.idle)
}

// toll is what a change cost, and how long it took; times in seconds.
type toll struct {
	processor       map[string]float64 // by group
	ready, answered float64            // all nodes, since the last octet of the transfer; NaN if it was none
	seen            map[string]float64 // answered, by node and secondary, since the change was given to the primary
}

// change changes so many names, and returns what that cost once all is quiet again.
func (m *large) change(names int) (t toll, err error) {
	if m.idle, err = m.groups.rest(2 * time.Duration(m.b.seconds) * time.Second); err != nil { // anew: what else the machine does changes it
		return t, err
	}
	before, began, err := m.groups.spent()
	if err != nil {
		return t, err
	}
	serial, err := m.primary.change(names)
	if err != nil {
		return t, err
	}
	made := time.Now()
	fmt.Fprintf(m.b.log, "%d names are changed at the primary, %.1f s, serial %d\n", names, made.Sub(began).Seconds(), serial)
	seen, err := m.allAnswer(patience(m.b.names), serial)
	if err != nil {
		return t, err
	}
	r, err := m.recorded(serial)
	if err != nil {
		return t, err
	}
	if err := m.groups.settle(m.idle); err != nil {
		return t, err
	}
	after, ended, err := m.groups.spent()
	if err != nil {
		return t, err
	}
	t.processor, t.seen = map[string]float64{}, map[string]float64{}
	for name := range m.groups {
		t.processor[name] = after[name] - before[name] - m.idle[name]*ended.Sub(began).Seconds()
	}
	for name, at := range seen {
		t.seen[name] = at.Sub(began).Seconds()
	}
	for _, node := range m.nodes { // which is exact
		t.seen[node] = r.answered().Sub(began).Seconds()
	}
	t.ready, t.answered, err = r.since()
	fmt.Fprintf(m.b.log, "ready %.2f s and answered %.2f s after the transfer; processor, seconds:", t.ready, t.answered)
	for _, name := range slices.Sorted(maps.Keys(t.processor)) {
		fmt.Fprintf(m.b.log, " %s %.3f", name, t.processor[name])
	}
	fmt.Fprintln(m.b.log)
	return t, err
}

// since are the seconds from the last octet of a release's transfer until all nodes were ready, and until all answered.
func (r madeRelease) since() (ready, answered float64, err error) {
	if len(r.Received) == 0 {
		return 0, 0, fmt.Errorf("release %d has no transfer on record", r.Number)
	}
	whole := r.Received[0].Whole
	for _, t := range r.Received {
		if t.How != "ixfr" {
			return 0, 0, fmt.Errorf("release %d came by %s", r.Number, t.How)
		}
	}
	for _, n := range r.Results {
		if !n.Switched || n.Compiled == nil {
			return 0, 0, fmt.Errorf("a node did not make release %d: %+v", r.Number, r)
		}
		ready = max(ready, n.Compiled.Done.Sub(whole).Seconds())
	}
	return ready, r.answered().Sub(whole).Seconds(), nil
}

// answered is when the last node answered from the release, by its own word.
func (r madeRelease) answered() time.Time {
	late := time.Duration(0)
	for _, n := range r.Results {
		late = max(late, n.Lateness)
	}
	return r.Switchover.Add(late)
}

// tolls are what changes of a kind cost.
type tolls struct{ node, coredns, host, ready, answered, seen figures }

// rounds changes so many names, so often.
func (m *large) rounds(what string, names int) (*tolls, error) {
	all := &tolls{figures{}, figures{}, figures{}, figures{}, figures{}, figures{}}
	for round := range m.b.rounds {
		fmt.Fprintf(m.b.log, "round %d of %d: %s\n", round+1, m.b.rounds, what)
		t, err := m.change(names)
		if err != nil {
			return nil, err
		}
		node, coredns, seen := 0.0, 0.0, 0.0
		for _, name := range m.nodes {
			node += t.processor[name] / float64(len(m.nodes))
			coredns += t.processor[name+"/coredns"] / float64(len(m.nodes))
			seen = max(seen, t.seen[name])
		}
		all.node.note("ours", node)
		all.coredns.note("ours", coredns)
		all.seen.note("ours", seen)
		for name := range m.peers {
			all.node.note(name, t.processor[name])
			all.seen.note(name, t.seen[name])
		}
		all.host.note("ours", t.processor["host"])
		all.ready.note("ours", t.ready)
		all.answered.note("ours", t.answered)
	}
	return all, nil
}

// atTenMillion is from how many names on a zone has the bounds of one of ten million.
const atTenMillion = 5_000_000

// changes measures what a change of 100 names and one of 0.5 % cost, and how long they take.
func (b *bench) changes(m *large) (err error) {
	if err := m.groups.settle(nil); err != nil {
		return err
	}
	few, many := min(100, b.names/20), max(2, b.names/200)
	hundred, err := m.rounds(fmt.Sprintf("%d names change", few), few)
	if err != nil {
		return err
	}
	if err := b.memories(m, ""); err != nil {
		return err
	}
	share, err := m.rounds(fmt.Sprintf("%d names change", many), many)
	if err != nil {
		return err
	}
	if err := b.memories(m, ", after 0.5 % changed"); err != nil {
		return err
	}
	if err := m.forgoZONEMD(); err != nil {
		return err
	}
	without, err := m.rounds(fmt.Sprintf("%d names change, without ZONEMD", few), few)
	if err != nil {
		return err
	}
	processor := "≤ 0.1, and ≤ 0.25 × Knot"
	if b.names >= atTenMillion {
		processor = "≤ 0.2"
	}
	what := fmt.Sprintf("%d names of a signed zone changed, by IXFR: ", few)
	b.row(what+"processor of a node", "s", processor, hundred.node)
	b.row("… of it coredns", "s", "", hundred.coredns)
	b.row("… of the distribution host, with ZONEMD", "s", "", hundred.host)
	b.row("… of the distribution host, without ZONEMD", "s", "≤ 0.3", without.host)
	b.row("… of a node, without ZONEMD", "s", processor, without.node)
	b.row("last octet of the IXFR to ready on all nodes", "s", "≤ 1", hundred.ready)
	b.row("… to answered by all nodes", "s", "≤ 3", hundred.answered)
	b.row("given to the primary, to answered by all", "s", "", hundred.seen)
	what = fmt.Sprintf("0.5 %% (%d names) changed: ", many)
	b.row(what+"processor of a node", "s", "", share.node)
	b.row("… of the distribution host", "s", "", share.host)
	b.row("last octet of the IXFR to ready on all nodes, 0.5 %", "s", "≤ 4", share.ready)
	b.row("given to the primary, to answered by all, 0.5 %", "s", "", share.seen)
	return nil
}

// memories are the rows of what everybody takes of memory at a time.
func (b *bench) memories(m *large, when string) error {
	pss, err := m.groups.memory()
	if err != nil {
		return err
	}
	coredns, err := groups{"coredns": {m.running[m.nodes[0]+"/coredns"]}}.memory()
	if err != nil {
		return err
	}
	for name := range pss {
		pss[name] /= 1 << 20
	}
	node := figures{"ours": {pss[m.nodes[0]]}}
	for name := range m.peers {
		node[name] = []float64{pss[name]}
	}
	bound := ""
	if b.names >= atTenMillion {
		bound = "≤ 1229"
	}
	b.row("memory of a node that follows it (PSS)"+when, "MiB", bound, node)
	b.row("… of it coredns"+when, "MiB", "", figures{"ours": {coredns["coredns"] / (1 << 20)}})
	b.row("memory of the distribution host (PSS)"+when, "MiB", "", figures{"ours": {pss["host"]}})
	return nil
}

// joiner is a host for a node that joins.
const joiner = "join"

// behind measures what a node fetches that missed many releases, and what one fetches that joins.
func (b *bench) behind(m *large) error {
	if len(m.nodes) < 2 {
		b.lacks("octets for a node that missed releases", "needs two nodes (-nodes)")
		return nil
	}
	if err := m.forgoZONEMD(); err != nil {
		return err
	}
	late := m.nodes[len(m.nodes)-1]
	m.stop(late)
	m.stop("dist")
	if err := m.host("1s", "10s"); err != nil {
		return err
	}
	packs, first := 0.0, m.version
	for int(m.version-first) < b.missed {
		fmt.Fprintf(b.log, "release %d of %d that a node misses\n", m.version-first+1, b.missed)
		serial, err := m.primary.change(min(100, b.names/20))
		if err == nil {
			_, err = m.lan.answered(patience(b.names), atNode(m.nodes[0]), origin, serial)
		}
		if err != nil {
			return err
		}
		manifest, err := m.manifest()
		if err != nil {
			return err
		}
		if z := manifest.Latest().Zone(origin); z != nil && len(z.Packs) > 0 {
			packs += float64(z.Packs[len(z.Packs)-1].Blob.Length)
		}
	}
	fetched, text, err := m.fetches(late)
	if err != nil {
		return err
	}
	if packs == 0 {
		packs = text // there are none: the text is the way
	}
	ratio := func(octets, least float64) figures { return figures{"ours": {octets / least}} }
	kilo := func(octets float64) figures { return figures{"ours": {octets / 1000}} }
	b.row(fmt.Sprintf("octets to a node %d releases behind", b.missed), "kB", "", kilo(fetched))
	b.row("… the packs it missed", "kB", "", kilo(packs))
	b.row("… the text", "kB", "", kilo(text))
	b.row("… to the smaller of the two", "", "≤ 2", ratio(fetched, min(packs, text)))
	m.stop(late)
	if err := m.member(joiner); err != nil {
		return err
	}
	if fetched, text, err = m.fetches(joiner); err != nil {
		return err
	}
	b.row("octets to a node that joins, to those of the text", "", "≤ 2", ratio(fetched, text))
	return nil
}

// fetches starts a node, waits until it answers from what the first one answers from, and returns the octets that it fetched, and those
// of the text.
func (m *large) fetches(node string) (octets, text float64, err error) {
	serial, err := m.serial()
	if err != nil {
		return 0, 0, err
	}
	before, err := m.octets(node)
	if err == nil {
		err = m.startNode(node)
	}
	if err == nil {
		_, err = m.lan.answered(patience(m.b.names), atNode(node), origin, serial)
	}
	if err != nil {
		return 0, 0, err
	}
	if err := (groups{node: m.programs(node)}).settle(nil); err != nil {
		return 0, 0, err
	}
	after, err := m.octets(node)
	if err != nil {
		return 0, 0, err
	}
	manifest, err := m.manifest()
	if err != nil {
		return 0, 0, err
	}
	z := manifest.Latest().Zone(origin)
	if z == nil {
		return 0, 0, errors.New("the zone is in no release")
	}
	return after - before, float64(z.Blob.Length), nil
}
