package refresh

import "time"

// How says how a zone came.
type How string

const (
	AXFR      How = "axfr"
	IXFR      How = "ixfr"
	File      How = "file"
	Kept      How = "kept"      // it was received before this start
	Withdrawn How = "withdrawn" // its source has it no more
)

// Record is what is known of a zone that was received, and must outlive a restart. Times are wall time.
type Record struct {
	Version int       `json:"version"`
	Origin  string    `json:"zone"`
	Owner   string    `json:"source"` // the section of the configuration that it came by
	Unique  string    `json:"member,omitempty"`
	From    string    `json:"from"` // primary or file
	How     How       `json:"how"`
	Serial  uint32    `json:"serial"`
	Records int       `json:"records"`
	SHA256  string    `json:"sha256"`         // of the canonical text that is on disk
	Length  int64     `json:"length"`         // of that text, in octets
	Root    string    `json:"root,omitempty"` // of the zone that is held (zone.Zone.Root), in hexadecimal; "": a version before wrote this
	Refresh uint32    `json:"refresh_seconds"`
	Retry   uint32    `json:"retry_seconds"`
	Expire  uint32    `json:"expire_seconds"`
	Contact time.Time `json:"contact"` // when a primary last confirmed it, or the file was read
	Catalog bool      `json:"catalog,omitempty"`

	Journal Journal `json:"journal,omitzero"` // steps that lead from that text to what is held

	Withdrawn bool `json:"withdrawn,omitempty"` // it is followed no more, and there is no text; to be told until it is forgotten
}

// Journal is how far a zone is from its text: the steps that are in a file beside it.
type Journal struct {
	Name   string `json:"name"`             // another one for each text
	Steps  int    `json:"steps,omitempty"`  // 0: the text is what is held
	Octets int64  `json:"octets,omitempty"` // of them
	Link   string `json:"link,omitempty"`   // digest of the last one and all before, in hexadecimal
}

// expire is how long a zone may go without a primary that confirms it (RFC 1035 3.3.13).
func (r *Record) expire() time.Duration { return time.Duration(r.Expire) * time.Second }
