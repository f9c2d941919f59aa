package receive

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/lab"
	"github.com/coredns-anycast/coredns-anycast/internal/primarytest"
	"github.com/coredns-anycast/coredns-anycast/internal/testca"
	"github.com/coredns-anycast/coredns-anycast/internal/testenv"
	"github.com/coredns-anycast/coredns-anycast/internal/xfr"
)

// following is a configuration of zones from one group of primaries.
func following(notify netip.AddrPort, servers []xfr.Primary, names ...string) *Config {
	c := defaults()
	c.Zones = []Zones{{names, &Group{Name: "hidden", Servers: servers}}}
	c.Limits.Stall = 10 * time.Second
	if notify.IsValid() {
		c.Notify.Listen = []netip.AddrPort{notify}
	}
	return c
}

// status is the status of a zone.
func (r *Receiver) status(t *testing.T, origin string) Status {
	t.Helper()
	for _, s := range r.Zones() {
		if s.Zone == origin {
			return s
		}
	}
	return Status{}
}

// onDisk demands that the text of a zone that was told of be there, and be the zone.
func onDisk(t *testing.T, u Update, want string) {
	t.Helper()
	data, err := os.ReadFile(u.Path)
	if err != nil {
		t.Fatal(err)
	}
	z := primarytest.Parsed(t, u.Origin, string(data))
	primarytest.SameZone(t, z, primarytest.Parsed(t, u.Origin, want))
	if int64(len(data)) != u.Length || z.Len() != u.Records || z.Serial() != u.Serial {
		t.Errorf("%d octets, %d records, serial %d; told %+v", len(data), z.Len(), z.Serial(), u)
	}
}

// A zone is fetched at the start, again as soon as the primary says by NOTIFY that it has changed, and by differences;
// a restart goes on where it was.
func TestFollowsPrimaries(t *testing.T) {
	const origin = "example.org."
	for _, kind := range primarytest.Kinds() {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			text := func(serial uint32) string { return primarytest.ZoneText(origin, serial, 3000, int(serial)) }
			notify := testenv.Local(t)
			d := primarytest.NewServer(t, kind, map[string]string{origin: text(1)}, func(d *primarytest.Server) { d.Notify = notify })
			dir := t.TempDir()
			c := following(notify, []xfr.Primary{primary(d, key256)}, origin)
			r, told, stop := receiver(t, c, dir)
			u := told.next(t)
			if u.How != AXFR || u.Serial != 1 || u.Source != d.Addr.String() || u.Octets == 0 {
				t.Fatalf("%+v", u)
			}
			onDisk(t, u, text(1))
			lab.WaitFor(t, "the next refresh is when the SOA says", func() bool {
				s := r.status(t, origin)
				return !s.Receiving && s.Error == "" && !s.Expired && time.Until(s.Next) > 40*time.Minute
			})
			d.Reload(origin, text(2), 2)
			if u = told.next(t); u.How != IXFR || u.Serial != 2 {
				t.Fatalf("%+v", u)
			}
			onDisk(t, u, text(2))
			stop()
			d.Reload(origin, text(3), 3)
			_, told, _ = receiver(t, c, dir)
			if u = told.next(t); u.How != Kept || u.Serial != 2 || u.SHA256 == "" {
				t.Fatalf("%+v", u)
			}
			if u = told.next(t); u.How != IXFR || u.Serial != 3 {
				t.Fatalf("%+v", u)
			}
			onDisk(t, u, text(3))
		})
	}
}

// A primary that is not there costs nothing: it is said, and asked again.
func TestPrimaryThatIsNotThere(t *testing.T) {
	t.Parallel()
	const origin = "example.org."
	d := primarytest.NewServer(t, "knotd", map[string]string{origin: primarytest.ZoneText(origin, 7, 100, 0)})
	d.Process.Kill()
	dir := t.TempDir()
	config := following(netip.AddrPort{}, []xfr.Primary{primary(d, key256)}, origin)
	config.Timers.MinRetry, config.Timers.MaxRetry, config.Timers.MinRefresh = 100*time.Millisecond, 100*time.Millisecond, 100*time.Millisecond
	r, told, _ := receiver(t, config, dir)
	lab.WaitFor(t, "it is said that the primary is not there", func() bool { return strings.Contains(r.status(t, origin).Error, "refused") })
	d.Start() // and comes back
	if u := told.next(t); u.Serial != 7 {
		t.Errorf("%+v", u)
	}
}

