package receive

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/refresh"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// A journal is what became of a large zone since its text was written, so that a small change need not write the whole text. It is a
// file of steps, each of them
//
//	4 octets   length of the payload, big endian
//	32 octets  SHA-256 of the link before and the payload: the link of this step
//	payload    the record after it, as a line of JSON; 4 octets, the length of what is taken out; that, and what is put in (zone.RRs)
//
// The first link before is that of the text: its digest, and a random name that is new with each text. So a step counts only after those
// that were before it when it was written, and none after another text. A step is durable before anybody is told of it; what a crash
// leaves of one that is not whole ends the journal.

const (
	journalSuffix = ".journal"
	stepHead      = 4 + sha256.Size

	// maxSteps, journalShare and maxJournal bound a journal: in steps, as a part of the text, and in octets. When it is half of that the
	// text is written anew beside, and the journal cut; when it would be more, at once.
	maxSteps     = 1000
	journalShare = 8
	maxJournal   = 64 << 20
)

func (s *store) journal(origin string) string {
	return filepath.Join(s.state, fileName(origin)+journalSuffix)
}

// newJournal is a journal without a step, for a text that is about to be written.
func newJournal() refresh.Journal { return refresh.Journal{Name: rand.Text()} }

// link is what the next step of a record's journal links to.
func link(rec *record) []byte {
	if rec.Journal.Steps == 0 {
		sum := sha256.Sum256([]byte(rec.SHA256 + " " + rec.Journal.Name))
		return sum[:]
	}
	before, _ := hex.DecodeString(rec.Journal.Link) // what is no digest links to nothing
	return before
}

// maxOctets bounds the journal of a record.
func maxOctets(rec *record) int64 { return min(rec.Length/journalShare, maxJournal) }

// roomFor reports whether a step may be added to a record's journal, rather than that the text is written.
func roomFor(rec *record, d *zone.Delta) bool {
	octets := rec.Journal.Octets + stepHead + maxRecordBytes + int64(d.Size())
	return rec.Journal.Name != "" && rec.Journal.Steps < maxSteps && octets <= maxOctets(rec)
}

// isLong reports whether a record's journal is so long that it is time to write the text beside.
func isLong(rec *record) bool {
	return rec.Journal.Steps >= maxSteps/2 || rec.Journal.Octets > (maxOctets(rec)-maxRecordBytes)/2
}

// add makes a step durable: rec was held before it, and comes to be what is held.
func (s *store) add(rec *record, z *zone.Zone, d *zone.Delta) error {
	if err := s.settle(*rec); err != nil {
		return err
	}
	next := *rec
	timers(&next, z)
	step, next, err := stepTo(rec, next, d)
	if err == nil {
		err = s.writeStep(rec, step)
	}
	if err == nil {
		*rec = next
	}
	return err
}

// stepTo is the step that leads from a record to the next one by a difference, and that record as it is then.
func stepTo(rec *record, next record, d *zone.Delta) ([]byte, record, error) {
	next.SHA256, next.Length = rec.SHA256, rec.Length
	next.Journal = refresh.Journal{Name: rec.Journal.Name, Steps: rec.Journal.Steps + 1}
	line, err := json.Marshal(next)
	if err != nil {
		return nil, next, err
	}
	payload := binary.BigEndian.AppendUint32(append(line, '\n'), uint32(len(d.Removed)))
	payload = append(append(payload, d.Removed...), d.Added...)
	step := packStep(rec, payload)
	next.Journal.Link, next.Journal.Octets = hex.EncodeToString(step[4:stepHead]), rec.Journal.Octets+int64(len(step))
	return step, next, nil
}

// rebase lets a text that is written take the place of the one that a record's journal begins with. The text is what was held after
// one of the steps, when the record was at; those after it become the journal. When it fails, all is as it was.
func (s *store) rebase(rec *record, at record, text writtenZone) error {
	defer os.Remove(text.temp) // unless it was moved
	if err := s.settle(*rec); err != nil {
		return err
	}
	rest, err := s.readJournal(rec.Origin)
	if err != nil {
		return err
	}
	is := at
	is.SHA256, is.Length, is.Journal = text.sha256, text.length, newJournal()
	var steps []byte
	rest = rest[min(at.Journal.Octets, int64(len(rest))):]
	for at.Journal != rec.Journal {
		next, d, err := nextStep(at, rest)
		if err != nil {
			return fmt.Errorf("%s: step %d: %w", s.journal(rec.Origin), at.Journal.Steps+1, err)
		}
		rest = rest[next.Journal.Octets-at.Journal.Octets:]
		step, after, err := stepTo(&is, next, d)
		if err != nil {
			return err
		}
		steps, is, at = append(steps, step...), after, next
	}
	next := *rec
	next.SHA256, next.Length, next.Journal = is.SHA256, is.Length, is.Journal
	if err = s.replace(next, text.temp, steps); err == nil {
		*rec = next
	}
	return err
}

