// Package history is the record of how releases went: what each changed, how its zones came, how long each step took, and how
// the members switched. It is no part of a decision. It imports package home of its neighbours; packages releasing and
// switchover write it, and cmd/meshctl prints it.
package history

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/coredns-anycast/coredns-anycast/cmd/meshctl/internal/home"
	"github.com/coredns-anycast/coredns-anycast/internal/depot"
	"github.com/coredns-anycast/coredns-anycast/internal/receive"
	"github.com/coredns-anycast/coredns-anycast/internal/release"
	"github.com/coredns-anycast/coredns-anycast/internal/status"
)

// Record is what is remembered of a release beyond what nodes need: history/NUMBER.json beside the state, for the last
// KeepRecords releases. It is no part of a decision: a host that dies before it is written loses the record only.
type Record struct {
	Number    uint64            `json:"number"`
	Made      time.Time         `json:"made"`
	By        string            `json:"by"` // "meshctl release" or "meshctl serve", and on which machine
	Zones     []ZoneChange      `json:"zones"`
	Withdrawn []string          `json:"withdrawn,omitempty"`
	Held      []Held            `json:"held,omitempty"`
	Override  *release.Override `json:"override,omitempty"`

	// How it went, by this host's clock; what members did is by their own.
	Received  []Receipt `json:"received,omitempty"`
	Began     time.Time `json:"began,omitzero"` // when the zones were taken up
	Published time.Time `json:"published,omitzero"`
	Scheduled time.Time `json:"scheduled,omitzero"` // when the switchover was proposed

	Switchover time.Time `json:"switchover,omitzero"`
	Results    []Result  `json:"results,omitempty"`
	Timing     []Step    `json:"timing,omitempty"`
}

// ZoneChange is what a release changed in a zone.
type ZoneChange struct {
	Origin  string `json:"origin"`
	From    uint32 `json:"from,omitempty"` // serial; 0 for a zone that is new
	To      uint32 `json:"to"`
	Added   int    `json:"added"`   // records
	Removed int    `json:"removed"` // records; one that is changed is removed and added
}

// Held is a zone that is held back.
type Held struct {
	Origin string `json:"origin"`
	Serial uint32 `json:"serial"` // that stays in the release
	Absent bool   `json:"absent"` // there was none: the zone is not in the release

	Withdrawn bool `json:"withdrawn,omitempty"` // it was to go, and more were than the policy allows
}

// Receipt is how a zone of a release came.
type Receipt struct {
	Zone   string      `json:"zone"`
	How    receive.How `json:"how"`
	From   string      `json:"from"`
	Octets int64       `json:"octets"`
	Began  time.Time   `json:"began"` // when the transfer was asked for
	Whole  time.Time   `json:"whole"` // when its last octet had come
	Kept   time.Time   `json:"kept"`  // when it was merged with what was there, and durable
}

// MaxReceipts bounds the receipts that are remembered of a release.
const MaxReceipts = 1000

// Step is how long a step of a release took.
type Step struct {
	Name    string  `json:"step"`
	Seconds float64 `json:"seconds"`
}

// Result is how a member fared at a switchover.
type Result struct {
	Member   string        `json:"member"`
	Switched bool          `json:"switched"`              // it answers from the release
	Lateness time.Duration `json:"lateness_ns,omitempty"` // of its swap after the instant, by its own clock
	Joined   bool          `json:"joined,omitempty"`      // it made no switch at the instant: it took the release later, or had just started
	Why      string        `json:"why,omitempty"`         // it did not
	Mirrored *Span         `json:"mirrored,omitempty"`    // its sidecar got the release
	Compiled *Span         `json:"compiled,omitempty"`    // its server made it ready
}

// Span is when a member did something, by its own clock.
type Span struct {
	Began time.Time `json:"began"`
	Done  time.Time `json:"done"`
	Bytes int64     `json:"bytes,omitempty"` // that came for it
}

// SpanOf is a member's step for a release; nil if it speaks of another, or of none.
func SpanOf(s *status.Step, number uint64) *Span {
	if s == nil || s.Number != number {
		return nil
	}
	return &Span{s.Began.Time(), s.Done.Time(), s.Bytes}
}

// Moment is something that happened on a release's way.
type Moment struct {
	At   time.Time
	What string
}

