package adopt

import (
	"fmt"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// checkFile is what keeps a zone from being read from its file; empty: nothing.
func checkFile(z Zone) string {
	_, found, err := zonefile.ReadFile(z.File, zonefile.Options{Origin: z.Name})
	if err != nil {
		return fmt.Sprintf("zone %s: %s cannot be read: %v", z.Name, z.File, err)
	}
	return faults(z.Name, found)
}

// faults are the errors among findings, of which some are shown.
func faults(name string, found []zone.Finding) string {
	var all []string
	for _, f := range found {
		if f.Severity == zone.Error {
			all = append(all, fmt.Sprintf("%s:%d: %s: %s", f.File, f.Line, f.Rule, f.Detail))
		}
	}
	if len(all) == 0 {
		return ""
	}
	text := fmt.Sprintf("zone %s has %s: %s", name, plural(len(all), "error", "errors"), all[0])
	if len(all) > 1 {
		text += "; meshctl check shows all"
	}
	return text
}
