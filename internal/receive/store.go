package receive

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/miekg/dns"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/refresh"
	"github.com/coredns-anycast/coredns-anycast/internal/xfr"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
	"github.com/coredns-anycast/coredns-anycast/internal/zonefile"
)

// store keeps what was received: zones as canonical text, NAME.zone, and beside it in another directory what must
// outlive a restart, NAME.json, and what became of a large one since its text was written, NAME.journal. The text is durable before the record that names its digest, so a crash between the two
// leaves a record that does not fit, and the zone is received anew.
type store struct {
	zones, state string
}

// record is what is known of a zone that was received.
type record = refresh.Record

const (
	recordVersion  = 1
	stepsVersion   = 2 // of a record that tells of steps of a journal: who knows of none receives the zone anew
	maxRecordBytes = 1 << 16
	zoneSuffix     = ".zone"
	recordSuffix   = ".json"
	tempPrefix     = ".tmp-"
)

// openStore makes the directories.
func openStore(zones, state string) (*store, error) {
	for _, dir := range []string{zones, state, filepath.Join(state, ordersDir)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
	}
	return &store{zones, state}, nil
}

// sweep removes what a killed writer left. Nobody else may be writing.
func (s *store) sweep() error {
	for _, dir := range []string{s.zones, s.state} {
		left, _ := filepath.Glob(filepath.Join(dir, tempPrefix+"*"))
		for _, name := range left {
			if err := os.Remove(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// fileName is a zone's name as a file's: what is not in host names is written %XX, the root is "@", and what would be
// too long is a digest.
func fileName(origin string) string {
	name := strings.TrimSuffix(origin, ".")
	if name == "" {
		return "@"
	}
	var b strings.Builder
	for i := range len(name) {
		switch c := name[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '_', c == '.' && i > 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	if b.Len() > 200 {
		return fmt.Sprintf("%%%x", sha256.Sum256([]byte(origin)))
	}
	return b.String()
}

// path is where a zone's text is. Catalog zones are no zones to release, and lie apart.
func (s *store) path(origin string, catalog bool) string {
	dir := s.zones
	if catalog {
		dir = s.state
	}
	return filepath.Join(dir, fileName(origin)+zoneSuffix)
}

// put keeps a zone, and fills in what the record says of it. It reports whether the text is another than before.
func (s *store) put(rec *record, z *zone.Zone, before string) (changed bool, err error) {
	timers(rec, z)
	journaled := rec.Journal.Name != ""
	if rec.Journal = (refresh.Journal{}); rec.How != File && !rec.Catalog && z.ImageSize() >= LargeImage {
		rec.Journal = newJournal()
	}
	path := s.path(rec.Origin, rec.Catalog)
	written, err := writeZone(filepath.Dir(path), z)
	if err != nil {
		return false, err
	}
	rec.SHA256, rec.Length = written.sha256, written.length
	if changed = rec.SHA256 != before; changed {
		err = renameDurably(written.temp, path)
	} else {
		err = os.Remove(written.temp)
	}
	if err != nil {
		return false, err
	}
	if err = s.note(*rec); err == nil && journaled {
		err = s.dropJournal(rec.Origin)
	}
	return changed, err
}

// timers takes over what the SOA says.
func timers(rec *record, z *zone.Zone) {
	soa := soaOf(z)
	root := z.Root()
	rec.Serial, rec.Records, rec.Root = z.Serial(), z.Len(), hex.EncodeToString(root[:])
	rec.Refresh, rec.Retry, rec.Expire = soa.Refresh, soa.Retry, soa.Expire
}

// soaOf is the zone's SOA.
func soaOf(z *zone.Zone) *dns.SOA {
	for rr := range z.Records() {
		if soa, ok := rr.(*dns.SOA); ok {
			return soa
		}
		break
	}
	return &dns.SOA{}
}

// note makes a record durable.
func (s *store) note(rec record) error {
	rec.Version = recordVersion
	if rec.Journal.Steps > 0 {
		rec.Version = stepsVersion
	}
	data, err := json.MarshalIndent(rec, "", "  ")
	if err != nil {
		return err
	}
	return depot.WriteFile(s.state, fileName(rec.Origin)+recordSuffix, append(data, '\n'), 0o644)
}

// withdraw drops a zone's text. That it was withdrawn stays on record: a release may have it yet.
func (s *store) withdraw(rec record) error {
	rec.Withdrawn = true
	if err := s.note(rec); err != nil {
		return err
	}
	path := s.path(rec.Origin, rec.Catalog)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.Join(s.dropJournal(rec.Origin), syncDir(filepath.Dir(path)))
}

// forget removes the record of a zone that was withdrawn, if that is what there is.
func (s *store) forget(origin string) error {
	name := fileName(origin) + recordSuffix
	if rec, ok := s.record(name); !ok || !rec.Withdrawn {
		return nil
	}
	if err := os.Remove(filepath.Join(s.state, name)); err != nil {
		return err
	}
	return syncDir(s.state)
}

// remove forgets a zone: its record first, so that a text without one is left at worst.
func (s *store) remove(rec record) error {
	for _, path := range []string{filepath.Join(s.state, fileName(rec.Origin)+recordSuffix), s.path(rec.Origin, rec.Catalog), s.journal(rec.Origin)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := syncDir(filepath.Dir(path)); err != nil {
			return err
		}
	}
	return nil
}

// load reads a zone back, if it is what the record says.
func (s *store) load(rec record) (*zone.Zone, error) {
	z, err := s.loadText(rec)
	if err != nil || rec.Journal.Steps == 0 {
		return z, err
	}
	is, z, err := s.follow(rec, z, rec.Journal.Steps)
	if err == nil && is.Journal != rec.Journal {
		err = fmt.Errorf("%s is not as it was written", s.journal(rec.Origin))
	}
	return z, err
}

// recover brings a record, and the text, to what the journal says: nothing is left in that then. The zone is nil if nothing was in it. It is
// false if less is there than the record tells of.
func (s *store) recover(rec *record) (*zone.Zone, bool, error) {
	if rec.Journal.Name == "" || rec.Withdrawn {
		return nil, true, nil
	}
	text := *rec
	text.Journal = refresh.Journal{Name: rec.Journal.Name}
	if rest, err := s.readJournal(rec.Origin); err == nil && rec.Journal.Steps == 0 {
		if _, _, err := nextStep(text, rest); err != nil {
			return nil, true, nil // as after each text
		}
	}
	z, err := s.loadText(text)
	if err != nil {
		return nil, false, nil
	}
	is, z, err := s.follow(text, z, 0)
	if err != nil || is.Journal.Steps < rec.Journal.Steps {
		return nil, false, nil
	}
	if is.Journal != rec.Journal {
		*rec = is // the record was not written since, and else says when it was confirmed
	}
	_, err = s.put(rec, z, "")
	return z, true, err
}

// loadText reads the text of a zone back, if it is what the record says.
func (s *store) loadText(rec record) (*zone.Zone, error) {
	path := s.path(rec.Origin, rec.Catalog)
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sum := sha256.New()
	z, found := zonefile.Parse(io.TeeReader(f, sum), zonefile.Options{Origin: rec.Origin, File: path})
	if hex.EncodeToString(sum.Sum(nil)) != rec.SHA256 {
		return nil, fmt.Errorf("%s is not as it was written", path)
	}
	if z == nil {
		return nil, &xfr.RefusedError{Found: found, File: path}
	}
	return z, nil
}

// Follows says of which section of the configuration a zone is received, and from which file or primary, by what a Receiver left
// in its directory state. It is false for a zone that is not received, or that was withdrawn.
func Follows(state, origin string) (section, from string, ok bool) {
	rec, ok := (&store{state: state}).record(fileName(origin) + recordSuffix)
	return rec.Owner, rec.From, ok && !rec.Withdrawn
}

// records reads all records whose zones are there, or were withdrawn. One that cannot be read is as good as none: the zone is received anew.
func (s *store) records() ([]record, error) {
	names, err := filepath.Glob(filepath.Join(s.state, "*"+recordSuffix))
	if err != nil {
		return nil, err
	}
	var list []record
	for _, name := range names {
		rec, ok := s.record(filepath.Base(name))
		if !ok {
			continue
		}
		if info, err := os.Stat(s.path(rec.Origin, rec.Catalog)); !rec.Withdrawn && (err != nil || info.Size() != rec.Length) {
			continue
		}
		list = append(list, rec)
	}
	return list, nil
}

// record reads one record.
func (s *store) record(name string) (rec record, ok bool) {
	data, err := depot.ReadFile(s.state, name, maxRecordBytes)
	ok = err == nil && json.Unmarshal(data, &rec) == nil && (rec.Version == recordVersion || rec.Version == stepsVersion) && fileName(rec.Origin)+recordSuffix == name
	return rec, ok
}

// writtenZone is a zone's text that is on disk, under a temporary name.
type writtenZone struct {
	temp, sha256 string
	length       int64
}

func writeZone(dir string, z *zone.Zone) (w writtenZone, err error) {
	f, err := os.CreateTemp(dir, tempPrefix+"*")
	if err != nil {
		return w, depot.WithoutTemp(err)
	}
	sum := sha256.New()
	out := bufio.NewWriterSize(f, 1<<16)
	err = zonefile.Write(io.MultiWriter(out, sum), z)
	err = errors.Join(err, out.Flush(), f.Chmod(0o644), f.Sync())
	if info, statErr := f.Stat(); statErr == nil {
		w.length = info.Size()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
	}
	w.temp, w.sha256 = f.Name(), hex.EncodeToString(sum.Sum(nil))
	return w, depot.WithoutTemp(err)
}

// sameText reports whether a zone's text has a digest.
func sameText(z *zone.Zone, digest string) (bool, error) {
	sum := sha256.New()
	err := zonefile.Write(sum, z)
	return hex.EncodeToString(sum.Sum(nil)) == digest, err
}

func renameDurably(from, to string) error {
	if err := os.Rename(from, to); err != nil {
		os.Remove(from)
		return depot.WithoutTemp(err)
	}
	return syncDir(filepath.Dir(to))
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
