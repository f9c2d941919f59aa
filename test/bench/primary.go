package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
)

const (
	xfrSecret = "c2VjcmV0IHRoYXQgeW91IHdpbGwgcmVwbGFjZSE="
	xfrPort   = 5301
	// releaseName has a TXT record that says which version of the zone it is.
	releaseName = "release." + origin
)

// primary is a Knot that signs the large zone (NSEC3 with opt-out, ZONEMD), and what has been changed in it.
type primary struct {
	l       *lan
	known   zoneNames
	drawn   *rand.Rand
	version uint32              // of the zone: how often it has been changed
	serials map[uint32]uint32   // versions, by serial
	changed map[string][]uint32 // versions in which a name was changed, by the whole name
	watched []string            // names of which half of what is changed is taken
}

// watchedNames is how many names there are that half of the changes go to, so that clients who ask for them see changes.
const watchedNames = 2000

// startPrimary writes the zone, and starts Knot at the host "primary". It tells the hosts that have the zone of it of changes.
func startPrimary(l *lan, names int, tells []string) (*primary, error) {
	p := &primary{l: l, drawn: rand.New(rand.NewPCG(3258, 1)), serials: map[uint32]uint32{}, changed: map[string][]uint32{}}
	if err := os.MkdirAll(l.path("primary"), 0o755); err != nil {
		return nil, err
	}
	f, err := os.Create(l.path("primary", "zone"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if p.known, err = writeZone(f, names, 1); err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(f, "release 60 IN TXT \"0\"\n"); err != nil {
		return nil, err
	}
	p.watched = slices.Clone(p.known.secure)
	p.drawn.Shuffle(len(p.watched), func(i, j int) { p.watched[i], p.watched[j] = p.watched[j], p.watched[i] })
	p.watched = p.watched[:min(watchedNames, len(p.watched))]
	args, err := p.knot(tells, "zonemd-sha384").Prepare()
	if err != nil {
		return nil, err
	}
	if err := l.start("primary", "knotd", append([]string{"knotd"}, args...)...); err != nil {
		return nil, err
	}
	_, err = l.answered(patience(names), p.where(), origin, 1)
	return p, err
}

// patience is how long a large zone may take for a step, on a busy machine.
func patience(names int) time.Duration {
	return time.Minute + time.Duration(names/1_000_000)*10*time.Minute
}

func (p *primary) where() where { return where{"primary", p.address(), lookEvery} }

func (p *primary) address() string {
	return fmt.Sprintf("%s:%d", p.l.address["primary"], xfrPort)
}

func nameServer(l *lan, kind, host string) *lab.NameServer {
	return &lab.NameServer{Kind: kind, Dir: l.path(host), Listen: []netip.AddrPort{netip.AddrPortFrom(netip.MustParseAddr(l.address[host]), xfrPort)},
		Keys: []lab.TSIG{{Name: "xfr", Algorithm: "hmac-sha256", Secret: xfrSecret}}}
}

// knot is the primary's configuration.
func (p *primary) knot(tells []string, zonemd string) *lab.NameServer {
	at := map[string]netip.AddrPort{}
	for _, host := range tells {
		at[host] = netip.AddrPortFrom(netip.MustParseAddr(p.l.address[host]), xfrPort)
	}
	s := nameServer(p.l, "knotd", "primary")
	s.Signs(lab.SignedZone{Origin: origin, File: p.l.path("primary", "zone"), OptOut: true, ZONEMD: zonemd, Tells: at})
	return s
}

// serial asks for the serial of the zone.
func (p *primary) serial() (uint32, error) {
	conn, err := p.l.places["primary"].Dial(context.Background(), "udp", p.address())
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	return serialOf(conn, origin)
}

// change changes so many names, as one change of the zone, and returns its serial.
func (p *primary) change(names int) (serial uint32, err error) {
	p.version++
	replaced := []order{{command: "zone-unset", owner: releaseName, kind: "TXT"},
		{command: "zone-set", owner: releaseName, ttl: "60", kind: "TXT", data: fmt.Sprint(p.version)}}
	for _, name := range p.draw(names - 1) {
		name += "." + origin
		p.changed[name] = append(p.changed[name], p.version)
		ds := fmt.Sprintf("%d 13 2 %s", uint16(p.version), digestOf(name, p.version))
		replaced = append(replaced, order{command: "zone-unset", owner: name, kind: "DS"}, order{command: "zone-set", owner: name, ttl: "86400", kind: "DS", data: ds})
	}
	return p.transaction(replaced)
}

// transaction has orders carried out at once, and returns the serial that the zone has then.
func (p *primary) transaction(orders []order) (serial uint32, err error) {
	c, err := dialControl(p.l.path("primary", "knot.sock"), patience(len(p.known.delegations)))
	if err != nil {
		return 0, err
	}
	defer c.conn.Close()
	orders = slices.Concat([]order{{command: "zone-begin"}}, orders, []order{{command: "zone-commit"}})
	for i := range orders {
		orders[i].zone = origin
	}
	if err := c.does(orders...); err != nil {
		return 0, err
	}
	serial, err = p.serial()
	p.serials[serial] = p.version
	return serial, err
}

// forgoZONEMD has the zone lose its ZONEMD record, and returns the serial from which on it has none.
func (p *primary) forgoZONEMD(tells []string) (serial uint32, err error) {
	if _, err := p.knot(tells, "none").Prepare(); err != nil {
		return 0, err
	}
	c, err := dialControl(p.l.path("primary", "knot.sock"), patience(len(p.known.delegations)))
	if err != nil {
		return 0, err
	}
	defer c.conn.Close()
	if err := c.does(order{command: "reload"}, order{command: "zone-reload", zone: origin}); err != nil {
		return 0, err
	}
	return p.transaction([]order{{command: "zone-unset", owner: origin, kind: "ZONEMD"}})
}

// draw draws names that have a DS record, each once: half of them of those that are watched.
func (p *primary) draw(names int) []string {
	drawn := map[string]bool{}
	for len(drawn) < min(names, len(p.known.secure)) {
		from := p.known.secure
		if len(drawn)%2 == 0 && len(drawn) < len(p.watched) {
			from = p.watched
		}
		drawn[from[p.drawn.IntN(len(from))]] = true
	}
	all := make([]string, 0, len(drawn))
	for name := range drawn {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// marked begins the digests of DS records that a change has made; their version follows.
const marked = 0xfeedbea7

// digestOf is the digest of the DS record that a name has since that version.
func digestOf(name string, version uint32) string {
	digest := sha256.Sum256([]byte(name))
	binary.BigEndian.PutUint32(digest[:], marked)
	binary.BigEndian.PutUint32(digest[4:], version)
	return hex.EncodeToString(digest[:])
}

// versionOf is the version in which a DS record was made, by its digest: 0 for the first.
func versionOf(digest string) uint32 {
	octets, err := hex.DecodeString(digest)
	if err != nil || len(octets) < 8 || binary.BigEndian.Uint32(octets) != marked {
		return 0
	}
	return binary.BigEndian.Uint32(octets[4:])
}

// inForce is the version of a whole name's records in a version of the zone.
func (p *primary) inForce(name string, version uint32) uint32 {
	if name == releaseName {
		return version
	}
	all := p.changed[name]
	i, found := slices.BinarySearch(all, version)
	switch {
	case found:
		return version
	case i == 0:
		return 0
	}
	return all[i-1]
}