// A serial that goes backwards is said, and not taken, unless the zone is to begin anew; another primary is asked meanwhile.
func TestSerialThatGoesBackwards(t *testing.T) {
	t.Parallel()
	const origin = "example.org."
	d := primarytest.NewServer(t, "nsd", map[string]string{origin: primarytest.ZoneText(origin, 10, 10, 0)})
	dir := t.TempDir()
	c := following(netip.AddrPort{}, []xfr.Primary{primary(d, key256)}, origin)
	if told := round(t, c, dir, RefreshOptions{}); len(told.updates) != 1 || told.updates[0].Serial != 10 {
		t.Fatalf("%+v", told)
	}
	d.Process.Stop()
	d.Write(origin, primarytest.ZoneText(origin, 9, 10, 0))
	d.Start()
	told := round(t, c, dir, RefreshOptions{})
	if len(told.updates) != 1 || told.updates[0].How != Kept || !strings.Contains(told.zones[0].Error, "serial 9 is not above 10") || *told.zones[0].Serial != 10 {
		t.Fatalf("%+v", told)
	}
	other := primarytest.NewServer(t, "nsd", map[string]string{origin: primarytest.ZoneText(origin, 11, 10, 0)})
	both := following(netip.AddrPort{}, []xfr.Primary{primary(d, key256), primary(other, key256)}, origin)
	told = round(t, both, dir, RefreshOptions{})
	if len(told.updates) != 2 || told.updates[1].Serial != 11 || !strings.Contains(told.zones[0].Warning, "serial 9") || told.zones[0].Error != "" {
		t.Fatalf("%+v", told)
	}
	told = round(t, c, dir, RefreshOptions{Reset: []string{origin}})
	if len(told.updates) != 1 || told.updates[0].Serial != 9 || !told.updates[0].Reset {
		t.Fatalf("%+v", told)
	}
}

// rounded is what a Refresh gave.
type rounded struct {
	updates []Update
	zones   []Status
	faults  map[Fault]string
}

func round(t *testing.T, c *Config, dir string, o RefreshOptions) (got rounded) {
	t.Helper()
	return roundAt(t, c, dir, o, time.Now)
}

