package receive

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// daemon is a real name server that is a primary.
type daemon struct {
	t            *testing.T
	kind, binary string
	dir          string
	addr, tls    netip.AddrPort
	notify       netip.AddrPort // where it sends NOTIFY, if anywhere
	zones        map[string]string
	generate     string // catalog that Knot makes of its zones
	process      *lab.Process
}

func newKey(name, algorithm string, secret []byte) *Key {
	return &Key{Name: name, Algorithm: algorithm, secret: secret}
}

var testKeys = map[string]*Key{}

func init() {
	for _, algorithm := range []string{dns.HmacSHA256, dns.HmacSHA384, dns.HmacSHA512, dns.HmacSHA1} {
		name := strings.TrimPrefix(algorithm, "hmac-") + "key."
		testKeys[algorithm] = newKey(name, algorithm, bytes.Repeat([]byte(name[3:]), 8))
	}
	key256 = testKeys[dns.HmacSHA256]
}

var key256 *Key

func kinds() []string { return []string{"knotd", "named", "nsd"} }

// newDaemon starts a server of a kind with zones, given as text by origin, and waits until it has them all.
func newDaemon(t *testing.T, kind string, zones map[string]string, with ...func(*daemon)) *daemon {
	t.Helper()
	d := &daemon{t: t, kind: kind, binary: testenv.Need(t, kind)[0], dir: t.TempDir(), zones: zones, addr: testenv.Local(t)}
	for _, w := range with {
		w(d)
	}
	for origin, text := range zones {
		d.write(origin, text)
	}
	d.start()
	return d
}

// write replaces a zone file by renaming.
func (d *daemon) write(origin, text string) {
	d.t.Helper()
	d.zones[origin] = text
	temp := filepath.Join(d.dir, ".new")
	if err := os.WriteFile(temp, []byte(text), 0o644); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Rename(temp, d.file(origin)); err != nil {
		d.t.Fatal(err)
	}
}

func (d *daemon) file(origin string) string { return filepath.Join(d.dir, fileName(origin)+".zone") }

// reload replaces zones and waits until the server answers with the serial.
func (d *daemon) reload(origin, text string, serial uint32) {
	d.t.Helper()
	if d.kind == "nsd" { // it sees whole seconds
		time.Sleep(time.Until(fileTime(d.file(origin)).Add(1100 * time.Millisecond)))
	}
	d.write(origin, text)
	d.process.Signal(syscall.SIGHUP)
	d.await(origin, serial)
}

