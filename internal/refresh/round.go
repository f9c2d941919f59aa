package refresh

import (
	"errors"
	"fmt"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// Forward refuses a serial that is neither that of what is held nor above it; nothing may be held.
func Forward(held *Record, serial uint32) error {
	if held == nil || serial == held.Serial || zone.Newer(serial, held.Serial) {
		return nil
	}
	return fmt.Errorf("serial %d is not above %d, which we hold (RFC 1982): not taken", serial, held.Serial)
}

// Ask is what a round is to do next.
type Ask int

const (
	Nothing Ask = iota // it is over
	ForSOA             // ask the server for the SOA
	ForZone            // transfer the zone from it
)

// Round is one refresh of a zone: its primaries are asked in order, until one has something newer. Whoever carries it out does what
// Next says and tells what came of it, until that is Nothing. A Round shares nothing with the Secondary that gave it out.
type Round struct {
	Record Record    // of the zone; of what is held only if Held
	Held   bool      // there is something
	Group  *Group    // whom to ask
	Noted  time.Time // Record.Contact as it is on disk
	Reset  bool      // what comes begins the zone anew

	server   int // that is being asked
	transfer bool
	good     bool // one has what is held, or something newer
	over     bool
	unkept   bool // what came cannot be written
	problems []error
}

// Next is whom of the group to ask, and for what.
func (r *Round) Next() (server int, ask Ask) {
	switch {
	case r.over || r.server >= len(r.Group.Servers):
		return 0, Nothing
	case r.transfer:
		return r.server, ForZone
	}
	return r.server, ForSOA
}

// held is what is held, nil if nothing is.
func (r *Round) held() *Record {
	if !r.Held {
		return nil
	}
	return &r.Record
}

// SOA says which serial the server has.
func (r *Round) SOA(serial uint32) {
	switch err := Forward(r.held(), serial); {
	case err != nil:
		r.Failed(err)
	case r.Held && serial == r.Record.Serial:
		r.Same()
	default:
		r.transfer = true
	}
}

// Came says that a whole zone came, and its serial. It is to be kept if take; then Took or NotKept follows.
func (r *Round) Came(serial uint32) (take bool) {
	switch err := Forward(r.held(), serial); {
	case err != nil:
		r.Failed(err)
	case r.Held && serial == r.Record.Serial:
		r.Same()
	default:
		return true
	}
	return false
}

// Same says that the server has nothing newer, and goes on to the next one: that may be ahead.
func (r *Round) Same() { r.good, r.transfer, r.server = true, false, r.server+1 }

// Failed says that nothing came of the last question, and goes on to the next server.
func (r *Round) Failed(err error) {
	r.problems = append(r.problems, fmt.Errorf("%s: %w", r.Group.Servers[r.server], err))
	r.transfer, r.server = false, r.server+1
}

// Took ends the round: what came is kept.
func (r *Round) Took() { r.good, r.over = true, true }

// NotKept ends the round: what came cannot be written.
func (r *Round) NotKept(err error) {
	r.problems = append(r.problems, err)
	r.good, r.over, r.unkept = false, true, true
}

// NotNoted says that it cannot be written down that the zone was confirmed, which costs a warning.
func (r *Round) NotNoted(err error) { r.problems = append(r.problems, err) }

// Good reports whether a primary has what is held now.
func (r *Round) Good() bool { return r.good }

// Problems is what went wrong, "" if nothing did.
func (r *Round) Problems() string {
	if err := errors.Join(r.problems...); err != nil {
		return err.Error()
	}
	return ""
}

// Stale reports whether that the zone was confirmed at a time is to be written down: what is on disk is so old that the zone would
// expire too early for it after a restart. A write for each confirmation is too much for many zones.
func (r *Round) Stale(contact time.Time) bool { return contact.Sub(r.Noted) >= r.Record.expire()/32 }
