// Package refresh decides for a secondary server of many zones (RFC 1034 4.3.5) when it asks which primary for what, which zone that
// came it keeps, and which it withdraws or says is expired (SYNC-A).
//
//	what is on disk   ─► New, Listed, Begin ─┐
//	a round ended     ─► Finished            ├─► Secondary ─► Decide ─► begin rounds, tell, withdraw, …; when to ask again
//	NOTIFY            ─► Notified            │
//	directories       ─► Claim, Filed, Scanned ─┤
//	an operator       ─► Ordered               ─┘
//
// It is pure: facts come in with the time at which they were seen, and actions go out, in the order in which they are to be carried
// out. It may import instant and zone, and no network, disk, clock, lock, log or goroutine. internal/receive calls it, holding one
// lock, and is all that is around it: transfers, files, sockets, the loop.
//
// # When a zone is asked for
//
// A round asks the primaries of a zone's group in order, each for its SOA, until one has a serial that is above what is held
// (RFC 1982), and takes the zone from that. One that fails costs a warning, and the next one is asked. After a good round the SOA's
// refresh is waited for, after a bad one its retry, doubled each time up to refresh; each within the bounds of the configuration, and
// up to an eighth less, so that zones do not come due together. NOTIFY begins a round at once, or one more where one is under way,
// and at most one a second.
//
// # What is never done
//
//   - A serial that is not above what is held is not taken, unless the zone begins anew: by an operator's word, or because its
//     catalog has it under another label (RFC 9432 5.4).
//   - A source that fails, or that lost much at once, withdraws nothing (FAIL-4): not a catalog that is broken, nor a directory
//     that cannot be read, nor one that lost more of its zones than the limit, or all, nor a source that is not configured any more. An operator may order that zones go which are
//     gone; one that is there again when its source is looked at after that stays, and so do others that are gone.
//   - A zone that expired is said to be, and stays: a release is not undone because a primary is away. How long no primary has
//     confirmed it is measured by the clock that does not step, except over a restart.
//   - One group whose primaries hang keeps the zones of others from being asked for.
package refresh