func fileTime(path string) time.Time {
	info, err := os.Stat(path)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

func (d *daemon) start() {
	d.t.Helper()
	d.process = lab.Start(d.t, lab.Command{Name: d.kind, Argv: d.server().Argv(d.t, d.binary), Dir: d.dir, Log: filepath.Join(d.dir, "log")})
	d.t.Cleanup(d.process.Stop)
	for origin := range d.zones {
		d.await(origin, 0)
	}
}

// await waits until the server answers for a zone, with the serial if it is not 0.
func (d *daemon) await(origin string, serial uint32) {
	d.t.Helper()
	lab.WaitFor(d.t, fmt.Sprintf("%s has %s serial %d", d.kind, origin, serial), func() bool {
		m, err := dns.Exchange(new(dns.Msg).SetQuestion(origin, dns.TypeSOA), d.addr.String())
		if err != nil || !m.Authoritative || len(m.Answer) == 0 {
			return false
		}
		soa, ok := m.Answer[0].(*dns.SOA)
		return ok && (serial == 0 || soa.Serial == serial)
	})
}

func keyText(k *Key) string { return base64.StdEncoding.EncodeToString(k.secret) }
func bare(s string) string  { return strings.TrimSuffix(s, ".") }

// server is the configuration, with the keys and zones.
func (d *daemon) server() *lab.NameServer {
	s := &lab.NameServer{Kind: d.kind, Dir: d.dir, Listen: []netip.AddrPort{d.addr}}
	for _, k := range testKeys {
		s.Keys = append(s.Keys, lab.TSIG{Name: bare(k.Name), Algorithm: bare(k.Algorithm), Secret: keyText(k)})
	}
	for origin := range d.zones {
		s.Zones = append(s.Zones, lab.ServedZone{Origin: origin, File: d.file(origin)})
	}
	map[string]func(*lab.NameServer){"knotd": d.knot, "named": d.bind, "nsd": d.nsd}[d.kind](s)
	return s
}

func (d *daemon) knot(s *lab.NameServer) {
	var c strings.Builder
	var ids []string
	for _, k := range s.Keys {
		ids = append(ids, k.Name)
	}
	fmt.Fprintf(&c, "acl:\n  - id: xfr\n    key: [%s]\n    action: transfer\n", strings.Join(ids, ", "))
	notify := ""
	if d.notify.IsValid() {
		fmt.Fprintf(&c, "remote:\n  - id: us\n    address: 127.0.0.1@%d\n    key: %s\n", d.notify.Port(), key256.Name)
		notify = "    notify: us\n"
	}
	fmt.Fprintf(&c, "template:\n  - id: default\n    zonefile-sync: -1\n    zonefile-load: difference\n    journal-content: changes\n    acl: xfr\n%s", notify)
	if d.generate != "" {
		fmt.Fprintf(&c, "  - id: member\n    zonefile-sync: -1\n    acl: xfr\n    catalog-role: member\n    catalog-zone: %s\n    catalog-group: some\n%s", d.generate, notify)
		fmt.Fprintf(&c, "  - id: catalog\n    zonefile-sync: -1\n    acl: xfr\n    catalog-role: generate\n%s", notify)
		for i := range s.Zones {
			s.Zones[i].More = "    template: member\n"
		}
		s.Zones = append(s.Zones, lab.ServedZone{Origin: d.generate, File: d.file(d.generate), More: "    template: catalog\n"})
	}
	s.Rest = c.String()
}

func (d *daemon) bind(s *lab.NameServer) {
	var ids []string
	for _, k := range s.Keys {
		ids = append(ids, fmt.Sprintf("key %q;", k.Name))
	}
	s.Options += fmt.Sprintf("  allow-transfer { %s };\n  ixfr-from-differences yes;\n  check-integrity no;\n  check-names primary ignore;\n", strings.Join(ids, " "))
	if d.tls.IsValid() {
		s.Rest = fmt.Sprintf("tls xot { cert-file %q; key-file %q; ca-file %q; protocols { TLSv1.3; }; };\n",
			filepath.Join(d.dir, "server.crt"), filepath.Join(d.dir, "server.key"), filepath.Join(d.dir, "ca.crt"))
		s.Options += fmt.Sprintf("  listen-on port %d tls xot { 127.0.0.1; };\n", d.tls.Port())
	}
	if d.notify.IsValid() {
		s.Options += fmt.Sprintf("  notify explicit;\n  notify-delay 0;\n  also-notify { 127.0.0.1 port %d key %q; };\n", d.notify.Port(), bare(key256.Name))
	} else {
		s.Options += "  notify no;\n"
	}
}

func (d *daemon) nsd(s *lab.NameServer) {
	if d.tls.IsValid() {
		s.Options += fmt.Sprintf("  ip-address: 127.0.0.1@%d\n  tls-port: %d\n  tls-service-key: %q\n  tls-service-pem: %q\n", d.tls.Port(), d.tls.Port(),
			filepath.Join(d.dir, "server.key"), filepath.Join(d.dir, "server.crt"))
	}
	more := "  store-ixfr: yes\n  create-ixfr: yes\n"
	for _, k := range s.Keys {
		more += fmt.Sprintf("  provide-xfr: 127.0.0.1 %s\n", k.Name)
	}
	if d.notify.IsValid() {
		more += fmt.Sprintf("  notify: 127.0.0.1@%d %s\n", d.notify.Port(), bare(key256.Name))
	}
	for i := range s.Zones {
		s.Zones[i].More = more
	}
}

// zoneText makes a zone of a size, with some of the odder types; variant changes some of its records.
func zoneText(origin string, serial uint32, names, variant int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "$ORIGIN %s\n$TTL 300\n@ SOA ns1 host %d 3600 900 1209600 300\n@ NS ns1\n@ NS ns.example.net.\nodd TYPE65280 \\# 4 C0000201\n"+
		"ns1 A 192.0.2.1\n@ MX 10 Mail.Example.NET.\nwww CNAME ns1\nodd CAA 0 issue \"ca.example.net\"\nsvc SVCB 1 ns1 alpn=dot\n", origin, serial)
	for i := range names {
		address := i % 250
		if i%1000 == 7 {
			address = variant % 250
		}
		if i%2500 == 9 && variant > 0 {
			fmt.Fprintf(&b, "v%d-%d TXT \"added\" \"twice\"\n", variant, i)
			continue
		}
		fmt.Fprintf(&b, "host-%d A 192.0.2.%d\n", i, address)
	}
	return b.String()
}

