package refresh

import (
	"fmt"
	"maps"
	"reflect"
	"strings"
	"testing"

	"github.com/coredns-anycast/coredns-anycast/internal/primarytest"
)

// catalogs are bodies of a catalog zone, and what they mean: members as ZONE=LABEL, or the rule that is broken.
var catalogs = []struct{ name, text, members, broken string }{
	{"none", "version 0 TXT 2\n", "", ""},
	{"two", "version 0 TXT 2\na.zones 0 PTR a.test.\nb.zones 0 PTR B.test.\n", "a.test.=a b.test.=b", ""},
	{"properties", "version 0 TXT 2\na.zones 0 PTR a.test.\ngroup.a.zones 0 TXT g1\ncoo.a.zones 0 PTR other.test.\n", "a.test.=a,g1>other.test.", ""},
	{"what it does not know", "version 0 TXT 2\na.zones 0 PTR a.test.\na.zones 0 TXT x\nx.a.zones.ext 0 TXT y\nfoo.a.zones 0 A 192.0.2.1\nd.e.f.zones 0 PTR z.test.\nzones 0 PTR z.test.\nb.zones 0 A 192.0.2.1\n", "a.test.=a", ""},
	{"no version", "a.zones 0 PTR a.test.\n", "", "version.catalog.test.: no version (4.3)"},
	{"version 1", "version 0 TXT 1\n", "", `version "1"`},
	{"versions", "version 0 TXT 2\nversion 0 TXT 3\n", "", "want one TXT record"},
	{"a version of two strings", "version 0 TXT 2 2\n", "", "want one TXT record of one string"},
	{"several PTR", "version 0 TXT 2\na.zones 0 PTR a.test.\na.zones 0 PTR b.test.\n", "", "a.zones.catalog.test.: several PTR records at one member (4.1)"},
	{"a member twice", "version 0 TXT 2\na.zones 0 PTR a.test.\nb.zones 0 PTR A.TEST.\n", "", "b.zones.catalog.test.: member a.test. is there twice, as a too (5.1)"},
	{"several coo", "version 0 TXT 2\na.zones 0 PTR a.test.\ncoo.a.zones 0 PTR b.test.\ncoo.a.zones 0 PTR c.test.\n", "", "coo.a.zones.catalog.test.: several PTR"},
	{"itself", "version 0 TXT 2\na.zones 0 PTR @\n", "", "the catalog lists itself"},
}

func TestCatalogs(t *testing.T) {
	for _, c := range catalogs {
		z := primarytest.Parsed(t, "catalog.test.", "$ORIGIN catalog.test.\n@ 0 SOA . . 1 1 1 1 1\n@ 0 NS invalid.\n"+c.text)
		list, err := Members(z)
		if c.broken != "" {
			if err == nil || !strings.Contains(err.Error(), c.broken) {
				t.Errorf("%s: %v, error %v; want %q", c.name, list, err, c.broken)
			}
			continue
		}
		want := map[string]Member{}
		for _, f := range strings.Fields(c.members) {
			name, rest, _ := strings.Cut(f, "=")
			rest, coo, _ := strings.Cut(rest, ">")
			labels := strings.Split(rest, ",")
			m := Member{unique: labels[0], coo: coo}
			m.groups = append(m.groups, labels[1:]...)
			want[name] = m
		}
		if err != nil || !reflect.DeepEqual(list, want) {
			t.Errorf("%s: %+v, error %v; want %+v", c.name, list, err, want)
		}
	}
}

// A catalog whose own name is "zones" has no members at its apex.
func TestCatalogNamedZones(t *testing.T) {
	z := primarytest.Parsed(t, "x.zones.", "$ORIGIN x.zones.\n@ 0 SOA . . 1 1 1 1 1\n@ 0 NS invalid.\n@ 0 PTR a.test.\nversion 0 TXT 2\n")
	if list, err := Members(z); err != nil || len(list) != 0 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestMostMembersOfACatalog(t *testing.T) {
	t.Parallel()
	for _, n := range []int{maxMembers, maxMembers + 1} {
		var b strings.Builder
		b.WriteString("$ORIGIN c.test.\n@ 0 SOA . . 1 1 1 1 1\n@ 0 NS invalid.\nversion 0 TXT 2\n")
		for i := range n {
			fmt.Fprintf(&b, "m%d.zones 0 PTR m%d.test.\n", i, i)
		}
		list, err := Members(primarytest.Parsed(t, "c.test.", b.String()))
		if (err == nil) != (n <= maxMembers) || err == nil && len(list) != n {
			t.Errorf("%d: %d members, error %v", n, len(list), err)
		}
	}
}

// Who follows a zone that several catalogs list (RFC 9432 4.4.1, 5.3).
func TestChangeOfOwnership(t *testing.T) {
	in := func(names ...string) map[string]Member {
		list := map[string]Member{}
		for _, n := range names {
			name, coo, _ := strings.Cut(n, ">")
			list[name] = Member{unique: "u", coo: coo}
		}
		return list
	}
	for _, c := range []struct {
		name         string
		a, b         map[string]Member
		owners, want map[string]string
	}{
		{"new, in both", in("z."), in("z."), nil, map[string]string{"z.": "a."}},
		{"the owner keeps it", in("z."), in("z."), map[string]string{"z.": "b."}, map[string]string{"z.": "b."}},
		{"the owner hands it on", in("z.>b."), in("z."), map[string]string{"z.": "a."}, map[string]string{"z.": "b."}},
		{"to one that does not list it", in("z.>b."), in(), map[string]string{"z.": "a."}, map[string]string{"z.": "a."}},
		{"only the owner's word counts", in("z."), in("z.>b."), map[string]string{"z.": "a."}, map[string]string{"z.": "a."}},
		{"the owner has dropped it", in(), in("z."), map[string]string{"z.": "a."}, map[string]string{"z.": "b."}},
		{"nobody has it any more", in(), in(), map[string]string{"z.": "a."}, map[string]string{}},
	} {
		if got := assign([]listing{{"a.", c.a}, {"b.", c.b}}, c.owners); !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
