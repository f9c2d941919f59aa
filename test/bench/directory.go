package main

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"
)

// directory is a mesh whose zones are files in a directory, all else being as it is by default.
type directory struct {
	*lan
	changes int
}

// newDirectory starts one.
func (b *bench) newDirectory(name string, write func(d *directory) error) (*directory, error) {
	l, err := b.newLAN(name, nodeNames[:b.nodes])
	if err != nil {
		return nil, err
	}
	d := &directory{lan: l}
	if err := d.begin(write); err != nil {
		d.end()
		return nil, err
	}
	return d, nil
}

func (d *directory) begin(write func(d *directory) error) error {
	if err := errors.Join(os.MkdirAll(d.path("zones"), 0o755), write(d)); err != nil {
		return err
	}
	if err := d.serve("--listen", hostAddress+":8443", "--zones", d.path("zones")); err != nil {
		return err
	}
	for _, node := range d.nodes {
		if err := d.startNode(node); err != nil {
			return err
		}
	}
	return nil
}

// save puts a zone in place that has so many records which say its serial.
func (d *directory) save(origin string, serial, records int) error {
	var text strings.Builder
	fmt.Fprintf(&text, "$ORIGIN %s\n$TTL 300\n@ SOA ns hostmaster %d 3600 900 1814400 300\n@ NS ns\n@ NS ns.elsewhere.example.\nns A %s\n", origin, serial, shared)
	for i := range records {
		fmt.Fprintf(&text, "host%d A 203.0.113.%d\n", i, serial&255)
	}
	file := d.path("zones", origin+"zone")
	return errors.Join(os.WriteFile(file+".new", []byte(text.String()), 0o644), os.Rename(file+".new", file))
}

// awaits waits until all nodes, asked every so often, answer from a serial of a zone, and returns when the last one did.
func (d *directory) awaits(limit, every time.Duration, origin string, serial int) (last time.Time, err error) {
	places := map[string]where{}
	for _, node := range d.nodes {
		places[node] = where{node, shared + ":53", every}
	}
	all, err := d.answeredBy(limit, places, origin, uint32(serial))
	for _, at := range all {
		if at.After(last) {
			last = at
		}
	}
	return last, err
}

// savedFile measures how long it takes from the saving of a small zone's file to the answers of all nodes.
func (b *bench) savedFile() error {
	const zone = "small.example."
	d, err := b.newDirectory("saved", func(d *directory) error { return d.save(zone, 1, 8) })
	if err != nil {
		return err
	}
	defer d.end()
	if _, err := d.awaits(patience(0), lookEvery, zone, 1); err != nil {
		return err
	}
	took := figures{}
	for round := range b.rounds {
		fmt.Fprintf(b.log, "round %d of %d: a small zone's file is saved\n", round+1, b.rounds)
		if err := d.groups().settle(nil); err != nil {
			return err
		}
		began := time.Now()
		if err := d.save(zone, round+2, 8); err != nil { // and the SOA record
			return err
		}
		last, err := d.awaits(patience(0), lookEvery, zone, round+2)
		if err != nil {
			return err
		}
		took.note("ours", last.Sub(began).Seconds())
	}
	b.row("9 records of a small zone, file saved to answered by all nodes", "s", "≤ 3", took)
	return nil
}

// recordedSince waits until it is on record how all nodes fared with the last release, made since then.
func (d *directory) recordedSince(began time.Time) error {
	return d.until(time.Minute, "the release is on record", func() (bool, string) {
		time.Sleep(historyEvery)
		made, err := d.history(1)
		if err != nil || len(made) == 0 {
			return false, fmt.Sprint(err)
		}
		return made[0].Switchover.After(began) && len(made[0].Results) == len(d.nodes), fmt.Sprintf("release %d, %v, %d results", made[0].Number, made[0].Switchover, len(made[0].Results))
	})
}

func (d *directory) groups() groups {
	g := groups{"host": {d.running["dist/serve"]}}
	for _, node := range d.nodes {
		g[node] = d.programs(node)
	}
	return g
}

// perZone is how long a zone of many may take to be received, released, and fetched by all nodes: each of these has some files of it go to the
// disk. In memory (TMPDIR=/dev/shm) it takes a tenth of that; what is measured is the same.
const perZone = 30 * time.Millisecond

// seldom is the time between two questions to a node whose processor's time is measured.
const seldom = 250 * time.Millisecond

// changedOfMany is how many zones of many are changed.
const changedOfMany = 10

