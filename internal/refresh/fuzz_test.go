package refresh

import (
	"strings"
	"testing"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// Whatever a catalog zone has, its members are no more than are allowed, each a zone of its own, or it is broken.
func FuzzCatalog(f *testing.F) {
	head := "$ORIGIN catalog.test.\n@ 0 SOA . . 1 1 1 1 1\n@ 0 NS invalid.\n"
	for _, s := range catalogs {
		f.Add(s.text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		z, _ := zonefile.Parse(strings.NewReader(head+text), zonefile.Options{Origin: "catalog.test.", MaxRecords: 1000})
		if z == nil {
			return
		}
		list, err := Members(z)
		if (list == nil) == (err == nil) {
			t.Fatalf("%v with error %v", list, err)
		}
		for name, m := range list {
			if name == "catalog.test." || !dns.IsFqdn(name) || m.unique == "" {
				t.Fatalf("member %q: %+v", name, m)
			}
		}
	})
}
