package xfr

import (
	"bytes"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/primarytest"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// Keys that the servers know, by algorithm.
var testKeys = map[string]*Key{}

func init() {
	for algorithm, k := range primarytest.Keys {
		testKeys[algorithm] = &Key{Name: k.Name, Algorithm: k.Algorithm, Secret: k.Secret}
	}
	key256 = testKeys[dns.HmacSHA256]
}

var key256 *Key

var testLimits = Limits{Octets: 1 << 30, Records: 1_000_000, Time: time.Minute, Stall: 5 * time.Second}

func primary(d *primarytest.Server, k *Key) Primary { return Primary{Address: d.Addr, Key: k} }

// Every server, every algorithm: whole zones of many messages, however the server signs them, and the differences.
func TestTransfersFromRealServers(t *testing.T) {
	const origin = "example.org."
	names := 20_000
	old := primarytest.ZoneText(origin, 1, names, 0)
	next := primarytest.ZoneText(origin, 2, names, 1)
	before, after := primarytest.Parsed(t, origin, old), primarytest.Parsed(t, origin, next)
	for _, kind := range primarytest.Kinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			d := primarytest.NewServer(t, kind, map[string]string{origin: old})
			for algorithm, k := range testKeys {
				got, messages, signed := transferFrom(t, d, k, nil, nil)
				if got.Delta != nil || got.Zone == nil {
					t.Fatalf("%s: %+v", algorithm, got)
				}
				primarytest.SameZone(t, got.Zone, before)
				t.Logf("%s AXFR: %d messages, %d of them signed, %d octets", algorithm, messages, signed, got.Octets)
				if messages < 10 {
					t.Errorf("%d messages: too few for this test", messages)
				}
			}
			d.Reload(origin, next, 2)
			for algorithm, k := range testKeys {
				got, messages, signed := transferFrom(t, d, k, &Version{1, before.Len()}, before)
				if got.Delta == nil || got.Zone == nil {
					t.Fatalf("%s: %+v", algorithm, got)
				}
				primarytest.SameZone(t, got.Zone, after)
				t.Logf("%s IXFR: %d messages, %d of them signed, %d octets", algorithm, messages, signed, got.Octets)
			}
			if got, _, _ := transferFrom(t, d, key256, &Version{2, after.Len()}, after); got.Zone != nil {
				t.Errorf("asked from the newest serial on, it gave %+v", got)
			}
			wrong := &Key{Name: key256.Name, Algorithm: key256.Algorithm, Secret: []byte("not the secret that is agreed on")}
			c := Client{Limits: testLimits, Now: time.Now}
			if got, err := c.once(t.Context(), primary(d, wrong), nil, origin, nil, nil); err == nil {
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
	text := func(serial uint32) string { return primarytest.ZoneText(origin, serial, 2000, int(serial)) }
	for _, kind := range primarytest.Kinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			d := primarytest.NewServer(t, kind, map[string]string{origin: text(1)})
			d.Reload(origin, text(2), 2)
			ours := primarytest.Parsed(t, origin, strings.Replace(text(1), "host-1007 A", "host-1007x A", 1)) // which is to change
			c := Client{Limits: testLimits, Now: time.Now}
			got, doubt, err := c.Transfer(t.Context(), primary(d, key256), nil, origin, &Version{1, ours.Len()}, func() (*zone.Zone, error) { return ours, nil })
			if err != nil || !errors.Is(doubt, errDoubt) || got.Delta != nil {
				t.Fatalf("differences %v, doubt %v, error %v", got.Delta != nil, doubt, err)
			}
			primarytest.SameZone(t, got.Zone, primarytest.Parsed(t, origin, text(2)))
		})
	}
}

// transferFrom is Client.once, and counts the messages and those that are signed.
func transferFrom(t *testing.T, d *primarytest.Server, k *Key, have *Version, before *zone.Zone) (got Transferred, messages, signed int) {
	t.Helper()
	c := Client{Limits: testLimits, Now: time.Now}
	counted := &counting{}
	s, err := c.connect(t.Context(), primary(d, k))
	if err != nil {
		t.Fatal(err)
	}
	s.Conn = counted.over(s.Conn)
	s.bind(t.Context())
	got, err = c.once(t.Context(), primary(d, k), s, "example.org.", have, func() (*zone.Zone, error) { return before, nil })
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

// TestPrimaryIsKilledInTheMiddle: then there is no zone, and an error.
func TestPrimaryIsKilledInTheMiddle(t *testing.T) {
	t.Parallel()
	const origin = "example.org."
	text := primarytest.ZoneText(origin, 7, 100_000, 0)
	d := primarytest.NewServer(t, "knotd", map[string]string{origin: text})
	p := primary(d, key256)
	c := Client{Limits: testLimits, Now: time.Now}
	s, err := c.connect(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	s.bind(t.Context())
	s.Conn = &killing{Conn: s.Conn, after: 500_000, kill: func() { d.Process.Kill() }}
	if got, err := c.once(t.Context(), p, s, origin, nil, nil); err == nil {
		t.Fatalf("%+v", got)
	} else {
		t.Log(err)
	}
}

// killing calls kill once so many octets were read.
type killing struct {
	net.Conn
	after int
	kill  func()
}

func (k *killing) Read(b []byte) (int, error) {
	n, err := k.Conn.Read(b)
	if k.after -= n; k.after <= 0 && k.kill != nil {
		k.kill()
		k.kill = nil
	}
	return n, err
}