// tenOfMany measures what ten changed of many small zones cost.
func (b *bench) tenOfMany() error {
	fmt.Fprintf(b.log, "%d zones are received and released\n", b.zoneCount)
	name := func(i int) string { return fmt.Sprintf("zone%d.example.", i) }
	d, err := b.newDirectory("many", func(d *directory) error {
		for i := range b.zoneCount {
			if err := d.save(name(i), 1, 2); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	defer d.end()
	limit := time.Minute + time.Duration(b.zoneCount)*perZone
	for _, i := range []int{0, b.zoneCount / 2, b.zoneCount - 1} {
		if _, err := d.awaits(limit, time.Second, name(i), 1); err != nil {
			return err
		}
	}
	if err := d.complete(limit); err != nil {
		return err
	}
	t := &tollsOfMany{figures{}, figures{}, figures{}, figures{}, figures{}, figures{}}
	for round := range b.rounds {
		fmt.Fprintf(b.log, "round %d of %d: %d of %d zones are changed\n", round+1, b.rounds, changedOfMany, b.zoneCount)
		if err := d.changeSome(t, name, round+2); err != nil {
			return err
		}
	}
	what := fmt.Sprintf("%d of %d zones changed: ", changedOfMany, b.zoneCount)
	b.row(what+"processor of the distribution host", "s", "≤ 0.1", t.host)
	b.row("… of a node", "s", "≤ 0.05", t.node)
	b.row("… octets to a node", "kB", "≤ 100", t.octets)
	b.row("… files saved to answered by all nodes", "s", "≤ 3", t.took)
	b.row(fmt.Sprintf("%d zones at rest: of a processor, the distribution host", b.zoneCount), "%", "", t.hostRest)
	b.row("… a node", "%", "", t.nodeRest)
	return nil
}

// complete waits until all nodes answer from all zones.
func (d *directory) complete(limit time.Duration) error {
	for _, node := range d.nodes {
		err := d.until(limit, node+" has all zones", func() (bool, string) {
			time.Sleep(time.Second) // each look costs the node
			n, err := d.node(node)
			return err == nil && len(n.Zones) == d.b.zoneCount && n.Serving == n.Staged, fmt.Sprint(len(n.Zones), err)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// idle is what is used of processors, and what octets a second come to the first node, when nothing happens.
func (d *directory) idle() (idle map[string]float64, octets float64, err error) {
	if err := d.groups().settle(nil); err != nil {
		return nil, 0, err
	}
	before, err := d.octets(d.nodes[0])
	if err != nil {
		return nil, 0, err
	}
	window := 2 * time.Duration(d.b.seconds) * time.Second
	if idle, err = d.groups().rest(window); err != nil {
		return nil, 0, err
	}
	after, err := d.octets(d.nodes[0])
	return idle, (after - before) / window.Seconds(), err
}

// tollsOfMany are what changes of many zones cost, and that nothing happens to them: seconds of processor, kB to the first node, seconds, and
// percent of a processor.
type tollsOfMany struct{ host, node, octets, took, hostRest, nodeRest figures }

// changeSome changes some of many zones.
func (d *directory) changeSome(t *tollsOfMany, name func(int) string, serial int) error {
	idle, quiet, err := d.idle()
	if err != nil {
		return err
	}
	octets, err := d.octets(d.nodes[0])
	if err != nil {
		return err
	}
	before, began, err := d.groups().spent()
	if err != nil {
		return err
	}
	for i := range changedOfMany {
		if err := d.save(name(i), serial, 2); err != nil {
			return err
		}
	}
	last := began
	for i := range changedOfMany {
		at, err := d.awaits(2*patience(d.b.zoneCount), seldom, name(i), serial)
		if err != nil {
			return err
		}
		if at.After(last) {
			last = at
		}
	}
	if err := errors.Join(d.recordedSince(began), d.groups().settle(idle)); err != nil {
		return err
	}
	after, ended, err := d.groups().spent()
	if err != nil {
		return err
	}
	fetched, err := d.octets(d.nodes[0])
	if err != nil {
		return err
	}
	passed, node, rest := ended.Sub(began).Seconds(), 0.0, 0.0
	used := func(name string) float64 { return after[name] - before[name] - idle[name]*passed }
	for _, name := range d.nodes {
		node += used(name) / float64(len(d.nodes))
		rest += idle[name] / float64(len(d.nodes))
	}
	t.host.note("ours", used("host"))
	t.node.note("ours", node)
	t.octets.note("ours", (fetched-octets-quiet*passed)/1000)
	t.took.note("ours", last.Sub(began).Seconds())
	t.hostRest.note("ours", 100*idle["host"])
	t.nodeRest.note("ours", 100*rest)
	fmt.Fprintf(d.b.log, "processor: host %.3f s, node %.3f s; %.1f kB, answered after %.2f s; at rest: host %.2f %%, node %.2f %%\n",
		used("host"), node, (fetched-octets-quiet*passed)/1000, last.Sub(began).Seconds(), 100*idle["host"], 100*rest)
	return nil
}
