package release

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestManifestEncodingIsCanonical(t *testing.T) {
	m := testManifest(testRelease(7, testNow), testProposed(8, testNow.Add(time.Hour)))
	data, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseManifest(data, nil)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := got.Encode(); !bytes.Equal(again, data) {
		t.Fatalf("%s\n%s", data, again)
	}
	want := `{"format":3,"mesh":"jp","epsilon_ms":100,"current":{"number":7,"switchover":"2026-11-22T10:00:00Z","zones":[{"origin":"example.net.","serial":7,"sha256":"`
	if !strings.HasPrefix(string(data), want) {
		t.Fatalf("got %s", data)
	}
}

// The formats before are still read, as the versions before wrote them: nodes are upgraded before their distribution host. What was
// read is written as it was.
func TestFormatsBeforeAreRead(t *testing.T) {
	for format := OldFormat; format < ManifestFormat; format++ {
		data, err := os.ReadFile(fmt.Sprintf("testdata/manifest-%d.json", format))
		if err != nil {
			t.Fatal(err)
		}
		m, err := ParseManifest(data, nil)
		if err != nil {
			t.Fatal(format, err)
		}
		if z := m.Next.Zones[0]; m.Format != format || z.Blob.Length != 11876 || z.Deltas[0].Blob.Length != 402 || z.Root != (Digest{}) {
			t.Errorf("format %d: %+v", format, m)
		}
		if again, err := m.Encode(); err != nil || !bytes.Equal(again, data) {
			t.Errorf("format %d: %v, %s", format, err, again)
		}
	}
	m := testManifest(testRelease(7, testNow), testRelease(8, testNow.Add(time.Hour)))
	m.Format = OldFormat
	data, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ParseManifest(data, nil); err != nil || got.Format != OldFormat || got.Next.Switchover.IsZero() {
		t.Errorf("%v: %+v", err, got)
	}
}

// What becomes of a switchover changes nothing about the release.
func TestASwitchoverIsNoContent(t *testing.T) {
	r := testProposed(8, testNow)
	r.Committed, r.Presumed, r.Without = true, true, []string{"fra"}
	with, err1 := contentDigest(r.encoded())
	without, err2 := contentDigest(testRelease(8, time.Time{}).encoded())
	if err1 != nil || err2 != nil || with != without {
		t.Error(err1, err2, with, without)
	}
}

