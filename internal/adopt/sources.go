package adopt

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Places are where the distribution host keeps what a plan makes.
type Places struct {
	Zones string // directory of zone files that are copied
	Keys  string // directory of secrets
}

// KeyFile is the name of the file of a key's secret, another one for each key.
func (k Key) KeyFile() string {
	var b strings.Builder
	for _, c := range []byte(strings.TrimSuffix(k.Name, ".")) {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.' {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02x", c)
		}
	}
	return b.String() + ".key"
}

// Sources is the section "sources" of meshctl.yaml, without the secrets of keys.
func (p *Plan) Sources(at Places) string {
	var b strings.Builder
	b.WriteString("sources:\n")
	section := func(name string, n int) {
		if n > 0 {
			fmt.Fprintf(&b, "  %s:\n", name)
		}
	}
	section("keys", len(p.Keys))
	for _, k := range p.Keys {
		fmt.Fprintf(&b, "    - {name: %q, algorithm: %s, secret_file: %q}\n", k.Name, k.Algorithm, filepath.Join(at.Keys, k.KeyFile()))
	}
	section("primaries", len(p.Primaries))
	for _, l := range p.Primaries {
		fmt.Fprintf(&b, "    - name: %q\n      servers:\n", l.Name)
		for _, s := range l.Servers {
			with := "no_key: true" // nothing says who it is that answers
			if s.Key != "" {
				with = fmt.Sprintf("key: %q", s.Key)
			}
			fmt.Fprintf(&b, "        - {address: %q, %s}\n", s.Address, with)
		}
	}
	p.zones(&b)
	section("catalogs", len(p.Catalogs))
	for _, c := range p.Catalogs {
		fmt.Fprintf(&b, "    - {name: %q, primaries: %q", c.Name, c.Primaries)
		if len(c.Below) > 0 {
			fmt.Fprintf(&b, ", below: [%s]", strings.Join(quoted(c.Below), ", "))
		}
		b.WriteString("}\n")
	}
	copied := slices.ContainsFunc(p.Zones, func(z Zone) bool { return z.File != "" })
	if copied || len(p.Directories) > 0 {
		b.WriteString("  directories:\n")
	}
	if copied {
		fmt.Fprintf(&b, "    - {path: %q}\n", at.Zones)
	}
	for _, d := range p.Directories {
		deleted := ""
		if d.Withdraw {
			deleted = ", deleted: withdraw"
		}
		fmt.Fprintf(&b, "    - {path: %q, pattern: %q, origin: name%s}\n", d.Path, d.Pattern, deleted)
	}
	return b.String()
}

// zones writes the zones that come from primaries, by their primaries.
func (p *Plan) zones(b *strings.Builder) {
	said := false
	for _, l := range p.Primaries {
		var names []string
		for _, z := range p.Zones {
			if z.Primaries == l.Name {
				names = append(names, z.Name)
			}
		}
		if len(names) == 0 {
			continue
		}
		if !said {
			b.WriteString("  zones:\n")
			said = true
		}
		fmt.Fprintf(b, "    - primaries: %q\n      names:\n", l.Name)
		for _, name := range quoted(names) {
			fmt.Fprintf(b, "        - %s\n", name)
		}
	}
}

func quoted(words []string) (all []string) {
	for _, w := range words {
		all = append(all, strconv.Quote(w))
	}
	return all
}
