package refresh

import (
	"maps"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/instant"
)

// Status is how one zone is.
type Status struct {
	Zone      string    `json:"zone"`
	Source    string    `json:"source"`            // section of the configuration: zones, catalog NAME, directory PATH
	From      string    `json:"from,omitempty"`    // primary or file it came from last
	Serial    *uint32   `json:"serial,omitempty"`  // nil: nothing was received yet
	Records   int       `json:"records,omitempty"` // of the zone
	Checked   time.Time `json:"checked,omitzero"`  // when it was last refreshed
	Contact   time.Time `json:"contact,omitzero"`  // when a primary last confirmed what we have
	Next      time.Time `json:"next,omitzero"`     // when it is refreshed next
	Expires   time.Time `json:"expires,omitzero"`  // when it is too old to be released anew, without contact
	Expired   bool      `json:"expired,omitempty"`
	Receiving bool      `json:"receiving,omitempty"`
	Catalog   bool      `json:"catalog,omitempty"`
	Error     string    `json:"error,omitempty"`   // of the last refresh, which nobody answered
	Warning   string    `json:"warning,omitempty"` // of primaries that failed, while another did not
}

// Status is how each zone is, in order of their names.
func (s *Secondary) Status(now instant.Instant) []Status {
	list := []Status{}
	for _, z := range s.sorted() {
		list = append(list, z.status(now))
	}
	return list
}

// Failing are those of Status whose last refresh failed, or that are expired.
func (s *Secondary) Failing(now instant.Instant) []Status {
	list := []Status{}
	for _, z := range s.sorted() {
		if z.trouble() != "" || z.over(now) {
			list = append(list, z.status(now))
		}
	}
	return list
}

// status is how the zone is.
func (z *followed) status(now instant.Instant) Status {
	st := Status{Zone: z.origin, Source: z.owner, Receiving: z.running, Catalog: z.catalog != nil, Error: z.trouble(),
		Warning: joined(z.warning, z.undelegated), Expired: z.over(now)}
	if z.group != nil {
		st.Checked, st.Next = z.began.Wall.Time(), now.Wall.Add(z.due.Sub(now.Mono)).Time()
	}
	if z.loaded {
		serial := z.rec.Serial
		st.Serial, st.From, st.Records, st.Contact = &serial, z.rec.From, z.rec.Records, z.contact(now)
	}
	if z.loaded && z.group != nil {
		st.Expires = z.expires(now)
	}
	return st
}

// trouble is the error of the last refresh, unless Faults says it.
func (z *followed) trouble() string {
	if z.unkept {
		return ""
	}
	return z.err
}

// over reports whether the zone is too old to be released anew.
func (z *followed) over(now instant.Instant) bool {
	return z.loaded && z.group != nil && z.left(now) <= 0
}

// Faults is what is wrong with sources, beside what Status says of single zones.
func (s *Secondary) Faults() map[Fault]string {
	all := maps.Clone(s.faults)
	maps.Copy(all, s.lost)
	return all
}