func TestParseManifestRefusesOtherEncodings(t *testing.T) {
	data, err := testManifest(testRelease(7, testNow), nil).Encode()
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) string { return strings.Replace(string(data), old, new, 1) }
	for name, text := range map[string]string{
		"no final newline":     strings.TrimSpace(string(data)),
		"empty list":           replace(`}},`, `},"deltas":[]},`),
		"a blank":              replace(`:3,`, `: 3,`),
		"another order":        replace(`{"format":3,"mesh":"jp",`, `{"mesh":"jp","format":3,`),
		"a key twice":          replace(`"mesh":"jp",`, `"mesh":"jp","mesh":"jp",`),
		"upper-case key":       replace(`"mesh"`, `"Mesh"`),
		"unknown field":        replace(`"mesh"`, `"more":1,"mesh"`),
		"escapes":              replace(`"jp"`, `"\u006ap"`),
		"time with offset":     replace(`10:00:00Z`, `10:00:00+00:00`),
		"time with fraction 0": replace(`10:00:00Z`, `10:00:00.000Z`),
		"upper-case digest":    strings.ToUpper(string(data[200:260])) + string(data),
		"null for absent":      replace(`"members"`, `"next":null,"members"`),
		"null list":            replace(string(data[bytes.Index(data, []byte(`"members"`)):]), "\"members\":null}\n"),
		"negative":             replace(`"number":7`, `"number":-7`),
		"half":                 string(data[:len(data)/2]),
		"twice":                string(data) + string(data),
		"nothing":              "",
	} {
		if text == string(data) {
			t.Fatalf("%s: the test changes nothing", name)
		}
		if _, err := ParseManifest([]byte(text), nil); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestValidateNamesTheRule(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*Manifest)
		want   string
	}{
		"format":                  {func(m *Manifest) { m.Format = 4 }, "format 4, this version reads 1 to 3"},
		"format 0":                {func(m *Manifest) { m.Format = 0 }, "format 0"},
		"root in a format before": {func(m *Manifest) { m.Format = 2; m.Next.Zones[1].Root = Digest{1} }, `release 8: zone "example.org.": root, base_root, earlier and packs are of format 3`},
		"packs without a root":    {func(m *Manifest) { m.Next.Zones[1].Packs = []Pack{{}} }, "no root"},
		"packs from the zone itself": {func(m *Manifest) {
			z := &m.Next.Zones[1]
			z.Root, z.Packs = Digest{1}, []Pack{{Digest{1}, 1, Blob{Length: 1}}}
		}, "from the zone itself"},
		"packs from nothing": {func(m *Manifest) {
			z := &m.Next.Zones[1]
			z.Root, z.Packs = Digest{1}, []Pack{{Digest{}, 1, Blob{Length: 1}}}
		}, "or from none"},
		"packs in a circle": {func(m *Manifest) {
			z := &m.Next.Zones[1]
			z.Root, z.Packs = Digest{1}, []Pack{{Digest{2}, 1, Blob{Length: 1}}, {Digest{2}, 1, Blob{Length: 1}}}
		}, "two packs from 02"},
		"a pack that bursts": {func(m *Manifest) {
			z := &m.Next.Zones[1]
			z.Root, z.Packs = Digest{1}, []Pack{{Digest{2}, MaxPackBytes + 1, Blob{Length: 1}}}
		}, "a pack's length 67108865"},
		"a pack as long as the zone": {func(m *Manifest) {
			z := &m.Next.Zones[1]
			z.Root, z.Packs = Digest{1}, []Pack{{Digest{2}, 1, Blob{Length: z.Blob.Length}}}
		}, "less than the zone's 7"},
		"a base without a root": {func(m *Manifest) { m.Next.Zones[1].BaseRoot = Digest{1} }, "no root"},
		"a base in a format before": {func(m *Manifest) {
			m.Format = 2
			z := &m.Next.Zones[1]
			z.Root, z.BaseRoot, z.Packs = Digest{1}, Digest{2}, []Pack{{Digest{2}, 1, Blob{Length: 1}}}
		}, "are of format 3"},
		"earlier packs in a format before": {func(m *Manifest) {
			m.Format = 2
			z := &m.Next.Zones[1]
			z.Root, z.Earlier, z.Packs = Digest{1}, Blob{Length: 1}, []Pack{{Digest{2}, 1, Blob{Length: 1}}}
		}, "are of format 3"},
		"the zone as its base": {func(m *Manifest) {
			z := &m.Next.Zones[1]
			z.Root, z.BaseRoot, z.Packs = Digest{1}, Digest{1}, []Pack{{Digest{2}, 1, Blob{Length: 1}}}
		}, "the zone itself"},
		"no pack from the base": {func(m *Manifest) {
			z := &m.Next.Zones[1]
			z.Root, z.BaseRoot, z.Packs = Digest{1}, Digest{3}, []Pack{{Digest{2}, 1, Blob{Length: 1}}}
		}, "no pack from the base 03"},
		"a base and no packs": {func(m *Manifest) { z := &m.Next.Zones[1]; z.Root, z.BaseRoot = Digest{1}, Digest{3} }, "no pack from the base 03"},
		"earlier packs alone": {func(m *Manifest) { z := &m.Next.Zones[1]; z.Root, z.Earlier = Digest{1}, Blob{Length: 1} }, "that there are none of"},
		"earlier packs in too large a file": {func(m *Manifest) {
			z := &m.Next.Zones[1]
			z.Root, z.Earlier, z.Packs = Digest{1}, Blob{Length: 1 << 20}, []Pack{{Digest{2}, 1, Blob{Length: 1}}}
		}, "the length 1048576 of the file of earlier packs must be 1 to"},
		"a delta to another text": {func(m *Manifest) {
			z := &m.Next.Zones[1]
			z.Root, z.BaseRoot, z.Packs = Digest{1}, Digest{2}, []Pack{{Digest{2}, 1, Blob{Length: 1}}}
			z.Deltas = []Delta{{Digest{1}, Blob{Length: 1}}}
		}, "not the zone's own"},
		"too many packs":            {func(m *Manifest) { m.Next.Zones[1].Packs = make([]Pack, MaxPacks+1) }, "33 packs, more than 32"},
		"mesh":                      {func(m *Manifest) { m.Mesh = "J P" }, "mesh"},
		"epsilon":                   {func(m *Manifest) { m.EpsilonMS = 0 }, "epsilon_ms 0"},
		"number 0":                  {func(m *Manifest) { m.Current.Number = 0 }, "1 or more"},
		"current is committed":      {func(m *Manifest) { m.Current.Committed = true }, "of a next release"},
		"current is presumed":       {func(m *Manifest) { m.Current.Presumed = true }, "of a next release"},
		"presumed, not committed":   {func(m *Manifest) { *m.Next = *testProposed(8, testNow.Add(1e9)); m.Next.Presumed = true }, "that is committed"},
		"committed without instant": {func(m *Manifest) { m.Next.Committed = true }, "of a next release"},
		"old format and committed":  {func(m *Manifest) { m.Format = 1; *m.Next = *testProposed(8, testNow.Add(1e9)) }, "of a next release"},
		"proposed without decide":   {func(m *Manifest) { m.Next.Switchover = testNow.Add(1e9) }, "decide"},
		"decide after switchover":   {func(m *Manifest) { *m.Next = *testProposed(8, testNow.Add(1e9)); m.Next.Decide = testNow.Add(1e9) }, "before the switchover"},
		"without a stranger":        {func(m *Manifest) { *m.Next = *testProposed(8, testNow.Add(1e9)); m.Next.Without = []string{"x"} }, "is no member"},
		"without one twice": {func(m *Manifest) {
			*m.Next = *testProposed(8, testNow.Add(1e9))
			n := m.Members[0].Name
			m.Next.Without = []string{n, n}
		}, "each once"},
		"next not above":             {func(m *Manifest) { m.Next.Number = 7 }, "above the current"},
		"current without switchover": {func(m *Manifest) { m.Current.Switchover = time.Time{} }, "missing"},
		"next before current":        {func(m *Manifest) { m.Next.Switchover = testNow }, "must come after"},
		"nanoseconds":                {func(m *Manifest) { m.Current.Switchover = testNow.Add(1) }, "microseconds"},
		"not UTC":                    {func(m *Manifest) { m.Current.Switchover = testNow.In(time.FixedZone("", 3600)) }, "UTC"},
		"far future":                 {func(m *Manifest) { m.Current.Switchover = testNow.AddDate(500, 0, 0) }, "2200"},
		"zones not sorted":           {func(m *Manifest) { z := m.Current.Zones; z[0], z[1] = z[1], z[0] }, "sorted by origin"},
		"zone twice":                 {func(m *Manifest) { m.Current.Zones[1] = m.Current.Zones[0] }, "sorted by origin"},
		"zone without dot":           {func(m *Manifest) { m.Current.Zones[0].Origin = "example.net" }, "final dot"},
		"zone in upper case":         {func(m *Manifest) { m.Current.Zones[0].Origin = "A." }, "lower-case"},
		"zone with an empty label":   {func(m *Manifest) { m.Current.Zones[0].Origin = "a..b." }, "domain name"},
		"empty zone":                 {func(m *Manifest) { m.Current.Zones[0].Length = 0 }, "length 0"},
		"zone too long":              {func(m *Manifest) { m.Current.Zones[0].Length = MaxZoneBytes + 1 }, "length"},
		"delta from itself":          {func(m *Manifest) { z := &m.Current.Zones[0]; z.Deltas = []Delta{{z.SHA256, Blob{Length: 1}}} }, "from the text itself"},
		"delta twice": {func(m *Manifest) {
			m.Current.Zones[0].Deltas = []Delta{{Digest{1}, Blob{Length: 1}}, {Digest{1}, Blob{Length: 2}}}
		}, "two deltas from 01"},
		"delta as long as the blob": {func(m *Manifest) {
			z := &m.Current.Zones[0]
			z.Deltas = []Delta{{Digest{1}, Blob{Length: z.Blob.Length}}}
		}, "less than the blob's"},
		"empty delta":                 {func(m *Manifest) { m.Current.Zones[0].Deltas = []Delta{{Digest{1}, Blob{}}} }, "delta's length 0"},
		"too many deltas":             {func(m *Manifest) { m.Current.Zones[0].Deltas = make([]Delta, MaxDeltas+1) }, "5 deltas, more than 4"},
		"empty blob":                  {func(m *Manifest) { m.Current.Zones[0].Blob.Length = 0 }, "blob length 0"},
		"too many zones":              {func(m *Manifest) { m.Next.Zones = make([]Zone, MaxZones+1) }, "more than"},
		"too many members":            {func(m *Manifest) { m.Members = make([]Member, MaxMembers+1) }, "more than"},
		"members not sorted":          {func(m *Manifest) { m.Members[0], m.Members[1] = m.Members[1], m.Members[0] }, "sorted by name"},
		"member's name":               {func(m *Manifest) { m.Members[0].Name = "-a" }, "a name is"},
		"member's key twice":          {func(m *Manifest) { m.Members[0].Keys = make([]Digest, 2) }, "each once"},
		"member's three keys":         {func(m *Manifest) { m.Members[0].Keys = make([]Digest, 3) }, "at most 2 keys"},
		"member's admin not https":    {func(m *Manifest) { m.Members[0].Admin = "http://a:1" }, "https://HOST:PORT"},
		"member's admin without port": {func(m *Manifest) { m.Members[0].Admin = "https://a" }, "https://HOST:PORT"},
		"member's admin on port 0":    {func(m *Manifest) { m.Members[0].Admin = "https://a:0" }, "https://HOST:PORT"},
		"member's admin on no port":   {func(m *Manifest) { m.Members[0].Admin = "https://a:65536" }, "https://HOST:PORT"},
		"member's admin with a path":  {func(m *Manifest) { m.Members[0].Admin = "https://a:1/x" }, "https://HOST:PORT"},
	} {
		m := testManifest(testRelease(7, testNow), testRelease(8, time.Time{}))
		if err := m.Validate(); err != nil {
			t.Fatal(err)
		}
		test.change(&m)
		if err := m.Validate(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: want %q in %v", name, test.want, err)
		}
	}
}