// Moments are what is known of a release's way, in order, and which of them others are counted from: when the last octet of
// its zones had come or, if it was made of files, when they were taken up.
func (r *Record) Moments() (from time.Time, all []Moment) {
	add := func(at time.Time, format string, args ...any) {
		if !at.IsZero() {
			all = append(all, Moment{at, fmt.Sprintf(format, args...)})
		}
	}
	for _, z := range r.Received {
		add(z.Began, "%s asked for, by %s from %s", z.Zone, z.How, z.From)
		add(z.Whole, "%s has come, %d octets", z.Zone, z.Octets)
		add(z.Kept, "%s is merged and kept", z.Zone)
		if z.Whole.After(from) {
			from = z.Whole
		}
	}
	if from.IsZero() {
		from = r.Began
	}
	add(r.Began, "zones taken up")
	add(r.Published, "published")
	for _, m := range r.Results {
		if m.Mirrored != nil {
			add(m.Mirrored.Began, "%s asks for it", m.Member)
			add(m.Mirrored.Done, "%s has it, %d bytes came", m.Member, m.Mirrored.Bytes)
		}
		if m.Compiled != nil {
			add(m.Compiled.Began, "%s compiles it", m.Member)
			add(m.Compiled.Done, "%s is ready", m.Member)
		}
		if m.Switched {
			if !m.Joined {
				add(r.Switchover.Add(m.Lateness), "%s answers from it", m.Member)
			}
		}
	}
	add(r.Scheduled, "switchover proposed")
	add(r.Switchover, "switchover")
	slices.SortStableFunc(all, func(a, b Moment) int { return a.At.Compare(b.At) })
	return from, all
}

// Missed are the members that did not make the switchover, and why.
func (r *Record) Missed() (all []Result) {
	for _, m := range r.Results {
		if !m.Switched {
			all = append(all, m)
		}
	}
	return all
}

const (
	historyDir     = "history"
	KeepRecords    = 1000
	maxRecordBytes = 64 << 20
	attempts       = 8 // to write a record that other hosts write too
)

func recordName(number uint64) string { return fmt.Sprintf("%s/%020d.json", historyDir, number) }

// Remember writes the record of a release, or what is known of it since.
func Remember(ctx context.Context, w *home.Writer, number uint64, change func(r *Record)) error {
	name := recordName(number)
	for range attempts {
		var r Record
		data, tag, err := w.Records().Read(name, maxRecordBytes)
		fresh := errors.Is(err, fs.ErrNotExist)
		if err == nil {
			err = json.Unmarshal(data, &r)
		}
		if err != nil && !fresh {
			return err
		}
		r.Number = number
		change(&r)
		if data, err = json.Marshal(r); err != nil {
			return err
		}
		if fresh {
			err = w.Records().Create(name, data)
		} else {
			_, err = w.Records().Swap(ctx, name, data, tag)
		}
		if !errors.Is(err, depot.ErrExists) && !errors.Is(err, depot.ErrChanged) {
			return errors.Join(err, forget(w))
		}
	}
	return depot.ErrChanged
}

// forget removes the records that are older than is worth while. Numbers may have leapt (release.Trust), so records are counted.
func forget(w *home.Writer) error {
	entries, err := w.Records().List(historyDir)
	if err != nil {
		return err
	}
	entries = slices.DeleteFunc(entries, func(e depot.Entry) bool { return strings.HasPrefix(e.Name, ".") }) // it is being written
	slices.SortFunc(entries, func(a, b depot.Entry) int { return strings.Compare(a.Name, b.Name) })
	for len(entries) > KeepRecords {
		if err := w.Records().Remove(historyDir + "/" + entries[0].Name); err != nil {
			return err
		}
		entries = entries[1:]
	}
	return nil
}

// Last are the records of the last releases, at most limit of them, the latest first.
func Last(ctx context.Context, h *home.Home, limit int) ([]Record, error) {
	s, err := h.Read(ctx)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	entries, err := s.Records().List(historyDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	slices.SortFunc(entries, func(a, b depot.Entry) int { return strings.Compare(b.Name, a.Name) })
	records := []Record{}
	for _, e := range entries {
		if len(records) == limit {
			break
		}
		if strings.HasPrefix(e.Name, ".") {
			continue // it is being written
		}
		data, _, err := s.Records().Read(historyDir+"/"+e.Name, maxRecordBytes)
		if errors.Is(err, fs.ErrNotExist) {
			continue // one of the oldest, which another host has just removed
		}
		if err != nil {
			return nil, err
		}
		var r Record
		if err := json.Unmarshal(data, &r); err != nil {
			return nil, fmt.Errorf("%s: %w", e.Name, err)
		}
		records = append(records, r)
	}
	return records, nil
}
