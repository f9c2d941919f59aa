// Package release decides what is trusted: the bytes of a repository go in, a trusted manifest comes out, or an *Error
// that names the file, the rule it breaks and what to do next (SYNC-D, SYNC-G, DELIV-3).
//
// It is pure: no disk, network, clock, goroutine or randomness of its own. A repository is an fs.FS, time and random
// bytes are arguments, and what a node must not forget is a value, Memory, that the caller keeps. It is the only package
// that imports a library for The Update Framework (TUF), and its API does not show it. internal/depot stores and
// mirrors what it accepts, plugin/meshsync verifies with it again, and cmd/meshctl makes releases with it.
//
// # Repository
//
//	metadata/1.root.json           which keys speak for the mesh, and where release numbers begin; the root key's word
//	metadata/N.snapshot.json       which targets file is in force; the release key's word
//	metadata/N.targets.json        which manifest is in force; the release key's word
//	metadata/timestamp.json        which snapshot is in force, and until when: the lease; the lease key's word
//	targets/DIGEST.mesh.json       the manifest, see Manifest
//	targets/DIGEST.zones.json      a part of the zones of a release that has many, named by the manifest or by another one, see NodeName
//	blobs/sha256/DIGEST            a zone each, or what makes one of an older one, zstd, named by the SHA-256 of the file
//
// Numbered and content-addressed files never change once they are there. timestamp.json alone is replaced, and last, so
// a reader of a repository that is being written sees the old state or the new one.
//
// # What a stolen key can do
//
// The lease key can lengthen a lease, or let it run out; it cannot name another content: versions that went before
// are refused, and everything above the timestamp needs the release key. The release key can name any content, but no
// node goes back to a lower release number, or takes a number twice with different content, or one that is far above those it has
// seen (MaxStep). Only the root key can replace the others, and say that numbers begin above those that a thief has used
// (Trust.NumbersFrom). The override key says that content goes out which the distribution host's checks refuse (Override);
// nodes do not know it, and it is worth nothing without the release key.
//
// # Expiry
//
// Whether a lease has run out is judged by internal/mesh, which knows how wrong the clock may be. This package says
// when each role ends (View.Expires) and refuses nothing for its age.
package release