// packStep is the step after a record that has a payload.
func packStep(rec *record, payload []byte) []byte {
	sum := sha256.Sum256(append(link(rec), payload...))
	step := append(binary.BigEndian.AppendUint32(make([]byte, 0, stepHead+len(payload)), uint32(len(payload))), sum[:]...)
	return append(step, payload...)
}

// writeStep writes a step behind those that are in a record's journal, whatever is there of others.
func (s *store) writeStep(rec *record, step []byte) error {
	storeStep()
	f, err := os.OpenFile(s.journal(rec.Origin), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	err = f.Truncate(rec.Journal.Octets)
	if err == nil {
		storeStep()
		_, err = f.WriteAt(step, rec.Journal.Octets)
	}
	storeStep()
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if rec.Journal.Steps > 0 {
		return nil
	}
	return syncDir(s.state)
}

// errStep says that there is no further step.
var errStep = errors.New("no further step")

// nextStep takes the step apart that comes next after a record, and says what the record is then.
func nextStep(rec record, rest []byte) (next record, d *zone.Delta, err error) {
	if len(rest) < stepHead {
		return rec, nil, errStep
	}
	length := int64(binary.BigEndian.Uint32(rest))
	if length > int64(len(rest)-stepHead) {
		return rec, nil, errStep
	}
	payload := rest[stepHead : stepHead+length]
	if sum := sha256.Sum256(append(link(&rec), payload...)); string(sum[:]) != string(rest[4:stepHead]) {
		return rec, nil, errStep
	}
	end := 0
	for end < len(payload) && payload[end] != '\n' {
		end++
	}
	if json.Unmarshal(payload[:end], &next) != nil || len(payload) < end+5 {
		return rec, nil, errStep
	}
	records := payload[end+5:]
	removed := int64(binary.BigEndian.Uint32(payload[end+1:]))
	if removed > int64(len(records)) || next.Origin != rec.Origin || next.Journal.Name != rec.Journal.Name || next.Journal.Steps != rec.Journal.Steps+1 {
		return rec, nil, errStep
	}
	next.Journal.Link, next.Journal.Octets = hex.EncodeToString(rest[4:stepHead]), rec.Journal.Octets+stepHead+length
	return next, &zone.Delta{From: rec.Serial, To: next.Serial, Removed: records[:removed], Added: records[removed:]}, nil
}

// readJournal is what is in a record's journal.
func (s *store) readJournal(origin string) ([]byte, error) {
	data, err := depot.ReadFile(s.state, fileName(origin)+journalSuffix, maxJournal)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return data, err
}

// follow makes a zone as its text has it, which rec tells of, what it is after the steps of the journal, up to the last one that counts
// but no further than one, if that is not 0. What cannot be read of the journal is as good as not there.
func (s *store) follow(rec record, z *zone.Zone, steps int) (record, *zone.Zone, error) {
	rest, err := s.readJournal(rec.Origin)
	if err != nil {
		return rec, z, err
	}
	rec.Journal, rec.Serial = refresh.Journal{Name: rec.Journal.Name}, z.Serial()
	for steps == 0 || rec.Journal.Steps < steps {
		next, d, err := nextStep(rec, rest)
		if err != nil {
			break
		}
		made, found := z.Apply(d)
		if made == nil {
			return rec, nil, fmt.Errorf("step %d of %s: %v", next.Journal.Steps, s.journal(rec.Origin), found[0])
		}
		rest = rest[next.Journal.Octets-rec.Journal.Octets:]
		rec, z = next, made
	}
	return rec, z, nil
}

// removeAll removes files, of which some may not be there.
func removeAll(paths ...string) (err error) {
	for _, path := range paths {
		storeStep()
		if e := os.Remove(path); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}