func TestTheRootZoneIsAZone(t *testing.T) {
	for origin, want := range map[string]bool{".": true, "jp.": true, `a\.b.c.`: true, "": false, ".jp.": false, "a b.": false} {
		if validOrigin(origin) != want {
			t.Errorf("%q: want %v", origin, want)
		}
	}
}

// TestReleases yields what is there, the current one first, and the latest is the last of them.
func TestReleases(t *testing.T) {
	one, two := &Release{Number: 1}, &Release{Number: 2, Zones: []Zone{{Origin: "a."}, {Origin: "c."}}}
	for _, c := range []struct {
		current, next *Release
		want          []*Release
	}{{nil, nil, nil}, {one, nil, []*Release{one}}, {nil, two, []*Release{two}}, {one, two, []*Release{one, two}}} {
		m := Manifest{Current: c.current, Next: c.next}
		if got := slices.Collect(m.Releases()); !slices.Equal(got, c.want) {
			t.Errorf("%v and %v: %v", c.current, c.next, got)
		}
		var latest *Release
		if len(c.want) > 0 {
			latest = c.want[len(c.want)-1]
		}
		if got := m.Latest(); got != latest {
			t.Errorf("%v and %v: the latest is %v", c.current, c.next, got)
		}
		for range m.Releases() {
			break // ends there
		}
	}
	if z := two.Zone("c."); z != &two.Zones[1] {
		t.Errorf("c. is %v", z)
	}
	var none *Release
	if two.Zone("b.") != nil || none.Zone("a.") != nil {
		t.Error("a zone that is not there was found")
	}
}