// parsed is the zone of a text.
func parsed(t *testing.T, origin, text string) *zone.Zone {
	t.Helper()
	z, found := zonefile.Parse(strings.NewReader(text), zonefile.Options{Origin: origin})
	if z == nil {
		t.Fatal(found)
	}
	return z
}

// sameZone demands that two zones have equal records.
func sameZone(t *testing.T, got, want *zone.Zone) {
	t.Helper()
	var a, b bytes.Buffer
	if zonefile.Write(&a, got) != nil || zonefile.Write(&b, want) != nil {
		t.Fatal("cannot be written")
	}
	if bytes.Equal(bytes.ToLower(a.Bytes()), bytes.ToLower(b.Bytes())) { // servers may fold the names in RDATA
		return
	}
	t.Errorf("%s: %d records, want %d", got.Origin(), got.Len(), want.Len())
	have := map[string]bool{}
	for _, l := range strings.Split(strings.ToLower(a.String()), "\n") {
		have[l] = true
	}
	shown := 0
	for _, l := range strings.Split(strings.ToLower(b.String()), "\n") {
		if !have[l] && shown < 5 {
			t.Errorf("lacks %s", l)
			shown++
		}
	}
}

var testLimits = Limits{Octets: 1 << 30, Records: 1_000_000, Time: time.Minute, Stall: 5 * time.Second}

func (d *daemon) primary(k *Key) Primary { return Primary{Address: d.addr, Key: k} }

// Every server, every algorithm: whole zones of many messages, however the server signs them, and the differences.
func TestTransfersFromRealServers(t *testing.T) {
	const origin = "example.org."
	names := 20_000
	old := zoneText(origin, 1, names, 0)
	next := zoneText(origin, 2, names, 1)
	before, after := parsed(t, origin, old), parsed(t, origin, next)
	for _, kind := range kinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			d := newDaemon(t, kind, map[string]string{origin: old})
			for algorithm, k := range testKeys {
				got, messages, signed := d.transfer(t, k, nil, nil)
				if got.how != AXFR || got.zone == nil {
					t.Fatalf("%s: %+v", algorithm, got)
				}
				sameZone(t, got.zone, before)
				t.Logf("%s AXFR: %d messages, %d of them signed, %d octets", algorithm, messages, signed, got.octets)
				if messages < 10 {
					t.Errorf("%d messages: too few for this test", messages)
				}
			}
			d.reload(origin, next, 2)
			for algorithm, k := range testKeys {
				got, messages, signed := d.transfer(t, k, &version{1, before.Len()}, before)
				if got.how != IXFR || got.zone == nil {
					t.Fatalf("%s: %+v", algorithm, got)
				}
				sameZone(t, got.zone, after)
				t.Logf("%s IXFR: %d messages, %d of them signed, %d octets", algorithm, messages, signed, got.octets)
			}
			if got, _, _ := d.transfer(t, key256, &version{2, after.Len()}, after); got.zone != nil {
				t.Errorf("asked from the newest serial on, it gave %+v", got)
			}
			wrong := newKey(key256.Name, key256.Algorithm, []byte("not the secret that is agreed on"))
			c := client{testLimits, time.Now, nil}
			if got, err := c.once(t.Context(), d.primary(wrong), nil, origin, nil, nil); err == nil {
				t.Errorf("with a wrong secret: %+v", got)
			} else {
				t.Log("with a wrong secret: ", err)
			}
		})
	}
}