func roundAt(t *testing.T, c *Config, dir string, o RefreshOptions, now func() time.Time) (got rounded) {
	t.Helper()
	var r *Receiver
	r, err := New(c, Options{Zones: filepath.Join(dir, "zones"), State: filepath.Join(dir, "state"), Now: now, Updated: func(u Update) {
		if got.updates = append(got.updates, u); u.How == Withdrawn {
			r.Forget(u.Origin) // as if there were a release without it
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := r.Refresh(ctx, o); err != nil || ctx.Err() != nil {
		t.Fatal(err, ctx.Err())
	}
	got.zones, got.faults = r.Zones(), r.Faults()
	return got
}

// A zone that no primary confirms for as long as its SOA says expires by wall time, over restarts; it is said, and what
// is held stays. A primary that comes back ends that.
func TestExpiry(t *testing.T) {
	t.Parallel()
	const origin = "example.org."
	d := primarytest.NewServer(t, "nsd", map[string]string{origin: primarytest.ZoneText(origin, 1, 10, 0)})
	dir := t.TempDir()
	c := following(netip.AddrPort{}, []xfr.Primary{{Address: d.Addr, Key: key256}}, origin)
	at := func(later time.Duration) func() time.Time { return func() time.Time { return time.Now().Add(later) } }
	round(t, c, dir, RefreshOptions{})
	d.Process.Stop()
	const expire = 1209600 * time.Second
	if s := roundAt(t, c, dir, RefreshOptions{}, at(expire-time.Minute)).zones[0]; s.Expired || s.Error == "" {
		t.Errorf("before its time: %+v", s)
	}
	s := roundAt(t, c, dir, RefreshOptions{}, at(expire)).zones[0]
	if !s.Expired || s.Serial == nil {
		t.Errorf("at its time: %+v", s)
	}
	if _, err := os.Stat(filepath.Join(dir, "zones", "example.org.zone")); err != nil {
		t.Error(err)
	}
	d.Start()
	if s := round(t, c, dir, RefreshOptions{}).zones[0]; s.Expired || s.Error != "" {
		t.Errorf("confirmed again: %+v", s)
	}
}

// What is on disk counts only if it is what was written: otherwise the zone is fetched anew.
func TestDamagedStore(t *testing.T) {
	t.Parallel()
	const origin = "example.org."
	d := primarytest.NewServer(t, "knotd", map[string]string{origin: primarytest.ZoneText(origin, 1, 100, 0)})
	for name, damage := range map[string]func(zone, record string) error{
		"another octet": func(zone, _ string) error { return flip(zone) },
		"cut":           func(zone, _ string) error { return os.Truncate(zone, 100) },
		"zone gone":     func(zone, _ string) error { return os.Remove(zone) },
		"record gone":   func(_, record string) error { return os.Remove(record) },
		"record cut":    func(_, record string) error { return os.Truncate(record, 20) },
		"left by a crash": func(zone, _ string) error {
			return os.WriteFile(filepath.Join(filepath.Dir(zone), tempPrefix+"1"), []byte("x"), 0o600)
		},
	} {
		dir := t.TempDir()
		c := following(netip.AddrPort{}, []xfr.Primary{primary(d, key256)}, origin)
		serial := uint32(0)
		if err := dnsSerial(d, origin, &serial); err != nil {
			t.Fatal(err)
		}
		first := round(t, c, dir, RefreshOptions{})
		path := filepath.Join(dir, "zones", "example.org.zone")
		if err := damage(path, filepath.Join(dir, "state", "example.org.json")); err != nil {
			t.Fatal(err)
		}
		d.Reload(origin, primarytest.ZoneText(origin, serial+1, 100, int(serial)), serial+1)
		told := round(t, c, dir, RefreshOptions{})
		last := told.updates[len(told.updates)-1]
		if last.Serial != serial+1 || told.zones[0].Error != "" {
			t.Errorf("%s: %+v after %+v", name, told, first)
		}
		if want := map[bool]How{true: IXFR, false: AXFR}[name == "left by a crash"]; last.How != want {
			t.Errorf("%s: came by %s, want %s", name, last.How, want)
		}
		onDisk(t, last, primarytest.ZoneText(origin, serial+1, 100, int(serial)))
		if left, _ := filepath.Glob(filepath.Join(dir, "*", tempPrefix+"*")); len(left) > 0 {
			t.Errorf("%s: left %v", name, left)
		}
	}
}

func flip(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	at := len(data) - 3
	data[at] ^= 1
	return os.WriteFile(path, data, 0o644)
}

func dnsSerial(d *primarytest.Server, origin string, serial *uint32) error {
	m, err := dns.Exchange(new(dns.Msg).SetQuestion(origin, dns.TypeSOA), d.Addr.String())
	if err != nil {
		return err
	}
	*serial = m.Answer[0].(*dns.SOA).Serial
	return nil
}

// Two Receivers on one store are one too many.
func TestSecondReceiverIsRefused(t *testing.T) {
	dir := t.TempDir()
	c := following(netip.AddrPort{}, []xfr.Primary{{Address: testenv.Local(t)}}, "example.org.")
	r, _, _ := receiver(t, c, dir)
	lab.WaitFor(t, "the first one runs", func() bool { return len(r.Zones()) == 1 })
	second, err := New(c, Options{Zones: filepath.Join(dir, "zones"), State: filepath.Join(dir, "state")})
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Run(t.Context()); err == nil {
		t.Error("it runs")
	}
}

func catalogText(serial int, version string, members ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "$ORIGIN catalog.test.\n$TTL 0\n@ SOA invalid. invalid. %d 60 60 3600 0\n@ NS invalid.\nversion TXT %q\n", serial, version)
	for _, m := range members {
		b.WriteString(m + "\n")
	}
	return b.String()
}

// Members of a catalog that Knot makes by itself, and of one that BIND has as a file, are followed, come and go with it;
// a broken one changes nothing, and one that lost most of its members neither.
func TestCatalogOfBIND(t *testing.T) {
	t.Parallel()
	c := newCatalogOfBIND(t)
	c.restarts(AXFR)
	c.membersComeAndGo()
	c.brokenCatalog()
	c.tooManyGone()
	c.anotherLabel()
	c.restarts(Kept)
}

// catalogOfBIND is a catalog zone with some of twelve zones that named has, and who receives these.
type catalogOfBIND struct {
	t      *testing.T
	named  *primarytest.Server
	config *Config
	dir    string
	serial int

	r    *Receiver
	told updates
	stop func()
}

func newCatalogOfBIND(t *testing.T) *catalogOfBIND {
	zones := map[string]string{}
	for i := range 12 {
		origin := fmt.Sprintf("m%d.test.", i)
		zones[origin] = primarytest.ZoneText(origin, 1, 3, 0)
	}
	c := &catalogOfBIND{t: t, config: defaults(), dir: t.TempDir(), serial: 1, stop: func() {}}
	zones["catalog.test."] = catalogText(1, "2", c.members("0 1 2 3 4 5 6 7 8 9 10")...)
	notify := testenv.Local(t)
	c.named = primarytest.NewServer(t, "named", zones, func(d *primarytest.Server) { d.Notify = notify })
	group := &Group{Name: "hidden", Servers: []xfr.Primary{primary(c.named, key256)}}
	c.config.Notify.Listen = []netip.AddrPort{notify}
	c.config.Catalogs = []Catalog{{Name: "catalog.test.", Primaries: group, Members: group, Limit: 10}}
	return c
}

// members are records of a catalog, by the labels of members.
func (c *catalogOfBIND) members(labels string) (records []string) {
	for _, label := range strings.Fields(labels) {
		records = append(records, fmt.Sprintf("%s.zones PTR m%s.test.", label, strings.TrimPrefix(label, "other")))
	}
	return records
}

// becomes gives the catalog other members.
func (c *catalogOfBIND) becomes(version, labels string) {
	c.t.Helper()
	c.serial++
	c.named.Reload("catalog.test.", catalogText(c.serial, version, c.members(labels)...), uint32(c.serial))
}

// restarts ends who receives, starts it anew, and waits until it has all eleven members.
func (c *catalogOfBIND) restarts(how How) {
	c.t.Helper()
	c.stop()
	c.r, c.told, c.stop = receiver(c.t, c.config, c.dir)
	for range 11 {
		if u := c.told.next(c.t); u.How != how {
			c.t.Errorf("want %v: %+v", how, u)
		}
	}
	lab.WaitFor(c.t, "all members are there", func() bool { return c.had() == 11 })
}

// had is how many members are there.
func (c *catalogOfBIND) had() (count int) {
	for _, s := range c.r.Zones() {
		if s.Serial != nil && !s.Catalog {
			count++
		}
	}
	return count
}

func (c *catalogOfBIND) membersComeAndGo() {
	c.t.Helper()
	c.becomes("2", "0 1 2 3 4 5 6 7 8 9 11")
	seen := map[string]How{}
	for range 2 {
		u := c.told.next(c.t)
		seen[u.Origin] = u.How
	}
	if seen["m10.test."] != Withdrawn || seen["m11.test."] != AXFR {
		c.t.Fatalf("told %v", seen)
	}
	if _, err := os.Stat(filepath.Join(c.dir, "zones", "m10.test.zone")); !errors.Is(err, fs.ErrNotExist) {
		c.t.Errorf("what was withdrawn is there: %v", err)
	}
	c.r.Forget("m10.test.")
}

// brokenCatalog is not processed: the last good one is what holds, also after a restart.
func (c *catalogOfBIND) brokenCatalog() {
	c.t.Helper()
	c.becomes("1", "0")
	said := func() bool {
		return strings.Contains(c.r.status(c.t, "catalog.test.").Error, `broken catalog, not processed: version.catalog.test.: version "1"`)
	}
	lab.WaitFor(c.t, "the catalog is said to be broken", said)
	c.restarts(Kept)
	lab.WaitFor(c.t, "the catalog is said to be broken again", said)
	for _, s := range c.r.Zones() {
		if s.Expires.IsZero() {
			c.t.Errorf("not followed: %+v", s)
		}
	}
}

func (c *catalogOfBIND) tooManyGone() {
	c.t.Helper()
	c.becomes("2", "0 1")
	lab.WaitFor(c.t, "it is said that too many are gone", func() bool {
		return strings.Contains(c.r.Faults()[Fault{Source: "catalog catalog.test.", What: "members"}], "9 of 11 zones are gone at once")
	})
	if c.had() != 11 {
		c.t.Errorf("%+v", c.r.Zones())
	}
}

// anotherLabel is another zone, although its serial is the same.
func (c *catalogOfBIND) anotherLabel() {
	c.t.Helper()
	c.becomes("2", "0 1 2 3 4 5 6 7 8 11 other9")
	if u := c.told.next(c.t); u.Origin != "m9.test." || !u.Reset || u.How != AXFR {
		c.t.Errorf("%+v", u)
	}
	if len(c.r.Faults()) > 0 {
		c.t.Errorf("%v", c.r.Faults())
	}
}

func TestCatalogThatKnotMakes(t *testing.T) {
	t.Parallel()
	zones := map[string]string{"a.test.": primarytest.ZoneText("a.test.", 1, 3, 0), "b.test.": primarytest.ZoneText("b.test.", 1, 3, 0)}
	d := primarytest.NewServer(t, "knotd", zones, func(d *primarytest.Server) { d.Generate = "catalog.test." })
	nowhere := &Group{Name: "nowhere", Servers: []xfr.Primary{{Address: testenv.Local(t)}}}
	group := &Group{Name: "hidden", Servers: []xfr.Primary{primary(d, key256)}}
	c := defaults()
	c.Catalogs = []Catalog{{Name: "catalog.test.", Primaries: group, Members: nowhere, Groups: map[string]*Group{"some": group}, Limit: 10}}
	c.Timers.MinRetry = 100 * time.Millisecond // Knot makes the catalog after its start
	r, told, _ := receiver(t, c, t.TempDir())
	for range 2 {
		if u := told.next(t); u.How != AXFR || u.Serial != 1 {
			t.Errorf("%+v", u)
		}
	}
	if zones := r.Zones(); len(zones) != 3 || !zones[2].Catalog {
		t.Errorf("%+v", zones)
	}
}

// Run ends at once, also in the middle of a transfer, of a handshake and of a file.
func TestRunEndsInTheMiddle(t *testing.T) {
	stuck := make(chan struct{})
	t.Cleanup(func() { close(stuck) })
	f := primarytest.NewFake(t, nil, func(a *primarytest.Request) { a.Send(false, primarytest.First); <-stuck })
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	own := testca.New(t).Identity("x", time.Hour)
	c := following(testenv.Local(t), []xfr.Primary{{Address: f.At}}, "example.org.")
	c.Zones = append(c.Zones, Zones{[]string{"example.net."}, &Group{Servers: []xfr.Primary{{Address: l.Addr().(*net.TCPAddr).AddrPort(), TLS: &xfr.TLS{CA: own.CA}}}}})
	c.Limits.Stall = time.Hour
	z := newZoneDir(t, Directory{})
	z.put("x.zone", primarytest.ZoneText("x.test.", 1, 100_000, 0))
	c.Directories = []Directory{z.d}
	r, _, stop := receiver(t, c, t.TempDir())
	lab.WaitFor(t, "both are under way", func() bool { return r.status(t, "example.org.").Receiving && r.status(t, "example.net.").Receiving })
	began := time.Now()
	stop()
	t.Logf("it took %v", time.Since(began))
}

// Primaries that hang keep nobody else's zones waiting, however many zones they are asked for.
func TestPrimariesThatHangHoldUpOnlyTheirOwn(t *testing.T) {
	t.Parallel()
	var hang []Zones
	for group := range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		z := Zones{Primaries: &Group{Servers: []xfr.Primary{{Address: l.Addr().(*net.TCPAddr).AddrPort()}}}}
		for i := range 100 {
			z.Names = append(z.Names, fmt.Sprintf("a%d.%d.test.", i, group))
		}
		hang = append(hang, z)
	}
	f := primarytest.NewFake(t, nil, func(a *primarytest.Request) {
		a.Send(false, primarytest.First, primarytest.Second, primarytest.Third, primarytest.First)
	})
	c := following(netip.AddrPort{}, []xfr.Primary{{Address: f.At}}, "example.org.")
	c.Zones = append(hang, c.Zones...)
	c.Limits.Stall = time.Hour
	_, told, _ := receiver(t, c, t.TempDir())
	if u := told.next(t); u.Origin != "example.org." || u.Serial != 5 {
		t.Errorf("%+v", u)
	}
}

// That a zone was withdrawn is told at each start until somebody says that no release has it: who is told may be killed
// before that. A source that has it again ends it too, and what comes then is told of as new.
func TestWithdrawnIsToldUntilForgotten(t *testing.T) {
	t.Parallel()
	z := newZoneDir(t, Directory{Withdraw: true})
	z.put("a.zone", small("a.test.", 5))
	z.put("b.zone", small("b.test.", 5))
	tell := func(forget, want string) {
		t.Helper()
		var told []string
		var r *Receiver
		r, err := New(z.config(), Options{Zones: filepath.Join(z.dir, "zones"), State: filepath.Join(z.dir, "state"), Updated: func(u Update) {
			if told = append(told, string(u.How)+" "+u.Origin); u.Origin == forget {
				r.Forget(u.Origin)
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		if err := r.Refresh(ctx, RefreshOptions{Withdraw: true}); err != nil || ctx.Err() != nil {
			t.Fatal(err, ctx.Err())
		}
		slices.Sort(told)
		if strings.Join(told, ", ") != want {
			t.Errorf("told %q, want %q", told, want)
		}
	}
	tell("", "file a.test., file b.test.")
	z.remove("a.zone", "b.zone")
	tell("", "kept a.test., kept b.test., withdrawn a.test., withdrawn b.test.")
	tell("", "withdrawn a.test., withdrawn b.test.")
	tell("a.test.", "withdrawn a.test., withdrawn b.test.")
	z.put("b.zone", small("b.test.", 4))
	tell("", "file b.test.")
	tell("b.test.", "kept b.test.")
	tell("", "kept b.test.")
}

// A zone whose section is gone from the configuration goes to the one that has it now, with its serial; one that no section
// has stays until an operator says that it goes: the configuration may be another one by mistake (FAIL-4).
func TestConfigurationThatChanges(t *testing.T) {
	t.Parallel()
	zones := map[string]string{"a.test.": small("a.test.", 5), "catalog.test.": catalogText(1, "2", "a.zones PTR a.test.")}
	d := primarytest.NewServer(t, "named", zones)
	group := &Group{Servers: []xfr.Primary{primary(d, key256)}}
	z := newZoneDir(t, Directory{})
	for _, name := range []string{"a", "b", "c"} {
		z.put(name+".zone", small(name+".test.", 5))
	}
	if got := round(t, z.config(), z.dir, RefreshOptions{}); len(got.updates) != 3 {
		t.Fatalf("%+v", got)
	}
	moved := newZoneDir(t, Directory{})
	moved.put("b.zone", small("b.test.", 4))
	c := moved.config()
	c.Catalogs = []Catalog{{Name: "catalog.test.", Primaries: group, Members: group, Limit: 10}}
	tell := func(want string, withdraw ...bool) rounded {
		t.Helper()
		got := round(t, c, z.dir, RefreshOptions{Withdraw: len(withdraw) > 0})
		var told []string
		for _, u := range got.updates {
			told = append(told, string(u.How)+" "+u.Origin)
		}
		if strings.Join(told, ", ") != want {
			t.Errorf("told %q, want %q", told, want)
		}
		return got
	}
	got := tell("kept a.test., kept b.test., kept c.test.", true) // as long as something is wrong, it might have them
	if faults := fmt.Sprint(got.faults); len(got.faults) != 2 || !strings.Contains(faults, "not configured any more") || !strings.Contains(faults, "serial 4 is not above 5") {
		t.Error(faults)
	}
	moved.put("b.zone", small("b.test.", 6))
	got = tell("kept a.test., kept b.test., kept c.test., file b.test.")
	if want := "its zones are kept, and meshctl receive --withdraw withdraws them: c.test."; got.faults[Fault{Source: "directory " + z.d.Path, What: "not configured any more"}] != want {
		t.Errorf("%v, want %q", got.faults, want)
	}
	got = tell("kept a.test., kept b.test., kept c.test., withdrawn c.test.", true)
	for _, s := range got.zones {
		if s.Zone == "a.test." && (s.Source != "catalog catalog.test." || s.Error != "") {
			t.Errorf("%+v", s)
		}
	}

	// What was a catalog is one no more, and the other way round.
	c = following(netip.AddrPort{}, group.Servers, "catalog.test.")
	tell("kept a.test., kept b.test., axfr catalog.test.")
	tell("kept a.test., kept b.test., kept catalog.test., withdrawn a.test., withdrawn b.test.", true)
	c = defaults()
	c.Catalogs = []Catalog{{Name: "catalog.test.", Primaries: group, Members: group, Limit: 10}}
	tell("withdrawn catalog.test., axfr a.test.")
	if left, _ := filepath.Glob(filepath.Join(z.dir, "zones", "*")); len(left) != 1 {
		t.Errorf("zones has %v", left)
	}
}
