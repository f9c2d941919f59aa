package zonefile

import (
	"strings"
	"testing"
	"testing/fstest"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

const relative = "$TTL 300\n@ IN SOA ns mail 1 7200 3600 1209600 300\n@ IN NS ns\nns IN A 192.0.2.1\nwww IN CNAME ns\n"

// TestTheOriginOfRelativeFiles: it is the one that is said, else the one in $ORIGIN, else that of an absolute SOA, else that which the file's name
// gives, which is said.
func TestTheOriginOfRelativeFiles(t *testing.T) {
	for _, c := range []struct {
		origin, name, text, want string
		said                     bool
	}{
		{"example.org.", "db.other.org", relative, "example.org.", false},
		{"", "db.other.org", "$ORIGIN example.org.\n" + relative, "example.org.", false},
		{"", "db.other.org", strings.Replace(relative, "@ IN SOA", "example.org. IN SOA", 1), "example.org.", false},
		{"", "db.example.org", relative, "example.org.", true},
		{"", "zones/Example.ORG.zone", relative, "example.org.", true},
		{"", "example.org", relative, "example.org.", true},
		{"", "example.org", "$ORIGIN sub\n$ORIGIN example.org.\n" + relative, "example.org.", true},
		{"", "example.org", "example.org. 300 IN SOA ns.example.org. mail.example.org. 1 7200 3600 1209600 300\nexample.org. 300 IN NS ns\n", "example.org.", false},
		{"", "db.2.0.192.in-addr.arpa", "$TTL 300\n@ SOA ns.test. mail.test. 1 7200 3600 1209600 300\n@ NS ns.test.\n$GENERATE 1-3 $ PTR h$.test.\n", "2.0.192.in-addr.arpa.", true},
	} {
		z, found := Parse(strings.NewReader(c.text), Options{Origin: c.origin, File: "f", Name: c.name})
		if z == nil {
			t.Errorf("%+v: %v", c, found)
			continue
		}
		said := false
		for _, f := range found {
			if f.Rule == "origin-from-name" {
				said = f.Severity == zone.Warning && strings.Contains(f.Detail, c.want) && !said
			}
		}
		if z.Origin() != c.want || said != c.said {
			t.Errorf("%+v: %s, said %v: %v", c, z.Origin(), said, found)
		}
	}
}

// TestNoOriginIsSaidOnce, and how to give it.
func TestNoOriginIsSaidOnce(t *testing.T) {
	for _, name := range []string{"", "my zone.txt", "a..b", strings.Repeat("x", 64), "-.$", "db."} {
		for _, text := range []string{relative, "$ORIGIN sub\n" + relative, "www.example.org. IN MX 1 mail\n" + relative, "$INCLUDE f sub\n" + relative} {
			z, found := Parse(strings.NewReader(text), Options{File: "f", Name: name})
			if z != nil || len(found) != 1 || !strings.Contains(found[0].Detail, "NAME=FILE") || !strings.Contains(found[0].Detail, "db.NAME") {
				t.Errorf("%q, %q: %v", name, text, found)
			}
		}
	}
}

// TestWithoutTTL: where neither the record nor $TTL says it, what is taken is said once (RFC 2308 4).
func TestWithoutTTL(t *testing.T) {
	for text, want := range map[string]int{
		relative: 0,
		strings.TrimPrefix(relative, "$TTL 300\n"):                                                1,
		strings.Replace(strings.TrimPrefix(relative, "$TTL 300\n"), "@ IN SOA", "@ 60 IN SOA", 1): 1,
	} {
		z, found := Parse(strings.NewReader(text), Options{Origin: "example.org."})
		said := 0
		for _, f := range found {
			if f.Rule == "no-ttl" && f.Severity == zone.Warning {
				said++
			}
		}
		if z == nil || said != want {
			t.Errorf("%q: %v", text, found)
		}
	}
}

// TestAByteOrderMarkIsNoName: an editor may put one before a zone file, or before one that is included. It was the first octets of a
// name, so that another zone was served.
func TestAByteOrderMarkIsNoName(t *testing.T) {
	const origin = "$ORIGIN example.org.\n"
	absolute := strings.Replace(relative, "@ IN SOA", "example.org. IN SOA", 1)
	for _, text := range []string{origin + relative, absolute, "$INCLUDE sub\n" + origin + relative} {
		opts := Options{File: "f", Name: "db.example.org", Parallel: 1, Include: fstest.MapFS{"sub": {Data: []byte(mark + "sub.example.org. 300 IN A 192.0.2.9\n")}}}
		want := outcome(t, strings.NewReader(text), opts)
		for _, opts.Parallel = range []int{1, 3} {
			opts.chunk = 16
			if got := outcome(t, strings.NewReader(mark+text), opts); got != want || !strings.Contains(got, "example.org.\t300\tIN\tSOA") || strings.Contains(got, "239") {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		}
	}
}
