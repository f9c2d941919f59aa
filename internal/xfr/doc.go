// Package xfr is the client of zone transfer, and what it is built of: SOA queries, AXFR (RFC 5936) and IXFR (RFC 1995) over TCP or TLS
// (RFC 9103), signed with TSIG (RFC 8945), and NOTIFY as one who is told takes it (RFC 1996).
//
//	Client.SOA        what serial a primary has
//	Client.Transfer   the zone, whole or made of differences and of what there is
//	NotifyTaker       the response to a NOTIFY, and who is told of it
//
// It takes what a stranger sends: all of it is bounded by Limits, and a zone comes out that is whole and can be served, or an error.
// When to ask whom, and what becomes of a zone, is not its business. It keeps nothing, and reads no files but those of keys and
// certificates. It may import packages that hold zones and RDATA. internal/receive calls it.
package xfr
