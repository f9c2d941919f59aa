// Package home is the home directory of a mesh on a distribution host: what is published, what the hosts must not forget, and
// how a publication is decided and carried through, so that it survives a crash and hosts that take turns (RFC 3258 2.3 c;
// SYNC-C). What may be published is decided by internal/release, and what a publication must keep so that the mesh stays
// safe by mesh.Host, which mesh.go tells what is in force.
//
// It may import packages keys and hint of its neighbours, and the other packages beside it call it: history (how releases
// went), enrol (who is in the mesh), releasing (from zone files to a release), switchover (when the mesh moves to it), and
// unattended (all of it, by itself). cmd/meshctl has the words.
//
//	HOME/keys/{root,release,lease}.pem   private keys, mode 0600, see package keys
//	HOME/keys/override.pem, .pub         a second person's key, who takes the private half away; this host needs the public one
//	HOME/meshctl.yaml                    the configuration: sources, checks; may be absent
//	HOME/override-request.json           what a second person may sign for the last release that was blocked
//	HOME/pki/ca.crt, ca.key              the mesh's small certificate authority
//	HOME/pki/host.crt, host.key          this host, as server and as client
//	HOME/pki/cookies.key                 the seed of all members' DNS Cookies
//	HOME/members/NAME/                   what a member is given: root.json, ca.crt, node.crt, node.key, cookies.key
//	HOME/repository/                     what members mirror; any web server may serve it
//	HOME/state/state.json                what was published, and must not be forgotten: see State
//
// HOME/repository may be a file instead, with the URL of a bucket in it. What members mirror and state/state.json are in the
// bucket then, and any number of hosts have a copy of the rest.
//
// # Crashes, and hosts that take turns
//
// A publication is decided at one instant, when state.json is replaced: it names the leases that may be alive and holds, whole,
// what the repository is to hold. Before, nothing of it can be seen; after, it is carried through by whoever looks next, in the
// same order with the same bytes. So a number is never used twice, nothing is published twice with different content, and
// a lease is on record before it leaves.
//
// Whoever replaces state.json does so on condition that it is the one that was read (depot.Store.Swap). Of several hosts one
// wins; the others read again, and decide anew on what is in force then (Home.Write). No host waits for another, and no clock
// says whose turn it is. A host that was stopped for long, and goes on, can do no harm: its decision is refused, numbered
// files are written once, and the timestamp is replaced on condition as well, only by a later one.
//
// In a directory the condition is kept by its lock: one process writes, and a second one is refused after two seconds.
// Reading needs no lock (Home.View).
package home
