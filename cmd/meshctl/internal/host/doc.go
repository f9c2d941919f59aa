// Package host is the distribution host: it owns the home directory of a mesh and takes each step from zone files to a
// release that the mesh answers from (RFC 3258 2.3 a to e; SYNC-A, B, C, E). cmd/meshctl is its only caller and adds
// the words; the decisions are those of internal/release (what may be published) and internal/mesh (when to switch).
//
//	HOME/keys/{root,release,lease}.pem   private keys, mode 0600, see internal/release
//	HOME/pki/ca.crt, ca.key              the mesh's small certificate authority
//	HOME/pki/host.crt, host.key          this host, as server and as client
//	HOME/members/NAME/                   what a member is given: root.json, ca.crt, node.crt, node.key
//	HOME/repository/                     what members mirror; any web server may serve it
//	HOME/state/memory.json               what was published last (release.Memory)
//	HOME/state/state.json                what was promised: see State
//	HOME/state/journal.json              a publication that is under way; absent otherwise
//	HOME/state/events.jsonl              what was done, one JSON object a line
//
// # Crashes
//
// A publication is decided at one instant, when journal.json is durable. Before, nothing of it can be seen; after, it
// is carried through by whoever opens the home next, in the same order with the same bytes. So a number is never
// used twice, nothing is published twice with different content, and a promise is durable before the lease that makes
// it leaves.
//
// # Writers
//
// One process writes, and holds the lock of HOME/repository while it does; a second one is refused. Reading needs no
// lock (Read).
package host
