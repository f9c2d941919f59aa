package receive

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
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
// outlive a restart, NAME.json, and what became of a large one since its text was written, NAME.journal. What takes their place is durable
// beside them, with another name, before the record that tells of it: so whenever a crash comes, all is there that a record tells of, see settle.
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
	nextPrefix     = ".next-" // of a text or journal that is to take its place
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

// sweep removes what a killed writer left under names that begin so. Nobody else may be writing.
func (s *store) sweep(prefix string) error {
	for _, dir := range []string{s.zones, s.state} {
		left, _ := filepath.Glob(filepath.Join(dir, prefix+"*"))
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
	written, err := writeZone(context.Background(), filepath.Dir(s.path(rec.Origin, rec.Catalog)), z)
	if err != nil {
		return false, err
	}
	rec.SHA256, rec.Length = written.sha256, written.length
	if changed = rec.SHA256 != before; changed {
		return true, s.replace(*rec, written.temp, nil)
	}
	if err = errors.Join(os.Remove(written.temp), s.note(*rec)); err == nil && journaled {
		err = removeAll(s.journal(rec.Origin))
	}
	return false, err
}

// nextTo is where what is to take the place of a file waits for the record.
func nextTo(path string) string {
	return filepath.Join(filepath.Dir(path), nextPrefix+filepath.Base(path))
}

// replace lets a text that is written, and the steps after it, take the place of those that were there, with the record that tells of them.
// As soon as that is durable they are what is held; what is left to be done then is also done by settle.
func (s *store) replace(rec record, text string, steps []byte) error {
	path, journal := s.path(rec.Origin, rec.Catalog), s.journal(rec.Origin)
	storeStep()
	if err := renameDurably(text, nextTo(path)); err != nil {
		return err
	}
	storeStep()
	if len(steps) > 0 {
		if err := depot.WriteFile(s.state, filepath.Base(nextTo(journal)), steps, 0o644); err != nil {
			return err
		}
	}
	was, had := s.record(fileName(rec.Origin) + recordSuffix)
	storeStep()
	if err := s.note(rec); err != nil {
		if had {
			err = errors.Join(err, s.note(was)) // the new one may be there though it failed
		}
		return err
	}
	storeStep()
	if os.Rename(nextTo(path), path) != nil {
		return nil // see settle
	}
	storeStep()
	if len(steps) > 0 {
		_ = os.Rename(nextTo(journal), journal)
	} else {
		_ = removeAll(journal) // it counts for nothing any more
	}
	return nil
}

// settle ends what was begun when a record was replaced: what it tells of takes its place, and what came of a record that was not written
// is removed. Nobody else may write the zone meanwhile: what is about to be on record would be removed.
func (s *store) settle(rec record) error {
	path, journal := s.path(rec.Origin, rec.Catalog), s.journal(rec.Origin)
	if _, err := os.Lstat(nextTo(path)); err == nil {
		sum, err := sumOf(nextTo(path))
		if err == nil && sum == rec.SHA256 {
			err = renameDurably(nextTo(path), path)
		} else if err == nil {
			err = removeAll(nextTo(path))
		}
		if err != nil {
			return err
		}
	}
	if _, err := os.Lstat(nextTo(journal)); err != nil {
		return nil
	}
	steps, err := depot.ReadFile(s.state, filepath.Base(nextTo(journal)), maxJournal)
	if err != nil {
		return err
	}
	text := rec
	text.Journal = refresh.Journal{Name: rec.Journal.Name}
	if _, _, err := nextStep(text, steps); err != nil {
		return removeAll(nextTo(journal))
	}
	return renameDurably(nextTo(journal), journal)
}

// sumOf is the digest of a file, in hexadecimal.
func sumOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	_, err = io.Copy(sum, f)
	return hex.EncodeToString(sum.Sum(nil)), err
}

// storeStep is called before each system call that changes what is stored. A test ends the process in it; otherwise it does nothing.
var storeStep = func() {}

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
	path, journal := s.path(rec.Origin, rec.Catalog), s.journal(rec.Origin)
	return errors.Join(removeAll(path, nextTo(path), journal, nextTo(journal)), syncDir(filepath.Dir(path)))
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
	text, journal := s.path(rec.Origin, rec.Catalog), s.journal(rec.Origin)
	for _, path := range []string{filepath.Join(s.state, fileName(rec.Origin)+recordSuffix), text, nextTo(text), journal, nextTo(journal)} {
		if err := removeAll(path); err != nil {
			return err
		}
		if err := syncDir(filepath.Dir(path)); err != nil {
			return err
		}
	}
	return nil
}

// load ends what was begun when the record was replaced, and reads the zone back, if it is what the record says. It is for whoever alone
// writes the zone: its round, and a start.
func (s *store) load(rec record) (*zone.Zone, error) {
	if err := s.settle(rec); err != nil {
		return nil, err
	}
	return s.read(rec)
}

// read reads a zone back, if it is what the record says, and leaves everything as it is. While a round of the zone writes something newer
// it may fail.
func (s *store) read(rec record) (*zone.Zone, error) {
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

// records reads all records whose zones are there, or were withdrawn, and ends what was begun when the process before ended. A record that cannot
// be read is as good as none: the zone is received anew.
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
		if !rec.Withdrawn {
			if err := s.settle(rec); err != nil {
				return nil, err
			}
			if info, err := os.Stat(s.path(rec.Origin, rec.Catalog)); err != nil || info.Size() != rec.Length {
				continue
			}
		}
		list = append(list, rec)
	}
	return list, s.sweep(nextPrefix) // what no record tells of
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

// writeZone writes a zone's text until ctx ends.
func writeZone(ctx context.Context, dir string, z *zone.Zone) (w writtenZone, err error) {
	storeStep()
	f, err := os.CreateTemp(dir, tempPrefix+"*")
	if err != nil {
		return w, depot.WithoutTemp(err)
	}
	sum := sha256.New()
	err = zonefile.Write(io.MultiWriter(&until{ctx, f}, sum), z)
	err = errors.Join(err, f.Chmod(0o644), f.Sync())
	if info, statErr := f.Stat(); statErr == nil {
		w.length = info.Size()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(f.Name())
	}
	w.temp, w.sha256 = f.Name(), hex.EncodeToString(sum.Sum(nil))
	return w, depot.WithoutTemp(err)
}

// until writes until ctx ends.
type until struct {
	ctx context.Context
	io.Writer
}

func (u *until) Write(b []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.Writer.Write(b)
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
