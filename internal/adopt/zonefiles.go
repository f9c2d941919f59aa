package adopt

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"

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

// maxZoneFile bounds a zone file that is copied as it is.
const maxZoneFile = 1 << 30

// Copy is the zone's file as it can lie in a directory of zone files: its name, and its text. That is the file as it is, or, where
// that would be read otherwise there, the zone as canonical text, and why.
func (z Zone) Copy() (name string, text []byte, why string, err error) {
	read, found, err := zonefile.ReadFile(z.File, zonefile.Options{Origin: z.Name})
	if err != nil {
		return "", nil, "", err
	}
	if read == nil {
		return "", nil, "", fmt.Errorf("%s", faults(z.Name, found))
	}
	name = strings.TrimSuffix(z.Name, ".") + ".zone"
	plain := strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == "" && name[0] != '.' && len(name) < 200
	if !plain {
		name = fmt.Sprintf("%x.zone", z.Name)
		name = name[:min(len(name), 100)] // the origin is in the text
	}
	var canonical bytes.Buffer
	if err := zonefile.Write(&canonical, read); err != nil {
		return "", nil, "", err
	}
	if info, err := os.Stat(z.File); plain && err == nil && info.Size() <= maxZoneFile {
		text, err := os.ReadFile(z.File)
		if err != nil {
			return "", nil, "", err
		}
		again, _ := zonefile.Parse(bytes.NewReader(text), zonefile.Options{Name: filepath.Base(name)})
		var same bytes.Buffer
		if again != nil && zonefile.Write(&same, again) == nil && bytes.Equal(same.Bytes(), canonical.Bytes()) {
			return name, text, "", nil
		}
	}
	return name, canonical.Bytes(), "written out with absolute names, since the file alone is not the zone: it includes others, or says no origin", nil
}