// Differences that the primary makes from a zone that is not the one we have are seen, and the whole zone is asked for.
func TestDoubtfulDifferences(t *testing.T) {
	const origin = "example.org."
	text := func(serial uint32) string { return zoneText(origin, serial, 2000, int(serial)) }
	for _, kind := range kinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			d := newDaemon(t, kind, map[string]string{origin: text(1)})
			d.reload(origin, text(2), 2)
			ours := parsed(t, origin, strings.Replace(text(1), "host-1007 A", "host-1007x A", 1)) // which is to change
			c := client{testLimits, time.Now, nil}
			got, doubt, err := c.transfer(t.Context(), d.primary(key256), nil, origin, &version{1, ours.Len()}, func() (*zone.Zone, error) { return ours, nil })
			if err != nil || !errors.Is(doubt, errDoubt) || got.how != AXFR {
				t.Fatalf("how %q, doubt %v, error %v", got.how, doubt, err)
			}
			sameZone(t, got.zone, parsed(t, origin, text(2)))
		})
	}
}

// transfer is client.once, and counts the messages and those that are signed.
func (d *daemon) transfer(t *testing.T, k *Key, have *version, before *zone.Zone) (got transferred, messages, signed int) {
	t.Helper()
	c := client{testLimits, time.Now, nil}
	counted := &counting{}
	s, err := c.connect(t.Context(), d.primary(k))
	if err != nil {
		t.Fatal(err)
	}
	s.Conn = counted.over(s.Conn)
	s.bind(t.Context())
	got, err = c.once(t.Context(), d.primary(k), s, "example.org.", have, func() (*zone.Zone, error) { return before, nil })
	if err != nil {
		t.Fatal(err)
	}
	messages, signed = counted.count(t)
	return got, messages, signed
}

// counting keeps what is read from a connection.
type counting struct {
	net.Conn
	read bytes.Buffer
}

func (c *counting) over(conn net.Conn) net.Conn { c.Conn = conn; return c }

func (c *counting) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.read.Write(b[:n])
	return n, err
}

func (c *counting) count(t *testing.T) (messages, signed int) {
	for rest := c.read.Bytes(); len(rest) >= 2; {
		n := int(rest[0])<<8 | int(rest[1])
		_, sig, err := splitTSIG(rest[2 : 2+n])
		if err != nil {
			t.Fatal(err)
		}
		messages++
		if sig != nil {
			signed++
		}
		rest = rest[2+n:]
	}
	return messages, signed
}

// updates collects what a Receiver tells.
type updates chan Update

func (u updates) next(t *testing.T) Update {
	t.Helper()
	select {
	case got := <-u:
		return got
	case <-time.After(30 * time.Second):
		t.Fatal("nothing was told within 30 s")
		return Update{}
	}
}

// receiver runs a Receiver until stop.
func receiver(t *testing.T, c *Config, dir string) (r *Receiver, told updates, stop func()) {
	t.Helper()
	told = make(updates, 1000)
	r, err := New(c, Options{Zones: filepath.Join(dir, "zones"), State: filepath.Join(dir, "state"), Updated: func(u Update) { told <- u }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	stop = func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Error(err)
			}
			ended <- nil
		case <-time.After(10 * time.Second):
			t.Error("Run does not end")
		}
	}
	t.Cleanup(stop)
	return r, told, stop
}
