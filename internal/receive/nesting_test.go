package receive

import (
	"bytes"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/primarytest"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/internal/xfr"
)

// TestAZoneBelowAnotherSourcesZone that does not delegate it is said, until that does, or it goes. It is followed all the same.
func TestAZoneBelowAnotherSourcesZone(t *testing.T) {
	t.Parallel()
	above, below := newZoneDir(t, Directory{}), newZoneDir(t, Directory{Withdraw: true})
	c := defaults()
	c.Directories = []Directory{above.d, below.d}
	above.put("org.zone", small("example.org.", 1))
	above.put("own.zone", small("own.example.org.", 1)) // of the same source: its own business
	below.put("sub.zone", small("sub.example.org.", 1))
	below.put("deep.zone", small("a.b.example.org.", 1))
	below.put("other.zone", small("example.net.", 1))
	r, _, stop := receiver(t, c, above.dir)
	says := func(want ...string) func() bool {
		return func() bool {
			var said []string
			for _, s := range r.Zones() {
				if s.Warning == "it lies below zone example.org., which comes from directory "+above.path+" and does not delegate it" {
					said = append(said, s.Zone)
				} else if s.Warning != "" {
					said = append(said, s.Zone+": "+s.Warning)
				}
			}
			return slices.Equal(said, want)
		}
	}
	lab.WaitFor(t, "both are said", says("a.b.example.org.", "sub.example.org."))
	above.put("org.zone", small("example.org.", 2)+"sub NS ns.example.net.\n")
	lab.WaitFor(t, "the one that is delegated is not said any more", says("a.b.example.org."))
	above.put("org.zone", small("example.org.", 3)+"b NS ns.example.net.\n")
	lab.WaitFor(t, "what lies below a delegation is not said", says("sub.example.org."))
	stop()
	r, told, _ := receiver(t, c, above.dir)
	lab.WaitFor(t, "it is said after a restart", says("sub.example.org."))
	below.remove("sub.zone")
	for u := told.next(t); u.How != Withdrawn; u = told.next(t) {
	}
	lab.WaitFor(t, "nothing is said", says())
}

// TestCatalogsKeepToTheirNames: a member outside of what a catalog may list is not followed, and said; one that moves to another catalog
// (RFC 9432 4.4.1) is no fault while the old one still lists it.
func TestCatalogsKeepToTheirNames(t *testing.T) {
	t.Parallel()
	catalog := func(origin string, members ...string) string {
		return strings.Replace(catalogText(1, "2", members...), "$ORIGIN catalog.test.", "$ORIGIN "+origin, 1)
	}
	zones := map[string]string{
		"old.test.": catalog("old.test.", "1.zones PTR in.example.org.", "2.zones PTR out.example.net.", "3.zones PTR moves.example.org.", "coo.3.zones PTR new.test."),
		"new.test.": catalog("new.test.", "9.zones PTR moves.example.org."),
	}
	for _, origin := range []string{"in.example.org.", "out.example.net.", "moves.example.org."} {
		zones[origin] = primarytest.ZoneText(origin, 1, 3, 0)
	}
	d := primarytest.NewServer(t, "named", zones)
	group := &Group{Name: "hidden", Servers: []xfr.Primary{primary(d, key256)}}
	c := defaults()
	c.Catalogs = []Catalog{{Name: "old.test.", Primaries: group, Members: group, Limit: 10, Below: []string{"example.org.", "x."}},
		{Name: "new.test.", Primaries: group, Members: group, Limit: 10}}
	dir := t.TempDir()
	r, told, stop := receiver(t, c, dir)
	got := map[string]bool{}
	for !got["in.example.org."] || !got["moves.example.org."] { // which is told twice, if the old catalog comes first
		got[told.next(t).Origin] = true
	}
	if got["out.example.net."] {
		t.Errorf("received %v", got)
	}
	lab.WaitFor(t, "the member has moved", func() bool { return r.status(t, "moves.example.org.").Source == "catalog new.test." })
	want := map[Fault]string{{Source: "catalog old.test.", What: "out.example.net."}: "the catalog lists a zone that is not below example.org. or x."}
	if faults := r.Faults(); !maps.Equal(faults, want) {
		t.Errorf("%v", faults)
	}
	stop()
	c.Catalogs[0].Below = []string{"elsewhere."} // what it may not list any more goes, as if it did not: the last one by an operator's word
	r, _, stop = receiver(t, c, dir)
	lab.WaitFor(t, "the last zone of a catalog is kept", func() bool {
		return strings.Contains(r.Faults()[Fault{Source: "catalog old.test.", What: "members"}], "1 of 1 zones are gone at once, so nothing is left there")
	})
	stop()
	c.Catalogs[0].Limit = 100
	r, told, _ = receiver(t, c, dir)
	for u := told.next(t); u.How != Withdrawn || u.Origin != "in.example.org."; u = told.next(t) {
	}
}

// TestAPrimaryThatRefusesUDP is asked by TCP, and transferred from.
func TestAPrimaryThatRefusesUDP(t *testing.T) {
	l, udp := testenv.ListenBoth(t)
	t.Cleanup(func() { l.Close(); udp.Close() })
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := udp.ReadFrom(buf)
			if err != nil {
				return
			}
			m := new(dns.Msg)
			if m.Unpack(buf[:n]) == nil {
				wire, _ := m.SetRcode(m, dns.RcodeRefused).Pack()
				udp.WriteTo(wire, from)
			}
		}
	}()
	f := primarytest.FakeAt(t, l, nil, func(a *primarytest.Request) {
		a.Send(false, primarytest.First, primarytest.Second, primarytest.Third, primarytest.First)
	})
	c := following(f.At, nil, "example.org.")
	c.Notify.Listen = nil
	c.Zones[0].Primaries.Servers = []xfr.Primary{{Address: f.At}}
	r, told, _ := receiver(t, c, t.TempDir())
	if u := told.next(t); u.Serial != 5 || u.Records != 3 {
		t.Errorf("%+v", u)
	}
	if s := r.status(t, "example.org."); s.Error != "" || s.Warning != "" {
		t.Errorf("%+v", s)
	}
}

// TestWeakKeysAreSaid, once each, and taken.
func TestWeakKeysAreSaid(t *testing.T) {
	weak := &xfr.Key{Name: "weak.", Algorithm: dns.HmacSHA1, Secret: []byte("a secret of 16 octets")}
	c, err := parseConfig("x", []byte("sources:\n  keys: [{name: weak, algorithm: hmac-sha1, secret: "+goodSecret+"}, {name: good, secret: "+goodSecret+"}]\n"+
		"  primaries: [{name: p, servers: [{address: 192.0.2.1, key: weak}, {address: 192.0.2.2, key: weak}, {address: 192.0.2.3, key: good}]}]\n"+
		"  zones: [{names: [a], primaries: p}]\n  catalogs: [{name: b, primaries: p, below: [c.d]}]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.weakKeys(); !slices.Equal(got, []string{weak.Name}) || !slices.Equal(c.Catalogs[0].Below, []string{"c.d."}) {
		t.Errorf("%v, below %v", got, c.Catalogs[0].Below)
	}
	var log bytes.Buffer
	dir := t.TempDir()
	if _, err := New(c, Options{Zones: filepath.Join(dir, "z"), State: filepath.Join(dir, "s"), Log: slog.New(slog.NewTextHandler(&log, nil))}); err != nil {
		t.Fatal(err)
	}
	if text := log.String(); strings.Count(text, "hmac-sha1 must not be used") != 1 || !strings.Contains(text, "level=WARN") || !strings.Contains(text, "key=weak.") {
		t.Error(text)
	}
}
