// Package receive takes zones in (RFC 3258 2.3 a, SYNC-A): from directories of zone files, from primaries by AXFR and
// IXFR over TCP or TLS, asked by the SOA's timers and on NOTIFY, and from those that catalog zones list (RFC 9432).
//
// Whom to ask for what, and what becomes of what came, internal/refresh decides: here are the loop, the tasks, the files and the sockets
// around that. What it received it keeps as canonical text, so that it goes on after a restart where it was; whoever runs a Receiver is
// told of each zone that has new content. It judges whether a zone came whole and can be served; whether it should be
// is for whoever is told. A source that fails costs nothing that is there: the last good zone stays.
//
//	ZONES/NAME.zone   a zone's canonical text
//	STATE/NAME.journal what became of a large zone since its text was written
//	STATE/NAME.json   where it came from, its digest, when it was last confirmed; or that it was withdrawn
//	STATE/NAME.zone   a catalog zone
//	STATE/orders/     orders of operators, and what became of them
//
// It may import packages of internal that transfer, read, write and hold zones. cmd/meshctl calls it.
package receive

import (
	"log/slog"
	"time"

	"github.com/coredns-anycast/coredns-anycast/internal/refresh"
	"github.com/coredns-anycast/coredns-anycast/internal/zone"
)

// How says how a zone came, and Status how it is; Fault is something wrong with a source. See package refresh.
type (
	How    = refresh.How
	Status = refresh.Status
	Fault  = refresh.Fault
)

// How a zone came. That one was withdrawn is told until it is forgotten: see Receiver.Forget. The other members of its Update are as it last
// was.
const (
	AXFR      = refresh.AXFR
	IXFR      = refresh.IXFR
	File      = refresh.File
	Kept      = refresh.Kept
	Withdrawn = refresh.Withdrawn
)

// Update says that a zone has new content, or that a Receiver that starts has it. That one was withdrawn is told at each
// start until Receiver.Forget, since a release may have it for as long.
type Update struct {
	Origin  string // fully qualified, lower case
	Serial  uint32
	How     How
	Source  string // address of the primary, or the file
	Path    string // the canonical text
	SHA256  string // of that text, in hexadecimal; "": the text is not written yet, what is there is an older one. Zone is what came
	Length  int64  // of that text, in octets; 0 without SHA256
	Root    string // of the zone (zone.Zone.Root), in hexadecimal; "": not known
	Records int
	Reset   bool // the zone began anew: its serial says nothing about the one before (RFC 9432 5.4)

	Octets   int64         // that were transferred or read
	Began    time.Time     // when the transfer was asked for; of a file, as Whole
	Whole    time.Time     // when its last octet had come; of a file, when it was seen to be whole and read
	Duration time.Duration // from the first question to durable

	Zone *zone.Zone // nil if it is Kept or Withdrawn
}

// Options are what a Receiver needs of the process around it.
type Options struct {
	Zones, State string           // directories; made if they are not there
	Updated      func(Update)     // called by one goroutine, one call after the other; it must not wait for long
	Log          *slog.Logger     // nil: none
	Now          func() time.Time // wall time; nil: that of the system
}
